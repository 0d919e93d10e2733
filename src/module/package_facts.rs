//! `package_facts`: installed packages as facts.

use serde::Deserialize;

use crate::module::dpkg::Database;
use crate::module::facts::{distribution, package_manager};
use crate::module::planned::Planned;
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, host, typed};
use crate::system::System;
use crate::value::{Map, Value, map_of};

/// Tells installed packages.
pub const MODULE: Module = Module {
    name: "ansible.builtin.package_facts",
    summary: "Tell which packages are installed, as facts",
    description: "Sets the fact `packages`: from each name a list of entries with name, version, arch and source. \
        dpkg's and apk's databases are read directly; `rpm` and `pacman` are asked. `origin` of Debian's packages is \
        empty: the installed database does not hold it.",
    example: "- ansible.builtin.package_facts:\n- ansible.builtin.debug:\n    msg: \"{{ ansible_facts.packages['openssl'][0].version }}\"\n",
    scope: Scope::Host,
    params: &[
        Param::new("manager", Type::List, "Where to look; `auto` for what the machine has.")
            .choices(&[
                "apk",
                "apt",
                "auto",
                "dnf",
                "dnf5",
                "openbsd_pkg",
                "pacman",
                "pkg",
                "pkg5",
                "pkg_info",
                "pkgng",
                "portage",
                "rpm",
                "yum",
                "zypper",
            ])
            .default("auto"),
        Param::new("strategy", Type::Str, "Take the first manager that is there, or all.")
            .choices(&["first", "all"])
            .default("first"),
    ],
    returns: &[("ansible_facts", "`packages`.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Deserialize)]
struct Args {
    #[serde(deserialize_with = "host::texts")]
    manager: Vec<String>,
    strategy: String,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let mut managers: Vec<String> = Vec::new();
    for name in &args.manager {
        match name.as_str() {
            "auto" => {
                let family = distribution::detect(system).family;
                managers.push(package_manager(&family, system));
            }
            other => managers.push(other.to_string()),
        }
    }
    let mut packages = Map::new();
    let mut found = false;
    for manager in &managers {
        if found && args.strategy == "first" {
            break;
        }
        found |= match manager.as_str() {
            "apt" => debian(&mut packages, system)?,
            "dnf" | "dnf5" | "yum" | "zypper" | "rpm" | "atomic_container" => rpm(&mut packages, system)?,
            "apk" => alpine(&mut packages, system),
            "pacman" => arch(&mut packages, system)?,
            other => {
                return Err(ModuleError::new(format!(
                    "package_facts: the package manager '{other}' is not supported"
                )));
            }
        };
    }
    if !found {
        return Err(ModuleError::new(format!(
            "Could not detect a supported package manager from the following list: {managers:?}, or the required tool is missing."
        )));
    }
    Ok(Outcome { facts: Some(map_of([("packages", packages)])), ..Outcome::default() })
}

fn add(packages: &mut Map, name: &str, entry: Map) {
    let mut entries: Vec<Value> = packages.get(name).and_then(Value::as_list).unwrap_or_default().to_vec();
    entries.push(entry.into());
    packages.insert(name.into(), entries.into());
}

fn debian(packages: &mut Map, system: &mut dyn System) -> Result<bool, ModuleError> {
    if !host::exists("/var/lib/dpkg/status", system)? {
        return Ok(false);
    }
    for package in Database::read(system).packages().iter().filter(|package| package.is_installed()) {
        let entry = map_of([
            ("name", package.name.as_str()),
            ("version", package.version.as_str()),
            ("arch", package.architecture.as_str()),
            ("category", package.section.as_str()),
            ("origin", ""),
            ("source", "apt"),
        ]);
        add(packages, &package.name, entry);
    }
    Ok(true)
}

fn rpm(packages: &mut Map, system: &mut dyn System) -> Result<bool, ModuleError> {
    let format = "%{NAME}\\t%{VERSION}\\t%{RELEASE}\\t%{EPOCH}\\t%{ARCH}\\n";
    // A program of that name that can't be run is no rpm.
    let Ok(output) = host::ask(["rpm", "-qa", "--queryformat", format], system) else { return Ok(false) };
    let mut found = false;
    for line in output.stdout_text().lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, version, release, epoch, arch] = fields[..] else { continue };
        let entry = map_of([
            ("name", Value::from(name)),
            ("version", version.into()),
            ("release", release.into()),
            ("epoch", epoch.parse::<i64>().map_or(Value::Null, Value::Int)),
            ("arch", if arch == "(none)" { Value::Null } else { arch.into() }),
            ("source", "rpm".into()),
        ]);
        add(packages, name, entry);
        found = true;
    }
    for (name, version) in Planned::read("rpm", system).packages() {
        packages.shift_remove(name.as_str());
        let Some(version) = version else { continue };
        let (epoch, rest) =
            version.split_once(':').map_or((None, version.as_str()), |(e, rest)| (Some(e), rest));
        let (version, release) = rest.rsplit_once('-').unwrap_or((rest, ""));
        let entry = map_of([
            ("name", Value::from(name.as_str())),
            ("version", version.into()),
            ("release", release.into()),
            ("epoch", epoch.and_then(|epoch| epoch.parse::<i64>().ok()).map_or(Value::Null, Value::Int)),
            ("arch", Value::Null),
            ("source", "rpm".into()),
        ]);
        add(packages, name, entry);
    }
    // A database of rpm without a package is not what manages the host.
    Ok(found && output.success())
}

fn alpine(packages: &mut Map, system: &mut dyn System) -> bool {
    let Some(text) = host::read_text("/lib/apk/db/installed", system) else { return false };
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default()
        };
        let (name, version) = (field("P"), field("V"));
        if name.is_empty() {
            continue;
        }
        let (version, release) = version.rsplit_once('-').unwrap_or((version, ""));
        let entry = map_of([
            ("name", name),
            ("version", version),
            ("release", release),
            ("arch", field("A")),
            ("source", "apk"),
        ]);
        add(packages, name, entry);
    }
    true
}

