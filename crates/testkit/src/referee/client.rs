//! The calling side: one request to a proxy's port, as a program with proxy variables sends it, or to a gateway, as a
//! client outside the mesh does.
//!
//! A call is built in layers, each of which may be absent: a preamble (PROXY protocol), a CONNECT tunnel through the
//! proxy port, TLS, and then HTTP/1.1, HTTP/2 or bytes. The scheme of the address says which: `http`, `https`, `tcp`,
//! `tls`.

use super::case::{Tls, Wanted};
use super::certs::Certs;
use super::seen::Seen;
use super::upstream::{NUMBER, joined};
use crate::http1::read_head;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
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

/// A byte stream of any layer.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Sends a request and waits for its answer. A connection that breaks or a handshake that fails is an answer with
/// status 0.
///
/// # Errors
/// When there is no such request, or nobody listens at the proxy's port.
pub async fn send(door: &Door, call: &Wanted, number: &str, certs: &Certs) -> Result<Seen> {
    let started = Instant::now();
    let stream = match TcpStream::connect(door.address).await {
        Ok(stream) => stream,
        // An Envoy does not listen where it serves nothing (yet).
        Err(error) if !door.forward => return Ok(failed(error.to_string())),
        Err(error) => return Err(error).context("connect to the proxy"),
    };
    let _ = stream.set_nodelay(true);
    let ends = format!("{} > {}", stream.local_addr()?, stream.peer_addr()?);
    let sent = tokio::time::timeout(PATIENCE, layers(stream, door, call, number, certs)).await;
    let seen = match sent {
        Err(_) => failed(format!("no end within {PATIENCE:?}")),
        Ok(Err(error)) => failed(format!("{error:#}")),
        Ok(Ok(seen)) => seen,
    };
    Ok(Seen {
        ends: Some(ends),
        took: Some(started.elapsed()),
        ..seen
    })
}

fn failed(trail: String) -> Seen {
    Seen {
        trail,
        ..Seen::default()
    }
}

async fn layers(
    mut stream: TcpStream,
    door: &Door,
    call: &Wanted,
    number: &str,
    certs: &Certs,
) -> Result<Seen> {
    let uri = call.uri()?;
    stream.write_all(call.preamble.as_bytes()).await?;
    let scheme = uri.scheme_str().unwrap_or_default();
    let tunnelled = door.forward && (scheme != "http" || call.http.as_deref() == Some("2"));
    if tunnelled {
        let answer = connect(&mut stream, door, &uri).await?;
        if answer.status != 200 {
            return Ok(answer);
        }
    }
    let mut certificate = None;
    let mut alpn = None;
    let mut stream: Box<dyn Stream> = Box::new(stream);
    if matches!(scheme, "https" | "tls") {
        let tls = call.tls.clone().unwrap_or_default();
        let shaken = handshake(stream, &uri, &tls, certs).await?;
        let (_, connection) = shaken.get_ref();
        let shown = connection.peer_certificates().and_then(<[_]>::first);
        certificate = shown.map(|shown| certs.name(shown));
        let chosen = connection.alpn_protocol();
        alpn = chosen.map(|name| String::from_utf8_lossy(name).into_owned());
        stream = Box::new(shaken);
    }
    let h2 = alpn.as_deref() == Some("h2") || call.http.as_deref() == Some("2");
    let seen = match scheme {
        "tcp" | "tls" => bytes(stream, call, number).await?,
        _ if h2 => http2(stream, call, number).await?,
        _ => http1(stream, door, tunnelled, call, number).await?,
    };
    Ok(Seen {
        certificate,
        alpn,
        ..seen
    })
}

/// A tunnel through the proxy's port; its answer.
async fn connect(stream: &mut TcpStream, door: &Door, uri: &http::Uri) -> Result<Seen> {
    let host = uri.host().unwrap_or_default();
    let default = if uri.scheme_str() == Some("http") {
        80
    } else {
        443
    };
    let port = uri.port_u16().unwrap_or(default);
    let credential = door
        .credential
        .as_ref()
        .map_or(String::new(), |c| format!("proxy-authorization: {c}\r\n"));
    let head = format!("CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\n{credential}\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        // Byte by byte: what follows the head belongs to the tunnel.
        answer.push(stream.read_u8().await.context("the tunnel's answer")?);
    }
    let head = read_head(&mut answer.as_slice())?.context("no answer of the tunnel")?;
    Ok(Seen {
        status: head.target.parse().context("a status")?,
        reason: head.header("x-naka-reason").map(str::to_owned),
        headers: head.headers.into_iter().collect(),
        trail: "of the tunnel".to_owned(),
        ..Seen::default()
    })
}

