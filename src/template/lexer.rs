//! Cuts a template into text and tokens, with Jinja2's rules for whitespace around tags.

use super::error::TemplateError;

/// The delimiters and whitespace rules of one template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Syntax {
    /// `{%`
    pub block_start: String,
    /// `%}`
    pub block_end: String,
    /// `{{`
    pub variable_start: String,
    /// `}}`
    pub variable_end: String,
    /// `{#`
    pub comment_start: String,
    /// `#}`
    pub comment_end: String,
    /// A line that begins with this (after blanks) is a block as a whole. Empty: there are none.
    pub line_statement: String,
    /// The newline after a block or comment is removed.
    pub trim_blocks: bool,
    /// Blanks before a block or comment at the start of a line are removed.
    pub lstrip_blocks: bool,
    /// A newline at the very end stays.
    pub keep_trailing_newline: bool,
    /// What newlines in text become.
    pub newline_sequence: String,
    /// Backslashes in string constants of `{{ }}` are literal (as in values of a playbook).
    pub literal_backslashes: bool,
}

impl Default for Syntax {
    fn default() -> Syntax {
        Syntax {
            block_start: "{%".into(),
            block_end: "%}".into(),
            variable_start: "{{".into(),
            variable_end: "}}".into(),
            comment_start: "{#".into(),
            comment_end: "#}".into(),
            line_statement: String::new(),
            trim_blocks: true,
            lstrip_blocks: false,
            keep_trailing_newline: false,
            newline_sequence: "\n".into(),
            literal_backslashes: false,
        }
    }
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Text between tags, ready to be written.
    Data(String),
    VariableStart,
    VariableEnd,
    BlockStart,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Op(&'static str),
    End,
}

impl Token {
    /// How a syntax error names it.
    pub(super) fn describe(&self) -> String {
        match self {
            Token::Data(_) => "template data / text".into(),
            Token::VariableStart => "begin of print statement".into(),
            Token::VariableEnd => "end of print statement".into(),
            Token::BlockStart => "begin of statement block".into(),
            Token::BlockEnd => "end of statement block".into(),
            Token::Name(name) => name.clone(),
            Token::Str(text) => text.clone(),
            Token::Int(number) => number.to_string(),
            Token::Float(number) => number.to_string(),
            Token::Op(op) => (*op).into(),
            Token::End => "end of template".into(),
        }
    }
}

/// A token with the line on which it starts, from 1.
pub(super) type Spanned = (Token, u32);

const OPERATORS: [&str; 27] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", ">", "<", "=", ".", ":", "|", ",", ";",
    "(", ")", "[", "]", "{", "}", "!",
];

struct Lexer<'a> {
    source: &'a str,
    position: usize,
    line: u32,
    syntax: &'a Syntax,
    tokens: Vec<Spanned>,
}

#[derive(Clone, Copy, PartialEq)]
enum Tag {
    Variable,
    Block,
    Comment,
    Line,
}

/// Cuts a whole template.
pub(super) fn lex(source: &str, syntax: &Syntax) -> Result<Vec<Spanned>, TemplateError> {
    let normal;
    let mut text = source;
    if source.contains('\r') {
        normal = source.replace("\r\n", "\n").replace('\r', "\n");
        text = &normal;
    }
    if !syntax.keep_trailing_newline {
        text = text.strip_suffix('\n').unwrap_or(text);
    }
    let mut lexer = Lexer { source: text, position: 0, line: 1, syntax, tokens: Vec::new() };
    lexer.template()?;
    Ok(lexer.tokens)
}

