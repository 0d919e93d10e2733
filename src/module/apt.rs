//! `apt`: packages of Debian and its relatives.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::path::Path;
use std::time::SystemTime;

use serde::Deserialize;

use crate::module::dpkg::{self, Database, Package, compare_versions};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, clock, host, typed};
use crate::system::{
    Applied, Attributes, Command, Content, Done, Effect, Intent, Output, System, WriteOptions,
};
use crate::value::{Map, Value, map_of};

/// Installs, upgrades and removes packages.
pub const MODULE: Module = Module {
    name: "ansible.builtin.apt",
    summary: "Install, upgrade and remove packages of Debian and its relatives",
    description: "What is installed is read from dpkg's own database, so that a host that is as it should be is \
        answered in milliseconds. What would be done is asked of `apt-get --simulate` before it is done, in one \
        transaction for all packages, so that check mode shows it. `upgrade` always uses apt-get. `clean` reports a \
        change only if there is a package file to remove.",
    example: "- name: The web server, with lists of packages that are not older than an hour\n  ansible.builtin.apt:\n    name: [nginx, 'openssl=3.0*']\n    update_cache: true\n    cache_valid_time: 3600\n",
    scope: Scope::Host,
    params: &[
        Param::new(
            "name",
            Type::List,
            "Packages: `name`, `name=1.2*`, `name>=1.2`, `name:arch`, or patterns such as `lib*`.",
        )
        .aliases(&["package", "pkg"]),
        Param::new(
            "state",
            Type::Str,
            "What they should be; `build-dep` means their build dependencies, `fixed` a repair.",
        )
        .choices(&["absent", "build-dep", "latest", "present", "fixed"])
        .default("present"),
        Param::new("deb", Type::Path, "A package file on the host, or its URL."),
        Param::new(
            "upgrade",
            Type::Str,
            "Upgrade everything: `yes` or `safe` remove nothing, `full` and `dist` may.",
        )
        .choices(&["dist", "full", "no", "safe", "yes"])
        .default("no"),
        Param::new("update_cache", Type::Bool, "Fetch the lists of packages first.")
            .aliases(&["update-cache"]),
        Param::new("cache_valid_time", Type::Int, "Seconds for which fetched lists are good enough.")
            .default("0"),
        Param::new("update_cache_retries", Type::Int, "How often fetching is tried.").default("5"),
        Param::new("update_cache_retry_max_delay", Type::Int, "Longest pause between tries in seconds.")
            .default("12"),
        Param::new("default_release", Type::Str, "Release to take packages from.")
            .aliases(&["default-release"]),
        Param::new("install_recommends", Type::Bool, "Install recommended packages too, or not.")
            .aliases(&["install-recommends"]),
        Param::new("force", Type::Bool, "Go on where apt-get would stop (`--force-yes`). Dangerous.")
            .default("no"),
        Param::new("allow_unauthenticated", Type::Bool, "Accept packages whose origin can't be verified.")
            .aliases(&["allow-unauthenticated"])
            .default("no"),
        Param::new("allow_downgrade", Type::Bool, "Accept an older version than is installed.")
            .aliases(&["allow-downgrade", "allow_downgrades", "allow-downgrades"])
            .default("no"),
        Param::new("allow_change_held_packages", Type::Bool, "Change packages that are on hold.")
            .default("no"),
        Param::new("dpkg_options", Type::Str, "Options for dpkg, without `--`, joined by commas.")
            .default("force-confdef,force-confold"),
        Param::new("only_upgrade", Type::Bool, "Only what is installed already.").default("no"),
        Param::new("fail_on_autoremove", Type::Bool, "Fail if anything would be removed.").default("no"),
        Param::new("purge", Type::Bool, "Remove configuration too.").default("no"),
        Param::new("autoremove", Type::Bool, "Remove what nothing needs any more.").default("no"),
        Param::new("autoclean", Type::Bool, "Remove package files that can't be downloaded any more.")
            .default("no"),
        Param::new("clean", Type::Bool, "Remove all downloaded package files.").default("no"),
        Param::new(
            "policy_rc_d",
            Type::Int,
            "Exit status of `policy-rc.d` during the run: 101 keeps services from starting.",
        ),
        Param::new("force_apt_get", Type::Bool, "Has no effect: apt-get is always used.").default("no"),
        Param::new("lock_timeout", Type::Int, "Seconds to wait for another run of apt to end.").default("60"),
        Param::new(
            "auto_install_module_deps",
            Type::Bool,
            "Has no effect: nothing needs to be installed for this.",
        )
        .default("true"),
    ],
    rules: &[
        Rule::MutuallyExclusive(&["deb", "name"]),
        Rule::RequiredOneOf(&["autoremove", "autoclean", "clean", "deb", "name", "update_cache", "upgrade"]),
    ],
    returns: &[
        ("cache_updated", "Whether the lists of packages were fetched."),
        ("cache_update_time", "When they were last fetched: seconds since the epoch."),
        ("stdout", "What apt-get printed."),
        ("stderr", "What apt-get printed as errors."),
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
    deb: Option<String>,
    upgrade: String,
    update_cache: Option<bool>,
    cache_valid_time: i64,
    update_cache_retries: u32,
    update_cache_retry_max_delay: u64,
    default_release: Option<String>,
    install_recommends: Option<bool>,
    force: bool,
    allow_unauthenticated: bool,
    allow_downgrade: bool,
    allow_change_held_packages: bool,
    dpkg_options: String,
    only_upgrade: bool,
    fail_on_autoremove: bool,
    purge: bool,
    autoremove: bool,
    autoclean: bool,
    clean: bool,
    policy_rc_d: Option<i64>,
    lock_timeout: i64,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let names = names(args.name.as_deref().unwrap_or_default());
    let updated = update_lists(args, system)?;
    let mut outcome = Outcome::default().set("cache_updated", updated);
    if let Some((time, _)) = lists_time(system)? {
        outcome = outcome.set("cache_update_time", time);
    }
    let before = system.changes().len();
    let asked = !names.is_empty() || args.deb.is_some() || args.upgrade != "no";
    if args.clean {
        clean(args, system)?;
    }
    let output = if let Some(deb) = &args.deb {
        install_file(args, deb, system)?
    } else if args.upgrade != "no" {
        let verb: &[&str] = if ["yes", "safe"].contains(&args.upgrade.as_str()) {
            &["upgrade", "--with-new-pkgs"]
        } else {
            &["dist-upgrade"]
        };
        transact(args, verb, &[], system)?
    } else if names.is_empty() {
        None
    } else {
        packages(args, &names, system)?
    };
    let mut output = output;
    if args.autoclean {
        output = output.or(autoclean(args, system)?);
    }
    if args.autoremove && (args.deb.is_some() || names.is_empty() && args.upgrade == "no") {
        output = output.or(transact(args, &["autoremove"], &[], system)?);
    }
    if let Some(output) = output {
        outcome = outcome.set("stdout", output.stdout_text()).set("stderr", output.stderr_text());
    }
    // That lists were fetched is a change only if nothing else was asked for.
    if updated && asked {
        outcome.changed = Some(system.changes().len() > before);
    }
    Ok(outcome)
}

/// Names as they may be written: also several in one item, joined by commas.
fn names(given: &[String]) -> Vec<String> {
    given
        .iter()
        .flat_map(|item| item.split(','))
        .map(|name| name.trim().to_string())
        .filter(|name| !name.is_empty())
        .collect()
}

// ---- lists of packages ----

const STAMP: &str = "/var/lib/apt/periodic/update-success-stamp";
const LISTS: &str = "/var/lib/apt/lists";

/// When lists were last fetched, and by which path that is known.
fn lists_time(system: &mut dyn System) -> Result<Option<(i64, &'static str)>, ModuleError> {
    for path in [STAMP, LISTS] {
        if let Some(stat) = system.stat_follow(Path::new(path))? {
            #[expect(clippy::cast_possible_truncation, reason = "seconds")]
            return Ok(Some((stat.mtime as i64, path)));
        }
    }
    Ok(None)
}

fn update_lists(args: &Args, system: &mut dyn System) -> Result<bool, ModuleError> {
    let wanted =
        args.update_cache == Some(true) || (args.update_cache.is_none() && args.cache_valid_time > 0);
    if !wanted {
        return Ok(false);
    }
    let time = lists_time(system)?.map_or(0, |(time, _)| time);
    let now = clock::since_epoch(SystemTime::now()).0;
    // A new machine's directory is young and empty: nothing has been fetched into it yet.
    let fetched = system
        .list(Path::new(LISTS))
        .is_ok_and(|names| names.iter().any(|name| name.to_string_lossy().contains("Release")));
    if fetched && args.cache_valid_time > 0 && now < time + args.cache_valid_time {
        return Ok(false);
    }
    let command = apt_get(args, &["update"], &[]);
    for attempt in 1.. {
        let intent = Intent {
            kind: "package_lists",
            id: LISTS.into(),
            before: map_of([("fetched", time)]).into(),
            after: map_of([("fetched", "now")]).into(),
            effects: vec![Effect::Anything],
            ..Intent::default()
        };
        let Done::Made(output) = system.change(&command, intent)? else { return Ok(true) };
        // A source that can't be reached is only a warning to apt-get, and its exit status is 0.
        let said = output.stderr_text();
        let failed = said.lines().any(|line| line.starts_with("E:") || line.contains("Failed to fetch"));
        if output.success() && !failed {
            return Ok(true);
        }
        if attempt > args.update_cache_retries {
            return Err(ModuleError::new(format!("Failed to update apt cache: {}", said.trim()))
                .with("rc", output.code)
                .with("stdout", output.stdout_text())
                .with("stderr", said));
        }
        let pause = 2_u64.saturating_pow(attempt - 1).min(args.update_cache_retry_max_delay);
        system.query(&Command::new(["sleep".to_string(), pause.to_string()]))?;
    }
    Ok(true)
}

// ---- commands ----

fn apt_get(args: &Args, verb: &[&str], operands: &[String]) -> Command {
    let mut argv: Vec<String> = vec!["apt-get".into(), "-y".into()];
    let mut option = |text: String| argv.extend(["-o".to_string(), text]);
    for name in args.dpkg_options.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        option(format!("Dpkg::Options::=--{name}"));
    }
    option(format!("DPkg::Lock::Timeout={}", args.lock_timeout));
    if let Some(recommends) = args.install_recommends {
        option(format!("APT::Install-Recommends={}", if recommends { "yes" } else { "no" }));
    }
    let mut flag = |given: bool, text: &str| argv.extend(given.then(|| text.to_string()));
    flag(args.force, "--force-yes");
    flag(args.allow_unauthenticated, "--allow-unauthenticated");
    flag(args.allow_downgrade, "--allow-downgrades");
    flag(args.allow_change_held_packages, "--allow-change-held-packages");
    flag(args.only_upgrade, "--only-upgrade");
    flag(args.fail_on_autoremove, "--no-remove");
    let first = verb.first().copied().unwrap_or_default();
    flag(args.purge && ["remove", "autoremove"].contains(&first), "--purge");
    flag(args.autoremove && ["install", "remove"].contains(&first), "--auto-remove");
    flag(args.state == "fixed" && first == "install", "--fix-broken");
    if let Some(release) = args.default_release.as_ref().filter(|_| first != "update") {
        argv.extend(["-t".to_string(), release.clone()]);
    }
    argv.extend(verb.iter().map(ToString::to_string));
    argv.extend(operands.iter().cloned());
    let mut command = Command::new(argv).c_locale();
    command.env.extend([
        ("DEBIAN_FRONTEND".to_string(), "noninteractive".to_string()),
        ("DEBIAN_PRIORITY".to_string(), "critical".to_string()),
    ]);
    command
}

