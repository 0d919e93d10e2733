//! `iptables`: rules, policies and chains of the kernel's packet filter.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Applied, Command, Intent, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Manages rules of iptables in memory; keeping them for the next boot is another's work.
pub const MODULE: Module = Module {
    name: "ansible.builtin.iptables",
    summary: "Manage rules of the kernel's packet filter",
    description: "Whether a rule is there is asked of iptables itself (`-C`). Rules live in memory: use `iptables-persistent` \
        or a template to keep them for the next boot. `flush` always acts.",
    example: "- name: Answer on the web's port\n  ansible.builtin.iptables:\n    chain: INPUT\n    protocol: tcp\n    destination_port: '80'\n    ctstate: NEW\n    jump: ACCEPT\n    comment: web\n",
    scope: Scope::Host,
    params: &[
        Param::new("table", Type::Str, "The table.")
            .choices(&["filter", "nat", "mangle", "raw", "security"])
            .default("filter"),
        Param::new("state", Type::Str, "Whether the rule (or the chain) should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("action", Type::Str, "Where a new rule goes: the end, or the front (or `rule_num`).")
            .choices(&["append", "insert"])
            .default("append"),
        Param::new("rule_num", Type::Str, "Number that an inserted rule is to get."),
        Param::new("ip_version", Type::Str, "Which version of IP.")
            .choices(&["ipv4", "ipv6", "both"])
            .default("ipv4"),
        Param::new("chain", Type::Str, "The chain."),
        Param::new("protocol", Type::Str, "Protocol; `!` in front negates, here and below."),
        Param::new("source", Type::Str, "Address or network that packets come from."),
        Param::new("destination", Type::Str, "Address or network that they go to."),
        Param::new(
            "tcp_flags",
            Type::Dict,
            "`flags`: flags that are looked at; `flags_set`: those that must be set.",
        ),
        Param::new("match", Type::List, "Extensions to load.").default("[]"),
        Param::new("jump", Type::Str, "Target."),
        Param::new("gateway", Type::Str, "Gateway of target TEE."),
        Param::new("log_prefix", Type::Str, "Prefix of target LOG, which it implies."),
        Param::new("log_level", Type::Str, "Level of target LOG, which it implies.").choices(&[
            "0", "1", "2", "3", "4", "5", "6", "7", "emerg", "alert", "crit", "error", "warning", "notice",
            "info", "debug",
        ]),
        Param::new("goto", Type::Str, "Chain to go on in."),
        Param::new("in_interface", Type::Str, "Interface on which packets come in."),
        Param::new("out_interface", Type::Str, "Interface on which they go out."),
        Param::new("fragment", Type::Str, "Given: second and further fragments only; `!`: all but these."),
        Param::new("set_counters", Type::Str, "Counters of the rule: packets and bytes."),
        Param::new("source_port", Type::Str, "Port or range that they come from."),
        Param::new("destination_port", Type::Str, "Port or range that they go to."),
        Param::new("destination_ports", Type::List, "Ports or ranges that they go to.").default("[]"),
        Param::new("to_ports", Type::Str, "Ports of target REDIRECT or MASQUERADE."),
        Param::new("to_destination", Type::Str, "Address of target DNAT."),
        Param::new("to_source", Type::Str, "Address of target SNAT."),
        Param::new("syn", Type::Str, "Only (or all but) packets that begin a connection.")
            .choices(&["ignore", "match", "negate"])
            .default("ignore"),
        Param::new("set_dscp_mark", Type::Str, "Value of target DSCP."),
        Param::new("set_dscp_mark_class", Type::Str, "Class of target DSCP."),
        Param::new("comment", Type::Str, "Comment of the rule."),
        Param::new("ctstate", Type::List, "States of the connection.").default("[]"),
        Param::new("src_range", Type::Str, "Range of addresses that they come from."),
        Param::new("dst_range", Type::Str, "Range of addresses that they go to."),
        Param::new("match_set", Type::Str, "Name of an ipset."),
        Param::new("match_set_flags", Type::Str, "What is looked up in it.")
            .choices(&["src", "dst", "src,dst", "dst,src", "dst,dst", "src,src"]),
        Param::new("limit", Type::Str, "How often the rule may fit on average, such as `2/second`."),
        Param::new("limit_burst", Type::Str, "How often at once."),
        Param::new("uid_owner", Type::Str, "Account whose packets it is about."),
        Param::new("gid_owner", Type::Str, "Group whose packets it is about."),
        Param::new("reject_with", Type::Str, "What target REJECT answers, which it implies."),
        Param::new("icmp_type", Type::Str, "Type of ICMP."),
        Param::new("flush", Type::Bool, "Take all rules out of the chain, or of all chains.")
            .default("false"),
        Param::new("policy", Type::Str, "The policy of the chain.")
            .choices(&["ACCEPT", "DROP", "QUEUE", "RETURN"]),
        Param::new("wait", Type::Str, "Seconds to wait for the lock of iptables."),
        Param::new(
            "chain_management",
            Type::Bool,
            "Make the chain for a rule; without a rule, make or delete it.",
        )
        .default("false"),
        Param::new("numeric", Type::Bool, "Look nothing up in DNS while listing a chain.").default("false"),
    ],
    rules: &[
        Rule::MutuallyExclusive(&["set_dscp_mark", "set_dscp_mark_class"]),
        Rule::RequiredBy { param: "set_dscp_mark", needs: &["jump"] },
        Rule::RequiredBy { param: "set_dscp_mark_class", needs: &["jump"] },
        Rule::RequiredIf { param: "jump", value: "tee", needs: &["gateway"], any: false },
        Rule::RequiredIf { param: "flush", value: "false", needs: &["chain"], any: false },
    ],
    returns: &[
        ("rule", "The rule as iptables takes it."),
        ("chain", "The chain."),
        ("table", "The table."),
        ("ip_version", "Which version of IP."),
        ("flush", "Whether rules were to be taken out."),
        ("state", "Whether it should be there."),
        ("chain_management", "Whether the chain itself is managed."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    table: String,
    state: String,
    action: String,
    rule_num: Option<String>,
    ip_version: String,
    chain: Option<String>,
    protocol: Option<String>,
    source: Option<String>,
    destination: Option<String>,
    tcp_flags: Option<TcpFlags>,
    #[serde(rename = "match", deserialize_with = "host::texts")]
    matches: Vec<String>,
    jump: Option<String>,
    gateway: Option<String>,
    log_prefix: Option<String>,
    log_level: Option<String>,
    goto: Option<String>,
    in_interface: Option<String>,
    out_interface: Option<String>,
    fragment: Option<String>,
    set_counters: Option<String>,
    source_port: Option<String>,
    destination_port: Option<String>,
    #[serde(deserialize_with = "host::texts")]
    destination_ports: Vec<String>,
    to_ports: Option<String>,
    to_destination: Option<String>,
    to_source: Option<String>,
    syn: String,
    set_dscp_mark: Option<String>,
    set_dscp_mark_class: Option<String>,
    comment: Option<String>,
    #[serde(deserialize_with = "host::texts")]
    ctstate: Vec<String>,
    src_range: Option<String>,
    dst_range: Option<String>,
    match_set: Option<String>,
    match_set_flags: Option<String>,
    limit: Option<String>,
    limit_burst: Option<String>,
    uid_owner: Option<String>,
    gid_owner: Option<String>,
    reject_with: Option<String>,
    icmp_type: Option<String>,
    flush: bool,
    policy: Option<String>,
    wait: Option<String>,
    chain_management: bool,
    numeric: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TcpFlags {
    #[serde(deserialize_with = "host::optional_texts")]
    flags: Option<Vec<String>>,
    #[serde(deserialize_with = "host::optional_texts")]
    flags_set: Option<Vec<String>>,
}

/// The words of a rule while it is put together.
#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    /// An option with its value; `!` in front of the value negates.
    fn option(&mut self, flag: &str, value: Option<&String>) {
        let Some(value) = value else { return };
        let value = match value.strip_prefix('!') {
            Some(rest) => {
                self.0.push("!".into());
                rest.trim_start()
            }
            None => value,
        };
        self.0.extend([flag.to_string(), value.to_string()]);
    }

    fn load(&mut self, extension: &str) {
        self.0.extend(["-m".to_string(), extension.to_string()]);
    }

    /// An option of an extension, with the extension.
    fn with(&mut self, extension: &str, flag: &str, value: Option<&String>) {
        if value.is_some() {
            self.load(extension);
            self.option(flag, value);
        }
    }
}

impl Args {
    /// The target, which some options imply.
    fn target(&self) -> Result<Option<String>> {
        if self.log_prefix.is_some() || self.log_level.is_some() {
            return match self.jump.as_deref() {
                None => Ok(Some("LOG".into())),
                Some("LOG") => Ok(self.jump.clone()),
                Some(_) => {
                    Err(ModuleError::new("Logging options can only be used with the LOG jump target."))
                }
            };
        }
        if self.jump.is_none() && self.reject_with.is_some() {
            return Ok(Some("REJECT".into()));
        }
        Ok(self.jump.clone())
    }

    fn words(&self, six: bool) -> Result<Vec<String>> {
        let mut words = Words::default();
        let comma = |items: &[String]| (!items.is_empty()).then(|| items.join(","));
        words.option("-w", self.wait.as_ref());
        words.option("-p", self.protocol.as_ref());
        words.option("-s", self.source.as_ref());
        words.option("-d", self.destination.as_ref());
        for extension in &self.matches {
            words.load(extension);
        }
        if let Some(TcpFlags { flags: Some(flags), flags_set: Some(set) }) = &self.tcp_flags {
            words.0.extend(["--tcp-flags".to_string(), flags.join(","), set.join(",")]);
        }
        let target = self.target()?;
        words.option("-j", target.as_ref());
        words.option("--gateway", self.gateway.as_ref());
        words.option("--log-prefix", self.log_prefix.as_ref());
        words.option("--log-level", self.log_level.as_ref());
        words.option("--to-destination", self.to_destination.as_ref());
        words.with("multiport", "--dports", comma(&self.destination_ports).as_ref());
        words.option("--to-source", self.to_source.as_ref());
        words.option("-g", self.goto.as_ref());
        words.option("-i", self.in_interface.as_ref());
        words.option("-o", self.out_interface.as_ref());
        if let Some(fragment) = &self.fragment {
            words.0.extend(fragment.starts_with('!').then(|| "!".to_string()));
            words.0.push("-f".into());
        }
        if let Some(counters) = &self.set_counters {
            words.0.push("-c".into());
            words.0.extend(counters.split_whitespace().map(String::from));
        }
        words.option("--source-port", self.source_port.as_ref());
        words.option("--destination-port", self.destination_port.as_ref());
        words.option("--to-ports", self.to_ports.as_ref());
        words.option("--set-dscp", self.set_dscp_mark.as_ref());
        words.option("--set-dscp-class", self.set_dscp_mark_class.as_ref());
        match self.syn.as_str() {
            "match" => words.0.push("--syn".into()),
            "negate" => words.0.extend(["!".to_string(), "--syn".into()]),
            _ => {}
        }
        let states = comma(&self.ctstate);
        let loads = |name: &str| self.matches.iter().any(|extension| extension == name);
        if loads("conntrack") {
            words.option("--ctstate", states.as_ref());
        } else if loads("state") {
            words.option("--state", states.as_ref());
        } else {
            words.with("conntrack", "--ctstate", states.as_ref());
        }
        if (self.src_range.is_some() || self.dst_range.is_some()) && !loads("iprange") {
            words.load("iprange");
        }
        words.option("--src-range", self.src_range.as_ref());
        words.option("--dst-range", self.dst_range.as_ref());
        if let Some(set) = &self.match_set {
            if !loads("set") {
                words.load("set");
            }
            words.option("--match-set", Some(set));
            words.0.extend(self.match_set_flags.clone());
        }
        if self.limit.is_some() || self.limit_burst.is_some() {
            words.load("limit");
        }
        words.option("--limit", self.limit.as_ref());
        words.option("--limit-burst", self.limit_burst.as_ref());
        words.with("owner", "--uid-owner", self.uid_owner.as_ref());
        words.with("owner", "--gid-owner", self.gid_owner.as_ref());
        words.option("--reject-with", self.reject_with.as_ref());
        words.option(if six { "--icmpv6-type" } else { "--icmp-type" }, self.icmp_type.as_ref());
        if let Some(comment) = &self.comment {
            words.load("comment");
            words.0.extend(["--comment".to_string(), comment.clone()]);
        }
        Ok(words.0)
    }
}

/// One of the two programs, and the table.
struct Filter<'a> {
    program: String,
    args: &'a Args,
    chain: String,
    rule: Vec<String>,
}

impl Filter<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let head = [self.program.as_str(), "-t", &self.args.table];
        Command::new(head.into_iter().chain(words.iter().copied()))
    }

    fn with_rule(&self, words: &[&str]) -> Command {
        let mut command = self.command(words);
        command.argv.extend(self.rule.iter().map(Into::into));
        command
    }

    fn id(&self, what: &str) -> String {
        let program = self.program.rsplit('/').next().unwrap_or_default();
        [program, &self.args.table, &self.chain, what].join(" ").trim_end().to_string()
    }

    fn act(
        &self,
        command: &Command,
        id: String,
        before: Value,
        after: Value,
        undo: Option<Command>,
        system: &mut dyn System,
    ) -> Result<()> {
        let intent = Intent { kind: "firewall", id, before, after, undo, ..Intent::default() };
        host::carry_out(command, intent, "iptables failed", system)?;
        Ok(())
    }

    /// What a listing of the chain says; `None` if there is no such chain.
    fn listing(&self, system: &mut dyn System) -> Result<Option<String>> {
        let mut words = vec!["-L", self.chain.as_str()];
        words.extend(self.args.numeric.then_some("--numeric"));
        let output = host::ask(self.command(&words).argv, system)?;
        Ok(output.success().then(|| output.stdout_text()))
    }

    fn run(&self, system: &mut dyn System) -> Result<()> {
        let present = self.args.state == "present";
        if self.args.flush {
            let mut words = vec!["-F"];
            words.extend((!self.chain.is_empty()).then_some(self.chain.as_str()));
            let before = map_of([("flushed", false)]).into();
            let after = map_of([("flushed", true)]).into();
            return self.act(&self.command(&words), self.id("flush"), before, after, None, system);
        }
        if let Some(policy) = &self.args.policy {
            return self.set_policy(policy, system);
        }
        if self.rule.is_empty() && self.args.chain_management {
            return self.set_chain(present, system);
        }
        if self.args.chain_management && present {
            self.set_chain(true, system)?;
        }
        self.set_rule(present, system)
    }

    fn set_policy(&self, policy: &str, system: &mut dyn System) -> Result<()> {
        let listing = self.listing(system)?.unwrap_or_default();
        let before = listing
            .lines()
            .next()
            .and_then(|line| line.split("(policy ").nth(1))
            .and_then(|rest| rest.split([' ', ')']).next())
            .map(str::to_string);
        let Some(before) = before else {
            return Err(ModuleError::new(format!("Can't detect current policy of chain {}", self.chain)));
        };
        if before != policy {
            let undo = self.command(&["-P", &self.chain, &before]);
            let command = self.command(&["-P", &self.chain, policy]);
            let states = [before.as_str(), policy].map(|policy| map_of([("policy", policy)]).into());
            let [before, after] = states;
            self.act(&command, self.id("policy"), before, after, Some(undo), system)?;
        }
        let state = map_of([("policy", policy)]).into();
        system.applied(Applied { kind: "firewall".into(), id: self.id("policy"), state });
        Ok(())
    }

    fn set_chain(&self, present: bool, system: &mut dyn System) -> Result<()> {
        let there = self.listing(system)?.is_some();
        if there != present {
            let (word, back) = if present { ("-N", "-X") } else { ("-X", "-N") };
            let (command, undo) = (self.command(&[word, &self.chain]), self.command(&[back, &self.chain]));
            let exists: Value = map_of([("present", true)]).into();
            let (before, after) = if present { (Value::Null, exists) } else { (exists, Value::Null) };
            self.act(&command, self.id("chain"), before, after, Some(undo), system)?;
        }
        let state = if present { map_of([("present", true)]).into() } else { Value::Null };
        system.applied(Applied { kind: "firewall".into(), id: self.id("chain"), state });
        Ok(())
    }

    fn set_rule(&self, present: bool, system: &mut dyn System) -> Result<()> {
        let there = host::ask(self.with_rule(&["-C", &self.chain]).argv, system)?;
        // 1: there is no such rule; 2: the command itself makes no sense.
        if there.code == 2 {
            let command = self.with_rule(&["-C", &self.chain]);
            return Err(ModuleError::command("iptables does not take the rule", &command, &there));
        }
        let there = there.success();
        let id = self.id(&self.rule.join(" "));
        let exists: Value = map_of([("present", true)]).into();
        if present && !there {
            let number = self.args.rule_num.as_deref();
            let mut words = match self.args.action.as_str() {
                "insert" => vec!["-I", &self.chain],
                _ => vec!["-A", &self.chain],
            };
            words.extend(number.filter(|_| self.args.action == "insert"));
            let undo = self.with_rule(&["-D", &self.chain]);
            self.act(&self.with_rule(&words), id.clone(), Value::Null, exists.clone(), Some(undo), system)?;
        } else if there && !present {
            let undo = self.with_rule(&["-A", &self.chain]);
            let command = self.with_rule(&["-D", &self.chain]);
            self.act(&command, id.clone(), exists.clone(), Value::Null, Some(undo), system)?;
        }
        let state = if present { exists } else { Value::Null };
        system.applied(Applied { kind: "firewall".into(), id, state });
        Ok(())
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    if args.flush && args.policy.is_some() {
        return Err(ModuleError::new("parameters are mutually exclusive: flush|policy"));
    }
    let programs: &[(&str, bool)] = match args.ip_version.as_str() {
        "ipv4" => &[("iptables", false)],
        "ipv6" => &[("ip6tables", true)],
        _ => &[("iptables", false), ("ip6tables", true)],
    };
    let chain = args.chain.clone().unwrap_or_default();
    let mut shown = String::new();
    for (program, six) in programs {
        let rule = args.words(*six)?;
        if shown.is_empty() {
            shown = rule.join(" ");
        }
        let program = host::need_program(program, system)?;
        Filter { program, args, chain: chain.clone(), rule }.run(system)?;
    }
    Ok(Outcome::default()
        .set("ip_version", args.ip_version.as_str())
        .set("table", args.table.as_str())
        .set("chain", args.chain.clone())
        .set("flush", args.flush)
        .set("rule", shown)
        .set("state", args.state.as_str())
        .set("chain_management", args.chain_management)
        .set("wait", args.wait.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{call, on_fake};
    use crate::system::Output;
    use crate::system::fake::Fake;

    /// A machine whose rules are lines of a file, chain by chain.
    fn machine() -> Fake {
        let mut fake = Fake::new()
            .with_file(
                "/state/iptables",
                "policy INPUT ACCEPT\nINPUT -p tcp --destination-port 22 -j ACCEPT\n",
            )
            .with_file("/state/ip6tables", "policy INPUT ACCEPT\n");
        for program in ["iptables", "ip6tables"] {
            let path = format!("/usr/sbin/{program}");
            fake = fake.with_program(&path);
            let store = format!("/state/{program}");
            fake.on(&[&path], true, move |fake, command| {
                let words: Vec<String> =
                    command.argv[3..].iter().map(|word| word.to_string_lossy().into_owned()).collect();
                let text = fake.text(&store).unwrap_or_default();
                let line = words[1..].join(" ") + "\n";
                let chain = words.get(1).cloned().unwrap_or_default();
                let after = match words[0].as_str() {
                    "-C" => {
                        return if text.contains(&line) {
                            Output::ok("")
                        } else {
                            Output::fails(1, "no such rule")
                        };
                    }
                    "-L" => {
                        let policy = text.lines().find_map(|line| {
                            line.strip_prefix(&format!("policy {chain} ")).map(str::to_string)
                        });
                        return match policy {
                            Some(policy) => Output::ok(&format!("Chain {chain} (policy {policy})\n")),
                            None if text.contains(&format!("chain {chain}\n")) => {
                                Output::ok(&format!("Chain {chain} (0 references)\n"))
                            }
                            None => Output::fails(1, "no such chain"),
                        };
                    }
                    "-A" | "-I" => text + &line,
                    "-D" => text.replace(&line, ""),
                    "-N" => format!("{text}chain {chain}\n"),
                    "-X" => text.replace(&format!("chain {chain}\n"), ""),
                    "-P" => text
                        .lines()
                        .map(|line| {
                            if line.starts_with(&format!("policy {chain} ")) {
                                format!("policy {chain} {}\n", words[2])
                            } else {
                                format!("{line}\n")
                            }
                        })
                        .collect(),
                    _ => return Output::fails(2, "what?"),
                };
                fake.put(&store, after);
                Output::ok("")
            });
        }
        fake
    }

    #[test]
    fn rules_policies_and_chains() {
        // Arguments, commands that act, whether it can be taken back.
        let table: &[(&str, &[&str])] = &[
            (
                r#"{"chain":"INPUT","protocol":"tcp","jump":"ACCEPT","comment":"a b","ip_version":"both"}"#,
                &[
                    "/usr/sbin/iptables -t filter -A INPUT -p tcp -j ACCEPT -m comment --comment 'a b'",
                    "/usr/sbin/ip6tables -t filter -A INPUT -p tcp -j ACCEPT -m comment --comment 'a b'",
                ],
            ),
            (
                r#"{"chain":"INPUT","source":"!10.0.0.0/8","jump":"DROP"}"#,
                &["/usr/sbin/iptables -t filter -A INPUT '!' -s 10.0.0.0/8 -j DROP"],
            ),
            (r#"{"chain":"INPUT","policy":"ACCEPT"}"#, &[]),
            (r#"{"chain":"INPUT","policy":"DROP"}"#, &["/usr/sbin/iptables -t filter -P INPUT DROP"]),
            (r#"{"chain":"MINE","chain_management":true}"#, &["/usr/sbin/iptables -t filter -N MINE"]),
            (r#"{"chain":"MINE","chain_management":true,"state":"absent"}"#, &[]),
            (
                r#"{"chain":"MINE","chain_management":true,"jump":"RETURN","action":"append"}"#,
                &["/usr/sbin/iptables -t filter -N MINE", "/usr/sbin/iptables -t filter -A MINE -j RETURN"],
            ),
            (r#"{"chain":"INPUT","jump":"DROP","state":"absent"}"#, &[]),
        ];
        for (arguments, expected) in table {
            let verdict = on_fake(&MODULE, machine, arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            assert_eq!(verdict.acted(), *expected, "{arguments}");
            assert!(verdict.rolled_back, "{arguments}");
        }
        let mut fake = machine();
        let flush = serde_json::from_str(r#"{"flush":true,"table":"nat"}"#).expect("JSON");
        call(&MODULE, &flush, &mut fake).expect_err("the fake has no -F");
        assert_eq!(fake.log(), ["! /usr/sbin/iptables -t nat -F"]);
    }

    #[test]
    fn a_rule_is_written_as_iptables_takes_it() {
        for (arguments, expected) in [
            (
                r#"{"destination_ports":["80","443","8081:8083"],"protocol":"tcp"}"#,
                "-p tcp -m multiport --dports 80,443,8081:8083",
            ),
            (
                r#"{"ctstate":["ESTABLISHED","RELATED"],"jump":"ACCEPT"}"#,
                "-j ACCEPT -m conntrack --ctstate ESTABLISHED,RELATED",
            ),
            (r#"{"ctstate":"NEW","match":["state"]}"#, "-m state --state NEW"),
            (r#"{"log_prefix":"IN: ","log_level":"info"}"#, "-j LOG --log-prefix IN:  --log-level info"),
            (
                r#"{"tcp_flags":{"flags":["ALL"],"flags_set":["ACK","RST"]},"protocol":"tcp","syn":"negate"}"#,
                "-p tcp --tcp-flags ALL ACK,RST ! --syn",
            ),
            (r#"{"limit":"2/second","limit_burst":"20"}"#, "-m limit --limit 2/second --limit-burst 20"),
            (r#"{"reject_with":"tcp-reset"}"#, "-j REJECT --reject-with tcp-reset"),
            (
                r#"{"src_range":"10.0.0.1-10.0.0.9","match_set":"bad","match_set_flags":"src"}"#,
                "-m iprange --src-range 10.0.0.1-10.0.0.9 -m set --match-set bad src",
            ),
            (
                r#"{"uid_owner":"!root","fragment":"!","set_counters":"1 2"}"#,
                "! -f -c 1 2 -m owner ! --uid-owner root",
            ),
            (r#"{"icmp_type":"8","protocol":"icmp","wait":"5"}"#, "-w 5 -p icmp --icmp-type 8"),
            (
                r#"{"jump":"DNAT","to_destination":"1.2.3.4:80","in_interface":"eth0"}"#,
                "-j DNAT --to-destination 1.2.3.4:80 -i eth0",
            ),
        ] {
            let mut given: serde_json::Value = serde_json::from_str(arguments).expect("JSON");
            given["chain"] = "INPUT".into();
            let verdict = on_fake(&MODULE, machine, &given.to_string());
            assert_eq!(verdict.text("rule"), expected, "{arguments}");
        }
        let given =
            serde_json::from_str(r#"{"chain":"INPUT","log_prefix":"x","jump":"DROP"}"#).expect("JSON");
        let error = call(&MODULE, &given, &mut machine()).expect_err("two targets");
        assert!(error.contains("LOG jump target"), "{error}");
    }
}
