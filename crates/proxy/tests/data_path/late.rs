//! A route's timeout holds until the response has ended; what has none is never cut.

use crate::mesh::{HOST, Pair, pair};
use crate::program::{Answer, client1, client2, connect, full, http as program, read_head, within};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use naka_types::protocol::Protocol;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_millis(300);

async fn limited(pair: &Pair, protocol: Protocol, timeout: Option<Duration>) {
    let snapshot = pair
        .mesh
        .outbound_with(protocol, &[pair.inbound], "web", |f| f.timeout = timeout);
    pair.caller.publish(snapshot).await;
}

/// Sends a chunk every few milliseconds for as long as the path says.
async fn drip(request: Request<Incoming>) -> Response<Answer> {
    let millis: u64 = request.uri().path()[1..].parse().unwrap();
    let end = Instant::now() + Duration::from_millis(millis);
    let ticks = tokio::time::interval(Duration::from_millis(10));
    let chunks = futures_util::stream::unfold(ticks, move |mut ticks| async move {
        ticks.tick().await;
        (Instant::now() < end).then(|| (Ok(Frame::data(Bytes::from_static(b"drip"))), ticks))
    });
    Response::new(StreamBody::new(chunks).boxed())
}

/// Answers with a head and a chunk, then nothing.
async fn stall(_: Request<Incoming>) -> Response<Answer> {
    let chunk = futures_util::stream::once(async { Ok(Frame::data(Bytes::from_static(b"one"))) });
    let stalled = futures_util::StreamExt::chain(chunk, futures_util::stream::pending());
    Response::new(StreamBody::new(stalled).boxed())
}

/// Whether the response came whole.
async fn whole(pair: &Pair, http2: bool, path: &str) -> bool {
    let request = || {
        Request::get(format!("http://web{path}"))
            .header("host", "web")
            .header("content-type", "application/grpc")
            .body(full(""))
            .unwrap()
    };
    let response = if http2 {
        let mut sender = client2(TokioIo::new(connect(pair.outbound, "web:80").await)).await;
        within(sender.send_request(request())).await.unwrap()
    } else {
        let stream = TcpStream::connect(pair.outbound).await.unwrap();
        let mut sender = client1(TokioIo::new(stream)).await;
        within(sender.send_request(request())).await.unwrap()
    };
    assert_eq!(response.status(), 200);
    within(response.into_body().collect()).await.is_ok()
}

#[tokio::test]
async fn the_timeout_cuts_a_response_that_goes_on_and_leaves_one_that_ends() {
    for (protocol, http2) in [(Protocol::Http, false), (Protocol::Grpc, true)] {
        for moving in [true, false] {
            let program = if moving {
                program(drip).await
            } else {
                program(stall).await
            };
            let pair = pair(program.address, protocol);
            limited(&pair, protocol, Some(LIMIT)).await;
            let begun = Instant::now();
            assert!(
                !whole(&pair, http2, "/60000").await,
                "{protocol:?} {moving}"
            );
            let took = begun.elapsed();
            assert!(took >= LIMIT && took < LIMIT * 10, "{took:?}");
            pair.caller
                .until("the log says why", |p| {
                    p.log.text().contains("\"reason\":\"request-timeout\"")
                })
                .await;
            pair.called
                .until("the called side is let go", |p| {
                    p.log.text().contains("\"reason\":\"client-gone\"")
                })
                .await;
            if moving {
                assert!(whole(&pair, http2, "/50").await);
                assert_eq!(pair.caller.log.text().matches("request-timeout").count(), 1);
            }
        }
    }
}

#[tokio::test]
async fn streams_without_a_timeout_are_never_cut() {
    for (protocol, http2) in [(Protocol::Http, false), (Protocol::Grpc, true)] {
        let program = program(drip).await;
        let pair = pair(program.address, protocol);
        limited(&pair, protocol, None).await;
        assert!(whole(&pair, http2, "/1500").await, "{protocol:?}");
        let none = |p: &crate::mesh::Proxy| p.log.text().contains("\"response_code\":200");
        pair.caller.until("it is logged", none).await;
        assert!(!pair.caller.log.text().contains("request-timeout"));
    }
}

#[tokio::test]
async fn a_caller_that_reads_nothing_is_let_go_too() {
    let program = program(|_| async {
        let megabytes = (0..64).map(|_| Ok(Frame::data(Bytes::from(vec![7; 1 << 20]))));
        Response::new(StreamBody::new(futures_util::stream::iter(megabytes)).boxed())
    })
    .await;
    let pair = pair(program.address, Protocol::Http);
    limited(&pair, Protocol::Http, Some(LIMIT)).await;
    let mut stream = TcpStream::connect(pair.outbound).await.unwrap();
    let head = format!("GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(
        within(read_head(&mut stream))
            .await
            .starts_with("HTTP/1.1 200")
    );
    pair.caller
        .until("the log says why", |p| {
            p.log.text().contains("\"reason\":\"request-timeout\"")
        })
        .await;
}

#[tokio::test]
async fn an_upgraded_connection_outlives_the_timeout() {
    let program = crate::program::raw(|mut stream, _| async move {
        read_head(&mut stream).await;
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let pair = pair(program.address, Protocol::Http);
    limited(&pair, Protocol::Http, Some(LIMIT)).await;
    let mut stream = TcpStream::connect(pair.outbound).await.unwrap();
    let head = "GET http://web/ HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(
        within(read_head(&mut stream))
            .await
            .starts_with("HTTP/1.1 101")
    );
    // Longer than the sweep needs to find anything overdue.
    let begun = Instant::now();
    while begun.elapsed() < LIMIT * 8 {
        stream.write_all(b"ping").await.unwrap();
        let mut back = [0; 4];
        within(stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, b"ping");
        tokio::task::yield_now().await;
    }
    drop(stream);
    pair.caller
        .until("it is logged as complete", |p| {
            let text = p.log.text();
            text.contains("\"response_code\":101") && !text.contains("request-timeout")
        })
        .await;
}
