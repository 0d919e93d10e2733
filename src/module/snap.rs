//! `snap`: packages of snapd.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, host, typed};
use crate::system::{Applied, Command, Effect, Intent, System};
use crate::value::{Value, map_of};

/// Installs and removes packages of snapd.
pub const MODULE: Module = Module {
    name: "community.general.snap",
    summary: "Install and remove packages of snapd",
    description: "Asks `snap list` which packages are installed, from which channel, and whether they are enabled, and \
        `snap get` for their options; snap runs only for what differs.",
    example: "- community.general.snap:\n    name: [hello-world, core20]\n\n- community.general.snap:\n    name: nextcloud\n    channel: stable\n    options:\n      - ports.https=443\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::List, "Packages, or files on the host.").required(),
        Param::new("state", Type::Str, "Whether they should be there, and enabled.")
            .choices(&["absent", "present", "enabled", "disabled"])
            .default("present"),
        Param::new("classic", Type::Bool, "Give the package the rights of other programs.").default("false"),
        Param::new("channel", Type::Str, "Where it comes from, such as `stable` or `latest/edge`."),
        Param::new("options", Type::List, "Options as `key=value`, or `package:key=value`."),
        Param::new("dangerous", Type::Bool, "Install files that nobody has signed.").default("false"),
    ],
    returns: &[
        ("classic", "As given."),
        ("channel", "As given."),
        ("snaps_installed", "Packages that were installed."),
        ("snaps_removed", "Packages that were removed."),
        ("options_changed", "Options that were set, as `package:key=value`."),
        ("cmd", "What was run last."),
        ("version", "What `snap version` says."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    #[serde(deserialize_with = "host::texts")]
    name: Vec<String>,
    state: String,
    classic: bool,
    channel: Option<String>,
    #[serde(deserialize_with = "host::optional_texts")]
    options: Option<Vec<String>>,
    dangerous: bool,
}

/// A package that is there.
#[derive(Debug, PartialEq, Eq)]
struct Snap {
    name: String,
    channel: String,
    enabled: bool,
}

fn installed(text: &str) -> Vec<Snap> {
    let snap = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, _, _, channel, .., notes] = words.as_slice() else { return None };
        Some(Snap {
            name: name.to_string(),
            channel: channel.trim_end_matches('…').to_string(),
            enabled: !notes.split(',').any(|note| note == "disabled"),
        })
    };
    text.lines().skip(1).filter_map(snap).collect()
}

/// The name of the package in a file: what is before the first underscore.
fn plain_name(name: &str) -> &str {
    let Some(file) = name.strip_suffix(".snap") else { return name };
    let file = file.rsplit('/').next().unwrap_or(file);
    file.split('_').next().unwrap_or(file)
}

/// Whether a channel as it is tracked is the one that was meant: `stable` stands for `latest/stable`.
fn same_channel(tracked: &str, wanted: &str) -> bool {
    let full = |channel: &str| {
        let risks = ["stable", "candidate", "beta", "edge"];
        match channel.split('/').next() {
            Some(first) if risks.contains(&first) => format!("latest/{channel}"),
            _ if channel.contains('/') => channel.to_string(),
            _ => format!("{channel}/stable"),
        }
    };
    full(tracked) == full(wanted)
}

struct Work<'a> {
    system: &'a mut dyn System,
    snap: String,
    last: Option<Vec<String>>,
}

impl Work<'_> {
    fn act(&mut self, words: &[&str], name: &str, before: Value, after: Value) -> Result<(), ModuleError> {
        let argv: Vec<String> =
            std::iter::once(self.snap.as_str()).chain(words.iter().copied()).map(String::from).collect();
        self.last = Some(argv.clone());
        let intent = Intent {
            kind: "snap",
            id: name.into(),
            before,
            after,
            effects: vec![Effect::Anything],
            ..Intent::default()
        };
        host::act("snap failed", &Command::new(argv).c_locale(), intent, self.system).map(|_| ())
    }
}

