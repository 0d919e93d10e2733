//! `copy`: files and directory trees, from the controller or from elsewhere on the host.
//!
//! What comes from the controller arrives as digests; content travels only for what differs. `template`
//! ends here too.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::module::files::{self, FileArgs, Mode, Writing};
use crate::module::{Module, ModuleError, Outcome, Param, Type, file, typed};
use crate::system::{Algorithm, Applied, BlobRef, Content, FileKind, LinkKind, Stat, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Parameters in which the controller hands over what it has prepared; not for playbooks.
pub const INTERNAL: [Param; 5] = [
    Param::new("_blob", Type::Dict, ""),
    Param::new("_basename", Type::Str, ""),
    Param::new("_source_mode", Type::Raw, ""),
    Param::new("_tree", Type::List, ""),
    Param::new("_template", Type::Bool, ""),
];

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.copy",
    summary: "Copies files and directories to a host",
    description: "Puts a file, a text (`content`) or a whole directory in place, each file replaced at once and only if it \
        differs. If `src` ends in a slash, what is in the directory is copied, else the directory itself. If `dest` ends in a \
        slash or is a directory, the file keeps its name in it, and a missing `dest` is made. With `remote_src: true` source \
        and destination are on the host.",
    example: "- name: Configuration of the application\n  ansible.builtin.copy:\n    src: app.conf\n    dest: /etc/app/app.conf\n    owner: root\n    group: app\n    mode: \"0640\"\n    validate: /usr/bin/app --check %s\n- name: A message of the day\n  ansible.builtin.copy:\n    content: \"Managed by setpoint\\n\"\n    dest: /etc/motd\n    mode: \"0644\"\n",
    params: &[
        Param::new(
            "src",
            Type::Path,
            "What to copy: relative to the playbook's or role's `files`, or absolute.",
        ),
        Param::new(
            "content",
            Type::Raw,
            "The text itself, in place of `src`. Lists and mappings are written as JSON.",
        ),
        Param::new("dest", Type::Path, "Where it goes on the host.").required(),
        Param::new("backup", Type::Bool, "Keep a copy of what is replaced, with the time in its name.")
            .default("false"),
        Param::new(
            "force",
            Type::Bool,
            "Replace what differs; if false, only copy what is not there at all.",
        )
        .default("true"),
        Param::new(
            "validate",
            Type::Str,
            "A command, without a shell, that must accept the new file, which `%s` stands for.",
        ),
        Param::new("directory_mode", Type::Raw, "Permissions of directories that are made."),
        Param::new("remote_src", Type::Bool, "`src` is on the host.").default("false"),
        Param::new(
            "local_follow",
            Type::Bool,
            "Follow symbolic links in a source directory instead of copying them.",
        ),
        Param::new(
            "follow",
            Type::Bool,
            "Write to the target of a symbolic link at `dest` instead of replacing the link.",
        )
        .default("false"),
        Param::new("checksum", Type::Str, "SHA-1 that the source must have."),
        Param::new("decrypt", Type::Bool, "Decrypt the source if it is vaulted.").default("true"),
        INTERNAL[0],
        INTERNAL[1],
        INTERNAL[2],
        INTERNAL[3],
        INTERNAL[4],
    ],
    file_params: true,
    returns: &[
        ("dest", "Where the file is."),
        ("src", "Where it came from."),
        ("checksum", "SHA-1 of the file."),
        ("md5sum", "MD5 of a small file that was written."),
        ("backup_file", "The copy that was kept."),
        ("mode", "Its permissions, such as `0644`."),
        ("owner", "Name of its owner."),
        ("group", "Name of its group."),
        ("uid", "Number of its owner."),
        ("gid", "Number of its group."),
        ("size", "Its size in bytes."),
        ("state", "What is there: `file`, `directory` or `link`."),
    ],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    src: Option<String>,
    dest: String,
    #[serde(default)]
    backup: bool,
    #[serde(default = "yes")]
    force: bool,
    validate: Option<String>,
    directory_mode: Option<Value>,
    #[serde(default)]
    remote_src: bool,
    #[serde(default)]
    local_follow: bool,
    #[serde(default)]
    follow: bool,
    checksum: Option<String>,
    #[serde(rename = "_blob")]
    blob: Option<Blob>,
    #[serde(rename = "_basename")]
    basename: Option<String>,
    #[serde(rename = "_source_mode")]
    source_mode: Option<Value>,
    #[serde(rename = "_tree")]
    tree: Option<Vec<Entry>>,
    #[serde(flatten)]
    file: FileArgs,
}

