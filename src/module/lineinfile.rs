//! `lineinfile`: one line in a text file.

use serde::Deserialize;

use crate::module::files::{self, FileArgs, Writing};
use crate::module::regex::{self, Coding, Flags, Pattern};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Type, file, typed};
use crate::system::{FileKind, System};
use crate::value::Value;

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.lineinfile",
    summary: "Makes sure that a line is in a text file, or is not",
    description: "With `regexp` or `search_string`, the last line that matches is replaced by `line`; if none does, `line` is \
        added (at the end, or where `insertafter` or `insertbefore` say) unless it is there already. With `state: absent`, all \
        lines that match are removed. Regular expressions are Python's.",
    example: "- name: No root login\n  ansible.builtin.lineinfile:\n    path: /etc/ssh/sshd_config\n    regexp: '^#?\\s*PermitRootLogin\\s'\n    line: PermitRootLogin no\n    validate: /usr/sbin/sshd -t -f %s\n  notify: Reload sshd\n",
    params: &[
        Param::new("path", Type::Path, "The file.").required().aliases(&["dest", "destfile", "name"]),
        Param::new("state", Type::Str, "Whether the line should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new(
            "regexp",
            Type::Str,
            "Which line to replace or remove: the last match in the file, or all.",
        )
        .aliases(&["regex"]),
        Param::new("search_string", Type::Str, "As `regexp`, but a text that the line holds."),
        Param::new(
            "line",
            Type::Str,
            "The line. With `backrefs`, `\\1` and `\\g<name>` stand for groups of `regexp`.",
        )
        .aliases(&["value"]),
        Param::new(
            "backrefs",
            Type::Bool,
            "Fill in groups of `regexp` in `line`; if nothing matches, leave the file alone.",
        )
        .default("false"),
        Param::new(
            "insertafter",
            Type::Str,
            "Where nothing matches: add the line after the last match of this, or at `EOF`.",
        ),
        Param::new(
            "insertbefore",
            Type::Str,
            "Where nothing matches: add the line before the last match of this, or at `BOF`.",
        ),
        Param::new("firstmatch", Type::Bool, "Use first matches instead of last ones.").default("false"),
        Param::new("create", Type::Bool, "Make the file if it is not there.").default("false"),
        Param::new("backup", Type::Bool, "Keep a copy of what is replaced, with the time in its name.")
            .default("false"),
        Param::new(
            "validate",
            Type::Str,
            "A command, without a shell, that must accept the new file, which `%s` stands for.",
        ),
    ],
    file_params: true,
    rules: &[
        Rule::MutuallyExclusive(&["insertbefore", "insertafter"]),
        Rule::MutuallyExclusive(&["regexp", "search_string"]),
        Rule::MutuallyExclusive(&["backrefs", "search_string"]),
    ],
    returns: &[
        ("msg", "What was done: `line added`, `line replaced`, `2 line(s) removed` or nothing."),
        ("found", "How many lines were removed, with `state: absent`."),
        ("backup", "The copy that was kept, or an empty text."),
    ],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    path: String,
    state: String,
    regexp: Option<String>,
    search_string: Option<String>,
    line: Option<String>,
    backrefs: bool,
    insertafter: Option<String>,
    insertbefore: Option<String>,
    firstmatch: bool,
    create: bool,
    backup: bool,
    validate: Option<String>,
    #[serde(flatten)]
    file: FileArgs,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    let path = files::path_arg(system, &args.path)?;
    let present = args.state == "present";
    check(&args, present)?;
    let stat = system.stat_follow(&path)?;
    if stat.as_ref().is_some_and(|stat| stat.kind == FileKind::Directory) {
        return Err(ModuleError::new(format!("Path {} is a directory !", path.display())).with("rc", 256));
    }
    if stat.is_none() {
        if !present {
            files::record(system, &path, None, None)?;
            return Ok(Outcome::default().set("msg", "file not present").set("backup", ""));
        }
        if !args.create {
            if let Some(outcome) = files::uncertain(system, &path) {
                return Ok(outcome);
            }
            let message = format!("Destination {} does not exist !", path.display());
            return Err(ModuleError::new(message).with("rc", 257));
        }
        file::make_directories(system, &files::parent_of(&path), &FileArgs::default())?;
    }
    let before = if stat.is_some() { Some(system.read(&path)?) } else { None };
    let (coding, text) = Coding::decode(before.clone().unwrap_or_default());
    let coded = |text: &Option<String>| text.as_deref().map(|text| coding.parameter(text).into_owned());
    let edit = Edit {
        matcher: Matcher::new(coded(&args.regexp), coded(&args.search_string))?,
        line: coded(&args.line).unwrap_or_default(),
        place: place(coded(&args.insertafter), coded(&args.insertbefore))?,
        backrefs: args.backrefs,
        firstmatch: args.firstmatch,
    };
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_string).collect();
    let mut outcome = Outcome::default();
    let message = if present {
        edit.present(&mut lines)?.to_string()
    } else {
        let count = lines.len();
        edit.absent(&mut lines)?;
        let found = count - lines.len();
        outcome = outcome.set("found", found);
        if found > 0 { format!("{found} line(s) removed") } else { String::new() }
    };
    outcome.warnings.extend(empty_pattern(args.regexp.as_deref(), args.search_string.as_deref()));
    let after = coding.encode(lines.concat());
    let edited = before.as_deref() != Some(&after[..]);
    let writing = Writing {
        args: &args.file,
        backup: args.backup,
        validate: args.validate.as_deref(),
        source_mode: None,
        secret: false,
    };
    let backup = files::put_if_changed(system, &path, before.as_deref(), &after, &writing)?;
    finish_edit(system, outcome, &path, edited, message, backup, "backup")
}

