//! A gateway's port: filter chains, and which of them a connection belongs to.
//!
//! The choice is Envoy's, so that a Gateway object means the same at both: criterion by criterion the chains with the
//! most specific match stay and the others are out for good, in the order local address, server name, TLS or not,
//! address of the peer that connected, address of the caller. Who fits no chain is nobody's caller and is refused.
//!
//! Not here: keys and certificates; a chain only says how its connections are secured.

use super::{Access, Hosts, VirtualHost};
use crate::runtime::{Gate, PortLimits};
use naka_types::cidr::Cidr;
use std::net::IpAddr;
use std::sync::Arc;

/// A port with its chains.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Edge {
    /// Port of the Gateway object.
    pub port: u16,
    /// In the order of their names, which differ.
    chains: Vec<Arc<Chain>>,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Limits of its connections, with what holds them.
    pub limits: Option<(PortLimits, Arc<Gate>)>,
}

impl Edge {
    /// A port; the first of several chains of one name counts.
    #[must_use]
    pub fn new(port: u16, mut chains: Vec<Arc<Chain>>) -> Self {
        chains.sort_by(|a, b| a.name.cmp(&b.name));
        chains.dedup_by(|later, first| later.name == first.name);
        Self {
            port,
            chains,
            ..Self::default()
        }
    }

    /// The chains, in the order of their names.
    #[must_use]
    pub fn chains(&self) -> &[Arc<Chain>] {
        &self.chains
    }

    /// Whether the first bytes decide, so that they are to be awaited.
    #[must_use]
    pub fn looks_at_tls(&self) -> bool {
        self.chains
            .iter()
            .any(|chain| chain.wants.tls == Some(true))
    }

    /// The chain of that name.
    #[must_use]
    pub fn chain(&self, name: &str) -> Option<&Arc<Chain>> {
        let found = self
            .chains
            .binary_search_by(|chain| (*chain.name).cmp(name));
        self.chains.get(found.ok()?)
    }

    /// Whether a connection of this address may belong to any chain: who else sends a PROXY header is not believed.
    #[must_use]
    pub fn trusts(&self, direct: IpAddr) -> bool {
        let mut all = self.chains.iter();
        all.any(|chain| range(&chain.wants.direct, direct).is_some())
    }

    /// The chain that a connection belongs to.
    #[must_use]
    pub fn choose(&self, met: &Met<'_>) -> Option<&Arc<Chain>> {
        let mut left: Vec<&Arc<Chain>> = self.chains.iter().collect();
        best(&mut left, |wants| range(&wants.local, met.local));
        best(&mut left, |wants| {
            name(&wants.server_names, met.server_name)
        });
        best(&mut left, |wants| match wants.tls {
            None => Some(0),
            Some(tls) => (tls == met.tls).then_some(1),
        });
        best(&mut left, |wants| range(&wants.direct, met.direct));
        best(&mut left, |wants| range(&wants.remote, met.remote));
        left.first().copied()
    }
}

/// Keeps the chains with the best fit; those without any are out.
fn best(left: &mut Vec<&Arc<Chain>>, fit: impl Fn(&Wants) -> Option<usize>) {
    let most = left.iter().filter_map(|chain| fit(&chain.wants)).max();
    left.retain(|chain| most.is_some() && fit(&chain.wants) == most);
}

fn range(ranges: &[Cidr], address: IpAddr) -> Option<usize> {
    if ranges.is_empty() {
        return Some(0);
    }
    let fitting = ranges.iter().filter(|range| range.contains(address));
    fitting.map(|range| usize::from(range.length()) + 1).max()
}

fn name(names: &[Arc<str>], met: Option<&str>) -> Option<usize> {
    if names.is_empty() {
        return Some(0);
    }
    let met = met?;
    let fit = |name: &Arc<str>| match name.strip_prefix('*') {
        None => (**name == *met).then_some(usize::MAX),
        Some(suffix) => {
            (met.len() > suffix.len() && met.ends_with(suffix)).then_some(suffix.len() + 1)
        }
    };
    names.iter().filter_map(fit).max()
}

/// What is known of a connection before a chain is chosen.
#[derive(Debug, Clone, Copy)]
pub struct Met<'a> {
    /// Whether it begins with a TLS client hello.
    pub tls: bool,
    /// Server name of that, lower case.
    pub server_name: Option<&'a str>,
    /// Address it came to.
    pub local: IpAddr,
    /// Address it came from.
    pub direct: IpAddr,
    /// Address of the caller: the same, unless a PROXY header named another.
    pub remote: IpAddr,
}

