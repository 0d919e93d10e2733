//! `service`: services, whatever manages them: systemd, OpenRC or init scripts.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, facts, host, systemd, typed};
use crate::system::{Applied, Command, Done, Intent, Output, System};
use crate::value::{Map, Value, map_of};

/// Manages services.
pub const MODULE: Module = Module {
    name: "ansible.builtin.service",
    aliases: &["ansible.builtin.sysvinit", "community.general.openrc"],
    summary: "Start, stop, enable services",
    description: "Uses systemd where it is in charge (and then takes the parameters of `systemd_service` too), else \
        OpenRC, else init scripts.",
    example: "- name: The web server runs, now and after a reboot\n  ansible.builtin.service:\n    name: nginx\n    state: started\n    enabled: true\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name of the service.").required().aliases(&["service", "unit"]),
        Param::new("state", Type::Str, "The state to reach. `restarted` and `reloaded` always act.")
            .choices(&["reloaded", "restarted", "started", "stopped"]),
        Param::new("enabled", Type::Bool, "Whether it is started at boot."),
        Param::new("arguments", Type::Str, "Arguments for the init script.").aliases(&["args"]).default(""),
        Param::new("pattern", Type::Str, "Text in the list of processes by which to see that it runs."),
        Param::new("sleep", Type::Int, "Seconds between stop and start of a restart."),
        Param::new(
            "daemonize",
            Type::Bool,
            "With init scripts; has no effect: what a script leaves running is never waited for.",
        )
        .default("false"),
        Param::new("runlevel", Type::Str, "Run level of OpenRC in which it is started.").default("default"),
        Param::new("runlevels", Type::List, "Run levels in which an init script is started."),
        Param::new("use", Type::Str, "What manages the service, instead of what is found.").default("auto"),
        Param::new("masked", Type::Bool, "With systemd: whether it can't be started at all."),
        Param::new("force", Type::Bool, "With systemd: replace links that are in the way."),
        Param::new("daemon_reload", Type::Bool, "With systemd: read changed unit files first.")
            .aliases(&["daemon-reload"])
            .default("false"),
        Param::new("daemon_reexec", Type::Bool, "With systemd: let it replace itself first.")
            .aliases(&["daemon-reexec"])
            .default("false"),
        Param::new("scope", Type::Str, "With systemd: whose systemd.")
            .choices(&["system", "user", "global"])
            .default("system"),
        Param::new("no_block", Type::Bool, "With systemd: do not wait until it is done.").default("false"),
    ],
    returns: &[
        ("name", "Name of the service."),
        ("state", "The state that it was brought to."),
        ("enabled", "Whether it is started at boot."),
        ("status", "With systemd: properties of the unit before the task."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    state: Option<String>,
    enabled: Option<bool>,
    arguments: String,
    pattern: Option<String>,
    sleep: Option<u64>,
    runlevel: String,
    #[serde(deserialize_with = "host::optional_texts")]
    runlevels: Option<Vec<String>>,
    #[serde(rename = "use")]
    manager: String,
    masked: Option<bool>,
    force: Option<bool>,
    daemon_reload: bool,
    daemon_reexec: bool,
    scope: String,
    no_block: bool,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    if args.state.is_none() && args.enabled.is_none() && args.masked.is_none() && !args.daemon_reload {
        return Err(ModuleError::new("one of the following is required: enabled, state"));
    }
    let manager = match args.manager.rsplit('.').next().unwrap_or("auto") {
        "auto" | "" => facts::service_manager("", system),
        named => named.to_string(),
    };
    let manager: &dyn Manager = match manager.as_str() {
        "systemd" | "systemd_service" => return with_systemd(args, system),
        "openrc" => &OpenRc,
        _ => &Scripts,
    };
    if args.masked.is_some() {
        return Err(ModuleError::new(
            "Unsupported parameters for (service) module: masked: only systemd can mask",
        ));
    }
    without_systemd(args, manager, system)
}

fn with_systemd(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let wanted = systemd::Args {
        name: Some(args.name.clone()),
        state: args.state.clone(),
        enabled: args.enabled,
        masked: args.masked,
        force: args.force,
        daemon_reload: args.daemon_reload,
        daemon_reexec: args.daemon_reexec,
        scope: args.scope.clone(),
        no_block: args.no_block,
    };
    systemd::run(&wanted, system)
}

/// A manager of services other than systemd.
trait Manager {
    /// Whether the service exists.
    fn is_there(&self, name: &str, system: &mut dyn System) -> Result<bool, ModuleError>;
    /// Whether it runs; `None` if it does not tell.
    fn is_running(&self, name: &str, system: &mut dyn System) -> Result<Option<bool>, ModuleError>;
    /// Whether it is started at boot.
    fn is_enabled(&self, args: &Args, system: &mut dyn System) -> Result<bool, ModuleError>;
    /// The command for `start`, `stop`, `restart`, `reload`.
    fn action(&self, args: &Args, action: &str, system: &mut dyn System) -> Result<Command, ModuleError>;
    /// The commands that make it start at boot, or not.
    fn enabling(
        &self,
        args: &Args,
        enable: bool,
        system: &mut dyn System,
    ) -> Result<Vec<Command>, ModuleError>;
}

fn without_systemd(
    args: &Args,
    manager: &dyn Manager,
    system: &mut dyn System,
) -> Result<Outcome, ModuleError> {
    let mut outcome = Outcome::default().set("name", args.name.as_str());
    if !manager.is_there(&args.name, system)? && system.uncertain().is_none() {
        return Err(ModuleError::new(format!("Could not find the requested service {}: host", args.name)));
    }
    let mut managed = Map::new();
    if let Some(wanted) = args.enabled {
        let enabled = manager.is_enabled(args, system)?;
        if enabled != wanted {
            for command in manager.enabling(args, wanted, system)? {
                act(&command, args, ("enabled", enabled.into(), wanted.into()), system)?;
            }
        }
        outcome = outcome.set("enabled", wanted);
        managed.insert("enabled".into(), wanted.into());
    }
    if let Some(wanted) = &args.state {
        let running = match &args.pattern {
            Some(pattern) => Some(process_matches(pattern, system)?),
            None => manager.is_running(&args.name, system)?,
        };
        for action in actions(wanted, running, args.sleep.is_some()) {
            if *action == "start"
                && wanted == "restarted"
                && let Some(seconds) = args.sleep
            {
                system.query(&Command::new(["sleep".to_string(), seconds.to_string()]))?;
            }
            let command = manager.action(args, action, system)?;
            let before = match running {
                Some(true) => "started".into(),
                Some(false) => "stopped".into(),
                None => Value::Null,
            };
            act(&command, args, ("state", before, wanted.as_str().into()), system)?;
        }
        let reached = if wanted == "stopped" { "stopped" } else { "started" };
        outcome = outcome.set("state", reached);
        managed.insert("state".into(), reached.into());
    }
    system.applied(Applied { kind: "service".into(), id: args.name.clone(), state: managed.into() });
    Ok(outcome)
}

/// The properties of a service that were left, as they are now, where there is no systemd.
pub(super) fn observe(id: &str, left: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    let manager: &dyn Manager =
        if facts::service_manager("", system) == "openrc" { &OpenRc } else { &Scripts };
    if !manager.is_there(id, system)? {
        return Ok(Value::Null);
    }
    let args = Args { name: id.to_string(), runlevel: "default".into(), ..Args::default() };
    let mut state = Map::new();
    if left.get("enabled").is_some() {
        state.insert("enabled".into(), manager.is_enabled(&args, system)?.into());
    }
    if left.get("state").is_some() {
        let Some(running) = manager.is_running(id, system)? else {
            return Err(ModuleError::new("the service does not tell whether it runs"));
        };
        state.insert("state".into(), if running { "started" } else { "stopped" }.into());
    }
    Ok(state.into())
}

fn actions(wanted: &str, running: Option<bool>, in_steps: bool) -> &'static [&'static str] {
    match (wanted, running) {
        ("started", Some(true)) | ("stopped", Some(false)) => &[],
        ("started", _) => &["start"],
        ("stopped", _) => &["stop"],
        (_, Some(false)) => &["start"],
        ("restarted", _) if in_steps => &["stop", "start"],
        ("restarted", _) => &["restart"],
        _ => &["reload"],
    }
}

