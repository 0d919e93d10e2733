//! Processors, memory, firmware, block devices, mounts, volumes.

use std::collections::BTreeMap;
use std::path::Path;

use crate::module::facts::Gathering;
use crate::system::FileKind;
use crate::system::probe::{Answer, FileSystem, Probe};
use crate::value::{Map, Value, map_of};

pub(super) fn collect(gathering: &mut Gathering) {
    processors(gathering);
    memory(gathering);
    firmware(gathering);
    devices(gathering);
    if let Some(seconds) =
        gathering.text("/proc/uptime").and_then(|text| text.split('.').next()?.parse::<i64>().ok())
    {
        gathering.set("uptime_seconds", seconds);
    }
    volumes(gathering);
    mounts(gathering);
}

fn processors(gathering: &mut Gathering) {
    let Some(text) = gathering.text("/proc/cpuinfo") else { return };
    let xen =
        gathering.exists("/proc/xen") || gathering.text("/sys/hypervisor/type").as_deref() == Some("xen");
    let architecture = gathering.known("architecture").to_string();
    let usable = match gathering.system.probe(&Probe::Processors) {
        Ok(Answer::Processors(count)) => Some(count),
        _ => None,
    };
    for (name, value) in processor_facts(&text, &architecture, xen, usable) {
        gathering.facts.insert(name, value);
    }
}

fn processor_facts(text: &str, architecture: &str, xen: bool, usable: Option<usize>) -> Map {
    let mut facts = Map::new();
    let mut named: Vec<&str> = Vec::new();
    let (mut vendors, mut models, mut processors) = (0_i64, 0_i64, 0_i64);
    let mut count = 0_i64;
    let (mut socket, mut core) = ("0", "0");
    // In the order in which they are found: the first one of each speaks for all.
    let mut sockets: Vec<(&str, i64)> = Vec::new();
    let mut siblings: Vec<(&str, i64)> = Vec::new();
    let (mut z_processors, mut z_threads) = (0_i64, 1_i64);
    let mut paravirtual = false;
    fn put<'a>(list: &mut Vec<(&'a str, i64)>, key: &'a str, value: Option<i64>) {
        match list.iter_mut().find(|(known, _)| *known == key) {
            Some(entry) => entry.1 = value.unwrap_or(entry.1),
            None => list.push((key, value.unwrap_or(1))),
        }
    }
    for line in text.lines() {
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        let (key, value) = (key.trim(), value.trim());
        let number = value.parse::<i64>().ok();
        match key {
            "flags" => {
                paravirtual |= xen && !value.contains("vme");
                facts.insert("flags".into(), value.split_whitespace().collect::<Vec<_>>().into());
            }
            "model name" | "Processor" | "vendor_id" | "cpu" | "Vendor" | "processor" => {
                named.push(value);
                vendors += i64::from(key == "vendor_id");
                models += i64::from(key == "model name");
                processors += i64::from(key == "processor");
                count += 1;
            }
            "physical id" => {
                socket = value;
                put(&mut sockets, socket, None);
            }
            "core id" => {
                core = value;
                if !sockets.iter().any(|(known, _)| *known == core) {
                    put(&mut siblings, core, Some(1));
                }
            }
            "cpu cores" => put(&mut sockets, socket, number),
            "siblings" => put(&mut siblings, core, number),
            "# processors" => z_processors = number.unwrap_or(0),
            "max thread id" => z_threads = number.unwrap_or(0) + 1,
            _ => {}
        }
    }
    if vendors > 0 && vendors == models {
        count = vendors;
    }
    if ["armv", "aarch", "ppc"].iter().any(|prefix| architecture.starts_with(prefix)) {
        count = processors;
    }
    facts.insert("processor".into(), named.into());
    let round = |a: i64, b: i64| (a as f64 / b.max(1) as f64).round_ties_even() as i64;
    let (sockets_count, cores, threads, virtual_count, available) = if architecture == "s390x" {
        (1, round(z_processors, z_threads), z_threads, z_processors, z_processors)
    } else if paravirtual {
        (count, count, 1, count, count)
    } else {
        let sockets_count =
            if sockets.is_empty() { count } else { i64::try_from(sockets.len()).unwrap_or(count) };
        let cores = sockets.first().map_or(1, |(_, cores)| (*cores).max(1));
        let threads = round(siblings.first().map_or(1, |(_, siblings)| *siblings), cores);
        (sockets_count, cores, threads, threads * sockets_count * cores, processors)
    };
    let available = usable.and_then(|count| i64::try_from(count).ok()).unwrap_or(available);
    facts.extend(map_of([
        ("processor_count", sockets_count),
        ("processor_cores", cores),
        ("processor_threads_per_core", threads),
        ("processor_vcpus", virtual_count),
        ("processor_nproc", available),
    ]));
    facts
}

