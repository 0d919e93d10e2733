//! `ufw`: the firewall of Ubuntu and Debian.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Applied, Command, Intent, Output, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Manages rules, policies and state of ufw.
pub const MODULE: Module = Module {
    name: "community.general.ufw",
    summary: "Manage the firewall with ufw",
    description: "Whether a rule is there already is asked of ufw itself (`ufw --dry-run`), so that it means exactly what ufw \
        means by it. Default policies are compared with `/etc/default/ufw`, so that they are exact also while the firewall \
        is off. `state: reloaded` and `state: reset` always act.",
    example: "- name: Let SSH in\n  community.general.ufw:\n    rule: allow\n    port: '22'\n    proto: tcp\n\n- name: Everything else stays out\n  community.general.ufw:\n    state: enabled\n    policy: deny\n    direction: incoming\n",
    scope: Scope::Host,
    params: &[
        Param::new(
            "state",
            Type::Str,
            "Turn the firewall on or off, load its rules again, or forget them all.",
        )
        .choices(&["disabled", "enabled", "reloaded", "reset"]),
        Param::new("default", Type::Str, "The policy for what no rule is about, in one `direction`.")
            .aliases(&["policy"])
            .choices(&["allow", "deny", "reject"]),
        Param::new(
            "direction",
            Type::Str,
            "Direction of a rule (`in`, `out`) or a policy (`incoming`, `outgoing`, `routed`).",
        )
        .choices(&["in", "incoming", "out", "outgoing", "routed"]),
        Param::new("logging", Type::Str, "What is logged.")
            .choices(&["on", "off", "low", "medium", "high", "full"]),
        Param::new("insert", Type::Int, "Number that the rule is to get, counted from `insert_relative_to`."),
        Param::new("insert_relative_to", Type::Str, "What `insert` is counted from.")
            .choices(&["first-ipv4", "first-ipv6", "last-ipv4", "last-ipv6", "zero"])
            .default("zero"),
        Param::new("rule", Type::Str, "What becomes of packets that fit.")
            .choices(&["allow", "deny", "limit", "reject"]),
        Param::new("log", Type::Bool, "Log new connections that fit the rule.").default("false"),
        Param::new("from_ip", Type::Str, "Address or network that they come from.")
            .aliases(&["from", "src"])
            .default("any"),
        Param::new("from_port", Type::Str, "Port that they come from."),
        Param::new("to_ip", Type::Str, "Address or network that they go to.")
            .aliases(&["dest", "to"])
            .default("any"),
        Param::new("to_port", Type::Str, "Port that they go to: a number, a range `a:b`, a list `a,b`.")
            .aliases(&["port"]),
        Param::new("proto", Type::Str, "Protocol.")
            .aliases(&["protocol"])
            .choices(&["any", "tcp", "udp", "ipv6", "esp", "ah", "gre", "igmp", "vrrp"]),
        Param::new("name", Type::Str, "Name of an application profile of `/etc/ufw/applications.d`.")
            .aliases(&["app"]),
        Param::new("delete", Type::Bool, "Take the rule away.").default("false"),
        Param::new("interface", Type::Str, "Interface of the rule, in its `direction`.").aliases(&["if"]),
        Param::new("interface_in", Type::Str, "Interface on which packets come in.").aliases(&["if_in"]),
        Param::new("interface_out", Type::Str, "Interface on which packets go out.").aliases(&["if_out"]),
        Param::new("route", Type::Bool, "The rule is for packets that are passed on.").default("false"),
        Param::new("comment", Type::Str, "Comment of the rule."),
    ],
    rules: &[
        Rule::MutuallyExclusive(&["name", "proto", "logging"]),
        Rule::MutuallyExclusive(&["direction", "interface_in"]),
        Rule::MutuallyExclusive(&["direction", "interface_out"]),
        Rule::RequiredBy { param: "interface", needs: &["direction"] },
        Rule::RequiredOneOf(&["state", "default", "rule", "logging"]),
    ],
    returns: &[("commands", "The commands that ran."), ("msg", "What `ufw status verbose` says afterwards.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    state: Option<String>,
    #[serde(rename = "default")]
    policy: Option<String>,
    direction: Option<String>,
    logging: Option<String>,
    insert: Option<i64>,
    insert_relative_to: String,
    rule: Option<String>,
    log: bool,
    from_ip: String,
    from_port: Option<String>,
    to_ip: String,
    to_port: Option<String>,
    proto: Option<String>,
    name: Option<String>,
    delete: bool,
    interface: Option<String>,
    interface_in: Option<String>,
    interface_out: Option<String>,
    route: bool,
    comment: Option<String>,
}

/// The program, and what it was told so far.
struct Ufw {
    program: String,
    commands: Vec<String>,
}

impl Ufw {
    fn ask(&mut self, words: &[String], system: &mut dyn System) -> Result<Output> {
        let argv: Vec<String> = std::iter::once(self.program.clone()).chain(words.iter().cloned()).collect();
        self.commands.push(argv.join(" "));
        host::ask(argv, system)
    }

    fn act(&mut self, words: &[String], intent: Intent, system: &mut dyn System) -> Result<()> {
        let argv = std::iter::once(self.program.clone()).chain(words.iter().cloned());
        let command = Command::new(argv).c_locale();
        self.commands.push(command.line());
        host::carry_out(&command, Intent { kind: "firewall", ..intent }, "ufw failed", system)?;
        Ok(())
    }

    /// The way back: another command of ufw.
    fn undo(&self, words: &[&str]) -> Option<Command> {
        Some(Command::new(std::iter::once(self.program.as_str()).chain(words.iter().copied())))
    }
}

fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(ToString::to_string).collect()
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    check(args)?;
    let mut ufw = Ufw { program: host::need_program("ufw", system)?, commands: Vec::new() };
    let status = ufw.ask(&words(&["status", "verbose"]), system)?;
    // The package may be one that this dry run would install.
    let missing = status.code == 127 && system.uncertain().is_some();
    if !status.success() && !missing {
        let command = Command::new([ufw.program.as_str(), "status", "verbose"]);
        return Err(ModuleError::command("ufw does not tell its state", &command, &status));
    }
    let status = status.stdout_text();
    if let Some(state) = &args.state {
        set_state(state, status.starts_with("Status: active"), &mut ufw, system)?;
    }
    if let Some(policy) = &args.policy {
        set_policy(policy, args.direction.as_deref(), &mut ufw, system)?;
    }
    if let Some(rule) = &args.rule {
        set_rule(args, rule, &mut ufw, system)?;
    }
    if let Some(level) = &args.logging {
        set_logging(level, &mut ufw, system)?;
    }
    let after = if system.changes().is_empty() {
        status
    } else {
        ufw.ask(&words(&["status", "verbose"]), system)?.stdout_text()
    };
    let commands = Value::list(ufw.commands.iter().cloned().map(Value::from).collect());
    Ok(Outcome::default().set("commands", commands).set("msg", after.trim_end()))
}

fn check(args: &Args) -> Result<()> {
    let direction = args.direction.as_deref();
    if args.policy.is_some() && matches!(direction, Some("in" | "out")) {
        return Err(ModuleError::new(
            "For default, direction must be one of \"outgoing\", \"incoming\" and \"routed\", or direction must not be specified.",
        ));
    }
    if args.rule.is_some() && !matches!(direction, None | Some("in" | "out")) {
        return Err(ModuleError::new(
            "For rules, direction must be one of \"in\" and \"out\", or direction must not be specified.",
        ));
    }
    if !args.route && args.interface_in.is_some() && args.interface_out.is_some() {
        return Err(ModuleError::new("Only route rules can combine interface_in and interface_out"));
    }
    Ok(())
}

fn set_state(state: &str, active: bool, ufw: &mut Ufw, system: &mut dyn System) -> Result<()> {
    let (verb, before, after, undo) = match state {
        "enabled" => ("enable", active, true, ufw.undo(&["disable"])),
        "disabled" => ("disable", active, false, ufw.undo(&["--force", "enable"])),
        "reloaded" => ("reload", active, active, None),
        // ufw keeps copies of its rules, but no command that takes them back.
        _ => ("reset", active, false, None),
    };
    if matches!(state, "reloaded" | "reset") || before != after {
        let intent = Intent {
            id: format!("ufw {state}"),
            before: map_of([("active", before)]).into(),
            after: map_of([("active", after)]).into(),
            undo,
            ..Intent::default()
        };
        ufw.act(&words(&["--force", verb]), intent, system)?;
    }
    if matches!(state, "enabled" | "disabled") {
        let state = map_of([("active", after)]).into();
        system.applied(Applied { kind: "firewall".into(), id: "ufw state".into(), state });
    }
    Ok(())
}

/// A setting of a file of assignments.
fn setting(path: &str, name: &str, system: &mut dyn System) -> Option<String> {
    let text = host::read_text(path, system)?;
    text.lines()
        .filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))
        .next_back()
        .map(|value| value.trim().trim_matches('"').to_string())
}

