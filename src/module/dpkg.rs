//! Debian's database of packages, read as it is on the disk, and the order of its version numbers.

use std::cmp::Ordering;

use crate::module::host;
use crate::system::{Effect, System};

/// One package of the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) architecture: String,
    pub(crate) version: String,
    /// Three words: what is wanted, whether it is broken, what it is.
    pub(crate) status: String,
    /// Names that it stands for.
    pub(crate) provides: Vec<String>,
    pub(crate) section: String,
}

impl Package {
    pub(crate) fn is_installed(&self) -> bool {
        self.status.ends_with(" installed")
    }

    /// It was removed, and has left its configuration.
    pub(crate) fn has_left_files(&self) -> bool {
        self.status.ends_with(" config-files")
    }
}

/// Where dpkg keeps changes that its database does not have yet.
const UPDATES: &str = "/var/lib/dpkg/updates";

/// An update that names no architecture means the only one.
fn same_architecture(known: &Package, update: &Package) -> bool {
    update.architecture.is_empty() || known.architecture == update.architecture
}

/// What the database will say once packages have got these versions (`None`: are gone), with the architecture
/// where it is known.
pub(crate) fn effect<'a>(
    steps: impl Iterator<Item = (&'a str, Option<&'a str>, Option<&'a str>)>,
    system: &mut dyn System,
) -> Effect {
    let mut text = String::new();
    for (name, version, architecture) in steps {
        // A foreign package is `name:architecture`.
        let name = name.split(':').next().unwrap_or(name);
        let status = if version.is_some() { "install ok installed" } else { "deinstall ok config-files" };
        text.push_str(&format!("Package: {name}\nStatus: {status}\n"));
        for (field, value) in [("Version", version), ("Architecture", architecture)] {
            if let Some(value) = value {
                text.push_str(&format!("{field}: {value}\n"));
            }
        }
        text.push('\n');
    }
    let number = system.list(UPDATES.as_ref()).map_or(0, |names| names.len());
    Effect::Text(std::path::Path::new(UPDATES).join(format!("{number:04}")), text)
}

/// The database.
#[derive(Debug, Default)]
pub(crate) struct Database {
    packages: Vec<Package>,
    native: String,
}

impl Database {
    /// Reads it. A machine without one has no packages.
    pub(crate) fn read(system: &mut dyn System) -> Database {
        let text = host::read_text("/var/lib/dpkg/status", system).unwrap_or_default();
        let mut database = Database::parse(&text);
        // A change that dpkg has not folded into the file yet, after an interruption, is in a directory beside it.
        // A dry run tells there what its earlier tasks would have installed.
        let mut updates = system.list(UPDATES.as_ref()).unwrap_or_default();
        updates.sort_unstable();
        for name in updates {
            let path = std::path::Path::new(UPDATES).join(name);
            let update = Database::parse(&host::read_text(path, system).unwrap_or_default());
            for package in update.packages {
                database
                    .packages
                    .retain(|known| known.name != package.name || !same_architecture(known, &package));
                database.packages.push(package);
            }
        }
        database
    }

    pub(crate) fn parse(text: &str) -> Database {
        let mut packages = Vec::new();
        for paragraph in text.split("\n\n") {
            let mut package = Package::default();
            for line in paragraph.lines() {
                let Some((name, value)) = line.split_once(": ") else { continue };
                match name {
                    "Package" => package.name = value.trim().into(),
                    "Status" => package.status = value.trim().into(),
                    "Version" => package.version = value.trim().into(),
                    "Architecture" => package.architecture = value.trim().into(),
                    "Section" => package.section = value.trim().into(),
                    "Provides" => {
                        let word = |item: &str| item.split_whitespace().next().map(String::from);
                        package.provides = value.split(',').filter_map(word).collect();
                    }
                    _ => {}
                }
            }
            if !package.name.is_empty() {
                packages.push(package);
            }
        }
        let native = packages
            .iter()
            .find(|package| package.name == "dpkg")
            .map(|package| package.architecture.clone());
        Database { packages, native: native.unwrap_or_default() }
    }

