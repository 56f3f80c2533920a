//! Gateway: which ports and hosts an ingress or egress proxy serves.
//!
//! A server whose TLS cannot be carried out as written is left out, because serving its hosts without it would let
//! through what the user wanted encrypted.

use naka_types::host::Host;
use naka_types::labels::Labels;
use std::net::IpAddr;

mod build;
pub(crate) mod fields;
mod tls;

pub(crate) use build::build;
pub(crate) use tls::build as server_tls;
pub use tls::{Certificate, Roots, ServerTls, TlsMode, TlsVersion};

/// The sound part of a Gateway. May have no server at all: then it serves nothing, and references to it resolve.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    /// Labels of the proxies that serve it; empty = every gateway proxy.
    pub selector: Labels,
    /// Servers in order.
    pub servers: Vec<Server>,
}

/// One port with its hosts.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Place in the user's list.
    pub index: usize,
    /// `name`, if any.
    pub name: Option<String>,
    /// Port the proxy listens on.
    pub port: u16,
    /// Name of the port.
    pub port_name: String,
    /// What callers speak.
    pub protocol: ServerProtocol,
    /// Whether callers may speak gRPC-Web, to be made gRPC.
    pub grpc_web: bool,
    /// Address of the listener, where it is not every one.
    pub bind: Option<IpAddr>,
    /// Hosts served.
    pub hosts: Vec<ServerHost>,
    /// TLS; always there for HTTPS and TLS, never for the others.
    pub tls: Option<ServerTls>,
    /// Requests in plaintext are sent to https.
    pub https_redirect: bool,
}

/// What callers of a server speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerProtocol {
    /// HTTP of any version in plaintext, gRPC included.
    Http,
    /// HTTP inside TLS.
    Https,
    /// Anything inside TLS.
    Tls,
    /// Anything.
    Tcp,
}

/// A host of a server: which VirtualServices may bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHost {
    /// Namespace whose VirtualServices may bind; `None` = any. `.` is resolved to the Gateway's own.
    pub namespace: Option<String>,
    /// Host or wildcard.
    pub host: Host,
}

impl ServerHost {
    /// Whether a VirtualService of `namespace` for `host` may bind: the narrower of two hosts that overlap.
    #[must_use]
    pub fn admits(&self, namespace: &str, host: &Host) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
            && overlap(self.host.as_str(), host.as_str())
    }
}

/// Whether two hosts, each possibly a wildcard, have a name in common.
#[must_use]
pub fn overlap(a: &str, b: &str) -> bool {
    let tail = |pattern: &str| pattern.strip_prefix('*').map(str::to_owned);
    match (tail(a), tail(b)) {
        (None, None) => a == b,
        (Some(suffix), None) => b.ends_with(&suffix),
        (None, Some(suffix)) => a.ends_with(&suffix),
        (Some(x), Some(y)) => x.ends_with(&y) || y.ends_with(&x),
    }
}
