//! `user`: accounts.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::module::clock::Moment;
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, args, host, typed};
use crate::system::probe::{Answer, Probe};
use crate::system::{
    Applied, Attributes, Command, Content, Done, Effect, FileKind, Group, Intent, LinkKind, System, User,
    WriteOptions,
};
use crate::value::{Map, Value, map_of};

/// Adds, changes and removes accounts.
pub const MODULE: Module = Module {
    name: "ansible.builtin.user",
    summary: "Add, change or remove an account",
    description: "Uses `useradd`, `usermod`, `userdel`, `chage` and `chpasswd` (on BusyBox hosts `adduser` and \
        `deluser`), and only if something has to change. A password is given as a hash (filter `password_hash`); \
        it is handed over on standard input and appears in no argument list, diff or log.",
    example: "- name: An account for the application\n  ansible.builtin.user:\n    name: app\n    shell: /usr/sbin/nologin\n    system: true\n    groups: [www-data]\n    append: true\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Login name.").required().aliases(&["user"]),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("uid", Type::Int, "Its number."),
        Param::new("non_unique", Type::Bool, "The number may be that of another account too.")
            .default("false"),
        Param::new("uid_min", Type::Int, "Smallest number to choose, when it is made."),
        Param::new("uid_max", Type::Int, "Largest number to choose, when it is made."),
        Param::new("comment", Type::Str, "Comment field, usually the full name."),
        Param::new("group", Type::Str, "Primary group, by name or number; it must exist."),
        Param::new("groups", Type::List, "Further groups. Empty: none but the primary one."),
        Param::new("append", Type::Bool, "Stay in groups that are not listed.").default("false"),
        Param::new("shell", Type::Path, "Login shell."),
        Param::new("home", Type::Path, "Home directory."),
        Param::new("create_home", Type::Bool, "Make the home directory if it is missing.")
            .aliases(&["createhome"])
            .default("true"),
        Param::new("move_home", Type::Bool, "Move the old home directory when `home` changes.")
            .default("false"),
        Param::new("skeleton", Type::Str, "Directory whose content a new home directory gets."),
        Param::new("umask", Type::Str, "File mode mask of a new home directory."),
        Param::new("system", Type::Bool, "Take the number from those of system accounts, when it is made.")
            .default("false"),
        Param::new("password", Type::Str, "Hash of the password; `*` for none.").secret(),
        Param::new(
            "update_password",
            Type::Str,
            "Set the password always, or only when the account is made.",
        )
        .choices(&["always", "on_create"])
        .default("always"),
        Param::new("password_lock", Type::Bool, "Lock or unlock the password."),
        Param::new("password_expire_max", Type::Int, "Days after which the password must be changed."),
        Param::new("password_expire_min", Type::Int, "Days before which the password can't be changed."),
        Param::new("password_expire_warn", Type::Int, "Days of warning before the password expires."),
        Param::new(
            "password_expire_account_disable",
            Type::Int,
            "Days after its expiry that a password still counts.",
        ),
        Param::new(
            "expires",
            Type::Float,
            "When the account expires: seconds since the epoch; negative for never.",
        ),
        Param::new("force", Type::Bool, "With `absent`: also if the user is logged in. Replaces an SSH key.")
            .default("false"),
        Param::new("remove", Type::Bool, "With `absent`: remove home directory and mail too.")
            .default("false"),
        Param::new(
            "local",
            Type::Bool,
            "Look at and change local accounts only, with `luseradd` and the like.",
        )
        .default("false"),
        Param::new("seuser", Type::Str, "SELinux user."),
        Param::new("generate_ssh_key", Type::Bool, "Make an SSH key if there is none.").default("false"),
        Param::new("ssh_key_type", Type::Str, "Kind of that key.").default("rsa"),
        Param::new("ssh_key_bits", Type::Int, "Size of that key."),
        Param::new("ssh_key_file", Type::Path, "Its file, relative to the home directory."),
        Param::new("ssh_key_comment", Type::Str, "Its comment.").default("ansible-generated on $HOSTNAME"),
        Param::new("ssh_key_passphrase", Type::Str, "Its passphrase.").secret(),
        Param::new("authorization", Type::Str, "For other operating systems; has no effect on Linux."),
        Param::new("hidden", Type::Bool, "For other operating systems; has no effect on Linux."),
        Param::new("login_class", Type::Str, "For other operating systems; has no effect on Linux."),
        Param::new("profile", Type::Str, "For other operating systems; has no effect on Linux."),
        Param::new("role", Type::Str, "For other operating systems; has no effect on Linux."),
    ],
    returns: &[
        ("name", "Login name."),
        ("state", "Whether it should be there."),
        ("uid", "Its number."),
        ("group", "Number of its primary group."),
        ("groups", "Further groups as asked for, joined by commas."),
        ("append", "Whether it stays in other groups."),
        ("comment", "Comment field."),
        ("home", "Home directory."),
        ("shell", "Login shell."),
        ("create_home", "Whether a home directory was asked for, when it was made."),
        ("move_home", "Whether the home directory was to be moved."),
        ("system", "Whether a system account was asked for, when it was made."),
        ("password", "`NOT_LOGGING_PASSWORD` if one was given."),
        ("ssh_key_file", "File of the SSH key."),
        ("ssh_fingerprint", "Fingerprint of the SSH key."),
        ("ssh_public_key", "The public key."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    state: String,
    uid: Option<u32>,
    non_unique: bool,
    uid_min: Option<u32>,
    uid_max: Option<u32>,
    comment: Option<String>,
    group: Option<String>,
    #[serde(deserialize_with = "host::optional_texts")]
    groups: Option<Vec<String>>,
    append: bool,
    shell: Option<String>,
    home: Option<String>,
    create_home: bool,
    move_home: bool,
    skeleton: Option<String>,
    umask: Option<String>,
    system: bool,
    password: Option<String>,
    update_password: String,
    password_lock: Option<bool>,
    password_expire_max: Option<i64>,
    password_expire_min: Option<i64>,
    password_expire_warn: Option<i64>,
    password_expire_account_disable: Option<i64>,
    expires: Option<f64>,
    force: bool,
    remove: bool,
    local: bool,
    seuser: Option<String>,
    generate_ssh_key: bool,
    ssh_key_type: String,
    ssh_key_bits: Option<i64>,
    ssh_key_file: Option<String>,
    ssh_key_comment: String,
    ssh_key_passphrase: Option<String>,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let mut args = Args { groups: wanted_groups(args), ..typed_copy(args) };
    for path in [&mut args.home, &mut args.shell].into_iter().flatten() {
        *path = args::expand_path(path, system)?.to_string_lossy().into_owned();
    }
    let args = &args;
    refuse_with_local(args)?;
    let mut warnings = Vec::new();
    if args.append && args.groups.is_none() {
        warnings.push(
            "'append' is set, but no 'groups' are specified. Use 'groups' to say which groups to join".into(),
        );
    }
    let existing = system.user(&args.name)?;
    let mut values = map_of([("name", args.name.as_str()), ("state", args.state.as_str())]);
    if args.password.is_some() {
        values.insert("password".into(), "NOT_LOGGING_PASSWORD".into());
    }
    if args.state == "absent" {
        if let Some(user) = existing {
            remove(args, &user, system)?;
            values.insert("force".into(), args.force.into());
            values.insert("remove".into(), args.remove.into());
        }
        system.applied(Applied { kind: "user".into(), id: args.name.clone(), state: Value::Null });
        return Ok(Outcome { warnings, ..Outcome::with(values) });
    }
    match &existing {
        None => {
            add(args, system)?;
            values.insert("system".into(), args.system.into());
            values.insert("create_home".into(), args.create_home.into());
        }
        Some(user) => {
            change(args, user, system)?;
            values.insert("append".into(), args.append.into());
            values.insert("move_home".into(), args.move_home.into());
        }
    }
    password_ages(args, system)?;
    let Some(user) = system.user(&args.name)? else {
        return Err(ModuleError::new(format!("the account {} was made but is not there", args.name)));
    };
    if args.create_home && (existing.is_some() || args.local) {
        make_home(args, &user, system)?;
    }
    if args.generate_ssh_key {
        values.extend(ssh_key(args, &user, &mut warnings, system)?);
    }
    tell(args, &user, &mut values);
    system.applied(Applied {
        kind: "user".into(),
        id: args.name.clone(),
        state: managed(args, &user).into(),
    });
    let plain = args.password.as_deref().is_some_and(|password| !looks_hashed(password));
    if plain {
        warnings.push(
            "the password does not look like a hash, which is what `password` takes: use the filter password_hash"
                .into(),
        );
    }
    Ok(Outcome { warnings, ..Outcome::with(values) })
}

/// The commands for local accounts have no such options.
fn refuse_with_local(args: &Args) -> Result<(), ModuleError> {
    let given = [
        ("umask", args.umask.is_some()),
        ("uid_min", args.uid_min.is_some()),
        ("uid_max", args.uid_max.is_some()),
    ];
    match given.iter().find(|(_, given)| args.local && *given) {
        Some((name, _)) => Err(ModuleError::new(format!("'{name}' can not be used with 'local'"))),
        None => Ok(()),
    }
}

/// Whether a password is a hash as the shadow file has it, or disables logging in by password.
fn looks_hashed(password: &str) -> bool {
    let bare = password.trim_start_matches('!');
    if bare.is_empty() || bare.chars().all(|letter| letter == '*') {
        return true;
    }
    let parts: Vec<&str> = bare.split('$').collect();
    let Some(hash) = parts.last().filter(|_| parts.len() >= 3) else { return false };
    let length = match parts[1] {
        "1" => Some(22),
        "5" | "y" => Some(43),
        "6" => Some(86),
        _ => None,
    };
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '/' | '=');
    !bare.contains([':', '*']) && hash.chars().all(plain) && length.is_none_or(|length| hash.len() == length)
}

