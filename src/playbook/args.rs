//! `k=v` text: how a task's arguments in one line are split.
//!
//! The text is split before anything is rendered, so a value that a template gives can hold spaces or
//! quotes without becoming another argument.

/// What the text after an action's name says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// `k=v`, in order, quotes removed.
    pub pairs: Vec<(String, String)>,
    /// What is not `k=v`.
    pub raw: Option<String>,
}

/// The options that are lifted out of the text of `command` and its kin.
const COMMAND_OPTIONS: &[&str] =
    &["creates", "removes", "chdir", "executable", "warn", "stdin", "stdin_add_newline", "strip_empty_ends"];

/// A word of the text, and the white space between it and the next.
#[derive(Debug, PartialEq, Eq)]
struct Word<'a> {
    text: &'a str,
    gap: &'a str,
}

/// Splits at spaces and newlines that are outside of quotes and templates.
fn words(text: &str) -> Result<Vec<Word<'_>>, Unbalanced> {
    let mut out = Vec::new();
    let mut state = State::default();
    let (mut start, mut end) = (0, None);
    for (at, character) in text.char_indices() {
        let is_gap = matches!(character, ' ' | '\n') && state.is_outside();
        match (is_gap, end) {
            (true, None) => end = Some(at),
            (false, Some(word_end)) => {
                out.push(Word { text: &text[start..word_end], gap: &text[word_end..at] });
                (start, end) = (at, None);
            }
            _ => {}
        }
        if !is_gap {
            state.see(&text[..at], character);
        }
    }
    if !state.is_outside() {
        return Err(Unbalanced);
    }
    let word_end = end.unwrap_or(text.len());
    out.push(Word { text: &text[start..word_end], gap: &text[word_end..] });
    out.retain(|word| !word.text.is_empty());
    Ok(out)
}

/// A quote or a template that is opened and not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a quote or a template is opened and not closed in this text")]
pub struct Unbalanced;

/// Inside of what a character stands.
#[derive(Default)]
struct State {
    quote: Option<char>,
    print: usize,
    block: usize,
    comment: usize,
}

impl State {
    fn is_outside(&self) -> bool {
        self.quote.is_none() && self.print == 0 && self.block == 0 && self.comment == 0
    }

    fn see(&mut self, before: &str, character: char) {
        let previous = before.chars().next_back();
        match character {
            '"' | '\'' if previous != Some('\\') => match self.quote {
                Some(quote) if quote == character => self.quote = None,
                Some(_) => {}
                None => self.quote = Some(character),
            },
            '{' if previous == Some('{') => self.print += 1,
            '%' if previous == Some('{') => self.block += 1,
            '#' if previous == Some('{') => self.comment += 1,
            '}' => match previous {
                Some('}') => self.print = self.print.saturating_sub(1),
                Some('%') => self.block = self.block.saturating_sub(1),
                Some('#') => self.comment = self.comment.saturating_sub(1),
                _ => {}
            },
            _ => {}
        }
    }
}

/// Splits `k=v` text. With `free_form`, only the options of `command` count as `k=v`.
///
/// # Errors
/// A quote or template is opened and not closed.
pub fn parse(text: &str, free_form: bool) -> Result<Pairs, Unbalanced> {
    let mut out = Pairs::default();
    let mut raw = String::new();
    let mut gap = "";
    let mut has_raw = false;
    for word in words(text)? {
        let decoded = decode_escapes(word.text);
        let mut keep = |text: &str| {
            if has_raw {
                raw.push_str(gap);
            }
            raw.push_str(text);
            gap = word.gap;
            has_raw = true;
        };
        if !decoded.contains('=') {
            keep(word.text);
            continue;
        }
        let Some(at) = split_point(&decoded) else {
            keep(&decoded.replace("\\=", "="));
            continue;
        };
        let (key, value) = (decoded[..at].trim(), decoded[at + 1..].trim());
        if free_form && !COMMAND_OPTIONS.contains(&key) {
            keep(word.text);
            continue;
        }
        let pair = (key.to_owned(), unquote(value).to_owned());
        match out.pairs.iter_mut().find(|(name, _)| *name == pair.0) {
            Some(known) => *known = pair,
            None => out.pairs.push(pair),
        }
    }
    out.raw = has_raw.then_some(raw);
    Ok(out)
}

/// The first word of the text, and the rest.
///
/// # Errors
/// A quote or template is opened and not closed.
pub fn first_word(text: &str) -> Result<(&str, &str), Unbalanced> {
    let text = text.trim_start_matches([' ', '\n']);
    let first = words(text)?.into_iter().next().map_or("", |word| word.text);
    Ok((first, text[first.len()..].trim_start_matches([' ', '\n'])))
}

/// Whether quotes and templates in the text are closed.
pub fn is_balanced(text: &str) -> bool {
    words(text).is_ok()
}

/// The place of the first `=` that is neither at the start nor escaped.
fn split_point(word: &str) -> Option<usize> {
    word.char_indices()
        .filter(|(at, character)| *character == '=' && *at > 0)
        .map(|(at, _)| at)
        .find(|at| !word[..*at].ends_with('\\'))
}

/// Removes quotes that are around all of it.
fn unquote(text: &str) -> &str {
    let mut characters = text.chars();
    match (characters.next(), characters.next_back()) {
        (Some(first @ ('"' | '\'')), Some(last)) if first == last => {
            let inner = characters.as_str();
            if inner.ends_with('\\') { text } else { inner }
        }
        _ => text,
    }
}

/// Python's escapes: `\n`, `\t`, `\x41`, `\u00e9`, `\101`, `\'`, `\"`, `\\`.
fn decode_escapes(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        match escape(after) {
            Some((character, length)) => {
                out.push(character);
                rest = &after[length..];
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// The character that an escape means and how many bytes after the backslash it takes.
fn escape(after: &str) -> Option<(char, usize)> {
    let code = |digits: usize, skip: usize, radix: u32| -> Option<(char, usize)> {
        let text = after.get(skip..skip + digits)?;
        let number = u32::from_str_radix(text, radix).ok().filter(|_| !text.starts_with('+'))?;
        char::from_u32(number).map(|character| (character, skip + digits))
    };
    let simple = |character| Some((character, 1));
    match after.chars().next()? {
        '\\' => simple('\\'),
        '\'' => simple('\''),
        '"' => simple('"'),
        'a' => simple('\x07'),
        'b' => simple('\x08'),
        'f' => simple('\x0c'),
        'n' => simple('\n'),
        'r' => simple('\r'),
        't' => simple('\t'),
        'v' => simple('\x0b'),
        'x' => code(2, 1, 16),
        'u' => code(4, 1, 16),
        'U' => code(8, 1, 16),
        '0'..='7' => {
            let digits = after.chars().take(3).take_while(|c| ('0'..='7').contains(c)).count();
            code(digits, 0, 8)
        }
        _ => None,
    }
}
