//! From an accepted connection to the protocol it speaks: who is calling, TLS, detection, and the HTTP server loop.
//!
//! A declared protocol is believed. Where none is declared the caller's first bytes decide, and if the caller waits
//! (its server speaks first) the called side is connected meanwhile, so nothing stalls (see [`crate::tcp::serve`]).

use super::body::RespBody;
use super::exchange;
use crate::denials;
use crate::detect::{self, Speaks};
use crate::guarded::Guarded;
use crate::io::Io;
use crate::limits;
use crate::tls::{Agreed, agreed};
use crate::upstream::pool::Local;
use crate::worker::socket::Stream;
use crate::worker::{Conn, Entrance, Peer, Phase};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use naka_engine::canonical::{Caller, Origin, Source};
use naka_engine::model::{Inbound, MtlsMode};
use naka_types::protocol::Protocol;
use naka_types::reason::Reason;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// What all requests of a connection have in common.
pub(crate) struct Scope {
    pub(crate) conn: Rc<Conn>,
    pub(crate) origin: Origin,
    /// Every request is answered with this.
    pub(crate) refuse: Option<Reason>,
    /// The frames are HTTP/2, the requests were HTTP/1.1.
    pub(crate) were_http1: bool,
    /// Bytes come through CONNECT or were captured: no proxy requests here.
    pub(crate) inner: bool,
}

/// Serves a connection to its end.
pub(crate) async fn connection(conn: Rc<Conn>, stream: Stream) {
    let entrance = Arc::clone(&conn.entrance);
    let stream = match stream {
        Stream::Tcp(stream) => stream,
        Stream::Unix(io) => return called(conn, io).await,
    };
    match &*entrance {
        Entrance::Outbound => outbound(conn, Io::plain(stream)).await,
        Entrance::Captured => crate::tcp::serve::redirected(conn, stream).await,
        Entrance::HostPort { port } => {
            crate::tcp::serve::host_port(conn, Io::plain(stream), *port).await;
        }
        Entrance::Bind { .. } | Entrance::Egress { .. } => called(conn, Io::plain(stream)).await,
        Entrance::Inbound { port } => inbound(conn, stream, *port).await,
        Entrance::Publish { port } => {
            let Some(inbound) = conn.worker.snapshot().inbound(*port).cloned() else {
                return refuse(&conn, Reason::ConfigUnavailable, "the port is not declared");
            };
            by_protocol(conn, Io::plain(stream), &inbound, Agreed::Unknown, None).await;
        }
        Entrance::Gateway { port } => crate::edge::serve::connection(conn, stream, *port).await,
    }
}

/// A call of the program at a bind of its own.
async fn called(conn: Rc<Conn>, io: Io) {
    let entrance = Arc::clone(&conn.entrance);
    match &*entrance {
        _ if !conn.by_owner => refuse(
            &conn,
            Reason::ProxyAuthRequired,
            "a bind is for the workload's own uid",
        ),
        Entrance::Bind {
            host,
            port,
            protocol,
            ..
        } => {
            let host = Arc::clone(host);
            crate::tcp::serve::bound(conn, io, host, *port, *protocol).await;
        }
        Entrance::Egress { port, .. } => {
            let mut origin = Origin::outbound(*port);
            origin.address = Some(conn.remote.ip());
            detected(conn, io, origin, None).await;
        }
        _ => refuse(&conn, Reason::Internal, "no bind of the program"),
    }
}

/// Counts and logs a connection that is closed before a request.
pub(crate) fn refuse(conn: &Conn, reason: Reason, detail: &str) {
    conn.worker.shard.local_reply(reason);
    denials::of_connection(conn, reason, detail);
    tracing::info!(reason = reason.code(), peer = %conn.remote, entrance = ?conn.entrance, detail, "connection refused");
    if let Some(lines) = &conn.worker.lines {
        lines.log(&naka_telemetry::Record {
            start: std::time::SystemTime::now(),
            direction: crate::record::direction(&conn.entrance),
            reason: Some(reason),
            details: detail,
            downstream_local_address: Some(conn.local),
            downstream_remote_address: Some(conn.remote),
            ..naka_telemetry::Record::default()
        });
    }
}

async fn outbound(conn: Rc<Conn>, io: Io) {
    let mut origin = Origin::outbound(80);
    origin.address = Some(conn.remote.ip());
    detected(conn, io, origin, None).await;
}

