//! Takes a run back: the last change first, what somebody changed since left alone, services told at the end.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::super::change;
use super::super::path::os_error;
use super::super::{
    Algorithm, Attributes, Command, Content, Done, Effect, FileKind, Intent, LinkKind, Result, System,
    SystemError, WriteOptions,
};
use super::{Caught, CaughtPackage, Entry, Kept, Package, Prior, Records, Rules, rules};
use crate::value::{Map, Value, map_of};

/// Places of units, after a change of which systemd has to read them again.
const UNITS: &[&str] = &[
    "/etc/systemd/system",
    "/etc/systemd/user",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/usr/local/lib/systemd/system",
];

/// How much of what a directory still holds is named.
const NAMED: usize = 3;

/// What became (or, in a dry run, would become) of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is again as it was.
    Restored,
    /// It was so already.
    Already,
    /// It was not touched, or could not be put back, and why.
    Left(String),
    /// There is no way to take it back, and why.
    Impossible(String),
}

/// One thing that a run changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What: a path, `package nginx`, …
    pub what: String,
    /// How it is taken back.
    pub how: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// How a run is taken back.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Where the contents are.
    pub directory: &'a Path,
    /// What the run changed.
    pub records: &'a Records,
    /// Also what somebody else changed since, and what depends on packages that go.
    pub force: bool,
    /// The run cut the host off: the packet filter's rules come first and last.
    pub rescue: bool,
}

/// Takes a run back.
///
/// What goes wrong with a single thing is told in its place, so that the rest is taken back all the same.
pub fn restore(plan: Plan<'_>, system: &mut dyn System) -> Vec<Step> {
    let mut work = Work {
        chains: chains(&plan.records.list),
        plan,
        verdicts: HashMap::new(),
        steps: Vec::new(),
        places: HashMap::new(),
        again: Vec::new(),
        units: false,
    };
    work.judge(system);
    work.run(system);
    work.steps
}

/// What a path went through in the run.
struct Chain {
    /// The record that tells of it first; what was there then is what is put back.
    record: usize,
    /// What was there before the run.
    first: Entry,
    /// All states that it had since. `None` among them: one that is not known.
    states: Vec<Option<Value>>,
}

struct Work<'a> {
    plan: Plan<'a>,
    chains: BTreeMap<PathBuf, Chain>,
    /// Why a path must not be touched.
    verdicts: HashMap<PathBuf, String>,
    steps: Vec<Step>,
    /// Which step tells of a thing.
    places: HashMap<String, usize>,
    again: Vec<(String, Command)>,
    units: bool,
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

fn chains(records: &[Prior]) -> BTreeMap<PathBuf, Chain> {
    let mut chains: BTreeMap<PathBuf, Chain> = BTreeMap::new();
    let mut note = |record: usize, path: &[u8], before: &Entry, state: Option<Value>| {
        let new = || Chain { record, first: before.clone(), states: Vec::new() };
        chains.entry(path_of(path)).or_insert_with(new).states.push(state);
    };
    let mut made: Vec<(&[u8], &Value)> = Vec::new();
    for (number, record) in records.iter().enumerate() {
        match record {
            // Whether the change was made is told by a later record, if it was.
            Prior::Path { path, before } => note(number, path, before, None),
            Prior::Made { path, state } => made.push((path, state)),
            Prior::Caught(caught) => {
                for one in &caught.paths {
                    note(number, &one.path, &one.before, Some(one.after.clone()));
                }
            }
            _ => {}
        }
    }
    for (path, state) in made {
        if let Some(chain) = chains.get_mut(&path_of(path)) {
            if let Some(unknown) = chain.states.iter().position(Option::is_none) {
                chain.states.remove(unknown);
            }
            chain.states.push(Some(state.clone()));
        }
    }
    chains
}

