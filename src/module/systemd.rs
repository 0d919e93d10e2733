//! `systemd_service` (`systemd`): units of systemd.

use std::path::Path;
use std::time::SystemTime;

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, clock, facts, host, typed};
use crate::system::{Applied, Command, Done, Intent, Output, System};
use crate::value::{Map, Value, map_of};

/// Manages units of systemd.
pub const MODULE: Module = Module {
    name: "ansible.builtin.systemd_service",
    aliases: &["ansible.builtin.systemd"],
    summary: "Start, stop, enable, mask units of systemd",
    description: "A daemon-reload is made only if a unit file, a directory of units or another input of systemd is \
        newer than what systemd has loaded; as it is no change of its own, the task reports none for it. In check \
        mode a unit whose file an earlier task would bring counts as there.",
    example: "- name: Run the application from now on\n  ansible.builtin.systemd_service:\n    name: app\n    state: started\n    enabled: true\n    daemon_reload: true\n",
    scope: Scope::Host,
    params: PARAMS,
    rules: &[
        Rule::RequiredOneOf(&["state", "enabled", "masked", "daemon_reload", "daemon_reexec"]),
        Rule::RequiredBy { param: "state", needs: &["name"] },
        Rule::RequiredBy { param: "enabled", needs: &["name"] },
        Rule::RequiredBy { param: "masked", needs: &["name"] },
    ],
    returns: &[
        ("name", "Name of the unit."),
        ("status", "Properties of the unit before the task, as `systemctl show` prints them."),
        ("enabled", "Whether it is started at boot."),
        ("state", "The state that it was brought to."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

const PARAMS: &[Param] =
    &[
        Param::new("name", Type::Str, "Name of the unit; `.service` may be left out.")
            .aliases(&["service", "unit"]),
        Param::new("state", Type::Str, "The state to reach. `restarted` and `reloaded` always act.")
            .choices(&["reloaded", "restarted", "started", "stopped"]),
        Param::new("enabled", Type::Bool, "Whether it is started at boot."),
        Param::new("masked", Type::Bool, "Whether it can't be started at all."),
        Param::new("force", Type::Bool, "Replace links that are in the way."),
        Param::new("daemon_reload", Type::Bool, "Let systemd read changed unit files first.")
            .aliases(&["daemon-reload"])
            .default("false"),
        Param::new("daemon_reexec", Type::Bool, "Let systemd replace itself first.")
            .aliases(&["daemon-reexec"])
            .default("false"),
        Param::new("scope", Type::Str, "Whose systemd: the system's, the user's, or that of all users.")
            .choices(&["system", "user", "global"])
            .default("system"),
        Param::new("no_block", Type::Bool, "Do not wait until it is done.").default("false"),
    ];

/// What to do, also for `service`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Args {
    pub(crate) name: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) enabled: Option<bool>,
    pub(crate) masked: Option<bool>,
    pub(crate) force: Option<bool>,
    pub(crate) daemon_reload: bool,
    pub(crate) daemon_reexec: bool,
    pub(crate) scope: String,
    pub(crate) no_block: bool,
}

/// `systemctl` with the options of a task.
struct Control {
    program: Vec<String>,
    env: Vec<(String, String)>,
}

impl Control {
    fn new(args: &Args, system: &mut dyn System) -> Result<Control, ModuleError> {
        let mut program = vec![host::need_program("systemctl", system)?];
        if args.scope != "system" && !args.scope.is_empty() {
            program.push(format!("--{}", args.scope));
        }
        if args.no_block {
            program.push("--no-block".into());
        }
        if args.force == Some(true) {
            program.push("--force".into());
        }
        let mut env = Vec::new();
        if system.env("XDG_RUNTIME_DIR").is_none() {
            env.push(("XDG_RUNTIME_DIR".into(), format!("/run/user/{}", system.whoami()?.uid)));
        }
        Ok(Control { program, env })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command =
            Command::new(self.program.iter().map(String::as_str).chain(words.iter().copied())).c_locale();
        command.env.extend(self.env.iter().cloned());
        command
    }

    fn ask(&self, words: &[&str], system: &mut dyn System) -> Result<Output, ModuleError> {
        match system.query(&self.command(words)) {
            // `systemctl` itself is what an earlier task of this dry run would install.
            Err(error) if error.is_not_found() => Ok(Output { code: 1, ..Output::default() }),
            other => Ok(other?),
        }
    }
}

/// Does the work; `service` calls it where systemd is in charge.
pub(crate) fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    if let Some(name) = &args.name
        && let Some(pattern) = ["*", "?", "["].iter().find(|pattern| name.contains(**pattern))
    {
        return Err(ModuleError::new(format!(
            "This module does not currently support using glob patterns, found '{pattern}' in service name: {name}"
        )));
    }
    let control = Control::new(args, system)?;
    let mut outcome = Outcome::default().set("name", args.name.clone()).set("status", Map::new());
    let mut quiet_changes = 0;
    if args.daemon_reload && (args.scope != "system" || reload_is_due(&control, system)?) {
        quiet_changes += 1;
        manager("daemon-reload", &control, &mut outcome, system)?;
    }
    if args.daemon_reexec {
        quiet_changes += 1;
        manager("daemon-reexec", &control, &mut outcome, system)?;
    }
    if let Some(name) = &args.name {
        unit(args, name, &control, &mut outcome, system)?;
    }
    // Reading its own files anew changes nothing that the task's user asked to be told of.
    if quiet_changes > 0 && system.changes().iter().all(|change| change.kind == "systemd") {
        outcome.changed = Some(false);
    }
    Ok(outcome)
}

