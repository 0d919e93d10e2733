//! What a plain YAML scalar means: the implicit types of YAML 1.1 as Ansible's users know them.
//!
//! `yes` is a boolean, `0644` is 420, `1:30` is 90, `1e3` is text. The rules are matched by hand, not by
//! regular expressions: every plain scalar of every file passes through here.

use crate::value::Value;

/// The meaning of a plain scalar.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Plain {
    /// A number, a boolean or null.
    Typed(Value),
    /// Text.
    Text,
    /// A date or a time in ISO form: text that is never a template.
    Timestamp(String),
    /// `<<`: as a key, it merges other mappings.
    Merge,
    /// `=` alone: reserved by YAML 1.1, meaningless as a value.
    Reserved,
    /// An integer that needs more than 64 bits, in decimal digits.
    TooLarge(String),
    /// It looks like a number or a date but is none, such as `0b_` or month 13.
    Invalid(&'static str),
}

/// Resolves a plain scalar by the rules of YAML 1.1.
pub(super) fn resolve(text: &str) -> Plain {
    let Some(first) = text.as_bytes().first() else { return Plain::Typed(Value::Null) };
    match first {
        b'y' | b'Y' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' | b'o' | b'O' | b'~' => word(text),
        b'0'..=b'9' | b'+' | b'-' | b'.' => number(text),
        b'<' if text == "<<" => Plain::Merge,
        b'=' if text == "=" => Plain::Reserved,
        _ => Plain::Text,
    }
}

fn word(text: &str) -> Plain {
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Plain::Typed(Value::Bool(true))
        }
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Plain::Typed(Value::Bool(false))
        }
        "null" | "Null" | "NULL" | "~" => Plain::Typed(Value::Null),
        _ => Plain::Text,
    }
}

fn number(text: &str) -> Plain {
    if let Some(float) = float(text) {
        return Plain::Typed(Value::Float(float));
    }
    if let Some(int) = int(text) {
        return int;
    }
    timestamp(text).unwrap_or(Plain::Text)
}

/// Splits an optional sign off.
fn signed(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

fn all(text: &str, test: impl Fn(u8) -> bool) -> bool {
    text.bytes().all(test)
}

fn digit_or_underscore(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'_'
}

fn float(text: &str) -> Option<f64> {
    let (negative, body) = signed(text);
    let sign = if negative { -1.0 } else { 1.0 };
    match body {
        ".inf" | ".Inf" | ".INF" => return Some(sign * f64::INFINITY),
        ".nan" | ".NaN" | ".NAN" if body.len() == text.len() => return Some(f64::NAN),
        _ => {}
    }
    let (whole, fraction) = body.split_once('.')?;
    if whole.contains(':') {
        let seconds = sexagesimal(whole, true)?;
        if !all(fraction, digit_or_underscore) {
            return None;
        }
        let last: f64 = format!("0.{}", fraction.replace('_', "")).parse().ok()?;
        #[expect(clippy::cast_precision_loss, reason = "a float was written")]
        return Some(sign * (seconds as f64 + last));
    }
    let (digits, exponent) = match fraction.find(['e', 'E']) {
        Some(at) => (&fraction[..at], Some(&fraction[at + 1..])),
        None => (fraction, None),
    };
    let exponent_ok = exponent.is_none_or(|exponent| {
        let bytes = exponent.as_bytes();
        bytes.len() > 1 && matches!(bytes[0], b'+' | b'-') && all(&exponent[1..], |b| b.is_ascii_digit())
    });
    let whole_ok = if whole.is_empty() {
        // `.5` takes no sign and needs a digit.
        body.len() == text.len() && digits.as_bytes().first().is_some_and(u8::is_ascii_digit)
    } else {
        whole.as_bytes()[0].is_ascii_digit() && all(whole, digit_or_underscore)
    };
    if !exponent_ok || !whole_ok || !all(digits, digit_or_underscore) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// `12:30:45` in its base: hours, minutes, seconds. With `leading_zero` the first group may start with 0.
fn sexagesimal(text: &str, leading_zero: bool) -> Option<i128> {
    let mut groups = text.split(':');
    let first = groups.next()?;
    let start = *first.as_bytes().first()?;
    if !start.is_ascii_digit() || (start == b'0' && !leading_zero) || !all(first, digit_or_underscore) {
        return None;
    }
    let mut total: i128 = first.replace('_', "").parse().ok()?;
    let mut seen = false;
    for group in groups {
        let valid = match group.as_bytes() {
            [unit] => unit.is_ascii_digit(),
            [ten, unit] => (b'0'..=b'5').contains(ten) && unit.is_ascii_digit(),
            _ => false,
        };
        if !valid {
            return None;
        }
        seen = true;
        total = total.checked_mul(60)?.checked_add(group.parse().ok()?)?;
    }
    seen.then_some(total)
}

fn int(text: &str) -> Option<Plain> {
    let (negative, body) = signed(text);
    let (digits, radix) = if let Some(digits) = body.strip_prefix("0b") {
        (digits, 2)
    } else if let Some(digits) = body.strip_prefix("0x") {
        (digits, 16)
    } else if body.len() > 1 && body.starts_with('0') {
        (&body[1..], 8)
    } else {
        (body, 10)
    };
    if digits.is_empty() {
        return None;
    }
    if radix == 10 && digits.contains(':') {
        let total = sexagesimal(digits, false)?;
        return Some(small(if negative { -total } else { total }));
    }
    if radix == 10 && digits.starts_with('_') {
        return None;
    }
    if !digits.chars().all(|c| c == '_' || c.is_digit(radix)) {
        return None;
    }
    let digits = digits.replace('_', "");
    if digits.is_empty() {
        return Some(if radix == 8 {
            Plain::Typed(Value::Int(0))
        } else {
            Plain::Invalid("a number without digits")
        });
    }
    Some(match i128::from_str_radix(&digits, radix) {
        Ok(total) => small(if negative { -total } else { total }),
        Err(_) if radix == 10 => Plain::TooLarge(format!("{}{digits}", if negative { "-" } else { "" })),
        Err(_) => Plain::Invalid("a number of more than 128 bits"),
    })
}

fn small(total: i128) -> Plain {
    i64::try_from(total)
        .map_or_else(|_| Plain::TooLarge(total.to_string()), |total| Plain::Typed(Value::Int(total)))
}

/// Reads digits off the front: at least `min`, at most `max`.
fn take_digits<'a>(text: &mut &'a str, min: usize, max: usize) -> Option<&'a str> {
    let count = text.bytes().take(max).take_while(u8::is_ascii_digit).count();
    if count < min {
        return None;
    }
    let (digits, rest) = text.split_at(count);
    *text = rest;
    Some(digits)
}

