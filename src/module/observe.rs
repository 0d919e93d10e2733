//! `setpoint.drift.observe`: says in what state resources are that a run has left, and changes nothing.
//!
//! It looks through a [`ReadOnly`] machine. What it finds it reports as [`Applied`], in the form in which the
//! modules report what they have applied, so that the two can be compared as they are. An observer for a
//! kind of resource is one line in [`OBSERVERS`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use crate::module::dpkg::Database;
use crate::module::{
    Module, ModuleError, Outcome, Param, Type, apt_repository, authorized_key, clock, cron, files, host,
    modprobe, sysctl, systemd,
};
use crate::system::change::mode_text;
use crate::system::readonly::ReadOnly;
use crate::system::{Applied, Command, FileKind, Found, System};
use crate::value::{Map, Value, map_of};

/// The module.
pub const MODULE: Module = Module {
    name: "setpoint.drift.observe",
    summary: "Says in what state resources are, and changes nothing",
    description: "What `setpoint drift audit` asks of a host. It looks through an interface that cannot write.",
    example: "- name: In what state is it?\n  setpoint.drift.observe:\n    paths: [/etc/motd]\n",
    params: &[
        Param::new("request", Type::Int, "Number under which the controller has the rest of the arguments."),
        Param::new("paths", Type::Raw, "Files, directories and links."),
        Param::new(
            "left",
            Type::Raw,
            "For each of `paths` the two numbers of the digest of how it was left.",
        ),
        Param::new("trees", Type::Dict, "Directories, with the names that belong there; others are told."),
        Param::new(
            "resources",
            Type::Raw,
            "Other resources: lists of kind, name, the state that was left, and whether to tell in any case.",
        ),
        Param::new("hints", Type::Raw, "Paths of which to tell who changed them, and when."),
    ],
    returns: &[
        ("request", "The number of the request."),
        ("same", "How many resources are as they were left: those are not told one by one."),
        ("added", "Names in `trees` that do not belong there, by directory."),
        ("problems", "What could not be looked at: lists of kind, name, and why."),
        ("hints", "What is known of the last change, by path."),
        ("now", "The host's clock: seconds since the epoch."),
    ],
    run,
    ..Module::DEFAULT
};

/// The state of one resource: `Null` if it is not there. `left` is the state that a run has left it in.
type Observer = fn(id: &str, left: &Value, system: &mut dyn System) -> Result<Value, ModuleError>;

/// How each kind of resource is looked at. Kinds that are not here can't be told without the playbook.
const OBSERVERS: &[(&str, Observer)] = &[
    ("apt_repository", apt_repository::observe),
    ("authorized_key", authorized_key::observe),
    ("cron", cron::observe),
    ("git", git),
    ("group", group),
    ("hostname", hostname),
    ("kernel_module", modprobe::observe),
    ("mount", mount),
    ("package", package),
    ("package_selection", selection),
    ("path", path),
    ("service", systemd::observe),
    ("sysctl", sysctl::observe),
    ("timezone", timezone),
    ("user", user),
];