fn yes() -> bool {
    true
}

/// Content that the controller holds. The other digests spare the host computing them for the result.
#[derive(Clone, Debug, Deserialize)]
pub struct Blob {
    sha256: String,
    size: u64,
    sha1: Option<String>,
    md5: Option<String>,
}

impl Blob {
    /// The content, for [`System::write`].
    pub fn content(&self) -> Content {
        Content::Blob(self.reference())
    }

    /// The content's name.
    pub fn reference(&self) -> BlobRef {
        BlobRef { sha256: self.sha256.clone(), size: self.size }
    }

    /// Its digest.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// One path of a directory tree that is copied.
#[derive(Clone, Debug, Deserialize)]
struct Entry {
    path: String,
    kind: String,
    sha256: Option<String>,
    sha1: Option<String>,
    size: Option<u64>,
    mode: Option<Value>,
    target: Option<String>,
}

/// What is to be in one file.
struct Source {
    content: Content,
    sha256: String,
    size: u64,
    sha1: Option<String>,
    md5: Option<String>,
    /// Its permission bits.
    mode: Option<u32>,
    /// They are the new file's unless `mode` says otherwise.
    mode_by_default: bool,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    if let Some(tree) = &args.tree {
        let entries = tree.iter().map(Entry::to_item).collect::<Result<Vec<_>>>()?;
        return copy_tree(system, &args, &entries);
    }
    if args.remote_src {
        return remote(system, &args);
    }
    let Some(blob) = &args.blob else {
        return Err(ModuleError::new("src (or content) is required"));
    };
    let source = Source {
        content: blob.content(),
        sha256: blob.sha256.clone(),
        size: blob.size,
        sha1: blob.sha1.clone(),
        md5: blob.md5.clone(),
        mode: bits(args.source_mode.as_ref())?,
        mode_by_default: false,
    };
    let dest = destination(system, &args, args.basename.as_deref())?;
    copy_file(system, &args, &source, dest)
}

fn bits(mode: Option<&Value>) -> Result<Option<u32>> {
    match mode.map(Mode::parse).transpose()? {
        Some(Mode::Exact(bits)) => Ok(Some(bits)),
        _ => Ok(None),
    }
}

/// The file that `dest` means: itself, or the one of the source's name in it. Makes a missing directory if
/// `dest` ends in a slash.
fn destination(system: &mut dyn System, args: &Args, basename: Option<&str>) -> Result<PathBuf> {
    let mut dest = files::path_arg(system, &args.dest)?;
    let name = || basename.ok_or_else(|| ModuleError::new("can not use content with a dir as dest"));
    if args.dest.ends_with('/') {
        let name = name()?;
        file::make_directories(system, &dest, &args.directory_args())?;
        dest.push(name);
    }
    if is_directory(system, &dest)? {
        dest.push(name()?);
    }
    Ok(dest)
}

fn is_directory(system: &mut dyn System, path: &Path) -> Result<bool> {
    Ok(system.stat_follow(path)?.is_some_and(|stat| stat.kind == FileKind::Directory))
}

impl Args {
    /// The attributes that directories get.
    fn directory_args(&self) -> FileArgs {
        FileArgs { mode: self.directory_mode.clone(), attributes: None, ..self.file.clone() }
    }
}

/// Copies one file to exactly `dest`, with checks and return values.
fn copy_file(system: &mut dyn System, args: &Args, source: &Source, dest: PathBuf) -> Result<Outcome> {
    let src = args.src.as_deref();
    if let Some(expected) = &args.checksum {
        let actual = source.sha1(system)?;
        if !expected.eq_ignore_ascii_case(&actual) {
            return Err(ModuleError::new(
                "Copied file does not match the expected checksum. Transfer failed.",
            )
            .with("checksum", actual)
            .with("expected_checksum", expected.as_str()));
        }
    }
    let outcome = Outcome::default().set("src", src);
    if !args.force && system.stat_follow(&dest)?.is_some() {
        return Ok(outcome.set("dest", files::text_of(&dest)).set("msg", "file already exists"));
    }
    let placed = place(system, args, source, dest)?;
    let checksum = match &source.sha1 {
        Some(known) => known.clone(),
        None => system.digest(&placed.path, Algorithm::Sha1)?,
    };
    let mut outcome = outcome.set("checksum", checksum);
    let md5 = match &source.md5 {
        Some(known) => Some(known.clone()),
        // Few ask for it, and a large file would be read once more for it.
        None if placed.written && source.size <= MD5_LIMIT => {
            system.digest(&placed.path, Algorithm::Md5).ok()
        }
        None => None,
    };
    if let Some(md5) = md5 {
        outcome = outcome.set("md5sum", md5);
    }
    if let Some(backup) = placed.backup {
        outcome = outcome.set("backup_file", backup);
    }
    files::finish(system, outcome, &placed.path, "dest", Some(source.sha256.clone()))
}

/// Up to what size the MD5 of a file that was written is returned, in bytes.
const MD5_LIMIT: u64 = 1 << 20;

struct Placed {
    path: PathBuf,
    /// The content is new.
    written: bool,
    backup: Option<String>,
}

/// Brings content and attributes of `dest` to what is wanted.
fn place(system: &mut dyn System, args: &Args, source: &Source, dest: PathBuf) -> Result<Placed> {
    place_known(system, args, source, dest, None)
}

/// The same where it may be known already whether the content is right.
fn place_known(
    system: &mut dyn System,
    args: &Args,
    source: &Source,
    dest: PathBuf,
    right: Option<bool>,
) -> Result<Placed> {
    let mut right = right;
    let mut path = dest;
    let mut stat = system.stat(&path)?;
    let mut is_link = stat.as_ref().is_some_and(|stat| stat.kind == FileKind::Link);
    if is_link && args.follow {
        path = system.resolve(&path)?;
        stat = system.stat(&path)?;
        is_link = false;
        right = None;
    }
    match &stat {
        Some(stat) if stat.kind == FileKind::Directory => {
            return Err(ModuleError::new(format!("{} is a directory", path.display())));
        }
        Some(_) => {}
        None => {
            let parent = files::parent_of(&path);
            if system.stat_follow(&parent)?.is_none() && system.uncertain().is_none() {
                return Err(ModuleError::new(format!(
                    "Destination directory {} does not exist",
                    parent.display()
                )));
            }
        }
    }
    let right = match right {
        Some(right) => right,
        None => source.is_at(system, &path, stat.as_ref())?,
    };
    if !is_link && right {
        args.file.apply_with(system, &path, true, source.mode)?;
        return Ok(Placed { path, written: false, backup: None });
    }
    let mut file = args.file.clone();
    if source.mode_by_default && file.mode.is_none() {
        file.mode = source.mode.map(Value::from);
    }
    let writing = Writing {
        args: &file,
        backup: args.backup,
        validate: args.validate.as_deref(),
        source_mode: source.mode,
        secret: false,
    };
    let backup = files::put(system, &path, &source.content, &writing)?;
    Ok(Placed { path, written: true, backup })
}

impl Source {
    /// Whether the file at `path` has this content.
    fn is_at(&self, system: &mut dyn System, path: &Path, stat: Option<&Stat>) -> Result<bool> {
        Ok(stat.is_some_and(|stat| stat.kind == FileKind::File && stat.size == self.size)
            && system.digest(path, Algorithm::Sha256)? == self.sha256)
    }

