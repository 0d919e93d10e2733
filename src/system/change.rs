//! Turns what was at a path before and after an operation into a [`Change`].

use std::path::{Path, PathBuf};

use super::{Algorithm, Applied, Attributes, Change, Content, FileKind, Intent, Result, Stat, System};
use crate::value::{Map, Value, map_of};

/// Largest text that is kept for a diff, in bytes.
pub const MAX_DIFF: u64 = 100 << 10;

/// Longest list of what is in a directory that is kept for a diff, in paths.
const MAX_LISTED: usize = 10_000;

/// What one task has changed and found right.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Keep texts for a diff.
    pub diff: bool,
    /// What was changed, in order; one entry for each resource.
    pub changes: Vec<Change>,
    /// What was found right or left right.
    pub applied: Vec<Applied>,
}

/// What is at a path at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    kind: Option<FileKind>,
    state: Value,
    text: Option<String>,
}

impl Snapshot {
    /// The state as in [`Change::before`].
    pub fn into_state(self) -> Value {
        self.state
    }
}

/// Which properties beyond the usual a snapshot holds, and what need not be computed.
#[derive(Clone, Debug, Default)]
pub struct Focus {
    /// The operation sets the time of the last change.
    pub mtime: bool,
    /// The operation sets the time of the last access (which looking may change).
    pub atime: bool,
    /// The operation sets the SELinux context.
    pub selinux: bool,
    /// The operation sets `chattr` flags.
    pub flags: bool,
    /// The digest, where it is known without reading the file.
    pub sha256: Option<String>,
    /// The content is not going to change: neither digest nor text is needed.
    pub same_content: bool,
    /// The content is a secret: its text is never kept.
    pub secret: bool,
    /// Keep the text.
    pub diff: bool,
    /// Keep the list of what is in a directory, if a diff is wanted.
    pub listing: bool,
}

impl Focus {
    /// What matters to an operation that sets these attributes.
    pub fn on(attributes: &Attributes) -> Focus {
        Focus {
            mtime: attributes.mtime.is_some(),
            atime: attributes.atime.is_some(),
            selinux: attributes.selinux.is_some(),
            flags: attributes.flags.is_some(),
            ..Focus::default()
        }
    }
}

/// The digest of new content where it can be told without reading a file.
pub fn known_digest(content: &Content) -> Option<String> {
    match content {
        Content::Bytes(bytes) => Some(super::digest::of_bytes(Algorithm::Sha256, bytes)),
        Content::Blob(blob) => Some(blob.sha256.clone()),
        Content::File(_) => None,
    }
}

/// Permission bits as users write them.
pub fn mode_text(mode: u32) -> String {
    format!("{mode:04o}")
}

/// The state of a path as drift and diffs want it: `{"sha256", "mode", "uid", "gid", "size"}` of a file.
/// `Null` if nothing is there.
pub fn state(system: &mut dyn System, path: &Path) -> Result<Value> {
    Ok(look(system, path, &Focus::default())?.state)
}

/// What is at `path` now.
pub fn look(system: &mut dyn System, path: &Path, focus: &Focus) -> Result<Snapshot> {
    let Some(stat) = system.stat(path)? else {
        return Ok(Snapshot { kind: None, state: Value::Null, text: None });
    };
    let mut state = describe(&stat);
    let mut text = None;
    match stat.kind {
        FileKind::File if !focus.same_content => {
            let sha256 = match &focus.sha256 {
                Some(known) => Ok(known.clone()),
                None => system.digest(path, Algorithm::Sha256),
            };
            // A file that can't be read (or whose content is not known yet) still has a state.
            if let Ok(sha256) = sha256 {
                state.insert("sha256".into(), sha256.into());
            }
            if focus.diff && stat.size <= MAX_DIFF {
                text = system.read(path).ok().and_then(as_text);
            }
        }
        FileKind::Link => {
            let target = system.read_link(path)?;
            state.insert("target".into(), target.to_string_lossy().into_owned().into());
        }
        FileKind::Directory if focus.listing && focus.diff => {
            let (mut directories, mut files) = (Vec::new(), Vec::new());
            list_below(system, path, &mut directories, &mut files);
            let content = map_of([("directories", Value::from(directories)), ("files", files.into())]);
            state.insert(PATH_CONTENT.into(), Value::map(content));
        }
        _ => {}
    }
    if focus.mtime {
        state.insert("mtime".into(), stat.mtime.into());
    }
    if focus.atime {
        state.insert("atime".into(), stat.atime.into());
    }
    for (wanted, name, key) in
        [(focus.selinux, "security.selinux", "selinux"), (focus.flags, "flags", "attributes")]
    {
        if wanted && let Ok(Some(value)) = system.extended_attribute(path, name) {
            let value = String::from_utf8_lossy(&value).trim_end_matches('\0').to_string();
            state.insert(key.into(), value.into());
        }
    }
    Ok(Snapshot { kind: Some(stat.kind), state: Value::map(state), text })
}

/// Under which name a directory's state holds what is in it.
pub const PATH_CONTENT: &str = "path_content";

