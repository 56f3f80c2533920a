//! Who is let in, and what those who are not are told.

use crate::mesh::{HOST, Mesh, answer_one, pair, tell};
use crate::program::{
    client1, client2, exchange, full, get, got, http as program, mirror, raw, within,
};
use http::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use naka_engine::model::{
    Action, Forward, MtlsMode, Route, SnapshotBuilder, VirtualHost, WeightedCluster,
};
use naka_proxy::worker::{Entrance, Want, WorkerMsg};
use naka_types::protocol::Protocol;
use naka_types::reason::Reason;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

#[tokio::test]
async fn plaintext_to_a_strict_port_is_told_why_and_closed() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let answer = exchange(pair.inbound, b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(
        answer.contains("x-naka-reason: mtls-required") && answer.contains("connection: close"),
        "{answer}"
    );
    let mut sender = client2(TokioIo::new(
        TcpStream::connect(pair.inbound).await.unwrap(),
    ))
    .await;
    let request = Request::post("http://web/a.B/C")
        .header("content-type", "application/grpc")
        .body(full(""))
        .unwrap();
    let answer = within(async { got(sender.send_request(request).await.unwrap()).await }).await;
    assert_eq!(
        (answer.status, answer.reason()),
        (StatusCode::OK, "mtls-required")
    );
    assert_eq!(answer.headers["grpc-status"], "7");
    assert_eq!(exchange(pair.inbound, b"*1\r\n$4\r\nPING\r\n").await, "");
    assert_eq!(
        program
            .connections
            .load(std::sync::atomic::Ordering::SeqCst),
        0
    );
    pair.called
        .until("the refusals are logged", |p| {
            p.log.text().matches("\"reason\":\"mtls-required\"").count() >= 3
        })
        .await;
}

#[tokio::test]
async fn a_permissive_port_takes_both_and_a_published_one_believes_nothing() {
    let program = program(mirror).await;
    let mesh = Mesh::new();
    let called = mesh.proxy(
        "web",
        mesh.inbound(program.address, Protocol::Auto, MtlsMode::Permissive),
        &[HOST],
    );
    let inbound = called.open(Entrance::Inbound {
        port: program.address.port(),
    });
    let caller = mesh.proxy(
        "shopper",
        mesh.outbound(Protocol::Auto, &[inbound]),
        &[HOST],
    );
    let outbound = caller.open(Entrance::Outbound);
    assert!(
        get(outbound, "http://web/")
            .await
            .body
            .contains("sa/shopper")
    );
    let head = "GET /plain HTTP/1.1\r\nHost: web\r\nConnection: close\r\nX-Forwarded-Client-Cert: forged\r\n\r\n";
    let answer = exchange(inbound, head.as_bytes()).await;
    assert!(
        answer.contains("GET /plain") && answer.contains("xfcc=- "),
        "{answer}"
    );

    called
        .publish(mesh.inbound(program.address, Protocol::Http, MtlsMode::Strict))
        .await;
    assert!(
        exchange(inbound, head.as_bytes())
            .await
            .starts_with("HTTP/1.1 403")
    );
    let published = called.open(Entrance::Publish {
        port: program.address.port(),
    });
    let answer = exchange(published, head.as_bytes()).await;
    assert!(
        answer.contains("GET /plain") && answer.contains("xfcc=- "),
        "{answer}"
    );
}

#[tokio::test]
async fn an_endpoint_with_another_identity_is_refused() {
    let program = program(mirror).await;
    let mesh = Mesh::new();
    let called = mesh.proxy(
        "delivery",
        mesh.inbound(program.address, Protocol::Http, MtlsMode::Strict),
        &[HOST],
    );
    let inbound = called.open(Entrance::Inbound {
        port: program.address.port(),
    });
    let caller = mesh.proxy(
        "shopper",
        mesh.outbound(Protocol::Http, &[inbound]),
        &[HOST],
    );
    let answer = get(caller.open(Entrance::Outbound), "http://web/").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason()),
        (503, "wrong-peer-identity")
    );
    assert_eq!(
        program
            .connections
            .load(std::sync::atomic::Ordering::SeqCst),
        0
    );
}

