//! The store's operations, on every kind of database that is at hand.

use std::path::{Path, PathBuf};

use super::store::Store;
use super::*;
use crate::value::map_of;

/// Runs a test on a fresh store of each kind.
fn on_each(test: impl Fn(&mut Store)) {
    let dir = tempfile::tempdir().expect("a directory");
    test(&mut open(&dir.path().join("state.db")));
}

fn open(path: &Path) -> Store {
    let opened = Store::open(&Place::File(path.to_path_buf())).expect("opens");
    assert_eq!(opened.warning, None);
    opened.store
}

fn new_run(id: &str) -> NewRun {
    NewRun {
        id: id.into(),
        kind: RunKind::Run,
        command: "setpoint run site.yml".into(),
        playbooks: vec!["/p/site.yml".into()],
        options: Value::map(map_of([("limit", "web")])),
        operator: "ann@desk".into(),
        directory: "/p".into(),
        commit: Some("abc".into()),
        dirty: true,
        target: None,
    }
}

fn task(line: u32) -> TaskRef {
    TaskRef {
        file: "site.yml".into(),
        line,
        title: "web : config".into(),
        role: Some("web".into()),
        action: "ansible.builtin.copy".into(),
        handler: false,
    }
}

fn applied(host: &str, id: &str) -> Applied {
    Applied {
        host: host.into(),
        kind: "file".into(),
        id: id.into(),
        state: Value::map(map_of([("sha256", "00"), ("mode", "0644")])),
        sealed: false,
        task: task(3),
        also: vec![task(1), task(2)],
        playbook: "/p/site.yml".into(),
        play: "web".into(),
        login: Login { connection: "ssh".into(), become_user: Some("root".into()), ..Login::default() },
        run: "1".into(),
        recorded: 5,
        changed_run: None,
        origin: "run".into(),
    }
}

#[test]
fn a_run_comes_back_as_it_was_recorded() {
    on_each(|store| {
        let run = new_run("100.1");
        store.begin_run(&run).expect("begins");
        assert_eq!(store.find_run("100").expect("found").status, Status::Running);
        let result = TaskOutcome {
            seq: 1,
            host: "web1".into(),
            task: task(3),
            verdict: "changed".into(),
            ignored: false,
            millis: 12,
        };
        let prior = Prior {
            run: "100.1".into(),
            seq: 2,
            host: "web1".into(),
            task: task(3),
            kind: "file".into(),
            id: "/etc/x".into(),
            before: Value::Null,
            after: Value::map(map_of([("mode", "0644")])),
            sealed: false,
        };
        store.note_tasks([&task(3), &task(3)]).expect("noted");
        store.record_results("100.1", std::slice::from_ref(&result)).expect("recorded");
        store.record_prior(std::slice::from_ref(&prior)).expect("recorded");
        let host = RunHost { host: "web1".into(), stats: Stats { ok: 3, changed: 1, ..Stats::default() } };
        store.end_run("100.1", Status::Ok, std::slice::from_ref(&host)).expect("ends");
        let found = store.find_run("last").expect("found");
        assert_eq!((found.new, found.status, found.hosts, found.changes), (run, Status::Ok, 1, 1));
        assert!(found.ended >= Some(found.started));
        assert_eq!(store.results("100.1").expect("read"), [result]);
        assert_eq!(store.prior("100.1", Some("web1")).expect("read"), [prior]);
        assert_eq!(store.prior("100.1", Some("web2")).expect("read"), []);
        assert_eq!(store.run_hosts("100.1").expect("read"), [host]);
        assert_eq!(store.runs(9, Some("web1")).expect("read").len(), 1);
        assert_eq!(store.runs(9, Some("web2")).expect("read").len(), 0);
        for word in ["last~1", "7", "nonsense", "%"] {
            assert!(matches!(store.find_run(word), Err(StoreError::NotFound(_))) || word == "%", "{word}");
        }
    });
}

