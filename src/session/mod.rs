//! One host: connects, delivers the runner, sends batches and yields what comes back.
//!
//! The engine's thread only sends orders and receives events; it never waits for a host. Inside, each
//! *lane* (a host, an identity there) is a task of its own, so that a stuck or hostile host stops nobody.

mod delivery;
mod lane;
mod lines;
mod runners;

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::protocol::{Batch, Mode, Report};
use crate::system::Output;
use crate::transport::rt::{self, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use crate::transport::{
    Become, Class, Connection, ExitStatus, Pipe, Prompter, Settings, Target, TransportError, Transports,
    open_as,
};

use lane::Traffic;
pub use runners::{Runner, Runners};

use lane::{Lane, Order};

/// Whoever answers within this time is on this machine, or on a network that is fast.
const NEAR: Duration = Duration::from_millis(1);

/// How many runners are pushed to near hosts at the same time without being compressed: it spares each a tenth of a
/// second of its CPU, and costs the network twice the bytes. If that is what takes the time, most are compressed.
const UNCOMPRESSED: usize = 10;

/// Most that is kept of what a `raw` command prints on one stream, in bytes.
const MAX_RAW: u64 = 64 << 20;

/// How long lanes may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(3);

/// What holds for all sessions of a run.
pub struct Config {
    /// How connections are made.
    pub transport: Settings,
    /// Who is asked for what only a person knows.
    pub prompter: Box<dyn Prompter>,
    /// Who runs this, for those who wait for the lock: `ann@desk`.
    pub operator: String,
    /// Name of the run.
    pub run: String,
    /// On how many hosts work is done at once.
    pub forks: usize,
    /// What is delivered.
    pub runners: Runners,
    /// Hosts keep what is changed, so that it can be taken back.
    pub keep: bool,
    /// Hosts take back what is not confirmed within so many seconds.
    pub confirm: Option<u64>,
}

/// Content that a run's batches refer to by its digest.
pub trait Blobs: Send + Sync {
    /// Opens it for reading, from this byte on.
    ///
    /// # Errors
    /// There is no such content, or its file can't be read.
    fn open(&self, sha256: &str, from: u64) -> std::io::Result<Box<dyn Read + Send>>;
}

/// No content at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBlobs;

impl Blobs for NoBlobs {
    fn open(&self, sha256: &str, _from: u64) -> std::io::Result<Box<dyn Read + Send>> {
        Err(std::io::Error::new(std::io::ErrorKind::NotFound, format!("no content {sha256}")))
    }
}

/// Why a session ended or never began.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SessionError {
    /// The way to the host, or becoming another user there.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The runner could not be started.
    #[error("failed to start the runner: {0}")]
    Delivery(String),
    /// What the host sent makes no sense.
    #[error("the host sent what it must not: {0}")]
    Protocol(String),
    /// The runner ended by itself.
    #[error("the runner ended: {0}")]
    Ended(String),
    /// The controller cut the connection.
    #[error("the connection was cut")]
    Cut,
}

impl SessionError {
    /// How the engine counts it.
    pub fn class(&self) -> Class {
        match self {
            SessionError::Transport(error) => error.class(),
            _ => Class::Unreachable,
        }
    }
}

/// How long it took to get a runner going.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Until we were let in; zero if the connection was there.
    pub connect: Duration,
    /// From then on until the runner spoke.
    pub start: Duration,
    /// Bytes of the runner that had to be sent; zero if it was there.
    pub pushed: u64,
}

/// Something that a host did.
#[derive(Debug)]
pub enum SessionEvent {
    /// A runner has been started.
    Connected {
        /// Host.
        host: u32,
        /// As whom it runs, if not as the login user.
        identity: Option<String>,
        /// What it took.
        timings: Timings,
    },
    /// A task takes longer than a moment.
    Started {
        /// Host.
        host: u32,
        /// Batch.
        batch: u64,
        /// Task.
        task: u32,
    },
    /// A task has ended.
    Ended {
        /// Host.
        host: u32,
        /// Batch.
        batch: u64,
        /// Its outcome.
        report: Box<Report>,
    },
    /// A batch has ended; tasks without a report were not begun.
    BatchEnded {
        /// Host.
        host: u32,
        /// Batch.
        batch: u64,
    },
    /// A piece of a file on its way here.
    File {
        /// Host.
        host: u32,
        /// Batch.
        batch: u64,
        /// Task.
        task: u32,
        /// Name that the module gave.
        name: String,
        /// The next bytes.
        bytes: Vec<u8>,
        /// There is no more.
        last: bool,
        /// Lets the host send more once this is dropped.
        credit: Credit,
    },
    /// A `raw` command has ended.
    Raw {
        /// Host.
        host: u32,
        /// The request's number.
        request: u64,
        /// What it printed, or why it could not be run.
        outcome: Result<Output, SessionError>,
    },
    /// Batches were lost with the connection, or could not be sent.
    Unreachable {
        /// Host.
        host: u32,
        /// Batches that will not be heard of again.
        batches: Vec<u64>,
        /// Why.
        error: SessionError,
    },
    /// Somebody else is changing the host; its batches wait.
    Waiting {
        /// Host.
        host: u32,
        /// Who.
        holder: String,
    },
}

