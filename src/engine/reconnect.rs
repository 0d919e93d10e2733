//! `reboot` and `wait_for_connection`: what to ask a machine next while it goes away and comes back. Pure:
//! told what the machine answered, it says what to do; the engine does it.

use std::time::Duration;

use crate::engine::connect::shell_quote;
use crate::engine::settle::ItemOutcome;
use crate::event::Verdict;
use crate::module::Type;
use crate::module::args::coerce;
use crate::system::Output;
use crate::value::{Map, Value, map_of};

/// Directories in which the program that reboots is looked for.
const SEARCH_PATHS: [&str; 5] = ["/sbin", "/bin", "/usr/sbin", "/usr/bin", "/usr/local/sbin"];

/// What tells one run of a machine from the next.
const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

/// How long an answer may take if the task does not say.
const ANSWER: Duration = Duration::from_secs(15);

/// How long the command that reboots may stay silent before the machine counts as going down.
const SHUTDOWN: Duration = Duration::from_secs(60);

/// Time between two attempts after a reboot.
const BETWEEN: Duration = Duration::from_secs(1);

/// What a machine answered to a command, or why there is no answer.
pub type Answer = Result<Output, String>;

/// What is to be done next.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// Run this command and say what came of it.
    Ask {
        /// For the login shell.
        command: String,
        /// Give up after this long.
        limit: Duration,
        /// Over a connection made for it.
        fresh: bool,
    },
    /// Come back after this long.
    Sleep(Duration),
    /// It is over.
    Done(Map),
}

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Begin,
    /// The boot identity before the reboot was asked for.
    Before,
    /// The command that reboots was given.
    GoingDown,
    /// Resting, then asking whether it is back.
    Rest,
    Asked,
    /// It is back; does it work?
    Test,
    Tested,
}

/// A task that waits for a machine.
#[derive(Clone, Debug)]
pub struct Waiting {
    stage: Stage,
    /// Reboot it first.
    reboot: Option<Reboot>,
    /// Time before the first attempt.
    delay: Duration,
    /// Time from the beginning (or from the reboot) until it is given up.
    timeout: Duration,
    sleep: Duration,
    limit: Duration,
    /// When waiting began, on the clock of the caller.
    since: Duration,
    error: String,
}

#[derive(Clone, Debug)]
struct Reboot {
    boot_command: String,
    command: String,
    test_command: String,
    before: String,
}

fn failed(message: impl Into<String>) -> Map {
    map_of([
        ("failed", Value::Bool(true)),
        ("msg", Value::str(message.into())),
        ("changed", Value::Bool(false)),
    ])
}

fn seconds(args: &Map, name: &str) -> Result<Option<Duration>, Map> {
    let given = args
        .get(name)
        .or_else(|| args.get(format!("{name}_sec").as_str()))
        .filter(|value| !matches!(value, Value::Null | Value::Omit));
    let Some(value) = given else { return Ok(None) };
    match coerce(Type::Int, value) {
        Ok(Value::Int(number)) => Ok(Some(Duration::from_secs(u64::try_from(number).unwrap_or(0)))),
        Ok(_) => Ok(None),
        Err(reason) => Err(failed(format!("argument '{name}': {reason}"))),
    }
}

fn text(args: &Map, name: &str) -> Option<String> {
    args.get(name).filter(|value| !matches!(value, Value::Null | Value::Omit)).map(Value::to_text)
}

impl Waiting {
    /// `wait_for_connection`.
    ///
    /// # Errors
    /// The result, if an argument makes no sense.
    pub fn for_connection(args: &Map) -> Result<Waiting, Map> {
        Ok(Waiting {
            stage: Stage::Begin,
            reboot: None,
            delay: seconds(args, "delay")?.unwrap_or_default(),
            timeout: seconds(args, "timeout")?.unwrap_or(Duration::from_secs(600)),
            sleep: seconds(args, "sleep")?.unwrap_or(Duration::from_secs(1)),
            limit: seconds(args, "connect_timeout")?.unwrap_or(Duration::from_secs(5)),
            since: Duration::ZERO,
            error: String::new(),
        })
    }

