//! Check mode: changes are recorded and overlaid, never made.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::change::{self, Focus, Ledger};
use super::overlay::Overlay;
use super::{
    Algorithm, Applied, Attributes, BlobRef, Change, Command, Content, Done, Found, Group, Intent, LinkKind,
    Output, Result, Stat, System, User, WriteOptions,
};

/// A machine on which nothing is changed; later reads see what earlier changes would have done.
///
/// The one place where something is really written is the scratch directory.
#[derive(Debug)]
pub struct Recorder<S> {
    inner: S,
    overlay: Overlay,
    ledger: Ledger,
    scratch: Option<PathBuf>,
    /// A path that a command was asked about, which is not as the machine below has it.
    doubt: Option<String>,
    /// What whoever reads the dry run should know.
    caveats: Vec<String>,
}

impl<S: System> Recorder<S> {
    /// Nothing recorded yet.
    pub fn new(inner: S) -> Recorder<S> {
        Recorder::resume(inner, Overlay::new(super::process_umask(), None))
    }

    /// Goes on with what an earlier recorder has recorded.
    pub fn resume(inner: S, overlay: Overlay) -> Recorder<S> {
        Recorder {
            inner,
            overlay,
            ledger: Ledger::default(),
            scratch: None,
            doubt: None,
            caveats: Vec::new(),
        }
    }

    /// What whoever reads the dry run should know besides, since the last call.
    pub fn take_caveats(&mut self) -> Vec<String> {
        std::mem::take(&mut self.caveats)
    }

    /// Keep texts for diffs.
    #[must_use]
    pub fn with_diff(mut self, diff: bool) -> Recorder<S> {
        self.ledger.diff = diff;
        self
    }

    /// The machine below.
    pub fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// What was recorded since the last call: changes, and what was found right.
    pub fn take(&mut self) -> (Vec<Change>, Vec<Applied>) {
        self.ledger.take()
    }

    /// What a later recorder can [resume](Recorder::resume) with.
    pub fn into_overlay(self) -> Overlay {
        self.overlay
    }

    fn in_scratch(&mut self, path: &Path) -> bool {
        let Some(scratch) = &self.scratch else { return false };
        // Only the plain spelling counts: a path that gets there through links or `..` is overlaid instead.
        path.starts_with(scratch)
            && !path.components().any(|part| matches!(part, std::path::Component::ParentDir))
    }

    fn watched(
        &mut self,
        path: &Path,
        focus: Focus,
        digest: Option<String>,
        operation: impl FnOnce(&mut S, &mut Overlay) -> Result<()>,
    ) -> Result<()> {
        let focus = Focus { diff: self.ledger.diff && !focus.secret, ..focus };
        change::watched(
            self,
            path,
            focus,
            digest,
            |recorder| &mut recorder.ledger,
            |recorder| operation(&mut recorder.inner, &mut recorder.overlay),
        )
    }

    /// What stands in scratch now may be gone when the overlay is read: take it in.
    fn settle(&mut self, content: &Content) -> Result<Content> {
        match content {
            Content::File(path) if self.in_scratch(&path.clone()) => {
                let size = self.inner.stat_follow(path)?.map_or(0, |stat| stat.size);
                if size <= SETTLED {
                    return Ok(Content::Bytes(self.inner.read(path)?));
                }
                Ok(content.clone())
            }
            _ => Ok(content.clone()),
        }
    }
}

/// Largest file in scratch that is taken into memory, in bytes. A larger one stays where it is.
const SETTLED: u64 = 16 << 20;

impl<S: System> System for Recorder<S> {
    fn stat(&mut self, path: &Path) -> Result<Option<Stat>> {
        self.overlay.stat(&mut self.inner, path, false)
    }

    fn stat_follow(&mut self, path: &Path) -> Result<Option<Stat>> {
        self.overlay.stat(&mut self.inner, path, true)
    }

    fn read(&mut self, path: &Path) -> Result<Vec<u8>> {
        self.overlay.read(&mut self.inner, path)
    }

