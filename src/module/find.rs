//! `find`: files by name, age, size, content and more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use crate::module::files::{self, Mode};
use crate::module::regex::{Coding, Flags, Pattern, fnmatch};
use crate::module::stat::{ALGORITHMS, algorithm, values};
use crate::module::{Module, ModuleError, Outcome, Param, Type, host, typed};
use crate::system::{Command, FileKind, Output, Stat, System};
use crate::value::{Map, Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.find",
    summary: "Lists files of a host by name, age, size or content",
    description: "Looks through directories and returns what matches all criteria. It changes nothing. Names that start with \
        a dot are left out unless `hidden` is true.",
    example: "- name: Logs older than a month\n  ansible.builtin.find:\n    paths: /var/log/app\n    patterns: \"*.log,*.log.gz\"\n    age: 30d\n  register: old\n- name: Remove them\n  ansible.builtin.file:\n    path: \"{{ item.path }}\"\n    state: absent\n  loop: \"{{ old.files }}\"\n",
    params: &[
        Param::new("paths", Type::PathList, "Directories to look through.")
            .required()
            .aliases(&["name", "path"]),
        Param::new("patterns", Type::List, "Shell patterns for the name (not the path); any may match.")
            .default("[]")
            .aliases(&["pattern"]),
        Param::new("excludes", Type::List, "Shell patterns for names that are left out.")
            .aliases(&["exclude"]),
        Param::new(
            "use_regex",
            Type::Bool,
            "`patterns` and `excludes` are Python regular expressions that match at the start.",
        )
        .default("false"),
        Param::new(
            "contains",
            Type::Str,
            "A regular expression that must match at the start of a line of the file.",
        ),
        Param::new("read_whole_file", Type::Bool, "`contains` may match anywhere in the whole content.")
            .default("false"),
        Param::new(
            "encoding",
            Type::Str,
            "Character set of the files, as `iconv` knows it. Without it UTF-8, else single bytes; with it a file that is not in it is an error, told in `skipped_paths`.",
        ),
        Param::new("file_type", Type::Str, "What to list.")
            .choices(&["any", "directory", "file", "link"])
            .default("file"),
        Param::new("age", Type::Str, "At least this old (`2d`, `30m`, `1w`), or with a minus at most."),
        Param::new("age_stamp", Type::Str, "Which time `age` looks at.")
            .choices(&["atime", "ctime", "mtime"])
            .default("mtime"),
        Param::new("size", Type::Str, "At least this large (`10m`, `1g`), or with a minus at most."),
        Param::new("mode", Type::Raw, "Permissions: octal as text, or symbolic."),
        Param::new(
            "exact_mode",
            Type::Bool,
            "The permissions are exactly `mode`; if false, they share a bit with it.",
        )
        .default("true"),
        Param::new("recurse", Type::Bool, "Look into subdirectories.").default("false"),
        Param::new("depth", Type::Int, "How many levels deep, from 1. Needs `recurse`."),
        Param::new("hidden", Type::Bool, "List names that start with a dot.").default("false"),
        Param::new("follow", Type::Bool, "Look into directories that symbolic links point to.")
            .default("false"),
        Param::new("get_checksum", Type::Bool, "Return a checksum of each file.").default("false"),
        Param::new("checksum_algorithm", Type::Str, "How the checksum is computed.")
            .choices(ALGORITHMS)
            .default("sha1")
            .aliases(&["checksum", "checksum_algo"]),
        Param::new("limit", Type::Int, "Stop after this many."),
    ],
    returns: &[
        ("files", "What was found: `path` and what `stat` returns, for each."),
        ("matched", "How many were found."),
        ("examined", "How many names were looked at."),
        ("skipped_paths", "Paths that could not be read, with the reason."),
    ],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    paths: Vec<String>,
    patterns: Vec<String>,
    #[serde(default)]
    excludes: Vec<String>,
    use_regex: bool,
    contains: Option<String>,
    read_whole_file: bool,
    encoding: Option<String>,
    file_type: String,
    age: Option<String>,
    age_stamp: String,
    size: Option<String>,
    mode: Option<Value>,
    exact_mode: bool,
    recurse: bool,
    depth: Option<usize>,
    hidden: bool,
    follow: bool,
    get_checksum: bool,
    checksum_algorithm: String,
    limit: Option<i64>,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    let mut search = Search::new(&args)?;
    let mut warnings = Vec::new();
    for path in &args.paths {
        let path = files::path_arg(system, path)?;
        if !system.stat_follow(&path)?.is_some_and(|stat| stat.kind == FileKind::Directory) {
            let reason = format!("'{}' is not a directory", path.display());
            warnings.push(format!("Skipped '{}' path due to this access issue: {reason}", path.display()));
            search.skipped.insert(files::text_of(&path), reason);
            continue;
        }
        search.seen.clear();
        search.directory(system, &path, 1)?;
        if let Some(reason) = search.unreadable.take() {
            warnings.push(format!("Skipped '{}' path due to this access issue: {reason}", path.display()));
            search.skipped.insert(files::text_of(&path), reason);
        }
    }
    let message = if !warnings.is_empty() {
        "Not all paths examined, check warnings for details"
    } else if search.full() {
        "Limit of matches reached"
    } else {
        "All paths examined"
    };
    let outcome = Outcome::default()
        .set("matched", search.found.len())
        .set("files", Value::list(search.found))
        .set("examined", search.examined)
        .set("skipped_paths", map_of(search.skipped))
        .set("msg", message);
    Ok(Outcome { warnings, ..outcome })
}

