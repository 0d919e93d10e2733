//! `blockinfile`: a marked block of lines in a text file.

use serde::Deserialize;

use crate::module::files::{self, FileArgs, Writing};
use crate::module::lineinfile::finish_edit;
use crate::module::regex::{Coding, Flags, Pattern};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Type, file, typed};
use crate::system::{FileKind, System};
use crate::value::Value;

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.blockinfile",
    summary: "Keeps a block of lines between two markers in a text file",
    description: "Puts `block` between two marker lines, or replaces what is between them; with `state: absent` or an empty \
        block, removes it with its markers. Several blocks in one file need different markers.",
    example: "- name: Hosts of the cluster\n  ansible.builtin.blockinfile:\n    path: /etc/hosts\n    marker: \"# {mark} cluster\"\n    block: |\n      10.0.0.1 db1\n      10.0.0.2 db2\n",
    params: &[
        Param::new("path", Type::Path, "The file.").required().aliases(&["dest", "destfile", "name"]),
        Param::new("state", Type::Str, "Whether the block should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("block", Type::Str, "The lines.").default("").aliases(&["content"]),
        Param::new(
            "marker",
            Type::Str,
            "The marker lines; `{mark}` becomes `marker_begin` and `marker_end`.",
        )
        .default("# {mark} ANSIBLE MANAGED BLOCK"),
        Param::new("marker_begin", Type::Str, "What `{mark}` becomes before the block.").default("BEGIN"),
        Param::new("marker_end", Type::Str, "What `{mark}` becomes after the block.").default("END"),
        Param::new("insertafter", Type::Str, "A new block goes after the last match of this, or to `EOF`."),
        Param::new("insertbefore", Type::Str, "A new block goes before the last match of this, or to `BOF`."),
        Param::new("append_newline", Type::Bool, "Have an empty line after the block.").default("false"),
        Param::new("prepend_newline", Type::Bool, "Have an empty line before the block.").default("false"),
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
    rules: &[Rule::MutuallyExclusive(&["insertbefore", "insertafter"])],
    returns: &[
        ("msg", "What was done: `Block inserted`, `Block removed`, `File created` or nothing."),
        ("backup_file", "The copy that was kept."),
    ],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    path: String,
    state: String,
    block: String,
    marker: String,
    marker_begin: String,
    marker_end: String,
    insertafter: Option<String>,
    insertbefore: Option<String>,
    append_newline: bool,
    prepend_newline: bool,
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
    let stat = system.stat_follow(&path)?;
    if stat.as_ref().is_some_and(|stat| stat.kind == FileKind::Directory) {
        return Err(ModuleError::new(format!("Path {} is a directory !", path.display())).with("rc", 256));
    }
    if stat.is_none() {
        if !args.create {
            if let Some(outcome) = files::uncertain(system, &path) {
                return Ok(outcome);
            }
            let message = format!("Path {} does not exist !", path.display());
            return Err(ModuleError::new(message).with("rc", 257));
        }
        if !present {
            files::record(system, &path, None, None)?;
            return Ok(Outcome::default().set("msg", format!("File {} not present", path.display())));
        }
        file::make_directories(system, &files::parent_of(&path), &FileArgs::default())?;
    }
    let before = if stat.is_some() { Some(system.read(&path)?) } else { None };
    let (coding, text) = Coding::decode(before.clone().unwrap_or_default());
    let coded = |text: &str| coding.parameter(text).into_owned();
    let mark = |word: &str| coded(&args.marker.replace("{mark}", word)) + "\n";
    let edit = Edit {
        block: if present { coded(&args.block) } else { String::new() },
        begin: mark(&args.marker_begin),
        end: mark(&args.marker_end),
        place: place(args.insertafter.as_deref().map(coded), args.insertbefore.as_deref().map(coded))?,
        append_newline: args.append_newline && present,
        prepend_newline: args.prepend_newline && present,
    };
    let removes = edit.block.is_empty();
    let after = coding.encode(edit.apply(&text)?);
    let edited = before.as_deref() != Some(&after[..]);
    let message = match (edited, &before) {
        (false, _) => "",
        (true, None) => "File created",
        (true, Some(_)) if removes => "Block removed",
        (true, Some(_)) => "Block inserted",
    };
    let writing = Writing {
        args: &args.file,
        backup: args.backup,
        validate: args.validate.as_deref(),
        source_mode: None,
        secret: false,
    };
    let backup = files::put_if_changed(system, &path, before.as_deref(), &after, &writing)?;
    finish_edit(system, Outcome::default(), &path, edited, message.into(), backup, "backup_file")
}

/// Where a new block goes.
enum Place {
    Start,
    End,
    After(Pattern),
    Before(Pattern),
}

fn place(after: Option<String>, before: Option<String>) -> Result<Place> {
    let pattern = |text: &str| Pattern::new(text, Flags::default());
    Ok(match (after.as_deref(), before.as_deref()) {
        (None, None) | (Some("EOF"), _) => Place::End,
        (None, Some("BOF")) => Place::Start,
        (Some(text), _) => Place::After(pattern(text)?),
        (None, Some(text)) => Place::Before(pattern(text)?),
    })
}

struct Edit {
    block: String,
    begin: String,
    end: String,
    place: Place,
    append_newline: bool,
    prepend_newline: bool,
}

/// Lines with their ends, which are `\n`, `\r\n` or `\r`.
fn split_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut start = 0;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        at += 1;
        let ends = match bytes[at - 1] {
            b'\n' => true,
            b'\r' => bytes.get(at) != Some(&b'\n'),
            _ => false,
        };
        if ends {
            lines.push(text[start..at].to_string());
            start = at;
        }
    }
    if start < bytes.len() {
        lines.push(text[start..].to_string());
    }
    lines
}

