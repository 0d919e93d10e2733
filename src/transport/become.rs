//! Starting a command cleanly: past whatever the login shell prints, and as another user if wanted.
//!
//! The far side prints a marker that nobody can guess just before the command begins. What comes before
//! it is banners, lectures and prompts; what comes after is the command's own. A password is written to
//! standard input only when its prompt is seen, and is never part of a command line, an environment or a
//! file.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{oneshot, watch};

use super::error::{BecomeFailure, Cause, TransportError};
use super::quote::{for_any_shell, for_sh};
use super::target::check_name;
use super::{BoxFuture, Connection, ExitStatus, Pipe, Secret};

/// How long a password dialogue may take: PAM modules and directories can be slow.
const DIALOGUE: Duration = Duration::from_secs(60);
/// How long after the end of its output a command's exit status may take to arrive.
const EXIT_AFTER_OUTPUT: Duration = Duration::from_secs(5);
/// How much may be printed before the command begins. More is not a banner but a flood.
const MAX_BEFORE: usize = 1 << 20;
/// How much of it is kept for messages.
const KEPT: usize = 16 << 10;

/// The program that changes the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// sudo
    Sudo,
    /// su
    Su,
    /// doas
    Doas,
}

impl Method {
    /// The method that Ansible calls `name`.
    pub fn from_name(name: &str) -> Option<Method> {
        match name
            .strip_prefix("ansible.builtin.")
            .or(name.strip_prefix("community.general."))
            .unwrap_or(name)
        {
            "sudo" => Some(Method::Sudo),
            "su" => Some(Method::Su),
            "doas" => Some(Method::Doas),
            _ => None,
        }
    }

    /// Its program's usual name.
    pub fn program(self) -> &'static str {
        match self {
            Method::Sudo => "sudo",
            Method::Su => "su",
            Method::Doas => "doas",
        }
    }
}

/// Becoming another user.
#[derive(Clone, Debug, PartialEq)]
pub struct Become {
    /// How.
    pub method: Method,
    /// Whom.
    pub user: String,
    /// The password that the method asks for, if it does.
    pub password: Option<Secret>,
    /// Another program of the same kind, as `become_exe` names it.
    pub exe: Option<String>,
    /// Flags instead of the usual ones, as `become_flags` gives them.
    pub flags: Option<String>,
}

