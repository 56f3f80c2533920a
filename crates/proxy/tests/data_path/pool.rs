//! `connectionPool` of a DestinationRule: what its numbers hold back, and what they let through.

use crate::mesh::{HOST, Mesh, Pair, Proxy, pair};
use crate::program::{
    Answer, Got, Program, client1, full, get, got, http as program, mirror, nobody, raw, within,
};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use naka_engine::model::{Cluster, ClusterSpec, Snapshot};
use naka_engine::runtime::ClusterRuntime;
use naka_proxy::worker::Entrance;
use naka_types::protocol::Protocol;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub(crate) fn name() -> String {
    format!("outbound|80||{HOST}")
}

/// The same configuration with other settings of the destination.
pub(crate) fn with(
    mesh: &Mesh,
    snapshot: &Snapshot,
    edit: impl FnOnce(&mut ClusterSpec),
) -> Snapshot {
    let old = snapshot.cluster(mesh.registry.id(&name())).unwrap();
    let mut spec = ClusterSpec::clone(&old.spec);
    edit(&mut spec);
    let new = Cluster::new(
        old.id,
        Arc::new(spec),
        old.endpoints.to_vec(),
        Arc::clone(&old.runtime),
    );
    let mut builder = snapshot.edit();
    builder.put_cluster(Arc::new(new));
    builder.build()
}

/// A destination of plain programs.
pub(crate) fn plain(mesh: &Mesh, protocol: Protocol, to: &[SocketAddr]) -> Snapshot {
    let snapshot = mesh.outbound(protocol, to);
    let endpoints: Vec<_> = to.iter().map(|address| (*address, false)).collect();
    let mut builder = snapshot.edit();
    builder.put_cluster(mesh.cluster(&name().into(), protocol, &endpoints, None));
    builder.build()
}

pub(crate) fn counts(mesh: &Mesh) -> Arc<ClusterRuntime> {
    mesh.registry.cluster(&name())
}

/// A program whose answers wait until they are let go.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
    pub(crate) inside: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    pub(crate) go: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            seen: Arc::default(),
            inside: Arc::default(),
            most: Arc::default(),
            go: Arc::new(Semaphore::new(0)),
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Answer> {
        self.seen
            .lock()
            .unwrap()
            .push(request.uri().path().to_owned());
        let now = self.inside.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        self.go.acquire().await.unwrap().forget();
        self.inside.fetch_sub(1, SeqCst);
        Response::new(full("done"))
    }

    pub(crate) async fn program(&self) -> Program {
        let gate = self.clone();
        program(move |request| gate.clone().answer(request)).await
    }
}

/// A request of its own connection, under way.
pub(crate) fn ask(outbound: SocketAddr, path: &str) -> JoinHandle<Got> {
    let uri = format!("http://web{path}");
    tokio::spawn(async move { get(outbound, &uri).await })
}

pub(crate) async fn all(asked: Vec<JoinHandle<Got>>) -> Vec<(u16, String)> {
    let mut answers = Vec::new();
    for one in asked {
        let got = within(one).await.unwrap();
        answers.push((got.status.as_u16(), got.reason().to_owned()));
    }
    answers
}

/// A caller of several workers in front of the called side of a pair.
fn caller(pair: &Pair, workers: usize, edit: impl FnOnce(&mut ClusterSpec)) -> Proxy {
    let snapshot = pair.mesh.outbound(Protocol::Http, &[pair.inbound]);
    let snapshot = with(&pair.mesh, &snapshot, edit);
    pair.mesh
        .proxy_of(workers, "shopper", snapshot, &[HOST], |_| {})
}

