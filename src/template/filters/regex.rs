//! Regular expressions in Python's dialect.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, RwLock};

use fancy_regex::{Captures, Regex};
use minijinja::value::Value as V;

use super::complaints;
use crate::template::error::TemplateError;
use crate::template::object::{R, list, none, strings};
use crate::template::ops;
use crate::template::registry::{Call, Function, function};

pub(super) const TABLE: &[Function] = &[
    function(
        "regex_replace",
        "value pattern? replacement? ignorecase? multiline? count? mandatory_count?",
        replace,
    ),
    function("regex_search", "value regex * **", search),
    function("regex_findall", "value regex multiline? ignorecase?", find_all),
    function("regex_escape", "string re_type?", escape),
];

/// A compiled pattern; the last ones are kept.
pub(in crate::template) fn compile(pattern: &str, ignore_case: bool, multi_line: bool) -> R<Arc<Regex>> {
    type Key = (String, bool, bool);
    static CACHE: LazyLock<RwLock<HashMap<Key, Arc<Regex>>>> = LazyLock::new(RwLock::default);
    let key = (pattern.to_owned(), ignore_case, multi_line);
    if let Ok(cache) = CACHE.read()
        && let Some(regex) = cache.get(&key)
    {
        return Ok(regex.clone());
    }
    let mut flags = String::new();
    if ignore_case {
        flags.push('i');
    }
    if multi_line {
        flags.push('m');
    }
    let translated = translate(pattern);
    let full = if flags.is_empty() { translated } else { format!("(?{flags}){translated}") };
    let regex =
        fancy_regex::RegexBuilder::new(&full).backtrack_limit(5_000_000).build().map_err(|error| {
            let ours = || format!("Invalid regular expression {pattern:?}: {error}");
            TemplateError::runtime(complaints::pattern(pattern).unwrap_or_else(ours))
        })?;
    let regex = Arc::new(regex);
    if let Ok(mut cache) = CACHE.write() {
        if cache.len() > 2000 {
            cache.clear();
        }
        cache.insert(key, regex.clone());
    }
    Ok(regex)
}

