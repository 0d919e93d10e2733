//! Prior states: what was there before a run changed it, kept on the host so that the run can be rolled
//! back. Contents never leave the host.
//!
//! A run has a directory of its own, which only its owner can enter: `index` holds a record for each change
//! in order, `complete` says that nothing is missing from it, and each content is a file beside it under its
//! own sha256. What a command changed is found by looking at the places that commands write to before and
//! after it; see `watch`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::change::{self, Focus};
use super::digest;
use super::{Algorithm, Command, FileKind, Intent, Result, Stat, System, SystemError};
use crate::protocol::frame::{self, FrameError};
use crate::value::Value;

mod alarm;
mod restore;
mod rules;
mod watch;

pub use restore::{Outcome, Plan, Step, restore};
pub use rules::Rules;

/// Largest file of which the content is kept, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Most that is kept of one run, in bytes.
const MAX_RUN: u64 = 256 << 20;

/// Most entries of a directory tree that are kept when it is removed.
const MAX_ENTRIES: usize = 10_000;

/// How many runs that changed something are kept, and how many others.
const MAX_RUNS: usize = 20;

/// Says that the run changed something that is known here, rather than having run commands that left no trace.
const CHANGED: &str = "changed";

/// Says that nothing is missing from a run's records. Taking it away needs no room on the disk.
const COMPLETE: &str = "complete";

/// Says that the run has been rolled back.
const ROLLED_BACK: &str = "rolled-back";

/// What was there before one change, and after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "records are read one by one; most are of the large kind")]
pub enum Prior {
    /// Something at a path.
    Path {
        /// The path, as bytes.
        path: Vec<u8>,
        /// What was there.
        before: Entry,
    },
    /// The change of this path that a record before tells of was made.
    Made {
        /// The path, as bytes.
        path: Vec<u8>,
        /// Its state then, as in [`super::Change::after`].
        state: Value,
    },
    /// Something that a command is about to change.
    Command {
        /// Kind of resource.
        kind: String,
        /// Which one.
        id: String,
        /// Its state.
        before: Value,
        /// Its state afterwards.
        after: Value,
        /// The command, if it may be repeated: services that were restarted or reloaded.
        again: Option<KeptCommand>,
        /// The command that takes it back, where there is one.
        undo: Option<KeptCommand>,
        /// The states hold secrets.
        sensitive: bool,
    },
    /// What the command of the record before has changed.
    Caught(Caught),
    /// The packet filter's rules when the dead man's switch was armed.
    Rules(Vec<Rules>),
    /// Something was changed that is not kept.
    Lost {
        /// What.
        id: String,
        /// Why.
        reason: String,
    },
}

/// What a command changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Caught {
    /// Paths in the places that are watched.
    pub paths: Vec<CaughtPath>,
    /// Packages.
    pub packages: Vec<CaughtPackage>,
    /// The places and the packages were looked at, so that what is not here did not change.
    pub watched: bool,
    /// Rules of the packet filter, before and after.
    pub rules: Option<(Vec<Rules>, Vec<Rules>)>,
}

/// A path that a command changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaughtPath {
    /// The path, as bytes.
    pub path: Vec<u8>,
    /// What was there.
    pub before: Entry,
    /// Its state afterwards.
    pub after: Value,
}

/// A package that a command installed, removed or replaced by another version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaughtPackage {
    /// Name with architecture.
    pub name: String,
    /// What was there.
    pub before: Package,
    /// What is there now.
    pub after: Package,
}

/// A package on the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Package {
    /// It is not there.
    #[default]
    Absent,
    /// It was removed and its configuration was left.
    Configuration,
    /// This version is installed.
    Installed(String),
}

/// A command as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeptCommand {
    argv: Vec<Vec<u8>>,
    stdin: Option<Vec<u8>>,
    env: Vec<(String, String)>,
    cwd: Option<Vec<u8>>,
}

