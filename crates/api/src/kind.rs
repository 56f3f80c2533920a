//! The one table of kinds: groups, versions, names. Everything that asks "what is a `vs`?" reads it here.
//!
//! A kind that is known to exist elsewhere but not served yet is listed in [`known_elsewhere`], so that the finding can
//! say "not supported yet" rather than "unknown".

use std::fmt;

mod table;

pub use table::TABLE;

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
    /// networking.istio.io ServiceEntry.
    ServiceEntry,
    /// networking.istio.io Sidecar.
    Sidecar,
    /// networking.istio.io WorkloadGroup.
    WorkloadGroup,
    /// networking.istio.io EnvoyFilter.
    EnvoyFilter,
    /// networking.istio.io ProxyConfig.
    ProxyConfig,
    /// security.istio.io AuthorizationPolicy.
    AuthorizationPolicy,
    /// security.istio.io RequestAuthentication.
    RequestAuthentication,
    /// telemetry.istio.io Telemetry.
    Telemetry,
    /// extensions.istio.io WasmPlugin.
    WasmPlugin,
    /// extensions.istio.io TrafficExtension.
    TrafficExtension,
    /// naka.dev LocalRateLimit.
    LocalRateLimit,
    /// v1 ConfigMap.
    ConfigMap,
    /// apps/v1 Deployment.
    Deployment,
    /// monitoring.coreos.com PrometheusRule.
    PrometheusRule,
    /// eventing.knative.dev Trigger.
    Trigger,
    /// naka.dev BackendPolicy.
    BackendPolicy,
    /// naka.dev Rollout.
    Rollout,
    /// naka.dev TrustModel.
    TrustModel,
    /// naka.dev RequestGuard.
    RequestGuard,
    /// naka.dev Mode.
    Mode,
    /// naka.dev CertificatePolicy.
    CertificatePolicy,
    /// serving.knative.dev Service; `Service` in manifests, where the apiVersion tells it from the core kind.
    KnativeService,
}

/// Names of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// Which kind.
    pub kind: Kind,
    /// Name that no other kind has: in references, messages and the log.
    pub name: &'static str,
    /// `kind` as written in manifests; two kinds of different groups may share it.
    pub manifest: &'static str,
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

/// Kinds of Kubernetes, Istio, the Gateway API and neighbours that exist but are not served yet.
const ELSEWHERE: &[&str] = &[
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
    "Pod",
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
    "ServiceMonitor",
    "PodMonitor",
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
        .map(|names| names.manifest)
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

    /// Its name among all kinds. Manifests say [`Kind::manifest`].
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.names().name
    }

    /// File name of its reference page, without extension.
    #[must_use]
    pub fn page_name(self) -> String {
        self.as_str().to_lowercase()
    }

    /// `kind` as written in manifests.
    #[must_use]
    pub fn manifest(self) -> &'static str {
        self.names().manifest
    }

    /// From its name among all kinds, exact spelling.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        TABLE
            .iter()
            .find(|names| names.name == name)
            .map(|names| names.kind)
    }

    /// From a manifest's `kind` and `apiVersion`. The group decides between kinds of the same word; where none has the
    /// group, the first of that word comes back, so that the caller can say which apiVersion it wants.
    #[must_use]
    pub fn of_manifest(word: &str, api_version: &str) -> Option<Self> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let named = || TABLE.iter().filter(|names| names.manifest == word);
        named()
            .find(|names| names.group == group)
            .or_else(|| named().next())
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
                (names.plural == head
                    || names.singular == head
                    || names.short.contains(&head)
                    || names.name.eq_ignore_ascii_case(head))
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

    /// Whether anything of such an object is in force today. A Namespace only has to be there.
    #[must_use]
    pub fn in_force(self) -> bool {
        !matches!(
            self,
            Self::Deployment
                | Self::WorkloadGroup
                | Self::EnvoyFilter
                | Self::ProxyConfig
                | Self::Telemetry
                | Self::WasmPlugin
                | Self::TrafficExtension
                | Self::PrometheusRule
                | Self::Trigger
                | Self::KnativeService
        )
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
