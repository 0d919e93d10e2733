//! `set_fact`: sets variables of the host for the rest of the run.

use crate::engine::actions::{ActionContext, ActionOutcome, Effect};
use crate::engine::plan::PlanError;
use crate::value::{Map, Text, Value, map_of};

pub(super) fn run(action: &ActionContext<'_>, mut args: Map) -> Result<ActionOutcome, PlanError> {
    let cacheable = args.shift_remove("cacheable").and_then(|value| value.to_bool()).unwrap_or(false);
    args.shift_remove("_raw_params");
    if args.is_empty() {
        return Ok(ActionOutcome::failed(
            action.task,
            "No key/value pairs provided, at least one is required for this action to succeed",
        ));
    }
    let mut vars = Map::new();
    for (name, value) in args {
        let origin = name.origin().cloned();
        let name = action.shared.templar.render(&name, &action.context)?;
        if name.as_str().is_none() {
            return Ok(ActionOutcome::failed(
                action.task,
                format!(
                    "Invalid variable name '{}' of type '{}': a name is a string",
                    name.to_text(),
                    name.type_name()
                ),
            ));
        }
        let name = name.to_text();
        if RESERVED.contains(&name.as_str()) {
            return Ok(ActionOutcome::failed(
                action.task,
                format!("Invalid variable name '{name}': templates read this word as something else"),
            ));
        }
        if !is_identifier(&name) {
            return Ok(ActionOutcome::failed(
                action.task,
                format!(
                    "Task failed: Invalid variable name '{name}'. Variables must start with a letter or underscore character, and contain only letters, numbers and underscores."
                ),
            ));
        }
        let name = Text { text: name.into(), trusted: false, vaulted: false, origin };
        vars.insert(Value::Str(name), value);
    }
    let result = map_of([
        ("changed", Value::Bool(false)),
        ("ansible_facts", Value::map(vars.clone())),
        ("_ansible_facts_cacheable", Value::Bool(cacheable)),
    ]);
    Ok(ActionOutcome { result, effects: vec![Effect::SetFacts { vars, cacheable }], diagnostic: None })
}

/// Words that are values or operators in templates.
const RESERVED: [&str; 11] =
    ["true", "false", "none", "True", "False", "None", "and", "or", "not", "in", "is"];

/// Whether it can be the name of a variable.
pub(super) fn is_identifier(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|next| next.is_ascii_alphanumeric() || next == '_')
}
