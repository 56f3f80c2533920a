//! Callers of a gateway's ports before their first request: too many of one address (row 9), and headers that say that
//! somebody else calls (row 45).

use crate::ground::{Ground, Side};
use crate::wire::{connect, read_all, status};
use crate::{Attack, Outcome, outcome};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        row: 9,
        name: "fifty connections of one address",
        run: crowd,
    },
    Attack {
        row: 45,
        name: "PROXY headers that are cut, too long or wrong",
        run: unsound,
    },
    Attack {
        row: 45,
        name: "a PROXY header of somebody who is no balancer",
        run: |g, s| spoofed(g, s, g.elsewhere),
    },
    Attack {
        row: 45,
        name: "a PROXY header where none is expected",
        run: |g, s| spoofed(g, s, g.edge),
    },
];

/// The limit of the port is 20. Another address is served meanwhile.
fn crowd(ground: &Ground, side: Side) -> Outcome {
    let way = match side {
        Side::Naka => ground.capped,
        Side::Open => ground.edge,
    };
    let all: Vec<TcpStream> = (0..50)
        .map(|_| connect(way, Duration::from_secs(5)))
        .collect();
    let ask = b"GET /crowd HTTP/1.1\r\nHost: web.default\r\n\r\n";
    let served = all
        .iter()
        .filter(|stream| {
            let mut stream: &TcpStream = stream;
            let mut answer = [0; 12];
            stream.write_all(ask).is_ok()
                && stream.read_exact(&mut answer).is_ok()
                && answer.ends_with(b"200")
        })
        .count();
    let other = Command::new("curl")
        .args(["-s", "-m", "5", "--interface", "127.0.0.2"])
        .args(["-o", "/dev/null", "-w", "%{http_code}"])
        .arg(format!("http://{way}/other"))
        .output()
        .expect("curl");
    let other = String::from_utf8_lossy(&other.stdout).into_owned();
    drop(all);
    let seen = format!("{served} of 50 served, another address got {other}");
    match side {
        Side::Naka => outcome(served != 20 || other != "200", seen),
        Side::Open => outcome(served == 50, seen),
    }
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const REQUEST: &[u8] = b"GET /balanced HTTP/1.1\r\nHost: web.default\r\nConnection: close\r\n\r\n";
/// 203.0.113.9 calls 192.0.2.1.
const ADDRESSES: [u8; 12] = [203, 0, 113, 9, 192, 0, 2, 1, 0, 80, 1, 187];
const SOUND: &[u8] = b"PROXY TCP4 203.0.113.9 192.0.2.1 80 443\r\n";

fn second(version: u8, length: usize, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(length).expect("short").to_be_bytes();
    [SIGNATURE, &[version, 0x11, length[0], length[1]], body].concat()
}

/// Headers that nobody may believe.
fn headers() -> Vec<(&'static str, Vec<u8>)> {
    let with = |more: &[u8]| [&ADDRESSES, more].concat();
    let whole = |body: &[u8]| second(0x21, body.len(), body);
    vec![
        ("cut address", b"PROXY TCP4 203.0.113.9\r\n".to_vec()),
        ("no ports", b"PROXY TCP4 203.0.113.9 192.0.2.1\r\n".to_vec()),
        (
            "odd port",
            b"PROXY TCP4 203.0.113.9 192.0.2.1 80 99999\r\n".to_vec(),
        ),
        (
            "other family",
            b"PROXY TCP6 203.0.113.9 192.0.2.1 80 443\r\n".to_vec(),
        ),
        (
            "small letters",
            b"proxy TCP4 203.0.113.9 192.0.2.1 80 443\r\n".to_vec(),
        ),
        (
            "line feed alone",
            b"PROXY TCP4 203.0.113.9 192.0.2.1 80 443\n".to_vec(),
        ),
        (
            "too long",
            [
                b"PROXY UNKNOWN ".to_vec(),
                vec![b'9'; 200],
                b"\r\n".to_vec(),
            ]
            .concat(),
        ),
        ("version 3", second(0x31, 12, &ADDRESSES)),
        ("command 2", second(0x22, 12, &ADDRESSES)),
        ("addresses cut", second(0x21, 4, &ADDRESSES[..4])),
        ("extension past the end", whole(&with(&[4, 0xff, 0xff, 1]))),
        ("extension without length", whole(&with(&[4, 0]))),
        ("wrong checksum", whole(&with(&[3, 0, 4, 1, 2, 3, 4]))),
        ("longer than allowed", whole(&with(&[0; 5_000]))),
        ("none", Vec::new()),
    ]
}

/// The relay without the guard: whatever comes before a request is its header.
fn believing(program: SocketAddr) -> SocketAddr {
    crate::naive::listen(move |mut stream| {
        let Ok(copy) = stream.try_clone() else { return };
        let mut reader = BufReader::new(copy);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|count| count > 0)
        {
            let start = line.windows(4).position(|word| word == b"GET ");
            if let Some(start) = start {
                let Ok(mut called) = TcpStream::connect(program) else {
                    return;
                };
                let text = [
                    &line[start..],
                    b"X-Forwarded-For: 203.0.113.9\r\nConnection: close\r\n\r\n",
                ];
                let _ = called.write_all(&text.concat());
                called
                    .set_read_timeout(Some(Duration::from_millis(300)))
                    .expect("a socket");
                let _ = stream.write_all(&read_all(&mut called).0);
                return;
            }
        }
    })
}

/// The status of a request after this header.
fn after(way: SocketAddr, header: &[u8]) -> String {
    let mut stream = connect(way, Duration::from_secs(2));
    // A refusal may close the connection before all was sent.
    let _ = stream.write_all(&[header, REQUEST].concat());
    status(&String::from_utf8_lossy(&read_all(&mut stream).0)).to_owned()
}

fn unsound(ground: &Ground, side: Side) -> Outcome {
    let way = match side {
        Side::Naka => ground.balanced,
        Side::Open => believing(ground.program.address),
    };
    let sound = [after(way, SOUND), after(way, &second(0x21, 12, &ADDRESSES))];
    let believed = ground.program.saw("203.0.113.9");
    ground.program.forget();
    let all = headers();
    let through: Vec<&str> = all
        .iter()
        .filter(|(_, header)| after(way, header) == "200" || ground.program.saw("/balanced"))
        .map(|(name, _)| *name)
        .collect();
    let seen = format!(
        "sound ones {}, of {} others through: {through:?}",
        sound.join(" "),
        all.len()
    );
    match side {
        Side::Naka => outcome(
            !through.is_empty() || sound != ["200", "200"] || !believed,
            seen,
        ),
        Side::Open => outcome(through.len() == all.len(), seen),
    }
}

fn spoofed(ground: &Ground, side: Side, naka: SocketAddr) -> Outcome {
    let way = match side {
        Side::Naka => naka,
        Side::Open => believing(ground.program.address),
    };
    let got = [after(way, SOUND), after(way, &second(0x21, 12, &ADDRESSES))];
    let believed = ground.program.saw("203.0.113.9");
    let seen = format!("answered {}, believed: {believed}", got.join(" "));
    outcome(
        believed || side == Side::Naka && got.contains(&"200".to_owned()),
        seen,
    )
}
