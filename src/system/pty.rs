//! Runs a program on a terminal of its own and answers what it asks there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use fancy_regex::Regex;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, OptionalActions};

use super::exec::{self, MAX_OUTPUT, Programs};
use super::{Command, Output, Result, SystemError};

/// What a program asks on its terminal, and the answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dialogue {
    /// Questions with their answers. Of several that are found, the one that comes first in the output counts.
    pub exchanges: Vec<Exchange>,
    /// The terminal shows what is answered.
    pub echo: bool,
    /// Longest wait for the next question or the end; for ever if `None`.
    pub patience: Option<Duration>,
}

/// A question and its answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// The question as it was written, for messages.
    pub question: String,
    /// A regular expression (of the `fancy-regex` crate) for it.
    pub pattern: String,
    /// The answers, without a newline at the end.
    pub answers: Vec<String>,
    /// The one answer is given each time; else each answer is given once, in order.
    pub repeats: bool,
}

/// How often the program is asked whether it has ended, while it is silent.
const TICK: Duration = Duration::from_millis(50);

/// How much of what has not been answered yet is searched, in bytes.
const WINDOW: usize = 64 << 10;

/// Runs a command to its end; everything that it writes is its standard output.
pub(super) fn run(
    command: &Command,
    environment: &[(String, String)],
    dialogue: &Dialogue,
    programs: &Programs,
) -> Result<Output> {
    let Some(program) = command.argv.first() else {
        return Err(SystemError::Other("there is no program to run".into()));
    };
    let name = program.to_string_lossy().into_owned();
    let talk = Talk::new(dialogue)?;
    let started = spawn(command, environment, dialogue.echo)
        .map_err(|source| SystemError::Start { program: name.clone(), source });
    let (mut child, terminal) = started?;
    let running = programs.register(&child);
    let outcome = attend(&mut child, &terminal, talk, &name);
    if outcome.is_err() {
        running.kill();
        let _ = child.kill();
        let _ = child.wait();
    }
    outcome
}

