//! Resolves symbolic links over any view of a file system.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::{Result, SystemError};

/// How many links one path may go through, as in the kernel.
const MAX_LINKS: usize = 40;

/// What a view has at a path whose parents are already resolved.
pub(crate) enum Step {
    /// Nothing.
    Missing,
    /// A symbolic link to this target.
    Link(PathBuf),
    /// Anything else.
    Other,
}

/// The absolute path with all symbolic links resolved, the last component's only if `follow`. Parts that do
/// not exist are kept as they are.
pub(crate) fn walk(
    start: &Path,
    path: &Path,
    follow: bool,
    look: &mut dyn FnMut(&Path) -> Result<Step>,
) -> Result<PathBuf> {
    let mut pending: VecDeque<OsString> = VecDeque::new();
    let mut out = if path.is_absolute() { PathBuf::from("/") } else { start.to_path_buf() };
    push_front(&mut pending, path);
    let mut links = 0;
    while let Some(part) = pending.pop_front() {
        if part == ".." {
            out.pop();
            continue;
        }
        let candidate = out.join(&part);
        if pending.is_empty() && !follow {
            return Ok(candidate);
        }
        match look(&candidate)? {
            Step::Link(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(os_error("resolve", path, libc::ELOOP));
                }
                if target.is_absolute() {
                    out = PathBuf::from("/");
                }
                push_front(&mut pending, &target);
            }
            Step::Missing | Step::Other => out = candidate,
        }
    }
    Ok(out)
}

fn push_front(pending: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(part) => pending.push_front(part.to_os_string()),
            Component::ParentDir => pending.push_front("..".into()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
}

/// An error of the operating system by its number.
pub(crate) fn os_error(action: &'static str, path: &Path, number: i32) -> SystemError {
    SystemError::Io { action, path: path.to_path_buf(), source: std::io::Error::from_raw_os_error(number) }
}
