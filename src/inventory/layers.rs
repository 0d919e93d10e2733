//! The inventory's part of variable precedence: layers, lowest first, each with where it is from.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{ALL, Inventory};
use crate::diagnostic::Diagnostic;
use crate::value::{Map, Value};

/// The kinds of layers, lowest precedence first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Variables that inventory sources give `all`.
    AllInInventory,
    /// Variables that inventory sources give other groups.
    GroupInInventory,
    /// `group_vars/all` beside the inventory.
    AllBesideInventory,
    /// `group_vars/all` beside the playbook.
    AllBesidePlaybook,
    /// `group_vars/<group>` beside the inventory.
    GroupBesideInventory,
    /// `group_vars/<group>` beside the playbook.
    GroupBesidePlaybook,
    /// Variables that inventory sources give the host.
    HostInInventory,
    /// `host_vars/<host>` beside the inventory.
    HostBesideInventory,
    /// `host_vars/<host>` beside the playbook.
    HostBesidePlaybook,
}

impl Level {
    /// Whether inventory sources themselves say it, not files beside them.
    pub fn is_in_inventory(self) -> bool {
        matches!(self, Level::AllInInventory | Level::GroupInInventory | Level::HostInInventory)
    }

    /// Whether it is about the host alone, not about a group.
    pub fn is_of_host(self) -> bool {
        matches!(self, Level::HostInInventory | Level::HostBesideInventory | Level::HostBesidePlaybook)
    }

    /// What to call it when telling where a variable is from.
    pub fn describe(self) -> &'static str {
        match self {
            Level::AllInInventory => "inventory, group all",
            Level::GroupInInventory => "inventory, group",
            Level::AllBesideInventory => "inventory group_vars/all",
            Level::AllBesidePlaybook => "playbook group_vars/all",
            Level::GroupBesideInventory => "inventory group_vars",
            Level::GroupBesidePlaybook => "playbook group_vars",
            Level::HostInInventory => "inventory, host",
            Level::HostBesideInventory => "inventory host_vars",
            Level::HostBesidePlaybook => "playbook host_vars",
        }
    }
}

/// Some variables of a host.
#[derive(Clone, Debug)]
pub struct Layer {
    /// How strong it is.
    pub level: Level,
    /// The raw variables; shared by all hosts that have them.
    pub map: Arc<Map>,
    /// The group, host or file.
    pub source: Arc<str>,
}

type Layers = Result<Arc<Vec<Layer>>, Arc<[Diagnostic]>>;

/// What is derived from the graph; forgotten when it changes.
#[derive(Default)]
pub(super) struct Caches {
    pub(super) groups_value: Option<Value>,
    /// By playbook directory, then by host.
    hosts: HashMap<Option<PathBuf>, HashMap<Arc<str>, Layers>>,
    /// Layers of groups, by playbook directory and the sorted groups.
    groups: HashMap<(Option<PathBuf>, Vec<usize>), Layers>,
}

impl Inventory {
    /// The variables that the inventory knows for a host, lowest precedence first; later layers win. With
    /// `playbook_dir` also those in `group_vars` and `host_vars` there.
    ///
    /// # Errors
    /// A variables file can't be read or decrypted. Unknown hosts have no layers.
    pub fn var_layers(&self, host: &str, playbook_dir: Option<&Path>) -> Layers {
        let dir = playbook_dir.map(Path::to_owned);
        if let Some(layers) = self.caches().hosts.get(&dir).and_then(|hosts| hosts.get(host)) {
            return layers.clone();
        }
        let layers = self.layers_of_host(host, dir.as_deref());
        self.caches().hosts.entry(dir).or_default().insert(Arc::from(host), layers.clone());
        layers
    }

    /// All variables of a host that the inventory knows, merged.
    ///
    /// # Errors
    /// As [`Inventory::var_layers`].
    pub fn host_vars(&self, host: &str, playbook_dir: Option<&Path>) -> Result<Map, Arc<[Diagnostic]>> {
        Ok(merged(&self.var_layers(host, playbook_dir)?))
    }

