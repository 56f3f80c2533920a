//! Clusters and their endpoints.

use super::backend::Backend;
use super::balance::{Balance, Group, Policy};
use super::keeping::{Budget, Keeping, Priority};
use super::{OutsideTls, ProxyHeader, Tunnel};
use crate::outlier::Outlier;
use crate::pick::Plan;
use crate::runtime::{ClusterRuntime, EndpointState};
use naka_types::labels::Labels;
use naka_types::protocol::Protocol;
use naka_types::spiffe::SpiffeId;
use naka_types::workload::Ulid;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Number of a cluster, stable for the life of a proxy (see [`crate::runtime::Registry::id`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub u32);

impl ClusterId {
    /// As an index into tables by cluster.
    #[must_use]
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Limits of a cluster (DestinationRule `connectionPool`), over all workers of this proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open connections.
    pub connections: u32,
    /// Requests waiting for a connection.
    pub pending: u32,
    /// Requests under way.
    pub requests: u32,
    /// Retries under way; holds together with the retry budget, the smaller counts.
    pub retries: u32,
    /// Retry budget.
    pub budget: Budget,
}

impl Default for Limits {
    /// No limit, as Istio sets it.
    fn default() -> Self {
        Self {
            connections: u32::MAX,
            pending: u32::MAX,
            requests: u32::MAX,
            retries: u32::MAX,
            budget: Budget::default(),
        }
    }
}

/// Which HTTP a cluster is called with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2.
    Http2,
    /// The caller's version.
    SameAsCaller,
}

impl HttpVersion {
    /// What a declared protocol says of it.
    #[must_use]
    pub const fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => Self::Http2,
            Protocol::Auto => Self::SameAsCaller,
            Protocol::Http | Protocol::Tcp | Protocol::Tls => Self::Http1,
        }
    }
}

/// What mutual TLS with a cluster's endpoints must prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTls {
    /// Identities that may serve here; an empty list allows nobody.
    pub allowed: Arc<[SpiffeId]>,
    /// Server name sent.
    pub sni: Arc<str>,
    /// Whether endpoints without the mesh mark are spoken to like this, too.
    pub always: bool,
}

/// The service behind a cluster, for metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceMeta {
    /// Full host.
    pub host: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
}

/// What a cluster is, apart from its endpoints; shared by all versions of its endpoint set.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSpec {
    /// `outbound|<port>|<subset>|<host>` or `inbound|<port>||`.
    pub name: Arc<str>,
    /// Declared protocol.
    pub protocol: Protocol,
    /// How an endpoint is chosen.
    pub policy: Policy,
    /// What else decides which one.
    pub balance: Balance,
    /// Circuit limits.
    pub limits: Limits,
    /// Longest time until a connection stands.
    pub connect_timeout: Duration,
    /// HTTP version towards the endpoints.
    pub http: HttpVersion,
    /// For endpoints with the mesh mark.
    pub tls: Option<PeerTls>,
    /// TLS with a server outside the mesh; comes before [`Self::tls`].
    pub outside: Option<Arc<OutsideTls>>,
    /// What connections begin with, before TLS; they are then of one caller's connection each.
    pub proxy_header: Option<ProxyHeader>,
    /// Connections of bytes lead on through a proxy.
    pub tunnel: Option<Tunnel>,
    /// The caller says which name is called; there are no endpoints.
    pub by_caller: bool,
    /// Calls go on to the address that their connection was made to, where that is known.
    pub keeps_address: bool,
    /// Port that is called whichever one the caller says.
    pub port: Option<u16>,
    /// The one endpoint is a Unix socket at this path, whatever its address says.
    pub unix: Option<Arc<str>>,
    /// For metrics.
    pub service: ServiceMeta,
    /// How connections are kept.
    pub keeping: Keeping,
    /// Percentage of healthy endpoints below which all are called, healthy or not (`minHealthPercent`).
    pub panic_threshold: u32,
    /// Ejection of failing endpoints.
    pub outlier: Option<Box<Outlier>>,
    /// Which requests come first where they wait for a connection.
    pub priority: Option<Box<Priority>>,
    /// What a BackendPolicy adds.
    pub backend: Option<Box<Backend>>,
}

