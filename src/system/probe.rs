//! Questions to the kernel that no file answers: size of a file system, the kernel's own name, processors
//! of this process, addresses and routes. They only look.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink};

use crate::system::{Result, SystemError};

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// The kernel's name and version: [`Answer::Kernel`].
    Kernel,
    /// How many processors this process may use: [`Answer::Processors`].
    Processors,
    /// Size of the file system that is mounted at a path: [`Answer::FileSystem`]. A file server that does not
    /// answer within the time given is an error.
    FileSystem(PathBuf, Duration),
    /// All addresses of all interfaces: [`Answer::Netlink`].
    Addresses,
    /// All routes: [`Answer::Netlink`].
    Routes,
    /// The route that a packet to an address would take: [`Answer::Netlink`].
    RouteTo(IpAddr),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of [`Probe::Kernel`].
    Kernel(Kernel),
    /// Of [`Probe::Processors`].
    Processors(usize),
    /// Of [`Probe::FileSystem`].
    FileSystem(FileSystem),
    /// The kernel's messages, headers included.
    Netlink(Vec<u8>),
}

/// The kernel's name and version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// `Linux`.
    pub system: String,
    /// Name of the machine.
    pub node: String,
    /// Version number.
    pub release: String,
    /// Build.
    pub version: String,
    /// Kind of processor.
    pub machine: String,
}

/// Size and use of a file system, in blocks and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Preferred size of a transfer in bytes.
    pub block_size: u64,
    /// Unit of the block numbers in bytes.
    pub fragment_size: u64,
    /// All blocks.
    pub blocks: u64,
    /// Blocks that are free for users.
    pub blocks_available: u64,
    /// All inodes.
    pub files: u64,
    /// Inodes that are free for users.
    pub files_available: u64,
}

/// Answers a question by asking the kernel of this machine.
///
/// # Errors
/// If the kernel does not answer.
pub fn ask(probe: &Probe) -> Result<Answer> {
    match probe {
        Probe::Kernel => Ok(Answer::Kernel(kernel())),
        Probe::Processors => {
            let processors = rustix::thread::sched_getaffinity(None)
                .map_err(|error| SystemError::Other(format!("failed to count processors: {error}")))?;
            Ok(Answer::Processors(processors.count() as usize))
        }
        Probe::FileSystem(path, limit) => file_system(path.clone(), *limit).map(Answer::FileSystem),
        Probe::Addresses => netlink_request(RTM_GETADDR, NLM_F_DUMP, &[0; 8]),
        Probe::Routes => netlink_request(RTM_GETROUTE, NLM_F_DUMP, &[0; 12]),
        Probe::RouteTo(address) => netlink_request(RTM_GETROUTE, 0, &route_question(*address)),
    }
}

fn kernel() -> Kernel {
    let uname = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    Kernel {
        system: text(uname.sysname()),
        node: text(uname.nodename()),
        release: text(uname.release()),
        version: text(uname.version()),
        machine: text(uname.machine()),
    }
}

/// In a thread of its own, because a file server that is gone holds the caller for ever.
fn file_system(path: PathBuf, limit: Duration) -> Result<FileSystem> {
    let (send, receive) = mpsc::channel();
    let asked = path.clone();
    std::thread::spawn(move || send.send(rustix::fs::statvfs(&asked)));
    match receive.recv_timeout(limit) {
        Ok(Ok(stat)) => Ok(FileSystem {
            block_size: stat.f_bsize,
            fragment_size: stat.f_frsize,
            blocks: stat.f_blocks,
            blocks_available: stat.f_bavail,
            files: stat.f_files,
            files_available: stat.f_favail,
        }),
        Ok(Err(error)) => Err(SystemError::Io { action: "measure", path, source: error.into() }),
        Err(_) => Err(SystemError::Other(format!(
            "the file system at {} did not answer within {} s",
            path.display(),
            limit.as_secs()
        ))),
    }
}

const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const RTA_DST: u16 = 1;
/// An answer that is larger is not believed.
const MAX_ANSWER: usize = 16 << 20;

fn route_question(address: IpAddr) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    };
    let bits = u8::try_from(octets.len() * 8).unwrap_or(u8::MAX);
    let mut body = vec![family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    body.extend((u16::try_from(octets.len()).unwrap_or(0) + 4).to_ne_bytes());
    body.extend(RTA_DST.to_ne_bytes());
    body.extend(octets);
    body
}

fn netlink_request(kind: u16, flags: u16, body: &[u8]) -> Result<Answer> {
    let failed = |error: Errno| {
        SystemError::Other(format!("failed to ask the kernel for addresses and routes: {error}"))
    };
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None).map_err(failed)?;
    let mut request = Vec::with_capacity(16 + body.len());
    request.extend(u32::try_from(16 + body.len()).unwrap_or(0).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    request.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    request.extend(body);
    let kernel = netlink::SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &kernel).map_err(failed)?;
    let mut answer = Vec::new();
    let mut part = vec![0; 64 << 10];
    loop {
        let (length, _) =
            rustix::net::recv(&socket, part.as_mut_slice(), RecvFlags::empty()).map_err(failed)?;
        let part = &part[..length];
        let more = messages(part).all(|(kind, _)| kind != NLMSG_DONE && kind != NLMSG_ERROR);
        answer.extend_from_slice(part);
        if flags == 0 || !more || length == 0 || answer.len() > MAX_ANSWER {
            break;
        }
    }
    Ok(Answer::Netlink(answer))
}

/// The messages in an answer: type and body.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = bytes.get(..16)?;
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let body = bytes.get(16..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes in a message's body after its fixed part: type and value.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        assert!(matches!(ask(&Probe::Kernel), Ok(Answer::Kernel(kernel)) if kernel.system == "Linux"));
        assert!(matches!(ask(&Probe::Processors), Ok(Answer::Processors(count)) if count > 0));
        let root = Probe::FileSystem("/".into(), Duration::from_secs(10));
        assert!(matches!(ask(&root), Ok(Answer::FileSystem(stat)) if stat.blocks > 0));
        let Ok(Answer::Netlink(answer)) = ask(&Probe::Addresses) else { panic!("no addresses") };
        assert!(messages(&answer).count() > 0);
    }

    #[test]
    fn broken_answers_end() {
        assert_eq!(messages(&[1, 0, 0, 0]).count(), 0);
        assert_eq!(messages(&[4; 16]).count(), 0);
        assert_eq!(attributes(&[0; 64]).count(), 0);
    }
}
