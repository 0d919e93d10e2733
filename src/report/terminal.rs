//! The layout that people know: banners, one line a host, the recap.

use std::collections::HashSet;
use std::time::Instant;

use indexmap::IndexMap;

use super::result::{self, Format};
use super::screen::Screen;
use super::style::Role;
use super::{Pace, diff, excerpt};
use crate::config::Display;
use crate::diagnostic::{Diagnostic, Severity};
use crate::event::{Event, HostStats, Listener, Progress, TaskInfo, TaskResult, Verdict};
use crate::source::json::{Layout, dump};
use crate::value::{Map, Value};

/// The default layout.
pub struct Terminal {
    screen: Screen,
    display: Display,
    format: Format,
    verbosity: u8,
    /// The task whose banner was printed last.
    banner: Option<u64>,
    /// Messages that were shown once already.
    told: HashSet<String>,
    /// The run as a whole only simulates.
    check: bool,
    /// Texts that hosts have in common, with those hosts.
    folded: IndexMap<String, Vec<String>>,
    /// What `set_stats` collected, by host and of the run.
    custom_stats: Option<CustomStats>,
    pace: Pace,
}

type CustomStats = (Vec<(std::sync::Arc<str>, Map)>, Option<Map>);

impl Terminal {
    pub(super) fn new(screen: Screen, display: Display, verbosity: u8, check: bool) -> Terminal {
        let yaml = display.result_format == "yaml" || display.stdout_callback == "yaml";
        let format = if yaml { Format::Yaml } else { Format::Json };
        Terminal {
            screen,
            display,
            format,
            verbosity,
            banner: None,
            told: HashSet::new(),
            check,
            folded: IndexMap::new(),
            custom_stats: None,
            pace: Pace::default(),
        }
    }

    fn playbook(&mut self, path: &str) {
        if self.verbosity > 1 {
            let name = path.rsplit('/').next().unwrap_or(path);
            self.screen.banner(&format!("PLAYBOOK: {name}"));
        }
        if self.check && self.display.check_mode_markers {
            self.screen.banner("DRY RUN");
        }
    }

    fn play(&mut self, name: &str, check: bool) {
        let mark = if check && self.display.check_mode_markers { " [CHECK MODE]" } else { "" };
        let name = name.trim();
        let text = if name.is_empty() { format!("PLAY{mark}") } else { format!("PLAY [{name}]{mark}") };
        self.banner = None;
        self.screen.banner(&text);
    }

    fn task_started(&mut self, task: &TaskInfo) {
        // With filters on results, a banner is printed only above a result that is shown.
        if self.display.skipped_hosts && self.display.ok_hosts {
            self.task_banner(task);
        }
    }

    fn task_banner(&mut self, task: &TaskInfo) {
        let prefix = if task.handler { "RUNNING HANDLER" } else { "TASK" };
        let args = match (&task.args, self.display.args_to_stdout) {
            (Some(Value::Map(args)), true) => {
                let pairs: Vec<String> = args
                    .iter()
                    .map(|(key, value)| format!("{}={}", key.to_text(), value.to_text()))
                    .collect();
                format!(" {}", pairs.join(", "))
            }
            _ => String::new(),
        };
        let mark = if task.check && self.display.check_mode_markers { " [CHECK MODE]" } else { "" };
        self.screen.banner(&format!("{prefix} [{}{args}]{mark}", task.title.trim()));
        if self.verbosity >= 2 {
            self.task_path(task);
        }
        self.banner = Some(task.id);
    }

    fn task_path(&mut self, task: &TaskInfo) {
        let file = std::path::absolute(task.origin.file.as_ref()).unwrap_or_default();
        self.screen.line(Some(Role::Debug), &format!("task path: {}:{}", file.display(), task.origin.line));
    }

    fn ensure_banner(&mut self, task: &TaskInfo) {
        if self.banner != Some(task.id) {
            self.task_banner(task);
        }
    }

    /// A result is shown after its warnings and, if it failed, the place where that happened.
    fn prologue(&mut self, result: &TaskResult) {
        self.ensure_banner(&result.task);
        for warning in result::warnings(result) {
            self.warn(&warning);
        }
        if self.display.deprecation_warnings {
            for text in result::deprecations(result) {
                let text = format!("[DEPRECATION WARNING]: {text}");
                if self.told.insert(text.clone()) {
                    self.screen.error_line(Role::Deprecate, &text);
                }
            }
        }
        if matches!(result.verdict, Verdict::Failed | Verdict::Unreachable) && !result.looped {
            self.error_block(result);
        }
    }