fn memory(gathering: &mut Gathering) {
    let Some(text) = gathering.text("/proc/meminfo") else { return };
    let megabytes = |name: &str| -> Option<i64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<i64>().ok().map(|kilobytes| kilobytes / 1024)
    };
    for (fact, name) in [
        ("memtotal_mb", "MemTotal"),
        ("memfree_mb", "MemFree"),
        ("swaptotal_mb", "SwapTotal"),
        ("swapfree_mb", "SwapFree"),
    ] {
        if let Some(size) = megabytes(name) {
            gathering.set(fact, size);
        }
    }
    let minus = |a: Option<i64>, b: Option<i64>| Some(a? - b?);
    let (total, free) = (megabytes("MemTotal"), megabytes("MemFree"));
    let no_cache = (|| Some(megabytes("Cached")? + free? + megabytes("Buffers")?))();
    let (swap, swap_free) = (megabytes("SwapTotal"), megabytes("SwapFree"));
    let facts = map_of([
        ("real", map_of([("total", total), ("used", minus(total, free)), ("free", free)])),
        ("nocache", map_of([("free", no_cache), ("used", minus(total, no_cache))])),
        (
            "swap",
            map_of([
                ("total", swap),
                ("free", swap_free),
                ("used", minus(swap, swap_free)),
                ("cached", megabytes("SwapCached")),
            ]),
        ),
    ]);
    gathering.set("memory_mb", facts);
}

/// Facts by the file of the kernel's firmware table that tells them.
const FIRMWARE: [(&str, &str); 18] = [
    ("bios_date", "bios_date"),
    ("bios_vendor", "bios_vendor"),
    ("bios_version", "bios_version"),
    ("board_asset_tag", "board_asset_tag"),
    ("board_name", "board_name"),
    ("board_serial", "board_serial"),
    ("board_vendor", "board_vendor"),
    ("board_version", "board_version"),
    ("chassis_asset_tag", "chassis_asset_tag"),
    ("chassis_serial", "chassis_serial"),
    ("chassis_vendor", "chassis_vendor"),
    ("chassis_version", "chassis_version"),
    ("form_factor", "chassis_type"),
    ("product_name", "product_name"),
    ("product_serial", "product_serial"),
    ("product_uuid", "product_uuid"),
    ("product_version", "product_version"),
    ("system_vendor", "sys_vendor"),
];

/// Kinds of chassis by their number in the firmware's table.
const FORM_FACTORS: [&str; 37] = [
    "Unknown",
    "Other",
    "Unknown",
    "Desktop",
    "Low Profile Desktop",
    "Pizza Box",
    "Mini Tower",
    "Tower",
    "Portable",
    "Laptop",
    "Notebook",
    "Hand Held",
    "Docking Station",
    "All In One",
    "Sub Notebook",
    "Space-saving",
    "Lunch Box",
    "Main Server Chassis",
    "Expansion Chassis",
    "Sub Chassis",
    "Bus Expansion Chassis",
    "Peripheral Chassis",
    "RAID Chassis",
    "Rack Mount Chassis",
    "Sealed-case PC",
    "Multi-system",
    "CompactPCI",
    "AdvancedTCA",
    "Blade",
    "Blade Enclosure",
    "Tablet",
    "Convertible",
    "Detachable",
    "IoT Gateway",
    "Embedded PC",
    "Mini PC",
    "Stick PC",
];

fn firmware(gathering: &mut Gathering) {
    for (fact, file) in FIRMWARE {
        let text = gathering.text(format!("/sys/devices/virtual/dmi/id/{file}"));
        let value = match text {
            None => "NA".to_string(),
            Some(text) if fact == "form_factor" => text
                .parse::<usize>()
                .ok()
                .and_then(|number| FORM_FACTORS.get(number))
                .map_or_else(|| format!("unknown ({text})"), ToString::to_string),
            Some(text) => text,
        };
        gathering.set(fact, value);
    }
    let Some(text) = gathering.text("/proc/sysinfo") else { return };
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match name.trim() {
            "Manufacturer" => gathering.set("system_vendor", value),
            "Type" => gathering.set("product_name", value),
            "Sequence Code" => gathering.set("product_serial", value.trim_start_matches('0')),
            _ => {}
        }
    }
}