    fn read_at(&mut self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.overlay.read_at(&mut self.inner, path, offset, length)
    }

    fn digest(&mut self, path: &Path, algorithm: Algorithm) -> Result<String> {
        self.overlay.digest(&mut self.inner, path, algorithm)
    }

    fn list(&mut self, path: &Path) -> Result<Vec<OsString>> {
        self.overlay.list(&mut self.inner, path)
    }

    fn survey(&mut self, paths: &[PathBuf]) -> Vec<Result<Found>> {
        if self.overlay.is_empty() {
            return self.inner.survey(paths);
        }
        paths.iter().map(|path| super::survey_one(self, path)).collect()
    }

    fn read_link(&mut self, path: &Path) -> Result<PathBuf> {
        self.overlay.read_link(&mut self.inner, path)
    }

    fn resolve(&mut self, path: &Path) -> Result<PathBuf> {
        self.overlay.locate(&mut self.inner, path, true)
    }

    fn access(&mut self, path: &Path, bits: u32) -> Result<bool> {
        self.overlay.access(&mut self.inner, path, bits)
    }

    fn extended_attribute(&mut self, path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
        self.overlay.extended(&mut self.inner, path, name)
    }

    fn user(&mut self, name_or_id: &str) -> Result<Option<User>> {
        if let Some(known) = self.overlay.user(name_or_id) {
            return Ok(known);
        }
        let found = self.inner.user(name_or_id)?;
        Ok(found.filter(|user| !self.overlay.user_is_gone(&user.name)))
    }

    fn group(&mut self, name_or_id: &str) -> Result<Option<Group>> {
        if let Some(known) = self.overlay.group(name_or_id) {
            return Ok(known);
        }
        let found = self.inner.group(name_or_id)?;
        Ok(found.filter(|group| !self.overlay.group_is_gone(&group.name)))
    }

    fn whoami(&mut self) -> Result<User> {
        self.inner.whoami()
    }

    fn env(&mut self, name: &str) -> Option<String> {
        self.inner.env(name)
    }

    fn own_variables(&mut self) -> Vec<String> {
        self.inner.own_variables()
    }

    fn query(&mut self, command: &Command) -> Result<Output> {
        // A command sees the machine, not the overlay.
        let asked = command
            .argv
            .iter()
            .find(|word| word.as_bytes().first() == Some(&b'/') && self.overlay.covers(Path::new(word)));
        if let Some(path) = asked {
            self.doubt = Some(path.to_string_lossy().into_owned());
        }
        self.inner.query(command)
    }

    fn converse(
        &mut self,
        command: &Command,
        patience: std::time::Duration,
    ) -> Result<Box<dyn super::converse::Conversation>> {
        self.inner.converse(command, patience)
    }

    fn probe(&mut self, probe: &super::probe::Probe) -> Result<super::probe::Answer> {
        self.inner.probe(probe)
    }

    fn blob(&mut self, blob: &BlobRef) -> Result<Vec<u8>> {
        self.inner.blob(blob)
    }

    fn send(&mut self, path: &Path, name: &str) -> Result<()> {
        if self.overlay.covers(path) {
            self.doubt = Some(path.to_string_lossy().into_owned());
        }
        self.inner.send(path, name)
    }

    fn write(
        &mut self,
        path: &Path,
        content: &Content,
        attributes: &Attributes,
        options: WriteOptions,
    ) -> Result<()> {
        if self.in_scratch(path) {
            let content = match content {
                // What is overlaid exists only here.
                Content::File(source) if !self.in_scratch(source) => Content::Bytes(self.read(source)?),
                other => other.clone(),
            };
            return self.inner.write(path, &content, attributes, options);
        }
        let content = self.settle(content)?;
        let digest = change::known_digest(&content);
        let focus = Focus { secret: options.secret, ..Focus::on(attributes) };
        self.watched(path, focus, digest, |inner, overlay| overlay.write(inner, path, &content, attributes))
    }

