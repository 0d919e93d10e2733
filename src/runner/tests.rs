//! The whole loop, over pipes.

use std::io::{PipeReader, PipeWriter};
use std::path::Path;
use std::thread::JoinHandle;

use super::*;
use crate::protocol::{CHUNK, Need, Piece};
use crate::system::Algorithm;
use crate::system::digest::of_bytes;
use crate::value::{Value, map_of};

/// Runners of one process share the programs that they end: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A runner on a thread, and the controller's ends of its streams.
struct Rig {
    to: Option<PipeWriter>,
    from: PipeReader,
    thread: Option<JoinHandle<ExitCode>>,
    blobs: Vec<Vec<u8>>,
    others: Vec<ToController>,
    _alone: MutexGuard<'static, ()>,
}

impl Rig {
    fn start(check: bool) -> Rig {
        Rig::start_with(check, None)
    }

    fn start_with(check: bool, parts: Option<Parts>) -> Rig {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (input, to) = std::io::pipe().expect("a pipe");
        let (from, output) = std::io::pipe().expect("a pipe");
        let thread = std::thread::spawn(move || serve(Box::new(input), Box::new(output), parts));
        let mut rig = Rig {
            to: Some(to),
            from,
            thread: Some(thread),
            blobs: Vec::new(),
            others: Vec::new(),
            _alone: alone,
        };
        // One run, so that tests side by side share the lock.
        rig.say(&ToRunner::Hello {
            version: VERSION,
            operator: "test".into(),
            run: "test".into(),
            check,
            keep: true,
            confirm: None,
        });
        assert!(matches!(rig.hear(), Some(ToController::Hello { version: VERSION, .. })));
        rig
    }

    fn say(&mut self, message: &ToRunner) {
        frame::write(self.to.as_mut().expect("open"), message).expect("the runner reads");
    }

    fn hear(&mut self) -> Option<ToController> {
        frame::read(&mut self.from).expect("a message")
    }

    /// What comes next, apart from the news that a task takes long.
    fn hear_what_matters(&mut self) -> Option<ToController> {
        loop {
            match self.hear() {
                Some(ToController::Started { .. }) => {}
                other => return other,
            }
        }
    }

    /// Runs a batch to its end; answers requests for content.
    fn run(&mut self, mode: Mode, tasks: Vec<Call>) -> Vec<Report> {
        self.say(&ToRunner::Batch(Batch { id: 1, mode, tasks }));
        let mut reports = Vec::new();
        loop {
            match self.hear().expect("more") {
                ToController::Ended { report, .. } => reports.push(*report),
                ToController::BatchEnded { batch } => {
                    assert_eq!(batch, 1);
                    return reports;
                }
                ToController::NeedBlobs(needs) => needs.iter().for_each(|need| self.answer(need)),
                other => self.others.push(other),
            }
        }
    }

    fn answer(&mut self, need: &Need) {
        let Need { blob, from } = need;
        let found =
            self.blobs.iter().find(|bytes| of_bytes(Algorithm::Sha256, bytes) == blob.sha256).cloned();
        let Some(bytes) = found else {
            let reason = "it vanished".into();
            return self.say(&ToRunner::BlobLost { sha256: blob.sha256.clone(), reason });
        };
        let mut rest = &bytes[usize::try_from(*from).expect("small")..];
        loop {
            let (chunk, tail) = rest.split_at(rest.len().min(CHUNK));
            let last = tail.is_empty();
            let piece = Piece { sha256: blob.sha256.clone(), bytes: chunk.to_vec(), last };
            self.say(&ToRunner::Content(vec![piece]));
            if last {
                return;
            }
            rest = tail;
        }
    }

    fn end(mut self) {
        drop(self.to.take());
        let _ = self.thread.take().expect("running").join();
    }
}

fn call(module: &str, args: &[(&str, &str)]) -> Call {
    let args = map_of(args.iter().map(|(key, value)| (*key, Value::str(*value))));
    Call { module: module.into(), args: Value::map(args), ..Call::default() }
}

fn numbered(calls: Vec<Call>) -> Vec<Call> {
    calls.into_iter().zip(0..).map(|(call, id)| Call { id, group: id, ..call }).collect()
}

fn statuses(reports: &[Report]) -> Vec<Status> {
    reports.iter().map(|report| report.status).collect()
}

fn message(report: &Report) -> &str {
    report.result.get("msg").and_then(Value::as_str).unwrap_or_default()
}

fn make_dir(path: &Path) -> Call {
    call("file", &[("path", &path.to_string_lossy()), ("state", "directory"), ("mode", "0755")])
}

