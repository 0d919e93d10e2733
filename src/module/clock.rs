//! The host's wall clock in its own time zone, without the C library: statically linked programs on
//! foreign hosts can't count on it, and facts and `start`/`end` of commands are told in local time.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::system::System;

/// A point in time as a calendar and a clock on the wall show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Year of the common era.
    pub year: i64,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// 0 to 59.
    pub second: u32,
    /// 0 to 999999.
    pub micro: u32,
    /// 0 is Sunday.
    pub weekday: u32,
    /// Day of the year from 0.
    pub yearday: u32,
}

impl Moment {
    /// The moment that is `seconds` after 1970-01-01 00:00.
    pub fn from_seconds(seconds: i64, micro: u32) -> Moment {
        let days = seconds.div_euclid(86_400);
        let rest = seconds.rem_euclid(86_400);
        let (year, month, day) = civil_from_days(days);
        let small = |number: i64| u32::try_from(number).unwrap_or(0);
        Moment {
            year,
            month,
            day,
            hour: small(rest / 3600),
            minute: small(rest / 60 % 60),
            second: small(rest % 60),
            micro,
            weekday: small((days + 4).rem_euclid(7)),
            yearday: small(days - days_from_civil(year, 1, 1)),
        }
    }

    /// As Python prints it: `2026-11-21 10:35:12.826467`, without microseconds if there are none.
    pub fn python(&self) -> String {
        let Moment { year, month, day, hour, minute, second, .. } = self;
        let mut text = format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}");
        if self.micro != 0 {
            text.push_str(&format!(".{:06}", self.micro));
        }
        text
    }

    /// Number of the week by ISO 8601 is not needed; this is `%W`: weeks of the year that begin on Monday.
    pub fn week_number(&self) -> u32 {
        (self.yearday + 7 - (self.weekday + 6) % 7) / 7
    }

    /// English name of the day.
    pub fn weekday_name(&self) -> &'static str {
        const NAMES: [&str; 7] =
            ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
        NAMES[self.weekday as usize % 7]
    }
}

/// A time span as Python prints it: `0:00:01.002003`, `1 day, 0:00:00`.
pub fn python_span(span: Duration) -> String {
    let total = span.as_secs();
    let (days, rest) = (total / 86_400, total % 86_400);
    let mut text = match days {
        0 => String::new(),
        1 => "1 day, ".to_string(),
        _ => format!("{days} days, "),
    };
    text.push_str(&format!("{}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60));
    if span.subsec_micros() != 0 {
        text.push_str(&format!(".{:06}", span.subsec_micros()));
    }
    text
}

/// Seconds and microseconds since the epoch.
pub fn since_epoch(time: SystemTime) -> (i64, u32) {
    let span = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(span.as_secs()).unwrap_or(i64::MAX), span.subsec_micros())
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, u32::try_from(month).unwrap_or(1), u32::try_from(day).unwrap_or(1))
}

/// What a time zone says of one point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offset {
    /// Seconds east of UTC.
    pub seconds: i64,
    /// Daylight saving time is in force.
    pub daylight: bool,
    /// Abbreviation, such as `CET`.
    pub name: String,
}

impl Offset {
    fn utc() -> Offset {
        Offset { seconds: 0, daylight: false, name: "UTC".into() }
    }
}

/// A time zone: transitions that are known, and the rule for what comes after them.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    transitions: Vec<(i64, usize)>,
    kinds: Vec<Offset>,
    rule: Option<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    standard: Offset,
    daylight: Option<(Offset, Turn, Turn)>,
}

/// When a rule's daylight time begins or ends in a year.
#[derive(Clone, Copy, Debug)]
struct Turn {
    day: TurnDay,
    /// Seconds after local midnight.
    time: i64,
}

#[derive(Clone, Copy, Debug)]
enum TurnDay {
    /// Month, week (5 is the last), weekday.
    Weekday(i64, i64, i64),
    /// Day 1 to 365, February 29 is never counted.
    Julian(i64),
    /// Day 0 to 365.
    Zero(i64),
}

