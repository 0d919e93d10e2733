//! `setpoint schema`: a JSON schema of playbooks, with which an editor completes and checks while one types. It is
//! made from the same tables as the documentation.

use clap::Args;

use super::Console;
use super::exit::Exit;
use super::failure::Failure;
use crate::module::registry::MODULES;
use crate::module::{Module, Param, Type};
use crate::source::json::{Layout, dump};
use crate::value::{Map, Value, map_of};

/// Print a JSON schema of playbooks for editors
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setpoint schema > playbook.schema.json
  setpoint schema --tasks > tasks.schema.json

An editor with a YAML language server takes it from a first line such as
  # yaml-language-server: $schema=playbook.schema.json")]
pub struct Schema {
    /// The schema of a file of tasks (roles/*/tasks, include_tasks) instead of a playbook
    #[arg(long)]
    pub tasks: bool,
}

/// Carries out the subcommand.
///
/// # Errors
/// Standard output can't be written to.
pub fn run(args: &Schema, console: &mut Console) -> Result<Exit, Failure> {
    console.print(
        &(dump(&schema(args.tasks), &Layout { ensure_ascii: false, ..Layout::default().indent(2) }) + "\n"),
    )?;
    Ok(Exit::Success)
}

/// A keyword of the language.
#[derive(Debug)]
pub struct Keyword {
    /// Its name.
    pub name: &'static str,
    /// Where it may stand: play, role, block, task, handler.
    pub places: &'static [&'static str],
    /// The type of its value.
    pub kind: &'static str,
}

