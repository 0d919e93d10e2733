//! Results as YAML, for `result_format=yaml`: libyaml's layout (a dash has one space behind it before a scalar, three
//! before a mapping) with texts of several lines as blocks.

use crate::source::emit::{self, Layout};
use crate::value::{Map, Value};

/// Spaces per level.
const STEP: usize = 4;
/// Lines of a result are broken behind this column, not counting the indent of the whole.
const WIDTH: usize = 80;

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
    format!("\n{}", block(&Value::map(map)))
}

/// A value as lines, each indented by one step and ended by a newline.
pub(super) fn block(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    let pad = " ".repeat(STEP);
    let indented: Vec<String> = out
        .split_inclusive('\n')
        .map(|line| if line.trim().is_empty() { line.to_owned() } else { format!("{pad}{line}") })
        .collect();
    indented.concat()
}

/// Writes a mapping or list on lines of its own, indented by `level` steps.
fn write(value: &Value, level: usize, out: &mut String) {
    match value {
        Value::Map(map) if !map.is_empty() => {
            let mut entries: Vec<(String, &Value)> =
                map.iter().map(|(key, value)| (key.to_text(), value)).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            for (key, value) in entries {
                let key = Value::str(key);
                match value {
                    Value::Map(inner) if !inner.is_empty() => {
                        push(&head(&key), level, out);
                        write(value, level + 1, out);
                    }
                    Value::List(items) if !items.is_empty() => {
                        push(&head(&key), level, out);
                        write(value, level, out);
                    }
                    Value::Str(text) if text.text.contains('\n') => {
                        literal(head(&key).trim_end(), &text.text, level, out);
                    }
                    scalar => push(
                        &emitted(&Value::map([(key, scalar.clone())].into_iter().collect()), level),
                        level,
                        out,
                    ),
                }
            }
        }
        Value::List(items) if !items.is_empty() => {
            for item in items.iter() {
                match item {
                    Value::Map(_) | Value::List(_) if item.truthy() => {
                        // The first line of what is in it stands beside the dash.
                        let mut inner = String::new();
                        write(item, level + 1, &mut inner);
                        let at = level * STEP;
                        inner.replace_range(at..=at, "-");
                        out.push_str(&inner);
                    }
                    Value::Str(text) if text.text.contains('\n') => literal("-", &text.text, level, out),
                    scalar => push(&emitted(&Value::list(vec![scalar.clone()]), level), level, out),
                }
            }
        }
        other => push(&emitted(other, level), level, out),
    }
}

/// `key:` as it is written, with a newline.
fn head(key: &Value) -> String {
    let text = emitted(&Value::map([(key.clone(), Value::list(vec![Value::Null]))].into_iter().collect()), 0);
    text.split_inclusive('\n').next().unwrap_or_default().to_owned()
}

fn emitted(value: &Value, level: usize) -> String {
    let width = WIDTH.saturating_sub(level * STEP).max(20);
    emit::dump(value, &Layout { indent: STEP, width, ..Layout::default() })
}

/// Lines, each indented by `level` steps.
fn push(text: &str, level: usize, out: &mut String) {
    let pad = " ".repeat(level * STEP);
    for line in text.split_inclusive('\n') {
        out.push_str(&pad);
        out.push_str(line);
    }
}

/// A text of several lines. What a block can't hold (tabs, spaces at line ends, control characters) is changed:
/// this is for people.
fn literal(head: &str, text: &str, level: usize, out: &mut String) {
    let clean: String =
        text.trim_end().chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    let hint = if clean.starts_with([' ', '\n']) { STEP.to_string() } else { String::new() };
    push(&format!("{head} |{hint}-\n"), level, out);
    let pad = " ".repeat((level + 1) * STEP);
    for line in clean.split('\n') {
        let line = expand_tabs(line);
        let line = line.trim_end();
        out.push_str(&if line.is_empty() { "\n".to_owned() } else { format!("{pad}{line}\n") });
    }
}

/// Tabs as spaces up to the next column that eight divides.
fn expand_tabs(line: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for c in line.chars() {
        if c == '\t' {
            let gap = 8 - column % 8;
            out.push_str(&" ".repeat(gap));
            column += gap;
        } else {
            out.push(c);
            column += 1;
        }
    }
    out
}
