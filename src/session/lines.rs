//! `stdout_lines` and `stderr_lines`: they are not sent but made here.

use crate::value::Value;

/// Adds `stdout_lines` and `stderr_lines` to a result that has `stdout` and `stderr`.
pub(super) fn add(result: Value) -> Value {
    let Value::Map(map) = &result else { return result };
    let missing = [("stdout", "stdout_lines"), ("stderr", "stderr_lines")]
        .into_iter()
        .filter(|(_, lines)| !map.contains_key(*lines))
        .filter_map(|(text, lines)| Some((lines, split(map.get(text)?.as_str()?))))
        .collect::<Vec<_>>();
    if missing.is_empty() {
        return result;
    }
    let mut map = map.as_ref().clone();
    for (name, lines) in missing {
        map.insert(name.into(), lines.into_iter().map(Value::str).collect::<Vec<_>>().into());
    }
    Value::map(map)
}

/// The lines of a text by Python's rules.
fn split(text: &str) -> Vec<&str> {
    let ends = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        lines.push(&rest[..at]);
        let end = &rest[at..];
        let width = if end.starts_with("\r\n") { 2 } else { end.chars().next().map_or(1, char::len_utf8) };
        rest = &end[width..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_pythons() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("a", &["a"]),
            ("a\n", &["a"]),
            ("a\n\nb", &["a", "", "b"]),
            ("a\r\nb\rc\u{2028}d\x0b", &["a", "b", "c", "d"]),
        ];
        for (text, expected) in cases {
            assert_eq!(split(text), *expected, "{text:?}");
        }
    }
}