    /// All packages, also those that are not installed any more.
    pub(crate) fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// The entry of a package: of the architecture that is named, else of the machine's own.
    pub(crate) fn get(&self, name: &str, architecture: Option<&str>) -> Option<&Package> {
        let wanted = architecture.filter(|architecture| *architecture != "native").unwrap_or(&self.native);
        let fits = |package: &&Package| {
            package.name == name
                && (wanted.is_empty()
                    || wanted == "any"
                    || package.architecture.is_empty()
                    || package.architecture == wanted
                    || package.architecture == "all")
        };
        let mut found = self.packages.iter().filter(fits);
        let first = found.next()?;
        if first.is_installed() {
            Some(first)
        } else {
            Some(found.find(|other| other.is_installed()).unwrap_or(first))
        }
    }

    /// An installed package that stands for a name.
    pub(crate) fn provider(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| {
            package.is_installed() && package.provides.iter().any(|provided| provided == name)
        })
    }
}

/// Compares two version numbers as dpkg does: epoch, upstream version, revision.
pub(crate) fn compare_versions(a: &str, b: &str) -> Ordering {
    let split = |version: &str| -> (u64, String, String) {
        let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        (epoch.parse().unwrap_or(0), upstream.to_string(), revision.to_string())
    };
    let (a, b) = (split(a), split(b));
    a.0.cmp(&b.0).then_with(|| compare_parts(&a.1, &b.1)).then_with(|| compare_parts(&a.2, &b.2))
}

/// Compares by turns what is not digits, by a order in which `~` comes before everything, and numbers.
fn compare_parts(a: &str, b: &str) -> Ordering {
    let order = |byte: Option<&u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_digit() => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
        Some(byte) => i32::from(*byte) + 256,
    };
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        while a.first().is_some_and(|byte| !byte.is_ascii_digit())
            || b.first().is_some_and(|byte| !byte.is_ascii_digit())
        {
            let decided = order(a.first()).cmp(&order(b.first()));
            if decided != Ordering::Equal {
                return decided;
            }
            a = a.get(1..).unwrap_or_default();
            b = b.get(1..).unwrap_or_default();
        }
        let number = |bytes: &mut &[u8]| {
            let end = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
            let digits = String::from_utf8_lossy(&bytes[..end]).trim_start_matches('0').to_string();
            *bytes = &bytes[end..];
            digits
        };
        let (one, other) = (number(&mut a), number(&mut b));
        let decided = one.len().cmp(&other.len()).then_with(|| one.cmp(&other));
        if decided != Ordering::Equal {
            return decided;
        }
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_dpkg_orders_them() {
        for (a, b, expected) in [
            ("1.0", "1.0", Ordering::Equal),
            ("1.0-1", "1.0-2", Ordering::Less),
            ("1:0.5", "2.0", Ordering::Greater),
            ("1.0~rc1", "1.0", Ordering::Less),
            ("1.0~rc1-1", "1.0~rc1", Ordering::Greater),
            ("1.10", "1.9", Ordering::Greater),
            ("1.0a", "1.0+b", Ordering::Less),
            ("7.6p2-4", "7.6-0", Ordering::Greater),
            ("1.0.3-3", "1.0-1", Ordering::Greater),
            ("1.002", "1.2", Ordering::Equal),
            ("1.0-", "1.0", Ordering::Equal),
        ] {
            assert_eq!(compare_versions(a, b), expected, "{a} {b}");
            assert_eq!(compare_versions(b, a), expected.reverse(), "{b} {a}");
        }
    }

    #[test]
    fn the_database_is_read() {
        let database = Database::parse(
            "Package: dpkg\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.21\n\nPackage: mawk\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.3\nProvides: awk, x (= 1)\nDescription: y\n Package: no\n\nPackage: libc6\nStatus: install ok installed\nArchitecture: i386\nVersion: 2\n\nPackage: old\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 3\n",
        );
        assert_eq!(database.get("mawk", None).map(|package| package.version.as_str()), Some("1.3"));
        assert_eq!(database.provider("awk").map(|package| package.name.as_str()), Some("mawk"));
        assert!(database.get("libc6", None).is_none());
        assert!(database.get("libc6", Some("i386")).is_some_and(Package::is_installed));
        assert!(
            database
                .get("old", None)
                .is_some_and(|package| !package.is_installed() && package.has_left_files())
        );
    }
}
