//! Sessions from end to end: a controller, a shell, a delivered runner, real files.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use setpoint::protocol::{Async, Batch, Call, Mode, Status};
use setpoint::session::{Blobs, Config, NoBlobs, Runners, SessionEvent, Sessions};
use setpoint::system::Algorithm;
use setpoint::system::digest::of_bytes;
use setpoint::transport::{NoPrompter, Settings, Target};
use setpoint::value::{Value, map_of};

fn runners() -> Runners {
    static RUNNERS: OnceLock<Runners> = OnceLock::new();
    let load = || Runners::from_file(Path::new(env!("CARGO_BIN_EXE_setpoint-runner"))).expect("it was built");
    RUNNERS.get_or_init(load).clone()
}

/// A controller, and the hosts that it knows: each a home directory of its own on this machine.
struct Rig {
    sessions: Option<Sessions>,
    events: Receiver<SessionEvent>,
    place: tempfile::TempDir,
    targets: BTreeMap<u32, Arc<Target>>,
}

impl Rig {
    fn start(forks: usize) -> Rig {
        let (sender, events) = channel();
        let config = Config {
            transport: Settings::new("/nonexistent", "nobody"),
            prompter: Box::new(NoPrompter),
            operator: "tester@desk".into(),
            // All tests may change this machine at once.
            run: "tests".into(),
            forks,
            runners: runners(),
            keep: true,
            confirm: None,
        };
        let sessions = Sessions::start(config, sender).expect("threads");
        let place = tempfile::tempdir().expect("a temporary directory");
        Rig { sessions: Some(sessions), events, place, targets: BTreeMap::new() }
    }

    fn home(&self, host: u32) -> PathBuf {
        self.place.path().join(host.to_string())
    }

    /// A host whose commands begin with this line of shell.
    fn host_with(&mut self, host: u32, line: &str) {
        let home = self.home(host);
        std::fs::create_dir_all(&home).expect("made");
        let shell = self.place.path().join(format!("shell-{host}"));
        let text = format!("#!/bin/sh\nHOME={}; export HOME\n{line}\nexec /bin/sh \"$@\"\n", home.display());
        std::fs::write(&shell, text).expect("written");
        std::fs::set_permissions(&shell, PermissionsExt::from_mode(0o755)).expect("ours");
        let name = format!("host{host}");
        let mut target = Target::local(&name);
        target.executable = Some(shell);
        self.targets.insert(host, Arc::new(target));
    }

    fn host(&mut self, host: u32) {
        self.host_with(host, "");
    }

    fn sessions(&self) -> &Sessions {
        self.sessions.as_ref().expect("running")
    }

    fn submit(&self, host: u32, id: u64, mode: Mode, tasks: Vec<Call>, blobs: Arc<dyn Blobs>) {
        let tasks = tasks.into_iter().zip(0..).map(|(call, id)| Call { id, ..call }).collect();
        let batch = Batch { id, mode, tasks };
        self.sessions().submit(host, &self.targets[&host], None, mode == Mode::Check, batch, blobs);
    }

    fn next(&self) -> SessionEvent {
        self.events.recv_timeout(Duration::from_secs(60)).expect("an event in time")
    }

    /// Events until so many batches (or raw commands) have ended in some way, one line each.
    fn until(&self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        let mut ended = 0;
        while ended < count {
            let (line, ends) = match self.next() {
                SessionEvent::Connected { host, timings, .. } => {
                    let how = if timings.pushed > 0 { "pushed" } else { "cached" };
                    (format!("{host} connected, {how}"), 0)
                }
                SessionEvent::Started { host, batch, task } => (format!("{host} {batch}.{task} started"), 0),
                SessionEvent::Ended { host, batch, report } => {
                    let status = report.status;
                    let message = report.result.get("msg").filter(|_| status == Status::Failed);
                    let message =
                        message.map(|message| format!(": {}", message.to_text())).unwrap_or_default();
                    (format!("{host} {batch}.{} {status:?}{message}", report.task), 0)
                }
                SessionEvent::BatchEnded { host, batch } => (format!("{host} {batch} ended"), 1),
                SessionEvent::Unreachable { host, batches, error } => {
                    (format!("{host} {batches:?} unreachable: {error}"), batches.len().max(1))
                }
                SessionEvent::Raw { host, request, outcome } => {
                    let outcome = outcome.map(|output| (output.code, output.stdout_text()));
                    (format!("{host} raw {request}: {outcome:?}"), 1)
                }
                SessionEvent::Waiting { host, holder } => (format!("{host} waits for {holder}"), 0),
                SessionEvent::File { host, name, bytes, last, .. } => {
                    (format!("{host} file {name} {} {last}", bytes.len()), 0)
                }
            };
            ended += ends;
            lines.push(line);
        }
        lines
    }
}

fn call(module: &str, args: &[(&str, &str)]) -> Call {
    let args = map_of(args.iter().map(|(key, value)| (*key, Value::str(*value))));
    Call { module: module.into(), args: Value::map(args), ..Call::default() }
}