    fn make_dir(&mut self, path: &Path, attributes: &Attributes) -> Result<()> {
        if self.in_scratch(path) {
            return self.inner.make_dir(path, attributes);
        }
        self.watched(path, Focus::on(attributes), None, |inner, overlay| {
            overlay.make_dir(inner, path, attributes)
        })
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        if self.in_scratch(path) {
            return self.inner.remove(path);
        }
        let focus = Focus { listing: true, ..Focus::default() };
        self.watched(path, focus, None, |inner, overlay| overlay.remove(inner, path))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        if self.in_scratch(from) && self.in_scratch(to) {
            return self.inner.rename(from, to);
        }
        let focus = Focus { diff: self.ledger.diff, ..Focus::default() };
        let moved = change::look(self, from, &focus)?;
        let replaced = change::look(self, to, &focus)?;
        self.overlay.rename(&mut self.inner, from, to)?;
        self.ledger.renamed(from, to, moved, replaced);
        Ok(())
    }

    fn link(&mut self, path: &Path, target: &Path, kind: LinkKind) -> Result<()> {
        if self.in_scratch(path) {
            return self.inner.link(path, target, kind);
        }
        self.watched(path, Focus::default(), None, |inner, overlay| overlay.link(inner, path, target, kind))
    }

    fn set_attributes(&mut self, path: &Path, attributes: &Attributes, follow: bool) -> Result<()> {
        if self.in_scratch(path) {
            return self.inner.set_attributes(path, attributes, follow);
        }
        let path = change::target(self, path, follow)?;
        let focus = Focus { same_content: true, ..Focus::on(attributes) };
        self.watched(&path, focus, None, |inner, overlay| {
            overlay.set_attributes(inner, &path, attributes, follow)
        })
    }

    fn change(&mut self, _command: &Command, intent: Intent) -> Result<Done> {
        self.record(&intent)?;
        Ok(Done::Recorded)
    }

    fn perform(&mut self, intent: Intent, _act: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        self.record(&intent)?;
        Ok(false)
    }

    fn scratch(&mut self) -> Result<PathBuf> {
        let scratch = self.inner.scratch()?;
        self.scratch = Some(scratch.clone());
        Ok(scratch)
    }

    fn spool(&mut self, name: &str, content: &mut dyn Read) -> Result<PathBuf> {
        self.scratch()?;
        self.inner.spool(name, content)
    }

    fn applied(&mut self, applied: Applied) {
        self.ledger.applied.push(applied);
    }

    fn uncertain(&self) -> Option<String> {
        let what = self.overlay.uncertain().or(self.doubt.as_deref())?;
        Some(format!("{what} was only recorded in this dry run"))
    }

    fn changes(&self) -> &[Change] {
        &self.ledger.changes
    }

    fn caveat(&mut self, text: String) {
        if !self.caveats.contains(&text) {
            self.caveats.push(text);
        }
    }
}

impl<S: System> Recorder<S> {
    fn record(&mut self, intent: &Intent) -> Result<()> {
        self.ledger.intent(intent);
        let what = format!("{} {}", intent.kind, intent.id);
        self.overlay.effects(&mut self.inner, what.trim(), &intent.effects)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::journal::Journal;
    use super::super::local::{Local, NoDepot};
    use super::super::{Effect, FileKind};
    use super::*;

    /// A small generator, so that a failing case can be had again by its seed.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 11).expect("64 bits") % sides
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Write(PathBuf, Content, Attributes),
        MakeDir(PathBuf, Attributes),
        Remove(PathBuf),
        Rename(PathBuf, PathBuf),
        Link(PathBuf, PathBuf, LinkKind),
        Set(PathBuf, Attributes, bool),
    }

    const NAMES: &[&str] = &["a", "b", "c", "d"];

    fn some_path(dice: &mut Dice, root: &Path) -> PathBuf {
        let mut path = root.to_path_buf();
        for _ in 0..=dice.roll(3) {
            path.push(NAMES[dice.roll(NAMES.len())]);
        }
        path
    }

