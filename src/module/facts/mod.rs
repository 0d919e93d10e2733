//! What is known of a machine: collectors, each a function that adds facts under the names that the field's
//! users know, and the choice among them (`gather_subset`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::module::host;
use crate::system::System;
use crate::value::{Map, Value};

pub mod distribution;
mod general;
pub(crate) mod hardware;
mod local;
mod network;
mod platform;
mod virtualization;

pub(crate) use platform::{package_manager, service_manager};

/// Facts being gathered.
pub(crate) struct Gathering<'a> {
    /// The machine.
    pub(crate) system: &'a mut dyn System,
    /// What is known so far, without prefix.
    pub(crate) facts: Map,
    /// Things that the user should know.
    pub(crate) warnings: Vec<String>,
    /// How long one slow question may take.
    pub(crate) timeout: Duration,
    /// Directory with facts of the site.
    pub(crate) fact_path: PathBuf,
}

impl Gathering<'_> {
    /// Adds a fact.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(Value::str(name), value.into());
    }

    /// The text of a fact that is known.
    pub(crate) fn known(&self, name: &str) -> &str {
        self.facts.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A file's text without surrounding blanks; `None` if there is none.
    pub(crate) fn text(&mut self, path: impl AsRef<Path>) -> Option<String> {
        let text = host::read_text(path, self.system)?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_string())
    }

    /// Whether anything is at a path.
    pub(crate) fn exists(&mut self, path: impl AsRef<Path>) -> bool {
        matches!(self.system.stat_follow(path.as_ref()), Ok(Some(_)))
    }

    /// The names in a directory; none if it is not there.
    pub(crate) fn names(&mut self, path: impl AsRef<Path>) -> Vec<String> {
        let names = self.system.list(path.as_ref()).unwrap_or_default();
        names.into_iter().map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// What a program prints; `None` if the machine lacks it or it fails.
    pub(crate) fn output(&mut self, argv: &[&str]) -> Option<String> {
        let program = host::find_program(argv[0], self.system).ok()??;
        let mut command = crate::system::Command::new([program]).c_locale();
        command.argv.extend(argv[1..].iter().map(Into::into));
        command.timeout = Some(self.timeout);
        let output = self.system.query(&command).ok()?;
        output.success().then(|| output.stdout_text())
    }
}

/// A group of facts.
pub(crate) struct Collector {
    /// Its name in `gather_subset`.
    pub(crate) name: &'static str,
    /// Facts by whose names it can be asked for too.
    ids: &'static [&'static str],
    /// Groups whose facts it needs.
    needs: &'static [&'static str],
    /// It belongs to the minimum.
    minimal: bool,
    collect: fn(&mut Gathering),
}

const fn collector(name: &'static str, minimal: bool, collect: fn(&mut Gathering)) -> Collector {
    Collector { name, ids: &[], needs: &[], minimal, collect }
}

/// All groups, those that others need first.
pub(crate) const COLLECTORS: &[Collector] = &[
    Collector {
        ids: &[
            "system",
            "kernel",
            "kernel_version",
            "machine",
            "python_version",
            "architecture",
            "machine_id",
        ],
        ..collector("platform", true, platform::platform)
    },
    Collector {
        ids: &["distribution_version", "distribution_release", "distribution_major_version", "os_family"],
        ..collector("distribution", true, distribution::collect)
    },
    collector("lsb", true, distribution::lsb),
    collector("selinux", true, general::selinux),
    collector("apparmor", true, general::apparmor),
    Collector { ids: &["is_chroot"], ..collector("chroot", false, general::chroot) },
    collector("fips", true, general::fips),
    Collector { needs: &["distribution"], ..collector("pkg_mgr", true, platform::collect_package_manager) },
    Collector {
        needs: &["platform", "distribution"],
        ..collector("service_mgr", true, platform::collect_service_manager)
    },
    collector("systemd", false, platform::systemd),
    Collector {
        ids: &["system_capabilities", "system_capabilities_enforced"],
        ..collector("caps", true, general::capabilities)
    },
    collector("cmdline", true, general::command_line),
    collector("date_time", true, general::date_time),
    collector("dns", true, general::dns),
    collector("env", true, general::environment),
    collector("loadavg", false, general::load_average),
    collector("local", true, local::collect),
    collector("python", true, general::python),
    Collector {
        ids: &[
            "ssh_host_pub_keys",
            "ssh_host_key_dsa_public",
            "ssh_host_key_rsa_public",
            "ssh_host_key_ecdsa_public",
            "ssh_host_key_ed25519_public",
        ],
        ..collector("ssh_pub_keys", true, general::ssh_keys)
    },
    Collector {
        ids: &[
            "user_id",
            "user_uid",
            "user_gid",
            "user_gecos",
            "user_dir",
            "user_shell",
            "real_user_id",
            "effective_user_id",
            "effective_group_ids",
        ],
        ..collector("user", true, general::user)
    },
    Collector {
        ids: &["processor", "processor_cores", "processor_count", "mounts", "devices"],
        needs: &["platform"],
        ..collector("hardware", false, hardware::collect)
    },
    Collector {
        ids: &["interfaces", "default_ipv4", "default_ipv6", "all_ipv4_addresses", "all_ipv6_addresses"],
        needs: &["distribution", "platform"],
        ..collector("network", false, network::collect)
    },
    collector("iscsi", false, general::iscsi),
    collector("nvme", false, general::nvme),
    collector("fibre_channel_wwn", false, general::fibre_channel),
    Collector {
        ids: &[
            "virtualization_type",
            "virtualization_role",
            "virtualization_tech_guest",
            "virtualization_tech_host",
        ],
        needs: &["platform", "distribution"],
        ..collector("virtual", false, virtualization::collect)
    },
];