#[test]
fn each_mode_stops_where_it_should() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let dir = |name: &str| make_dir(&place.path().join(name));
    let bad = || call("file", &[("nonsense", "1")]);
    use Status::{Changed, Failed, Ok, WouldChange};
    let mut rig = Rig::start(false);
    let cases: Vec<(Mode, Vec<Call>, Vec<Status>)> = vec![
        (Mode::Verify, vec![call("ping", &[]), dir("a"), dir("a/b")], vec![Ok, WouldChange]),
        (Mode::Check, vec![dir("a"), dir("a/b"), dir("a/b")], vec![WouldChange, WouldChange, Ok]),
        (Mode::Apply, vec![Call { check: true, ..dir("a") }], vec![WouldChange]),
        (Mode::Apply, vec![dir("a"), dir("a/b"), dir("a/b")], vec![Changed, Changed, Ok]),
        (Mode::Verify, vec![dir("a"), dir("a/b"), dir("c")], vec![Ok, Ok, WouldChange]),
        (Mode::Apply, vec![bad(), dir("c")], vec![Failed]),
        (Mode::Apply, vec![Call { go_on: true, ..bad() }, dir("c")], vec![Failed, Changed]),
        (Mode::Apply, vec![Call { pause: true, ..dir("c") }, dir("d")], vec![Ok]),
        (Mode::Apply, vec![call("no.such.module", &[])], vec![Failed]),
    ];
    for (mode, calls, expected) in cases {
        let line = format!("{mode:?} {calls:?}");
        assert_eq!(statuses(&rig.run(mode, numbered(calls))), expected, "{line}");
    }
    rig.end();
    assert!(place.path().join("a/b").is_dir() && place.path().join("c").is_dir());
    assert!(!place.path().join("d").exists());
}

#[test]
fn a_dry_session_remembers_and_refuses_changes() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let mut rig = Rig::start(true);
    let first = rig.run(Mode::Check, vec![make_dir(&place.path().join("a"))]);
    let second = rig.run(Mode::Check, vec![make_dir(&place.path().join("a"))]);
    assert_eq!((first[0].status, second[0].status), (Status::WouldChange, Status::Ok));
    rig.say(&ToRunner::Batch(Batch { id: 2, mode: Mode::Apply, tasks: vec![call("ping", &[])] }));
    assert!(matches!(rig.hear(), Some(ToController::Fatal { .. })));
    rig.end();
    assert!(!place.path().join("a").exists());
}

#[test]
fn content_comes_and_goes_in_chunks() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let big: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest = of_bytes(Algorithm::Sha256, &big);
    let target = place.path().join("big");
    let blob = |sha256: &str, size: usize| {
        let blob = map_of([("sha256", Value::str(sha256)), ("size", size.into())]);
        let args = map_of([
            ("_blob", Value::map(blob)),
            ("dest", Value::str(target.to_string_lossy().into_owned())),
        ]);
        Call { module: "copy".into(), args: Value::map(args), ..Call::default() }
    };
    let mut rig = Rig::start(false);
    rig.blobs.push(big.clone());
    let probe = rig.run(Mode::Check, vec![blob(&digest, big.len())]);
    assert_eq!(statuses(&probe), [Status::WouldChange], "{probe:?}");
    let reports = rig.run(Mode::Apply, numbered(vec![blob(&digest, big.len()), blob(&digest, big.len())]));
    assert_eq!(statuses(&reports), [Status::Changed, Status::Ok], "{reports:?}");
    assert!(std::fs::read(&target).expect("written") == big);
    let lost = rig.run(Mode::Apply, vec![blob(&"0".repeat(64), 5)]);
    assert!(message(&lost[0]).contains("it vanished"), "{lost:?}");
    rig.end();
    assert_eq!(std::fs::read_dir(place.path()).expect("there").count(), 1, "nothing half-written is left");
}

#[test]
fn time_runs_out_for_a_task_and_not_for_the_next() {
    let mut rig = Rig::start(false);
    let sleep = Call { timeout: Some(1), go_on: true, ..call("command", &[("_raw_params", "sleep 30")]) };
    let reports = rig.run(Mode::Apply, numbered(vec![sleep, call("ping", &[])]));
    assert_eq!(statuses(&reports), [Status::Failed, Status::Ok]);
    assert_eq!(message(&reports[0]), "Timed out after 1 second(s).");
    assert!(matches!(rig.others[..], [ToController::Started { batch: 1, task: 0 }]), "{:?}", rig.others);
    rig.end();
}

#[test]
fn commands_end_with_the_channel() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let mark = place.path().join("mark");
    let mut rig = Rig::start(false);
    let line = format!("echo $$ > {}; sleep 60; echo late >> {}", mark.display(), mark.display());
    let tasks = vec![call("shell", &[("_raw_params", &line)])];
    rig.say(&ToRunner::Batch(Batch { id: 1, mode: Mode::Apply, tasks }));
    while !std::fs::read_to_string(&mark).is_ok_and(|text| text.ends_with('\n')) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let started = Instant::now();
    rig.end();
    assert!(started.elapsed() < Duration::from_secs(10));
    let pid = std::fs::read_to_string(&mark).expect("written");
    assert!(!Path::new(&format!("/proc/{}/cmdline", pid.trim())).exists());
}

