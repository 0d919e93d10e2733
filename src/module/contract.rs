//! What every module promises, as a test: a dry run leaves the machine as it is and knows what the real
//! run is going to do; what was done once needs no doing again; a run that was cut off is made good by the
//! next; what was done can be taken back.
//!
//! [`contract`] checks it on this machine below a fresh directory, [`on_fake`] on a machine in memory.
//! [`proofs`] tells from the sources where each module is checked; the page of the architecture shows it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::module::{Module, Outcome, Scope, args, registry};
use crate::system::digest::of_bytes;
use crate::system::fake::Fake;
use crate::system::faulty::{Fault, Faulty};
use crate::system::journal::Journal;
use crate::system::local::{Depot, Local};
use crate::system::prior::{self, Plan, Prior, Store};
use crate::system::recorder::Recorder;
use crate::system::{Algorithm, BlobRef, Change, FileKind, System};
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
    // A copy that is kept has the time in its name: each run makes another.
    let repeatable = idempotent && error.is_none() && !made.iter().any(|change| change.id.ends_with('~'));
    if repeatable && changed && module.scope == Scope::Host && (1..=FEW).contains(&made.len()) {
        cut_off(module, start, arguments, &after, &what);
        taken_back(module, start, arguments, &what);
    }
    let hide = root.to_string_lossy().into_owned();
    Verdict {
        changed,
        error: error.map(|error| error.replace(&hide, "@")),
        outcome: real.unwrap_or_default(),
        tree: after,
    }
}

/// A fresh directory in the starting state, the arguments for it, and a way to it.
fn prepare(start: &[&str], arguments: &str) -> (tempfile::TempDir, std::path::PathBuf, Value, Local) {
    let place = tempfile::tempdir().expect("a temporary directory");
    let root = fs::canonicalize(place.path()).expect("it is there");
    for line in start {
        make(&root, line);
    }
    let mut contents = Contents::default();
    let text = arguments.replace('@', &root.to_string_lossy());
    let parsed: Value = serde_json::from_str(&text).expect("arguments are JSON");
    let given = with_blobs(&parsed, &mut contents);
    (place, root, given, Local::new(Box::new(contents)))
}

/// Up to how many changes a run is tried out going wrong: a tree of a thousand files would take its time.
const FEW: usize = 50;

/// The names, kinds and modes of a tree: what is left of it when content holds salts, keys or times.
fn outline(tree: &[String]) -> Vec<String> {
    tree.iter().map(|line| line.splitn(4, ' ').take(3).collect::<Vec<_>>().join(" ")).collect()
}

/// A run that goes wrong at any of its changes, and then is repeated, ends as if nothing had happened.
fn cut_off(module: &Module, start: &[&str], arguments: &str, end: &[String], what: &str) {
    for at in 0.. {
        let mut tried = 0;
        for fault in [Fault::CutBefore, Fault::CutAfter, Fault::Refuse(libc::ENOSPC)] {
            let (_place, root, given, mut local) = prepare(start, arguments);
            let mut faulty = Faulty::new(&mut local, at, fault);
            let run = std::panic::AssertUnwindSafe(|| {
                let mut journal = Journal::new(&mut faulty);
                call(module, &given, &mut journal)
            });
            let first = std::panic::catch_unwind(run);
            tried = faulty.calls();
            if tried <= at {
                return;
            }
            if let (Fault::Refuse(_), Ok(Ok(outcome))) = (fault, &first) {
                assert!(outcome.failed, "a full disk was passed over: {what}, change {at}");
            }
            let repeated = call(module, &given, &mut Journal::new(&mut local));
            assert_eq!(repeated.err(), None, "a repeated run failed: {what}, {fault:?} at {at}");
            let left = tree(&root, false);
            assert_eq!(
                outline(&left),
                outline(end),
                "a repeated run left something else: {what}, {fault:?} at {at}"
            );
            let mut journal = Journal::new(&mut local);
            let third = call(module, &given, &mut journal);
            let made = journal.take().0;
            assert!(!has_changed(&third, &made), "a repeated run did not finish: {what}, {fault:?} at {at}");
        }
        assert!(tried > at);
    }
}