/// HTTP of either version; anything else is closed.
pub(crate) async fn detected(conn: Rc<Conn>, mut io: Io, origin: Origin, refusal: Option<Reason>) {
    conn.watch(io.moved(), true);
    let spoken = match sniff(&conn, &mut io).await {
        Some(spoken) => spoken,
        None => return,
    };
    let scope = Scope {
        origin,
        refuse: refusal,
        were_http1: false,
        inner: false,
        conn,
    };
    match spoken {
        Speaks::Http1 => http(scope, io, false).await,
        Speaks::Http2 => http(scope, io, true).await,
        Speaks::Tls | Speaks::Other | Speaks::More => {
            let reason = refusal.unwrap_or(Reason::BadRequest);
            refuse(&scope.conn, reason, "the first bytes are not HTTP");
        }
    }
}

/// The first bytes of a connection while its protocol is not known. Reading may be given up and taken up again.
#[derive(Default)]
pub(crate) struct First {
    bytes: [u8; detect::ENOUGH],
    filled: usize,
}

impl First {
    /// Reads until the protocol is known; `None` when the caller left or is to be closed. Cancel-safe.
    pub(crate) async fn spoken(&mut self, conn: &Conn, io: &mut Io) -> Option<Speaks> {
        // When draining begins, a connection that waits for its first byte has nothing to finish; one that was
        // accepted while draining gets its one exchange.
        let end = if conn.phase() == Phase::Open && self.filled == 0 {
            Phase::Finishing
        } else {
            Phase::Closing
        };
        loop {
            let read = tokio::select! {
                biased;
                read = io.read(&mut self.bytes[self.filled..]) => read,
                () = conn.reaches(end) => return None,
            };
            match read {
                Ok(0) if self.filled > 0 => return Some(Speaks::Other),
                Ok(0) | Err(_) => return None,
                Ok(count) => self.filled += count,
            }
            let spoken = detect::speaks(&self.bytes[..self.filled]);
            if spoken != Speaks::More || self.filled == self.bytes.len() {
                return Some(spoken);
            }
        }
    }

    /// Whether any byte came.
    pub(crate) fn any(&self) -> bool {
        self.filled > 0
    }

    /// Makes the bytes readable again.
    pub(crate) fn put_back(self, io: &mut Io) {
        io.put_back(Bytes::copy_from_slice(&self.bytes[..self.filled]));
    }
}

/// Reads until the protocol is known; the bytes are put back. `None` when the caller left or took too long.
async fn sniff(conn: &Conn, io: &mut Io) -> Option<Speaks> {
    let mut first = First::default();
    let spoken = first.spoken(conn, io).await;
    first.put_back(io);
    spoken
}

async fn inbound(conn: Rc<Conn>, stream: TcpStream, port: u16) {
    let Some(inbound) = conn.worker.snapshot().inbound(port).cloned() else {
        return refuse(&conn, Reason::ConfigUnavailable, "the port is not declared");
    };
    let mut first = [0];
    let looking = stream.peek(&mut first);
    let is_tls = tokio::select! {
        seen = looking => match seen {
            Ok(0) | Err(_) => return,
            Ok(_) => first[0] == 0x16,
        },
        // No handshake is coming. A server may have to speak first, but not to strangers.
        () = tokio::time::sleep(limits::HEADER_READ) => match inbound.mode {
            MtlsMode::Strict => return refuse(&conn, Reason::MtlsRequired, "no byte in time"),
            MtlsMode::Permissive | MtlsMode::Disable => false,
        },
        () = conn.reaches(Phase::Closing) => return,
    };
    match (is_tls, inbound.mode) {
        (true, MtlsMode::Strict | MtlsMode::Permissive) => mutual(conn, stream, &inbound).await,
        (true, MtlsMode::Disable) if inbound.tls.is_some() => served(conn, stream, &inbound).await,
        (false, MtlsMode::Disable) if inbound.tls.is_some() => {
            refuse(&conn, Reason::TlsFailed, "the port takes TLS only");
        }
        (false, MtlsMode::Strict) => {
            crate::seen::plain(&conn);
            plaintext_refused(conn, Io::plain(stream), port).await;
        }
        // TLS of the program's own passes as bytes.
        (true, MtlsMode::Disable) => {
            let origin = inbound_origin(&conn, port, false, None);
            crate::tcp::serve::to_program(conn, Io::plain(stream), &origin).await;
        }
        (false, _) => {
            crate::seen::plain(&conn);
            by_protocol(conn, Io::plain(stream), &inbound, Agreed::Unknown, None).await;
        }
    }
}

/// Says why, in HTTP if that is what the caller speaks, and closes.
async fn plaintext_refused(conn: Rc<Conn>, io: Io, port: u16) {
    let origin = Origin::inbound(port, Caller::Outside, false);
    detected(conn, io, origin, Some(Reason::MtlsRequired)).await;
}

