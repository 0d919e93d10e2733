//! What is new since the audit before: only that is worth a message. Known findings are not told again.

use std::collections::BTreeSet;

use super::{AuditReport, machines};
use crate::state::Finding;
use crate::value::{Value, map_of};

/// What has changed from one audit to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// Findings that were not there, or were another value then.
    pub new: Vec<Finding>,
    /// Findings that are gone, on hosts that were reached.
    pub gone: Vec<Finding>,
    /// Hosts that could be reached and can't any more.
    pub lost: Vec<String>,
    /// Hosts that can be reached again.
    pub found: Vec<String>,
}

type Key<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str);

fn key(finding: &Finding) -> Key<'_> {
    (&finding.host, &finding.kind, &finding.id, finding.verdict.name(), &finding.fingerprint)
}

/// What has changed. Without an audit before, everything is new.
pub fn news(before: Option<&AuditReport>, now: &AuditReport) -> News {
    let keys = |report: &AuditReport| -> BTreeSet<String> {
        report.open().map(|finding| format!("{:?}", key(finding))).collect()
    };
    let reached = |report: &AuditReport| -> BTreeSet<String> {
        report.hosts.iter().filter(|host| host.reached).map(|host| host.host.clone()).collect()
    };
    let earlier = before.map(keys).unwrap_or_default();
    let later = keys(now);
    let was = before.map(reached).unwrap_or_default();
    let is = reached(now);
    let audited: BTreeSet<&str> = now.hosts.iter().map(|host| host.host.as_str()).collect();
    let known: BTreeSet<&str> =
        before.iter().flat_map(|report| &report.hosts).map(|host| host.host.as_str()).collect();
    let new = now.open().filter(|finding| !earlier.contains(&format!("{:?}", key(finding)))).cloned();
    let gone = before
        .iter()
        .flat_map(|report| report.open())
        .filter(|finding| is.contains(&finding.host) && !later.contains(&format!("{:?}", key(finding))));
    News {
        new: new.collect(),
        gone: gone.cloned().collect(),
        lost: audited
            .iter()
            .filter(|host| !is.contains(**host) && (was.contains(**host) || !known.contains(**host)))
            .map(|host| (*host).to_string())
            .collect(),
        found: is
            .iter()
            .filter(|host| known.contains(host.as_str()) && !was.contains(*host))
            .cloned()
            .collect(),
    }
}

impl News {
    /// Nothing has changed.
    pub fn is_empty(&self) -> bool {
        *self == News::default()
    }

    /// A subject line.
    pub fn subject(&self, now: &AuditReport) -> String {
        let mut parts = Vec::new();
        for (count, what) in [
            (self.new.len(), "new"),
            (self.gone.len(), "resolved"),
            (self.lost.len(), "hosts lost"),
            (self.found.len(), "hosts back"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        format!("setpoint drift: {} ({})", parts.join(", "), now.summary())
    }

    /// The message's text.
    pub fn text(&self, now: &AuditReport) -> String {
        let mut out = format!("{}\n", self.subject(now));
        let mut part = |title: &str, lines: Vec<String>| {
            if !lines.is_empty() {
                out.push_str(&format!("\n{title}:\n"));
                out.extend(lines.into_iter().map(|line| format!("  {line}\n")));
            }
        };
        let told = |findings: &[Finding]| {
            findings
                .iter()
                .map(|finding| {
                    let place = finding.task.as_ref().map(|task| format!("  [{}]", task.place()));
                    format!("{}{}", machines::sentence(finding), place.unwrap_or_default())
                })
                .collect::<Vec<_>>()
        };
        part("New", told(&self.new));
        part("Resolved", told(&self.gone));
        part("Not reached any more", self.lost.clone());
        part("Reached again", self.found.clone());
        out
    }

    /// The same for programs.
    pub fn json(&self, now: &AuditReport) -> Value {
        let findings =
            |findings: &[Finding]| Value::list(findings.iter().map(super::finding_value).collect());
        Value::map(map_of([
            ("text", Value::str(self.text(now))),
            ("audit", Value::str(now.audit.new.id.as_str())),
            ("summary", Value::str(now.summary())),
            ("new", findings(&self.new)),
            ("resolved", findings(&self.gone)),
            ("hosts_lost", self.lost.clone().into()),
            ("hosts_back", self.found.clone().into()),
        ]))
    }
}