    fn error_block(&mut self, result: &TaskResult) {
        let text = error_text(result);
        if !self.told.insert(text.clone()) {
            return;
        }
        if self.display.failed_stderr {
            self.screen.error_line(Role::Error, &text);
        } else {
            self.screen.line(Some(Role::Error), &text);
        }
    }

    fn warn(&mut self, text: &str) {
        let text = format!("[WARNING]: {text}");
        if self.told.insert(text.clone()) {
            self.screen.error_line(Role::Warn, &text);
        }
    }

    fn verbose(&self, result: &TaskResult) -> bool {
        (self.verbosity > 0 || result.verbose_always)
            && !result.result.get("_ansible_verbose_override").is_some_and(Value::truthy)
    }

    fn dump(&self, result: &TaskResult) -> String {
        let map = result::shown(result, self.verbosity);
        let long = result.verbose_always
            || self.verbosity > 2
            || self.display.pretty == Some(true)
            || (self.display.pretty.is_none() && self.format == Format::Yaml);
        let indent = (long && self.display.pretty != Some(false)).then_some(4);
        match self.format {
            Format::Json => result::json(map, indent),
            Format::Yaml => {
                super::yaml::result(map, self.display.pretty != Some(false)).trim_end_matches('\n').to_owned()
            }
        }
    }

    fn failure(&mut self, role: Role, text: &str) {
        if self.display.failed_stderr {
            self.screen.error_line(role, text);
        } else {
            self.screen.line(Some(role), text);
        }
    }

    fn result(&mut self, result: &TaskResult) {
        if !result.looped {
            self.diffs(result);
        }
        let host = result::host_label(result);
        match result.verdict {
            Verdict::Ok | Verdict::Changed if is_include(result) => self.ensure_banner(&result.task),
            Verdict::Ok if !self.display.ok_hosts => {}
            Verdict::Ok | Verdict::Changed => {
                self.prologue(result);
                if result.looped {
                    return;
                }
                let changed = result.verdict == Verdict::Changed;
                let (word, role) = if changed { ("changed", Role::Changed) } else { ("ok", Role::Ok) };
                let dump =
                    if self.verbose(result) { format!(" => {}", self.dump(result)) } else { String::new() };
                self.screen.line(Some(role), &format!("{word}: [{host}]{dump}"));
            }
            Verdict::Skipped if !self.display.skipped_hosts => {}
            Verdict::Skipped => {
                self.prologue(result);
                let dump =
                    if self.verbose(result) { format!(" => {}", self.dump(result)) } else { String::new() };
                self.screen.line(Some(Role::Skip), &format!("skipping: [{}]{dump}", result.host));
            }
            Verdict::Failed => {
                self.prologue(result);
                if !result.looped {
                    if self.verbosity < 2 && self.display.task_path_on_failure {
                        self.task_path(&result.task);
                    }
                    let dump = self.dump(result);
                    self.failure(Role::Error, &format!("fatal: [{host}]: FAILED! => {dump}"));
                }
                self.ignoring(result);
            }
            Verdict::Unreachable => {
                self.prologue(result);
                let dump = self.dump(result);
                self.failure(Role::Unreachable, &format!("fatal: [{host}]: UNREACHABLE! => {dump}"));
                self.ignoring(result);
            }
        }
    }

    fn ignoring(&mut self, result: &TaskResult) {
        if result.ignored {
            self.screen.line(Some(Role::Skip), "...ignoring");
        }
    }

    fn item(&mut self, result: &TaskResult) {
        if is_include(result) && matches!(result.verdict, Verdict::Ok | Verdict::Changed) {
            return;
        }
        self.diffs(result);
        let host = result::host_label(result);
        let label = match result.label.as_deref() {
            Some(label) => label.to_owned(),
            None => result::text_of(result, "item"),
        };
        let tail = |verbose: bool, dump: String| if verbose { format!(" => {dump}") } else { String::new() };
        match result.verdict {
            Verdict::Ok if !self.display.ok_hosts => {}
            Verdict::Ok | Verdict::Changed => {
                self.prologue(result);
                let changed = result.verdict == Verdict::Changed;
                let (word, role) = if changed { ("changed", Role::Changed) } else { ("ok", Role::Ok) };
                let tail = tail(self.verbose(result), self.dump(result));
                self.screen.line(Some(role), &format!("{word}: [{host}] => (item={label}){tail}"));
            }
            Verdict::Skipped if !self.display.skipped_hosts => {}
            Verdict::Skipped => {
                self.prologue(result);
                let tail = tail(self.verbose(result), self.dump(result));
                self.screen
                    .line(Some(Role::Skip), &format!("skipping: [{}] => (item={label}) {tail}", result.host));
            }
            Verdict::Failed | Verdict::Unreachable => {
                self.prologue(result);
                let dump = self.dump(result);
                self.failure(Role::Error, &format!("failed: [{host}] (item={label}) => {dump}"));
            }
        }
    }

