//! Python literals, which is what values in INI inventories are.
//!
//! `1` is a number, `True` a boolean, `[1, 'a']` a list, `80,443` a list too; what isn't a literal is text.

use std::sync::Arc;

use crate::value::{Map, Origin, Value};

/// Reads a Python literal; the text itself if it is none.
pub(super) fn value_of(text: &str, origin: &Arc<Origin>) -> Value {
    parse(text, origin).unwrap_or_else(|| Value::written(text, Arc::clone(origin)))
}

/// Literals inside each other at most.
const MAX_DEPTH: usize = 50;

fn parse(text: &str, origin: &Arc<Origin>) -> Option<Value> {
    // Most values are plain words; they need no reader.
    let first = text.trim_start_matches([' ', '\t']).chars().next()?;
    let literal = matches!(first, '0'..='9' | '.' | '+' | '-' | '"' | '\'' | '[' | '(' | '{')
        || text.starts_with(['T', 'F', 'N', 'E', 'r', 'R', 'b', 'B', 'u', 'U', 's']);
    if !literal {
        return None;
    }
    let mut reader = Reader { rest: text.trim_start_matches([' ', '\t']), origin, depth: 0, nested: false };
    let first = reader.value()?;
    reader.space();
    let value = if reader.rest.starts_with(',') {
        let mut items = vec![first];
        while reader.take(',') {
            reader.space();
            if reader.at_end() {
                break;
            }
            items.push(reader.value()?);
            reader.space();
        }
        Value::list(items)
    } else {
        first
    };
    reader.at_end().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
    origin: &'a Arc<Origin>,
    depth: usize,
    /// Inside brackets, where newlines are space.
    nested: bool,
}

impl<'a> Reader<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\x0c']);
        if self.nested {
            self.rest = self.rest.trim_start();
        }
    }

    /// Whether only a comment is left.
    fn at_end(&self) -> bool {
        self.rest.is_empty() || self.rest.starts_with('#')
    }

    fn take(&mut self, character: char) -> bool {
        match self.rest.strip_prefix(character) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self) -> Option<Value> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let value = self.any_value();
        self.depth -= 1;
        value
    }

    fn any_value(&mut self) -> Option<Value> {
        self.space();
        match self.rest.chars().next()? {
            '[' => self.items('[', ']').map(|(items, _)| Value::list(items)),
            '(' => {
                let (mut items, comma) = self.items('(', ')')?;
                if items.len() == 1 && !comma { items.pop() } else { Some(Value::list(items)) }
            }
            '{' => self.braces(),
            '+' | '-' => self.signed(),
            '0'..='9' => self.number(),
            '.' if self.rest.starts_with("...") => {
                self.rest = &self.rest[3..];
                Some(self.text("..."))
            }
            '.' => self.number(),
            _ => self.word(),
        }
    }

    fn text(&self, text: &str) -> Value {
        Value::written(text, Arc::clone(self.origin))
    }

    fn word(&mut self) -> Option<Value> {
        if let Some(text) = self.strings() {
            return Some(self.text(&text));
        }
        let length = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(length);
        let value = match word {
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            "None" => Value::Null,
            "Ellipsis" => return None,
            "set" => {
                self.rest = rest.trim_start().strip_prefix('(')?.trim_start().strip_prefix(')')?;
                return Some(Value::list(Vec::new()));
            }
            _ => return None,
        };
        self.rest = rest;
        Some(value)
    }

    /// Items between brackets, and whether the last one is followed by a comma.
    fn items(&mut self, open: char, close: char) -> Option<(Vec<Value>, bool)> {
        let nested = std::mem::replace(&mut self.nested, true);
        self.take(open);
        let mut items = Vec::new();
        let mut comma = false;
        loop {
            self.space();
            if self.take(close) {
                break;
            }
            if !items.is_empty() && !comma {
                return None;
            }
            items.push(self.value()?);
            self.space();
            comma = self.take(',');
        }
        self.nested = nested;
        Some((items, comma))
    }

    /// A dictionary or a set; a set becomes a list.
    fn braces(&mut self) -> Option<Value> {
        let nested = std::mem::replace(&mut self.nested, true);
        self.take('{');
        let mut map = Map::new();
        let mut items: Vec<Value> = Vec::new();
        let mut comma = true;
        loop {
            self.space();
            if self.take('}') {
                break;
            }
            if !comma {
                return None;
            }
            let key = self.value()?;
            if matches!(key, Value::List(_) | Value::Map(_)) && !self.rest.is_empty() {
                return None;
            }
            self.space();
            if self.take(':') {
                if !items.is_empty() {
                    return None;
                }
                map.insert(key, self.value()?);
            } else {
                if !map.is_empty() {
                    return None;
                }
                if !items.contains(&key) {
                    items.push(key);
                }
            }
            self.space();
            comma = self.take(',');
        }
        self.nested = nested;
        Some(if items.is_empty() { Value::map(map) } else { Value::list(items) })
    }

    fn signed(&mut self) -> Option<Value> {
        let negative = self.rest.starts_with('-');
        self.rest = &self.rest[1..];
        self.space();
        if !self.rest.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return None;
        }
        match self.number()? {
            Value::Int(int) if negative => Some(Value::Int(-int)),
            Value::Float(float) if negative => Some(Value::Float(-float)),
            value @ (Value::Int(_) | Value::Float(_)) => Some(value),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Value> {
        let length = self.number_length();
        let (token, rest) = self.rest.split_at(length);
        if let Some(after) = rest.strip_prefix(['j', 'J'])
            && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_')
        {
            // There are no complex numbers here; they stay text.
            number(token)?;
            let text = self.text(&self.rest[..=length]);
            self.rest = after;
            return Some(text);
        }
        // `10.0.0.1`, `5m` and `1-2` are no numbers.
        if rest.starts_with(|c: char| c.is_alphanumeric() || c == '.' || c == '_') {
            return None;
        }
        let value = number(token)?;
        self.rest = rest;
        Some(value)
    }

    fn number_length(&self) -> usize {
        let bytes = self.rest.as_bytes();
        let radix = matches!(bytes, [b'0', b'x' | b'X' | b'o' | b'O' | b'b' | b'B', ..]);
        let mut length = if radix { 2 } else { 0 };
        while let Some(byte) = bytes.get(length) {
            let part_of_number = byte.is_ascii_digit()
                || *byte == b'_'
                || (radix && byte.is_ascii_hexdigit())
                || (!radix && matches!(byte, b'.' | b'e' | b'E'))
                || (!radix && matches!(byte, b'+' | b'-') && matches!(bytes[length - 1], b'e' | b'E'));
            if !part_of_number {
                break;
            }
            length += 1;
        }
        length
    }

    /// Strings that stand side by side are one.
    fn strings(&mut self) -> Option<String> {
        let mut whole = String::new();
        let mut any = false;
        while let Some((piece, rest)) = string(self.rest) {
            whole.push_str(&piece);
            self.rest = rest;
            any = true;
            self.space();
        }
        any.then_some(whole)
    }
}

