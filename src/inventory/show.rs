//! An inventory as `ansible-inventory` shows it: `--list`, `--host`, `--graph`, as JSON or YAML.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::{ALL, Inventory};
use crate::diagnostic::Diagnostic;
use crate::source::{emit, json};
use crate::value::{Map, Value, map_of};

/// Variables that are about the run, not about the host; they are not shown.
const INTERNAL: [&str; 2] = ["inventory_dir", "inventory_file"];

/// How an inventory is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Show<'a> {
    /// Only the hosts that this selects.
    pub limit: Option<&'a str>,
    /// Groups' own variables with the groups, and only hosts' own variables with the hosts.
    pub export: bool,
    /// Beside which directory `group_vars` and `host_vars` are looked for, other than the inventory's.
    pub playbook_dir: Option<&'a Path>,
    /// Variables in the graph.
    pub vars: bool,
}

type Shown<T> = Result<T, Vec<Diagnostic>>;

impl Inventory {
    /// The data of `inventory --list`: groups, and every host's variables under `_meta`.
    ///
    /// # Errors
    /// The limit is malformed, or a variables file can't be read.
    pub fn show_list(&self, show: Show<'_>) -> Shown<Value> {
        let hosts = self.shown_hosts(show)?;
        let available: HashSet<&str> = hosts.iter().map(AsRef::as_ref).collect();
        let mut out = Map::new();
        self.list_group(ALL, &available, show, &mut HashSet::new(), &mut out)?;
        let mut hostvars = Map::new();
        for host in &hosts {
            let vars = self.shown_host_vars(host, show)?;
            if !vars.is_empty() {
                hostvars.insert(Value::str(Arc::clone(host)), Value::map(vars));
            }
        }
        let mut meta = Map::new();
        meta.insert(Value::str("hostvars"), Value::map(hostvars));
        meta.insert(Value::str("profile"), Value::str("inventory_legacy"));
        out.insert(Value::str("_meta"), Value::map(meta));
        Ok(Value::map(out))
    }

    /// `inventory --list` as JSON text.
    ///
    /// # Errors
    /// As [`Inventory::show_list`].
    pub fn show_list_json(&self, show: Show<'_>) -> Shown<String> {
        Ok(to_json(&self.show_list(show)?))
    }

    /// `inventory --list --yaml`: groups inside each other, each host's variables where it appears first.
    ///
    /// # Errors
    /// As [`Inventory::show_list`].
    pub fn show_list_yaml(&self, show: Show<'_>) -> Shown<String> {
        let hosts = self.shown_hosts(show)?;
        let available: HashSet<&str> = hosts.iter().map(AsRef::as_ref).collect();
        let mut state = YamlState { available, show, hosts: HashSet::new(), groups: HashSet::new() };
        let mut out = Map::new();
        self.yaml_group(ALL, &mut state, &mut out)?;
        Ok(to_yaml(&Value::map(out)))
    }

    /// The data of `inventory --host NAME`.
    ///
    /// # Errors
    /// There is no such host, or a variables file can't be read.
    pub fn show_host(&self, host: &str, show: Show<'_>) -> Shown<Value> {
        let Some(found) = self.host(host) else {
            let names = self.hosts.iter().map(|host| host.name.as_ref());
            let problem = Diagnostic::error(format!("there is no host '{host}' in the inventory"));
            return Err(vec![match crate::diagnostic::did_you_mean(host, names) {
                Some(meant) => problem.hint(format!("did you mean '{meant}'?")),
                None => problem,
            }]);
        };
        Ok(Value::map(self.shown_host_vars(&found.name, show)?))
    }

    /// `inventory --graph [GROUP]`.
    ///
    /// # Errors
    /// There is no such group, or a variables file can't be read.
    pub fn show_graph(&self, group: &str, show: Show<'_>) -> Shown<String> {
        let Some(id) = self.group_ids.get(group) else {
            let names = self.groups.iter().map(|group| group.name.as_ref());
            let problem = Diagnostic::error(format!("there is no group '{group}' in the inventory"));
            return Err(vec![match crate::diagnostic::did_you_mean(group, names) {
                Some(meant) => problem.hint(format!("did you mean '{meant}'?")),
                None => problem,
            }]);
        };
        let mut lines = Vec::new();
        self.graph_group(*id, 0, show, &mut lines)?;
        Ok(lines.join("\n"))
    }

    fn shown_hosts(&self, show: Show<'_>) -> Shown<Vec<Arc<str>>> {
        Ok(self.select("all", show.limit).map_err(|problem| vec![problem])?.hosts)
    }

    fn shown_host_vars(&self, host: &str, show: Show<'_>) -> Shown<Map> {
        let layers = self.var_layers(host, show.playbook_dir).map_err(|errors| errors.to_vec())?;
        let mut map = Map::new();
        for layer in layers.iter().filter(|layer| !show.export || layer.level.is_of_host()) {
            for (key, value) in layer.map.iter() {
                map.insert(key.clone(), value.clone());
            }
        }
        for name in INTERNAL {
            map.shift_remove(name);
        }
        Ok(map)
    }

    fn shown_group_vars(&self, group: usize, show: Show<'_>) -> Shown<Map> {
        let group = &self.groups[group];
        let mut map = Map::clone(&group.vars);
        let dirs = self.source_dirs.iter().map(AsRef::as_ref).chain(show.playbook_dir);
        for dir in dirs {
            let files =
                self.files.of(&dir.join("group_vars"), &group.name).map_err(|errors| errors.to_vec())?;
            for (key, value) in files.iter().flat_map(|file| file.map.iter()) {
                map.insert(key.clone(), value.clone());
            }
        }
        if group.priority != 1 {
            map.insert(Value::str("ansible_group_priority"), Value::Int(group.priority));
        }
        Ok(map)
    }

