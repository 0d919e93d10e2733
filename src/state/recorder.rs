//! Writes a run into the store while it goes on: listens to events, and hands what they say to a thread of
//! its own, which writes in batches. The run never waits for the disk.
//!
//! What a failure of the store means for the run is: nothing. It is said once, and the run goes on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::commit;
use super::resource;
use super::store::Store;
use super::{
    Applied, NewResult, NewRun, NotedTask, Owed, Prior, RunHost, RunKind, Stats, Status, StoreError, Stored,
    TaskRef, now, seal,
};
use crate::engine::options::relative;
use crate::event::{Event, HostStats, Listener, Login, Recorded, TaskInfo, Verdict};
use crate::value::Value;

/// How long what happened may wait to be written.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long what is told is gathered: waking up for each word costs more than to note it.
const GATHER: Duration = Duration::from_millis(40);

/// How often it is said that the run goes on.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// Rows of one transaction, at most.
const BATCH: usize = 5_000;

/// What the thread is told.
enum Message {
    Playbook(String),
    Play(String, Vec<Arc<str>>),
    Result { host: Arc<str>, task: Arc<TaskInfo>, verdict: Verdict, ignored: bool, millis: u64 },
    Recorded(Arc<Recorded>),
    Notified { host: Arc<str>, handler: String },
    Entered { host: Arc<str>, handler: String },
    Gone { host: Arc<str>, playbook: String, play: String, handler: String },
    Interrupted,
    Recap(Vec<(Arc<str>, HostStats)>),
    End(Status),
}

/// Listens to a run and writes it into the store.
pub struct Recorder {
    to: Sender<Message>,
}

/// The other end of a [`Recorder`]: says how the run ended, and waits until all is written.
pub struct Ending {
    to: Sender<Message>,
    over: Arc<Over>,
    done: Receiver<Option<StoreError>>,
}

/// Whether the run is over: then nothing is gathered any longer.
#[derive(Default)]
struct Over {
    is_over: Mutex<bool>,
    told: Condvar,
}

impl Over {
    fn tell(&self) {
        *self.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.told.notify_all();
    }

    /// Waits until the run is over, but no longer than this.
    fn wait(&self, time: Duration) {
        let is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        // What it says has to be looked for in any case.
        let _ = self.told.wait_timeout_while(is_over, time, |is_over| !*is_over);
    }
}

impl Recorder {
    /// Begins to record a run. Both halves must be kept until it is over.
    ///
    /// # Errors
    /// The store can't be written to.
    pub fn start(mut store: Store, run: NewRun) -> Result<(Recorder, Ending), StoreError> {
        store.hurry()?;
        store.begin_run(&run)?;
        let (to, from) = channel();
        let over = Arc::new(Over::default());
        let heard = Arc::clone(&over);
        let (tell, done) = channel();
        std::thread::Builder::new()
            .name("recorder".into())
            .spawn(move || {
                let mut writer = Writer::new(store, run);
                let outcome = writer.work(&from, &heard);
                let Writer { store, .. } = writer;
                drop(store);
                // Nobody needs to wait until what is remembered of the run is freed.
                let _ = tell.send(outcome);
            })
            .map_err(|error| StoreError::Place(format!("there is no thread for the state store: {error}")))?;
        Ok((Recorder { to: to.clone() }, Ending { to, over, done }))
    }

    fn tell(&self, message: Message) {
        // The thread that writes has said why it ended, or will.
        let _ = self.to.send(message);
    }
}

impl Ending {
    /// Says how the run ended; what is left is written from now on.
    pub fn tell(&self, status: Status) {
        let _ = self.to.send(Message::End(status));
        self.over.tell();
    }

    /// Waits until everything is written, once it is told how the run ended. Returns what went wrong with the
    /// store.
    pub fn finish(self) -> Option<StoreError> {
        self.done.recv().unwrap_or(None)
    }
}