/// All keywords, in alphabetic order.
#[rustfmt::skip]
pub const KEYWORDS: &[Keyword] = &[
    Keyword { name: "action", places: &["task", "handler"], kind: "string" },
    Keyword { name: "always", places: &["block"], kind: "list" },
    Keyword { name: "any_errors_fatal", places: &["play", "role", "block", "task", "handler"], kind: "bool" },
    Keyword { name: "args", places: &["task", "handler"], kind: "dict" },
    Keyword { name: "async", places: &["task", "handler"], kind: "int" },
    Keyword { name: "become", places: &["play", "role", "block", "task", "handler"], kind: "bool" },
    Keyword { name: "become_exe", places: &["play", "role", "block", "task", "handler"], kind: "string" },
    Keyword { name: "become_flags", places: &["play", "role", "block", "task", "handler"], kind: "string" },
    Keyword { name: "become_method", places: &["play", "role", "block", "task", "handler"], kind: "string" },
    Keyword { name: "become_user", places: &["play", "role", "block", "task", "handler"], kind: "string" },
    Keyword { name: "block", places: &["block"], kind: "list" },
    Keyword { name: "changed_when", places: &["task", "handler"], kind: "list" },
    Keyword { name: "check_mode", places: &["play", "role", "block", "task", "handler"], kind: "bool" },
    Keyword { name: "collections", places: &["play", "role", "block", "task", "handler"], kind: "list" },
    Keyword { name: "connection", places: &["play", "role", "block", "task", "handler"], kind: "string" },
    Keyword { name: "debugger", places: &["play", "role", "block", "task", "handler"], kind: "string" },
    Keyword { name: "delay", places: &["task", "handler"], kind: "float" },
    Keyword { name: "delegate_facts", places: &["role", "block", "task", "handler"], kind: "bool" },
    Keyword { name: "delegate_to", places: &["role", "block", "task", "handler"], kind: "string" },
    Keyword { name: "diff", places: &["play", "role", "block", "task", "handler"], kind: "bool" },
    Keyword { name: "environment", places: &["play", "role", "block", "task", "handler"], kind: "list" },
    Keyword { name: "fact_path", places: &["play"], kind: "string" },
    Keyword { name: "failed_when", places: &["task", "handler"], kind: "list" },
    Keyword { name: "force_handlers", places: &["play"], kind: "bool" },
    Keyword { name: "gather_facts", places: &["play"], kind: "bool" },
    Keyword { name: "gather_subset", places: &["play"], kind: "list" },
    Keyword { name: "gather_timeout", places: &["play"], kind: "int" },
    Keyword { name: "handlers", places: &["play"], kind: "list" },
    Keyword { name: "hosts", places: &["play"], kind: "list" },
    Keyword { name: "ignore_errors", places: &["play", "role", "block", "task", "handler"], kind: "bool" },
    Keyword { name: "ignore_unreachable", places: &["play", "role", "block", "task", "handler"], kind: "bool" },
    Keyword { name: "listen", places: &["handler"], kind: "list" },
    Keyword { name: "local_action", places: &["task", "handler"], kind: "raw" },
    Keyword { name: "loop", places: &["task", "handler"], kind: "list" },
    Keyword { name: "loop_control", places: &["task", "handler"], kind: "class" },
    Keyword { name: "max_fail_percentage", places: &["play"], kind: "percent" },
    Keyword { name: "module_defaults", places: &["play", "role", "block", "task", "handler"], kind: "list" },
    Keyword { name: "name", places: &["play", "role", "block", "task", "handler"], kind: "string" },
    Keyword { name: "no_log", places: &["play", "role", "block", "task", "handler"], kind: "bool" },
    Keyword { name: "notify", places: &["block", "task", "handler"], kind: "list" },
    Keyword { name: "order", places: &["play"], kind: "string" },
    Keyword { name: "poll", places: &["task", "handler"], kind: "int" },
    Keyword { name: "port", places: &["play", "role", "block", "task", "handler"], kind: "int" },
    Keyword { name: "post_tasks", places: &["play"], kind: "list" },
    Keyword { name: "pre_tasks", places: &["play"], kind: "list" },
    Keyword { name: "register", places: &["task", "handler"], kind: "string" },
    Keyword { name: "remote_user", places: &["play", "role", "block", "task", "handler"], kind: "string" },
    Keyword { name: "rescue", places: &["block"], kind: "list" },
    Keyword { name: "retries", places: &["task", "handler"], kind: "int" },
    Keyword { name: "role", places: &["role"], kind: "string" },
    Keyword { name: "roles", places: &["play"], kind: "list" },
    Keyword { name: "run_once", places: &["play", "role", "block", "task", "handler"], kind: "bool" },
    Keyword { name: "serial", places: &["play"], kind: "list" },
    Keyword { name: "strategy", places: &["play"], kind: "string" },
    Keyword { name: "tags", places: &["play", "role", "block", "task", "handler"], kind: "list" },
    Keyword { name: "tasks", places: &["play"], kind: "list" },
    Keyword { name: "throttle", places: &["play", "role", "block", "task", "handler"], kind: "int" },
    Keyword { name: "timeout", places: &["play", "role", "block", "task", "handler"], kind: "int" },
    Keyword { name: "until", places: &["task", "handler"], kind: "list" },
    Keyword { name: "vars", places: &["play", "role", "block", "task", "handler"], kind: "dict" },
    Keyword { name: "vars_files", places: &["play"], kind: "list" },
    Keyword { name: "vars_prompt", places: &["play"], kind: "list" },
    Keyword { name: "when", places: &["role", "block", "task", "handler"], kind: "list" },
    Keyword { name: "with_<lookup>", places: &["task", "handler"], kind: "raw" },
];

fn text(text: &str) -> Value {
    Value::str(text)
}

fn object<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::map(map_of(entries))
}

fn reference(name: &str) -> Value {
    object([("$ref", text(&format!("#/definitions/{name}")))])
}

fn list_of(item: Value) -> Value {
    object([("type", text("array")), ("items", item)])
}

/// Whatever has a template in it can stand for a value of any type.
fn or_template(schema: Value) -> Value {
    object([("anyOf", Value::list(vec![schema, reference("template")]))])
}

fn of_type(name: &str) -> Value {
    object([("type", text(name))])
}