impl Zone {
    /// The zone of a machine: `TZ` of the environment, else `/etc/localtime`, else UTC.
    pub fn of(system: &mut dyn System) -> Zone {
        if let Some(text) = system.env("TZ").filter(|text| !text.is_empty()) {
            let name = text.trim_start_matches(':');
            let path = if name.starts_with('/') {
                PathBuf::from(name)
            } else {
                Path::new("/usr/share/zoneinfo").join(name)
            };
            if let Some(zone) = system.read(&path).ok().and_then(|bytes| Zone::parse(&bytes)) {
                return zone;
            }
            return Rule::parse(name)
                .map(|rule| Zone { rule: Some(rule), ..Zone::default() })
                .unwrap_or_default();
        }
        system
            .read(Path::new("/etc/localtime"))
            .ok()
            .and_then(|bytes| Zone::parse(&bytes))
            .unwrap_or_default()
    }

    /// Reads the content of a zone file (RFC 8536). `None` if it is not one.
    pub fn parse(bytes: &[u8]) -> Option<Zone> {
        let first = Header::parse(bytes, 0)?;
        if first.version < b'2' {
            return first.zone(bytes, 44, 4).map(|(zone, _)| zone);
        }
        let start = 44 + first.length(4);
        let second = Header::parse(bytes, start)?;
        let (mut zone, end) = second.zone(bytes, start + 44, 8)?;
        let footer = String::from_utf8_lossy(bytes.get(end..)?).into_owned();
        zone.rule = Rule::parse(footer.trim_matches('\n'));
        Some(zone)
    }

    /// What holds at `epoch` seconds.
    pub fn at(&self, epoch: i64) -> Offset {
        let after = self.transitions.partition_point(|(time, _)| *time <= epoch);
        if after == self.transitions.len()
            && let Some(rule) = &self.rule
        {
            return rule.at(epoch);
        }
        let kind = if after == 0 {
            self.kinds.iter().find(|kind| !kind.daylight).or(self.kinds.first())
        } else {
            self.kinds.get(self.transitions[after - 1].1)
        };
        kind.cloned().unwrap_or_else(Offset::utc)
    }

    /// What the clock on the wall shows at `time`.
    pub fn local(&self, time: SystemTime) -> Moment {
        let (epoch, micro) = since_epoch(time);
        Moment::from_seconds(epoch + self.at(epoch).seconds, micro)
    }

    /// Name of standard and of daylight time that is in use around `epoch`; twice the same without the latter.
    pub fn names(&self, epoch: i64) -> (String, String) {
        let now = self.at(epoch);
        // Half a year away in either direction is where the other one would hold.
        let other = [epoch + 15_768_000, epoch - 15_768_000]
            .into_iter()
            .map(|time| self.at(time))
            .find(|offset| offset.daylight != now.daylight)
            .unwrap_or_else(|| now.clone());
        if now.daylight { (other.name, now.name) } else { (now.name, other.name) }
    }
}

struct Header {
    version: u8,
    is_ut: usize,
    is_std: usize,
    leaps: usize,
    times: usize,
    kinds: usize,
    characters: usize,
}

impl Header {
    fn parse(bytes: &[u8], at: usize) -> Option<Header> {
        let head = bytes.get(at..at + 44)?;
        if &head[..4] != b"TZif" {
            return None;
        }
        let count = |index: usize| usize::try_from(integer(&head[20 + index * 4..24 + index * 4])).ok();
        Some(Header {
            version: head[4],
            is_ut: count(0)?,
            is_std: count(1)?,
            leaps: count(2)?,
            times: count(3)?,
            kinds: count(4)?,
            characters: count(5)?,
        })
    }

    fn length(&self, width: usize) -> usize {
        self.times * (width + 1)
            + self.kinds * 6
            + self.characters
            + self.leaps * (width + 4)
            + self.is_std
            + self.is_ut
    }

    fn zone(&self, bytes: &[u8], at: usize, width: usize) -> Option<(Zone, usize)> {
        let end = at + self.length(width);
        let body = bytes.get(at..end)?;
        let (times, rest) = body.split_at(self.times * width);
        let (indexes, rest) = rest.split_at(self.times);
        let (kinds, rest) = rest.split_at(self.kinds * 6);
        let names = &rest[..self.characters];
        let kinds = kinds
            .chunks_exact(6)
            .map(|kind| {
                let name = names.get(usize::from(kind[5])..).unwrap_or_default();
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                Offset {
                    seconds: integer(&kind[..4]),
                    daylight: kind[4] != 0,
                    name: String::from_utf8_lossy(name).into_owned(),
                }
            })
            .collect();
        let transitions = times
            .chunks_exact(width)
            .map(integer)
            .zip(indexes.iter().map(|index| usize::from(*index)))
            .collect();
        Some((Zone { transitions, kinds, rule: None }, end))
    }
}

