//! Facts that are one file or a few lines each: security frameworks, time, users, names servers, keys.

use std::time::SystemTime;

use crate::module::clock::{Moment, Zone, since_epoch};
use crate::module::facts::Gathering;
use crate::module::host;
use crate::value::{Map, Value, map_of};

pub(super) fn selinux(gathering: &mut Gathering) {
    // Playbooks ask whether Python's bindings are there before they use SELinux; nothing is missing here.
    gathering.set("selinux_python_present", true);
    if !gathering.exists("/sys/fs/selinux/policyvers") {
        gathering.set("selinux", map_of([("status", "disabled")]));
        return;
    }
    let mut facts = map_of([("status", "enabled")]);
    if let Some(version) = gathering.text("/sys/fs/selinux/policyvers") {
        let version = version.parse::<i64>().map_or_else(|_| version.into(), Value::Int);
        facts.insert("policyvers".into(), version);
    }
    let config = gathering.text("/etc/selinux/config").unwrap_or_default();
    let configured = |name: &str| {
        config
            .lines()
            .find_map(|line| line.trim().strip_prefix(name)?.trim().strip_prefix('='))
            .map(str::trim)
    };
    facts.insert("config_mode".into(), configured("SELINUX").unwrap_or("unknown").into());
    let mode = match gathering.text("/sys/fs/selinux/enforce").as_deref() {
        Some("1") => "enforcing",
        Some("0") => "permissive",
        _ => "unknown",
    };
    facts.insert("mode".into(), mode.into());
    facts.insert("type".into(), configured("SELINUXTYPE").unwrap_or("unknown").into());
    gathering.set("selinux", facts);
}

pub(super) fn apparmor(gathering: &mut Gathering) {
    let enabled = gathering.exists("/sys/kernel/security/apparmor");
    gathering.set("apparmor", map_of([("status", if enabled { "enabled" } else { "disabled" })]));
}

pub(super) fn chroot(gathering: &mut Gathering) {
    let marked = gathering.system.env("debian_chroot").is_some_and(|name| !name.is_empty());
    let mine = gathering.system.stat_follow("/".as_ref()).ok().flatten();
    let firsts = gathering.system.stat_follow("/proc/1/root/.".as_ref()).ok().flatten();
    let differs = match (mine, firsts) {
        (Some(mine), Some(first)) => (mine.inode, mine.device) != (first.inode, first.device),
        // The root directory of common file systems has a fixed number.
        (Some(mine), None) => ![2, 128, 256].contains(&mine.inode),
        _ => false,
    };
    gathering.set("is_chroot", marked || differs);
}

/// Where Python is found, the best known name first.
const PYTHONS: [&str; 3] = ["python3", "python", "python2"];

/// Python's facts, where the host has one; nothing here needs it.
pub(super) fn python(gathering: &mut Gathering) {
    let found = PYTHONS.iter().find_map(|name| {
        let path = host::find_program(name, gathering.system).ok()??;
        // It says so without starting up.
        let said = gathering.output(&[name, "--version"])?;
        Some((path, said.trim().strip_prefix("Python ")?.to_string()))
    });
    let Some((path, version)) = found else { return };
    let digits =
        |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<i64>().ok();
    let numbers: Vec<i64> = version.split('.').filter_map(digits).collect();
    let [major, minor, micro] = numbers[..] else { return };
    let level = Value::str("final");
    gathering.set("python_version", version.as_str());
    let parts = [("major", major), ("minor", minor), ("micro", micro), ("serial", 0)];
    let mut named = map_of(parts.map(|(name, number)| (name, Value::Int(number))));
    named.insert("releaselevel".into(), level.clone());
    let info = vec![Value::Int(major), Value::Int(minor), Value::Int(micro), level, Value::Int(0)];
    let facts = map_of([
        ("executable", Value::from(path.to_string_lossy().into_owned())),
        ("has_sslcontext", true.into()),
        ("type", "cpython".into()),
        ("version", Value::map(named)),
        ("version_info", Value::list(info)),
    ]);
    gathering.set("python", facts);
}

pub(super) fn fips(gathering: &mut Gathering) {
    let enabled = gathering.text("/proc/sys/crypto/fips_enabled").as_deref() == Some("1");
    gathering.set("fips", enabled);
}

/// Names of capabilities by their bit.
const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

