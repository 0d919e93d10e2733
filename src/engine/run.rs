//! Runs one play on one batch of hosts: verify ahead, act in order.
//!
//! Hosts that move together form a [`Group`]: all of them under `linear`, each for itself under `free`. A
//! group works on one [`Step`] at a time, a task and the hosts whose turn it is. What a step needs from a
//! machine is sent as a batch, and with it whatever later tasks can already be verified; what comes back is
//! final if it was a no-op (or was applied), and is asked for again when its turn comes if it was not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::diagnostic::Diagnostic;
use crate::engine::actions::{self, Effect};
use crate::engine::ahead::{self, Limits};
use crate::engine::connect::Machine;
use crate::engine::cursor::{Fate, Position};
use crate::engine::debugger;
use crate::engine::doubt;
use crate::engine::host::{AheadKind, Host, HostState, TaskAhead};
use crate::engine::include;
use crate::engine::options::Only;
use crate::engine::plan::{Flags, PlannedItem, Planner, Step as Work};
use crate::engine::reconnect;
use crate::engine::settle::{self, ItemOutcome};
use crate::engine::shared::{Included, PlayState};
use crate::engine::{Engine, Stop};
use crate::event::{Event, Progress, Recorded, TaskInfo, TaskResult, Verdict};
use crate::playbook::{Item, Task};
use crate::protocol::{Batch, Mode, Report, Status};
use crate::session::SessionEvent;
use crate::transport::{Become, Class, Kind};
use crate::value::{Map, Value, map_of};

/// Most tasks of a host that are planned ahead at once; bounds memory on long plays.
const WINDOW_MAX: usize = 512;

/// How a play is run on its hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// All hosts finish a task before any starts the next.
    Linear,
    /// Each host for itself.
    Free,
    /// Each host for itself, only so many at once.
    HostPinned(usize),
}

/// Hosts that move together.
#[derive(Default)]
struct Group {
    hosts: Vec<usize>,
    step: Option<Step>,
    done: bool,
}

/// A task and the hosts whose turn it is.
struct Step {
    task: Arc<Task>,
    info: Arc<TaskInfo>,
    jobs: Vec<Job>,
    /// The task runs on the first of these hosts, for all of them.
    once: Vec<usize>,
    throttle: usize,
}

/// One host's part of a step.
struct Job {
    host: usize,
    /// The next item to be finished.
    next: usize,
    outcomes: Vec<ItemOutcome>,
    attempt: u64,
    /// Not before this time.
    not_before: Option<Instant>,
    done: bool,
    started: Instant,
    /// What an action of the engine's remembers between two looks.
    memory: Map,
    /// A machine that it waits for.
    waiting: Option<Waiting>,
    /// An `async` job that is waited for: its name, and when it is told of next.
    polled: Option<(String, Instant)>,
    /// What the debugger made of the task, once it did.
    task: Option<Arc<Task>>,
}

/// A machine that a job waits for.
struct Waiting {
    state: reconnect::Waiting,
    since: Instant,
    /// The command that is out: its number, and when it is given up.
    asked: Option<(u64, Instant)>,
}

/// What a batch carries: entries by serial number, and which of their items.
struct Sent {
    host: usize,
    calls: Vec<(u64, usize)>,
    /// Whatever comes back is final: it was applied, or it is a dry run.
    last: bool,
}

/// One play on one batch of hosts.
pub struct PlayRun<'e> {
    engine: &'e mut Engine,
    play: Arc<PlayState>,
    hosts: Vec<Host>,
    by_name: HashMap<Arc<str>, usize>,
    groups: Vec<Group>,
    strategy: Strategy,
    sent: HashMap<u64, Sent>,
    /// Answers to commands of the engine's own.
    answers: HashMap<u64, reconnect::Answer>,
    /// Which hosts of the play are at a place; several at one can't be verified ahead of each other.
    places: HashMap<String, HashSet<usize>>,
    handler_names: Vec<String>,
    max_fail: Option<f64>,
    last_told: Option<u64>,
    /// Layers of variables whose names have been looked at.
    known_layers: HashSet<(usize, usize)>,
    pub(super) end_play: bool,
    pub(super) end_batch: bool,
    /// Groups that are about to end the play for all.
    held: Vec<usize>,
}

/// Whether a `meta` ends the play, or its batch, for every host.
fn ends_all(name: &str) -> bool {
    matches!(name, "end_play" | "end_batch")
}

/// What the play left.
pub struct PlayEnd {
    /// Hosts that failed.
    pub failed: Vec<Arc<str>>,
    /// Hosts that could not be reached.
    pub unreachable: Vec<Arc<str>>,
    /// `meta: end_play`.
    pub end_play: bool,
}

