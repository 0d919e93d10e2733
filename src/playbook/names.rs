//! What the name of an action means: its full name, and whether we have it.

use crate::diagnostic::did_you_mean;
use crate::module::registry;
use crate::playbook::known;

/// Actions that the controller carries out, alone or before a module on the host. Short names of
/// `ansible.builtin`.
pub const ACTIONS: &[&str] = &[
    "add_host",
    "assemble",
    "assert",
    "async_status",
    "command",
    "copy",
    "debug",
    "dnf",
    "fail",
    "fetch",
    "gather_facts",
    "group_by",
    "import_role",
    "import_tasks",
    "include_role",
    "include_tasks",
    "include_vars",
    "meta",
    "package",
    "pause",
    "raw",
    "reboot",
    "script",
    "service",
    "set_fact",
    "set_stats",
    "setup",
    "shell",
    "template",
    "unarchive",
    "uri",
    "validate_argument_spec",
    "wait_for_connection",
];

/// Actions that take `_raw_params`: text after the name that is not `k=v`.
const RAW_PARAMS: &[&str] = &[
    "include_vars",
    "include_tasks",
    "include_role",
    "import_tasks",
    "import_role",
    "add_host",
    "group_by",
    "set_fact",
    "meta",
    "command",
    "shell",
    "raw",
    "script",
];

/// Actions whose text is kept as it is, but for their own options.
const FREE_FORM: &[&str] = &["command", "shell", "raw", "script"];

/// What `meta:` can be told to do.
pub const META: &[&str] = &[
    "clear_facts",
    "clear_host_errors",
    "end_batch",
    "end_host",
    "end_play",
    "end_role",
    "flush_handlers",
    "noop",
    "refresh_inventory",
    "reset_connection",
];

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The full name; as it was written if nobody knows it.
    pub full: String,
    /// How far we know it.
    pub known: Known,
}

/// How far a name is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// We have it.
    Here,
    /// Such a module exists, but not here.
    Elsewhere,
    /// A collection of which we know nothing: it may exist.
    Foreign,
    /// Nobody has it, as far as we know.
    No,
}

/// The short name of a builtin action, if `full` is one.
pub fn builtin(full: &str) -> Option<&str> {
    full.strip_prefix("ansible.builtin.")
}

/// Whether an action takes text that is not `k=v`.
pub fn takes_raw_params(full: &str) -> bool {
    builtin(full).is_some_and(|name| RAW_PARAMS.contains(&name))
        || registry::find(full).is_some_and(|module| module.free_form)
        || matches!(full, "ansible.windows.win_command" | "ansible.windows.win_shell")
}

/// Whether an action's text is kept as it is.
pub fn is_free_form(full: &str) -> bool {
    builtin(full).is_some_and(|name| FREE_FORM.contains(&name))
        || matches!(full, "ansible.windows.win_command" | "ansible.windows.win_shell")
}

/// Resolves the name of an action. `collections` are searched first for a short name.
pub fn resolve(written: &str, collections: &[String]) -> Resolved {
    let legacy = written.strip_prefix("ansible.legacy.").or_else(|| written.strip_prefix("ansible.builtin."));
    if let Some(short) = legacy {
        return short_name(short).unwrap_or_else(|| unknown(written));
    }
    if written.contains('.') {
        return full_name(written);
    }
    for collection in collections {
        let candidate = full_name(&format!("{collection}.{written}"));
        if matches!(candidate.known, Known::Here | Known::Elsewhere)
            && candidate.full.starts_with(collection.as_str())
        {
            return candidate;
        }
    }
    let foreign = |collection: &&String| {
        !known::MODULES.iter().any(|(name, _)| name == collection) && *collection != "ansible.legacy"
    };
    short_name(written).unwrap_or_else(|| match collections.iter().find(foreign) {
        Some(collection) => Resolved { full: format!("{collection}.{written}"), known: Known::Foreign },
        None => unknown(written),
    })
}

/// Whether `with_<name>` can be a loop. Lookups of collections that we don't know count.
pub fn is_lookup(name: &str) -> bool {
    name.contains('.')
        || known::LOOKUPS.iter().any(|known| *known == name || known.rsplit('.').next() == Some(name))
}

/// The arguments of an action that has no table among the modules; `None` if it has, or takes any.
pub fn action_params(full: &str) -> Option<&'static [&'static str]> {
    let short = builtin(full)?;
    if registry::find(full).is_some() {
        return None;
    }
    known::ACTION_PARAMS.iter().find(|(name, _)| *name == short).map(|(_, params)| *params)
}

