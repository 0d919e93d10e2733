//! `group_by`: puts hosts into groups that are named by their variables.

use crate::engine::actions::{ActionContext, ActionOutcome, Effect};
use crate::engine::plan::PlanError;
use crate::value::{Map, Value, map_of};

pub(super) fn run(action: &ActionContext<'_>, args: Map) -> Result<ActionOutcome, PlanError> {
    let Some(key) = args.get("key").map(Value::to_text) else {
        return Ok(ActionOutcome::failed(action.task, "the 'key' param is required when using group_by"));
    };
    let parents: Vec<String> = match args.get("parents") {
        None | Some(Value::Null) => vec!["all".into()],
        Some(Value::List(items)) => items.iter().map(Value::to_text).collect(),
        Some(other) => vec![other.to_text()],
    };
    let tidy = |name: &str| name.replace(' ', "-");
    let group = tidy(&key);
    let parents: Vec<String> = parents.iter().map(|parent| tidy(parent)).collect();
    let result = map_of([
        ("changed", Value::Bool(true)),
        ("add_group", Value::str(group.as_str())),
        ("parent_groups", Value::from(parents.clone())),
    ]);
    Ok(ActionOutcome { result, effects: vec![Effect::GroupBy { group, parents }], diagnostic: None })
}
