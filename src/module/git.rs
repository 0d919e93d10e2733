//! `git`: working copies and mirrors of repositories.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Done, Effect, FileKind, Intent, Output, System};
use crate::value::{Value, map_of};

/// Keeps a working copy at a version.
pub const MODULE: Module = Module {
    name: "ansible.builtin.git",
    summary: "Keep a working copy of a git repository at a version",
    description: "Asks the remote for the version's commit first, and fetches only if it is not the one that is \
        checked out. Local modifications are an error unless `force`. Git never asks for a password.",
    example: "- ansible.builtin.git:\n    repo: https://git.example.com/app.git\n    dest: /srv/app\n    version: v1.2.3\n",
    scope: Scope::World,
    params: &[
        Param::new("repo", Type::Str, "The repository: an address or a path on the host.")
            .required()
            .aliases(&["name"]),
        Param::new("dest", Type::Path, "Directory of the working copy.").required(),
        Param::new("version", Type::Str, "Branch, tag or commit.").default("HEAD"),
        Param::new("remote", Type::Str, "Name of the remote.").default("origin"),
        Param::new("refspec", Type::Str, "What else to fetch."),
        Param::new("clone", Type::Bool, "Clone if there is no working copy.").default("yes"),
        Param::new("update", Type::Bool, "Update a working copy that is there.").default("yes"),
        Param::new("force", Type::Bool, "Throw local modifications away.").default("no"),
        Param::new("depth", Type::Int, "How many commits of history to fetch."),
        Param::new("single_branch", Type::Bool, "Fetch only the version's branch.").default("no"),
        Param::new("bare", Type::Bool, "A mirror without working copy.").default("no"),
        Param::new("recursive", Type::Bool, "Submodules too.").default("yes"),
        Param::new("track_submodules", Type::Bool, "Submodules at the head of their branch.").default("no"),
        Param::new("reference", Type::Str, "Another copy on the host to take objects from."),
        Param::new("separate_git_dir", Type::Path, "Directory for the repository itself."),
        Param::new("accept_hostkey", Type::Bool, "Accept any SSH host key.").default("no"),
        Param::new("accept_newhostkey", Type::Bool, "Accept the SSH host key of a host that is not known.")
            .default("no"),
        Param::new("key_file", Type::Path, "SSH key to log in with."),
        Param::new("ssh_opts", Type::Str, "Options for ssh."),
        Param::new("executable", Type::Path, "Path of git."),
        Param::new("umask", Type::Raw, "File mode mask: an octal number in quotes."),
        Param::new("verify_commit", Type::Bool, "The version must be signed.").default("no"),
        Param::new("gpg_allowlist", Type::List, "Fingerprints of keys that may have signed it.")
            .aliases(&["gpg_whitelist"])
            .default("[]"),
        Param::new("archive", Type::Path, "Archive of the version.")
            .refused("make it with `git archive` in a command"),
        Param::new("archive_prefix", Type::Str, "Directory in the archive.")
            .refused("make the archive with `git archive` in a command"),
    ],
    rules: &[
        Rule::MutuallyExclusive(&["separate_git_dir", "bare"]),
        Rule::MutuallyExclusive(&["accept_hostkey", "accept_newhostkey"]),
    ],
    returns: &[
        ("before", "Commit that was checked out; null if there was none."),
        ("after", "Commit that is checked out."),
        ("remote_url_changed", "Whether the remote's address was another one."),
    ],
    run: |args, system| run(typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    repo: String,
    dest: String,
    version: String,
    remote: String,
    refspec: Option<String>,
    clone: bool,
    update: bool,
    force: bool,
    depth: Option<u32>,
    single_branch: bool,
    bare: bool,
    recursive: bool,
    track_submodules: bool,
    reference: Option<String>,
    separate_git_dir: Option<String>,
    accept_hostkey: bool,
    accept_newhostkey: bool,
    key_file: Option<String>,
    ssh_opts: Option<String>,
    executable: Option<String>,
    umask: Option<Value>,
    verify_commit: bool,
    #[serde(deserialize_with = "host::texts")]
    gpg_allowlist: Vec<String>,
}

/// Git with the environment of a task.
struct Git {
    program: String,
    env: Vec<(String, String)>,
    umask: Option<u32>,
    dest: PathBuf,
}

impl Git {
    fn new(args: &Args, dest: PathBuf, system: &mut dyn System) -> Result<Git, ModuleError> {
        let program = match &args.executable {
            Some(path) => args::expand_path(path, system)?.to_string_lossy().into_owned(),
            None => host::need_program("git", system)?,
        };
        let umask = match &args.umask {
            None => None,
            Some(Value::Str(text)) => Some(
                u32::from_str_radix(&text.text, 8)
                    .map_err(|_| ModuleError::new("umask must be an octal integer"))?,
            ),
            Some(_) => return Err(ModuleError::new("umask must be defined as a quoted octal integer")),
        };
        let mut ssh = vec!["ssh".to_string()];
        if let Some(key) = &args.key_file {
            let key = args::expand_path(key, system)?.to_string_lossy().into_owned();
            ssh.extend(["-i".into(), host::quote_word(&key), "-o IdentitiesOnly=yes".into()]);
        }
        ssh.extend(args.ssh_opts.clone());
        let decided =
            args.ssh_opts.as_deref().is_some_and(|options| options.contains("StrictHostKeyChecking"));
        if args.accept_hostkey && !decided {
            ssh.push("-o StrictHostKeyChecking=no".into());
        } else if args.accept_newhostkey && !decided {
            ssh.push("-o StrictHostKeyChecking=accept-new".into());
        }
        ssh.push("-o BatchMode=yes".into());
        let env = vec![
            ("GIT_SSH_COMMAND".to_string(), ssh.join(" ")),
            ("GIT_TERMINAL_PROMPT".to_string(), "0".to_string()),
        ];
        Ok(Git { program, env, umask, dest })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new([self.program.as_str()].iter().chain(words).copied()).c_locale();
        command.env.extend(self.env.iter().cloned());
        command.umask = self.umask;
        command
    }

    fn inside(&self, words: &[&str]) -> Command {
        Command { cwd: Some(self.dest.clone()), ..self.command(words) }
    }

    /// What git prints in the working copy; `None` if it fails.
    fn ask(&self, words: &[&str], system: &mut dyn System) -> Result<Option<String>, ModuleError> {
        let output = system.query(&self.inside(words))?;
        Ok(output.success().then(|| output.stdout_text().trim_end().to_string()))
    }

    /// Does something to the working copy. Returns `None` if it was only recorded.
    fn act(
        &self,
        command: &Command,
        what: &str,
        step: &Step,
        system: &mut dyn System,
    ) -> Result<Option<Output>, ModuleError> {
        let intent = Intent {
            kind: "git",
            id: self.dest.to_string_lossy().into_owned(),
            before: step
                .before
                .as_ref()
                .map(|commit| map_of([("commit", commit.as_str())]).into())
                .unwrap_or_default(),
            after: map_of([("commit", step.after.as_deref().unwrap_or("unknown"))]).into(),
            effects: vec![Effect::Path(self.dest.clone(), FileKind::Directory), Effect::Anything],
            ..Intent::default()
        };
        match system.change(command, intent)? {
            Done::Made(output) if output.success() => Ok(Some(output)),
            Done::Made(output) => Err(ModuleError::command(what, command, &output)),
            Done::Recorded => Ok(None),
        }
    }
}

/// From which commit to which.
struct Step {
    before: Option<String>,
    after: Option<String>,
}

/// What the remote calls the version.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// The branch that is the remote's default.
    Head(Option<String>),
    Branch,
    Tag,
    /// A commit, or something that only a fetch can tell.
    Commit,
}

