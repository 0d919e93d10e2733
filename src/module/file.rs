//! `file`: the state and the attributes of a path.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::module::files::{self, FileArgs};
use crate::module::{Module, ModuleError, Outcome, Param, Type, typed};
use crate::system::{Attributes, Command, Content, FileKind, LinkKind, Stat, System, WriteOptions};
use crate::value::Value;

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.file",
    summary: "Makes, removes and sets attributes of files, directories and links",
    description: "Brings a path into a state: a directory (with its missing parents), a symbolic or hard link, an empty \
        file, or nothing at all; and sets owner, group, mode, times, SELinux context and attributes. Without `state`, what is \
        there stays what it is and only its attributes are set. `state: touch` reports a change each time unless \
        `modification_time` and `access_time` are `preserve`.",
    example: "- name: A directory for the application\n  ansible.builtin.file:\n    path: /srv/app/releases\n    state: directory\n    owner: app\n    group: app\n    mode: \"0750\"\n",
    params: &[
        Param::new("path", Type::Path, "The path to manage.").required().aliases(&["dest", "name"]),
        Param::new(
            "state",
            Type::Str,
            "What should be there. `file` requires that a file is there and makes none; `touch` makes an empty one.",
        )
        .choices(&["absent", "directory", "file", "hard", "link", "touch"]),
        Param::new("src", Type::Path, "What a link points to, with `state: link` or `state: hard`."),
        Param::new("recurse", Type::Bool, "Set the attributes on everything below a directory too.")
            .default("false"),
        Param::new(
            "force",
            Type::Bool,
            "Make a link although its target is missing, or in place of a file or an empty directory.",
        )
        .default("false"),
        Param::new("follow", Type::Bool, "A symbolic link at `path` stands for its target.").default("true"),
        Param::new(
            "modification_time",
            Type::Str,
            "When the content was last changed: a time in `modification_time_format`, `now` or `preserve`.",
        ),
        Param::new("modification_time_format", Type::Str, "How `modification_time` is written, as `strftime` has it.")
            .default("%Y%m%d%H%M.%S"),
        Param::new(
            "access_time",
            Type::Str,
            "When the content was last read: a time in `access_time_format`, `now` or `preserve`.",
        ),
        Param::new("access_time_format", Type::Str, "How `access_time` is written, as `strftime` has it.")
            .default("%Y%m%d%H%M.%S"),
        Param::new("_original_basename", Type::Str, "Internal: a name below `path` if that is a directory."),
        Param::new("_diff_peek", Type::Bool, "Internal: only tell whether the file looks binary."),
    ],
    file_params: true,
    returns: &[
        ("path", "The managed path, for all states but `touch`, `link` and `hard`."),
        ("dest", "The managed path, for `touch`, `link` and `hard`."),
        ("state", "What is there now: `file`, `directory`, `link`, `hard` or `absent`."),
        ("mode", "Its permissions, such as `0644`."),
        ("owner", "Name of its owner."),
        ("group", "Name of its group."),
        ("uid", "Number of its owner."),
        ("gid", "Number of its group."),
        ("size", "Its size in bytes."),
    ],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    path: String,
    state: Option<String>,
    src: Option<String>,
    recurse: bool,
    force: bool,
    follow: bool,
    modification_time: Option<String>,
    modification_time_format: String,
    access_time: Option<String>,
    access_time_format: String,
    #[serde(rename = "_original_basename")]
    original_basename: Option<String>,
    #[serde(rename = "_diff_peek", default)]
    diff_peek: Option<bool>,
    #[serde(flatten)]
    file: FileArgs,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Time {
    Preserve,
    Now,
    At(f64),
}

#[derive(Clone, Copy)]
struct Times {
    modification: Time,
    access: Time,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let mut outcome = bring(args, system)?;
    let path = outcome.values.get("path").or_else(|| outcome.values.get("dest"));
    outcome.subject = path.map(Value::to_text);
    Ok(outcome)
}

