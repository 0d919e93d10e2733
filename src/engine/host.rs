//! One host in a play: where it stands, what it knows, what was planned and verified ahead of its turn.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::engine::cursor::{Cursor, Position};
use crate::engine::plan::{Planned, Step};
use crate::engine::shared::Included;
use crate::playbook::Task;
use crate::protocol::Report;
use crate::value::Value;
use crate::vars::HostVars;

/// Why a host takes no further part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HostState {
    /// It takes part.
    #[default]
    Active,
    /// It has reached the end of the play, or `end_host`.
    Ended,
    /// A task failed.
    Failed,
    /// It could not be reached.
    Unreachable,
}

/// A task that was planned before its turn.
#[derive(Debug)]
pub struct Ahead {
    /// Grows along the queue; names the entry in batches that are out.
    pub serial: u64,
    /// The task.
    pub task: Arc<Task>,
    /// Its place.
    pub position: Position,
    /// Where the host stood before it; planning restarts from here if what follows turns out void.
    pub before: Cursor,
    /// What it is.
    pub kind: AheadKind,
    /// What later planning may count on: variables set, or [`Value::Pending`] for what is still out.
    pub sets: Vec<(Arc<str>, Value)>,
    /// Variables of an `include_vars`.
    pub includes: Vec<crate::value::Map>,
    /// It returns facts, which are out.
    pub facts: bool,
}

/// What a planned entry is.
#[derive(Debug)]
pub enum AheadKind {
    /// An ordinary task.
    Task(Box<TaskAhead>),
    /// An include, resolved (`None`: skipped).
    Include(Vec<Arc<Included>>),
    /// A point where notified handlers run.
    Flush,
}

/// An ordinary task, planned.
#[derive(Debug)]
pub struct TaskAhead {
    /// The decision.
    pub planned: Planned,
    /// For each item, what the host reported, and whether that is final.
    pub reports: Vec<Option<(Report, bool)>>,
    /// For each item, the batch that carries it.
    pub batches: Vec<Option<u64>>,
}

impl TaskAhead {
    /// Planned, nothing sent.
    pub fn new(planned: Planned) -> TaskAhead {
        let count = planned.items.len();
        TaskAhead { planned, reports: vec![None; count], batches: vec![None; count] }
    }

    /// Nothing is left to be asked of a machine.
    pub fn is_settled(&self) -> bool {
        self.planned.items.iter().zip(&self.reports).all(|(item, report)| match &item.step {
            Step::Remote(_) => report.as_ref().is_some_and(|(_, last)| *last),
            _ => true,
        })
    }

    /// Some of it is on its way.
    pub fn in_flight(&self) -> bool {
        self.batches
            .iter()
            .zip(&self.reports)
            .any(|(batch, report)| batch.is_some() && report.as_ref().is_none_or(|(_, last)| !last))
    }
}

/// One host in a play.
#[derive(Debug)]
pub struct Host {
    /// Name in the inventory.
    pub name: Arc<str>,
    /// Variables as of now.
    pub vars: Arc<HostVars>,
    /// Where it stands.
    pub cursor: Cursor,
    /// Whether it takes part.
    pub state: HostState,
    /// What was planned after where it stands.
    pub queue: VecDeque<Ahead>,
    /// Where planning ahead has come to; `None` to start from where the host stands.
    pub walker: Option<Cursor>,
    /// Planning ahead can't go on until something is done.
    pub blocked: bool,
    /// It has failed and only runs its notified handlers.
    pub doomed: bool,
    /// It was unreachable and is to be tried again: its turn comes when the others have ended the play.
    pub late: bool,
    /// How many tasks may be sent ahead.
    pub window: usize,
    /// When the task at hand was sent, for naming hosts that are stuck.
    pub since: Option<Instant>,
    /// Seconds after which it is named next.
    pub named_at: u64,
    /// In a dry run, variables that only a real run gives it.
    pub unknown: BTreeSet<String>,
    /// In a dry run, packages would have been installed, and programs with them.
    pub installs: bool,
}

impl Host {
    /// A host at the start of a play.
    pub fn new(vars: Arc<HostVars>, cursor: Cursor, window: usize) -> Host {
        Host {
            name: vars.name.clone(),
            vars,
            cursor,
            state: HostState::Active,
            queue: VecDeque::new(),
            walker: None,
            blocked: false,
            doomed: false,
            late: false,
            window,
            since: None,
            named_at: 30,
            unknown: BTreeSet::new(),
            installs: false,
        }
    }

    /// Whether it takes part.
    pub fn is_active(&self) -> bool {
        self.state == HostState::Active
    }

    /// Forgets all that was planned ahead.
    pub fn forget(&mut self) {
        self.queue.clear();
        self.walker = None;
        self.blocked = false;
    }

    /// Forgets what was planned, except for what has been sent: something happened to other hosts that
    /// variables may show.
    pub fn forget_plans(&mut self) {
        let sent = |entry: &Ahead| match &entry.kind {
            AheadKind::Task(task) => {
                task.batches.iter().any(Option::is_some) || task.reports.iter().any(Option::is_some)
            }
            _ => false,
        };
        let keep = self.queue.iter().rposition(sent).map_or(0, |last| last + 1);
        self.forget_from(keep);
        if keep == 0 {
            self.walker = None;
            self.blocked = false;
        }
    }

    /// As [`Host::forget_plans`], from within the task at hand, which stays as it was planned.
    pub fn forget_later_plans(&mut self) {
        let Some(at_hand) = self.queue.pop_front() else { return self.forget_plans() };
        let after = self.queue.front().map(|entry| entry.before.clone()).or_else(|| self.walker.clone());
        self.forget_plans();
        if self.queue.is_empty() {
            self.walker = after;
        }
        self.queue.push_front(at_hand);
    }

    /// Forgets what was planned from entry `index` on.
    pub fn forget_from(&mut self, index: usize) {
        if let Some(entry) = self.queue.get(index) {
            self.walker = if index == 0 { None } else { Some(entry.before.clone()) };
            self.queue.truncate(index);
            self.blocked = false;
        }
    }

    /// Forgets what the host reported ahead of its turn for entries after `index`: it has changed since.
    pub fn void_after(&mut self, index: usize) {
        for entry in self.queue.iter_mut().skip(index + 1) {
            if let AheadKind::Task(task) = &mut entry.kind {
                task.reports.fill(None);
                task.batches.fill(None);
            }
        }
    }

    /// Its variables as planning ahead sees them: with what queued tasks set, or will have set.
    pub fn vars_ahead(&self) -> Arc<HostVars> {
        let touched = self
            .queue
            .iter()
            .any(|entry| !entry.sets.is_empty() || !entry.includes.is_empty() || entry.facts);
        if !touched {
            return self.vars.clone();
        }
        let mut vars = self.vars.as_ref().clone();
        for entry in &self.queue {
            for (name, value) in &entry.sets {
                vars.set(name, value.clone());
            }
            for map in &entry.includes {
                let included = Arc::make_mut(&mut vars.included);
                included.extend(map.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
            vars.facts_pending |= entry.facts;
        }
        Arc::new(vars)
    }
}
