//! Collects what the runs of an audit say: what hosts have, and what a dry run of the playbooks wants.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::plays::{ASKING, OBSERVE};
use crate::event::{Event, Listener, Recorded, TaskResult, Verdict};
use crate::state::recorder::{absolute, task_ref};
use crate::state::{Login, NotedTask, now, resource};
use crate::system;
use crate::value::Value;

/// Kind and name of a resource.
pub type Key = (String, String);

/// What a host has.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// States, in the store's form.
    pub actual: HashMap<Key, Value>,
    /// Entries of directories that no run has put there, by directory.
    pub added: BTreeMap<String, Vec<String>>,
    /// What could not be told, and why.
    pub problems: HashMap<Key, String>,
    /// Who changed paths and when.
    pub hints: HashMap<String, Vec<String>>,
    /// How many resources are as they were left and are not told one by one, by number of the request.
    pub same: HashMap<i64, u64>,
    /// By how many seconds the host's clock is ahead of ours.
    pub skew: i64,
    /// It answered.
    pub answered: bool,
}

/// What the playbook wants of a resource.
#[derive(Clone, Debug)]
pub struct Want {
    /// Its state, in the store's form.
    pub state: Value,
    /// Its state before, where it would be changed.
    pub before: Option<Value>,
    /// Text that is there and text that is wanted, where they may be shown.
    pub text: Option<(String, String)>,
    /// The task that owns it.
    pub task: NotedTask,
    /// Other tasks that work on it, in order.
    pub also: Vec<NotedTask>,
    /// Absolute path of the playbook.
    pub playbook: String,
    /// Name of the play.
    pub play: String,
    /// How the host is reached.
    pub login: Arc<Login>,
    /// The task hides what it does.
    pub sealed: bool,
}

/// Everything that was collected.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// By host.
    pub looks: BTreeMap<String, Look>,
    /// By host: what the playbooks want.
    pub wants: BTreeMap<String, HashMap<Key, Want>>,
    /// Hosts that the playbooks have worked on.
    pub played: HashSet<String>,
    /// Hosts that could not be reached, and why.
    pub unreachable: BTreeMap<String, String>,
    /// By host: tasks of which the dry run could not tell what they would do, and why.
    pub failures: BTreeMap<String, Vec<String>>,
    /// Tasks that failed in the dry run, by host.
    pub failed_tasks: HashMap<String, HashSet<NotedTask>>,
    /// What the engine had to say besides.
    pub warnings: Vec<crate::diagnostic::Diagnostic>,
    directory: String,
    playbook: String,
    play: String,
}

/// Listens for an audit.
#[derive(Clone, Debug)]
pub struct Gatherer(Arc<Mutex<Gathered>>);

impl Gatherer {
    /// Nothing collected yet; tasks are named relative to `directory`.
    pub fn new(directory: &str) -> Gatherer {
        let gathered = Gathered { directory: directory.to_string(), ..Gathered::default() };
        Gatherer(Arc::new(Mutex::new(gathered)))
    }

    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was collected so far.
    pub fn take(&self) -> Gathered {
        let directory = self.lock().directory.clone();
        std::mem::replace(&mut *self.lock(), Gathered { directory, ..Gathered::default() })
    }
}

impl Listener for Gatherer {
    fn event(&mut self, event: &Event) {
        let mut all = self.lock();
        match event {
            Event::PlaybookStarted { path } => all.playbook = absolute(path),
            Event::PlayStarted { name, hosts, .. } => {
                all.play.clone_from(name);
                if all.playbook != ASKING {
                    all.played.extend(hosts.iter().map(ToString::to_string));
                }
            }
            Event::Recorded(recorded) => {
                if recorded.task.action == OBSERVE {
                    all.observed(&recorded.host, &recorded.applied);
                } else {
                    all.wanted(recorded);
                }
            }
            Event::Result(result) => all.result(result),
            Event::Diagnostic(diagnostic) => all.warnings.push(diagnostic.clone()),
            _ => {}
        }
    }
}

impl Gathered {
    /// States as a host tells them. What makes no sense is as if it had not been told.
    pub fn observed(&mut self, host: &str, applied: &[system::Applied]) {
        let look = self.looks.entry(host.to_string()).or_default();
        for one in applied {
            let (kind, state) = resource::normal(&one.kind, &one.state);
            if makes_sense(kind, &state) {
                look.actual.insert((kind.to_string(), one.id.clone()), state);
            } else {
                let why = "the host's answer makes no sense".to_string();
                look.problems.insert((kind.to_string(), one.id.clone()), why);
            }
        }
    }