    fn list_group(
        &self,
        id: usize,
        available: &HashSet<&str>,
        show: Show<'_>,
        seen: &mut HashSet<usize>,
        out: &mut Map,
    ) -> Shown<()> {
        let group = &self.groups[id];
        let mut entry = Map::new();
        let hosts: Vec<Value> = group
            .hosts
            .iter()
            .map(|host| &self.hosts[*host].name)
            .filter(|name| id != ALL && available.contains(name.as_ref()))
            .map(|name| Value::str(Arc::clone(name)))
            .collect();
        if !hosts.is_empty() {
            entry.insert(Value::str("hosts"), Value::list(hosts));
        }
        let children: Vec<Value> =
            group.children.iter().map(|child| Value::str(Arc::clone(&self.groups[*child].name))).collect();
        for child in &group.children {
            if seen.insert(*child) {
                self.list_group(*child, available, show, seen, out)?;
            }
        }
        if !children.is_empty() {
            entry.insert(Value::str("children"), Value::list(children));
        }
        if show.export {
            let vars = self.shown_group_vars(id, show)?;
            if !vars.is_empty() {
                entry.insert(Value::str("vars"), Value::map(vars));
            }
        }
        if !entry.is_empty() {
            out.insert(Value::str(Arc::clone(&group.name)), Value::map(entry));
        }
        Ok(())
    }

    fn yaml_group(&self, id: usize, state: &mut YamlState<'_>, out: &mut Map) -> Shown<()> {
        let group = &self.groups[id];
        let mut entry = Map::new();
        let mut children = Map::new();
        for child in &group.children {
            if state.groups.contains(child) {
                children.insert(Value::str(Arc::clone(&self.groups[*child].name)), Value::map(Map::new()));
            } else {
                self.yaml_group(*child, state, &mut children)?;
                state.groups.insert(*child);
            }
        }
        if !children.is_empty() {
            entry.insert(Value::str("children"), Value::map(children));
        }
        let mut hosts = Map::new();
        for host in group.hosts.iter().filter(|_| id != ALL) {
            let name = &self.hosts[*host].name;
            if !state.available.contains(name.as_ref()) {
                continue;
            }
            let vars =
                if state.hosts.insert(*host) { self.shown_host_vars(name, state.show)? } else { Map::new() };
            hosts.insert(Value::str(Arc::clone(name)), Value::map(vars));
        }
        if !hosts.is_empty() {
            entry.insert(Value::str("hosts"), Value::map(hosts));
        }
        if state.show.export {
            let vars = self.shown_group_vars(id, state.show)?;
            if !vars.is_empty() {
                entry.insert(Value::str("vars"), Value::map(vars));
            }
        }
        if !entry.is_empty() {
            out.insert(Value::str(Arc::clone(&group.name)), Value::map(entry));
        }
        Ok(())
    }

    fn graph_group(&self, id: usize, depth: usize, show: Show<'_>, lines: &mut Vec<String>) -> Shown<()> {
        let group = &self.groups[id];
        lines.push(graph_line(&format!("@{}:", group.name), depth));
        for child in &group.children {
            self.graph_group(*child, depth + 1, show, lines)?;
        }
        for host in group.hosts.iter().filter(|_| id != ALL) {
            let name = &self.hosts[*host].name;
            lines.push(graph_line(name, depth + 1));
            if show.vars {
                graph_vars(&self.shown_host_vars(name, show)?, depth + 2, lines);
            }
        }
        if show.vars {
            graph_vars(&self.shown_group_vars(id, show)?, depth + 1, lines);
        }
        Ok(())
    }
}

struct YamlState<'a> {
    available: HashSet<&'a str>,
    show: Show<'a>,
    /// Hosts whose variables were shown.
    hosts: HashSet<usize>,
    groups: HashSet<usize>,
}

fn graph_line(text: &str, depth: usize) -> String {
    if depth == 0 { text.to_owned() } else { format!("{}--{text}", "  |".repeat(depth)) }
}

fn graph_vars(vars: &Map, depth: usize, lines: &mut Vec<String>) {
    let mut entries: Vec<(String, String)> =
        vars.iter().map(|(key, value)| (key.to_text(), value.to_text())).collect();
    entries.sort();
    lines.extend(entries.iter().map(|(key, value)| graph_line(&format!("{{{key} = {value}}}"), depth)));
}

/// The data as `ansible-inventory` prints JSON, vaulted values in their envelopes.
pub fn to_json(value: &Value) -> String {
    json::dump(&marked(value), &json::Layout::nice())
}

/// The data as `ansible-inventory --yaml` prints it.
pub fn to_yaml(value: &Value) -> String {
    emit::dump(value, &emit::Layout { sort_keys: true, ..emit::Layout::default() })
}

/// Vaulted values, and text that looks like a template but isn't one, in the form in which inventory
/// scripts give them.
fn marked(value: &Value) -> Value {
    match value {
        Value::Vault(vault) => {
            Value::map(map_of([("__ansible_vault", Value::str(Arc::clone(&vault.envelope)))]))
        }
        Value::Str(text)
            if !text.trusted && ["{{", "{%", "{#"].iter().any(|start| text.text.contains(start)) =>
        {
            Value::map(map_of([("__ansible_unsafe", Value::str(Arc::clone(&text.text)))]))
        }
        Value::List(items) => Value::list(items.iter().map(marked).collect()),
        Value::Map(map) => Value::map(map.iter().map(|(key, value)| (key.clone(), marked(value))).collect()),
        other => other.clone(),
    }
}
