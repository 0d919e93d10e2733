//! `debug`: shows a message or a variable.

use crate::engine::actions::{ActionContext, ActionOutcome};
use crate::engine::plan::PlanError;
use crate::template::TemplateErrorKind;
use crate::value::{Map, Value, map_of};

pub(super) fn run(action: &ActionContext<'_>, args: Map) -> Result<ActionOutcome, PlanError> {
    let render = |name: &str, value: &Value| {
        action.shared.templar.render(value, &action.context).map_err(|mut error| {
            if !matches!(error.kind, TemplateErrorKind::Pending) {
                error.message = format!(
                    "Finalization of task args for 'ansible.builtin.debug' failed: Error while resolving value for '{name}': {}",
                    error.message
                );
            }
            error
        })
    };
    for name in args.keys() {
        let name = name.to_text();
        if !["msg", "var", "verbosity"].contains(&name.as_str()) {
            return Ok(ActionOutcome::failed(
                action.task,
                format!("Invalid options for debug: {name}. Supported are: msg, var, verbosity"),
            ));
        }
    }
    let verbosity = match args.get("verbosity") {
        Some(value) => match render("verbosity", value)? {
            Value::Int(number) => number,
            other => other.to_text().trim().parse().unwrap_or(0),
        },
        None => 0,
    };
    if verbosity > i64::from(action.shared.options.verbosity) {
        return Ok(ActionOutcome::result(map_of([
            ("skipped", Value::Bool(true)),
            ("skipped_reason", Value::str("Verbosity threshold not met.")),
            ("changed", Value::Bool(false)),
        ])));
    }
    let mut result = map_of([("changed", Value::Bool(false))]);
    match (args.get("msg"), args.get("var")) {
        (Some(_), Some(_)) => {
            return Ok(ActionOutcome::failed(action.task, "'msg' and 'var' are incompatible options"));
        }
        (Some(message), None) => {
            let message = render("msg", message)?;
            result.insert(
                Value::str("msg"),
                if matches!(message, Value::Omit) { Value::str("Hello world!") } else { message },
            );
        }
        (None, Some(var)) => {
            let value = match var {
                Value::Str(text) => {
                    // A bare expression; a template that gives one is followed.
                    let expression = if text.text.contains("{{") {
                        match render("var", var)? {
                            Value::Str(text) => text.text.to_string(),
                            other => {
                                result.insert(Value::str(text.text.clone()), other);
                                return Ok(ActionOutcome::result(result));
                            }
                        }
                    } else {
                        text.text.to_string()
                    };
                    match action.shared.templar.expression(&expression, &action.context) {
                        Ok(value) => (expression, value),
                        Err(error) if matches!(error.kind, TemplateErrorKind::Undefined { .. }) => {
                            (expression, Value::str("VARIABLE IS NOT DEFINED!"))
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                other => (other.to_text(), render("var", other)?),
            };
            result.insert(Value::str(value.0), value.1);
        }
        (None, None) => {
            result.insert(Value::str("msg"), Value::str("Hello world!"));
        }
    }
    Ok(ActionOutcome::result(result))
}
