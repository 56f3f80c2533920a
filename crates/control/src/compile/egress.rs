//! Listeners of its own for calls of a program: entries of its Sidecar's `egress` with `bind`, or with `captureMode: NONE`.
//!
//! Why: a program that is not captured and reads no proxy variables reaches the mesh by an address of this machine. An
//! entry with one host leads there, whatever requests say; with several, HTTP requests say themselves which host they
//! mean, and bytes go to the oldest service of those that can be meant, as in Istio, which the object is told. What an entry says with
//! `captureMode: IPTABLES` is captured or not called at all: nothing is bound.
//!
//! A Unix socket has no port number: it leads to the only port of its service, or to 80.
//!
//! Not here: which hosts may be called, which virtual hosts decide.

use super::{Built, Class, View};
use crate::world::{Read, Service, World};
use naka_api::networking::sidecar::{Bind, Capture, Egress};
use naka_api::{Object, codes};
use naka_types::finding::Finding;
use naka_types::host::Host;
use naka_types::name::ClusterName;
use naka_types::node::{NAKA, Role};
use naka_types::protocol::Protocol;
use naka_wire::envoy::config::core::v3::TrafficDirection;
use naka_wire::envoy::config::listener::v3::{FilterChain, Listener};
use naka_wire::values;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// What names of these listeners start with.
pub(crate) const EGRESS: &str = "egress_";
/// The port that requests mean which name none.
const HTTP: u16 = 80;

/// Where a listener for calls is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// An address of the machine.
    Ip(SocketAddr),
    /// A Unix socket; with `@` an abstract one.
    Unix(String),
}

impl Place {
    /// The address; `None` for what an Envoy's agent does not bind.
    pub(crate) fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Port of the address, 0 for a socket that has none.
    fn port(&self) -> u16 {
        self.ip().map_or(0, |address| address.port())
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix://{path}"),
        }
    }
}

/// A listener for calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) bind: Place,
    /// Port of the host that is called; of requests that say theirs, the one that is meant without one.
    pub(crate) port: u16,
    /// What is spoken, if the entry says so.
    pub(crate) protocol: Protocol,
    /// Where it leads; `None`: requests say it.
    pub(crate) host: Option<Host>,
}

impl Listen {
    pub(crate) fn name(&self) -> String {
        format!("{EGRESS}{}", self.bind)
    }
}

/// The listeners that the Sidecar of a class asks for; of two with one address the first counts.
pub(crate) fn listens(view: &View<'_>, class: &Class) -> Vec<Listen> {
    if class.role == Role::Gateway {
        return Vec::new();
    }
    let sidecar = view.sidecar(class);
    let entries = sidecar.and_then(|sidecar| sidecar.egress.as_deref());
    let mut all: Vec<Listen> = Vec::new();
    for entry in entries.unwrap_or_default() {
        let Some(listen) = listen(view, entry, class) else {
            continue;
        };
        if all.iter().all(|known| known.bind != listen.bind) {
            all.push(listen);
        }
    }
    all
}

fn listen(view: &View<'_>, entry: &Egress, class: &Class) -> Option<Listen> {
    let (bind, protocol) = bind(entry)?;
    let host = match entry.hosts.as_slice() {
        [only] if !only.host.is_wildcard() => Some(only.host.clone()),
        _ if is_bytes(protocol) => {
            let world = view.read(Read::Hosts);
            let all = meant(world, entry, bind.port(), |host| view.seen(host, class));
            Some(all.first()?.host.clone())
        }
        _ => None,
    };
    let port = match (&bind, &host) {
        (Place::Ip(address), _) => address.port(),
        (Place::Unix(_), None) => HTTP,
        (Place::Unix(_), Some(host)) => port_of(view.seen(host, class)?)?,
    };
    Some(Listen {
        bind,
        port,
        protocol,
        host,
    })
}

/// The port of a service that a socket without a number means: its only one, else that of HTTP.
fn port_of(service: &Service) -> Option<u16> {
    let mut ports = service.ports.keys();
    match (ports.next(), ports.next()) {
        (Some(only), None) => Some(*only),
        _ => service.ports.contains_key(&HTTP).then_some(HTTP),
    }
}

