//! Runs a program: no shell, a process group of its own, bounded output, an end in time.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::{Command, Output, Result, SystemError};

/// Most that is kept of standard output, and of standard error, in bytes.
pub const MAX_OUTPUT: usize = 64 << 20;

/// How long output is waited for after the program itself has ended: what it left running in the
/// background may hold the pipe open for ever.
const LINGER: Duration = Duration::from_millis(150);

/// Where programs of an administrator are, also when the login's `PATH` lacks it.
const ADMIN_PATH: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The programs that one [`Local`](super::local::Local) is running, so that another thread can end them.
#[derive(Clone, Debug, Default)]
pub struct Programs(Arc<Mutex<BTreeSet<i32>>>);

impl Programs {
    /// Ends all that are running, with their children.
    pub fn kill_all(&self) {
        for group in self.groups().iter() {
            kill_group(*group);
        }
    }

    fn groups(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(&self, child: &Child) -> Running {
        let group = child.id().cast_signed();
        self.groups().insert(group);
        Running { group, programs: self.clone() }
    }
}

fn kill_group(group: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(group) {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

/// A process group, for as long as it runs.
pub(super) struct Running {
    group: i32,
    programs: Programs,
}

impl Running {
    /// Ends it, with its children.
    pub(super) fn kill(&self) {
        kill_group(self.group);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.programs.groups().remove(&self.group);
    }
}

/// Runs a command to its end.
pub(crate) fn run(
    command: &Command,
    environment: &[(String, String)],
    programs: &Programs,
) -> Result<Output> {
    if let Some(dialogue) = &command.dialogue {
        return super::pty::run(command, environment, dialogue, programs);
    }
    let Some(program) = command.argv.first() else {
        return Err(SystemError::Other("there is no program to run".into()));
    };
    let name = program.to_string_lossy().into_owned();
    let start = |source| SystemError::Start { program: name.clone(), source };
    let mut child = spawn(command, environment).map_err(start)?;
    let running = programs.register(&child);
    let outcome = attend(&mut child, command, running.group);
    if !matches!(outcome, Ok(Ended::Exit(..))) {
        running.kill();
        let _ = child.kill();
        let _ = child.wait();
    }
    match outcome.map_err(|source| SystemError::Other(format!("failed to run `{name}`: {source}")))? {
        Ended::Exit(status, stdout, stderr) => Ok(Output { code: code_of(status), stdout, stderr }),
        Ended::TooLong => {
            let seconds = command.timeout.map_or(0, |limit| limit.as_secs());
            Err(SystemError::Timeout { program: name, seconds })
        }
        Ended::TooMuch(stream) => {
            Err(SystemError::Other(format!("`{name}` wrote more than {} MiB to {stream}", MAX_OUTPUT >> 20)))
        }
    }
}

enum Ended {
    Exit(ExitStatus, Vec<u8>, Vec<u8>),
    TooLong,
    TooMuch(&'static str),
}

pub(super) fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// A process that is ready but for its standard streams and its process group.
pub(super) fn prepare(
    command: &Command,
    environment: &[(String, String)],
) -> io::Result<std::process::Command> {
    let program = command.argv.first().map(OsString::as_os_str).unwrap_or_default();
    let variables = || environment.iter().chain(&command.env);
    let path = variables()
        .rev()
        .find(|(name, _)| name == "PATH")
        .map(|(_, value)| value.into())
        .or_else(|| std::env::var_os("PATH"))
        .unwrap_or_default();
    let found = find_program(program, &path).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
    let mut process = std::process::Command::new(found);
    process.arg0(program).args(&command.argv[1..]);
    process.envs(variables().map(|(name, value)| (name, value)));
    if let Some(directory) = &command.cwd {
        process.current_dir(directory);
    }
    let umask = command.umask;
    let parent = rustix::process::getpid();
    #[expect(unsafe_code, reason = "the only way to set these in the child")]
    // SAFETY: between fork and exec only async-signal-safe system calls are made.
    unsafe {
        process.pre_exec(move || {
            // Ends the program when this one is gone, however that happened.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            if let Some(umask) = umask {
                libc::umask(umask);
            }
            Ok(())
        });
    }
    Ok(process)
}

fn spawn(command: &Command, environment: &[(String, String)]) -> io::Result<Child> {
    let mut process = prepare(command, environment)?;
    process.stdin(if command.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    process.stdout(Stdio::piped()).stderr(Stdio::piped());
    process.process_group(0);
    process.spawn()
}

/// The file of a program: through `PATH`, then where an administrator's programs are.
fn find_program(program: &OsStr, path: &OsStr) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Some(program.into());
    }
    let listed = path.as_bytes().split(|byte| *byte == b':').filter(|part| !part.is_empty());
    listed
        .map(|part| Path::new(OsStr::from_bytes(part)))
        .chain(ADMIN_PATH.iter().map(Path::new))
        .map(|directory| directory.join(program))
        .find(|candidate| {
            candidate.is_file() && rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok()
        })
}

/// Feeds and drains a program until it has ended.
fn attend(child: &mut Child, command: &Command, group: i32) -> io::Result<Ended> {
    let deadline = command.timeout.map(|limit| Instant::now() + limit);
    let mut input = Feed::new(child.stdin.take(), command.stdin.as_deref().unwrap_or_default())?;
    let mut stdout = Drain::new(child.stdout.take())?;
    let mut stderr = Drain::new(child.stderr.take())?;
    let pid = rustix::process::Pid::from_raw(group).ok_or_else(|| io::Error::other("no process"))?;
    // Before Linux 5.3 there is none; then the program is asked after every so often.
    let watch = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok();
    let mut ended: Option<ExitStatus> = None;
    let mut interval = Duration::from_millis(1);
    loop {
        if ended.is_none() {
            ended = child.try_wait()?;
        }
        if let Some(status) = ended
            && stdout.pipe.is_none()
            && stderr.pipe.is_none()
        {
            return Ok(Ended::Exit(status, stdout.bytes, stderr.bytes));
        }
        let mut wait = match (ended, &watch) {
            (Some(_), _) => Some(LINGER),
            (None, Some(_)) => None,
            (None, None) => {
                interval = (interval * 2).min(Duration::from_millis(50));
                Some(interval)
            }
        };
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Ended::TooLong);
            }
            wait = Some(wait.map_or(left, |wait| wait.min(left)));
        }
        let ready = wait_for(&input, &stdout, &stderr, watch.as_ref().filter(|_| ended.is_none()), wait)?;
        if !ready && ended.is_some() {
            // Whoever still holds the pipes was left in the background.
            if let Some(status) = ended {
                return Ok(Ended::Exit(status, stdout.bytes, stderr.bytes));
            }
        }
        input.feed()?;
        stdout.drain()?;
        stderr.drain()?;
        for (stream, length) in
            [("standard output", stdout.bytes.len()), ("standard error", stderr.bytes.len())]
        {
            if length > MAX_OUTPUT {
                return Ok(Ended::TooMuch(stream));
            }
        }
    }
}

