//! Content that the controller holds for hosts: small texts in memory, files by path. Each is known by its
//! sha256 and travels only to a host that lacks it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::SystemTime;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::session::Blobs;
use crate::system::BlobRef;

#[derive(Clone)]
enum Source {
    Memory(Arc<[u8]>),
    File(PathBuf),
}

type Stamp = (u64, Option<SystemTime>);

/// All content of a run.
#[derive(Default)]
pub struct BlobStore {
    sources: RwLock<HashMap<String, Source>>,
    /// Digests of files by path, size and time, so that a file for a thousand hosts is read once.
    files: RwLock<HashMap<PathBuf, (Stamp, BlobRef)>>,
    /// The sha1 of contents, by their sha256: what modules return, which hosts need not compute.
    sha1s: RwLock<HashMap<String, String>>,
}

/// Files from this size on are digested by two algorithms at once, in bytes.
const PARALLEL: u64 = 4 << 20;

impl BlobStore {
    /// Holds a text or other small content.
    pub fn bytes(&self, content: &[u8]) -> BlobRef {
        let blob = BlobRef { sha256: hex(&Sha256::digest(content)), size: content.len() as u64 };
        let mut sources = self.sources.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        sources.entry(blob.sha256.clone()).or_insert_with(|| Source::Memory(content.into()));
        blob
    }

    /// The sha1 of content that is held.
    ///
    /// # Errors
    /// If it can't be read any more.
    pub fn sha1(&self, blob: &BlobRef) -> io::Result<String> {
        let known =
            self.sha1s.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&blob.sha256).cloned();
        if let Some(sha1) = known {
            return Ok(sha1);
        }
        let mut digest = Sha1::new();
        io::copy(&mut self.open(&blob.sha256, 0)?, &mut digest)?;
        let sha1 = hex(&digest.finalize());
        self.keep_sha1(blob, &sha1);
        Ok(sha1)
    }

    fn keep_sha1(&self, blob: &BlobRef, sha1: &str) {
        let mut sha1s = self.sha1s.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        sha1s.insert(blob.sha256.clone(), sha1.to_string());
    }

    /// Holds a file by its path.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn file(&self, path: &Path) -> io::Result<BlobRef> {
        let metadata = std::fs::metadata(path)?;
        let stamp = (metadata.len(), metadata.modified().ok());
        if let Some((known, blob)) =
            self.files.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(path)
            && *known == stamp
        {
            return Ok(blob.clone());
        }
        let (sha256, sha1) = if metadata.len() >= PARALLEL {
            rayon::join(|| digest_file::<Sha256>(path), || digest_file::<Sha1>(path).map(Some))
        } else {
            (digest_file::<Sha256>(path), Ok(None))
        };
        let (sha256, size) = sha256?;
        let blob = BlobRef { sha256, size };
        if let Some((sha1, _)) = sha1? {
            self.keep_sha1(&blob, &sha1);
        }
        self.sources
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(blob.sha256.clone(), Source::File(path.to_path_buf()));
        self.files
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(path.to_path_buf(), (stamp, blob.clone()));
        Ok(blob)
    }
}

impl Blobs for BlobStore {
    fn open(&self, sha256: &str, from: u64) -> io::Result<Box<dyn Read + Send>> {
        let source =
            self.sources.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(sha256).cloned();
        match source {
            Some(Source::Memory(bytes)) => {
                let mut content = Cursor::new(bytes);
                content.set_position(from);
                Ok(Box::new(content))
            }
            Some(Source::File(path)) => {
                let mut content = File::open(path)?;
                content.seek(SeekFrom::Start(from))?;
                Ok(Box::new(content))
            }
            None => Err(io::Error::new(io::ErrorKind::NotFound, "content that no task mentioned")),
        }
    }
}

/// A file's digest and size.
fn digest_file<D: Digest + io::Write>(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut digest = D::new();
    let mut block = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        match file.read(&mut block)? {
            0 => return Ok((hex(&digest.finalize()), size)),
            count => {
                Digest::update(&mut digest, &block[..count]);
                size += count as u64;
            }
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_only_when_it_has_changed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("f");
        std::fs::write(&path, b"one").expect("write");
        let store = BlobStore::default();
        let first = store.file(&path).expect("digest");
        assert_eq!(first, store.file(&path).expect("digest"));
        std::fs::write(&path, b"other").expect("write");
        let second = store.file(&path).expect("digest");
        assert_ne!(first.sha256, second.sha256);
        let mut content = Vec::new();
        store.open(&second.sha256, 0).expect("open").read_to_end(&mut content).expect("read");
        assert_eq!(content, b"other");
        assert_eq!(store.sha1(&second).expect("held"), "d0941e68da8f38151ff86a61fc59f7c5cf9fcaa2");
        let mut content = Vec::new();
        store.open(&second.sha256, 3).expect("open").read_to_end(&mut content).expect("read");
        assert_eq!(content, b"er", "the rest of it");
        assert!(store.open("nothing", 0).is_err());
    }
}
