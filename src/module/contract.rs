//! What every module promises, as a test: a dry run leaves the machine as it is and knows what the real
//! run is going to do; what was done once needs no doing again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::module::{Module, Outcome, args};
use crate::system::digest::of_bytes;
use crate::system::journal::Journal;
use crate::system::local::{Depot, Local};
use crate::system::recorder::Recorder;
use crate::system::{Algorithm, BlobRef, Change, System};
use crate::value::Value;

/// How a real run ended.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Whether it changed something.
    pub(crate) changed: bool,
    /// The message, if it failed.
    pub(crate) error: Option<String>,
    /// What it returned.
    pub(crate) outcome: Outcome,
    /// What is below the directory afterwards, in the form of [`contract`]'s `start`.
    pub(crate) tree: Vec<String>,
}

impl Verdict {
    /// A return value as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.outcome.values.get(name).map(Value::to_text).unwrap_or_default()
    }
}

/// The content that a controller would hold.
#[derive(Clone, Default)]
struct Contents(BTreeMap<String, Vec<u8>>);

impl Depot for Contents {
    fn fetch(&mut self, blob: &BlobRef, sink: &mut dyn Write) -> io::Result<()> {
        sink.write_all(self.0.get(&blob.sha256).ok_or_else(|| io::Error::other("no such content"))?)
    }

    fn send(&mut self, _name: &str, content: &mut dyn Read) -> io::Result<()> {
        io::copy(content, &mut io::sink()).map(|_| ())
    }
}

/// Checks the promises from one starting state. Lines of `start` are `d path mode`, `f path mode content`
/// and `l path target`, relative to a fresh directory, which `@` stands for in the arguments (JSON).
/// `blob:text` in them stands for content that the controller holds.
pub(crate) fn contract(module: &Module, start: &[&str], arguments: &str) -> Verdict {
    run_contract(module, start, arguments, true)
}

/// The same for a task that changes something each time, as its documentation says.
pub(crate) fn contract_once(module: &Module, start: &[&str], arguments: &str) -> Verdict {
    run_contract(module, start, arguments, false)
}

fn run_contract(module: &Module, start: &[&str], arguments: &str, idempotent: bool) -> Verdict {
    let place = tempfile::tempdir().expect("a temporary directory");
    let root = fs::canonicalize(place.path()).expect("it is there");
    for line in start {
        make(&root, line);
    }
    let mut contents = Contents::default();
    let text = arguments.replace('@', &root.to_string_lossy());
    let parsed: Value = serde_json::from_str(&text).expect("arguments are JSON");
    let given = with_blobs(&parsed, &mut contents);
    let what = format!("{} {arguments} from {start:?}", module.name);

    let mut local = Local::new(Box::new(contents));
    let before = tree(&root, true);
    let mut recorder = Recorder::new(&mut local).with_diff(true);
    let dry = call(module, &given, &mut recorder);
    let predicted = recorder.take().0;
    drop(recorder);
    assert_eq!(tree(&root, true), before, "a dry run changed something: {what}");

    let mut journal = Journal::new(&mut local).with_diff(true);
    let real = call(module, &given, &mut journal);
    let made = journal.take().0;
    drop(journal);
    let changed = has_changed(&real, &made);
    let error = real.as_ref().err().cloned();
    assert_eq!(dry.as_ref().err(), error.as_ref(), "a dry run ended otherwise: {what}");
    assert_eq!(
        has_changed(&dry, &predicted),
        changed,
        "a dry run said otherwise: {what}\n{predicted:#?}\n{made:#?}"
    );
    let ids = |changes: &[Change]| changes.iter().map(|change| change.id.clone()).collect::<Vec<_>>();
    if idempotent && !ids(&made).iter().any(|id| id.ends_with('~')) {
        assert_eq!(ids(&predicted), ids(&made), "a dry run named other things: {what}");
    }
    let after = tree(&root, false);

    if idempotent && error.is_none() {
        let mut journal = Journal::new(&mut local).with_diff(true);
        let again = call(module, &given, &mut journal);
        let made = journal.take().0;
        assert!(!has_changed(&again, &made), "a second run changed something: {what}\n{made:#?}");
        assert_eq!(again.err(), None, "a second run failed: {what}");
        drop(journal);
        assert_eq!(tree(&root, false), after, "a second run left something else: {what}");
    }
    let hide = root.to_string_lossy().into_owned();
    Verdict {
        changed,
        error: error.map(|error| error.replace(&hide, "@")),
        outcome: real.unwrap_or_default(),
        tree: after,
    }
}

