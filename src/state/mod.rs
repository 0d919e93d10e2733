//! The state store: what was run, what it left on each host, what is owed, and what audits found.
//!
//! [`Store`] is the whole interface. It keeps digests and attributes, never a file's content and never a
//! secret: what a task hides is stored as a salted digest that can be compared and not read.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::{Settings, Surroundings};
use crate::value::Value;

pub mod backend;
pub mod commit;
mod postgres;
mod process;
pub mod recorder;
pub mod resource;
mod schema;
pub mod seal;
mod sqlite;
pub mod store;

pub use crate::event::Login;
pub use process::this_process;
pub use recorder::Recorder;
pub use seal::Stored;
pub use store::Store;

/// Why the store can't do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file can't be made or opened.
    #[error("can't open the state store {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is no database any more.
    #[error("the state store {} is damaged: {message}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the database said.
        message: String,
    },
    /// There is no room.
    #[error("the disk that holds the state store {} is full", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// A later version of the program has written it.
    #[error(
        "the state store {name} has version {found}, and this program knows {known}: use the newer setpoint, or name another store with SETPOINT_STATE"
    )]
    Newer {
        /// The store.
        name: String,
        /// Its version.
        found: i64,
        /// The latest that this program knows.
        known: i64,
    },
    /// Anything else that the database said.
    #[error("the state store {name}: {message}")]
    Database {
        /// The store.
        name: String,
        /// What was said.
        message: String,
    },
    /// There is no such run or audit, or more than one.
    #[error("{0}")]
    NotFound(String),
    /// The settings name a store that this program can't use.
    #[error("{0}")]
    Place(String),
}

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// SQLite, in a file.
    File(PathBuf),
    /// PostgreSQL, by URL.
    Url(String),
    /// Nothing is kept: the settings say `none`.
    Nowhere,
}

impl Place {
    /// The place that the settings name: `SETPOINT_STATE`, `[state] path` or `url` of `setpoint.toml` (a relative
    /// path is taken from that file), or else `$XDG_STATE_HOME/setpoint/state.db`.
    ///
    /// # Errors
    /// The URL is of no kind that is known, or there is no home directory.
    pub fn of(settings: &Settings, around: &Surroundings) -> Result<Place, StoreError> {
        let given = settings.setting("SETPOINT_STATE");
        let base = match given.map(|setting| &setting.given) {
            Some(crate::config::Given::File(file, _)) => file.parent().unwrap_or(&around.cwd),
            _ => &around.cwd,
        };
        match settings.state.as_deref() {
            None | Some("") => default_place(around),
            Some("none" | "off") => Ok(Place::Nowhere),
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Ok(Place::Url(url.to_string()))
            }
            Some(other) => match other.split_once("://") {
                Some(("sqlite" | "file", path)) => Ok(Place::File(base.join(path))),
                Some((scheme, _)) => Err(Place::unknown(scheme)),
                None => Ok(Place::File(expand(other, base, around))),
            },
        }
    }

    fn unknown(scheme: &str) -> StoreError {
        StoreError::Place(format!(
            "a state store at {scheme}:// is not supported; give a path, or a postgres:// URL"
        ))
    }
}

fn expand(path: &str, base: &Path, around: &Surroundings) -> PathBuf {
    match (path.strip_prefix("~/"), &around.home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => base.join(path),
    }
}

fn default_place(around: &Surroundings) -> Result<Place, StoreError> {
    let state = match (around.env.get("XDG_STATE_HOME").filter(|dir| dir.starts_with('/')), &around.home) {
        (Some(state), _) => PathBuf::from(state),
        (None, Some(home)) => home.join(".local/state"),
        (None, None) => {
            return Err(StoreError::Place(
                "there is no home directory for the state store; name a file with SETPOINT_STATE".into(),
            ));
        }
    };
    Ok(Place::File(state.join("setpoint/state.db")))
}

