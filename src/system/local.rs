//! This machine, through system calls: the one place where files are changed and programs started.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rayon::prelude::*;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags};

use super::digest::{Hasher, of_reader};
use super::exec::{self, Programs};
use super::parts::{Parts, WORTH_KEEPING};
use super::path::{Step, os_error, walk};
use super::{
    Algorithm, Applied, Attributes, BlobRef, Change, Command, Content, Done, FileKind, Found, Group, Intent,
    LinkKind, Output, Result, Stat, System, SystemError, User, WriteOptions, accounts, flags,
};

/// The machine's way to the controller: content comes and files go.
pub trait Depot: Send {
    /// Asks for contents that will be fetched in this order.
    fn prefetch(&mut self, _blobs: &[BlobRef]) -> io::Result<()> {
        Ok(())
    }
    /// Calls off what was asked for and not fetched.
    fn settle(&mut self) {}
    /// Writes the content into `sink`. The digest is checked by the caller.
    fn fetch(&mut self, blob: &BlobRef, sink: &mut dyn Write) -> io::Result<()>;
    /// Sends a file's content under a name.
    fn send(&mut self, name: &str, content: &mut dyn Read) -> io::Result<()>;
}

/// What fetching says when nobody is there to send any more: what has come so far is worth keeping.
pub fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the controller is gone")
}

/// No controller: content can't be had.
#[derive(Debug, Default)]
pub struct NoDepot;

impl Depot for NoDepot {
    fn fetch(&mut self, _blob: &BlobRef, _sink: &mut dyn Write) -> io::Result<()> {
        Err(io::Error::other("there is no controller"))
    }

    fn send(&mut self, _name: &str, _content: &mut dyn Read) -> io::Result<()> {
        Err(io::Error::other("there is no controller"))
    }
}

/// This machine, as the user that runs this program.
pub struct Local {
    depot: Box<dyn Depot>,
    environment: Vec<(String, String)>,
    programs: Programs,
    umask: u32,
    who: User,
    getent: HashMap<(&'static str, String), Option<String>>,
    scratch: Option<PathBuf>,
    parts: Option<Parts>,
    selinux: bool,
    unsynced: Unsynced,
    /// Earlier files that a thread of their own is syncing.
    behind: Option<JoinHandle<Result<()>>>,
}

impl Local {
    /// This machine, with a way to the controller.
    pub fn new(depot: Box<dyn Depot>) -> Local {
        let mut local = Local {
            depot,
            environment: Vec::new(),
            programs: Programs::default(),
            umask: super::process_umask(),
            who: User {
                name: String::new(),
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
                gecos: String::new(),
                home: PathBuf::new(),
                shell: "/bin/sh".into(),
            },
            getent: HashMap::new(),
            scratch: None,
            parts: None,
            unsynced: Unsynced::default(),
            behind: None,
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        };
        let uid = local.who.uid;
        let gid = local.who.gid;
        local.who = match local.user(&uid.to_string()) {
            Ok(Some(user)) => User { gid, ..user },
            _ => User { name: uid.to_string(), home: own_home(), ..local.who.clone() },
        };
        local
    }

    /// Variables for the programs that are run from now on, over those of this program.
    pub fn set_environment(&mut self, environment: Vec<(String, String)>) {
        self.environment = environment;
    }

    /// Lets whoever holds `programs` end the programs that are run from now on.
    #[must_use]
    pub fn ended_by(mut self, programs: Programs) -> Local {
        self.programs = programs;
        self
    }

    /// Keeps what had come of a large content when its transfer is cut off.
    #[must_use]
    pub fn keeping(mut self, parts: Option<Parts>) -> Local {
        self.parts = parts;
        self
    }

    /// The home directory of the user that this runs as.
    pub fn home(&self) -> PathBuf {
        self.who.home.clone()
    }

    /// Calls off content that was asked for and that no task wants any more.
    pub fn settle(&mut self) {
        self.depot.settle();
    }

    /// Sees to it that what was written is on the disk.
    ///
    /// # Errors
    /// The disk did not take it.
    pub fn sync(&mut self) -> Result<()> {
        let behind = self.await_behind();
        behind.and(std::mem::take(&mut self.unsynced).sync())
    }

    /// The same for what was written so far, while more is being written. What the disk did not take is told
    /// by the next call, or by [`Local::sync`].
    fn sync_behind(&mut self) -> Result<()> {
        self.await_behind()?;
        let batch = std::mem::take(&mut self.unsynced);
        self.behind = Some(std::thread::spawn(move || batch.sync()));
        Ok(())
    }

    fn await_behind(&mut self) -> Result<()> {
        let Some(behind) = self.behind.take() else { return Ok(()) };
        behind.join().unwrap_or_else(|_| Err(SystemError::Other("syncing files failed".into())))
    }

    /// Removes the scratch directory, if there is one.
    pub fn clear_scratch(&mut self) {
        if let Some(scratch) = self.scratch.take() {
            let _ = self.remove(&scratch);
        }
    }

    /// The scratch directory, if there is one.
    pub fn scratch_dir(&self) -> Option<&Path> {
        self.scratch.as_deref()
    }

    fn run(&mut self, command: &Command) -> Result<Output> {
        exec::run(command, &self.environment, &self.programs)
    }

    /// A line of an account database: from the file, else by way of `getent`, which knows directories too.
    fn account(&mut self, database: &'static str, key: &str) -> Result<Option<String>> {
        let path = format!("/etc/{database}");
        if let Ok(text) = fs::read(&path)
            && let Some(line) = accounts::find(&String::from_utf8_lossy(&text), key)
        {
            return Ok(Some(line));
        }
        let cache_key = (database, key.to_string());
        if let Some(known) = self.getent.get(&cache_key) {
            return Ok(known.clone());
        }
        let found = if key.is_empty() || key.starts_with('-') || !accounts::is_served_elsewhere(database) {
            None
        } else {
            match exec::run(&Command::new(["getent", database, key]), &[], &self.programs) {
                Ok(output) if output.success() => output.stdout_text().lines().next().map(String::from),
                _ => None,
            }
        };
        self.getent.insert(cache_key, found.clone());
        Ok(found)
    }