/// Runs `command` (for `/bin/sh`) on the connection, as the login user or as somebody else. The pipe's
/// stdout begins with the command's own first byte, whatever shell or banner comes before.
///
/// Where no password dialogue is possible nothing is waited for: the caller may write at once, and what
/// went wrong is found on the first read, as a [`TransportError`] inside the I/O error
/// ([`TransportError::from_io`]).
///
/// # Errors
/// The channel could not be opened, or becoming the user failed.
pub async fn open_as(
    connection: &dyn Connection,
    r#become: Option<&Become>,
    command: &str,
) -> Result<Pipe, TransportError> {
    let Some(r#become) = r#become else {
        let token = Token::new();
        let script = format!("{}{command}", token.announce());
        let pipe = connection.open(&for_any_shell(&script)).await?;
        return Ok(start_lazily(pipe, token, connection, None));
    };
    let who = Who {
        exe: r#become.exe.clone().unwrap_or_else(|| r#become.method.program().to_owned()),
        user: r#become.user.clone(),
        has_password: r#become.password.is_some(),
    };
    let doing = format!("become {} on {}", who.user, connection.describe());
    check_name("become_user", &who.user).map_err(|cause| TransportError::new(&doing, cause))?;
    let attempt = |terminal| open_with_dialogue(connection, r#become, &who, command, terminal);
    let failure = match (r#become.method, &r#become.password) {
        (Method::Sudo | Method::Doas, None) => {
            let token = Token::new();
            let script = become_script(r#become, &who, command, &token, false)
                .map_err(|cause| TransportError::new(&doing, cause))?;
            let pipe = connection.open(&for_any_shell(&script)).await?;
            return Ok(start_lazily(pipe, token, connection, Some(who)));
        }
        // It reads passwords from a terminal and nowhere else.
        (Method::Doas, Some(_)) => return attempt(true).await,
        (Method::Sudo, Some(_)) => return attempt(false).await,
        (Method::Su, _) => match attempt(false).await {
            Ok(pipe) => return Ok(pipe),
            Err(failure) => failure,
        },
    };
    match *failure.cause {
        // Some su insist on a terminal.
        Cause::Become(BecomeFailure::TerminalRequired { .. }) => attempt(true).await,
        _ => Err(failure),
    }
}

/// A text that nobody can guess. The command that prints it does not contain it, so that a shell which
/// echoes its commands does not announce it.
struct Token {
    halves: (String, String),
}

impl Token {
    fn new() -> Token {
        let half = || format!("{:016x}", rand::random::<u64>());
        Token { halves: (format!("setpoint-{}", half()), half()) }
    }

    /// Shell text that prints it.
    fn announce(&self) -> String {
        // Without quotes or backslashes: most commands then pass through any login shell as they are.
        format!("printf %s%s {} {}; ", self.halves.0, self.halves.1)
    }

    /// What is printed.
    fn text(&self) -> Vec<u8> {
        format!("{}{}", self.halves.0, self.halves.1).into_bytes()
    }

    /// The prompt that sudo is told to use.
    fn prompt(&self) -> String {
        format!("[{}{}] password: ", self.halves.1, self.halves.0)
    }

    /// What is printed when the program is missing.
    fn missing(&self) -> String {
        format!("{}-missing", self.halves.1)
    }
}

/// Whom we want to be and by what.
#[derive(Clone, Debug)]
struct Who {
    exe: String,
    user: String,
    has_password: bool,
}

/// The script that the login user's `/bin/sh` runs. Messages are wanted in English, which is how we tell
/// failures apart; the command itself gets its locale back.
fn become_script(
    r#become: &Become,
    who: &Who,
    command: &str,
    token: &Token,
    terminal: bool,
) -> Result<String, Cause> {
    let flags = flags(r#become)?;
    // Before the marker the terminal is made to pass bytes as they are; its one output is the program's.
    let raw = if terminal { "stty raw -echo 2>/dev/null; exec 2>/dev/null; " } else { "" };
    // Several words are a known trick: `become_exe: sudo su -`.
    let words = shlex::split(&who.exe).filter(|words| !words.is_empty()).ok_or_else(|| Cause::Option {
        option: format!("become_exe: {}", who.exe),
        reason: "is empty, or a quote in it is not closed".to_owned(),
    })?;
    let exe = words.iter().map(|word| for_sh(word)).collect::<Vec<_>>().join(" ");
    let user = for_sh(&who.user);
    let found = format!(
        "command -v {} >/dev/null 2>&1 || {{ echo {}-missing >&2; exit 127; }}; ",
        for_sh(&words[0]),
        token.halves.1
    );
    let run = match r#become.method {
        Method::Sudo | Method::Doas => {
            let inner = format!(
                "if [ -n \"$1\" ]; then LC_ALL=$1; export LC_ALL; else unset LC_ALL; fi; shift; {raw}{}{command}",
                token.announce()
            );
            let dialogue = match (r#become.method, who.has_password) {
                (Method::Sudo, true) => format!("-S -p {} ", for_sh(&token.prompt())),
                (_, true) => String::new(),
                (_, false) => "-n ".to_owned(),
            };
            format!(
                "LC_ALL=C exec {exe} {flags}{dialogue}-u {user} /bin/sh -c {} sh \"${{LC_ALL-}}\"",
                for_sh(&inner)
            )
        }
        Method::Su => {
            let inner = for_any_shell(&format!("{raw}{}{command}", token.announce()));
            // The new user's shell may be any; `env` gives the locale back in all of them.
            format!(
                "l=${{LC_ALL-}}; case $l in *[!A-Za-z0-9_.@-]*) l=;; esac; \
                 if [ -n \"$l\" ]; then l=\"LC_ALL=$l\"; else l='-u LC_ALL'; fi; \
                 LC_ALL=C exec {exe} {flags}{user} -c \"exec env $l \"{}",
                for_sh(inner.strip_prefix("exec ").unwrap_or(&inner))
            )
        }
    };
    Ok(found + &run)
}

/// The flags, each one word for the shell, with a space after the last.
fn flags(r#become: &Become) -> Result<String, Cause> {
    let given = r#become.flags.as_deref().unwrap_or(match r#become.method {
        Method::Sudo => "-H",
        Method::Su | Method::Doas => "",
    });
    let words = shlex::split(given).ok_or_else(|| Cause::Option {
        option: format!("become_flags: {given}"),
        reason: "a quote is not closed".to_owned(),
    })?;
    let mut text = String::new();
    for word in words {
        // We decide whether and how a password is asked for.
        let word = match r#become.method {
            Method::Sudo | Method::Doas => without_dialogue_flags(&word),
            Method::Su => Some(word),
        };
        if let Some(word) = word {
            text.push_str(&for_sh(&word));
            text.push(' ');
        }
    }
    Ok(text)
}

