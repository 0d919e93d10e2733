//! Every report against fixed events. For the familiar layouts, the events and the expected output were recorded
//! from one run of ansible-playbook (`testdata/record.sh`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Plan, Stream, Streams, listeners};
use crate::config::{Settings, Surroundings};
use crate::event::{Event, HostStats, Listener as _, TaskInfo, TaskResult, Verdict};
use crate::source::json;
use crate::value::{Origin, Value};

/// Where the playbooks were when they were recorded.
const RECORDED_AT: &str = "/tmp/setpoint-record";

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report/testdata")
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no test panics while it writes")).into_owned()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no test panics while it writes").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A minute after the epoch of 2001, so that times in reports are always the same.
fn clock() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

/// What goes to standard output and error for these events, with these `ANSIBLE_*` variables.
fn told(
    events: &[Event],
    env: &[(&str, &str)],
    verbosity: u8,
    check: bool,
    terminal: bool,
) -> (String, String) {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let around = Surroundings { env, cwd: PathBuf::from("/nonexistent"), home: None };
    let display = Settings::load(&around, &[]).expect("the settings are right").display;
    let plan = Plan { display, verbosity, check, log_path: None, trace: None, clock };
    let (out, err) = (Sink::default(), Sink::default());
    let streams = || Streams {
        out: Stream { to: Box::new(out.clone()), terminal },
        err: Stream { to: Box::new(err.clone()), terminal },
        columns: None,
    };
    let mut fan = listeners(&plan, &streams).expect("the layout is known");
    for event in events {
        fan.event(event);
    }
    drop(fan);
    (out.text(), err.text())
}

/// Events as the recorder wrote them.
fn recorded(name: &str) -> Vec<Event> {
    let path = testdata().join(format!("{name}.events.jsonl"));
    let text = std::fs::read_to_string(&path).expect("it was recorded");
    let text = text.replace(RECORDED_AT, &testdata().display().to_string());
    text.lines().filter_map(|line| event(&json::parse("events", line).expect("it is JSON"))).collect()
}

fn event(value: &Value) -> Option<Event> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let flag = |key: &str| value.get(key).is_some_and(Value::truthy);
    let host = || Arc::<str>::from(text("host"));
    let hosts = || {
        value
            .get("hosts")
            .and_then(Value::as_list)
            .unwrap_or_default()
            .iter()
            .map(|host| host.to_text().into())
            .collect()
    };
    Some(match text("event").as_str() {
        "playbook" => Event::PlaybookStarted { path: text("path") },
        "play" => Event::PlayStarted { name: text("name"), hosts: Vec::new(), check: flag("check") },
        "no_hosts_matched" => Event::NoHostsMatched,
        "no_hosts_remaining" => Event::NoHostsRemaining,
        "task" => Event::TaskStarted { task: task(value) },
        "result" => Event::Result(result(value)),
        "item" => Event::ItemResult(result(value)),
        "retry" => Event::Retry {
            host: host(),
            task: task(value),
            left: number(value, "left"),
            result: value.get("result").cloned().unwrap_or_default(),
        },
        "async_done" => Event::AsyncDone { host: host(), job: text("job"), failed: flag("failed") },
        "async_poll" => Event::AsyncPoll {
            host: host(),
            job: text("job"),
            started: flag("started"),
            finished: flag("finished"),
        },
        "notified" => Event::Notified { handler: text("handler"), host: host() },
        "included" => Event::Included {
            what: text("what"),
            hosts: hosts(),
            item: value.get("item").filter(|item| !item.is_null()).map(Value::to_text),
        },
        "recap" => {
            let hosts = value.get("hosts").and_then(Value::as_map).expect("a recap has hosts");
            Event::Recap {
                stats: hosts.iter().map(|(host, counts)| (host.to_text().into(), stats(counts))).collect(),
            }
        }
        other => panic!("what is a {other}?"),
    })
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_int).and_then(|number| u64::try_from(number).ok()).unwrap_or_default()
}

fn stats(counts: &Value) -> HostStats {
    HostStats {
        ok: number(counts, "ok"),
        changed: number(counts, "changed"),
        unreachable: number(counts, "unreachable"),
        failed: number(counts, "failures"),
        skipped: number(counts, "skipped"),
        rescued: number(counts, "rescued"),
        ignored: number(counts, "ignored"),
    }
}