impl Listener for Recorder {
    fn event(&mut self, event: &Event) {
        match event {
            Event::PlaybookStarted { path } => self.tell(Message::Playbook(path.clone())),
            Event::PlayStarted { name, hosts, .. } => self.tell(Message::Play(name.clone(), hosts.clone())),
            Event::Result(result) => self.tell(Message::Result {
                host: result.host.clone(),
                task: result.task.clone(),
                verdict: result.verdict,
                ignored: result.ignored || result.rescued,
                millis: result.millis,
            }),
            Event::Recorded(recorded) => self.tell(Message::Recorded(recorded.clone())),
            Event::Notified { handler, host } => {
                self.tell(Message::Notified { host: host.clone(), handler: handler.clone() });
            }
            Event::HandlerEntered { handler, host } => {
                self.tell(Message::Entered { host: host.clone(), handler: handler.clone() });
            }
            Event::HandlerGone { host, playbook, play, handler } => self.tell(Message::Gone {
                host: host.clone(),
                playbook: playbook.clone(),
                play: play.clone(),
                handler: handler.clone(),
            }),
            Event::Interrupted { .. } => self.tell(Message::Interrupted),
            Event::Recap { stats } => self.tell(Message::Recap(stats.clone())),
            _ => {}
        }
    }
}

/// By numbers that are as good as random, or few.
type ByNumber<T> = HashMap<u64, T, BuildHasherDefault<AsIs>>;

/// Takes a number for its own hash.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |all, byte| all.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// What is remembered of a resource of this run, for when another task works on it too.
struct Seen {
    task: Arc<TaskInfo>,
    also: Vec<NotedTask>,
    state: Value,
    changed: bool,
}

/// Of how many resources it is kept in mind what the store says of them: those of more are written in any case.
const MOST_KNOWN: usize = 500_000;

/// What the store says of the resources of hosts: what has not changed is not written again.
#[derive(Default)]
struct Known {
    /// By host: [`Applied::digest`], by the number of the resource.
    hosts: HashMap<Arc<str>, ByNumber<i64>>,
    count: usize,
}

impl Known {
    /// Reads what there is of a host, unless that is done.
    fn learn(&mut self, host: &Arc<str>, store: &mut Store) -> Result<(), StoreError> {
        if self.hosts.contains_key(host) {
            return Ok(());
        }
        let mut digests = ByNumber::default();
        let room = MOST_KNOWN.saturating_sub(self.count);
        store.visit_digests(host, &mut |kind, id, digest| {
            if digests.len() < room {
                digests.insert(number_of(host, kind, id), digest);
            }
            Ok(())
        })?;
        self.count += digests.len();
        self.hosts.insert(host.clone(), digests);
        Ok(())
    }

    fn has(&self, host: &str, number: u64, digest: i64) -> bool {
        let digests = self.hosts.get(host);
        digests.and_then(|digests| digests.get(&number)).is_some_and(|known| *known == digest)
    }

    /// It is about to be written as it is now.
    fn note(&mut self, number: u64, one: &Applied) {
        if let Some(digests) = self.hosts.get_mut(&one.host)
            && let Some(digest) = digests.get_mut(&number)
        {
            *digest = one.digest();
        }
    }

    /// Rows of a host go: which, is not known.
    fn forget(&mut self, host: &str) {
        if let Some(digests) = self.hosts.get_mut(host) {
            digests.clear();
        }
    }
}

/// The thread that writes.
struct Writer {
    store: Store,
    run: NewRun,
    seq: u64,
    playbook: Arc<str>,
    play: Arc<str>,
    name: Arc<str>,
    origin: Arc<str>,
    /// What the last of the play's resources have in common, with the login that it is for.
    context: Option<(Arc<Login>, u64)>,
    recap: Vec<RunHost>,
    interrupted: bool,
    /// Tasks by their number in the run.
    tasks: ByNumber<NotedTask>,
    /// Those that the store has not been told of.
    new_tasks: Vec<NotedTask>,
    /// By host.
    results: HashMap<Arc<str>, Vec<NewResult>>,
    /// How many those are.
    count: usize,
    priors: Vec<Prior>,
    /// By the number of the resource, as in `seen`.
    applied: ByNumber<Applied>,
    known: Known,
    /// Directories and files that were removed, with what was below them.
    removed: Vec<(Arc<str>, String)>,
    seen: ByNumber<Seen>,
    owe: Vec<Owed>,
    settle: Vec<Owed>,
    /// Handlers without a result of their own that have begun: settled when the run ends well for their hosts.
    entered: Vec<Owed>,
}