    /// Writes content into a file that was opened for it.
    fn pour(&mut self, content: &Content, file: &mut File, path: &Path) -> Result<()> {
        match content {
            Content::Bytes(bytes) => file.write_all(bytes).map_err(io_error("write", path)),
            Content::File(source) => {
                let mut from = open_read(source)?;
                copy_sparse(&mut from, file).map_err(io_error("write", path))
            }
            Content::Blob(blob) => {
                let mut sink = Checked { file, hasher: Hasher::new(Algorithm::Sha256), size: 0, error: None };
                let outcome = self.depot.fetch(blob, &mut sink);
                if let Some(error) = sink.error {
                    return Err(io_error("write", path)(error));
                }
                let is_cut =
                    outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionAborted);
                if let Some(parts) = &self.parts
                    && is_cut
                    && sink.size >= WORTH_KEEPING
                {
                    parts.keep(blob, sink.file);
                }
                outcome.map_err(|error| {
                    SystemError::Other(format!("content for {}: {error}", path.display()))
                })?;
                let whole = sink.size == blob.size && sink.hasher.finish() == blob.sha256;
                if whole { Ok(()) } else { Err(SystemError::Blob(blob.sha256.clone())) }
            }
        }
    }

    /// Sets owner, group, mode and the rest on an open file that is not yet at its place.
    fn dress(&self, file: &File, path: &Path, attributes: &Attributes, old: Option<&Old>) -> Result<()> {
        let fail = |error: rustix::io::Errno| io_error("set attributes of", path)(error.into());
        let now = file.metadata().map_err(io_error("stat", path))?;
        let uid = attributes.uid.or(old.map(|old| old.uid)).filter(|uid| *uid != now.uid());
        let gid = attributes.gid.or(old.map(|old| old.gid)).filter(|gid| *gid != now.gid());
        if let Some(uid) = uid {
            let outcome = rustix::fs::fchown(file, Some(rustix::fs::Uid::from_raw(uid)), None);
            // Who may not give a file away keeps it, unless that was asked for.
            if attributes.uid.is_some() || outcome != Err(rustix::io::Errno::PERM) {
                outcome.map_err(fail)?;
            }
        }
        if let Some(gid) = gid {
            let outcome = rustix::fs::fchown(file, None, Some(rustix::fs::Gid::from_raw(gid)));
            if attributes.gid.is_some() || outcome != Err(rustix::io::Errno::PERM) {
                outcome.map_err(fail)?;
            }
        }
        for (name, value) in old.map(|old| old.extended.as_slice()).unwrap_or_default() {
            // A file system or policy that refuses them refuses no content.
            let _ = rustix::fs::fsetxattr(file, name.as_os_str(), value, XattrFlags::empty());
        }
        let mode = attributes.mode.or(old.map(|old| old.mode)).unwrap_or(0o666 & !self.umask);
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).map_err(fail)?;
        if let Some(context) = &attributes.selinux {
            rustix::fs::fsetxattr(file, "security.selinux", context.as_bytes(), XattrFlags::empty())
                .map_err(fail)?;
        }
        if let Some(times) = times(attributes) {
            rustix::fs::futimens(file, &times).map_err(fail)?;
        }
        Ok(())
    }

    /// A new file in a place that had none gets the context that the policy says, not the directory's.
    fn relabel(&mut self, path: &Path, attributes: &Attributes, existed: bool) {
        if self.selinux && !existed && attributes.selinux.is_none() {
            let command = Command::new([OsStr::new("restorecon"), path.as_os_str()]);
            let _ = self.run(&command);
        }
    }

    fn write_in_place(&mut self, path: &Path, content: &Content, attributes: &Attributes) -> Result<()> {
        // The content is brought together first: only the last step is not atomic.
        let staged = self.scratch()?.join(format!("unsafe-{}", random_name()));
        let mut stage = File::options()
            .write(true)
            .read(true)
            .create_new(true)
            .mode(0o600)
            .open(&staged)
            .map_err(io_error("write", &staged))?;
        let outcome = self.pour(content, &mut stage, path).and_then(|()| {
            let mut file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .open(path)
                .map_err(io_error("write", path))?;
            stage.seek(SeekFrom::Start(0)).map_err(io_error("read", &staged))?;
            io::copy(&mut stage, &mut file).map_err(io_error("write", path))?;
            file.sync_all().map_err(io_error("write", path))
        });
        let _ = fs::remove_file(&staged);
        outcome?;
        self.set_attributes(path, attributes, true)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // Who wants to know of a failure asks before.
        let _ = self.sync();
        self.clear_scratch();
    }
}

/// What a file that is replaced hands on.
struct Old {
    uid: u32,
    gid: u32,
    mode: u32,
    extended: Vec<(OsString, Vec<u8>)>,
}

/// After how much of a large file the kernel is told to begin writing, in bytes: the sync at its end then has
/// little left to wait for.
const WRITEBACK: u64 = 8 << 20;

/// Begins to write the next [`WRITEBACK`] bytes from `offset` to the disk; does not wait.
#[cfg(target_pointer_width = "64")]
#[expect(unsafe_code, reason = "there is no other way to this system call")]
fn write_back(file: &File, offset: u64) {
    const BEGIN: u32 = 2;
    // SAFETY: it takes numbers only, and an open descriptor. Where the kernel has no such call nothing happens.
    unsafe { libc::syscall(libc::SYS_sync_file_range, file.as_raw_fd(), offset, WRITEBACK, BEGIN) };
}

/// Where the call takes its numbers in pieces, it is left out.
#[cfg(not(target_pointer_width = "64"))]
fn write_back(_file: &File, _offset: u64) {}

