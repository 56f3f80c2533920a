//! How this process makes sockets that leave it: towards endpoints, the control plane, nameservers, the world.
//!
//! Where rules lead the traffic of the whole machine here (`Capture::Host`), our own sockets must pass them, so each
//! carries the mark that the rules know. That holds for the process as a whole and never changes while it runs, hence
//! the one static; every connection goes through here, so none can be forgotten. Setting the mark takes CAP_NET_ADMIN,
//! which the program does not have: its user alone is no way past the rules.
//!
//! Not here: sockets of a program's own network namespace (`door`), listeners (`listen`).

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

static MARK: OnceLock<u32> = OnceLock::new();

/// Marks every socket that is made from now on.
///
/// # Errors
/// This process may not.
pub(crate) fn mark_all(mark: u32) -> io::Result<()> {
    Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?.set_mark(mark)?;
    MARK.get_or_init(|| mark);
    Ok(())
}

fn marked<'a>(socket: impl Into<SockRef<'a>>) -> io::Result<()> {
    MARK.get()
        .map_or(Ok(()), |mark| socket.into().set_mark(*mark))
}

/// Connects to an address.
pub(crate) async fn tcp(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    marked(&socket)?;
    socket.connect(to).await
}

/// Connects to a name and port, each of its addresses in turn.
pub(crate) async fn tcp_to(name: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host(name).await? {
        match tcp(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A datagram socket that talks to one address.
pub(crate) async fn udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await,
    }?;
    marked(&socket)?;
    socket.connect(to).await?;
    Ok(socket)
}
