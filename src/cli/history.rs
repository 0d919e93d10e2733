//! `setpoint history`: what was run, by whom, and what it changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;

use super::exit::Exit;
use super::failure::Failure;
use super::options::Flags;
use super::{Console, state};
use crate::state::{Owed, Prior, Run, RunHost, Store, TaskOutcome};
use crate::value::{Map, Value, map_of};

/// List runs, show one, or compare two
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct History {
    /// Show this run: its name or the beginning of it, `last`, or `last~N` for the N-th before
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// Compare with this run
    #[arg(value_name = "OTHER", requires = "run")]
    pub other: Option<String>,
    /// Only runs that this host took part in; of one run, only this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// How many runs to list
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub number: u64,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
Examples:
  setpoint history                    the latest runs
  setpoint history last               the last one: hosts, changes, owed handlers
  setpoint history last~1 last        what the last run did that the one before did not
  setpoint history --host web1 --json the runs that web1 took part in";

/// Carries out the subcommand.
///
/// # Errors
/// There is no store, or no such run.
pub fn run(args: &History, console: &mut Console) -> Result<Exit, Failure> {
    let settings = console.settings(&Flags::default())?;
    let mut store = state::open(&settings, console)?;
    let text = match (&args.run, &args.other) {
        (None, _) => {
            let runs = store.runs(args.number, args.host.as_deref())?;
            let owed = store.owed(None)?;
            if args.json { list_json(&runs, &owed) } else { list(&runs, &owed) }
        }
        (Some(run), None) => {
            let shown = Shown::read(&mut store, run, args.host.as_deref())?;
            if args.json { shown.json() } else { shown.text() }
        }
        (Some(run), Some(other)) => {
            let old = Shown::read(&mut store, run, args.host.as_deref())?;
            let new = Shown::read(&mut store, other, args.host.as_deref())?;
            let compared = Compared::of(&old, &new);
            if args.json { compared.json() } else { compared.text() }
        }
    };
    console.print(&text)?;
    Ok(Exit::Success)
}

/// A time as people read it, in their zone.
pub(super) fn time(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis)
        .map(|time| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string())
        .unwrap_or_default()
}

/// A time as programs read it.
pub(super) fn stamp(millis: i64) -> Value {
    jiff::Timestamp::from_millisecond(millis).map_or(Value::Null, |time| time.to_string().into())
}

/// Rows of cells in columns as wide as need be.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn commit(run: &Run) -> String {
    match &run.new.commit {
        Some(id) => format!("{}{}", id.get(..9).unwrap_or(id), if run.new.dirty { "+" } else { "" }),
        None => "-".into(),
    }
}

fn what(run: &Run) -> String {
    let names: Vec<&str> =
        run.new.playbooks.iter().map(|path| path.rsplit('/').next().unwrap_or(path)).collect();
    match (&run.new.target, names.is_empty()) {
        (Some(target), true) => target.clone(),
        (_, false) => names.join(" "),
        (None, true) => run.new.command.clone(),
    }
}

fn list(runs: &[Run], owed: &[Owed]) -> String {
    if runs.is_empty() {
        return "no runs are recorded yet\n".into();
    }
    let header = ["run", "when", "kind", "status", "hosts", "changes", "who", "commit", "what"];
    let mut rows: Vec<Vec<String>> = vec![header.map(str::to_string).to_vec()];
    for run in runs {
        rows.push(vec![
            run.new.id.clone(),
            time(run.started),
            run.new.kind.to_string(),
            run.status.to_string(),
            run.hosts.to_string(),
            run.changes.to_string(),
            run.new.operator.clone(),
            commit(run),
            what(run),
        ]);
    }
    columns(&rows) + &owed_text(owed)
}