/// A file that is being filled with content whose digest is known.
struct Checked<'a> {
    file: &'a mut File,
    hasher: Hasher,
    size: u64,
    error: Option<io::Error>,
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.file.write_all(bytes) {
            let kind = error.kind();
            self.error = Some(error);
            return Err(kind.into());
        }
        self.hasher.update(bytes);
        let before = self.size / WRITEBACK;
        self.size += bytes.len() as u64;
        if self.size / WRITEBACK > before {
            write_back(self.file, before * WRITEBACK);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl System for Local {
    fn stat(&mut self, path: &Path) -> Result<Option<Stat>> {
        present(fs::symlink_metadata(path), path).map(|found| found.as_ref().map(stat_of))
    }

    fn stat_follow(&mut self, path: &Path) -> Result<Option<Stat>> {
        match fs::metadata(path) {
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Ok(None),
            outcome => present(outcome, path).map(|found| found.as_ref().map(stat_of)),
        }
    }

    fn read(&mut self, path: &Path) -> Result<Vec<u8>> {
        let file = open_any(path)?;
        let found = file.metadata().map_err(io_error("read", path))?;
        if found.is_dir() {
            return Err(os_error("read", path, libc::EISDIR));
        }
        // With room for one more than there should be, the second read says that it was all.
        let room = if found.is_file() { found.len().min(MAX_ROOM) + 1 } else { 0 };
        let mut bytes = Vec::with_capacity(usize::try_from(room).unwrap_or_default());
        // What does not know its length asks no more questions about it.
        file.take(u64::MAX).read_to_end(&mut bytes).map_err(io_error("read", path))?;
        Ok(bytes)
    }

    fn read_at(&mut self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut file = open_read(path)?;
        file.seek(SeekFrom::Start(offset)).map_err(io_error("read", path))?;
        let mut bytes = Vec::new();
        file.take(length as u64).read_to_end(&mut bytes).map_err(io_error("read", path))?;
        Ok(bytes)
    }

    fn digest(&mut self, path: &Path, algorithm: Algorithm) -> Result<String> {
        let mut file = open_read(path)?;
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        of_reader(algorithm, &mut file).map_err(io_error("read", path))
    }

    fn survey(&mut self, paths: &[PathBuf]) -> Vec<Result<Found>> {
        // Digests are work for all of the machine's cores.
        paths.par_iter().map(|path| survey_path(path)).collect()
    }

    fn list(&mut self, path: &Path) -> Result<Vec<OsString>> {
        let fail = io_error("list", path);
        let mut names = fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect())
            .map_err(fail)?;
        let sorted: &mut Vec<OsString> = &mut names;
        sorted.sort_unstable();
        Ok(names)
    }

    fn read_link(&mut self, path: &Path) -> Result<PathBuf> {
        fs::read_link(path).map_err(io_error("read link", path))
    }

    fn resolve(&mut self, path: &Path) -> Result<PathBuf> {
        let start = if path.is_absolute() {
            PathBuf::new()
        } else {
            std::env::current_dir().map_err(io_error("resolve", path))?
        };
        walk(&start, path, true, &mut |candidate| match fs::read_link(candidate) {
            Ok(target) => Ok(Step::Link(target)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINVAL) => Ok(Step::Other),
                Some(libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG) => Ok(Step::Missing),
                _ => Err(io_error("resolve", candidate)(error)),
            },
        })
    }

    fn access(&mut self, path: &Path, bits: u32) -> Result<bool> {
        let mut access = rustix::fs::Access::EXISTS;
        for (bit, right) in [
            (4, rustix::fs::Access::READ_OK),
            (2, rustix::fs::Access::WRITE_OK),
            (1, rustix::fs::Access::EXEC_OK),
        ] {
            if bits & bit != 0 {
                access |= right;
            }
        }
        Ok(rustix::fs::accessat(rustix::fs::CWD, path, access, AtFlags::EACCESS).is_ok())
    }

    fn extended_attribute(&mut self, path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
        if name == flags::NAME {
            let Some(stat) = self.stat(path)? else { return Err(os_error("read", path, libc::ENOENT)) };
            // Opening a device or pipe would do something; what a link points at is another file.
            if !matches!(stat.kind, FileKind::File | FileKind::Directory) {
                return Ok(None);
            }
            let Ok(file) = open_flags(path) else { return Ok(None) };
            let bits = rustix::fs::ioctl_getflags(&file);
            return Ok(bits.ok().map(|bits| flags::text(bits.bits()).into_bytes()));
        }
        // Nearly all are short, or not there.
        let mut value = vec![0; 256];
        loop {
            match rustix::fs::lgetxattr(path, name, &mut value) {
                Ok(length) => {
                    value.truncate(length);
                    return Ok(Some(value));
                }
                Err(rustix::io::Errno::RANGE) if value.len() < MAX_ATTRIBUTE => {
                    value.resize(MAX_ATTRIBUTE, 0)
                }
                Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => return Ok(None),
                Err(error) => return Err(io_error("read attributes of", path)(error.into())),
            }
        }
    }

    fn user(&mut self, name_or_id: &str) -> Result<Option<User>> {
        Ok(self.account("passwd", name_or_id)?.and_then(|line| accounts::user(&line)))
    }

    fn group(&mut self, name_or_id: &str) -> Result<Option<Group>> {
        Ok(self.account("group", name_or_id)?.and_then(|line| accounts::group(&line)))
    }

    fn whoami(&mut self) -> Result<User> {
        Ok(self.who.clone())
    }

    fn env(&mut self, name: &str) -> Option<String> {
        let own = self.environment.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        own.or_else(|| std::env::var(name).ok())
    }

    fn own_variables(&mut self) -> Vec<String> {
        self.environment.iter().map(|(name, _)| name.clone()).collect()
    }

    fn query(&mut self, command: &Command) -> Result<Output> {
        self.run(command)
    }

    fn converse(
        &mut self,
        command: &Command,
        patience: Duration,
    ) -> Result<Box<dyn super::converse::Conversation>> {
        super::converse::start(command, &self.environment, &self.programs, patience)
    }

    fn probe(&mut self, probe: &super::probe::Probe) -> Result<super::probe::Answer> {
        super::probe::ask(probe)
    }

    fn blob(&mut self, blob: &BlobRef) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.depot.fetch(blob, &mut bytes).map_err(|error| SystemError::Other(error.to_string()))?;
        if super::digest::of_bytes(Algorithm::Sha256, &bytes) == blob.sha256 {
            Ok(bytes)
        } else {
            Err(SystemError::Blob(blob.sha256.clone()))
        }
    }

    fn prefetch(&mut self, blobs: &[BlobRef]) -> Result<()> {
        self.depot.prefetch(blobs).map_err(|error| SystemError::Other(error.to_string()))
    }

    fn send(&mut self, path: &Path, name: &str) -> Result<()> {
        let mut file = open_read(path)?;
        self.depot.send(name, &mut file).map_err(io_error("send", path))
    }

    fn write(
        &mut self,
        path: &Path,
        content: &Content,
        attributes: &Attributes,
        options: WriteOptions,
    ) -> Result<()> {
        let outcome = self.replace(path, content, attributes);
        match outcome {
            Err(error) if options.unsafe_writes && is_refusal(&error) => {
                self.write_in_place(path, content, attributes)
            }
            outcome => outcome,
        }
    }

    fn make_dir(&mut self, path: &Path, attributes: &Attributes) -> Result<()> {
        let fail = io_error("make directory", path);
        // Narrow first: with a wider mode than wished somebody could get in before it is set.
        let mode = attributes.mode.unwrap_or(0o777) & 0o777;
        let private = if attributes.uid.is_some() || attributes.gid.is_some() { mode & 0o700 } else { mode };
        rustix::fs::mkdir(path, Mode::from_raw_mode(private)).map_err(|error| fail(error.into()))?;
        let mut wanted = attributes.clone();
        if attributes.mode.is_none() && private != mode {
            let inherited = self.stat(path)?.map_or(0, |stat| stat.mode & 0o2000);
            wanted.mode = Some((0o777 & !self.umask) | inherited);
        }
        if let Err(error) = self.set_attributes(path, &wanted, false) {
            let _ = rustix::fs::rmdir(path);
            return Err(error);
        }
        self.relabel(path, attributes, false);
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        let fail = |error: rustix::io::Errno| io_error("remove", path)(error.into());
        let stat = fs::symlink_metadata(path).map_err(io_error("remove", path))?;
        if !stat.is_dir() {
            return rustix::fs::unlink(path).map_err(fail);
        }
        let (parent, name) = split(path, "remove")?;
        let parent = open_dir(&parent, path, "remove")?;
        remove_tree(parent.as_fd(), &name, stat.dev(), path)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        rustix::fs::rename(from, to).map_err(|error| io_error("rename", from)(error.into()))?;
        if let Ok((parent, _)) = split(to, "rename")
            && let Ok(directory) = open_dir(&parent, to, "rename")
        {
            self.unsynced.directory(parent, directory);
        }
        Ok(())
    }

    fn link(&mut self, path: &Path, target: &Path, kind: LinkKind) -> Result<()> {
        let fail = |error: rustix::io::Errno| io_error("link", path)(error.into());
        if fs::symlink_metadata(path).is_ok_and(|stat| stat.is_dir()) {
            return Err(os_error("link", path, libc::EISDIR));
        }
        let (parent, name) = split(path, "link")?;
        let directory = open_dir(&parent, path, "link")?;
        let outcome = put(&directory, &name, |to| match kind {
            LinkKind::Symbolic => rustix::fs::symlinkat(target, &directory, to),
            LinkKind::Hard => rustix::fs::linkat(rustix::fs::CWD, target, &directory, to, AtFlags::empty()),
        });
        let outcome = outcome.map_err(|error| match kind {
            LinkKind::Hard => io_error("link", target)(error.into()),
            LinkKind::Symbolic => fail(error),
        });
        outcome?;
        self.relabel(path, &Attributes::default(), false);
        Ok(())
    }

    fn set_attributes(&mut self, path: &Path, attributes: &Attributes, follow: bool) -> Result<()> {
        let fail = |error: rustix::io::Errno| io_error("set attributes of", path)(error.into());
        let found = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let now = found.map_err(io_error("set attributes of", path))?;
        let at = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        if attributes.flags.as_deref().is_some_and(|wish| wish.starts_with(['-', '='])) {
            // What is immutable must be set free before anything else can be set.
            set_flags(path, attributes)?;
        }
        let uid = attributes.uid.filter(|uid| *uid != now.uid()).map(rustix::fs::Uid::from_raw);
        let gid = attributes.gid.filter(|gid| *gid != now.gid()).map(rustix::fs::Gid::from_raw);
        if uid.is_some() || gid.is_some() {
            rustix::fs::chownat(rustix::fs::CWD, path, uid, gid, at).map_err(fail)?;
        }
        if let Some(mode) = attributes.mode
            && !now.is_symlink()
        {
            rustix::fs::chmodat(rustix::fs::CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
                .map_err(fail)?;
        }
        if let Some(context) = &attributes.selinux {
            let set = if follow { rustix::fs::setxattr } else { rustix::fs::lsetxattr };
            set(path, "security.selinux", context.as_bytes(), XattrFlags::empty()).map_err(fail)?;
        }
        if let Some(times) = times(attributes) {
            let outcome = match rustix::fs::utimensat(rustix::fs::CWD, path, &times, at) {
                // Any time is for the owner to set; the present for everybody who may write.
                Err(rustix::io::Errno::PERM) if is_present(attributes) => {
                    rustix::fs::utimensat(rustix::fs::CWD, path, &PRESENT, at)
                }
                outcome => outcome,
            };
            outcome.map_err(fail)?;
        }
        if attributes.flags.as_deref().is_some_and(|wish| !wish.starts_with(['-', '='])) {
            set_flags(path, attributes)?;
        }
        Ok(())
    }

    fn change(&mut self, command: &Command, _intent: Intent) -> Result<Done> {
        // It may be what cuts the power.
        self.sync()?;
        let output = self.run(command);
        self.getent.clear();
        output.map(Done::Made)
    }

    fn perform(&mut self, _intent: Intent, act: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        self.sync()?;
        let outcome = act();
        self.getent.clear();
        outcome.map(|()| true)
    }

    fn scratch(&mut self) -> Result<PathBuf> {
        if let Some(scratch) = &self.scratch {
            return Ok(scratch.clone());
        }
        let scratch = make_private_dir("setpoint")?;
        self.scratch = Some(scratch.clone());
        Ok(scratch)
    }

    fn spool(&mut self, name: &str, content: &mut dyn Read) -> Result<PathBuf> {
        let path = self.scratch()?.join(name);
        let _ = fs::remove_file(&path);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("write", &path))?;
        io::copy(content, &mut file).map_err(io_error("receive", &path))?;
        Ok(path)
    }

    fn applied(&mut self, _applied: Applied) {}

    fn uncertain(&self) -> Option<String> {
        None
    }

    fn changes(&self) -> &[Change] {
        &[]
    }
}

