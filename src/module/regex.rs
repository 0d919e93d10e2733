//! Regular expressions in Python's dialect, which is what playbooks are written in: translated to that of
//! the engine, with Python's rules for replacements and for empty matches.

use std::borrow::Cow;

use fancy_regex::{Captures, RegexBuilder};

use crate::module::ModuleError;

/// A pattern or replacement that can't be used, or one that took too long.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RegexError(String);

impl From<RegexError> for ModuleError {
    fn from(error: RegexError) -> ModuleError {
        ModuleError::new(error.0)
    }
}

impl From<fancy_regex::Error> for RegexError {
    fn from(error: fancy_regex::Error) -> RegexError {
        RegexError(format!("regular expression failed: {error}"))
    }
}

/// Flags as `re.compile` takes them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    /// `re.MULTILINE`
    pub multiline: bool,
    /// `re.DOTALL`
    pub dotall: bool,
    /// `re.IGNORECASE`
    pub ignorecase: bool,
    /// The pattern must match at the start (`re.match`).
    pub anchored: bool,
}

/// How many steps back a search may take before it is given up.
const BACKTRACK_LIMIT: usize = 10_000_000;

/// A compiled pattern.
#[derive(Debug)]
pub struct Pattern {
    regex: fancy_regex::Regex,
    multiline: bool,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// If it is not valid.
    pub fn new(pattern: &str, flags: Flags) -> Result<Pattern, RegexError> {
        let (inline, _) = leading_flags(pattern);
        let multiline = flags.multiline || inline.contains('m');
        let mut text = String::new();
        if flags.anchored {
            text.push_str("\\A(?:");
        }
        for (set, letter) in [(flags.multiline, 'm'), (flags.dotall, 's'), (flags.ignorecase, 'i')] {
            if set {
                text.push_str(&format!("(?{letter})"));
            }
        }
        let wrong = |reason: String| RegexError(format!("invalid regular expression '{pattern}': {reason}"));
        text.push_str(&translate(pattern, multiline).map_err(wrong)?);
        if flags.anchored {
            text.push(')');
        }
        let regex = RegexBuilder::new(&text)
            .backtrack_limit(BACKTRACK_LIMIT)
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Pattern { regex, multiline })
    }

    /// Whether `^` and `$` match at every line.
    pub fn is_multiline(&self) -> bool {
        self.multiline
    }

    /// The pattern as the engine takes it.
    pub fn engine_text(&self) -> &str {
        self.regex.as_str()
    }

    /// The names of its groups.
    pub fn names(&self) -> Vec<String> {
        self.regex.capture_names().flatten().map(str::to_string).collect()
    }

    /// Whether it matches anywhere in `text`.
    ///
    /// # Errors
    /// If the search takes too long.
    pub fn is_match(&self, text: &str) -> Result<bool, RegexError> {
        Ok(self.regex.is_match(text)?)
    }

    /// The first match and its groups.
    ///
    /// # Errors
    /// If the search takes too long.
    pub fn captures<'t>(&self, text: &'t str) -> Result<Option<Captures<'t>>, RegexError> {
        Ok(self.regex.captures(text)?)
    }

    /// Replaces every match by a template with `\1`, `\g<1>`, `\g<name>`; returns the text and how many
    /// replacements were made.
    ///
    /// # Errors
    /// A template that is not valid; a search that takes too long.
    pub fn sub(&self, template: &str, text: &str) -> Result<(String, usize), RegexError> {
        let template = Template::parse(template)?;
        let mut out = String::with_capacity(text.len());
        let mut count = 0;
        let mut copied = 0;
        let mut from = 0;
        // Where an empty match has already been made: the next one may not be there too.
        let mut empty_at = None;
        while from <= text.len() {
            let Some(captures) = self.regex.captures_from_pos(text, from)? else { break };
            let Some(found) = captures.get(0) else { break };
            if found.start() == found.end() && empty_at == Some(found.start()) {
                from = next_boundary(text, found.start());
                empty_at = None;
                continue;
            }
            out.push_str(&text[copied..found.start()]);
            template.expand(&captures, &mut out)?;
            count += 1;
            copied = found.end();
            from = found.end();
            empty_at = (found.start() == found.end()).then_some(found.end());
        }
        out.push_str(&text[copied..]);
        Ok((out, count))
    }
}

