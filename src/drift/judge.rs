//! Makes findings of what was applied, what hosts have and what the playbooks want.

use std::collections::{BTreeMap, HashMap, HashSet};

use rayon::prelude::*;

use super::gather::{Gathered, Key, Look, Want};
use super::verdict::{Desired, differences, same, verdict};
use crate::state::{Ack, Applied, AuditHost, Finding, Owed, Verdict, now, seal};
use crate::system::{Algorithm, digest};
use crate::value::{Map, Value};

/// What an audit has found.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// Each host.
    pub hosts: Vec<AuditHost>,
    /// What is not in sync.
    pub findings: Vec<Judgement>,
    /// Kinds of resources that can't be told without the playbook, and how many there are.
    pub not_told: BTreeMap<String, u64>,
    /// Handlers that are owed.
    pub owed: Vec<Owed>,
}

/// A finding with what is not stored.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The finding.
    pub finding: Finding,
    /// What was applied, if anything.
    pub applied: Option<Applied>,
    /// What the playbook wants, if it was asked.
    pub want: Option<Want>,
}

impl Judged {
    /// The exit code: 4 a host could not be reached, 2 drift, 3 only what has not been rolled out, 1 something
    /// could not be told, 0 in sync. Acknowledged findings don't count.
    pub fn exit(&self) -> u8 {
        let any = |wanted: &[Verdict]| {
            self.findings
                .iter()
                .map(|one| &one.finding)
                .any(|finding| finding.acked.is_none() && wanted.contains(&finding.verdict))
        };
        if self.hosts.iter().any(|host| !host.reached) {
            4
        } else if any(&[Verdict::Drifted, Verdict::Missing, Verdict::Conflict]) {
            2
        } else if any(&[Verdict::Pending, Verdict::NeverApplied, Verdict::Orphan]) || !self.owed.is_empty() {
            3
        } else if any(&[Verdict::Uncertain]) || self.hosts.iter().any(|host| host.problem.is_some()) {
            1
        } else {
            0
        }
    }
}

/// What judging needs besides what was gathered.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// What runs have left on the audited hosts.
    pub applied: &'a [Applied],
    /// Which of that the hosts say is as it was left.
    pub confirmed: &'a [bool],
    /// The audited hosts.
    pub hosts: &'a [String],
    /// Absolute paths of the playbooks that were asked; none: the store alone.
    pub playbooks: &'a [String],
    /// What is silenced.
    pub acks: &'a [Ack],
    /// Salt of sealed values.
    pub salt: &'a str,
}

/// Judges every resource.
pub fn judge(context: &Context<'_>, gathered: &Gathered) -> Judged {
    let mut by_host: HashMap<&str, Vec<(&Applied, bool)>> = HashMap::new();
    for (applied, confirmed) in context.applied.iter().zip(context.confirmed) {
        by_host.entry(&applied.host).or_default().push((applied, *confirmed));
    }
    let acks: HashMap<(&str, &str, &str), &Ack> = context
        .acks
        .iter()
        .map(|ack| ((ack.host.as_str(), ack.kind.as_str(), ack.id.as_str()), ack))
        .collect();
    let each = context.hosts.par_iter().map(|host| {
        let mut part = Judged::default();
        let resources = by_host.get(host.as_str()).map(Vec::as_slice).unwrap_or_default();
        part.host(context, gathered, host, resources, &acks);
        part
    });
    let mut judged = Judged::default();
    for part in each.collect::<Vec<Judged>>() {
        judged.hosts.extend(part.hosts);
        judged.findings.extend(part.findings);
        for (kind, count) in part.not_told {
            *judged.not_told.entry(kind).or_default() += count;
        }
    }
    judged
}