/// Cuts a bare expression.
pub(super) fn lex_expression(source: &str, literal_backslashes: bool) -> Result<Vec<Spanned>, TemplateError> {
    let syntax = Syntax { literal_backslashes, ..Syntax::default() };
    let mut lexer = Lexer { source, position: 0, line: 1, syntax: &syntax, tokens: Vec::new() };
    lexer.expression(None)?;
    let line = lexer.line;
    lexer.tokens.push((Token::End, line));
    Ok(lexer.tokens)
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.position..]
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.source[self.position..self.position + bytes];
        self.line += u32::try_from(passed.bytes().filter(|byte| *byte == b'\n').count()).unwrap_or(0);
        self.position += bytes;
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn next_tag(&self, from: usize) -> Option<(usize, Tag)> {
        let rest = &self.source[from..];
        let find = |start: &str| if start.is_empty() { None } else { rest.find(start) };
        let candidates = [
            (find(&self.syntax.comment_start), self.syntax.comment_start.len(), Tag::Comment),
            (find(&self.syntax.block_start), self.syntax.block_start.len(), Tag::Block),
            (find(&self.syntax.variable_start), self.syntax.variable_start.len(), Tag::Variable),
            (self.next_line_statement(from).map(|at| at - from), 0, Tag::Line),
        ];
        candidates
            .into_iter()
            .filter_map(|(at, length, tag)| at.map(|at| (at, length, tag)))
            .min_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)))
            .map(|(at, _, tag)| (from + at, tag))
    }

    /// Where the next line starts that is a statement.
    fn next_line_statement(&self, from: usize) -> Option<usize> {
        let prefix = Some(self.syntax.line_statement.as_str()).filter(|prefix| !prefix.is_empty())?;
        let mut at = from;
        loop {
            let starts = at == 0 || self.source.as_bytes()[at - 1] == b'\n';
            if starts && self.source[at..].trim_start_matches([' ', '\t']).starts_with(prefix) {
                return Some(at);
            }
            at += self.source[at..].find('\n')? + 1;
        }
    }

    fn data(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let text = if self.syntax.newline_sequence == "\n" {
            text.to_owned()
        } else {
            text.replace('\n', &self.syntax.newline_sequence)
        };
        self.push(Token::Data(text));
    }

    /// The text before a tag, after the tag's own wishes about the blanks before it.
    fn text_before<'t>(&self, text: &'t str, tag: Tag, modifier: Option<u8>, at: usize) -> &'t str {
        match modifier {
            Some(b'-') => text.trim_end(),
            Some(b'+') => text,
            _ if self.syntax.lstrip_blocks && tag != Tag::Variable => {
                let blank_from = text.rfind('\n').map_or(0, |newline| newline + 1);
                let line_start = self.source[..at].rfind('\n').map_or(0, |newline| newline + 1);
                let whole_line_blank = self.source[line_start..at].chars().all(char::is_whitespace);
                if whole_line_blank && text[blank_from..].chars().all(char::is_whitespace) {
                    &text[..blank_from]
                } else {
                    text
                }
            }
            _ => text,
        }
    }

    fn after_tag(&mut self, modifier: Option<u8>, trims: bool) {
        match modifier {
            Some(b'-') => {
                let rest = self.rest();
                let blanks = rest.len() - rest.trim_start().len();
                self.advance(blanks);
            }
            Some(b'+') => {}
            _ if trims && self.syntax.trim_blocks && self.rest().starts_with('\n') => self.advance(1),
            _ => {}
        }
    }

    fn template(&mut self) -> Result<(), TemplateError> {
        while let Some((at, tag)) = self.next_tag(self.position) {
            let start = match tag {
                Tag::Variable => self.syntax.variable_start.len(),
                Tag::Block => self.syntax.block_start.len(),
                Tag::Comment => self.syntax.comment_start.len(),
                Tag::Line => {
                    let text = self.source[self.position..at].to_owned();
                    self.data(&text);
                    self.advance(text.len());
                    self.line_statement()?;
                    continue;
                }
            };
            let modifier =
                self.source.as_bytes().get(at + start).copied().filter(|byte| matches!(byte, b'-' | b'+'));
            let text = &self.source[self.position..at];
            let kept = self.text_before(text, tag, modifier, at).to_owned();
            self.data(&kept);
            self.advance(at - self.position + start + usize::from(modifier.is_some()));
            match tag {
                Tag::Comment => self.comment()?,
                Tag::Variable => {
                    self.push(Token::VariableStart);
                    let modifier = self.expression(Some(Tag::Variable))?;
                    self.push(Token::VariableEnd);
                    self.after_tag(modifier, false);
                }
                Tag::Block => self.block()?,
                Tag::Line => {}
            }
        }
        let rest = self.rest().to_owned();
        self.data(&rest);
        self.advance(rest.len());
        self.push(Token::End);
        Ok(())
    }

    /// A block that is a whole line; a colon at its end means nothing.
    fn line_statement(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let line = rest.lines().next().unwrap_or_default();
        // Blank lines that follow belong to it.
        let blanks = rest[line.len()..].len() - rest[line.len()..].trim_start().len();
        let end = line.len() + blanks;
        let whole = match rest[..end].rfind('\n') {
            Some(newline) if end < rest.len() => newline + 1,
            _ => end,
        };
        let line = line.trim();
        let statement = line.strip_prefix(self.syntax.line_statement.as_str()).unwrap_or(line).trim_end();
        let statement = statement.strip_suffix(':').unwrap_or(statement);
        let mut inner = Lexer {
            source: statement,
            position: 0,
            line: self.line,
            syntax: self.syntax,
            tokens: Vec::new(),
        };
        self.push(Token::BlockStart);
        inner.expression(None)?;
        self.tokens.append(&mut inner.tokens);
        self.push(Token::BlockEnd);
        self.advance(whole);
        Ok(())
    }

    fn comment(&mut self) -> Result<(), TemplateError> {
        let Some(end) = self.rest().find(self.syntax.comment_end.as_str()) else {
            return Err(TemplateError::syntax("Missing end of comment tag", self.line));
        };
        let modifier = end
            .checked_sub(1)
            .and_then(|i| self.rest().as_bytes().get(i).copied())
            .filter(|b| matches!(b, b'-' | b'+'));
        self.advance(end + self.syntax.comment_end.len());
        self.after_tag(modifier, true);
        Ok(())
    }

    fn block(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let trimmed = rest.trim_start();
        if let Some(after) = trimmed.strip_prefix("raw") {
            let after = after.trim_start();
            let (modifier, length) = match after.as_bytes().first() {
                Some(b'-' | b'+') => (after.as_bytes().first().copied(), 1),
                _ => (None, 0),
            };
            if after[length..].starts_with(self.syntax.block_end.as_str()) {
                let passed = rest.len() - after.len() + length + self.syntax.block_end.len();
                self.advance(passed);
                return self.raw(modifier);
            }
        }
        self.push(Token::BlockStart);
        let modifier = self.expression(Some(Tag::Block))?;
        self.push(Token::BlockEnd);
        self.after_tag(modifier, true);
        Ok(())
    }

    fn raw(&mut self, open_modifier: Option<u8>) -> Result<(), TemplateError> {
        // A newline behind `{% raw %}` is part of the text, whatever the rules for blocks.
        self.after_tag(open_modifier, false);
        let mut from = self.position;
        loop {
            let Some(offset) = self.source[from..].find(self.syntax.block_start.as_str()) else {
                return Err(TemplateError::syntax("Missing end of raw directive", self.line));
            };
            let at = from + offset;
            let mut inner = &self.source[at + self.syntax.block_start.len()..];
            let start_modifier = inner.as_bytes().first().copied().filter(|b| matches!(b, b'-' | b'+'));
            if start_modifier.is_some() {
                inner = &inner[1..];
            }
            if let Some(after) = inner.trim_start().strip_prefix("endraw") {
                let mut after = after.trim_start();
                let end_modifier = after.as_bytes().first().copied().filter(|b| matches!(b, b'-' | b'+'));
                if end_modifier.is_some() {
                    after = &after[1..];
                }
                if let Some(tail) = after.strip_prefix(self.syntax.block_end.as_str()) {
                    let text = self.source[self.position..at].to_owned();
                    let kept = self.text_before(&text, Tag::Block, start_modifier, at).to_owned();
                    self.data(&kept);
                    let end = self.source.len() - tail.len();
                    self.advance(end - self.position);
                    self.after_tag(end_modifier, true);
                    return Ok(());
                }
            }
            from = at + self.syntax.block_start.len();
        }
    }

    /// Tokens up to the end of the tag; yields the end's modifier.
    fn expression(&mut self, tag: Option<Tag>) -> Result<Option<u8>, TemplateError> {
        let end = match tag {
            Some(Tag::Variable) => self.syntax.variable_end.clone(),
            Some(_) => self.syntax.block_end.clone(),
            None => String::new(),
        };
        let opened_on = self.line;
        let mut open: Vec<char> = Vec::new();
        loop {
            let rest = self.rest();
            let blanks = rest.len() - rest.trim_start().len();
            self.advance(blanks);
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                if tag.is_none() && open.is_empty() {
                    return Ok(None);
                }
                let expected = match tag {
                    Some(Tag::Variable) => "end of print statement",
                    _ => "end of statement block",
                };
                let message = match open.is_empty() {
                    true => format!("unexpected end of template, expected '{expected}'."),
                    false => "unexpected end of template".to_owned(),
                };
                return Err(TemplateError::syntax(message, opened_on));
            };
            if tag.is_some() && open.is_empty() {
                if rest.starts_with(end.as_str()) {
                    self.advance(end.len());
                    return Ok(None);
                }
                let modifier = rest.as_bytes()[0];
                if matches!(modifier, b'-' | b'+')
                    && rest[1..].starts_with(end.as_str())
                    && (modifier == b'-' || tag == Some(Tag::Block))
                {
                    self.advance(1 + end.len());
                    return Ok(Some(modifier));
                }
            }
            if first == '\'' || first == '"' {
                self.string(first, tag)?;
            } else if first.is_ascii_digit() {
                self.number()?;
            } else if first == '_' || first.is_alphabetic() {
                let length = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
                let name = rest[..length].to_owned();
                self.push(Token::Name(name));
                self.advance(length);
            } else if let Some(op) = OPERATORS.into_iter().find(|op| rest.starts_with(op)) {
                match op {
                    "(" => open.push(')'),
                    "[" => open.push(']'),
                    "{" => open.push('}'),
                    ")" | "]" | "}" => match open.pop() {
                        Some(expected) if op.starts_with(expected) => {}
                        Some(expected) => {
                            let message = format!("unexpected '{op}', expected '{expected}'");
                            return Err(TemplateError::syntax(message, self.line));
                        }
                        None => return Err(TemplateError::syntax(format!("unexpected '{op}'"), self.line)),
                    },
                    _ => {}
                }
                self.push(Token::Op(op));
                self.advance(op.len());
            } else {
                let message = format!("unexpected char {} at {}", quote(first), self.position);
                return Err(TemplateError::syntax(message, self.line));
            }
        }
    }

    fn string(&mut self, quote: char, tag: Option<Tag>) -> Result<(), TemplateError> {
        let rest = self.rest();
        let mut escaped = false;
        let mut end = None;
        for (index, character) in rest.char_indices().skip(1) {
            if escaped {
                escaped = false;
            } else if character == '\\' {
                escaped = true;
            } else if character == quote {
                end = Some(index);
                break;
            }
        }
        let Some(end) = end else {
            let message = format!("unexpected char {} at {}", self::quote(quote), self.position);
            return Err(TemplateError::syntax(message, self.line));
        };
        let body = &rest[1..end];
        let literal = self.syntax.literal_backslashes && tag != Some(Tag::Block);
        let text = if literal || !body.contains('\\') { body.to_owned() } else { unescape(body) };
        self.push(Token::Str(text));
        self.advance(end + 1);
        Ok(())
    }

    fn number(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let radix = match (bytes[0], bytes.get(1).map(u8::to_ascii_lowercase)) {
            (b'0', Some(b'x')) => 16,
            (b'0', Some(b'o')) => 8,
            (b'0', Some(b'b')) => 2,
            _ => 10,
        };
        if radix != 10 {
            let length =
                2 + rest[2..].find(|c: char| !c.is_digit(radix) && c != '_').unwrap_or(rest.len() - 2);
            let digits = rest[2..length].replace('_', "");
            let number = i128::from_str_radix(&digits, radix).map_err(|_| {
                TemplateError::syntax(format!("invalid number {:?}", &rest[..length]), self.line)
            })?;
            self.push(Token::Int(number));
            self.advance(length);
            return Ok(());
        }
        let digits = |from: usize| {
            let mut at = from;
            while at < bytes.len()
                && (bytes[at].is_ascii_digit()
                    || (bytes[at] == b'_' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) && at > from))
            {
                at += 1;
            }
            at
        };
        let mut at = digits(0);
        let mut float = false;
        if bytes.get(at) == Some(&b'.') && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
            float = true;
            at = digits(at + 1);
        }
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
            if bytes.get(at + 1 + sign).is_some_and(u8::is_ascii_digit) {
                float = true;
                at = digits(at + 1 + sign);
            }
        }
        let text = rest[..at].replace('_', "");
        let wrong = || TemplateError::syntax(format!("invalid number {text:?}"), self.line);
        let token = if float {
            Token::Float(text.parse().map_err(|_| wrong())?)
        } else {
            Token::Int(text.parse().map_err(|_| wrong())?)
        };
        self.push(token);
        self.advance(at);
        Ok(())
    }
}