/// Handlers that are owed, as text; nothing if there are none.
pub(super) fn owed_text(owed: &[Owed]) -> String {
    if owed.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "\nhandlers that were notified and have not run (the next run of the play runs them; `setpoint drift ack \
         handler:NAME --reason …` lets go of one):\n",
    );
    let rows: Vec<Vec<String>> = owed
        .iter()
        .map(|one| {
            vec![
                format!("  {}", one.host),
                one.handler.clone(),
                format!("since {} (run {})", time(one.since), one.run),
                format!("play {} of {}", one.play, one.playbook),
            ]
        })
        .collect();
    out.push_str(&columns(&rows));
    out
}

/// Handlers that are owed, for programs.
pub(super) fn owed_value(owed: &[Owed]) -> Value {
    let list = owed.iter().map(|one| {
        let mut map = map_of([
            ("host", one.host.as_str()),
            ("handler", one.handler.as_str()),
            ("play", one.play.as_str()),
            ("playbook", one.playbook.as_str()),
            ("run", one.run.as_str()),
        ]);
        map.insert("since".into(), stamp(one.since));
        Value::map(map)
    });
    Value::list(list.collect())
}

/// A value as a document of its own.
pub(super) fn document(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn list_json(runs: &[Run], owed: &[Owed]) -> String {
    let runs = Value::list(runs.iter().map(|run| Value::map(run_map(run))).collect());
    document(&Value::map(map_of([("runs", runs), ("owed_handlers", owed_value(owed))])))
}

fn run_map(run: &Run) -> Map {
    let mut map =
        map_of([("run", run.new.id.as_str()), ("kind", run.new.kind.name()), ("status", run.status.name())]);
    map.insert("started".into(), stamp(run.started));
    map.insert("ended".into(), run.ended.map_or(Value::Null, stamp));
    for (key, value) in [("hosts", run.hosts), ("changes", run.changes)] {
        map.insert(key.into(), value.into());
    }
    map.insert("operator".into(), run.new.operator.as_str().into());
    map.insert("controller".into(), run.controller.as_str().into());
    map.insert("directory".into(), run.new.directory.as_str().into());
    map.insert("playbooks".into(), run.new.playbooks.clone().into());
    map.insert("options".into(), run.new.options.clone());
    map.insert("command".into(), run.new.command.as_str().into());
    map.insert("commit".into(), run.new.commit.clone().into());
    map.insert("uncommitted_changes".into(), run.new.dirty.into());
    map.insert("target".into(), run.new.target.clone().into());
    map
}

/// A run with all that belongs to it.
struct Shown {
    run: Run,
    hosts: Vec<RunHost>,
    results: Vec<TaskOutcome>,
    changes: Vec<Prior>,
    owed: Vec<Owed>,
}

impl Shown {
    fn read(store: &mut Store, word: &str, host: Option<&str>) -> Result<Shown, Failure> {
        let run = store.find_run(word)?;
        let wanted = |name: &str| host.is_none_or(|host| host == name);
        let mut hosts = store.run_hosts(&run.new.id)?;
        hosts.retain(|one| wanted(&one.host));
        let mut results = store.results(&run.new.id)?;
        results.retain(|one| wanted(&one.host));
        let mut owed = store.owed(None)?;
        owed.retain(|one| one.run == run.new.id && wanted(&one.host));
        let changes = store.prior(&run.new.id, host)?;
        Ok(Shown { run, hosts, results, changes, owed })
    }

    fn text(&self) -> String {
        let run = &self.run;
        let mut out = String::new();
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(out, "{name:<10} {value}");
        };
        line("run", &run.new.id);
        line("kind", run.new.kind.name());
        line("status", run.status.name());
        line("started", &time(run.started));
        if let Some(ended) = run.ended {
            line("took", &seconds(ended - run.started));
        }
        line("who", &run.new.operator);
        line("commit", &commit(run));
        line("directory", &run.new.directory);
        line("command", &run.new.command);
        if let Some(target) = &run.new.target {
            line("target", target);
        }
        if !self.hosts.is_empty() {
            out.push_str("\nhosts\n");
            let rows = self.hosts.iter().map(|one| {
                let s = &one.stats;
                vec![
                    format!("  {}", one.host),
                    format!("ok={}", s.ok),
                    format!("changed={}", s.changed),
                    format!("unreachable={}", s.unreachable),
                    format!("failed={}", s.failed),
                    format!("skipped={}", s.skipped),
                    format!("rescued={}", s.rescued),
                    format!("ignored={}", s.ignored),
                ]
            });
            out.push_str(&columns(&rows.collect::<Vec<_>>()));
        }
        let tasks = self.tasks();
        if !tasks.is_empty() {
            out.push_str("\ntasks\n");
            out.push_str(&columns(&tasks));
        }
        if !self.changes.is_empty() {
            out.push_str("\nchanges\n");
            let rows = self.changes.iter().map(|change| {
                vec![
                    format!("  {}", change.host),
                    format!("{} {}", change.kind, change.id),
                    action(change).to_string(),
                    change.task.place(),
                ]
            });
            out.push_str(&columns(&rows.collect::<Vec<_>>()));
        }
        out + &owed_text(&self.owed)
    }

    /// A row for each task: what became of it on how many hosts, and the longest time.
    fn tasks(&self) -> Vec<Vec<String>> {
        let mut order: Vec<&TaskOutcome> = Vec::new();
        let mut by_task: BTreeMap<i64, (BTreeMap<&str, usize>, u64)> = BTreeMap::new();
        for result in &self.results {
            let number = result.task.number();
            let entry = by_task.entry(number).or_insert_with(|| {
                order.push(result);
                Default::default()
            });
            *entry.0.entry(result.verdict.as_str()).or_default() += 1;
            entry.1 = entry.1.max(result.millis);
        }
        order
            .iter()
            .filter_map(|result| {
                let (verdicts, longest) = by_task.get(&result.task.number())?;
                let counts: Vec<String> =
                    verdicts.iter().map(|(verdict, count)| format!("{verdict}={count}")).collect();
                Some(vec![
                    format!("  {}", result.task.title),
                    counts.join(" "),
                    seconds(i64::try_from(*longest).unwrap_or(i64::MAX)),
                    result.task.place(),
                ])
            })
            .collect()
    }

    fn json(&self) -> String {
        let mut map = run_map(&self.run);
        let hosts = self.hosts.iter().map(|one| {
            let s = &one.stats;
            let counts = map_of([
                ("ok", s.ok),
                ("changed", s.changed),
                ("unreachable", s.unreachable),
                ("failed", s.failed),
                ("skipped", s.skipped),
                ("rescued", s.rescued),
                ("ignored", s.ignored),
            ]);
            (Value::from(one.host.as_str()), Value::map(counts))
        });
        map.insert("stats".into(), Value::map(hosts.collect()));
        let results = self.results.iter().map(|one| {
            let mut map = map_of([
                ("host", one.host.as_str()),
                ("task", one.task.title.as_str()),
                ("verdict", one.verdict.as_str()),
            ]);
            map.insert("place".into(), one.task.place().into());
            map.insert("millis".into(), one.millis.into());
            map.insert("ignored".into(), one.ignored.into());
            Value::map(map)
        });
        map.insert("results".into(), Value::list(results.collect()));
        map.insert("made".into(), Value::list(self.changes.iter().map(change_value).collect()));
        map.insert("owed_handlers".into(), owed_value(&self.owed));
        document(&Value::map(map))
    }
}