    fn sha1(&self, system: &mut dyn System) -> Result<String> {
        if let Some(known) = &self.sha1 {
            return Ok(known.clone());
        }
        match &self.content {
            Content::File(path) => Ok(system.digest(path, Algorithm::Sha1)?),
            content => {
                let copy = system.scratch()?.join("checksum");
                system.write(&copy, content, &Default::default(), Default::default())?;
                Ok(system.digest(&copy, Algorithm::Sha1)?)
            }
        }
    }

    /// A file of the host itself.
    fn on_host(system: &mut dyn System, path: &Path, stat: &Stat) -> Result<Source> {
        Ok(Source {
            content: Content::File(path.to_path_buf()),
            sha256: system.digest(path, Algorithm::Sha256)?,
            size: stat.size,
            sha1: None,
            md5: None,
            mode: Some(stat.mode),
            mode_by_default: true,
        })
    }
}

/// One path of a tree, relative to its top.
struct Item {
    path: PathBuf,
    what: What,
}

enum What {
    Directory { mode: Option<u32> },
    File(Source),
    Link { target: PathBuf },
}

impl Entry {
    fn to_item(&self) -> Result<Item> {
        let lacks = |what: &str| ModuleError::new(format!("the tree's entry {} lacks its {what}", self.path));
        let path = PathBuf::from(&self.path);
        if path.is_absolute() || path.components().any(|part| part.as_os_str() == "..") {
            return Err(ModuleError::new(format!("the tree's entry {} leads out of it", self.path)));
        }
        let what = match self.kind.as_str() {
            "directory" => What::Directory { mode: None },
            "link" => What::Link { target: self.target.as_ref().ok_or_else(|| lacks("target"))?.into() },
            "file" => {
                let sha256 = self.sha256.clone().ok_or_else(|| lacks("sha256"))?;
                let size = self.size.ok_or_else(|| lacks("size"))?;
                What::File(Source {
                    content: Content::Blob(BlobRef { sha256: sha256.clone(), size }),
                    sha256,
                    size,
                    sha1: self.sha1.clone(),
                    md5: None,
                    mode: bits(self.mode.as_ref())?,
                    mode_by_default: false,
                })
            }
            other => return Err(ModuleError::new(format!("the tree's entry {} is a {other}", self.path))),
        };
        Ok(Item { path, what })
    }
}

/// Copies a tree from the controller: directories first, then files, then links.
fn copy_tree(system: &mut dyn System, args: &Args, items: &[Item]) -> Result<Outcome> {
    let dest = files::path_arg(system, &args.dest)?;
    let files: Vec<&Item> = items.iter().filter(|item| matches!(item.what, What::File(_))).collect();
    let directories = items.iter().any(|item| matches!(item.what, What::Directory { .. }));
    // In a tree, links at the destination are never followed.
    let follow = args.follow && !directories;
    let args = Args { follow, ..args.shallow_copy() };
    file::make_directories(system, &dest, &args.directory_args())?;
    let mut only = None;
    for item in items {
        if matches!(item.what, What::Directory { .. }) {
            place_directory(system, &args.directory_args(), &dest.join(&item.path))?;
        }
    }
    let (right, wanted) =
        if files.len() > 1 { compare(system, &args, &dest, &files)? } else { (vec![], vec![]) };
    system.prefetch(&wanted)?;
    for (number, item) in files.iter().enumerate() {
        let What::File(source) = &item.what else { continue };
        let path = dest.join(&item.path);
        file::make_directories(system, &files::parent_of(&path), &args.directory_args())?;
        if files.len() == 1 {
            only = Some(copy_file(system, &args, source, path)?);
        } else {
            place_and_record(system, &args, source, path, right.get(number).copied())?;
        }
    }
    for item in items {
        if let What::Link { target } = &item.what {
            place_link(system, &args.file, &dest.join(&item.path), target)?;
        }
    }
    if let Some(outcome) = only {
        return Ok(outcome);
    }
    record_whole_directories(system, &dest, items)?;
    let mut text = files::text_of(&dest);
    text.push('/');
    Ok(Outcome::default().set("dest", text).set("src", args.src.as_deref()))
}

/// Records the directories of a tree that hold nothing but the tree: what is found there later beside it was
/// added by somebody else.
fn record_whole_directories(system: &mut dyn System, dest: &Path, items: &[Item]) -> Result<()> {
    let mut names: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
    for item in items {
        let mut path = Path::new(&item.path);
        while let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
            names.entry(dest.join(parent)).or_default().insert(name.to_os_string());
            path = parent;
        }
    }
    for (directory, known) in names {
        let Some(stat) = system.stat(&directory)?.filter(|stat| stat.kind == FileKind::Directory) else {
            continue;
        };
        if system.list(&directory)?.iter().any(|name| !known.contains(name)) {
            continue;
        }
        let mut state = map_of([("mode", crate::system::change::mode_text(stat.mode))]);
        state.extend(map_of([("uid", stat.uid), ("gid", stat.gid)]));
        state.insert("whole".into(), true.into());
        let id = files::text_of(&directory).trim_end_matches('/').to_string();
        system.applied(Applied { kind: "directory".into(), id, state: state.into() });
    }
    Ok(())
}

