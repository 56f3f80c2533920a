//! Makes one connection to an endpoint: TCP, then a PROXY header where the destination wants one, then TLS where the
//! endpoint has the mesh mark, each with its time limit.
//!
//! How a socket is made is [`Sockets`]' business and nobody else's: of our own namespaces, or, towards a program that
//! lives in a network namespace of its own, one of that namespace.
//!
//! A wrong identity on the other side is its own reason, so that an operator sees an impostor apart from a dead host.

use crate::door::Stock;
use crate::fail::{Fail, chain};
use crate::io::Io;
use crate::limits::TLS_HANDSHAKE;
use crate::outward;
use crate::proxy_header::{Ends, Introduction, written};
use naka_engine::model::{ClusterSpec, Probes};
use naka_types::reason::Reason;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// A program's own address in a network namespace of its own (see `cli::namespace`).
const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// How a connection is secured.
#[derive(Debug, Clone)]
pub(crate) struct Secured {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

/// Whose socket is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum To {
    /// The program beside us.
    Program,
    /// The program beside us at its Unix socket.
    Socket(Arc<str>),
    /// Anybody else.
    Anyone,
}

impl To {
    /// The program, where its cluster says it is.
    pub(crate) fn program(spec: &ClusterSpec) -> Self {
        match &spec.unix {
            None => Self::Program,
            Some(path) => Self::Socket(Arc::clone(path)),
        }
    }
}

/// How a worker makes its sockets.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// Sockets of the program's own network namespace, where it has one.
    inside: Option<Stock>,
}

impl Sockets {
    /// With the door of the program's namespace, or without.
    pub(crate) fn new(door: Option<PathBuf>) -> Self {
        Self {
            inside: door.map(Stock::new),
        }
    }

    async fn tcp(&self, to: &To, address: SocketAddr) -> io::Result<TcpStream> {
        let Some(inside) = self.inside.as_ref().filter(|_| *to == To::Program) else {
            return outward::tcp(address).await;
        };
        // Every address of its namespace is the program's own; the host's are not there.
        let address = match address.ip().is_loopback() {
            true => address,
            false => SocketAddr::new(INSIDE, address.port()),
        };
        let refused = match inside.connect(address).await {
            Err(error) if address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) => error,
            connected => return connected,
        };
        // Node and others bind `localhost`, which may be ::1 alone.
        let six = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), address.port());
        inside.connect(six).await.map_err(|_| refused)
    }
}

/// Connects within `limit`; plain without `secured`.
pub(crate) async fn connect(
    sockets: &Sockets,
    to: &To,
    address: SocketAddr,
    limit: Duration,
    secured: Option<&Secured>,
    probes: Option<&Probes>,
    said: Option<&Introduction>,
) -> Result<Io, Fail> {
    if let To::Socket(path) = to {
        return unix(path, limit).await.map(Io::unix);
    }
    let mut stream = tcp(sockets, to, address, limit).await?;
    if let Some(probes) = probes {
        // Without them a dead peer is found out later.
        let _ = keep_alive(&stream, probes);
    }
    if let Some(said) = said {
        introduce(&mut stream, said, limit).await?;
    }
    match secured {
        None => Ok(Io::plain(stream)),
        Some(secured) => tls(stream, secured).await,
    }
}

/// The program's Unix socket, which is a file: namespaces of the network do not matter.
async fn unix(path: &str, limit: Duration) -> Result<UnixStream, Fail> {
    match tokio::time::timeout(limit, UnixStream::connect(path)).await {
        Err(_) => {
            let detail = format!("no connection to {path} within {limit:?}");
            Err(Fail::connect(Reason::ConnectTimeout, &detail))
        }
        Ok(Err(error)) => {
            let detail = format!("connecting to {path}: {error}");
            Err(Fail::connect(Reason::ConnectFailed, &detail))
        }
        Ok(Ok(stream)) => Ok(stream),
    }
}

async fn tcp(
    sockets: &Sockets,
    to: &To,
    address: SocketAddr,
    limit: Duration,
) -> Result<TcpStream, Fail> {
    let stream = match tokio::time::timeout(limit, sockets.tcp(to, address)).await {
        Err(_) => {
            let detail = format!("no connection to {address} within {limit:?}");
            return Err(Fail::connect(Reason::ConnectTimeout, &detail));
        }
        Ok(Err(error)) => {
            let detail = format!("connecting to {address}: {error}");
            return Err(Fail::connect(Reason::ConnectFailed, &detail));
        }
        Ok(Ok(stream)) => stream,
    };
    // Only slower without it.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// A new socket has room for a header; the limit is for the kernel that says otherwise.
async fn introduce(
    stream: &mut TcpStream,
    said: &Introduction,
    limit: Duration,
) -> Result<(), Fail> {
    let own = stream.local_addr().and_then(|from| {
        let to = stream.peer_addr()?;
        Ok(Ends { from, to })
    });
    let bytes = written(said, own.ok());
    let failed = |reason, what: &dyn std::fmt::Display| {
        Err(Fail::connect(reason, &format!("the PROXY header: {what}")))
    };
    match tokio::time::timeout(limit, stream.write_all(&bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => failed(Reason::ConnectFailed, &error),
        Err(_) => failed(Reason::ConnectTimeout, &"not taken in time"),
    }
}

fn keep_alive(stream: &TcpStream, probes: &Probes) -> io::Result<()> {
    let mut wanted = TcpKeepalive::new();
    if let Some(after) = probes.after {
        wanted = wanted.with_time(after);
    }
    if let Some(every) = probes.every {
        wanted = wanted.with_interval(every);
    }
    if let Some(count) = probes.count {
        wanted = wanted.with_retries(count);
    }
    let socket = SockRef::from(stream);
    socket.set_keepalive(true)?;
    socket.set_tcp_keepalive(&wanted)
}

async fn tls(stream: TcpStream, secured: &Secured) -> Result<Io, Fail> {
    let connector = TlsConnector::from(Arc::clone(&secured.config));
    let handshake = connector.connect(secured.name.clone(), stream);
    match tokio::time::timeout(TLS_HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => Ok(Io::dialled(stream)),
        Ok(Err(error)) => Err(Fail::connect(reason_of(&error), &chain(&error))),
        Err(_) => Err(Fail::connect(
            Reason::TlsFailed,
            "the TLS handshake took too long",
        )),
    }
}

/// The reason for a failed handshake that we began.
fn reason_of(error: &io::Error) -> Reason {
    naka_identity::reason_of_io(error, naka_identity::Side::Client).unwrap_or(Reason::TlsFailed)
}
