//! Names on the wire that never change: clusters, virtual hosts, objects.

use std::fmt;

/// What names of certificates for strangers begin with, as with Istio: `kubernetes://<namespace>/<secret>`.
pub const CREDENTIAL: &str = "kubernetes://";

/// SHA-256 of the one certificate that a server must show where what was asked for cannot be carried out: that of none.
/// Envoy fails the handshake then; an authority that does not exist it would refuse, and keep what it had.
pub const NO_CERTIFICATE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// `outbound|<port>|<subset>|<host>` or `inbound|<port>||`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClusterName {
    /// A destination of this workload.
    Outbound {
        /// Service port.
        port: u16,
        /// Subset of the destination rule, empty for the whole service.
        subset: String,
        /// Full host.
        host: String,
    },
    /// The workload's own program.
    Inbound {
        /// Port the program listens on.
        port: u16,
    },
}

impl ClusterName {
    /// Name of a destination.
    #[must_use]
    pub fn outbound(port: u16, subset: &str, host: &str) -> Self {
        Self::Outbound {
            port,
            subset: subset.to_owned(),
            host: host.to_owned(),
        }
    }

    /// Reads a name; `None` when it has another shape.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, '|');
        let (direction, port, subset, host) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let port = port.parse().ok()?;
        match direction {
            "outbound" if !host.is_empty() => Some(Self::outbound(port, subset, host)),
            "inbound" if subset.is_empty() && host.is_empty() => Some(Self::Inbound { port }),
            _ => None,
        }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outbound { port, subset, host } => write!(f, "outbound|{port}|{subset}|{host}"),
            Self::Inbound { port } => write!(f, "inbound|{port}||"),
        }
    }
}

/// On-demand name of a virtual host: `<route config>/<host>:<port>`, the route config being the port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VirtualHostName {
    /// Full host.
    pub host: String,
    /// Service port.
    pub port: u16,
}

impl VirtualHostName {
    /// Reads `<port>/<host>:<port>`; `None` when it has another shape or the ports differ.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (route, authority) = text.split_once('/')?;
        let (host, port) = authority.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        (route.parse() == Ok(port) && !host.is_empty()).then(|| Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for VirtualHostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.port, self.host, self.port)
    }
}

/// Which object: kind, namespace (empty for cluster-wide kinds) and name. Shown as `Kind namespace/name`.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct ObjectRef {
    /// Kind as written in manifests.
    pub kind: String,
    /// Namespace, empty for cluster-wide kinds.
    #[serde(default)]
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ClusterName, VirtualHostName};

    #[test]
    fn cluster_names_round_trip() {
        for text in [
            "outbound|80||payment.default.svc.cluster.local",
            "outbound|80|v1|a.b.svc.cluster.local",
            "inbound|8080||",
        ] {
            assert_eq!(ClusterName::parse(text).unwrap().to_string(), text);
        }
        for bad in [
            "",
            "outbound|x||a",
            "outbound|80||",
            "inbound|80|a|",
            "sideways|80||a",
            "outbound|80|a",
        ] {
            assert_eq!(ClusterName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn virtual_host_names_round_trip() {
        let text = "80/payment.default.svc.cluster.local:80";
        assert_eq!(VirtualHostName::parse(text).unwrap().to_string(), text);
        for bad in ["80/a:81", "a:80", "80/:80", "80/a", ""] {
            assert_eq!(VirtualHostName::parse(bad), None, "{bad}");
        }
    }
}