fn bring(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let mut args: Args = typed(args)?;
    if args.state.as_deref() != Some("absent") {
        args.file.tell_missing_accounts(system)?;
    }
    let mut path = files::path_arg(system, &args.path)?;
    // A link's target is text: no slash is taken from its end.
    args.src = match args.src {
        Some(src) => Some(files::text_of(&crate::module::expand_path(&src, system)?)),
        None => None,
    };
    let named = args.state.as_deref();
    if !matches!(named, Some("link" | "absent"))
        && let Some(src) = &args.src
        && system.stat_follow(&path)?.is_some_and(|stat| stat.kind == FileKind::Directory)
        && let Some(name) = Path::new(src).file_name()
    {
        path.push(name);
    }
    if args.diff_peek == Some(true) {
        let head = system.read_at(&path, 0, 8192).unwrap_or_default();
        let outcome = Outcome::default().set("path", files::text_of(&path));
        return Ok(outcome.set("appears_binary", head.contains(&0)));
    }
    if let Some(name) = args.original_basename.as_ref().filter(|name| !name.is_empty())
        && !matches!(named, Some("link" | "absent"))
        && system.stat_follow(&path)?.is_some_and(|stat| stat.kind == FileKind::Directory)
    {
        path.push(name);
    }
    let before = system.stat(&path)?;
    let state = match (named, before.as_ref()) {
        (Some(state), _) => state.to_string(),
        (None, Some(stat)) => files::state_name(Some(stat)).to_string(),
        (None, None) if args.recurse => "directory".into(),
        (None, None) => "file".into(),
    };
    if args.recurse && state != "directory" {
        return Err(at(&path, "recurse option requires state to be 'directory'"));
    }
    if args.src.is_some() && !matches!(state.as_str(), "link" | "hard") {
        return Err(at(&path, "src option requires state to be 'link' or 'hard'"));
    }
    let times = Times {
        modification: time(
            system,
            args.modification_time.as_deref(),
            &args.modification_time_format,
            &state,
        )?,
        access: time(system, args.access_time.as_deref(), &args.access_time_format, &state)?,
    };
    match state.as_str() {
        "absent" => absent(system, &path, before.is_some()),
        "directory" => directory(system, &args, path, times),
        "touch" => touch(system, &args, &path, before, times),
        "link" => symbolic_link(system, &args, &path, before, times),
        "hard" => hard_link(system, &args, &path, before, times),
        _ => file(system, &args, path, times),
    }
}

fn at(path: &Path, message: impl Into<String>) -> ModuleError {
    ModuleError::new(message).with("path", files::text_of(path))
}

fn absent(system: &mut dyn System, path: &Path, there: bool) -> Result<Outcome> {
    if there {
        system.remove(path)?;
    }
    files::record(system, path, None, None)?;
    Ok(Outcome::default().set("path", files::text_of(path)).set("state", "absent"))
}

fn file(system: &mut dyn System, args: &Args, path: PathBuf, times: Times) -> Result<Outcome> {
    let mut path = path;
    let mut stat = system.stat(&path)?;
    if args.follow && stat.as_ref().is_some_and(|stat| stat.kind == FileKind::Link) {
        path = system.resolve(&path)?;
        stat = system.stat(&path)?;
    }
    match files::state_name(stat.as_ref()) {
        "file" | "hard" => {}
        other => {
            if stat.is_none()
                && let Some(outcome) = files::uncertain(system, &path)
            {
                return Ok(outcome);
            }
            let message = format!("file ({}) is {other}, cannot continue", path.display());
            return Err(at(&path, message).with("state", other));
        }
    }
    attributes_and_times(system, &args.file, &path, args.follow, times)?;
    files::finish(system, Outcome::default(), &path, "path", None)
}

fn directory(system: &mut dyn System, args: &Args, path: PathBuf, times: Times) -> Result<Outcome> {
    let mut path = path;
    let mut stat = system.stat(&path)?;
    if args.follow && stat.as_ref().is_some_and(|stat| stat.kind == FileKind::Link) {
        path = system.resolve(&path)?;
        stat = system.stat(&path)?;
    }
    match stat {
        None => {
            make_directories(system, &path, &args.file)?;
            set_times(system, &path, args.follow, times)?;
        }
        Some(stat) if stat.kind == FileKind::Directory => {
            attributes_and_times(system, &args.file, &path, args.follow, times)?;
            if args.recurse && !(args.file.asks_nothing() && times.keeps()) {
                let mut seen = HashSet::from([(stat.device, stat.inode)]);
                recurse(system, args, &path, times, &mut seen)?;
            }
        }
        Some(stat) => {
            let state = files::state_name(Some(&stat));
            return Err(at(&path, format!("{} already exists as a {state}", path.display())));
        }
    }
    files::finish(system, Outcome::default(), &path, "path", None)
}