impl<'e> PlayRun<'e> {
    /// Prepares a play on these hosts.
    pub fn new(
        engine: &'e mut Engine,
        play: Arc<PlayState>,
        hosts: Vec<Host>,
        strategy: Strategy,
        max_fail: Option<f64>,
    ) -> PlayRun<'e> {
        let by_name = hosts.iter().enumerate().map(|(index, host)| (host.name.clone(), index)).collect();
        let groups = match strategy {
            Strategy::Linear => vec![Group { hosts: (0..hosts.len()).collect(), ..Group::default() }],
            _ => (0..hosts.len()).map(|host| Group { hosts: vec![host], ..Group::default() }).collect(),
        };
        let mut run = PlayRun {
            engine,
            play,
            hosts,
            by_name,
            groups,
            strategy,
            sent: HashMap::new(),
            answers: HashMap::new(),
            places: HashMap::new(),
            handler_names: Vec::new(),
            max_fail,
            last_told: None,
            known_layers: HashSet::new(),
            end_play: false,
            end_batch: false,
            held: Vec::new(),
        };
        run.name_handlers();
        run.take_what_is_owed();
        run
    }

    /// Handlers that an earlier run has notified and not run are run at the end of the play, once: two plays of the
    /// same name are not both to run them. A run that is restricted to some tasks takes only those that it names.
    fn take_what_is_owed(&mut self) {
        if let Some(only) = self.engine.shared.options.only.clone() {
            return self.take_what_is_named(&only);
        }
        if self.engine.owed.is_empty() {
            return;
        }
        let name = self.play.vars.magic.get("ansible_play_name").map(Value::to_text).unwrap_or_default();
        for owed in std::mem::take(&mut self.engine.owed) {
            let is_ours = owed.play == name && owed.playbook == self.engine.playbook;
            let host = self.by_name.get(owed.host.as_str()).copied().filter(|_| is_ours);
            let known = self.handler_names.iter().rposition(|known| *known == owed.handler);
            match (host, known) {
                (Some(host), Some(index)) => {
                    self.hosts[host].cursor.owed.insert(index);
                    let host = self.hosts[host].name.clone();
                    self.engine.tell(Event::Notified { handler: owed.handler, host });
                }
                _ => self.engine.owed.push(owed),
            }
        }
    }

    fn take_what_is_named(&mut self, only: &Only) {
        for host in 0..self.hosts.len() {
            for index in 0..self.play.handlers.len() {
                if only.names_handler(&self.hosts[host].name, &self.play.handlers[index].origin) {
                    self.take_handler(host, index);
                }
            }
        }
    }

    fn take_handler(&mut self, host: usize, index: usize) {
        self.hosts[host].cursor.notified.insert(index);
        let (host, handler) = (self.hosts[host].name.clone(), self.handler_names[index].clone());
        self.engine.tell(Event::Notified { handler, host });
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// What ends the whole run: an unknown handler, an interruption.
    pub fn run(mut self) -> Result<PlayEnd, Stop> {
        let mut ready: Vec<usize> = (0..self.groups.len()).collect();
        loop {
            let limit = match self.strategy {
                Strategy::HostPinned(limit) => limit.max(1),
                _ => usize::MAX,
            };
            let mut active = 0;
            for group in std::mem::take(&mut ready) {
                if active == limit {
                    break;
                }
                if !self.groups[group].done {
                    self.drive(group, false)?;
                    active += usize::from(!self.groups[group].done);
                }
            }
            let held = std::mem::take(&mut self.held);
            for group in &held {
                self.drive(*group, true)?;
            }
            ready = (0..self.groups.len()).filter(|group| !self.groups[*group].done).collect();
            if ready.is_empty() {
                break;
            }
            if !held.is_empty() {
                // The others may have nothing to wait for any longer.
                continue;
            }
            let timeout =
                self.next_timer().unwrap_or(Duration::from_millis(500)).min(Duration::from_millis(500));
            match self.engine.events.recv_timeout(timeout) {
                Ok(event) => {
                    self.take_event(event);
                    while let Ok(event) = self.engine.events.try_recv() {
                        self.take_event(event);
                    }
                }
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => self.name_stuck_hosts(),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(Stop::Bug("the connections' thread ended".into()));
                }
            }
            if self.engine.interrupted() {
                self.engine.tell(Event::Interrupted { left: self.left() });
                return Err(Stop::Interrupted);
            }
        }
        if self.engine.is_interrupted() {
            let left: Vec<(Arc<str>, String)> = (0..self.hosts.len())
                .filter(|host| self.hosts[*host].is_active())
                .filter_map(|host| {
                    let (task, _) = self.hosts[host].cursor.clone().peek()?;
                    Some((self.hosts[host].name.clone(), self.planner(&task, host).info(false).title.clone()))
                })
                .collect();
            self.engine.tell(Event::Interrupted { left });
            return Err(Stop::Interrupted);
        }
        let of = |state: HostState| {
            self.hosts
                .iter()
                .filter(|host| host.state == state)
                .map(|host| host.name.clone())
                .collect::<Vec<_>>()
        };
        Ok(PlayEnd {
            failed: of(HostState::Failed),
            unreachable: of(HostState::Unreachable),
            end_play: self.end_play,
        })
    }

    fn left(&self) -> Vec<(Arc<str>, String)> {
        let mut left = Vec::new();
        for group in &self.groups {
            for host in &group.hosts {
                if self.hosts[*host].is_active() {
                    let title = group.step.as_ref().map(|step| step.info.title.clone()).unwrap_or_default();
                    left.push((self.hosts[*host].name.clone(), title));
                }
            }
        }
        left
    }

    fn next_timer(&self) -> Option<Duration> {
        let now = Instant::now();
        let jobs = self.groups.iter().filter_map(|group| group.step.as_ref()).flat_map(|step| &step.jobs);
        jobs.filter(|job| !job.done)
            .filter_map(|job| job.not_before)
            .min()
            .map(|at| at.saturating_duration_since(now).max(Duration::from_millis(1)))
    }

    // ---- steps ----

    /// Takes a group as far as it gets without waiting. What would end the play for all is held back until
    /// every other group had its turn (`last`).
    fn drive(&mut self, group: usize, last: bool) -> Result<(), Stop> {
        loop {
            if self.groups[group].step.is_none() {
                if self.engine.stopping() || self.end_play || self.end_batch {
                    self.groups[group].done = true;
                    return Ok(());
                }
                let Some((task, participants)) = self.next_task(group) else {
                    self.groups[group].done = true;
                    return Ok(());
                };
                if !last && task.action == "ansible.builtin.meta" && ends_all(include::meta_name(&task)) {
                    self.held.push(group);
                    return Ok(());
                }
                if !self.begin(group, task, participants)? {
                    continue;
                }
            }
            let Some(mut step) = self.groups[group].step.take() else { continue };
            self.progress(&mut step);
            if step.jobs.iter().all(|job| job.done) {
                self.finish(group, step)?;
                continue;
            }
            self.groups[group].step = Some(step);
            return Ok(());
        }
    }

    /// The task whose turn it is in a group, and the hosts that stand at it.
    fn next_task(&mut self, group: usize) -> Option<(Arc<Task>, Vec<usize>)> {
        self.next_task_of(group, false).or_else(|| self.next_task_of(group, true))
    }

    fn next_task_of(&mut self, group: usize, late: bool) -> Option<(Arc<Task>, Vec<usize>)> {
        let mut best: Option<(Position, Arc<Task>)> = None;
        let mut participants = Vec::new();
        for host in self.groups[group].hosts.clone() {
            if !self.hosts[host].is_active() || self.hosts[host].late != late {
                continue;
            }
            let Some((task, position)) = self.peek(host) else { continue };
            match &best {
                Some((least, first)) if position == *least && first.id == task.id => participants.push(host),
                Some((least, _)) if position >= *least => {}
                _ => {
                    best = Some((position, task));
                    participants = vec![host];
                }
            }
        }
        best.map(|(_, task)| (task, participants))
    }

    /// The task that a host stands at; at the end of the play, what became of the host is settled.
    fn peek(&mut self, host: usize) -> Option<(Arc<Task>, Position)> {
        let state = &mut self.hosts[host];
        let found = state.cursor.peek();
        if found.is_some() {
            return found;
        }
        if state.cursor.dead {
            state.cursor.dead = false;
            self.end_failed(host);
            self.update_play_hosts();
            return if self.hosts[host].is_active() { self.peek(host) } else { None };
        }
        state.state = if state.doomed { HostState::Failed } else { HostState::Ended };
        None
    }

    /// Begins a step; false if it was over at once.
    fn begin(&mut self, group: usize, task: Arc<Task>, participants: Vec<usize>) -> Result<bool, Stop> {
        if self.engine.stepping && task.action != "ansible.builtin.meta" {
            let title = self.planner(&task, participants[0]).info(false).title.clone();
            if !self.engine.steps_into(&title) {
                for host in participants {
                    self.hosts[host].forget();
                    self.hosts[host].cursor.advance(false);
                }
                return Ok(false);
            }
        }
        self.warn_of_reserved_names(&task, &participants);
        match task.action.as_str() {
            "ansible.builtin.meta" => {
                self.meta(&task, &participants)?;
                return Ok(false);
            }
            "ansible.builtin.include_tasks" | "ansible.builtin.include_role" => {
                self.include(&task, &participants)?;
                return Ok(false);
            }
            _ => {}
        }
        for host in &participants {
            // Planning foresaw another way (a role that was to be done already, say): what it planned is void.
            let host = &mut self.hosts[*host];
            if host.queue.front().is_some_and(|entry| entry.task.id != task.id) {
                host.forget();
            }
        }
        let linear = self.strategy == Strategy::Linear;
        let bypass = actions::bypasses_host_loop(&task.action);
        if task.keywords.run_once.is_some() || bypass {
            self.plan_ahead(&participants[..1], group);
        } else {
            self.plan_ahead(&participants, group);
        }
        let first = participants[0];
        let (once, throttle, info) = match self.front(first) {
            Some(entry) => {
                let flags = &entry.planned.flags;
                ((flags.run_once || bypass) && linear, flags.throttle, entry.planned.info.clone())
            }
            None => {
                let planner = self.planner(&task, first);
                (false, 0, planner.info(false))
            }
        };
        let (working, once) = if once { (vec![first], participants) } else { (participants, Vec::new()) };
        if !once.is_empty() || working.len() == 1 {
            // `run_once` may have been false after all, or planned for the first host only.
        } else {
            self.plan_ahead(&working, group);
        }
        let is_quiet = |host: &usize| self.front(*host).is_some_and(|ahead| ahead.planned.flags.quiet);
        if !working.iter().all(is_quiet) {
            self.announce(&info);
        }
        let now = Instant::now();
        let jobs = working
            .into_iter()
            .map(|host| Job {
                host,
                next: 0,
                outcomes: Vec::new(),
                attempt: 1,
                not_before: None,
                done: false,
                started: now,
                memory: Map::new(),
                waiting: None,
                polled: None,
                task: None,
            })
            .collect();
        self.groups[group].step = Some(Step { task, info, jobs, once, throttle });
        Ok(true)
    }

    /// Variables that hide keywords or parts of templates are worth a word, once. All hosts are looked at when a
    /// play begins, later the first that does a task.
    fn warn_of_reserved_names(&mut self, task: &Arc<Task>, participants: &[usize]) {
        let mut layers = std::mem::take(&mut self.known_layers);
        let count = if layers.is_empty() { participants.len() } else { 1 };
        for host in participants.iter().take(count) {
            let found = self.planner(task, *host).scope().reserved_names(&mut layers);
            for (name, origin) in found {
                if self.engine.reserved.insert((name.clone(), origin.as_ref().map(ToString::to_string))) {
                    let warning =
                        Diagnostic::warning(format!("Found variable using reserved name '{name}'."));
                    self.engine.tell(Event::Diagnostic(warning.at(origin)));
                }
            }
        }
        self.known_layers = layers;
    }

    fn announce(&mut self, info: &Arc<TaskInfo>) {
        if self.last_told != Some(info.id) || self.strategy == Strategy::Linear {
            self.last_told = Some(info.id);
            self.engine.tell(Event::TaskStarted { task: info.clone() });
        }
    }

    fn planner<'a>(&'a self, task: &'a Arc<Task>, host: usize) -> Planner<'a> {
        Planner {
            shared: &self.engine.shared,
            play: &self.play,
            task,
            host: &self.hosts[host].vars,
            ahead: false,
        }
    }

    fn front(&self, host: usize) -> Option<&TaskAhead> {
        match self.hosts[host].queue.front().map(|entry| &entry.kind) {
            Some(AheadKind::Task(task)) => Some(task),
            _ => None,
        }
    }

    fn front_mut(&mut self, host: usize) -> Option<&mut TaskAhead> {
        match self.hosts[host].queue.front_mut().map(|entry| &mut entry.kind) {
            Some(AheadKind::Task(task)) => Some(task),
            _ => None,
        }
    }

    /// Whether hosts of this group are worked on without waiting for each other.
    fn streaming(&self, group: usize) -> bool {
        self.engine.shared.options.window != Some(1)
            && (self.groups[group].hosts.len() == 1 || self.engine.shared.options.check)
    }

    /// Plans for every host what its window allows, many hosts at once.
    fn plan_ahead(&mut self, hosts: &[usize], group: usize) {
        let streaming = self.streaming(group);
        let alone = self.hosts.len() == 1;
        let shared = self.engine.shared.clone();
        let play = self.play.clone();
        let wanting: Vec<usize> = hosts
            .iter()
            .copied()
            .filter(|host| {
                let host = &self.hosts[*host];
                host.queue.is_empty() || (!host.blocked && host.queue.len() < host.window.min(WINDOW_MAX))
            })
            .collect();
        let known = &self.hosts;
        let walk = |index: &usize| {
            let host = &known[*index];
            let limits = Limits { tasks: host.window.min(WINDOW_MAX), streaming, alone };
            (*index, ahead::walk(&shared, &play, host, limits))
        };
        let walks: Vec<(usize, ahead::Walk)> = if wanting.len() < 4 {
            wanting.iter().map(walk).collect()
        } else {
            wanting.par_iter().map(walk).collect()
        };
        for (index, walk) in walks {
            let host = &mut self.hosts[index];
            host.queue.extend(walk.entries);
            host.walker = Some(walk.walker);
            host.blocked = walk.blocked;
        }
    }

    fn progress(&mut self, step: &mut Step) {
        let now = Instant::now();
        let mut busy = 0;
        for index in 0..step.jobs.len() {
            if step.jobs[index].done {
                continue;
            }
            if step.throttle > 0 && busy >= step.throttle {
                break;
            }
            if step.jobs[index].not_before.is_some_and(|at| at > now) {
                busy += 1;
                continue;
            }
            let mut job = std::mem::replace(&mut step.jobs[index], Job::empty());
            self.work(step, &mut job);
            if !job.done {
                busy += 1;
            }
            step.jobs[index] = job;
        }
        let done = step.jobs.iter().filter(|job| job.done).count();
        if done < step.jobs.len() {
            let waiting =
                step.jobs.iter().filter(|job| !job.done).take(3).map(|job| self.hosts[job.host].name.clone());
            let progress = Progress {
                task: step.info.title.clone(),
                done,
                hosts: step.jobs.len(),
                waiting: waiting.collect(),
                transfer: self.engine.sessions.transfer(),
            };
            self.engine.progress(progress);
        }
    }

    /// Takes a job as far as it can go now.
    fn work(&mut self, step: &Step, job: &mut Job) {
        let host = job.host;
        job.not_before = None;
        loop {
            let Some(ahead) = self.front(host) else {
                job.done = true;
                return;
            };
            if job.next >= ahead.planned.items.len() {
                if ahead.planned.rest.is_some() && !self.broke_off(step, job) {
                    if let Some(pause) =
                        ahead.planned.looped.as_ref().map(|shape| shape.pause).filter(|pause| *pause > 0.0)
                        && !job.memory.contains_key("paused")
                    {
                        job.memory.insert(Value::str("paused"), Value::Bool(true));
                        job.not_before = Some(Instant::now() + Duration::from_secs_f64(pause));
                        return;
                    }
                    job.memory.shift_remove("paused");
                    self.plan_rest(step, job);
                    continue;
                }
                if !self.complete(step, job) {
                    continue;
                }
                job.done = true;
                return;
            }
            let item = ahead.planned.items[job.next].clone();
            let outcome = match &item.step {
                Work::Done(settled) => ItemOutcome::settled(settled.clone()),
                Work::Local { settled, effects } => {
                    let mut settled = settled.clone();
                    self.apply_effects(step, host, effects, &mut settled.result);
                    self.tell_warnings(&settled.result);
                    ItemOutcome::settled(settled)
                }
                Work::Engine { action, args, machine, identity } => {
                    match self.engine_action(job, action, args, machine.as_ref(), identity.as_ref()) {
                        Some(outcome) => outcome,
                        None => return,
                    }
                }
                Work::Remote(_) => {
                    let found = ahead.reports.get(job.next).and_then(Option::as_ref);
                    match found {
                        Some((report, true)) => {
                            let report = report.clone();
                            let mut outcome = self.reported(step, job, &item, report);
                            self.end_poll(job, &mut outcome);
                            outcome
                        }
                        _ => {
                            if !ahead.in_flight() {
                                self.dispatch(step, host);
                                if self.hosts[host].since.is_none() {
                                    self.hosts[host].since = Some(Instant::now());
                                }
                            }
                            self.poll(job);
                            return;
                        }
                    }
                }
            };
            if !self.end_item(step, job, &item, outcome) {
                return;
            }
        }
    }

    /// A job that is waited for is told of every `poll` seconds. It runs like any other task, in the connection:
    /// what it changes is known, and it ends with the run.
    fn poll(&mut self, job: &mut Job) {
        let Some(ahead) = self.front(job.host) else { return };
        let flags = ahead.planned.flags_at(job.next);
        let Some(seconds) = flags.poll.filter(|seconds| *seconds > 0.0 && flags.detach > 0) else { return };
        let (now, every) = (Instant::now(), Duration::from_secs_f64(seconds));
        let (name, next) = job.polled.get_or_insert_with(|| (self.engine.shared.new_job(), now + every));
        if now < *next {
            return;
        }
        *next = now + every;
        let (host, name) = (self.hosts[job.host].name.clone(), name.clone());
        let event = Event::AsyncPoll { host, job: name, started: true, finished: false };
        self.tell_unless_quiet(job.host, event);
    }

    /// The job that was waited for has ended.
    fn end_poll(&mut self, job: &mut Job, outcome: &mut ItemOutcome) {
        let Some((name, _)) = job.polled.take() else { return };
        if outcome.verdict == Verdict::Unreachable {
            return;
        }
        let limit = self.front(job.host).map_or(0, |ahead| ahead.planned.flags_at(job.next).detach);
        let period = match outcome.result.get("timedout") {
            Some(Value::Map(timed_out)) => timed_out.get("period").and_then(Value::as_int),
            _ => None,
        };
        if period.is_some() && period == i64::try_from(limit).ok() {
            let message = format!("async task did not complete within the requested time - {limit}s");
            outcome.diagnostic = outcome
                .diagnostic
                .take()
                .map(|diagnostic| Diagnostic { message: format!("Module failed: {message}"), ..diagnostic });
            outcome.result.insert(Value::str("msg"), Value::from(message));
            outcome.result.shift_remove("timedout");
        }
        outcome.result.insert(Value::str("ansible_job_id"), Value::str(name.as_str()));
        outcome.result.insert(Value::str("started"), Value::Bool(true));
        outcome.result.insert(Value::str("finished"), Value::Bool(true));
        let host = self.hosts[job.host].name.clone();
        let failed = outcome.verdict == Verdict::Failed;
        self.tell_unless_quiet(job.host, Event::AsyncDone { host, job: name, failed });
    }

    fn tell_unless_quiet(&mut self, host: usize, event: Event) {
        if self.front(host).is_none_or(|ahead| !ahead.planned.flags.quiet) {
            self.engine.tell(event);
        }
    }

    fn broke_off(&self, step: &Step, job: &Job) -> bool {
        let Some(looping) = step.task.looping.as_ref().filter(|looping| !looping.break_when.is_empty())
        else {
            return false;
        };
        let (Some(ahead), Some(outcome)) = (self.front(job.host), job.outcomes.last()) else { return false };
        let Some(item) = ahead.planned.items.get(job.next.saturating_sub(1)) else { return false };
        let planner = self.planner(&step.task, job.host);
        let mut scope = planner.scope();
        scope.local.extend(item.local.iter().map(|(key, value)| (key.clone(), value.clone())));
        if let Some(register) = &step.task.register {
            scope.local.insert(Value::str(register.as_str()), settle::registered(&outcome.result));
        }
        let bound = planner.bind(scope);
        planner.condition(&looping.break_when, &bound).is_ok_and(|unmet| unmet.is_none())
    }

    /// Plans the items of a loop that had to wait for the results of earlier ones.
    fn plan_rest(&mut self, step: &Step, job: &Job) {
        let host = job.host;
        let previous = job.outcomes.last().map(|outcome| settle::registered(&outcome.result));
        let Some(ahead) = self.front_mut(host) else { return };
        let mut planned = ahead.planned.clone();
        let values = planned.rest.take().unwrap_or_default();
        let planner = self.planner(&step.task, host);
        if planner.plan_items(&mut planned, values, previous).is_err() {
            planned.rest = None;
        }
        if let Some(ahead) = self.front_mut(host) {
            let count = planned.items.len();
            ahead.planned = planned;
            ahead.reports.resize(count, None);
            ahead.batches.resize(count, None);
        }
    }

    /// Judges an item's outcome and tells of it; false if it is to be tried again later.
    fn end_item(&mut self, step: &Step, job: &mut Job, item: &PlannedItem, mut outcome: ItemOutcome) -> bool {
        let host = job.host;
        let relabelled;
        let Flags { retries, delay, no_log, .. } = item.flags;
        let looped = self.front(host).is_some_and(|ahead| ahead.planned.looped.is_some());
        let again = {
            let planner = self.planner(&step.task, host);
            settle::judge(&planner, item, &mut outcome, job.attempt, retries)
        };
        if self.engine.shared.options.check {
            let here = !matches!(item.step, Work::Remote(_));
            let vars = {
                let planner = self.planner(&step.task, host);
                planner.bind(planner.scope()).vars
            };
            let before = outcome.verdict;
            let state = &mut self.hosts[host];
            let about = (here, state.installs);
            doubt::look(&step.task, about, vars.as_ref(), &mut state.unknown, &mut outcome);
            if outcome.verdict != before {
                self.tell_warnings(&outcome.result);
            }
        }
        if again {
            let left = retries.unwrap_or(0) + 1 - job.attempt;
            let told = if no_log { settle::censored(&outcome.result) } else { outcome.result.clone() };
            let name = self.hosts[host].name.clone();
            self.tell_unless_quiet(
                host,
                Event::Retry { host: name, task: step.info.clone(), left, result: Value::map(told) },
            );
            job.attempt += 1;
            job.not_before = Some(Instant::now() + Duration::from_secs_f64(delay.max(0.0)));
            let next = job.next;
            if let Some(ahead) = self.front_mut(host) {
                ahead.reports[next] = None;
                ahead.batches[next] = None;
            }
            return false;
        }
        job.attempt = 1;
        job.next += 1;
        let item = {
            let planner = self.planner(&step.task, host);
            relabelled = settle::label_with_result(&planner, item, &mut outcome);
            relabelled.as_ref().unwrap_or(item)
        };
        if looped {
            let result = self.task_result(step, job, item, &outcome, no_log, false);
            self.tell_unless_quiet(host, Event::ItemResult(result));
        }
        job.outcomes.push(outcome);
        true
    }

    fn task_result(
        &self,
        step: &Step,
        job: &Job,
        item: &PlannedItem,
        outcome: &ItemOutcome,
        no_log: bool,
        whole: bool,
    ) -> TaskResult {
        let looped = self.front(job.host).is_some_and(|ahead| ahead.planned.looped.is_some());
        let shown = if no_log { settle::censored(&outcome.result) } else { outcome.result.clone() };
        let hidden = |key: &Value| matches!(key.as_str(), Some("invocation" | "exception"));
        let shown: Map = shown.into_iter().filter(|(key, _)| !hidden(key)).collect();
        let shown = if !whole && looped {
            let shape = self.front(job.host).and_then(|ahead| ahead.planned.looped.clone());
            let mut shown = shown;
            if let (Some(shape), false) = (shape, no_log) {
                if let Some(value) = &item.item {
                    shown.insert(Value::str(shape.var.as_str()), value.untrusted());
                }
                shown.insert(Value::str("ansible_loop_var"), Value::str(shape.var.as_str()));
            }
            shown
        } else {
            shown
        };
        let label = if no_log { Some("(censored due to no_log)".to_string()) } else { item.label.clone() };
        TaskResult {
            host: self.hosts[job.host].name.clone(),
            task: step.info.clone(),
            delegate: item
                .delegate
                .as_ref()
                .filter(|(name, _)| *name != self.hosts[job.host].name)
                .map(|(_, shown)| shown.clone()),
            verdict: outcome.verdict,
            ignored: false,
            rescued: false,
            looped: whole && looped,
            result: Value::map(shown),
            label: label.filter(|_| !whole),
            verbose_always: shown_always(&step.task.action, outcome) && !no_log,
            diagnostic: if no_log { None } else { outcome.diagnostic.clone() },
            millis: u64::try_from(job.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// All items are done: registers, notifies, counts, tells, and moves the host on. False if somebody at the
    /// debugger has it run again.
    fn complete(&mut self, step: &Step, job: &mut Job) -> bool {
        let host = job.host;
        self.hosts[host].since = None;
        self.hosts[host].named_at = 30;
        let Some(ahead) = self.front(host) else { return true };
        let planned = ahead.planned.clone();
        let quiet = planned.flags.quiet;
        let no_log = planned.any(|flags| flags.no_log);
        // All items that failed must be ignored for the task to be.
        let ignores = |verdict: Verdict, keyword: fn(&Flags) -> bool| {
            let mut failed =
                job.outcomes.iter().zip(&planned.items).filter(|(item, _)| item.verdict == verdict);
            failed.clone().next().is_some() && failed.all(|(_, item)| keyword(&item.flags))
        };
        let ignore_errors = ignores(Verdict::Failed, |flags| flags.ignore_errors);
        let ignore_unreachable = ignores(Verdict::Unreachable, |flags| flags.ignore_unreachable);
        let (mut outcome, index_var) = match &planned.looped {
            Some(shape) => {
                let index_var = shape.index_var.clone();
                (
                    settle::aggregate(&job.outcomes, &planned.items, &shape.var, index_var.as_deref()),
                    index_var,
                )
            }
            None => match job.outcomes.pop() {
                Some(outcome) => {
                    job.outcomes.push(outcome.clone());
                    (outcome, None)
                }
                None => return true,
            },
        };
        let _ = index_var;
        let ignored = match outcome.verdict {
            Verdict::Failed => ignore_errors,
            Verdict::Unreachable => ignore_unreachable,
            _ => false,
        };
        if ignored && outcome.verdict == Verdict::Unreachable {
            outcome.result.insert(Value::str("skip_reason"), Value::str("Host is unreachable"));
        }
        // `register` and facts, for this host or, with `run_once`, for all.
        let receivers: Vec<usize> = if step.once.is_empty() { vec![host] } else { step.once.clone() };
        let keep = outcome.verdict != Verdict::Unreachable || ignore_unreachable;
        for receiver in &receivers {
            let state = &mut self.hosts[*receiver];
            let mut vars = state.vars.as_ref().clone();
            let mut touched = false;
            let mut gathered = false;
            if keep && let Some(register) = &step.task.register {
                vars.set(register, settle::registered(&outcome.result));
                touched = true;
            }
            if !is_own_fact_action(&step.task.action) {
                for item in &job.outcomes {
                    if let Some(Value::Map(facts)) = item.result.get("ansible_facts") {
                        vars.add_facts(facts);
                        touched = true;
                        gathered = true;
                    }
                }
            }
            if touched {
                state.vars = Arc::new(vars);
                self.engine.shared.vars.publish(&state.vars);
            }
            if gathered {
                let vars = state.vars.clone();
                self.engine.cache_facts(&vars);
            }
        }
        if truthy(&outcome.result, "changed") && outcome.verdict != Verdict::Failed
            || outcome.verdict == Verdict::Changed
        {
            self.notify(step, job, &planned.items);
        }
        let last = planned.items.last().cloned().unwrap_or_else(empty_item);
        let mut told = self.task_result(step, job, &last, &outcome, no_log, true);
        told.ignored = ignored;
        let rescued =
            outcome.verdict == Verdict::Failed && !ignored && self.hosts[host].cursor.would_rescue();
        told.rescued = rescued;
        if !quiet {
            let name = told.host.clone();
            let before = self.engine.stats.get(&name).copied().unwrap_or_default();
            self.engine.count(&told);
            self.engine.tell(Event::Result(told));
            if self.wants_debugger(step, outcome.verdict, ignore_errors)
                && self.debug(step, job, &outcome.result, no_log)
            {
                self.engine.stats.insert(name, before);
                return false;
            }
        }
        let bad = matches!(outcome.verdict, Verdict::Failed | Verdict::Unreachable) && !ignored;
        if let Some(entry) = self.hosts[host].queue.front_mut() {
            // What was decided stays until the step ends; a failure voids what was planned after it.
            entry.facts = false;
        }
        job.memory.insert(Value::str("failed"), Value::Bool(bad && outcome.verdict == Verdict::Failed));
        job.memory
            .insert(Value::str("unreachable"), Value::Bool(bad && outcome.verdict == Verdict::Unreachable));
        let did_not_run = matches!(outcome.verdict, Verdict::Skipped | Verdict::Unreachable);
        job.memory.insert(Value::str("skipped"), Value::Bool(did_not_run));
        if bad && outcome.verdict == Verdict::Failed {
            let failed_task = failed_task_value(step);
            for receiver in &receivers {
                let state = &mut self.hosts[*receiver];
                let mut vars = state.vars.as_ref().clone();
                vars.set("ansible_failed_result", settle::registered(&outcome.result));
                vars.set("ansible_failed_task", failed_task.clone());
                state.vars = Arc::new(vars);
                self.engine.shared.vars.publish(&state.vars);
            }
        }
        true
    }

    fn wants_debugger(&self, step: &Step, verdict: Verdict, ignore_errors: bool) -> bool {
        let settings = &self.engine.shared.settings;
        let everywhere = debugger::everywhere(settings, &self.play.play);
        let ignored = ignore_errors && settings.task_debugger_ignore_errors;
        debugger::is_wanted(step.task.keywords.debugger.as_ref(), everywhere, verdict, ignored)
    }

    /// Lets somebody look at a task that has ended; true if it is to run again, perhaps changed.
    fn debug(&mut self, step: &Step, job: &mut Job, result: &Map, no_log: bool) -> bool {
        let host = job.host;
        let task = job.task.clone().unwrap_or_else(|| step.task.clone());
        let shown = if no_log { settle::censored(result) } else { result.clone() };
        let next = {
            let planner = self.planner(&task, host);
            let session = debugger::Session::new(&planner, &shown);
            let title = format!("TASK: {}", step.info.title);
            session.talk(&title, &mut std::io::stdin().lock(), &mut std::io::stdout())
        };
        match next {
            debugger::Next::Continue => false,
            debugger::Next::Quit => {
                self.engine.pending_stop = Some(Stop::Interrupted);
                false
            }
            debugger::Next::Redo(task) => {
                let planned = ahead::plan_now(&self.planner(&task, host));
                if let Some(front) = self.front_mut(host) {
                    *front = TaskAhead::new(planned);
                }
                *job = Job { host, task: Some(task), done: false, ..Job::empty() };
                true
            }
        }
    }

    /// The step is over for all of its hosts: moves them on, and draws the consequences of failures.
    fn finish(&mut self, group: usize, step: Step) -> Result<(), Stop> {
        let flag = |job: &Job, name: &str| job.memory.get(name).is_some_and(Value::truthy);
        let mut any_failed = false;
        let mut fatal = false;
        for job in &step.jobs {
            let host = job.host;
            let any_errors_fatal = self.front(host).is_some_and(|ahead| ahead.planned.flags.any_errors_fatal);
            let (failed, unreachable, skipped) =
                (flag(job, "failed"), flag(job, "unreachable"), flag(job, "skipped"));
            let members: Vec<usize> = if step.once.is_empty() { vec![host] } else { step.once.clone() };
            for member in members {
                self.hosts[member].queue.pop_front();
                if failed {
                    any_failed = true;
                    self.fail_host(member);
                } else if unreachable && member == host {
                    any_failed = true;
                    self.lose_host(member);
                } else {
                    let state = &mut self.hosts[member];
                    if member != host {
                        state.forget();
                    }
                    // Where the task ran once for all, the others did not run it.
                    state.cursor.advance(!skipped && member == host);
                }
            }
            fatal |= (failed || unreachable) && (any_errors_fatal || !step.once.is_empty());
        }
        if any_failed {
            for host in self.groups[group].hosts.clone() {
                self.hosts[host].forget_plans();
            }
            self.update_play_hosts();
        }
        if fatal {
            let failed: HashSet<usize> = step
                .jobs
                .iter()
                .filter(|job| flag(job, "failed") || flag(job, "unreachable"))
                .flat_map(|job| if step.once.is_empty() { vec![job.host] } else { step.once.clone() })
                .collect();
            self.spread_failure(group, &failed);
        }
        if let Some(limit) = self.max_fail
            && self.strategy == Strategy::Linear
        {
            let failed = self.hosts.iter().filter(|host| host.state == HostState::Failed).count();
            #[expect(clippy::cast_precision_loss, reason = "counts of hosts are small")]
            let percentage = failed as f64 / self.hosts.len() as f64 * 100.0;
            if failed > 0 && percentage > limit {
                for host in &mut self.hosts {
                    if host.is_active() {
                        host.state = HostState::Failed;
                    }
                }
                self.engine.tell(Event::NoHostsRemaining);
            }
        }
        Ok(())
    }

    /// `any_errors_fatal`: the failure of some hosts is that of all.
    fn spread_failure(&mut self, group: usize, failed: &HashSet<usize>) {
        if self.strategy != Strategy::Linear {
            return;
        }
        for host in self.groups[group].hosts.clone() {
            if self.hosts[host].is_active() && !failed.contains(&host) {
                self.fail_host(host);
            }
        }
        self.update_play_hosts();
    }

    fn fail_host(&mut self, host: usize) {
        let state = &mut self.hosts[host];
        state.forget();
        if state.cursor.fail() == Fate::Dead {
            self.end_failed(host);
        }
    }

    /// Nothing has taken the failure of a host: it only runs its notified handlers, where those are forced.
    fn end_failed(&mut self, host: usize) {
        let state = &mut self.hosts[host];
        state.forget();
        state.state = HostState::Failed;
        if self.engine.force_handlers(&self.play) && !state.cursor.notified.is_empty() && !state.doomed {
            let handlers = self.play.handlers.clone();
            let notified = std::mem::take(&mut state.cursor.notified);
            state.cursor = crate::engine::cursor::Cursor::only_handlers(handlers, notified);
            state.state = HostState::Active;
            state.doomed = true;
        }
    }

    fn lose_host(&mut self, host: usize) {
        let state = &mut self.hosts[host];
        state.forget();
        // Should the failure be forgiven, it goes on from here.
        state.cursor.advance(false);
        state.state = HostState::Unreachable;
    }

    fn update_play_hosts(&mut self) {
        let alive: Vec<Value> = self
            .hosts
            .iter()
            .filter(|host| !matches!(host.state, HostState::Failed | HostState::Unreachable))
            .map(|host| Value::str(host.name.clone()))
            .collect();
        let mut vars = crate::vars::PlayVars {
            vars: self.play.vars.vars.clone(),
            prompted: self.play.vars.prompted.clone(),
            public_roles: self.play.vars.public_roles.clone(),
            magic: self.play.vars.magic.clone(),
        };
        let rest: Vec<Value> = match vars.magic.get("_later_hosts") {
            Some(Value::List(later)) => later.as_ref().clone(),
            _ => Vec::new(),
        };
        let mut all = alive.clone();
        all.extend(rest);
        vars.magic.insert(Value::str("ansible_play_hosts"), Value::list(all.clone()));
        vars.magic.insert(Value::str("play_hosts"), Value::list(all));
        vars.magic.insert(Value::str("ansible_play_batch"), Value::list(alive));
        self.play = Arc::new(PlayState {
            play: self.play.play.clone(),
            vars: Arc::new(vars),
            handlers: self.play.handlers.clone(),
        });
    }

    // ---- machines ----

    /// Sends what the task at hand needs, and with it what can be asked ahead.
    fn dispatch(&mut self, step: &Step, host: usize) {
        let group = self.group_of(host);
        let streaming = self.streaming(group) && step.once.is_empty();
        self.plan_ahead(&[host], group);
        self.note_places(host);
        let shared_place = self.shares_place(host);
        let check = self.engine.shared.options.check;
        let front = self.front(host);
        let verifiable = front.is_some_and(|ahead| {
            !check
                && !ahead.planned.any(|flags| flags.check)
                && ahead.planned.items.iter().all(|item| match &item.step {
                    Work::Remote(remote) => remote.verifiable && item.delegate.is_none(),
                    _ => true,
                })
        });
        let known_to_change = front.is_some_and(|ahead| ahead.reports.iter().any(Option::is_some));
        let window = self.engine.shared.options.window.unwrap_or(WINDOW_MAX).min(self.hosts[host].window);
        if streaming && !shared_place {
            self.send(host, 0, WINDOW_MAX, true);
        } else if verifiable && !known_to_change && window > 1 && !shared_place {
            self.send(host, 0, window, false);
        } else {
            if known_to_change {
                // Something changes: what was verified after it is void, and less is asked ahead.
                self.hosts[host].void_after(0);
                self.hosts[host].window = 2;
            }
            self.void_delegates(host);
            self.send(host, 0, 1, true);
            let window = self.engine.shared.options.window.unwrap_or(WINDOW_MAX).min(self.hosts[host].window);
            if window > 1 && !shared_place && !check {
                self.send(host, 1, window, false);
            }
        }
    }

    /// A task that acts on another host makes what was verified there void.
    fn void_delegates(&mut self, host: usize) {
        let Some(ahead) = self.front(host) else { return };
        let others: HashSet<Arc<str>> = ahead
            .planned
            .items
            .iter()
            .filter_map(|item| item.delegate.as_ref())
            .map(|(name, _)| name.clone())
            .collect();
        for name in others {
            if let Some(other) = self.by_name.get(&name).copied().filter(|other| *other != host) {
                self.hosts[other].void_after(0);
            }
        }
    }

    fn group_of(&self, host: usize) -> usize {
        if self.strategy == Strategy::Linear { 0 } else { host }
    }

    fn note_places(&mut self, host: usize) {
        let mut places = HashSet::new();
        for entry in &self.hosts[host].queue {
            if let AheadKind::Task(task) = &entry.kind {
                for item in &task.planned.items {
                    if let Work::Remote(remote) = &item.step {
                        places.insert(remote.machine.place.clone());
                    }
                }
            }
        }
        for place in places {
            self.places.entry(place).or_default().insert(host);
        }
    }

    fn shares_place(&self, host: usize) -> bool {
        let Some(ahead) = self.front(host) else { return false };
        ahead.planned.items.iter().any(|item| match &item.step {
            Work::Remote(remote) => {
                self.places.get(&remote.machine.place).is_some_and(|hosts| hosts.len() > 1)
            }
            _ => false,
        })
    }

    /// Sends entries from `from` on, up to `window` of them: applied (or, in a dry run, simulated) if `last`,
    /// verified if not.
    fn send(&mut self, host: usize, from: usize, window: usize, last: bool) {
        let check = self.engine.shared.options.check;
        // One batch per machine, identity and kind of run, in the order in which they are first needed.
        let mut batches: Vec<(
            Arc<Machine>,
            Option<Arc<Become>>,
            bool,
            Vec<crate::protocol::Call>,
            Vec<(u64, usize)>,
        )> = Vec::new();
        let mut raw: Option<(Arc<Machine>, Option<Arc<Become>>, String, (u64, usize))> = None;
        'entries: for (index, entry) in self.hosts[host].queue.iter().enumerate().skip(from).take(window) {
            let AheadKind::Task(task) = &entry.kind else { continue };
            if !last && index > 0 && !entry_verifiable(task) {
                break;
            }
            let remaining: Vec<usize> = task
                .planned
                .items
                .iter()
                .enumerate()
                .filter(|(number, item)| {
                    matches!(item.step, Work::Remote(_))
                        && task.reports[*number].as_ref().is_none_or(|(_, last)| !last)
                })
                .map(|(number, _)| number)
                .collect();
            if task.in_flight() {
                break;
            }
            for number in remaining {
                let flags = task.planned.flags_at(number);
                let Work::Remote(remote) = &task.planned.items[number].step else { continue };
                if let Some(command) = &remote.raw {
                    if batches.is_empty() {
                        raw = Some((
                            remote.machine.clone(),
                            remote.identity.clone(),
                            command.clone(),
                            (entry.serial, number),
                        ));
                    }
                    break 'entries;
                }
                let dry = check && flags.check;
                let same = |batch: &(Arc<Machine>, Option<Arc<Become>>, bool, _, _)| {
                    batch.0.id == remote.machine.id
                        && same_identity(&batch.1, &remote.identity)
                        && batch.2 == dry
                };
                let position = batches.iter().position(same);
                let position = match position {
                    Some(position) => position,
                    None if last && !batches.is_empty() => break 'entries,
                    None => {
                        batches.push((
                            remote.machine.clone(),
                            remote.identity.clone(),
                            dry,
                            Vec::new(),
                            Vec::new(),
                        ));
                        batches.len() - 1
                    }
                };
                let batch = &mut batches[position];
                let mut call = remote.call.clone();
                call.id = u32::try_from(batch.3.len()).unwrap_or(u32::MAX);
                call.group = u32::try_from(index).unwrap_or(u32::MAX);
                call.go_on = flags.ignore_errors;
                call.check = flags.check && !check;
                batch.3.push(call);
                batch.4.push((entry.serial, number));
                if flags.retries.is_some() {
                    break 'entries;
                }
            }
        }
        let mode_of = |dry: bool| match (dry, last) {
            (true, _) => Mode::Check,
            (false, true) => Mode::Apply,
            (false, false) => Mode::Verify,
        };
        for (machine, identity, dry, calls, map) in batches {
            if calls.is_empty() {
                continue;
            }
            if last && !dry {
                self.engine.touch(&machine, identity.as_ref());
            }
            let id = self.engine.next_batch();
            self.mark(host, &map, id);
            self.sent.insert(id, Sent { host, calls: map, last });
            let batch = Batch { id, mode: mode_of(dry), tasks: calls };
            self.engine.sessions.submit(
                machine.id,
                &machine.target,
                identity.as_ref(),
                dry,
                batch,
                self.engine.shared.blobs.clone(),
            );
        }
        if let Some((machine, identity, command, call)) = raw {
            let id = self.engine.next_batch();
            self.mark(host, &[call], id);
            self.sent.insert(id, Sent { host, calls: vec![call], last: true });
            if check {
                let report = Report {
                    status: Status::Skipped,
                    result: Value::map(map_of([
                        ("skipped", Value::Bool(true)),
                        ("changed", Value::Bool(false)),
                    ])),
                    ..Report::default()
                };
                self.take_report(id, report);
            } else {
                self.engine.sessions.raw(machine.id, &machine.target, identity.as_ref(), command, id);
            }
        }
    }

    fn mark(&mut self, host: usize, calls: &[(u64, usize)], batch: u64) {
        for (serial, item) in calls {
            if let Some(task) = self.entry_mut(host, *serial) {
                task.batches[*item] = Some(batch);
                task.reports[*item] = None;
            }
        }
    }

    fn entry_mut(&mut self, host: usize, serial: u64) -> Option<&mut TaskAhead> {
        let queue = &mut self.hosts[host].queue;
        let index = queue.binary_search_by_key(&serial, |entry| entry.serial).ok()?;
        match &mut queue[index].kind {
            AheadKind::Task(task) => Some(task),
            _ => None,
        }
    }

    fn take_event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Ended { batch, report, .. } => self.take_report(batch, *report),
            SessionEvent::BatchEnded { batch, .. } => self.batch_ended(batch),
            SessionEvent::Unreachable { batches, error, .. } => {
                let unreachable = error.class() == Class::Unreachable;
                for batch in batches {
                    self.batch_lost(batch, &error.to_string(), unreachable);
                }
            }
            SessionEvent::Raw { request, outcome, .. } if !self.sent.contains_key(&request) => {
                // Nobody asks any more for an answer that came too late.
                let awaited = self
                    .groups
                    .iter()
                    .filter_map(|group| group.step.as_ref())
                    .flat_map(|step| &step.jobs)
                    .filter_map(|job| job.waiting.as_ref()?.asked)
                    .any(|(asked, _)| asked == request);
                if awaited {
                    self.answers.insert(request, outcome.map_err(|error| error.to_string()));
                }
            }
            SessionEvent::Raw { request, outcome: Ok(output), .. } => {
                let code = output.code;
                let mut result = map_of([
                    ("rc", Value::from(code)),
                    ("stdout", Value::from(output.stdout_text())),
                    ("stderr", Value::from(output.stderr_text())),
                    ("changed", Value::Bool(true)),
                ]);
                if code != 0 {
                    result.insert(Value::str("failed"), Value::Bool(true));
                    result.insert(Value::str("msg"), Value::str("non-zero return code"));
                }
                let status = if code == 0 { Status::Changed } else { Status::Failed };
                self.take_report(request, Report { status, result: Value::map(result), ..Report::default() });
                self.batch_ended(request);
            }
            SessionEvent::Raw { request, outcome: Err(error), .. } => {
                self.batch_lost(request, &error.to_string(), error.class() == Class::Unreachable);
            }
            SessionEvent::File { batch, task, bytes, .. } => self.engine.receive_file(batch, task, &bytes),
            SessionEvent::Connected { host, timings, .. } => {
                let host = self.engine.machine_name(host);
                let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                self.engine.tell(Event::Connected {
                    host,
                    millis: millis(timings.connect + timings.start),
                    login: millis(timings.connect),
                    pushed: timings.pushed,
                });
            }
            SessionEvent::Waiting { host, holder } => {
                let host = self.engine.machine_name(host);
                self.engine.tell(Event::Waiting { host, holder });
            }
            SessionEvent::Started { .. } => {}
        }
    }

    fn take_report(&mut self, batch: u64, report: Report) {
        let Some(sent) = self.sent.get(&batch) else { return };
        let Some((serial, item)) = sent.calls.get(report.task as usize).copied() else { return };
        let (host, last) = (sent.host, sent.last);
        let last = last || matches!(report.status, Status::Ok | Status::Skipped);
        let micros = report.micros;
        let Some(task) = self.entry_mut(host, serial) else { return };
        let info = task.planned.info.clone();
        // A report of a batch that was voided since says nothing any more.
        if task.batches[item] == Some(batch) {
            if !last {
                task.batches[item] = None;
            }
            task.reports[item] = Some((report, last));
        }
        let name = self.hosts[host].name.clone();
        self.engine.tell(Event::Ran { host: name, task: info, micros });
        if last {
            let state = &mut self.hosts[host];
            state.window = state.window.saturating_mul(2).min(WINDOW_MAX);
        }
    }

    fn batch_ended(&mut self, batch: u64) {
        let Some(sent) = self.sent.remove(&batch) else { return };
        for (serial, item) in sent.calls {
            if let Some(task) = self.entry_mut(sent.host, serial)
                && task.batches[item] == Some(batch)
                && task.reports[item].is_none()
            {
                task.batches[item] = None;
            }
        }
    }

    fn batch_lost(&mut self, batch: u64, error: &str, unreachable: bool) {
        let Some(sent) = self.sent.get(&batch) else { return };
        let (host, calls) = (sent.host, sent.calls.clone());
        let front = self.hosts[host].queue.front().map(|entry| entry.serial);
        for (serial, item) in calls {
            let at_hand = front == Some(serial);
            let Some(task) = self.entry_mut(host, serial) else { continue };
            if task.batches[item] != Some(batch) || task.reports[item].is_some() {
                continue;
            }
            if at_hand {
                let result = map_of([
                    (if unreachable { "unreachable" } else { "failed" }, Value::Bool(true)),
                    ("changed", Value::Bool(false)),
                    ("msg", Value::str(error)),
                ]);
                let report =
                    Report { status: Status::Failed, result: Value::map(result), ..Report::default() };
                task.reports[item] = Some((report, true));
            } else {
                task.batches[item] = None;
            }
        }
        self.sent.remove(&batch);
    }

    /// Turns a machine's report into an outcome, and records what it changed.
    fn reported(&mut self, step: &Step, job: &Job, item: &PlannedItem, report: Report) -> ItemOutcome {
        let mut result = match report.result {
            Value::Map(map) => Arc::unwrap_or_clone(map),
            _ => Map::new(),
        };
        if truthy(&result, "unreachable") {
            return ItemOutcome { verdict: Verdict::Unreachable, result, diagnostic: None };
        }
        if let Work::Remote(remote) = &item.step {
            if let Some(after) = &remote.after {
                let key =
                    self.front(job.host).and_then(|ahead| ahead.batches.get(job.next).copied().flatten());
                self.engine.after(after, key.map(|batch| (batch, report.task)), &mut result);
            }
            let host = item
                .delegate
                .as_ref()
                .map_or_else(|| self.hosts[job.host].name.clone(), |(name, _)| name.clone());
            if report.changes.iter().any(|change| change.kind == "package") {
                self.hosts[job.host].installs = true;
            }
            if !report.changes.is_empty() || !report.applied.is_empty() {
                let hidden = item.flags.no_log;
                self.engine.tell(Event::Recorded(Arc::new(Recorded {
                    host,
                    task: step.info.clone(),
                    changes: report.changes,
                    applied: report.applied,
                    login: Arc::new(remote.machine.login(remote.identity.as_deref())),
                    hidden,
                })));
            }
        }
        self.tell_warnings(&result);
        if item.flags.detach > 0 && item.flags.poll != Some(0.0) {
            // It was waited for on the open channel; playbooks look at it as at a job that has ended.
            let job = self.engine.shared.new_job();
            result.entry("ansible_job_id".into()).or_insert_with(|| job.into());
            for name in ["started", "finished"] {
                result.entry(name.into()).or_insert(Value::Bool(true));
            }
        }
        if matches!(step.task.action.as_str(), "ansible.builtin.setup" | "ansible.builtin.gather_facts") {
            prefix_facts(&mut result);
        }
        let diagnostic = truthy(&result, "failed").then(|| {
            let message = result.get("msg").map(Value::to_text).unwrap_or_default();
            Diagnostic::error(format!("Module failed: {message}")).at(Some(step.task.origin.clone()))
        });
        ItemOutcome { verdict: settle::verdict_of(&result), result, diagnostic }
    }

    fn tell_warnings(&mut self, result: &Map) {
        if let Some(Value::List(warnings)) = result.get("warnings") {
            for warning in warnings.iter() {
                self.engine.tell(Event::Diagnostic(Diagnostic::warning(warning.to_text())));
            }
        }
    }

    fn name_stuck_hosts(&mut self) {
        let mut stuck = Vec::new();
        for group in &self.groups {
            let Some(step) = &group.step else { continue };
            for job in step.jobs.iter().filter(|job| !job.done) {
                let host = &self.hosts[job.host];
                if let Some(since) = host.since {
                    let seconds = since.elapsed().as_secs();
                    if seconds >= host.named_at {
                        stuck.push((job.host, step.info.title.clone(), seconds));
                    }
                }
            }
        }
        for (host, task, seconds) in stuck {
            self.hosts[host].named_at = seconds * 2;
            let host = self.hosts[host].name.clone();
            self.engine.tell(Event::Stuck { host, task, seconds });
        }
    }

    // ---- effects ----

    fn apply_effects(&mut self, step: &Step, host: usize, effects: &[Effect], result: &mut Map) {
        let receivers: Vec<usize> = if step.once.is_empty() { vec![host] } else { step.once.clone() };
        for effect in effects {
            match effect {
                Effect::SetFacts { vars, cacheable } => {
                    let delegated = self.delegated_facts(host);
                    let set = |known: &mut crate::vars::HostVars| {
                        for (name, value) in vars {
                            known.set(&name.to_text(), value.untrusted());
                        }
                        if *cacheable {
                            known.add_facts(vars);
                        }
                    };
                    if let Some(name) = delegated {
                        let mut known = self.engine.shared.host_vars(&name).as_ref().clone();
                        set(&mut known);
                        self.engine.shared.vars.publish(&known);
                        if *cacheable {
                            self.engine.cache_facts(&known);
                        }
                        if let Some(other) = self.by_name.get(&name).copied() {
                            self.hosts[other].vars = Arc::new(known);
                        }
                        continue;
                    }
                    for receiver in &receivers {
                        let mut known = self.hosts[*receiver].vars.as_ref().clone();
                        set(&mut known);
                        if *cacheable {
                            self.engine.cache_facts(&known);
                        }
                        self.set_vars(*receiver, known);
                    }
                }
                Effect::IncludeVars(map) => {
                    for receiver in &receivers {
                        let mut known = self.hosts[*receiver].vars.as_ref().clone();
                        let included = Arc::make_mut(&mut known.included);
                        included.extend(map.iter().map(|(key, value)| (key.clone(), value.clone())));
                        self.set_vars(*receiver, known);
                    }
                }
                Effect::AddHost { name, groups, vars } => {
                    let changed =
                        self.engine.change_inventory(|inventory| inventory.add_host(name, groups, vars));
                    self.engine.note_addition(effect);
                    result.insert(Value::str("changed"), Value::Bool(changed));
                }
                Effect::GroupBy { group, parents } => {
                    let name = self.hosts[host].name.clone();
                    let changed = self
                        .engine
                        .change_inventory(|inventory| inventory.add_group(group, parents, &[&name]));
                    result.insert(Value::str("changed"), Value::Bool(changed));
                    self.engine.note_group(&name, effect);
                    if changed {
                        self.refresh_inventory_vars();
                    }
                }
                Effect::Stats { data, per_host, aggregate } => {
                    let name = if *per_host { self.hosts[host].name.clone() } else { "_run".into() };
                    self.engine.add_stats(&name, data, *aggregate);
                }
            }
        }
    }

    /// Hosts that a refreshed inventory no longer has take no further part.
    fn drop_unlisted_hosts(&mut self) -> Result<(), Stop> {
        let play = self.play.play.clone();
        let (_, listed) = self.engine.select(&play)?;
        let listed: HashSet<Arc<str>> = listed.into_iter().collect();
        for host in &mut self.hosts {
            if host.is_active() && !listed.contains(&host.name) {
                host.forget();
                host.state = HostState::Ended;
            }
        }
        Ok(())
    }

    fn delegated_facts(&self, host: usize) -> Option<Arc<str>> {
        let ahead = self.front(host)?;
        let mut theirs = ahead.planned.items.iter().filter(|item| item.flags.delegate_facts);
        theirs.find_map(|item| item.delegate.as_ref()).map(|(name, _)| name.clone())
    }

    fn set_vars(&mut self, host: usize, vars: crate::vars::HostVars) {
        self.engine.shared.vars.publish(&vars);
        self.hosts[host].vars = Arc::new(vars);
    }

    pub(super) fn refresh_inventory_vars(&mut self) {
        let inventory = self.engine.inventory();
        let dir = self.play.play.path.parent().map(std::path::PathBuf::from);
        for host in 0..self.hosts.len() {
            let mut vars = self.hosts[host].vars.as_ref().clone();
            if let Ok(layers) = inventory.var_layers(&vars.name, dir.as_deref()) {
                vars.inventory = layers;
            }
            self.set_vars(host, vars);
            self.hosts[host].forget_later_plans();
        }
    }

    // ---- notifications ----

    fn name_handlers(&mut self) {
        let names = self.play.handlers.iter().map(|handler| {
            let scope = crate::vars::Scope {
                role: handler.role.clone(),
                keywords: Some(handler.keywords.clone()),
                ..crate::vars::Scope::of_host(&self.engine.shared.vars, &self.play.vars, &Arc::default())
            };
            let bound = Planner {
                shared: &self.engine.shared,
                play: &self.play,
                task: handler,
                host: &Arc::default(),
                ahead: false,
            }
            .bind(scope);
            match &handler.name {
                Some(name) => self
                    .engine
                    .shared
                    .templar
                    .render(name, &bound.context())
                    .map_or_else(|_| name.to_text(), |name| name.to_text()),
                None => handler.action_written.clone(),
            }
        });
        self.handler_names = names.collect();
    }

    fn notify(&mut self, step: &Step, job: &Job, items: &[PlannedItem]) {
        let quiet = self.front(job.host).is_some_and(|ahead| ahead.planned.flags.quiet);
        if step.task.notify.is_empty() || quiet {
            return;
        }
        let receivers: Vec<usize> = if step.once.is_empty() { vec![job.host] } else { step.once.clone() };
        let mut names: Vec<String> = Vec::new();
        for (item, outcome) in items.iter().zip(&job.outcomes) {
            if outcome.verdict == Verdict::Skipped {
                continue;
            }
            let planner = self.planner(&step.task, job.host);
            let mut scope = planner.scope();
            scope.local.extend(item.local.iter().map(|(key, value)| (key.clone(), value.clone())));
            let bound = planner.bind(scope);
            for name in &step.task.notify {
                match self.engine.shared.templar.render(name, &bound.context()) {
                    Ok(Value::List(list)) => names.extend(list.iter().map(Value::to_text)),
                    Ok(Value::Null | Value::Omit) => {}
                    Ok(name) => names.push(name.to_text()),
                    Err(error) => {
                        self.engine.pending_stop =
                            Some(Stop::Error(Diagnostic::error(error.told()).at(error.origin)));
                        return;
                    }
                }
            }
        }
        for name in names {
            let found = self.find_handlers(&name, &step.task);
            if found.is_empty() {
                let known: Vec<&str> = self.handler_names.iter().map(String::as_str).collect();
                let mut diagnostic = Diagnostic::error(format!(
                    "The requested handler '{name}' was not found in either the main handlers list nor in the listening handlers list"
                ))
                .at(step.task.notify.iter().find_map(|name| name.origin().cloned()).or_else(|| Some(step.task.origin.clone())));
                if let Some(meant) = crate::diagnostic::did_you_mean(&name, known) {
                    diagnostic = diagnostic.hint(format!("did you mean `{meant}`?"));
                }
                self.engine.pending_stop = Some(Stop::Error(diagnostic));
                return;
            }
            for receiver in &receivers {
                for index in &found {
                    let state = &mut self.hosts[*receiver];
                    if state.cursor.notified.insert(*index) {
                        // A flush that was walked over with nothing to run has something to run now.
                        if let Some(flush) =
                            state.queue.iter().position(|entry| matches!(entry.kind, AheadKind::Flush))
                        {
                            state.forget_from(flush.max(1));
                        }
                        if let Some(walker) = &mut state.walker {
                            walker.notified.insert(*index);
                        }
                        for entry in &mut state.queue {
                            entry.before.notified.insert(*index);
                        }
                        let host = state.name.clone();
                        let handler = self.handler_names[*index].clone();
                        self.engine.tell(Event::Notified { handler, host });
                    }
                }
            }
        }
    }

    /// Handlers by name (the last one defined) and by topic (all that listen).
    fn find_handlers(&self, name: &str, _task: &Task) -> Vec<usize> {
        let mut found = Vec::new();
        let handlers = &self.play.handlers;
        let full = |index: usize| -> Vec<String> {
            let plain = self.handler_names[index].clone();
            match &handlers[index].role {
                Some(role) => vec![format!("{} : {plain}", role.name), plain],
                None => vec![plain],
            }
        };
        if let Some(index) =
            (0..handlers.len()).rev().find(|index| full(*index).iter().any(|known| known == name))
        {
            found.push(index);
        }
        for (index, handler) in handlers.iter().enumerate() {
            let listens = handler.listen.iter().any(|topic| {
                topic == name
                    || handler.role.as_ref().is_some_and(|role| format!("{} : {topic}", role.name) == name)
            });
            if listens && !found.contains(&index) {
                found.push(index);
            }
        }
        found
    }

    // ---- includes and meta ----

    fn include(&mut self, task: &Arc<Task>, participants: &[usize]) -> Result<(), Stop> {
        let planner_info = self.planner(task, participants[0]).info(self.engine.shared.options.check);
        self.announce(&planner_info);
        let mut told: BTreeMap<(u32, String), (Vec<Arc<str>>, String, Option<String>)> = BTreeMap::new();
        let mut entering: Vec<(usize, Vec<Arc<Included>>)> = Vec::new();
        let mut lost: HashSet<usize> = HashSet::new();
        let mut fatal = false;
        for host in participants.iter().copied() {
            let resolved = include::resolve(&self.planner(task, host));
            let walked = matches!(
                self.hosts[host].queue.front().map(|entry| &entry.kind),
                Some(AheadKind::Include(_))
            );
            match resolved {
                Ok(resolved) if !resolved.broken.is_empty() => return Err(Stop::Syntax(resolved.broken)),
                Ok(resolved) if !resolved.missing.is_empty() => {
                    let step = Step {
                        task: task.clone(),
                        info: planner_info.clone(),
                        jobs: Vec::new(),
                        once: Vec::new(),
                        throttle: 0,
                    };
                    for settled in resolved.missing {
                        self.tell_failed(&step, host, ItemOutcome::settled(settled), false, false);
                    }
                    fatal |= self.is_fatal(task, host);
                    lost.insert(host);
                    self.fail_host(host);
                    self.update_play_hosts();
                }
                Ok(resolved) => {
                    let name = self.hosts[host].name.clone();
                    for (included, label) in resolved.included.iter().zip(&resolved.labels) {
                        let key = (included.ordinal, label.clone().unwrap_or_default());
                        let entry = told
                            .entry(key)
                            .or_insert_with(|| (Vec::new(), included.what.clone(), label.clone()));
                        entry.0.push(name.clone());
                    }
                    if resolved.included.is_empty() {
                        let step = Step {
                            task: task.clone(),
                            info: planner_info.clone(),
                            jobs: Vec::new(),
                            once: Vec::new(),
                            throttle: 0,
                        };
                        self.tell_settled(
                            &step,
                            host,
                            resolved.results.first().cloned().map(ItemOutcome::settled),
                        );
                    }
                    if let Some(register) = &task.register {
                        let value = resolved
                            .results
                            .last()
                            .map(|settled| settle::registered(&settled.result))
                            .unwrap_or_default();
                        let mut vars = self.hosts[host].vars.as_ref().clone();
                        vars.set(register, value);
                        self.set_vars(host, vars);
                    }
                    if walked {
                        self.hosts[host].queue.pop_front();
                    } else {
                        self.hosts[host].forget();
                    }
                    if task.handler && !resolved.included.is_empty() {
                        let (host, handler) = (self.hosts[host].name.clone(), planner_info.name.clone());
                        self.engine.tell(Event::HandlerEntered { handler, host });
                    }
                    entering.push((host, resolved.included));
                }
                Err(error) => {
                    let settled = match error {
                        crate::engine::plan::PlanError::Failed(settled) => *settled,
                        crate::engine::plan::PlanError::Pending => crate::engine::plan::failed(
                            task,
                            "a result that this include needs never arrived",
                        ),
                    };
                    let ignored = task
                        .keywords
                        .ignore_errors
                        .as_ref()
                        .is_some_and(|value| value.to_bool() == Some(true));
                    let step = Step {
                        task: task.clone(),
                        info: planner_info.clone(),
                        jobs: Vec::new(),
                        once: Vec::new(),
                        throttle: 0,
                    };
                    let rescued = !ignored && self.hosts[host].cursor.would_rescue();
                    let mut vars = self.hosts[host].vars.as_ref().clone();
                    vars.set("ansible_failed_result", settle::registered(&settled.result));
                    vars.set("ansible_failed_task", failed_task_value(&step));
                    self.set_vars(host, vars);
                    self.tell_failed(&step, host, ItemOutcome::settled(settled), ignored, rescued);
                    if ignored {
                        self.hosts[host].forget();
                        self.hosts[host].cursor.advance(true);
                    } else {
                        fatal |= self.is_fatal(task, host);
                        lost.insert(host);
                        self.fail_host(host);
                        self.update_play_hosts();
                    }
                }
            }
        }
        for ((_, _), (hosts, what, label)) in told {
            for host in &hosts {
                self.engine.count_ok(host);
            }
            self.engine.tell(Event::Included { what, hosts, item: label });
        }
        let mut brought: Vec<Arc<Included>> = Vec::new();
        for (host, included) in entering {
            include::enter(&mut self.hosts[host].cursor, &included);
            for one in included {
                if !brought.iter().any(|known| Arc::ptr_eq(known, &one)) {
                    brought.push(one);
                }
            }
        }
        self.adopt(&brought);
        if fatal {
            self.spread_failure(self.group_of(participants[0]), &lost);
        }
        Ok(())
    }

    /// Whether `any_errors_fatal` holds for a task on a host.
    fn is_fatal(&self, task: &Arc<Task>, host: usize) -> bool {
        let planner = self.planner(task, host);
        let Some(keyword) = &task.keywords.any_errors_fatal else {
            return self.engine.shared.settings.any_errors_fatal;
        };
        let bound = planner.bind(planner.scope());
        let value = self.engine.shared.templar.render(keyword, &bound.context());
        value.is_ok_and(|value| value.to_bool() == Some(true))
    }

    /// Handlers and public variables of included roles become the play's.
    fn adopt(&mut self, included: &[Arc<Included>]) {
        let known: HashSet<u64> = self.play.handlers.iter().map(|handler| handler.id).collect();
        let new: Vec<Arc<Task>> = included
            .iter()
            .flat_map(|one| one.handlers.iter())
            .filter(|handler| !known.contains(&handler.id))
            .cloned()
            .collect();
        let public: Vec<_> = included
            .iter()
            .filter_map(|one| one.role.clone())
            .filter(|role| {
                role.public && !self.play.vars.public_roles.iter().any(|known| known.id == role.id)
            })
            .collect();
        if new.is_empty() && public.is_empty() {
            return;
        }
        let mut vars = crate::vars::PlayVars {
            vars: self.play.vars.vars.clone(),
            prompted: self.play.vars.prompted.clone(),
            public_roles: self.play.vars.public_roles.clone(),
            magic: self.play.vars.magic.clone(),
        };
        vars.public_roles.extend(public);
        let handlers: Arc<[Arc<Task>]> = self.play.handlers.iter().cloned().chain(new).collect();
        self.play = Arc::new(PlayState { play: self.play.play.clone(), vars: Arc::new(vars), handlers });
        self.name_handlers();
    }

    fn tell_settled(&mut self, step: &Step, host: usize, outcome: Option<ItemOutcome>) {
        let outcome = outcome.unwrap_or_else(|| settle::aggregate(&[], &[], "item", None));
        self.tell_failed(step, host, outcome, false, false);
    }

    fn tell_failed(&mut self, step: &Step, host: usize, outcome: ItemOutcome, ignored: bool, rescued: bool) {
        let result = TaskResult {
            host: self.hosts[host].name.clone(),
            task: step.info.clone(),
            delegate: None,
            verdict: outcome.verdict,
            ignored,
            rescued,
            looped: false,
            result: Value::map(outcome.result),
            label: None,
            verbose_always: false,
            diagnostic: outcome.diagnostic,
            millis: 0,
        };
        self.engine.count(&result);
        self.engine.tell(Event::Result(result));
    }

    fn meta(&mut self, task: &Arc<Task>, participants: &[usize]) -> Result<(), Stop> {
        let name = include::meta_name(task).to_string();
        let info = self.planner(task, participants[0]).info(false);
        if !task.implicit {
            self.announce(&info);
        }
        let linear = self.strategy == Strategy::Linear;
        let once = linear
            && matches!(
                name.as_str(),
                "clear_facts" | "clear_host_errors" | "end_play" | "end_batch" | "refresh_inventory"
            );
        let judged: Vec<usize> = if once { participants[..1].to_vec() } else { participants.to_vec() };
        let mut applies = Vec::new();
        let step = Step { task: task.clone(), info, jobs: Vec::new(), once: Vec::new(), throttle: 0 };
        for host in judged {
            let outcome = {
                let planner = self.planner(task, host);
                let bound = planner.bind(planner.scope());
                planner.condition(&task.keywords.when, &bound).map(|unmet| unmet.is_none())
            };
            match outcome {
                // There it stands in many a role, where nobody notifies it.
                Ok(true) if task.handler && name == "flush_handlers" => {
                    let refused =
                        crate::engine::plan::failed(task, "flush_handlers cannot be used as a handler");
                    let rescued = self.hosts[host].cursor.would_rescue();
                    self.tell_failed(&step, host, ItemOutcome::settled(refused), false, rescued);
                    self.fail_host(host);
                }
                Ok(true) => {
                    if task.handler {
                        let (host, handler) = (self.hosts[host].name.clone(), step.info.name.clone());
                        self.engine.tell(Event::HandlerEntered { handler, host });
                    }
                    applies.push(host);
                }
                Ok(false) => {
                    if !task.implicit {
                        let result = TaskResult {
                            host: self.hosts[host].name.clone(),
                            task: step.info.clone(),
                            delegate: None,
                            verdict: Verdict::Skipped,
                            ignored: false,
                            rescued: false,
                            looped: false,
                            result: Value::map(map_of([
                                ("skipped", Value::Bool(true)),
                                ("msg", Value::str(name.as_str())),
                            ])),
                            label: None,
                            verbose_always: false,
                            diagnostic: None,
                            millis: 0,
                        };
                        self.engine.tell(Event::Result(result));
                    }
                }
                Err(error) => {
                    let outcome = ItemOutcome::settled(crate::engine::plan::failure(&error));
                    let rescued = self.hosts[host].cursor.would_rescue();
                    self.tell_failed(&step, host, outcome, false, rescued);
                    self.fail_host(host);
                }
            }
        }
        if once && !applies.is_empty() {
            applies = participants.to_vec();
        }
        // The place moves on first; what the action does may move it further.
        for host in participants.iter().copied() {
            if !self.hosts[host].is_active() {
                continue;
            }
            let walked =
                matches!(self.hosts[host].queue.front().map(|entry| &entry.kind), Some(AheadKind::Flush));
            let due = name == "flush_handlers" && self.hosts[host].cursor.due();
            if walked && name == "flush_handlers" && !due {
                self.hosts[host].queue.pop_front();
                self.hosts[host].cursor.advance(false);
                continue;
            }
            self.hosts[host].forget();
            if due && applies.contains(&host) {
                let handlers = self.play.handlers.clone();
                self.hosts[host].cursor.flush(handlers);
            } else if name != "end_role" || !applies.contains(&host) {
                self.hosts[host].cursor.advance(false);
            }
        }
        match name.as_str() {
            "flush_handlers" | "noop" => {}
            "end_host" => {
                for host in applies {
                    self.hosts[host].state = HostState::Ended;
                }
            }
            "end_play" if !applies.is_empty() => self.end_play = true,
            "end_batch" if !applies.is_empty() => self.end_batch = true,
            "end_role" => {
                for host in applies {
                    self.hosts[host].cursor.end_role();
                }
            }
            "clear_facts" => {
                for host in applies {
                    let mut vars = self.hosts[host].vars.as_ref().clone();
                    vars.clear_facts();
                    self.engine.shared.vars.cache.remove(&vars.name);
                    self.set_vars(host, vars);
                }
            }
            "clear_host_errors" if !applies.is_empty() => {
                self.engine.clear_host_errors();
                for host in &mut self.hosts {
                    host.cursor.forgive();
                    match host.state {
                        HostState::Failed => host.state = HostState::Ended,
                        HostState::Unreachable => {
                            host.state = HostState::Active;
                            host.late = true;
                        }
                        HostState::Active | HostState::Ended => {}
                    }
                    host.doomed = false;
                }
                self.update_play_hosts();
            }
            "refresh_inventory" if !applies.is_empty() => {
                self.engine.refresh_inventory()?;
                self.refresh_inventory_vars();
                self.drop_unlisted_hosts()?;
            }
            "reset_connection" => {
                for host in applies {
                    self.engine.reset_connection(&self.hosts[host].name.clone());
                }
            }
            _ => {}
        }
        Ok(())
    }

    // ---- the engine's own actions ----

    fn engine_action(
        &mut self,
        job: &mut Job,
        action: &str,
        args: &Map,
        machine: Option<&Arc<Machine>>,
        identity: Option<&Arc<Become>>,
    ) -> Option<ItemOutcome> {
        if action == "ansible.builtin.pause" {
            return crate::engine::pause::work(self.engine, &mut job.memory, &mut job.not_before, args);
        }
        if self.front(job.host).is_some_and(|ahead| ahead.planned.flags_at(job.next).check) {
            return Some(reconnect::dry(action));
        }
        let fail = |message: &str| {
            let result = map_of([("failed", Value::Bool(true)), ("msg", Value::str(message))]);
            Some(ItemOutcome { result, verdict: Verdict::Failed, diagnostic: None })
        };
        let Some(machine) = machine else { return fail("there is no machine to wait for") };
        let reboot = action == "ansible.builtin.reboot";
        if reboot && machine.target.kind == Kind::Local {
            return fail("reboot over a local connection would reboot the machine that setpoint runs on");
        }
        if job.waiting.is_none() {
            let made = if reboot {
                reconnect::Waiting::for_reboot(args)
            } else {
                reconnect::Waiting::for_connection(args)
            };
            let state = match made {
                Ok(state) => state,
                Err(result) => {
                    return Some(ItemOutcome { result, verdict: Verdict::Failed, diagnostic: None });
                }
            };
            job.waiting = Some(Waiting { state, since: Instant::now(), asked: None });
        }
        let outcome = self.wait_for_machine(job, machine, identity);
        if outcome.is_some() {
            job.waiting = None;
        }
        outcome
    }

    /// Takes a job that waits for a machine as far as it can go now.
    fn wait_for_machine(
        &mut self,
        job: &mut Job,
        machine: &Arc<Machine>,
        identity: Option<&Arc<Become>>,
    ) -> Option<ItemOutcome> {
        loop {
            let waiting = job.waiting.as_mut()?;
            let now = Instant::now();
            let answer = match waiting.asked {
                None => None,
                Some((request, until)) => match self.answers.remove(&request) {
                    Some(answer) => Some(answer),
                    None if now < until => return None,
                    None => {
                        self.engine.sessions.cut(machine.id);
                        Some(Err("no answer in time".to_string()))
                    }
                },
            };
            waiting.asked = None;
            match waiting.state.next(now.duration_since(waiting.since), answer) {
                reconnect::Next::Ask { command, limit, fresh } => {
                    if fresh {
                        // Whatever is open leads to a machine that is going away, or is gone.
                        self.engine.sessions.cut(machine.id);
                        self.engine.reset_connection(&machine.host);
                    }
                    let request = self.engine.next_batch();
                    waiting.asked = Some((request, now + limit));
                    self.engine.sessions.raw(machine.id, &machine.target, identity, command, request);
                }
                reconnect::Next::Sleep(time) => {
                    job.not_before = Some(now + time);
                    return None;
                }
                reconnect::Next::Done(result) => {
                    return Some(ItemOutcome {
                        verdict: settle::verdict_of(&result),
                        result,
                        diagnostic: None,
                    });
                }
            }
        }
    }
}

