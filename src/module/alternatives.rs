//! `alternatives`: which of several programs a common name stands for.

use std::path::PathBuf;

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Effect, FileKind, Intent, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Manages alternatives with `update-alternatives`.
pub const MODULE: Module = Module {
    name: "community.general.alternatives",
    summary: "Choose which of several programs a common name stands for",
    description: "Uses `update-alternatives` (or `alternatives`). `link` is needed for a name that the system does not know yet.",
    example: "- name: Which editor\n  community.general.alternatives:\n    name: editor\n    path: /usr/bin/vim.basic\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "The common name.").required(),
        Param::new("path", Type::Path, "The program that it should stand for."),
        Param::new("family", Type::Str, "The family of programs, where the system groups them."),
        Param::new("link", Type::Path, "The link that has the common name, such as `/usr/bin/editor`."),
        Param::new("priority", Type::Int, "Priority; the highest wins in automatic mode. 50 for a new alternative."),
        Param::new(
            "state",
            Type::Str,
            "`present`: it is one to choose from; `selected`: and is chosen; `auto`: and the highest priority wins; `absent`: it is none.",
        )
        .choices(&["present", "selected", "auto", "absent"])
        .default("selected"),
        Param::new("subcommands", Type::List, "Links that go with it: each with `name`, `path`, `link`.")
            .aliases(&["slaves"]),
    ],
    rules: &[Rule::RequiredOneOf(&["path", "family"])],
    returns: &[("msg", "What was done.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    path: Option<String>,
    family: Option<String>,
    link: Option<String>,
    priority: Option<i64>,
    state: String,
    subcommands: Option<Vec<Subcommand>>,
}

/// A link that goes with an alternative.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Subcommand {
    name: String,
    path: String,
    link: String,
}

/// What the system knows of a name.
#[derive(Debug, Default, PartialEq)]
struct Known {
    automatic: bool,
    current: Option<String>,
    link: Option<String>,
    alternatives: Vec<Alternative>,
}

#[derive(Debug, Default, PartialEq)]
struct Alternative {
    path: String,
    priority: i64,
    family: Option<String>,
    subcommands: Vec<Subcommand>,
}

impl Known {
    /// What an installation makes of it: in automatic mode, in which a new name begins, the highest priority wins.
    fn add(&mut self, path: &str, priority: i64) {
        self.automatic |= self.alternatives.is_empty();
        self.alternatives.retain(|one| one.path != path);
        self.alternatives.push(Alternative { path: path.into(), priority, ..Alternative::default() });
        if self.automatic {
            self.current =
                self.alternatives.iter().max_by_key(|one| one.priority).map(|one| one.path.clone());
        }
    }
}

/// Reads what `--display` prints, Debian's or Red Hat's.
fn parse(text: &str) -> Known {
    let mut known = Known::default();
    let mut links: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.contains(" - auto mode") || trimmed.contains(" - status is auto") {
            known.automatic = true;
        } else if let Some(path) = trimmed.strip_prefix("link currently points to ") {
            known.current = Some(path.to_string());
        } else if line.starts_with('/') {
            let Some((path, rest)) = line.split_once(" - ") else { continue };
            let words: Vec<&str> = rest.split_whitespace().collect();
            let after = |word: &str| {
                words.iter().position(|known| *known == word).and_then(|at| words.get(at + 1)).copied()
            };
            known.alternatives.push(Alternative {
                path: path.to_string(),
                priority: after("priority").and_then(|number| number.parse().ok()).unwrap_or(0),
                family: after("family").map(String::from),
                subcommands: Vec::new(),
            });
        } else if let Some(rest) =
            trimmed.strip_prefix("slave ").or_else(|| trimmed.strip_prefix("follower "))
        {
            match (rest.split_once(" is "), rest.split_once(": "), known.alternatives.last_mut()) {
                (Some((name, link)), _, None) => links.push((name.to_string(), link.to_string())),
                (_, Some((name, path)), Some(alternative)) if path != "(null)" => {
                    let link = links.iter().find(|(known, _)| known == name);
                    alternative.subcommands.push(Subcommand {
                        name: name.to_string(),
                        path: path.to_string(),
                        link: link.map(|(_, link)| link.clone()).unwrap_or_default(),
                    });
                }
                _ => {}
            }
        } else if let Some(rest) = trimmed.strip_prefix("link ")
            && known.link.is_none()
            && !rest.starts_with("best ")
            && let Some((_, link)) = rest.split_once(" is ")
        {
            known.link = Some(link.to_string());
        }
    }
    known
}

