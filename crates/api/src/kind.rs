//! The one table of kinds: groups, versions, names. Everything that asks "what is a `vs`?" reads it here.
//!
//! A kind that is known to exist elsewhere but not served yet is listed in [`known_elsewhere`], so that the finding can
//! say "not supported yet" rather than "unknown".

use std::fmt;

/// A kind that Naka serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// v1 Namespace.
    Namespace,
    /// v1 Service.
    Service,
    /// v1 Secret.
    Secret,
    /// networking.istio.io WorkloadEntry.
    WorkloadEntry,
    /// networking.istio.io VirtualService.
    VirtualService,
    /// networking.istio.io DestinationRule.
    DestinationRule,
    /// networking.istio.io Gateway.
    Gateway,
    /// security.istio.io PeerAuthentication.
    PeerAuthentication,
}

/// Names of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// Which kind.
    pub kind: Kind,
    /// As written in manifests.
    pub name: &'static str,
    /// API group, empty for the core group.
    pub group: &'static str,
    /// Versions read, oldest first.
    pub versions: &'static [&'static str],
    /// Version objects are stored and shown in.
    pub storage_version: &'static str,
    /// Lower-case plural, as in API paths.
    pub plural: &'static str,
    /// Lower-case singular.
    pub singular: &'static str,
    /// Short names for the command line.
    pub short: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
}

const ISTIO: &[&str] = &["v1alpha3", "v1beta1", "v1"];
const NETWORKING: &str = "networking.istio.io";

const fn networking(
    kind: Kind,
    name: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
) -> Names {
    Names {
        kind,
        name,
        group: NETWORKING,
        versions: ISTIO,
        storage_version: "v1",
        plural,
        singular,
        short,
        namespaced: true,
    }
}

const fn core(
    kind: Kind,
    name: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
) -> Names {
    Names {
        kind,
        name,
        group: "",
        versions: &["v1"],
        storage_version: "v1",
        plural,
        singular,
        short,
        namespaced,
    }
}

/// All kinds, in the order objects are applied: what others refer to comes first.
pub const TABLE: &[Names] = &[
    core(
        Kind::Namespace,
        "Namespace",
        "namespaces",
        "namespace",
        &["ns"],
        false,
    ),
    core(
        Kind::Service,
        "Service",
        "services",
        "service",
        &["svc"],
        true,
    ),
    core(Kind::Secret, "Secret", "secrets", "secret", &[], true),
    networking(
        Kind::WorkloadEntry,
        "WorkloadEntry",
        "workloadentries",
        "workloadentry",
        &["we"],
    ),
    networking(
        Kind::VirtualService,
        "VirtualService",
        "virtualservices",
        "virtualservice",
        &["vs"],
    ),
    networking(
        Kind::DestinationRule,
        "DestinationRule",
        "destinationrules",
        "destinationrule",
        &["dr"],
    ),
    networking(Kind::Gateway, "Gateway", "gateways", "gateway", &["gw"]),
    Names {
        kind: Kind::PeerAuthentication,
        name: "PeerAuthentication",
        group: "security.istio.io",
        versions: &["v1beta1", "v1"],
        storage_version: "v1",
        plural: "peerauthentications",
        singular: "peerauthentication",
        short: &["pa"],
        namespaced: true,
    },
];

/// Kinds of Kubernetes, Istio, the Gateway API and neighbours that exist but are not served yet.
const ELSEWHERE: &[&str] = &[
    // Istio
    "AuthorizationPolicy",
    "RequestAuthentication",
    "ServiceEntry",
    "Sidecar",
    "EnvoyFilter",
    "WorkloadGroup",
    "ProxyConfig",
    "Telemetry",
    "WasmPlugin",
    "TrafficExtension",
    // Gateway API
    "GatewayClass",
    "HTTPRoute",
    "GRPCRoute",
    "TCPRoute",
    "TLSRoute",
    "UDPRoute",
    "ReferenceGrant",
    "BackendTLSPolicy",
    "BackendTrafficPolicy",
    "ListenerSet",
    // Kubernetes
    "ConfigMap",
    "Pod",
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "ReplicaSet",
    "Job",
    "CronJob",
    "ServiceAccount",
    "Endpoints",
    "EndpointSlice",
    "Ingress",
    "IngressClass",
    "NetworkPolicy",
    "Role",
    "RoleBinding",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "HorizontalPodAutoscaler",
    "PersistentVolumeClaim",
    "PersistentVolume",
    "Node",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "List",
    "PodDisruptionBudget",
    "StorageClass",
    // neighbours
    "PrometheusRule",
    "ServiceMonitor",
    "PodMonitor",
    "Trigger",
    "Broker",
    "Certificate",
    "Issuer",
    "ClusterIssuer",
];

/// Whether a kind exists in Kubernetes, Istio or the Gateway API without being served here yet.
#[must_use]
pub fn known_elsewhere(kind: &str) -> bool {
    ELSEWHERE.contains(&kind)
}

/// The kind whose name is nearest to a mistyped one, among all that are known; `None` when nothing is near.
#[must_use]
pub fn nearest(kind: &str) -> Option<&'static str> {
    let all = TABLE
        .iter()
        .map(|names| names.name)
        .chain(ELSEWHERE.iter().copied());
    crate::schema::nearest(kind, all)
}

impl Kind {
    /// All kinds, in the order objects are applied.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|names| names.kind)
    }

    /// Its row of the table.
    #[must_use]
    pub fn names(self) -> &'static Names {
        // One row per variant, checked by a test; the fallback can not be reached.
        TABLE
            .iter()
            .find(|names| names.kind == self)
            .unwrap_or(&TABLE[0])
    }

    /// As written in manifests.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.names().name
    }

    /// From a manifest's `kind`, exact spelling.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        TABLE
            .iter()
            .find(|names| names.name == name)
            .map(|names| names.kind)
    }

    /// From a path's group and plural.
    #[must_use]
    pub fn of_plural(group: &str, plural: &str) -> Option<Self> {
        TABLE
            .iter()
            .find(|names| names.group == group && names.plural == plural)
            .map(|names| names.kind)
    }

    /// From what a person types: kind, plural, singular or short name, any case, optionally `plural.group`.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        let (head, group) = word
            .split_once('.')
            .map_or((word.as_str(), None), |(h, g)| (h, Some(g)));
        TABLE
            .iter()
            .find(|names| {
                (names.plural == head || names.singular == head || names.short.contains(&head))
                    && group.is_none_or(|g| g == names.group)
            })
            .map(|names| names.kind)
    }

    /// `apiVersion` objects are stored in, for example `networking.istio.io/v1`.
    #[must_use]
    pub fn api_version(self) -> String {
        let names = self.names();
        if names.group.is_empty() {
            names.storage_version.to_owned()
        } else {
            format!("{}/{}", names.group, names.storage_version)
        }
    }

    /// Whether an `apiVersion` is one this kind is read from.
    #[must_use]
    pub fn reads(self, api_version: &str) -> bool {
        let names = self.names();
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        group == names.group && names.versions.contains(&version)
    }

    /// Whether objects live in a namespace.
    #[must_use]
    pub fn namespaced(self) -> bool {
        self.names().namespaced
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
