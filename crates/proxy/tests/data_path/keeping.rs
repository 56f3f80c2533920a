//! How long connections are kept, how many streams they carry, and how it is found out that they are dead.

use crate::mesh::{HOST, Mesh, Proxy};
use crate::pool::{Gate, all, ask, counts, name, plain, with};
use crate::program::{client1, connect, full, get, http as program, mirror, raw, within};
use http::Request;
use hyper_util::rt::TokioIo;
use naka_engine::model::{Keeping, Pings, Priority, Probes, Snapshot};
use naka_proxy::worker::Entrance;
use naka_types::protocol::Protocol;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

fn keeping(mesh: &Mesh, protocol: Protocol, to: SocketAddr, keeping: Keeping) -> Snapshot {
    let snapshot = plain(mesh, protocol, &[to]);
    with(mesh, &snapshot, |spec| spec.keeping = keeping)
}

fn caller(mesh: &Mesh, snapshot: Snapshot) -> (Proxy, SocketAddr) {
    let caller = mesh.proxy("shopper", snapshot, &[HOST]);
    let outbound = caller.open(Entrance::Outbound);
    (caller, outbound)
}

#[tokio::test]
async fn a_connection_that_rests_is_closed_when_its_rest_is_over() {
    for protocol in [Protocol::Http, Protocol::Http2] {
        let program = program(mirror).await;
        let (short, long) = (Mesh::new(), Mesh::new());
        let idle = |seconds| Keeping {
            idle: Some(Duration::from_secs(seconds)),
            ..Keeping::default()
        };
        let one = caller(&short, keeping(&short, protocol, program.address, idle(1)));
        let two = caller(&long, keeping(&long, protocol, program.address, idle(60)));
        for (_, outbound) in [&one, &two] {
            assert_eq!(get(*outbound, "http://web/").await.status, 200);
        }
        assert_eq!(
            (counts(&short).connections(), counts(&long).connections()),
            (1, 1)
        );
        let closed = counts(&short);
        one.0
            .until("it is closed", |_| closed.connections() == 0)
            .await;
        assert_eq!(counts(&long).connections(), 1, "{protocol:?}");
    }
}

