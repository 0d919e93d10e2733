//! What a run is asked to do: the command line and the settings, resolved, as the engine wants them.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::transport::Secret;
use crate::value::{Map, Origin, Value};

/// What a run is asked to do.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// The playbook files, in order.
    pub playbooks: Vec<PathBuf>,
    /// Inventory sources: files, directories, scripts, or `host,host` lists.
    pub inventory: Vec<String>,
    /// Further restricts the hosts of every play (`--limit`).
    pub limit: Option<String>,
    /// Nothing is changed.
    pub check: bool,
    /// Changes are shown as diffs.
    pub diff: bool,
    /// Only tasks with one of these tags; empty means all.
    pub tags: Vec<String>,
    /// No task with one of these tags.
    pub skip_tags: Vec<String>,
    /// Variables that win over all others (`-e`).
    pub extra_vars: Arc<Map>,
    /// Begin at the task with this name.
    pub start_at_task: Option<String>,
    /// Ask before each task.
    pub step: bool,
    /// How many hosts are worked on at a time.
    pub forks: usize,
    /// Run notified handlers also after a failure.
    pub force_handlers: bool,
    /// Forget cached facts of all hosts first.
    pub flush_cache: bool,
    /// How often `-v` was given.
    pub verbosity: u8,
    /// Upper bound of tasks that are sent ahead to a host; `None` lets the engine choose.
    pub window: Option<usize>,
    /// `-u`; keywords and variables win over it.
    pub remote_user: Option<String>,
    /// `-c`.
    pub connection: Option<String>,
    /// `-T`, in seconds.
    pub timeout: Option<u64>,
    /// `--private-key`.
    pub private_key: Option<PathBuf>,
    /// `--ssh-common-args`.
    pub ssh_common_args: Option<String>,
    /// `--ssh-extra-args`.
    pub ssh_extra_args: Option<String>,
    /// `-b`; `None` when it was not given.
    pub become_: Option<bool>,
    /// `--become-user`.
    pub become_user: Option<String>,
    /// `--become-method`.
    pub become_method: Option<String>,
    /// From `-K` or a file.
    pub become_password: Option<Secret>,
    /// From `-k` or a file.
    pub connection_password: Option<Secret>,
    /// Hosts take the run back by themselves unless it is confirmed over a new connection within so many
    /// seconds.
    pub confirm: Option<u64>,
    /// What is rolled back when a host fails.
    pub rollback_on_failure: Option<RollbackScope>,
    /// Only check the playbooks' syntax.
    pub syntax_check: bool,
    /// Only list the hosts.
    pub list_hosts: bool,
    /// Only list the tasks.
    pub list_tasks: bool,
    /// Only list the tags.
    pub list_tags: bool,
    /// Only look: every task is a dry run, whatever its `check_mode` says. Goes with `check`.
    pub look_only: bool,
    /// Only these tasks, and the handlers that they notify, act. The others are dry runs that nobody is told
    /// of: their results and facts may be needed.
    pub only: Option<Arc<Only>>,
    /// What [`crate::module::observe`] is asked, by number of the request and host.
    pub requests: Requests,
}

/// What hosts are asked beyond a task's arguments; whoever starts the engine may add to it between runs.
pub type Requests = Arc<Mutex<HashMap<(i64, String), Value>>>;

/// Tasks that a run is restricted to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Only {
    /// By host: files and lines of tasks.
    pub tasks: HashMap<String, HashSet<(String, u32)>>,
    /// By host: files and lines of handlers that run without being notified.
    pub handlers: HashMap<String, HashSet<(String, u32)>>,
    /// Files below this directory are named relative to it.
    pub directory: String,
}

impl Only {
    /// Whether a task is one of them.
    pub fn allows(&self, host: &str, origin: &Origin) -> bool {
        self.tasks
            .get(host)
            .is_some_and(|tasks| tasks.contains(&(relative(&origin.file, &self.directory), origin.line)))
    }

    /// Whether a handler runs without being notified.
    pub fn names_handler(&self, host: &str, origin: &Origin) -> bool {
        self.handlers.get(host).is_some_and(|handlers| {
            handlers.contains(&(relative(&origin.file, &self.directory), origin.line))
        })
    }
}

/// A file's name relative to a directory, where it is below that.
pub fn relative(file: &str, directory: &str) -> String {
    let short = Path::new(file).strip_prefix(directory).unwrap_or(Path::new(file));
    short.to_string_lossy().trim_start_matches("./").to_string()
}

/// A handler that an earlier run has notified and not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwedHandler {
    /// The host.
    pub host: String,
    /// Absolute path of the playbook.
    pub playbook: String,
    /// Name of the play.
    pub play: String,
    /// Name of the handler.
    pub handler: String,
}

/// What is rolled back when a host fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollbackScope {
    /// The host.
    Host,
    /// All hosts of its batch (`serial`).
    Batch,
}

/// One task without a playbook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdHoc {
    /// Which hosts.
    pub pattern: String,
    /// The module.
    pub module: String,
    /// Its arguments as they were typed: `k=v`, free text, or JSON.
    pub args: String,
    /// Run detached, for at most this many seconds.
    pub background: Option<u64>,
    /// Seconds between looks at it; 0: don't wait for it.
    pub poll: Option<u64>,
    /// Fail the task after this many seconds.
    pub task_timeout: Option<u64>,
}
