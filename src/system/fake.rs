//! A machine in memory, with scripted commands: for tests that need no host and no root.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::change::{self, Focus, Ledger};
use super::digest::of_bytes;
use super::overlay::Overlay;
use super::path::os_error;
use super::probe::{Answer, Probe};
use super::{
    Algorithm, Applied, Attributes, BlobRef, Change, Command, Content, Done, FileKind, Group, Intent,
    LinkKind, Output, Result, Stat, System, SystemError, User, WriteOptions,
};

/// What a scripted command does: it may change the fake, and says what it printed.
pub type Behaviour = Box<dyn FnMut(&mut Fake, &Command) -> Output + Send>;

struct Script {
    argv: Vec<String>,
    prefix: bool,
    behaviour: Option<Behaviour>,
}

/// The machine. Everything is done as root unless [`Fake::as_user`] says otherwise.
pub struct Fake {
    files: Overlay,
    users: BTreeMap<String, User>,
    groups: BTreeMap<String, Group>,
    who: User,
    env: BTreeMap<String, String>,
    blobs: BTreeMap<String, Vec<u8>>,
    scripts: Vec<Script>,
    log: Vec<String>,
    sent: Vec<(String, Vec<u8>)>,
    ledger: Ledger,
    scratch: bool,
    answers: Vec<(Probe, Answer)>,
}

/// Where [`Fake`]'s scratch directory is.
const SCRATCH: &str = "/tmp/scratch";

impl Default for Fake {
    fn default() -> Fake {
        Fake::new()
    }
}