/// A file below the directory has more than one name.
fn has_several_names(directory: &Path) -> bool {
    fs::read_dir(directory).expect("readable").flatten().any(|entry| {
        let found = entry.metadata().expect("readable");
        if found.is_dir() { has_several_names(&entry.path()) } else { found.nlink() > 1 }
    })
}

/// Taken back, everything is as it was before.
fn taken_back(module: &Module, start: &[&str], arguments: &str, what: &str) {
    let (_place, root, given, mut local) = prepare(start, arguments);
    let before = tree(&root, false);
    let keep = tempfile::tempdir().expect("a temporary directory");
    let kept = keep.path().join("kept");
    let store = Store::open(&kept, "run").expect("a store").watching(&[], None);
    let mut journal = Journal::new(&mut local).keeping(Some(store));
    call(module, &given, &mut journal).expect("it worked before");
    drop(journal);
    // Of a file with several names only the one that was changed is put back.
    if has_several_names(&root) {
        return;
    }
    let records = prior::records(&kept, "run").expect("readable").expect("there");
    if records.list.iter().any(|record| matches!(record, Prior::Command { undo: None, .. })) {
        return;
    }
    let plan = Plan { directory: &kept.join("run"), records: &records, force: false, rescue: false };
    let restored = prior::restore(plan, &mut local);
    let left: Vec<_> = restored
        .iter()
        .filter(|one| matches!(one.outcome, prior::Outcome::Left(_) | prior::Outcome::Impossible(_)))
        .collect();
    assert!(left.is_empty(), "something was not restored: {what}: {left:?}");
    assert_eq!(tree(&root, false), before, "a rollback left something else: {what}");
}

/// How a run on a [`Fake`] ended.
pub(crate) struct FakeVerdict {
    /// The commands of the real run, as [`Fake::log`] shows them.
    pub(crate) log: Vec<String>,
    /// Whether it changed something.
    pub(crate) changed: bool,
    /// The message, if it failed.
    pub(crate) error: Option<String>,
    /// What it returned.
    pub(crate) outcome: Outcome,
    /// The machine afterwards.
    pub(crate) machine: Fake,
    /// Every change could be taken back, and was.
    pub(crate) rolled_back: bool,
}

impl FakeVerdict {
    /// The commands that acted.
    pub(crate) fn acted(&self) -> Vec<&str> {
        self.log.iter().filter_map(|line| line.strip_prefix("! ")).collect()
    }

    /// A return value as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.outcome.values.get(name).map(Value::to_text).unwrap_or_default()
    }
}

/// Checks the promises on a machine in memory: a dry run runs nothing that acts and names what the real run
/// is going to change, a second run changes nothing, a run that was cut off at any change converges, and
/// what can be taken back is back as it was. `machine` makes the machine afresh.
pub(crate) fn on_fake(module: &Module, machine: impl Fn() -> Fake, arguments: &str) -> FakeVerdict {
    let given: Value = serde_json::from_str(arguments).expect("arguments are JSON");
    let what = format!("{} {arguments}", module.name);
    let mut fake = machine();
    let start = dump(&mut fake);
    let mut recorder = Recorder::new(&mut fake).with_diff(true);
    let dry = call(module, &given, &mut recorder);
    let predicted = recorder.take().0;
    drop(recorder);
    assert_eq!(dump(&mut fake), start, "a dry run changed something: {what}");
    let acted: Vec<&String> = fake.log().iter().filter(|line| line.starts_with("! ")).collect();
    assert!(acted.is_empty(), "a dry run acted: {what}: {acted:?}");

    let mut fake = machine();
    let mut journal = Journal::new(&mut fake).with_diff(true);
    let real = call(module, &given, &mut journal);
    let made = journal.take().0;
    drop(journal);
    let changed = has_changed(&real, &made);
    let error = real.as_ref().err().cloned();
    let log = fake.log().to_vec();
    if error.is_none() {
        assert_eq!(dry.as_ref().err(), None, "a dry run failed: {what}");
        assert_eq!(has_changed(&dry, &predicted), changed, "a dry run said otherwise: {what}");
        let ids = |changes: &[Change]| changes.iter().map(|change| change.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&predicted), ids(&made), "a dry run named other things: {what}");
    }
    let end = dump(&mut fake);
    let mut rolled_back = false;
    if error.is_none() {
        again(module, &given, &mut fake, &end, &what);
        interrupted(module, &given, &machine, &end, &what);
        rolled_back = roll_back(module, &given, machine(), &start, &what);
    }
    FakeVerdict { log, changed, error, outcome: real.unwrap_or_default(), machine: fake, rolled_back }
}

