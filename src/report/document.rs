//! The whole run as one JSON document, in the shape of the `json` stdout callback.

use std::time::SystemTime;

use super::clock::{self, Clock};
use super::result;
use super::screen::Screen;
use super::style::Role;
use crate::event::{Event, HostStats, Listener, TaskInfo, TaskResult};
use crate::source::json::{Layout, dump};
use crate::value::{Map, Value, map_of};

/// Collects the run and writes it at its end.
pub struct Document {
    screen: Screen,
    clock: Clock,
    plays: Vec<Play>,
    /// What `set_stats` collected, by host and of the run.
    custom_stats: (Map, Map),
}

struct Play {
    name: String,
    start: SystemTime,
    end: SystemTime,
    tasks: Vec<Task>,
}

struct Task {
    id: u64,
    name: String,
    path: String,
    start: SystemTime,
    end: SystemTime,
    hosts: Map,
}

impl Document {
    pub(super) fn new(screen: Screen, clock: Clock) -> Document {
        Document { screen, clock, plays: Vec::new(), custom_stats: Default::default() }
    }

    fn task(&mut self, info: &TaskInfo) -> Option<&mut Task> {
        let now = (self.clock)();
        let play = self.plays.last_mut()?;
        if !play.tasks.iter().any(|task| task.id == info.id) {
            play.tasks.push(Task {
                id: info.id,
                name: info.title.clone(),
                path: format!("{}:{}", info.origin.file, info.origin.line),
                start: now,
                end: now,
                hosts: Map::new(),
            });
        }
        play.end = now;
        let task = play.tasks.iter_mut().find(|task| task.id == info.id)?;
        task.end = now;
        Some(task)
    }

    fn result(&mut self, result: &TaskResult) {
        let mut shown = result::shown(result, 3);
        for flag in ["failed", "skipped", "warnings"] {
            if let Some(value) = result.result.get(flag) {
                shown.insert(Value::str(flag), value.clone());
            }
        }
        if result.verdict == crate::event::Verdict::Unreachable {
            shown.insert(Value::str("unreachable"), Value::Bool(true));
        }
        shown.insert(Value::str("action"), Value::str(result.task.action.as_str()));
        let host = Value::str(result.host.clone());
        if let Some(task) = self.task(&result.task) {
            task.hosts.insert(host, Value::map(shown));
        }
    }

    fn write(&mut self, stats: &[(std::sync::Arc<str>, HostStats)]) {
        let plays = self.plays.iter().map(play_value).collect();
        let all = map_of([
            ("custom_stats", Value::map(std::mem::take(&mut self.custom_stats.0))),
            ("global_custom_stats", Value::map(std::mem::take(&mut self.custom_stats.1))),
            ("plays", Value::list(plays)),
            ("stats", stats_value(stats)),
        ]);
        let layout = Layout { indent: Some(4), sort_keys: true, ..Layout::default() };
        self.screen.line(None, &dump(&Value::map(all), &layout));
        self.screen.flush();
    }
}

fn duration(start: SystemTime, end: SystemTime) -> Value {
    Value::map(map_of([("start", clock::iso(start)), ("end", clock::iso(end))]))
}

fn play_value(play: &Play) -> Value {
    let head =
        map_of([("duration", duration(play.start, play.end)), ("name", Value::str(play.name.as_str()))]);
    let tasks = play.tasks.iter().map(|task| {
        let head = map_of([
            ("duration", duration(task.start, task.end)),
            ("id", Value::from(task.id)),
            ("name", Value::str(task.name.as_str())),
            ("path", Value::str(task.path.as_str())),
        ]);
        Value::map(map_of([("hosts", Value::map(task.hosts.clone())), ("task", Value::map(head))]))
    });
    Value::map(map_of([("play", Value::map(head)), ("tasks", Value::list(tasks.collect()))]))
}

fn stats_value(stats: &[(std::sync::Arc<str>, HostStats)]) -> Value {
    let one = |stats: &HostStats| {
        Value::map(map_of([
            ("changed", stats.changed),
            ("failures", stats.failed),
            ("ignored", stats.ignored),
            ("ok", stats.ok),
            ("rescued", stats.rescued),
            ("skipped", stats.skipped),
            ("unreachable", stats.unreachable),
        ]))
    };
    Value::map(stats.iter().map(|(host, stats)| (Value::str(host.clone()), one(stats))).collect())
}

impl Listener for Document {
    fn event(&mut self, event: &Event) {
        match event {
            Event::PlayStarted { name, .. } => {
                let now = (self.clock)();
                self.plays.push(Play { name: name.clone(), start: now, end: now, tasks: Vec::new() });
            }
            Event::TaskStarted { task } => {
                self.task(task);
            }
            Event::Result(result) => self.result(result),
            Event::CustomStats { of_hosts, of_run } => {
                let of_hosts = of_hosts
                    .iter()
                    .map(|(host, stats)| (Value::str(host.clone()), Value::map(stats.clone())));
                self.custom_stats = (of_hosts.collect(), of_run.clone().unwrap_or_default());
            }
            Event::Recap { stats } => self.write(stats),
            Event::Diagnostic(diagnostic) => {
                self.screen.error_line(Role::Warn, &super::diagnostic_line(diagnostic));
            }
            _ => {}
        }
    }
}
