//! What follows a run on the hosts that it has changed: they are confirmed over new connections
//! (`--confirm`), or taken back at once where they failed (`--rollback-on-failure`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::diagnostic::Diagnostic;
use crate::engine::connect::Machine;
use crate::engine::{Engine, RollbackScope};
use crate::event::{Event, TaskInfo, TaskResult, Verdict};
use crate::protocol::{Batch, CONFIRM, Call, Mode, Report, Status};
use crate::session::SessionEvent;
use crate::transport::Become;
use crate::value::{Origin, Value, map_of};

/// How long to wait before a host that did not answer is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The task that takes a run back.
const ROLLBACK: &str = "setpoint.builtin.rollback";

/// A runner that may have changed its host: a way to it, and who it is there.
type Runner = (Arc<Machine>, Option<Arc<Become>>);

/// The runners that may have changed their hosts.
#[derive(Default)]
pub(super) struct Touched {
    keys: HashSet<(u32, usize)>,
    runners: Vec<Runner>,
}

impl Engine {
    /// Remembers that a host may be changed over this way.
    pub(super) fn touch(&mut self, machine: &Arc<Machine>, identity: Option<&Arc<Become>>) {
        let key = (machine.id, identity.map_or(0, |identity| Arc::as_ptr(identity) as usize));
        if self.touched.keys.insert(key) {
            self.touched.runners.push((machine.clone(), identity.cloned()));
        }
    }

    /// Confirms the run on all hosts that it may have changed, each over a new connection. A host that can't
    /// be reached so takes the run back by itself.
    pub(super) fn confirm(&mut self) {
        let Some(seconds) = self.shared.options.confirm else { return };
        let runners = std::mem::take(&mut self.touched).runners;
        if runners.is_empty() {
            return;
        }
        if self.is_interrupted() {
            self.warn(format!(
                "the run was interrupted and is not confirmed: its hosts take it back within {seconds} s"
            ));
            return;
        }
        let machines: HashSet<u32> = runners.iter().map(|(machine, _)| machine.id).collect();
        for machine in machines {
            self.sessions.reset_connection(machine);
        }
        let args = map_of([("run", self.shared.run_id.as_str())]);
        let call = Call { module: CONFIRM.into(), args: Value::map(args), ..Call::default() };
        let deadline = Instant::now() + Duration::from_secs(seconds);
        for (machine, outcome) in self.ask(&runners, &call, Mode::Verify, Some(deadline)) {
            let why = match outcome {
                Ok(report) if report.status != Status::Failed => continue,
                Ok(report) => report.result.get("msg").map(Value::to_text).unwrap_or_default(),
                Err(error) => format!(
                    "it could not be reached over a new connection ({error}), so that it takes the run back by itself"
                ),
            };
            self.lost(&machine.host.clone(), &why);
        }
    }

    fn lost(&mut self, host: &Arc<str>, why: &str) {
        if self.unreachable.insert(host.clone()) {
            self.stats.entry(host.clone()).or_default().unreachable += 1;
        }
        let message = format!("{host}: this run was not confirmed: {why}");
        self.tell(Event::Diagnostic(Diagnostic::error(message)));
    }

    fn warn(&mut self, message: String) {
        self.tell(Event::Diagnostic(Diagnostic::warning(message)));
    }

