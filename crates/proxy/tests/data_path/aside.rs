//! What a route does beside sending a request on: copies, injected faults, answers to browsers. Programs count what
//! reached them.

use crate::mesh::{HOST, Mesh, Proxy};
use crate::pool::plain;
use crate::program::{Got, client1, full, get, got, http, nobody, raw, within};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use naka_engine::model::{
    AbortStatus, Action, Cors, Extras, Fault, Mirror, Route, Share, Snapshot, TextCondition,
    VirtualHost,
};
use naka_proxy::worker::Entrance;
use naka_types::protocol::Protocol;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Host and body length of every request that came.
type Seen = Arc<Mutex<Vec<(String, usize)>>>;

async fn counting() -> (SocketAddr, Seen) {
    let seen: Seen = Arc::default();
    let book = Arc::clone(&seen);
    let program = http(move |request| {
        let book = Arc::clone(&book);
        async move {
            let host = request.headers()["host"].to_str().unwrap().to_owned();
            // A body that ends early counts for nothing.
            if let Ok(body) = request.into_body().collect().await {
                let length = body.to_bytes().len();
                book.lock().unwrap().push((host, length));
            }
            Response::new(full("ok"))
        }
    })
    .await;
    (program.address, seen)
}

/// The route of a snapshot, changed.
fn with(snapshot: &Snapshot, change: impl FnOnce(&mut Route)) -> Snapshot {
    let mut vhost = VirtualHost::clone(snapshot.virtual_hosts().next().unwrap());
    let mut route = Route::clone(&vhost.routes[0]);
    change(&mut route);
    vhost.routes = [Arc::new(route)].into();
    let mut builder = snapshot.edit();
    builder.put_virtual_host(Arc::new(vhost));
    builder.build()
}

/// A proxy whose route leads to one program and copies to another.
fn copying(mesh: &Mesh, to: SocketAddr, copy: Option<SocketAddr>) -> Proxy {
    let mut builder = plain(mesh, Protocol::Http, &[to]).edit();
    let name: Arc<str> = "outbound|80||audit".into();
    let mirror = copy.map(|copy| {
        let cluster = mesh.cluster(&name, Protocol::Http, &[(copy, false)], None);
        let id = cluster.id;
        builder.put_cluster(cluster);
        Mirror {
            cluster: id,
            name: Arc::clone(&name),
            share: Share::ALL,
        }
    });
    let snapshot = with(&builder.build(), |route| {
        if let Action::Forward(forward) = &mut route.action {
            forward.mirrors = mirror.into_iter().collect();
        }
    });
    mesh.proxy("shopper", snapshot, &[HOST])
}

async fn send(proxy: SocketAddr, method: Method, body: impl Into<Bytes>, origin: &str) -> Got {
    let mut sender = client1(TokioIo::new(TcpStream::connect(proxy).await.unwrap())).await;
    let request = Request::builder()
        .method(method)
        .uri("http://web/pay")
        .header("host", "web")
        .header("origin", origin)
        .header("access-control-request-method", "PUT")
        .body(full(body))
        .unwrap();
    within(async { got(sender.send_request(request).await.unwrap()).await }).await
}

