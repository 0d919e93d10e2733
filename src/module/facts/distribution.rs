//! Which distribution a machine runs, in the words that playbooks compare with.

use crate::module::facts::Gathering;
use crate::module::host;
use crate::system::System;
use crate::value::{Map, Value, map_of};

/// Families: the distributions that a family's name covers.
const FAMILIES: &[(&str, &[&str])] = &[
    (
        "RedHat",
        &[
            "RedHat",
            "RHEL",
            "Fedora",
            "CentOS",
            "Scientific",
            "SLC",
            "Ascendos",
            "CloudLinux",
            "PSBM",
            "OracleLinux",
            "OVS",
            "OEL",
            "Amazon",
            "Amzn",
            "Virtuozzo",
            "XenServer",
            "Alibaba",
            "EulerOS",
            "openEuler",
            "AlmaLinux",
            "Rocky",
            "TencentOS",
            "EuroLinux",
            "Kylin Linux Advanced Server",
            "MIRACLE",
        ],
    ),
    (
        "Debian",
        &[
            "Debian",
            "Ubuntu",
            "Raspbian",
            "Neon",
            "KDE neon",
            "Linux Mint",
            "SteamOS",
            "Devuan",
            "Kali",
            "Cumulus Linux",
            "Pop!_OS",
            "Parrot",
            "Pardus GNU/Linux",
            "Uos",
            "Deepin",
            "OSMC",
            "Linux Mint Debian Edition",
        ],
    ),
    (
        "Suse",
        &[
            "SuSE",
            "SLES",
            "SLED",
            "openSUSE",
            "openSUSE Tumbleweed",
            "SLES_SAP",
            "SUSE_LINUX",
            "openSUSE Leap",
            "ALP-Dolomite",
            "SL-Micro",
            "openSUSE MicroOS",
        ],
    ),
    ("Archlinux", &["Archlinux", "Antergos", "Manjaro"]),
    ("Mandrake", &["Mandrake", "Mandriva"]),
    ("Gentoo", &["Gentoo", "Funtoo"]),
    ("ClearLinux", &["Clear Linux OS", "Clear Linux Mix"]),
];

/// Names of distributions of which `os-release` tells another than playbooks know.
const IDS: &[(&str, &str)] = &[
    ("almalinux", "AlmaLinux"),
    ("altlinux", "Altlinux"),
    ("amzn", "Amazon"),
    ("arch", "Archlinux"),
    ("centos", "CentOS"),
    ("cloudlinux", "CloudLinux"),
    ("debian", "Debian"),
    ("fedora", "Fedora"),
    ("flatcar", "Flatcar"),
    ("gentoo", "Gentoo"),
    ("ol", "OracleLinux"),
    ("raspbian", "Debian"),
    ("rhel", "RedHat"),
    ("rocky", "Rocky"),
    ("scientific", "Scientific"),
    ("slackware", "Slackware"),
    ("ubuntu", "Ubuntu"),
];

/// What there is to say of a distribution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Name, such as `Debian`.
    pub name: String,
    /// Version, such as `12.11`.
    pub version: String,
    /// Code name, such as `bookworm`.
    pub release: String,
    /// First part of the version.
    pub major: String,
    /// Second part of the version, where it is told.
    pub minor: Option<String>,
    /// Family, such as `RedHat`.
    pub family: String,
    /// The file that told.
    path: &'static str,
    /// Which kind of file that is.
    variety: String,
    /// Text in that file that decided.
    search: Option<&'static str>,
}

/// Finds out which distribution a machine runs.
pub fn detect(system: &mut dyn System) -> Distribution {
    let release = host::read_text("/etc/os-release", system)
        .or_else(|| host::read_text("/usr/lib/os-release", system))
        .unwrap_or_default();
    let mut files = |path: &str| host::read_text(path, system).map(|text| text.trim().to_string());
    from_files(&OsRelease::parse(&release), &mut files)
}

/// The entries of `/etc/os-release`.
struct OsRelease {
    entries: Vec<(String, String)>,
    whole: String,
}

