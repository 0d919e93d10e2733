//! `pacman`: packages of Arch.

use std::ffi::OsString;
use std::path::Path;

use serde::Deserialize;

use crate::module::planned::Planned;
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Algorithm, Applied, Command, Done, Effect, Intent, System};
use crate::value::{Map, Value, map_of};

/// Whose packages these are in what a dry run has planned.
const MANAGER: &str = "pacman";

/// Installs, upgrades and removes packages.
pub const MODULE: Module = Module {
    name: "community.general.pacman",
    summary: "Install, upgrade and remove packages of Arch",
    description: "Which packages are installed is asked of pacman's database. What would be done is asked of \
        `pacman --print` before it is done, in one transaction for all packages, so that check mode shows it.",
    example: "- community.general.pacman:\n    name: [nginx, openssl]\n    update_cache: true\n    state: present\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::List, "Packages, groups, files or addresses.").aliases(&["package", "pkg"]),
        Param::new("state", Type::Str, "What they should be.")
            .choices(&["absent", "installed", "latest", "present", "removed"])
            .default("present"),
        Param::new("force", Type::Bool, "Remove although others need it; fetch lists although they are new.")
            .default("false"),
        Param::new("remove_nosave", Type::Bool, "Remove changed settings too.").default("false"),
        Param::new("executable", Type::Str, "The pacman to use.").default("pacman"),
        Param::new("extra_args", Type::Str, "Further options.").default("''"),
        Param::new("update_cache", Type::Bool, "Fetch lists of packages first."),
        Param::new("update_cache_extra_args", Type::Str, "Further options for fetching lists.").default("''"),
        Param::new("upgrade", Type::Bool, "Upgrade everything."),
        Param::new("upgrade_extra_args", Type::Str, "Further options for upgrading.").default("''"),
        Param::new("reason", Type::Str, "Why packages are there: by wish, or because others need them.")
            .choices(&["dependency", "explicit"]),
        Param::new(
            "reason_for",
            Type::Str,
            "For which packages `reason` is set: those that are installed now, or all.",
        )
        .choices(&["all", "new"])
        .default("new"),
    ],
    rules: &[
        Rule::MutuallyExclusive(&["name", "upgrade"]),
        Rule::RequiredOneOf(&["name", "update_cache", "upgrade"]),
    ],
    returns: &[
        ("packages", "Packages that changed."),
        ("cache_updated", "Whether fetched lists differ, if they were fetched."),
        ("stdout", "What pacman printed."),
        ("stderr", "What pacman printed as errors."),
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
    force: bool,
    remove_nosave: bool,
    executable: String,
    extra_args: String,
    update_cache: Option<bool>,
    update_cache_extra_args: String,
    upgrade: Option<bool>,
    upgrade_extra_args: String,
    reason: Option<String>,
    reason_for: String,
}

fn pacman(args: &Args, words: &[&str], extra: &str, names: &[String]) -> Result<Command, ModuleError> {
    let mut argv = vec![args.executable.clone()];
    argv.extend(words.iter().map(ToString::to_string));
    argv.extend(host::split_words(extra).map_err(ModuleError::new)?);
    argv.extend(names.iter().cloned());
    Ok(Command::new(argv).c_locale())
}

fn is_file(name: &str) -> bool {
    name.contains("://") || name.starts_with('/') || name.contains(".pkg.tar")
}

/// `name version` lines.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (name, version) = line.trim().split_once(' ')?;
        Some((name.to_string(), version.trim().to_string()))
    };
    text.lines().filter_map(pair).collect()
}

struct Known {
    packages: Vec<(String, String)>,
    explicit: Vec<String>,
    /// What earlier tasks of this dry run have changed in it.
    planned: Planned,
    /// Options for looking into lists that this dry run has fetched beside those of the machine.
    lists: Vec<String>,
}

impl Known {
    fn version(&self, name: &str) -> Option<&str> {
        self.packages.iter().find(|(known, _)| known == name).map(|(_, version)| version.as_str())
    }
}

