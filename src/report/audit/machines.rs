//! Reports for programs: JUnit, SARIF, Prometheus.

use quick_xml::escape::escape;

use super::{AuditReport, finding_value, label, rows, time};
use crate::state::{Finding, Verdict};
use crate::value::{Value, map_of};

/// Verdicts with what they mean, for those who only read the report.
const MEANINGS: &[(Verdict, &str)] = &[
    (Verdict::Drifted, "Somebody changed the host: it is not as the last run left it"),
    (Verdict::Pending, "The playbook has moved on; that has not been rolled out"),
    (Verdict::Conflict, "Both the host and the playbook have moved, each its own way"),
    (Verdict::Adopted, "The host already is what the playbook now wants, though no run has made it so"),
    (Verdict::Missing, "It was there after the last run and is gone"),
    (Verdict::Orphan, "It was applied earlier, and the playbook does not have it any more"),
    (Verdict::NeverApplied, "The playbook wants it, and no run has applied it"),
    (Verdict::Unreachable, "The host could not be reached"),
    (Verdict::Uncertain, "What is there, or what is wanted, can't be told"),
];

/// How bad a verdict is, as SARIF says it.
fn level(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Drifted | Verdict::Conflict | Verdict::Missing => "error",
        Verdict::Pending | Verdict::Unreachable | Verdict::Uncertain | Verdict::NeverApplied => "warning",
        Verdict::InSync | Verdict::Adopted | Verdict::Orphan => "note",
    }
}

/// A finding in one sentence.
pub(super) fn sentence(finding: &Finding) -> String {
    let mut text = format!("{}: {} {} is {}", finding.host, finding.kind, finding.id, label(finding.verdict));
    let rows: Vec<String> = rows(finding).iter().map(super::Row::line).collect();
    if !rows.is_empty() {
        text.push_str(&format!(" ({})", rows.join("; ")));
    }
    text
}

/// Text for XML: escaped, without the control characters that XML 1.0 can't hold.
fn xml(text: &str) -> String {
    let allowed: String = text
        .chars()
        .map(|c| if c.is_control() && !matches!(c, '\n' | '\t' | '\r') { '\u{fffd}' } else { c })
        .collect();
    escape(allowed).into_owned()
}

pub(super) fn junit(report: &AuditReport) -> String {
    let mut suites = String::new();
    let (mut tests, mut failures, mut errors, mut skipped) = (0, 0, 0, 0);
    for host in &report.hosts {
        let mut cases = String::new();
        let (mut own, mut failed, mut broken, mut passed_over) = (0, 0, 0, 0);
        let mut case = |class: &str, name: &str, body: &str| {
            own += 1;
            let (class, name) = (xml(class), xml(name));
            cases.push_str(&format!(
                "\t\t<testcase classname=\"{class}\" name=\"{name}\">{body}</testcase>\n"
            ));
        };
        if host.reached {
            case(&host.host, &format!("{} of {} resources in sync", host.in_sync, host.resources), "");
        } else {
            broken += 1;
            let problem = xml(host.problem.as_deref().unwrap_or("not reached"));
            case(&host.host, "reachable", &format!("<error message=\"{problem}\" type=\"unreachable\"/>"));
        }
        for finding in report.findings.iter().filter(|finding| finding.host == host.host) {
            let class = finding.task.as_ref().map_or_else(|| host.host.clone(), |task| task.place());
            let name = format!("[{}] {} {}", host.host, finding.kind, finding.id);
            let said = xml(&sentence(finding));
            let kind = finding.verdict.name();
            let more: Vec<String> =
                rows(finding).iter().map(super::Row::line).chain(finding.hints.clone()).collect();
            let body = match &finding.acked {
                Some(reason) => {
                    passed_over += 1;
                    format!("<skipped message=\"acknowledged: {}\"/>", xml(reason))
                }
                None if level(finding.verdict) == "note" => String::new(),
                None => {
                    failed += 1;
                    format!("<failure message=\"{said}\" type=\"{kind}\">{}</failure>", xml(&more.join("\n")))
                }
            };
            case(&class, &name, &body);
        }
        suites.push_str(&format!(
            "\t<testsuite name=\"{}\" tests=\"{own}\" failures=\"{failed}\" errors=\"{broken}\" skipped=\"{passed_over}\" timestamp=\"{}\">\n{cases}\t</testsuite>\n",
            xml(&host.host),
            time(report.audit.started).trim_end_matches('Z')
        ));
        (tests, failures) = (tests + own, failures + failed);
        (errors, skipped) = (errors + broken, skipped + passed_over);
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"setpoint drift audit {}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\">\n{suites}</testsuites>\n",
        xml(&report.audit.new.id)
    )
}

