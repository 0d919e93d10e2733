//! Tasks that never reach a host: one file an action, one line in [`ACTIONS`]. An action reads variables and
//! the controller's files and returns what is to come true; the engine makes it true when its turn comes.

use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::engine::plan::PlanError;
use crate::engine::shared::{PlayState, Shared};
use crate::playbook::Task;
use crate::template::Context;
use crate::value::{Map, Value, map_of};

mod add_host;
mod assert;
mod debug;
mod fail;
mod group_by;
mod include_vars;
mod set_fact;
mod set_stats;
pub mod synchronize;
mod validate_argument_spec;

/// What an action looks at.
pub struct ActionContext<'a> {
    /// Of the run.
    pub shared: &'a Shared,
    /// Of the play.
    pub play: &'a PlayState,
    /// The task.
    pub task: &'a Arc<Task>,
    /// Its variables and search path.
    pub context: Context<'a>,
}

/// What an action does when its turn comes.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Sets variables; `cacheable` also as facts.
    SetFacts {
        /// The variables.
        vars: Map,
        /// Keep them in the fact cache.
        cacheable: bool,
    },
    /// Adds variables of `include_vars`.
    IncludeVars(Map),
    /// Adds a host to the inventory, with groups and variables.
    AddHost {
        /// Name.
        name: String,
        /// Groups.
        groups: Vec<String>,
        /// Variables.
        vars: Map,
    },
    /// Adds this host to a group.
    GroupBy {
        /// The group.
        group: String,
        /// Its parents.
        parents: Vec<String>,
    },
    /// Custom statistics, shown at the end.
    Stats {
        /// The values.
        data: Map,
        /// By host rather than for the run.
        per_host: bool,
        /// Add to what is there.
        aggregate: bool,
    },
}

/// What an action returns.
#[derive(Debug, Default)]
pub struct ActionOutcome {
    /// Return values, `failed` and `changed` included.
    pub result: Map,
    /// What comes true.
    pub effects: Vec<Effect>,
    /// Where to point for a failure.
    pub diagnostic: Option<Diagnostic>,
}

impl ActionOutcome {
    /// A result without effects.
    pub fn result(result: Map) -> ActionOutcome {
        ActionOutcome { result, ..ActionOutcome::default() }
    }

    /// A failure, pointing at the task.
    pub fn failed(task: &Task, message: impl Into<String>) -> ActionOutcome {
        let message = message.into();
        // What a message says already is not said twice.
        let told = match message.strip_prefix("Task failed: ") {
            Some(rest) => rest.to_owned(),
            None => format!("Action failed: {message}"),
        };
        ActionOutcome {
            result: map_of([("failed", Value::Bool(true)), ("msg", Value::str(message.as_str()))]),
            effects: Vec::new(),
            diagnostic: Some(Diagnostic::error(told).at(Some(task.origin.clone()))),
        }
    }
}

type Action = fn(&ActionContext<'_>, Map) -> Result<ActionOutcome, PlanError>;

/// All actions, in alphabetic order.
const ACTIONS: &[(&str, Action)] = &[
    ("ansible.builtin.add_host", add_host::run),
    ("ansible.builtin.assert", assert::run),
    ("ansible.builtin.debug", debug::run),
    ("ansible.builtin.fail", fail::run),
    ("ansible.builtin.group_by", group_by::run),
    ("ansible.builtin.include_vars", include_vars::run),
    ("ansible.builtin.set_fact", set_fact::run),
    ("ansible.builtin.set_stats", set_stats::run),
    ("ansible.builtin.validate_argument_spec", validate_argument_spec::run),
];

/// The action of this full name.
pub fn find(name: &str) -> Option<Action> {
    ACTIONS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}

/// Actions that render their own arguments.
pub fn takes_raw_args(name: &str) -> bool {
    matches!(name, "ansible.builtin.assert" | "ansible.builtin.debug")
}

/// Actions that the engine does itself, because they wait, ask or reconnect.
pub fn is_engine_action(name: &str) -> bool {
    matches!(name, "ansible.builtin.pause" | "ansible.builtin.wait_for_connection" | "ansible.builtin.reboot")
}

/// Actions that act once for all hosts of the batch.
pub fn bypasses_host_loop(name: &str) -> bool {
    matches!(name, "ansible.builtin.add_host" | "ansible.builtin.pause")
}

/// Actions with a part that only the controller can do, so that `async` can't leave them to the host.
pub fn stays_attached(name: &str) -> bool {
    const OTHERS: &[&str] = &["assemble", "copy", "fetch", "raw", "script", "template", "unarchive"];
    find(name).is_some()
        || is_engine_action(name)
        || name.strip_prefix("ansible.builtin.").is_some_and(|name| OTHERS.contains(&name))
}

/// Every name in this folder, for documentation and coverage.
pub fn names() -> impl Iterator<Item = &'static str> {
    ACTIONS.iter().map(|(name, _)| *name)
}
