//! A program that runs while it is spoken to over its standard input and output.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::exec::{self, Programs, Running};
use super::{Command, Output, Result, SystemError};

/// A program that runs while it is spoken to. It ends, at the latest, when this is dropped.
pub trait Conversation: Read + Write {
    /// Says no more and waits for the program to end, which it must soon: its exit status, and what it wrote to
    /// standard error.
    fn end(&mut self) -> Output;
}

/// How long a program may take to end when it has been told to.
const PARTING: Duration = Duration::from_secs(2);

/// Most that is kept of standard error in bytes.
const MOST_SAID: u64 = 64 << 10;

struct Spoken {
    child: Child,
    running: Running,
    stream: UnixStream,
}

/// Starts a program. A read or write that waits longer than `patience` is an error.
pub(super) fn start(
    command: &Command,
    environment: &[(String, String)],
    programs: &Programs,
    patience: Duration,
) -> Result<Box<dyn Conversation>> {
    let program = command.argv.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let begin = || -> io::Result<(Child, UnixStream)> {
        // Unlike a pipe, a socket can be read with a limit of time.
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(patience))?;
        ours.set_write_timeout(Some(patience))?;
        let mut process = exec::prepare(command, environment)?;
        process.stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)));
        process.stdout(Stdio::from(OwnedFd::from(theirs))).stderr(Stdio::piped()).process_group(0);
        Ok((process.spawn()?, ours))
    };
    let (child, stream) = begin().map_err(|source| SystemError::Start { program, source })?;
    let running = programs.register(&child);
    Ok(Box::new(Spoken { child, running, stream }))
}

impl Read for Spoken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(buffer) {
            // It went away without reading all that it was told.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            other => other,
        }
    }
}

impl Write for Spoken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Conversation for Spoken {
    fn end(&mut self) -> Output {
        let _ = self.stream.shutdown(Shutdown::Both);
        let deadline = Instant::now() + PARTING;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break exec::code_of(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                _ => {
                    self.running.kill();
                    break self.child.wait().map_or(-1, exec::code_of);
                }
            }
        };
        let mut stderr = Vec::new();
        if let Some(said) = self.child.stderr.take() {
            let _ = said.take(MOST_SAID).read_to_end(&mut stderr);
        }
        Output { code: status, stdout: Vec::new(), stderr }
    }
}

impl Drop for Spoken {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.running.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(script: &str) -> Box<dyn Conversation> {
        let command = Command::new(["sh", "-c", script]);
        start(&command, &[], &Programs::default(), Duration::from_millis(300)).expect("it starts")
    }

    #[test]
    fn a_program_answers_while_it_runs() {
        let mut upper = talk("while read -r line; do echo \"<$line>\"; done; echo bye >&2; exit 3");
        let mut answer = [0; 4];
        for word in ["ab", "cd"] {
            writeln!(upper, "{word}").expect("it listens");
            upper.read_exact(&mut answer).expect("it answers");
            assert_eq!(answer, format!("<{word}>").as_bytes());
            upper.read_exact(&mut answer[..1]).expect("the end of the line");
        }
        let ended = upper.end();
        assert_eq!((ended.code, ended.stderr_text().as_str()), (3, "bye\n"));
    }

    #[test]
    fn one_that_is_silent_is_not_waited_for() {
        let started = Instant::now();
        let mut silent = talk("sleep 30");
        let error = silent.read(&mut [0; 1]).expect_err("nothing comes");
        assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
        drop(silent);
        let mut gone = talk("exit 7");
        assert_eq!(gone.read(&mut [0; 1]).expect("its end"), 0);
        assert_eq!(gone.end().code, 7);
        assert!(started.elapsed() < Duration::from_secs(5));
        let missing = Command::new(["no-such-program-here"]);
        let Err(error) = start(&missing, &[], &Programs::default(), PARTING) else {
            panic!("it is not there")
        };
        assert!(error.is_not_found(), "{error}");
    }
}
