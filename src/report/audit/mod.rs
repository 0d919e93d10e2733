//! Reports of an audit: for a terminal, for programs (JSON, JUnit, SARIF, Prometheus), and one HTML page.

use std::collections::BTreeMap;

use crate::source::json::{Layout, dump};
use crate::state::{Audit, AuditHost, Finding, Verdict};
use crate::value::{Map, Value, map_of};

mod html;
mod machines;
pub mod news;

/// All that is known of one audit.
#[derive(Clone, Debug)]
pub struct AuditReport {
    /// The audit.
    pub audit: Audit,
    /// Its hosts, by name.
    pub hosts: Vec<AuditHost>,
    /// What is not in sync.
    pub findings: Vec<Finding>,
    /// Audits up to this one, the newest first.
    pub trend: Vec<Audit>,
}

/// How an audit is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    Terminal,
    /// One JSON document.
    Json,
    /// A test suite a host.
    Junit,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// A text file for the node exporter's collector.
    Prometheus,
    /// One page that needs nothing else.
    Html,
}

impl Format {
    /// All, by name.
    pub const ALL: &[(&str, Format)] = &[
        ("terminal", Format::Terminal),
        ("json", Format::Json),
        ("junit", Format::Junit),
        ("sarif", Format::Sarif),
        ("prometheus", Format::Prometheus),
        ("html", Format::Html),
    ];

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Format> {
        Format::ALL.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }
}

impl AuditReport {
    /// The report as text.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Terminal => self.terminal(),
            Format::Json => dump(&self.json(), &Layout::nice().indent(2)) + "\n",
            Format::Junit => machines::junit(self),
            Format::Sarif => dump(&machines::sarif(self), &Layout::nice().indent(2)) + "\n",
            Format::Prometheus => machines::prometheus(self),
            Format::Html => html::page(self),
        }
    }

    /// Findings that nobody has silenced.
    pub fn open(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.acked.is_none())
    }

    /// How many open findings there are of each verdict.
    fn counts(&self) -> BTreeMap<Verdict, usize> {
        let mut counts = BTreeMap::new();
        for finding in self.open() {
            *counts.entry(finding.verdict).or_default() += 1;
        }
        counts
    }

    fn in_sync(&self) -> u64 {
        self.hosts.iter().map(|host| host.in_sync).sum()
    }

    fn terminal(&self) -> String {
        let mut out = format!("Audit {} of {}\n", self.audit.new.id, time(self.audit.started));
        for host in &self.hosts {
            let findings: Vec<&Finding> =
                self.findings.iter().filter(|finding| finding.host == host.host).collect();
            out.push_str(&format!("\n{}: {} of {} in sync", host.host, host.in_sync, host.resources));
            if !host.reached {
                let problem = host.problem.as_deref().unwrap_or("not reached");
                out.push_str(&format!("; {problem}"));
            }
            out.push('\n');
            for finding in findings {
                let verdict = label(finding.verdict);
                out.push_str(&format!("  {verdict:<12} {} {}\n", finding.kind, finding.id));
                for row in rows(finding) {
                    out.push_str(&format!("    {}\n", row.line()));
                }
                if let Some(task) = &finding.task {
                    out.push_str(&format!("    {}  {}\n", task.place(), task.title));
                }
                for hint in &finding.hints {
                    out.push_str(&format!("    {hint}\n"));
                }
                if let Some(reason) = &finding.acked {
                    out.push_str(&format!("    acknowledged: {reason}\n"));
                }
            }
        }
        out.push_str(&format!("\n{}\n", self.summary()));
        crate::report::style::defuse(&out).into_owned()
    }

    /// One line: what there is of everything.
    pub fn summary(&self) -> String {
        let mut parts = vec![format!("{} in sync", self.in_sync())];
        parts.extend(self.counts().iter().map(|(verdict, count)| format!("{count} {}", label(*verdict))));
        let acked = self.findings.len() - self.open().count();
        if acked > 0 {
            parts.push(format!("{acked} acknowledged"));
        }
        let lost = self.hosts.iter().filter(|host| !host.reached).count();
        if lost > 0 {
            parts.push(format!("{lost} of {} hosts not reached", self.hosts.len()));
        }
        parts.join(", ")
    }

    fn json(&self) -> Value {
        let audit = &self.audit;
        Value::map(map_of([
            ("audit", Value::str(audit.new.id.as_str())),
            ("started", Value::str(time(audit.started))),
            ("ended", Value::from(audit.ended.map(time))),
            ("status", Value::str(audit.status.name())),
            ("exit", Value::from(audit.exit)),
            ("operator", Value::str(audit.new.operator.as_str())),
            ("commit", Value::from(audit.new.commit.clone())),
            ("playbooks", audit.new.playbooks.clone().into()),
            ("resources", Value::from(audit.resources)),
            ("in_sync", Value::from(self.in_sync())),
            (
                "counts",
                Value::map(
                    self.counts()
                        .iter()
                        .map(|(verdict, count)| (verdict.name().into(), Value::from(*count)))
                        .collect(),
                ),
            ),
            ("hosts", Value::list(self.hosts.iter().map(host_value).collect())),
            ("findings", Value::list(self.findings.iter().map(finding_value).collect())),
        ]))
    }
}

