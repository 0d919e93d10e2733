//! The built-in SSH client: dialling (straight, through jump hosts, through a ProxyCommand), host keys,
//! authentication, channels.

mod algorithms;
mod channel;
mod dial;
mod handler;
mod login;
mod pace;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use russh::client;
use russh::keys::PublicKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::config::{self, Agent as AgentChoice, Arguments, Environment, Hop, Proxy, Resolved, Strict};
use super::error::{Cause, TransportError};
use super::keys::KeyStore;
use super::known_hosts::{self, KnownHosts};
use super::process::{ProxyStream, spawner};
use super::target::{Kind, Target, check_name};
use super::{
    BoxFuture, Connection, DURING_HANDSHAKE, Prompter, Secret, Settings, SharedPrompter, UnknownKey,
};
use algorithms::preferred;
use channel::{FirstCommand, Session, SshConnection};
use dial::{Prompt, Stream, dial_tcp, round_trip};
use handler::{Failure, Handler, HostCheck, Report, Unknown};
use login::Login;
use pace::Paces;

/// What a host may send before it hears that we have taken it. Large enough for a fast link with a long
/// round trip.
const WINDOW: u32 = 4 << 20;
/// The largest packet that every implementation takes.
const PACKET: u32 = 32 << 10;
/// How many messages of a channel may wait for their reader before the connection stops reading.
const CHANNEL_BUFFER: usize = 64;
/// The same for jump hosts: a slow host behind one should not hold up the others at once.
const JUMP_CHANNEL_BUFFER: usize = 512;
/// How many chunks of a command's output may wait for us.
const OUTPUT_BUFFER: usize = 16;
/// Time between keepalives, unless ServerAliveInterval says otherwise.
const ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a step of authentication may take. The host may be asking a directory or a slow PAM module.
const AUTHENTICATION_STEP: Duration = Duration::from_secs(60);
/// How long a person may take to type a passphrase, or a host to wait for it.
const TYPING: Duration = Duration::from_secs(600);
/// How long the failure of a jump host holds for those who come to it after.
const JUMP_FAILURE_HOLDS: Duration = Duration::from_secs(5);
/// How deep jump hosts may hide behind jump hosts.
const MAX_JUMPS: usize = 8;
/// How often a connection that is dropped before the handshake is tried again in any case.
const DROPS_FORGIVEN: u32 = 2;
/// How many names are looked up at once.
const LOOKUPS: usize = 16;
/// How long a question about host keys waits for hosts that have not shown theirs yet.
const GATHERING: Duration = Duration::from_secs(5);
/// After the last unknown host key, how long we wait for more before the user is asked.
const QUIET: Duration = Duration::from_millis(300);

/// Everything that connections of one run share.
#[derive(Clone)]
pub struct Transports {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    prompter: SharedPrompter,
    environment: Environment,
    keys: KeyStore,
    /// Configuration files, read once; by the path given with `-F`, or `None` for the usual two.
    files: Mutex<HashMap<Option<PathBuf>, Arc<Vec<config::File>>>>,
    /// Known hosts, read once for each list of files.
    known: Mutex<HashMap<Vec<PathBuf>, Arc<Mutex<KnownHosts>>>>,
    jumps: Mutex<HashMap<JumpKey, Arc<Jump>>>,
    connecting: Semaphore,
    /// The system's resolver takes a thread for each question.
    resolving: Semaphore,
    /// Connections whose host key has not been seen yet.
    undecided: AtomicUsize,
    asking: Mutex<Asking>,
    /// How many hosts may be worked on at once; see [`Transports::lending`].
    forks: Option<Arc<Semaphore>>,
}

/// Which jump host: the chain that leads to it, and the configuration that it was resolved with.
type JumpKey = (Vec<Hop>, Option<PathBuf>);

/// A jump host's one connection, and how many may pass through it at once while they connect.
struct Jump {
    state: tokio::sync::Mutex<JumpState>,
    passing: Arc<Semaphore>,
}

enum JumpState {
    Idle,
    Up(Arc<Session>),
    Failed(Instant, Cause),
}

/// Unknown host keys that wait for the user's answer.
#[derive(Default)]
struct Asking {
    waiting: Vec<Question>,
    /// Whether somebody already gathers.
    gathering: bool,
    last: Option<Instant>,
}

struct Question {
    key: UnknownKey,
    answer: oneshot::Sender<bool>,
}