/// Makes a directory and its missing parents, each with the attributes.
///
/// # Errors
/// What the system says.
pub fn make_directories(system: &mut dyn System, path: &Path, args: &FileArgs) -> Result<()> {
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        if ancestor.as_os_str().is_empty() || system.stat_follow(ancestor)?.is_some() {
            break;
        }
        missing.push(ancestor.to_path_buf());
    }
    for directory in missing.into_iter().rev() {
        let wanted = args.wanted(system, &directory, None, FileKind::Directory, None)?;
        system.make_dir(&directory, &wanted).map_err(|error| {
            at(path, format!("There was an issue creating {} as requested: {error}", directory.display()))
        })?;
    }
    Ok(())
}

fn recurse(
    system: &mut dyn System,
    args: &Args,
    directory: &Path,
    times: Times,
    seen: &mut HashSet<(u64, u64)>,
) -> Result<()> {
    for name in system.list(directory)? {
        let path = directory.join(name);
        let Some(stat) = system.stat(&path)? else { continue };
        attributes_and_times(system, &args.file, &path, false, times)?;
        let inside = match stat.kind {
            FileKind::Directory => Some((path.clone(), stat)),
            FileKind::Link if args.follow => {
                let target = system.resolve(&path)?;
                let stat = system.stat(&target)?;
                if stat.is_some() {
                    attributes_and_times(system, &args.file, &target, true, times)?;
                }
                stat.filter(|stat| stat.kind == FileKind::Directory).map(|stat| (target, stat))
            }
            _ => None,
        };
        if let Some((path, stat)) = inside
            && seen.insert((stat.device, stat.inode))
        {
            recurse(system, args, &path, times, seen)?;
        }
    }
    Ok(())
}

fn touch(
    system: &mut dyn System,
    args: &Args,
    path: &Path,
    before: Option<Stat>,
    times: Times,
) -> Result<Outcome> {
    let outcome = Outcome::default();
    if before.is_some() {
        if system.stat_follow(path)?.is_none() {
            return Err(at(path, "Error, could not touch target: it is a symbolic link to nothing"));
        }
        attributes_and_times(system, &args.file, path, args.follow, times)?;
        return files::finish(system, outcome, path, "dest", None);
    }
    let parent = files::parent_of(path);
    if system.stat_follow(&parent)?.is_none() && system.uncertain().is_none() {
        let message = format!("Error, could not touch target: {} does not exist", parent.display());
        return Err(at(path, message));
    }
    let wanted = args.file.wanted(system, path, None, FileKind::File, None)?;
    let options = WriteOptions { unsafe_writes: args.file.unsafe_writes, ..WriteOptions::default() };
    system.write(path, &Content::Bytes(Vec::new()), &wanted, options)?;
    let set = Times { modification: times.modification.unless_now(), access: times.access.unless_now() };
    set_times(system, path, args.follow, set)?;
    files::finish(system, outcome, path, "dest", None)
}