impl OsRelease {
    fn parse(text: &str) -> OsRelease {
        let entry = |line: &str| {
            let (name, value) = line.trim().split_once('=')?;
            let value = host::split_words(value).ok()?.concat();
            (!name.starts_with('#')).then(|| (name.to_string(), value))
        };
        OsRelease { entries: text.lines().filter_map(entry).collect(), whole: text.to_string() }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The word in parentheses of `VERSION`, or what follows a comma there.
    fn code_name(&self) -> Option<String> {
        if let Some(name) = self.get("VERSION_CODENAME").or_else(|| self.get("UBUNTU_CODENAME")) {
            return Some(name.to_string());
        }
        let version = self.get("VERSION")?;
        let inside = version.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(name, _)| name);
        let after = version.split_once(',').map(|(_, name)| name);
        inside.or(after).map(|name| name.trim().to_string()).filter(|name| !name.is_empty())
    }
}

fn first_part(version: &str) -> String {
    version.split('.').next().unwrap_or_default().to_string()
}

fn first_number(text: &str) -> Option<String> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let rest = &text[start..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    Some(rest[..end].trim_end_matches('.').to_string())
}

fn from_files(release: &OsRelease, file: &mut dyn FnMut(&str) -> Option<String>) -> Distribution {
    let id = release.get("ID").unwrap_or_default();
    let name = IDS
        .iter()
        .find(|(known, _)| *known == id)
        .map(|(_, name)| (*name).to_string())
        .or_else(|| release.get("NAME").map(ToString::to_string))
        .unwrap_or_else(|| "NA".into());
    let version = release.get("VERSION_ID").filter(|version| !version.is_empty()).unwrap_or("NA").to_string();
    let mut out = Distribution {
        major: first_part(&version),
        release: release.code_name().unwrap_or_else(|| "NA".into()),
        version,
        variety: name.clone(),
        name,
        path: "/etc/os-release",
        ..Distribution::default()
    };
    match id {
        "debian" | "raspbian" => debian(&mut out, release, file),
        "ubuntu" => out.variety = "Debian".into(),
        "linuxmint" => named(&mut out, "Linux Mint", "Debian"),
        "kali" => {
            named(&mut out, "Kali", "Debian");
            if let Some(number) = file("/etc/lsb-release").and_then(|text| {
                text.lines().find_map(|line| line.strip_prefix("DISTRIB_RELEASE=").map(String::from))
            }) {
                out.release = number.trim_matches('"').to_string();
            }
        }
        "parrot" => named(&mut out, "Parrot", "Debian"),
        "devuan" => named(&mut out, "Devuan", "Debian"),
        "steamos" => named(&mut out, "SteamOS", "Debian"),
        "deepin" => named(&mut out, "Deepin", "Debian"),
        "uos" => named(&mut out, "Uos", "Debian"),
        "cumulus-linux" => named(&mut out, "Cumulus Linux", "Debian"),
        "alpine" => {
            if let Some(version) = file("/etc/alpine-release") {
                out.version = version;
            }
            named(&mut out, "Alpine", "Alpine");
            out.path = "/etc/alpine-release";
        }
        "amzn" => {
            let mut parts = out.version.split('.');
            out.major = parts.next().unwrap_or_default().to_string();
            out.minor = Some(parts.next().unwrap_or("NA").to_string());
        }
        "arch" | "archarm" | "manjaro" | "endeavouros" => {
            let marked = file("/etc/arch-release").is_some();
            if marked || id == "arch" {
                named(&mut out, "Archlinux", "Archlinux");
            }
            if marked {
                out.path = "/etc/arch-release";
            }
        }
        _ if release.whole.to_ascii_lowercase().contains("suse") => suse(&mut out, release),
        _ if file("/etc/redhat-release").is_some() => red_hat(&mut out, id, file),
        "" => without_os_release(&mut out, file),
        _ => out.variety = "NA".into(),
    }
    out.family = FAMILIES
        .iter()
        .find(|(_, names)| names.contains(&out.name.as_str()))
        .map_or_else(|| out.name.clone(), |(family, _)| (*family).to_string());
    out
}

