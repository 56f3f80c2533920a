//! The ports of a workload's program: what is spoken there, what is asked of callers, where the program listens, and how
//! many connections it gets.
//!
//! A port is one that the workload declares, or one that only its Sidecar names (`ingress`), if that selects it: that one
//! the proxy opens at the entry's `bind`, else at the address of the workload's other ports, under the entry's number. A
//! `bind` of a declared port is an address beside its own. With `captureMode: IPTABLES` nothing is bound. What a Sidecar
//! says of a port comes before what the workload and its service say, field by field; ports that no entry names stay as
//! they are declared, as in Istio, where their connections pass an entry-less listener. Limits are those of the Sidecar (the entry's own, else
//! `inboundConnectionPool`), else those of the DestinationRule of the workload's service, which in Istio holds at both
//! ends.

use super::credential::{self, Credential};
use super::limit::{self, Limit};
use super::policy::{self, Policies};
use super::{Key, View};
use crate::registry::Registration;
use crate::world::Read;
use naka_api::Kind;
use naka_api::networking::destination_rule::ConnectionPool;
use naka_api::networking::gateway::{Certificate, Roots, ServerTls};
use naka_api::networking::sidecar::{Capture, Ingress, Program, Sidecar};
use naka_api::security::peer_authentication::{MtlsMode, PeerAuthentication};
use naka_types::data_class::DataClass;
use naka_types::host::{Host, ROOT_NAMESPACE};
use naka_types::name::ClusterName;
use naka_types::protocol::Protocol;
use std::net::{IpAddr, SocketAddr};

/// A port of a program.
#[derive(Debug, PartialEq)]
pub(crate) struct Chain {
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    pub(crate) mode: MtlsMode,
    /// Whether calls under way end when they would not be let in any more.
    pub(crate) closes: bool,
    pub(crate) service: String,
    pub(crate) limits: Vec<Limit>,
    pub(crate) policies: Policies,
    pub(crate) pool: ConnectionPool,
    pub(crate) at: At,
    pub(crate) tls: Secured,
    /// An address for callers beside the one that was registered, if one was.
    pub(crate) listen: Option<SocketAddr>,
}

/// Where a program listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum At {
    /// At an address.
    Ip(SocketAddr),
    /// At a Unix socket.
    Unix(String),
}

/// TLS with callers from outside the mesh.
#[derive(Debug, PartialEq)]
pub(crate) enum Secured {
    No,
    With(Box<Own>),
    /// Wanted, and a certificate is missing.
    Unusable,
}

/// TLS that can be had.
#[derive(Debug, PartialEq)]
pub(crate) struct Own {
    pub(crate) settings: ServerTls,
    pub(crate) certificates: Vec<Credential>,
    pub(crate) roots: Option<Credential>,
}

impl Chain {
    /// Whether requests are seen one by one.
    pub(crate) fn is_http(&self) -> bool {
        !matches!(self.protocol, Protocol::Tcp | Protocol::Tls)
    }

    /// What it needs.
    pub(crate) fn refers(&self) -> Vec<Key> {
        let cluster = Key::Cluster(ClusterName::Inbound { port: self.port });
        let own = match &self.tls {
            Secured::With(own) => own.certificates.iter().chain(&own.roots).cloned().collect(),
            Secured::No | Secured::Unusable => Vec::new(),
        };
        let asked = self.policies.asked().cloned().map(Key::Cluster);
        own.into_iter()
            .map(Key::Credential)
            .chain([cluster])
            .chain(asked)
            .collect()
    }
}

