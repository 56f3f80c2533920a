//! What goes through, and as what: HTTP of both versions, gRPC's trailers, WebSocket, tunnels, bytes.

use crate::mesh::{HOST, Mesh, Proxy, answer_one, pair};
use crate::program::{
    Answer, client1, client2, connect, exchange, full, get, got, http as program, mirror, raw,
    within,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use naka_engine::model::MtlsMode;
use naka_proxy::worker::{Entrance, Want};
use naka_telemetry::Workload;
use naka_types::labels::Labels;
use naka_types::protocol::Protocol;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_request_passes_both_proxies_with_the_callers_identity() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let got = get(pair.outbound, "http://web/a?b=1").await;
    assert_eq!(got.status, StatusCode::OK, "{got:?}");
    assert!(
        got.body.starts_with("GET /a?b=1 HTTP/1.1 host=web "),
        "{}",
        got.body
    );
    assert!(
        got.body
            .contains("URI=spiffe://cluster.local/ns/shop/sa/shopper"),
        "{}",
        got.body
    );
    for forbidden in ["server", "via", "x-naka-reason"] {
        assert!(
            !got.headers.contains_key(forbidden),
            "{forbidden}: {:?}",
            got.headers
        );
    }
    pair.caller
        .until("the caller counts it", |p| {
            p.metrics.render().lines().any(|l| {
                l.starts_with("istio_requests_total")
                    && l.contains("reporter=\"source\"")
                    && l.contains("response_code=\"200\"")
                    && l.contains("destination_service_name=\"web\"")
            })
        })
        .await;
    pair.called
        .until("the called side counts it", |p| {
            p.metrics.render().lines().any(|l| {
                l.starts_with("istio_requests_total")
                    && l.contains("reporter=\"destination\"")
                    && l.contains("connection_security_policy=\"mutual_tls\"")
                    && l.contains("source_principal=\"spiffe://cluster.local/ns/shop/sa/shopper\"")
            })
        })
        .await;
    let line = |p: &crate::mesh::Proxy| p.log.text().contains("\"path\":\"/a?b=1\"");
    pair.called.until("the called side logs it", line).await;
}

#[tokio::test]
async fn many_requests_share_few_connections() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let mut sender = client1(TokioIo::new(
        TcpStream::connect(pair.outbound).await.unwrap(),
    ))
    .await;
    for _ in 0..50 {
        let request = Request::get("http://web/")
            .header("host", "web")
            .body(full(""))
            .unwrap();
        let answer = within(sender.send_request(request)).await.unwrap();
        assert_eq!(got(answer).await.status, 200);
    }
    assert_eq!(program.connections.load(SeqCst), 1);
    assert_eq!(pair.called.workers.all()[0].connections(), 1);
}

#[tokio::test]
async fn http2_and_grpc_trailers_arrive() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Grpc);
    // As grpcio does it: CONNECT, then HTTP/2 inside.
    let tunnel = connect(pair.outbound, "web:80").await;
    let mut sender = client2(TokioIo::new(tunnel)).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "42".parse().unwrap());
    let frames = [
        Ok(Frame::data(Bytes::from("hello"))),
        Ok(Frame::trailers(trailers)),
    ];
    let body: Answer = StreamBody::new(futures_util::stream::iter(frames)).boxed();
    let request = Request::post("http://web/pkg.Service/Call")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let got = within(async { got(sender.send_request(request).await.unwrap()).await }).await;
    assert!(
        got.body
            .starts_with("POST /pkg.Service/Call HTTP/2.0 host=web "),
        "{got:?}"
    );
    assert!(
        got.body.contains("te=trailers") && got.body.contains("sent=5 trailer=42"),
        "{got:?}"
    );
    assert_eq!(got.trailers.unwrap()["grpc-status"], "0");
    pair.caller
        .until("grpc status counted", |p| {
            p.metrics.render().contains("grpc_response_status=\"0\"")
        })
        .await;
}

#[tokio::test]
async fn an_undeclared_port_keeps_the_callers_version() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Auto);
    assert!(
        get(pair.outbound, "http://web/1")
            .await
            .body
            .contains("HTTP/1.1")
    );
    let tunnel = connect(pair.outbound, "web:80").await;
    let mut sender = client2(TokioIo::new(tunnel)).await;
    let request = Request::get("http://web/2").body(full("")).unwrap();
    let answer = within(async { got(sender.send_request(request).await.unwrap()).await }).await;
    assert!(answer.body.contains("GET /2 HTTP/2.0"), "{answer:?}");
    let tunnel = connect(pair.outbound, &format!("{HOST}:80")).await;
    let mut sender = client1(TokioIo::new(tunnel)).await;
    for path in ["/3", "/4"] {
        let request = Request::get(path)
            .header("host", "web")
            .body(full(""))
            .unwrap();
        let answer = within(async { got(sender.send_request(request).await.unwrap()).await }).await;
        assert!(
            answer.body.starts_with(&format!("GET {path} HTTP/1.1")),
            "{answer:?}"
        );
    }
}

