//! More requests that are not quite requests (rows 13 to 15 and 17): what must not be passed on as it came, and what a
//! switch of protocols must wait for.

use crate::framing::Reading;
use crate::ground::{Ground, Side};
use crate::smuggle::{passed, rewritten};
use crate::wire::{QUIET, connect, read_all, status};
use crate::{Attack, Outcome, outcome};
use std::io::Write;
use std::time::{Duration, Instant};

/// A request with these bytes must not reach the program with that word in it.
macro_rules! attack {
    ($row:literal, $name:literal, $request:expr, $word:literal) => {
        Attack {
            row: $row,
            name: $name,
            run: |g, s| passed(g, s, $request, $word),
        }
    };
}

pub(crate) const ATTACKS: &[Attack] = &[
    attack!(
        13,
        "NUL in a name",
        "GET / HTTP/1.1\r\nHost: web.default\r\nX-O\0dd: a\r\n\r\n",
        "X-O\0dd"
    ),
    attack!(
        13,
        "NUL in a target",
        "GET /a\0b HTTP/1.1\r\nHost: web.default\r\n\r\n",
        "/a\0b"
    ),
    Attack {
        row: 13,
        name: "a bare line feed at the end of a line",
        run: |g, s| {
            rewritten(
                g,
                s,
                "GET /lf HTTP/1.1\r\nHost: web.default\nX-Odd: a\r\nConnection: close\r\n\r\n",
                "web.default\nX-Odd",
            )
        },
    },
    Attack {
        row: 13,
        name: "a bare line feed behind the request line",
        run: |g, s| {
            rewritten(
                g,
                s,
                "GET /lf HTTP/1.1\nHost: web.default\r\nConnection: close\r\n\r\n",
                "HTTP/1.1\nHost",
            )
        },
    },
    attack!(
        13,
        "a bare carriage return in the request line",
        "GET /a\rb HTTP/1.1\r\nHost: web.default\r\n\r\n",
        "/a\rb"
    ),
    attack!(
        13,
        "a line without a colon",
        "GET / HTTP/1.1\r\nHost: web.default\r\nX-Odd\r\n\r\n",
        "X-Odd"
    ),
    attack!(
        13,
        "a fold before the first field",
        "GET / HTTP/1.1\r\n X-Odd: a\r\nHost: web.default\r\n\r\n",
        " X-Odd"
    ),
    Attack {
        row: 13,
        name: "a chunk extension in order",
        run: |g, s| {
            bodied(
                g,
                s,
                "2;name=value\r\nok\r\n0\r\n\r\n",
                "name=value",
                Some("200"),
            )
        },
    },
    Attack {
        row: 13,
        name: "a chunk extension of one megabyte",
        run: |g, s| {
            let long = format!("2;{}\r\nok\r\n0\r\n\r\n", "x".repeat(1 << 20));
            bodied(g, s, &long, "xxxxxxxx", None)
        },
    },
    Attack {
        row: 13,
        name: "junk behind a chunk's data",
        run: |g, s| bodied(g, s, "2\r\nokjunk\r\n0\r\n\r\n", "junk", None),
    },
    Attack {
        row: 13,
        name: "a chunk size with a sign",
        run: |g, s| bodied(g, s, "+2\r\nok\r\n0\r\n\r\n", "+2", None),
    },
    attack!(
        14,
        "HTTP/1.0 with nothing but a transfer coding",
        "POST /old HTTP/1.0\r\nHost: web.default\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "/old"
    ),
    Attack {
        row: 15,
        name: "bytes before an upgrade that is accepted",
        run: accepted_upgrade,
    },
    attack!(
        17,
        "a target that is only an authority",
        "GET web.default:80 HTTP/1.1\r\nHost: web.default\r\n\r\n",
        "GET web.default:80"
    ),
    attack!(
        17,
        "a CONNECT to a path",
        "CONNECT /connect HTTP/1.1\r\nHost: web.default\r\n\r\n",
        "CONNECT"
    ),
    attack!(
        17,
        "a target with a name and a password",
        "GET http://user:word@web.default/user HTTP/1.1\r\nHost: web.default\r\n\r\n",
        "user:word@"
    ),
    attack!(
        17,
        "no Host",
        "GET /nohost HTTP/1.1\r\nX: y\r\n\r\n",
        "/nohost"
    ),
    attack!(
        17,
        "a list of Hosts",
        "GET /list HTTP/1.1\r\nHost: web.default, other.default\r\n\r\n",
        "other.default"
    ),
    attack!(
        17,
        "a Host with a path",
        "GET /host HTTP/1.1\r\nHost: web.default/other.default\r\n\r\n",
        "other.default"
    ),
];

/// A chunked body; landed when the program reads those bytes of its framing, or when something else is answered than
/// what is right where it is right to go on.
fn bodied(ground: &Ground, side: Side, body: &str, word: &str, right: Option<&str>) -> Outcome {
    ground.naive.reads(Reading::LineFeed);
    ground.program.reads(Reading::LineFeed);
    let ways = match side {
        Side::Naka => vec![ground.published, ground.edge],
        Side::Open => vec![ground.naive.http1],
    };
    let before = ground.resident();
    let mut seen = Vec::new();
    for way in ways {
        let head =
            "POST /framed HTTP/1.1\r\nHost: web.default\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut stream = connect(way, QUIET);
        // A refusal may close the connection before all was sent.
        let _ = stream.write_all([head, body].concat().as_bytes());
        let (answer, _) = read_all(&mut stream);
        seen.push(status(&String::from_utf8_lossy(&answer)).to_owned());
    }
    ground.naive.reads(Reading::Strict);
    let grown = ground.resident().saturating_sub(before) >> 20;
    let landed = ground.program.was_framed(word);
    let wrong = match right {
        Some(right) => seen.iter().any(|status| status != right),
        None => seen.iter().any(|status| status == "200"),
    };
    let passed = if landed { "passed on" } else { "not passed on" };
    outcome(
        landed || side == Side::Naka && (wrong || grown > 24),
        format!("{passed}: {}, {grown} MiB more", seen.join(", ")),
    )
}

/// The program says yes: what was sent too early is there afterwards, once, and was not before.
fn accepted_upgrade(ground: &Ground, side: Side) -> Outcome {
    let early = "early-words";
    let bytes = format!(
        "GET /accept HTTP/1.1\r\nHost: web.default\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n{early}"
    );
    let way = match side {
        Side::Naka => ground.edge,
        Side::Open => ground.naive.http1,
    };
    let mut stream = connect(way, Duration::from_secs(2));
    let _ = stream.write_all(bytes.as_bytes());
    let (answer, _) = read_all(&mut stream);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let end = Instant::now() + Duration::from_secs(2);
    while !ground.program.saw("after: ") && Instant::now() < end {}
    let too_early = ground.program.saw("early bytes: ");
    let after = ground.program.count("after: early-words");
    outcome(
        too_early || side == Side::Naka && (after != 1 || status(&answer) != "101"),
        format!(
            "answered {}, {} before the answer, {after} time behind it",
            status(&answer),
            if too_early { "there" } else { "not there" }
        ),
    )
}