fn arch(packages: &mut Map, system: &mut dyn System) -> Result<bool, ModuleError> {
    let output = host::ask(["pacman", "-Q"], system)?;
    for line in output.stdout_text().lines() {
        if let Some((name, version)) = line.split_once(' ') {
            add(packages, name, map_of([("name", name), ("version", version), ("source", "pacman")]));
        }
    }
    Ok(output.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn packages_become_facts() {
        let mut fake = Fake::new()
            .with_file("/var/lib/dpkg/status", "Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\nSection: net\n\nPackage: b\nStatus: deinstall ok config-files\nVersion: 2\n")
            .with_file("/lib/apk/db/installed", "C:x\nP:musl\nV:1.2.4-r2\nA:x86_64\n\n")
            .with_command_prefix(&["rpm", "-qa"], Output::ok("k\t1\t2\t(none)\tx86_64\nk\t1\t3\t4\tx86_64\n"));
        for (manager, expected) in [
            (
                "apt",
                "{'a': [{'name': 'a', 'version': '1', 'arch': 'amd64', 'category': 'net', 'origin': '', 'source': 'apt'}]}",
            ),
            (
                "apk",
                "{'musl': [{'name': 'musl', 'version': '1.2.4', 'release': 'r2', 'arch': 'x86_64', 'source': 'apk'}]}",
            ),
            (
                "rpm",
                "{'k': [{'name': 'k', 'version': '1', 'release': '2', 'epoch': None, 'arch': 'x86_64', 'source': 'rpm'}, {'name': 'k', 'version': '1', 'release': '3', 'epoch': 4, 'arch': 'x86_64', 'source': 'rpm'}]}",
            ),
        ] {
            let outcome = call(&MODULE, &map_of([("manager", manager)]).into(), &mut fake).expect("it works");
            let facts = outcome.facts.expect("facts");
            assert_eq!(facts["packages"].repr(), expected);
        }
    }
}