fn named(out: &mut Distribution, name: &str, variety: &str) {
    out.name = name.into();
    out.variety = variety.into();
}

fn debian(out: &mut Distribution, release: &OsRelease, file: &mut dyn FnMut(&str) -> Option<String>) {
    named(out, "Debian", "Debian");
    if let Some(name) = release
        .get("PRETTY_NAME")
        .and_then(|name| name.split_once('('))
        .and_then(|(_, rest)| rest.split_once(')'))
        .map(|(name, _)| name)
    {
        out.release = name.to_string();
    } else if out.release == "NA"
        && let Some((_, name)) = release.get("PRETTY_NAME").and_then(|name| name.rsplit_once(' '))
    {
        // Testing and unstable: "Debian GNU/Linux trixie/sid".
        out.release = name.split('/').next().unwrap_or(name).to_string();
    }
    let Some(point) = file("/etc/debian_version") else { return };
    if let Some((major, minor)) = point.split_once('.')
        && major.chars().all(|c| c.is_ascii_digit())
    {
        let minor: String = minor.chars().take_while(char::is_ascii_digit).collect();
        out.version = format!("{major}.{minor}");
        out.minor = Some(minor);
        out.major = major.to_string();
    } else if out.version == "NA" {
        out.version = point;
        out.major = first_part(&out.version);
    }
}

fn suse(out: &mut Distribution, release: &OsRelease) {
    let name = release.get("NAME").unwrap_or("SUSE").to_string();
    named(out, &name, "SUSE");
    let number = out.version.split_once('.').map(|(_, minor)| minor.to_string());
    let open = release.whole.to_ascii_lowercase().contains("open");
    out.release = number.unwrap_or_else(|| if open { String::new() } else { "0".into() });
    match release.get("VARIANT_ID") {
        Some("server-sap" | "sles-sap") => out.name = "SLES_SAP".into(),
        Some("transactional") => out.name = "SL-Micro".into(),
        _ => {}
    }
}

fn red_hat(out: &mut Distribution, id: &str, file: &mut dyn FnMut(&str) -> Option<String>) {
    let own = match id {
        "centos" => "/etc/centos-release",
        "ol" => "/etc/oracle-release",
        _ => "/etc/redhat-release",
    };
    let text = file(own).or_else(|| file("/etc/redhat-release")).unwrap_or_default();
    out.path = own;
    match id {
        "centos" => {
            out.variety = "CentOS".into();
            if text.contains("CentOS Stream") {
                out.release = "Stream".into();
            } else if let Some(number) = first_number(&text) {
                // The file tells the point release, which os-release does not: 7.9.2009 is 7.9.
                out.version = number.split('.').take(2).collect::<Vec<_>>().join(".");
            }
        }
        "ol" => {
            out.variety = "OracleLinux".into();
            out.search = Some("Oracle Linux");
        }
        _ => {
            out.variety = "RedHat".into();
            if text.contains("Red Hat") {
                out.name = "RedHat".into();
                out.search = Some("Red Hat");
            } else if let Some(word) = text.split_whitespace().next() {
                out.name = word.to_string();
            }
        }
    }
    out.major = first_part(&out.version);
}

/// Releases from before `os-release`.
fn without_os_release(out: &mut Distribution, file: &mut dyn FnMut(&str) -> Option<String>) {
    for (path, name) in [
        ("/etc/centos-release", "CentOS"),
        ("/etc/redhat-release", "RedHat"),
        ("/etc/system-release", "Amazon"),
        ("/etc/alpine-release", "Alpine"),
        ("/etc/debian_version", "Debian"),
        ("/etc/openwrt_release", "OpenWrt"),
    ] {
        let Some(text) = file(path) else { continue };
        named(out, name, name);
        if name == "RedHat" && !text.contains("Red Hat") {
            out.name = text.split_whitespace().next().unwrap_or(name).to_string();
        }
        if let Some(number) = first_number(&text) {
            out.version = number;
        }
        if let Some((_, rest)) = text.split_once('(') {
            out.release = rest.split(')').next().unwrap_or_default().to_string();
        }
        out.major = first_part(&out.version);
        out.path = path;
        return;
    }
}

