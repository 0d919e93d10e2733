//! What a command changed: the places that the commands of modules write to are looked at after each
//! command, and so is the list of packages. What lies elsewhere is not known.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::change;
use super::super::{FileKind, Intent, Result, Stat, System};
use super::alarm::Alarm;
use super::{Caught, CaughtPackage, CaughtPath, Entry, Keep, Package, Rules, Store, restore, rules};

/// Where commands leave their traces: accounts, links of services, configuration, crontabs.
const PLACES: &[&str] = &["/etc", "/var/spool/cron"];

/// dpkg's list of packages.
const STATUS: &str = "/var/lib/dpkg/status";

/// With more entries than this the places are not watched.
const MAX_PATHS: usize = 50_000;

/// The clock of file systems may be behind by this many seconds.
const COARSE: f64 = 0.05;

/// What is watched, as it was when last seen.
#[derive(Debug)]
pub(super) struct Watch {
    places: Vec<PathBuf>,
    status: Option<PathBuf>,
    seen: Option<Places>,
    alarm: Option<Alarm>,
    packages: Option<(Stamp, Packages)>,
}

/// Packages by name.
type Packages = BTreeMap<String, Package>;

/// What is there, by path. Texts are compared far sooner than paths, whose parts would be.
type Places = BTreeMap<OsString, Seen>;

#[derive(Debug)]
struct Seen {
    stat: Stat,
    entry: Entry,
}

/// What tells that a file was not touched.
type Stamp = (u64, u64, u64);

/// What was noted before a command.
#[derive(Debug)]
pub(in super::super) struct Before {
    started: f64,
    rules: Option<Vec<Rules>>,
}

impl Watch {
    /// Only root's commands can change the usual places.
    pub(super) fn new(root: bool) -> Watch {
        if root {
            let places: Vec<&Path> = PLACES.iter().map(Path::new).collect();
            Watch::of(&places, Some(Path::new(STATUS)))
        } else {
            Watch::of(&[], None)
        }
    }