/// Milliseconds since the epoch.
pub fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// An enumeration that is stored, and shown, by name.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$case_doc:meta])* $case:ident = $name:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $($(#[$case_doc])* $case),+ }

        impl $type {
            /// All of them.
            pub const ALL: &[$type] = &[$($type::$case),+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $($type::$case => $name),+ }
            }

            /// The one with this name.
            pub fn from_name(name: &str) -> Option<$type> {
                match name { $($name => Some($type::$case),)+ _ => None }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

named! {
    /// What kind of run it was.
    RunKind {
        /// Playbooks.
        Run = "run",
        /// Playbooks, as a dry run.
        Check = "check",
        /// One task without a playbook.
        Exec = "exec",
        /// Drift was repaired.
        Fix = "fix",
        /// An earlier run was undone.
        Rollback = "rollback",
    }
}

named! {
    /// How a run or an audit ended.
    Status {
        /// It goes on.
        Running = "running",
        /// All went well.
        Ok = "ok",
        /// A host failed.
        Failed = "failed",
        /// A host could not be reached.
        Unreachable = "unreachable",
        /// It was stopped, or its process is gone.
        Interrupted = "interrupted",
        /// It ended on an error of its own before its time.
        Error = "error",
    }
}

named! {
    /// What drift is, for one resource.
    Verdict {
        /// The host is as it was left, and the playbook wants nothing else.
        InSync = "in_sync",
        /// Somebody changed the host.
        Drifted = "drifted",
        /// The playbook has moved on; that has not been rolled out.
        Pending = "pending",
        /// Both have moved, each its own way.
        Conflict = "conflict",
        /// The host already is what the playbook now wants, though no run has made it so.
        Adopted = "adopted",
        /// It was there and is gone.
        Missing = "missing",
        /// It was applied earlier, and the playbook does not have it any more.
        Orphan = "orphan",
        /// The playbook wants it, and no run has applied it.
        NeverApplied = "never_applied",
        /// The host could not be reached.
        Unreachable = "unreachable",
        /// What is there, or what is wanted, can't be told.
        Uncertain = "uncertain",
    }
}

/// A run to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRun {
    /// Its name, under which hosts keep prior states too.
    pub id: String,
    /// What kind.
    pub kind: RunKind,
    /// The command line, without secrets.
    pub command: String,
    /// Absolute paths of the playbooks.
    pub playbooks: Vec<String>,
    /// Limit, tags and the like, as a mapping.
    pub options: Value,
    /// Who: `ann@desk`.
    pub operator: String,
    /// Working directory, to which files of tasks are relative.
    pub directory: String,
    /// Commit of the repository that holds the first playbook; a recorder finds it out by itself.
    pub commit: Option<String>,
    /// There was something in it that was not committed.
    pub dirty: bool,
    /// The run that this one undoes, or the audit that it fixes.
    pub target: Option<String>,
}

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// What it was to do.
    pub new: NewRun,
    /// How it ended.
    pub status: Status,
    /// When it began: milliseconds since the epoch.
    pub started: i64,
    /// When it ended.
    pub ended: Option<i64>,
    /// Name of the machine that it was started on.
    pub controller: String,
    /// How many hosts took part.
    pub hosts: u64,
    /// How many changes it made.
    pub changes: u64,
}

/// How a run ended on one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunHost {
    /// The host.
    pub host: String,
    /// Counts as in the recap.
    pub stats: Stats,
}

/// Counts of a host's tasks, as the recap has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the recap")]
pub struct Stats {
    pub ok: u64,
    pub changed: u64,
    pub unreachable: u64,
    pub failed: u64,
    pub skipped: u64,
    pub rescued: u64,
    pub ignored: u64,
}

/// A task, as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TaskRef {
    /// The file, relative to the run's directory where it is below that.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// `role : name`, as banners show it.
    pub title: String,
    /// Name of the role, if it is in one.
    pub role: Option<String>,
    /// Full name of the action or module.
    pub action: String,
    /// It is a handler.
    pub handler: bool,
}