impl Local {
    /// Writes beside the file and renames over it. What replaces something is on the disk before it takes
    /// its place; what is new gets there together with other new files, which takes a fraction of the time,
    /// before the batch ends or a command is run.
    fn replace(&mut self, path: &Path, content: &Content, attributes: &Attributes) -> Result<()> {
        let (parent, name) = split(path, "write")?;
        let directory = open_dir(&parent, path, "write")?;
        let old = old_of(path)?;
        let fresh = present(fs::symlink_metadata(path), path)?.is_none();
        let temporary = temporary_name(&name, &random_name());
        let final_name = CString::new(name.as_bytes()).unwrap_or_default();
        let fail = |error: rustix::io::Errno| io_error("write", path)(error.into());
        let (mut file, nameless) = open_temporary(&directory, &temporary).map_err(fail)?;
        let outcome = self
            .pour(content, &mut file, path)
            .and_then(|()| self.dress(&file, path, attributes, old.as_ref()))
            .and_then(|()| if fresh { Ok(()) } else { file.sync_all().map_err(io_error("write", path)) })
            .and_then(|()| {
                if !nameless {
                    return rustix::fs::renameat(&directory, &temporary, &directory, &name).map_err(fail);
                }
                let own = format!("/proc/self/fd/{}", file.as_raw_fd());
                let link = |to: &CStr| {
                    rustix::fs::linkat(rustix::fs::CWD, &own, &directory, to, AtFlags::SYMLINK_FOLLOW)
                };
                // Where nothing is it takes its place at once.
                if fresh && link(&final_name).is_ok() {
                    return Ok(());
                }
                put(&directory, &name, link).map_err(fail)
            });
        if let Err(error) = outcome {
            let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
            return Err(error);
        }
        if fresh {
            // A program that is open for writing can't be started: the descriptor that waits for the sync only reads.
            self.unsynced.file(path, File::open(path).unwrap_or(file));
        }
        self.unsynced.directory(parent, directory);
        if self.unsynced.is_full() {
            self.sync_behind()?;
        }
        if attributes.flags.is_some() {
            set_flags(path, attributes)?;
        }
        self.relabel(path, attributes, old.is_some());
        Ok(())
    }
}