impl KeptCommand {
    fn of(command: &Command) -> KeptCommand {
        KeptCommand {
            argv: command.argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
            stdin: command.stdin.clone(),
            env: command.env.clone(),
            cwd: command.cwd.as_ref().map(|path| path.as_os_str().as_bytes().to_vec()),
        }
    }

    /// The command.
    fn command(&self) -> Command {
        Command {
            stdin: self.stdin.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone().map(|path| OsString::from_vec(path).into()),
            ..Command::new(self.argv.iter().map(|word| OsString::from_vec(word.clone())))
        }
    }
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
        /// sha256 of its content, which is the name of the file that holds it; `None` if the content does not
        /// change.
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

impl Prior {
    /// Whether it tells of a change; a command may have made none.
    fn is_change(&self) -> bool {
        match self {
            Prior::Command { again, undo, .. } => again.is_some() || undo.is_some(),
            Prior::Caught(caught) => {
                !caught.paths.is_empty() || !caught.packages.is_empty() || caught.rules.is_some()
            }
            Prior::Path { .. } | Prior::Made { .. } | Prior::Rules(_) | Prior::Lost { .. } => true,
        }
    }
}

/// A record with a sum over it, so that damage is seen and not acted on.
#[derive(Serialize, Deserialize)]
struct Sealed {
    sum: String,
    #[serde(with = "frame::bytes")]
    body: Vec<u8>,
}

/// The store of one run.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// The run before, whose contents need not be copied again.
    previous: Option<PathBuf>,
    index: File,
    used: u64,
    /// What is kept must survive a loss of power.
    durable: bool,
    /// [`CHANGED`] is there.
    changed: bool,
    /// The machine has SELinux: files have contexts.
    selinux: bool,
    watch: watch::Watch,
    /// Contents that a command may change, under their digests: written only if it does.
    held: HashMap<String, Vec<u8>>,
    held_size: u64,
}

/// How much is held in memory, in bytes; what is more is written at once.
const MAX_HELD: u64 = 16 << 20;

/// What is done with a file's content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// It does not change.
    Nothing,
    /// It is going to change.
    Written,
    /// It may change; see [`Store::write_held`].
    Held,
}

/// Where runs of this user are kept.
pub fn root(home: &Path) -> PathBuf {
    if rustix::process::geteuid().is_root() {
        "/var/lib/setpoint/rollback".into()
    } else {
        home.join(".local/state/setpoint/rollback")
    }
}

/// Whether this can be the name of a run: it leads nowhere else.
pub fn is_name(run: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !run.is_empty() && run.len() <= 100 && !run.starts_with('.') && run.chars().all(valid)
}

fn checked_name(run: &str) -> io::Result<&str> {
    if is_name(run) { Ok(run) } else { Err(io::Error::other(format!("`{run}` is not a name for a run"))) }
}

impl Store {
    /// Opens the store of a run, making it if need be, and removes those of the oldest runs.
    ///
    /// # Errors
    /// The directory can't be made, or somebody else can enter it.
    pub fn open(root: &Path, run: &str) -> io::Result<Store> {
        checked_name(run)?;
        let mut builder = fs::DirBuilder::new();
        // What leads there is not ours alone: `/var/lib` may be missing from a bare root file system.
        builder.recursive(true);
        if let Some(above) = root.parent().and_then(Path::parent) {
            builder.mode(0o755).create(above)?;
        }
        builder.mode(0o700).create(root)?;
        check_private(root)?;
        let directory = root.join(run);
        let fresh = !directory.exists();
        builder.create(&directory)?;
        if fresh {
            File::create(directory.join(COMPLETE))?;
        }
        prune(root, run);
        let index = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(directory.join("index"))?;
        let used = fs::read_dir(&directory)?.flatten().filter_map(|entry| entry.metadata().ok());
        let used = used.map(|found| found.len()).sum();
        let previous = runs(root)?.into_iter().find(|other| other != run).map(|other| root.join(other));
        let watch = watch::Watch::new(rustix::process::geteuid().is_root());
        Ok(Store {
            directory,
            previous,
            index,
            used,
            durable: false,
            changed: false,
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            watch,
            held: HashMap::new(),
            held_size: 0,
        })
    }

