//! A name server that lies, and the names of outside services that are looked up with it (row 44).
//!
//! Each kind of lie has a name of its own; the lie leads to an address where a server of the attacker answers, and the
//! truth that follows it (where there is one) to the right server. The twin is a resolver as they are written in an
//! afternoon: it believes the first datagram, follows every pointer and alias, and keeps every address.

use crate::ground::{Ground, Side};
use crate::wire::{connect, read_all, status};
use crate::{Attack, Outcome, outcome};
use naka_testkit::program::free_port;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const ATTACKS: &[Attack] = &[
    lie("a name server's answer under another number", |g, s| {
        spoofed(g, s, "number")
    }),
    lie("a name server's answer to another question", |g, s| {
        spoofed(g, s, "question")
    }),
    lie("an answer of somebody who is no name server", |g, s| {
        spoofed(g, s, "source")
    }),
    lie("an address of another name in the answer", |g, s| {
        spoofed(g, s, "beside")
    }),
    lie("aliases in a circle", |g, s| bounded(g, s, "circle")),
    lie("a compression pointer to itself", |g, s| {
        bounded(g, s, "pointer")
    }),
    lie("four thousand addresses of one name", |g, s| {
        bounded(g, s, "many")
    }),
    lie("an answer that may not be kept", |g, s| {
        bounded(g, s, "moment")
    }),
    lie("a thousand calls to a name that does not exist", |g, s| {
        bounded(g, s, "nobody")
    }),
    lie("cut answers, long labels, long names", odd),
];

const fn lie(name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row: 44, name, run }
}

const GOOD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const EVIL: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
/// Every kind of lie.
const KINDS: [&str; 13] = [
    "number", "question", "source", "beside", "circle", "pointer", "many", "moment", "nobody",
    "cut", "label", "long", "fine",
];

/// The name server, and the web servers at the addresses that it names.
pub(crate) struct Hostile {
    address: SocketAddr,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    /// Port of both web servers.
    port: u16,
}

impl Hostile {
    pub(crate) fn start() -> Self {
        let udp = UdpSocket::bind((GOOD, free_port())).expect("a port");
        let address = udp.local_addr().expect("bound");
        let tcp = TcpListener::bind(address).expect("the same port");
        let asked = Arc::<Mutex<BTreeMap<String, usize>>>::default();
        let (counted, noted) = (Arc::clone(&asked), Arc::clone(&asked));
        std::thread::spawn(move || over_udp(&udp, &counted));
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                // Who asks may leave before the answer.
                let _ = over_tcp(stream, &noted);
            }
        });
        let good = TcpListener::bind((GOOD, free_port())).expect("a port");
        let port = good.local_addr().expect("bound").port();
        let evil = TcpListener::bind((EVIL, port)).expect("the same port");
        // Of a crowd of addresses those that come first are called.
        let crowd = (1..64u8).map(|n| {
            TcpListener::bind((Ipv4Addr::new(127, 0, n, 1), port)).expect("the same port")
        });
        let good = crowd.chain([good]).map(|listener| (listener, "good"));
        for (listener, word) in good.chain([(evil, "evil")]) {
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\n{word}"
                    );
                    let _ = stream.read(&mut [0; 4096]);
                    let _ = stream.write_all(answer.as_bytes());
                }
            });
        }
        Self {
            address,
            asked,
            port,
        }
    }

    /// The line of a `resolv.conf` that names it.
    pub(crate) fn line(&self) -> String {
        let (ip, port) = (self.address.ip(), self.address.port());
        format!("nameserver [{ip}]:{port}\n")
    }

    /// An outside service for each lie.
    pub(crate) fn objects(&self) -> String {
        let entry = |kind: &&str| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: lie-{kind}}}\nspec:\n  hosts: [{kind}.{LIES}]\n  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {}}}]\n  resolution: DNS\n",
                self.port
            )
        };
        KINDS.iter().map(entry).collect()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Questions for a name, IPv4 only.
    pub(crate) fn asked(&self, kind: &str) -> usize {
        let asked = self.asked.lock().expect("no panic");
        asked.get(kind).copied().unwrap_or(0)
    }

    /// Questions for all names that begin like this.
    pub(crate) fn asked_like(&self, prefix: &str) -> usize {
        let asked = self.asked.lock().expect("no panic");
        let all = asked.iter().filter(|(kind, _)| kind.starts_with(prefix));
        all.map(|(_, count)| count).sum()
    }
}

