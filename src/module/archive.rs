//! `archive`: packs files of a host.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::module::files::{self, FileArgs, Writing};
use crate::module::regex::{Flags, Pattern, fnmatch};
use crate::module::{Module, ModuleError, Outcome, Param, Type, typed};
use crate::system::{Algorithm, Command, Content, FileKind, System};
use crate::value::Value;

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "community.general.archive",
    aliases: &["ansible.builtin.archive"],
    summary: "Packs files and directories of a host",
    description: "Makes a tar archive (plain, gzip, bzip2, xz) or a zip archive with the host's `tar`, `gzip`, `bzip2`, `xz` and \
        `zip`; one single file is only compressed, unless `force_archive` is true. The archive is made aside and put in \
        place if it differs from the one that is there.",
    example: "- name: Keep yesterday's logs\n  community.general.archive:\n    path: /var/log/app\n    dest: /backup/app-logs.tgz\n    exclusion_patterns: \"*.tmp\"\n",
    params: &[
        Param::new("path", Type::PathList, "What to pack: paths and shell patterns.").required(),
        Param::new(
            "dest",
            Type::Path,
            "The archive; by default beside a single `path`, with the format's extension.",
        ),
        Param::new("format", Type::Str, "Kind of archive: `gz`, `bz2` and `xz` are compressed tar archives.")
            .choices(&["bz2", "gz", "tar", "xz", "zip"])
            .default("gz"),
        Param::new("exclude_path", Type::PathList, "Paths and patterns of `path` that are left out.")
            .default("[]"),
        Param::new("exclusion_patterns", Type::List, "Shell patterns for names inside that are left out."),
        Param::new("force_archive", Type::Bool, "Make an archive even of a single file.").default("false"),
        Param::new("remove", Type::Bool, "Remove what was packed.").default("false"),
    ],
    file_params: true,
    returns: &[
        ("dest", "The archive."),
        ("state", "`absent`, `archive`, `compress` or `incomplete`."),
        ("archived", "Paths that are in it."),
        ("missing", "Paths that are not there."),
        ("arcroot", "The directory that names in it are relative to."),
        ("expanded_paths", "What `path` stands for."),
        ("expanded_exclude_paths", "What `exclude_path` stands for."),
    ],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    path: Vec<String>,
    dest: Option<String>,
    format: String,
    exclude_path: Vec<String>,
    #[serde(default)]
    exclusion_patterns: Vec<String>,
    force_archive: bool,
    remove: bool,
    #[serde(flatten)]
    file: FileArgs,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    let (paths, missing) = expand(system, &args.path)?;
    let (excluded, _) = expand(system, &args.exclude_path)?;
    let roots: Vec<PathBuf> = paths.iter().filter(|path| !excluded.contains(path)).cloned().collect();
    let only = match &roots[..] {
        [only] => system.stat_follow(only)?.map(|stat| stat.kind),
        _ => None,
    };
    let single_file = only == Some(FileKind::File) && !args.force_archive && args.format != "tar";
    let dest = destination(system, &args, &roots, single_file)?;
    let texts = |paths: &[PathBuf]| paths.iter().map(|path| files::text_of(path)).collect::<Vec<_>>();
    let mut outcome = Outcome::default()
        .set("missing", missing.clone())
        .set("expanded_paths", texts(&paths))
        .set("expanded_exclude_paths", texts(&excluded));
    if roots.is_empty() {
        if let Some(stat) = system.stat_follow(&dest)? {
            let state = if stat.kind == FileKind::File { "archive" } else { "absent" };
            args.file.apply(system, &dest, true)?;
            return Ok(files::finish(system, outcome, &dest, "dest", None)?.set("state", state));
        }
        if let Some(uncertain) = files::uncertain(system, &dest) {
            return Ok(uncertain);
        }
        let shown = args.path.join(", ");
        return Err(ModuleError::new(format!("Error, no source paths were found: {shown}")));
    }
    let root = common_root(&roots);
    let mut members = Vec::new();
    for path in &roots {
        gather(system, &Gather::new(&args, &excluded, &dest)?, path, &root, &mut members)?;
    }
    let made = if single_file {
        compress(system, &args, &roots[0])?
    } else if args.format == "zip" {
        zip(system, &root, &members)?
    } else {
        tar(system, &args, &root, &members)?
    };
    let there = system.stat_follow(&dest)?.is_some();
    let same = there && same_content(system, &args, single_file, &dest, &made)?;
    if same {
        args.file.apply(system, &dest, true)?;
    } else {
        files::put(system, &dest, &Content::File(made), &Writing::plain(&args.file))?;
    }
    if args.remove {
        for path in &roots {
            if !dest.starts_with(path) {
                system.remove(path)?;
            }
        }
    }
    let state = match (single_file, missing.is_empty()) {
        (true, _) => "compress",
        (false, true) => "archive",
        (false, false) => "incomplete",
    };
    let archived: Vec<String> = members.iter().map(|member| files::text_of(&root.join(member))).collect();
    outcome =
        outcome.set("arcroot", files::text_of(&root)).set("archived", archived).set("dest_state", state);
    Ok(files::finish(system, outcome, &dest, "dest", None)?.set("state", state))
}

