//! The inventory plugins `constructed` (variables and groups from expressions) and `generator` (hosts from
//! layers of values).

use std::path::Path;
use std::sync::Arc;

use super::load::Loading;
use super::{Host, names};
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::source::Node;
use crate::template::{self, Context, SearchPath, Templar};
use crate::value::{Map, Value, Vars, VaultText};
use crate::vault::Vault;

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

/// Evaluates the expressions of a source.
struct Templates {
    templar: Templar,
    search: Arc<SearchPath>,
}

/// The variables that an expression sees.
#[derive(Debug)]
struct Scope(Map);

impl Vars for Scope {
    fn get(&self, name: &str) -> Option<Value> {
        self.0.get(name).cloned()
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.0.keys().filter_map(Value::as_str).map(Arc::from).collect()
    }
}

impl Templates {
    fn new(vault: &Vault) -> Templates {
        let vault = vault.clone();
        let decrypt = move |text: &VaultText| {
            let plain = vault.decrypt_bytes(text.envelope.as_bytes()).map_err(|error| error.to_string())?;
            String::from_utf8(plain).map_err(|_| "the vaulted value isn't UTF-8 text".to_owned())
        };
        let options = template::Options { vault: Arc::new(decrypt), ..template::Options::default() };
        Templates { templar: Templar::new(options), search: Arc::default() }
    }

    fn scope(vars: Map) -> Arc<dyn Vars> {
        Arc::new(Scope(vars))
    }

    /// The value of an expression without `{{ }}`; what isn't text is its own value.
    fn expression(&self, expression: &Value, vars: &Arc<dyn Vars>) -> Result<Value, String> {
        let Some(text) = expression.as_str() else { return Ok(expression.clone()) };
        self.templar.expression(text, &self.context(vars)).map_err(|error| error.to_string())
    }

    fn condition(&self, condition: &Value, vars: &Arc<dyn Vars>) -> Result<bool, String> {
        self.templar.condition(condition, &self.context(vars)).map_err(|error| error.to_string())
    }

    fn render(&self, template: &Value, vars: &Arc<dyn Vars>) -> Result<Value, String> {
        self.templar.render(template, &self.context(vars)).map_err(|error| error.to_string())
    }

    fn context<'a>(&'a self, vars: &'a Arc<dyn Vars>) -> Context<'a> {
        Context { vars, search: &self.search }
    }
}

/// Group names that come from values: what can't be in a variable's name becomes `_`.
fn safe_name(name: &str) -> Result<String, String> {
    if name.is_empty() {
        return Err("the name of a group is empty".into());
    }
    let allowed = |index: usize, c: char| c == '_' || c.is_alphabetic() || (index > 0 && c.is_numeric());
    Ok(name.chars().enumerate().map(|(index, c)| if allowed(index, c) { c } else { '_' }).collect())
}

// --- constructed ---

struct Constructed {
    strict: bool,
    compose: Vec<(Value, Value)>,
    groups: Vec<(String, Value)>,
    keyed_groups: Vec<Keyed>,
    leading_separator: bool,
    use_vars_plugins: bool,
    use_extra_vars: bool,
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
            use_extra_vars: truth(root, "use_extra_vars")?,
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
    let templates = Templates::new(&loading.options.vault);
    loading.inventory.set_depths();
    for host in 0..loading.inventory.hosts.len() {
        construct_host(loading, &config, &templates, host).map_err(|problem| {
            if problem.origin.is_none() { problem.at(Some(root.origin.clone())) } else { problem }
        })?;
    }
    Ok(())
}

/// The variables that expressions of a host see.
///
/// Groups are below `all` only where a source says so: what is completed when all sources are read doesn't
/// count yet.
fn vars_of(loading: &Loading<'_>, config: &Constructed, host: usize) -> Result<Map, Diagnostic> {
    let inventory = &loading.inventory;
    let Host { name, vars, groups, .. } = &inventory.hosts[host];
    let groups = inventory.sorted(inventory.ancestors(groups).into_iter().collect());
    let mut map = Map::new();
    let mut add = |vars: &Map| map.extend(vars.iter().map(|(key, value)| (key.clone(), value.clone())));
    for group in &groups {
        add(&inventory.groups[*group].vars);
    }
    let dirs = inventory.source_dirs.iter().filter(|_| config.use_vars_plugins);
    for dir in dirs.clone() {
        for group in &groups {
            for vars in files_of(loading, &dir.join("group_vars"), &inventory.groups[*group].name)? {
                add(&vars);
            }
        }
    }
    add(vars);
    for dir in dirs {
        for vars in files_of(loading, &dir.join("host_vars"), name)? {
            add(&vars);
        }
    }
    map.insert(Value::str("inventory_hostname"), Value::str(Arc::clone(name)));
    map.insert(Value::str("inventory_hostname_short"), Value::str(name.split('.').next().unwrap_or(name)));
    let names = inventory.group_names(name).into_iter().map(Value::str).collect();
    map.insert(Value::str("group_names"), Value::list(names));
    Ok(map)
}