/// All that is below a directory, as far as it can be read and is not too much.
fn list_below(
    system: &mut dyn System,
    directory: &Path,
    directories: &mut Vec<String>,
    files: &mut Vec<String>,
) {
    for name in system.list(directory).unwrap_or_default() {
        if directories.len() + files.len() >= MAX_LISTED {
            return;
        }
        let path = directory.join(name);
        let shown = path.to_string_lossy().into_owned();
        if system.stat(&path).is_ok_and(|stat| stat.is_some_and(|stat| stat.kind == FileKind::Directory)) {
            directories.push(shown);
            list_below(system, &path, directories, files);
        } else {
            files.push(shown);
        }
    }
}

fn describe(stat: &Stat) -> Map {
    let mut state = map_of([("uid", stat.uid), ("gid", stat.gid)]);
    if stat.kind != FileKind::Link {
        state.insert("mode".into(), mode_text(stat.mode).into());
    }
    if stat.kind == FileKind::File {
        state.insert("size".into(), stat.size.into());
    }
    state
}

fn as_text(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// The name that a kind of path has in a change.
pub fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Link => "link",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice | FileKind::BlockDevice => "device",
    }
}

impl Ledger {
    /// Notes a path's change; nothing if there is none. Several to one path in one task are one change.
    pub fn path(&mut self, path: &Path, before: Snapshot, after: Snapshot) {
        if before == after {
            return;
        }
        let kind = after.kind.or(before.kind).map_or("file", kind_name);
        let text = if self.diff && before.text != after.text {
            let fits = |side: &Snapshot| side.text.is_some() || side.kind != Some(FileKind::File);
            (fits(&before) && fits(&after))
                .then(|| (before.text.clone().unwrap_or_default(), after.text.clone().unwrap_or_default()))
        } else {
            None
        };
        let id = path.to_string_lossy().into_owned();
        if let Some(index) = self
            .changes
            .iter()
            .position(|change| change.id == id && PATH_KINDS.contains(&change.kind.as_str()))
        {
            let earlier = &mut self.changes[index];
            earlier.after = overlay_state(&earlier.after, after.state);
            earlier.kind = kind.into();
            earlier.text = match (earlier.text.take(), text) {
                (Some((first, _)), Some((_, last))) => Some((first, last)),
                (first, last) => first.or(last),
            };
            if earlier.before == earlier.after {
                self.changes.remove(index);
            }
            return;
        }
        self.changes.push(Change {
            kind: kind.into(),
            id,
            before: before.state,
            after: after.state,
            text,
            sensitive: false,
        });
    }

    /// Notes a command's change. What has no kind leaves nothing behind (waiting, asking a server).
    pub fn intent(&mut self, intent: &Intent) {
        if intent.kind.is_empty() {
            return;
        }
        self.changes.push(Change {
            kind: intent.kind.into(),
            id: intent.id.clone(),
            before: intent.before.clone(),
            after: intent.after.clone(),
            text: None,
            sensitive: intent.sensitive,
        });
    }

    /// Notes a move.
    pub fn renamed(&mut self, from: &Path, to: &Path, moved: Snapshot, replaced: Snapshot) {
        let gone = Snapshot { kind: None, state: Value::Null, text: None };
        self.path(from, moved.clone(), gone);
        self.path(to, replaced, moved);
    }

    /// Forgets everything, and returns it.
    pub fn take(&mut self) -> (Vec<Change>, Vec<Applied>) {
        (std::mem::take(&mut self.changes), std::mem::take(&mut self.applied))
    }
}

const PATH_KINDS: &[&str] = &["file", "directory", "link", "fifo", "socket", "device"];

/// A later snapshot over an earlier one: the later may have left out the digest because it did not change.
fn overlay_state(earlier: &Value, later: Value) -> Value {
    match (earlier.get("sha256"), later.as_map()) {
        (Some(digest), Some(map)) if map.contains_key("size") && !map.contains_key("sha256") => {
            let mut map = map.clone();
            map.insert("sha256".into(), digest.clone());
            Value::map(map)
        }
        _ => later,
    }
}

/// Runs an operation on one path and notes what it changed, also when it failed half-way.
pub(crate) fn watched<S: System>(
    system: &mut S,
    path: &Path,
    focus: Focus,
    after_digest: Option<String>,
    ledger: fn(&mut S) -> &mut Ledger,
    operation: impl FnOnce(&mut S) -> Result<()>,
) -> Result<()> {
    let before = look(system, path, &focus)?;
    let outcome = operation(system);
    let known = outcome.is_ok().then_some(after_digest).flatten();
    let after = look(system, path, &Focus { sha256: known, ..focus });
    match (outcome, after) {
        (Ok(()), Ok(after)) => {
            ledger(system).path(path, before, after);
            Ok(())
        }
        (Ok(()), Err(error)) => Err(error),
        (Err(error), after) => {
            if let Ok(after) = after {
                ledger(system).path(path, before, after);
            }
            Err(error)
        }
    }
}

/// The path that an operation which follows links acts on.
pub(crate) fn target(system: &mut dyn System, path: &Path, follow: bool) -> Result<PathBuf> {
    let is_link = follow && system.stat(path)?.is_some_and(|stat| stat.kind == FileKind::Link);
    if is_link { system.resolve(path) } else { Ok(path.to_path_buf()) }
}
