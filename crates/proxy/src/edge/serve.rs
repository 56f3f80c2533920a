//! A stranger's connection from its first byte to the server that takes it.
//!
//! Where a port has servers with TLS the first bytes are awaited, for a limited time and up to a limited length; a port
//! of plain servers waits for nothing. Bytes that were looked at go on as they came.

use super::hello::{self, Hello};
use crate::guarded::Guarded;
use crate::http::serve::{detected, refuse, source};
use crate::io::Io;
use crate::limits;
use crate::proxy_header::{self, Ends, Header};
use crate::worker::{Conn, Peer, Phase};
use bytes::Bytes;
use naka_engine::canonical::{Caller, Origin};
use naka_engine::model::{Chain, Edge, Met, Security, Serves};
use naka_types::reason::Reason;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

/// What the first bytes say.
#[derive(Default)]
struct First {
    bytes: Vec<u8>,
    tls: bool,
    server_name: Option<String>,
}

/// Serves a connection of a gateway's port to its end.
pub(crate) async fn connection(conn: Rc<Conn>, mut stream: TcpStream, port: u16) {
    let Some(edge) = conn.worker.snapshot().edge(port).cloned() else {
        return refuse(&conn, Reason::ConfigUnavailable, "no Gateway has this port");
    };
    let mut first = First::default();
    let direct = conn.remote.ip().to_canonical();
    let mut caller = direct;
    if edge.proxy_protocol {
        if !edge.trusts(direct) {
            return refuse(
                &conn,
                Reason::BadRequest,
                "no PROXY header is believed of this address",
            );
        }
        let heading = heading(&conn, &mut stream, &mut first);
        match tokio::time::timeout(limits::HEADER_READ, heading).await {
            Ok(Ok(Some(Some(ends)))) => {
                caller = ends.from.ip().to_canonical();
                // The cell is empty: a connection begins once.
                let _ = conn.told.set(ends);
            }
            Ok(Ok(Some(None))) => {}
            Ok(Ok(None)) => return,
            Ok(Err(why)) => return refuse(&conn, Reason::BadRequest, why),
            Err(_) => return refuse(&conn, Reason::BadRequest, "no PROXY header in time"),
        }
    }
    if let Some((port_limits, gate)) = &edge.limits {
        match gate.enter(port_limits, caller, crate::edge::uptime()) {
            // The cell is empty: a connection enters once.
            Ok(entered) => drop(conn.entered.set(entered)),
            Err(which) => return refuse(&conn, Reason::RateLimited, which),
        }
    }
    if edge.looks_at_tls() {
        let looking = look(&conn, &mut stream, &mut first);
        match tokio::time::timeout(limits::HEADER_READ, looking).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return,
            Ok(Err(why)) => return refuse(&conn, Reason::TlsFailed, why),
            Err(_) => return refuse(&conn, Reason::TlsFailed, "no client hello in time"),
        }
    }
    let met = Met {
        tls: first.tls,
        server_name: first.server_name.as_deref(),
        local: conn.local.ip().to_canonical(),
        direct,
        remote: caller,
    };
    let Some(chain) = edge.choose(&met).cloned() else {
        return refuse(&conn, Reason::NoRoute, &nobody(&first));
    };
    taken(conn, stream, first, &edge, &chain, caller).await;
}

/// Why no server takes a connection; a server name is a checked host name, so it may be shown.
fn nobody(first: &First) -> String {
    match (first.tls, &first.server_name) {
        (false, _) => "no server of this port speaks plaintext".to_owned(),
        (true, None) => "no server takes a client that names none".to_owned(),
        (true, Some(name)) => format!("no server takes the name {name}"),
    }
}

/// Reads the PROXY header and takes it off; `None` when the caller left or is to be closed, else what it names.
async fn heading(
    conn: &Conn,
    stream: &mut TcpStream,
    first: &mut First,
) -> Result<Option<Option<Ends>>, &'static str> {
    loop {
        match proxy_header::read(&first.bytes) {
            Header::Read(length, caller) => {
                first.bytes.drain(..length);
                return Ok(Some(caller));
            }
            Header::Malformed => return Err("the first bytes are no sound PROXY header"),
            Header::More => {}
        }
        let read = tokio::select! {
            biased;
            read = stream.read_buf(&mut first.bytes) => read,
            () = conn.reaches(Phase::Closing) => return Ok(None),
        };
        if matches!(read, Ok(0) | Err(_)) {
            return Ok(None);
        }
    }
}

/// Reads until it is known what the caller begins with; false when it left or is to be closed.
async fn look(
    conn: &Conn,
    stream: &mut TcpStream,
    first: &mut First,
) -> Result<bool, &'static str> {
    loop {
        if let Some(seen) = begins(first)? {
            return Ok(seen);
        }
        let end = if first.bytes.is_empty() && conn.phase() == Phase::Open {
            Phase::Finishing
        } else {
            Phase::Closing
        };
        let read = tokio::select! {
            biased;
            read = stream.read_buf(&mut first.bytes) => read,
            () = conn.reaches(end) => return Ok(false),
        };
        if matches!(read, Ok(0) | Err(_)) {
            return Ok(false);
        }
    }
}