fn spawn(command: &Command, environment: &[(String, String)], echo: bool) -> io::Result<(Child, File)> {
    let terminal = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&terminal)?;
    rustix::pty::unlockpt(&terminal)?;
    let name = rustix::pty::ptsname(&terminal, Vec::new())?;
    let other: OwnedFd =
        rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    if !echo {
        let mut settings = rustix::termios::tcgetattr(&other)?;
        settings.local_modes.remove(LocalModes::ECHO);
        rustix::termios::tcsetattr(&other, OptionalActions::Now, &settings)?;
    }
    let mut process = exec::prepare(command, environment)?;
    process.stdin(Stdio::from(other.try_clone()?));
    process.stdout(Stdio::from(other.try_clone()?));
    process.stderr(Stdio::from(other));
    #[expect(unsafe_code, reason = "the only way to give the child a terminal of its own")]
    // SAFETY: between fork and exec only async-signal-safe system calls are made.
    unsafe {
        process.pre_exec(|| {
            if libc::setsid() == -1 || libc::ioctl(0, libc::TIOCSCTTY, 0) == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = process.spawn()?;
    // The command holds this side of the terminal too, which must close when the program does.
    drop(process);
    Ok((child, File::from(terminal)))
}

fn attend(child: &mut Child, terminal: &File, mut talk: Talk<'_>, name: &str) -> Result<Output> {
    let failed = |source: io::Error| SystemError::Other(format!("failed to run `{name}`: {source}"));
    let mut deadline = talk.deadline();
    let mut block = [0; 16384];
    let mut ended = None;
    loop {
        if ended.is_none() {
            ended = child.try_wait().map_err(failed)?;
        }
        let ready = readable(terminal).map_err(failed)?;
        let count = if ready {
            match (&*terminal).read(&mut block) {
                Ok(count) => count,
                // Nobody holds the other side any more.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            }
        } else {
            0
        };
        if count > 0 {
            talk.said.extend_from_slice(&block[..count]);
            if talk.said.len() > MAX_OUTPUT {
                return Err(SystemError::Other(format!(
                    "`{name}` wrote more than {} MiB to its terminal",
                    MAX_OUTPUT >> 20
                )));
            }
            while let Some(answer) = talk.answer()? {
                deadline = talk.deadline();
                match (&*terminal).write_all(answer.as_bytes()) {
                    Ok(()) => {}
                    // It has ended without waiting for the answer.
                    Err(error) if error.raw_os_error() == Some(libc::EIO) => break,
                    Err(error) => return Err(failed(error)),
                }
            }
            continue;
        }
        if ready || ended.is_some() {
            let status = match ended {
                Some(status) => status,
                None => child.wait().map_err(failed)?,
            };
            return Ok(Output { code: exec::code_of(status), stdout: talk.said, stderr: Vec::new() });
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let seconds = talk.dialogue.patience.map_or(0, |patience| patience.as_secs());
            return Err(SystemError::Timeout { program: name.into(), seconds });
        }
    }
}

fn readable(terminal: &File) -> io::Result<bool> {
    let mut descriptors = [PollFd::from_borrowed_fd(terminal.as_fd(), PollFlags::IN)];
    let tick = rustix::event::Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
    match rustix::event::poll(&mut descriptors, Some(&tick)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The state of a conversation.
struct Talk<'a> {
    dialogue: &'a Dialogue,
    patterns: Vec<Regex>,
    given: Vec<usize>,
    said: Vec<u8>,
    /// How much of `said` has been dealt with.
    done: usize,
}

impl Talk<'_> {
    fn new(dialogue: &Dialogue) -> Result<Talk<'_>> {
        let compile = |exchange: &Exchange| {
            Regex::new(&exchange.pattern).map_err(|error| SystemError::Other(error.to_string()))
        };
        let patterns = dialogue.exchanges.iter().map(compile).collect::<Result<_>>()?;
        let given = vec![0; dialogue.exchanges.len()];
        Ok(Talk { dialogue, patterns, given, said: Vec::new(), done: 0 })
    }

    fn deadline(&self) -> Option<Instant> {
        self.dialogue.patience.map(|patience| Instant::now() + patience)
    }

    /// The answer to the first question that is open, with its newline.
    fn answer(&mut self) -> Result<Option<String>> {
        self.done = self.done.max(self.said.len().saturating_sub(WINDOW));
        let text = String::from_utf8_lossy(&self.said[self.done..]);
        let found = self.patterns.iter().enumerate().filter_map(|(index, pattern)| {
            let found = pattern.find(&text).ok().flatten()?;
            (found.end() > found.start()).then_some((found.start(), index, found.end()))
        });
        let Some((_, index, end)) = found.min() else { return Ok(None) };
        // Offsets are those of the text, which differs from the bytes if they are not UTF-8.
        self.done = match text {
            std::borrow::Cow::Borrowed(_) => self.done + end,
            std::borrow::Cow::Owned(_) => self.said.len(),
        };
        let exchange = &self.dialogue.exchanges[index];
        let position = if exchange.repeats { 0 } else { self.given[index] };
        let Some(answer) = exchange.answers.get(position) else {
            return Err(SystemError::Other(format!(
                "No remaining responses for '{}', output was '{}'",
                exchange.question,
                String::from_utf8_lossy(&self.said)
            )));
        };
        self.given[index] += 1;
        Ok(Some(format!("{}\n", answer.trim_end())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(script: &str, exchanges: &[(&str, &[&str], bool)], echo: bool) -> Result<Output> {
        let exchanges = exchanges
            .iter()
            .map(|(pattern, answers, repeats)| Exchange {
                question: pattern.to_string(),
                pattern: pattern.to_string(),
                answers: answers.iter().map(ToString::to_string).collect(),
                repeats: *repeats,
            })
            .collect();
        let dialogue = Dialogue { exchanges, echo, patience: Some(Duration::from_secs(2)) };
        run(&Command::new(["sh", "-c", script]), &[], &dialogue, &Programs::default())
    }

    #[test]
    fn questions_are_answered() {
        let twice =
            "printf 'Name? '; read a; printf 'Name? '; read b; echo \"$a-$b\"; tty >/dev/null || exit 9";
        for (script, exchanges, echo, code, said) in [
            (twice, vec![("Name\\?", &["x"][..], true)], false, 0, "Name? Name? x-x\r\n"),
            (twice, vec![("Name\\?", &["x", "y"][..], false)], false, 0, "Name? Name? x-y\r\n"),
            (twice, vec![("Name\\?", &["x"][..], true)], true, 0, "Name? x\r\nName? x\r\nx-x\r\n"),
            ("exit 3", vec![], false, 3, ""),
            (
                "printf 'a b'; read x; echo $x",
                vec![("b", &["2"], true), ("a", &["1"], true)],
                false,
                0,
                "a b1\r\n",
            ),
            ("sleep 5 & echo done", vec![], false, 0, "done\r\n"),
        ] {
            let output = ask(script, &exchanges, echo).expect("it runs");
            assert_eq!((output.code, output.stdout_text().as_str()), (code, said), "{script}");
        }
    }

    #[test]
    fn a_question_without_an_answer_ends_it() {
        let twice = "printf 'Name? '; read a; printf 'Name? '; read b";
        let error = ask(twice, &[("Name", &["x"], false)], false).expect_err("one answer is missing");
        assert_eq!(error.to_string(), "No remaining responses for 'Name', output was 'Name? Name? '");
        let error = ask("read a", &[], false).expect_err("it waits");
        assert_eq!(error.to_string(), "`sh` did not end within 2 s");
    }
}