fn set_policy(policy: &str, direction: Option<&str>, ufw: &mut Ufw, system: &mut dyn System) -> Result<()> {
    let direction = direction.unwrap_or("incoming");
    let name = match direction {
        "incoming" => "DEFAULT_INPUT_POLICY",
        "outgoing" => "DEFAULT_OUTPUT_POLICY",
        _ => "DEFAULT_FORWARD_POLICY",
    };
    let before = setting("/etc/default/ufw", name, system).map(|value| match value.as_str() {
        "ACCEPT" | "ACCEPT_NO_TRACK" => "allow".to_string(),
        "REJECT" => "reject".to_string(),
        _ => "deny".to_string(),
    });
    if before.as_deref() != Some(policy) {
        let undo = before.as_deref().and_then(|before| ufw.undo(&["default", before, direction]));
        let intent = Intent {
            id: format!("ufw default {direction}"),
            before: map_of([("policy", before)]).into(),
            after: map_of([("policy", policy)]).into(),
            undo,
            ..Intent::default()
        };
        ufw.act(&words(&["default", policy, direction]), intent, system)?;
    }
    let state = map_of([("policy", policy)]).into();
    system.applied(Applied { kind: "firewall".into(), id: format!("ufw default {direction}"), state });
    Ok(())
}

fn set_logging(level: &str, ufw: &mut Ufw, system: &mut dyn System) -> Result<()> {
    let before = setting("/etc/ufw/ufw.conf", "LOGLEVEL", system);
    // `on` is any level but off.
    let same = match level {
        "on" => before.as_deref().is_some_and(|before| before != "off"),
        _ => before.as_deref() == Some(level),
    };
    if !same {
        let intent = Intent {
            id: "ufw logging".into(),
            before: map_of([("logging", before.clone())]).into(),
            after: map_of([("logging", level)]).into(),
            undo: before.as_deref().and_then(|before| ufw.undo(&["logging", before])),
            ..Intent::default()
        };
        ufw.act(&words(&["logging", level]), intent, system)?;
    }
    let state = map_of([("logging", level)]).into();
    system.applied(Applied { kind: "firewall".into(), id: "ufw logging".into(), state });
    Ok(())
}