/// The paths that patterns stand for, and those that are not there.
fn expand(system: &mut dyn System, given: &[String]) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for text in given {
        let path = files::path_arg(system, text)?;
        if system.stat(&path)?.is_some() {
            found.push(path);
            continue;
        }
        let before = found.len();
        if files::text_of(&path).contains(['*', '?', '[']) {
            glob(system, &path, &mut found)?;
        }
        if found.len() == before {
            missing.push(text.clone());
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|path| seen.insert(path.clone()));
    Ok((found, missing))
}

/// Expands a shell pattern, part by part.
fn glob(system: &mut dyn System, pattern: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    let mut level = vec![PathBuf::new()];
    for part in pattern.components() {
        let text = part.as_os_str().to_string_lossy().into_owned();
        let mut next = Vec::new();
        if !text.contains(['*', '?', '[']) {
            next.extend(level.into_iter().map(|path| path.join(part)));
            level = next;
            continue;
        }
        let compiled = Pattern::new(&fnmatch(&text), Flags { anchored: true, ..Flags::default() })?;
        for directory in level {
            let place = if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory.clone() };
            let Ok(names) = system.list(&place) else { continue };
            for name in names {
                let shown = name.to_string_lossy().into_owned();
                if shown.starts_with('.') && !text.starts_with('.') {
                    continue;
                }
                if compiled.is_match(&shown)? {
                    next.push(directory.join(name));
                }
            }
        }
        level = next;
    }
    for path in level {
        if system.stat(&path)?.is_some() {
            out.push(path);
        }
    }
    Ok(())
}

fn destination(system: &mut dyn System, args: &Args, roots: &[PathBuf], single: bool) -> Result<PathBuf> {
    if let Some(dest) = &args.dest {
        let dest = files::path_arg(system, dest)?;
        if system.stat_follow(&dest)?.is_some_and(|stat| stat.kind == FileKind::Directory) {
            return Err(ModuleError::new(format!(
                "dest {} is a directory, it must be a file",
                dest.display()
            )));
        }
        return Ok(dest);
    }
    let [only] = roots else {
        return Err(ModuleError::new("Error, must specify \"dest\" when archiving multiple files or trees"));
    };
    let extension = match (args.format.as_str(), single) {
        (format @ ("tar" | "zip"), _) | (format, true) => format.to_string(),
        (format, false) => format!("tar.{format}"),
    };
    Ok(PathBuf::from(format!("{}.{extension}", only.display())))
}

