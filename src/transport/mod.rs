//! Ways to a host: SSH, the user's own ssh program, this machine, containers, chroots; and becoming
//! another user there.
//!
//! Everything above sees one thing, a [`Connection`], and on it a [`Pipe`]: a command with its three
//! streams. This room knows no frames, no modules and no playbooks, and it is the only one that knows
//! tokio and russh ([`rt`] lends what the layer above needs).
//!
//! What it costs: with a key, a connection takes one round trip for TCP, one for the versions and key
//! exchange proposals, one for the key exchange, one for the service request, two for the key (offered,
//! then signed), one for the channel; the command and the first data leave together with the next, whose
//! answer is the program's first output. That is what the protocol library lets us pipeline.

pub mod r#become;
mod config;
mod error;
mod keys;
mod known_hosts;
mod process;
mod quote;
mod sandbox;
mod ssh;
mod target;

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

pub use r#become::{Become, Method, open_as};
pub use error::{BecomeFailure, Cause, ChangedKey, Class, TransportError};
pub use quote::for_any_shell;
pub use sandbox::{Sandbox, SandboxHost};
pub use ssh::Transports;
pub use target::{HostKeyChecking, Kind, Target};

/// What the layer above needs of the runtime, so that only this room names it.
pub mod rt {
    pub use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, duplex};
    pub use tokio::runtime::{Builder, Handle, Runtime};
    pub use tokio::select;
    pub use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot, watch};
    pub use tokio::task::{JoinHandle, JoinSet, spawn_blocking, yield_now};
    pub use tokio::time::{Instant, interval, sleep, timeout};
    pub use tokio::{join, pin, spawn};
}

/// A future that can be kept and sent.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What [`Cause::Closed`] says when the other side went away before we knew one another.
pub(crate) const DURING_HANDSHAKE: &str = "the SSH handshake was under way";

/// What [`Cause::Closed`] says when the other side went away while we showed who we are.
pub(crate) const DURING_AUTHENTICATION: &str = "authenticating";

/// Text that must not be seen: it is wiped when dropped and never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps `text`.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(text.into()))
    }

    /// The text itself, for the one place that must hand it over.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.reveal() == other.reveal()
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It returned this code.
    Code(i32),
    /// A signal ended it: `KILL`, `TERM` …
    Signal(String),
    /// The connection was lost before it ended, and why.
    Lost(String),
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(f, "exit code {code}"),
            ExitStatus::Signal(signal) => write!(f, "signal {signal}"),
            ExitStatus::Lost(why) => write!(f, "connection lost: {why}"),
        }
    }
}

/// A running command and its streams.
///
/// Both output streams carry back-pressure: whoever reads only one of them must drop the other, or a
/// program that writes much to it comes to a halt. Dropping the whole pipe ends the command: over SSH
/// its channel is closed, a local process group is hung up and then killed.
pub struct Pipe {
    /// What we write, the program reads. Shutting it down (or dropping it) is its end of file.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// What it prints. Ends cleanly only when the program closed it; a lost connection is an error that
    /// holds a [`TransportError`].
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// Its diagnostics.
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// Its end.
    pub exit: BoxFuture<'static, ExitStatus>,
    /// Ends the command when it is dropped.
    pub guard: Guard,
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pipe")
    }
}

