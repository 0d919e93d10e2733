//! The built-in SSH client: dialling (straight, through jump hosts, through a ProxyCommand), host keys,
//! authentication, channels.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};
use russh::client::{self, AuthResult, Handle, KeyboardInteractiveAuthResponse, Msg};
use russh::keys::agent::AgentIdentity;
use russh::keys::{
    Algorithm, Certificate, EcdsaCurve, HashAlg, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate,
};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, MethodKind, MethodSet, Preferred};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::config::{
    self, Agent as AgentChoice, Arguments, Environment, Family, Hop, Proxy, Resolved, Strict,
};
use super::error::{Cause, TransportError};
use super::keys::{AgentSigner, FileSigner, KeyFile, KeyStore, is_rsa};
use super::known_hosts::{self, KnownHosts, Verdict};
use super::process::{ProxyStream, Spawner, Terminal};
use super::target::{Kind, Target, check_name};
use super::{
    BoxFuture, Connection, DURING_AUTHENTICATION, ExitStatus, Guard, Pipe, Prompter, Secret, Settings,
    SharedPrompter, UnknownKey,
};

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
    asking: Mutex<Asking>,
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
                asking: Mutex::default(),
            }),
        }
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

/// The program that stands for a connection.
fn spawner(target: &Target, settings: &Settings) -> Spawner {
    let mut arguments: Vec<String> = Vec::new();
    let program = match (&target.executable, &target.kind) {
        (Some(program), _) => program.clone(),
        (None, Kind::OpenSsh) => settings.ssh_executable.clone(),
        (None, Kind::Docker { podman: false }) => PathBuf::from("docker"),
        (None, Kind::Docker { podman: true }) => PathBuf::from("podman"),
        (None, Kind::Chroot) => PathBuf::from("chroot"),
        (None, Kind::Local | Kind::Ssh) => PathBuf::from("/bin/sh"),
    };
    let mut terminal = Terminal::None("this kind of connection has none");
    let description = match target.kind {
        Kind::OpenSsh => {
            terminal = Terminal::Arguments(vec!["-tt".into()]);
            openssh_arguments(target, &mut arguments);
            format!("openssh {} ({})", target.address, target.name)
        }
        Kind::Docker { podman } => {
            arguments.extend(target.extra_args.iter().cloned());
            arguments.extend(["exec", "-i"].map(str::to_owned));
            if let Some(user) = &target.user {
                arguments.extend(["-u".to_owned(), user.clone()]);
            }
            arguments.extend([target.address.as_str(), "/bin/sh", "-c"].map(str::to_owned));
            format!("{} {} ({})", if podman { "podman" } else { "docker" }, target.address, target.name)
        }
        Kind::Chroot => {
            arguments.extend([target.address.as_str(), "/bin/sh", "-c"].map(str::to_owned));
            format!("chroot {} ({})", target.address, target.name)
        }
        Kind::Local | Kind::Ssh => {
            arguments.push("-c".to_owned());
            format!("local ({})", target.name)
        }
    };
    let arguments = arguments.into_iter().map(Into::into).collect();
    Spawner { description, program: program.into(), arguments, terminal }
}

