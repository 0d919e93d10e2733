//! The host's side: reads batches, does their tasks in order, and says what became of them.
//!
//! Tasks run on the main thread. One thread reads frames; one watches the clock. When the channel ends,
//! everything that a task has started ends with it.

mod depot;
mod job;
mod lock;
mod revert;
mod task;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::protocol::frame::{self, FrameError};
use crate::protocol::{Batch, CONFIRM, Call, Mode, Report, Status, ToController, ToRunner, VERSION};
use crate::system::exec::Programs;
use crate::system::local::Local;
use crate::system::parts::Parts;
use crate::system::prior::{self, Store};
use crate::system::switch::{self, Switch};

use depot::{Chunk, Wire};
use lock::Lock;

/// A task that takes longer than this is announced.
const ANNOUNCE: Duration = Duration::from_millis(300);

/// How long a task whose time is over may take to notice.
const GRACE: Duration = Duration::from_secs(3);

/// How many chunks of content may wait for a task to take them.
const CHUNKS: usize = 4;

/// The program: `--job` for a detached task, else the session on the standard streams.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let mut cwd: Option<PathBuf> = None;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--version") => {
                let _ = writeln!(std::io::stdout(), "setpoint-runner {}", env!("CARGO_PKG_VERSION"));
                return ExitCode::SUCCESS;
            }
            Some("--job") => return job::main(),
            Some("--revert") => return revert::main(arguments.next()),
            Some("--cwd") => cwd = arguments.next().map(PathBuf::from),
            Some("--remove") => remove_own_directory(arguments.next()),
            _ => {
                let _ =
                    writeln!(std::io::stderr(), "setpoint-runner: unknown argument {}", argument.display());
                return ExitCode::from(2);
            }
        }
    }
    prune_cache();
    if let Some(cwd) = cwd
        && std::env::set_current_dir(&cwd).is_err()
    {
        let _ = std::env::set_current_dir("/");
    }
    task::quiet_panics();
    serve(Box::new(std::io::stdin()), Box::new(std::io::stdout()), cache().map(Parts::new))
}

/// Removes the directory that was made only to start this program from. It goes on without it.
fn remove_own_directory(directory: Option<OsString>) {
    let Some(directory) = directory.map(PathBuf::from) else { return };
    let Ok(own) = std::env::current_exe() else { return };
    if own.parent() == Some(&directory) && own.file_name().is_some_and(|name| is_runner_name(Path::new(name)))
    {
        let _ = std::fs::remove_file(&own);
        let _ = std::fs::remove_dir(&directory);
    }
}

/// How long a runner that nobody has replaced or started may stay in the cache.
const STALE: Duration = Duration::from_secs(60 * 24 * 3600);

/// The directory of the user's own that this program was stored in, if it was.
fn cache() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    own.parent().filter(|cache| cache.ends_with(".cache/setpoint")).map(Path::to_path_buf)
}

/// Removes runners of other versions, and parts of contents, that were stored long ago.
fn prune_cache() {
    let (Ok(own), Some(cache)) = (std::env::current_exe(), cache()) else { return };
    Parts::new(cache.clone()).prune();
    let Ok(entries) = std::fs::read_dir(cache) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let age =
            entry.metadata().and_then(|found| found.modified()).ok().and_then(|time| time.elapsed().ok());
        let stale = age.is_some_and(|age| age > STALE);
        if stale && path != own && path.file_name().is_some_and(|name| is_runner_name(Path::new(name))) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn is_runner_name(name: &Path) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("runner-"))
}

/// What the threads share.
pub(crate) struct Shared {
    out: Mutex<Box<dyn Write + Send>>,
    now: Mutex<Now>,
    /// The dead man's switch, once it is armed, and when its deadline was moved on last.
    switch: Mutex<Option<(Switch, Instant)>>,
    /// Batches that came before the last `Cancel` have a lower number than this.
    epoch: AtomicU64,
    /// What tasks are running.
    programs: Programs,
}

/// The task that is being done.
#[derive(Clone, Debug, Default)]
struct Now {
    batch: u64,
    task: u32,
    started: Option<Instant>,
    announced: bool,
    deadline: Option<Instant>,
    limit: u64,
    overdue: bool,
}

impl Shared {
    fn new(out: Box<dyn Write + Send>) -> Shared {
        Shared {
            out: Mutex::new(out),
            now: Mutex::default(),
            switch: Mutex::default(),
            epoch: AtomicU64::new(0),
            programs: Programs::default(),
        }
    }

