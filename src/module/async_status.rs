//! `async_status`: what has become of a detached task.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, args, host, typed};
use crate::system::System;
use crate::value::{Map, Value};

/// Looks at a detached task.
pub const MODULE: Module = Module {
    name: "ansible.builtin.async_status",
    summary: "Look at a task that was detached with `async`",
    description: "Gives the result of a task that runs on its own (`async` with `poll: 0`), or says that it has not \
        finished. A task that has failed fails this one too. The results are files in `~/.ansible_async` of the \
        account that ran the task, or where `ansible_async_dir` says; `mode: cleanup` removes one.",
    example: "- ansible.builtin.command: /usr/bin/long-work\n  async: 3600\n  poll: 0\n  register: job\n\n- ansible.builtin.async_status:\n    jid: '{{ job.ansible_job_id }}'\n  register: result\n  until: result.finished\n  retries: 60\n  delay: 10\n",
    scope: Scope::World,
    params: &[
        Param::new("jid", Type::Str, "The job, as in `ansible_job_id` of the detached task's result.")
            .required(),
        Param::new("mode", Type::Str, "Look at it, or remove what it left.")
            .choices(&["cleanup", "status"])
            .default("status"),
    ],
    returns: &[
        ("ansible_job_id", "The job."),
        ("finished", "Whether it has ended."),
        ("started", "Whether it was started."),
        ("results_file", "The file with its result."),
        ("erased", "With `mode: cleanup`, the file that was removed."),
        ("", "Once it has finished, what the task itself returns."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    jid: String,
    mode: String,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if args.jid.is_empty() || args.jid.starts_with('.') || !args.jid.chars().all(valid) {
        return Err(ModuleError::new(format!("'{}' can't be the name of a job", args.jid)));
    }
    let directory = system.env("ANSIBLE_ASYNC_DIR").filter(|directory| !directory.is_empty());
    let directory = args::expand_path(directory.as_deref().unwrap_or("~/.ansible_async"), system)?;
    let path = directory.join(&args.jid);
    let shown = path.to_string_lossy().into_owned();
    let known = |outcome: Outcome| outcome.set("ansible_job_id", args.jid.as_str());
    let broken = |message: String| {
        // `finished`, so that nobody goes on waiting for it.
        ModuleError::new(message)
            .with("ansible_job_id", args.jid.as_str())
            .with("results_file", shown.as_str())
            .with("started", true)
            .with("finished", true)
            .with("stdout", "")
            .with("stderr", "")
    };
    let Some(text) = host::read_text(&path, system) else {
        return Err(broken("could not find job".into()));
    };
    if args.mode == "cleanup" {
        system.remove(&path)?;
        let outcome = known(Outcome::default()).set("erased", shown);
        return Ok(Outcome { changed: Some(false), ..outcome });
    }
    let mut values = match serde_json::from_str::<Value>(&text) {
        Ok(Value::Map(values)) => values.as_ref().clone(),
        _ if text.trim().is_empty() => Map::new(),
        _ => {
            return Err(broken(format!("Could not parse job output: {text}")));
        }
    };
    let finished = values.get("finished").is_some_and(Value::truthy);
    let mut take = |name: &str| values.shift_remove(name).is_some_and(|value| value.truthy());
    let (failed, changed) = (take("failed"), take("changed"));
    let skipped = take("skipped");
    let mut outcome = known(Outcome { failed, skipped, changed: Some(changed), ..Outcome::with(values) })
        .set("started", true)
        .set("finished", finished)
        .set("results_file", shown);
    for stream in ["stdout", "stderr"] {
        if !outcome.values.contains_key(stream) {
            outcome = outcome.set(stream, "");
        }
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::fake::Fake;
    use crate::value::map_of;

    #[test]
    fn a_job_is_read_from_its_file() {
        for (content, changed, failed, finished, stdout) in [
            (r#"{"started": 1, "finished": 0, "ansible_job_id": "j1.2"}"#, false, false, false, ""),
            (r#"{"finished": 1, "changed": true, "stdout": "x", "rc": 0}"#, true, false, true, "x"),
            (r#"{"finished": 1, "failed": true, "msg": "no"}"#, false, true, true, ""),
            ("", false, false, false, ""),
        ] {
            let mut fake = Fake::new().with_file("/root/.ansible_async/j1.2", content);
            let outcome = call(&MODULE, &map_of([("jid", "j1.2")]).into(), &mut fake).expect("it is there");
            assert_eq!((outcome.changed, outcome.failed), (Some(changed), failed), "{content}");
            assert_eq!(outcome.values.get("finished"), Some(&finished.into()), "{content}");
            assert_eq!(outcome.values.get("stdout"), Some(&stdout.into()), "{content}");
        }
    }

    #[test]
    fn a_job_that_is_not_there_is_a_failure_and_cleaning_up_removes_it() {
        let mut fake = Fake::new()
            .with_env("ANSIBLE_ASYNC_DIR", "/var/jobs")
            .with_file("/var/jobs/j1", "{\"finished\": 1}");
        let task = |jid: &str, fake: &mut Fake| {
            call(&MODULE, &map_of([("jid", jid), ("mode", "cleanup")]).into(), fake)
        };
        assert_eq!(task("j2", &mut fake).expect_err("gone"), "could not find job");
        assert!(task("../j1", &mut fake).is_err());
        let given = args::check(&MODULE, &map_of([("jid", "j2")]), &|_| true).expect("typed");
        let error = (MODULE.run)(given, &mut fake).expect_err("gone");
        for (name, value) in [
            ("results_file", Value::str("/var/jobs/j2")),
            ("finished", Value::Bool(true)),
            ("stdout", Value::str("")),
        ] {
            assert_eq!(error.values.get(name), Some(&value), "{name}");
        }
        let outcome = task("j1", &mut fake).expect("removed");
        assert_eq!(outcome.values.get("erased"), Some(&"/var/jobs/j1".into()));
        assert_eq!(fake.text("/var/jobs/j1"), None);
    }
}
