//! From sources to an inventory: what kind each source is, directories, and the errors of all of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{GroupNames, Inventory, LoadOptions, constructed, directory_of, ini, names, script, yaml};
use crate::diagnostic::Diagnostic;
use crate::source;
use crate::value::{Origin, Value};

/// What a reader of one source needs.
pub(super) struct Loading<'a> {
    pub(super) inventory: Inventory,
    pub(super) options: &'a LoadOptions,
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) errors: Vec<Diagnostic>,
}

/// Directories of inventories inside each other at most; more is a loop of links.
const MAX_DEPTH: usize = 16;

pub(super) fn load(
    sources: &[String],
    options: &LoadOptions,
) -> Result<(Inventory, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut loading = Loading {
        inventory: Inventory {
            merge_hashes: options.merge_hashes,
            group_names: options.group_names,
            ..Inventory::new(options.vault.clone())
        },
        options,
        warnings: Vec::new(),
        errors: Vec::new(),
    };
    loading.inventory.sources = sources.to_vec();
    for source in sources.iter().filter(|source| !source.is_empty()) {
        loading.source(source);
    }
    loading.inventory.current_source = (Value::Null, Value::Null);
    loading.inventory.reconcile();
    loading.warn_about_names();
    loading.warnings.append(&mut loading.inventory.take_warnings());
    if loading.errors.is_empty() { Ok((loading.inventory, loading.warnings)) } else { Err(loading.errors) }
}

impl Loading<'_> {
    fn source(&mut self, source: &str) {
        if source.contains(',') && !Path::new(source).exists() {
            self.host_list(source);
            return;
        }
        let path = match std::path::absolute(expand_home(source)) {
            Ok(path) => normalized(&path),
            Err(error) => {
                self.errors.push(Diagnostic::error(format!("can't find the inventory {source}: {error}")));
                return;
            }
        };
        if !path.exists() {
            self.warnings.push(
                Diagnostic::warning(format!("the inventory {source} doesn't exist"))
                    .hint("a list of hosts needs a comma: `-i host1,`"),
            );
        }
        let dir = directory_of(&path);
        if !self.inventory.source_dirs.contains(&dir) {
            self.inventory.source_dirs.push(dir);
        }
        if path.is_dir() {
            self.directory(&path, 0);
        } else if path.exists() {
            self.file(&path);
        }
    }

    fn host_list(&mut self, source: &str) {
        self.inventory.current_source = (Value::str(source), Value::Null);
        for entry in source.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            // No ranges here: `a[1:3],` is one name to Ansible, and a mistake.
            let (name, port) = names::address(entry).unwrap_or((entry, None));
            match names::check_name(name) {
                Ok(()) => {
                    let host = self.inventory.host_id(name, port);
                    self.inventory.put(super::UNGROUPED, host);
                }
                Err(problem) => self.errors.push(Diagnostic::error(problem)),
            }
        }
    }

    fn directory(&mut self, dir: &Path, depth: usize) {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) if depth <= MAX_DEPTH => entries,
            Ok(_) => {
                self.errors.push(Diagnostic::error(format!("{} is nested too deeply", dir.display())));
                return;
            }
            Err(error) => {
                let problem = format!("can't read the inventory directory {}: {error}", dir.display());
                self.errors.push(Diagnostic::error(problem));
                return;
            }
        };
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        for name in names {
            if self.is_ignored(&name) {
                continue;
            }
            let path = dir.join(&name);
            if path.is_dir() {
                self.directory(&path, depth + 1);
            } else {
                self.file(&path);
            }
        }
    }

    fn is_ignored(&self, name: &str) -> bool {
        name.starts_with('.')
            || matches!(name, "group_vars" | "host_vars" | "vars_plugins")
            || self.options.ignore_extensions.iter().any(|extension| name.ends_with(extension.as_str()))
            || self.options.ignore_patterns.iter().any(|pattern| {
                fancy_regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(name).unwrap_or(false))
            })
    }

    fn file(&mut self, path: &Path) {
        let name = path.to_string_lossy().into_owned();
        let dir = path.parent().map(|dir| Value::str(dir.to_string_lossy().into_owned())).unwrap_or_default();
        self.inventory.current_source = (Value::str(name.as_str()), dir);
        if script::is_script(path) {
            script::read(self, path);
            return;
        }
        let text = match source::read_text(path, &self.options.vault) {
            Ok(text) => text,
            Err(error) => {
                self.errors.push(error);
                return;
            }
        };
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("yml" | "yaml" | "json") => self.yaml(&name, &text),
            Some("toml") => self.errors.push(
                Diagnostic::error("inventories in TOML aren't supported; use YAML or INI")
                    .at(Some(Arc::new(Origin { file: Arc::from(name), line: 1, column: 1 }))),
            ),
            Some("config") if text.contains("plugin:") => self.yaml(&name, &text),
            None if looks_like_yaml(&name, &text) => self.yaml(&name, &text),
            _ => ini::read(self, &name, &text),
        }
    }

    fn yaml(&mut self, name: &str, text: &str) {
        match source::parse_all(name, text) {
            Ok(mut parsed) => {
                self.warnings.append(&mut parsed.warnings);
                if parsed.root.get("plugin").is_some() {
                    constructed::read(self, &parsed.root);
                } else {
                    yaml::read(self, &parsed.root);
                }
            }
            Err(mut errors) => self.errors.append(&mut errors),
        }
    }

    fn warn_about_names(&mut self) {
        let inventory = &self.inventory;
        let both: Vec<Diagnostic> = inventory
            .groups
            .iter()
            .filter(|group| inventory.host_ids.contains_key(&group.name))
            .map(|group| Diagnostic::warning(format!("'{}' is both a group and a host", group.name)))
            .collect();
        self.warnings.extend(both);
        if !matches!(self.options.group_names, GroupNames::Kept | GroupNames::Replaced) {
            return;
        }
        let odd: Vec<&str> = self.inventory.odd_names.iter().map(String::as_str).take(5).collect();
        if odd.is_empty() {
            return;
        }
        let replaced = self.options.group_names.replaces();
        let what = if replaced { "and automatically replaced" } else { "but not replaced" };
        self.warnings.push(
            Diagnostic::warning(format!(
                "Invalid characters were found in group names {what}: {}",
                odd.join(", ")
            ))
            .hint(
                "a group's name should be letters, digits and underscores: `groups.name` works only for such \
                 names; `groups['na-me']` always does",
            ),
        );
    }
}

/// A file without an extension is YAML if it reads as a mapping of groups, as Ansible would find out by trying.
fn looks_like_yaml(name: &str, text: &str) -> bool {
    let first = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with(['#', ';']))
        .unwrap_or_default();
    if first.starts_with('[') {
        return false;
    }
    match source::parse(name, text) {
        Ok(parsed) => parsed.root.as_map().is_some(),
        Err(_) => first == "---" || first.starts_with('{') || (first.ends_with(':') && !first.contains(' ')),
    }
}

pub(super) fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

/// The path without `.` and `..`, links not followed.
fn normalized(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}
