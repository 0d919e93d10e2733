//! Commands on a connection, and their streams.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use russh::client::{self, Handle, Msg};
use russh::keys::ssh_encoding::Decode;
use russh::{Channel, ChannelId, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};

use super::super::error::{Cause, TransportError};
use super::super::{BoxFuture, Connection, ExitStatus, Guard, Pipe};
use super::handler::{Handler, Report, ssh_cause};
use super::pace::{Pace, Paces};
use super::{AUTHENTICATION_STEP, OUTPUT_BUFFER};

/// How OpenSSH's server names itself.
pub(super) const OPENSSH: &[u8] = b"SSH-2.0-OpenSSH_";

/// A connection's first command, which may go out before its channel is confirmed.
///
/// OpenSSH's server tells its host keys when it has let us in, and Nagle's algorithm holds its next answer, the
/// channel's confirmation, until they are acknowledged. So the command is sent when the keys come, a round trip
/// early. The number that the server gives the channel is its lowest free one, 0.
#[derive(Default)]
pub(super) struct FirstCommand(Mutex<Option<String>>);

impl FirstCommand {
    fn slot(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the command, if one waits and its channel has been asked for.
    pub(super) fn send(&self, session: &mut client::Session) -> Result<(), russh::Error> {
        let mut slot = self.slot();
        if !session.remote_sshid().starts_with(OPENSSH) {
            return Ok(());
        }
        let Some(channel) = first_channel(session) else { return Ok(()) };
        match slot.take() {
            Some(command) => session.exec(channel, false, command.as_bytes()),
            None => Ok(()),
        }
    }
}

/// The channel that the library numbers first, if it has been asked for.
fn first_channel(session: &client::Session) -> Option<ChannelId> {
    (0..4_u32)
        .filter_map(|number| ChannelId::decode(&mut number.to_be_bytes().as_slice()).ok())
        .find(|channel| session.sender_window_size(*channel) > 0)
}

/// How long a command may read nothing before what is sent to it is no longer held back. It may be busy for longer;
/// then its host keeps what comes.
const STALLED: Duration = Duration::from_secs(5);

/// A connection that is up.
pub(super) struct Session {
    pub(super) handle: Handle<Handler>,
    pub(super) report: Arc<Report>,
    pub(super) first: Arc<FirstCommand>,
    pub(super) paces: Arc<Paces>,
    /// Whether a channel has been asked for.
    pub(super) used: AtomicBool,
    pub(super) description: String,
    pub(super) alive: Option<(Duration, usize)>,
    pub(super) forward_agent: bool,
    /// How long the host takes to answer; not known behind others.
    pub(super) round_trip: Option<Duration>,
    /// The jump host's connection, which must live as long.
    pub(super) _via: Option<Arc<Session>>,
}

impl Session {
    /// Why it is gone.
    pub(super) fn lost(&self, error: &russh::Error) -> Cause {
        self.why().unwrap_or_else(|| ssh_cause(error, "opening a channel"))
    }

    pub(super) fn why(&self) -> Option<Cause> {
        match self.report.ended()? {
            Cause::Protocol(text) if text == "keepalive" => {
                let (interval, count) = self.alive.unwrap_or_default();
                Some(Cause::Dead { count, interval })
            }
            cause => Some(cause),
        }
    }