/// A second run changes nothing.
fn again(module: &Module, given: &Value, fake: &mut Fake, end: &[String], what: &str) {
    let mut journal = Journal::new(&mut *fake);
    let again = call(module, given, &mut journal);
    let made = journal.take().0;
    drop(journal);
    assert_eq!(again.as_ref().err(), None, "a second run failed: {what}");
    assert!(!has_changed(&again, &made), "a second run changed something: {what}\n{made:#?}");
    assert_eq!(dump(fake), end, "a second run left something else: {what}");
}

/// A run that is cut off before or after any of its changes, and then repeated, ends as if nothing happened.
fn interrupted(module: &Module, given: &Value, machine: &dyn Fn() -> Fake, end: &[String], what: &str) {
    for at in 0..100 {
        let mut went_wrong = false;
        for fault in [Fault::CutBefore, Fault::CutAfter] {
            let mut fake = machine();
            let mut faulty = Faulty::new(&mut fake, at, fault);
            let run = std::panic::AssertUnwindSafe(|| call(module, given, &mut faulty));
            went_wrong = std::panic::catch_unwind(run).is_err();
            if went_wrong {
                let repeated = call(module, given, &mut fake);
                assert_eq!(repeated.err(), None, "a repeated run failed: {what}, {fault:?} change {at}");
                assert_eq!(
                    dump(&mut fake),
                    end,
                    "a repeated run left something else: {what}, {fault:?} {at}"
                );
            }
        }
        if !went_wrong {
            return;
        }
    }
    panic!("it never ends: {what}");
}

/// Takes a run back; false if it did something that can't be.
fn roll_back(module: &Module, given: &Value, mut fake: Fake, start: &[String], what: &str) -> bool {
    let place = tempfile::tempdir().expect("a temporary directory");
    let kept = place.path().join("kept");
    let store = Store::open(&kept, "run").expect("a store").watching(&[], None);
    let mut journal = Journal::new(&mut fake).keeping(Some(store));
    call(module, given, &mut journal).expect("it worked before");
    drop(journal);
    let records = prior::records(&kept, "run").expect("readable").expect("there");
    if records.list.iter().any(|record| matches!(record, Prior::Command { undo: None, .. })) {
        return false;
    }
    for entry in fs::read_dir(kept.join("run")).expect("readable") {
        let path = entry.expect("readable").path();
        fake.put(&path.to_string_lossy(), fs::read(&path).expect("readable"));
    }
    let plan = Plan { directory: &kept.join("run"), records: &records, force: false, rescue: false };
    let restored = prior::restore(plan, &mut fake);
    let left: Vec<_> = restored
        .iter()
        .filter(|one| matches!(one.outcome, prior::Outcome::Left(_) | prior::Outcome::Impossible(_)))
        .collect();
    assert!(left.is_empty(), "something was not restored: {what}: {left:?}");
    fake.delete(&place.path().to_string_lossy());
    assert_eq!(dump(&mut fake), start, "a rollback left something else: {what}");
    true
}