/// A size in bytes for readers: `258.02 GB`.
fn human_size(bytes: f64) -> String {
    for (suffix, limit) in [
        ("Y", 2_f64.powi(80)),
        ("Z", 2_f64.powi(70)),
        ("E", 2_f64.powi(60)),
        ("P", 2_f64.powi(50)),
        ("T", 2_f64.powi(40)),
        ("G", 2_f64.powi(30)),
        ("M", 2_f64.powi(20)),
        ("K", 2_f64.powi(10)),
    ] {
        if bytes >= limit {
            return format!("{:.2} {suffix}B", bytes / limit);
        }
    }
    format!("{bytes:.2} Bytes")
}

/// Names of links by the device that they point to.
type Links = BTreeMap<String, Vec<String>>;

fn links_in(directory: &str, gathering: &mut Gathering) -> Links {
    let mut links = Links::new();
    for name in gathering.names(directory) {
        let Ok(target) = gathering.system.read_link(&Path::new(directory).join(&name)) else { continue };
        if let Some(device) = target.file_name() {
            links.entry(device.to_string_lossy().into_owned()).or_default().push(name);
        }
    }
    links
}

fn links_value(links: &Links) -> Map {
    links.iter().map(|(device, names)| (device.as_str().into(), names.clone().into())).collect()
}

fn devices(gathering: &mut Gathering) {
    let blocks = gathering.names("/sys/block");
    let mut masters = Links::new();
    for block in &blocks {
        for slave in gathering.names(format!("/sys/block/{block}/slaves")) {
            masters.entry(slave).or_default().push(block.clone());
        }
    }
    let kinds = [
        ("ids", links_in("/dev/disk/by-id", gathering)),
        ("uuids", links_in("/dev/disk/by-uuid", gathering)),
        ("labels", links_in("/dev/disk/by-label", gathering)),
        ("masters", masters),
    ];
    gathering.set("device_links", map_of(kinds.iter().map(|(kind, links)| (*kind, links_value(links)))));
    let mut facts = Map::new();
    for block in &blocks {
        facts.insert(block.as_str().into(), device(block, &kinds, gathering).into());
    }
    gathering.set("devices", facts);
}

fn links_of(name: &str, kinds: &[(&str, Links)]) -> Map {
    map_of(kinds.iter().map(|(kind, links)| (*kind, links.get(name).cloned().unwrap_or_default())))
}

/// Name of a device from its number of 512-byte sectors and its own sector size.
fn put_size(facts: &mut Map, directory: &str, gathering: &mut Gathering) {
    let sector = gathering
        .text(format!("{directory}/queue/logical_block_size"))
        .or_else(|| gathering.text(format!("{directory}/queue/hw_sector_size")));
    let size = sector.as_deref().and_then(|size| size.parse::<i64>().ok()).unwrap_or(512).max(1);
    let small =
        gathering.text(format!("{directory}/size")).and_then(|count| count.parse::<i64>().ok()).unwrap_or(0);
    let sectors = small * 512 / size;
    facts.insert("sectors".into(), sectors.into());
    facts.insert("sectorsize".into(), sector.map_or(Value::Int(512), Value::from));
    facts.insert("size".into(), human_size(sectors as f64 * size as f64).into());
}

fn holders(directory: &str, gathering: &mut Gathering) -> Vec<String> {
    let mut holders = Vec::new();
    for name in gathering.names(format!("{directory}/holders")) {
        if name.starts_with("dm-") {
            holders.push(gathering.text(format!("{directory}/holders/{name}/dm/name")).unwrap_or(name));
        }
    }
    holders
}

fn device(block: &str, kinds: &[(&str, Links); 4], gathering: &mut Gathering) -> Map {
    let directory = format!("/sys/block/{block}");
    let mut facts = Map::new();
    facts.insert("virtual".into(), 1.into());
    facts.insert("links".into(), links_of(block, kinds).into());
    for key in ["vendor", "model", "sas_address", "sas_device_handle"] {
        facts.insert(key.into(), gathering.text(format!("{directory}/device/{key}")).into());
    }
    if let Some(serial) = gathering.text(format!("{directory}/device/serial")) {
        facts.insert("serial".into(), serial.into());
    }
    facts.insert("removable".into(), gathering.text(format!("{directory}/removable")).into());
    let discard = match gathering.text(format!("{directory}/queue/discard_max_hw_bytes")).as_deref() {
        Some("0") => Some("0".to_string()),
        _ => gathering.text(format!("{directory}/queue/discard_granularity")),
    };
    facts.insert("support_discard".into(), discard.into());
    let wwn = kinds[0].1.get(block).and_then(|ids| ids.iter().find_map(|id| id.strip_prefix("wwn-")));
    if let Some(wwn) = wwn {
        facts.insert("wwn".into(), wwn.into());
    }
    let mut partitions = Map::new();
    for name in gathering.names(&directory) {
        let number = name.strip_prefix(block).map(|rest| rest.strip_prefix('p').unwrap_or(rest));
        if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
        {
            let part = partition(&format!("{directory}/{name}"), &name, kinds, gathering);
            partitions.insert(name.into(), part.into());
        }
    }
    facts.insert("partitions".into(), partitions.into());
    facts.insert("rotational".into(), gathering.text(format!("{directory}/queue/rotational")).into());
    let scheduler = gathering.text(format!("{directory}/queue/scheduler")).unwrap_or_default();
    let mode =
        scheduler.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(mode, _)| mode);
    facts.insert("scheduler_mode".into(), mode.into());
    put_size(&mut facts, &directory, gathering);
    let host = pci_name(&directory, gathering).unwrap_or_default();
    facts.insert("host".into(), host.into());
    facts.insert("holders".into(), holders(&directory, gathering).into());
    facts
}

