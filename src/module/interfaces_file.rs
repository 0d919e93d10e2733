//! `interfaces_file`: options of interfaces in `/etc/network/interfaces`.

use serde::Deserialize;

use crate::module::files::{self, FileArgs, Writing};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Content, System};
use crate::value::{Map, Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Options that an interface may have several times.
const REPEATED: [&str; 6] = ["pre-up", "up", "down", "post-up", "post-down", "pre-down"];

/// Words that begin a section of their own.
const SECTIONS: [&str; 5] = ["mapping", "source", "source-directory", "source-dir", "no-auto-down"];

/// Sets options of interfaces.
pub const MODULE: Module = Module {
    name: "community.general.interfaces_file",
    summary: "Set options of interfaces in Debian's network configuration",
    description: "Changes, adds or removes one option of one `iface` section and leaves the rest as it is. The section must be \
        there. Files that are included by `source` are not looked at.",
    example: "- community.general.interfaces_file:\n    iface: eth0\n    option: mtu\n    value: '9000'\n    backup: true\n",
    scope: Scope::Host,
    params: &[
        Param::new("dest", Type::Path, "The file.").default("/etc/network/interfaces"),
        Param::new("iface", Type::Str, "The interface."),
        Param::new("address_family", Type::Str, "Family of the section, such as `inet6`."),
        Param::new("option", Type::Str, "The option; `method` changes the head of the section."),
        Param::new("value", Type::Str, "Its value. One of `up`, `pre-up`, … is added, not replaced."),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["present", "absent"])
            .default("present"),
        Param::new("backup", Type::Bool, "Keep a copy of what is replaced.").default("false"),
    ],
    file_params: true,
    rules: &[Rule::RequiredBy { param: "option", needs: &["iface"] }],
    returns: &[
        ("dest", "The file."),
        ("ifaces", "Its interfaces with their options."),
        ("backup_file", "The copy that was kept."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    dest: String,
    iface: Option<String>,
    address_family: Option<String>,
    option: Option<String>,
    value: Option<String>,
    state: String,
    backup: bool,
    #[serde(flatten)]
    file: FileArgs,
}

/// A section of an interface: its head and where its options are.
#[derive(Debug)]
struct Section {
    name: String,
    family: String,
    method: String,
    head: usize,
    /// Line, option, value.
    options: Vec<(usize, String, String)>,
}

fn parse(lines: &[String]) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut inside = false;
    for (index, line) in lines.iter().enumerate() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if first.starts_with('#') {
            continue;
        }
        if first == "iface" {
            let mut word = || words.next().unwrap_or_default().to_string();
            sections.push(Section {
                name: word(),
                family: word(),
                method: word(),
                head: index,
                options: Vec::new(),
            });
            inside = true;
        } else if SECTIONS.contains(&first) || first == "auto" || first.starts_with("allow-") {
            inside = false;
        } else if inside && let Some(section) = sections.last_mut() {
            let value = line.trim_start()[first.len()..].trim().to_string();
            section.options.push((index, first.to_string(), value));
        }
    }
    sections
}

/// The interfaces as they are returned: the last section of a name wins.
fn shown(sections: &[Section]) -> Value {
    let mut out = Map::new();
    for section in sections {
        let mut map = map_of([
            ("address_family", Value::str(section.family.as_str())),
            ("method", Value::str(section.method.as_str())),
        ]);
        for name in ["pre-up", "up", "down", "post-up"] {
            let values = section.options.iter().filter(|(_, option, _)| option == name);
            map.insert(
                Value::str(name),
                Value::list(values.map(|(.., value)| Value::str(value.as_str())).collect()),
            );
        }
        for (_, option, value) in &section.options {
            if !REPEATED.contains(&option.as_str()) {
                map.insert(Value::str(option.as_str()), Value::str(value.as_str()));
            }
        }
        out.insert(Value::str(section.name.as_str()), Value::map(map));
    }
    Value::map(out)
}