/// Underscores stand between two digits only.
fn without_underscores(token: &str) -> Option<String> {
    let bytes = token.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        if *byte == b'_' {
            let before =
                index.checked_sub(1).and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_alphanumeric);
            let after = bytes.get(index + 1).is_some_and(u8::is_ascii_alphanumeric);
            if !before || !after {
                return None;
            }
        }
    }
    Some(token.replace('_', ""))
}

fn number(token: &str) -> Option<Value> {
    let digits = without_underscores(token)?;
    let lower = digits.to_ascii_lowercase();
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = lower.strip_prefix(prefix) {
            return i64::from_str_radix(digits, radix).ok().map(Value::Int);
        }
    }
    if lower.bytes().all(|byte| byte.is_ascii_digit()) {
        // `0644` is not Python.
        if lower.len() > 1 && lower.starts_with('0') && lower.bytes().any(|byte| byte != b'0') {
            return None;
        }
        return lower.parse().ok().map(Value::Int);
    }
    lower.parse().ok().map(Value::Float)
}

/// One string literal at the start of the text, and what follows it.
fn string(text: &str) -> Option<(String, &str)> {
    let quote_at = text.find(['"', '\''])?;
    let prefix = text[..quote_at].to_ascii_lowercase();
    let raw = match prefix.as_str() {
        "" | "u" | "b" => false,
        "r" | "br" | "rb" => true,
        _ => return None,
    };
    let rest = &text[quote_at..];
    let quote = &rest[..1];
    let triple = rest.get(..3).is_some_and(|start| start.chars().all(|c| quote.starts_with(c)));
    let delimiter = if triple { &rest[..3] } else { quote };
    let mut rest = &rest[delimiter.len()..];
    let mut out = String::new();
    loop {
        if let Some(after) = rest.strip_prefix(delimiter) {
            return Some((out, after));
        }
        let character = rest.chars().next()?;
        rest = &rest[character.len_utf8()..];
        match character {
            '\n' if !triple => return None,
            '\\' if raw => {
                out.push('\\');
                let next = rest.chars().next()?;
                out.push(next);
                rest = &rest[next.len_utf8()..];
            }
            '\\' => rest = escape(rest, &mut out)?,
            character => out.push(character),
        }
    }
}

