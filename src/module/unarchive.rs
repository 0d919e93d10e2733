//! `unarchive`: unpacks an archive on a host.
//!
//! The host's `tar` and `unzip` unpack. Whether that is needed is found out first: by `tar --diff`, and for
//! zip from the archive's own directory, which is read here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::module::copy::Blob;
use crate::module::files::{self, FileArgs};
use crate::module::get_url;
use crate::module::http::Request;
use crate::module::regex::{Flags, Pattern, fnmatch};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Type, typed};
use crate::system::{Attributes, Command, Done, Effect, FileKind, Intent, System, WriteOptions};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.unarchive",
    summary: "Unpacks an archive on a host",
    description: "Takes tar archives (plain, gzip, bzip2, xz, zstd), for which the host needs GNU tar, and zip archives, for \
        which it needs `unzip`. The archive comes from the controller, or with `remote_src: true` from the host or from an \
        address. It is unpacked only if something of it is missing or differs.",
    example: "- name: The application\n  ansible.builtin.unarchive:\n    src: app-1.2.tar.gz\n    dest: /opt\n    owner: app\n    creates: /opt/app-1.2\n- name: Straight from the web\n  ansible.builtin.unarchive:\n    src: https://example.org/tool.zip\n    dest: /usr/local/bin\n    remote_src: true\n",
    params: &[
        Param::new(
            "src",
            Type::Path,
            "The archive: on the controller, or with `remote_src` a path or address.",
        )
        .required(),
        Param::new("dest", Type::Path, "The directory to unpack in; it must be there.").required(),
        Param::new("remote_src", Type::Bool, "The archive is on the host, or at an address.")
            .default("false"),
        Param::new("copy", Type::Bool, "The opposite of `remote_src`.").default("true"),
        Param::new("creates", Type::Path, "If this is there, do nothing."),
        Param::new("exclude", Type::List, "What not to unpack.").default("[]"),
        Param::new("include", Type::List, "What alone to unpack.").default("[]"),
        Param::new("keep_newer", Type::Bool, "Leave files alone that are newer than those of the archive.")
            .default("false"),
        Param::new("extra_opts", Type::List, "More options for `tar` or `unzip`.").default("[]"),
        Param::new("list_files", Type::Bool, "Return the names of everything in the archive.")
            .default("false"),
        Param::new("validate_certs", Type::Bool, "The certificate of the server must be valid.")
            .default("true"),
        Param::new("decrypt", Type::Bool, "Decrypt the archive on the controller if it is vaulted.")
            .default("true"),
        Param::new("io_buffer_size", Type::Int, "Has no effect: files are read in chunks of their own.")
            .default("65536"),
        Param::new("_blob", Type::Dict, ""),
    ],
    file_params: true,
    rules: &[Rule::MutuallyExclusive(&["include", "exclude"])],
    returns: &[
        ("dest", "The directory."),
        ("src", "The archive."),
        ("handler", "Kind of archive: `TgzArchive`, `TarArchive`, `ZipArchive`, …"),
        ("files", "Names of everything in the archive, with `list_files`."),
    ],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    src: String,
    dest: String,
    remote_src: bool,
    copy: bool,
    creates: Option<String>,
    exclude: Vec<String>,
    include: Vec<String>,
    keep_newer: bool,
    extra_opts: Vec<String>,
    list_files: bool,
    validate_certs: bool,
    #[serde(rename = "_blob")]
    blob: Option<Blob>,
    #[serde(flatten)]
    file: FileArgs,
}