    /// `reboot`.
    ///
    /// # Errors
    /// The result, if an argument makes no sense.
    pub fn for_reboot(args: &Map) -> Result<Waiting, Map> {
        let search = match args.get("search_paths") {
            None | Some(Value::Null | Value::Omit) => SEARCH_PATHS.map(String::from).to_vec(),
            Some(value) => match coerce(Type::List, value) {
                Ok(Value::List(items)) => items.iter().map(Value::to_text).collect(),
                _ => return Err(failed(format!("'search_paths' must be a list, got {}", value.repr()))),
            },
        };
        let delay = seconds(args, "pre_reboot_delay")?.unwrap_or_default();
        let message = text(args, "msg").unwrap_or_else(|| "Reboot initiated by Ansible".into());
        let command = match text(args, "reboot_command").filter(|command| !command.trim().is_empty()) {
            Some(command) => given_command(&command, &search),
            None => default_command(delay.as_secs() / 60, &message, &search),
        };
        Ok(Waiting {
            stage: Stage::Begin,
            reboot: Some(Reboot {
                boot_command: text(args, "boot_time_command").unwrap_or_else(|| BOOT_ID.into()),
                command,
                test_command: text(args, "test_command").unwrap_or_else(|| "whoami".into()),
                before: String::new(),
            }),
            delay: seconds(args, "post_reboot_delay")?.unwrap_or_default() + delay,
            timeout: seconds(args, "reboot_timeout")?.unwrap_or(Duration::from_secs(600)),
            sleep: BETWEEN,
            limit: seconds(args, "connect_timeout")?.filter(|limit| !limit.is_zero()).unwrap_or(ANSWER),
            since: Duration::ZERO,
            error: String::new(),
        })
    }

    /// What to do now. `now` is the time since the task began; `answer` what came of the last command.
    pub fn next(&mut self, now: Duration, answer: Option<Answer>) -> Next {
        match self.stage {
            Stage::Begin => self.begin(now),
            Stage::Before => self.go_down(answer),
            Stage::GoingDown => self.gone(now, answer),
            Stage::Rest => self.ask(),
            Stage::Asked => self.is_back(now, answer),
            Stage::Test => self.test(),
            Stage::Tested => self.works(now, answer),
        }
    }

    fn begin(&mut self, now: Duration) -> Next {
        if let Some(reboot) = &self.reboot {
            self.stage = Stage::Before;
            return Next::Ask { command: reboot.boot_command.clone(), limit: SHUTDOWN, fresh: false };
        }
        self.since = now;
        self.rest(self.delay)
    }

    fn rest(&mut self, time: Duration) -> Next {
        self.stage = Stage::Rest;
        if time.is_zero() { self.ask() } else { Next::Sleep(time) }
    }

    fn ask(&mut self) -> Next {
        self.stage = Stage::Asked;
        let command = match &self.reboot {
            Some(reboot) => reboot.boot_command.clone(),
            None => "echo pong".into(),
        };
        Next::Ask { command, limit: self.limit, fresh: true }
    }

    fn test(&mut self) -> Next {
        self.stage = Stage::Tested;
        let command = self.reboot.as_ref().map(|reboot| reboot.test_command.clone()).unwrap_or_default();
        Next::Ask { command, limit: self.limit, fresh: false }
    }

    fn go_down(&mut self, answer: Option<Answer>) -> Next {
        let Some(reboot) = &mut self.reboot else { return Next::Done(Map::new()) };
        match answer {
            Some(Ok(output)) if output.success() => reboot.before = output.stdout_text().trim().to_string(),
            Some(Ok(output)) => {
                let said = output.stderr_text();
                let message =
                    format!("`{}` does not tell the boot time: {}", reboot.boot_command, said.trim());
                return Next::Done(self.not_rebooted(&message, Duration::ZERO));
            }
            Some(Err(error)) => {
                return Next::Done(map_of([
                    ("unreachable", Value::Bool(true)),
                    ("changed", Value::Bool(false)),
                    ("msg", Value::str(error)),
                ]));
            }
            None => return Next::Sleep(BETWEEN),
        }
        self.stage = Stage::GoingDown;
        Next::Ask { command: reboot.command.clone(), limit: SHUTDOWN + self.delay, fresh: false }
    }