fn symbolic_link(
    system: &mut dyn System,
    args: &Args,
    path: &Path,
    before: Option<Stat>,
    times: Times,
) -> Result<Outcome> {
    let kind = before.as_ref().map(|stat| stat.kind);
    let is_link = kind == Some(FileKind::Link);
    let src = match &args.src {
        Some(src) => Some(PathBuf::from(src)),
        None if is_link && args.follow => Some(system.read_link(path)?),
        None => None,
    };
    let Some(src) = src else {
        if is_link {
            attributes_and_times(system, &args.file, path, false, times)?;
            return files::finish(system, Outcome::default(), path, "dest", None);
        }
        return Err(ModuleError::new("src is required for creating new symlinks"));
    };
    let src_text = files::text_of(&src);
    let refuse = |message: String| Err(at(path, message).with("src", src_text.clone()));
    let base = if kind == Some(FileKind::Directory) { path.to_path_buf() } else { files::parent_of(path) };
    let target = base.join(&src);
    if !args.force && system.stat_follow(&target)?.is_none() && system.uncertain().is_none() {
        return refuse(format!(
            "src file does not exist, use 'force=yes' if you really want to create the link: {}",
            target.display()
        ));
    }
    let state = files::state_name(before.as_ref());
    match kind {
        Some(FileKind::Directory) if args.force => {
            if !system.list(path)?.is_empty() {
                return refuse(format!(
                    "the directory {} is not empty, refusing to convert it",
                    path.display()
                ));
            }
            system.remove(path)?;
        }
        Some(FileKind::Link) | None => {}
        Some(_) if args.force => {}
        Some(_) => {
            return refuse(format!("refusing to convert from {state} to symlink for {}", path.display()));
        }
    }
    if !is_link || system.read_link(path)? != src {
        system.link(path, &src, LinkKind::Symbolic)?;
    }
    let mut outcome = Outcome::default().set("src", src_text);
    if args.follow && system.stat_follow(path)?.is_none() {
        if !args.file.asks_nothing() {
            outcome.warnings.push(
                "the link points to nothing, so that no attributes were set; `follow: false` sets those of the link itself"
                    .into(),
            );
        }
    } else {
        attributes_and_times(system, &args.file, path, args.follow, times)?;
    }
    files::finish(system, outcome, path, "dest", None)
}

fn hard_link(
    system: &mut dyn System,
    args: &Args,
    path: &Path,
    before: Option<Stat>,
    times: Times,
) -> Result<Outcome> {
    let state = files::state_name(before.as_ref());
    let mut outcome = Outcome::default();
    if let Some(src) = &args.src {
        outcome = outcome.set("src", src.as_str());
        link_hard(system, args, path, before.as_ref(), Path::new(src))?;
    } else if state != "hard" {
        return Err(ModuleError::new("src is required for creating new hardlinks"));
    }
    attributes_and_times(system, &args.file, path, args.follow, times)?;
    files::finish(system, outcome, path, "dest", None)
}

fn link_hard(
    system: &mut dyn System,
    args: &Args,
    path: &Path,
    before: Option<&Stat>,
    src: &Path,
) -> Result<()> {
    let refuse = |message: &str| {
        Err(ModuleError::new(message).with("dest", files::text_of(path)).with("src", files::text_of(src)))
    };
    let source = if args.follow { system.resolve(src)? } else { src.to_path_buf() };
    let Some(source_stat) = system.stat(&source)? else {
        if system.uncertain().is_some() {
            return Ok(system.link(path, &source, LinkKind::Hard)?);
        }
        return refuse("src does not exist");
    };
    match before {
        None => {}
        Some(stat) if (stat.device, stat.inode) == (source_stat.device, source_stat.inode) => return Ok(()),
        Some(stat) if stat.kind == FileKind::Link => {}
        Some(stat) if stat.kind == FileKind::Directory => {
            if !args.force {
                return refuse("Cannot link: a directory exists at destination");
            }
            if !system.list(path)?.is_empty() {
                return refuse("Cannot link: the directory at destination is not empty");
            }
            system.remove(path)?;
        }
        Some(_) if args.force => {}
        Some(stat) if stat.links > 1 => {
            return refuse("Cannot link, different hard link exists at destination");
        }
        Some(_) => return refuse("Cannot link, file exists at destination"),
    }
    Ok(system.link(path, &source, LinkKind::Hard)?)
}

impl Time {
    fn unless_now(self) -> Time {
        if self == Time::Now { Time::Preserve } else { self }
    }

    fn seconds(self, now: f64) -> Option<f64> {
        match self {
            Time::Preserve => None,
            Time::Now => Some(now),
            Time::At(seconds) => Some(seconds),
        }
    }
}

impl Times {
    fn keeps(self) -> bool {
        self.modification == Time::Preserve && self.access == Time::Preserve
    }
}

