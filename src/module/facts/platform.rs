//! The kernel, the machine's names, and what manages its services and packages.

use std::net::IpAddr;
use std::path::Path;

use crate::module::facts::{Gathering, distribution};
use crate::module::host;
use crate::system::System;
use crate::system::probe::{Answer, Kernel, Probe};
use crate::value::map_of;

/// Facts of kernel, processor and names.
pub(super) fn platform(gathering: &mut Gathering) {
    let kernel = match gathering.system.probe(&Probe::Kernel) {
        Ok(Answer::Kernel(kernel)) => kernel,
        _ => Kernel::default(),
    };
    let fqdn = fully_qualified_name(&kernel.node, gathering);
    let domain = fqdn.split_once('.').map(|(_, domain)| domain.to_string()).unwrap_or_default();
    let machine = kernel.machine.as_str();
    let bits = userspace_bits(machine, gathering);
    let x86 = ["i386", "i486", "i586", "i686", "i86pc"].contains(&machine);
    let architecture = if x86 { "i386" } else { machine };
    gathering.set("architecture", architecture);
    if x86 || machine == "x86_64" {
        gathering.set("userspace_architecture", if bits == "64" { "x86_64" } else { "i386" });
    }
    gathering.set("userspace_bits", bits);
    gathering.set("system", kernel.system.as_str());
    gathering.set("kernel", kernel.release.as_str());
    gathering.set("kernel_version", kernel.version.as_str());
    gathering.set("machine", machine);
    gathering.set("fqdn", fqdn);
    gathering.set("hostname", kernel.node.split('.').next().unwrap_or_default());
    gathering.set("nodename", kernel.node.as_str());
    gathering.set("domain", domain);
    if let Some(id) = gathering.text("/var/lib/dbus/machine-id").or_else(|| gathering.text("/etc/machine-id"))
    {
        gathering.set("machine_id", id.lines().next().unwrap_or_default());
    }
}

/// Width of the programs that the machine runs, told by its shell's ELF header.
fn userspace_bits(machine: &str, gathering: &mut Gathering) -> &'static str {
    let class = gathering
        .system
        .resolve(Path::new("/bin/sh"))
        .and_then(|shell| gathering.system.read_at(&shell, 4, 1));
    match class.as_deref() {
        Ok([1]) => "32",
        Ok([2]) => "64",
        _ if machine.contains("64") || machine == "s390x" => "64",
        _ => "32",
    }
}

/// The name with a dot by which the machine's own address is known: looked up by name, then by address, first
/// in `/etc/hosts`, then in whatever the machine asks.
fn fully_qualified_name(node: &str, gathering: &mut Gathering) -> String {
    let hosts = gathering.text("/etc/hosts").unwrap_or_default();
    let lines: Vec<(IpAddr, Vec<&str>)> = hosts.lines().filter_map(hosts_line).collect();
    let local = lines.iter().find(|(_, names)| names.iter().any(|name| name.eq_ignore_ascii_case(node)));
    let names: Vec<String> = match local {
        Some((address, _)) => {
            // The first line of that address decides, as a look-up by address would.
            let first = lines.iter().find(|(other, _)| other == address);
            first.map(|(_, names)| names.iter().map(ToString::to_string).collect()).unwrap_or_default()
        }
        None => asked_names(node, gathering),
    };
    names
        .iter()
        .find(|name| name.contains('.'))
        .or(names.first())
        .cloned()
        .unwrap_or_else(|| node.to_string())
}

fn hosts_line(line: &str) -> Option<(IpAddr, Vec<&str>)> {
    let mut words = line.split('#').next()?.split_whitespace();
    let address = words.next()?.parse().ok()?;
    Some((address, words.collect()))
}

fn asked_names(node: &str, gathering: &mut Gathering) -> Vec<String> {
    let names = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
    let Some(output) = gathering.output(&["getent", "hosts", node]) else { return Vec::new() };
    let forward = output.lines().next().map(names).unwrap_or_default();
    let Some(address) = forward.first() else { return Vec::new() };
    let reverse = gathering.output(&["getent", "hosts", address]);
    let found = reverse.as_deref().and_then(|output| output.lines().next()).map_or(forward.clone(), names);
    found.into_iter().skip(1).collect()
}

