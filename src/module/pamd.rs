//! `pamd`: rules of PAM services.

use std::path::Path;

use serde::Deserialize;

use crate::module::files::{self, FileArgs, Writing};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Content, System};
use crate::value::Value;

type Result<T> = std::result::Result<T, ModuleError>;

const TYPES: &[&str] =
    &["account", "-account", "auth", "-auth", "password", "-password", "session", "-session"];

/// Edits a service's rules.
pub const MODULE: Module = Module {
    name: "community.general.pamd",
    summary: "Edit rules of PAM services",
    description: "Rules are found by type, control and module path, which must all fit. Comments and order stay as they are.",
    example: "- name: Lock accounts after failures\n  community.general.pamd:\n    name: common-auth\n    type: auth\n    control: '[success=1 default=ignore]'\n    module_path: pam_unix.so\n    new_type: auth\n    new_control: required\n    new_module_path: pam_faillock.so\n    module_arguments: preauth\n    state: before\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "The service: name of a file.").required(),
        Param::new("type", Type::Str, "Type of the rule.").required().choices(TYPES),
        Param::new("control", Type::Str, "Its control; one in brackets must be quoted.").required(),
        Param::new("module_path", Type::Str, "Its module.").required(),
        Param::new("new_type", Type::Str, "Type of the new rule.").choices(TYPES),
        Param::new("new_control", Type::Str, "Control of the new rule."),
        Param::new("new_module_path", Type::Str, "Module of the new rule."),
        Param::new("module_arguments", Type::List, "Arguments of the module."),
        Param::new(
            "state",
            Type::Str,
            "What to do: change the rule, put one before or after it, add or take out arguments, take it out.",
        )
        .choices(&["absent", "before", "after", "args_absent", "args_present", "updated"])
        .default("updated"),
        Param::new("path", Type::Path, "Directory of the services.").default("/etc/pam.d"),
        Param::new("backup", Type::Bool, "Keep a copy of what is replaced.").default("false"),
    ],
    rules: &[
        Rule::RequiredIf { param: "state", value: "args_present", needs: &["module_arguments"], any: false },
        Rule::RequiredIf { param: "state", value: "args_absent", needs: &["module_arguments"], any: false },
        Rule::RequiredIf {
            param: "state",
            value: "before",
            needs: &["new_type", "new_control", "new_module_path"],
            any: false,
        },
        Rule::RequiredIf {
            param: "state",
            value: "after",
            needs: &["new_type", "new_control", "new_module_path"],
            any: false,
        },
    ],
    returns: &[("change_count", "How many rules were changed."), ("backupdest", "The copy that was kept.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    control: String,
    module_path: String,
    new_type: Option<String>,
    new_control: Option<String>,
    new_module_path: Option<String>,
    #[serde(deserialize_with = "host::optional_texts")]
    module_arguments: Option<Vec<String>>,
    state: String,
    path: String,
    backup: bool,
}

/// A rule's parts.
#[derive(Clone, Debug, PartialEq)]
struct PamRule {
    kind: String,
    control: String,
    module: String,
    arguments: Vec<String>,
}

impl PamRule {
    fn line(&self) -> String {
        let head = format!("{}\t{}\t{}", self.kind, self.control, self.module);
        if self.arguments.is_empty() { head } else { format!("{head} {}", self.arguments.join(" ")) }
    }
}

/// Splits words; what stands in brackets is one.
fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut inside = false;
    for character in text.chars() {
        match character {
            '[' => inside = true,
            ']' => inside = false,
            _ => {}
        }
        if character.is_whitespace() && !inside {
            if !word.is_empty() {
                out.push(std::mem::take(&mut word));
            }
        } else {
            word.push(character);
        }
    }
    if !word.is_empty() {
        out.push(word);
    }
    out
}

fn parse(line: &str) -> Option<PamRule> {
    let line = line.trim();
    if line.is_empty() || line.starts_with(['#', '@']) {
        return None;
    }
    let mut parts = words(line).into_iter();
    let (kind, control, module) = (parts.next()?, parts.next()?, parts.next()?);
    if !TYPES.contains(&kind.as_str()) {
        return None;
    }
    Some(PamRule { kind, control, module, arguments: parts.collect() })
}

