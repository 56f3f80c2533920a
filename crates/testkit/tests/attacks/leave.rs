//! Callers that leave at any moment (row 43): before, amid and after heads, bodies and answers. Landed when something
//! goes on for them after they left: work at the program, connections of the proxies, places in a queue.

use crate::ground::{Ground, Side};
use crate::wire::{H2, RST_STREAM, connect, frame, get};
use crate::{Attack, Outcome, outcome};
use naka_testkit::size;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

pub(crate) const ATTACKS: &[Attack] = &[Attack {
    row: 43,
    name: "callers that leave at any moment",
    run: leave,
}];

/// What is begun, by turns.
const REQUESTS: [&str; 10] = [
    "GET /hang HTTP/1.1\r\nHost: web.default\r\n\r\n",
    "GET /big HTTP/1.1\r\nHost: web.default\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: web.default\r\n\r\n",
    "POST /again HTTP/1.1\r\nHost: web.default\r\nContent-Length: 100000\r\n\r\npart",
    "POST /early HTTP/1.1\r\nHost: web.default\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
    "GET /hold HTTP/1.1\r\nHost: web.default\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    // While a fault holds it, while its body is awaited to choose a route, beside a copy, while one waits for its turn.
    "GET /delayed HTTP/1.1\r\nHost: web.default\r\n\r\n",
    "POST /judged HTTP/1.1\r\nHost: web.default\r\nContent-Length: 60000\r\n\r\n{\"amount\":",
    "POST /mirrored/hang HTTP/1.1\r\nHost: web.default\r\nContent-Length: 60000\r\n\r\npart",
    "GET /queued/hang HTTP/1.1\r\nHost: web.default\r\n\r\n",
];

fn leave(ground: &Ground, side: Side) -> Outcome {
    let (before, resident) = (ground.descriptors(), ground.resident());
    let ways: Vec<SocketAddr> = match side {
        Side::Naka => vec![ground.edge, ground.published],
        Side::Open => vec![ground.naive.http1],
    };
    let seed = 43;
    let count = size().pick(300, 5_000);
    std::thread::scope(|scope| {
        for part in 0..4u64 {
            let ways = &ways;
            scope.spawn(move || {
                let mut state = seed + part;
                for n in 0..count / 4 {
                    let way = ways[n % ways.len()];
                    one(way, n, &mut state, side);
                }
            });
        }
    });
    let end = Instant::now() + Duration::from_secs(10);
    let (mut working, mut kept) = (usize::MAX, usize::MAX);
    // The bystander has one of each now and then; proxies keep some connections for the next request.
    while (working > 1 || kept > 60) && Instant::now() < end {
        working = ground.program.working.load(SeqCst);
        kept = ground.descriptors().saturating_sub(before);
        std::thread::park_timeout(Duration::from_millis(20));
        if side == Side::Open && Instant::now() + Duration::from_secs(8) > end {
            break;
        }
    }
    let mut seen =
        format!("of {count} callers, {working} left at work, {kept} more descriptors, seed {seed}");
    let mut landed = working > 1;
    if side == Side::Naka {
        // One connection serves the queue: were it or a place in the queue still counted for somebody who has left,
        // nobody would be served there any more.
        let served = (0..20).filter(|_| {
            let answer = crate::ground::get(ground.edge, "/queued/fine");
            answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
        let served = served.count();
        let grown = ground.resident().saturating_sub(resident) >> 20;
        landed |= kept > 60 || served != 20 || grown > 16;
        seen += &format!(", {served} of 20 served behind one connection, {grown} MiB more");
    }
    outcome(landed, seen)
}

/// One caller, who leaves after a while of up to 8 ms.
fn one(way: SocketAddr, n: usize, state: &mut u64, side: Side) {
    // xorshift: any order will do, the same one each time is enough.
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    let wait = Duration::from_micros(*state % 8_000);
    if side == Side::Naka && n.is_multiple_of(3) {
        let mut h2 = H2::open(way, &[]);
        h2.send(&get(1, "/hang"));
        h2.send(&get(3, "/big"));
        std::thread::sleep(wait);
        h2.send(&frame(RST_STREAM, 0, 1, &8u32.to_be_bytes()));
        return;
    }
    let request = REQUESTS[n % REQUESTS.len()].as_bytes();
    let cut = usize::try_from(*state % 7).unwrap_or(0);
    let whole = if cut == 0 {
        request.len() / 2
    } else {
        request.len()
    };
    let mut stream = connect(way, Duration::from_millis(1));
    let _ = stream.write_all(&request[..whole]);
    std::thread::sleep(wait);
}
