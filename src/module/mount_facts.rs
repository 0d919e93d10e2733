//! `mount_facts`: what is mounted and what is to be mounted, as facts.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::module::facts::hardware::{unescape_octal, use_of};
use crate::module::regex::{Flags, Pattern, fnmatch};
use crate::module::{Module, ModuleError, Outcome, Param, Type, host, typed};
use crate::system::probe::{Answer, Probe};
use crate::system::{Command, System, SystemError};
use crate::value::{Map, Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Tables of what is to be mounted.
const STATIC: [&str; 3] = ["/etc/fstab", "/etc/vfstab", "/etc/filesystems"];

/// Tables of what is mounted.
const DYNAMIC: [&str; 3] = ["/etc/mtab", "/proc/mounts", "/etc/mnttab"];

/// A file system that does not answer is waited for this long where no limit is given.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.mount_facts",
    summary: "Tell what is mounted, as facts",
    description: "Sets the facts `mount_points` (from each mount point the first that is known of it) and \
        `aggregate_mounts` (all, if asked for), with device, type, options, size, UUID and where it was found. Tables that \
        are not there are passed over, and so are tables that were read already under another name.",
    example: "- name: What is mounted from elsewhere\n  ansible.builtin.mount_facts:\n    fstypes: [nfs, nfs4]\n    timeout: 10\n    on_timeout: warn\n",
    params: &[
        Param::new("devices", Type::List, "Shell patterns, one of which the device must match."),
        Param::new("fstypes", Type::List, "Shell patterns, one of which the type must match."),
        Param::new(
            "sources",
            Type::List,
            "Where to look: paths of tables, `mount` for the command, `static` (fstab and the like), `dynamic` (what is mounted), or `all`, the default.",
        ),
        Param::new(
            "mount_binary",
            Type::Raw,
            "The command to ask for source `mount`, and where no table of what is mounted is found; null for none.",
        )
        .default("mount"),
        Param::new("timeout", Type::Float, "Seconds that one file system, or the command, may take to answer."),
        Param::new("on_timeout", Type::Str, "What to do when it took longer.")
            .choices(&["error", "ignore", "warn"])
            .default("error"),
        Param::new(
            "include_aggregate_mounts",
            Type::Bool,
            "Return `aggregate_mounts`. Without a word on it, repeated mount points are warned of.",
        ),
    ],
    returns: &[("ansible_facts", "`mount_points` and `aggregate_mounts`.")],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    #[serde(default, deserialize_with = "host::optional_texts")]
    devices: Option<Vec<String>>,
    #[serde(default, deserialize_with = "host::optional_texts")]
    fstypes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "host::optional_texts")]
    sources: Option<Vec<String>>,
    #[serde(default)]
    mount_binary: Value,
    timeout: Option<f64>,
    on_timeout: String,
    include_aggregate_mounts: Option<bool>,
}

/// One line of a table.
#[derive(Debug, PartialEq)]
struct Entry {
    line: String,
    fields: Map,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    let limit = match args.timeout {
        Some(seconds) if seconds > 0.0 => Duration::try_from_secs_f64(seconds).unwrap_or(FOR_EVER),
        Some(seconds) => {
            return Err(ModuleError::new(format!(
                "argument 'timeout' must be a positive number or null, not {seconds}"
            )));
        }
        None => FOR_EVER,
    };
    let binary = match &args.mount_binary {
        Value::Null => None,
        Value::Str(text) => Some(text.text.to_string()),
        other => {
            return Err(ModuleError::new(format!(
                "argument 'mount_binary' must be a string or null, not {}",
                other.to_text()
            )));
        }
    };
    let mut survey = Survey { args: &args, limit, binary, warnings: Vec::new(), uuids: None };
    let found = survey.entries(system)?;
    let mounts = survey.mounts(found, system)?;
    let mut points = Map::new();
    for mount in &mounts {
        let point = mount.get("mount").cloned().unwrap_or_default();
        if !points.contains_key(&point) {
            points.insert(point, mount.clone().into());
        }
    }
    if args.include_aggregate_mounts.is_none() {
        survey.warnings.extend(repeated(&mounts));
    }
    let all = if args.include_aggregate_mounts == Some(true) { mounts } else { Vec::new() };
    let facts = map_of([("mount_points", Value::map(points)), ("aggregate_mounts", all.into())]);
    Ok(Outcome { facts: Some(facts), warnings: survey.warnings, ..Outcome::default() })
}