async fn echo(request: Request<Incoming>) -> Response<Answer> {
    assert_eq!(request.headers()["upgrade"], "websocket");
    tokio::spawn(async move {
        let mut io = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        let mut buffer = [0; 1024];
        loop {
            match io.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(n) => io.write_all(&buffer[..n]).await.unwrap(),
            }
        }
        io.write_all(b"bye").await.unwrap();
        io.shutdown().await.unwrap();
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert("connection", "upgrade".parse().unwrap());
    response
        .headers_mut()
        .insert("upgrade", "websocket".parse().unwrap());
    response
}

#[tokio::test]
async fn a_websocket_lives_through_a_hundred_changes() {
    let program = program(echo).await;
    let pair = pair(program.address, Protocol::Http);
    let mut sender = client1(TokioIo::new(
        TcpStream::connect(pair.outbound).await.unwrap(),
    ))
    .await;
    let request = Request::get("http://web/ws")
        .header("host", "web")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .body(full(""))
        .unwrap();
    let response = within(sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["upgrade"], "websocket");
    let mut io = TokioIo::new(within(hyper::upgrade::on(response)).await.unwrap());
    for round in 0..100 {
        pair.caller
            .publish(pair.mesh.outbound(Protocol::Http, &[pair.inbound]))
            .await;
        pair.called
            .publish(
                pair.mesh
                    .inbound(pair.program, Protocol::Http, MtlsMode::Strict),
            )
            .await;
        let sent = format!("message {round}");
        io.write_all(sent.as_bytes()).await.unwrap();
        let mut read = vec![0; sent.len()];
        within(io.read_exact(&mut read)).await.unwrap();
        assert_eq!(read, sent.as_bytes());
    }
    // Half-closing is passed on, and what comes after it as well.
    io.shutdown().await.unwrap();
    let mut rest = String::new();
    within(io.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "bye");
    pair.caller
        .until("it is logged", |p| {
            p.log.text().contains("\"response_code\":101")
        })
        .await;
}

#[tokio::test]
async fn bytes_pass_whoever_speaks_first() {
    for declared in [Protocol::Tcp, Protocol::Auto] {
        let server_first = raw(|mut stream, _| async move {
            stream.write_all(b"220 ready\n").await.unwrap();
            let mut line = [0; 5];
            stream.read_exact(&mut line).await.unwrap();
            stream.write_all(&line).await.unwrap();
        })
        .await;
        let pair = pair(server_first.address, declared);
        let bind = pair.caller.open(Entrance::Bind {
            host: HOST.into(),
            port: 80,
            inside: false,
            protocol: Protocol::Auto,
        });
        for address in [Some(bind), None] {
            let mut stream = match address {
                Some(address) => TcpStream::connect(address).await.unwrap(),
                None => connect(pair.outbound, "web:80").await,
            };
            let mut greeting = [0; 10];
            within(stream.read_exact(&mut greeting)).await.unwrap();
            assert_eq!(&greeting, b"220 ready\n", "{declared:?}");
            stream.write_all(b"HELLO").await.unwrap();
            let mut rest = String::new();
            within(stream.read_to_string(&mut rest)).await.unwrap();
            assert_eq!(rest, "HELLO");
        }

        let client_first = raw(|mut stream, _| async move {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream.write_all(&all).await.unwrap();
        })
        .await;
        let pair = crate::mesh::pair(client_first.address, declared);
        let bind = pair.caller.open(Entrance::Bind {
            host: HOST.into(),
            port: 80,
            inside: false,
            protocol: Protocol::Auto,
        });
        let mut stream = TcpStream::connect(bind).await.unwrap();
        let sent: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8 | 0x80).collect();
        let (mut read, mut write) = stream.split();
        let mut all = Vec::new();
        let writing = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        within(async { tokio::join!(writing, read.read_to_end(&mut all)).1.unwrap() }).await;
        assert!(all == sent, "{declared:?}: {} of {}", all.len(), sent.len());
        pair.called
            .until("bytes are counted", |p| {
                p.metrics.render().lines().any(|l| {
                    l.starts_with("istio_tcp_received_bytes_total") && l.ends_with(" 300000")
                })
            })
            .await;
    }
}