fn integer(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    bytes.iter().fold(if negative { -1 } else { 0 }, |number, byte| (number << 8) | i64::from(*byte))
}

impl Rule {
    /// A rule as POSIX writes it: `CET-1CEST,M3.5.0,M10.5.0/3`.
    fn parse(text: &str) -> Option<Rule> {
        let mut rest = text;
        let name = take_name(&mut rest)?;
        let seconds = -take_time(&mut rest)?;
        let standard = Offset { seconds, daylight: false, name };
        if rest.is_empty() {
            return Some(Rule { standard, daylight: None });
        }
        let name = take_name(&mut rest)?;
        let seconds = if rest.is_empty() || rest.starts_with(',') {
            standard.seconds + 3600
        } else {
            -take_time(&mut rest)?
        };
        let daylight = Offset { seconds, daylight: true, name };
        let mut turns = rest.strip_prefix(',').unwrap_or("M3.2.0,M11.1.0").split(',');
        let begin = Turn::parse(turns.next()?)?;
        let end = Turn::parse(turns.next()?)?;
        Some(Rule { standard, daylight: Some((daylight, begin, end)) })
    }

    fn at(&self, epoch: i64) -> Offset {
        let Some((daylight, begin, end)) = &self.daylight else { return self.standard.clone() };
        let year = civil_from_days((epoch + self.standard.seconds).div_euclid(86_400)).0;
        let begin = begin.local(year) - self.standard.seconds;
        let end = end.local(year) - daylight.seconds;
        let inside = if begin < end {
            (begin..end).contains(&epoch)
        } else {
            // South of the equator, daylight time spans the turn of the year.
            !(end..begin).contains(&epoch)
        };
        if inside { daylight.clone() } else { self.standard.clone() }
    }
}

impl Turn {
    fn parse(text: &str) -> Option<Turn> {
        let (day, time) = text.split_once('/').unwrap_or((text, "2"));
        let mut rest = time;
        let time = take_time(&mut rest)?;
        let day = if let Some(parts) = day.strip_prefix('M') {
            let mut parts = parts.split('.').map(|part| part.parse().ok());
            TurnDay::Weekday(parts.next()??, parts.next()??, parts.next()??)
        } else if let Some(day) = day.strip_prefix('J') {
            TurnDay::Julian(day.parse().ok()?)
        } else {
            TurnDay::Zero(day.parse().ok()?)
        };
        Some(Turn { day, time })
    }

    /// Seconds since the epoch on the wall's clock.
    fn local(self, year: i64) -> i64 {
        let day = match self.day {
            TurnDay::Weekday(month, week, weekday) => {
                let first = days_from_civil(year, month, 1);
                let first_match = first + (weekday - (first + 4).rem_euclid(7)).rem_euclid(7);
                let next_month = if month == 12 {
                    days_from_civil(year + 1, 1, 1)
                } else {
                    days_from_civil(year, month + 1, 1)
                };
                let day = first_match + (week - 1) * 7;
                if day >= next_month { day - 7 } else { day }
            }
            TurnDay::Julian(day) => {
                let first = days_from_civil(year, 1, 1);
                let leap = days_from_civil(year, 3, 1) - first == 60;
                first + day - 1 + i64::from(leap && day >= 60)
            }
            TurnDay::Zero(day) => days_from_civil(year, 1, 1) + day,
        };
        day * 86_400 + self.time
    }
}

fn take_name(rest: &mut &str) -> Option<String> {
    if let Some(quoted) = rest.strip_prefix('<') {
        let (name, after) = quoted.split_once('>')?;
        *rest = after;
        return Some(name.to_string());
    }
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    if end < 3 {
        return None;
    }
    let (name, after) = rest.split_at(end);
    *rest = after;
    Some(name.to_string())
}

