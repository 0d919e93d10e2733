//! The verdict on one resource: a pure function of what was applied, what is wanted, and what there is.

use crate::state::Verdict;
use crate::value::Value;

/// What the playbook says of a resource.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Desired<'a> {
    /// No playbook was asked.
    NotAsked,
    /// It is to be so; `Null`: absent.
    State(&'a Value),
    /// The playbook does not have it any more.
    Gone,
    /// The dry run could not tell (a task before it failed).
    Unknown,
}

/// Decides. `applied` is what a run left, `actual` what the host has (`None`: it could not be told); `Null`
/// stands for absent.
pub fn verdict(
    applied: Option<&Value>,
    desired: Desired<'_>,
    actual: Option<&Value>,
    reached: bool,
) -> Verdict {
    if !reached {
        return Verdict::Unreachable;
    }
    let Some(actual) = actual else { return Verdict::Uncertain };
    match (applied, desired) {
        (None, Desired::State(desired)) if same(desired, actual) => Verdict::Adopted,
        (None, Desired::State(_)) => Verdict::NeverApplied,
        // Nobody has ever said anything of it.
        (None, _) => Verdict::Uncertain,
        (Some(_), Desired::Gone) if actual.is_null() => Verdict::InSync,
        (Some(_), Desired::Gone) => Verdict::Orphan,
        (Some(applied), Desired::NotAsked | Desired::Unknown) => moved(applied, actual),
        (Some(applied), Desired::State(desired)) => match (same(applied, actual), same(applied, desired)) {
            (_, true) => moved(applied, actual),
            (true, false) => Verdict::Pending,
            (false, false) if same(desired, actual) => Verdict::Adopted,
            (false, false) => Verdict::Conflict,
        },
    }
}

fn moved(applied: &Value, actual: &Value) -> Verdict {
    if same(applied, actual) {
        Verdict::InSync
    } else if actual.is_null() {
        Verdict::Missing
    } else {
        Verdict::Drifted
    }
}

/// Whether two states are the same: in every property that both name. A type that only one names is that of
/// another kind of thing at the same path.
pub fn same(one: &Value, other: &Value) -> bool {
    differences(one, other).is_empty()
}

/// The properties in which two states differ, by name. States that can't be compared differ in `exists`.
pub fn differences(one: &Value, other: &Value) -> Vec<String> {
    match (one, other) {
        (Value::Map(one), Value::Map(other)) => {
            let mut keys: Vec<String> = Vec::new();
            if one.get("type") != other.get("type") {
                keys.push("type".into());
            }
            for (key, value) in one.iter() {
                let differs = other.get(key).is_some_and(|other| other != value);
                if differs && key.as_str() != Some("type") {
                    keys.push(key.to_text());
                }
            }
            keys
        }
        _ if one == other => Vec::new(),
        _ => vec!["exists".into()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::map_of;

    #[test]
    fn every_combination_has_its_verdict() {
        let states = [("a", Value::map(map_of([("v", "a")]))), ("b", Value::map(map_of([("v", "b")])))];
        let c = Value::map(map_of([("v", "c")]));
        let absent = Value::Null;
        let named = |name: &str| -> Option<&Value> {
            match name {
                "-" => None,
                "0" => Some(&absent),
                "c" => Some(&c),
                name => states.iter().find(|(known, _)| *known == name).map(|(_, value)| value),
            }
        };
        // Applied, wanted, there (`-`: not known; `0`: absent; `?`: not told; `x`: no longer in the playbook;
        // `.`: not asked), and what it is.
        let table = "
            a . a in_sync | a . b drifted  | a . 0 missing  | a . - uncertain
            0 . 0 in_sync | 0 . a drifted  | 0 . - uncertain
            - . a uncertain | - . 0 uncertain | - . - uncertain
            a ? a in_sync | a ? b drifted | a ? 0 missing | a ? - uncertain
            0 ? 0 in_sync | 0 ? a drifted | 0 ? - uncertain
            - ? a uncertain | - ? 0 uncertain | - ? - uncertain
            a x a orphan | a x b orphan | a x 0 in_sync | a x - uncertain
            0 x 0 in_sync | 0 x a orphan | 0 x - uncertain
            - x a uncertain | - x 0 uncertain | - x - uncertain
            a a a in_sync | a a b drifted | a a 0 missing | a a - uncertain
            a b a pending | a b b adopted | a b c conflict | a b 0 conflict | a b - uncertain
            a 0 a pending | a 0 0 adopted | a 0 b conflict | a 0 - uncertain
            0 a 0 pending | 0 a a adopted | 0 a b conflict | 0 a - uncertain
            0 0 0 in_sync | 0 0 a drifted | 0 0 - uncertain
            - a a adopted | - a b never_applied | - a 0 never_applied | - a - uncertain
            - 0 0 adopted | - 0 a never_applied | - 0 - uncertain";
        let mut count = 0;
        for case in table.split(['\n', '|']).map(str::trim).filter(|case| !case.is_empty()) {
            let words: Vec<&str> = case.split_whitespace().collect();
            let desired = match words[1] {
                "." => Desired::NotAsked,
                "?" => Desired::Unknown,
                "x" => Desired::Gone,
                name => Desired::State(named(name).expect("a state")),
            };
            let (applied, actual) = (named(words[0]), named(words[2]));
            assert_eq!(verdict(applied, desired, actual, true).name(), words[3], "{case}");
            assert_eq!(verdict(applied, desired, actual, false), Verdict::Unreachable, "{case}");
            count += 1;
        }
        assert_eq!(count, 57);
    }

    #[test]
    fn states_are_compared_in_what_both_name() {
        let map = |pairs: &[(&str, &str)]| Value::map(map_of(pairs.iter().copied()));
        for (one, other, expected) in [
            (map(&[("mode", "1")]), map(&[("mode", "1"), ("size", "3")]), ""),
            (map(&[("mode", "1"), ("size", "2")]), map(&[("mode", "2"), ("size", "3")]), "mode size"),
            (map(&[("type", "directory"), ("mode", "1")]), map(&[("mode", "1")]), "type"),
            (map(&[("mode", "1")]), Value::Null, "exists"),
            (Value::Null, Value::Null, ""),
        ] {
            assert_eq!(differences(&one, &other).join(" "), expected);
        }
    }
}
