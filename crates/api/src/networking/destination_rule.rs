//! DestinationRule: how a destination is called, and its subsets.
//!
//! Blocks of a subset replace the parent's block of the same name as a whole; a port's settings replace all blocks of the
//! policy they stand in, those they do not mention too. That is Istio's rule; [`DestinationRule::effective`] is the one
//! place that knows it.

use super::export::Export;
use naka_types::host::Host;
use naka_types::labels::Labels;
use std::time::Duration;

pub(crate) mod aliases;
pub mod balancer;
pub(crate) mod build;
pub(crate) mod fields;
pub(crate) mod guard;
mod tls;
mod tunnel;

pub use balancer::LoadBalancer;
pub(crate) use build::build;
pub use tls::{ClientTls, TlsMode};
pub use tunnel::Tunnel;

/// The sound part of a DestinationRule.
#[derive(Debug, Clone, PartialEq)]
pub struct DestinationRule {
    /// Full host or wildcard.
    pub host: Host,
    /// For the whole host.
    pub policy: TrafficPolicy,
    /// Named parts of the host.
    pub subsets: Vec<Subset>,
    /// Whose callers it holds for.
    pub export: Export,
    /// Labels of the callers it holds for; `None` = all.
    pub selector: Option<Labels>,
}

/// A named part of a host.
#[derive(Debug, Clone, PartialEq)]
pub struct Subset {
    /// Place in the user's list.
    pub index: usize,
    /// Name.
    pub name: String,
    /// Labels its endpoints carry.
    pub labels: Labels,
    /// Blocks that replace the host's.
    pub policy: TrafficPolicy,
}

/// Blocks as written; `None` = not written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrafficPolicy {
    /// How an endpoint is picked.
    pub load_balancer: Option<Box<LoadBalancer>>,
    /// Limits.
    pub connection_pool: Option<ConnectionPool>,
    /// Ejection of failing endpoints.
    pub outlier_detection: Option<OutlierDetection>,
    /// How many requests may be retries.
    pub retry_budget: Option<RetryBudget>,
    /// The header that connections begin with.
    pub proxy_protocol: Option<ProxyHeader>,
    /// TLS towards the destination.
    pub tls: Option<Box<ClientTls>>,
    /// The destination is a proxy, through which connections lead on.
    pub tunnel: Option<Tunnel>,
    /// Settings of single ports, by port number.
    pub ports: Vec<(u16, TrafficPolicy)>,
}

/// Limits; `None` = not limited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectionPool {
    /// Connections to all endpoints of the destination (HTTP/1.1, TCP).
    pub max_connections: Option<u32>,
    /// Limit for a TCP connect; default 10 s.
    pub connect_timeout: Option<Duration>,
    /// Requests waiting for a connection.
    pub max_pending_requests: Option<u32>,
    /// Requests in flight.
    pub max_requests: Option<u32>,
    /// Requests per connection; 0 or none = no limit.
    pub max_requests_per_connection: Option<u32>,
    /// Retries in flight, for the whole destination.
    pub max_retries: Option<u32>,
    /// TCP keep-alive probes.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Longest life of a connection.
    pub max_connection_duration: Option<Duration>,
    /// Closes connections of bytes on which nothing moves; 0 = never.
    pub tcp_idle: Option<Duration>,
    /// Closes connections without a request; 0 = never.
    pub http_idle: Option<Duration>,
    /// Streams of one HTTP/2 connection.
    pub max_streams: Option<u32>,
    /// Which requests come first where they wait, from the annotation `naka.dev/priority`: a header, and its values.
    pub priority: Option<(String, Vec<String>)>,
    /// HTTP/2 pings.
    pub http2_keepalive: Option<Http2Keepalive>,
    /// Which HTTP the destination is spoken to in.
    pub http: HttpUpgrade,
}

/// `h2UpgradePolicy` and `useClientProtocol`, of which the latter wins where both are written, as in Istio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HttpUpgrade {
    /// What the port declares; Istio's mesh-wide default is the same.
    #[default]
    Declared,
    /// HTTP/2 whatever the caller speaks.
    Http2,
    /// What the caller speaks.
    Client,
}

/// TCP keep-alive; `None` = the system's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpKeepalive {
    /// Unanswered probes.
    pub probes: Option<u32>,
    /// Silence before the first, in seconds.
    pub time: Option<u32>,
    /// Between two, in seconds.
    pub interval: Option<u32>,
}

/// HTTP/2 pings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Keepalive {
    /// Between two.
    pub interval: Duration,
    /// Longest wait for the answer.
    pub timeout: Duration,
}

/// How many requests may be retries.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RetryBudget {
    /// Percent of the requests.
    pub percent: Option<f64>,
    /// How long a request counts after it began.
    pub interval: Option<Duration>,
    /// Retries that are always allowed.
    pub least: Option<u32>,
}