    fn gone(&mut self, now: Duration, answer: Option<Answer>) -> Next {
        if let Some(Ok(output)) = answer
            // The connection may go down with the shell; what counts is whether the machine comes back.
            && !output.success()
            && output.code < 128
        {
            let said = format!("{}\n{}", output.stdout_text().trim(), output.stderr_text().trim());
            let message = format!("the command that reboots failed: {}", said.trim());
            return Next::Done(self.not_rebooted(&message, now));
        }
        self.since = now;
        self.rest(self.delay.max(BETWEEN))
    }

    fn is_back(&mut self, now: Duration, answer: Option<Answer>) -> Next {
        let before = self.reboot.as_ref().map(|reboot| reboot.before.clone());
        match answer {
            Some(Ok(output)) if output.success() => {
                let after = output.stdout_text().trim().to_string();
                match before {
                    None => return Next::Done(self.result(now)),
                    Some(before) if !after.is_empty() && after != before => {
                        // From here on, the whole time is there again for the test.
                        self.since = now;
                        return self.test();
                    }
                    Some(_) => self.error = "it still runs as it did before the reboot".into(),
                }
            }
            other => self.note(other),
        }
        if now.saturating_sub(self.since) >= self.timeout {
            let seconds = self.timeout.as_secs();
            let what = if self.reboot.is_some() {
                "Timed out waiting for last boot time check"
            } else {
                "timed out waiting for ping module test"
            };
            let message = format!("{what} (timeout={seconds}): {}", self.error);
            return Next::Done(self.gave_up(&message, now));
        }
        self.rest(self.sleep.max(Duration::from_millis(100)))
    }

    fn works(&mut self, now: Duration, answer: Option<Answer>) -> Next {
        match answer {
            Some(Ok(output)) if output.success() => return Next::Done(self.result(now)),
            other => self.note(other),
        }
        if now.saturating_sub(self.since) >= self.timeout {
            let seconds = self.timeout.as_secs();
            let message =
                format!("Timed out waiting for post-reboot test command (timeout={seconds}): {}", self.error);
            return Next::Done(self.gave_up(&message, now));
        }
        self.stage = Stage::Test;
        Next::Sleep(BETWEEN)
    }

    fn note(&mut self, answer: Option<Answer>) {
        match answer {
            Some(Ok(output)) => {
                self.error = format!("status {}: {}", output.code, output.stderr_text().trim());
            }
            Some(Err(error)) => self.error = error,
            None => {}
        }
    }