/// Everything on a machine in memory, one line each.
fn dump(fake: &mut Fake) -> Vec<String> {
    let mut out = Vec::new();
    let mut todo = vec![std::path::PathBuf::from("/")];
    while let Some(directory) = todo.pop() {
        for name in fake.list(&directory).expect("a directory") {
            let path = directory.join(name);
            if path == Path::new("/tmp/scratch") {
                continue;
            }
            let stat = fake.stat(&path).expect("readable").expect("it is there");
            let content = match stat.kind {
                FileKind::Directory => {
                    todo.push(path.clone());
                    String::new()
                }
                FileKind::Link => fake.read_link(&path).expect("a link").to_string_lossy().into_owned(),
                _ => fake.text(&path.to_string_lossy()).unwrap_or_default(),
            };
            out.push(format!("{} {:o} {} {} {content}", path.display(), stat.mode, stat.uid, stat.gid));
        }
    }
    out.sort();
    out
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

/// A small web server of this process, on a port of its own.
pub(crate) struct Server {
    port: u16,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Serves `/text` (`hello`), `/echo` (the request itself), `/json`, `/redirect`, `/chunked`, `/named`,
    /// `/not-modified`, `/short` (breaks off), `/auth` (asks for `me` and `secret`), `/gzip`, `/sums`; and
    /// 404 for the rest.
    pub(crate) fn start() -> Server {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(std::sync::atomic::Ordering::SeqCst) {
                    return;
                }
                let _ = stream.and_then(|stream| answer(stream, port));
            }
        });
        Server { port, stop, thread: Some(thread) }
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        let _ = std::net::TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn answer(mut stream: std::net::TcpStream, port: u16) -> io::Result<()> {
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    let head_end = loop {
        let count = stream.read(&mut buffer)?;
        request.extend_from_slice(&buffer[..count]);
        if let Some(at) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if count == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&request[..head_end]).into_owned();
    let length: usize = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:").map(str::trim).map(str::to_string)
        })
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    while request.len() < head_end + length {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        request.extend_from_slice(&buffer[..count]);
    }
    let path = head.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
    let full = |status: &str, headers: &str, body: &[u8]| {
        let mut out =
            format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
        if !head.starts_with("HEAD ") {
            out.extend_from_slice(body);
        }
        out
    };
    let response = match path {
        "/text" => full("200 OK", "Content-Type: text/plain\r\n", b"hello"),
        "/echo" => full("200 OK", "Content-Type: text/plain; charset=utf-8\r\nX-Seen-By: me\r\n", &request),
        "/json" => full(
            "200 OK",
            "Content-Type: application/json\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\n",
            br#"{"a": [1, true, null, "x"]}"#,
        ),
        "/redirect" => full("302 Found", "Location: text\r\n", b""),
        "/see-other" => full("303 See Other", &format!("Location: http://127.0.0.1:{port}/echo\r\n"), b""),
        "/chunked" => {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n".to_vec()
        }
        "/named" => full("200 OK", "Content-Disposition: attachment; filename=\"name.bin\"\r\n", b"hello"),
        "/not-modified" if head.to_ascii_lowercase().contains("if-modified-since") => {
            full("304 Not Modified", "", b"")
        }
        "/short" => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello".to_vec(),
        "/auth" if head.contains("Basic bWU6c2VjcmV0") => full("200 OK", "", b"welcome"),
        "/auth" => full("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", b"who?"),
        "/gzip" => {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(b"hello")?;
            full("200 OK", "Content-Encoding: gzip\r\n", &packed.finish()?)
        }
        "/sums" => full("200 OK", "", b"00  other\n5d41402abc4b2a76b9719d911017c592  text\n"),
        _ => full("404 Not Found", "Content-Type: text/html\r\n", b"nothing here"),
    };
    stream.write_all(&response)
}

/// Numbers that look random and are the same in each run of the tests.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).expect("less than the sides")
    }

    /// A starting state: at `a`, `b` and `d/c` a file, a link, a directory, or nothing.
    fn start(&mut self, texts: &[&str]) -> Vec<String> {
        let mut out = Vec::new();
        if self.throw(4) > 0 {
            out.push(format!("d d {}", ["755", "700", "2775"][self.throw(3)]));
        }
        for path in ["a", "b", "d/c"] {
            if path == "d/c" && out.first().is_none_or(|line| !line.starts_with("d d ")) {
                continue;
            }
            let mode = ["644", "600", "755", "444"][self.throw(4)];
            match self.throw(8) {
                0 => {}
                1 => out.push(format!("l {path} {}", ["@/b", "nowhere", "@/d"][self.throw(3)])),
                2 => out.push(format!("d {path} {}", ["755", "1777"][self.throw(2)])),
                _ => out.push(format!("f {path} {mode} {}", texts[self.throw(texts.len())])),
            }
        }
        out
    }
}

