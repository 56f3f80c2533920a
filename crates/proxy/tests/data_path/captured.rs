//! A program in a network namespace of its own. The namespace is real: a thread makes it, with the rules that redirect
//! all TCP, and the door inside hands its sockets to proxies outside. Making one so takes root; as an ordinary user
//! (who needs a process of its own for it) the process tests show the same.

use crate::mesh::{HOST, Inside, Mesh, Pair, pair};
use crate::program::{exchange, get, http, mirror, raw, within};
use naka_engine::model::MtlsMode;
use naka_proxy::door::{self, Handed, Kind};
use naka_proxy::listen;
use naka_proxy::vip::Vips;
use naka_proxy::worker::Entrance;
use naka_types::protocol::Protocol;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A door of this namespace that hands over nothing but makes sockets.
fn a_door(dir: &Path) -> PathBuf {
    let path = dir.join(door::SOCKET);
    let listener = door::bind(&path).unwrap();
    std::thread::spawn(move || door::serve(&listener, &Vec::<Handed>::new(), None));
    path
}

/// A pair whose called side reaches its program by a door.
fn pair_by_door(door: Option<PathBuf>, program: SocketAddr, protocol: Protocol) -> Pair {
    let mesh = Mesh::new();
    let inside = Inside {
        door,
        ..Inside::default()
    };
    let snapshot = mesh.inbound(program, protocol, MtlsMode::Strict);
    let called = mesh.proxy_within(inside, 1, "web", snapshot, &[HOST], |_| {});
    let port = program.port();
    let inbound = called.open(Entrance::Inbound { port });
    let caller = mesh.proxy("shopper", mesh.outbound(protocol, &[inbound]), &[HOST]);
    let outbound = caller.open(Entrance::Outbound);
    Pair {
        mesh,
        caller,
        called,
        outbound,
        inbound,
        program,
    }
}

#[tokio::test]
async fn the_program_is_called_by_sockets_of_the_door_and_by_no_others() {
    let program = http(mirror).await;
    let dir = tempfile::tempdir().unwrap();
    // Nobody is there yet: the program listens on this machine, and yet it is not reached.
    let path = dir.path().join(door::SOCKET);
    let pair = pair_by_door(Some(path), program.address, Protocol::Http);
    let without = get(pair.outbound, "http://web/").await;
    assert_eq!(
        (without.status.as_u16(), without.reason()),
        (503, "connect-failed"),
        "{without:?}"
    );
    a_door(dir.path());
    // More than a batch, one connection each.
    for call in 0..3 * door::BATCH {
        let answer = get(pair.outbound, "http://web/").await;
        assert_eq!(answer.status.as_u16(), 200, "call {call}: {answer:?}");
    }
    // A door that was started anew is found.
    a_door(dir.path());
    for call in 0..3 * door::BATCH {
        let answer = get(pair.outbound, "http://web/").await;
        assert_eq!(answer.status.as_u16(), 200, "call {call}: {answer:?}");
    }
}

#[tokio::test]
async fn many_calls_at_once_wait_for_the_door_and_all_get_there() {
    let echo = raw(|mut stream, _| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let pair = pair_by_door(Some(a_door(dir.path())), echo.address, Protocol::Tcp);
    let bind = pair.caller.open(Entrance::Bind {
        host: HOST.into(),
        port: 80,
        inside: true,
        protocol: Protocol::Auto,
    });
    let calls: Vec<_> = (0..10 * door::BATCH)
        .map(|n| tokio::spawn(async move { talk(bind, &format!("call {n}")).await }))
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(within(call).await.unwrap(), format!("call {n}"));
    }
    let opaque = pair.called.seen.opaque.load(Relaxed);
    assert_eq!(opaque, 10 * door::BATCH as u64);
}

async fn talk(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_program_that_listens_on_ipv6_loopback_only_is_reached_inside() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        return; // no IPv6 here
    };
    let four: SocketAddr = ([127, 0, 0, 1], listener.local_addr().unwrap().port()).into();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"six").await.unwrap();
        }
    });
    let dir = tempfile::tempdir().unwrap();
    for (door, expect) in [(Some(a_door(dir.path())), "six"), (None, "")] {
        let pair = pair_by_door(door, four, Protocol::Tcp);
        let bind = pair.caller.open(Entrance::Bind {
            host: HOST.into(),
            port: 80,
            inside: false,
            protocol: Protocol::Auto,
        });
        let mut stream = TcpStream::connect(bind).await.unwrap();
        let mut said = String::new();
        // Without the door the connection ends, one way or the other.
        let _ = within(stream.read_to_string(&mut said)).await;
        assert_eq!(said, expect);
    }
}

