//! Host names as inventories write them: with a port, with ranges.

use std::net::Ipv6Addr;

/// Hosts that one range pattern may stand for.
const MAX_HOSTS: usize = 1_000_000;

/// Names that mean the machine on which we run, even if no inventory has them.
pub const LOCALHOST: [&str; 3] = ["127.0.0.1", "::1", "localhost"];

/// Splits `name:port`, `[address]:port` and expands the ranges of the name.
///
/// # Errors
/// A range is malformed, or too many hosts come of it.
pub(super) fn expand(pattern: &str) -> Result<(Vec<String>, Option<u16>), String> {
    let (name, port) = address(pattern).unwrap_or((pattern, None));
    if pattern.ends_with(':') && port.is_none() && !name.contains("::") {
        return Err(format!("the host name '{pattern}' ends in a colon; only a port may follow one"));
    }
    if name == "---" {
        return Err("'---' starts a YAML file, but this is read as INI".into());
    }
    let mut names = Vec::new();
    expand_ranges(name, &mut names)?;
    for name in &names {
        check_name(name)?;
    }
    Ok((names, port))
}

/// Whether a template can use a name as it is.
pub(super) fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A host's name and the port that is written after it.
pub fn host_and_port(text: &str) -> (&str, Option<u16>) {
    address(text).unwrap_or((text, None))
}

/// Refuses names that a program would take for an option.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.starts_with('-') {
        return Err(format!("'{name}' can't be a host name: it would be taken for an option"));
    }
    if name.trim().is_empty() {
        return Err("a host name is empty".into());
    }
    if let Some(bad) = name.chars().find(|c| c.is_control()) {
        return Err(format!("the host name {name:?} has the control character {bad:?}"));
    }
    Ok(())
}

/// A host name or address with ranges and perhaps a port; `None` if it is none.
pub(super) fn address(text: &str) -> Option<(&str, Option<u16>)> {
    if !text.contains(':') && !text.contains('[') {
        return is_host(text).then_some((text, None));
    }
    let (name, port) = split_port(text);
    is_host(name).then_some((name, port))
}

fn split_port(text: &str) -> (&str, Option<u16>) {
    let Some((name, port)) = text.rsplit_once(':') else { return (text, None) };
    let Some(port) = port.parse().ok().filter(|_| port.bytes().all(|b| b.is_ascii_digit())) else {
        return (text, None);
    };
    if let Some(inner) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'))
        && !inner.is_empty()
    {
        return (inner, Some(port));
    }
    // Colons may stand inside brackets only, or it is an IPv6 address.
    let mut depth = 0;
    for character in name.chars() {
        match character {
            '[' => depth += 1,
            ']' => depth -= 1,
            ':' if depth == 0 => return (text, None),
            _ => {}
        }
    }
    if depth == 0 { (name, Some(port)) } else { (text, None) }
}

/// Whether it is an address, or a host name whose labels may have ranges.
fn is_host(text: &str) -> bool {
    if text.parse::<Ipv6Addr>().is_ok() {
        return true;
    }
    let Some(plain) = without_ranges(text) else { return false };
    if plain.contains(':') {
        return plain.parse::<Ipv6Addr>().is_ok();
    }
    !plain.is_empty()
        && plain.split('.').all(|label| {
            label.starts_with(|c: char| c.is_alphanumeric() || c == '_')
                && !label.ends_with(['-', '_'])
                && label.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
        })
}

/// The text with each `[a:b]` replaced by a digit; `None` if a bracket doesn't hold a range.
fn without_ranges(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once('[') {
        let (range, tail) = tail.split_once(']')?;
        let mut bounds = range.split(':');
        let (begin, end) = (bounds.next()?, bounds.next()?);
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let letter = |text: &str| text.len() == 1 && text.bytes().all(|b| b.is_ascii_alphabetic());
        let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
        let valid =
            (digits(begin) && digits(end)) || (letter(begin) && letter(end)) || (hex(begin) && hex(end));
        if !valid || !bounds.next().is_none_or(digits) || bounds.next().is_some() {
            return None;
        }
        out.push_str(head);
        out.push('0');
        rest = tail;
    }
    if rest.contains(']') {
        return None;
    }
    out.push_str(rest);
    Some(out)
}

