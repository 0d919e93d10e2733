//! JSON as Python's `json` module writes and reads it.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::value::{Origin, Value, float_repr};

/// How JSON is laid out.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Spaces per level; `None` puts everything on one line.
    pub indent: Option<usize>,
    /// Whether keys are sorted by their text.
    pub sort_keys: bool,
    /// Whether what isn't ASCII is written as `\uXXXX`.
    pub ensure_ascii: bool,
    /// What stands between items, and between key and value. The default depends on `indent`, as Python's
    /// does.
    pub separators: Option<(String, String)>,
}

impl Default for Layout {
    fn default() -> Layout {
        Layout { indent: None, sort_keys: false, ensure_ascii: true, separators: None }
    }
}

impl Layout {
    /// The layout of the `to_nice_json` filter.
    pub fn nice() -> Layout {
        Layout { indent: Some(4), sort_keys: true, ..Layout::default() }
    }

    /// Sets the indent.
    #[must_use]
    pub fn indent(self, indent: usize) -> Layout {
        Layout { indent: Some(indent), ..self }
    }
}

/// Writes a value as Python's `json.dumps` does.
pub fn dump(value: &Value, layout: &Layout) -> String {
    let (item, key) = match &layout.separators {
        Some((item, key)) => (item.as_str(), key.as_str()),
        None if layout.indent.is_some() => (",", ": "),
        None => (", ", ": "),
    };
    let mut writer = Writer { out: String::new(), layout, item, key };
    writer.value(value, 0);
    writer.out
}

struct Writer<'a> {
    out: String,
    layout: &'a Layout,
    item: &'a str,
    key: &'a str,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, level: usize) {
        match value {
            Value::Null | Value::Omit | Value::Pending => self.out.push_str("null"),
            Value::Bool(true) => self.out.push_str("true"),
            Value::Bool(false) => self.out.push_str("false"),
            Value::Int(int) => {
                let _ = write!(self.out, "{int}");
            }
            Value::Float(float) => self.out.push_str(&number(*float)),
            Value::Str(text) => self.string(&text.text),
            Value::Vault(vault) => self.string(&vault.envelope),
            Value::List(items) => {
                self.sequence('[', ']', items.len(), level, |writer, index| {
                    writer.value(&items[index], level + 1)
                });
            }
            Value::Map(map) => {
                let mut entries: Vec<(String, &Value)> =
                    map.iter().map(|(key, value)| (key_text(key), value)).collect();
                if self.layout.sort_keys {
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.entries(&entries, level);
            }
            Value::Lazy(lazy) => {
                let values: Vec<(String, Value)> = lazy
                    .keys()
                    .iter()
                    .map(|key| (key.to_string(), lazy.get(key).unwrap_or_default()))
                    .collect();
                let mut entries: Vec<(String, &Value)> =
                    values.iter().map(|(key, value)| (key.clone(), value)).collect();
                if self.layout.sort_keys {
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.entries(&entries, level);
            }
        }
    }

    fn entries(&mut self, entries: &[(String, &Value)], level: usize) {
        self.sequence('{', '}', entries.len(), level, |writer, index| {
            let (key, value) = &entries[index];
            writer.string(key);
            let separator = writer.key;
            writer.out.push_str(separator);
            writer.value(value, level + 1);
        });
    }

    fn sequence(
        &mut self,
        open: char,
        close: char,
        count: usize,
        level: usize,
        mut item: impl FnMut(&mut Self, usize),
    ) {
        self.out.push(open);
        for index in 0..count {
            if index > 0 {
                let separator = self.item;
                self.out.push_str(separator);
            }
            self.line(level + 1);
            item(self, index);
        }
        if count > 0 {
            self.line(level);
        }
        self.out.push(close);
    }

    fn line(&mut self, level: usize) {
        if let Some(indent) = self.layout.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * level));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.layout.ensure_ascii && (!c.is_ascii() || c == '\u{7f}')) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn number(float: f64) -> String {
    if float.is_nan() {
        "NaN".into()
    } else if float.is_infinite() {
        if float > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        float_repr(float)
    }
}