/// How many files may wait to be synced, and as many again be on their way: each holds a descriptor.
const MAX_UNSYNCED: usize = 128;

/// How many files are synced at once: a journal takes many for hardly more than the price of one.
const SYNCING: usize = 16;

/// What was written and is perhaps not on the disk yet.
#[derive(Default)]
struct Unsynced {
    files: Vec<(PathBuf, File)>,
    directories: BTreeMap<PathBuf, OwnedFd>,
}

impl Unsynced {
    fn file(&mut self, path: &Path, file: File) {
        self.files.push((path.to_path_buf(), file));
    }

    fn directory(&mut self, path: PathBuf, directory: OwnedFd) {
        self.directories.insert(path, directory);
    }

    fn is_full(&self) -> bool {
        self.files.len() + self.directories.len() >= MAX_UNSYNCED
    }

    fn sync(self) -> Result<()> {
        let failure = Mutex::new(None);
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((path, file)) = self.files.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = file.sync_all() {
                    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    failure.get_or_insert_with(|| io_error("write", path)(error));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.files.len().min(SYNCING) {
                scope.spawn(work);
            }
            work();
        });
        for directory in self.directories.values() {
            // Not every file system knows how.
            let _ = rustix::fs::fsync(directory);
        }
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// Errors after which `unsafe_writes` tries the other way: the directory or the mount refuses a rename.
fn is_refusal(error: &SystemError) -> bool {
    let refusals = [libc::EBUSY, libc::EXDEV, libc::EACCES, libc::EPERM, libc::EROFS, libc::ETXTBSY];
    error.errno().is_some_and(|number| refusals.contains(&number))
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> SystemError {
    move |source| SystemError::Io { action, path: path.to_path_buf(), source }
}

fn present(outcome: io::Result<fs::Metadata>, path: &Path) -> Result<Option<fs::Metadata>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Ok(None),
            _ => Err(io_error("stat", path)(error)),
        },
    }
}

/// The longest value of an extended attribute, in bytes.
const MAX_ATTRIBUTE: usize = 64 << 10;

/// How much room is made for a file before anything of it is read, in bytes.
const MAX_ROOM: u64 = 16 << 20;

/// How often a file that changes while it is read is read.
const READS: usize = 3;

/// [`super::survey_one`] without a machine to borrow, for several threads at once. Attributes and content of a file
/// are of the same moment: a file that is replaced or written to meanwhile is looked at again.
fn survey_path(path: &Path) -> Result<Found> {
    for _ in 0..READS {
        let Some(found) = present(fs::symlink_metadata(path), path)? else { return Ok(Found::default()) };
        let mut out = Found { stat: Some(stat_of(&found)), ..Found::default() };
        if found.is_symlink() {
            match fs::read_link(path) {
                Ok(target) => out.target = Some(target),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
                Err(_) => {}
            }
        }
        if !found.is_file() {
            return Ok(out);
        }
        // That it is still the same file is seen in the end.
        let mut file = match open_any(path) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(Found::default()),
            // What can't be read still has attributes.
            Err(_) => return Ok(out),
        };
        // Nobody needs to be asked whether a file of a known size is at its end. What has none, as in /proc, may
        // hold something all the same.
        let size = if found.len() == 0 { u64::MAX } else { found.len() };
        out.sha256 = of_reader(Algorithm::Sha256, &mut (&mut file).take(size)).ok();
        let still = |now: fs::Metadata| {
            let moment = |one: &fs::Metadata| {
                (
                    one.dev(),
                    one.ino(),
                    one.size(),
                    one.mtime(),
                    one.mtime_nsec(),
                    one.mode(),
                    one.uid(),
                    one.gid(),
                )
            };
            moment(&found) == moment(&now)
        };
        if file.metadata().is_ok_and(still) {
            return Ok(out);
        }
    }
    Err(SystemError::Other(format!("{} changes while it is looked at", path.display())))
}

fn stat_of(found: &fs::Metadata) -> Stat {
    let kind = found.file_type();
    #[expect(clippy::cast_precision_loss, reason = "seconds with fractions are a float everywhere")]
    let time = |seconds: i64, nanos: i64| seconds as f64 + nanos as f64 / 1e9;
    Stat {
        kind: if kind.is_symlink() {
            FileKind::Link
        } else if kind.is_dir() {
            FileKind::Directory
        } else if kind.is_fifo() {
            FileKind::Fifo
        } else if kind.is_socket() {
            FileKind::Socket
        } else if kind.is_char_device() {
            FileKind::CharDevice
        } else if kind.is_block_device() {
            FileKind::BlockDevice
        } else {
            FileKind::File
        },
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        size: found.size(),
        mtime: time(found.mtime(), found.mtime_nsec()),
        atime: time(found.atime(), found.atime_nsec()),
        ctime: time(found.ctime(), found.ctime_nsec()),
        inode: found.ino(),
        device: found.dev(),
        links: found.nlink(),
        device_type: found.rdev(),
        blocks: found.blocks(),
        block_size: found.blksize(),
    }
}