    /// Warnings about variables files that were read since the last call.
    pub fn take_warnings(&self) -> Vec<Diagnostic> {
        self.files.take_warnings()
    }

    fn layers_of_host(&self, name: &str, playbook_dir: Option<&Path>) -> Layers {
        let Some(host) = self.host(name) else { return Ok(Arc::default()) };
        let groups = self.sorted(self.ancestors(&host.groups).into_iter().filter(|id| *id != ALL).collect());
        let mut layers = Vec::clone(&*self.layers_of_groups(groups, playbook_dir)?);
        if !host.vars.is_empty() {
            layers.push(Layer {
                level: Level::HostInInventory,
                map: Arc::clone(&host.vars),
                source: Arc::clone(&host.name),
            });
        }
        for dir in &self.source_dirs {
            self.add_files(&mut layers, Level::HostBesideInventory, &dir.join("host_vars"), &host.name)?;
        }
        if let Some(dir) = playbook_dir {
            self.add_files(&mut layers, Level::HostBesidePlaybook, &dir.join("host_vars"), &host.name)?;
        }
        Ok(Arc::new(layers))
    }

    /// Groups in order of precedence, the strongest last.
    pub(super) fn sorted(&self, mut groups: Vec<usize>) -> Vec<usize> {
        groups.sort_by_key(|id| {
            let group = &self.groups[*id];
            (group.depth, group.priority, Arc::clone(&group.name))
        });
        groups
    }

    fn layers_of_groups(&self, groups: Vec<usize>, playbook_dir: Option<&Path>) -> Layers {
        let key = (playbook_dir.map(Path::to_owned), groups);
        if let Some(layers) = self.caches().groups.get(&key) {
            return layers.clone();
        }
        let layers = self.read_group_layers(&key.1, playbook_dir);
        self.caches().groups.insert(key, layers.clone());
        layers
    }

    fn read_group_layers(&self, groups: &[usize], playbook_dir: Option<&Path>) -> Layers {
        let mut layers = Vec::new();
        self.add_group_vars(&mut layers, Level::AllInInventory, ALL);
        for group in groups {
            self.add_group_vars(&mut layers, Level::GroupInInventory, *group);
        }
        let inventory_dirs: Vec<PathBuf> =
            self.source_dirs.iter().map(|dir| dir.join("group_vars")).collect();
        let playbook_dirs: Vec<PathBuf> =
            playbook_dir.map(|dir| dir.join("group_vars")).into_iter().collect();
        for (level, dirs) in
            [(Level::AllBesideInventory, &inventory_dirs), (Level::AllBesidePlaybook, &playbook_dirs)]
        {
            for dir in dirs {
                self.add_files(&mut layers, level, dir, "all")?;
            }
        }
        for (level, dirs) in
            [(Level::GroupBesideInventory, &inventory_dirs), (Level::GroupBesidePlaybook, &playbook_dirs)]
        {
            // A later source beats an earlier one even where its group is less deep.
            for dir in dirs {
                for group in groups {
                    self.add_files(&mut layers, level, dir, &self.groups[*group].name)?;
                }
            }
        }
        Ok(Arc::new(layers))
    }

    fn add_group_vars(&self, layers: &mut Vec<Layer>, level: Level, group: usize) {
        let group = &self.groups[group];
        if !group.vars.is_empty() {
            layers.push(Layer { level, map: Arc::clone(&group.vars), source: Arc::clone(&group.name) });
        }
    }

    fn add_files(
        &self,
        layers: &mut Vec<Layer>,
        level: Level,
        dir: &Path,
        name: &str,
    ) -> Result<(), Arc<[Diagnostic]>> {
        let files = self.files.of(dir, name)?;
        layers.extend(files.iter().map(|file| Layer {
            level,
            map: Arc::clone(&file.map),
            source: Arc::clone(&file.source),
        }));
        Ok(())
    }
}

/// Layers as one mapping; the last one wins.
fn merged(layers: &[Layer]) -> Map {
    let mut map = Map::new();
    for layer in layers {
        for (key, value) in layer.map.iter() {
            map.insert(key.clone(), value.clone());
        }
    }
    map
}