    /// Takes back what this run did on hosts that failed, or on the whole batch of which one failed.
    pub(super) fn roll_back(&mut self, failed: &[Arc<str>], batch: &[Arc<str>]) {
        let hosts = match self.shared.options.rollback_on_failure {
            None => return,
            Some(_) if failed.is_empty() => return,
            Some(RollbackScope::Host) => failed,
            Some(RollbackScope::Batch) => batch,
        };
        if self.shared.options.check || self.is_interrupted() {
            return;
        }
        let runners: Vec<Runner> = self
            .touched
            .runners
            .iter()
            .filter(|(machine, _)| hosts.contains(&machine.host))
            .cloned()
            .collect();
        let info = Arc::new(TaskInfo {
            id: u64::MAX - self.next_batch(),
            title: "Roll back".into(),
            name: "Roll back".into(),
            role: None,
            action: ROLLBACK.into(),
            origin: Arc::new(Origin { file: "--rollback-on-failure".into(), line: 1, column: 1 }),
            handler: false,
            check: false,
            args: None,
        });
        self.tell(Event::TaskStarted { task: info.clone() });
        let args = map_of([("run", self.shared.run_id.as_str())]);
        let call = Call { module: ROLLBACK.into(), args: Value::map(args), ..Call::default() };
        for (machine, outcome) in self.ask(&runners, &call, Mode::Apply, None) {
            let (verdict, result) = match outcome {
                Ok(report) => {
                    let verdict = match report.status {
                        Status::Failed => Verdict::Failed,
                        Status::Changed => Verdict::Changed,
                        Status::Skipped => Verdict::Skipped,
                        _ => Verdict::Ok,
                    };
                    (verdict, report.result)
                }
                Err(error) => {
                    let text = format!("what this run changed stays as it is: {error}");
                    (Verdict::Unreachable, Value::map(map_of([("msg", text)])))
                }
            };
            self.tell(Event::Result(TaskResult {
                host: machine.host.clone(),
                task: info.clone(),
                delegate: None,
                verdict,
                ignored: false,
                rescued: false,
                looped: false,
                result,
                label: None,
                verbose_always: false,
                diagnostic: None,
                millis: 0,
            }));
        }
    }

    /// Gives each of these runners one task, and waits for what comes of it; until the deadline, those that
    /// can't be reached are tried again and again.
    fn ask(
        &mut self,
        runners: &[Runner],
        call: &Call,
        mode: Mode,
        deadline: Option<Instant>,
    ) -> Vec<(Arc<Machine>, Result<Report, String>)> {
        let mut out = HashMap::new();
        let mut asked: HashMap<u64, usize> = HashMap::new();
        let mut again: Vec<(Instant, usize, String)> = Vec::new();
        let mut due: Vec<usize> = (0..runners.len()).collect();
        while out.len() < runners.len() {
            for index in due.drain(..) {
                let (machine, identity) = &runners[index];
                let id = self.next_batch();
                asked.insert(id, index);
                let batch = Batch { id, mode, tasks: vec![call.clone()] };
                let blobs = self.shared.blobs.clone();
                self.sessions.submit(machine.id, &machine.target, identity.as_ref(), false, batch, blobs);
            }
            match self.events.recv_timeout(Duration::from_millis(100)) {
                Ok(SessionEvent::Ended { batch, report, .. }) => {
                    if let Some(index) = asked.remove(&batch) {
                        out.insert(index, Ok(*report));
                    }
                }
                Ok(SessionEvent::Unreachable { batches, error, .. }) => {
                    for index in batches.iter().filter_map(|batch| asked.remove(batch)) {
                        match deadline {
                            Some(_) => again.push((Instant::now() + AGAIN, index, error.to_string())),
                            None => {
                                out.insert(index, Err(error.to_string()));
                            }
                        }
                    }
                }
                _ => {}
            }
            let over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if over || self.interrupted() {
                for (_, index, error) in again.drain(..) {
                    out.insert(index, Err(error));
                }
                for (_, index) in asked.drain() {
                    out.entry(index).or_insert_with(|| Err("it did not answer".into()));
                }
            }
            let now = Instant::now();
            let (ready, later): (Vec<_>, Vec<_>) = again.into_iter().partition(|(at, ..)| *at <= now);
            due.extend(ready.into_iter().map(|(_, index, _)| index));
            again = later;
        }
        let mut out: Vec<_> = out.into_iter().collect();
        out.sort_by_key(|(index, _)| *index);
        out.into_iter().map(|(index, outcome)| (runners[index].0.clone(), outcome)).collect()
    }
}