/// Whether a path's state is what was kept.
pub(super) fn is_as(entry: &Entry, now: &Value) -> bool {
    let number = |key: &str| now.get(key).and_then(Value::as_int);
    let owned = |kept: &Kept| {
        number("uid") == Some(i64::from(kept.uid)) && number("gid") == Some(i64::from(kept.gid))
    };
    let moded =
        |kept: &Kept| now.get("mode").and_then(Value::as_str) == Some(change::mode_text(kept.mode).as_str());
    match entry {
        Entry::Absent => now.is_null(),
        Entry::File { attributes, content } => {
            let sha256 = now.get("sha256").and_then(Value::as_str);
            now.get("size").is_some()
                && owned(attributes)
                && moded(attributes)
                && content.as_deref().is_none_or(|content| sha256 == Some(content))
        }
        Entry::Directory { attributes, .. } => {
            now.get("size").is_none() && now.get("target").is_none() && owned(attributes) && moded(attributes)
        }
        Entry::Link { target, attributes } => {
            let target = String::from_utf8_lossy(target);
            now.get("target").and_then(Value::as_str) == Some(&*target) && owned(attributes)
        }
        Entry::NotKept(_) => false,
    }
}

impl Work<'_> {
    /// Decides which paths somebody else has changed since, before anything is touched.
    fn judge(&mut self, system: &mut dyn System) {
        if self.plan.force {
            return;
        }
        for (path, Chain { first, states, .. }) in &self.chains {
            let now = match change::state(system, path) {
                Ok(now) => now,
                Err(error) => {
                    self.verdicts.insert(path.clone(), error.to_string());
                    continue;
                }
            };
            let known = states.iter().any(|state| state.as_ref().is_none_or(|state| *state == now));
            if !known && !is_as(first, &now) {
                self.verdicts.insert(path.clone(), "it was changed since".into());
            }
        }
    }

    fn run(&mut self, system: &mut dyn System) {
        let records = &self.plan.records.list;
        if self.plan.rescue {
            self.baseline(records, system);
        }
        let mut caught: Option<(usize, &Caught)> = None;
        for (number, record) in records.iter().enumerate().rev() {
            match record {
                Prior::Made { .. } | Prior::Rules(_) => {}
                Prior::Caught(found) => caught = Some((number, found)),
                Prior::Path { path, before } => self.path(number, &path_of(path), before, system),
                Prior::Command { .. } => self.command(record, caught.take(), system),
                Prior::Lost { id, reason } => {
                    self.tell(id.clone(), "nothing", Outcome::Impossible(reason.clone()));
                }
            }
        }
        if self.units {
            let command = Command::new(["systemctl", "daemon-reload"]);
            self.again.push(("systemd".into(), command));
        }
        // What was told first is told first again; systemd before its units.
        for (what, command) in std::mem::take(&mut self.again).into_iter().rev() {
            self.repeat(what, &command, system);
        }
        if self.plan.rescue {
            self.baseline(records, system);
        }
    }

    /// Says what became of a thing; the last word counts.
    fn tell(&mut self, what: String, how: impl Into<String>, outcome: Outcome) {
        let step = Step { what: what.clone(), how: how.into(), outcome };
        match self.places.get(&what) {
            // It was told already that something was done; that nothing had to be done after that is no news.
            Some(_) if step.outcome == Outcome::Already => {}
            Some(place) => self.steps[*place] = step,
            None => {
                self.places.insert(what, self.steps.len());
                self.steps.push(step);
            }
        }
    }

    fn has_baseline(&self) -> bool {
        self.plan.records.list.iter().any(|record| matches!(record, Prior::Rules(_)))
    }

    fn baseline(&mut self, records: &[Prior], system: &mut dyn System) {
        let Some(before) = records.iter().find_map(|record| match record {
            Prior::Rules(rules) => Some(rules),
            _ => None,
        }) else {
            return;
        };
        self.rules(before, system);
    }

    /// Puts the rules back; returns whether that worked.
    fn rules(&mut self, before: &[Rules], system: &mut dyn System) -> bool {
        let outcome = match rules::put_back(system, before) {
            Ok(true) => Outcome::Restored,
            Ok(false) => Outcome::Already,
            Err(error) => Outcome::Left(error.to_string()),
        };
        let worked = !matches!(outcome, Outcome::Left(_));
        self.tell("the packet filter's rules".into(), "put back", outcome);
        worked
    }

    fn path(&mut self, record: usize, path: &Path, before: &Entry, system: &mut dyn System) {
        // What it was in between is of no interest.
        if self.chains.get(path).is_some_and(|chain| chain.record != record) {
            return;
        }
        let what = path.to_string_lossy().into_owned();
        let how = how(before);
        if let Some(reason) = self.verdicts.get(path) {
            return self.tell(what, how, Outcome::Left(reason.clone()));
        }
        let outcome = match self.put_back(path, before, system) {
            Ok(true) => {
                self.units |= UNITS.iter().any(|place| path.starts_with(place));
                Outcome::Restored
            }
            Ok(false) => Outcome::Already,
            Err(error) => Outcome::Left(error.to_string()),
        };
        self.tell(what, how, outcome);
    }

    /// Returns whether anything had to be done.
    fn put_back(&self, path: &Path, before: &Entry, system: &mut dyn System) -> Result<bool> {
        if let Entry::NotKept(reason) = before {
            return Err(SystemError::Other(format!("what was there was not kept: {reason}")));
        }
        let now = change::state(system, path)?;
        let same = is_as(before, &now);
        if same && !matches!(before, Entry::Directory { entries, .. } if !entries.is_empty()) {
            return Ok(false);
        }
        let there = system.stat(path)?.map(|stat| stat.kind);
        match before {
            Entry::Absent => {
                if there == Some(FileKind::Directory) && !self.plan.force {
                    must_be_empty(path, system)?;
                }
                system.remove(path)?;
            }
            Entry::File { attributes, content: Some(name) } => {
                let kept = self.plan.directory.join(name);
                let digest = system.digest(&kept, Algorithm::Sha256)?;
                if digest != *name {
                    return Err(SystemError::Other("its kept content is damaged".into()));
                }
                if there == Some(FileKind::Directory) {
                    must_be_empty(path, system)?;
                    system.remove(path)?;
                }
                make_parents(path, system)?;
                system.write(path, &Content::File(kept), &attributes.wanted(), WriteOptions::default())?;
            }
            Entry::File { attributes, content: None } => {
                if there != Some(FileKind::File) {
                    return Err(os_error("restore", path, libc::ENOENT));
                }
                system.set_attributes(path, &attributes.wanted(), false)?;
            }
            Entry::Directory { attributes, entries } => {
                if there != Some(FileKind::Directory) {
                    if there.is_some() {
                        system.remove(path)?;
                    }
                    make_parents(path, system)?;
                    // With all that it had at once, so that a rollback that is cut off here is known for one.
                    system.make_dir(path, &attributes.wanted())?;
                }
                let mut changed = !same;
                for (name, entry) in entries {
                    changed |= self.put_back(&path.join(OsString::from_vec(name.clone())), entry, system)?;
                }
                if changed {
                    system.set_attributes(path, &attributes.wanted(), false)?;
                }
                return Ok(changed);
            }
            Entry::Link { target, attributes } => {
                if there == Some(FileKind::Directory) {
                    must_be_empty(path, system)?;
                    system.remove(path)?;
                }
                make_parents(path, system)?;
                let target = PathBuf::from(OsString::from_vec(target.clone()));
                system.link(path, &target, LinkKind::Symbolic)?;
                let wanted = Attributes { mode: None, ..attributes.wanted() };
                system.set_attributes(path, &wanted, false)?;
            }
            Entry::NotKept(_) => {}
        }
        Ok(true)
    }

    fn command(&mut self, record: &Prior, found: Option<(usize, &Caught)>, system: &mut dyn System) {
        let caught = found.map(|(_, caught)| caught);
        let Prior::Command { kind, id, before, after, again, undo, sensitive } = record else { return };
        let what = format!("{kind} {id}");
        if let Some(again) = again {
            self.again.push((what, again.command()));
            return;
        }
        if let Some((program, verb, name)) = service_command(kind, id) {
            let command = match program {
                "service" => Command::new([program, name, verb]),
                _ => Command::new([program, verb, name]),
            };
            self.again.push((format!("service {name}"), command));
            return;
        }
        // All the rules at once say what each of them was; a rule that is gone with them can't be deleted again.
        let mut put_back = self.plan.rescue && kind == "firewall" && self.has_baseline();
        if let Some((before, after)) = caught.and_then(|caught| caught.rules.as_ref()).filter(|_| !put_back) {
            if self.plan.force || rules::read(system) == *after {
                put_back = self.rules(before, system);
            } else if undo.is_none() {
                let reason = "they were changed since".into();
                self.tell("the packet filter's rules".into(), "put back", Outcome::Left(reason));
            }
        }
        let watched = caught.is_some_and(|caught| caught.watched);
        let packages = caught.map_or(&[][..], |caught| &caught.packages);
        if !packages.is_empty() {
            let spared = caught.and_then(|caught| self.spared(caught));
            self.packages(packages, spared.as_deref(), system);
        } else if put_back {
            // Nothing is left to do.
        } else if let Some(undo) = undo.as_ref().filter(|_| !(watched && FOUND.contains(&kind.as_str()))) {
            let intent = Intent {
                kind: KINDS.iter().find(|known| *known == kind).copied().unwrap_or("command"),
                id: id.clone(),
                before: after.clone(),
                after: before.clone(),
                sensitive: *sensitive,
                ..Intent::default()
            };
            let command = undo.command();
            let outcome = match system.change(&command, intent).map(Done::output) {
                Ok(output) if output.success() => Outcome::Restored,
                Ok(output) => Outcome::Left(format!("{}: {}", command.line(), said(&output))),
                Err(error) => Outcome::Left(error.to_string()),
            };
            let how = if *sensitive || kind == "crontab" { "put back".into() } else { command.line() };
            self.tell(what, how, outcome);
        } else if !(watched && IN_FILES.contains(&kind.as_str()) || rules_only(caught) || is_nothing(kind)) {
            let reason = if watched {
                "what it changed outside of /etc, crontabs and packages is not known"
            } else {
                "there is no command that takes it back"
            };
            self.tell(what, "nothing", Outcome::Impossible(reason.into()));
        }
        if let Some((number, caught)) = found {
            self.caught_paths(number, caught, system);
        }
    }

    /// What was not there goes first, the deepest first; then what was there comes back.
    fn caught_paths(&mut self, record: usize, caught: &Caught, system: &mut dyn System) {
        let mut paths: Vec<(PathBuf, &Entry)> =
            caught.paths.iter().map(|one| (path_of(&one.path), &one.before)).collect();
        paths.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (path, before) in paths.iter().rev().filter(|(_, before)| **before == Entry::Absent) {
            self.path(record, path, before, system);
        }
        for (path, before) in paths.iter().filter(|(_, before)| **before != Entry::Absent) {
            self.path(record, path, before, system);
        }
    }

    /// A path below what a package brought that somebody changed since: purging would take it away.
    fn spared(&self, caught: &Caught) -> Option<PathBuf> {
        let brought = |path: &Path| {
            caught.paths.iter().any(|one| one.before == Entry::Absent && path.starts_with(path_of(&one.path)))
        };
        self.verdicts.keys().filter(|path| brought(path)).min().cloned()
    }

    fn packages(&mut self, packages: &[CaughtPackage], spared: Option<&Path>, system: &mut dyn System) {
        let now = match self::packages(system, Path::new("/var/lib/dpkg/status")) {
            Ok(now) => now,
            Err(error) => {
                return self.tell("packages".into(), "put back", Outcome::Left(error.to_string()));
            }
        };
        let mut purge = Vec::new();
        let mut remove = Vec::new();
        let mut install = Vec::new();
        for package in packages {
            let there = now.get(&package.name).cloned().unwrap_or_default();
            let what = format!("package {}", package.name);
            if there == package.before {
                self.tell(what, package_how(package), Outcome::Already);
            } else if there != package.after && !self.plan.force {
                let reason = format!("it was changed since: {}", package_state(&there));
                self.tell(what, package_how(package), Outcome::Left(reason));
            } else {
                match &package.before {
                    Package::Absent => purge.push(package),
                    Package::Configuration => remove.push(package),
                    Package::Installed(_) => install.push(package),
                }
            }
        }
        match spared {
            None => self.apt(&["purge"], &purge, system),
            Some(path) => {
                self.apt(&["remove"], &purge, system);
                for package in purge {
                    let reason =
                        format!("it is removed and not purged, because {} was changed since", path.display());
                    self.tell(format!("package {}", package.name), "remove", Outcome::Left(reason));
                }
            }
        }
        self.apt(&["remove"], &remove, system);
        self.apt(&["install", "--no-install-recommends", "--allow-downgrades"], &install, system);
    }

    fn apt(&mut self, verb: &[&str], packages: &[&CaughtPackage], system: &mut dyn System) {
        if packages.is_empty() {
            return;
        }
        let operand = |package: &CaughtPackage| match &package.before {
            Package::Installed(version) => format!("{}={version}", package.name),
            _ => package.name.clone(),
        };
        let operands: Vec<String> = packages.iter().map(|package| operand(package)).collect();
        let argv = |simulate: bool| {
            let mut argv: Vec<String> = vec!["apt-get".into(), "-y".into(), "-q".into()];
            argv.extend(["-o".into(), "DPkg::Lock::Timeout=60".into()]);
            argv.extend(["-o".into(), "Dpkg::Options::=--force-confold".into()]);
            argv.extend(simulate.then(|| "-s".into()));
            argv.extend(verb.iter().map(ToString::to_string));
            argv.extend(operands.iter().cloned());
            let mut command = Command::new(argv).c_locale();
            command.env.push(("DEBIAN_FRONTEND".into(), "noninteractive".into()));
            command
        };
        let outcome = match system.query(&argv(true)) {
            Ok(output) if !output.success() => Outcome::Left(said(&output)),
            Ok(output) => {
                let others = others(&output.stdout_text(), packages);
                if others.is_empty() || self.plan.force {
                    self.apt_now(&argv(false), packages, system)
                } else {
                    Outcome::Left(format!(
                        "with it these would go too, which the run did not install: {}",
                        others.join(", ")
                    ))
                }
            }
            Err(error) => Outcome::Left(error.to_string()),
        };
        for package in packages {
            self.tell(format!("package {}", package.name), package_how(package), outcome.clone());
        }
    }

    fn apt_now(&self, command: &Command, packages: &[&CaughtPackage], system: &mut dyn System) -> Outcome {
        let states = |side: fn(&CaughtPackage) -> &Package| -> Map {
            packages
                .iter()
                .map(|package| (package.name.as_str().into(), package_state(side(package)).into()))
                .collect()
        };
        let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
        let intent = Intent {
            kind: "package",
            id: names.join(" "),
            before: states(|package| &package.after).into(),
            after: states(|package| &package.before).into(),
            effects: vec![Effect::Anything],
            ..Intent::default()
        };
        match system.change(command, intent).map(Done::output) {
            Ok(output) if output.success() => Outcome::Restored,
            Ok(output) => Outcome::Left(said(&output)),
            Err(error) => Outcome::Left(error.to_string()),
        }
    }

    /// Tells a service again what the run told it, now that its files are the old ones.
    fn repeat(&mut self, what: String, command: &Command, system: &mut dyn System) {
        let words: Vec<String> =
            command.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let how = command.line();
        let unit = words.last().cloned().unwrap_or_default();
        let is_unit = words.first().is_some_and(|program| program.ends_with("systemctl")) && words.len() > 2;
        if is_unit {
            // What was loaded once stays active even when its file has gone with its package.
            let show = ["systemctl", "show", "--property=LoadState,ActiveState", unit.as_str()];
            let shown = system.query(&Command::new(show)).map(|output| output.stdout_text());
            let runs =
                |text: &str| text.contains("ActiveState=active") && !text.contains("LoadState=not-found");
            if !shown.is_ok_and(|text| runs(&text)) {
                return self.tell(format!("{what} (again)"), how, Outcome::Already);
            }
        }
        let state = map_of([("state", Value::str("told again"))]);
        let intent = Intent { kind: "service", id: unit, after: state.into(), ..Intent::default() };
        let outcome = match system.change(command, intent).map(Done::output) {
            Ok(output) if output.success() => Outcome::Restored,
            Ok(output) => Outcome::Left(said(&output)),
            Err(error) => Outcome::Left(error.to_string()),
        };
        self.tell(format!("{what} (again)"), how, outcome);
    }
}

