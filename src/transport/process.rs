//! Transports that are a program on this machine: a local shell, `docker exec`, `podman exec`,
//! `chroot`, the user's own `ssh`; and a ProxyCommand as the stream under an SSH connection.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

use super::error::{Cause, TransportError};
use super::target::{HostKeyChecking, Kind, Target};
use super::{BoxFuture, Connection, ExitStatus, Guard, Pipe, Settings};

/// How long a process group that was hung up may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// A program that gets the command as its last argument.
#[derive(Clone, Debug)]
pub(super) struct Spawner {
    /// For messages.
    pub(super) description: String,
    pub(super) program: OsString,
    pub(super) arguments: Vec<OsString>,
    pub(super) terminal: Terminal,
    /// Where the program runs.
    pub(super) directory: Option<PathBuf>,
}

/// How the program gives its command a terminal.
#[derive(Clone, Debug)]
pub(super) enum Terminal {
    /// By these arguments before all others, as `ssh -tt` does.
    Arguments(Vec<OsString>),
    /// Not at all, and why.
    None(&'static str),
}

impl Connection for Spawner {
    fn open<'a>(&'a self, command: &'a str) -> BoxFuture<'a, Result<Pipe, TransportError>> {
        Box::pin(async move { self.spawn(&[], command) })
    }

    fn open_terminal<'a>(&'a self, command: &'a str) -> BoxFuture<'a, Result<Pipe, TransportError>> {
        Box::pin(async move {
            match &self.terminal {
                Terminal::Arguments(arguments) => self.spawn(arguments, command),
                Terminal::None(reason) => Err(TransportError::new(
                    format!("open a terminal on {}", self.description),
                    Cause::Option { option: "terminal".to_owned(), reason: (*reason).to_owned() },
                )),
            }
        })
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}

impl Spawner {
    fn spawn(&self, before: &[OsString], command: &str) -> Result<Pipe, TransportError> {
        let mut process = Command::new(&self.program);
        process.args(before).args(&self.arguments).arg(command);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(directory) = self.directory.as_ref().filter(|directory| directory.is_dir()) {
            process.current_dir(directory);
        }
        start(process).map_err(|error| {
            let program = self.program.to_string_lossy().into_owned();
            let reason = error.to_string();
            TransportError::new(
                format!("run a command on {}", self.description),
                Cause::Program { program, reason },
            )
        })
    }
}

/// The program that stands for a connection.
pub(super) fn spawner(target: &Target, settings: &Settings) -> Spawner {
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
    let directory = target.directory.clone().filter(|_| target.kind == Kind::Local);
    Spawner { description, program: program.into(), arguments, terminal, directory }
}

pub(super) fn openssh_arguments(target: &Target, arguments: &mut Vec<String>) {
    // The user's own words come first: ssh takes the first value that it sees.
    arguments.extend(target.ssh_args.iter().cloned());
    let mut option = |text: String| arguments.extend(["-o".to_owned(), text]);
    // A master left behind would outlive the run.
    option("ControlMaster=no".to_owned());
    option("ServerAliveInterval=10".to_owned());
    option(format!("ConnectTimeout={}", target.connect_timeout.as_secs().max(1)));
    if target.host_key_checking == HostKeyChecking::Off {
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

/// Starts `process` in a group of its own and makes a pipe of it.
fn start(mut process: Command) -> io::Result<Pipe> {
    // A group of its own: Ctrl-C at the controller's terminal is the engine's to handle, and ending the
    // command must reach what it started.
    let mut child = process.process_group(0).spawn()?;
    let missing = || io::Error::other("a stream of the child process is missing");
    let stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let (ended, exit) = oneshot::channel();
    let (guard, abandoned) = oneshot::channel::<()>();
    tokio::spawn(reap(child, ended, abandoned));
    Ok(Pipe {
        stdin: Box::new(Stdin(Some(stdin))),
        stdout: Box::new(stdout),
        stderr: Box::new(stderr),
        exit: Box::pin(async move {
            exit.await.unwrap_or_else(|_| ExitStatus::Lost("the runtime is shutting down".to_owned()))
        }),
        guard: Guard::new(guard),
    })
}

/// A child's input. Shutting it down closes it: a pipe has no other end of file.
struct Stdin(Option<ChildStdin>);

impl AsyncWrite for Stdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(stdin) => Pin::new(stdin).poll_write(cx, buf),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Some(stdin) => Pin::new(stdin).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

/// Waits for the child; when its pipe is dropped first, hangs its group up and then kills it.
async fn reap(mut child: Child, ended: oneshot::Sender<ExitStatus>, mut abandoned: oneshot::Receiver<()>) {
    let status = tokio::select! {
        status = child.wait() => Some(status),
        _ = &mut abandoned => None,
    };
    let status = match status {
        Some(status) => status,
        None => {
            signal_group(&child, rustix::process::Signal::HUP);
            match tokio::time::timeout(GRACE, child.wait()).await {
                Ok(status) => status,
                Err(_) => {
                    signal_group(&child, rustix::process::Signal::KILL);
                    child.wait().await
                }
            }
        }
    };
    // Nobody may be waiting for it any more.
    let _ = ended.send(exit_status(status));
}

fn signal_group(child: &Child, signal: rustix::process::Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // The group may be gone, or run as root by way of sudo: its end of file has to do then.
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

fn exit_status(status: io::Result<std::process::ExitStatus>) -> ExitStatus {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => ExitStatus::Code(code),
            (None, Some(signal)) => ExitStatus::Signal(signal_name(signal)),
            (None, None) => ExitStatus::Lost("the process ended in no known way".to_owned()),
        },
        Err(error) => ExitStatus::Lost(error.to_string()),
    }
}

fn signal_name(number: i32) -> String {
    match number {
        1 => "HUP",
        2 => "INT",
        3 => "QUIT",
        6 => "ABRT",
        9 => "KILL",
        11 => "SEGV",
        13 => "PIPE",
        15 => "TERM",
        other => return other.to_string(),
    }
    .to_owned()
}

/// The streams of a ProxyCommand as one. Dropping it ends the command.
pub(super) struct ProxyStream {
    stdin: Stdin,
    stdout: ChildStdout,
    _guard: oneshot::Sender<()>,
}

impl ProxyStream {
    /// Starts `command` with the user's shell.
    pub(super) fn start(command: &str) -> io::Result<ProxyStream> {
        let mut process = Command::new("/bin/sh");
        process.args(["-c", &format!("exec {command}")]);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = process.spawn()?;
        let missing = || io::Error::other("a stream of the proxy command is missing");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let (guard, abandoned) = oneshot::channel::<()>();
        let (ended, _) = oneshot::channel();
        tokio::spawn(reap(child, ended, abandoned));
        Ok(ProxyStream { stdin: Stdin(Some(stdin)), stdout, _guard: guard })
    }
}

impl AsyncRead for ProxyStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(cx, buf)
    }
}

impl AsyncWrite for ProxyStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stdin).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}

/// The home directory and name of whoever runs us.
pub(super) fn whoami() -> (PathBuf, String) {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry: Option<Vec<&str>> = passwd
        .lines()
        .map(|line| line.split(':').collect())
        .find(|fields: &Vec<&str>| fields.get(2) == Some(&uid.as_str()));
    let field =
        |index: usize| entry.as_ref().and_then(|fields| fields.get(index)).map(|field| (*field).to_owned());
    let home = variable("HOME").or_else(|| field(5)).unwrap_or_else(|| "/".to_owned());
    let user = field(0).or_else(|| variable("USER")).or_else(|| variable("LOGNAME")).unwrap_or(uid);
    (PathBuf::from(home), user)
}
