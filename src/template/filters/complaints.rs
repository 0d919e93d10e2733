//! What Python says of texts that can't be read, in the words that playbooks look for: JSON and patterns.
//!
//! The readers themselves are others; they are asked first, and this tells only why they refused.

/// Why a text is no JSON; `None` if Python would read it.
pub(super) fn json(text: &str) -> Option<String> {
    let mut reader = Json { chars: text.chars().collect(), at: 0 };
    let (message, at) = reader.document().err()?;
    let before = &reader.chars[..at];
    let line = before.iter().filter(|c| **c == '\n').count() + 1;
    let column = at - before.iter().rposition(|c| *c == '\n').map_or(0, |newline| newline + 1) + 1;
    Some(format!("{message}: line {line} column {column} (char {at})"))
}

/// What is wrong, and where.
type Complaint = (&'static str, usize);

struct Json {
    chars: Vec<char>,
    at: usize,
}

/// As deep as the reader itself goes; what nests deeper is its own to refuse.
const MAX_DEPTH: u32 = 128;

impl Json {
    fn next(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn blanks(&mut self) -> Option<char> {
        while matches!(self.next(), Some(' ' | '\t' | '\n' | '\r')) {
            self.at += 1;
        }
        self.next()
    }

    fn document(&mut self) -> Result<(), Complaint> {
        self.value(0)?;
        match self.blanks() {
            Some(_) => Err(("Extra data", self.at)),
            None => Ok(()),
        }
    }

    fn value(&mut self, depth: u32) -> Result<(), Complaint> {
        let start = match self.blanks() {
            _ if depth > MAX_DEPTH => return Ok(()),
            Some('"') => return self.string(),
            Some('{') => return self.object(depth),
            Some('[') => return self.array(depth),
            _ => self.at,
        };
        for word in ["null", "true", "false", "NaN", "Infinity", "-Infinity"] {
            if self.chars[start..].iter().copied().take(word.len()).eq(word.chars()) {
                self.at += word.len();
                return Ok(());
            }
        }
        self.number()
    }

    fn digits(&mut self) -> bool {
        let start = self.at;
        while self.next().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        self.at > start
    }

    fn number(&mut self) -> Result<(), Complaint> {
        let start = self.at;
        if self.next() == Some('-') {
            self.at += 1;
        }
        if self.next() == Some('0') {
            self.at += 1;
        } else if !self.digits() {
            return Err(("Expecting value", start));
        }
        let whole = self.at;
        if self.next() == Some('.') {
            self.at += 1;
            if !self.digits() {
                self.at = whole;
            }
        }
        let mantissa = self.at;
        if matches!(self.next(), Some('e' | 'E')) {
            self.at += 1;
            if matches!(self.next(), Some('+' | '-')) {
                self.at += 1;
            }
            if !self.digits() {
                self.at = mantissa;
            }
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), Complaint> {
        let start = self.at;
        loop {
            self.at += 1;
            match self.next() {
                None => return Err(("Unterminated string starting at", start)),
                Some('"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some('\\') => {
                    let escape = self.at;
                    self.at += 1;
                    match self.next() {
                        None => return Err(("Unterminated string starting at", start)),
                        Some('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => {}
                        Some('u') => {
                            let digits = self.chars.iter().skip(self.at + 1).take(4);
                            if digits.filter(|c| c.is_ascii_hexdigit()).count() < 4 {
                                return Err(("Invalid \\uXXXX escape", escape + 1));
                            }
                            self.at += 4;
                        }
                        Some(_) => return Err(("Invalid \\escape", escape)),
                    }
                }
                Some(c) if (c as u32) < 0x20 => return Err(("Invalid control character at", self.at)),
                Some(_) => {}
            }
        }
    }

    fn array(&mut self, depth: u32) -> Result<(), Complaint> {
        self.at += 1;
        if self.blanks() == Some(']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            match self.blanks() {
                Some(',') => self.at += 1,
                Some(']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(("Expecting ',' delimiter", self.at)),
            }
        }
    }

    fn object(&mut self, depth: u32) -> Result<(), Complaint> {
        self.at += 1;
        if self.blanks() == Some('}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.blanks() != Some('"') {
                return Err(("Expecting property name enclosed in double quotes", self.at));
            }
            self.string()?;
            if self.blanks() != Some(':') {
                return Err(("Expecting ':' delimiter", self.at));
            }
            self.at += 1;
            self.value(depth + 1)?;
            match self.blanks() {
                Some(',') => self.at += 1,
                Some('}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(("Expecting ',' delimiter", self.at)),
            }
        }
    }
}

/// Why a text is no regular expression; `None` if it is something that Python would take, or that it would
/// refuse for another reason than the usual ones.
pub(super) fn pattern(text: &str) -> Option<String> {
    let chars: Vec<char> = text.chars().collect();
    let (message, at) = check_pattern(&chars).err()?;
    let before = &chars[..at.min(chars.len())];
    let place = if chars.contains(&'\n') {
        let line = before.iter().filter(|c| **c == '\n').count() + 1;
        let column = at - before.iter().rposition(|c| *c == '\n').map_or(0, |newline| newline + 1) + 1;
        format!(" (line {line}, column {column})")
    } else {
        String::new()
    };
    Some(format!("{message} at position {at}{place}"))
}

/// What stands before a sign of repetition.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    Item,
    Repeated,
    /// Repeated, and it was said how eagerly.
    Settled,
}

fn check_pattern(chars: &[char]) -> Result<(), Complaint> {
    let mut open = Vec::new();
    let mut before = Before::Nothing;
    let mut at = 0;
    while let Some(&character) = chars.get(at) {
        let start = at;
        at += 1;
        match character {
            '\\' => {
                if at == chars.len() {
                    return Err(("bad escape (end of pattern)", start));
                }
                at += 1;
                before = Before::Item;
            }
            '[' => {
                at = class_end(chars, start)?;
                before = Before::Item;
            }
            '(' => {
                open.push(start);
                at = group_start(chars, at)?;
                before = Before::Nothing;
            }
            ')' => {
                open.pop().ok_or(("unbalanced parenthesis", start))?;
                before = Before::Item;
            }
            '|' | '^' | '$' => before = Before::Nothing,
            '*' | '+' | '?' => {
                before = match (before, character) {
                    (Before::Nothing, _) => return Err(("nothing to repeat", start)),
                    (Before::Item, _) => Before::Repeated,
                    (Before::Repeated, '+' | '?') => Before::Settled,
                    _ => return Err(("multiple repeat", start)),
                };
            }
            '{' => match repeat_end(chars, at)? {
                None => before = Before::Item,
                Some(end) => {
                    at = end;
                    before = match before {
                        Before::Nothing => return Err(("nothing to repeat", start)),
                        Before::Item => Before::Repeated,
                        _ => return Err(("multiple repeat", start)),
                    };
                }
            },
            _ => before = Before::Item,
        }
    }
    open.last().map_or(Ok(()), |start| Err(("missing ), unterminated subpattern", *start)))
}

/// Behind the `]` of a class that starts at `start`.
fn class_end(chars: &[char], start: usize) -> Result<usize, Complaint> {
    let mut at = start + 1;
    if chars.get(at) == Some(&'^') {
        at += 1;
    }
    let first = at;
    loop {
        match chars.get(at) {
            None => return Err(("unterminated character set", start)),
            Some(']') if at > first => return Ok(at + 1),
            Some('\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}

/// Behind what follows the parenthesis of a group: `?:`, `?P<name>` and their kin.
fn group_start(chars: &[char], at: usize) -> Result<usize, Complaint> {
    if chars.get(at) != Some(&'?') {
        return Ok(at);
    }
    let name = match (chars.get(at + 1), chars.get(at + 2)) {
        (None, _) => return Err(("unexpected end of pattern", at + 1)),
        (Some('P'), Some('<')) => at + 3,
        (Some('P'), Some('=')) => return Ok(at + 3),
        (Some('<'), Some('=' | '!')) => return Ok(at + 3),
        _ => return Ok(at + 2),
    };
    let length = chars[name..].iter().position(|c| *c == '>');
    match length {
        None if name == chars.len() => Err(("missing group name", name)),
        None => Err(("missing >, unterminated name", name)),
        Some(0) => Err(("missing group name", name)),
        Some(length) => Ok(name + length + 1),
    }
}

/// Behind a `{2,3}`; `None` if the brace stands for itself.
fn repeat_end(chars: &[char], at: usize) -> Result<Option<usize>, Complaint> {
    let Some(length) = chars[at..].iter().position(|c| *c == '}') else { return Ok(None) };
    let text: String = chars[at..at + length].iter().collect();
    let (least, most) = text.split_once(',').unwrap_or((&text, &text));
    let is_number = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if text.is_empty() || !is_number(least) || !is_number(most) {
        return Ok(None);
    }
    if let (Ok(least), Ok(most)) = (least.parse::<u32>(), most.parse::<u32>())
        && most < least
    {
        return Err(("min repeat greater than max repeat", at));
    }
    Ok(Some(at + length + 1))
}

#[cfg(test)]
mod tests {
    /// Python's own answers.
    #[test]
    fn python_complains_like_this() {
        for (text, expected) in [
            ("", "Expecting value: line 1 column 1 (char 0)"),
            ("x", "Expecting value: line 1 column 1 (char 0)"),
            ("{\"a\": }", "Expecting value: line 1 column 7 (char 6)"),
            ("{a: 1}", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
            ("{\"a\" 1}", "Expecting ':' delimiter: line 1 column 6 (char 5)"),
            ("{\"a\": 1 \"b\"}", "Expecting ',' delimiter: line 1 column 9 (char 8)"),
            ("[1, 2", "Expecting ',' delimiter: line 1 column 6 (char 5)"),
            ("\n[1\n 2]", "Expecting ',' delimiter: line 3 column 2 (char 5)"),
            ("1 2", "Extra data: line 1 column 3 (char 2)"),
            ("01", "Extra data: line 1 column 2 (char 1)"),
            ("-", "Expecting value: line 1 column 1 (char 0)"),
            ("\"abc", "Unterminated string starting at: line 1 column 1 (char 0)"),
            ("[\"\\q\"]", "Invalid \\escape: line 1 column 3 (char 2)"),
            ("[\"a\nb\"]", "Invalid control character at: line 1 column 4 (char 3)"),
            ("[\"\\u12\"]", "Invalid \\uXXXX escape: line 1 column 4 (char 3)"),
        ] {
            assert_eq!(super::json(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["{\"a\": [1, -2.5e3, true, null, NaN], \"b\": {}}", " [ ] ", "\"\\u00e4\""] {
            assert_eq!(super::json(text), None, "{text}");
        }
        for (text, expected) in [
            ("(", "missing ), unterminated subpattern at position 0"),
            ("a(b(c)", "missing ), unterminated subpattern at position 1"),
            ("a)", "unbalanced parenthesis at position 1"),
            ("*", "nothing to repeat at position 0"),
            ("(+a)", "nothing to repeat at position 1"),
            ("x|{2}", "nothing to repeat at position 2"),
            ("^*", "nothing to repeat at position 1"),
            ("(?", "unexpected end of pattern at position 2"),
            ("(?P<>a)", "missing group name at position 4"),
            ("a**", "multiple repeat at position 2"),
            ("[a", "unterminated character set at position 0"),
            ("[]a", "unterminated character set at position 0"),
            ("a\\", "bad escape (end of pattern) at position 1"),
            ("a{2,1}", "min repeat greater than max repeat at position 2"),
            ("(?P<a", "missing >, unterminated name at position 4"),
            ("a\n(b", "missing ), unterminated subpattern at position 2 (line 2, column 1)"),
        ] {
            assert_eq!(super::pattern(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["a{,2}b{x}c*?d++", "(?P<n>a)(?P=n)(?:b|)(?<=a)[]^]", "\\(", "{a}", "a{1}{2}x"] {
            let expected = text.contains("}{").then_some("multiple repeat at position 4");
            assert_eq!(super::pattern(text).as_deref(), expected, "{text}");
        }
    }
}