/// What apt would take away beyond these packages.
fn others(simulated: &str, packages: &[&CaughtPackage]) -> Vec<String> {
    let bare = |name: &str| name.split(':').next().unwrap_or(name).to_string();
    let known: Vec<String> = packages.iter().map(|package| bare(&package.name)).collect();
    simulated
        .lines()
        .filter_map(|line| line.strip_prefix("Remv ").or_else(|| line.strip_prefix("Purg ")))
        .filter_map(|line| line.split_whitespace().next())
        .map(bare)
        .filter(|name| !known.contains(name))
        .collect()
}

fn rules_only(caught: Option<&Caught>) -> bool {
    caught.is_some_and(|caught| caught.rules.is_some())
}

fn said(output: &super::super::Output) -> String {
    let text = output.stderr_text();
    let text = if text.trim().is_empty() { output.stdout_text() } else { text };
    let last: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).rev().take(2).collect();
    let text: Vec<&str> = last.into_iter().rev().collect();
    if text.is_empty() { format!("it ended with {}", output.code) } else { text.join("; ") }
}

fn how(before: &Entry) -> &'static str {
    match before {
        Entry::Absent => "remove (it was not there)",
        Entry::File { content: Some(_), .. } => "put back",
        Entry::File { content: None, .. } => "put back owner, group and mode",
        Entry::Directory { .. } => "put back the directory",
        Entry::Link { .. } => "put back the link",
        Entry::NotKept(_) => "nothing",
    }
}