/// The directory that holds all of them.
fn common_root(paths: &[PathBuf]) -> PathBuf {
    let mut root = files::parent_of(&paths[0]);
    for path in paths {
        while !path.starts_with(&root) || *path == root {
            root = files::parent_of(&root);
        }
    }
    root
}

struct Gather<'a> {
    excluded: &'a [PathBuf],
    patterns: Vec<Pattern>,
    dest: &'a Path,
}

impl<'a> Gather<'a> {
    fn new(args: &Args, excluded: &'a [PathBuf], dest: &'a Path) -> Result<Gather<'a>> {
        let flags = Flags { anchored: true, ..Flags::default() };
        let one = |text: &String| Ok(Pattern::new(&fnmatch(text), flags)?);
        let patterns = args.exclusion_patterns.iter().map(one).collect::<Result<_>>()?;
        Ok(Gather { excluded, patterns, dest })
    }
}

/// Everything below a path that is to be packed, relative to the root; sorted.
fn gather(
    system: &mut dyn System,
    how: &Gather<'_>,
    path: &Path,
    root: &Path,
    out: &mut Vec<PathBuf>,
) -> Result<()> {
    let relative = path.strip_prefix(root).unwrap_or(path).to_path_buf();
    let text = files::text_of(&relative);
    if path == how.dest || how.excluded.iter().any(|excluded| path.starts_with(excluded)) {
        return Ok(());
    }
    for pattern in &how.patterns {
        if pattern.is_match(&text)? {
            return Ok(());
        }
    }
    let Some(stat) = system.stat(path)? else { return Ok(()) };
    out.push(relative);
    if stat.kind == FileKind::Directory {
        for name in system.list(path)? {
            gather(system, how, &path.join(name), root, out)?;
        }
    }
    Ok(())
}

/// Runs a command that packs into the scratch directory.
fn pack(system: &mut dyn System, command: &Command) -> Result<()> {
    let Some(output) = files::try_query(system, command)? else {
        let program =
            command.argv.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
        return Err(ModuleError::new(format!("{program} is needed on the host to make the archive")));
    };
    if output.success() {
        Ok(())
    } else {
        Err(ModuleError::command("the archive can't be made", command, &output))
    }
}

fn program(format: &str) -> &'static str {
    match format {
        "bz2" => "bzip2",
        "xz" => "xz",
        _ => "gzip",
    }
}

fn compress(system: &mut dyn System, args: &Args, path: &Path) -> Result<PathBuf> {
    let scratch = system.scratch()?;
    if args.format == "zip" {
        let root = files::parent_of(path);
        let name = path.strip_prefix(&root).unwrap_or(path).to_path_buf();
        return zip(system, &root, &[name]);
    }
    let copy = scratch.join("packed");
    system.write(&copy, &Content::File(path.to_path_buf()), &Default::default(), Default::default())?;
    // No name and time in the head: the same content gives the same file.
    let quiet = if args.format == "gz" { "-nf" } else { "-f" };
    let command = Command::new([OsString::from(program(&args.format)), quiet.into(), copy.into_os_string()]);
    pack(system, &command)?;
    Ok(scratch.join(format!("packed.{}", args.format)))
}

/// The names, each ended by a zero, for a program that reads them.
fn name_list(members: &[PathBuf]) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    members.iter().flat_map(|member| member.as_os_str().as_bytes().iter().copied().chain([0])).collect()
}

fn tar(system: &mut dyn System, args: &Args, root: &Path, members: &[PathBuf]) -> Result<PathBuf> {
    let file = system.scratch()?.join("packed.tar");
    let mut command = Command::new(["tar", "--create", "--no-recursion", "-f"]).c_locale();
    // The directory counts only for names that come after it.
    command.argv.extend([file.clone().into(), "-C".into(), root.as_os_str().to_os_string()]);
    command.argv.extend(["--null".into(), "--files-from=-".into()]);
    command.stdin = Some(name_list(members));
    pack(system, &command)?;
    if args.format == "tar" {
        return Ok(file);
    }
    let quiet = if args.format == "gz" { "-nf" } else { "-f" };
    pack(
        system,
        &Command::new([OsString::from(program(&args.format)), quiet.into(), file.clone().into_os_string()]),
    )?;
    Ok(PathBuf::from(format!("{}.{}", file.display(), args.format)))
}

