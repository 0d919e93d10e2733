//! `firewalld`: zones of firewalld, through `firewall-cmd`.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Applied, Command, Intent, Output, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Manages services, ports, rules and the like in firewalld's zones.
pub const MODULE: Module = Module {
    name: "ansible.posix.firewalld",
    summary: "Manage services, ports, rules and sources with firewalld",
    description: "Uses `firewall-cmd`, or `firewall-offline-cmd` if `offline` is true and firewalld does not run. Without \
        `permanent`, only what is in force is changed, as `immediate` does; with `permanent` alone, what is in force is left as it is.",
    example: "- name: Let HTTPS in, now and after a reload\n  ansible.posix.firewalld:\n    service: https\n    permanent: true\n    immediate: true\n    state: enabled\n",
    scope: Scope::Host,
    params: &[
        Param::new(
            "state",
            Type::Str,
            "Whether it is on; `present` and `absent` are for a zone or its `target`.",
        )
        .required()
        .choices(&["absent", "disabled", "enabled", "present"]),
        Param::new("zone", Type::Str, "The zone; without it, the default zone."),
        Param::new("service", Type::Str, "Name of a service."),
        Param::new("protocol", Type::Str, "Name of a protocol."),
        Param::new("port", Type::Str, "Port or range with a protocol: `8080/tcp`, `100-200/udp`."),
        Param::new("port_forward", Type::List, "A port to pass on: `port`, `proto`, `toport`, `toaddr`."),
        Param::new("rich_rule", Type::Str, "A rule in firewalld's rich language."),
        Param::new("source", Type::Str, "Address or network that belongs to the zone."),
        Param::new("interface", Type::Str, "Interface that belongs to the zone."),
        Param::new("icmp_block", Type::Str, "Type of ICMP that is blocked."),
        Param::new("icmp_block_inversion", Type::Bool, "Block what is not listed instead of what is."),
        Param::new("masquerade", Type::Bool, "Whether packets that leave get the host's own address."),
        Param::new("forward", Type::Bool, "Whether packets pass between the zone's interfaces."),
        Param::new("target", Type::Str, "What becomes of packets that no rule is about.").choices(&[
            "default",
            "ACCEPT",
            "DROP",
            "%%REJECT%%",
        ]),
        Param::new("permanent", Type::Bool, "Change what is loaded at the next start.").default("false"),
        Param::new("immediate", Type::Bool, "Change what is in force.").default("false"),
        Param::new("timeout", Type::Int, "Seconds after which it is gone again; not with `permanent`.")
            .default("0"),
        Param::new("offline", Type::Bool, "Change the files if firewalld does not run.").default("false"),
    ],
    rules: &[
        Rule::MutuallyExclusive(&[
            "icmp_block",
            "icmp_block_inversion",
            "service",
            "protocol",
            "port",
            "port_forward",
            "rich_rule",
            "interface",
            "forward",
            "masquerade",
            "source",
            "target",
        ]),
        Rule::RequiredBy { param: "interface", needs: &["zone"] },
        Rule::RequiredBy { param: "source", needs: &["permanent"] },
        Rule::RequiredBy { param: "target", needs: &["zone"] },
    ],
    returns: &[("msg", "What was changed, and where.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    state: String,
    zone: Option<String>,
    service: Option<String>,
    protocol: Option<String>,
    port: Option<String>,
    port_forward: Option<Vec<Forward>>,
    rich_rule: Option<String>,
    source: Option<String>,
    interface: Option<String>,
    icmp_block: Option<String>,
    icmp_block_inversion: Option<bool>,
    masquerade: Option<bool>,
    forward: Option<bool>,
    target: Option<String>,
    permanent: bool,
    immediate: bool,
    timeout: i64,
    offline: bool,
}

#[derive(Debug, Deserialize)]
struct Forward {
    port: Value,
    proto: String,
    toport: Value,
    #[serde(default)]
    toaddr: Option<String>,
}

/// What is to be on or off: the option's name without its verb, its value, how messages call it.
struct Thing {
    option: &'static str,
    value: Option<String>,
    name: String,
    /// It is to be on.
    on: bool,
}

impl Args {
    fn thing(&self) -> Result<Option<Thing>> {
        let on = self.state == "enabled";
        let plain = |option: &'static str, word: &str, value: &Option<String>| {
            value.as_ref().map(|value| Thing {
                option,
                value: Some(value.clone()),
                name: format!("{word} {value}"),
                on,
            })
        };
        // `masquerade: false` with `state: enabled` is the same as `true` with `disabled`.
        let switch = |option: &'static str, value: Option<bool>| {
            value.map(|value| Thing { option, value: None, name: option.to_string(), on: value == on })
        };
        if let Some(port) = self.port.as_deref().filter(|port| !port.contains('/')) {
            return Err(ModuleError::new(format!("improper port format (missing protocol?): {port}")));
        }
        let forward = match self.port_forward.as_deref() {
            None | Some([]) => None,
            Some([one]) => {
                let mut text = format!(
                    "port={}:proto={}:toport={}",
                    one.port.to_text(),
                    one.proto,
                    one.toport.to_text()
                );
                if let Some(address) = one.toaddr.as_ref().filter(|address| !address.is_empty()) {
                    text.push_str(&format!(":toaddr={address}"));
                }
                Some(text)
            }
            Some(_) => return Err(ModuleError::new("Only one port forward supported at a time")),
        };
        Ok(plain("service", "service", &self.service)
            .or_else(|| plain("protocol", "protocol", &self.protocol))
            .or_else(|| plain("port", "port", &self.port))
            .or_else(|| plain("forward-port", "port_forward", &forward))
            .or_else(|| plain("rich-rule", "rich_rule", &self.rich_rule))
            .or_else(|| plain("source", "source", &self.source))
            .or_else(|| plain("interface", "interface", &self.interface))
            .or_else(|| plain("icmp-block", "icmp-block", &self.icmp_block))
            .or_else(|| switch("icmp-block-inversion", self.icmp_block_inversion))
            .or_else(|| switch("masquerade", self.masquerade))
            .or_else(|| switch("forward", self.forward)))
    }
}

