//! Both ends of a door over real sockets of this machine's own network namespace; what a namespace adds is shown by
//! process tests.

use super::*;
use rustix::process::Uid;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;

/// A door of this machine's own namespace; it serves until the test process ends.
fn door(dir: &Path, user: Uid, handed: Vec<Handed>, refusals: Option<OwnedFd>) -> PathBuf {
    let path = dir.join(SOCKET);
    let listener = bind(&path).unwrap();
    std::thread::spawn(move || {
        serve::serve_user(user, &listener, &handed, refusals.as_ref()).unwrap_err()
    });
    path
}

fn me() -> Uid {
    rustix::process::getuid()
}

fn outbound(listener: &TcpListener) -> Handed {
    Handed {
        kind: Kind::Outbound {
            address: listener.local_addr().unwrap(),
        },
        socket: listener.try_clone().unwrap().into(),
    }
}

#[test]
fn the_same_listeners_are_handed_over_again_and_connections_wait_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dns = Handed {
        kind: Kind::DnsUdp {
            address: udp.local_addr().unwrap(),
        },
        socket: udp.into(),
    };
    let path = door(dir.path(), me(), vec![outbound(&listener), dns], None);
    drop(listener);
    let mut caller = TcpStream::connect(address).unwrap();
    caller.write_all(b"early").unwrap();
    for life in ["first", "restarted"] {
        let mut handed = Client::connect(&path).unwrap().list().unwrap();
        assert_eq!(handed.len(), 2, "{life}");
        assert!(matches!(handed[1].kind, Kind::DnsUdp { .. }));
        assert_eq!(handed[0].kind, Kind::Outbound { address });
        if life == "restarted" {
            let listener = TcpListener::from(handed.remove(0).socket);
            let (mut taken, _) = listener.accept().unwrap();
            let mut seen = [0; 5];
            taken.read_exact(&mut seen).unwrap();
            assert_eq!(&seen, b"early");
        }
    }
}

#[test]
fn as_many_sockets_as_fit_are_handed_over_and_more_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let many = |count| (0..count).map(|_| outbound(&listener)).collect::<Vec<_>>();
    let path = door(dir.path(), me(), many(MOST), None);
    assert_eq!(Client::connect(&path).unwrap().list().unwrap().len(), MOST);
    let path = dir.path().join("other.sock");
    let refused = serve(&bind(&path).unwrap(), &many(MOST + 1), None).unwrap_err();
    assert!(refused.to_string().contains("250 at most"), "{refused}");
}

#[test]
fn another_user_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = Uid::from_raw(me().as_raw() + 1);
    let path = door(dir.path(), other, vec![outbound(&listener)], None);
    Client::connect(&path).unwrap().list().unwrap_err();
}

#[test]
fn the_socket_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET);
    bind(&path).unwrap();
    let again = bind(&path);
    assert!(again.is_ok(), "one of an earlier run is replaced");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_caller_that_talks_nonsense_is_let_go_and_others_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = door(dir.path(), me(), Vec::new(), None);
    for nonsense in [&b"X"[..], b"LL", b"4444444444", b"\0"] {
        let bad = Client::connect(&path).unwrap();
        send(bad.socket.as_fd(), nonsense, &[]).unwrap();
        receive(bad.socket.as_fd(), &mut [0; 64]).unwrap_err();
    }
    assert!(
        Client::connect(&path).unwrap().list().unwrap().is_empty(),
        "a door that hands over nothing answers, too"
    );
}

#[test]
fn a_list_that_does_not_fit_its_sockets_is_refused_by_the_proxy() {
    for (answer, sockets) in [
        (&br#"[{"kind":"upstream","index":0}]"#[..], 0),
        (br#"[]"#, 1),
        (br#"{"kind":"upstream"}"#, 0),
        (b"no such thing", 0),
    ] {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let handed = vec![theirs.as_fd(); sockets];
        send(theirs.as_fd(), answer, &handed).unwrap();
        let refused = Client { socket: ours }.list().unwrap_err();
        assert!(refused.to_string().contains("the door answered"));
    }
}

#[tokio::test]
async fn refused_calls_are_told_to_whoever_asked() {
    let dir = tempfile::tempdir().unwrap();
    // What the kernel would tell, by hand.
    let (kernel, shown) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .unwrap();
    let path = door(dir.path(), me(), Vec::new(), Some(shown));
    let mut packet = vec![0; 40];
    packet[0] = 0x45;
    packet[9] = 6;
    packet[20..22].copy_from_slice(&5432_u16.to_be_bytes());
    packet[33] = 0x14;
    let mut refusals = Client::connect(&path).unwrap().refusals().unwrap();
    // The question is answered in the order it came in: once a list has arrived, the watcher is known.
    Client::connect(&path).unwrap().list().unwrap();
    let told = refused::tests::message(&packet);
    rustix::net::send(&kernel, &told, SendFlags::empty()).unwrap();
    assert_eq!(refusals.next().await.unwrap(), 5432);
}

#[tokio::test]
async fn where_refused_calls_cannot_be_seen_it_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = door(dir.path(), me(), Vec::new(), None);
    let mut refusals = Client::connect(&path).unwrap().refusals().unwrap();
    let told = refusals.next().await.unwrap_err();
    assert!(told.to_string().contains("cannot be seen"), "{told}");
}