struct Remote {
    kind: Kind,
    commit: Option<String>,
}

/// Asks the remote which commit the version is.
fn ask_remote(args: &Args, git: &Git, repo: &str, system: &mut dyn System) -> Result<Remote, ModuleError> {
    let is_commit = args.version.len() == 40 && args.version.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_commit {
        return Ok(Remote { kind: Kind::Commit, commit: Some(args.version.clone()) });
    }
    let command = if args.version == "HEAD" {
        git.command(&["ls-remote", "--symref", repo, "HEAD"])
    } else {
        let version = args.version.as_str();
        let (head, tag, peeled) = (
            format!("refs/heads/{version}"),
            format!("refs/tags/{version}"),
            format!("refs/tags/{version}^{{}}"),
        );
        git.command(&["ls-remote", repo, &head, &tag, &peeled])
    };
    let output = system.query(&command)?;
    if !output.success() {
        return Err(ModuleError::command("Failed to ask the remote repository", &command, &output));
    }
    Ok(read_refs(&output.stdout_text(), &args.version))
}

fn read_refs(text: &str, version: &str) -> Remote {
    let mut refs: Vec<(&str, &str)> = Vec::new();
    let mut default = None;
    for line in text.lines() {
        let Some((commit, name)) = line.split_once('\t') else { continue };
        match commit.strip_prefix("ref: refs/heads/") {
            Some(branch) => default = Some(branch.trim().to_string()),
            None => refs.push((commit, name)),
        }
    }
    let find =
        |name: String| refs.iter().find(|(_, known)| *known == name).map(|(commit, _)| (*commit).to_string());
    if version == "HEAD" {
        return Remote { kind: Kind::Head(default), commit: find("HEAD".into()) };
    }
    if let Some(commit) = find(format!("refs/heads/{version}")) {
        return Remote { kind: Kind::Branch, commit: Some(commit) };
    }
    // A tag with a message of its own is an object; what it points to is the commit.
    if let Some(commit) =
        find(format!("refs/tags/{version}^{{}}")).or_else(|| find(format!("refs/tags/{version}")))
    {
        return Remote { kind: Kind::Tag, commit: Some(commit) };
    }
    Remote { kind: Kind::Commit, commit: None }
}

