//! One task: checked arguments, the module, and what it returned as a report.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::module::{Module, ModuleError, Outcome, args, observe, registry};
use crate::protocol::{Call, Report, Status};
use crate::system::change::PATH_CONTENT;
use crate::system::journal::Journal;
use crate::system::local::Local;
use crate::system::overlay::Overlay;
use crate::system::prior::Store;
use crate::system::recorder::Recorder;
use crate::system::{Applied, Change, System, process_umask};
use crate::value::{Map, Value, map_of};

/// How a task is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Changes are made.
    Real,
    /// Changes are recorded; tasks of the same batch or session see them.
    Dry,
    /// Changes are recorded; nobody else sees them.
    Alone,
}

thread_local! {
    /// What the last panic of this thread said.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps what panics say for the report instead of printing it.
pub(super) fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANIC.with(|cell| {
            if let Ok(mut cell) = cell.try_borrow_mut() {
                *cell = Some(info.to_string().replace('\n', ": "));
            }
        });
    }));
}

/// What is carried from task to task.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// What earlier tasks have recorded.
    pub(super) overlay: Option<Overlay>,
    /// Where prior states are kept.
    pub(super) store: Option<Store>,
    /// What the next report has to tell besides.
    pub(super) warning: Option<String>,
}

/// Does a task.
pub(super) fn run(call: &Call, kind: Kind, local: &mut Local, carried: &mut Carried) -> Report {
    let overlay = &mut carried.overlay;
    // What a dry run has only recorded is not there for an audit that asks what is.
    let looks = call.module == observe::MODULE.name && kind == Kind::Dry;
    let kind = if looks { Kind::Alone } else { kind };
    match kind {
        Kind::Real => {
            let mut journal = Journal::new(&mut *local).with_diff(call.diff).keeping(carried.store.take());
            let mut outcome = run_module(call, &mut journal);
            if let (Ok(outcome), Some(warning)) = (&mut outcome, carried.warning.take()) {
                outcome.warnings.push(warning);
            }
            let (changes, applied) = journal.take();
            carried.store = journal.take_store();
            report(call, outcome, changes, applied, false)
        }
        Kind::Dry | Kind::Alone => {
            let earlier = if kind == Kind::Dry { overlay.take() } else { None };
            let earlier = earlier.unwrap_or_else(|| Overlay::new(process_umask(), None));
            let mut recorder = Recorder::resume(&mut *local, earlier).with_diff(call.diff);
            let mut outcome = run_module(call, &mut recorder);
            outcome = unless_uncertain(outcome, recorder.uncertain());
            match (&mut outcome, recorder.take_caveats()) {
                (_, caveats) if caveats.is_empty() => {}
                (Ok(outcome), caveats) => outcome.warnings.extend(caveats),
                (Err(error), caveats) => {
                    error.values.insert("warnings".into(), caveats.into());
                }
            }
            let (changes, applied) = recorder.take();
            let later = recorder.into_overlay();
            if kind == Kind::Dry {
                *overlay = Some(later);
            }
            report(call, outcome, changes, applied, true)
        }
    }
}

/// What a module ended with, unless that is a failure and there is a reason why it may not be one in the real run.
fn unless_uncertain(
    outcome: Result<Outcome, ModuleError>,
    reason: Option<String>,
) -> Result<Outcome, ModuleError> {
    let Some(why) = reason else { return outcome };
    match outcome {
        Err(error) => Ok(uncertain(error, &why)),
        Ok(outcome) if outcome.failed => Ok(uncertain(failure(outcome), &why)),
        Ok(outcome) => Ok(outcome),
    }
}

/// A failure that an earlier, only recorded command may be the reason of.
fn uncertain(error: ModuleError, why: &str) -> Outcome {
    let mut outcome = Outcome::with(error.values);
    // An exit status would be read as a failure.
    outcome.values.shift_remove("rc");
    outcome.changed = Some(true);
    outcome.warnings.push(format!("uncertain in a dry run, because {why}: {}", error.message));
    outcome.set("msg", format!("would probably change: {}", error.message)).set("uncertain", true)
}

/// A failure that a module told with return values instead of an error.
fn failure(outcome: Outcome) -> ModuleError {
    let message = outcome.values.get("msg").map(Value::to_text).unwrap_or_default();
    ModuleError { message, values: outcome.values }
}

fn run_module(call: &Call, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let Some(module) = registry::find(&call.module) else {
        return Err(ModuleError::new(format!("there is no module `{}`", call.module)));
    };
    let empty = Map::new();
    let given = match &call.args {
        Value::Map(map) => map.as_ref(),
        _ => &empty,
    };
    let checked = args::check(module, given, &|_| true).map_err(|errors| {
        let messages: Vec<String> = errors
            .into_iter()
            .map(|error| match error.hint {
                Some(hint) => format!("{} ({hint})", error.message),
                None => error.message,
            })
            .collect();
        ModuleError::new(messages.join("; "))
    })?;
    guarded(module, checked, system)
}

