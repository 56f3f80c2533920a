//! Sockets out of a program's own network namespace, handed over a Unix socket.
//!
//! A captured program lives in a network namespace of its own; the proxy stays outside. A small process inside (the
//! *door*) opens the listeners that the namespace's rules lead to and hands them to the proxy (`SCM_RIGHTS`), with
//! fresh sockets on demand: a socket keeps the namespace it was made in, so the proxy connects them itself. The door
//! keeps the listeners open, so a restarted proxy takes the same ones and connections made meanwhile wait.
//!
//! Protocol (`SOCK_SEQPACKET`, one byte per question):
//!
//! | question | answer |
//! |---|---|
//! | `L` | one message: JSON list of [`Kind`], and the sockets in the same order |
//! | `4`, `6` | up to [`BATCH`] unconnected, non-blocking TCP sockets of that family |
//! | `W` | from then on a message `{"refused":PORT}` for each call inside that nobody listened for |
//!
//! What cannot be answered is answered with text and no socket. Both ends check that the other runs under their own
//! uid. Making the namespace and its rules is the command line's business.

mod refused;
mod serve;
mod stock;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;

pub use refused::{GROUP as REFUSED_GROUP, watch};
pub use serve::{bind, serve};
pub(crate) use stock::Stock;

/// Name of the door's socket in the run directory.
pub const SOCKET: &str = "door.sock";
/// Fresh sockets per answer.
pub const BATCH: usize = 8;
/// The most sockets that can be handed over at once; the kernel's own limit is 253.
pub const MOST: usize = 250;
/// Longest message: a list of [`MOST`] kinds takes about 20 kB.
const MESSAGE: usize = 64 * 1024;
const LIST: u8 = b'L';
const FOUR: u8 = b'4';
const SIX: u8 = b'6';
const WATCH: u8 = b'W';
/// The door answers at once or is not well.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a handed socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// Listener that the namespace's rules redirect all TCP to.
    Outbound {
        /// Where it is bound inside.
        address: SocketAddr,
    },
    /// Where the rules redirect DNS over UDP.
    DnsUdp {
        /// Where it is bound inside.
        address: SocketAddr,
    },
    /// Listener that the rules redirect DNS over TCP to.
    DnsTcp {
        /// Where it is bound inside.
        address: SocketAddr,
    },
    /// Listener of an explicit bind.
    Upstream {
        /// Its place in `Settings.upstreams`.
        index: usize,
    },
    /// Listener inside that leads to the same port of the host's loopback.
    HostPort {
        /// The port.
        port: u16,
    },
}

/// A socket of the namespace and what it is for.
#[derive(Debug)]
pub struct Handed {
    /// What it is for.
    pub kind: Kind,
    /// The socket.
    pub socket: OwnedFd,
}

/// The proxy's end of a door.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// No door there, or it runs under another uid.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        if socket_peercred(&socket)?.uid != rustix::process::getuid() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the door belongs to another user",
            ));
        }
        Ok(Self { socket })
    }

    /// The door's process: it is in the program's network namespace.
    ///
    /// # Errors
    /// What the system says.
    pub fn process(&self) -> io::Result<u32> {
        let pid = socket_peercred(&self.socket)?.pid.as_raw_nonzero().get();
        u32::try_from(pid).map_err(io::Error::other)
    }

    /// The sockets that the door opened. Blocks until it answers.
    ///
    /// # Errors
    /// The door is gone, silent, or does not speak this protocol.
    pub fn list(&self) -> io::Result<Vec<Handed>> {
        send(self.socket.as_fd(), &[LIST], &[])?;
        let mut room = vec![0; MESSAGE];
        let (length, sockets) = receive(self.socket.as_fd(), &mut room)?;
        let kinds: Vec<Kind> = serde_json::from_slice(&room[..length])
            .map_err(|_| strange(&room[..length], "a list of sockets"))?;
        if kinds.len() != sockets.len() {
            return Err(strange(
                &room[..length],
                "as many sockets as the list has entries",
            ));
        }
        let handed = kinds.into_iter().zip(sockets);
        Ok(handed
            .map(|(kind, socket)| Handed { kind, socket })
            .collect())
    }

    /// An unconnected, non-blocking socket of the namespace. Blocks until the door answers.
    ///
    /// # Errors
    /// The door is gone, silent, or has none.
    pub(crate) fn fresh(&self, six: bool) -> io::Result<OwnedFd> {
        let question = if six { SIX } else { FOUR };
        send(self.socket.as_fd(), &[question], &[])?;
        let mut room = vec![0; MESSAGE];
        let (length, sockets) = receive(self.socket.as_fd(), &mut room)?;
        let mut sockets = sockets.into_iter();
        sockets
            .next()
            .ok_or_else(|| strange(&room[..length], "a socket"))
    }

    /// Asks to be told of refused calls inside. Call it within a runtime.
    ///
    /// # Errors
    /// What the system says.
    pub fn refusals(self) -> io::Result<Refusals> {
        send(self.socket.as_fd(), &[WATCH], &[])?;
        let socket = watched(self.socket)?;
        Ok(Refusals { socket })
    }
}

/// Calls inside the namespace that nobody listened for, as they happen; some are left out when there are very many.
#[derive(Debug)]
pub struct Refusals {
    socket: UnixStream,
}

impl Refusals {
    /// The port of the next one. Cancel-safe.
    ///
    /// # Errors
    /// The door is gone, or cannot tell.
    pub async fn next(&mut self) -> io::Result<u16> {
        let read = || {
            let mut room = [0; 256];
            let (length, _) = receive(self.socket.as_fd(), &mut room)?;
            let told: Refused = serde_json::from_slice(&room[..length])
                .map_err(|_| strange(&room[..length], "a refused call"))?;
            Ok(told.refused)
        };
        self.socket.async_io(Interest::READABLE, read).await
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Refused {
    refused: u16,
}

/// Lets a listener take connections that were made to other addresses, which the namespace's rules give to it; an
/// accepted socket's own address is then the one that was called. Needs `CAP_NET_ADMIN` in the listener's namespace.
///
/// # Errors
/// The system refuses.
pub fn take_all(listener: impl AsFd) -> io::Result<()> {
    // The same option serves IPv6.
    socket2::SockRef::from(&listener).set_ip_transparent_v4(true)
}

/// Watched by the runtime as a stream, which it is not: only messages are read and written, never `AsyncRead`.
fn watched(socket: OwnedFd) -> io::Result<UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

fn strange(answer: &[u8], expected: &str) -> io::Error {
    let shown: String = String::from_utf8_lossy(answer).chars().take(200).collect();
    io::Error::other(format!(
        "the door answered \"{shown}\" instead of {expected}"
    ))
}

/// Sends one message with these sockets.
fn send(to: BorrowedFd<'_>, message: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("too many sockets for one message"));
    }
    rustix::net::sendmsg(
        to,
        &[IoSlice::new(message)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Receives one message with its sockets; an end is an error.
fn receive(from: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        from,
        &mut [IoSliceMut::new(room)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let sockets: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((received.bytes, sockets))
}

#[cfg(test)]
mod tests;