/// Drops `-n` and `-S` from a word of flags; `None` if nothing is left.
fn without_dialogue_flags(word: &str) -> Option<String> {
    if matches!(word, "--non-interactive" | "--stdin") {
        return None;
    }
    let cluster =
        word.strip_prefix('-').filter(|letters| letters.chars().all(|c| "ABbEeHiKklnPSsVvL".contains(c)));
    match cluster {
        Some(letters) => {
            let left: String = letters.chars().filter(|c| !matches!(c, 'n' | 'S')).collect();
            (!left.is_empty()).then(|| format!("-{left}"))
        }
        None => Some(word.to_owned()),
    }
}

/// Hands the pipe over at once; its first read skips to the marker.
fn start_lazily(pipe: Pipe, token: Token, connection: &dyn Connection, who: Option<Who>) -> Pipe {
    let (exit, ended) = share_exit(pipe.exit);
    let (hand_over, stderr) = oneshot::channel();
    let prelude = Prelude {
        stdout: pipe.stdout,
        stderr: pipe.stderr,
        ended,
        token,
        dialogue: None,
        who,
        describe: connection.describe(),
    };
    let skipping: BoxFuture<'static, _> = Box::pin(async move {
        let begun = prelude.run().await?;
        // The caller may have dropped the stderr half.
        let _ = hand_over.send((begun.diagnostics, begun.stderr));
        Ok((begun.output, begun.stdout))
    });
    Pipe {
        stdin: pipe.stdin,
        stdout: Box::new(Skipping::Before(skipping)),
        stderr: Box::new(Late::Waiting(stderr)),
        exit,
        guard: pipe.guard,
    }
}