/// The variables in the files of a name.
fn files_of(loading: &Loading<'_>, dir: &Path, name: &str) -> Result<Vec<Arc<Map>>, Diagnostic> {
    match loading.inventory.files.of(dir, name) {
        Ok(files) => Ok(files.iter().map(|file| Arc::clone(&file.map)).collect()),
        Err(errors) => {
            Err(errors.first().cloned().unwrap_or_else(|| Diagnostic::error("can't read variables")))
        }
    }
}

fn construct_host(
    loading: &mut Loading<'_>,
    config: &Constructed,
    templates: &Templates,
    host: usize,
) -> Result<(), Diagnostic> {
    let name = Arc::clone(&loading.inventory.hosts[host].name);
    let mut vars = vars_of(loading, config, host)?;
    if config.use_extra_vars {
        vars.extend(loading.options.extra_vars.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    let scope = Templates::scope(vars);
    for (key, expression) in &config.compose {
        match templates.expression(expression, &scope) {
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
    let scope =
        if config.compose.is_empty() { scope } else { Templates::scope(vars_of(loading, config, host)?) };
    for (group, condition) in &config.groups {
        match templates.condition(condition, &scope) {
            Ok(true) => {
                let group = safe_name(group).map_err(Diagnostic::error)?;
                let group = loading.inventory.group_id(&group);
                loading.inventory.put(group, host);
            }
            Ok(false) => {}
            Err(problem) if config.strict => {
                let problem =
                    format!("can't tell whether the host {name} is in the group {group}: {problem}");
                return Err(Diagnostic::error(problem).at(condition.origin().cloned()));
            }
            Err(_) => {}
        }
    }
    for keyed in &config.keyed_groups {
        let key = match templates.expression(&keyed.key, &scope) {
            Ok(key) => key,
            Err(problem) if config.strict => {
                return Err(keyed.node.error(format!("can't find the groups of the host {name}: {problem}")));
            }
            Err(_) => continue,
        };
        let parent = match keyed.parent_group.as_ref().map(|parent| templates.render(parent, &scope)) {
            Some(Ok(parent)) => Some(parent.to_text()).filter(|parent| !parent.is_empty()),
            Some(Err(problem)) if config.strict => {
                let problem = format!("can't find the parent group for the host {name}: {problem}");
                return Err(keyed.node.error(problem));
            }
            Some(Err(_)) => continue,
            None => None,
        };
        put_in_keyed(loading, config, keyed, &key, host, parent.as_deref())?;
    }
    Ok(())
}

fn put_in_keyed(
    loading: &mut Loading<'_>,
    config: &Constructed,
    keyed: &Keyed,
    key: &Value,
    host: usize,
    parent: Option<&str>,
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
    let names = keyed.names(key).map_err(|problem| keyed.node.error(problem))?;
    let separator =
        if keyed.prefix.is_empty() && !config.leading_separator { "" } else { keyed.separator.as_str() };
    for bare in names {
        let group = safe_name(&format!("{}{separator}{bare}", keyed.prefix))
            .map_err(|problem| keyed.node.error(format!("{problem} for the host {name}")))?;
        let group = loading.inventory.group_id(&group);
        loading.inventory.put(group, host);
        if let Some(parent) = parent {
            let parent = safe_name(parent).map_err(|problem| keyed.node.error(problem))?;
            let parent = loading.inventory.group_id(&parent);
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
    let templates = Templates::new(&loading.options.vault);
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
        let vars = Templates::scope(combination(&choices, index));
        let host =
            templates.render(&name.to_value(), &vars).map_err(|problem| name.error(problem))?.to_text();
        names::check_name(&host).map_err(|problem| name.error(problem))?;
        let host = loading.inventory.host_id(&host, None);
        add_parents(loading, &templates, Member::Host(host), hosts, &vars, 0)?;
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
    templates: &Templates,
    member: Member,
    node: &Node,
    vars: &Arc<dyn Vars>,
    depth: usize,
) -> Result<(), Diagnostic> {
    let Some(parents) = node.get("parents").filter(|parents| !parents.is_null()) else { return Ok(()) };
    if depth > 50 {
        return Err(parents.error("parents are nested too deeply"));
    }
    for parent in parents.as_list().ok_or_else(|| parents.error("`parents` must be a list"))? {
        let name = parent.get("name").ok_or_else(|| parent.error("a parent needs a `name`"))?;
        let text = templates.render(&name.to_value(), vars).map_err(|problem| name.error(problem))?.to_text();
        if text.is_empty() {
            return Err(name.error("the name of a parent is empty"));
        }
        let group = loading.inventory.group_id(&text);
        for (key, value) in parent.get("vars").and_then(Node::as_map).unwrap_or_default() {
            let rendered =
                templates.render(&value.to_value(), vars).map_err(|problem| value.error(problem))?;
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
        add_parents(loading, templates, Member::Group(group), parent, vars, depth + 1)?;
    }
    Ok(())
}
