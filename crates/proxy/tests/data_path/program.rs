//! Programs behind the mesh and clients in front of it.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) type Answer = http_body_util::combinators::BoxBody<Bytes, Infallible>;

pub(crate) fn full(text: impl Into<Bytes>) -> Answer {
    Full::new(text.into()).boxed()
}

/// A program that answers HTTP of both versions and counts its connections.
pub(crate) struct Program {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
}

/// Serves requests by a function.
pub(crate) async fn http<F, R>(answer: F) -> Program
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Answer>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, SeqCst);
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Program {
        address,
        connections,
    }
}

/// Says what it saw: method, path, version, some headers, body length; trailers follow if asked for.
pub(crate) async fn mirror(request: Request<Incoming>) -> Response<Answer> {
    let (parts, body) = request.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    let field = |name: &str| {
        parts
            .headers
            .get(name)
            .map_or("-", |v| v.to_str().unwrap())
            .to_owned()
    };
    let text = format!(
        "{} {} {:?} host={} xfcc={} te={} conn={} sent={} trailer={}",
        parts.method,
        parts.uri.path_and_query().map_or("", |p| p.as_str()),
        parts.version,
        parts.headers.get("host").map_or_else(
            || parts
                .uri
                .authority()
                .map_or("-".into(), ToString::to_string),
            |h| h.to_str().unwrap().to_owned()
        ),
        field("x-forwarded-client-cert"),
        field("te"),
        field("proxy-authorization"),
        collected.to_bytes().len(),
        trailers.map_or("-".into(), |t| t["x-sum"].to_str().unwrap().to_owned()),
    );
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let frames = [
        Ok(Frame::data(Bytes::from(text))),
        Ok(Frame::trailers(trailers)),
    ];
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed());
    response
        .headers_mut()
        .insert("trailer", "grpc-status".parse().unwrap());
    response
}

/// Serves raw connections by a function.
pub(crate) async fn raw<F, R>(serve: F) -> Program
where
    F: Fn(TcpStream, usize) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, counted.fetch_add(1, SeqCst)));
        }
    });
    Program {
        address,
        connections,
    }
}

/// Reads a request head.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await;
        match byte {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// A response read to its end.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Got {
    pub(crate) fn reason(&self) -> &str {
        self.headers
            .get("x-naka-reason")
            .map_or("-", |v| v.to_str().unwrap())
    }
}

pub(crate) async fn got<B: Body<Data = Bytes>>(response: Response<B>) -> Got
where
    B::Error: std::fmt::Debug,
{
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    let body = String::from_utf8(collected.to_bytes().to_vec()).unwrap();
    Got {
        status: parts.status,
        headers: parts.headers,
        body,
        trailers,
    }
}

pub(crate) type Sender1 = hyper::client::conn::http1::SendRequest<Answer>;
pub(crate) type Sender2 = hyper::client::conn::http2::SendRequest<Answer>;

pub(crate) async fn client1(
    stream: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
) -> Sender1 {
    let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

pub(crate) async fn client2(
    stream: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
) -> Sender2 {
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

/// One GET through a forward proxy.
pub(crate) async fn get(proxy: SocketAddr, uri: &str) -> Got {
    let mut sender = client1(TokioIo::new(TcpStream::connect(proxy).await.unwrap())).await;
    let host = uri
        .parse::<http::Uri>()
        .unwrap()
        .authority()
        .unwrap()
        .to_string();
    let request = Request::get(uri)
        .header("host", host)
        .body(full(""))
        .unwrap();
    within(async { got(sender.send_request(request).await.unwrap()).await }).await
}

/// Opens a tunnel; the socket is handed back after the 200.
pub(crate) async fn connect(proxy: SocketAddr, target: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = within(read_head(&mut stream)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stream
}

/// Sends bytes, reads all that comes back.
pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end here.
    let _ = within(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Nothing in these tests may take longer.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("too slow")
}
