//! Results as YAML, for `result_format=yaml`.

use crate::source::json::{Layout, dump};
use crate::value::{Map, Value};

/// A result as an indented block below its line. With `pretty`, lists of lines that repeat a text are left
/// out.
pub(super) fn result(mut map: Map, pretty: bool) -> String {
    if pretty {
        for name in ["stdout", "stderr"] {
            let lines = format!("{name}_lines");
            if map.contains_key(name) && map.contains_key(lines.as_str()) {
                map.insert(Value::str(lines), Value::str("<omitted>"));
            }
        }
    }
    let mut out = String::new();
    write(&Value::map(map), 1, &mut out);
    format!("\n{}", out.trim_end_matches('\n'))
}

const STEP: usize = 4;

/// Writes a mapping or list as block, each line indented by `level` steps.
fn write(value: &Value, level: usize, out: &mut String) {
    let pad = " ".repeat(level * STEP);
    match value {
        Value::Map(map) if !map.is_empty() => {
            let mut entries: Vec<(String, &Value)> =
                map.iter().map(|(key, value)| (key.to_text(), value)).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            for (key, value) in entries {
                out.push_str(&format!("{pad}{}:", scalar(&Value::str(key))));
                entry(value, level, out);
            }
        }
        Value::List(items) if !items.is_empty() => {
            for item in items.iter() {
                out.push_str(&format!("{pad}-"));
                entry(item, level, out);
            }
        }
        other => out.push_str(&format!("{pad}{}\n", scalar(other))),
    }
}

/// What stands behind `key:` or `-`.
fn entry(value: &Value, level: usize, out: &mut String) {
    match value {
        Value::Map(map) if !map.is_empty() => {
            out.push('\n');
            write(value, level + 1, out);
        }
        Value::List(items) if !items.is_empty() => {
            out.push('\n');
            write(value, level, out);
        }
        Value::Str(text) if text.text.contains('\n') => {
            let trimmed = text.text.trim_end_matches('\n');
            let chomp = match text.text.len() - trimmed.len() {
                0 => "-",
                1 => "",
                _ => "+",
            };
            let hint = if text.text.starts_with([' ', '\n']) { STEP.to_string() } else { String::new() };
            out.push_str(&format!(" |{hint}{chomp}\n"));
            let pad = " ".repeat((level + 1) * STEP);
            for line in text.text.strip_suffix('\n').unwrap_or(&text.text).split('\n') {
                let line = line.trim_end().replace('\t', "        ");
                out.push_str(&if line.is_empty() { "\n".to_owned() } else { format!("{pad}{line}\n") });
            }
        }
        other => out.push_str(&format!(" {}\n", scalar(other))),
    }
}

/// A value on one line, quoted where plain text would mean something else.
fn scalar(value: &Value) -> String {
    match value {
        Value::Null | Value::Omit | Value::Pending => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Str(text) => string(&text.text),
        Value::Map(_) | Value::Lazy(_) => "{}".into(),
        Value::List(_) => "[]".into(),
        other => other.to_text(),
    }
}

fn string(text: &str) -> String {
    if text.chars().any(|c| c.is_control()) {
        return dump(&Value::str(text), &Layout { ensure_ascii: false, ..Layout::default() });
    }
    let plain = !text.is_empty()
        && !text.starts_with(|c: char| "-?:,[]{}#&*!|>'\"%@` ".contains(c))
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.ends_with([':', ' '])
        && crate::source::parse_value("", text)
            .is_ok_and(|(value, _)| value.as_str().is_some_and(|read| read == text));
    if plain
        || (text.starts_with('-')
            && text.len() > 1
            && !text.starts_with("- ")
            && !text.starts_with("---")
            && text[1..].chars().all(char::is_alphanumeric)
            && crate::source::parse_value("", text).is_ok_and(|(value, _)| value.as_str().is_some()))
    {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "''"))
}
