//! A whole proxy of a captured program, without a control plane: it takes what the door hands over, again in its next
//! life, and answers no name before it knows the mesh's. The door is real, its sockets are of this namespace.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

use naka_proxy::door::{self, Handed, Kind};
use naka_proxy::run::{self, Error, Running};
use naka_proxy::settings::{AccessLog, Capture, Settings, Upstream};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const LIMIT: Duration = Duration::from_secs(10);

fn settings(dir: &Path) -> Settings {
    let mut settings = Settings::new(dir.join("run"), "pay", "pay-1");
    settings.outbound = None;
    settings.access_log = AccessLog::Off;
    settings.control.addresses = vec!["127.0.0.1:1".to_owned()];
    settings.capture = Some(Capture::Namespace {
        door: dir.join(door::SOCKET),
    });
    settings
}

/// Where the sockets are that a door at this place hands over: one of each kind.
struct Inside {
    outbound: SocketAddr,
    udp: SocketAddr,
    tcp: SocketAddr,
    host_port: SocketAddr,
}

fn door(dir: &Path, host_port: u16) -> Inside {
    let socket = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (outbound, dns, host) = (socket(), socket(), socket());
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let inside = Inside {
        outbound: outbound.local_addr().unwrap(),
        udp: udp.local_addr().unwrap(),
        tcp: dns.local_addr().unwrap(),
        host_port: host.local_addr().unwrap(),
    };
    let address = inside.outbound;
    let handed = vec![
        Handed {
            kind: Kind::Outbound { address },
            socket: outbound.into(),
        },
        Handed {
            kind: Kind::DnsUdp {
                address: inside.udp,
            },
            socket: udp.into(),
        },
        Handed {
            kind: Kind::DnsTcp {
                address: inside.tcp,
            },
            socket: dns.into(),
        },
        Handed {
            kind: Kind::HostPort { port: host_port },
            socket: host.into(),
        },
    ];
    let listener = door::bind(&dir.join(door::SOCKET)).unwrap();
    std::thread::spawn(move || door::serve(&listener, &handed, None));
    inside
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LIMIT, future).await.unwrap()
}

async fn greeted(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut said = String::new();
    within(stream.read_to_string(&mut said)).await.unwrap();
    said
}

async fn post(running: &Running, path: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(running.admin()).await.unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

async fn stop(running: Running) {
    running.stop().await;
    within(running.stopped()).await;
}

/// A program of this host that greets.
async fn greeter() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"hello").await.unwrap();
        }
    });
    port
}

#[tokio::test]
async fn the_next_life_takes_the_same_sockets_and_serves_who_waited_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let inside = door(dir.path(), greeter().await);
    let first = run::start(settings(dir.path())).await.unwrap();
    assert_eq!(first.addresses().captured, [inside.outbound]);
    assert_eq!(first.addresses().outbound, None);
    assert_eq!(greeted(inside.host_port).await, "hello");
    stop(first).await;
    let mut meanwhile = TcpStream::connect(inside.host_port).await.unwrap();
    let second = run::start(settings(dir.path())).await.unwrap();
    assert_eq!(second.addresses().captured, [inside.outbound]);
    let mut said = String::new();
    within(meanwhile.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "hello");
    stop(second).await;
}

#[tokio::test]
async fn what_went_around_is_told_on_the_admin_socket_and_added_up() {
    let dir = tempfile::tempdir().unwrap();
    let inside = door(dir.path(), greeter().await);
    let running = run::start(settings(dir.path())).await.unwrap();
    assert_eq!(greeted(inside.host_port).await, "hello");
    let answer = post(&running, "/seen", r#"{"bypassed":2}"#).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(r#""bypassed": 3"#), "{answer}");
    let wrong = post(&running, "/seen", r#"{"http":2}"#).await;
    assert!(wrong.starts_with("HTTP/1.1 400"), "{wrong}");
    stop(running).await;
}

/// `payment A`, numbered 258.
const QUESTION: &[u8] =
    b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07payment\x00\x00\x01\x00\x01";
const SERVER_FAILURE: u8 = 2;

#[tokio::test]
async fn no_name_is_answered_before_the_names_of_the_mesh_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let inside = door(dir.path(), 1);
    let running = run::start(settings(dir.path())).await.unwrap();
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(inside.udp).await.unwrap();
    // Not an answer to anybody: nothing comes back, and the next one is not affected.
    socket.send(b"nonsense").await.unwrap();
    socket.send(QUESTION).await.unwrap();
    let mut answer = [0; 512];
    let length = within(socket.recv(&mut answer)).await.unwrap();
    assert_eq!((&answer[..2], length), (&QUESTION[..2], QUESTION.len()));
    assert_eq!(answer[3] & 0xf, SERVER_FAILURE);

    let mut stream = TcpStream::connect(inside.tcp).await.unwrap();
    for _ in 0..2 {
        let length = u16::try_from(QUESTION.len()).unwrap();
        stream.write_u16(length).await.unwrap();
        stream.write_all(QUESTION).await.unwrap();
        assert_eq!(within(stream.read_u16()).await.unwrap(), length);
        let mut answer = vec![0; usize::from(length)];
        within(stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer[3] & 0xf, SERVER_FAILURE);
    }
    stop(running).await;
}

#[tokio::test]
async fn a_door_that_is_not_there_or_fits_the_settings_badly_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = run::start(settings(dir.path())).await.unwrap_err();
    assert!(matches!(error, Error::Door { .. }), "{error}");
    assert!(error.to_string().contains("door.sock"), "{error}");

    let listener = door::bind(&dir.path().join(door::SOCKET)).unwrap();
    let bind = TcpListener::bind("127.0.0.1:0").unwrap();
    let handed = vec![Handed {
        kind: Kind::Upstream { index: 0 },
        socket: bind.into(),
    }];
    std::thread::spawn(move || door::serve(&listener, &handed, None));
    let error = run::start(settings(dir.path())).await.unwrap_err();
    assert!(error.to_string().contains("upstream 0"), "{error}");
    let mut known = settings(dir.path());
    known.upstreams.push(Upstream {
        bind: "127.0.0.1:5432".parse().unwrap(),
        host: "postgres".to_owned(),
        port: 5432,
    });
    let error = run::start(known).await.unwrap_err();
    assert!(
        error.to_string().contains("no outbound listener"),
        "{error}"
    );
}
