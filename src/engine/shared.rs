//! What a run shares and does not change: settings, templates, files, content, machines by number.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Settings;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::engine::blobs::BlobStore;
use crate::engine::connect::Machines;
use crate::engine::options::RunOptions;
use crate::module::registry;
use crate::playbook::loader::Loader;
use crate::playbook::names;
use crate::playbook::{Item, Play, Task};
use crate::source;
use crate::template::{Context, SearchPath, Templar};
use crate::value::{Map, Value, Vars};
use crate::vars::{HostVars, PlayVars, RunVars};
use crate::vault::Vault;

/// What a run shares.
pub struct Shared {
    /// The command line's options.
    pub options: RunOptions,
    /// Settings from files, environment and flags.
    pub settings: Arc<Settings>,
    /// Templates.
    pub templar: Arc<Templar>,
    /// Opens vaults.
    pub vault: Arc<Vault>,
    /// How hosts are reached where nothing else says.
    pub transport: crate::transport::Settings,
    /// Texts of the controller's files, by path.
    pub texts: Mutex<HashMap<PathBuf, (std::time::SystemTime, Arc<str>)>>,
    /// Files of variables, by path.
    pub vars_files: Mutex<HashMap<PathBuf, (std::time::SystemTime, Arc<Map>)>>,
    /// Reads playbooks, roles and includes.
    pub loader: Arc<Loader>,
    /// Variables.
    pub vars: Arc<RunVars>,
    /// Content that hosts may ask for.
    pub blobs: Arc<BlobStore>,
    /// Machines by number.
    pub machines: Machines,
    /// Included files and roles, by include task and arguments, so that all hosts that include the same get
    /// the same tasks.
    pub included: Mutex<HashMap<String, Arc<Included>>>,
    /// Where the inventory came from.
    pub inventory_sources: Vec<String>,
    /// Directory of the first playbook.
    pub playbook_dir: PathBuf,
    /// Number of the run, for names on hosts.
    pub run_id: String,
    /// For names of detached jobs.
    pub jobs: AtomicU64,
}

/// What a dynamic include brought.
#[derive(Debug)]
pub struct Included {
    /// Orders groups of one include among all hosts.
    pub ordinal: u32,
    /// The task that included it.
    pub include_task: u64,
    /// File or role as it is told.
    pub what: String,
    /// Its tasks as one block, tags already applied.
    pub block: Item,
    /// The role, for `include_role`.
    pub role: Option<Arc<crate::playbook::Role>>,
    /// Its handlers.
    pub handlers: Vec<Arc<Task>>,
}

/// One play on one batch of hosts.
pub struct PlayState {
    /// The play.
    pub play: Arc<Play>,
    /// Variables that its tasks share.
    pub vars: Arc<PlayVars>,
    /// Its handlers in definition order.
    pub handlers: Arc<[Arc<Task>]>,
}

/// A lock whose poisoning does not matter: what it guards is always whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn modified(path: &Path) -> std::time::SystemTime {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or(std::time::UNIX_EPOCH)
}

impl Shared {
    /// Variables of a host: as of now if it took part in a play, from the inventory if not; a host that the
    /// inventory does not know has only its name.
    pub fn host_vars(&self, name: &str) -> Arc<HostVars> {
        let published = self.vars.hosts.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(vars) = published {
            return vars;
        }
        let inventory = self.vars.inventory.read().unwrap_or_else(PoisonError::into_inner).clone();
        let known = inventory.host(name).map(|host| host.name.clone());
        let layers = known
            .as_ref()
            .and_then(|name| inventory.var_layers(name, Some(&self.playbook_dir)).ok())
            .unwrap_or_default();
        let mut vars =
            HostVars { name: known.unwrap_or_else(|| name.into()), inventory: layers, ..HostVars::default() };
        self.vars.recall(&mut vars);
        let vars = Arc::new(vars);
        self.vars.publish(&vars);
        vars
    }

    /// The text of a controller's file, decrypted if it is vaulted; read again only when it has changed.
    ///
    /// # Errors
    /// If it can't be read, opened, or is not UTF-8.
    pub fn text_file(&self, path: &Path) -> Result<Arc<str>, Diagnostic> {
        let stamp = modified(path);
        if let Some((known, text)) = lock(&self.texts).get(path)
            && *known == stamp
        {
            return Ok(text.clone());
        }
        let text: Arc<str> = source::read_text(path, &self.vault)?.into();
        lock(&self.texts).insert(path.to_path_buf(), (stamp, text.clone()));
        Ok(text)
    }

