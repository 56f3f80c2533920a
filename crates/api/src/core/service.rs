//! Service: a name with ports, and by its selector the workloads that serve it.

use naka_types::labels::Labels;
use naka_types::protocol::Protocol;
use std::net::IpAddr;

mod build;
pub(crate) mod fields;

pub(crate) use build::build;

/// The sound part of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Labels of the workloads that serve it; empty = none by labels.
    pub selector: Labels,
    /// Ports; those with an error are absent.
    pub ports: Vec<ServicePort>,
    /// Where the gateway of a network is reached from others, if it is one.
    pub external_ips: Vec<IpAddr>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Place in the user's list.
    pub index: usize,
    /// Name, empty if none.
    pub name: String,
    /// Port callers use.
    pub port: u16,
    /// Port of the workload.
    pub target: TargetPort,
    /// From `appProtocol`, else the name's prefix.
    pub protocol: Protocol,
}

/// Port of the workload behind a service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// By number; the service port itself when nothing is written.
    Number(u16),
    /// By the name the workload gave its port.
    Name(String),
}

impl Service {
    /// The port of that number.
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.port == number)
    }
}
