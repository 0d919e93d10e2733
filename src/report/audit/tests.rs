//! One audit in every form, and the page in a real browser.

use std::path::Path;
use std::process::Command;

use super::news::news;
use super::*;
use crate::state::{NewAudit, Status, TaskRef};

fn map(entries: &[(&str, &str)]) -> Option<Value> {
    Some(Value::map(map_of(entries.iter().copied())))
}

fn finding(host: &str, kind: &str, id: &str, verdict: Verdict) -> Finding {
    Finding {
        host: host.into(),
        kind: kind.into(),
        id: id.into(),
        verdict,
        applied: map(&[("mode", "0644"), ("sha256", &"a".repeat(64))]),
        actual: map(&[("mode", "0600"), ("sha256", &"a".repeat(64))]),
        desired: None,
        sealed: false,
        task: Some(
            TaskRef {
                file: "roles/web/tasks/main.yml".into(),
                line: 12,
                title: "web : Page".into(),
                ..TaskRef::default()
            }
            .into(),
        ),
        hints: vec!["changed at 2026-11-21T12:00:00Z".into()],
        fingerprint: format!("{host}{id}"),
        acked: None,
    }
}

fn audit(id: &str, started: i64, counts: &[(Verdict, u64)]) -> Audit {
    Audit {
        new: NewAudit {
            id: id.into(),
            playbooks: vec!["site.yml".into()],
            options: Value::Null,
            operator: "ann@desk".into(),
            commit: Some("0123456789abcdef".into()),
        },
        status: Status::Ok,
        started,
        ended: Some(started + 1500),
        controller: "desk".into(),
        resources: 42,
        exit: Some(2),
        counts: counts.to_vec(),
    }
}

/// An audit of three hosts with something of everything, and texts that would like to be more than text.
pub(crate) fn example() -> AuditReport {
    let host = |name: &str, in_sync: u64| AuditHost {
        host: name.into(),
        reached: true,
        problem: None,
        resources: 14,
        in_sync,
    };
    let evil = "/srv/<script>document.title='owned'</script>\"'&";
    let mut findings = vec![
        finding("web1", "file", "/etc/nginx/conf.d/site.conf", Verdict::Drifted),
        finding("web1", "file", evil, Verdict::Missing),
        finding("web2", "service", "nginx", Verdict::Pending),
        finding("web2", "package", "nginx-light", Verdict::Conflict),
        finding("web2", "file", "/etc/nginx/conf.d/site.conf", Verdict::Drifted),
    ];
    findings[1].actual = Some(Value::Null);
    findings[3].desired = map(&[("mode", "0640")]);
    findings[4].acked = Some("known until Friday".into());
    let lost = AuditHost {
        host: "db1".into(),
        reached: false,
        problem: Some("connection refused".into()),
        resources: 0,
        in_sync: 0,
    };
    let day = 86_400_000;
    let trend = (0..14_i64)
        .map(|ago| {
            let count = u64::try_from((ago * 7) % 5).expect("small");
            audit(
                &format!("a{ago}"),
                1_795_000_000_000 - ago * day,
                &[(Verdict::Drifted, count), (Verdict::Pending, 1)],
            )
        })
        .collect();
    AuditReport {
        audit: audit("a0", 1_795_000_000_000, &[(Verdict::Drifted, 1)]),
        hosts: vec![lost, host("web1", 12), host("web2", 11)],
        findings,
        trend,
    }
}

