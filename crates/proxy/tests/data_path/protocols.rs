//! Protocols between two versions of HTTP: WebSocket over either, HTTP/1.0, upgrades that do not pass, what a port is
//! declared as.

use crate::mesh::{HOST, Mesh};
use crate::program::{
    Answer, client1, client2, exchange, full, get, got, http as program, mirror, raw, read_head,
    within,
};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol as Asked;
use hyper_util::rt::{TokioExecutor, TokioIo};
use naka_engine::model::MtlsMode;
use naka_proxy::worker::Entrance;
use naka_types::protocol::Protocol;
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Of RFC 6455's own example.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const PROOF: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Says what it was asked in, then repeats what comes.
fn repeat(request: Request<Incoming>, said: &'static str) {
    tokio::spawn(async move {
        let mut io = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        io.write_all(said.as_bytes()).await.unwrap();
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = io.read(&mut buffer).await {
            io.write_all(&buffer[..count]).await.unwrap();
        }
        io.shutdown().await.unwrap();
    });
}

/// A program with WebSockets over HTTP/1.1.
async fn over_http1(request: Request<Incoming>) -> Response<Answer> {
    if request
        .headers()
        .get("upgrade")
        .is_none_or(|u| u != "websocket")
        || request.headers()["sec-websocket-key"].len() != 24
    {
        let mut refused = Response::new(full("no websocket"));
        *refused.status_mut() = StatusCode::BAD_REQUEST;
        return refused;
    }
    let proof = (request.headers()["sec-websocket-key"] == KEY).then_some(PROOF);
    repeat(request, "one ");
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("connection", "upgrade".parse().unwrap());
    headers.insert("upgrade", "websocket".parse().unwrap());
    if let Some(proof) = proof {
        headers.insert("sec-websocket-accept", proof.parse().unwrap());
    }
    response
}

/// A program with WebSockets over HTTP/2 alone.
async fn over_http2(connect: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Request<Incoming>| async {
                let asked = request.extensions().get::<Asked>().map(Asked::as_str);
                let mut response = Response::new(full(""));
                if request.method() == Method::CONNECT && asked == Some("websocket") {
                    assert!(!request.headers().contains_key("sec-websocket-key"));
                    repeat(request, "two ");
                } else {
                    *response.status_mut() = StatusCode::BAD_REQUEST;
                }
                Ok::<_, Infallible>(response)
            });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            if connect {
                builder.enable_connect_protocol();
            }
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// What the caller's end says after a message went there and back.
async fn spoken(response: Response<Incoming>) -> String {
    let mut io = TokioIo::new(within(hyper::upgrade::on(response)).await.unwrap());
    io.write_all(b"and back").await.unwrap();
    let mut said = vec![0; 12];
    within(io.read_exact(&mut said)).await.unwrap();
    io.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within(io.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
    String::from_utf8(said).unwrap()
}

async fn asked_in_http1(address: SocketAddr) -> (Response<Incoming>, String) {
    let mut sender = client1(TokioIo::new(TcpStream::connect(address).await.unwrap())).await;
    let request = Request::get("http://web/ws")
        .header("host", "web")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-key", KEY)
        .body(full(""))
        .unwrap();
    let response = within(sender.send_request(request)).await.unwrap();
    let proof = response.headers().get("sec-websocket-accept");
    let proof = proof.map_or("-", |p| p.to_str().unwrap()).to_owned();
    (response, proof)
}

async fn asked_in_http2(address: SocketAddr, protocol: &'static str) -> Response<Incoming> {
    let mut sender = client2(TokioIo::new(TcpStream::connect(address).await.unwrap())).await;
    // The settings that allow it are the server's first frame; an answer comes after them.
    let first = Request::get("http://web/first").body(full("")).unwrap();
    within(sender.send_request(first)).await.unwrap();
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://web/ws")
        .version(Version::HTTP_2)
        .header("sec-websocket-version", "13")
        .body(full(""))
        .unwrap();
    request
        .extensions_mut()
        .insert(Asked::from_static(protocol));
    within(sender.send_request(request)).await.unwrap()
}

/// Both sidecars around a program, in any of the four combinations.
#[tokio::test]
async fn a_websocket_passes_between_any_two_versions() {
    let one = program(over_http1).await.address;
    let two = over_http2(true).await;
    for (address, declared, want) in [
        (one, Protocol::Http, "one "),
        (two, Protocol::Http2, "two "),
    ] {
        let pair = crate::mesh::pair(address, declared);
        let (response, proof) = asked_in_http1(pair.outbound).await;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS, "{want}");
        assert_eq!(proof, PROOF, "{want}");
        assert_eq!(spoken(response).await, format!("{want}and back"));
        let response = asked_in_http2(pair.outbound, "websocket").await;
        assert_eq!(response.status(), StatusCode::OK, "{want}");
        for name in ["upgrade", "connection", "sec-websocket-accept"] {
            assert!(!response.headers().contains_key(name), "{name}");
        }
        assert_eq!(spoken(response).await, format!("{want}and back"));
    }
}