#[test]
fn cancel_drops_what_has_not_begun() {
    let mut rig = Rig::start(false);
    let tasks = numbered(vec![call("command", &[("_raw_params", "sleep 1")]), call("ping", &[])]);
    rig.say(&ToRunner::Batch(Batch { id: 1, mode: Mode::Apply, tasks }));
    rig.say(&ToRunner::Batch(Batch { id: 2, mode: Mode::Apply, tasks: vec![call("ping", &[])] }));
    while !matches!(rig.hear(), Some(ToController::Started { .. })) {}
    rig.say(&ToRunner::Cancel);
    rig.say(&ToRunner::Batch(Batch { id: 3, mode: Mode::Apply, tasks: vec![call("ping", &[])] }));
    let mut heard = Vec::new();
    while heard.len() < 5 {
        heard.push(match rig.hear().expect("more") {
            ToController::Ended { batch, report } => format!("{batch}.{} {:?}", report.task, report.status),
            ToController::BatchEnded { batch } => format!("{batch} ended"),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(heard, ["1.0 Changed", "1 ended", "2 ended", "3.0 Ok", "3 ended"]);
    rig.end();
}

#[test]
fn nonsense_ends_the_session_with_a_word() {
    let mut rig = Rig::start(false);
    rig.to.as_mut().expect("open").write_all(&[0xff; 64]).expect("the runner reads");
    let Some(ToController::Fatal { message }) = rig.hear() else { panic!("no last word") };
    assert!(message.contains("larger than"), "{message}");
    rig.end();
}

/// A task that copies a content of which only the digest is at hand.
fn copy_of(content: &[u8], dest: &Path) -> Call {
    let digest = of_bytes(Algorithm::Sha256, content);
    let blob = map_of([("sha256", Value::str(digest)), ("size", content.len().into())]);
    let dest = Value::str(dest.to_str().expect("UTF-8"));
    let args = map_of([("_blob", Value::map(blob)), ("dest", dest)]);
    Call { module: "copy".into(), args: Value::map(args), ..Call::default() }
}

#[test]
fn what_a_cut_leaves_of_a_large_content_is_not_sent_again() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let cache = place.path().join("cache");
    std::fs::create_dir(&cache).expect("a directory");
    let kept = || std::fs::read_dir(&cache).expect("a directory").count();
    let dest = place.path().join("big");
    let content: Vec<u8> = (0..3 << 20_u32).flat_map(|number: u32| (number ^ 7).to_le_bytes()).collect();
    let task = copy_of(&content, &dest);
    // How much comes before the cut, in chunks, and where the next run goes on.
    for (chunks, from) in [(3_usize, 0), (20, 20 * CHUNK), (30, 30 * CHUNK)] {
        let mut rig = Rig::start_with(false, Some(Parts::new(cache.clone())));
        rig.say(&ToRunner::Batch(Batch { id: 1, mode: Mode::Apply, tasks: vec![task.clone()] }));
        let Some(ToController::NeedBlobs(needs)) = rig.hear_what_matters() else {
            panic!("it lacks the content")
        };
        let mut at = usize::try_from(needs[0].from).expect("small");
        for _ in 0..chunks - at / CHUNK {
            let bytes = content[at..at + CHUNK].to_vec();
            let piece = Piece { sha256: needs[0].blob.sha256.clone(), bytes, last: false };
            rig.say(&ToRunner::Content(vec![piece]));
            at += CHUNK;
        }
        rig.end();
        assert!(!dest.exists(), "a part is not at the file's place");
        assert_eq!(kept(), usize::from(from > 0), "{chunks} chunks");
    }
    let mut rig = Rig::start_with(false, Some(Parts::new(cache.clone())));
    rig.blobs.push(content.clone());
    rig.say(&ToRunner::Batch(Batch { id: 1, mode: Mode::Apply, tasks: vec![task.clone()] }));
    let Some(ToController::NeedBlobs(needs)) = rig.hear_what_matters() else { panic!("it lacks the rest") };
    assert_eq!(needs[0].from, 30 * CHUNK as u64);
    rig.answer(&needs[0]);
    let Some(ToController::Ended { report, .. }) = rig.hear_what_matters() else { panic!("it has all") };
    assert_eq!(report.status, Status::Changed, "{report:?}");
    rig.end();
    assert!(std::fs::read(&dest).expect("it is there") == content);
    assert_eq!(kept(), 0);

    // A part that is no good fails once, and is gone.
    std::fs::remove_file(&dest).expect("it was there");
    let digest = of_bytes(Algorithm::Sha256, &content);
    std::fs::write(cache.join(format!("part-{digest}")), vec![0; 5 << 20]).expect("written");
    for expected in [Status::Failed, Status::Changed] {
        let mut rig = Rig::start_with(false, Some(Parts::new(cache.clone())));
        rig.blobs.push(content.clone());
        assert_eq!(statuses(&rig.run(Mode::Apply, vec![task.clone()])), [expected]);
        rig.end();
    }
    assert!(std::fs::read(&dest).expect("it is there") == content);
}