fn package_how(package: &CaughtPackage) -> String {
    match &package.before {
        Package::Absent => "purge: it was not installed; its configuration and data go too".into(),
        Package::Configuration => "remove".into(),
        Package::Installed(version) => format!("install version {version}"),
    }
}

fn package_state(package: &Package) -> String {
    match package {
        Package::Absent => "not installed".into(),
        Package::Configuration => "only its configuration".into(),
        Package::Installed(version) => version.clone(),
    }
}

/// What was made only for this run may be gone with it; what others put there may not.
fn must_be_empty(path: &Path, system: &mut dyn System) -> Result<()> {
    let names = system.list(path)?;
    if names.is_empty() {
        return Ok(());
    }
    let mut named: Vec<String> =
        names.iter().take(NAMED).map(|name| name.to_string_lossy().into_owned()).collect();
    if names.len() > NAMED {
        named.push(format!("{} more", names.len() - NAMED));
    }
    Err(SystemError::Other(format!(
        "there are things in it that the run did not put there: {}",
        named.join(", ")
    )))
}

/// The directories above a path that went away with a package.
fn make_parents(path: &Path, system: &mut dyn System) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    if system.stat_follow(parent)?.is_none() {
        make_parents(parent, system)?;
        system.make_dir(parent, &Attributes { mode: Some(0o755), ..Attributes::default() })?;
    }
    Ok(())
}