impl ClusterSpec {
    /// A cluster with Istio's defaults.
    #[must_use]
    pub fn new(name: &str, protocol: Protocol) -> Self {
        Self {
            name: name.into(),
            protocol,
            policy: Policy::default(),
            balance: Balance::default(),
            limits: Limits::default(),
            connect_timeout: Duration::from_secs(10),
            http: HttpVersion::of(protocol),
            tls: None,
            outside: None,
            proxy_header: None,
            tunnel: None,
            by_caller: false,
            keeps_address: false,
            port: None,
            unix: None,
            service: ServiceMeta::default(),
            keeping: Keeping::default(),
            panic_threshold: 0,
            outlier: None,
            priority: None,
            backend: None,
        }
    }
}

/// A destination with its current endpoints.
#[derive(Debug)]
pub struct Cluster {
    /// Number.
    pub id: ClusterId,
    /// Everything but the endpoints.
    pub spec: Arc<ClusterSpec>,
    /// All endpoints, also those that may not be picked now.
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// Counts that outlive this snapshot.
    pub runtime: Arc<ClusterRuntime>,
    /// Whether its endpoints are looked up by name and no answer has come yet.
    pub looking: bool,
    /// How they are grouped by place; the sizes add up to the number of endpoints.
    pub groups: Box<[Group]>,
    /// What may be picked while this proxy has barred none of them.
    pub(crate) plan: Plan,
    /// Tells this value apart from every other cluster of this process.
    pub(crate) version: u64,
}

static VERSIONS: AtomicU64 = AtomicU64::new(1);

impl Cluster {
    /// Makes a cluster whose endpoints are all equally near.
    #[must_use]
    pub fn new(
        id: ClusterId,
        spec: Arc<ClusterSpec>,
        endpoints: Vec<Arc<Endpoint>>,
        runtime: Arc<ClusterRuntime>,
    ) -> Self {
        let all = Group::whole(endpoints.len());
        Self::placed(id, spec, endpoints, vec![all], runtime)
    }

    /// Makes a cluster whose endpoints, in this order, stand in these groups, and works out which may be picked, and
    /// how often. Endpoints beyond the last group are never picked.
    #[must_use]
    pub fn placed(
        id: ClusterId,
        spec: Arc<ClusterSpec>,
        endpoints: Vec<Arc<Endpoint>>,
        groups: Vec<Group>,
        runtime: Arc<ClusterRuntime>,
    ) -> Self {
        Self {
            plan: Plan::of(&endpoints, &groups, &spec, None),
            id,
            spec,
            endpoints: endpoints.into(),
            runtime,
            looking: false,
            groups: groups.into(),
            version: VERSIONS.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.spec.name
    }
}

/// Whether an endpoint may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// Yes.
    #[default]
    Healthy,
    /// It is stopping: only while no healthy one exists.
    Draining,
    /// No.
    Unhealthy,
}

impl Health {
    /// Whether nothing speaks against calling it.
    #[must_use]
    pub fn is_good(self) -> bool {
        self == Self::Healthy
    }
}

/// Who serves at an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkloadMeta {
    /// Workload id, if it has one.
    pub id: Option<Ulid>,
    /// Workload name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// `app` for metrics.
    pub canonical_name: Arc<str>,
    /// `version` for metrics.
    pub canonical_revision: Arc<str>,
    /// Mesh cluster.
    pub cluster: Arc<str>,
    /// Labels.
    pub labels: Labels,
}

/// One address of a cluster.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// Share of calls; 0 is never picked.
    pub weight: u32,
    /// Whether it may be called.
    pub health: Health,
    /// Whether it speaks mutual TLS (the mesh mark).
    pub mtls: bool,
    /// Who serves.
    pub workload: Arc<WorkloadMeta>,
    /// Counts that outlive this snapshot.
    pub state: Arc<EndpointState>,
}