impl Transports {
    /// What the connections of a run share. Must be used inside a tokio runtime ([`super::rt`]).
    pub fn new(settings: Settings, prompter: Box<dyn Prompter>) -> Transports {
        let environment = Environment::new(settings.home.clone(), settings.local_user.clone());
        let connecting = Semaphore::new(settings.connecting.max(1));
        Transports {
            inner: Arc::new(Inner {
                settings,
                prompter: prompter.into(),
                environment,
                keys: KeyStore::new(),
                files: Mutex::default(),
                known: Mutex::default(),
                jumps: Mutex::default(),
                connecting,
                resolving: Semaphore::new(LOOKUPS),
                undecided: AtomicUsize::new(0),
                asking: Mutex::default(),
                forks: None,
            }),
        }
    }

    /// Whoever connects holds a permit of `forks`. While a host waits for the user's word on its key, its permit is
    /// lent to the next, so that the unknown keys of all hosts come together in one list.
    #[must_use]
    pub fn lending(mut self, forks: Arc<Semaphore>) -> Transports {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.forks = Some(forks);
        }
        self
    }

    /// Connects to a host. For SSH the connection is up and we are let in when this returns; the other
    /// kinds start their program with each command.
    ///
    /// # Errors
    /// Whatever kept us out, with what to do about it.
    pub async fn connect(&self, target: &Target) -> Result<Box<dyn Connection>, TransportError> {
        let inner = &self.inner;
        let doing = || match target.kind {
            Kind::Ssh | Kind::OpenSsh if target.address != target.name => {
                format!("connect to {} ({})", target.name, target.address)
            }
            _ => format!("connect to {}", target.name),
        };
        let failed = |cause| TransportError::new(doing(), cause);
        check_name("ansible_host", &target.address).map_err(failed)?;
        match target.kind {
            Kind::Ssh => {
                let session = inner.connect_with_retries(target).await.map_err(failed)?;
                Ok(Box::new(SshConnection { session }))
            }
            _ => Ok(Box::new(spawner(target, &inner.settings))),
        }
    }
}

/// A permit that others use while its owner waits for the user.
struct Lent(Option<Arc<Semaphore>>);

impl Lent {
    fn new(forks: Option<&Arc<Semaphore>>) -> Lent {
        if let Some(forks) = forks {
            forks.add_permits(1);
        }
        Lent(forks.cloned())
    }

    async fn back(mut self) {
        if let Some(forks) = self.0.take()
            && let Ok(permit) = forks.acquire().await
        {
            permit.forget();
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Nobody waits for it any more; the owner's own permit goes back by itself.
        if let Some(forks) = self.0.take() {
            forks.forget_permits(1);
        }
    }
}

/// Counts a connection until its host key was seen.
struct Undecided<'a>(&'a Inner);

impl Undecided<'_> {
    fn new(inner: &Inner) -> Undecided<'_> {
        inner.undecided.fetch_add(1, Ordering::Relaxed);
        Undecided(inner)
    }
}

