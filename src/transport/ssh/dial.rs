//! Names to addresses, addresses to streams.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use super::super::config::{Family, Resolved};
use super::super::error::Cause;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// How many reads are acknowledged at once: those of a login and the start of a command.
const PROMPT_READS: u32 = 64;

/// A connection that acknowledges at once what comes while we are being let in. Until a command runs, sshd
/// leaves Nagle's algorithm on: it holds back each small packet until the one before it is acknowledged, and
/// an acknowledgement that waits for something to travel with costs 40 ms.
pub(super) struct Prompt {
    stream: TcpStream,
    left: u32,
}

impl Prompt {
    pub(super) fn new(stream: TcpStream) -> Prompt {
        Prompt { stream, left: PROMPT_READS }
    }
}

impl AsyncRead for Prompt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.left > 0 && outcome.is_ready() {
            self.left -= 1;
            // The kernel forgets it by and by, so it is said each time; where it can't be said it is only slower.
            let _ = rustix::net::sockopt::set_tcp_quickack(&self.stream, true);
        }
        outcome
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

pub(super) async fn dial_tcp(
    resolved: &Resolved,
    limit: Duration,
    resolving: &Semaphore,
) -> Result<TcpStream, Cause> {
    let deadline = tokio::time::Instant::now() + limit;
    let timed_out = || Cause::TimedOut { after: limit, waiting_for: "the TCP connection" };
    let lookup = look_up(&resolved.host_name, resolved.port, resolved.family, resolving);
    let addresses = tokio::time::timeout_at(deadline, lookup).await.map_err(|_| timed_out())??;
    let mut failure = timed_out();
    let count = addresses.len();
    for (index, address) in addresses.into_iter().enumerate() {
        // A dead first address must not eat the time of the others.
        let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
        let share = remaining / u32::try_from(count - index).unwrap_or(1);
        match tokio::time::timeout(share, dial_address(address, resolved.bind_address.as_deref())).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = Cause::from_connect_error(&error),
            Err(_) => failure = timed_out(),
        }
    }
    Err(failure)
}

async fn dial_address(address: SocketAddr, bind: Option<&str>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(bind) = bind {
        let local =
            bind.parse().map_err(|_| io::Error::other(format!("BindAddress {bind} is not an address")))?;
        socket.bind(SocketAddr::new(local, 0))?;
    }
    socket.set_keepalive(true)?;
    let stream = socket.connect(address).await?;
    // Small packets must leave at once: waiting for the host's delayed acknowledgement costs 40 ms each.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// How long the host's kernel took to answer, by this one's clock: ours counts what else there is to do.
pub(super) fn round_trip(stream: &TcpStream) -> Option<Duration> {
    let mut size = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    #[expect(unsafe_code, reason = "no library asks this")]
    // SAFETY: the kernel writes at most `size` bytes, and numbers that are zero where it writes none are numbers.
    let info = unsafe {
        let place = info.as_mut_ptr().cast();
        let fd = stream.as_raw_fd();
        let outcome = libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut size);
        (outcome == 0).then(|| info.assume_init())
    }?;
    (info.tcpi_rtt > 0).then(|| Duration::from_micros(info.tcpi_rtt.into()))
}

async fn look_up(
    name: &str,
    port: u16,
    family: Family,
    resolving: &Semaphore,
) -> Result<Vec<SocketAddr>, Cause> {
    let wanted = |address: &SocketAddr| match family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    };
    let failed = |reason: String| Cause::Resolve { name: name.to_owned(), reason };
    let found: Vec<SocketAddr> = match name.trim_matches(['[', ']']).parse() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => {
            let _permit = resolving.acquire().await;
            tokio::net::lookup_host((name, port)).await.map_err(|error| failed(error.to_string()))?.collect()
        }
    };
    let found: Vec<SocketAddr> = found.into_iter().filter(wanted).collect();
    if found.is_empty() {
        Err(failed("it has no address of the wanted family".to_owned()))
    } else {
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_tells_how_far_a_host_is() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let stream = dial_address(address, None).await.expect("it answers");
        let time = round_trip(&stream).expect("told");
        assert!(time > Duration::ZERO && time < Duration::from_secs(60), "{time:?}");
    }
}
