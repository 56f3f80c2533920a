//! The whole configuration of a proxy at one moment, and how the next one is made from it.
//!
//! Virtual hosts are found by host, then port, without building a key. A service host is also found under its short
//! names (`payment` in the own namespace, `payment.shop`, `payment.shop.svc`). Wildcards come last, longest first.

use super::{Access, Chain, Cluster, ClusterId, Edge, RateLimit, Serves, VirtualHost};
use naka_types::host::Host;
use naka_types::labels::Labels;
use naka_types::protocol::Protocol;
use naka_types::revoked_token::RevokedTokens;
use naka_types::workload::Ulid;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What a declared port takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MtlsMode {
    /// Mesh identities only.
    Strict,
    /// Both.
    Permissive,
    /// Plaintext only.
    Disable,
}

/// A declared port of the workload's own program.
#[derive(Debug, Clone, PartialEq)]
pub struct Inbound {
    /// The program's port.
    pub port: u16,
    /// Declared protocol.
    pub protocol: Protocol,
    /// What it takes.
    pub mode: MtlsMode,
    /// Cluster `inbound|<port>||`.
    pub cluster: ClusterId,
    /// Name of that cluster.
    pub name: Arc<str>,
    /// Full host of the service, empty if none.
    pub service: Arc<str>,
    /// Who may call, and what.
    pub access: Option<Arc<Access>>,
    /// Tokens a request needs.
    pub limit: Option<Arc<RateLimit>>,
    /// Whether calls under way end when they would not be let in any more.
    pub closes: bool,
    /// Chain whose certificates are shown to callers from outside the mesh, where it takes plaintext only: they speak
    /// TLS then.
    pub tls: Option<Arc<str>>,
}

type ByHost = HashMap<Box<str>, Vec<(u16, Arc<VirtualHost>)>>;

/// Everything the request path reads; immutable.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    namespace: Arc<str>,
    vhosts: BTreeMap<Arc<str>, Arc<VirtualHost>>,
    by_host: ByHost,
    /// `.suffix` (or empty for `*`), longest first.
    wildcards: Vec<(Box<str>, u16, Arc<VirtualHost>)>,
    clusters: Vec<Option<Arc<Cluster>>>,
    inbound: BTreeMap<u16, Arc<Inbound>>,
    edges: BTreeMap<u16, Arc<Edge>>,
    peers: BTreeMap<Ulid, Arc<Labels>>,
    revoked_tokens: Arc<RevokedTokens>,
}

impl Snapshot {
    /// Tokens of users that are refused although their time is not over.
    #[must_use]
    pub fn revoked_tokens(&self) -> &RevokedTokens {
        &self.revoked_tokens
    }

    /// The labels that a workload was granted; `None`: its record is not held.
    #[must_use]
    pub fn granted(&self, workload: Ulid) -> Option<&Labels> {
        self.peers.get(&workload).map(|labels| &**labels)
    }

    /// The virtual host for a lower-case host and port.
    #[must_use]
    pub fn virtual_host(&self, host: &str, port: u16) -> Option<&Arc<VirtualHost>> {
        if let Some((_, found)) = self
            .by_host
            .get(host)
            .and_then(|ports| ports.iter().find(|(p, _)| *p == port))
        {
            return Some(found);
        }
        // A host equal to the suffix without its leading label does not match: `*.a.b` takes `x.a.b`, not `.a.b`.
        self.wildcards
            .iter()
            .find(|(suffix, p, _)| {
                *p == port && host.len() > suffix.len() && host.ends_with(&**suffix)
            })
            .map(|(.., found)| found)
    }

    /// A cluster by its number.
    #[must_use]
    pub fn cluster(&self, id: ClusterId) -> Option<&Arc<Cluster>> {
        self.clusters.get(id.index())?.as_ref()
    }

    /// A declared port of the own program.
    #[must_use]
    pub fn inbound(&self, port: u16) -> Option<&Arc<Inbound>> {
        self.inbound.get(&port)
    }

    /// All declared ports in order.
    pub fn inbounds(&self) -> impl Iterator<Item = &Arc<Inbound>> {
        self.inbound.values()
    }

