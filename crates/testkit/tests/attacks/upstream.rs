//! Programs that attack their callers (row 8): a connection that is to be left and takes no streams any more. Landed
//! when the request is lost, though another connection would have served it.

use crate::ground::{Ground, Side};
use crate::naive::listen_at;
use crate::wire::{ACK, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, SETTINGS, frame, status};
use crate::{Attack, Outcome, outcome};
use bytes::Bytes;
use http_body_util::Empty;
use naka_testkit::mesh::SOON;
use naka_testkit::program::free_port;
use naka_testkit::wait::until;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        row: 8,
        name: "GOAWAY, then no streams allowed",
        run: |g, s| left(g, s, Order::AwayFirst),
    },
    Attack {
        row: 8,
        name: "no streams allowed, then GOAWAY",
        run: |g, s| left(g, s, Order::SettingsFirst),
    },
    Attack {
        row: 10,
        name: "fifty thousand interim answers over HTTP/2",
        run: interim,
    },
];

/// Interim answers of the program before its last one.
const INTERIM: usize = 50_000;

/// They come to nothing, as at an Envoy that is not told to pass them on: the caller gets the answer alone.
fn interim(ground: &Ground, side: Side) -> Outcome {
    if side == Side::Open {
        let mut h2 = crate::wire::H2::open(listen_at(0, hint), &[]);
        h2.send(&crate::wire::get(1, "/"));
        let came = std::iter::from_fn(|| h2.next().ok().flatten())
            .filter(|got| got.kind == HEADERS)
            .take(INTERIM)
            .count();
        return outcome(came == INTERIM, format!("{came} came"));
    }
    let own = free_port();
    let port = format!("{own}/http2");
    let published = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let publish = published.to_string();
    let options = [
        "-s",
        "hints",
        "-p",
        &port,
        "--capture",
        "proxy",
        "--publish",
        &publish,
    ];
    let run = ground.mesh.run(
        "hints",
        &options,
        &["sh", "-c", "echo started; exec sleep 100000"],
    );
    until(format!("the sidecar: {}", run.err()), SOON, || {
        run.out().contains("started").then_some(())
    });
    listen_at(own, hint);
    let sidecar = ground.mesh.sidecar_of(&run).expect("a sidecar");
    let resident = || naka_testkit::program::resident_bytes(sidecar);
    let before = resident();
    let answer = until(format!("an answer: {}", run.err()), SOON, || {
        crate::ground::get(published, "/").filter(|answer| status(answer) == "200")
    });
    let came = answer.matches("HTTP/1.1 1").count();
    let grown = resident().saturating_sub(before) >> 20;
    outcome(
        came > 0 || grown > 8,
        format!("{came} came, then 200, {grown} MiB more"),
    )
}

/// A program that has much to hint at.
fn hint(stream: TcpStream) {
    let _ = hints(stream);
}

fn hints(mut stream: TcpStream) -> io::Result<()> {
    stream.read_exact(&mut [0; 24])?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match (head[3], head[4] & ACK) {
            (SETTINGS, 0) => stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
            (PING, 0) => stream.write_all(&frame(PING, ACK, 0, &payload))?,
            (HEADERS, _) => {
                let early = crate::wire::field(b":status", b"103");
                let early = frame(HEADERS, END_HEADERS, number, &early).repeat(100);
                for _ in 0..INTERIM / 100 {
                    stream.write_all(&early)?;
                }
                stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, number, &[0x88]))?;
            }
            _ => {}
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    AwayFirst,
    SettingsFirst,
}

fn left(ground: &Ground, side: Side, order: Order) -> Outcome {
    let armed = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&armed);
    let program = move |stream| {
        let _ = serve(stream, &shared, order);
    };
    match side {
        Side::Open => {
            armed.store(true, SeqCst);
            let answered = bare_call(listen_at(0, program));
            outcome(
                !answered,
                if answered {
                    "answered"
                } else {
                    "the request was lost"
                },
            )
        }
        Side::Naka => {
            let own = free_port();
            let port = format!("{own}/http2");
            let published = SocketAddr::from(([127, 0, 0, 1], free_port()));
            let publish = published.to_string();
            let name = if order == Order::AwayFirst {
                "leaving"
            } else {
                "closing"
            };
            let options = [
                "-s",
                name,
                "-p",
                &port,
                "--capture",
                "proxy",
                "--publish",
                &publish,
            ];
            let run = ground.mesh.run(
                name,
                &options,
                &["sh", "-c", "echo started; exec sleep 100000"],
            );
            until(format_args!("the sidecar: {}", run.err()), SOON, || {
                run.out().contains("started").then_some(())
            });
            listen_at(own, program);
            let call = || crate::ground::get(published, "/").unwrap_or_default();
            until(
                format_args!("an answer of {name}: {}", run.err()),
                SOON,
                || call().starts_with("HTTP/1.1 200").then_some(()),
            );
            armed.store(true, SeqCst);
            let answers: Vec<String> = (0..5).map(|_| status(&call()).to_owned()).collect();
            let used = !armed.load(SeqCst);
            let lost = answers.iter().any(|answer| answer != "200");
            outcome(lost || !used, format!("answered {}", answers.join(" ")))
        }
    }
}

/// Answers requests; the first one after being armed gets the two frames instead.
fn serve(mut stream: TcpStream, armed: &AtomicBool, order: Order) -> io::Result<()> {
    stream.read_exact(&mut [0; 24])?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match (head[3], head[4] & ACK) {
            (SETTINGS, 0) => stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
            (PING, 0) => stream.write_all(&frame(PING, ACK, 0, &payload))?,
            (HEADERS, _) if armed.swap(false, SeqCst) => {
                // Nothing from this stream on was taken up.
                let last = number.saturating_sub(2).to_be_bytes();
                let away = frame(GOAWAY, 0, 0, &[last, [0; 4]].concat());
                let none = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 0]);
                let both = match order {
                    Order::AwayFirst => [away, none],
                    Order::SettingsFirst => [none, away],
                };
                stream.write_all(&both.concat())?;
            }
            (HEADERS, _) => {
                stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, number, &[0x88]))?;
            }
            _ => {}
        }
    }
}

/// One request of a bare client.
fn bare_call(program: SocketAddr) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let stream = tokio::net::TcpStream::connect(program)
            .await
            .expect("it listens");
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let made = hyper::client::conn::http2::handshake(executor, io).await;
        let (mut sender, connection) = made.expect("a handshake");
        tokio::spawn(connection);
        let request = http::Request::get("http://web.default/").body(Empty::<Bytes>::new());
        let answer = sender.send_request(request.expect("a request"));
        let limit = std::time::Duration::from_secs(5);
        tokio::time::timeout(limit, answer)
            .await
            .is_ok_and(|answer| answer.is_ok())
    })
}
