//! `apk`: packages of Alpine.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Applied, Command, Done, Effect, Intent, Output, System};
use crate::value::{Map, Value, map_of};

/// Installs, upgrades and removes packages.
pub const MODULE: Module = Module {
    name: "community.general.apk",
    summary: "Install, upgrade and remove packages of Alpine",
    description: "Which packages are installed is asked of apk's database. What would be done is asked of \
        `apk --simulate` before it is done, in one transaction for all packages, so that check mode shows it.",
    example: "- community.general.apk:\n    name: [nginx, openssl]\n    update_cache: true\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::List, "Packages, with versions such as `a=1.2` or `a>1`."),
        Param::new("state", Type::Str, "What they should be.")
            .choices(&["present", "absent", "latest", "installed", "removed"])
            .default("present"),
        Param::new("update_cache", Type::Bool, "Fetch lists of packages first.").default("false"),
        Param::new("upgrade", Type::Bool, "Upgrade everything.").default("false"),
        Param::new(
            "available",
            Type::Bool,
            "With `upgrade`, take what the sources have even if it is older.",
        )
        .default("false"),
        Param::new("repository", Type::List, "The only sources to use."),
        Param::new("no_cache", Type::Bool, "Keep no fetched lists.").default("false"),
        Param::new("world", Type::Str, "The file with the packages that were asked for.")
            .default("/etc/apk/world"),
    ],
    rules: &[
        Rule::MutuallyExclusive(&["name", "upgrade"]),
        Rule::RequiredOneOf(&["name", "update_cache", "upgrade"]),
    ],
    returns: &[
        ("packages", "Packages that changed."),
        ("stdout", "What apk printed."),
        ("stderr", "What apk printed as errors."),
        ("msg", "What was done."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    #[serde(deserialize_with = "host::optional_texts")]
    name: Option<Vec<String>>,
    state: String,
    update_cache: bool,
    upgrade: bool,
    available: bool,
    #[serde(deserialize_with = "host::optional_texts")]
    repository: Option<Vec<String>>,
    no_cache: bool,
    world: String,
}

fn apk(args: &Args, words: &[&str], names: &[&str]) -> Command {
    let mut argv = vec!["apk".to_string()];
    argv.extend(args.no_cache.then(|| "--no-cache".to_string()));
    for source in args.repository.iter().flatten() {
        argv.extend(["--repository".to_string(), source.clone()]);
    }
    if args.repository.is_some() {
        argv.extend(["--repositories-file".to_string(), "/dev/null".into()]);
    }
    argv.extend(words.iter().chain(names).map(ToString::to_string));
    Command::new(argv).c_locale()
}

/// What a run does, or would do: `(1/2) Installing a (1.0-r0)`.
fn steps(text: &str) -> Vec<(String, Value, Value)> {
    let step = |line: &str| {
        let rest = line.strip_prefix('(')?.split_once(") ")?.1;
        let (verb, rest) = rest.split_once(' ')?;
        let (name, versions) = rest.split_once(" (")?;
        let versions = versions.trim_end_matches(')');
        let (old, new) = versions.split_once(" -> ").unwrap_or((versions, versions));
        let (before, after) = match verb {
            "Installing" => (Value::Null, new.into()),
            "Purging" | "Removing" | "Deleting" => (old.into(), Value::Null),
            _ => (old.into(), new.into()),
        };
        Some((name.to_string(), before, after))
    };
    text.lines().filter_map(step).collect()
}

/// A name without the version that is asked for.
fn bare(name: &str) -> &str {
    name.split(['=', '<', '>', '~', '@']).next().unwrap_or(name)
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    host::need_program("apk", system)?;
    let asked = args.upgrade || args.name.is_some();
    if args.update_cache {
        let intent = Intent {
            kind: if asked { "" } else { "package_lists" },
            id: "/var/lib/apk".into(),
            effects: vec![Effect::Anything],
            ..Intent::default()
        };
        host::act("could not update package db", &apk(args, &["update"], &[]), intent, system)?;
        if !asked {
            return Ok(Outcome::default()
                .set("msg", "updated repository indexes")
                .set("packages", Vec::<String>::new()));
        }
    }
    let names: Vec<String> = args
        .name
        .iter()
        .flatten()
        .flat_map(|name| name.split(','))
        .map(|name| name.trim().to_string())
        .filter(|name| !name.is_empty())
        .collect();
    if args.name.is_some() && names.is_empty() {
        return Err(ModuleError::new("Package name(s) are empty"));
    }
    let (words, operands): (Vec<&str>, Vec<&str>) = if args.upgrade {
        let mut words = vec!["upgrade"];
        words.extend(args.available.then_some("--available"));
        (words, Vec::new())
    } else {
        let installed =
            host::ask(["apk", "info", "-e"].into_iter().chain(names.iter().map(|name| bare(name))), system)?;
        let installed = installed.stdout_text();
        let there = |name: &&str| installed.lines().any(|line| line == bare(name));
        let plain = names.iter().map(String::as_str);
        match args.state.as_str() {
            "absent" | "removed" => (vec!["del", "--purge"], plain.filter(there).collect()),
            "latest" => (vec!["add", "--upgrade"], plain.collect()),
            _ => {
                let world = host::read_text(&args.world, system).unwrap_or_default();
                let due = |name: &&str| {
                    !there(name)
                        || bare(name) != *name
                        || !world.split_whitespace().any(|word| bare(word) == *name)
                };
                (vec!["add"], plain.filter(due).collect())
            }
        }
    };
    let mut outcome = Outcome::default().set("packages", Vec::<String>::new());
    if args.upgrade || !operands.is_empty() {
        outcome = transact(args, &words, &operands, system)?;
    }
    for name in &names {
        let gone = ["absent", "removed"].contains(&args.state.as_str());
        let state = if gone { Value::Null } else { map_of([("installed", Value::Bool(true))]).into() };
        system.applied(Applied { kind: "package".into(), id: bare(name).into(), state });
    }
    Ok(outcome)
}

fn transact(
    args: &Args,
    words: &[&str],
    names: &[&str],
    system: &mut dyn System,
) -> Result<Outcome, ModuleError> {
    let rehearsal: Vec<&str> = words[..1].iter().chain(&["--simulate"]).chain(&words[1..]).copied().collect();
    let rehearsal = apk(args, &rehearsal, names);
    let simulated = system.query(&rehearsal)?;
    let fail = |command: &Command, output: &Output| {
        let what = if args.upgrade { "failed to upgrade packages" } else { "failed to change packages" };
        ModuleError::command(what, command, output)
    };
    if !simulated.success() {
        return Err(fail(&rehearsal, &simulated));
    }
    let planned = steps(&simulated.stdout_text());
    let asked_for = words[0] == "add" && !names.is_empty() && planned.is_empty();
    let world = host::read_text(&args.world, system).unwrap_or_default();
    // What is there because others need it is now asked for itself: a change of that file alone.
    let joins = asked_for && names.iter().any(|name| !world.split_whitespace().any(|word| word == *name));
    if planned.is_empty() && !joins {
        return Ok(told(&simulated, &[]));
    }
    let side = |pick: fn(&(String, Value, Value)) -> &Value| -> Map {
        planned.iter().map(|step| (step.0.as_str().into(), pick(step).clone())).collect()
    };
    let mut intent = Intent {
        kind: "package",
        id: planned.iter().map(|step| step.0.as_str()).collect::<Vec<_>>().join(" "),
        before: side(|step| &step.1).into(),
        after: side(|step| &step.2).into(),
        effects: vec![Effect::Anything],
        ..Intent::default()
    };
    if joins {
        intent = Intent {
            id: names.join(" "),
            before: map_of([("world", false)]).into(),
            after: map_of([("world", true)]).into(),
            ..intent
        };
    }
    let command = apk(args, words, names);
    let output = match system.change(&command, intent)? {
        Done::Made(output) if !output.success() => return Err(fail(&command, &output)),
        Done::Made(output) => output,
        Done::Recorded => simulated,
    };
    let names: Vec<String> = planned.into_iter().map(|step| step.0).collect();
    Ok(told(&output, &names))
}

fn told(output: &Output, names: &[String]) -> Outcome {
    Outcome::default()
        .set("packages", names.to_vec())
        .set("stdout", output.stdout_text())
        .set("stderr", output.stderr_text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::fake::Fake;

    #[test]
    fn only_what_is_missing_is_installed() {
        for (given, expected) in [
            (vec![("name", "a")], None),
            (vec![("name", "a,c")], Some("apk add c")),
            (vec![("name", "b")], Some("apk add b")),
            (vec![("name", "a=2")], Some("apk add a=2")),
            (vec![("name", "a"), ("state", "latest")], None),
            (vec![("name", "a,c"), ("state", "absent")], Some("apk del --purge a")),
            (vec![("upgrade", "yes"), ("available", "yes")], Some("apk upgrade --available")),
            (
                vec![("name", "c"), ("no_cache", "yes"), ("repository", "http://r")],
                Some("apk --no-cache --repository http://r --repositories-file /dev/null add c"),
            ),
        ] {
            let mut fake = Fake::new()
                .with_program("/sbin/apk")
                .with_file("/etc/apk/world", "a\nx\n")
                .with_behaviour(&["apk"], |_, command| {
                    let line = command.line();
                    Output::ok(match &line {
                        line if line.contains("add --simulate c") => {
                            "(1/1) Installing c (1.0-r0)\nOK: 1 MiB\n"
                        }
                        line if line.contains("a=2") => "(1/1) Upgrading a (1-r0 -> 2-r0)\n",
                        line if line.contains("del --simulate") => "(1/1) Purging a (1-r0)\n",
                        line if line.contains("upgrade --simulate") => "(1/1) Downgrading a (1-r0 -> 0-r0)\n",
                        _ => "OK: 1 MiB\n",
                    })
                })
                .with_behaviour(&["apk", "info", "-e"], |_, command| {
                    let there = |word: &&str| ["a", "b"].contains(word);
                    Output::ok(
                        &command.line().split(' ').skip(3).filter(there).collect::<Vec<_>>().join("\n"),
                    )
                });
            call(&MODULE, &map_of(given.clone()).into(), &mut fake).expect("it works");
            let acted = fake.log().iter().find_map(|line| line.strip_prefix("! "));
            assert_eq!(acted, expected, "{given:?}");
        }
        assert_eq!(
            format!("{:?}", steps("(1/2) Upgrading a (1-r0 -> 2-r0)\n(2/2) Purging b (3)\n")),
            format!(
                "{:?}",
                [
                    ("a".to_string(), Value::from("1-r0"), Value::from("2-r0")),
                    ("b".to_string(), "3".into(), Value::Null)
                ]
            )
        );
    }
}
