//! The inventory plugins `constructed` (variables and groups from expressions) and `generator` (hosts from
//! layers of values).

use std::sync::Arc;

use super::layers::merged;
use super::load::Loading;
use super::names;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::source::Node;
use crate::value::{Map, Value};

/// Hosts that a generator may make.
const MAX_GENERATED: usize = 1_000_000;

/// Reads a file with a `plugin:` key.
pub(super) fn read(loading: &mut Loading<'_>, root: &Node) {
    let plugin = root.get("plugin");
    let name = plugin.and_then(Node::as_str).unwrap_or_default();
    let result = match name.strip_prefix("ansible.builtin.").unwrap_or(name) {
        "constructed" => constructed(loading, root),
        "generator" => generator(loading, root),
        "auto" | "yaml" | "ini" | "host_list" | "script" | "advanced_host_list" | "toml" => Err(root
            .error(format!("the inventory plugin '{name}' isn't set up by a file"))
            .hint("remove the key `plugin`")),
        other => Err(root.error(format!("the inventory plugin '{other}' isn't supported")).hint(
            "supported are constructed and generator; the output of any other plugin can be used through a script that prints `ansible-inventory --list`",
        )),
    };
    if let Err(problem) = result {
        loading.errors.push(match (&problem.origin, plugin) {
            (None, Some(plugin)) => problem.at(Some(Arc::clone(&plugin.origin))),
            _ => problem,
        });
    }
}

fn check_keys(root: &Node, known: &[&str]) -> Result<(), Diagnostic> {
    for (key, _) in root.as_map().unwrap_or_default() {
        let name = key.to_value().to_text();
        if !known.contains(&name.as_str()) {
            let problem = key.error(format!("'{name}' isn't an option of this inventory plugin"));
            return Err(match did_you_mean(&name, known.iter().copied()) {
                Some(meant) => problem.hint(format!("did you mean '{meant}'?")),
                None => problem.hint(format!("its options are {}", known.join(", "))),
            });
        }
    }
    Ok(())
}

fn truth(root: &Node, key: &str) -> Result<bool, Diagnostic> {
    match root.get(key) {
        Some(node) => {
            node.to_value().to_bool().ok_or_else(|| node.error(format!("`{key}` must be true or false")))
        }
        None => Ok(false),
    }
}

fn evaluate(loading: &Loading<'_>, expression: &Value, vars: &Map) -> Result<Value, String> {
    let Some(text) = expression.as_str() else { return Ok(expression.clone()) };
    match loading.options.evaluator {
        Some(evaluator) => evaluator(text, vars),
        None => Err("expressions can't be evaluated here".into()),
    }
}

/// Renders text with `{{ expressions }}` in it. A text that is a single expression gives its value.
fn render(loading: &Loading<'_>, template: &Value, vars: &Map) -> Result<Value, String> {
    let Some(text) = template.as_str() else { return Ok(template.clone()) };
    if text.contains("{%") || text.contains("{#") {
        return Err(format!("only expressions in {{{{ }}}} are supported here: {text}"));
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (expression, tail) =
            after.split_once("}}").ok_or_else(|| format!("an expression isn't closed: {text}"))?;
        let value = evaluate(loading, &Value::trusted(expression.trim()), vars)?;
        if before.is_empty() && tail.is_empty() && out.is_empty() {
            return Ok(value);
        }
        out.push_str(before);
        out.push_str(&value.to_text());
        rest = tail;
    }
    out.push_str(rest);
    Ok(Value::str(out))
}

/// Group names that come from values: what can't be in a variable's name becomes `_`.
fn safe_name(name: &str) -> String {
    name.chars()
        .enumerate()
        .map(|(index, c)| {
            let allowed = c == '_' || c.is_ascii_alphabetic() || (index > 0 && c.is_ascii_digit());
            if allowed { c } else { '_' }
        })
        .collect()
}

// --- constructed ---

struct Constructed {
    strict: bool,
    compose: Vec<(Value, Value)>,
    groups: Vec<(String, Value)>,
    keyed_groups: Vec<Keyed>,
    leading_separator: bool,
    use_vars_plugins: bool,
}

struct Keyed {
    node: Node,
    key: Value,
    prefix: String,
    separator: String,
    parent_group: Option<Value>,
    default_value: Option<Value>,
    trailing_separator: Option<bool>,
}