fn task(value: &Value) -> Arc<TaskInfo> {
    let task = value.get("task").expect("it is about a task");
    let text = |key: &str| task.get(key).map(Value::to_text).unwrap_or_default();
    let small = |key: &str| u32::try_from(number(task, key)).expect("a line");
    Arc::new(TaskInfo {
        id: number(task, "id"),
        title: text("title"),
        name: text("name"),
        role: None,
        action: text("action"),
        origin: Arc::new(Origin { file: text("file").into(), line: small("line"), column: small("column") }),
        handler: task.get("handler").is_some_and(Value::truthy),
        check: task.get("check").is_some_and(Value::truthy),
        args: None,
    })
}

fn result(value: &Value) -> TaskResult {
    let text = |key: &str| value.get(key).filter(|text| !text.is_null()).map(Value::to_text);
    let flag = |key: &str| value.get(key).is_some_and(Value::truthy);
    let verdict = match text("verdict").as_deref() {
        Some("ok") => Verdict::Ok,
        Some("changed") => Verdict::Changed,
        Some("skipped") => Verdict::Skipped,
        Some("unreachable") => Verdict::Unreachable,
        _ => Verdict::Failed,
    };
    TaskResult {
        host: text("host").unwrap_or_default().into(),
        task: task(value),
        delegate: text("delegate"),
        verdict,
        ignored: flag("ignored"),
        rescued: false,
        looped: flag("looped"),
        result: value.get("result").cloned().unwrap_or_default(),
        label: text("label"),
        verbose_always: flag("verbose_always"),
        diagnostic: None,
        millis: 0,
    }
}

/// Compares with what ansible-playbook printed for the same events.
fn as_recorded(name: &str, env: &[(&str, &str)], verbosity: u8, check: bool) {
    let (out, _) = told(&recorded(name), env, verbosity, check, false);
    let expected = std::fs::read_to_string(testdata().join(format!("{name}.out"))).expect("it was recorded");
    let expected = expected.replace(RECORDED_AT, &testdata().display().to_string());
    let expected = differing_on_purpose(&expected);
    if out != expected {
        let diff = similar::TextDiff::from_lines(&expected, &out);
        panic!("{name}: what we print differs from what was recorded:\n{}", diff.unified_diff());
    }
}

/// Where we part from what was recorded, and why.
fn differing_on_purpose(expected: &str) -> String {
    // There, the message of a failed `no_log` task is shown all the same.
    let origin = format!("Origin: {}/plain.yml:72:7", testdata().display());
    let shown = format!("[ERROR]: Task failed: Module failed: non-zero return code\n{origin}");
    let hidden = format!("[ERROR]: Task failed: Module failed.\n{origin}");
    let dressed = |text: &str| text.replace('\n', "\u{1b}[0m\n\u{1b}[0;31m");
    let expected = expected.replace(&shown, &hidden).replace(&dressed(&shown), &dressed(&hidden));
    // Notes on its own workings.
    let chatter =
        |line: &&str| !line.starts_with("1 plays in ") && !line.starts_with("Notification for handler ");
    expected.split_inclusive('\n').filter(chatter).collect()
}

#[test]
fn the_default_layout_is_the_familiar_one() {
    as_recorded("plain", &[], 0, false);
}

#[test]
fn colors_are_the_familiar_ones() {
    as_recorded("color", &[("ANSIBLE_FORCE_COLOR", "1")], 0, false);
}

#[test]
fn verbosity_adds_results() {
    as_recorded("verbose", &[], 1, false);
}

#[test]
fn verbosity_two_adds_paths() {
    as_recorded("loud", &[], 2, false);
}

#[test]
fn check_mode_with_diffs() {
    as_recorded("check", &[], 0, true);
}

#[test]
fn check_mode_markers() {
    as_recorded("markers", &[("ANSIBLE_CHECK_MODE_MARKERS", "1")], 0, true);
}

#[test]
fn hidden_hosts_hide_their_banners() {
    as_recorded(
        "filtered",
        &[("ANSIBLE_DISPLAY_SKIPPED_HOSTS", "0"), ("ANSIBLE_DISPLAY_OK_HOSTS", "0")],
        0,
        false,
    );
}

#[test]
fn results_as_yaml() {
    as_recorded("yaml", &[("ANSIBLE_CALLBACK_RESULT_FORMAT", "yaml")], 1, false);
}

#[test]
fn minimal() {
    as_recorded("minimal", &[("ANSIBLE_STDOUT_CALLBACK", "minimal")], 0, false);
}

#[test]
fn oneline() {
    as_recorded("oneline", &[("ANSIBLE_STDOUT_CALLBACK", "oneline")], 0, false);
}