async fn mutual(conn: Rc<Conn>, stream: TcpStream, inbound: &Inbound) {
    let Some(set) = conn.worker.tls() else {
        return refuse(
            &conn,
            Reason::TlsFailed,
            "this proxy has no certificate yet",
        );
    };
    let guarded = Guarded::new(&conn, inbound.access.as_ref(), conn.remote.ip());
    if guarded.banned() {
        return;
    }
    let handshake = TlsAcceptor::from(set.inbound()).accept(stream);
    let stream = match tokio::time::timeout(limits::TLS_HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let reason = naka_identity::reason_of_io(&error, naka_identity::Side::Server);
            let reason = reason.unwrap_or(Reason::TlsFailed);
            return guarded.failed(reason, &crate::fail::chain(&error));
        }
        Err(_) => return guarded.failed(Reason::TlsFailed, "the TLS handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = match naka_identity::peer_of(certificates) {
        Ok(peer) => peer,
        Err(error) => return guarded.failed(Reason::PeerUntrusted, &error.to_string()),
    };
    guarded.done();
    let text: Arc<str> = peer.spiffe.to_string().into();
    // The cell is empty: a connection has one handshake.
    let _ = conn.peer.set(Peer {
        text,
        id: peer.workload_id,
        spiffe: peer.spiffe,
        top: conn.worker.tops.of(certificates),
    });
    if let Some(id) = conn.peer.get().and_then(|peer| peer.id) {
        conn.worker.ask_for(id);
    }
    let leaf = certificates.first().map(|c| sha256(c));
    let io = Io::accepted(stream);
    let agreed = agreed(io.alpn());
    by_protocol(conn, io, inbound, agreed, leaf).await;
}

/// A caller from outside the mesh, to whom the port shows a certificate of its own.
async fn served(conn: Rc<Conn>, stream: TcpStream, inbound: &Inbound) {
    let chain = inbound.tls.as_deref().unwrap_or_default();
    let Some(config) = conn.worker.edge_tls(inbound.port, chain) else {
        return refuse(
            &conn,
            Reason::TlsFailed,
            "the port has no certificate (yet)",
        );
    };
    let guarded = Guarded::new(&conn, inbound.access.as_ref(), conn.remote.ip());
    if guarded.banned() {
        return;
    }
    let handshake = TlsAcceptor::from(config).accept(stream);
    match tokio::time::timeout(limits::TLS_HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => {
            let io = Io::accepted(stream);
            let agreed = match io.alpn() {
                Some(b"h2") => Agreed::Http2,
                Some(b"http/1.1") => Agreed::Http1,
                _ => Agreed::Unknown,
            };
            by_protocol(conn, io, inbound, agreed, None).await;
        }
        Ok(Err(error)) => {
            guarded.failed(Reason::TlsFailed, &crate::fail::chain(&error));
        }
        Err(_) => guarded.failed(Reason::TlsFailed, "the TLS handshake took too long"),
    }
}

/// Serves a caller of one of our ports by what was declared, agreed or found out.
async fn by_protocol(
    conn: Rc<Conn>,
    mut io: Io,
    inbound: &Inbound,
    agreed: Agreed,
    leaf: Option<Leaf>,
) {
    let mut origin = inbound_origin(&conn, inbound.port, io.is_tls(), leaf);
    origin.grpc_web = inbound.protocol == Protocol::GrpcWeb;
    let http2 = match (agreed, inbound.protocol) {
        (Agreed::Tcp, _) | (Agreed::Unknown, Protocol::Tcp | Protocol::Tls) => {
            return crate::tcp::serve::to_program(conn, io, &origin).await;
        }
        (Agreed::Http1, _) => Some(false),
        (Agreed::Http2 | Agreed::Http1Mux, _) => Some(true),
        (Agreed::Unknown, Protocol::Auto) => {
            return crate::tcp::serve::to_program_unknown(conn, io, origin).await;
        }
        // Declared as HTTP: the version is in the first bytes.
        (Agreed::Unknown, _) => None,
    };
    conn.watch(io.moved(), http2 != Some(true));
    let http2 = match http2 {
        Some(known) => known,
        None => match sniff(&conn, &mut io).await {
            Some(Speaks::Http1) => false,
            Some(Speaks::Http2) => true,
            Some(_) => return refuse(&conn, Reason::BadRequest, "the first bytes are not HTTP"),
            None => return,
        },
    };
    let were_http1 = agreed == Agreed::Http1Mux;
    http(
        Scope {
            conn,
            origin,
            refuse: None,
            were_http1,
            inner: false,
        },
        io,
        http2,
    )
    .await;
}