impl Job {
    fn empty() -> Job {
        Job {
            host: 0,
            next: 0,
            outcomes: Vec::new(),
            attempt: 1,
            not_before: None,
            done: true,
            started: Instant::now(),
            memory: Map::new(),
            waiting: None,
            polled: None,
            task: None,
        }
    }
}

fn truthy(result: &Map, name: &str) -> bool {
    result.get(name).is_some_and(Value::truthy)
}

fn same_identity(a: &Option<Arc<Become>>, b: &Option<Arc<Become>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

fn entry_verifiable(task: &TaskAhead) -> bool {
    task.planned.items.iter().all(|item| match &item.step {
        Work::Remote(remote) => remote.verifiable && remote.raw.is_none() && item.delegate.is_none(),
        _ => true,
    })
}

/// Results that are shown whatever the verbosity: what `debug` says, and what `assert` found.
fn shown_always(action: &str, outcome: &ItemOutcome) -> bool {
    match action {
        "ansible.builtin.debug" => matches!(outcome.verdict, Verdict::Ok | Verdict::Changed),
        "ansible.builtin.assert" => match outcome.verdict {
            Verdict::Ok | Verdict::Changed => true,
            _ => outcome.result.contains_key("evaluated_to"),
        },
        _ => false,
    }
}

/// The keys of `setup`'s result that have no prefix.
const PLAIN_FACTS: [&str; 2] = ["gather_subset", "module_setup"];

/// `setup` reports facts under their names in `ansible_facts`; its result shows them as it always did.
fn prefix_facts(result: &mut Map) {
    let Some(Value::Map(facts)) = result.get_mut("ansible_facts") else { return };
    let prefixed = facts
        .iter()
        .map(|(key, value)| match key.as_str() {
            Some(name) if !name.starts_with("ansible_") && !PLAIN_FACTS.contains(&name) => {
                (Value::str(format!("ansible_{name}")), value.clone())
            }
            _ => (key.clone(), value.clone()),
        })
        .collect();
    *facts = Arc::new(prefixed);
}

/// Actions whose `ansible_facts` are variables that they have set themselves.
fn is_own_fact_action(action: &str) -> bool {
    matches!(action, "ansible.builtin.set_fact" | "ansible.builtin.include_vars")
}

fn empty_item() -> PlannedItem {
    PlannedItem {
        local: Map::new(),
        item: None,
        label: None,
        step: Work::Done(crate::engine::plan::Settled::default()),
        delegate: None,
        flags: Flags::default(),
    }
}

/// `ansible_failed_task`.
fn failed_task_value(step: &Step) -> Value {
    Value::map(map_of([
        (
            "name",
            step.task.name.as_ref().map_or_else(|| Value::str(""), |_| Value::str(step.info.name.as_str())),
        ),
        ("action", Value::str(step.task.action_written.as_str())),
        ("args", Value::Map(step.task.args.clone()).untrusted()),
        ("register", Value::from(step.task.register.clone())),
        ("tags", Value::list(step.task.keywords.tags.iter().map(Value::untrusted).collect())),
    ]))
}

/// The items of a play's whole run, in order.
pub fn sections(play: &crate::playbook::Play, gather: Option<Arc<Task>>, flush: &Arc<Task>) -> Vec<Item> {
    let mut items = Vec::new();
    items.extend(gather.map(Item::Task));
    items.extend(play.pre_tasks.iter().cloned());
    items.push(Item::Task(flush.clone()));
    items.extend(play.role_tasks.iter().cloned());
    items.extend(play.tasks.iter().cloned());
    items.push(Item::Task(flush.clone()));
    items.extend(play.post_tasks.iter().cloned());
    items.push(Item::Task(flush.clone()));
    items
}