fn schema(tasks: bool) -> Value {
    let play_or_import =
        object([("oneOf", Value::list(vec![reference("play"), reference("import_playbook")]))]);
    let root = if tasks { reference("tasks") } else { list_of(play_or_import) };
    let mut all = map_of([
        ("$schema", text("http://json-schema.org/draft-07/schema#")),
        ("title", text(if tasks { "Tasks" } else { "Playbook" })),
    ]);
    if let Value::Map(root) = root {
        all.extend(root.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    all.insert(text("definitions"), definitions());
    Value::map(all)
}

fn definitions() -> Value {
    let entry = object([("anyOf", Value::list(vec![reference("task"), reference("block")]))]);
    object([
        ("template", object([("type", text("string")), ("pattern", text("\\{[{%]"))])),
        ("tasks", list_of(entry)),
        ("play", place("play", Map::new(), &["hosts"])),
        ("import_playbook", import_playbook()),
        ("block", place("block", Map::new(), &["block"])),
        ("role", role()),
        ("loop_control", loop_control()),
        ("task", task("task")),
        ("handler", task("handler")),
    ])
}

/// The schema of a mapping in which the keywords of a place may stand.
fn place(name: &str, more: Map, required: &[&str]) -> Value {
    let mut properties: Map = KEYWORDS
        .iter()
        .filter(|keyword| keyword.places.contains(&name))
        .map(|keyword| (text(keyword.name), keyword_schema(keyword)))
        .collect();
    properties.extend(more);
    let mut map = map_of([
        ("type", text("object")),
        ("properties", Value::map(properties)),
        ("additionalProperties", Value::Bool(false)),
    ]);
    if !required.is_empty() {
        map.insert(text("required"), Value::list(required.iter().copied().map(Value::str).collect()));
    }
    Value::map(map)
}

fn keyword_schema(keyword: &Keyword) -> Value {
    let strings = || list_of(of_type("string"));
    match keyword.name {
        "tasks" | "pre_tasks" | "post_tasks" | "block" | "rescue" | "always" => reference("tasks"),
        "handlers" => {
            list_of(object([("anyOf", Value::list(vec![reference("handler"), reference("block")]))]))
        }
        "roles" => list_of(object([("anyOf", Value::list(vec![of_type("string"), reference("role")]))])),
        "loop_control" => reference("loop_control"),
        // Conditions and the like: one, or a list of them; anything a template makes is fine.
        "when" | "until" | "changed_when" | "failed_when" | "loop" | "vars_files" | "vars_prompt"
        | "environment" | "module_defaults" | "serial" | "action" | "local_action" | "args" | "vars" => {
            Value::map(Map::new())
        }
        "hosts" | "tags" | "notify" | "listen" | "collections" | "gather_subset" => {
            object([("anyOf", Value::list(vec![of_type("string"), strings()]))])
        }
        _ => match keyword.kind {
            "bool" => or_template(object([("type", Value::list(vec![text("boolean"), text("string")]))])),
            "int" => or_template(of_type("integer")),
            "float" | "percent" => or_template(of_type("number")),
            "list" => or_template(object([("type", Value::list(vec![text("array"), text("string")]))])),
            "dict" => or_template(of_type("object")),
            "string" => object([(
                "type",
                Value::list(vec![text("string"), text("number"), text("boolean"), text("null")]),
            )]),
            _ => Value::map(Map::new()),
        },
    }
}

fn role() -> Value {
    // Unknown keys of a role are its parameters.
    let mut schema = match place("role", map_of([("name", of_type("string"))]), &[]) {
        Value::Map(map) => map.as_ref().clone(),
        _ => Map::new(),
    };
    schema.insert(text("additionalProperties"), Value::Bool(true));
    Value::map(schema)
}

fn import_playbook() -> Value {
    let mut properties = map_of([("import_playbook", of_type("string"))]);
    for name in ["name", "when", "tags", "vars"] {
        properties.insert(text(name), Value::map(Map::new()));
    }
    object([
        ("type", text("object")),
        ("required", Value::list(vec![text("import_playbook")])),
        ("properties", Value::map(properties)),
    ])
}

fn loop_control() -> Value {
    let names =
        ["break_when", "extended", "extended_allow_missing", "index_var", "label", "loop_var", "pause"];
    let properties: Map = names.iter().map(|name| (text(name), Value::map(Map::new()))).collect();
    object([
        ("type", text("object")),
        ("properties", Value::map(properties)),
        ("additionalProperties", Value::Bool(false)),
    ])
}

/// A task: its keywords, `with_…`, and every module under its full name, its short name and its aliases.
fn task(kind: &str) -> Value {
    let mut modules = Map::new();
    for module in MODULES {
        let names = [module.name, module.short_name()].into_iter().chain(module.aliases.iter().copied());
        for name in names {
            modules.insert(text(name), module_schema(module));
        }
    }
    for action in ACTIONS {
        for name in [(*action).to_owned(), format!("ansible.builtin.{action}")] {
            modules.entry(text(&name)).or_insert_with(|| Value::map(Map::new()));
        }
    }
    let mut schema = match place(kind, modules, &[]) {
        Value::Map(map) => map.as_ref().clone(),
        _ => Map::new(),
    };
    let with = map_of([("^with_[a-z_.]+$", Value::map(Map::new()))]);
    schema.insert(text("patternProperties"), Value::map(with));
    Value::map(schema)
}

/// Actions that the controller does itself.
const ACTIONS: &[&str] = &[
    "add_host",
    "assert",
    "async_status",
    "debug",
    "fail",
    "gather_facts",
    "group_by",
    "import_role",
    "import_tasks",
    "include_role",
    "include_tasks",
    "include_vars",
    "meta",
    "pause",
    "set_fact",
    "set_stats",
    "validate_argument_spec",
    "wait_for_connection",
];

fn module_schema(module: &Module) -> Value {
    let mut properties = Map::new();
    for param in super::doc::shown_params(module).filter(|param| param.refused.is_none()) {
        for name in std::iter::once(param.name).chain(param.aliases.iter().copied()) {
            properties.insert(text(name), param_schema(param));
        }
    }
    let mapping = object([
        ("type", text("object")),
        ("properties", Value::map(properties)),
        ("additionalProperties", Value::Bool(module.any_params || module.free_form)),
    ]);
    let free = object([("type", Value::list(vec![text("string"), text("null")]))]);
    object([("description", text(module.summary)), ("anyOf", Value::list(vec![mapping, free]))])
}

fn param_schema(param: &Param) -> Value {
    let mut schema = map_of([("description", text(param.doc))]);
    let types: &[&str] = match param.kind {
        Type::Bool => &["boolean", "string"],
        Type::Int => &["integer", "string"],
        Type::Float => &["number", "string"],
        Type::Str | Type::Path | Type::Bytes => &["string", "number", "boolean"],
        Type::List | Type::PathList => &["array", "string", "number"],
        Type::Dict => &["object", "string"],
        Type::Raw | Type::Json => &[],
    };
    if !param.choices.is_empty() && !matches!(param.kind, Type::List | Type::PathList | Type::Bool) {
        let choices =
            object([("enum", Value::list(param.choices.iter().copied().map(Value::str).collect()))]);
        schema.insert(text("anyOf"), Value::list(vec![choices, reference("template")]));
    } else if !types.is_empty() {
        schema.insert(text("type"), Value::list(types.iter().copied().map(Value::str).collect()));
    }
    if let Some(default) = param.default {
        schema.insert(text("default"), text(default));
    }
    Value::map(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_keyword_is_where_it_belongs() {
        assert_eq!(KEYWORDS.len(), 64);
        let schema = schema(false);
        let task =
            schema.get("definitions").and_then(|all| all.get("task")).and_then(|task| task.get("properties"));
        let task = task.expect("there are tasks");
        assert!(task.get("register").is_some() && task.get("hosts").is_none() && task.get("debug").is_some());
        for module in MODULES {
            assert!(task.get(module.short_name()).is_some(), "{} is missing", module.name);
        }
    }
}
