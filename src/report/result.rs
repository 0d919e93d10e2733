//! What of a task's result is shown, and how it is written.

use crate::event::TaskResult;
use crate::source::json::{Layout, dump};
use crate::value::{Map, Value};

/// Shown only from verbosity 3 on.
const DETAIL: &[&str] = &["invocation", "diff"];
/// Told in other ways, or not at all.
const TOLD: &[&str] = &["exception", "warnings", "deprecations", "failed", "skipped"];
/// What `debug: msg=` shows of its result.
const DEBUG_KEEPS: &[&str] = &["msg", "exception", "warnings", "deprecations"];
/// What `debug: var=` hides of its result.
const DEBUG_HIDES: &[&str] = &[
    "changed",
    "failed",
    "skipped",
    "invocation",
    "skip_reason",
    "ansible_loop_var",
    "ansible_index_var",
    "ansible_loop",
];

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Yaml,
}

/// The part of a result that is shown.
pub(super) fn shown(result: &TaskResult, verbosity: u8) -> Map {
    let Some(all) = result.result.as_map() else {
        return Map::new();
    };
    let mut out: Map = all
        .iter()
        .filter(|(key, _)| {
            let key = key.as_str().unwrap_or_default();
            !key.starts_with("_ansible_")
                && !TOLD.contains(&key)
                && (verbosity >= 3 || !DETAIL.contains(&key))
        })
        .map(|(key, value)| (key.clone(), without_internals(value)))
        .collect();
    if is_action(&result.task.action, "debug") && all.get("censored").is_none() {
        let said = out.contains_key("msg");
        out.retain(|key, _| {
            let key = key.as_str().unwrap_or_default();
            if said { DEBUG_KEEPS.contains(&key) } else { !DEBUG_HIDES.contains(&key) }
        });
    }
    out
}

/// A value without the keys that are between engine and modules, at any depth.
fn without_internals(value: &Value) -> Value {
    let internal = |key: &Value| key.as_str().is_some_and(|key| key.starts_with("_ansible_"));
    match value {
        Value::Map(map) => Value::map(
            map.iter()
                .filter(|(key, _)| !internal(key))
                .map(|(key, value)| (key.clone(), without_internals(value)))
                .collect(),
        ),
        Value::List(items) => Value::list(items.iter().map(without_internals).collect()),
        other => other.clone(),
    }
}

/// One line without spaces behind commas, as `oneline` has it.
pub(super) fn dense(map: Map) -> String {
    let separators = Some((",".to_owned(), ": ".to_owned()));
    dump(&Value::map(map), &Layout { indent: None, sort_keys: true, ensure_ascii: false, separators })
}

/// Whether a full action name is the builtin `short`.
pub(super) fn is_action(action: &str, short: &str) -> bool {
    action.strip_prefix("ansible.builtin.").or(action.strip_prefix("ansible.legacy.")).unwrap_or(action)
        == short
}

/// A command-like module: its output is text, not JSON.
pub(super) fn is_command(action: &str) -> bool {
    ["command", "shell", "raw", "script", "win_command", "win_shell"]
        .iter()
        .any(|name| is_action(action, name))
}

/// One line, or indented.
pub(super) fn json(map: Map, indent: Option<usize>) -> String {
    dump(&Value::map(map), &Layout { indent, sort_keys: true, ensure_ascii: false, separators: None })
}

/// The host as lines show it: `h`, or `h -> d`.
pub(super) fn host_label(result: &TaskResult) -> String {
    match &result.delegate {
        Some(delegate) => format!("{} -> {delegate}", result.host),
        None => result.host.to_string(),
    }
}

/// A result's key as text.
pub(super) fn text_of(result: &TaskResult, key: &str) -> String {
    result.result.get(key).filter(|value| !value.is_null()).map(Value::to_text).unwrap_or_default()
}

/// Warnings that a result brings.
pub(super) fn warnings(result: &TaskResult) -> Vec<String> {
    let list = |key: &str| result.result.get(key).and_then(Value::as_list).unwrap_or_default();
    list("warnings").iter().map(Value::to_text).collect()
}

/// Deprecations that a result brings: messages.
pub(super) fn deprecations(result: &TaskResult) -> Vec<String> {
    let list = result.result.get("deprecations").and_then(Value::as_list).unwrap_or_default();
    list.iter()
        .map(|entry| match entry.get("msg") {
            Some(msg) => msg.to_text(),
            None => entry.to_text(),
        })
        .collect()
}

/// Why a task failed, as the `[ERROR]` line says it.
pub(super) fn reason(result: &TaskResult) -> String {
    let message = match &result.diagnostic {
        Some(diagnostic) => diagnostic.message.clone(),
        None => text_of(result, "msg"),
    };
    if message.starts_with("Task failed") {
        return message;
    }
    if result.diagnostic.is_some() || result.verdict == crate::event::Verdict::Unreachable {
        return format!("Task failed: {message}");
    }
    // An action that the controller does itself is no module.
    let action =
        ["fail", "assert", "set_fact", "include_vars", "add_host", "group_by", "pause", "debug", "set_stats"];
    let who =
        if action.iter().any(|name| is_action(&result.task.action, name)) { "Action" } else { "Module" };
    if message.is_empty() {
        format!("Task failed: {who} failed.")
    } else {
        format!("Task failed: {who} failed: {message}")
    }
}