impl Judged {
    fn host(
        &mut self,
        context: &Context<'_>,
        gathered: &Gathered,
        host: &str,
        resources: &[(&Applied, bool)],
        acks: &HashMap<(&str, &str, &str), &Ack>,
    ) {
        let empty = Look::default();
        let look = gathered.looks.get(host).unwrap_or(&empty);
        let none = HashMap::new();
        let wants = gathered.wants.get(host).unwrap_or(&none);
        let mut tally = AuditHost { host: host.to_string(), reached: true, ..AuditHost::default() };
        if let Some(why) = gathered.unreachable.get(host) {
            tally.reached = false;
            tally.problem = Some(why.clone());
            tally.resources = resources.len() as u64;
            self.hosts.push(tally);
            return;
        }
        let failures = gathered.failures.get(host).map(Vec::as_slice).unwrap_or_default();
        if !failures.is_empty() {
            tally.problem = Some(format!("the dry run could not tell all: {}", failures.join("; ")));
        }
        let mut seen: HashSet<Key> = HashSet::new();
        let mut found: Vec<Judgement> = Vec::new();
        for (applied, confirmed) in resources {
            if *confirmed && context.playbooks.is_empty() && !look.added.contains_key(&applied.id) {
                tally.resources += 1;
                tally.in_sync += 1;
                continue;
            }
            let key: Key = (applied.kind.to_string(), applied.id.clone());
            let want = wants.get(&key);
            let told = crate::module::observe::can_observe(&applied.kind);
            if !told && want.is_none() {
                *self.not_told.entry(applied.kind.to_string()).or_default() += 1;
                seen.insert(key);
                continue;
            }
            tally.resources += 1;
            match one(context, gathered, host, look, &key, Some((applied, *confirmed)), want) {
                None => tally.in_sync += 1,
                Some(judgement) => found.push(judgement),
            }
            seen.insert(key);
        }
        let mut new: Vec<(&Key, &Want)> = wants.iter().filter(|(key, _)| !seen.contains(*key)).collect();
        new.sort_unstable_by(|one, other| one.0.cmp(other.0));
        for (key, want) in new {
            tally.resources += 1;
            match one(context, gathered, host, look, key, None, Some(want)) {
                None => tally.in_sync += 1,
                Some(judgement) => found.push(judgement),
            }
        }
        for judgement in &mut found {
            let finding = &mut judgement.finding;
            let ack = acks.get(&(finding.host.as_str(), finding.kind.as_str(), finding.id.as_str()));
            finding.acked = ack
                .filter(|ack| {
                    ack.fingerprint == finding.fingerprint && ack.expires.is_none_or(|ends| ends > now())
                })
                .map(|ack| format!("{} ({})", ack.reason, ack.owner));
        }
        self.hosts.push(tally);
        self.findings.extend(found);
    }
}

/// The finding on one resource; `None` if it is in sync.
fn one(
    context: &Context<'_>,
    gathered: &Gathered,
    host: &str,
    look: &Look,
    key: &Key,
    applied: Option<(&Applied, bool)>,
    want: Option<&Want>,
) -> Option<Judgement> {
    let confirmed = applied.filter(|(_, confirmed)| *confirmed).map(|(one, _)| one.state.value());
    let applied = applied.map(|(one, _)| one);
    let (kind, id) = (key.0.as_str(), key.1.as_str());
    let sealed = applied.is_some_and(|one| one.sealed) || want.is_some_and(|want| want.sealed);
    let stored = |value: &Value| seal::state(kind, value, sealed, context.salt);
    let left = applied.map(|one| one.state.value());
    let wanted = want.map(|want| stored(&want.state));
    let actual = actual(look.actual.get(key).or(confirmed.as_ref()), want).map(|actual| stored(&actual));
    let playbook_asked = !context.playbooks.is_empty();
    let ours =
        applied.is_some_and(|one| context.playbooks.iter().any(|playbook| **playbook == *one.playbook));
    let failed = |one: &Applied| {
        gathered.failed_tasks.get(host).is_some_and(|tasks| {
            tasks.contains(&one.task) || tasks.iter().any(|task| one.also.contains(task))
        })
    };
    let desired = match (&wanted, applied) {
        (Some(wanted), _) => Desired::State(wanted),
        (None, _) if !playbook_asked || !ours || !gathered.played.contains(host) => Desired::NotAsked,
        // A dry run notifies a handler only where something would change.
        (None, Some(one)) if one.task.handler => Desired::NotAsked,
        // What a failed task would have said of it is not known, nor what those after it that needed its result.
        (None, Some(one)) if failed(one) || gathered.failures.contains_key(host) => Desired::Unknown,
        (None, _) => Desired::Gone,
    };
    let added: &[String] =
        look.added.get(id).map(Vec::as_slice).filter(|_| kind == "file").unwrap_or_default();
    let decided = match verdict(left.as_ref(), desired, actual.as_ref(), true) {
        // Nobody recorded it, and it is as it should be: the next run will note it.
        Verdict::Adopted if left.is_none() => return None,
        Verdict::InSync if !added.is_empty() => Verdict::Drifted,
        Verdict::InSync => return None,
        other => other,
    };
    let mut hints: Vec<String> = Vec::new();
    if !added.is_empty() {
        hints.push(format!("added: {}", added.join(", ")));
    }
    hints.extend(look.problems.get(key).cloned());
    hints.extend(look.hints.get(id).into_iter().flatten().cloned());
    if look.skew.abs() > 60 {
        hints.push(format!("the host's clock is {} s off", look.skew));
    }
    let fingerprint = fingerprint(kind, id, actual.as_ref(), added);
    Some(Judgement {
        finding: Finding {
            host: host.to_string(),
            kind: kind.to_string(),
            id: id.to_string(),
            verdict: decided,
            applied: left,
            actual,
            desired: wanted,
            sealed,
            task: want.map(|want| want.task.clone()).or_else(|| applied.map(|one| one.task.clone())),
            hints,
            fingerprint,
            acked: None,
        },
        applied: applied.cloned(),
        want: want.cloned(),
    })
}

