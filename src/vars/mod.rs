//! Variables: who wins. A [`Scope`] is what one task sees on one host: a stack of layers that is searched
//! from the top, never merged, so that a task costs what it looks at and not what there is.
//!
//! The order, lowest first, is that of [`LEVELS`].

pub mod cache;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};

use crate::inventory::{Inventory, Layer, Level};
use crate::playbook::keywords::is_reserved;
use crate::playbook::{Keywords, Role, Task, VarsKind};
use crate::value::{Lazy, Map, Origin, Value, Vars, map_of};

/// The levels of precedence, lowest first, as users are told them.
pub const LEVELS: &[&str] = &[
    "command line values (not variables)",
    "role defaults",
    "inventory file group vars",
    "inventory group_vars/all",
    "playbook group_vars/all",
    "inventory group_vars/*",
    "playbook group_vars/*",
    "inventory file host vars",
    "inventory host_vars/*",
    "playbook host_vars/*",
    "host facts and cached set_fact",
    "play vars",
    "play vars_prompt",
    "play vars_files",
    "role vars",
    "block vars",
    "task vars",
    "include_vars",
    "set_fact and registered vars",
    "role params",
    "include params",
    "extra vars",
];

/// What is known of a host's variables beyond the inventory. Cheap to copy.
#[derive(Clone, Debug, Default)]
pub struct HostVars {
    /// Name in the inventory.
    pub name: Arc<str>,
    /// Layers from the inventory, lowest first.
    pub inventory: Arc<Vec<Layer>>,
    /// `ansible_facts`.
    pub facts: Arc<Map>,
    /// The facts under the names that they are injected by (`ansible_distribution`, `packages`).
    pub injected: Arc<Map>,
    /// Facts are on their way.
    pub facts_pending: bool,
    /// `set_fact` and `register`.
    pub live: Arc<Map>,
    /// `include_vars`.
    pub included: Arc<Map>,
    /// The play's `vars_files` for this host, in order.
    pub files: Arc<Vec<Arc<Map>>>,
}

impl HostVars {
    /// Sets a variable as `set_fact` and `register` do.
    pub fn set(&mut self, name: &str, value: Value) {
        Arc::make_mut(&mut self.live).insert(Value::str(name), value);
    }

    /// Takes facts as a module returned them, with or without the `ansible_` prefix.
    pub fn add_facts(&mut self, facts: &Map) {
        let stored = Arc::make_mut(&mut self.facts);
        let injected = Arc::make_mut(&mut self.injected);
        for (key, value) in facts {
            let Some(name) = key.as_str() else { continue };
            let value = value.untrusted();
            let bare = if name == "ansible_local" {
                "ansible_local"
            } else {
                name.strip_prefix("ansible_").unwrap_or(name)
            };
            stored.insert(Value::str(if name == "ansible_local" { "local" } else { bare }), value.clone());
            if !is_connection_variable(name) {
                injected.insert(key.clone(), value);
            }
        }
    }

    /// Forgets all facts.
    pub fn clear_facts(&mut self) {
        self.facts = Arc::default();
        self.injected = Arc::default();
    }
}

/// Names that facts may not take over: they say how the host is reached.
fn is_connection_variable(name: &str) -> bool {
    const EXACT: [&str; 8] = [
        "ansible_host",
        "ansible_port",
        "ansible_user",
        "ansible_connection",
        "ansible_password",
        "ansible_become",
        "ansible_shell_type",
        "ansible_shell_executable",
    ];
    EXACT.contains(&name)
        || name.starts_with("ansible_become_")
        || (name.starts_with("ansible_ssh_") && !name.starts_with("ansible_ssh_host_key_"))
        || (name.starts_with("ansible_") && name.ends_with("_interpreter"))
}

/// Settings that variables depend on.
#[derive(Clone, Debug)]
pub struct VarSettings {
    /// Facts are variables of their own, not only entries of `ansible_facts`.
    pub inject_facts: bool,
    /// `hash_behaviour = merge`.
    pub merge_hashes: bool,
}