fn partition(directory: &str, name: &str, kinds: &[(&str, Links); 4], gathering: &mut Gathering) -> Map {
    let mut facts = Map::new();
    facts.insert("links".into(), links_of(name, kinds).into());
    facts.insert("start".into(), gathering.text(format!("{directory}/start")).into());
    put_size(&mut facts, directory, gathering);
    let uuid = kinds[1].1.get(name).and_then(|uuids| uuids.first()).cloned();
    facts.insert("uuid".into(), uuid.into());
    facts.insert("holders".into(), holders(directory, gathering).into());
    facts
}

/// What `lspci` calls the controller that a device hangs on; asked only if there is one.
fn pci_name(directory: &str, gathering: &mut Gathering) -> Option<String> {
    let path = gathering.system.read_link(Path::new(directory)).ok()?;
    let path = path.to_string_lossy().into_owned();
    let is_address = |part: &&str| {
        let bytes = part.as_bytes();
        bytes.len() == 12 && bytes[4] == b':' && bytes[7] == b':' && bytes[10] == b'.'
    };
    let address = path.split('/').rfind(is_address)?.to_string();
    let listing = gathering.output(&["lspci", "-D", "-s", &address])?;
    Some(listing.lines().next()?.strip_prefix(&address)?.trim().to_string())
}

/// Logical volumes, asked of LVM's own tools where they are installed.
fn volumes(gathering: &mut Gathering) {
    let is_root = gathering.system.whoami().is_ok_and(|user| user.uid == 0);
    let options = ["--noheadings", "--nosuffix", "--units", "g", "--separator", ","];
    let groups = if is_root { gathering.output(&[&["vgs"], &options[..]].concat()) } else { None };
    let Some(groups) = groups else {
        gathering.set("lvm", "N/A");
        return;
    };
    let logical = gathering.output(&[&["lvs"], &options[..]].concat()).unwrap_or_default();
    let find_map = gathering.output(&[&["pvs"], &options[..]].concat()).unwrap_or_default();
    let rows = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.trim().split(',').map(String::from).collect()).collect()
    };
    let column = |row: &[String], index: usize| row.get(index).cloned().unwrap_or_default();
    let mut vgs = Map::new();
    for row in rows(&groups) {
        let end = row.len().max(2);
        let facts = map_of([
            ("size_g", column(&row, end - 2)),
            ("free_g", column(&row, end - 1)),
            ("num_lvs", column(&row, 2)),
            ("num_pvs", column(&row, 1)),
        ]);
        vgs.insert(column(&row, 0).into(), facts.into());
    }
    let mut lvs = Map::new();
    for row in rows(&logical) {
        lvs.insert(
            column(&row, 0).into(),
            map_of([("size_g", column(&row, 3)), ("vg", column(&row, 1))]).into(),
        );
    }
    let mut pvs = Map::new();
    for row in rows(&find_map) {
        let facts =
            map_of([("size_g", column(&row, 4)), ("free_g", column(&row, 5)), ("vg", column(&row, 1))]);
        pvs.insert(column(&row, 0).into(), facts.into());
    }
    gathering.set("lvm", map_of([("lvs", lvs), ("vgs", vgs), ("pvs", pvs)]));
}

