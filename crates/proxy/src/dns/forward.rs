//! Asks the host's own name servers, exactly what the program asked, and gives back exactly what they said.
//!
//! Each question goes out from a socket and under a number of its own, so nobody who does not see it can answer it.
//! The servers are those of the host's `resolv.conf`, read again when it has changed.

use super::HEAD;
use crate::outward;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// As the C library: one server has this long, and each is asked twice.
const ONE_SERVER: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// Most servers that are used (the C library's own limit).
const SERVERS: usize = 3;
/// `resolv.conf` is looked at no more often.
const LOOK: Duration = Duration::from_secs(5);
/// Longest answer over UDP that is passed on; programs ask for 4,096 bytes at most.
const UDP_ANSWER: usize = 8 * 1024;

/// What `resolv.conf` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolv {
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) search: Vec<String>,
}

impl Resolv {
    /// Reads the file's text; what it does not know is skipped, as the C library does.
    fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A zone (`fe80::1%eth0`) cannot be kept apart from the host's interfaces; such a server is left out.
                    // With a port, `[address]:port` as OpenBSD writes it, or without.
                    read.servers.extend(words.next().and_then(server));
                }
                Some("search" | "domain") => {
                    let domain = |word: &str| word.trim_matches('.').to_ascii_lowercase();
                    read.search = words.map(domain).filter(|word| !word.is_empty()).collect();
                }
                _ => {}
            }
        }
        read.servers.truncate(SERVERS);
        if read.servers.is_empty() {
            read.servers
                .push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
        }
        read
    }
}

/// An address, or `[address]:port` as OpenBSD writes it.
fn server(word: &str) -> Option<SocketAddr> {
    if let Ok(ip) = word.parse() {
        return Some(SocketAddr::new(ip, 53));
    }
    let (ip, port) = word.strip_prefix('[')?.split_once("]:")?;
    Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
}

/// The file, as it is now.
#[derive(Debug)]
pub(crate) struct Host {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    looked: Option<Instant>,
    changed: Option<SystemTime>,
    resolv: Arc<Resolv>,
}

impl Host {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            known: Mutex::default(),
        }
    }

    /// Servers and search domains. A small local file: reading it blocks no longer than the system call.
    pub(crate) fn resolv(&self) -> Arc<Resolv> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            known.looked = Some(Instant::now());
            let changed = fs::metadata(&self.path).and_then(|meta| meta.modified());
            let changed = changed.ok();
            if changed != known.changed || changed.is_none() {
                known.changed = changed;
                let text = fs::read(&self.path).unwrap_or_default();
                known.resolv = Arc::new(Resolv::parse(&String::from_utf8_lossy(&text)));
            }
        }
        Arc::clone(&known.resolv)
    }
}

/// Asks each server in turn; `None` when none answered.
pub(crate) async fn ask(resolv: &Resolv, message: &[u8], tcp: bool) -> Option<Vec<u8>> {
    for _ in 0..ROUNDS {
        for server in &resolv.servers {
            let asking = async {
                if tcp {
                    over_tcp(*server, message).await
                } else {
                    over_udp(*server, message).await
                }
            };
            match timeout(ONE_SERVER, asking).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a name server failed"),
                Err(_) => tracing::debug!(%server, "a name server does not answer"),
            }
        }
    }
    None
}

async fn over_udp(server: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    // Connected: the kernel takes answers of this server only.
    let socket = outward::udp(server).await?;
    let (mut ours, id) = renumbered(message);
    socket.send(&ours).await?;
    let mut room = vec![0; UDP_ANSWER];
    loop {
        let length = socket.recv(&mut room).await?;
        if answers(&room[..length], id, message) {
            ours.clear();
            ours.extend_from_slice(&room[..length]);
            return Ok(restored(ours, message));
        }
    }
}

async fn over_tcp(server: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = outward::tcp(server).await?;
    let (ours, id) = renumbered(message);
    write_message(&mut stream, &ours).await?;
    let answer = read_message(&mut stream).await?;
    if answers(&answer, id, message) {
        Ok(restored(answer, message))
    } else {
        Err(io::Error::other("the answer is to another question"))
    }
}

/// A message over TCP: two bytes of length, then the message.
pub(super) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// The question under a number that nobody can guess.
fn renumbered(message: &[u8]) -> (Vec<u8>, [u8; 2]) {
    let id = fastrand::u16(..).to_be_bytes();
    let mut ours = message.to_vec();
    if let Some(place) = ours.get_mut(..2) {
        place.copy_from_slice(&id);
    }
    (ours, id)
}

/// Whether these bytes answer our question: its number, an answer, and the same question in it (if any is repeated).
fn answers(bytes: &[u8], id: [u8; 2], message: &[u8]) -> bool {
    let (Some(head), Some(asked)) = (bytes.get(..HEAD), message.get(HEAD..)) else {
        return false;
    };
    let end = end_of_question(asked).unwrap_or(0);
    let questions = u16::from_be_bytes([head[4], head[5]]);
    let same = bytes
        .get(HEAD..HEAD + end)
        .is_some_and(|said| said.eq_ignore_ascii_case(&asked[..end]));
    head[..2] == id && head[2] & 0x80 != 0 && (questions == 0 || same)
}

