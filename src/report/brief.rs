//! The two layouts without banners: `minimal` (ad-hoc runs) and `oneline`.

use std::collections::HashSet;
use std::time::Instant;

use super::Pace;
use super::diff;
use super::result::{self, Format};
use super::screen::Screen;
use super::style::Role;
use super::terminal::Terminal;
use crate::config::Display;
use crate::event::{Event, Listener, TaskResult, Verdict};
use crate::value::Value;

/// `host | STATE => result`, indented or on one line.
pub struct Brief {
    screen: Screen,
    context: usize,
    verbosity: u8,
    one_line: bool,
    format: Format,
    /// Errors that were shown already.
    told: HashSet<String>,
    pace: Pace,
}

impl Brief {
    pub(super) fn new(screen: Screen, display: &Display, verbosity: u8, one_line: bool) -> Brief {
        let format = if display.result_format == "yaml" { Format::Yaml } else { Format::Json };
        Brief {
            screen,
            context: display.diff_context,
            verbosity,
            one_line,
            format,
            told: HashSet::new(),
            pace: Pace::default(),
        }
    }

    fn result(&mut self, result: &TaskResult) {
        for warning in result::warnings(result) {
            self.screen.error_line(Role::Warn, &format!("[WARNING]: {warning}"));
        }
        let failed = matches!(result.verdict, Verdict::Failed | Verdict::Unreachable);
        if failed && !result.looped && !self.one_line && (result.diagnostic.is_some() || is_written(result)) {
            let text = super::terminal::error_text(result);
            if self.told.insert(text.clone()) {
                self.screen.line(Some(Role::Error), &text);
            }
        }
        if !result.looped {
            self.diffs(result);
        }
        let (role, state) = match result.verdict {
            Verdict::Ok => (Role::Ok, "SUCCESS"),
            Verdict::Changed => (Role::Changed, "CHANGED"),
            Verdict::Skipped => (Role::Skip, "SKIPPED"),
            Verdict::Failed => (Role::Error, "FAILED"),
            Verdict::Unreachable => (Role::Unreachable, "UNREACHABLE!"),
        };
        if self.one_line && result.verdict == Verdict::Failed && is_output(result) {
            let text = self.command(result, state);
            self.screen.line(Some(role), &text);
        }
        let text = self.text(result, state);
        self.screen.line(Some(role), &text);
    }

    fn diffs(&mut self, result: &TaskResult) {
        let Some(value) = result.result.get("diff").filter(|value| value.truthy() && !self.one_line) else {
            return;
        };
        let text = diff::render(value, self.context, self.format, self.screen.style());
        if !text.is_empty() {
            self.screen.dressed(&text, &text);
        }
    }

    fn text(&self, result: &TaskResult, state: &str) -> String {
        let host = &result.host;
        match result.verdict {
            Verdict::Skipped => format!("{host} | {state}"),
            Verdict::Unreachable if self.one_line => {
                format!("{host} | {state}: {}", result::text_of(result, "msg"))
            }
            Verdict::Failed if self.one_line => {
                format!("{host} | {state}! => {}", result::dense(result::shown(result, self.verbosity)))
            }
            Verdict::Ok | Verdict::Changed | Verdict::Failed if is_output(result) => {
                self.command(result, state)
            }
            verdict => {
                let mark = if verdict == Verdict::Failed { "!" } else { "" };
                let map = result::shown(result, self.verbosity);
                let dump = if self.one_line { result::dense(map) } else { result::json(map, Some(4)) };
                format!("{host} | {state}{mark} => {dump}")
            }
        }
    }

    /// Output of a command is shown as it is.
    fn command(&self, result: &TaskResult, state: &str) -> String {
        let host = &result.host;
        let text = |key: &str| result::text_of(result, key);
        let rc = result.result.get("rc").map_or_else(|| "-1".to_owned(), Value::to_text);
        if !self.one_line {
            return format!(
                "{host} | {state} | rc={rc} >>\n{}{}{}",
                text("stdout"),
                text("stderr"),
                text("msg")
            );
        }
        let flat = |text: String| text.replace('\n', "\\n").replace('\r', "\\r");
        let (stdout, stderr) = (flat(text("stdout")), flat(text("stderr")));
        let stderr = if stderr.is_empty() { stderr } else { format!(" (stderr) {stderr}") };
        format!("{host} | {state} | rc={rc} | (stdout) {stdout}{stderr}")
    }
}

/// What a command printed is shown as it is, not as JSON.
fn is_output(result: &TaskResult) -> bool {
    let has = |key: &str| result.result.get(key).is_some();
    result::is_command(&result.task.action) && !has("ansible_job_id") && !has("module_stderr")
}

/// The task is in a file, not on the command line: there is a place to point at.
fn is_written(result: &TaskResult) -> bool {
    std::path::Path::new(result.task.origin.file.as_ref()).is_file()
}

impl Listener for Brief {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Result(result) => self.result(result),
            Event::ItemResult(result) => self.diffs(result),
            Event::Diagnostic(diagnostic) => {
                self.screen.error_line(Terminal::role_of(diagnostic), &super::diagnostic_line(diagnostic));
            }
            Event::Stuck { host, seconds, .. } => {
                self.screen
                    .error_line(Role::Warn, &format!("[WARNING]: {host} is still busy after {seconds} s"));
            }
            Event::Waiting { host, holder } => {
                let text = format!("[WARNING]: {host} is being changed by {holder}; waiting for it");
                self.screen.error_line(Role::Warn, &text);
            }
            Event::Interrupted { left } => {
                let hosts: Vec<&str> = left.iter().map(|(host, _)| host.as_ref()).collect();
                let text = format!("[ERROR]: interrupted; these hosts did not finish: {}", hosts.join(", "));
                self.screen.error_line(Role::Error, &text);
            }
            Event::Progress(progress) => {
                let rate = self.pace.of(progress.transfer, Instant::now());
                return self.screen.progress(&super::progress_line(progress, rate));
            }
            _ => {}
        }
        self.screen.flush();
    }
}