/// What all scopes of a run share.
#[derive(Debug)]
pub struct RunVars {
    /// `-e`.
    pub extra: Arc<Map>,
    /// Magic variables that do not change in a run (`ansible_version`, `ansible_check_mode`, …).
    pub magic: Map,
    /// What templates of a task see of how its host is reached, where nothing else says so.
    pub connection: Map,
    /// Facts of earlier runs.
    pub cache: cache::FactCache,
    /// Settings.
    pub settings: VarSettings,
    /// Every host's variables as of now; what `hostvars` shows.
    pub hosts: RwLock<HashMap<Arc<str>, Arc<HostVars>>>,
    /// The inventory as of now.
    pub inventory: RwLock<Arc<Inventory>>,
    /// `groups` as of now.
    pub groups: RwLock<Value>,
}

impl RunVars {
    /// Shows `vars` to other hosts.
    pub fn publish(&self, vars: &HostVars) {
        write(&self.hosts).insert(vars.name.clone(), Arc::new(vars.clone()));
    }

    /// Takes a changed inventory.
    pub fn set_inventory(&self, inventory: Arc<Inventory>) {
        *write(&self.groups) = inventory.groups_value();
        *write(&self.inventory) = inventory;
    }

    /// Gives a host whose facts nothing has told yet those of earlier runs.
    pub fn recall(&self, vars: &mut HostVars) {
        if vars.facts.is_empty()
            && let Some(facts) = self.cache.load(&vars.name)
        {
            vars.add_facts(&facts);
        }
    }

    fn host(&self, name: &str) -> Option<Arc<HostVars>> {
        read(&self.hosts).get(name).cloned()
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What the tasks of one play (one batch of it) share.
#[derive(Debug, Default)]
pub struct PlayVars {
    /// `vars`.
    pub vars: Arc<Map>,
    /// Answers to `vars_prompt`.
    pub prompted: Arc<Map>,
    /// Roles whose variables the whole play sees, in order.
    pub public_roles: Vec<Arc<Role>>,
    /// `ansible_play_hosts_all`, `ansible_play_batch`, `ansible_play_name`, `playbook_dir`, ….
    pub magic: Map,
}

/// What one task sees on one host.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Of the run.
    pub run: Arc<RunVars>,
    /// Of the play.
    pub play: Arc<PlayVars>,
    /// Of the host.
    pub host: Arc<HostVars>,
    /// The task's role.
    pub role: Option<Arc<Role>>,
    /// The task's keywords, for `vars` of blocks, task and includes.
    pub keywords: Option<Arc<Keywords>>,
    /// The task, for where its files are searched.
    pub task: Option<Arc<Task>>,
    /// Loop variables and others that belong to this task and item alone; above all else.
    pub local: Map,
    /// Results of other tasks may still be out.
    pub ahead: bool,
}

impl Scope {
    /// A scope of the host alone: no task, no role.
    pub fn of_host(run: &Arc<RunVars>, play: &Arc<PlayVars>, host: &Arc<HostVars>) -> Scope {
        Scope {
            run: run.clone(),
            play: play.clone(),
            host: host.clone(),
            role: None,
            keywords: None,
            task: None,
            local: Map::new(),
            ahead: false,
        }
    }

    /// Every layer that is a plain mapping, from the highest to the lowest, with its level in [`LEVELS`].
    fn each_layer<'a>(&'a self, visit: &mut dyn FnMut(usize, &'a Map) -> bool) {
        macro_rules! layer {
            ($level:expr, $map:expr) => {
                if visit($level, $map) {
                    return;
                }
            };
        }
        layer!(21, &self.run.extra);
        let task_vars = self.keywords.as_deref().map(|keywords| keywords.vars.as_slice()).unwrap_or_default();
        for entry in task_vars.iter().rev().filter(|entry| entry.kind == VarsKind::Include) {
            layer!(20, &entry.map);
        }
        if let Some(role) = &self.role {
            layer!(19, &role.params);
            for parent in &role.parents {
                layer!(19, &parent.params);
            }
        }
        layer!(18, &self.host.live);
        layer!(17, &self.host.included);
        for entry in task_vars.iter().rev() {
            match entry.kind {
                VarsKind::Task => layer!(16, &entry.map),
                VarsKind::Block => layer!(15, &entry.map),
                VarsKind::Include => {}
            }
        }
        if let Some(role) = &self.role {
            layer!(14, &role.entry_vars);
            layer!(14, &role.vars);
            for other in role.parents.iter().chain(role.dependencies.iter().rev()) {
                layer!(14, &other.entry_vars);
                layer!(14, &other.vars);
            }
        }
        for role in self.play.public_roles.iter().rev() {
            layer!(14, &role.vars);
        }
        for file in self.host.files.iter().rev() {
            layer!(13, file);
        }
        layer!(12, &self.play.prompted);
        layer!(11, &self.play.vars);
        if self.run.settings.inject_facts {
            layer!(10, &self.host.injected);
        }
        for layer in self.host.inventory.iter().rev() {
            layer!(level_of(layer.level), &layer.map);
        }
        if let Some(role) = &self.role {
            layer!(1, &role.defaults);
            for other in role.parents.iter().chain(role.dependencies.iter().rev()) {
                layer!(1, &other.defaults);
            }
        }
        for role in self.play.public_roles.iter().rev() {
            layer!(1, &role.defaults);
        }
    }