impl Constructed {
    fn new(root: &Node) -> Result<Constructed, Diagnostic> {
        check_keys(
            root,
            &[
                "plugin",
                "strict",
                "compose",
                "groups",
                "keyed_groups",
                "use_extra_vars",
                "use_vars_plugins",
                "leading_separator",
            ],
        )?;
        let entries = |key: &str| -> Result<Vec<(Value, Value)>, Diagnostic> {
            match root.get(key) {
                Some(node) if !node.is_null() => Ok(node
                    .as_map()
                    .ok_or_else(|| node.error(format!("`{key}` must be a mapping")))?
                    .iter()
                    .map(|(name, value)| (name.to_value(), value.to_value()))
                    .collect()),
                _ => Ok(Vec::new()),
            }
        };
        let keyed_groups = match root.get("keyed_groups") {
            Some(node) if !node.is_null() => node
                .as_list()
                .ok_or_else(|| node.error("`keyed_groups` must be a list"))?
                .iter()
                .map(Keyed::new)
                .collect::<Result<_, _>>()?,
            _ => Vec::new(),
        };
        Ok(Constructed {
            strict: truth(root, "strict")?,
            compose: entries("compose")?,
            groups: entries("groups")?.into_iter().map(|(name, value)| (name.to_text(), value)).collect(),
            keyed_groups,
            leading_separator: root.get("leading_separator").is_none() || truth(root, "leading_separator")?,
            use_vars_plugins: truth(root, "use_vars_plugins")?,
        })
    }
}

impl Keyed {
    fn new(node: &Node) -> Result<Keyed, Diagnostic> {
        if node.as_map().is_none() {
            return Err(node.error("an entry of `keyed_groups` must be a mapping"));
        }
        check_keys(
            node,
            &["key", "prefix", "separator", "parent_group", "default_value", "trailing_separator"],
        )?;
        let text = |key: &str, default: &str| {
            node.get(key).map_or_else(|| default.to_owned(), |value| value.to_value().to_text())
        };
        let default_value = node.get("default_value").map(Node::to_value).filter(|value| !value.is_null());
        let trailing_separator = match node.get("trailing_separator") {
            Some(value) if !value.is_null() => Some(truth(node, "trailing_separator")?),
            _ => None,
        };
        if default_value.is_some() && trailing_separator.is_some() {
            return Err(node.error("`default_value` and `trailing_separator` exclude each other"));
        }
        let key = node.get("key").ok_or_else(|| node.error("an entry of `keyed_groups` needs a `key`"))?;
        Ok(Keyed {
            key: key.to_value(),
            prefix: text("prefix", ""),
            separator: text("separator", "_"),
            parent_group: node.get("parent_group").map(Node::to_value).filter(|value| !value.is_null()),
            default_value,
            trailing_separator,
            node: node.clone(),
        })
    }

    /// The names of the groups that a value of the key stands for, without prefix.
    fn names(&self, key: &Value) -> Result<Vec<String>, String> {
        let is_empty = |value: &Value| value.is_null() || value.as_str() == Some("");
        let default = self.default_value.as_ref().map(Value::to_text);
        let sep = &self.separator;
        Ok(match (key, default) {
            (key, Some(default)) if is_empty(key) => vec![default],
            (Value::Str(text), _) => vec![text.text.to_string()],
            (Value::List(items), default) => items
                .iter()
                .map(|item| match &default {
                    Some(default) if is_empty(item) => default.clone(),
                    _ => item.to_text(),
                })
                .collect(),
            (Value::Map(map), default) => map
                .iter()
                .map(|(name, value)| match &default {
                    Some(default) if is_empty(value) => format!("{}{sep}{default}", name.to_text()),
                    None if is_empty(value) && self.trailing_separator == Some(false) => name.to_text(),
                    _ => format!("{}{sep}{}", name.to_text(), value.to_text()),
                })
                .collect(),
            (other, _) => {
                return Err(format!(
                    "a key must be a string, a list or a mapping, not {}",
                    other.type_name()
                ));
            }
        })
    }
}