    pub(super) fn why_or_closed(&self) -> Cause {
        self.why().unwrap_or(Cause::Closed { during: "a command was running", detail: None })
    }
}

/// A connection as the layer above sees it.
pub(super) struct SshConnection {
    pub(super) session: Arc<Session>,
}

impl SshConnection {
    pub(super) async fn start(&self, command: &str, terminal: bool) -> Result<Pipe, TransportError> {
        let session = &self.session;
        let failed = |cause| TransportError::new(format!("run a command on {}", session.description), cause);
        let is_first = !session.used.swap(true, Ordering::Relaxed);
        let ahead = is_first && !terminal && !session.forward_agent;
        if ahead {
            *session.first.slot() = Some(command.to_owned());
        }
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
        let sent = ahead && session.first.slot().take().is_none();
        if !sent {
            // No reply is asked for: what follows is the program's output or the end of the channel.
            channel.exec(false, command).await.map_err(lost)?;
        }
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

    fn round_trip(&self) -> Option<Duration> {
        self.session.round_trip
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
pub(super) fn pipe(channel: Channel<Msg>, session: Arc<Session>) -> Pipe {
    let (read, write) = channel.split();
    let write = Arc::new(write);
    let stdin = Stdin {
        writer: Box::pin(write.make_writer()),
        channel: write.clone(),
        ended: false,
        pace: session.round_trip.map(|round_trip| session.paces.open(write.id(), round_trip)),
        stalled: None,
        asked: None,
        session: session.clone(),
    };
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

pub(super) type Chunk = io::Result<Bytes>;

/// Sorts what comes on a channel into its streams.
pub(super) struct Pump {
    pub(super) read: ChannelReadHalf,
    pub(super) write: Arc<ChannelWriteHalf<Msg>>,
    pub(super) session: Arc<Session>,
    pub(super) out: mpsc::Sender<Chunk>,
    pub(super) err: mpsc::Sender<Chunk>,
}

impl Pump {
    pub(super) async fn run(
        mut self,
        ended: oneshot::Sender<ExitStatus>,
        mut abandoned: oneshot::Receiver<()>,
    ) {
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

    pub(super) async fn sort(&mut self) -> ExitStatus {
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

    pub(super) async fn lost(&mut self, status: Option<ExitStatus>) -> ExitStatus {
        if let Some(status) = status {
            return status;
        }
        let cause = self.session.why_or_closed();
        let error = TransportError::new(format!("talk to {}", self.session.description), cause.clone());
        let _ = self.out.send(Err(error.into_io(io::ErrorKind::ConnectionReset))).await;
        ExitStatus::Lost(cause.to_string())
    }
}

pub(super) fn signal_name_text(signal: &russh::Sig) -> String {
    match signal {
        russh::Sig::Custom(name) => name.clone(),
        known => format!("{known:?}"),
    }
}

/// One output stream of a channel.
pub(super) struct Output {
    pub(super) chunks: mpsc::Receiver<Chunk>,
    pub(super) current: Bytes,
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
pub(super) struct Stdin {
    pub(super) writer: Pin<Box<dyn AsyncWrite + Send>>,
    pub(super) channel: Arc<ChannelWriteHalf<Msg>>,
    pub(super) ended: bool,
    pace: Option<Arc<Pace>>,
    /// Runs while nothing may be sent.
    stalled: Option<Pin<Box<tokio::time::Sleep>>>,
    /// How many bytes are being handed over.
    asked: Option<usize>,
    session: Arc<Session>,
}

impl Stdin {
    /// How many of so many bytes may be handed over now.
    fn room(&mut self, bytes: usize, cx: &mut Context<'_>) -> Poll<usize> {
        let Some(pace) = &self.pace else { return Poll::Ready(bytes) };
        loop {
            let room = pace.room(bytes, cx);
            if room > 0 {
                self.stalled = None;
                return Poll::Ready(room);
            }
            let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALLED)));
            std::task::ready!(stalled.as_mut().poll(cx));
            pace.lift();
        }
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // What is being handed over is asked for again until it is taken.
        let asked = match self.asked {
            Some(asked) => asked,
            None => std::task::ready!(self.room(buf.len(), cx)),
        };
        self.asked = Some(asked);
        let outcome = std::task::ready!(self.writer.as_mut().poll_write(cx, &buf[..asked.min(buf.len())]));
        self.asked = None;
        if let (Ok(count), Some(pace)) = (&outcome, &self.pace) {
            pace.sent(*count);
        }
        Poll::Ready(outcome)
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
        self.session.paces.close(self.channel.id());
        if self.ended {
            return;
        }
        let channel = self.channel.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { channel.eof().await });
        }
    }
}