    /// Sends a message; a channel that is gone ends the program.
    pub(crate) fn send(&self, message: &ToController) -> Result<(), FrameError> {
        let encoded = frame::encode(message)?;
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.write_all(&encoded)?;
        Ok(out.flush()?)
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Batch and number of the task that is being done.
    pub(crate) fn current(&self) -> (u64, u32) {
        let now = self.now();
        (now.batch, now.task)
    }

    /// Sends a message if nobody else is sending one that does not get through.
    fn try_send(&self, message: &ToController) -> Result<(), FrameError> {
        let encoded = frame::encode(message)?;
        if let Ok(mut out) = self.out.try_lock() {
            out.write_all(&encoded)?;
            out.flush()?;
        }
        Ok(())
    }

    /// The dead man's switch was armed, and the run has been taken back.
    fn is_over(&self) -> bool {
        let switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
        switch.as_ref().is_some_and(|(switch, _)| switch.is_over())
    }

    /// Moves the deadline of the dead man's switch on.
    fn alive(&self) {
        let mut switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((switch, last)) = switch.as_mut()
            && last.elapsed() >= switch.interval()
        {
            *last = Instant::now();
            // It can't be helped: without it the run is taken back too early, not too late.
            let _ = switch.alive();
        }
    }

    fn canceled(&self, epoch: u64) -> bool {
        self.epoch.load(Ordering::SeqCst) > epoch
    }
}

/// What the reader hands to the main thread.
enum Work {
    Hello {
        keep: bool,
        version: u32,
        operator: String,
        run: String,
        check: bool,
        confirm: Option<u64>,
    },
    Batch {
        batch: Batch,
        epoch: u64,
    },
    /// The stream made no sense.
    Broken(String),
}

/// Works for a controller until it goes away. What a cut leaves of large contents is kept in `parts`, if that
/// is given.
pub fn serve(input: Box<dyn Read + Send>, output: Box<dyn Write + Send>, parts: Option<Parts>) -> ExitCode {
    let shared = Arc::new(Shared::new(output));
    let (work, queue) = channel();
    let (chunks, content) = sync_channel(CHUNKS);
    let hello = ToController::Hello { version: VERSION, pid: std::process::id() };
    if shared.send(&hello).is_err() {
        return ExitCode::FAILURE;
    }
    let reader = Arc::clone(&shared);
    std::thread::spawn(move || {
        read(input, &reader, work, chunks);
        end(&reader);
    });
    let watcher = Arc::clone(&shared);
    std::thread::spawn(move || watch(&watcher));
    let wire = Wire::new(Arc::clone(&shared), content, parts.clone());
    let local = Local::new(Box::new(wire)).ended_by(shared.programs.clone()).keeping(parts);
    let mut session = Session::new(Arc::clone(&shared), local);
    let outcome = session.serve(&queue);
    session.local.clear_scratch();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = shared.send(&ToController::Fatal { message });
            ExitCode::FAILURE
        }
    }
}

/// Reads frames until the channel ends.
#[expect(clippy::needless_pass_by_value, reason = "the other ends must see that this one is gone")]
fn read(mut input: Box<dyn Read + Send>, shared: &Shared, work: Sender<Work>, chunks: SyncSender<Chunk>) {
    loop {
        let handed_on = match frame::read::<ToRunner>(&mut *input) {
            Ok(Some(ToRunner::Hello { version, operator, run, check, keep, confirm })) => {
                work.send(Work::Hello { version, operator, run, check, keep, confirm }).is_ok()
            }
            Ok(Some(ToRunner::Batch(batch))) => {
                shared.alive();
                let epoch = shared.epoch.load(Ordering::SeqCst);
                work.send(Work::Batch { batch, epoch }).is_ok()
            }
            Ok(Some(ToRunner::Content(pieces))) => {
                pieces.into_iter().all(|piece| chunks.send(Chunk::Part(piece)).is_ok())
            }
            Ok(Some(ToRunner::BlobLost { sha256, reason })) => {
                chunks.send(Chunk::Lost { sha256, reason }).is_ok()
            }
            Ok(Some(ToRunner::Alive)) => {
                shared.alive();
                true
            }
            Ok(Some(ToRunner::Cancel)) => {
                shared.epoch.fetch_add(1, Ordering::SeqCst);
                true
            }
            Ok(None) => false,
            Err(FrameError::Io(_)) => false,
            Err(error) => {
                let _ = work.send(Work::Broken(error.to_string()));
                return;
            }
        };
        if !handed_on {
            return;
        }
    }
}

