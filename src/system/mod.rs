//! The only door to a machine: a small set of primitive operations, each of which *reads* or *changes*.
//!
//! Modules decide what should be, compare it with what is, and make the difference through [`System`].
//! They never ask whether they run in check mode: [`recorder::Recorder`] answers later reads from what
//! earlier changes would have done, so that a dry run sees the same machine that a real run would.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::value::Value;
use converse::Conversation;

/// The reads of a decorator that has nothing to add to them: `self.inner` answers.
macro_rules! forward_reads {
    () => {
        fn stat(&mut self, path: &Path) -> Result<Option<Stat>> {
            self.inner.stat(path)
        }
        fn stat_follow(&mut self, path: &Path) -> Result<Option<Stat>> {
            self.inner.stat_follow(path)
        }
        fn read(&mut self, path: &Path) -> Result<Vec<u8>> {
            self.inner.read(path)
        }
        fn read_at(&mut self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
            self.inner.read_at(path, offset, length)
        }
        fn digest(&mut self, path: &Path, algorithm: Algorithm) -> Result<String> {
            self.inner.digest(path, algorithm)
        }
        fn list(&mut self, path: &Path) -> Result<Vec<OsString>> {
            self.inner.list(path)
        }
        fn read_link(&mut self, path: &Path) -> Result<PathBuf> {
            self.inner.read_link(path)
        }
        fn resolve(&mut self, path: &Path) -> Result<PathBuf> {
            self.inner.resolve(path)
        }
        fn access(&mut self, path: &Path, bits: u32) -> Result<bool> {
            self.inner.access(path, bits)
        }
        fn extended_attribute(&mut self, path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
            self.inner.extended_attribute(path, name)
        }
        fn user(&mut self, name_or_id: &str) -> Result<Option<User>> {
            self.inner.user(name_or_id)
        }
        fn group(&mut self, name_or_id: &str) -> Result<Option<Group>> {
            self.inner.group(name_or_id)
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
            self.inner.query(command)
        }
        fn converse(
            &mut self,
            command: &Command,
            patience: std::time::Duration,
        ) -> Result<Box<dyn crate::system::converse::Conversation>> {
            self.inner.converse(command, patience)
        }
        fn probe(&mut self, probe: &crate::system::probe::Probe) -> Result<crate::system::probe::Answer> {
            self.inner.probe(probe)
        }

        fn survey(&mut self, paths: &[PathBuf]) -> Vec<Result<crate::system::Found>> {
            self.inner.survey(paths)
        }

        fn blob(&mut self, blob: &BlobRef) -> Result<Vec<u8>> {
            self.inner.blob(blob)
        }
        fn prefetch(&mut self, blobs: &[BlobRef]) -> Result<()> {
            self.inner.prefetch(blobs)
        }
        fn send(&mut self, path: &Path, name: &str) -> Result<()> {
            self.inner.send(path, name)
        }
    };
}

mod accounts;
pub mod change;
pub mod converse;
pub mod digest;
pub mod exec;
pub mod fake;
pub mod faulty;
pub mod flags;
pub mod journal;
pub mod local;
pub mod overlay;
pub mod parts;
mod path;
pub mod prior;
pub mod probe;
pub mod pty;
pub mod readonly;
pub mod recorder;
pub mod switch;

/// What kind of thing a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// What `lstat` or `stat` says of a path.
#[derive(Clone, Debug, PartialEq)]
pub struct Stat {
    /// File, directory, link, …
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Last change of the content: seconds since the epoch.
    pub mtime: f64,
    /// Last access: seconds since the epoch.
    pub atime: f64,
    /// Last change of the inode: seconds since the epoch.
    pub ctime: f64,
    /// Inode number.
    pub inode: u64,
    /// Device that holds it.
    pub device: u64,
    /// Number of hard links.
    pub links: u64,
    /// Device number, of a device node.
    pub device_type: u64,
    /// Blocks of 512 bytes in use.
    pub blocks: u64,
    /// Preferred block size in bytes.
    pub block_size: u64,
}