    fn elapsed(&self, now: Duration) -> Value {
        Value::Int(i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
    }

    fn result(&self, now: Duration) -> Map {
        let mut result =
            map_of([("changed", Value::Bool(self.reboot.is_some())), ("elapsed", self.elapsed(now))]);
        if self.reboot.is_some() {
            result.insert(Value::str("rebooted"), Value::Bool(true));
        }
        result
    }

    /// It went down (or was never there) and is not back.
    fn gave_up(&self, message: &str, now: Duration) -> Map {
        let mut result = failed(message);
        result.insert(Value::str("elapsed"), self.elapsed(now));
        if self.reboot.is_some() {
            result.insert(Value::str("rebooted"), Value::Bool(true));
            result.insert(Value::str("changed"), Value::Bool(true));
        }
        result
    }

    fn not_rebooted(&self, message: &str, now: Duration) -> Map {
        let mut result = failed(message);
        result.insert(Value::str("rebooted"), Value::Bool(false));
        result.insert(Value::str("elapsed"), self.elapsed(now));
        result
    }
}

/// What a dry run returns; `None` for a real one to find out.
pub fn dry(action: &str) -> ItemOutcome {
    if action == "ansible.builtin.reboot" {
        let result = map_of([
            ("changed", Value::Bool(true)),
            ("elapsed", Value::Int(0)),
            ("rebooted", Value::Bool(true)),
        ]);
        return ItemOutcome { result, verdict: Verdict::Changed, diagnostic: None };
    }
    let result = map_of([("skipped", Value::Bool(true)), ("changed", Value::Bool(false))]);
    ItemOutcome { result, verdict: Verdict::Skipped, diagnostic: None }
}

/// Shell that sets `p` to the first of these programs that is in one of the directories.
fn search(programs: &[&str], directories: &[String]) -> String {
    let directories: Vec<String> = directories.iter().map(|directory| shell_quote(directory)).collect();
    format!(
        "p=; for n in {}; do for d in {}; do if [ -z \"$p\" ] && [ -x \"$d/$n\" ]; then p=\"$d/$n\"; fi; done; done",
        programs.join(" "),
        directories.join(" ")
    )
}

/// `shutdown` in so many minutes; where that is missing, what else reboots a machine.
fn default_command(minutes: u64, message: &str, directories: &[String]) -> String {
    let find = search(&["shutdown", "systemctl", "reboot"], directories);
    let message = shell_quote(message);
    let missing = format!("no shutdown, systemctl or reboot in {}", directories.join(":"));
    let script = format!(
        "{find}; case $p in \
         */shutdown) exec \"$p\" -r {minutes} {message};; \
         */systemctl) exec \"$p\" reboot;; \
         */reboot) exec \"$p\";; \
         *) echo {} >&2; exit 127;; esac",
        shell_quote(&missing)
    );
    // Whatever the login shell is.
    format!("/bin/sh -c {}", shell_quote(&script))
}

/// The user's own command; its program is searched for unless a path is given.
fn given_command(command: &str, directories: &[String]) -> String {
    let command = command.trim();
    let (program, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    if program.contains('/') || !program.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c)) {
        return command.to_string();
    }
    let find = search(&[program], directories);
    // What is in none of the directories may still be in PATH or built into the shell.
    let script = format!("{find}; ${{p:-{program}}} {rest}");
    format!("/bin/sh -c {}", shell_quote(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(entries: &[(&str, &str)]) -> Map {
        map_of(entries.iter().copied())
    }

    /// Plays a machine: answers by the number of the command, a second for each. Returns what was done.
    fn play(mut waiting: Waiting, answers: &[Answer]) -> (Vec<String>, Map) {
        let mut log = Vec::new();
        let (mut now, mut answer, mut count) = (Duration::ZERO, None, 0);
        for _ in 0..100 {
            match waiting.next(now, answer.take()) {
                Next::Ask { command, fresh, .. } => {
                    let short: String = command.chars().take(20).collect();
                    log.push(format!("{}{short}", if fresh { "+" } else { "" }));
                    answer = Some(answers[count.min(answers.len() - 1)].clone());
                    count += 1;
                    now += Duration::from_secs(1);
                }
                Next::Sleep(time) => {
                    log.push(format!("sleep {}", time.as_secs_f64()));
                    now += time;
                }
                Next::Done(result) => return (log, result),
            }
        }
        panic!("it never ends: {log:?}");
    }

    #[test]
    fn a_reboot_is_over_when_the_boot_id_is_another_and_the_test_works() {
        let given =
            args(&[("reboot_command", "/sbin/reboot"), ("test_command", "true"), ("post_reboot_delay", "7")]);
        let lost = || Err("connection lost".to_string());
        let answers = [
            Ok(Output::ok("one\n")),
            lost(),
            Ok(Output::ok("one\n")),
            lost(),
            Ok(Output::ok("two\n")),
            Ok(Output::fails(1, "not yet")),
            Ok(Output::ok("")),
        ];
        let (log, result) = play(Waiting::for_reboot(&given).expect("valid"), &answers);
        assert_eq!(
            log,
            [
                "cat /proc/sys/kernel",
                "/sbin/reboot",
                "sleep 7",
                "+cat /proc/sys/kernel",
                "sleep 1",
                "+cat /proc/sys/kernel",
                "sleep 1",
                "+cat /proc/sys/kernel",
                "true",
                "sleep 1",
                "true"
            ]
        );
        let expected = map_of([
            ("changed", Value::Bool(true)),
            ("elapsed", Value::Int(17)),
            ("rebooted", Value::Bool(true)),
        ]);
        assert_eq!(result, expected);
    }

    #[test]
    fn what_does_not_come_back_is_given_up() {
        let given = args(&[("reboot_timeout", "5"), ("reboot_command", "r")]);
        let (_, result) = play(
            Waiting::for_reboot(&given).expect("valid"),
            &[Ok(Output::ok("one")), Ok(Output::ok("")), Err("refused".into())],
        );
        assert_eq!(
            result.get("msg").map(Value::to_text).unwrap_or_default(),
            "Timed out waiting for last boot time check (timeout=5): refused"
        );
        assert_eq!(result.get("rebooted"), Some(&Value::Bool(true)));
        let (_, result) = play(
            Waiting::for_reboot(&given).expect("valid"),
            &[Ok(Output::ok("one")), Ok(Output::fails(1, "not allowed"))],
        );
        assert_eq!(
            result.get("msg").map(Value::to_text).unwrap_or_default(),
            "the command that reboots failed: not allowed"
        );
        assert_eq!(result.get("rebooted"), Some(&Value::Bool(false)));
    }

    #[test]
    fn a_connection_is_waited_for() {
        let given = args(&[("delay", "3"), ("sleep", "2"), ("timeout", "60")]);
        let waiting = Waiting::for_connection(&given).expect("valid");
        let (log, result) = play(waiting, &[Err("refused".into()), Ok(Output::ok("pong"))]);
        assert_eq!(log, ["sleep 3", "+echo pong", "sleep 2", "+echo pong"]);
        assert_eq!(result, map_of([("changed", Value::Bool(false)), ("elapsed", Value::Int(7))]));
        let waiting = Waiting::for_connection(&args(&[("timeout", "4")])).expect("valid");
        let (_, result) = play(waiting, &[Err("refused".into())]);
        assert_eq!(
            result.get("msg").map(Value::to_text).unwrap_or_default(),
            "timed out waiting for ping module test (timeout=4): refused"
        );
        let wrong = Waiting::for_connection(&args(&[("timeout", "soon")])).expect_err("no number");
        assert!(wrong.get("msg").map(Value::to_text).unwrap_or_default().contains("'timeout'"));
    }

    #[test]
    fn the_command_is_searched_for() {
        let run = |script: &str| {
            let output =
                std::process::Command::new("/bin/sh").arg("-c").arg(script).output().expect("a shell");
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
        };
        let place = tempfile::tempdir().expect("a directory");
        let put = |name: &str| {
            let path = place.path().join(name);
            std::fs::write(&path, "#!/bin/sh\necho ${0##*/} \"$@\"\n").expect("written");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("set");
        };
        let here = vec!["/nonexistent".to_string(), place.path().to_string_lossy().into_owned()];
        assert!(run(&default_command(0, "it's", &here)).starts_with("no shutdown, systemctl or reboot in "));
        put("reboot");
        assert_eq!(run(&default_command(0, "it's", &here)), "reboot\n");
        put("shutdown");
        assert_eq!(run(&default_command(2, "it's time", &here)), "shutdown -r 2 it's time\n");
        assert_eq!(run(&given_command("reboot -f 'a b'", &here)), "reboot -f a b\n");
        assert_eq!(run(&given_command("echo x", &here)), "x\n");
    }
}