pub(super) fn sarif(report: &AuditReport) -> Value {
    let text = |text: &str| Value::map(map_of([("text", text)]));
    let rules = MEANINGS.iter().map(|(verdict, meaning)| {
        Value::map(map_of([
            ("id", Value::str(verdict.name())),
            ("shortDescription", text(meaning)),
            ("defaultConfiguration", Value::map(map_of([("level", level(*verdict))]))),
        ]))
    });
    let driver = map_of([
        ("name", Value::str("setpoint")),
        ("version", Value::str(env!("CARGO_PKG_VERSION"))),
        ("rules", Value::list(rules.collect())),
    ]);
    let results: Vec<Value> = report.findings.iter().map(result).collect();
    let end = report.audit.ended.unwrap_or(report.audit.started);
    let invocation = map_of([
        ("executionSuccessful", Value::Bool(report.audit.status.name() != "error")),
        ("startTimeUtc", Value::str(time(report.audit.started))),
        ("endTimeUtc", Value::str(time(end))),
    ]);
    let run = map_of([
        ("tool", Value::map(map_of([("driver", Value::map(driver))]))),
        ("invocations", Value::list(vec![Value::map(invocation)])),
        ("results", Value::list(results)),
    ]);
    Value::map(map_of([
        ("$schema", Value::str("https://json.schemastore.org/sarif-2.1.0.json")),
        ("version", Value::str("2.1.0")),
        ("runs", Value::list(vec![Value::map(run)])),
    ]))
}

fn result(finding: &Finding) -> Value {
    let mut result = map_of([
        ("ruleId", Value::str(finding.verdict.name())),
        ("level", Value::str(level(finding.verdict))),
        ("message", Value::map(map_of([("text", sentence(finding))]))),
        (
            "partialFingerprints",
            Value::map(map_of([(
                "resource/v1",
                format!("{} {} {} {}", finding.host, finding.kind, finding.id, finding.fingerprint),
            )])),
        ),
        ("properties", finding_value(finding)),
    ]);
    if let Some(task) = &finding.task {
        let place = map_of([
            ("artifactLocation", Value::map(map_of([("uri", uri(&task.file))]))),
            ("region", Value::map(map_of([("startLine", task.line.max(1))]))),
        ]);
        let location = map_of([("physicalLocation", Value::map(place))]);
        result.insert("locations".into(), Value::list(vec![Value::map(location)]));
    }
    if let Some(reason) = &finding.acked {
        let suppression = map_of([("kind", "external"), ("status", "accepted"), ("justification", reason)]);
        result.insert("suppressions".into(), Value::list(vec![Value::map(suppression)]));
    }
    Value::map(result)
}

/// A path as a reference: percent-encoded where it has to be.
fn uri(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let path: String = path
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    if path.starts_with('/') { format!("file://{path}") } else { path }
}

pub(super) fn prometheus(report: &AuditReport) -> String {
    let mut out = String::new();
    let mut metric = |name: &str, help: &str, samples: Vec<(String, f64)>| {
        out.push_str(&format!("# HELP setpoint_drift_{name} {help}\n# TYPE setpoint_drift_{name} gauge\n"));
        for (labels, value) in samples {
            out.push_str(&format!("setpoint_drift_{name}{labels} {value}\n"));
        }
    };
    #[expect(clippy::cast_precision_loss, reason = "counts and times are far below 2^53")]
    let number = |value: i64| value as f64;
    let count = |value: u64| number(i64::try_from(value).unwrap_or(i64::MAX));
    let host = |name: &str| format!("{{host=\"{}\"}}", quoted(name));
    let mut findings = Vec::new();
    for one in &report.hosts {
        for (verdict, _) in MEANINGS {
            let found =
                report.open().filter(|finding| finding.host == one.host && finding.verdict == *verdict);
            let labels = format!("{{host=\"{}\",verdict=\"{}\"}}", quoted(&one.host), verdict.name());
            findings.push((labels, count(found.count() as u64)));
        }
    }
    metric("findings", "Open findings of the last audit.", findings);
    let each = |of: &dyn Fn(&crate::state::AuditHost) -> f64| {
        report.hosts.iter().map(|one| (host(&one.host), of(one))).collect::<Vec<_>>()
    };
    metric("resources", "Resources that the last audit looked at.", each(&|one| count(one.resources)));
    metric("in_sync", "Resources that were in sync.", each(&|one| count(one.in_sync)));
    metric(
        "reached",
        "Whether the last audit reached the host.",
        each(&|one| f64::from(u8::from(one.reached))),
    );
    let acked = report.findings.len() - report.open().count();
    metric("acknowledged", "Findings that are silenced.", vec![(String::new(), count(acked as u64))]);
    metric(
        "audit_timestamp_seconds",
        "When the last audit began.",
        vec![(String::new(), number(report.audit.started) / 1000.0)],
    );
    let took = report.audit.ended.map_or(0, |ended| ended - report.audit.started);
    metric("audit_duration_seconds", "How long it took.", vec![(String::new(), number(took) / 1000.0)]);
    metric(
        "audit_exit_code",
        "Its exit code.",
        vec![(String::new(), number(report.audit.exit.unwrap_or(-1)))],
    );
    out
}

/// A label's value.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