impl Drop for Undecided<'_> {
    fn drop(&mut self) {
        self.0.undecided.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who we are on a host: what a target or a jump host brings along.
struct Credentials {
    password: Option<Secret>,
    private_key: Option<PathBuf>,
    passphrase: Option<Secret>,
}

impl Inner {
    fn resolve(&self, host: &str, arguments: &Arguments) -> Result<Resolved, Cause> {
        let files = self.config_files(arguments.config_file.as_deref())?;
        let files: Vec<&config::File> = files.iter().collect();
        config::resolve(host, arguments, &files, &self.environment)
    }

    /// The configuration for a target; on a thread of its own only if that may run a command.
    async fn resolve_target(self: &Arc<Self>, target: &Target) -> Result<Resolved, Cause> {
        let files = self.config_files(target.arguments.config_file.as_deref())?;
        if !files.iter().any(config::File::runs_commands) {
            return self.resolve(&target.address, &target.arguments);
        }
        let this = self.clone();
        let (address, arguments) = (target.address.clone(), target.arguments.clone());
        tokio::task::spawn_blocking(move || this.resolve(&address, &arguments))
            .await
            .unwrap_or_else(|_| Err(Cause::Network("the runtime is shutting down".to_owned())))
    }

    fn config_files(&self, given: Option<&Path>) -> Result<Arc<Vec<config::File>>, Cause> {
        let mut cache = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let key = given.map(Path::to_owned);
        if let Some(files) = cache.get(&key) {
            return Ok(files.clone());
        }
        let home = &self.settings.home;
        let files = match given {
            Some(path) if path.as_os_str() == "none" => Vec::new(),
            Some(path) => vec![config::File::read(path, home, true)?],
            None => [&self.settings.ssh_config, &self.settings.system_ssh_config]
                .into_iter()
                .flatten()
                .map(|path| config::File::read(path, home, false))
                .collect::<Result<_, _>>()?,
        };
        let files = Arc::new(files);
        cache.insert(key, files.clone());
        Ok(files)
    }

    async fn connect_with_retries(self: &Arc<Self>, target: &Target) -> Result<Arc<Session>, Cause> {
        let resolved = self.resolve_target(target).await?;
        let credentials = Credentials {
            password: target.password.clone(),
            private_key: target.private_key.clone(),
            passphrase: target.passphrase.clone(),
        };
        let resolved = Resolved {
            connect_timeout: resolved.connect_timeout.or(Some(target.connect_timeout)),
            ..resolved
        };
        let attempts = (target.retries + 1).max(resolved.attempts);
        let place = Destination {
            name: &target.name,
            original: &target.address,
            resolved: &resolved,
            config_file: target.arguments.config_file.as_deref(),
            depth: 0,
            channel_buffer: CHANNEL_BUFFER,
        };
        let mut attempt = 1;
        let mut dropped = 0;
        loop {
            let cause = match self.connect_asking(&place, &credentials).await {
                Ok(session) => return Ok(session),
                Err(cause) => cause,
            };
            // An sshd to which many come at once drops some at random (MaxStartups); nothing was tried yet.
            if cause.is_drop_at_the_door() && dropped < DROPS_FORGIVEN {
                dropped += 1;
                tokio::time::sleep(backoff(dropped)).await;
                continue;
            }
            if attempt >= attempts || !cause.is_transient() {
                return Err(cause);
            }
            tokio::time::sleep(backoff(attempt)).await;
            attempt += 1;
        }
    }

    /// Connects; when the host key is unknown and may be asked for, asks and connects again. The first
    /// connection is not held meanwhile: the host would cut it long before a person has answered for
    /// a whole inventory.
    async fn connect_asking(
        self: &Arc<Self>,
        place: &Destination<'_>,
        credentials: &Credentials,
    ) -> Result<Arc<Session>, Cause> {
        match self.connect_once(place, credentials).await {
            Err(Failure::Unknown(unknown)) => {
                if place.resolved.strict != Strict::Ask || place.resolved.batch_mode {
                    return Err(unknown.cause(place));
                }
                let lent = Lent::new(self.forks.as_ref());
                let accepted = self.ask(unknown.question(place)).await;
                lent.back().await;
                if !accepted {
                    return Err(unknown.cause(place));
                }
                self.learn(place.resolved, &unknown)?;
                self.connect_once(place, credentials).await.map_err(|failure| failure.cause(place))
            }
            result => result.map_err(|failure| failure.cause(place)),
        }
    }

    async fn connect_once(
        self: &Arc<Self>,
        place: &Destination<'_>,
        credentials: &Credentials,
    ) -> Result<Arc<Session>, Failure> {
        let resolved = place.resolved;
        let limit = resolved.connect_timeout.unwrap_or(AUTHENTICATION_STEP);
        // Whoever waits for a jump host does not hold up the question about that host's key.
        let undecided = (!matches!(resolved.proxy, Proxy::Jump(_))).then(|| Undecided::new(self));
        // A jump host is dialled on behalf of a target that already holds a permit.
        let _permit = if place.depth == 0 { self.connecting.acquire().await.ok() } else { None };
        let dialled = self.dial(place, limit).await?;
        let known = self.known_hosts(resolved)?;
        let report = Arc::new(Report::default());
        let first = Arc::new(FirstCommand::default());
        let paces = Arc::new(Paces::default());
        let handler = Handler {
            report: report.clone(),
            first: first.clone(),
            paces: paces.clone(),
            check: HostCheck {
                known: known.clone(),
                host: place.host_key_name().to_owned(),
                port: place.host_key_port(),
                strict: resolved.strict,
                learn_into: learn_file(resolved),
                hash_names: resolved.hash_known_hosts,
            },
            agent: self.agent_socket(resolved).filter(|_| resolved.forward_agent),
        };
        let config = Arc::new(self.protocol(place, &known));
        let handshake = client::connect_stream(config, dialled.stream, handler);
        let mut handle = match tokio::time::timeout(limit, handshake).await {
            Err(_) => {
                return Err(Cause::TimedOut { after: limit, waiting_for: "the SSH handshake" }.into());
            }
            Ok(Err(failure)) => return Err(failure.during(DURING_HANDSHAKE)),
            Ok(Ok(handle)) => handle,
        };
        drop(undecided);
        let login = Login { inner: self, resolved, credentials, report: &report };
        login.run(&mut handle).await?;
        drop(dialled.passing);
        Ok(Arc::new(Session {
            handle,
            report,
            first,
            paces,
            used: AtomicBool::new(false),
            description: place.describe(),
            alive: alive(resolved),
            forward_agent: resolved.forward_agent && self.agent_socket(resolved).is_some(),
            round_trip: dialled.round_trip,
            _via: dialled.via,
        }))
    }

    fn agent_socket(&self, resolved: &Resolved) -> Option<PathBuf> {
        match &resolved.agent {
            AgentChoice::Default => self.settings.agent.clone(),
            AgentChoice::None => None,
            AgentChoice::Socket(path) => Some(path.clone()),
        }
    }

    async fn dial(self: &Arc<Self>, place: &Destination<'_>, limit: Duration) -> Result<Dialled, Failure> {
        let resolved = place.resolved;
        match &resolved.proxy {
            Proxy::Direct => {
                let stream = dial_tcp(resolved, limit, &self.resolving).await?;
                let round_trip = round_trip(&stream);
                Ok(Dialled { stream: Box::new(Prompt::new(stream)), via: None, passing: None, round_trip })
            }
            Proxy::Command(command) => {
                check_name("host", &resolved.host_name)?;
                check_name("user", &resolved.user)?;
                let stream = ProxyStream::start(command).map_err(|error| Cause::Program {
                    program: command.clone(),
                    reason: error.to_string(),
                })?;
                Ok(Dialled { stream: Box::new(stream), via: None, passing: None, round_trip: None })
            }
            Proxy::Jump(hops) => self.dial_through(place, hops, limit).await,
        }
    }

    async fn dial_through(
        self: &Arc<Self>,
        place: &Destination<'_>,
        hops: &[Hop],
        limit: Duration,
    ) -> Result<Dialled, Failure> {
        let last = hops.last().map(ToString::to_string).unwrap_or_default();
        let by_way = |cause: Cause| Cause::Jump { jump: last.clone(), cause: Box::new(cause) };
        if place.depth >= MAX_JUMPS {
            return Err(
                by_way(Cause::Protocol("jump hosts lead to one another in a circle".to_owned())).into()
            );
        }
        let jump = self.jump(hops, place.config_file);
        let passing = jump.passing.clone().acquire_owned().await.ok();
        let session = self.jump_session(&jump, hops, place).await.map_err(by_way)?;
        let resolved = place.resolved;
        let opening = session.handle.channel_open_direct_tcpip(
            resolved.host_name.clone(),
            u32::from(resolved.port),
            "127.0.0.1",
            0,
        );
        let channel = match tokio::time::timeout(limit, opening).await {
            Err(_) => Err(Cause::TimedOut { after: limit, waiting_for: "the jump host to connect further" }),
            Ok(Err(russh::Error::ChannelOpenFailure(reason))) => Err(Cause::Network(format!(
                "it could not connect to {}:{} ({})",
                resolved.host_name,
                resolved.port,
                reason.description()
            ))),
            Ok(Err(error)) => Err(session.lost(&error)),
            Ok(Ok(channel)) => Ok(channel),
        };
        let stream = Box::new(channel.map_err(by_way)?.into_stream());
        Ok(Dialled { stream, via: Some(session), passing, round_trip: None })
    }

    fn jump(&self, hops: &[Hop], config_file: Option<&Path>) -> Arc<Jump> {
        let mut jumps = self.jumps.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = self.settings.per_jump_host.max(1);
        let new = || Jump {
            state: tokio::sync::Mutex::new(JumpState::Idle),
            passing: Arc::new(Semaphore::new(limit)),
        };
        jumps
            .entry((hops.to_vec(), config_file.map(Path::to_owned)))
            .or_insert_with(|| Arc::new(new()))
            .clone()
    }

    /// The jump host's connection, made by whoever comes first. A failure holds for those who waited for
    /// it: a thousand hosts behind a dead jump host must not try it one after the other.
    async fn jump_session(
        self: &Arc<Self>,
        jump: &Jump,
        hops: &[Hop],
        place: &Destination<'_>,
    ) -> Result<Arc<Session>, Cause> {
        let mut state = jump.state.lock().await;
        match &*state {
            JumpState::Up(session) if !session.handle.is_closed() => return Ok(session.clone()),
            JumpState::Failed(when, cause) if when.elapsed() < JUMP_FAILURE_HOLDS => {
                return Err(cause.clone());
            }
            _ => {}
        }
        match self.clone().connect_jump(hops, place).await {
            Ok(session) => {
                *state = JumpState::Up(session.clone());
                Ok(session)
            }
            Err(cause) => {
                *state = JumpState::Failed(Instant::now(), cause.clone());
                Err(cause)
            }
        }
    }

    /// Boxed, as a jump host may itself be behind one.
    fn connect_jump<'a>(
        self: Arc<Self>,
        hops: &'a [Hop],
        place: &'a Destination<'_>,
    ) -> BoxFuture<'a, Result<Arc<Session>, Cause>> {
        Box::pin(async move {
            let Some((hop, before)) = hops.split_last() else {
                return Err(Cause::Protocol("an empty list of jump hosts".to_owned()));
            };
            let mut arguments = Arguments::default();
            if let Some(user) = &hop.user {
                arguments.set("user", user, "ProxyJump")?;
            }
            if let Some(port) = hop.port {
                arguments.set("port", &port.to_string(), "ProxyJump")?;
            }
            // A command line of its own brings its own configuration file, or none.
            arguments.extend(if hop.words.is_empty() {
                Arguments::with_file(place.config_file)
            } else {
                Arguments::parse(&hop.words, "ProxyCommand")?
            });
            let mut resolved = self.resolve(&hop.host, &arguments)?;
            // In a chain each host is reached through those before it; only the first has its own way.
            if !before.is_empty() {
                resolved.proxy = Proxy::Jump(before.to_vec());
            }
            resolved.connect_timeout = resolved.connect_timeout.or(place.resolved.connect_timeout);
            let credentials = Credentials { password: None, private_key: None, passphrase: None };
            let name = hop.to_string();
            let place = Destination {
                name: &name,
                original: &hop.host,
                resolved: &resolved,
                config_file: place.config_file,
                depth: place.depth + 1,
                channel_buffer: JUMP_CHANNEL_BUFFER,
            };
            self.connect_asking(&place, &credentials).await
        })
    }

    fn known_hosts(&self, resolved: &Resolved) -> Result<Arc<Mutex<KnownHosts>>, Cause> {
        let files = known_hosts_files(resolved);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&files) {
            return Ok(known.clone());
        }
        let read = Arc::new(Mutex::new(KnownHosts::read(&files)?));
        known.insert(files, read.clone());
        Ok(read)
    }

    /// Takes a key that the user accepted.
    fn learn(&self, resolved: &Resolved, unknown: &Unknown) -> Result<(), Cause> {
        let known = self.known_hosts(resolved)?;
        learn(
            &known,
            learn_file(resolved).as_deref(),
            resolved.hash_known_hosts,
            &unknown.host,
            unknown.port,
            &unknown.key,
        )
    }

    /// Puts a question to the user, together with those of other hosts that come up at the same time.
    async fn ask(self: &Arc<Self>, key: UnknownKey) -> bool {
        let (answer, answered) = oneshot::channel();
        let gather = {
            let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
            asking.waiting.push(Question { key, answer });
            asking.last = Some(Instant::now());
            !std::mem::replace(&mut asking.gathering, true)
        };
        if gather {
            tokio::spawn(self.clone().gather());
        }
        answered.await.unwrap_or(false)
    }

    /// Waits until no more questions come, asks them all in one list, and hands out the answers.
    async fn gather(self: Arc<Self>) {
        let began = Instant::now();
        loop {
            let quiet = {
                let asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
                asking.last.map_or(QUIET, |last| last.elapsed())
            };
            let all_seen = self.undecided.load(Ordering::Relaxed) == 0;
            if (quiet >= QUIET && all_seen) || began.elapsed() >= GATHERING {
                break;
            }
            tokio::time::sleep(QUIET / 3).await;
        }
        let mut questions = {
            let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
            asking.gathering = false;
            std::mem::take(&mut asking.waiting)
        };
        // In the inventory's order as far as names tell; connections come up in any.
        questions.sort_by(|a, b| a.key.name.cmp(&b.key.name));
        let keys: Vec<UnknownKey> = questions.iter().map(|question| question.key.clone()).collect();
        let prompter = self.prompter.clone();
        let answers = tokio::task::spawn_blocking(move || prompter.confirm_host_keys(&keys)).await;
        let mut answers = answers.unwrap_or_default().into_iter();
        for question in questions {
            // The host may have given up meanwhile.
            let _ = question.answer.send(answers.next().unwrap_or(false));
        }
    }

    fn protocol(&self, place: &Destination<'_>, known: &Mutex<KnownHosts>) -> client::Config {
        let resolved = place.resolved;
        let (types, authority) = {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.known_types(place.host_key_name(), place.host_key_port())
        };
        let alive = alive(resolved);
        client::Config {
            client_id: russh::SshId::Standard(concat!("SSH-2.0-setpoint_", env!("CARGO_PKG_VERSION")).into()),
            window_size: WINDOW,
            maximum_packet_size: PACKET,
            channel_buffer_size: place.channel_buffer,
            preferred: preferred(resolved, &types, authority),
            keepalive_interval: alive.map(|(interval, _)| interval),
            keepalive_max: alive.map_or(0, |(_, count)| count),
            inactivity_timeout: None,
            nodelay: true,
            ..client::Config::default()
        }
    }
}

