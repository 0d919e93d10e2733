//! Small questions that many modules ask of a machine: where a program is, what a text file says, which
//! paths a pattern names; and readers for arguments.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Deserializer};

use crate::module::{ModuleError, http};
use crate::system::{Attributes, Command, Content, Done, FileKind, Intent, Output, System, WriteOptions};
use crate::value::Value;

/// Directories with programs for administrators, searched after `PATH`.
const ADMIN_PATHS: [&str; 3] = ["/sbin", "/usr/sbin", "/usr/local/sbin"];

/// Where commands are looked for when the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The path of a program. `None` if the machine does not have it.
///
/// # Errors
/// If directories can't be looked at.
pub fn find_program(name: &str, system: &mut dyn System) -> Result<Option<PathBuf>, ModuleError> {
    let path = system.env("PATH").filter(|path| !path.is_empty()).unwrap_or_else(|| DEFAULT_PATH.into());
    for directory in path.split(':').chain(ADMIN_PATHS) {
        if directory.is_empty() {
            continue;
        }
        let candidate = Path::new(directory).join(name);
        let found = system.stat_follow(&candidate)?;
        if found.is_some_and(|stat| stat.kind == FileKind::File && stat.mode & 0o111 != 0) {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// The path of a program that the module can't do without.
///
/// # Errors
/// If the machine does not have it.
pub fn need_program(name: &str, system: &mut dyn System) -> Result<String, ModuleError> {
    match find_program(name, system)? {
        Some(path) => Ok(path.to_string_lossy().into_owned()),
        // An earlier task of this dry run may bring it.
        None if system.uncertain().is_some() => Ok(name.to_string()),
        None => {
            let path = system.env("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
            Err(ModuleError::new(format!(
                "Failed to find required executable \"{name}\" in paths: {path}:{}",
                ADMIN_PATHS.join(":")
            )))
        }
    }
}

/// A text file, bytes that are not UTF-8 replaced. `None` if it is not there or can't be read.
pub fn read_text(path: impl AsRef<Path>, system: &mut dyn System) -> Option<String> {
    let bytes = system.read(path.as_ref()).ok()?;
    Some(
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}

/// Writes a text file unless it has that text already. A new file gets `mode`. Returns whether it wrote.
///
/// # Errors
/// If it can't be written.
pub fn write_text(path: &Path, text: &str, mode: u32, system: &mut dyn System) -> Result<bool, ModuleError> {
    let there = system.stat_follow(path)?.is_some();
    if there && system.read(path)? == text.as_bytes() {
        return Ok(false);
    }
    let mode = (!there).then_some(mode);
    // What a link points to is meant.
    let target = system.resolve(path)?;
    let attributes = Attributes { mode, ..Attributes::default() };
    system.write(&target, &Content::Bytes(text.as_bytes().to_vec()), &attributes, WriteOptions::default())?;
    Ok(true)
}

/// Whether anything is at a path, links followed.
///
/// # Errors
/// If it can't be looked at.
pub fn exists(path: impl AsRef<Path>, system: &mut dyn System) -> Result<bool, ModuleError> {
    Ok(system.stat_follow(path.as_ref())?.is_some())
}

/// Whether a directory is at a path, links followed.
///
/// # Errors
/// If it can't be looked at.
pub fn is_directory(path: impl AsRef<Path>, system: &mut dyn System) -> Result<bool, ModuleError> {
    Ok(system.stat_follow(path.as_ref())?.is_some_and(|stat| stat.kind == FileKind::Directory))
}

/// Runs a command that only looks, in the C locale. A program that is missing gives status 127.
///
/// # Errors
/// If it can't be run for another reason.
pub fn ask<I, S>(argv: I, system: &mut dyn System) -> Result<Output, ModuleError>
where
    I: IntoIterator<Item = S>,
    S: Into<OsString>,
{
    match system.query(&Command::new(argv).c_locale()) {
        Ok(output) => Ok(output),
        Err(error) if error.is_not_found() => {
            Ok(Output { code: 127, stdout: Vec::new(), stderr: error.to_string().into_bytes() })
        }
        Err(error) => Err(error.into()),
    }
}

/// Runs a command that acts. `None` if it was only recorded.
///
/// # Errors
/// If it can't be run, or ends with an error: `what` begins the message.
pub fn act(
    what: &str,
    command: &Command,
    intent: Intent,
    system: &mut dyn System,
) -> Result<Option<Output>, ModuleError> {
    match system.change(command, intent)? {
        Done::Recorded => Ok(None),
        Done::Made(output) if output.success() => Ok(Some(output)),
        Done::Made(output) => Err(ModuleError::command(what, command, &output)),
    }
}

/// Runs a command that acts; one that ends with an error is a failure that begins with `what`. What it
/// printed; nothing if it was only recorded.
///
/// # Errors
/// If it can't be run or ends with an error.
pub fn carry_out(
    command: &Command,
    intent: Intent,
    what: &str,
    system: &mut dyn System,
) -> Result<Output, ModuleError> {
    Ok(act(what, command, intent, system)?.unwrap_or_default())
}

/// The paths that a shell pattern (`*`, `?`, `[…]`) names; without such characters the path itself, if it is there.
///
/// # Errors
/// If directories can't be looked at.
pub fn expand_pattern(pattern: &str, system: &mut dyn System) -> Result<Vec<PathBuf>, ModuleError> {
    let mut found = vec![PathBuf::new()];
    for component in Path::new(pattern).components() {
        let name = component.as_os_str();
        let special = matches!(component, Component::Normal(_)) && has_magic(name);
        let mut next = Vec::new();
        for base in found {
            if special {
                next.extend(matching_entries(&base, name, system)?);
            } else {
                let path = base.join(name);
                if system.stat(&path)?.is_some() {
                    next.push(path);
                }
            }
        }
        found = next;
    }
    if pattern.is_empty() {
        found.clear();
    }
    Ok(found)
}

fn has_magic(name: &OsStr) -> bool {
    name.to_string_lossy().contains(['*', '?', '['])
}

fn matching_entries(base: &Path, name: &OsStr, system: &mut dyn System) -> Result<Vec<PathBuf>, ModuleError> {
    let text = name.to_string_lossy();
    let Ok(pattern) = glob::Pattern::new(&text) else { return Ok(Vec::new()) };
    let directory = if base.as_os_str().is_empty() { Path::new(".") } else { base };
    if !is_directory(directory, system)? {
        return Ok(Vec::new());
    }
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::default() };
    let names = system.list(directory)?;
    Ok(names
        .into_iter()
        .filter(|name| pattern.matches_with(&name.to_string_lossy(), options))
        .map(|name| base.join(name))
        .collect())
}

/// The content at an address, for keys and the like.
///
/// # Errors
/// If it can't be had.
pub fn fetch_url(url: &str, validate_certs: bool, system: &mut dyn System) -> Result<Vec<u8>, ModuleError> {
    let request = http::Request { validate_certs, ..http::Request::get(url) };
    let response = http::send(system, &request)
        .map_err(|error| ModuleError::new(format!("failed to fetch {}: {error}", http::mask(url))))?;
    if response.status != 200 {
        let (status, reason) = (response.status, response.reason);
        return Err(ModuleError::new(format!(
            "failed to fetch {}: HTTP Error {status}: {reason}",
            http::mask(url)
        )));
    }
    Ok(system.read(&response.body)?)
}

/// Splits a line into words as a POSIX shell quotes them: blanks separate, `'…'`, `"…"` and `\` keep.
///
/// # Errors
/// If a quotation is not closed, or the line ends in a lone backslash.
pub fn split_words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().push(characters.next().ok_or("No escaped character")?),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next().ok_or("No closing quotation")? {
                        '\'' => break,
                        inner => word.push(inner),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next().ok_or("No closing quotation")? {
                        '"' => break,
                        '\\' => match characters.next().ok_or("No closing quotation")? {
                            escaped @ ('"' | '\\') => word.push(escaped),
                            other => word.extend(['\\', other]),
                        },
                        inner => word.push(inner),
                    }
                }
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

/// One word, quoted for a POSIX shell where that is needed.
pub fn quote_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', "'\"'\"'"))
    }
}

