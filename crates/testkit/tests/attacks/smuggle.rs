//! Requests with two meanings (rows 11 to 15, 17, 18). For each there is a way of reading of the relay and another one
//! of the program behind it that makes the second request out of the first one's body. Landed when the program sees
//! what nobody asked for.

use crate::framing::Reading;
use crate::ground::{Ground, Side};
use crate::wire::{QUIET, connect, read_all, send, send_and_wait, status};
use crate::{Attack, Outcome, outcome};
use std::io::Write;
use std::time::Duration;

pub(crate) const ATTACKS: &[Attack] = &[
    attack(11, "CL.TE", |g, s| {
        both(
            g,
            s,
            Reading::First,
            Reading::AnyChunked,
            &cl_te("Transfer-Encoding: chunked"),
        )
    }),
    attack(11, "TE.CL", |g, s| {
        both(g, s, Reading::AnyChunked, Reading::LengthFirst, &te_cl())
    }),
    attack(11, "TE.TE with an unknown coding", |g, s| {
        hidden(g, s, "Transfer-Encoding: xchunked")
    }),
    attack(11, "TE.TE with a second coding", |g, s| {
        hidden(
            g,
            s,
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        )
    }),
    attack(11, "TE.TE with a space before the colon", |g, s| {
        hidden(g, s, "Transfer-Encoding : chunked")
    }),
    attack(11, "TE.TE with a tab", |g, s| {
        hidden(g, s, "Transfer-Encoding:\x0bchunked")
    }),
    attack(11, "TE.TE behind a bare line feed", |g, s| {
        hidden(g, s, "X: y\nTransfer-Encoding: chunked")
    }),
    attack(11, "two lengths", |g, s| {
        lengths(
            g,
            s,
            "Content-Length: 0\r\nContent-Length: {}",
            Reading::Last,
            Reading::First,
        )
    }),
    attack(11, "a list of lengths", |g, s| {
        lengths(g, s, "Content-Length: 0, {}", Reading::Last, Reading::First)
    }),
    attack(11, "a length with a sign", |g, s| {
        lengths(g, s, "Content-Length: +{}", Reading::First, Reading::Octal)
    }),
    attack(11, "a length in base 16", |g, s| {
        lengths(
            g,
            s,
            "Content-Length: 0x{x}",
            Reading::First,
            Reading::Octal,
        )
    }),
    attack(11, "a negative length", |g, s| {
        passed(
            g,
            s,
            "POST / HTTP/1.1\r\nHost: web.default\r\nContent-Length: -1\r\n\r\n",
            "Length: -1",
        )
    }),
    attack(11, "a length with leading zeros", leading_zeros),
    attack(12, "CL.0 after an early answer", early_answer),
    attack(
        12,
        "CL.0 after an early answer to Expect",
        early_answer_to_expect,
    ),
    attack(12, "0.CL", zero_cl),
    attack(12, "TE.0 after an early answer", early_answer_to_chunks),
    attack(
        13,
        "a chunk extension with a bare line feed",
        chunk_extension,
    ),
    attack(13, "a chunk size over 64 bits", |g, s| {
        both(g, s, Reading::AnyChunked, Reading::Wrapped, &overflowing())
    }),
    attack(13, "junk after a chunk size", |g, s| {
        passed(
            g,
            s,
            "POST / HTTP/1.1\r\nHost: web.default\r\nTransfer-Encoding: chunked\r\n\r\n2 junk\r\nok\r\n0\r\n\r\n",
            "POST /",
        )
    }),
    attack(13, "NUL in a value", |g, s| {
        passed(
            g,
            s,
            "GET / HTTP/1.1\r\nHost: web.default\r\nX-Odd: a\0b\r\n\r\n",
            "a\0b",
        )
    }),
    attack(13, "a bare carriage return in a value", |g, s| {
        passed(
            g,
            s,
            "GET / HTTP/1.1\r\nHost: web.default\r\nX-Odd: a\rb: c\r\n\r\n",
            "a\rb",
        )
    }),
    attack(13, "a folded header", |g, s| {
        passed(
            g,
            s,
            "GET / HTTP/1.1\r\nHost: web.default\r\nX-Odd: a\r\n b: c\r\n\r\n",
            "\r\n b: c",
        )
    }),
    attack(13, "a space before the colon", |g, s| {
        passed(
            g,
            s,
            "GET / HTTP/1.1\r\nHost: web.default\r\nX-Odd : a\r\n\r\n",
            "X-Odd :",
        )
    }),
    attack(14, "HTTP/1.0 with a transfer coding", old_chunked),
    attack(
        14,
        "HTTP/1.0 with a body that ends with the connection",
        old_unframed,
    ),
    attack(15, "bytes before an upgrade was accepted", early_bytes),
    attack(
        15,
        "a request behind a CONNECT that was refused",
        refused_connect,
    ),
    attack(17, "a target that disagrees with Host", |g, s| {
        passed(
            g,
            s,
            "GET http://web.default/x HTTP/1.1\r\nHost: other.default\r\n\r\n",
            "other.default",
        )
    }),
    attack(17, "two Hosts", |g, s| {
        passed(
            g,
            s,
            "GET /x HTTP/1.1\r\nHost: web.default\r\nHost: other.default\r\n\r\n",
            "other.default",
        )
    }),
    attack(17, "an asterisk that is no OPTIONS", |g, s| {
        passed(g, s, "GET * HTTP/1.1\r\nHost: web.default\r\n\r\n", "GET *")
    }),
    attack(18, "a tunnel by upgrade to h2c", h2c),
];