fn alive(resolved: &Resolved) -> Option<(Duration, usize)> {
    match resolved.alive_interval {
        Some(Duration::ZERO) => None,
        Some(interval) => Some((interval, resolved.alive_count_max)),
        None => Some((ALIVE_INTERVAL, resolved.alive_count_max)),
    }
}

/// Doubling from half a second to eight, give or take a quarter, so that hosts which failed together
/// don't come back together.
fn backoff(attempt: u32) -> Duration {
    let base = 500_u64 << (attempt - 1).min(4);
    let jitter: f64 = rand::random_range(0.75..1.25);
    Duration::from_millis(base).mul_f64(jitter)
}

fn known_hosts_files(resolved: &Resolved) -> Vec<PathBuf> {
    let files = resolved.user_known_hosts.iter().chain(&resolved.global_known_hosts);
    files.filter(|file| file.as_path() != Path::new("/dev/null")).cloned().collect()
}

/// The file that new keys go to.
fn learn_file(resolved: &Resolved) -> Option<PathBuf> {
    resolved.user_known_hosts.first().filter(|file| file.as_path() != Path::new("/dev/null")).cloned()
}

fn learn(
    known: &Mutex<KnownHosts>,
    file: Option<&Path>,
    hash_names: bool,
    host: &str,
    port: u16,
    key: &PublicKey,
) -> Result<(), Cause> {
    let name = known_hosts::name_in_file(host, port);
    if let Some(file) = file {
        known_hosts::append(file, &[(name, key.clone())], hash_names)?;
    }
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    known.learn(file.unwrap_or(Path::new("/dev/null")), host, port, key);
    Ok(())
}

