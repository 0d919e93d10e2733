//! `git_config`: settings of git.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Intent, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Reads and sets settings with `git config`.
pub const MODULE: Module = Module {
    name: "community.general.git_config",
    summary: "Manage settings of git",
    description: "Values are compared with what `git config --get-all` says in the scope that is given.",
    example: "- name: Who commits\n  community.general.git_config:\n    name: user.email\n    value: ann@example.org\n    scope: global\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name of the setting.").required(),
        Param::new("value", Type::Str, "Its value."),
        Param::new("scope", Type::Str, "Which file; without it, `local` with `repo` and else the system's.")
            .choices(&["file", "local", "global", "system"]),
        Param::new("repo", Type::Path, "Repository of scope `local`."),
        Param::new("file", Type::Path, "File of scope `file`."),
        Param::new("state", Type::Str, "Whether it should be set.")
            .choices(&["present", "absent"])
            .default("present"),
        Param::new("add_mode", Type::Str, "Add to other values, or replace them all.")
            .choices(&["add", "replace-all"])
            .default("replace-all"),
    ],
    rules: &[
        Rule::RequiredIf { param: "scope", value: "local", needs: &["repo"], any: false },
        Rule::RequiredIf { param: "scope", value: "file", needs: &["file"], any: false },
        Rule::RequiredIf { param: "state", value: "present", needs: &["value"], any: false },
    ],
    returns: &[("msg", "What was done."), ("diff", "The values before and after.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    value: Option<String>,
    scope: Option<String>,
    repo: Option<String>,
    file: Option<String>,
    state: String,
    add_mode: String,
}

struct Git {
    words: Vec<String>,
    directory: String,
}

impl Git {
    fn command(&self, words: &[&str]) -> Command {
        let argv = self.words.iter().map(String::as_str).chain(words.iter().copied());
        let mut command = Command::new(argv).c_locale();
        command.cwd = Some(self.directory.as_str().into());
        command
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    let mut words = vec![host::need_program("git", system)?, "config".into()];
    // Without a repository there is no place to look for one.
    let mut directory = "/".to_string();
    let scope = args.scope.as_deref().or(args.repo.is_none().then_some("system"));
    if let Some(repo) = &args.repo {
        directory = args::expand_path(repo, system)?.to_string_lossy().into_owned();
        if !host::is_directory(&directory, system)? && system.uncertain().is_none() {
            return Err(ModuleError::new(format!("there is no repository {directory}")));
        }
    }
    match scope {
        Some("file") => {
            let file = args.file.as_deref().unwrap_or_default();
            words.extend(["-f".into(), args::expand_path(file, system)?.to_string_lossy().into_owned()]);
        }
        Some(scope) => words.push(format!("--{scope}")),
        None => words.push("--local".into()),
    }
    let id = format!("{} {}", words[2..].join(" "), args.name);
    let git = Git { words, directory };
    let asked = git.command(&["--get-all", &args.name]);
    let output = match system.query(&asked) {
        Ok(output) => output,
        Err(error) if error.is_not_found() && system.uncertain().is_some() => Default::default(),
        Err(error) => return Err(error.into()),
    };
    // 1: not set. A file that is not there says the same, or 128 in some versions.
    let unset =
        output.stdout.is_empty() && (output.code == 1 || output.stderr_text().contains("No such file"));
    if output.code > 0 && !unset {
        return Err(ModuleError::command("git does not tell the setting", &asked, &output));
    }
    let before: Vec<String> = output.stdout_text().lines().map(String::from).collect();
    let present = args.state == "present";
    let value = args.value.clone().unwrap_or_default();
    let add = args.add_mode == "add";
    let right = if present {
        if add { before.contains(&value) } else { before == [value.clone()] }
    } else {
        before.is_empty()
    };
    let after: Vec<String> = match (present, add) {
        (false, _) => Vec::new(),
        (true, true) if right => before.clone(),
        (true, true) => before.iter().cloned().chain([value.clone()]).collect(),
        (true, false) => vec![value.clone()],
    };
    let list = |values: &[String]| match values {
        [] => Value::Null,
        values => map_of([("values", Value::list(values.iter().cloned().map(Value::from).collect()))]).into(),
    };
    if !right {
        let command = match (present, add) {
            (false, _) => git.command(&["--unset-all", &args.name]),
            (true, true) => git.command(&["--add", &args.name, &value]),
            (true, false) => git.command(&["--replace-all", &args.name, &value]),
        };
        let undo = match (before.as_slice(), present && add) {
            // Of several that were replaced, one command can't set all again.
            ([], _) => Some(git.command(&["--unset-all", &args.name])),
            (_, true) => Some(git.command(&["--unset-all", &args.name, &exactly(&value)])),
            ([one], false) => Some(git.command(&["--replace-all", &args.name, one])),
            _ => None,
        };
        let intent = Intent {
            kind: "git_config",
            id: id.clone(),
            before: list(&before),
            after: list(&after),
            undo: undo.map(in_directory),
            ..Intent::default()
        };
        host::carry_out(&command, intent, "git config failed", system)?;
    }
    system.applied(Applied { kind: "git_config".into(), id, state: list(&after) });
    Ok(Outcome::default().set(
        "msg",
        if right {
            ""
        } else if present {
            "setting changed"
        } else {
            "setting removed"
        },
    ))
}

/// A pattern of git's that fits this text only.
fn exactly(text: &str) -> String {
    let escaped: String = text
        .chars()
        .flat_map(|c| (!c.is_alphanumeric() && !" _/@:-".contains(c)).then_some('\\').into_iter().chain([c]))
        .collect();
    format!("^{escaped}$")
}

/// What takes a change back is run anywhere: git itself goes to the directory.
fn in_directory(command: Command) -> Command {
    let Some(directory) = &command.cwd else { return command };
    let mut argv = vec![command.argv[0].clone(), "-C".into(), directory.clone().into_os_string()];
    argv.extend(command.argv[1..].iter().cloned());
    Command { argv, cwd: None, ..command }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{call, contract};

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn settings_are_made_added_and_removed() {
        if !std::path::Path::new("/usr/bin/git").exists()
            && !std::path::Path::new("/usr/local/bin/git").exists()
        {
            eprintln!("skipped: no git");
            return;
        }
        let table: &[(&str, &str, &str)] = &[
            ("", r#""name":"user.email","value":"a b""#, "[user]\n\temail = a b\n"),
            ("[user]\n\temail = a b\n", r#""name":"user.email","value":"a b""#, "[user]\n\temail = a b\n"),
            ("[user]\n\temail = a b\n", r#""name":"user.email","value":"c d""#, "[user]\n\temail = c d\n"),
            (
                "[a]\n\tb = 1\n\tb = 2\n",
                r#""name":"a.b","value":"3","add_mode":"add""#,
                "[a]\n\tb = 1\n\tb = 2\n\tb = 3\n",
            ),
            (
                "[a]\n\tb = 1\n\tb = 2\n",
                r#""name":"a.b","value":"2","add_mode":"add""#,
                "[a]\n\tb = 1\n\tb = 2\n",
            ),
            ("[a]\n\tb = 1\n\tb = 2\n", r#""name":"a.b","value":"3""#, "[a]\n\tb = 3\n"),
            ("[a]\n\tc = 2\n\tb = 1\n", r#""name":"a.b","state":"absent""#, "[a]\n\tc = 2\n"),
            ("[a]\n\tc = 2\n", r#""name":"a.b","state":"absent""#, "[a]\n\tc = 2\n"),
        ];
        for (before, arguments, after) in table {
            let arguments = format!(r#"{{{arguments},"scope":"file","file":"@/config"}}"#);
            let verdict = contract(&MODULE, &[&format!("f config 644 {before}")], &arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            assert_eq!(verdict.tree, [format!("f config 644 {after}")], "{arguments}");
        }
        assert_eq!(exactly("a.b c"), "^a\\.b c$");
    }

    #[test]
    fn what_is_missing_is_said() {
        for (arguments, expected) in [
            (r#"{"name":"a.b"}"#, "value"),
            (r#"{"name":"a.b","value":"1","scope":"local"}"#, "repo"),
            (r#"{"name":"a.b","value":"1","scope":"file"}"#, "file"),
        ] {
            let given = serde_json::from_str(arguments).expect("JSON");
            let error = call(&MODULE, &given, &mut crate::system::fake::Fake::new()).expect_err("incomplete");
            assert!(error.contains(expected), "{arguments}: {error}");
        }
    }
}