/// Kinds of archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Zip,
    Tar,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Kind {
    fn of(head: &[u8]) -> Kind {
        match head {
            [b'P', b'K', 3 | 5 | 7, ..] => Kind::Zip,
            [0x1f, 0x8b, ..] => Kind::Gzip,
            [b'B', b'Z', b'h', ..] => Kind::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Kind::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Kind::Zstd,
            _ => Kind::Tar,
        }
    }

    /// The name that users of the module know.
    fn handler(self) -> &'static str {
        match self {
            Kind::Zip => "ZipArchive",
            Kind::Tar => "TarArchive",
            Kind::Gzip => "TgzArchive",
            Kind::Bzip2 => "TarBzipArchive",
            Kind::Xz => "TarXzArchive",
            Kind::Zstd => "TarZstdArchive",
        }
    }

    /// Tar's option.
    fn option(self) -> Option<&'static str> {
        match self {
            Kind::Gzip => Some("-z"),
            Kind::Bzip2 => Some("-j"),
            Kind::Xz => Some("-J"),
            Kind::Zstd => Some("--use-compress-program=zstd"),
            Kind::Tar | Kind::Zip => None,
        }
    }
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    if let Some(creates) = &args.creates {
        let path = files::path_arg(system, creates)?;
        if system.stat_follow(&path)?.is_some() {
            let message = format!("skipped, since {} exists", path.display());
            return Ok(
                Outcome { skipped: true, changed: Some(false), ..Outcome::default() }.set("msg", message)
            );
        }
    }
    let dest = files::path_arg(system, &args.dest)?;
    match system.stat_follow(&dest)? {
        Some(stat) if stat.kind == FileKind::Directory => {}
        other => {
            if other.is_none()
                && let Some(outcome) = files::uncertain(system, &dest)
            {
                return Ok(outcome);
            }
            return Err(ModuleError::new(format!("Destination '{}' is not a directory", args.dest)));
        }
    }
    let Some(src) = source(system, &args)? else {
        // In a dry run, an archive that an earlier task would bring can't be looked into.
        return assumed(system, &args, &dest);
    };
    let kind = Kind::of(&system.read_at(&src, 0, 8)?);
    let archive = if kind == Kind::Zip {
        zip(system, &args, &src, &dest)?
    } else {
        tar(system, &args, kind, &src, &dest)?
    };
    let outcome = Outcome::default()
        .set("src", args.src.as_str())
        .set("dest", files::text_of(&dest))
        .set("handler", kind.handler());
    if archive.differs {
        unpack(system, &archive, &src, &dest).map_err(|error| error.with("handler", kind.handler()))?;
    }
    for (name, _) in &archive.members {
        args.file.apply(system, &dest.join(name.trim_end_matches('/')), false)?;
    }
    let tops: BTreeSet<&str> = archive
        .members
        .iter()
        .filter_map(|(name, _)| name.split_once('/'))
        .map(|(top, _)| top)
        .filter(|top| !matches!(*top, "" | "." | ".."))
        .collect();
    for top in tops {
        args.file.apply(system, &dest.join(top), false)?;
    }
    let mut outcome = outcome;
    if args.list_files {
        let names: Vec<&str> = archive.members.iter().map(|(name, _)| name.as_str()).collect();
        outcome = outcome.set("files", names);
    }
    if let Some(stat) = system.stat(&dest)? {
        outcome.values.extend(files::common_values(system, &dest, &stat)?);
    }
    Ok(outcome)
}

/// The archive as a file that the host's programs can read; `None` if a dry run can't know it.
fn source(system: &mut dyn System, args: &Args) -> Result<Option<PathBuf>> {
    if let Some(blob) = &args.blob {
        let path = system.scratch()?.join("archive");
        let private = Attributes { mode: Some(0o600), ..Attributes::default() };
        system.write(&path, &blob.content(), &private, WriteOptions::default())?;
        return Ok(Some(path));
    }
    if !args.remote_src && args.copy {
        return Err(ModuleError::new(format!("Source '{}' failed to transfer", args.src)));
    }
    if args.src.contains("://") {
        let request = Request {
            validate_certs: args.validate_certs,
            agent: "ansible-httpget".into(),
            decompress: false,
            ..Request::get(&args.src)
        };
        let wrong = |error: ModuleError| {
            ModuleError::new(format!("Failure downloading {}, {}", args.src, error.message))
        };
        return Ok(Some(get_url::download(system, &request).map_err(wrong)?.file));
    }
    let path = files::path_arg(system, &args.src)?;
    let Some(stat) = system.stat_follow(&path)? else {
        if system.uncertain().is_some() {
            return Ok(None);
        }
        return Err(ModuleError::new(format!("Source '{}' does not exist", args.src)));
    };
    // What an earlier task of a dry run would put there exists for us, not for the host's programs.
    let seen = system.query(&Command::new(["test", "-e", &files::text_of(&path)]))?;
    if seen.success() {
        if stat.size == 0 {
            return Err(ModuleError::new(format!("Invalid archive '{}', the file is 0 bytes", args.src)));
        }
        return Ok(Some(path));
    }
    let Ok(bytes) = system.read(&path) else { return Ok(None) };
    Ok(Some(system.spool("archive", &mut bytes.as_slice())?))
}