/// The text of a key: JSON's keys are strings.
fn key_text(key: &Value) -> String {
    match key {
        Value::Null => "null".into(),
        Value::Bool(true) => "true".into(),
        Value::Bool(false) => "false".into(),
        Value::Float(float) => number(*float),
        other => other.to_text(),
    }
}

/// Reads JSON; no string in it is a template.
///
/// # Errors
/// It isn't JSON; with the place.
pub fn parse(file: &str, text: &str) -> Result<Value, Diagnostic> {
    serde_json::from_str(text).map_err(|error| {
        let line = u32::try_from(error.line().max(1)).unwrap_or(u32::MAX);
        let column = u32::try_from(error.column().max(1)).unwrap_or(u32::MAX);
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or(&message);
        Diagnostic::error(format!("invalid JSON: {message}")).at(Some(Arc::new(Origin {
            file: Arc::from(file),
            line,
            column,
        })))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from Python 3.11's `json.dumps`.
    #[test]
    fn writes_as_python_does() {
        let plain = Layout::default;
        for (input, layout, expected) in [
            (r#"null"#, plain(), r#"null"#),
            (r#"[1, 2, {"b": 1, "a": []}]"#, plain(), r#"[1, 2, {"b": 1, "a": []}]"#),
            (
                r#"[1, 2, {"b": 1, "a": [], "c": {}}]"#,
                Layout { indent: Some(4), sort_keys: true, ..plain() },
                "[\n    1,\n    2,\n    {\n        \"a\": [],\n        \"b\": 1,\n        \"c\": {}\n    }\n]",
            ),
            (
                r#"{"\u00e9": "\ud83d\ude00\u0007\"\\/\n\t\u007f"}"#,
                plain(),
                r#"{"\u00e9": "\ud83d\ude00\u0007\"\\/\n\t\u007f"}"#,
            ),
            (r#"{"\u00e9": "\ud83d\ude00"}"#, Layout { ensure_ascii: false, ..plain() }, r#"{"é": "😀"}"#),
            (r#"[]"#, Layout { indent: Some(2), ..plain() }, r#"[]"#),
            (r#"[[]]"#, Layout { indent: Some(2), ..plain() }, "[\n  []\n]"),
            (r#"{"b": 1, "a": 2}"#, Layout { sort_keys: true, ..plain() }, r#"{"a": 2, "b": 1}"#),
            (r#"[1.0, 1e+16, 1e-07, 0.1, -0.0, 1e+22]"#, plain(), r#"[1.0, 1e+16, 1e-07, 0.1, -0.0, 1e+22]"#),
            (
                r#"[true, false, null]"#,
                Layout { separators: Some((",".into(), ":".into())), ..plain() },
                r#"[true,false,null]"#,
            ),
            (
                r#"{"a": [1, {"b": 2}]}"#,
                Layout { indent: Some(0), ..plain() },
                "{\n\"a\": [\n1,\n{\n\"b\": 2\n}\n]\n}",
            ),
        ] {
            let value = parse("t", input).expect(input);
            assert_eq!(dump(&value, &layout), expected);
        }
        assert_eq!(dump(&Value::Float(f64::NAN), &plain()), "NaN");
        assert_eq!(dump(&Value::Float(f64::NEG_INFINITY), &plain()), "-Infinity");
        let odd_keys = Value::map(
            [
                (Value::Int(1), Value::Null),
                (Value::Null, Value::Bool(true)),
                (Value::Bool(false), Value::Int(2)),
            ]
            .into_iter()
            .collect(),
        );
        assert_eq!(dump(&odd_keys, &plain()), r#"{"1": null, "null": true, "false": 2}"#);
    }

    #[test]
    fn errors_have_a_place() {
        let error = parse("t.json", "{\n \"a\": x}").expect_err("not JSON");
        assert_eq!(error.to_string(), "t.json:2:7: invalid JSON: expected value");
        parse("t.json", &"[".repeat(100_000)).expect_err("too deep");
    }
}
