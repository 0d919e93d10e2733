//! Who tells what happens in a run. Each report consumes the engine's events; nobody else prints.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Display;
use crate::diagnostic::{Diagnostic, Severity};
use crate::event::{Event, HostStats, Listener, Progress};
use crate::source::json::{Layout, dump};
use crate::value::{Map, Value};

pub mod audit;
mod brief;
pub mod clock;
mod diff;
mod document;
pub mod events;
mod excerpt;
mod junit;
mod profile;
mod result;
mod rollback;
mod screen;
pub mod style;
mod terminal;
mod timing;
mod tree;
mod yaml;

pub use screen::{Stream, Streams};
pub use terminal::Terminal;

use clock::Clock;
use screen::Screen;
use style::{Role, Style};

/// How a run is to be told.
pub struct Plan {
    /// The settings.
    pub display: Display,
    /// How often `-v` was given.
    pub verbosity: u8,
    /// The run only simulates.
    pub check: bool,
    /// Where a copy of what is shown goes.
    pub log_path: Option<PathBuf>,
    /// Where a trace of the run goes.
    pub trace: Option<PathBuf>,
    /// What time it is.
    pub clock: Clock,
}

/// Why a report can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// There is no such layout.
    #[error("there is no output layout `{name}`; there are {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The log can't be written.
    #[error("can't write the log {}: {source}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// Several listeners as one.
#[derive(Default)]
pub struct Fan(Vec<Box<dyn Listener>>);

impl Fan {
    /// Adds one.
    pub fn add(&mut self, listener: Box<dyn Listener>) {
        self.0.push(listener);
    }
}

impl Listener for Fan {
    fn event(&mut self, event: &Event) {
        for listener in &mut self.0 {
            listener.event(event);
        }
    }
}

/// Names of the layouts.
pub const LAYOUTS: &[&str] =
    &["default", "yaml", "minimal", "oneline", "json", "jsonl", "junit", "tree", "debug", "null"];

/// Listeners that can be added to a layout.
pub const CALLBACKS: &[&str] = &["timer", "profile_tasks", "profile_roles", "profile", "junit", "tree"];

/// The listeners that a plan asks for: the layout, and what `callbacks_enabled` adds to it.
///
/// # Errors
/// A layout's name is not known, or the log can't be written.
pub fn listeners(plan: &Plan, streams: &dyn Fn() -> Streams) -> Result<Fan, ReportError> {
    let display = &plan.display;
    let mut fan = Fan::default();
    let mut screen = Screen::new(streams(), display);
    if let Some(path) = &plan.log_path {
        let file = std::fs::File::options().create(true).append(true).open(path);
        let file = file.map_err(|source| ReportError::Log { path: path.clone(), source })?;
        screen.log_to(Box::new(file), plan.clock);
    }
    let name = short(&display.stdout_callback);
    match name {
        // `debug` differed from `default` in what is now a setting of its own.
        "default" | "yaml" | "debug" => {
            let display =
                Display { pretty: display.pretty.or((name == "debug").then_some(true)), ..display.clone() };
            fan.add(Box::new(Terminal::new(screen, display, plan.verbosity, plan.check)));
        }
        "minimal" | "oneline" => {
            fan.add(Box::new(brief::Brief::new(screen, display, plan.verbosity, name == "oneline")));
        }
        "json" => fan.add(Box::new(document::Document::new(screen, plan.clock))),
        "jsonl" => fan.add(Box::new(events::EventStream::new(screen, plan.clock))),
        "junit" | "tree" => {
            fan.add(Box::new(Terminal::new(screen, display.clone(), plan.verbosity, plan.check)));
            fan.add(extra(name, plan, streams).ok_or_else(|| unknown(name))?);
        }
        "rollback" => fan.add(Box::new(rollback::Rollback::new(screen, plan.check))),
        "null" => {}
        _ => return Err(unknown(&display.stdout_callback)),
    }
    for name in &display.callbacks_enabled {
        if let Some(listener) = extra(short(name), plan, streams) {
            fan.add(listener);
        }
    }
    Ok(fan)
}

fn unknown(name: &str) -> ReportError {
    ReportError::Unknown { name: name.to_owned(), known: LAYOUTS.join(", ") }
}

/// A callback's name without its collection.
fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Names in `callbacks_enabled` that there is nothing for here.
pub fn unknown_callbacks(display: &Display) -> Vec<&str> {
    display
        .callbacks_enabled
        .iter()
        .map(String::as_str)
        .filter(|name| !CALLBACKS.contains(&short(name)))
        .collect()
}