    fn layered(&self, name: &str) -> Option<Value> {
        let mut found: Option<Value> = None;
        let merge = self.run.settings.merge_hashes;
        self.each_layer(&mut |level, map| {
            if level < 10 && found.is_none() && self.facts_might_hold(name) {
                found = Some(Value::Pending);
                return true;
            }
            if let Some(value) = map.get(name) {
                match (&mut found, value) {
                    (None, value) => found = Some(value.clone()),
                    (Some(Value::Map(above)), Value::Map(below)) => {
                        *above = Arc::new(merged(below, above));
                    }
                    _ => return true,
                }
                return !(merge && matches!(found, Some(Value::Map(_))));
            }
            false
        });
        if found.is_none() && self.facts_might_hold(name) {
            return Some(Value::Pending);
        }
        found
    }

    fn facts_might_hold(&self, name: &str) -> bool {
        self.host.facts_pending
            && self.run.settings.inject_facts
            && name.starts_with("ansible_")
            && !is_connection_variable(name)
    }

    /// Variables with names that mean something else to playbooks or templates, and where they were written.
    /// Layers in `seen` were looked at before.
    pub fn reserved_names(&self, seen: &mut HashSet<(usize, usize)>) -> Vec<(Arc<str>, Option<Arc<Origin>>)> {
        let mut found = Vec::new();
        self.each_layer(&mut |_, map| {
            if !map.is_empty() && seen.insert((std::ptr::from_ref(map).addr(), map.len())) {
                for (key, value) in map {
                    if let Some(name) = key.as_str().filter(|name| is_reserved(name)) {
                        found.push((name.into(), key.origin().or_else(|| value.origin()).cloned()));
                    }
                }
            }
            false
        });
        found
    }

    /// Who defines `name`: the level and raw value of each layer that does, winner first.
    pub fn explain(&self, name: &str) -> Vec<(&'static str, Value)> {
        let mut found = Vec::new();
        self.each_layer(&mut |level, map| {
            if let Some(value) = map.get(name) {
                found.push((LEVELS[level], value.clone()));
            }
            false
        });
        found
    }

    fn magic(&self, name: &str) -> Option<Value> {
        Some(match name {
            "inventory_hostname" => Value::str(self.host.name.clone()),
            "inventory_hostname_short" => Value::str(self.host.name.split('.').next().unwrap_or_default()),
            "groups" => read(&self.run.groups).clone(),
            "group_names" => {
                let names = read(&self.run.inventory).group_names(&self.host.name);
                Value::list(names.into_iter().map(Value::str).collect())
            }
            "hostvars" => Value::Lazy(Arc::new(HostVarsMap { scope: self.clone() })),
            "vars" => Value::Lazy(Arc::new(AllVars { scope: self.clone() })),
            "ansible_facts" => {
                if self.host.facts_pending {
                    Value::Pending
                } else {
                    Value::Map(self.host.facts.clone())
                }
            }
            "ansible_local" if self.host.facts_pending => Value::Pending,
            "role_name" | "ansible_role_name" => {
                let role = self.role.as_ref()?;
                Value::str(role.name.as_str())
            }
            "ansible_search_path" => self.search_path()?,
            "role_path" => {
                let path = &self.role.as_ref()?.path;
                Value::str(std::path::absolute(path).unwrap_or_else(|_| path.clone()).to_string_lossy())
            }
            "role_uuid" => Value::str(self.role.as_ref()?.id.to_string()),
            "ansible_parent_role_names" => {
                let role = self.role.as_ref().filter(|role| !role.parents.is_empty())?;
                Value::list(role.parents.iter().map(|parent| Value::str(parent.name.as_str())).collect())
            }
            "ansible_parent_role_paths" => {
                let role = self.role.as_ref().filter(|role| !role.parents.is_empty())?;
                Value::list(
                    role.parents.iter().map(|parent| Value::str(parent.path.to_string_lossy())).collect(),
                )
            }
            _ => return self.play.magic.get(name).or_else(|| self.run.magic.get(name)).cloned(),
        })
    }
}

impl Scope {
    /// A variable that something defines; unlike [`Vars::get`] without what a task's keywords and the command
    /// line say of the connection.
    pub fn given(&self, name: &str) -> Option<Value> {
        self.local.get(name).cloned().or_else(|| self.magic(name)).or_else(|| self.layered(name))
    }

