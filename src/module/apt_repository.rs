//! `apt_repository`: lines of apt's lists of sources.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::module::files::Mode;
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, facts, host, typed};
use crate::system::{Applied, Attributes, Command, Content, Done, Effect, Intent, System, WriteOptions};
use crate::value::{Value, map_of};

/// Adds and removes sources of packages.
pub const MODULE: Module = Module {
    name: "ansible.builtin.apt_repository",
    summary: "Add or remove a source of packages, as a line in a list of apt",
    description: "A new line goes into a file of its own in `/etc/apt/sources.list.d`. When something has changed \
        the lists of packages are fetched; if that fails, the files are put back. `ppa:owner/name` is resolved at \
        Launchpad.",
    example: "- ansible.builtin.apt_repository:\n    repo: deb [signed-by=/etc/apt/keyrings/x.asc] https://apt.example.com stable main\n    filename: example\n",
    scope: Scope::Host,
    params: &[
        Param::new("repo", Type::Str, "The line, or `ppa:owner/name`.").required(),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("filename", Type::Str, "Name of the file, without `.list`."),
        Param::new("mode", Type::Raw, "Permissions of a file that is written."),
        Param::new("update_cache", Type::Bool, "Fetch the lists of packages after a change.")
            .aliases(&["update-cache"])
            .default("yes"),
        Param::new("update_cache_retries", Type::Int, "How often fetching is tried.").default("5"),
        Param::new("update_cache_retry_max_delay", Type::Int, "Longest pause between tries in seconds.")
            .default("12"),
        Param::new("codename", Type::Str, "Release for a `ppa:`, instead of the machine's own."),
        Param::new("validate_certs", Type::Bool, "Launchpad must have a valid certificate.").default("yes"),
        Param::new(
            "install_python_apt",
            Type::Bool,
            "Has no effect: nothing needs to be installed for this.",
        )
        .default("true"),
    ],
    returns: &[
        ("repo", "The line."),
        ("state", "Whether it should be there."),
        ("sources_added", "Files that are new."),
        ("sources_removed", "Files that are gone."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    repo: String,
    state: String,
    filename: Option<String>,
    mode: Option<Value>,
    update_cache: bool,
    update_cache_retries: u32,
    update_cache_retry_max_delay: u64,
    codename: Option<String>,
    validate_certs: bool,
}

const LIST: &str = "/etc/apt/sources.list";
const PARTS: &str = "/etc/apt/sources.list.d";

/// A line: whether it is in force, what it says in a normal form, and its comment.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    enabled: bool,
    text: String,
    comment: String,
}

impl Source {
    /// `None` for lines that are no source.
    fn parse(line: &str) -> Option<Source> {
        let mut rest = line.trim();
        let enabled = !rest.starts_with('#');
        rest = rest.trim_start_matches(['#', ' ', '\t']);
        let (text, comment) = match rest.find('#') {
            Some(at) => (&rest[..at], rest[at + 1..].trim()),
            None => (rest, ""),
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let kind = *words.first()?;
        if !["deb", "deb-src"].contains(&kind) || words.len() < 3 {
            return None;
        }
        Some(Source { enabled, text: words.join(" "), comment: comment.to_string() })
    }

    fn line(&self) -> String {
        let comment = if self.comment.is_empty() { String::new() } else { format!(" # {}", self.comment) };
        format!("{}{comment}", self.text)
    }
}

/// The name that a file gets after its source's address.
fn suggested_name(text: &str) -> String {
    let mut bare = String::new();
    let mut depth = 0;
    for character in text.chars() {
        match character {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ if depth == 0 => bare.push(character),
            _ => {}
        }
    }
    let address = bare.split_whitespace().find(|word| !["deb", "deb-src"].contains(word)).unwrap_or_default();
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    let address = address.split_once('@').map_or(address, |(_, rest)| rest);
    let words: Vec<&str> =
        address.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.join("_")
}

struct File {
    path: PathBuf,
    text: String,
    there: bool,
}

fn read_files(system: &mut dyn System) -> Result<Vec<File>, ModuleError> {
    let mut paths = vec![PathBuf::from(LIST)];
    paths.extend(host::expand_pattern(&format!("{PARTS}/*.list"), system)?);
    Ok(paths
        .into_iter()
        .map(|path| {
            let text = host::read_text(&path, system);
            File { there: text.is_some(), text: text.unwrap_or_default(), path }
        })
        .collect())
}

/// Puts sources in, or takes them out; returns the files that differ.
fn edit(args: &Args, wanted: &[Source], mut files: Vec<File>) -> Vec<(File, String)> {
    let mut changed = Vec::new();
    let is_wanted = |line: &str| {
        let source = Source::parse(line)?;
        wanted.iter().position(|one| one.text == source.text).map(|at| (at, source))
    };
    let mut found = vec![false; wanted.len()];
    let mut edited: Vec<String> = Vec::new();
    for file in &files {
        let mut lines: Vec<String> = Vec::new();
        for line in file.text.lines() {
            match is_wanted(line) {
                None => lines.push(line.to_string()),
                Some(_) if args.state == "absent" => {}
                Some((at, source)) => {
                    found[at] = true;
                    let comment = if wanted[at].comment.is_empty() {
                        source.comment.clone()
                    } else {
                        wanted[at].comment.clone()
                    };
                    let new = Source { comment, enabled: true, text: source.text.clone() };
                    lines.push(if source.enabled && new.comment == source.comment {
                        line.to_string()
                    } else {
                        new.line()
                    });
                }
            }
        }
        let mut text = lines.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        // How the last line ends is no reason to write.
        edited.push(if text.trim_end() == file.text.trim_end() { file.text.clone() } else { text });
    }
    if args.state == "present" {
        for (source, _) in wanted.iter().zip(&found).filter(|(_, found)| !**found) {
            let name = args.filename.clone().unwrap_or_else(|| suggested_name(&source.text));
            let path =
                if name.starts_with('/') { PathBuf::from(&name) } else { Path::new(PARTS).join(&name) };
            let path = PathBuf::from(format!("{}.list", path.to_string_lossy().trim_end_matches(".list")));
            let at = files.iter().position(|file| file.path == path).unwrap_or_else(|| {
                files.push(File { path, text: String::new(), there: false });
                edited.push(String::new());
                files.len() - 1
            });
            if !edited[at].is_empty() && !edited[at].ends_with('\n') {
                edited[at].push('\n');
            }
            edited[at].push_str(&format!("{}\n", source.line()));
        }
    }
    for (file, text) in files.into_iter().zip(edited) {
        if file.text != text {
            changed.push((file, text));
        }
    }
    changed
}

/// Whether the source is in one of apt's lists, and enabled.
pub(super) fn observe(id: &str, _: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    let words = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
    let wanted = words(id);
    let mut files = host::expand_pattern("/etc/apt/sources.list.d/*.list", system)?;
    files.push("/etc/apt/sources.list".into());
    for file in files {
        let text = host::read_text(&file, system).unwrap_or_default();
        if text.lines().any(|line| words(line.split(" #").next().unwrap_or(line)) == wanted) {
            return Ok(map_of([("line", id)]).into());
        }
    }
    Ok(Value::Null)
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let mut keys = None;
    let repo = match args.repo.strip_prefix("ppa:") {
        Some(name) => {
            let codename = match &args.codename {
                Some(name) => name.clone(),
                None => facts::distribution::detect(system).release,
            };
            let (owner, archive) = name.split_once('/').unwrap_or((name, "ppa"));
            keys = Some((owner.to_string(), archive.to_string()));
            format!("deb http://ppa.launchpad.net/{owner}/{archive}/ubuntu {codename} main")
        }
        None => args.repo.trim().to_string(),
    };
    let source = Source::parse(&repo)
        .ok_or_else(|| ModuleError::new(format!("Invalid repository string: {}", args.repo)))?;
    let changed = edit(args, std::slice::from_ref(&source), read_files(system)?);
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    if let Some((owner, archive)) = keys.filter(|_| args.state == "present" && !changed.is_empty()) {
        fetch_ppa_key(args, &owner, &archive, system)?;
    }
    for (file, text) in &changed {
        write(args, file, text, system)?;
        let shown = file.path.to_string_lossy().into_owned();
        if !file.there {
            added.push(shown);
        } else if is_gone(file, text) {
            removed.push(shown);
        }
    }
    if args.update_cache
        && !changed.is_empty()
        && let Err(error) = update(args, system)
    {
        for (file, _) in &changed {
            put_back(file, system)?;
        }
        return Err(error);
    }
    let state =
        if args.state == "present" { map_of([("line", source.text.as_str())]).into() } else { Value::Null };
    system.applied(Applied { kind: "apt_repository".into(), id: source.text, state });
    Ok(Outcome::default()
        .set("repo", args.repo.as_str())
        .set("state", args.state.as_str())
        .set("sources_added", added)
        .set("sources_removed", removed))
}

/// A file of a source's own goes with its last line.
fn is_gone(file: &File, text: &str) -> bool {
    text.trim().is_empty() && file.path != Path::new(LIST)
}

fn write(args: &Args, file: &File, text: &str, system: &mut dyn System) -> Result<(), ModuleError> {
    if is_gone(file, text) {
        return Ok(system.remove(&file.path)?);
    }
    let mode = match &args.mode {
        Some(mode) => Mode::parse(mode)?.bits(0o644, false, 0o022, None),
        None => (!file.there).then_some(0o644),
    };
    let attributes = Attributes { mode, ..Attributes::default() };
    let content = Content::Bytes(text.as_bytes().to_vec());
    Ok(system.write(&file.path, &content, &attributes, WriteOptions::default())?)
}

fn put_back(file: &File, system: &mut dyn System) -> Result<(), ModuleError> {
    if file.there {
        host::write_text(&file.path, &file.text, 0o644, system)?;
    } else if system.stat(&file.path)?.is_some() {
        system.remove(&file.path)?;
    }
    Ok(())
}

fn update(args: &Args, system: &mut dyn System) -> Result<(), ModuleError> {
    let mut command = Command::new(["apt-get", "-y", "update"]).c_locale();
    command.env.push(("DEBIAN_FRONTEND".into(), "noninteractive".into()));
    for attempt in 0..=args.update_cache_retries {
        let intent = Intent {
            kind: "package_lists",
            id: "/var/lib/apt/lists".into(),
            effects: vec![Effect::Anything],
            ..Intent::default()
        };
        let Done::Made(output) = system.change(&command, intent)? else { return Ok(()) };
        let said = output.stderr_text();
        if output.success()
            && !said.lines().any(|line| line.starts_with("E:") || line.contains("Failed to fetch"))
        {
            return Ok(());
        }
        if attempt == args.update_cache_retries {
            return Err(ModuleError::new(format!("Failed to update apt cache: {}", said.trim()))
                .with("rc", output.code));
        }
        let pause = 2_u64.saturating_pow(attempt).min(args.update_cache_retry_max_delay);
        system.query(&Command::new(["sleep".to_string(), pause.to_string()]))?;
    }
    Ok(())
}

fn fetch_ppa_key(
    args: &Args,
    owner: &str,
    archive: &str,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    let path = PathBuf::from(format!("/etc/apt/trusted.gpg.d/ppa_{owner}_{archive}.asc"));
    if system.stat(&path)?.is_some() {
        return Ok(());
    }
    let about = format!("https://launchpad.net/api/1.0/~{owner}/+archive/{archive}");
    let answer = host::fetch_url(&about, args.validate_certs, system)?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|error| {
        ModuleError::new(format!("Launchpad's answer for ppa:{owner}/{archive} can't be read: {error}"))
    })?;
    let print = answer.get("signing_key_fingerprint").and_then(Value::as_str).unwrap_or_default();
    if print.is_empty() {
        return Err(ModuleError::new(format!("Launchpad knows no key of ppa:{owner}/{archive}")));
    }
    let address = format!("https://keyserver.ubuntu.com/pks/lookup?op=get&search=0x{print}");
    let key = host::fetch_url(&address, args.validate_certs, system)?;
    host::write_text(&path, &String::from_utf8_lossy(&key), 0o644, system)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    const REPO: &str = "deb [arch=amd64 signed-by=/k] https://me:x@apt.example.com/a stable main";

    #[test]
    fn lines_of_sources() {
        let file = "/etc/apt/sources.list.d/apt_example_com_a.list";
        // Content of sources.list, further arguments, the new file, sources.list afterwards.
        type Row = (String, &'static [(&'static str, &'static str)], Option<String>, String);
        let table: Vec<Row> = vec![
            ("deb http://d x main\n".into(), &[], Some(format!("{REPO}\n")), "deb http://d x main\n".into()),
            (format!("{REPO}\n"), &[], None, format!("{REPO}\n")),
            (format!("# {}\n", REPO.replace(' ', "  ")), &[], None, format!("{REPO}\n")),
            (format!("{REPO} # mine\n# note\n"), &[("state", "absent")], None, "# note\n".into()),
            ("# note".into(), &[("state", "absent")], None, "# note".into()),
        ];
        for (before, given, new, after) in table {
            let mut fake = Fake::new()
                .with_file(LIST, &before)
                .with_dir(PARTS)
                .with_command_prefix(&["apt-get"], Output::ok(""));
            let given = map_of([("repo", REPO)].into_iter().chain(given.iter().copied()));
            call(&MODULE, &given.into(), &mut fake).expect("it works");
            assert_eq!(fake.text(file), new, "{before}");
            assert_eq!(fake.text(LIST).as_deref(), Some(after.as_str()), "{before}");
            let updates = fake.log().iter().filter(|line| line.ends_with("update")).count();
            assert_eq!(updates, usize::from(before != after || new.is_some()), "{before}");
        }
    }

    #[test]
    fn a_source_that_does_not_work_is_taken_back() {
        let mut fake = Fake::new()
            .with_file(LIST, "")
            .with_dir(PARTS)
            .with_command_prefix(&["apt-get"], Output::fails(100, "E: no such host"));
        let given = map_of([
            ("repo", REPO.into()),
            ("update_cache_retries", Value::Int(0)),
            ("filename", "mine".into()),
        ]);
        let error = call(&MODULE, &given.into(), &mut fake).expect_err("it fails");
        assert_eq!(error, "Failed to update apt cache: E: no such host");
        assert_eq!(fake.text("/etc/apt/sources.list.d/mine.list"), None);
    }
}
