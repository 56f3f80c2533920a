//! Programs, endpoints and callers that misbehave.

use crate::mesh::{HOST, Mesh, pair};
use crate::program::{
    client1, full, get, got, http as program, mirror, nobody, raw, read_head, within,
};
use http::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use naka_engine::model::{Cluster, ClusterSpec, MtlsMode, RetryPolicy};
use naka_proxy::worker::Entrance;
use naka_types::protocol::Protocol;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_dead_endpoint_is_passed_over_for_requests_and_connections() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let dead = nobody().await;
    pair.caller
        .publish(pair.mesh.outbound(Protocol::Http, &[dead, pair.inbound]))
        .await;
    for _ in 0..10 {
        let mut sender = client1(TokioIo::new(
            TcpStream::connect(pair.outbound).await.unwrap(),
        ))
        .await;
        let request = Request::post("http://web/")
            .header("host", "web")
            .body(full("body"))
            .unwrap();
        let answer = within(async { got(sender.send_request(request).await.unwrap()).await }).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body.contains("sent=4"), "{answer:?}");
    }
    pair.caller
        .publish(pair.mesh.outbound(Protocol::Http, &[dead]))
        .await;
    let answer = get(pair.outbound, "http://web/").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason()),
        (503, "connect-failed")
    );
    pair.caller
        .publish(pair.mesh.outbound(Protocol::Http, &[]))
        .await;
    let answer = get(pair.outbound, "http://web/").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason()),
        (503, "no-healthy-endpoints")
    );
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_for() {
    let program = raw(|mut stream, _| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let pair = pair(program.address, Protocol::Http);
    let limited = |per_try: Option<u64>| {
        pair.mesh
            .outbound_with(Protocol::Http, &[pair.inbound], "web", |forward| {
                forward.timeout = Some(Duration::from_millis(300));
                forward.retry = RetryPolicy {
                    per_try_timeout: per_try.map(Duration::from_millis),
                    ..RetryPolicy::off()
                };
            })
    };
    for (per_try, want) in [(None, "request-timeout"), (Some(50), "per-try-timeout")] {
        pair.caller.publish(limited(per_try)).await;
        let answer = get(pair.outbound, "http://web/").await;
        assert_eq!(
            (answer.status, answer.reason()),
            (StatusCode::GATEWAY_TIMEOUT, want)
        );
    }
}

#[tokio::test]
async fn a_retry_takes_the_place_of_the_try_before_it() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let program = program(move |request| {
        let first = counter.fetch_add(1, SeqCst) == 0;
        async move {
            let mut answer = mirror(request).await;
            if first {
                *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            answer
        }
    })
    .await;
    let pair = pair(program.address, Protocol::Http);
    let snapshot = pair.mesh.outbound(Protocol::Http, &[pair.inbound]);
    let cluster = snapshot.clusters().next().unwrap();
    let mut spec = ClusterSpec::clone(&cluster.spec);
    spec.limits.requests = 1;
    let limited = Cluster::new(
        cluster.id,
        Arc::new(spec),
        cluster.endpoints.to_vec(),
        Arc::clone(&cluster.runtime),
    );
    let runtime = Arc::clone(&limited.runtime);
    let mut builder = snapshot.edit();
    builder.put_cluster(Arc::new(limited));
    pair.caller.publish(builder.build()).await;
    let answer = get(pair.outbound, "http://web/").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(calls.load(SeqCst), 2);
    pair.caller
        .until("the permit is given back", |_| runtime.requests() == 0)
        .await;
}

#[tokio::test]
async fn a_program_that_talks_nonsense_or_hangs_up_is_named() {
    for (says, want) in [
        (
            &b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..],
            (502, "upstream-protocol-error"),
        ),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", (502, "upstream-protocol-error")),
        (b"", (503, "upstream-reset")),
    ] {
        let program = raw(move |mut stream, _| async move {
            read_head(&mut stream).await;
            stream.write_all(says).await.unwrap();
        })
        .await;
        let pair = pair(program.address, Protocol::Http);
        let answer = get(pair.outbound, "http://web/").await;
        assert_eq!(
            (answer.status.as_u16(), answer.reason()),
            want,
            "{}",
            String::from_utf8_lossy(says)
        );
    }
}

