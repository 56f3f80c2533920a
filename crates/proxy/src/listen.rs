//! Listening sockets, the accept loop on the main thread, and who is at the other end of a loopback connection.
//!
//! Sockets are opened once and live as long as the process. An accepted connection goes, before a byte of it is read,
//! to the worker with the fewest connections. Running out of file descriptors pauses accepting for a moment instead
//! of spinning.

mod owner;

use crate::worker::{self, Accepted, Entrance, WorkerMsg, Workers};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use owner::Owners;

const PAUSE_WHEN_EXHAUSTED: Duration = Duration::from_millis(50);

/// Opens a listening socket; port 0 takes a free one (ask `local_addr`).
///
/// # Errors
/// What the system says, for example that the port is in use.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(crate::limits::BACKLOG)?;
    Ok(socket.into())
}

/// Keeps an address for another process of this user that binds it with `SO_REUSEPORT`, as an Envoy does: nobody else
/// gets it while that process starts or is away. Nothing is accepted here, so callers are refused meanwhile.
///
/// # Errors
/// What the system says, for example that the port is in use.
pub(crate) fn reserve(address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    let bound = socket.local_addr()?.as_socket();
    let bound = bound.ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((socket, bound))
}

/// Accepts for ever and hands connections to workers. Cancel-safe: drop it to stop accepting.
///
/// # Errors
/// Only when the socket cannot be watched at all.
pub async fn accept(
    listener: TcpListener,
    entrance: Arc<Entrance>,
    workers: Arc<Workers>,
) -> io::Result<()> {
    let listener = watched(listener)?;
    loop {
        match listener
            .async_io(Interest::READABLE, TcpListener::accept)
            .await
        {
            Ok((stream, peer)) => {
                // Failures here are the connection's own (already reset); it is dropped.
                if stream.set_nonblocking(true).is_err() || stream.set_nodelay(true).is_err() {
                    continue;
                }
                let accepted = Accepted {
                    stream: worker::Socket::Tcp(stream),
                    peer,
                    entrance: Arc::clone(&entrance),
                };
                workers.hand(WorkerMsg::Accept(accepted)).await;
            }
            Err(error) if connection_failed(&error) => {}
            Err(error) => {
                tracing::warn!(error = %error, "cannot accept a connection, pausing");
                tokio::time::sleep(PAUSE_WHEN_EXHAUSTED).await;
            }
        }
    }
}

/// Watches the socket without making it tokio's own: accepted sockets then go to a worker's runtime without having
/// been registered with this one.
#[expect(
    unsafe_code,
    reason = "tokio's safe listener registers each accepted socket with the wrong runtime"
)]
fn watched(listener: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    // SAFETY: a `TcpListener` owns one descriptor, returns the same one always, and is closed only after `AsyncFd`
    // has taken it out of the poller.
    let watched = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
    watched.map_err(io::Error::from)
}

fn connection_failed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