/// Checks the arguments and runs the module.
pub(crate) fn call(module: &Module, given: &Value, system: &mut dyn System) -> Result<Outcome, String> {
    let map = given.as_map().expect("a mapping");
    let typed = args::check(module, map, &|_| true)
        .map_err(|errors| errors.into_iter().map(|error| error.message).collect::<Vec<_>>().join("; "))?;
    (module.run)(typed, system).map_err(|error| error.message)
}

fn has_changed(outcome: &Result<Outcome, String>, changes: &[Change]) -> bool {
    outcome.as_ref().ok().and_then(|outcome| outcome.changed).unwrap_or(!changes.is_empty())
}

fn with_blobs(value: &Value, contents: &mut Contents) -> Value {
    match value {
        Value::Str(text) => match text.text.strip_prefix("blob:") {
            Some(content) => {
                let sha256 = of_bytes(Algorithm::Sha256, content.as_bytes());
                contents.0.insert(sha256.clone(), content.as_bytes().to_vec());
                let entries = [("sha256", Value::from(sha256)), ("size", content.len().into())];
                crate::value::map_of(entries).into()
            }
            None => value.clone(),
        },
        Value::List(items) => Value::list(items.iter().map(|item| with_blobs(item, contents)).collect()),
        Value::Map(map) => {
            let mut out = crate::value::Map::new();
            for (key, inner) in map.iter() {
                let inner = with_blobs(inner, contents);
                // In a tree's entry, the content's name and size stand beside its path.
                match (key.as_str(), inner.as_map()) {
                    (Some("_content"), Some(blob)) => out.extend(blob.clone()),
                    _ => {
                        out.insert(key.clone(), inner);
                    }
                }
            }
            Value::map(out)
        }
        other => other.clone(),
    }
}

fn make(root: &Path, line: &str) {
    let mut words = line.splitn(4, ' ');
    let mut word = || words.next().unwrap_or_default();
    let (kind, path, third, rest) = (word(), word(), word(), word());
    let path = root.join(path);
    let mode = || u32::from_str_radix(third, 8).expect("an octal mode");
    match kind {
        "d" => {
            fs::create_dir_all(&path).expect("made");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode())).expect("set");
        }
        "f" => {
            fs::write(&path, rest).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode())).expect("set");
        }
        "l" => symlink(third.replace('@', &root.to_string_lossy()), &path).expect("linked"),
        other => panic!("unknown kind {other}"),
    }
}

/// What is below a directory, one line each, sorted; with times and inodes if nothing at all may change.
pub(crate) fn tree(root: &Path, exact: bool) -> Vec<String> {
    let mut out = Vec::new();
    walk(root, root, exact, &mut out);
    out
}

fn walk(root: &Path, directory: &Path, exact: bool, out: &mut Vec<String>) {
    let mut entries: Vec<_> =
        fs::read_dir(directory).expect("readable").map(|entry| entry.expect("readable").path()).collect();
    entries.sort();
    for path in entries {
        let stat = fs::symlink_metadata(&path).expect("there");
        let name = path.strip_prefix(root).expect("below").display().to_string();
        let mode = stat.mode() & 0o7777;
        let mut line = if stat.is_symlink() {
            let target = fs::read_link(&path).expect("a link").display().to_string();
            format!("l {name} {}", target.replace(&*root.to_string_lossy(), "@"))
        } else if stat.is_dir() {
            format!("d {name} {mode:o}")
        } else {
            let content = fs::read(&path).expect("readable");
            format!("f {name} {mode:o} {}", String::from_utf8_lossy(&content))
        };
        if exact {
            let owner = (stat.uid(), stat.gid(), stat.ino());
            line += &format!(" {owner:?} {} {}", stat.mtime(), stat.mtime_nsec());
        }
        out.push(line);
        if stat.is_dir() {
            walk(root, &path, exact, out);
        }
    }
}