/// The declared ports of a workload, sorted.
pub(crate) fn chains(view: &View<'_>, registration: &Registration) -> Vec<Chain> {
    let host = Host::of_service(&registration.service, &registration.namespace);
    let service = (!registration.service.is_empty()).then(|| host.as_str().to_owned());
    let declared = view.service(&host);
    let sidecar = sidecar(view, registration);
    let id = &registration.workload_id;
    let called = policy::trust::Called {
        host: &host,
        namespace: &registration.namespace,
        account: &registration.service_account,
        granted: view.read(Read::Workload(id.clone())).granted.get(id),
    };
    let policies = policy::of(
        view,
        &registration.namespace,
        &registration.labels,
        Some(called),
    );
    // What the workload leaves open, its service may declare under the same number.
    let spoken = |own: Protocol, port: u16| match own {
        Protocol::Auto => declared
            .and_then(|service| service.ports.get(&port))
            .map_or(Protocol::Auto, |port| port.protocol),
        known => known,
    };
    let chain = |port: u16, own: Protocol, entry: Option<&Ingress>, listen| {
        let (mode, closes) = asked(view, registration, port);
        let tls = secured(view, registration, mode, entry);
        Chain {
            port,
            protocol: protocol(spoken(own, port), entry, &tls),
            mode,
            closes,
            service: service.clone().unwrap_or_default(),
            limits: limit::at_service(view, &registration.namespace, &registration.service),
            policies: policies.clone(),
            pool: pool(view, registration, sidecar, port),
            at: at(registration, port, entry),
            tls,
            listen,
        }
    };
    let mut chains: Vec<Chain> = registration
        .ports
        .iter()
        .map(|served| {
            let entry = sidecar.and_then(|sidecar| sidecar.ingress(served.port));
            let own = match served.protocol.as_str() {
                "" | "auto" => Protocol::declared(Some(&served.name), None),
                word => Protocol::declared(None, Some(word)),
            };
            let beside = entry.filter(|entry| entry.bind.is_some());
            let listen = beside.and_then(|entry| opened(registration, entry));
            chain(served.port, own, entry, listen)
        })
        .collect();
    // Workloads of a machine share its ports: what is said of a whole namespace opens none that one did not declare.
    let named = sidecar.filter(|sidecar| sidecar.selector.is_some());
    let entries = named.map_or(&[][..], |sidecar| &sidecar.ingress);
    for entry in entries {
        let port = entry.port.number;
        let known = chains.iter().any(|chain| chain.port == port);
        if let Some(listen) = opened(registration, entry).filter(|_| !known) {
            chains.push(chain(port, Protocol::Auto, Some(entry), Some(listen)));
        }
    }
    chains.sort_by_key(|chain| chain.port);
    chains.dedup_by_key(|chain| chain.port);
    chains
}

/// Where the proxy opens a port that an entry names; `None`: its connections are captured or do not come.
fn opened(registration: &Registration, entry: &Ingress) -> Option<SocketAddr> {
    if entry.capture == Capture::Rules {
        return None;
    }
    let own = registration.ports.iter().find_map(|served| {
        let address: SocketAddr = served.inbound_address.parse().ok()?;
        Some(address.ip())
    });
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let ip = entry.bind.or(own).unwrap_or(loopback);
    Some(SocketAddr::new(ip, entry.port.number))
}

/// The port of that number.
pub(crate) fn chain(view: &View<'_>, workload_id: &str, port: u16) -> Option<Chain> {
    let world = view.read(Read::Workload(workload_id.to_owned()));
    let registration = &world.workload(workload_id)?.registration;
    let mut chains = chains(view, registration).into_iter();
    chains.find(|chain| chain.port == port)
}

fn sidecar<'a>(view: &View<'a>, registration: &Registration) -> Option<&'a Sidecar> {
    view.read(Read::Sidecars(ROOT_NAMESPACE.to_owned()));
    view.read(Read::Sidecars(registration.namespace.clone()))
        .sidecar(&registration.namespace, &registration.labels)
}

/// What an entry says is spoken; inside TLS that ends here HTTPS is HTTP, and TLS bytes.
fn protocol(declared: Protocol, entry: Option<&Ingress>, tls: &Secured) -> Protocol {
    let written = entry.map_or(Protocol::Auto, |entry| entry.port.protocol);
    match (written, tls) {
        (Protocol::Auto, _) => declared,
        (Protocol::Tls, Secured::With(_)) => Protocol::Auto,
        (known, _) => known,
    }
}

fn at(registration: &Registration, port: u16, entry: Option<&Ingress>) -> At {
    let loopback = |port| At::Ip(SocketAddr::from(([127, 0, 0, 1], port)));
    match entry.map(|entry| &entry.endpoint) {
        None | Some(Program::Same) => loopback(port),
        Some(Program::Loopback(address)) => At::Ip(*address),
        Some(Program::Unix(path)) => At::Unix(path.clone()),
        // The workload's own address: the one that its callers dial.
        Some(Program::Instance(to)) => {
            let served = registration.ports.iter().find(|served| served.port == port);
            let dialled = served.and_then(|served| served.inbound_address.parse().ok());
            let ip = dialled.map(|address: SocketAddr| address.ip());
            match ip.filter(|ip: &IpAddr| !ip.is_unspecified()) {
                Some(ip) => At::Ip(SocketAddr::new(ip, *to)),
                None => loopback(*to),
            }
        }
    }
}