    /// How a task's host is reached, under the variables' names.
    fn connection(&self, name: &str) -> Option<Value> {
        let keywords = self.keywords.as_ref()?;
        let implicit_local = self.host.inventory.is_empty()
            && matches!(self.host.name.as_ref(), "localhost" | "127.0.0.1" | "::1");
        let keyword = match name {
            "ansible_host" | "ansible_ssh_host" => return Some(Value::str(self.host.name.clone())),
            "ansible_user" | "ansible_ssh_user" => &keywords.remote_user,
            "ansible_port" | "ansible_ssh_port" => &keywords.port,
            "ansible_connection" => &keywords.connection,
            // What a task has of these where no variable of that name is defined.
            "environment" => return Some(Value::list(keywords.environment.clone())),
            "ansible_collection_name" => return Some(Value::Null),
            _ => return None,
        };
        if let Some(value) = keyword {
            return Some(value.clone());
        }
        if name == "ansible_connection" && implicit_local {
            return Some(Value::str("local"));
        }
        self.run.connection.get(name).cloned()
    }
}

impl Scope {
    /// Where the task's files are searched: its roles, its own directory, the playbook's.
    fn search_path(&self) -> Option<Value> {
        let task = self.task.as_ref()?;
        let roles = task.role.iter().flat_map(|role| std::iter::once(role).chain(&role.parents));
        let mut dirs: Vec<std::path::PathBuf> = roles.map(|role| role.path.clone()).collect();
        dirs.extend(task.file.parent().map(std::path::Path::to_path_buf));
        dirs.extend(self.play.magic.get("playbook_dir").map(|dir| dir.to_text().into()));
        let mut out: Vec<Value> = Vec::with_capacity(dirs.len());
        for dir in dirs {
            let dir = Value::str(std::path::absolute(&dir).unwrap_or(dir).to_string_lossy());
            if !out.contains(&dir) {
                out.push(dir);
            }
        }
        Some(Value::list(out))
    }
}

impl Vars for Scope {
    fn get(&self, name: &str) -> Option<Value> {
        self.given(name).or_else(|| self.connection(name))
    }

