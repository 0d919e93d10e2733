//! `sudoers`: who may run what as whom.

use std::path::Path;

use serde::Deserialize;

use crate::module::files::{self, FileArgs, Writing};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Content, FileKind, System};
use crate::value::Value;

type Result<T> = std::result::Result<T, ModuleError>;

/// Writes a file of `sudoers.d`.
pub const MODULE: Module = Module {
    name: "community.general.sudoers",
    summary: "Say who may run what through sudo",
    description: "Each rule is a file of its own with mode 0440. `visudo` checks it before it is put in place, where there is one.",
    example: "- name: Alice may run the backup as root\n  community.general.sudoers:\n    name: alice-backup\n    user: alice\n    commands: /usr/local/bin/backup\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name of the file.").required(),
        Param::new("user", Type::Str, "Who it is for."),
        Param::new("group", Type::Str, "The group it is for."),
        Param::new("commands", Type::List, "What may be run: paths, or `ALL`."),
        Param::new("runas", Type::Str, "As whom; without it, root."),
        Param::new("host", Type::Str, "On which host.").default("ALL"),
        Param::new("nopassword", Type::Bool, "No password is asked for.").default("true"),
        Param::new("setenv", Type::Bool, "Variables may be kept.").default("false"),
        Param::new("noexec", Type::Bool, "The commands may not start others.").default("false"),
        Param::new("sudoers_path", Type::Str, "The directory.").default("/etc/sudoers.d"),
        Param::new("state", Type::Str, "Whether the file should be there.")
            .choices(&["present", "absent"])
            .default("present"),
        Param::new("validation", Type::Str, "Check with visudo: never, if it is there, always.")
            .choices(&["absent", "detect", "required"])
            .default("detect"),
    ],
    rules: &[
        Rule::MutuallyExclusive(&["user", "group"]),
        Rule::RequiredIf { param: "state", value: "present", needs: &["commands"], any: false },
        Rule::RequiredIf { param: "state", value: "present", needs: &["user", "group"], any: true },
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    user: Option<String>,
    group: Option<String>,
    #[serde(deserialize_with = "host::optional_texts")]
    commands: Option<Vec<String>>,
    runas: Option<String>,
    host: String,
    nopassword: bool,
    setenv: bool,
    noexec: bool,
    sudoers_path: String,
    state: String,
    validation: String,
}

impl Args {
    fn content(&self) -> String {
        let owner = match (&self.user, &self.group) {
            (Some(user), _) => user.clone(),
            (None, group) => format!("%{}", group.as_deref().unwrap_or_default()),
        };
        let runas = self.runas.as_ref().map(|runas| format!("({runas})")).unwrap_or_default();
        let tag = |on: bool, word: &'static str| if on { word } else { "" };
        format!(
            "{owner} {}={runas}{}{}{} {}\n",
            self.host,
            tag(self.noexec, "NOEXEC:"),
            tag(self.nopassword, "NOPASSWD:"),
            tag(self.setenv, "SETENV:"),
            self.commands.as_deref().unwrap_or_default().join(", ")
        )
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    if args.name.is_empty() || args.name.contains('/') {
        return Err(ModuleError::new(format!("name must be the name of a file, got '{}'", args.name)));
    }
    let path = Path::new(&args.sudoers_path).join(&args.name);
    if args.state == "absent" {
        if system.stat(&path)?.is_some() {
            system.remove(&path)?;
        }
        files::record(system, &path, None, None)?;
        return Ok(Outcome::default());
    }
    let content = args.content();
    let attributes = FileArgs { mode: Some(Value::str("0440")), ..FileArgs::default() };
    // A link that leads nowhere is replaced.
    let before = match system.stat_follow(&path).ok().flatten().map(|stat| stat.kind) {
        Some(FileKind::File) => Some(system.read(&path)?),
        Some(FileKind::Directory) => {
            return Err(ModuleError::new(format!("{} is a directory", path.display())));
        }
        _ => None,
    };
    if before.as_deref() == Some(content.as_bytes()) {
        attributes.apply(system, &path, true)?;
    } else {
        let visudo = match args.validation.as_str() {
            "absent" => None,
            "required" => Some(host::need_program("visudo", system)?),
            _ => host::find_program("visudo", system)?.map(|path| path.to_string_lossy().into_owned()),
        };
        let check = visudo.map(|program| format!("{} -c -f %s", host::quote_word(&program)));
        let writing = Writing { validate: check.as_deref(), ..Writing::plain(&attributes) };
        files::put(system, &path, &Content::Bytes(content.into_bytes()), &writing)?;
    }
    let stat = system.stat(&path)?;
    files::record(system, &path, stat.as_ref(), None)?;
    Ok(Outcome::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{contract, on_fake};
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn rules_are_written_and_removed() {
        let table: &[(&str, &str)] = &[
            (r#""user":"alice","commands":"/bin/a""#, "alice ALL=NOPASSWD: /bin/a"),
            (
                r#""group":"adm","commands":["/bin/a","/bin/b x"],"nopassword":false"#,
                "%adm ALL= /bin/a, /bin/b x",
            ),
            (
                r#""user":"u","commands":["ALL"],"runas":"www","host":"web","setenv":true,"noexec":true"#,
                "u web=(www)NOEXEC:NOPASSWD:SETENV: ALL",
            ),
        ];
        for (arguments, line) in table {
            let arguments = format!(r#"{{"name":"x","sudoers_path":"@",{arguments},"validation":"absent"}}"#);
            let verdict = contract(&MODULE, &["f x 644 old"], &arguments);
            assert_eq!(verdict.tree, [format!("f x 440 {line}\n")], "{arguments}");
        }
        let gone = contract(&MODULE, &["f x 440 old"], r#"{"name":"x","sudoers_path":"@","state":"absent"}"#);
        assert!(gone.tree.is_empty() && gone.changed);
        let error = contract(&MODULE, &[], r#"{"name":"x","sudoers_path":"@","commands":"a"}"#).error;
        assert!(error.unwrap_or_default().contains("user, group"));
    }

    #[test]
    fn what_visudo_refuses_is_not_put_in_place() {
        let machine = |code: i32| {
            move || {
                Fake::new().with_dir("/etc/sudoers.d").with_program("/usr/sbin/visudo").with_command_prefix(
                    &["/usr/sbin/visudo"],
                    Output { code, ..Output::fails(code, "syntax error") },
                )
            }
        };
        let arguments = r#"{"name":"x","user":"u","commands":"ls"}"#;
        let mut verdict = on_fake(&MODULE, machine(1), arguments);
        assert!(verdict.error.clone().unwrap_or_default().contains("syntax error"));
        assert_eq!(verdict.machine.text("/etc/sudoers.d/x"), None);
        let mut verdict = on_fake(&MODULE, machine(0), arguments);
        assert_eq!(verdict.machine.text("/etc/sudoers.d/x").as_deref(), Some("u ALL=NOPASSWD: ls\n"));
        assert!(verdict.rolled_back);
    }
}