/// One step of a simulated run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    name: String,
    before: Option<String>,
    after: Option<String>,
    architecture: Option<String>,
}

/// Reads `Inst name [old] (new origin [arch])` and `Remv name [old]`.
fn steps(text: &str) -> Vec<Step> {
    let step = |line: &str| {
        let (verb, rest) = line.split_once(' ')?;
        let name = rest.split_whitespace().next()?.to_string();
        let before = rest
            .split_whitespace()
            .nth(1)?
            .strip_prefix('[')
            .map(|word| word.trim_end_matches(']').to_string());
        match verb {
            "Inst" => {
                let details = rest.split_once('(')?.1;
                let after = details.split_whitespace().next()?.to_string();
                let architecture =
                    details.rsplit_once('[').and_then(|(_, last)| last.split(']').next()).map(String::from);
                Some(Step { name, before, after: Some(after), architecture })
            }
            "Remv" | "Purg" => Some(Step { name, before, after: None, architecture: None }),
            _ => None,
        }
    };
    let mut steps: Vec<Step> = text.lines().filter_map(step).collect();
    steps.dedup_by(|later, first| later.name == first.name && later.after == first.after);
    steps
}

/// Options that keep a command that only looks from writing apt's own cache, where it would: while that is
/// older than what it is made of.
fn without_writing(system: &mut dyn System) -> Result<Vec<OsString>, ModuleError> {
    let mut age = |path: &str| -> Result<Option<f64>, ModuleError> {
        Ok(system.stat_follow(Path::new(path))?.map(|stat| stat.mtime))
    };
    let made = age("/var/cache/apt/pkgcache.bin")?;
    let mut latest = 0.0_f64;
    for source in CACHE_SOURCES {
        latest = latest.max(age(source)?.unwrap_or_default());
    }
    if made.is_some_and(|made| made > latest) {
        return Ok(Vec::new());
    }
    Ok(["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="].map(OsString::from).to_vec())
}

