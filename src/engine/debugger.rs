//! The task debugger (`debugger: on_failed`, `strategy: debug`, `ANSIBLE_ENABLE_TASK_DEBUGGER`): after a task
//! somebody at the terminal may look at it, change its arguments and variables, and run it again.

use std::io::{BufRead, Write};
use std::sync::Arc;

use crate::config::Settings;
use crate::engine::plan::Planner;
use crate::engine::settle;
use crate::event::Verdict;
use crate::playbook::{Play, Task, VarsKind, VarsLayer};
use crate::value::{Map, Value, map_of};
use crate::vars::{Scope, all_variables};

const HELP: &str = "\
p EXPRESSION               show it: task, task.args, task_vars, task_vars['name'], host, result, or any expression
task.args['name'] = VALUE  change an argument of the task
task_vars['name'] = VALUE  change a variable for the task
u                          take changed variables into the task
r                          run the task again
c                          go on
q                          end the run
";

/// What somebody decided.
#[derive(Debug)]
pub enum Next {
    /// Go on with the result as it is.
    Continue,
    /// Run this task, which may have been changed, in place of the one that ran.
    Redo(Arc<Task>),
    /// End the run.
    Quit,
}

/// Whether every failure in the play calls for the debugger: a setting, or the play's strategy.
pub fn everywhere(settings: &Settings, play: &Play) -> bool {
    let is_debug = |name: &str| name.rsplit('.').next() == Some("debug");
    let strategy = play
        .strategy
        .as_ref()
        .map_or(is_debug(&settings.strategy), |written| written.as_str().is_some_and(is_debug));
    settings.enable_task_debugger || strategy
}

/// Whether a task's outcome calls for the debugger: `keyword` says when, `everywhere` is what [`everywhere`]
/// says, `ignored` a failure that is ignored and so needs nobody.
pub fn is_wanted(keyword: Option<&Value>, everywhere: bool, verdict: Verdict, ignored: bool) -> bool {
    let failed = verdict == Verdict::Failed && !ignored;
    let unreachable = verdict == Verdict::Unreachable;
    match keyword.map(Value::to_text).as_deref() {
        Some("always") => true,
        Some("never") => false,
        Some("on_failed") if failed => true,
        Some("on_unreachable") if unreachable => true,
        Some("on_skipped") if verdict == Verdict::Skipped => true,
        _ => everywhere && (failed || unreachable),
    }
}

/// One conversation.
pub struct Session<'a, 'b> {
    planner: &'a Planner<'b>,
    result: Value,
    /// The task with what was changed so far.
    task: Task,
    /// Variables that were changed and not yet taken.
    vars: Map,
}

impl<'a, 'b> Session<'a, 'b> {
    /// About a task of `planner` that returned `result` (without what `no_log` hides).
    pub fn new(planner: &'a Planner<'b>, result: &Map) -> Session<'a, 'b> {
        let task = planner.task.as_ref().clone();
        Session { planner, result: settle::registered(result), task, vars: Map::new() }
    }

    /// Talks until it is decided what comes next. Where nobody answers, the run goes on.
    pub fn talk(mut self, title: &str, input: &mut dyn BufRead, out: &mut dyn Write) -> Next {
        let prompt = format!("[{}] {title} (debug)> ", self.planner.host.name);
        loop {
            let _ = out.write_all(prompt.as_bytes()).and_then(|()| out.flush());
            let mut line = String::new();
            if !input.read_line(&mut line).is_ok_and(|count| count > 0) {
                let _ = out.write_all(b"\n");
                return Next::Continue;
            }
            let line = line.trim();
            let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let shown = match word {
                "" => String::new(),
                "r" | "redo" => return Next::Redo(Arc::new(self.changed())),
                "c" | "continue" => return Next::Continue,
                "q" | "quit" => return Next::Quit,
                "u" | "update_task" => {
                    self.task = self.changed();
                    String::new()
                }
                "p" | "pprint" if rest.trim() == "task" => format!("{title}\n"),
                "p" | "pprint" => match self.evaluate(rest) {
                    Ok(value) => format!("{}\n", pretty(&value)),
                    Err(error) => format!("***{error}\n"),
                },
                "h" | "help" | "?" => HELP.to_string(),
                _ => match self.assign(line) {
                    Ok(()) => String::new(),
                    Err(error) => format!("***{error}\n"),
                },
            };
            let _ = out.write_all(shown.as_bytes());
        }
    }

    /// The task with the variables that were given.
    fn changed(&mut self) -> Task {
        let mut task = self.task.clone();
        if !self.vars.is_empty() {
            let layer = VarsLayer { kind: VarsKind::Include, map: Arc::new(std::mem::take(&mut self.vars)) };
            Arc::make_mut(&mut task.keywords).vars.push(layer);
        }
        task
    }

