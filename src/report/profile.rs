//! Where the time of a run went: by phase, by host, by task; also as a trace for a viewer of Chrome's format.
//!
//! What a host does is known from itself (how long a task ran there) and from its connection (how long it
//! took to get in and to start the runner). The rest of a host's time it waited: for round trips, for other
//! hosts, for the controller.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::clock::{Clock, between};
use super::screen::Screen;
use crate::event::{Event, Listener};
use crate::source::json::{Layout, dump};
use crate::value::{Map, Value, map_of};

/// How many hosts and tasks are listed.
const MOST: usize = 15;

/// Most spans that are kept for the trace: bounds memory on runs of a thousand hosts.
const MAX_SPANS: usize = 1_000_000;

/// What one host did.
#[derive(Clone, Debug, Default)]
struct Host {
    connect: Duration,
    push: Duration,
    pushed: u64,
    run: Duration,
    tasks: u64,
    first: Option<SystemTime>,
    last: Option<SystemTime>,
}

impl Host {
    fn seen(&mut self, from: SystemTime, to: SystemTime) {
        self.first = Some(self.first.map_or(from, |first| first.min(from)));
        self.last = Some(self.last.map_or(to, |last| last.max(to)));
    }

    /// From its first sign to its last.
    fn whole(&self) -> Duration {
        self.first.zip(self.last).map_or(Duration::ZERO, |(first, last)| between(first, last))
    }

    fn wait(&self) -> Duration {
        self.whole().saturating_sub(self.connect + self.push + self.run)
    }
}

/// What one task cost.
#[derive(Clone, Debug, Default)]
struct Task {
    title: String,
    /// It was the task at hand for so long.
    wall: Duration,
    /// All hosts together.
    run: Duration,
    slowest: Option<(Arc<str>, Duration)>,
}

/// A bar of the trace.
struct Span {
    /// `None`: the controller's own row.
    host: Option<Arc<str>>,
    name: String,
    phase: &'static str,
    from: SystemTime,
    took: Duration,
}

/// Collects where the time goes and tells at the end.
pub struct Profile {
    screen: Screen,
    clock: Clock,
    trace: Option<PathBuf>,
    began: Option<SystemTime>,
    hosts: BTreeMap<Arc<str>, Host>,
    tasks: Vec<Task>,
    /// Where a task is in the list, by its number.
    places: BTreeMap<u64, usize>,
    open: Option<(u64, SystemTime)>,
    spans: Vec<Span>,
}

impl Profile {
    pub(super) fn new(screen: Screen, clock: Clock, trace: Option<PathBuf>) -> Profile {
        Profile {
            screen,
            clock,
            trace,
            began: None,
            hosts: BTreeMap::new(),
            tasks: Vec::new(),
            places: BTreeMap::new(),
            open: None,
            spans: Vec::new(),
        }
    }

    fn task(&mut self, id: u64, title: &str) -> &mut Task {
        let place = *self.places.entry(id).or_insert(self.tasks.len());
        if place == self.tasks.len() {
            self.tasks.push(Task { title: title.to_owned(), ..Task::default() });
        }
        &mut self.tasks[place]
    }

    fn span(
        &mut self,
        host: Option<&Arc<str>>,
        name: &str,
        phase: &'static str,
        from: SystemTime,
        took: Duration,
    ) {
        if self.trace.is_some() && self.spans.len() < MAX_SPANS {
            self.spans.push(Span { host: host.cloned(), name: name.to_owned(), phase, from, took });
        }
    }

    /// The task at hand is over.
    fn close(&mut self, now: SystemTime) {
        let Some((id, since)) = self.open.take() else { return };
        let took = between(since, now);
        let task = self.task(id, "");
        task.wall += took;
        let title = task.title.clone();
        self.span(None, &title, "task", since, took);
    }

    fn tell(&mut self, now: SystemTime) {
        self.close(now);
        let all = between(self.began.unwrap_or(now), now);
        self.screen.banner("PROFILE");
        let hosts: Vec<(Arc<str>, Host)> =
            self.hosts.iter().map(|(name, host)| (name.clone(), host.clone())).collect();
        let sum = |of: fn(&Host) -> Duration| hosts.iter().map(|(_, host)| of(host)).sum::<Duration>();
        let phases = [
            ("connect", sum(|host| host.connect)),
            ("push", sum(|host| host.push)),
            ("wait", sum(Host::wait)),
            ("run", sum(|host| host.run)),
        ];
        let whole: Duration = phases.iter().map(|(_, time)| *time).sum();
        let shares: Vec<String> = phases
            .iter()
            .map(|(name, time)| format!("{name} {} ({:.0}%)", seconds(*time), share(*time, whole)))
            .collect();
        let line =
            format!("{} in all; of the time of {} hosts: {}", seconds(all), hosts.len(), shares.join(", "));
        self.screen.line(None, &line);
        self.table_of_hosts(hosts);
        self.table_of_tasks();
        self.screen.flush();
        if let Some(path) = self.trace.take()
            && let Err(error) = std::fs::write(&path, self.chrome())
        {
            let text = format!("[WARNING]: can't write the trace {}: {error}", path.display());
            self.screen.error_line(super::style::Role::Warn, &text);
        }
    }