/// `\040` and the like in the kernel's tables.
pub(crate) fn unescape_octal(text: &str) -> String {
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if bytes[at] == b'\\' => {
                out.push(byte);
                at += 4;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn mounts(gathering: &mut Gathering) {
    let table = gathering.text("/etc/mtab").or_else(|| gathering.text("/proc/mounts")).unwrap_or_default();
    let info = gathering.text("/proc/self/mountinfo").unwrap_or_default();
    // A mount whose root is not that of its file system shows a part of it.
    let bound: Vec<String> = info
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(3);
            let (root, mount) = (fields.next()?, fields.next()?);
            (root != "/").then(|| unescape_octal(mount))
        })
        .collect();
    let uuids = links_in("/dev/disk/by-uuid", gathering);
    let mut found: Vec<(String, Map)> = Vec::new();
    for line in table.lines() {
        let fields: Vec<String> = line.split_whitespace().map(unescape_octal).collect();
        let [device, mount, kind, options, rest @ ..] = &fields[..] else { continue };
        if !device.starts_with(['/', '\\']) && !device.contains(":/") || kind == "none" {
            continue;
        }
        let number = |index: usize| rest.get(index).and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        let mut options = options.clone();
        if bound.contains(mount) && !options.split(',').any(|option| option == "bind") {
            options.push_str(",bind");
        }
        let mut facts = map_of([
            ("mount", Value::from(mount.as_str())),
            ("device", device.as_str().into()),
            ("fstype", kind.as_str().into()),
            ("options", options.into()),
            ("dump", number(0).into()),
            ("passno", number(1).into()),
        ]);
        put_use(&mut facts, mount, gathering);
        let uuid = uuid_of(device, &uuids, gathering);
        facts.insert("uuid".into(), uuid.into());
        found.retain(|(other, _)| other != mount);
        found.push((mount.clone(), facts));
    }
    gathering.set("mounts", found.into_iter().map(|(_, facts)| facts).collect::<Vec<_>>());
}

/// Size and use of a file system under the names of facts.
pub(crate) fn use_of(stat: &FileSystem) -> Map {
    map_of([
        ("size_total", stat.fragment_size * stat.blocks),
        ("size_available", stat.fragment_size * stat.blocks_available),
        ("block_size", stat.block_size),
        ("block_total", stat.blocks),
        ("block_available", stat.blocks_available),
        ("block_used", stat.blocks.saturating_sub(stat.blocks_available)),
        ("inode_total", stat.files),
        ("inode_available", stat.files_available),
        ("inode_used", stat.files.saturating_sub(stat.files_available)),
    ])
}

fn put_use(facts: &mut Map, mount: &str, gathering: &mut Gathering) {
    match gathering.system.probe(&Probe::FileSystem(mount.into(), gathering.timeout)) {
        Ok(Answer::FileSystem(stat)) => facts.extend(use_of(&stat)),
        Ok(_) => {}
        Err(error) => {
            gathering.warnings.push(format!("{error}"));
            facts.insert("note".into(), format!("Could not get extra information: {error}").into());
        }
    }
}

fn uuid_of(device: &str, uuids: &Links, gathering: &mut Gathering) -> String {
    let path = Path::new(device);
    let is_device =
        matches!(gathering.system.stat_follow(path), Ok(Some(stat)) if stat.kind == FileKind::BlockDevice);
    let real = if is_device { gathering.system.resolve(path).ok() } else { None };
    real.as_deref()
        .and_then(Path::file_name)
        .and_then(|name| uuids.get(name.to_string_lossy().as_ref())?.first().cloned())
        .unwrap_or_else(|| "N/A".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted() {
        let two_threads = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: A\nphysical id\t: 0\nsiblings\t: 4\ncore id\t: 0\ncpu cores\t: 2\nflags\t: fpu vme\n\n"
            .repeat(4);
        let arm = "processor\t: 0\nBogoMIPS\t: 243.75\n\nprocessor\t: 1\nBogoMIPS\t: 243.75\n";
        let table: &[(&str, &str, [i64; 5])] =
            &[(&two_threads, "x86_64", [1, 2, 2, 4, 3]), (arm, "aarch64", [2, 1, 1, 2, 3])];
        for (text, architecture, expected) in table {
            let facts = processor_facts(text, architecture, false, Some(3));
            let told = [
                "processor_count",
                "processor_cores",
                "processor_threads_per_core",
                "processor_vcpus",
                "processor_nproc",
            ]
            .map(|name| facts.get(name).and_then(Value::as_int).expect("a number"));
            assert_eq!(told, *expected, "{architecture}");
        }
    }

    #[test]
    fn sizes_and_escapes() {
        for (bytes, expected) in [(0.0, "0.00 Bytes"), (1536.0, "1.50 KB"), (277_042_262_016.0, "258.02 GB")]
        {
            assert_eq!(human_size(bytes), expected);
        }
        assert_eq!(unescape_octal("/mnt/a\\040b\\"), "/mnt/a b\\");
    }
}
