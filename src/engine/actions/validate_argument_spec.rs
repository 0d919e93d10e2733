//! `validate_argument_spec`: checks variables against a role's specification. It validates only: nothing is
//! coerced and no default is applied.

use crate::engine::actions::{ActionContext, ActionOutcome};
use crate::engine::plan::PlanError;
use crate::module::Type;
use crate::module::args::coerce;
use crate::value::{Map, Value, map_of};

pub(super) fn run(action: &ActionContext<'_>, args: Map) -> Result<ActionOutcome, PlanError> {
    let Some(Value::Map(spec)) = args.get("argument_spec") else {
        return Ok(ActionOutcome::failed(
            action.task,
            "\"argument_spec\" arg is required in args: a mapping",
        ));
    };
    let spec = match spec.get("argument_spec") {
        Some(Value::Map(inner)) => inner.clone(),
        _ => spec.clone(),
    };
    let provided = match args.get("provided_arguments") {
        Some(Value::Map(map)) => map.as_ref().clone(),
        _ => Map::new(),
    };
    let mut given = Map::new();
    for name in spec.keys().filter_map(Value::as_str) {
        if let Some(value) = provided.get(name) {
            given.insert(Value::str(name), value.clone());
        } else if let Some(raw) = action.context.vars.get(name) {
            given.insert(Value::str(name), action.shared.templar.render(&raw, &action.context)?);
        }
    }
    let mut errors = Vec::new();
    let mut strangers = unknown(&spec, &provided, "");
    check(&spec, &given, "", &mut errors, &mut strangers);
    strangers.sort_unstable();
    if let Some((_, known)) = strangers.last() {
        let names: Vec<&str> = strangers.iter().map(|(name, _)| name.as_str()).collect();
        errors.push(format!("{}. Supported parameters include: {known}.", names.join(", ")));
    }
    let context = args.get("validate_args_context").cloned().unwrap_or_default();
    if errors.is_empty() {
        let result = map_of([
            ("changed", Value::Bool(false)),
            ("msg", Value::str("The arg spec validation passed")),
            ("validate_args_context", context),
        ]);
        return Ok(ActionOutcome::result(result));
    }
    let mut outcome =
        ActionOutcome::failed(action.task, format!("Validation of arguments failed:\n{}", errors.join("\n")));
    outcome.result.insert(Value::str("argument_errors"), Value::from(errors));
    outcome.result.insert(Value::str("argument_spec_data"), Value::Map(spec));
    outcome.result.insert(Value::str("validate_args_context"), context);
    Ok(outcome)
}

/// An argument that nobody asked for, and those that could have been meant.
type Stranger = (String, String);

fn check(spec: &Map, given: &Map, path: &str, errors: &mut Vec<String>, strangers: &mut Vec<Stranger>) {
    let within = if path.is_empty() { String::new() } else { format!(" found in {path}") };
    let mut missing: Vec<&str> = spec
        .iter()
        .filter(|(name, rule)| {
            is_required(rule) && name.as_str().is_some_and(|name| !given.contains_key(name))
        })
        .filter_map(|(name, _)| name.as_str())
        .collect();
    missing.sort_unstable();
    if !missing.is_empty() {
        errors.push(format!("missing required arguments: {}{within}", missing.join(", ")));
    }
    for (name, rule) in spec {
        let (Some(name), Value::Map(rule)) = (name.as_str(), rule) else { continue };
        let Some(value) = given.get(name) else { continue };
        // Nothing is as good as not given, unless something is required.
        let required = rule.get("required").and_then(Value::to_bool).unwrap_or(false);
        if value.is_null() && !required {
            continue;
        }
        let wanted = rule.get("type").map_or_else(|| "str".to_string(), Value::to_text);
        if !fits(&wanted, value) {
            errors.push(format!(
                "argument '{name}' is of type {} and we were unable to convert to {wanted}: {}{within}",
                value.type_name(),
                refusal(&wanted, value),
            ));
            continue;
        }
        if let Some(Value::List(choices)) = rule.get("choices") {
            let values: Vec<&Value> = match value {
                Value::List(items) => items.iter().collect(),
                other => vec![other],
            };
            for value in values {
                if !choices.iter().any(|choice| choice == value || choice.to_text() == value.to_text()) {
                    let choices: Vec<String> = choices.iter().map(Value::to_text).collect();
                    errors.push(format!(
                        "value of {name} must be one of: {}, got: {}{within}",
                        choices.join(", "),
                        value.to_text()
                    ));
                }
            }
        }
        let items = match value {
            Value::List(items) => items.as_ref().clone(),
            other => vec![other.clone()],
        };
        if wanted == "list"
            && let Some(elements) = rule.get("elements").map(Value::to_text)
        {
            for item in &items {
                if !fits(&elements, item) {
                    errors.push(format!(
                        "Elements value for option '{name}'{within} is of type {} and we were unable to convert to {elements}: {}",
                        item.type_name(),
                        refusal(&elements, item),
                    ));
                }
            }
        }
        if let Some(Value::Map(options)) = rule.get("options") {
            let inner = if path.is_empty() { name.to_string() } else { format!("{path} -> {name}") };
            for item in &items {
                let Value::Map(map) = item else { continue };
                strangers.extend(unknown(options, map, &inner));
                check(options, map, &inner, errors, strangers);
            }
        }
    }
}

/// What was given that nobody asked for.
fn unknown(spec: &Map, given: &Map, path: &str) -> Vec<Stranger> {
    let mut known: Vec<&str> = spec.keys().filter_map(Value::as_str).collect();
    known.sort_unstable();
    let place = if path.is_empty() { String::new() } else { format!("{}.", path.replace(" -> ", ".")) };
    let strangers = given.keys().filter_map(Value::as_str).filter(|key| !spec.contains_key(*key));
    strangers.map(|key| (format!("{place}{key}"), known.join(", "))).collect()
}

fn is_required(rule: &Value) -> bool {
    rule.get("required").and_then(Value::to_bool).unwrap_or(false)
}

/// Why a value is not of a type, in the words that playbooks look for.
fn refusal(wanted: &str, value: &Value) -> String {
    let kind = match wanted {
        "int" => return format!("\"{}\" cannot be converted to an int", value.repr()),
        "bool" if !value.is_null() => {
            return format!("The value '{}' is not a valid boolean.", value.to_text());
        }
        "dict" if matches!(value, Value::Str(_)) => {
            return "dictionary requested, could not parse JSON or key=value".into();
        }
        "bytes" => "Byte value",
        "bits" => "Bit value",
        other => other,
    };
    format!("<class '{}'> cannot be converted to a {kind}", value.type_name())
}

fn fits(wanted: &str, value: &Value) -> bool {
    let kind = match wanted {
        "str" | "path" | "raw" | "any" | "jsonarg" | "json" => return true,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "float" => Type::Float,
        "list" => return !matches!(value, Value::Null | Value::Map(_)),
        "dict" => Type::Dict,
        "bytes" | "bits" => Type::Bytes,
        _ => return true,
    };
    coerce(kind, value).is_ok()
}
