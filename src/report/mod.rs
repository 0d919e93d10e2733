//! Who tells what happens in a run. Each report consumes the engine's events; nobody else prints.

use std::sync::Arc;

use crate::config::Display;
use crate::diagnostic::{Diagnostic, Severity};
use crate::event::{Event, HostStats, Listener, Progress};
use crate::source::json::{Layout, dump};
use crate::value::Value;

mod diff;
mod excerpt;
mod result;
mod screen;
pub mod style;
mod terminal;
mod yaml;

pub use screen::{Stream, Streams};
pub use terminal::Terminal;

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

/// Names of the layouts, for `--output`.
pub const LAYOUTS: &[&str] = &["default", "yaml"];

/// The listeners that a plan asks for.
///
/// # Errors
/// A name is not known.
pub fn listeners(plan: Plan, streams: Streams) -> Result<Fan, ReportError> {
    let mut fan = Fan::default();
    let name = plan.display.stdout_callback.clone();
    let screen = Screen::new(streams, &plan.display);
    match name.strip_prefix("ansible.builtin.").unwrap_or(&name) {
        "default" | "yaml" => {
            fan.add(Box::new(Terminal::new(screen, plan.display, plan.verbosity, plan.check)));
        }
        _ => return Err(ReportError::Unknown { name, known: LAYOUTS.join(", ") }),
    }
    Ok(fan)
}

/// A value on one line of JSON.
fn one_line(value: &Value) -> String {
    dump(value, &Layout { indent: None, sort_keys: true, ensure_ascii: false, separators: None })
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
fn progress_line(progress: &Progress) -> String {
    let mut out = format!("{}/{} {}", progress.done, progress.hosts, progress.task);
    if let Some((sent, all)) = progress.transfer {
        out.push_str(&format!("  {} of {}", bytes(sent), bytes(all)));
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