fn wait_for<A: AsFd, B: AsFd, C: AsFd>(
    input: &Feed<'_, A>,
    stdout: &Drain<B>,
    stderr: &Drain<C>,
    watch: Option<&OwnedFd>,
    wait: Option<Duration>,
) -> io::Result<bool> {
    let sources = [
        (input.pipe.as_ref().map(AsFd::as_fd), PollFlags::OUT),
        (stdout.pipe.as_ref().map(AsFd::as_fd), PollFlags::IN),
        (stderr.pipe.as_ref().map(AsFd::as_fd), PollFlags::IN),
        (watch.map(AsFd::as_fd), PollFlags::IN),
    ];
    let mut descriptors: Vec<PollFd<'_>> =
        sources.into_iter().filter_map(|(fd, events)| Some(PollFd::from_borrowed_fd(fd?, events))).collect();
    let timeout = wait.map(|wait| rustix::event::Timespec {
        tv_sec: wait.as_secs().cast_signed(),
        tv_nsec: wait.subsec_nanos().into(),
    });
    match rustix::event::poll(&mut descriptors, timeout.as_ref()) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

struct Feed<'a, P> {
    pipe: Option<P>,
    rest: &'a [u8],
}

impl<'a, P: Write + AsFd> Feed<'a, P> {
    fn new(pipe: Option<P>, bytes: &'a [u8]) -> io::Result<Feed<'a, P>> {
        if let Some(pipe) = &pipe {
            set_nonblocking(pipe)?;
        }
        Ok(Feed { pipe, rest: bytes })
    }

    fn feed(&mut self) -> io::Result<()> {
        while let Some(pipe) = &mut self.pipe {
            if self.rest.is_empty() {
                self.pipe = None;
                break;
            }
            match pipe.write(self.rest) {
                Ok(count) => self.rest = &self.rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It does not want to read all of it.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.pipe = None,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

struct Drain<P> {
    pipe: Option<P>,
    bytes: Vec<u8>,
}

impl<P: Read + AsFd> Drain<P> {
    fn new(pipe: Option<P>) -> io::Result<Drain<P>> {
        if let Some(pipe) = &pipe {
            set_nonblocking(pipe)?;
        }
        Ok(Drain { pipe, bytes: Vec::new() })
    }

    fn drain(&mut self) -> io::Result<()> {
        let mut block = [0; 16384];
        while let Some(pipe) = &mut self.pipe {
            if self.bytes.len() > MAX_OUTPUT {
                break;
            }
            match pipe.read(&mut block) {
                Ok(0) => self.pipe = None,
                Ok(count) => self.bytes.extend_from_slice(&block[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        Command::new(["sh", "-c", script])
    }

    #[test]
    fn runs_programs_to_their_end() {
        let cases: &[(Command, i32, &str, &str)] = &[
            (sh("echo out; echo err >&2; exit 3"), 3, "out\n", "err\n"),
            (sh("kill -9 $$"), 137, "", ""),
            (Command { stdin: Some(b"in".to_vec()), ..sh("cat") }, 0, "in", ""),
            (Command { cwd: Some("/".into()), ..sh("pwd") }, 0, "/\n", ""),
            (Command { umask: Some(0o77), ..sh("umask") }, 0, "0077\n", ""),
            (Command { env: vec![("A".into(), "2".into())], ..sh("echo $A$B") }, 0, "21\n", ""),
            (sh("sleep 20 & echo done"), 0, "done\n", ""),
        ];
        for (command, code, stdout, stderr) in cases {
            let started = Instant::now();
            let environment = [("A".to_string(), "1".to_string()), ("B".into(), "1".into())];
            let output = run(command, &environment, &Programs::default()).expect("it starts");
            let got = (output.code, output.stdout_text(), output.stderr_text());
            assert_eq!(got, (*code, stdout.to_string(), stderr.to_string()), "{}", command.line());
            assert!(started.elapsed() < Duration::from_secs(5), "{}", command.line());
        }
    }

    #[test]
    fn large_input_and_output_pass_through() {
        let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let output = run(&Command { stdin: Some(bytes.clone()), ..sh("cat") }, &[], &Programs::default())
            .expect("it runs");
        assert!(output.stdout == bytes);
    }

    #[test]
    fn refuses_by_name() {
        let error =
            |command: &Command| run(command, &[], &Programs::default()).expect_err("refused").to_string();
        let late = Command { timeout: Some(Duration::from_secs(1)), ..sh("sleep 30 | cat") };
        assert_eq!(error(&late), "`sh` did not end within 1 s");
        assert!(
            error(&Command::new(["no-such-program-here"]))
                .starts_with("failed to run `no-such-program-here`: No such file")
        );
        assert_eq!(error(&sh("exec cat /dev/zero >&2")), "`sh` wrote more than 64 MiB to standard error");
    }
}
