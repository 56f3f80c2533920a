//! HTTP/2 requests whose fields mean something else once they are written as HTTP/1 (row 16). The twin writes them as
//! they are.

use crate::ground::{Ground, Side};
use crate::wire::{DATA, END_HEADERS, END_STREAM, GOAWAY, H2, HEADERS, RST_STREAM, frame, request};
use crate::{Attack, Outcome, outcome};
use std::time::{Duration, Instant};

pub(crate) const ATTACKS: &[Attack] = &[
    attack("CRLF in a value", |g, s| {
        fields(
            g,
            s,
            "/",
            &[(b"x-odd", b"a\r\nx-injected: 1")],
            b"",
            "x-injected",
        )
    }),
    attack("a line feed in a value", |g, s| {
        fields(
            g,
            s,
            "/",
            &[(b"x-odd", b"a\nx-injected: 1")],
            b"",
            "x-injected",
        )
    }),
    attack("CRLF in a name", |g, s| {
        fields(
            g,
            s,
            "/",
            &[(b"x-odd: a\r\nx-injected", b"1")],
            b"",
            "x-injected",
        )
    }),
    attack("a colon in a name", |g, s| {
        fields(g, s, "/", &[(b"x-injected: a", b"b")], b"", "x-injected")
    }),
    attack("a path with spaces", |g, s| {
        fields(g, s, "/smuggled HTTP/1.1\r\nx: ", &[], b"", "/smuggled")
    }),
    attack("a request line in the path", |g, s| {
        fields(g, s, "/a HTTP/1.1", &[], b"", "/a HTTP/1.1 HTTP")
    }),
    attack("a transfer coding", |g, s| {
        fields(
            g,
            s,
            "/",
            &[(b"transfer-encoding", b"chunked")],
            SMUGGLED,
            "GET /smuggled",
        )
    }),
    attack("a transfer coding in a value", |g, s| {
        fields(
            g,
            s,
            "/",
            &[(b"x", b"a\r\ntransfer-encoding: chunked")],
            SMUGGLED,
            "GET /smuggled",
        )
    }),
    attack("a connection header", |g, s| {
        fields(
            g,
            s,
            "/",
            &[(b"connection", b"x-forwarded-for")],
            b"",
            "connection: x-",
        )
    }),
    attack("upper case in a name", |g, s| {
        fields(g, s, "/", &[(b"X-Odd", b"a")], b"", "X-Odd")
    }),
    attack("a length smaller than the data", |g, s| {
        fields(
            g,
            s,
            "/",
            &[(b"content-length", b"5")],
            SMUGGLED,
            "GET /smuggled",
        )
    }),
    attack("a length of none", |g, s| {
        fields(
            g,
            s,
            "/",
            &[(b"content-length", b"0")],
            SMUGGLED,
            "GET /smuggled",
        )
    }),
    attack("host and authority that differ", |g, s| {
        fields(
            g,
            s,
            "/",
            &[(b"host", b"other.default")],
            b"",
            "other.default",
        )
    }),
    attack("two paths", |g, s| {
        fields(
            g,
            s,
            "/",
            &[(b":path", b"/admin/smuggled")],
            b"",
            "/admin/smuggled",
        )
    }),
    attack("an unknown pseudo-header", |g, s| {
        fields(g, s, "/", &[(b":odd", b"1")], b"", ":odd")
    }),
];

/// A body that is over at once for who reads chunks, with a request behind it.
const SMUGGLED: &[u8] = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: web.default\r\n\r\n";

const fn attack(name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row: 16, name, run }
}

/// Sends a request with these fields and this body; landed when the program sees the word.
fn fields(
    ground: &Ground,
    side: Side,
    path: &str,
    more: &[(&[u8], &[u8])],
    body: &[u8],
    word: &str,
) -> Outcome {
    let ways = match side {
        Side::Naka => vec![ground.published, ground.edge],
        Side::Open => vec![ground.naive.http2],
    };
    let mut seen = Vec::new();
    for way in ways {
        let mut h2 = H2::open(way, &[]);
        let end = if body.is_empty() { END_STREAM } else { 0 };
        let method = if body.is_empty() { "GET" } else { "POST" };
        h2.send(&frame(
            HEADERS,
            END_HEADERS | end,
            1,
            &request(method, path, more),
        ));
        if !body.is_empty() {
            h2.send(&frame(DATA, END_STREAM, 1, body));
        }
        seen.push(answer(&mut h2));
    }
    let landed = ground.program.saw(word);
    let passed = if landed {
        "reached the program"
    } else {
        "not passed on"
    };
    outcome(landed, format!("{passed}: {}", seen.join(", ")))
}

fn answer(h2: &mut H2) -> &'static str {
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        match h2.next() {
            Ok(Some(got)) if got.kind == RST_STREAM => return "stream reset",
            Ok(Some(got)) if got.kind == GOAWAY => return "connection closed",
            Ok(Some(got)) if got.kind == HEADERS => {
                return match got.payload.first() {
                    Some(0x88) => "200",
                    Some(0x8c) => "400",
                    _ => "another status",
                };
            }
            Ok(_) => {}
            Err(()) => return "connection closed",
        }
    }
    "no answer"
}
