//! What a BackendPolicy says, over real sockets and counted by the called programs: breaker, fallback, health checks.

use crate::mesh::{HOST, Mesh, Proxy};
use crate::pool::{name, plain, with};
use crate::program::{Answer, Got, Program, client1, full, get, got, http as program, within};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use naka_engine::breaker::Breaker;
use naka_engine::model::{Ask, Backend, Fallback, FallbackTo, HealthCheck, Snapshot};
use naka_proxy::health;
use naka_proxy::worker::Entrance;
use naka_types::protocol::Protocol;
use naka_types::reason::Reason;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::net::TcpStream;

/// A program that is well or not, and counts calls and questions after its health.
#[derive(Clone, Default)]
struct Patient {
    ill: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

impl Patient {
    async fn start(&self) -> Program {
        let own = self.clone();
        program(move |request| own.clone().answer(request)).await
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Answer> {
        let ill = self.ill.load(SeqCst);
        let path = request.uri().path().to_owned();
        if path == "/grpc.health.v1.Health/Check" {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(&body[..], [0, 0, 0, 0, 5, 0x0a, 3, b'p', b'a', b'y']);
            self.asked.fetch_add(1, SeqCst);
            let serving = if ill { 2 } else { 1 };
            let mut response = Response::new(full(vec![0, 0, 0, 0, 2, 8, serving]));
            let headers = response.headers_mut();
            headers.insert("content-type", "application/grpc".parse().unwrap());
            return response;
        }
        let counter = if path == "/health" {
            &self.asked
        } else {
            &self.calls
        };
        counter.fetch_add(1, SeqCst);
        let mut response = Response::new(full("own"));
        if ill {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        response
    }

    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }
}

fn snapshot(
    mesh: &Mesh,
    protocol: Protocol,
    to: &[SocketAddr],
    backend: Option<Backend>,
) -> Snapshot {
    let snapshot = plain(mesh, protocol, to);
    with(mesh, &snapshot, |spec| spec.backend = backend.map(Box::new))
}

fn caller(mesh: &Mesh, snapshot: Snapshot) -> (Proxy, SocketAddr) {
    let caller = mesh.proxy_of(2, "shopper", snapshot, &[HOST], |_| {});
    let outbound = caller.open(Entrance::Outbound);
    (caller, outbound)
}

/// A request that is never repeated by itself.
async fn post(proxy: SocketAddr) -> Got {
    let stream = TcpStream::connect(proxy).await.unwrap();
    let mut sender = client1(TokioIo::new(stream)).await;
    let request = Request::post("http://web/")
        .header("host", "web")
        .body(full("pay"))
        .unwrap();
    within(async { got(sender.send_request(request).await.unwrap()).await }).await
}

fn breaker(open_for: Duration) -> Breaker {
    Breaker {
        in_a_row: 5,
        count: None,
        rate: None,
        open_for,
        trials: 1,
        statuses: None,
    }
}

fn degraded() -> FallbackTo {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    FallbackTo::Reply {
        status: StatusCode::OK,
        headers,
        body: Bytes::from_static(b"{\"status\":\"degraded_service\"}"),
    }
}

fn fallback(to: FallbackTo) -> Option<Fallback> {
    Some(Fallback {
        reasons: Box::default(),
        statuses: Box::default(),
        to,
    })
}

#[tokio::test]
async fn a_breaker_opens_after_five_failures_answers_itself_and_closes_after_a_trial() {
    for on in [true, false] {
        let patient = Patient::default();
        patient.ill.store(true, SeqCst);
        let program = patient.start().await;
        let mesh = Mesh::new();
        let with_breaker = |open_for| {
            let backend = Backend {
                breaker: on.then(|| breaker(open_for)),
                fallback: fallback(degraded()),
                ..Backend::default()
            };
            snapshot(&mesh, Protocol::Http, &[program.address], Some(backend))
        };
        let (caller, outbound) = caller(&mesh, with_breaker(Duration::from_millis(300)));
        let mut answers = Vec::new();
        for _ in 0..8 {
            let got = post(outbound).await;
            answers.push((got.status.as_u16(), got.reason().to_owned(), got.body));
        }
        if !on {
            assert_eq!(patient.calls(), 8);
            continue;
        }
        assert_eq!(patient.calls(), 5);
        assert!(answers[..5].iter().all(|(status, ..)| *status == 500));
        let degraded = (
            200,
            "breaker-open".into(),
            "{\"status\":\"degraded_service\"}".into(),
        );
        assert!(answers[5..].iter().all(|a| *a == degraded), "{answers:?}");
        patient.ill.store(false, SeqCst);
        let runtime = mesh.registry.cluster(&name());
        let start = std::time::Instant::now();
        // The very same clock that the workers use began before ours: half open by then at the latest.
        caller
            .until("it is half open", |_| {
                start.elapsed() > Duration::from_millis(400)
            })
            .await;
        let got = post(outbound).await;
        assert_eq!((got.status.as_u16(), got.reason()), (200, "-"));
        assert_eq!(patient.calls(), 6, "the trial");
        assert!(!runtime.is_open(Duration::MAX / 4));
        assert_eq!(post(outbound).await.body, "own");
    }
}

#[tokio::test]
async fn another_destination_answers_when_there_is_no_endpoint_left() {
    for on in [true, false] {
        let (own, other) = (Patient::default(), Patient::default());
        let (first, second) = (own.start().await, other.start().await);
        let mesh = Mesh::new();
        let spare: Arc<str> = "outbound|80||spare.shop.svc.cluster.local".into();
        let backend = Backend {
            fallback: on
                .then(|| {
                    fallback(FallbackTo::Cluster(
                        mesh.registry.id(&spare),
                        Arc::clone(&spare),
                    ))
                })
                .flatten(),
            ..Backend::default()
        };
        let gone = crate::program::nobody().await;
        let make = |to| {
            let snapshot = snapshot(&mesh, Protocol::Http, &[to], Some(backend.clone()));
            let endpoints = [(second.address, false)];
            let mut builder = snapshot.edit();
            builder.put_cluster(mesh.cluster(&spare, Protocol::Http, &endpoints, None));
            builder.build()
        };
        let (caller, outbound) = caller(&mesh, make(gone));
        let got = post(outbound).await;
        let want = if on { (200, 1) } else { (503, 0) };
        assert_eq!((got.status.as_u16(), other.calls()), want);
        assert_eq!(
            got.reason(),
            Reason::ConnectFailed.code(),
            "who answers says why"
        );
        caller.publish(make(first.address)).await;
        let got = post(outbound).await;
        assert_eq!(
            (got.status.as_u16(), got.reason(), own.calls()),
            (200, "-", 1)
        );
        assert_eq!(other.calls(), want.1);
    }
}

#[tokio::test]
async fn an_ill_endpoint_is_found_by_asking_and_only_where_calls_go() {
    let asks = [
        (
            Protocol::Http,
            Ask::Http {
                path: "/health".into(),
                host: "web".into(),
                statuses: Box::default(),
            },
        ),
        (
            Protocol::Grpc,
            Ask::Grpc {
                service: "pay".into(),
            },
        ),
    ];
    for (protocol, ask) in asks {
        let (well, ill) = (Patient::default(), Patient::default());
        let (one, two) = (well.start().await, ill.start().await);
        let mesh = Mesh::new();
        let check = HealthCheck {
            ask,
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(2),
            unhealthy: 5,
            healthy: 3,
        };
        let backend = Backend {
            check: Some(check),
            ..Backend::default()
        };
        let ends = [one.address, two.address];
        let snapshot = snapshot(&mesh, protocol, &ends, Some(backend));
        let of_now = Arc::new(snapshot.clone());
        let (caller, outbound) = caller(&mesh, snapshot);
        let workers = Arc::clone(&caller.workers);
        let asking = tokio::spawn(health::check(move || Arc::clone(&of_now), workers));
        ill.ill.store(true, SeqCst);
        // Nobody is called, so nobody is asked; the other proof of it is in the engine.
        assert_eq!((well.asked.load(SeqCst), ill.asked.load(SeqCst)), (0, 0));
        // Each worker begins somewhere of its own: until both were called.
        within(async {
            while well.calls() == 0 || ill.calls() == 0 {
                get(outbound, "http://web/").await;
            }
        })
        .await;
        let runtime = mesh.registry.cluster(&name());
        caller.until("it is out", |_| runtime.epoch() == 1).await;
        let asked = || (ill.asked.load(SeqCst), well.asked.load(SeqCst));
        caller
            .until("both were asked", |_| asked().0 >= 5 && asked().1 >= 1)
            .await;
        let before = ill.calls();
        for _ in 0..6 {
            assert_eq!(get(outbound, "http://web/").await.status, 200);
        }
        assert_eq!(ill.calls(), before);
        ill.ill.store(false, SeqCst);
        caller.until("it is back", |_| runtime.epoch() == 2).await;
        for _ in 0..4 {
            get(outbound, "http://web/").await;
        }
        assert!(ill.calls() > before);
        asking.abort();
    }
}
