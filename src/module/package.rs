//! `package`: packages, whatever manages them.

use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, args, facts, registry};
use crate::system::System;
use crate::value::Value;

/// Installs, upgrades and removes packages.
pub const MODULE: Module = Module {
    name: "ansible.builtin.package",
    summary: "Install, upgrade and remove packages, whatever manages them",
    description: "Finds out what manages packages on the host (apt, dnf, zypper, pacman, apk, …) and hands all \
        parameters to the module of that name.",
    example: "- name: A tool that has the same name everywhere\n  ansible.builtin.package:\n    name: rsync\n    state: present\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Raw, "Packages."),
        Param::new(
            "state",
            Type::Str,
            "What they should be: `present`, `absent`, `latest` and what else the manager knows. Without it, what the \
             manager's module does without it.",
        ),
        Param::new("use", Type::Str, "The module to use instead of what is found.").default("auto"),
    ],
    any_params: true,
    returns: &[("", "What the module of the package manager returns.")],
    run,
    ..Module::DEFAULT
};

fn run(given: Value, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let mut map = given.as_map().cloned().unwrap_or_default();
    let named = map.shift_remove("use").map(|name| name.to_text()).unwrap_or_default();
    let name = if named.is_empty() || named == "auto" {
        let family = facts::distribution::detect(system).family;
        facts::package_manager(&family, system)
    } else {
        named
    };
    let name = match name.as_str() {
        "unknown" => {
            return Err(ModuleError::new("Could not find a module for package manager: none was found."));
        }
        "yum" | "dnf5" => "dnf".to_string(),
        _ => name,
    };
    let module = registry::find(&name).filter(|module| module.name != MODULE.name).ok_or_else(|| {
        ModuleError::new(format!("Could not find a matching action for the \"{name}\" package manager."))
    })?;
    let checked = args::check(module, &map, &|_| true).map_err(|errors| {
        let messages: Vec<String> = errors.into_iter().map(|error| error.message).collect();
        ModuleError::new(messages.join("; "))
    })?;
    (module.run)(checked, system)
}