/// Reads what follows a backslash.
fn escape<'a>(rest: &'a str, out: &mut String) -> Option<&'a str> {
    let character = rest.chars().next()?;
    let after = &rest[character.len_utf8()..];
    let simple = match character {
        '\n' => return Some(after),
        '\\' | '\'' | '"' => character,
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        'x' | 'u' | 'U' => {
            let length = match character {
                'x' => 2,
                'u' => 4,
                _ => 8,
            };
            let digits = after.get(..length)?;
            out.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
            return Some(&after[length..]);
        }
        '0'..='7' => {
            let length = rest.bytes().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
            out.push(char::from_u32(u32::from_str_radix(&rest[..length], 8).ok()?)?);
            return Some(&rest[length..]);
        }
        'N' => return None,
        other => {
            out.push('\\');
            other
        }
    };
    out.push(simple);
    Some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Python's `ast.literal_eval` makes of these, as Ansible's INI plugin uses it, was checked with
    /// Python 3.11.
    #[test]
    fn reads_as_python_does() {
        let origin = Arc::new(Origin { file: Arc::from("t"), line: 1, column: 1 });
        for (text, expected) in [
            ("", "''"),
            ("1", "1"),
            ("-1", "-1"),
            ("+1", "1"),
            ("- 1", "-1"),
            ("--1", "'--1'"),
            ("1.5", "1.5"),
            ("1.", "1.0"),
            (".5", "0.5"),
            ("1e3", "1000.0"),
            ("1_000", "1000"),
            ("1__0", "'1__0'"),
            ("_1", "'_1'"),
            ("1_", "'1_'"),
            ("0644", "'0644'"),
            ("08", "'08'"),
            ("00", "0"),
            ("0o17", "15"),
            ("0x10", "16"),
            ("0b11", "3"),
            ("0x", "'0x'"),
            ("10.0.0.1", "'10.0.0.1'"),
            ("5m", "'5m'"),
            ("1-2", "'1-2'"),
            ("99999999999999999999", "'99999999999999999999'"),
            ("True", "True"),
            ("true", "'true'"),
            ("Truex", "'Truex'"),
            ("None", "None"),
            ("null", "'null'"),
            ("'a'", "'a'"),
            ("\"a\"", "'a'"),
            ("'a' 'b'", "'ab'"),
            ("'it\\'s'", "\"it's\""),
            ("'a\\tb\\x41\\u00e9\\101\\q'", "'a\\tbAéA\\\\q'"),
            ("r'a\\tb'", "'a\\\\tb'"),
            ("b'x'", "'x'"),
            ("f'x'", "\"f'x'\""),
            ("'a", "\"'a\""),
            ("'a'b", "\"'a'b\""),
            ("'''a'b'''", "\"a'b\""),
            ("[1, 'a', True]", "[1, 'a', True]"),
            ("[1, 2,]", "[1, 2]"),
            ("[1 2]", "'[1 2]'"),
            ("[,]", "'[,]'"),
            ("[a]", "'[a]'"),
            ("[]", "[]"),
            ("()", "[]"),
            ("(1)", "1"),
            ("(1,)", "[1]"),
            ("(1, 2)", "[1, 2]"),
            ("80,443", "[80, 443]"),
            ("80,", "[80]"),
            ("a,b", "'a,b'"),
            ("{'a': 1, 'b': [2]}", "{'a': 1, 'b': [2]}"),
            ("{'a': {'b': None}}", "{'a': {'b': None}}"),
            ("{}", "{}"),
            ("{1, 2, 1}", "[1, 2]"),
            ("set()", "[]"),
            ("{a: 1}", "'{a: 1}'"),
            ("{'a': 1", "\"{'a': 1\""),
            ("80 # web", "80"),
            ("foo # x", "'foo # x'"),
            ("[1, # x", "'[1, # x'"),
            ("{{ x }}", "'{{ x }}'"),
            ("'{{ x }}'", "'{{ x }}'"),
            ("...", "'...'"),
            (" 1", "1"),
            ("1 ", "1"),
        ] {
            assert_eq!(value_of(text, &origin).repr(), expected, "{text:?}");
        }
        let deep = "[".repeat(10_000);
        assert_eq!(value_of(&deep, &origin).as_str(), Some(deep.as_str()));
    }
}
