//! `set_stats`: custom statistics, shown at the end of the run.

use std::sync::Arc;

use crate::engine::actions::set_fact::is_identifier;
use crate::engine::actions::{ActionContext, ActionOutcome, Effect};
use crate::engine::plan::PlanError;
use crate::value::{Map, Value, map_of};

pub(super) fn run(action: &ActionContext<'_>, args: Map) -> Result<ActionOutcome, PlanError> {
    let data = match args.get("data") {
        None | Some(Value::Null) => Arc::default(),
        Some(Value::Map(data)) => Arc::clone(data),
        Some(_) => {
            return Ok(ActionOutcome::failed(action.task, "The 'data' option needs to be a dictionary/hash"));
        }
    };
    for name in data.keys() {
        let name = name.to_text();
        if !is_identifier(&name) {
            return Ok(ActionOutcome::failed(
                action.task,
                format!(
                    "Task failed: Invalid variable name '{name}'. There may be only letters, digits and underscores, no digit first"
                ),
            ));
        }
    }
    let flag = |name: &str, default: bool| args.get(name).and_then(Value::to_bool).unwrap_or(default);
    let (per_host, aggregate) = (flag("per_host", false), flag("aggregate", true));
    let stats = map_of([
        ("data", Value::Map(data.clone())),
        ("per_host", Value::Bool(per_host)),
        ("aggregate", Value::Bool(aggregate)),
    ]);
    Ok(ActionOutcome {
        result: map_of([("changed", Value::Bool(false)), ("ansible_stats", Value::map(stats))]),
        effects: vec![Effect::Stats { data: data.as_ref().clone(), per_host, aggregate }],
        diagnostic: None,
    })
}
