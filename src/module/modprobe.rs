//! `modprobe` and `kernel_blacklist`: modules of the kernel.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Done, Intent, System};
use crate::value::{Value, map_of};

/// Loads and unloads modules of the kernel.
pub const MODULE: Module = Module {
    name: "community.general.modprobe",
    summary: "Load or unload modules of the kernel, now and at boot",
    description: "`persistent` also keeps a file for the next boot in `/etc/modules-load.d`, and the module's \
        parameters in `/etc/modprobe.d`.",
    example: "- community.general.modprobe:\n    name: br_netfilter\n    persistent: present\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name of the module.").required(),
        Param::new("state", Type::Str, "Whether it should be loaded.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("params", Type::Str, "Its parameters.").default(""),
        Param::new(
            "persistent",
            Type::Str,
            "Whether it should be loaded at boot; `disabled` leaves that as it is.",
        )
        .choices(&["disabled", "absent", "present"])
        .default("disabled"),
    ],
    returns: &[
        ("name", "Name of the module."),
        ("params", "Its parameters."),
        ("state", "Whether it should be loaded."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

/// Keeps modules from being loaded.
pub const BLACKLIST: Module = Module {
    name: "community.general.kernel_blacklist",
    summary: "Keep modules of the kernel from being loaded by themselves",
    description: "Adds or removes a `blacklist` line.",
    example: "- community.general.kernel_blacklist:\n    name: nouveau\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name of the module.").required(),
        Param::new("state", Type::Str, "Whether it is kept out.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("blacklist_file", Type::Str, "The file.")
            .default("/etc/modprobe.d/blacklist-ansible.conf"),
    ],
    run: |args, system| run_blacklist(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    state: String,
    params: String,
    persistent: String,
    blacklist_file: String,
}

/// Module names hold `-` and `_` as one.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn is_loaded(name: &str, system: &mut dyn System) -> Result<bool, ModuleError> {
    let name = canonical(name);
    let loaded = host::read_text("/proc/modules", system).unwrap_or_default();
    if loaded.lines().any(|line| line.split(' ').next() == Some(name.as_str())) {
        return Ok(true);
    }
    let release = host::read_text("/proc/sys/kernel/osrelease", system).unwrap_or_default();
    let built_in = host::read_text(format!("/lib/modules/{}/modules.builtin", release.trim()), system);
    let is_it = |line: &str| {
        let file = line.rsplit('/').next().unwrap_or_default();
        file.split('.').next().map(canonical).as_deref() == Some(name.as_str())
    };
    Ok(built_in.unwrap_or_default().lines().any(is_it))
}

/// Whether the module is loaded, or blacklisted if that is what was left.
pub(super) fn observe(id: &str, left: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    if left.get("blacklisted").is_some() {
        let name = canonical(id);
        let is_it = |line: &str| {
            line.trim().strip_prefix("blacklist ").is_some_and(|other| canonical(other.trim()) == name)
        };
        for file in host::expand_pattern("/etc/modprobe.d/*.conf", system)? {
            if host::read_text(&file, system).unwrap_or_default().lines().any(is_it) {
                return Ok(map_of([("blacklisted", true)]).into());
            }
        }
        return Ok(Value::Null);
    }
    Ok(if is_loaded(id, system)? { map_of([("loaded", true)]).into() } else { Value::Null })
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let wanted = args.state == "present";
    if is_loaded(&args.name, system)? != wanted {
        load(args, wanted, system)?;
    }
    match args.persistent.as_str() {
        "present" => keep(args, system)?,
        "absent" => forget(args, system)?,
        _ => {}
    }
    let state = if wanted { map_of([("loaded", true)]).into() } else { Value::Null };
    system.applied(Applied { kind: "kernel_module".into(), id: args.name.clone(), state });
    Ok(Outcome::default()
        .set("name", args.name.as_str())
        .set("params", args.params.as_str())
        .set("state", args.state.as_str()))
}

fn load(args: &Args, wanted: bool, system: &mut dyn System) -> Result<(), ModuleError> {
    let mut argv = vec![host::need_program("modprobe", system)?];
    argv.extend((!wanted).then(|| "-r".to_string()));
    argv.push(args.name.clone());
    if wanted {
        argv.extend(host::split_words(&args.params).map_err(ModuleError::new)?);
    }
    let command = Command::new(argv);
    let intent = Intent {
        kind: "kernel_module",
        id: args.name.clone(),
        before: map_of([("loaded", !wanted)]).into(),
        after: map_of([("loaded", wanted)]).into(),
        undo: wanted.then(|| Command::new(["modprobe", "-r", &args.name])),
        ..Intent::default()
    };
    match system.change(&command, intent)? {
        Done::Made(output) if !output.success() => {
            let said = output.stderr_text().trim().to_string();
            Err(ModuleError { message: said, ..ModuleError::command("", &command, &output) })
        }
        _ => Ok(()),
    }
}

/// Files of a directory in which a line matters.
fn files_with(
    directory: &str,
    is_it: &dyn Fn(&str) -> bool,
    system: &mut dyn System,
) -> Result<Vec<PathBuf>, ModuleError> {
    let mut found = Vec::new();
    for path in host::expand_pattern(&format!("{directory}/*.conf"), system)? {
        let text = host::read_text(&path, system).unwrap_or_default();
        if text.lines().any(|line| is_it(line.trim())) {
            found.push(path);
        }
    }
    Ok(found)
}

fn loads(line: &str, name: &str) -> bool {
    canonical(line) == canonical(name)
}

fn options_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (module, options) = line.strip_prefix("options ")?.trim().split_once(' ')?;
    (canonical(module) == canonical(name)).then_some(options.trim())
}

