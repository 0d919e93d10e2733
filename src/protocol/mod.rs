//! What controller and runner say to each other: frames of MessagePack over the standard streams.
//!
//! A frame is a length (u32, little endian, its highest bit says that the body is compressed), and a
//! [`ToRunner`] or [`ToController`] in MessagePack. Every length is bounded, so that neither side can make
//! the other allocate without end.

use serde::{Deserialize, Serialize};

use crate::system::{Applied, BlobRef, Change};
use crate::value::Value;

pub mod frame;

/// Version of the protocol; both sides must speak the same, which the runner's digest already ensures.
pub const VERSION: u32 = 1;

/// Largest frame body in bytes. Large content travels in chunks.
pub const MAX_FRAME: usize = 64 << 20;

/// Largest chunk of content in bytes, before compression. Small contents share one.
pub const CHUNK: usize = 256 << 10;

/// A task that no module does: it confirms the run, whose name is the argument `run`.
pub const CONFIRM: &str = "setpoint.confirm";

/// From the controller to the runner.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToRunner {
    /// Always first.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Who runs this, for the lock that changing runs take; empty to take none.
        operator: String,
        /// Name of the run: what it changes is kept under it for a rollback, and its runners share the lock.
        run: String,
        /// Every batch of this session is a dry run: changes are overlaid and later batches see them.
        check: bool,
        /// What the run changes is kept, so that it can be taken back.
        keep: bool,
        /// What the run changes is taken back by the host itself unless a new connection confirms it within
        /// this many seconds of the last sign of life.
        confirm: Option<u64>,
    },
    /// Tasks to do in order.
    Batch(Batch),
    /// Content that the runner asked for: pieces of several small ones, or one piece of a large one.
    Content(Vec<Piece>),
    /// Content can't be had (the file vanished on the controller).
    BlobLost {
        /// Which content.
        sha256: String,
        /// Why.
        reason: String,
    },
    /// The run goes on.
    Alive,
    /// Finish the task at hand and drop the rest of the current batch.
    Cancel,
}

/// A piece of content on its way to a host. Pieces of one content come in order, and nothing between them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Piece {
    /// Which content.
    pub sha256: String,
    /// The next bytes.
    #[serde(with = "frame::bytes")]
    pub bytes: Vec<u8>,
    /// There is no more.
    pub last: bool,
}

/// Content that a host lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// Which content.
    pub blob: BlobRef,
    /// How much of its beginning is there, in bytes: its transfer was cut off earlier.
    pub from: u64,
}

/// How a batch is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Make the changes, in order; stop after the first failure.
    Apply,
    /// Find out, without changing anything, which tasks are already true; stop at the first that would change
    /// something or fails. What was recorded is forgotten when the batch ends.
    Verify,
    /// A dry run: record all changes, go on after them, remember them for the batches that follow.
    Check,
}

/// Tasks to do in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Batch {
    /// Number of the batch within its session.
    pub id: u64,
    /// What the runner does with tasks that are not already true.
    pub mode: Mode,
    /// The tasks.
    pub tasks: Vec<Call>,
}

/// One task for one host, rendered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Call {
    /// Number of the task within its batch.
    pub id: u32,
    /// Full name of the module.
    pub module: String,
    /// Its arguments, not yet checked.
    pub args: Value,
    /// Variables for the programs that it runs.
    pub environment: Vec<(String, String)>,
    /// Return texts for a diff with each change.
    pub diff: bool,
    /// Simulate this one task although the batch applies (`check_mode: true`).
    pub check: bool,
    /// Go on with the batch if this task fails.
    pub go_on: bool,
    /// Calls with the same number are the items of one task: after a failure the rest of them still run,
    /// and then the batch stops.
    pub group: u32,
    /// Stop the batch after this task whatever its outcome: the controller has to judge it first.
    pub pause: bool,
    /// The task is failed after this many seconds.
    pub timeout: Option<u64>,
    /// Run detached; see [`Async`].
    pub detach: Option<Async>,
}

/// A task that runs on its own, after its batch has gone on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Async {
    /// Name of the job.
    pub job: String,
    /// It is ended after this many seconds.
    pub limit: u64,
}

/// From the runner to the controller.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToController {
    /// Always first; sent without being asked.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Process id on the host.
        pid: u32,
    },
    /// A task has begun (sent only if it takes longer than a moment).
    Started {
        /// Batch.
        batch: u64,
        /// Task within the batch.
        task: u32,
    },
    /// A task has ended.
    Ended {
        /// Batch.
        batch: u64,
        /// Its outcome.
        report: Box<Report>,
    },
    /// The batch has ended; tasks without a report were not begun.
    BatchEnded {
        /// Batch.
        batch: u64,
    },
    /// Content is needed, in this order.
    NeedBlobs(Vec<Need>),
    /// What was asked for and has not been sent yet is no longer needed: each is to be answered with
    /// [`ToRunner::BlobLost`].
    Enough,
    /// A chunk of a file on its way to the controller (`fetch`).
    File {
        /// Batch.
        batch: u64,
        /// Task within the batch.
        task: u32,
        /// Name under which the module sends it.
        name: String,
        /// The next bytes, no more than [`CHUNK`].
        #[serde(with = "frame::bytes")]
        bytes: Vec<u8>,
        /// There is no more.
        last: bool,
    },
    /// Somebody else changes this host at the moment; this run waits.
    Waiting {
        /// Who holds the lock.
        holder: String,
    },
    /// The runner can't go on.
    Fatal {
        /// Why.
        message: String,
    },
}

/// How a task ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Number of the task within its batch.
    pub task: u32,
    /// What became of it.
    pub status: Status,
    /// Return values, `changed`, `failed`, `skipped`, `msg`, `diff`, `warnings`, `ansible_facts` included.
    pub result: Value,
    /// What it changed, or would change.
    pub changes: Vec<Change>,
    /// What it found right or left right.
    pub applied: Vec<Applied>,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// What became of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Nothing had to be done.
    #[default]
    Ok,
    /// Something was changed.
    Changed,
    /// Something would be changed; nothing was (verify, check).
    WouldChange,
    /// It failed.
    Failed,
    /// There was a reason not to do it.
    Skipped,
}