/// What apt makes its cache of.
const CACHE_SOURCES: &[&str] = &[
    "/var/lib/dpkg/status",
    "/var/lib/apt/lists",
    "/var/lib/apt/extended_states",
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d",
    "/etc/apt/preferences",
    "/etc/apt/preferences.d",
    "/etc/apt/apt.conf.d",
];

/// What installing or removing these packages comes to, where apt can't tell.
fn assumed(verb: &[&str], operands: &[String]) -> Vec<Step> {
    let step = |operand: &String| {
        let (name, version) = operand.split_once('=').unwrap_or((operand, ""));
        let after = match verb.first() {
            Some(&"install") => Some(version.to_string()),
            Some(&("remove" | "purge")) => None,
            _ => return None,
        };
        Some(Step { name: name.into(), before: None, after, architecture: None })
    };
    operands.iter().filter_map(step).collect()
}

/// Finds out what a command would do; then does it, if that is anything.
fn transact(
    args: &Args,
    verb: &[&str],
    operands: &[String],
    system: &mut dyn System,
) -> Result<Option<Output>, ModuleError> {
    transact_if(args, verb, operands, &|_| Ok(()), system)
}

/// Like [`transact`], unless what would be done is not good enough.
fn transact_if(
    args: &Args,
    verb: &[&str],
    operands: &[String],
    judge: &dyn Fn(&[Step]) -> Result<(), ModuleError>,
    system: &mut dyn System,
) -> Result<Option<Output>, ModuleError> {
    let command = apt_get(args, verb, operands);
    let mut simulation = command.clone();
    simulation.argv.insert(1, "--simulate".into());
    simulation.argv.splice(1..1, without_writing(system)?);
    let simulated = match system.query(&simulation) {
        Ok(output) => output,
        Err(error) if error.is_not_found() && system.uncertain().is_some() => missing_output(),
        Err(error) => return Err(error.into()),
    };
    let planned = if simulated.success() {
        let planned = steps(&simulated.stdout_text());
        judge(&planned)?;
        if planned.is_empty() && args.state != "fixed" {
            return Ok(None);
        }
        planned
    } else if system.uncertain().is_some() {
        // Lists that an earlier task of this dry run would fetch may know better.
        assumed(verb, operands)
    } else {
        return Err(refused(&command, &simulated));
    };
    let versions = |side: fn(&Step) -> &Option<String>| -> Map {
        planned.iter().map(|step| (step.name.as_str().into(), side(step).clone().into())).collect()
    };
    let names = if operands.is_empty() { verb.join(" ") } else { operands.join(" ") };
    let fresh: Vec<String> = planned
        .iter()
        .filter(|step| step.before.is_none() && step.after.is_some())
        .map(|step| step.name.clone())
        .collect();
    let intent = Intent {
        kind: "package",
        id: names,
        before: versions(|step| &step.before).into(),
        after: versions(|step| &step.after).into(),
        undo: (!fresh.is_empty()).then(|| apt_get(args, &["remove"], &fresh)),
        effects: vec![
            Effect::Anything,
            dpkg::effect(
                planned
                    .iter()
                    .map(|step| (step.name.as_str(), step.after.as_deref(), step.architecture.as_deref())),
                system,
            ),
        ],
        ..Intent::default()
    };
    let policy = Policy::set(args, system)?;
    let done = system.change(&command, intent);
    policy.restore(system)?;
    match done? {
        Done::Made(output) if output.success() => Ok(Some(output)),
        Done::Made(output) => Err(refused(&command, &output)),
        Done::Recorded => Ok(Some(simulated)),
    }
}