/// Opens a file for reading; never waits for the other end of a pipe.
/// Opens what is at a path, whatever it is. The kernel is asked directly: the C library of the runner asks it twice.
fn open_any(path: &Path) -> Result<File> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .map(File::from)
        .map_err(|error| io_error("read", path)(error.into()))
}

fn open_read(path: &Path) -> Result<File> {
    let file = open_any(path)?;
    if file.metadata().map_err(io_error("read", path))?.is_dir() {
        return Err(os_error("read", path, libc::EISDIR));
    }
    Ok(file)
}

fn split(path: &Path, action: &'static str) -> Result<(PathBuf, OsString)> {
    let name = path.file_name().ok_or_else(|| os_error(action, path, libc::EBUSY))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    Ok((parent, name.to_os_string()))
}

fn open_dir(directory: &Path, path: &Path, action: &'static str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty())
        // A directory that may be written but not read can still be worked in.
        .or_else(|_| {
            rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        })
        .map_err(|error| io_error(action, path)(error.into()))
}

/// What a file that is about to be replaced hands on; `None` unless it is a regular file.
fn old_of(path: &Path) -> Result<Option<Old>> {
    let Some(found) = present(fs::symlink_metadata(path), path)? else { return Ok(None) };
    if found.is_dir() {
        return Err(os_error("write", path, libc::EISDIR));
    }
    if !found.is_file() {
        return Ok(None);
    }
    Ok(Some(Old {
        uid: found.uid(),
        gid: found.gid(),
        mode: found.mode() & 0o7777,
        extended: extended_of(path),
    }))
}

/// The extended attributes that belong to a name rather than to one content: context, ACL, the user's own.
fn extended_of(path: &Path) -> Vec<(OsString, Vec<u8>)> {
    let mut names = vec![0; 1024];
    let length = loop {
        match rustix::fs::llistxattr(path, &mut names) {
            Ok(length) => break length,
            Err(rustix::io::Errno::RANGE) if names.len() < MAX_ATTRIBUTE => names.resize(MAX_ATTRIBUTE, 0),
            Err(_) => return Vec::new(),
        }
    };
    let handed_on = |name: &&[u8]| {
        name.starts_with(b"user.") || **name == *b"security.selinux" || **name == *b"system.posix_acl_access"
    };
    names[..length]
        .split(|byte| *byte == 0)
        .filter(handed_on)
        .filter_map(|name| {
            let name = OsString::from_vec(name.to_vec());
            let mut value = vec![0; MAX_ATTRIBUTE];
            let length = rustix::fs::lgetxattr(path, name.as_os_str(), &mut value).ok()?;
            value.truncate(length);
            Some((name, value))
        })
        .collect()
}

fn times(attributes: &Attributes) -> Option<Timestamps> {
    if attributes.mtime.is_none() && attributes.atime.is_none() {
        return None;
    }
    let omit = Timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT as _ };
    #[expect(clippy::cast_possible_truncation, reason = "a time in seconds fits")]
    let spec = |time: f64| Timespec {
        tv_sec: time.floor() as i64,
        tv_nsec: (((time - time.floor()) * 1e9).round().min(999_999_999.0)) as _,
    };
    Some(Timestamps {
        last_access: attributes.atime.map_or(omit, spec),
        last_modification: attributes.mtime.map_or(omit, spec),
    })
}

/// Both times are to be the present.
const PRESENT: Timestamps = {
    let now = Timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW as _ };
    Timestamps { last_access: now, last_modification: now }
};

/// Whether both times are to be set, and to the present.
fn is_present(attributes: &Attributes) -> bool {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64());
    [attributes.mtime, attributes.atime].iter().all(|time| time.is_some_and(|time| (time - now).abs() < 5.0))
}

fn open_flags(path: &Path) -> Result<OwnedFd> {
    let how = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, how, Mode::empty())
        .map_err(|error| io_error("read attributes of", path)(error.into()))
}

fn set_flags(path: &Path, attributes: &Attributes) -> Result<()> {
    let Some(wish) = &attributes.flags else { return Ok(()) };
    let fail = |error: rustix::io::Errno| io_error("set attributes of", path)(error.into());
    let file = open_flags(path)?;
    let now = rustix::fs::ioctl_getflags(&file).map_err(fail)?;
    let wanted = flags::apply(now.bits(), wish).map_err(SystemError::Other)?;
    if wanted == now.bits() {
        return Ok(());
    }
    rustix::fs::ioctl_setflags(&file, rustix::fs::IFlags::from_bits_retain(wanted)).map_err(fail)
}

/// Copies what holds data and leaves the holes.
fn copy_sparse(from: &mut File, to: &mut File) -> io::Result<()> {
    let found = from.metadata()?;
    let size = found.size();
    let sparse = found.is_file() && found.blocks() * 512 < size;
    if !sparse {
        // Within the kernel where the file systems can do that.
        return io::copy(from, to).map(|_| ());
    }
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(&*from, rustix::fs::SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&*from, rustix::fs::SeekFrom::Hole(start))?;
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        let copied = io::copy(&mut from.take(end - start), to)?;
        if copied != end - start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = end;
    }
    to.set_len(size)
}

