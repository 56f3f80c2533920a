//! A sidecar's own name server, attacked by the program that it answers and by the servers that it asks (row 44).
//!
//! The program is captured in a network namespace and sends what `programs/dns_attack.py` makes. The twin is a name
//! server of an afternoon: it follows pointers wherever they lead, answers answers, keeps an address for each name that
//! it is asked for, asks others as often as anybody likes and believes the first datagram.

use crate::ground::{Ground, Side};
use crate::names::believing;
use crate::{Attack, Outcome, outcome};
use naka_testkit::mesh::SOON;
use naka_testkit::program::{Program, free_port, resident_bytes};
use naka_testkit::size;
use naka_testkit::wait::until;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) const ATTACKS: &[Attack] = &[
    lie("questions that are none at the sidecar", malformed),
    lie("connections to the sidecar's name server", connections),
    lie("a flood of questions that nobody answers", flood),
    lie("a storm of names that the mesh does not have", storm),
    lie("names without number under a wildcard", wide),
    lie("spoofed answers to the sidecar: another number", |g, s| {
        spoofed(g, s, "number")
    }),
    lie(
        "spoofed answers to the sidecar: another question",
        |g, s| spoofed(g, s, "question"),
    ),
    lie("spoofed answers to the sidecar: another port", |g, s| {
        spoofed(g, s, "source")
    }),
    lie("aliases in a circle behind the sidecar", circle),
    lie("four thousand addresses through the sidecar", many),
    lie("unsound answers through the sidecar", unsound),
];

const fn lie(name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row: 44, name, run }
}

/// A host under which every name is of the mesh, for the attack with names without number.
const WIDE: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wide}
spec:
  hosts: ['*.wide.example']
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1}]
";

/// What came of an attack, and by how many MiB the sidecar grew meanwhile.
struct Came {
    of: Value,
    grown: u64,
}

impl Came {
    fn count(&self, what: &str) -> u64 {
        self.of[what].as_u64().unwrap_or(0)
    }

    fn is(&self, what: &str) -> bool {
        self.of[what] == true
    }

    fn alive(&self) -> bool {
        self.is("alive")
    }
}

/// Runs the attack against the name server at an address, from where `start` starts it.
fn attack(
    ground: &Ground,
    what: &str,
    count: usize,
    known: &str,
    server: SocketAddr,
    inside: bool,
) -> Came {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/dns_attack.py");
    let (ip, port, count) = (
        server.ip().to_string(),
        server.port().to_string(),
        count.to_string(),
    );
    let words = ["python3", script, what, &ip, &port, known, &count];
    let mesh = &ground.mesh;
    let name = format!("asker-{what}-{inside}");
    let mut run = if inside {
        mesh.run(&name, &["-s", "asker", "--capture", "namespace"], &words)
    } else {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        Program::start(&name, mesh.home(), &mut command).expect("python3")
    };
    until(format_args!("{name} begins: {}", run.said()), SOON, || {
        run.out().contains("ready").then_some(())
    });
    let sidecar = if inside {
        mesh.sidecar_of(&run).expect("a sidecar")
    } else {
        0
    };
    let before = resident_bytes(sidecar);
    run.close_stdin();
    let (mut most, mut waited) = (before, Duration::ZERO);
    while run.alive() && waited < Duration::from_secs(120) {
        most = most.max(resident_bytes(sidecar));
        std::thread::park_timeout(Duration::from_millis(20));
        waited += Duration::from_millis(20);
    }
    let said = run.out();
    let of = said.lines().last().map(serde_json::from_str);
    Came {
        of: of
            .and_then(Result::ok)
            .unwrap_or_else(|| panic!("{name}: {said}{}", run.err())),
        grown: most.saturating_sub(before) >> 20,
    }
}

/// The same against the sidecar, or against the server of an afternoon.
fn either(ground: &Ground, side: Side, what: &str, count: usize) -> Came {
    match side {
        // Whatever address is asked, the sidecar answers.
        Side::Naka => {
            let anybody = SocketAddr::from(([192, 0, 2, 53], 53));
            attack(ground, what, count, "web.default", anybody, true)
        }
        Side::Open => {
            let server = Afternoon::start(ground.names.address());
            attack(ground, what, count, "fine.example", server, false)
        }
    }
}

fn malformed(ground: &Ground, side: Side) -> Outcome {
    let came = either(ground, side, "malformed", size().pick(500, 20_000));
    let seen = format!(
        "{} sent, a sound question is answered afterwards: {}, an answer was answered: {}, at most {} bytes longer than asked, {} MiB more",
        came.count("sent"),
        came.alive(),
        came.is("answered"),
        came.count("longer"),
        came.grown
    );
    outcome(
        !came.alive() || came.is("answered") || came.count("longer") > 64 || came.grown > 8,
        seen,
    )
}