/// Addresses that differ only in a slash or `.git` at the end are one.
fn same_address(one: &str, other: &str) -> bool {
    let plain = |address: &str| address.trim_end_matches('/').trim_end_matches(".git").to_string();
    let bare = |address: &str| plain(address.strip_prefix("file://").unwrap_or(address));
    bare(one) == bare(other)
}

fn run(mut args: Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let expanded = args::expand_path(&args.repo, system)?.to_string_lossy().into_owned();
    if expanded.starts_with('/') {
        args.repo = format!("file://{expanded}");
    }
    let args = &args;
    let dest = args::expand_path(&args.dest, system)?;
    let git = Git::new(args, dest.clone(), system)?;
    let repository = repository_path(args, &dest, system)?;
    let is_cloned = host::exists(repository.join("config"), system)?;
    let outcome = if is_cloned { update(args, &git, system)? } else { clone(args, &git, system)? };
    let after = outcome.values.get("after").cloned().unwrap_or_default();
    let state = map_of([("commit", after), ("version", args.version.as_str().into())]);
    system.applied(Applied {
        kind: "git".into(),
        id: dest.to_string_lossy().into_owned(),
        state: state.into(),
    });
    Ok(outcome)
}

/// Where the repository itself is: in the working copy, or where a file there points to.
fn repository_path(args: &Args, dest: &Path, system: &mut dyn System) -> Result<PathBuf, ModuleError> {
    if args.bare {
        return Ok(dest.to_path_buf());
    }
    let inner = dest.join(".git");
    match system.stat_follow(&inner)?.map(|stat| stat.kind) {
        Some(FileKind::File) => {
            let text = host::read_text(&inner, system).unwrap_or_default();
            let target = text.trim().strip_prefix("gitdir:").map(str::trim).ok_or_else(|| {
                ModuleError::new("Current repo does not have a valid reference to a separate Git dir or it refers to the invalid path")
            })?;
            Ok(dest.join(target))
        }
        _ => Ok(inner),
    }
}

fn clone(args: &Args, git: &Git, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let remote = ask_remote(args, git, &args.repo, system)?;
    let mut outcome = Outcome::default().set("before", Value::Null).set("after", remote.commit.clone());
    if !args.clone {
        outcome.changed = Some(true);
        return Ok(outcome);
    }
    let parent = git.dest.parent().map(PathBuf::from).unwrap_or_default();
    if system.stat_follow(&parent)?.is_none() {
        make_directories(&parent, system)?;
    }
    let mut words: Vec<String> = vec!["clone".into()];
    let mut put = |given: &[&str]| words.extend(given.iter().map(ToString::to_string));
    if args.bare {
        put(&["--bare"])
    } else {
        put(&["--origin", &args.remote])
    }
    let is_named = matches!(remote.kind, Kind::Branch | Kind::Tag);
    if let Some(depth) = args.depth {
        if is_named || matches!(remote.kind, Kind::Head(_)) || args.refspec.is_some() {
            put(&["--depth", &depth.to_string()]);
        } else {
            outcome.warnings.push(
                "Ignoring depth argument. Shallow clones are only available for HEAD, branches, tags or in combination with refspec."
                    .into(),
            );
        }
    }
    if is_named && (args.depth.is_some() || args.single_branch) {
        put(&["--branch", &args.version]);
    }
    if args.single_branch {
        put(&["--single-branch"]);
    }
    if let Some(reference) = &args.reference {
        put(&["--reference", reference]);
    }
    if let Some(directory) = &args.separate_git_dir {
        let directory = args::expand_path(directory, system)?;
        put(&[&format!("--separate-git-dir={}", directory.display())]);
    }
    put(&[&args.repo, &git.dest.to_string_lossy()]);
    let step = Step { before: None, after: remote.commit.clone() };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let command = git.command(&words);
    if git.act(&command, "Failed to clone", &step, system)?.is_none() {
        return Ok(outcome);
    }
    if args.bare && args.remote != "origin" {
        git.act(
            &git.inside(&["remote", "add", &args.remote, &args.repo]),
            "Failed to add the remote",
            &step,
            system,
        )?;
    }
    if let Some(refspec) = &args.refspec {
        fetch(args, git, &remote, Some(refspec), &step, system)?;
    }
    finish(args, git, &remote, &step, system)?;
    Ok(outcome.set("after", git.ask(&["rev-parse", "HEAD"], system)?))
}

