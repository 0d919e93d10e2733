//! `replace`: all matches of a regular expression in a text file.

use serde::Deserialize;

use crate::module::files::{self, FileArgs, Writing};
use crate::module::lineinfile::finish_edit;
use crate::module::regex::{Coding, Flags, Pattern};
use crate::module::{Module, ModuleError, Outcome, Param, Type, typed};
use crate::system::{FileKind, System};
use crate::value::Value;

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.replace",
    summary: "Replaces all matches of a regular expression in a text file",
    description: "`^` and `$` match at every line; `.` does not match a newline. In `replace`, `\\1` and `\\g<name>` stand for \
        groups. `after` and `before` limit the search to what is between them. Choose the expression so that it does not match \
        its own replacement, or the task changes the file each time.",
    example: "- name: Old host name\n  ansible.builtin.replace:\n    path: /etc/hosts\n    regexp: '(\\s+)old\\.example\\.org(\\s+.*)?$'\n    replace: '\\1new.example.org\\2'\n",
    params: &[
        Param::new("path", Type::Path, "The file.").required().aliases(&["dest", "destfile", "name"]),
        Param::new("regexp", Type::Str, "What to look for, as a Python regular expression.").required(),
        Param::new("replace", Type::Str, "What to put in its place; nothing removes it.").default(""),
        Param::new("after", Type::Str, "Only look behind the first match of this."),
        Param::new("before", Type::Str, "Only look in front of a match of this."),
        Param::new("encoding", Type::Str, "Character set of the file: UTF-8, ASCII or Latin-1.")
            .default("utf-8"),
        Param::new("backup", Type::Bool, "Keep a copy of what is replaced, with the time in its name.")
            .default("false"),
        Param::new(
            "validate",
            Type::Str,
            "A command, without a shell, that must accept the new file, which `%s` stands for.",
        ),
    ],
    file_params: true,
    returns: &[
        ("msg", "`3 replacements made`, or nothing."),
        ("rc", "Always 0."),
        ("backup_file", "The copy that was kept."),
    ],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    path: String,
    regexp: String,
    replace: String,
    after: Option<String>,
    before: Option<String>,
    encoding: String,
    backup: bool,
    validate: Option<String>,
    #[serde(flatten)]
    file: FileArgs,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    let path = files::path_arg(system, &args.path)?;
    match system.stat_follow(&path)? {
        Some(stat) if stat.kind == FileKind::Directory => {
            let message = format!("Path {} is a directory !", path.display());
            return Err(ModuleError::new(message).with("rc", 256));
        }
        Some(_) => {}
        None => {
            if let Some(outcome) = files::uncertain(system, &path) {
                return Ok(outcome);
            }
            let message = format!("Path {} does not exist !", path.display());
            return Err(ModuleError::new(message).with("rc", 257));
        }
    }
    let before = system.read(&path)?;
    let (coding, text) = decode(&args, before.clone())?;
    let outcome = Outcome::default().set("rc", 0);
    let edited = edit(&args, &text).map_err(|error| {
        ModuleError::new(format!("Unable to process replace in {}: {error}", path.display()))
    })?;
    let Some((after, count)) = edited else {
        let pattern = section_pattern(&args).unwrap_or_default();
        let message = format!("Pattern for before/after params did not match the given file: {pattern}");
        return Ok(outcome.set("msg", message));
    };
    let after = coding.encode(after);
    let edited = before != after;
    let message = if edited { format!("{count} replacements made") } else { String::new() };
    let writing = Writing {
        args: &args.file,
        backup: args.backup,
        validate: args.validate.as_deref(),
        source_mode: None,
        secret: false,
    };
    let backup = files::put_if_changed(system, &path, Some(&before), &after, &writing)?;
    finish_edit(system, outcome, &path, edited, message, backup, "backup_file")
}

