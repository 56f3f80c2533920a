//! What a proxy tells the control plane about itself: node id, metadata keys, capabilities.

use std::fmt;

/// Prefix of our own metadata, filters, annotations and labels.
pub const NAKA: &str = "naka.dev";
/// Key of our struct in the node metadata: `{workload_id, version, capabilities[]}`.
pub const NODE_METADATA: &str = "NAKA";
/// Capability: the control plane sends clusters and endpoints before the virtual host that refers to them.
pub const CAPABILITY_CLOSURE: &str = "closure";
/// Capability: acknowledges endpoints only after every worker has passed the new snapshot.
pub const CAPABILITY_DRAIN_ACK: &str = "drain-ack";
/// Capability: holds a filter of all host names visible to it.
pub const CAPABILITY_NAME_FILTER: &str = "name-filter";
/// Namespace of metadata under which a policy asks for labels of the verified caller.
pub const PEER_LABELS: &str = "naka.dev/peer-labels";
/// Capability: knows the labels of its verified callers, so policies may ask for them.
pub const CAPABILITY_PEER_LABELS: &str = "peer-labels";

/// Key of our own condition in a route's `typed_per_filter_config`.
pub const CONDITION: &str = "naka.dev/condition";
/// Name of what a connection was made to, where a route asks for it: Envoy's, for connections that were redirected.
pub const MADE_TO: &str = "envoy.filters.listener.original_dst.local_ip";

/// Key of our own rate limits: a filter of a port, and in a route's `typed_per_filter_config`.
pub const LIMIT: &str = "naka.dev/limit";

/// Name of our filter of trust models before a port. A proxy that does not know it does not serve the port.
pub const TRUST: &str = "naka.dev/trust";

/// Name of our filter of guards before a port. A proxy that does not know it does not serve the port.
pub const GUARD: &str = "naka.dev/guard";

/// Kind of proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Beside one workload.
    Sidecar,
    /// At the edge.
    Gateway,
}

/// `sidecar~<ip>~<workload>.<ns>~<ns>.svc.cluster.local`; a gateway's starts with `router`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId {
    /// Kind of proxy.
    pub role: Role,
    /// Address of the workload.
    pub ip: String,
    /// Workload name.
    pub workload: String,
    /// Namespace.
    pub namespace: String,
}

impl NodeId {
    /// Reads a node id; `None` when it has another shape.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('~');
        let (role, ip, workload, domain) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let role = match role {
            "sidecar" => Role::Sidecar,
            "router" => Role::Gateway,
            _ => return None,
        };
        let (name, namespace) = workload.rsplit_once('.')?;
        (parts.next().is_none() && domain.strip_suffix(".svc.cluster.local") == Some(namespace))
            .then(|| Self {
                role,
                ip: ip.to_owned(),
                workload: name.to_owned(),
                namespace: namespace.to_owned(),
            })
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Sidecar => "sidecar",
            Role::Gateway => "router",
        };
        let Self {
            ip,
            workload,
            namespace,
            ..
        } = self;
        write!(
            f,
            "{role}~{ip}~{workload}.{namespace}~{namespace}.svc.cluster.local"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::NodeId;

    #[test]
    fn node_ids_round_trip() {
        for text in [
            "sidecar~127.0.0.1~order-v1.shop~shop.svc.cluster.local",
            "router~::1~gw.a~a.svc.cluster.local",
        ] {
            assert_eq!(NodeId::parse(text).unwrap().to_string(), text);
        }
        for bad in [
            "",
            "sidecar~1~a.b~c.svc.cluster.local",
            "x~1~a.b~b.svc.cluster.local",
            "sidecar~1~a.b~b.svc.cluster.local~",
        ] {
            assert!(NodeId::parse(bad).is_none(), "{bad}");
        }
    }
}