/// Which of the files are right, and the contents of the others in the order in which they will be written.
fn compare(
    system: &mut dyn System,
    args: &Args,
    dest: &Path,
    files: &[&Item],
) -> Result<(Vec<bool>, Vec<BlobRef>)> {
    let (mut right, mut wanted) = (Vec::with_capacity(files.len()), Vec::new());
    for item in files {
        let What::File(source) = &item.what else { continue };
        let path = dest.join(&item.path);
        let stat = system.stat(&path)?;
        let is_right = source.is_at(system, &path, stat.as_ref())?;
        if let Content::Blob(blob) = &source.content
            && !is_right
            && (args.force || stat.is_none())
        {
            wanted.push(blob.clone());
        }
        right.push(is_right);
    }
    Ok((right, wanted))
}

impl Args {
    fn shallow_copy(&self) -> Args {
        Args {
            src: self.src.clone(),
            dest: self.dest.clone(),
            backup: self.backup,
            force: self.force,
            validate: self.validate.clone(),
            directory_mode: self.directory_mode.clone(),
            remote_src: self.remote_src,
            local_follow: self.local_follow,
            follow: self.follow,
            checksum: self.checksum.clone(),
            blob: None,
            basename: None,
            source_mode: None,
            tree: None,
            file: self.file.clone(),
        }
    }
}