/// What a machine says that has no apt-get yet.
fn missing_output() -> Output {
    Output { code: 127, stdout: Vec::new(), stderr: b"apt-get is missing".to_vec() }
}

fn refused(command: &Command, output: &Output) -> ModuleError {
    let said = output.stderr_text();
    let unknown = said.lines().find_map(|line| line.strip_prefix("E: Unable to locate package "));
    let message = match unknown {
        Some(name) => format!("No package matching '{}' is available", name.trim()),
        None => format!("'{}' failed: {}", command.line(), said.trim()),
    };
    ModuleError::new(message)
        .with("rc", output.code)
        .with("stdout", output.stdout_text())
        .with("stderr", said)
}

/// `policy-rc.d`, which decides whether packages may start their services, for the time of a run.
struct Policy {
    saved: Option<Option<Vec<u8>>>,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl Policy {
    fn set(args: &Args, system: &mut dyn System) -> Result<Policy, ModuleError> {
        let Some(code) = args.policy_rc_d else { return Ok(Policy { saved: None }) };
        let path = Path::new(POLICY);
        let saved = if system.stat_follow(path)?.is_some() { Some(system.read(path)?) } else { None };
        let content = Content::Bytes(format!("#!/bin/sh\nexit {code}\n").into_bytes());
        let attributes = Attributes { mode: Some(0o755), ..Attributes::default() };
        system.write(path, &content, &attributes, WriteOptions::default())?;
        Ok(Policy { saved: Some(saved) })
    }

    fn restore(self, system: &mut dyn System) -> Result<(), ModuleError> {
        let path = Path::new(POLICY);
        match self.saved {
            None => {}
            Some(None) => system.remove(path)?,
            Some(Some(content)) => {
                system.write(
                    path,
                    &Content::Bytes(content),
                    &Attributes::default(),
                    WriteOptions::default(),
                )?;
            }
        }
        Ok(())
    }
}

// ---- packages ----

/// A package as a task names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    /// As it was written.
    text: String,
    name: String,
    architecture: Option<String>,
    version: Option<(Relation, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    /// The version, or a pattern for it.
    Is,
    /// This version or a later one.
    AtLeast,
}

impl Wanted {
    fn parse(text: &str) -> Wanted {
        let (name, version) = match (text.split_once(">="), text.split_once('=')) {
            (Some((name, version)), _) => (name, Some((Relation::AtLeast, version.trim().to_string()))),
            (None, Some((name, version))) => (name, Some((Relation::Is, version.trim().to_string()))),
            (None, None) => (text, None),
        };
        let name = name.trim();
        let name = name.split_once('/').map_or(name, |(name, _)| name);
        let (name, architecture) = match name.split_once(':') {
            Some((name, architecture)) => (name, Some(architecture.to_string())),
            None => (name, None),
        };
        Wanted { text: text.to_string(), name: name.to_string(), architecture, version }
    }