fn attributes_and_times(
    system: &mut dyn System,
    file: &FileArgs,
    path: &Path,
    follow: bool,
    times: Times,
) -> Result<()> {
    file.apply(system, path, follow)?;
    set_times(system, path, follow, times)
}

fn set_times(system: &mut dyn System, path: &Path, follow: bool, times: Times) -> Result<()> {
    if times.keeps() {
        return Ok(());
    }
    let stat = if follow { system.stat_follow(path)? } else { system.stat(path)? };
    let Some(stat) = stat else { return Ok(()) };
    let now = files::now();
    let different = |time: Option<f64>, current: f64| time.filter(|time| (time - current).abs() > 1e-6);
    let attributes = Attributes {
        mtime: different(times.modification.seconds(now), stat.mtime),
        atime: different(times.access.seconds(now), stat.atime),
        ..Attributes::default()
    };
    if !attributes.is_empty() {
        system.set_attributes(path, &attributes, follow)?;
    }
    Ok(())
}

fn time(system: &mut dyn System, text: Option<&str>, format: &str, state: &str) -> Result<Time> {
    match text {
        None if state == "touch" => Ok(Time::Now),
        None | Some("preserve") => Ok(Time::Preserve),
        Some("now") => Ok(Time::Now),
        Some(text) => {
            let wrong = || {
                ModuleError::new(format!(
                    "Error while obtaining timestamp for time {text} using format {format}"
                ))
            };
            let parsed = strptime(text, format).ok_or_else(wrong)?;
            if let Some(epoch) = parsed.epoch {
                return Ok(Time::At(epoch));
            }
            // The host's time zone, daylight saving included, is `date`'s business.
            let command = Command::new(["date", "-d", &parsed.line(), "+%s"]).c_locale();
            let output = system.query(&command)?;
            output.stdout_text().trim().parse().map(Time::At).map_err(|_| wrong())
        }
    }
}

/// A local time as `strptime` reads it.
#[derive(Debug, PartialEq)]
struct Parsed {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    epoch: Option<f64>,
}

impl Parsed {
    fn line(&self) -> String {
        format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
            self.year, self.month, self.day, self.hour, self.minute, self.second
        )
    }
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

