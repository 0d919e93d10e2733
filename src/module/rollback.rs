//! `rollback`: takes back what an earlier run changed on this host, from the prior states that are kept there.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, typed};
use crate::system::prior::{self, Plan, Records, Step};
use crate::system::recorder::Recorder;
use crate::system::{Intent, System, SystemError};
use crate::value::{Value, map_of};

/// Takes a run back.
pub const MODULE: Module = Module {
    name: "setpoint.builtin.rollback",
    summary: "Takes back what an earlier run changed on the host",
    description: "Puts back files, links, packages, states of services, accounts and crontabs from what the run \
        kept on the host, the last change first. What somebody changed since is left alone unless `force` is \
        given, and then the task fails and says so. `setpoint rollback` uses it; in a playbook it can undo the \
        run at hand in a `rescue`.",
    example: "- setpoint.builtin.rollback:\n    run: \"1766325000.4711\"\n",
    scope: Scope::World,
    params: &[
        Param::new("run", Type::Str, "Name of the run.").required(),
        Param::new("state", Type::Str, "`listed` only says what there is to take back, and how.")
            .choices(&["restored", "listed"])
            .default("restored"),
        Param::new("force", Type::Bool, "Also overwrite what was changed since, and act on damaged records.")
            .default("false"),
    ],
    returns: &[
        ("kept", "Whether anything is kept of the run here."),
        (
            "steps",
            "Each thing with `what`, `how`, `outcome` (restored, already, left, impossible) and `reason`.",
        ),
        ("left", "How many things were left as they are."),
        ("impossible", "How many things can't be taken back."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Deserialize)]
struct Args {
    run: String,
    state: String,
    force: bool,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let who = system.whoami()?;
    let root = prior::root(&who.home);
    let records = prior::records(&root, &args.run).map_err(|error| {
        ModuleError::new(format!("the prior states of run {} can't be read: {error}", args.run))
    })?;
    let Some(records) = records else {
        return Ok(Outcome { skipped: true, ..Outcome::default() }
            .set("kept", false)
            .set("user", who.name.as_str())
            .set("msg", format!("nothing is kept of run {} for user {}", args.run, who.name)));
    };
    if let (Some(damaged), false) = (&records.damaged, args.force) {
        return Err(ModuleError::new(format!(
            "the prior states of run {} are damaged ({damaged}); nothing was touched. With force, the {} records before \
             that place are taken back",
            args.run,
            records.list.len()
        ))
        .with("kept", true));
    }
    let directory = root.join(&args.run);
    let plan = Plan { directory: &directory, records: &records, force: args.force, rescue: false };
    if args.state == "listed" {
        let steps = prior::restore(plan, &mut Recorder::new(&mut *system));
        return Ok(told(args, &who.name, &records, &steps));
    }
    let steps = prior::restore(plan, system);
    let mut outcome = told(args, &who.name, &records, &steps);
    let left: Vec<String> = steps
        .iter()
        .filter_map(|step| match &step.outcome {
            prior::Outcome::Left(reason) => Some(format!("{}: {reason}", step.what)),
            _ => None,
        })
        .collect();
    if left.is_empty() {
        mark(&root, &args.run, system)?;
    } else {
        outcome.failed = true;
        outcome = outcome.set("msg", format!("left as they are: {}", left.join("; ")));
    }
    Ok(outcome)
}

/// Notes beside the records that the run was taken back; not in a dry run.
fn mark(root: &std::path::Path, run: &str, system: &mut dyn System) -> Result<(), ModuleError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let note = || {
        prior::mark_rolled_back(root, run, now).map_err(|source| SystemError::Io {
            action: "write in",
            path: root.join(run),
            source,
        })
    };
    system.perform(Intent::default(), &mut || note())?;
    Ok(())
}

fn told(args: &Args, user: &str, records: &Records, steps: &[Step]) -> Outcome {
    let count = |test: fn(&prior::Outcome) -> bool| steps.iter().filter(|step| test(&step.outcome)).count();
    let left = count(|outcome| matches!(outcome, prior::Outcome::Left(_)));
    let impossible = count(|outcome| matches!(outcome, prior::Outcome::Impossible(_)));
    let restored = count(|outcome| *outcome == prior::Outcome::Restored);
    let mut outcome = Outcome::default()
        .set("kept", true)
        .set("run", args.run.as_str())
        .set("user", user)
        .set("steps", Value::list(steps.iter().map(step_value).collect()))
        .set("restored", restored)
        .set("left", left)
        .set("impossible", impossible)
        .set("complete", records.complete)
        .set("rolled_back", records.rolled_back.clone());
    if !records.complete {
        outcome.warnings.push(format!(
            "the prior states of run {} are not complete: the disk was full while it ran",
            args.run
        ));
    }
    if let Some(damaged) = &records.damaged {
        outcome.warnings.push(format!("the prior states of run {} are damaged: {damaged}", args.run));
    }
    outcome
}

fn step_value(step: &Step) -> Value {
    let (name, reason) = match &step.outcome {
        prior::Outcome::Restored => ("restored", None),
        prior::Outcome::Already => ("already", None),
        prior::Outcome::Left(reason) => ("left", Some(reason)),
        prior::Outcome::Impossible(reason) => ("impossible", Some(reason)),
    };
    let mut map = map_of([("what", step.what.as_str()), ("how", step.how.as_str()), ("outcome", name)]);
    if let Some(reason) = reason {
        map.insert("reason".into(), reason.as_str().into());
    }
    Value::map(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::args::check;
    use crate::module::registry;
    use crate::system::fake::Fake;

    #[test]
    fn a_run_that_is_not_kept_is_skipped_and_names_lead_nowhere() {
        let module = registry::find("setpoint.builtin.rollback").expect("it is registered");
        let with = |run: &str| {
            let given = map_of([("run", run)]);
            let args = check(module, &given, &|_| true).expect("they fit");
            (module.run)(args, &mut Fake::new())
        };
        let outcome = with("0.0").expect("it is only not there");
        assert!(outcome.skipped && outcome.values.get("kept") == Some(&Value::Bool(false)));
        assert!(with("../../etc").expect_err("refused").message.contains("not a name for a run"));
    }
}
