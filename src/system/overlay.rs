//! A file system, and accounts, as they would be: changes kept in memory over a base that is only read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::digest::of_bytes;
use super::path::{Step, os_error, walk};
use super::{
    Algorithm, Attributes, BlobRef, Content, Effect, FileKind, Group, LinkKind, Result, Stat, System,
    SystemError, User, flags,
};

/// The changes.
#[derive(Debug, Default)]
pub struct Overlay {
    entries: BTreeMap<PathBuf, Entry>,
    nodes: Vec<Node>,
    /// Which node stands for a file of the base that has several names.
    inodes: BTreeMap<(u64, u64), usize>,
    users: BTreeMap<String, Option<User>>,
    groups: BTreeMap<String, Option<Group>>,
    uncertain: Option<String>,
    /// File mode creation mask that new files get.
    umask: u32,
    /// The time that changed files get; the machine's if `None`.
    clock: Option<f64>,
}

/// What the overlay says of a path.
#[derive(Clone, Copy, Debug)]
enum Entry {
    /// Nothing is there, nor below.
    Absent,
    /// This node is there.
    Node(usize),
}

#[derive(Clone, Debug)]
struct Node {
    stat: Stat,
    data: Data,
    /// The base's path whose extended attributes it has.
    extended: Option<PathBuf>,
    selinux: Option<String>,
    flags: Option<u32>,
}

#[derive(Clone, Debug)]
enum Data {
    /// What the base has at this path: a file's content, a directory's entries.
    Base(PathBuf),
    /// A new directory, or something without content.
    Empty,
    Bytes(Arc<[u8]>),
    Blob(BlobRef),
    /// Content that only the real run will make.
    Unknown,
    Link(PathBuf),
}

/// Where a path's truth is.
enum Found {
    Absent,
    Base(PathBuf),
    Node(usize),
}

impl Overlay {
    /// Whether it stands over no path.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Nothing changed yet. New files get `umask`'s mode and, if there is one, `clock`'s time.
    pub fn new(umask: u32, clock: Option<f64>) -> Overlay {
        Overlay { umask, clock, ..Overlay::default() }
    }

    /// Why what is missing may be there in a real run.
    pub fn uncertain(&self) -> Option<&str> {
        self.uncertain.as_deref()
    }

    /// What the machine itself would say of this path is no longer true.
    pub fn covers(&self, path: &Path) -> bool {
        !matches!(self.find(path), Found::Base(origin) if origin == path)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Overlay::new(self.umask, self.clock);
    }

    fn find(&self, path: &Path) -> Found {
        for ancestor in path.ancestors() {
            let Some(entry) = self.entries.get(ancestor) else { continue };
            return match entry {
                Entry::Absent => Found::Absent,
                Entry::Node(index) if ancestor == path => Found::Node(*index),
                Entry::Node(index) => match (&self.nodes[*index].data, self.nodes[*index].stat.kind) {
                    (Data::Base(origin), FileKind::Directory) => {
                        let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
                        Found::Base(origin.join(rest))
                    }
                    _ => Found::Absent,
                },
            };
        }
        Found::Base(path.to_path_buf())
    }

    /// The path with links resolved as they would be.
    pub fn locate(&self, base: &mut dyn System, path: &Path, follow: bool) -> Result<PathBuf> {
        let start = if path.is_absolute() { PathBuf::new() } else { base.resolve(Path::new(""))? };
        walk(&start, path, follow, &mut |candidate| {
            Ok(match self.find(candidate) {
                Found::Absent => Step::Missing,
                Found::Node(index) => match &self.nodes[index].data {
                    Data::Link(target) => Step::Link(target.clone()),
                    _ => Step::Other,
                },
                Found::Base(origin) => match base.stat(&origin)? {
                    None => Step::Missing,
                    Some(stat) if stat.kind == FileKind::Link => Step::Link(base.read_link(&origin)?),
                    Some(_) => Step::Other,
                },
            })
        })
    }

    /// The error for a located path at which nothing is.
    fn missing(
        &self,
        base: &mut dyn System,
        action: &'static str,
        path: &Path,
        located: &Path,
    ) -> SystemError {
        for ancestor in located.ancestors().skip(1) {
            if let Ok(Some(stat)) = self.stat_at(base, ancestor) {
                let is_dir = stat.kind == FileKind::Directory;
                return os_error(action, path, if is_dir { libc::ENOENT } else { libc::ENOTDIR });
            }
        }
        os_error(action, path, libc::ENOENT)
    }