/// Opens, answers the prompt if one comes, and returns when the command has begun.
async fn open_with_dialogue(
    connection: &dyn Connection,
    r#become: &Become,
    who: &Who,
    command: &str,
    terminal: bool,
) -> Result<Pipe, TransportError> {
    let describe = connection.describe();
    let doing = format!("become {} on {describe}", who.user);
    let token = Token::new();
    let script = become_script(r#become, who, command, &token, terminal)
        .map_err(|cause| TransportError::new(&doing, cause))?;
    let script = for_any_shell(&script);
    let pipe =
        if terminal { connection.open_terminal(&script).await? } else { connection.open(&script).await? };
    let (exit, ended) = share_exit(pipe.exit);
    let prompt = match r#become.method {
        Method::Sudo => Prompt::Exact(token.prompt()),
        Method::Su | Method::Doas => Prompt::EndsLikePassword,
    };
    let prelude = Prelude {
        stdout: pipe.stdout,
        stderr: pipe.stderr,
        ended,
        token,
        dialogue: Some(Dialogue { prompt, password: r#become.password.clone(), stdin: pipe.stdin }),
        who: Some(who.clone()),
        describe,
    };
    let begun = match tokio::time::timeout(DIALOGUE, prelude.run()).await {
        Ok(begun) => begun?,
        Err(_) => {
            let failure =
                BecomeFailure::TimedOut { exe: who.exe.clone(), after: DIALOGUE, output: String::new() };
            return Err(TransportError::new(doing, Cause::Become(failure)));
        }
    };
    let stdin = begun.stdin.unwrap_or_else(|| Box::new(tokio::io::sink()));
    Ok(Pipe {
        stdin,
        stdout: Box::new(Skipping::After(begun.output, begun.stdout)),
        // The prompt and the lecture are not the command's.
        stderr: begun.stderr,
        exit,
        guard: pipe.guard,
    })
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;
type Ended = watch::Receiver<Option<ExitStatus>>;

/// Lets both the caller and the prelude wait for the exit status.
fn share_exit(exit: BoxFuture<'static, ExitStatus>) -> (BoxFuture<'static, ExitStatus>, Ended) {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let status = exit.await;
        // Nobody may be interested any more.
        let _ = sender.send(Some(status));
    });
    let ended = receiver.clone();
    let exit: BoxFuture<'static, ExitStatus> = Box::pin(wait_for_exit(receiver));
    (exit, ended)
}

async fn wait_for_exit(mut receiver: Ended) -> ExitStatus {
    match receiver.wait_for(Option::is_some).await {
        Ok(status) => status.clone().unwrap_or(ExitStatus::Lost(String::new())),
        Err(_) => ExitStatus::Lost("the runtime is shutting down".to_owned()),
    }
}

/// How a prompt is recognised.
enum Prompt {
    /// We chose it.
    Exact(String),
    /// The output stops at something like `Password: `.
    EndsLikePassword,
}

impl Prompt {
    /// The position after the prompt in `text`.
    fn find(&self, text: &[u8]) -> Option<usize> {
        match self {
            Prompt::Exact(prompt) => find(text, prompt.as_bytes()).map(|at| at + prompt.len()),
            Prompt::EndsLikePassword => {
                let line = text.rsplit(|byte| *byte == b'\n' || *byte == b'\r').next().unwrap_or_default();
                let line = String::from_utf8_lossy(line).to_lowercase();
                let line = line.trim_end();
                (line.contains("password") && line.ends_with(':')).then_some(text.len())
            }
        }
    }
}

/// The password dialogue.
struct Dialogue {
    prompt: Prompt,
    password: Option<Secret>,
    stdin: Writer,
}

/// A command that has been sent but has not begun.
struct Prelude {
    stdout: Reader,
    stderr: Reader,
    ended: Ended,
    token: Token,
    dialogue: Option<Dialogue>,
    who: Option<Who>,
    describe: String,
}

/// A command that has begun.
struct Begun {
    /// What of its output was read already.
    output: Vec<u8>,
    stdout: Reader,
    /// What was printed on stderr before.
    diagnostics: Vec<u8>,
    stderr: Reader,
    stdin: Option<Writer>,
}

/// What was read from one stream before the command began.
#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    ended: bool,
    /// How much was searched for the marker.
    searched: usize,
    /// Where the search for a prompt goes on.
    answered: usize,
}

