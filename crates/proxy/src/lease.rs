//! What we register: ports, addresses, and how far the program's life has come.
//!
//! The workload is STARTING until its ports are known, our listeners for them are bound, and the program accepts on
//! each of them; so nobody is sent to a program that does not listen yet. The program's ports are looked up in the
//! kernel's table of listening sockets: a trial connection would be a caller the program never had.

use crate::settings::{Beside, Capture, Port, Role, Settings};
use naka_wire::v1;
use naka_wire::v1::register_request::State;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::watch;

const FIRST_LOOK: Duration = Duration::from_millis(2);
const SLOWEST_LOOK: Duration = Duration::from_millis(50);

/// The registration, as everybody who must know watches it.
#[derive(Debug)]
pub struct Lease {
    cell: watch::Sender<v1::RegisterRequest>,
}

impl Lease {
    /// A workload that is starting and has announced no port.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            cell: watch::Sender::new(v1::RegisterRequest {
                workload_id: String::new(),
                namespace: settings.namespace.clone(),
                service: settings.service.clone().unwrap_or_default(),
                service_account: settings.service_account.clone(),
                labels: settings.labels.clone(),
                workload_name: settings.workload_name.clone(),
                ports: Vec::new(),
                state: State::Starting.into(),
                ip: settings.inbound_ip.to_string(),
                gateway: settings.role == Role::Gateway,
                capture: capture_of(settings).to_owned(),
                seen: None,
                verdicts: Vec::new(),
                verdicts_left_off: 0,
                certificate_serial: String::new(),
            }),
        }
    }

    /// The ports and where others dial for each. Ports without a bound listener are left out.
    pub fn ports(&self, ports: &[Port], bound: &BTreeMap<u16, SocketAddr>) {
        self.cell.send_if_modified(|request| {
            let new: Vec<v1::Port> = ports
                .iter()
                .filter_map(|port| {
                    let address = port.advertise.or_else(|| bound.get(&port.port).copied())?;
                    Some(v1::Port {
                        port: u32::from(port.port),
                        inbound_address: address.to_string(),
                        protocol: port.protocol.clone(),
                        name: port.name.clone(),
                        first: ports.first().map(|p| p.port) == Some(port.port),
                    })
                })
                .collect();
            let changed = new != request.ports;
            request.ports = new;
            changed
        });
    }

    /// What was seen of its traffic.
    pub fn seen(&self, seen: v1::Seen) {
        self.cell.send_if_modified(|request| {
            let changed = request.seen.unwrap_or_default() != seen;
            request.seen = Some(seen);
            changed
        });
    }

    /// What its proxy found out about those it calls, and how much more there was.
    pub fn found(&self, verdicts: Vec<v1::Verdict>, left_off: u32) {
        self.cell.send_if_modified(|request| {
            let changed = request.verdicts != verdicts || request.verdicts_left_off != left_off;
            request.verdicts = verdicts;
            request.verdicts_left_off = left_off;
            changed
        });
    }

    /// How far the workload's life has come. A workload that drains never becomes ready again.
    pub fn state(&self, state: State) {
        self.cell.send_if_modified(|request| {
            let draining = matches!(request.state(), State::Draining | State::Gone);
            let back = matches!(state, State::Starting | State::Ready | State::Unhealthy);
            if request.state() == state || draining && back {
                return false;
            }
            request.set_state(state);
            true
        });
    }

    /// The registration now.
    #[must_use]
    pub fn now(&self) -> v1::RegisterRequest {
        self.cell.borrow().clone()
    }

    /// A view that is told of changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<v1::RegisterRequest> {
        self.cell.subscribe()
    }
}

/// How the program's calls get here, as status shows it.
fn capture_of(settings: &Settings) -> &'static str {
    match settings.beside {
        Beside::Naka if settings.role == Role::Gateway => return "",
        Beside::Naka => {}
        Beside::Envoy => return "envoy",
        Beside::Grpc => return "grpc",
    }
    match (&settings.capture, &settings.outbound) {
        (Some(Capture::Namespace { .. }), _) => "namespace",
        (Some(Capture::Host(_)), _) => "host",
        (None, Some(_)) => "proxy",
        (None, None) => "",
    }
}