#[tokio::test]
async fn an_old_connection_takes_no_more_requests() {
    for protocol in [Protocol::Http, Protocol::Http2] {
        let program = program(mirror).await;
        let (short, long) = (Mesh::new(), Mesh::new());
        let old = |longest| Keeping {
            longest,
            ..Keeping::default()
        };
        let limit = Some(Duration::from_millis(50));
        let one = caller(
            &short,
            keeping(&short, protocol, program.address, old(limit)),
        );
        let made = || program.connections.load(SeqCst);
        within(async {
            while made() < 3 {
                assert_eq!(get(one.1, "http://web/").await.status, 200);
            }
        })
        .await;
        let before = made();
        let two = caller(&long, keeping(&long, protocol, program.address, old(None)));
        for _ in 0..20 {
            assert_eq!(get(two.1, "http://web/").await.status, 200);
        }
        assert_eq!(made(), before + 1, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_connection_carries_as_many_streams_as_it_may() {
    for (streams, want) in [(Some(1), 3), (Some(2), 2), (None, 1)] {
        let gate = Gate::new();
        let program = gate.program().await;
        let mesh = Mesh::new();
        let wanted = Keeping {
            streams,
            ..Keeping::default()
        };
        let snapshot = keeping(&mesh, Protocol::Http2, program.address, wanted);
        let (caller, outbound) = caller(&mesh, snapshot);
        let mut asked = Vec::new();
        for n in 1..=3 {
            asked.push(ask(outbound, "/"));
            caller
                .until("it is there", |_| gate.inside.load(SeqCst) == n)
                .await;
        }
        assert_eq!(program.connections.load(SeqCst), want, "{streams:?}");
        gate.go.add_permits(9);
        assert!(all(asked).await.iter().all(|(status, _)| *status == 200));
    }
}

#[tokio::test]
async fn a_connection_of_bytes_ends_when_it_is_silent_or_old() {
    let echo = || {
        raw(|mut stream, _| async move {
            let (mut reading, mut writing) = stream.split();
            let _ = tokio::io::copy(&mut reading, &mut writing).await;
        })
    };
    let short = Some(Duration::from_millis(200));
    for (wanted, reason) in [
        (
            Keeping {
                idle: short,
                ..Keeping::default()
            },
            "idle-timeout",
        ),
        (
            Keeping {
                longest: short,
                ..Keeping::default()
            },
            "max-connection-duration",
        ),
    ] {
        let (limited, free) = (Mesh::new(), Mesh::new());
        let (one, two) = (echo().await, echo().await);
        let limited = caller(
            &limited,
            keeping(&limited, Protocol::Tcp, one.address, wanted),
        );
        let none = Keeping::default();
        let free = caller(&free, keeping(&free, Protocol::Tcp, two.address, none));
        let mut ends = connect(limited.1, "web:80").await;
        let mut lasts = connect(free.1, "web:80").await;
        let mut word = [0; 4];
        for stream in [&mut ends, &mut lasts] {
            stream.write_all(b"ping").await.unwrap();
            within(stream.read_exact(&mut word)).await.unwrap();
        }
        assert_eq!(within(ends.read(&mut word)).await.unwrap_or(0), 0);
        lasts.write_all(b"pong").await.unwrap();
        within(lasts.read_exact(&mut word)).await.unwrap();
        assert_eq!(&word, b"pong");
        let log = limited.0.log.clone();
        limited
            .0
            .until("it is logged", |_| log.text().contains(reason))
            .await;
    }
}

/// Whether the kernel watches some connection to a port by keep-alive (`timer` 2 in `/proc/net/tcp`).
fn is_watched(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let to = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words[2].ends_with(&to) && words[5].starts_with("02:")
    })
}

#[tokio::test]
async fn the_kernel_watches_connections_where_keep_alive_is_wanted() {
    for wanted in [true, false] {
        let program = program(mirror).await;
        let mesh = Mesh::new();
        let probes = wanted.then(|| Probes {
            count: Some(3),
            after: Some(Duration::from_secs(77)),
            every: Some(Duration::from_secs(5)),
        });
        let kept = Keeping {
            probes,
            ..Keeping::default()
        };
        let snapshot = keeping(&mesh, Protocol::Http, program.address, kept);
        let (_caller, outbound) = caller(&mesh, snapshot);
        assert_eq!(get(outbound, "http://web/").await.status, 200);
        assert_eq!(is_watched(program.address.port()), wanted);
    }
}

#[tokio::test]
async fn a_connection_that_answers_no_ping_is_given_up() {
    for (wanted, reason) in [(true, "upstream-reset"), (false, "request-timeout")] {
        // Takes everything, says nothing but its settings.
        let silent = raw(|mut stream, _| async move {
            let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
            let _ = stream.write_all(&settings).await;
            let mut sink = [0; 1024];
            while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
        })
        .await;
        let mesh = Mesh::new();
        let pings = wanted.then_some(Pings {
            every: Duration::from_millis(50),
            timeout: Duration::from_millis(50),
        });
        let endpoints = [(silent.address, false)];
        let snapshot = mesh.outbound_with(Protocol::Http2, &[silent.address], "web", |forward| {
            forward.timeout = Some(Duration::from_secs(2));
            forward.retry = naka_engine::model::RetryPolicy::off();
        });
        let mut builder = snapshot.edit();
        builder.put_cluster(mesh.cluster(&name().into(), Protocol::Http2, &endpoints, None));
        let snapshot = with(&mesh, &builder.build(), |spec| spec.keeping.pings = pings);
        let (_caller, outbound) = caller(&mesh, snapshot);
        assert_eq!(get(outbound, "http://web/").await.reason(), reason);
    }
}

/// A request of a tier, under way.
fn ask_as(outbound: SocketAddr, path: &'static str, tier: &'static str) -> JoinHandle<u16> {
    tokio::spawn(async move {
        let stream = TcpStream::connect(outbound).await.unwrap();
        let mut sender = client1(TokioIo::new(stream)).await;
        let request = Request::get(format!("http://web{path}"))
            .header("host", "web")
            .header("x-tier", tier)
            .body(full(""))
            .unwrap();
        sender
            .send_request(request)
            .await
            .unwrap()
            .status()
            .as_u16()
    })
}

#[tokio::test]
async fn who_waits_first_is_decided_by_class_where_one_is_named() {
    for classes in [true, false] {
        let gate = Gate::new();
        let program = gate.program().await;
        let mesh = Mesh::new();
        let snapshot = plain(&mesh, Protocol::Http, &[program.address]);
        let snapshot = with(&mesh, &snapshot, |spec| {
            spec.limits.connections = 1;
            spec.priority = classes.then(|| {
                Box::new(Priority {
                    header: http::HeaderName::from_static("x-tier"),
                    values: ["gold".into(), "silver".into()].into(),
                })
            });
        });
        let caller = mesh.proxy_of(2, "shopper", snapshot, &[HOST], |_| {});
        let outbound = caller.open(Entrance::Outbound);
        let mut asked = vec![ask_as(outbound, "/first", "none")];
        caller
            .until("it is there", |_| gate.inside.load(SeqCst) == 1)
            .await;
        let waiting = counts(&mesh);
        for (n, (path, tier)) in
            (1..).zip([("/none", "none"), ("/silver", "silver"), ("/gold", "gold")])
        {
            asked.push(ask_as(outbound, path, tier));
            caller.until("it waits", |_| waiting.pending() == n).await;
        }
        gate.go.add_permits(9);
        for one in asked {
            assert_eq!(within(one).await.unwrap(), 200);
        }
        let seen = gate.seen.lock().unwrap().clone();
        let want = if classes {
            ["/first", "/gold", "/silver", "/none"]
        } else {
            ["/first", "/none", "/silver", "/gold"]
        };
        assert_eq!(seen, want);
    }
}