fn zip(system: &mut dyn System, root: &Path, members: &[PathBuf]) -> Result<PathBuf> {
    let file = system.scratch()?.join("packed.zip");
    if system.stat(&file)?.is_some() {
        system.remove(&file)?;
    }
    let mut command = Command::new(["zip", "-q", "-X", "-y"]);
    command.argv.extend([file.clone().into_os_string(), "-@".into()]);
    command.cwd = Some(root.to_path_buf());
    let lines: Vec<String> = members.iter().map(|member| files::text_of(member)).collect();
    command.stdin = Some((lines.join("\n") + "\n").into_bytes());
    pack(system, &command)?;
    Ok(file)
}

/// Whether two archives hold the same.
fn same_content(
    system: &mut dyn System,
    args: &Args,
    single: bool,
    one: &Path,
    other: &Path,
) -> Result<bool> {
    let same_bytes = system.digest(one, Algorithm::Sha256)? == system.digest(other, Algorithm::Sha256)?;
    if same_bytes || single && args.format != "zip" {
        return Ok(same_bytes);
    }
    let mut lists = Vec::new();
    for path in [one, other] {
        let mut command = if args.format == "zip" {
            Command::new(["unzip", "-v"])
        } else {
            Command::new(["tar", "--list", "--verbose", "--full-time", "-f"])
        }
        .c_locale();
        command.argv.push(path.as_os_str().to_os_string());
        let Some(output) = files::try_query(system, &command)?.filter(|output| output.success()) else {
            return Ok(false);
        };
        // The first line of unzip's list names the archive.
        let lines: BTreeSet<String> = output
            .stdout_text()
            .lines()
            .filter(|line| !line.starts_with("Archive:"))
            .map(str::to_string)
            .collect();
        lists.push(lines);
    }
    Ok(lists[0] == lists[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    #[test]
    fn packs_and_knows_when_not_to() {
        let start =
            &["d d 755", "f d/ab 644 one", "f d/c.tmp 644 x", "d d/s 755", "f d/s/e 600 two", "f z 644 z"];
        for (args, state, archived) in [
            (r#""path": "@/d", "dest": "@/o.tgz""#, "archive", "d,d/ab,d/c.tmp,d/s,d/s/e"),
            (
                r#""path": "@/d", "format": "tar", "exclusion_patterns": "*.tmp""#,
                "archive",
                "d,d/ab,d/s,d/s/e",
            ),
            (r#""path": ["@/d/*"], "dest": "@/o.tar.gz", "exclude_path": "@/d/s""#, "archive", "ab,c.tmp"),
            (
                r#""path": ["@/z", "@/none"], "dest": "@/o.gz", "force_archive": true, "mode": "0600""#,
                "incomplete",
                "z",
            ),
            (r#""path": "@/z""#, "compress", "z"),
        ] {
            let verdict = contract(&MODULE, start, &format!("{{{args}}}"));
            assert_eq!(verdict.error, None, "{args}");
            assert_eq!(verdict.text("state"), state, "{args}");
            let root = verdict.text("arcroot") + "/";
            let names: Vec<String> = verdict
                .outcome
                .values
                .get("archived")
                .and_then(Value::as_list)
                .expect("a list")
                .iter()
                .map(|name| name.to_text().replace(&root, ""))
                .collect();
            assert_eq!(names.join(","), archived, "{args}");
        }
        let verdict = contract(&MODULE, &[], r#"{"path": "@/none", "dest": "@/x"}"#);
        assert!(verdict.error.expect("fails").starts_with("Error, no source paths were found"));
    }
}