fn make_directories(directory: &Path, system: &mut dyn System) -> Result<(), ModuleError> {
    if directory.as_os_str().is_empty() || system.stat_follow(directory)?.is_some() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_directories(parent, system)?;
    }
    Ok(system.make_dir(directory, &crate::system::Attributes::default())?)
}

fn update(args: &Args, git: &Git, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let before = git.ask(&["rev-parse", "HEAD"], system)?;
    let mut outcome = Outcome::default().set("before", before.clone()).set("after", before.clone());
    if !args.update {
        return Ok(outcome);
    }
    let is_modified = !args.bare
        && git
            .ask(&["status", "--porcelain"], system)?
            .unwrap_or_default()
            .lines()
            .any(|line| !line.starts_with("??") && !line.trim().is_empty());
    if is_modified && !args.force {
        return Err(ModuleError::new(format!(
            "Local modifications exist in the destination: {} (force=no).",
            git.dest.display()
        ))
        .with("before", before));
    }
    let remote = ask_remote(args, git, &args.repo, system)?;
    let step = Step { before: before.clone(), after: remote.commit.clone() };
    if is_modified {
        git.act(&git.inside(&["reset", "--hard", "HEAD"]), "Failed to reset", &step, system)?;
        outcome = outcome
            .set("msg", format!("Local modifications exist in the destination: {}", git.dest.display()));
    }
    let address = git.ask(&["ls-remote", "--get-url", &args.remote], system)?.unwrap_or_default();
    let is_moved = !address.is_empty() && address != args.remote && !same_address(&address, &args.repo);
    if is_moved {
        let command = git.inside(&["remote", "set-url", &args.remote, &args.repo]);
        git.act(&command, "Failed to set the remote's address", &step, system)?;
    }
    outcome = outcome.set("remote_url_changed", is_moved);
    let is_there = match (&remote.commit, &before) {
        (Some(commit), Some(now)) => commit == now,
        // A shortened commit can only be looked up among what is here already.
        (None, Some(now)) => {
            let name = format!("{}^{{commit}}", args.version);
            git.ask(&["rev-parse", "--verify", "--quiet", &name], system)?.as_ref() == Some(now)
        }
        _ => false,
    };
    let on_branch = remote.kind != Kind::Branch
        || args.bare
        || git.ask(&["symbolic-ref", "--short", "--quiet", "HEAD"], system)?.as_deref()
            == Some(args.version.as_str());
    let has_submodules = args.recursive && !args.bare && host::exists(git.dest.join(".gitmodules"), system)?;
    if is_there && !is_moved && on_branch && !is_modified {
        if has_submodules {
            submodules(args, git, &step, system)?;
        }
        return Ok(outcome);
    }
    if fetch(args, git, &remote, args.refspec.as_deref(), &step, system)?.is_none() {
        return Ok(outcome.set("after", remote.commit));
    }
    finish(args, git, &remote, &step, system)?;
    let after = git.ask(&["rev-parse", "HEAD"], system)?;
    // Fetching that led to the same commit is none of the user's business.
    if after == before && !is_moved && !is_modified {
        outcome.changed = Some(false);
    }
    Ok(outcome.set("after", after))
}