/// The twins: a program that refuses, one that knows no WebSockets over HTTP/2, and another protocol.
#[tokio::test]
async fn what_is_no_websocket_does_not_become_one() {
    let pair = crate::mesh::pair(program(mirror).await.address, Protocol::Http);
    let (response, proof) = asked_in_http1(pair.outbound).await;
    assert_eq!((response.status(), proof.as_str()), (StatusCode::OK, "-"));
    let response = asked_in_http2(pair.outbound, "websocket").await;
    assert_eq!(got(response).await.status, 502, "200 would be a WebSocket");
    assert_eq!(
        asked_in_http2(pair.outbound, "connect-udp").await.status(),
        StatusCode::BAD_REQUEST
    );
    let deaf = crate::mesh::pair(over_http2(false).await, Protocol::Http2);
    let (response, _) = asked_in_http1(deaf.outbound).await;
    assert_eq!(got(response).await.status, 503);
}

#[tokio::test]
async fn an_upgrade_to_h2c_is_ignored_and_any_other_refused() {
    let pair = crate::mesh::pair(program(mirror).await.address, Protocol::Http);
    for (upgrade, want) in [
        ("h2c", "200"),
        ("tls/1.0", "403"),
        ("h2c, websocket", "403"),
    ] {
        let head = format!(
            "GET http://web/ HTTP/1.1\r\nHost: web\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
        );
        let answer = exchange(pair.outbound, head.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {want}")),
            "{upgrade}: {answer}"
        );
    }
}

#[tokio::test]
async fn http_1_0_is_spoken_with_and_without_keep_alive() {
    let program = raw(|mut stream, _| async move {
        loop {
            let head = read_head(&mut stream).await;
            if head.is_empty() {
                return;
            }
            // Towards the program it is HTTP/1.1, whatever the caller speaks.
            let version = head.split_whitespace().nth(2).unwrap_or_default().to_owned();
            let chunks = format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{version}\r\n0\r\n\r\n",
                version.len()
            );
            let _ = stream.write_all(chunks.as_bytes()).await;
        }
    })
    .await;
    let mesh = Mesh::new();
    let called = mesh.proxy(
        "web",
        mesh.inbound(program.address, Protocol::Http, MtlsMode::Permissive),
        &[HOST],
    );
    let inbound = called.open(Entrance::Inbound {
        port: program.address.port(),
    });
    let answer = exchange(inbound, b"GET / HTTP/1.0\r\nHost: web\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nHTTP/1.1"), "no chunks: {answer}");
    // A body of unknown length ends with the connection, so keep-alive needs one of known length.
    let refused = exchange(inbound, b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(
        refused.starts_with("HTTP/1.0 400"),
        "without Host: {refused}"
    );
    let coded = exchange(
        inbound,
        b"POST / HTTP/1.0\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(coded.split(' ').nth(1), Some("400"), "{coded}");
}

/// An answer to HEAD has no body, in HTTP/2 neither, where nobody else would take it out.
#[tokio::test]
async fn a_local_reply_to_head_has_no_body() {
    let pair = crate::mesh::pair(program(mirror).await.address, Protocol::Http);
    for (method, empty) in [("HEAD", true), ("GET", false)] {
        let stream = TokioIo::new(TcpStream::connect(pair.inbound).await.unwrap());
        let mut sender = client2(stream).await;
        let request = Request::builder()
            .method(method)
            .uri("http://web/")
            .body(full(""))
            .unwrap();
        let refused =
            within(async { got(sender.send_request(request).await.unwrap()).await }).await;
        assert_eq!(
            refused.status,
            StatusCode::FORBIDDEN,
            "plaintext to a mesh port"
        );
        assert_eq!(refused.body.is_empty(), empty, "{method}");
    }
}

/// A port is spoken to as it was declared, whatever the version of a caller from outside.
#[tokio::test]
async fn a_program_is_spoken_to_as_its_port_was_declared() {
    let program = program(mirror).await;
    for (declared, caller2, want) in [
        (Protocol::Http, true, "HTTP/1.1"),
        (Protocol::Http2, false, "HTTP/2.0"),
        (Protocol::Auto, true, "HTTP/2.0"),
        (Protocol::Auto, false, "HTTP/1.1"),
    ] {
        let mesh = Mesh::new();
        let snapshot = mesh.inbound(program.address, declared, MtlsMode::Permissive);
        let called = mesh.proxy("web", snapshot, &[HOST]);
        let inbound = called.open(Entrance::Inbound {
            port: program.address.port(),
        });
        let body = if caller2 {
            let stream = TokioIo::new(TcpStream::connect(inbound).await.unwrap());
            let mut sender = client2(stream).await;
            let request = Request::get("http://web/x").body(full("")).unwrap();
            within(async { got(sender.send_request(request).await.unwrap()).await })
                .await
                .body
        } else {
            get(inbound, &format!("http://{inbound}/x")).await.body
        };
        assert!(
            body.contains(&format!("GET /x {want}")),
            "{declared:?}: {body}"
        );
    }
}