/// `groups: ''` means none.
fn wanted_groups(args: &Args) -> Option<Vec<String>> {
    let groups = args.groups.as_ref()?;
    Some(groups.iter().map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).collect())
}

fn typed_copy(args: &Args) -> Args {
    Args {
        name: args.name.clone(),
        state: args.state.clone(),
        comment: args.comment.clone(),
        group: args.group.clone().filter(|group| !group.is_empty()),
        groups: None,
        shell: args.shell.clone().filter(|shell| !shell.is_empty()),
        home: args.home.clone().filter(|home| !home.is_empty()),
        skeleton: args.skeleton.clone(),
        umask: args.umask.clone(),
        password: args.password.clone(),
        update_password: args.update_password.clone(),
        seuser: args.seuser.clone(),
        ssh_key_type: args.ssh_key_type.clone(),
        ssh_key_file: args.ssh_key_file.clone(),
        ssh_key_comment: args.ssh_key_comment.clone(),
        ssh_key_passphrase: args.ssh_key_passphrase.clone(),
        ..*args
    }
}

fn tell(args: &Args, user: &User, values: &mut Map) {
    if let Some(groups) = &args.groups {
        values.insert("groups".into(), groups.join(",").into());
    }
    if user.uid != u32::MAX {
        values.insert("uid".into(), user.uid.into());
    }
    if user.gid != u32::MAX {
        values.insert("group".into(), user.gid.into());
    }
    values.insert("comment".into(), user.gecos.as_str().into());
    values.insert("home".into(), user.home.to_string_lossy().into_owned().into());
    values.insert("shell".into(), user.shell.to_string_lossy().into_owned().into());
}