impl Prelude {
    async fn run(mut self) -> Result<Begun, TransportError> {
        let marker = self.token.text();
        let (mut out, mut err) = (Seen::default(), Seen::default());
        let mut prompts = 0;
        let mut out_buffer = vec![0; 16 << 10];
        let mut err_buffer = vec![0; 4 << 10];
        loop {
            let from = out.searched.saturating_sub(marker.len());
            out.searched = out.bytes.len();
            if let Some(at) = find(&out.bytes[from..], &marker).map(|at| from + at) {
                let output = out.bytes.split_off(at + marker.len());
                return Ok(Begun {
                    output,
                    stdout: self.stdout,
                    diagnostics: err.bytes,
                    stderr: self.stderr,
                    stdin: self.dialogue.map(|dialogue| dialogue.stdin),
                });
            }
            if out.bytes.len() > MAX_BEFORE || (out.ended && err.ended) {
                return Err(self.failed(&out, &err, prompts).await);
            }
            if let Some(cause) = self.answer(&mut out, &mut err, &mut prompts).await {
                return Err(self.error(cause));
            }
            tokio::select! {
                read = self.stdout.read(&mut out_buffer), if !out.ended => match read {
                    Ok(0) => out.ended = true,
                    Ok(count) => out.bytes.extend_from_slice(&out_buffer[..count]),
                    Err(error) => return Err(self.broken(&error)),
                },
                read = self.stderr.read(&mut err_buffer), if !err.ended => match read {
                    Ok(0) | Err(_) => err.ended = true,
                    Ok(count) => err.keep(&err_buffer[..count]),
                },
            }
        }
    }

    /// Answers a prompt that has come; a second one means that the answer was wrong.
    async fn answer(&mut self, out: &mut Seen, err: &mut Seen, prompts: &mut usize) -> Option<Cause> {
        let dialogue = self.dialogue.as_mut()?;
        // With a terminal the prompt comes on stdout.
        let seen = [out, err]
            .into_iter()
            .find(|seen| dialogue.prompt.find(&seen.bytes[seen.answered..]).is_some())?;
        seen.answered = seen.bytes.len();
        *prompts += 1;
        let (exe, user) = match &self.who {
            Some(who) => (who.exe.clone(), who.user.clone()),
            None => return None,
        };
        let Some(password) = &dialogue.password else {
            return Some(Cause::Become(BecomeFailure::MissingPassword { exe, user }));
        };
        if *prompts > 1 {
            return Some(Cause::Become(BecomeFailure::WrongPassword { exe, user }));
        }
        let mut line = zeroize::Zeroizing::new(password.reveal().as_bytes().to_vec());
        line.push(b'\n');
        let written = match dialogue.stdin.write_all(&line).await {
            Ok(()) => dialogue.stdin.flush().await,
            Err(error) => Err(error),
        };
        // If it is gone, its output says why.
        drop(written);
        None
    }

    fn error(&self, cause: Cause) -> TransportError {
        let doing = match &self.who {
            Some(who) => format!("become {} on {}", who.user, self.describe),
            None => format!("run a command on {}", self.describe),
        };
        TransportError::new(doing, cause)
    }

    fn broken(&self, error: &io::Error) -> TransportError {
        match TransportError::from_io(error) {
            Some(known) => known.clone(),
            None => self
                .error(Cause::Closed { during: "a command was starting", detail: Some(error.to_string()) }),
        }
    }

    async fn failed(self, out: &Seen, err: &Seen, prompts: usize) -> TransportError {
        if out.bytes.len() > MAX_BEFORE {
            let exit = "it printed more than 1 MiB".to_owned();
            return self.error(Cause::NoShell { exit, output: tail(&out.text()) });
        }
        let exit = tokio::time::timeout(EXIT_AFTER_OUTPUT, wait_for_exit(self.ended.clone())).await;
        let exit = exit.unwrap_or(ExitStatus::Lost("it did not end".to_owned()));
        let printed = format!("{}\n{}", out.text(), err.text());
        let cause = match (&self.who, &exit) {
            (_, ExitStatus::Lost(why)) => {
                Cause::Closed { during: "a command was starting", detail: Some(why.clone()) }
            }
            (Some(who), _) => Cause::Become(classify(who, &self.token, &printed, &exit, prompts)),
            (None, _) => Cause::NoShell { exit: exit.to_string(), output: tail(&printed) },
        };
        self.error(cause)
    }
}