fn assumed(system: &mut dyn System, args: &Args, dest: &Path) -> Result<Outcome> {
    let intent = Intent {
        kind: "archive",
        id: files::text_of(dest),
        after: map_of([("archive", args.src.as_str())]).into(),
        effects: vec![Effect::Anything],
        ..Intent::default()
    };
    system.perform(intent, &mut || Ok(()))?;
    Ok(Outcome::default()
        .set("src", args.src.as_str())
        .set("dest", files::text_of(dest))
        .set("msg", "the archive is not there yet"))
}

/// What is in an archive and how to get it out.
struct Archive {
    /// Names, of directories with a slash at the end, and kinds.
    members: Vec<(String, FileKind)>,
    differs: bool,
    command: Command,
}

fn unpack(system: &mut dyn System, archive: &Archive, src: &Path, dest: &Path) -> Result<()> {
    let mut effects = Vec::new();
    for (name, kind) in &archive.members {
        let path = dest.join(name.trim_end_matches('/'));
        // What is there already keeps what is known of it.
        if system.stat(&path)?.is_none() {
            effects.push(Effect::Path(path, *kind));
        }
    }
    let intent = Intent {
        kind: "archive",
        id: files::text_of(dest),
        after: map_of([("archive", files::text_of(src))]).into(),
        effects,
        ..Intent::default()
    };
    match system.change(&archive.command, intent)? {
        Done::Recorded => Ok(()),
        Done::Made(output) if output.success() => Ok(()),
        Done::Made(output) => {
            let what = format!("failed to unpack {} to {}", src.display(), dest.display());
            Err(ModuleError::command(what, &archive.command, &output))
        }
    }
}

fn cannot(src: &Path, reason: &str) -> ModuleError {
    ModuleError::new(format!(
        "Failed to find handler for \"{}\". Make sure the required command to extract the file is installed.\n{reason}",
        src.display()
    ))
}

/// How `tar --diff` says that something has to be unpacked.
const TAR_DIFFERENCES: [&str; 9] = [
    ": Mod time differs",
    ": Warning: Cannot stat: No such file or directory",
    ": Invalid owner",
    ": Invalid group",
    ": Symlink differs",
    ": Contents differ",
    ": Size differs",
    ": File type differs",
    ": Not linked to",
];