/// The properties that the task manages, as they are now.
fn managed(args: &Args, user: &User) -> Map {
    let mut state = map_of([("exists", Value::Bool(true))]);
    let mut put = |name: &str, given: bool, value: Value| {
        if given {
            state.insert(name.into(), value);
        }
    };
    put("uid", args.uid.is_some(), user.uid.into());
    put("group", args.group.is_some(), user.gid.into());
    put("comment", args.comment.is_some(), user.gecos.as_str().into());
    put("home", args.home.is_some(), user.home.to_string_lossy().into_owned().into());
    put("shell", args.shell.is_some(), user.shell.to_string_lossy().into_owned().into());
    // With `append` others may be there too.
    let groups = Value::from(args.groups.clone().unwrap_or_default());
    put("groups", args.groups.is_some() && !args.append, groups.clone());
    put("in_groups", args.groups.is_some() && args.append, groups);
    state
}

/// Runs a command that acts; its own words are the message if it fails.
fn act(command: Command, intent: Intent, system: &mut dyn System) -> Result<(), ModuleError> {
    let command = command.c_locale();
    match system.change(&command, intent)? {
        Done::Made(output) if !output.success() => {
            let said = output.stderr_text().trim().to_string();
            let said = if said.is_empty() { output.stdout_text().trim().to_string() } else { said };
            Err(ModuleError { message: said, ..ModuleError::command("", &command, &output) })
        }
        _ => Ok(()),
    }
}

/// The program for this host: the usual one, its counterpart for local accounts, or BusyBox's.
fn program(
    args: &Args,
    usual: &str,
    busybox: Option<&str>,
    system: &mut dyn System,
) -> Result<(String, bool), ModuleError> {
    let usual = if args.local { format!("l{usual}") } else { usual.to_string() };
    if let Some(busybox) = busybox
        && host::find_program(&usual, system)?.is_none()
        && let Some(path) = host::find_program(busybox, system)?
    {
        return Ok((path.to_string_lossy().into_owned(), true));
    }
    Ok((host::need_program(&usual, system)?, false))
}

fn user_facts(user: &User) -> Map {
    let number = |number: u32| if number == u32::MAX { Value::Null } else { number.into() };
    map_of([
        ("uid", number(user.uid)),
        ("gid", number(user.gid)),
        ("comment", user.gecos.as_str().into()),
        ("home", user.home.to_string_lossy().into_owned().into()),
        ("shell", user.shell.to_string_lossy().into_owned().into()),
    ])
}

fn remove(args: &Args, user: &User, system: &mut dyn System) -> Result<(), ModuleError> {
    let (program, busybox) = program(args, "userdel", Some("deluser"), system)?;
    let mut argv = vec![program];
    if busybox {
        argv.extend(args.remove.then(|| "--remove-home".to_string()));
    } else {
        argv.extend((args.force && !args.local).then(|| "-f".to_string()));
        argv.extend(args.remove.then(|| "-r".to_string()));
    }
    argv.push(args.name.clone());
    let mut effects = vec![Effect::NoUser(args.name.clone())];
    if args.remove {
        effects.push(Effect::NoPath(user.home.clone()));
    }
    // The account's own group goes with it unless somebody else is in it.
    if let Some(group) = system.group(&args.name)?
        && group.gid == user.gid
        && group.members.iter().all(|member| *member == args.name)
    {
        effects.push(Effect::NoGroup(args.name.clone()));
    }
    let intent = Intent {
        kind: "user",
        id: args.name.clone(),
        before: user_facts(user).into(),
        effects,
        ..Intent::default()
    };
    act(Command::new(argv), intent, system)
}

/// A group that the task names; in a dry run it may be one that a package would bring.
fn need_group(name: &str, system: &mut dyn System) -> Result<Group, ModuleError> {
    match system.group(name)? {
        Some(group) => Ok(group),
        None if system.uncertain().is_some() => {
            Ok(Group { name: name.into(), gid: u32::MAX, members: Vec::new() })
        }
        None => Err(ModuleError::new(format!("Group {name} does not exist"))),
    }
}

fn add(args: &Args, system: &mut dyn System) -> Result<(), ModuleError> {
    let (program, busybox) = program(args, "useradd", Some("adduser"), system)?;
    let primary = match &args.group {
        Some(name) => Some(need_group(name, system)?),
        None => None,
    };
    let namesake = system.group(&args.name)?;
    let mut further = Vec::new();
    for name in args.groups.iter().flatten() {
        further.push(need_group(name, system)?);
    }
    let home = args.home.clone().unwrap_or_else(|| format!("/home/{}", args.name));
    if args.create_home
        && let Some(parent) = Path::new(&home).parent()
    {
        make_parents(parent, system)?;
    }
    let argv = if busybox {
        add_busybox(args, program, primary.as_ref())
    } else {
        add_usual(args, program, primary.as_ref(), namesake.is_some())
    };
    let gid = primary.as_ref().map_or(u32::MAX, |group| group.gid);
    let user = User {
        name: args.name.clone(),
        uid: args.uid.unwrap_or(u32::MAX),
        gid,
        gecos: args.comment.clone().unwrap_or_default(),
        home: home.clone().into(),
        shell: args.shell.clone().unwrap_or_else(|| "/bin/sh".into()).into(),
    };
    let mut effects = Vec::new();
    if primary.is_none() && namesake.is_none() {
        effects.push(Effect::Group(Group { name: args.name.clone(), gid: u32::MAX, members: Vec::new() }));
    }
    effects.push(Effect::User(user.clone()));
    if !busybox {
        effects.extend(further.iter().map(|group| Effect::Group(with_member(group, &args.name))));
    }
    if args.create_home {
        effects.push(Effect::Path(home.into(), FileKind::Directory));
    }
    let mut after = user_facts(&user);
    if let Some(groups) = &args.groups {
        after.insert("groups".into(), groups.clone().into());
    }
    let intent = Intent {
        kind: "user",
        id: args.name.clone(),
        after: after.into(),
        undo: Some(Command::new(["userdel", "-r", &args.name])),
        effects,
        ..Intent::default()
    };
    act(Command::new(argv), intent, system)?;
    if busybox || args.local {
        for group in &further {
            join_group(args, group, busybox, system)?;
        }
    }
    if let Some(expires) = args.expires.filter(|_| args.local) {
        expire_locally(args, String::new(), expires, system)?;
    }
    if let Some(hash) = &args.password {
        let locked = args.password_lock == Some(true) && !hash.starts_with('!');
        set_password(args, &if locked { format!("!{hash}") } else { hash.clone() }, system)?;
    }
    Ok(())
}