#[test]
fn applied_resources_are_the_latest_and_know_who_changed_them() {
    on_each(|store| {
        let changed = Applied { changed_run: Some("1".into()), ..applied("web1", "/etc/a") };
        let later = Applied { run: "2".into(), recorded: 9, ..applied("web1", "/etc/a") };
        let below = applied("web1", "/etc/dir/x");
        let beside = applied("web1", "/etc/dir2");
        let other = applied("web2", "/etc/dir/x");
        store.note_tasks([&task(3)]).expect("noted");
        store.record_applied([&changed, &below, &beside, &other]).expect("recorded");
        store.record_applied([&later]).expect("recorded");
        let expected = Applied { changed_run: Some("1".into()), ..later };
        assert_eq!(store.find_applied("web1", "file", "/etc/a").expect("read"), Some(expected.clone()));
        assert_eq!(store.applied(&["web1"]).expect("read"), [expected, below, beside]);
        assert_eq!(store.applied_hosts().expect("read"), [("web1".into(), 3), ("web2".into(), 1)]);
        assert_eq!(store.forget_below("web1", "/etc/dir").expect("done"), 1);
        assert!(store.forget_applied("web1", "file", "/etc/a").expect("done"));
        assert!(!store.forget_applied("web1", "file", "/etc/a").expect("done"));
        assert_eq!(store.applied_hosts().expect("read"), [("web1".into(), 1), ("web2".into(), 1)]);
    });
}

#[test]
fn what_is_owed_stays_until_it_is_settled() {
    on_each(|store| {
        let owed = |host: &str, playbook: &str| Owed {
            host: host.into(),
            playbook: playbook.into(),
            play: "web".into(),
            handler: "restart".into(),
            run: "1".into(),
            since: 4,
        };
        store.owe(&[owed("b", "/p"), owed("a", "/p"), owed("a", "/q")]).expect("noted");
        store.owe(&[Owed { since: 9, ..owed("a", "/p") }]).expect("noted again");
        assert_eq!(store.owed(Some("/p")).expect("read"), [owed("a", "/p"), owed("b", "/p")]);
        assert!(store.settle_owed("a", "/p", "web", "restart").expect("done"));
        assert_eq!(store.owed(None).expect("read"), [owed("a", "/q"), owed("b", "/p")]);
        // What a run that goes on may still do is not owed yet.
        store.begin_run(&new_run("1")).expect("begins");
        assert_eq!(store.owed(None).expect("read"), []);
        store.end_run("1", Status::Failed, &[]).expect("ends");
        assert_eq!(store.owed(None).expect("read").len(), 2);
    });
}

#[test]
fn audits_come_back_with_their_findings() {
    on_each(|store| {
        let audit = NewAudit {
            id: "200.1".into(),
            playbooks: vec![],
            options: Value::Null,
            operator: "ann@desk".into(),
            commit: None,
        };
        store.begin_audit(&audit).expect("begins");
        let finding = |id: &str, verdict: Verdict| Finding {
            host: "web1".into(),
            kind: "file".into(),
            id: id.into(),
            verdict,
            applied: Some(Value::map(map_of([("mode", "0644")]))),
            actual: Some(Value::Null),
            desired: None,
            sealed: false,
            task: Some(task(3)),
            hints: vec!["changed at noon".into()],
            fingerprint: "f".into(),
            acked: None,
        };
        let silent = Finding { acked: Some("known".into()), task: None, ..finding("/c", Verdict::Drifted) };
        let findings = [finding("/a", Verdict::Missing), finding("/b", Verdict::Drifted), silent];
        let host = AuditHost { host: "web1".into(), reached: true, problem: None, resources: 7, in_sync: 4 };
        store.end_audit("200.1", Status::Ok, 2, std::slice::from_ref(&host), &findings).expect("ends");
        let found = store.find_audit("last").expect("found");
        assert_eq!((found.new, found.exit, found.resources), (audit, Some(2), 7));
        assert_eq!(found.counts, [(Verdict::Drifted, 1), (Verdict::Missing, 1)]);
        assert_eq!(store.findings("200.1").expect("read"), findings);
        assert_eq!(store.audit_hosts("200.1").expect("read"), [host]);
        let ack = Ack {
            host: "web1".into(),
            kind: "file".into(),
            id: "/a".into(),
            fingerprint: "f".into(),
            reason: "known".into(),
            owner: "ann".into(),
            created: 1,
            expires: Some(2),
        };
        store.ack(&ack).expect("noted");
        let again = Ack { reason: "still".into(), ..ack };
        store.ack(&again).expect("noted");
        assert_eq!(store.acks().expect("read"), [again]);
        assert!(store.unack("web1", "file", "/a").expect("done"));
        assert_eq!(store.acks().expect("read"), []);
    });
}

