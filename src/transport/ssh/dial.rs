//! Names to addresses, addresses to streams.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use super::super::config::{Family, Resolved};
use super::super::error::Cause;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

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