    /// What would be at a located path.
    fn stat_at(&self, base: &mut dyn System, path: &Path) -> Result<Option<Stat>> {
        match self.find(path) {
            Found::Absent => Ok(None),
            Found::Node(index) => Ok(Some(self.nodes[index].stat.clone())),
            Found::Base(origin) => {
                let stat = base.stat(&origin)?;
                Ok(stat.map(|stat| match self.inodes.get(&(stat.device, stat.inode)) {
                    Some(index) if stat.links > 1 => self.nodes[*index].stat.clone(),
                    _ => stat,
                }))
            }
        }
    }

    /// See [`System::stat`] and [`System::stat_follow`].
    pub fn stat(&self, base: &mut dyn System, path: &Path, follow: bool) -> Result<Option<Stat>> {
        if self.entries.is_empty() {
            return if follow { base.stat_follow(path) } else { base.stat(path) };
        }
        match self.locate(base, path, follow) {
            Ok(path) => self.stat_at(base, &path),
            Err(error) if follow && error.errno() == Some(libc::ELOOP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The node or the base's path that holds the content of what `path` leads to.
    fn content(&self, base: &mut dyn System, action: &'static str, path: &Path) -> Result<Found> {
        let located = self.locate(base, path, true)?;
        match self.find(&located) {
            Found::Absent => Err(self.missing(base, action, path, &located)),
            Found::Base(origin) => {
                if let Some(stat) = base.stat(&origin)?
                    && stat.links > 1
                    && let Some(index) = self.inodes.get(&(stat.device, stat.inode))
                {
                    return Ok(Found::Node(*index));
                }
                Ok(Found::Base(origin))
            }
            found @ Found::Node(_) => Ok(found),
        }
    }

    fn bytes(
        &self,
        base: &mut dyn System,
        action: &'static str,
        path: &Path,
        index: usize,
    ) -> Result<Arc<[u8]>> {
        let node = &self.nodes[index];
        match &node.data {
            Data::Bytes(bytes) => Ok(bytes.clone()),
            Data::Blob(blob) => Ok(base.blob(blob)?.into()),
            Data::Base(origin) => Ok(base.read(origin)?.into()),
            Data::Unknown => Err(SystemError::Other(format!(
                "failed to {action} {}: its content is only known once it is made",
                path.display()
            ))),
            Data::Empty if node.stat.kind == FileKind::Directory => Err(os_error(action, path, libc::EISDIR)),
            Data::Empty | Data::Link(_) => Ok(Arc::default()),
        }
    }

    /// See [`System::read`].
    pub fn read(&self, base: &mut dyn System, path: &Path) -> Result<Vec<u8>> {
        match self.content(base, "read", path)? {
            Found::Node(index) => Ok(self.bytes(base, "read", path, index)?.to_vec()),
            Found::Base(origin) => base.read(&origin),
            Found::Absent => Err(os_error("read", path, libc::ENOENT)),
        }
    }

    /// See [`System::read_at`].
    pub fn read_at(&self, base: &mut dyn System, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
        let index = match self.content(base, "read", path)? {
            Found::Node(index) => index,
            Found::Base(origin) => return base.read_at(&origin, offset, length),
            Found::Absent => return Err(os_error("read", path, libc::ENOENT)),
        };
        if let Data::Base(origin) = &self.nodes[index].data {
            return base.read_at(&origin.clone(), offset, length);
        }
        let bytes = self.bytes(base, "read", path, index)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(length).min(bytes.len());
        Ok(bytes[start..end].to_vec())
    }

    /// See [`System::digest`].
    pub fn digest(&self, base: &mut dyn System, path: &Path, algorithm: Algorithm) -> Result<String> {
        let index = match self.content(base, "read", path)? {
            Found::Node(index) => index,
            Found::Base(origin) => return base.digest(&origin, algorithm),
            Found::Absent => return Err(os_error("read", path, libc::ENOENT)),
        };
        match &self.nodes[index].data {
            Data::Base(origin) => base.digest(&origin.clone(), algorithm),
            Data::Blob(blob) if algorithm == Algorithm::Sha256 => Ok(blob.sha256.clone()),
            _ => Ok(of_bytes(algorithm, &self.bytes(base, "read", path, index)?)),
        }
    }

    /// See [`System::list`].
    pub fn list(&self, base: &mut dyn System, path: &Path) -> Result<Vec<OsString>> {
        let located = self.locate(base, path, true)?;
        let origin = match self.find(&located) {
            Found::Absent => return Err(self.missing(base, "list", path, &located)),
            Found::Base(origin) => Some(origin),
            Found::Node(index) => match (&self.nodes[index].data, self.nodes[index].stat.kind) {
                (Data::Base(origin), FileKind::Directory) => Some(origin.clone()),
                (_, FileKind::Directory) => None,
                _ => return Err(os_error("list", path, libc::ENOTDIR)),
            },
        };
        let mut names: std::collections::BTreeSet<OsString> = match origin {
            Some(origin) => base.list(&origin)?.into_iter().collect(),
            None => std::collections::BTreeSet::new(),
        };
        for (child, entry) in self.below(&located).filter(|(child, _)| child.parent() == Some(&located)) {
            let Some(name) = child.file_name() else { continue };
            match entry {
                Entry::Absent => names.remove(name),
                Entry::Node(_) => names.insert(name.to_os_string()),
            };
        }
        Ok(names.into_iter().collect())
    }

    fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = (&'a PathBuf, &'a Entry)> + 'a {
        self.entries
            .range::<Path, _>((Bound::Excluded(path), Bound::Unbounded))
            .take_while(move |(child, _)| child.starts_with(path))
    }

    /// See [`System::read_link`].
    pub fn read_link(&self, base: &mut dyn System, path: &Path) -> Result<PathBuf> {
        let located = self.locate(base, path, false)?;
        match self.find(&located) {
            Found::Absent => Err(os_error("read link", path, libc::ENOENT)),
            Found::Base(origin) => base.read_link(&origin),
            Found::Node(index) => match &self.nodes[index].data {
                Data::Link(target) => Ok(target.clone()),
                _ => Err(os_error("read link", path, libc::EINVAL)),
            },
        }
    }

    /// See [`System::access`].
    pub fn access(&self, base: &mut dyn System, path: &Path, bits: u32) -> Result<bool> {
        let located = self.locate(base, path, true)?;
        match self.find(&located) {
            Found::Absent => Ok(false),
            Found::Base(origin) => base.access(&origin, bits),
            Found::Node(index) => {
                let stat = self.nodes[index].stat.clone();
                Ok(may(&base.whoami()?, &stat, bits))
            }
        }
    }

    /// See [`System::extended_attribute`].
    pub fn extended(&self, base: &mut dyn System, path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
        let index = match self.content(base, "read attributes of", path)? {
            Found::Node(index) => index,
            Found::Base(origin) => return base.extended_attribute(&origin, name),
            Found::Absent => return Err(os_error("read attributes of", path, libc::ENOENT)),
        };
        let node = &self.nodes[index];
        match name {
            "security.selinux" if node.selinux.is_some() => {
                return Ok(node.selinux.clone().map(String::into_bytes));
            }
            flags::NAME if node.flags.is_some() => {
                return Ok(node.flags.map(|bits| flags::text(bits).into_bytes()));
            }
            _ => {}
        }
        match node.extended.clone() {
            Some(origin) => base.extended_attribute(&origin, name),
            None => Ok(None),
        }
    }

    /// See [`System::user`]. The outer `None` means that the overlay does not know.
    pub fn user(&self, name_or_id: &str) -> Option<Option<User>> {
        if let Some(user) = self.users.get(name_or_id) {
            return Some(user.clone());
        }
        let id: u32 = name_or_id.parse().ok()?;
        self.users.values().flatten().find(|user| user.uid == id).map(|user| Some(user.clone()))
    }

    /// See [`System::group`]. The outer `None` means that the overlay does not know.
    pub fn group(&self, name_or_id: &str) -> Option<Option<Group>> {
        if let Some(group) = self.groups.get(name_or_id) {
            return Some(group.clone());
        }
        let id: u32 = name_or_id.parse().ok()?;
        self.groups.values().flatten().find(|group| group.gid == id).map(|group| Some(group.clone()))
    }

    /// Whether the overlay has taken this account away (for lookups by number, which the base answers).
    pub fn user_is_gone(&self, name: &str) -> bool {
        matches!(self.users.get(name), Some(None))
    }

    /// Whether the overlay has taken this group away.
    pub fn group_is_gone(&self, name: &str) -> bool {
        matches!(self.groups.get(name), Some(None))
    }

    // ---- changes ----

    fn now(&self) -> f64 {
        self.clock.unwrap_or_else(|| {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0.0, |since| since.as_secs_f64())
        })
    }

    fn add(&mut self, path: PathBuf, node: Node) -> usize {
        self.nodes.push(node);
        let index = self.nodes.len() - 1;
        self.nodes[index].stat.inode = u64::MAX - index as u64;
        self.place(path, Entry::Node(index));
        index
    }

    /// Puts an entry at a path, instead of all that the overlay knew there and below.
    fn place(&mut self, path: PathBuf, entry: Entry) {
        let below: Vec<PathBuf> = self.below(&path).map(|(child, _)| child.clone()).collect();
        for child in below {
            self.entries.remove(&child);
        }
        self.entries.insert(path, entry);
    }

    /// The parent must be a directory in which this user may make and remove names.
    fn check_parent(
        &self,
        base: &mut dyn System,
        action: &'static str,
        path: &Path,
        located: &Path,
    ) -> Result<Stat> {
        let parent = located.parent().ok_or_else(|| os_error(action, path, libc::EBUSY))?;
        let stat = self.stat_at(base, parent)?.ok_or_else(|| self.missing(base, action, path, located))?;
        if stat.kind != FileKind::Directory {
            return Err(os_error(action, path, libc::ENOTDIR));
        }
        let allowed = match self.find(parent) {
            Found::Base(origin) => base.access(&origin, 0o3)?,
            _ => may(&base.whoami()?, &stat, 0o3),
        };
        if allowed { Ok(stat) } else { Err(os_error(action, path, libc::EACCES)) }
    }

    fn new_stat(&self, who: &User, kind: FileKind, parent: &Stat, default_mode: u32) -> Stat {
        let inherits = parent.mode & 0o2000 != 0;
        let now = self.now();
        let mut mode = default_mode;
        if kind == FileKind::Directory && inherits {
            mode |= 0o2000;
        }
        Stat {
            kind,
            mode,
            uid: who.uid,
            gid: if inherits { parent.gid } else { who.gid },
            size: 0,
            mtime: now,
            atime: now,
            ctime: now,
            inode: 0,
            device: parent.device,
            links: if kind == FileKind::Directory { 2 } else { 1 },
            device_type: 0,
            blocks: 0,
            block_size: 4096,
        }
    }

    /// Makes the node for what would be at a located path, so that it can be changed.
    fn adopt(&mut self, base: &mut dyn System, action: &'static str, path: &Path) -> Result<usize> {
        let origin = match self.find(path) {
            Found::Node(index) => return Ok(index),
            Found::Absent => return Err(self.missing(base, action, path, path)),
            Found::Base(origin) => origin,
        };
        let stat = base.stat(&origin)?.ok_or_else(|| self.missing(base, action, path, path))?;
        let shared = stat.kind != FileKind::Directory && stat.links > 1;
        let identity = (stat.device, stat.inode);
        if shared && let Some(index) = self.inodes.get(&identity) {
            let index = *index;
            self.entries.insert(path.to_path_buf(), Entry::Node(index));
            return Ok(index);
        }
        let data = match stat.kind {
            FileKind::Link => Data::Link(base.read_link(&origin)?),
            _ => Data::Base(origin.clone()),
        };
        self.nodes.push(Node { stat, data, extended: Some(origin), selinux: None, flags: None });
        let index = self.nodes.len() - 1;
        // Not through `place`: what the overlay knows below a directory stays true.
        self.entries.insert(path.to_path_buf(), Entry::Node(index));
        if shared {
            self.inodes.insert(identity, index);
        }
        Ok(index)
    }

    /// A name of a file goes away.
    fn unlink(&mut self, base: &mut dyn System, path: &Path) -> Result<()> {
        let shared =
            self.stat_at(base, path)?.is_some_and(|stat| stat.kind != FileKind::Directory && stat.links > 1);
        if shared {
            let index = self.adopt(base, "remove", path)?;
            self.nodes[index].stat.links -= 1;
        }
        Ok(())
    }

    /// See [`System::write`].
    pub fn write(
        &mut self,
        base: &mut dyn System,
        path: &Path,
        content: &Content,
        attributes: &Attributes,
    ) -> Result<()> {
        let located = self.locate(base, path, false)?;
        let parent = self.check_parent(base, "write", path, &located)?;
        let existing = self.stat_at(base, &located)?;
        if existing.as_ref().is_some_and(|stat| stat.kind == FileKind::Directory) {
            return Err(os_error("write", path, libc::EISDIR));
        }
        let (data, size) = match content {
            Content::Bytes(bytes) => (Data::Bytes(bytes.as_slice().into()), bytes.len() as u64),
            Content::Blob(blob) => (Data::Blob(blob.clone()), blob.size),
            Content::File(source) => {
                let located = self.locate(base, source, true)?;
                let size = self
                    .stat_at(base, &located)?
                    .ok_or_else(|| self.missing(base, "read", source, &located))
                    .and_then(|stat| match stat.kind {
                        FileKind::Directory => Err(os_error("read", source, libc::EISDIR)),
                        _ => Ok(stat.size),
                    })?;
                let data = match self.content(base, "read", source)? {
                    Found::Node(index) => self.nodes[index].data.clone(),
                    Found::Base(origin) => Data::Base(origin),
                    Found::Absent => return Err(os_error("read", source, libc::ENOENT)),
                };
                (data, size)
            }
        };
        let who = base.whoami()?;
        let mut stat = self.new_stat(&who, FileKind::File, &parent, 0o666 & !self.umask);
        let (mut extended, mut selinux) = (None, None);
        if let Some(old) = existing.filter(|old| old.kind == FileKind::File) {
            if who.uid == 0 {
                (stat.uid, stat.gid) = (old.uid, old.gid);
            } else if old.gid == who.gid {
                stat.gid = old.gid;
            }
            stat.mode = old.mode;
            match self.find(&located) {
                Found::Base(origin) => extended = Some(origin),
                Found::Node(index) => {
                    extended.clone_from(&self.nodes[index].extended);
                    selinux.clone_from(&self.nodes[index].selinux);
                }
                Found::Absent => {}
            }
        }
        stat.size = size;
        stat.blocks = size.div_ceil(4096) * 8;
        self.unlink(base, &located)?;
        // Set after the owner, so that a change of owner does not cost setuid and setgid.
        let mode = Some(attributes.mode.unwrap_or(stat.mode));
        let index = self.add(located, Node { stat, data, extended, selinux, flags: None });
        self.set(&who, index, path, &Attributes { mode, ..attributes.clone() }, true)
    }

    /// See [`System::make_dir`].
    pub fn make_dir(&mut self, base: &mut dyn System, path: &Path, attributes: &Attributes) -> Result<()> {
        let located = self.locate(base, path, false)?;
        if located.parent().is_none() || self.stat_at(base, &located)?.is_some() {
            return Err(os_error("make directory", path, libc::EEXIST));
        }
        let parent = self.check_parent(base, "make directory", path, &located)?;
        let who = base.whoami()?;
        let mut stat = self.new_stat(&who, FileKind::Directory, &parent, 0o777 & !self.umask);
        (stat.size, stat.blocks) = (4096, 8);
        let index =
            self.add(located, Node { stat, data: Data::Empty, extended: None, selinux: None, flags: None });
        self.set(&who, index, path, attributes, true)
    }

    /// See [`System::remove`].
    pub fn remove(&mut self, base: &mut dyn System, path: &Path) -> Result<()> {
        let located = self.locate(base, path, false)?;
        if self.stat_at(base, &located)?.is_none() {
            return Err(self.missing(base, "remove", path, &located));
        }
        self.check_parent(base, "remove", path, &located)?;
        self.unlink(base, &located)?;
        self.place(located, Entry::Absent);
        Ok(())
    }

    /// See [`System::rename`].
    pub fn rename(&mut self, base: &mut dyn System, from: &Path, to: &Path) -> Result<()> {
        let source = self.locate(base, from, false)?;
        let target = self.locate(base, to, false)?;
        self.check_parent(base, "rename", from, &source)?;
        self.check_parent(base, "rename", to, &target)?;
        let moved =
            self.stat_at(base, &source)?.ok_or_else(|| self.missing(base, "rename", from, &source))?;
        if source == target {
            return Ok(());
        }
        if target.starts_with(&source) {
            return Err(os_error("rename", to, libc::EINVAL));
        }
        let is_dir = moved.kind == FileKind::Directory;
        if let Some(there) = self.stat_at(base, &target)? {
            let there_is_dir = there.kind == FileKind::Directory;
            if !is_dir && (there.device, there.inode) == (moved.device, moved.inode) {
                return Ok(());
            }
            let refused = match (is_dir, there_is_dir) {
                (true, false) => Some(libc::ENOTDIR),
                (false, true) => Some(libc::EISDIR),
                (true, true) if !self.list(base, &target)?.is_empty() => Some(libc::ENOTEMPTY),
                _ => None,
            };
            if let Some(number) = refused {
                return Err(os_error("rename", to, number));
            }
            self.unlink(base, &target)?;
        }
        self.adopt(base, "rename", &source)?;
        let moving: Vec<(PathBuf, Entry)> = std::iter::once(source.clone())
            .chain(self.below(&source).map(|(child, _)| child.clone()))
            .filter_map(|path| self.entries.get(&path).map(|entry| (path, *entry)))
            .collect();
        self.place(source.clone(), Entry::Absent);
        self.place(target.clone(), Entry::Absent);
        for (path, entry) in moving {
            let rest = path.strip_prefix(&source).unwrap_or(Path::new(""));
            let path = if rest.as_os_str().is_empty() { target.clone() } else { target.join(rest) };
            self.entries.insert(path, entry);
        }
        Ok(())
    }

    /// See [`System::link`].
    pub fn link(&mut self, base: &mut dyn System, path: &Path, target: &Path, kind: LinkKind) -> Result<()> {
        let located = self.locate(base, path, false)?;
        let parent = self.check_parent(base, "link", path, &located)?;
        let there = self.stat_at(base, &located)?;
        if there.as_ref().is_some_and(|stat| stat.kind == FileKind::Directory) {
            return Err(os_error("link", path, libc::EISDIR));
        }
        match kind {
            LinkKind::Symbolic => {
                let who = base.whoami()?;
                let mut stat = self.new_stat(&who, FileKind::Link, &parent, 0o777);
                stat.size = target.as_os_str().len() as u64;
                self.unlink(base, &located)?;
                let data = Data::Link(target.to_path_buf());
                self.add(located, Node { stat, data, extended: None, selinux: None, flags: None });
            }
            LinkKind::Hard => {
                let source = self.locate(base, target, false)?;
                let stat = self
                    .stat_at(base, &source)?
                    .ok_or_else(|| self.missing(base, "link", target, &source))?;
                if stat.kind == FileKind::Directory {
                    return Err(os_error("link", target, libc::EPERM));
                }
                if there.is_some_and(|there| (there.device, there.inode) == (stat.device, stat.inode)) {
                    return Ok(());
                }
                let index = self.adopt(base, "link", &source)?;
                self.unlink(base, &located)?;
                self.place(located, Entry::Node(index));
                self.nodes[index].stat.links += 1;
            }
        }
        Ok(())
    }

    /// See [`System::set_attributes`].
    pub fn set_attributes(
        &mut self,
        base: &mut dyn System,
        path: &Path,
        attributes: &Attributes,
        follow: bool,
    ) -> Result<()> {
        let located = self.locate(base, path, follow)?;
        let who = base.whoami()?;
        let before = self.extended(base, &located, flags::NAME).ok().flatten();
        let index = self.adopt(base, "set attributes of", &located)?;
        if attributes.flags.is_some() && self.nodes[index].flags.is_none() {
            let before = before.map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
            self.nodes[index].flags = Some(flags::parse(&before));
        }
        self.set(&who, index, path, attributes, follow)
    }

    fn set(
        &mut self,
        who: &User,
        index: usize,
        path: &Path,
        attributes: &Attributes,
        follow: bool,
    ) -> Result<()> {
        let now = self.now();
        let node = &mut self.nodes[index];
        let foreign = who.uid != 0 && node.stat.uid != who.uid;
        let gives_away = who.uid != 0 && attributes.uid.is_some_and(|uid| uid != node.stat.uid);
        let regroups = foreign && attributes.gid.is_some_and(|gid| gid != node.stat.gid);
        let remodes = foreign && attributes.mode.is_some_and(|mode| mode != node.stat.mode);
        if gives_away || regroups || remodes {
            return Err(os_error("set attributes of", path, libc::EPERM));
        }
        let owner_changes = attributes.uid.is_some_and(|uid| uid != node.stat.uid)
            || attributes.gid.is_some_and(|gid| gid != node.stat.gid);
        if owner_changes && node.stat.kind == FileKind::File {
            // As chown does.
            let drop = if node.stat.mode & 0o010 != 0 { 0o6000 } else { 0o4000 };
            node.stat.mode &= !drop;
        }
        node.stat.uid = attributes.uid.unwrap_or(node.stat.uid);
        node.stat.gid = attributes.gid.unwrap_or(node.stat.gid);
        if follow || node.stat.kind != FileKind::Link {
            node.stat.mode = attributes.mode.unwrap_or(node.stat.mode);
        }
        node.stat.mtime = attributes.mtime.unwrap_or(node.stat.mtime);
        node.stat.atime = attributes.atime.unwrap_or(node.stat.atime);
        node.stat.ctime = now;
        if let Some(context) = &attributes.selinux {
            node.selinux = Some(context.clone());
        }
        if let Some(wish) = &attributes.flags {
            let bits = flags::apply(node.flags.unwrap_or(0), wish).map_err(SystemError::Other)?;
            node.flags = Some(bits);
        }
        Ok(())
    }

    /// Takes over what a recorded command would have done.
    pub fn effects(&mut self, base: &mut dyn System, what: &str, effects: &[Effect]) -> Result<()> {
        for effect in effects {
            match effect {
                Effect::User(user) => {
                    self.users.insert(user.name.clone(), Some(user.clone()));
                }
                Effect::NoUser(name) => {
                    self.users.insert(name.clone(), None);
                }
                Effect::Group(group) => {
                    self.groups.insert(group.name.clone(), Some(group.clone()));
                }
                Effect::NoGroup(name) => {
                    self.groups.insert(name.clone(), None);
                }
                Effect::NoPath(path) => {
                    let located = self.locate(base, path, false)?;
                    self.place(located, Entry::Absent);
                }
                Effect::Path(path, kind) => self.appear(base, path, *kind, Data::Unknown)?,
                Effect::Text(path, text) => {
                    let data = Data::Bytes(text.as_bytes().into());
                    self.appear(base, path, FileKind::File, data)?;
                }
                Effect::Anything => self.uncertain = Some(what.to_string()),
            }
        }
        Ok(())
    }

    /// Something comes to be at a path, with the directories that lead there.
    fn appear(&mut self, base: &mut dyn System, path: &Path, kind: FileKind, content: Data) -> Result<()> {
        let located = self.locate(base, path, false)?;
        let existing = self.stat_at(base, &located)?;
        if existing.as_ref().is_some_and(|stat| stat.kind == kind && kind == FileKind::Directory) {
            return Ok(());
        }
        let Some(parent) = located.parent() else { return Ok(()) };
        let parent_stat = match self.stat_at(base, parent)? {
            Some(stat) => stat,
            None => {
                self.appear(base, parent, FileKind::Directory, Data::Empty)?;
                self.stat_at(base, parent)?.ok_or_else(|| os_error("make directory", parent, libc::ENOENT))?
            }
        };
        let who = base.whoami()?;
        let (mode, data) = match kind {
            FileKind::Directory => (0o777, Data::Empty),
            FileKind::Link => (0o777, Data::Link(PathBuf::new())),
            _ => (0o666, content),
        };
        let mut stat = self.new_stat(&who, kind, &parent_stat, mode & !self.umask);
        if let Some(old) = existing {
            (stat.mode, stat.uid, stat.gid) = (old.mode, old.uid, old.gid);
        }
        self.add(located, Node { stat, data, extended: None, selinux: None, flags: None });
        Ok(())
    }
}

/// Whether this account may do what `bits` (4, 2, 1) say.
fn may(who: &User, stat: &Stat, bits: u32) -> bool {
    if who.uid == 0 {
        return bits & 1 == 0 || stat.kind == FileKind::Directory || stat.mode & 0o111 != 0;
    }
    let shift = if stat.uid == who.uid {
        6
    } else if stat.gid == who.gid {
        3
    } else {
        0
    };
    (stat.mode >> shift) & bits == bits
}