/// Room for pieces of files that are on their way from one host; see [`SessionEvent::File`].
#[derive(Debug)]
pub struct Credit(#[expect(dead_code, reason = "held for its Drop")] OwnedSemaphorePermit);

/// All sessions of a run.
pub struct Sessions {
    inner: Arc<Inner>,
    runtime: Option<rt::Runtime>,
}

/// What lanes share.
struct Inner {
    transports: Transports,
    operator: String,
    run: String,
    runners: Runners,
    keep: bool,
    confirm: Option<u64>,
    forks: Arc<Semaphore>,
    /// Runners that are pushed as they are at the same time.
    uncompressed: Semaphore,
    events: Sender<SessionEvent>,
    traffic: Arc<Traffic>,
    hosts: Mutex<HashMap<u32, Host>>,
}

/// One host.
struct Host {
    way: Arc<Way>,
    lanes: Vec<LaneHandle>,
    /// Counts the cuts; whoever waits for this host watches it.
    cut: watch::Sender<u64>,
}

struct LaneHandle {
    way: Arc<Way>,
    identity: Option<Arc<Become>>,
    check: bool,
    orders: mpsc::UnboundedSender<Order>,
    task: rt::JoinHandle<()>,
}

/// The users that a batch takes away.
fn removed_users(batch: &Batch) -> Vec<String> {
    if batch.mode != Mode::Apply {
        return Vec::new();
    }
    let calls = batch.tasks.iter().filter(|call| call.module == "ansible.builtin.user" && !call.check);
    let absent = calls.filter(|call| call.args.get("state").is_some_and(|state| state.to_text() == "absent"));
    absent
        .filter_map(|call| call.args.get("name").or_else(|| call.args.get("user")))
        .map(|name| name.to_text())
        .collect()
}

/// The connection that a host's lanes share, made when the first of them needs it.
struct Way {
    target: Arc<Target>,
    connection: rt::Mutex<Option<Arc<dyn Connection>>>,
}

impl Way {
    fn new(target: &Arc<Target>) -> Arc<Way> {
        Arc::new(Way { target: Arc::clone(target), connection: rt::Mutex::new(None) })
    }

    /// It leads to this machine.
    fn is_local(&self) -> bool {
        self.target.kind == crate::transport::Kind::Local
    }

    /// The connection, and how long it took to make.
    async fn connect(
        &self,
        transports: &Transports,
    ) -> Result<(Arc<dyn Connection>, Duration), TransportError> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok((Arc::clone(connection), Duration::ZERO));
        }
        let started = rt::Instant::now();
        let connection: Arc<dyn Connection> = transports.connect(&self.target).await?.into();
        *slot = Some(Arc::clone(&connection));
        Ok((connection, started.elapsed()))
    }

    async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            connection.close().await;
        }
    }
}

impl Inner {
    fn hosts(&self) -> MutexGuard<'_, HashMap<u32, Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn emit(&self, event: SessionEvent) {
        // Nobody listens any more when the run is over.
        let _ = self.events.send(event);
    }
}

impl Sessions {
    /// Makes ready; nothing is connected yet. What happens is told through `events`.
    ///
    /// # Errors
    /// There are no threads to be had.
    pub fn start(config: Config, events: Sender<SessionEvent>) -> std::io::Result<Sessions> {
        let runtime =
            rt::Builder::new_multi_thread().worker_threads(2).thread_name("session").enable_all().build()?;
        let forks = Arc::new(Semaphore::new(config.forks.max(1)));
        let transports = {
            let _inside = runtime.enter();
            Transports::new(config.transport, config.prompter).lending(Arc::clone(&forks))
        };
        let inner = Inner {
            transports,
            operator: config.operator,
            run: config.run,
            runners: config.runners,
            keep: config.keep,
            confirm: config.confirm,
            forks,
            uncompressed: Semaphore::new(UNCOMPRESSED),
            events,
            traffic: Arc::default(),
            hosts: Mutex::default(),
        };
        Ok(Sessions { inner: Arc::new(inner), runtime: Some(runtime) })
    }