/// For serde: a list whose items are taken as text whatever they are.
///
/// # Errors
/// If it is not a list.
pub fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<Value>::deserialize(deserializer)?.iter().map(Value::to_text).collect())
}

/// For serde: like [`texts`], for an argument that may be missing.
///
/// # Errors
/// If it is there and not a list.
pub fn optional_texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    let items = Option::<Vec<Value>>::deserialize(deserializer)?;
    Ok(items.map(|items| items.iter().map(Value::to_text).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_in_a_shell() {
        for (line, expected) in [
            ("ls -l  /tmp", Ok(vec!["ls", "-l", "/tmp"])),
            ("a 'b c' \"d \\\" e\" f\\ g", Ok(vec!["a", "b c", "d \" e", "f g"])),
            ("\"a\\nb\" ''", Ok(vec!["a\\nb", ""])),
            ("x='1 2'3", Ok(vec!["x=1 23"])),
            ("a # b", Ok(vec!["a", "#", "b"])),
            ("it's", Err("No closing quotation")),
            ("a\\", Err("No escaped character")),
            ("", Ok(vec![])),
        ] {
            let expected = expected.map(|words| words.into_iter().map(String::from).collect::<Vec<_>>());
            assert_eq!(split_words(line), expected, "{line}");
        }
        assert_eq!(quote_word("a b's"), "'a b'\"'\"'s'");
    }
}