fn with_member(group: &Group, name: &str) -> Group {
    let mut group = group.clone();
    if !group.members.iter().any(|member| member == name) {
        group.members.push(name.to_string());
    }
    group
}

fn add_usual(args: &Args, program: String, primary: Option<&Group>, namesake: bool) -> Vec<String> {
    let mut argv = vec![program];
    let mut put = |words: &[&str]| argv.extend(words.iter().map(ToString::to_string));
    if let Some(uid) = args.uid {
        put(&["-u", &uid.to_string()]);
        if args.non_unique {
            put(&["-o"]);
        }
    }
    if let Some(seuser) = &args.seuser {
        put(&["-Z", seuser]);
    }
    match (primary, namesake) {
        (Some(group), _) => put(&["-g", &group_word(args, group)]),
        // There is a group of the account's name already: `useradd` must not try to make it.
        (None, true) => put(&[if args.local { "-n" } else { "-N" }]),
        (None, false) => {}
    }
    if let Some(groups) = args.groups.as_ref().filter(|groups| !groups.is_empty() && !args.local) {
        put(&["-G", &groups.join(",")]);
    }
    if let Some(comment) = &args.comment {
        put(&["-c", comment]);
    }
    if let Some(home) = &args.home {
        put(&["-d", home]);
    }
    if let Some(shell) = &args.shell {
        put(&["-s", shell]);
    }
    if let Some(expires) = args.expires.filter(|_| !args.local) {
        put(&["-e", &expiry_date(expires)]);
    }
    if args.create_home && !args.local {
        put(&["-m"]);
        if let Some(skeleton) = &args.skeleton {
            put(&["-k", skeleton]);
        }
        if let Some(umask) = &args.umask {
            put(&["-K", &format!("UMASK={umask}")]);
        }
    } else {
        put(&["-M"]);
    }
    if args.system {
        put(&["-r"]);
    }
    for (name, limit) in [("UID_MIN", args.uid_min), ("UID_MAX", args.uid_max)] {
        if let Some(limit) = limit.filter(|_| !args.local) {
            put(&["-K", &format!("{name}={limit}")]);
        }
    }
    put(&[&args.name]);
    argv
}

fn add_busybox(args: &Args, program: String, primary: Option<&Group>) -> Vec<String> {
    let mut argv = vec![program, "-D".to_string()];
    let mut put = |words: &[&str]| argv.extend(words.iter().map(ToString::to_string));
    if let Some(uid) = args.uid {
        put(&["-u", &uid.to_string()]);
    }
    if let Some(group) = primary {
        put(&["-G", &group.name]);
    }
    if let Some(comment) = &args.comment {
        put(&["-g", comment]);
    }
    if let Some(home) = &args.home {
        put(&["-h", home]);
    }
    if let Some(shell) = &args.shell {
        put(&["-s", shell]);
    }
    if !args.create_home {
        put(&["-H"]);
    }
    if let Some(skeleton) = &args.skeleton {
        put(&["-k", skeleton]);
    }
    if args.system {
        put(&["-S"]);
    }
    put(&[&args.name]);
    argv
}

/// How the commands take a group: those for local accounts know numbers only.
fn group_word(args: &Args, group: &Group) -> String {
    if args.local && group.gid != u32::MAX { group.gid.to_string() } else { group.name.clone() }
}

/// Puts an account into a group by the commands that take one group at a time.
fn join_group(args: &Args, group: &Group, busybox: bool, system: &mut dyn System) -> Result<(), ModuleError> {
    let argv = if busybox {
        vec!["adduser".to_string(), args.name.clone(), group.name.clone()]
    } else {
        vec!["lgroupmod".to_string(), "-M".into(), args.name.clone(), group.name.clone()]
    };
    change_members(argv, group, with_member(group, &args.name), system)
}

/// Takes an account out of a group of this machine's own files.
fn leave_group(args: &Args, group: &Group, system: &mut dyn System) -> Result<(), ModuleError> {
    let argv = vec!["lgroupmod".to_string(), "-m".into(), args.name.clone(), group.name.clone()];
    let mut left = group.clone();
    left.members.retain(|member| *member != args.name);
    change_members(argv, group, left, system)
}

fn change_members(
    argv: Vec<String>,
    group: &Group,
    after: Group,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    let intent = Intent {
        kind: "group",
        id: group.name.clone(),
        before: map_of([("members", group.members.clone())]).into(),
        after: map_of([("members", after.members.clone())]).into(),
        effects: vec![Effect::Group(after)],
        ..Intent::default()
    };
    act(Command::new(argv), intent, system)
}

/// Says when an account of this machine's own files expires: `luseradd` and `lusermod` can't.
fn expire_locally(
    args: &Args,
    before: String,
    expires: f64,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    #[expect(clippy::cast_possible_truncation, reason = "a number of days is small")]
    let day = if expires < 0.0 { -1 } else { (expires / 86_400.0).floor() as i64 };
    let (program, _) = program(args, "chage", None, system)?;
    let intent = Intent {
        kind: "user",
        id: args.name.clone(),
        before: map_of([("expires", before)]).into(),
        after: map_of([("expires", expiry_date(expires))]).into(),
        ..Intent::default()
    };
    act(Command::new([program, "-E".into(), day.to_string(), args.name.clone()]), intent, system)
}