    /// All virtual hosts: a sidecar's by name, a gateway's chain by chain.
    pub fn virtual_hosts(&self) -> impl Iterator<Item = &Arc<VirtualHost>> {
        let chains = self.edges.values().flat_map(|edge| edge.chains());
        let edges = chains.flat_map(|chain| match &chain.serves {
            Serves::Http(hosts) => hosts.all().collect(),
            Serves::Bytes(vhost) => vec![vhost],
            Serves::Named => Vec::new(),
        });
        self.vhosts.values().chain(edges)
    }

    /// A port of the gateway.
    #[must_use]
    pub fn edge(&self, port: u16) -> Option<&Arc<Edge>> {
        self.edges.get(&port)
    }

    /// All ports of the gateway in order.
    pub fn edges(&self) -> impl Iterator<Item = &Arc<Edge>> {
        self.edges.values()
    }

    /// A filter chain of a port of the gateway.
    #[must_use]
    pub fn chain(&self, port: u16, name: &str) -> Option<&Arc<Chain>> {
        self.edges.get(&port)?.chain(name)
    }

    /// All clusters by number.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.iter().flatten()
    }

    /// Namespace in which short names resolve.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Starts the next snapshot from this one.
    #[must_use]
    pub fn edit(&self) -> SnapshotBuilder {
        SnapshotBuilder {
            namespace: Arc::clone(&self.namespace),
            vhosts: self.vhosts.clone(),
            clusters: self.clusters.clone(),
            inbound: self.inbound.clone(),
            edges: self.edges.clone(),
            peers: self.peers.clone(),
            revoked_tokens: Arc::clone(&self.revoked_tokens),
        }
    }
}

/// Collects the parts of a snapshot.
#[derive(Debug, Clone, Default)]
pub struct SnapshotBuilder {
    namespace: Arc<str>,
    vhosts: BTreeMap<Arc<str>, Arc<VirtualHost>>,
    clusters: Vec<Option<Arc<Cluster>>>,
    inbound: BTreeMap<u16, Arc<Inbound>>,
    edges: BTreeMap<u16, Arc<Edge>>,
    peers: BTreeMap<Ulid, Arc<Labels>>,
    revoked_tokens: Arc<RevokedTokens>,
}

impl SnapshotBuilder {
    /// An empty one for a workload of this namespace.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.into(),
            ..Self::default()
        }
    }

    /// Puts a virtual host, replacing the one of the same name.
    pub fn put_virtual_host(&mut self, vhost: Arc<VirtualHost>) -> &mut Self {
        self.vhosts.insert(Arc::clone(&vhost.name), vhost);
        self
    }

    /// Takes a virtual host out.
    pub fn remove_virtual_host(&mut self, name: &str) -> &mut Self {
        self.vhosts.remove(name);
        self
    }

    /// Puts a cluster, replacing the one of the same number.
    pub fn put_cluster(&mut self, cluster: Arc<Cluster>) -> &mut Self {
        let index = cluster.id.index();
        if self.clusters.len() <= index {
            self.clusters.resize(index + 1, None);
        }
        self.clusters[index] = Some(cluster);
        self
    }

    /// Puts a declared port, replacing the one of the same number.
    pub fn put_inbound(&mut self, inbound: Arc<Inbound>) -> &mut Self {
        self.inbound.insert(inbound.port, inbound);
        self
    }

    /// Puts a port of the gateway, replacing the one of the same number.
    pub fn put_edge(&mut self, edge: Arc<Edge>) -> &mut Self {
        self.edges.insert(edge.port, edge);
        self
    }

    /// Puts the labels that a workload was granted.
    pub fn put_peer(&mut self, workload: Ulid, granted: Arc<Labels>) -> &mut Self {
        self.peers.insert(workload, granted);
        self
    }

    /// Puts the tokens that are refused although their time is not over.
    pub fn put_revoked_tokens(&mut self, tokens: Arc<RevokedTokens>) -> &mut Self {
        self.revoked_tokens = tokens;
        self
    }

    /// Indexes everything.
    #[must_use]
    pub fn build(self) -> Snapshot {
        let mut by_host = ByHost::new();
        let mut wildcards = Vec::new();
        for vhost in self.vhosts.values() {
            for domain in &vhost.domains {
                let Some(host) = host_of(domain, vhost.port) else {
                    continue;
                };
                if let Some(suffix) = host.strip_prefix('*') {
                    wildcards.push((Box::from(suffix), vhost.port, Arc::clone(vhost)));
                } else {
                    index(&mut by_host, host, vhost);
                }
            }
        }
        // Short names come after every full one, so that they never take a name that somebody declared.
        for vhost in self.vhosts.values() {
            for domain in &vhost.domains {
                let full = host_of(domain, vhost.port).and_then(|host| Host::parse(host).ok());
                if let Some((service, namespace)) = full.as_ref().and_then(Host::service) {
                    index(&mut by_host, &format!("{service}.{namespace}.svc"), vhost);
                    index(&mut by_host, &format!("{service}.{namespace}"), vhost);
                    if namespace == &*self.namespace {
                        index(&mut by_host, service, vhost);
                    }
                }
            }
        }
        wildcards.sort_by_key(|(suffix, ..): &(Box<str>, u16, _)| std::cmp::Reverse(suffix.len()));
        Snapshot {
            namespace: self.namespace,
            vhosts: self.vhosts,
            by_host,
            wildcards,
            clusters: self.clusters,
            inbound: self.inbound,
            edges: self.edges,
            peers: self.peers,
            revoked_tokens: self.revoked_tokens,
        }
    }
}