/// Whether resources of a kind can be looked at without the playbook.
pub fn can_observe(kind: &str) -> bool {
    kind == "file" || OBSERVERS.iter().any(|(known, _)| *known == kind)
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let mut system = ReadOnly::new(system);
    let list = |name: &str| args.get(name).and_then(Value::as_list).unwrap_or_default().to_vec();
    let paths: Vec<PathBuf> = list("paths").iter().map(|path| PathBuf::from(path.to_text())).collect();
    let left = list("left");
    let left: Vec<[i64; 2]> =
        left.chunks_exact(2).map(|pair| [0, 1].map(|at| pair[at].as_int().unwrap_or_default())).collect();
    let mut same = 0_i64;
    let mut problems: Vec<Value> = Vec::new();
    let mut problem = |kind: &str, id: &str, why: String| problems.push(vec![kind, id, why.as_str()].into());
    for (place, (path, found)) in paths.iter().zip(system.survey(&paths)).enumerate() {
        let id = || path.to_string_lossy().into_owned();
        match found {
            Ok(found) if left.get(place) == Some(&digest(&text_of(&found))) => same += 1,
            Ok(found) => {
                system.applied(Applied { kind: kind_of(&found).into(), id: id(), state: state_of(&found) })
            }
            Err(error) => problem("file", &id(), error.to_string()),
        }
    }
    for one in list("resources") {
        let [kind, id, left, told] = one.as_list().unwrap_or_default() else { continue };
        let (kind, id) = (kind.to_text(), id.to_text());
        let observer = OBSERVERS.iter().find(|(known, _)| *known == kind).map(|(_, observer)| observer);
        match observer.map(|observer| observer(&id, left, &mut system)) {
            Some(Ok(state)) if state == *left && !told.truthy() => same += 1,
            Some(Ok(state)) => system.applied(Applied { kind, id, state }),
            Some(Err(error)) => problem(&kind, &id, error.message),
            None => problem(&kind, &id, "it can't be told without the playbook".into()),
        }
    }
    let mut added = Map::new();
    if let Some(trees) = args.get("trees").and_then(Value::as_map) {
        for (directory, names) in trees {
            let known: Vec<&str> =
                names.as_list().unwrap_or_default().iter().filter_map(Value::as_str).collect();
            // A directory that is gone, or is none any more, is told as such.
            let there = system.list(Path::new(&directory.to_text())).unwrap_or_default();
            let names: Vec<Value> = there
                .iter()
                .map(|name| name.to_string_lossy())
                .filter(|name| !known.contains(&name.as_ref()))
                .map(|name| Value::from(name.into_owned()))
                .collect();
            if !names.is_empty() {
                added.insert(directory.clone(), Value::list(names));
            }
        }
    }
    let hinted: Vec<String> = list("hints").iter().map(Value::to_text).collect();
    let (now, _) = clock::since_epoch(SystemTime::now());
    Ok(Outcome::default()
        .set("request", args.get("request").cloned().unwrap_or_default())
        .set("same", same)
        .set("added", added)
        .set("problems", Value::list(problems))
        .set("hints", hints(&hinted, &mut system))
        .set("now", now))
}

fn kind_of(found: &Found) -> &'static str {
    found.stat.as_ref().map_or("file", |stat| match stat.kind {
        FileKind::Directory => "directory",
        FileKind::Link => "link",
        _ => "file",
    })
}

/// As the modules record what is at a path.
fn state_of(found: &Found) -> Value {
    let Some(stat) = &found.stat else { return Value::Null };
    if let Some(target) = &found.target {
        return map_of([("target", target.to_string_lossy().into_owned())]).into();
    }
    let mut state = map_of([("mode", mode_text(stat.mode))]);
    state.extend(map_of([("uid", stat.uid), ("gid", stat.gid)]));
    if stat.kind == FileKind::File {
        state.extend(map_of([("size", stat.size)]));
        state.extend(found.sha256.as_ref().map(|digest| ("sha256".into(), digest.as_str().into())));
    }
    state.into()
}

/// [`state_of`] in the form and the words in which the state store keeps it.
fn text_of(found: &Found) -> String {
    let Some(stat) = &found.stat else { return "null".into() };
    if let Some(target) = &found.target {
        let target = Value::from(target.to_string_lossy().into_owned());
        return format!(
            "{{\"type\":\"link\",\"target\":{}}}",
            serde_json::to_string(&target).unwrap_or_default()
        );
    }
    let typed = if stat.kind == FileKind::Directory { "\"type\":\"directory\"," } else { "" };
    let mut text =
        format!("{{{typed}\"mode\":\"{}\",\"uid\":{},\"gid\":{}", mode_text(stat.mode), stat.uid, stat.gid);
    // Writing into a text does not fail.
    if stat.kind == FileKind::File {
        let _ = write!(text, ",\"size\":{}", stat.size);
        if let Some(sha256) = &found.sha256 {
            let _ = write!(text, ",\"sha256\":\"{sha256}\"");
        }
    }
    text.push('}');
    text
}