/// Facts of the distribution.
pub(super) fn collect(gathering: &mut Gathering) {
    let found = detect(gathering.system);
    gathering.set("distribution", found.name);
    gathering.set("distribution_release", found.release);
    gathering.set("distribution_version", found.version);
    gathering.set("distribution_major_version", found.major);
    gathering.set("distribution_file_path", found.path);
    gathering.set("distribution_file_variety", found.variety);
    gathering.set("distribution_file_parsed", true);
    if let Some(search) = found.search {
        gathering.set("distribution_file_search_string", search);
    }
    if let Some(minor) = found.minor {
        gathering.set("distribution_minor_version", minor);
    }
    gathering.set("os_family", found.family);
}

/// Facts of the Linux Standard Base: from `lsb_release`'s own sources, so that no program need be run where
/// files tell the same.
pub(super) fn lsb(gathering: &mut Gathering) {
    let mut facts = lsb_release_file(gathering);
    let has_program = matches!(host::find_program("lsb_release", gathering.system), Ok(Some(_)));
    if has_program {
        // Debian's program reads os-release; others may know better than any file.
        facts = match gathering.known("distribution") {
            "Debian" | "Ubuntu" => lsb_os_release(gathering),
            _ => lsb_program(gathering).unwrap_or(facts),
        };
    }
    if let Some(release) = facts.get("release").map(Value::to_text) {
        facts.insert("major_release".into(), first_part(&release).into());
    }
    gathering.set("lsb", facts);
}

fn lsb_release_file(gathering: &mut Gathering) -> Map {
    let text = gathering.text("/etc/lsb-release").unwrap_or_default();
    let mut facts = Map::new();
    for line in text.lines() {
        let Some((name, value)) = line.split_once('=') else { continue };
        let value = value.trim().trim_matches(['\'', '"', '\\']);
        let key = match name {
            "DISTRIB_ID" => "id",
            "DISTRIB_RELEASE" => "release",
            "DISTRIB_DESCRIPTION" => "description",
            "DISTRIB_CODENAME" => "codename",
            _ => continue,
        };
        facts.insert(key.into(), value.into());
    }
    facts
}

fn lsb_os_release(gathering: &mut Gathering) -> Map {
    let release = OsRelease::parse(&gathering.text("/etc/os-release").unwrap_or_default());
    let known = lsb_release_file(gathering);
    let name = release.get("NAME").unwrap_or_default().split(' ').next().unwrap_or_default().to_string();
    let or_known = |key: &str, value: String| known.get(key).map_or(value, Value::to_text);
    let text = |key: &str, fallback: &str| release.get(key).unwrap_or(fallback).to_string();
    map_of([
        ("id", or_known("id", name)),
        ("description", or_known("description", text("PRETTY_NAME", ""))),
        ("release", or_known("release", text("VERSION_ID", "n/a"))),
        ("codename", or_known("codename", text("VERSION_CODENAME", "n/a"))),
    ])
}