/// The warning about a pattern that matches every line.
fn empty_pattern(regexp: Option<&str>, search_string: Option<&str>) -> Option<String> {
    let what = match (regexp, search_string) {
        (Some(""), _) => "regular expression",
        (None, Some("")) => "search string",
        _ => return None,
    };
    let mut text = format!(
        "the {what} is empty and matches every line, so that the last one is replaced where one may have been \
         meant to be added"
    );
    if regexp.is_some() {
        text += "; write '^' if that is meant";
    }
    Some(text)
}

/// Adds the message of a text module, with a word on attributes, and the record of the file.
///
/// # Errors
/// What the system says.
pub fn finish_edit(
    system: &mut dyn System,
    outcome: Outcome,
    path: &std::path::Path,
    edited: bool,
    message: String,
    backup: Option<String>,
    backup_key: &str,
) -> Result<Outcome> {
    let mut message = message;
    if !edited && !system.changes().is_empty() {
        message = "ownership, perms or SE linux context changed".into();
    }
    let real = system.resolve(path)?;
    let stat = system.stat(&real)?;
    files::record(system, &real, stat.as_ref(), None)?;
    let outcome = outcome.set("msg", message);
    Ok(match (backup, backup_key) {
        (None, "backup") => outcome.set("backup", ""),
        (None, _) => outcome,
        (Some(backup), key) => outcome.set(key, backup),
    })
}

fn check(args: &Args, present: bool) -> Result<()> {
    let message = if present && args.backrefs && args.regexp.is_none() {
        "regexp is required with backrefs=true"
    } else if present && args.line.is_none() {
        "line is required with state=present"
    } else if !present && args.regexp.is_none() && args.search_string.is_none() && args.line.is_none() {
        "one of line, search_string, or regexp is required with state=absent"
    } else {
        return Ok(());
    };
    Err(ModuleError::new(message))
}

/// What picks lines.
enum Matcher {
    Regexp(Pattern),
    Text(String),
    Line,
}