    /// What is kept from now on survives a loss of power.
    pub fn make_durable(&mut self) {
        self.durable = true;
    }

    /// The directory of the run.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Looks after commands in these places instead of the usual ones.
    #[cfg(test)]
    pub(crate) fn watching(mut self, places: &[&Path], packages: Option<&Path>) -> Store {
        self.watch = watch::Watch::of(places, packages);
        self
    }

    fn append(&mut self, prior: &Prior) -> io::Result<()> {
        if prior.is_change() && !self.changed {
            File::create(self.directory.join(CHANGED))?;
            self.changed = true;
        }
        let body = rmp_serde::to_vec(prior).map_err(io::Error::other)?;
        let sealed = Sealed { sum: sum(&body), body };
        let frame = frame::encode(&sealed).map_err(io::Error::other)?;
        self.index.write_all(&frame)?;
        if self.durable { self.index.sync_data() } else { Ok(()) }
    }

    /// Notes that something is changed that can't be kept.
    ///
    /// # Errors
    /// The note can't be written.
    pub fn lost(&mut self, id: &str, reason: &str) -> Result<()> {
        self.append(&Prior::Lost { id: id.into(), reason: reason.into() })
            .map_err(|source| self.failed(source))
    }

    /// Goes on without having kept something: from now on the run's records are known to be incomplete.
    pub(super) fn give_up(&mut self, id: &str, error: &SystemError) -> Result<()> {
        if self.durable {
            return Err(SystemError::Other(format!(
                "{error}; nothing is changed that could not be taken back, because this run is to be confirmed"
            )));
        }
        let _ = fs::remove_file(self.directory.join(COMPLETE));
        let _ = self.append(&Prior::Lost { id: id.into(), reason: error.to_string() });
        Ok(())
    }

    /// Keeps the packet filter's rules as they are.
    pub fn keep_rules(&mut self, system: &mut dyn System) -> Result<()> {
        let rules = rules::read(system);
        self.append(&Prior::Rules(rules)).map_err(|source| self.failed(source))
    }

    /// Keeps what is at a path, which is about to change. `content` says whether its content is.
    pub(super) fn keep(&mut self, system: &mut dyn System, path: &Path, content: bool) -> Result<()> {
        let kept = self.entry(system, path, content, &mut 0).and_then(|before| {
            self.append(&Prior::Path { path: path.as_os_str().as_bytes().to_vec(), before })
                .map_err(|source| self.failed(source))
        });
        match kept {
            Ok(()) => Ok(()),
            Err(error) => self.give_up(&path.to_string_lossy(), &error),
        }
    }

    /// Notes that the change was made. `sha256` is the content's digest where it is known without reading it.
    pub(super) fn made(
        &mut self,
        system: &mut dyn System,
        path: &Path,
        sha256: Option<String>,
    ) -> Result<()> {
        let state = change::look(system, path, &Focus { sha256, ..Focus::default() })?.into_state();
        let made = Prior::Made { path: path.as_os_str().as_bytes().to_vec(), state };
        match self.append(&made).map_err(|source| self.failed(source)) {
            Ok(()) => Ok(()),
            Err(error) => self.give_up(&path.to_string_lossy(), &error),
        }
    }

    /// Keeps what a command is about to change; what it returns goes to [`Store::after_command`].
    pub(super) fn before_command(
        &mut self,
        system: &mut dyn System,
        intent: &Intent,
        command: Option<&Command>,
    ) -> Result<Option<watch::Before>> {
        if intent.kind.is_empty() {
            return Ok(None);
        }
        // What was not running was only started; that is taken back like anything else.
        let is_again = intent.undo.is_none() && restore::is_again(intent.kind, &intent.after);
        let again = command.filter(|_| is_again).map(KeptCommand::of);
        let prior = Prior::Command {
            kind: intent.kind.into(),
            id: intent.id.clone(),
            before: intent.before.clone(),
            after: intent.after.clone(),
            again,
            undo: intent.undo.as_ref().map(KeptCommand::of),
            sensitive: intent.sensitive,
        };
        let kept = self.append(&prior).map_err(|source| self.failed(source));
        let kept = kept.and_then(|()| match command {
            Some(_) => self.look_before(system, intent).map(Some),
            None => Ok(None),
        });
        match kept {
            Ok(before) => Ok(before),
            Err(error) => self.give_up(&intent.id, &error).map(|()| None),
        }
    }