/// The first 128 bits of the sha256 of a state as it is kept. No digest is zero.
pub fn digest(text: &str) -> [i64; 2] {
    let digest = Sha256::digest(text);
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest[at..at + 8]);
        i64::from_be_bytes(bytes)
    };
    [number(0) | 1, number(8)]
}

fn package(id: &str, left: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    let name = id.split_once(['=', '<', '>']).map_or(id, |(name, _)| name);
    let (name, architecture) = match name.split_once(':') {
        Some((name, architecture)) => (name, Some(architecture)),
        None => (name, None),
    };
    let version = if host::exists("/var/lib/dpkg/status", system)? {
        let database = Database::read(system);
        let own = database.get(name, architecture).filter(|package| package.is_installed());
        own.or_else(|| database.provider(name)).map(|package| package.version.clone())
    } else {
        let output = host::ask(["rpm", "-q", "--qf", "%{EPOCHNUM}:%{VERSION}-%{RELEASE}\n", name], system)?;
        let text = output.stdout_text();
        output.success().then(|| text.lines().next().unwrap_or_default().to_string())
    };
    let Some(version) = version else { return Ok(Value::Null) };
    let mut state = map_of([("installed", true)]);
    if left.get("version").is_some() {
        state.insert("version".into(), version.into());
    }
    Ok(state.into())
}

fn selection(id: &str, _: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    let database = Database::read(system);
    let package = database.get(id.split(':').next().unwrap_or(id), None);
    let word = package.and_then(|package| package.status.split(' ').next());
    Ok(word.map_or(Value::Null, |word| map_of([("selection", word)]).into()))
}

fn path(id: &str, _: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    let exists = host::exists(id, system)? || !host::expand_pattern(id, system)?.is_empty();
    Ok(map_of([("exists", exists)]).into())
}

fn hostname(_: &str, _: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    let name = host::read_text("/proc/sys/kernel/hostname", system).unwrap_or_default();
    Ok(map_of([("name", name.trim())]).into())
}

fn timezone(_: &str, _: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    let resolved = system.resolve(Path::new("/etc/localtime"))?;
    let linked = resolved.to_string_lossy();
    let name = match linked.split_once("/zoneinfo/") {
        Some((_, name)) => name.to_string(),
        None => host::read_text("/etc/timezone", system).unwrap_or_default().trim().to_string(),
    };
    Ok(map_of([("name", name)]).into())
}

fn group(id: &str, left: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    let Some(group) = system.group(id)?.filter(|group| group.name == id) else { return Ok(Value::Null) };
    let mut state = map_of([("exists", Value::Bool(true))]);
    if left.get("gid").is_some() {
        state.insert("gid".into(), group.gid.into());
    }
    Ok(state.into())
}

fn user(id: &str, left: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    let Some(user) = system.user(id)?.filter(|user| user.name == id) else { return Ok(Value::Null) };
    let member_of = groups_of(id, system);
    let mut state = map_of([("exists", Value::Bool(true))]);
    let text = |path: &Path| Value::from(path.to_string_lossy().into_owned());
    for (key, value) in [
        ("uid", user.uid.into()),
        ("group", user.gid.into()),
        ("comment", user.gecos.as_str().into()),
        ("home", text(&user.home)),
        ("shell", text(&user.shell)),
    ] {
        if left.get(key).is_some() {
            state.insert(key.into(), value);
        }
    }
    if let Some(groups) = left.get("groups") {
        state.insert("groups".into(), as_left(groups, &member_of));
    }
    if let Some(groups) = left.get("in_groups") {
        let wanted: Vec<String> = groups.as_list().unwrap_or_default().iter().map(Value::to_text).collect();
        let there = member_of.into_iter().filter(|name| wanted.contains(name)).collect::<Vec<_>>();
        state.insert("in_groups".into(), as_left(groups, &there));
    }
    Ok(state.into())
}