/// What is known of a caller of one of our ports.
fn inbound_origin(conn: &Conn, port: u16, tls: bool, leaf: Option<Leaf>) -> Origin {
    let published = matches!(*conn.entrance, Entrance::Publish { .. });
    let caller = match conn.peer.get() {
        Some(peer) => Caller::MeshPeer {
            xfcc: leaf.and_then(|leaf| xfcc(conn, peer, &leaf)),
        },
        // Publishing a port lets plain callers in whatever its mode; the exchange strips what only a mesh proxy may
        // send, so nothing is believed of them.
        None if published => Caller::MeshPeer { xfcc: None },
        None => Caller::Outside,
    };
    let mut origin = Origin::inbound(port, caller, tls);
    origin.address = Some(conn.remote.ip());
    origin.source = source(conn);
    origin
}

/// The verified caller of a connection.
pub(crate) fn source(conn: &Conn) -> Option<Source> {
    conn.peer.get().map(|peer| Source {
        identity: Arc::clone(&peer.text),
        // Not known before the peer's record came: unknown, which satisfies nothing.
        workload: peer
            .id
            .and_then(|id| conn.worker.workload_of(id))
            .map_or_else(Arc::default, |known| known.workload.as_str().into()),
        id: peer.id,
    })
}

/// SHA-256 of a caller's certificate.
type Leaf = [u8; 32];

fn xfcc(conn: &Conn, peer: &Peer, leaf: &Leaf) -> Option<http::HeaderValue> {
    let set = conn.worker.tls()?;
    let subject = peer.id.map(|id| format!("CN={id}")).unwrap_or_default();
    naka_engine::exchange::xfcc(&set.svid().spiffe, &peer.spiffe, leaf, &subject)
}

fn sha256(bytes: &[u8]) -> Leaf {
    let hex = naka_identity::sha256_hex(bytes);
    let digit = |at: usize| {
        hex.as_bytes()
            .get(at)
            .and_then(|b| char::from(*b).to_digit(16))
            .unwrap_or(0)
    };
    std::array::from_fn(|i| u8::try_from(digit(2 * i) << 4 | digit(2 * i + 1)).unwrap_or(0))
}

/// The HTTP server of one connection.
pub(crate) async fn http(scope: Scope, io: Io, http2: bool) {
    let conn = Rc::clone(&scope.conn);
    conn.watch(io.moved(), !http2);
    let scope = Rc::new(scope);
    if http2 {
        serve2(&conn, io, scope).await;
    } else {
        serve1(&conn, io, scope).await;
    }
}

fn service(
    scope: Rc<Scope>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response<RespBody>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<RespBody>, Infallible>> + 'static,
> {
    service_fn(move |request| exchange::handle(Rc::clone(&scope), request))
}

async fn serve1(conn: &Rc<Conn>, io: Io, scope: Rc<Scope>) {
    let serving = http1::Builder::new()
        .max_buf_size(limits::HEADER_BYTES)
        .auto_date_header(false)
        .serve_connection(io, service(scope))
        .with_upgrades();
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => Some(ended),
        () = conn.reaches(Phase::Finishing) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving => ended,
                () = conn.reaches(Phase::Closing) => return,
            }
        }
    };
    note(conn, ended);
}

async fn serve2(conn: &Rc<Conn>, io: Io, scope: Rc<Scope>) {
    let mut builder = http2::Builder::new(Local);
    if conn.is_stranger() {
        builder
            .max_concurrent_streams(limits::H2_STREAMS_EDGE)
            .initial_connection_window_size(limits::H2_CONNECTION_WINDOW);
    } else {
        builder
            .max_concurrent_streams(limits::H2_STREAMS_MESH)
            .max_pending_accept_reset_streams(limits::H2_RESETS_MESH)
            .initial_connection_window_size(limits::H2_SHARED_WINDOW);
    }
    let serving = builder
        .timer(hyper_util::rt::TokioTimer::new())
        .auto_date_header(false)
        .initial_stream_window_size(limits::H2_STREAM_WINDOW)
        .max_send_buf_size(limits::H2_SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits::HEADER_BYTES).unwrap_or(u32::MAX))
        .enable_connect_protocol()
        .serve_connection(io.guarded(), service(scope));
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => Some(ended),
        () = conn.reaches(Phase::Finishing) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving => ended,
                () = conn.reaches(Phase::Closing) => return,
            }
        }
    };
    note(conn, ended);
}

/// hyper has answered what it could not parse; it is counted here.
fn note(conn: &Conn, ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        if conn.flooded() {
            refuse(conn, Reason::Flood, "HTTP/2 frames that ask for nothing");
        } else if error.is_parse_too_large() {
            conn.worker.shard.local_reply(Reason::HeadersTooLarge);
        } else if error.is_parse() {
            conn.worker.shard.local_reply(Reason::BadRequest);
        }
        tracing::debug!(error = %crate::fail::chain(&error), peer = %conn.remote, "connection ended");
    }
}