impl Matcher {
    fn new(regexp: Option<String>, text: Option<String>) -> Result<Matcher> {
        Ok(match (regexp, text) {
            (Some(regexp), _) => Matcher::Regexp(Pattern::new(&regexp, Flags::default())?),
            (None, Some(text)) => Matcher::Text(text),
            (None, None) => Matcher::Line,
        })
    }

    fn matches(&self, line: &str) -> Result<bool> {
        Ok(match self {
            Matcher::Regexp(pattern) => pattern.is_match(line)?,
            Matcher::Text(text) => line.contains(text.as_str()),
            Matcher::Line => false,
        })
    }
}

/// Where a line goes if nothing matches.
enum Place {
    Start,
    End,
    After(Pattern),
    Before(Pattern),
}

fn place(after: Option<String>, before: Option<String>) -> Result<Place> {
    let pattern = |text: &str| Pattern::new(text, Flags::default());
    Ok(match (after.as_deref(), before.as_deref()) {
        (None, None) | (Some("EOF" | ""), _) => Place::End,
        (Some("BOF"), _) | (None, Some("BOF")) => Place::Start,
        (None, Some("")) => Place::End,
        (Some(text), _) => Place::After(pattern(text)?),
        (None, Some(text)) => Place::Before(pattern(text)?),
    })
}

struct Edit {
    matcher: Matcher,
    line: String,
    place: Place,
    backrefs: bool,
    firstmatch: bool,
}

fn bare(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

impl Edit {
    fn absent(&self, lines: &mut Vec<String>) -> Result<()> {
        let mut kept = Vec::with_capacity(lines.len());
        for line in lines.drain(..) {
            let gone = match self.matcher {
                Matcher::Line => bare(&line) == self.line,
                _ => self.matcher.matches(&line)?,
            };
            if !gone {
                kept.push(line);
            }
        }
        *lines = kept;
        Ok(())
    }

    /// Puts the line in its place; returns what was done.
    fn present(&self, lines: &mut Vec<String>) -> Result<&'static str> {
        if let Some(index) = self.find(lines, |line| self.matcher.matches(line))? {
            let mut new = match (&self.matcher, self.backrefs) {
                (Matcher::Regexp(pattern), true) => match pattern.captures(&lines[index])? {
                    Some(captures) => regex::expand(&self.line, &captures)?,
                    None => self.line.clone(),
                },
                _ => self.line.clone(),
            };
            if !new.ends_with('\n') {
                new.push('\n');
            }
            return Ok(replace(lines, index, new));
        }
        // With `firstmatch`, a place that is found before the line itself wins.
        let limit =
            if self.firstmatch { self.find_place(lines)?.unwrap_or(lines.len()) } else { lines.len() };
        if let Some(index) = lines[..limit].iter().rposition(|line| bare(line) == self.line) {
            return Ok(replace(lines, index, format!("{}\n", self.line)));
        }
        if self.backrefs {
            return Ok("");
        }
        let line = format!("{}\n", self.line);
        match &self.place {
            Place::Start => lines.insert(0, line),
            Place::End => append(lines, line),
            Place::After(_) => match self.find_place(lines)? {
                None => append(lines, line),
                Some(index) if index + 1 == lines.len() => append(lines, line),
                Some(index) if bare(&lines[index + 1]) == self.line => return Ok(""),
                Some(index) => lines.insert(index + 1, line),
            },
            Place::Before(_) => match self.find_place(lines)? {
                None => append(lines, line),
                Some(index) => lines.insert(index, line),
            },
        }
        Ok("line added")
    }

    fn find_place(&self, lines: &[String]) -> Result<Option<usize>> {
        match &self.place {
            Place::After(pattern) | Place::Before(pattern) => {
                self.find(lines, |line| Ok(bare(line) != self.line && pattern.is_match(line)?))
            }
            Place::Start | Place::End => Ok(None),
        }
    }

    /// The last line, or with `firstmatch` the first, for which `matches` says yes.
    fn find(&self, lines: &[String], matches: impl Fn(&str) -> Result<bool>) -> Result<Option<usize>> {
        let mut found = None;
        for (index, line) in lines.iter().enumerate() {
            if matches(line)? {
                found = Some(index);
                if self.firstmatch {
                    break;
                }
            }
        }
        Ok(found)
    }
}