/// A set of names in the order in which it was left, if it is the same set.
fn as_left(left: &Value, now: &[String]) -> Value {
    let mut wanted: Vec<String> = left.as_list().unwrap_or_default().iter().map(Value::to_text).collect();
    wanted.sort_unstable();
    let mut there = now.to_vec();
    there.sort_unstable();
    if wanted == there { left.clone() } else { there.into() }
}

/// The groups that name the account as a member.
fn groups_of(user: &str, system: &mut dyn System) -> Vec<String> {
    let text = host::read_text("/etc/group", system).unwrap_or_default();
    let names = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let members = fields.nth(2)?;
        members.split(',').any(|member| member.trim() == user).then(|| name.to_string())
    });
    names.collect()
}

fn git(id: &str, left: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    if !host::is_directory(id, system)? {
        return Ok(Value::Null);
    }
    // Its own configuration is not to be run, and it may belong to somebody else.
    let quiet = ["-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"];
    let words = [&["git", "-C", id], &quiet[..], &["rev-parse", "HEAD"]].concat();
    let output = host::ask(words, system)?;
    if !output.success() {
        return Ok(Value::Null);
    }
    let mut state = map_of([("commit", output.stdout_text().trim())]);
    state.extend(left.get("version").map(|version| ("version".into(), version.clone())));
    Ok(state.into())
}

fn mount(id: &str, left: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    let plain = |text: &str| text.replace("\\040", " ");
    let find = |table: &str| -> Option<Map> {
        let fields = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .rfind(|fields| fields.len() >= 4 && !fields[0].starts_with('#') && plain(fields[1]) == id)?;
        Some(map_of([("src", plain(fields[0])), ("fstype", fields[2].into()), ("opts", fields[3].into())]))
    };
    let kept = host::read_text("/etc/fstab", system).and_then(|table| find(&table));
    let mounted = host::read_text("/proc/self/mounts", system).and_then(|table| find(&table));
    let Some(now) = kept.or_else(|| {
        // The kernel spells options and sources its own way.
        mounted.map(|_| left.as_map().cloned().unwrap_or_default())
    }) else {
        return Ok(Value::Null);
    };
    let state = left.as_map().cloned().unwrap_or_default().into_iter().map(|(key, value)| {
        let value = if value.is_null() { value } else { now.get(&key).cloned().unwrap_or_default() };
        (key, value)
    });
    Ok(Value::map(state.collect()))
}

/// Who changed these paths and when, as far as the machine tells.
fn hints(paths: &[String], system: &mut dyn System) -> Map {
    if paths.is_empty() {
        return Map::new();
    }
    let owners = owners(paths, system);
    let log = host::read_text("/var/log/dpkg.log", system).unwrap_or_default();
    let sessions = sessions(system);
    let mut out = Map::new();
    for path in paths {
        let mut said: Vec<String> = Vec::new();
        let stat = system.stat(Path::new(path)).ok().flatten();
        let mut moment = None;
        match &stat {
            Some(stat) => {
                let (content, inode) = (stat.mtime, stat.ctime);
                moment = Some(inode);
                said.push(format!("content last changed {}", when(content)));
                if inode - content > 1.0 {
                    said.push(format!("attributes (or its name) last changed {}", when(inode)));
                }
            }
            None => {
                let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
                if let Ok(Some(stat)) = system.stat(parent) {
                    moment = Some(stat.mtime);
                    said.push(format!("{} last changed {}", parent.display(), when(stat.mtime)));
                }
            }
        }
        if let Some(package) = owners.get(path) {
            let upgraded = log.lines().rfind(|line| {
                let mut words = line.split(' ').skip(2);
                matches!(words.next(), Some("upgrade" | "install"))
                    && words.next().is_some_and(|name| name.split(':').next() == Some(package))
            });
            said.push(match upgraded {
                Some(line) => {
                    format!("belongs to package {package}, last unpacked {}", line.get(..19).unwrap_or(line))
                }
                None => format!("belongs to package {package}"),
            });
        }
        said.extend(moment.and_then(|moment| logged_in(&sessions, moment)));
        out.insert(path.as_str().into(), said.into());
    }
    out
}