/// A word on tables that name a mount point more than once.
fn repeated(mounts: &[Map]) -> Option<String> {
    let mut by_source: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for mount in mounts {
        let source =
            mount.get("ansible_context").and_then(|context| context.get("source").map(Value::to_text));
        let point = mount.get("mount").map(Value::to_text).unwrap_or_default();
        by_source.entry(source.unwrap_or_default()).or_default().push(point);
    }
    let told: Vec<String> = by_source
        .into_iter()
        .filter(|(_, points)| points.iter().collect::<HashSet<_>>().len() < points.len())
        .map(|(source, points)| format!("{source} ({})", points.join(", ")))
        .collect();
    (!told.is_empty()).then(|| {
        format!(
            "mount points are named more than once in {}; of each the first is told (say so with include_aggregate_mounts)",
            told.join(", ")
        )
    })
}

struct Survey<'a> {
    args: &'a Args,
    limit: Duration,
    binary: Option<String>,
    warnings: Vec<String>,
    /// Devices and their UUIDs, once they were asked for.
    uuids: Option<Vec<(PathBuf, String)>>,
}

impl Survey<'_> {
    /// All lines of all sources, with the name of the source.
    fn entries(&mut self, system: &mut dyn System) -> Result<Vec<(String, Entry)>> {
        let mut sources: Vec<String> = Vec::new();
        let all = ["all".to_string()];
        for source in self.args.sources.as_deref().filter(|sources| !sources.is_empty()).unwrap_or(&all) {
            match source.as_str() {
                "" => return Err(ModuleError::new("sources contains an empty string")),
                "all" => sources.extend(DYNAMIC.iter().chain(&STATIC).map(ToString::to_string)),
                "dynamic" => sources.extend(DYNAMIC.map(String::from)),
                "static" => sources.extend(STATIC.map(String::from)),
                other => sources.push(other.into()),
            }
        }
        if sources.iter().collect::<HashSet<_>>().len() < sources.len() {
            self.warnings.push(format!(
                "'sources' names some more than once, which are read once: {}",
                sources.join(", ")
            ));
        }
        let mut falls_back = sources.iter().any(|source| DYNAMIC.contains(&source.as_str()));
        let mut seen: HashSet<PathBuf> = HashSet::new();
        let mut found = Vec::new();
        for source in sources {
            let is_command = source == "mount";
            let name =
                if is_command { PathBuf::from("mount") } else { system.resolve(Path::new(&source))? };
            if !seen.insert(name) {
                continue;
            }
            let entries = if is_command {
                self.asked(system)?
            } else {
                table(&host::read_text(&source, system).unwrap_or_default())
            };
            falls_back &= entries.is_empty() || !(is_command || DYNAMIC.contains(&source.as_str()));
            found.extend(entries.into_iter().map(|entry| (source.clone(), entry)));
        }
        if falls_back && self.binary.is_some() {
            found.extend(self.asked(system)?.into_iter().map(|entry| ("mount".to_string(), entry)));
        }
        Ok(found)
    }

    /// What the command prints.
    fn asked(&mut self, system: &mut dyn System) -> Result<Vec<Entry>> {
        let Some(binary) = &self.binary else { return Ok(Vec::new()) };
        let program = if binary.contains('/') { binary.clone() } else { host::need_program(binary, system)? };
        let command = Command { timeout: Some(self.limit), ..Command::new([program.as_str()]).c_locale() };
        match system.query(&command) {
            Ok(output) if output.success() => Ok(printed(&output.stdout_text())),
            Ok(output) => {
                Err(ModuleError::command(format!("Failed to execute {program}"), &command, &output))
            }
            Err(error @ SystemError::Timeout { .. }) => self.late(error.to_string()).map(|()| Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Something took too long.
    fn late(&mut self, message: String) -> Result<()> {
        match self.args.on_timeout.as_str() {
            "ignore" => {}
            "warn" => self.warnings.push(message),
            _ => return Err(ModuleError::new(message)),
        }
        Ok(())
    }

    /// Those lines that are asked for, with size and UUID.
    fn mounts(&mut self, found: Vec<(String, Entry)>, system: &mut dyn System) -> Result<Vec<Map>> {
        let devices = patterns(self.args.devices.as_deref())?;
        let kinds = patterns(self.args.fstypes.as_deref())?;
        let mut mounts = Vec::new();
        for (source, Entry { line, mut fields }) in found {
            let text = |name: &str| fields.get(name).map(Value::to_text).unwrap_or_default();
            let (mut device, kind, point) = (text("device"), text("fstype"), text("mount"));
            let mut uuid = device.strip_prefix("UUID=").map(String::from);
            if let Some(uuid) = &uuid
                && let Some((path, _)) = self.uuids(system)?.iter().find(|(_, known)| known == uuid)
            {
                device = path.to_string_lossy().into_owned();
            }
            if !matches(&devices, &device)? || !matches(&kinds, &kind)? {
                continue;
            }
            match system.probe(&Probe::FileSystem(point.into(), self.limit)) {
                Ok(Answer::FileSystem(stat)) => fields.extend(use_of(&stat)),
                // What is not mounted, or not ours to see, has no size.
                Ok(_) | Err(SystemError::Io { .. }) => {}
                Err(error) => self.late(error.to_string())?,
            }
            if uuid.is_none() {
                let known = self.uuids(system)?;
                uuid = known
                    .iter()
                    .find(|(path, _)| path.as_os_str() == device.as_str())
                    .map(|found| found.1.clone());
            }
            let context = map_of([("source", source), ("source_data", line)]);
            fields.insert("ansible_context".into(), context.into());
            fields.insert("uuid".into(), uuid.into());
            mounts.push(fields);
        }
        Ok(mounts)
    }

    /// Devices and their UUIDs: by udev's links, else as `lsblk` knows them.
    fn uuids(&mut self, system: &mut dyn System) -> Result<&[(PathBuf, String)]> {
        const LINKS: &str = "/dev/disk/by-uuid";
        if self.uuids.is_none() {
            let mut known = Vec::new();
            for name in system.list(Path::new(LINKS)).unwrap_or_default() {
                let path = system.resolve(&Path::new(LINKS).join(&name))?;
                known.push((path, name.to_string_lossy().into_owned()));
            }
            if let Some(program) = host::find_program("lsblk", system)? {
                let words = ["--list", "--noheadings", "--paths", "--output", "NAME,UUID", "--exclude", "2"];
                let mut command = Command { timeout: Some(self.limit), ..Command::new([program]).c_locale() };
                command.argv.extend(words.map(Into::into));
                match system.query(&command) {
                    Ok(output) => {
                        for line in output.stdout_text().lines() {
                            if let [path, uuid] = line.split_whitespace().collect::<Vec<_>>()[..] {
                                known.push((path.into(), uuid.into()));
                            }
                        }
                    }
                    Err(error @ SystemError::Timeout { .. }) => self.late(error.to_string())?,
                    Err(error) => return Err(error.into()),
                }
            }
            self.uuids = Some(known);
        }
        Ok(self.uuids.as_deref().unwrap_or_default())
    }
}

fn patterns(texts: Option<&[String]>) -> Result<Vec<Pattern>> {
    let flags = Flags { anchored: true, ..Flags::default() };
    let compile = |text: &String| Ok(Pattern::new(&fnmatch(text), flags)?);
    texts.unwrap_or_default().iter().map(compile).collect()
}

/// Whether one of the patterns matches, or there are none.
fn matches(patterns: &[Pattern], text: &str) -> Result<bool> {
    for pattern in patterns {
        if pattern.is_match(text)? {
            return Ok(true);
        }
    }
    Ok(patterns.is_empty())
}

/// The lines of a table, of whichever form fits all of them: nothing if none does.
fn table(text: &str) -> Vec<Entry> {
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let forms: [fn(&str) -> Option<Entry>; 3] = [of_vfstab, of_mnttab, of_fstab];
    forms
        .iter()
        .find_map(|form| lines.iter().map(|line| form(line)).collect::<Option<Vec<Entry>>>())
        .unwrap_or_default()
}

fn entry(line: &str, fields: impl IntoIterator<Item = (&'static str, Value)>) -> Option<Entry> {
    Some(Entry { line: line.to_string(), fields: map_of(fields) })
}

/// A line of seven columns: device, device to check, mount point, type, pass, at boot, options.
fn of_vfstab(line: &str) -> Option<Entry> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [device, checked, mount, kind, pass, boot, options] = words[..] else { return None };
    let pass = pass.parse::<i64>().map_or_else(|_| Value::str(pass), Value::from);
    entry(
        line,
        [
            ("device", device.into()),
            ("device_to_fsck", checked.into()),
            ("mount", mount.into()),
            ("fstype", kind.into()),
            ("passno", pass),
            ("mount_at_boot", boot.into()),
            ("options", options.into()),
        ],
    )
}

/// A line of five columns, the last of which is a time.
fn of_mnttab(line: &str) -> Option<Entry> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [device, mount, kind, options, time] = words[..] else { return None };
    let time: i64 = Some(time).filter(|time| time.len() == 10)?.parse().ok()?;
    entry(
        line,
        [
            ("device", device.into()),
            ("mount", mount.into()),
            ("fstype", kind.into()),
            ("options", options.into()),
            ("time", time.into()),
        ],
    )
}

/// A line of four to six columns, the last two of which are numbers.
fn of_fstab(line: &str) -> Option<Entry> {
    let words: Vec<String> = line.split_whitespace().map(unescape_octal).collect();
    let [device, mount, kind, options, numbers @ ..] = &words[..] else { return None };
    let mut found = entry(
        line,
        [
            ("device", device.as_str().into()),
            ("mount", mount.as_str().into()),
            ("fstype", kind.as_str().into()),
            ("options", options.as_str().into()),
        ],
    )?;
    for (name, number) in ["dump", "passno"].into_iter().zip(numbers) {
        found.fields.insert(name.into(), number.parse::<i64>().ok()?.into());
    }
    Some(found)
}

/// `DEVICE on MOUNT type TYPE (OPTIONS)`, as the command prints it.
fn printed(text: &str) -> Vec<Entry> {
    let one = |line: &str| {
        let (device, rest) = line.split_once(" on ")?;
        let (rest, options) = rest.strip_suffix(')')?.rsplit_once(" (")?;
        let (mount, kind) = rest.rsplit_once(" type ")?;
        entry(
            line,
            [
                ("device", device.into()),
                ("mount", mount.into()),
                ("fstype", kind.into()),
                ("options", options.into()),
            ],
        )
    };
    text.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::args::check;
    use crate::system::Output;
    use crate::system::fake::Fake;
    use crate::system::probe::FileSystem;

    const FSTAB: &str = "# what is to be\nUUID=1-2 / ext4 defaults 0 1\n/dev/sdb1 /srv/a\\040b xfs noatime\n\nfiles:/x /mnt nfs ro 0 0\n";
    const MOUNTED: &str = "/dev/sda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\n/dev/sda1 / ext4 ro 0 0\n";

    fn machine() -> Fake {
        let lsblk = [
            "/usr/bin/lsblk",
            "--list",
            "--noheadings",
            "--paths",
            "--output",
            "NAME,UUID",
            "--exclude",
            "2",
        ];
        let printed = "/dev/sda1 on / type ext4 (rw)\nx on /a type b type c (d)\nnoise\n";
        let fake = Fake::new()
            .with_file("/etc/fstab", FSTAB)
            .with_file("/proc/mounts", MOUNTED)
            .with_program("/usr/bin/mount")
            .with_program("/usr/bin/lsblk")
            .with_command(&["/usr/bin/mount"], Output::ok(printed))
            .with_command(&lsblk, Output::ok("/dev/sda\n/dev/sda1 1-2\n/dev/sdb1 3-4\n"));
        ["/", "/proc", "/srv/a b", "/mnt", "/a type b"].iter().fold(fake, |fake, point| {
            let size =
                FileSystem { block_size: 4096, fragment_size: 4096, blocks: 10, ..FileSystem::default() };
            fake.with_answer(Probe::FileSystem(point.into(), FOR_EVER), Answer::FileSystem(size))
        })
    }

    fn told(args: &[(&str, Value)]) -> std::result::Result<Outcome, String> {
        let given: Map = map_of(args.iter().cloned());
        let args = check(&MODULE, &given, &|_| true).expect("valid");
        run(args, &mut machine()).map_err(|error| error.message)
    }

    fn points(outcome: &Outcome) -> Vec<String> {
        let facts = outcome.facts.as_ref().expect("facts");
        let points = facts.get("mount_points").and_then(Value::as_map).expect("a mapping");
        let one = |(point, mount): (&Value, &Value)| {
            let text = |name: &str| mount.get(name).map(Value::to_text).unwrap_or_default();
            format!("{} {} {} {}", point.to_text(), text("device"), text("options"), text("uuid"))
        };
        points.iter().map(one).collect()
    }

    #[test]
    fn tells_what_is_mounted_and_what_is_to_be() {
        let list = |items: &[&str]| Value::from(items.to_vec());
        for (args, expected) in [
            (
                vec![],
                vec![
                    "/ /dev/sda1 rw 1-2",
                    "/proc proc rw None",
                    "/srv/a b /dev/sdb1 noatime 3-4",
                    "/mnt files:/x ro None",
                ],
            ),
            (
                vec![("sources", list(&["static"]))],
                vec!["/ UUID=1-2 defaults 1-2", "/srv/a b /dev/sdb1 noatime 3-4", "/mnt files:/x ro None"],
            ),
            (vec![("sources", list(&["mount"]))], vec!["/ /dev/sda1 rw 1-2", "/a type b x d None"]),
            (
                vec![("devices", list(&["[!/]*"])), ("fstypes", list(&["nfs*"]))],
                vec!["/mnt files:/x ro None"],
            ),
            (
                vec![("devices", list(&["/dev/sda?"])), ("sources", list(&["static"]))],
                vec!["/ UUID=1-2 defaults 1-2"],
            ),
            (vec![("sources", list(&["/nowhere"]))], vec![]),
        ] {
            let outcome = told(&args).expect("facts");
            assert_eq!(points(&outcome), expected, "{args:?}");
        }
    }

    #[test]
    fn repeated_mount_points_are_told_or_warned_of() {
        let all = |outcome: &Outcome| {
            let facts = outcome.facts.as_ref().expect("facts");
            facts.get("aggregate_mounts").and_then(Value::as_list).expect("a list").len()
        };
        let outcome = told(&[]).expect("facts");
        assert_eq!((all(&outcome), outcome.warnings.len()), (0, 1), "{:?}", outcome.warnings);
        let outcome = told(&[("include_aggregate_mounts", true.into())]).expect("facts");
        assert_eq!((all(&outcome), outcome.warnings.len()), (6, 0), "{:?}", outcome.warnings);
        let outcome =
            told(&[("sources", vec!["mount", "mount"].into()), ("include_aggregate_mounts", true.into())]);
        let outcome = outcome.expect("facts");
        assert_eq!((all(&outcome), outcome.warnings.len()), (2, 1), "{:?}", outcome.warnings);
    }

    #[test]
    fn bad_arguments_are_refused() {
        for (args, message) in [
            (("timeout", Value::Int(0)), "argument 'timeout' must be a positive number or null, not 0"),
            (("mount_binary", Value::Int(1)), "argument 'mount_binary' must be a string or null, not 1"),
            (("sources", Value::from(vec![""])), "sources contains an empty string"),
        ] {
            assert_eq!(told(&[args]).expect_err("refused"), message);
        }
    }

    #[test]
    fn tables_are_read_in_the_form_that_fits() {
        let fields = |text: &str| -> Vec<String> {
            table(text).iter().map(|entry| Value::map(entry.fields.clone()).repr()).collect()
        };
        assert_eq!(
            fields("/dev/dsk/a /dev/rdsk/a / ufs 1 no -\n"),
            [
                "{'device': '/dev/dsk/a', 'device_to_fsck': '/dev/rdsk/a', 'mount': '/', 'fstype': 'ufs', 'passno': 1, 'mount_at_boot': 'no', 'options': '-'}"
            ]
        );
        assert_eq!(
            fields("a / ufs rw 1700000000\n"),
            ["{'device': 'a', 'mount': '/', 'fstype': 'ufs', 'options': 'rw', 'time': 1700000000}"]
        );
        assert_eq!(
            fields("a / ufs rw 1\n"),
            ["{'device': 'a', 'mount': '/', 'fstype': 'ufs', 'options': 'rw', 'dump': 1}"]
        );
        assert_eq!(fields("a b\n"), Vec::<String>::new());
        assert_eq!(fields("a / ufs rw x y\n"), Vec::<String>::new());
    }
}