/// A name that is most like an unknown one.
pub fn similar(written: &str) -> Option<String> {
    let modules = registry::MODULES.iter().flat_map(|module| [module.name, module.short_name()]);
    let known = known::MODULES.iter().flat_map(|(_, names)| names.iter().copied());
    did_you_mean(written, ACTIONS.iter().copied().chain(modules).chain(known)).map(str::to_owned)
}

fn unknown(written: &str) -> Resolved {
    let of_family = |family: &str| {
        written.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    let known =
        if known::FAMILIES.iter().any(|family| of_family(family)) { Known::Elsewhere } else { Known::No };
    Resolved { full: written.to_owned(), known }
}

fn full_name(written: &str) -> Resolved {
    let moved = known::MOVED.iter().find_map(|(new, old)| Some((written.strip_prefix(new)?, old)));
    if let Some((rest, old)) = moved {
        return full_name(&format!("{old}{rest}"));
    }
    if let Some(module) = registry::find(written) {
        return Resolved { full: module.name.to_owned(), known: Known::Here };
    }
    let Some((collection, short)) = written.rsplit_once('.') else { return unknown(written) };
    let Some((_, names)) = known::MODULES.iter().find(|(name, _)| *name == collection) else {
        return Resolved { full: written.to_owned(), known: Known::Foreign };
    };
    if names.contains(&short) {
        return Resolved { full: written.to_owned(), known: Known::Elsewhere };
    }
    // Modules moved from `community.general` to collections of their own and left their names behind.
    match short_name(short) {
        Some(moved) if collection == "community.general" => moved,
        _ => unknown(written),
    }
}

fn short_name(short: &str) -> Option<Resolved> {
    let renamed = known::RENAMED.iter().find(|(old, _)| *old == short).map(|(_, new)| *new);
    if let Some(new) = renamed
        && registry::find(&format!("ansible.builtin.{short}")).is_none()
    {
        let mut resolved = full_name(new);
        if builtin(new).is_some_and(|name| ACTIONS.contains(&name)) {
            resolved.known = Known::Here;
        }
        return Some(resolved);
    }
    if ACTIONS.contains(&short) {
        return Some(Resolved { full: format!("ansible.builtin.{short}"), known: Known::Here });
    }
    if let Some(module) = registry::find(short) {
        return Some(Resolved { full: module.name.to_owned(), known: Known::Here });
    }
    let holds = |(_, names): &&(&str, &[&str])| names.contains(&short);
    known::MODULES.iter().find(holds).map(|(collection, _)| full_name(&format!("{collection}.{short}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_resolve() {
        for (written, collections, full) in [
            ("debug", vec![], "ansible.builtin.debug"),
            ("ansible.legacy.command", vec![], "ansible.builtin.command"),
            ("ansible.builtin.copy", vec![], "ansible.builtin.copy"),
            ("ufw", vec![], "community.general.ufw"),
            ("ansible.builtin.ufw", vec![], "community.general.ufw"),
            ("docker_container", vec![], "community.docker.docker_container"),
            ("community.general.docker_container", vec![], "community.docker.docker_container"),
            ("community.general.mysql_db", vec![], "community.mysql.mysql_db"),
            ("openssl_certificate", vec![], "community.crypto.x509_certificate"),
            ("synchronize", vec![], "ansible.posix.synchronize"),
            ("sysctl", vec!["community.general"], "ansible.posix.sysctl"),
            ("proxmox_kvm", vec!["community.proxmox"], "community.proxmox.proxmox_kvm"),
            ("ec2_instance", vec!["amazon.aws"], "amazon.aws.ec2_instance"),
            ("debug", vec!["amazon.aws"], "ansible.builtin.debug"),
            ("amazon.aws.ec2_instance", vec![], "amazon.aws.ec2_instance"),
            ("ansible.mysql.mysql_db", vec![], "community.mysql.mysql_db"),
            ("ansible.mariadb.mariadb_user", vec![], "community.mysql.mysql_user"),
            ("mysql_db", vec!["ansible.mysql"], "community.mysql.mysql_db"),
            ("nonsense", vec![], "nonsense"),
        ] {
            let collections: Vec<String> = collections.into_iter().map(str::to_owned).collect();
            assert_eq!(resolve(written, &collections).full, full, "{written}");
        }
        assert_eq!(resolve("nonsense", &[]).known, Known::No);
        assert_eq!(resolve("amazon.aws.ec2_instance", &[]).known, Known::Foreign);
        assert_eq!(similar("tempalte").as_deref(), Some("template"));
    }
}