fn when(seconds: f64) -> String {
    files::utc(seconds).replace('@', " ") + " UTC"
}

/// The packages that own paths.
fn owners(paths: &[String], system: &mut dyn System) -> BTreeMap<String, String> {
    let mut words = vec!["dpkg".to_string(), "-S".into()];
    words.extend(paths.iter().take(200).cloned());
    let Ok(output) = host::ask(words, system) else { return BTreeMap::new() };
    let text = output.stdout_text();
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines
        .map(|(package, path)| {
            let first = package.split([',', ':']).next().unwrap_or(package);
            (path.to_string(), first.to_string())
        })
        .collect()
}

/// Somebody's time on the machine, as `last` tells it; times are UTC.
#[derive(Debug, PartialEq)]
struct Session {
    /// `ann pts/0 192.0.2.7`.
    who: String,
    /// When it began: `2026-01-31T12:00:00`.
    from: String,
    end: End,
}

#[derive(Debug, PartialEq)]
enum End {
    At(String),
    /// It goes on.
    Open,
    /// The machine went down, or nobody has noted it.
    Unknown,
}

/// How many logins are looked through.
const LOGINS: &str = "500";

/// Who logged in, the latest first.
fn sessions(system: &mut dyn System) -> Vec<Session> {
    let mut command = Command::new(["last", "-w", "-n", LOGINS, "--time-format", "iso"]).c_locale();
    command.env.push(("TZ".into(), "UTC".into()));
    system.query(&command).map(|output| read_sessions(&output.stdout_text())).unwrap_or_default()
}

fn read_sessions(text: &str) -> Vec<Session> {
    let time = |word: &str| {
        let is_time = word.get(10..11) == Some("T") && word.starts_with(|c: char| c.is_ascii_digit());
        word.get(..19).filter(|_| is_time).map(str::to_string)
    };
    let lines = text.lines().take_while(|line| !line.trim().is_empty());
    let sessions = lines.filter(|line| !line.starts_with("reboot")).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| time(word).is_some())?;
        let end = match words.get(at + 1..)? {
            ["-", end, ..] => time(end).map_or(End::Unknown, End::At),
            ["still", ..] => End::Open,
            _ => End::Unknown,
        };
        Some(Session { who: words[..at].join(" "), from: time(words[at])?, end })
    });
    sessions.collect()
}