    fn some_attributes(dice: &mut Dice) -> Attributes {
        let root = rustix::process::geteuid().is_root();
        let id = |dice: &mut Dice| (root && dice.roll(3) == 0).then(|| 1000 + u32::from(dice.roll(2) == 0));
        Attributes {
            mode: (dice.roll(2) == 0).then(|| [0o644, 0o600, 0o755, 0o2775, 0o4755][dice.roll(5)]),
            uid: id(dice),
            gid: id(dice),
            mtime: (dice.roll(4) == 0).then_some(1_600_000_000.0),
            ..Attributes::default()
        }
    }

    fn some_op(dice: &mut Dice, root: &Path) -> Op {
        let path = some_path(dice, root);
        match dice.roll(12) {
            0..=2 => {
                let content = match dice.roll(3) {
                    0 => Content::File(some_path(dice, root)),
                    _ => Content::Bytes(vec![b'x'; dice.roll(20)]),
                };
                Op::Write(path, content, some_attributes(dice))
            }
            3..=5 => Op::MakeDir(path, some_attributes(dice)),
            6 => Op::Remove(path),
            7 | 8 => Op::Rename(path, some_path(dice, root)),
            9 => {
                let target = some_path(dice, root);
                let target = if dice.roll(2) == 0 { target } else { PathBuf::from("../a") };
                Op::Link(path, target, LinkKind::Symbolic)
            }
            10 => Op::Link(path, some_path(dice, root), LinkKind::Hard),
            _ => Op::Set(path, some_attributes(dice), dice.roll(2) == 0),
        }
    }

    fn apply(op: &Op, system: &mut dyn System) -> std::result::Result<(), Option<i32>> {
        let outcome = match op {
            Op::Write(path, content, attributes) => {
                system.write(path, content, attributes, WriteOptions::default())
            }
            Op::MakeDir(path, attributes) => system.make_dir(path, attributes),
            Op::Remove(path) => system.remove(path),
            Op::Rename(from, to) => system.rename(from, to),
            Op::Link(path, target, kind) => system.link(path, target, *kind),
            Op::Set(path, attributes, follow) => system.set_attributes(path, attributes, *follow),
        };
        outcome.map_err(|error| error.errno())
    }

    type Seen = BTreeMap<PathBuf, String>;

    /// Everything that can be seen below a path.
    fn see(system: &mut dyn System, path: &Path, seen: &mut Seen) {
        for name in system.list(path).expect("a directory") {
            let child = path.join(name);
            let stat = system.stat(&child).expect("stat").expect("listed");
            let mut line = format!("{:?} {:o} {}:{}", stat.kind, stat.mode, stat.uid, stat.gid);
            let resolved = system.resolve(&child).map_err(|error| error.errno());
            line += &format!(" -> {resolved:?}");
            match stat.kind {
                FileKind::File => {
                    let bytes = system.read(&child).expect("a file");
                    let digest = system.digest(&child, Algorithm::Sha1).expect("a file");
                    let part = system.read_at(&child, 2, 3).expect("a file");
                    line += &format!(" {} x{} {bytes:?} {digest} {part:?}", stat.size, stat.links);
                    if stat.mtime == 1_600_000_000.0 {
                        line += " old";
                    }
                }
                FileKind::Link => line += &format!(" {:?}", system.read_link(&child).expect("a link")),
                _ => {}
            }
            seen.insert(child.clone(), line);
            if stat.kind == FileKind::Directory {
                see(system, &child, seen);
            }
        }
    }

    fn seen(system: &mut dyn System, path: &Path) -> Seen {
        let mut all = Seen::new();
        see(system, path, &mut all);
        all
    }