fn make_parents(directory: &Path, system: &mut dyn System) -> Result<(), ModuleError> {
    if system.stat_follow(directory)?.is_some() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_parents(parent, system)?;
    }
    system.make_dir(directory, &Attributes { mode: Some(0o755), ..Attributes::default() })?;
    Ok(())
}

/// The day an account expires as `useradd` takes it; empty for never.
fn expiry_date(seconds: f64) -> String {
    if seconds < 0.0 {
        return String::new();
    }
    #[expect(clippy::cast_possible_truncation, reason = "a date")]
    let moment = Moment::from_seconds(seconds as i64, 0);
    format!("{:04}-{:02}-{:02}", moment.year, moment.month, moment.day)
}

/// The fields of an account's line in `/etc/shadow`; empty if it can't be read.
fn shadow(name: &str, system: &mut dyn System) -> Vec<String> {
    let text = host::read_text("/etc/shadow", system).unwrap_or_default();
    let line = text.lines().find(|line| line.split(':').next() == Some(name)).unwrap_or_default();
    if line.is_empty() { Vec::new() } else { line.split(':').map(String::from).collect() }
}

/// Further groups that an account is in.
fn current_groups(args: &Args, user: &User, system: &mut dyn System) -> Result<Vec<String>, ModuleError> {
    let text = host::read_text("/etc/group", system).unwrap_or_default();
    let mut names: Vec<String> =
        text.lines().filter_map(|line| line.split(':').next()).map(String::from).collect();
    names.extend(args.groups.iter().flatten().cloned());
    let mut found: Vec<String> = Vec::new();
    for name in names {
        if let Some(group) = system.group(&name)?
            && group.members.contains(&user.name)
            && (group.gid != user.gid || group.gid == u32::MAX)
            && !found.contains(&group.name)
        {
            found.push(group.name);
        }
    }
    Ok(found)
}

fn change(args: &Args, user: &User, system: &mut dyn System) -> Result<(), ModuleError> {
    let mut words: Vec<String> = Vec::new();
    let mut after = user.clone();
    let (mut before_facts, mut after_facts) = (Map::new(), Map::new());
    let mut effects = Vec::new();
    let mut differs = |name: &str, before: Value, now: Value| {
        before_facts.insert(name.into(), before);
        after_facts.insert(name.into(), now);
    };
    if let Some(uid) = args.uid.filter(|uid| *uid != user.uid) {
        words.extend(["-u".into(), uid.to_string()]);
        words.extend(args.non_unique.then(|| "-o".to_string()));
        differs("uid", user.uid.into(), uid.into());
        after.uid = uid;
    }
    let mut primary = None;
    if let Some(name) = &args.group {
        let group = need_group(name, system)?;
        if group.gid != user.gid {
            words.extend(["-g".into(), group_word(args, &group)]);
            differs("gid", user.gid.into(), group.gid.into());
            after.gid = group.gid;
        }
        primary = Some(group.name);
    }
    let (mut to_join, mut to_leave) = (Vec::new(), Vec::new());
    if let Some(wanted) = &args.groups {
        let current = current_groups(args, user, system)?;
        let mut target: Vec<String> = Vec::new();
        for name in wanted {
            let group = need_group(name, system)?;
            let is_primary = Some(&group.name) == primary.as_ref()
                || (primary.is_none() && group.gid == user.gid && group.gid != u32::MAX);
            if !is_primary && !target.contains(&group.name) {
                target.push(group.name);
            }
        }
        let joins: Vec<String> = target.iter().filter(|name| !current.contains(name)).cloned().collect();
        let leaves: Vec<String> = current.iter().filter(|name| !target.contains(name)).cloned().collect();
        if args.local {
            for name in &joins {
                to_join.push(need_group(name, system)?);
            }
            for name in leaves.iter().filter(|_| !args.append) {
                to_leave.push(need_group(name, system)?);
            }
        } else if !joins.is_empty() || (!args.append && !leaves.is_empty()) {
            if args.append {
                words.push("-a".into());
            }
            words.extend(["-G".into(), target.join(",")]);
            let now: Vec<String> =
                if args.append { current.iter().chain(&joins).cloned().collect() } else { target.clone() };
            differs("groups", current.clone().into(), now.into());
            for name in &joins {
                let group = need_group(name, system)?;
                effects.push(Effect::Group(with_member(&group, &args.name)));
            }
            for name in leaves.iter().filter(|_| !args.append) {
                let mut group = need_group(name, system)?;
                group.members.retain(|member| *member != args.name);
                effects.push(Effect::Group(group));
            }
        }
    }
    if let Some(comment) = args.comment.as_ref().filter(|comment| **comment != user.gecos) {
        words.extend(["-c".into(), comment.clone()]);
        differs("comment", user.gecos.as_str().into(), comment.as_str().into());
        after.gecos.clone_from(comment);
    }
    if let Some(home) = args.home.as_ref().filter(|home| Path::new(home) != user.home) {
        words.extend(["-d".into(), home.clone()]);
        if args.move_home {
            words.push("-m".into());
            effects.push(Effect::NoPath(user.home.clone()));
            effects.push(Effect::Path(home.into(), FileKind::Directory));
        }
        differs("home", user.home.to_string_lossy().into_owned().into(), home.as_str().into());
        after.home = home.into();
    }
    if let Some(shell) = args.shell.as_ref().filter(|shell| Path::new(shell) != user.shell) {
        words.extend(["-s".into(), shell.clone()]);
        differs("shell", user.shell.to_string_lossy().into_owned().into(), shell.as_str().into());
        after.shell = shell.into();
    }
    let shadow = shadow(&args.name, system);
    let field = |index: usize| shadow.get(index).map(String::as_str).unwrap_or_default();
    let mut local_expiry = None;
    if let Some(expires) = args.expires {
        let date = expiry_date(expires);
        let current =
            field(7).parse::<i64>().map_or_else(|_| String::new(), |day| expiry_date((day * 86_400) as f64));
        // An account that the shadow file does not know gets its entry by this.
        let differs_now = date != current || shadow.is_empty();
        if differs_now && args.local {
            local_expiry = Some((current, expires));
        } else if differs_now {
            words.extend(["-e".into(), date.clone()]);
            differs("expires", current.into(), date.into());
        }
    }
    let locked = field(1).starts_with('!');
    let new_password = args.password.clone().filter(|hash| {
        args.update_password == "always" && field(1).trim_start_matches('!') != hash.trim_start_matches('!')
    });
    if let Some(lock) = args.password_lock.filter(|lock| *lock != locked && new_password.is_none()) {
        words.push(if lock { "-L" } else { "-U" }.into());
        differs("password_locked", locked.into(), lock.into());
    }
    if !words.is_empty() {
        let (program, _) = program(args, "usermod", None, system)?;
        let argv: Vec<String> = [program].into_iter().chain(words).chain([args.name.clone()]).collect();
        effects.push(Effect::User(after));
        let intent = Intent {
            kind: "user",
            id: args.name.clone(),
            before: before_facts.into(),
            after: after_facts.into(),
            effects,
            ..Intent::default()
        };
        act(Command::new(argv), intent, system)?;
    }
    if let Some((before, expires)) = local_expiry {
        expire_locally(args, before, expires, system)?;
    }
    for group in &to_join {
        join_group(args, group, false, system)?;
    }
    for group in &to_leave {
        leave_group(args, group, system)?;
    }
    if let Some(hash) = new_password {
        let lock = args.password_lock == Some(true);
        let hash = hash.trim_start_matches('!');
        set_password(args, &if lock { format!("!{hash}") } else { hash.to_string() }, system)?;
    }
    Ok(())
}

