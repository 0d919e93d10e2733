//! Large contents whose transfer was cut off: what had come is kept for the next run, which asks for the rest.
//!
//! A part is known by the digest of the whole and proves nothing: it is checked with the rest when all is there.
//! Whoever takes a part removes it, so that one that is no good is not met twice.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD};

use super::BlobRef;

/// Less than this is sent again, in bytes.
pub const WORTH_KEEPING: u64 = 4 << 20;

/// How long a part waits for its rest.
const STALE: Duration = Duration::from_secs(3 * 24 * 3600);

/// Where parts are kept: a directory that nobody else can enter.
#[derive(Clone, Debug)]
pub struct Parts(PathBuf);

impl Parts {
    /// In this directory.
    pub fn new(directory: PathBuf) -> Parts {
        Parts(directory)
    }

    fn path(&self, blob: &BlobRef) -> Option<PathBuf> {
        // It becomes a file's name.
        let plain = !blob.sha256.is_empty() && blob.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| self.0.join(format!("part-{}", blob.sha256)))
    }

    /// What there is of a content, and its size in bytes.
    pub fn take(&self, blob: &BlobRef) -> Option<(File, u64)> {
        if blob.size < WORTH_KEEPING {
            return None;
        }
        let path = self.path(blob)?;
        let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&path).ok()?;
        fs::remove_file(&path).ok()?;
        let size = file.metadata().ok()?.len();
        (size > 0 && size < blob.size).then_some((file, size))
    }

    /// Keeps the beginning of a content, which is all that `file` holds. Where the directory is on another
    /// file system it is not kept.
    pub fn keep(&self, blob: &BlobRef, file: &File) {
        let Some(path) = self.path(blob) else { return };
        let _ = fs::remove_file(&path);
        let own = format!("/proc/self/fd/{}", file.as_raw_fd());
        // What can't be kept is sent again.
        let _ = rustix::fs::linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW);
    }

    /// Removes parts that nobody came back for.
    pub fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.0) else { return };
        for entry in entries.flatten() {
            let is_part = entry.file_name().to_str().is_some_and(|name| name.starts_with("part-"));
            let age = entry.metadata().and_then(|found| found.modified()).ok();
            let is_stale = age.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > STALE);
            if is_part && is_stale {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