/// Where an entry listens, and what is spoken there.
fn bind(entry: &Egress) -> Option<(Place, Protocol)> {
    let port = entry.port.as_ref()?;
    let ip = match (&entry.bind, entry.capture) {
        (_, Capture::Rules) | (None, Capture::Default) => return None,
        (Some(Bind::Unix(path)), _) => return Some((Place::Unix(path.clone()), port.protocol)),
        (Some(Bind::Ip(ip)), _) => *ip,
        (None, Capture::None) => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    Some((Place::Ip(SocketAddr::new(ip, port.number)), port.protocol))
}

fn is_bytes(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Tcp | Protocol::Tls)
}

/// The services that an entry lets through at a port, those first that get connections before others.
fn meant<'a>(
    world: &'a World,
    entry: &Egress,
    port: u16,
    seen: impl Fn(&Host) -> Option<&'a Arc<Service>>,
) -> Vec<&'a Service> {
    let hosts = world.services.keys().filter(|host| !host.is_wildcard());
    let mut all: Vec<&'a Service> = hosts
        .filter_map(seen)
        .map(AsRef::as_ref)
        .filter(|service| {
            let there = match port {
                0 => port_of(service).is_some(),
                port => service.ports.contains_key(&port),
            };
            there && entry.admits(&service.namespace, &service.host)
        })
        .collect();
    all.sort_by(|a, b| a.age().cmp(&b.age()));
    all
}

/// Binds of a Sidecar whose bytes could mean several services: the oldest has them, and the others are told of it.
pub(crate) fn contested(world: &World, object: &Object) -> Vec<Finding> {
    let entries = object
        .sidecar()
        .and_then(|sidecar| sidecar.egress.as_deref());
    let finding = |entry: &Egress| {
        let (bind, protocol) = bind(entry).filter(|(_, protocol)| is_bytes(*protocol))?;
        let seen = |host: &Host| world.holder(host, &object.meta.namespace);
        let all = meant(world, entry, bind.port(), seen);
        let [first, others @ ..] = all.as_slice() else {
            return None;
        };
        let others: Vec<&str> = others.iter().map(|other| other.host.as_str()).collect();
        if others.is_empty() {
            return None;
        }
        let message = format!(
            "bytes do not say whom they are for: all connections to {bind} ({}) go to {}, the oldest; {} cannot be \
            reached there",
            protocol.as_str(),
            first.host,
            others.join(", ")
        );
        let finding = Finding::new(codes::L354.id, message);
        Some(
            finding
                .at(format!("spec.egress[{}].hosts", entry.index))
                .fix("write one host for each bind, with a port of its own")
                .on(object.reference()),
        )
    };
    entries
        .unwrap_or_default()
        .iter()
        .filter_map(finding)
        .collect()
}

/// The listener of that name for our own proxies, which ask for its hosts when they are called.
pub(crate) fn listener(view: &View<'_>, name: &str, class: &Class) -> Option<Built> {
    let listen = listens(view, class)
        .into_iter()
        .find(|listen| listen.name() == name)?;
    let host = listen.host.as_ref().map_or("", Host::as_str);
    let port = listen.port.to_string();
    let own = [
        ("protocol", listen.protocol.as_str()),
        ("host", host),
        ("port", &port),
    ];
    let message = Listener {
        name: name.to_owned(),
        address: Some(match &listen.bind {
            Place::Ip(bind) => super::cluster::socket_address(&bind.ip().to_string(), bind.port()),
            Place::Unix(path) => super::cluster::pipe(path),
        }),
        metadata: Some(values::metadata([(NAKA, values::string_struct(own))])),
        filter_chains: vec![FilterChain {
            filters: vec![super::listener::tcp(
                &ClusterName::outbound(listen.port, "", host).to_string(),
                &naka_api::networking::destination_rule::ConnectionPool::default(),
            )],
            ..FilterChain::default()
        }],
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Listener::default()
    };
    Some(Built::new(&listen, naka_wire::pack(&message)))
}