/// Hands a password's hash over on standard input.
fn set_password(args: &Args, hash: &str, system: &mut dyn System) -> Result<(), ModuleError> {
    let program = host::need_program("chpasswd", system)?;
    let command = Command {
        stdin: Some(format!("{}:{hash}\n", args.name).into_bytes()),
        ..Command::new([program, "-e".into()])
    };
    let intent = Intent {
        kind: "user",
        id: args.name.clone(),
        before: map_of([("password", "old")]).into(),
        after: map_of([("password", "new")]).into(),
        sensitive: true,
        ..Intent::default()
    };
    act(command, intent, system)
}

fn password_ages(args: &Args, system: &mut dyn System) -> Result<(), ModuleError> {
    let wanted = [
        ("-M", "password_expire_max", args.password_expire_max, 4),
        ("-m", "password_expire_min", args.password_expire_min, 3),
        ("-W", "password_expire_warn", args.password_expire_warn, 5),
        ("-I", "password_expire_account_disable", args.password_expire_account_disable, 6),
    ];
    if wanted.iter().all(|(_, _, days, _)| days.is_none()) {
        return Ok(());
    }
    let shadow = shadow(&args.name, system);
    for (option, name, days, index) in wanted {
        let Some(days) = days else { continue };
        let current = shadow.get(index).map(String::as_str).unwrap_or_default();
        if current.parse() == Ok(days) || (current.is_empty() && days == -1) {
            continue;
        }
        let (program, _) = program(args, "chage", None, system)?;
        let intent = Intent {
            kind: "user",
            id: args.name.clone(),
            before: map_of([(name, current)]).into(),
            after: map_of([(name, days)]).into(),
            ..Intent::default()
        };
        act(Command::new([program, option.into(), days.to_string(), args.name.clone()]), intent, system)?;
    }
    Ok(())
}

fn make_home(args: &Args, user: &User, system: &mut dyn System) -> Result<(), ModuleError> {
    if system.stat_follow(&user.home)?.is_some() {
        return Ok(());
    }
    if let Some(parent) = user.home.parent() {
        make_parents(parent, system)?;
    }
    let own = Attributes { uid: known(user.uid), gid: known(user.gid), ..Attributes::default() };
    let mode = home_mode(args, system);
    system.make_dir(&user.home, &Attributes { mode: Some(mode), ..own.clone() })?;
    let skeleton = PathBuf::from(args.skeleton.as_deref().unwrap_or("/etc/skel"));
    if host::is_directory(&skeleton, system)? {
        copy_tree(&skeleton, &user.home, &own, system)?;
    }
    Ok(())
}

fn known(number: u32) -> Option<u32> {
    (number != u32::MAX).then_some(number)
}

/// Mode of a new home directory: by the task's mask, else by the host's settings for logins.
fn home_mode(args: &Args, system: &mut dyn System) -> u32 {
    let octal = |text: &str| u32::from_str_radix(text.trim_start_matches("0o"), 8).ok();
    if let Some(mask) = args.umask.as_deref().and_then(octal) {
        return 0o777 & !mask;
    }
    let settings = host::read_text("/etc/login.defs", system).unwrap_or_default();
    let setting = |name: &str| {
        let line = settings.lines().find(|line| line.split_whitespace().next() == Some(name))?;
        octal(line.split_whitespace().nth(1)?)
    };
    setting("HOME_MODE").or_else(|| setting("UMASK").map(|mask| 0o777 & !mask)).unwrap_or(0o755)
}