fn change_value(change: &Prior) -> Value {
    let mut map =
        map_of([("host", change.host.as_str()), ("kind", change.kind.as_str()), ("id", change.id.as_str())]);
    map.insert("before".into(), change.before.clone());
    map.insert("after".into(), change.after.clone());
    map.insert("hidden".into(), change.sealed.into());
    map.insert("task".into(), change.task.title.as_str().into());
    map.insert("place".into(), change.task.place().into());
    Value::map(map)
}

fn action(change: &Prior) -> &'static str {
    match (change.sealed, change.before.is_null(), change.after.is_null()) {
        (true, _, _) => "hidden",
        (_, true, false) => "made",
        (_, false, true) => "removed",
        _ => "changed",
    }
}

fn seconds(millis: i64) -> String {
    format!("{}.{:01} s", millis / 1000, millis % 1000 / 100)
}

/// What two runs did differently.
struct Compared {
    old: String,
    new: String,
    /// Host, task, place, what became of it in one and in the other (`-`: it was not run).
    results: Vec<[String; 5]>,
    /// Changes that only one of them made: host, resource, which run.
    changes: Vec<[String; 3]>,
}

impl Compared {
    fn of(old: &Shown, new: &Shown) -> Compared {
        let verdicts = |shown: &Shown| -> BTreeMap<(String, String), (String, String)> {
            shown
                .results
                .iter()
                .map(|one| {
                    ((one.host.clone(), one.task.title.clone()), (one.verdict.clone(), one.task.place()))
                })
                .collect()
        };
        let (before, after) = (verdicts(old), verdicts(new));
        let mut keys: Vec<&(String, String)> = before.keys().chain(after.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        let results = keys.into_iter().filter_map(|key| {
            let (left, right) = (before.get(key), after.get(key));
            let verdict = |side: Option<&(String, String)>| {
                side.map_or("-".to_string(), |(verdict, _)| verdict.clone())
            };
            let place = right.or(left).map(|(_, place)| place.clone()).unwrap_or_default();
            (verdict(left) != verdict(right))
                .then(|| [key.0.clone(), key.1.clone(), place, verdict(left), verdict(right)])
        });
        let made = |shown: &Shown| -> BTreeMap<(String, String), Value> {
            shown
                .changes
                .iter()
                .map(|one| ((one.host.clone(), format!("{} {}", one.kind, one.id)), one.after.clone()))
                .collect()
        };
        let (left, right) = (made(old), made(new));
        let only = |one: &BTreeMap<(String, String), Value>,
                    other: &BTreeMap<(String, String), Value>,
                    run: &Run| {
            one.keys()
                .filter(|key| !other.contains_key(*key))
                .map(|(host, id)| [host.clone(), id.clone(), run.new.id.clone()])
                .collect::<Vec<_>>()
        };
        let mut changes = only(&left, &right, &old.run);
        changes.extend(only(&right, &left, &new.run));
        changes.sort_unstable();
        Compared {
            old: old.run.new.id.clone(),
            new: new.run.new.id.clone(),
            results: results.collect(),
            changes,
        }
    }

    fn text(&self) -> String {
        if self.results.is_empty() && self.changes.is_empty() {
            return format!("{} and {} did the same\n", self.old, self.new);
        }
        let mut out = String::new();
        if !self.results.is_empty() {
            let _ = writeln!(out, "results that differ between {} and {}", self.old, self.new);
            let rows: Vec<Vec<String>> = self
                .results
                .iter()
                .map(|[host, task, place, old, new]| {
                    vec![format!("  {host}"), task.clone(), format!("{old} → {new}"), place.clone()]
                })
                .collect();
            out.push_str(&columns(&rows));
        }
        if !self.changes.is_empty() {
            out.push_str("changes that only one of them made\n");
            let rows: Vec<Vec<String>> = self
                .changes
                .iter()
                .map(|[host, id, run]| vec![format!("  {host}"), id.clone(), format!("only {run}")])
                .collect();
            out.push_str(&columns(&rows));
        }
        out
    }

    fn json(&self) -> String {
        let results = self.results.iter().map(|[host, task, place, old, new]| {
            let names = ["host", "task", "place", "before", "after"];
            let values = [host, task, place, old, new];
            Value::map(map_of(names.into_iter().zip(values.map(String::as_str))))
        });
        let changes = self.changes.iter().map(|[host, id, run]| {
            Value::map(map_of([
                ("host", host.as_str()),
                ("resource", id.as_str()),
                ("only_in", run.as_str()),
            ]))
        });
        document(&Value::map(map_of([
            ("before", Value::from(self.old.as_str())),
            ("after", Value::from(self.new.as_str())),
            ("results", Value::list(results.collect())),
            ("changes", Value::list(changes.collect())),
        ])))
    }
}
