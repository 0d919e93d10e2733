//! `expect`: runs a program on a terminal and answers its questions.

use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;

use crate::module::clock::{Zone, python_span};
use crate::module::command::Guard;
use crate::module::regex::{Flags, Pattern};
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, args, host, typed};
use crate::system::pty::{Dialogue, Exchange};
use crate::system::{Command, Done, System, SystemError};
use crate::value::{Map, Value};

/// Runs a program and answers its questions.
pub const MODULE: Module = Module {
    name: "ansible.builtin.expect",
    summary: "Run a program and answer what it asks",
    description: "Runs a program, without a shell, on a terminal of its own. Each question is a regular expression; \
        of several that are found in the output, the one that comes first is answered. A list of answers is given in \
        order, and it is a failure if the question comes once more. Nothing needs to be installed on the host. In \
        check mode it is not run, as with `command`.",
    example: "- name: Change the password of an old program\n  ansible.builtin.expect:\n    command: passwd username\n    responses:\n      (?i)password: '{{ new_password }}'\n  no_log: true\n",
    scope: Scope::World,
    params: &[
        Param::new("command", Type::Str, "What to run, as a line that is split into words as a shell would.")
            .required(),
        Param::new(
            "responses",
            Type::Dict,
            "Questions (regular expressions) with the answer, or a list of answers, to each.",
        )
        .required(),
        Param::new("chdir", Type::Path, "Directory to run in."),
        Param::new("creates", Type::Path, "A path or pattern; if something is there, nothing is run."),
        Param::new("removes", Type::Path, "A path or pattern; if nothing is there, nothing is run."),
        Param::new(
            "timeout",
            Type::Raw,
            "Longest wait in seconds for the next question or the end; null or -1 waits for ever.",
        )
        .default("30"),
        Param::new("echo", Type::Bool, "Whether the terminal shows the answers.").default("false"),
    ],
    returns: &[
        ("cmd", "What was run."),
        ("rc", "Exit status; 0 if nothing was run."),
        ("stdout", "What it wrote to the terminal."),
        ("start", "When it was started, in the host's local time."),
        ("end", "When it ended, in the host's local time."),
        ("delta", "How long it took: `hours:minutes:seconds`."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    command: String,
    responses: Map,
    chdir: Option<String>,
    creates: Option<String>,
    removes: Option<String>,
    timeout: Option<Value>,
    echo: bool,
}

fn exchange(question: &Value, answer: &Value) -> Result<Exchange, ModuleError> {
    let question = question.to_text();
    let pattern = Pattern::new(&question, Flags { dotall: true, ..Flags::default() })?;
    let (answers, repeats) = match answer {
        Value::List(items) => (items.iter().map(Value::to_text).collect(), false),
        other => (vec![other.to_text()], true),
    };
    Ok(Exchange { pattern: pattern.engine_text().to_string(), question, answers, repeats })
}

/// Seconds; nothing, `null`, `none` and `-1` stand for ever.
fn patience(given: Option<&Value>) -> Result<Option<Duration>, ModuleError> {
    let text = match given {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value.to_text(),
    };
    match text.trim().parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(seconds) => Ok(Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))),
        Err(_) if ["", "none", "null"].contains(&text.trim().to_lowercase().as_str()) => Ok(None),
        Err(_) => Err(ModuleError::new(format!("timeout must be a number of seconds, not '{text}'"))),
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    if args.command.trim().is_empty() {
        return Err(ModuleError::new("no command given").with("rc", 256));
    }
    let words = host::split_words(&args.command)
        .map_err(|reason| ModuleError::new(format!("{reason}: {}", args.command)))?;
    let exchanges =
        args.responses.iter().map(|(key, value)| exchange(key, value)).collect::<Result<_, _>>()?;
    let cwd = match &args.chdir {
        Some(path) => Some(args::expand_path(path, system)?),
        None => None,
    };
    if let Some(path) = &cwd
        && !host::is_directory(path, system)?
        && system.uncertain().is_none()
    {
        let message =
            format!("Unable to change directory before execution: no such directory: {}", path.display());
        return Err(ModuleError::new(message));
    }
    let outcome = Outcome::default().set("cmd", args.command.as_str());
    let guard = Guard { creates: args.creates.as_deref(), removes: args.removes.as_deref() };
    if let Some(reason) = guard.satisfied(cwd.as_deref(), system)? {
        guard.record(system);
        let outcome = outcome.set("stdout", format!("skipped, since {}", reason.short)).set("rc", 0);
        return Ok(Outcome { changed: Some(false), ..outcome });
    }
    let mut command = Command::new(words);
    command.cwd = cwd;
    command.dialogue =
        Some(Dialogue { exchanges, echo: args.echo, patience: patience(args.timeout.as_ref())? });
    let zone = Zone::of(system);
    let started = SystemTime::now();
    let watch = Instant::now();
    let done = match system.change(&command, guard.intent(&command)) {
        Err(SystemError::Timeout { .. }) => {
            return Err(ModuleError::new("command exceeded timeout").with("cmd", args.command.as_str()));
        }
        other => other?,
    };
    let Done::Made(output) = done else {
        let skipped = !guard.given();
        let outcome = outcome.set("rc", 0).set("msg", "Command would have run if not in check mode");
        return Ok(Outcome { skipped, changed: Some(!skipped), ..outcome });
    };
    let elapsed = watch.elapsed();
    guard.record(system);
    let mut outcome = outcome
        .set("stdout", output.stdout_text().trim_end_matches(['\r', '\n']))
        .set("rc", output.code)
        .set("start", zone.local(started).python())
        .set("end", zone.local(started + elapsed).python())
        .set("delta", python_span(elapsed));
    outcome.changed = Some(true);
    if !output.success() {
        outcome.failed = true;
        outcome = outcome.set("msg", "non-zero return code");
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract_once;

    #[test]
    fn questions_are_answered_by_the_first_that_is_found() {
        let script =
            r#"sh -c 'printf \"User: \"; read u; printf \"Password: \"; read p; echo $u/$p > @/out'"#;
        let verdict = contract_once(
            &MODULE,
            &["d d 755"],
            &format!(
                r#"{{"command": "{script}", "creates": "@/out", "responses": {{"(?i)password": "secret", "User": ["me"]}}}}"#
            ),
        );
        assert_eq!((verdict.error.clone(), verdict.changed), (None, true));
        assert!(verdict.tree.contains(&"f out 644 me/secret\n".to_string()), "{:?}", verdict.tree);
        assert_eq!(verdict.text("stdout"), "User: Password: ");
    }

    #[test]
    fn what_goes_wrong_is_said() {
        for (arguments, expected) in [
            (r#"{"command": "sh -c 'exit 4'", "responses": {"a": "b"}, "creates": "@/x"}"#, "4"),
            (r#"{"command": "true", "responses": {"a": "b"}, "creates": "@/d"}"#, "0"),
        ] {
            let verdict = contract_once(&MODULE, &["d d 755"], arguments);
            assert_eq!(verdict.text("rc"), expected, "{arguments}");
        }
        assert_eq!(patience(Some(&Value::Int(-1))).expect("valid"), None);
        assert_eq!(patience(Some(&"7".into())).expect("valid"), Some(Duration::from_secs(7)));
        patience(Some(&"soon".into())).expect_err("not a number");
    }
}
