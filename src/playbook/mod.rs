//! Playbooks as a tree: plays, blocks, tasks, roles, handlers, with every inherited keyword resolved.
//!
//! Loading touches files, never a host. What is static (`import_*`, roles, keyword inheritance) is settled
//! here; what is dynamic (`include_*`) comes back to [`loader::Loader`] while the play runs.

use std::path::PathBuf;
use std::sync::Arc;

use crate::value::{Map, Origin, Value};

pub mod args;
pub mod collections;
pub mod keywords;
pub mod known;
mod libraries;
pub mod listing;
pub mod loader;
pub mod names;
mod play;
mod roles;
pub mod tags;
mod tasks;
#[cfg(test)]
mod tests;

/// All plays of one playbook file, `import_playbook` expanded.
#[derive(Debug)]
pub struct Playbook {
    /// The file as the user named it.
    pub path: PathBuf,
    /// Its plays in order.
    pub plays: Vec<Arc<Play>>,
}

/// One play.
#[derive(Debug)]
pub struct Play {
    /// `name`; may hold templates over play and extra variables.
    pub name: Option<Value>,
    /// `hosts`: a pattern or a list of patterns; may hold templates over extra variables.
    pub hosts: Value,
    /// Where it was written.
    pub origin: Arc<Origin>,
    /// The playbook file that holds it.
    pub path: PathBuf,
    /// Keywords that its tasks inherit (already merged into each task's own [`Keywords`]).
    pub keywords: Arc<Keywords>,
    /// `vars`.
    pub vars: Arc<Map>,
    /// `vars_files`: each a path, or a list of paths of which the first that exists counts.
    pub vars_files: Vec<Value>,
    /// `vars_prompt`.
    pub vars_prompt: Vec<VarsPrompt>,
    /// `gather_facts`; `None` if not written.
    pub gather_facts: Option<Value>,
    /// `gather_subset`.
    pub gather_subset: Option<Value>,
    /// `gather_timeout`, seconds.
    pub gather_timeout: Option<Value>,
    /// `fact_path`.
    pub fact_path: Option<Value>,
    /// `serial`: batch sizes or percentages, as written; empty means one batch.
    pub serial: Vec<Value>,
    /// `strategy`.
    pub strategy: Option<Value>,
    /// `order`.
    pub order: Option<Value>,
    /// `max_fail_percentage`.
    pub max_fail_percentage: Option<Value>,
    /// `force_handlers`; `None` if not written.
    pub force_handlers: Option<Value>,
    /// All static roles, dependencies before those that need them.
    pub roles: Vec<Arc<Role>>,
    /// `pre_tasks`.
    pub pre_tasks: Vec<Item>,
    /// The roles' tasks, one [`Block`] a role entry, dependencies first.
    pub role_tasks: Vec<Item>,
    /// `tasks`.
    pub tasks: Vec<Item>,
    /// `post_tasks`.
    pub post_tasks: Vec<Item>,
    /// All handlers in definition order: those of roles first, then the play's own.
    pub handlers: Vec<Arc<Task>>,
}

/// One entry of `vars_prompt`.
#[derive(Clone, Debug)]
pub struct VarsPrompt {
    /// Name of the variable.
    pub name: String,
    /// What is asked.
    pub prompt: Option<Value>,
    /// Used when nothing is typed.
    pub default: Option<Value>,
    /// Typing is not shown.
    pub private: bool,
    /// Typed twice.
    pub confirm: bool,
    /// Hash the answer by this scheme.
    pub encrypt: Option<String>,
    /// Salt for the hash.
    pub salt: Option<Value>,
    /// Length of a generated salt.
    pub salt_size: Option<i64>,
    /// The answer is never a template.
    pub is_unsafe: bool,
}

/// A task or a block of them.
#[derive(Clone, Debug)]
pub enum Item {
    /// One task.
    Task(Arc<Task>),
    /// A block, or a role's tasks, or the tasks of an import with keywords.
    Block(Arc<Block>),
}

/// Tasks that share a fate.
#[derive(Debug)]
pub struct Block {
    /// Unique within the run.
    pub id: u64,
    /// `name`.
    pub name: Option<Value>,
    /// Where it was written.
    pub origin: Arc<Origin>,
    /// The tasks.
    pub block: Vec<Item>,
    /// Run when one of them failed.
    pub rescue: Vec<Item>,
    /// Run in any case.
    pub always: Vec<Item>,
    /// Set for the block that holds a static role's whole task list: the role whose completion it marks.
    pub role: Option<Arc<Role>>,
}

/// One role as it is used at one place (its parameters included).
#[derive(Clone, Debug)]
pub struct Role {
    /// Unique within the run.
    pub id: u64,
    /// Name as the user wrote it; a collection's role has its full name.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// `defaults/main` (or `defaults_from`).
    pub defaults: Arc<Map>,
    /// `vars/main` (or `vars_from`).
    pub vars: Arc<Map>,
    /// `vars:` of the entry or import, lowest-level role vars.
    pub entry_vars: Arc<Map>,
    /// Role params: unknown keys of the entry.
    pub params: Arc<Map>,
    /// Roles that led here by dependency or include, nearest first. A parent that depends on this role is
    /// held without its dependencies (it has the same id).
    pub parents: Vec<Arc<Role>>,
    /// Roles that it depends on, directly, in order.
    pub dependencies: Vec<Arc<Role>>,
    /// Its variables and defaults are visible to the whole play.
    pub public: bool,
    /// `allow_duplicates`.
    pub allow_duplicates: bool,
    /// Equal keys mean: the same role with the same parameters, run once per host and play.
    pub dedup_key: String,
    /// `collections` of its metadata, for name resolution in it.
    pub collections: Vec<String>,
}