fn lsb_program(gathering: &mut Gathering) -> Option<Map> {
    let output = gathering.output(&["lsb_release", "-a"])?;
    let mut facts = Map::new();
    for line in output.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let key = match name.trim() {
            "LSB Version" | "Release" => "release",
            "Distributor ID" => "id",
            "Description" => "description",
            "Codename" => "codename",
            _ => continue,
        };
        facts.insert(key.into(), value.trim().trim_matches(['\'', '"', '\\']).into());
    }
    Some(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, version, major version, release, family.
    type Told = [&'static str; 5];

    #[test]
    fn distributions_are_told_apart() {
        let table: &[(&str, &[(&str, &str)], Told)] = &[
            (
                "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n",
                &[("/etc/debian_version", "12.11")],
                ["Debian", "12.11", "12", "bookworm", "Debian"],
            ),
            (
                "PRETTY_NAME=\"Ubuntu 24.04.1 LTS\"\nNAME=\"Ubuntu\"\nVERSION_ID=\"24.04\"\nVERSION=\"24.04.1 LTS (Noble Numbat)\"\nVERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=noble\n",
                &[("/etc/debian_version", "trixie/sid")],
                ["Ubuntu", "24.04", "24", "noble", "Debian"],
            ),
            (
                "NAME=\"Rocky Linux\"\nVERSION=\"9.3 (Blue Onyx)\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.3\"\n",
                &[("/etc/redhat-release", "Rocky Linux release 9.3 (Blue Onyx)")],
                ["Rocky", "9.3", "9", "Blue Onyx", "RedHat"],
            ),
            (
                "NAME=\"Red Hat Enterprise Linux\"\nVERSION=\"8.9 (Ootpa)\"\nID=\"rhel\"\nVERSION_ID=\"8.9\"\n",
                &[("/etc/redhat-release", "Red Hat Enterprise Linux release 8.9 (Ootpa)")],
                ["RedHat", "8.9", "8", "Ootpa", "RedHat"],
            ),
            (
                "NAME=\"CentOS Linux\"\nVERSION=\"7 (Core)\"\nID=\"centos\"\nVERSION_ID=\"7\"\n",
                &[
                    ("/etc/redhat-release", "CentOS Linux release 7.9.2009 (Core)"),
                    ("/etc/centos-release", "CentOS Linux release 7.9.2009 (Core)"),
                ],
                ["CentOS", "7.9", "7", "Core", "RedHat"],
            ),
            (
                "NAME=\"CentOS Stream\"\nVERSION=\"9\"\nID=\"centos\"\nVERSION_ID=\"9\"\n",
                &[
                    ("/etc/redhat-release", "CentOS Stream release 9"),
                    ("/etc/centos-release", "CentOS Stream release 9"),
                ],
                ["CentOS", "9", "9", "Stream", "RedHat"],
            ),
            (
                "NAME=\"Fedora Linux\"\nVERSION=\"39 (Container Image)\"\nID=fedora\nVERSION_ID=39\nVERSION_CODENAME=\"\"\n",
                &[("/etc/redhat-release", "Fedora release 39 (Thirty Nine)")],
                ["Fedora", "39", "39", "", "RedHat"],
            ),
            (
                "NAME=\"Amazon Linux\"\nVERSION=\"2023\"\nID=\"amzn\"\nID_LIKE=\"fedora\"\nVERSION_ID=\"2023\"\n",
                &[],
                ["Amazon", "2023", "2023", "NA", "RedHat"],
            ),
            (
                "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.19.1\nPRETTY_NAME=\"Alpine Linux v3.19\"\n",
                &[("/etc/alpine-release", "3.19.1")],
                ["Alpine", "3.19.1", "3", "NA", "Alpine"],
            ),
            (
                "NAME=\"openSUSE Leap\"\nVERSION=\"15.5\"\nID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\nVERSION_ID=\"15.5\"\n",
                &[],
                ["openSUSE Leap", "15.5", "15", "5", "Suse"],
            ),
            (
                "NAME=\"SLES\"\nVERSION=\"15-SP4\"\nVERSION_ID=\"15.4\"\nPRETTY_NAME=\"SUSE Linux Enterprise Server 15 SP4\"\nID=\"sles\"\nID_LIKE=\"suse\"\n",
                &[],
                ["SLES", "15.4", "15", "4", "Suse"],
            ),
            (
                "NAME=\"Arch Linux\"\nPRETTY_NAME=\"Arch Linux\"\nID=arch\nBUILD_ID=rolling\n",
                &[],
                ["Archlinux", "NA", "NA", "NA", "Archlinux"],
            ),
            (
                "NAME=\"Void\"\nID=\"void\"\nPRETTY_NAME=\"Void Linux\"\n",
                &[],
                ["Void", "NA", "NA", "NA", "Void"],
            ),
        ];
        for (release, files, expected) in table {
            let mut file = |path: &str| {
                files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_string())
            };
            let told = from_files(&OsRelease::parse(release), &mut file);
            let told = [&told.name, &told.version, &told.major, &told.release, &told.family];
            assert_eq!(told, expected.map(String::from).each_ref(), "{release}");
        }
    }
}