    fn is_pattern(&self) -> bool {
        self.name.contains(['*', '?', '['])
    }

    fn accepts(&self, version: &str) -> bool {
        match &self.version {
            None => true,
            Some((Relation::AtLeast, least)) => compare_versions(version, least) != Ordering::Less,
            Some((Relation::Is, pattern)) if pattern.contains(['*', '?', '[']) => {
                glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(version))
            }
            Some((Relation::Is, exact)) => version == exact,
        }
    }

    /// As apt-get takes it.
    fn operand(&self) -> String {
        match &self.version {
            Some((Relation::AtLeast, _)) => {
                let architecture =
                    self.architecture.as_ref().map(|name| format!(":{name}")).unwrap_or_default();
                format!("{}{architecture}", self.name)
            }
            _ => self.text.clone(),
        }
    }
}

fn packages(args: &Args, names: &[String], system: &mut dyn System) -> Result<Option<Output>, ModuleError> {
    let everything = args.state == "latest" && names == ["*"];
    if everything {
        return transact(args, &["upgrade", "--with-new-pkgs"], &[], system);
    }
    let database = Database::read(system);
    let mut wanted = Vec::new();
    for name in names {
        let one = Wanted::parse(name);
        if one.is_pattern() {
            wanted.extend(matching(args, &one, &database, system)?)
        } else {
            wanted.push(one)
        }
    }
    let operands: Vec<String> =
        wanted.iter().filter(|one| has_to_act(args, one, &database)).map(Wanted::operand).collect();
    let output = if operands.is_empty() && args.state != "fixed" {
        None
    } else {
        let verb = match args.state.as_str() {
            "absent" => "remove",
            "build-dep" => "build-dep",
            _ => "install",
        };
        let judge = |planned: &[Step]| {
            let mut asked = wanted.iter().filter(|one| operands.contains(&one.operand()));
            asked.try_for_each(|one| check_minimum(one, planned, &database))
        };
        transact_if(args, &[verb], &operands, &judge, system)?
    };
    let database = Database::read(system);
    for one in &wanted {
        system.applied(Applied {
            kind: "package".into(),
            id: one.name.clone(),
            state: applied_state(args, one, &database),
        });
    }
    Ok(output)
}