/// A task with its number, shared by all that name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NotedTask(Arc<(TaskRef, i64)>);

impl NotedTask {
    /// A task of which the store says what number it has.
    fn with_number(task: TaskRef, number: i64) -> NotedTask {
        NotedTask(Arc::new((task, number)))
    }

    /// Its number: the same for the same task in every store.
    pub fn number(&self) -> i64 {
        self.0.1
    }
}

impl std::ops::Deref for NotedTask {
    type Target = TaskRef;

    fn deref(&self) -> &TaskRef {
        &self.0.0
    }
}

impl From<TaskRef> for NotedTask {
    fn from(task: TaskRef) -> NotedTask {
        let text = format!("{}\0{}\0{}\0{}", task.file, task.line, task.title, task.action);
        let digest = crate::system::digest::of_bytes(crate::system::Algorithm::Sha256, text.as_bytes());
        let number = i64::from_str_radix(&digest[..15], 16).unwrap_or(0);
        NotedTask(Arc::new((task, number)))
    }
}

impl TaskRef {
    /// `file:line`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

/// The result of a task on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskOutcome {
    /// Position within the run.
    pub seq: u64,
    /// The host.
    pub host: String,
    /// The task.
    pub task: NotedTask,
    /// `ok`, `changed`, `skipped`, `failed`, `unreachable`.
    pub verdict: String,
    /// A failure that was ignored.
    pub ignored: bool,
    /// Milliseconds that it took.
    pub millis: u64,
}

/// A result of a task on its way into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewResult {
    /// Position within the run.
    pub seq: u64,
    /// Number of the task, which must have been noted.
    pub task: i64,
    /// As in [`TaskOutcome`].
    pub verdict: &'static str,
    /// A failure that was ignored.
    pub ignored: bool,
    /// Milliseconds that it took.
    pub millis: u64,
}

/// A resource as a run left it: the baseline of drift.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The host.
    pub host: Arc<str>,
    /// Kind of resource: `file`, `package`, `service`, …
    pub kind: Arc<str>,
    /// Which one.
    pub id: String,
    /// Its state, as in [`crate::system::Applied`]; absent if it is to be absent.
    pub state: Stored,
    /// The task hides what it does: values are sealed, see [`seal`].
    pub sealed: bool,
    /// The task that owns it: the last that brought it into this state.
    pub task: NotedTask,
    /// Other tasks of the same run that work on it, in order.
    pub also: Vec<NotedTask>,
    /// Absolute path of the playbook.
    pub playbook: Arc<str>,
    /// Name of the play.
    pub play: Arc<str>,
    /// How the host was reached.
    pub login: Arc<Login>,
    /// The run since which all of this is so: the last one that had something new to say of it.
    pub run: Arc<str>,
    /// When that was: milliseconds since the epoch.
    pub recorded: i64,
    /// The last run that changed it, if one did.
    pub changed_run: Option<Arc<str>>,
    /// Where the state is from: `run`, or `accepted by …`.
    pub origin: Arc<str>,
}

impl Applied {
    /// What stands for all that is said of it, but for when and by which run: the same number, and there is
    /// nothing new.
    pub fn digest(&self) -> i64 {
        let context = context(&self.playbook, &self.play, &self.origin, &self.login);
        digest(self.state.text(), self.sealed, self.task.number(), &self.also, context)
    }
}

/// The part of [`Applied::digest`] that resources of a play share.
fn context(playbook: &str, play: &str, origin: &str, login: &Login) -> u64 {
    let mut hasher = DefaultHasher::new();
    (playbook, play, origin, login).hash(&mut hasher);
    hasher.finish()
}

