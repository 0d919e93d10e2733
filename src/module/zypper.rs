//! `zypper`: packages of SUSE.

use serde::Deserialize;

use crate::module::planned::Planned;
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, host, typed};
use crate::system::{Applied, Command, Done, Effect, Intent, Output, System};
use crate::value::{Map, Value, map_of};

/// Whose packages these are in what a dry run has planned.
const MANAGER: &str = "rpm";

/// Installs, upgrades and removes packages.
pub const MODULE: Module = Module {
    name: "community.general.zypper",
    summary: "Install, upgrade and remove packages of SUSE",
    description: "Which packages are installed is asked of rpm, so that zypper does not start if nothing has to change. \
        What would be done is asked of `zypper --dry-run` before it is done, so that check mode shows it.",
    example: "- community.general.zypper:\n    name: [apache2, 'nmap>=7']\n    state: present\n    update_cache: true\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::List, "Packages, with versions such as `a=1.2` or `a>=1`; files; addresses; `*` for everything. `-a` or `~a` removes, `+a` installs.").aliases(&["pkg"]).required(),
        Param::new("state", Type::Str, "What they should be.").choices(&["present", "latest", "absent", "dist-upgrade", "installed", "removed"]).default("present"),
        Param::new("type", Type::Str, "What kind of thing is named.").choices(&["package", "patch", "pattern", "product", "srcpackage", "application"]).default("package"),
        Param::new("extra_args_precommand", Type::Str, "Options that stand before zypper's command."),
        Param::new("disable_gpg_check", Type::Bool, "Do not verify signatures.").default("false"),
        Param::new("disable_recommends", Type::Bool, "Leave out recommended packages.").default("true"),
        Param::new("force", Type::Bool, "Go on where zypper would stop.").default("false"),
        Param::new("force_resolution", Type::Bool, "Let zypper choose a way out of conflicts.").default("false"),
        Param::new("update_cache", Type::Bool, "Fetch lists of packages first.").aliases(&["refresh"]).default("false"),
        Param::new("oldpackage", Type::Bool, "An older version is good too.").default("false"),
        Param::new("extra_args", Type::Str, "Options that stand after zypper's command."),
        Param::new("allow_vendor_change", Type::Bool, "A package may come from another vendor.").default("false"),
        Param::new("replacefiles", Type::Bool, "Replace files of other packages.").default("false"),
        Param::new("clean_deps", Type::Bool, "Remove what nothing needs any more.").default("false"),
        Param::new("simple_errors", Type::Bool, "Say only the cause of a failure.").default("false"),
        Param::new("quiet", Type::Bool, "Print little.").default("true"),
        Param::new("skip_post_errors", Type::Bool, "That a script after the installation failed is not a failure.").default("false"),
        Param::new("auto_import_keys", Type::Bool, "Trust keys of sources.").default("false"),
    ],
    returns: &[("rc", "Exit status."), ("stdout", "What zypper printed."), ("stderr", "What zypper printed as errors."), ("cmd", "The command.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    #[serde(deserialize_with = "host::texts")]
    name: Vec<String>,
    state: String,
    r#type: String,
    extra_args_precommand: Option<String>,
    disable_gpg_check: bool,
    disable_recommends: bool,
    force: bool,
    force_resolution: bool,
    update_cache: bool,
    oldpackage: bool,
    extra_args: Option<String>,
    allow_vendor_change: bool,
    replacefiles: bool,
    clean_deps: bool,
    simple_errors: bool,
    quiet: bool,
    skip_post_errors: bool,
    auto_import_keys: bool,
}

/// Exit statuses beyond 100 tell of more than success: 102 asks for a reboot, 103 for a restart of zypper.
fn succeeded(args: &Args, code: i32) -> bool {
    matches!(code, 0 | 100..=103 | 106) || (code == 107 && args.skip_post_errors)
}

fn zypper(args: &Args, verb: &[&str], operands: &[String]) -> Result<Command, ModuleError> {
    let mut argv = vec!["zypper".to_string(), "--non-interactive".into()];
    let words = |text: &Option<String>| -> Result<Vec<String>, ModuleError> {
        text.as_ref().map_or(Ok(Vec::new()), |text| host::split_words(text).map_err(ModuleError::new))
    };
    argv.extend(args.quiet.then(|| "--quiet".to_string()));
    argv.push("--xmlout".into());
    argv.extend(args.disable_gpg_check.then(|| "--no-gpg-checks".to_string()));
    argv.extend(args.auto_import_keys.then(|| "--gpg-auto-import-keys".to_string()));
    argv.extend(words(&args.extra_args_precommand)?);
    argv.extend(verb.iter().map(ToString::to_string));
    let (first, installs) = (verb[0], ["install", "update", "patch", "dist-upgrade"].contains(&verb[0]));
    if first != "refresh" {
        let mut flag = |given: bool, text: &str| argv.extend(given.then(|| text.to_string()));
        if first != "dist-upgrade" {
            flag(true, "--type");
            flag(true, &args.r#type);
        }
        flag(installs && first != "patch", "--auto-agree-with-licenses");
        flag(installs && args.disable_recommends && first != "patch", "--no-recommends");
        flag(installs && args.force && first == "install", "--force");
        flag(args.force_resolution, "--force-resolution");
        flag(installs && args.oldpackage && first == "install", "--oldpackage");
        flag(installs && args.replacefiles, "--replacefiles");
        flag(args.clean_deps && first == "remove", "--clean-deps");
        flag(installs && args.allow_vendor_change, "--allow-vendor-change");
        argv.extend(words(&args.extra_args)?);
    }
    if !operands.is_empty() {
        argv.push("--".into());
        argv.extend(operands.iter().cloned());
    }
    let mut command = Command::new(argv).c_locale();
    command.env.push(("ZYPP_LOCK_TIMEOUT".into(), "120".into()));
    Ok(command)
}

/// A package as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    name: String,
    /// Operator and version, as zypper takes them.
    version: Option<String>,
    /// It is to go, whatever `state` says.
    removes: bool,
    /// A file or an address.
    file: bool,
}

fn parse(text: &str) -> Wanted {
    let text = text.trim();
    let (removes, rest) = match text.strip_prefix(['-', '~', '!']) {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.contains("://") || rest.ends_with(".rpm") {
        return Wanted { name: rest.into(), version: None, removes, file: true };
    }
    let at = rest.find(['=', '<', '>']).filter(|at| *at > 0);
    let (name, version) = at.map_or((rest, None), |at| (&rest[..at], Some(rest[at..].to_string())));
    Wanted { name: name.trim().into(), version, removes, file: false }
}

/// Names and versions in a part of zypper's answer.
fn solvables(text: &str, part: &str) -> Vec<(String, String, Option<String>)> {
    let (open, close) = (format!("<{part}"), format!("</{part}>"));
    let mut out = Vec::new();
    for section in text.split(&open).skip(1) {
        let section = section.split(&close).next().unwrap_or_default();
        for entry in section.split("<solvable ").skip(1) {
            let attribute = |name: &str| {
                let rest = entry.split_once(&format!("{name}=\""))?.1;
                Some(rest.split('"').next().unwrap_or_default().to_string())
            };
            let name = attribute(" name").or_else(|| attribute("name")).unwrap_or_default();
            out.push((name, attribute("edition").unwrap_or_default(), attribute("edition-old")));
        }
    }
    out
}

/// What would be done: name, version before and after.
fn plan(text: &str) -> Vec<(String, Value, Value)> {
    let mut out = Vec::new();
    for part in
        ["to-install", "to-upgrade", "to-downgrade", "to-reinstall", "to-change-arch", "to-change-vendor"]
    {
        for (name, new, old) in solvables(text, part) {
            let old = if part == "to-reinstall" { Some(new.clone()) } else { old };
            out.push((name, old.into(), Value::from(new)));
        }
    }
    for (name, old, _) in solvables(text, "to-remove") {
        out.push((name, old.into(), Value::Null));
    }
    out
}

/// What zypper says went wrong.
fn complaint(output: &Output) -> String {
    let text = output.stdout_text();
    let messages: Vec<&str> = text
        .split("<message type=\"error\">")
        .skip(1)
        .filter_map(|rest| rest.split("</message>").next())
        .collect();
    let said = if messages.is_empty() { output.stderr_text() } else { messages.join("\n") };
    said.trim().to_string()
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let names: Vec<Wanted> = args
        .name
        .iter()
        .flat_map(|item| item.split(','))
        .filter(|name| !name.trim().is_empty())
        .map(parse)
        .collect();
    host::need_program("zypper", system)?;
    if args.update_cache {
        // Only zypper's own copies are made anew, which is not a change of the machine.
        let command = zypper(args, &["refresh"], &[])?;
        let output = system.query(&command)?;
        if !succeeded(args, output.code) && system.uncertain().is_none() {
            return Err(failure("Zypper refresh failed", &command, &output));
        }
    }
    let mut outcome = Outcome::default().set("rc", 0);
    let all = names.iter().any(|one| one.name == "*");
    if all || args.state == "dist-upgrade" {
        let verb: &[&str] = match (args.state.as_str(), args.r#type.as_str()) {
            ("dist-upgrade", _) => &["dist-upgrade"],
            ("latest", "patch") => &["patch"],
            ("latest", _) => &["update"],
            _ => {
                return Err(ModuleError::new("cannot use '*' with state other than latest or dist-upgrade"));
            }
        };
        return transact(args, verb, &[], outcome, system);
    }
    let gone = ["absent", "removed"].contains(&args.state.as_str());
    let (remove, install): (Vec<Wanted>, Vec<Wanted>) =
        names.iter().cloned().partition(|one| one.removes || gone);
    let remove = due(args, &remove, true, system)?;
    let install = due(args, &install, false, system)?;
    if !remove.is_empty() {
        outcome = transact(args, &["remove"], &remove, outcome, system)?;
    }
    if !install.is_empty() {
        outcome = transact(args, &["install"], &install, outcome, system)?;
    }
    for one in &names {
        let state =
            if gone || one.removes { Value::Null } else { map_of([("installed", Value::Bool(true))]).into() };
        system.applied(Applied { kind: "package".into(), id: one.name.clone(), state });
    }
    Ok(outcome)
}

/// Whether a package, or what provides it, is installed in a version that is good enough.
fn is_installed(wanted: &Wanted, planned: &Planned, system: &mut dyn System) -> Result<bool, ModuleError> {
    let version = wanted.version.as_deref().unwrap_or_default();
    if let Some(there) = planned.has_rpm(&format!("{}{version}", wanted.name)) {
        return Ok(there);
    }
    let end = version.find(|c: char| !"<>=".contains(c)).unwrap_or(version.len());
    let (operator, version) = version.split_at(end);
    // rpm wants blanks around the operator.
    let capability = format!("{} {operator} {version}", wanted.name);
    Ok(host::ask(["rpm", "-q", "--whatprovides", capability.trim()], system)?.success())
}

/// Those for which zypper has to run.
fn due(
    args: &Args,
    wanted: &[Wanted],
    removes: bool,
    system: &mut dyn System,
) -> Result<Vec<String>, ModuleError> {
    let planned = Planned::read(MANAGER, system);
    let mut out = Vec::new();
    for one in wanted {
        let plain = args.r#type == "package" && !one.file;
        let operand = format!("{}{}", one.name, one.version.as_deref().unwrap_or_default());
        let there = plain && is_installed(one, &planned, system)?;
        let act = match (removes, plain) {
            (_, false) => true,
            (true, _) => there,
            (false, _) => !there || args.state == "latest" || args.force,
        };
        if act {
            out.push(operand);
        }
    }
    Ok(out)
}

fn failure(what: &str, command: &Command, output: &Output) -> ModuleError {
    ModuleError {
        message: format!("{what}: {}", complaint(output)),
        ..ModuleError::command("", command, output)
    }
}

fn transact(
    args: &Args,
    verb: &[&str],
    operands: &[String],
    outcome: Outcome,
    system: &mut dyn System,
) -> Result<Outcome, ModuleError> {
    let planned = Planned::read(MANAGER, system);
    // What only this dry run has brought, zypper does not know of.
    let (recorded, known): (Vec<String>, Vec<String>) = operands
        .iter()
        .cloned()
        .partition(|name| verb[0] == "remove" && matches!(planned.of(name), Some(Some(_))));
    let rehearsal: Vec<&str> = verb.iter().copied().chain(["--dry-run"]).collect();
    let rehearsal = zypper(args, &rehearsal, &known)?;
    let simulated = if known.is_empty() && !recorded.is_empty() {
        Output::default()
    } else {
        system.query(&rehearsal)?
    };
    // 104: nothing provides what is to be removed.
    let nothing = verb[0] == "remove" && simulated.code == 104;
    if !succeeded(args, simulated.code) && !nothing {
        if args.simple_errors {
            return Err(ModuleError::new(complaint(&simulated)));
        }
        return Err(failure(
            &format!("Zypper {} command failed with return code {}", verb[0], simulated.code),
            &rehearsal,
            &simulated,
        ));
    }
    let mut steps = plan(&simulated.stdout_text());
    let version = |value: &Value| (!value.is_null()).then(|| value.to_text());
    steps.retain(|step| planned.of(&step.0) != Some(version(&step.2).as_deref()));
    steps.extend(recorded.iter().map(|name| {
        let before = planned.of(name).flatten().map(String::from);
        (name.clone(), before.into(), Value::Null)
    }));
    if steps.is_empty() {
        return Ok(outcome);
    }
    let side = |pick: fn(&(String, Value, Value)) -> &Value| -> Map {
        steps.iter().map(|step| (step.0.as_str().into(), pick(step).clone())).collect()
    };
    let intent = Intent {
        kind: "package",
        id: steps.iter().map(|step| step.0.as_str()).collect::<Vec<_>>().join(" "),
        before: side(|step| &step.1).into(),
        after: side(|step| &step.2).into(),
        effects: vec![
            Effect::Anything,
            planned.effect(MANAGER, steps.iter().map(|step| (step.0.clone(), version(&step.2)))),
        ],
        ..Intent::default()
    };
    let command = zypper(args, verb, operands)?;
    let output = match system.change(&command, intent)? {
        Done::Recorded => simulated,
        Done::Made(output) if succeeded(args, output.code) => output,
        Done::Made(output) => {
            return Err(failure(
                &format!("Zypper {} command failed with return code {}", verb[0], output.code),
                &command,
                &output,
            ));
        }
    };
    Ok(outcome
        .set("rc", output.code)
        .set("stdout", output.stdout_text())
        .set("stderr", output.stderr_text())
        .set("cmd", command.line()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::fake::Fake;

    const PLAN: &str = "<?xml version='1.0'?>\n<stream>\n<install-summary packages-to-change=\"2\">\n<to-install>\n<solvable type=\"package\" name=\"c\" edition=\"1.0-1\" arch=\"noarch\"/>\n</to-install>\n<to-upgrade>\n<solvable type=\"package\" name=\"a\" edition=\"2-1\" arch=\"noarch\" edition-old=\"1-1\" arch-old=\"noarch\"/></to-upgrade>\n</install-summary></stream>";

    #[test]
    fn answers_are_read() {
        assert_eq!(
            format!("{:?}", plan(PLAN)),
            format!(
                "{:?}",
                [
                    ("c".to_string(), Value::Null, Value::from("1.0-1")),
                    ("a".to_string(), "1-1".into(), "2-1".into())
                ]
            )
        );
        for (text, name, version, removes, file) in [
            ("a", "a", None, false, false),
            ("a>=1.2", "a", Some(">=1.2"), false, false),
            ("-a", "a", None, true, false),
            ("+a=1", "a", Some("=1"), false, false),
            ("/tmp/a=b.rpm", "/tmp/a=b.rpm", None, false, true),
        ] {
            let expected = Wanted { name: name.into(), version: version.map(String::from), removes, file };
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn zypper_runs_only_if_something_differs() {
        let base = "zypper --non-interactive --quiet --xmlout";
        for (given, expected) in [
            (vec![("name", "a")], None),
            (vec![("name", "c")], Some(format!("{base} install --type package --auto-agree-with-licenses --no-recommends -- c"))),
            (vec![("name", "c"), ("state", "absent")], None),
            (vec![("name", "a,c"), ("state", "absent"), ("clean_deps", "yes")],
                Some(format!("{base} remove --type package --clean-deps -- a"))),
            (vec![("name", "*"), ("state", "latest")],
                Some(format!("{base} update --type package --auto-agree-with-licenses --no-recommends"))),
            (vec![("name", "a"), ("state", "latest"), ("disable_recommends", "no"), ("quiet", "no")],
                Some("zypper --non-interactive --xmlout install --type package --auto-agree-with-licenses -- a".into())),
        ] {
            let mut fake = Fake::new()
                .with_program("/usr/bin/zypper")
                .with_command_prefix(&["zypper"], Output::ok(PLAN))
                .with_command_prefix(&["rpm"], Output::fails(1, "no package"))
                .with_command(&["rpm", "-q", "--whatprovides", "a"], Output::ok("a-1-1"));
            call(&MODULE, &map_of(given.clone()).into(), &mut fake).expect("it works");
            let acted = fake.log().iter().find_map(|line| line.strip_prefix("! "));
            assert_eq!(acted.map(String::from), expected, "{given:?}");
        }
        let mut fake = Fake::new()
            .with_program("/usr/bin/zypper")
            .with_command_prefix(
                &["zypper"],
                Output {
                    code: 104,
                    stdout: b"<message type=\"error\">No provider of 'x' found.</message>".to_vec(),
                    stderr: Vec::new(),
                },
            )
            .with_command_prefix(&["rpm"], Output::fails(1, ""));
        let error = call(&MODULE, &map_of([("name", "x"), ("simple_errors", "yes")]).into(), &mut fake);
        assert_eq!(error.expect_err("unknown"), "No provider of 'x' found.");
    }
}
