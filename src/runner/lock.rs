//! The lock that runs which change a host take, so that two operators do not interleave.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

/// How often the lock is tried while somebody else holds it.
const INTERVAL: Duration = Duration::from_millis(200);

/// Held until it is dropped. Empty where there is no place for a lock, or another runner of the same run
/// holds it.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its Drop")] Option<File>);

/// Where the lock is: in a directory in which nobody else can put anything.
fn place(home: &Path) -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some("/run/setpoint.lock".into());
    }
    let directory = home.join(".cache/setpoint");
    let found = std::fs::symlink_metadata(&directory).ok()?;
    let private =
        found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0;
    private.then(|| directory.join("lock"))
}

/// Takes the lock, unless nobody is named who would hold it. While somebody else holds it, `waiting` is called with the holder (once) and then with
/// `None`, until it returns false.
pub(super) fn take(
    home: &Path,
    run: &str,
    operator: &str,
    waiting: &mut dyn FnMut(Option<&str>) -> bool,
) -> Option<Lock> {
    if operator.is_empty() {
        return Some(Lock(None));
    }
    let Some(place) = place(home) else { return Some(Lock(None)) };
    take_at(&place, run, operator, waiting)
}

fn take_at(
    place: &Path,
    run: &str,
    operator: &str,
    waiting: &mut dyn FnMut(Option<&str>) -> bool,
) -> Option<Lock> {
    let opened = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(place);
    // A machine without the place (or with a read-only one) can still be worked on.
    let Ok(mut file) = opened else { return Some(Lock(None)) };
    let mut told = false;
    while rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut text = String::new();
        let _ = file.rewind();
        let _ = Read::by_ref(&mut file).take(4096).read_to_string(&mut text);
        let (holding_run, holder) = text.split_once('\n').unwrap_or(("", "somebody"));
        if holding_run == run && !run.is_empty() {
            return Some(Lock(None));
        }
        let go_on = if told { waiting(None) } else { waiting(Some(holder.trim())) };
        told = true;
        if !go_on {
            return None;
        }
        std::thread::sleep(INTERVAL);
    }
    let _ = file.set_len(0);
    let _ = file.rewind();
    let _ = write!(file, "{run}\n{operator}\n");
    Some(Lock(Some(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_run_waits_and_its_own_runners_do_not() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("lock");
        let never = &mut |_: Option<&str>| panic!("nobody holds it");
        let first = take_at(&path, "run-1", "ann@desk", never).expect("free");
        let same = take_at(&path, "run-1", "ann@desk", never).expect("of the same run");
        drop(same);
        let mut told = Vec::new();
        let refused = take_at(&path, "run-2", "bob@desk", &mut |holder| {
            told.push(holder.map(String::from));
            told.len() < 3
        });
        assert!(refused.is_none());
        assert_eq!(told, [Some("ann@desk".to_string()), None, None]);
        drop(first);
        // A child of another test, between fork and exec, may still have it.
        assert!(take_at(&path, "run-2", "bob@desk", &mut |_| true).is_some());
    }
}