#[tokio::test]
async fn a_name_is_fetched_when_it_is_first_called() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let snapshot = naka_engine::model::SnapshotBuilder::new("shop").build();
    let caller = pair.mesh.proxy("shopper", snapshot, &[HOST]);
    let outbound = caller.open(Entrance::Outbound);
    let found = pair.mesh.outbound(Protocol::Http, &[pair.inbound]);
    let (answer, asked) = tokio::join!(
        get(outbound, "http://web/x"),
        answer_one(&caller, Some(found))
    );
    assert_eq!(asked, (HOST.to_owned(), 80));
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn service_and_namespace_are_a_name_of_the_mesh_everywhere() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let found = || pair.mesh.outbound(Protocol::Http, &[pair.inbound]);
    for way in ["proxy", "connect", "bind"] {
        let empty = naka_engine::model::SnapshotBuilder::new("elsewhere").build();
        let caller = pair.mesh.proxy_with("shopper", empty, &[HOST], |own| {
            own.namespace = "elsewhere".into();
        });
        let calling = async {
            match way {
                "proxy" => {
                    let outbound = caller.open(Entrance::Outbound);
                    get(outbound, "http://web.shop/x").await.body
                }
                "connect" => {
                    let outbound = caller.open(Entrance::Outbound);
                    let mut stream = connect(outbound, "web.shop:80").await;
                    let head = b"GET /x HTTP/1.1\r\nHost: web.shop\r\nConnection: close\r\n\r\n";
                    stream.write_all(head).await.unwrap();
                    let mut answer = String::new();
                    within(stream.read_to_string(&mut answer)).await.unwrap();
                    answer
                }
                _ => {
                    let bind = caller.open(Entrance::Bind {
                        host: "web.shop".into(),
                        port: 80,
                        inside: false,
                        protocol: Protocol::Auto,
                    });
                    let head = b"GET /x HTTP/1.1\r\nHost: web.shop\r\nConnection: close\r\n\r\n";
                    exchange(bind, head).await
                }
            }
        };
        let (answer, asked) = tokio::join!(calling, answer_one(&caller, Some(found())));
        assert_eq!(asked, (HOST.to_owned(), 80), "{way}");
        assert!(
            answer.contains("GET /x HTTP/1.1 host=web.shop"),
            "{way}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_record_waits_for_the_callers_labels_and_the_request_does_not() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let got = get(pair.outbound, "http://web/").await;
    assert_eq!(
        got.status,
        StatusCode::OK,
        "answered while nobody has said who the caller is"
    );
    let mut wants = pair.called.wants.borrow_mut().take().unwrap();
    let Want::Workload { reply, .. } = within(wants.recv()).await.unwrap() else {
        panic!("not a workload")
    };
    let labels = Labels::from([("app".to_owned(), "till".to_owned())]);
    let told = Workload::new("shopper-1", "shop", "unknown", "test", &labels);
    reply.send(Some(Arc::new(told))).unwrap();
    let inbound = |p: &Proxy| {
        let all = p.metrics.render();
        let lines = all
            .lines()
            .filter(|l| l.starts_with("istio_requests_total") && l.contains("\"destination\""));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    pair.called
        .until("it is counted", |p| !inbound(p).is_empty())
        .await;
    let lines = inbound(&pair.called);
    assert!(
        lines.len() == 1
            && lines[0].contains("source_workload=\"shopper-1\"")
            && lines[0].contains("source_app=\"till\"")
            && lines[0].contains("source_principal=\"spiffe://cluster.local/ns/shop/sa/shopper\""),
        "{lines:?}"
    );
}

#[tokio::test]
async fn principals_are_those_of_the_certificates() {
    let program = program(mirror).await;
    let mesh = Mesh::of("prod.example");
    let snapshot = mesh.inbound(program.address, Protocol::Http, MtlsMode::Strict);
    let port = program.address.port();
    let stale = |own: &mut naka_proxy::worker::Own| {
        let wrong = "spiffe://cluster.local/ns/shop/sa/x";
        own.workload = Arc::new(Workload::new("w", "shop", wrong, "test", &Labels::new()));
    };
    let called = mesh.proxy_with("web", snapshot, &[HOST], stale);
    let inbound = called.open(Entrance::Inbound { port });
    let snapshot = mesh.outbound(Protocol::Http, &[inbound]);
    let caller = mesh.proxy_with("shopper", snapshot, &[HOST], stale);
    let outbound = caller.open(Entrance::Outbound);
    assert_eq!(get(outbound, "http://web/").await.status, StatusCode::OK);
    drop(called.wants.borrow_mut().take());
    let named = |p: &Proxy, label: &str| {
        let all = p.metrics.render();
        all.lines()
            .any(|l| l.starts_with("istio_requests_total") && l.contains(label))
    };
    caller
        .until("the caller's own", |p| {
            named(
                p,
                "source_principal=\"spiffe://prod.example/ns/shop/sa/shopper\"",
            )
        })
        .await;
    called
        .until("the called side's", |p| {
            named(
                p,
                "destination_principal=\"spiffe://prod.example/ns/shop/sa/web\"",
            ) && named(
                p,
                "source_principal=\"spiffe://prod.example/ns/shop/sa/shopper\"",
            )
        })
        .await;
}

#[tokio::test]
async fn a_gateway_routes_by_host_and_tells_strangers_nothing() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let snapshot = pair.mesh.gateway(8080, "*.example.com", &[pair.inbound]);
    let gateway = pair.mesh.proxy("ingress", snapshot, &[]);
    let entrance = gateway.open(Entrance::Gateway { port: 8080 });
    let head = |host| {
        format!(
            "GET /g HTTP/1.1\r\nHost: {host}\r\nX-Envoy-Max-Retries: 9\r\nConnection: close\r\n\r\n"
        )
    };
    let answer = exchange(entrance, head("shop.example.com").as_bytes()).await;
    assert!(
        answer.contains("GET /g HTTP/1.1 host=shop.example.com"),
        "{answer}"
    );
    assert!(answer.contains("sa/ingress"), "{answer}");
    let answer = exchange(entrance, head("other.org").as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 404") && !answer.contains("x-naka-"),
        "{answer}"
    );
    gateway
        .until("but it is logged", |p| {
            p.log.text().contains("\"reason\":\"no-route\"")
        })
        .await;
}

#[tokio::test]
async fn connections_spread_over_workers() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let snapshot = pair.mesh.outbound(Protocol::Http, &[pair.inbound]);
    let caller = pair.mesh.proxy_of(3, "shopper", snapshot, &[HOST], |_| {});
    let outbound = caller.open(Entrance::Outbound);
    let mut open = Vec::new();
    for _ in 0..9 {
        open.push(client1(TokioIo::new(TcpStream::connect(outbound).await.unwrap())).await);
    }
    for sender in &mut open {
        let request = Request::get("http://web/")
            .header("host", "web")
            .body(full(""))
            .unwrap();
        let answer = within(async { got(sender.send_request(request).await.unwrap()).await }).await;
        assert_eq!(answer.status, 200);
    }
    let counts: Vec<_> = caller
        .workers
        .all()
        .iter()
        .map(|w| w.connections())
        .collect();
    assert_eq!(counts, [3, 3, 3]);
    drop(open);
    caller
        .until("they are counted out", |p| {
            p.workers.all().iter().all(|w| w.connections() == 0)
        })
        .await;
}