/// The program, and to what it applies.
struct Firewall {
    program: String,
    offline: bool,
    zone: Option<String>,
}

impl Firewall {
    fn words(&self, permanent: bool, words: &[&str]) -> Vec<String> {
        let mut out = vec![self.program.clone()];
        out.extend((permanent && !self.offline).then(|| "--permanent".to_string()));
        out.extend(words.iter().map(ToString::to_string));
        out
    }

    fn in_zone(&self, permanent: bool, word: &str) -> Vec<String> {
        let mut out = self.words(permanent, &[]);
        out.extend(self.zone.iter().map(|zone| format!("--zone={zone}")));
        out.push(word.to_string());
        out
    }

    fn ask(&self, argv: Vec<String>, system: &mut dyn System) -> Result<Output> {
        let command = Command::new(argv.clone());
        let output = host::ask(argv, system)?;
        // 0: yes; 1: no; anything else is an error.
        if output.code > 1 && !(output.code == 127 && system.uncertain().is_some()) {
            return Err(ModuleError::command("firewalld does not answer", &command, &output));
        }
        Ok(output)
    }

    fn id(&self, permanent: bool, what: &str) -> String {
        let where_ = if permanent { "permanent" } else { "runtime" };
        let zone = self.zone.as_deref().unwrap_or("default zone");
        format!("firewalld {where_} {zone} {what}")
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    let thing = args.thing()?;
    let zone_level = matches!(args.state.as_str(), "present" | "absent");
    if thing.is_some() && zone_level {
        return Err(ModuleError::new("absent and present state can only be used in zone level operations"));
    }
    if thing.is_none() && !zone_level {
        return Err(ModuleError::new(
            "one of service, protocol, port, port_forward, rich_rule, source, interface, icmp_block, \
             icmp_block_inversion, masquerade, forward is needed with this state",
        ));
    }
    let (permanent, mut immediate) = (args.permanent, args.immediate || !args.permanent);
    if args.timeout > 0 && permanent {
        return Err(ModuleError::new("a timeout is for what is in force, not for what is permanent"));
    }
    let mut firewall =
        Firewall { program: host::need_program("firewall-cmd", system)?, offline: false, zone: None };
    let state = host::ask(firewall.words(false, &["--state"]), system)?;
    let missing = state.code == 127 && system.uncertain().is_some();
    if !state.success() && !missing {
        if !args.offline {
            return Err(ModuleError::new(
                "firewalld is not running; set `offline: true` (with `permanent: true`) to change its files all the same",
            ));
        }
        firewall.program = host::need_program("firewall-offline-cmd", system)?;
        firewall.offline = true;
        immediate = false;
    }
    firewall.zone.clone_from(&args.zone);
    if firewall.zone.is_none() && !zone_level {
        let output = firewall.ask(firewall.words(false, &["--get-default-zone"]), system)?;
        firewall.zone = Some(output.stdout_text().trim().to_string()).filter(|zone| !zone.is_empty());
    }
    let mut said: Vec<String> = vec![
        match (permanent || firewall.offline, immediate) {
            (true, true) => "Permanent and Non-Permanent(immediate) operation",
            (true, false) => "Permanent operation",
            _ => "Non-permanent operation",
        }
        .into(),
    ];
    let places: Vec<bool> = [(permanent || firewall.offline).then_some(true), immediate.then_some(false)]
        .into_iter()
        .flatten()
        .collect();
    match (&thing, &args.target) {
        (Some(thing), _) => {
            let before = system.changes().len();
            for place in places {
                switch(&firewall, thing, place, args.timeout, system)?;
            }
            if system.changes().len() > before {
                said.push(format!(
                    "Changed {} to {}",
                    thing.name,
                    if thing.on { "enabled" } else { "disabled" }
                ));
            }
        }
        (None, Some(target)) => set_target(&firewall, target, args, &mut said, system)?,
        (None, None) => set_zone(&firewall, args, immediate && args.immediate, &mut said, system)?,
    }
    Ok(Outcome::default().set("msg", said.join(", ")))
}

fn switch(
    firewall: &Firewall,
    thing: &Thing,
    permanent: bool,
    timeout: i64,
    system: &mut dyn System,
) -> Result<()> {
    let option = |verb: &str| match &thing.value {
        Some(value) => format!("--{verb}-{}={value}", thing.option),
        None => format!("--{verb}-{}", thing.option),
    };
    let is_on = firewall.ask(firewall.in_zone(permanent, &option("query")), system)?.success();
    let id = firewall.id(permanent, &thing.name);
    let exists: Value = map_of([("enabled", true)]).into();
    if is_on != thing.on {
        // An interface belongs to one zone: adding it to another takes it out of the first.
        let add = if thing.option == "interface" { "change" } else { "add" };
        let (verb, back) = if thing.on { (add, "remove") } else { ("remove", add) };
        let mut argv = firewall.in_zone(permanent, &option(verb));
        if timeout > 0 && thing.on && !permanent {
            argv.push(format!("--timeout={timeout}"));
        }
        let undo = Some(Command::new(firewall.in_zone(permanent, &option(back))));
        let (before, after) =
            if thing.on { (Value::Null, exists.clone()) } else { (exists.clone(), Value::Null) };
        let intent = Intent { kind: "firewall", id: id.clone(), before, after, undo, ..Intent::default() };
        host::carry_out(&Command::new(argv), intent, "firewalld failed", system)?;
    }
    let state = if thing.on { exists } else { Value::Null };
    system.applied(Applied { kind: "firewall".into(), id, state });
    Ok(())
}

fn set_target(
    firewall: &Firewall,
    target: &str,
    args: &Args,
    said: &mut Vec<String>,
    system: &mut dyn System,
) -> Result<()> {
    if !args.permanent || args.immediate {
        return Err(ModuleError::new(
            "the target of a zone is permanent only: set permanent and not immediate",
        ));
    }
    let now = firewall.ask(firewall.in_zone(true, "--get-target"), system)?.stdout_text().trim().to_string();
    let wanted = if args.state == "present" { target } else { "default" };
    let id = firewall.id(true, "target");
    if now != wanted && !(args.state == "absent" && now != target) {
        let undo = Some(Command::new(firewall.in_zone(true, &format!("--set-target={now}"))));
        let states = [now.as_str(), wanted].map(|target| Value::map(map_of([("target", target)])));
        let [before, after] = states;
        let intent = Intent { kind: "firewall", id: id.clone(), before, after, undo, ..Intent::default() };
        let command = Command::new(firewall.in_zone(true, &format!("--set-target={wanted}")));
        host::carry_out(&command, intent, "firewalld failed", system)?;
        said.push(format!("Set zone {} target to {wanted}", args.zone.as_deref().unwrap_or_default()));
    }
    system.applied(Applied { kind: "firewall".into(), id, state: map_of([("target", wanted)]).into() });
    Ok(())
}

fn set_zone(
    firewall: &Firewall,
    args: &Args,
    immediate: bool,
    said: &mut Vec<String>,
    system: &mut dyn System,
) -> Result<()> {
    let Some(zone) = args.zone.as_deref() else {
        return Err(ModuleError::new("zone is needed with state present or absent"));
    };
    if !args.permanent || immediate {
        return Err(ModuleError::new(
            "zones are made and removed permanently only: set permanent and not immediate; they are in force after a reload",
        ));
    }
    let known = firewall.ask(firewall.words(true, &["--get-zones"]), system)?.stdout_text();
    let there = known.split_whitespace().any(|known| known == zone);
    let present = args.state == "present";
    let id = format!("firewalld permanent zone {zone}");
    let exists: Value = map_of([("present", true)]).into();
    if there != present {
        let option = |verb: &str| firewall.words(true, &[&format!("--{verb}-zone={zone}")]);
        let (verb, word) = if present { ("new", "Added") } else { ("delete", "Removed") };
        // A zone that is removed takes its rules with it.
        let undo = present.then(|| Command::new(option("delete")));
        let (before, after) =
            if present { (Value::Null, exists.clone()) } else { (exists.clone(), Value::Null) };
        let intent = Intent { kind: "firewall", id: id.clone(), before, after, undo, ..Intent::default() };
        host::carry_out(&Command::new(option(verb)), intent, "firewalld failed", system)?;
        said.push(format!("{word} zone {zone}"));
    }
    let state = if present { exists } else { Value::Null };
    system.applied(Applied { kind: "firewall".into(), id, state });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{call, on_fake};
    use crate::system::fake::Fake;

    /// A machine on which each thing that is on is a line of one of two files.
    fn machine() -> Fake {
        let mut fake = Fake::new()
            .with_program("/usr/bin/firewall-cmd")
            .with_program("/usr/bin/firewall-offline-cmd")
            .with_file("/state/runtime", "zone=public service=ssh\n")
            .with_file("/state/permanent", "zones public\nzone=public service=ssh\n");
        for program in ["firewall-cmd", "firewall-offline-cmd"] {
            fake.on(&[&format!("/usr/bin/{program}")], true, move |fake, command| {
                let mut words: Vec<String> =
                    command.argv[1..].iter().map(|word| word.to_string_lossy().into_owned()).collect();
                let offline = program == "firewall-offline-cmd";
                let permanent = offline || words.first().is_some_and(|word| word == "--permanent");
                words.retain(|word| word != "--permanent" && !word.starts_with("--timeout"));
                let store = if permanent { "/state/permanent" } else { "/state/runtime" };
                let text = fake.text(store).unwrap_or_default();
                let zone = words.first().filter(|word| word.starts_with("--zone=")).cloned();
                let word = words.last().cloned().unwrap_or_default();
                if word == "--state" {
                    return if fake.text("/state/stopped").is_some() {
                        Output::fails(252, "not running")
                    } else {
                        Output::ok("running\n")
                    };
                }
                if word == "--get-default-zone" {
                    return Output::ok("public\n");
                }
                if word == "--get-zones" {
                    let zones: String = text
                        .lines()
                        .filter_map(|line| line.strip_prefix("zones "))
                        .collect::<Vec<_>>()
                        .join(" ");
                    return Output::ok(&zones);
                }
                let word = word.trim_start_matches("--").to_string();
                let (verb, rest) = word.split_once('-').unwrap_or((&word, ""));
                if verb == "get" {
                    return Output::ok("default\n");
                }
                if let Some(name) = rest.strip_prefix("zone=") {
                    let line = format!("zones {name}\n");
                    fake.put(store, if verb == "new" { text + &line } else { text.replace(&line, "") });
                    return Output::ok("success\n");
                }
                let line = format!("{} {rest}\n", zone.unwrap_or_default().trim_start_matches("--"));
                match verb {
                    "query" if text.contains(&line) => Output::ok("yes\n"),
                    "query" => Output { code: 1, stdout: "no\n".into(), stderr: Vec::new() },
                    "add" | "change" | "set" => {
                        fake.put(store, text + &line);
                        Output::ok("success\n")
                    }
                    _ => {
                        fake.put(store, text.replace(&line, ""));
                        Output::ok("success\n")
                    }
                }
            });
        }
        fake
    }

    #[test]
    fn things_are_switched_where_they_are_meant() {
        const CMD: &str = "/usr/bin/firewall-cmd";
        let table: &[(&str, &[&str], &str)] = &[
            (
                r#"{"service":"ssh","state":"enabled","permanent":true,"immediate":true}"#,
                &[],
                "Permanent and Non-Permanent(immediate) operation",
            ),
            (
                r#"{"service":"http","state":"enabled"}"#,
                &["--zone=public --add-service=http"],
                "Non-permanent operation, Changed service http to enabled",
            ),
            (
                r#"{"port":"80/tcp","state":"enabled","permanent":true,"zone":"dmz"}"#,
                &["--permanent --zone=dmz --add-port=80/tcp"],
                "Permanent operation, Changed port 80/tcp to enabled",
            ),
            (
                r#"{"service":"ssh","state":"disabled","permanent":true,"immediate":true}"#,
                &["--permanent --zone=public --remove-service=ssh", "--zone=public --remove-service=ssh"],
                "Permanent and Non-Permanent(immediate) operation, Changed service ssh to disabled",
            ),
            (
                r#"{"masquerade":true,"state":"enabled","permanent":true}"#,
                &["--permanent --zone=public --add-masquerade"],
                "Permanent operation, Changed masquerade to enabled",
            ),
            (r#"{"masquerade":false,"state":"enabled","permanent":true}"#, &[], "Permanent operation"),
            (
                r#"{"interface":"eth1","zone":"dmz","state":"enabled"}"#,
                &["--zone=dmz --change-interface=eth1"],
                "Non-permanent operation, Changed interface eth1 to enabled",
            ),
            (
                r#"{"port_forward":[{"port":443,"proto":"tcp","toport":8443}],"state":"enabled"}"#,
                &["--zone=public --add-forward-port=port=443:proto=tcp:toport=8443"],
                "Non-permanent operation, Changed port_forward port=443:proto=tcp:toport=8443 to enabled",
            ),
            (
                r#"{"zone":"mine","state":"present","permanent":true}"#,
                &["--permanent --new-zone=mine"],
                "Permanent operation, Added zone mine",
            ),
            (r#"{"zone":"mine","state":"absent","permanent":true}"#, &[], "Permanent operation"),
        ];
        for (arguments, expected, message) in table {
            let verdict = on_fake(&MODULE, machine, arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            let acted: Vec<&str> = verdict
                .acted()
                .into_iter()
                .filter_map(|line| line.strip_prefix(CMD))
                .map(str::trim)
                .collect();
            assert_eq!(acted, *expected, "{arguments}");
            assert_eq!(verdict.text("msg"), *message, "{arguments}");
            assert!(verdict.rolled_back, "{arguments}");
        }
        let timed = r#"{"service":"http","state":"enabled","timeout":60}"#;
        assert!(on_fake(&MODULE, machine, timed).acted()[0].ends_with("--add-service=http --timeout=60"));
    }

    #[test]
    fn a_firewall_that_does_not_run_is_changed_in_its_files() {
        let stopped = || machine().with_file("/state/stopped", "");
        let offline = r#"{"service":"http","state":"enabled","permanent":true,"offline":true}"#;
        let verdict = on_fake(&MODULE, stopped, offline);
        assert_eq!(verdict.acted(), ["/usr/bin/firewall-offline-cmd --zone=public --add-service=http"]);
        for (arguments, expected) in [
            (r#"{"service":"http","state":"enabled"}"#, "not running"),
            (r#"{"port":"80","state":"enabled","offline":true}"#, "missing protocol"),
            (r#"{"service":"a","state":"present","offline":true}"#, "zone level"),
            (r#"{"state":"enabled"}"#, "is needed"),
            (r#"{"service":"a","port":"1/tcp","state":"enabled"}"#, "mutually exclusive"),
        ] {
            let given = serde_json::from_str(arguments).expect("JSON");
            let error = call(&MODULE, &given, &mut stopped()).expect_err("it is wrong");
            assert!(error.contains(expected), "{arguments}: {error}");
        }
    }
}
