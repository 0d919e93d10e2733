//! Lines inside brackets and quotes that are indented less than YAML 1.2 asks for, or with tabs.
//!
//! PyYAML doesn't look at the indentation inside `[…]`, `{…}` and quotes, and real playbooks make use of
//! it. The parser refuses such lines; they are pushed to the right, where they mean the same, and the file
//! is read again. Places are told as if nothing had happened.

use std::collections::HashSet;

/// How far a line is pushed: further than anything is nested.
const PUSH: usize = 300;
/// How often a file is read again at most.
const MAX_ROUNDS: usize = 50;

/// A text with some lines pushed to the right.
pub(super) struct Pushed {
    /// The text as the parser is to see it.
    pub(super) text: String,
    /// Lines (from 1) that were pushed.
    lines: HashSet<usize>,
    rounds: usize,
}

impl Pushed {
    pub(super) fn new(text: &str) -> Pushed {
        Pushed { text: text.to_owned(), lines: HashSet::new(), rounds: 0 }
    }

    /// The column (from 0) in the text as it was written.
    pub(super) fn column(&self, line: usize, column: usize) -> usize {
        if self.lines.contains(&line) { column.saturating_sub(PUSH) } else { column }
    }

    /// Pushes the lines that the error is about; `false` if that can't help.
    pub(super) fn push(&mut self, info: &str, line: usize, column: usize) -> bool {
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS {
            return false;
        }
        let range = match info {
            "invalid indentation" | "invalid indentation in flow construct" => {
                self.end_of_flow(line).map(|end| (line, end))
            }
            // Only inside quotes the parser says it so.
            "tab cannot be used as indentation" => self.tail(line).map(|text| {
                let more = text.lines().skip(1).take_while(|line| line.starts_with('\t')).count();
                (line, line + more)
            }),
            "invalid indentation in quoted scalar" => {
                self.end_of_quote(line, column).filter(|end| *end > line).map(|end| (line + 1, end))
            }
            _ => None,
        };
        let Some((start, end)) = range else { return false };
        if self.lines.contains(&start) {
            return false;
        }
        let mut out = String::with_capacity(self.text.len() + (end - start + 1) * PUSH);
        for (index, line) in self.text.split_inclusive('\n').enumerate() {
            let number = index + 1;
            if (start..=end).contains(&number) && !line.trim().is_empty() && self.lines.insert(number) {
                out.extend(std::iter::repeat_n(' ', PUSH));
            }
            out.push_str(line);
        }
        self.text = out;
        true
    }

    fn tail(&self, line: usize) -> Option<&str> {
        if line <= 1 {
            return Some(&self.text);
        }
        let at = self.text.match_indices('\n').nth(line - 2)?.0;
        Some(&self.text[at + 1..])
    }

    /// The line on which the brackets close that `line` starts inside of.
    fn end_of_flow(&self, line: usize) -> Option<usize> {
        let text = self.tail(line)?;
        let mut number = line;
        let mut depth = 1usize;
        let mut token_start = true;
        let mut at = 0;
        while let Some(character) = text[at..].chars().next() {
            let mut length = character.len_utf8();
            match character {
                '[' | '{' => depth += 1,
                ']' | '}' => depth -= 1,
                '"' | '\'' if token_start => length = quoted_length(&text[at..])?,
                '#' if token_start => length = text[at..].find('\n')?,
                _ => {}
            }
            if depth == 0 {
                return Some(number);
            }
            number += text[at..at + length].matches('\n').count();
            token_start = character.is_whitespace() || matches!(character, ',' | '[' | '{' | ':');
            at += length;
        }
        None
    }

    /// The line on which the quote closes that opens at this place.
    fn end_of_quote(&self, line: usize, column: usize) -> Option<usize> {
        let text = self.tail(line)?;
        let start = text.char_indices().nth(column)?.0;
        let length = quoted_length(&text[start..])?;
        Some(line + text[start..start + length].matches('\n').count())
    }
}

/// The length in bytes of a quoted text, quotes included.
fn quoted_length(text: &str) -> Option<usize> {
    let quote = text.chars().next()?;
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character == '\\' && quote == '"' {
            characters.next();
        } else if character == quote {
            if quote == '\'' && characters.peek().is_some_and(|(_, next)| *next == quote) {
                characters.next();
            } else {
                return Some(at + 1);
            }
        }
    }
    None
}