/// Removes a directory with all that is in it, by way of its parent, not following links.
fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr, device: u64, path: &Path) -> Result<()> {
    let fail = |error: rustix::io::Errno| io_error("remove", path)(error.into());
    let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, how, Mode::empty()).map_err(fail)?;
    if rustix::fs::fstat(&directory).map_err(fail)?.st_dev as u64 != device {
        return Err(SystemError::Other(format!("{} is a mount point; it is not removed", path.display())));
    }
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&directory).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_os_string();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    for child in names {
        match rustix::fs::unlinkat(&directory, &child, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {
                let stat = rustix::fs::statat(&directory, &child, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
                let inner = path.join(&child);
                if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
                    return Err(os_error("remove", &inner, libc::EPERM));
                }
                remove_tree(directory.as_fd(), &child, device, &inner)?;
            }
            Err(error) => return Err(io_error("remove", &path.join(&child))(error.into())),
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(fail)
}

/// A new file in a directory: without a name where the file system and the kernel know such files, so that
/// nothing is left behind by a process that is killed while it writes; else with this name.
fn open_temporary(directory: &OwnedFd, name: &CStr) -> rustix::io::Result<(File, bool)> {
    let mode = Mode::from_raw_mode(0o600);
    if Path::new("/proc/self/fd").exists() {
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        if let Ok(opened) = rustix::fs::openat(directory, ".", flags, mode) {
            return Ok((File::from(opened), true));
        }
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok((File::from(rustix::fs::openat(directory, name, flags, mode)?), false))
}

/// Gives what `make` makes under a name this name, in place of what has it. On its way it has a name that is
/// always the same for one place: what a killed process left there is taken away by the next that comes by.
fn put(
    directory: &OwnedFd,
    name: &OsStr,
    make: impl Fn(&CStr) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let by_way_of = |way: &CStr| {
        let outcome = make(way).and_then(|()| rustix::fs::renameat(directory, way, directory, name));
        // Between two names of one file rename does nothing.
        let left = rustix::fs::unlinkat(directory, way, AtFlags::empty());
        outcome.map_err(|error| (error, left.is_ok()))
    };
    let digest = super::digest::of_bytes(Algorithm::Sha256, name.as_bytes());
    let way = temporary_name(name, &digest[..16]);
    by_way_of(&way)
        .or_else(|(error, removed)| match error {
            rustix::io::Errno::EXIST if removed => by_way_of(&way),
            _ => Err((error, removed)),
        })
        .or_else(|(error, removed)| match error {
            // Somebody's who does not give it away, or another run is at the same place and took it along.
            rustix::io::Errno::EXIST | rustix::io::Errno::NOENT => {
                by_way_of(&temporary_name(name, &random_name()))
            }
            _ => Err((error, removed)),
        })
        .map_err(|(error, _)| error)
}

/// A name for a file that is going to be renamed; hidden, and no longer than names may be.
fn temporary_name(name: &OsStr, mark: &str) -> CString {
    let mut bytes = b".".to_vec();
    bytes.extend_from_slice(&name.as_bytes()[..name.len().min(200)]);
    bytes.extend_from_slice(b".setpoint-");
    bytes.extend_from_slice(mark.as_bytes());
    CString::new(bytes).unwrap_or_default()
}

/// Sixteen hexadecimal digits that nobody can guess.
pub(crate) fn random_name() -> String {
    use std::hash::{BuildHasher, Hasher as _};
    // Keyed from the system's randomness.
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    format!("{:016x}", hasher.finish())
}

/// Makes a directory that nobody else can enter, in the first place for temporary files that takes it.
pub(crate) fn make_private_dir(label: &str) -> Result<PathBuf> {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let places = named("TMPDIR")
        .into_iter()
        .chain(["/tmp", "/var/tmp"].map(PathBuf::from))
        .chain(named("XDG_RUNTIME_DIR"))
        .chain([PathBuf::from("/dev/shm")]);
    let mut last = None;
    for place in places {
        let path = place.join(format!(".{label}-{}", random_name()));
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o700)) {
            Ok(()) => return Ok(path),
            Err(error) => last = Some(io_error("make directory", &path)(error.into())),
        }
    }
    Err(last.unwrap_or_else(|| SystemError::Other("there is no place for temporary files".into())))
}

