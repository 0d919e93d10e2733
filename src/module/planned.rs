//! What earlier tasks of a dry run have planned for packages, where the manager's own list is no text that could
//! be kept up in the overlay. A real run leaves nothing at these places, so that nothing is planned there.

use std::cmp::Ordering;
use std::path::PathBuf;

use crate::module::host;
use crate::system::{Effect, System};

/// A package and its version; `None` if it goes.
pub(crate) type Plan = (String, Option<String>);

/// What is planned for the packages of one manager.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    packages: Vec<Plan>,
}

fn place(manager: &str) -> PathBuf {
    format!("/run/setpoint-planned-{manager}").into()
}

impl Planned {
    /// Reads what has been recorded so far.
    pub(crate) fn read(manager: &str, system: &mut dyn System) -> Planned {
        let text = host::read_text(place(manager), system).unwrap_or_default();
        let plan = |line: &str| {
            let (name, version) = line.split_once(' ')?;
            Some((name.to_string(), (version != "-").then(|| version.to_string())))
        };
        Planned { packages: text.lines().filter_map(plan).collect() }
    }

    /// What it will be when these have been changed too.
    pub(crate) fn effect(mut self, manager: &str, changes: impl IntoIterator<Item = Plan>) -> Effect {
        for (name, version) in changes {
            self.packages.retain(|(known, _)| *known != name);
            self.packages.push((name, version));
        }
        let line = |(name, version): &Plan| format!("{name} {}\n", version.as_deref().unwrap_or("-"));
        Effect::Text(place(manager), self.packages.iter().map(line).collect())
    }

    /// All that is planned.
    pub(crate) fn packages(&self) -> &[Plan] {
        &self.packages
    }

    /// What is planned for a package: its version, or that it goes. `None` if nothing is.
    pub(crate) fn of(&self, name: &str) -> Option<Option<&str>> {
        self.packages.iter().find(|(known, _)| known == name).map(|(_, version)| version.as_deref())
    }

    /// Whether a package of rpm's that is named `a`, `a-1.0`, `a-1.0-1` or `a >= 1.0` will be there. `None` if
    /// nothing is planned for it.
    pub(crate) fn has_rpm(&self, name: &str) -> Option<bool> {
        let plain = |text: &str| text.split_once(':').map_or(text, |(_, rest)| rest).to_string();
        if let Some(at) = name.find(['<', '>', '=']) {
            let planned = self.of(name[..at].trim())?;
            let (operator, wanted) = name[at..].split_at(name[at..].rfind(['<', '>', '=']).unwrap_or(0) + 1);
            let wanted = wanted.trim();
            return Some(planned.is_some_and(|version| {
                let version = plain(version);
                // A version without a release means every release.
                let known = if wanted.contains('-') {
                    version.as_str()
                } else {
                    version.split('-').next().unwrap_or_default()
                };
                let order = compare_rpm(known, &plain(wanted));
                operator.contains('=') && order == Ordering::Equal
                    || operator.contains('>') && order == Ordering::Greater
                    || operator.contains('<') && order == Ordering::Less
            }));
        }
        if let Some(planned) = self.of(name) {
            return Some(planned.is_some());
        }
        let (_, version) = self.packages.iter().find(|(known, version)| {
            let rest = name.strip_prefix(known.as_str()).and_then(|rest| rest.strip_prefix('-'));
            let Some((rest, version)) = rest.zip(version.as_deref()) else { return false };
            let version = plain(version);
            rest == version || version.rsplit_once('-').is_some_and(|(version, _)| rest == version)
        })?;
        Some(version.is_some())
    }
}

/// The order of versions that rpm and pacman share: runs of digits by number, runs of letters by alphabet; a
/// tilde comes before everything, also the end.
pub(crate) fn compare_rpm(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        let skip = |c: char| !c.is_ascii_alphanumeric() && c != '~';
        (one, other) = (one.trim_start_matches(skip), other.trim_start_matches(skip));
        match (one.starts_with('~'), other.starts_with('~')) {
            (true, true) => {
                (one, other) = (&one[1..], &other[1..]);
                continue;
            }
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            _ => {}
        }
        match (one.is_empty(), other.is_empty()) {
            (true, true) => return Ordering::Equal,
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            _ => {}
        }
        let digits = one.starts_with(|c: char| c.is_ascii_digit());
        if digits != other.starts_with(|c: char| c.is_ascii_digit()) {
            // A number is newer than letters.
            return if digits { Ordering::Greater } else { Ordering::Less };
        }
        let run = |text: &str| {
            text.find(|c: char| if digits { !c.is_ascii_digit() } else { !c.is_ascii_alphabetic() })
                .unwrap_or(text.len())
        };
        let ((first, rest_one), (second, rest_other)) = (one.split_at(run(one)), other.split_at(run(other)));
        let order = if digits {
            let (first, second) = (first.trim_start_matches('0'), second.trim_start_matches('0'));
            first.len().cmp(&second.len()).then_with(|| first.cmp(second))
        } else {
            first.cmp(second)
        };
        if order != Ordering::Equal {
            return order;
        }
        (one, other) = (rest_one, rest_other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_rpm_does() {
        for (one, other, expected) in [
            ("1.0", "1.0", Ordering::Equal),
            ("1.0", "1.00", Ordering::Equal),
            ("1.10", "1.9", Ordering::Greater),
            ("1.0a", "1.0", Ordering::Greater),
            ("1.0~rc1", "1.0", Ordering::Less),
            ("1.0~rc1", "1.0~rc2", Ordering::Less),
            ("1a", "1.1", Ordering::Less),
            ("2.0-1", "2.0-1.fc40", Ordering::Less),
            ("20240101", "9", Ordering::Greater),
        ] {
            assert_eq!(compare_rpm(one, other), expected, "{one} {other}");
            assert_eq!(compare_rpm(other, one), expected.reverse(), "{other} {one}");
        }
    }

    #[test]
    fn what_is_planned_is_known_by_every_name() {
        let planned = Planned { packages: vec![("a".into(), Some("1:1.2-3".into())), ("b-c".into(), None)] };
        for (name, expected) in [
            ("a", Some(true)),
            ("a-1.2", Some(true)),
            ("a-1.2-3", Some(true)),
            ("a-1.3", None),
            ("a >= 1.2", Some(true)),
            ("a > 1.2", Some(false)),
            ("a = 1.2-3", Some(true)),
            ("a<2", Some(true)),
            ("b-c", Some(false)),
            ("b", None),
            ("z >= 1", None),
        ] {
            assert_eq!(planned.has_rpm(name), expected, "{name}");
        }
    }
}