/// How a task gets its items.
#[derive(Clone, Debug)]
pub struct Loop {
    /// `None` for `loop:`, the lookup's name for `with_<lookup>:`.
    pub lookup: Option<String>,
    /// What was written.
    pub value: Value,
    /// `loop_control.loop_var`, or `item`.
    pub var: Value,
    /// `loop_control.index_var`.
    pub index_var: Option<Value>,
    /// `loop_control.label`.
    pub label: Option<Value>,
    /// `loop_control.pause`, seconds.
    pub pause: Option<Value>,
    /// `loop_control.extended`.
    pub extended: Option<Value>,
    /// `loop_control.extended_allitems`.
    pub extended_allitems: Option<Value>,
    /// `loop_control.break_when`.
    pub break_when: Vec<Value>,
}

/// One task.
#[derive(Clone, Debug)]
pub struct Task {
    /// Unique within the run.
    pub id: u64,
    /// `name`.
    pub name: Option<Value>,
    /// Where it was written.
    pub origin: Arc<Origin>,
    /// The file that holds it: relative paths are searched from its directory.
    pub file: Arc<PathBuf>,
    /// The files and lines that included or imported it, nearest first.
    pub included_from: Vec<Arc<Origin>>,
    /// Full name of the action or module (`ansible.builtin.copy`), templates in it not rendered.
    pub action: String,
    /// The action's name as it was written, for messages and banners (`TASK [copy]`).
    pub action_written: String,
    /// Arguments as written, not rendered. Free text is under `_raw_params`.
    pub args: Arc<Map>,
    /// `args: "{{ mapping }}"`: merged below `args` at run time.
    pub args_template: Option<Value>,
    /// Keywords, inherited ones resolved.
    pub keywords: Arc<Keywords>,
    /// `register`.
    pub register: Option<String>,
    /// `loop`, `with_*`.
    pub looping: Option<Arc<Loop>>,
    /// `until`.
    pub until: Vec<Value>,
    /// `retries`.
    pub retries: Option<Value>,
    /// `delay`, seconds.
    pub delay: Option<Value>,
    /// `changed_when`; `None` if not written.
    pub changed_when: Option<Vec<Value>>,
    /// `failed_when`; `None` if not written.
    pub failed_when: Option<Vec<Value>>,
    /// `notify`, own or inherited.
    pub notify: Vec<Value>,
    /// `listen`, for a handler.
    pub listen: Vec<String>,
    /// `async`, seconds.
    pub detach: Option<Value>,
    /// `poll`, seconds.
    pub poll: Option<Value>,
    /// The role whose task it is.
    pub role: Option<Arc<Role>>,
    /// It is a handler.
    pub handler: bool,
    /// Made by the loader (gather facts, flush, argument validation), not written by anybody.
    pub implicit: bool,
    /// For a dynamic include: what is inherited around it, and so by what it includes.
    pub around: Option<Arc<Around>>,
}

/// What is inherited at a place.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// Keywords.
    pub keywords: Arc<Keywords>,
    /// `notify` of blocks.
    pub notify: Vec<Value>,
}

/// Variables that come with a block, a task or an include.
#[derive(Clone, Debug)]
pub struct VarsLayer {
    /// Where in the order of precedence it belongs.
    pub kind: VarsKind,
    /// The variables, not rendered.
    pub map: Arc<Map>,
}

/// The levels of precedence that come from the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VarsKind {
    /// `vars` of a block (outermost first in [`Keywords::vars`]).
    Block,
    /// `vars` of a task or a static import.
    Task,
    /// `vars` of a dynamic include, as seen inside it: above `set_fact`.
    Include,
}

/// Keywords that are inherited: task over block over role over play. Values are as written, not rendered.
#[derive(Clone, Debug, Default)]
pub struct Keywords {
    /// `any_errors_fatal`.
    pub any_errors_fatal: Option<Value>,
    /// `become`.
    pub become_: Option<Value>,
    /// `become_exe`.
    pub become_exe: Option<Value>,
    /// `become_flags`.
    pub become_flags: Option<Value>,
    /// `become_method`.
    pub become_method: Option<Value>,
    /// `become_user`.
    pub become_user: Option<Value>,
    /// `check_mode`.
    pub check_mode: Option<Value>,
    /// `collections`, nearest first.
    pub collections: Vec<String>,
    /// `connection`.
    pub connection: Option<Value>,
    /// `debugger`.
    pub debugger: Option<Value>,
    /// `delegate_facts`.
    pub delegate_facts: Option<Value>,
    /// `delegate_to`.
    pub delegate_to: Option<Value>,
    /// `diff`.
    pub diff: Option<Value>,
    /// `environment`, outermost first: mappings, lists of them, or templates.
    pub environment: Vec<Value>,
    /// `ignore_errors`.
    pub ignore_errors: Option<Value>,
    /// `ignore_unreachable`.
    pub ignore_unreachable: Option<Value>,
    /// `module_defaults`, outermost first.
    pub module_defaults: Vec<Value>,
    /// `no_log`.
    pub no_log: Option<Value>,
    /// `port`.
    pub port: Option<Value>,
    /// `remote_user`.
    pub remote_user: Option<Value>,
    /// `run_once`.
    pub run_once: Option<Value>,
    /// `tags`: own and inherited, commas split. A template stays one entry.
    pub tags: Vec<Value>,
    /// `throttle`.
    pub throttle: Option<Value>,
    /// `timeout`, seconds.
    pub timeout: Option<Value>,
    /// `vars` of blocks, task and includes, outermost first.
    pub vars: Vec<VarsLayer>,
    /// `when`: all must hold, outermost first.
    pub when: Vec<Value>,
}