/// Python's syntax where ours differs: `\Z`, `$` before a last newline, braces and brackets that are literal.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let chars: Vec<char> = pattern.chars().collect();
    let multi_line = inline_flags(pattern).contains('m');
    let mut at = 0;
    let mut in_class = false;
    while at < chars.len() {
        let character = chars[at];
        match character {
            '\\' => {
                let next = chars.get(at + 1).copied();
                at += 2;
                match next {
                    Some('Z') if !in_class => out.push_str("\\z"),
                    Some('z') if !in_class => out.push_str("\\z"),
                    Some(c) if "/\"'#%&,:;<=>@`_~! \n".contains(c) => {
                        if matches!(c, '#' | '&' | '~' | '-') {
                            out.push('\\');
                        }
                        out.push(c);
                    }
                    Some(c) => {
                        out.push('\\');
                        out.push(c);
                    }
                    None => out.push('\\'),
                }
                continue;
            }
            '[' if in_class => out.push_str("\\["),
            '[' => {
                in_class = true;
                out.push('[');
                if chars.get(at + 1) == Some(&'^') {
                    out.push('^');
                    at += 1;
                }
                if chars.get(at + 1) == Some(&']') {
                    out.push_str("\\]");
                    at += 1;
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            ']' => out.push_str("\\]"),
            '&' | '~' | '-' if in_class && chars.get(at + 1) == Some(&character) => {
                out.push('\\');
                out.push(character);
            }
            '{' if !in_class && !is_repetition(&chars[at..]) => out.push_str("\\{"),
            '{' if !in_class && chars.get(at + 1) == Some(&',') => out.push_str("{0"),
            '}' if !in_class && !closes_repetition(&chars[..at]) => out.push_str("\\}"),
            '(' if !in_class && chars[at..].starts_with(&['(', '?', 'P', '=']) => {
                let name: String = chars[at + 4..].iter().take_while(|c| **c != ')').collect();
                out.push_str(&format!("\\k<{name}>"));
                at += 5 + name.chars().count();
                continue;
            }
            '$' if !in_class && !multi_line => out.push_str("(?:$|(?=\\n\\z))"),
            other => out.push(other),
        }
        at += 1;
    }
    out
}

fn inline_flags(pattern: &str) -> String {
    pattern
        .strip_prefix("(?")
        .map(|rest| rest.chars().take_while(char::is_ascii_lowercase).collect())
        .unwrap_or_default()
}

fn is_repetition(rest: &[char]) -> bool {
    let inner: String = rest.iter().skip(1).take_while(|c| **c != '}').collect();
    let closed = rest.len() > inner.chars().count() + 1;
    closed
        && !inner.is_empty()
        && inner != ","
        && inner.chars().all(|c| c.is_ascii_digit() || c == ',')
        && inner.matches(',').count() <= 1
}

fn closes_repetition(before: &[char]) -> bool {
    before.iter().rposition(|c| *c == '{').is_some_and(|open| {
        let inner = &before[open + 1..];
        let escaped = open > 0 && before[open - 1] == '\\';
        !escaped && !inner.is_empty() && inner.iter().all(|c| c.is_ascii_digit() || *c == ',')
    })
}

fn failed(error: fancy_regex::Error) -> TemplateError {
    TemplateError::runtime(format!("the regular expression failed: {error}"))
}

/// Python's replacement syntax: `\1`, `\g<1>`, `\g<name>`, `\n`.
fn expand(template: &str, captures: &Captures<'_>, out: &mut String) -> R<()> {
    let mut chars = template.chars().peekable();
    let group = |index: usize, out: &mut String| -> R<()> {
        if index >= captures.len() {
            return Err(TemplateError::runtime(format!("invalid group reference {index}")));
        }
        out.push_str(captures.get(index).map_or("", |found| found.as_str()));
        Ok(())
    };
    while let Some(character) = chars.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match chars.next() {
            Some('g') if chars.peek() == Some(&'<') => {
                chars.next();
                let name: String = chars.by_ref().take_while(|c| *c != '>').collect();
                match name.parse() {
                    Ok(index) => group(index, out)?,
                    Err(_) => {
                        let found = captures.name(&name);
                        out.push_str(found.map_or("", |found| found.as_str()));
                    }
                }
            }
            Some(digit @ '1'..='9') => {
                let mut index = digit.to_digit(10).unwrap_or(0) as usize;
                if let Some(second) = chars.peek().and_then(|c| c.to_digit(10)) {
                    index = index * 10 + second as usize;
                    chars.next();
                }
                group(index, out)?;
            }
            Some('0') => out.push('\0'),
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('a') => out.push('\x07'),
            Some('f') => out.push('\x0c'),
            Some('v') => out.push('\x0b'),
            Some('\\') => out.push('\\'),
            Some(other) if other.is_ascii_alphabetic() => {
                return Err(TemplateError::runtime(format!("bad escape \\{other}")));
            }
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => out.push('\\'),
        }
    }
    Ok(())
}

/// All matches as Python finds them: an empty one may follow a longer one directly.
fn all_matches<'t>(regex: &Regex, text: &'t str, limit: usize) -> R<Vec<Captures<'t>>> {
    let mut out = Vec::new();
    let mut at = 0;
    let mut empty_at = None;
    while at <= text.len() && (limit == 0 || out.len() < limit) {
        let Some(captures) = regex.captures_from_pos(text, at).map_err(failed)? else { break };
        let Some(whole) = captures.get(0) else { break };
        let (start, end) = (whole.start(), whole.end());
        if start == end && empty_at == Some(start) {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
            empty_at = None;
            continue;
        }
        at = end;
        empty_at = (start == end).then_some(end);
        out.push(captures);
    }
    Ok(out)
}

/// Python's `re.sub`; yields the text and how many were replaced.
pub(in crate::template) fn substitute(
    regex: &Regex,
    text: &str,
    replacement: &str,
    limit: usize,
) -> R<(String, usize)> {
    let mut out = String::with_capacity(text.len());
    let mut last = 0;
    let mut count = 0;
    for captures in all_matches(regex, text, limit)? {
        let Some(whole) = captures.get(0) else { continue };
        out.push_str(&text[last..whole.start()]);
        expand(replacement, &captures, &mut out)?;
        last = whole.end();
        count += 1;
    }
    out.push_str(&text[last..]);
    Ok((out, count))
}