/// Who was logged in at a moment (seconds since the epoch), or at least before it.
fn logged_in(sessions: &[Session], moment: f64) -> Option<String> {
    let moment = files::utc(moment).replace('@', "T");
    let before: Vec<&Session> = sessions.iter().filter(|session| session.from <= moment).collect();
    let was_there = |session: &&&Session| match &session.end {
        End::At(end) => *end >= moment,
        End::Open => true,
        End::Unknown => false,
    };
    let told = |session: &Session| format!("{} (since {} UTC)", session.who, session.from.replace('T', " "));
    let there: Vec<String> = before.iter().filter(was_there).take(3).map(|session| told(session)).collect();
    match (there.as_slice(), before.first()) {
        ([], None) => None,
        ([], Some(last)) => Some(format!("last login before that: {}", told(last))),
        _ => Some(format!("logged in at that time: {}", there.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::args::check;
    use crate::system::fake::Fake;
    use crate::system::recorder::Recorder;

    fn observe(args: Map, machine: Fake) -> (Map, Vec<Applied>) {
        let mut recorder = Recorder::new(machine);
        let args = check(&MODULE, &args, &|_| true).expect("valid");
        let outcome = run(args, &mut recorder).expect("it looks");
        let (changes, applied) = recorder.take();
        assert_eq!(changes, []);
        (outcome.values, applied)
    }

    #[test]
    fn paths_are_told_as_modules_record_them() {
        let machine = Fake::new().with_file("/etc/motd", "hello\n").with_dir("/srv").with_file("/srv/a", "");
        let paths: Vec<&str> = vec!["/etc/motd", "/srv", "/gone"];
        let trees = Value::map(map_of([("/srv", Value::from(vec!["b"]))]));
        let (values, applied) = observe(map_of([("paths", Value::from(paths)), ("trees", trees)]), machine);
        let kinds: Vec<(&str, &str)> =
            applied.iter().map(|one| (one.kind.as_str(), one.id.as_str())).collect();
        assert_eq!(kinds, [("file", "/etc/motd"), ("directory", "/srv"), ("file", "/gone")]);
        let digest = applied[0].state.get("sha256").and_then(Value::as_str).expect("a digest");
        assert_eq!(digest, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        assert!(applied[2].state.is_null());
        assert_eq!(values.get("added").expect("told").repr(), "{'/srv': ['a']}");
    }

    #[test]
    fn what_is_as_it_was_left_is_only_counted() {
        let machine = || {
            Fake::new()
                .with_file("/a", "hello\n")
                .with_dir("/d")
                .with_link("/l", "/a \"b\"")
                .with_file("/b", "")
        };
        let paths = ["/a", "/d", "/l", "/gone", "/b"];
        // In the words in which the store keeps what modules record.
        let kept: Vec<String> = machine()
            .survey(&paths.map(PathBuf::from))
            .into_iter()
            .map(|found| {
                let found = found.expect("it is looked at");
                let mut state = match kind_of(&found) {
                    "file" => Map::new(),
                    other => map_of([("type", other)]),
                };
                state.extend(state_of(&found).as_map().cloned().unwrap_or_default());
                let is_there = found.stat.is_some();
                let state = if is_there { Value::map(state) } else { Value::Null };
                let text = serde_json::to_string(&state).expect("it is plain");
                assert_eq!(text_of(&found), text);
                text
            })
            .collect();
        let ask = |kept: &[String]| {
            let left = kept.iter().flat_map(|text| digest(text)).map(Value::Int).collect();
            let plain = |told: bool| {
                let state = map_of([("exists", Value::Bool(true))]);
                Value::list(vec!["path".into(), "/a".into(), state.into(), told.into()])
            };
            let args = map_of([
                ("request", Value::Int(3)),
                ("paths", Value::from(paths.to_vec())),
                ("left", Value::list(left)),
                ("resources", Value::list(vec![plain(false), plain(true)])),
            ]);
            let (values, applied) = observe(args, machine());
            assert_eq!(values.get("request"), Some(&Value::Int(3)));
            let told: Vec<String> = applied.into_iter().map(|one| one.id).collect();
            (values.get("same").and_then(Value::as_int).expect("counted"), told.join(" "))
        };
        assert_eq!(ask(&kept), (6, "/a".to_string()), "what is to be told in any case is told");
        let mut other = kept.clone();
        other[0] = other[0].replace("0644", "0600");
        other[3] = "{}".into();
        assert_eq!(ask(&other), (4, "/a /gone /a".to_string()));
        assert_eq!(ask(&[]), (1, "/a /d /l /gone /b /a".to_string()));
    }

    #[test]
    fn logins_are_told_that_fit_the_time_of_a_change() {
        let text = "bob      tty1                          2026-11-22T10:00:00+00:00   still logged in\n\
            ann      pts/0        192.0.2.7        2026-11-22T09:00:00+00:00 - 2026-11-22T09:30:00+00:00  (00:30)\n\
            eve      pts/1        192.0.2.9        2026-11-22T08:00:00+00:00   gone - no logout\n\
            reboot   system boot  6.1.0            2026-11-22T07:59:00+00:00   still running\n\
            old      pts/0        192.0.2.7        2026-11-21T09:00:00+00:00 - crash                      (22:59)\n\
            \nwtmp begins 2026-11-01T00:00:00+00:00\n";
        let sessions = read_sessions(text);
        assert_eq!(sessions.len(), 4);
        // The 22nd of November 2026, at midnight.
        let day = 1_795_305_600.0;
        let hour = 3600.0;
        for (hours, expected) in [
            (9.25, Some("logged in at that time: ann pts/0 192.0.2.7 (since 2026-11-22 09:00:00 UTC)")),
            (12.0, Some("logged in at that time: bob tty1 (since 2026-11-22 10:00:00 UTC)")),
            (9.75, Some("last login before that: ann pts/0 192.0.2.7 (since 2026-11-22 09:00:00 UTC)")),
            (8.5, Some("last login before that: eve pts/1 192.0.2.9 (since 2026-11-22 08:00:00 UTC)")),
            (-20.0, None),
        ] {
            assert_eq!(logged_in(&sessions, day + hours * hour).as_deref(), expected, "{hours}");
        }
    }

    #[test]
    fn other_resources_are_told_with_the_properties_that_were_left() {
        let status = "Package: nginx\nStatus: install ok installed\nArchitecture: all\nVersion: 1.2-3\n\n";
        let machine = || {
            Fake::new()
                .with_file("/var/lib/dpkg/status", status)
                .with_file("/proc/sys/vm/swappiness", "10\n")
                .with_file("/etc/cron.d/backup", "#Ansible: nightly\n0 1 * * * root /bin/true\n")
                .with_file("/etc/group", "adm:x:4:ann\nsudo:x:27:bob,ann\n")
        };
        let left = |pairs: &[(&str, Value)]| Value::map(map_of(pairs.iter().map(|(k, v)| (*k, v.clone()))));
        let cases: &[(&str, &str, Value, &str)] = &[
            ("package", "nginx", left(&[("installed", true.into())]), "{'installed': True}"),
            ("package", "nginx", left(&[("version", "1".into())]), "{'installed': True, 'version': '1.2-3'}"),
            ("package", "apache2", Value::Null, "None"),
            ("sysctl", "vm.swappiness", left(&[("value", "10".into())]), "{'value': '10'}"),
            ("sysctl", "vm.nonsense", left(&[("value", "10".into())]), "None"),
            ("path", "/etc/cron.d/b*", Value::Null, "{'exists': True}"),
            ("path", "/nowhere", Value::Null, "{'exists': False}"),
            (
                "cron",
                "/etc/cron.d/backup: nightly",
                left(&[("line", "x".into())]),
                "{'line': '0 1 * * * root /bin/true'}",
            ),
            ("cron", "/etc/cron.d/backup: weekly", left(&[("line", "x".into())]), "None"),
        ];
        for (kind, id, left, expected) in cases {
            let one = Value::list(vec![(*kind).into(), (*id).into(), left.clone(), true.into()]);
            let (values, applied) = observe(map_of([("resources", Value::list(vec![one]))]), machine());
            assert_eq!(values.get("problems").expect("told").repr(), "[]", "{kind} {id}");
            assert_eq!(applied[0].state.repr(), *expected, "{kind} {id}");
        }
        assert_eq!(groups_of("ann", &mut machine()), ["adm", "sudo"]);
        let groups = Value::from(vec!["sudo", "adm"]);
        assert_eq!(as_left(&groups, &["adm".into(), "sudo".into()]), groups);
        assert_eq!(as_left(&groups, &["adm".into()]).repr(), "['adm']");
        let unknown = Value::list(vec!["apt_key".into(), "x".into(), Value::Null, false.into()]);
        let (values, applied) = observe(map_of([("resources", Value::list(vec![unknown]))]), machine());
        assert_eq!(applied, []);
        assert!(values.get("problems").expect("told").repr().contains("without the playbook"));
    }
}
