//! A machine that can only be looked at: whatever would change it is refused, whoever asks.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{
    Algorithm, Applied, Attributes, BlobRef, Change, Command, Content, Done, Group, Intent, LinkKind, Output,
    Result, Stat, System, SystemError, User, WriteOptions,
};

/// Reads go through; changes are errors.
#[derive(Debug)]
pub struct ReadOnly<S> {
    inner: S,
}

impl<S: System> ReadOnly<S> {
    /// Looks at this machine.
    pub fn new(inner: S) -> ReadOnly<S> {
        ReadOnly { inner }
    }
}

fn refused<T>(what: &str) -> Result<T> {
    Err(SystemError::Other(format!("this machine is only looked at: {what} is refused")))
}

impl<S: System> System for ReadOnly<S> {
    forward_reads!();

    fn write(&mut self, path: &Path, _: &Content, _: &Attributes, _: WriteOptions) -> Result<()> {
        refused(&format!("writing {}", path.display()))
    }

    fn make_dir(&mut self, path: &Path, _: &Attributes) -> Result<()> {
        refused(&format!("making {}", path.display()))
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        refused(&format!("removing {}", path.display()))
    }

    fn rename(&mut self, from: &Path, _: &Path) -> Result<()> {
        refused(&format!("renaming {}", from.display()))
    }

    fn link(&mut self, path: &Path, _: &Path, _: LinkKind) -> Result<()> {
        refused(&format!("linking {}", path.display()))
    }

    fn set_attributes(&mut self, path: &Path, _: &Attributes, _: bool) -> Result<()> {
        refused(&format!("setting attributes of {}", path.display()))
    }

    fn change(&mut self, command: &Command, _: Intent) -> Result<Done> {
        refused(&format!("running `{}`", command.line()))
    }

    fn perform(&mut self, intent: Intent, _: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        refused(&format!("changing {} {}", intent.kind, intent.id))
    }

    fn scratch(&mut self) -> Result<PathBuf> {
        refused("a directory for temporary files")
    }

    fn applied(&mut self, applied: Applied) {
        self.inner.applied(applied);
    }

    fn uncertain(&self) -> Option<String> {
        self.inner.uncertain()
    }

    fn changes(&self) -> &[Change] {
        self.inner.changes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::Found;
    use crate::system::fake::Fake;

    #[test]
    fn every_change_is_refused_and_nothing_is_touched() {
        let mut machine = Fake::new().with_file("/etc/x", "content");
        let mut looked = ReadOnly::new(&mut machine);
        let path = Path::new("/etc/x");
        let attributes = Attributes { mode: Some(0o777), ..Attributes::default() };
        let content = Content::Bytes(b"other".to_vec());
        let outcomes = [
            looked.write(path, &content, &attributes, WriteOptions::default()),
            looked.make_dir(Path::new("/etc/d"), &attributes),
            looked.remove(path),
            looked.rename(path, Path::new("/etc/y")),
            looked.link(Path::new("/etc/l"), path, LinkKind::Symbolic),
            looked.set_attributes(path, &attributes, true),
            looked.change(&Command::new(["rm", "/etc/x"]), Intent::default()).map(|_| ()),
            looked.perform(Intent::default(), &mut || panic!("it must not act")).map(|_| ()),
            looked.scratch().map(|_| ()),
        ];
        for outcome in outcomes {
            let error = outcome.expect_err("refused");
            assert!(error.to_string().starts_with("this machine is only looked at"), "{error}");
        }
        assert_eq!(looked.read(path).expect("still there"), b"content");
        assert_eq!(looked.changes(), []);
        let found = looked.survey(&[path.into(), "/nowhere".into()]);
        assert!(found[0].as_ref().is_ok_and(|found| found.sha256.is_some()));
        assert_eq!(found[1].as_ref().expect("absent"), &Found::default());
    }
}