/// Version of a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ProxyHeader {
    /// A line of text.
    #[default]
    V1,
    /// Binary.
    V2,
}

/// Ejection of failing endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct OutlierDetection {
    /// Errors of 5xx kind in a row; default 5; 0 = off.
    pub consecutive_5xx: Option<u32>,
    /// 502, 503, 504 in a row; default off.
    pub consecutive_gateway: Option<u32>,
    /// Local errors (connect failure, reset) in a row.
    pub consecutive_local: Option<u32>,
    /// Whether local errors count apart.
    pub split_local: bool,
    /// Time between sweeps; default 10 s.
    pub interval: Option<Duration>,
    /// Shortest ejection; default 30 s.
    pub base_ejection: Option<Duration>,
    /// Largest ejected share in percent; default 10.
    pub max_ejection_percent: Option<u32>,
    /// Below this healthy share in percent all endpoints are called; default 0.
    pub min_health_percent: Option<u32>,
    /// Share of failures in an interval, in percent, that ejects; default and 0 = off.
    pub failure_percentage: Option<u32>,
    /// Statuses that are errors, instead of 5xx.
    pub statuses: Vec<u16>,
}

impl DestinationRule {
    /// All TLS blocks that are written, of the host, its ports and its subsets.
    pub fn all_tls(&self) -> impl Iterator<Item = &ClientTls> {
        let subsets = self.subsets.iter().map(|subset| &subset.policy);
        let policies = std::iter::once(&self.policy).chain(subsets);
        policies.flat_map(|policy| {
            let ports = policy.ports.iter().map(|(_, port)| port);
            std::iter::once(policy)
                .chain(ports)
                .filter_map(|policy| policy.tls.as_deref())
        })
    }

    /// The field with the TLS that holds for a port of a subset.
    #[must_use]
    pub fn tls_field(&self, subset: Option<&str>, port: u16) -> String {
        let host = "spec.trafficPolicy";
        let own = subset.and_then(|name| self.subset(name));
        let at = |subset: &Subset| format!("spec.subsets[{}].trafficPolicy", subset.index);
        match own {
            Some(own) if own.policy.port(port).is_some() => {
                format!("{}.portLevelSettings", at(own))
            }
            Some(own) if own.policy.tls.is_some() => format!("{}.tls", at(own)),
            _ if self.policy.port(port).is_some() => format!("{host}.portLevelSettings"),
            _ => format!("{host}.tls"),
        }
    }

    /// The subset of that name.
    #[must_use]
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().find(|subset| subset.name == name)
    }

    /// What holds for a port of a subset (`None` = the whole host), as in Istio: the port's settings are the whole policy
    /// of host or subset where there are some; then the subset's blocks replace the host's.
    ///
    /// What port settings have no word for (retry budget, PROXY header) comes from the host also where a subset has
    /// settings for the port, and from nobody where the host has. A tunnel is not of single ports: it stays.
    #[must_use]
    pub fn effective(&self, subset: Option<&str>, port: u16) -> TrafficPolicy {
        let host = self.policy.port(port).unwrap_or(&self.policy);
        let Some(subset) = subset.and_then(|name| self.subset(name)) else {
            return TrafficPolicy {
                tunnel: self.policy.tunnel.clone(),
                ports: Vec::new(),
                ..host.clone()
            };
        };
        let subset = &subset.policy;
        let of_port = subset.port(port);
        let own = of_port.unwrap_or(subset);
        // Blocks that port settings leave out have their defaults.
        let below = host.clone();
        let inherited = match of_port {
            None => below,
            Some(_) => TrafficPolicy {
                retry_budget: below.retry_budget,
                proxy_protocol: below.proxy_protocol,
                ..TrafficPolicy::default()
            },
        };
        TrafficPolicy {
            load_balancer: own.load_balancer.clone().or(inherited.load_balancer),
            connection_pool: own.connection_pool.clone().or(inherited.connection_pool),
            outlier_detection: own
                .outlier_detection
                .clone()
                .or(inherited.outlier_detection),
            retry_budget: own.retry_budget.or(inherited.retry_budget),
            proxy_protocol: own.proxy_protocol.or(inherited.proxy_protocol),
            tls: own.tls.clone().or(inherited.tls),
            tunnel: subset.tunnel.clone().or_else(|| self.policy.tunnel.clone()),
            ports: Vec::new(),
        }
    }
}

impl TrafficPolicy {
    /// Port-level settings of a port.
    #[must_use]
    pub fn port(&self, port: u16) -> Option<&Self> {
        self.ports
            .iter()
            .find(|(number, _)| *number == port)
            .map(|(_, policy)| policy)
    }
}

#[cfg(test)]
mod tests;
