//! `synchronize`: rsync, run where the files come from or go to: on the controller, as its user.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, host, typed};
use crate::system::{Command, Done, Effect, Intent, Output, System};
use crate::value::{Value, map_of};

/// Brings two directory trees into line.
pub const MODULE: Module = Module {
    name: "ansible.posix.synchronize",
    summary: "Bring a directory tree into line with another, through rsync",
    description: "Runs rsync on the controller (or on the host of `delegate_to`), which connects to the host with the \
        user's own ssh, with the address, port, user and key that the inventory gives. rsync must be installed on both \
        sides. With `become`, the host's rsync runs under sudo. What would be transferred is asked of rsync before \
        it is done, so that check mode shows it and a tree that is in line costs one run.",
    example: "- name: The site's files, without what is no longer there\n  ansible.posix.synchronize:\n    src: site/\n    dest: /var/www/site\n    delete: true\n    rsync_opts:\n      - --exclude=.git\n",
    scope: Scope::World,
    params: &[
        Param::new(
            "src",
            Type::Path,
            "What is brought: on the controller when pushing, on the host when pulling.",
        )
        .required(),
        Param::new(
            "dest",
            Type::Path,
            "Where it goes: on the host when pushing, on the controller when pulling.",
        )
        .required(),
        Param::new("mode", Type::Str, "Towards the host (`push`) or from it (`pull`).")
            .choices(&["pull", "push"])
            .default("push"),
        Param::new(
            "archive",
            Type::Bool,
            "Recursive, with links, permissions, times, owner, group and devices.",
        )
        .default("true"),
        Param::new("checksum", Type::Bool, "Compare by content rather than by time and size.")
            .default("false"),
        Param::new("compress", Type::Bool, "Compress on the way.").default("true"),
        Param::new("copy_links", Type::Bool, "Bring what links point to instead of the links.")
            .default("false"),
        Param::new("delay_updates", Type::Bool, "Put all files in place at the end.").default("true"),
        Param::new("delete", Type::Bool, "Remove what the source does not have.").default("false"),
        Param::new("dest_port", Type::Int, "Port of the host's ssh; else that of the inventory."),
        Param::new("dirs", Type::Bool, "Directories without what is in them.").default("false"),
        Param::new("existing_only", Type::Bool, "Make no new files.").default("false"),
        Param::new("group", Type::Bool, "Keep the group; as `archive` if not given."),
        Param::new("link_dest", Type::PathList, "Directories to whose files unchanged ones are linked."),
        Param::new("links", Type::Bool, "Keep symbolic links; as `archive` if not given."),
        Param::new("owner", Type::Bool, "Keep the owner; as `archive` if not given."),
        Param::new("partial", Type::Bool, "Keep what came of a file when the transfer breaks off.")
            .default("false"),
        Param::new("perms", Type::Bool, "Keep permissions; as `archive` if not given."),
        Param::new("private_key", Type::Path, "Private key for ssh; else that of the inventory."),
        Param::new("recursive", Type::Bool, "With what is in directories; as `archive` if not given."),
        Param::new("rsync_opts", Type::List, "Further options for rsync.").default("[]"),
        Param::new("rsync_path", Type::Str, "What to run as rsync on the host."),
        Param::new("rsync_timeout", Type::Int, "Seconds without data after which rsync gives up.")
            .default("0"),
        Param::new(
            "set_remote_user",
            Type::Bool,
            "Connect as the user of the inventory; else as ssh decides.",
        )
        .default("true"),
        Param::new(
            "ssh_connection_multiplexing",
            Type::Bool,
            "Use connections that the user's ssh keeps open.",
        )
        .default("false"),
        Param::new("times", Type::Bool, "Keep times; as `archive` if not given."),
        Param::new("use_ssh_args", Type::Bool, "Pass on ssh options of the inventory.").default("false"),
        Param::new("verify_host", Type::Bool, "Check the host's key.").default("false"),
        Param::new("_local_rsync_path", Type::Path, "The rsync to run here.").default("rsync"),
        Param::new("_local_rsync_password", Type::Str, "Password for ssh.").secret(),
        Param::new("_ssh_args", Type::Str, "Options for ssh."),
        Param::new(
            "_substitute_controller",
            Type::Bool,
            "Replace the host's name by that of the connection.",
        )
        .default("false"),
        Param::new("_rsh", Type::Str, "What to reach the host with, instead of ssh."),
    ],
    returns: &[
        ("cmd", "The command."),
        ("msg", "What rsync did, a line a path: what changed, and the name."),
        ("rc", "Exit status."),
        ("stdout_lines", "The lines of `msg`."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    src: String,
    dest: String,
    archive: bool,
    checksum: bool,
    compress: bool,
    copy_links: bool,
    delay_updates: bool,
    delete: bool,
    dest_port: Option<i64>,
    dirs: bool,
    existing_only: bool,
    group: Option<bool>,
    #[serde(deserialize_with = "host::optional_texts")]
    link_dest: Option<Vec<String>>,
    links: Option<bool>,
    owner: Option<bool>,
    partial: bool,
    perms: Option<bool>,
    private_key: Option<String>,
    recursive: Option<bool>,
    #[serde(deserialize_with = "host::texts")]
    rsync_opts: Vec<String>,
    rsync_path: Option<String>,
    rsync_timeout: i64,
    ssh_connection_multiplexing: bool,
    times: Option<bool>,
    verify_host: bool,
    #[serde(rename = "_local_rsync_path")]
    program: String,
    #[serde(rename = "_local_rsync_password")]
    password: Option<String>,
    #[serde(rename = "_ssh_args")]
    ssh_args: Option<String>,
    #[serde(rename = "_rsh")]
    rsh: Option<String>,
}

/// Stands before each line that tells of a change, because servers may print greetings too.
const MARK: &str = "<<CHANGED>>";

/// Whether rsync reaches over to another machine for a path. A colon after a slash is part of a name.
fn is_remote(path: &str) -> bool {
    path.starts_with("rsync://")
        || path.find(':').is_some_and(|colon| path.find('/').is_none_or(|slash| colon < slash))
}

fn command(args: &Args, program: &str) -> Result<Command, ModuleError> {
    let mut argv: Vec<String> = Vec::new();
    if args.password.is_some() {
        argv.extend(["sshpass".to_string(), "-e".into()]);
    }
    argv.push(program.into());
    let mut flag = |given: bool, text: &str| argv.extend(given.then(|| text.to_string()));
    flag(args.delay_updates, "--delay-updates");
    flag(true, "-F");
    flag(args.compress, "--compress");
    flag(args.rsync_timeout != 0, &format!("--timeout={}", args.rsync_timeout));
    flag(args.delete, "--delete-after");
    flag(args.existing_only, "--existing");
    flag(args.checksum, "--checksum");
    flag(args.copy_links, "--copy-links");
    flag(args.archive, "--archive");
    for (given, name) in [
        (args.recursive, "recursive"),
        (args.links, "links"),
        (args.perms, "perms"),
        (args.times, "times"),
        (args.owner, "owner"),
        (args.group, "group"),
    ] {
        flag(given == Some(false) && args.archive, &format!("--no-{name}"));
        flag(given == Some(true) && !args.archive, &format!("--{name}"));
    }
    flag(args.dirs, "--dirs");
    flag(args.partial, "--partial");
    let over_daemon = args.src.starts_with("rsync://") || args.dest.starts_with("rsync://");
    if args.src.starts_with("rsync://") && args.dest.starts_with("rsync://") {
        return Err(ModuleError::new("either src or dest must be a localhost"));
    }
    if let Some(rsh) = &args.rsh {
        argv.push(format!("--rsh={rsh}"));
    } else if (is_remote(&args.src) || is_remote(&args.dest)) && !over_daemon {
        argv.push(format!("--rsh={}", ssh(args)));
    }
    argv.extend(args.rsync_path.iter().map(|path| format!("--rsync-path={path}")));
    argv.extend(args.rsync_opts.iter().cloned());
    for directory in args.link_dest.iter().flatten() {
        let target = args.dest.rsplit_once(':').map_or(args.dest.as_str(), |(_, path)| path);
        let same = |one: &str, other: &str| one.trim_end_matches('/') == other.trim_end_matches('/');
        if same(directory, target) {
            return Err(ModuleError::new(format!(
                "Hardlinking into the destination itself is not possible: {directory}"
            )));
        }
        argv.push(format!("--link-dest={directory}"));
    }
    argv.push(format!("--out-format={MARK}%i %n%L"));
    argv.push(args.src.clone());
    argv.push(args.dest.clone());
    let mut command = Command::new(argv).c_locale();
    // Not an argument: those are for everybody to see.
    command.env.extend(args.password.iter().map(|password| ("SSHPASS".to_string(), password.clone())));
    Ok(command)
}

/// The ssh that rsync starts. rsync splits it into words itself, with quotes.
fn ssh(args: &Args) -> String {
    let mut words: Vec<String> = vec!["ssh".into()];
    if !args.ssh_connection_multiplexing {
        words.extend(["-S".to_string(), "none".into()]);
    }
    words.extend(args.private_key.iter().flat_map(|key| ["-i".to_string(), host::quote_word(key)]));
    words.extend(args.dest_port.iter().flat_map(|port| ["-o".to_string(), format!("Port={port}")]));
    if !args.verify_host {
        words.extend(
            ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"].map(String::from),
        );
    }
    words.extend(args.ssh_args.iter().filter(|text| !text.is_empty()).cloned());
    words.join(" ")
}

/// What would be done, or was done: lines that were marked, without the mark, as `change name`.
fn told(output: &Output) -> Vec<String> {
    output.stdout_text().lines().filter_map(|line| line.strip_prefix(MARK)).map(String::from).collect()
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let program = if args.program.contains('/') {
        args.program.clone()
    } else {
        host::need_program(&args.program, system)?
    };
    if args.password.is_some() && host::find_program("sshpass", system)?.is_none() {
        return Err(ModuleError::new(
            "to use rsync connection with passwords, you must install the sshpass program",
        ));
    }
    let command = command(args, &program)?;
    let line = command.line();
    let failed = |output: &Output| {
        ModuleError::new(output.stderr_text().trim())
            .with("rc", output.code)
            .with("cmd", line.as_str())
            .with("stdout", output.stdout_text())
    };
    let mut rehearsal = command.clone();
    let place = usize::from(args.password.is_some()) * 2 + 1;
    rehearsal.argv.insert(place, "--dry-run".into());
    let expected = system.query(&rehearsal)?;
    if !expected.success() {
        return Err(failed(&expected));
    }
    let mut lines = told(&expected);
    if !lines.is_empty() {
        let names: Vec<&str> =
            lines.iter().filter_map(|line| line.split_once(' ')).map(|(_, name)| name).collect();
        let intent = Intent {
            kind: "files",
            id: args.dest.clone(),
            before: map_of([("differing", names.len())]).into(),
            after: map_of([("differing", Value::Int(0)), ("paths", names.into())]).into(),
            effects: vec![Effect::Anything],
            ..Intent::default()
        };
        if let Done::Made(output) = system.change(&command, intent)? {
            if !output.success() {
                return Err(failed(&output));
            }
            lines = told(&output);
        }
    }
    let changed = !lines.is_empty();
    let mut message = lines.join("\n");
    if changed {
        message.push('\n');
    }
    let outcome =
        Outcome::default().set("msg", message).set("rc", 0).set("cmd", line).set("stdout_lines", lines);
    Ok(Outcome { changed: Some(changed), ..outcome })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::args::check;
    use crate::module::contract::contract;
    use crate::system::fake::Fake;

    fn line(given: Vec<(&str, Value)>) -> String {
        let given = [("src", Value::from("/a/")), ("dest", "u@h:/b".into())].into_iter().chain(given);
        let args: Args = typed(check(&MODULE, &map_of(given), &|_| true).expect("valid")).expect("typed");
        command(&args, "rsync").expect("a command").line()
    }

    #[test]
    fn options_become_those_of_rsync() {
        let rest = "'--out-format=<<CHANGED>>%i %n%L' /a/ u@h:/b";
        let ssh = "'--rsh=ssh -S none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null'";
        let base = "rsync --delay-updates -F --compress";
        for (given, expected) in [
            (vec![], format!("{base} --archive {ssh} {rest}")),
            (
                vec![("archive", false.into()), ("times", true.into()), ("delete", true.into())],
                format!("{base} --delete-after --times {ssh} {rest}"),
            ),
            (
                vec![("perms", false.into()), ("rsync_opts", vec!["--exclude=x"].into())],
                format!("{base} --archive --no-perms {ssh} --exclude=x {rest}"),
            ),
            (
                vec![("private_key", "/k".into()), ("dest_port", 22.into()), ("verify_host", true.into())],
                format!("{base} --archive '--rsh=ssh -S none -i /k -o Port=22' {rest}"),
            ),
            (vec![("dest", "/c".into())], format!("{base} --archive {}", rest.replace("u@h:/b", "/c"))),
        ] {
            assert_eq!(line(given), expected);
        }
        for (path, remote) in
            [("h:/x", true), ("/x:y", false), ("./a:b", false), ("u@h:x", true), ("x", false)]
        {
            assert_eq!(is_remote(path), remote, "{path}");
        }
    }

    #[test]
    fn nothing_is_run_when_nothing_differs() {
        let mut fake = Fake::new()
            .with_program("/usr/bin/rsync")
            .with_command_prefix(&["rsync"], Output::ok("welcome!\n<<CHANGED>>cd+++++++++ x/\n"));
        let outcome = crate::module::contract::call(
            &MODULE,
            &map_of([("src", "/a"), ("dest", "/b")]).into(),
            &mut fake,
        )
        .expect("it works");
        assert_eq!(outcome.values.get("msg"), Some(&"cd+++++++++ x/\n".into()));
        assert_eq!(fake.log().iter().filter(|line| line.starts_with("! ")).count(), 1);
        fake.on(&["rsync"], true, |_, _| Output::ok("welcome!\n"));
        fake.forget();
        call_again(&mut fake);
        assert!(fake.changes().is_empty());
    }

    fn call_again(fake: &mut Fake) {
        let given = map_of([("src", "/a"), ("dest", "/b")]).into();
        let outcome = crate::module::contract::call(&MODULE, &given, fake).expect("it works");
        assert_eq!(outcome.changed, Some(false));
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn trees_come_into_line() {
        if !std::path::Path::new("/usr/bin/rsync").exists() {
            eprintln!("SKIPPED: there is no rsync on this machine");
            return;
        }
        let verdict = contract(
            &MODULE,
            &["d a 755", "f a/x 600 one", "d b 755", "f b/old 644 x"],
            r#"{"src": "@/a/", "dest": "@/b", "delete": true}"#,
        );
        assert_eq!((verdict.error, verdict.changed), (None, true));
        assert_eq!(verdict.tree, ["d a 755", "f a/x 600 one", "d b 755", "f b/x 600 one"]);
    }
}