fn connections(ground: &Ground, side: Side) -> Outcome {
    // More than there is room for; each that finds none costs half a second.
    let count = size().pick(12, 50);
    let came = either(ground, side, "connections", count);
    let waited = came.count("waited_ms");
    let seen = format!(
        "{} held, answered by UDP: {}, by TCP: {} after {waited} ms, {} MiB more",
        came.count("held"),
        came.is("by_udp"),
        came.is("by_tcp"),
        came.grown
    );
    outcome(
        !came.is("by_udp") || !came.is("by_tcp") || came.grown > 8,
        seen,
    )
}

/// Questions under way at most.
const UNDER_WAY: usize = 256;

fn flood(ground: &Ground, side: Side) -> Outcome {
    let before = ground.names.asked("silent");
    let count = size().pick(20_000, 100_000);
    let began = Instant::now();
    let came = either(ground, side, "flood", count);
    let asked = ground.names.asked("silent") - before;
    // Each of them is asked every two seconds, and another one takes its place.
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap_or(usize::MAX);
    let most = UNDER_WAY * (seconds / 2 + 2);
    let seen = format!(
        "{count} sent, {asked} passed on, {} of the known name unanswered, slowest {} ms, {} MiB more",
        came.count("lost"),
        came.count("slowest_ms"),
        came.grown
    );
    outcome(
        asked > most || came.count("lost") > 0 || !came.alive() || came.grown > 16,
        seen,
    )
}

/// Names of the mesh's own domain mean nothing to anybody else, so nobody else is asked.
fn storm(ground: &Ground, side: Side) -> Outcome {
    let before = ground.names.asked_like("storm-");
    let count = size().pick(2_000, 10_000);
    let came = either(ground, side, "storm", count);
    let asked = ground.names.asked_like("storm-") - before;
    let none = came.of["codes"]["3"].as_u64() == Some(count as u64);
    let seen = format!(
        "{count} asked, answered {}, {asked} passed on, {} MiB more",
        came.of["codes"], came.grown
    );
    outcome(asked > 0 || !none || !came.alive() || came.grown > 8, seen)
}

/// Each has an address of its own, but only so many at a time.
fn wide(ground: &Ground, side: Side) -> Outcome {
    if side == Side::Naka {
        ground.mesh.apply("wide.yaml", WIDE);
    }
    let count = size().pick(10_000, 100_000);
    let came = either(ground, side, "wide", count);
    let kept = match side {
        Side::Naka => saved_addresses(ground),
        Side::Open => usize::try_from(came.count("addresses")).unwrap_or(0),
    };
    let all = came.of["codes"]["0"].as_u64() == Some(count as u64);
    let seen = format!(
        "{count} asked, answered {}, {kept} addresses kept, {} MiB more",
        came.of["codes"], came.grown
    );
    outcome(
        !all || !came.alive() || kept > 4_096 || came.grown > 8,
        seen,
    )
}

/// The longest list of names with an address that a sidecar of the mesh has saved.
fn saved_addresses(ground: &Ground) -> usize {
    fn longest(dir: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let of = |entry: std::fs::DirEntry| {
            let path = entry.path();
            if path.is_dir() {
                return longest(&path);
            }
            if entry.file_name() != "virtual-addresses.json" {
                return 0;
            }
            let text = std::fs::read(path).unwrap_or_default();
            let file: Value = serde_json::from_slice(&text).unwrap_or_default();
            file["names"].as_array().map_or(0, Vec::len)
        };
        entries.map(of).max().unwrap_or(0)
    }
    until("saved addresses", SOON, || {
        Some(longest(ground.mesh.home())).filter(|count| *count > 1_000)
    })
}

/// Landed when the program is given the attacker's address.
fn spoofed(ground: &Ground, side: Side, kind: &str) -> Outcome {
    let good = "127.0.0.1";
    let (code, address) = match side {
        Side::Naka => {
            let came = either(ground, side, kind, 1);
            let address = came.of["address"].as_str().unwrap_or("none").to_owned();
            (came.of["code"].to_string(), address)
        }
        Side::Open => {
            let (found, _) = believing(ground.names.address(), kind, "wild.example");
            let first = found.first().map(ToString::to_string);
            ("0".to_owned(), first.unwrap_or_default())
        }
    };
    outcome(address != good, format!("answered {code} with {address:?}"))
}

/// What the servers say is passed on; to go round with it is left to whoever asked.
fn circle(ground: &Ground, side: Side) -> Outcome {
    let before = ground.names.asked("ring");
    if side == Side::Open {
        let (_, steps) = believing(ground.names.address(), "ring", "wild.example");
        return outcome(steps >= 1_000, format!("{steps} steps"));
    }
    let came = either(ground, side, "ring", 1);
    let asked = ground.names.asked("ring") - before;
    outcome(
        asked != 1 || !came.alive() || came.grown > 4,
        format!(
            "answered {}, {asked} questions, {} MiB more",
            came.of["code"], came.grown
        ),
    )
}