pub(super) fn capabilities(gathering: &mut Gathering) {
    let status = gathering.text("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    let last = gathering.text("/proc/sys/kernel/cap_last_cap").and_then(|last| last.parse::<usize>().ok());
    let Some(effective) = effective else {
        gathering.set("system_capabilities_enforced", "N/A");
        gathering.set("system_capabilities", "N/A");
        return;
    };
    let known = last.unwrap_or(CAPABILITIES.len() - 1).min(CAPABILITIES.len() - 1);
    let held: Vec<String> = CAPABILITIES[..=known]
        .iter()
        .enumerate()
        .filter(|(bit, _)| effective >> bit & 1 == 1)
        .map(|(_, name)| format!("cap_{name}"))
        .collect();
    let all = held.len() == known + 1;
    gathering.set("system_capabilities_enforced", if all { "False" } else { "True" });
    gathering.set("system_capabilities", if all { Vec::new() } else { held });
}

pub(super) fn command_line(gathering: &mut Gathering) {
    let text = gathering.text("/proc/cmdline").unwrap_or_default();
    let mut single = Map::new();
    let mut repeated: Map = Map::new();
    for word in quoted_words(&text) {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Value::str(value)),
            None => (word.as_str(), Value::Bool(true)),
        };
        single.insert(name.into(), value.clone());
        let collected = match repeated.get(name) {
            None => value,
            Some(Value::List(items)) => items.iter().cloned().chain([value]).collect::<Vec<_>>().into(),
            Some(first) => vec![first.clone(), value].into(),
        };
        repeated.insert(name.into(), collected);
    }
    gathering.set("cmdline", single);
    gathering.set("proc_cmdline", repeated);
}

