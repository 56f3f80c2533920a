//! Callers that take in little or nothing of a large answer (row 7: CVE-2019-9511, -9517), and fields without a name
//! (CVE-2019-9516). The route's timeout is a second; landed when the answer is still on its way long after that.

use crate::downgrade::fields;
use crate::flood::{ended, is_open};
use crate::ground::{Ground, Side};
use crate::wire::{
    ACK, DATA, END_STREAM, GOAWAY, H2, RST_STREAM, SETTINGS, WINDOW_UPDATE, connect, frame, get,
};
use crate::{Attack, Outcome, outcome};
use std::io::Write;
use std::time::{Duration, Instant};

pub(crate) const ATTACKS: &[Attack] = &[
    attack("a window that opens by one byte at a time", dribble),
    attack("wide windows and a socket that is not read", unread),
    attack("an HTTP/1 answer that is not read", unread1),
    attack("four thousand fields without a name", nameless),
];

const fn attack(name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row: 7, name, run }
}

/// Long after the route's second.
const LONG: Duration = Duration::from_secs(6);
const INITIAL_WINDOW: u16 = 4;
/// More than this is kept of no answer that is not taken, MiB.
const KEPT: u64 = 48;

fn dribble(ground: &Ground, side: Side) -> Outcome {
    let before = ground.resident();
    let mut h2 = H2::open(ground.http2(side), &[(INITIAL_WINDOW, 1)]);
    h2.send(&get(1, "/hasty/big"));
    let (began, mut taken, mut open, mut grown) = (Instant::now(), 0usize, true, 0);
    while open && began.elapsed() < LONG {
        match h2.next() {
            Ok(Some(got)) if got.kind == DATA => {
                taken += got.payload.len();
                open = got.flags & END_STREAM == 0;
                let more = u32::try_from(got.payload.len().max(1)).unwrap_or(1);
                h2.send(&frame(WINDOW_UPDATE, 0, 1, &more.to_be_bytes()));
                if taken.is_multiple_of(1_000) {
                    grown = grown.max(ground.resident().saturating_sub(before) >> 20);
                }
            }
            Ok(Some(got)) if matches!(got.kind, RST_STREAM | GOAWAY) => open = false,
            Ok(Some(got)) if got.kind == SETTINGS && got.flags & ACK == 0 => {
                h2.send(&frame(SETTINGS, ACK, 0, &[]));
            }
            Ok(_) => {}
            Err(()) => open = false,
        }
    }
    let time = began.elapsed().as_millis();
    let word = if open { "still open" } else { "over" };
    let seen = format!("{word} after {time} ms and {taken} bytes, at most {grown} MiB more");
    outcome(open || side == Side::Naka && grown > KEPT, seen)
}

/// HTTP/2 lets it all come, TCP does not.
fn unread(ground: &Ground, side: Side) -> Outcome {
    const STREAMS: u32 = 50;
    let before = ground.resident();
    let widest = u32::MAX >> 1;
    let mut h2 = H2::open(ground.http2(side), &[(INITIAL_WINDOW, widest)]);
    h2.send(&frame(
        WINDOW_UPDATE,
        0,
        0,
        &(widest - 65_535).to_be_bytes(),
    ));
    for n in 0..STREAMS {
        h2.send(&get(1 + 2 * n, "/hasty/big"));
    }
    let (began, mut grown, mut open) = (Instant::now(), 0, true);
    while open && began.elapsed() < LONG {
        grown = grown.max(ground.resident().saturating_sub(before) >> 20);
        open = is_open(&h2);
    }
    let time = began.elapsed().as_millis();
    let left = match side {
        Side::Naka => ended(ground),
        Side::Open => 0,
    };
    let word = if open { "still open" } else { "closed" };
    let seen =
        format!("{word} after {time} ms, {left} left at the program, at most {grown} MiB more");
    outcome(
        open || side == Side::Naka && (grown > KEPT || left > 0),
        seen,
    )
}

fn unread1(ground: &Ground, side: Side) -> Outcome {
    const CALLERS: usize = 20;
    let way = match side {
        Side::Naka => ground.edge,
        Side::Open => ground.naive.http1,
    };
    let before = ground.resident();
    let began = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let mut stream = connect(way, Duration::from_millis(1));
            let _ = stream.write_all(b"GET /hasty/big HTTP/1.1\r\nHost: web.default\r\n\r\n");
            stream
        })
        .collect();
    // Each has reached the program by then, or it is not asked any more.
    while ground.program.count("/hasty/big") < CALLERS && began.elapsed() < LONG {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let left = ended(ground);
    let grown = ground.resident().saturating_sub(before) >> 20;
    let time = began.elapsed().as_millis();
    drop(callers);
    let seen = format!(
        "{left} of {CALLERS} answers still at the program after {time} ms, {grown} MiB more"
    );
    outcome(left > 0 || side == Side::Naka && grown > KEPT, seen)
}

/// Each takes three bytes on the wire, and a table entry wherever they are kept.
fn nameless(ground: &Ground, side: Side) -> Outcome {
    let none: (&[u8], &[u8]) = (b"", b"");
    let before = ground.resident();
    let mut result = fields(ground, side, "/nameless", &[none; 4_000], b"", "/nameless");
    let grown = ground.resident().saturating_sub(before) >> 20;
    result.landed |= side == Side::Naka && grown > 24;
    result.seen += &format!(", {grown} MiB more");
    result
}
