//! Where a drifted file came from: the file in the repository that a task copies as it is.

use std::path::{Path, PathBuf};

use crate::state::TaskRef;
use crate::system::{Algorithm, digest};

/// The file of the repository whose content the task has copied to the host: one below a `files` directory
/// near the task's file, with the digest that was applied. `None` if there is none or more than one.
pub fn source(task: &TaskRef, directory: &Path, target: &str, sha256: &str) -> Option<PathBuf> {
    if !task.action.ends_with(".copy") {
        return None;
    }
    let file = directory.join(&task.file);
    let near = [file.parent()?, file.parent()?.parent()?];
    let mut found: Vec<PathBuf> = Vec::new();
    for base in near {
        search(&base.join("files"), 0, &mut found);
    }
    found.retain(|path| {
        std::fs::read(path).is_ok_and(|bytes| digest::of_bytes(Algorithm::Sha256, &bytes) == sha256)
    });
    found.sort_unstable();
    found.dedup();
    if found.len() > 1 {
        let name = Path::new(target).file_name();
        found.retain(|path| path.file_name() == name);
    }
    if found.len() == 1 { found.pop() } else { None }
}

/// All files below a directory, without following links.
fn search(directory: &Path, depth: usize, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_file() {
            out.push(entry.path());
        } else if kind.is_dir() && depth < 16 {
            search(&entry.path(), depth + 1, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_found_by_what_was_copied() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |path: &str| dir.path().join(path);
        for (path, text) in [
            ("roles/web/files/a.conf", "one\n"),
            ("roles/web/files/sub/b.conf", "two\n"),
            ("roles/web/files/copy-of-a", "one\n"),
            ("roles/web/tasks/main.yml", "- copy:\n"),
        ] {
            std::fs::create_dir_all(at(path).parent().expect("below")).expect("made");
            std::fs::write(at(path), text).expect("written");
        }
        let task = |action: &str| TaskRef {
            file: "roles/web/tasks/main.yml".into(),
            action: action.into(),
            ..TaskRef::default()
        };
        let digest = |text: &str| digest::of_bytes(Algorithm::Sha256, text.as_bytes());
        let copy = task("ansible.builtin.copy");
        let find = |task: &TaskRef, target: &str, text: &str| source(task, dir.path(), target, &digest(text));
        assert_eq!(find(&copy, "/etc/x", "two\n"), Some(at("roles/web/files/sub/b.conf")));
        assert_eq!(find(&copy, "/etc/a.conf", "one\n"), Some(at("roles/web/files/a.conf")));
        assert_eq!(find(&copy, "/etc/other", "one\n"), None, "two have this content");
        assert_eq!(find(&copy, "/etc/x", "three\n"), None);
        assert_eq!(find(&task("ansible.builtin.template"), "/etc/x", "two\n"), None);
    }
}
