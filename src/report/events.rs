//! The stream of events: one JSON object a line, as things happen. For programs that follow a run.
//!
//! Every object has `event` and `time`; [`FIELDS`] names the others.

use super::clock::{self, Clock};
use super::result;
use super::screen::Screen;
use crate::event::{Event, HostStats, Listener, TaskInfo, TaskResult, Verdict};
use crate::value::{Map, Value, map_of};

/// What each event's object holds besides `event` and `time`. This is API: names are only ever added.
pub const FIELDS: &[(&str, &str)] = &[
    ("playbook_started", "path"),
    ("play_started", "name, hosts, check"),
    ("no_hosts_matched", ""),
    ("no_hosts_remaining", ""),
    ("task_started", "task {id, title, name, role, action, path, line, handler, check}"),
    ("result", "host, task, status, changed, ignored, rescued, delegate, seconds, result, diff"),
    ("item", "as result, and item"),
    ("retry", "host, task, left, result"),
    ("async_poll", "host, job, started, finished"),
    ("async_done", "host, job, failed"),
    ("included", "what, hosts, item"),
    ("notified", "host, handler"),
    ("connected", "host, seconds, pushed"),
    ("stuck", "host, task, seconds"),
    ("waiting", "host, holder"),
    ("diagnostic", "severity, message, hint, path, line, column"),
    ("interrupted", "left [{host, task}]"),
    ("recap", "hosts {name: {ok, changed, unreachable, failed, skipped, rescued, ignored}}"),
];

/// Writes the stream.
pub struct EventStream {
    screen: Screen,
    clock: Clock,
}

impl EventStream {
    pub(super) fn new(screen: Screen, clock: Clock) -> EventStream {
        EventStream { screen, clock }
    }
}

impl Listener for EventStream {
    fn event(&mut self, event: &Event) {
        let Some((name, fields)) = object(event) else { return };
        let mut all = map_of([("event", Value::str(name)), ("time", Value::str(clock::iso((self.clock)())))]);
        all.extend(fields);
        let text = super::plain_line(&Value::map(all));
        self.screen.line(None, &text);
        self.screen.flush();
    }
}

fn object(event: &Event) -> Option<(&'static str, Map)> {
    let text = |text: &str| Value::str(text);
    let seconds = |millis: u64| Value::Float(std::time::Duration::from_millis(millis).as_secs_f64());
    let hosts = |hosts: &[std::sync::Arc<str>]| {
        Value::list(hosts.iter().map(|host| Value::str(host.clone())).collect())
    };
    Some(match event {
        Event::PlaybookStarted { path } => ("playbook_started", map_of([("path", text(path))])),
        Event::PlayStarted { name, hosts: all, check } => (
            "play_started",
            map_of([("name", text(name)), ("hosts", hosts(all)), ("check", Value::Bool(*check))]),
        ),
        Event::NoHostsMatched => ("no_hosts_matched", Map::new()),
        Event::NoHostsRemaining => ("no_hosts_remaining", Map::new()),
        Event::TaskStarted { task } => ("task_started", map_of([("task", Value::map(task_map(task)))])),
        Event::Result(result) => ("result", result_map(result)),
        Event::ItemResult(result) => {
            let mut map = result_map(result);
            map.insert(Value::str("item"), Value::from(result.label.clone()));
            ("item", map)
        }
        Event::Retry { host, task, left, result } => (
            "retry",
            map_of([
                ("host", text(host)),
                ("task", text(&task.title)),
                ("left", Value::from(*left)),
                ("result", result.clone()),
            ]),
        ),
        Event::AsyncPoll { host, job, started, finished } => (
            "async_poll",
            map_of([
                ("host", text(host)),
                ("job", text(job)),
                ("started", Value::Bool(*started)),
                ("finished", Value::Bool(*finished)),
            ]),
        ),
        Event::AsyncDone { host, job, failed } => (
            "async_done",
            map_of([("host", text(host)), ("job", text(job)), ("failed", Value::Bool(*failed))]),
        ),
        Event::Included { what, hosts: all, item } => (
            "included",
            map_of([("what", text(what)), ("hosts", hosts(all)), ("item", Value::from(item.clone()))]),
        ),
        Event::Notified { handler, host } => {
            ("notified", map_of([("host", text(host)), ("handler", text(handler))]))
        }
        Event::Connected { host, millis, pushed, .. } => (
            "connected",
            map_of([
                ("host", text(host)),
                ("seconds", seconds(*millis)),
                ("pushed", Value::Bool(*pushed > 0)),
            ]),
        ),
        Event::Stuck { host, task, seconds } => (
            "stuck",
            map_of([("host", text(host)), ("task", text(task)), ("seconds", Value::from(*seconds))]),
        ),
        Event::Waiting { host, holder } => {
            ("waiting", map_of([("host", text(host)), ("holder", text(holder))]))
        }
        Event::Diagnostic(diagnostic) => {
            let severity = match diagnostic.severity {
                crate::diagnostic::Severity::Error => "error",
                crate::diagnostic::Severity::Warning => "warning",
            };
            let origin = diagnostic.origin.as_deref();
            (
                "diagnostic",
                map_of([
                    ("severity", text(severity)),
                    ("message", text(&diagnostic.message)),
                    ("hint", Value::from(diagnostic.hint.clone())),
                    ("path", Value::from(origin.map(|origin| origin.file.clone()))),
                    ("line", Value::from(origin.map(|origin| origin.line))),
                    ("column", Value::from(origin.map(|origin| origin.column))),
                ]),
            )
        }
        Event::Interrupted { left } => {
            let left = left
                .iter()
                .map(|(host, task)| Value::map(map_of([("host", text(host)), ("task", text(task))])))
                .collect();
            ("interrupted", map_of([("left", Value::list(left))]))
        }
        Event::CustomStats { of_hosts, of_run } => {
            let of_hosts = of_hosts.iter().map(|(host, stats)| (text(host), Value::map(stats.clone())));
            (
                "custom_stats",
                map_of([
                    ("hosts", Value::map(of_hosts.collect())),
                    ("run", Value::map(of_run.clone().unwrap_or_default())),
                ]),
            )
        }
        Event::Recap { stats } => ("recap", map_of([("hosts", stats_map(stats))])),
        Event::Progress(_)
        | Event::Recorded(_)
        | Event::HandlerEntered { .. }
        | Event::HandlerGone { .. }
        | Event::Ran { .. } => return None,
    })
}