impl Kept {
    fn wanted(&self) -> Attributes {
        Attributes {
            uid: Some(self.uid),
            gid: Some(self.gid),
            mode: Some(self.mode),
            mtime: Some(self.mtime),
            selinux: self.selinux.clone(),
            ..Attributes::default()
        }
    }
}

/// Whether a command may be repeated: a service that was told to read its files again.
pub(super) fn is_again(kind: &str, after: &Value) -> bool {
    let state = after.get("state").and_then(Value::as_str);
    kind == "service" && matches!(state, Some("restarted" | "reloaded"))
}

/// A command line that tells a service to read its files again: the program, the verb, the service.
fn service_command<'a>(kind: &str, line: &'a str) -> Option<(&'static str, &'a str, &'a str)> {
    if kind != "command" {
        return None;
    }
    let mut words =
        line.split(|c: char| c.is_whitespace() || "'\";&|()".contains(c)).filter(|word| !word.is_empty());
    let verb_of = |word: &str| {
        ["restart", "reload", "try-restart", "reload-or-restart", "force-reload"].contains(&word)
    };
    while let Some(word) = words.next() {
        match word.rsplit('/').next() {
            Some("systemctl") => {
                let mut rest = words.by_ref().skip_while(|word| word.starts_with('-'));
                let verb = rest.next().filter(|word| verb_of(word))?;
                let name = rest.find(|word| !word.starts_with('-'))?;
                return Some(("systemctl", verb, name));
            }
            Some("service") => {
                let name = words.next()?;
                let verb = words.next().filter(|word| verb_of(word))?;
                return Some(("service", verb, name));
            }
            _ => {}
        }
    }
    None
}

