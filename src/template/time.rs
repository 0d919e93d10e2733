//! Dates: `now`, `strftime`, `to_datetime`.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};
use minijinja::value::Value as V;

use super::error::TemplateError;
use super::object::{R, check};
use super::ops;
use super::registry::Args;
use super::special::Moment;

fn failed(error: impl std::fmt::Display) -> TemplateError {
    TemplateError::runtime(error.to_string())
}

/// `now(utc=False, fmt=None)`
pub(super) fn now(args: &Args) -> R {
    let utc = args.get(0, "utc").map_or(Ok(false), ops::truth)?;
    let zoned = Zoned::now();
    let zoned = if utc { zoned.with_time_zone(TimeZone::UTC) } else { zoned };
    let moment = Moment { time: zoned.datetime(), offset: None };
    match args.get(1, "fmt") {
        Some(format) if !format.is_none() => {
            check(format)?;
            strftime(&ops::to_text(format)?, &moment).map(V::from)
        }
        _ => Ok(V::from_object(moment)),
    }
}

fn zoned(moment: &Moment) -> R<Zoned> {
    let zone = match moment.offset {
        Some(offset) => TimeZone::fixed(offset),
        None => TimeZone::system(),
    };
    moment.time.to_zoned(zone).map_err(failed)
}

/// Seconds since 1970, with a fraction.
pub(super) fn timestamp(moment: &Moment) -> R<f64> {
    let stamp = zoned(moment)?.timestamp();
    #[expect(clippy::cast_precision_loss, reason = "Python's timestamps are floats too")]
    Ok(stamp.as_microsecond() as f64 / 1_000_000.0)
}

/// A moment from seconds since 1970.
pub(super) fn from_seconds(seconds: f64, utc: bool) -> R<Moment> {
    #[expect(clippy::cast_possible_truncation, reason = "out of range times are refused by the next call")]
    let micros = (seconds * 1_000_000.0).round() as i64;
    let stamp = Timestamp::from_microsecond(micros).map_err(failed)?;
    let zone = if utc { TimeZone::UTC } else { TimeZone::system() };
    let zoned = stamp.to_zoned(zone);
    Ok(Moment { time: zoned.datetime(), offset: Some(zoned.offset()) })
}