    /// How much content was sent and how much was asked for, in bytes, since last there was nothing to send;
    /// `None` if there is nothing.
    pub fn transfer(&self) -> Option<(u64, u64)> {
        self.inner.traffic.now()
    }

    /// Queues a batch for a host, as `identity` there. It connects and delivers the runner if need be.
    /// Batches of one host and identity are done in order.
    pub fn submit(
        &self,
        host: u32,
        target: &Arc<Target>,
        identity: Option<&Arc<Become>>,
        check: bool,
        batch: Batch,
        blobs: Arc<dyn Blobs>,
    ) {
        let Some(runtime) = &self.runtime else { return };
        let mut hosts = self.inner.hosts();
        let entry = host_entry(&mut hosts, host, target);
        entry.lanes.retain(|lane| !lane.task.is_finished());
        // Who has a process, and be it our runner, is not removed.
        let removed = removed_users(&batch);
        let is_removed = |lane: &mut LaneHandle| {
            lane.identity.as_ref().is_some_and(|identity| removed.contains(&identity.user))
                && lane.identity.as_deref() != identity.map(Arc::as_ref)
        };
        let ended = entry.lanes.extract_if(.., is_removed).map(|lane| Order::Await(lane.task));
        let mut orders: VecDeque<Order> = ended.collect();
        orders.push_back(Order::Batch(Box::new(batch), blobs));
        let known = entry.lanes.iter().find(|lane| {
            lane.check == check
                && Arc::ptr_eq(&lane.way, &entry.way)
                && lane.identity.as_deref() == identity.map(Arc::as_ref)
        });
        if let Some(lane) = known {
            while let Some(order) = orders.pop_front() {
                if let Err(mpsc::error::SendError(back)) = lane.orders.send(order) {
                    // It ended just now.
                    orders.push_front(back);
                    break;
                }
            }
            if orders.is_empty() {
                return;
            }
        }
        let (sender, queue) = mpsc::unbounded_channel();
        for order in orders {
            // The queue's other end is at hand.
            let _ = sender.send(order);
        }
        let lane = Lane {
            inner: Arc::clone(&self.inner),
            host,
            way: Arc::clone(&entry.way),
            identity: identity.cloned(),
            check,
        };
        let task = runtime.spawn(lane.run(queue, entry.cut.subscribe()));
        let way = Arc::clone(&entry.way);
        entry.lanes.push(LaneHandle { way, identity: identity.cloned(), check, orders: sender, task });
    }

    /// Runs a command line through the host's login shell (through `/bin/sh` as somebody else), without a
    /// runner.
    pub fn raw(
        &self,
        host: u32,
        target: &Arc<Target>,
        identity: Option<&Arc<Become>>,
        command: String,
        request: u64,
    ) {
        let Some(runtime) = &self.runtime else { return };
        let mut hosts = self.inner.hosts();
        let entry = host_entry(&mut hosts, host, target);
        let (inner, way) = (Arc::clone(&self.inner), Arc::clone(&entry.way));
        let (identity, mut cut) = (identity.cloned(), entry.cut.subscribe());
        runtime.spawn(async move {
            let outcome = rt::select! {
                outcome = run_raw(&inner, &way, identity.as_deref(), &command) => outcome,
                _ = cut.changed() => Err(SessionError::Cut),
            };
            inner.emit(SessionEvent::Raw { host, request, outcome });
        });
    }

    /// Nothing new begins on a host: what runs is finished, the rest of its batches is dropped. Each of
    /// them still ends with an event.
    pub fn cancel(&self, host: u32) {
        if let Some(entry) = self.inner.hosts().get(&host) {
            for lane in &entry.lanes {
                let _ = lane.orders.send(Order::Cancel);
            }
        }
    }

    /// Cuts a host off: its commands end with the connection, its batches are lost.
    pub fn cut(&self, host: u32) {
        if let Some(entry) = self.inner.hosts().get(&host) {
            entry.cut.send_modify(|count| *count += 1);
        }
    }

    /// Cuts all hosts off.
    pub fn cut_all(&self) {
        for entry in self.inner.hosts().values() {
            entry.cut.send_modify(|count| *count += 1);
        }
    }