#[tokio::test]
async fn a_caller_of_another_mesh_is_refused() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let other = Mesh::new();
    let stranger = other.proxy(
        "shopper",
        other.outbound(Protocol::Http, &[pair.inbound]),
        &[HOST],
    );
    let answer = get(stranger.open(Entrance::Outbound), "http://web/").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason()),
        (503, "tls-failed"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn only_the_workload_may_use_its_outbound() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let snapshot = pair.mesh.outbound(Protocol::Http, &[pair.inbound]);
    let guarded = pair.mesh.proxy_with("shopper", snapshot, &[HOST], |own| {
        own.uid = u32::MAX - 7;
        own.credential = Some("naka:secret".into());
    });
    let outbound = guarded.open(Entrance::Outbound);
    let refused = get(outbound, "http://web/").await;
    assert_eq!(
        (refused.status.as_u16(), refused.reason()),
        (407, "proxy-auth-required")
    );
    assert!(refused.headers.contains_key("proxy-authenticate"));
    let connect = exchange(outbound, b"CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\n").await;
    assert!(connect.starts_with("HTTP/1.1 407"), "{connect}");
    for (credential, want) in [
        ("bmFrYTpzZWNyZXQ=", 200),
        ("bmFrYTpzZWNyZXg=", 407),
        ("", 407),
    ] {
        let mut sender = client1(TokioIo::new(TcpStream::connect(outbound).await.unwrap())).await;
        let request = Request::get("http://web/")
            .header("host", "web")
            .header("proxy-authorization", format!("Basic {credential}"))
            .body(full(""))
            .unwrap();
        let answer = within(async { got(sender.send_request(request).await.unwrap()).await }).await;
        assert_eq!(answer.status.as_u16(), want, "{answer:?}");
        assert!(
            !answer.body.contains(credential) || credential.is_empty(),
            "not for the program: {answer:?}"
        );
    }
    let bind = guarded.open(Entrance::Bind {
        host: HOST.into(),
        port: 80,
        inside: false,
        protocol: Protocol::Auto,
    });
    assert_eq!(
        exchange(bind, b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await,
        ""
    );
}

#[tokio::test]
async fn names_that_lead_nowhere_say_so() {
    let mesh = Mesh::new();
    let caller = mesh.proxy("shopper", SnapshotBuilder::new("shop").build(), &[HOST]);
    let outbound = caller.open(Entrance::Outbound);
    let answer = get(outbound, "http://nosuch.shop.svc.cluster.local/").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason()),
        (503, "unknown-host")
    );
    let (answer, _) = tokio::join!(get(outbound, "http://web/"), answer_one(&caller, None));
    assert_eq!(
        (answer.status.as_u16(), answer.reason()),
        (503, "config-unavailable")
    );
    let head = format!(
        "CONNECT nosuch.{} HTTP/1.1\r\nHost: x\r\n\r\n",
        "shop.svc.cluster.local:80"
    );
    let mut stream = TcpStream::connect(outbound).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = within(crate::program::read_head(&mut stream)).await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("unknown-host"),
        "{answer}"
    );
    let itself = get(outbound, &format!("http://{outbound}/")).await;
    assert_eq!(
        (itself.status.as_u16(), itself.reason()),
        (508, "loop-detected")
    );
}

/// Whether a line of the caller's request metrics has all of these.
fn counted(proxy: &crate::mesh::Proxy, metric: &str, parts: &[&str]) -> bool {
    proxy
        .metrics
        .render()
        .lines()
        .any(|line| line.starts_with(metric) && parts.iter().all(|part| line.contains(part)))
}