/// What each module's tests check, as their sources say.
fn proofs() -> BTreeMap<&'static str, Vec<String>> {
    let mut out: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    let rows = include_str!("registry.rs").lines().filter_map(|line| line.trim().strip_prefix("&super::"));
    let rows: Vec<(&str, &str)> = rows.filter_map(|row| row.trim_end_matches(',').split_once("::")).collect();
    assert_eq!(rows.len(), registry::MODULES.len(), "a line of the registry has another form");
    for ((file, table), module) in rows.iter().zip(registry::MODULES) {
        let path = format!("{}/src/module/{}.rs", env!("CARGO_MANIFEST_DIR"), file.replace("::", "/"));
        let source = fs::read_to_string(&path)
            .or_else(|_| fs::read_to_string(path.replace(".rs", "/mod.rs")))
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        let calls = |function: &str| {
            source.contains(&format!(" {function}(&{table},"))
                || source.contains(&format!("{function}(\n            &{table},"))
        };
        let once = |function: &str| {
            calls(function)
                || source.matches(&format!("{function}(")).count() > 0
                    && source.contains(&format!("&{table},"))
        };
        let place = if calls("contract") || calls("contract_once") {
            "files"
        } else if calls("on_fake") || source.contains("on_fake(module, ") && calls("check") {
            "memory"
        } else if once("call") || once("contract") || once("on_fake") {
            "single"
        } else {
            "elsewhere"
        };
        out.entry(place).or_default().push(module.short_name().to_string());
    }
    for names in out.values_mut() {
        names.sort();
    }
    out
}