struct Search<'a> {
    args: &'a Args,
    patterns: Vec<Pattern>,
    excludes: Vec<Pattern>,
    contains: Option<Pattern>,
    age: Option<i64>,
    size: Option<i64>,
    mode: Option<u32>,
    now: f64,
    found: Vec<Value>,
    examined: usize,
    skipped: BTreeMap<String, String>,
    seen: HashSet<(u64, u64)>,
    /// Why the search below one of the paths was given up.
    unreadable: Option<String>,
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

/// `-3d` as a number of seconds, `10k` as a number of bytes.
fn quantity(text: &str, units: &[(char, i64)]) -> Option<i64> {
    let text = text.to_lowercase();
    let (digits, factor) = match text.chars().last() {
        Some(last) if last.is_ascii_alphabetic() => {
            (&text[..text.len() - 1], units.iter().find(|(unit, _)| *unit == last)?.1)
        }
        _ => (text.as_str(), 1),
    };
    digits.parse::<i64>().ok()?.checked_mul(factor)
}

impl<'a> Search<'a> {
    fn new(args: &'a Args) -> Result<Search<'a>> {
        let compile = |texts: &[String]| -> Result<Vec<Pattern>> {
            let one = |text: &String| {
                let flags = Flags { anchored: true, ..Flags::default() };
                let text = if args.use_regex { text.clone() } else { fnmatch(text) };
                Ok(Pattern::new(&text, flags)?)
            };
            texts.iter().map(one).collect()
        };
        let age = |text: &String| {
            quantity(text, &[('s', 1), ('m', 60), ('h', 3600), ('d', 86_400), ('w', 604_800)])
                .ok_or_else(|| ModuleError::new("failed to process age").with("age", text.as_str()))
        };
        let size = |text: &String| {
            quantity(text, &[('b', 1), ('k', 1 << 10), ('m', 1 << 20), ('g', 1 << 30), ('t', 1 << 40)])
                .ok_or_else(|| ModuleError::new("failed to process size").with("size", text.as_str()))
        };
        if let Some(limit) = args.limit.filter(|limit| *limit <= 0) {
            return Err(ModuleError::new(format!("limit cannot be {limit}; leave it out for no limit")));
        }
        let mode = match &args.mode {
            None => None,
            Some(Value::Str(_)) => {
                args.mode.as_ref().map(Mode::parse).transpose()?.and_then(|mode| mode.bits(0, false, 0, None))
            }
            Some(other) => {
                return Err(ModuleError::new(format!(
                    "argument 'mode' is not a string and conversion is not allowed, value is of type {}",
                    other.type_name()
                )));
            }
        };
        let contains = args
            .contains
            .as_deref()
            .map(|text| Pattern::new(text, Flags { anchored: !args.read_whole_file, ..Flags::default() }));
        Ok(Search {
            args,
            patterns: compile(&args.patterns)?,
            excludes: compile(&args.excludes)?,
            contains: contains.transpose()?,
            age: args.age.as_ref().map(age).transpose()?,
            size: args.size.as_ref().map(size).transpose()?,
            mode: mode.filter(|mode| *mode != 0),
            now: files::now(),
            found: Vec::new(),
            examined: 0,
            skipped: BTreeMap::new(),
            seen: HashSet::new(),
            unreadable: None,
            users: HashMap::new(),
            groups: HashMap::new(),
        })
    }

    fn full(&self) -> bool {
        self.unreadable.is_some()
            || self
                .args
                .limit
                .is_some_and(|limit| i64::try_from(self.found.len()).is_ok_and(|count| count >= limit))
    }

    /// Looks through one directory: its files, then its directories, then into them.
    fn directory(&mut self, system: &mut dyn System, directory: &Path, depth: usize) -> Result<()> {
        if self.full() {
            return Ok(());
        }
        let names = match system.list(directory) {
            Ok(names) => names,
            Err(error) => {
                self.skipped.insert(files::text_of(directory), error.to_string());
                return Ok(());
            }
        };
        self.examined += names.len();
        if self.args.depth.is_some_and(|limit| limit > 0 && depth > limit) {
            return Ok(());
        }
        let mut files = Vec::new();
        let mut directories = Vec::new();
        for name in names {
            let path = directory.join(&name);
            let Some(stat) = system.stat(&path)? else { continue };
            let target = match stat.kind {
                FileKind::Link => system.stat_follow(&path)?,
                _ => Some(stat.clone()),
            };
            let inside = target.filter(|stat| stat.kind == FileKind::Directory);
            let entry = (path, name.to_string_lossy().into_owned(), stat);
            match inside {
                Some(inside) => directories.push((entry, inside)),
                None => files.push(entry),
            }
        }
        for (path, name, stat) in files.iter().chain(directories.iter().map(|(entry, _)| entry)) {
            if self.full() {
                return Ok(());
            }
            if self.matches(system, path, name, stat)? {
                let entry = self.describe(system, path, stat)?;
                self.found.push(entry);
            }
        }
        if self.args.recurse {
            for ((path, _, stat), inside) in directories {
                let enter = stat.kind == FileKind::Directory
                    || self.args.follow && self.seen.insert((inside.device, inside.inode));
                if enter {
                    self.directory(system, &path, depth + 1)?;
                }
            }
        }
        Ok(())
    }

    fn matches(&mut self, system: &mut dyn System, path: &Path, name: &str, stat: &Stat) -> Result<bool> {
        if name.starts_with('.') && !self.args.hidden {
            return Ok(false);
        }
        let is_file = stat.kind == FileKind::File;
        let right_kind = match self.args.file_type.as_str() {
            "any" => true,
            "directory" => stat.kind == FileKind::Directory,
            "link" => stat.kind == FileKind::Link,
            _ => is_file,
        };
        if !right_kind || !self.name_matches(name)? {
            return Ok(false);
        }
        let stamp = match self.args.age_stamp.as_str() {
            "atime" => stat.atime,
            "ctime" => stat.ctime,
            _ => stat.mtime,
        };
        #[expect(clippy::cast_precision_loss, reason = "ages and sizes are small")]
        let within = |limit: Option<i64>, value: f64| {
            limit.is_none_or(|limit| {
                let bound = limit.unsigned_abs() as f64;
                if limit >= 0 { value >= bound } else { value <= bound }
            })
        };
        if !within(self.age, self.now - stamp) {
            return Ok(false);
        }
        #[expect(clippy::cast_precision_loss, reason = "a file's size is small")]
        if is_file && !within(self.size, stat.size as f64) {
            return Ok(false);
        }
        let mode = self
            .mode
            .is_none_or(|mode| if self.args.exact_mode { stat.mode == mode } else { stat.mode & mode != 0 });
        if !mode {
            return Ok(false);
        }
        let Some(pattern) = self.contains.as_ref().filter(|_| self.args.file_type == "file") else {
            return Ok(true);
        };
        let whole = self.args.read_whole_file;
        let Some(encoding) = &self.args.encoding else { return contains(system, path, pattern, whole) };
        if !is_known(system, encoding)? {
            self.unreadable = Some(format!("unknown encoding: {encoding}"));
            return Ok(false);
        }
        let Some(text) = decoded(system, path, encoding)? else {
            self.unreadable = Some(format!(
                "Failed to read the file {} due to an encoding error. current encoding: {encoding}",
                path.display()
            ));
            return Ok(false);
        };
        if whole {
            return Ok(pattern.is_match(&text)?);
        }
        for line in text.split_inclusive('\n') {
            if pattern.is_match(line)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn name_matches(&self, name: &str) -> Result<bool> {
        let any = |patterns: &[Pattern]| -> Result<bool> {
            for pattern in patterns {
                if pattern.is_match(name)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        Ok((self.patterns.is_empty() || any(&self.patterns)?) && !any(&self.excludes)?)
    }

    fn describe(&mut self, system: &mut dyn System, path: &Path, stat: &Stat) -> Result<Value> {
        let mut out: Map = values(path, stat);
        for key in ["exists", "blocks", "block_size", "device_type"] {
            out.shift_remove(key);
        }
        if let std::collections::hash_map::Entry::Vacant(e) = self.users.entry(stat.uid) {
            let name = system.user(&stat.uid.to_string())?.map_or_else(String::new, |user| user.name);
            e.insert(name);
        }
        if let std::collections::hash_map::Entry::Vacant(e) = self.groups.entry(stat.gid) {
            let name = system.group(&stat.gid.to_string())?.map_or_else(String::new, |group| group.name);
            e.insert(name);
        }
        out.insert("pw_name".into(), self.users[&stat.uid].as_str().into());
        out.insert("gr_name".into(), self.groups[&stat.gid].as_str().into());
        if self.args.get_checksum && stat.kind == FileKind::File {
            let digest = system.digest(path, algorithm(&self.args.checksum_algorithm)?)?;
            out.insert("checksum".into(), digest.into());
        }
        Ok(out.into())
    }
}

/// How much of a file is read at once.
const CHUNK: usize = 1 << 20;

/// Character sets that need no program.
fn is_utf8(encoding: &str) -> bool {
    matches!(encoding.to_lowercase().as_str(), "utf-8" | "utf8" | "utf_8" | "ascii" | "us-ascii")
}

fn conversion(system: &mut dyn System, encoding: &str, bytes: Vec<u8>) -> Result<Output> {
    let program = host::need_program("iconv", system)?;
    let argv = [program.as_str(), "-f", encoding, "-t", "UTF-8"];
    Ok(system.query(&Command { stdin: Some(bytes), ..Command::new(argv).c_locale() })?)
}

fn is_known(system: &mut dyn System, encoding: &str) -> Result<bool> {
    Ok(is_utf8(encoding) || conversion(system, encoding, Vec::new())?.success())
}

/// A file's content in a character set that was named. `None` if it is not in it; a file that can't be read is
/// empty.
fn decoded(system: &mut dyn System, path: &Path, encoding: &str) -> Result<Option<String>> {
    let Ok(bytes) = system.read(path) else { return Ok(Some(String::new())) };
    if is_utf8(encoding) {
        return Ok(String::from_utf8(bytes).ok());
    }
    let output = conversion(system, encoding, bytes)?;
    Ok(String::from_utf8(output.stdout.clone()).ok().filter(|_| output.success()))
}

/// Whether a file's content matches; a file that can't be read does not.
fn contains(system: &mut dyn System, path: &Path, pattern: &Pattern, whole: bool) -> Result<bool> {
    if whole {
        let Ok(bytes) = system.read(path) else { return Ok(false) };
        return Ok(pattern.is_match(&Coding::decode(bytes).1)?);
    }
    let mut offset = 0;
    let mut rest: Vec<u8> = Vec::new();
    loop {
        let Ok(bytes) = system.read_at(path, offset, CHUNK) else { return Ok(false) };
        offset += bytes.len() as u64;
        let last = bytes.is_empty();
        rest.extend(bytes);
        let end = if last {
            rest.len()
        } else {
            rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
        };
        let lines: Vec<u8> = rest.drain(..end).collect();
        let (_, text) = Coding::decode(lines);
        for line in text.split_inclusive('\n') {
            if pattern.is_match(line)? {
                return Ok(true);
            }
        }
        if last {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    #[test]
    fn finds_by_every_criterion() {
        let start = &[
            "d d 755",
            "d d/sub 750",
            "f d/a.log 644 first\nerror here\n",
            "f d/b.txt 600 xx",
            "f d/.hidden 644 h",
            "f d/sub/c.log 644 ",
            "f d/sub/[x]y 644 ",
            "l d/link sub",
        ];
        for (args, expected) in [
            ("", "a.log b.txt"),
            (r#", "patterns": "*.log""#, "a.log"),
            (r#", "patterns": "*.log,b.*""#, "a.log b.txt"),
            (r#", "excludes": ["a*"]"#, "b.txt"),
            (r#", "patterns": ["[ab]\\..*"], "use_regex": true"#, "a.log b.txt"),
            (r#", "patterns": "[!a]*""#, "b.txt"),
            (r#", "recurse": true, "patterns": "*.log""#, "a.log sub/c.log"),
            (r#", "recurse": true, "depth": 1"#, "a.log b.txt"),
            (r#", "recurse": true, "patterns": "[[]x]y""#, "sub/[x]y"),
            (r#", "follow": true, "recurse": true, "patterns": "c*""#, "link/c.log sub/c.log"),
            (r#", "hidden": true"#, ".hidden a.log b.txt"),
            (r#", "file_type": "directory""#, "sub"),
            (r#", "file_type": "link""#, "link"),
            (r#", "file_type": "any""#, "a.log b.txt link sub"),
            (r#", "contains": "err""#, "a.log"),
            (r#", "contains": "here""#, ""),
            (r#", "contains": "t\\nerr", "read_whole_file": true"#, "a.log"),
            (r#", "size": "3""#, "a.log"),
            (r#", "size": "-2b""#, "b.txt"),
            (r#", "age": "1h""#, ""),
            (r#", "age": "-1h""#, "a.log b.txt"),
            (r#", "mode": "0600""#, "b.txt"),
            (r#", "mode": "g+r", "exact_mode": false"#, "a.log"),
            (r#", "limit": 1"#, "a.log"),
        ] {
            let verdict = contract(&MODULE, start, &format!(r#"{{"paths": "@/d"{args}}}"#));
            assert_eq!(verdict.error, None, "{args}");
            let found = verdict.outcome.values.get("files").expect("returned").clone();
            let paths: Vec<String> = found
                .as_list()
                .expect("a list")
                .iter()
                .map(|file| file.get("path").expect("a path").to_text())
                .map(|path| path.split_once("/d/").expect("below").1.to_string())
                .collect();
            assert_eq!(paths.join(" "), expected, "{args}");
        }
    }

    #[test]
    fn what_lies_one_level_deeper_is_examined_and_not_found() {
        let start = &["d d 755", "d d/a 755", "d d/a/b 755", "d d/a/b/c 755", "f d/a/b/x 644 "];
        for (depth, examined, matched) in
            [("", "4", "4"), (r#", "depth": 1"#, "2", "1"), (r#", "depth": 2"#, "4", "2")]
        {
            let args = format!(r#"{{"paths": "@/d", "recurse": true, "file_type": "any"{depth}}}"#);
            let verdict = contract(&MODULE, start, &args);
            assert_eq!(
                (verdict.text("examined").as_str(), verdict.text("matched").as_str()),
                (examined, matched),
                "{depth}"
            );
        }
    }

    #[test]
    fn missing_directories_are_skipped() {
        let verdict = contract(&MODULE, &[], r#"{"paths": "@/none"}"#);
        assert_eq!(verdict.text("matched"), "0");
        assert_eq!(verdict.outcome.warnings.len(), 1);
    }
}