fn tar(system: &mut dyn System, args: &Args, kind: Kind, src: &Path, dest: &Path) -> Result<Archive> {
    let program = {
        let version = files::try_query(system, &Command::new(["gtar", "--version"]).c_locale())?;
        if version.is_some_and(|output| output.success()) { "gtar" } else { "tar" }
    };
    let version = files::try_query(system, &Command::new([program, "--version"]).c_locale())?
        .ok_or_else(|| cannot(src, "Unable to find required 'gtar' or 'tar' binary in the path"))?;
    if !version.stdout_text().contains("GNU tar") {
        return Err(cannot(src, "GNU tar required; install the package `tar`"));
    }
    let base = |action: &str, place: &Path| {
        let mut command = Command::new([program, action]).c_locale();
        command.argv.extend(["-C".into(), place.as_os_str().to_os_string()]);
        command.argv.extend(kind.option().map(Into::into));
        if !args.extra_opts.is_empty() {
            command.argv.push("--show-transformed-names".into());
            command.argv.extend(args.extra_opts.iter().map(Into::into));
        }
        command
    };
    let finish = |mut command: Command| {
        let excludes = args.exclude.iter().map(|name| format!("--exclude={}", name.trim_end_matches('/')));
        command.argv.extend(excludes.map(Into::into));
        command.argv.extend(["-f".into(), src.as_os_str().to_os_string()]);
        command.argv.extend(args.include.iter().map(Into::into));
        command
    };
    let list = finish(base("--list", Path::new("/")));
    let output = system.query(&list)?;
    if !output.success() {
        let reason = format!(
            "Command \"{program}\" could not handle archive: Unable to list files in the archive: {}",
            output.stderr_text().trim()
        );
        return Err(cannot(src, &reason));
    }
    let names: Vec<String> = output
        .stdout_text()
        .lines()
        .map(tar_name)
        .map(|name| name.trim_start_matches('/').to_string())
        .filter(|name| !name.is_empty())
        .collect();
    if names.is_empty() {
        let reason = format!(
            "Command \"{program}\" found no files in archive. Empty archive files are not supported."
        );
        return Err(cannot(src, &reason));
    }
    let mut compare = base("--diff", dest);
    let mut extract = base("--extract", dest);
    if args.keep_newer {
        extract.argv.push("--keep-newer-files".into());
        compare.argv.push("--keep-newer-files".into());
    }
    compare = finish(compare);
    extract = finish(extract);
    let differs = match system.query(&compare) {
        Ok(output) => {
            let root = system.whoami()?.uid == 0;
            let said = output.stdout_text() + &output.stderr_text();
            said.lines().any(|line| tar_differs(line, args, root))
        }
        Err(error) => return Err(error.into()),
    };
    let mut members: Vec<(String, FileKind)> = names
        .into_iter()
        .map(|name| {
            let kind = if name.ends_with('/') { FileKind::Directory } else { FileKind::File };
            (name, kind)
        })
        .collect();
    if differs {
        let mut verbose = list;
        verbose.argv.insert(2, "--verbose".into());
        let output = system.query(&verbose)?;
        for ((_, kind), line) in members.iter_mut().zip(output.stdout_text().lines()) {
            if line.starts_with('l') {
                *kind = FileKind::Link;
            }
        }
    }
    Ok(Archive { members, differs, command: extract })
}

/// Whether a line of `tar --diff` is a reason to unpack.
fn tar_differs(line: &str, args: &Args, root: bool) -> bool {
    if line.ends_with(": : Warning: Cannot stat: No such file or directory") {
        return false;
    }
    TAR_DIFFERENCES.iter().any(|difference| line.contains(difference))
        || root && args.file.owner.is_none() && line.contains(": Uid differs")
        || root && args.file.group.is_none() && line.contains(": Gid differs")
        || args.file.mode.is_none() && line.contains(": Mode differs")
        // The directory itself is not there (for the host's programs): a dry run made it.
        || line.contains("Cannot open: No such file or directory")
}

