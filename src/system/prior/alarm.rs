//! Whether anything in certain directories was touched, as the kernel tells (inotify): looking at every file after
//! each command costs more than most commands.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// Where the kernel tells what is mounted where.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Everything that may change what is kept of a file or directory.
const TOUCHED: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// Listens to directories.
#[derive(Debug)]
pub(super) struct Alarm {
    /// `None` once a directory could not be listened to: then anything may have happened.
    notices: Option<OwnedFd>,
}

impl Alarm {
    /// Listens to nothing yet, but to files below `places` that are mounted there one by one, as containers have
    /// them: what happens to such a file is not told to those who listen to its directory.
    pub(super) fn new(places: &[PathBuf]) -> Alarm {
        let mut alarm = Alarm { notices: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok() };
        let Ok(mounts) = std::fs::read(MOUNTS) else { return Alarm { notices: None } };
        for path in mount_points(&mounts).filter(|path| places.iter().any(|place| path.starts_with(place))) {
            alarm.listen(&path, WatchFlags::empty());
        }
        alarm
    }

    /// Listens to a directory from now on. What is in it has to be looked at afterwards.
    pub(super) fn listen_to(&mut self, directory: &Path) {
        self.listen(directory, WatchFlags::ONLYDIR);
    }

    fn listen(&mut self, path: &Path, more: WatchFlags) {
        let Some(notices) = &self.notices else { return };
        match inotify::add_watch(notices, path, TOUCHED | WatchFlags::DONT_FOLLOW | more) {
            // What has gone meanwhile rang where it was.
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            // The machine's limit, most likely.
            Err(_) => self.notices = None,
        }
    }

    /// Whether anything may have been touched since this was asked last.
    pub(super) fn rang(&self) -> bool {
        let Some(notices) = &self.notices else { return true };
        let mut rang = false;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 16 << 10];
        loop {
            match rustix::io::read(notices, &mut buffer) {
                Ok((read, _)) if !read.is_empty() => rang = true,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return rang,
                _ => return true,
            }
        }
    }
}

/// The paths where something is mounted; a file's format is told by proc_pid_mountinfo(5).
fn mount_points(mounts: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    mounts.split(|byte| *byte == b'\n').filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        let mut path = Vec::with_capacity(field.len());
        let mut rest = field;
        while let Some((&byte, after)) = rest.split_first() {
            let octal = after.get(..3).filter(|_| byte == b'\\');
            let value = octal.and_then(|digits| std::str::from_utf8(digits).ok());
            match value.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
                Some(value) => (path.push(value), rest = &after[3..]).1,
                None => (path.push(byte), rest = after).1,
            }
        }
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(&path)))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn whatever_is_done_in_a_directory_rings() {
        let place = tempfile::tempdir().expect("temporary directory");
        let directory = place.path();
        let inside = |name: &str| directory.join(name);
        fs::create_dir(inside("sub")).expect("made");
        for name in ["file", "gone", "moved", "replaced", "sub/deep"] {
            fs::write(inside(name), "one").expect("written");
        }
        let mut alarm = Alarm::new(&[directory.to_path_buf()]);
        alarm.listen_to(directory);
        alarm.listen_to(&inside("sub"));
        assert!(!alarm.rang());
        type Deed<'a> = (&'a str, &'a dyn Fn() -> std::io::Result<()>);
        let deeds: &[Deed<'_>] = &[
            ("written in place", &|| fs::write(inside("file"), "two")),
            ("mode", &|| fs::set_permissions(inside("file"), fs::Permissions::from_mode(0o600))),
            ("mode of the directory", &|| fs::set_permissions(directory, fs::Permissions::from_mode(0o750))),
            ("removed", &|| fs::remove_file(inside("gone"))),
            ("renamed", &|| fs::rename(inside("moved"), inside("elsewhere"))),
            ("replaced", &|| fs::rename(inside("elsewhere"), inside("replaced"))),
            ("linked", &|| symlink("file", inside("link"))),
            ("made", &|| fs::create_dir(inside("new"))),
            ("deep", &|| fs::write(inside("sub/deep"), "two")),
            ("emptied", &|| fs::remove_dir_all(inside("sub"))),
        ];
        for (what, deed) in deeds {
            deed().expect(what);
            assert!(alarm.rang(), "{what}");
            assert!(!alarm.rang(), "{what} rang once");
        }
        fs::read(inside("file")).expect("read");
        fs::metadata(inside("file")).expect("looked at");
        assert!(!alarm.rang(), "reading is no change");
    }

    #[test]
    fn who_could_not_listen_takes_anything_for_possible() {
        let mut alarm = Alarm { notices: Some(rustix::io::dup(std::io::stdin()).expect("open")) };
        alarm.listen_to(Path::new("/"));
        assert!(alarm.rang());
        let mut alarm = Alarm::new(&[]);
        alarm.listen_to(Path::new("/nowhere"));
        assert!(!alarm.rang(), "what is gone needs no listening to");
    }

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        let text = b"22 1 254:0 / / rw - ext4 /dev/a rw\n\
                     36 22 254:0 /hosts /etc/hosts rw,relatime shared:1 - ext4 /dev/a rw\n\
                     37 22 0:5 / /etc/a\\040b rw - tmpfs none rw\n\n";
        let points: Vec<PathBuf> = mount_points(text).collect();
        assert_eq!(points, ["/", "/etc/hosts", "/etc/a b"].map(PathBuf::from));
    }
}
