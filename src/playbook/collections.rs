//! Collections on disk: where their roles and playbooks are.

use std::path::{Path, PathBuf};

use crate::source::{self, Node};
use crate::vault::Vault;

/// The directory of a collection (`ns.name`) under one of the paths that hold `ansible_collections/`.
pub fn find(paths: &[PathBuf], namespace: &str, name: &str) -> Option<PathBuf> {
    paths.iter().map(|path| root(path).join(namespace).join(name)).find(|dir| dir.is_dir())
}

fn root(path: &Path) -> PathBuf {
    if path.file_name().is_some_and(|name| name == "ansible_collections") {
        path.to_owned()
    } else {
        path.join("ansible_collections")
    }
}

/// `ns.name.rest` in its three parts; `rest` may hold further dots.
fn split(full: &str) -> Option<(&str, &str, &str)> {
    let (namespace, rest) = full.split_once('.')?;
    let (name, rest) = rest.split_once('.')?;
    let is_word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '_');
    (is_word(namespace) && is_word(name) && rest.split('.').all(is_word)).then_some((namespace, name, rest))
}

/// The directory of a collection's role (`ns.name.role`), and the collection's name.
pub fn find_role(paths: &[PathBuf], full: &str) -> Option<(PathBuf, String)> {
    let (namespace, name, role) = split(full)?;
    let dir = find(paths, namespace, name)?.join("roles").join(role.replace('.', "/"));
    dir.is_dir().then(|| (dir, format!("{namespace}.{name}")))
}

/// The file of a collection's playbook (`ns.name.playbook`).
pub fn find_playbook(paths: &[PathBuf], full: &str) -> Option<PathBuf> {
    let bare = full.strip_suffix(".yml").or_else(|| full.strip_suffix(".yaml")).unwrap_or(full);
    let (namespace, name, playbook) = split(bare)?;
    let dir = find(paths, namespace, name)?.join("playbooks");
    let stem = dir.join(playbook.replace('.', "/"));
    let with = |extension: &str| PathBuf::from(format!("{}{extension}", stem.display()));
    [with(".yml"), with(".yaml")].into_iter().find(|path| path.is_file())
}

/// The collection (`ns.name`) in whose directory a path is.
pub fn containing(path: &Path) -> Option<String> {
    let path = std::path::absolute(path).ok()?;
    let parts: Vec<String> =
        path.components().map(|part| part.as_os_str().to_string_lossy().into()).collect();
    let at = parts.iter().rposition(|part| part == "ansible_collections")?;
    Some(format!("{}.{}", parts.get(at + 1)?, parts.get(at + 2)?))
}

/// Whether a name has the form of something in a collection.
pub fn is_full_name(name: &str) -> bool {
    split(name).is_some()
}

/// Something that a `requirements.yml` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The role's or collection's name.
    pub name: String,
    /// It is a collection.
    pub collection: bool,
    /// The file that asks for it.
    pub file: PathBuf,
}

impl Requirement {
    /// Whether a role of this name would come with it.
    pub fn provides(&self, role: &str) -> bool {
        if self.collection {
            role.strip_prefix(&self.name).is_some_and(|rest| rest.starts_with('.'))
        } else {
            self.name == role
        }
    }
}

/// What the `requirements.yml` files of a project ask for. Files that can't be read ask for nothing.
pub fn required(dir: &Path, vault: &Vault) -> Vec<Requirement> {
    let mut out = Vec::new();
    for (folder, collections) in [("", false), ("roles", false), ("collections", true)] {
        for name in ["requirements.yml", "requirements.yaml"] {
            let file = dir.join(folder).join(name);
            if !file.is_file() {
                continue;
            }
            let Ok(parsed) = source::load_file(&file, vault) else { continue };
            let mut add = |list: Option<&Node>, collection: bool| {
                for entry in list.and_then(Node::as_list).unwrap_or_default() {
                    out.extend(required_name(entry, collection).map(|name| Requirement {
                        name,
                        collection,
                        file: file.clone(),
                    }));
                }
            };
            add(parsed.root.as_list().map(|_| &parsed.root), collections);
            add(parsed.root.get("roles"), false);
            add(parsed.root.get("collections"), true);
        }
    }
    out
}

/// `name`, or the last part of `src` without what follows a repository's name.
fn required_name(entry: &Node, collection: bool) -> Option<String> {
    if let Some(text) = entry.as_str() {
        return Some(text.split([',', ':']).next().unwrap_or(text).to_owned());
    }
    if let Some(name) = entry.get("name").or_else(|| entry.get("role")).and_then(Node::as_str) {
        return Some(name.to_owned());
    }
    let source = entry.get("src").and_then(Node::as_str).filter(|_| !collection)?;
    if !source.contains('/') {
        return Some(source.to_owned());
    }
    let last = source.trim_end_matches('/').rsplit('/').next()?;
    Some(last.trim_end_matches(".tar.gz").trim_end_matches(".git").to_owned())
}
