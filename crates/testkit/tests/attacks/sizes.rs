//! Messages larger than anybody needs (row 10). Landed when they are served, or when memory grows with them.

use crate::ground::{Ground, Side};
use crate::wire::{connect, read_all, send, status};
use crate::{Attack, Outcome, outcome};
use std::io::Write;
use std::time::Duration;

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