/// C's `strftime` in the C locale.
pub(super) fn strftime(format: &str, moment: &Moment) -> R<String> {
    const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let time = moment.time;
    let weekday = usize::try_from(time.weekday().to_monday_zero_offset()).unwrap_or(0);
    let month = usize::try_from(time.month() - 1).unwrap_or(0);
    let year_day = i64::from(time.day_of_year());
    let hour12 = if time.hour() % 12 == 0 { 12 } else { time.hour() % 12 };
    let sunday = i64::from(time.weekday().to_sunday_zero_offset());
    let monday = i64::from(time.weekday().to_monday_zero_offset());
    let iso = time.date().iso_week_date();
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(character) = chars.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut directive = chars.next();
        let mut unpadded = false;
        if directive == Some('-') {
            unpadded = true;
            directive = chars.next();
        }
        let padded =
            |value: i64, width: usize| if unpadded { value.to_string() } else { format!("{value:0width$}") };
        let again = |format: &str| strftime(format, moment);
        let text = match directive {
            Some('a') => DAYS[weekday][..3].to_owned(),
            Some('A') => DAYS[weekday].to_owned(),
            Some('b' | 'h') => MONTHS[month][..3].to_owned(),
            Some('B') => MONTHS[month].to_owned(),
            Some('c') => again("%a %b %e %H:%M:%S %Y")?,
            Some('C') => padded(i64::from(time.year()) / 100, 2),
            Some('d') => padded(i64::from(time.day()), 2),
            Some('D' | 'x') => again("%m/%d/%y")?,
            Some('e') => {
                if unpadded {
                    time.day().to_string()
                } else {
                    format!("{:2}", time.day())
                }
            }
            Some('f') => format!("{:06}", time.subsec_nanosecond() / 1000),
            Some('F') => again("%Y-%m-%d")?,
            Some('g') => padded(i64::from(iso.year()) % 100, 2),
            Some('G') => iso.year().to_string(),
            Some('H') => padded(i64::from(time.hour()), 2),
            Some('I') => padded(i64::from(hour12), 2),
            Some('j') => padded(year_day, 3),
            Some('k') => format!("{:2}", time.hour()),
            Some('l') => format!("{hour12:2}"),
            Some('m') => padded(i64::from(time.month()), 2),
            Some('M') => padded(i64::from(time.minute()), 2),
            Some('n') => "\n".into(),
            Some('p') => {
                if time.hour() < 12 {
                    "AM".into()
                } else {
                    "PM".into()
                }
            }
            Some('P') => {
                if time.hour() < 12 {
                    "am".into()
                } else {
                    "pm".into()
                }
            }
            Some('r') => again("%I:%M:%S %p")?,
            Some('R') => again("%H:%M")?,
            Some('s') => zoned(moment)?.timestamp().as_second().to_string(),
            Some('S') => padded(i64::from(time.second()), 2),
            Some('t') => "\t".into(),
            Some('T' | 'X') => again("%H:%M:%S")?,
            Some('u') => (monday + 1).to_string(),
            Some('U') => padded((year_day + 6 - sunday) / 7, 2),
            Some('V') => padded(i64::from(iso.week()), 2),
            Some('w') => sunday.to_string(),
            Some('W') => padded((year_day + 6 - monday) / 7, 2),
            Some('y') => padded(i64::from(time.year()) % 100, 2),
            Some('Y') => time.year().to_string(),
            Some('z') => moment.offset.map_or_else(String::new, |offset| {
                let seconds = offset.seconds();
                let sign = if seconds < 0 { '-' } else { '+' };
                format!("{sign}{:02}{:02}", seconds.abs() / 3600, seconds.abs() / 60 % 60)
            }),
            Some('Z') => moment.offset.map_or_else(
                || Ok(String::new()),
                |offset| {
                    if offset == Offset::UTC { Ok("UTC".to_owned()) } else { zone_name(moment) }
                },
            )?,
            Some('%') => "%".into(),
            Some(other) => format!("%{other}"),
            None => "%".into(),
        };
        out.push_str(&text);
    }
    Ok(out)
}

fn zone_name(moment: &Moment) -> R<String> {
    let zone = TimeZone::system();
    let zoned = moment.time.to_zoned(zone.clone()).map_err(failed)?;
    Ok(zone.to_offset_info(zoned.timestamp()).abbreviation().to_owned())
}

/// Python's `strptime`.
pub(super) fn strptime(text: &str, format: &str) -> R<Moment> {
    let (parsed, length) = jiff::fmt::strtime::BrokenDownTime::parse_prefix(format, text).map_err(|_| {
        TemplateError::runtime(format!("time data '{text}' does not match format '{format}'"))
    })?;
    if let Some(rest) = text.get(length..).filter(|rest| !rest.is_empty()) {
        return Err(TemplateError::runtime(format!("unconverted data remains: {rest}")));
    }
    let offset = parsed.offset();
    let date = match parsed.to_date() {
        Ok(date) => date,
        // What the format leaves out is taken from 1900-01-01.
        Err(_) => {
            let (year, month, day) =
                (parsed.year().unwrap_or(1900), parsed.month().unwrap_or(1), parsed.day().unwrap_or(1));
            jiff::civil::Date::new(year, month, day)
                .map_err(|_| TemplateError::runtime("day is out of range for month"))?
        }
    };
    let time = parsed.to_time().unwrap_or_else(|_| jiff::civil::Time::midnight());
    Ok(Moment { time: DateTime::from_parts(date, time), offset })
}