/// Kinds of which all that their commands change is found by watching, better than by the undo command.
const FOUND: &[&str] = &["crontab", "package"];

/// Kinds of which all that their commands change lies in the watched places, unless they have an undo command.
const IN_FILES: &[&str] = &["crontab", "package", "user", "group"];

/// Kinds that leave nothing behind that would be missed.
fn is_nothing(kind: &str) -> bool {
    ["systemd", "package_lists", "package_files"].contains(&kind)
}

/// Kinds that may come back out of a record.
const KINDS: &[&str] = &[
    "package",
    "service",
    "user",
    "group",
    "command",
    "cron",
    "crontab",
    "mount",
    "sysctl",
    "firewall",
    "alternative",
    "diversion",
    "git_config",
    "apache2_module",
    "selinux",
    "locale",
    "filesystem",
    "volume",
    "partition",
    "package_selection",
];

/// The packages by name with architecture, from dpkg's list.
pub(super) fn packages(system: &mut dyn System, status: &Path) -> Result<BTreeMap<String, Package>> {
    if system.stat(status)?.is_none() {
        return Ok(BTreeMap::new());
    }
    let text = system.read(status)?;
    let text = String::from_utf8_lossy(&text);
    let mut found = BTreeMap::new();
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            paragraph.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default()
        };
        let (name, version) = (field("Package:"), field("Version:"));
        let state = match field("Status:").split_whitespace().nth(2) {
            None | Some("not-installed") => continue,
            Some("config-files") => Package::Configuration,
            Some(_) => Package::Installed(version.into()),
        };
        found.insert(format!("{name}:{}", field("Architecture:")), state);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_that_a_command_line_restarts_are_known() {
        for (line, expected) in [
            ("systemctl restart ssh", Some(("systemctl", "restart", "ssh"))),
            (
                "/bin/sh -c 'systemctl --quiet reload nginx.service && true'",
                Some(("systemctl", "reload", "nginx.service")),
            ),
            ("service ssh restart", Some(("service", "restart", "ssh"))),
            ("systemctl status ssh", None),
            ("echo restart", None),
        ] {
            assert_eq!(service_command("command", line), expected, "{line}");
        }
        assert_eq!(service_command("package", "systemctl restart ssh"), None);
    }

    #[test]
    fn what_goes_with_a_package_is_told() {
        let package =
            |name: &str| CaughtPackage { name: name.into(), before: Package::Absent, after: Package::Absent };
        let simulated = "Inst x\nPurg nginx [1.22]\nRemv site:amd64 [1]\nPurg nginx-common [1.22]\n";
        let (one, two) = (package("nginx:amd64"), package("nginx-common:all"));
        assert_eq!(others(simulated, &[&one, &two]), ["site"]);
    }
}