/// Controls in brackets are compared word by word.
fn same_control(one: &str, other: &str) -> bool {
    let parts = |text: &str| -> Vec<String> {
        text.trim_matches(['[', ']']).split_whitespace().map(String::from).collect()
    };
    one.starts_with('[') == other.starts_with('[') && parts(one) == parts(other)
}

impl Args {
    fn is_it(&self, rule: &PamRule) -> bool {
        rule.kind == self.kind
            && same_control(&rule.control, &self.control)
            && rule.module == self.module_path
    }

    /// The arguments that were asked for; one item may hold several, separated by blanks.
    fn arguments(&self) -> Vec<String> {
        self.module_arguments.iter().flatten().flat_map(|item| words(item)).collect()
    }

    /// The rule that is to stand beside the one that was found.
    fn neighbour(&self) -> PamRule {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        PamRule {
            kind: text(&self.new_type),
            control: text(&self.new_control),
            module: text(&self.new_module_path),
            arguments: self.arguments(),
        }
    }

    fn updated(&self, rule: &PamRule) -> PamRule {
        let mut new = rule.clone();
        match self.state.as_str() {
            "args_present" => {
                for argument in self.arguments() {
                    let same = |known: &String| match argument.split_once('=') {
                        Some((name, _)) => known.split_once('=').is_some_and(|(known, _)| known == name),
                        None => *known == argument,
                    };
                    match new.arguments.iter_mut().find(|known| same(known)) {
                        Some(known) => *known = argument,
                        None => new.arguments.push(argument),
                    }
                }
            }
            "args_absent" => {
                let gone = self.arguments();
                new.arguments.retain(|known| !gone.contains(known));
            }
            _ => {
                new.kind = self.new_type.clone().unwrap_or(new.kind);
                new.control = self.new_control.clone().unwrap_or(new.control);
                new.module = self.new_module_path.clone().unwrap_or(new.module);
                if self.module_arguments.is_some() {
                    new.arguments = self.arguments();
                }
            }
        }
        new
    }

