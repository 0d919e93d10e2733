//! What a connection does without being asked: the host key is checked, the end is noted, an agent is lent.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use russh::client::{self, Msg};
use russh::keys::{HashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, ChannelId};

use super::super::config::Strict;
use super::super::error::Cause;
use super::super::known_hosts::{self, KnownHosts, Verdict};
use super::super::{DURING_AUTHENTICATION, UnknownKey};
use super::channel::{FirstCommand, OPENSSH};
use super::pace::Paces;
use super::{Destination, known_hosts_files, learn};

/// Why a connection was not made.
#[derive(Debug)]
pub(super) enum Failure {
    /// The host's key is unknown: somebody may be asked.
    Unknown(Box<Unknown>),
    Cause(Cause),
    Ssh(russh::Error),
}

/// An unknown host key.
#[derive(Clone, Debug)]
pub(super) struct Unknown {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) key: PublicKey,
}

impl Unknown {
    pub(super) fn question(&self, place: &Destination<'_>) -> UnknownKey {
        UnknownKey {
            name: place.name.to_owned(),
            host: known_hosts::name_in_file(&self.host, self.port),
            algorithm: self.key.algorithm().to_string(),
            fingerprint: self.key.fingerprint(HashAlg::Sha256).to_string(),
        }
    }

    pub(super) fn cause(&self, place: &Destination<'_>) -> Cause {
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
    pub(super) fn cause(self, place: &Destination<'_>) -> Cause {
        match self {
            Failure::Unknown(unknown) => unknown.cause(place),
            Failure::Cause(cause) => cause,
            Failure::Ssh(error) => ssh_cause(&error, "talking SSH"),
        }
    }

    pub(super) fn during(self, what: &'static str) -> Failure {
        match self {
            Failure::Ssh(error) => Failure::Cause(ssh_cause(&error, what)),
            other => other,
        }
    }
}

/// What an error of the protocol library means.
pub(super) fn ssh_cause(error: &russh::Error, during: &'static str) -> Cause {
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
pub(super) struct Report {
    /// Why it ended.
    pub(super) ended: Mutex<Option<Cause>>,
    /// What the host says before it lets anybody in.
    pub(super) banner: Mutex<String>,
    /// The host's key is not the one we know, and checking is off: no password may go there.
    pub(super) distrusted: AtomicBool,
    /// The host takes no further method, upon which the library hangs up.
    pub(super) exhausted: AtomicBool,
}

impl Report {
    /// Waits until it is known why a closed connection ended: the handler hears of it a moment after the
    /// connection stops taking requests.
    pub(super) async fn settled(&self) {
        for _ in 0..100 {
            if self.ended().is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) fn ended(&self) -> Option<Cause> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the host key is checked against.
pub(super) struct HostCheck {
    pub(super) known: Arc<Mutex<KnownHosts>>,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) strict: Strict,
    pub(super) learn_into: Option<PathBuf>,
    pub(super) hash_names: bool,
}

impl HostCheck {
    pub(super) fn check(&self, key: &PublicKeyOrCertificate, report: &Report) -> Result<(), Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let verdict = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.check(&self.host, self.port, key, now)
        };
        match (verdict, self.strict) {
            (Verdict::Known, _) => Ok(()),
            (Verdict::Refused(Cause::HostKeyChanged(_)), Strict::No) => {
                report.distrusted.store(true, Ordering::Relaxed);
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
pub(super) struct Handler {
    pub(super) report: Arc<Report>,
    pub(super) check: HostCheck,
    pub(super) first: Arc<FirstCommand>,
    pub(super) paces: Arc<Paces>,
    /// The agent that the host may use, if it may.
    pub(super) agent: Option<PathBuf>,
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

    async fn openssh_ext_host_keys_announced(
        &mut self,
        _keys: Vec<PublicKey>,
        session: &mut client::Session,
    ) -> Result<(), Failure> {
        // The keys themselves prove nothing and are not kept.
        Ok(self.first.send(session)?)
    }

    async fn window_adjusted(
        &mut self,
        channel: ChannelId,
        new_size: u32,
        session: &mut client::Session,
    ) -> Result<(), Failure> {
        // Others may say so only when all was read.
        if session.remote_sshid().starts_with(OPENSSH) {
            self.paces.window(channel, new_size);
        }
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
                self.report.exhausted.store(true, Ordering::Relaxed);
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
