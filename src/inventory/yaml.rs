//! Inventories in YAML: groups with `hosts`, `children` and `vars`.

use super::load::Loading;
use super::names;
use crate::diagnostic::Diagnostic;
use crate::source::Node;

/// Groups inside each other at most.
const MAX_DEPTH: usize = 100;

/// Reads a YAML inventory.
pub(super) fn read(loading: &mut Loading<'_>, root: &Node) {
    if root.is_null() {
        loading.warnings.push(Diagnostic::warning("the inventory is empty").at(Some(root.origin.clone())));
        return;
    }
    let Some(groups) = root.as_map() else {
        loading.errors.push(
            root.error(format!("an inventory is a mapping of groups, but this is {}", root.kind_name())),
        );
        return;
    };
    for (name, body) in groups {
        group(loading, name, body, 0);
    }
}

/// Reads one group; returns its id, if its name is one.
fn group(loading: &mut Loading<'_>, name: &Node, body: &Node, depth: usize) -> Option<usize> {
    let Some(text) = name.as_str().filter(|text| !text.is_empty()) else {
        loading.errors.push(
            name.error(format!("the name of a group must be a string, but this is {}", name.kind_name()))
                .hint("put it in quotes"),
        );
        return None;
    };
    if depth > MAX_DEPTH {
        loading.errors.push(name.error("groups are nested too deeply"));
        return None;
    }
    let id = loading.inventory.group_id(text);
    if body.is_null() {
        return Some(id);
    }
    let Some(entries) = body.as_map() else {
        loading.warnings.push(
            Diagnostic::warning(format!("'{text}' is not a group but {}; it is left out", body.kind_name()))
                .at(Some(body.origin.clone())),
        );
        return Some(id);
    };
    for (key, value) in entries {
        match key.as_str() {
            Some("hosts") => hosts(loading, id, value),
            Some("children") => children(loading, id, value, depth),
            Some("vars") => vars(loading, id, value),
            _ => unknown_key(loading, text, key),
        }
    }
    Some(id)
}

fn unknown_key(loading: &mut Loading<'_>, group: &str, key: &Node) {
    let name = key.to_value().to_text();
    let problem = Diagnostic::warning(format!("the key '{name}' of the group '{group}' is left out"))
        .at(Some(key.origin.clone()));
    let hint = match crate::diagnostic::did_you_mean(&name, ["hosts", "children", "vars"]) {
        Some(meant) => format!("did you mean '{meant}'?"),
        None => "a group has hosts, children and vars; a group below it goes under children".into(),
    };
    loading.warnings.push(problem.hint(hint));
}

/// The entries of a section: a mapping, or a single name.
fn section<'n>(loading: &mut Loading<'_>, name: &str, value: &'n Node) -> Vec<(&'n Node, Option<&'n Node>)> {
    if let Some(entries) = value.as_map() {
        return entries.iter().map(|(key, value)| (key, Some(value))).collect();
    }
    if value.is_null() {
        return Vec::new();
    }
    if value.as_str().is_some() {
        return vec![(value, None)];
    }
    loading.errors.push(
        value
            .error(format!("`{name}` must be a mapping, but this is {}", value.kind_name()))
            .hint("write `name:` on a line of its own for each, without a dash"),
    );
    Vec::new()
}

fn hosts(loading: &mut Loading<'_>, group: usize, value: &Node) {
    for (key, body) in section(loading, "hosts", value) {
        let Some(pattern) = key.as_str() else {
            loading.errors.push(
                key.error(format!("the name of a host must be a string, but this is {}", key.kind_name()))
                    .hint("put it in quotes"),
            );
            continue;
        };
        let (names, port) = match names::expand(pattern) {
            Ok(expanded) => expanded,
            Err(problem) => {
                loading.errors.push(key.error(problem));
                continue;
            }
        };
        let vars = match body {
            Some(body) if body.as_map().is_none() && !body.is_null() => {
                loading.errors.push(body.error(format!(
                    "the variables of a host are a mapping, but this is {}",
                    body.kind_name()
                )));
                continue;
            }
            Some(body) => body.as_map().unwrap_or_default(),
            None => &[],
        };
        let vars: Vec<_> = vars.iter().map(|(key, value)| (key.to_value(), value.to_value())).collect();
        for name in names {
            let host = loading.inventory.host_id(&name, port);
            loading.inventory.put(group, host);
            for (key, value) in &vars {
                loading.inventory.set_host_var(host, key.clone(), value.clone());
            }
        }
    }
}

fn children(loading: &mut Loading<'_>, parent: usize, value: &Node, depth: usize) {
    for (key, body) in section(loading, "children", value) {
        let child = match body {
            Some(body) => group(loading, key, body, depth + 1),
            None => key.as_str().map(|name| loading.inventory.group_id(name)),
        };
        let Some(child) = child else { continue };
        if let Err(problem) = loading.inventory.add_child(parent, child) {
            loading.errors.push(key.error(problem));
        }
    }
}

fn vars(loading: &mut Loading<'_>, group: usize, value: &Node) {
    if value.is_null() {
        return;
    }
    let Some(entries) = value.as_map() else {
        loading
            .errors
            .push(value.error(format!("`vars` must be a mapping, but this is {}", value.kind_name())));
        return;
    };
    for (key, value) in entries {
        if let Err(problem) = loading.inventory.set_group_var(group, key.to_value(), value.to_value()) {
            loading.errors.push(value.error(problem));
        }
    }
}