fn constructed(loading: &mut Loading<'_>, root: &Node) -> Result<(), Diagnostic> {
    let config = Constructed::new(root)?;
    loading.inventory.reconcile();
    for host in 0..loading.inventory.hosts.len() {
        construct_host(loading, &config, host).map_err(|problem| {
            if problem.origin.is_none() { problem.at(Some(root.origin.clone())) } else { problem }
        })?;
        // What a host is given never changes what other hosts are; the graph is put in order once at the end.
    }
    loading.inventory.reconcile();
    Ok(())
}

/// The variables that expressions of a host see.
fn vars_of(loading: &Loading<'_>, config: &Constructed, host: usize) -> Result<Map, Diagnostic> {
    let inventory = &loading.inventory;
    let name = &inventory.hosts[host].name;
    let mut map = if config.use_vars_plugins {
        inventory.host_vars(name, None).map_err(|errors| {
            errors.first().cloned().unwrap_or_else(|| Diagnostic::error("can't read variables"))
        })?
    } else {
        let layers = inventory.var_layers(name, None).map_err(|errors| {
            errors.first().cloned().unwrap_or_else(|| Diagnostic::error("can't read variables"))
        })?;
        let own: Vec<_> = layers.iter().filter(|layer| layer.level.is_in_inventory()).cloned().collect();
        merged(&own)
    };
    for (key, value) in inventory.hosts[host].vars.iter() {
        map.insert(key.clone(), value.clone());
    }
    map.insert(Value::str("inventory_hostname"), Value::str(Arc::clone(name)));
    map.insert(Value::str("inventory_hostname_short"), Value::str(name.split('.').next().unwrap_or(name)));
    let names = inventory.group_names(name).into_iter().map(Value::str).collect();
    map.insert(Value::str("group_names"), Value::list(names));
    Ok(map)
}

fn construct_host(loading: &mut Loading<'_>, config: &Constructed, host: usize) -> Result<(), Diagnostic> {
    let name = Arc::clone(&loading.inventory.hosts[host].name);
    let vars = vars_of(loading, config, host)?;
    for (key, expression) in &config.compose {
        match evaluate(loading, expression, &vars) {
            Ok(value) => loading.inventory.set_host_var(host, key.clone(), value),
            Err(problem) if config.strict => {
                let key = key.to_text();
                let origin = expression.origin().cloned();
                return Err(
                    Diagnostic::error(format!("can't set {key} for the host {name}: {problem}")).at(origin)
                );
            }
            Err(_) => {}
        }
    }
    let vars = if config.compose.is_empty() { vars } else { vars_of(loading, config, host)? };
    for (group, condition) in &config.groups {
        match evaluate(loading, condition, &vars) {
            Ok(value) if value.truthy() => {
                let group = loading.inventory.group_id(&safe_name(group));
                loading.inventory.put(group, host);
            }
            Ok(_) => {}
            Err(problem) if config.strict => {
                let problem =
                    format!("can't tell whether the host {name} is in the group {group}: {problem}");
                return Err(Diagnostic::error(problem).at(condition.origin().cloned()));
            }
            Err(_) => {}
        }
    }
    for keyed in &config.keyed_groups {
        let key = match evaluate(loading, &keyed.key, &vars) {
            Ok(key) => key,
            Err(problem) if config.strict => {
                return Err(keyed.node.error(format!("can't find the groups of the host {name}: {problem}")));
            }
            Err(_) => continue,
        };
        put_in_keyed(loading, config, keyed, &key, host, &vars)?;
    }
    Ok(())
}

fn put_in_keyed(
    loading: &mut Loading<'_>,
    config: &Constructed,
    keyed: &Keyed,
    key: &Value,
    host: usize,
    vars: &Map,
) -> Result<(), Diagnostic> {
    let name = Arc::clone(&loading.inventory.hosts[host].name);
    let has_default = keyed.default_value.is_some() && (key.is_null() || key.as_str() == Some(""));
    if !key.truthy() && !has_default {
        let container = matches!(key, Value::List(_) | Value::Map(_));
        if config.strict && !container {
            return Err(keyed.node.error(format!("the key is empty for the host {name}")));
        }
        return Ok(());
    }
    let parent = match keyed.parent_group.as_ref().map(|parent| render(loading, parent, vars)) {
        Some(Ok(parent)) => Some(parent.to_text()).filter(|parent| !parent.is_empty()),
        Some(Err(problem)) if config.strict => {
            return Err(keyed
                .node
                .error(format!("can't find the parent group for the host {name}: {problem}")));
        }
        Some(Err(_)) => return Ok(()),
        None => None,
    };
    let names = keyed.names(key).map_err(|problem| keyed.node.error(problem))?;
    let separator =
        if keyed.prefix.is_empty() && !config.leading_separator { "" } else { keyed.separator.as_str() };
    for bare in names {
        let group = loading.inventory.group_id(&safe_name(&format!("{}{separator}{bare}", keyed.prefix)));
        loading.inventory.put(group, host);
        if let Some(parent) = &parent {
            let parent = loading.inventory.group_id(&safe_name(parent));
            loading.inventory.add_child(parent, group).map_err(|problem| keyed.node.error(problem))?;
        }
    }
    Ok(())
}

