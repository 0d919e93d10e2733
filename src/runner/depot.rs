//! Content from the controller, and files to it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use crate::protocol::{CHUNK, ToController, frame};
use crate::system::BlobRef;
use crate::system::local::Depot;

use super::Shared;

/// Content up to this size is kept, in case another task wants it too, in bytes.
const KEPT: u64 = 1 << 20;

/// How much is kept in all, in bytes.
const KEPT_IN_ALL: usize = 16 << 20;

/// A piece of content that came.
pub(super) enum Chunk {
    /// The next bytes.
    Part {
        /// Of which content.
        sha256: String,
        /// Compressed.
        deflated: Vec<u8>,
        /// There is no more.
        last: bool,
    },
    /// It can't be had.
    Lost {
        /// Which content.
        sha256: String,
        /// Why.
        reason: String,
    },
}

/// The way to the controller.
pub(super) struct Wire {
    shared: Arc<Shared>,
    chunks: Receiver<Chunk>,
    kept: VecDeque<(String, Vec<u8>)>,
}

impl Wire {
    pub(super) fn new(shared: Arc<Shared>, chunks: Receiver<Chunk>) -> Wire {
        Wire { shared, chunks, kept: VecDeque::new() }
    }

    fn keep(&mut self, sha256: String, bytes: Vec<u8>) {
        self.kept.push_back((sha256, bytes));
        let mut size: usize = self.kept.iter().map(|(_, bytes)| bytes.len()).sum();
        while size > KEPT_IN_ALL
            && let Some((_, oldest)) = self.kept.pop_front()
        {
            size -= oldest.len();
        }
    }
}

impl Depot for Wire {
    fn fetch(&mut self, blob: &BlobRef, sink: &mut dyn Write) -> io::Result<()> {
        if let Some((_, bytes)) = self.kept.iter().find(|(sha256, _)| *sha256 == blob.sha256) {
            return sink.write_all(bytes);
        }
        self.shared.send(&ToController::NeedBlob(blob.clone())).map_err(io::Error::other)?;
        let mut copy = (blob.size <= KEPT).then(Vec::new);
        let mut failed = None;
        loop {
            let chunk = self.chunks.recv().map_err(|_| io::Error::other("the controller is gone"))?;
            match chunk {
                Chunk::Lost { sha256, reason } if sha256 == blob.sha256 => {
                    return Err(io::Error::other(reason));
                }
                Chunk::Part { sha256, deflated, last } if sha256 == blob.sha256 => {
                    if failed.is_none() {
                        let taken = frame::inflate(&deflated, CHUNK).map_err(io::Error::other);
                        let taken = taken.and_then(|bytes| {
                            if let Some(copy) = &mut copy {
                                copy.extend_from_slice(&bytes);
                            }
                            sink.write_all(&bytes)
                        });
                        // The rest is on its way all the same and must not be taken for something else.
                        failed = taken.err();
                    }
                    if last {
                        break;
                    }
                }
                Chunk::Part { .. } | Chunk::Lost { .. } => {}
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some(copy) = copy {
            self.keep(blob.sha256.clone(), copy);
        }
        Ok(())
    }

    fn send(&mut self, name: &str, content: &mut dyn Read) -> io::Result<()> {
        let (batch, task) = self.shared.current();
        loop {
            let mut bytes = Vec::with_capacity(CHUNK);
            content.take(CHUNK as u64).read_to_end(&mut bytes)?;
            let last = bytes.len() < CHUNK;
            let message =
                ToController::File { batch, task, name: name.into(), deflated: frame::deflate(&bytes), last };
            self.shared.send(&message).map_err(io::Error::other)?;
            if last {
                return Ok(());
            }
        }
    }
}