/// Ends a command when it is dropped. Kept by whoever takes a [`Pipe`] apart.
#[must_use = "dropping the guard ends the command"]
pub struct Guard(#[expect(dead_code, reason = "held for its Drop")] Box<dyn std::any::Any + Send + Sync>);

impl Guard {
    pub(crate) fn new(held: impl std::any::Any + Send + Sync) -> Guard {
        Guard(Box::new(held))
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

/// An open way to a host, on which commands run.
pub trait Connection: Send + Sync {
    /// Runs `command` through the login shell of the remote user, whatever that is; see
    /// [`for_any_shell`] for handing POSIX shell text to it. What its start-up files print comes first
    /// on stdout; [`open_as`] skips that.
    fn open<'a>(&'a self, command: &'a str) -> BoxFuture<'a, Result<Pipe, TransportError>>;

    /// The same on a terminal of its own, where stderr is one with stdout. Only for programs that
    /// insist on one to read a password.
    fn open_terminal<'a>(&'a self, command: &'a str) -> BoxFuture<'a, Result<Pipe, TransportError>>;

    /// How long the host takes to answer, if that is known.
    fn round_trip(&self) -> Option<Duration> {
        None
    }

    /// Whether the connection is known to be gone.
    fn is_closed(&self) -> bool;

    /// Says goodbye. Commands that still run end.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// `ssh admin@192.0.2.7:22 (web1)`: for messages.
    fn describe(&self) -> String;
}

/// An unknown host key that somebody has to vouch for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    /// The inventory name.
    pub name: String,
    /// The name under which it will be listed: `host` or `[host]:port`.
    pub host: String,
    /// `ssh-ed25519` …
    pub algorithm: String,
    /// `SHA256:…`
    pub fingerprint: String,
}

/// Asks the person at the terminal. Called from a blocking thread, one question at a time.
pub trait Prompter: Send + Sync {
    /// Asks for text that is not echoed; `None` if nobody can be asked.
    fn secret(&self, prompt: &str) -> Option<Secret>;
    /// Shows the unknown host keys and asks which to accept: one answer for each. All `false` if nobody
    /// can be asked.
    fn confirm_host_keys(&self, unknown: &[UnknownKey]) -> Vec<bool>;
}

/// Nobody to ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPrompter;

impl Prompter for NoPrompter {
    fn secret(&self, _prompt: &str) -> Option<Secret> {
        None
    }

    fn confirm_host_keys(&self, unknown: &[UnknownKey]) -> Vec<bool> {
        vec![false; unknown.len()]
    }
}

/// What holds for the whole run; a host's variables come over it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Connection to use where a host names none: `ssh`, `smart`, `local` … (`-c`).
    pub connection: String,
    /// Remote user where a host names none (`-u`, `remote_user`).
    pub remote_user: Option<String>,
    /// Port where a host names none (`remote_port`).
    pub remote_port: Option<u16>,
    /// Private key where a host names none (`--private-key`).
    pub private_key: Option<PathBuf>,
    /// Connection password where a host has none (`-k`).
    pub password: Option<Secret>,
    /// `host_key_checking`: `None` leaves it to the ssh configuration.
    pub host_key_checking: Option<bool>,
    /// Time for one connection attempt, until we are let in (`-T`, `timeout`).
    pub timeout: Option<Duration>,
    /// More attempts after the first (`[ssh_connection] retries`).
    pub retries: u32,
    /// `ssh_args`, `--ssh-common-args`, `--ssh-extra-args`, each as written.
    pub ssh_args: Option<String>,
    /// See [`Settings::ssh_args`].
    pub ssh_common_args: Option<String>,
    /// See [`Settings::ssh_args`].
    pub ssh_extra_args: Option<String>,
    /// The ssh program of `ansible_connection: openssh`.
    pub ssh_executable: PathBuf,
    /// The user's ssh configuration (`-F` replaces both files); read if it exists.
    pub ssh_config: Option<PathBuf>,
    /// The machine's ssh configuration.
    pub system_ssh_config: Option<PathBuf>,
    /// The user's home: `~` and `%d`.
    pub home: PathBuf,
    /// The local user: the default remote user, `%u`.
    pub local_user: String,
    /// The agent's socket (`SSH_AUTH_SOCK`).
    pub agent: Option<PathBuf>,
    /// How many connections may be under way through one jump host at once.
    pub per_jump_host: usize,
    /// How many connections may be under way at once in all: sshd's side is not ours to overrun, and
    /// each costs a key exchange here.
    pub connecting: usize,
}

impl Settings {
    /// The defaults for this user.
    pub fn new(home: impl Into<PathBuf>, local_user: impl Into<String>) -> Settings {
        let home = home.into();
        Settings {
            connection: "ssh".to_owned(),
            remote_user: None,
            remote_port: None,
            private_key: None,
            password: None,
            host_key_checking: None,
            timeout: None,
            retries: 0,
            ssh_args: None,
            ssh_common_args: None,
            ssh_extra_args: None,
            ssh_executable: PathBuf::from("ssh"),
            ssh_config: Some(home.join(".ssh/config")),
            system_ssh_config: Some(PathBuf::from("/etc/ssh/ssh_config")),
            home,
            local_user: local_user.into(),
            agent: None,
            per_jump_host: 32,
            connecting: 128,
        }
    }

    /// The defaults for whoever runs us, from `HOME`, `USER` and `SSH_AUTH_SOCK`, the user database
    /// filling in for the first two.
    pub fn from_environment() -> Settings {
        let (home, user) = process::whoami();
        let mut settings = Settings::new(home, user);
        settings.agent = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from);
        settings
    }
}

/// A prompter that many may hold.
pub(crate) type SharedPrompter = Arc<dyn Prompter>;