// --- generator ---

fn generator(loading: &mut Loading<'_>, root: &Node) -> Result<(), Diagnostic> {
    check_keys(root, &["plugin", "hosts", "layers"])?;
    let layers =
        root.get("layers").and_then(Node::as_map).ok_or_else(|| root.error("a generator needs `layers`"))?;
    let hosts = root.get("hosts").ok_or_else(|| root.error("a generator needs `hosts`"))?;
    let name = hosts.get("name").ok_or_else(|| hosts.error("`hosts` needs a `name`"))?;
    let mut choices: Vec<(Value, Vec<Value>)> = Vec::new();
    let mut count = 1usize;
    for (key, values) in layers {
        let items: Vec<Value> = match values.to_value() {
            Value::List(items) => items.to_vec(),
            Value::Null => Vec::new(),
            other => vec![other],
        };
        count = count.saturating_mul(items.len());
        choices.push((key.to_value(), items));
    }
    if count > MAX_GENERATED {
        return Err(root.error(format!("the layers stand for {count} hosts; {MAX_GENERATED} is the most")));
    }
    for index in 0..count {
        let vars = combination(&choices, index);
        let host = render(loading, &name.to_value(), &vars).map_err(|problem| name.error(problem))?.to_text();
        names::check_name(&host).map_err(|problem| name.error(problem))?;
        let host = loading.inventory.host_id(&host, None);
        add_parents(loading, Member::Host(host), hosts, &vars, 0)?;
    }
    Ok(())
}

/// One of the combinations of the layers' values; the last layer varies fastest.
fn combination(choices: &[(Value, Vec<Value>)], index: usize) -> Map {
    let mut rest = index;
    let mut vars: Vec<(Value, Value)> = Vec::with_capacity(choices.len());
    for (key, items) in choices.iter().rev() {
        vars.push((key.clone(), items[rest % items.len()].clone()));
        rest /= items.len();
    }
    vars.into_iter().rev().collect()
}

#[derive(Clone, Copy)]
enum Member {
    Host(usize),
    Group(usize),
}

fn add_parents(
    loading: &mut Loading<'_>,
    member: Member,
    node: &Node,
    vars: &Map,
    depth: usize,
) -> Result<(), Diagnostic> {
    let Some(parents) = node.get("parents").filter(|parents| !parents.is_null()) else { return Ok(()) };
    if depth > 50 {
        return Err(parents.error("parents are nested too deeply"));
    }
    for parent in parents.as_list().ok_or_else(|| parents.error("`parents` must be a list"))? {
        let name = parent.get("name").ok_or_else(|| parent.error("a parent needs a `name`"))?;
        let text = render(loading, &name.to_value(), vars).map_err(|problem| name.error(problem))?.to_text();
        if text.is_empty() {
            return Err(name.error("the name of a parent is empty"));
        }
        let group = loading.inventory.group_id(&text);
        for (key, value) in parent.get("vars").and_then(Node::as_map).unwrap_or_default() {
            let rendered =
                render(loading, &value.to_value(), vars).map_err(|problem| value.error(problem))?;
            loading
                .inventory
                .set_group_var(group, key.to_value(), rendered)
                .map_err(|problem| value.error(problem))?;
        }
        match member {
            Member::Host(host) => {
                loading.inventory.put(group, host);
            }
            Member::Group(child) => {
                loading.inventory.add_child(group, child).map_err(|problem| parent.error(problem))?;
            }
        }
        add_parents(loading, Member::Group(group), parent, vars, depth + 1)?;
    }
    Ok(())
}
