//! Where a host stands in a play: a path through lists, blocks and includes. Cheap to copy, so that the
//! engine can walk ahead on a copy.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::playbook::{Block, Item, Role, Task};

/// Orders tasks as lockstep does: by place in the play, included tasks at the place of their include.
pub type Position = Vec<u32>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Main,
    Rescue,
    Always,
}

#[derive(Clone, Debug)]
enum Frame {
    /// A list of items; `ordinals` replaces the index in positions, where groups of an include are ordered
    /// over several hosts.
    List { items: Arc<[Item]>, index: usize, ordinals: Option<Arc<[u32]>> },
    /// A block, in one of its sections.
    Block {
        block: Arc<Block>,
        section: Section,
        index: usize,
        /// The block failed, and nothing has taken the failure yet.
        failed: bool,
        /// Some task of it was not skipped (completes a role).
        ran: bool,
    },
    /// Notified handlers, in definition order.
    Handlers { handlers: Arc<[Arc<Task>]>, index: usize },
}

/// A host's place in a play.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    frames: Vec<Frame>,
    /// Indices of the handlers that were notified and have not run.
    pub notified: BTreeSet<usize>,
    /// Indices of those that an earlier run has left: they run at the end of the play, when all that its roles
    /// define is there.
    pub owed: BTreeSet<usize>,
    /// Roles that were completed on this host in this play, by [`Role::dedup_key`].
    pub completed: BTreeSet<Arc<str>>,
    /// A failure that an `always` let pass was taken by nobody: the place is at its end because of it.
    pub dead: bool,
}

/// What failing led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A `rescue` takes over.
    Rescued,
    /// An `always` runs; the host has failed unless something above rescues it.
    Always,
    /// Nothing is left to do for this host in this play.
    Dead,
}

impl Cursor {
    /// At the start of a list of items.
    pub fn new(items: Arc<[Item]>) -> Cursor {
        Cursor { frames: vec![Frame::List { items, index: 0, ordinals: None }], ..Cursor::default() }
    }

    /// At the notified handlers, with nothing after them: what is left for a host that failed where handlers
    /// are forced.
    pub fn only_handlers(handlers: Arc<[Arc<Task>]>, notified: BTreeSet<usize>) -> Cursor {
        Cursor { frames: vec![Frame::Handlers { handlers, index: 0 }], notified, ..Cursor::default() }
    }

    /// The next task, with its position; `None` at the end.
    pub fn peek(&mut self) -> Option<(Arc<Task>, Position)> {
        loop {
            let item = match self.frames.last_mut()? {
                Frame::List { items, index, .. } => items.get(*index).cloned(),
                Frame::Block { block, section, index, .. } => {
                    section_items(block, *section).get(*index).cloned()
                }
                Frame::Handlers { handlers, index } => {
                    let next = self.notified.range(*index..).next().copied();
                    match next {
                        Some(next) => {
                            *index = next;
                            handlers.get(next).cloned().map(Item::Task)
                        }
                        None => None,
                    }
                }
            };
            match item {
                Some(Item::Task(task)) => return Some((task, self.position())),
                Some(Item::Block(block)) => {
                    if let Some(role) = &block.role
                        && self.is_completed(role)
                    {
                        self.step();
                        continue;
                    }
                    self.frames.push(Frame::Block {
                        block,
                        section: Section::Main,
                        index: 0,
                        failed: false,
                        ran: false,
                    });
                }
                None => {
                    if !self.leave() {
                        return None;
                    }
                }
            }
        }
    }

    fn is_completed(&self, role: &Role) -> bool {
        !role.allow_duplicates && self.completed.contains(role.dedup_key.as_str())
    }

    /// Ends the current frame; false at the end of the play (or of what is left after a failure).
    fn leave(&mut self) -> bool {
        match self.frames.last_mut() {
            None => false,
            Some(Frame::Block { block, section, index, failed, ran }) => match section {
                Section::Main | Section::Rescue if !block.always.is_empty() => {
                    *section = Section::Always;
                    *index = 0;
                    true
                }
                _ if *failed => {
                    self.frames.pop();
                    self.dead = self.unwind() == Fate::Dead;
                    !self.dead
                }
                _ => {
                    let done = block.role.clone().filter(|_| *ran);
                    let ran = *ran;
                    self.frames.pop();
                    if let Some(role) = done {
                        self.completed.insert(role.dedup_key.as_str().into());
                    }
                    if ran {
                        self.mark_ran();
                    }
                    self.step();
                    true
                }
            },
            Some(_) => {
                self.frames.pop();
                if self.frames.is_empty() {
                    return false;
                }
                self.step();
                true
            }
        }
    }