fn place_and_record(
    system: &mut dyn System,
    args: &Args,
    source: &Source,
    path: PathBuf,
    right: Option<bool>,
) -> Result<()> {
    if !args.force && system.stat_follow(&path)?.is_some() {
        return Ok(());
    }
    let placed = place_known(system, args, source, path, right)?;
    let stat = system.stat(&placed.path)?;
    files::record(system, &placed.path, stat.as_ref(), Some(source.sha256.clone()))
}

fn place_directory(system: &mut dyn System, args: &FileArgs, path: &Path) -> Result<()> {
    match system.stat_follow(path)? {
        Some(stat) if stat.kind == FileKind::Directory => args.apply(system, path, true)?,
        Some(stat) => {
            let state = files::state_name(Some(&stat));
            return Err(ModuleError::new(format!("{} already exists as a {state}", path.display())));
        }
        None => file::make_directories(system, path, args)?,
    }
    let stat = system.stat(path)?;
    files::record(system, path, stat.as_ref(), None)
}

fn place_link(system: &mut dyn System, args: &FileArgs, path: &Path, target: &Path) -> Result<()> {
    let stat = system.stat(path)?;
    match stat.as_ref().map(|stat| stat.kind) {
        Some(FileKind::Link) if system.read_link(path)? == target => {}
        Some(FileKind::Directory) => {
            return Err(ModuleError::new(format!(
                "refusing to convert from directory to symlink for {}",
                path.display()
            )));
        }
        _ => system.link(path, target, LinkKind::Symbolic)?,
    }
    args.apply(system, path, false)?;
    let stat = system.stat(path)?;
    files::record(system, path, stat.as_ref(), None)
}

