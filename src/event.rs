//! Everything that happens in a run, as values. The engine emits them; reports and the state store consume
//! them; nobody else prints.

use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::system::{Applied, Change};
use crate::value::{Origin, Value};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A playbook begins.
    PlaybookStarted {
        /// Its file.
        path: String,
    },
    /// A play (or one of its `serial` batches) begins.
    PlayStarted {
        /// Its name, or its host pattern.
        name: String,
        /// Its hosts, in order.
        hosts: Vec<Arc<str>>,
        /// Nothing will be changed.
        check: bool,
    },
    /// A play matched no host.
    NoHostsMatched,
    /// What `set_stats` collected; told before the recap.
    CustomStats {
        /// By host.
        of_hosts: Vec<(Arc<str>, crate::value::Map)>,
        /// Of the run.
        of_run: Option<crate::value::Map>,
    },
    /// A play ended early because no host is left.
    NoHostsRemaining,
    /// A task begins on its first host.
    TaskStarted {
        /// What it is.
        task: Arc<TaskInfo>,
    },
    /// A task ended on a host (for a loop: the whole loop).
    Result(TaskResult),
    /// One item of a loop ended on a host.
    ItemResult(TaskResult),
    /// `until` did not hold; the task is tried again.
    Retry {
        /// Host.
        host: Arc<str>,
        /// The task.
        task: Arc<TaskInfo>,
        /// Tries left.
        left: u64,
        /// The last result, with secrets removed.
        result: Value,
    },
    /// A detached task is being waited for.
    AsyncPoll {
        /// Host.
        host: Arc<str>,
        /// The job.
        job: String,
        /// It has begun.
        started: bool,
        /// It has ended.
        finished: bool,
    },
    /// A detached task ended.
    AsyncDone {
        /// Host.
        host: Arc<str>,
        /// The job.
        job: String,
        /// It failed.
        failed: bool,
    },
    /// A file or role was included for hosts.
    Included {
        /// The file's path, or the role's name.
        what: String,
        /// For which hosts.
        hosts: Vec<Arc<str>>,
        /// Label of the item, in a loop.
        item: Option<String>,
    },
    /// A handler was notified (shown from verbosity 1 on).
    Notified {
        /// Name of the handler.
        handler: String,
        /// Host.
        host: Arc<str>,
    },
    /// A notified handler has begun that has no result of its own (an include, a meta task): no longer owed if
    /// nothing of it fails.
    HandlerEntered {
        /// Name of the handler.
        handler: String,
        /// Host.
        host: Arc<str>,
    },
    /// A handler that an earlier run left is no longer in its playbook: not owed any more.
    HandlerGone {
        /// Host.
        host: Arc<str>,
        /// Absolute path of the playbook.
        playbook: String,
        /// Name of the play that had it.
        play: String,
        /// Name of the handler.
        handler: String,
    },
    /// A host's connection was made (shown from verbosity 3 on).
    Connected {
        /// Host.
        host: Arc<str>,
        /// Milliseconds for connection, authentication and delivery of the runner.
        millis: u64,
        /// How many of them until we were let in.
        login: u64,
        /// Bytes of the runner that had to be pushed; 0 if it was there.
        pushed: u64,
    },
    /// A host has done its part of a task, or of one item of its loop: for profiles.
    Ran {
        /// Host.
        host: Arc<str>,
        /// The task.
        task: Arc<TaskInfo>,
        /// Microseconds that it took there.
        micros: u64,
    },
    /// A host has been silent for long in a task; the others go on.
    Stuck {
        /// Host.
        host: Arc<str>,
        /// Title of the task.
        task: String,
        /// Seconds since the task began there.
        seconds: u64,
    },
    /// Somebody else changes the host; this run waits.
    Waiting {
        /// Host.
        host: Arc<str>,
        /// Who holds the lock.
        holder: String,
    },
    /// Something that the user should know.
    Diagnostic(Diagnostic),
    /// How far the run is (sent at most some times a second; for live display).
    Progress(Progress),
    /// What the runner reported for a host and task: for the state store.
    Recorded(Arc<Recorded>),
    /// The run was interrupted; what was left undone.
    Interrupted {
        /// Hosts that had not finished, each with the title of the task it was at.
        left: Vec<(Arc<str>, String)>,
    },
    /// The run is over.
    Recap {
        /// By host, in order of name.
        stats: Vec<(Arc<str>, HostStats)>,
    },
}

