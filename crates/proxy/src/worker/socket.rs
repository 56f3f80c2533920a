//! Sockets of accepted connections: TCP, or a Unix socket that a Sidecar binds for calls of the program.

use crate::io::Io;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

/// A connection's socket, non-blocking.
#[derive(Debug)]
pub enum Socket {
    /// Of TCP.
    Tcp(TcpStream),
    /// Of the workload's own uid, which was looked at before.
    Unix(UnixStream),
}

/// The same on a worker's runtime.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(Io),
}

/// What stands for either end of a Unix socket, where an address is wanted: it leads nowhere.
pub(crate) const NOWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl Socket {
    /// Our end.
    pub(crate) fn local(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr(),
            Self::Unix(_) => Ok(NOWHERE),
        }
    }

    /// Whether it is one of the workload's own.
    pub(crate) fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// Takes it to this thread's runtime.
    pub(crate) fn on_runtime(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(stream) => Stream::Tcp(tokio::net::TcpStream::from_std(stream)?),
            Self::Unix(stream) => Stream::Unix(Io::unix(tokio::net::UnixStream::from_std(stream)?)),
        })
    }
}