    /// The diff of what changed is shown above the result.
    fn diffs(&mut self, result: &TaskResult) {
        let changed =
            result.verdict == Verdict::Changed || result.result.get("changed").is_some_and(Value::truthy);
        let Some(value) = result.result.get("diff").filter(|_| changed) else { return };
        let text = diff::render(value, self.display.diff_context, self.format, self.screen.style());
        if text.is_empty() {
            return;
        }
        if self.display.fold {
            self.fold(result, text);
            return;
        }
        self.ensure_banner(&result.task);
        self.screen.dressed(&text, &text);
    }

    /// Keeps a text back that several hosts may have in common, until the task is over.
    fn fold(&mut self, result: &TaskResult, text: String) {
        self.ensure_banner(&result.task);
        let host = match &result.label {
            Some(label) => format!("{} (item={label})", result::host_label(result)),
            None => result::host_label(result),
        };
        self.folded.entry(text).or_default().push(host);
    }

    /// Shows what was kept back: each text once, with the hosts that have it.
    fn unfold(&mut self) {
        for (text, hosts) in std::mem::take(&mut self.folded) {
            let head = format!("on {} ({}):", hosts.join(", "), hosts.len());
            self.screen.line(Some(Role::Debug), &head);
            let text = text.trim_end_matches('\n');
            self.screen.dressed(text, text);
        }
    }

    pub(super) fn role_of(diagnostic: &Diagnostic) -> Role {
        match diagnostic.severity {
            Severity::Error => Role::Error,
            Severity::Warning => Role::Warn,
        }
    }

    fn diagnostic(&mut self, diagnostic: &Diagnostic) {
        let text = super::diagnostic_line(diagnostic);
        if self.told.insert(text.clone()) {
            self.screen.error_line(Terminal::role_of(diagnostic), &text);
        }
    }

    fn recap(&mut self, stats: &[(std::sync::Arc<str>, HostStats)]) {
        self.screen.banner("PLAY RECAP");
        for (host, stats) in stats {
            let plain = super::recap_line(host, stats, &super::style::Style::default());
            let host = self.screen.style().safe(host).into_owned();
            let dressed = super::recap_line(&host, stats, self.screen.style());
            self.screen.dressed(&dressed, &plain);
        }
        self.screen.line(None, "");
        if self.check && self.display.check_mode_markers {
            self.screen.banner("DRY RUN");
        }
    }

    /// What `set_stats` collected, after the recap, where a setting asks for it.
    fn custom_stats(&mut self) {
        let Some((of_hosts, of_run)) = self.custom_stats.take().filter(|_| self.display.custom_stats) else {
            return;
        };
        let layout = Layout { indent: Some(1), sort_keys: true, ..Layout::default() };
        let one_line = |stats: Map| dump(&Value::map(stats), &layout).replace('\n', "");
        self.screen.banner("CUSTOM STATS:");
        for (host, stats) in of_hosts {
            self.screen.line(None, &format!("\t{host}: {}", one_line(stats)));
        }
        if let Some(stats) = of_run {
            self.screen.line(None, "");
            self.screen.line(None, &format!("\tRUN: {}", one_line(stats)));
        }
        self.screen.line(None, "");
    }

    fn progress(&mut self, progress: &Progress) {
        let rate = self.pace.of(progress.transfer, Instant::now());
        self.screen.progress(&super::progress_line(progress, rate));
    }
}

