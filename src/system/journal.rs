//! A real run: changes are made and noted, and what was there before is kept.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::change::{self, Focus, Ledger};
use super::prior::Store;
use super::{
    Algorithm, Applied, Attributes, BlobRef, Change, Command, Content, Done, Group, Intent, LinkKind, Output,
    Result, Stat, System, User, WriteOptions,
};

/// A machine on which each change is noted.
#[derive(Debug)]
pub struct Journal<S> {
    inner: S,
    ledger: Ledger,
    scratch: Option<PathBuf>,
    store: Option<Store>,
}

impl<S: System> Journal<S> {
    /// Nothing changed yet.
    pub fn new(inner: S) -> Journal<S> {
        Journal { inner, ledger: Ledger::default(), scratch: None, store: None }
    }

    /// Keep texts for diffs.
    #[must_use]
    pub fn with_diff(mut self, diff: bool) -> Journal<S> {
        self.ledger.diff = diff;
        self
    }

    /// Keep prior states, so that what is changed can be rolled back.
    #[must_use]
    pub fn keeping(mut self, store: Option<Store>) -> Journal<S> {
        self.store = store;
        self
    }

    /// The store, for the next task.
    pub fn take_store(&mut self) -> Option<Store> {
        self.store.take()
    }

    /// The machine below.
    pub fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// What was changed since the last call, and what was found right.
    pub fn take(&mut self) -> (Vec<Change>, Vec<Applied>) {
        self.ledger.take()
    }

    fn in_scratch(&self, path: &Path) -> bool {
        self.scratch.as_ref().is_some_and(|scratch| path.starts_with(scratch))
    }

    fn watched(
        &mut self,
        path: &Path,
        focus: Focus,
        digest: Option<String>,
        operation: impl FnOnce(&mut S) -> Result<()>,
    ) -> Result<()> {
        if self.in_scratch(path) {
            return operation(&mut self.inner);
        }
        let focus = Focus { diff: self.ledger.diff && !focus.secret, ..focus };
        if let Some(store) = &mut self.store {
            store.keep(&mut self.inner, path, !focus.same_content)?;
        }
        let known = digest.clone();
        change::watched(
            self,
            path,
            focus,
            digest,
            |journal| &mut journal.ledger,
            |journal| operation(&mut journal.inner),
        )?;
        match &mut self.store {
            Some(store) => store.made(&mut self.inner, path, known),
            None => Ok(()),
        }
    }
}

impl<S: System> System for Journal<S> {
    forward_reads!();

    fn write(
        &mut self,
        path: &Path,
        content: &Content,
        attributes: &Attributes,
        options: WriteOptions,
    ) -> Result<()> {
        let digest = change::known_digest(content);
        let focus = Focus { secret: options.secret, ..Focus::on(attributes) };
        self.watched(path, focus, digest, |inner| inner.write(path, content, attributes, options))
    }

    fn make_dir(&mut self, path: &Path, attributes: &Attributes) -> Result<()> {
        self.watched(path, Focus::on(attributes), None, |inner| inner.make_dir(path, attributes))
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        let focus = Focus { listing: true, ..Focus::default() };
        self.watched(path, focus, None, |inner| inner.remove(path))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        if self.in_scratch(from) && self.in_scratch(to) {
            return self.inner.rename(from, to);
        }
        let focus = Focus { diff: self.ledger.diff, ..Focus::default() };
        let moved = change::look(self, from, &focus)?;
        let replaced = change::look(self, to, &focus)?;
        if let Some(store) = &mut self.store {
            // Taken back in reverse: first what was at `to`, then `from` again.
            store.keep(&mut self.inner, from, true)?;
            store.keep(&mut self.inner, to, true)?;
        }
        self.inner.rename(from, to)?;
        if let Some(store) = &mut self.store {
            store.made(&mut self.inner, from, None)?;
            store.made(&mut self.inner, to, None)?;
        }
        self.ledger.renamed(from, to, moved, replaced);
        Ok(())
    }

    fn link(&mut self, path: &Path, target: &Path, kind: LinkKind) -> Result<()> {
        self.watched(path, Focus::default(), None, |inner| inner.link(path, target, kind))
    }

    fn set_attributes(&mut self, path: &Path, attributes: &Attributes, follow: bool) -> Result<()> {
        let path = change::target(self, path, follow)?;
        let focus = Focus { same_content: true, ..Focus::on(attributes) };
        self.watched(&path, focus, None, |inner| inner.set_attributes(&path, attributes, follow))
    }

    fn change(&mut self, command: &Command, intent: Intent) -> Result<Done> {
        let before = match &mut self.store {
            Some(store) => store.before_command(&mut self.inner, &intent, Some(command))?,
            None => None,
        };
        let outcome = self.inner.change(command, intent.clone());
        if let Some(store) = &mut self.store {
            store.after_command(&mut self.inner, &intent.id, before)?;
        }
        // Also when it failed half-way: it ran. Not if it could not be started.
        if !matches!(outcome, Err(super::SystemError::Start { .. })) {
            self.ledger.intent(&intent);
        }
        outcome
    }

    fn perform(&mut self, intent: Intent, act: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        if let Some(store) = &mut self.store {
            store.before_command(&mut self.inner, &intent, None)?;
        }
        let made = self.inner.perform(intent.clone(), act)?;
        self.ledger.intent(&intent);
        Ok(made)
    }

    fn scratch(&mut self) -> Result<PathBuf> {
        let scratch = self.inner.scratch()?;
        self.scratch = Some(scratch.clone());
        Ok(scratch)
    }

    fn spool(&mut self, name: &str, content: &mut dyn Read) -> Result<PathBuf> {
        self.scratch()?;
        self.inner.spool(name, content)
    }

    fn applied(&mut self, applied: Applied) {
        self.ledger.applied.push(applied);
    }

    fn uncertain(&self) -> Option<String> {
        self.inner.uncertain()
    }

    fn changes(&self) -> &[Change] {
        &self.ledger.changes
    }
}