impl Seen {
    fn keep(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 2 * KEPT {
            let cut = self.bytes.len() - KEPT;
            self.bytes.drain(..cut);
            self.answered = self.answered.saturating_sub(cut);
        }
    }

    fn text(&self) -> String {
        let from = self.bytes.len().saturating_sub(KEPT);
        String::from_utf8_lossy(&self.bytes[from..]).into_owned()
    }
}

/// The last lines of what was printed, for a message.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(4)..];
    let joined = last.join(" / ");
    let start = joined.char_indices().rev().nth(499).map_or(0, |(at, _)| at);
    joined[start..].to_owned()
}

/// Why somebody else could not be become, from what the program printed (in English, as we asked).
fn classify(who: &Who, token: &Token, printed: &str, exit: &ExitStatus, prompts: usize) -> BecomeFailure {
    let (exe, user) = (who.exe.clone(), who.user.clone());
    if printed.contains(&token.missing()) {
        return BecomeFailure::Missing { exe };
    }
    let lower = printed.to_lowercase();
    let says = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    let line_with = |texts: &[&str]| {
        let line = printed.lines().find(|line| texts.iter().any(|text| line.to_lowercase().contains(text)));
        // The answer to a prompt of ours stands on the prompt's line.
        let line = line.unwrap_or(printed);
        line.rsplit_once("] password:").map_or(line, |(_, said)| said).trim().to_owned()
    };
    const TERMINAL: &[&str] = &[
        "must have a tty",
        "no tty present",
        "a terminal is required",
        "must be run from a terminal",
        "tty is required",
        "standard in must be a tty",
        "/dev/tty",
    ];
    const UNKNOWN: &[&str] =
        &["unknown user", "no passwd entry", "does not exist", "unknown id", "unknown login"];
    const REFUSED: &[&str] = &[
        "not in the sudoers",
        "not allowed to",
        "may not run",
        "operation not permitted",
        "permission denied",
        "not permitted",
    ];
    const WRONG: &[&str] = &[
        "incorrect password",
        "authentication fail",
        "sorry, try again",
        "authentication error",
        "authentication token manipulation",
    ];
    if says(TERMINAL) {
        BecomeFailure::TerminalRequired { exe }
    } else if says(UNKNOWN) {
        BecomeFailure::UnknownUser { exe, user }
    } else if says(&["password is required", "authentication required", "authorization required"]) {
        BecomeFailure::MissingPassword { exe, user }
    } else if says(WRONG) || (prompts > 0 && says(&["no password was provided"])) {
        if who.has_password {
            BecomeFailure::WrongPassword { exe, user }
        } else {
            BecomeFailure::MissingPassword { exe, user }
        }
    } else if says(REFUSED) {
        BecomeFailure::NotPermitted { exe, user, detail: line_with(REFUSED) }
    } else {
        BecomeFailure::Other { exe, user, exit: exit.to_string(), output: tail(printed) }
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// Output that begins after the marker.
enum Skipping {
    Before(BoxFuture<'static, Result<(Vec<u8>, Reader), TransportError>>),
    After(Vec<u8>, Reader),
    Failed(Arc<TransportError>),
}

impl AsyncRead for Skipping {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match &mut *self {
                Skipping::Before(future) => match ready!(future.as_mut().poll(cx)) {
                    Ok((output, reader)) => *self = Skipping::After(output, reader),
                    Err(error) => *self = Skipping::Failed(Arc::new(error)),
                },
                Skipping::After(output, reader) => {
                    if output.is_empty() {
                        return Pin::new(reader).poll_read(cx, buf);
                    }
                    let count = output.len().min(buf.remaining());
                    buf.put_slice(&output[..count]);
                    output.drain(..count);
                    return Poll::Ready(Ok(()));
                }
                Skipping::Failed(error) => {
                    let error = TransportError::clone(error);
                    return Poll::Ready(Err(error.into_io(io::ErrorKind::Other)));
                }
            }
        }
    }
}

/// Diagnostics that are handed over when the command has begun.
enum Late {
    Waiting(oneshot::Receiver<(Vec<u8>, Reader)>),
    Open(Vec<u8>, Reader),
    Closed,
}

impl AsyncRead for Late {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match &mut *self {
                Late::Waiting(receiver) => match ready!(Pin::new(receiver).poll(cx)) {
                    Ok((seen, reader)) => *self = Late::Open(seen, reader),
                    Err(_) => *self = Late::Closed,
                },
                Late::Open(seen, reader) => {
                    if seen.is_empty() {
                        return Pin::new(reader).poll_read(cx, buf);
                    }
                    let count = seen.len().min(buf.remaining());
                    buf.put_slice(&seen[..count]);
                    seen.drain(..count);
                    return Poll::Ready(Ok(()));
                }
                Late::Closed => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart() {
        let token = Token::new();
        let missing = token.missing();
        let cases = [
            (Method::Sudo, false, "sudo: a password is required", "a password is needed"),
            (Method::Sudo, false, "sudo: sorry, you must have a tty to run sudo", "insists on a terminal"),
            (Method::Sudo, true, "Sorry, try again.\nsudo: 1 incorrect password attempt", "wrong password"),
            (
                Method::Sudo,
                true,
                "mallory is not in the sudoers file.",
                "may not become root: mallory is not in",
            ),
            (
                Method::Sudo,
                true,
                "Sorry, user mallory is not allowed to execute '/bin/sh' as root on h.",
                "may not",
            ),
            (Method::Sudo, false, "sudo: unknown user: root", "there is no user root"),
            (
                Method::Sudo,
                false,
                "sudo: unknown user root\nsudo: error initializing audit plugin",
                "no user root",
            ),
            (Method::Su, true, "su: Authentication failure", "wrong password"),
            (Method::Su, false, "su: Authentication failure", "a password is needed"),
            (Method::Su, true, "su: must be run from a terminal", "insists on a terminal"),
            (
                Method::Su,
                true,
                "su: user root does not exist or the user entry does not contain all the required fields",
                "no user",
            ),
            (Method::Doas, false, "doas: Authentication required", "a password is needed"),
            (Method::Doas, false, "doas: Operation not permitted", "may not become root: doas: Operation"),
            (Method::Doas, true, "doas: Authentication failed", "wrong password"),
            (Method::Sudo, false, missing.as_str(), "not installed"),
            (
                Method::Sudo,
                false,
                "sudo: /etc/sudo.conf is owned by uid 0, should be 1",
                "could not become root (exit code 1): sudo: /etc",
            ),
        ];
        for (method, has_password, printed, expected) in cases {
            let who = Who { exe: method.program().to_owned(), user: "root".to_owned(), has_password };
            let failure = classify(&who, &token, printed, &ExitStatus::Code(1), 0).to_string();
            assert!(failure.contains(expected), "{printed}: {failure}");
        }
    }

    #[test]
    fn dialogue_flags_are_ours() {
        let cases = [
            ("-n", None),
            ("-HSn", Some("-H")),
            ("-H", Some("-H")),
            ("-u", Some("-u")),
            ("--non-interactive", None),
            ("-i", Some("-i")),
            ("--preserve-env", Some("--preserve-env")),
        ];
        for (word, expected) in cases {
            assert_eq!(without_dialogue_flags(word).as_deref(), expected, "{word}");
        }
    }

    #[test]
    fn prompts_are_recognised() {
        let like = Prompt::EndsLikePassword;
        for (text, expected) in [
            ("Password: ", true),
            ("banner\r\ndoas (me@host) password: ", true),
            ("Password: \nsu: Authentication failure\n", false),
            ("We trust you know your password by now.\n", false),
        ] {
            assert_eq!(like.find(text.as_bytes()).is_some(), expected, "{text:?}");
        }
    }
}
