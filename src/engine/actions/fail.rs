//! `fail`: fails with a message.

use crate::diagnostic::Diagnostic;
use crate::engine::actions::{ActionContext, ActionOutcome};
use crate::engine::plan::PlanError;
use crate::value::{Map, Value, map_of};

pub(super) fn run(action: &ActionContext<'_>, args: Map) -> Result<ActionOutcome, PlanError> {
    let message = args.get("msg").map_or_else(|| Value::str("Failed as requested from task"), Clone::clone);
    Ok(ActionOutcome {
        diagnostic: Some(
            Diagnostic::error(format!("Action failed: {}", message.to_text()))
                .at(Some(action.task.origin.clone())),
        ),
        result: map_of([("failed", Value::Bool(true)), ("changed", Value::Bool(false)), ("msg", message)]),
        effects: Vec::new(),
    })
}
