//! Bodies that are to be kept or parsed (rows 40 and 41): large ones of requests that are tried again, and deep ones.
//! Landed when memory grows with the body, or a process dies of its depth.

use crate::ground::{Ground, Side};
use crate::wire::{connect, read_all, status};
use crate::{Attack, Outcome, outcome};
use naka_testkit::program::resident_bytes;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        row: 40,
        name: "JSON a hundred thousand levels deep",
        run: deep_json,
    },
    Attack {
        row: 40,
        name: "a JSON body a hundred thousand levels deep that decides the route",
        run: deep_body,
    },
    Attack {
        row: 41,
        name: "a body of 64 MB with retries",
        run: |g, s| large_body(g, s, "/again"),
    },
    Attack {
        row: 41,
        name: "a body of 64 MB with a copy that nobody reads",
        run: copied_body,
    },
];

/// What the service that copies go to saw of them. It takes a head and then nothing for a while.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    begun: AtomicUsize,
    cut: AtomicUsize,
}

impl Copies {
    /// One connection: whether the copy on it was cut off is known at its end.
    pub(crate) fn take(&self, mut stream: TcpStream) {
        if stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {
            self.begun.fetch_add(1, SeqCst);
        }
        std::thread::park_timeout(Duration::from_secs(2));
        let taken = std::io::copy(&mut stream, &mut std::io::sink()).unwrap_or(0);
        if usize::try_from(taken).is_ok_and(|taken| taken < LARGE / 2) {
            self.cut.fetch_add(1, SeqCst);
        }
    }
}

/// The copy falls behind at once: it is cut off, and the request goes on.
fn copied_body(ground: &Ground, side: Side) -> Outcome {
    let mut result = large_body(ground, side, "/mirrored/swallow");
    if side == Side::Naka {
        let copies = &ground.copies;
        let end = Instant::now() + Duration::from_secs(20);
        while copies.cut.load(SeqCst) == 0 && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let (begun, cut) = (copies.begun.load(SeqCst), copies.cut.load(SeqCst));
        let whole = result.seen.starts_with("200 after 64 MiB");
        result.landed |= begun == 0 || cut == 0 || !whole;
        result.seen += &format!(", of {begun} copies {cut} cut off");
    }
    result
}

/// A field of the body decides; a body deeper than any program's is one that cannot be known, whose route is passed over.
fn deep_body(ground: &Ground, side: Side) -> Outcome {
    if side == Side::Open {
        return deep_json(ground, side);
    }
    let post = |body: &str| {
        let bytes = format!(
            "POST /judged HTTP/1.1\r\nHost: web.default\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut stream = connect(ground.edge, Duration::from_secs(5));
        let _ = stream.write_all(bytes.as_bytes());
        status(&String::from_utf8_lossy(&read_all(&mut stream).0)).to_owned()
    };
    let rich = post("{\"amount\":101}");
    let brackets = "[".repeat(30_000) + &"]".repeat(30_000);
    let members = "{\"a\":".repeat(8_000) + "1" + &"}".repeat(8_000);
    let seen = [
        brackets.clone(),
        "[".repeat(60_000),
        // Longer than what is kept of a body to choose by.
        "[".repeat(DEPTH),
        format!("{{\"amount\":{brackets}}}"),
        format!("{{\"deep\":{members},\"amount\":1}}"),
    ]
    .map(|body| post(&body));
    // What is judged goes its way; what is not goes to the program, which answers.
    let good = rich == "402" && seen.iter().all(|status| status == "200");
    outcome(!good, format!("sound {rich}, deep {}", seen.join(" ")))
}

/// Levels of what is nested.
pub(crate) const DEPTH: usize = 100_000;
const LARGE: usize = 64 << 20;

fn large_body(ground: &Ground, side: Side, path: &str) -> Outcome {
    let resident = || match side {
        Side::Naka => ground.resident(),
        // The twin is a server of this very process, which keeps what it is sent.
        Side::Open => resident_bytes(std::process::id()),
    };
    // What others of this process free meanwhile must not hide what is kept here.
    let mut least = resident();
    let mut stream = connect(ground.http1(side), Duration::from_secs(5));
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: web.default\r\nContent-Length: {LARGE}\r\n\r\n");
    let _ = stream.write_all(head.as_bytes());
    let part = vec![b'x'; 64 * 1024];
    let (mut sent, mut most) = (0, 0);
    while sent < LARGE && stream.write_all(&part).is_ok() {
        sent += part.len();
        if sent.is_multiple_of(1 << 20) {
            let now = resident();
            least = least.min(now);
            most = most.max(now - least);
        }
    }
    let (answer, _) = read_all(&mut stream);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let most = most >> 20;
    let seen = format!(
        "{} after {} MiB, at most {most} MiB more",
        status(&answer),
        sent >> 20
    );
    outcome(most > 24, seen)
}

/// Objects that are nothing but brackets, as a file and as the value of a field.
fn deep_json(ground: &Ground, side: Side) -> Outcome {
    if side == Side::Open {
        return crate::nested::dies("naive-json");
    }
    let deep = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let objects = "{}".repeat(DEPTH).replace("{}", "{\"a\":") + "1" + &"}".repeat(DEPTH);
    let inside = format!(
        "{{\"apiVersion\":\"networking.istio.io/v1\",\"kind\":\"VirtualService\",\"metadata\":{{\"name\":\"deep\"}},\"spec\":{deep}}}"
    );
    let mut seen = Vec::new();
    let mut died = false;
    for (name, text) in [
        ("deep.json", &deep),
        ("objects.json", &objects),
        ("inside.json", &inside),
        ("deep.yaml", &deep),
    ] {
        let file = ground.mesh.home().join(name);
        std::fs::write(&file, text).expect("a file");
        let output = ground
            .mesh
            .naka(["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
        died |= output.status.signal().is_some() || output.status.success();
        seen.push(format!(
            "{name} exit {}",
            output.status.code().unwrap_or(-1)
        ));
    }
    let alive = ground.mesh.naka(["status"]).status.success();
    outcome(died || !alive, seen.join(", "))
}

/// A parser that calls itself for each level, run in a process of its own because it will not survive.
pub(crate) fn naive_json() {
    fn value(text: &[u8], at: usize) -> usize {
        // Something on the stack, as a real parser has.
        let frame = std::hint::black_box([0u8; 256]);
        match text.get(at) {
            Some(b'[') => value(text, at + 1) + usize::from(frame[0]) + 1,
            _ => at,
        }
    }
    let deep = "[".repeat(DEPTH);
    assert!(value(deep.as_bytes(), 0) > 0);
}
