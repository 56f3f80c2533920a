//! The labels of Istio's standard metrics.
//!
//! A label set is built once per peer and route and then shared, so its parts are reference-counted.

use std::sync::Arc;

/// Which proxy reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reporter {
    /// The caller's.
    Source,
    /// The called workload's.
    Destination,
}

impl Reporter {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// What `request_protocol` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Traffic {
    /// HTTP requests.
    Http,
    /// gRPC requests.
    Grpc,
    /// Bytes.
    Tcp,
}

impl Traffic {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// What `connection_security_policy` says. As in Istio only the called side knows; the caller reports `unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Security {
    /// Both sides proved who they are.
    MutualTls,
    /// Plaintext.
    None,
    /// Not known to the reporter.
    Unknown,
}

impl Security {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// One side's workload.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload {
    /// Workload name.
    pub workload: String,
    /// Namespace.
    pub namespace: String,
    /// SPIFFE id.
    pub principal: String,
    /// Label `app`.
    pub app: String,
    /// Label `version`.
    pub version: String,
    /// Cluster of the mesh.
    pub cluster: String,
    /// Canonical service name.
    pub canonical_service: String,
    /// Canonical revision.
    pub canonical_revision: String,
}

impl Workload {
    fn all(word: &str) -> Self {
        let word = || word.to_owned();
        Self {
            workload: word(),
            namespace: word(),
            principal: word(),
            app: word(),
            version: word(),
            cluster: word(),
            canonical_service: word(),
            canonical_revision: word(),
        }
    }

    /// Somebody of whom nothing is known: a plaintext caller, an endpoint outside the mesh.
    #[must_use]
    pub fn unknown() -> Self {
        Self::all("unknown")
    }

    /// A workload of the mesh; app, version and canonical names come from its labels by Istio's rules.
    #[must_use]
    pub fn new(
        workload: &str,
        namespace: &str,
        principal: &str,
        cluster: &str,
        labels: &naka_types::labels::Labels,
    ) -> Self {
        let first = |keys: &[&str], otherwise: &str| {
            keys.iter()
                .find_map(|key| labels.get(*key))
                .map_or(otherwise, String::as_str)
                .to_owned()
        };
        Self {
            workload: workload.to_owned(),
            namespace: namespace.to_owned(),
            principal: principal.to_owned(),
            app: first(&["app"], "unknown"),
            version: first(&["version"], "unknown"),
            cluster: cluster.to_owned(),
            canonical_service: first(
                &[
                    "service.istio.io/canonical-name",
                    "app.kubernetes.io/name",
                    "app",
                ],
                workload,
            ),
            canonical_revision: first(
                &[
                    "service.istio.io/canonical-revision",
                    "app.kubernetes.io/version",
                    "version",
                ],
                "latest",
            ),
        }
    }

    fn values(&self) -> [&str; 8] {
        [
            &self.workload,
            &self.namespace,
            &self.principal,
            &self.app,
            &self.version,
            &self.cluster,
            &self.canonical_service,
            &self.canonical_revision,
        ]
    }
}

/// The called service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// Host, `payment.shop.svc.cluster.local`.
    pub host: String,
    /// Short name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
}

impl Service {
    /// From a host: a service host has a name and namespace, any other host is its own name.
    #[must_use]
    pub fn of_host(host: &str) -> Self {
        let parts = naka_types::host::Host::parse(host)
            .ok()
            .and_then(|h| h.service().map(|(s, n)| (s.to_owned(), n.to_owned())));
        let (name, namespace) = parts.unwrap_or_else(|| (host.to_owned(), "unknown".to_owned()));
        Self {
            host: host.to_owned(),
            name,
            namespace,
        }
    }

    fn all(word: &str) -> Self {
        Self {
            host: word.to_owned(),
            name: word.to_owned(),
            namespace: word.to_owned(),
        }
    }
}

/// Everything about an exchange that is known before its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    /// Which side reports.
    pub reporter: Reporter,
    /// The caller.
    pub source: Arc<Workload>,
    /// The caller's service, empty for a client only.
    pub source_service_name: Arc<str>,
    /// The called workload.
    pub destination: Arc<Workload>,
    /// The called service.
    pub service: Arc<Service>,
    /// HTTP, gRPC or bytes.
    pub traffic: Traffic,
    /// How the connection was secured.
    pub security: Security,
}

/// Names of the labels that [`Labels::values`] gives, in this order.
pub(crate) const NAMES: [&str; 23] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "source_service_name",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "connection_security_policy",
];

impl Labels {
    /// The values, as [`NAMES`] orders them.
    pub(crate) fn values(&self) -> [&str; 23] {
        let mut values = [""; 23];
        values[0] = self.reporter.word();
        values[1..9].copy_from_slice(&self.source.values());
        values[9] = &self.source_service_name;
        values[10..18].copy_from_slice(&self.destination.values());
        values[18] = &self.service.host;
        values[19] = &self.service.name;
        values[20] = &self.service.namespace;
        values[21] = self.traffic.word();
        values[22] = self.security.word();
        values
    }

    /// Whether it is one for exchanges beyond the cap.
    pub(crate) fn is_capped(&self) -> bool {
        &*self.source_service_name == "other"
            && self.service.host == "other"
            && self.source.workload == "other"
            && self.destination.workload == "other"
    }

    /// The label set for exchanges beyond the cap: everything open-ended is `other`.
    pub(crate) fn capped(&self) -> Self {
        let other = Arc::new(Workload::all("other"));
        Self {
            source: Arc::clone(&other),
            destination: other,
            source_service_name: "other".into(),
            service: Arc::new(Service::all("other")),
            ..self.clone()
        }
    }
}
