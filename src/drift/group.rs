//! One finding for many hosts is shown once, with those that differ.

use std::collections::BTreeMap;

use super::judge::{Judgement, described};
use crate::state::Verdict;
use crate::value::Value;

/// What was found of one resource on several hosts.
#[derive(Debug)]
pub struct Group<'a> {
    /// Kind of resource.
    pub kind: &'a str,
    /// Which one.
    pub id: &'a str,
    /// Hosts that agree, the largest party first; those of one party in order.
    pub parties: Vec<Vec<&'a Judgement>>,
}

/// Groups findings by resource, and each resource's hosts by what they have.
pub fn group(findings: &[Judgement]) -> Vec<Group<'_>> {
    let mut resources: BTreeMap<(&str, &str), BTreeMap<(Verdict, &str), Vec<&Judgement>>> = BTreeMap::new();
    for one in findings {
        let finding = &one.finding;
        let parties = resources.entry((&finding.kind, &finding.id)).or_default();
        // Where the playbook has moved on, what each host has is not the point.
        let moved_on = matches!(finding.verdict, Verdict::Pending | Verdict::NeverApplied | Verdict::Orphan);
        let what = if moved_on { "" } else { finding.fingerprint.as_str() };
        parties.entry((finding.verdict, what)).or_default().push(one);
    }
    let groups = resources.into_iter().map(|((kind, id), parties)| {
        let mut parties: Vec<Vec<&Judgement>> = parties.into_values().collect();
        parties.sort_by_key(|party| std::cmp::Reverse(party.len()));
        Group { kind, id, parties }
    });
    groups.collect()
}

/// Names of hosts, so many at most.
fn names(party: &[&Judgement]) -> String {
    const SHOWN: usize = 5;
    let mut text: Vec<&str> = party.iter().take(SHOWN).map(|one| one.finding.host.as_str()).collect();
    let more = party.len().saturating_sub(SHOWN);
    let rest = format!("{more} more");
    if more > 0 {
        text.push(&rest);
    }
    text.join(", ")
}

/// The lines that tell of a group; `total` hosts have the resource.
pub fn told(group: &Group<'_>, total: usize, diffs: bool) -> Vec<String> {
    let mut out = Vec::new();
    let count: usize = group.parties.iter().map(Vec::len).sum();
    let several = group.parties.len() > 1;
    for (index, party) in group.parties.iter().enumerate() {
        let Some(first) = party.first() else { continue };
        let finding = &first.finding;
        let whom = match (several, index) {
            (true, 0) => format!("{} of {count} agree: {}", party.len(), names(party)),
            (true, _) => format!("{} differ{}", names(party), if party.len() == 1 { "s" } else { "" }),
            (false, _) if total > 1 => format!("{count} of {total} hosts: {}", names(party)),
            (false, _) => names(party),
        };
        let acked = finding.acked.as_ref().map(|why| format!(" [acknowledged: {why}]")).unwrap_or_default();
        out.push(format!("{:<13} {} {}  ({whom}){acked}", finding.verdict.name(), group.kind, group.id));
        for line in difference(first) {
            out.push(format!("              {line}"));
        }
        if let Some(task) = &finding.task {
            out.push(format!("              task {} ({})", task.title, task.place()));
        }
        for hint in &finding.hints {
            out.push(format!("              {hint}"));
        }
        if diffs && let Some((there, wanted)) = first.want.as_ref().and_then(|want| want.text.as_ref()) {
            let diff = similar::TextDiff::from_lines(there.as_str(), wanted.as_str());
            let text = diff.unified_diff().context_radius(2).header("there", "wanted").to_string();
            out.extend(text.lines().map(|line| format!("              {line}")));
        }
    }
    out
}

/// In what the sides differ.
fn difference(one: &Judgement) -> Vec<String> {
    let finding = &one.finding;
    let null = Value::Null;
    let actual = finding.actual.as_ref().unwrap_or(&null);
    let applied = finding.applied.as_ref();
    let desired = finding.desired.as_ref();
    let line = |what: &str, from: &Value, to: &Value| {
        let parts = described(from, to);
        (!parts.is_empty()).then(|| format!("{what}: {}", parts.join(", ")))
    };
    let on_host = applied.and_then(|applied| line("on the host", applied, actual));
    match finding.verdict {
        Verdict::Pending => {
            applied.zip(desired).and_then(|(a, d)| line("in the playbook", a, d)).into_iter().collect()
        }
        Verdict::NeverApplied => desired.and_then(|d| line("wanted", actual, d)).into_iter().collect(),
        Verdict::Conflict | Verdict::Adopted => {
            let moved = applied.zip(desired).and_then(|(a, d)| line("in the playbook", a, d));
            on_host.into_iter().chain(moved).collect()
        }
        _ => on_host.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Finding;
    use crate::value::map_of;

    #[test]
    fn hosts_that_agree_are_told_once_and_outliers_by_name() {
        let finding = |host: &str, mode: &str| Judgement {
            finding: Finding {
                host: host.into(),
                kind: "file".into(),
                id: "/etc/motd".into(),
                verdict: Verdict::Drifted,
                applied: Some(Value::map(map_of([("mode", "0644")]))),
                actual: Some(Value::map(map_of([("mode", mode)]))),
                desired: None,
                sealed: false,
                task: None,
                hints: vec![],
                fingerprint: mode.into(),
                acked: None,
            },
            applied: None,
            want: None,
        };
        let mut findings: Vec<Judgement> = (1..40).map(|n| finding(&format!("web{n:02}"), "0600")).collect();
        findings.push(finding("web99", "0777"));
        let groups = group(&findings);
        assert_eq!(groups.len(), 1);
        assert_eq!(
            told(&groups[0], 40, false),
            [
                "drifted       file /etc/motd  (39 of 40 agree: web01, web02, web03, web04, web05, 34 more)",
                "              on the host: mode 0644 → 0600",
                "drifted       file /etc/motd  (web99 differs)",
                "              on the host: mode 0644 → 0777",
            ]
        );
        let alone = [finding("web1", "0600")];
        assert_eq!(
            told(&group(&alone)[0], 9, false)[0],
            "drifted       file /etc/motd  (1 of 9 hosts: web1)"
        );
    }
}