    /// Keeps what a command has changed.
    pub(super) fn after_command(
        &mut self,
        system: &mut dyn System,
        id: &str,
        before: Option<watch::Before>,
    ) -> Result<()> {
        let Some(before) = before else { return Ok(()) };
        let kept = self
            .look_after(system, before)
            .and_then(|caught| self.append(&Prior::Caught(caught)).map_err(|source| self.failed(source)));
        match kept {
            Ok(()) => Ok(()),
            Err(error) => self.give_up(id, &error),
        }
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
        if stat.kind == FileKind::Directory && content {
            let attributes = self.kept(system, path, &stat);
            let mut entries = Vec::new();
            for name in system.list(path)? {
                let entry = self.entry(system, &path.join(&name), content, count)?;
                entries.push((name.into_vec(), entry));
            }
            return Ok(Entry::Directory { attributes, entries });
        }
        let keep = if content { Keep::Written } else { Keep::Nothing };
        self.flat_entry(system, path, &stat, keep)
    }

    /// The same of one path alone, without what is in a directory.
    fn flat_entry(&mut self, system: &mut dyn System, path: &Path, stat: &Stat, keep: Keep) -> Result<Entry> {
        let attributes = self.kept(system, path, stat);
        Ok(match stat.kind {
            FileKind::File if keep != Keep::Nothing => match self.content(system, path, stat, keep)? {
                Ok(name) => Entry::File { attributes, content: Some(name) },
                Err(reason) => Entry::NotKept(reason),
            },
            FileKind::File => Entry::File { attributes, content: None },
            FileKind::Directory => Entry::Directory { attributes, entries: Vec::new() },
            FileKind::Link => {
                let target = system.read_link(path)?.into_os_string().into_vec();
                Entry::Link { target, attributes }
            }
            _ => Entry::NotKept("it is a device, pipe or socket".into()),
        })
    }

    fn kept(&self, system: &mut dyn System, path: &Path, stat: &Stat) -> Kept {
        let context = if self.selinux {
            system.extended_attribute(path, "security.selinux").ok().flatten()
        } else {
            None
        };
        let selinux = context.map(|bytes| String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_string());
        Kept { mode: stat.mode, uid: stat.uid, gid: stat.gid, mtime: stat.mtime, selinux }
    }