fn dir(path: &Path) -> Call {
    call("file", &[("path", path.to_str().expect("UTF-8")), ("state", "directory"), ("mode", "0755")])
}

fn shell(line: &str) -> Call {
    call("shell", &[("_raw_params", line)])
}

fn none() -> Arc<dyn Blobs> {
    Arc::new(NoBlobs)
}

#[test]
fn batches_are_done_in_order_and_the_runner_is_pushed_once() {
    let mut rig = Rig::start(5);
    rig.host(1);
    let target = rig.home(1).join("made");
    rig.submit(1, 1, Mode::Verify, vec![call("ping", &[]), dir(&target), call("ping", &[])], none());
    rig.submit(1, 2, Mode::Apply, vec![dir(&target), dir(&target)], none());
    assert_eq!(
        rig.until(2),
        [
            "1 connected, pushed",
            "1 1.0 Ok",
            "1 1.1 WouldChange",
            "1 1 ended",
            "1 2.0 Changed",
            "1 2.1 Ok",
            "1 2 ended"
        ]
    );
    rig.sessions().reset_connection(1);
    rig.submit(1, 3, Mode::Verify, vec![dir(&target)], none());
    assert_eq!(rig.until(1), ["1 connected, cached", "1 3.0 Ok", "1 3 ended"]);
    rig.submit(1, 4, Mode::Check, vec![dir(&target.join("a")), dir(&target.join("a/b"))], none());
    rig.submit(1, 5, Mode::Check, vec![dir(&target.join("a/b"))], none());
    assert_eq!(
        rig.until(2),
        [
            "1 connected, cached",
            "1 4.0 WouldChange",
            "1 4.1 WouldChange",
            "1 4 ended",
            "1 5.0 Ok",
            "1 5 ended"
        ]
    );
    rig.sessions.take().expect("running").shutdown();
    assert!(target.is_dir() && !target.join("a").exists());
}

struct Held(BTreeMap<String, Vec<u8>>);

impl Blobs for Held {
    fn open(&self, sha256: &str, from: u64) -> std::io::Result<Box<dyn Read + Send>> {
        match self.0.get(sha256) {
            Some(bytes) => {
                Ok(Box::new(std::io::Cursor::new(bytes[usize::try_from(from).expect("small")..].to_vec())))
            }
            None => Err(std::io::Error::other("it has vanished")),
        }
    }
}