/// Nobody is there any more: commands that run end, the task at hand fails, and the main thread, finding
/// no more work, ends too.
fn end(shared: &Shared) {
    let deadline = Instant::now() + GRACE;
    shared.epoch.fetch_add(1, Ordering::SeqCst);
    while Instant::now() < deadline {
        shared.programs.kill_all();
        std::thread::sleep(Duration::from_millis(50));
        if shared.now().started.is_none() {
            return;
        }
    }
    // It is stuck in something that can't be ended.
    std::process::exit(1);
}

/// Announces tasks that take long and ends those whose time is over.
fn watch(shared: &Arc<Shared>) {
    let mut ticks = 0_u64;
    loop {
        std::thread::sleep(Duration::from_millis(50));
        ticks += 1;
        if ticks.is_multiple_of(10) && shared.is_over() {
            // The reverter waits for the lock that this process holds.
            shared.programs.kill_all();
            // Nobody may be reading any more, and then this would wait for ever.
            let last = Arc::clone(shared);
            std::thread::spawn(move || last.try_send(&ToController::Fatal { message: switch::OVER.into() }));
            std::thread::sleep(Duration::from_millis(300));
            std::process::exit(1);
        }
        let mut now = shared.now();
        let Some(started) = now.started else { continue };
        let (batch, task) = (now.batch, now.task);
        let announce = !now.announced && started.elapsed() > ANNOUNCE;
        now.announced |= announce;
        let late = now.deadline.map(|deadline| Instant::now().saturating_duration_since(deadline));
        let overdue = late.is_some_and(|late| !late.is_zero());
        now.overdue |= overdue;
        let limit = now.limit;
        drop(now);
        if announce {
            let _ = shared.send(&ToController::Started { batch, task });
        }
        if overdue {
            shared.programs.kill_all();
        }
        if late.is_some_and(|late| late > GRACE) {
            // Not even the end of its commands has ended it.
            let report = Box::new(task::timed_out(task, limit, started.elapsed()));
            let _ = shared.send(&ToController::Ended { batch, report });
            let message = format!("a task could not be ended after its time limit of {limit} s");
            let _ = shared.send(&ToController::Fatal { message });
            std::process::exit(1);
        }
    }
}

struct Session {
    shared: Arc<Shared>,
    local: Local,
    operator: String,
    run: String,
    check: bool,
    keeps: bool,
    confirm: Option<u64>,
    greeted: bool,
    carried: task::Carried,
    lock: Option<Lock>,
}

impl Session {
    fn new(shared: Arc<Shared>, local: Local) -> Session {
        Session {
            shared,
            local,
            operator: String::new(),
            run: String::new(),
            check: false,
            keeps: false,
            confirm: None,
            greeted: false,
            carried: task::Carried::default(),
            lock: None,
        }
    }

    fn serve(&mut self, queue: &Receiver<Work>) -> Result<(), String> {
        while let Ok(work) = queue.recv() {
            match work {
                Work::Hello { version, .. } if version != VERSION => {
                    return Err(format!("this runner speaks version {VERSION}, the controller {version}"));
                }
                Work::Hello { operator, run, check, keep, confirm, .. } => {
                    (self.keeps, self.confirm) = (keep, confirm);
                    (self.operator, self.run, self.check, self.greeted) = (operator, run, check, true);
                }
                Work::Batch { .. } if !self.greeted => return Err("a batch came before the greeting".into()),
                Work::Batch { batch, .. } if self.check && batch.mode == Mode::Apply => {
                    return Err("a dry run was asked to make changes".into());
                }
                Work::Batch { batch, epoch } => {
                    let id = batch.id;
                    let keep = batch.mode == Mode::Check;
                    if !self.shared.canceled(epoch) {
                        self.batch(batch, epoch)?;
                    }
                    if !keep {
                        self.carried.overlay = None;
                    }
                    self.say(&ToController::BatchEnded { batch: id })?;
                }
                Work::Broken(reason) => return Err(reason),
            }
        }
        Ok(())
    }

    fn say(&self, message: &ToController) -> Result<(), String> {
        self.shared.send(message).map_err(|error| error.to_string())
    }