/// Source and destination are both on the host.
fn remote(system: &mut dyn System, args: &Args) -> Result<Outcome> {
    let Some(src_text) = &args.src else { return Err(ModuleError::new("src is required")) };
    let src = files::path_arg(system, src_text)?;
    let Some(stat) = system.stat_follow(&src)? else {
        if let Some(outcome) = files::uncertain(system, &src) {
            return Ok(outcome);
        }
        return Err(ModuleError::new(format!("Source {} not found", src.display())));
    };
    let basename = src.file_name().map(|name| name.to_string_lossy().into_owned());
    match stat.kind {
        FileKind::Directory => remote_directory(system, args, &src, basename.as_deref()),
        FileKind::File => {
            let real = system.resolve(&src)?;
            let source = Source::on_host(system, &real, &stat)?;
            let dest = destination(system, args, basename.as_deref())?;
            copy_file(system, args, &source, dest)
        }
        _ => Err(ModuleError::new(format!("Cannot copy invalid source '{}': not a file", src.display()))),
    }
}

/// Copies a directory of the host: what differs is replaced with the source's permissions; owner and group
/// are set on everything, `mode` on the top alone.
fn remote_directory(
    system: &mut dyn System,
    args: &Args,
    src: &Path,
    basename: Option<&str>,
) -> Result<Outcome> {
    let named = files::path_arg(system, &args.dest)?;
    let contents = args.src.as_deref().is_some_and(|src| src.ends_with('/'));
    let top = match basename {
        Some(name) if !contents => named.join(name),
        _ => named,
    };
    if top.starts_with(src) && top != *src {
        return Err(ModuleError::new(format!(
            "cannot copy {} into itself: {}",
            src.display(),
            top.display()
        )));
    }
    let owners = FileArgs { mode: None, attributes: None, ..args.file.clone() };
    let mut items = Vec::new();
    walk(system, src, Path::new(""), args.local_follow, &mut items, 0)?;
    file::make_directories(system, &files::parent_of(&top), &args.directory_args())?;
    let top_mode = system.stat_follow(src)?.map(|stat| stat.mode);
    copy_remote_directory(system, &owners, &top, top_mode)?;
    let args_inside = Args { file: owners.clone(), follow: false, ..args.shallow_copy() };
    for item in &items {
        let path = top.join(&item.path);
        match &item.what {
            What::Directory { mode } => copy_remote_directory(system, &owners, &path, *mode)?,
            What::File(source) => place_and_record(system, &args_inside, source, path, None)?,
            What::Link { target } => place_link(system, &owners, &path, target)?,
        }
    }
    args.file.apply(system, &top, true)?;
    let outcome = Outcome::default().set("src", args.src.as_deref()).set("checksum", Value::Null);
    files::finish(system, outcome, &top, "dest", None)
}

fn copy_remote_directory(
    system: &mut dyn System,
    owners: &FileArgs,
    path: &Path,
    mode: Option<u32>,
) -> Result<()> {
    let new = system.stat_follow(path)?.is_none();
    let args = FileArgs { mode: mode.filter(|_| new).map(Value::from), ..owners.clone() };
    place_directory(system, &args, path)
}

/// Deepest directory that is entered; more is a loop of links.
const MAX_DEPTH: usize = 200;