#[tokio::test]
async fn connections_are_limited_exactly_over_all_workers() {
    for limit in [2, u32::MAX] {
        let gate = Gate::new();
        let program = gate.program().await;
        let pair = pair(program.address, Protocol::Http);
        let caller = caller(&pair, 3, |spec| spec.limits.connections = limit);
        let outbound = caller.open(Entrance::Outbound);
        let asked: Vec<_> = (0..12).map(|_| ask(outbound, "/")).collect();
        let counts = counts(&pair.mesh);
        let (inside, waiting) = if limit == 2 { (2, 10) } else { (12, 0) };
        caller
            .until("all are under way", |_| {
                gate.inside.load(SeqCst) == inside && counts.pending() == waiting
            })
            .await;
        assert!(counts.connections() <= limit);
        gate.go.add_permits(12);
        for answer in all(asked).await {
            assert_eq!(answer.0, 200, "{answer:?}");
        }
        assert_eq!(gate.most.load(SeqCst), inside);
        assert_eq!(counts.pending(), 0);
        assert!(counts.connections() <= limit);
    }
}

#[tokio::test]
async fn as_many_requests_wait_as_may_and_the_next_is_refused() {
    for (pending, want) in [
        (1, (503, "circuit-open")),
        (2, (200, "-")),
        (0, (503, "circuit-open")),
    ] {
        let gate = Gate::new();
        let program = gate.program().await;
        let pair = pair(program.address, Protocol::Http);
        let caller = caller(&pair, 1, |spec| {
            spec.limits.connections = 1;
            spec.limits.pending = pending;
        });
        let outbound = caller.open(Entrance::Outbound);
        let counts = counts(&pair.mesh);
        let mut asked = vec![ask(outbound, "/1")];
        caller
            .until("the first is there", |_| gate.inside.load(SeqCst) == 1)
            .await;
        if pending > 0 {
            asked.push(ask(outbound, "/2"));
            caller
                .until("the second waits", |_| counts.pending() == 1)
                .await;
        }
        let third = ask(outbound, "/3");
        if want.0 == 503 {
            // Refused while the others are still under way.
            let got = within(third).await.unwrap();
            assert_eq!((got.status.as_u16(), got.reason()), want);
            assert_eq!(gate.inside.load(SeqCst), 1);
        } else {
            caller
                .until("the third waits too", |_| counts.pending() == 2)
                .await;
            asked.push(third);
        }
        gate.go.add_permits(9);
        for answer in all(asked).await {
            assert_eq!(answer.0, 200, "{answer:?}");
        }
        assert_eq!(counts.pending(), 0);
    }
}