/// Lets systemd do something with itself.
fn manager(
    action: &str,
    control: &Control,
    outcome: &mut Outcome,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    let command = control.command(&[action]);
    let intent = Intent {
        kind: "systemd",
        id: action.to_string(),
        after: map_of([("action", action)]).into(),
        ..Intent::default()
    };
    if let Done::Made(output) = system.change(&command, intent)?
        && !output.success()
    {
        let said = output.stderr_text();
        if !is_offline(system) {
            return Err(ModuleError::new(format!(
                "failure {} during {action}: {}",
                output.code,
                said.trim()
            )));
        }
        outcome.warnings.push(format!(
            "{action} failed, but target is a chroot or systemd is offline. Continuing. Error was: {} / {}",
            output.code,
            said.trim()
        ));
    }
    Ok(())
}

/// Whether there is no systemd to talk to, by design: a chroot, an image being built.
fn is_offline(system: &mut dyn System) -> bool {
    let set = |name: &str, system: &mut dyn System| system.env(name).unwrap_or_default();
    if set("SYSTEMD_OFFLINE", system) == "1" || !set("debian_chroot", system).is_empty() {
        return true;
    }
    let mine = system.stat_follow(Path::new("/")).ok().flatten();
    let firsts = system.stat_follow(Path::new("/proc/1/root/.")).ok().flatten();
    match (mine, firsts) {
        (Some(mine), Some(first)) => (mine.inode, mine.device) != (first.inode, first.device),
        _ => false,
    }
}

/// Directories and files that systemd and its generators read.
const INPUTS: [&str; 16] = [
    "/etc/systemd",
    "/etc/systemd/system",
    "/etc/systemd/system.conf.d",
    "/etc/systemd/system.control",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/etc/systemd/system-generators",
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/init.d",
    "/etc/rc.local",
];

