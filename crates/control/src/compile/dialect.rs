//! Who a configuration is for: Naka's own proxies, a stock Envoy, or a gRPC client without a proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Kind of client, which decides how the same world is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Dialect {
    /// Naka: hosts on demand, own types.
    #[default]
    Naka,
    /// Envoy: everything visible, with what Envoy's defaults would get wrong written out.
    Envoy,
    /// gRPC: only what is asked for by name.
    Grpc,
}

impl Dialect {
    /// Its name in status.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Naka => "naka",
            Self::Envoy => "envoy",
            Self::Grpc => "grpc",
        }
    }

    /// The dialect of a node: our own proxies name capabilities, the others are known by their user agent.
    #[must_use]
    pub fn of(capabilities: &[String], user_agent: &str) -> Self {
        if !capabilities.is_empty() {
            Self::Naka
        } else if user_agent.starts_with("gRPC") {
            Self::Grpc
        } else if user_agent == "envoy" {
            Self::Envoy
        } else {
            Self::Naka
        }
    }
}

/// Addresses an Envoy's agent chose for its listeners.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Binds {
    /// The forward proxy for the program, in proxy mode.
    pub http_proxy: Option<SocketAddr>,
    /// Ports that lead to one service each.
    pub upstreams: Vec<Upstream>,
    /// Where a gateway's ports are bound really.
    pub gateway_ports: BTreeMap<u16, SocketAddr>,
}

/// `naka run --upstream`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Upstream {
    /// Where the program finds it.
    pub bind: SocketAddr,
    /// Host, possibly short.
    pub host: String,
    /// Service port.
    pub port: u16,
}

impl Upstream {
    /// Name of its listener and its routes.
    #[must_use]
    pub fn listener(&self) -> String {
        format!("{}{}", super::envoy::UPSTREAM, self.bind)
    }
}

#[cfg(test)]
mod tests {
    use super::Dialect;

    #[test]
    fn capabilities_come_before_the_user_agent() {
        let own = ["closure".to_owned()];
        for (capabilities, agent, wanted) in [
            (&own[..], "envoy", Dialect::Naka),
            (&[], "envoy", Dialect::Envoy),
            (&[], "gRPC Go", Dialect::Grpc),
            (&[], "gRPC C-core linux", Dialect::Grpc),
            (&[], "naka", Dialect::Naka),
            (&[], "", Dialect::Naka),
        ] {
            assert_eq!(Dialect::of(capabilities, agent), wanted, "{agent}");
        }
    }
}
