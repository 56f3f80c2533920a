//! Outlier detection over real sockets: counted by the called programs.

use crate::mesh::{HOST, Mesh, Proxy};
use crate::pool::{name, plain, with};
use crate::program::{Answer, Program, full, get, http as program, nobody, within};
use http::{Request, Response};
use hyper::body::Incoming;
use naka_engine::model::Snapshot;
use naka_engine::outlier::Outlier;
use naka_proxy::recovery;
use naka_proxy::worker::Entrance;
use naka_types::protocol::Protocol;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A program that answers a status of its own and counts its calls.
#[derive(Clone)]
struct Counted {
    status: Arc<AtomicU16>,
    calls: Arc<AtomicUsize>,
}

impl Counted {
    async fn start(status: u16) -> (Self, Program) {
        let counted = Self {
            status: Arc::new(AtomicU16::new(status)),
            calls: Arc::default(),
        };
        let own = counted.clone();
        let program = program(move |request| own.clone().answer(request)).await;
        (counted, program)
    }

    async fn answer(self, _: Request<Incoming>) -> Response<Answer> {
        self.calls.fetch_add(1, SeqCst);
        let mut response = Response::new(full("x"));
        *response.status_mut() = self.status.load(SeqCst).try_into().unwrap();
        response
    }

    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }
}

fn quick() -> Outlier {
    Outlier {
        errors: 3,
        percent: 50,
        interval: Duration::from_millis(50),
        base: Duration::from_secs(60),
        ..Outlier::default()
    }
}

/// A caller, and the main thread's part beside it.
struct Caller {
    proxy: Proxy,
    outbound: SocketAddr,
    snapshot: Arc<Mutex<Arc<Snapshot>>>,
    barred: Arc<Notify>,
    keeping: JoinHandle<()>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

impl Caller {
    fn start(mesh: &Mesh, workers: usize, snapshot: Snapshot) -> Self {
        let barred = Arc::<Notify>::default();
        let of_main = Arc::new(Mutex::new(Arc::new(snapshot.clone())));
        let proxy = mesh.proxy_of(workers, "shopper", snapshot, &[HOST], |own| {
            own.barred = Arc::clone(&barred);
        });
        let outbound = proxy.open(Entrance::Outbound);
        let latest = Arc::clone(&of_main);
        let latest = move || Arc::clone(&latest.lock().unwrap());
        Self {
            keeping: tokio::spawn(recovery::readmit(latest, Arc::clone(&barred))),
            barred,
            snapshot: of_main,
            outbound,
            proxy,
        }
    }

    async fn publish(&self, snapshot: Snapshot) {
        *self.snapshot.lock().unwrap() = Arc::new(snapshot.clone());
        self.proxy.publish(snapshot).await;
        self.barred.notify_one();
    }