#[tokio::test]
async fn a_call_that_leads_nowhere_still_names_the_service_called() {
    let mesh = Mesh::new();
    let nowhere = WeightedCluster::new(mesh.registry.id("x"), "outbound|80|v9|web.shop.x", 1);
    let routed = mesh.outbound_with(Protocol::Http, &[], "web", |forward| {
        *forward = Forward::new(vec![nowhere.clone()]).unwrap();
    });
    let caller = mesh.proxy("shopper", routed, &[HOST]);
    let outbound = caller.open(Entrance::Outbound);
    let answer = get(outbound, "http://web/").await;
    assert_eq!(answer.reason(), "unknown-cluster");
    let service = [
        "destination_service=\"web.shop.svc.cluster.local\"",
        "destination_service_name=\"web\"",
        "destination_service_namespace=\"shop\"",
        "response_code=\"503\"",
    ];
    caller
        .until("the service is named", |p| {
            counted(p, "istio_requests_total", &service)
        })
        .await;
    caller
        .until("the log names what does not exist", |p| {
            p.log.text().contains("outbound|80|v9|web.shop.x")
        })
        .await;

    // Without a virtual host, too, as long as the name is in the mesh.
    let caller = mesh.proxy("shopper", SnapshotBuilder::new("shop").build(), &[HOST]);
    let outbound = caller.open(Entrance::Outbound);
    let (answer, _) = tokio::join!(get(outbound, "http://web/"), answer_one(&caller, None));
    assert_eq!(answer.reason(), "config-unavailable");
    caller
        .until("the service is named", |p| {
            counted(p, "istio_requests_total", &service)
        })
        .await;
}

#[tokio::test]
async fn a_gateways_pattern_is_named_by_where_its_route_leads() {
    let mesh = Mesh::new();
    let name = format!("outbound|80|v9|{HOST}");
    let nowhere = WeightedCluster::new(mesh.registry.id("x"), &name, 1);
    for (pattern, want) in [("*", HOST), ("shop.example.com", "shop.example.com")] {
        let base = mesh.gateway(8080, pattern, &[]);
        let mut vhost = VirtualHost::clone(base.virtual_hosts().find(|v| v.port == 8080).unwrap());
        let mut route = Route::clone(&vhost.routes[0]);
        route.action = Action::Forward(Forward::new(vec![nowhere.clone()]).unwrap());
        vhost.routes = [Arc::new(route)].into();
        let mut builder = base.edit();
        builder.put_edge(crate::mesh::edge(8080, vhost));
        let gateway = mesh.proxy("ingress", builder.build(), &[]);
        let entrance = gateway.open(Entrance::Gateway { port: 8080 });
        let head = "GET / HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n";
        assert!(exchange(entrance, head.as_bytes()).await.contains(" 503 "));
        let want = format!("destination_service=\"{want}\"");
        gateway
            .until("the destination", |p| {
                counted(p, "istio_requests_total", &[&want])
            })
            .await;
    }
}

