//! Which hosts there are, how they are grouped, and what the inventory says about them.
//!
//! An inventory is read from sources (INI, YAML, scripts, host lists, `constructed`, `generator`) into one
//! graph of groups and hosts. Variables stay raw: they are layers in order of precedence, shared between
//! hosts, never merged or copied per host.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::diagnostic::Diagnostic;
use crate::value::{Map, Value};
use crate::vault::Vault;

mod constructed;
mod ini;
mod layers;
mod literal;
mod load;
mod names;
mod pattern;
mod script;
mod show;
#[cfg(test)]
mod tests;
mod vars_files;
mod yaml;

pub use layers::{Layer, Level};
pub use names::{LOCALHOST, host_and_port};
pub use pattern::Selection;
pub use show::{Show, to_json, to_yaml};

use vars_files::VarsFiles;

/// How inventories are read.
pub struct LoadOptions {
    /// Passwords for vaulted files.
    pub vault: Vault,
    /// What `-e` gives; `constructed` sources see it if they ask for it.
    pub extra_vars: Map,
    /// How long a script may take for one answer.
    pub script_timeout: Duration,
    /// Entries of inventory directories that end like this are skipped.
    pub ignore_extensions: Vec<String>,
    /// Entries of inventory directories that match one of these regular expressions are skipped.
    pub ignore_patterns: Vec<String>,
    /// Mappings that several sources give are merged rather than replaced.
    pub merge_hashes: bool,
    /// What becomes of group names that are no variable names.
    pub group_names: GroupNames,
}

/// What becomes of group names that are no variable names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupNames {
    /// They stay, with a warning.
    #[default]
    Kept,
    /// They stay.
    KeptSilently,
    /// Other characters become underscores, with a warning.
    Replaced,
    /// Other characters become underscores.
    ReplacedSilently,
}

impl GroupNames {
    fn replaces(self) -> bool {
        matches!(self, GroupNames::Replaced | GroupNames::ReplacedSilently)
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        let ignored =
            [".pyc", ".pyo", ".swp", ".bak", "~", ".rpm", ".md", ".txt", ".rst", ".orig", ".cfg", ".retry"];
        LoadOptions {
            vault: Vault::default(),
            extra_vars: Map::new(),
            script_timeout: Duration::from_secs(300),
            ignore_extensions: ignored.map(String::from).to_vec(),
            ignore_patterns: Vec::new(),
            merge_hashes: false,
            group_names: GroupNames::default(),
        }
    }
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Host {
    /// The name in the inventory.
    pub name: Arc<str>,
    /// The variables that inventory sources and `add_host` give it.
    pub vars: Arc<Map>,
    /// Not in any inventory: the localhost that is always there.
    pub implicit: bool,
    /// The groups that name it themselves.
    groups: Vec<usize>,
}

/// A group of hosts and of other groups.
#[derive(Clone, Debug)]
pub struct Group {
    /// The name.
    pub name: Arc<str>,
    /// The variables that inventory sources give it.
    pub vars: Arc<Map>,
    /// `ansible_group_priority`: among groups of one depth the higher one wins.
    pub priority: i64,
    /// The longest way from `all`.
    pub depth: usize,
    hosts: Vec<usize>,
    host_set: HashSet<usize>,
    children: Vec<usize>,
    parents: Vec<usize>,
}

const ALL: usize = 0;
const UNGROUPED: usize = 1;

/// Hosts, groups and their variables.
pub struct Inventory {
    hosts: Vec<Host>,
    host_ids: HashMap<Arc<str>, usize>,
    groups: Vec<Group>,
    group_ids: HashMap<Arc<str>, usize>,
    /// One for each name that means this machine, for when no source has it.
    implicit: Vec<Host>,
    /// The first host of the inventory with a name that means this machine.
    localhost: Option<usize>,
    /// The directories beside which `group_vars` and `host_vars` are looked for, in order.
    source_dirs: Vec<PathBuf>,
    /// The sources as they were given.
    sources: Vec<String>,
    /// The source that is being read: what new hosts get as `inventory_file` and `inventory_dir`.
    current_source: (Value, Value),
    files: VarsFiles,
    merge_hashes: bool,
    group_names: GroupNames,
    /// Names of groups that no template can use as they are, as they were written.
    odd_names: Vec<String>,
    caches: Mutex<layers::Caches>,
}

/// A copy starts with empty caches: it is made to be changed.
impl Clone for Inventory {
    fn clone(&self) -> Inventory {
        Inventory {
            hosts: self.hosts.clone(),
            host_ids: self.host_ids.clone(),
            groups: self.groups.clone(),
            group_ids: self.group_ids.clone(),
            implicit: self.implicit.clone(),
            localhost: self.localhost,
            source_dirs: self.source_dirs.clone(),
            sources: self.sources.clone(),
            current_source: self.current_source.clone(),
            files: VarsFiles::new(self.files.vault.clone()),
            merge_hashes: self.merge_hashes,
            group_names: self.group_names,
            odd_names: Vec::new(),
            caches: Mutex::default(),
        }
    }
}

impl std::fmt::Debug for Inventory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inventory")
            .field("hosts", &self.hosts.len())
            .field("groups", &self.groups.len())
            .finish_non_exhaustive()
    }
}

