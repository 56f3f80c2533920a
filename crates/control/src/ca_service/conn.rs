//! Who is at the other end of a connection to the control plane, and how connections get there.
//!
//! [`TlsIncoming`] accepts TCP, does the handshakes side by side, each with a deadline, and yields streams for
//! `tonic`'s `serve_with_incoming`. Every request on a stream carries its [`ConnIdentity`]: set from the client
//! certificate at once, or later, exactly once, by the certificate service.
//!
//! A workload that is revoked gets no stream, and one that it has ends with an error.

use crate::waiting::Waiting;
use naka_identity::{Revoked, Side, peer_of, reason_of_io};
use naka_types::spiffe::SpiffeId;
use naka_types::workload::Ulid;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

/// A handshake that takes longer is no handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes under way at once; the oldest makes room for one more.
const HANDSHAKES: usize = 4_096;
/// Wait after a failed accept, which mostly means that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A workload of the mesh at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its identity.
    pub spiffe: SpiffeId,
    /// Its workload id.
    pub workload_id: Ulid,
}

/// The identity of one connection, shared by all requests on it.
#[derive(Debug, Clone)]
pub struct ConnIdentity {
    bound: Arc<OnceLock<PeerIdentity>>,
    remote: SocketAddr,
}

impl ConnIdentity {
    /// Of a connection from `remote`, whose certificate named `identity`, if it had one.
    #[must_use]
    pub fn new(remote: SocketAddr, identity: Option<PeerIdentity>) -> Self {
        let bound = OnceLock::new();
        if let Some(identity) = identity {
            let _ = bound.set(identity);
        }
        Self {
            bound: Arc::new(bound),
            remote,
        }
    }

    /// Who it is, once that is proved.
    #[must_use]
    pub fn get(&self) -> Option<&PeerIdentity> {
        self.bound.get()
    }

    /// Where it comes from.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Binds the connection, once.
    ///
    /// # Errors
    /// The identity, when the connection has one already.
    pub(super) fn bind(&self, identity: PeerIdentity) -> Result<(), PeerIdentity> {
        self.bound.set(identity)
    }
}

/// Who sent a request.
///
/// # Errors
/// UNAUTHENTICATED when the connection has no identity.
pub fn peer<T>(request: &Request<T>) -> Result<PeerIdentity, Status> {
    request
        .extensions()
        .get::<ConnIdentity>()
        .and_then(ConnIdentity::get)
        .cloned()
        .ok_or_else(|| {
            Status::unauthenticated(
                "this connection has no identity: show a certificate of this mesh, or ask for one with a join token first",
            )
        })
}

/// Ready when a connection's peer is revoked.
type Cut = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An accepted connection after its handshake.
pub struct MeshIo {
    stream: TlsStream<TcpStream>,
    identity: ConnIdentity,
    cut: Cut,
}

impl std::fmt::Debug for MeshIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeshIo")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Connected for MeshIo {
    type ConnectInfo = ConnIdentity;

    fn connect_info(&self) -> ConnIdentity {
        self.identity.clone()
    }
}

impl AsyncRead for MeshIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            self.cut = Box::pin(std::future::ready(()));
            let text = "the peer's certificate was revoked";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, text)));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for MeshIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Connections whose handshake succeeded. Dropping it stops accepting.
#[derive(Debug)]
pub struct TlsIncoming {
    ready: mpsc::Receiver<MeshIo>,
}

impl TlsIncoming {
    /// Starts accepting on a bound listener, each connection by the configuration of that moment, from everybody but those
    /// who are revoked.
    #[must_use]
    pub fn start(
        listener: TcpListener,
        config: watch::Receiver<Arc<ServerConfig>>,
        revoked: watch::Receiver<Arc<Revoked>>,
    ) -> Self {
        let (done, ready) = mpsc::channel(64);
        tokio::spawn(accept(listener, Entry { config, revoked }, done));
        Self { ready }
    }
}

impl futures_util::Stream for TlsIncoming {
    type Item = Result<MeshIo, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|io| io.map(Ok))
    }
}

/// How one gets in.
#[derive(Clone)]
struct Entry {
    /// The newest counts: it says which roots are trusted.
    config: watch::Receiver<Arc<ServerConfig>>,
    revoked: watch::Receiver<Arc<Revoked>>,
}

async fn accept(listener: TcpListener, entry: Entry, done: mpsc::Sender<MeshIo>) {
    let places = Waiting::new(HANDSHAKES);
    loop {
        let accepted = tokio::select! {
            () = done.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = places.enter();
        let (entry, done) = (entry.clone(), done.clone());
        tokio::spawn(async move {
            match place.hold(HANDSHAKE, shake(entry, stream, remote)).await {
                Some(Ok(io)) => drop(done.send(io).await),
                Some(Err(error)) => {
                    let reason = reason_of_io(&error, Side::Server).map_or("-", |r| r.code());
                    tracing::warn!(%remote, reason, %error, "handshake failed");
                }
                None => tracing::warn!(%remote, "handshake took too long"),
            }
        });
    }
}

async fn shake(entry: Entry, stream: TcpStream, remote: SocketAddr) -> io::Result<MeshIo> {
    // Configuration goes out in small messages that somebody waits for.
    stream.set_nodelay(true)?;
    let config = Arc::clone(&entry.config.borrow());
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let identity = match stream.get_ref().1.peer_certificates() {
        None => None,
        Some(chain) => {
            let peer = peer_of(chain).map_err(io::Error::other)?;
            let workload_id = peer
                .workload_id
                .ok_or_else(|| io::Error::other("the certificate's subject is no workload id"))?;
            Some(PeerIdentity {
                spiffe: peer.spiffe,
                workload_id,
            })
        }
    };
    let identity = ConnIdentity::new(remote, identity);
    if let Some(peer) = identity.get()
        && entry.revoked.borrow().contains(peer.workload_id)
    {
        let text = format!("the certificates of {} are revoked", peer.spiffe);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(MeshIo {
        stream,
        cut: Box::pin(revoked(entry.revoked, identity.clone())),
        identity,
    })
}

/// Resolves when whoever is on a connection is revoked. Looks at a change that came since the handshake, too.
async fn revoked(mut list: watch::Receiver<Arc<Revoked>>, identity: ConnIdentity) {
    let is_listed = |list: &Arc<Revoked>| {
        let peer = identity.get();
        peer.is_some_and(|peer| list.contains(peer.workload_id))
    };
    if list.wait_for(is_listed).await.is_err() {
        // The control plane ends, and its connections with it.
        std::future::pending::<()>().await;
    }
}
