//! `spec.tcp` and `spec.tls`: where connections go whose bytes are not looked into.
//!
//! A route of `tls` is decided by the server name that the caller sends in the clear and needs one; everything else of
//! the two is the same, so they are one type.

use super::{GatewayRef, Weighted};
use naka_types::cidr::Cidr;
use naka_types::host::Host;
use naka_types::labels::Labels;

/// One entry of `spec.tcp` or `spec.tls`.
#[derive(Debug, Clone, PartialEq)]
pub struct BytesRoute {
    /// Place in the user's list.
    pub index: usize,
    /// Whether it stands in `spec.tls`.
    pub tls: bool,
    /// Alternatives; empty = every connection.
    pub matches: Vec<BytesMatch>,
    /// Destinations by weight; never empty.
    pub destinations: Vec<Weighted>,
}

impl BytesRoute {
    /// Its path in the object.
    #[must_use]
    pub fn path(&self) -> String {
        let list = if self.tls { "tls" } else { "tcp" };
        format!("spec.{list}[{}]", self.index)
    }
}

/// Conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BytesMatch {
    /// Server names, exact or `*.suffix`; empty only in `spec.tcp`.
    pub sni_hosts: Vec<Host>,
    /// Addresses called.
    pub destinations: Vec<Cidr>,
    /// Port called.
    pub port: Option<u16>,
    /// Addresses of callers.
    pub sources: Vec<Cidr>,
    /// Labels of the caller.
    pub source_labels: Labels,
    /// Namespace of the caller.
    pub source_namespace: Option<String>,
    /// Where it applies, if not wherever the object does.
    pub gateways: Vec<GatewayRef>,
}