fn next_boundary(text: &str, at: usize) -> usize {
    at + text[at..].chars().next().map_or(1, char::len_utf8)
}

/// Fills in a template with the groups of a match (`match.expand`).
///
/// # Errors
/// A template that is not valid.
pub fn expand(template: &str, captures: &Captures<'_>) -> Result<String, RegexError> {
    let mut out = String::new();
    Template::parse(template)?.expand(captures, &mut out)?;
    Ok(out)
}

enum Piece {
    Text(String),
    Number(usize),
    Name(String),
}

struct Template(Vec<Piece>);

impl Template {
    fn parse(template: &str) -> Result<Template, RegexError> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = template;
        while let Some(at) = rest.find('\\') {
            text.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let Some(first) = rest.chars().next() else {
                return Err(RegexError("bad escape (end of pattern)".into()));
            };
            let digits = rest.bytes().take(3).take_while(u8::is_ascii_digit).count();
            let octal = rest.bytes().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
            let mut taken = first.len_utf8();
            match first {
                'g' => {
                    let name = rest[1..]
                        .strip_prefix('<')
                        .and_then(|inner| inner.split_once('>'))
                        .map(|(name, _)| name)
                        .filter(|name| !name.is_empty())
                        .ok_or_else(|| RegexError("missing group name in replacement".into()))?;
                    taken = name.len() + 3;
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                    pieces.push(name.parse().map_or_else(|_| Piece::Name(name.to_string()), Piece::Number));
                }
                // An octal character: a leading zero, or three octal digits.
                '0'..='9' if first == '0' || octal == 3 => {
                    taken = if first == '0' { octal.min(3) } else { 3 };
                    let code = u32::from_str_radix(&rest[..taken], 8).unwrap_or(0);
                    text.extend(char::from_u32(code & 0xff));
                }
                '1'..='9' => {
                    taken = digits.min(2);
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                    pieces.push(Piece::Number(rest[..taken].parse().unwrap_or(0)));
                }
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                'a' => text.push('\x07'),
                'b' => text.push('\x08'),
                'f' => text.push('\x0c'),
                'v' => text.push('\x0b'),
                '\\' => text.push('\\'),
                letter if letter.is_ascii_alphabetic() => {
                    return Err(RegexError(format!("bad escape \\{letter}")));
                }
                other => text.extend(['\\', other]),
            }
            rest = &rest[taken..];
        }
        text.push_str(rest);
        pieces.push(Piece::Text(text));
        Ok(Template(pieces))
    }

    fn expand(&self, captures: &Captures<'_>, out: &mut String) -> Result<(), RegexError> {
        for piece in &self.0 {
            let group = match piece {
                Piece::Text(text) => {
                    out.push_str(text);
                    continue;
                }
                Piece::Number(number) if *number < captures.len() => captures.get(*number),
                Piece::Number(number) => {
                    return Err(RegexError(format!("invalid group reference {number}")));
                }
                Piece::Name(name) => captures.name(name),
            };
            out.push_str(group.map_or("", |group| group.as_str()));
        }
        Ok(())
    }
}

/// The letters of a `(?im)` that opens the pattern, and their length with brackets.
fn leading_flags(pattern: &str) -> (&str, usize) {
    let Some(inner) = pattern.strip_prefix("(?") else { return ("", 0) };
    match inner.find(')') {
        Some(end) if end > 0 && inner[..end].chars().all(|c| "aiLmsux".contains(c)) => {
            (&inner[..end], end + 3)
        }
        _ => ("", 0),
    }
}