fn expand_ranges(name: &str, out: &mut Vec<String>) -> Result<(), String> {
    let Some((head, rest)) = name.split_once('[') else {
        if out.len() >= MAX_HOSTS {
            return Err(format!("a range stands for more than {MAX_HOSTS} hosts"));
        }
        out.push(name.to_owned());
        return Ok(());
    };
    let Some((range, tail)) = rest.split_once(']') else {
        return Err(format!("the range in '{name}' isn't closed"));
    };
    for middle in range_values(range)? {
        expand_ranges(&format!("{head}{middle}{tail}"), out)?;
    }
    Ok(())
}

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

fn range_values(range: &str) -> Result<Vec<String>, String> {
    let bounds: Vec<&str> = range.split(':').collect();
    let (begin, end, step) = match bounds.as_slice() {
        [begin, end] => (*begin, *end, "1"),
        [begin, end, step] => (*begin, *end, *step),
        _ => return Err(format!("the range [{range}] must be [begin:end] or [begin:end:step]")),
    };
    let begin = if begin.is_empty() { "0" } else { begin };
    if end.is_empty() {
        return Err(format!("the range [{range}] has no end"));
    }
    let invalid = || format!("the range [{range}] needs numbers or letters");
    let step: usize = step
        .parse()
        .ok()
        .filter(|step| *step > 0)
        .ok_or_else(|| format!("the step of the range [{range}] must be a number above 0"))?;
    if let (Some(first), Some(last)) = (letter(begin), letter(end)) {
        if first > last {
            return Err(format!("the range [{range}] ends before it begins"));
        }
        return Ok(LETTERS[first..=last].chars().step_by(step).map(String::from).collect());
    }
    let first: u64 = begin.parse().map_err(|_| invalid())?;
    let last: u64 = end.parse().map_err(|_| invalid())?;
    let width = if begin.starts_with('0') && begin.len() > 1 { begin.len() } else { 0 };
    if width > 0 && end.len() != width {
        return Err(format!("begin and end of the range [{range}] need the same number of digits"));
    }
    if last.saturating_sub(first) / step as u64 >= MAX_HOSTS as u64 {
        return Err(format!("the range [{range}] stands for more than {MAX_HOSTS} hosts"));
    }
    Ok((first..=last).step_by(step).map(|number| format!("{number:0width$}")).collect())
}

fn letter(text: &str) -> Option<usize> {
    (text.len() == 1).then(|| LETTERS.find(text)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_and_expanded() {
        for (pattern, expected) in [
            ("web", "web"),
            ("web:2222", "web @2222"),
            ("web[1:3]", "web1 web2 web3"),
            ("web[01:03].x", "web01.x web02.x web03.x"),
            ("web[:2]", "web0 web1 web2"),
            ("web[1:10:4]", "web1 web5 web9"),
            ("db-[a:c]", "db-a db-b db-c"),
            ("[a:b][1:2]", "a1 a2 b1 b2"),
            ("w[1:2]:22", "w1 w2 @22"),
            ("10.0.0.[1:2]", "10.0.0.1 10.0.0.2"),
            ("10.0.0.1:22", "10.0.0.1 @22"),
            ("fe80::1", "fe80::1"),
            ("[fe80::1]:22", "fe80::1 @22"),
            ("::1", "::1"),
            ("a_b", "a_b"),
            ("a/b", "a/b"),
            ("web[3:1]", ""),
            ("web[9:12]", "web9 web10 web11 web12"),
            ("web[z:a]", "the range [z:a] ends before it begins"),
            ("web[a:Z]", "weba …"),
            ("web[01:3]", "begin and end of the range [01:3] need the same number of digits"),
            ("web[1:]", "the range [1:] has no end"),
            ("web[1]", "the range [1] must be [begin:end] or [begin:end:step]"),
            ("web[1:3", "the range in 'web[1:3' isn't closed"),
            ("web[1:3:0]", "the step of the range [1:3:0] must be a number above 0"),
            ("web[0:99999999]", "the range [0:99999999] stands for more than 1000000 hosts"),
            ("web[0:9999][0:9999]", "a range stands for more than 1000000 hosts"),
            ("web:", "the host name 'web:' ends in a colon; only a port may follow one"),
            ("-oProxyCommand=x", "'-oProxyCommand=x' can't be a host name: it would be taken for an option"),
            ("---", "'---' starts a YAML file, but this is read as INI"),
        ] {
            let got = match expand(pattern) {
                Ok((names, _)) if names.len() > 10 => format!("{} …", names[0]),
                Ok((names, port)) => {
                    let port = port.map(|port| format!(" @{port}")).unwrap_or_default();
                    names.join(" ") + &port
                }
                Err(error) => error,
            };
            assert_eq!(got, expected, "{pattern}");
        }
    }
}