#[tokio::test]
async fn who_waits_longest_is_served_next_whatever_the_worker() {
    let gate = Gate::new();
    let program = gate.program().await;
    let pair = pair(program.address, Protocol::Http);
    let caller = caller(&pair, 3, |spec| spec.limits.connections = 1);
    let outbound = caller.open(Entrance::Outbound);
    let counts = counts(&pair.mesh);
    let mut asked = vec![ask(outbound, "/0")];
    caller
        .until("the first is there", |_| gate.inside.load(SeqCst) == 1)
        .await;
    for number in 1..=6 {
        asked.push(ask(outbound, &format!("/{number}")));
        caller
            .until("it waits", |_| counts.pending() == number)
            .await;
    }
    gate.go.add_permits(9);
    for answer in all(asked).await {
        assert_eq!(answer.0, 200, "{answer:?}");
    }
    let seen = gate.seen.lock().unwrap().clone();
    assert_eq!(seen, ["/0", "/1", "/2", "/3", "/4", "/5", "/6"]);
    assert_eq!(gate.most.load(SeqCst), 1);
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_the_line() {
    let gate = Gate::new();
    let program = gate.program().await;
    let pair = pair(program.address, Protocol::Http);
    let caller = caller(&pair, 1, |spec| spec.limits.connections = 1);
    let outbound = caller.open(Entrance::Outbound);
    let counts = counts(&pair.mesh);
    let first = ask(outbound, "/first");
    caller
        .until("the first is there", |_| gate.inside.load(SeqCst) == 1)
        .await;
    let gone = ask(outbound, "/gone");
    caller.until("it waits", |_| counts.pending() == 1).await;
    let last = ask(outbound, "/last");
    caller.until("both wait", |_| counts.pending() == 2).await;
    gone.abort();
    caller.until("one is left", |_| counts.pending() == 1).await;
    gate.go.add_permits(9);
    assert_eq!(all(vec![first, last]).await[1].0, 200);
    assert_eq!(*gate.seen.lock().unwrap(), ["/first", "/last"]);
}

#[tokio::test]
async fn an_http2_connection_counts_once_for_all_its_requests() {
    let gate = Gate::new();
    let program = gate.program().await;
    let pair = pair(program.address, Protocol::Http2);
    let snapshot = pair.mesh.outbound(Protocol::Http2, &[pair.inbound]);
    let snapshot = with(&pair.mesh, &snapshot, |spec| {
        spec.limits.connections = 1;
        spec.limits.pending = 0;
    });
    pair.caller.publish(snapshot).await;
    let asked: Vec<_> = (0..20).map(|_| ask(pair.outbound, "/")).collect();
    pair.caller
        .until("all are there", |_| gate.inside.load(SeqCst) == 20)
        .await;
    assert_eq!(counts(&pair.mesh).connections(), 1);
    assert_eq!(pair.called.workers.all()[0].connections(), 1);
    gate.go.add_permits(20);
    for answer in all(asked).await {
        assert_eq!(answer.0, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn a_connection_of_bytes_over_the_limit_is_closed_at_once() {
    for limit in [1, 2] {
        let echo = raw(|mut stream, _| async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        })
        .await;
        let pair = pair(echo.address, Protocol::Tcp);
        let snapshot = pair.mesh.outbound(Protocol::Tcp, &[pair.inbound]);
        let snapshot = with(&pair.mesh, &snapshot, |spec| {
            spec.limits.connections = limit
        });
        pair.caller.publish(snapshot).await;
        let bind = pair.caller.open(Entrance::Bind {
            host: HOST.into(),
            port: 80,
            inside: false,
            protocol: Protocol::Auto,
        });
        let echoed = async || {
            let mut stream = TcpStream::connect(bind).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            let mut back = [0; 5];
            let whole = within(stream.read_exact(&mut back)).await.is_ok();
            (stream, whole)
        };
        let (first, whole) = echoed().await;
        assert!(whole);
        let (_second, whole) = echoed().await;
        assert_eq!(whole, limit == 2, "the second of {limit}");
        let told = pair
            .caller
            .log
            .text()
            .contains("\"reason\":\"circuit-open\"");
        assert!(
            limit == 2 || told || {
                let open = |p: &Proxy| p.log.text().contains("circuit-open");
                pair.caller.until("it is logged", open).await;
                true
            }
        );
        drop((first, _second));
        let counts = counts(&pair.mesh);
        pair.caller
            .until("they are counted out", |_| counts.connections() == 0)
            .await;
        assert!(echoed().await.1, "there is room again");
    }
}

#[tokio::test]
async fn connections_nobody_uses_do_not_block_who_waits() {
    let (one, two) = (program(mirror).await, program(mirror).await);
    let mesh = Mesh::new();
    for protocol in [Protocol::Http, Protocol::Http2] {
        let snapshot = plain(&mesh, protocol, &[one.address, two.address]);
        let snapshot = with(&mesh, &snapshot, |spec| spec.limits.connections = 1);
        // Connections go to the workers in turn, requests to the endpoints in turn: each finds the one connection idle
        // at another endpoint, or on another worker.
        let caller = mesh.proxy_of(2, "shopper", snapshot, &[HOST], |_| {});
        let outbound = caller.open(Entrance::Outbound);
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(client1(TokioIo::new(TcpStream::connect(outbound).await.unwrap())).await);
        }
        for sender in &mut open {
            let request = Request::get("http://web/")
                .header("host", "web")
                .body(full(""))
                .unwrap();
            let got =
                within(async { got(sender.send_request(request).await.unwrap()).await }).await;
            assert_eq!(got.status, StatusCode::OK, "{protocol:?} {got:?}");
            assert_eq!(counts(&mesh).connections(), 1);
        }
        drop((open, caller));
        let counts = counts(&mesh);
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        while counts.connections() > 0 {
            assert!(tokio::time::Instant::now() < deadline, "{protocol:?}");
            tokio::task::yield_now().await;
        }
    }
    assert!(one.connections.load(SeqCst) > 1 && two.connections.load(SeqCst) > 1);
}

#[tokio::test]
async fn a_connection_serves_as_many_requests_as_it_may() {
    for protocol in [Protocol::Http, Protocol::Http2] {
        for (limit, want) in [(None, 1), (Some(1), 6), (Some(2), 3)] {
            let program = program(mirror).await;
            let mesh = Mesh::new();
            let snapshot = plain(&mesh, protocol, &[program.address]);
            let snapshot = with(&mesh, &snapshot, |spec| {
                spec.keeping.requests = limit;
            });
            let caller = mesh.proxy("shopper", snapshot, &[HOST]);
            let outbound = caller.open(Entrance::Outbound);
            for _ in 0..6 {
                assert_eq!(get(outbound, "http://web/").await.status, 200);
            }
            let made = program.connections.load(SeqCst);
            assert_eq!(made, want, "{protocol:?} {limit:?}");
        }
    }
}

#[tokio::test]
async fn requests_under_way_are_limited() {
    for (limit, want) in [(2, (503, "circuit-open")), (3, (200, "-"))] {
        let gate = Gate::new();
        let program = gate.program().await;
        let pair = pair(program.address, Protocol::Http);
        let caller = caller(&pair, 3, |spec| spec.limits.requests = limit);
        let outbound = caller.open(Entrance::Outbound);
        let mut asked = vec![ask(outbound, "/1"), ask(outbound, "/2")];
        caller
            .until("two are there", |_| gate.inside.load(SeqCst) == 2)
            .await;
        let third = ask(outbound, "/3");
        if want.0 == 503 {
            let got = within(third).await.unwrap();
            assert_eq!((got.status.as_u16(), got.reason()), want);
        } else {
            asked.push(third);
            caller
                .until("three are there", |_| gate.inside.load(SeqCst) == 3)
                .await;
        }
        gate.go.add_permits(9);
        for answer in all(asked).await {
            assert_eq!(answer.0, 200, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn retries_under_way_are_limited() {
    for (limit, want) in [(u32::MAX, 200), (0, 503)] {
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&tries);
        let failing = program(move |_| {
            let first = counted.fetch_add(1, SeqCst) == 0;
            async move {
                let mut response = Response::new(full(""));
                if first {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                }
                response
            }
        })
        .await;
        let mesh = Mesh::new();
        let snapshot = plain(&mesh, Protocol::Http, &[failing.address]);
        let snapshot = with(&mesh, &snapshot, |spec| spec.limits.retries = limit);
        let caller = mesh.proxy("shopper", snapshot, &[HOST]);
        let got = get(caller.open(Entrance::Outbound), "http://web/").await;
        assert_eq!(got.status.as_u16(), want);
        assert_eq!(tries.load(SeqCst), if want == 200 { 2 } else { 1 });

        // The first repeat of what reached nobody counts as well.
        let snapshot = plain(&mesh, Protocol::Http, &[nobody().await, failing.address]);
        let snapshot = with(&mesh, &snapshot, |spec| spec.limits.retries = limit);
        caller.publish(snapshot).await;
        let outbound = caller.open(Entrance::Outbound);
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(get(outbound, "http://web/").await.status.as_u16());
        }
        assert_eq!(answers.contains(&503), limit == 0, "{answers:?}");
    }
}