/// Where new content comes from.
#[derive(Clone, Debug)]
pub enum Content {
    /// Bytes at hand.
    Bytes(Vec<u8>),
    /// Another file of the same machine, copied.
    File(PathBuf),
    /// Content that the controller holds; it is fetched only when it is needed.
    Blob(BlobRef),
}

/// Names content that the controller holds, so that it travels only when the host lacks it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// sha256 of the content, in hexadecimal.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
}

/// What is to be set on a path; `None` leaves as is (a new file gets the process's defaults).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes {
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: Option<u32>,
    /// Last change of the content: seconds since the epoch.
    pub mtime: Option<f64>,
    /// Last access: seconds since the epoch.
    pub atime: Option<f64>,
    /// SELinux context `user:role:type:level`, where the machine has SELinux.
    pub selinux: Option<String>,
    /// Attributes as `chattr` takes them, such as `+i`.
    pub flags: Option<String>,
}

impl Attributes {
    /// Whether nothing is to be set.
    pub fn is_empty(&self) -> bool {
        *self == Attributes::default()
    }
}

/// How [`System::write`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct WriteOptions {
    /// Write in place where a rename is refused (bind-mounted files). Not atomic.
    pub unsafe_writes: bool,
    /// The content is a secret: it is in no diff.
    pub secret: bool,
}

/// Which link [`System::link`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A symbolic link.
    Symbolic,
    /// A hard link.
    Hard,
}

/// A digest algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// MD5, for return values that promise it.
    Md5,
    /// SHA-1, for return values that promise it.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256, which everything of our own uses.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Number.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Comment field.
    pub gecos: String,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

/// A group of accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Number.
    pub gid: u32,
    /// Names of its members (other than by primary group).
    pub members: Vec<String>,
}

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Command {
    /// Program and arguments; no shell is involved.
    pub argv: Vec<OsString>,
    /// What it reads; nothing if `None`.
    pub stdin: Option<Vec<u8>>,
    /// Variables over those of the runner and the task's `environment`.
    pub env: Vec<(String, String)>,
    /// Directory to start in.
    pub cwd: Option<PathBuf>,
    /// It is ended after this long.
    pub timeout: Option<Duration>,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// It runs on a terminal of its own, where it is answered so; `stdin` is then not used.
    pub dialogue: Option<pty::Dialogue>,
}

impl Command {
    /// A program with its arguments.
    pub fn new<I, S>(argv: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        Command { argv: argv.into_iter().map(Into::into).collect(), ..Command::default() }
    }

    /// The same in the C locale, for output that is going to be parsed.
    #[must_use]
    pub fn c_locale(mut self) -> Command {
        for name in ["LANG", "LC_ALL", "LC_MESSAGES", "LANGUAGE"] {
            self.env.push((name.into(), "C".into()));
        }
        self
    }

    /// Program and arguments as one line for messages, quoted where a shell would need it.
    pub fn line(&self) -> String {
        let quote = |word: &OsString| {
            let word = word.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
            if !word.is_empty() && word.chars().all(plain) {
                word.into_owned()
            } else {
                format!("'{}'", word.replace('\'', "'\\''"))
            }
        };
        self.argv.iter().map(quote).collect::<Vec<_>>().join(" ")
    }
}

/// What a program left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Exit status; 128 + n after signal n.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Exit status 0.
    pub fn success(&self) -> bool {
        self.code == 0
    }

    /// Standard output as text; bytes that are not UTF-8 are replaced.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text; bytes that are not UTF-8 are replaced.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// What became of a command that acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It ran.
    Made(Output),
    /// It was recorded and not run.
    Recorded,
}

impl Done {
    /// What it printed; nothing, with status 0, if it was not run.
    pub fn output(self) -> Output {
        match self {
            Done::Made(output) => output,
            Done::Recorded => Output::default(),
        }
    }
}