struct Manager {
    program: String,
    name: String,
}

impl Manager {
    fn command(&self, words: &[&str]) -> Command {
        Command::new(std::iter::once(self.program.as_str()).chain(words.iter().copied())).c_locale()
    }

    fn act(&self, words: &[&str], intent: Intent, system: &mut dyn System) -> Result<()> {
        let intent = Intent { kind: "alternative", ..intent };
        host::carry_out(&self.command(words), intent, "update-alternatives failed", system)?;
        Ok(())
    }

    /// The command that chooses again what is chosen now.
    fn back(&self, known: &Known) -> Option<Command> {
        match &known.current {
            Some(current) if !known.automatic => Some(self.command(&["--set", &self.name, current])),
            _ => Some(self.command(&["--auto", &self.name])),
        }
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    let program = match host::find_program("update-alternatives", system)? {
        Some(path) => path.to_string_lossy().into_owned(),
        None => match host::find_program("alternatives", system)? {
            Some(path) => path.to_string_lossy().into_owned(),
            None => host::need_program("update-alternatives", system)?,
        },
    };
    let manager = Manager { program, name: args.name.clone() };
    let shown = host::ask(manager.command(&["--display", &args.name]).argv, system)?;
    let mut known = if shown.success() { parse(&shown.stdout_text()) } else { Known::default() };
    if known.link.is_none() && !known.alternatives.is_empty() {
        // Red Hat's program does not show it.
        known.link = ["/var/lib/alternatives", "/var/lib/dpkg/alternatives", "/etc/alternatives.admindir"]
            .iter()
            .find_map(|place| host::read_text(format!("{place}/{}", args.name), system))
            .and_then(|text| text.lines().nth(1).map(String::from));
    }
    let path = match &args.path {
        Some(path) => Some(args::expand_path(path, system)?.to_string_lossy().into_owned()),
        None => None,
    };
    let mut said = Vec::new();
    if args.state == "absent" {
        remove(&manager, &known, path.as_deref(), &mut said, system)?;
    } else {
        if let Some(path) = &path {
            install(&manager, args, &mut known, path, &mut said, system)?;
        }
        choose(&manager, args, &known, path.as_deref(), &mut said, system)?;
    }
    Ok(Outcome::default().set("msg", said.join(" ")))
}

fn remove(
    manager: &Manager,
    known: &Known,
    path: Option<&str>,
    said: &mut Vec<String>,
    system: &mut dyn System,
) -> Result<()> {
    let Some(path) = path else {
        return Err(ModuleError::new("path is needed with state absent"));
    };
    let id = format!("{} {path}", manager.name);
    if let Some(found) = known.alternatives.iter().find(|one| one.path == path) {
        let link = known.link.clone().unwrap_or_default();
        // What is taken away can be put in again, but a choice made by hand needs a second command.
        let manual = !known.automatic && known.current.as_deref() == Some(path);
        let undo = (!link.is_empty() && !manual)
            .then(|| install_command(manager, &link, path, found.priority, &found.subcommands));
        let mut effects = Vec::new();
        if known.alternatives.len() == 1 && !link.is_empty() {
            effects.push(Effect::NoPath(PathBuf::from(&link)));
        }
        let intent = Intent {
            id: id.clone(),
            before: map_of([("priority", found.priority)]).into(),
            after: Value::Null,
            undo,
            effects,
            ..Intent::default()
        };
        manager.act(&["--remove", &manager.name, path], intent, system)?;
        said.push(format!("Remove alternative '{path}' from '{}'.", manager.name));
    }
    system.applied(Applied { kind: "alternative".into(), id, state: Value::Null });
    Ok(())
}

fn install_command(
    manager: &Manager,
    link: &str,
    path: &str,
    priority: i64,
    subcommands: &[Subcommand],
) -> Command {
    let mut command = manager.command(&["--install", link, &manager.name, path, &priority.to_string()]);
    for one in subcommands {
        command.argv.extend(["--slave", &one.link, &one.name, &one.path].map(Into::into));
    }
    command
}

fn install(
    manager: &Manager,
    args: &Args,
    known: &mut Known,
    path: &str,
    said: &mut Vec<String>,
    system: &mut dyn System,
) -> Result<()> {
    let found = known.alternatives.iter().find(|one| one.path == path);
    let sorted = |list: &[Subcommand]| {
        let mut list = list.to_vec();
        list.sort();
        list
    };
    let right = found.is_some_and(|found| {
        args.priority.is_none_or(|priority| priority == found.priority)
            && args.link.is_none_or_is(&known.link)
            && args.subcommands.as_ref().is_none_or(|wanted| sorted(wanted) == sorted(&found.subcommands))
    });
    let priority = args.priority.or_else(|| found.map(|found| found.priority)).unwrap_or(50);
    let id = format!("{} {path}", manager.name);
    if !right {
        let Some(link) = args.link.clone().or_else(|| known.link.clone()) else {
            return Err(ModuleError::new(
                "Needed to install the alternative, but unable to do so as we are missing the link",
            ));
        };
        if !host::exists(path, system)? && system.uncertain().is_none() {
            return Err(ModuleError::new(format!("Specified path {path} does not exist")));
        }
        let empty = Vec::new();
        let kept = found.map(|found| &found.subcommands).unwrap_or(&empty);
        let subcommands = args.subcommands.as_ref().unwrap_or(kept);
        let undo = match found {
            None => Some(manager.command(&["--remove", &manager.name, path])),
            Some(found) => known
                .link
                .as_ref()
                .map(|link| install_command(manager, link, path, found.priority, &found.subcommands)),
        };
        let intent = Intent {
            kind: "alternative",
            id: id.clone(),
            before: found.map_or(Value::Null, |found| map_of([("priority", found.priority)]).into()),
            after: map_of([("priority", priority)]).into(),
            undo,
            effects: vec![Effect::Path(PathBuf::from(&link), FileKind::Link)],
            ..Intent::default()
        };
        let command = install_command(manager, &link, path, priority, subcommands);
        host::carry_out(&command, intent, "update-alternatives failed", system)?;
        said.push(format!("Install alternative '{path}' for '{}'.", manager.name));
        known.add(path, priority);
    }
    system.applied(Applied {
        kind: "alternative".into(),
        id,
        state: map_of([("priority", priority)]).into(),
    });
    Ok(())
}

/// What of several is chosen.
fn choose(
    manager: &Manager,
    args: &Args,
    known: &Known,
    path: Option<&str>,
    said: &mut Vec<String>,
    system: &mut dyn System,
) -> Result<()> {
    let state = |automatic: bool, current: Option<&str>| -> Value {
        map_of([("automatic", Value::Bool(automatic)), ("current", current.map(String::from).into())]).into()
    };
    let before = state(known.automatic, known.current.as_deref());
    match args.state.as_str() {
        "selected" => {
            let family = args.family.as_deref();
            let current = known.alternatives.iter().find(|one| Some(&one.path) == known.current.as_ref());
            let right = match (path, family) {
                (Some(path), _) => known.current.as_deref() == Some(path),
                (None, family) => current.is_some_and(|one| one.family.as_deref() == family),
            };
            let wanted = path.or(family).unwrap_or_default();
            if !right {
                let intent = Intent {
                    id: manager.name.clone(),
                    before,
                    after: state(false, Some(wanted)),
                    undo: manager.back(known),
                    ..Intent::default()
                };
                manager.act(&["--set", &manager.name, wanted], intent, system)?;
                said.push(format!("Set alternative '{wanted}' for '{}'.", manager.name));
            }
            let state = map_of([("current", wanted)]).into();
            system.applied(Applied { kind: "alternative".into(), id: manager.name.clone(), state });
        }
        "auto" => {
            if !known.automatic && !known.alternatives.is_empty() {
                let intent = Intent {
                    id: manager.name.clone(),
                    before,
                    after: state(true, None),
                    undo: manager.back(known),
                    ..Intent::default()
                };
                manager.act(&["--auto", &manager.name], intent, system)?;
                said.push(format!("Set alternative to auto for '{}'.", manager.name));
            }
            let state = map_of([("automatic", true)]).into();
            system.applied(Applied { kind: "alternative".into(), id: manager.name.clone(), state });
        }
        _ => {}
    }
    Ok(())
}

/// Whether nothing is asked for, or what is asked for is there.
trait Asked {
    fn is_none_or_is(&self, there: &Option<String>) -> bool;
}

impl Asked for Option<String> {
    fn is_none_or_is(&self, there: &Option<String>) -> bool {
        self.is_none() || self == there
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{call, on_fake};
    use crate::system::Output;
    use crate::system::fake::Fake;

    const DEBIAN: &str = "editor - auto mode\n  link best version is /bin/nano\n  link currently points to /bin/nano\n  link editor is /usr/bin/editor\n  slave editor.1.gz is /usr/share/man/man1/editor.1.gz\n/bin/ed - priority -100\n  slave editor.1.gz: /usr/share/man/man1/ed.1.gz\n/bin/nano - priority 40\n";
    const RED_HAT: &str = "java - status is manual.\n link currently points to /jvm/11/java\n/jvm/11/java - family java-11 priority 11\n follower jre: /jvm/11\n/jvm/17/java - family java-17 priority 17\n follower jre: (null)\nCurrent `best' version is /jvm/17/java.\n";

    #[test]
    fn both_kinds_of_listing_are_read() {
        let known = parse(DEBIAN);
        assert!(known.automatic);
        assert_eq!(known.link.as_deref(), Some("/usr/bin/editor"));
        assert_eq!(known.current.as_deref(), Some("/bin/nano"));
        let paths: Vec<(&str, i64, usize)> = known
            .alternatives
            .iter()
            .map(|one| (one.path.as_str(), one.priority, one.subcommands.len()))
            .collect();
        assert_eq!(paths, [("/bin/ed", -100, 1), ("/bin/nano", 40, 0)]);
        assert_eq!(known.alternatives[0].subcommands[0].link, "/usr/share/man/man1/editor.1.gz");
        let known = parse(RED_HAT);
        assert!(!known.automatic);
        assert_eq!(known.alternatives[1].family.as_deref(), Some("java-17"));
        assert_eq!(known.alternatives[0].subcommands.len(), 1);
    }

    /// A machine whose alternatives are lines `path priority` of a file, and a mode and choice of another.
    fn machine() -> Fake {
        Fake::new()
            .with_program("/usr/bin/update-alternatives")
            .with_file("/bin/vim", "")
            .with_file("/state/list", "/bin/ed -100\n/bin/nano 40\n")
            .with_file("/state/choice", "auto\n")
            .with_behaviour(&["/usr/bin/update-alternatives"], |fake, command| {
                let words: Vec<String> =
                    command.argv[1..].iter().map(|word| word.to_string_lossy().into_owned()).collect();
                let list = fake.text("/state/list").unwrap_or_default();
                let choice = fake.text("/state/choice").unwrap_or_default();
                match words[0].as_str() {
                    "--display" => {
                        let mode = if choice.trim() == "auto" { "auto" } else { "manual" };
                        let best = list.lines().max_by_key(|line| line.split(' ').nth(1).and_then(|n| n.parse::<i64>().ok())).and_then(|line| line.split(' ').next()).unwrap_or_default().to_string();
                        let current = if mode == "auto" { best } else { choice.trim().to_string() };
                        let rows: String = list.lines().map(|line| line.replace(' ', " - priority ") + "\n").collect();
                        return Output::ok(&format!("{} - {mode} mode\n  link currently points to {current}\n  link {0} is /usr/bin/{0}\n{rows}", words[1]));
                    }
                    "--install" => {
                        let others: String = list.lines().filter(|line| !line.starts_with(&format!("{} ", words[3]))).map(|line| format!("{line}\n")).collect();
                        let mut lines: Vec<String> = format!("{others}{} {}\n", words[3], words[4]).lines().map(String::from).collect();
                        lines.sort();
                        fake.put("/state/list", lines.join("\n") + "\n");
                    }
                    "--remove" => {
                        let others: String = list.lines().filter(|line| !line.starts_with(&format!("{} ", words[2]))).map(|line| format!("{line}\n")).collect();
                        fake.put("/state/list", others);
                    }
                    "--set" => fake.put("/state/choice", format!("{}\n", words[2])),
                    _ => fake.put("/state/choice", "auto\n"),
                }
                Output::ok("")
            })
    }

    #[test]
    fn alternatives_are_installed_chosen_and_removed() {
        const UA: &str = "/usr/bin/update-alternatives ";
        let table: &[(&str, &[&str])] = &[
            (r#"{"name":"editor","path":"/bin/nano","state":"selected"}"#, &[]),
            (r#"{"name":"editor","path":"/bin/ed"}"#, &["--set editor /bin/ed"]),
            (r#"{"name":"editor","path":"/bin/ed","state":"present"}"#, &[]),
            (r#"{"name":"editor","path":"/bin/ed","state":"auto"}"#, &[]),
            (
                r#"{"name":"editor","path":"/bin/vim","priority":60,"state":"auto"}"#,
                &["--install /usr/bin/editor editor /bin/vim 60"],
            ),
            (
                r#"{"name":"editor","path":"/bin/vim","state":"selected"}"#,
                &["--install /usr/bin/editor editor /bin/vim 50"],
            ),
            (
                r#"{"name":"editor","path":"/bin/vim","priority":30}"#,
                &["--install /usr/bin/editor editor /bin/vim 30", "--set editor /bin/vim"],
            ),
            (r#"{"name":"editor","path":"/bin/ed","state":"absent"}"#, &["--remove editor /bin/ed"]),
            (r#"{"name":"editor","path":"/bin/vim","state":"absent"}"#, &[]),
        ];
        for (arguments, expected) in table {
            let machine = || machine().with_file("/bin/nano", "").with_file("/bin/ed", "");
            let verdict = on_fake(&MODULE, machine, arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            let acted: Vec<&str> =
                verdict.acted().into_iter().filter_map(|line| line.strip_prefix(UA)).collect();
            assert_eq!(acted, *expected, "{arguments}");
            assert!(verdict.rolled_back, "{arguments}");
        }
        let manual = || machine().with_file("/state/choice", "/bin/ed\n").with_file("/bin/ed", "");
        let verdict = on_fake(&MODULE, manual, r#"{"name":"editor","path":"/bin/ed","state":"auto"}"#);
        assert_eq!(verdict.acted(), ["/usr/bin/update-alternatives --auto editor"]);
        let given = serde_json::from_str(r#"{"name":"editor","path":"/bin/none"}"#).expect("JSON");
        let error = call(&MODULE, &given, &mut machine()).expect_err("no such file");
        assert!(error.contains("does not exist"), "{error}");
    }
}