#[tokio::test]
async fn outside_the_mesh_requests_and_tunnels_pass_through() {
    let program = program(mirror).await;
    let mesh = Mesh::new();
    let snapshot = naka_engine::model::SnapshotBuilder::new("shop").build();
    let caller = mesh.proxy("shopper", snapshot, &[]);
    let outbound = caller.open(Entrance::Outbound);
    let answer = get(
        outbound,
        &format!("http://localhost:{}/out", program.address.port()),
    )
    .await;
    assert!(
        answer.body.starts_with("GET /out HTTP/1.1 host=localhost:"),
        "{answer:?}"
    );
    let tunnel = connect(outbound, &program.address.to_string()).await;
    let mut sender = client1(TokioIo::new(tunnel)).await;
    let request = Request::get("/in")
        .header("host", "x")
        .body(full(""))
        .unwrap();
    let answer = within(async { got(sender.send_request(request).await.unwrap()).await }).await;
    assert!(
        answer.body.starts_with("GET /in HTTP/1.1 host=x"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn ten_megabytes_stream_both_ways_and_memory_stays_small() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 160;
    let program = program(|request: Request<Incoming>| async move {
        // Sends back what it gets, while it gets it.
        Response::new(request.into_body().map_err(|_| unreachable!()).boxed())
    })
    .await;
    let pair = pair(program.address, Protocol::Http);
    let mut sender = client1(TokioIo::new(
        TcpStream::connect(pair.outbound).await.unwrap(),
    ))
    .await;
    let chunks = futures_util::stream::iter(
        (0..CHUNKS).map(|i| Ok(Frame::data(Bytes::from(vec![i as u8; CHUNK])))),
    );
    let request = Request::post("http://web/")
        .header("host", "web")
        .body(StreamBody::new(chunks).boxed())
        .unwrap();
    let response = within(sender.send_request(request)).await.unwrap();
    // The reader dawdles: what is held back anywhere shows in this process's memory.
    let before = resident();
    let mut body = response.into_body();
    let mut total = 0;
    let mut most = 0;
    while let Some(frame) = within(body.frame()).await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(
            data.iter()
                .all(|b| usize::from(*b) == total / CHUNK || data.len() > CHUNK - total % CHUNK)
        );
        total += data.len();
        most = most.max(resident());
        if total % (CHUNK * 16) < data.len() {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(total, CHUNK * CHUNKS);
    assert!(most.saturating_sub(before) < 6 << 20, "{before} → {most}");
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