/// A question: its bytes, the lie it asks for, and whether it is for IPv4.
fn read(question: &[u8]) -> Option<(&[u8], String, bool)> {
    let length = usize::from(*question.get(12)?);
    let kind = String::from_utf8_lossy(question.get(13..13 + length)?).to_ascii_lowercase();
    let mut at = 12;
    while *question.get(at)? > 0 {
        at += 1 + usize::from(question[at]);
    }
    let four = question.get(at + 1..at + 3)? == [0, 1];
    Some((question.get(12..at + 5)?, kind, four))
}

fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let mut out: Vec<u8> = labels
        .flat_map(|label| {
            let length = u8::try_from(label.len()).expect("short");
            [&[length], label.as_bytes()].concat()
        })
        .collect();
    out.push(0);
    out
}

/// A record of this name; 0xc00c is the name of the question.
fn record(name: &[u8], kind: u8, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("short").to_be_bytes();
    [name, &[0, kind, 0, 1], &ttl.to_be_bytes(), &length, data].concat()
}

fn message(id: &[u8], flags: u8, question: &[u8], records: &[Vec<u8>]) -> Vec<u8> {
    let count = u16::try_from(records.len()).expect("few").to_be_bytes();
    let head = [0x81 | flags, 0x80, 0, 1, count[0], count[1], 0, 0, 0, 0];
    [id, &head, question, &records.concat()].concat()
}

const SAME: &[u8] = &[0xc0, 12];
const A: u8 = 1;
const CNAME: u8 = 5;
const LIE: u32 = 3_600;
/// Domain of the outside services whose names are lied about.
const LIES: &str = "lies.example";

/// Datagrams of the answer, those of somebody else marked.
fn answers(id: &[u8], question: &[u8], kind: &str, four: bool) -> Vec<(bool, Vec<u8>)> {
    let to = |address: Ipv4Addr, ttl| record(SAME, A, ttl, &address.octets());
    let good = message(id, 0, question, &[to(GOOD, 5)]);
    let evil = message(id, 0, question, &[to(EVIL, LIE)]);
    let none = message(id, 0, question, &[]);
    if !four {
        return vec![(false, none)];
    }
    // As long as the name that is asked for, which makes it no better.
    let other = name("innocent.lies.example");
    match kind {
        "number" => {
            let mut lie = evil;
            lie[0] ^= 0xff;
            vec![(false, lie), (false, good)]
        }
        "question" => {
            let asked = [&other[..], &[0, 1, 0, 1]].concat();
            let lie = message(id, 0, &asked, &[to(EVIL, LIE)]);
            vec![(false, lie), (false, good)]
        }
        "source" => vec![(true, evil), (false, good)],
        "beside" => {
            let lie = record(&other, A, LIE, &EVIL.octets());
            vec![(false, message(id, 0, question, &[to(GOOD, 5), lie]))]
        }
        "circle" | "ring" => {
            let (one, two) = (name("circle.lies.example"), name("round.lies.example"));
            let round = [record(&one, CNAME, 5, &two), record(&two, CNAME, 5, &one)];
            vec![(false, message(id, 0, question, &round))]
        }
        "pointer" => {
            let at = u16::try_from(12 + question.len()).expect("short") | 0xc000;
            let lie = record(&at.to_be_bytes(), A, LIE, &EVIL.octets());
            vec![(false, message(id, 0, question, &[lie]))]
        }
        // Too long for a datagram: the rest is to be asked for by TCP.
        "many" => vec![(false, message(id, 2, question, &[]))],
        "moment" => vec![(false, message(id, 0, question, &[to(GOOD, 0)]))],
        "nobody" => {
            let mut said = none;
            said[3] |= 3;
            vec![(false, said)]
        }
        "silent" => Vec::new(),
        "cut" => vec![(false, evil[..evil.len() - 3].to_vec())],
        "label" => {
            let label = [&[0x7f][..], &[b'a'; 0x7f], &[0]].concat();
            let lie = record(&label, A, LIE, &EVIL.octets());
            vec![(false, message(id, 0, question, &[lie]))]
        }
        "long" => {
            let long = name(&"a.".repeat(300));
            let lie = record(&long, A, LIE, &EVIL.octets());
            vec![(false, message(id, 0, question, &[lie]))]
        }
        _ => vec![(false, good)],
    }
}