async fn until(proxy: &Proxy, line: &str) {
    within(async {
        while !proxy.metrics.render().contains(line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_copy_has_the_whole_body_and_says_that_it_is_one() {
    for copied in [true, false] {
        let mesh = Mesh::new();
        let (main, own) = counting().await;
        let (audit, copies) = counting().await;
        let proxy = copying(&mesh, main, copied.then_some(audit));
        let outbound = proxy.open(Entrance::Outbound);
        let bodies = [0, 1, 100_000, 700_000];
        for length in bodies {
            let answer = send(outbound, Method::POST, vec![b'x'; length], "-").await;
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (StatusCode::OK, "ok")
            );
        }
        assert_eq!(own.lock().unwrap().len(), bodies.len());
        if copied {
            until(&proxy, "naka_mirror_requests_total{outcome=\"sent\"} 4").await;
            let mut all = copies.lock().unwrap().clone();
            all.sort_unstable();
            assert_eq!(all, bodies.map(|length| ("web-shadow".to_owned(), length)));
        } else {
            assert!(copies.lock().unwrap().is_empty());
        }
    }
}

#[tokio::test]
async fn a_copy_that_nobody_takes_or_reads_hurts_nobody_and_is_bounded() {
    let mesh = Mesh::new();
    let (main, own) = counting().await;
    let deaf = raw(|mut stream, _| async move {
        // Takes the head and not one byte of the body.
        let _ = stream.read_u8().await;
        std::future::pending::<()>().await;
    })
    .await;
    for (to, line) in [
        (
            deaf.address,
            "naka_mirror_requests_total{outcome=\"dropped\"} 3",
        ),
        (
            nobody().await,
            "naka_mirror_requests_total{outcome=\"dropped\"} 3",
        ),
    ] {
        let proxy = copying(&mesh, main, Some(to));
        let outbound = proxy.open(Entrance::Outbound);
        let before = own.lock().unwrap().len();
        for _ in 0..3 {
            // Far more than may wait for a copy and than sockets hold.
            let answer = send(outbound, Method::POST, vec![b'x'; 16 << 20], "-").await;
            assert_eq!(answer.status, StatusCode::OK);
        }
        assert_eq!(own.lock().unwrap().len() - before, 3);
        until(&proxy, line).await;
    }
}

#[tokio::test]
async fn an_injected_delay_is_waited_for_and_an_injected_answer_reaches_nobody() {
    // Long beside what a call takes on a busy machine, because one without the delay must be quicker.
    let pause = Duration::from_secs(1);
    for (delay, abort, status, calls) in [
        (true, false, 200, 1),
        (true, true, 418, 0),
        (false, false, 200, 1),
    ] {
        let mesh = Mesh::new();
        let (main, own) = counting().await;
        let snapshot = with(&plain(&mesh, Protocol::Http, &[main]), |route| {
            route.extras = Extras {
                fault: Some(Box::new(Fault {
                    delay: delay.then_some((pause, Share::ALL)),
                    abort: abort
                        .then_some((AbortStatus::Http(StatusCode::IM_A_TEAPOT), Share::ALL)),
                })),
                stat_prefix: Some("pay".into()),
                ..Extras::default()
            };
        });
        let proxy = mesh.proxy("shopper", snapshot, &[HOST]);
        let outbound = proxy.open(Entrance::Outbound);
        let begun = Instant::now();
        let answer = get(outbound, "http://web/pay").await;
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(begun.elapsed() >= pause, delay, "{:?}", begun.elapsed());
        assert_eq!(own.lock().unwrap().len(), calls);
        let class = status / 100;
        let line = format!(
            "naka_route_requests_total{{route=\"pay\",response_code_class=\"{class}xx\"}} 1"
        );
        until(&proxy, &line).await;
    }
}

#[tokio::test]
async fn a_preflight_is_answered_without_the_program_and_an_answer_carries_the_permission() {
    let mesh = Mesh::new();
    let (main, own) = counting().await;
    let snapshot = with(&plain(&mesh, Protocol::Http, &[main]), |route| {
        route.extras.cors = Some(Box::new(Cors {
            origins: [TextCondition::exact("https://shop.example")].into(),
            methods: Some("GET,PUT".parse().unwrap()),
            credentials: true,
            forward_unmatched: true,
            ..Cors::default()
        }));
    });
    let proxy = mesh.proxy("shopper", snapshot, &[HOST]);
    let outbound = proxy.open(Entrance::Outbound);
    let allow = |got: &Got| {
        let value = got.headers.get("access-control-allow-origin");
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    let shop = "https://shop.example";
    let preflight = send(outbound, Method::OPTIONS, "", shop).await;
    assert_eq!(preflight.status, StatusCode::OK);
    assert_eq!(preflight.headers["access-control-allow-methods"], "GET,PUT");
    assert_eq!(allow(&preflight).as_deref(), Some(shop));
    assert_eq!(own.lock().unwrap().len(), 0);
    let call = send(outbound, Method::PUT, "order", shop).await;
    assert_eq!(call.headers["access-control-allow-credentials"], "true");
    assert_eq!(
        (allow(&call).as_deref(), call.body.as_str()),
        (Some(shop), "ok")
    );
    // Twins: another origin's preflight is the program's to answer, and nothing is allowed.
    let foreign = send(outbound, Method::OPTIONS, "", "https://evil.example").await;
    assert_eq!((allow(&foreign), foreign.body.as_str()), (None, "ok"));
    assert_eq!(own.lock().unwrap().len(), 2);
}