/// The groups that a `gather_subset` asks for, in the order in which they are gathered.
///
/// # Errors
/// Names a subset that is not known.
pub(crate) fn choose(subsets: &[String]) -> Result<Vec<&'static Collector>, String> {
    let all_names =
        || COLLECTORS.iter().flat_map(|group| std::iter::once(&group.name).chain(group.ids)).copied();
    let minimal_names = || COLLECTORS.iter().filter(|group| group.minimal).map(|group| group.name);
    let mut wanted: Vec<&str> = minimal_names().collect();
    let mut excluded: Vec<&str> = Vec::new();
    let mut explicit: Vec<&str> = Vec::new();
    for subset in subsets {
        match (subset.as_str(), subset.strip_prefix('!')) {
            ("min", _) => {}
            ("all", _) => wanted.extend(all_names()),
            (_, Some("min")) => excluded.extend(minimal_names()),
            (_, Some("all")) => {
                excluded.extend(all_names().filter(|name| !minimal_names().any(|minimal| minimal == *name)));
            }
            (_, Some(name)) => {
                excluded.push(name);
                // Excluding a group excludes the facts by whose names it could be asked for.
                excluded
                    .extend(COLLECTORS.iter().filter(|group| group.name == name).flat_map(|group| group.ids));
            }
            ("facter" | "ohai", _) => {
                return Err(format!(
                    "the fact subset '{subset}' is not supported: it is the output of another tool; run that tool with `command`"
                ));
            }
            (name, _) => {
                if !all_names().any(|known| known == name) {
                    let mut names: Vec<&str> = all_names().collect();
                    names.sort_unstable();
                    return Err(format!(
                        "Bad subset '{name}' given to Ansible. gather_subset options allowed: all, {}",
                        names.join(", ")
                    ));
                }
                explicit.push(name);
                wanted.push(name);
            }
        }
    }
    let asked =
        |name: &str| wanted.contains(&name) && (explicit.contains(&name) || !excluded.contains(&name));
    let chosen: Vec<&str> = COLLECTORS
        .iter()
        .filter(|group| asked(group.name) || group.ids.iter().any(|id| asked(id)))
        .map(|group| group.name)
        .collect();
    let needed = |name: &str| {
        COLLECTORS.iter().any(|group| chosen.contains(&group.name) && group.needs.contains(&name))
    };
    Ok(COLLECTORS.iter().filter(|group| chosen.contains(&group.name) || needed(group.name)).collect())
}

/// Gathers groups of facts. Names are without prefix; `-` in them (of interfaces) becomes `_`.
pub(crate) fn gather(
    groups: &[&Collector],
    timeout: Duration,
    fact_path: &Path,
    system: &mut dyn System,
) -> (Map, Vec<String>) {
    let mut gathering = Gathering {
        system,
        facts: Map::new(),
        warnings: Vec::new(),
        timeout,
        fact_path: fact_path.to_path_buf(),
    };
    for group in groups {
        (group.collect)(&mut gathering);
    }
    let facts = gathering
        .facts
        .into_iter()
        .map(|(name, value)| (Value::str(name.to_text().replace('-', "_")), value));
    (facts.collect(), gathering.warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_chosen_as_documented() {
        let names = |subsets: &[&str]| {
            let subsets: Vec<String> = subsets.iter().map(|name| (*name).to_string()).collect();
            choose(&subsets).map(|groups| groups.iter().map(|group| group.name).collect::<Vec<_>>())
        };
        let minimal: Vec<_> =
            COLLECTORS.iter().filter(|group| group.minimal).map(|group| group.name).collect();
        assert_eq!(names(&["all"]).expect("known").len(), COLLECTORS.len());
        assert_eq!(names(&["!all"]).expect("known"), minimal);
        assert_eq!(names(&["min"]).expect("known"), minimal);
        assert_eq!(
            names(&["!all", "!min", "network"]).expect("known"),
            ["platform", "distribution", "network"]
        );
        assert_eq!(names(&["!all", "!min", "os_family"]).expect("known"), ["distribution"]);
        assert!(names(&["network"]).expect("known").len() == minimal.len() + 1);
        assert!(!names(&["all", "!hardware"]).expect("known").contains(&"hardware"));
        assert!(names(&["hardwear"]).expect_err("unknown").starts_with("Bad subset 'hardwear'"));
    }
}