fn guarded(module: &Module, args: Value, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    catch_unwind(AssertUnwindSafe(|| (module.run)(args, system))).unwrap_or_else(|_| Err(panicked(module)))
}

fn panicked(module: &Module) -> ModuleError {
    let said = PANIC.with(|cell| cell.borrow_mut().take()).unwrap_or_default();
    ModuleError::new(format!("module `{}` stopped on a bug of its own: {said}", module.name))
}

/// What the controller gets.
fn report(
    call: &Call,
    outcome: Result<Outcome, ModuleError>,
    changes: Vec<Change>,
    applied: Vec<Applied>,
    dry: bool,
) -> Report {
    let mut subject = None;
    let (mut values, failed, changed, skipped) = match outcome {
        Ok(mut outcome) => {
            subject = outcome.subject.take();
            let changed = outcome.changed.unwrap_or(!changes.is_empty());
            let mut values = outcome.values;
            if !outcome.warnings.is_empty() {
                values.insert("warnings".into(), outcome.warnings.into());
            }
            if let Some(facts) = outcome.facts {
                values.insert("ansible_facts".into(), Value::map(facts));
            }
            (values, outcome.failed, changed, outcome.skipped)
        }
        Err(error) => {
            let mut values = error.values;
            values.insert("msg".into(), error.message.into());
            // What it did before it failed is recorded all the same.
            (values, true, false, false)
        }
    };
    values.insert("changed".into(), changed.into());
    if failed {
        values.insert("failed".into(), true.into());
    }
    if skipped {
        values.insert("skipped".into(), true.into());
    }
    let diff = match subject {
        _ if !call.diff => None,
        Some(path) => Some(diff_about(&path, &changes)),
        None => diff(&changes),
    };
    values.extend(diff.map(|diff| ("diff".into(), diff)));
    let status = match (failed, skipped, changed) {
        (true, _, _) => Status::Failed,
        (_, true, _) => Status::Skipped,
        // Also when the task does not call it a change (a daemon-reload, lists of packages that were fetched):
        // it is something that only a real run does.
        (_, _, changed) if dry && (changed || !changes.is_empty()) => Status::WouldChange,
        (_, _, true) => Status::Changed,
        _ => Status::Ok,
    };
    Report { task: call.id, status, result: Value::map(values), changes, applied, micros: 0 }
}

/// Changes as users of `--diff` know them: one mapping, or a list of them.
fn diff(changes: &[Change]) -> Option<Value> {
    let mut parts: Vec<Value> = changes.iter().filter(|change| !change.sensitive).flat_map(diff_of).collect();
    match parts.len() {
        0 => None,
        1 => parts.pop(),
        _ => Some(Value::list(parts)),
    }
}

/// The changes of a task that is about one path: a mapping of the path, and what else changed after it.
fn diff_about(path: &str, changes: &[Change]) -> Value {
    let about = |change: &&Change| change.id == path;
    let own = changes.iter().find(about).filter(|change| !change.sensitive);
    let first = own.and_then(|change| diff_of(&Change { text: None, ..change.clone() }).pop());
    let nothing = || Value::map(map_of([("path", path)]));
    let first = first.unwrap_or_else(|| Value::map(map_of([("before", nothing()), ("after", nothing())])));
    let mut others: Vec<Value> =
        changes.iter().filter(|change| !about(change) && !change.sensitive).flat_map(diff_of).collect();
    match (own, others.len()) {
        (_, 0) => first,
        // What the path leads to was meant.
        (None, 1) => others.pop().unwrap_or(first),
        _ => Value::list([vec![first], others].concat()),
    }
}

/// Where a link leads is its `src` to users.
fn shown_key(change: &Change, key: &Value) -> Value {
    if change.kind == "link" && key.as_str() == Some("target") { Value::str("src") } else { key.clone() }
}

fn diff_of(change: &Change) -> Vec<Value> {
    let mut parts = Vec::new();
    let id = Value::str(change.id.as_str());
    if let Some((before, after)) = &change.text {
        parts.push(Value::map(map_of([
            ("before_header", id.clone()),
            ("after_header", id.clone()),
            ("before", before.as_str().into()),
            ("after", after.as_str().into()),
        ])));
    }
    let (before, after) = (&change.before, &change.after);
    match (before.as_map(), after.as_map()) {
        (Some(old), Some(new)) => {
            // What the text shows, digest and size need not say again.
            let told = |key: &Value| {
                change.text.is_some() && ["sha256", "size"].iter().any(|name| key.as_str() == Some(name))
            };
            let pick = |from: &Map, other: &Map| {
                let mut map = map_of([("path", id.clone())]);
                map.extend(
                    from.iter()
                        .filter(|(key, value)| other.get(*key) != Some(*value) && !told(key))
                        .map(|(key, value)| (shown_key(change, key), value.clone())),
                );
                map
            };
            let (left, right) = (pick(old, new), pick(new, old));
            if left.len() > 1 || right.len() > 1 {
                parts.push(Value::map(map_of([("before", Value::map(left)), ("after", Value::map(right))])));
            }
        }
        _ if change.text.is_some() || (before.is_null() && after.is_null()) => {}
        _ => {
            let side = |value: &Value| {
                let state =
                    if value.is_null() { Value::str("absent") } else { Value::str(change.kind.as_str()) };
                let mut map = map_of([("path", id.clone()), ("state", state)]);
                if let Some(content) = value.get(PATH_CONTENT) {
                    map.insert(PATH_CONTENT.into(), content.clone());
                }
                Value::map(map)
            };
            parts.push(Value::map(map_of([("before", side(before)), ("after", side(after))])));
        }
    }
    parts
}

