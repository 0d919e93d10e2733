//! What can go wrong between the controller and a host, typed, with what to do about it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A failure of the transport: what we were doing, and why it did not work.
#[derive(Clone, Debug)]
pub struct TransportError {
    /// What we were doing, such as `connect to web1 (192.0.2.7:22)`.
    pub doing: String,
    /// Why it did not work.
    pub cause: Box<Cause>,
}

/// How the engine counts a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The host can't be reached or won't let us in: it is *unreachable*.
    Unreachable,
    /// The host was reached; becoming another user failed: the task is *failed*.
    Become,
    /// What the user wrote can't be honoured; nothing was tried.
    Setup,
}

/// Why it did not work.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Cause {
    /// Nothing listens there.
    #[error("connection refused: is sshd running, and is the port right?")]
    Refused,
    /// No answer in time.
    #[error("no answer within {} while waiting for {waiting_for}; is the host up, and does a firewall let us through?", seconds(.after))]
    TimedOut {
        /// How long we waited.
        after: Duration,
        /// What for: `the TCP connection`, `the SSH handshake` …
        waiting_for: &'static str,
    },
    /// The name has no address.
    #[error(
        "could not resolve the host name {name}: {reason}; set ansible_host if the inventory name is only a label"
    )]
    Resolve {
        /// The name.
        name: String,
        /// What the resolver said.
        reason: String,
    },
    /// The network refused: no route, unreachable, permission.
    #[error("{0}")]
    Network(String),
    /// The other side went away.
    #[error("connection closed while {during}{}", after_colon(.detail))]
    Closed {
        /// What was going on.
        during: &'static str,
        /// What the other side said, or the error.
        detail: Option<String>,
    },
    /// Keepalives went unanswered.
    #[error("the host stopped answering: {count} keepalives, one every {}, without a reply", seconds(.interval))]
    Dead {
        /// How many were lost.
        count: usize,
        /// The time between two.
        interval: Duration,
    },
    /// What came was not SSH, or not as the protocol wants it.
    #[error("SSH protocol error: {0}")]
    Protocol(String),
    /// No algorithm in common.
    #[error(
        "no {kind} algorithm in common: the host offers {theirs}, we offer {ours}; `ansible_connection: openssh` uses your own ssh program, which may still know it"
    )]
    NoCommonAlgorithm {
        /// Key exchange, host key, cipher …
        kind: String,
        /// The server's list.
        theirs: String,
        /// Our list.
        ours: String,
    },

    /// We have no key for this host and may not accept one.
    #[error("host key unknown: {host} presents {algorithm} {fingerprint}, and no file of known hosts ({}) lists it; check the fingerprint and add it with `ssh-keyscan`, answer yes when asked, or set StrictHostKeyChecking=accept-new", paths(.files))]
    HostKeyUnknown {
        /// The name under which it would be listed.
        host: String,
        /// Its type, `ssh-ed25519` …
        algorithm: String,
        /// `SHA256:…`.
        fingerprint: String,
        /// Where we looked.
        files: Vec<PathBuf>,
    },
    /// The host shows another key than the one we know.
    #[error("{0}")]
    HostKeyChanged(Box<ChangedKey>),
    /// The host's key is listed as revoked.
    #[error(
        "HOST KEY REVOKED: {host} presents {algorithm} {fingerprint}, which {place} marks as revoked; don't trust this host before its keys are replaced"
    )]
    HostKeyRevoked {
        /// The name under which it is listed.
        host: String,
        /// Its type.
        algorithm: String,
        /// Its fingerprint.
        fingerprint: String,
        /// `file:line` of the entry.
        place: String,
    },
    /// The host's certificate is not good for it.
    #[error("host certificate refused: {host} presents a certificate that {problem}")]
    HostCertificate {
        /// The name that was checked.
        host: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of known hosts can't be read or written.
    #[error("file of known hosts {path}: {problem}", path = .path.display())]
    KnownHosts {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },

    /// No credential was accepted.
    #[error("authentication failed for user {user}: tried {}; the host accepts {}{}", list(.tried, "nothing (no key, agent or password to offer)"), list(.accepts, "no further method"), after_semicolon(.hint))]
    AuthFailed {
        /// The remote user.
        user: String,
        /// What we offered.
        tried: Vec<String>,
        /// What the server says it takes.
        accepts: Vec<String>,
        /// More, such as key files that could not be used.
        hint: Option<String>,
    },
    /// A private key that was named can't be used.
    #[error("private key {path}: {problem}", path = .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// The server let us in, but gives us no channel.
    #[error(
        "the host refused to open a channel: {0}; sshd's MaxSessions may be too low, or the account has no right to run commands"
    )]
    ChannelRefused(String),
    /// A jump host on the way failed.
    #[error("by way of jump host {jump}: {cause}")]
    Jump {
        /// The jump host, as it was written.
        jump: String,
        /// What happened there.
        cause: Box<Cause>,
    },

    /// An option that we can't honour.
    #[error("{option}: {reason}")]
    Option {
        /// The option as written, with its place if it has one.
        option: String,
        /// Why not, and what to use instead.
        reason: String,
    },
    /// A program that a transport needs could not be started.
    #[error("could not start {program}: {reason}")]
    Program {
        /// `ssh`, `docker` …
        program: String,
        /// Why.
        reason: String,
    },
    /// The far side's shell ended, or floods us, before our command began.
    #[error("our command did not begin on the host ({exit}){}", printed(.output))]
    NoShell {
        /// How it ended.
        exit: String,
        /// The end of what it printed.
        output: String,
    },
    /// Becoming another user failed.
    #[error(transparent)]
    Become(BecomeFailure),
}