/// What a command that acts is for: names the resource, the state that it is to reach, and what later
/// reads may count on once it has run.
#[derive(Clone, Debug, Default)]
pub struct Intent {
    /// Kind of resource: `package`, `service`, `user`, `command`, … Empty for what leaves nothing behind and
    /// yet is not for a dry run: waiting, asking a server. It is not noted as a change.
    pub kind: &'static str,
    /// Which one.
    pub id: String,
    /// What is there now, for the diff and for rollback. `Null` when absent or unknown.
    pub before: Value,
    /// What will be there. `Null` when it will be absent.
    pub after: Value,
    /// The command that takes it back, where there is one.
    pub undo: Option<Command>,
    /// What a dry run may assume afterwards.
    pub effects: Vec<Effect>,
    /// `before` and `after` hold secrets and must not be shown.
    pub sensitive: bool,
}

/// Something that later reads may count on once a command has run. A dry run overlays it.
#[derive(Clone, Debug)]
pub enum Effect {
    /// The account exists so. A `uid` of `u32::MAX` stands for one that the machine will choose.
    User(User),
    /// The account is gone.
    NoUser(String),
    /// The group exists so. A `gid` of `u32::MAX` stands for one that the machine will choose.
    Group(Group),
    /// The group is gone.
    NoGroup(String),
    /// The path exists, with content that is not known beforehand.
    Path(PathBuf, FileKind),
    /// The path is a file with this content.
    Text(PathBuf, String),
    /// The path is gone.
    NoPath(PathBuf),
    /// Anything may have changed that this kind of resource brings with it (files, accounts and services
    /// of a package, the members of an archive, …): what is missing from now on is *uncertain*.
    Anything,
}

/// One thing that was changed, or in a dry run would be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Kind of resource: `file`, `directory`, `link`, `package`, `service`, `user`, …
    pub kind: String,
    /// Which one: a path, a package's name, …
    pub id: String,
    /// State before: attributes and digest of a file, properties of another resource; `Null` if absent.
    pub before: Value,
    /// State after; `Null` if absent.
    pub after: Value,
    /// Text before and after, for a diff, where it is text, small, and was asked for.
    pub text: Option<(String, String)>,
    /// `before`, `after` and `text` hold secrets and must not be shown.
    pub sensitive: bool,
}

/// One thing that a task looked at and that is as it should be, or that it left so: what drift is
/// measured against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// Kind of resource, as in [`Change`].
    pub kind: String,
    /// Which one.
    pub id: String,
    /// Its state: for a file `{"sha256", "mode", "uid", "gid", "size"}`, else the properties the task manages.
    pub state: Value,
}

/// What [`System::survey`] finds at a path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// As `lstat` says; `None` if nothing is there.
    pub stat: Option<Stat>,
    /// sha256 of a file's content; `None` if it is no file or can't be read.
    pub sha256: Option<String>,
    /// Where a symbolic link points.
    pub target: Option<PathBuf>,
}

