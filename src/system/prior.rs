//! Prior states: what was there before a run changed it, kept on the host so that the run can be rolled
//! back. Contents never leave the host.
//!
//! A run has a directory of its own, which only its owner can enter: `index` holds a record for each change
//! in order, and each content is a file beside it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::change::{self, Focus};
use super::path::os_error;
use super::{
    Attributes, Command, Content, FileKind, Intent, LinkKind, Result, Stat, System, SystemError, WriteOptions,
};
use crate::protocol::frame;
use crate::value::Value;

/// Largest file of which the content is kept, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Most that is kept of one run, in bytes.
const MAX_RUN: u64 = 256 << 20;

/// Most entries of a directory tree that are kept when it is removed.
const MAX_ENTRIES: usize = 10_000;

/// How many runs are kept.
const MAX_RUNS: usize = 20;

/// What was there before one change, and after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Prior {
    /// Something at a path.
    Path {
        /// The path, as bytes.
        path: Vec<u8>,
        /// What was there.
        before: Entry,
    },
    /// Something that a command changed.
    Command {
        /// Kind of resource.
        kind: String,
        /// Which one.
        id: String,
        /// Its state.
        before: Value,
        /// Its state afterwards.
        after: Value,
        /// The command that takes it back, where there is one.
        undo: Option<Vec<Vec<u8>>>,
        /// The states hold secrets.
        sensitive: bool,
    },
    /// The change that the record before tells of was made, and left the path in this state.
    Made {
        /// As in [`super::Change::after`].
        state: Value,
    },
}

/// What was at a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Entry {
    /// Nothing.
    Absent,
    /// A file.
    File {
        /// Owner, group, mode and the rest.
        attributes: Kept,
        /// Name of the file that holds its content; `None` if the content does not change.
        content: Option<String>,
    },
    /// A directory.
    Directory {
        /// Owner, group, mode and the rest.
        attributes: Kept,
        /// What was in it, by name, if it goes away.
        entries: Vec<(Vec<u8>, Entry)>,
    },
    /// A symbolic link.
    Link {
        /// Where it pointed.
        target: Vec<u8>,
        /// Owner and group.
        attributes: Kept,
    },
    /// Something that was not kept, and why.
    NotKept(String),
}

/// Attributes that are put back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: f64,
    selinux: Option<String>,
}

/// The store of one run.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    index: File,
    used: u64,
    next: u64,
}

/// Where runs of this user are kept.
pub fn root(home: &Path) -> PathBuf {
    if rustix::process::geteuid().is_root() {
        "/var/lib/setpoint/rollback".into()
    } else {
        home.join(".local/state/setpoint/rollback")
    }
}