fn state_of(word: &str) -> Value {
    map_of([("state", word)]).into()
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let snap = host::need_program("snap", system)?;
    let known = installed(&host::ask([snap.as_str(), "list"], system)?.stdout_text());
    let version = host::ask([snap.as_str(), "version"], system)?.stdout_text();
    let mut work = Work { system, snap, last: None };
    let (mut added, mut removed, mut options) = (Vec::new(), Vec::new(), Vec::new());
    for name in &args.name {
        let plain = plain_name(name);
        let now = known.iter().find(|snap| snap.name == plain);
        match (args.state.as_str(), now) {
            ("absent", None) => {}
            ("absent", Some(_)) => {
                work.act(&["remove", plain], plain, state_of("present"), Value::Null)?;
                removed.push(plain.to_string());
            }
            (_, None) => {
                install(args, name, &mut work)?;
                added.push(plain.to_string());
                if args.state == "disabled" {
                    work.act(&["disable", plain], plain, state_of("enabled"), state_of("disabled"))?;
                }
            }
            (state, Some(now)) => {
                if let Some(channel) =
                    args.channel.as_deref().filter(|wanted| !same_channel(&now.channel, wanted))
                {
                    let value = |channel: &str| map_of([("channel", channel)]).into();
                    let option = format!("--channel={channel}");
                    let mut words = vec!["refresh", &option];
                    words.extend(args.classic.then_some("--classic"));
                    words.push(plain);
                    work.act(&words, plain, value(&now.channel), value(channel))?;
                    added.push(plain.to_string());
                }
                if state == "enabled" && !now.enabled {
                    work.act(&["enable", plain], plain, state_of("disabled"), state_of("enabled"))?;
                } else if state == "disabled" && now.enabled {
                    work.act(&["disable", plain], plain, state_of("enabled"), state_of("disabled"))?;
                }
            }
        }
        if args.state != "absent" {
            options.extend(set_options(args, plain, &mut work)?);
        }
        let state = if args.state == "absent" { Value::Null } else { state_of(&args.state) };
        work.system.applied(Applied { kind: "snap".into(), id: plain.into(), state });
    }
    let last = work.last;
    Ok(Outcome::default()
        .set("classic", args.classic)
        .set("channel", args.channel.clone())
        .set("cmd", last)
        .set("version", version)
        .set("snaps_installed", added)
        .set("snaps_removed", removed)
        .set("options_changed", options))
}

fn install(args: &Args, name: &str, work: &mut Work<'_>) -> Result<(), ModuleError> {
    let channel = args.channel.as_ref().map(|channel| format!("--channel={channel}"));
    let mut words = vec!["install"];
    words.extend(args.classic.then_some("--classic"));
    words.extend(args.dangerous.then_some("--dangerous"));
    words.extend(channel.as_deref());
    words.push(name);
    work.act(&words, plain_name(name), Value::Null, state_of("present"))
}

/// Sets the options that differ; returns them.
fn set_options(args: &Args, name: &str, work: &mut Work<'_>) -> Result<Vec<String>, ModuleError> {
    let mut due = Vec::new();
    for option in args.options.iter().flatten() {
        let Some((key, value)) = option.split_once('=') else {
            return Err(ModuleError::new(format!("Cannot parse option '{option}': it has no equals sign")));
        };
        let key = match key.split_once(':') {
            Some((other, _)) if other != name => continue,
            Some((_, key)) => key,
            None => key,
        };
        let known = host::ask([work.snap.as_str(), "get", "-d", name, key], work.system)?;
        let parsed: Value = serde_json::from_str(&known.stdout_text()).unwrap_or_default();
        if parsed.get(key).map(Value::to_text).as_deref() != Some(value) {
            due.push(format!("{key}={value}"));
        }
    }
    if due.is_empty() {
        return Ok(due);
    }
    let mut words = vec!["set", name];
    words.extend(due.iter().map(String::as_str));
    work.act(&words, name, Value::Null, map_of([("options", due.clone())]).into())?;
    Ok(due.into_iter().map(|option| format!("{name}:{option}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn snap_runs_only_if_something_differs() {
        let list = "Name  Version  Rev  Tracking  Publisher  Notes\na  1  2  latest/stable  x**  -\nb  1  2  latest/edge  x  disabled,classic\n";
        for (given, expected) in [
            (vec![("name", "a")], vec![]),
            (vec![("name", "a"), ("channel", "stable")], vec![]),
            (vec![("name", "a"), ("channel", "edge")], vec!["refresh --channel=edge a"]),
            (vec![("name", "c"), ("classic", "yes")], vec!["install --classic c"]),
            (
                vec![("name", "/tmp/c_1.snap"), ("dangerous", "yes")],
                vec!["install --dangerous /tmp/c_1.snap"],
            ),
            (vec![("name", "a,b"), ("state", "enabled")], vec!["enable b"]),
            (vec![("name", "a,b"), ("state", "disabled")], vec!["disable a"]),
            (vec![("name", "a,c"), ("state", "absent")], vec!["remove a"]),
            (vec![("name", "a"), ("options", "k=1,a:l=2,b:m=3")], vec!["set a l=2"]),
        ] {
            let mut fake = Fake::new()
                .with_program("/usr/bin/snap")
                .with_command_prefix(&["snap"], Output::ok(""))
                .with_command(&["snap", "list"], Output::ok(list))
                .with_command(&["snap", "get", "-d", "a", "k"], Output::ok("{\"k\": 1}"));
            call(&MODULE, &map_of(given.clone()).into(), &mut fake).expect("it works");
            let acted: Vec<&str> =
                fake.log().iter().filter_map(|line| line.strip_prefix("! /usr/bin/snap ")).collect();
            assert_eq!(acted, expected, "{given:?}");
        }
    }
}