/// TLS of an entry, which is for callers from outside the mesh: where the port asks for mesh identities, it has none.
fn secured(
    view: &View<'_>,
    registration: &Registration,
    mode: MtlsMode,
    entry: Option<&Ingress>,
) -> Secured {
    let Some(settings) = entry.and_then(|entry| entry.tls.as_deref()) else {
        return Secured::No;
    };
    if mode != MtlsMode::Disable {
        return Secured::No;
    }
    let of = |name: &str, roots| Credential {
        namespace: registration.namespace.clone(),
        name: name.to_owned(),
        roots,
    };
    let named = settings.certificates.iter().filter_map(|one| match one {
        Certificate::Secret(name) => Some(of(name, false)),
        Certificate::Files { .. } => None,
    });
    let certificates: Vec<Credential> = named.collect();
    let roots = match &settings.roots {
        _ if !settings.mode.asks() => None,
        Some(Roots::Secret(name)) => Some(of(name, true)),
        Some(Roots::File(_)) => None,
        None => certificates.first().map(|one| of(&one.name, true)),
    };
    let mut all = certificates.iter().chain(&roots);
    if all.any(|credential| credential::check(view, credential).is_err()) {
        return Secured::Unusable;
    }
    Secured::With(Box::new(Own {
        settings: settings.clone(),
        certificates,
        roots,
    }))
}

/// Limits of connections to the program.
fn pool(
    view: &View<'_>,
    registration: &Registration,
    sidecar: Option<&Sidecar>,
    port: u16,
) -> ConnectionPool {
    if let Some(own) = sidecar.and_then(|sidecar| sidecar.pool_at(port)) {
        return own.clone();
    }
    if registration.service.is_empty() {
        return ConnectionPool::default();
    }
    let host = Host::of_service(&registration.service, &registration.namespace);
    let namespace = &registration.namespace;
    let world = view.read(Read::Rules(host.clone()));
    let rule = world.rule_for(&host, namespace, namespace, &registration.labels);
    let Some(rule) = rule.and_then(|object| object.destination_rule()) else {
        return ConnectionPool::default();
    };
    let number = match rule.policy.ports.as_slice() {
        [] => port,
        _ => service_port(view, registration, &host, port).unwrap_or(port),
    };
    let policy = rule.effective(None, number);
    policy.connection_pool.unwrap_or_default()
}

/// The service's port that leads to a port of the program.
fn service_port(
    view: &View<'_>,
    registration: &Registration,
    host: &Host,
    port: u16,
) -> Option<u16> {
    let served = registration
        .ports
        .iter()
        .find(|served| served.port == port)?;
    let ports = view
        .read(Read::Endpoints(host.clone()))
        .endpoints
        .get(host)?;
    let leads = |address: &str| address == served.inbound_address;
    ports
        .iter()
        .find(|(_, all)| all.iter().any(|endpoint| leads(&endpoint.address)))
        .map(|(number, _)| *number)
}

/// What is asked of callers of a port, and whether it is asked again of calls under way: the nearest PeerAuthentication
/// that says something. None at all leaves the door open to both, as in Istio; a mesh starts with a STRICT one in the
/// root namespace.
fn asked(view: &View<'_>, registration: &Registration, port: u16) -> (MtlsMode, bool) {
    let objects = |namespace: &str| {
        let read = Read::PeerAuthentications(namespace.to_owned());
        view.read(read)
            .peer_authentications
            .get(namespace)
            .map_or(&[][..], |all| all.as_slice())
            .iter()
    };
    // A data class makes it stricter, whatever else is said.
    let mut own = objects(&registration.namespace);
    let whole = own.any(|object| object.kind == Kind::Namespace);
    let encrypted = whole || DataClass::of(&registration.labels).wants_encryption();
    let of = |namespace: &str| {
        let all = objects(namespace);
        all.filter_map(|object| object.peer_authentication())
    };
    let own: Vec<&PeerAuthentication> = of(&registration.namespace).collect();
    let root: Vec<&PeerAuthentication> = of(ROOT_NAMESPACE).collect();
    let selected = own
        .iter()
        .find(|policy| policy.selects_workload(&registration.labels));
    let wide = |policy: &&&PeerAuthentication| policy.selector.is_none();
    let nearest = [selected, own.iter().find(wide), root.iter().find(wide)];
    let nearest = nearest.into_iter().flatten();
    let at_port = selected.and_then(|policy| policy.ports.get(&port).copied().flatten());
    let mode = at_port.or_else(|| nearest.clone().find_map(|policy| policy.mode));
    let closes = nearest.clone().find_map(|policy| policy.closes);
    let mode = if encrypted {
        MtlsMode::Strict
    } else {
        mode.unwrap_or(MtlsMode::Permissive)
    };
    (mode, closes.unwrap_or(false))
}
