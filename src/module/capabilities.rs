//! `capabilities`: what a program may do without being root.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Type, files, typed};
use crate::system::{Command, Intent, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "community.general.capabilities",
    summary: "Sets capabilities of a program's file",
    description: "Gives a file a capability, or takes it away, and keeps its others. The host needs `getcap` and `setcap`.",
    example: "- name: Low ports for the web server\n  community.general.capabilities:\n    path: /usr/local/bin/web\n    capability: cap_net_bind_service+ep\n",
    params: &[
        Param::new("path", Type::Str, "The file.").required().aliases(&["key"]),
        Param::new(
            "capability",
            Type::Str,
            "The capability with its flags, such as `cap_net_raw+ep`; the name suffices to remove it.",
        )
        .required()
        .aliases(&["cap"]),
        Param::new("state", Type::Str, "Whether the file should have it.")
            .choices(&["absent", "present"])
            .default("present"),
    ],
    returns: &[("msg", "What was done."), ("stdout", "What `setcap` said.")],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    path: String,
    capability: String,
    state: String,
}

/// A capability with its flags, sorted. `+` and `=` mean the same on a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Capability {
    name: String,
    flags: String,
}

impl Capability {
    fn text(&self) -> String {
        format!("{}+{}", self.name, self.flags)
    }
}

/// Reads `cap_a,cap_b+ep`.
fn parse(group: &str) -> Vec<Capability> {
    let (names, flags) = group.find(['+', '=']).map_or((group, ""), |at| (&group[..at], &group[at + 1..]));
    let mut flags: Vec<char> = flags.chars().collect();
    flags.sort_unstable();
    let flags: String = flags.into_iter().collect();
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| Capability { name: name.trim().to_ascii_lowercase(), flags: flags.clone() })
        .collect()
}

/// Reads what `getcap` prints for a path: `path cap_a=ep`, or in its older form `path = cap_a+ep`.
fn parse_getcap(output: &str, path: &str) -> Vec<Capability> {
    let rest = output.trim().strip_prefix(path).unwrap_or_default().trim();
    let rest = rest.strip_prefix("= ").unwrap_or(rest);
    rest.split_whitespace().flat_map(parse).collect()
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    let path = files::path_arg(system, &args.path)?;
    let [asked] = &parse(&args.capability)[..] else {
        return Err(ModuleError::new(format!("{} is not one capability", args.capability)));
    };
    let present = args.state == "present";
    if present && asked.flags.is_empty() {
        return Err(ModuleError::new(format!(
            "Couldn't find operator (one of: ['=', '-', '+']) in {}",
            args.capability
        )));
    }
    if system.stat_follow(&path)?.is_none() {
        if let Some(outcome) = files::uncertain(system, &path) {
            return Ok(outcome);
        }
        return Err(ModuleError::new(format!("{} does not exist", path.display())));
    }
    let text = files::text_of(&path);
    let get = Command::new(["getcap", &text]).c_locale();
    let Some(output) = files::try_query(system, &get)? else {
        if let Some(outcome) = files::uncertain(system, &path) {
            return Ok(outcome);
        }
        return Err(ModuleError::new("Failed to find required executable \"getcap\" in paths"));
    };
    if !output.success() {
        return Err(ModuleError::command(format!("Unable to get capabilities of {text}"), &get, &output));
    }
    let current = parse_getcap(&output.stdout_text(), &text);
    let right =
        if present { current.contains(asked) } else { current.iter().all(|have| have.name != asked.name) };
    if right {
        return Ok(Outcome::default().set("state", args.state));
    }
    let mut wanted: Vec<Capability> =
        current.iter().filter(|have| have.name != asked.name).cloned().collect();
    if present {
        wanted.push(asked.clone());
    }
    let line = |list: &[Capability]| list.iter().map(Capability::text).collect::<Vec<_>>().join(" ");
    let set = |list: &[Capability]| {
        if list.is_empty() {
            Command::new(["setcap", "-r", &text])
        } else {
            Command::new(["setcap", &line(list), &text])
        }
    };
    let intent = Intent {
        kind: "capabilities",
        id: text.clone(),
        before: map_of([("capabilities", line(&current))]).into(),
        after: map_of([("capabilities", line(&wanted))]).into(),
        undo: Some(set(&current)),
        ..Intent::default()
    };
    let command = set(&wanted);
    let output = system.change(&command, intent)?.output();
    if !output.success() {
        return Err(ModuleError::command(format!("Unable to set capabilities of {text}"), &command, &output));
    }
    Ok(Outcome::default()
        .set("state", args.state)
        .set("msg", "capabilities changed")
        .set("stdout", output.stdout_text()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn gives_and_takes() {
        for (has, args, expected) in [
            ("/bin/x cap_net_raw=ep\n", ("cap_net_raw+ep", "present"), None),
            ("/bin/x = cap_net_raw+pe\n", ("cap_net_raw=ep", "present"), None),
            ("", ("cap_net_raw+ep", "present"), Some("setcap cap_net_raw+ep /bin/x")),
            (
                "/bin/x cap_a,cap_b=ep cap_c+i\n",
                ("cap_b+eip", "present"),
                Some("setcap 'cap_a+ep cap_c+i cap_b+eip' /bin/x"),
            ),
            ("/bin/x cap_a=ep\n", ("cap_a", "absent"), Some("setcap -r /bin/x")),
            ("/bin/x cap_a=ep\n", ("cap_b", "absent"), None),
        ] {
            let mut fake = Fake::new()
                .with_file("/bin/x", "")
                .with_command(&["getcap", "/bin/x"], Output::ok(has))
                .with_command_prefix(&["setcap"], Output::ok(""));
            let given = map_of([("path", "/bin/x"), ("capability", args.0), ("state", args.1)]);
            call(&MODULE, &given.into(), &mut fake).expect("works");
            let acted = fake.log().iter().find(|line| line.contains("setcap")).cloned();
            assert_eq!(
                acted.as_deref().map(|line| line.trim_start_matches("! ")),
                expected,
                "{has:?} {args:?}"
            );
        }
    }
}