    pub(super) fn of(places: &[&Path], status: Option<&Path>) -> Watch {
        Watch {
            places: places.iter().map(PathBuf::from).collect(),
            status: status.map(PathBuf::from),
            seen: None,
            alarm: None,
            packages: None,
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn stamp(stat: &Stat) -> Stamp {
    (stat.inode, stat.ctime.to_bits(), stat.size)
}

/// Everything in these places. Directories are listened to before they are looked at, so that nothing is missed.
fn scan(system: &mut dyn System, places: &[PathBuf], alarm: &mut Alarm) -> Option<BTreeMap<OsString, Stat>> {
    let mut found = BTreeMap::new();
    let mut left: Vec<PathBuf> = places.to_vec();
    while let Some(path) = left.pop() {
        // What vanishes meanwhile is not there.
        let Ok(Some(stat)) = system.stat(&path) else { continue };
        if stat.kind == FileKind::Directory {
            alarm.listen_to(&path);
            left.extend(system.list(&path).unwrap_or_default().into_iter().map(|name| path.join(name)));
        }
        found.insert(path.into_os_string(), stat);
        if found.len() > MAX_PATHS {
            return None;
        }
    }
    Some(found)
}

/// Whether something at a path is another than before. What is in a directory does not count.
fn differs(one: &Stat, other: &Stat) -> bool {
    let plain = |stat: &Stat| (stat.kind, stat.mode, stat.uid, stat.gid);
    plain(one) != plain(other) || (one.kind != FileKind::Directory && stamp(one) != stamp(other))
}

impl Store {
    /// Sees to it that what a command may change is kept.
    pub(super) fn look_before(&mut self, system: &mut dyn System, intent: &Intent) -> Result<Before> {
        if self.watch.seen.is_none() && !self.watch.places.is_empty() {
            let mut alarm = Alarm::new(&self.watch.places);
            let found = scan(system, &self.watch.places, &mut alarm);
            self.watch.alarm = Some(alarm);
            let mut seen = BTreeMap::new();
            for (path, stat) in found.unwrap_or_default() {
                let entry = self.flat_entry(system, Path::new(&path), &stat, Keep::Held)?;
                seen.insert(path, Seen { stat, entry });
            }
            self.watch.seen = Some(seen);
        }
        self.packages(system)?;
        // A program that the command installs could tell only afterwards, and then nothing can be compared.
        let rules = if rules::is_about(intent) { rules::read_known(system) } else { None };
        Ok(Before { started: now() - COARSE, rules })
    }

    /// Reads the packages again if the list has changed; returns those of before if it has.
    fn packages(&mut self, system: &mut dyn System) -> Result<Option<Packages>> {
        let Some(status) = self.watch.status.clone() else { return Ok(None) };
        let Some(stat) = system.stat(&status)? else { return Ok(None) };
        let stamp = stamp(&stat);
        if self.watch.packages.as_ref().is_some_and(|(known, _)| *known == stamp) {
            return Ok(None);
        }
        let now = restore::packages(system, &status)?;
        Ok(self.watch.packages.replace((stamp, now)).map(|(_, earlier)| earlier))
    }

    /// What has changed since.
    pub(super) fn look_after(&mut self, system: &mut dyn System, before: Before) -> Result<Caught> {
        let mut caught = Caught::default();
        if let Some(mut seen) = self.watch.seen.take().filter(|seen| !seen.is_empty()) {
            caught.watched = true;
            let mut alarm = self.watch.alarm.take().unwrap_or_else(|| Alarm::new(&self.watch.places));
            if alarm.rang()
                && let Some(found) = scan(system, &self.watch.places, &mut alarm)
            {
                self.compare(system, before.started, &mut seen, found, &mut caught)?;
            }
            self.watch.alarm = Some(alarm);
            self.watch.seen = Some(seen);
        }
        if let Some(earlier) = self.packages(system)?
            && let Some((_, later)) = &self.watch.packages
        {
            caught.packages = compare_packages(&earlier, later);
        }
        if let Some(earlier) = before.rules {
            let later = rules::read(system);
            if earlier != later {
                caught.rules = Some((earlier, later));
            }
        }
        Ok(caught)
    }

    fn compare(
        &mut self,
        system: &mut dyn System,
        started: f64,
        seen: &mut Places,
        found: BTreeMap<OsString, Stat>,
        caught: &mut Caught,
    ) -> Result<()> {
        let gone: Vec<OsString> = seen.keys().filter(|path| !found.contains_key(*path)).cloned().collect();
        for path in gone {
            let Some(known) = seen.remove(&path) else { continue };
            // Without the command it would have gone when its directory was changed last.
            let by_command = Path::new(&path)
                .parent()
                .and_then(|parent| found.get(parent.as_os_str()))
                .is_none_or(|parent| parent.ctime >= started);
            if by_command {
                let after = crate::value::Value::Null;
                self.write_held(&known.entry)?;
                caught.paths.push(CaughtPath { path: path.into_vec(), before: known.entry, after });
            }
        }
        for (path, stat) in found {
            let known = seen.get(&path);
            if known.is_some_and(|known| !differs(&known.stat, &stat)) {
                continue;
            }
            let after = change::state(system, Path::new(&path))?;
            let entry = self.flat_entry(system, Path::new(&path), &stat, Keep::Held)?;
            // What the run itself wrote before the command has a record of its own.
            if stat.ctime >= started {
                let before = known.map_or(Entry::Absent, |known| known.entry.clone());
                if !restore::is_as(&before, &after) {
                    self.write_held(&before)?;
                    caught.paths.push(CaughtPath { path: path.as_bytes().to_vec(), before, after });
                }
            }
            seen.insert(path, Seen { stat, entry });
        }
        Ok(())
    }
}

fn compare_packages(earlier: &Packages, later: &Packages) -> Vec<CaughtPackage> {
    let mut names: Vec<&String> = earlier.keys().chain(later.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let of = |packages: &Packages, name: &String| packages.get(name).cloned().unwrap_or_default();
    names
        .into_iter()
        .map(|name| CaughtPackage { name: name.clone(), before: of(earlier, name), after: of(later, name) })
        .filter(|package| package.before != package.after)
        .collect()
}
