//! The reverter (`--revert RUN`): waits for the run to be confirmed, and takes it back if it is not.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::protocol::{Call, Report, Status};
use crate::system::journal::Journal;
use crate::system::local::{Local, NoDepot};
use crate::system::prior::{self, Store};
use crate::system::switch::{self, Confirmation};
use crate::value::{Value, map_of};

use super::{lock, task};

/// How long the run itself may keep the lock after it is over.
const PATIENCE: Duration = Duration::from_secs(5);

/// The reverter itself.
pub(super) fn main(run: Option<OsString>) -> ExitCode {
    let Some(run) = run.and_then(|run| run.into_string().ok()).filter(|run| prior::is_name(run)) else {
        return ExitCode::from(2);
    };
    let mut local = Local::new(Box::new(NoDepot));
    let root = prior::root(&local.home());
    match switch::wait(&root, &run) {
        Ok(true) => {}
        Ok(false) => return ExitCode::SUCCESS,
        Err(_) => return ExitCode::FAILURE,
    }
    // A runner that hangs on a connection that is cut still holds the lock. It does nothing, or the deadline
    // would have been moved on.
    let started = Instant::now();
    let operator = format!("the dead man's switch of run {run}");
    let _lock =
        lock::take(&local.home(), &format!("{run}.revert"), &operator, &mut |_| started.elapsed() < PATIENCE);
    let store = Store::open(&root, &format!("{run}.revert")).ok();
    let outcome = switch::revert(&root, &run, &mut Journal::new(&mut local).keeping(store));
    local.clear_scratch();
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Confirms a run for somebody who came over a new connection.
pub(super) fn confirm(call: &Call, local: &mut Local) -> Report {
    let run = call.args.get("run").and_then(Value::as_str).unwrap_or_default();
    let root = prior::root(&local.home());
    let result = match switch::confirm(&root, run, local) {
        Ok(Confirmation::Confirmed) => map_of([("confirmed", Value::Bool(true))]),
        Ok(Confirmation::NotArmed) => {
            map_of([("confirmed", Value::Bool(true)), ("armed", Value::Bool(false))])
        }
        Ok(Confirmation::Late(why)) => return task::failed(call.id, why),
        Err(error) => return task::failed(call.id, error),
    };
    Report { task: call.id, status: Status::Ok, result: Value::map(result), ..Report::default() }
}