    fn batch(&mut self, batch: Batch, epoch: u64) -> Result<(), String> {
        let changes = |call: &Call| batch.mode == Mode::Apply && !call.check;
        if batch.mode != Mode::Check {
            self.carried.overlay = None;
        }
        // The items of a loop all run, also after one has failed.
        let mut last_group = None;
        for call in &batch.tasks {
            if last_group.is_some_and(|group| group != call.group) {
                break;
            }
            if self.shared.canceled(epoch) {
                break;
            }
            if call.module == CONFIRM {
                let report = Box::new(revert::confirm(call, &mut self.local));
                self.say(&ToController::Ended { batch: batch.id, report })?;
                continue;
            }
            if changes(call) && self.lock.is_none() {
                self.lock = self.take_lock(epoch);
                if self.lock.is_none() {
                    break;
                }
                if let Err(message) = self.keep() {
                    let report = Box::new(task::failed(call.id, message));
                    self.say(&ToController::Ended { batch: batch.id, report })?;
                    self.lock = None;
                    break;
                }
            }
            let report = self.task(&batch, call);
            let status = report.status;
            let message = ToController::Ended { batch: batch.id, report: Box::new(report) };
            match self.shared.send(&message) {
                Err(FrameError::TooLong(size)) => {
                    let report = Box::new(task::too_large(call.id, size));
                    self.say(&ToController::Ended { batch: batch.id, report })?;
                }
                outcome => outcome.map_err(|error| error.to_string())?,
            }
            let stop = match status {
                Status::Failed if batch.mode == Mode::Verify => true,
                Status::Failed => {
                    if !call.go_on {
                        last_group = Some(call.group);
                    }
                    false
                }
                Status::WouldChange => batch.mode == Mode::Verify,
                _ => false,
            };
            if stop || call.pause {
                break;
            }
        }
        self.local.sync().map_err(|error| error.to_string())
    }

    /// Opens the store of prior states and arms the dead man's switch, if there is to be one.
    fn keep(&mut self) -> Result<(), String> {
        if self.run.is_empty() || !self.keeps {
            return Ok(());
        }
        let store = Store::open(&prior::root(&self.local.home()), &self.run);
        let Some(seconds) = self.confirm else {
            // A host without the room for it can still be worked on.
            self.carried.store = store.ok();
            return Ok(());
        };
        let mut store =
            store.map_err(|error| format!("the dead man's switch could not be armed: {error}"))?;
        let (switch, warning) = switch::arm(&mut store, &self.run, seconds, &mut self.local)?;
        *self.shared.switch.lock().unwrap_or_else(PoisonError::into_inner) = Some((switch, Instant::now()));
        self.carried.store = Some(store);
        self.carried.warning = warning;
        Ok(())
    }

    /// Waits for the lock, and says so; `None` if the run was canceled meanwhile.
    fn take_lock(&self, epoch: u64) -> Option<Lock> {
        let home = self.local.home();
        lock::take(&home, &self.run, &self.operator, &mut |holder| {
            if let Some(holder) = holder {
                let _ = self.shared.send(&ToController::Waiting { holder: holder.to_string() });
            }
            !self.shared.canceled(epoch)
        })
    }

    fn task(&mut self, batch: &Batch, call: &Call) -> Report {
        let started = Instant::now();
        {
            let mut now = self.shared.now();
            *now = Now {
                batch: batch.id,
                task: call.id,
                started: Some(started),
                deadline: call
                    .timeout
                    .filter(|_| call.detach.is_none())
                    .map(|limit| started + Duration::from_secs(limit)),
                limit: call.timeout.unwrap_or(0),
                ..Now::default()
            };
        }
        self.local.set_environment(call.environment.clone());
        let kind = match batch.mode {
            Mode::Apply if call.check => task::Kind::Alone,
            Mode::Apply => task::Kind::Real,
            Mode::Verify | Mode::Check => task::Kind::Dry,
        };
        let mut report = match (&call.detach, kind) {
            (Some(detach), task::Kind::Real | task::Kind::Alone) => {
                if let (Some(store), task::Kind::Real) = (&mut self.carried.store, kind) {
                    let _ = store.lost(&format!("job {}", detach.job), "it ran detached from its task");
                }
                job::start(call, detach, &mut self.local)
            }
            (Some(detach), task::Kind::Dry) => {
                job::rehearse(call, detach, &mut self.local, &mut self.carried)
            }
            _ => task::run(call, kind, &mut self.local, &mut self.carried),
        };
        self.local.settle();
        let over = {
            let mut now = self.shared.now();
            now.started = None;
            now.overdue
        };
        if over {
            report = task::timed_out(call.id, call.timeout.unwrap_or(0), started.elapsed());
        }
        report.micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        report
    }
}

#[cfg(test)]
mod tests;