    fn table_of_hosts(&mut self, mut hosts: Vec<(Arc<str>, Host)>) {
        hosts.sort_by_key(|(_, host)| std::cmp::Reverse(host.whole()));
        self.screen.line(None, "");
        let head = ["connect", "push", "wait", "run", "tasks"];
        self.screen.line(None, &row("host", &head.map(String::from)));
        for (name, host) in hosts.iter().take(MOST) {
            let push = match host.pushed {
                0 => seconds(host.push),
                bytes => format!("{} ({})", seconds(host.push), super::bytes(bytes)),
            };
            let cells = [
                seconds(host.connect),
                push,
                seconds(host.wait()),
                seconds(host.run),
                host.tasks.to_string(),
            ];
            self.screen.line(None, &row(name, &cells));
        }
        self.more(hosts.len());
    }

    fn table_of_tasks(&mut self) {
        let mut tasks = self.tasks.clone();
        tasks.sort_by_key(|task| std::cmp::Reverse(task.wall.max(task.run)));
        self.screen.line(None, "");
        self.screen.line(None, &row("task", &["wall", "run", "slowest"].map(String::from)));
        for task in tasks.iter().take(MOST) {
            let slowest = task
                .slowest
                .as_ref()
                .map_or_else(String::new, |(host, time)| format!("{} {host}", seconds(*time)));
            let title = task.title.replace('\n', " ");
            self.screen.line(None, &row(&title, &[seconds(task.wall), seconds(task.run), slowest]));
        }
        self.more(tasks.len());
    }

    fn more(&mut self, count: usize) {
        if count > MOST {
            self.screen.line(None, &format!("… and {} more", count - MOST));
        }
    }

    /// The spans in the format that chrome://tracing and Perfetto read.
    fn chrome(&self) -> String {
        let rows: BTreeMap<&str, usize> =
            self.hosts.keys().enumerate().map(|(index, name)| (name.as_ref(), index + 1)).collect();
        let began = self.began.unwrap_or(SystemTime::UNIX_EPOCH);
        let named = std::iter::once(("controller", 0)).chain(rows.iter().map(|(name, row)| (*name, *row)));
        let mut events: Vec<Map> = named
            .map(|(name, row)| {
                map_of([
                    ("name", Value::str("thread_name")),
                    ("ph", Value::str("M")),
                    ("pid", Value::Int(1)),
                    ("tid", Value::from(row)),
                    ("args", Value::map(map_of([("name", Value::str(name))]))),
                ])
            })
            .collect();
        events.extend(self.spans.iter().map(|span| {
            let row = span.host.as_ref().and_then(|host| rows.get(host.as_ref())).copied().unwrap_or(0);
            map_of([
                ("name", Value::str(span.name.as_str())),
                ("cat", Value::str(span.phase)),
                ("ph", Value::str("X")),
                ("pid", Value::Int(1)),
                ("tid", Value::from(row)),
                ("ts", micros(between(began, span.from))),
                ("dur", micros(span.took)),
            ])
        }));
        let lines: Vec<String> =
            events.into_iter().map(|event| dump(&Value::map(event), &Layout::default())).collect();
        format!("{{\"traceEvents\": [\n{}\n]}}\n", lines.join(",\n"))
    }
}

impl Listener for Profile {
    fn event(&mut self, event: &Event) {
        let now = match event {
            Event::PlaybookStarted { .. }
            | Event::TaskStarted { .. }
            | Event::Connected { .. }
            | Event::Ran { .. }
            | Event::Recap { .. } => (self.clock)(),
            _ => return,
        };
        self.began.get_or_insert(now);
        match event {
            Event::TaskStarted { task } => {
                self.close(now);
                self.task(task.id, &task.title);
                self.open = Some((task.id, now));
            }
            Event::Connected { host, millis, login, pushed } => {
                let connect = Duration::from_millis(*login);
                let push = Duration::from_millis(millis.saturating_sub(*login));
                let ready = now.checked_sub(push).unwrap_or(now);
                let from = ready.checked_sub(connect).unwrap_or(ready);
                let entry = self.hosts.entry(host.clone()).or_default();
                entry.connect += connect;
                entry.push += push;
                entry.pushed += pushed;
                entry.seen(from, now);
                self.span(Some(host), "connect", "connect", from, connect);
                let name = if *pushed > 0 { "push the runner" } else { "start the runner" };
                self.span(Some(host), name, "push", ready, push);
            }
            Event::Ran { host, task, micros } => {
                let took = Duration::from_micros(*micros);
                let from = now.checked_sub(took).unwrap_or(now);
                let entry = self.hosts.entry(host.clone()).or_default();
                entry.run += took;
                entry.tasks += 1;
                entry.seen(from, now);
                let known = self.task(task.id, &task.title);
                known.run += took;
                if known.slowest.as_ref().is_none_or(|(_, time)| *time < took) {
                    known.slowest = Some((host.clone(), took));
                }
                self.span(Some(host), &task.title, "run", from, took);
            }
            Event::Recap { .. } => self.tell(now),
            _ => {}
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.3}s", time.as_secs_f64())
}

fn share(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() { 0.0 } else { part.as_secs_f64() / whole.as_secs_f64() * 100.0 }
}

fn micros(time: Duration) -> Value {
    Value::from(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

/// A line of a table: a name, and cells that stand under each other.
fn row(name: &str, cells: &[String]) -> String {
    let name: String = name.chars().take(40).collect();
    let mut line = format!("{name:<40}");
    for cell in cells {
        line.push_str(&format!(" {cell:>10}"));
    }
    line.trim_end().to_owned()
}