fn installed<'a>(one: &Wanted, database: &'a Database) -> Option<&'a Package> {
    let own = database.get(&one.name, one.architecture.as_deref()).filter(|package| package.is_installed());
    // A name that other packages stand for is there if one of them is, unless a version is asked for.
    own.or_else(|| if one.version.is_none() { database.provider(&one.name) } else { None })
}

fn has_to_act(args: &Args, one: &Wanted, database: &Database) -> bool {
    let now = installed(one, database);
    match args.state.as_str() {
        "absent" => {
            let own = database.get(&one.name, one.architecture.as_deref());
            own.is_some_and(|package| {
                (package.is_installed() && one.accepts(&package.version))
                    || (args.purge && package.has_left_files())
            })
        }
        // Whether there is something newer only apt knows.
        "latest" | "build-dep" => true,
        _ => match now {
            None => !args.only_upgrade,
            Some(package) => !one.accepts(&package.version),
        },
    }
}

/// Whether a planned installation of `name>=version` leads to such a version.
fn check_minimum(one: &Wanted, planned: &[Step], database: &Database) -> Result<(), ModuleError> {
    let Some((Relation::AtLeast, least)) = &one.version else { return Ok(()) };
    let now = installed(one, database).is_some_and(|package| one.accepts(&package.version));
    let plain = |step: &Step| step.name.split(':').next() == Some(one.name.as_str());
    let then = planned
        .iter()
        .any(|step| plain(step) && step.after.as_ref().is_some_and(|version| one.accepts(version)));
    if now || then {
        return Ok(());
    }
    Err(ModuleError::new(format!("no available installation candidate for {}>={least}", one.name)))
}

fn applied_state(args: &Args, one: &Wanted, database: &Database) -> Value {
    if args.state == "absent" {
        return Value::Null;
    }
    let mut state = map_of([("installed", Value::Bool(true))]);
    // A version is part of the promise only if it was asked for.
    if one.version.is_some()
        && let Some(package) = installed(one, database)
    {
        state.insert("version".into(), package.version.as_str().into());
    }
    state.into()
}

/// The packages that a pattern names: installed ones if they are to go, else all that can be had.
fn matching(
    args: &Args,
    one: &Wanted,
    database: &Database,
    system: &mut dyn System,
) -> Result<Vec<Wanted>, ModuleError> {
    let pattern = glob::Pattern::new(&one.name)
        .map_err(|error| ModuleError::new(format!("the pattern '{}' is not valid: {error}", one.name)))?;
    let mut names: Vec<String> = if args.state == "absent" {
        database
            .packages()
            .iter()
            .filter(|package| package.is_installed())
            .map(|package| package.name.clone())
            .collect()
    } else {
        let mut command = Command::new(["apt-cache", "pkgnames"]).c_locale();
        command.argv.splice(1..1, without_writing(system)?);
        system.query(&command)?.stdout_text().lines().map(String::from).collect()
    };
    names.retain(|name| pattern.matches(name));
    names.sort_unstable();
    names.dedup();
    if names.is_empty() && args.state != "absent" && system.uncertain().is_none() {
        return Err(ModuleError::new(format!("No package(s) matching '{}' available", one.name)));
    }
    Ok(names.into_iter().map(|name| Wanted { text: name.clone(), name, ..one.clone() }).collect())
}

// ---- package files ----

fn install_file(args: &Args, deb: &str, system: &mut dyn System) -> Result<Option<Output>, ModuleError> {
    let path = if deb.contains("://") {
        download(deb, system)?
    } else {
        args::expand_path(deb, system)?.to_string_lossy().into_owned()
    };
    if !host::exists(&path, system)? {
        if let Some(why) = system.uncertain() {
            return Err(ModuleError::new(format!("{path} is not there yet: {why}")));
        }
        return Err(ModuleError::new(format!(
            "Unable to install package: E:Could not open file {path} - open (2: No such file or directory)"
        )));
    }
    let output = host::ask(["dpkg-deb", "--field", &path, "Package", "Version", "Architecture"], system)?;
    if !output.success() {
        return Err(ModuleError::new(format!("Unable to install package: {}", output.stderr_text().trim())));
    }
    let text = output.stdout_text();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_default()
            .trim()
            .to_string()
    };
    let (name, version, architecture) = (field("Package"), field("Version"), field("Architecture"));
    let database = Database::read(system);
    let known = database.get(&name, Some(&architecture)).filter(|package| package.is_installed());
    let order = known.map(|package| compare_versions(&version, &package.version));
    let output = match order {
        Some(Ordering::Equal) if !args.force => None,
        Some(Ordering::Less) if !args.allow_downgrade && !args.force => {
            return Err(ModuleError::new(format!(
                "A later version is already installed: {name} {}",
                known.map(|package| package.version.clone()).unwrap_or_default()
            )));
        }
        _ => transact(args, &["install"], &[path], system)?,
    };
    let state = map_of([("installed", Value::Bool(true)), ("version", version.into())]).into();
    system.applied(Applied { kind: "package".into(), id: name, state });
    Ok(output)
}

