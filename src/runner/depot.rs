//! Content from the controller, and files to it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use crate::protocol::{CHUNK, Need, Piece, ToController};
use crate::system::BlobRef;
use crate::system::local::{self, Depot};
use crate::system::parts::Parts;

use super::Shared;

/// Content up to this size is kept, in case another task wants it too, in bytes.
const KEPT: u64 = 1 << 20;

/// How much is kept in all, in bytes.
const KEPT_IN_ALL: usize = 16 << 20;

/// A piece of content that came.
pub(super) enum Chunk {
    /// The next bytes.
    Part(Piece),
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
    kept: HashMap<String, Vec<u8>>,
    /// The digests of what is kept, the oldest first.
    order: VecDeque<String>,
    kept_size: usize,
    /// What was asked for and has not come whole.
    asked: VecDeque<Asked>,
    /// Where parts are that earlier runs got, if anywhere.
    parts: Option<Parts>,
}

/// Content that was asked for.
struct Asked {
    blob: BlobRef,
    /// Its beginning, if an earlier run got that, and the size of it.
    have: Option<(File, u64)>,
}

impl Wire {
    pub(super) fn new(shared: Arc<Shared>, chunks: Receiver<Chunk>, parts: Option<Parts>) -> Wire {
        Wire {
            shared,
            chunks,
            kept: HashMap::new(),
            order: VecDeque::new(),
            kept_size: 0,
            asked: VecDeque::new(),
            parts,
        }
    }

    fn keep(&mut self, sha256: String, bytes: Vec<u8>) {
        self.kept_size += bytes.len();
        self.order.push_back(sha256.clone());
        self.kept.insert(sha256, bytes);
        while self.kept_size > KEPT_IN_ALL
            && let Some(oldest) = self.order.pop_front()
        {
            self.kept_size -= self.kept.remove(&oldest).map_or(0, |bytes| bytes.len());
        }
    }
}

impl Wire {
    fn ask(&mut self, blobs: Vec<BlobRef>) -> io::Result<()> {
        let mut needs = Vec::with_capacity(blobs.len());
        for blob in blobs {
            let have = self.parts.as_ref().and_then(|parts| parts.take(&blob));
            needs.push(Need { blob: blob.clone(), from: have.as_ref().map_or(0, |(_, size)| *size) });
            self.asked.push_back(Asked { blob, have });
        }
        self.shared.send(&ToController::NeedBlobs(needs)).map_err(io::Error::other)
    }

    fn is_asked(&self, blob: &BlobRef) -> bool {
        self.asked.iter().any(|asked| asked.blob == *blob)
    }

    /// Takes in the content that comes next. The inner error is about this content alone.
    fn receive(&mut self, asked: Asked, sink: Option<&mut dyn Write>) -> io::Result<io::Result<()>> {
        let Asked { blob, have } = asked;
        let mut copy = (blob.size <= KEPT).then(Vec::new);
        let mut sink = sink;
        let mut failed = None;
        if let (Some((part, size)), Some(sink)) = (have, &mut sink) {
            let mut part = BufReader::with_capacity(CHUNK, part.take(size));
            failed = io::copy(&mut part, sink).err();
        }
        loop {
            let chunk = self.chunks.recv().map_err(|_| local::gone())?;
            match chunk {
                Chunk::Lost { sha256, reason } if sha256 == blob.sha256 => {
                    return Ok(Err(io::Error::other(reason)));
                }
                Chunk::Part(Piece { sha256, bytes, last }) if sha256 == blob.sha256 => {
                    if let Some(copy) = &mut copy {
                        copy.extend_from_slice(&bytes);
                    }
                    if failed.is_none()
                        && let Some(sink) = &mut sink
                    {
                        // The rest is on its way all the same and must not be taken for something else.
                        failed = sink.write_all(&bytes).err();
                    }
                    if last {
                        break;
                    }
                }
                Chunk::Part(_) | Chunk::Lost { .. } => {
                    return Err(io::Error::other("the controller sent what was not asked for"));
                }
            }
        }
        if let Some(copy) = copy {
            self.keep(blob.sha256.clone(), copy);
        }
        Ok(failed.map_or(Ok(()), Err))
    }
}

impl Depot for Wire {
    fn prefetch(&mut self, blobs: &[BlobRef]) -> io::Result<()> {
        let mut wanted: Vec<BlobRef> = Vec::new();
        let mut seen: HashSet<&str> = HashSet::new();
        for blob in blobs {
            // What is too large to be kept is sent as often as it is used.
            let once =
                blob.size > KEPT || (!self.kept.contains_key(&blob.sha256) && seen.insert(&blob.sha256));
            if once && !self.is_asked(blob) {
                wanted.push(blob.clone());
            }
        }
        if wanted.is_empty() { Ok(()) } else { self.ask(wanted) }
    }

    fn fetch(&mut self, blob: &BlobRef, sink: &mut dyn Write) -> io::Result<()> {
        if let Some(bytes) = self.kept.get(&blob.sha256) {
            return sink.write_all(bytes);
        }
        if !self.is_asked(blob) {
            self.ask(vec![blob.clone()])?;
        }
        // What was asked for earlier comes first.
        while let Some(next) = self.asked.pop_front() {
            if next.blob == *blob {
                return self.receive(next, Some(sink))?;
            }
            let _ = self.receive(next, None)?;
        }
        Err(io::Error::other("it was not asked for"))
    }

    fn settle(&mut self) {
        if self.asked.is_empty() || self.shared.send(&ToController::Enough).is_err() {
            return;
        }
        while let Some(next) = self.asked.pop_front() {
            if self.receive(next, None).is_err() {
                return;
            }
        }
    }

    fn send(&mut self, name: &str, content: &mut dyn Read) -> io::Result<()> {
        let (batch, task) = self.shared.current();
        loop {
            let mut bytes = Vec::with_capacity(CHUNK);
            content.take(CHUNK as u64).read_to_end(&mut bytes)?;
            let last = bytes.len() < CHUNK;
            let message = ToController::File { batch, task, name: name.into(), bytes, last };
            self.shared.send(&message).map_err(io::Error::other)?;
            if last {
                return Ok(());
            }
        }
    }
}
