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
