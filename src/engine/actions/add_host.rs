//! `add_host`: adds a host to the inventory of this run.

use crate::engine::actions::{ActionContext, ActionOutcome, Effect};
use crate::engine::plan::PlanError;
use crate::inventory::host_and_port;
use crate::value::{Map, Value, map_of};

pub(super) fn run(action: &ActionContext<'_>, mut args: Map) -> Result<ActionOutcome, PlanError> {
    let name = ["name", "hostname", "host"].iter().find_map(|key| args.shift_remove(*key));
    let Some(name) = name.map(|name| name.to_text()).filter(|name| !name.is_empty()) else {
        return Ok(ActionOutcome::failed(action.task, "name, host or hostname needs to be provided"));
    };
    if name.starts_with('-') {
        return Ok(ActionOutcome::failed(
            action.task,
            format!("`{name}` can't be a host's name: it starts with a dash"),
        ));
    }
    let (name, port) = host_and_port(&name);
    let name = name.to_string();
    let groups = ["groups", "group", "groupname"].iter().find_map(|key| args.shift_remove(*key));
    let groups: Vec<String> = match groups {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::List(items)) => items.iter().map(Value::to_text).collect(),
        Some(Value::Map(_)) => {
            return Ok(ActionOutcome::failed(action.task, "Groups must be specified as a list."));
        }
        Some(other) => other
            .to_text()
            .split(',')
            .map(|group| group.trim().to_string())
            .filter(|group| !group.is_empty())
            .collect(),
    };
    if let Some(port) = port {
        args.insert(Value::str("ansible_ssh_port"), Value::Int(port.into()));
    }
    args.shift_remove("inventory_dir");
    args.shift_remove("inventory_file");
    let result = map_of([
        ("changed", Value::Bool(true)),
        (
            "add_host",
            Value::map(map_of([
                ("host_name", Value::str(name.as_str())),
                ("groups", Value::from(groups.clone())),
                ("host_vars", Value::map(args.clone())),
            ])),
        ),
    ]);
    Ok(ActionOutcome {
        result,
        effects: vec![Effect::AddHost { name, groups, vars: args }],
        diagnostic: None,
    })
}