    fn wanted(&mut self, recorded: &Recorded) {
        let Recorded { host, task, changes, applied, login, hidden } = recorded;
        let owner = task_ref(task, &self.directory);
        let wants = self.wants.entry(host.to_string()).or_default();
        for one in applied {
            let (kind, state) = resource::normal(&one.kind, &one.state);
            let key = (kind.to_string(), one.id.clone());
            let change =
                changes.iter().find(|change| change.id == one.id && resource::kind(&change.kind) == kind);
            let sealed = *hidden || change.is_some_and(|change| change.sensitive);
            let before = change.map(|change| resource::normal(&change.kind, &change.before).1);
            let text = change.filter(|_| !sealed).and_then(|change| change.text.clone());
            let earlier = wants.remove(&key);
            let want = match earlier {
                None => Want {
                    state,
                    before,
                    text,
                    task: owner.clone(),
                    also: Vec::new(),
                    playbook: self.playbook.clone(),
                    play: self.play.clone(),
                    login: login.clone(),
                    sealed,
                },
                Some(mut earlier) => {
                    // A handler that restarts a service does not own it where a task does.
                    let (owner, other) = if owner.handler && !earlier.task.handler {
                        (earlier.task.clone(), owner.clone())
                    } else {
                        (owner.clone(), earlier.task.clone())
                    };
                    if other != owner {
                        earlier.also.retain(|task| *task != other);
                        earlier.also.push(other);
                    }
                    Want {
                        state: resource::merge(kind, &earlier.state, state),
                        // What was there before the first of them.
                        before: earlier.before.or(before),
                        text: match (earlier.text, text) {
                            (Some((first, _)), Some((_, last))) => Some((first, last)),
                            (first, last) => first.or(last),
                        },
                        task: owner,
                        also: earlier.also,
                        playbook: self.playbook.clone(),
                        play: self.play.clone(),
                        login: login.clone(),
                        sealed: sealed || earlier.sealed,
                    }
                }
            };
            wants.insert(key, want);
        }
    }

    fn result(&mut self, result: &TaskResult) {
        let host = result.host.to_string();
        let said = || result.result.get("msg").map(Value::to_text).unwrap_or_default();
        match result.verdict {
            Verdict::Unreachable => {
                self.unreachable.insert(host, said());
            }
            Verdict::Failed => {
                let why = format!("{}: {}", result.task.title, first_line(&said()));
                self.failures.entry(host.clone()).or_default().push(why);
                let task = task_ref(&result.task, &self.directory);
                self.failed_tasks.entry(host).or_default().insert(task);
            }
            _ if result.task.action == OBSERVE => self.answered(&host, &result.result),
            _ => {}
        }
    }

    fn answered(&mut self, host: &str, result: &Value) {
        let look = self.looks.entry(host.to_string()).or_default();
        look.answered = true;
        let texts = |value: &Value| -> Vec<String> {
            value.as_list().unwrap_or_default().iter().map(Value::to_text).collect()
        };
        if let Some(added) = result.get("added").and_then(Value::as_map) {
            look.added.extend(added.iter().map(|(directory, names)| (directory.to_text(), texts(names))));
        }
        for problem in result.get("problems").and_then(Value::as_list).unwrap_or_default() {
            let words = texts(problem);
            if let [kind, id, why] = words.as_slice() {
                look.problems.insert((kind.clone(), id.clone()), why.clone());
            }
        }
        if let Some(hints) = result.get("hints").and_then(Value::as_map) {
            look.hints.extend(hints.iter().map(|(path, said)| (path.to_text(), texts(said))));
        }
        let number = |name: &str| result.get(name).and_then(Value::as_int);
        if let (Some(request), Some(same)) = (number("request"), number("same")) {
            look.same.insert(request, u64::try_from(same).unwrap_or_default());
        }
        if let Some(host_now) = result.get("now").and_then(Value::as_int) {
            look.skew = host_now - now() / 1000;
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Whether a state is one that a host may tell: digests are digests.
fn makes_sense(kind: &str, state: &Value) -> bool {
    let digest = state.get("sha256");
    match state {
        Value::Null => true,
        Value::Map(map) if kind == "file" => {
            map.len() <= 16
                && digest.is_none_or(|digest| {
                    digest.as_str().is_some_and(|text| {
                        text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
                    })
                })
        }
        Value::Map(map) => map.len() <= 64,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::map_of;

    #[test]
    fn what_a_host_says_is_not_believed_blindly() {
        let applied = |id: &str, digest: &str| system::Applied {
            kind: "file".into(),
            id: id.into(),
            state: Value::map(map_of([("sha256", digest)])),
        };
        let mut all = Gathered::default();
        all.observed(
            "web1",
            &[
                applied("/good", &"a".repeat(64)),
                applied("/bad", "the digest that you expect"),
                system::Applied { kind: "service".into(), id: "ssh".into(), state: Value::Int(5) },
            ],
        );
        let look = &all.looks["web1"];
        assert!(look.actual.contains_key(&("file".into(), "/good".into())));
        assert_eq!(look.actual.len(), 1);
        assert_eq!(look.problems.len(), 2);
    }
}