    /// The mapping in a file of variables; read again only when it has changed.
    ///
    /// # Errors
    /// If it can't be read or is not a mapping.
    pub fn vars_file(&self, path: &Path) -> Result<Arc<Map>, Diagnostic> {
        let stamp = modified(path);
        if let Some((known, map)) = lock(&self.vars_files).get(path)
            && *known == stamp
        {
            return Ok(map.clone());
        }
        let text = source::read_text(path, &self.vault)?;
        let (value, _) = source::parse_value(&path.to_string_lossy(), &text)?;
        let map = match value {
            Value::Map(map) => map,
            Value::Null => Arc::default(),
            other => {
                return Err(Diagnostic::error(format!(
                    "{} must be stored as a dictionary/hash, but it is a {}",
                    path.display(),
                    other.type_name()
                ))
                .at(other.origin().cloned()));
            }
        };
        lock(&self.vars_files).insert(path.to_path_buf(), (stamp, map.clone()));
        Ok(map)
    }

    /// Renders what may depend on given and extra variables alone: names of imported files and of plays.
    ///
    /// # Errors
    /// If it can't be rendered.
    pub fn render_static(&self, value: &Value, vars: &Map) -> Result<Value, Diagnostic> {
        let vars: Arc<dyn Vars> = Arc::new(StaticVars {
            vars: vars.clone(),
            extra: self.vars.extra.clone(),
            magic: self.vars.magic.clone(),
        });
        let search =
            Arc::new(SearchPath { playbook_dir: self.playbook_dir.clone(), ..SearchPath::default() });
        self.templar.render(value, &Context { vars: &vars, search: &search }).map_err(|error| {
            let mut diagnostic = Diagnostic::error(error.told()).at(error.origin);
            diagnostic.hint = error.hint;
            diagnostic
        })
    }

    /// A name for a detached job: a number and a time, as `async_status` users know it.
    pub fn new_job(&self) -> String {
        let number = self.jobs.fetch_add(1, Ordering::Relaxed);
        format!("j{}.{number}", self.run_id)
    }

    /// The full name of an action or module.
    pub fn resolve_action(&self, name: &str) -> String {
        names::resolve(name, &[]).full
    }

    /// Why a module can't be run, with what was probably meant.
    pub fn unknown_module(&self, name: &str) -> String {
        let known = registry::MODULES.iter().map(|module| module.short_name());
        let short = name.rsplit('.').next().unwrap_or(name);
        let hint =
            did_you_mean(short, known).map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default();
        if let Some(refusal) = self.loader.own_module(name) {
            return format!("couldn't resolve module/action '{name}': {refusal}");
        }
        format!("couldn't resolve module/action '{name}': setpoint has no module of that name{hint}")
    }

    /// Adds the entries of `module_defaults` that are for `action` to `args`.
    pub fn add_module_defaults(&self, action: &str, defaults: &Value, args: &mut Map) {
        let list = match defaults {
            Value::List(items) => items.as_ref().clone(),
            other => vec![other.clone()],
        };
        for defaults in &list {
            let Value::Map(map) = defaults else { continue };
            for (key, value) in map.iter() {
                let (Some(key), Value::Map(values)) = (key.as_str(), value) else { continue };
                let applies = match key.strip_prefix("group/") {
                    Some(group) => in_collection(action, group),
                    None => self.resolve_action(key) == action,
                };
                if applies {
                    args.extend(values.iter().map(|(key, value)| (key.clone(), value.clone())));
                }
            }
        }
    }
}

/// Variables that static decisions may use.
#[derive(Debug)]
struct StaticVars {
    vars: Map,
    extra: Arc<Map>,
    magic: Map,
}

impl Vars for StaticVars {
    fn get(&self, name: &str) -> Option<Value> {
        self.magic.get(name).or_else(|| self.extra.get(name)).or_else(|| self.vars.get(name)).cloned()
    }

    fn names(&self) -> Vec<Arc<str>> {
        let maps = [&self.vars, self.extra.as_ref(), &self.magic];
        maps.iter().flat_map(|map| map.keys()).map(|key| key.to_text().into()).collect()
    }
}

/// Whether an action belongs to a defaults group `namespace.collection.name`: those of its collection do.
fn in_collection(action: &str, group: &str) -> bool {
    group.rsplit_once('.').is_some_and(|(collection, _)| {
        action.strip_prefix(collection).is_some_and(|rest| rest.starts_with('.'))
    })
}