/// Looks at one path. What vanishes between two looks is not there.
pub(crate) fn survey_one<S: System + ?Sized>(system: &mut S, path: &Path) -> Result<Found> {
    let Some(stat) = system.stat(path)? else { return Ok(Found::default()) };
    let mut found = Found { sha256: None, target: None, stat: None };
    let outcome = match stat.kind {
        FileKind::File => system.digest(path, Algorithm::Sha256).map(|digest| found.sha256 = Some(digest)),
        FileKind::Link => system.read_link(path).map(|target| found.target = Some(target)),
        _ => Ok(()),
    };
    match outcome {
        Err(error) if error.is_not_found() => return Ok(Found::default()),
        // What can't be read still has attributes.
        Err(_) | Ok(()) => {}
    }
    found.stat = Some(stat);
    Ok(found)
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// The operating system said no.
    #[error("failed to {action} {}: {source}", path.display())]
    Io {
        /// What was being done, such as `write`.
        action: &'static str,
        /// To which path.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A program could not be started.
    #[error("failed to run `{program}`: {source}")]
    Start {
        /// The program.
        program: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A program ran longer than it may.
    #[error("`{program}` did not end within {seconds} s")]
    Timeout {
        /// The program.
        program: String,
        /// The limit in seconds.
        seconds: u64,
    },
    /// Content did not come from the controller.
    #[error("content {0} did not arrive from the controller")]
    Blob(String),
    /// Anything else, said in full.
    #[error("{0}")]
    Other(String),
}

impl SystemError {
    /// The operating system's error number, if it is about one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            SystemError::Io { source, .. } | SystemError::Start { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether a path or program was not there.
    pub fn is_not_found(&self) -> bool {
        match self {
            SystemError::Io { source, .. } | SystemError::Start { source, .. } => {
                source.kind() == std::io::ErrorKind::NotFound
            }
            _ => false,
        }
    }
}

/// Result of an operation.
pub type Result<T> = std::result::Result<T, SystemError>;

/// The primitive operations on one machine, as one user.
pub trait System {
    // ---- reads ----

    /// What is at `path`, not following a symbolic link at its end. `None` if nothing is there.
    fn stat(&mut self, path: &Path) -> Result<Option<Stat>>;
    /// What is at `path`, following symbolic links. `None` if nothing is there or the link dangles.
    fn stat_follow(&mut self, path: &Path) -> Result<Option<Stat>>;
    /// The whole content of a file. Not for files that may be large.
    fn read(&mut self, path: &Path) -> Result<Vec<u8>>;
    /// Up to `length` bytes from `offset`.
    fn read_at(&mut self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>>;
    /// A digest of a file's content, in lower-case hexadecimal, streamed.
    fn digest(&mut self, path: &Path, algorithm: Algorithm) -> Result<String>;
    /// The names in a directory, sorted, without `.` and `..`.
    fn list(&mut self, path: &Path) -> Result<Vec<OsString>>;
    /// The target of a symbolic link, as it is written.
    fn read_link(&mut self, path: &Path) -> Result<PathBuf>;
    /// The path with all symbolic links resolved; parts that do not exist are kept as they are.
    fn resolve(&mut self, path: &Path) -> Result<PathBuf>;
    /// Whether this user may read, write or execute (`rustix`-style bits 4, 2, 1).
    fn access(&mut self, path: &Path, bits: u32) -> Result<bool>;
    /// An extended attribute by name, such as `security.selinux`; under [`flags::NAME`] the attributes as
    /// `lsattr` prints them. Not following a symbolic link.
    fn extended_attribute(&mut self, path: &Path, name: &str) -> Result<Option<Vec<u8>>>;
    /// The account with this name, or number in decimal.
    fn user(&mut self, name_or_id: &str) -> Result<Option<User>>;
    /// The group with this name, or number in decimal.
    fn group(&mut self, name_or_id: &str) -> Result<Option<Group>>;
    /// The account that this runs as.
    fn whoami(&mut self) -> Result<User>;
    /// A variable of the environment in which commands run (the task's `environment` included).
    fn env(&mut self, name: &str) -> Option<String>;
    /// Names of the variables that the task's `environment` sets.
    fn own_variables(&mut self) -> Vec<String> {
        Vec::new()
    }
    /// Runs a command that only looks. It must not change anything.
    fn query(&mut self, command: &Command) -> Result<Output>;
    /// Starts a command that only looks (at the network, say), to be spoken to while it runs. A read or write
    /// that waits longer than `patience` is an error.
    fn converse(&mut self, command: &Command, _patience: Duration) -> Result<Box<dyn Conversation>> {
        let program =
            command.argv.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
        Err(SystemError::Start { program, source: std::io::ErrorKind::NotFound.into() })
    }
    /// Asks the kernel what no file tells.
    fn probe(&mut self, probe: &probe::Probe) -> Result<probe::Answer>;
    /// What is at each of many paths: a machine that can looks at several at once.
    fn survey(&mut self, paths: &[PathBuf]) -> Vec<Result<Found>> {
        paths.iter().map(|path| survey_one(self, path)).collect()
    }
    /// The content that the controller holds, whole. Not for content that may be large.
    fn blob(&mut self, blob: &BlobRef) -> Result<Vec<u8>>;
    /// Says which contents are going to be written, in this order, so that they come without being asked
    /// for one by one. Where nothing is written nothing comes.
    fn prefetch(&mut self, _blobs: &[BlobRef]) -> Result<()> {
        Ok(())
    }
    /// Sends a file's content to the controller in chunks, under `name` (`fetch`).
    fn send(&mut self, path: &Path, name: &str) -> Result<()>;

    // ---- changes ----

    /// Replaces or makes a file: whole or not at all. What is not set in `attributes` is kept from the
    /// file that was there; a new file gets the umask's mode.
    fn write(
        &mut self,
        path: &Path,
        content: &Content,
        attributes: &Attributes,
        options: WriteOptions,
    ) -> Result<()>;
    /// Makes one directory, whose parent exists.
    fn make_dir(&mut self, path: &Path, attributes: &Attributes) -> Result<()>;
    /// Removes a file, a link, or a directory with all that is in it (never following links, never
    /// crossing into another file system's root).
    fn remove(&mut self, path: &Path) -> Result<()>;
    /// Moves within a file system, replacing what is at `to`.
    fn rename(&mut self, from: &Path, to: &Path) -> Result<()>;
    /// Makes `path` a link to `target`, replacing a file or link that is there, at once.
    fn link(&mut self, path: &Path, target: &Path, kind: LinkKind) -> Result<()>;
    /// Sets owner, group, mode, times, context, flags; of the link's target unless `follow` is false.
    fn set_attributes(&mut self, path: &Path, attributes: &Attributes, follow: bool) -> Result<()>;
    /// Runs a command that acts.
    fn change(&mut self, command: &Command, intent: Intent) -> Result<Done>;
    /// A change that the module makes by another way than a command (a system call, a protocol):
    /// `act` is called unless changes are only recorded. Returns whether it was.
    fn perform(&mut self, intent: Intent, act: &mut dyn FnMut() -> Result<()>) -> Result<bool>;

    // ---- bookkeeping ----

    /// A private directory for temporary files, removed at the end; writing there through ordinary
    /// commands (`validate`, unpacking) is not a change. Made on first use.
    fn scratch(&mut self) -> Result<PathBuf>;
    /// Keeps what is read in a file of the scratch directory, and returns its path. Not a change.
    fn spool(&mut self, name: &str, content: &mut dyn Read) -> Result<PathBuf> {
        let path = self.scratch()?.join(name);
        let mut bytes = Vec::new();
        let fail = |source| SystemError::Io { action: "receive", path: path.clone(), source };
        content.read_to_end(&mut bytes).map_err(fail)?;
        let private = Attributes { mode: Some(0o600), ..Attributes::default() };
        self.write(&path, &Content::Bytes(bytes), &private, WriteOptions::default())?;
        Ok(path)
    }
    /// Records that a resource is as it should be (also when nothing had to be done).
    fn applied(&mut self, applied: Applied);
    /// Why what is missing may be there in a real run: an earlier recorded command could have brought it.
    /// `None` when what is read is certain, which it always is in a real run.
    fn uncertain(&self) -> Option<String>;
    /// What has been changed, or recorded, so far by this task.
    fn changes(&self) -> &[Change];
    /// Something that whoever reads a dry run should know, because the real run may not find it so. Nobody
    /// is told where changes are made.
    fn caveat(&mut self, _text: String) {}
}

/// The file mode creation mask of this process.
pub(crate) fn process_umask() -> u32 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        .unwrap_or(0o022)
}

/// A borrowed machine is a machine, so that decorators can be put around one for a while.
impl<S: System + ?Sized> System for &mut S {
    fn stat(&mut self, path: &Path) -> Result<Option<Stat>> {
        (**self).stat(path)
    }
    fn stat_follow(&mut self, path: &Path) -> Result<Option<Stat>> {
        (**self).stat_follow(path)
    }
    fn read(&mut self, path: &Path) -> Result<Vec<u8>> {
        (**self).read(path)
    }
    fn read_at(&mut self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
        (**self).read_at(path, offset, length)
    }
    fn digest(&mut self, path: &Path, algorithm: Algorithm) -> Result<String> {
        (**self).digest(path, algorithm)
    }
    fn list(&mut self, path: &Path) -> Result<Vec<OsString>> {
        (**self).list(path)
    }
    fn read_link(&mut self, path: &Path) -> Result<PathBuf> {
        (**self).read_link(path)
    }
    fn resolve(&mut self, path: &Path) -> Result<PathBuf> {
        (**self).resolve(path)
    }
    fn access(&mut self, path: &Path, bits: u32) -> Result<bool> {
        (**self).access(path, bits)
    }
    fn extended_attribute(&mut self, path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
        (**self).extended_attribute(path, name)
    }
    fn user(&mut self, name_or_id: &str) -> Result<Option<User>> {
        (**self).user(name_or_id)
    }
    fn group(&mut self, name_or_id: &str) -> Result<Option<Group>> {
        (**self).group(name_or_id)
    }
    fn whoami(&mut self) -> Result<User> {
        (**self).whoami()
    }
    fn env(&mut self, name: &str) -> Option<String> {
        (**self).env(name)
    }
    fn own_variables(&mut self) -> Vec<String> {
        (**self).own_variables()
    }
    fn query(&mut self, command: &Command) -> Result<Output> {
        (**self).query(command)
    }
    fn converse(&mut self, command: &Command, patience: Duration) -> Result<Box<dyn Conversation>> {
        (**self).converse(command, patience)
    }
    fn probe(&mut self, probe: &probe::Probe) -> Result<probe::Answer> {
        (**self).probe(probe)
    }

    fn survey(&mut self, paths: &[PathBuf]) -> Vec<Result<Found>> {
        (**self).survey(paths)
    }
    fn blob(&mut self, blob: &BlobRef) -> Result<Vec<u8>> {
        (**self).blob(blob)
    }
    fn prefetch(&mut self, blobs: &[BlobRef]) -> Result<()> {
        (**self).prefetch(blobs)
    }
    fn send(&mut self, path: &Path, name: &str) -> Result<()> {
        (**self).send(path, name)
    }
    fn write(
        &mut self,
        path: &Path,
        content: &Content,
        attributes: &Attributes,
        options: WriteOptions,
    ) -> Result<()> {
        (**self).write(path, content, attributes, options)
    }
    fn make_dir(&mut self, path: &Path, attributes: &Attributes) -> Result<()> {
        (**self).make_dir(path, attributes)
    }
    fn remove(&mut self, path: &Path) -> Result<()> {
        (**self).remove(path)
    }
    fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        (**self).rename(from, to)
    }
    fn link(&mut self, path: &Path, target: &Path, kind: LinkKind) -> Result<()> {
        (**self).link(path, target, kind)
    }
    fn set_attributes(&mut self, path: &Path, attributes: &Attributes, follow: bool) -> Result<()> {
        (**self).set_attributes(path, attributes, follow)
    }
    fn change(&mut self, command: &Command, intent: Intent) -> Result<Done> {
        (**self).change(command, intent)
    }
    fn perform(&mut self, intent: Intent, act: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        (**self).perform(intent, act)
    }
    fn scratch(&mut self) -> Result<PathBuf> {
        (**self).scratch()
    }
    fn spool(&mut self, name: &str, content: &mut dyn Read) -> Result<PathBuf> {
        (**self).spool(name, content)
    }
    fn applied(&mut self, applied: Applied) {
        (**self).applied(applied);
    }
    fn uncertain(&self) -> Option<String> {
        (**self).uncertain()
    }
    fn changes(&self) -> &[Change] {
        (**self).changes()
    }
    fn caveat(&mut self, text: String) {
        (**self).caveat(text);
    }
}
