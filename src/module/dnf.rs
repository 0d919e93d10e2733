//! `dnf` and `yum`: packages of Red Hat and its relatives.

use serde::Deserialize;

use crate::module::planned::Planned;
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Applied, Command, Done, Effect, Intent, Output, System};
use crate::value::{Map, Value, map_of};

/// Whose packages these are in what a dry run has planned.
const MANAGER: &str = "rpm";

/// Installs, upgrades and removes packages.
pub const MODULE: Module = Module {
    name: "ansible.builtin.dnf",
    aliases: &["ansible.builtin.yum", "ansible.builtin.dnf5"],
    summary: "Install, upgrade and remove packages of Red Hat and its relatives",
    description: "Which packages are installed is asked of rpm, and dnf (or yum, or microdnf, whichever there is) \
        runs only if something has to change. Groups (`@name`), patterns, files and addresses need dnf to decide.",
    example: "- ansible.builtin.dnf:\n    name: [httpd, 'php >= 8.0']\n    state: present\n",
    scope: Scope::Host,
    params: &[
        Param::new(
            "name",
            Type::List,
            "Packages, groups `@name`, files or addresses; `*` with `latest` for everything.",
        )
        .aliases(&["pkg"])
        .default("[]"),
        Param::new("state", Type::Str, "What they should be; `present` if not given.").choices(&[
            "absent",
            "present",
            "installed",
            "removed",
            "latest",
        ]),
        Param::new("enablerepo", Type::List, "Sources to use that are off.").default("[]"),
        Param::new("disablerepo", Type::List, "Sources not to use.").default("[]"),
        Param::new("exclude", Type::List, "Packages to leave alone.").default("[]"),
        Param::new(
            "disable_excludes",
            Type::Str,
            "Ignore exclusions of the configuration: `all`, `main` or a source.",
        ),
        Param::new("disable_gpg_check", Type::Bool, "Do not verify signatures.").default("false"),
        Param::new("sslverify", Type::Bool, "Servers must have valid certificates.").default("true"),
        Param::new(
            "validate_certs",
            Type::Bool,
            "Servers of packages given by address must have valid certificates.",
        )
        .default("true"),
        Param::new("update_cache", Type::Bool, "Fetch lists of packages anew.")
            .aliases(&["expire-cache"])
            .default("false"),
        Param::new("cacheonly", Type::Bool, "Use only what has been fetched.").default("false"),
        Param::new("update_only", Type::Bool, "With `latest`: only what is installed already.")
            .default("false"),
        Param::new("security", Type::Bool, "With `latest`: only updates for security.").default("false"),
        Param::new("bugfix", Type::Bool, "With `latest`: only updates against bugs.").default("false"),
        Param::new("autoremove", Type::Bool, "Remove what nothing needs any more.").default("false"),
        Param::new("allow_downgrade", Type::Bool, "Accept an older version than is installed.")
            .default("false"),
        Param::new("allowerasing", Type::Bool, "Packages may be removed to solve conflicts.")
            .default("false"),
        Param::new("best", Type::Bool, "Take the best version or fail."),
        Param::new("nobest", Type::Bool, "Take an older version if the best can't be had."),
        Param::new("skip_broken", Type::Bool, "Leave out what can't be installed.").default("false"),
        Param::new("install_weak_deps", Type::Bool, "Install recommended packages too.").default("true"),
        Param::new("install_repoquery", Type::Bool, "Has no effect.").default("true"),
        Param::new("installroot", Type::Str, "Another root directory.").default("/"),
        Param::new("releasever", Type::Str, "Another release."),
        Param::new("conf_file", Type::Str, "Another file of settings."),
        Param::new("enable_plugin", Type::List, "Plugins to use.").default("[]"),
        Param::new("disable_plugin", Type::List, "Plugins not to use.").default("[]"),
        Param::new("download_only", Type::Bool, "Only fetch the packages.").default("false"),
        Param::new("download_dir", Type::Str, "Where to."),
        Param::new("lock_timeout", Type::Int, "Has no effect: dnf waits for another run to end.")
            .default("30"),
        Param::new("use_backend", Type::Str, "Has no effect: what is there is used.").default("auto"),
        Param::new("list", Type::Str, "A list of packages.")
            .refused("use package_facts, or dnf in a command"),
    ],
    rules: &[
        Rule::RequiredOneOf(&["name", "list", "update_cache", "autoremove"]),
        Rule::MutuallyExclusive(&["best", "nobest"]),
    ],
    returns: &[
        ("results", "What was done, a line each."),
        ("rc", "Exit status of dnf."),
        ("msg", "Why nothing was done."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    #[serde(deserialize_with = "host::texts")]
    name: Vec<String>,
    state: Option<String>,
    #[serde(deserialize_with = "host::texts")]
    enablerepo: Vec<String>,
    #[serde(deserialize_with = "host::texts")]
    disablerepo: Vec<String>,
    #[serde(deserialize_with = "host::texts")]
    exclude: Vec<String>,
    disable_excludes: Option<String>,
    disable_gpg_check: bool,
    sslverify: bool,
    validate_certs: bool,
    update_cache: bool,
    cacheonly: bool,
    update_only: bool,
    security: bool,
    bugfix: bool,
    autoremove: bool,
    allow_downgrade: bool,
    allowerasing: bool,
    best: Option<bool>,
    nobest: Option<bool>,
    skip_broken: bool,
    install_weak_deps: bool,
    installroot: String,
    releasever: Option<String>,
    conf_file: Option<String>,
    #[serde(deserialize_with = "host::texts")]
    enable_plugin: Vec<String>,
    #[serde(deserialize_with = "host::texts")]
    disable_plugin: Vec<String>,
    download_only: bool,
    download_dir: Option<String>,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let names: Vec<String> = args
        .name
        .iter()
        .flat_map(|item| item.split(','))
        .map(|name| name.trim().to_string())
        .filter(|name| !name.is_empty())
        .collect();
    let state = match args.state.as_deref() {
        Some("absent" | "removed") => "absent",
        Some("latest") => "latest",
        Some(_) => "present",
        None if args.autoremove => "absent",
        None => "present",
    };
    let program = program(system)?;
    let mut outcome = Outcome::default();
    if args.update_cache {
        let output = system.query(&command(args, &program, &["makecache", "--refresh"], &[]))?;
        if !output.success() && system.uncertain().is_none() {
            return Err(failed("Failed to fetch lists of packages", &output));
        }
    }
    if names.is_empty() {
        if args.autoremove {
            transact(args, &program, "autoremove", &[], &mut outcome, system)?;
        } else {
            outcome = outcome.set("msg", "Cache updated").set("rc", 0);
        }
        return Ok(outcome);
    }
    let everything = names == ["*"];
    let planned = Planned::read(MANAGER, system);
    match state {
        "absent" => {
            let mut there = Vec::new();
            for name in &names {
                if is_for_dnf(name) || is_installed(name, &planned, system)? {
                    there.push(name.clone());
                }
            }
            let verb = if args.autoremove { "autoremove" } else { "remove" };
            if !there.is_empty() {
                transact(args, &program, verb, &there, &mut outcome, system)?;
            }
        }
        "latest" => {
            if everything {
                transact(args, &program, "upgrade", &[], &mut outcome, system)?;
            } else {
                latest(args, &program, &names, &mut outcome, system)?;
            }
        }
        _ => {
            let mut missing = Vec::new();
            for name in &names {
                if is_for_dnf(name) || !is_installed(name, &planned, system)? {
                    missing.push(name.clone());
                }
            }
            if !missing.is_empty() {
                transact(args, &program, "install", &missing, &mut outcome, system)?;
            }
        }
    }
    for name in names.iter().filter(|_| !everything) {
        let state = if state == "absent" { Value::Null } else { map_of([("installed", true)]).into() };
        system.applied(Applied { kind: "package".into(), id: name.clone(), state });
    }
    if outcome.values.is_empty() {
        outcome = outcome.set("msg", "Nothing to do").set("rc", 0).set("results", Vec::<String>::new());
    }
    Ok(outcome)
}

/// What there is to manage packages with.
fn program(system: &mut dyn System) -> Result<String, ModuleError> {
    for name in ["dnf", "dnf5", "yum", "microdnf"] {
        if let Some(path) = host::find_program(name, system)? {
            return Ok(path.to_string_lossy().into_owned());
        }
    }
    if system.uncertain().is_some() {
        return Ok("dnf".into());
    }
    Err(ModuleError::new("Could not find dnf, dnf5, yum or microdnf on this machine."))
}

/// What rpm can't judge: groups, patterns, addresses, files.
fn is_for_dnf(name: &str) -> bool {
    name.starts_with('@') || name.contains("://") || name.ends_with(".rpm") || name.contains(['*', '?', '['])
}

/// Whether a package, or what provides this, is installed, in a version that is good enough.
fn is_installed(name: &str, planned: &Planned, system: &mut dyn System) -> Result<bool, ModuleError> {
    if let Some(there) = planned.has_rpm(name) {
        return Ok(there);
    }
    let mut words: Vec<&str> = vec!["rpm", "-q"];
    let has_relation = name.contains(['<', '>', '=']);
    if has_relation || name.starts_with('/') || name.contains('(') {
        words.push("--whatprovides");
    }
    words.push(name);
    if host::ask(words, system)?.success() {
        return Ok(true);
    }
    if has_relation || name.starts_with('/') {
        return Ok(false);
    }
    Ok(host::ask(["rpm", "-q", "--whatprovides", name], system)?.success())
}

fn command(args: &Args, program: &str, verb: &[&str], names: &[String]) -> Command {
    let mut argv: Vec<String> = vec![program.to_string(), "-y".into()];
    let mut put = |given: bool, text: &str| argv.extend(given.then(|| text.to_string()));
    put(args.disable_gpg_check, "--nogpgcheck");
    put(!args.sslverify || !args.validate_certs, "--setopt=sslverify=0");
    put(args.cacheonly, "--cacheonly");
    put(args.allowerasing, "--allowerasing");
    put(args.best == Some(true) || args.nobest == Some(false), "--best");
    put(args.nobest == Some(true) || args.best == Some(false), "--nobest");
    put(args.skip_broken, "--skip-broken");
    put(!args.install_weak_deps, "--setopt=install_weak_deps=False");
    put(args.security && verb[0] == "upgrade", "--security");
    put(args.bugfix && verb[0] == "upgrade", "--bugfix");
    put(args.download_only, "--downloadonly");
    let mut pair = |name: &str, value: &str| argv.push(format!("--{name}={value}"));
    for (name, values) in [
        ("enablerepo", &args.enablerepo),
        ("disablerepo", &args.disablerepo),
        ("exclude", &args.exclude),
        ("enableplugin", &args.enable_plugin),
        ("disableplugin", &args.disable_plugin),
    ] {
        for value in values.iter().filter(|value| !value.is_empty()) {
            pair(name, value);
        }
    }
    for (name, value) in [
        ("disableexcludes", &args.disable_excludes),
        ("releasever", &args.releasever),
        ("config", &args.conf_file),
        ("downloaddir", &args.download_dir),
    ] {
        if let Some(value) = value {
            pair(name, value);
        }
    }
    if args.installroot != "/" && !args.installroot.is_empty() {
        pair("installroot", &args.installroot);
    }
    argv.extend(verb.iter().map(ToString::to_string));
    argv.extend(names.iter().cloned());
    Command::new(argv).c_locale()
}

fn failed(what: &str, output: &Output) -> ModuleError {
    let (said, printed) = (output.stderr_text(), output.stdout_text());
    let missing: Vec<String> = said
        .lines()
        .chain(printed.lines())
        .filter(|line| line.contains("No match for argument") || line.contains("Unable to find a match"))
        .map(|line| line.trim().to_string())
        .collect();
    ModuleError::new(if missing.is_empty() { format!("{what}: {}", said.trim()) } else { what.to_string() })
        .with("failures", missing)
        .with("results", Vec::<String>::new())
        .with("rc", output.code)
}

/// Packages that have an update, and those that are missing.
fn latest(
    args: &Args,
    program: &str,
    names: &[String],
    outcome: &mut Outcome,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    let planned = Planned::read(MANAGER, system);
    let (mut install, mut upgrade) = (Vec::new(), Vec::new());
    for name in names {
        // What dnf has to judge, or is there only as this dry run has it, `install` brings up to date as well.
        if is_for_dnf(name) || planned.has_rpm(name) == Some(true) {
            install.push(name.clone());
        } else if is_installed(name, &planned, system)? {
            upgrade.push(name.clone());
        } else if !args.update_only {
            install.push(name.clone());
        }
    }
    for (verb, names) in [("install", install), ("upgrade", upgrade)] {
        if !names.is_empty() {
            transact(args, program, verb, &names, outcome, system)?;
        }
    }
    Ok(())
}

/// One package in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    /// `Installed`, `Upgraded`, `Downgraded`, `Reinstalled` or `Removed`.
    what: &'static str,
    name: String,
    version: String,
}

impl Step {
    /// The version that will be there. `None` if the package goes.
    fn after(&self) -> Option<String> {
        (self.what != "Removed").then(|| self.version.clone())
    }
}

/// The table of a transaction that dnf shows before it asks: a heading for each kind, then rows of name,
/// architecture, version, source and size. A long name has its row to itself.
fn plan(text: &str) -> Vec<Step> {
    let mut out = Vec::new();
    let (mut what, mut words) = (None, Vec::<&str>::new());
    for line in text.lines().take_while(|line| !line.starts_with("Transaction Summary")) {
        if let Some(heading) = line.strip_suffix(':').filter(|line| !line.starts_with(' ')) {
            let first = heading.split(' ').next().unwrap_or_default();
            what = match first {
                "Installing" => Some("Installed"),
                "Upgrading" => Some("Upgraded"),
                "Downgrading" => Some("Downgraded"),
                "Reinstalling" => Some("Reinstalled"),
                "Removing" => Some("Removed"),
                _ => None,
            };
            words.clear();
            continue;
        }
        let Some(what) = what.filter(|_| line.starts_with(' ')) else { continue };
        let mut row: Vec<&str> = line.split_whitespace().collect();
        if row.first() == Some(&"replacing") {
            // What is replaced is named with its architecture.
            if let [_, name, version, ..] = row[..] {
                let name = name.rsplit_once('.').map_or(name, |(name, _)| name);
                out.push(Step { what: "Removed", name: name.into(), version: version.into() });
            }
            continue;
        }
        words.append(&mut row);
        if let [name, _, version, _, _, ..] = words[..] {
            out.push(Step { what, name: name.into(), version: version.into() });
            words.clear();
        }
    }
    // What is replaced by a newer version of itself is no removal.
    let stays: Vec<String> =
        out.iter().filter(|step| step.what != "Removed").map(|step| step.name.clone()).collect();
    out.retain(|step| step.what != "Removed" || !stays.contains(&step.name));
    out
}

/// What dnf would do.
enum Rehearsal {
    Nothing,
    Steps(Vec<Step>),
    /// It is not known: dnf is not there yet, or speaks in a way that is not understood.
    Unknown,
}

fn rehearse(
    args: &Args,
    program: &str,
    verb: &str,
    names: &[String],
    system: &mut dyn System,
) -> Result<Rehearsal, ModuleError> {
    let mut refusal = command(args, program, &[verb], names);
    if let Some(word) = refusal.argv.iter_mut().find(|word| word.as_os_str() == "-y") {
        *word = "--assumeno".into();
    }
    let planned = match system.query(&refusal) {
        Ok(output) => output,
        Err(error) if error.is_not_found() && system.uncertain().is_some() => return Ok(Rehearsal::Unknown),
        Err(error) => return Err(error.into()),
    };
    let text = planned.stdout_text() + &planned.stderr_text();
    if text.contains("Nothing to do") {
        return Ok(Rehearsal::Nothing);
    }
    let has_plan = text.contains("Transaction Summary") || text.contains("Operation aborted");
    if !planned.success() && !has_plan && system.uncertain().is_none() {
        return Err(failed("Failed to install some of the specified packages", &planned));
    }
    let steps = plan(&planned.stdout_text());
    Ok(if steps.is_empty() { Rehearsal::Unknown } else { Rehearsal::Steps(steps) })
}

/// Names that would make a package older than it is.
fn downgrading(steps: &[Step], names: &[String]) -> Vec<String> {
    let older = |name: &&String| {
        steps.iter().any(|step| step.what == "Downgraded" && name.starts_with(&format!("{}-", step.name)))
    };
    names.iter().filter(older).cloned().collect()
}

/// Versions of packages that are there.
fn versions(names: &[&str], system: &mut dyn System) -> Result<Map, ModuleError> {
    if names.is_empty() {
        return Ok(Map::new());
    }
    let words = ["rpm", "-q", "--qf", "%{NAME} %{VERSION}-%{RELEASE}\n"].iter().chain(names).copied();
    let text = host::ask(words, system)?.stdout_text();
    let pair =
        |line: &str| line.split_once(' ').map(|(name, version)| (name.to_string(), version.to_string()));
    Ok(map_of(text.lines().filter_map(pair).filter(|(name, _)| names.contains(&name.as_str()))))
}

fn transact(
    args: &Args,
    program: &str,
    verb: &str,
    names: &[String],
    outcome: &mut Outcome,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    let planned = Planned::read(MANAGER, system);
    let removes = ["remove", "autoremove"].contains(&verb);
    // What only this dry run has brought, dnf does not know of.
    let (recorded, mut names): (Vec<String>, Vec<String>) =
        names.iter().cloned().partition(|name| removes && matches!(planned.of(name), Some(Some(_))));
    let mut steps: Vec<Step> = Vec::new();
    if recorded.is_empty() || !names.is_empty() {
        let mut rehearsal = rehearse(args, program, verb, &names, system)?;
        if let Rehearsal::Steps(found) = &rehearsal
            && !args.allow_downgrade
            && verb == "install"
        {
            let older = downgrading(found, &names);
            if !older.is_empty() {
                names.retain(|name| !older.contains(name));
                if names.is_empty() {
                    return Ok(());
                }
                rehearsal = rehearse(args, program, verb, &names, system)?;
            }
        }
        match rehearsal {
            Rehearsal::Nothing if recorded.is_empty() => return Ok(()),
            Rehearsal::Nothing => {}
            Rehearsal::Steps(found) => {
                steps = found;
                steps.retain(|step| planned.of(&step.name) != Some(step.after().as_deref()));
                if steps.is_empty() && recorded.is_empty() {
                    return Ok(());
                }
            }
            Rehearsal::Unknown => {
                let what = if removes { "Removed" } else { "Installed" };
                steps = names
                    .iter()
                    .map(|name| Step { what, name: name.clone(), version: "unknown".into() })
                    .collect();
            }
        }
    }
    steps.extend(recorded.iter().map(|name| Step {
        what: "Removed",
        name: name.clone(),
        version: planned.of(name).flatten().unwrap_or_default().into(),
    }));
    let command = command(args, program, &[verb], &names);
    let intent = intent(args, program, verb, &names, &steps, planned, system)?;
    let done = system.change(&command, intent)?;
    let results: Vec<String> = match done {
        Done::Recorded => {
            steps.iter().map(|step| format!("{}: {}-{}", step.what, step.name, step.version)).collect()
        }
        Done::Made(output) if output.success() => summary(&output.stdout_text()),
        Done::Made(output) => return Err(failed(&format!("dnf {verb} failed"), &output)),
    };
    outcome.values.extend(map_of([
        ("results", Value::from(results)),
        ("rc", Value::Int(0)),
        ("msg", "".into()),
    ]));
    Ok(())
}

fn intent(
    args: &Args,
    program: &str,
    verb: &str,
    names: &[String],
    steps: &[Step],
    planned: Planned,
    system: &mut dyn System,
) -> Result<Intent, ModuleError> {
    let there: Vec<&str> = steps
        .iter()
        .filter(|step| !["Installed", "Removed"].contains(&step.what))
        .map(|step| step.name.as_str())
        .collect();
    let known = versions(&there, system)?;
    let before = |step: &Step| match step.what {
        "Installed" => Value::Null,
        "Removed" => step.version.as_str().into(),
        _ => known.get(step.name.as_str()).cloned().unwrap_or_else(|| "installed".into()),
    };
    let fresh: Vec<String> =
        steps.iter().filter(|step| step.what == "Installed").map(|step| step.name.clone()).collect();
    let only_new = !fresh.is_empty() && fresh.len() == steps.len();
    Ok(Intent {
        kind: "package",
        id: if names.is_empty() && steps.is_empty() { verb.to_string() } else { joined(names, steps) },
        before: map_of(steps.iter().map(|step| (step.name.clone(), before(step)))).into(),
        after: map_of(steps.iter().map(|step| (step.name.clone(), Value::from(step.after())))).into(),
        undo: only_new.then(|| command(args, program, &["remove"], &fresh)),
        effects: vec![
            Effect::Anything,
            planned.effect(MANAGER, steps.iter().map(|step| (step.name.clone(), step.after()))),
        ],
        ..Intent::default()
    })
}

fn joined(names: &[String], steps: &[Step]) -> String {
    if names.is_empty() {
        steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>().join(" ")
    } else {
        names.join(" ")
    }
}

/// The lines after `Installed:`, `Upgraded:`, `Removed:` at the end of a run.
fn summary(text: &str) -> Vec<String> {
    let mut kind: Option<&str> = None;
    let mut out = Vec::new();
    for line in text.lines() {
        match line.trim().strip_suffix(':') {
            Some(name @ ("Installed" | "Upgraded" | "Removed" | "Downgraded" | "Reinstalled")) => {
                kind = Some(name)
            }
            _ if line.starts_with(' ') => {
                if let Some(kind) = kind {
                    out.extend(line.split_whitespace().map(|package| format!("{kind}: {package}")));
                }
            }
            _ => kind = None,
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::fake::Fake;

    fn machine() -> Fake {
        Fake::new()
            .with_program("/usr/bin/dnf")
            .with_command_prefix(&["rpm", "-q"], Output::fails(1, ""))
            .with_command(&["rpm", "-q", "bash"], Output::ok("bash-5.1-2"))
            .with_command(&["rpm", "-q", "--whatprovides", "bash >= 5"], Output::ok("bash-5.1-2"))
            .with_behaviour(&["/usr/bin/dnf"], |_, command| {
                let line = command.line();
                if line.contains("gone") {
                    return Output::fails(1, "Error: Unable to find a match: gone");
                }
                if line.contains("check-update") {
                    return Output { code: if line.contains("bash") { 100 } else { 0 }, ..Output::default() };
                }
                if line.contains("--assumeno") {
                    return Output {
                        code: 1,
                        stdout: b"Transaction Summary\nOperation aborted.\n".to_vec(),
                        stderr: Vec::new(),
                    };
                }
                Output::ok("Installed:\n  httpd-2.4-1.x86_64  apr-1-1.x86_64\n\nComplete!\n")
            })
    }

    #[test]
    fn only_what_differs_is_done() {
        for (given, expected) in [
            (vec![("name", "bash")], None),
            (vec![("name", "bash >= 5")], None),
            (vec![("name", "bash,httpd")], Some("! /usr/bin/dnf -y install httpd")),
            (vec![("name", "httpd"), ("state", "absent")], None),
            (vec![("name", "bash"), ("state", "absent")], Some("! /usr/bin/dnf -y remove bash")),
            (vec![("name", "bash"), ("state", "latest")], Some("! /usr/bin/dnf -y upgrade bash")),
            (
                vec![("name", "httpd"), ("enablerepo", "crb,epel"), ("disable_gpg_check", "yes")],
                Some("! /usr/bin/dnf -y --nogpgcheck --enablerepo=crb --enablerepo=epel install httpd"),
            ),
        ] {
            let mut fake = machine();
            let outcome = call(&MODULE, &map_of(given.clone()).into(), &mut fake).expect("it works");
            let acted = fake.log().iter().find(|line| line.starts_with("! ")).map(String::as_str);
            assert_eq!(acted, expected, "{given:?}");
            assert_eq!(fake.changes().len(), usize::from(expected.is_some()));
            assert!(outcome.values.contains_key("rc"));
        }
        let error = call(&MODULE, &map_of([("name", "gone")]).into(), &mut machine()).expect_err("unknown");
        assert_eq!(error, "Failed to install some of the specified packages");
    }

    #[test]
    fn summaries_are_read() {
        let text = "Complete\nInstalled:\n  a-1.x86_64   b-2.noarch\nRemoved:\n  c-3.x86_64\n\nComplete!\n";
        assert_eq!(summary(text), ["Installed: a-1.x86_64", "Installed: b-2.noarch", "Removed: c-3.x86_64"]);
    }
}