#[test]
fn every_form_tells_the_same() {
    let report = example();
    let summary =
        "23 in sync, 1 drifted, 1 pending, 1 conflict, 1 missing, 1 acknowledged, 1 of 3 hosts not reached";
    assert_eq!(report.summary(), summary);
    let terminal = report.render(Format::Terminal);
    for line in [
        "  drifted      file /etc/nginx/conf.d/site.conf\n    mode: 0644 → 0600\n    roles/web/tasks/main.yml:12  web : Page\n",
        summary,
        "    state: there → absent\n",
        "db1: 0 of 0 in sync; connection refused",
        "    acknowledged: known until Friday\n",
    ] {
        assert!(terminal.contains(line), "{line}\n---\n{terminal}");
    }
    let json: serde_json::Value = serde_json::from_str(&report.render(Format::Json)).expect("JSON");
    assert_eq!(json["findings"].as_array().map(Vec::len), Some(5));
    assert_eq!(json["counts"]["drifted"], 1);
    assert_eq!(json["started"], "2026-11-18T11:06:40Z");
    let sarif: serde_json::Value = serde_json::from_str(&report.render(Format::Sarif)).expect("JSON");
    let run = &sarif["runs"][0];
    assert_eq!(sarif["version"], "2.1.0");
    assert_eq!(run["results"].as_array().map(Vec::len), Some(5));
    assert_eq!(run["results"][0]["level"], "error");
    let place = &run["results"][0]["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "roles/web/tasks/main.yml");
    assert_eq!(place["region"]["startLine"], 12);
    assert_eq!(run["results"][4]["suppressions"][0]["kind"], "external");
    let known: Vec<&str> = run["tool"]["driver"]["rules"]
        .as_array()
        .expect("rules")
        .iter()
        .filter_map(|rule| rule["id"].as_str())
        .collect();
    for result in run["results"].as_array().expect("results") {
        assert!(known.contains(&result["ruleId"].as_str().expect("an id")), "{result}");
    }
    let prometheus = report.render(Format::Prometheus);
    for line in [
        "setpoint_drift_findings{host=\"web1\",verdict=\"drifted\"} 1\n",
        "setpoint_drift_findings{host=\"web2\",verdict=\"drifted\"} 0\n",
        "setpoint_drift_reached{host=\"db1\"} 0\n",
        "setpoint_drift_audit_timestamp_seconds 1795000000\n",
        "setpoint_drift_audit_exit_code 2\n",
    ] {
        assert!(prometheus.contains(line), "{line}\n---\n{prometheus}");
    }
    let mut types = std::collections::BTreeSet::new();
    for line in prometheus.lines() {
        if let Some(name) = line.strip_prefix("# TYPE ") {
            assert!(types.insert(name.to_string()), "{line} is there twice");
        }
    }
}

#[test]
fn junit_is_well_formed_and_counts() {
    let text = example().render(Format::Junit);
    let mut reader = quick_xml::Reader::from_str(&text);
    let (mut failures, mut cases, mut depth) = (0, 0, 0_i32);
    loop {
        match reader.read_event().expect("well-formed") {
            quick_xml::events::Event::Start(start) => {
                depth += 1;
                cases += i32::from(start.name().as_ref() == b"testcase");
                failures += i32::from(start.name().as_ref() == b"failure");
            }
            quick_xml::events::Event::End(_) => depth -= 1,
            quick_xml::events::Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!((failures, cases, depth), (4, 8, 0));
    assert!(text.contains("tests=\"8\" failures=\"4\" errors=\"1\" skipped=\"1\""), "{text}");
}

#[test]
fn only_changes_are_news() {
    let before = example();
    assert!(news(Some(&before), &before).is_empty());
    let mut now = example();
    now.hosts[0].reached = true;
    now.hosts[1].reached = false;
    let gone = now.findings.remove(2);
    now.findings[0].fingerprint = "another value".into();
    let news = news(Some(&before), &now);
    assert_eq!(news.new, [now.findings[0].clone()]);
    assert_eq!(news.gone, [gone]);
    assert_eq!(
        (news.lost.as_slice(), news.found.as_slice()),
        (&["web1".to_string()][..], &["db1".to_string()][..])
    );
    assert!(
        news.subject(&now).starts_with("setpoint drift: 1 new, 1 resolved, 1 hosts lost, 1 hosts back (")
    );
    assert!(
        news.text(&now)
            .contains("\nNew:\n  web1: file /etc/nginx/conf.d/site.conf is drifted (mode: 0644 → 0600)")
    );
}

/// A browser, if there is one.
fn browser() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome", "chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()))
}

fn chromium(program: &str, profile: &Path, more: &[&str]) -> String {
    let output = Command::new(program)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=3000",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(more)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_page_works_in_a_browser() {
    let report = example();
    let page = report.render(Format::Html);
    for outside in ["http://", "https://", "src=", "url(", "@import"] {
        assert!(!page.contains(outside), "the page wants {outside}");
    }
    assert!(!page.contains("<script>document"), "text is text");
    let Some(program) = browser() else {
        use std::io::Write as _;
        let _ =
            writeln!(std::io::stderr(), "skipped: there is no Chromium here; install it to test the page");
        return;
    };
    let place = tempfile::tempdir().expect("a temporary directory");
    let file = place.path().join("page.html");
    std::fs::write(&file, &page).expect("written");
    let url = format!("file://{}", file.display());
    let dom = chromium(program, place.path(), &["--dump-dom", &url]);
    assert!(dom.contains(">4 of 5</span>"), "the script has hidden what is acknowledged");
    let dom = chromium(program, place.path(), &["--dump-dom", &format!("{url}#nginx/web2/pending")]);
    assert!(dom.contains(">1 of 5</span>"), "the filters work");
    assert!(!dom.contains("<title>owned"), "no text of a host becomes a script");
    let keep = std::env::var_os("SETPOINT_SCREENSHOTS").map(std::path::PathBuf::from);
    let shots = keep.unwrap_or_else(|| place.path().to_path_buf());
    for (name, size, more) in [
        ("wide", "1280,1500", None),
        ("phone", "500,2200", None),
        ("dark", "1280,1500", Some("--force-dark-mode")),
    ] {
        let shot = shots.join(format!("{name}.png"));
        let screenshot = format!("--screenshot={}", shot.display());
        let window = format!("--window-size={size}");
        let mut arguments = vec![screenshot.as_str(), window.as_str()];
        arguments.extend(more);
        arguments.push(&url);
        chromium(program, place.path(), &arguments);
        let bytes = std::fs::read(&shot).expect("a picture");
        assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 20_000, "{name}: {} bytes", bytes.len());
    }
    let pdf = shots.join("print.pdf");
    chromium(program, place.path(), &[&format!("--print-to-pdf={}", pdf.display()), &url]);
    assert!(std::fs::read(&pdf).expect("a document").starts_with(b"%PDF"));
}
