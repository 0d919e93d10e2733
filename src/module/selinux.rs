//! `selinux`, `seboolean` and `seport`: the mode and policy of SELinux, its switches, and the types of ports.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Intent, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Where the kernel shows the state of SELinux.
const KERNEL: &str = "/sys/fs/selinux";

/// Sets mode and policy.
pub const MODULE: Module = Module {
    name: "ansible.posix.selinux",
    summary: "Change the mode and policy of SELinux",
    description: "Writes the configuration and, where that is possible without a reboot, changes the mode in force. \
        `reboot_required` says where it is not.",
    example: "- ansible.posix.selinux:\n    policy: targeted\n    state: enforcing\n",
    scope: Scope::Host,
    params: &[
        Param::new("state", Type::Str, "The mode.").required().choices(&[
            "disabled",
            "enforcing",
            "permissive",
        ]),
        Param::new("policy", Type::Str, "The policy, such as `targeted`; needed unless `disabled`."),
        Param::new("configfile", Type::Str, "The configuration.")
            .aliases(&["conf", "file"])
            .default("/etc/selinux/config"),
        Param::new(
            "update_kernel_param",
            Type::Bool,
            "Set `selinux=` on the kernel's command line too, with grubby.",
        )
        .default("false"),
    ],
    rules: &[
        Rule::RequiredIf { param: "state", value: "enforcing", needs: &["policy"], any: false },
        Rule::RequiredIf { param: "state", value: "permissive", needs: &["policy"], any: false },
    ],
    returns: &[
        ("msg", "What was changed."),
        ("policy", "The policy."),
        ("state", "The mode."),
        ("configfile", "The configuration."),
        ("reboot_required", "The mode is in force only after a reboot."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

/// Sets switches.
pub const SEBOOLEAN: Module = Module {
    name: "ansible.posix.seboolean",
    summary: "Switch booleans of SELinux",
    description: "The value in force is read from the kernel; with `persistent` also what is set at boot, as `semanage` shows it.",
    example: "- ansible.posix.seboolean:\n    name: httpd_can_network_connect\n    state: true\n    persistent: true\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name of the boolean.").required(),
        Param::new("state", Type::Bool, "Its value.").required(),
        Param::new("persistent", Type::Bool, "Keep it for the next boot.").default("false"),
        Param::new("ignore_selinux_state", Type::Bool, "Work where SELinux is off too, as in a chroot.")
            .default("false"),
    ],
    returns: &[("name", "The boolean."), ("state", "Its value."), ("persistent", "Whether it is kept.")],
    run: |args, system| run_boolean(&typed(args)?, system),
    ..Module::DEFAULT
};

/// Sets the types of ports.
pub const SEPORT: Module = Module {
    name: "community.general.seport",
    summary: "Say which ports belong to a type of SELinux",
    description: "Through `semanage`. Types that the policy gives to ports can be changed and not removed.",
    example: "- community.general.seport:\n    ports: [10000-10100, 8888]\n    proto: tcp\n    setype: http_port_t\n",
    scope: Scope::Host,
    params: &[
        Param::new("ports", Type::List, "Ports, or ranges such as `10000-10100`.").required(),
        Param::new("proto", Type::Str, "Protocol.").required().choices(&["tcp", "udp"]),
        Param::new("setype", Type::Str, "The type.").required(),
        Param::new("state", Type::Str, "Whether they should have it.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("reload", Type::Bool, "Have the kernel take the new policy.").default("true"),
        Param::new("ignore_selinux_state", Type::Bool, "Work where SELinux is off too, as in a chroot.")
            .default("false"),
        Param::new("local", Type::Bool, "Look at local changes of the policy alone.").default("false"),
    ],
    returns: &[
        ("ports", "The ports."),
        ("proto", "The protocol."),
        ("setype", "The type."),
        ("state", "Whether they have it."),
    ],
    run: |args, system| run_ports(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    state: String,
    policy: Option<String>,
    configfile: String,
    update_kernel_param: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BooleanArgs {
    name: String,
    state: bool,
    persistent: bool,
    ignore_selinux_state: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PortArgs {
    #[serde(deserialize_with = "host::texts")]
    ports: Vec<String>,
    proto: String,
    setype: String,
    state: String,
    reload: bool,
    ignore_selinux_state: bool,
    local: bool,
}

/// A setting of the configuration.
fn setting(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| Some(line.trim().strip_prefix(name)?.strip_prefix('=')?.trim().to_string()))
}

fn with_setting(text: &str, name: &str, value: &str) -> String {
    let is_it = |line: &str| line.trim().strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
    let mut out: String = text
        .lines()
        .map(|line| if is_it(line) { format!("{name}={value}\n") } else { format!("{line}\n") })
        .collect();
    if !text.lines().any(is_it) {
        out.push_str(&format!("{name}={value}\n"));
    }
    out
}

/// The mode in force.
fn mode(system: &mut dyn System) -> &'static str {
    match host::read_text(format!("{KERNEL}/enforce"), system).as_deref().map(str::trim) {
        Some("1") => "enforcing",
        Some(_) => "permissive",
        None => "disabled",
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    let path = args::expand_path(&args.configfile, system)?;
    let Some(text) = host::read_text(&path, system) else {
        if system.uncertain().is_some() {
            return Ok(Outcome { changed: Some(true), ..Outcome::default() });
        }
        return Err(ModuleError::new(format!(
            "Unable to find file {}: this system has no SELinux, or its policy is not installed",
            path.display()
        )));
    };
    let (old_mode, old_policy) = (setting(&text, "SELINUX"), setting(&text, "SELINUXTYPE"));
    let policy = args.policy.clone().or_else(|| old_policy.clone());
    let mut said: Vec<String> = Vec::new();
    let mut after = text.clone();
    if let Some(policy) = &policy
        && old_policy.as_ref() != Some(policy)
    {
        if !host::is_directory(format!("/etc/selinux/{policy}"), system)? && system.uncertain().is_none() {
            return Err(ModuleError::new(format!("Policy {policy} does not exist in /etc/selinux/")));
        }
        after = with_setting(&after, "SELINUXTYPE", policy);
        said.push(format!(
            "SELinux policy configuration in '{}' changed from '{}' to '{policy}'",
            path.display(),
            old_policy.unwrap_or_default()
        ));
    }
    if old_mode.as_deref() != Some(args.state.as_str()) {
        after = with_setting(&after, "SELINUX", &args.state);
        said.push(format!(
            "Config SELinux state changed from '{}' to '{}'",
            old_mode.unwrap_or_default(),
            args.state
        ));
    }
    let now = mode(system);
    let mut reboot = false;
    if now != args.state {
        if now == "disabled" || args.state == "disabled" {
            reboot = true;
            if now == "enforcing" {
                set_mode("permissive", now, system)?;
                said.push("SELinux state temporarily changed from 'enforcing' to 'permissive'".into());
            }
            said.push("State change will take effect next reboot".into());
        } else {
            set_mode(&args.state, now, system)?;
            said.push(format!("SELinux state changed from '{now}' to '{}'", args.state));
        }
    }
    if args.update_kernel_param {
        kernel_parameter(&args.state, &mut said, system)?;
    }
    // Last: what is in force is right then.
    if after != text {
        host::write_text(&path, &after, 0o644, system)?;
    }
    let state = map_of([("mode", Some(args.state.clone())), ("policy", policy.clone())]);
    system.applied(Applied { kind: "selinux".into(), id: "mode".into(), state: state.into() });
    let mut outcome = Outcome::default()
        .set("msg", said.join(", "))
        .set("policy", policy)
        .set("state", args.state.as_str())
        .set("configfile", path.to_string_lossy().into_owned())
        .set("reboot_required", reboot);
    if reboot {
        outcome.warnings.push(format!("Reboot is required to set SELinux state to '{}'", args.state));
    }
    Ok(outcome)
}

fn set_mode(wanted: &str, now: &str, system: &mut dyn System) -> Result<()> {
    let program = host::need_program("setenforce", system)?;
    let number = |mode: &str| if mode == "enforcing" { "1" } else { "0" };
    let intent = Intent {
        kind: "selinux",
        id: "mode".into(),
        before: map_of([("mode", now)]).into(),
        after: map_of([("mode", wanted)]).into(),
        undo: Some(Command::new([program.as_str(), number(now)])),
        ..Intent::default()
    };
    host::carry_out(&Command::new([program.as_str(), number(wanted)]), intent, "setenforce failed", system)?;
    Ok(())
}

fn kernel_parameter(state: &str, said: &mut Vec<String>, system: &mut dyn System) -> Result<()> {
    let program = host::need_program("grubby", system)?;
    let wanted = if state == "disabled" { "0" } else { "1" };
    let shown = host::ask([program.as_str(), "--info=ALL"], system)?.stdout_text();
    let lines: Vec<&str> = shown.lines().filter(|line| line.starts_with("args=")).collect();
    let has = |line: &&&str| {
        line.trim_start_matches("args=")
            .trim_matches('"')
            .split(' ')
            .any(|word| word == format!("selinux={wanted}"))
    };
    let off = lines.iter().any(|line| line.contains("selinux=0"));
    let right = if wanted == "0" {
        !lines.is_empty() && lines.iter().filter(has).count() == lines.len()
    } else {
        !off
    };
    if right {
        return Ok(());
    }
    let (flag, back) = if wanted == "0" { ("--args", "--remove-args") } else { ("--remove-args", "--args") };
    let argv = |flag: &str| Command::new([program.as_str(), "--update-kernel=ALL", flag, "selinux=0"]);
    let intent = Intent {
        kind: "selinux",
        id: "kernel parameter".into(),
        before: map_of([("off", wanted != "0")]).into(),
        after: map_of([("off", wanted == "0")]).into(),
        undo: Some(argv(back)),
        ..Intent::default()
    };
    host::carry_out(&argv(flag), intent, "grubby failed", system)?;
    said.push(format!(
        "Kernel SELinux state changed to '{}'",
        if wanted == "0" { "disabled" } else { "enabled" }
    ));
    Ok(())
}

fn run_boolean(args: &BooleanArgs, system: &mut dyn System) -> Result<Outcome> {
    let in_force = host::read_text(format!("{KERNEL}/booleans/{}", args.name), system)
        .and_then(|text| Some(text.split_whitespace().next()? == "1"));
    let off = mode(system) == "disabled";
    if off && !args.ignore_selinux_state && system.uncertain().is_none() {
        return Err(ModuleError::new("SELinux is disabled on this host."));
    }
    if in_force.is_none() && !off {
        return Err(ModuleError::new(format!("SELinux boolean {} does not exist.", args.name)));
    }
    let kept = if args.persistent { at_boot(&args.name, system)? } else { None };
    let right = match (args.persistent, kept) {
        (true, Some(kept)) => kept == args.state && in_force.is_none_or(|now| now == args.state),
        // What is set at boot can't be told: it is set again if what is in force differs.
        (true, None) | (false, _) => in_force == Some(args.state),
    };
    if !right {
        let program = host::need_program("setsebool", system)?;
        let argv = |value: bool| {
            let mut words = vec![program.clone()];
            words.extend(args.persistent.then(|| "-P".to_string()));
            words.extend([args.name.clone(), if value { "on" } else { "off" }.to_string()]);
            Command::new(words)
        };
        let before = if args.persistent { kept.or(in_force) } else { in_force };
        let intent = Intent {
            kind: "selinux",
            id: format!("boolean {}", args.name),
            before: map_of([("on", before)]).into(),
            after: map_of([("on", args.state)]).into(),
            undo: before.map(argv),
            ..Intent::default()
        };
        host::carry_out(&argv(args.state), intent, "setsebool failed", system)?;
    }
    let state = map_of([("on", args.state)]).into();
    system.applied(Applied { kind: "selinux".into(), id: format!("boolean {}", args.name), state });
    Ok(Outcome::default()
        .set("name", args.name.as_str())
        .set("state", args.state)
        .set("persistent", args.persistent))
}

/// What is set at boot: a row `name (on , off) …` of `semanage boolean -l`, whose second value it is.
fn at_boot(name: &str, system: &mut dyn System) -> Result<Option<bool>> {
    if host::find_program("semanage", system)?.is_none() {
        return Ok(None);
    }
    let text = host::ask(["semanage", "boolean", "-l", "-n"], system)?.stdout_text();
    Ok(text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?.trim_start().strip_prefix('(')?;
        let (values, _) = rest.split_once(')')?;
        Some(values.split(',').nth(1)?.trim() == "on")
    }))
}

/// Types of ports as `semanage port -l -n` lists them: `http_port_t  tcp  80, 443, 8008-8010`.
#[derive(Debug, Default)]
struct Ports(Vec<(String, String, Vec<String>)>);

impl Ports {
    fn ask(program: &str, local: bool, system: &mut dyn System) -> Result<Ports> {
        let mut words = vec![program, "port", "-l", "-n"];
        words.extend(local.then_some("-C"));
        let output = host::ask(&words, system)?;
        if !output.success() && system.uncertain().is_none() {
            return Err(ModuleError::command("semanage failed", &Command::new(&words), &output));
        }
        let row = |line: &str| {
            let (setype, rest) = line.split_once(char::is_whitespace)?;
            let (proto, ports) = rest.trim_start().split_once(char::is_whitespace)?;
            let ports = ports.split(',').map(|port| port.trim().to_string()).collect();
            Some((setype.to_string(), proto.to_string(), ports))
        };
        Ok(Ports(output.stdout_text().lines().filter_map(row).collect()))
    }

    /// The type of a port or a range.
    fn of(&self, proto: &str, port: &str) -> Option<&str> {
        let row = self.0.iter().find(|(_, of, ports)| of == proto && ports.iter().any(|one| one == port))?;
        Some(&row.0)
    }
}

fn run_ports(args: &PortArgs, system: &mut dyn System) -> Result<Outcome> {
    let is_number = |text: &str| text.parse::<u16>().is_ok();
    let is_port = |port: &str| match port.split_once('-') {
        Some((low, high)) => is_number(low) && is_number(high),
        None => is_number(port),
    };
    if let Some(port) = args.ports.iter().find(|port| !is_port(port)) {
        return Err(ModuleError::new(format!(
            "ports: {port:?} is neither a port nor a range such as 8000-8010"
        )));
    }
    if mode(system) == "disabled" && !args.ignore_selinux_state && system.uncertain().is_none() {
        return Err(ModuleError::new("SELinux is disabled on this host."));
    }
    let program = host::need_program("semanage", system)?;
    let known = Ports::ask(&program, args.local, system)?;
    let ours = if args.local { None } else { Some(Ports::ask(&program, true, system)?) };
    let proto = args.proto.as_str();
    for port in &args.ports {
        let argv = |verb: &str, setype: Option<&str>| {
            let mut words = vec![program.as_str(), "port", verb];
            words.extend(setype.into_iter().flat_map(|setype| ["-t", setype]));
            words.extend((!args.reload).then_some("-N"));
            words.extend(["-p", proto, port]);
            Command::new(words)
        };
        let now = known.of(proto, port);
        let is_ours = ours.as_ref().unwrap_or(&known).of(proto, port).is_some();
        let (command, undo) = match (args.state.as_str(), now) {
            ("absent", Some(now)) if now == args.setype => (argv("-d", None), argv("-a", Some(now))),
            ("absent", _) => continue,
            (_, Some(now)) if now == args.setype => continue,
            // What the policy says is still there below a change of ours.
            (_, Some(_)) if !is_ours => (argv("-m", Some(&args.setype)), argv("-d", None)),
            (_, Some(now)) => (argv("-m", Some(&args.setype)), argv("-m", Some(now))),
            (_, None) => (argv("-a", Some(&args.setype)), argv("-d", None)),
        };
        let state = |setype: &str| map_of([("setype", setype)]).into();
        let intent = Intent {
            kind: "selinux",
            id: format!("port {proto} {port}"),
            before: now.map_or(Value::Null, state),
            after: if args.state == "absent" { Value::Null } else { state(&args.setype) },
            undo: Some(undo),
            ..Intent::default()
        };
        host::carry_out(&command, intent, "semanage failed", system)?;
    }
    for port in &args.ports {
        let wanted = map_of([("setype", args.setype.as_str())]).into();
        let state = if args.state == "absent" { Value::Null } else { wanted };
        system.applied(Applied { kind: "selinux".into(), id: format!("port {proto} {port}"), state });
    }
    Ok(Outcome::default()
        .set("ports", args.ports.clone())
        .set("proto", proto)
        .set("setype", args.setype.as_str())
        .set("state", args.state.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::on_fake;
    use crate::system::Output;
    use crate::system::fake::Fake;

    const CONFIG: &str = "/etc/selinux/config";

    fn machine() -> Fake {
        Fake::new()
            .with_file(CONFIG, "# c\nSELINUX=enforcing\nSELINUXTYPE=targeted\n")
            .with_dir("/etc/selinux/targeted")
            .with_dir("/etc/selinux/mls")
            .with_file("/sys/fs/selinux/enforce", "1")
            .with_file("/sys/fs/selinux/booleans/net", "0 0")
            .with_program("/usr/sbin/setenforce")
            .with_program("/usr/sbin/setsebool")
            .with_program("/usr/sbin/semanage")
            .with_file("/state/kept", "off")
            .with_behaviour(&["/usr/sbin/setenforce"], |fake, command| {
                fake.put("/sys/fs/selinux/enforce", command.argv[1].to_string_lossy().as_bytes());
                Output::ok("")
            })
            .with_behaviour(&["semanage"], |fake, _| {
                let kept = fake.text("/state/kept").unwrap_or_default();
                Output::ok(&format!("net                            (off  , {kept:>3})  Allow it\n"))
            })
            .with_behaviour(&["/usr/sbin/setsebool"], |fake, command| {
                let value = command.argv.last().expect("a value").to_string_lossy().into_owned();
                let bit = if value == "on" { "1 1" } else { "0 0" };
                fake.put("/sys/fs/selinux/booleans/net", bit);
                if command.argv.len() == 4 {
                    fake.put("/state/kept", &value);
                }
                Output::ok("")
            })
    }

    #[test]
    fn mode_and_policy() {
        let table: &[(&str, &[&str], &str, &str)] = &[
            (
                r#"{"state":"enforcing","policy":"targeted"}"#,
                &[],
                "# c\nSELINUX=enforcing\nSELINUXTYPE=targeted\n",
                "false",
            ),
            (
                r#"{"state":"permissive","policy":"mls"}"#,
                &["/usr/sbin/setenforce 0"],
                "# c\nSELINUX=permissive\nSELINUXTYPE=mls\n",
                "false",
            ),
        ];
        for (arguments, expected, text, reboot) in table {
            let mut verdict = on_fake(&MODULE, machine, arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            assert_eq!(verdict.acted(), *expected, "{arguments}");
            assert_eq!(verdict.machine.text(CONFIG).as_deref(), Some(*text), "{arguments}");
            assert_eq!(verdict.text("reboot_required").to_lowercase(), *reboot, "{arguments}");
            assert!(verdict.rolled_back, "{arguments}");
        }
        let mut off = on_fake(&MODULE, machine, r#"{"state":"disabled"}"#);
        assert_eq!(off.acted(), ["/usr/sbin/setenforce 0"]);
        assert_eq!(
            off.machine.text(CONFIG).as_deref(),
            Some("# c\nSELINUX=disabled\nSELINUXTYPE=targeted\n")
        );
        assert!(off.outcome.warnings[0].contains("Reboot"));
        for (arguments, expected) in [
            (r#"{"state":"enforcing"}"#, "policy"),
            (r#"{"state":"enforcing","policy":"x"}"#, "does not exist"),
            (r#"{"state":"disabled","file":"/none"}"#, "Unable to find"),
        ] {
            let error = on_fake(&MODULE, machine, arguments).error.unwrap_or_default();
            assert!(error.contains(expected), "{arguments}: {error}");
        }
    }

    #[test]
    fn booleans() {
        let table: &[(&str, &[&str])] = &[
            (r#"{"name":"net","state":false}"#, &[]),
            (r#"{"name":"net","state":false,"persistent":true}"#, &[]),
            (r#"{"name":"net","state":true}"#, &["/usr/sbin/setsebool net on"]),
            (r#"{"name":"net","state":true,"persistent":true}"#, &["/usr/sbin/setsebool -P net on"]),
        ];
        for (arguments, expected) in table {
            let verdict = on_fake(&SEBOOLEAN, machine, arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            assert_eq!(verdict.acted(), *expected, "{arguments}");
            assert!(verdict.rolled_back, "{arguments}");
        }
        let unknown = on_fake(&SEBOOLEAN, machine, r#"{"name":"none","state":true}"#);
        assert!(unknown.error.unwrap_or_default().contains("does not exist"));
        let none = on_fake(&SEBOOLEAN, Fake::new, r#"{"name":"net","state":true}"#);
        assert!(none.error.unwrap_or_default().contains("disabled"));
    }

    /// Ports are files: what the policy says, and what is set here. Both hold a type.
    fn with_ports() -> Fake {
        machine()
            .with_file("/policy/tcp/80", "http_port_t")
            .with_file("/policy/tcp/8000-8010", "soundd_port_t")
            .with_file("/ours/tcp/9999", "http_port_t")
            .with_file("/ours/udp/9999", "dns_port_t")
            .with_behaviour(&["/usr/sbin/semanage", "port"], |fake, command| {
                let words: Vec<String> =
                    command.argv[2..].iter().map(|word| word.to_string_lossy().into_owned()).collect();
                let words: Vec<&str> =
                    words.iter().map(String::as_str).filter(|word| *word != "-N").collect();
                let ours = |rest: &[&str]| format!("/ours/{}/{}", rest[0], rest[1]);
                match words.as_slice() {
                    ["-l", "-n", rest @ ..] => {
                        let mut text = String::new();
                        for (proto, port) in [
                            ("tcp", "80"),
                            ("tcp", "8000-8010"),
                            ("tcp", "9999"),
                            ("udp", "9999"),
                            ("udp", "1"),
                        ] {
                            let set = fake.text(&format!("/ours/{proto}/{port}"));
                            let policy = fake.text(&format!("/policy/{proto}/{port}"));
                            if let Some(setype) = set.or(policy.filter(|_| rest.is_empty())) {
                                text.push_str(&format!("{setype:30} {proto:8} {port}, 65000\n"));
                            }
                        }
                        Output::ok(&text)
                    }
                    ["-a" | "-m", "-t", setype, "-p", rest @ ..] => {
                        fake.put(&ours(rest), setype);
                        Output::ok("")
                    }
                    ["-d", "-p", rest @ ..] if fake.text(&ours(rest)).is_some() => {
                        fake.delete(&ours(rest));
                        Output::ok("")
                    }
                    _ => Output::fails(1, "ValueError: Port is defined in policy, cannot be deleted"),
                }
            })
    }

    #[test]
    fn ports() {
        let table: &[(&str, &[&str])] = &[
            (r#""ports":"80","proto":"tcp","setype":"http_port_t""#, &[]),
            (r#""ports":[80],"proto":"tcp","setype":"x_t""#, &["-m -t x_t -p tcp 80"]),
            (r#""ports":[9999],"proto":"tcp","setype":"x_t""#, &["-m -t x_t -p tcp 9999"]),
            (
                r#""ports":["1","9999"],"proto":"udp","setype":"x_t","reload":false"#,
                &["-a -t x_t -N -p udp 1", "-m -t x_t -N -p udp 9999"],
            ),
            (r#""ports":["8000-8010"],"proto":"tcp","setype":"soundd_port_t""#, &[]),
            (
                r#""ports":["80"],"proto":"tcp","setype":"http_port_t","local":true"#,
                &["-a -t http_port_t -p tcp 80"],
            ),
            (
                r#""ports":["9999",1],"proto":"tcp","setype":"http_port_t","state":"absent""#,
                &["-d -p tcp 9999"],
            ),
            (r#""ports":["9999"],"proto":"tcp","setype":"other_t","state":"absent""#, &[]),
        ];
        for (arguments, expected) in table {
            let verdict = on_fake(&SEPORT, with_ports, &format!("{{{arguments}}}"));
            assert_eq!(verdict.error, None, "{arguments}");
            let commands: Vec<String> =
                expected.iter().map(|words| format!("/usr/sbin/semanage port {words}")).collect();
            assert_eq!(verdict.acted(), commands, "{arguments}");
            assert!(verdict.rolled_back, "{arguments}");
        }
        for (ports, state, expected) in [
            ("x", "present", "neither a port nor a range"),
            ("70000", "present", "neither a port nor a range"),
            ("80", "absent", "cannot be deleted"),
        ] {
            let arguments =
                format!(r#"{{"ports":"{ports}","proto":"tcp","setype":"http_port_t","state":"{state}"}}"#);
            let error = on_fake(&SEPORT, with_ports, &arguments).error.unwrap_or_default();
            assert!(error.contains(expected), "{arguments}: {error}");
        }
        let none = on_fake(&SEPORT, Fake::new, r#"{"ports":"80","proto":"tcp","setype":"x_t"}"#);
        assert!(none.error.unwrap_or_default().contains("disabled"));
    }
}