fn digest(state: &str, sealed: bool, task: i64, also: &[NotedTask], context: u64) -> i64 {
    let mut hasher = DefaultHasher::new();
    (state, sealed, task, context).hash(&mut hasher);
    also.iter().map(NotedTask::number).for_each(|number| number.hash(&mut hasher));
    hasher.finish().cast_signed()
}

/// A change that a run made on a host, which keeps the prior state under the run's name.
#[derive(Clone, Debug, PartialEq)]
pub struct Prior {
    /// The run.
    pub run: String,
    /// Position within the run.
    pub seq: u64,
    /// The host.
    pub host: String,
    /// The task that made the change.
    pub task: NotedTask,
    /// Kind of resource.
    pub kind: String,
    /// Which one.
    pub id: String,
    /// State before; `Null` if it was absent or is hidden.
    pub before: Value,
    /// State after.
    pub after: Value,
    /// The states are hidden: both are `Null`.
    pub sealed: bool,
}

/// A handler that was notified on a host and has not run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owed {
    /// The host.
    pub host: String,
    /// Absolute path of the playbook.
    pub playbook: String,
    /// Name of the play.
    pub play: String,
    /// Name of the handler.
    pub handler: String,
    /// The run in which it was notified.
    pub run: String,
    /// When: milliseconds since the epoch.
    pub since: i64,
}

/// An audit to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAudit {
    /// Its name.
    pub id: String,
    /// Absolute paths of the playbooks it compared with; none: the store alone.
    pub playbooks: Vec<String>,
    /// Limit and the like, as a mapping.
    pub options: Value,
    /// Who.
    pub operator: String,
    /// Commit of the repository that holds the first playbook.
    pub commit: Option<String>,
}

/// An audit.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// What it was to do.
    pub new: NewAudit,
    /// How it ended.
    pub status: Status,
    /// When it began: milliseconds since the epoch.
    pub started: i64,
    /// When it ended.
    pub ended: Option<i64>,
    /// Name of the machine that it was started on.
    pub controller: String,
    /// How many resources were compared.
    pub resources: u64,
    /// The exit code: 0 in sync, 2 drift, 3 pending only, 4 unreachable, 1 error.
    pub exit: Option<i64>,
    /// How many findings, by verdict, acknowledged ones left out.
    pub counts: Vec<(Verdict, u64)>,
}

/// What an audit says of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditHost {
    /// The host.
    pub host: String,
    /// It was reached.
    pub reached: bool,
    /// Why not, or what went wrong.
    pub problem: Option<String>,
    /// How many resources were compared.
    pub resources: u64,
    /// How many of them are in sync.
    pub in_sync: u64,
}

/// A resource that is not in sync.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The host.
    pub host: String,
    /// Kind of resource.
    pub kind: String,
    /// Which one.
    pub id: String,
    /// What it is.
    pub verdict: Verdict,
    /// What a run left; `None` if nothing was recorded, `Null` if it is to be absent.
    pub applied: Option<Value>,
    /// What the host has; `None` if it could not be told, `Null` if nothing.
    pub actual: Option<Value>,
    /// What the playbook wants; `None` without a playbook or if it does not say.
    pub desired: Option<Value>,
    /// The values are sealed.
    pub sealed: bool,
    /// The task that owns it.
    pub task: Option<NotedTask>,
    /// Who and when, as far as the host tells: short sentences.
    pub hints: Vec<String>,
    /// What is different, as one digest: the same for the same difference on every host.
    pub fingerprint: String,
    /// The reason for which it was silenced, if it was.
    pub acked: Option<String>,
}

/// A finding that is silenced until its value changes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The host.
    pub host: String,
    /// Kind of resource.
    pub kind: String,
    /// Which one.
    pub id: String,
    /// Of the finding.
    pub fingerprint: String,
    /// Why.
    pub reason: String,
    /// Who answers for it.
    pub owner: String,
    /// When it was given: milliseconds since the epoch.
    pub created: i64,
    /// When it ends.
    pub expires: Option<i64>,
}

#[cfg(test)]
mod tests;