/// Fetches a package file with apt's own downloader.
fn download(url: &str, system: &mut dyn System) -> Result<String, ModuleError> {
    let name =
        url.split(['?', '#']).next().unwrap_or(url).rsplit('/').next().filter(|name| name.ends_with(".deb"));
    let path = system.scratch()?.join(name.unwrap_or("package.deb")).to_string_lossy().into_owned();
    let command = Command::new(["/usr/lib/apt/apt-helper", "download-file", url, &path]).c_locale();
    let output = system.query(&command)?;
    if output.success() {
        Ok(path)
    } else {
        Err(ModuleError::command(format!("Failure downloading {url}"), &command, &output))
    }
}

// ---- downloaded files ----

fn clean(args: &Args, system: &mut dyn System) -> Result<(), ModuleError> {
    let mut files = host::expand_pattern("/var/cache/apt/archives/*.deb", system)?;
    files.extend(host::expand_pattern("/var/cache/apt/archives/partial/*", system)?);
    if files.is_empty() {
        return Ok(());
    }
    let intent = Intent {
        kind: "package_files",
        id: "/var/cache/apt/archives".into(),
        before: map_of([("files", files.len())]).into(),
        after: map_of([("files", 0)]).into(),
        effects: files.into_iter().map(Effect::NoPath).collect(),
        ..Intent::default()
    };
    let command = apt_get(args, &["clean"], &[]);
    match system.change(&command, intent)? {
        Done::Made(output) if !output.success() => Err(refused(&command, &output)),
        _ => Ok(()),
    }
}