fn own_home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_vanishes_or_changes_while_it_is_looked_at_is_never_told_wrongly() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| place.path().join(name);
        let letters = |letter: u8, count: u64| vec![letter; usize::try_from(count).expect("small")];
        let digest = |content: &[u8]| crate::system::digest::of_bytes(Algorithm::Sha256, content);
        let (one, other) = (letters(b'a', 50_000), letters(b'b', 70_000));
        let over = std::sync::atomic::AtomicBool::new(false);
        let (mut gone, mut there) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut round = 0_u32;
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    round += 1;
                    let content = if round.is_multiple_of(2) { &one } else { &other };
                    fs::write(path("next"), content).expect("written");
                    fs::rename(path("next"), path("replaced")).expect("renamed");
                    let mut grows =
                        File::options().append(true).create(true).open(path("grows")).expect("opened");
                    io::Write::write_all(&mut grows, &letters(b'c', 1000)).expect("written");
                    if round.is_multiple_of(3) {
                        fs::remove_file(path("replaced")).expect("removed");
                    }
                }
            });
            for _ in 0..2000 {
                for found in Local::new(Box::new(NoDepot)).survey(&[path("replaced"), path("grows")]) {
                    match found {
                        Ok(Found { stat: None, .. }) => gone += 1,
                        Ok(Found { stat: Some(stat), sha256, .. }) => {
                            there += 1;
                            let size = stat.size;
                            let known = [letters(b'a', size), letters(b'b', size), letters(b'c', size)];
                            let known = known.iter().map(|content| digest(content));
                            assert!(
                                known.into_iter().any(|known| Some(known) == sha256),
                                "{size} {sha256:?}"
                            );
                        }
                        Err(error) => assert!(error.to_string().contains("while it is looked at"), "{error}"),
                    }
                }
                if gone > 20 && there > 200 {
                    break;
                }
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(there > 0, "nothing was ever seen");
    }

    #[test]
    fn what_a_killed_process_left_on_its_way_is_taken_away_and_what_cannot_be_is_passed_by() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("a.conf");
        let digest = crate::system::digest::of_bytes(Algorithm::Sha256, b"a.conf");
        let way = place.path().join(format!(".a.conf.setpoint-{}", &digest[..16]));
        let names = || {
            let entries = fs::read_dir(place.path()).expect("read").flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.path()).collect();
            names.sort();
            names
        };
        let mut local = Local::new(Box::new(NoDepot));
        fs::write(&path, "old").expect("written");
        fs::write(&way, "left").expect("written");
        let content = Content::Bytes(b"new".to_vec());
        local.write(&path, &content, &Attributes::default(), WriteOptions::default()).expect("written");
        assert_eq!((fs::read(&path).expect("read"), names()), (b"new".to_vec(), vec![path.clone()]));
        fs::write(&way, "left").expect("written");
        local.link(&path, Path::new("other"), LinkKind::Symbolic).expect("linked");
        assert_eq!((fs::read_link(&path).expect("read"), names()), ("other".into(), vec![path.clone()]));
        fs::create_dir(&way).expect("made");
        local.link(&path, Path::new("third"), LinkKind::Symbolic).expect("linked");
        assert_eq!((fs::read_link(&path).expect("read"), names()), ("third".into(), vec![way, path.clone()]));
    }

    /// A file system of its own, which ends with the test; `None` where nothing may be mounted.
    struct Mounted(tempfile::TempDir);

    impl Mounted {
        fn new(options: &str) -> Option<Mounted> {
            let place = tempfile::tempdir().expect("a temporary directory");
            let command = Command::new([
                OsStr::new("mount"),
                OsStr::new("-t"),
                OsStr::new("tmpfs"),
                OsStr::new("-o"),
                OsStr::new(options),
                OsStr::new("tmpfs"),
                place.path().as_os_str(),
            ]);
            exec::run(&command, &[], &Programs::default())
                .is_ok_and(|output| output.success())
                .then(|| Mounted(place))
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = exec::run(
                &Command::new([OsStr::new("umount"), self.0.path().as_os_str()]),
                &[],
                &Programs::default(),
            );
        }
    }

    fn local() -> Local {
        Local::new(Box::new(NoDepot))
    }

    fn put(local: &mut Local, path: &Path, bytes: &[u8], unsafe_writes: bool) -> Result<()> {
        let options = WriteOptions { unsafe_writes, ..WriteOptions::default() };
        local.write(path, &Content::Bytes(bytes.to_vec()), &Attributes::default(), options)
    }

    #[test]
    fn a_full_disk_leaves_the_old_file_and_nothing_else() {
        let Some(mounted) = Mounted::new("size=64k") else { return };
        let path = mounted.0.path().join("file");
        let mut local = local();
        put(&mut local, &path, b"old", false).expect("there is room");
        let error = put(&mut local, &path, &vec![1; 1 << 20], false).expect_err("there is no room");
        assert_eq!(error.errno(), Some(libc::ENOSPC), "{error}");
        assert_eq!(local.read(&path).expect("there"), b"old");
        assert_eq!(local.list(mounted.0.path()).expect("there"), ["file"]);
    }

    #[test]
    fn a_file_that_is_a_mount_point_is_written_in_place_only_if_that_is_allowed() {
        let Some(mounted) = Mounted::new("size=1m") else { return };
        let (path, other) = (mounted.0.path().join("file"), mounted.0.path().join("other"));
        let mut local = local();
        put(&mut local, &path, b"hidden", false).expect("written");
        put(&mut local, &other, b"old", false).expect("written");
        let bind = [OsStr::new("mount"), OsStr::new("--bind"), other.as_os_str(), path.as_os_str()];
        assert!(exec::run(&Command::new(bind), &[], &Programs::default()).expect("it starts").success());
        let refused = put(&mut local, &path, b"new", false).expect_err("a rename is refused");
        let written = put(&mut local, &path, b"new", true);
        let now = local.read(&other);
        let removed = local.remove(&path);
        let unmounted =
            exec::run(&Command::new([OsStr::new("umount"), path.as_os_str()]), &[], &Programs::default());
        assert!(unmounted.expect("it starts").success());
        assert_eq!(refused.errno(), Some(libc::EBUSY));
        written.expect("in place");
        assert_eq!(now.expect("there"), b"new");
        assert!(removed.is_err());
    }

    #[test]
    fn a_replaced_file_hands_on_what_belongs_to_its_name() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("file");
        let mut local = local();
        put(&mut local, &path, b"old", false).expect("written");
        let mut wanted = Attributes { mode: Some(0o4751), ..Attributes::default() };
        if local.who.uid == 0 {
            (wanted.uid, wanted.gid) = (Some(65534), Some(65534));
        }
        local.set_attributes(&path, &wanted, true).expect("set");
        let labeled = rustix::fs::setxattr(&path, "user.note", b"mine", XattrFlags::empty()).is_ok();
        put(&mut local, &path, b"new", false).expect("written");
        let now = local.stat(&path).expect("stat").expect("there");
        assert_eq!(now.mode, 0o4751);
        assert!(wanted.uid.is_none_or(|uid| uid == now.uid && Some(now.gid) == wanted.gid));
        let note = local.extended_attribute(&path, "user.note").expect("asked");
        assert_eq!(note, labeled.then(|| b"mine".to_vec()));
    }

    #[test]
    fn holes_stay_holes_and_names_need_not_be_text() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let (from, to) = (place.path().join(OsStr::from_bytes(b"fr\xffom")), place.path().join("to"));
        let mut file = File::create(&from).expect("made");
        file.set_len(64 << 20).expect("set");
        file.seek(SeekFrom::Start(10 << 20)).expect("sought");
        file.write_all(b"data").expect("written");
        drop(file);
        let mut local = local();
        let options = WriteOptions::default();
        local.write(&to, &Content::File(from.clone()), &Attributes::default(), options).expect("copied");
        let digest = |local: &mut Local, path: &Path| local.digest(path, Algorithm::Sha256).expect("read");
        assert_eq!(digest(&mut local, &to), digest(&mut local, &from));
        let copied = local.stat(&to).expect("stat").expect("there");
        let original = local.stat(&from).expect("stat").expect("there");
        assert!(copied.blocks <= original.blocks.max(64), "{} blocks", copied.blocks);
        assert_eq!(local.list(place.path()).expect("listed").len(), 2);
    }

    #[test]
    fn removal_follows_no_link_and_crosses_no_mount() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let (tree, outside) = (place.path().join("tree"), place.path().join("outside"));
        fs::create_dir_all(tree.join("a/b")).expect("made");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("file"), "x").expect("written");
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).expect("linked");
        let mut local = local();
        local.remove(&tree).expect("removed");
        assert!(!tree.exists() && outside.join("file").exists());
        if let Some(mounted) = Mounted::new("size=1m") {
            let parent = mounted.0.path().parent().expect("a parent").to_path_buf();
            fs::write(mounted.0.path().join("kept"), "x").expect("written");
            let name = mounted.0.path().file_name().expect("a name").to_os_string();
            let directory = open_dir(&parent, &parent, "remove").expect("opened");
            let device = fs::metadata(&parent).expect("there").dev();
            assert!(remove_tree(directory.as_fd(), &name, device, mounted.0.path()).is_err());
            assert!(mounted.0.path().join("kept").exists());
        }
    }
}