/// A host key that is not the one we know. Both fingerprints, and where ours is listed.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "HOST KEY CHANGED: {host} presents {offered_algorithm} {offered}, but {place} lists {known_algorithm} \
     {known}; someone may be intercepting the connection. If the host was really reinstalled, remove that \
     line (ssh-keygen -R '{host}') and try again"
)]
pub struct ChangedKey {
    /// The name under which it is listed.
    pub host: String,
    /// Fingerprint of what it presents.
    pub offered: String,
    /// Its type.
    pub offered_algorithm: String,
    /// Fingerprint of what is listed.
    pub known: String,
    /// Its type.
    pub known_algorithm: String,
    /// `file:line` of the entry.
    pub place: String,
}

/// Why becoming another user failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BecomeFailure {
    /// The password was not accepted.
    #[error("{exe}: wrong password for becoming {user}; check ansible_become_password or -K")]
    WrongPassword {
        /// The program.
        exe: String,
        /// Who we wanted to be.
        user: String,
    },
    /// A password is wanted and there is none.
    #[error(
        "{exe}: a password is needed to become {user}, and none was given; use -K or ansible_become_password"
    )]
    MissingPassword {
        /// The program.
        exe: String,
        /// Who we wanted to be.
        user: String,
    },
    /// The program is not there.
    #[error(
        "{exe} is not installed on the host, or not in the PATH of the login user; install it, or choose another become_method"
    )]
    Missing {
        /// The program.
        exe: String,
    },
    /// It insists on a terminal.
    #[error(
        "{exe} insists on a terminal (`requiretty` in sudoers); add `Defaults:USER !requiretty` for the login user"
    )]
    TerminalRequired {
        /// The program.
        exe: String,
    },
    /// The login user may not.
    #[error("{exe}: the login user may not become {user}: {detail}")]
    NotPermitted {
        /// The program.
        exe: String,
        /// Who we wanted to be.
        user: String,
        /// What it said.
        detail: String,
    },
    /// There is no such user.
    #[error("{exe}: there is no user {user} on the host")]
    UnknownUser {
        /// The program.
        exe: String,
        /// Who we wanted to be.
        user: String,
    },
    /// Neither prompt nor success in time.
    #[error("{exe}: neither a prompt nor success within {}{}", seconds(.after), printed(.output))]
    TimedOut {
        /// The program.
        exe: String,
        /// How long we waited.
        after: Duration,
        /// What it printed.
        output: String,
    },
    /// Anything else.
    #[error("{exe}: could not become {user} ({exit}){}", printed(.output))]
    Other {
        /// The program.
        exe: String,
        /// Who we wanted to be.
        user: String,
        /// How it ended.
        exit: String,
        /// What it printed.
        output: String,
    },
}

impl TransportError {
    /// The error of doing `doing`.
    pub fn new(doing: impl Into<String>, cause: Cause) -> TransportError {
        TransportError { doing: doing.into(), cause: Box::new(cause) }
    }

    /// How the engine counts it.
    pub fn class(&self) -> Class {
        match *self.cause {
            Cause::Become(_) => Class::Become,
            Cause::Option { .. } => Class::Setup,
            _ => Class::Unreachable,
        }
    }

    /// The transport error inside an I/O error that a [`super::Pipe`]'s reader or writer gave.
    pub fn from_io(error: &std::io::Error) -> Option<&TransportError> {
        error.get_ref().and_then(|inner| inner.downcast_ref())
    }

    /// Wraps it for a reader or writer.
    pub(super) fn into_io(self, kind: std::io::ErrorKind) -> std::io::Error {
        std::io::Error::new(kind, self)
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {}: {}", self.doing, self.cause)
    }
}

impl std::error::Error for TransportError {}

impl Cause {
    /// Whether trying again could help: the network or a busy server, not a refusal.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Cause::Refused | Cause::TimedOut { .. } | Cause::Network(_) | Cause::Dead { .. } => true,
            Cause::Closed { during, .. } => *during != super::DURING_AUTHENTICATION,
            Cause::Jump { cause, .. } => cause.is_transient(),
            _ => false,
        }
    }

    /// Whether the host hung up before the handshake.
    pub(super) fn is_drop_at_the_door(&self) -> bool {
        matches!(self, Cause::Closed { during: super::DURING_HANDSHAKE, .. })
    }

    /// What an I/O error of a connection means.
    pub(super) fn from_connect_error(error: &std::io::Error) -> Cause {
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => Cause::Refused,
            std::io::ErrorKind::TimedOut => {
                Cause::TimedOut { after: Duration::ZERO, waiting_for: "the TCP connection" }
            }
            _ => Cause::Network(error.to_string()),
        }
    }
}

fn seconds(duration: &Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

fn after_colon(detail: &Option<String>) -> String {
    detail.as_ref().map(|text| format!(": {text}")).unwrap_or_default()
}

fn after_semicolon(hint: &Option<String>) -> String {
    hint.as_ref().map(|text| format!("; {text}")).unwrap_or_default()
}

fn printed(output: &str) -> String {
    let output = output.trim();
    if output.is_empty() { String::new() } else { format!(": {output}") }
}

fn list(items: &[String], none: &str) -> String {
    if items.is_empty() { none.to_owned() } else { items.join(", ") }
}

fn paths(files: &[PathBuf]) -> String {
    let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    list(&files, "none is configured")
}
