//! A machine on which the n-th change goes wrong: for tests of what is left then.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::path::os_error;
use super::{
    Algorithm, Applied, Attributes, BlobRef, Change, Command, Content, Done, Group, Intent, LinkKind, Output,
    Result, Stat, System, User, WriteOptions,
};

/// How it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operating system refuses with this error number (`libc::ENOSPC`: the disk is full), now and
    /// from now on.
    Refuse(i32),
    /// The program is killed before the change: a panic with the message [`CUT`].
    CutBefore,
    /// The program is killed right after the change.
    CutAfter,
}

/// What a cut panics with.
pub const CUT: &str = "cut";

/// A machine with a fault.
#[derive(Debug)]
pub struct Faulty<S> {
    inner: S,
    at: usize,
    fault: Fault,
    calls: usize,
}

impl<S: System> Faulty<S> {
    /// The change number `at` (from 0) goes wrong.
    pub fn new(inner: S, at: usize, fault: Fault) -> Faulty<S> {
        Faulty { inner, at, fault, calls: 0 }
    }

    /// How many changes were tried so far. If that is no more than `at`, nothing went wrong.
    pub fn calls(&self) -> usize {
        self.calls
    }

    fn faulty<T>(
        &mut self,
        action: &'static str,
        path: &Path,
        operation: impl FnOnce(&mut S) -> Result<T>,
    ) -> Result<T> {
        let call = self.calls;
        self.calls += 1;
        match self.fault {
            Fault::Refuse(number) if call >= self.at => Err(os_error(action, path, number)),
            Fault::CutBefore if call == self.at => panic!("{CUT}"),
            Fault::CutAfter if call == self.at => {
                let _ = operation(&mut self.inner);
                panic!("{CUT}");
            }
            _ => operation(&mut self.inner),
        }
    }
}

impl<S: System> System for Faulty<S> {
    forward_reads!();

    fn write(
        &mut self,
        path: &Path,
        content: &Content,
        attributes: &Attributes,
        options: WriteOptions,
    ) -> Result<()> {
        self.faulty("write", path, |inner| inner.write(path, content, attributes, options))
    }

    fn make_dir(&mut self, path: &Path, attributes: &Attributes) -> Result<()> {
        self.faulty("make directory", path, |inner| inner.make_dir(path, attributes))
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        self.faulty("remove", path, |inner| inner.remove(path))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.faulty("rename", from, |inner| inner.rename(from, to))
    }

    fn link(&mut self, path: &Path, target: &Path, kind: LinkKind) -> Result<()> {
        self.faulty("link", path, |inner| inner.link(path, target, kind))
    }

    fn set_attributes(&mut self, path: &Path, attributes: &Attributes, follow: bool) -> Result<()> {
        self.faulty("set attributes of", path, |inner| inner.set_attributes(path, attributes, follow))
    }

    fn change(&mut self, command: &Command, intent: Intent) -> Result<Done> {
        let program = command.argv.first().map(PathBuf::from).unwrap_or_default();
        self.faulty("run", &program, |inner| inner.change(command, intent))
    }

    fn perform(&mut self, intent: Intent, act: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        let id = PathBuf::from(&intent.id);
        self.faulty("change", &id, |inner| inner.perform(intent, act))
    }

    fn scratch(&mut self) -> Result<PathBuf> {
        self.inner.scratch()
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
    use super::super::fake::Fake;
    use super::*;

    #[test]
    fn the_nth_change_goes_wrong() {
        let put = |system: &mut dyn System, path: &str| {
            let content = Content::Bytes(Vec::new());
            let outcome =
                system.write(Path::new(path), &content, &Attributes::default(), WriteOptions::default());
            outcome.map_err(|error| error.errno())
        };
        let mut fake = Fake::new();
        let mut full = Faulty::new(&mut fake, 1, Fault::Refuse(libc::ENOSPC));
        assert_eq!(put(&mut full, "/a"), Ok(()));
        assert_eq!(put(&mut full, "/b"), Err(Some(libc::ENOSPC)));
        assert_eq!(full.calls(), 2);
        for (fault, there) in [(Fault::CutBefore, false), (Fault::CutAfter, true)] {
            let mut fake = Fake::new();
            let mut cut = Faulty::new(&mut fake, 0, fault);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| put(&mut cut, "/a")));
            assert!(outcome.is_err());
            assert_eq!(fake.text("/a").is_some(), there, "{fault:?}");
        }
    }
}
