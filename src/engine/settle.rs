//! Results: what a task's outcome means. Judges `changed_when`, `failed_when` and `until`, puts the results
//! of a loop together, and takes secrets out of what is told.

use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::engine::plan::{PlannedItem, Planner, Settled};
use crate::event::Verdict;
use crate::value::{Map, Value, map_of};

/// The outcome of one item.
#[derive(Clone, Debug)]
pub struct ItemOutcome {
    /// Return values.
    pub result: Map,
    /// What became of it.
    pub verdict: Verdict,
    /// Where to point for a failure of the controller's own making.
    pub diagnostic: Option<Diagnostic>,
}

impl ItemOutcome {
    /// From something that was settled without a machine.
    pub fn settled(settled: Settled) -> ItemOutcome {
        let verdict = verdict_of(&settled.result);
        ItemOutcome { result: settled.result, verdict, diagnostic: settled.diagnostic }
    }

    /// A host that could not be reached.
    pub fn unreachable(message: &str) -> ItemOutcome {
        ItemOutcome {
            result: map_of([
                ("changed", Value::Bool(false)),
                ("msg", Value::str(message)),
                ("unreachable", Value::Bool(true)),
            ]),
            verdict: Verdict::Unreachable,
            diagnostic: None,
        }
    }
}

/// What a failed result has as `exception`, which playbooks may look for.
const NO_TRACEBACK: &str = "(traceback unavailable)";

fn truthy(result: &Map, name: &str) -> bool {
    result.get(name).is_some_and(Value::truthy)
}

/// What the return values say became of it.
pub fn verdict_of(result: &Map) -> Verdict {
    if truthy(result, "unreachable") {
        Verdict::Unreachable
    } else if truthy(result, "failed") {
        Verdict::Failed
    } else if truthy(result, "skipped") {
        Verdict::Skipped
    } else if truthy(result, "changed") {
        Verdict::Changed
    } else {
        Verdict::Ok
    }
}

/// Fills in what every result has, and lets `changed_when`, `failed_when` and `until` judge. Returns whether
/// the task is to be tried again.
pub fn judge(
    planner: &Planner<'_>,
    item: &PlannedItem,
    outcome: &mut ItemOutcome,
    attempt: u64,
    retries: Option<u64>,
) -> bool {
    let task = planner.task;
    let result = &mut outcome.result;
    if outcome.verdict == Verdict::Unreachable || truthy(result, "skipped") {
        result.entry(Value::str("changed")).or_insert(Value::Bool(false));
        return false;
    }
    if !result.contains_key("failed") {
        let failed = result.get("rc").and_then(Value::as_int).is_some_and(|code| code != 0)
            && !truthy(result, "failed_when_result");
        if failed {
            result.insert(Value::str("failed"), Value::Bool(true));
        }
    }
    result.entry(Value::str("changed")).or_insert(Value::Bool(false));
    if truthy(result, "failed") {
        result.entry(Value::str("exception")).or_insert_with(|| Value::str(NO_TRACEBACK));
    }
    for stream in ["stdout", "stderr"] {
        let lines = format!("{stream}_lines");
        if let Some(text) = result.get(stream).and_then(Value::as_str)
            && !result.contains_key(lines.as_str())
        {
            let split = text.lines().map(Value::str).collect();
            result.insert(Value::str(lines), Value::list(split));
        }
    }
    let mut judged = |name: &str, conditions: &[Value], result: &mut Map| -> Option<Result<bool, ()>> {
        let bound = planner.bind(scope_with(planner, item, result));
        let context = bound.context();
        for condition in conditions {
            match planner.shared.templar.condition(condition, &context) {
                Ok(true) => {}
                Ok(false) => return Some(Ok(false)),
                Err(error) => {
                    result.insert(Value::str("failed"), Value::Bool(true));
                    result.insert(Value::str(format!("{name}_result")), Value::str(error.told()));
                    let mut diagnostic = Diagnostic::error(error.told()).at(error.origin.clone());
                    diagnostic.hint.clone_from(&error.hint);
                    outcome.diagnostic = Some(diagnostic);
                    if name == "until" {
                        result
                            .insert(Value::str("msg"), Value::str(format!("Task failed: {}", error.told())));
                    } else {
                        result.entry(Value::str("msg")).or_insert_with(|| Value::str(error.told()));
                    }
                    return Some(Err(()));
                }
            }
        }
        Some(Ok(true))
    };
    if let Some(conditions) = &task.changed_when
        && !conditions.is_empty()
        && let Some(Ok(changed)) = judged("changed_when", conditions, result)
    {
        result.insert(Value::str("changed"), Value::Bool(changed));
    }
    if let Some(conditions) = &task.failed_when
        && !conditions.is_empty()
        && let Some(Ok(failed)) = judged("failed_when", conditions, result)
    {
        result.insert(Value::str("failed"), Value::Bool(failed));
        result.insert(Value::str("failed_when_result"), Value::Bool(failed));
        if failed {
            result.entry(Value::str("exception")).or_insert_with(|| Value::str(NO_TRACEBACK));
        } else if let Some(exception) = result.shift_remove("exception") {
            result.insert(Value::str("failed_when_suppressed_exception"), exception);
        }
    }
    let mut again = false;
    if let Some(retries) = retries {
        result.insert(Value::str("attempts"), Value::from(attempt));
        let met = if task.until.is_empty() {
            Ok(!truthy(result, "failed"))
        } else {
            judged("until", &task.until, result).unwrap_or(Ok(false))
        };
        // What can't be judged now can't be judged later either.
        if met == Ok(false) {
            if attempt <= retries {
                again = true;
            } else {
                result.insert(Value::str("attempts"), Value::from(retries));
                result.insert(Value::str("failed"), Value::Bool(true));
            }
        }
    }
    outcome.verdict = verdict_of(&outcome.result);
    again
}