fn extra(name: &str, plan: &Plan, streams: &dyn Fn() -> Streams) -> Option<Box<dyn Listener>> {
    let display = &plan.display;
    let timing = |what| {
        let screen = Screen::new(streams(), display);
        Some(Box::new(timing::Timing::new(screen, plan.clock, what)) as Box<dyn Listener>)
    };
    match name {
        "timer" => timing(timing::What::Run),
        "profile_tasks" => timing(timing::What::Tasks),
        "profile_roles" => timing(timing::What::Roles),
        "profile" => {
            let screen = Screen::new(streams(), display);
            Some(Box::new(profile::Profile::new(screen, plan.clock, plan.trace.clone())))
        }
        "junit" => Some(Box::new(junit::Junit::new(display.junit.clone(), plan.clock))),
        "tree" => Some(Box::new(tree::Tree::new(display.tree_directory.clone()))),
        _ => None,
    }
}

/// A value on one line of JSON.
fn one_line(value: &Value) -> String {
    dump(value, &Layout { indent: None, sort_keys: true, ensure_ascii: false, separators: None })
}

fn one_line_map(map: Map) -> String {
    one_line(&Value::map(map))
}

/// The same with the keys as they come, and with what isn't ASCII escaped.
fn plain_line(value: &Value) -> String {
    dump(value, &Layout::default())
}

/// A host's line of the recap.
fn recap_line(host: &str, stats: &HostStats, style: &Style) -> String {
    let role = if stats.failed > 0 || stats.unreachable > 0 {
        Role::Error
    } else if stats.changed > 0 {
        Role::Changed
    } else {
        Role::Ok
    };
    let host =
        if style.colored() { format!("{:<37}", style.paint(role, host)) } else { format!("{host:<26}") };
    let count = |name: &str, count: u64, role: Role| {
        let text = format!("{name}={count:<4}");
        if count == 0 { text } else { style.paint(role, &text).into_owned() }
    };
    let counts = [
        count("ok", stats.ok, Role::Ok),
        count("changed", stats.changed, Role::Changed),
        count("unreachable", stats.unreachable, Role::Unreachable),
        count("failed", stats.failed, Role::Error),
        count("skipped", stats.skipped, Role::Skip),
        count("rescued", stats.rescued, Role::Ok),
        count("ignored", stats.ignored, Role::Warn),
    ];
    format!("{host} : {}", counts.join(" "))
}

/// The live line: task, hosts done, hosts that are waited for, bytes on their way.
fn progress_line(progress: &Progress, rate: Option<u64>) -> String {
    let mut out = format!("{}/{} {}", progress.done, progress.hosts, progress.task);
    if let Some((sent, all)) = progress.transfer {
        out.push_str(&format!("  {} of {}", bytes(sent), bytes(all)));
        if let Some(rate) = rate.filter(|rate| *rate > 0) {
            let left = all.saturating_sub(sent).div_ceil(rate);
            out.push_str(&format!(", {}/s, {left} s left", bytes(rate)));
        }
    }
    if !progress.waiting.is_empty() {
        let names: Vec<&Arc<str>> = progress.waiting.iter().take(3).collect();
        let more = progress.hosts.saturating_sub(progress.done).saturating_sub(names.len());
        let names: Vec<&str> = names.into_iter().map(|name| name.as_ref()).collect();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        out.push_str(&format!("  waiting for {}{more}", names.join(", ")));
    }
    out
}

/// How fast content travels, from one live line to the next.
#[derive(Default)]
struct Pace {
    /// When it was looked at first, and what had been sent by then; when last, and what by then.
    seen: Option<[(Instant, u64); 2]>,
}

impl Pace {
    /// Bytes a second since this transfer was seen first, if that is long enough ago to tell.
    fn of(&mut self, transfer: Option<(u64, u64)>, now: Instant) -> Option<u64> {
        let Some((sent, _)) = transfer else {
            self.seen = None;
            return None;
        };
        let first = match self.seen {
            Some([first, last]) if last.1 <= sent => first,
            // Another transfer.
            _ => (now, sent),
        };
        self.seen = Some([first, (now, sent)]);
        let millis = u64::try_from(now.saturating_duration_since(first.0).as_millis()).unwrap_or(u64::MAX);
        (millis >= 500).then(|| (sent - first.1).saturating_mul(1000) / millis)
    }
}

/// A number of bytes for people.
#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} GiB")
}

/// A diagnostic as it is shown outside of a run.
pub fn diagnostic_line(diagnostic: &Diagnostic) -> String {
    let word = match diagnostic.severity {
        Severity::Error => "ERROR",
        Severity::Warning => "WARNING",
    };
    format!("[{word}]: {}", terminal::diagnostic_text(diagnostic))
}

#[cfg(test)]
mod tests;