#[tokio::test]
async fn inside_the_caller_is_the_program_whoever_the_kernel_says_it_is() {
    let program = http(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let snapshot = pair.mesh.outbound(Protocol::Http, &[pair.inbound]);
    let caller = pair
        .mesh
        .proxy_with("shopper", snapshot, &[HOST], |own| own.uid += 1);
    for (inside, served) in [(true, true), (false, false)] {
        let bind = caller.open(Entrance::Bind {
            host: HOST.into(),
            port: 80,
            inside,
            protocol: Protocol::Auto,
        });
        let request = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
        let answer = exchange(bind, request).await;
        assert_eq!(answer.starts_with("HTTP/1.1 200"), served, "{answer}");
    }
}

#[tokio::test]
async fn a_host_port_leads_to_this_hosts_loopback_and_counts_as_bypassed() {
    let database = raw(|mut stream, _| async move {
        stream.write_all(b"5.7 hello").await.unwrap();
    })
    .await;
    let mesh = Mesh::new();
    let caller = mesh.proxy("shopper", mesh.outbound(Protocol::Http, &[]), &[HOST]);
    let port = database.address.port();
    let inside = caller.open(Entrance::HostPort { port });
    let captured = caller.open(Entrance::Captured);
    assert_eq!(talk(inside, "").await, "5.7 hello");
    assert_eq!(caller.seen.bypassed.load(Relaxed), 1);
    // Whoever reaches the capturing listener itself is not sent on to it again.
    assert_eq!(talk(captured, "").await, "");
    caller
        .until("the loop is logged", |proxy| {
            proxy.log.text().contains("loop-detected")
        })
        .await;
    assert_eq!(caller.seen.bypassed.load(Relaxed), 1);
}

#[tokio::test]
async fn each_kind_of_traffic_is_counted_as_what_it_is() {
    let program = http(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let seen = |what: &str| {
        let seen = &pair.caller.seen;
        let counts = [&seen.http, &seen.tunnelled, &seen.opaque, &seen.bypassed];
        (what.to_owned(), counts.map(|count| count.load(Relaxed)))
    };
    get(pair.outbound, "http://web/").await;
    assert_eq!(seen("a request"), ("a request".to_owned(), [1, 0, 0, 0]));
    let mut tunnel = crate::program::connect(pair.outbound, "web:80").await;
    let request = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    tunnel.write_all(request).await.unwrap();
    let mut answer = String::new();
    within(tunnel.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(
        seen("in a tunnel"),
        ("in a tunnel".to_owned(), [2, 1, 0, 0])
    );
    let outside = raw(|mut stream, _| async move {
        stream.write_all(b"hello").await.unwrap();
    })
    .await;
    let mut tunnel = crate::program::connect(pair.outbound, &outside.address.to_string()).await;
    let mut said = String::new();
    within(tunnel.read_to_string(&mut said)).await.unwrap();
    assert_eq!((said.as_str(), seen("out").1), ("hello", [2, 2, 0, 1]));
}

#[expect(
    unsafe_code,
    reason = "moving a thread to a new network namespace has no safe form"
)]
/// Runs something in a new network namespace whose TCP is led to its door's listener by these rules, beside the door;
/// `None` where that is not allowed.
fn namespace<T: Send + 'static>(
    door: PathBuf,
    rules: &'static str,
    inside: impl FnOnce() -> T + Send + 'static,
) -> Option<(mpsc::Sender<()>, mpsc::Receiver<T>)> {
    let (made, ready) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        // SAFETY: of what threads share, only descriptors must not be unshared; this is the network namespace alone.
        let moved = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
        made.send(moved.is_ok()).unwrap();
        if moved.is_err() {
            return;
        }
        let handed = handed(rules);
        let listener = door::bind(&door).unwrap();
        let refusals = door::watch().unwrap();
        std::thread::spawn(move || door::serve(&listener, &handed, Some(&refusals)));
        made.send(true).unwrap();
        gone.recv().unwrap();
        let _ = tell.send(inside());
    });
    if !ready.recv().unwrap() {
        return None;
    }
    ready.recv().unwrap();
    Some((go, told))
}

const NAMESERVER: &str = "192.0.2.53:53";

/// Calls are given to the listener, and refused ones are told.
const GIVEN: &str = "table inet naka {
  chain arrived {
    type filter hook prerouting priority -150;
    tcp flags & (rst | ack) == (rst | ack) tcp sequence 0 log group 1 queue-threshold 1
    tcp flags & (syn | ack) != syn accept
    ip daddr { 127.0.0.0/8, 192.0.2.1 } accept
    ip6 daddr { ::1, 2001:db8::1 } accept
    meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:15001
    meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:15001
  }
}
";

/// They are translated.
const TRANSLATED: &str = "table inet naka {
  chain output {
    type nat hook output priority -100;
    ip daddr { 127.0.0.0/8, 192.0.2.1 } return
    ip6 daddr { ::1, 2001:db8::1 } return
    meta l4proto tcp redirect to :15001
  }
}
";

