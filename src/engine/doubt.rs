//! What a dry run can't know. A task that is not run in check mode leaves no result; a later task that needs
//! one would fail here, and will not in the real run. It is reported as uncertain instead.

use std::collections::BTreeSet;

use crate::engine::settle::ItemOutcome;
use crate::event::Verdict;
use crate::playbook::Task;
use crate::value::{Map, Value, Vars, map_of};

/// Names whose variables are made of other hosts' or of the machine's, and never of this host's results alone.
const NEVER: &[&str] = &["hostvars", "groups", "vars", "ansible_facts", "item", "omit"];

/// How far variables that are made of variables are followed.
const DEPTH: usize = 4;

/// Looks at an outcome of a dry run. `unknown` are the names of variables that only a real run can give this
/// host; names are added to it. A failure of the controller's own (`here`) that comes of them becomes uncertain,
/// and so does a program that can't be found on a host that `installs` packages.
pub fn look(
    task: &Task,
    (here, installs): (bool, bool),
    vars: &dyn Vars,
    unknown: &mut BTreeSet<String>,
    outcome: &mut ItemOutcome,
) {
    let not_run = outcome.verdict == Verdict::Skipped && !outcome.result.contains_key("skip_reason");
    let sets = task.action == "ansible.builtin.set_fact";
    let mut uncertain = not_run || outcome.result.get("uncertain").is_some_and(Value::truthy);
    let failed = here && outcome.verdict == Verdict::Failed;
    let follows = (failed || sets) && !unknown.is_empty() && needs(task, vars, unknown);
    let missing = !here && installs && is_missing_program(&outcome.result);
    if failed && follows || missing {
        let message = outcome.result.get("msg").map(Value::to_text).unwrap_or_default();
        let message = format!("not known in a dry run: {message}");
        outcome.result = map_of([
            ("changed", Value::Bool(false)),
            ("skipped", Value::Bool(true)),
            ("uncertain", Value::Bool(true)),
            ("msg", Value::str(message.as_str())),
            ("warnings", Value::list(vec![Value::str(message)])),
        ]);
        outcome.verdict = Verdict::Skipped;
        outcome.diagnostic = None;
    }
    uncertain |= follows || missing;
    if uncertain {
        unknown.extend(task.register.clone());
        if sets {
            unknown.extend(task.args.keys().filter_map(Value::as_str).map(String::from));
        }
    }
}

/// A command that was run for real within the dry run, and whose program is not there.
fn is_missing_program(result: &Map) -> bool {
    let code = result.get("rc").and_then(Value::as_int);
    let message = result.get("msg").map(Value::to_text).unwrap_or_default();
    code == Some(127) || (code == Some(2) && message.starts_with("Error executing command."))
}

/// Whether a task uses one of these variables, perhaps through others.
fn needs(task: &Task, vars: &dyn Vars, unknown: &BTreeSet<String>) -> bool {
    let mut words = BTreeSet::new();
    gather_map(&task.args, &mut words);
    let keywords = &task.keywords;
    let conditions = task.changed_when.iter().chain(&task.failed_when).flatten();
    for value in conditions.chain(&task.until).chain(&keywords.when).chain(&task.args_template) {
        gather(value, &mut words);
    }
    if let Some(looping) = &task.looping {
        gather(&looping.value, &mut words);
    }
    for layer in keywords.vars.iter() {
        gather_map(&layer.map, &mut words);
    }
    let mut seen = BTreeSet::new();
    for _ in 0..DEPTH {
        if words.iter().any(|word| unknown.contains(word)) {
            return true;
        }
        let mut next = BTreeSet::new();
        for word in words {
            if NEVER.contains(&word.as_str()) || !seen.insert(word.clone()) {
                continue;
            }
            if let Some(value) = vars.get(&word) {
                gather(&value, &mut next);
            }
        }
        words = next;
    }
    false
}

fn gather_map(map: &Map, words: &mut BTreeSet<String>) {
    for value in map.values() {
        gather(value, words);
    }
}

/// The identifiers in a value's texts.
fn gather(value: &Value, words: &mut BTreeSet<String>) {
    match value {
        Value::List(items) => items.iter().for_each(|item| gather(item, words)),
        Value::Map(map) => gather_map(map, words),
        _ => {
            let Some(text) = value.as_str() else { return };
            let name = |c: char| !(c.is_alphanumeric() || c == '_');
            words.extend(text.split(name).filter(|word| !word.is_empty()).map(String::from));
        }
    }
}