/// What manages services: `systemd`, `openrc`, `sysvinit`, …
pub(crate) fn service_manager(distribution: &str, system: &mut dyn System) -> String {
    let link = |path: &str, system: &mut dyn System| {
        let target = system.read_link(Path::new(path)).ok()?;
        target.file_name().map(|name| name.to_string_lossy().into_owned())
    };
    let mut first = host::read_text("/proc/1/comm", system).map(|name| name.trim().to_string());
    if first.is_none() {
        first = link("/sbin/init", system);
    }
    if let Some(name) = first.filter(|name| !name.is_empty() && name != "init" && !name.ends_with("sh")) {
        return match name.as_str() {
            "procd" => "openwrt_init".into(),
            "runit-init" => "runit".into(),
            "svscan" => "svc".into(),
            "openrc-init" => "openrc".into(),
            _ => name,
        };
    }
    let there =
        |path: &str, system: &mut dyn System| matches!(system.stat_follow(Path::new(path)), Ok(Some(_)));
    let program =
        |name: &str, system: &mut dyn System| matches!(host::find_program(name, system), Ok(Some(_)));
    let booted = ["/run/systemd/system/", "/dev/.run/systemd/", "/dev/.systemd/"];
    if distribution == "OpenWrt" {
        "openwrt_init".into()
    } else if program("systemctl", system) && booted.iter().any(|path| there(path, system)) {
        "systemd".into()
    } else if program("initctl", system) && there("/etc/init/", system) {
        "upstart".into()
    } else if there("/sbin/openrc", system) {
        "openrc".into()
    } else if program("systemctl", system) && link("/sbin/init", system).is_some_and(|name| name == "systemd")
    {
        "systemd".into()
    } else if there("/etc/init.d/", system) {
        "sysvinit".into()
    } else if there("/etc/dinit.d/", system) {
        "dinit".into()
    } else {
        "service".into()
    }
}

pub(super) fn collect_service_manager(gathering: &mut Gathering) {
    let distribution = gathering.known("distribution").to_string();
    let name = service_manager(&distribution, gathering.system);
    gathering.set("service_mgr", name);
}

/// Programs that tell which package manager there is; the last one found counts.
const PACKAGE_MANAGERS: &[(&str, &str)] = &[
    ("/usr/bin/rpm-ostree", "atomic_container"),
    ("/usr/bin/yum", "dnf"),
    ("/usr/bin/dnf-3", "dnf"),
    ("/usr/bin/dnf5", "dnf5"),
    ("/usr/bin/apt-get", "apt"),
    ("/usr/bin/zypper", "zypper"),
    ("/usr/sbin/urpmi", "urpmi"),
    ("/usr/bin/pacman", "pacman"),
    ("/bin/opkg", "opkg"),
    ("/sbin/apk", "apk"),
    ("/usr/bin/emerge", "portage"),
    ("/usr/bin/xbps-install", "xbps"),
    ("/usr/bin/swupd", "swupd"),
    ("/usr/sbin/sorcery", "sorcery"),
];

/// What manages packages: `apt`, `dnf`, `zypper`, … or `unknown`.
pub(crate) fn package_manager(family: &str, system: &mut dyn System) -> String {
    let there =
        |path: &str, system: &mut dyn System| matches!(system.stat_follow(Path::new(path)), Ok(Some(_)));
    match family {
        "Debian" => return "apt".into(),
        "RedHat" => {
            if there("/run/ostree-booted", system) {
                return "atomic_container".into();
            }
            for path in ["/usr/bin/dnf", "/usr/bin/microdnf"] {
                if there(path, system) {
                    let real = system.resolve(Path::new(path)).unwrap_or_default();
                    return if real == Path::new("/usr/bin/dnf5") { "dnf5".into() } else { "dnf".into() };
                }
            }
            return if there("/usr/bin/yum", system) { "yum".into() } else { "unknown".into() };
        }
        _ => {}
    }
    let mut found = "unknown";
    for (path, name) in PACKAGE_MANAGERS {
        if there(path, system) {
            found = name;
        }
    }
    if found == "apt" && family == "Altlinux" { "apt_rpm".into() } else { found.into() }
}

pub(super) fn collect_package_manager(gathering: &mut Gathering) {
    let family = match gathering.known("os_family") {
        "" => distribution::detect(gathering.system).family,
        known => known.to_string(),
    };
    let name = package_manager(&family, gathering.system);
    gathering.set("pkg_mgr", name);
}

/// Version and features of systemd, where it is in charge.
pub(super) fn systemd(gathering: &mut Gathering) {
    if !gathering.exists("/run/systemd/system") {
        return;
    }
    let Some(output) = gathering.output(&["systemctl", "--version"]) else { return };
    let mut lines = output.lines();
    let version = lines
        .next()
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|word| word.parse::<i64>().ok());
    let features = lines.next().unwrap_or_default();
    if let Some(version) = version {
        let facts = map_of([("version", crate::value::Value::Int(version)), ("features", features.into())]);
        gathering.set("systemd", facts);
    }
}