async fn handshake(
    stream: Box<dyn Stream>,
    uri: &http::Uri,
    tls: &Tls,
    certs: &Certs,
) -> Result<tokio_rustls::client::TlsStream<Box<dyn Stream>>> {
    let host = uri.host().unwrap_or_default();
    let mut config = certs.client(tls)?;
    config.enable_sni = tls.sni.as_deref() != Some("");
    let named = tls.sni.as_deref().filter(|name| !name.is_empty());
    let name = ServerName::try_from(named.unwrap_or(host).to_owned())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector
        .connect(name, stream)
        .await
        .context("TLS handshake")
}

async fn http1(
    stream: Box<dyn Stream>,
    door: &Door,
    tunnelled: bool,
    call: &Wanted,
    number: &str,
) -> Result<Seen> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let _connection = Guard(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let uri = call.uri()?;
    let whole = door.forward && !tunnelled;
    let target = match whole {
        true => uri.to_string(),
        false => uri
            .path_and_query()
            .map_or("/".to_owned(), ToString::to_string),
    };
    let mut builder = Request::builder().method(call.method()).uri(target);
    let host = |name: &String| name.eq_ignore_ascii_case("host");
    if !call.headers.keys().any(host) {
        let authority = uri.authority().context("a request names a host")?;
        builder = builder.header("host", authority.as_str());
    }
    if let Some(credential) = door.credential.as_ref().filter(|_| whole) {
        builder = builder.header("proxy-authorization", credential);
    }
    let request = finish(builder, call, number)?;
    read(sender.send_request(request).await).await
}

async fn http2(stream: Box<dyn Stream>, call: &Wanted, number: &str) -> Result<Seen> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let _connection = Guard(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let builder = Request::builder().method(call.method()).uri(call.uri()?);
    let request = finish(builder, call, number)?;
    read(sender.send_request(request).await).await
}

/// A task that ends with its call.
struct Guard(tokio::task::JoinHandle<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn finish(
    mut builder: http::request::Builder,
    call: &Wanted,
    number: &str,
) -> Result<Request<Full<Bytes>>> {
    for (name, value) in &call.headers {
        builder = builder.header(name, value);
    }
    if !number.is_empty() {
        builder = builder.header(NUMBER, number);
    }
    Ok(builder.body(Full::new(Bytes::from(call.body.clone())))?)
}

async fn read(answered: Result<http::Response<Incoming>, hyper::Error>) -> Result<Seen> {
    let (parts, body) = answered?.into_parts();
    let mut headers = joined(&parts.headers);
    let (body, trail) = match body.collect().await {
        Ok(body) => {
            if let Some(trailers) = body.trailers() {
                headers.extend(joined(trailers));
            }
            (body.to_bytes(), String::new())
        }
        Err(error) => (Bytes::new(), format!("the body broke: {error}")),
    };
    Ok(Seen {
        status: parts.status.as_u16(),
        reason: headers.get("x-naka-reason").cloned(),
        headers,
        body: Some(String::from_utf8_lossy(&body).into_owned()),
        trail,
        ..Seen::default()
    })
}

/// Sends a line with the number and waits for it to come back; with `server_first` only after the server has spoken.
async fn bytes(mut stream: Box<dyn Stream>, call: &Wanted, number: &str) -> Result<Seen> {
    let mut got = Vec::new();
    let mut chunk = [0; 4096];
    if call.server_first {
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            bail!("closed before the server spoke");
        }
        got.extend_from_slice(&chunk[..read]);
    }
    let line = format!("{number} {}\n", call.body);
    stream.write_all(line.as_bytes()).await?;
    stream.flush().await?;
    let echo = format!("{}\n", call.body);
    while !String::from_utf8_lossy(&got).ends_with(&echo) {
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            bail!("closed after {:?}", String::from_utf8_lossy(&got));
        }
        got.extend_from_slice(&chunk[..read]);
    }
    Ok(Seen {
        status: 200,
        body: Some(String::from_utf8_lossy(&got).into_owned()),
        ..Seen::default()
    })
}