/// What a task is, for whoever tells.
#[derive(Clone, Debug)]
pub struct TaskInfo {
    /// Unique within the run.
    pub id: u64,
    /// `role : name`, as banners show it.
    pub title: String,
    /// The name without its role, rendered; the action's name if it has none.
    pub name: String,
    /// Name of the role, if it is in one.
    pub role: Option<String>,
    /// Full name of the action or module.
    pub action: String,
    /// Where it was written.
    pub origin: Arc<Origin>,
    /// It is a handler.
    pub handler: bool,
    /// It only simulates.
    pub check: bool,
    /// The task's rendered arguments may be shown (no `no_log`).
    pub args: Option<Value>,
}

/// What a runner reported of the resources that a task worked on.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Host.
    pub host: Arc<str>,
    /// The task.
    pub task: Arc<TaskInfo>,
    /// What it changed.
    pub changes: Vec<Change>,
    /// What it found or left right.
    pub applied: Vec<Applied>,
    /// How the host was reached, and as whom.
    pub login: Arc<Login>,
    /// The task hides what it does (`no_log`).
    pub hidden: bool,
}

/// How a host was reached and as whom, so that an audit without a playbook can look with the same eyes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Login {
    /// Kind of connection: `ssh`, `local`, …
    pub connection: String,
    /// User who logged in, if one was named.
    pub user: Option<String>,
    /// Method by which another user was become.
    pub become_method: Option<String>,
    /// That user.
    pub become_user: Option<String>,
}

/// What became of a task on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done, nothing changed.
    Ok,
    /// Done, something changed (or would).
    Changed,
    /// Not done, for a reason.
    Skipped,
    /// Failed.
    Failed,
    /// The host could not be reached.
    Unreachable,
}

/// The outcome of a task, or of one item of its loop, on a host. Secrets are already removed.
#[derive(Clone, Debug)]
pub struct TaskResult {
    /// Host.
    pub host: Arc<str>,
    /// The task.
    pub task: Arc<TaskInfo>,
    /// The host that it was delegated to, as shown: `name`, or `name(address)`.
    pub delegate: Option<String>,
    /// What became of it.
    pub verdict: Verdict,
    /// The failure or unreachability was ignored.
    pub ignored: bool,
    /// The failure was taken by a `rescue`.
    pub rescued: bool,
    /// It is the end of a loop whose items were told one by one.
    pub looped: bool,
    /// Return values.
    pub result: Value,
    /// Label of the item (for [`Event::ItemResult`]).
    pub label: Option<String>,
    /// The result is shown whatever the verbosity (`debug`, `assert`).
    pub verbose_always: bool,
    /// Where to point for a failure of the controller's own making (undefined variable, …).
    pub diagnostic: Option<Diagnostic>,
    /// Milliseconds that it took.
    pub millis: u64,
}

/// Counts of a host's tasks, as the recap shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostStats {
    /// Ended well, changed or not.
    pub ok: u64,
    /// Changed something (or would).
    pub changed: u64,
    /// Could not be reached.
    pub unreachable: u64,
    /// Failed.
    pub failed: u64,
    /// Skipped.
    pub skipped: u64,
    /// Failures that a `rescue` took.
    pub rescued: u64,
    /// Failures that were ignored.
    pub ignored: u64,
}

/// How far the run is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Title of the task at hand.
    pub task: String,
    /// Hosts that are done with it.
    pub done: usize,
    /// Hosts that take part in it.
    pub hosts: usize,
    /// Hosts that are being waited for (some of them).
    pub waiting: Vec<Arc<str>>,
    /// Bytes of content sent so far, and to be sent.
    pub transfer: Option<(u64, u64)>,
}

/// Receives events. Reports and the state store implement it.
pub trait Listener: Send {
    /// Something happened.
    fn event(&mut self, event: &Event);
}
