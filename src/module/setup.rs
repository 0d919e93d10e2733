//! `setup`: facts of the machine.

use std::time::Duration;

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, args, facts, host, typed};
use crate::system::System;
use crate::value::{Map, Value, map_of};

/// Gathers facts.
pub const SETUP: Module = Module {
    name: "ansible.builtin.setup",
    aliases: &["ansible.builtin.gather_facts"],
    summary: "Gather facts of the host",
    description: "Facts are read from the kernel and from files under the names that playbooks know, with few \
        programs run, so that they cost some milliseconds. There need be no Python on the host; where there is one, \
        `ansible_python` tells its path and version.",
    example: "- name: Only what is needed for the network\n  ansible.builtin.setup:\n    gather_subset:\n      - '!all'\n      - network\n",
    scope: Scope::Host,
    params: &[
        Param::new(
            "gather_subset",
            Type::List,
            "Groups of facts: `all`, `min`, a group, or one left out with `!`.",
        )
        .default("all"),
        Param::new("gather_timeout", Type::Int, "Seconds that one slow question (a file server) may take.")
            .default("10"),
        Param::new("filter", Type::List, "Patterns of names of facts to return; `ansible_` may be left out.")
            .default("[]"),
        Param::new("fact_path", Type::Path, "Directory with facts of the site: `*.fact`.")
            .default("/etc/ansible/facts.d"),
        Param::new("parallel", Type::Bool, "Has no effect: all facts are gathered in one pass."),
    ],
    returns: &[("ansible_facts", "The facts.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Deserialize)]
struct Args {
    #[serde(deserialize_with = "host::texts")]
    gather_subset: Vec<String>,
    gather_timeout: u64,
    #[serde(deserialize_with = "host::texts")]
    filter: Vec<String>,
    fact_path: String,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let groups = facts::choose(&args.gather_subset).map_err(ModuleError::new)?;
    let fact_path = args::expand_path(&args.fact_path, system)?;
    let timeout = Duration::from_secs(args.gather_timeout.max(1));
    let (mut found, warnings) = facts::gather(&groups, timeout, &fact_path, system);
    found.extend(map_of([
        ("gather_subset", Value::from(args.gather_subset.clone())),
        ("module_setup", true.into()),
    ]));
    filter(&mut found, &args.filter);
    Ok(Outcome { facts: Some(found), warnings, ..Outcome::default() })
}

/// Keeps the facts whose names, with or without prefix, match one of the patterns.
fn filter(facts: &mut Map, patterns: &[String]) {
    let patterns: Vec<&str> =
        patterns.iter().map(String::as_str).filter(|pattern| !pattern.is_empty()).collect();
    if patterns.is_empty() || patterns.contains(&"*") {
        return;
    }
    let compiled: Vec<glob::Pattern> =
        patterns.iter().filter_map(|pattern| glob::Pattern::new(pattern).ok()).collect();
    facts.retain(|name, _| {
        let name = name.to_text();
        let full = match name.as_str() {
            "gather_subset" | "module_setup" => name.clone(),
            _ => format!("ansible_{name}"),
        };
        compiled.iter().any(|pattern| pattern.matches(&full) || pattern.matches(&name))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_names_with_and_without_prefix() {
        for (patterns, expected) in [
            (vec![], vec!["os_family", "eth0", "module_setup"]),
            (vec!["*"], vec!["os_family", "eth0", "module_setup"]),
            (vec!["ansible_os*"], vec!["os_family"]),
            (vec!["eth[0-2]", "nothing"], vec!["eth0"]),
        ] {
            let mut facts = map_of([("os_family", 1), ("eth0", 2), ("module_setup", 3)]);
            let patterns: Vec<String> = patterns.into_iter().map(String::from).collect();
            filter(&mut facts, &patterns);
            assert_eq!(facts.keys().map(Value::to_text).collect::<Vec<_>>(), expected);
        }
    }
}
