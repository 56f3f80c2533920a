//! Makes one connection to an endpoint: TCP, then TLS where the endpoint has the mesh mark, each with its time limit.
//!
//! A wrong identity on the other side is its own reason, so that an operator sees an impostor apart from a dead host.

use crate::fail::{Fail, chain};
use crate::io::Io;
use crate::limits::TLS_HANDSHAKE;
use naka_types::reason::Reason;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How a connection is secured.
#[derive(Debug, Clone)]
pub(crate) struct Secured {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

/// Connects within `limit`; plain without `secured`.
pub(crate) async fn connect(
    address: SocketAddr,
    limit: Duration,
    secured: Option<&Secured>,
) -> Result<Io, Fail> {
    let stream = tcp(address, limit).await?;
    match secured {
        None => Ok(Io::plain(stream)),
        Some(secured) => tls(stream, secured).await,
    }
}

async fn tcp(address: SocketAddr, limit: Duration) -> Result<TcpStream, Fail> {
    let stream = match tokio::time::timeout(limit, TcpStream::connect(address)).await {
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
