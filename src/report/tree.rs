//! The last result of every host as a JSON file of its own, in one directory.

use std::io::Write as _;
use std::path::PathBuf;

use super::result;
use crate::event::{Event, Listener};

/// Writes the files.
pub struct Tree {
    directory: PathBuf,
}

impl Tree {
    pub(super) fn new(directory: PathBuf) -> Tree {
        Tree { directory }
    }
}

impl Listener for Tree {
    fn event(&mut self, event: &Event) {
        let Event::Result(result) = event else { return };
        // A host's name may not lead out of the directory.
        let name = result.host.replace('/', "_");
        if matches!(name.as_str(), "." | "..") {
            return;
        }
        let path = self.directory.join(name);
        let text = super::one_line_map(result::shown(result, 0)) + "\n";
        let written = std::fs::create_dir_all(&self.directory).and_then(|()| std::fs::write(&path, text));
        if let Err(error) = written {
            let _ = writeln!(std::io::stderr(), "[WARNING]: can't write {}: {error}", path.display());
        }
    }
}