/// Rewrites what the two dialects disagree about.
fn translate(pattern: &str, multiline: bool) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 8);
    let (flags, length) = leading_flags(pattern);
    // `a`, `L` and `u` choose character sets, which are always Unicode's here.
    let flags: String = flags.chars().filter(|flag| "imsx".contains(*flag)).collect();
    if !flags.is_empty() {
        out.push_str(&format!("(?{flags})"));
    }
    let characters: Vec<char> = pattern[length..].chars().collect();
    let mut at = 0;
    while at < characters.len() {
        let character = characters[at];
        match character {
            '\\' => at = escape(&characters, at, false, &mut out)?,
            '[' => at = class(&characters, at, &mut out)?,
            '$' if !multiline => {
                out.push_str("(?=\\n?\\z)");
                at += 1;
            }
            '{' => {
                let (text, next) = repetition(&characters, at);
                out.push_str(&text);
                at = next;
            }
            '(' if characters[at + 1..].starts_with(&['?', '#']) => {
                at = characters[at..]
                    .iter()
                    .position(|c| *c == ')')
                    .map(|end| at + end + 1)
                    .ok_or("missing ), unterminated comment")?;
            }
            '(' if characters[at + 1..].starts_with(&['?', '<'])
                && !matches!(characters.get(at + 3), Some('=' | '!')) =>
            {
                return Err("unknown extension ?<".into());
            }
            other => {
                out.push(other);
                at += 1;
            }
        }
    }
    Ok(out)
}

/// A `{` as a repetition if it is one, else as itself.
fn repetition(characters: &[char], at: usize) -> (String, usize) {
    let end = characters[at..].iter().position(|c| *c == '}').map(|end| at + end);
    let literal = ("\\{".to_string(), at + 1);
    let Some(end) = end else { return literal };
    let body: String = characters[at + 1..end].iter().collect();
    let (low, high) = body.split_once(',').map_or((body.as_str(), None), |(low, high)| (low, Some(high)));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    match high {
        Some(high) if digits(low) && digits(high) => {
            let low = if low.is_empty() { "0" } else { low };
            (format!("{{{low},{high}}}"), end + 1)
        }
        None if !low.is_empty() && digits(low) => (format!("{{{low}}}"), end + 1),
        _ => literal,
    }
}

/// Copies a `[…]`, with what would have a meaning in the other dialect escaped.
fn class(characters: &[char], start: usize, out: &mut String) -> Result<usize, String> {
    let mut at = start + 1;
    out.push('[');
    if characters.get(at) == Some(&'^') {
        out.push('^');
        at += 1;
    }
    let first = at;
    loop {
        match characters.get(at) {
            None => return Err("unterminated character set".into()),
            Some(']') if at > first => {
                out.push(']');
                return Ok(at + 1);
            }
            Some('\\') => at = escape(characters, at, true, out)?,
            Some(character @ ('[' | ']' | '&' | '~')) => {
                out.extend(['\\', *character]);
                at += 1;
            }
            Some('-') if characters.get(at + 1) == Some(&'-') || at == first => {
                out.push_str("\\-");
                at += 1;
            }
            Some(character) => {
                out.push(*character);
                at += 1;
            }
        }
    }
}