fn task_map(task: &TaskInfo) -> Map {
    map_of([
        ("id", Value::from(task.id)),
        ("title", Value::str(task.title.as_str())),
        ("name", Value::str(task.name.as_str())),
        ("role", Value::from(task.role.clone())),
        ("action", Value::str(task.action.as_str())),
        ("path", Value::str(task.origin.file.clone())),
        ("line", Value::from(task.origin.line)),
        ("handler", Value::Bool(task.handler)),
        ("check", Value::Bool(task.check)),
    ])
}

fn result_map(result: &TaskResult) -> Map {
    let mut shown = result::shown(result, 3);
    let diff = shown.shift_remove("diff");
    let mut map = map_of([
        ("host", Value::str(result.host.clone())),
        ("task", Value::str(result.task.title.as_str())),
        ("task_id", Value::from(result.task.id)),
        ("status", Value::str(status(result.verdict))),
        ("changed", Value::Bool(result.verdict == Verdict::Changed)),
        ("ignored", Value::Bool(result.ignored)),
        ("rescued", Value::Bool(result.rescued)),
        ("delegate", Value::from(result.delegate.clone())),
        ("seconds", Value::Float(std::time::Duration::from_millis(result.millis).as_secs_f64())),
        ("result", Value::map(shown)),
    ]);
    if let Some(diff) = diff {
        map.insert(Value::str("diff"), diff);
    }
    map
}

fn status(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Changed => "changed",
        Verdict::Skipped => "skipped",
        Verdict::Failed => "failed",
        Verdict::Unreachable => "unreachable",
    }
}

/// Counts by host.
fn stats_map(stats: &[(std::sync::Arc<str>, HostStats)]) -> Value {
    let one = |stats: &HostStats| {
        Value::map(map_of([
            ("ok", stats.ok),
            ("changed", stats.changed),
            ("unreachable", stats.unreachable),
            ("failed", stats.failed),
            ("skipped", stats.skipped),
            ("rescued", stats.rescued),
            ("ignored", stats.ignored),
        ]))
    };
    Value::map(stats.iter().map(|(host, stats)| (Value::str(host.clone()), one(stats))).collect())
}