#[test]
fn old_runs_go_and_the_last_stays() {
    on_each(|store| {
        for id in ["1", "2"] {
            store.begin_run(&new_run(id)).expect("begins");
            store.note_tasks([&task(3)]).expect("noted");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert_eq!(store.prune(now() + 1000).expect("done"), 1);
        let left: Vec<String> =
            store.runs(9, None).expect("read").into_iter().map(|run| run.new.id).collect();
        assert_eq!(left, ["2"]);
    });
}

#[test]
fn a_run_whose_process_is_gone_was_interrupted() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.db");
    let mut store = open(&path);
    store.begin_run(&new_run("1")).expect("begins");
    assert_eq!(store.find_run("1").expect("found").status, Status::Running);
    drop(store);
    let raw = rusqlite::Connection::open(&path).expect("opens");
    raw.execute("update runs set process = 'x/4194303/1'", []).expect("set");
    assert_eq!(open(&path).find_run("1").expect("found").status, Status::Interrupted);
    raw.execute("update runs set controller = 'elsewhere'", []).expect("set");
    assert_eq!(open(&path).find_run("1").expect("found").status, Status::Running);
    raw.execute("update runs set heartbeat = 1000", []).expect("set");
    assert_eq!(open(&path).find_run("1").expect("found").status, Status::Interrupted);
}

#[test]
fn a_damaged_store_is_set_aside_and_a_newer_one_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.db");
    std::fs::write(&path, "this is no database, and is longer than a header".repeat(50)).expect("written");
    let opened = Store::open(&Place::File(path.clone())).expect("opens anew");
    let warning = opened.warning.expect("it says so");
    assert!(warning.contains("was damaged") && warning.contains("set aside"), "{warning}");
    let aside: Vec<PathBuf> = std::fs::read_dir(dir.path())
        .expect("readable")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.to_string_lossy().contains(".damaged-"))
        .collect();
    assert_eq!(aside.len(), 1);
    assert!(std::fs::read_to_string(&aside[0]).expect("kept").starts_with("this is no database"));
    drop(opened.store);
    let mut store = open(&path);
    store.set_meta("version", "99").expect("set");
    drop(store);
    let error = Store::open(&Place::File(path.clone())).expect_err("newer");
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("use the newer setpoint"), "{error}");
}

#[test]
fn only_its_owner_can_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a/b/state.db");
    let mut store = open(&path);
    store.begin_run(&new_run("1")).expect("begins");
    for path in [path.clone(), path.with_file_name("state.db-wal"), path.with_file_name("state.db-shm")] {
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has {mode:o}", path.display());
    }
}

#[test]
fn two_processes_write_without_losing_anything() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.db");
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut store = open(&path);
                for index in 0..25 {
                    let one = applied(&format!("host{number}"), &format!("/f{index}"));
                    store
                        .within(|store| {
                            store.note_tasks([&one.task])?;
                            store.record_applied([&one])
                        })
                        .expect("recorded");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    let counts = open(&path).applied_hosts().expect("read");
    assert_eq!(counts, (0..4).map(|n| (format!("host{n}"), 25)).collect::<Vec<_>>());
}