fn take(text: &mut &str, prefix: char) -> Option<()> {
    *text = text.strip_prefix(prefix)?;
    Some(())
}

struct Timestamp<'a> {
    date: [&'a str; 3],
    time: Option<[&'a str; 3]>,
    fraction: &'a str,
    /// Sign, hours, minutes; `Z` is `+00:00`.
    zone: Option<(char, &'a str, &'a str)>,
}

fn split_timestamp(text: &str) -> Option<Timestamp<'_>> {
    let mut rest = text;
    let year = take_digits(&mut rest, 4, 4)?;
    take(&mut rest, '-')?;
    let month = take_digits(&mut rest, 1, 2)?;
    take(&mut rest, '-')?;
    let day = take_digits(&mut rest, 1, 2)?;
    let date = [year, month, day];
    if rest.is_empty() {
        // A bare date is written in full.
        return (month.len() == 2 && day.len() == 2).then_some(Timestamp {
            date,
            time: None,
            fraction: "",
            zone: None,
        });
    }
    rest = match rest.strip_prefix(['T', 't']) {
        Some(rest) => rest,
        None => {
            let trimmed = rest.trim_start_matches([' ', '\t']);
            if trimmed.len() == rest.len() {
                return None;
            }
            trimmed
        }
    };
    let hour = take_digits(&mut rest, 1, 2)?;
    take(&mut rest, ':')?;
    let minute = take_digits(&mut rest, 2, 2)?;
    take(&mut rest, ':')?;
    let second = take_digits(&mut rest, 2, 2)?;
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        fraction = take_digits(&mut rest, 0, usize::MAX)?;
    }
    rest = rest.trim_start_matches([' ', '\t']);
    let mut zone = None;
    if let Some(after) = rest.strip_prefix('Z') {
        zone = Some(('+', "0", "0"));
        rest = after;
    } else if let Some(sign) = rest.chars().next().filter(|c| matches!(c, '+' | '-')) {
        rest = &rest[1..];
        let hours = take_digits(&mut rest, 1, 2)?;
        let minutes = if rest.is_empty() {
            "0"
        } else {
            take(&mut rest, ':')?;
            take_digits(&mut rest, 2, 2)?
        };
        zone = Some((sign, hours, minutes));
    }
    rest.is_empty().then_some(Timestamp { date, time: Some([hour, minute, second]), fraction, zone })
}

/// A date or a time, in ISO form.
fn timestamp(text: &str) -> Option<Plain> {
    let stamp = split_timestamp(text)?;
    let number = |digits: &str| digits.parse::<u32>().unwrap_or(u32::MAX);
    let [year, month, day] = stamp.date.map(number);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 31,
    };
    if year == 0 || !(1..=12).contains(&month) || !(1..=days).contains(&day) {
        return Some(Plain::Invalid("a date that doesn't exist"));
    }
    let mut out = format!("{year:04}-{month:02}-{day:02}");
    if let Some(time) = stamp.time {
        let [hour, minute, second] = time.map(number);
        if hour > 23 || minute > 59 || second > 59 {
            return Some(Plain::Invalid("a time that doesn't exist"));
        }
        out.push_str(&format!("T{hour:02}:{minute:02}:{second:02}"));
        let micros = &stamp.fraction[..stamp.fraction.len().min(6)];
        if micros.bytes().any(|b| b != b'0') {
            out.push_str(&format!(".{micros:0<6}"));
        }
        if let Some((sign, hours, minutes)) = stamp.zone {
            let (hours, minutes) = (number(hours), number(minutes));
            let sign = if hours == 0 && minutes == 0 { '+' } else { sign };
            out.push_str(&format!("{sign}{hours:02}:{minutes:02}"));
        }
    }
    Some(Plain::Timestamp(out))
}

/// Resolves a bare word of a JSON text: JSON has fewer words and more numbers than YAML.
pub(super) fn resolve_json(text: &str) -> Plain {
    match text {
        "true" => Plain::Typed(Value::Bool(true)),
        "false" => Plain::Typed(Value::Bool(false)),
        "null" => Plain::Typed(Value::Null),
        _ => match text.parse::<i64>() {
            Ok(int) => Plain::Typed(Value::Int(int)),
            Err(_) if !text.contains(['.', 'e', 'E']) => Plain::TooLarge(text.to_owned()),
            Err(_) => text.parse().map_or(Plain::Text, |float| Plain::Typed(Value::Float(float))),
        },
    }
}
