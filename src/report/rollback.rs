//! What a rollback shows: the plan, hosts that share one told together, and then what became of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::screen::Screen;
use super::style::Role;
use crate::diagnostic::Severity;
use crate::event::{Event, Listener, TaskResult, Verdict};
use crate::value::Value;

/// The task that takes a run back.
const ACTION: &str = "setpoint.builtin.rollback";

/// Shows a rollback.
pub(super) struct Rollback {
    screen: Screen,
    check: bool,
    plans: Vec<(Arc<str>, Value)>,
    planned: bool,
    ends: BTreeMap<Arc<str>, Counts>,
}

#[derive(Default)]
struct Counts {
    restored: usize,
    already: usize,
    left: Vec<String>,
    impossible: usize,
    failed: Vec<String>,
}

impl Rollback {
    pub(super) fn new(screen: Screen, check: bool) -> Rollback {
        Rollback { screen, check, plans: Vec::new(), planned: false, ends: BTreeMap::new() }
    }

    fn result(&mut self, result: &TaskResult) {
        let said = result.result.get("msg").map(Value::to_text).unwrap_or_default();
        let kept = result.result.get("kept").is_some_and(Value::truthy);
        let bad = matches!(result.verdict, Verdict::Failed | Verdict::Unreachable);
        if result.task.action == ACTION && result.task.name.starts_with("Plan") {
            if kept && !bad {
                self.plans.push((result.host.clone(), result.result.clone()));
            } else if bad {
                let line = format!("{}: {}: {said}", result.host, result.task.name);
                self.screen.error_line(if result.ignored { Role::Warn } else { Role::Error }, &line);
                if !result.ignored {
                    self.ends.entry(result.host.clone()).or_default().failed.push(said);
                }
            }
            return;
        }
        let end = self.ends.entry(result.host.clone()).or_default();
        for step in result.result.get("steps").and_then(Value::as_list).unwrap_or_default() {
            match text(step, "outcome").as_str() {
                "restored" => end.restored += 1,
                "already" => end.already += 1,
                "left" => end.left.push(format!("{}: {}", text(step, "what"), text(step, "reason"))),
                _ => end.impossible += 1,
            }
        }
        if bad && end.left.is_empty() {
            end.failed.push(said);
        }
    }

    /// Plans that are equal are shown once.
    fn plan(&mut self) {
        self.planned = true;
        let mut groups: Vec<(String, String, Vec<Arc<str>>, Value)> = Vec::new();
        for (host, result) in std::mem::take(&mut self.plans) {
            let user = text(&result, "user");
            let steps = result.get("steps").cloned().unwrap_or_default();
            let key = steps.repr();
            match groups.iter_mut().find(|group| group.0 == key && group.1 == user) {
                Some(group) => group.2.push(host),
                None => groups.push((key, user, vec![host], result)),
            }
        }
        for (_, user, hosts, result) in groups {
            let names: Vec<&str> = hosts.iter().map(AsRef::as_ref).collect();
            let run = text(&result, "run");
            self.screen.line(
                Some(Role::Highlight),
                &format!("\nPlan to take back run {run} on {} (as {user})", names.join(", ")),
            );
            if let Some(when) = result.get("rolled_back").and_then(Value::as_str) {
                self.screen.line(Some(Role::Warn), &format!("  it was rolled back before, at {when}"));
            }
            let steps: Vec<Value> = result.get("steps").and_then(Value::as_list).unwrap_or_default().to_vec();
            self.part(&steps, "restored", None, Role::Changed);
            self.part(
                &steps,
                "left",
                Some("left as it is (--force overwrites what was changed since):"),
                Role::Warn,
            );
            self.part(&steps, "impossible", Some("can't be taken back:"), Role::Error);
            let already = steps.iter().filter(|step| text(step, "outcome") == "already").count();
            if already > 0 {
                self.screen.line(Some(Role::Ok), &format!("  {already} things are as they were"));
            }
        }
        self.screen.flush();
    }

    fn part(&mut self, steps: &[Value], outcome: &str, title: Option<&str>, role: Role) {
        let steps: Vec<&Value> = steps.iter().filter(|step| text(step, "outcome") == outcome).collect();
        if let (Some(title), false) = (title, steps.is_empty()) {
            self.screen.line(Some(role), &format!("  {title}"));
        }
        let indent = if title.is_some() { "    " } else { "  " };
        for step in steps {
            let why = match outcome {
                "restored" => text(step, "how"),
                _ => text(step, "reason"),
            };
            self.screen.line(Some(role), &format!("{indent}{}: {why}", text(step, "what")));
        }
    }

    fn end(&mut self) {
        if !self.planned {
            self.plan();
        }
        self.screen.line(None, "");
        for (host, end) in std::mem::take(&mut self.ends) {
            let would = if self.check { "would be " } else { "" };
            let mut line = format!("{host}: {} {would}restored, {} as before", end.restored, end.already);
            if end.impossible > 0 {
                line.push_str(&format!(", {} can't be taken back", end.impossible));
            }
            if !end.left.is_empty() {
                line.push_str(&format!(", {} left", end.left.len()));
            }
            let role = if !end.failed.is_empty() || !end.left.is_empty() { Role::Error } else { Role::Ok };
            self.screen.line(Some(role), &line);
            for reason in end.left.iter().chain(&end.failed) {
                self.screen.line(Some(Role::Error), &format!("  {reason}"));
            }
        }
        if self.check {
            self.screen.line(None, "dry run: nothing was changed");
        }
        self.screen.flush();
    }
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).map(Value::to_text).unwrap_or_default()
}

impl Listener for Rollback {
    fn event(&mut self, event: &Event) {
        match event {
            Event::TaskStarted { task }
                if task.action == ACTION && task.name.starts_with("Roll back") && !self.planned =>
            {
                self.plan();
            }
            Event::Result(result) if result.verdict != Verdict::Skipped => self.result(result),
            Event::Waiting { host, holder } => {
                self.screen.error_line(Role::Warn, &format!("{host}: waiting for {holder}"));
            }
            Event::Diagnostic(diagnostic) => {
                let role = if diagnostic.severity == Severity::Error { Role::Error } else { Role::Warn };
                self.screen.error_line(role, super::diagnostic_line(diagnostic).trim_end());
            }
            Event::Recap { .. } => self.end(),
            _ => {}
        }
    }
}