/// Too long for a datagram, so the program asks by TCP, again and again; nothing is kept.
fn many(ground: &Ground, side: Side) -> Outcome {
    if side == Side::Open {
        let (found, _) = believing(ground.names.address(), "many", "wild.example");
        let kept = found.len();
        return outcome(kept > 64, format!("{kept} addresses kept"));
    }
    let count = size().pick(50, 500);
    let came = either(ground, side, "many", count);
    let whole = came.count("whole");
    outcome(
        whole != count as u64 || !came.alive() || came.grown > 8,
        format!(
            "{whole} of {count} answers with {} addresses passed on whole, {} MiB more",
            came.count("addresses"),
            came.grown
        ),
    )
}

/// Answers that cannot be read: passed on or not, the sidecar reads nothing in them that hurts it.
fn unsound(ground: &Ground, side: Side) -> Outcome {
    let kinds = ["pointer", "cut", "label", "long"];
    if side == Side::Open {
        let found = kinds.map(|kind| believing(ground.names.address(), kind, "wild.example"));
        let landed = found
            .iter()
            .all(|(found, steps)| !found.is_empty() || *steps > 1_000);
        return outcome(landed, format!("believed {found:?}"));
    }
    let came = kinds.map(|kind| either(ground, side, kind, 1));
    let answers: Vec<String> = came
        .iter()
        .map(|came| came.of["code"].to_string())
        .collect();
    let sound = came.iter().all(|came| came.alive() && came.grown <= 4);
    outcome(
        !sound,
        format!(
            "answered {}, the next question is answered: {sound}",
            answers.join(" ")
        ),
    )
}

/// The server of an afternoon. `fine.example` is the one name that it knows.
struct Afternoon {
    socket: UdpSocket,
    asking: UdpSocket,
    upstream: SocketAddr,
    /// An address for each name under a wildcard, for ever.
    kept: BTreeMap<Vec<u8>, u32>,
}

impl Afternoon {
    fn start(upstream: SocketAddr) -> SocketAddr {
        let socket = UdpSocket::bind(("127.0.0.1", free_port())).expect("a port");
        let address = socket.local_addr().expect("bound");
        let listener = TcpListener::bind(address).expect("the same port");
        let mut server = Self {
            socket,
            asking: UdpSocket::bind(("127.0.0.1", 0)).expect("a port"),
            upstream,
            kept: BTreeMap::new(),
        };
        std::thread::spawn(move || server.serve());
        // One connection after the other, each for as long as it lasts.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            }
        });
        address
    }

    fn serve(&mut self) {
        let mut room = vec![0; 65_535];
        while let Ok((length, from)) = self.socket.recv_from(&mut room) {
            let message = &room[..length];
            let Some(name) = name_at(message, 12) else {
                // Goes round and round, and answers nobody any more.
                return;
            };
            if name.ends_with(b".wild.example") || name.ends_with(b".cluster.local") {
                // As many at once as anybody likes; the answer is somebody else's business.
                let _ = self.asking.send_to(message, self.upstream);
                let none = reply(message, 3, None);
                let _ = self.socket.send_to(&none, from);
                continue;
            }
            let next = u32::try_from(self.kept.len()).unwrap_or(0);
            let number = *self.kept.entry(name).or_insert(next);
            let _ = self
                .socket
                .send_to(&reply(message, 0, Some(0x0a00_0000 + number)), from);
        }
    }
}

/// A name, its pointers followed; `None` when that does not end.
fn name_at(message: &[u8], mut at: usize) -> Option<Vec<u8>> {
    let (mut name, mut steps) = (Vec::new(), 0);
    while let Some(length) = message.get(at).copied().filter(|length| *length > 0) {
        steps += 1;
        if steps > 100_000 {
            return None;
        }
        if length & 0xc0 == 0xc0 {
            let low = message.get(at + 1).copied().unwrap_or(0);
            at = usize::from(length & 0x3f) << 8 | usize::from(low);
            continue;
        }
        name.push(b'.');
        let end = (at + 1 + usize::from(length)).min(message.len());
        name.extend_from_slice(message.get(at + 1..end).unwrap_or_default());
        at = end;
    }
    Some(name)
}

fn reply(message: &[u8], code: u8, address: Option<u32>) -> Vec<u8> {
    let mut out = message.to_vec();
    out.resize(out.len().max(12), 0);
    out[2] |= 0x80;
    out[3] = code;
    if let Some(address) = address {
        out[6..8].copy_from_slice(&[0, 1]);
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        out.extend(address.to_be_bytes());
    }
    out
}