fn host_value(host: &AuditHost) -> Value {
    Value::map(map_of([
        ("host", Value::str(host.host.as_str())),
        ("reached", Value::Bool(host.reached)),
        ("problem", Value::from(host.problem.clone())),
        ("resources", Value::from(host.resources)),
        ("in_sync", Value::from(host.in_sync)),
    ]))
}

/// A finding as programs get it.
pub(crate) fn finding_value(finding: &Finding) -> Value {
    let state = |state: &Option<Value>| state.clone().unwrap_or_default();
    let task = finding.task.as_ref().map_or(Value::Null, |task| {
        Value::map(map_of([
            ("file", Value::str(task.file.as_str())),
            ("line", Value::from(task.line)),
            ("title", Value::str(task.title.as_str())),
        ]))
    });
    Value::map(map_of([
        ("host", Value::str(finding.host.as_str())),
        ("kind", Value::str(finding.kind.as_str())),
        ("id", Value::str(finding.id.as_str())),
        ("verdict", Value::str(finding.verdict.name())),
        ("applied", state(&finding.applied)),
        ("actual", state(&finding.actual)),
        ("desired", state(&finding.desired)),
        ("sealed", Value::Bool(finding.sealed)),
        ("task", task),
        ("hints", finding.hints.clone().into()),
        ("fingerprint", Value::str(finding.fingerprint.as_str())),
        ("acknowledged", Value::from(finding.acked.clone())),
    ]))
}

/// A property that is not everywhere the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    name: String,
    applied: Option<String>,
    actual: Option<String>,
    desired: Option<String>,
}

impl Row {
    fn line(&self) -> String {
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "—".into());
        let mut line = format!("{}: {} → {}", self.name, side(&self.applied), side(&self.actual));
        if let Some(desired) = &self.desired
            && self.desired != self.applied
        {
            line.push_str(&format!(" (wanted: {desired})"));
        }
        line
    }
}

/// The properties in which a finding's sides differ.
fn rows(finding: &Finding) -> Vec<Row> {
    if finding.sealed {
        return vec![Row {
            name: "content".into(),
            applied: Some("hidden".into()),
            actual: Some("another".into()),
            desired: None,
        }];
    }
    let empty = Map::new();
    let side = |side: &Option<Value>| match side {
        Some(Value::Map(map)) => map.as_ref().clone(),
        _ => empty.clone(),
    };
    let (applied, actual, desired) = (side(&finding.applied), side(&finding.actual), side(&finding.desired));
    let mut names: Vec<&Value> = applied.keys().chain(actual.keys()).chain(desired.keys()).collect();
    names.dedup();
    let mut rows: Vec<Row> = Vec::new();
    let absent = |whole: &Option<Value>| matches!(whole, Some(Value::Null));
    for name in names {
        let text = |map: &Map| map.get(name).map(shown);
        let row = Row {
            name: name.to_text(),
            applied: text(&applied),
            actual: text(&actual),
            desired: text(&desired),
        };
        let same = row.applied == row.actual && (row.desired.is_none() || row.desired == row.actual);
        if !same && !rows.iter().any(|known| known.name == row.name) {
            rows.push(row);
        }
    }
    if absent(&finding.actual) {
        let applied = (!applied.is_empty()).then(|| "there".to_string());
        return vec![Row { name: "state".into(), applied, actual: Some("absent".into()), desired: None }];
    }
    rows
}

/// A value on one line; digests are cut to what tells them apart.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Map(_) | Value::List(_) => {
            dump(value, &Layout { indent: None, sort_keys: true, ensure_ascii: false, separators: None })
        }
        other => other.to_text(),
    };
    let is_digest = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest { format!("{}…", &text[..12]) } else { text.replace('\n', "⏎") }
}

/// A verdict in words.
fn label(verdict: Verdict) -> String {
    verdict.name().replace('_', " ")
}

/// A time in milliseconds since the epoch as RFC 3339.
fn time(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis - millis.rem_euclid(1000))
        .map_or_else(|_| millis.to_string(), |time| time.to_string())
}

#[cfg(test)]
pub(crate) mod tests;
