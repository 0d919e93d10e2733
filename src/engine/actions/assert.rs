//! `assert`: fails unless all conditions hold.

use crate::diagnostic::Diagnostic;
use crate::engine::actions::{ActionContext, ActionOutcome};
use crate::engine::plan::{PlanError, argument_of};
use crate::value::{Map, Value, map_of};

pub(super) fn run(action: &ActionContext<'_>, args: Map) -> Result<ActionOutcome, PlanError> {
    let render = |name: &str, value: &Value| {
        let rendered = action.shared.templar.render(value, &action.context);
        rendered.map_err(|error| error.wanted_for(argument_of("ansible.builtin.assert", name)))
    };
    let Some(that) = args.get("that") else {
        return Ok(ActionOutcome::failed(action.task, "missing required arguments: that"));
    };
    for name in args.keys() {
        let name = name.to_text();
        if !["that", "msg", "fail_msg", "success_msg", "quiet"].contains(&name.as_str()) {
            return Ok(ActionOutcome::failed(
                action.task,
                format!(
                    "Invalid options for assert: {name}. Supported are: fail_msg, msg, quiet, success_msg, that"
                ),
            ));
        }
    }
    // All that can be said is rendered, whatever will be: a mistake in it is found on a good day too.
    let mut messages = Map::new();
    for name in ["msg", "fail_msg", "success_msg"] {
        let Some(given) = args.get(name) else { continue };
        let message = render(name, given)?;
        let is_text = |value: &Value| value.as_str().is_some();
        if !is_text(&message) && !message.as_list().is_some_and(|items| items.iter().all(is_text)) {
            return Ok(ActionOutcome::failed(
                action.task,
                format!(
                    "argument '{name}' is of type {} and we were unable to convert to str_or_list_of_str: a string or list of strings is required",
                    message.type_name()
                ),
            ));
        }
        messages.insert(Value::str(name), message);
    }
    let quiet = match args.get("quiet") {
        Some(value) => render("quiet", value)?.to_bool().unwrap_or(false),
        None => false,
    };
    for condition in &conditions(action, that)? {
        if action.shared.templar.condition(condition, &action.context)? {
            continue;
        }
        let given = messages.get("fail_msg").or_else(|| messages.get("msg"));
        let message = given.cloned().unwrap_or_else(|| Value::str("Assertion failed"));
        let mut result = map_of([("failed", Value::Bool(true)), ("changed", Value::Bool(false))]);
        if !quiet {
            result.insert(Value::str("evaluated_to"), Value::Bool(false));
            result.insert(Value::str("assertion"), condition.untrusted());
        }
        let origin = condition.origin().cloned().or_else(|| Some(action.task.origin.clone()));
        let diagnostic = Diagnostic::error(format!("Action failed: {}", message.to_text())).at(origin);
        result.insert(Value::str("msg"), message);
        return Ok(ActionOutcome { result, effects: Vec::new(), diagnostic: Some(diagnostic) });
    }
    let given = messages.get("success_msg").cloned();
    let message = given.unwrap_or_else(|| Value::str("All assertions passed"));
    Ok(ActionOutcome::result(map_of([("changed", Value::Bool(false)), ("msg", message)])))
}

/// The conditions, unrendered: each is judged in its turn. A template in place of the list gives the list.
fn conditions(action: &ActionContext<'_>, that: &Value) -> Result<Vec<Value>, PlanError> {
    Ok(match that {
        Value::List(items) => items.as_ref().clone(),
        Value::Str(text) if text.trusted && text.text.trim_start().starts_with("{{") => {
            let rendered = action.shared.templar.render_trusted(that, &action.context);
            match rendered.map_err(|error| error.wanted_for("Error while evaluating conditional"))? {
                Value::List(items) => items.as_ref().clone(),
                _ => vec![that.clone()],
            }
        }
        other => vec![other.clone()],
    })
}