fn openssh_arguments(target: &Target, arguments: &mut Vec<String>) {
    // The user's own words come first: ssh takes the first value that it sees.
    arguments.extend(target.ssh_args.iter().cloned());
    let mut option = |text: String| arguments.extend(["-o".to_owned(), text]);
    // A master left behind would outlive the run.
    option("ControlMaster=no".to_owned());
    option("ServerAliveInterval=10".to_owned());
    option(format!("ConnectTimeout={}", target.connect_timeout.as_secs().max(1)));
    if target.host_key_checking == super::HostKeyChecking::Off {
        option("StrictHostKeyChecking=no".to_owned());
    }
    if let Some(port) = target.port {
        arguments.extend(["-p".to_owned(), port.to_string()]);
    }
    if let Some(user) = &target.user {
        arguments.extend(["-l".to_owned(), user.clone()]);
    }
    if let Some(key) = &target.private_key {
        arguments.extend(["-i".to_owned(), key.to_string_lossy().into_owned()]);
    }
    arguments.extend(["--".to_owned(), target.address.clone()]);
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
        let this = self.clone();
        let (address, arguments) = (target.address.clone(), target.arguments.clone());
        // A `Match exec` runs a command.
        let resolved = tokio::task::spawn_blocking(move || this.resolve(&address, &arguments))
            .await
            .unwrap_or_else(|_| Err(Cause::Network("the runtime is shutting down".to_owned())))?;
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
        loop {
            let cause = match self.connect_asking(&place, &credentials).await {
                Ok(session) => return Ok(session),
                Err(cause) => cause,
            };
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
                if !self.ask(unknown.question(place)).await {
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
        // A jump host is dialled on behalf of a target that already holds a permit.
        let _permit = if place.depth == 0 { self.connecting.acquire().await.ok() } else { None };
        let dialled = self.dial(place, limit).await?;
        let known = self.known_hosts(resolved)?;
        let report = Arc::new(Report::default());
        let handler = Handler {
            report: report.clone(),
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
            Ok(Err(failure)) => return Err(failure.during("the SSH handshake")),
            Ok(Ok(handle)) => handle,
        };
        let login = Login { inner: self, resolved, credentials, report: &report };
        login.run(&mut handle).await?;
        drop(dialled.passing);
        Ok(Arc::new(Session {
            handle,
            report,
            description: place.describe(),
            alive: alive(resolved),
            forward_agent: resolved.forward_agent && self.agent_socket(resolved).is_some(),
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
                let stream = dial_tcp(resolved, limit).await?;
                Ok(Dialled { stream: Box::new(stream), via: None, passing: None })
            }
            Proxy::Command(command) => {
                check_name("host", &resolved.host_name)?;
                check_name("user", &resolved.user)?;
                let stream = ProxyStream::start(command).map_err(|error| Cause::Program {
                    program: command.clone(),
                    reason: error.to_string(),
                })?;
                Ok(Dialled { stream: Box::new(stream), via: None, passing: None })
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
        Ok(Dialled { stream, via: Some(session), passing })
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
            let mut arguments = Arguments::with_file(place.config_file);
            if let Some(user) = &hop.user {
                arguments.set("user", user, "ProxyJump")?;
            }
            if let Some(port) = hop.port {
                arguments.set("port", &port.to_string(), "ProxyJump")?;
            }
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
        loop {
            let quiet = {
                let asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
                asking.last.map_or(QUIET, |last| last.elapsed())
            };
            if quiet >= QUIET {
                break;
            }
            tokio::time::sleep(QUIET - quiet).await;
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

/// Algorithms by preference: those that cost little first, then what old or strict hosts still need.
fn preferred(resolved: &Resolved, known: &[Algorithm], authority: bool) -> Preferred {
    use russh::{cipher, compression, kex, mac};
    const KEX: &[kex::Name] = &[
        kex::MLKEM768X25519_SHA256,
        kex::CURVE25519,
        kex::CURVE25519_PRE_RFC_8731,
        kex::ECDH_SHA2_NISTP256,
        kex::ECDH_SHA2_NISTP384,
        kex::ECDH_SHA2_NISTP521,
        kex::DH_GEX_SHA256,
        kex::DH_G16_SHA512,
        kex::DH_G18_SHA512,
        kex::DH_G14_SHA256,
    ];
    const ALL_KEX: &[kex::Name] = &[
        kex::MLKEM768X25519_SHA256,
        kex::CURVE25519,
        kex::CURVE25519_PRE_RFC_8731,
        kex::ECDH_SHA2_NISTP256,
        kex::ECDH_SHA2_NISTP384,
        kex::ECDH_SHA2_NISTP521,
        kex::DH_GEX_SHA256,
        kex::DH_G16_SHA512,
        kex::DH_G18_SHA512,
        kex::DH_G14_SHA256,
        kex::DH_G14_SHA1,
        kex::DH_GEX_SHA1,
        kex::DH_G1_SHA1,
    ];
    const CIPHERS: &[cipher::Name] = &[
        cipher::AES_128_GCM,
        cipher::AES_256_GCM,
        cipher::CHACHA20_POLY1305,
        cipher::AES_256_CTR,
        cipher::AES_192_CTR,
        cipher::AES_128_CTR,
    ];
    const MACS: &[mac::Name] =
        &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512];
    const ALL_MACS: &[mac::Name] = &[
        mac::HMAC_SHA256_ETM,
        mac::HMAC_SHA512_ETM,
        mac::HMAC_SHA256,
        mac::HMAC_SHA512,
        mac::HMAC_SHA1_ETM,
        mac::HMAC_SHA1,
    ];
    let mut kex =
        config::choose_algorithms(resolved.kex.as_deref(), KEX, ALL_KEX, |name| name.as_ref().to_owned());
    kex.extend([kex::EXTENSION_SUPPORT_AS_CLIENT, kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT]);
    let key = host_key_algorithms(resolved, known);
    let compression: &[compression::Name] = if resolved.compression {
        &[compression::ZLIB_LEGACY, compression::NONE]
    } else {
        &[compression::NONE]
    };
    Preferred {
        kex: kex.into(),
        host_key_certificates: if authority { key.clone().into() } else { Vec::new().into() },
        key: key.into(),
        cipher: config::choose_algorithms(resolved.ciphers.as_deref(), CIPHERS, CIPHERS, |n| {
            n.as_ref().to_owned()
        })
        .into(),
        mac: config::choose_algorithms(resolved.macs.as_deref(), MACS, ALL_MACS, |n| n.as_ref().to_owned())
            .into(),
        compression: compression.to_vec().into(),
    }
}

/// Types that are listed for the host come first: it may have others, which we would not know.
fn host_key_algorithms(resolved: &Resolved, known: &[Algorithm]) -> Vec<Algorithm> {
    let ecdsa = |curve| Algorithm::Ecdsa { curve };
    let rsa = |hash| Algorithm::Rsa { hash };
    let ours = [
        Algorithm::Ed25519,
        ecdsa(EcdsaCurve::NistP256),
        ecdsa(EcdsaCurve::NistP384),
        ecdsa(EcdsaCurve::NistP521),
        rsa(Some(HashAlg::Sha512)),
        rsa(Some(HashAlg::Sha256)),
    ];
    let mut all = ours.to_vec();
    all.push(rsa(None));
    let list = resolved.host_key_algorithms.as_deref();
    let mut chosen = config::choose_algorithms(list, &ours, &all, ToString::to_string);
    if list.is_none() {
        let is_known = |algorithm: &Algorithm| {
            known.iter().any(|known| known == algorithm || (is_rsa(known) && is_rsa(algorithm)))
        };
        chosen.sort_by_key(|algorithm| !is_known(algorithm));
    }
    chosen
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
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

async fn dial_tcp(resolved: &Resolved, limit: Duration) -> Result<TcpStream, Cause> {
    let deadline = tokio::time::Instant::now() + limit;
    let timed_out = || Cause::TimedOut { after: limit, waiting_for: "the TCP connection" };
    let lookup = look_up(&resolved.host_name, resolved.port, resolved.family);
    let addresses = tokio::time::timeout_at(deadline, lookup).await.map_err(|_| timed_out())??;
    let mut failure = timed_out();
    let count = addresses.len();
    for (index, address) in addresses.into_iter().enumerate() {
        // A dead first address must not eat the time of the others.
        let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
        let share = remaining / u32::try_from(count - index).unwrap_or(1);
        match tokio::time::timeout(share, dial_address(address, resolved.bind_address.as_deref())).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = Cause::from_connect_error(&error),
            Err(_) => failure = timed_out(),
        }
    }
    Err(failure)
}

async fn dial_address(address: SocketAddr, bind: Option<&str>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(bind) = bind {
        let local =
            bind.parse().map_err(|_| io::Error::other(format!("BindAddress {bind} is not an address")))?;
        socket.bind(SocketAddr::new(local, 0))?;
    }
    socket.set_keepalive(true)?;
    let stream = socket.connect(address).await?;
    // Small packets must leave at once: waiting for the host's delayed acknowledgement costs 40 ms each.
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn look_up(name: &str, port: u16, family: Family) -> Result<Vec<SocketAddr>, Cause> {
    let wanted = |address: &SocketAddr| match family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    };
    let failed = |reason: String| Cause::Resolve { name: name.to_owned(), reason };
    let found: Vec<SocketAddr> = match name.trim_matches(['[', ']']).parse() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => {
            tokio::net::lookup_host((name, port)).await.map_err(|error| failed(error.to_string()))?.collect()
        }
    };
    let found: Vec<SocketAddr> = found.into_iter().filter(wanted).collect();
    if found.is_empty() {
        Err(failed("it has no address of the wanted family".to_owned()))
    } else {
        Ok(found)
    }
}

/// Why a connection was not made.
#[derive(Debug)]
enum Failure {
    /// The host's key is unknown: somebody may be asked.
    Unknown(Box<Unknown>),
    Cause(Cause),
    Ssh(russh::Error),
}

/// An unknown host key.
#[derive(Clone, Debug)]
struct Unknown {
    host: String,
    port: u16,
    key: PublicKey,
}

impl Unknown {
    fn question(&self, place: &Destination<'_>) -> UnknownKey {
        UnknownKey {
            name: place.name.to_owned(),
            host: known_hosts::name_in_file(&self.host, self.port),
            algorithm: self.key.algorithm().to_string(),
            fingerprint: self.key.fingerprint(HashAlg::Sha256).to_string(),
        }
    }

    fn cause(&self, place: &Destination<'_>) -> Cause {
        let UnknownKey { host, algorithm, fingerprint, .. } = self.question(place);
        Cause::HostKeyUnknown { host, algorithm, fingerprint, files: known_hosts_files(place.resolved) }
    }
}

impl From<russh::Error> for Failure {
    fn from(error: russh::Error) -> Failure {
        Failure::Ssh(error)
    }
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Failure {
        Failure::Cause(cause)
    }
}

impl Failure {
    fn cause(self, place: &Destination<'_>) -> Cause {
        match self {
            Failure::Unknown(unknown) => unknown.cause(place),
            Failure::Cause(cause) => cause,
            Failure::Ssh(error) => ssh_cause(&error, "talking SSH"),
        }
    }

    fn during(self, what: &'static str) -> Failure {
        match self {
            Failure::Ssh(error) => Failure::Cause(ssh_cause(&error, what)),
            other => other,
        }
    }
}

/// What an error of the protocol library means.
fn ssh_cause(error: &russh::Error, during: &'static str) -> Cause {
    match error {
        russh::Error::Disconnect | russh::Error::HUP | russh::Error::SendError | russh::Error::RecvError => {
            Cause::Closed { during, detail: None }
        }
        russh::Error::IO(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Cause::Closed { during, detail: None }
        }
        russh::Error::IO(error) => Cause::Closed { during, detail: Some(error.to_string()) },
        russh::Error::NoCommonAlgo { kind, ours, theirs } => Cause::NoCommonAlgorithm {
            kind: format!("{kind:?}").to_lowercase(),
            ours: ours.join(","),
            theirs: theirs.join(","),
        },
        russh::Error::Version => {
            Cause::Protocol("what answers there does not speak SSH 2; is it the right port?".to_owned())
        }
        russh::Error::ChannelOpenFailure(reason) => Cause::ChannelRefused(reason.description().to_owned()),
        other => Cause::Protocol(other.to_string()),
    }
}

/// What a connection's handler saw that others need to know.
#[derive(Default)]
struct Report {
    /// Why it ended.
    ended: Mutex<Option<Cause>>,
    /// What the host says before it lets anybody in.
    banner: Mutex<String>,
    /// The host's key is not the one we know, and checking is off: no password may go there.
    distrusted: std::sync::atomic::AtomicBool,
    /// The host takes no further method, upon which the library hangs up.
    exhausted: std::sync::atomic::AtomicBool,
}

impl Report {
    /// Waits until it is known why a closed connection ended: the handler hears of it a moment after the
    /// connection stops taking requests.
    async fn settled(&self) {
        for _ in 0..100 {
            if self.ended().is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn ended(&self) -> Option<Cause> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the host key is checked against.
struct HostCheck {
    known: Arc<Mutex<KnownHosts>>,
    host: String,
    port: u16,
    strict: Strict,
    learn_into: Option<PathBuf>,
    hash_names: bool,
}

impl HostCheck {
    fn check(&self, key: &PublicKeyOrCertificate, report: &Report) -> Result<(), Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let verdict = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.check(&self.host, self.port, key, now)
        };
        match (verdict, self.strict) {
            (Verdict::Known, _) => Ok(()),
            (Verdict::Refused(Cause::HostKeyChanged(_)), Strict::No) => {
                report.distrusted.store(true, std::sync::atomic::Ordering::Relaxed);
                Ok(())
            }
            (Verdict::Refused(cause), _) => Err(cause.into()),
            (Verdict::Unknown, Strict::No | Strict::AcceptNew) => {
                let file = self.learn_into.as_deref();
                learn(&self.known, file, self.hash_names, &self.host, self.port, &key.public_key())?;
                Ok(())
            }
            (Verdict::Unknown, Strict::Yes | Strict::Ask) => {
                let (host, port) = (self.host.clone(), self.port);
                Err(Failure::Unknown(Box::new(Unknown { host, port, key: key.public_key() })))
            }
        }
    }
}

/// What happens on a connection without our asking.
struct Handler {
    report: Arc<Report>,
    check: HostCheck,
    /// The agent that the host may use, if it may.
    agent: Option<PathBuf>,
}

impl client::Handler for Handler {
    type Error = Failure;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Failure> {
        self.check.check(key, &self.report).map(|()| true)
    }

    async fn auth_banner(&mut self, banner: &str, _session: &mut client::Session) -> Result<(), Failure> {
        let mut kept = self.report.banner.lock().unwrap_or_else(PoisonError::into_inner);
        // Only for messages: a host may send as much as it likes.
        let room = 1024_usize.saturating_sub(kept.len());
        kept.extend(banner.chars().take(room));
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        channel: Channel<Msg>,
        reply: client::ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Failure> {
        let Some(socket) = self.agent.clone() else {
            reply.reject(russh::ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        };
        reply.accept().await;
        tokio::spawn(async move {
            if let Ok(mut agent) = tokio::net::UnixStream::connect(socket).await {
                // Either side may end it; nothing depends on how.
                let _ = tokio::io::copy_bidirectional(&mut agent, &mut channel.into_stream()).await;
            }
        });
        Ok(())
    }

    async fn disconnected(&mut self, reason: client::DisconnectReason<Failure>) -> Result<(), Failure> {
        let during = "the connection was up";
        let cause = match reason {
            client::DisconnectReason::ReceivedDisconnect(info) => {
                let detail = Some(format!("the host says: {}", info.message.trim()));
                Cause::Closed { during, detail }
            }
            client::DisconnectReason::Error(Failure::Ssh(russh::Error::NoAuthMethod)) => {
                self.report.exhausted.store(true, std::sync::atomic::Ordering::Relaxed);
                Cause::Closed { during: DURING_AUTHENTICATION, detail: None }
            }
            client::DisconnectReason::Error(Failure::Ssh(error)) => match &error {
                russh::Error::KeepaliveTimeout => Cause::Protocol("keepalive".to_owned()),
                other => ssh_cause(other, during),
            },
            client::DisconnectReason::Error(Failure::Cause(cause)) => cause,
            client::DisconnectReason::Error(Failure::Unknown(_)) => {
                Cause::Protocol("the host showed another key in the middle of the connection".to_owned())
            }
        };
        self.report.ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
        Ok(())
    }
}

/// Showing a host who we are.
struct Login<'a> {
    inner: &'a Arc<Inner>,
    resolved: &'a Resolved,
    credentials: &'a Credentials,
    report: &'a Report,
}

/// What became of an attempt.
enum Attempt {
    Accepted,
    /// Accepted, but the host wants more.
    Partial(MethodSet),
    Refused(MethodSet),
    /// There was nothing to try with.
    Skipped,
}

/// What has been tried on a connection.
#[derive(Default)]
struct Tried {
    /// For the message.
    offers: Vec<String>,
    /// Key files that could not be used.
    notes: Vec<String>,
    /// Public keys that were offered.
    keys: Vec<PublicKey>,
    /// Methods that are used up.
    methods: Vec<MethodKind>,
    /// What the host still takes; `None` before it has said.
    allowed: Option<MethodSet>,
}

impl Tried {
    fn allows(&self, method: MethodKind) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(&method))
    }
}

impl Login<'_> {
    async fn run(&self, handle: &mut Handle<Handler>) -> Result<(), Cause> {
        let mut tried = Tried::default();
        match self.try_all(handle, &mut tried).await {
            // A host that hangs up with a word after an attempt has had enough of them.
            Err(Cause::Closed { detail: Some(detail), .. }) if !tried.offers.is_empty() => {
                tried.notes.push(detail);
                Err(self.failure(tried))
            }
            Err(cause) => Err(cause),
            Ok(true) => Ok(()),
            Ok(false) => Err(self.failure(tried)),
        }
    }

    /// Tries all that we have; whether something was accepted.
    async fn try_all(&self, handle: &mut Handle<Handler>, tried: &mut Tried) -> Result<bool, Cause> {
        'again: loop {
            for method in self.order() {
                if !tried.allows(method) || tried.methods.contains(&method) {
                    continue;
                }
                let attempt = match method {
                    MethodKind::PublicKey => self.public_keys(handle, tried).await?,
                    MethodKind::KeyboardInteractive => self.keyboard_interactive(handle, tried).await?,
                    _ => self.password(handle, tried).await?,
                };
                match attempt {
                    Attempt::Accepted => return Ok(true),
                    Attempt::Partial(remaining) => {
                        tried.allowed = Some(remaining);
                        // Several keys may be wanted; a password is not asked for twice.
                        if method != MethodKind::PublicKey {
                            tried.methods.push(method);
                        }
                        continue 'again;
                    }
                    Attempt::Refused(remaining) => {
                        tried.allowed = Some(remaining);
                        tried.methods.push(method);
                    }
                    Attempt::Skipped => {}
                }
            }
            break;
        }
        if tried.offers.is_empty() {
            // Nothing to offer: learn what the host would take, for the message. It may even take nothing.
            let attempt =
                self.step(AUTHENTICATION_STEP, handle.authenticate_none(&self.resolved.user)).await?;
            match self.attempt(attempt, handle).await? {
                Attempt::Accepted => return Ok(true),
                Attempt::Refused(remaining) | Attempt::Partial(remaining) => tried.allowed = Some(remaining),
                Attempt::Skipped => {}
            }
        }
        Ok(false)
    }

    /// The order of methods. A password that the user gave, and no key, is meant to be used: it goes
    /// first, as each key that is refused before it costs round trips and counts as a failed attempt.
    fn order(&self) -> Vec<MethodKind> {
        let resolved = self.resolved;
        let named: Vec<MethodKind> = resolved.preferred.iter().filter_map(|name| name.parse().ok()).collect();
        let explicit_key = self.credentials.private_key.is_some() || resolved.explicit_identities;
        let order = if !named.is_empty() {
            named
        } else if self.credentials.password.is_some() && !explicit_key {
            vec![MethodKind::Password, MethodKind::KeyboardInteractive, MethodKind::PublicKey]
        } else {
            vec![MethodKind::PublicKey, MethodKind::KeyboardInteractive, MethodKind::Password]
        };
        let distrusted = self.report.distrusted.load(std::sync::atomic::Ordering::Relaxed);
        order
            .into_iter()
            .filter(|method| match method {
                MethodKind::PublicKey => resolved.public_key,
                MethodKind::Password => resolved.password && !distrusted,
                MethodKind::KeyboardInteractive => resolved.keyboard_interactive && !distrusted,
                _ => false,
            })
            .collect()
    }

    async fn step<T, E: Into<StepError>>(
        &self,
        limit: Duration,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Cause> {
        match tokio::time::timeout(limit, step).await {
            Err(_) => Err(Cause::TimedOut { after: limit, waiting_for: "an answer to our authentication" }),
            Ok(Err(error)) => match error.into() {
                StepError::Ssh(error) => {
                    Err(self.report.ended().unwrap_or_else(|| ssh_cause(&error, DURING_AUTHENTICATION)))
                }
            },
            Ok(Ok(value)) => Ok(value),
        }
    }

    /// Tells a refusal from a lost connection, which the library reports alike.
    async fn attempt(&self, result: AuthResult, handle: &Handle<Handler>) -> Result<Attempt, Cause> {
        match result {
            AuthResult::Success => Ok(Attempt::Accepted),
            AuthResult::Failure { remaining_methods, partial_success: true } => {
                Ok(Attempt::Partial(remaining_methods))
            }
            AuthResult::Failure { remaining_methods, .. } => {
                // The library says the same when the connection is lost. When the host takes no further
                // method it hangs up itself, which it notes first.
                if remaining_methods.is_empty() && handle.is_closed() {
                    self.report.settled().await;
                    if !self.report.exhausted.load(std::sync::atomic::Ordering::Relaxed) {
                        return Err(self.closed());
                    }
                }
                Ok(Attempt::Refused(remaining_methods))
            }
        }
    }

    fn closed(&self) -> Cause {
        let detail = match self.report.ended() {
            Some(Cause::Closed { detail, .. }) => detail,
            Some(cause @ (Cause::Protocol(_) | Cause::Dead { .. })) => return cause,
            _ => None,
        };
        Cause::Closed { during: DURING_AUTHENTICATION, detail }
    }

    async fn password(&self, handle: &mut Handle<Handler>, tried: &mut Tried) -> Result<Attempt, Cause> {
        let Some(password) = &self.credentials.password else { return Ok(Attempt::Skipped) };
        tried.offers.push("password".to_owned());
        let step = handle.authenticate_password(&self.resolved.user, password.reveal());
        let result = self.step(AUTHENTICATION_STEP, step).await?;
        self.attempt(result, handle).await
    }

    /// Answers every hidden question with the password, as it is asked by PAM; questions that are echoed
    /// have no answer that we know.
    async fn keyboard_interactive(
        &self,
        handle: &mut Handle<Handler>,
        tried: &mut Tried,
    ) -> Result<Attempt, Cause> {
        let Some(password) = &self.credentials.password else { return Ok(Attempt::Skipped) };
        tried.offers.push("keyboard-interactive".to_owned());
        let start = handle.authenticate_keyboard_interactive_start(&self.resolved.user, None::<String>);
        let mut response = self.step(AUTHENTICATION_STEP, start).await?;
        let mut answered = false;
        loop {
            match response {
                KeyboardInteractiveAuthResponse::Success => return Ok(Attempt::Accepted),
                KeyboardInteractiveAuthResponse::Failure { remaining_methods, partial_success: true } => {
                    return Ok(Attempt::Partial(remaining_methods));
                }
                KeyboardInteractiveAuthResponse::Failure { remaining_methods, .. } => {
                    return Ok(Attempt::Refused(remaining_methods));
                }
                KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                    let hidden = prompts.iter().any(|prompt| !prompt.echo);
                    if hidden && answered {
                        // The same question again: the answer was wrong, and more of it would lock the account.
                        tried.notes.push("the host asks again, or for a second factor".to_owned());
                        return Ok(Attempt::Refused(MethodSet::from(&[MethodKind::PublicKey][..])));
                    }
                    answered |= hidden;
                    let answers = prompts
                        .iter()
                        .map(|prompt| if prompt.echo { String::new() } else { password.reveal().to_owned() })
                        .collect();
                    let respond = handle.authenticate_keyboard_interactive_respond(answers);
                    response = self.step(AUTHENTICATION_STEP, respond).await?;
                }
            }
        }
    }

    /// Offers keys in order: named files, the agent's, the usual files. A named key that works costs
    /// nothing else; the agent is not even asked.
    async fn public_keys(&self, handle: &mut Handle<Handler>, tried: &mut Tried) -> Result<Attempt, Cause> {
        let resolved = self.resolved;
        let mut last = Attempt::Skipped;
        let named = self.credentials.private_key.iter().map(|path| (path, true));
        let configured = resolved.identity_files.iter().map(|path| (path, false));
        let explicit: Vec<(PathBuf, bool)> = if resolved.explicit_identities {
            named.chain(configured).map(|(path, must)| (path.clone(), must)).collect()
        } else {
            named.map(|(path, must)| (path.clone(), must)).collect()
        };
        for (path, must) in &explicit {
            match self.key_file(path, *must, handle, tried).await? {
                Attempt::Skipped => {}
                refused @ Attempt::Refused(_) => last = refused,
                done => return Ok(done),
            }
        }
        if !resolved.identities_only {
            match self.agent_keys(handle, tried).await? {
                Attempt::Skipped => {}
                refused @ Attempt::Refused(_) => last = refused,
                done => return Ok(done),
            }
        }
        if !resolved.explicit_identities
            && (!resolved.identities_only || self.credentials.private_key.is_none())
        {
            for path in &resolved.identity_files {
                match self.key_file(path, false, handle, tried).await? {
                    Attempt::Skipped => {}
                    refused @ Attempt::Refused(_) => last = refused,
                    done => return Ok(done),
                }
            }
        }
        Ok(last)
    }

    async fn agent(&self) -> Option<Result<super::keys::Agent, String>> {
        let socket = self.inner.agent_socket(self.resolved)?;
        Some(self.inner.keys.agent(&socket).await)
    }

    /// Offers one file: its certificate, then its key. Locked files are offered by their public half, and
    /// unlocked only when the host would take them; if the agent holds the key it signs instead.
    async fn key_file(
        &self,
        path: &Path,
        must: bool,
        handle: &mut Handle<Handler>,
        tried: &mut Tried,
    ) -> Result<Attempt, Cause> {
        let file = match self.inner.keys.file(path) {
            Ok(file) => file,
            Err(problem) => {
                // A key that the inventory names is wanted; one of the usual names may just not be there.
                let missing = !path.exists();
                if must {
                    return Err(Cause::Key { path: path.to_owned(), problem });
                }
                if !missing || self.resolved.explicit_identities {
                    tried.notes.push(format!("{}: {problem}", path.display()));
                }
                return Ok(Attempt::Skipped);
            }
        };
        let Some(public) = file.public.clone() else {
            // An old encrypted format without a .pub beside it: only the passphrase tells which key it is.
            return self.opaque_key(&file, handle, tried).await;
        };
        if tried.keys.iter().any(|key| key.key_data() == public.key_data()) {
            return Ok(Attempt::Skipped);
        }
        tried.keys.push(public.clone());
        let mut last = Attempt::Skipped;
        for certificate in self.certificates(&file, &public) {
            tried.offers.push(format!("certificate for {}", path.display()));
            match self.offer_certificate(&file, certificate, handle).await? {
                refused @ Attempt::Refused(_) => last = refused,
                Attempt::Skipped => {}
                done => return Ok(done),
            }
        }
        tried.offers.push(format!("key {}", path.display()));
        match self.offer_key(&file, &public, handle, tried).await? {
            Attempt::Skipped => Ok(last),
            attempt => Ok(attempt),
        }
    }

    fn certificates(&self, file: &KeyFile, public: &PublicKey) -> Vec<Certificate> {
        let configured = self.resolved.certificate_files.iter();
        let configured = configured.filter_map(|path| russh::keys::load_openssh_certificate(path).ok());
        let mut certificates: Vec<Certificate> =
            configured.filter(|certificate| certificate.public_key() == public.key_data()).collect();
        certificates.extend(file.certificate.clone());
        certificates
    }

    async fn offer_certificate(
        &self,
        file: &Arc<KeyFile>,
        certificate: Certificate,
        handle: &mut Handle<Handler>,
    ) -> Result<Attempt, Cause> {
        let user = &self.resolved.user;
        let hash = is_rsa(&certificate.algorithm()).then_some(HashAlg::Sha512);
        let mut signer = self.file_signer(file);
        let step = handle.authenticate_certificate_with(user, certificate, hash, &mut signer);
        match tokio::time::timeout(TYPING, step).await {
            Ok(Ok(result)) => self.attempt(result, handle).await,
            Ok(Err(_)) => Ok(Attempt::Skipped),
            Err(_) => Err(Cause::TimedOut { after: TYPING, waiting_for: "an answer to our authentication" }),
        }
    }

    fn file_signer(&self, file: &Arc<KeyFile>) -> FileSigner {
        let prompter = (!self.resolved.batch_mode).then(|| self.inner.prompter.clone());
        let named = self.credentials.private_key.as_deref() == Some(file.path.as_path());
        let passphrase = self.credentials.passphrase.clone().filter(|_| named);
        FileSigner { file: file.clone(), passphrase, prompter }
    }

    async fn offer_key(
        &self,
        file: &Arc<KeyFile>,
        public: &PublicKey,
        handle: &mut Handle<Handler>,
        tried: &mut Tried,
    ) -> Result<Attempt, Cause> {
        if let Some(key) = file.plain() {
            let rsa = is_rsa(&key.algorithm());
            let offer = |hash| PrivateKeyWithHashAlg::new(key.clone(), hash);
            let first = offer(rsa.then_some(HashAlg::Sha512));
            let step = handle.authenticate_publickey(&self.resolved.user, first);
            let result = self.step(AUTHENTICATION_STEP, step).await?;
            let attempt = self.attempt(result, handle).await?;
            if rsa && matches!(attempt, Attempt::Refused(_)) && self.wants_sha256(handle).await {
                let step = handle.authenticate_publickey(&self.resolved.user, offer(Some(HashAlg::Sha256)));
                let result = self.step(AUTHENTICATION_STEP, step).await?;
                return self.attempt(result, handle).await;
            }
            return Ok(attempt);
        }
        if let Some(Ok(agent)) = self.agent().await
            && let Some(identity) = agent.holding(public).cloned()
        {
            return self.offer_identity(&agent, identity, handle, tried).await;
        }
        let hash = is_rsa(&public.algorithm()).then_some(HashAlg::Sha512);
        let mut signer = self.file_signer(file);
        let step = handle.authenticate_publickey_with(&self.resolved.user, public.clone(), hash, &mut signer);
        match tokio::time::timeout(TYPING, step).await {
            Ok(Ok(result)) => self.attempt(result, handle).await,
            Ok(Err(error)) => {
                tried.notes.push(format!("{}: {}", file.path.display(), error.0));
                Ok(Attempt::Skipped)
            }
            Err(_) => Err(Cause::TimedOut { after: TYPING, waiting_for: "an answer to our authentication" }),
        }
    }

    async fn opaque_key(
        &self,
        file: &Arc<KeyFile>,
        handle: &mut Handle<Handler>,
        tried: &mut Tried,
    ) -> Result<Attempt, Cause> {
        let signer = self.file_signer(file);
        match file.unlock(signer.passphrase, signer.prompter).await {
            Ok(key) => {
                let public = key.public_key().clone();
                if tried.keys.iter().any(|other| other.key_data() == public.key_data()) {
                    return Ok(Attempt::Skipped);
                }
                tried.keys.push(public);
                tried.offers.push(format!("key {}", file.path.display()));
                let hash = is_rsa(&key.algorithm()).then_some(HashAlg::Sha512);
                let offer = PrivateKeyWithHashAlg::new(key, hash);
                let step = handle.authenticate_publickey(&self.resolved.user, offer);
                let result = self.step(AUTHENTICATION_STEP, step).await?;
                self.attempt(result, handle).await
            }
            Err(problem) => {
                tried.notes.push(format!("{}: {problem}", file.path.display()));
                Ok(Attempt::Skipped)
            }
        }
    }

    /// Whether the host has said that it takes RSA signatures with SHA-256 but not with SHA-512.
    async fn wants_sha256(&self, handle: &Handle<Handler>) -> bool {
        let asked = tokio::time::timeout(Duration::from_millis(50), handle.best_supported_rsa_hash()).await;
        matches!(asked, Ok(Ok(Some(Some(HashAlg::Sha256)) | None)))
    }

    async fn agent_keys(&self, handle: &mut Handle<Handler>, tried: &mut Tried) -> Result<Attempt, Cause> {
        let agent = match self.agent().await {
            None => return Ok(Attempt::Skipped),
            Some(Err(problem)) => {
                tried.notes.push(problem);
                return Ok(Attempt::Skipped);
            }
            Some(Ok(agent)) => agent,
        };
        let mut last = Attempt::Skipped;
        for identity in agent.identities.iter() {
            if let AgentIdentity::PublicKey { key, .. } = identity {
                if tried.keys.iter().any(|other| other.key_data() == key.key_data()) {
                    continue;
                }
                tried.keys.push(key.clone());
            }
            let comment = identity.comment();
            tried.offers.push(if comment.is_empty() {
                "agent key".to_owned()
            } else {
                format!("agent key {comment}")
            });
            match self.offer_identity(&agent, identity.clone(), handle, tried).await? {
                Attempt::Skipped => {}
                refused @ Attempt::Refused(_) => last = refused,
                done => return Ok(done),
            }
        }
        Ok(last)
    }

    async fn offer_identity(
        &self,
        agent: &super::keys::Agent,
        identity: AgentIdentity,
        handle: &mut Handle<Handler>,
        tried: &mut Tried,
    ) -> Result<Attempt, Cause> {
        let user = &self.resolved.user;
        let mut signer = AgentSigner { agent: agent.clone(), identity: identity.clone() };
        let step: BoxFuture<'_, _> = match identity {
            AgentIdentity::PublicKey { key, .. } => {
                let hash = is_rsa(&key.algorithm()).then_some(HashAlg::Sha512);
                Box::pin(handle.authenticate_publickey_with(user, key, hash, &mut signer))
            }
            AgentIdentity::Certificate { certificate, .. } => {
                let hash = is_rsa(&certificate.algorithm()).then_some(HashAlg::Sha512);
                Box::pin(handle.authenticate_certificate_with(user, certificate, hash, &mut signer))
            }
        };
        // An agent may ask its user to confirm, or to touch a token.
        match tokio::time::timeout(TYPING, step).await {
            Ok(Ok(result)) => self.attempt(result, handle).await,
            Ok(Err(error)) => {
                tried.notes.push(error.0);
                Ok(Attempt::Skipped)
            }
            Err(_) => Err(Cause::TimedOut { after: TYPING, waiting_for: "the agent to sign" }),
        }
    }

    fn failure(&self, mut tried: Tried) -> Cause {
        let names = |methods: &MethodSet| {
            methods.iter().filter(|m| **m != MethodKind::None).map(String::from).collect::<Vec<String>>()
        };
        if self.report.distrusted.load(std::sync::atomic::Ordering::Relaxed) {
            tried.notes.push("its host key has changed, so no password was sent".to_owned());
        }
        tried
            .notes
            .extend(self.resolved.unsupported.iter().map(|setting| format!("not honoured: {setting}")));
        let banner = self.report.banner.lock().unwrap_or_else(PoisonError::into_inner);
        let banner = banner.trim();
        if !banner.is_empty() {
            tried.notes.push(format!("the host says: {banner}"));
        }
        Cause::AuthFailed {
            user: self.resolved.user.clone(),
            tried: tried.offers,
            accepts: tried.allowed.as_ref().map(names).unwrap_or_default(),
            hint: (!tried.notes.is_empty()).then(|| tried.notes.join("; ")),
        }
    }
}

/// An error of a step that is not a refusal.
enum StepError {
    Ssh(russh::Error),
}

impl From<russh::Error> for StepError {
    fn from(error: russh::Error) -> StepError {
        StepError::Ssh(error)
    }
}

/// A connection that is up.
struct Session {
    handle: Handle<Handler>,
    report: Arc<Report>,
    description: String,
    alive: Option<(Duration, usize)>,
    forward_agent: bool,
    /// The jump host's connection, which must live as long.
    _via: Option<Arc<Session>>,
}

impl Session {
    /// Why it is gone.
    fn lost(&self, error: &russh::Error) -> Cause {
        self.why().unwrap_or_else(|| ssh_cause(error, "opening a channel"))
    }

    fn why(&self) -> Option<Cause> {
        match self.report.ended()? {
            Cause::Protocol(text) if text == "keepalive" => {
                let (interval, count) = self.alive.unwrap_or_default();
                Some(Cause::Dead { count, interval })
            }
            cause => Some(cause),
        }
    }

    fn why_or_closed(&self) -> Cause {
        self.why().unwrap_or(Cause::Closed { during: "a command was running", detail: None })
    }
}

/// A connection as the layer above sees it.
struct SshConnection {
    session: Arc<Session>,
}

impl SshConnection {
    async fn start(&self, command: &str, terminal: bool) -> Result<Pipe, TransportError> {
        let session = &self.session;
        let failed = |cause| TransportError::new(format!("run a command on {}", session.description), cause);
        let opening = session.handle.channel_open_session();
        let channel = match tokio::time::timeout(AUTHENTICATION_STEP, opening).await {
            Err(_) => {
                let cause = Cause::TimedOut { after: AUTHENTICATION_STEP, waiting_for: "a channel" };
                return Err(failed(cause));
            }
            Ok(Err(error @ russh::Error::ChannelOpenFailure(_))) => {
                return Err(failed(ssh_cause(&error, "")));
            }
            Ok(Err(error)) => return Err(failed(session.lost(&error))),
            Ok(Ok(channel)) => channel,
        };
        let lost = |error: russh::Error| failed(session.lost(&error));
        if session.forward_agent {
            channel.agent_forward(false).await.map_err(lost)?;
        }
        if terminal {
            let modes = [(russh::Pty::ECHO, 0), (russh::Pty::ONLCR, 0), (russh::Pty::ICRNL, 0)];
            channel.request_pty(false, "dumb", 80, 24, 0, 0, &modes).await.map_err(lost)?;
        }
        // No reply is asked for: what follows is the program's output or the end of the channel.
        channel.exec(false, command).await.map_err(lost)?;
        Ok(pipe(channel, session.clone()))
    }
}

impl Connection for SshConnection {
    fn open<'a>(&'a self, command: &'a str) -> BoxFuture<'a, Result<Pipe, TransportError>> {
        Box::pin(self.start(command, false))
    }

    fn open_terminal<'a>(&'a self, command: &'a str) -> BoxFuture<'a, Result<Pipe, TransportError>> {
        Box::pin(self.start(command, true))
    }

    fn is_closed(&self) -> bool {
        self.session.handle.is_closed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let goodbye = self.session.handle.disconnect(russh::Disconnect::ByApplication, "", "");
            // It is over either way.
            let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
        })
    }

    fn describe(&self) -> String {
        self.session.description.clone()
    }
}