/// The words of a rule from its action on, as ufw takes them.
fn rule_words(args: &Args, rule: &str) -> Vec<String> {
    let mut out = vec![rule.to_string()];
    out.extend(args.direction.clone());
    if let Some(interface) = &args.interface {
        out.extend(["on".to_string(), interface.clone()]);
    }
    for (word, interface) in [("in", &args.interface_in), ("out", &args.interface_out)] {
        if let Some(interface) = interface {
            out.extend([word.to_string(), "on".into(), interface.clone()]);
        }
    }
    out.extend(args.log.then(|| "log".to_string()));
    let from_ip = Some(args.from_ip.clone());
    let to_ip = Some(args.to_ip.clone());
    for (word, value) in [
        ("from", &from_ip),
        ("port", &args.from_port),
        ("to", &to_ip),
        ("port", &args.to_port),
        ("proto", &args.proto),
        ("app", &args.name),
    ] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            out.extend([word.to_string(), value.clone()]);
        }
    }
    out
}

/// Numbers of the rules in `ufw status numbered`, and whether each is about IPv6.
fn numbered(text: &str) -> Vec<(i64, bool)> {
    text.lines()
        .filter_map(|line| {
            let number = line.strip_prefix('[')?.split(']').next()?.trim().parse().ok()?;
            Some((number, line.contains("(v6)")))
        })
        .collect()
}