fn scope_with(planner: &Planner<'_>, item: &PlannedItem, result: &Map) -> crate::vars::Scope {
    let mut scope = planner.scope();
    scope.ahead = false;
    scope.local.extend(item.local.iter().map(|(key, value)| (key.clone(), value.clone())));
    if let Some(register) = &planner.task.register {
        scope.local.insert(Value::str(register.as_str()), registered(result));
    }
    scope
}

/// An item whose label may speak of the task's own result, with the label that it has now; a label that can't be
/// rendered is a failure of the item. `None` where the label can't depend on the result.
pub fn label_with_result(
    planner: &Planner<'_>,
    item: &PlannedItem,
    outcome: &mut ItemOutcome,
) -> Option<PlannedItem> {
    let label = planner.task.looping.as_ref()?.label.as_ref()?;
    planner.task.register.as_ref()?;
    let bound = planner.bind(scope_with(planner, item, &outcome.result));
    match planner.shared.templar.render(label, &bound.context()) {
        Ok(label) => Some(PlannedItem { label: Some(label.to_text()), ..item.clone() }),
        Err(error) => {
            let message = format!("Failed to template loop_control.label: {}", error.told());
            outcome.result.insert(Value::str("failed"), Value::Bool(true));
            outcome.result.insert(Value::str("changed"), Value::Bool(false));
            outcome.result.insert(Value::str("msg"), Value::str(message.as_str()));
            outcome.verdict = verdict_of(&outcome.result);
            outcome.diagnostic = Some(Diagnostic::error(message).at(error.origin.clone()));
            None
        }
    }
}

/// What `register` keeps of a result.
pub fn registered(result: &Map) -> Value {
    let kept = result
        .iter()
        .filter(|(key, _)| {
            key.as_str().is_none_or(|key| !key.starts_with("_ansible_") && key != "invocation")
        })
        .map(|(key, value)| (key.clone(), value.untrusted()))
        .collect();
    let mut kept: Map = kept;
    kept.entry(Value::str("changed")).or_insert(Value::Bool(false));
    let failed = Value::Bool(truthy(&kept, "failed"));
    kept.entry(Value::str("failed")).or_insert(failed);
    Value::map(kept)
}

