//! `group`: groups of accounts.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Applied, Command, Done, Effect, Group, Intent, System};
use crate::value::{Map, Value, map_of};

/// Adds, changes and removes groups.
pub const MODULE: Module = Module {
    name: "ansible.builtin.group",
    summary: "Add, change or remove a group",
    description: "Uses `groupadd`, `groupmod` and `groupdel` (on BusyBox hosts `addgroup` and `delgroup`), and only \
        if something has to change.",
    example: "- name: A group for the application\n  ansible.builtin.group:\n    name: app\n    system: true\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name of the group.").required(),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("gid", Type::Int, "Its number."),
        Param::new("system", Type::Bool, "Take the number from those of system groups, when it is made.")
            .default("false"),
        Param::new("non_unique", Type::Bool, "The number may be that of another group too.").default("false"),
        Param::new("force", Type::Bool, "Remove it even if it is the primary group of an account.")
            .default("false"),
        Param::new("local", Type::Bool, "Use the commands for local groups (`lgroupadd`).").default("false"),
        Param::new("gid_min", Type::Int, "Smallest number to choose, when it is made."),
        Param::new("gid_max", Type::Int, "Largest number to choose, when it is made."),
    ],
    rules: &[Rule::RequiredIf { param: "non_unique", value: "true", needs: &["gid"], any: false }],
    returns: &[
        ("name", "Name of the group."),
        ("state", "Whether it should be there."),
        ("gid", "Its number."),
        ("system", "Whether it was asked to be a system group."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    state: String,
    gid: Option<u32>,
    system: bool,
    non_unique: bool,
    force: bool,
    local: bool,
    gid_min: Option<u32>,
    gid_max: Option<u32>,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let existing = system.group(&args.name)?;
    let mut outcome = Outcome::default().set("name", args.name.as_str()).set("state", args.state.as_str());
    if args.state == "absent" {
        if let Some(group) = existing {
            remove(args, &group, system)?;
        }
        system.applied(Applied { kind: "group".into(), id: args.name.clone(), state: Value::Null });
        return Ok(outcome);
    }
    match existing {
        None => add(args, system)?,
        Some(group) => change(args, &group, system)?,
    }
    outcome = outcome.set("system", args.system);
    if let Some(group) = system.group(&args.name)?
        && group.gid != u32::MAX
    {
        outcome = outcome.set("gid", group.gid);
    }
    let mut state = map_of([("exists", Value::Bool(true))]);
    if let Some(gid) = args.gid {
        state.insert("gid".into(), gid.into());
    }
    system.applied(Applied { kind: "group".into(), id: args.name.clone(), state: state.into() });
    Ok(outcome)
}

fn facts(gid: Option<u32>) -> Map {
    map_of(gid.filter(|gid| *gid != u32::MAX).map(|gid| ("gid", gid)))
}

/// The program for this host: `groupadd`, or `addgroup` where there is only BusyBox.
fn program(
    args: &Args,
    usual: &str,
    busybox: &str,
    system: &mut dyn System,
) -> Result<(String, bool), ModuleError> {
    let usual = if args.local { format!("l{usual}") } else { usual.to_string() };
    if !args.local
        && host::find_program(&usual, system)?.is_none()
        && let Some(path) = host::find_program(busybox, system)?
    {
        return Ok((path.to_string_lossy().into_owned(), true));
    }
    Ok((host::need_program(&usual, system)?, false))
}

fn act(argv: Vec<String>, intent: Intent, system: &mut dyn System) -> Result<(), ModuleError> {
    let command = Command::new(argv).c_locale();
    match system.change(&command, intent)? {
        Done::Made(output) if !output.success() => {
            let said = output.stderr_text().trim().to_string();
            Err(ModuleError { message: said.clone(), ..ModuleError::command("", &command, &output) })
        }
        _ => Ok(()),
    }
}

fn remove(args: &Args, group: &Group, system: &mut dyn System) -> Result<(), ModuleError> {
    let (program, busybox) = program(args, "groupdel", "delgroup", system)?;
    let mut argv = vec![program];
    if args.force && !busybox && !args.local {
        argv.push("-f".into());
    }
    argv.push(args.name.clone());
    let intent = Intent {
        kind: "group",
        id: args.name.clone(),
        before: facts(Some(group.gid)).into(),
        effects: vec![Effect::NoGroup(args.name.clone())],
        ..Intent::default()
    };
    act(argv, intent, system)
}

fn add(args: &Args, system: &mut dyn System) -> Result<(), ModuleError> {
    let (program, busybox) = program(args, "groupadd", "addgroup", system)?;
    let mut argv = vec![program];
    if let Some(gid) = args.gid {
        argv.extend(["-g".into(), gid.to_string()]);
        if args.non_unique && !busybox {
            argv.push("-o".into());
        }
    }
    if args.system {
        argv.push(if busybox { "-S" } else { "-r" }.into());
    }
    if !busybox {
        for (name, limit) in [("GID_MIN", args.gid_min), ("GID_MAX", args.gid_max)] {
            if let Some(limit) = limit {
                argv.extend(["-K".into(), format!("{name}={limit}")]);
            }
        }
    }
    argv.push(args.name.clone());
    let group = Group { name: args.name.clone(), gid: args.gid.unwrap_or(u32::MAX), members: Vec::new() };
    let intent = Intent {
        kind: "group",
        id: args.name.clone(),
        after: facts(args.gid).into(),
        undo: Some(Command::new(["groupdel", &args.name])),
        effects: vec![Effect::Group(group)],
        ..Intent::default()
    };
    act(argv, intent, system)
}

fn change(args: &Args, group: &Group, system: &mut dyn System) -> Result<(), ModuleError> {
    let Some(gid) = args.gid.filter(|gid| *gid != group.gid) else { return Ok(()) };
    let (program, busybox) = program(args, "groupmod", "groupmod", system)?;
    if busybox {
        return Err(ModuleError::new("the number of a group cannot be changed here: there is no groupmod"));
    }
    let mut argv = vec![program, "-g".into(), gid.to_string()];
    if args.non_unique {
        argv.push("-o".into());
    }
    argv.push(args.name.clone());
    let intent = Intent {
        kind: "group",
        id: args.name.clone(),
        before: facts(Some(group.gid)).into(),
        after: facts(Some(gid)).into(),
        undo: Some(Command::new([
            "groupmod".to_string(),
            "-g".into(),
            group.gid.to_string(),
            args.name.clone(),
        ])),
        effects: vec![Effect::Group(Group { gid, ..group.clone() })],
        ..Intent::default()
    };
    act(argv, intent, system)
}
