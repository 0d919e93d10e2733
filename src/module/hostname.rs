//! `hostname`: the machine's name.

use std::path::Path;

use serde::Deserialize;

use crate::module::facts::{distribution, service_manager};
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, host, typed};
use crate::system::probe::{Answer, Probe};
use crate::system::{Applied, Command, Done, Intent, System};
use crate::value::{Map, map_of};

/// Sets the machine's name.
pub const MODULE: Module = Module {
    name: "ansible.builtin.hostname",
    summary: "Set the machine's name, now and after a reboot",
    description: "Uses `hostnamectl` where systemd is in charge, else `hostname` and the file that the \
        distribution reads at boot. `/etc/hosts` is not touched.",
    example: "- ansible.builtin.hostname:\n    name: web01\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "The name.").required(),
        Param::new("use", Type::Str, "How to set it, instead of what is found.").choices(&[
            "alpine", "debian", "freebsd", "generic", "macos", "macosx", "darwin", "openbsd", "openrc",
            "redhat", "sles", "solaris", "systemd",
        ]),
    ],
    returns: &[("name", "The name."), ("ansible_facts", "Names of the machine as facts.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Deserialize)]
struct Args {
    name: String,
    #[serde(rename = "use", default)]
    strategy: Option<String>,
}

/// Where a distribution keeps the name for the next boot.
enum Store {
    /// A file with nothing else.
    File(&'static str),
    /// `HOSTNAME=` in a file of settings.
    Setting(&'static str, bool),
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let strategy = match args.strategy.as_deref() {
        Some(name @ ("freebsd" | "macos" | "macosx" | "darwin" | "openbsd" | "solaris")) => {
            return Err(ModuleError::new(format!(
                "hostname: the strategy '{name}' is not supported: this is Linux"
            )));
        }
        Some(name) => name.to_string(),
        None => strategy(system)?,
    };
    let now = match system.probe(&Probe::Kernel) {
        Ok(Answer::Kernel(kernel)) => kernel.node,
        _ => String::new(),
    };
    match strategy.as_str() {
        "systemd" => with_systemd(&args.name, &now, system)?,
        other => {
            if now != args.name {
                let program = host::need_program("hostname", system)?;
                act(&Command::new([program, args.name.clone()]), &now, args, system)?;
            }
            let store = match other {
                "redhat" => Store::Setting("/etc/sysconfig/network", false),
                "openrc" => Store::Setting("/etc/conf.d/hostname", true),
                "sles" => Store::File("/etc/HOSTNAME"),
                _ => Store::File("/etc/hostname"),
            };
            keep(&store, &args.name, system)?;
        }
    }
    system.applied(Applied {
        kind: "hostname".into(),
        id: "hostname".into(),
        state: map_of([("name", args.name.as_str())]).into(),
    });
    let short = args.name.split('.').next().unwrap_or_default();
    let facts: Map = map_of([
        ("hostname", short),
        ("nodename", args.name.as_str()),
        ("fqdn", args.name.as_str()),
        ("domain", args.name.split_once('.').map_or("", |(_, domain)| domain)),
    ]);
    Ok(Outcome { facts: Some(facts), ..Outcome::default() }.set("name", args.name.as_str()))
}

fn strategy(system: &mut dyn System) -> Result<String, ModuleError> {
    let family = distribution::detect(system);
    if service_manager(&family.name, system) == "systemd"
        && host::find_program("hostnamectl", system)?.is_some()
    {
        return Ok("systemd".into());
    }
    Ok(match family.family.as_str() {
        "Alpine" => "alpine",
        "Gentoo" => "openrc",
        "RedHat" if family.major.parse::<u32>().is_ok_and(|major| major < 7) => "redhat",
        "Suse" if family.major.parse::<u32>().is_ok_and(|major| major < 12) => "sles",
        _ => "generic",
    }
    .into())
}

fn act(command: &Command, before: &str, args: &Args, system: &mut dyn System) -> Result<(), ModuleError> {
    let intent = Intent {
        kind: "hostname",
        id: "hostname".into(),
        before: map_of([("hostname", before)]).into(),
        after: map_of([("hostname", args.name.as_str())]).into(),
        ..Intent::default()
    };
    match system.change(command, intent)? {
        Done::Made(output) if !output.success() => {
            Err(ModuleError::command("Command failed", command, &output))
        }
        _ => Ok(()),
    }
}

fn with_systemd(name: &str, now: &str, system: &mut dyn System) -> Result<(), ModuleError> {
    let program = host::need_program("hostnamectl", system)?;
    let kept = host::read_text("/etc/hostname", system).unwrap_or_default();
    for (kind, current) in [("--transient", now), ("--static", kept.trim())] {
        if current != name {
            let command = Command::new([program.as_str(), kind, "set-hostname", name]);
            let args = Args { name: name.to_string(), strategy: None };
            act(&command, current, &args, system)?;
        }
    }
    Ok(())
}

fn keep(store: &Store, name: &str, system: &mut dyn System) -> Result<(), ModuleError> {
    match store {
        Store::File(path) => {
            let text = host::read_text(path, system).unwrap_or_default();
            if text.trim() != name {
                host::write_text(Path::new(path), &format!("{name}\n"), 0o644, system)?;
            }
        }
        Store::Setting(path, quoted) => {
            let text = host::read_text(path, system).unwrap_or_default();
            let key = if *quoted { "hostname" } else { "HOSTNAME" };
            let line = if *quoted { format!("{key}=\"{name}\"") } else { format!("{key}={name}") };
            let mut found = false;
            let mut lines: Vec<String> = Vec::new();
            for known in text.lines() {
                if known.trim().to_ascii_lowercase().starts_with("hostname=") {
                    found = true;
                    lines.push(line.clone());
                } else {
                    lines.push(known.to_string());
                }
            }
            if !found {
                lines.push(line);
            }
            host::write_text(Path::new(path), &(lines.join("\n") + "\n"), 0o644, system)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;
    use crate::system::probe::Kernel;
    use crate::value::Value;

    #[test]
    fn names_are_set_where_they_differ() {
        for (strategy, node, kept, expected) in [
            (
                "systemd",
                "old",
                "old",
                vec![
                    "! /usr/bin/hostnamectl --transient set-hostname new",
                    "! /usr/bin/hostnamectl --static set-hostname new",
                ],
            ),
            ("systemd", "new", "old", vec!["! /usr/bin/hostnamectl --static set-hostname new"]),
            ("systemd", "new", "new", vec![]),
            ("generic", "old", "new", vec!["! /bin/hostname new"]),
            ("generic", "new", "new", vec![]),
        ] {
            let kernel = Kernel { node: node.into(), ..Kernel::default() };
            let mut fake = Fake::new()
                .with_program("/usr/bin/hostnamectl")
                .with_program("/bin/hostname")
                .with_command_prefix(&["/usr/bin/hostnamectl"], Output::ok(""))
                .with_command_prefix(&["/bin/hostname"], Output::ok(""))
                .with_answer(Probe::Kernel, Answer::Kernel(kernel))
                .with_file("/etc/hostname", format!("{kept}\n"));
            let given = map_of([("name", "new"), ("use", strategy)]);
            call(&MODULE, &Value::map(given), &mut fake).expect("it works");
            assert_eq!(fake.log(), expected, "{strategy} {node} {kept}");
        }
        let kernel = Kernel { node: "new".into(), ..Kernel::default() };
        let mut fake = Fake::new()
            .with_answer(Probe::Kernel, Answer::Kernel(kernel))
            .with_file("/etc/sysconfig/network", "A=1\nHOSTNAME=old\n");
        call(&MODULE, &Value::map(map_of([("name", "new"), ("use", "redhat")])), &mut fake)
            .expect("it works");
        assert_eq!(fake.text("/etc/sysconfig/network").as_deref(), Some("A=1\nHOSTNAME=new\n"));
    }
}
