//! `setpoint drift audit`, `fix`, `accept`, `ack` and `adopt`: what moved since it was applied, and what to do
//! about it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::history::{document, owed_text, owed_value, stamp};
use crate::cli::options::{self, Flags};
use crate::cli::run::{self, Prepared};
use crate::cli::{Console, bridge, extra_vars, look, secrets, state};
use crate::drift::judge::{Context, Judgement, described};
use crate::drift::plays::{Requests, play};
use crate::drift::{Gathered, Gatherer, Judged, adopt, group, judge};
use crate::engine::options::Only;
use crate::engine::{Engine, RunOptions, Stop};
use crate::event::{Event, Listener};
use crate::playbook::loader::LoadContext;
use crate::playbook::{Playbook, Task};
use crate::state::recorder::absolute;
use crate::state::{
    Ack, Applied, Finding, Login, NewAudit, NotedTask, Status, Store, Stored, TaskRef, Verdict, now,
};
use crate::value::{Map, Value, map_of};

/// Compare what was applied with what the hosts have; with playbooks, also with what they want. Changes nothing
#[derive(Args, Clone, Debug)]
#[command(after_help = AUDIT_HELP)]
pub struct Audit {
    /// Playbooks to compare with: tells what they want and no run has brought yet
    #[arg(value_name = "PLAYBOOK")]
    pub playbooks: Vec<PathBuf>,
    #[command(flatten)]
    pub reach: Reach,
    /// Show the differences in texts (with playbooks only: the store keeps no contents)
    #[arg(short = 'D', long)]
    pub diff: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

const AUDIT_HELP: &str = "\
Examples:
  setpoint drift audit -i inventory/              what did somebody change on the hosts?
  setpoint drift audit site.yml -i inventory/ -D  and what has the playbook moved on to?

Exit codes: 0 in sync, 2 drift, 3 only what has not been rolled out, 4 a host could not be reached, 1 error.
What is silenced by `setpoint drift ack` does not count.";

/// Which hosts, and how to reach them.
#[derive(Args, Clone, Debug, Default)]
pub struct Reach {
    #[command(flatten)]
    pub inventory: options::Inventory,
    #[command(flatten)]
    pub extra_vars: options::ExtraVars,
    #[command(flatten)]
    pub connection: options::Connection,
    #[command(flatten)]
    pub become_: options::Become,
    #[command(flatten)]
    pub vault: options::VaultPasswords,
    /// On how many hosts to look at a time (default: 64)
    #[arg(short, long, value_name = "N", help_heading = "Run")]
    pub forks: Option<usize>,
    #[command(flatten)]
    pub verbosity: options::Verbosity,
}

/// Apply the tasks again that own what was changed on the hosts, and the handlers that they notify; nothing else
#[derive(Args, Clone, Debug)]
pub struct Fix {
    /// The playbooks that own it (default: those that applied it)
    #[arg(value_name = "PLAYBOOK")]
    pub playbooks: Vec<PathBuf>,
    #[command(flatten)]
    pub reach: Reach,
    /// Only these resources: a name such as /etc/motd, kind:name, or a pattern with *
    #[arg(long, value_name = "RESOURCE", num_args = 1..)]
    pub only: Vec<String>,
    /// Show what would be done; change nothing
    #[arg(short = 'C', long)]
    pub check: bool,
    /// Show the differences
    #[arg(short = 'D', long)]
    pub diff: bool,
    #[command(flatten)]
    pub output: options::Output,
}

/// Which findings of the last audit.
#[derive(Args, Clone, Debug)]
pub struct Which {
    /// Resources: a name such as /etc/motd, kind:name, or a pattern with *; `ack` also takes handler:NAME
    #[arg(value_name = "RESOURCE", required = true)]
    pub resources: Vec<String>,
    /// Only on these hosts: names or patterns with *, comma-separated
    #[arg(short, long, value_name = "HOSTS")]
    pub limit: Option<String>,
}

/// Take what hosts have (as the last audit found it) as what was applied; what no longer belongs is forgotten
#[derive(Args, Clone, Debug)]
pub struct Accept {
    #[command(flatten)]
    pub which: Which,
}

/// Silence findings of the last audit until their value changes again, or let go of handlers that are owed
#[derive(Args, Clone, Debug)]
pub struct Acknowledge {
    #[command(flatten)]
    pub which: Which,
    /// Why
    #[arg(long, value_name = "TEXT", required_unless_present = "remove")]
    pub reason: Option<String>,
    /// Who answers for it (default: you)
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    /// For how long: 12h, 30d, 8w (default: until the value changes)
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
    /// Take the acknowledgement back
    #[arg(long, conflicts_with_all = ["reason", "owner", "expires"])]
    pub remove: bool,
}

/// Write a file as the host has it back into the repository where the task copies it as it is, or print the patch
#[derive(Args, Clone, Debug)]
pub struct Adopt {
    /// The file on the host
    #[arg(value_name = "PATH")]
    pub path: String,
    #[command(flatten)]
    pub reach: Reach,
    /// Overwrite the repository's file (otherwise the patch is printed)
    #[arg(long)]
    pub write: bool,
}

/// An audit that was made.
#[derive(Debug)]
pub struct Audited {
    /// Its name in the store.
    pub id: String,
    /// What was found.
    pub judged: Judged,
    /// How many hosts have each resource.
    pub totals: HashMap<(String, String), usize>,
    /// What was wrong besides.
    pub warnings: Vec<crate::diagnostic::Diagnostic>,
}

impl Audited {
    /// The exit that says how it stands.
    pub fn exit(&self) -> Exit {
        match self.judged.exit() {
            0 => Exit::Success,
            2 => Exit::Failed,
            3 => Exit::Pending,
            4 => Exit::Unreachable,
            _ => Exit::Error,
        }
    }
}

/// Makes an audit and records it.
///
/// # Errors
/// There is no store, no inventory, or a playbook can't be read.
pub fn make(
    reach: &Reach,
    playbooks: &[PathBuf],
    diff: bool,
    console: &mut Console,
) -> Result<Audited, Failure> {
    let mut prepared = prepare(reach, playbooks, console)?;
    prepared.options.check = true;
    prepared.options.look_only = true;
    prepared.options.diff = diff;
    let mut store = state::open(&prepared.settings, console)?;
    state::prune(&mut store, prepared.settings.state_keep)?;
    let hosts = known_hosts(&mut store, &prepared, console)?;
    let names: Vec<String> = playbooks.iter().map(|path| absolute(&path.to_string_lossy())).collect();
    let directory = console.around.cwd.to_string_lossy().into_owned();
    let gatherer = Gatherer::new(&directory);
    let limit = prepared.options.limit.clone();
    let mut engine = bridge::engine_for(prepared, Box::new(gatherer.clone()), console)?;
    let loaded = bridge::load(&engine, playbooks, console)?;
    let audit = NewAudit {
        id: engine.run_id().to_string(),
        playbooks: names.clone(),
        options: Value::map(limit.iter().map(|limit| ("limit".into(), limit.as_str().into())).collect()),
        operator: state::operator(console),
        commit: playbooks
            .first()
            .and_then(|path| crate::state::commit::of(&std::path::absolute(path).ok()?))
            .map(|commit| commit.id),
    };
    store.begin_audit(&audit)?;
    match look_at_all(&mut engine, &gatherer, &mut store, &hosts, &names, &loaded) {
        Ok((judged, applied, warnings)) => {
            let status =
                if judged.hosts.iter().any(|host| !host.reached) { Status::Unreachable } else { Status::Ok };
            let findings: Vec<Finding> = judged.findings.iter().map(|one| one.finding.clone()).collect();
            store.end_audit(&audit.id, status, i64::from(judged.exit()), &judged.hosts, &findings)?;
            let totals = totals(&applied, &findings);
            Ok(Audited { id: audit.id, judged, totals, warnings })
        }
        Err(failure) => {
            store.end_audit(&audit.id, Status::Error, 1, &[], &[])?;
            Err(failure)
        }
    }
}

/// How many hosts have each resource of which there is a finding.
fn totals(applied: &[Applied], findings: &[Finding]) -> HashMap<(String, String), usize> {
    let mut totals: HashMap<(&str, &str), usize> =
        findings.iter().map(|one| ((one.kind.as_str(), one.id.as_str()), 0)).collect();
    if !totals.is_empty() {
        for one in applied {
            if let Some(total) = totals.get_mut(&(&*one.kind, &*one.id)) {
                *total += 1;
            }
        }
    }
    // What no run has applied is on the host that it was found on.
    totals.into_iter().map(|((kind, id), total)| ((kind.to_string(), id.to_string()), total.max(1))).collect()
}

/// Looks at the hosts, lets the playbooks say what they want, and judges.
fn look_at_all(
    engine: &mut Engine,
    gatherer: &Gatherer,
    store: &mut Store,
    hosts: &[String],
    playbooks: &[String],
    loaded: &[Playbook],
) -> Result<(Judged, Vec<Applied>, Vec<crate::diagnostic::Diagnostic>), Failure> {
    let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let applied = store.applied(&names)?;
    let requests = Requests::of_applied(&applied);
    ask(engine, &requests)?;
    if !loaded.is_empty() {
        engine.run(loaded).map_err(stopped)?;
    }
    let mut gathered = gatherer.take();
    let mut hosts = hosts.to_vec();
    let new: Vec<String> = gathered.played.iter().filter(|host| !hosts.contains(host)).cloned().collect();
    hosts.extend(new);
    hosts.sort_unstable();
    let confirmed = requests.confirmed(&applied, &gathered.looks);
    let acks = store.acks()?;
    let salt = store.salt().to_string();
    let context = Context {
        applied: &applied,
        confirmed: &confirmed,
        hosts: &hosts,
        playbooks,
        acks: &acks,
        salt: &salt,
    };
    let mut judged = judge(&context, &gathered);
    let paths = to_be_explained(&judged);
    if !paths.is_empty() {
        ask(engine, &Requests::of_hints(paths))?;
        explain(&mut gathered, gatherer.take());
        judged = judge(&context, &gathered);
    }
    judged.owed = store.owed(None)?;
    judged.owed.retain(|owed| hosts.contains(&owed.host));
    Ok((judged, applied, gathered.warnings))
}

/// Asks the hosts, each once.
fn ask(engine: &mut Engine, requests: &Requests) -> Result<(), Failure> {
    if requests.is_empty() {
        return Ok(());
    }
    let shared = engine.shared.clone();
    {
        let mut asked = shared.options.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *asked = requests.arguments.clone();
    }
    let playbook = requests.playbook(|module, arguments| task(engine, module, arguments))?;
    engine.run(&[playbook]).map_err(stopped)?;
    Ok(())
}

fn task(engine: &Engine, module: &str, arguments: &str) -> Result<Task, Failure> {
    let shared = &engine.shared;
    let render = |value: &Value, vars: &Map| shared.render_static(value, vars);
    shared.loader.task_from(module, arguments, &LoadContext { render: &render }).map_err(Failure::parse)
}

fn stopped(stop: Stop) -> Failure {
    match stop {
        Stop::Error(error) => Failure { exit: Exit::Error, diagnostics: vec![error] },
        Stop::Syntax(errors) => Failure::parse(errors),
        Stop::Interrupted => Failure::error("interrupted"),
        Stop::Bug(message) => Failure::error(format!("unexpected error: {message}")),
    }
}

/// Paths of which the host may know who changed them.
fn to_be_explained(judged: &Judged) -> BTreeMap<(Login, String), Vec<String>> {
    let mut paths: BTreeMap<(Login, String), Vec<String>> = BTreeMap::new();
    for one in &judged.findings {
        let moved = matches!(one.finding.verdict, Verdict::Drifted | Verdict::Missing | Verdict::Conflict);
        if let Some(applied) = one.applied.as_ref().filter(|_| moved && one.finding.kind == "file") {
            let known = paths.entry((applied.login.as_ref().clone(), one.finding.host.clone())).or_default();
            if known.len() < 200 {
                known.push(one.finding.id.clone());
            }
        }
    }
    paths
}

fn explain(gathered: &mut Gathered, answers: Gathered) {
    for (host, look) in answers.looks {
        let known = gathered.looks.entry(host).or_default();
        known.hints.extend(look.hints);
    }
}

/// Settings, passwords and options.
fn prepare(reach: &Reach, playbooks: &[PathBuf], console: &mut Console) -> Result<Prepared, Failure> {
    let mut flags = Flags::default();
    reach.connection.flags(&mut flags);
    reach.become_.flags(&mut flags);
    flags.value("DEFAULT_FORKS", reach.forks, "--forks").value(
        "DEFAULT_VERBOSITY",
        run::verbosity(reach.verbosity.verbose),
        "--verbose",
    );
    for playbook in playbooks {
        if !playbook.is_file() {
            return Err(Failure::error(format!("the playbook {} could not be found", playbook.display())));
        }
    }
    let settings = console.settings(&flags)?;
    let vault = secrets::vault(&reach.vault, &settings)?;
    let extra_vars = extra_vars::parse(&reach.extra_vars.extra_vars, &vault)
        .map_err(|diagnostics| Failure { exit: Exit::Error, diagnostics })?;
    let options = RunOptions {
        playbooks: playbooks.to_vec(),
        inventory: run::inventory(&reach.inventory.inventory, &settings),
        limit: reach.inventory.limit.clone(),
        flush_cache: reach.inventory.flush_cache,
        extra_vars,
        ..RunOptions::default()
    };
    let mut prepared = run::complete(options, settings, vault, false)?;
    if !prepared.settings.is_given("DEFAULT_FORKS") {
        prepared.options.forks = 64;
    }
    Ok(prepared)
}

/// The hosts that something was applied to and that the inventory has, within the limit.
fn known_hosts(store: &mut Store, prepared: &Prepared, console: &Console) -> Result<Vec<String>, Failure> {
    let options = &prepared.options;
    let inventory = look::inventory(&options.inventory, &prepared.settings, &prepared.vault, console)?;
    let fail = |problem| Failure { exit: Exit::Error, diagnostics: vec![problem] };
    let within = inventory.select("all", options.limit.as_deref()).map_err(fail)?.hosts;
    let within: HashSet<String> = within.iter().map(ToString::to_string).collect();
    let mut hosts = Vec::new();
    let mut strangers = Vec::new();
    for (host, _) in store.applied_hosts()? {
        let is_local = host == "localhost" && options.limit.is_none();
        if within.contains(&host) || is_local {
            hosts.push(host);
        } else if options.limit.is_none() {
            strangers.push(host);
        }
    }
    if !strangers.is_empty() {
        console.warn(&format!(
            "{} hosts in the state store are not in this inventory and are not looked at: {}",
            strangers.len(),
            strangers.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(hosts)
}

// ---- audit ----

pub(super) fn audit(args: &Audit, console: &mut Console) -> Result<Exit, Failure> {
    let audited = make(&args.reach, &args.playbooks, args.diff, console)?;
    let text =
        if args.json { json(&audited) } else { text(&audited, args.diff && !args.playbooks.is_empty()) };
    if args.reach.verbosity.verbose > 0 {
        for warning in &audited.warnings {
            console.tell(warning);
        }
    }
    console.print(&text)?;
    Ok(audited.exit())
}

/// What an audit found, for people.
pub fn text(audited: &Audited, diffs: bool) -> String {
    let judged = &audited.judged;
    let mut out = String::new();
    for group in group::group(&judged.findings) {
        let key = (group.kind.to_string(), group.id.to_string());
        let total = audited.totals.get(&key).copied().unwrap_or(1);
        for line in group::told(&group, total, diffs) {
            let _ = writeln!(out, "{line}");
        }
    }
    for host in &judged.hosts {
        if let Some(problem) = &host.problem {
            let what = if host.reached { "uncertain" } else { "unreachable" };
            let _ = writeln!(out, "{what:<13} {}: {problem}", host.host);
        }
    }
    for (kind, count) in &judged.not_told {
        let _ = writeln!(out, "not looked at {count} of kind {kind}: give the playbook to compare them");
    }
    out.push_str(&owed_text(&judged.owed));
    if !out.is_empty() {
        out.push('\n');
    }
    out.push_str(&summary(audited));
    out
}

fn summary(audited: &Audited) -> String {
    let judged = &audited.judged;
    let resources: u64 = judged.hosts.iter().map(|host| host.resources).sum();
    let in_sync: u64 = judged.hosts.iter().map(|host| host.in_sync).sum();
    let mut counts: BTreeMap<Verdict, usize> = BTreeMap::new();
    let mut silent = 0;
    for one in &judged.findings {
        if one.finding.acked.is_some() {
            silent += 1;
        } else {
            *counts.entry(one.finding.verdict).or_default() += 1;
        }
    }
    let mut parts = vec![format!("{in_sync} of {resources} resources in sync")];
    parts.extend(counts.iter().map(|(verdict, count)| format!("{count} {verdict}")));
    if silent > 0 {
        parts.push(format!("{silent} acknowledged"));
    }
    let lost = judged.hosts.iter().filter(|host| !host.reached).count();
    if lost > 0 {
        parts.push(format!("{lost} hosts unreachable"));
    }
    let hosts = judged.hosts.len();
    let unit = if hosts == 1 { "host" } else { "hosts" };
    format!("{hosts} {unit}: {}  (audit {})\n", parts.join(", "), audited.id)
}

/// What an audit found, for programs.
pub fn json(audited: &Audited) -> String {
    let judged = &audited.judged;
    let findings = judged.findings.iter().map(finding_value);
    let hosts = judged.hosts.iter().map(|host| {
        let mut map = map_of([("host", host.host.as_str())]);
        map.insert("reached".into(), host.reached.into());
        map.insert("problem".into(), host.problem.clone().into());
        map.insert("resources".into(), host.resources.into());
        map.insert("in_sync".into(), host.in_sync.into());
        Value::map(map)
    });
    let mut map = map_of([("audit", audited.id.as_str())]);
    map.insert("exit".into(), i64::from(judged.exit()).into());
    map.insert("hosts".into(), Value::list(hosts.collect()));
    map.insert("findings".into(), Value::list(findings.collect()));
    map.insert("owed_handlers".into(), owed_value(&judged.owed));
    document(&Value::map(map))
}

fn finding_value(one: &Judgement) -> Value {
    let finding = &one.finding;
    let mut map = map_of([
        ("host", finding.host.as_str()),
        ("kind", finding.kind.as_str()),
        ("id", finding.id.as_str()),
        ("verdict", finding.verdict.name()),
    ]);
    for (key, state) in
        [("applied", &finding.applied), ("actual", &finding.actual), ("desired", &finding.desired)]
    {
        if let Some(state) = state {
            map.insert(key.into(), state.clone());
        }
    }
    if let (Some(applied), Some(actual)) = (&finding.applied, &finding.actual) {
        map.insert("changed_on_host".into(), described(applied, actual).into());
    }
    if let Some(task) = &finding.task {
        map.insert("task".into(), task.title.as_str().into());
        map.insert("place".into(), task.place().into());
    }
    if let Some(applied) = &one.applied {
        map.insert("run".into(), applied.run.as_ref().into());
        map.insert("applied_at".into(), stamp(applied.recorded));
    }
    map.insert("hints".into(), finding.hints.clone().into());
    map.insert("fingerprint".into(), finding.fingerprint.as_str().into());
    map.insert("acknowledged".into(), finding.acked.clone().into());
    Value::map(map)
}

// ---- fix ----

/// Whether a finding is meant: by its name, `kind:name`, or a pattern.
fn is_meant(patterns: &[String], kind: &str, id: &str) -> bool {
    let options = glob::MatchOptions { require_literal_separator: false, ..glob::MatchOptions::default() };
    patterns.iter().any(|pattern| {
        let (wanted, name) = match pattern.split_once(':') {
            Some((wanted, name)) if wanted == kind => (true, name),
            _ => (false, pattern.as_str()),
        };
        name == id
            || (!wanted && *pattern == format!("{kind}:{id}"))
            || glob::Pattern::new(name).is_ok_and(|glob| name.contains('*') && glob.matches_with(id, options))
    })
}

pub(super) fn fix(args: &Fix, console: &mut Console) -> Result<Exit, Failure> {
    let playbooks =
        if args.playbooks.is_empty() { owners(&args.reach, console)? } else { args.playbooks.clone() };
    let audited = make(&args.reach, &playbooks, false, console)?;
    let targets: Vec<&Judgement> = audited
        .judged
        .findings
        .iter()
        .filter(|one| matches!(one.finding.verdict, Verdict::Drifted | Verdict::Missing))
        .filter(|one| one.finding.acked.is_none() || !args.only.is_empty())
        .filter(|one| args.only.is_empty() || is_meant(&args.only, &one.finding.kind, &one.finding.id))
        .collect();
    if targets.is_empty() {
        console.print(&format!("nothing to repair\n{}", summary(&audited)))?;
        return Ok(if audited.exit() == Exit::Unreachable { Exit::Unreachable } else { Exit::Success });
    }
    let directory = console.around.cwd.to_string_lossy().into_owned();
    let only = owning_tasks(&targets, &directory);
    let lost: Vec<String> = targets
        .iter()
        .filter(|one| one.want.is_none() && owning_handler(one).is_none())
        .map(|one| format!("{} {} on {}", one.finding.kind, one.finding.id, one.finding.host))
        .collect();
    if !lost.is_empty() {
        console.warn(&format!("no task of the playbooks owns these any more: {}", lost.join(", ")));
    }
    let mut hosts: Vec<&str> = only.tasks.keys().chain(only.handlers.keys()).map(String::as_str).collect();
    if hosts.is_empty() {
        return Ok(Exit::Error);
    }
    hosts.sort_unstable();
    hosts.dedup();
    let mut prepared = prepare(&args.reach, &playbooks, console)?;
    let options = &mut prepared.options;
    (options.check, options.diff) = (args.check, args.diff);
    options.limit = Some(hosts.join(","));
    options.only = Some(Arc::new(only));
    let exit = bridge::fix(prepared, audited.id.clone(), console)?;
    if args.check || exit == Exit::Interrupted {
        return Ok(exit);
    }
    let again = make(&args.reach, &[], false, console)?;
    let left: HashSet<(&str, &str, &str)> =
        again.judged.findings.iter().map(|one| key(&one.finding)).collect();
    let repaired = targets.iter().filter(|one| !left.contains(&key(&one.finding))).count();
    let mut out = format!("repaired {repaired} of {} drifted resources\n", targets.len());
    for one in targets.iter().filter(|one| left.contains(&key(&one.finding))) {
        let _ =
            writeln!(out, "still drifted: {} {} on {}", one.finding.kind, one.finding.id, one.finding.host);
    }
    console.print(&out)?;
    Ok(if exit == Exit::Success && repaired < targets.len() { Exit::Failed } else { exit })
}

fn key(finding: &Finding) -> (&str, &str, &str) {
    (&finding.host, &finding.kind, &finding.id)
}

/// The playbooks that have applied what the store has of the hosts.
fn owners(reach: &Reach, console: &mut Console) -> Result<Vec<PathBuf>, Failure> {
    let prepared = prepare(reach, &[], console)?;
    let mut store = state::open(&prepared.settings, console)?;
    let hosts = known_hosts(&mut store, &prepared, console)?;
    let mut names: Vec<String> = Vec::new();
    for host in &hosts {
        let known = store.playbooks_of(host)?;
        names.extend(known.into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>());
    }
    let (there, gone): (Vec<PathBuf>, Vec<PathBuf>) =
        names.into_iter().map(PathBuf::from).partition(|path| path.is_file());
    for path in gone.iter().filter(|path| path.is_absolute()) {
        console.warn(&format!("the playbook {} is not there any more", path.display()));
    }
    if there.is_empty() {
        return Err(Failure::error("no playbook is known that could repair anything; name one"));
    }
    Ok(there)
}

/// The handler that alone has worked on a resource: nothing notifies it where only that has moved, so that it
/// is run by itself.
fn owning_handler(one: &Judgement) -> Option<&NotedTask> {
    let owner =
        one.want.as_ref().map(|want| &want.task).or(one.applied.as_ref().map(|applied| &applied.task));
    owner.filter(|task| task.handler)
}

/// The tasks that own what is to be repaired, by host.
fn owning_tasks(targets: &[&Judgement], directory: &str) -> Only {
    let mut only = Only { directory: directory.to_string(), ..Only::default() };
    for one in targets {
        if let Some(handler) = owning_handler(one) {
            let handlers = only.handlers.entry(one.finding.host.clone()).or_default();
            handlers.insert((handler.file.clone(), handler.line));
        }
        let Some(want) = &one.want else { continue };
        let tasks = only.tasks.entry(one.finding.host.clone()).or_default();
        for task in want.also.iter().chain([&want.task]) {
            tasks.insert((task.file.clone(), task.line));
        }
    }
    only
}

// ---- accept, ack ----

/// Whether a host is within `--limit`.
fn on_hosts(which: &Which, host: &str) -> bool {
    let Some(limit) = &which.limit else { return true };
    let hosts: Vec<String> = limit.split(',').map(|host| host.trim().to_string()).collect();
    is_meant(&hosts, "host", host)
}

/// The findings of the last audit that are meant.
fn chosen(which: &Which, store: &mut Store) -> Result<Vec<Finding>, Failure> {
    let audit = store.find_audit("last")?;
    let mut findings = store.findings(&audit.new.id)?;
    findings.retain(|one| is_meant(&which.resources, &one.kind, &one.id) && on_hosts(which, &one.host));
    if findings.is_empty() {
        return Err(Failure::error(format!(
            "the last audit ({}) has found nothing of that name; `setpoint drift audit` looks again",
            audit.new.id
        )));
    }
    Ok(findings)
}

pub(super) fn accept(args: &Accept, console: &mut Console) -> Result<Exit, Failure> {
    let settings = console.settings(&Flags::default())?;
    let mut store = state::open(&settings, console)?;
    let findings = chosen(&args.which, &mut store)?;
    let operator = state::operator(console);
    let mut out = String::new();
    let mut refused = 0;
    for finding in findings {
        let what = format!("{} {} on {}", finding.kind, finding.id, finding.host);
        let known = store.find_applied(&finding.host, &finding.kind, &finding.id)?;
        match (known, finding.actual, finding.verdict) {
            (Some(_), _, Verdict::Orphan) => {
                store.forget_applied(&finding.host, &finding.kind, &finding.id)?;
                let _ = writeln!(out, "forgotten: {what}");
            }
            (Some(known), Some(actual), _) => {
                let now = Applied {
                    state: Stored::new(&finding.kind, &actual, finding.sealed, store.salt()),
                    origin: format!("accepted by {operator}").into(),
                    recorded: now(),
                    ..known
                };
                store.within(|store| {
                    store.note_tasks([&now.task])?;
                    store.record_applied([&now])
                })?;
                let _ = writeln!(out, "accepted: {what}");
            }
            (None, _, _) => {
                refused += 1;
                let _ = writeln!(out, "not accepted: {what}: no run has applied it; run the playbook");
            }
            (_, None, _) => {
                refused += 1;
                let _ = writeln!(out, "not accepted: {what}: what the host has could not be told");
            }
        }
    }
    console.print(&out)?;
    Ok(if refused == 0 { Exit::Success } else { Exit::Error })
}

pub(super) fn acknowledge(args: &Acknowledge, console: &mut Console) -> Result<Exit, Failure> {
    let settings = console.settings(&Flags::default())?;
    let mut store = state::open(&settings, console)?;
    let mut out = String::new();
    if !args.remove {
        out = let_go(&args.which, &mut store)?;
    }
    let findings = match chosen(&args.which, &mut store) {
        // The handlers were all that was meant.
        Err(_) if !out.is_empty() => Vec::new(),
        findings => findings?,
    };
    let expires = args.expires.as_deref().map(span).transpose()?.map(|span| now().saturating_add(span));
    let owner = args.owner.clone().unwrap_or_else(|| state::operator(console));
    for finding in findings {
        let what = format!("{} {} on {}", finding.kind, finding.id, finding.host);
        if args.remove {
            let gone = store.unack(&finding.host, &finding.kind, &finding.id)?;
            let _ = writeln!(out, "{}: {what}", if gone { "taken back" } else { "was not acknowledged" });
            continue;
        }
        store.ack(&Ack {
            host: finding.host,
            kind: finding.kind,
            id: finding.id,
            fingerprint: finding.fingerprint,
            reason: args.reason.clone().unwrap_or_default(),
            owner: owner.clone(),
            created: now(),
            expires,
        })?;
        let _ = writeln!(out, "acknowledged: {what}");
    }
    console.print(&out)?;
    Ok(Exit::Success)
}

/// Lets go of the owed handlers that are named as `handler:NAME`: nobody will run them on account of that debt.
fn let_go(which: &Which, store: &mut Store) -> Result<String, Failure> {
    let handlers: Vec<String> =
        which.resources.iter().filter(|name| name.starts_with("handler:")).cloned().collect();
    let mut out = String::new();
    for owed in store.owed(None)? {
        if is_meant(&handlers, "handler", &owed.handler) && on_hosts(which, &owed.host) {
            store.settle_owed(&owed.host, &owed.playbook, &owed.play, &owed.handler)?;
            let _ = writeln!(out, "let go: handler {} on {} (play {})", owed.handler, owed.host, owed.play);
        }
    }
    Ok(out)
}

/// `90s`, `15m`, `12h`, `30d`, `8w` in milliseconds.
fn span(text: &str) -> Result<i64, Failure> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 604_800)];
    units
        .iter()
        .find_map(|(unit, seconds)| {
            let number: i64 = text.strip_suffix(unit)?.trim().parse().ok().filter(|number| *number > 0)?;
            number.checked_mul(*seconds)?.checked_mul(1000)
        })
        .ok_or_else(|| Failure::error(format!("`{text}` is no time; write it as 12h, 30d or 8w")))
}

// ---- adopt ----

/// Keeps what `slurp` returns.
struct Content(Arc<Mutex<Option<Result<Vec<u8>, String>>>>);

impl Listener for Content {
    fn event(&mut self, event: &Event) {
        if let Event::Result(result) = event {
            let text = |name: &str| result.result.get(name).map(Value::to_text);
            let decoded = text("content").and_then(|content| {
                base64::engine::general_purpose::STANDARD.decode(content.replace(['\n', '\r'], "")).ok()
            });
            let outcome = decoded.ok_or_else(|| text("msg").unwrap_or_else(|| "no content came".into()));
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        }
    }
}

pub(super) fn adopt(args: &Adopt, console: &mut Console) -> Result<Exit, Failure> {
    let which = Which { resources: vec![args.path.clone()], limit: args.reach.inventory.limit.clone() };
    let mut prepared = prepare(&args.reach, &[], console)?;
    (prepared.options.check, prepared.options.look_only) = (true, true);
    let mut store = state::open(&prepared.settings, console)?;
    let mut findings = chosen(&which, &mut store)?;
    findings.retain(|one| one.kind == "file" && one.verdict == Verdict::Drifted);
    findings.dedup_by(|one, other| one.fingerprint == other.fingerprint);
    let [finding] = findings.as_slice() else {
        return Err(Failure::error(format!(
            "{} is not one drifted file: name one host with --limit",
            args.path
        )));
    };
    let applied = store.find_applied(&finding.host, &finding.kind, &finding.id)?;
    let (Some(applied), false) = (applied, finding.sealed) else {
        return Err(Failure::error("the task hides what it does: adopt the file by hand"));
    };
    let digest = applied.state.value().get("sha256").and_then(Value::as_str).unwrap_or_default().to_string();
    let directory = store.find_run(&applied.run).map(|run| run.new.directory).unwrap_or_default();
    let source = adopt::source(&applied.task, Path::new(&directory), &finding.id, &digest);
    let content = fetch(prepared, &finding.host, &applied.login, &finding.id, console)?;
    match (source, args.write) {
        (Some(source), true) => {
            std::fs::write(&source, content)?;
            console.print(&format!("{} now has what {} has\n", source.display(), finding.host))?;
            Ok(Exit::Success)
        }
        (Some(source), false) => {
            let old = std::fs::read(&source)?;
            console.print(&patch(&old, &content, &source.to_string_lossy()))?;
            Ok(Exit::Success)
        }
        (None, _) => {
            let wanted = wanted_text(args, &applied, &finding.host, console)?;
            console.print(&patch(wanted.as_bytes(), &content, &place(&applied.task)))?;
            console.warn(&format!(
                "no file of the repository is copied to {} as it is; the patch is against what the task renders",
                finding.id
            ));
            Ok(if args.write { Exit::Error } else { Exit::Success })
        }
    }
}

fn place(task: &TaskRef) -> String {
    task.place()
}

fn fetch(
    prepared: Prepared,
    host: &str,
    login: &Login,
    path: &str,
    console: &mut Console,
) -> Result<Vec<u8>, Failure> {
    let kept = Arc::new(Mutex::new(None));
    let mut engine = bridge::engine_for(prepared, Box::new(Content(kept.clone())), console)?;
    let arguments = document(&Value::map(map_of([("src", path)])));
    let task = task(&engine, "ansible.builtin.slurp", arguments.trim())?;
    let play = play(login, &[host.to_string()], task);
    engine.run(&[Playbook { path: "adopt".into(), plays: vec![Arc::new(play)] }]).map_err(stopped)?;
    let kept = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
    match kept {
        Some(Ok(content)) => Ok(content),
        Some(Err(message)) => Err(Failure::error(format!("{host}: {message}"))),
        None => Err(Failure::error(format!("{host} did not answer"))),
    }
}

/// The text that the owning task renders for the file.
fn wanted_text(
    args: &Adopt,
    applied: &Applied,
    host: &str,
    console: &mut Console,
) -> Result<String, Failure> {
    let mut reach = args.reach.clone();
    reach.inventory.limit = Some(host.to_string());
    let audited = make(&reach, &[PathBuf::from(&*applied.playbook)], true, console)?;
    audited
        .judged
        .findings
        .into_iter()
        .find(|one| one.finding.kind == "file" && one.finding.id == applied.id)
        .and_then(|one| one.want)
        .and_then(|want| want.text)
        .map(|(_, wanted)| wanted)
        .ok_or_else(|| Failure::error("what the task would write can't be shown (not text, or too large)"))
}

fn patch(old: &[u8], new: &[u8], name: &str) -> String {
    let (old, new) = (String::from_utf8_lossy(old), String::from_utf8_lossy(new));
    let diff = similar::TextDiff::from_lines(old.as_ref(), new.as_ref());
    diff.unified_diff().header(&format!("a/{name}"), &format!("b/{name}")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_named_in_three_ways() {
        for (pattern, kind, id, expected) in [
            ("/etc/motd", "file", "/etc/motd", true),
            ("/etc/motd", "file", "/etc/motd2", false),
            ("file:/etc/motd", "file", "/etc/motd", true),
            ("service:nginx", "package", "nginx", false),
            ("nginx", "package", "nginx", true),
            ("/etc/*", "file", "/etc/a/b", true),
            ("file:/etc/*", "file", "/etc/a", true),
            ("package:*", "file", "/etc/a", false),
        ] {
            assert_eq!(is_meant(&[pattern.into()], kind, id), expected, "{pattern} for {kind} {id}");
        }
    }

    #[test]
    fn spans_have_units() {
        for (text, expected) in [
            ("90s", Some(90_000)),
            ("12h", Some(43_200_000)),
            ("30d", Some(2_592_000_000)),
            ("x", None),
            ("-1d", None),
            ("5", None),
        ] {
            assert_eq!(span(text).ok(), expected, "{text}");
        }
    }
}
