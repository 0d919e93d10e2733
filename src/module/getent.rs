//! `getent`: entries of the host's databases (accounts, groups, hosts, …) as facts.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, host, typed};
use crate::system::System;
use crate::value::{Map, Value, map_of};

/// Reads a database.
pub const MODULE: Module = Module {
    name: "ansible.builtin.getent",
    summary: "Read a database of the host, such as passwd",
    description: "Runs `getent` and sets the fact `getent_<database>`: a mapping from keys to lists of fields.",
    example: "- name: What is known of root\n  ansible.builtin.getent:\n    database: passwd\n    key: root\n",
    scope: Scope::World,
    params: &[
        Param::new("database", Type::Str, "Name of the database: passwd, group, hosts, services, …")
            .required(),
        Param::new("key", Type::Str, "Only the entry with this key."),
        Param::new("service", Type::Str, "Only from this source, such as `files`."),
        Param::new("split", Type::Str, "Character between fields, where it is not the usual one."),
        Param::new("fail_key", Type::Bool, "Fail if the key is missing; else its value is null.")
            .default("yes"),
    ],
    returns: &[("ansible_facts", "`getent_<database>`.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    database: String,
    key: Option<String>,
    service: Option<String>,
    split: Option<String>,
    fail_key: bool,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let program = host::need_program("getent", system)?;
    let mut argv = vec![program, args.database.clone()];
    argv.extend(args.key.clone());
    if let Some(service) = &args.service {
        argv.splice(1..1, ["-s".to_string(), service.clone()]);
    }
    let output = host::ask(argv, system)?;
    let colons = ["passwd", "shadow", "group", "gshadow"].contains(&args.database.as_str());
    let split = args.split.clone().or_else(|| colons.then(|| ":".to_string()));
    let fact = format!("getent_{}", args.database);
    let missing = || args.key.as_deref().map(|key| map_of([(key, Value::Null)])).unwrap_or_default();
    let entries = match output.code {
        0 => entries(&output.stdout_text(), split.as_deref()),
        1 => return Err(ModuleError::new("Missing arguments, or database unknown.")),
        2 if args.fail_key => {
            return Err(ModuleError::new("One or more supplied key could not be found in the database."));
        }
        2 => missing(),
        3 => return Err(ModuleError::new("Enumeration not supported on this database.")),
        _ => return Err(ModuleError::new(format!("Unexpected failure! {}", output.stderr_text().trim()))),
    };
    let facts = map_of([(fact.as_str(), entries)]);
    Ok(Outcome { facts: Some(facts), ..Outcome::default() })
}

/// Entries by their first field; a key that comes again gets a list of lists.
fn entries(text: &str, split: Option<&str>) -> Map {
    let mut out = Map::new();
    let mut repeated: Vec<String> = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = match split {
            Some(separator) => line.split(separator).collect(),
            None => line.split_whitespace().collect(),
        };
        let Some((key, rest)) = fields.split_first() else { continue };
        let rest: Value = rest.to_vec().into();
        let value = match out.get(*key) {
            None => rest,
            Some(Value::List(lists)) if repeated.iter().any(|known| known == key) => {
                lists.iter().cloned().chain([rest]).collect::<Vec<_>>().into()
            }
            Some(first) => {
                repeated.push((*key).to_string());
                vec![first.clone(), rest].into()
            }
        };
        out.insert((*key).into(), value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::args::check;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn entries_become_facts() {
        let mut fake = Fake::new()
            .with_program("/usr/bin/getent")
            .with_command(
                &["/usr/bin/getent", "passwd", "root"],
                Output::ok("root:x:0:0:root:/root:/bin/sh\n"),
            )
            .with_command(
                &["/usr/bin/getent", "ahosts", "h"],
                Output::ok("10.0.0.1 STREAM h\n10.0.0.1 DGRAM\n10.0.0.1 RAW\n"),
            )
            .with_command(&["/usr/bin/getent", "passwd", "gone"], Output::fails(2, ""));
        for (given, expected) in [
            (
                vec![("database", "passwd"), ("key", "root")],
                Ok("{'getent_passwd': {'root': ['x', '0', '0', 'root', '/root', '/bin/sh']}}"),
            ),
            (
                vec![("database", "ahosts"), ("key", "h")],
                Ok("{'getent_ahosts': {'10.0.0.1': [['STREAM', 'h'], ['DGRAM'], ['RAW']]}}"),
            ),
            (
                vec![("database", "passwd"), ("key", "gone"), ("fail_key", "no")],
                Ok("{'getent_passwd': {'gone': None}}"),
            ),
            (
                vec![("database", "passwd"), ("key", "gone")],
                Err("One or more supplied key could not be found in the database."),
            ),
        ] {
            let args = check(&MODULE, &map_of(given), &|_| true).expect("valid");
            let told = (MODULE.run)(args, &mut fake)
                .map(|outcome| Value::map(outcome.facts.expect("facts")).repr())
                .map_err(|error| error.message);
            assert_eq!(told.as_deref().map_err(String::as_str), expected);
        }
    }
}
