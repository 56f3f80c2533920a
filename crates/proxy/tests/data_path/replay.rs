//! What is sent again after a connection broke, and what is not: a program counts the requests that reached it whole.
//!
//! The break that matters is that of a reused connection before any byte of an answer: from outside it looks the same
//! whether the connection was closed for being idle or the program died at work on the request.

use crate::mesh::{HOST, Mesh, pair};
use crate::pool::plain;
use crate::program::{Got, client1, full, got, raw, read_head, within};
use http::{Method, Request};
use hyper_util::rt::TokioIo;
use naka_proxy::worker::Entrance;
use naka_types::protocol::Protocol;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// How the first connection ends at its second request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By a reset.
    Reset,
    /// In good order.
    Closed,
}

/// Reads every request whole and counts those to `/work`; the first connection serves one request and breaks at the
/// next.
async fn mortal(end: End, work: &Arc<AtomicUsize>) -> SocketAddr {
    let work = Arc::clone(work);
    let program = raw(move |mut stream, nth| {
        let work = Arc::clone(&work);
        async move {
            for served in 0.. {
                let head = read_head(&mut stream).await.to_ascii_lowercase();
                if head.is_empty() {
                    return;
                }
                let length = head
                    .lines()
                    .find_map(|l| l.strip_prefix("content-length: "));
                let mut body = vec![0; length.map_or(0, |l| l.parse().unwrap())];
                stream.read_exact(&mut body).await.unwrap();
                if head.contains(" /work ") {
                    work.fetch_add(1, SeqCst);
                }
                if nth == 0 && served == 1 {
                    if end == End::Reset {
                        socket2::SockRef::from(&stream)
                            .set_linger(Some(std::time::Duration::ZERO))
                            .unwrap();
                    }
                    return;
                }
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    program.address
}

async fn ask(proxy: SocketAddr, method: Method, path: &str) -> Got {
    let mut sender = client1(TokioIo::new(TcpStream::connect(proxy).await.unwrap())).await;
    let body = if method == Method::POST { "order" } else { "" };
    let request = Request::builder()
        .method(method)
        .uri(format!("http://web{path}"))
        .header("host", "web")
        .body(full(body))
        .unwrap();
    within(async { got(sender.send_request(request).await.unwrap()).await }).await
}

#[tokio::test]
async fn what_a_program_may_have_worked_on_is_repeated_only_if_that_does_no_harm() {
    for (method, end, want, worked) in [
        (Method::POST, End::Reset, 503, 1),
        (Method::POST, End::Closed, 503, 1),
        (Method::PATCH, End::Reset, 503, 1),
        (Method::GET, End::Reset, 200, 2),
        (Method::GET, End::Closed, 200, 2),
    ] {
        for behind_sidecar in [true, false] {
            let work = Arc::new(AtomicUsize::new(0));
            let address = mortal(end, &work).await;
            let (mesh, lone);
            let pair = pair(address, Protocol::Http);
            let outbound = if behind_sidecar {
                pair.outbound
            } else {
                mesh = Mesh::new();
                let snapshot = plain(&mesh, Protocol::Http, &[address]);
                lone = mesh.proxy("shopper", snapshot, &[HOST]);
                lone.open(Entrance::Outbound)
            };
            let case = format!("{method} {end:?} behind a sidecar: {behind_sidecar}");
            assert_eq!(
                ask(outbound, Method::POST, "/warm").await.status,
                200,
                "{case}"
            );
            let answer = ask(outbound, method.clone(), "/work").await;
            assert_eq!(answer.status.as_u16(), want, "{case}: {answer:?}");
            assert_eq!(work.load(SeqCst), worked, "{case}");
            if want == 503 {
                assert_eq!(answer.reason(), "upstream-reset", "{case}");
            }
            assert_eq!(
                ask(outbound, Method::POST, "/warm").await.status,
                200,
                "{case}"
            );
        }
    }
}

/// HTTP/2: the first connection answers one stream and treats all later ones like this.
#[derive(Debug, Clone, Copy)]
enum Stream {
    /// Refused, which says that nobody worked on it.
    Refused,
    /// Broken off.
    Internal,
    /// The connection ends in good order.
    Gone,
}

async fn multiplexed(second: Stream, seen: &Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::clone(seen);
    tokio::spawn(async move {
        let mut streams = 0;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                streams += 1;
                if request.uri().path() == "/work" {
                    seen.fetch_add(1, SeqCst);
                }
                match second {
                    _ if streams != 2 => {
                        respond
                            .send_response(http::Response::new(()), true)
                            .unwrap();
                    }
                    Stream::Refused => respond.send_reset(h2::Reason::REFUSED_STREAM),
                    Stream::Internal => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                    Stream::Gone => break,
                }
            }
        }
    });
    address
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_and_a_broken_one_is_not() {
    for (method, second, want, seen_times) in [
        (Method::POST, Stream::Refused, 200, 2),
        (Method::POST, Stream::Internal, 503, 1),
        (Method::POST, Stream::Gone, 503, 1),
        (Method::GET, Stream::Internal, 200, 2),
        (Method::GET, Stream::Gone, 200, 2),
    ] {
        let seen = Arc::new(AtomicUsize::new(0));
        let address = multiplexed(second, &seen).await;
        let mesh = Mesh::new();
        let caller = mesh.proxy(
            "shopper",
            plain(&mesh, Protocol::Http2, &[address]),
            &[HOST],
        );
        let outbound = caller.open(Entrance::Outbound);
        let case = format!("{method} {second:?}");
        assert_eq!(
            ask(outbound, Method::POST, "/warm").await.status,
            200,
            "{case}"
        );
        let answer = ask(outbound, method, "/work").await;
        assert_eq!(answer.status.as_u16(), want, "{case}: {answer:?}");
        assert_eq!(seen.load(SeqCst), seen_times, "{case}");
    }
}
