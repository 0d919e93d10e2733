//! `ini_file`: options in files with sections.

use serde::Deserialize;

use crate::module::files::{self, FileArgs, Writing};
use crate::module::regex::Coding;
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Type, file, typed};
use crate::system::{FileKind, System};
use crate::value::{Map, Value};

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "community.general.ini_file",
    aliases: &["ansible.builtin.ini_file"],
    summary: "Sets options in an INI file",
    description: "Sets, adds or removes one option, or a whole section, and leaves the rest of the file as it is, comments \
        included. An option that is commented out is taken into use unless `modify_inactive_option` is false.",
    example: "- name: Turn a repository on\n  community.general.ini_file:\n    path: /etc/app/app.ini\n    section: repo\n    option: enabled\n    value: \"1\"\n    mode: \"0644\"\n",
    params: &[
        Param::new("path", Type::Path, "The file.").required().aliases(&["dest"]),
        Param::new("section", Type::Str, "The section; without it, options before the first section."),
        Param::new(
            "section_has_values",
            Type::List,
            "Of several sections of that name, the one that has these: each with `option` and `value` or `values`.",
        ),
        Param::new("option", Type::Str, "The option; without it, the section itself."),
        Param::new("value", Type::Str, "Its value."),
        Param::new("values", Type::List, "Its values, for an option that may be given several times."),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("exclusive", Type::Bool, "Remove other values of the option.").default("true"),
        Param::new("allow_no_value", Type::Bool, "The option may stand without `=` and value.")
            .default("false"),
        Param::new("no_extra_spaces", Type::Bool, "Write no spaces around `=`.").default("false"),
        Param::new("ignore_spaces", Type::Bool, "Leave lines that differ only in spaces around `=`.")
            .default("false"),
        Param::new("modify_inactive_option", Type::Bool, "Take an option that is commented out into use.")
            .default("true"),
        Param::new("create", Type::Bool, "Make the file if it is not there.").default("true"),
        Param::new(
            "follow",
            Type::Bool,
            "Write to the target of a symbolic link instead of replacing the link.",
        )
        .default("false"),
        Param::new("backup", Type::Bool, "Keep a copy of what is replaced, with the time in its name.")
            .default("false"),
    ],
    file_params: true,
    rules: &[Rule::MutuallyExclusive(&["value", "values"])],
    returns: &[
        ("path", "The file."),
        ("msg", "What was done: `OK`, `option added`, `option changed`, `section removed`, …"),
        ("backup_file", "The copy that was kept."),
    ],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    path: String,
    section: Option<String>,
    section_has_values: Option<Vec<Value>>,
    option: Option<String>,
    value: Option<String>,
    values: Option<Vec<Value>>,
    state: String,
    exclusive: bool,
    allow_no_value: bool,
    no_extra_spaces: bool,
    ignore_spaces: bool,
    modify_inactive_option: bool,
    create: bool,
    follow: bool,
    backup: bool,
    #[serde(flatten)]
    file: FileArgs,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    let mut path = files::path_arg(system, &args.path)?;
    if args.follow {
        path = system.resolve(&path)?;
    }
    let given = args.value.is_some() || args.values.as_ref().is_some_and(|values| !values.is_empty());
    if args.state == "present" && args.option.is_some() && !args.allow_no_value && !given {
        return Err(ModuleError::new(
            "Parameter 'value(s)' must be defined if state=present and allow_no_value=False.",
        ));
    }
    let stat = system.stat_follow(&path)?;
    if stat.as_ref().is_some_and(|stat| stat.kind == FileKind::Directory) {
        return Err(ModuleError::new(format!("{} is a directory", path.display())).with("rc", 256));
    }
    if stat.is_none() {
        if !args.create {
            if let Some(outcome) = files::uncertain(system, &path) {
                return Ok(outcome);
            }
            let message = format!("Destination {} does not exist!", path.display());
            return Err(ModuleError::new(message).with("rc", 257));
        }
        if args.state == "present" {
            file::make_directories(system, &files::parent_of(&path), &FileArgs::default())?;
        }
    }
    let before = if stat.is_some() { Some(system.read(&path)?) } else { None };
    let (coding, text) = Coding::decode(before.clone().unwrap_or_default());
    let coded = |text: &str| coding.parameter(text).into_owned();
    let mut values: Vec<String> = Vec::new();
    let listed = args.values.iter().flatten().filter(|value| !value.is_null()).map(Value::to_text);
    for value in listed.chain(args.value.clone()) {
        let value = coded(&value);
        if !values.contains(&value) {
            values.push(value);
        }
    }
    let edit = Edit {
        section: args.section.as_deref().map(coded).filter(|section| !section.is_empty()),
        conditions: conditions(args.section_has_values.as_deref().unwrap_or_default())?,
        option: args.option.as_deref().map(coded).filter(|option| !option.is_empty()),
        values,
        present: args.state == "present",
        exclusive: args.exclusive,
        allow_no_value: args.allow_no_value,
        separator: if args.no_extra_spaces { "=" } else { " = " },
        ignore_spaces: args.ignore_spaces,
        inactive: args.modify_inactive_option,
    };
    let (after, message) = edit.apply(&text);
    let mut outcome = Outcome::default().set("msg", message);
    let changed = after != text;
    if changed {
        let writing = Writing { backup: args.backup, ..Writing::plain(&args.file) };
        let content = crate::system::Content::Bytes(coding.encode(after));
        if let Some(backup) = files::put(system, &path, &content, &writing)? {
            outcome = outcome.set("backup_file", backup);
        }
    } else if stat.is_some() {
        args.file.apply(system, &path, true)?;
    }
    files::finish(system, outcome, &path, "path", None)
}