impl Listener for Terminal {
    fn event(&mut self, event: &Event) {
        // What a task's hosts have in common is shown when the next thing begins.
        let begins = matches!(
            event,
            Event::PlayStarted { .. }
                | Event::TaskStarted { .. }
                | Event::Recap { .. }
                | Event::NoHostsRemaining
        );
        if begins && !self.folded.is_empty() {
            self.unfold();
        }
        match event {
            Event::PlaybookStarted { path } => self.playbook(path),
            Event::PlayStarted { name, check, .. } => self.play(name, *check),
            Event::NoHostsMatched => self.screen.line(Some(Role::Skip), "skipping: no hosts matched"),
            Event::NoHostsRemaining => self.screen.banner("NO MORE HOSTS LEFT"),
            Event::TaskStarted { task } => self.task_started(task),
            Event::Result(result) => self.result(result),
            Event::ItemResult(result) => self.item(result),
            Event::Retry { host, task, left, result } => {
                let mut text = format!("FAILED - RETRYING: [{host}]: {} ({left} retries left).", task.name);
                if self.verbosity > 2 {
                    text.push_str(&format!("Result was: {}", super::one_line(result)));
                }
                self.screen.line(Some(Role::Debug), &text);
            }
            Event::AsyncPoll { host, job, started, finished } => {
                let (started, finished) = (Value::Bool(*started).repr(), Value::Bool(*finished).repr());
                let text = format!("ASYNC POLL on {host}: jid={job} started={started} finished={finished}");
                self.screen.line(Some(Role::Debug), &text);
            }
            Event::AsyncDone { host, job, failed } => {
                let word = if *failed { "FAILED" } else { "OK" };
                self.screen.line(Some(Role::Debug), &format!("ASYNC {word} on {host}: jid={job}"));
            }
            Event::Included { what, hosts, item } => {
                let item = item.as_ref().map(|item| format!(" => (item={item})")).unwrap_or_default();
                self.screen
                    .line(Some(Role::Included), &format!("included: {what} for {}{item}", hosts.join(", ")));
            }
            Event::Notified { handler, host } => {
                if self.verbosity > 1 {
                    self.screen.line(Some(Role::Verbose), &format!("NOTIFIED HANDLER {handler} for {host}"));
                }
            }
            Event::Connected { host, millis, pushed, .. } => {
                if self.verbosity > 2 {
                    let pushed = if *pushed > 0 { ", runner delivered" } else { "" };
                    self.screen
                        .line(Some(Role::Verbose), &format!("<{host}> connected in {millis} ms{pushed}"));
                }
            }
            Event::Stuck { host, task, seconds } => {
                self.screen.error_line(
                    Role::Warn,
                    &format!("[WARNING]: {host} is still busy with \"{task}\" after {seconds} s"),
                );
            }
            Event::Waiting { host, holder } => {
                self.screen.error_line(
                    Role::Warn,
                    &format!("[WARNING]: {host} is being changed by {holder}; waiting for it"),
                );
            }
            Event::Diagnostic(diagnostic) => self.diagnostic(diagnostic),
            Event::Progress(progress) => return self.progress(progress),
            Event::Recorded(_) | Event::HandlerEntered { .. } | Event::HandlerGone { .. } => {}
            Event::Interrupted { left } => {
                let mut text = "[ERROR]: interrupted".to_owned();
                for (host, task) in left {
                    text.push_str(&format!("\n  {host} did not finish: {task}"));
                }
                self.screen.error_line(Role::Error, &text);
            }
            Event::CustomStats { of_hosts, of_run } => {
                self.custom_stats = Some((of_hosts.clone(), of_run.clone()));
            }
            Event::Recap { stats } => {
                self.recap(stats);
                self.custom_stats();
            }
            Event::Ran { .. } => return,
        }
        self.screen.flush();
    }
}

/// What is included says so itself.
fn is_include(result: &TaskResult) -> bool {
    ["include_tasks", "include_role"].iter().any(|name| result::is_action(&result.task.action, name))
}

/// The `[ERROR]` block of a failed task: why, and where in the playbook.
pub(super) fn error_text(result: &TaskResult) -> String {
    let reason = result::reason(result);
    let task = &result.task.origin;
    let Some(diagnostic) = &result.diagnostic else {
        return format!("[ERROR]: {reason}\n{}", excerpt::origin_block(task));
    };
    match &diagnostic.origin {
        Some(origin) if origin.line != task.line || origin.file != task.file => {
            let cause = Diagnostic { origin: Some(origin.clone()), ..diagnostic.clone() };
            format!(
                "[ERROR]: {reason}\n\nTask failed.\n{}\n<<< caused by >>>\n\n{}",
                excerpt::origin_block(task),
                diagnostic_text(&cause)
            )
        }
        _ => {
            let here = Diagnostic { origin: Some(task.clone()), message: reason, ..diagnostic.clone() };
            format!("[ERROR]: {}", diagnostic_text(&here))
        }
    }
}

/// Message, hint, place, and how one got there.
pub(super) fn diagnostic_text(diagnostic: &Diagnostic) -> String {
    let mut out = diagnostic.message.clone();
    if let Some(hint) = &diagnostic.hint {
        out.push_str(if out.contains('\n') || out.len() + hint.len() > 100 { "\n" } else { "; " });
        out.push_str(hint);
    }
    if let Some(origin) = &diagnostic.origin {
        out.push('\n');
        out.push_str(&excerpt::origin_block(origin));
    }
    for from in &diagnostic.included_from {
        out.push_str(&format!("included from {from}\n"));
    }
    out
}