fn over_udp(socket: &UdpSocket, asked: &Mutex<BTreeMap<String, usize>>) {
    let stranger = UdpSocket::bind((GOOD, 0)).expect("a port");
    let mut room = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut room) {
        let message = &room[..length];
        let Some((question, kind, four)) = read(message) else {
            continue;
        };
        *asked
            .lock()
            .expect("no panic")
            .entry(kind.clone())
            .or_default() += usize::from(four);
        for (elsewhere, answer) in answers(&message[..2], question, &kind, four) {
            let socket = if elsewhere { &stranger } else { socket };
            // Whoever asked may be gone.
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn over_tcp(mut stream: TcpStream, asked: &Mutex<BTreeMap<String, usize>>) -> std::io::Result<()> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    let Some((question, kind, four)) = read(&message) else {
        return Ok(());
    };
    *asked.lock().expect("no panic").entry(kind).or_default() += usize::from(four);
    let answer = self::message(&message[..2], 0, question, &addresses(four));
    let length = u16::try_from(answer.len()).expect("fits").to_be_bytes();
    stream.write_all(&[&length[..], &answer].concat())
}

/// As many addresses as a message holds.
fn addresses(four: bool) -> Vec<Vec<u8>> {
    let count = if four { 4_000u32 } else { 0 };
    let address = |n: u32| Ipv4Addr::from(u32::from(GOOD) + (n << 8));
    (0..count)
        .map(|n| record(SAME, A, 5, &address(n).octets()))
        .collect()
}

/// The program's call to a name.
fn call(ground: &Ground, kind: &str) -> String {
    let mut stream = connect(ground.outbound, Duration::from_secs(30));
    let host = format!("{kind}.{LIES}");
    let text = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(text.as_bytes());
    String::from_utf8_lossy(&read_all(&mut stream).0).into_owned()
}

/// What the resolver of an afternoon finds: addresses, and the steps it took.
pub(crate) fn believing(server: SocketAddr, kind: &str, domain: &str) -> (Vec<Ipv4Addr>, usize) {
    let socket = UdpSocket::bind((GOOD, 0)).expect("a port");
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a socket");
    let question = [name(&format!("{kind}.{domain}")), vec![0, 1, 0, 1]].concat();
    let head = [7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let asked = [&head[..], &question].concat();
    let (mut steps, mut room) = (0, vec![0; 4_096]);
    socket.send_to(&asked, server).expect("a socket");
    let Ok((length, _)) = socket.recv_from(&mut room) else {
        return (Vec::new(), steps);
    };
    let mut answer = room[..length].to_vec();
    if answer[2] & 2 != 0 {
        let mut stream = TcpStream::connect(server).expect("it listens");
        let length = u16::try_from(asked.len()).expect("short").to_be_bytes();
        stream
            .write_all(&[&length[..], &asked].concat())
            .expect("a socket");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("a socket");
        answer = all.split_off(2);
    }
    let mut found = Vec::new();
    let mut at = 12 + question.len();
    while at < answer.len() {
        // Names are passed over byte by byte, pointers are followed to their end.
        while answer
            .get(at)
            .is_some_and(|length| *length > 0 && length & 0xc0 != 0xc0)
        {
            at += 1 + usize::from(answer[at]);
        }
        let mut to = at;
        while let Some([high, low]) = answer.get(to..to + 2)
            && high & 0xc0 == 0xc0
            && steps < 1_000_000
        {
            (to, steps) = (usize::from(high & 0x3f) << 8 | usize::from(*low), steps + 1);
        }
        at += if answer.get(at) == Some(&0) { 1 } else { 2 };
        let alias = answer.get(at + 1) == Some(&CNAME);
        let length = answer
            .get(at + 8..at + 10)
            .map_or(0, |two| usize::from(two[0]) << 8 | usize::from(two[1]));
        let data = answer.get(at + 10..).unwrap_or_default();
        let mut octets = [0; 4];
        for (to, from) in octets.iter_mut().zip(data) {
            *to = *from;
        }
        if alias {
            // Asked again for what it is called now, however often that was.
            steps += 1_000;
        } else {
            found.push(Ipv4Addr::from(octets));
        }
        at += 10 + length;
    }
    (found, steps)
}

/// Landed when the attacker's server answers.
fn spoofed(ground: &Ground, side: Side, kind: &str) -> Outcome {
    match side {
        Side::Naka => {
            let answer = call(ground, kind);
            let body = answer.rsplit("\r\n").next().unwrap_or_default();
            outcome(
                body != "good",
                format!("{} from the {body} server", status(&answer)),
            )
        }
        Side::Open => {
            let (found, _) = believing(ground.names.address, kind, LIES);
            outcome(found.contains(&EVIL), format!("believed {found:?}"))
        }
    }
}

/// Landed when memory, time or questions grow with the lie.
fn bounded(ground: &Ground, side: Side, kind: &str) -> Outcome {
    let calls = match kind {
        "nobody" => 1_000,
        "moment" => 50,
        _ => 1,
    };
    if side == Side::Open {
        let before = ground.names.asked(kind);
        let (mut found, mut steps) = (Vec::new(), 0);
        for _ in 0..calls {
            (found, steps) = believing(ground.names.address, kind, LIES);
        }
        let asked = ground.names.asked(kind) - before;
        let seen = format!(
            "{steps} steps, {} addresses kept, {asked} questions for {calls} calls",
            found.len()
        );
        return outcome(steps >= 1_000 || found.len() > 64 || asked >= 50, seen);
    }
    let (before, known) = (ground.resident(), ground.names.asked(kind));
    let answers: Vec<String> = (0..calls).map(|_| call(ground, kind)).collect();
    let grown = ground.resident().saturating_sub(before) >> 20;
    let asked = ground.names.asked(kind) - known;
    let statuses: std::collections::BTreeSet<&str> =
        answers.iter().map(|answer| status(answer)).collect();
    let expect = match kind {
        "many" | "moment" => "200",
        _ => "503",
    };
    let seen = format!("{calls} calls got {statuses:?}, {asked} questions, {grown} MiB more");
    let right = statuses.iter().all(|status| *status == expect);
    outcome(!right || asked > 20 || grown > 8, seen)
}

/// Messages that are none: nobody is called, and the next name is found as ever.
fn odd(ground: &Ground, side: Side) -> Outcome {
    let kinds = ["cut", "label", "long"];
    if side == Side::Open {
        let found = kinds.map(|kind| believing(ground.names.address, kind, LIES).0);
        let landed = found.iter().all(|found| !found.is_empty());
        return outcome(landed, format!("believed {found:?}"));
    }
    let answers = std::thread::scope(|scope| {
        kinds
            .map(|kind| scope.spawn(move || call(ground, kind)))
            .map(|call| call.join().unwrap_or_default())
    });
    let fine = call(ground, "fine");
    let statuses = answers.each_ref().map(|answer| status(answer));
    let seen = format!("{}, then {}", statuses.join(" "), status(&fine));
    outcome(statuses != ["503"; 3] || status(&fine) != "200", seen)
}