/// The report of a task whose time is over.
pub(super) fn timed_out(task: u32, limit: u64, took: Duration) -> Report {
    let result = map_of([
        ("failed", Value::Bool(true)),
        ("changed", Value::Bool(false)),
        ("msg", format!("Timed out after {limit} second(s).").into()),
        ("timedout", Value::map(map_of([("period", limit)]))),
    ]);
    Report {
        task,
        status: Status::Failed,
        result: Value::map(result),
        micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        ..Report::default()
    }
}

/// The report of a task whose result does not fit into a message.
pub(super) fn too_large(task: u32, size: u64) -> Report {
    failed(task, format!("the result has {} MiB, which is more than can be sent", size >> 20))
}

/// The report of a task that failed before it began.
pub(super) fn failed(task: u32, message: impl Into<String>) -> Report {
    let result = map_of([
        ("failed", Value::Bool(true)),
        ("changed", Value::Bool(false)),
        ("msg", message.into().into()),
    ]);
    Report { task, status: Status::Failed, result: Value::map(result), ..Report::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fake::Fake;

    #[test]
    fn a_module_that_panics_is_a_failed_task() {
        let module = Module { name: "a.b.c", run: |_, _| panic!("oh no"), ..Module::DEFAULT };
        let error = guarded(&module, Value::Null, &mut Fake::new()).expect_err("it panics");
        assert!(error.message.starts_with("module `a.b.c` stopped on a bug of its own"), "{error}");
    }

    #[test]
    fn diffs_have_the_shape_that_users_know() {
        let file = |mode: &str, sha256: &str| Value::map(map_of([("mode", mode), ("sha256", sha256)]));
        let text = || Some(("a\n".to_string(), "b\n".to_string()));
        let change = |before: Value, after: Value, text: Option<(String, String)>| Change {
            kind: "file".into(),
            id: "/f".into(),
            before,
            after,
            text,
            sensitive: false,
        };
        let header = "'before_header': '/f', 'after_header': '/f', 'before': 'a\\n', 'after': 'b\\n'";
        let cases = [
            (change(file("1", "x"), file("1", "y"), text()), format!("{{{header}}}")),
            (
                change(file("1", "x"), file("2", "y"), text()),
                format!(
                    "[{{{header}}}, {{'before': {{'path': '/f', 'mode': '1'}}, 'after': {{'path': '/f', 'mode': '2'}}}}]"
                ),
            ),
            (
                change(Value::Null, file("1", "x"), None),
                "{'before': {'path': '/f', 'state': 'absent'}, 'after': {'path': '/f', 'state': 'file'}}"
                    .into(),
            ),
            (change(Value::Null, Value::Null, None), "None".into()),
            (Change { sensitive: true, ..change(Value::Null, file("1", "x"), text()) }, "None".into()),
        ];
        let moded = change(file("1", "x"), file("2", "x"), None);
        for (changes, expected) in [
            (vec![], "{'before': {'path': '/f'}, 'after': {'path': '/f'}}"),
            (
                vec![moded.clone()],
                "{'before': {'path': '/f', 'mode': '1'}, 'after': {'path': '/f', 'mode': '2'}}",
            ),
            (
                vec![Change { id: "/".into(), ..change(Value::Null, file("1", "x"), None) }],
                "{'before': {'path': '/', 'state': 'absent'}, 'after': {'path': '/', 'state': 'file'}}",
            ),
            (
                vec![Change { id: "/".into(), ..change(Value::Null, file("1", "x"), None) }, moded],
                "[{'before': {'path': '/f', 'mode': '1'}, 'after': {'path': '/f', 'mode': '2'}}, {'before': {'path': '/', 'state': 'absent'}, 'after': {'path': '/', 'state': 'file'}}]",
            ),
            (
                vec![change(file("1", "x"), Value::Null, text())],
                "{'before': {'path': '/f', 'state': 'file'}, 'after': {'path': '/f', 'state': 'absent'}}",
            ),
        ] {
            assert_eq!(diff_about("/f", &changes).repr(), expected);
        }
        for (change, expected) in cases {
            assert_eq!(diff(&[change]).unwrap_or_default().repr(), expected);
        }
    }
}