#[test]
fn content_travels_only_if_it_is_needed() {
    let mut rig = Rig::start(5);
    rig.host(1);
    let big: Vec<u8> = (0..600_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest = of_bytes(Algorithm::Sha256, &big);
    let target = rig.home(1).join("big");
    let copy = |digest: &str| {
        let blob = map_of([("sha256", Value::str(digest)), ("size", big.len().into())]);
        let dest = Value::str(target.to_str().expect("UTF-8"));
        let args = map_of([("_blob", Value::map(blob)), ("dest", dest)]);
        Call { module: "copy".into(), args: Value::map(args), ..Call::default() }
    };
    let held: Arc<dyn Blobs> = Arc::new(Held([(digest.clone(), big.clone())].into()));
    rig.submit(1, 1, Mode::Apply, vec![copy(&digest)], held);
    // Nobody holds it any more, and nobody needs to.
    rig.submit(1, 2, Mode::Apply, vec![copy(&digest)], none());
    let lines = rig.until(2);
    assert_eq!(lines[1..], ["1 1.0 Changed", "1 1 ended", "1 2.0 Ok", "1 2 ended"]);
    assert!(std::fs::read(&target).expect("written") == big);
    rig.submit(1, 3, Mode::Apply, vec![copy(&"0".repeat(64))], none());
    let lines = rig.until(1);
    assert!(lines[0].starts_with("1 3.0 Failed") && lines[0].contains("no content"), "{lines:?}");
    assert!(std::fs::read(&target).expect("still there") == big);
}

#[test]
fn a_bad_host_has_an_error_of_its_own_and_the_others_go_on() {
    let mut rig = Rig::start(20);
    let noise = "0123456789abcdef".repeat(100);
    let marker = "sh -c \"$2\" </dev/null | head -n 1;";
    let cases: &[(&str, String, &str)] = &[
        ("a login that is closed", "echo This account is closed.; exit 1".into(), ""),
        ("one that ends at once", "exit 3".into(), ""),
        ("one that floods", format!("while :; do echo {noise}; done"), ""),
        ("another machine", "PATH=PLACE:$PATH; export PATH".into(), "there is no runner for mips"),
        (
            "one that talks nonsense",
            format!("{marker} echo RUN; head -c 100000 /dev/urandom; sleep 5; exit 0"),
            "",
        ),
        (
            "one that promises much",
            format!("{marker} echo RUN; printf '\\377\\377\\377\\077'; cat /dev/zero"),
            "",
        ),
    ];
    let tools = rig.place.path().join("tools");
    std::fs::create_dir(&tools).expect("made");
    std::fs::write(tools.join("uname"), "#!/bin/sh\necho mips\n").expect("written");
    std::fs::set_permissions(tools.join("uname"), PermissionsExt::from_mode(0o755)).expect("ours");
    for (number, (_, line, _)) in (0..).zip(cases) {
        rig.host_with(number, &line.replace("PLACE", tools.to_str().expect("UTF-8")));
    }
    rig.host(100);
    let started = Instant::now();
    for host in (0..).take(cases.len()).chain([100]) {
        rig.submit(host, 7, Mode::Verify, vec![call("ping", &[])], none());
    }
    let lines = rig.until(cases.len() + 1);
    for (number, (case, _, expected)) in cases.iter().enumerate() {
        let start = format!("{number} [7] unreachable: ");
        let found = lines.iter().find(|line| line.starts_with(&start));
        let found = found.unwrap_or_else(|| panic!("{case}: {lines:#?}"));
        assert!(found.contains(expected), "{case}: {found}");
        assert!(found.len() < 1500, "{case}: {found}");
    }
    assert!(lines.iter().any(|line| line == "100 7.0 Ok"), "{lines:#?}");
    assert!(started.elapsed() < Duration::from_secs(50));
}

#[test]
fn a_cut_host_loses_its_batches_and_its_commands() {
    let mut rig = Rig::start(5);
    rig.host(1);
    let mark = rig.place.path().join("mark");
    let line = format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 60", mark.display());
    rig.submit(1, 1, Mode::Apply, vec![shell(&line)], none());
    rig.submit(1, 2, Mode::Apply, vec![call("ping", &[])], none());
    while !mark.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    rig.sessions().cut(1);
    let lines = rig.until(2);
    assert_eq!(lines.last().expect("some"), "1 [1, 2] unreachable: the connection was cut");
    let pid = std::fs::read_to_string(&mark).expect("written");
    let gone = || !Path::new(&format!("/proc/{}/cmdline", pid.trim())).exists();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !gone() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(gone(), "what the task has started ended with it");
    rig.submit(1, 3, Mode::Verify, vec![call("ping", &[])], none());
    assert_eq!(rig.until(1), ["1 connected, cached", "1 3.0 Ok", "1 3 ended"]);
}

#[test]
fn cancel_finishes_what_runs_and_drops_the_rest() {
    let mut rig = Rig::start(5);
    rig.host(1);
    rig.submit(1, 1, Mode::Apply, vec![shell("sleep 1"), call("ping", &[])], none());
    rig.submit(1, 2, Mode::Apply, vec![call("ping", &[])], none());
    while !matches!(rig.next(), SessionEvent::Started { .. }) {}
    rig.sessions().cancel(1);
    assert_eq!(rig.until(2), ["1 1.0 Changed", "1 1 ended", "1 2 ended"]);
}

#[test]
fn forks_bound_how_many_hosts_are_worked_on() {
    let mut rig = Rig::start(1);
    for host in 1..=3 {
        rig.host(host);
        rig.submit(host, 1, Mode::Apply, vec![shell("sleep 0.2")], none());
    }
    let lines = rig.until(3);
    let hosts: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    let mut order = hosts.clone();
    order.dedup();
    assert_eq!(order.len(), 3, "one host after the other: {lines:#?}");
}

#[test]
fn raw_needs_no_runner() {
    let mut rig = Rig::start(5);
    rig.host(1);
    rig.sessions().raw(1, &rig.targets[&1], None, "echo $((6 * 7)); exit 3".into(), 9);
    assert_eq!(rig.until(1), [r#"1 raw 9: Ok((3, "42\n"))"#]);
    assert!(!rig.home(1).join(".cache").exists());
}

#[test]
fn a_detached_task_outlives_the_session() {
    let mut rig = Rig::start(5);
    rig.host(1);
    let jobs = rig.place.path().join("jobs");
    let mark = rig.place.path().join("mark");
    let detach = Some(Async { job: "j1.2".into(), limit: 30 });
    let environment = vec![("ANSIBLE_ASYNC_DIR".into(), jobs.to_str().expect("UTF-8").into())];
    let line = format!("sleep 1; echo done > {}", mark.display());
    let task = Call { detach, environment, ..shell(&line) };
    rig.submit(1, 1, Mode::Apply, vec![task, call("ping", &[])], none());
    let started = Instant::now();
    assert_eq!(rig.until(1)[1..], ["1 1.0 Changed", "1 1.1 Ok", "1 1 ended"]);
    rig.sessions.take().expect("running").shutdown();
    assert!(!mark.exists() || started.elapsed() > Duration::from_secs(1));
    let status = jobs.join("j1.2");
    let finished = || std::fs::read_to_string(&status).is_ok_and(|text| text.contains("\"finished\": 1"));
    while !finished() {
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", std::fs::read_to_string(&status));
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = std::fs::read_to_string(&status).expect("written");
    assert!(
        mark.exists() && text.contains("\"rc\": 0") && text.contains("\"ansible_job_id\": \"j1.2\""),
        "{text}"
    );
}