    fn scope(&self) -> Scope {
        let mut scope = self.planner.scope();
        let variables = all_variables(scope.clone());
        let name = self.task.name.clone().unwrap_or_else(|| Value::str(self.task.action.as_str()));
        let task = map_of([
            ("name", name),
            ("action", Value::str(self.task.action.as_str())),
            ("args", Value::Map(self.task.args.clone())),
        ]);
        scope.local.extend(map_of([
            ("task", Value::map(task)),
            ("task_vars", variables),
            ("host", Value::str(self.planner.host.name.clone())),
            ("result", self.result.clone()),
        ]));
        scope.local.extend(self.vars.clone());
        scope
    }

    fn evaluate(&self, expression: &str) -> Result<Value, String> {
        // `result._result` is how the field's users know it.
        let expression = expression.replace("result._result", "result");
        match expression.trim() {
            "" => return Err("SyntaxError: p needs an expression".into()),
            // Its arguments as they are written, not rendered.
            "task.args" => return Ok(Value::Map(self.task.args.clone())),
            _ => {}
        }
        let bound = self.planner.bind(self.scope());
        let value = self.planner.shared.templar.expression(&expression, &bound.context());
        value.map_err(|error| error.message)
    }

    /// `task.args['name'] = …`, `task.args = …`, `task_vars['name'] = …`
    fn assign(&mut self, line: &str) -> Result<(), String> {
        let unknown = || format!("NameError: `{line}` is no command; `help` names them");
        let (target, expression) = line.split_once('=').ok_or_else(unknown)?;
        let value = trusted(&self.evaluate(expression)?);
        let target = target.trim();
        if target == "task.args" {
            let Value::Map(args) = value else { return Err("TypeError: arguments are a mapping".into()) };
            self.task.args = args;
        } else if let Some(name) = key_of(target, "task.args") {
            Arc::make_mut(&mut self.task.args).insert(Value::str(name), value);
        } else if let Some(name) = key_of(target, "task_vars") {
            self.vars.insert(Value::str(name), value);
        } else {
            return Err(unknown());
        }
        Ok(())
    }
}

/// What somebody types may be a template.
fn trusted(value: &Value) -> Value {
    match value {
        Value::Str(text) => Value::trusted(text.text.clone()),
        Value::List(items) => Value::list(items.iter().map(trusted).collect()),
        Value::Map(map) => Value::map(map.iter().map(|(key, value)| (key.clone(), trusted(value))).collect()),
        other => other.clone(),
    }
}

/// `name` of `base['name']`.
fn key_of<'t>(target: &'t str, base: &str) -> Option<&'t str> {
    let inside = target.strip_prefix(base)?.trim().strip_prefix('[')?.strip_suffix(']')?.trim();
    let quote = inside.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    inside.strip_prefix(quote)?.strip_suffix(quote)
}

/// A value as Python would show it; a long mapping or list with one entry a line.
fn pretty(value: &Value) -> String {
    const WIDTH: usize = 79;
    let whole = value.repr();
    if whole.chars().count() <= WIDTH {
        return whole;
    }
    match value {
        Value::Map(map) => {
            let mut entries: Vec<String> =
                map.iter().map(|(key, value)| format!("{}: {}", key.repr(), value.repr())).collect();
            entries.sort();
            format!("{{{}}}", entries.join(",\n "))
        }
        Value::List(items) => {
            format!("[{}]", items.iter().map(Value::repr).collect::<Vec<_>>().join(",\n "))
        }
        _ => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keyword_says_when() {
        let cases = [
            ("always", Verdict::Ok, false, true),
            ("never", Verdict::Failed, true, false),
            ("on_failed", Verdict::Failed, false, true),
            ("on_failed", Verdict::Ok, false, false),
            ("on_unreachable", Verdict::Unreachable, false, true),
            ("on_skipped", Verdict::Skipped, false, true),
            ("on_skipped", Verdict::Failed, true, true),
            ("", Verdict::Failed, true, true),
            ("", Verdict::Skipped, true, false),
            ("", Verdict::Failed, false, false),
        ];
        for (keyword, verdict, everywhere, wanted) in cases {
            let keyword = Some(Value::str(keyword));
            assert_eq!(
                is_wanted(keyword.as_ref(), everywhere, verdict, false),
                wanted,
                "{keyword:?} {verdict:?} {everywhere}"
            );
        }
        assert!(!is_wanted(None, true, Verdict::Failed, true), "what is ignored needs nobody");
    }

    #[test]
    fn names_of_assignments_are_taken_apart() {
        for (target, base, name) in [
            ("task.args['data']", "task.args", Some("data")),
            ("task.args[ \"data\" ]", "task.args", Some("data")),
            ("task_vars['a b']", "task_vars", Some("a b")),
            ("task.args[data]", "task.args", None),
            ("task.args.data", "task.args", None),
            ("other['x']", "task_vars", None),
        ] {
            assert_eq!(key_of(target, base), name, "{target}");
        }
    }
}
