//! Messages larger than anybody needs (row 10). Landed when they are served, or when memory grows with them.

use crate::ground::{Ground, Side};
use crate::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, H2, HEADERS, RST_STREAM, connect, field, frame,
    read_all, request, send, status,
};
use crate::{Attack, Outcome, outcome};
use std::io::Write;
use std::time::{Duration, Instant};

pub(crate) const ATTACKS: &[Attack] = &[
    attack("a header of 70 kB", |g, s| {
        head(g, s, &format!("X-Long: {}\r\n", "a".repeat(70_000)), "/")
    }),
    attack("a hundred and twenty header fields", |g, s| {
        head(g, s, &"X-A: b\r\n".repeat(120), "/")
    }),
    attack("a target of 9 kB", |g, s| {
        head(g, s, "", &format!("/{}", "a".repeat(9_000)))
    }),
    attack("trailers of 10 MB", trailers),
    attack("a head that never ends", endless),
    attack("fifty thousand interim answers", interim),
    attack("a hundred and twenty header fields over HTTP/2", |g, s| {
        let one: (&[u8], &[u8]) = (b"x-a", b"b");
        head2(g, s, "/", &[one; 120])
    }),
    attack("a target of 9 kB over HTTP/2", |g, s| {
        head2(g, s, &format!("/{}", "a".repeat(9_000)), &[])
    }),
    attack("trailers of 10 MB over HTTP/2", trailers2),
];

const fn attack(name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row: 10, name, run }
}

fn head(ground: &Ground, side: Side, headers: &str, path: &str) -> Outcome {
    let bytes = format!("GET {path} HTTP/1.1\r\nHost: web.default\r\n{headers}\r\n");
    let (answer, _) = send(ground.http1(side), bytes.as_bytes());
    let status = status(&answer);
    let refused = matches!(status, "431" | "414");
    outcome(
        status == "200" || side == Side::Naka && !refused,
        format!("answered {status}"),
    )
}

/// The first byte of an answer's fields: `:status: 200` of the static table.
const OK: u8 = 0x88;

fn head2(ground: &Ground, side: Side, path: &str, more: &[(&[u8], &[u8])]) -> Outcome {
    let mut h2 = H2::open(ground.http2(side), &[]);
    let block = request("GET", path, more);
    h2.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
    let first = first_of(&mut h2, 1);
    let seen = match first {
        Ok(Some(OK)) => "served",
        Ok(Some(_)) => "another status",
        Ok(None) => "stream reset",
        Err(()) => "connection closed",
    };
    let reached = ground.program.saw(&path[..path.len().min(1_000)]) && path.len() > 1;
    outcome(first == Ok(Some(OK)) || side == Side::Naka && reached, seen)
}

/// The first byte of the fields that answer a stream; `None` when it was reset, an error when the connection ended.
fn first_of(h2: &mut H2, stream: u32) -> Result<Option<u8>, ()> {
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        match h2.next()? {
            Some(got) if got.kind == HEADERS && got.stream == stream => {
                return Ok(got.payload.first().copied());
            }
            Some(got) if got.kind == RST_STREAM && got.stream == stream => return Ok(None),
            _ => {}
        }
    }
    Err(())
}

fn trailers2(ground: &Ground, side: Side) -> Outcome {
    let before = ground.resident();
    let mut h2 = H2::open(ground.http2(side), &[]);
    h2.send(&frame(
        HEADERS,
        END_HEADERS,
        1,
        &request("POST", "/trailers2", &[]),
    ));
    h2.send(&frame(DATA, 0, 1, b"ok"));
    let part = field(b"x-t", &[b't'; 10_000]);
    h2.send(&frame(HEADERS, END_STREAM, 1, &part));
    let mut sent = 0;
    while sent < 10_000_000 && h2.send(&frame(CONTINUATION, 0, 1, &part)) {
        sent += part.len();
    }
    h2.send(&frame(CONTINUATION, END_HEADERS, 1, &[]));
    let served = h2.serves(3);
    let grown = ground.resident().saturating_sub(before) >> 20;
    let seen = match &served {
        Ok(()) => "the connection goes on".to_owned(),
        Err(how) => format!("{how} within {} KiB", sent >> 10),
    };
    outcome(
        served.is_ok() || side == Side::Naka && grown > 24,
        format!("{seen}, {grown} MiB more"),
    )
}

fn trailers(ground: &Ground, side: Side) -> Outcome {
    let before = ground.resident();
    let way = match side {
        Side::Naka => ground.edge,
        // The libraries bound trailers by themselves; a relay and a program that keep what they read do not.
        Side::Open => ground.naive.http1,
    };
    let mut stream = connect(way, Duration::from_secs(2));
    let head = "POST /trailers HTTP/1.1\r\nHost: web.default\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n";
    let _ = stream.write_all(head.as_bytes());
    let line = format!("X-T: {}\r\n", "t".repeat(1_000));
    let mut sent = 0;
    while sent < 10_000_000 && stream.write_all(line.as_bytes()).is_ok() {
        sent += line.len();
    }
    let _ = stream.write_all(b"\r\n");
    let (answer, closed) = read_all(&mut stream);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let grown = ground.resident().saturating_sub(before) >> 20;
    let ok = status(&answer) == "200" && !closed;
    outcome(
        ok || side == Side::Naka && grown > 8,
        format!("{}, {grown} MiB more", status(&answer)),
    )
}

fn endless(ground: &Ground, side: Side) -> Outcome {
    let before = ground.resident();
    let mut stream = connect(ground.http1(side), Duration::from_secs(2));
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: web.default\r\n");
    let line = format!("X-Long: {}", "a".repeat(64_000));
    let mut sent = 0;
    while sent < 32 << 20 && stream.write_all(line.as_bytes()).is_ok() {
        sent += line.len();
    }
    let grown = ground.resident().saturating_sub(before) >> 20;
    let seen = format!("{} KiB taken, {grown} MiB more", sent >> 10);
    outcome(sent >= 32 << 20 || side == Side::Naka && grown > 8, seen)
}

/// The program sends interim answers without end before its answer. Without the guard they all arrive.
fn interim(ground: &Ground, side: Side) -> Outcome {
    let before = ground.resident();
    let way = match side {
        Side::Naka => ground.edge,
        Side::Open => ground.program.address,
    };
    let mut stream = connect(way, Duration::from_secs(5));
    let _ =
        stream.write_all(b"GET /flood HTTP/1.1\r\nHost: web.default\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    while answer.len() < 100 << 20 {
        let mut part = [0; 64 * 1024];
        match std::io::Read::read(&mut stream, &mut part) {
            Ok(0) | Err(_) => break,
            Ok(count) => answer.extend_from_slice(&part[..count]),
        }
        if answer.ends_with(b"\r\n\r\nok") {
            break;
        }
    }
    let interim = answer.windows(12).filter(|w| w == b"HTTP/1.1 103").count();
    let last = answer.windows(12).rfind(|w| w.starts_with(b"HTTP/1.1 "));
    let last = String::from_utf8_lossy(last.unwrap_or_default()).into_owned();
    let grown = ground.resident().saturating_sub(before) >> 20;
    let seen = format!(
        "{interim} came, then {}, {grown} MiB more",
        last.trim_start_matches("HTTP/1.1 ")
    );
    outcome(interim > 1_000 || side == Side::Naka && grown > 8, seen)
}