/// What the bytes so far begin with; `None` while more are needed.
fn begins(first: &mut First) -> Result<Option<bool>, &'static str> {
    match first.bytes.first() {
        None => return Ok(None),
        Some(22) => {}
        Some(_) => return Ok(Some(true)),
    }
    match hello::read(&first.bytes) {
        Hello::Said(said) => {
            first.tls = true;
            first.server_name = said.name;
            Ok(Some(true))
        }
        Hello::Malformed => Err("the first bytes are no client hello"),
        Hello::More => Ok(None),
    }
}

async fn taken(
    conn: Rc<Conn>,
    stream: TcpStream,
    first: First,
    edge: &Edge,
    chain: &Arc<Chain>,
    caller: IpAddr,
) {
    let mut origin = Origin::gateway(edge.port, chain.security != Security::None, Some(caller));
    origin.chain = Some(Arc::clone(&chain.name));
    origin.grpc_web = chain.grpc_web;
    origin.server.clone_from(&chain.server);
    let config = match chain.security {
        Security::None => None,
        Security::Served => match conn.worker.edge_tls(edge.port, &chain.name) {
            Some(config) => Some(config),
            None => {
                return refuse(
                    &conn,
                    Reason::TlsFailed,
                    "the server has no certificate (yet)",
                );
            }
        },
        Security::Mesh => match conn.worker.tls() {
            Some(set) => Some(set.inbound()),
            None => {
                return refuse(
                    &conn,
                    Reason::TlsFailed,
                    "this proxy has no certificate yet",
                );
            }
        },
    };
    if let (Serves::Named, Some(name)) = (&chain.serves, &first.server_name) {
        origin.destination = Some((name.as_str().into(), edge.port));
    }
    let guarded = Guarded::new(&conn, chain.access.as_ref(), caller);
    if config.is_some() && guarded.banned() {
        return;
    }
    let io = match config {
        None => {
            let mut io = Io::plain(stream);
            io.put_back(Bytes::from(first.bytes));
            io
        }
        Some(config) => match open(stream, &first.bytes, config).await {
            Ok(stream) => {
                // A stranger's certificate names nobody of the mesh, however sound it is.
                if chain.security == Security::Mesh {
                    if let Err((reason, detail)) = remember(&conn, &stream) {
                        return guarded.failed(reason, &detail);
                    }
                    guarded.done();
                    origin.caller = Caller::MeshPeer { xfcc: None };
                    origin.source = source(&conn);
                }
                Io::accepted(stream)
            }
            Err((reason, detail)) => return guarded.failed(reason, &detail),
        },
    };
    match chain.serves {
        Serves::Http(_) => detected(conn, io, origin, None).await,
        Serves::Bytes(_) | Serves::Named => crate::tcp::serve::to_program(conn, io, &origin).await,
    }
}

/// The TLS handshake of a connection whose first bytes were read.
async fn open(
    stream: TcpStream,
    first: &[u8],
    config: Arc<ServerConfig>,
) -> Result<TlsStream<TcpStream>, (Reason, String)> {
    let failed = |detail: String| (Reason::TlsFailed, detail);
    let mut acceptor = Acceptor::default();
    let mut rest = first;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(0) | Err(_) => return Err(failed("the client hello is too long".to_owned())),
            Ok(_) => {}
        }
    }
    let accepted = match acceptor.accept() {
        Ok(Some(accepted)) => accepted,
        Ok(None) => return Err(failed("the client hello is not complete".to_owned())),
        Err((error, mut alert)) => {
            let mut words = Vec::new();
            // Into memory, which never fails.
            let _infallible = alert.write(&mut words);
            let _best_effort = stream.try_write(&words);
            return Err(failed(error.to_string()));
        }
    };
    let config = offering(config, accepted.client_hello().alpn());
    let handshake = StartHandshake::from_parts(accepted, stream).into_stream(config);
    let stream = match tokio::time::timeout(limits::TLS_HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let reason = naka_identity::reason_of_io(&error, naka_identity::Side::Server);
            let reason = reason.unwrap_or(Reason::TlsFailed);
            return Err((reason, crate::fail::chain(&error)));
        }
        Err(_) => return Err(failed("the TLS handshake took too long".to_owned())),
    };
    Ok(stream)
}

/// Settings for a client that offers these protocols. As with Envoy one that offers none of the server's is let in with
/// no protocol agreed; rustls by itself would refuse it.
fn offering<'a>(
    config: Arc<ServerConfig>,
    offered: Option<impl Iterator<Item = &'a [u8]>>,
) -> Arc<ServerConfig> {
    let Some(mut offered) = offered else {
        return config;
    };
    if offered.any(|name| config.alpn_protocols.iter().any(|own| own == name)) {
        return config;
    }
    let mut none = ServerConfig::clone(&config);
    none.alpn_protocols.clear();
    Arc::new(none)
}

/// Remembers a caller of the mesh.
fn remember(conn: &Conn, stream: &TlsStream<TcpStream>) -> Result<(), (Reason, String)> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = naka_identity::peer_of(certificates)
        .map_err(|error| (Reason::PeerUntrusted, error.to_string()))?;
    if let Some(id) = peer.workload_id {
        conn.worker.ask_for(id);
    }
    // The cell is empty: a connection has one handshake.
    let _ = conn.peer.set(Peer {
        text: peer.spiffe.to_string().into(),
        id: peer.workload_id,
        spiffe: peer.spiffe,
        top: None,
    });
    Ok(())
}