/// Makes streams of a channel.
fn pipe(channel: Channel<Msg>, session: Arc<Session>) -> Pipe {
    let (read, write) = channel.split();
    let write = Arc::new(write);
    let stdin = Stdin { writer: Box::pin(write.make_writer()), channel: write.clone(), ended: false };
    let (out, stdout) = mpsc::channel(OUTPUT_BUFFER);
    let (err, stderr) = mpsc::channel(OUTPUT_BUFFER);
    let (ended, exit) = oneshot::channel();
    let (guard, abandoned) = oneshot::channel::<()>();
    tokio::spawn(Pump { read, write, session, out, err }.run(ended, abandoned));
    Pipe {
        stdin: Box::new(stdin),
        stdout: Box::new(Output { chunks: stdout, current: Bytes::new() }),
        stderr: Box::new(Output { chunks: stderr, current: Bytes::new() }),
        exit: Box::pin(async move {
            exit.await.unwrap_or_else(|_| ExitStatus::Lost("the command was given up".to_owned()))
        }),
        guard: Guard::new(guard),
    }
}

type Chunk = io::Result<Bytes>;

/// Sorts what comes on a channel into its streams.
struct Pump {
    read: ChannelReadHalf,
    write: Arc<ChannelWriteHalf<Msg>>,
    session: Arc<Session>,
    out: mpsc::Sender<Chunk>,
    err: mpsc::Sender<Chunk>,
}

