//! Reads `ansible.cfg`: sections, `name = value` or `name: value`, continuation lines that are indented,
//! comments on lines of their own (`#`, `;`) and after ` ;`.

use std::path::Path;

use super::{ConfigError, Entries, Entry};

/// All values of a file.
pub(super) fn read(path: &Path) -> Result<Entries, ConfigError> {
    let bytes = std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&String::from_utf8_lossy(&bytes)).map_err(|(line, message)| ConfigError::Syntax {
        path: path.to_owned(),
        line,
        message,
    })
}

fn parse(text: &str) -> Result<Entries, (usize, String)> {
    let mut entries: Entries = Vec::new();
    let mut section: Option<String> = None;
    let mut open = false;
    for (index, raw) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let number = index + 1;
        let line = strip_comment(raw);
        if line.trim().is_empty() {
            continue;
        }
        if open
            && raw.starts_with([' ', '\t'])
            && let Some(last) = entries.last_mut()
        {
            last.value.push('\n');
            last.value.push_str(line.trim());
            continue;
        }
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[') {
            let name = name.split_once(']').ok_or((number, format!("`{line}` is not a section")))?.0;
            section = Some(name.to_owned());
            open = false;
            continue;
        }
        let section = section.clone().ok_or((
            number,
            format!("`{line}` stands before the first section; write [defaults] above it"),
        ))?;
        let (name, value) = line.split_once(['=', ':']).ok_or((number, format!("`{line}` has no value")))?;
        entries.push(Entry {
            section,
            name: name.trim().to_lowercase(),
            value: value.trim().to_owned(),
            line: number,
        });
        open = true;
    }
    Ok(entries)
}

fn strip_comment(line: &str) -> &str {
    if line.trim_start().starts_with(['#', ';']) {
        return "";
    }
    let inline = line.char_indices().find(|(at, c)| *c == ';' && line[..*at].ends_with(char::is_whitespace));
    inline.map_or(line, |(at, _)| &line[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_configparser_reads() {
        let text = "# top\n[defaults]\nforks = 20 ; many\nRoles_Path: a:\n   b\n\n;x = y\n[ssh_connection]\nssh_args = -o A=b#c\n";
        let got: Vec<(String, String, String, usize)> = parse(text)
            .expect("it is well formed")
            .into_iter()
            .map(|entry| (entry.section, entry.name, entry.value, entry.line))
            .collect();
        let entry = |s: &str, n: &str, v: &str, l| (s.to_owned(), n.to_owned(), v.to_owned(), l);
        assert_eq!(
            got,
            [
                entry("defaults", "forks", "20", 3),
                entry("defaults", "roles_path", "a:\nb", 4),
                entry("ssh_connection", "ssh_args", "-o A=b#c", 9),
            ]
        );
    }

    #[test]
    fn names_the_line_that_is_wrong() {
        for (text, line) in [("x = 1\n", 1), ("[defaults\n", 1), ("[a]\nb = 1\nnonsense\n", 3)] {
            assert_eq!(parse(text).expect_err(text).0, line, "{text}");
        }
    }
}