#[tokio::test]
async fn a_response_that_is_cut_off_is_never_taken_for_a_whole_one() {
    let program = raw(|mut stream, _| async move {
        read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")
            .await
            .unwrap();
    })
    .await;
    let pair = pair(program.address, Protocol::Http);
    let mut sender = client1(TokioIo::new(
        TcpStream::connect(pair.outbound).await.unwrap(),
    ))
    .await;
    let request = Request::get("http://web/")
        .header("host", "web")
        .body(full(""))
        .unwrap();
    // The end may overtake the head; what must never come is a whole answer.
    if let Ok(response) = within(sender.send_request(request)).await {
        assert_eq!(response.status(), 200);
        let body = within(http_body_util::BodyExt::collect(response.into_body())).await;
        assert!(body.is_err());
    }
    pair.called
        .until("the called side says so", |p| {
            p.log.text().contains("upstream-reset")
        })
        .await;
}

#[tokio::test]
async fn a_half_closing_program_still_gets_its_answer_out() {
    // Ends its answer by closing, without a length.
    let program = raw(|mut stream, _| async move {
        read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nto the end")
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let pair = pair(program.address, Protocol::Http);
    for _ in 0..3 {
        let answer = get(pair.outbound, "http://web/").await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.as_str()),
            (200, "to the end")
        );
    }
}

#[tokio::test]
async fn a_connection_closed_while_it_waited_costs_no_request() {
    // Closes after each answer without saying so, as a program with a short keep-alive does.
    let program = raw(|mut stream, _| async move {
        read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await
            .unwrap();
    })
    .await;
    let pair = pair(program.address, Protocol::Http);
    let mut sender = client1(TokioIo::new(
        TcpStream::connect(pair.outbound).await.unwrap(),
    ))
    .await;
    for _ in 0..100 {
        let request = Request::post("http://web/")
            .header("host", "web")
            .body(full("x"))
            .unwrap();
        let answer = within(async { got(sender.send_request(request).await.unwrap()).await }).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(program.connections.load(SeqCst), 100);
}

#[tokio::test]
async fn a_caller_that_leaves_early_is_noticed_and_nothing_leaks() {
    let program = raw(|mut stream, _| async move {
        read_head(&mut stream).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let pair = pair(program.address, Protocol::Http);
    for round in 0..20 {
        let mut stream = TcpStream::connect(pair.outbound).await.unwrap();
        stream
            .write_all(b"GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n")
            .await
            .unwrap();
        pair.caller
            .until("the program has it", |_| {
                program.connections.load(SeqCst) > round
            })
            .await;
        drop(stream);
    }
    pair.caller
        .until("all are gone", |p| p.workers.all()[0].connections() == 0)
        .await;
    pair.caller
        .until("each is told", |p| {
            p.log.text().matches("\"reason\":\"client-gone\"").count() == 20
        })
        .await;
    let snapshot = pair.mesh.outbound(Protocol::Http, &[pair.inbound]);
    let active: Vec<_> = snapshot.clusters().map(|c| c.runtime.requests()).collect();
    assert_eq!(active, [0]);
}

#[tokio::test]
async fn plaintext_endpoints_outside_the_mesh_are_called_plainly() {
    let program = program(mirror).await;
    let mesh = Mesh::new();
    let snapshot = mesh.inbound(program.address, Protocol::Http, MtlsMode::Disable);
    let called = mesh.proxy("web", snapshot, &[HOST]);
    let inbound = called.open(Entrance::Inbound {
        port: program.address.port(),
    });
    let answer = crate::program::exchange(
        inbound,
        b"GET /p HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.contains("GET /p HTTP/1.1"), "{answer}");
}