/// The results of a loop's items as one.
pub fn aggregate(
    outcomes: &[ItemOutcome],
    items: &[PlannedItem],
    var: &str,
    index_var: Option<&str>,
) -> ItemOutcome {
    if outcomes.is_empty() {
        return ItemOutcome {
            result: map_of([
                ("changed", Value::Bool(false)),
                ("skipped", Value::Bool(true)),
                ("skipped_reason", Value::str("No items in the list")),
                ("results", Value::list(Vec::new())),
            ]),
            verdict: Verdict::Skipped,
            diagnostic: None,
        };
    }
    let any = |verdict: Verdict| outcomes.iter().any(|outcome| outcome.verdict == verdict);
    let all_skipped = outcomes.iter().all(|outcome| outcome.verdict == Verdict::Skipped);
    let failed = any(Verdict::Failed);
    let unreachable = any(Verdict::Unreachable);
    let changed = outcomes.iter().any(|outcome| truthy(&outcome.result, "changed"));
    let message = if failed {
        "One or more items failed"
    } else if all_skipped {
        "All items skipped"
    } else {
        "All items completed"
    };
    let results = outcomes
        .iter()
        .zip(items)
        .map(|(outcome, item)| Value::map(item_result(outcome, item, var, index_var)));
    let mut result = map_of([
        ("results", Value::list(results.collect())),
        ("changed", Value::Bool(changed)),
        ("msg", Value::str(message)),
    ]);
    if all_skipped {
        result.insert(Value::str("skipped"), Value::Bool(true));
    }
    if failed {
        result.insert(Value::str("failed"), Value::Bool(true));
    }
    if unreachable {
        result.insert(Value::str("unreachable"), Value::Bool(true));
    }
    ItemOutcome {
        verdict: if unreachable {
            Verdict::Unreachable
        } else if failed {
            Verdict::Failed
        } else if all_skipped {
            Verdict::Skipped
        } else if changed {
            Verdict::Changed
        } else {
            Verdict::Ok
        },
        result,
        diagnostic: None,
    }
}

/// One item's result with its loop variables.
pub fn item_result(outcome: &ItemOutcome, item: &PlannedItem, var: &str, index_var: Option<&str>) -> Map {
    let mut result = match registered(&outcome.result) {
        Value::Map(map) => Arc::unwrap_or_clone(map),
        _ => Map::new(),
    };
    if let Some(value) = &item.item {
        result.insert(Value::str(var), value.untrusted());
    }
    result.insert(Value::str("ansible_loop_var"), Value::str(var));
    if let Some(name) = index_var {
        result.insert(Value::str("ansible_index_var"), Value::str(name));
        if let Some(value) = item.local.get(name) {
            result.insert(Value::str(name), value.clone());
        }
    }
    if let Some(value) = item.local.get("ansible_loop") {
        result.insert(Value::str("ansible_loop"), value.clone());
    }
    result
}

/// What may be told of a result under `no_log`.
pub fn censored(result: &Map) -> Map {
    let mut out = map_of([(
        "censored",
        Value::str(
            "the output has been hidden due to the fact that 'no_log: true' was specified for this result",
        ),
    )]);
    for name in ["changed", "failed", "skipped", "unreachable", "attempts", "retries"] {
        if let Some(value) = result.get(name) {
            out.insert(Value::str(name), value.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn return_values_decide_the_verdict() {
        for (entries, expected) in [
            (vec![], Verdict::Ok),
            (vec![("changed", true)], Verdict::Changed),
            (vec![("changed", true), ("failed", true)], Verdict::Failed),
            (vec![("skipped", true), ("changed", false)], Verdict::Skipped),
            (vec![("unreachable", true), ("failed", true)], Verdict::Unreachable),
        ] {
            assert_eq!(verdict_of(&map_of(entries)), expected);
        }
    }

    #[test]
    fn an_empty_loop_is_skipped() {
        let outcome = aggregate(&[], &[], "item", None);
        assert_eq!(outcome.verdict, Verdict::Skipped);
        assert!(!outcome.result.contains_key("msg"));
    }

    #[test]
    fn censoring_keeps_only_what_is_no_secret() {
        let told = censored(&map_of([("stdout", Value::str("secret")), ("changed", Value::Bool(true))]));
        assert!(!Value::map(told.clone()).repr().contains("'secret'"));
        assert_eq!(told.get("changed"), Some(&Value::Bool(true)));
    }
}