fn fetch(
    args: &Args,
    git: &Git,
    remote: &Remote,
    refspec: Option<&str>,
    step: &Step,
    system: &mut dyn System,
) -> Result<Option<Output>, ModuleError> {
    let version = args.version.as_str();
    let mut words: Vec<String> = ["fetch", "--force", "--tags"].map(String::from).to_vec();
    let mut refspecs: Vec<String> = Vec::new();
    if args.bare {
        refspecs.push("+refs/heads/*:refs/heads/*".into());
    } else if let Some(depth) = args.depth {
        words.extend(["--depth".into(), depth.to_string()]);
        match &remote.kind {
            Kind::Branch => {
                refspecs.push(format!("+refs/heads/{version}:refs/remotes/{}/{version}", args.remote))
            }
            Kind::Tag => refspecs.push(format!("+refs/tags/{version}:refs/tags/{version}")),
            Kind::Head(_) => {}
            Kind::Commit => refspecs.push(version.to_string()),
        }
    } else {
        refspecs.push(format!("+refs/heads/*:refs/remotes/{}/*", args.remote));
    }
    refspecs.extend(refspec.map(String::from));
    words.push(args.remote.clone());
    words.extend(refspecs);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    git.act(&git.inside(&words), "Failed to download remote objects and refs", step, system)
}

/// Checks the version out, with its submodules.
fn finish(
    args: &Args,
    git: &Git,
    remote: &Remote,
    step: &Step,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    if args.verify_commit {
        verify(args, git, remote, system)?;
    }
    if args.bare {
        return Ok(());
    }
    let branch = match &remote.kind {
        Kind::Branch => Some(args.version.clone()),
        Kind::Head(name) => name.clone(),
        _ => None,
    };
    let failed = format!("Failed to checkout {}", args.version);
    match branch {
        None => {
            let name = if matches!(remote.kind, Kind::Head(_)) { "HEAD" } else { &args.version };
            git.act(&git.inside(&["checkout", "--force", name]), &failed, step, system)?;
        }
        Some(branch) => {
            let upstream = format!("{}/{branch}", args.remote);
            let own = format!("refs/heads/{branch}");
            if git.ask(&["rev-parse", "--verify", "--quiet", &own], system)?.is_none() {
                let command = git.inside(&["checkout", "--force", "--track", "-b", &branch, &upstream]);
                git.act(&command, &failed, step, system)?;
            } else {
                git.act(&git.inside(&["checkout", "--force", &branch]), &failed, step, system)?;
                git.act(&git.inside(&["reset", "--hard", &upstream, "--"]), &failed, step, system)?;
            }
        }
    }
    if args.recursive && host::exists(git.dest.join(".gitmodules"), system)? {
        submodules(args, git, step, system)?;
    }
    Ok(())
}

fn submodules(args: &Args, git: &Git, step: &Step, system: &mut dyn System) -> Result<(), ModuleError> {
    let status = git.ask(&["submodule", "status", "--recursive"], system)?.unwrap_or_default();
    let differs = status.lines().any(|line| line.starts_with(['-', '+', 'U']));
    if !differs && !args.track_submodules {
        return Ok(());
    }
    git.act(&git.inside(&["submodule", "sync"]), "Failed to sync submodules", step, system)?;
    let mut words = vec!["submodule", "update", "--init", "--recursive"];
    if args.track_submodules {
        words.push("--remote");
    }
    if args.force {
        words.push("--force");
    }
    git.act(&git.inside(&words), "Failed to init/update submodules", step, system)?;
    Ok(())
}