/// `[+-]hh[:mm[:ss]]` in seconds.
fn take_time(rest: &mut &str) -> Option<i64> {
    let end = rest.find(|c: char| !c.is_ascii_digit() && !"+-:".contains(c)).unwrap_or(rest.len());
    let (text, after) = rest.split_at(end);
    *rest = after;
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => (-1, text),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut seconds = 0;
    for (part, factor) in text.split(':').zip([3600, 60, 1]) {
        seconds += part.parse::<i64>().ok()? * factor;
    }
    Some(sign * seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_print_as_in_python() {
        for (seconds, micro, expected) in [
            (0, 0, "1970-01-01 00:00:00"),
            (1_795_257_312, 826_467, "2026-11-21 10:35:12.826467"),
            (951_782_400, 1, "2000-02-29 00:00:00.000001"),
            (-1, 0, "1969-12-31 23:59:59"),
        ] {
            assert_eq!(Moment::from_seconds(seconds, micro).python(), expected);
        }
        let moment = Moment::from_seconds(1_795_257_312, 0);
        assert_eq!((moment.weekday_name(), moment.week_number(), moment.yearday), ("Saturday", 46, 324));
        for (span, expected) in [
            (Duration::from_micros(3456), "0:00:00.003456"),
            (Duration::from_secs(3600), "1:00:00"),
            (Duration::from_secs(90_061), "1 day, 1:01:01"),
        ] {
            assert_eq!(python_span(span), expected);
        }
    }

    #[test]
    fn rules_know_both_hemispheres() {
        for (rule, epoch, seconds, name) in [
            ("CET-1CEST,M3.5.0,M10.5.0/3", 1_751_328_000, 7200, "CEST"),
            ("CET-1CEST,M3.5.0,M10.5.0/3", 1_735_689_600, 3600, "CET"),
            // The last second of standard time, and the first of daylight time.
            ("CET-1CEST,M3.5.0,M10.5.0/3", 1_743_296_399, 3600, "CET"),
            ("CET-1CEST,M3.5.0,M10.5.0/3", 1_743_296_400, 7200, "CEST"),
            ("AEST-10AEDT,M10.1.0,M4.1.0/3", 1_735_689_600, 39_600, "AEDT"),
            ("AEST-10AEDT,M10.1.0,M4.1.0/3", 1_751_328_000, 36_000, "AEST"),
            ("<+0530>-5:30", 0, 19_800, "+0530"),
            ("EST5EDT", 1_751_328_000, -14_400, "EDT"),
        ] {
            let zone = Zone { rule: Rule::parse(rule), ..Zone::default() };
            let offset = zone.at(epoch);
            assert_eq!((offset.seconds, offset.name.as_str()), (seconds, name), "{rule} at {epoch}");
        }
        let zone = Zone { rule: Rule::parse("CET-1CEST,M3.5.0,M10.5.0/3"), ..Zone::default() };
        assert_eq!(zone.names(1_751_328_000), ("CET".into(), "CEST".into()));
    }

    #[test]
    fn zone_files_are_read() {
        // Version 2: an empty first block, one transition at 100 from kind 0 (+1 h) to kind 1 (+2 h, daylight).
        let header = |version: u8, times: u8, kinds: u8, characters: u8| {
            let mut head = b"TZif".to_vec();
            head.push(version);
            head.extend([0; 15]);
            for count in [0, 0, 0, times, kinds, characters] {
                head.extend([0, 0, 0, count]);
            }
            head
        };
        let mut file = header(b'2', 0, 0, 0);
        file.extend(header(b'2', 1, 2, 8));
        file.extend(100_i64.to_be_bytes());
        file.push(1);
        file.extend(3600_i32.to_be_bytes());
        file.extend([0, 0]);
        file.extend(7200_i32.to_be_bytes());
        file.extend([1, 4]);
        file.extend(b"AAA\0BBB\0");
        let mut slim = file.clone();
        file.extend(b"\n\n");
        slim.extend(b"\nXYZ-3\n");
        let zone = Zone::parse(&file).expect("a zone file");
        assert_eq!((zone.at(99).name.as_str(), zone.at(100).name.as_str()), ("AAA", "BBB"));
        assert_eq!(zone.at(100).seconds, 7200);
        let zone = Zone::parse(&slim).expect("a zone file");
        assert_eq!(zone.at(1000).name, "XYZ");
        assert!(Zone::parse(b"TZif2").is_none());
    }
}
