//! Sidecar: what the proxies of some workloads may call, and what they serve.

use super::destination_rule::ConnectionPool;
use super::gateway::ServerTls;
use naka_types::host::Host;
use naka_types::labels::{Labels, selects};
use naka_types::protocol::Protocol;
use std::net::{IpAddr, SocketAddr};

mod build;
pub(crate) mod fields;

pub(crate) use build::build;

/// The sound part of a Sidecar.
#[derive(Debug, Clone, PartialEq)]
pub struct Sidecar {
    /// Labels of the workloads it holds for; `None` = all of the namespace.
    pub selector: Option<Labels>,
    /// Ports served otherwise than the workload declares them.
    pub ingress: Vec<Ingress>,
    /// What may be called; `None` = everything that is visible.
    pub egress: Option<Vec<Egress>>,
    /// Limits of connections to the program, where its port has none of its own.
    pub pool: Option<ConnectionPool>,
    /// Calls to hosts that the mesh does not know; `None` = allowed.
    pub outside: Option<Outside>,
}

/// A port of the program.
#[derive(Debug, Clone, PartialEq)]
pub struct Ingress {
    /// The port that callers mean.
    pub port: ListenerPort,
    /// Address to listen on, where the port is bound.
    pub bind: Option<IpAddr>,
    /// How connections come in.
    pub capture: Capture,
    /// Where the program listens.
    pub endpoint: Program,
    /// TLS with callers from outside the mesh, where the port takes no mesh identities.
    pub tls: Option<Box<ServerTls>>,
    /// Limits of connections to the program.
    pub pool: Option<ConnectionPool>,
}

/// `port` of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerPort {
    /// Number; 0 with a Unix socket.
    pub number: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Name.
    pub name: String,
}

/// `captureMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Capture {
    /// As the workload's traffic is captured.
    #[default]
    Default,
    /// By rules of the kernel.
    Rules,
    /// Not: the listener is bound, and the program calls it.
    None,
}

/// `defaultEndpoint`: where the program listens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Program {
    /// At the port that callers mean.
    #[default]
    Same,
    /// On loopback.
    Loopback(SocketAddr),
    /// At this port of the workload's own address.
    Instance(u16),
    /// At a Unix socket.
    Unix(String),
}

/// Hosts that may be called, at a port of their own or at all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// Place in the list.
    pub index: usize,
    /// The port; `None` = all that have no entry of their own.
    pub port: Option<ListenerPort>,
    /// Address to listen on.
    pub bind: Option<Bind>,
    /// How connections come in.
    pub capture: Capture,
    /// Hosts.
    pub hosts: Vec<EgressHost>,
}

/// Where a listener of calls is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// An address.
    Ip(IpAddr),
    /// A Unix socket; with `@` an abstract one.
    Unix(String),
}

/// A pattern of hosts that may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressHost {
    /// Namespace whose hosts are meant.
    pub namespace: Within,
    /// Host or pattern.
    pub host: Host,
}

/// Namespaces of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Within {
    /// Any.
    Any,
    /// None at all.
    Nowhere,
    /// This one; the object's own for `.`.
    Namespace(String),
}

/// `outboundTrafficPolicy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// Only hosts of the mesh may be called.
    pub registry_only: bool,
    /// Service that others are called by.
    pub proxy: Option<EgressProxy>,
}

/// `egressProxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressProxy {
    /// Service.
    pub host: Host,
    /// Its subset.
    pub subset: Option<String>,
    /// Its port.
    pub port: Option<u16>,
}

impl EgressHost {
    /// Whether a host of a namespace is meant.
    #[must_use]
    pub fn admits(&self, namespace: &str, host: &Host) -> bool {
        let within = match &self.namespace {
            Within::Any => true,
            Within::Nowhere => false,
            Within::Namespace(own) => own == namespace,
        };
        within
            && match self.host.as_str().strip_prefix('*') {
                None => self.host == *host,
                Some(suffix) => host.as_str().ends_with(suffix),
            }
    }
}

impl Sidecar {
    /// Whether it names workloads of these labels.
    #[must_use]
    pub fn selects_workload(&self, labels: &Labels) -> bool {
        let selector = self.selector.as_ref();
        selector.is_some_and(|selector| selects(selector, labels))
    }

    /// Whether a host of a namespace may be called at some port.
    #[must_use]
    pub fn admits(&self, namespace: &str, host: &Host) -> bool {
        let egress = self.egress.as_ref();
        egress.is_none_or(|all| all.iter().any(|one| one.admits(namespace, host)))
    }

    /// Whether a host of a namespace may be called at a port: where entries are for that port, they alone say so, with
    /// those of Unix sockets, which have no port.
    #[must_use]
    pub fn admits_at(&self, namespace: &str, host: &Host, port: u16) -> bool {
        let Some(all) = &self.egress else {
            return true;
        };
        let number = |one: &Egress| one.port.as_ref().map(|port| port.number);
        let own = all.iter().any(|one| number(one) == Some(port));
        let wanted = own.then_some(port);
        all.iter()
            .filter(|one| number(one) == wanted || number(one) == Some(0))
            .any(|one| one.admits(namespace, host))
    }

    /// The entry for a port of the program.
    #[must_use]
    pub fn ingress(&self, port: u16) -> Option<&Ingress> {
        self.ingress.iter().find(|one| one.port.number == port)
    }

    /// Limits of connections to a port of the program.
    #[must_use]
    pub fn pool_at(&self, port: u16) -> Option<&ConnectionPool> {
        let own = self.ingress(port).and_then(|one| one.pool.as_ref());
        own.or(self.pool.as_ref())
    }
}

impl Egress {
    /// Whether a host of a namespace may be called.
    #[must_use]
    pub fn admits(&self, namespace: &str, host: &Host) -> bool {
        self.hosts.iter().any(|one| one.admits(namespace, host))
    }
}