fn strptime(text: &str, format: &str) -> Option<Parsed> {
    let mut out = Parsed { year: 1900, month: 1, day: 1, hour: 0, minute: 0, second: 0, epoch: None };
    let format = format
        .replace("%D", "%m/%d/%y")
        .replace("%F", "%Y-%m-%d")
        .replace("%T", "%H:%M:%S")
        .replace("%R", "%H:%M");
    let mut rest = text;
    let mut afternoon = None;
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character.is_whitespace() {
            rest = rest.trim_start();
            continue;
        }
        if character != '%' {
            rest = rest.strip_prefix(character)?;
            continue;
        }
        let mut number = |width: usize, low: i64, high: i64| -> Option<i64> {
            let end = rest.bytes().take(width).take_while(u8::is_ascii_digit).count();
            let value: i64 = rest.get(..end)?.parse().ok()?;
            rest = &rest[end..];
            (low..=high).contains(&value).then_some(value)
        };
        match characters.next()? {
            'Y' => out.year = number(4, 0, 9999)?,
            'y' => {
                out.year = number(2, 0, 99).map(|year| if year < 69 { 2000 + year } else { 1900 + year })?
            }
            'm' => out.month = number(2, 1, 12)?,
            'd' => out.day = number(2, 1, 31)?,
            'H' => out.hour = number(2, 0, 23)?,
            'I' => out.hour = number(2, 1, 12)?,
            'M' => out.minute = number(2, 0, 59)?,
            'S' => out.second = number(2, 0, 61)?,
            'j' => {
                let day = number(3, 1, 366)?;
                (_, out.month, out.day) = files::civil(files::days(out.year, 1, 1) + day - 1);
            }
            's' => {
                #[expect(clippy::cast_precision_loss, reason = "seconds since the epoch are small")]
                let seconds = number(12, 0, i64::MAX)? as f64;
                out.epoch = Some(seconds);
            }
            'f' => {
                number(6, 0, 999_999)?;
            }
            'p' => {
                let word = rest.get(..2)?.to_ascii_lowercase();
                afternoon = Some(match word.as_str() {
                    "am" => false,
                    "pm" => true,
                    _ => return None,
                });
                rest = &rest[2..];
            }
            'b' | 'B' | 'h' => {
                let lower = rest.to_ascii_lowercase();
                let index = MONTHS.iter().position(|month| lower.starts_with(&month[..3]))?;
                let length = if lower.starts_with(MONTHS[index]) { MONTHS[index].len() } else { 3 };
                out.month = i64::try_from(index).ok()? + 1;
                rest = &rest[length..];
            }
            '%' => rest = rest.strip_prefix('%')?,
            _ => return None,
        }
    }
    if let Some(afternoon) = afternoon {
        out.hour = out.hour % 12 + if afternoon { 12 } else { 0 };
    }
    rest.is_empty().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{contract, contract_once};
    use crate::system::fake::Fake;
    use crate::system::recorder::Recorder;
    use crate::value::map_of;

    #[test]
    fn times_are_read_in_the_format_given() {
        for (text, format, expected) in [
            ("202401022030.45", "%Y%m%d%H%M.%S", Some("2024-01-02 20:30:45")),
            ("2 Feb 2024 08:30 PM", "%d %b %Y %I:%M %p", Some("2024-02-02 20:30:00")),
            ("2024-060", "%Y-%j", Some("2024-02-29 00:00:00")),
            ("2024-13", "%Y-%m", None),
            ("2024x", "%Y", None),
        ] {
            assert_eq!(strptime(text, format).map(|parsed| parsed.line()).as_deref(), expected, "{text}");
        }
    }

    const STARTS: &[&[&str]] = &[
        &[],
        &["d d 755", "f d/a 644 one", "d d/e 700", "f d/e/b 755 two", "l d/l a"],
        &["f x 600 text", "l l x", "l dangling nowhere"],
        &["d x 700", "l l x"],
        &["d x 755", "f x/y 640 text"],
    ];

    #[test]
    fn keeps_its_promises_whatever_was_there() {
        let states = ["absent", "directory", "file", "touch", "link", "hard"];
        let rest = [
            "",
            r#", "mode": "0640""#,
            r#", "mode": "u=rwX,g=rX,o=""#,
            r#", "force": true, "follow": false"#,
            r#", "mode": "0700", "recurse": true"#,
        ];
        for start in STARTS {
            for path in ["x", "l", "dangling", "d", "d/e/b", "new/deep/er"] {
                for state in states {
                    for rest in rest {
                        let src = match state {
                            "link" => r#", "src": "x""#,
                            "hard" => r#", "src": "@/x""#,
                            _ => "",
                        };
                        let args = format!(r#"{{"path": "@/{path}", "state": "{state}"{src}{rest}}}"#);
                        let run = if state == "touch" { contract_once } else { contract };
                        run(&MODULE, start, &args);
                    }
                }
            }
        }
    }

    #[test]
    fn brings_paths_into_their_state() {
        for (start, args, expected) in [
            (
                &[][..],
                r#"{"path": "@/a/b", "state": "directory", "mode": "0750"}"#,
                Ok(vec!["d a 750", "d a/b 750"]),
            ),
            (&["d a 755", "f a/x 644 "], r#"{"path": "@/a", "state": "absent"}"#, Ok(vec![])),
            (
                &["d a 755", "f a/x 644 ", "d a/s 700", "f a/s/y 755 "],
                r#"{"path": "@/a/", "state": "directory", "recurse": true, "mode": "u=rwX,go="}"#,
                Ok(vec!["d a 700", "d a/s 700", "f a/s/y 700 ", "f a/x 600 "]),
            ),
            (&["f x 644 "], r#"{"path": "@/l", "src": "x", "state": "link"}"#, Ok(vec!["l l x", "f x 644 "])),
            (
                &["f x 644 ", "f l 644 "],
                r#"{"path": "@/l", "src": "x", "state": "link", "force": true}"#,
                Ok(vec!["l l x", "f x 644 "]),
            ),
            (
                &[],
                r#"{"path": "@/l", "src": "gone", "state": "link"}"#,
                Err("src file does not exist, use 'force=yes' if you really want to create the link: @/gone"),
            ),
            (&[], r#"{"path": "@/x", "state": "file"}"#, Err("file (@/x) is absent, cannot continue")),
            (
                &["d x 755"],
                r#"{"path": "@/x", "state": "file"}"#,
                Err("file (@/x) is directory, cannot continue"),
            ),
            (&["f x 644 "], r#"{"path": "@/x", "state": "directory"}"#, Err("@/x already exists as a file")),
            (
                &["f x 644 "],
                r#"{"path": "@/x", "owner": "no-such-account"}"#,
                Err("chown failed: failed to look up user no-such-account"),
            ),
            (&["f x 644 ", "l l x"], r#"{"path": "@/l", "mode": "0600"}"#, Ok(vec!["l l x", "f x 600 "])),
            (
                &["f x 644 ", "l l x"],
                r#"{"path": "@/l", "mode": "0600", "state": "file"}"#,
                Ok(vec!["l l x", "f x 600 "]),
            ),
            (&["f my\tname 644 "], r#"{"path": "@/my\tname", "mode": "a+x"}"#, Ok(vec!["f my\tname 755 "])),
        ] {
            let verdict = contract(&MODULE, start, args);
            let got = match &verdict.error {
                Some(error) => Err(error.as_str()),
                None => Ok(verdict.tree.iter().map(String::as_str).collect()),
            };
            assert_eq!(got, expected, "{args} from {start:?}");
        }
    }

    #[test]
    fn who_reads_a_dry_run_hears_of_accounts_that_are_not_there() {
        let machine = || Fake::new().with_file("/x", "");
        for (args, told) in [
            (vec![("owner", "gone")], Some("failed to look up user gone;")),
            (vec![("owner", "4711")], Some("failed to look up user with uid 4711;")),
            (vec![("group", "4712")], Some("failed to look up group with gid 4712;")),
            (vec![("owner", "root")], None),
            (vec![("owner", "gone"), ("state", "absent")], None),
        ] {
            let given = map_of(args.iter().copied().chain([("path", "/x")]));
            let checked = crate::module::args::check(&MODULE, &given, &|_| true).expect("valid");
            let mut dry = Recorder::new(machine());
            let _ = (MODULE.run)(checked.clone(), &mut dry);
            let caveats = dry.take_caveats();
            assert_eq!(
                caveats.first().map(|text| text.split_inclusive(';').next().expect("a part")),
                told,
                "{args:?}"
            );
        }
    }

    #[test]
    fn the_diff_is_about_the_path() {
        for (start, args, subject) in [
            (&["f x 644 "][..], r#"{"path": "@/x", "mode": "0644"}"#, "@/x"),
            (&["f x 644 ", "l l x"], r#"{"path": "@/l", "mode": "0600", "state": "file"}"#, "@/x"),
            (&[], r#"{"path": "@/l", "src": "y", "state": "link", "force": true}"#, "@/l"),
        ] {
            let verdict = contract(&MODULE, start, args);
            let told = verdict.outcome.subject.unwrap_or_default();
            let name = |path: &str| path.rsplit('/').next().map(String::from);
            assert_eq!(name(&told), name(subject), "{args}: {told}");
        }
    }

    #[test]
    fn touch_sets_times() {
        let args = r#"{"path": "@/x", "state": "touch", "modification_time": "200001010000.00",
            "access_time": "preserve"}"#;
        let verdict = contract(&MODULE, &["f x 644 text"], args);
        assert!(verdict.changed);
        let verdict = contract_once(&MODULE, &["f x 644 text"], r#"{"path": "@/x", "state": "touch"}"#);
        assert!(verdict.changed);
        let args = r#"{"path": "@/x", "state": "touch", "modification_time": "preserve",
            "access_time": "preserve"}"#;
        assert!(!contract(&MODULE, &["f x 644 text"], args).changed);
        assert_eq!(contract(&MODULE, &[], args).tree, ["f x 644 "]);
    }
}