/// Words of the kernel's command line: double quotes hold blanks together and stay.
fn quoted_words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut inside = false;
    for character in text.chars() {
        if character == '"' {
            inside = !inside;
        }
        match words.last_mut() {
            Some(word) if inside || !character.is_whitespace() => word.push(character),
            _ => words.push(String::new()),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

pub(super) fn date_time(gathering: &mut Gathering) {
    let now = SystemTime::now();
    let zone = Zone::of(gathering.system);
    let facts = date_time_facts(since_epoch(now), &zone);
    gathering.set("date_time", facts);
}

fn date_time_facts((epoch, micro): (i64, u32), zone: &Zone) -> Map {
    let offset = zone.at(epoch);
    let local = Moment::from_seconds(epoch + offset.seconds, micro);
    let utc = Moment::from_seconds(epoch, micro);
    let date = |moment: &Moment| format!("{:04}-{:02}-{:02}", moment.year, moment.month, moment.day);
    let time = |moment: &Moment| format!("{:02}:{:02}:{:02}", moment.hour, moment.minute, moment.second);
    let basic = format!("{}T{}", date(&local), time(&local)).replace(['-', ':'], "");
    let minutes = offset.seconds.abs() / 60;
    let sign = if offset.seconds < 0 { '-' } else { '+' };
    map_of([
        ("year", format!("{:04}", local.year)),
        ("month", format!("{:02}", local.month)),
        ("weekday", local.weekday_name().to_string()),
        ("weekday_number", local.weekday.to_string()),
        ("weeknumber", format!("{:02}", local.week_number())),
        ("day", format!("{:02}", local.day)),
        ("hour", format!("{:02}", local.hour)),
        ("minute", format!("{:02}", local.minute)),
        ("second", format!("{:02}", local.second)),
        ("epoch", epoch.to_string()),
        ("epoch_int", epoch.to_string()),
        ("date", date(&local)),
        ("time", time(&local)),
        ("iso8601_micro", format!("{}T{}.{micro:06}Z", date(&utc), time(&utc))),
        ("iso8601", format!("{}T{}Z", date(&utc), time(&utc))),
        ("iso8601_basic", format!("{basic}{micro:06}")),
        ("iso8601_basic_short", basic),
        ("tz", offset.name),
        ("tz_dst", zone.names(epoch).1),
        ("tz_offset", format!("{sign}{:02}{:02}", minutes / 60, minutes % 60)),
    ])
}

pub(super) fn dns(gathering: &mut Gathering) {
    let text = gathering.text("/etc/resolv.conf").unwrap_or_default();
    gathering.set("dns", dns_facts(&text));
}

fn dns_facts(text: &str) -> Map {
    let mut facts = Map::new();
    let mut nameservers: Vec<&str> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace();
        let kind = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        match kind {
            "nameserver" => {
                nameservers.extend(words);
                facts.insert("nameservers".into(), nameservers.clone().into());
            }
            "domain" => {
                if let Some(domain) = words.first() {
                    facts.insert("domain".into(), (*domain).into());
                }
            }
            "search" | "sortlist" => {
                facts.insert(kind.into(), words.into());
            }
            "options" => {
                let option = |word: &&str| match word.split_once(':') {
                    Some((name, value)) => (Value::str(name), Value::str(value)),
                    None => (Value::str(*word), Value::Bool(true)),
                };
                facts.insert("options".into(), words.iter().map(option).collect::<Map>().into());
            }
            _ => {}
        }
    }
    facts
}

pub(super) fn environment(gathering: &mut Gathering) {
    let bytes = gathering.system.read("/proc/self/environ".as_ref()).unwrap_or_default();
    let mut facts = Map::new();
    for entry in String::from_utf8_lossy(&bytes).split('\0') {
        let Some((name, value)) = entry.split_once('=') else { continue };
        // What the task sets counts.
        let value = gathering.system.env(name).unwrap_or_else(|| value.to_string());
        facts.insert(name.into(), value.into());
    }
    for name in gathering.system.own_variables() {
        if let Some(value) = gathering.system.env(&name) {
            facts.insert(name.into(), value.into());
        }
    }
    gathering.set("env", facts);
}

pub(super) fn load_average(gathering: &mut Gathering) {
    let text = gathering.text("/proc/loadavg").unwrap_or_default();
    let numbers: Vec<f64> = text.split(' ').take(3).filter_map(|word| word.parse().ok()).collect();
    if let [one, five, fifteen] = numbers[..] {
        gathering.set("loadavg", map_of([("1m", one), ("5m", five), ("15m", fifteen)]));
    }
}

pub(super) fn ssh_keys(gathering: &mut Gathering) {
    for directory in ["/etc/ssh", "/etc/openssh", "/etc"] {
        for kind in ["dsa", "rsa", "ecdsa", "ed25519"] {
            let fact = format!("ssh_host_key_{kind}_public");
            if gathering.facts.contains_key(fact.as_str()) {
                continue;
            }
            let Some(text) = gathering.text(format!("{directory}/ssh_host_{kind}_key.pub")) else { continue };
            let mut words = text.split_whitespace();
            if let (Some(name), Some(key)) = (words.next(), words.next()) {
                gathering.set(&fact, key);
                gathering.set(&format!("{fact}_keytype"), name);
            }
        }
    }
}

pub(super) fn user(gathering: &mut Gathering) {
    let status = gathering.text("/proc/self/status").unwrap_or_default();
    let numbers = |name: &str| -> Vec<i64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    if let Ok(user) = gathering.system.whoami() {
        gathering.set("user_id", user.name);
        gathering.set("user_uid", user.uid);
        gathering.set("user_gid", user.gid);
        gathering.set("user_gecos", user.gecos);
        gathering.set("user_dir", user.home.to_string_lossy().into_owned());
        gathering.set("user_shell", user.shell.to_string_lossy().into_owned());
    }
    for (line, name) in [("Uid:", "user_id"), ("Gid:", "group_id")] {
        if let [real, effective, ..] = numbers(line)[..] {
            gathering.set(&format!("real_{name}"), real);
            gathering.set(&format!("effective_{name}"), effective);
        }
    }
}

pub(super) fn iscsi(gathering: &mut Gathering) {
    let text = gathering.text("/etc/iscsi/initiatorname.iscsi").unwrap_or_default();
    let name = text.lines().find_map(|line| line.trim().strip_prefix("InitiatorName=")).unwrap_or_default();
    gathering.set("iscsi_iqn", name);
}

pub(super) fn nvme(gathering: &mut Gathering) {
    let text = gathering.text("/etc/nvme/hostnqn").unwrap_or_default();
    let name = text.lines().find(|line| line.starts_with("nqn.")).unwrap_or_default();
    gathering.set("hostnqn", name);
}

pub(super) fn fibre_channel(gathering: &mut Gathering) {
    let mut names = Vec::new();
    for host in gathering.names("/sys/class/fc_host") {
        let text = gathering.text(format!("/sys/class/fc_host/{host}/port_name")).unwrap_or_default();
        names.extend(text.strip_prefix("0x").map(ToString::to_string));
    }
    gathering.set("fibre_channel_wwn", names);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers() {
        let text = "# no\nnameserver 10.0.0.1\nnameserver 10.0.0.2\nsearch a.example b.example\noptions ndots:2 rotate\ndomain example\n";
        assert_eq!(
            Value::map(dns_facts(text)).repr(),
            "{'nameservers': ['10.0.0.1', '10.0.0.2'], 'search': ['a.example', 'b.example'], 'options': {'ndots': '2', 'rotate': True}, 'domain': 'example'}"
        );
    }

    #[test]
    fn dates() {
        let facts = Value::map(date_time_facts((1_795_257_312, 826_467), &Zone::default()));
        for (name, expected) in [
            ("iso8601_micro", "2026-11-21T10:35:12.826467Z"),
            ("iso8601_basic", "20261121T103512826467"),
            ("weeknumber", "46"),
            ("tz_offset", "+0000"),
            ("weekday", "Saturday"),
        ] {
            assert_eq!(facts.get(name).and_then(Value::as_str), Some(expected), "{name}");
        }
    }

    #[test]
    fn kernel_command_line() {
        assert_eq!(quoted_words("a b=\"c d\"  e"), ["a", "b=\"c d\"", "e"]);
    }
}