/// The number that a rule is to get; `None` for the end.
fn position(args: &Args, ufw: &mut Ufw, system: &mut dyn System) -> Result<Option<i64>> {
    let Some(insert) = args.insert else { return Ok(None) };
    if args.insert_relative_to == "zero" {
        return Ok(Some(insert));
    }
    let rules = numbered(&ufw.ask(&words(&["status", "numbered"]), system)?.stdout_text());
    let last = rules.iter().map(|(number, _)| *number).max().unwrap_or(0);
    let last_v4 = rules.iter().filter(|(_, v6)| !v6).map(|(number, _)| *number).max();
    let has_v6 = rules.iter().any(|(_, v6)| *v6);
    let base = match args.insert_relative_to.as_str() {
        "first-ipv4" => 1,
        "last-ipv4" => last_v4.unwrap_or(1),
        "first-ipv6" => last_v4.unwrap_or(0) + 1,
        _ if has_v6 => last,
        _ => last + 1,
    };
    // ufw refuses a number beyond the last rule.
    Ok(Some(insert + base).filter(|number| *number <= last))
}

/// Whether everything that a trial run said is that there is nothing to do.
fn nothing_to_do(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
    lines.peek().is_some()
        && lines.all(|line| {
            line.starts_with("Skipping ")
                || line.starts_with("Could not delete non-existent rule")
                || line.starts_with("WARN:")
        })
}