fn info(id: u64, title: &str, action: &str) -> Arc<TaskInfo> {
    Arc::new(TaskInfo {
        id,
        title: title.into(),
        name: title.into(),
        role: title.split_once(" : ").map(|(role, _)| role.to_owned()),
        action: format!("ansible.builtin.{action}"),
        origin: Arc::new(Origin { file: "/nonexistent/site.yml".into(), line: 7, column: 5 }),
        handler: false,
        check: false,
        args: None,
    })
}

fn outcome(host: &str, task: &Arc<TaskInfo>, verdict: Verdict, result: &str) -> TaskResult {
    TaskResult {
        host: host.into(),
        task: Arc::clone(task),
        delegate: None,
        verdict,
        ignored: false,
        rescued: false,
        looped: false,
        result: json::parse("test", result).expect("it is JSON"),
        label: None,
        verbose_always: false,
        diagnostic: None,
        millis: 1500,
    }
}

/// A small run with one of everything.
fn run() -> Vec<Event> {
    let copy = info(1, "web : Write the page", "copy");
    let fail = info(2, "Ask", "command");
    let loops = info(3, "Loop", "file");
    let vars = info(4, "Say", "debug");
    let diff = r#"{"changed": true, "diff": {"before": "a\n", "after": "b\n", "after_header": "/srv/page"}, "dest": "/srv/page"}"#;
    let undefined = crate::diagnostic::Diagnostic::error("'colour' is undefined")
        .at(Some(Arc::new(Origin { file: "/nonexistent/site.yml".into(), line: 9, column: 14 })))
        .hint("did you mean 'color'?");
    let item = |host: &str, label: &str, verdict| {
        Event::ItemResult(TaskResult { label: Some(label.into()), ..outcome(host, &loops, verdict, "{}") })
    };
    vec![
        Event::PlaybookStarted { path: "/nonexistent/site.yml".into() },
        Event::PlayStarted { name: "Web".into(), hosts: vec!["h1".into(), "h2".into()], check: false },
        Event::TaskStarted { task: Arc::clone(&copy) },
        Event::Connected { host: "h1".into(), millis: 120, login: 100, pushed: 1_500_000 },
        Event::Result(outcome("h1", &copy, Verdict::Changed, diff)),
        Event::Result(outcome("h2", &copy, Verdict::Changed, diff)),
        Event::Notified { handler: "Reload".into(), host: "h1".into() },
        Event::TaskStarted { task: Arc::clone(&fail) },
        Event::Waiting { host: "h2".into(), holder: "anna@desk since 10:00".into() },
        Event::Retry { host: "h1".into(), task: Arc::clone(&fail), left: 2, result: Value::Null },
        Event::Result(outcome(
            "h1",
            &fail,
            Verdict::Failed,
            r#"{"rc": 1, "msg": "non-zero return code", "stdout": "\u001b[2Jx", "failed": true, "warnings": ["old"]}"#,
        )),
        Event::Result(TaskResult {
            ignored: true,
            ..outcome("h2", &fail, Verdict::Unreachable, r#"{"msg": "no route", "unreachable": true}"#)
        }),
        Event::TaskStarted { task: Arc::clone(&loops) },
        item("h2", "a", Verdict::Ok),
        item("h2", "b", Verdict::Changed),
        Event::Result(TaskResult {
            looped: true,
            ..outcome("h2", &loops, Verdict::Changed, r#"{"results": [{}, {}]}"#)
        }),
        Event::TaskStarted { task: Arc::clone(&vars) },
        Event::Result(TaskResult {
            diagnostic: Some(undefined),
            ..outcome("h2", &vars, Verdict::Failed, r#"{"msg": "Task failed: 'colour' is undefined"}"#)
        }),
        Event::NoHostsRemaining,
        Event::Interrupted { left: vec![("h2".into(), "Say".into())] },
        Event::Recap {
            stats: vec![
                ("h1".into(), HostStats { ok: 1, changed: 1, failed: 1, ..HostStats::default() }),
                (
                    "h2".into(),
                    HostStats { ok: 2, changed: 2, unreachable: 1, ignored: 1, ..HostStats::default() },
                ),
            ],
        },
    ]
}

/// Standard output and error of a small run in a layout.
fn small(env: &[(&str, &str)]) -> String {
    let (out, err) = told(&run(), env, 0, false, false);
    format!("{out}--- standard error ---\n{err}")
}

#[test]
fn the_small_run_by_default() {
    insta::assert_snapshot!(small(&[]));
}

#[test]
fn the_small_run_as_events() {
    insta::assert_snapshot!(small(&[("ANSIBLE_STDOUT_CALLBACK", "jsonl")]));
}

#[test]
fn the_small_run_as_a_document() {
    insta::assert_snapshot!(small(&[("ANSIBLE_STDOUT_CALLBACK", "ansible.posix.json")]));
}

#[test]
fn the_small_run_in_brief() {
    insta::assert_snapshot!(small(&[("ANSIBLE_STDOUT_CALLBACK", "minimal")]));
}

#[test]
fn the_small_run_with_times() {
    insta::assert_snapshot!(small(&[(
        "ANSIBLE_CALLBACKS_ENABLED",
        "timer,ansible.posix.profile_tasks,profile_roles"
    )]));
}

#[test]
fn the_small_run_with_diffs_folded() {
    insta::assert_snapshot!(small(&[("SETPOINT_FOLD", "1")]));
}

#[test]
fn every_event_has_its_fields_documented() {
    let (out, _) = told(&run(), &[("ANSIBLE_STDOUT_CALLBACK", "jsonl")], 0, false, false);
    for line in out.lines() {
        let value = json::parse("line", line).expect("each line is JSON");
        let name = value.get("event").and_then(Value::as_str).expect("it has a name");
        assert!(super::events::FIELDS.iter().any(|(known, _)| *known == name), "{name} is not documented");
    }
}

#[test]
fn junit_and_tree_are_files() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().display().to_string();
    let env = [
        ("ANSIBLE_STDOUT_CALLBACK", "null"),
        ("ANSIBLE_CALLBACKS_ENABLED", "junit,tree"),
        ("JUNIT_OUTPUT_DIR", path.as_str()),
        ("ANSIBLE_CALLBACK_TREE_DIR", path.as_str()),
    ];
    told(&run(), &env, 0, false, false);
    let mut all = String::new();
    let mut names: Vec<PathBuf> = std::fs::read_dir(directory.path())
        .expect("it is there")
        .map(|entry| entry.expect("it is there").path())
        .collect();
    names.sort();
    for name in names {
        let text = std::fs::read_to_string(&name).expect("it is text");
        all.push_str(&format!("== {}\n{text}", name.file_name().unwrap_or_default().to_string_lossy()));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn a_transfer_has_a_rate_and_a_time_left() {
    let start = std::time::Instant::now();
    let mut pace = super::Pace::default();
    let mut line = |millis: u64, transfer: Option<(u64, u64)>| {
        let rate = pace.of(transfer, start + std::time::Duration::from_millis(millis));
        let progress = super::Progress { task: "Send".into(), hosts: 1, transfer, ..Default::default() };
        super::progress_line(&progress, rate)
    };
    let of = |sent: u64| Some((sent << 20, 200 << 20));
    let cases = [
        (0, of(10), "0/1 Send  10.0 MiB of 200.0 MiB"),
        (100, of(20), "0/1 Send  20.0 MiB of 200.0 MiB"),
        (2000, of(60), "0/1 Send  60.0 MiB of 200.0 MiB, 25.0 MiB/s, 6 s left"),
        (4000, of(60), "0/1 Send  60.0 MiB of 200.0 MiB, 12.5 MiB/s, 12 s left"),
        (4100, None, "0/1 Send"),
        (4200, of(60), "0/1 Send  60.0 MiB of 200.0 MiB"),
        (6200, of(60), "0/1 Send  60.0 MiB of 200.0 MiB"),
        (6300, of(1), "0/1 Send  1.0 MiB of 200.0 MiB"),
    ];
    for (millis, transfer, expected) in cases {
        assert_eq!(line(millis, transfer), expected, "after {millis} ms");
    }
}

#[test]
fn a_terminal_gets_a_live_line_and_no_escapes_from_hosts() {
    let progress = super::Progress {
        task: "Ask".into(),
        done: 1,
        hosts: 3,
        waiting: vec!["h\u{1b}2".into()],
        transfer: Some((2048, 4096)),
    };
    let task = info(1, "Ask", "debug");
    let evil = TaskResult {
        verbose_always: true,
        label: None,
        ..outcome("h1\u{1b}[1A", &task, Verdict::Ok, r#"{"msg": "\u009b2J"}"#)
    };
    let events = [Event::TaskStarted { task }, Event::Progress(progress), Event::Result(evil)];
    let (out, _) = told(&events, &[("ANSIBLE_NOCOLOR", "1")], 0, false, true);
    assert_eq!(
        out,
        format!(
            "\nTASK [Ask] {}\n\r\u{1b}[2K1/3 Ask  2.0 KiB of 4.0 KiB  waiting for h\\x1b2 and 1 more\r\u{1b}[2Kok: [h1\\x1b[1A] => {{\n    \"msg\": \"\\x9b2J\"\n}}\n",
            "*".repeat(69)
        )
    );
}
