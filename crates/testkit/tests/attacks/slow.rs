//! Callers that take their time (row 9). Landed when they are still there after Naka's limits of 10 s and a bit.

use crate::ground::{Ground, Side};
use crate::wire::{
    END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, connect, field, frame, request,
};
use crate::{Attack, Outcome, outcome};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub(crate) const ATTACKS: &[Attack] = &[attack(
    9,
    "heads, silence, handshakes and bodies without haste",
    all,
)];

const fn attack(row: u8, name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row, name, run }
}

/// Longer than any of the limits.
const LONG: Duration = Duration::from_secs(14);
/// Connections of each kind.
const EACH: usize = 50;

/// A way of being slow: what is sent at first, and what every second from then on.
struct Way {
    name: &'static str,
    first: fn() -> Vec<u8>,
    drip: &'static [u8],
    to: fn(&Ground) -> SocketAddr,
    /// Whom it is aimed at where the guard is off.
    twin: fn(&Ground) -> SocketAddr,
}

/// The preface of HTTP/2 and its first frame.
fn begun() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// A head of five thousand bytes, of which the first few are there.
fn part_of_a_head() -> Vec<u8> {
    let fields = [request("GET", "/", &[]), field(b"x-long", &[b'a'; 5_000])];
    let mut head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields.concat());
    head.truncate(100);
    [begun(), head].concat()
}

/// The first message of a TLS handshake, which its sender does not go on with.
fn hello() -> Vec<u8> {
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "secure.example".try_into().expect("a name");
    let mut client =
        rustls::ClientConnection::new(std::sync::Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("memory");
    bytes
}

const WAYS: &[Way] = &[
    Way {
        name: "an HTTP/2 head byte by byte",
        first: part_of_a_head,
        drip: b"a",
        to: |g| g.edge,
        twin: |g| g.bare.http2,
    },
    Way {
        name: "an HTTP/2 head without its end",
        first: || {
            [
                begun(),
                frame(HEADERS, END_STREAM, 1, &request("GET", "/", &[])),
            ]
            .concat()
        },
        drip: b"",
        to: |g| g.published,
        twin: |g| g.bare.http2,
    },
    Way {
        name: "a preface and no frame",
        first: || PREFACE.to_vec(),
        drip: b"",
        to: |g| g.edge,
        twin: |g| g.bare.http2,
    },
    Way {
        name: "half a hello at the gateway",
        first: || hello()[..60].to_vec(),
        drip: b"",
        to: |g| g.secure,
        twin: |g| g.bare.patient,
    },
    Way {
        name: "a hello at the gateway and nothing after it",
        first: hello,
        drip: b"",
        to: |g| g.secure,
        twin: |g| g.bare.patient,
    },
    Way {
        name: "a hello at the sidecar and nothing after it",
        first: hello,
        drip: b"",
        to: |g| g.inbound,
        twin: |g| g.bare.patient,
    },
    Way {
        name: "slow head",
        first: || b"GET / HTTP/1.1\r\nHost: web.default\r\n".to_vec(),
        drip: b"X-A: b\r\n",
        to: |g| g.edge,
        twin: |g| g.bare.http1,
    },
    Way {
        name: "silence",
        first: || b"".to_vec(),
        drip: b"",
        to: |g| g.edge,
        twin: |g| g.bare.http1,
    },
    Way {
        name: "silence at the sidecar",
        first: || b"".to_vec(),
        drip: b"",
        to: |g| g.published,
        twin: |g| g.bare.http1,
    },
    Way {
        name: "half a preface",
        first: || b"PRI * HTTP".to_vec(),
        drip: b"",
        to: |g| g.edge,
        twin: |g| g.bare.http1,
    },
    Way {
        name: "slow handshake",
        first: || b"\x16\x03\x01".to_vec(),
        drip: b"",
        to: |g| g.inbound,
        twin: |g| g.bare.patient,
    },
    Way {
        name: "slow body within a route's second",
        first: || {
            b"POST /hasty HTTP/1.1\r\nHost: web.default\r\nContent-Length: 1000\r\n\r\n".to_vec()
        },
        drip: b"x",
        to: |g| g.edge,
        twin: |g| g.bare.http1,
    },
];

/// All kinds at once, because each takes as long.
fn all(ground: &Ground, side: Side) -> Outcome {
    let connections: Vec<(usize, TcpStream)> = WAYS
        .iter()
        .enumerate()
        .flat_map(|(index, way)| {
            let address = match side {
                Side::Naka => (way.to)(ground),
                Side::Open => (way.twin)(ground),
            };
            let first = (way.first)();
            (0..EACH).map(move |_| {
                let mut stream = connect(address, Duration::from_millis(1));
                let _ = stream.write_all(&first);
                (index, stream)
            })
        })
        .collect();
    let began = Instant::now();
    let mut open: Vec<Option<TcpStream>> = Vec::new();
    let mut of: Vec<usize> = Vec::new();
    for (index, stream) in connections {
        of.push(index);
        open.push(Some(stream));
    }
    while began.elapsed() < LONG && open.iter().any(Option::is_some) {
        for (slot, index) in open.iter_mut().zip(&of) {
            let ended = slot.as_mut().is_some_and(|stream| {
                let gone = stream.write_all(WAYS[*index].drip).is_err();
                gone || has_ended(stream)
            });
            if ended {
                *slot = None;
            }
        }
        std::thread::park_timeout(Duration::from_millis(500));
    }
    let time = began.elapsed().as_millis();
    let left = |index: usize| {
        let all = open.iter().zip(&of);
        all.filter(|(slot, of)| **of == index && slot.is_some())
            .count()
    };
    let still: Vec<String> = WAYS
        .iter()
        .enumerate()
        .filter(|(index, _)| left(*index) > 0)
        .map(|(index, way)| format!("{} {}", left(index), way.name))
        .collect();
    let landed = match side {
        Side::Naka => !still.is_empty(),
        Side::Open => still.len() == WAYS.len(),
    };
    let seen = if still.is_empty() {
        format!("all {} closed after {time} ms", EACH * WAYS.len())
    } else {
        format!("open after {time} ms: {}", still.join(", "))
    };
    outcome(landed, seen)
}

/// Whether the other side has closed, or answered and will.
fn has_ended(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 1024];
    match stream.read(&mut buffer) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        ),
    }
}