/// Length of the first question: labels, an empty one, type and class.
fn end_of_question(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 5).filter(|end| *end <= bytes.len()),
            length => at += length + 1,
        }
    }
}

fn restored(mut answer: Vec<u8>, message: &[u8]) -> Vec<u8> {
    if let (Some(place), Some(id)) = (answer.get_mut(..2), message.get(..2)) {
        place.copy_from_slice(id);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, TYPE};
    use tokio::net::UdpSocket;

    #[test]
    fn resolv_conf_as_the_c_library_reads_it() {
        for (text, servers, search) in [
            ("", &["127.0.0.1:53"][..], &[][..]),
            (
                "# x\nnameserver 10.0.0.2\nnameserver ::1\nsearch a.example B.example.\noptions ndots:5\n",
                &["10.0.0.2:53", "[::1]:53"],
                &["a.example", "b.example"],
            ),
            (
                "search a\ndomain b\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver 1.1.1.1",
                &["1.1.1.1:53"],
                &["b"],
            ),
            (
                "nameserver 1.0.0.1\nnameserver 1.0.0.2\nnameserver 1.0.0.3\nnameserver 1.0.0.4",
                &["1.0.0.1:53", "1.0.0.2:53", "1.0.0.3:53"],
                &[],
            ),
            ("search .", &["127.0.0.1:53"], &[]),
            (
                "nameserver [127.0.0.2]:5353\nnameserver [::1]:54",
                &["127.0.0.2:5353", "[::1]:54"],
                &[],
            ),
        ] {
            let read = Resolv::parse(text);
            let shown: Vec<_> = read.servers.iter().map(ToString::to_string).collect();
            assert_eq!(shown, servers, "{text}");
            assert_eq!(read.search, search, "{text}");
        }
    }

    fn question() -> Vec<u8> {
        let mut packet = Packet::new_query(4711);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new("Example.com").unwrap();
        packet.questions.push(Question::new(
            name,
            QTYPE::TYPE(TYPE::A),
            CLASS::IN.into(),
            false,
        ));
        packet.build_bytes_vec().unwrap()
    }

    fn answer_to(asked: &[u8]) -> Vec<u8> {
        let mut answer = asked.to_vec();
        answer[2] |= 0x80;
        answer.extend(b"whatever the server says");
        answer
    }

    #[test]
    fn only_an_answer_to_this_very_question_counts() {
        let message = question();
        let (ours, id) = renumbered(&message);
        let sound = answer_to(&ours);
        let change = |at: usize, to: u8| {
            let mut changed = sound.clone();
            changed[at] = to;
            changed
        };
        for (what, bytes, expect) in [
            ("the answer", sound.clone(), true),
            ("lower case", change(HEAD + 1, b'e'), true),
            ("another number", change(0, !id[0]), false),
            ("a question", change(2, 1), false),
            ("another name", change(HEAD + 1, b'x'), false),
            ("half a head", sound[..HEAD - 1].to_vec(), false),
            ("half a question", sound[..HEAD + 4].to_vec(), false),
        ] {
            assert_eq!(answers(&bytes, id, &message), expect, "{what}");
        }
        assert_eq!(restored(sound, &message)[..2], message[..2]);
    }

    #[tokio::test]
    async fn the_answer_comes_back_as_it_was_and_a_forged_one_does_not() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolv = Resolv {
            servers: vec![server.local_addr().unwrap()],
            search: Vec::new(),
        };
        let message = question();
        let serving = async {
            let mut room = [0; 512];
            let (length, from) = server.recv_from(&mut room).await.unwrap();
            let mut forged = answer_to(&room[..length]);
            forged[0] ^= 0xff;
            server.send_to(&forged, from).await.unwrap();
            let answer = answer_to(&room[..length]);
            server.send_to(&answer, from).await.unwrap();
            room[..2].to_vec()
        };
        let (got, asked_as) = tokio::join!(ask(&resolv, &message, false), serving);
        assert_eq!(got.unwrap(), answer_to(&message));
        // One in 65,536 runs draws the program's own number.
        let _ = asked_as;
    }

    #[tokio::test]
    async fn the_next_server_is_asked_when_one_is_dead() {
        let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let gone = dead.local_addr().unwrap();
        drop(dead);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let resolv = Resolv {
            servers: vec![gone, listener.local_addr().unwrap()],
            search: Vec::new(),
        };
        let message = question();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let asked = read_message(&mut stream).await.unwrap();
            write_message(&mut stream, &answer_to(&asked))
                .await
                .unwrap();
        };
        let (got, ()) = tokio::join!(ask(&resolv, &message, true), serving);
        assert_eq!(got.unwrap(), answer_to(&message));
        let nobody = Resolv {
            servers: vec![gone],
            search: Vec::new(),
        };
        assert_eq!(ask(&nobody, &message, true).await, None);
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_missing_one_means_the_local_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let host = Host::new(path.clone());
        assert_eq!(host.resolv().servers[0].to_string(), "127.0.0.1:53");
        fs::write(&path, "nameserver 10.9.9.9").unwrap();
        let soon = host.resolv();
        assert_eq!(soon.servers[0].to_string(), "127.0.0.1:53", "not yet");
        host.known.lock().unwrap().looked = None;
        assert_eq!(host.resolv().servers[0].to_string(), "10.9.9.9:53");
    }
}