/// What the host has: what it told, and of properties that only the playbook names, what the dry run saw.
fn actual(told: Option<&Value>, want: Option<&Want>) -> Option<Value> {
    let Some(want) = want else { return told.cloned() };
    let seen = match &want.before {
        // It would not be changed: it is as it is to be.
        None => &want.state,
        Some(before) => before,
    };
    match told {
        None => Some(seen.clone()),
        Some(Value::Map(told)) => {
            let mut all: Map = told.as_ref().clone();
            if let Value::Map(seen) = seen {
                for (key, value) in seen.iter() {
                    all.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
            Some(Value::map(all))
        }
        Some(other) => Some(other.clone()),
    }
}

/// The same for the same state of the same resource on every host. Another size alone is no other state.
fn fingerprint(kind: &str, id: &str, actual: Option<&Value>, added: &[String]) -> String {
    let text = format!(
        "{kind}\0{id}\0{}\0{}",
        actual.map(|actual| serde_json::to_string(actual).unwrap_or_default()).unwrap_or_default(),
        added.join("\0")
    );
    digest::of_bytes(Algorithm::Sha256, text.as_bytes())[..16].to_string()
}

/// How a state came to differ, property by property: `mode 0644 → 0600`.
pub fn described(from: &Value, to: &Value) -> Vec<String> {
    let short = |value: Option<&Value>, key: &str| match value {
        Some(Value::Str(text)) if key == "sha256" => text.text.chars().take(12).collect(),
        Some(value) => value.to_text(),
        None if key == "type" => "file".to_string(),
        None => "-".to_string(),
    };
    match (from.is_null(), to.is_null()) {
        (true, true) => Vec::new(),
        (true, false) => vec!["absent → there".into()],
        (false, true) => vec!["there → absent".into()],
        (false, false) => differences(from, to)
            .into_iter()
            .map(|key| format!("{key} {} → {}", short(from.get(&key), &key), short(to.get(&key), &key)))
            .collect(),
    }
}

/// Whether a state equals another; for those outside who have states of findings.
pub fn equal(one: &Value, other: &Value) -> bool {
    same(one, other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Login, Stored, TaskRef};
    use crate::value::map_of;

    fn state(mode: &str) -> Value {
        Value::map(map_of([("mode", mode)]))
    }

    fn applied(id: &str, mode: &str) -> Applied {
        Applied {
            host: "web1".into(),
            kind: "file".into(),
            id: id.into(),
            state: Stored::from_text(&serde_json::to_string(&state(mode)).expect("plain")),
            sealed: false,
            task: TaskRef { file: "site.yml".into(), line: 3, title: "t".into(), ..TaskRef::default() }
                .into(),
            also: vec![],
            playbook: "/p/site.yml".into(),
            play: "web".into(),
            login: Login::default().into(),
            run: "1".into(),
            recorded: 1,
            changed_run: None,
            origin: "run".into(),
        }
    }

    fn key(id: &str) -> Key {
        ("file".into(), id.into())
    }

    fn want(mode: &str, before: Option<Value>) -> Want {
        let one = applied("/x", mode);
        Want {
            state: one.state.value(),
            before,
            text: None,
            task: one.task,
            also: vec![],
            playbook: one.playbook.to_string(),
            play: one.play.to_string(),
            login: one.login,
            sealed: false,
        }
    }

    fn told(judged: &Judged) -> Vec<String> {
        judged.findings.iter().map(|one| format!("{} {}", one.finding.id, one.finding.verdict)).collect()
    }

    #[test]
    fn findings_name_what_is_not_in_sync_and_nothing_else() {
        let resources =
            [applied("/same", "1"), applied("/drifted", "1"), applied("/gone", "1"), applied("/odd", "1")];
        let hosts = vec!["web1".to_string()];
        let mut look = Look { answered: true, ..Look::default() };
        look.actual.insert(key("/same"), state("1"));
        look.actual.insert(key("/drifted"), state("2"));
        look.actual.insert(key("/gone"), Value::Null);
        look.problems.insert(key("/odd"), "permission denied".into());
        let mut gathered = Gathered::default();
        gathered.looks.insert("web1".into(), look);
        let context = Context {
            applied: &resources,
            confirmed: &[false; 9],
            hosts: &hosts,
            playbooks: &[],
            acks: &[],
            salt: "s",
        };
        let judged = judge(&context, &gathered);
        assert_eq!(told(&judged), ["/drifted drifted", "/gone missing", "/odd uncertain"]);
        assert_eq!((judged.hosts[0].resources, judged.hosts[0].in_sync), (4, 1));
        assert_eq!(judged.exit(), 2);
        // What is acknowledged does not count until its value changes or its time is over.
        let ack = |one: &Judgement, expires: Option<i64>| Ack {
            host: "web1".into(),
            kind: "file".into(),
            id: one.finding.id.clone(),
            fingerprint: one.finding.fingerprint.clone(),
            reason: "known".into(),
            owner: "ann".into(),
            created: 1,
            expires,
        };
        let acks: Vec<Ack> = judged.findings.iter().map(|one| ack(one, None)).collect();
        let silent = judge(&Context { acks: &acks, ..context.clone() }, &gathered);
        assert_eq!((silent.findings.len(), silent.exit()), (3, 0));
        let acks: Vec<Ack> = judged.findings.iter().map(|one| ack(one, Some(5))).collect();
        assert_eq!(judge(&Context { acks: &acks, ..context.clone() }, &gathered).exit(), 2, "expired");
        let acks: Vec<Ack> = judged.findings.iter().map(|one| ack(one, None)).collect();
        let look = gathered.looks.get_mut("web1").expect("there");
        look.actual.insert(key("/drifted"), state("3"));
        assert_eq!(judge(&Context { acks: &acks, ..context.clone() }, &gathered).exit(), 2, "changed again");
        gathered.unreachable.insert("web1".into(), "no route".into());
        assert_eq!(judge(&context, &gathered).exit(), 4);
    }

    #[test]
    fn with_a_playbook_there_are_three_sides() {
        let resources = [
            applied("/pending", "1"),
            applied("/conflict", "1"),
            applied("/adopted", "1"),
            applied("/orphan", "1"),
            applied("/drifted", "1"),
        ];
        let hosts = vec!["web1".to_string()];
        let playbooks = vec!["/p/site.yml".to_string()];
        let mut look = Look { answered: true, ..Look::default() };
        for (id, mode) in
            [("/pending", "1"), ("/conflict", "3"), ("/adopted", "2"), ("/orphan", "1"), ("/drifted", "2")]
        {
            look.actual.insert(key(id), state(mode));
        }
        let mut gathered = Gathered::default();
        gathered.looks.insert("web1".into(), look);
        gathered.played.insert("web1".into());
        let wants = gathered.wants.entry("web1".into()).or_default();
        wants.insert(key("/pending"), want("2", Some(state("1"))));
        wants.insert(key("/conflict"), want("2", Some(state("3"))));
        wants.insert(key("/adopted"), want("2", None));
        wants.insert(key("/drifted"), want("1", Some(state("2"))));
        wants.insert(key("/new"), want("1", Some(Value::Null)));
        wants.insert(key("/already"), want("1", None));
        let context = Context {
            applied: &resources,
            confirmed: &[false; 9],
            hosts: &hosts,
            playbooks: &playbooks,
            acks: &[],
            salt: "s",
        };
        let expected = [
            "/pending pending",
            "/conflict conflict",
            "/adopted adopted",
            "/orphan orphan",
            "/drifted drifted",
            "/new never_applied",
        ];
        assert_eq!(told(&judge(&context, &gathered)), expected);
        // A handler that the dry run had no reason to run says nothing.
        let mut by_handler = resources.clone();
        by_handler[3].task = TaskRef { handler: true, ..(*by_handler[3].task).clone() }.into();
        let handled = judge(&Context { applied: &by_handler, ..context.clone() }, &gathered);
        assert!(!told(&handled).iter().any(|one| one.contains("orphan")));
        // Where the dry run has stumbled, what it does not have is not taken for gone.
        gathered.failures.insert("web1".into(), vec!["boom".into()]);
        assert!(!told(&judge(&context, &gathered)).iter().any(|one| one.contains("orphan")));
    }

    #[test]
    fn what_a_host_confirms_is_in_sync_and_the_playbook_may_still_want_something_else() {
        let resources = [applied("/same", "1"), applied("/pending", "1"), applied("/tree", "1")];
        let hosts = vec!["web1".to_string()];
        let mut gathered = Gathered::default();
        let look = gathered.looks.entry("web1".into()).or_default();
        look.added.insert("/tree".into(), vec!["x".into()]);
        let confirmed = [true; 3];
        let context = Context {
            applied: &resources,
            confirmed: &confirmed,
            hosts: &hosts,
            playbooks: &[],
            acks: &[],
            salt: "s",
        };
        let judged = judge(&context, &gathered);
        assert_eq!(told(&judged), ["/tree drifted"]);
        assert_eq!((judged.hosts[0].resources, judged.hosts[0].in_sync), (3, 2));
        let playbooks = vec!["/p/site.yml".to_string()];
        gathered.played.insert("web1".into());
        let wants = gathered.wants.entry("web1".into()).or_default();
        wants.insert(key("/same"), want("1", None));
        wants.insert(key("/pending"), want("2", Some(state("1"))));
        let judged = judge(&Context { playbooks: &playbooks, ..context }, &gathered);
        assert_eq!(told(&judged), ["/pending pending", "/tree orphan"]);
    }

    #[test]
    fn a_clock_that_is_off_changes_no_verdict_and_is_told_with_what_moved() {
        let resources = [applied("/same", "1"), applied("/drifted", "1")];
        let hosts = vec!["web1".to_string()];
        let context = Context {
            applied: &resources,
            confirmed: &[false; 9],
            hosts: &hosts,
            playbooks: &[],
            acks: &[],
            salt: "s",
        };
        for (skew, expected) in
            [(0, None), (60, None), (3600, Some("3600 s off")), (-7200, Some("-7200 s off"))]
        {
            let mut look = Look { answered: true, skew, ..Look::default() };
            look.actual.insert(key("/same"), state("1"));
            look.actual.insert(key("/drifted"), state("2"));
            let mut gathered = Gathered::default();
            gathered.looks.insert("web1".into(), look);
            let judged = judge(&context, &gathered);
            assert_eq!(told(&judged), ["/drifted drifted"], "{skew}");
            let said = judged.findings[0].finding.hints.iter().find(|hint| hint.contains("clock"));
            assert_eq!(said.is_some(), expected.is_some(), "{skew}");
            assert!(
                expected.is_none_or(|expected| said.is_some_and(|said| said.contains(expected))),
                "{said:?}"
            );
        }
    }

    #[test]
    fn a_host_that_tells_other_things_than_asked_changes_nothing() {
        let resources = [applied("/asked", "1")];
        let hosts = vec!["web1".to_string()];
        let mut look = Look { answered: true, ..Look::default() };
        look.actual.insert(key("/not/asked"), state("9"));
        let mut gathered = Gathered::default();
        gathered.looks.insert("web1".into(), look.clone());
        gathered.looks.insert("web2".into(), look);
        let context = Context {
            applied: &resources,
            confirmed: &[false; 9],
            hosts: &hosts,
            playbooks: &[],
            acks: &[],
            salt: "s",
        };
        let judged = judge(&context, &gathered);
        assert_eq!((told(&judged), judged.exit()), (vec!["/asked uncertain".to_string()], 1));
    }

    #[test]
    fn differences_are_said_in_a_line_each() {
        assert_eq!(described(&state("1"), &state("2")), ["mode 1 → 2"]);
        assert_eq!(described(&Value::Null, &state("2")), ["absent → there"]);
        assert_eq!(described(&state("1"), &Value::Null), ["there → absent"]);
        assert!(described(&state("1"), &state("1")).is_empty());
    }
}
