//! Connections: TLS for clients anywhere, the control socket for the mesh's owner.
//!
//! A connection that does not finish its handshake or its headers in time is dropped, and the number of connections is
//! bounded, so that a stranger cannot take the port away from others for long.

use super::auth::Peer;
use super::{State, confirm, router};
use crate::waiting::Waiting;
use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

/// Most connections at once, over both listeners.
const MAX_CONNECTIONS: usize = 2048;
/// Most connections of a port that gives only numbers away; the oldest makes room.
const MAX_PLAIN: usize = 128;
/// Longest life of one of them: a scraper comes again.
const LONGEST: Duration = Duration::from_mins(10);
/// Time for a TLS handshake, and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection (out of descriptors), so that the loop does not spin.
const BREATHER: Duration = Duration::from_millis(50);

/// Where the API listens.
#[derive(Debug)]
pub struct Listeners {
    /// TLS port with its configuration, if any. ALPN should offer `h2` and `http/1.1`.
    pub tls: Option<(TcpListener, Arc<ServerConfig>)>,
    /// Control socket, if any.
    pub unix: Option<UnixListener>,
}

/// Serves until `shutdown` resolves; open connections then end at once (watches never end by themselves). Also watches
/// over changes that wait for their confirmation.
pub async fn serve(state: Arc<State>, listeners: Listeners, shutdown: impl Future<Output = ()>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let app = router(state.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(confirm::watch_pending(state));
    if let Some((listener, config)) = listeners.tls {
        tasks.spawn(tls(
            app.clone(),
            listener,
            TlsAcceptor::from(config),
            room.clone(),
        ));
    }
    if let Some(listener) = listeners.unix {
        tasks.spawn(unix(app, listener, room));
    }
    shutdown.await;
    tasks.shutdown().await;
}

async fn tls(app: Router, listener: TcpListener, acceptor: TlsAcceptor, room: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    let places = Waiting::new(MAX_CONNECTIONS);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                refused(&error).await;
                continue;
            }
        };
        let (app, acceptor) = (app.clone(), acceptor.clone());
        let (place, room) = (places.enter(), room.clone());
        connections.spawn(async move {
            let _ = stream.set_nodelay(true);
            if let Some(Ok(stream)) = place.hold(PATIENCE, acceptor.accept(stream)).await {
                // Who has finished a handshake and finds no room is sent away rather than kept waiting.
                let Ok(_permit) = room.try_acquire_owned() else {
                    return;
                };
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                connection(app, stream, Peer::Tls, http2).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn unix(app: Router, listener: UnixListener, room: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                refused(&error).await;
                continue;
            }
        };
        let Some(peer) = peer_of(&stream) else {
            continue;
        };
        let app = app.clone();
        connections.spawn(async move {
            let _permit = permit;
            connection(app, stream, peer, false).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Serves a router in plain HTTP/1 until it is dropped, with the same limits.
pub(crate) async fn plain(app: Router, listener: TcpListener) {
    let mut connections = JoinSet::new();
    let places = Waiting::new(MAX_PLAIN);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                refused(&error).await;
                continue;
            }
        };
        let (app, place) = (app.clone(), places.enter());
        connections.spawn(async move {
            place
                .hold(LONGEST, connection(app, stream, Peer::Tls, false))
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

fn peer_of(stream: &UnixStream) -> Option<Peer> {
    let credentials = stream.peer_cred().ok()?;
    Some(Peer::Unix {
        uid: credentials.uid(),
        pid: credentials.pid(),
    })
}

async fn refused(error: &io::Error) {
    tracing::warn!(%error, "the API could not take a connection");
    tokio::time::sleep(BREATHER).await;
}

/// The version is told by ALPN rather than guessed from first bytes, which a silent client would never send.
async fn connection(
    app: Router,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    http2: bool,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        app.clone().call(request)
    });
    let stream = TokioIo::new(stream);
    // Errors here are the client's going away in the middle; there is nobody left to tell.
    let _ = if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(128)
            .keep_alive_interval(PATIENCE);
        builder.serve_connection(stream, service).await
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE);
        builder.serve_connection(stream, service).await
    };
}