impl Store {
    /// Opens the store of a run, making it if need be, and removes those of the oldest runs.
    ///
    /// # Errors
    /// The directory can't be made, or somebody else can enter it.
    pub fn open(root: &Path, run: &str) -> io::Result<Store> {
        let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if run.is_empty() || run.starts_with('.') || !run.chars().all(valid) {
            return Err(io::Error::other(format!("`{run}` is not a name for a run")));
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(root)?;
        let found = fs::symlink_metadata(root)?;
        if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o077 != 0
        {
            return Err(io::Error::other(format!("{} is not ours alone", root.display())));
        }
        let directory = root.join(run);
        builder.create(&directory)?;
        prune(root, run);
        let index = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(directory.join("index"))?;
        let next = fs::read_dir(&directory)?.count() as u64;
        Ok(Store { directory, index, used: 0, next })
    }

    fn append(&mut self, prior: &Prior) -> io::Result<()> {
        let frame = frame::encode(prior).map_err(io::Error::other)?;
        self.index.write_all(&frame)
    }

    /// Keeps what is at a path, which is about to change. `content` says whether its content is.
    pub(super) fn keep(&mut self, system: &mut dyn System, path: &Path, content: bool) -> Result<()> {
        let before = match self.entry(system, path, content, &mut 0) {
            Ok(entry) => entry,
            Err(error) => Entry::NotKept(error.to_string()),
        };
        self.append(&Prior::Path { path: path.as_os_str().as_bytes().to_vec(), before })
            .map_err(|source| self.failed(source))
    }

    /// Notes that the change was made. `sha256` is the content's digest where it is known without reading it.
    pub(super) fn made(
        &mut self,
        system: &mut dyn System,
        path: &Path,
        sha256: Option<String>,
    ) -> Result<()> {
        let state = change::look(system, path, &Focus { sha256, ..Focus::default() })?.into_state();
        self.append(&Prior::Made { state }).map_err(|source| self.failed(source))
    }

    /// Keeps what a command is about to change.
    pub(super) fn keep_intent(&mut self, intent: &Intent) -> Result<()> {
        let words = |command: &Command| command.argv.iter().map(|word| word.as_bytes().to_vec()).collect();
        let prior = Prior::Command {
            kind: intent.kind.into(),
            id: intent.id.clone(),
            before: intent.before.clone(),
            after: intent.after.clone(),
            undo: intent.undo.as_ref().map(words),
            sensitive: intent.sensitive,
        };
        self.append(&prior).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> SystemError {
        SystemError::Io { action: "keep the prior state in", path: self.directory.clone(), source }
    }

    fn entry(
        &mut self,
        system: &mut dyn System,
        path: &Path,
        content: bool,
        count: &mut usize,
    ) -> Result<Entry> {
        *count += 1;
        if *count > MAX_ENTRIES {
            return Ok(Entry::NotKept(format!("it has more than {MAX_ENTRIES} entries")));
        }
        let Some(stat) = system.stat(path)? else { return Ok(Entry::Absent) };
        let attributes = kept(system, path, &stat);
        Ok(match stat.kind {
            FileKind::File if content => match self.content(system, path, &stat)? {
                Ok(name) => Entry::File { attributes, content: Some(name) },
                Err(reason) => Entry::NotKept(reason),
            },
            FileKind::File => Entry::File { attributes, content: None },
            FileKind::Directory => {
                let mut entries = Vec::new();
                for name in if content { system.list(path)? } else { Vec::new() } {
                    let entry = self.entry(system, &path.join(&name), content, count)?;
                    entries.push((name.into_vec(), entry));
                }
                Entry::Directory { attributes, entries }
            }
            FileKind::Link => {
                let target = system.read_link(path)?.into_os_string().into_vec();
                Entry::Link { target, attributes }
            }
            _ => Entry::NotKept("it is a device, pipe or socket".into()),
        })
    }

    /// Copies a file's content; the inner error says why it is not kept.
    fn content(
        &mut self,
        system: &mut dyn System,
        path: &Path,
        stat: &Stat,
    ) -> Result<std::result::Result<String, String>> {
        if stat.size > MAX_FILE {
            return Ok(Err(format!("it has more than {} MiB", MAX_FILE >> 20)));
        }
        if self.used + stat.size > MAX_RUN {
            return Ok(Err(format!("more than {} MiB would be kept of this run", MAX_RUN >> 20)));
        }
        let bytes = system.read(path)?;
        loop {
            let name = self.next.to_string();
            self.next += 1;
            let created =
                File::options().write(true).create_new(true).mode(0o600).open(self.directory.join(&name));
            match created {
                // Another runner of the same run has it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(self.failed(error)),
                Ok(mut file) => {
                    file.write_all(&bytes).map_err(|error| self.failed(error))?;
                    self.used += stat.size;
                    return Ok(Ok(name));
                }
            }
        }
    }
}

fn kept(system: &mut dyn System, path: &Path, stat: &Stat) -> Kept {
    let context = system.extended_attribute(path, "security.selinux").ok().flatten();
    let selinux = context.map(|bytes| String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_string());
    Kept { mode: stat.mode, uid: stat.uid, gid: stat.gid, mtime: stat.mtime, selinux }
}

/// Removes the oldest runs.
fn prune(root: &Path, current: &str) {
    let Ok(runs) = runs(root) else { return };
    for run in runs.iter().skip(MAX_RUNS).filter(|run| *run != current) {
        let _ = fs::remove_dir_all(root.join(run));
    }
}

/// The runs that are kept, the newest first.
///
/// # Errors
/// The directory can't be read.
pub fn runs(root: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let changed = entry.metadata()?.modified()?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((changed, name));
        }
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

/// What a run has changed, in order.
///
/// # Errors
/// There is no such run, or its index is damaged.
pub fn records(root: &Path, run: &str) -> io::Result<Vec<Prior>> {
    if run.is_empty() || run.contains('/') || run.starts_with('.') {
        return Err(io::Error::other(format!("`{run}` is not a name of a run")));
    }
    let mut file = io::BufReader::new(File::open(root.join(run).join("index"))?);
    let mut records = Vec::new();
    // What a killed runner has written of a last record is passed over.
    while let Ok(Some(prior)) = frame::read::<Prior>(&mut file) {
        records.push(prior);
    }
    Ok(records)
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// It is again as it was (or was all the time).
    Done(String),
    /// It was not touched, and why.
    Left {
        /// What.
        id: String,
        /// Why.
        reason: String,
    },
}

/// Restores what was before a run, the last change first. What somebody else has changed since is left
/// alone unless `force`.
///
/// # Errors
/// There is no such run. What goes wrong with a single resource is told in its place.
pub fn restore(root: &Path, run: &str, system: &mut dyn System, force: bool) -> Result<Vec<Restored>> {
    let directory = root.join(run);
    let records = records(root, run).map_err(|source| SystemError::Io {
        action: "read the prior states in",
        path: directory.clone(),
        source,
    })?;
    let mut out = Vec::new();
    let mut made: Option<&Value> = None;
    for record in records.iter().rev() {
        match record {
            Prior::Made { state } => made = Some(state),
            Prior::Path { path, before } => {
                let path = PathBuf::from(OsString::from_vec(path.clone()));
                out.push(restore_path(&directory, system, &path, before, made.take(), force));
            }
            Prior::Command { .. } => {
                made = None;
                out.push(restore_command(system, record));
            }
        }
    }
    Ok(out)
}

fn restore_path(
    directory: &Path,
    system: &mut dyn System,
    path: &Path,
    before: &Entry,
    made: Option<&Value>,
    force: bool,
) -> Restored {
    let id = path.to_string_lossy().into_owned();
    let left = |reason: String| Restored::Left { id: id.clone(), reason };
    let now = match change::look(system, path, &Focus::default()) {
        Ok(now) => now.into_state(),
        Err(error) => return left(error.to_string()),
    };
    // Without that note the change was perhaps not made at all; then putting back does no harm.
    if !force && made.is_some_and(|made| *made != now) {
        return left("it was changed since".into());
    }
    match put_back(directory, system, path, before) {
        Ok(()) => Restored::Done(id),
        Err(error) => left(error.to_string()),
    }
}

fn put_back(directory: &Path, system: &mut dyn System, path: &Path, before: &Entry) -> Result<()> {
    let there = system.stat(path)?;
    let is = |kind: FileKind| there.as_ref().is_some_and(|stat| stat.kind == kind);
    match before {
        Entry::NotKept(reason) => {
            Err(SystemError::Other(format!("{} was not kept: {reason}", path.display())))
        }
        Entry::Absent if there.is_none() => Ok(()),
        Entry::Absent => system.remove(path),
        Entry::File { attributes, content: Some(name) } => {
            if is(FileKind::Directory) {
                system.remove(path)?;
            }
            let content = Content::File(directory.join(name));
            system.write(path, &content, &attributes.wanted(), WriteOptions::default())
        }
        Entry::File { attributes, content: None } => {
            if is(FileKind::File) {
                system.set_attributes(path, &attributes.wanted(), false)
            } else {
                Err(os_error("restore", path, libc::ENOENT))
            }
        }
        Entry::Directory { attributes, entries } => {
            if !is(FileKind::Directory) {
                if there.is_some() {
                    system.remove(path)?;
                }
                system.make_dir(path, &Attributes { mode: Some(0o700), ..Attributes::default() })?;
            }
            for (name, entry) in entries {
                put_back(directory, system, &path.join(OsString::from_vec(name.clone())), entry)?;
            }
            system.set_attributes(path, &attributes.wanted(), false)
        }
        Entry::Link { target, attributes } => {
            if is(FileKind::Directory) {
                system.remove(path)?;
            }
            let target = PathBuf::from(OsString::from_vec(target.clone()));
            system.link(path, &target, LinkKind::Symbolic)?;
            let wanted = Attributes { mode: None, ..attributes.wanted() };
            system.set_attributes(path, &wanted, false)
        }
    }
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

fn restore_command(system: &mut dyn System, record: &Prior) -> Restored {
    let Prior::Command { kind, id, before, after, undo, sensitive } = record else {
        return Restored::Left { id: String::new(), reason: String::new() };
    };
    let name = format!("{kind} {id}");
    let left = |reason: String| Restored::Left { id: name.clone(), reason };
    let Some(undo) = undo else { return left("there is no command that takes it back".into()) };
    let command = Command::new(undo.iter().map(|word| OsString::from_vec(word.clone())));
    let intent = Intent {
        kind: KINDS.iter().find(|known| *known == kind).copied().unwrap_or("command"),
        id: id.clone(),
        before: after.clone(),
        after: before.clone(),
        sensitive: *sensitive,
        ..Intent::default()
    };
    match system.change(&command, intent).map(super::Done::output) {
        Ok(output) if output.success() => Restored::Done(name),
        Ok(output) => left(output.stderr_text().trim().to_string()),
        Err(error) => left(error.to_string()),
    }
}

/// Kinds that may come back out of a record.
const KINDS: &[&str] = &[
    "package",
    "service",
    "user",
    "group",
    "command",
    "cron",
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
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::journal::Journal;
    use super::super::local::{Local, NoDepot};
    use super::super::recorder::Recorder;
    use super::*;

    fn see(path: &Path, seen: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(path).expect("a directory") {
            let child = entry.expect("there").path();
            let found = fs::symlink_metadata(&child).expect("there");
            let what = if found.is_symlink() {
                format!("{:?}", fs::read_link(&child).expect("a link"))
            } else if found.is_dir() {
                see(&child, seen);
                "directory".to_string()
            } else {
                format!("{:?} {}", fs::read(&child).expect("a file"), found.mtime())
            };
            seen.insert(child, format!("{:o} {} {what}", found.mode(), found.uid()));
        }
    }

    fn seen(path: &Path) -> BTreeMap<PathBuf, String> {
        let mut all = BTreeMap::new();
        see(path, &mut all);
        all
    }

    fn change(system: &mut dyn System, root: &Path) -> Result<()> {
        let put = |system: &mut dyn System, name: &str, text: &str| {
            let content = Content::Bytes(text.into());
            system.write(&root.join(name), &content, &Attributes::default(), WriteOptions::default())
        };
        let mode = |mode: u32| Attributes { mode: Some(mode), ..Attributes::default() };
        put(system, "file", "second")?;
        put(system, "file", "third")?;
        put(system, "new", "new")?;
        system.make_dir(&root.join("made"), &mode(0o711))?;
        put(system, "made/inside", "x")?;
        system.set_attributes(&root.join("link"), &mode(0o640), true)?;
        system.link(&root.join("link"), Path::new("elsewhere"), LinkKind::Symbolic)?;
        system.remove(&root.join("tree"))?;
        system.rename(&root.join("old"), &root.join("moved"))?;
        Ok(())
    }

    #[test]
    fn a_run_is_taken_back_to_the_last_bit() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let root = place.path().join("host");
        let store = place.path().join("store");
        fs::create_dir_all(root.join("tree/deep")).expect("made");
        for (name, text) in [("file", "first"), ("old", "old"), ("tree/a", "a"), ("tree/deep/b", "b")] {
            fs::write(root.join(name), text).expect("written");
        }
        std::os::unix::fs::symlink("file", root.join("link")).expect("linked");
        let before = seen(&root);
        let mut local = Local::new(Box::new(NoDepot));

        let mut journal =
            Journal::new(&mut local).keeping(Some(Store::open(&store, "run-1").expect("opened")));
        change(&mut journal, &root).expect("changed");
        drop(journal);
        let after = seen(&root);
        assert_ne!(before, after);
        assert_eq!(runs(&store).expect("listed"), ["run-1"]);

        let mut recorder = Recorder::new(&mut local);
        restore(&store, "run-1", &mut recorder, false).expect("there");
        assert!(!recorder.changes().is_empty());
        drop(recorder);
        assert_eq!(seen(&root), after, "a dry run takes nothing back");

        let restored = restore(&store, "run-1", &mut local, false).expect("there");
        assert!(restored.iter().all(|one| matches!(one, Restored::Done(_))), "{restored:#?}");
        assert_eq!(seen(&root), before);
        assert!(restore(&store, "run-2", &mut local, false).is_err());
    }

    #[test]
    fn what_somebody_else_changed_since_is_left_alone() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("file");
        fs::write(&path, "first").expect("written");
        let store = place.path().join("store");
        let mut local = Local::new(Box::new(NoDepot));
        let mut journal = Journal::new(&mut local).keeping(Some(Store::open(&store, "r").expect("opened")));
        let content = Content::Bytes(b"second".to_vec());
        journal.write(&path, &content, &Attributes::default(), WriteOptions::default()).expect("written");
        drop(journal);
        fs::write(&path, "by hand").expect("written");
        let id = path.to_string_lossy().into_owned();
        let left = restore(&store, "r", &mut local, false).expect("there");
        assert_eq!(left, [Restored::Left { id: id.clone(), reason: "it was changed since".into() }]);
        assert_eq!(restore(&store, "r", &mut local, true).expect("there"), [Restored::Done(id)]);
        assert_eq!(fs::read(&path).expect("there"), b"first");
    }

    #[test]
    fn names_of_runs_lead_nowhere_else() {
        let place = tempfile::tempdir().expect("a temporary directory");
        for name in ["", "..", ".hidden", "a/b", "a b"] {
            assert!(Store::open(place.path(), name).is_err(), "{name:?}");
            assert!(records(place.path(), name).is_err(), "{name:?}");
        }
    }
}