/// Resolves once a program listens on every one of these ports; `inside` is a process of the program's network
/// namespace where that is not ours.
pub async fn listening(ports: &BTreeSet<u16>, inside: Option<u32>) {
    let mut pause = FIRST_LOOK;
    loop {
        let open = match open_ports(inside) {
            Some(open) => ports.iter().all(|port| open.contains(port)),
            None => inside.is_none() && all_accept(ports).await,
        };
        if open {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(SLOWEST_LOOK);
    }
}

/// Ports with a listening TCP socket in our network namespace, or in that of a process; `None` where the kernel has no
/// such table, or that process is gone.
#[must_use]
pub fn open_ports(inside: Option<u32>) -> Option<BTreeSet<u16>> {
    let of = inside.map_or_else(|| "self".to_owned(), |process| process.to_string());
    let four = std::fs::read_to_string(format!("/proc/{of}/net/tcp")).ok()?;
    let six = std::fs::read_to_string(format!("/proc/{of}/net/tcp6")).unwrap_or_default();
    Some(
        four.lines()
            .chain(six.lines())
            .filter_map(listener)
            .collect(),
    )
}

/// The port of one line of the kernel's table, if it is a listening socket.
fn listener(line: &str) -> Option<u16> {
    const LISTEN: &str = "0A";
    let mut words = line.split_ascii_whitespace().skip(1);
    let local = words.next()?;
    let state = words.nth(1)?;
    let (_, port) = local.rsplit_once(':')?;
    (state == LISTEN)
        .then(|| u16::from_str_radix(port, 16).ok())
        .flatten()
}

/// For systems without the table: whether each port takes a connection.
async fn all_accept(ports: &BTreeSet<u16>) -> bool {
    for port in ports {
        if tokio::net::TcpStream::connect(("127.0.0.1", *port))
            .await
            .is_err()
        {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernels_table() {
        for (line, expect) in [
            (
                "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1",
                Some(8080),
            ),
            (
                "   1: 0100007F:1F90 0100007F:0050 01 00000000:00000000 00:00000000 00000000  1000        0 1 1",
                None,
            ),
            (
                "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0",
                Some(80),
            ),
            ("  sl  local_address rem_address   st tx_queue", None),
            ("", None),
        ] {
            assert_eq!(listener(line), expect, "{line}");
        }
    }

    #[tokio::test]
    async fn a_listener_is_seen_when_it_is_there_and_not_before() {
        let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = reserved.local_addr().unwrap().port();
        drop(reserved);
        assert!(!open_ports(None).unwrap().contains(&port));
        let waiting = tokio::spawn(async move { listening(&[port].into(), None).await });
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        tokio::time::timeout(Duration::from_secs(5), waiting)
            .await
            .unwrap()
            .unwrap();
        drop(listener);
    }

    #[test]
    fn what_was_seen_is_told_when_it_changed_and_how_calls_are_captured() {
        let mut settings = Settings::new("/r".into(), "pay", "pay-1");
        assert_eq!(Lease::new(&settings).now().capture, "proxy");
        settings.outbound = None;
        assert_eq!(Lease::new(&settings).now().capture, "");
        settings.capture = Some(Capture::Namespace {
            door: "/r/door.sock".into(),
        });
        let lease = Lease::new(&settings);
        assert_eq!(lease.now().capture, "namespace");
        let mut watch = lease.watch();
        watch.mark_unchanged();
        let some = v1::Seen {
            http: 1,
            ..v1::Seen::default()
        };
        for (seen, changes) in [(v1::Seen::default(), false), (some, true), (some, false)] {
            lease.seen(seen);
            assert_eq!(watch.has_changed().unwrap(), changes);
            watch.mark_unchanged();
        }
    }

    #[test]
    fn a_registration_names_bound_ports_only_and_never_returns_from_draining() {
        let settings = Settings::new("/r".into(), "pay", "pay-1");
        let lease = Lease::new(&settings);
        let address: SocketAddr = "127.0.0.1:40001".parse().unwrap();
        lease.ports(
            &[Port::plain(8080), Port::plain(9090)],
            &[(8080, address)].into(),
        );
        let now = lease.now();
        assert_eq!(now.ports.len(), 1);
        assert_eq!(now.ports[0].inbound_address, "127.0.0.1:40001");
        assert!(now.ports[0].first);
        let mut watch = lease.watch();
        watch.mark_unchanged();
        lease.state(State::Starting);
        assert!(!watch.has_changed().unwrap());
        for (set, expect) in [
            (State::Ready, State::Ready),
            (State::Draining, State::Draining),
            (State::Ready, State::Draining),
            (State::Gone, State::Gone),
            (State::Ready, State::Gone),
        ] {
            lease.state(set);
            assert_eq!(lease.now().state(), expect);
        }
    }
}
