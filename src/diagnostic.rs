//! Errors that point at the line: message, file, line, column, an excerpt with a caret, a hint.
//!
//! The stages of meaning collect diagnostics instead of stopping at the first, so that a user sees
//! everything that is wrong with a playbook in one go.

use std::fmt;
use std::sync::Arc;

use crate::value::Origin;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing runs.
    Error,
    /// It runs; the user should know.
    Warning,
}

/// One thing to tell the user about what they wrote.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong: a lowercase fragment without a full stop.
    pub message: String,
    /// Where it was written.
    pub origin: Option<Arc<Origin>>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The chain of includes and imports that led there, outermost last.
    pub included_from: Vec<Arc<Origin>>,
}

impl Diagnostic {
    /// An error.
    pub fn error(message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            message: message.into(),
            origin: None,
            hint: None,
            included_from: Vec::new(),
        }
    }

    /// A warning.
    pub fn warning(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(message) }
    }

    /// The same, written at `origin`.
    #[must_use]
    pub fn at(mut self, origin: Option<Arc<Origin>>) -> Diagnostic {
        self.origin = origin.or(self.origin);
        self
    }

    /// The same, with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Diagnostic {
        self.hint = Some(hint.into());
        self
    }

    /// The whole text: message, place, excerpt with caret, hint.
    pub fn render(&self) -> String {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let mut out = format!("{word}: {}\n", self.message);
        if let Some(origin) = &self.origin {
            out.push_str(&format!("  --> {origin}\n"));
            out.push_str(&excerpt(origin));
        }
        for from in &self.included_from {
            out.push_str(&format!("  included from {from}\n"));
        }
        if let Some(hint) = &self.hint {
            out.push_str(&format!("  hint: {hint}\n"));
        }
        out
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{origin}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// The written line with a caret under the column, read from the file again; empty if that fails.
fn excerpt(origin: &Origin) -> String {
    // Told once per error, on the way out: reading the file again costs nothing that matters and keeps
    // every text out of memory while all goes well.
    let path = std::path::Path::new(origin.file.as_ref());
    if !path.is_file() {
        // A pipe has been read, and there is nobody who writes to it again.
        return String::new();
    }
    let Ok(bytes) = std::fs::read(path) else { return String::new() };
    let text = String::from_utf8_lossy(&bytes);
    if text.starts_with("$ANSIBLE_VAULT") {
        return String::new();
    }
    let Some(line) = text.lines().nth(origin.line.saturating_sub(1) as usize) else { return String::new() };
    let number = origin.line.to_string();
    let gutter = " ".repeat(number.len());
    let pad: String = line
        .chars()
        .take(origin.column.saturating_sub(1) as usize)
        .map(|c| if c == '\t' { '\t' } else { ' ' })
        .collect();
    format!("  {gutter} |\n  {number} | {line}\n  {gutter} | {pad}^\n")
}

/// The candidate most like `word`, if one is close enough to be meant (Damerau-Levenshtein distance of at
/// most a third of the length).
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= limit && *candidate != word)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance: insertions, deletions, substitutions, neighbours swapped.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        assert_eq!(did_you_mean("tempalte", ["template", "copy"]), Some("template"));
        assert_eq!(did_you_mean("lineinfle", ["lineinfile", "blockinfile"]), Some("lineinfile"));
        assert_eq!(did_you_mean("xyz", ["template", "copy"]), None);
    }
}