/// Whether anything that systemd reads is newer than what it has loaded.
fn reload_is_due(control: &Control, system: &mut dyn System) -> Result<bool, ModuleError> {
    let output = control.ask(&["show", "--property=UnitsLoadStartTimestampMonotonic"], system)?;
    let text = output.stdout_text();
    let loaded = text.trim().split_once('=').and_then(|(_, micros)| micros.parse::<f64>().ok());
    let uptime = host::read_text("/proc/uptime", system);
    let uptime = uptime.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    let (Some(loaded), Some(uptime)) = (loaded.filter(|micros| *micros > 0.0), uptime) else {
        return Ok(true);
    };
    let (now, micros) = clock::since_epoch(SystemTime::now());
    // A margin for the coarser clock that file systems use.
    let limit = now as f64 + f64::from(micros) / 1e6 - (uptime - loaded / 1e6) - 0.1;
    for input in INPUTS {
        if newer(Path::new(input), limit, 2, system)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a file, or anything in a directory down to some depth, was changed after `limit`.
fn newer(path: &Path, limit: f64, depth: u32, system: &mut dyn System) -> Result<bool, ModuleError> {
    let Some(stat) = system.stat_follow(path)? else { return Ok(false) };
    if stat.ctime.max(stat.mtime) >= limit {
        return Ok(true);
    }
    if stat.kind == crate::system::FileKind::Directory && depth > 0 {
        for name in system.list(path)? {
            if newer(&path.join(name), limit, depth - 1, system)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Properties as `systemctl show` prints them; `Exec…={ … }` may go over several lines.
fn parse_show(text: &str) -> Map {
    let mut out = Map::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        if let Some((name, value)) = &mut open {
            value.push('\n');
            value.push_str(line);
            if line.trim_end().ends_with('}') {
                out.insert(name.as_str().into(), value.trim().into());
                open = None;
            }
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { continue };
        if name.starts_with("Exec") && value.trim_start().starts_with('{') && !value.trim_end().ends_with('}')
        {
            open = Some((name.to_string(), value.to_string()));
        } else {
            out.insert(name.into(), value.trim().into());
        }
    }
    out
}

/// A unit's name with its kind.
fn full_name(name: &str) -> String {
    let suffixes =
        [".service", ".socket", ".timer", ".mount", ".target", ".path", ".slice", ".device", ".swap"];
    if suffixes.iter().any(|suffix| name.ends_with(suffix)) {
        name.to_string()
    } else {
        format!("{name}.service")
    }
}

/// Whether a unit's file is there although systemd does not know it yet (an earlier task brought it).
fn file_is_there(name: &str, system: &mut dyn System) -> Result<bool, ModuleError> {
    let full = full_name(name);
    let template =
        full.split_once('@').and_then(|(base, rest)| Some(format!("{base}@.{}", rest.rsplit_once('.')?.1)));
    for directory in [
        "/etc/systemd/system",
        "/run/systemd/system",
        "/usr/local/lib/systemd/system",
        "/usr/lib/systemd/system",
        "/lib/systemd/system",
    ] {
        for file in [Some(&full), template.as_ref()].into_iter().flatten() {
            if system.stat_follow(&Path::new(directory).join(file))?.is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// What is known of a unit before the task.
struct Known {
    status: Map,
    is_there: bool,
    /// It exists only as an init script.
    is_script: bool,
}

fn look(name: &str, control: &Control, system: &mut dyn System) -> Result<Known, ModuleError> {
    let is_script = !name.contains('/') && host::exists(format!("/etc/init.d/{name}"), system)?;
    let output = control.ask(&["show", name], system)?;
    let said = output.stdout_text() + &output.stderr_text();
    let ignored = said.contains("ignoring request") || said.contains("ignoring command");
    if output.success() && !ignored {
        let status = parse_show(&output.stdout_text());
        let load = status.get("LoadState").and_then(Value::as_str).unwrap_or("not-found");
        if let Some(problem) = status.get("LoadError").filter(|_| load != "not-found" && load != "masked") {
            return Err(ModuleError::new(format!("Error loading unit file '{name}': {}", problem.to_text())));
        }
        let is_unit = load != "not-found" || file_is_there(name, system)?;
        return Ok(Known { is_there: is_unit || is_script, is_script: is_script && !is_unit, status });
    }
    // No systemd to ask: its tool still knows files.
    let enabled = control.ask(&["is-enabled", name], system)?;
    let states = [
        "enabled",
        "enabled-runtime",
        "linked",
        "linked-runtime",
        "masked",
        "masked-runtime",
        "static",
        "indirect",
        "disabled",
        "generated",
        "transient",
    ];
    let is_unit = states.contains(&enabled.stdout_text().trim())
        || control.ask(&["list-unit-files", name], system)?.success()
        || file_is_there(name, system)?;
    Ok(Known { is_there: is_unit || is_script, is_script: is_script && !is_unit, status: Map::new() })
}

/// The properties of a unit that were left, as they are now; `Null` if there is no such unit.
pub(super) fn observe(id: &str, left: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    if facts::service_manager("", system) != "systemd" {
        return super::service::observe(id, left, system);
    }
    if id.ends_with(')') {
        return Err(ModuleError::new("units of users can't be told without the playbook"));
    }
    let args = Args { scope: "system".into(), ..Args::default() };
    let control = Control::new(&args, system)?;
    let known = look(id, &control, system)?;
    if !known.is_there {
        return Ok(Value::Null);
    }
    let load = known.status.get("LoadState").and_then(Value::as_str).unwrap_or_default();
    let active = known.status.get("ActiveState").and_then(Value::as_str).unwrap_or_default();
    let mut state = Map::new();
    if left.get("masked").is_some() {
        state.insert("masked".into(), (load == "masked").into());
    }
    if left.get("enabled").is_some() {
        state.insert("enabled".into(), is_enabled(&args, id, &known, &control, system)?.into());
    }
    if left.get("state").is_some() {
        let running = ["active", "activating", "reloading"].contains(&active);
        state.insert("state".into(), if running { "started" } else { "stopped" }.into());
    }
    Ok(state.into())
}

fn missing(name: &str) -> ModuleError {
    ModuleError::new(format!("Could not find the requested service {name}: host"))
}

fn unit(
    args: &Args,
    name: &str,
    control: &Control,
    outcome: &mut Outcome,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    let known = look(name, control, system)?;
    outcome.values.insert("status".into(), known.status.clone().into());
    if known.is_script {
        outcome.warnings.push(format!(
            "The service ({name}) is actually an init script but the system is managed by systemd"
        ));
    }
    let mut managed = Map::new();
    if let Some(masked) = args.masked {
        mask(args, name, masked, &known, control, system)?;
        managed.insert("masked".into(), masked.into());
    }
    if args.enabled.is_some() || args.state.is_some() {
        // In a dry run, a package that would be installed may bring the unit.
        if !known.is_there && system.uncertain().is_none() {
            return Err(missing(name));
        }
    }
    if let Some(enabled) = args.enabled {
        enable(args, name, enabled, &known, control, system)?;
        outcome.values.insert("enabled".into(), enabled.into());
        managed.insert("enabled".into(), enabled.into());
    }
    if let Some(state) = &args.state {
        let reached = bring(name, state, &known, control, outcome, system)?;
        outcome.values.insert("state".into(), reached.into());
        managed.insert("state".into(), reached.into());
    }
    if !managed.is_empty() {
        let id = match args.scope.as_str() {
            "system" | "" => name.to_string(),
            scope => format!("{name} ({scope})"),
        };
        system.applied(Applied { kind: "service".into(), id, state: managed.into() });
    }
    Ok(())
}

fn act(
    action: &str,
    name: &str,
    property: (&str, Value, Value),
    undo: Option<&str>,
    control: &Control,
    system: &mut dyn System,
) -> Result<Option<Output>, ModuleError> {
    let (key, before, after) = property;
    let intent = Intent {
        kind: "service",
        id: name.to_string(),
        before: map_of([(key, before)]).into(),
        after: map_of([(key, after)]).into(),
        undo: undo.map(|undo| control.command(&[undo, name])),
        ..Intent::default()
    };
    match system.change(&control.command(&[action, name]), intent)? {
        Done::Made(output) if !output.success() => Ok(Some(output)),
        _ => Ok(None),
    }
}

fn mask(
    args: &Args,
    name: &str,
    wanted: bool,
    known: &Known,
    control: &Control,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    let output = control.ask(&["is-enabled", name], system)?;
    let masked = output.stdout_text().trim() == "masked";
    if masked == wanted {
        return Ok(());
    }
    if wanted && matches!(args.scope.as_str(), "system" | "") {
        let file = Path::new("/etc/systemd/system").join(full_name(name));
        if system.stat(&file)?.is_some_and(|stat| stat.kind == crate::system::FileKind::File) {
            return Err(ModuleError::new(format!(
                "Failed to mask the service ({name}): {} is a file, which systemd does not replace by its link",
                file.display()
            )));
        }
    }
    let (action, undo) = if wanted { ("mask", "unmask") } else { ("unmask", "mask") };
    let property = ("masked", masked.into(), wanted.into());
    if let Some(output) = act(action, name, property, Some(undo), control, system)? {
        if !known.is_there {
            return Err(missing(name));
        }
        return Err(ModuleError::new(format!(
            "Failed to {action} the service ({name}): {}",
            output.stderr_text().trim()
        )));
    }
    Ok(())
}

/// Whether a unit is started at boot.
fn is_enabled(
    args: &Args,
    name: &str,
    known: &Known,
    control: &Control,
    system: &mut dyn System,
) -> Result<bool, ModuleError> {
    let output = control.ask(&["is-enabled", name, "-l"], system)?;
    let text = output.stdout_text();
    let first = text.lines().next().unwrap_or_default().trim();
    Ok(if output.success() {
        // An indirect unit or an alias is enabled if links follow that say by what.
        let linked = text.lines().nth(1).is_some_and(|line| !line.trim().is_empty());
        first != "enabled-runtime" && (linked || !["indirect", "alias"].contains(&first))
    } else {
        let started_by_script = || host::expand_pattern(&format!("/etc/rc?.d/S??{name}"), system);
        args.scope == "system"
            && !text.trim().ends_with("disabled")
            && host_has_script(known, started_by_script)?
    })
}

fn enable(
    args: &Args,
    name: &str,
    wanted: bool,
    known: &Known,
    control: &Control,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    let enabled = is_enabled(args, name, known, control, system)?;
    if enabled == wanted {
        return Ok(());
    }
    let (action, undo) = if wanted { ("enable", "disable") } else { ("disable", "enable") };
    let property = ("enabled", enabled.into(), wanted.into());
    if let Some(output) = act(action, name, property, Some(undo), control, system)? {
        return Err(ModuleError::new(format!(
            "Unable to {action} service {name}: {}{}",
            output.stdout_text(),
            output.stderr_text()
        )));
    }
    Ok(())
}

/// Whether the unit is an init script that the run levels start.
fn host_has_script(
    known: &Known,
    links: impl FnOnce() -> Result<Vec<std::path::PathBuf>, ModuleError>,
) -> Result<bool, ModuleError> {
    Ok(known.is_script && !links()?.is_empty())
}

fn bring<'a>(
    name: &str,
    wanted: &'a str,
    known: &Known,
    control: &Control,
    outcome: &mut Outcome,
    system: &mut dyn System,
) -> Result<&'a str, ModuleError> {
    let active = known.status.get("ActiveState").and_then(Value::as_str).map(ToString::to_string);
    let reached = if wanted == "stopped" { "stopped" } else { "started" };
    let Some(active) = active.or_else(|| system.uncertain().map(|_| "inactive".into())) else {
        if is_offline(system) {
            outcome.warnings.push(
                "Target is a chroot or systemd is offline. This can lead to false positives or prevent the init system tools from working."
                    .into(),
            );
            return Ok(wanted);
        }
        return Err(ModuleError::new("Service is in unknown state").with("status", known.status.clone()));
    };
    let running = ["active", "activating"].contains(&active.as_str());
    let (action, undo) = match wanted {
        "started" if running => return Ok(reached),
        "stopped" if !running && active != "deactivating" => return Ok(reached),
        "stopped" => ("stop", Some("start")),
        "restarted" if running => ("restart", None),
        "reloaded" if running => ("reload", None),
        _ => ("start", Some("stop")),
    };
    let property = ("state", Value::from(active), wanted.into());
    if let Some(output) = act(action, name, property, undo, control, system)? {
        return Err(ModuleError::new(format!("Unable to {action} service {name}: {}", output.stderr_text())));
    }
    Ok(reached)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::args::check;
    use crate::system::fake::Fake;
    use crate::system::recorder::Recorder;

    const SHOW: &[&str] = &["/usr/bin/systemctl", "show", "app"];

    fn machine(load: &str, active: &str, enabled: (i32, &str)) -> Fake {
        let shown = format!(
            "LoadState={load}\nActiveState={active}\nExecStart={{ path=/x ; argv[]=/x\nmore }}\nId=app.service\n"
        );
        let output =
            Output { code: enabled.0, stdout: format!("{}\n", enabled.1).into_bytes(), stderr: Vec::new() };
        Fake::new()
            .with_program("/usr/bin/systemctl")
            .with_command_prefix(&["/usr/bin/systemctl"], Output::ok(""))
            .with_command(SHOW, Output::ok(&shown))
            .with_command_prefix(&["/usr/bin/systemctl", "is-enabled", "app"], output)
    }

    fn task(given: &[(&str, &str)], system: &mut dyn System) -> Result<Outcome, String> {
        let args = check(&MODULE, &map_of(given.iter().copied()), &|_| true).expect("valid");
        (MODULE.run)(args, system).map_err(|error| error.message)
    }

    #[test]
    fn only_what_differs_is_done() {
        type Row = (
            &'static str,
            &'static str,
            (i32, &'static str),
            &'static [(&'static str, &'static str)],
            &'static [&'static str],
        );
        let table: &[Row] = &[
            ("loaded", "active", (0, "enabled"), &[("state", "started"), ("enabled", "yes")], &[]),
            (
                "loaded",
                "inactive",
                (1, "disabled"),
                &[("state", "started"), ("enabled", "yes")],
                &["enable", "start"],
            ),
            ("loaded", "failed", (0, "static"), &[("state", "started"), ("enabled", "yes")], &["start"]),
            (
                "loaded",
                "active",
                (0, "enabled"),
                &[("state", "stopped"), ("enabled", "no")],
                &["disable", "stop"],
            ),
            ("loaded", "inactive", (1, "disabled"), &[("state", "stopped"), ("enabled", "no")], &[]),
            ("loaded", "deactivating", (1, "disabled"), &[("state", "stopped")], &["stop"]),
            ("loaded", "active", (0, "enabled"), &[("state", "restarted")], &["restart"]),
            ("loaded", "inactive", (0, "enabled"), &[("state", "restarted")], &["start"]),
            ("loaded", "active", (0, "enabled"), &[("state", "reloaded")], &["reload"]),
            ("loaded", "active", (0, "indirect"), &[("enabled", "yes")], &["enable"]),
            (
                "loaded",
                "active",
                (0, "indirect\n  /etc/systemd/system/x.wants/y"),
                &[("enabled", "yes")],
                &[],
            ),
            ("masked", "inactive", (1, "masked"), &[("masked", "no")], &["unmask"]),
            ("masked", "inactive", (1, "masked"), &[("masked", "yes")], &[]),
        ];
        for (load, active, enabled, given, actions) in table {
            let mut fake = machine(load, active, *enabled);
            let given: Vec<_> = [("name", "app")].into_iter().chain(given.iter().copied()).collect();
            task(&given, &mut fake).expect("it works");
            let acted: Vec<&str> = fake.log().iter().filter_map(|line| line.strip_prefix("! ")).collect();
            let expected: Vec<String> =
                actions.iter().map(|action| format!("/usr/bin/systemctl {action} app")).collect();
            assert_eq!(acted, expected, "{load} {active} {enabled:?} {given:?}");
            assert_eq!(fake.changes().len(), actions.len());
            assert_eq!(fake.applied_so_far().len(), 1);
        }
    }

    #[test]
    fn a_missing_unit_fails_unless_it_may_come() {
        let given = [("name", "app"), ("state", "started")];
        let missing = || machine("not-found", "inactive", (1, ""));
        let message = task(&given, &mut missing()).expect_err("not there");
        assert_eq!(message, "Could not find the requested service app: host");
        // An earlier task brings the unit's file.
        let mut with_file = missing().with_file("/etc/systemd/system/app.service", "[Unit]\n");
        task(&given, &mut with_file).expect("its file is there");
        // An earlier task of a dry run would install a package.
        let mut dry = Recorder::new(missing());
        let intent =
            Intent { kind: "package", effects: vec![crate::system::Effect::Anything], ..Intent::default() };
        dry.change(&Command::new(["apt-get", "install", "app"]), intent).expect("recorded");
        dry.take();
        task(&given, &mut dry).expect("it may come");
        assert_eq!(dry.changes().len(), 1);
    }

    #[test]
    fn a_unit_that_somebody_wrote_is_not_masked_in_a_dry_run_either() {
        let with_file = || {
            machine("loaded", "inactive", (1, "disabled"))
                .with_file("/etc/systemd/system/app.service", "[Unit]\n")
        };
        let given = [("name", "app"), ("masked", "true")];
        for message in [task(&given, &mut with_file()), task(&given, &mut Recorder::new(with_file()))] {
            let message = message.expect_err("refused");
            assert!(message.starts_with("Failed to mask the service (app): "), "{message}");
        }
    }

    #[test]
    fn reload_is_made_only_for_newer_files() {
        let unit = Path::new("/etc/systemd/system/app.service");
        let mut fake = Fake::new().with_file("/etc/systemd/system/app.service", "[Unit]\n");
        for (path, limit, expected) in [
            (unit, f64::MAX, false),
            (unit, f64::MIN, true),
            (Path::new("/etc/systemd"), f64::MAX, false),
            (Path::new("/etc/gone"), f64::MIN, false),
        ] {
            assert_eq!(newer(path, limit, 2, &mut fake).expect("readable"), expected, "{path:?} {limit}");
        }
        // A systemd that does not tell when it loaded its units is told to load them.
        let mut fake = machine("loaded", "active", (0, "enabled"));
        let outcome = task(&[("daemon_reload", "yes")], &mut fake).expect("it works");
        assert_eq!(fake.log().last().map(String::as_str), Some("! /usr/bin/systemctl daemon-reload"));
        assert_eq!((fake.changes().len(), outcome.changed), (1, Some(false)));
    }

    #[test]
    fn properties_are_parsed() {
        let shown = parse_show("A=1\nExecStart={ path=/x ;\n more }\nB=x=y\nExecStop={ one }\nC=\n");
        assert_eq!(
            Value::map(shown).repr(),
            "{'A': '1', 'ExecStart': '{ path=/x ;\\n more }', 'B': 'x=y', 'ExecStop': '{ one }', 'C': ''}"
        );
    }
}