    /// What is queued is done; then the connection is closed, and the next batch makes a new one.
    pub fn reset_connection(&self, host: u32) {
        let Some(runtime) = &self.runtime else { return };
        let mut hosts = self.inner.hosts();
        let Some(entry) = hosts.get_mut(&host) else { return };
        retire(runtime, entry);
        entry.way = Way::new(&Arc::clone(&entry.way.target));
    }

    /// Says goodbye to all hosts and ends. Hosts that do not answer in time are cut off.
    pub fn shutdown(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let hosts = std::mem::take(&mut *self.inner.hosts());
        runtime.block_on(async {
            let goodbye = async {
                let (mut lanes, mut ways) = (Vec::new(), Vec::new());
                for host in hosts.into_values() {
                    ways.push(host.way);
                    // Dropping the senders is what ends a lane.
                    lanes.extend(host.lanes.into_iter().map(|lane| lane.task));
                }
                for lane in lanes {
                    let _ = lane.await;
                }
                let mut closing = rt::JoinSet::new();
                for way in ways {
                    closing.spawn(async move { way.close().await });
                }
                while closing.join_next().await.is_some() {}
            };
            let _ = rt::timeout(GOODBYE, goodbye).await;
        });
        runtime.shutdown_timeout(Duration::from_millis(200));
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// The entry of a host; its lanes end when the way to it has become another.
fn host_entry<'a>(hosts: &'a mut HashMap<u32, Host>, host: u32, target: &Arc<Target>) -> &'a mut Host {
    let entry = hosts.entry(host).or_insert_with(|| Host {
        way: Way::new(target),
        lanes: Vec::new(),
        cut: watch::Sender::new(0),
    });
    if !Arc::ptr_eq(&entry.way.target, target) && !same_target(&entry.way.target, target) {
        entry.way = Way::new(target);
    }
    entry
}

/// Whether two targets are reached in the same way.
fn same_target(one: &Target, other: &Target) -> bool {
    // Secrets print alike, so they are compared by themselves.
    one.password == other.password
        && one.passphrase == other.passphrase
        && format!("{one:?}") == format!("{other:?}")
}

/// Lets a host's lanes finish, then closes their connection.
fn retire(runtime: &rt::Runtime, entry: &mut Host) {
    let lanes: Vec<LaneHandle> = entry.lanes.drain(..).collect();
    let way = Arc::clone(&entry.way);
    runtime.spawn(async move {
        for lane in lanes {
            drop(lane.orders);
            let _ = lane.task.await;
        }
        way.close().await;
    });
}

async fn run_raw(
    inner: &Inner,
    way: &Way,
    identity: Option<&Become>,
    command: &str,
) -> Result<Output, SessionError> {
    let _permit = Arc::clone(&inner.forks).acquire_owned().await;
    let (connection, _) = way.connect(&inner.transports).await?;
    let pipe = match identity {
        None => connection.open(command).await?,
        Some(_) => open_as(&*connection, identity, command).await?,
    };
    let Pipe { stdin, stdout, stderr, exit, guard } = pipe;
    // It reads nothing.
    drop(stdin);
    let (out, err) = rt::join!(read_all(stdout), read_all(stderr));
    let status = exit.await;
    drop(guard);
    let code = match status {
        ExitStatus::Code(code) => code,
        ExitStatus::Signal(name) => 128 + signal_number(&name),
        ExitStatus::Lost(reason) => return Err(SessionError::Ended(format!("connection lost: {reason}"))),
    };
    Ok(Output { code, stdout: out?, stderr: err? })
}

async fn read_all(stream: Box<dyn rt::AsyncRead + Send + Unpin>) -> Result<Vec<u8>, SessionError> {
    let mut bytes = Vec::new();
    let mut bounded = rt::AsyncReadExt::take(stream, MAX_RAW + 1);
    rt::AsyncReadExt::read_to_end(&mut bounded, &mut bytes).await.map_err(|error| lane::from_io(&error))?;
    if bytes.len() as u64 > MAX_RAW {
        return Err(SessionError::Protocol(format!("more than {} MiB of output", MAX_RAW >> 20)));
    }
    Ok(bytes)
}

fn signal_number(name: &str) -> i32 {
    let names = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM",
    ];
    names.iter().zip(1..).find(|(known, _)| **known == name).map_or(0, |(_, number)| number)
}

#[cfg(test)]
mod tests;