fn walk(
    system: &mut dyn System,
    top: &Path,
    relative: &Path,
    follow: bool,
    out: &mut Vec<Item>,
    depth: usize,
) -> Result<()> {
    let directory = top.join(relative);
    if depth > MAX_DEPTH {
        return Err(ModuleError::new(format!("{} is too deep to be copied", directory.display())));
    }
    for name in system.list(&directory)? {
        let path = directory.join(&name);
        let inside = relative.join(&name);
        let stat = if follow { system.stat_follow(&path)? } else { system.stat(&path)? };
        let Some(stat) = stat else {
            return Err(ModuleError::new(format!("{} is a symbolic link to nothing", path.display())));
        };
        let what = match stat.kind {
            FileKind::Directory => What::Directory { mode: Some(stat.mode) },
            FileKind::Link => What::Link { target: system.read_link(&path)? },
            FileKind::File => {
                let real = system.resolve(&path)?;
                What::File(Source::on_host(system, &real, &stat)?)
            }
            _ => {
                return Err(ModuleError::new(format!(
                    "{} is neither file, directory nor link",
                    path.display()
                )));
            }
        };
        let enter = matches!(what, What::Directory { .. });
        out.push(Item { path: inside.clone(), what });
        if enter {
            walk(system, top, &inside, follow, out, depth + 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    #[test]
    fn keeps_its_promises_whatever_was_there() {
        let starts: &[&[&str]] = &[
            &[],
            &["d d 755", "f d/a 600 text"],
            &["f x 640 text"],
            &["f x 640 other", "l l x", "l dangling nowhere"],
            &["d x 700"],
        ];
        let rest =
            ["", r#", "mode": "0640""#, r#", "follow": true"#, r#", "force": false"#, r#", "backup": true"#];
        for start in starts {
            for dest in ["x", "l", "dangling", "d", "d/", "new/", "new/file", "d/a"] {
                for rest in rest {
                    for source in [
                        r#""_blob": "blob:text", "_basename": "a", "_source_mode": "0755""#,
                        r#""_blob": "blob:text""#,
                        r#""src": "@/x", "remote_src": true"#,
                        r#""src": "@/d", "remote_src": true"#,
                        r#""src": "@/d/", "remote_src": true"#,
                        r#""_tree": [{"path": "s", "kind": "directory"},
                            {"path": "s/f", "kind": "file", "_content": "blob:1", "mode": "0700"},
                            {"path": "s/g", "kind": "file", "_content": "blob:2"},
                            {"path": "s/l", "kind": "link", "target": "f"}]"#,
                    ] {
                        contract(&MODULE, start, &format!(r#"{{"dest": "@/{dest}", {source}{rest}}}"#));
                    }
                }
            }
        }
    }

    #[test]
    fn puts_content_where_it_belongs() {
        let blob = r#""_blob": "blob:new""#;
        let named = r#""_blob": "blob:new", "_basename": "n", "_source_mode": 493"#;
        for (start, args, expected) in [
            (&[][..], format!(r#"{{"dest": "@/x", {blob}, "mode": "0600"}}"#), Ok(vec!["f x 600 new"])),
            (&["f x 640 old"], format!(r#"{{"dest": "@/x", {blob}}}"#), Ok(vec!["f x 640 new"])),
            (
                &["f x 640 old"],
                format!(r#"{{"dest": "@/x", {blob}, "force": false}}"#),
                Ok(vec!["f x 640 old"]),
            ),
            (
                &["f x 640 new"],
                format!(r#"{{"dest": "@/x", {blob}, "mode": "u=rwX,go=r"}}"#),
                Ok(vec!["f x 644 new"]),
            ),
            (
                &["d d 755"],
                format!(r#"{{"dest": "@/d", {named}, "mode": "preserve"}}"#),
                Ok(vec!["d d 755", "f d/n 755 new"]),
            ),
            (
                &[],
                format!(r#"{{"dest": "@/a/b/", {named}, "mode": "0600", "directory_mode": "0711"}}"#),
                Ok(vec!["d a 711", "d a/b 711", "f a/b/n 600 new"]),
            ),
            (
                &["d d 755"],
                format!(r#"{{"dest": "@/d", {blob}}}"#),
                Err("can not use content with a dir as dest"),
            ),
            (&[], format!(r#"{{"dest": "@/a/b", {blob}}}"#), Err("Destination directory @/a does not exist")),
            (
                &["f x 644 old", "l l x"],
                format!(r#"{{"dest": "@/l", {blob}, "mode": "0644"}}"#),
                Ok(vec!["f l 644 new", "f x 644 old"]),
            ),
            (
                &["f x 644 old", "l l x"],
                format!(r#"{{"dest": "@/l", {blob}, "follow": true}}"#),
                Ok(vec!["l l x", "f x 644 new"]),
            ),
            (
                &[],
                format!(
                    r#"{{"dest": "@/x", {blob}, "checksum": "c2a6b03f190dfb2b4aa91f8af8d477a9bc3401dc"}}"#
                ),
                Ok(vec!["f x 644 new"]),
            ),
            (
                &[],
                format!(r#"{{"dest": "@/x", {blob}, "checksum": "00"}}"#),
                Err("Copied file does not match the expected checksum. Transfer failed."),
            ),
            (
                &[],
                format!(r#"{{"dest": "@/x", {blob}, "validate": "grep -q new %s"}}"#),
                Ok(vec!["f x 644 new"]),
            ),
            (
                &[],
                format!(r#"{{"dest": "@/x", {blob}, "validate": "sh -c 'echo bad >&2; exit 3' %s"}}"#),
                Err("failed to validate: rc:3 error:bad"),
            ),
            (
                &["d s 750", "f s/a 755 1", "l s/l a"],
                r#"{"src": "@/s", "dest": "@/t", "remote_src": true}"#.into(),
                Ok(vec![
                    "d s 750",
                    "f s/a 755 1",
                    "l s/l a",
                    "d t 755",
                    "d t/s 750",
                    "f t/s/a 755 1",
                    "l t/s/l a",
                ]),
            ),
            (
                &["d s 750", "f s/a 755 1", "d t 700", "f t/a 600 2"],
                r#"{"src": "@/s/", "dest": "@/t", "remote_src": true}"#.into(),
                Ok(vec!["d s 750", "f s/a 755 1", "d t 700", "f t/a 755 1"]),
            ),
            (
                &[],
                r#"{"dest": "@/t", "mode": "preserve", "directory_mode": "0700", "_tree": [
                    {"path": "s", "kind": "directory"},
                    {"path": "s/f", "kind": "file", "_content": "blob:1", "mode": "0750"},
                    {"path": "s/l", "kind": "link", "target": "f"}]}"#
                    .into(),
                Ok(vec!["d t 700", "d t/s 700", "f t/s/f 750 1", "l t/s/l f"]),
            ),
            (
                &[],
                r#"{"dest": "@/t", "_tree": [{"path": "../f", "kind": "file", "_content": "blob:1"}]}"#
                    .into(),
                Err("the tree's entry ../f leads out of it"),
            ),
        ] {
            let verdict = contract(&MODULE, start, &args);
            let got = match &verdict.error {
                Some(error) => Err(error.as_str()),
                None => Ok(verdict.tree.iter().map(String::as_str).collect()),
            };
            assert_eq!(got, expected, "{args} from {start:?}");
        }
    }

    #[test]
    fn returns_what_is_documented() {
        let args = r#"{"dest": "@/x", "_blob": "blob:new", "mode": "0600", "backup": true}"#;
        let verdict = contract(&MODULE, &["f x 644 old"], args);
        assert_eq!(verdict.text("checksum"), "c2a6b03f190dfb2b4aa91f8af8d477a9bc3401dc");
        assert_eq!(verdict.text("mode"), "0600");
        assert_eq!(verdict.text("size"), "3");
        assert_eq!(verdict.text("state"), "file");
        let backup = verdict.text("backup_file");
        assert!(backup.ends_with('~') && backup.contains("/x."), "{backup}");
        assert!(verdict.tree.iter().any(|line| line.ends_with("~ 644 old")), "{:?}", verdict.tree);
    }

    #[test]
    fn a_tree_of_a_thousand_files_is_one_quick_call() {
        let entries: Vec<String> = (0..1000)
            .map(|n| {
                let directory = n % 20;
                format!(r#"{{"path": "d{directory}/f{n}", "kind": "file", "_content": "blob:{n}"}}"#)
            })
            .collect();
        let args = format!(r#"{{"dest": "@/t", "mode": "0644", "_tree": [{}]}}"#, entries.join(","));
        let started = std::time::Instant::now();
        let verdict = contract(&MODULE, &[], &args);
        assert_eq!(verdict.tree.len(), 1021);
        // A dry run, a real run and a run that finds nothing to do; the limit leaves room for slow machines.
        assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
    }
}