#[tokio::test]
async fn an_unknown_port_of_a_service_is_named_so_and_other_names_go_outside() {
    let mesh = Mesh::new();
    let empty = SnapshotBuilder::new("shop").build();
    let caller = mesh.proxy("shopper", empty, &[HOST, "localhost"]);
    let outbound = caller.open(Entrance::Outbound);
    let outside = program(mirror).await;
    let port = outside.address.port();
    let mut wants = caller.wants.borrow_mut().take().unwrap();
    let say_no = tokio::spawn(async move {
        let mut asked = Vec::new();
        while let Some(want) = wants.recv().await {
            if let Want::Host { host, port, reply } = want {
                asked.push((host, port));
                reply.send(Err(Reason::NoSuchPort)).unwrap();
            }
            if asked.len() == 3 {
                break;
            }
        }
        asked
    });
    let answer = get(outbound, "http://web:999/").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason()),
        (503, "no-such-port")
    );
    let mut stream = TcpStream::connect(outbound).await.unwrap();
    stream
        .write_all(b"CONNECT web:999 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let refused = within(crate::program::read_head(&mut stream)).await;
    assert!(refused.contains("no-such-port"), "{refused}");
    // The filter errs at times: a name outside the mesh's own domain that nobody declared is called as ever.
    let answer = get(outbound, &format!("http://localhost:{port}/")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let asked = within(say_no).await.unwrap();
    assert_eq!(asked[0], (HOST.to_owned(), 999));
}

#[tokio::test]
async fn draining_finishes_what_is_under_way_and_closes_the_rest() {
    let program = raw(|mut stream, _| async move {
        crate::program::read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwe")
            .await
            .unwrap();
        let _ = stream.read_u8().await; // until the test says so, by closing its side
        std::future::pending::<()>().await;
    })
    .await;
    let pair = pair(program.address, Protocol::Http);
    let idle = client1(TokioIo::new(
        TcpStream::connect(pair.outbound).await.unwrap(),
    ))
    .await;
    let mut sender = client1(TokioIo::new(
        TcpStream::connect(pair.outbound).await.unwrap(),
    ))
    .await;
    let request = Request::get("http://web/")
        .header("host", "web")
        .body(full(""))
        .unwrap();
    let response = within(sender.send_request(request)).await.unwrap();
    let (done, mut drained) = oneshot::channel();
    let done = std::cell::RefCell::new(Some(done));
    tell(&pair.caller, || {
        WorkerMsg::DrainOutbound(done.borrow_mut().take().unwrap())
    })
    .await;
    pair.caller
        .until("the idle connection is closed", |_| idle.is_closed())
        .await;
    assert!(drained.try_recv().is_err(), "an exchange is under way");
    drop(response);
    drop(sender);
    within(drained).await.unwrap();
    assert_eq!(pair.caller.workers.all()[0].connections(), 0);
}

#[tokio::test]
async fn heads_over_the_limits_are_refused_and_the_worker_goes_on() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let long = "a".repeat(70_000);
    for (head, want) in [
        (format!("GET http://web/ HTTP/1.1\r\nHost: web\r\nX-Long: {long}\r\n\r\n"), "431"),
        (format!("GET http://web/{} HTTP/1.1\r\nHost: web\r\n\r\n", &long[..9_000]), "414"),
        (format!("GET http://web/ HTTP/1.1\r\nHost: web\r\n{}\r\n", "X-A: b\r\n".repeat(120)), "431"),
        ("GET http://web/ HTTP/1.1\r\nHost: other\r\n\r\n".to_owned(), "400"),
        ("POST http://web/ HTTP/1.1\r\nHost: web\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned(), "400"),
        ("GET http://web/ HTTP/9.9\r\n\r\n".to_owned(), "400"),
    ] {
        let mut stream = TcpStream::connect(pair.outbound).await.unwrap();
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = [0; 12];
        within(stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {want}"), "{}", &head[..60]);
    }
    assert_eq!(get(pair.outbound, "http://web/").await.status, 200);
}

#[tokio::test]
async fn a_head_that_does_not_begin_or_end_is_cut_off_while_idle_connections_and_tunnels_stay() {
    let echo = raw(|mut stream, _| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let mut tunnel = crate::program::connect(pair.outbound, &echo.address.to_string()).await;
    tunnel.write_all(b"before").await.unwrap();
    within(tunnel.read_exact(&mut [0; 6])).await.unwrap();
    let mut silent = TcpStream::connect(pair.outbound).await.unwrap();
    let mut idle = client1(TokioIo::new(
        TcpStream::connect(pair.outbound).await.unwrap(),
    ))
    .await;
    let request = || {
        Request::get("http://web/")
            .header("host", "web")
            .body(full(""))
            .unwrap()
    };
    // Read to its end: a response given up half-way closes the connection.
    let answer = within(idle.send_request(request())).await.unwrap();
    assert_eq!(within(got(answer)).await.status, 200);

    let mut dawdling = TcpStream::connect(pair.outbound).await.unwrap();
    dawdling
        .write_all(b"GET http://web/ HTTP/1.1\r\nHost: w")
        .await
        .unwrap();
    // That it ends is what counts, not how.
    let _ = within(dawdling.read_to_end(&mut Vec::new())).await;

    tunnel.write_all(b"after").await.unwrap();
    within(tunnel.read_exact(&mut [0; 5])).await.unwrap();
    within(idle.ready()).await.unwrap();
    let answer = within(idle.send_request(request())).await.unwrap();
    assert_eq!(answer.status(), 200);
    // Read to its end: a client that drops an unread body closes the connection itself.
    within(http_body_util::BodyExt::collect(answer.into_body()))
        .await
        .unwrap();
    // Who has never said a word is no caller that rests.
    let _ = within(silent.read_to_end(&mut Vec::new())).await;
}