fn act(
    command: &Command,
    args: &Args,
    property: (&str, Value, Value),
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    let (key, before, after) = property;
    let intent = Intent {
        kind: "service",
        id: args.name.clone(),
        before: map_of([(key, before)]).into(),
        after: map_of([(key, after)]).into(),
        ..Intent::default()
    };
    match system.change(command, intent)? {
        Done::Made(output) if !output.success() => {
            Err(ModuleError::command(format!("Unable to change service {}", args.name), command, &output))
        }
        _ => Ok(()),
    }
}

fn process_matches(pattern: &str, system: &mut dyn System) -> Result<bool, ModuleError> {
    for name in system.list("/proc".as_ref())? {
        let name = name.to_string_lossy().into_owned();
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            let line = system.read(format!("/proc/{name}/cmdline").as_ref()).unwrap_or_default();
            if String::from_utf8_lossy(&line).replace('\0', " ").contains(pattern) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

struct OpenRc;

impl Manager for OpenRc {
    fn is_there(&self, name: &str, system: &mut dyn System) -> Result<bool, ModuleError> {
        host::exists(format!("/etc/init.d/{name}"), system)
    }

    fn is_running(&self, name: &str, system: &mut dyn System) -> Result<Option<bool>, ModuleError> {
        let output = host::ask(["rc-service", name, "status"], system)?;
        let text = output.stdout_text() + &output.stderr_text();
        Ok(Some(text.contains("started") && !text.contains("crashed")))
    }

    fn is_enabled(&self, args: &Args, system: &mut dyn System) -> Result<bool, ModuleError> {
        let output = host::ask(["rc-update", "show", &args.runlevel], system)?;
        let text = output.stdout_text();
        Ok(text.lines().any(|line| line.split('|').next().map(str::trim) == Some(args.name.as_str())))
    }

    fn action(&self, args: &Args, action: &str, system: &mut dyn System) -> Result<Command, ModuleError> {
        let program = host::need_program("rc-service", system)?;
        Ok(Command::new([program.as_str(), &args.name, action]))
    }

    fn enabling(
        &self,
        args: &Args,
        enable: bool,
        system: &mut dyn System,
    ) -> Result<Vec<Command>, ModuleError> {
        let program = host::need_program("rc-update", system)?;
        let action = if enable { "add" } else { "delete" };
        Ok(vec![Command::new([program.as_str(), action, &args.name, &args.runlevel])])
    }
}

struct Scripts;

impl Manager for Scripts {
    fn is_there(&self, name: &str, system: &mut dyn System) -> Result<bool, ModuleError> {
        Ok(host::exists(format!("/etc/init.d/{name}"), system)?
            || host::exists(format!("/etc/init/{name}.conf"), system)?
            || host::exists(format!("/etc/rc.d/init.d/{name}"), system)?)
    }

    fn is_running(&self, name: &str, system: &mut dyn System) -> Result<Option<bool>, ModuleError> {
        let output = match host::find_program("service", system)? {
            Some(program) => host::ask([program.to_string_lossy().as_ref(), name, "status"], system)?,
            None => host::ask([format!("/etc/init.d/{name}").as_str(), "status"], system)?,
        };
        Ok(read_status(&output))
    }

    fn is_enabled(&self, args: &Args, system: &mut dyn System) -> Result<bool, ModuleError> {
        for level in levels(args) {
            for base in ["/etc/rc", "/etc/rc.d/rc"] {
                if !host::expand_pattern(&format!("{base}{level}.d/S??{}", args.name), system)?.is_empty() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn action(&self, args: &Args, action: &str, system: &mut dyn System) -> Result<Command, ModuleError> {
        let mut argv = match host::find_program("service", system)? {
            Some(program) => {
                vec![program.to_string_lossy().into_owned(), args.name.clone(), action.to_string()]
            }
            None => vec![format!("/etc/init.d/{}", args.name), action.to_string()],
        };
        argv.extend(host::split_words(&args.arguments).map_err(ModuleError::new)?);
        Ok(Command::new(argv))
    }

    fn enabling(
        &self,
        args: &Args,
        enable: bool,
        system: &mut dyn System,
    ) -> Result<Vec<Command>, ModuleError> {
        let name = args.name.as_str();
        if let Some(program) = host::find_program("update-rc.d", system)? {
            let program = program.to_string_lossy().into_owned();
            let command =
                |words: &[&str]| Command::new([&program, name].into_iter().chain(words.iter().copied()));
            return Ok(match (&args.runlevels, enable) {
                (Some(levels), enable) => {
                    let levels: Vec<&str> = levels.iter().map(String::as_str).collect();
                    let action = if enable { "enable" } else { "disable" };
                    vec![command(&["defaults"]), command(&[&[action], &levels[..]].concat())]
                }
                (None, true) => vec![command(&["defaults"]), command(&["enable"])],
                (None, false) => vec![command(&["disable"])],
            });
        }
        let program = host::need_program("chkconfig", system)?;
        let level: Vec<String> =
            args.runlevels.iter().flat_map(|levels| ["--level".to_string(), levels.concat()]).collect();
        let switch = |on: &str| {
            Command::new(
                [program.clone()].into_iter().chain(level.clone()).chain([name.to_string(), on.to_string()]),
            )
        };
        Ok(if enable {
            vec![Command::new([program.as_str(), "--add", name]), switch("on")]
        } else {
            vec![switch("off")]
        })
    }
}

fn levels(args: &Args) -> Vec<String> {
    args.runlevels.clone().unwrap_or_else(|| ["2", "3", "4", "5"].map(String::from).to_vec())
}

/// What an init script says of its service: by exit status as the LSB has it, else by its words.
fn read_status(output: &Output) -> Option<bool> {
    let text = (output.stdout_text() + &output.stderr_text()).to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match output.code {
        0 if says(&["not running", "stopped", "is dead", "inactive"]) => Some(false),
        0 => Some(true),
        1..=3 => Some(false),
        _ if says(&["not running", "stopped", "stop"]) => Some(false),
        _ if says(&["is running", "started", "start/running"]) => Some(true),
        _ => None,
    }
}

/// Tells which services there are.
pub const SERVICE_FACTS: Module = Module {
    name: "ansible.builtin.service_facts",
    summary: "Tell which services there are, as facts",
    description: "Sets the fact `services`: a mapping from names (with `.service` under systemd) to name, state, \
        status and source.",
    example: "- ansible.builtin.service_facts:\n- ansible.builtin.debug:\n    var: ansible_facts.services['ssh.service'].state\n",
    scope: Scope::Host,
    returns: &[("ansible_facts", "`services`.")],
    run: |_, system| service_facts(system),
    ..Module::DEFAULT
};

fn service_facts(system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let mut services = Map::new();
    let booted = host::exists("/run/systemd/system", system)?;
    if booted && host::find_program("systemctl", system)?.is_some() {
        systemd_services(&mut services, system)?;
    } else if host::find_program("rc-status", system)?.is_some() {
        openrc_services(&mut services, system)?;
    }
    script_services(&mut services, system)?;
    Ok(Outcome { facts: Some(map_of([("services", services)])), ..Outcome::default() })
}

fn entry(name: &str, state: &str, status: &str, source: &str) -> Value {
    map_of([("name", name), ("state", state), ("status", status), ("source", source)]).into()
}

fn systemd_services(services: &mut Map, system: &mut dyn System) -> Result<(), ModuleError> {
    let list = |what: &str, system: &mut dyn System| {
        host::ask(
            ["systemctl", what, "--no-pager", "--type", "service", "--all", "--plain", "--no-legend"],
            system,
        )
    };
    for line in list("list-units", system)?.stdout_text().lines() {
        let fields: Vec<&str> = line.trim_start_matches(['●', '*', ' ']).split_whitespace().collect();
        let [name, load, active, sub, ..] = fields[..] else { continue };
        let state = match (load, active, sub) {
            (_, _, "running") => "running",
            (_, "failed", _) => "failed",
            _ => "stopped",
        };
        let status = if load == "not-found" {
            "not-found"
        } else if active == "failed" {
            "failed"
        } else {
            "unknown"
        };
        services.insert(name.into(), entry(name, state, status, "systemd"));
    }
    for line in list("list-unit-files", system)?.stdout_text().lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, status, ..] = fields[..] else { continue };
        let known = services.get(name).and_then(|known| known.get("state")).map(Value::to_text);
        let state =
            known.unwrap_or_else(|| if name.contains("@.") { "unknown" } else { "inactive" }.to_string());
        services.insert(name.into(), entry(name, &state, status, "systemd"));
    }
    Ok(())
}

fn openrc_services(services: &mut Map, system: &mut dyn System) -> Result<(), ModuleError> {
    let output = host::ask(["rc-status", "-a", "-s", "-r"], system)?;
    let output = if output.success() { output } else { host::ask(["rc-status", "-a"], system)? };
    let mut level = String::new();
    for line in output.stdout_text().lines() {
        if let Some(name) = line.strip_prefix("Runlevel:") {
            level = name.trim().to_string();
        } else if let Some((name, state)) = line.split_once('[') {
            let name = name.trim();
            let state = state.trim_end_matches(']').trim();
            let state = if state.contains("started") { "running" } else { "stopped" };
            services.insert(
                name.into(),
                map_of([("name", name), ("state", state), ("runlevel", &level), ("source", "openrc")]).into(),
            );
        }
    }
    Ok(())
}

fn script_services(services: &mut Map, system: &mut dyn System) -> Result<(), ModuleError> {
    if host::find_program("service", system)?.is_none() || !host::is_directory("/etc/init.d", system)? {
        return Ok(());
    }
    let output = host::ask(["service", "--status-all"], system)?;
    for line in output.stdout_text().lines() {
        let mut words = line.split_whitespace().skip_while(|word| *word == "[");
        let (Some(sign), Some("]"), Some(name)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if services.contains_key(format!("{name}.service").as_str()) {
            continue;
        }
        let state = if sign == "+" { "running" } else { "stopped" };
        services.insert(name.into(), map_of([("name", name), ("state", state), ("source", "sysv")]).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::args::check;
    use crate::system::fake::Fake;

    fn task(given: &[(&str, &str)], system: &mut dyn System) -> Result<Outcome, String> {
        let args = check(&MODULE, &map_of(given.iter().copied()), &|_| true).expect("valid");
        (MODULE.run)(args, system).map_err(|error| error.message)
    }

    #[test]
    fn openrc_and_init_scripts() {
        type Row<'a> = (&'a str, &'a [(&'a [&'a str], Output)], &'a [(&'a str, &'a str)], &'a [&'a str]);
        let table: &[Row] = &[
            (
                "openrc",
                &[
                    (&["rc-service", "app", "status"], Output::fails(3, " * status: stopped\n")),
                    (&["rc-update", "show", "default"], Output::ok("  sshd | default\n")),
                ],
                &[("state", "started"), ("enabled", "yes")],
                &["/sbin/rc-update add app default", "/sbin/rc-service app start"],
            ),
            (
                "openrc",
                &[
                    (&["rc-service", "app", "status"], Output::ok(" * status: started\n")),
                    (&["rc-update", "show", "default"], Output::ok("  app | default\n")),
                ],
                &[("state", "started"), ("enabled", "yes")],
                &[],
            ),
            (
                "sysvinit",
                &[(&["/etc/init.d/app", "status"], Output::fails(3, "app is not running"))],
                &[("state", "restarted"), ("enabled", "yes")],
                &[
                    "/usr/sbin/update-rc.d app defaults",
                    "/usr/sbin/update-rc.d app enable",
                    "/etc/init.d/app start",
                ],
            ),
            (
                "sysvinit",
                &[(&["/etc/init.d/app", "status"], Output::ok("app is running"))],
                &[("state", "reloaded")],
                &["/etc/init.d/app reload"],
            ),
        ];
        for (manager, scripts, given, expected) in table {
            let mut fake = Fake::new().with_file("/etc/init.d/app", "#!/bin/sh\n");
            for program in ["/sbin/rc-update", "/sbin/rc-service", "/usr/sbin/update-rc.d", "/etc/init.d/app"]
            {
                if program != "/etc/init.d/app" {
                    fake = fake.with_program(program);
                }
                fake = fake.with_command_prefix(&[program], Output::ok(""));
            }
            for (argv, output) in *scripts {
                fake = fake.with_command(argv, output.clone());
            }
            let given: Vec<_> =
                [("name", "app"), ("use", *manager)].into_iter().chain(given.iter().copied()).collect();
            task(&given, &mut fake).expect("it works");
            let acted: Vec<&str> = fake.log().iter().filter_map(|line| line.strip_prefix("! ")).collect();
            assert_eq!(acted, *expected, "{manager} {given:?}");
        }
        let message = task(&[("name", "gone"), ("state", "started"), ("use", "sysvinit")], &mut Fake::new());
        assert_eq!(message.expect_err("missing"), "Could not find the requested service gone: host");
    }
}