fn decode(args: &Args, bytes: Vec<u8>) -> Result<(Coding, String)> {
    let name = args.encoding.to_ascii_lowercase().replace(['-', '_'], "");
    match name.as_str() {
        // Bytes that are not UTF-8 are kept as they are.
        "utf8" | "ascii" | "usascii" => Ok(Coding::decode(bytes)),
        "latin1" | "iso88591" | "l1" => {
            Ok((Coding::Bytes, bytes.iter().map(|byte| char::from(*byte)).collect()))
        }
        _ => Err(ModuleError::new(format!(
            "encoding {} is not supported; utf-8, ascii and latin-1 are",
            args.encoding
        ))),
    }
}

fn section_pattern(args: &Args) -> Option<String> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    match (given(&args.after), given(&args.before)) {
        (Some(after), Some(before)) => Some(format!("{after}(?P<subsection>.*?){before}")),
        (Some(after), None) => Some(format!("{after}(?P<subsection>.*)")),
        (None, Some(before)) => Some(format!("(?P<subsection>.*){before}")),
        (None, None) => None,
    }
}

/// The new text and the number of replacements; `None` if the section is not there.
fn edit(args: &Args, text: &str) -> Result<Option<(String, usize)>> {
    let pattern = Pattern::new(&args.regexp, Flags { multiline: true, ..Flags::default() })?;
    let Some(section) = section_pattern(args) else {
        return Ok(Some(pattern.sub(&args.replace, text)?));
    };
    let section = Pattern::new(&section, Flags { dotall: true, ..Flags::default() })?;
    let captures = section.captures(text)?;
    let Some(found) = captures.as_ref().and_then(|captures| captures.name("subsection")) else {
        return Ok(None);
    };
    let (new, count) = pattern.sub(&args.replace, found.as_str())?;
    Ok(Some((format!("{}{new}{}", &text[..found.start()], &text[found.end()..]), count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_within_its_section() {
        let args = |regexp: &str, replace: &str, after: Option<&str>, before: Option<&str>| Args {
            path: String::new(),
            regexp: regexp.into(),
            replace: replace.into(),
            after: after.map(Into::into),
            before: before.map(Into::into),
            encoding: "utf-8".into(),
            backup: false,
            validate: None,
            file: FileArgs::default(),
        };
        for (args, text, expected) in [
            (args("^a$", "b", None, None), "a\nxa\na\n", Some(("b\nxa\nb\n", 2))),
            (args(r"(\w+)=(\w+)", r"\2=\g<1>", None, None), "k=v", Some(("v=k", 1))),
            (args("^", "# ", Some(r"\[s\]\n"), None), "k\n[s]\na\nb", Some(("k\n[s]\n# a\n# b", 2))),
            (args("a", "x", Some("S"), Some("E")), "a S a E a E", Some(("a S x E a E", 1))),
            (args("a", "x", None, Some("E")), "a E a", Some(("x E a", 1))),
            (args("a", "x", Some("none"), None), "a", None),
        ] {
            let got = edit(&args, text).expect("works");
            assert_eq!(got.as_ref().map(|(text, count)| (text.as_str(), *count)), expected, "{text:?}");
        }
    }

    use crate::module::contract::contract;

    #[test]
    fn keeps_its_promises_whatever_was_there() {
        let starts: &[&[&str]] = &[
            &[],
            &["f x 600 "],
            &["f x 644 a\nb", "l l x"],
            &["f x 640 a\nxy\nb a\n", "l l x"],
            &["d x 755"],
        ];
        for start in starts {
            for path in ["x", "l", "new/file"] {
                for args in [
                    r#""regexp": "^a$", "replace": "b""#,
                    r#""regexp": "(x)(y)", "replace": "\\2\\1""#,
                    r#""regexp": "a", "replace": "q", "after": "b", "backup": true"#,
                    r#""regexp": "none", "mode": "0600""#,
                    r#""regexp": "z*", "replace": """#,
                ] {
                    contract(&MODULE, start, &format!(r#"{{"path": "@/{path}", {args}}}"#));
                }
            }
        }
    }
}