    /// The text after the edit, and how many rules were changed.
    fn edit(&self, text: &str) -> (String, usize) {
        let lines: Vec<&str> = text.lines().collect();
        let mut out: Vec<String> = Vec::new();
        let mut count = 0;
        for (index, line) in lines.iter().enumerate() {
            let found = parse(line).filter(|rule| self.is_it(rule));
            let Some(rule) = found else {
                out.push((*line).to_string());
                continue;
            };
            match self.state.as_str() {
                "absent" => count += 1,
                "before" => {
                    let previous = out.iter().rev().find_map(|line| parse(line));
                    if previous.as_ref() != Some(&self.neighbour()) {
                        out.push(self.neighbour().line());
                        count += 1;
                    }
                    out.push((*line).to_string());
                }
                "after" => {
                    out.push((*line).to_string());
                    let next = lines[index + 1..].iter().find_map(|line| parse(line));
                    if next.as_ref() != Some(&self.neighbour()) {
                        out.push(self.neighbour().line());
                        count += 1;
                    }
                }
                _ => {
                    let new = self.updated(&rule);
                    if new == rule {
                        out.push((*line).to_string());
                    } else {
                        out.push(new.line());
                        count += 1;
                    }
                }
            }
        }
        let mut after = out.join("\n");
        if !after.is_empty() {
            after.push('\n');
        }
        (after, count)
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    let path = args::expand_path(&args.path, system)?.join(&args.name);
    let Some(text) = host::read_text(&path, system) else {
        if let Some(outcome) = files::uncertain(system, &path) {
            return Ok(outcome);
        }
        return Err(ModuleError::new(format!("there is no PAM service {}", path.display())));
    };
    let (after, count) = args.edit(&text);
    let changed = i64::try_from(count).unwrap_or(i64::MAX);
    let mut outcome = Outcome::default().set("change_count", changed).set("backupdest", "");
    if count > 0 {
        outcome = put(&path, after, args.backup, outcome, system)?;
    }
    let stat = system.stat_follow(&path)?;
    files::record(system, &path, stat.as_ref(), None)?;
    Ok(outcome)
}

fn put(
    path: &Path,
    text: String,
    backup: bool,
    outcome: Outcome,
    system: &mut dyn System,
) -> Result<Outcome> {
    let real = system.resolve(path)?;
    let attributes = FileArgs::default();
    let writing = Writing { backup, ..Writing::plain(&attributes) };
    match files::put(system, &real, &Content::Bytes(text.into_bytes()), &writing)? {
        Some(backup) => Ok(outcome.set("backupdest", Value::str(backup))),
        None => Ok(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    const SERVICE: &str = "#%PAM-1.0\nauth  required   pam_env.so\nauth\t[success=1 default=ignore]\tpam_unix.so nullok try_first_pass retry=3\n\n@include common-account\nsession optional pam_x.so\n";

    #[test]
    fn rules_are_edited_and_the_rest_stays() {
        let unix = r#""type":"auth","control":"[success=1 default=ignore]","module_path":"pam_unix.so""#;
        let before = "auth\t[success=1 default=ignore]\tpam_unix.so nullok try_first_pass retry=3\n";
        let table: &[(&str, &str, i64)] = &[
            (r#""state":"absent""#, "", 1),
            (r#""new_control":"required""#, "auth\trequired\tpam_unix.so nullok try_first_pass retry=3\n", 1),
            (r#""module_arguments":["nullok"]"#, "auth\t[success=1 default=ignore]\tpam_unix.so nullok\n", 1),
            (r#""module_arguments":"nullok try_first_pass retry=3""#, before, 0),
            (
                r#""state":"args_present","module_arguments":["retry=5","nullok","x"]"#,
                "auth\t[success=1 default=ignore]\tpam_unix.so nullok try_first_pass retry=5 x\n",
                1,
            ),
            (
                r#""state":"args_absent","module_arguments":["nullok","y"]"#,
                "auth\t[success=1 default=ignore]\tpam_unix.so try_first_pass retry=3\n",
                1,
            ),
            (
                r#""state":"after","new_type":"auth","new_control":"required","new_module_path":"pam_n.so","module_arguments":["a"]"#,
                "auth\t[success=1 default=ignore]\tpam_unix.so nullok try_first_pass retry=3\nauth\trequired\tpam_n.so a\n",
                1,
            ),
            (
                r#""state":"before","new_type":"auth","new_control":"required","new_module_path":"pam_env.so""#,
                before,
                0,
            ),
            (
                r#""state":"before","new_type":"auth","new_control":"optional","new_module_path":"pam_env.so""#,
                "auth\toptional\tpam_env.so\nauth\t[success=1 default=ignore]\tpam_unix.so nullok try_first_pass retry=3\n",
                1,
            ),
        ];
        for (arguments, line, count) in table {
            let arguments = format!(r#"{{"name":"s","path":"@",{unix},{arguments}}}"#);
            // Updating a control makes the rule another one: the second run does not find it, and changes nothing.
            let verdict = contract(&MODULE, &[&format!("f s 644 {SERVICE}")], &arguments);
            assert_eq!(verdict.tree, [format!("f s 644 {}", SERVICE.replace(before, line))], "{arguments}");
            assert_eq!(verdict.text("change_count"), count.to_string(), "{arguments}");
        }
        let other = r#"{"name":"none","path":"@","type":"auth","control":"a","module_path":"b"}"#;
        assert!(contract(&MODULE, &[], other).error.unwrap_or_default().contains("no PAM service"));
        let incomplete =
            r#"{"name":"s","path":"@","type":"auth","control":"a","module_path":"b","state":"after"}"#;
        assert!(contract(&MODULE, &[], incomplete).error.unwrap_or_default().contains("new_type"));
    }
}