fn copy_tree(from: &Path, to: &Path, own: &Attributes, system: &mut dyn System) -> Result<(), ModuleError> {
    for name in system.list(from)? {
        let (source, target) = (from.join(&name), to.join(&name));
        let Some(stat) = system.stat(&source)? else { continue };
        let attributes = Attributes { mode: Some(stat.mode), ..own.clone() };
        match stat.kind {
            FileKind::Directory => {
                system.make_dir(&target, &attributes)?;
                copy_tree(&source, &target, own, system)?;
            }
            FileKind::Link => {
                let link = system.read_link(&source)?;
                system.link(&target, &link, LinkKind::Symbolic)?;
                system.set_attributes(&target, own, false)?;
            }
            FileKind::File => {
                system.write(&target, &Content::File(source), &attributes, WriteOptions::default())?
            }
            _ => {}
        }
    }
    Ok(())
}

fn ssh_key(
    args: &Args,
    user: &User,
    warnings: &mut Vec<String>,
    system: &mut dyn System,
) -> Result<Map, ModuleError> {
    let name = args.ssh_key_file.clone().unwrap_or_else(|| format!(".ssh/id_{}", args.ssh_key_type));
    let file = user.home.join(args::expand_path(&name, system)?);
    let shown = file.to_string_lossy().into_owned();
    let public = PathBuf::from(format!("{shown}.pub"));
    let own = Attributes { uid: known(user.uid), gid: known(user.gid), ..Attributes::default() };
    let mut in_the_way = Vec::new();
    for (path, what) in [(&file, "private"), (&public, "public")] {
        if system.stat(path)?.is_some() {
            in_the_way.push((path.clone(), what));
        }
    }
    if args.force || in_the_way.is_empty() {
        if let Some(directory) = file.parent()
            && system.stat_follow(directory)?.is_none()
        {
            system.make_dir(directory, &Attributes { mode: Some(0o700), ..own.clone() })?;
        }
        for (path, what) in &in_the_way {
            warnings.push(format!("replaced the {what} SSH key {}", path.display()));
            system.remove(path)?;
        }
        generate_key(args, &file, &public, system)?;
        for (path, mode) in [(&file, 0o600), (&public, 0o644)] {
            system.set_attributes(path, &Attributes { mode: Some(mode), ..own.clone() }, true)?;
        }
    }
    // A public key without its private key is somebody's: it may be a link that leads elsewhere.
    if let Some((path, what)) = in_the_way.iter().find(|(_, what)| !args.force && *what == "public")
        && in_the_way.len() == 1
    {
        warnings.push(format!("there is a {what} SSH key {} already, so that none was made", path.display()));
    }
    let mut values = map_of([("ssh_key_file", shown.as_str())]);
    if let Some(key) = host::read_text(&public, system) {
        values.insert("ssh_public_key".into(), key.trim().into());
        let output = host::ask(["ssh-keygen", "-l", "-f", &shown], system)?;
        if output.success() {
            values.insert("ssh_fingerprint".into(), output.stdout_text().trim().into());
        }
    }
    Ok(values)
}

fn generate_key(args: &Args, file: &Path, public: &Path, system: &mut dyn System) -> Result<(), ModuleError> {
    let node = match system.probe(&Probe::Kernel) {
        Ok(Answer::Kernel(kernel)) => kernel.node,
        _ => String::new(),
    };
    let comment = args.ssh_key_comment.replace("$HOSTNAME", &node);
    let program = host::need_program("ssh-keygen", system)?;
    let shown = file.to_string_lossy().into_owned();
    let mut command = Command::new([
        program,
        "-q".into(),
        "-t".into(),
        args.ssh_key_type.clone(),
        "-C".into(),
        comment,
        "-f".into(),
        shown.clone(),
    ]);
    if let Some(bits) = args.ssh_key_bits {
        command.argv.extend(["-b".into(), bits.to_string().into()]);
    }
    match args.ssh_key_passphrase.as_ref().filter(|phrase| !phrase.is_empty()) {
        None => command.argv.extend(["-N".into(), "".into()]),
        Some(phrase) => command.env.extend(ask_pass(phrase, system)?),
    }
    let intent = Intent {
        kind: "ssh_key",
        id: shown,
        after: map_of([("type", args.ssh_key_type.as_str())]).into(),
        effects: vec![
            Effect::Path(file.to_path_buf(), FileKind::File),
            Effect::Path(public.to_path_buf(), FileKind::File),
        ],
        ..Intent::default()
    };
    act(command, intent, system)
}

