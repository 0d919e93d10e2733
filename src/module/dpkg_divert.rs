//! `dpkg_divert`: files of Debian packages that are put elsewhere.

use std::path::PathBuf;

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Effect, FileKind, Intent, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Manages diversions.
pub const MODULE: Module = Module {
    name: "community.general.dpkg_divert",
    summary: "Have packages install a file elsewhere",
    description: "A diversion makes dpkg put a package's file under another name, so that one of your own can stay in its place.",
    example: "- name: Our own configuration stays in place\n  community.general.dpkg_divert:\n    path: /etc/screenrc\n    rename: true\n",
    scope: Scope::Host,
    params: &[
        Param::new("path", Type::Path, "The file that is diverted.").required(),
        Param::new("state", Type::Str, "Whether there should be a diversion.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new(
            "holder",
            Type::Str,
            "The package whose file is not diverted; without it, the diversion is local.",
        ),
        Param::new("divert", Type::Path, "Where the file goes; without it, `path` with `.distrib`."),
        Param::new("rename", Type::Bool, "Move the file that is there, or move it back.").default("false"),
        Param::new("force", Type::Bool, "With `rename`: even if that replaces another file.")
            .default("false"),
    ],
    returns: &[
        ("commands", "The commands that ran."),
        ("messages", "What dpkg-divert said."),
        ("diversion", "The diversion: `divert`, `holder`, `path`, `state`."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    path: String,
    state: String,
    holder: Option<String>,
    divert: Option<String>,
    rename: bool,
    force: bool,
}

/// A diversion; a holder of `LOCAL` is nobody.
#[derive(Clone, Debug, PartialEq)]
struct Diversion {
    divert: String,
    holder: String,
}

impl Diversion {
    fn value(&self) -> Value {
        map_of([("divert", self.divert.as_str()), ("holder", &self.holder)]).into()
    }

    fn words(&self) -> Vec<String> {
        let mut out = vec!["--divert".to_string(), self.divert.clone()];
        if self.holder == "LOCAL" {
            out.push("--local".into());
        } else {
            out.extend(["--package".to_string(), self.holder.clone()]);
        }
        out
    }
}

struct Divert {
    program: String,
    path: String,
    commands: Vec<Value>,
    messages: Vec<Value>,
}

impl Divert {
    fn command(&self, words: Vec<String>) -> Command {
        let argv = std::iter::once(self.program.clone()).chain(words).chain([self.path.clone()]);
        Command::new(argv).c_locale()
    }

    fn act(&mut self, command: &Command, intent: Intent, system: &mut dyn System) -> Result<()> {
        self.commands.push(Value::str(command.line()));
        let intent = Intent { kind: "diversion", id: self.path.clone(), ..intent };
        let output = host::carry_out(command, intent, "dpkg-divert failed", system)?;
        self.messages
            .extend(output.stdout_text().lines().chain(output.stderr_text().lines()).map(Value::str));
        Ok(())
    }
}

/// What `dpkg-divert --list` says: `diversion of A to B by C`, `local diversion of A to B`.
fn parse(text: &str, path: &str) -> Option<Diversion> {
    text.lines().find_map(|line| {
        if let Some(rest) = line.strip_prefix("local diversion of ") {
            let divert = rest.strip_prefix(path)?.strip_prefix(" to ")?;
            return Some(Diversion { divert: divert.to_string(), holder: "LOCAL".into() });
        }
        let rest = line.strip_prefix("diversion of ")?.strip_prefix(path)?.strip_prefix(" to ")?;
        let (divert, holder) = rest.rsplit_once(" by ")?;
        Some(Diversion { divert: divert.to_string(), holder: holder.to_string() })
    })
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    let path = args::expand_path(&args.path, system)?.to_string_lossy().into_owned();
    if !path.starts_with('/') {
        return Err(ModuleError::new(format!("path must be absolute, got {path}")));
    }
    let mut tool = Divert {
        program: host::need_program("dpkg-divert", system)?,
        path: path.clone(),
        commands: Vec::new(),
        messages: Vec::new(),
    };
    let listed = host::ask(tool.command(vec!["--list".into()]).argv, system)?;
    let before = parse(&listed.stdout_text(), &path);
    let wanted = if args.state == "present" {
        let divert = match &args.divert {
            Some(divert) => args::expand_path(divert, system)?.to_string_lossy().into_owned(),
            None => format!("{path}.distrib"),
        };
        let holder =
            args.holder.clone().filter(|holder| !holder.is_empty()).unwrap_or_else(|| "LOCAL".into());
        Some(Diversion { divert, holder })
    } else {
        None
    };
    match (&before, &wanted) {
        (Some(before), Some(wanted)) if before == wanted => {}
        (Some(before), Some(wanted)) => {
            // A diversion of one path can't be changed: it is taken back and made again.
            take_back(&mut tool, args, before, system)?;
            divert(&mut tool, args, wanted, system)?;
        }
        (None, Some(wanted)) => divert(&mut tool, args, wanted, system)?,
        (Some(before), None) => take_back(&mut tool, args, before, system)?,
        (None, None) => {}
    }
    let state = wanted.as_ref().map_or(Value::Null, Diversion::value);
    system.applied(Applied { kind: "diversion".into(), id: path.clone(), state });
    let text = |value: Option<&String>| value.cloned().map_or(Value::Null, Value::from);
    let diversion = map_of([
        ("path", Value::from(path)),
        ("state", args.state.as_str().into()),
        ("divert", text(wanted.as_ref().map(|wanted| &wanted.divert))),
        ("holder", text(wanted.as_ref().map(|wanted| &wanted.holder))),
    ]);
    Ok(Outcome::default()
        .set("commands", Value::list(tool.commands))
        .set("messages", Value::list(tool.messages))
        .set("diversion", Value::map(diversion)))
}

/// A file that is in the way of one that is moved.
fn clear(from: &str, to: &str, args: &Args, system: &mut dyn System) -> Result<()> {
    let in_the_way = args.rename && args.force && system.stat(from.as_ref())?.is_some();
    if in_the_way && system.stat(to.as_ref())?.is_some() {
        system.remove(to.as_ref())?;
    }
    Ok(())
}

fn moved(from: &str, to: &str, args: &Args, system: &mut dyn System) -> Result<Vec<Effect>> {
    if !args.rename || system.stat(from.as_ref())?.is_none() {
        return Ok(Vec::new());
    }
    Ok(vec![Effect::Path(PathBuf::from(to), FileKind::File), Effect::NoPath(PathBuf::from(from))])
}

fn rename_word(args: &Args) -> String {
    if args.rename { "--rename" } else { "--no-rename" }.into()
}

fn divert(tool: &mut Divert, args: &Args, wanted: &Diversion, system: &mut dyn System) -> Result<()> {
    let path = tool.path.clone();
    clear(&path, &wanted.divert, args, system)?;
    let command = tool.command([vec![rename_word(args)], wanted.words(), vec!["--add".into()]].concat());
    let intent = Intent {
        before: Value::Null,
        after: wanted.value(),
        undo: Some(tool.command(vec![rename_word(args), "--remove".into()])),
        effects: moved(&path, &wanted.divert, args, system)?,
        ..Intent::default()
    };
    tool.act(&command, intent, system)
}

fn take_back(tool: &mut Divert, args: &Args, before: &Diversion, system: &mut dyn System) -> Result<()> {
    let path = tool.path.clone();
    clear(&before.divert, &path, args, system)?;
    let command = tool.command(vec![rename_word(args), "--remove".into()]);
    let undo = tool.command([vec![rename_word(args)], before.words(), vec!["--add".into()]].concat());
    let intent = Intent {
        before: before.value(),
        after: Value::Null,
        undo: Some(undo),
        effects: moved(&before.divert, &path, args, system)?,
        ..Intent::default()
    };
    tool.act(&command, intent, system)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::on_fake;
    use crate::system::Output;
    use crate::system::fake::Fake;

    /// A machine whose diversions are lines `path divert holder` of a file.
    fn machine() -> Fake {
        Fake::new()
            .with_program("/usr/bin/dpkg-divert")
            .with_file("/state/diversions", "/etc/old /etc/old.distrib LOCAL\n")
            .with_file("/etc/screenrc", "theirs")
            .with_behaviour(&["/usr/bin/dpkg-divert"], |fake, command| {
                let words: Vec<String> =
                    command.argv[1..].iter().map(|word| word.to_string_lossy().into_owned()).collect();
                let has = |word: &str| words.iter().any(|known| known == word);
                let after =
                    |word: &str| words.iter().position(|known| known == word).map(|at| words[at + 1].clone());
                let path = words.last().cloned().unwrap_or_default();
                let text = fake.text("/state/diversions").unwrap_or_default();
                let line = text.lines().find(|line| line.starts_with(&format!("{path} "))).map(String::from);
                if has("--list") {
                    let said = line.map(|line| {
                        let parts: Vec<&str> = line.split(' ').collect();
                        if parts[2] == "LOCAL" {
                            format!("local diversion of {} to {}\n", parts[0], parts[1])
                        } else {
                            format!("diversion of {} to {} by {}\n", parts[0], parts[1], parts[2])
                        }
                    });
                    return Output::ok(&said.unwrap_or_default());
                }
                let shift = |fake: &mut Fake, from: &str, to: &str| {
                    if let Some(content) = fake.text(from) {
                        fake.delete(from);
                        fake.put(to, content);
                    }
                };
                if has("--remove") {
                    let Some(line) = line else { return Output::ok("No diversion\n") };
                    fake.put("/state/diversions", text.replace(&(line.clone() + "\n"), ""));
                    if has("--rename") {
                        shift(fake, line.split(' ').nth(1).unwrap_or_default(), &path);
                    }
                    return Output::ok("Removing diversion\n");
                }
                let to = after("--divert").unwrap_or_default();
                let holder = after("--package").unwrap_or_else(|| "LOCAL".into());
                fake.put("/state/diversions", format!("{text}{path} {to} {holder}\n"));
                if has("--rename") {
                    shift(fake, &path, &to);
                }
                Output::ok("Adding diversion\n")
            })
    }

    #[test]
    fn diversions_are_made_changed_and_taken_back() {
        let table: &[(&str, &[&str])] = &[
            (r#"{"path":"/etc/old"}"#, &[]),
            (r#"{"path":"/etc/none","state":"absent"}"#, &[]),
            (
                r#"{"path":"/etc/screenrc","rename":true}"#,
                &["--rename --divert /etc/screenrc.distrib --local --add /etc/screenrc"],
            ),
            (
                r#"{"path":"/etc/x","holder":"mine","divert":"/etc/x.orig"}"#,
                &["--no-rename --divert /etc/x.orig --package mine --add /etc/x"],
            ),
            (r#"{"path":"/etc/old","state":"absent"}"#, &["--no-rename --remove /etc/old"]),
            (
                r#"{"path":"/etc/old","holder":"mine"}"#,
                &[
                    "--no-rename --remove /etc/old",
                    "--no-rename --divert /etc/old.distrib --package mine --add /etc/old",
                ],
            ),
        ];
        for (arguments, expected) in table {
            let verdict = on_fake(&MODULE, machine, arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            let acted: Vec<&str> = verdict
                .acted()
                .into_iter()
                .filter_map(|line| line.strip_prefix("/usr/bin/dpkg-divert "))
                .collect();
            assert_eq!(acted, *expected, "{arguments}");
            assert!(verdict.rolled_back, "{arguments}");
        }
        let mut verdict = on_fake(&MODULE, machine, r#"{"path":"/etc/screenrc","rename":true}"#);
        assert_eq!(verdict.machine.text("/etc/screenrc.distrib").as_deref(), Some("theirs"));
        assert!(verdict.text("diversion").contains("LOCAL"));
    }
}