fn conditions(given: &[Value]) -> Result<Vec<Condition>> {
    let one = |value: &Value| {
        let map: &Map = value
            .as_map()
            .ok_or_else(|| ModuleError::new("section_has_values must be a list of mappings"))?;
        let option = map.get("option").ok_or_else(|| {
            ModuleError::new("missing required arguments: option found in section_has_values")
        })?;
        let mut values: Vec<String> = Vec::new();
        values.extend(map.get("value").filter(|value| !value.is_null()).map(Value::to_text));
        values.extend(map.get("values").and_then(Value::as_list).into_iter().flatten().map(Value::to_text));
        Ok(Condition { option: option.to_text(), values })
    };
    given.iter().map(one).collect()
}

/// What a section must have to be the one.
struct Condition {
    option: String,
    values: Vec<String>,
}

struct Edit {
    section: Option<String>,
    conditions: Vec<Condition>,
    option: Option<String>,
    values: Vec<String>,
    present: bool,
    exclusive: bool,
    allow_no_value: bool,
    separator: &'static str,
    ignore_spaces: bool,
    inactive: bool,
}

/// An option's line: whether it is commented out, and its value.
#[derive(Debug, PartialEq)]
struct Found<'a> {
    inactive: bool,
    value: &'a str,
}

fn blanks(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

/// Reads a line as one of `option`.
fn find<'a>(option: &str, line: &'a str) -> Option<Found<'a>> {
    let line = line.trim_end_matches(['\n', '\r']);
    let rest = blanks(line);
    let (inactive, rest) = match rest.strip_prefix(['#', ';']) {
        // An option whose own name starts with such a sign is no comment.
        Some(after) if !rest.starts_with(option) => (true, blanks(after)),
        _ => (false, rest),
    };
    let rest = blanks(rest.strip_prefix(option)?);
    if rest.is_empty() {
        return Some(Found { inactive, value: "" });
    }
    Some(Found { inactive, value: blanks(rest.strip_prefix('=')?) })
}

fn is_blank_or_comment(line: &str) -> bool {
    let rest = blanks(line.trim_end_matches(['\n', '\r']));
    rest.is_empty() || rest.starts_with(['#', ';'])
}

/// Whether a line opens the section.
fn opens(line: &str, section: &str) -> bool {
    line.strip_prefix('[')
        .and_then(|rest| rest.trim_start().strip_prefix(section.trim()))
        .is_some_and(|rest| rest.trim_start().starts_with(']'))
}

impl Edit {
    fn apply(&self, text: &str) -> (String, &'static str) {
        let (mark, body) = text.strip_prefix('\u{feff}').map_or(("", text), |body| ("\u{feff}", body));
        let mut lines: Vec<String> = body.split_inclusive('\n').map(str::to_string).collect();
        let mut changed = false;
        match lines.last_mut() {
            // A new file starts with an empty line, as those that are already out there do.
            None => lines.push("\n".into()),
            Some(last) if !last.ends_with('\n') => {
                last.push('\n');
                changed = true;
            }
            Some(_) => {}
        }
        let range = self.locate(&lines);
        let message = match range.clone() {
            Some(range) => {
                let mut section: Vec<String> = lines[range.clone()].to_vec();
                let message = if self.present { self.set(&mut section) } else { self.unset(&mut section) };
                changed |= message != "OK";
                lines.splice(range, section);
                message
            }
            None if self.present => {
                changed = true;
                self.add_section(&mut lines)
            }
            None => "OK",
        };
        if changed { (mark.to_string() + &lines.concat(), message) } else { (text.into(), message) }
    }

