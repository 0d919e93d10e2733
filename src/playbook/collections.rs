//! Collections on disk: where their roles and playbooks are.

use std::path::{Path, PathBuf};

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