    /// Copies a file's content; the inner error says why it is not kept.
    fn content(
        &mut self,
        system: &mut dyn System,
        path: &Path,
        stat: &Stat,
        keep: Keep,
    ) -> Result<std::result::Result<String, String>> {
        if stat.size > MAX_FILE {
            return Ok(Err(format!("it has more than {} MiB", MAX_FILE >> 20)));
        }
        if self.used + stat.size > MAX_RUN {
            return Ok(Err(format!("more than {} MiB would be kept of this run", MAX_RUN >> 20)));
        }
        let bytes = match system.read(path) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(error.to_string())),
        };
        // What must be there whatever happens is written before anything can happen.
        if keep == Keep::Held && !self.durable && self.held_size + stat.size <= MAX_HELD {
            return Ok(Ok(self.hold(bytes)));
        }
        self.put(&bytes).map(Ok).map_err(|error| self.failed(error))
    }

    fn hold(&mut self, bytes: Vec<u8>) -> String {
        let name = digest::of_bytes(Algorithm::Sha256, &bytes);
        let size = bytes.len() as u64;
        if self.held.insert(name.clone(), bytes).is_none() {
            self.held_size += size;
        }
        name
    }

    /// Writes the content that an entry names, if it is only held so far.
    fn write_held(&mut self, entry: &Entry) -> Result<()> {
        let Entry::File { content: Some(name), .. } = entry else { return Ok(()) };
        let Some(bytes) = self.held.remove(name) else { return Ok(()) };
        let outcome = self.put(&bytes).map_err(|error| self.failed(error));
        // Other files may have the same content.
        self.held.insert(name.clone(), bytes);
        outcome.map(drop)
    }

    /// Keeps a content under its digest.
    fn put(&mut self, bytes: &[u8]) -> io::Result<String> {
        let name = digest::of_bytes(Algorithm::Sha256, bytes);
        let path = self.directory.join(&name);
        let whole = |path: &Path| fs::metadata(path).is_ok_and(|found| found.len() == bytes.len() as u64);
        if whole(&path) {
            return Ok(name);
        }
        if let Some(known) = self.previous.as_ref().map(|previous| previous.join(&name))
            && !self.durable
            && whole(&known)
            && fs::hard_link(&known, &path).is_ok()
        {
            return Ok(name);
        }
        // Another runner of the same run may write the same content; a name appears only when it is whole.
        let temporary = self.directory.join(format!(".{name}.{}", std::process::id()));
        let written = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                if self.durable { file.sync_all() } else { Ok(()) }
            })
            .and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        self.used += bytes.len() as u64;
        Ok(name)
    }
}

fn sum(body: &[u8]) -> String {
    digest::of_bytes(Algorithm::Sha256, body)[..16].to_string()
}

/// What is done as root must not be led by what others have written.
fn check_private(root: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(root)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!("{} is not ours alone", root.display())));
    }
    Ok(())
}

/// Removes the oldest runs; those whose dead man's switch is armed stay. Many runs that changed nothing don't
/// push out the one that did.
fn prune(root: &Path, current: &str) {
    let Ok(runs) = runs(root) else { return };
    let (changed, idle): (Vec<String>, Vec<String>) =
        runs.into_iter().partition(|run| root.join(run).join(CHANGED).exists());
    let old = changed.iter().skip(MAX_RUNS).chain(idle.iter().skip(MAX_RUNS));
    for run in old.filter(|run| *run != current) {
        if !root.join(run).join(ARMED).exists() {
            let _ = fs::remove_dir_all(root.join(run));
        }
    }
}

/// Names the file that says that a run is taken back unless it is confirmed; it holds the time when.
pub const ARMED: &str = "armed";

/// The runs that are kept, the newest first.
///
/// # Errors
/// The directory can't be read.
pub fn runs(root: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let changed = entry.metadata()?.modified()?;
        if let Ok(name) = entry.file_name().into_string()
            && is_name(&name)
        {
            found.push((changed, name));
        }
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

/// What is kept of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    /// What it changed, in order.
    pub list: Vec<Prior>,
    /// Where and how the index is damaged; what comes after that place is not known.
    pub damaged: Option<String>,
    /// Everything that the run changed is among the records.
    pub complete: bool,
    /// When it was rolled back: seconds since the epoch.
    pub rolled_back: Option<String>,
}