fn keep(args: &Args, system: &mut dyn System) -> Result<(), ModuleError> {
    let name = args.name.as_str();
    if files_with("/etc/modules-load.d", &|line| loads(line, name), system)?.is_empty() {
        let path = format!("/etc/modules-load.d/{name}.conf");
        host::write_text(Path::new(&path), &format!("{name}\n"), 0o644, system)?;
    }
    let wanted = args.params.trim();
    let is_kept = |line: &str| options_of(line, name) == Some(wanted);
    if wanted.is_empty() || !files_with("/etc/modprobe.d", &is_kept, system)?.is_empty() {
        return Ok(());
    }
    drop_lines("/etc/modprobe.d", &|line| options_of(line, name).is_some(), system)?;
    let path = format!("/etc/modprobe.d/{name}.conf");
    host::write_text(Path::new(&path), &format!("options {name} {wanted}\n"), 0o644, system)?;
    Ok(())
}

fn forget(args: &Args, system: &mut dyn System) -> Result<(), ModuleError> {
    let name = args.name.as_str();
    drop_lines("/etc/modules-load.d", &|line| loads(line, name), system)?;
    drop_lines("/etc/modprobe.d", &|line| options_of(line, name).is_some(), system)
}

/// Makes comments of lines, so that an administrator sees what was there.
fn drop_lines(
    directory: &str,
    is_it: &dyn Fn(&str) -> bool,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    for path in files_with(directory, is_it, system)? {
        let text = host::read_text(&path, system).unwrap_or_default();
        let lines: String = text
            .lines()
            .map(|line| if is_it(line.trim()) { format!("#{line}\n") } else { format!("{line}\n") })
            .collect();
        host::write_text(&path, &lines, 0o644, system)?;
    }
    Ok(())
}

fn run_blacklist(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let path = args::expand_path(&args.blacklist_file, system)?;
    let text = host::read_text(&path, system).unwrap_or_default();
    let is_it =
        |line: &str| line.trim().strip_prefix("blacklist ").is_some_and(|name| name.trim() == args.name);
    let there = text.lines().any(is_it);
    let wanted = args.state == "present";
    if wanted && !there {
        let mut text = text;
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("blacklist {}\n", args.name));
        host::write_text(&path, &text, 0o644, system)?;
    } else if !wanted && there {
        let lines: String =
            text.lines().filter(|line| !is_it(line)).map(|line| format!("{line}\n")).collect();
        host::write_text(&path, &lines, 0o644, system)?;
    }
    let state = if wanted { map_of([("blacklisted", true)]).into() } else { Value::Null };
    system.applied(Applied { kind: "kernel_module".into(), id: args.name.clone(), state });
    Ok(Outcome::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{call, contract};
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn modules_are_loaded_and_kept() {
        let machine = || {
            Fake::new()
                .with_program("/sbin/modprobe")
                .with_command_prefix(&["/sbin/modprobe"], Output::ok(""))
                .with_dir("/etc/modules-load.d")
                .with_dir("/etc/modprobe.d")
                .with_file("/proc/modules", "br_netfilter 32768 0 - Live 0x0\n")
                .with_file("/proc/sys/kernel/osrelease", "6.1\n")
                .with_file("/lib/modules/6.1/modules.builtin", "kernel/fs/ext4/ext4.ko\n")
        };
        for (name, state, expected) in [
            ("br-netfilter", "present", None),
            ("ext4", "present", None),
            ("dummy", "present", Some("! /sbin/modprobe dummy numdummies=2")),
            ("dummy", "absent", None),
            ("br_netfilter", "absent", Some("! /sbin/modprobe -r br_netfilter")),
        ] {
            let mut fake = machine();
            let given = map_of([("name", name), ("state", state), ("params", "numdummies=2")]);
            call(&MODULE, &Value::map(given), &mut fake).expect("it works");
            assert_eq!(fake.log().first().map(String::as_str), expected, "{name} {state}");
        }
        let mut fake = machine();
        let given = map_of([("name", "dummy"), ("params", "numdummies=2"), ("persistent", "present")]);
        call(&MODULE, &Value::map(given.clone()), &mut fake).expect("it works");
        assert_eq!(fake.text("/etc/modules-load.d/dummy.conf").as_deref(), Some("dummy\n"));
        assert_eq!(fake.text("/etc/modprobe.d/dummy.conf").as_deref(), Some("options dummy numdummies=2\n"));
    }

    #[test]
    fn blacklists() {
        let arguments = r#"{"name":"pcspkr","blacklist_file":"@/b"}"#;
        let verdict = contract(&BLACKLIST, &["f b 644 blacklist x"], arguments);
        assert_eq!(verdict.tree, ["f b 644 blacklist x\nblacklist pcspkr\n"]);
    }
}