impl Edit {
    fn apply(&self, text: &str) -> Result<String> {
        let mut lines = split_lines(text);
        let begin = lines.iter().rposition(|line| *line == self.begin);
        let end = lines.iter().rposition(|line| *line == self.end);
        let mut at = match (begin, end) {
            (Some(begin), Some(end)) => {
                let (low, high) = (begin.min(end), begin.max(end));
                lines.drain(low..=high);
                low
            }
            // Nothing to put in and nothing to take out.
            _ if self.block.is_empty() => return Ok(text.into()),
            _ => self.new_place(text, &lines)?,
        };
        if at > 0 && !lines[at - 1].ends_with('\n') {
            lines[at - 1].push('\n');
        }
        if self.prepend_newline && at != 0 && lines[at - 1] != "\n" {
            lines.insert(at, "\n".into());
            at += 1;
        }
        let mut block = Vec::new();
        if !self.block.is_empty() {
            let mut text = self.block.clone();
            if !text.ends_with('\n') {
                text.push('\n');
            }
            block.push(self.begin.clone());
            block.extend(split_lines(&text));
            block.push(self.end.clone());
        }
        let below = at + block.len();
        lines.splice(at..at, block);
        if self.append_newline && below < lines.len() && lines[below] != "\n" {
            lines.insert(below, "\n".into());
        }
        Ok(lines.concat())
    }

    fn new_place(&self, text: &str, lines: &[String]) -> Result<usize> {
        let (pattern, after) = match &self.place {
            Place::Start => return Ok(0),
            Place::End => return Ok(lines.len()),
            Place::After(pattern) => (pattern, true),
            Place::Before(pattern) => (pattern, false),
        };
        let mut found = None;
        if pattern.is_multiline() {
            if let Some(captures) = pattern.captures(text)?
                && let Some(whole) = captures.get(0)
            {
                let until = if after { whole.end() } else { whole.start() };
                found = Some(text[..until].matches('\n').count());
            }
        } else {
            for (index, line) in lines.iter().enumerate() {
                if pattern.is_match(line)? {
                    found = Some(index);
                }
            }
        }
        Ok(found.map_or(lines.len(), |index| index + usize::from(after)).min(lines.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(block: &str, after: Option<&str>, before: Option<&str>, newlines: bool) -> Edit {
        Edit {
            block: block.into(),
            begin: "# BEGIN\n".into(),
            end: "# END\n".into(),
            place: place(after.map(Into::into), before.map(Into::into)).expect("valid"),
            append_newline: newlines,
            prepend_newline: newlines,
        }
    }

    #[test]
    fn puts_the_block_where_it_belongs() {
        for (before, edit, expected) in [
            ("", edit("x", None, None, false), "# BEGIN\nx\n# END\n"),
            ("a", edit("x\ny", None, None, false), "a\n# BEGIN\nx\ny\n# END\n"),
            ("a\n# BEGIN\nold\n# END\nb\n", edit("new", None, None, false), "a\n# BEGIN\nnew\n# END\nb\n"),
            ("a\n# BEGIN\nold\n# END\nb\n", edit("", None, None, false), "a\nb\n"),
            ("a\nb\n", edit("x", Some("^a"), None, false), "a\n# BEGIN\nx\n# END\nb\n"),
            ("a\nb\n", edit("x", None, Some("^b"), false), "a\n# BEGIN\nx\n# END\nb\n"),
            ("a\nb\n", edit("x", None, Some("BOF"), false), "# BEGIN\nx\n# END\na\nb\n"),
            ("a\nb\n", edit("x", Some("^none"), None, false), "a\nb\n# BEGIN\nx\n# END\n"),
            ("a\nb\n", edit("x", Some("(?m)^a$"), None, false), "a\n# BEGIN\nx\n# END\nb\n"),
            ("a\nb\n", edit("x", Some("^a"), None, true), "a\n\n# BEGIN\nx\n# END\n\nb\n"),
        ] {
            let once = edit.apply(before).expect("works");
            assert_eq!(once, expected, "{before:?}");
            assert_eq!(edit.apply(&once).expect("works"), expected, "twice: {before:?}");
        }
    }

    use crate::module::contract::contract;

    #[test]
    fn keeps_its_promises_whatever_was_there() {
        let starts: &[&[&str]] = &[
            &[],
            &["f x 600 "],
            &["f x 644 a\nb", "l l x"],
            &["f x 640 a\n# BEGIN ANSIBLE MANAGED BLOCK\nold\n# END ANSIBLE MANAGED BLOCK\nb", "l l x"],
            &["d x 755"],
        ];
        for start in starts {
            for path in ["x", "l", "new/file"] {
                for args in [
                    r#""block": "x\ny""#,
                    r#""block": "x\n", "create": true, "mode": "0600""#,
                    r#""block": """#,
                    r#""state": "absent""#,
                    r#""block": "z", "insertafter": "^a", "prepend_newline": true"#,
                    r#""block": "z", "insertbefore": "BOF", "append_newline": true, "backup": true"#,
                ] {
                    contract(&MODULE, start, &format!(r#"{{"path": "@/{path}", {args}}}"#));
                }
            }
        }
    }
}