/// The first virtual host of a host and port keeps it.
fn index(by_host: &mut ByHost, host: &str, vhost: &Arc<VirtualHost>) {
    let ports = by_host
        .entry(host.to_ascii_lowercase().into_boxed_str())
        .or_default();
    if ports.iter().all(|(port, _)| *port != vhost.port) {
        ports.push((vhost.port, Arc::clone(vhost)));
    }
}

/// The host of a domain, `None` when the domain names another port.
fn host_of(domain: &str, port: u16) -> Option<&str> {
    let (host, given) = match domain.rsplit_once(':') {
        Some((host, digits)) if !host.is_empty() && !digits.contains(']') => (host, digits),
        _ => return Some(domain),
    };
    (given == "*" || given.parse() == Ok(port)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::{SnapshotBuilder, VirtualHost};
    use std::sync::Arc;

    fn vhost(name: &str, port: u16, domains: &[&str]) -> Arc<VirtualHost> {
        Arc::new(VirtualHost {
            name: name.into(),
            port,
            domains: domains.iter().map(|d| Arc::from(*d)).collect(),
            routes: Box::default(),
        })
    }

    #[test]
    fn hosts_are_found_by_every_name_and_wildcards_last() {
        let full = "payment.shop.svc.cluster.local";
        let mut builder = SnapshotBuilder::new("shop");
        builder
            .put_virtual_host(vhost("a", 80, &[full, &format!("{full}:80")]))
            .put_virtual_host(vhost("b", 80, &["*.example.com"]))
            .put_virtual_host(vhost("c", 80, &["*.a.example.com"]))
            .put_virtual_host(vhost("d", 81, &["*"]))
            .put_virtual_host(vhost("e", 80, &["pay.other.svc.cluster.local"]));
        let snapshot = builder.build();
        for (host, port, want) in [
            (full, 80, Some("a")),
            ("payment", 80, Some("a")),
            ("payment.shop", 80, Some("a")),
            ("payment.shop.svc", 80, Some("a")),
            ("payment", 8080, None),
            ("pay", 80, None),
            ("pay.other", 80, Some("e")),
            ("x.example.com", 80, Some("b")),
            ("x.a.example.com", 80, Some("c")),
            (".example.com", 80, None),
            ("example.com", 80, None),
            ("m", 80, None),
            ("anything", 81, Some("d")),
        ] {
            let found = snapshot.virtual_host(host, port).map(|v| &*v.name);
            assert_eq!(found, want, "{host}:{port}");
        }
        let mut next = snapshot.edit();
        next.remove_virtual_host("a");
        assert!(next.build().virtual_host("payment", 80).is_none());
    }

    #[test]
    fn a_short_name_never_takes_a_declared_one() {
        let mut builder = SnapshotBuilder::new("com");
        builder
            .put_virtual_host(vhost("a", 80, &["example.com.svc.cluster.local"]))
            .put_virtual_host(vhost("z", 80, &["example.com"]));
        let snapshot = builder.build();
        assert_eq!(
            &*snapshot.virtual_host("example.com", 80).unwrap().name,
            "z"
        );
        assert_eq!(&*snapshot.virtual_host("example", 80).unwrap().name, "a");
    }
}
