//! HTTP/2 requests whose fields mean something else once they are written as HTTP/1 (row 16). The twin writes them as
//! they are.

use crate::ground::{Ground, Side};
use crate::wire::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, H2, HEADERS, RST_STREAM, field, frame, request,
};
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
    attack("NUL in a value", |g, s| {
        fields(g, s, "/", &[(b"x-odd", b"a\0b")], b"", "a\0b")
    }),
    attack("a carriage return in a value", |g, s| {
        fields(g, s, "/", &[(b"x-odd", b"a\rb")], b"", "a\rb")
    }),
    attack("a space in a name", |g, s| {
        fields(g, s, "/", &[(b"x odd", b"a")], b"", "x odd")
    }),
    attack("CRLF in the method", |g, s| {
        let method = "GET /admin/smuggled HTTP/1.1\r\nhost: web.default\r\n\r\nGET";
        whole(g, s, &request(method, "/", &[]), b"", "/admin/smuggled")
    }),
    attack("CRLF in the authority", |g, s| {
        authority(g, s, b"web.default\r\nx-injected: 1", "x-injected")
    }),
    attack("a space in the authority", |g, s| {
        authority(g, s, b"web.default other.default", "other.default")
    }),
    attack("a name and a password in the authority", |g, s| {
        authority(g, s, b"user:word@web.default", "user:word@")
    }),
    attack("two authorities", |g, s| {
        fields(
            g,
            s,
            "/",
            &[(b":authority", b"other.default")],
            b"",
            "other.default",
        )
    }),
    attack("two hosts that differ", |g, s| {
        let two: [(&[u8], &[u8]); 2] = [(b"host", b"web.default"), (b"host", b"other.default")];
        fields(g, s, "/", &two, b"", "other.default")
    }),
    attack("two lengths", |g, s| {
        let two: [(&[u8], &[u8]); 2] = [(b"content-length", b"5"), (b"content-length", b"50")];
        fields(g, s, "/", &two, SMUGGLED, "GET /smuggled")
    }),
    attack("a length larger than the data", |g, s| {
        refused(g, s, &[(b"content-length", b"500")])
    }),
    attack("a path behind other fields", |g, s| {
        let block = [
            request("GET", "/", &[]),
            field(b"x-odd", b"1"),
            field(b":path", b"/admin/smuggled"),
        ];
        whole(g, s, &block.concat(), b"", "/admin/smuggled")
    }),
    attack("no path", |g, s| {
        let block = [field(b":method", b"GET"), field(b":scheme", b"http")].concat();
        let block = [block, field(b":authority", b"web.default")].concat();
        whole(g, s, &block, b"", "GET  HTTP")
    }),
    attack("fields of a connection", |g, s| {
        let of_one: [(&[u8], &[u8]); 3] = [
            (b"keep-alive", b"timeout=odd"),
            (b"proxy-connection", b"odd"),
            (b"upgrade", b"odd"),
        ];
        fields(g, s, "/", &of_one, b"", "odd")
    }),
    attack("a te that asks for more than trailers", |g, s| {
        fields(g, s, "/", &[(b"te", b"chunked, odd")], b"", "te: chunked")
    }),
    attack("framing in the trailers", |g, s| {
        trailers(g, s, &field(b"transfer-encoding", b"chunked"))
    }),
    attack("CRLF in the trailers", |g, s| {
        trailers(g, s, &field(b"x-odd", b"a\r\nx-injected: 1"))
    }),
    attack("a path in the trailers", |g, s| {
        let mut result = trailers(g, s, &field(b":path", b"/admin/smuggled"));
        // Dropped by the library, which does not end the stream for it: what counts is that nobody is asked for it.
        result.landed = g.program.saw("/admin/smuggled");
        result
    }),
];

/// A body that is over at once for who reads chunks, with a request behind it.
const SMUGGLED: &[u8] = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: web.default\r\n\r\n";

const fn attack(name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row: 16, name, run }
}

/// Sends a request with these fields and this body; landed when the program sees the word.
pub(crate) fn fields(
    ground: &Ground,
    side: Side,
    path: &str,
    more: &[(&[u8], &[u8])],
    body: &[u8],
    word: &str,
) -> Outcome {
    let method = if body.is_empty() { "GET" } else { "POST" };
    whole(ground, side, &request(method, path, more), body, word)
}

/// The same with a header block as it is.
fn whole(ground: &Ground, side: Side, block: &[u8], body: &[u8], word: &str) -> Outcome {
    let seen = sent(ground, side, |h2| {
        let end = if body.is_empty() { END_STREAM } else { 0 };
        h2.send(&frame(HEADERS, END_HEADERS | end, 1, block));
        if !body.is_empty() {
            h2.send(&frame(DATA, END_STREAM, 1, body));
        }
    });
    let landed = ground.program.saw(word);
    let passed = if landed {
        "reached the program"
    } else {
        "not passed on"
    };
    outcome(landed, format!("{passed}: {}", seen.join(", ")))
}

/// What comes back on each way in.
fn sent(ground: &Ground, side: Side, say: impl Fn(&mut H2)) -> Vec<&'static str> {
    let ways = match side {
        Side::Naka => vec![ground.published, ground.edge],
        Side::Open => vec![ground.naive.http2],
    };
    let each = ways.into_iter().map(|way| {
        let mut h2 = H2::open(way, &[]);
        say(&mut h2);
        answer(&mut h2)
    });
    each.collect()
}

/// Landed when the stream is not refused; the program may see its beginning.
fn refused(ground: &Ground, side: Side, more: &[(&[u8], &[u8])]) -> Outcome {
    let seen = sent(ground, side, |h2| {
        let block = request("POST", "/early", more);
        h2.send(&frame(HEADERS, END_HEADERS, 1, &block));
        h2.send(&frame(DATA, END_STREAM, 1, SMUGGLED));
    });
    let is_refusal = |word: &str| matches!(word, "stream reset" | "connection closed" | "400");
    outcome(!seen.iter().all(|word| is_refusal(word)), seen.join(", "))
}

fn authority(ground: &Ground, side: Side, authority: &[u8], word: &str) -> Outcome {
    let block = [
        field(b":method", b"GET"),
        field(b":scheme", b"http"),
        field(b":path", b"/"),
        field(b":authority", authority),
    ];
    whole(ground, side, &block.concat(), b"", word)
}

/// Trailers behind a body; landed when the request is answered as if they were none of anybody's business.
fn trailers(ground: &Ground, side: Side, block: &[u8]) -> Outcome {
    let seen = sent(ground, side, |h2| {
        let head = request("POST", "/trailed", &[]);
        h2.send(&frame(HEADERS, END_HEADERS, 1, &head));
        h2.send(&frame(DATA, 0, 1, b"2\r\nok\r\n0\r\n\r\n"));
        h2.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, block));
    });
    outcome(seen.contains(&"200"), seen.join(", "))
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