impl Writer {
    fn new(store: Store, run: NewRun) -> Writer {
        Writer {
            store,
            seq: 0,
            playbook: "".into(),
            play: "".into(),
            name: run.id.as_str().into(),
            origin: "run".into(),
            context: None,
            run,
            known: Known::default(),
            recap: Vec::new(),
            interrupted: false,
            tasks: ByNumber::default(),
            new_tasks: Vec::new(),
            results: HashMap::new(),
            count: 0,
            priors: Vec::new(),
            applied: ByNumber::default(),
            removed: Vec::new(),
            seen: ByNumber::default(),
            owe: Vec::new(),
            settle: Vec::new(),
            entered: Vec::new(),
        }
    }

    /// Writes until the run is over; returns why the store could not be written to, if it could not.
    fn work(&mut self, from: &Receiver<Message>, over: &Over) -> Option<StoreError> {
        // While connections are made there is time. It may fail because another reads.
        let _ = self.store.tend();
        if let Some(playbook) = self.run.playbooks.first()
            && let Some(commit) = commit::of(Path::new(playbook))
            && let Err(error) = self.store.set_commit(&self.run.id, &commit.id, commit.dirty)
        {
            return Some(error);
        }
        let mut beat = Instant::now();
        let mut flushed = Instant::now();
        loop {
            let mut status = None;
            match from.recv_timeout(PATIENCE) {
                Ok(message) => {
                    status = self.take(message);
                    if status.is_none() {
                        over.wait(GATHER);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The run ended without a word.
                Err(RecvTimeoutError::Disconnected) => status = Some(Status::Error),
            }
            while status.is_none() && self.waiting() < BATCH {
                match from.try_recv() {
                    Ok(message) => status = self.take(message),
                    // Seen at the next turn.
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            // What handlers are owed must outlive whatever ends this process.
            let urgent = !self.owe.is_empty() || !self.settle.is_empty() || status.is_some();
            if (urgent || flushed.elapsed() >= PATIENCE || self.waiting() >= BATCH) && self.waiting() > 0 {
                if let Err(error) = self.flush() {
                    return Some(error);
                }
                flushed = Instant::now();
            }
            if beat.elapsed() >= HEARTBEAT {
                // The next one may get through.
                let _ = self.store.heartbeat(&self.run.id);
                let _ = self.store.tend();
                beat = Instant::now();
            }
            if let Some(status) = status {
                let status = if self.interrupted { Status::Interrupted } else { status };
                return self.store.end_run(&self.run.id, status, &self.recap).err();
            }
        }
    }

    fn waiting(&self) -> usize {
        self.count
            + self.priors.len()
            + self.applied.len()
            + self.owe.len()
            + self.settle.len()
            + self.removed.len()
    }

    /// Notes what is told; how the run ended, if that is it.
    fn take(&mut self, message: Message) -> Option<Status> {
        match message {
            Message::Playbook(path) => {
                self.playbook = absolute(&path).into();
                self.context = None;
            }
            Message::Play(name, hosts) => {
                self.play = name.into();
                self.context = None;
                self.learn(&hosts);
            }
            Message::Result { host, task, verdict, ignored, millis } => {
                self.result(host, &task, verdict, ignored, millis);
            }
            Message::Recorded(recorded) => self.recorded(&recorded),
            Message::Notified { host, handler } => {
                if self.changes_things() {
                    let owed = self.owed(&host, handler);
                    self.settle.retain(|settled| !same_debt(settled, &owed));
                    self.owe.push(owed);
                }
            }
            Message::Entered { host, handler } => {
                if self.changes_things() {
                    self.entered.push(self.owed(&host, handler));
                }
            }
            Message::Gone { host, playbook, play, handler } => {
                if self.changes_things() {
                    let gone = Owed { playbook, play, ..self.owed(&host, handler) };
                    self.settle(gone);
                }
            }
            Message::Interrupted => {
                self.interrupted = true;
                self.entered.clear();
            }
            Message::Recap(stats) => {
                self.recap = stats.into_iter().map(run_host).collect();
                for entered in std::mem::take(&mut self.entered) {
                    self.settle(entered);
                }
            }
            Message::End(status) => return Some(status),
        }
        None
    }

    /// What the store says of these hosts is read while connections are made.
    fn learn(&mut self, hosts: &[Arc<str>]) {
        if self.changes_things() {
            for host in hosts {
                // Unknown, all of it is written; what is wrong with the store is said then.
                let _ = self.known.learn(host, &mut self.store);
            }
        }
    }

    /// Whether the run is no dry run.
    fn changes_things(&self) -> bool {
        self.run.kind != RunKind::Check
    }

    fn owed(&self, host: &str, handler: String) -> Owed {
        Owed {
            host: host.to_string(),
            playbook: self.playbook.to_string(),
            play: self.play.to_string(),
            handler,
            run: self.run.id.clone(),
            since: now(),
        }
    }

    fn result(&mut self, host: Arc<str>, task: &Arc<TaskInfo>, verdict: Verdict, ignored: bool, millis: u64) {
        if task.handler
            && self.changes_things()
            && matches!(verdict, Verdict::Ok | Verdict::Changed | Verdict::Skipped)
        {
            let settled = self.owed(&host, task.name.clone());
            self.settle(settled);
        }
        if task.handler && !ignored && matches!(verdict, Verdict::Failed | Verdict::Unreachable) {
            self.entered.retain(|entered| *entered.host != *host);
        }
        let seq = self.next();
        let task = self.task(task).number();
        let result = NewResult { seq, task, verdict: verdict_name(verdict), ignored, millis };
        self.results.entry(host).or_default().push(result);
        self.count += 1;
    }

    fn settle(&mut self, settled: Owed) {
        self.owe.retain(|owed| !same_debt(owed, &settled));
        self.settle.push(settled);
    }

    fn next(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    fn task(&mut self, info: &TaskInfo) -> &NotedTask {
        self.tasks.entry(info.id).or_insert_with(|| {
            let task = task_ref(info, &self.run.directory);
            self.new_tasks.push(task.clone());
            task
        })
    }

    fn recorded(&mut self, recorded: &Recorded) {
        let Recorded { host, task: info, changes, applied, login, hidden } = recorded;
        if !self.changes_things() || info.check {
            return;
        }
        let task = self.task(info).clone();
        let mut changed: HashMap<(&str, &str), bool> = HashMap::new();
        for change in changes {
            let sensitive = changed.entry((resource::kind(&change.kind), &change.id)).or_default();
            *sensitive |= change.sensitive;
            if resource::is_path(&change.kind) && change.after.is_null() {
                self.removed.push((host.clone(), change.id.clone()));
                self.known.forget(host);
            }
            let sealed = *hidden || change.sensitive;
            let side = |value: &Value| if sealed { Value::Null } else { value.clone() };
            let seq = self.next();
            self.priors.push(Prior {
                run: self.run.id.clone(),
                seq,
                host: host.to_string(),
                task: task.clone(),
                kind: change.kind.clone(),
                id: change.id.clone(),
                before: side(&change.before),
                after: side(&change.after),
                sealed,
            });
        }
        let context = self.context(login);
        for one in applied {
            let (kind, state) = resource::normal(&one.kind, &one.state);
            let change = changed.get(&(kind, one.id.as_str()));
            let sealed = *hidden || change.is_some_and(|sensitive| *sensitive);
            let number = number_of(host, kind, &one.id);
            let directory = &self.run.directory;
            let seen = merge(&mut self.seen, (number, kind), info, state, change.is_some(), directory);
            let owner = if seen.task.id == info.id { task.clone() } else { task_ref(&seen.task, directory) };
            let text = seal::json(kind, &seen.state, sealed, self.store.salt());
            let digest = super::digest(&text, sealed, owner.number(), &seen.also, context);
            if !seen.changed && self.known.has(host, number, digest) {
                self.applied.remove(&number);
                continue;
            }
            let one = Applied {
                host: host.clone(),
                kind: kind.into(),
                id: one.id.clone(),
                state: Stored::from_text(&text),
                sealed,
                task: owner,
                also: seen.also.clone(),
                playbook: self.playbook.clone(),
                play: self.play.clone(),
                login: login.clone(),
                run: self.name.clone(),
                recorded: now(),
                changed_run: seen.changed.then(|| self.name.clone()),
                origin: self.origin.clone(),
            };
            self.applied.insert(number, one);
        }
    }

    /// See [`super::context`].
    fn context(&mut self, login: &Arc<Login>) -> u64 {
        match &self.context {
            Some((known, context)) if known == login => *context,
            _ => {
                let context = super::context(&self.playbook, &self.play, &self.origin, login);
                self.context.insert((login.clone(), context)).1
            }
        }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let tasks = std::mem::take(&mut self.new_tasks);
        let priors = std::mem::take(&mut self.priors);
        let applied = std::mem::take(&mut self.applied);
        let removed = std::mem::take(&mut self.removed);
        let owe = std::mem::take(&mut self.owe);
        let settle = std::mem::take(&mut self.settle);
        self.count = 0;
        // Should it fail, nothing is written any more.
        for (number, one) in &applied {
            self.known.note(*number, one);
        }
        let (run, results) = (&self.name, &mut self.results);
        self.store.within(|store| {
            store.note_tasks(&tasks)?;
            store.record_results(run, results.iter().map(|(host, results)| (&**host, results.as_slice())))?;
            results.values_mut().for_each(Vec::clear);
            store.record_prior(&priors)?;
            for (host, path) in &removed {
                store.forget_below(host, path)?;
            }
            store.record_applied(applied.values())?;
            for one in &settle {
                store.settle_owed(&one.host, &one.playbook, &one.play, &one.handler)?;
            }
            store.owe(&owe)
        })
    }
}

/// Adds what a task says of a resource to what other tasks of this run have said of it: the properties that
/// they manage and this one does not, and who they are.
fn merge<'a>(
    seen: &'a mut ByNumber<Seen>,
    (number, kind): (u64, &str),
    info: &Arc<TaskInfo>,
    state: Value,
    changed: bool,
    directory: &str,
) -> &'a Seen {
    match seen.entry(number) {
        Entry::Vacant(place) => place.insert(Seen { task: info.clone(), also: Vec::new(), state, changed }),
        Entry::Occupied(place) => {
            let earlier = place.into_mut();
            // A handler that restarts a service does not own it where a task does.
            let other = if info.handler && !earlier.task.handler {
                info.clone()
            } else {
                std::mem::replace(&mut earlier.task, info.clone())
            };
            if earlier.task.id != other.id {
                let other = task_ref(&other, directory);
                earlier.also.retain(|task| *task != other);
                earlier.also.push(other);
            }
            earlier.state = resource::merge(kind, &earlier.state, state);
            earlier.changed |= changed;
            earlier
        }
    }
}

/// What stands for a resource of a host within a run.
fn number_of(host: &str, kind: &str, id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (host, kind, id).hash(&mut hasher);
    hasher.finish()
}

fn same_debt(one: &Owed, other: &Owed) -> bool {
    one.host == other.host
        && one.playbook == other.playbook
        && one.play == other.play
        && one.handler == other.handler
}

fn run_host((host, stats): (Arc<str>, HostStats)) -> RunHost {
    RunHost {
        host: host.to_string(),
        stats: Stats {
            ok: stats.ok,
            changed: stats.changed,
            unreachable: stats.unreachable,
            failed: stats.failed,
            skipped: stats.skipped,
            rescued: stats.rescued,
            ignored: stats.ignored,
        },
    }
}

fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Changed => "changed",
        Verdict::Skipped => "skipped",
        Verdict::Failed => "failed",
        Verdict::Unreachable => "unreachable",
    }
}

/// A path that means the same from everywhere.
pub fn absolute(path: &str) -> String {
    std::fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path)).to_string_lossy().into_owned()
}

/// A task as the store names it: its file relative to the run's directory where it is below that.
pub fn task_ref(info: &TaskInfo, directory: &str) -> NotedTask {
    NotedTask::from(TaskRef {
        file: relative(&info.origin.file, directory),
        line: info.origin.line,
        title: info.title.clone(),
        role: info.role.clone(),
        action: info.action.clone(),
        handler: info.handler,
    })
}