    fn step(&mut self) {
        match self.frames.last_mut() {
            Some(Frame::List { index, .. } | Frame::Block { index, .. }) => *index += 1,
            // The frame below a handler's own frames: that handler is done.
            Some(Frame::Handlers { index, .. }) => *index += 1,
            None => {}
        }
    }

    fn mark_ran(&mut self) {
        for frame in self.frames.iter_mut().rev() {
            if let Frame::Block { ran, .. } = frame {
                *ran = true;
                break;
            }
        }
    }

    /// Goes past the task that [`Cursor::peek`] gave. `ran`: it was not skipped.
    pub fn advance(&mut self, ran: bool) {
        if ran {
            self.mark_ran();
        }
        self.forget_handler();
        self.step();
    }

    /// A handler that begins is no longer notified.
    fn forget_handler(&mut self) {
        if let Some(Frame::Handlers { index, .. }) = self.frames.last() {
            self.notified.remove(index);
            self.owed.remove(index);
        }
    }

    /// The task that [`Cursor::peek`] gave failed.
    pub fn fail(&mut self) -> Fate {
        self.mark_ran();
        self.forget_handler();
        self.unwind()
    }

    fn unwind(&mut self) -> Fate {
        while let Some(frame) = self.frames.last_mut() {
            if let Frame::Block { block, section, index, failed, .. } = frame {
                match section {
                    Section::Main if !block.rescue.is_empty() => {
                        *section = Section::Rescue;
                        *index = 0;
                        return Fate::Rescued;
                    }
                    Section::Main | Section::Rescue if !block.always.is_empty() => {
                        *section = Section::Always;
                        *index = 0;
                        *failed = true;
                        return Fate::Always;
                    }
                    _ => {}
                }
            }
            self.frames.pop();
        }
        Fate::Dead
    }

    /// Whether a failure now would be taken by a `rescue`.
    pub fn would_rescue(&self) -> bool {
        self.frames.iter().any(|frame| {
            matches!(frame, Frame::Block { block, section: Section::Main, .. } if !block.rescue.is_empty())
        })
    }

    /// Puts tasks at the place of the task that [`Cursor::peek`] gave (an include), which is done.
    /// `ordinals` order the items among those that other hosts got from the same include.
    pub fn include(&mut self, items: Arc<[Item]>, ordinals: Option<Arc<[u32]>>) {
        self.mark_ran();
        self.forget_handler();
        self.frames.push(Frame::List { items, index: 0, ordinals });
    }

    /// Notifies, at the last place of the play, the handlers that are owed; whether any handler is to run here.
    pub fn due(&mut self) -> bool {
        let is_last =
            matches!(self.frames.as_slice(), [Frame::List { items, index, .. }] if index + 1 == items.len());
        if is_last {
            self.notified.append(&mut self.owed);
        }
        !self.notified.is_empty()
    }

    /// Runs the notified handlers at the place of the task that [`Cursor::peek`] gave (a flush), which is done.
    pub fn flush(&mut self, handlers: Arc<[Arc<Task>]>) {
        self.frames.push(Frame::Handlers { handlers, index: 0 });
    }

    /// Ends the innermost role that this place is in; false if it is in none.
    pub fn end_role(&mut self) -> bool {
        let Some(at) = self
            .frames
            .iter()
            .rposition(|frame| matches!(frame, Frame::Block { block, .. } if block.role.is_some()))
        else {
            return false;
        };
        self.frames.truncate(at);
        self.step();
        true
    }

    /// Forgets failures that nothing has taken yet: after an `always` the host goes on.
    pub fn forgive(&mut self) {
        for frame in &mut self.frames {
            if let Frame::Block { failed, .. } = frame {
                *failed = false;
            }
        }
    }

    /// It is among handlers.
    pub fn in_handlers(&self) -> bool {
        self.frames.iter().any(|frame| matches!(frame, Frame::Handlers { .. }))
    }

    fn position(&self) -> Position {
        let mut position = Vec::with_capacity(self.frames.len() * 2);
        for frame in &self.frames {
            match frame {
                Frame::List { index, ordinals, .. } => {
                    let ordinal = ordinals.as_ref().and_then(|ordinals| ordinals.get(*index).copied());
                    position.push(ordinal.unwrap_or(*index as u32));
                }
                Frame::Block { section, index, .. } => {
                    position.push(*section as u32);
                    position.push(*index as u32);
                }
                Frame::Handlers { index, .. } => position.push(*index as u32),
            }
        }
        position
    }
}

fn section_items(block: &Block, section: Section) -> &[Item] {
    match section {
        Section::Main => &block.block,
        Section::Rescue => &block.rescue,
        Section::Always => &block.always,
    }
}