/// What a chain asks of a connection; empty = anything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wants {
    /// TLS, or none.
    pub tls: Option<bool>,
    /// Server names: exact or `*.suffix`.
    pub server_names: Box<[Arc<str>]>,
    /// Addresses of the listener.
    pub local: Box<[Cidr]>,
    /// Addresses that may connect.
    pub direct: Box<[Cidr]>,
    /// Addresses of callers.
    pub remote: Box<[Cidr]>,
}

/// How connections of a chain are secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Not by this proxy: plaintext, or TLS that passes through.
    None,
    /// TLS with a certificate for strangers.
    Served,
    /// TLS of the mesh: callers must be of it.
    Mesh,
}

/// What a chain does with its connections.
#[derive(Debug, Clone, PartialEq)]
pub enum Serves {
    /// HTTP requests, by host.
    Http(Hosts),
    /// Bytes, by the one route of this virtual host.
    Bytes(Arc<VirtualHost>),
    /// Bytes to the cluster that the server name itself names, `outbound_.<port>_.<subset>_.<host>`.
    Named,
}

/// A filter chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    /// Name.
    pub name: Arc<str>,
    /// Which connections are its own.
    pub wants: Wants,
    /// How they are secured.
    pub security: Security,
    /// Who may use it, and for what.
    pub access: Option<Arc<Access>>,
    /// What becomes of them.
    pub serves: Serves,
    /// Whether gRPC-Web is made gRPC.
    pub grpc_web: bool,
    /// Name that requests are counted under besides.
    pub server: Option<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(name: &str, tls: Option<bool>, names: &[&str], remote: &[&str]) -> Arc<Chain> {
        let ranges = |all: &[&str]| all.iter().map(|one| Cidr::parse(one).unwrap()).collect();
        Arc::new(Chain {
            name: name.into(),
            wants: Wants {
                tls,
                server_names: names.iter().map(|name| Arc::from(*name)).collect(),
                remote: ranges(remote),
                ..Wants::default()
            },
            security: Security::None,
            access: None,
            serves: Serves::Named,
            grpc_web: false,
            server: None,
        })
    }

    fn chosen(edge: &Edge, tls: bool, name: Option<&str>, remote: &str) -> Option<String> {
        let here = IpAddr::from([127, 0, 0, 1]);
        let met = Met {
            tls,
            server_name: name,
            local: here,
            direct: here,
            remote: remote.parse().unwrap(),
        };
        edge.choose(&met).map(|chain| chain.name.to_string())
    }

    #[test]
    fn the_most_specific_chain_takes_a_connection() {
        let edge = Edge::new(
            443,
            vec![
                chain("plain", Some(false), &[], &[]),
                chain("any", Some(true), &[], &[]),
                chain("wide", Some(true), &["*.example.com"], &[]),
                chain("deep", Some(true), &["*.a.example.com"], &[]),
                chain("exact", Some(true), &["x.example.com"], &[]),
                chain("inside", Some(true), &["x.example.com"], &["10.0.0.0/8"]),
                chain("one", Some(true), &["x.example.com"], &["10.1.0.0/16"]),
            ],
        );
        for (tls, name, remote, expect) in [
            (false, None, "192.0.2.1", Some("plain")),
            (true, None, "192.0.2.1", Some("any")),
            (true, Some("other.org"), "192.0.2.1", Some("any")),
            (true, Some("example.com"), "192.0.2.1", Some("any")),
            (true, Some("b.example.com"), "192.0.2.1", Some("wide")),
            (true, Some("b.a.example.com"), "192.0.2.1", Some("deep")),
            (true, Some("x.example.com"), "192.0.2.1", Some("exact")),
            (true, Some("x.example.com"), "10.9.0.1", Some("inside")),
            (true, Some("x.example.com"), "10.1.0.1", Some("one")),
        ] {
            let got = chosen(&edge, tls, name, remote);
            assert_eq!(got.as_deref(), expect, "{tls} {name:?} {remote}");
        }
    }

    #[test]
    fn who_fits_no_chain_is_refused_and_a_better_name_is_not_given_up_for_an_address() {
        let edge = Edge::new(
            443,
            vec![
                chain("wide", Some(true), &["*.example.com"], &[]),
                chain("inside", Some(true), &["x.example.com"], &["10.0.0.0/8"]),
            ],
        );
        assert_eq!(chosen(&edge, false, None, "10.0.0.1"), None);
        assert_eq!(chosen(&edge, true, None, "10.0.0.1"), None);
        // As in Envoy: the name was decided, so the wildcard is out.
        assert_eq!(
            chosen(&edge, true, Some("x.example.com"), "192.0.2.1"),
            None
        );
        assert_eq!(
            chosen(&edge, true, Some("y.example.com"), "192.0.2.1").as_deref(),
            Some("wide")
        );
        assert!(edge.looks_at_tls());
        assert!(!Edge::default().looks_at_tls());
    }
}
