//! Bodies that are to be kept or parsed (rows 40 and 41): large ones of requests that are tried again, and deep ones.
//! Landed when memory grows with the body, or a process dies of its depth.

use crate::ground::{Ground, Side};
use crate::wire::{connect, read_all, status};
use crate::{Attack, Outcome, outcome};
use naka_testkit::program::resident_bytes;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        row: 40,
        name: "JSON a hundred thousand levels deep",
        run: deep_json,
    },
    Attack {
        row: 41,
        name: "a body of 64 MB with retries",
        run: large_body,
    },
];

const DEPTH: usize = 100_000;
const LARGE: usize = 64 << 20;

fn large_body(ground: &Ground, side: Side) -> Outcome {
    let resident = || match side {
        Side::Naka => ground.resident(),
        // The twin is a server of this very process, which keeps what it is sent.
        Side::Open => resident_bytes(std::process::id()),
    };
    let before = resident();
    let mut stream = connect(ground.http1(side), Duration::from_secs(5));
    let head =
        format!("POST /again HTTP/1.1\r\nHost: web.default\r\nContent-Length: {LARGE}\r\n\r\n");
    let _ = stream.write_all(head.as_bytes());
    let part = vec![b'x'; 64 * 1024];
    let (mut sent, mut most) = (0, 0);
    while sent < LARGE && stream.write_all(&part).is_ok() {
        sent += part.len();
        if sent.is_multiple_of(1 << 20) {
            most = most.max(resident().saturating_sub(before));
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
        let itself = std::env::current_exe().expect("a test has a path");
        let status = Command::new(itself)
            .arg("naive-json")
            .output()
            .expect("itself")
            .status;
        let died = status.signal().is_some();
        return outcome(died, format!("a parser without a limit ends with {status}"));
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