fn known(args: &Args, lists: Vec<String>, system: &mut dyn System) -> Result<Known, ModuleError> {
    let program = args.executable.as_str();
    let mut packages = pairs(&host::ask([program, "-Q"], system)?.stdout_text());
    let planned = Planned::read(MANAGER, system);
    for (name, version) in planned.packages() {
        packages.retain(|(known, _)| known != name);
        packages.extend(version.iter().map(|version| (name.clone(), version.clone())));
    }
    let explicit = if args.reason.is_some() {
        host::ask([program, "-Qeq"], system)?.stdout_text().lines().map(String::from).collect()
    } else {
        Vec::new()
    };
    Ok(Known { packages, explicit, planned, lists })
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    host::need_program(&args.executable, system)?;
    let mut outcome = Outcome::default().set("packages", Vec::<String>::new());
    let asked = args.name.is_some() || args.upgrade == Some(true);
    let mut lists = Vec::new();
    if args.update_cache == Some(true) {
        let updated;
        (updated, lists) = update(args, asked, system)?;
        outcome = outcome.set("cache_updated", updated);
        if !asked {
            outcome.changed = Some(updated);
        }
    }
    if args.upgrade == Some(true) {
        return upgrade(args, &lists, outcome, system);
    }
    let names: Vec<String> = args
        .name
        .iter()
        .flatten()
        .map(|name| name.trim().to_string())
        .filter(|name| !name.is_empty())
        .collect();
    if names.is_empty() {
        return Ok(outcome);
    }
    let known = known(args, lists, system)?;
    let gone = ["absent", "removed"].contains(&args.state.as_str());
    outcome = if gone {
        remove(args, &names, &known, outcome, system)?
    } else {
        install(args, &names, &known, outcome, system)?
    };
    for name in names.into_iter().filter(|name| !is_file(name)) {
        let state = if gone { Value::Null } else { map_of([("installed", Value::Bool(true))]).into() };
        system.applied(Applied { kind: "package".into(), id: name, state });
    }
    Ok(outcome)
}

const DATABASE: &str = "/var/lib/pacman";

/// Names and digests of fetched lists.
fn lists(database: &Path, system: &mut dyn System) -> Vec<(OsString, String)> {
    let place = database.join("sync");
    let names = system.list(&place).unwrap_or_default();
    names
        .into_iter()
        .filter_map(|name| {
            let digest = system.digest(&place.join(&name), Algorithm::Sha256).ok()?;
            Some((name, digest))
        })
        .collect()
}

/// Fetches lists of packages. Returns whether they differ from those before, and options for looking into them.
fn update(args: &Args, asked: bool, system: &mut dyn System) -> Result<(bool, Vec<String>), ModuleError> {
    let before = lists(DATABASE.as_ref(), system);
    let words: &[&str] =
        if args.force { &["--sync", "--refresh", "--refresh"] } else { &["--sync", "--refresh"] };
    let command = pacman(args, words, &args.update_cache_extra_args, &[])?;
    let intent = Intent {
        kind: if asked { "" } else { "package_lists" },
        id: format!("{DATABASE}/sync"),
        effects: vec![Effect::Anything],
        ..Intent::default()
    };
    if host::act("could not update package db", &command, intent, system)?.is_some() {
        return Ok((lists(DATABASE.as_ref(), system) != before, Vec::new()));
    }
    // Only recorded: fetched beside the machine's own, they tell what the real run would find.
    let place = system.scratch()?.join("pacman");
    let script = "mkdir -p \"$1/sync\" && cp -a \"$0/sync/.\" \"$1/sync/\" && ln -sfn \"$0/local\" \"$1/local\" && shift && exec \"$@\"";
    let options = vec!["--dbpath".to_string(), place.to_string_lossy().into_owned()];
    let mut argv: Vec<OsString> =
        ["sh", "-c", script, DATABASE].into_iter().map(Into::into).chain([place.clone().into()]).collect();
    argv.extend(command.argv);
    argv.extend(options.iter().map(Into::into));
    let fetched = system.query(&Command { argv, ..command })?;
    if fetched.success() { Ok((lists(&place, system) != before, options)) } else { Ok((true, Vec::new())) }
}

type Step = (String, Value, Value);

fn change(
    args: &Args,
    words: &[&str],
    extra: &str,
    names: &[String],
    steps: &[Step],
    outcome: Outcome,
    system: &mut dyn System,
) -> Result<Outcome, ModuleError> {
    let side = |pick: fn(&Step) -> &Value| -> Map {
        steps.iter().map(|step| (step.0.as_str().into(), pick(step).clone())).collect()
    };
    let changed: Vec<String> = steps.iter().map(|step| step.0.clone()).collect();
    let version = |value: &Value| (!value.is_null()).then(|| value.to_text());
    let plans = steps.iter().map(|step| (step.0.clone(), version(&step.2)));
    let planned = Planned::read(MANAGER, system).effect(MANAGER, plans);
    let intent = Intent {
        kind: "package",
        id: changed.join(" "),
        before: side(|step| &step.1).into(),
        after: side(|step| &step.2).into(),
        effects: vec![Effect::Anything, planned],
        ..Intent::default()
    };
    let words: Vec<&str> = words.iter().copied().chain(["--noconfirm", "--noprogressbar"]).collect();
    let command = pacman(args, &words, extra, names)?;
    let output = match system.change(&command, intent)? {
        Done::Made(output) if !output.success() => {
            return Err(ModuleError::command(
                format!("Failed to change packages {}", changed.join(" ")),
                &command,
                &output,
            ));
        }
        done => done.output(),
    };
    Ok(outcome
        .set("packages", changed)
        .set("stdout", output.stdout_text())
        .set("stderr", output.stderr_text()))
}