fn quote(character: char) -> String {
    if character == '\'' { "\"'\"".into() } else { format!("'{character}'") }
}

/// Python's backslash escapes of a string literal; unknown ones stay as they are.
fn unescape(body: &str) -> String {
    let mut out = String::with_capacity(body.len());
    let mut chars = body.chars().peekable();
    while let Some(character) = chars.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        let Some(next) = chars.next() else {
            out.push('\\');
            break;
        };
        let mut hex = |digits: usize, out: &mut String| {
            let text: String = chars.clone().take(digits).collect();
            match u32::from_str_radix(&text, 16).ok().and_then(char::from_u32) {
                Some(decoded) if text.len() == digits => {
                    out.push(decoded);
                    for _ in 0..digits {
                        chars.next();
                    }
                }
                _ => {
                    out.push('\\');
                    out.push(next);
                }
            }
        };
        match next {
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'v' => out.push('\x0b'),
            '\\' | '\'' | '"' => out.push(next),
            '\n' => {}
            'x' => hex(2, &mut out),
            'u' => hex(4, &mut out),
            'U' => hex(8, &mut out),
            '0'..='7' => {
                let mut value = next.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    match chars.peek().and_then(|c| c.to_digit(8)) {
                        Some(digit) => {
                            value = value * 8 + digit;
                            chars.next();
                        }
                        None => break,
                    }
                }
                out.push(char::from_u32(value).unwrap_or('\u{fffd}'));
            }
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    out
}
