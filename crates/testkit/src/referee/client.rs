//! The calling side: one request to a proxy's port, as a program with proxy variables sends it, or to a gateway, as a
//! client outside the mesh does.
//!
//! Everything that knows how bytes get to a proxy is here: other protocols (HTTP/2, TLS, raw bytes) are further
//! functions of this module.

use super::seen::Seen;
use super::upstream::joined;
use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// A call that takes longer than this has hung.
const PATIENCE: Duration = Duration::from_secs(15);

/// How a proxy is reached.
#[derive(Debug, Clone)]
pub struct Door {
    /// Its port.
    pub address: SocketAddr,
    /// What its proxy port wants to see, if anything.
    pub credential: Option<String>,
    /// Whether it is a proxy port (requests name the whole address) or a server's (they name the path).
    pub forward: bool,
}

/// A request to be sent.
#[derive(Debug)]
pub struct Call<'a> {
    /// `GET http://payment/pay`
    pub request: &'a str,
    /// Headers.
    pub headers: &'a BTreeMap<String, String>,
    /// Body.
    pub body: &'a str,
    /// More headers.
    pub number: Option<&'a str>,
}

/// Sends a request and waits for its answer. A connection that breaks is an answer with status 0.
///
/// # Errors
/// When there is no such request, or nobody listens.
pub async fn send(door: &Door, call: &Call<'_>) -> Result<Seen> {
    let started = Instant::now();
    let stream = TcpStream::connect(door.address)
        .await
        .context("connect to the proxy")?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let answered = tokio::time::timeout(PATIENCE, sender.send_request(request(door, call)?)).await;
    let seen = match answered {
        Err(_) => Seen {
            trail: format!("no answer within {PATIENCE:?}"),
            ..Seen::default()
        },
        Ok(Err(error)) => Seen {
            trail: error.to_string(),
            ..Seen::default()
        },
        Ok(Ok(response)) => {
            let (parts, body) = response.into_parts();
            let headers = joined(&parts.headers);
            let body = tokio::time::timeout(PATIENCE, body.collect()).await;
            let (body, trail) = match body {
                Ok(Ok(body)) => (body.to_bytes(), String::new()),
                Ok(Err(error)) => (Bytes::new(), format!("the body broke: {error}")),
                Err(_) => (Bytes::new(), "the body never ended".to_owned()),
            };
            Seen {
                status: parts.status.as_u16(),
                reason: headers.get("x-naka-reason").cloned(),
                headers,
                body: Some(String::from_utf8_lossy(&body).into_owned()),
                trail,
                ..Seen::default()
            }
        }
    };
    connection.abort();
    Ok(Seen {
        took: Some(started.elapsed()),
        ..seen
    })
}

fn request(door: &Door, call: &Call<'_>) -> Result<Request<Full<Bytes>>> {
    let (method, url) = call
        .request
        .split_once(' ')
        .unwrap_or(("GET", call.request));
    let uri: http::Uri = url.parse().with_context(|| url.to_owned())?;
    let authority = uri
        .authority()
        .context("a request names a host")?
        .to_string();
    let target = match door.forward {
        true => uri.to_string(),
        false => uri
            .path_and_query()
            .map_or("/".to_owned(), ToString::to_string),
    };
    let mut request = Request::builder().method(method).uri(target);
    if !call
        .headers
        .keys()
        .any(|name| name.eq_ignore_ascii_case("host"))
    {
        request = request.header("host", authority);
    }
    for (name, value) in call.headers {
        request = request.header(name, value);
    }
    if let Some(credential) = &door.credential {
        request = request.header("proxy-authorization", credential);
    }
    if let Some(number) = call.number {
        request = request.header(super::upstream::NUMBER, number);
    }
    Ok(request.body(Full::new(Bytes::from(call.body.to_owned())))?)
}