impl Fake {
    /// A small Linux: the usual directories, accounts `root` and `nobody`, no programs.
    pub fn new() -> Fake {
        let user = |name: &str, uid: u32, home: &str| User {
            name: name.into(),
            uid,
            gid: uid,
            gecos: String::new(),
            home: home.into(),
            shell: "/bin/sh".into(),
        };
        let mut fake = Fake {
            files: Overlay::new(0o022, Some(1_700_000_000.0)),
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
            who: user("root", 0, "/root"),
            env: BTreeMap::new(),
            blobs: BTreeMap::new(),
            scripts: Vec::new(),
            log: Vec::new(),
            sent: Vec::new(),
            ledger: Ledger::default(),
            scratch: false,
            answers: Vec::new(),
        };
        fake.env.insert("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into());
        fake.env.insert("HOME".into(), "/root".into());
        for directory in ["/etc", "/root", "/tmp", "/usr/bin", "/usr/sbin", "/bin", "/sbin", "/var", "/home"]
        {
            fake.add_dir(directory);
        }
        fake.with_user(user("root", 0, "/root")).with_user(user("nobody", 65534, "/nonexistent"))
    }

    /// Adds a directory, with those that lead there.
    #[must_use]
    pub fn with_dir(mut self, path: &str) -> Fake {
        self.add_dir(path);
        self
    }

    /// Adds a file of root's with mode 0644, with the directories that lead there.
    #[must_use]
    pub fn with_file(mut self, path: &str, content: impl AsRef<[u8]>) -> Fake {
        self.put(path, content);
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn with_link(mut self, path: &str, target: &str) -> Fake {
        self.add_parent(path);
        let outcome = self.files.link(
            &mut Base::new(&self.who),
            Path::new(path),
            Path::new(target),
            LinkKind::Symbolic,
        );
        outcome.expect("a link can be made in an empty place");
        self
    }

    /// Sets owner, group and mode of what is there.
    #[must_use]
    pub fn with_attributes(mut self, path: &str, uid: u32, gid: u32, mode: u32) -> Fake {
        let attributes =
            Attributes { uid: Some(uid), gid: Some(gid), mode: Some(mode), ..Attributes::default() };
        let outcome =
            self.files.set_attributes(&mut Base::new(&self.who), Path::new(path), &attributes, false);
        outcome.expect("the path exists");
        self
    }

    /// Adds an account, and the group of its name unless there is one with its number.
    #[must_use]
    pub fn with_user(mut self, user: User) -> Fake {
        if !self.groups.values().any(|group| group.gid == user.gid) {
            let group = Group { name: user.name.clone(), gid: user.gid, members: Vec::new() };
            self.groups.insert(user.name.clone(), group);
        }
        self.users.insert(user.name.clone(), user);
        self
    }

    /// Adds a group.
    #[must_use]
    pub fn with_group(mut self, group: Group) -> Fake {
        self.groups.insert(group.name.clone(), group);
        self
    }

    /// Everything that follows is done as this account.
    #[must_use]
    pub fn as_user(mut self, name: &str) -> Fake {
        self.who = self.users.get(name).cloned().expect("the account exists");
        self.env.insert("HOME".into(), self.who.home.to_string_lossy().into_owned());
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: &str) -> Fake {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Adds an executable, so that a search of `PATH` finds it.
    #[must_use]
    pub fn with_program(mut self, path: &str) -> Fake {
        self.put(path, "");
        self.with_attributes(path, 0, 0, 0o755)
    }

    /// This exact command prints this.
    #[must_use]
    pub fn with_command(mut self, argv: &[&str], output: Output) -> Fake {
        self.on(argv, false, move |_, _| output.clone());
        self
    }

    /// Each command that begins so prints this.
    #[must_use]
    pub fn with_command_prefix(mut self, argv: &[&str], output: Output) -> Fake {
        self.on(argv, true, move |_, _| output.clone());
        self
    }

    /// Each command that begins so does this.
    #[must_use]
    pub fn with_behaviour(
        mut self,
        argv: &[&str],
        behaviour: impl FnMut(&mut Fake, &Command) -> Output + Send + 'static,
    ) -> Fake {
        self.on(argv, true, behaviour);
        self
    }

    /// Scripts a command. The script added last that fits is the one that counts. The program is compared
    /// by its last part if either side gives no directory.
    pub fn on(
        &mut self,
        argv: &[&str],
        prefix: bool,
        behaviour: impl FnMut(&mut Fake, &Command) -> Output + Send + 'static,
    ) {
        let argv = argv.iter().map(ToString::to_string).collect();
        self.scripts.push(Script { argv, prefix, behaviour: Some(Box::new(behaviour)) });
    }

    /// The kernel answers this question so.
    #[must_use]
    pub fn with_answer(mut self, probe: Probe, answer: Answer) -> Fake {
        self.answers.push((probe, answer));
        self
    }

    /// Content that the controller holds.
    pub fn add_blob(&mut self, content: impl AsRef<[u8]>) -> BlobRef {
        let content = content.as_ref();
        let sha256 = of_bytes(Algorithm::Sha256, content);
        self.blobs.insert(sha256.clone(), content.to_vec());
        BlobRef { sha256, size: content.len() as u64 }
    }

    /// Adds or replaces a file, as somebody else would: it is no change.
    pub fn put(&mut self, path: &str, content: impl AsRef<[u8]>) {
        self.add_parent(path);
        let content = Content::Bytes(content.as_ref().to_vec());
        let outcome =
            self.files.write(&mut Base::new(&self.who), Path::new(path), &content, &Attributes::default());
        outcome.expect("a file can be put there");
    }

    /// Removes what is there, as somebody else would.
    pub fn delete(&mut self, path: &str) {
        let _ = self.files.remove(&mut Base::new(&self.who), Path::new(path));
    }

    /// The text of a file; `None` if it is not there.
    pub fn text(&mut self, path: &str) -> Option<String> {
        let bytes = self.files.read(&mut Base::new(&self.who), Path::new(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The permission bits of what is there.
    pub fn mode(&mut self, path: &str) -> Option<u32> {
        self.stat(Path::new(path)).ok().flatten().map(|stat| stat.mode)
    }

    /// The commands that ran, each as one line, in order; those that act begin with `! `.
    pub fn log(&self) -> &[String] {
        &self.log
    }

    /// The files that were sent to the controller: name and content.
    pub fn sent(&self) -> &[(String, Vec<u8>)] {
        &self.sent
    }

    /// Keep texts for diffs.
    #[must_use]
    pub fn with_diff(mut self) -> Fake {
        self.ledger.diff = true;
        self
    }

    /// Forgets what was changed so far, as at the beginning of a new task.
    pub fn forget(&mut self) -> (Vec<Change>, Vec<Applied>) {
        self.log.clear();
        self.ledger.take()
    }

    /// What was found right or left right.
    pub fn applied_so_far(&self) -> &[Applied] {
        &self.ledger.applied
    }

    /// Adds or replaces an account, as a scripted command would.
    pub fn set_user(&mut self, user: User) {
        self.users.insert(user.name.clone(), user);
    }

    /// Takes an account away.
    pub fn unset_user(&mut self, name: &str) {
        self.users.remove(name);
    }

    /// Adds or replaces a group, as a scripted command would.
    pub fn set_group(&mut self, group: Group) {
        self.groups.insert(group.name.clone(), group);
    }

    /// Takes a group away.
    pub fn unset_group(&mut self, name: &str) {
        self.groups.remove(name);
    }

    fn add_parent(&mut self, path: &str) {
        if let Some(parent) = Path::new(path).parent() {
            self.add_dir(&parent.to_string_lossy());
        }
    }

    fn add_dir(&mut self, path: &str) {
        let effect = super::Effect::Path(path.into(), FileKind::Directory);
        let outcome = self.files.effects(&mut Base::new(&self.who), "", &[effect]);
        outcome.expect("a directory can be made there");
    }

    fn run(&mut self, command: &Command, acts: bool) -> Result<Output> {
        let argv: Vec<String> = command.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        self.log.push(format!("{}{}", if acts { "! " } else { "" }, command.line()));
        let position = self.scripts.iter().rposition(|script| script.fits(&argv));
        let Some(position) = position else {
            let program = argv.first().cloned().unwrap_or_default();
            let known = self.scripts.iter().any(|script| same_program(&script.argv, &argv));
            return Err(if known {
                SystemError::Other(format!("no script for `{}`", command.line()))
            } else {
                let source = std::io::Error::from_raw_os_error(libc::ENOENT);
                SystemError::Start { program, source }
            });
        };
        let mut behaviour =
            self.scripts[position].behaviour.take().expect("a scripted command does not run itself");
        let output = behaviour(self, command);
        self.scripts[position].behaviour = Some(behaviour);
        Ok(output)
    }

    fn watched(
        &mut self,
        path: &Path,
        focus: Focus,
        operation: impl FnOnce(&mut Base, &mut Overlay) -> Result<()>,
    ) -> Result<()> {
        let focus = Focus { diff: self.ledger.diff && !focus.secret, ..focus };
        change::watched(
            self,
            path,
            focus,
            None,
            |fake| &mut fake.ledger,
            |fake| operation(&mut Base::new(&fake.who), &mut fake.files),
        )
    }

    /// Content with what the controller holds put in, so that later reads need no controller.
    fn settle(&self, content: &Content) -> Result<Content> {
        match content {
            Content::Blob(blob) => match self.blobs.get(&blob.sha256) {
                Some(bytes) => Ok(Content::Bytes(bytes.clone())),
                None => Err(SystemError::Blob(blob.sha256.clone())),
            },
            other => Ok(other.clone()),
        }
    }
}

impl Script {
    fn fits(&self, argv: &[String]) -> bool {
        same_program(&self.argv, argv)
            && if self.prefix {
                argv.len() >= self.argv.len() && argv[1..self.argv.len()] == self.argv[1..]
            } else {
                argv[1..] == self.argv[1..]
            }
    }
}

fn same_program(one: &[String], other: &[String]) -> bool {
    let (Some(one), Some(other)) = (one.first(), other.first()) else { return false };
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_string();
    one == other || (!(one.contains('/') && other.contains('/')) && last(one) == last(other))
}

impl Output {
    /// What a command leaves that prints this and ends well.
    pub fn ok(stdout: &str) -> Output {
        Output { code: 0, stdout: stdout.into(), stderr: Vec::new() }
    }

    /// What a command leaves that fails with this status and message.
    pub fn fails(code: i32, stderr: &str) -> Output {
        Output { code, stdout: Vec::new(), stderr: stderr.into() }
    }
}

impl System for Fake {
    fn stat(&mut self, path: &Path) -> Result<Option<Stat>> {
        self.files.stat(&mut Base::new(&self.who), path, false)
    }

    fn stat_follow(&mut self, path: &Path) -> Result<Option<Stat>> {
        self.files.stat(&mut Base::new(&self.who), path, true)
    }

    fn read(&mut self, path: &Path) -> Result<Vec<u8>> {
        if !self.access(path, 4)? && self.stat_follow(path)?.is_some() {
            return Err(os_error("read", path, libc::EACCES));
        }
        self.files.read(&mut Base::new(&self.who), path)
    }

    fn read_at(&mut self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.files.read_at(&mut Base::new(&self.who), path, offset, length)
    }

    fn digest(&mut self, path: &Path, algorithm: Algorithm) -> Result<String> {
        self.files.digest(&mut Base::new(&self.who), path, algorithm)
    }

    fn list(&mut self, path: &Path) -> Result<Vec<OsString>> {
        self.files.list(&mut Base::new(&self.who), path)
    }

    fn read_link(&mut self, path: &Path) -> Result<PathBuf> {
        self.files.read_link(&mut Base::new(&self.who), path)
    }

    fn resolve(&mut self, path: &Path) -> Result<PathBuf> {
        self.files.locate(&mut Base::new(&self.who), path, true)
    }

    fn access(&mut self, path: &Path, bits: u32) -> Result<bool> {
        self.files.access(&mut Base::new(&self.who), path, bits)
    }

    fn extended_attribute(&mut self, path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
        self.files.extended(&mut Base::new(&self.who), path, name)
    }

    fn user(&mut self, name_or_id: &str) -> Result<Option<User>> {
        if let Some(user) = self.users.get(name_or_id) {
            return Ok(Some(user.clone()));
        }
        let id: Option<u32> = name_or_id.parse().ok();
        Ok(self.users.values().find(|user| Some(user.uid) == id).cloned())
    }

    fn group(&mut self, name_or_id: &str) -> Result<Option<Group>> {
        if let Some(group) = self.groups.get(name_or_id) {
            return Ok(Some(group.clone()));
        }
        let id: Option<u32> = name_or_id.parse().ok();
        Ok(self.groups.values().find(|group| Some(group.gid) == id).cloned())
    }

    fn whoami(&mut self) -> Result<User> {
        Ok(self.who.clone())
    }

    fn env(&mut self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }

    fn own_variables(&mut self) -> Vec<String> {
        self.env.keys().cloned().collect()
    }

    fn query(&mut self, command: &Command) -> Result<Output> {
        self.run(command, false)
    }

    fn probe(&mut self, probe: &Probe) -> Result<Answer> {
        let known = self.answers.iter().rev().find(|(asked, _)| asked == probe);
        known
            .map(|(_, answer)| answer.clone())
            .ok_or_else(|| SystemError::Other(format!("no answer for {probe:?}")))
    }

    fn blob(&mut self, blob: &BlobRef) -> Result<Vec<u8>> {
        self.blobs.get(&blob.sha256).cloned().ok_or_else(|| SystemError::Blob(blob.sha256.clone()))
    }

    fn send(&mut self, path: &Path, name: &str) -> Result<()> {
        let content = self.read(path)?;
        self.sent.push((name.into(), content));
        Ok(())
    }

    fn write(
        &mut self,
        path: &Path,
        content: &Content,
        attributes: &Attributes,
        options: WriteOptions,
    ) -> Result<()> {
        let content = self.settle(content)?;
        if self.scratch && path.starts_with(SCRATCH) {
            return self.files.write(&mut Base::new(&self.who), path, &content, attributes);
        }
        let focus = Focus { secret: options.secret, ..Focus::on(attributes) };
        self.watched(path, focus, |base, files| files.write(base, path, &content, attributes))
    }

    fn make_dir(&mut self, path: &Path, attributes: &Attributes) -> Result<()> {
        if self.scratch && path.starts_with(SCRATCH) {
            return self.files.make_dir(&mut Base::new(&self.who), path, attributes);
        }
        self.watched(path, Focus::on(attributes), |base, files| files.make_dir(base, path, attributes))
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        if self.scratch && path.starts_with(SCRATCH) {
            return self.files.remove(&mut Base::new(&self.who), path);
        }
        self.watched(path, Focus::default(), |base, files| files.remove(base, path))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        let focus = Focus { diff: self.ledger.diff, ..Focus::default() };
        let moved = change::look(self, from, &focus)?;
        let replaced = change::look(self, to, &focus)?;
        self.files.rename(&mut Base::new(&self.who), from, to)?;
        self.ledger.renamed(from, to, moved, replaced);
        Ok(())
    }

    fn link(&mut self, path: &Path, target: &Path, kind: LinkKind) -> Result<()> {
        self.watched(path, Focus::default(), |base, files| files.link(base, path, target, kind))
    }

    fn set_attributes(&mut self, path: &Path, attributes: &Attributes, follow: bool) -> Result<()> {
        let path = change::target(self, path, follow)?;
        let focus = Focus { same_content: true, ..Focus::on(attributes) };
        self.watched(&path, focus, |base, files| files.set_attributes(base, &path, attributes, follow))
    }

    fn change(&mut self, command: &Command, intent: Intent) -> Result<Done> {
        let output = self.run(command, true)?;
        self.ledger.intent(&intent);
        Ok(Done::Made(output))
    }

    fn perform(&mut self, intent: Intent, act: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        act()?;
        self.ledger.intent(&intent);
        Ok(true)
    }

    fn scratch(&mut self) -> Result<PathBuf> {
        if !self.scratch {
            self.add_dir(SCRATCH);
            self.scratch = true;
        }
        Ok(SCRATCH.into())
    }

    fn applied(&mut self, applied: Applied) {
        self.ledger.applied.push(applied);
    }

    fn uncertain(&self) -> Option<String> {
        None
    }

    fn changes(&self) -> &[Change] {
        &self.ledger.changes
    }
}

/// What is under a [`Fake`]'s files: an empty root directory and nothing else.
struct Base {
    who: User,
}

impl Base {
    fn new(who: &User) -> Base {
        Base { who: who.clone() }
    }

    fn missing<T>(path: &Path) -> Result<T> {
        Err(os_error("read", path, libc::ENOENT))
    }
}

impl System for Base {
    fn stat(&mut self, path: &Path) -> Result<Option<Stat>> {
        let root = Stat {
            kind: FileKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            size: 4096,
            mtime: 1_700_000_000.0,
            atime: 1_700_000_000.0,
            ctime: 1_700_000_000.0,
            inode: 2,
            device: 1,
            links: 2,
            device_type: 0,
            blocks: 8,
            block_size: 4096,
        };
        Ok((path == Path::new("/")).then_some(root))
    }

    fn stat_follow(&mut self, path: &Path) -> Result<Option<Stat>> {
        self.stat(path)
    }

    fn read(&mut self, path: &Path) -> Result<Vec<u8>> {
        Base::missing(path)
    }

    fn read_at(&mut self, path: &Path, _offset: u64, _length: usize) -> Result<Vec<u8>> {
        Base::missing(path)
    }

    fn digest(&mut self, path: &Path, _algorithm: Algorithm) -> Result<String> {
        Base::missing(path)
    }

    fn list(&mut self, path: &Path) -> Result<Vec<OsString>> {
        if path == Path::new("/") { Ok(Vec::new()) } else { Base::missing(path) }
    }

    fn read_link(&mut self, path: &Path) -> Result<PathBuf> {
        Base::missing(path)
    }

    fn resolve(&mut self, path: &Path) -> Result<PathBuf> {
        Ok(Path::new("/").join(path))
    }

    fn access(&mut self, path: &Path, bits: u32) -> Result<bool> {
        Ok(path == Path::new("/") && (self.who.uid == 0 || bits & 2 == 0))
    }

    fn extended_attribute(&mut self, _path: &Path, _name: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn user(&mut self, _name_or_id: &str) -> Result<Option<User>> {
        Ok(None)
    }

    fn group(&mut self, _name_or_id: &str) -> Result<Option<Group>> {
        Ok(None)
    }

    fn whoami(&mut self) -> Result<User> {
        Ok(self.who.clone())
    }

    fn env(&mut self, _name: &str) -> Option<String> {
        None
    }

    fn query(&mut self, command: &Command) -> Result<Output> {
        Err(SystemError::Other(format!("no script for `{}`", command.line())))
    }

    fn probe(&mut self, probe: &Probe) -> Result<Answer> {
        Err(SystemError::Other(format!("no answer for {probe:?}")))
    }

    fn blob(&mut self, blob: &BlobRef) -> Result<Vec<u8>> {
        Err(SystemError::Blob(blob.sha256.clone()))
    }

    fn send(&mut self, path: &Path, _name: &str) -> Result<()> {
        Base::missing(path)
    }

    fn write(&mut self, path: &Path, _: &Content, _: &Attributes, _: WriteOptions) -> Result<()> {
        Err(os_error("write", path, libc::EROFS))
    }

    fn make_dir(&mut self, path: &Path, _: &Attributes) -> Result<()> {
        Err(os_error("make directory", path, libc::EROFS))
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        Err(os_error("remove", path, libc::EROFS))
    }

    fn rename(&mut self, from: &Path, _to: &Path) -> Result<()> {
        Err(os_error("rename", from, libc::EROFS))
    }

    fn link(&mut self, path: &Path, _: &Path, _: LinkKind) -> Result<()> {
        Err(os_error("link", path, libc::EROFS))
    }

    fn set_attributes(&mut self, path: &Path, _: &Attributes, _: bool) -> Result<()> {
        Err(os_error("set attributes of", path, libc::EROFS))
    }

    fn change(&mut self, command: &Command, _intent: Intent) -> Result<Done> {
        self.query(command).map(Done::Made)
    }

    fn perform(&mut self, _intent: Intent, _act: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        Ok(false)
    }

    fn scratch(&mut self) -> Result<PathBuf> {
        Base::missing(Path::new(SCRATCH))
    }

    fn applied(&mut self, _applied: Applied) {}

    fn uncertain(&self) -> Option<String> {
        None
    }

    fn changes(&self) -> &[Change] {
        &[]
    }
}
