//! The place of an error: `Origin:` and three lines of the file with a mark under the column.

use crate::value::Origin;

/// Most characters of a source line that are shown.
const MOST: usize = 120;

/// `Origin: file:line:column`, an empty line, up to three lines of source and the mark. Each ends with a
/// newline; without the source if the file can't be read (any more) or is a vault.
pub(super) fn origin_block(origin: &Origin) -> String {
    let path = std::path::absolute(origin.file.as_ref()).unwrap_or_else(|_| origin.file.as_ref().into());
    let mut out = format!("Origin: {}:{}:{}\n", path.display(), origin.line, origin.column);
    // Only once per error, so the texts need not be kept in memory.
    if !path.is_file() {
        // A pipe has been read, and there is nobody who writes to it again.
        return out;
    }
    let Ok(bytes) = std::fs::read(&path) else { return out };
    let text = String::from_utf8_lossy(&bytes);
    if text.starts_with("$ANSIBLE_VAULT") {
        return out;
    }
    let last = origin.line as usize;
    let first = last.saturating_sub(2).max(1);
    let lines: Vec<&str> = text.lines().skip(first - 1).take(last + 1 - first).collect();
    if lines.len() < last + 1 - first {
        return out;
    }
    let width = last.to_string().len();
    out.push('\n');
    for (index, line) in lines.iter().enumerate() {
        let cut: String = line.chars().take(MOST).collect();
        let dots = if cut.len() < line.len() { "..." } else { "" };
        out.push_str(format!("{:>width$} {cut}{dots}\n", first + index).trim_end_matches([' ', '\n']));
        out.push('\n');
    }
    let column = origin.column as usize;
    out.push_str(&format!("{}^ column {column}\n", " ".repeat(width + column)));
    out
}