impl Pump {
    async fn run(mut self, ended: oneshot::Sender<ExitStatus>, mut abandoned: oneshot::Receiver<()>) {
        tokio::select! {
            status = self.sort() => {
                // Nobody may be waiting for it any more.
                let _ = ended.send(status);
            }
            _ = &mut abandoned => {}
        }
        // Sent a second time it is harmless, and left out it would keep the command running.
        let _ = self.write.close().await;
    }

    async fn sort(&mut self) -> ExitStatus {
        let mut status = None;
        loop {
            match self.read.wait().await {
                // A reader that is gone loses its part; the others go on.
                Some(ChannelMsg::Data { data }) => drop(self.out.send(Ok(data)).await),
                Some(ChannelMsg::ExtendedData { data, .. }) => drop(self.err.send(Ok(data)).await),
                Some(ChannelMsg::ExitStatus { exit_status }) => {
                    status = Some(ExitStatus::Code(i32::try_from(exit_status).unwrap_or(i32::MAX)));
                }
                Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                    status = Some(ExitStatus::Signal(signal_name_text(&signal_name)));
                }
                Some(ChannelMsg::Close) => {
                    return status.unwrap_or_else(|| {
                        ExitStatus::Lost("the host closed the channel without an exit status".to_owned())
                    });
                }
                Some(_) => {}
                None => return self.lost(status).await,
            }
        }
    }

    async fn lost(&mut self, status: Option<ExitStatus>) -> ExitStatus {
        if let Some(status) = status {
            return status;
        }
        let cause = self.session.why_or_closed();
        let error = TransportError::new(format!("talk to {}", self.session.description), cause.clone());
        let _ = self.out.send(Err(error.into_io(io::ErrorKind::ConnectionReset))).await;
        ExitStatus::Lost(cause.to_string())
    }
}

fn signal_name_text(signal: &russh::Sig) -> String {
    match signal {
        russh::Sig::Custom(name) => name.clone(),
        known => format!("{known:?}"),
    }
}

/// One output stream of a channel.
struct Output {
    chunks: mpsc::Receiver<Chunk>,
    current: Bytes,
}

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.current.is_empty() {
            match std::task::ready!(self.chunks.poll_recv(cx)) {
                Some(Ok(chunk)) => self.current = chunk,
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.current.len().min(buf.remaining());
        buf.put_slice(&self.current[..count]);
        self.current.advance(count);
        Poll::Ready(Ok(()))
    }
}

/// A channel's input. Its end of file is sent when it is shut down or dropped.
struct Stdin {
    writer: Pin<Box<dyn AsyncWrite + Send>>,
    channel: Arc<ChannelWriteHalf<Msg>>,
    ended: bool,
}

impl AsyncWrite for Stdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.writer.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.writer.as_mut().poll_shutdown(cx))?;
        self.ended = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let channel = self.channel.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { channel.eof().await });
        }
    }
}
