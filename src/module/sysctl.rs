//! `sysctl`: settings of the kernel, now and after a reboot.

use std::path::Path;

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Done, Intent, System};
use crate::value::{Value, map_of};

/// Manages settings of the kernel.
pub const MODULE: Module = Module {
    name: "ansible.posix.sysctl",
    summary: "Manage settings of the kernel, now and after a reboot",
    description: "The file holds what is set at boot; it is loaded again after a change unless `reload` is false. \
        `sysctl_set` sets the value at once, also if the file had it already. Values in force are read from `/proc/sys`.",
    example: "- name: Swap late\n  ansible.posix.sysctl:\n    name: vm.swappiness\n    value: '5'\n    sysctl_file: /etc/sysctl.d/90-swap.conf\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name of the setting, such as `vm.swappiness`.")
            .required()
            .aliases(&["key"]),
        Param::new("value", Type::Str, "Its value.").aliases(&["val"]),
        Param::new("state", Type::Str, "Whether it should be in the file.")
            .choices(&["present", "absent"])
            .default("present"),
        Param::new("reload", Type::Bool, "Load the file after a change.").default("true"),
        Param::new("sysctl_file", Type::Path, "The file.").default("/etc/sysctl.conf"),
        Param::new("sysctl_set", Type::Bool, "Set the value at once too.").default("false"),
        Param::new("ignoreerrors", Type::Bool, "Ignore settings that this kernel lacks.").default("false"),
    ],
    rules: &[Rule::RequiredIf { param: "state", value: "present", needs: &["value"], any: false }],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    value: Option<String>,
    state: String,
    reload: bool,
    sysctl_file: String,
    sysctl_set: bool,
    ignoreerrors: bool,
}

/// Words for true and false mean 1 and 0.
fn plain_value(text: &str) -> String {
    match text.trim().to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" | "t" | "y" | "1" => "1".into(),
        "no" | "off" | "false" | "f" | "n" | "0" => "0".into(),
        _ => text.trim().to_string(),
    }
}

fn same_value(one: &str, other: &str) -> bool {
    one.split_whitespace().eq(other.split_whitespace())
}

/// The value in force; `None` if the kernel has no such setting.
fn current(name: &str, system: &mut dyn System) -> Option<String> {
    // Names of interfaces may hold dots: with slashes between parts, dots stand for themselves.
    let path = if name.contains('/') { name.to_string() } else { name.replace('.', "/") };
    host::read_text(format!("/proc/sys/{path}"), system).map(|text| text.trim().to_string())
}

/// The setting as it is, in the spelling in which it was left if it means the same.
pub(super) fn observe(id: &str, left: &Value, system: &mut dyn System) -> Result<Value, ModuleError> {
    let Some(now) = current(id, system) else { return Ok(Value::Null) };
    let left = left.get("value").map(Value::to_text).unwrap_or_default();
    Ok(map_of([("value", if same_value(&now, &left) { left } else { now })]).into())
}

fn setting(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with(['#', ';']) {
        return None;
    }
    line.split_once('=').map(|(name, value)| (name.trim(), value.trim()))
}

/// The file's text with the setting put in or taken out; of a setting that comes twice the first place counts.
fn edited(text: &str, name: &str, value: Option<&str>) -> String {
    let mut seen: Vec<&str> = Vec::new();
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        match setting(line) {
            None => lines.push(line.trim().to_string()),
            Some((key, _)) if seen.contains(&key) => {}
            Some((key, old)) => {
                seen.push(key);
                if key == name {
                    lines.extend(value.map(|value| format!("{key}={value}")));
                } else {
                    lines.push(format!("{key}={old}"));
                }
            }
        }
    }
    if !seen.contains(&name) {
        lines.extend(value.map(|value| format!("{name}={value}")));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let name = args.name.trim();
    if name.is_empty() {
        return Err(ModuleError::new("name cannot be blank"));
    }
    let present = args.state == "present";
    let value = plain_value(args.value.as_deref().unwrap_or_default());
    if present && value.is_empty() {
        return Err(ModuleError::new("value cannot be blank"));
    }
    let file = args::expand_path(&args.sysctl_file, system)?;
    let text = host::read_text(&file, system).unwrap_or_default();
    // The last one in the file is the one that counts.
    let in_file =
        text.lines().filter_map(setting).rfind(|(key, _)| *key == name).map(|(_, value)| value.to_string());
    let in_force = current(name, system);
    let is_set = in_force.as_deref().is_some_and(|now| same_value(now, &value));
    let file_differs = if present { in_file.as_deref() != Some(value.as_str()) } else { in_file.is_some() };
    if args.sysctl_set && present && !is_set && in_force.is_some() {
        set(args, name, &value, in_force.as_deref(), system)?;
    }
    if file_differs {
        let new = edited(&text, name, present.then_some(value.as_str()));
        host::write_text(&file, &new, 0o644, system)?;
    }
    // A setting that the kernel lacks is not there after loading the file either.
    let due = file_differs || (present && !is_set && (in_force.is_some() || !args.ignoreerrors));
    if args.reload && due {
        reload(args, &file, name, present.then_some(value.as_str()), in_force.as_deref(), system)?;
    }
    let state = if present { map_of([("value", value)]).into() } else { Value::Null };
    system.applied(Applied { kind: "sysctl".into(), id: name.to_string(), state });
    Ok(Outcome::default())
}