/// Copies a backslash and what follows it; returns where to go on.
fn escape(characters: &[char], at: usize, in_class: bool, out: &mut String) -> Result<usize, String> {
    let Some(&character) = characters.get(at + 1) else { return Err("bad escape (end of pattern)".into()) };
    let octal = |limit: usize| {
        characters[at + 1..].iter().take(limit).take_while(|c| ('0'..='7').contains(*c)).count()
    };
    match character {
        'Z' if !in_class => out.push_str("\\z"),
        'A' | 'B' if !in_class => out.extend(['\\', character]),
        'b' => out.push_str(if in_class { "\\x08" } else { "\\b" }),
        'd' | 'D' | 's' | 'S' | 'w' | 'W' | 'n' | 't' | 'r' | 'f' | 'v' | 'a' | 'x' => {
            out.extend(['\\', character]);
        }
        'u' | 'U' => {
            let length = if character == 'u' { 4 } else { 8 };
            let digits: String = characters[at + 2..].iter().take(length).collect();
            if digits.len() != length || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
                return Err(format!("incomplete escape \\{character}"));
            }
            out.push_str(&format!("\\x{{{digits}}}"));
            return Ok(at + 2 + length);
        }
        '0'..='9' if character == '0' || in_class || octal(3) == 3 => {
            let count = octal(3);
            if count == 0 {
                return Err(format!("bad escape \\{character}"));
            }
            let digits: String = characters[at + 1..at + 1 + count].iter().collect();
            let code = u32::from_str_radix(&digits, 8).unwrap_or(0);
            out.push_str(&format!("\\x{{{code:x}}}"));
            return Ok(at + 1 + count);
        }
        '1'..='9' => {
            let digits: String =
                characters[at + 1..].iter().take(2).take_while(|c| c.is_ascii_digit()).collect();
            // Bracketed, so that a digit that follows is not taken for a part of the number.
            out.push_str(&format!("(?:\\{digits})"));
            return Ok(at + 1 + digits.len());
        }
        letter if letter.is_ascii_alphabetic() => return Err(format!("bad escape \\{letter}")),
        other => {
            if other.is_ascii_punctuation() {
                out.push('\\');
            }
            out.push(other);
        }
    }
    Ok(at + 2)
}

/// A shell pattern (`*`, `?`, `[…]`) as a regular expression for the whole of a name.
pub fn fnmatch(pattern: &str) -> String {
    let characters: Vec<char> = pattern.chars().collect();
    let mut out = String::from("(?s:");
    let mut at = 0;
    while at < characters.len() {
        match characters[at] {
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            '[' => {
                let negated = characters.get(at + 1) == Some(&'!');
                let first = at + 1 + usize::from(negated);
                // A bracket that comes first stands for itself.
                let end = (first + 1..characters.len()).find(|index| characters[*index] == ']');
                match end {
                    Some(end) => {
                        out.push_str(if negated { "[^" } else { "[" });
                        for character in &characters[first..end] {
                            if matches!(character, '\\' | '^' | ']' | '[') {
                                out.push('\\');
                            }
                            out.push(*character);
                        }
                        out.push(']');
                        at = end;
                    }
                    None => out.push_str("\\["),
                }
            }
            character => {
                if !character.is_alphanumeric() {
                    out.push('\\');
                }
                out.push(character);
            }
        }
        at += 1;
    }
    out.push_str(")\\Z");
    out
}

/// Content as text that can be searched: UTF-8 where it is, else one character a byte, so that nothing is
/// lost on the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// UTF-8.
    Utf8,
    /// One character a byte.
    Bytes,
}

impl Coding {
    /// Reads content.
    pub fn decode(bytes: Vec<u8>) -> (Coding, String) {
        match String::from_utf8(bytes) {
            Ok(text) => (Coding::Utf8, text),
            Err(error) => (Coding::Bytes, error.as_bytes().iter().map(|byte| char::from(*byte)).collect()),
        }
    }

