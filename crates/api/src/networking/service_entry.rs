//! ServiceEntry: hosts that no Service declares, inside the mesh or outside.

use super::export::Export;
use naka_types::host::Host;
use naka_types::labels::Labels;
use naka_types::protocol::Protocol;
use std::collections::BTreeMap;
use std::net::IpAddr;

mod build;
pub(crate) mod fields;

pub(crate) use build::build;

/// The sound part of a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Hosts it stands for; patterns such as `*.example.com` too.
    pub hosts: Vec<Host>,
    /// Addresses the hosts are called by.
    pub addresses: Vec<Block>,
    /// Ports.
    pub ports: Vec<EntryPort>,
    /// Whether its endpoints are workloads of the mesh.
    pub internal: bool,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Endpoints as written.
    pub endpoints: Vec<EntryEndpoint>,
    /// Labels of the workloads that are its endpoints.
    pub selector: Option<Labels>,
    /// Who sees it.
    pub export: Export,
    /// Names of which its endpoints' certificates must carry one; empty = its own host.
    pub subject_alt_names: Vec<String>,
}

/// How endpoints are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Resolution {
    /// Where the caller was going.
    #[default]
    None,
    /// As written.
    Static,
    /// By name, all addresses.
    Dns,
    /// By name, one address at a time.
    DnsRoundRobin,
    /// By the name that the caller says.
    DynamicDns,
}

/// A port of the hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPort {
    /// Number callers use.
    pub number: u16,
    /// Name.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the endpoints, unless they say another.
    pub target: Option<u16>,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryEndpoint {
    /// IP address or DNS name.
    pub address: String,
    /// Port by port name.
    pub ports: BTreeMap<String, u16>,
    /// Labels that subsets select by; locality and network are among them.
    pub labels: Labels,
    /// Share; default 1.
    pub weight: Option<u32>,
    /// Identity expected there.
    pub service_account: Option<String>,
}

/// Addresses with a common beginning; a single address is a block of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// First address.
    pub address: IpAddr,
    /// Bits in common.
    pub bits: u8,
}

impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl Block {
    /// The address, if it is only one.
    #[must_use]
    pub fn single(&self) -> Option<IpAddr> {
        let most = if self.address.is_ipv4() { 32 } else { 128 };
        (self.bits == most).then_some(self.address)
    }

    /// Reads `192.0.2.1` or `192.0.2.0/24`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most)?,
        };
        Some(Self { address, bits })
    }
}