const fn attack(row: u8, name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row, name, run }
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: web.default\r\n\r\n";

fn post(headers: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: web.default\r\n{headers}\r\n\r\n{body}").into_bytes()
}

/// The length covers all of it, the chunks end before the second request.
fn cl_te(coding: &str) -> Vec<u8> {
    let body = format!("0\r\n\r\n{SMUGGLED}");
    post(
        &format!("Content-Length: {}\r\n{coding}", body.len()),
        &body,
    )
}

/// The chunk covers all of it, the length ends before the second request.
fn te_cl() -> Vec<u8> {
    let size = format!("{:x}\r\n", SMUGGLED.len());
    let body = format!("{size}{SMUGGLED}\r\n0\r\n\r\n");
    post(
        &format!(
            "Content-Length: {}\r\nTransfer-Encoding: chunked",
            size.len()
        ),
        &body,
    )
}

/// 2^64 is 0 to some and very much to others.
fn overflowing() -> Vec<u8> {
    let data = format!("\r\n{SMUGGLED}");
    let filler = "x".repeat((1 << 20) - data.len());
    post(
        "Transfer-Encoding: chunked",
        &format!("10000000000000000\r\n{data}{filler}\r\n0\r\n\r\n"),
    )
}

/// What comes of it on each way in: the status, and whether the connection was closed behind it.
fn answers(ground: &Ground, side: Side, bytes: &[u8]) -> Vec<(String, bool)> {
    let (ways, patience) = match side {
        // A connection that is to be closed is, however busy the machine.
        Side::Naka => (vec![ground.published, ground.edge], PATIENCE),
        Side::Open => (vec![ground.naive.http1], QUIET),
    };
    let each = ways.into_iter().map(|way| {
        let (answer, closed) = send_and_wait(way, bytes, patience);
        (status(&answer).to_owned(), closed)
    });
    each.collect()
}

/// Longer than any answer takes, and the end of its connection.
const PATIENCE: Duration = Duration::from_secs(3);