    fn names(&self) -> Vec<Arc<str>> {
        let mut names: indexmap::IndexSet<Arc<str>> = indexmap::IndexSet::new();
        let mut add = |map: &Map| {
            for key in map.keys() {
                if let Value::Str(text) = key {
                    names.insert(text.text.clone());
                }
            }
        };
        add(&self.local);
        self.each_layer(&mut |_, map| {
            add(map);
            false
        });
        add(&self.play.magic);
        add(&self.run.magic);
        for name in [
            "inventory_hostname",
            "inventory_hostname_short",
            "groups",
            "group_names",
            "ansible_facts",
            "hostvars",
            "inventory_file",
            "inventory_dir",
        ] {
            names.insert(name.into());
        }
        if self.role.is_some() {
            for name in ["role_name", "role_path", "ansible_role_name"] {
                names.insert(name.into());
            }
        }
        names.into_iter().collect()
    }
}

/// The place of an inventory layer in [`LEVELS`].
fn level_of(level: Level) -> usize {
    match level {
        Level::AllInInventory | Level::GroupInInventory => 2,
        Level::AllBesideInventory => 3,
        Level::AllBesidePlaybook => 4,
        Level::GroupBesideInventory => 5,
        Level::GroupBesidePlaybook => 6,
        Level::HostInInventory => 7,
        Level::HostBesideInventory => 8,
        Level::HostBesidePlaybook => 9,
    }
}

/// `below` with `above` merged over it, mappings recursively.
pub fn merged(below: &Map, above: &Map) -> Map {
    let mut out = below.clone();
    for (key, value) in above {
        match (out.get_mut(key), value) {
            (Some(Value::Map(old)), Value::Map(new)) => *old = Arc::new(merged(old, new)),
            (_, value) => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    out
}

/// `hostvars`: every host's variables, without those of plays, roles, blocks and tasks.
#[derive(Debug)]
struct HostVarsMap {
    scope: Scope,
}

impl Lazy for HostVarsMap {
    fn get(&self, key: &str) -> Option<Value> {
        let own = key == self.scope.host.name.as_ref();
        let host = if own { self.scope.host.clone() } else { host_vars(&self.scope.run, key)? };
        let play = Arc::new(PlayVars { magic: self.scope.play.magic.clone(), ..PlayVars::default() });
        let mut scope = Scope::of_host(&self.scope.run, &play, &host);
        scope.ahead = self.scope.ahead && !own;
        Some(Value::Lazy(Arc::new(OneHost { scope: Arc::new(scope) })))
    }

    fn keys(&self) -> Vec<Arc<str>> {
        read(&self.scope.run.inventory).hosts_in_order()
    }
}

/// The variables of a host that may not have taken part in a play yet.
fn host_vars(run: &Arc<RunVars>, name: &str) -> Option<Arc<HostVars>> {
    if let Some(host) = run.host(name) {
        return Some(host);
    }
    let inventory = read(&run.inventory).clone();
    let name = inventory.host(name)?.name.clone();
    let layers = inventory.var_layers(&name, None).unwrap_or_default();
    let mut vars = HostVars { name, inventory: layers, ..HostVars::default() };
    run.recall(&mut vars);
    Some(Arc::new(vars))
}

/// One entry of `hostvars`.
#[derive(Debug)]
struct OneHost {
    scope: Arc<Scope>,
}

/// The variables of a scope as a mapping, computed on demand.
pub fn all_variables(scope: Scope) -> Value {
    Value::Lazy(Arc::new(OneHost { scope: Arc::new(scope) }))
}

impl Lazy for OneHost {
    fn get(&self, key: &str) -> Option<Value> {
        if key == "hostvars" || key == "vars" {
            return None;
        }
        if self.scope.ahead && !self.certain(key) {
            return Some(Value::Pending);
        }
        self.scope.get(key)
    }

    fn keys(&self) -> Vec<Arc<str>> {
        self.scope.names().into_iter().filter(|name| name.as_ref() != "hostvars").collect()
    }

    fn vars(&self) -> Option<Arc<dyn Vars>> {
        Some(self.scope.clone())
    }
}

impl OneHost {
    /// Whether another host's variable can't be touched by a task that is still out: extra vars, magic
    /// variables, and what only the inventory says of a name that no task has set.
    fn certain(&self, key: &str) -> bool {
        let host = &self.scope.host;
        let magic = ["inventory_hostname", "inventory_hostname_short", "group_names", "groups"];
        if magic.contains(&key) || self.scope.run.extra.contains_key(key) {
            return true;
        }
        let known = |map: &Map| map.contains_key(key);
        let gathered = !host.facts.is_empty() && (key == "ansible_facts" || known(&host.injected));
        gathered || (is_connection_variable(key) && !known(&host.live) && !known(&host.included))
    }
}

/// `vars`: everything that the task sees.
#[derive(Debug)]
struct AllVars {
    scope: Scope,
}

impl Lazy for AllVars {
    fn get(&self, key: &str) -> Option<Value> {
        if key == "vars" { None } else { self.scope.get(key) }
    }

    fn keys(&self) -> Vec<Arc<str>> {
        self.scope.names().into_iter().filter(|name| name.as_ref() != "vars").collect()
    }
}

/// `ansible_version`.
pub fn language_version() -> Value {
    Value::map(map_of([
        ("full", Value::str("2.19.14")),
        ("major", Value::Int(2)),
        ("minor", Value::Int(19)),
        ("revision", Value::Int(14)),
        ("string", Value::str("2.19.14")),
    ]))
}

/// `ansible_delegated_vars`: the variables of the host that a task is delegated to.
#[derive(Debug)]
pub struct DelegatedVars {
    /// Name of that host.
    pub name: Arc<str>,
    /// What it has.
    pub scope: Scope,
}

impl Lazy for DelegatedVars {
    fn get(&self, key: &str) -> Option<Value> {
        (key == self.name.as_ref())
            .then(|| Value::Lazy(Arc::new(OneHost { scope: Arc::new(self.scope.clone()) })))
    }

    fn keys(&self) -> Vec<Arc<str>> {
        vec![self.name.clone()]
    }
}