fn autoclean(args: &Args, system: &mut dyn System) -> Result<Option<Output>, ModuleError> {
    let command = apt_get(args, &["autoclean"], &[]);
    let mut simulation = command.clone();
    simulation.argv.insert(1, "--simulate".into());
    simulation.argv.splice(1..1, without_writing(system)?);
    simulation.argv.splice(1..1, without_writing(system)?);
    let simulated = system.query(&simulation)?;
    let text = simulated.stdout_text();
    let files: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("Del ")).collect();
    if files.is_empty() {
        return Ok(None);
    }
    let intent = Intent {
        kind: "package_files",
        id: "/var/cache/apt/archives".into(),
        before: map_of([("files", files)]).into(),
        ..Intent::default()
    };
    match system.change(&command, intent)? {
        Done::Made(output) if output.success() => Ok(Some(output)),
        Done::Made(output) => Err(refused(&command, &output)),
        Done::Recorded => Ok(Some(simulated)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::args::check;
    use crate::system::fake::Fake;

    const STATUS: &str = "Package: dpkg\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.21\n\nPackage: curl\nStatus: install ok installed\nArchitecture: amd64\nVersion: 7.88.1-10\n\nPackage: mawk\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.3\nProvides: awk\n\nPackage: old\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n";

    fn machine() -> Fake {
        Fake::new().with_file("/var/lib/dpkg/status", STATUS).with_behaviour(&["apt-get"], |_, command| {
            let line = command.line();
            if line.contains("gone") {
                return Output::fails(100, "E: Unable to locate package gone\n");
            }
            if !line.contains("--simulate") {
                return Output::ok("done");
            }
            let mut said = String::new();
            if line.ends_with("install nginx") || line.contains("install nginx ") {
                said.push_str(
                    "Inst nginx (1.22.1-9 Debian:12.1/stable [amd64])\nConf nginx (1.22.1-9 Debian)\n",
                );
            }
            if line.contains("install 'curl=8*'") || line.contains("dist-upgrade") {
                said.push_str("Inst curl [7.88.1-10] (8.0-1 Debian:12.1/stable [amd64])\n");
            }
            if line.contains("remove curl") {
                said.push_str("Remv curl [7.88.1-10]\n");
            }
            if line.contains("remove old") {
                said.push_str("Purg old [1]\n");
            }
            Output::ok(&said)
        })
    }

    fn task(given: Vec<(&str, Value)>, system: &mut dyn System) -> Result<Outcome, String> {
        let args = check(&MODULE, &map_of(given), &|_| true).expect("valid");
        (MODULE.run)(args, system).map_err(|error| error.message)
    }

    #[test]
    fn only_what_is_missing_is_installed() {
        let list = |names: &[&str]| Value::from(names.to_vec());
        // Arguments, and the end of the command that acts.
        let table: Vec<(Vec<(&str, Value)>, Option<&str>)> = vec![
            (vec![("name", list(&["curl", "awk", "curl:amd64"]))], None),
            (vec![("name", "curl=7.88*".into())], None),
            (vec![("name", "curl>=7.80".into())], None),
            (vec![("name", "curl, nginx".into())], Some("install nginx")),
            (vec![("name", "curl=8*".into())], Some("install 'curl=8*'")),
            (vec![("name", list(&["curl", "old"])), ("state", "absent".into())], Some("remove curl")),
            (
                vec![("name", "old".into()), ("state", "absent".into()), ("purge", true.into())],
                Some("--purge remove old"),
            ),
            (vec![("name", "nothing".into()), ("state", "absent".into())], None),
            (vec![("name", "curl".into()), ("state", "latest".into())], None),
            (vec![("upgrade", "dist".into())], Some("dist-upgrade")),
            (vec![("upgrade", "yes".into())], None),
            (vec![("name", "nginx".into()), ("only_upgrade", true.into())], None),
        ];
        for (given, expected) in table {
            let shown = format!("{given:?}");
            let mut fake = machine();
            task(given, &mut fake).expect("it works");
            let acted: Vec<&String> = fake.log().iter().filter(|line| line.starts_with("! ")).collect();
            match expected {
                None => assert!(acted.is_empty() && fake.changes().is_empty(), "{shown}: {acted:?}"),
                Some(end) => {
                    assert!(acted.len() == 1 && acted[0].ends_with(end), "{shown}: {acted:?}");
                    assert_eq!(fake.changes().len(), 1);
                }
            }
        }
    }

    #[test]
    fn what_would_be_done_is_told() {
        let mut fake = machine();
        task(vec![("name", "nginx".into())], &mut fake).expect("it works");
        let change = &fake.changes()[0];
        assert_eq!((change.kind.as_str(), change.id.as_str()), ("package", "nginx"));
        assert_eq!(change.before.repr(), "{'nginx': None}");
        assert_eq!(change.after.repr(), "{'nginx': '1.22.1-9'}");
        let message = task(vec![("name", "curl>=9".into())], &mut machine()).expect_err("too old");
        assert_eq!(message, "no available installation candidate for curl>=9");
        let message = task(vec![("name", "gone".into())], &mut machine()).expect_err("unknown");
        assert_eq!(message, "No package matching 'gone' is available");
    }

    #[test]
    fn lists_are_fetched_when_they_are_old() {
        for (time, given, expected) in [
            (0.0, vec![("update_cache", Value::from(true))], true),
            (0.0, vec![("update_cache", true.into()), ("cache_valid_time", 3600.into())], true),
            (4e9, vec![("update_cache", true.into()), ("cache_valid_time", 3600.into())], false),
            (4e9, vec![("update_cache", true.into())], true),
        ] {
            let mut fake = machine()
                .with_file(STAMP, "")
                .with_file("/var/lib/apt/lists/deb.example_dists_bookworm_InRelease", "");
            let stamp = Attributes { mtime: Some(time), ..Attributes::default() };
            fake.set_attributes(Path::new(STAMP), &stamp, true).expect("set");
            fake.forget();
            let outcome = task(given.clone(), &mut fake).expect("it works");
            assert_eq!(outcome.values.get("cache_updated"), Some(&expected.into()), "{given:?}");
            assert_eq!(fake.changes().len(), usize::from(expected));
            // With packages that are there, fetching is not a change.
            let given: Vec<_> = given.into_iter().chain([("name", "curl".into())]).collect();
            let outcome = task(given, &mut fake).expect("it works");
            assert_ne!(outcome.changed, Some(true));
        }
    }

    #[test]
    fn names_have_parts() {
        for (text, name, architecture, accepted, refused) in [
            ("a", "a", None, "9", None),
            ("a:i386=1.*", "a", Some("i386"), "1.5", Some("2.0")),
            ("a>=1:2.0", "a", None, "1:2.1", Some("3.0")),
            ("a/stable", "a", None, "1", None),
        ] {
            let one = Wanted::parse(text);
            assert_eq!((one.name.as_str(), one.architecture.as_deref()), (name, architecture), "{text}");
            assert!(one.accepts(accepted) && refused.is_none_or(|version| !one.accepts(version)), "{text}");
        }
    }
}