    #[test]
    fn predicts_what_a_real_run_does_and_does_nothing() {
        for seed in 1..400_u64 {
            let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let place = tempfile::tempdir().expect("a temporary directory");
            let root = std::fs::canonicalize(place.path()).expect("it is there");
            let mut local = Local::new(Box::new(NoDepot));
            for _ in 0..12 {
                let _ = apply(&some_op(&mut dice, &root), &mut local);
            }
            let ops: Vec<Op> = (0..15).map(|_| some_op(&mut dice, &root)).collect();

            let before = seen(&mut local, &root);
            let mut recorder = Recorder::new(&mut local).with_diff(true);
            let mut predicted = Vec::new();
            for op in &ops {
                let outcome = apply(op, &mut recorder);
                predicted.push((outcome, recorder.take().0));
            }
            let expected = seen(&mut recorder, &root);
            drop(recorder);
            assert_eq!(seen(&mut local, &root), before, "seed {seed}: something was changed");

            let mut journal = Journal::new(&mut local).with_diff(true);
            for (op, (outcome, changes)) in ops.iter().zip(predicted) {
                assert_eq!(apply(op, &mut journal), outcome, "seed {seed}: {op:?}");
                let made = without_times(journal.take().0);
                assert_eq!(without_times(changes), made, "seed {seed}: {op:?}");
            }
            assert_eq!(seen(&mut local, &root), expected, "seed {seed}: {ops:#?}");
        }
    }

    /// Times of access depend on the moment.
    fn without_times(changes: Vec<Change>) -> Vec<Change> {
        let strip = |value: crate::value::Value| match value.as_map() {
            Some(map) => {
                let mut map = map.clone();
                map.shift_remove("atime");
                map.shift_remove("mtime");
                crate::value::Value::map(map)
            }
            None => value,
        };
        changes
            .into_iter()
            .map(|change| Change { before: strip(change.before), after: strip(change.after), ..change })
            .collect()
    }

    #[test]
    fn later_reads_see_what_commands_would_bring() {
        let mut fake = super::super::fake::Fake::new();
        let mut recorder = Recorder::new(&mut fake);
        let user = User {
            name: "ann".into(),
            uid: u32::MAX,
            gid: u32::MAX,
            gecos: String::new(),
            home: "/home/ann".into(),
            shell: "/bin/sh".into(),
        };
        let effects = vec![
            Effect::User(user.clone()),
            Effect::Path("/home/ann/.ssh/key".into(), FileKind::File),
            Effect::Anything,
        ];
        let intent = Intent { kind: "package", id: "nginx".into(), effects, ..Intent::default() };
        assert_eq!(recorder.uncertain(), None);
        assert_eq!(recorder.change(&Command::new(["apt"]), intent).expect("recorded"), Done::Recorded);
        assert_eq!(recorder.user("ann").expect("known"), Some(user));
        let key = recorder.stat(Path::new("/home/ann/.ssh/key")).expect("stat").expect("there");
        assert_eq!(key.kind, FileKind::File);
        assert!(recorder.read(Path::new("/home/ann/.ssh/key")).is_err());
        let reason = recorder.uncertain().expect("uncertain");
        assert_eq!(reason, "package nginx was only recorded in this dry run");
        assert_eq!(recorder.changes().len(), 1);
        drop(recorder);
        assert!(fake.log().is_empty());
        assert_eq!(fake.user("ann").expect("asked"), None);
    }

    #[test]
    fn scratch_is_real_and_no_change() {
        let mut fake = super::super::fake::Fake::new();
        let mut recorder = Recorder::new(&mut fake);
        let scratch = recorder.scratch().expect("made");
        let file = scratch.join("x");
        let put = |system: &mut dyn System, path: &Path, content: Content| {
            system.write(path, &content, &Attributes::default(), WriteOptions::default()).expect("written");
        };
        put(&mut recorder, &file, Content::Bytes(b"1".to_vec()));
        put(&mut recorder, Path::new("/etc/y"), Content::File(file.clone()));
        recorder.remove(&file).expect("removed");
        assert_eq!(recorder.read(Path::new("/etc/y")).expect("overlaid"), b"1");
        put(&mut recorder, &scratch.join("z"), Content::File("/etc/y".into()));
        assert_eq!(recorder.changes().len(), 1);
        drop(recorder);
        assert_eq!(fake.text("/tmp/scratch/z").as_deref(), Some("1"));
        assert_eq!(fake.text("/etc/y"), None);
    }
}