/// What a run has changed, in order; `None` if nothing is kept of it.
///
/// # Errors
/// The store is not ours alone, or can't be read.
pub fn records(root: &Path, run: &str) -> io::Result<Option<Records>> {
    let directory = root.join(checked_name(run)?);
    let file = match File::open(directory.join("index")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    check_private(root)?;
    let mut file = io::BufReader::new(file);
    let mut records = Records {
        complete: directory.join(COMPLETE).exists(),
        rolled_back: fs::read_to_string(directory.join(ROLLED_BACK)).ok(),
        ..Records::default()
    };
    loop {
        let number = records.list.len() + 1;
        let damaged = |why: String| Some(format!("record {number} of its index: {why}"));
        match frame::read::<Sealed>(&mut file) {
            Ok(None) => break,
            Ok(Some(sealed)) if sealed.sum != sum(&sealed.body) => {
                records.damaged = damaged("its sum does not fit".into());
                break;
            }
            Ok(Some(sealed)) => match rmp_serde::from_slice(&sealed.body) {
                Ok(prior) => records.list.push(prior),
                Err(error) => {
                    records.damaged = damaged(error.to_string());
                    break;
                }
            },
            // A full disk cuts the last record off, and then the run says that it is not complete.
            Err(FrameError::Io(error))
                if error.kind() == io::ErrorKind::UnexpectedEof && !records.complete =>
            {
                break;
            }
            Err(error) => {
                records.damaged = damaged(error.to_string());
                break;
            }
        }
    }
    Ok(Some(records))
}

/// Notes that a run was rolled back.
///
/// # Errors
/// The note can't be written.
pub fn mark_rolled_back(root: &Path, run: &str, when: u64) -> io::Result<()> {
    fs::write(root.join(checked_name(run)?).join(ROLLED_BACK), when.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::journal::Journal;
    use super::super::local::{Local, NoDepot};
    use super::super::recorder::Recorder;
    use super::super::{Attributes, Content, Intent, LinkKind, WriteOptions};
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

    /// A machine below a directory, and the store of a run.
    struct Rig {
        place: tempfile::TempDir,
        local: Local,
    }

    impl Rig {
        fn new(files: &[(&str, &str)]) -> Rig {
            let place = tempfile::tempdir().expect("a temporary directory");
            for (name, text) in files {
                let path = place.path().join("host").join(name);
                fs::create_dir_all(path.parent().expect("below")).expect("made");
                fs::write(path, text).expect("written");
            }
            fs::create_dir_all(place.path().join("host")).expect("made");
            Rig { place, local: Local::new(Box::new(NoDepot)) }
        }

        fn host(&self) -> PathBuf {
            self.place.path().join("host")
        }

        fn store(&self) -> PathBuf {
            self.place.path().join("store")
        }

        fn seen(&self) -> BTreeMap<PathBuf, String> {
            let mut all = BTreeMap::new();
            see(&self.host(), &mut all);
            all
        }

        /// Does something as a run; commands are watched over in the whole host.
        fn run(&mut self, run: &str, act: impl FnOnce(&mut dyn System, &Path) -> Result<()>) {
            let (host, root) = (self.host(), self.store());
            let store = Store::open(&root, run).expect("opened").watching(&[&host], None);
            let mut journal = Journal::new(&mut self.local).keeping(Some(store));
            act(&mut journal, &host).expect("changed");
        }

        fn back(&mut self, run: &str, force: bool) -> Vec<Step> {
            back(&self.store(), run, &mut self.local, force)
        }
    }

    fn back(root: &Path, run: &str, system: &mut dyn System, force: bool) -> Vec<Step> {
        let records = records(root, run).expect("readable").expect("there");
        let plan = Plan { directory: &root.join(run), records: &records, force, rescue: false };
        restore(plan, system)
    }

    fn write(system: &mut dyn System, path: &Path, text: &str) -> Result<()> {
        let content = Content::Bytes(text.into());
        system.write(path, &content, &Attributes::default(), WriteOptions::default())
    }

    fn shell(system: &mut dyn System, line: &str) -> Result<()> {
        let intent = Intent { kind: "command", id: line.into(), ..Intent::default() };
        let output = system.change(&Command::new(["sh", "-c", line]), intent)?.output();
        assert!(output.success(), "{}", output.stderr_text());
        Ok(())
    }

    fn left(steps: &[Step]) -> Vec<String> {
        let told = |step: &Step| match &step.outcome {
            Outcome::Left(reason) | Outcome::Impossible(reason) => Some(format!("{}: {reason}", step.what)),
            _ => None,
        };
        steps.iter().filter_map(told).collect()
    }

    #[test]
    fn a_run_is_taken_back_to_the_last_bit() {
        let mut rig = Rig::new(&[("file", "first"), ("old", "old"), ("tree/a", "a"), ("tree/deep/b", "b")]);
        std::os::unix::fs::symlink("file", rig.host().join("link")).expect("linked");
        let before = rig.seen();
        rig.run("run-1", change);
        let after = rig.seen();
        assert_ne!(before, after);
        assert_eq!(runs(&rig.store()).expect("listed"), ["run-1"]);

        let root = rig.store();
        let mut recorder = Recorder::new(&mut rig.local);
        assert_eq!(left(&back(&root, "run-1", &mut recorder, false)), [""; 0]);
        assert!(!recorder.changes().is_empty());
        drop(recorder);
        assert_eq!(rig.seen(), after, "a dry run takes nothing back");

        assert_eq!(left(&rig.back("run-1", false)), [""; 0]);
        assert_eq!(rig.seen(), before);
        let again = rig.back("run-1", false);
        assert!(again.iter().all(|step| step.outcome == Outcome::Already), "{again:#?}");
        assert_eq!(records(&rig.store(), "run-2").expect("readable"), None);
    }

    #[test]
    fn what_commands_changed_is_taken_back_too() {
        let mut rig = Rig::new(&[("passwd", "root"), ("conf.d/a", "a"), ("gone/x", "x"), ("same", "same")]);
        let before = rig.seen();
        rig.run("run-1", |system, host| {
            write(system, &host.join("passwd"), "root, ann")?;
            let host = host.display();
            shell(system, &format!("cd {host}; echo bob >>passwd; chmod 600 conf.d/a; rm -r gone"))?;
            shell(system, &format!("cd {host}; mkdir -p new/deep; echo n >new/deep/n; cat same"))?;
            shell(system, &format!("cd {host}; echo carl >>passwd; ln -s a conf.d/b"))
        });
        let steps = rig.back("run-1", false);
        assert_eq!(rig.seen(), before, "{steps:#?}");
        assert!(left(&steps).iter().all(|line| line.starts_with("command cd")), "{steps:#?}");
        assert_eq!(left(&steps).len(), 3);
    }

    #[test]
    fn what_others_do_while_commands_run_is_not_taken_for_theirs() {
        let mut rig = Rig::new(&[("ours", "1"), ("theirs", "1")]);
        let host = rig.host();
        rig.run("run-1", |system, host| {
            shell(system, &format!("echo 2 >{}/ours", host.display()))?;
            fs::write(host.join("theirs"), "2").expect("written");
            std::thread::sleep(std::time::Duration::from_millis(150));
            shell(system, &format!("echo 3 >{}/ours", host.display()))
        });
        rig.back("run-1", false);
        assert_eq!(fs::read(host.join("ours")).expect("there"), b"1");
        assert_eq!(fs::read(host.join("theirs")).expect("there"), b"2");
    }

    #[test]
    fn what_somebody_else_changed_since_is_left_alone() {
        let mut rig = Rig::new(&[("file", "first"), ("other", "first")]);
        rig.run("r", |system, host| {
            write(system, &host.join("file"), "second")?;
            write(system, &host.join("other"), "second")?;
            system.make_dir(&host.join("made"), &Attributes::default())
        });
        let host = rig.host();
        fs::write(host.join("file"), "by hand").expect("written");
        fs::write(host.join("made/upload"), "by somebody").expect("written");
        let here = |name: &str| host.join(name).to_string_lossy().into_owned();
        assert_eq!(
            left(&rig.back("r", false)),
            [
                format!("{}: there are things in it that the run did not put there: upload", here("made")),
                format!("{}: it was changed since", here("file")),
            ]
        );
        assert_eq!(fs::read(host.join("other")).expect("there"), b"first");
        assert_eq!(left(&rig.back("r", true)), [""; 0]);
        assert_eq!(fs::read(host.join("file")).expect("there"), b"first");
        assert!(!host.join("made").exists());
    }

    #[test]
    fn a_rollback_that_was_cut_off_is_finished_by_the_next() {
        use super::super::faulty::{Fault, Faulty};
        for fault in [Fault::CutBefore, Fault::CutAfter, Fault::Refuse(libc::ENOSPC)] {
            for at in 0..20 {
                let mut rig = Rig::new(&[("file", "first"), ("old", "old"), ("tree/a", "a")]);
                std::os::unix::fs::symlink("file", rig.host().join("link")).expect("linked");
                let before = rig.seen();
                rig.run("r", change);
                let root = rig.store();
                let mut faulty = Faulty::new(&mut rig.local, at, fault);
                let cut = std::panic::AssertUnwindSafe(|| back(&root, "r", &mut faulty, false));
                let outcome = std::panic::catch_unwind(cut);
                let reached = faulty.calls() > at;
                if let (Ok(steps), Fault::Refuse(_), true) = (&outcome, fault, reached) {
                    assert!(!left(steps).is_empty(), "{at}: a full disk is told");
                }
                let steps = rig.back("r", false);
                assert_eq!(rig.seen(), before, "{fault:?} at {at}: {steps:#?}");
            }
        }
    }

    #[test]
    fn a_rollback_can_be_rolled_back() {
        let mut rig = Rig::new(&[("file", "first"), ("old", "old"), ("tree/a", "a")]);
        std::os::unix::fs::symlink("file", rig.host().join("link")).expect("linked");
        rig.run("one", change);
        let content = |rig: &Rig| fs::read(rig.host().join("file")).expect("there");
        let after = content(&rig);
        let root = rig.store();
        rig.run("two", |system, _| {
            assert_eq!(left(&back(&root, "one", system, false)), [""; 0]);
            Ok(())
        });
        assert_ne!(content(&rig), after);
        assert_eq!(left(&rig.back("two", false)), [""; 0]);
        assert_eq!(content(&rig), after);
    }

    #[test]
    fn damage_is_seen_and_not_acted_on() {
        let mut rig = Rig::new(&[("a", "first"), ("b", "first"), ("c", "first")]);
        rig.run("r", |system, host| {
            for name in ["a", "b", "c"] {
                write(system, &host.join(name), "second")?;
            }
            Ok(())
        });
        let directory = rig.store().join("r");
        let index = fs::read(directory.join("index")).expect("there");
        let whole = records(&rig.store(), "r").expect("readable").expect("there");
        assert!(whole.damaged.is_none() && whole.complete && whole.list.len() == 6);
        for at in 0..index.len() {
            let mut bytes = index.clone();
            bytes[at] ^= 0x15;
            fs::write(directory.join("index"), &bytes).expect("written");
            let found = records(&rig.store(), "r").expect("readable").expect("there");
            assert!(found.damaged.is_some(), "byte {at}: {found:?}");
        }
        fs::write(directory.join("index"), &index).expect("written");
        let content = digest::of_bytes(Algorithm::Sha256, b"first");
        fs::write(directory.join(content), "other").expect("written");
        let steps = rig.back("r", false);
        assert_eq!(left(&steps).len(), 3);
        assert!(left(&steps)[0].ends_with("its kept content is damaged"), "{steps:?}");
    }

    #[test]
    fn runs_that_change_nothing_push_none_out() {
        let mut rig = Rig::new(&[("file", "first")]);
        let count = |rig: &Rig| runs(&rig.store()).expect("listed").len();
        rig.run("change", |system, host| write(system, &host.join("file"), "second"));
        for number in 0..MAX_RUNS + 5 {
            rig.run(&format!("idle-{number}"), |system, _| shell(system, "true"));
        }
        assert_eq!(count(&rig), 1 + MAX_RUNS);
        assert_eq!(left(&rig.back("change", false)), [""; 0]);
        assert_eq!(fs::read(rig.host().join("file")).expect("there"), b"first");
        for number in 0..MAX_RUNS + 5 {
            let line = format!("echo {number} >>{}", rig.host().join("file").display());
            rig.run(&format!("change-{number}"), |system, _| shell(system, &line));
        }
        assert_eq!(records(&rig.store(), "change").expect("readable"), None, "the oldest went");
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