fn verify(args: &Args, git: &Git, remote: &Remote, system: &mut dyn System) -> Result<(), ModuleError> {
    let verb = if remote.kind == Kind::Tag { "verify-tag" } else { "verify-commit" };
    let name = match &remote.kind {
        Kind::Branch => format!("{}/{}", args.remote, args.version),
        _ => args.version.clone(),
    };
    let command = git.inside(&[verb, "--raw", &name]);
    let output = system.query(&command)?;
    if !output.success() {
        return Err(ModuleError::command(
            format!("Failed to verify GPG signature of commit/tag \"{}\"", args.version),
            &command,
            &output,
        ));
    }
    let said = output.stderr_text();
    let print =
        said.lines().find_map(|line| line.strip_prefix("[GNUPG:] VALIDSIG ")?.split_whitespace().next());
    if !args.gpg_allowlist.is_empty() && !args.gpg_allowlist.iter().any(|known| Some(known.as_str()) == print)
    {
        return Err(ModuleError::new(format!(
            "The gpg_allowlist does not include the public key \"{}\" for this commit",
            print.unwrap_or("unknown")
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::journal::Journal;
    use crate::system::local::{Local, NoDepot};
    use crate::system::recorder::Recorder;

    #[test]
    fn refs_are_read() {
        for (text, version, kind, commit) in [
            ("ref: refs/heads/main\tHEAD\naaa\tHEAD\n", "HEAD", Kind::Head(Some("main".into())), Some("aaa")),
            ("aaa\trefs/heads/dev\n", "dev", Kind::Branch, Some("aaa")),
            ("aaa\trefs/tags/v1\nbbb\trefs/tags/v1^{}\n", "v1", Kind::Tag, Some("bbb")),
            ("", "abc123", Kind::Commit, None),
        ] {
            let remote = read_refs(text, version);
            assert_eq!((remote.kind, remote.commit.as_deref()), (kind, commit), "{version}");
        }
        assert!(
            same_address("https://h/a.git", "https://h/a/") && !same_address("https://h/a", "https://h/b")
        );
    }

    fn local() -> Local {
        Local::new(Box::new(NoDepot))
    }

    fn shell(directory: &Path, line: &str) {
        let command = Command {
            cwd: Some(directory.to_path_buf()),
            env: [
                ("GIT_CONFIG_GLOBAL", "/dev/null"),
                ("GIT_AUTHOR_NAME", "a"),
                ("GIT_AUTHOR_EMAIL", "a@b"),
                ("GIT_COMMITTER_NAME", "a"),
                ("GIT_COMMITTER_EMAIL", "a@b"),
            ]
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .to_vec(),
            ..Command::new(["/bin/sh", "-ec", line])
        };
        let output = local().query(&command).expect("it runs");
        assert!(output.success(), "{line}: {}", output.stderr_text());
    }

    /// Whether it changes something in a dry run, in a real one, and in another one.
    fn runs(given: &[(&str, Value)]) -> [bool; 3] {
        let given = Value::map(map_of(given.iter().cloned()));
        let mut dry = Recorder::new(local());
        let changed = |outcome: &Outcome, changes: usize| outcome.changed.unwrap_or(changes > 0);
        let outcome = call(&MODULE, &given, &mut dry).expect("a dry run works");
        let first = changed(&outcome, dry.take().0.len());
        let again = || {
            let mut real = Journal::new(local());
            let outcome = call(&MODULE, &given, &mut real).expect("it works");
            changed(&outcome, real.take().0.len())
        };
        [first, again(), again()]
    }

    #[test]
    fn a_working_copy_follows_its_remote() {
        if host::find_program("git", &mut local()).expect("readable").is_none() {
            return;
        }
        let place = tempfile::tempdir().expect("a temporary directory");
        let (root, origin, copy) =
            (place.path(), place.path().join("origin"), place.path().join("deep/copy"));
        shell(
            root,
            "git init -q -b main origin; cd origin; echo 1 >f; git add f; git commit -qm 1; git tag -a v1 -m v1",
        );
        let given = |version: &str| {
            [
                ("repo", Value::from(origin.to_string_lossy().into_owned())),
                ("dest", copy.to_string_lossy().into_owned().into()),
                ("version", version.into()),
            ]
        };
        let text =
            || std::str::from_utf8(&local().read(&copy.join("f")).expect("there")).expect("text").to_string();
        assert_eq!(runs(&given("HEAD")), [true, true, false]);
        shell(&origin, "echo 2 >f; git commit -qam 2; git branch dev");
        assert_eq!(runs(&given("main")), [true, true, false]);
        assert_eq!(text(), "2\n");
        assert_eq!(runs(&given("v1")), [true, true, false]);
        assert_eq!(text(), "1\n");
        assert_eq!(runs(&given("dev")), [true, true, false]);
        shell(&copy, "echo mine >f");
        let refused = call(&MODULE, &Value::map(map_of(given("dev"))), &mut local()).expect_err("modified");
        assert!(refused.starts_with("Local modifications exist"), "{refused}");
        let forced: Vec<_> = given("dev").into_iter().chain([("force", true.into())]).collect();
        assert_eq!(runs(&forced), [true, true, false]);
        assert_eq!(text(), "2\n");
        let missing =
            call(&MODULE, &Value::map(map_of(given("nothing"))), &mut local()).expect_err("unknown");
        assert!(missing.starts_with("Failed to checkout nothing"), "{missing}");
    }
}