fn handed(rules: &str) -> Vec<Handed> {
    for command in [
        "ip link set lo up",
        "ip addr add 192.0.2.1/32 dev lo",
        "ip route add local default dev lo src 192.0.2.1",
        // Else its own duplicate is looked for, and until then it cannot be a source.
        "ip -6 addr add 2001:db8::1/128 dev lo nodad",
        "ip -6 route add local default dev lo src 2001:db8::1",
    ] {
        let mut words = command.split(' ');
        let done = Command::new(words.next().unwrap()).args(words).status();
        assert!(done.unwrap().success(), "{command}");
    }
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = nft.stdin.take().unwrap();
    input.write_all(rules.as_bytes()).unwrap();
    drop(input);
    assert!(nft.wait().unwrap().success());
    let mut handed = Vec::new();
    for ip in ["127.0.0.1", "[::1]"] {
        let address: SocketAddr = format!("{ip}:15001").parse().unwrap();
        let listener = StdListener::bind(address).unwrap();
        door::take_all(&listener).unwrap();
        handed.push(Handed {
            kind: Kind::Outbound { address },
            socket: listener.into(),
        });
    }
    handed
}

/// One request on a connection of its own; what came back.
fn called(address: SocketAddr) -> String {
    let limit = Duration::from_secs(10);
    let Ok(mut stream) = StdStream::connect_timeout(&address, limit) else {
        return "not connected".to_owned();
    };
    stream.set_read_timeout(Some(limit)).unwrap();
    let request = b"GET /x HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    // A refused connection may end before all is written.
    let _ = stream.write_all(request);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[tokio::test]
async fn a_call_out_of_the_namespace_arrives_by_the_name_behind_its_address() {
    for rules in [GIVEN, TRANSLATED] {
        calls_arrive(rules).await;
    }
}

async fn calls_arrive(rules: &'static str) {
    let program = http(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let dir = tempfile::tempdir().unwrap();
    let vips = Arc::new(Vips::load(dir.path()));
    let (four, six) = vips.give(HOST);
    let door = dir.path().join(door::SOCKET);
    // A place outside the mesh, as far as a machine without a network has one: this host by another address.
    let outside = outside_address().await;
    let calls = move || {
        let loops = SocketAddr::from(([127, 0, 0, 1], 9));
        [
            called((four, 80).into()),
            called((six, 80).into()),
            outside.map_or_else(|| "plain".to_owned(), called),
            called(([240, 9, 9, 9], 80).into()),
            called(loops),
        ]
    };
    let Some((go, told)) = namespace(door.clone(), rules, calls) else {
        return;
    };
    let inside = Inside {
        door: Some(door.clone()),
        vips: Some(vips),
        ..Inside::default()
    };
    let snapshot = pair.mesh.outbound(Protocol::Http, &[pair.inbound]);
    let caller = pair
        .mesh
        .proxy_within(inside, 1, "shopper", snapshot, &[HOST], |_| {});
    for handed in door::Client::connect(&door).unwrap().list().unwrap() {
        if matches!(handed.kind, Kind::Outbound { .. }) {
            let listener = StdListener::from(handed.socket);
            listener.set_nonblocking(true).unwrap();
            let workers = Arc::clone(&caller.workers);
            let entrance = Arc::new(Entrance::Captured);
            tokio::spawn(listen::accept(listener, entrance, workers));
        }
    }
    let mut refusals = door::Client::connect(&door).unwrap().refusals().unwrap();
    // Questions are answered in the order they came in: once a list has arrived, the watcher is known.
    door::Client::connect(&door).unwrap().list().unwrap();
    go.send(()).unwrap();
    let answers = tokio::task::spawn_blocking(move || told.recv().unwrap());
    let [four, six, outside_said, unknown, own] = within(answers).await.unwrap();
    assert!(four.starts_with("HTTP/1.1 200"), "{four}");
    assert!(six.starts_with("HTTP/1.1 200"), "{six}");
    assert!(outside_said.contains("plain"), "{outside_said}");
    assert_eq!(unknown, "", "a stale virtual address is refused");
    assert_eq!(
        own, "not connected",
        "the namespace's own loopback is its own"
    );
    if rules == GIVEN {
        let told = within(refusals.next()).await.unwrap();
        assert_eq!(told, 9, "the call that nobody listened for");
    }
    let seen = &caller.seen;
    assert_eq!(seen.http.load(Relaxed), 2);
    assert_eq!(
        seen.bypassed.load(Relaxed),
        u64::from(outside.is_some()),
        "passed through once"
    );
}

/// An address of this host other than loopback with something that answers, if it has one.
async fn outside_address() -> Option<SocketAddr> {
    let probe = UdpSocket::bind("0.0.0.0:0").ok()?;
    probe.connect(NAMESERVER).ok()?;
    let ip = probe.local_addr().ok()?.ip();
    let listener = TcpListener::bind((ip, 0)).await.ok()?;
    let address = listener.local_addr().ok()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 512];
            let _ = stream.read(&mut asked).await;
            let _ = stream.write_all(b"plain").await;
        }
    });
    Some(address)
}