fn set_rule(args: &Args, rule: &str, ufw: &mut Ufw, system: &mut dyn System) -> Result<()> {
    let plain = rule_words(args, rule);
    let mut head: Vec<String> = Vec::new();
    head.extend(args.route.then(|| "route".to_string()));
    let mut command = head.clone();
    if args.delete {
        command.push("delete".into());
    } else if let Some(number) = position(args, ufw, system)? {
        command.extend(["insert".into(), number.to_string()]);
    }
    command.extend(plain.iter().cloned());
    if let Some(comment) = args.comment.as_ref().filter(|comment| !comment.is_empty() && !args.delete) {
        command.extend(["comment".into(), comment.clone()]);
    }
    let trial: Vec<String> =
        std::iter::once("--dry-run".to_string()).chain(command.iter().cloned()).collect();
    let output = ufw.ask(&trial, system)?;
    let missing = output.code == 127 && system.uncertain().is_some();
    if !output.success() && !missing && !nothing_to_do(&output.stdout_text()) {
        let tried = Command::new(std::iter::once(ufw.program.clone()).chain(trial));
        return Err(ModuleError::command("ufw does not take the rule", &tried, &output));
    }
    let id = format!("ufw {}", head.iter().chain(&plain).cloned().collect::<Vec<_>>().join(" "));
    let there = map_of([("present", true)]);
    if missing || !nothing_to_do(&output.stdout_text()) {
        let mut back: Vec<&str> = head.iter().map(String::as_str).collect();
        if !args.delete {
            back.push("delete");
        }
        back.extend(plain.iter().map(String::as_str));
        let (before, after) = if args.delete {
            (Value::map(there.clone()), Value::Null)
        } else {
            (
                Value::Null,
                map_of([("present", Value::Bool(true)), ("comment", args.comment.clone().into())]).into(),
            )
        };
        let intent = Intent { id: id.clone(), before, after, undo: ufw.undo(&back), ..Intent::default() };
        // A trial leaves them out, so that they are refused only now.
        ufw.act(&command, intent, system)?;
    }
    let state = if args.delete { Value::Null } else { there.into() };
    system.applied(Applied { kind: "firewall".into(), id, state });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{call, on_fake};
    use crate::system::fake::Fake;

    const INPUT: &str = "*filter\n### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in\n";

    /// A machine with one rule: SSH is let in.
    fn machine() -> Fake {
        Fake::new()
            .with_program("/usr/sbin/ufw")
            .with_file("/etc/default/ufw", "DEFAULT_INPUT_POLICY=\"DROP\"\nDEFAULT_OUTPUT_POLICY=\"ACCEPT\"\nDEFAULT_FORWARD_POLICY=\"DROP\"\n")
            .with_file("/etc/ufw/ufw.conf", "ENABLED=no\nLOGLEVEL=low\n")
            .with_file("/state/rules", "allow from any to any port 22 proto tcp\n")
            .with_behaviour(&["/usr/sbin/ufw"], |fake, command| {
                let words: Vec<String> =
                    command.argv[1..].iter().map(|word| word.to_string_lossy().into_owned()).collect();
                let dry = words[0] == "--dry-run";
                let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
                let words = match words.as_slice() {
                    ["route", "delete", rest @ ..] => [&["delete", "route"], rest].concat(),
                    other => other.to_vec(),
                };
                let rules = fake.text("/state/rules").unwrap_or_default();
                let conf = fake.text("/etc/ufw/ufw.conf").unwrap_or_default();
                match words[0] {
                    "status" if words.get(1) == Some(&"numbered") => Output::ok("Status: active\n\n[ 1] 22/tcp ALLOW IN Anywhere\n[ 2] 80/tcp ALLOW IN Anywhere\n[ 3] 22/tcp (v6) ALLOW IN Anywhere (v6)\n"),
                    "status" => Output::ok(if conf.contains("ENABLED=yes") { "Status: active\nLogging: on (low)\n" } else { "Status: inactive\n" }),
                    "enable" | "disable" => {
                        let word = if words[0] == "enable" { "yes" } else { "no" };
                        fake.put("/etc/ufw/ufw.conf", format!("ENABLED={word}\nLOGLEVEL=low\n"));
                        Output::ok("")
                    }
                    "reload" | "reset" => Output::ok(""),
                    "logging" => {
                        fake.put("/etc/ufw/ufw.conf", format!("ENABLED=no\nLOGLEVEL={}\n", words[1]));
                        Output::ok("")
                    }
                    "default" => {
                        let text = fake.text("/etc/default/ufw").unwrap_or_default();
                        let policy = match words[1] { "allow" => "ACCEPT", "deny" => "DROP", _ => "REJECT" };
                        let name = match words[2] { "incoming" => "DEFAULT_INPUT_POLICY", "outgoing" => "DEFAULT_OUTPUT_POLICY", _ => "DEFAULT_FORWARD_POLICY" };
                        let text: String = text.lines().map(|line| if line.starts_with(name) { format!("{name}=\"{policy}\"\n") } else { format!("{line}\n") }).collect();
                        fake.put("/etc/default/ufw", text);
                        Output::ok("")
                    }
                    "delete" => {
                        let line = words[1..].join(" ") + "\n";
                        if !rules.contains(&line) {
                            return Output::ok("Could not delete non-existent rule\nCould not delete non-existent rule (v6)\n");
                        }
                        if !dry {
                            fake.put("/state/rules", rules.replace(&line, ""));
                        }
                        Output::ok(INPUT)
                    }
                    _ => {
                        let skip = if words[0] == "insert" { 2 } else { 0 };
                        let end = words.iter().position(|word| *word == "comment").unwrap_or(words.len());
                        let line = words[skip..end].join(" ") + "\n";
                        if rules.contains(&line) {
                            return Output::ok("Skipping adding existing rule\nSkipping adding existing rule (v6)\n");
                        }
                        if !dry {
                            fake.put("/state/rules", rules + &line);
                        }
                        Output::ok(INPUT)
                    }
                }
            })
    }

    #[test]
    fn rules_policies_state_and_logging() {
        // Arguments, and the commands that act.
        let table: &[(&str, &[&str])] = &[
            (r#"{"rule":"allow","port":"22","proto":"tcp"}"#, &[]),
            (
                r#"{"rule":"allow","port":22,"proto":"tcp","delete":true}"#,
                &["delete allow from any to any port 22 proto tcp"],
            ),
            (r#"{"rule":"allow","port":"80","delete":true}"#, &[]),
            (
                r#"{"rule":"deny","src":"10.0.0.0/8","to_port":"80:90","proto":"udp","log":true,"comment":"no web"}"#,
                &["deny log from 10.0.0.0/8 to any port 80:90 proto udp comment 'no web'"],
            ),
            (
                r#"{"rule":"allow","name":"Nginx Full","direction":"in","if":"eth0"}"#,
                &["allow in on eth0 from any to any app 'Nginx Full'"],
            ),
            (
                r#"{"rule":"allow","route":true,"if_in":"a","if_out":"b"}"#,
                &["route allow in on a out on b from any to any"],
            ),
            (
                r#"{"rule":"allow","port":"1","insert":0,"insert_relative_to":"last-ipv4"}"#,
                &["insert 2 allow from any to any port 1"],
            ),
            (
                r#"{"rule":"allow","port":"1","insert":5,"insert_relative_to":"first-ipv6"}"#,
                &["allow from any to any port 1"],
            ),
            (r#"{"rule":"allow","port":"1","insert":1}"#, &["insert 1 allow from any to any port 1"]),
            (r#"{"policy":"deny"}"#, &[]),
            (r#"{"default":"allow","direction":"routed"}"#, &["default allow routed"]),
            (r#"{"state":"disabled"}"#, &[]),
            (
                r#"{"state":"enabled","policy":"reject","direction":"incoming"}"#,
                &["--force enable", "default reject incoming"],
            ),
            (r#"{"logging":"on"}"#, &[]),
            (r#"{"logging":"full"}"#, &["logging full"]),
        ];
        for (arguments, expected) in table {
            let verdict = on_fake(&MODULE, machine, arguments);
            let acted: Vec<String> = verdict
                .log
                .iter()
                .filter_map(|line| line.strip_prefix("! /usr/sbin/ufw "))
                .map(String::from)
                .collect();
            assert_eq!(acted, *expected, "{arguments}");
            assert_eq!(verdict.changed, !expected.is_empty(), "{arguments}");
        }
        for arguments in [r#"{"state":"reloaded"}"#, r#"{"state":"reset"}"#] {
            let mut fake = machine();
            call(&MODULE, &serde_json::from_str(arguments).expect("JSON"), &mut fake).expect("it works");
            assert_eq!(fake.changes().len(), 1, "{arguments}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (arguments, expected) in [
            (r#"{"policy":"deny","direction":"in"}"#, "For default"),
            (r#"{"rule":"deny","direction":"incoming"}"#, "For rules"),
            (r#"{"rule":"deny","if_in":"a","if_out":"b"}"#, "Only route rules"),
            (r#"{"rule":"deny","if":"a"}"#, "required by 'interface'"),
            (r#"{}"#, "one of the following"),
        ] {
            let given = serde_json::from_str(arguments).expect("JSON");
            let error = call(&MODULE, &given, &mut machine()).expect_err("it is wrong");
            assert!(error.contains(expected), "{arguments}: {error}");
        }
    }
}