/// A host that is being connected to.
struct Destination<'a> {
    /// Inventory name, or the jump host as written.
    name: &'a str,
    /// The name that the configuration was resolved for.
    original: &'a str,
    resolved: &'a Resolved,
    config_file: Option<&'a Path>,
    /// How many connections wait for this one.
    depth: usize,
    channel_buffer: usize,
}

impl Destination<'_> {
    /// Under which name its key is listed: the alias, or the real host name.
    fn host_key_name(&self) -> &str {
        self.resolved.host_key_alias.as_deref().unwrap_or(&self.resolved.host_name)
    }

    fn host_key_port(&self) -> u16 {
        if self.resolved.host_key_alias.is_some() { 22 } else { self.resolved.port }
    }

    fn describe(&self) -> String {
        let Resolved { user, host_name, port, .. } = self.resolved;
        let label = if self.name == self.original && self.name == host_name {
            String::new()
        } else {
            format!(" ({})", self.name)
        };
        format!("ssh {user}@{host_name}:{port}{label}")
    }
}

/// A stream to a host, with what must live as long.
struct Dialled {
    stream: Box<dyn Stream>,
    via: Option<Arc<Session>>,
    /// Given back to the jump host when we are let in.
    passing: Option<OwnedSemaphorePermit>,
    round_trip: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_failed_together_come_back_one_by_one() {
        for (attempt, base) in [(1, 500), (2, 1000), (3, 2000), (5, 8000), (9, 8000)] {
            let waits: Vec<u128> = (0..200).map(|_| backoff(attempt).as_millis()).collect();
            let (least, most) = (waits.iter().min().expect("some"), waits.iter().max().expect("some"));
            assert!(*least >= base * 3 / 4 && *most <= base * 5 / 4, "{attempt}: {least} to {most}");
            assert!(most - least > base / 4, "{attempt}: {least} to {most} is not spread");
        }
    }
}