fn replace(lines: &mut [String], index: usize, new: String) -> &'static str {
    if lines[index] == new {
        return "";
    }
    lines[index] = new;
    "line replaced"
}

fn append(lines: &mut Vec<String>, line: String) {
    if let Some(last) = lines.last_mut()
        && !last.ends_with(['\n', '\r'])
    {
        last.push('\n');
    }
    lines.push(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        before: &'static str,
        regexp: Option<&'static str>,
        search: Option<&'static str>,
        line: &'static str,
        after: Option<&'static str>,
        ahead: Option<&'static str>,
        backrefs: bool,
        first: bool,
        expected: &'static str,
    }

    const CASE: Case = Case {
        before: "",
        regexp: None,
        search: None,
        line: "",
        after: None,
        ahead: None,
        backrefs: false,
        first: false,
        expected: "",
    };

    #[test]
    fn puts_the_line_where_it_belongs() {
        for case in [
            Case { line: "x", expected: "x\n", ..CASE },
            Case { before: "a\nb", line: "x", expected: "a\nb\nx\n", ..CASE },
            Case { before: "x\na\n", line: "x", expected: "x\na\n", ..CASE },
            Case { before: "a\nx", line: "x", expected: "a\nx\n", ..CASE },
            Case { before: "k=1\nk=2\n", regexp: Some("^k="), line: "k=3", expected: "k=1\nk=3\n", ..CASE },
            Case {
                before: "k=1\nk=2\n",
                regexp: Some("^k="),
                line: "k=3",
                first: true,
                expected: "k=3\nk=2\n",
                ..CASE
            },
            Case {
                before: "a = 1\n",
                regexp: Some(r"^(\s*a\s*=).*$"),
                line: r"\1 2",
                backrefs: true,
                expected: "a = 2\n",
                ..CASE
            },
            Case {
                before: "b\n",
                regexp: Some("^(a)"),
                line: r"\1",
                backrefs: true,
                expected: "b\n",
                ..CASE
            },
            Case {
                before: "[s]\na\n[t]\n",
                line: "x",
                after: Some(r"^\[s\]"),
                expected: "[s]\nx\na\n[t]\n",
                ..CASE
            },
            Case {
                before: "[s]\na\n[s]\n",
                line: "x",
                after: Some(r"^\[s\]"),
                expected: "[s]\na\n[s]\nx\n",
                ..CASE
            },
            Case { before: "a\nb\n", line: "x", ahead: Some("^b"), expected: "a\nx\nb\n", ..CASE },
            Case { before: "a\nb\n", line: "x", ahead: Some("BOF"), expected: "x\na\nb\n", ..CASE },
            Case { before: "a\nb\n", line: "x", ahead: Some("^none"), expected: "a\nb\nx\n", ..CASE },
            Case { before: "a\nb\n", search: Some("b"), line: "c", expected: "a\nc\n", ..CASE },
            Case {
                before: "a\nx\n",
                regexp: Some("^y"),
                line: "x",
                after: Some("^a"),
                expected: "a\nx\n",
                ..CASE
            },
            Case {
                before: "[s]\na\nx\n",
                line: "x",
                after: Some(r"^\[s\]"),
                first: true,
                expected: "[s]\nx\na\nx\n",
                ..CASE
            },
            Case { before: "a\r\nb\r\n", line: "a", expected: "a\nb\r\n", ..CASE },
        ] {
            let edit = Edit {
                matcher: Matcher::new(case.regexp.map(Into::into), case.search.map(Into::into))
                    .expect("valid"),
                line: case.line.into(),
                place: place(case.after.map(Into::into), case.ahead.map(Into::into)).expect("valid"),
                backrefs: case.backrefs,
                firstmatch: case.first,
            };
            let mut lines: Vec<String> = case.before.split_inclusive('\n').map(Into::into).collect();
            edit.present(&mut lines).expect("works");
            assert_eq!(lines.concat(), case.expected, "{:?} into {:?}", case.line, case.before);
            let again = edit.present(&mut lines).expect("works");
            assert_eq!((again, lines.concat().as_str()), ("", case.expected), "twice: {:?}", case.before);
        }
    }

    use crate::module::contract::contract;

    #[test]
    fn keeps_its_promises_whatever_was_there() {
        let starts: &[&[&str]] = &[
            &[],
            &["f x 600 "],
            &["f x 640 a=1"],
            &["f x 640 a=1\nb=2\na=3\n", "l l x"],
            &["f x 644 # a=1\r\nnew\n\n", "l l x"],
            &["d x 755"],
        ];
        for start in starts {
            for path in ["x", "l", "new/file"] {
                for args in [
                    r#""line": "new""#,
                    r#""line": "a=2", "regexp": "^#? ?a=""#,
                    r#""line": "\\1=2", "regexp": "^(a)=", "backrefs": true"#,
                    r#""line": "new", "insertafter": "^b", "mode": "0600""#,
                    r#""line": "new", "insertbefore": "^b", "firstmatch": true"#,
                    r#""line": "new", "insertbefore": "BOF", "create": true"#,
                    r#""search_string": "a=", "line": "a=c", "backup": true"#,
                    r#""state": "absent", "regexp": "^a""#,
                    r#""state": "absent", "line": "new", "create": true"#,
                    r#""line": "x", "validate": "grep -q b %s""#,
                ] {
                    contract(&MODULE, start, &format!(r#"{{"path": "@/{path}", {args}}}"#));
                }
            }
        }
    }

    #[test]
    fn says_what_it_did() {
        let lines = &["f x 640 a\nb\na\n", "l l x"][..];
        for (start, args, message, tree) in [
            (lines, r#"{"path": "@/l", "line": "c"}"#, "line added", "f x 640 a\nb\na\nc\n"),
            (lines, r#"{"path": "@/x", "line": "a"}"#, "", "f x 640 a\nb\na\n"),
            (lines, r#"{"path": "@/x", "line": "c", "regexp": "b"}"#, "line replaced", "f x 640 a\nc\na\n"),
            (lines, r#"{"path": "@/x", "line": "a", "state": "absent"}"#, "2 line(s) removed", "f x 640 b\n"),
            (
                lines,
                r#"{"path": "@/x", "line": "a", "mode": "0600"}"#,
                "ownership, perms or SE linux context changed",
                "f x 600 a\nb\na\n",
            ),
            (
                &[],
                r#"{"path": "@/x", "line": "a", "create": true, "mode": "0600"}"#,
                "line added",
                "f x 600 a\n",
            ),
        ] {
            let verdict = contract(&MODULE, start, args);
            assert_eq!(verdict.text("msg"), message, "{args}");
            assert!(verdict.tree.contains(&tree.to_string()), "{args}: {:?}", verdict.tree);
        }
        let verdict = contract(&MODULE, &[], r#"{"path": "@/x", "line": "a"}"#);
        assert_eq!(verdict.error.as_deref(), Some("Destination @/x does not exist !"));
        for (option, what) in [("regexp", "regular expression"), ("search_string", "search string")] {
            let args = format!(r#"{{"path": "@/x", "line": "c", "{option}": ""}}"#);
            let verdict = contract(&MODULE, lines, &args);
            assert!(verdict.tree.contains(&"f x 640 a\nb\nc\n".to_string()), "{:?}", verdict.tree);
            let [warning] = &verdict.outcome.warnings[..] else { panic!("{:?}", verdict.outcome.warnings) };
            assert!(warning.starts_with(&format!("the {what} is empty")), "{warning}");
            assert_eq!(warning.contains("write '^'"), option == "regexp");
        }
    }
}