fn replace(call: &mut Call) -> R {
    let text = call.text(0)?;
    let regex = compile(&call.text_or(1, "")?, call.flag(3, false)?, call.flag(4, false)?)?;
    let limit = usize::try_from(call.int(5)?.unwrap_or(0)).unwrap_or(0);
    let (out, count) = substitute(&regex, &text, &call.text_or(2, "")?, limit)?;
    let mandatory = call.int(6)?.unwrap_or(0);
    if mandatory != 0 && i64::try_from(count).ok() != Some(mandatory) {
        return Err(TemplateError::runtime(format!(
            "'{}' should match {mandatory} times, but matches {count} times in '{text}'",
            call.text_or(1, "")?
        )));
    }
    Ok(V::from(out))
}

fn named_flag(call: &Call, name: &str) -> R<bool> {
    call.extra(name).map_or(Ok(false), ops::truth)
}

fn search(call: &mut Call) -> R {
    let text = call.text(0)?;
    let regex = compile(&call.text(1)?, named_flag(call, "ignorecase")?, named_flag(call, "multiline")?)?;
    for (name, _) in &call.extra {
        if name != "ignorecase" && name != "multiline" {
            return Err(TemplateError::runtime(format!(
                "regex_search() got an unexpected keyword argument '{name}'"
            )));
        }
    }
    let Some(captures) = regex.captures(&text).map_err(failed)? else { return Ok(none()) };
    if call.rest.is_empty() {
        return Ok(V::from(captures.get(0).map_or("", |found| found.as_str())));
    }
    let mut groups = Vec::new();
    for wanted in &call.rest {
        let wanted = ops::to_text(wanted)?;
        let name = wanted.strip_prefix("\\g<").and_then(|name| name.strip_suffix('>'));
        let name = name
            .or_else(|| wanted.strip_prefix('\\'))
            .ok_or_else(|| TemplateError::runtime("Unknown argument"))?;
        let found = match name.parse::<usize>() {
            Ok(index) if index < captures.len() => captures.get(index),
            Ok(_) => return Err(TemplateError::runtime("no such group")),
            Err(_) if regex.capture_names().flatten().any(|known| known == name) => captures.name(name),
            Err(_) => return Err(TemplateError::runtime("no such group")),
        };
        groups.push(found.map_or_else(none, |found| V::from(found.as_str())));
    }
    Ok(list(groups))
}

fn find_all(call: &mut Call) -> R {
    let text = call.text(0)?;
    let regex = compile(&call.text(1)?, call.flag(3, false)?, call.flag(2, false)?)?;
    let mut out = Vec::new();
    for captures in all_matches(&regex, &text, 0)? {
        let group = |index: usize| captures.get(index).map_or("", |found| found.as_str());
        out.push(match captures.len() {
            1 => V::from(group(0)),
            2 => V::from(group(1)),
            count => strings((1..count).map(group)),
        });
    }
    Ok(list(out))
}

fn escape(call: &mut Call) -> R {
    let text = call.text(0)?;
    match call.text_or(1, "python")?.as_str() {
        "python" => Ok(V::from(escape_python(&text))),
        "posix_basic" => {
            let special = |c: char| "].[^$*\\".contains(c);
            Ok(V::from(text.chars().fold(String::new(), |mut out, c| {
                if special(c) {
                    out.push('\\');
                }
                out.push(c);
                out
            })))
        }
        "posix_extended" => Err(TemplateError::runtime("Regex type (posix_extended) not yet implemented")),
        other => Err(TemplateError::runtime(format!("Invalid regex type ({other})"))),
    }
}

/// Python's `re.escape`.
pub(in crate::template) fn escape_python(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        if "()[]{}?*+-|^$\\.&~# \t\n\r\x0b\x0c".contains(c) {
            out.push('\\');
        }
        out.push(c);
        out
    })
}