/// A name as `tar --list` writes it, with its escapes undone.
fn tar_name(line: &str) -> String {
    let bytes = line.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (byte, length) = match rest {
            [b'\\', b'n', ..] => (b'\n', 2),
            [b'\\', b't', ..] => (b'\t', 2),
            [b'\\', b'r', ..] => (b'\r', 2),
            [b'\\', b'\\', ..] => (b'\\', 2),
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                ((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'), 4)
            }
            [byte, ..] => (*byte, 1),
            [] => break,
        };
        out.push(byte);
        at += length;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// One entry of a zip archive's directory.
#[derive(Debug, PartialEq)]
struct Member {
    name: String,
    crc: u32,
    size: u64,
    /// Kind and permissions, where the archive was made on Unix.
    mode: Option<u32>,
    /// When it was changed, as if local times were those of UTC.
    local_time: i64,
}

impl Member {
    fn kind(&self) -> FileKind {
        match self.mode.map(|mode| mode & 0o170_000) {
            _ if self.name.ends_with('/') => FileKind::Directory,
            Some(0o120_000) => FileKind::Link,
            _ => FileKind::File,
        }
    }
}

fn zip(system: &mut dyn System, args: &Args, src: &Path, dest: &Path) -> Result<Archive> {
    let members = zip_directory(system, src)?;
    if files::try_query(system, &Command::new(["unzip", "-v"]))?.is_none() {
        return Err(cannot(src, "Unable to find required 'unzip' binary in the path."));
    }
    let compile = |patterns: &[String]| -> Result<Vec<Pattern>> {
        let flags = Flags { anchored: true, ..Flags::default() };
        patterns.iter().map(|text| Ok(Pattern::new(&fnmatch(text), flags)?)).collect()
    };
    let (include, exclude) = (compile(&args.include)?, compile(&args.exclude)?);
    let any = |patterns: &[Pattern], name: &str| -> Result<bool> {
        for pattern in patterns {
            if pattern.is_match(name)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let mut wanted = Vec::new();
    let mut differs = false;
    for member in &members {
        if any(&exclude, &member.name)? || !include.is_empty() && !any(&include, &member.name)? {
            continue;
        }
        wanted.push((member.name.clone(), member.kind()));
        differs = differs || member_differs(system, args, member, dest)?;
    }
    let mut command = Command::new(["unzip", "-o"]);
    if args.keep_newer {
        command.argv.push("-u".into());
    }
    command.argv.extend(args.extra_opts.iter().map(Into::into));
    command.argv.push(src.as_os_str().to_os_string());
    command.argv.extend(args.include.iter().map(Into::into));
    if !args.exclude.is_empty() {
        command.argv.push("-x".into());
        command.argv.extend(args.exclude.iter().map(Into::into));
    }
    command.argv.extend(["-d".into(), dest.as_os_str().to_os_string()]);
    Ok(Archive { members: wanted, differs, command })
}

/// Whether a member is missing at the host or is not what the archive has.
fn member_differs(system: &mut dyn System, args: &Args, member: &Member, dest: &Path) -> Result<bool> {
    let path = dest.join(member.name.trim_end_matches('/'));
    let Some(stat) = system.stat(&path)? else { return Ok(true) };
    let kind = member.kind();
    if stat.kind != kind {
        return Ok(true);
    }
    if let Some(mode) = member.mode
        && args.file.mode.is_none()
        // Of a directory that is there, unzip changes nothing.
        && kind == FileKind::File
        && stat.mode & 0o777 != mode & 0o777
    {
        return Ok(true);
    }
    if kind != FileKind::File {
        return Ok(false);
    }
    if stat.size == member.size && crc_of(system, &path)? == member.crc {
        return Ok(false);
    }
    if args.keep_newer {
        let output = system.query(&Command::new(["date", "+%z"]))?;
        #[expect(clippy::cast_precision_loss, reason = "a time in seconds")]
        let there = (member.local_time - zone_offset(output.stdout_text().trim())) as f64;
        return Ok(there > stat.mtime);
    }
    Ok(true)
}

/// `+0130` as a number of seconds.
fn zone_offset(text: &str) -> i64 {
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits: i64 = text.trim_start_matches(['+', '-']).parse().unwrap_or(0);
    sign * (digits / 100 * 3600 + digits % 100 * 60)
}

/// Largest directory of a zip archive that is read, in bytes.
const MAX_DIRECTORY: u64 = 256 << 20;

/// Everything in a zip archive, from the directory at its end.
fn zip_directory(system: &mut dyn System, src: &Path) -> Result<Vec<Member>> {
    let broken = || cannot(src, "the zip archive's directory can't be read");
    let size = system.stat_follow(src)?.map_or(0, |stat| stat.size);
    let tail_length = size.min(22 + 65_535 + 20);
    let start = size - tail_length;
    let tail = system.read_at(src, start, usize::try_from(tail_length).unwrap_or(0))?;
    let end = (0..=tail.len().saturating_sub(22))
        .rev()
        .find(|at| tail[*at..].starts_with(b"PK\x05\x06"))
        .ok_or_else(broken)?;
    let record = &tail[end..];
    let mut count = u64::from(le(record, 10, 2).ok_or_else(broken)?);
    let mut length = u64::from(le(record, 12, 4).ok_or_else(broken)?);
    let mut offset = u64::from(le(record, 16, 4).ok_or_else(broken)?);
    if (count == 0xffff || offset == 0xffff_ffff || length == 0xffff_ffff)
        && end >= 20
        && tail[end - 20..].starts_with(b"PK\x06\x07")
    {
        let at = le64(&tail[end - 20..], 8).ok_or_else(broken)?;
        let record = system.read_at(src, at, 56)?;
        count = le64(&record, 32).ok_or_else(broken)?;
        length = le64(&record, 40).ok_or_else(broken)?;
        offset = le64(&record, 48).ok_or_else(broken)?;
    }
    if length > MAX_DIRECTORY || length > size {
        return Err(broken());
    }
    let bytes = system.read_at(src, offset, usize::try_from(length).map_err(|_| broken())?)?;
    let mut members = Vec::new();
    let mut rest = &bytes[..];
    for _ in 0..count {
        let (member, next) = zip_member(rest).ok_or_else(broken)?;
        members.push(member);
        rest = next;
    }
    Ok(members)
}

fn le(bytes: &[u8], at: usize, length: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + length)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(le(bytes, at, 4)?) | u64::from(le(bytes, at + 4, 4)?) << 32)
}

/// The first entry of a directory, and what follows it.
fn zip_member(bytes: &[u8]) -> Option<(Member, &[u8])> {
    if !bytes.starts_with(b"PK\x01\x02") {
        return None;
    }
    let half = |at| le(bytes, at, 2);
    let length = |at| half(at).and_then(|value| usize::try_from(value).ok());
    let (name_length, extra_length, comment_length) = (length(28)?, length(30)?, length(32)?);
    let name = bytes.get(46..46 + name_length)?;
    let mut extra = bytes.get(46 + name_length..46 + name_length + extra_length)?;
    let mut size = u64::from(le(bytes, 24, 4)?);
    while let (Some(id), Some(length)) = (le(extra, 0, 2), le(extra, 2, 2)) {
        if id == 1 && size == 0xffff_ffff {
            size = le64(extra, 4)?;
        }
        extra = extra.get(4 + usize::try_from(length).ok()?..)?;
    }
    // The upper byte of "made by" is the system: 3 is Unix, 19 is macOS.
    let unix = matches!(half(4)? >> 8, 3 | 19);
    let (time, date) = (i64::from(half(12)?), i64::from(half(14)?));
    let days = files::days(1980 + (date >> 9), (date >> 5 & 15).max(1), (date & 31).max(1));
    let member = Member {
        name: String::from_utf8_lossy(name).into_owned(),
        crc: le(bytes, 16, 4)?,
        size,
        mode: Some(le(bytes, 38, 4)? >> 16).filter(|mode| unix && *mode != 0),
        local_time: days * 86_400 + (time >> 11) * 3600 + (time >> 5 & 63) * 60 + (time & 31) * 2,
    };
    Some((member, bytes.get(46 + name_length + extra_length + comment_length..)?))
}

/// How much of a file is read at once.
const CHUNK: usize = 1 << 20;

fn crc_of(system: &mut dyn System, path: &Path) -> Result<u32> {
    let mut crc = flate2::Crc::new();
    let mut offset = 0;
    loop {
        let bytes = system.read_at(path, offset, CHUNK)?;
        if bytes.is_empty() {
            return Ok(crc.sum());
        }
        offset += bytes.len() as u64;
        crc.update(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    /// Makes an archive of a small tree beside the test and hands over its path.
    fn archive(name: &str, command: &str) -> (tempfile::TempDir, Option<String>) {
        let place = tempfile::tempdir().expect("a directory");
        let script = format!(
            "umask 022; mkdir -p app/bin && printf one > 'app/a b' && printf two > app/bin/run && \
             chmod 755 app/bin/run && ln -s 'a b' app/link && {command}"
        );
        let done = std::process::Command::new("sh")
            .args(["-ec", &script])
            .current_dir(place.path())
            .output()
            .expect("a shell");
        let path = place.path().join(name).display().to_string();
        (place, done.status.success().then_some(path))
    }

    #[test]
    fn unpacks_every_kind_and_knows_when_not_to() {
        for (name, command, handler) in [
            ("x.tar", "tar cf x.tar app", "TarArchive"),
            ("x.tgz", "tar czf x.tgz app", "TgzArchive"),
            ("x.tar.bz2", "tar cjf x.tar.bz2 app", "TarBzipArchive"),
            ("x.tar.xz", "tar cJf x.tar.xz app", "TarXzArchive"),
            ("x.tar.zst", "tar --zstd -cf x.tar.zst app", "TarZstdArchive"),
            ("x.zip", "zip -qry x.zip app", "ZipArchive"),
        ] {
            // A kind whose program is not installed here can't be made.
            let (_place, Some(src)) = archive(name, command) else { continue };
            let whole = [
                "d app 755",
                "f app/a b 644 one",
                "d app/bin 755",
                "f app/bin/run 755 two",
                "l app/link a b",
            ];
            let run = |start: &[&str], more: &str| {
                contract(
                    &MODULE,
                    start,
                    &format!(r#"{{"src": "{src}", "dest": "@", "remote_src": true{more}}}"#),
                )
            };
            let verdict = run(&[], "");
            assert_eq!(verdict.error, None, "{name}");
            assert_eq!(verdict.tree, whole, "{name}");
            assert_eq!(verdict.text("handler"), handler);
            let verdict =
                run(&["d app 755", "f app/a_b 600 mine", "d app/bin 700"], r#", "list_files": true"#);
            assert!(verdict.tree.contains(&"f app/a_b 600 mine".to_string()), "{name}");
            assert!(verdict.text("files").contains("app/bin/run"), "{name}: {}", verdict.text("files"));
            let verdict = run(&[], r#", "mode": "u=rwX,go=""#);
            assert_eq!(verdict.error, None, "{name}");
            assert!(
                verdict.tree.contains(&"f app/bin/run 700 two".to_string()),
                "{name}: {:?}",
                verdict.tree
            );
            let verdict = run(&[], r#", "exclude": ["app/bin/*", "app/bin"]"#);
            assert!(!verdict.tree.iter().any(|line| line.contains("run")), "{name}: {:?}", verdict.tree);
            let verdict = run(&["f done 644 "], r#", "creates": "@/done""#);
            assert!(!verdict.changed && verdict.outcome.skipped, "{name}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (start, args, expected) in [
            (
                &["f x 644 "][..],
                r#"{"src": "@/x", "dest": "@/none", "remote_src": true}"#,
                "Destination '@/none' is not a directory",
            ),
            (&[], r#"{"src": "@/x", "dest": "@", "remote_src": true}"#, "Source '@/x' does not exist"),
            (
                &["f x 644 "],
                r#"{"src": "@/x", "dest": "@", "remote_src": true}"#,
                "Invalid archive '@/x', the file is 0 bytes",
            ),
        ] {
            assert_eq!(contract(&MODULE, start, args).error.as_deref(), Some(expected), "{args}");
        }
        let verdict =
            contract(&MODULE, &["f x 644 text"], r#"{"src": "@/x", "dest": "@", "remote_src": true}"#);
        assert!(verdict.error.expect("fails").starts_with("Failed to find handler for \"@/x\""));
    }

    #[test]
    fn names_and_times_are_read() {
        assert_eq!(tar_name(r"a\tb\\\303\274"), "a\tb\\ü");
        assert_eq!(zone_offset("-0330"), -12_600);
    }
}