/// What playbooks are told of the controller's Python, for their own commands (`ansible_playbook_python`).
pub const CONTROLLER_PYTHON: &str = "/usr/bin/python3";

impl Inventory {
    /// An inventory with nothing but the groups `all` and `ungrouped` and the implicit localhost.
    pub fn new(vault: Vault) -> Inventory {
        let implicit = LOCALHOST
            .iter()
            .map(|name| Host {
                name: Arc::from(*name),
                vars: Arc::new(crate::value::map_of([
                    ("ansible_connection", "local"),
                    ("ansible_python_interpreter", CONTROLLER_PYTHON),
                ])),
                implicit: true,
                groups: Vec::new(),
            })
            .collect();
        let mut inventory = Inventory {
            hosts: Vec::new(),
            host_ids: HashMap::new(),
            groups: Vec::new(),
            group_ids: HashMap::new(),
            implicit,
            localhost: None,
            source_dirs: Vec::new(),
            sources: Vec::new(),
            current_source: (Value::Null, Value::Null),
            files: VarsFiles::new(vault),
            merge_hashes: false,
            group_names: GroupNames::default(),
            odd_names: Vec::new(),
            caches: Mutex::default(),
        };
        inventory.group_id("all");
        inventory.group_id("ungrouped");
        inventory.link(ALL, UNGROUPED);
        inventory.reconcile();
        inventory
    }

    /// Reads sources into one inventory, in order.
    ///
    /// # Errors
    /// Everything that is wrong with the sources. A source that doesn't exist is a warning only.
    pub fn load(
        sources: &[String],
        options: &LoadOptions,
    ) -> Result<(Inventory, Vec<Diagnostic>), Vec<Diagnostic>> {
        load::load(sources, options)
    }

    /// A host by its name. The names of this machine are always there; see [`LOCALHOST`].
    pub fn host(&self, name: &str) -> Option<&Host> {
        if let Some(id) = self.host_ids.get(name) {
            return self.hosts.get(*id);
        }
        let implicit = self.implicit.iter().find(|host| host.name.as_ref() == name)?;
        Some(self.localhost.and_then(|id| self.hosts.get(id)).unwrap_or(implicit))
    }

    /// The hosts of `all`, in the order in which plays run: groups breadth first, hosts as declared.
    pub fn hosts_in_order(&self) -> Vec<Arc<str>> {
        self.hosts_of(ALL).into_iter().map(|id| Arc::clone(&self.hosts[id].name)).collect()
    }

