//! Listeners of its own for calls of a program: entries of its Sidecar's `egress` with `bind`, or with `captureMode: NONE`.
//!
//! Why: a program that is not captured and reads no proxy variables reaches the mesh by an address of this machine. An
//! entry with one host leads there, whatever requests say; with patterns, HTTP requests say themselves which host they
//! mean, and bytes are led on only where the mesh has one service that can be meant. What an entry says with
//! `captureMode: IPTABLES` is captured or not called at all: nothing is bound.
//!
//! Not here: Unix sockets, which no proxy of ours binds; which hosts may be called, which virtual hosts decide.

use super::{Built, Class, View};
use crate::world::Read;
use naka_api::networking::sidecar::{Bind, Capture, Egress};
use naka_types::host::Host;
use naka_types::name::ClusterName;
use naka_types::node::{NAKA, Role};
use naka_types::protocol::Protocol;
use naka_wire::envoy::config::core::v3::TrafficDirection;
use naka_wire::envoy::config::listener::v3::{FilterChain, Listener};
use naka_wire::values;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What names of these listeners start with.
pub(crate) const EGRESS: &str = "egress_";

/// A listener for calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) bind: SocketAddr,
    /// What is spoken, if the entry says so.
    pub(crate) protocol: Protocol,
    /// Where it leads; `None`: requests say it.
    pub(crate) host: Option<Host>,
}

impl Listen {
    pub(crate) fn name(&self) -> String {
        format!("{EGRESS}{}", self.bind)
    }

    pub(crate) fn port(&self) -> u16 {
        self.bind.port()
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
    let port = entry.port.as_ref()?;
    let ip = match (&entry.bind, entry.capture) {
        (_, Capture::Rules) | (Some(Bind::Unix(_)), _) | (None, Capture::Default) => return None,
        (Some(Bind::Ip(ip)), _) => *ip,
        (None, Capture::None) => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let bytes = matches!(port.protocol, Protocol::Tcp | Protocol::Tls);
    let host = match entry.hosts.as_slice() {
        [only] if !only.host.is_wildcard() => Some(only.host.clone()),
        _ if bytes => Some(only_service(view, entry, port.number, class)?),
        _ => None,
    };
    Some(Listen {
        bind: SocketAddr::new(ip, port.number),
        protocol: port.protocol,
        host,
    })
}

/// The only service that an entry lets through at a port.
fn only_service(view: &View<'_>, entry: &Egress, port: u16, class: &Class) -> Option<Host> {
    let world = view.read(Read::Hosts);
    let mut found = world.services.keys().filter(|host| {
        view.seen(host, class).is_some_and(|service| {
            service.ports.contains_key(&port) && entry.admits(&service.namespace, host)
        })
    });
    match (found.next(), found.next()) {
        (Some(only), None) => Some(only.clone()),
        _ => None,
    }
}

/// The listener of that name for our own proxies, which ask for its hosts when they are called.
pub(crate) fn listener(view: &View<'_>, name: &str, class: &Class) -> Option<Built> {
    let listen = listens(view, class)
        .into_iter()
        .find(|listen| listen.name() == name)?;
    let host = listen.host.as_ref().map_or("", Host::as_str);
    let own = [("protocol", listen.protocol.as_str()), ("host", host)];
    let message = Listener {
        name: name.to_owned(),
        address: Some(super::cluster::socket_address(
            &listen.bind.ip().to_string(),
            listen.port(),
        )),
        metadata: Some(values::metadata([(NAKA, values::string_struct(own))])),
        filter_chains: vec![FilterChain {
            filters: vec![super::listener::tcp(
                &ClusterName::outbound(listen.port(), "", host).to_string(),
                &naka_api::networking::destination_rule::ConnectionPool::default(),
            )],
            ..FilterChain::default()
        }],
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Listener::default()
    };
    Some(Built::new(&listen, naka_wire::pack(&message)))
}
