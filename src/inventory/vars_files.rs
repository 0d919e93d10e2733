//! `group_vars/` and `host_vars/`: which files hold the variables of a name, each read once.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::diagnostic::Diagnostic;
use crate::source;
use crate::value::{Map, Value};
use crate::vault::Vault;

/// The variables of one file.
#[derive(Clone, Debug)]
pub(super) struct FileVars {
    pub(super) map: Arc<Map>,
    pub(super) source: Arc<str>,
}

/// What the files of a name say, or why they can't be read.
type Found = Result<Arc<[FileVars]>, Arc<[Diagnostic]>>;

/// Extensions that a variables file may have; the first file that exists is the one that is used.
const EXTENSIONS: [&str; 4] = ["", ".yml", ".yaml", ".json"];

pub(super) struct VarsFiles {
    pub(super) vault: Vault,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The names in a directory; `None` if there is no such directory. Asked once, not once per host.
    listings: HashMap<PathBuf, Option<Arc<HashSet<String>>>>,
    files: HashMap<PathBuf, HashMap<Arc<str>, Found>>,
    warnings: Vec<Diagnostic>,
}

impl VarsFiles {
    pub(super) fn new(vault: Vault) -> VarsFiles {
        VarsFiles { vault, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Warnings about the files that were read since the last call.
    pub(super) fn take_warnings(&self) -> Vec<Diagnostic> {
        std::mem::take(&mut self.state().warnings)
    }

    /// The variables for `name` in `dir`, which is some `group_vars` or `host_vars`.
    pub(super) fn of(&self, dir: &Path, name: &str) -> Found {
        let Some(listing) = self.listing(dir) else { return Ok(Arc::default()) };
        // Names with a slash are chroots; no file is theirs.
        if name.contains('/') {
            return Ok(Arc::default());
        }
        let Some(entry) = EXTENSIONS
            .iter()
            .map(|extension| format!("{name}{extension}"))
            .find(|entry| listing.contains(entry))
        else {
            return Ok(Arc::default());
        };
        if let Some(found) = self.state().files.get(dir).and_then(|files| files.get(name)) {
            return found.clone();
        }
        let found = self.read(&dir.join(entry));
        self.state().files.entry(dir.to_owned()).or_default().insert(Arc::from(name), found.clone());
        found
    }

    fn listing(&self, dir: &Path) -> Option<Arc<HashSet<String>>> {
        if let Some(listing) = self.state().listings.get(dir) {
            return listing.clone();
        }
        let listing = std::fs::read_dir(dir).ok().map(|entries| {
            Arc::new(
                entries
                    .flatten()
                    .map(|entry| entry.file_name().to_string_lossy().into_owned())
                    .collect::<HashSet<_>>(),
            )
        });
        self.state().listings.insert(dir.to_owned(), listing.clone());
        listing
    }

    fn read(&self, path: &Path) -> Found {
        let mut paths = Vec::new();
        let mut errors = Vec::new();
        if path.is_dir() {
            if let Err(error) = files_below(path, &mut paths, 0) {
                errors.push(error);
            }
        } else {
            paths.push(path.to_owned());
        }
        let mut found = Vec::new();
        for path in paths {
            match self.read_file(&path) {
                Ok(Some(vars)) => found.push(vars),
                Ok(None) => {}
                Err(mut told) => errors.append(&mut told),
            }
        }
        if errors.is_empty() { Ok(found.into()) } else { Err(errors.into()) }
    }

    fn read_file(&self, path: &Path) -> Result<Option<FileVars>, Vec<Diagnostic>> {
        let mut parsed = source::load_file(path, &self.vault)?;
        self.state().warnings.append(&mut parsed.warnings);
        if parsed.root.as_map().is_none() && !parsed.root.is_null() {
            let kind = parsed.root.kind_name();
            let problem = format!("a variables file holds a mapping of names to values, but this is {kind}");
            return Err(vec![parsed.root.error(problem)]);
        }
        Ok(match parsed.root.into_value() {
            Value::Map(map) => Some(FileVars { map, source: Arc::from(path.to_string_lossy()) }),
            _ => None,
        })
    }
}

/// Directories of variables inside each other at most; more is a loop of links.
const MAX_DEPTH: usize = 32;

/// The variables files of a directory, sorted by name, directories entered in place.
fn files_below(dir: &Path, out: &mut Vec<PathBuf>, depth: usize) -> Result<(), Diagnostic> {
    if depth > MAX_DEPTH {
        return Err(Diagnostic::error(format!("{} is nested too deeply", dir.display())));
    }
    let entries = std::fs::read_dir(dir)
        .map_err(|error| Diagnostic::error(format!("can't read the directory {}: {error}", dir.display())))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    for name in names {
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        let path = dir.join(&name);
        let extension = match name.rfind('.') {
            Some(at) if at > 0 => &name[at..],
            _ => "",
        };
        if path.is_dir() {
            if extension.is_empty() {
                files_below(&path, out, depth + 1)?;
            }
        } else if EXTENSIONS.contains(&extension) {
            out.push(path);
        }
    }
    Ok(())
}