fn act(command: &Command, what: &str, intent: Intent, system: &mut dyn System) -> Result<(), ModuleError> {
    let Done::Made(output) = system.change(command, intent)? else { return Ok(()) };
    let said = output.stderr_text();
    let refused = said.lines().any(|line| {
        line.starts_with("sysctl: setting key")
            && (line.ends_with("Invalid argument") || line.ends_with("Read-only file system"))
    });
    if output.success() && !refused {
        return Ok(());
    }
    Err(ModuleError::new(format!("{what}: {}{said}", output.stdout_text())))
}

fn set(
    args: &Args,
    name: &str,
    value: &str,
    before: Option<&str>,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    let mut argv = vec![host::need_program("sysctl", system)?];
    argv.extend(args.ignoreerrors.then(|| "-e".to_string()));
    argv.extend(["-w".to_string(), format!("{name}={value}")]);
    let intent = Intent {
        kind: "sysctl",
        id: name.to_string(),
        before: map_of([("value", before)]).into(),
        after: map_of([("value", value)]).into(),
        undo: before
            .map(|before| Command::new(["sysctl".to_string(), "-w".into(), format!("{name}={before}")])),
        ..Intent::default()
    };
    act(&Command::new(argv).c_locale(), &format!("setting {name} failed"), intent, system)
}

fn reload(
    args: &Args,
    file: &Path,
    name: &str,
    value: Option<&str>,
    before: Option<&str>,
    system: &mut dyn System,
) -> Result<(), ModuleError> {
    let mut argv = vec![host::need_program("sysctl", system)?];
    argv.extend(args.ignoreerrors.then(|| "-e".to_string()));
    argv.extend(["-p".to_string(), file.to_string_lossy().into_owned()]);
    let intent = Intent {
        kind: "sysctl",
        id: name.to_string(),
        before: map_of([("value", before)]).into(),
        after: map_of([("value", value.or(before))]).into(),
        ..Intent::default()
    };
    act(&Command::new(argv).c_locale(), "Failed to reload sysctl", intent, system)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn file_and_kernel() {
        // File before, value in force, further arguments, file after, commands.
        type Row = (
            &'static str,
            Option<&'static str>,
            &'static [(&'static str, &'static str)],
            &'static str,
            &'static [&'static str],
        );
        const RELOAD: &str = "! /sbin/sysctl -p /etc/x.conf";
        let table: &[Row] = &[
            ("", Some("60"), &[("value", "5")], "vm.s=5\n", &[RELOAD]),
            ("# c\nvm.s = 5\n", Some("5"), &[("value", "5")], "# c\nvm.s = 5\n", &[]),
            ("vm.s=5\n", Some("60"), &[("value", "5")], "vm.s=5\n", &[RELOAD]),
            ("vm.s=5\n", Some("60"), &[("value", "5"), ("reload", "no")], "vm.s=5\n", &[]),
            (
                "vm.s=5\n",
                Some("60"),
                &[("value", "5"), ("reload", "no"), ("sysctl_set", "yes")],
                "vm.s=5\n",
                &["! /sbin/sysctl -w vm.s=5"],
            ),
            (
                "a = 1\nvm.s=5\nvm.s=6\n",
                Some("6"),
                &[("value", "yes"), ("reload", "no")],
                "a=1\nvm.s=1\n",
                &[],
            ),
            ("vm.s=5\n", Some("5"), &[("state", "absent")], "", &[RELOAD]),
            ("a=1\n", Some("5"), &[("state", "absent")], "a=1\n", &[]),
            ("vm.s=1 2  3\n", Some("1\t2\t3"), &[("value", "1 2  3")], "vm.s=1 2  3\n", &[]),
        ];
        for (before, in_force, given, after, commands) in table {
            let mut fake = Fake::new()
                .with_program("/sbin/sysctl")
                .with_command_prefix(&["/sbin/sysctl"], Output::ok(""))
                .with_file("/etc/x.conf", before);
            if let Some(value) = in_force {
                fake = fake.with_file("/proc/sys/vm/s", format!("{value}\n"));
            }
            let given = map_of(
                [("name", "vm.s"), ("sysctl_file", "/etc/x.conf")].into_iter().chain(given.iter().copied()),
            );
            call(&MODULE, &given.into(), &mut fake).expect("it works");
            assert_eq!(fake.text("/etc/x.conf").as_deref(), Some(*after), "{before}");
            assert_eq!(fake.log(), *commands, "{before}");
        }
    }
}