/// A helper that tells the passphrase, so that it is in no argument list or environment.
fn ask_pass(phrase: &str, system: &mut dyn System) -> Result<Vec<(String, String)>, ModuleError> {
    let scratch = system.scratch()?;
    let helper = scratch.join("askpass").to_string_lossy().into_owned();
    let script = format!("#!/bin/sh\ncat <<'END-OF-PASSPHRASE'\n{phrase}\nEND-OF-PASSPHRASE\n");
    let put = Command {
        stdin: Some(script.into_bytes()),
        umask: Some(0o077),
        ..Command::new(["/bin/sh", "-c", "cat >\"$1\" && chmod 0700 \"$1\"", "sh", &helper])
    };
    let output = system.query(&put)?;
    if !output.success() {
        return Err(ModuleError::command("failed to hand over the passphrase", &put, &output));
    }
    Ok(vec![
        ("SSH_ASKPASS".into(), helper),
        ("SSH_ASKPASS_REQUIRE".into(), "force".into()),
        ("DISPLAY".into(), "none".into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::module::args::check;
    use crate::system::Output;
    use crate::system::fake::Fake;

    fn machine() -> Fake {
        let account = User {
            name: "ann".into(),
            uid: 1000,
            gid: 1000,
            gecos: String::new(),
            home: "/home/ann".into(),
            shell: "/bin/sh".into(),
        };
        let group = |name: &str, gid: u32, members: &[&str]| Group {
            name: name.into(),
            gid,
            members: members.iter().map(ToString::to_string).collect(),
        };
        let programs =
            ["useradd", "usermod", "chage", "luseradd", "lusermod", "lgroupmod", "lchage", "ssh-keygen"];
        let fake = Fake::new()
            .with_user(account)
            .with_group(group("in", 50, &["ann"]))
            .with_group(group("out", 51, &[]))
            .with_dir("/home/ann/.ssh")
            .with_file("/etc/group", "in:x:50:ann\nout:x:51:\n")
            .with_file("/etc/shadow", "ann:!:1:0:99999:7:::\nold:!:1:0:99999:7::10:\n");
        programs.iter().fold(fake, |fake, program| {
            fake.with_program(&format!("/usr/sbin/{program}"))
                .with_command_prefix(&[&format!("/usr/sbin/{program}")], Output::ok(""))
        })
    }

    fn task(given: &[(&str, Value)], fake: &mut Fake) -> Result<Outcome, String> {
        let given = map_of(given.iter().cloned().chain([("create_home", false.into())]));
        let args = check(&MODULE, &given, &|_| true).expect("valid");
        (MODULE.run)(args, fake).map_err(|error| error.message)
    }

    #[test]
    fn accounts_are_changed_by_the_commands_that_know_them() {
        let groups = |names: &[&str]| Value::from(names.to_vec());
        for (given, acts) in [
            (vec![("groups", groups(&["out"]))], vec!["usermod -G out ann"]),
            (vec![("groups", groups(&["out"])), ("append", true.into())], vec!["usermod -a -G out ann"]),
            (
                vec![("groups", groups(&["out"])), ("local", true.into())],
                vec!["lgroupmod -M ann out", "lgroupmod -m ann in"],
            ),
            (
                vec![("groups", groups(&["51"])), ("local", true.into()), ("append", true.into())],
                vec!["lgroupmod -M ann out"],
            ),
            (vec![("group", "out".into())], vec!["usermod -g out ann"]),
            (vec![("group", "out".into()), ("local", true.into())], vec!["lusermod -g 51 ann"]),
            (vec![("expires", 86_400.into())], vec!["usermod -e 1970-01-02 ann"]),
            (vec![("expires", 86_400.into()), ("local", true.into())], vec!["lchage -E 1 ann"]),
            (vec![("expires", (-5).into()), ("local", true.into())], vec![]),
            (vec![("password_expire_max", 9.into()), ("local", true.into())], vec!["lchage -M 9 ann"]),
        ] {
            let mut fake = machine();
            let given: Vec<_> = given.into_iter().chain([("name", Value::from("ann"))]).collect();
            task(&given, &mut fake).expect("it works");
            let done: Vec<&str> = fake.log().iter().filter_map(|line| line.strip_prefix("! ")).collect();
            let done: Vec<String> = done.iter().map(|line| line.replace("/usr/sbin/", "")).collect();
            assert_eq!(done, acts, "{given:?}");
        }
    }

    #[test]
    fn an_account_that_the_shadow_file_does_not_know_gets_its_entry() {
        let mut fake = machine().with_file("/etc/shadow", "");
        task(&[("name", "ann".into()), ("expires", (-1).into())], &mut fake).expect("it works");
        assert!(fake.log().iter().any(|line| line == "! /usr/sbin/usermod -e '' ann"), "{:?}", fake.log());
    }

    #[test]
    fn what_the_commands_for_local_accounts_lack_is_refused() {
        for (name, value) in
            [("umask", Value::from("077")), ("uid_min", 1000.into()), ("uid_max", 2000.into())]
        {
            let given = [("name", Value::from("ann")), ("local", true.into()), (name, value)];
            let message = task(&given, &mut machine()).expect_err("refused");
            assert_eq!(message, format!("'{name}' can not be used with 'local'"));
        }
        let outcome =
            task(&[("name", "ann".into()), ("append", true.into())], &mut machine()).expect("it works");
        assert!(outcome.warnings[0].starts_with("'append' is set, but no 'groups' are specified"));
    }

    #[test]
    fn a_key_that_is_there_is_replaced_only_if_that_is_asked_for() {
        for (file, force, made, warnings) in [
            (None, false, true, 0),
            (Some("id_rsa"), false, false, 0),
            (Some("id_rsa.pub"), false, false, 1),
            (Some("id_rsa.pub"), true, true, 1),
            (Some("id_rsa"), true, true, 1),
        ] {
            let mut fake = machine();
            fake.on(&["ssh-keygen"], true, |fake, command| {
                let words: Vec<String> =
                    command.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
                if let Some(at) =
                    words.iter().position(|word| word == "-q").and(words.iter().position(|word| word == "-f"))
                {
                    fake.put(&words[at + 1], "new");
                    fake.put(&format!("{}.pub", words[at + 1]), "new");
                }
                Output::ok("256 fingerprint")
            });
            if let Some(file) = file {
                fake.put(&format!("/home/ann/.ssh/{file}"), "old");
            }
            let given = [("name", "ann".into()), ("generate_ssh_key", true.into()), ("force", force.into())];
            let outcome = task(&given, &mut fake).expect("it works");
            assert_eq!(outcome.warnings.len(), warnings, "{file:?} {force}: {:?}", outcome.warnings);
            let public = fake.text("/home/ann/.ssh/id_rsa.pub").unwrap_or_default();
            assert_eq!(public == "new", made, "{file:?} {force}: {public}");
        }
    }

    #[test]
    fn what_is_no_hash_is_noticed() {
        let sha512 = format!("$6$salt${}", "a".repeat(86));
        for (password, expected) in [
            ("", true),
            ("*", true),
            ("!", true),
            ("!!", true),
            (sha512.as_str(), true),
            ("$2b$12$abcdefghijklmnopqrstuv", true),
            ("secret", false),
            ("$6$salt$short", false),
            ("$9", false),
            ("a:$6$b", false),
        ] {
            assert_eq!(looks_hashed(password), expected, "{password}");
        }
    }
}
