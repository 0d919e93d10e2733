//! Modules that a repository brings along: in `library/` and `action_plugins/` beside its playbooks and in its
//! roles, and in installed collections. They are programs in Python, which targets need not have: they are
//! known so that they can be refused by name and place, instead of being taken for a typing error.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::collections;

/// Where a project's own modules are: beside a playbook, in a role.
const FOLDERS: &[&str] = &["library", "action_plugins"];

/// Endings of files that are no modules, wherever they lie.
const NO_MODULES: &[&str] =
    &["pyc", "pyo", "md", "rst", "txt", "yml", "yaml", "json", "swp", "bak", "orig", "rej"];

/// A module that is a file of the project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnModule {
    /// The file.
    pub(super) path: PathBuf,
}

impl fmt::Display for OwnModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let python = self.path.extension().is_some_and(|extension| extension == "py");
        let collection = collections::containing(&self.path);
        let what = if self.is_action() {
            "a Python plugin"
        } else if python {
            "a Python module"
        } else {
            "a module"
        };
        match collection {
            Some(collection) => write!(f, "{what} of the collection {collection}"),
            None => write!(f, "{what} of this repository"),
        }
    }
}

impl OwnModule {
    /// Why a task that calls it `name` can't be run.
    pub(super) fn refusal(&self, name: &str) -> String {
        let why = if self.path.extension().is_some_and(|extension| extension == "py") {
            "targets need no Python, so it can't run"
        } else {
            "only built-in modules can be run"
        };
        format!("`{name}` is {self} ({}); {why}", self.path.display())
    }

    /// It would run on the controller.
    fn is_action(&self) -> bool {
        let folder = self.path.parent().and_then(Path::file_name);
        folder.is_some_and(|folder| folder == "action_plugins" || folder == "action")
    }
}

/// The modules of all folders that were met so far. Like Ansible's, they stay known: a role may use those of one
/// that was loaded before it.
#[derive(Debug, Default)]
pub(super) struct Libraries {
    seen: Vec<PathBuf>,
    modules: HashMap<String, OwnModule>,
}

impl Libraries {
    /// Looks into the folders of a project or a role.
    pub(super) fn add_project(&mut self, dir: &Path) {
        for folder in FOLDERS {
            self.add(&dir.join(folder));
        }
    }

    /// Looks into a folder of modules.
    pub(super) fn add(&mut self, dir: &Path) {
        if self.seen.iter().any(|seen| seen == dir) {
            return;
        }
        self.seen.push(dir.to_owned());
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            if let Some(name) = module_name(&path) {
                self.modules.entry(name).or_insert(OwnModule { path });
            }
        }
    }

    /// The module of a short name.
    pub(super) fn find(&self, name: &str) -> Option<&OwnModule> {
        let short = name.strip_prefix("ansible.legacy.").unwrap_or(name);
        self.modules.get(short)
    }
}

/// The name of the module that a file holds, if it holds one. One that begins with `_` is deprecated and called
/// without it.
fn module_name(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_str()?;
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let is_module = path.is_file()
        && !stem.starts_with('.')
        && stem != "__init__"
        && !stem.ends_with('~')
        && !NO_MODULES.contains(&extension);
    is_module.then(|| stem.strip_prefix('_').unwrap_or(stem).to_owned())
}

/// What an installed collection has to say about a module.
pub(super) enum InCollection {
    /// The collection is not installed.
    NotInstalled,
    /// It has the module.
    Has(OwnModule),
    /// It names the module as one that is now elsewhere.
    Mentions,
    /// It has no such module.
    Lacks(PathBuf),
}

/// Looks for a module (`ns.name.module`) in the collections that are installed.
pub(super) fn in_collection(paths: &[PathBuf], full: &str) -> InCollection {
    let Some((collection, module)) = full.rsplit_once('.') else { return InCollection::NotInstalled };
    let Some(dir) = collection.split_once('.').and_then(|(ns, name)| collections::find(paths, ns, name))
    else {
        return InCollection::NotInstalled;
    };
    let of = |folder: &str| {
        let entries = std::fs::read_dir(dir.join("plugins").join(folder)).ok()?;
        let mut files = entries.flatten().map(|entry| entry.path());
        files.find(|path| module_name(path).is_some_and(|name| name == module))
    };
    if let Some(path) = of("modules").or_else(|| of("action")) {
        return InCollection::Has(OwnModule { path });
    }
    let routing = std::fs::read_to_string(dir.join("meta/runtime.yml")).unwrap_or_default();
    if routing.lines().any(|line| line.trim().strip_suffix(':') == Some(module)) {
        return InCollection::Mentions;
    }
    InCollection::Lacks(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, "plugin_routing:\n  modules:\n    moved:\n      redirect: a.b.c\n")
                .expect("written");
        }
        dir
    }

    #[test]
    fn modules_of_a_project_are_known_by_name() {
        let dir = tree(&[
            "library/one.py",
            "library/_old.py",
            "library/__init__.py",
            "library/README.md",
            "library/shell_one.sh",
            "action_plugins/merge.py",
        ]);
        let mut libraries = Libraries::default();
        libraries.add_project(dir.path());
        for (name, told) in [
            ("one", Some("a Python module of this repository")),
            ("ansible.legacy.one", Some("a Python module of this repository")),
            ("old", Some("a Python module of this repository")),
            ("shell_one", Some("a module of this repository")),
            ("merge", Some("a Python plugin of this repository")),
            ("README", None),
            ("__init__", None),
            ("two", None),
        ] {
            assert_eq!(libraries.find(name).map(ToString::to_string).as_deref(), told, "{name}");
        }
    }

    #[test]
    fn collections_are_asked_where_they_are_installed() {
        let dir = tree(&[
            "ansible_collections/ns/coll/plugins/modules/one.py",
            "ansible_collections/ns/coll/plugins/action/merge.py",
            "ansible_collections/ns/coll/meta/runtime.yml",
        ]);
        let paths = [dir.path().to_owned()];
        let told = |full: &str| match in_collection(&paths, full) {
            InCollection::NotInstalled => "not installed".to_owned(),
            InCollection::Has(module) => module.to_string(),
            InCollection::Mentions => "moved".to_owned(),
            InCollection::Lacks(_) => "lacks it".to_owned(),
        };
        for (full, expected) in [
            ("ns.coll.one", "a Python module of the collection ns.coll"),
            ("ns.coll.merge", "a Python plugin of the collection ns.coll"),
            ("ns.coll.moved", "moved"),
            ("ns.coll.two", "lacks it"),
            ("ns.other.one", "not installed"),
        ] {
            assert_eq!(told(full), expected, "{full}");
        }
    }
}