    /// All hosts, in the order in which sources first named them.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter()
    }

    /// The hosts and the groups that a group itself names, in order.
    pub fn members(&self, group: &Group) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let hosts = group.hosts.iter().map(|id| Arc::clone(&self.hosts[*id].name)).collect();
        let children = group.children.iter().map(|id| Arc::clone(&self.groups[*id].name)).collect();
        (hosts, children)
    }

    /// How many hosts there are.
    pub fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// All groups, in the order in which they were first named; `all` and `ungrouped` lead.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter()
    }

    /// A group by its name.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(*self.group_ids.get(name)?)
    }

    /// The hosts of a group and of the groups below it, in order; `None` if there is no such group.
    pub fn group_hosts(&self, name: &str) -> Option<Vec<Arc<str>>> {
        let id = *self.group_ids.get(name)?;
        Some(self.hosts_of(id).into_iter().map(|id| Arc::clone(&self.hosts[id].name)).collect())
    }

    /// The names of the groups that a host is in, directly or not, sorted, without `all`.
    pub fn group_names(&self, host: &str) -> Vec<Arc<str>> {
        let Some(host) = self.host(host) else { return Vec::new() };
        let mut names: Vec<Arc<str>> = self
            .ancestors(&host.groups)
            .into_iter()
            .filter(|id| *id != ALL)
            .map(|id| Arc::clone(&self.groups[id].name))
            .collect();
        names.sort();
        names
    }

    /// What the variable `groups` holds: every group's hosts, in order.
    pub fn groups_value(&self) -> Value {
        if let Some(value) = &self.caches().groups_value {
            return value.clone();
        }
        let names: Vec<Value> = self.hosts.iter().map(|host| Value::str(Arc::clone(&host.name))).collect();
        let map: Map = (0..self.groups.len())
            .map(|id| {
                let hosts = self.hosts_of(id).into_iter().map(|host| names[host].clone()).collect();
                (Value::str(Arc::clone(&self.groups[id].name)), Value::list(hosts))
            })
            .collect();
        let value = Value::map(map);
        self.caches().groups_value = Some(value.clone());
        value
    }

    /// The sources as they were given.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// Adds a host, or gives an existing one more variables (`add_host`); tells whether anything changed.
    ///
    /// # Errors
    /// The name can't be one.
    pub fn add_host(&mut self, name: &str, groups: &[String], vars: &Map) -> Result<bool, Diagnostic> {
        names::check_name(name).map_err(Diagnostic::error)?;
        let mut changed = !self.host_ids.contains_key(name);
        self.current_source = (Value::Null, Value::Null);
        let host = self.host_id(name, None);
        changed |= changed && self.put(ALL, host);
        for (key, value) in vars {
            if self.hosts[host].vars.get(key) != Some(value) {
                changed = true;
                Arc::make_mut(&mut self.hosts[host].vars).insert(key.clone(), value.clone());
            }
        }
        for group in groups {
            changed |= !self.group_ids.contains_key(&*self.group_name(group));
            let group = self.group_id(group);
            changed |= self.put(group, host);
        }
        if changed {
            self.reconcile();
        }
        Ok(changed)
    }

    /// Adds a group below other groups and puts hosts in it (`group_by`); tells whether anything changed.
    ///
    /// # Errors
    /// A host isn't there, or the groups would contain each other.
    pub fn add_group(&mut self, name: &str, parents: &[String], hosts: &[&str]) -> Result<bool, Diagnostic> {
        if name.is_empty() {
            return Err(Diagnostic::error("a group needs a name"));
        }
        let mut changed = !self.group_ids.contains_key(&*self.group_name(name));
        let group = self.group_id(name);
        for parent in parents {
            changed |= !self.group_ids.contains_key(&*self.group_name(parent));
            let parent = self.group_id(parent);
            changed |= self.add_child(parent, group).map_err(Diagnostic::error)?;
        }
        for host in hosts {
            let host = *self
                .host_ids
                .get(*host)
                .ok_or_else(|| Diagnostic::error(format!("there is no host '{host}' in the inventory")))?;
            changed |= self.put(group, host);
        }
        if changed {
            self.reconcile();
        }
        Ok(changed)
    }

    // --- the graph ---

    fn caches(&self) -> std::sync::MutexGuard<'_, layers::Caches> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A group's name as it is kept.
    fn group_name<'a>(&self, name: &'a str) -> std::borrow::Cow<'a, str> {
        if !self.group_names.replaces() || names::is_variable_name(name) {
            return name.into();
        }
        let replaced: String =
            name.chars().map(|c| if c.is_alphanumeric() || c == '_' { c } else { '_' }).collect();
        if replaced.starts_with(|c: char| c.is_ascii_digit()) {
            return format!("_{}", &replaced[1..]).into();
        }
        replaced.into()
    }

    /// The group of this name, added if need be.
    fn group_id(&mut self, name: &str) -> usize {
        let written = name;
        let name = &*self.group_name(name);
        if let Some(id) = self.group_ids.get(name) {
            return *id;
        }
        if !names::is_variable_name(written) {
            self.odd_names.push(written.to_owned());
        }
        let name: Arc<str> = Arc::from(name);
        let id = self.groups.len();
        self.groups.push(Group {
            name: Arc::clone(&name),
            vars: Arc::default(),
            priority: 1,
            depth: 0,
            hosts: Vec::new(),
            host_set: HashSet::new(),
            children: Vec::new(),
            parents: Vec::new(),
        });
        self.group_ids.insert(name, id);
        id
    }

    /// The host of this name, added if need be; only a new host takes the port.
    fn host_id(&mut self, name: &str, port: Option<u16>) -> usize {
        if let Some(id) = self.host_ids.get(name) {
            return *id;
        }
        let name: Arc<str> = Arc::from(name);
        let id = self.hosts.len();
        let (file, dir) = self.current_source.clone();
        let mut vars = Map::new();
        if let Some(port) = port {
            vars.insert(Value::str("ansible_port"), Value::Int(port.into()));
        }
        vars.insert(Value::str("inventory_file"), file);
        vars.insert(Value::str("inventory_dir"), dir);
        self.hosts.push(Host {
            name: Arc::clone(&name),
            vars: Arc::new(vars),
            implicit: false,
            groups: Vec::new(),
        });
        if self.localhost.is_none() && LOCALHOST.contains(&name.as_ref()) {
            self.localhost = Some(id);
        }
        self.host_ids.insert(name, id);
        id
    }

    /// Puts a host in a group; tells whether it wasn't there.
    fn put(&mut self, group: usize, host: usize) -> bool {
        let added = self.groups[group].host_set.insert(host);
        if added {
            self.groups[group].hosts.push(host);
            self.hosts[host].groups.push(group);
        }
        added
    }

    fn take_out(&mut self, group: usize, host: usize) {
        if self.groups[group].host_set.remove(&host) {
            self.groups[group].hosts.retain(|id| *id != host);
            self.hosts[host].groups.retain(|id| *id != group);
        }
    }

    fn link(&mut self, parent: usize, child: usize) {
        self.groups[parent].children.push(child);
        self.groups[child].parents.push(parent);
    }

    /// Puts a group below another one; tells whether it wasn't there.
    fn add_child(&mut self, parent: usize, child: usize) -> Result<bool, String> {
        if self.groups[child].parents.contains(&parent) {
            return Ok(false);
        }
        if child == ALL {
            return Err(format!(
                "'all' is above every group and can't be a child of '{}'",
                self.groups[parent].name
            ));
        }
        if let Some(chain) = self.way(child, parent) {
            let names: Vec<&str> = chain.iter().map(|id| self.groups[*id].name.as_ref()).collect();
            return Err(format!(
                "the groups contain each other: {} → {}",
                names.join(" → "),
                self.groups[child].name
            ));
        }
        self.link(parent, child);
        Ok(true)
    }

    /// The groups on the way down from one group to another, both included.
    fn way(&self, from: usize, to: usize) -> Option<Vec<usize>> {
        if from != to && self.groups[from].children.is_empty() {
            return None;
        }
        let mut came_from: HashMap<usize, usize> = HashMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(group) = queue.pop_front() {
            if group == to {
                let mut chain = vec![to];
                while let Some(before) = chain.last().and_then(|last| came_from.get(last)) {
                    chain.push(*before);
                }
                chain.reverse();
                return Some(chain);
            }
            for child in &self.groups[group].children {
                if *child != from && !came_from.contains_key(child) {
                    came_from.insert(*child, group);
                    queue.push_back(*child);
                }
            }
        }
        None
    }

    /// A group and the groups below it, breadth first.
    fn descendants(&self, group: usize) -> Vec<usize> {
        let mut seen = HashSet::from([group]);
        let mut order = vec![group];
        let mut next = 0;
        while let Some(group) = order.get(next).copied() {
            next += 1;
            for child in &self.groups[group].children {
                if seen.insert(*child) {
                    order.push(*child);
                }
            }
        }
        order
    }

    /// The hosts of a group and of the groups below it, in order.
    fn hosts_of(&self, group: usize) -> Vec<usize> {
        let mut seen = HashSet::new();
        let mut hosts = Vec::new();
        for group in self.descendants(group) {
            hosts.extend(self.groups[group].hosts.iter().copied().filter(|host| seen.insert(*host)));
        }
        hosts
    }

    /// These groups and all groups above them, `all` included.
    fn ancestors(&self, groups: &[usize]) -> HashSet<usize> {
        let mut seen: HashSet<usize> = HashSet::new();
        let mut queue: Vec<usize> = groups.to_vec();
        while let Some(group) = queue.pop() {
            if seen.insert(group) {
                queue.extend(&self.groups[group].parents);
            }
        }
        seen
    }

    /// Restores what always holds: every group is below `all`, a host without a group is in `ungrouped`,
    /// depths are right. Forgets what was derived.
    fn reconcile(&mut self) {
        for group in 1..self.groups.len() {
            if self.groups[group].parents.is_empty() {
                self.link(ALL, group);
            }
        }
        for host in 0..self.hosts.len() {
            let grouped = self.hosts[host].groups.iter().any(|group| *group > UNGROUPED);
            if grouped {
                self.take_out(UNGROUPED, host);
            } else {
                self.put(UNGROUPED, host);
            }
        }
        self.set_depths();
        *self.caches() = layers::Caches::default();
    }

    /// The depth of a group is the longest way from `all`.
    fn set_depths(&mut self) {
        let mut waiting: Vec<usize> = self.groups.iter().map(|group| group.parents.len()).collect();
        let mut queue: VecDeque<usize> = VecDeque::new();
        for (id, group) in self.groups.iter_mut().enumerate() {
            group.depth = 0;
            if waiting[id] == 0 {
                queue.push_back(id);
            }
        }
        while let Some(id) = queue.pop_front() {
            let depth = self.groups[id].depth + 1;
            for child in self.groups[id].children.clone() {
                self.groups[child].depth = self.groups[child].depth.max(depth);
                waiting[child] -= 1;
                if waiting[child] == 0 {
                    queue.push_back(child);
                }
            }
        }
    }

    fn set_host_var(&mut self, host: usize, key: Value, value: Value) {
        let merge = self.merge_hashes;
        insert(Arc::make_mut(&mut self.hosts[host].vars), key, value, merge);
    }

    fn set_group_var(&mut self, group: usize, key: Value, value: Value) -> Result<(), String> {
        if key.as_str() != Some("ansible_group_priority") {
            let merge = self.merge_hashes;
            insert(Arc::make_mut(&mut self.groups[group].vars), key, value, merge);
            return Ok(());
        }
        self.groups[group].priority = match &value {
            Value::Int(priority) => *priority,
            other => other.to_text().trim().parse().map_err(|_| {
                format!("ansible_group_priority must be a whole number, not '{}'", other.to_text())
            })?,
        };
        Ok(())
    }
}

/// Sets a variable that another source may have set before.
fn insert(vars: &mut Map, key: Value, value: Value, merge: bool) {
    let value = match (vars.get(&key), value) {
        (Some(Value::Map(below)), Value::Map(above)) if merge => {
            let mut merged = below.as_ref().clone();
            for (key, value) in above.iter() {
                insert(&mut merged, key.clone(), value.clone(), true);
            }
            Value::map(merged)
        }
        (_, value) => value,
    };
    vars.insert(key, value);
}

/// The directory that a path is in, or the path itself if it is one.
fn directory_of(path: &Path) -> PathBuf {
    if path.is_dir() { path.to_owned() } else { path.parent().unwrap_or(Path::new("/")).to_owned() }
}