    async fn calls(&self, n: usize) -> Vec<u16> {
        let mut statuses = Vec::new();
        for _ in 0..n {
            let got = get(self.outbound, "http://web/").await;
            statuses.push(got.status.as_u16());
        }
        statuses
    }
}

fn to(mesh: &Mesh, programs: &[SocketAddr], outlier: Option<Outlier>, panic: u32) -> Snapshot {
    let snapshot = plain(mesh, Protocol::Http, programs);
    with(mesh, &snapshot, |spec| {
        spec.outlier = outlier.map(Box::new);
        spec.panic_threshold = panic;
    })
}

#[tokio::test]
async fn a_failing_endpoint_is_left_alone_and_comes_back() {
    for on in [true, false] {
        let (good, one) = Counted::start(200).await;
        let (bad, two) = Counted::start(500).await;
        let mesh = Mesh::new();
        let outlier = on.then(quick);
        let caller = Caller::start(&mesh, 2, to(&mesh, &[one.address, two.address], outlier, 0));
        let statuses = caller.calls(40).await;
        let failed = statuses.iter().filter(|s| **s == 500).count();
        assert_eq!(failed, bad.calls());
        if !on {
            // Each of the two workers goes round by itself.
            assert!((18..=22).contains(&bad.calls()), "{}", bad.calls());
            assert_eq!(good.calls() + bad.calls(), 40);
            continue;
        }
        assert_eq!(bad.calls(), 3, "its third error is its last");
        // A new configuration does not let it back in.
        caller
            .publish(to(&mesh, &[one.address, two.address], Some(quick()), 0))
            .await;
        assert_eq!(caller.calls(10).await, [200; 10]);
        bad.status.store(200, SeqCst);
        let runtime = mesh.registry.cluster(&name());
        let before = runtime.epoch();
        let shorter = Outlier {
            base: Duration::from_millis(1),
            ..quick()
        };
        caller
            .publish(to(&mesh, &[one.address, two.address], Some(shorter), 0))
            .await;
        caller
            .proxy
            .until("it is back", |_| runtime.epoch() > before)
            .await;
        caller.calls(20).await;
        assert!(bad.calls() >= 3 + 8, "{}", bad.calls());
    }
}

#[tokio::test]
async fn all_may_be_ejected_and_then_nobody_is_called_unless_panic_is_wanted() {
    for panic in [0, 50] {
        let (one, first) = Counted::start(503).await;
        let (two, second) = Counted::start(503).await;
        let mesh = Mesh::new();
        let policy = Outlier {
            percent: 100,
            ..quick()
        };
        let ends = [first.address, second.address];
        let caller = Caller::start(&mesh, 1, to(&mesh, &ends, Some(policy), panic));
        // POST is not repeated; GET would be.
        let mut reasons = Vec::new();
        for _ in 0..20 {
            let got = within(post(caller.outbound)).await;
            reasons.push((got.status.as_u16(), got.reason().to_owned()));
        }
        let ours: Vec<_> = reasons.iter().filter(|(_, r)| r != "-").collect();
        if panic == 0 {
            assert_eq!(one.calls() + two.calls(), 6);
            assert!(
                ours.iter()
                    .all(|(s, r)| *s == 503 && r == "no-healthy-endpoints")
            );
            assert_eq!(ours.len(), 14);
        } else {
            // Both are called, and each such response says so.
            assert_eq!(one.calls() + two.calls(), 20);
            assert!(
                ours.iter().all(|(_, r)| r == "unhealthy-endpoint"),
                "{ours:?}"
            );
            assert!(ours.len() >= 14, "{}", ours.len());
            let log = caller.proxy.log.clone();
            caller
                .proxy
                .until("it is logged", |_| {
                    log.text().contains("unhealthy-endpoint")
                })
                .await;
        }
    }
}

async fn post(proxy: SocketAddr) -> crate::program::Got {
    let stream = tokio::net::TcpStream::connect(proxy).await.unwrap();
    let mut sender = crate::program::client1(hyper_util::rt::TokioIo::new(stream)).await;
    let request = Request::post("http://web/")
        .header("host", "web")
        .body(full("x"))
        .unwrap();
    crate::program::got(sender.send_request(request).await.unwrap()).await
}

#[tokio::test]
async fn an_endpoint_where_nobody_listens_is_ejected_by_connections_of_bytes_too() {
    for on in [true, false] {
        let echo = crate::program::raw(|mut stream, _| async move {
            let (mut reading, mut writing) = stream.split();
            let _ = tokio::io::copy(&mut reading, &mut writing).await;
        })
        .await;
        let mesh = Mesh::new();
        let ends = [echo.address, nobody().await];
        let snapshot = plain(&mesh, Protocol::Tcp, &ends);
        let snapshot = with(&mesh, &snapshot, |spec| {
            spec.outlier = on.then(|| Box::new(quick()));
        });
        let caller = Caller::start(&mesh, 1, snapshot);
        for _ in 0..12 {
            drop(crate::program::connect(caller.outbound, "web:80").await);
        }
        let ejected = mesh.registry.cluster(&name()).epoch() > 0;
        assert_eq!(ejected, on);
    }
}