fn told(answers: &[(String, bool)]) -> String {
    let one = |(status, closed): &(String, bool)| match closed {
        true => format!("{status} and closed"),
        false => status.clone(),
    };
    answers.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Sends it to each way in; landed when the program sees the second request on any, or when somebody who leaves a
/// doubt about where a message ends may send another one on the same connection.
fn both(ground: &Ground, side: Side, relay: Reading, program: Reading, bytes: &[u8]) -> Outcome {
    ground.naive.reads(relay);
    ground.program.reads(program);
    let answers = answers(ground, side, bytes);
    ground.naive.reads(Reading::Strict);
    let seen = ground.program.saw("GET /smuggled");
    let open = side == Side::Naka && answers.iter().any(|(_, closed)| !closed);
    let word = match seen {
        true => "the second request was seen",
        false => "refused or read as one",
    };
    outcome(seen || open, format!("{word}: {}", told(&answers)))
}

/// The program knows a transfer coding where the relay sees none.
fn hidden(ground: &Ground, side: Side, coding: &str) -> Outcome {
    both(
        ground,
        side,
        Reading::First,
        Reading::AnyChunked,
        &cl_te(coding),
    )
}

fn lengths(
    ground: &Ground,
    side: Side,
    headers: &str,
    relay: Reading,
    program: Reading,
) -> Outcome {
    let headers = headers
        .replace("{}", &SMUGGLED.len().to_string())
        .replace("{x}", &format!("{:x}", SMUGGLED.len()));
    both(ground, side, relay, program, &post(&headers, SMUGGLED))
}

/// 0200 is two hundred bytes to some and a hundred and twenty-eight to others.
fn leading_zeros(ground: &Ground, side: Side) -> Outcome {
    let body = format!("{}{SMUGGLED}", "x".repeat(128));
    let bytes = post("Content-Length: 0200", &format!("{body:<200}"));
    both(ground, side, Reading::First, Reading::Octal, &bytes)
}

/// What the program gets to see of a request that a relay must not pass on. It is refused, and its connection closed.
pub(crate) fn passed(ground: &Ground, side: Side, request: &str, word: &str) -> Outcome {
    let (reached, answers) = passed_on(ground, side, request, word);
    let refused = |(status, closed): &(String, bool)| status != "200" && *closed;
    let taken = side == Side::Naka && !answers.iter().all(refused);
    let passed = if reached {
        "reached the program"
    } else {
        "not passed on"
    };
    outcome(reached || taken, format!("{passed}: {}", told(&answers)))
}

/// The same of a request that may be answered, but not be passed on as it came.
pub(crate) fn rewritten(ground: &Ground, side: Side, request: &str, word: &str) -> Outcome {
    let (reached, answers) = passed_on(ground, side, request, word);
    let passed = if reached {
        "passed on as it came"
    } else {
        "not passed on as it came"
    };
    outcome(reached, format!("{passed}: {}", told(&answers)))
}

fn passed_on(
    ground: &Ground,
    side: Side,
    request: &str,
    word: &str,
) -> (bool, Vec<(String, bool)>) {
    ground.naive.reads(Reading::AnyChunked);
    ground.program.reads(Reading::AnyChunked);
    let answers = answers(ground, side, request.as_bytes());
    ground.naive.reads(Reading::Strict);
    (ground.program.saw(word), answers)
}

/// The program answers before the body came; the body is then taken for a request, if its connection is used again.
fn after_early_answer(ground: &Ground, side: Side, headers: &str, body: &str) -> Outcome {
    ground.naive.reads(Reading::AnyChunked);
    let mut stream = connect(ground.relay(side), QUIET);
    let head = format!("POST /early HTTP/1.1\r\nHost: web.default\r\n{headers}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("a connection");
    let (answer, _) = read_all(&mut stream);
    let _ = stream.write_all(body.as_bytes());
    let (_, closed) = read_all(&mut stream);
    ground.naive.reads(Reading::Strict);
    let landed = ground.program.saw("GET /smuggled");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let end = if closed { " and closed" } else { "" };
    let became = if landed { "became" } else { "became no" };
    outcome(
        landed,
        format!(
            "answered {}{end}, the body {became} request",
            status(&answer)
        ),
    )
}

fn length() -> String {
    format!("Content-Length: {}", SMUGGLED.len())
}

fn early_answer(ground: &Ground, side: Side) -> Outcome {
    after_early_answer(ground, side, &length(), SMUGGLED)
}

fn early_answer_to_expect(ground: &Ground, side: Side) -> Outcome {
    let headers = format!("Expect: 100-continue\r\n{}", length());
    after_early_answer(ground, side, &headers, SMUGGLED)
}

fn early_answer_to_chunks(ground: &Ground, side: Side) -> Outcome {
    let body = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
    after_early_answer(ground, side, "Transfer-Encoding: chunked", &body)
}

/// The relay ignores the body of a GET, the program waits for it and eats the next caller's request.
fn zero_cl(ground: &Ground, side: Side) -> Outcome {
    ground.naive.reads(Reading::Nothing);
    ground.program.reads(Reading::First);
    let victim = "GET /victim HTTP/1.1\r\nHost: web.default\r\n\r\n";
    let mut stream = connect(ground.relay(side), QUIET);
    let attack = format!(
        "GET /first HTTP/1.1\r\nHost: web.default\r\nContent-Length: {}\r\n\r\n",
        victim.len()
    );
    stream.write_all(attack.as_bytes()).expect("a connection");
    let own = crate::ground::get(ground.relay(Side::Naka), "/victim").unwrap_or_default();
    if side == Side::Open {
        // Relayed on the same connection, as that of a pool is.
        let _ = stream.write_all(format!("{victim}{victim}").as_bytes());
    }
    let _ = read_all(&mut stream);
    ground.naive.reads(Reading::Strict);
    let eaten = match side {
        Side::Naka => status(&own) != "200" || ground.program.count("GET /victim") != 1,
        // One of its own and, of the two relayed, only one was seen.
        Side::Open => ground.program.count("GET /victim") < 3,
    };
    let word = if eaten {
        "another's request was taken for a body"
    } else {
        "another's request was answered"
    };
    outcome(eaten, word)
}

/// A line feed alone ends a chunk's line for the relay only.
fn chunk_extension(ground: &Ground, side: Side) -> Outcome {
    // To the relay the chunk begins after the line feed; to the program the extension goes on up to CRLF, and the two
    // bytes are the next line, after which the body ends.
    let inner = format!("0\r\n\r\n{SMUGGLED}");
    let body = format!("2;\nxx\r\n{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    let bytes = post("Transfer-Encoding: chunked", &body);
    both(ground, side, Reading::LineFeed, Reading::BothBytes, &bytes)
}

fn old(headers: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.0\r\nHost: web.default\r\n{headers}\r\n\r\n{body}").into_bytes()
}

fn old_chunked(ground: &Ground, side: Side) -> Outcome {
    let body = format!("0\r\n\r\n{SMUGGLED}");
    let headers = format!(
        "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: {}",
        body.len()
    );
    both(
        ground,
        side,
        Reading::First,
        Reading::AnyChunked,
        &old(&headers, &body),
    )
}

/// A body up to the end of the connection is none of a request's; the program takes it for a second one.
fn old_unframed(ground: &Ground, side: Side) -> Outcome {
    ground.naive.reads(Reading::ToTheEnd);
    ground.program.reads(Reading::Plain);
    let way = match side {
        // The gateway refuses /admin, so whatever of it is seen went around its routes.
        Side::Naka => ground.edge,
        Side::Open => ground.naive.http1,
    };
    let mut stream = connect(way, QUIET);
    let body = "GET /admin/smuggled HTTP/1.1\r\nHost: web.default\r\n\r\n";
    let _ = stream.write_all(&old("Connection: keep-alive", body));
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let (answer, _) = read_all(&mut stream);
    ground.naive.reads(Reading::Strict);
    let landed = ground.program.saw("/admin/smuggled");
    let word = if landed {
        "the body became a request"
    } else {
        "the body became none"
    };
    outcome(
        landed,
        format!("{}; {word}", status(&String::from_utf8_lossy(&answer))),
    )
}

fn early_bytes(ground: &Ground, side: Side) -> Outcome {
    let bytes = "GET /hold HTTP/1.1\r\nHost: web.default\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nGET /admin/smuggled HTTP/1.1\r\nHost: web.default\r\n\r\n";
    let way = match side {
        // The gateway refuses /admin, so whatever of it is seen went around its routes.
        Side::Naka => ground.edge,
        Side::Open => ground.naive.http1,
    };
    let (answer, _) = send(way, bytes.as_bytes());
    std::thread::park_timeout(Duration::from_millis(100));
    let landed = ground.program.saw("early bytes") || ground.program.saw("/admin/smuggled");
    outcome(
        landed,
        format!(
            "{}; bytes {} before the answer",
            status(&answer),
            if landed { "went" } else { "were held" }
        ),
    )
}

fn refused_connect(ground: &Ground, side: Side) -> Outcome {
    let bytes = "CONNECT nosuch.default.svc.cluster.local:80 HTTP/1.1\r\nHost: nosuch.default\r\nUpgrade: x\r\n\r\nGET http://web.default/smuggled HTTP/1.1\r\nHost: web.default\r\n\r\n";
    let way = match side {
        Side::Naka => ground.outbound,
        Side::Open => ground.naive.http1,
    };
    let (answer, closed) = send(way, bytes.as_bytes());
    let landed = ground.program.saw("/smuggled");
    let end = if closed { " and closed" } else { "" };
    outcome(landed, format!("{}{end}", status(&answer)))
}

fn h2c(ground: &Ground, side: Side) -> Outcome {
    let mut stream = connect(ground.relay(side), QUIET);
    let head = "GET /switch HTTP/1.1\r\nHost: web.default\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("a connection");
    let (answer, _) = read_all(&mut stream);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let _ = read_all(&mut stream);
    let landed = ground.program.saw("tunnelled: PRI");
    outcome(
        landed,
        format!(
            "answered {}, {} tunnel",
            status(&answer),
            if landed { "a" } else { "no" }
        ),
    )
}