/// The section of the architecture's page that is kept equal to [`proofs`].
fn section() -> String {
    let what = [
        (
            "files",
            "On files below a fresh directory: a dry run leaves all byte-identical and predicts exactly, a second run changes nothing, a run cut off or refused at any change is made good by the next, a rollback restores.",
        ),
        (
            "memory",
            "The same on a machine in memory whose programs are scripted; rollback where the program has a way back.",
        ),
        ("single", "Single runs on a machine in memory or here: what is asked, what acts, what is returned."),
        ("elsewhere", "By tests of another form, in their files."),
    ];
    let proofs = proofs();
    let mut out = String::new();
    for (place, text) in what {
        let Some(names) = proofs.get(place) else { continue };
        out.push_str(&format!("- **{text}** {}\n", names.join(", ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- proofs: kept by a test; SETPOINT_UPDATE=1 cargo test contract writes it -->\n";
    const END: &str = "<!-- end of proofs -->\n";

    #[test]
    fn the_architecture_says_what_is_proved_where() {
        let path = format!("{}/ARCHITECTURE.md", env!("CARGO_MANIFEST_DIR"));
        let page = fs::read_to_string(&path).expect("readable");
        let (head, rest) = page.split_once(BEGIN).expect("the page has the section");
        let (kept, tail) = rest.split_once(END).expect("the section has an end");
        let wanted = section();
        if std::env::var_os("SETPOINT_UPDATE").is_some() {
            fs::write(&path, format!("{head}{BEGIN}{wanted}{END}{tail}")).expect("writable");
            return;
        }
        assert_eq!(
            kept, wanted,
            "ARCHITECTURE.md is out of date: run SETPOINT_UPDATE=1 cargo test --lib contract"
        );
    }

    /// Modules over many starting states, also those that make no sense to them: they fail then, and say the
    /// same in a dry run.
    #[test]
    fn promises_hold_from_any_state() {
        let texts = ["", "one\ntwo\nthree\n", "two", "[s]\na = 1\nb=2\n", "# two\r\nx = 1\n", "a b c\n\n\n"];
        let keys =
            ["h ssh-rsa AAAA\n", "# c\nh,i ssh-rsa BBBB", "", "x:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\ny:z\n"];
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                "file",
                &texts,
                &[
                    r#"{"path":"@/a","state":"touch","access_time":"preserve","modification_time":"preserve"}"#,
                    r#"{"path":"@/a","state":"directory","mode":"0750"}"#,
                    r#"{"path":"@/a","state":"absent"}"#,
                    r#"{"path":"@/a","src":"@/b","state":"link","force":true}"#,
                    r#"{"path":"@/b","src":"@/d","state":"link"}"#,
                    r#"{"path":"@/d","state":"directory","mode":"u=rwX,go=rX","recurse":true}"#,
                    r#"{"path":"@/d/e/f","state":"directory"}"#,
                    r#"{"path":"@/a","mode":"0640"}"#,
                ],
            ),
            (
                "copy",
                &texts,
                &[
                    r#"{"dest":"@/a","content":"blob:new","src":"blob:new"}"#,
                    r#"{"dest":"@/d/","remote_src":true,"src":"@/a"}"#,
                    r#"{"dest":"@/b","remote_src":true,"src":"@/a","mode":"0600"}"#,
                ],
            ),
            (
                "lineinfile",
                &texts,
                &[
                    r#"{"path":"@/a","line":"two","create":true}"#,
                    r#"{"path":"@/a","regexp":"^[tT]","line":"T"}"#,
                    r#"{"path":"@/a","regexp":"^t","state":"absent"}"#,
                    r#"{"path":"@/a","line":"x","insertbefore":"BOF"}"#,
                    r#"{"path":"@/b","line":"x","insertafter":"^one"}"#,
                ],
            ),
            (
                "blockinfile",
                &texts,
                &[
                    r#"{"path":"@/a","block":"one\ntwo","create":true,"mode":"0600"}"#,
                    r#"{"path":"@/a","block":"","state":"absent"}"#,
                    r#"{"path":"@/b","block":"x","insertbefore":"two"}"#,
                ],
            ),
            (
                "replace",
                &texts,
                &[
                    r#"{"path":"@/a","regexp":"^two$","replace":"2"}"#,
                    r#"{"path":"@/a","regexp":"(\\w) = (\\d)","replace":"\\1: \\2"}"#,
                ],
            ),
            (
                "ini_file",
                &texts,
                &[
                    r#"{"path":"@/a","section":"s","option":"a","value":"9"}"#,
                    r#"{"path":"@/a","section":"s","state":"absent"}"#,
                    r#"{"path":"@/a","option":"x","value":"2","no_extra_spaces":true}"#,
                    r#"{"path":"@/d/c","section":"t","option":"n","allow_no_value":true}"#,
                ],
            ),
            (
                "known_hosts",
                &keys,
                &[
                    r#"{"path":"@/a","name":"h","key":"h ssh-rsa CCCC"}"#,
                    r#"{"path":"@/a","name":"h","state":"absent"}"#,
                    r#"{"path":"@/d/c","name":"h","key":"h ssh-ed25519 CCCC","hash_host":true}"#,
                ],
            ),
            ("htpasswd", &keys, &[r#"{"path":"@/a","name":"y","state":"absent"}"#]),
            ("assemble", &texts, &[r#"{"src":"@/d","dest":"@/b"}"#]),
            (
                "sudoers",
                &texts,
                &[
                    r#"{"sudoers_path":"@","name":"a","user":"u","commands":"ls","validation":"absent"}"#,
                    r#"{"sudoers_path":"@","name":"b","state":"absent"}"#,
                ],
            ),
        ];
        let mut dice = Dice(0x5eed_1234_5678_9abc);
        for (name, texts, arguments) in cases {
            let module = registry::find(name).expect("a module");
            for arguments in *arguments {
                for _ in 0..5 {
                    let start = dice.start(texts);
                    let start: Vec<&str> = start.iter().map(String::as_str).collect();
                    contract(module, &start, arguments);
                }
            }
        }
    }
}