    /// The lines of the section, its head included.
    fn locate(&self, lines: &[String]) -> Option<std::ops::Range<usize>> {
        let end = |start: usize| {
            lines[start..].iter().position(|line| line.starts_with('[')).map_or(lines.len(), |at| start + at)
        };
        let Some(section) = &self.section else { return Some(0..end(0)) };
        let mut start = 0;
        while let Some(at) = lines[start..].iter().position(|line| opens(line, section)) {
            let range = start + at..end(start + at + 1);
            if self.has_values(&lines[range.clone()]) {
                return Some(range);
            }
            start = range.end;
        }
        None
    }

    fn has_values(&self, section: &[String]) -> bool {
        self.conditions.iter().all(|condition| {
            let found: Vec<&str> = section
                .iter()
                .filter_map(|line| find(&condition.option, line))
                .filter(|found| !found.inactive)
                .map(|found| found.value)
                .collect();
            if condition.values.is_empty() {
                !found.is_empty()
            } else {
                condition.values.iter().all(|value| found.contains(&value.as_str()))
            }
        })
    }

    fn line(&self, option: &str, value: &str) -> String {
        format!("{option}{}{value}\n", self.separator)
    }

    /// The option's line, if it is one that may be taken into use.
    fn matches<'a>(&self, option: &str, line: &'a str) -> Option<Found<'a>> {
        find(option, line).filter(|found| self.inactive || !found.inactive)
    }

    fn set(&self, section: &mut Vec<String>) -> &'static str {
        let Some(option) = &self.option else { return "OK" };
        let mut message = "OK";
        let mut values = self.values.clone();
        let mut done = vec![false; section.len()];
        let mut bare = false;
        let mut update = |section: &mut Vec<String>, done: &mut Vec<bool>, index: usize, new: String| {
            let same = match find(option, &section[index]) {
                Some(old) if self.ignore_spaces && !old.inactive => {
                    find(option, &new).is_some_and(|new| new.value == old.value)
                }
                _ => section[index] == new,
            };
            if !same {
                section[index] = new;
                message = "option changed";
            }
            done[index] = true;
        };
        for index in 0..section.len() {
            let Some(found) = self.matches(option, &section[index]) else { continue };
            let value = found.value.to_string();
            if let Some(at) = values.iter().position(|wanted| *wanted == value) {
                let new = if value.is_empty() && self.allow_no_value {
                    bare = true;
                    format!("{option}\n")
                } else {
                    self.line(option, &value)
                };
                update(section, &mut done, index, new);
                values.remove(at);
            } else if values.is_empty() && self.values.is_empty() && self.allow_no_value {
                update(section, &mut done, index, format!("{option}\n"));
                bare = true;
                break;
            }
        }
        if self.exclusive && !self.allow_no_value {
            for index in 0..section.len() {
                if !values.is_empty() && !done[index] && self.matches(option, &section[index]).is_some() {
                    let new = self.line(option, &values.remove(0));
                    update(section, &mut done, index, new);
                }
            }
            for index in (0..section.len()).rev() {
                if !done[index] && self.matches(option, &section[index]).is_some() {
                    section.remove(index);
                    done.remove(index);
                    message = "option changed";
                }
            }
        }
        let mut new: Vec<String> = values.iter().map(|value| self.line(option, value)).collect();
        if self.values.is_empty() && self.allow_no_value && !bare {
            new.push(format!("{option}\n"));
        }
        if !new.is_empty() {
            let at = section.iter().rposition(|line| !is_blank_or_comment(line)).map_or(0, |index| index + 1);
            section.splice(at..at, new);
            message = "option added";
        }
        message
    }

    fn unset(&self, section: &mut Vec<String>) -> &'static str {
        let Some(option) = &self.option else {
            if section.is_empty() {
                return "OK";
            }
            section.clear();
            return "section removed";
        };
        let count = section.len();
        section.retain(|line| {
            let found = find(option, line).filter(|found| !found.inactive);
            !found.is_some_and(|found| self.exclusive || self.values.iter().any(|value| value == found.value))
        });
        if section.len() == count { "OK" } else { "option changed" }
    }

    fn add_section(&self, lines: &mut Vec<String>) -> &'static str {
        let section = self.section.as_deref().unwrap_or_default();
        lines.push(format!("[{section}]\n"));
        for condition in &self.conditions {
            if condition.values.is_empty() {
                lines.push(format!("{}\n", condition.option));
            }
            lines.extend(condition.values.iter().map(|value| self.line(&condition.option, value)));
        }
        match &self.option {
            Some(option) if !self.values.is_empty() => {
                lines.extend(self.values.iter().map(|value| self.line(option, value)));
                "section and option added"
            }
            Some(option) if self.allow_no_value => {
                lines.push(format!("{option}\n"));
                "section and option added"
            }
            _ => "only section added",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    #[test]
    fn sets_and_removes_options() {
        let file = "f x 644 top = 1\n[a]\nk = 1\n# k2 = 2\n\n[b]\nk=old\n; c\n";
        for (start, args, expected, message) in [
            (
                file,
                r#""section": "a", "option": "k", "value": "1""#,
                "top = 1\n[a]\nk = 1\n# k2 = 2\n\n[b]\nk=old\n; c\n",
                "OK",
            ),
            (
                file,
                r#""section": "a", "option": "k", "value": "2""#,
                "top = 1\n[a]\nk = 2\n# k2 = 2\n\n[b]\nk=old\n; c\n",
                "option changed",
            ),
            (
                file,
                r#""section": "a", "option": "k2", "value": "3""#,
                "top = 1\n[a]\nk = 1\nk2 = 3\n\n[b]\nk=old\n; c\n",
                "option changed",
            ),
            (
                file,
                r#""section": "a", "option": "k2", "value": "3", "modify_inactive_option": false"#,
                "top = 1\n[a]\nk = 1\nk2 = 3\n# k2 = 2\n\n[b]\nk=old\n; c\n",
                "option added",
            ),
            (
                file,
                r#""section": "b", "option": "n", "value": "v", "no_extra_spaces": true"#,
                "top = 1\n[a]\nk = 1\n# k2 = 2\n\n[b]\nk=old\nn=v\n; c\n",
                "option added",
            ),
            (
                file,
                r#""section": "b", "option": "k", "value": "old", "ignore_spaces": true"#,
                "top = 1\n[a]\nk = 1\n# k2 = 2\n\n[b]\nk=old\n; c\n",
                "OK",
            ),
            (
                file,
                r#""section": "c", "option": "k", "value": "v""#,
                "top = 1\n[a]\nk = 1\n# k2 = 2\n\n[b]\nk=old\n; c\n[c]\nk = v\n",
                "section and option added",
            ),
            (
                file,
                r#""option": "top", "value": "2""#,
                "top = 2\n[a]\nk = 1\n# k2 = 2\n\n[b]\nk=old\n; c\n",
                "option changed",
            ),
            (file, r#""section": "a", "state": "absent""#, "top = 1\n[b]\nk=old\n; c\n", "section removed"),
            (
                file,
                r#""section": "b", "option": "k", "state": "absent""#,
                "top = 1\n[a]\nk = 1\n# k2 = 2\n\n[b]\n; c\n",
                "option changed",
            ),
            (
                "f x 644 [a]\nk = 1\nk = 2\nk = 3\n",
                r#""section": "a", "option": "k", "values": ["2", "4"]"#,
                "[a]\nk = 4\nk = 2\n",
                "option changed",
            ),
            (
                "f x 644 [a]\nk = 1\n",
                r#""section": "a", "option": "k", "values": ["2"], "exclusive": false"#,
                "[a]\nk = 1\nk = 2\n",
                "option added",
            ),
            (
                "f x 644 [a]\n",
                r#""section": "a", "option": "k", "allow_no_value": true"#,
                "[a]\nk\n",
                "option added",
            ),
            (
                "f x 644 [a]\nid = 1\n[a]\nid = 2\n",
                r#""section": "a", "section_has_values": [{"option": "id", "value": "2"}], "option": "k", "value": "v""#,
                "[a]\nid = 1\n[a]\nid = 2\nk = v\n",
                "option added",
            ),
            (
                "d d 755",
                r#""section": "a", "option": "k", "value": "v", "mode": "0644""#,
                "\n[a]\nk = v\n",
                "section and option added",
            ),
        ] {
            let verdict = contract(&MODULE, &[start], &format!(r#"{{"path": "@/x", {args}}}"#));
            assert_eq!(verdict.error, None, "{args}");
            assert!(
                verdict.tree.contains(&format!("f x 644 {expected}")),
                "{args} from {start:?}: {:?}",
                verdict.tree
            );
            assert_eq!(verdict.text("msg"), message, "{args}");
        }
        let verdict = contract(&MODULE, &[], r#"{"path": "@/x", "section": "a", "option": "k"}"#);
        assert!(verdict.error.expect("fails").starts_with("Parameter 'value(s)'"));
        let verdict = contract(&MODULE, &[], r#"{"path": "@/x", "section": "a", "state": "absent"}"#);
        assert!(!verdict.changed);
    }
}