fn upgrade(
    args: &Args,
    lists: &[String],
    outcome: Outcome,
    system: &mut dyn System,
) -> Result<Outcome, ModuleError> {
    // Status 1 says that there is nothing newer.
    let words = [args.executable.as_str(), "--query", "--upgrades"].into_iter();
    let output = host::ask(words.chain(lists.iter().map(String::as_str)), system)?;
    let steps: Vec<Step> = pairs(&output.stdout_text())
        .into_iter()
        .filter(|(_, versions)| !versions.ends_with("[ignored]"))
        .filter_map(|(name, versions)| {
            let (old, new) = versions.split_once(" -> ")?;
            Some((name, old.into(), new.into()))
        })
        .collect();
    if steps.is_empty() {
        return Ok(outcome.set("msg", "Nothing to upgrade"));
    }
    change(args, &["--sync", "--sysupgrade"], &args.upgrade_extra_args, &[], &steps, outcome, system)
}

/// What pacman would do, as `name version`.
fn rehearse(
    args: &Args,
    words: &[&str],
    names: &[String],
    lists: &[String],
    system: &mut dyn System,
) -> Result<Vec<(String, String)>, ModuleError> {
    let words: Vec<&str> = words
        .iter()
        .copied()
        // The mark tells its lines from others, such as that packages are loaded.
        .chain(["--print", "--print-format", "=%n %v"])
        .chain(lists.iter().map(String::as_str))
        .collect();
    let command = pacman(args, &words, &args.extra_args, names)?;
    let output = system.query(&command)?;
    if output.success() {
        let text = output.stdout_text();
        let marked: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix('=')).collect();
        Ok(pairs(&marked.join("\n")))
    } else {
        Err(ModuleError::command(format!("Failed to list package(s) {}", names.join(" ")), &command, &output))
    }
}

fn install(
    args: &Args,
    names: &[String],
    known: &Known,
    mut outcome: Outcome,
    system: &mut dyn System,
) -> Result<Outcome, ModuleError> {
    let (files, packages): (Vec<String>, Vec<String>) = names.iter().cloned().partition(|name| is_file(name));
    let mut new: Vec<String> = Vec::new();
    for (words, names) in [(["--sync", "--needed"], packages), (["--upgrade", "--needed"], files)] {
        let due: Vec<String> = names
            .into_iter()
            .filter(|name| args.state == "latest" || is_file(name) || known.version(name).is_none())
            .collect();
        if due.is_empty() {
            continue;
        }
        let steps: Vec<Step> = rehearse(args, &words, &due, &known.lists, system)?
            .into_iter()
            // A group, or what stands for a name, may be there already.
            .filter(|(name, version)| match known.version(name) {
                Some(now) => (args.state == "latest" || words[0] == "--upgrade") && now != version,
                None => true,
            })
            .map(|(name, version)| {
                let before = known.version(&name).map(String::from).into();
                (name, before, Value::from(version))
            })
            .collect();
        if steps.is_empty() {
            continue;
        }
        new.extend(steps.iter().filter(|step| step.1.is_null()).map(|step| step.0.clone()));
        outcome = change(args, &words, &args.extra_args, &due, &steps, outcome, system)?;
    }
    set_reason(args, names, &new, known, outcome, system)
}