fn edit(args: &Args, lines: &mut Vec<String>) -> Result<()> {
    let (Some(iface), Some(option)) = (&args.iface, &args.option) else { return Ok(()) };
    let sections = parse(lines);
    let is_it = |section: &&Section| {
        section.name == *iface && args.address_family.as_ref().is_none_or(|family| *family == section.family)
    };
    let Some(section) = sections.iter().rev().find(is_it) else {
        return Err(ModuleError::new(format!("Error: interface {iface} not found")));
    };
    let present = args.state == "present";
    if option == "method" {
        let Some(method) = args.value.as_ref().filter(|_| present) else {
            return Err(ModuleError::new(
                "the method of an interface can be changed, not removed: give its value",
            ));
        };
        if section.method != *method {
            lines[section.head] = format!("iface {} {} {method}", section.name, section.family);
        }
        return Ok(());
    }
    let mine: Vec<&(usize, String, String)> =
        section.options.iter().filter(|(_, name, _)| name == option).collect();
    let repeated = REPEATED.contains(&option.as_str());
    if !present {
        let gone: Vec<usize> = mine
            .iter()
            .filter(|(.., value)| args.value.as_ref().is_none_or(|wanted| !repeated || wanted == value))
            .map(|(line, ..)| *line)
            .collect();
        let mut index = 0;
        lines.retain(|_| {
            index += 1;
            !gone.contains(&(index - 1))
        });
        return Ok(());
    }
    let Some(value) = &args.value else {
        return Err(ModuleError::new("value is needed with state present"));
    };
    if mine.iter().any(|(.., known)| known == value) && (repeated || mine.len() == 1) {
        return Ok(());
    }
    if let (Some((line, _, _)), false) = (mine.last(), repeated) {
        let old = &lines[*line];
        let indent = &old[..old.len() - old.trim_start().len()];
        lines[*line] = format!("{indent}{option} {value}");
        return Ok(());
    }
    let last = section.options.last().map_or(section.head, |(line, ..)| *line);
    let indent = section.options.last().map_or("    ".to_string(), |(line, ..)| {
        let text = &lines[*line];
        text[..text.len() - text.trim_start().len()].to_string()
    });
    lines.insert(last + 1, format!("{indent}{option} {value}"));
    Ok(())
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    let path = args::expand_path(&args.dest, system)?;
    let Some(text) = host::read_text(&path, system) else {
        if let Some(outcome) = files::uncertain(system, &path) {
            return Ok(outcome);
        }
        return Err(ModuleError::new(format!("there is no file {}", path.display())));
    };
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    edit(args, &mut lines)?;
    let mut outcome = Outcome::default().set("ifaces", shown(&parse(&lines)));
    let mut after = lines.join("\n");
    if text.ends_with('\n') && !after.is_empty() {
        after.push('\n');
    }
    if after == text {
        args.file.apply(system, &path, true)?;
    } else {
        let real = system.resolve(&path)?;
        let writing = Writing { backup: args.backup, ..Writing::plain(&args.file) };
        if let Some(backup) = files::put(system, &real, &Content::Bytes(after.into_bytes()), &writing)? {
            outcome = outcome.set("backup_file", backup);
        }
    }
    files::finish(system, outcome, &path, "dest", None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    const FILE: &str = "auto lo\niface lo inet loopback\n\n# the wire\nauto eth0\niface eth0 inet static\n\taddress 10.0.0.2\n\tup route add x\n\tmtu 1500\niface eth0 inet6 auto\nsource /etc/x\n";

    #[test]
    fn options_are_changed_added_and_removed() {
        let table: &[(&str, &str, &str)] = &[
            (r#""iface":"eth0","address_family":"inet","option":"mtu","value":"1500""#, "", ""),
            (
                r#""iface":"eth0","address_family":"inet","option":"mtu","value":"9000""#,
                "\tmtu 1500",
                "\tmtu 9000",
            ),
            (
                r#""iface":"eth0","address_family":"inet","option":"gateway","value":"10.0.0.1""#,
                "\tmtu 1500",
                "\tmtu 1500\n\tgateway 10.0.0.1",
            ),
            (
                r#""iface":"eth0","address_family":"inet","option":"up","value":"route add y""#,
                "\tmtu 1500",
                "\tmtu 1500\n\tup route add y",
            ),
            (
                r#""iface":"eth0","address_family":"inet","option":"up","state":"absent""#,
                "\tup route add x\n",
                "",
            ),
            (
                r#""iface":"eth0","address_family":"inet","option":"up","value":"other","state":"absent""#,
                "",
                "",
            ),
            (r#""iface":"eth0","option":"mtu","value":"1280""#, "inet6 auto", "inet6 auto\n    mtu 1280"),
            (
                r#""iface":"eth0","address_family":"inet6","option":"method","value":"dhcp""#,
                "inet6 auto",
                "inet6 dhcp",
            ),
        ];
        for (arguments, from, to) in table {
            let arguments = format!(r#"{{"dest":"@/i",{arguments}}}"#);
            let verdict = contract(&MODULE, &[&format!("f i 644 {FILE}")], &arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            let expected = if from.is_empty() { FILE.to_string() } else { FILE.replacen(from, to, 1) };
            assert_eq!(verdict.tree, [format!("f i 644 {expected}")], "{arguments}");
        }
        let verdict = contract(&MODULE, &[&format!("f i 644 {FILE}")], r#"{"dest":"@/i"}"#);
        let ifaces = verdict.outcome.values.get("ifaces").expect("returned");
        assert_eq!(
            ifaces.get("lo").and_then(|lo| lo.get("method")).map(Value::to_text).as_deref(),
            Some("loopback")
        );
        for (arguments, expected) in [
            (r#"{"dest":"@/i","iface":"eth9","option":"mtu","value":"1"}"#, "eth9 not found"),
            (r#"{"dest":"@/none"}"#, "no file"),
            (r#"{"dest":"@/i","option":"mtu"}"#, "iface"),
        ] {
            let error = contract(&MODULE, &[&format!("f i 644 {FILE}")], arguments).error.unwrap_or_default();
            assert!(error.contains(expected), "{arguments}: {error}");
        }
    }
}