    /// A parameter in the same form as the content.
    pub fn parameter<'a>(self, text: &'a str) -> Cow<'a, str> {
        match self {
            Coding::Bytes if !text.is_ascii() => text.bytes().map(char::from).collect::<String>().into(),
            _ => text.into(),
        }
    }

    /// The bytes of a text.
    pub fn encode(self, text: String) -> Vec<u8> {
        match self {
            Coding::Utf8 => text.into_bytes(),
            #[expect(clippy::cast_possible_truncation, reason = "each character is one byte in this coding")]
            Coding::Bytes => text.chars().map(|character| character as u32 as u8).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: Flags = Flags { multiline: true, dotall: false, ignorecase: false, anchored: false };

    #[test]
    fn searches_as_python_does() {
        let plain = Flags::default();
        for (pattern, flags, text, expected) in [
            ("^foo$", plain, "foo\n", true),
            ("^foo$", plain, "foo\n\n", false),
            ("^b$", plain, "a\nb\nc", false),
            ("^b$", M, "a\nb\nc", true),
            ("(?m)^b$", plain, "a\nb\nc", true),
            (r"foo\Z", plain, "foo\n", false),
            (r"a{,2}b{x}", plain, "aab{x}", true),
            ("{{ name }}", plain, "say {{ name }}", true),
            (r"\<key\>", plain, "<key>", true),
            (r"[[:]x", plain, "[x", true),
            (r"[]a]+z", plain, "]az", true),
            (r"[a&&b]", plain, "&", true),
            (r"[\w.-]+@", plain, "a.b-c@", true),
            (r"(?P<q>['\x22]).*(?P=q)", plain, "x = 'a'", true),
            (r"(a)\1", plain, "aa", true),
            (r"(?<!#)key", plain, "#key", false),
            (r"^\s*#?\s*PermitRootLogin\b", plain, "  # PermitRootLogin no", true),
            (r"\/etc\/\#\ x", plain, "/etc/# x", true),
            (r"(?i)ABC", plain, "xabc", true),
            (r"a(?#comment)b", plain, "ab", true),
            (r"\u0041\x42\103", plain, "ABC", true),
        ] {
            let pattern_ = Pattern::new(pattern, flags).expect(pattern);
            assert_eq!(pattern_.is_match(text).expect("ends"), expected, "{pattern} on {text:?}");
        }
    }

    #[test]
    fn refuses_what_python_refuses() {
        for pattern in ["(", "[a", r"\h", "a**", "(?<n>x)", "\\"] {
            assert!(Pattern::new(pattern, Flags::default()).is_err(), "{pattern}");
        }
    }

    #[test]
    fn replaces_as_python_does() {
        for (pattern, template, text, expected, count) in [
            ("x*", "-", "abxd", "-a-b--d-", 5),
            ("(a)(b)?", r"<\1|\2>", "aba", "<a|b><a|>", 2),
            (r"(?P<n>\d+)", r"\g<n>0\g<0>", "7", "707", 1),
            ("a", r"\n\t\\", "a", "\n\t\\", 1),
            ("a", r"\.$1", "a", r"\.$1", 1),
            (r"^(\w+)$", r"\1!", "a\nb", "a!\nb!", 2),
            ("é", "e", "ééx", "eex", 2),
        ] {
            let pattern_ = Pattern::new(pattern, M).expect(pattern);
            assert_eq!(
                pattern_.sub(template, text).expect("valid"),
                (expected.to_string(), count),
                "{pattern}"
            );
        }
        let pattern = Pattern::new("a", M).expect("valid");
        assert!(pattern.sub(r"\2", "a").is_err());
        assert!(pattern.sub(r"\q", "a").is_err());
    }

    #[test]
    fn shell_patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("*.log", "a.log", true),
            ("*.log", "a.log.gz", false),
            ("a?c", "abc", true),
            ("[!a]*", "b", true),
            ("[!a]*", "a", false),
            ("[]x]", "]", true),
            ("[a-c]1", "b1", true),
            ("a[", "a[", true),
            ("a+(b) c", "a+(b) c", true),
            ("_é-", "_é-", true),
        ] {
            let flags = Flags { anchored: true, ..Flags::default() };
            let compiled = Pattern::new(&fnmatch(pattern), flags).expect(pattern);
            assert_eq!(compiled.is_match(name).expect("ends"), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn content_that_is_not_utf8_survives() {
        let bytes = vec![b'a', 0xff, b'b', 0xc3];
        let (coding, text) = Coding::decode(bytes.clone());
        assert_eq!(coding, Coding::Bytes);
        assert_eq!(coding.encode(text), bytes);
        assert_eq!(coding.parameter("é"), "\u{c3}\u{a9}");
    }
}