/// Notes why packages are there.
fn set_reason(
    args: &Args,
    names: &[String],
    new: &[String],
    known: &Known,
    outcome: Outcome,
    system: &mut dyn System,
) -> Result<Outcome, ModuleError> {
    let Some(reason) = &args.reason else { return Ok(outcome) };
    let explicit = reason == "explicit";
    let differs = |name: &&String| match new.contains(name) {
        // What is asked for by name is installed by wish.
        true => !explicit,
        false => {
            args.reason_for == "all"
                && known.version(name).is_some()
                && known.explicit.contains(name) != explicit
        }
    };
    let due: Vec<String> = names.iter().filter(differs).cloned().collect();
    if due.is_empty() {
        return Ok(outcome);
    }
    let command = pacman(args, &["-D", if explicit { "--asexplicit" } else { "--asdeps" }], "", &due)?;
    let state =
        |explicit: bool| map_of([("reason", if explicit { "explicit" } else { "dependency" })]).into();
    let intent = Intent {
        kind: "package_reason",
        id: due.join(" "),
        before: state(!explicit),
        after: state(explicit),
        ..Intent::default()
    };
    host::act("Failed to set the reason of packages", &command, intent, system)?;
    Ok(outcome)
}

fn remove(
    args: &Args,
    names: &[String],
    known: &Known,
    outcome: Outcome,
    system: &mut dyn System,
) -> Result<Outcome, ModuleError> {
    let mut due: Vec<String> = Vec::new();
    for name in names {
        if known.version(name).is_some() {
            due.push(name.clone());
            continue;
        }
        // The members of a group that are there.
        let group = host::ask([args.executable.as_str(), "-Qgq", name.as_str()], system)?;
        due.extend(group.stdout_text().lines().filter(|_| group.success()).map(String::from));
    }
    if due.is_empty() {
        return Ok(outcome);
    }
    let mut words = vec!["--remove"];
    words.extend(args.force.then_some(["--nodeps", "--nodeps"]).into_iter().flatten());
    words.extend(args.remove_nosave.then_some("--nosave"));
    // What only this dry run has brought, pacman does not know of.
    let (recorded, real): (Vec<String>, Vec<String>) =
        due.iter().cloned().partition(|name| matches!(known.planned.of(name), Some(Some(_))));
    let mut gone: Vec<(String, String)> = recorded
        .into_iter()
        .map(|name| (name.clone(), known.version(&name).unwrap_or_default().to_string()))
        .collect();
    if !real.is_empty() {
        gone.extend(rehearse(args, &words, &real, &known.lists, system)?);
    }
    let steps: Vec<Step> =
        gone.into_iter().map(|(name, version)| (name, Value::from(version), Value::Null)).collect();
    change(args, &words, &args.extra_args, &due, &steps, outcome, system)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn pacman_runs_only_if_something_differs() {
        for (given, expected) in [
            (vec![("name", "a")], vec![]),
            (vec![("name", "a,c")], vec!["--sync --needed --noconfirm --noprogressbar c"]),
            (vec![("name", "a"), ("state", "latest")], vec!["--sync --needed --noconfirm --noprogressbar a"]),
            (
                vec![("name", "a,c"), ("state", "absent"), ("force", "yes")],
                vec!["--remove --nodeps --nodeps --noconfirm --noprogressbar a"],
            ),
            (vec![("upgrade", "yes")], vec!["--sync --sysupgrade --noconfirm --noprogressbar"]),
            (vec![("name", "a"), ("reason", "dependency"), ("reason_for", "all")], vec!["-D --asdeps a"]),
            (
                vec![("name", "c"), ("reason", "dependency")],
                vec!["--sync --needed --noconfirm --noprogressbar c", "-D --asdeps c"],
            ),
            (vec![("name", "group")], vec![]),
            (vec![("name", "a"), ("update_cache", "yes")], vec!["--sync --refresh"]),
        ] {
            let mut fake =
                Fake::new().with_program("/usr/bin/pacman").with_behaviour(&["pacman"], |_, command| {
                    let line = command.line();
                    match line.split_once(' ').map_or("", |(_, words)| words) {
                        "-Q" => Output::ok("a 1-1\nb 1-1\n"),
                        "-Qeq" => Output::ok("a\n"),
                        "--query --upgrades" => Output::ok("a 1-1 -> 2-1\nb 1 -> 2 [ignored]\n"),
                        words if words.starts_with("-Qgq") => Output::fails(1, "error"),
                        words if words.contains("--print ") && words.ends_with(" c") => {
                            Output::ok("loading packages...\n=c 1-1\n")
                        }
                        words if words.contains("--print ") && words.ends_with(" group") => {
                            Output::ok("=b 1-1\n")
                        }
                        words if words.contains("--print ") => Output::ok("=a 2-1\n"),
                        _ => Output::ok(""),
                    }
                });
            call(&MODULE, &map_of(given.clone()).into(), &mut fake).expect("it works");
            let acted: Vec<&str> =
                fake.log().iter().filter_map(|line| line.strip_prefix("! pacman ")).collect();
            assert_eq!(acted, expected, "{given:?}");
        }
    }
}
