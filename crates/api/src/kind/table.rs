//! Rows of the table of kinds.

use super::{Kind, Names};

const CORE: &str = "";
const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
const NAKA: &str = "naka.dev";
const EXTENSIONS: &str = "extensions.istio.io";

/// Versions that Istio's older networking kinds are read from.
const ISTIO: &[&str] = &["v1alpha3", "v1beta1", "v1"];
/// Versions of the security kinds.
const SECURED: &[&str] = &["v1beta1", "v1"];

/// A namespaced kind whose plural is `plural`, stored in the newest of `versions`.
const fn row(
    kind: Kind,
    (group, versions): (&'static str, &'static [&'static str]),
    name: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
) -> Names {
    Names {
        kind,
        name,
        manifest: name,
        group,
        versions,
        storage_version: versions[versions.len() - 1],
        plural,
        singular,
        short,
        namespaced: true,
    }
}

/// All kinds, in the order objects are applied: what others refer to comes first.
pub const TABLE: &[Names] = &[
    Names {
        namespaced: false,
        ..row(
            Kind::Namespace,
            (CORE, &["v1"]),
            "Namespace",
            "namespaces",
            "namespace",
            &["ns"],
        )
    },
    row(
        Kind::Service,
        (CORE, &["v1"]),
        "Service",
        "services",
        "service",
        &["svc"],
    ),
    row(
        Kind::Secret,
        (CORE, &["v1"]),
        "Secret",
        "secrets",
        "secret",
        &[],
    ),
    row(
        Kind::ConfigMap,
        (CORE, &["v1"]),
        "ConfigMap",
        "configmaps",
        "configmap",
        &["cm"],
    ),
    row(
        Kind::Deployment,
        ("apps", &["v1"]),
        "Deployment",
        "deployments",
        "deployment",
        &["deploy"],
    ),
    row(
        Kind::WorkloadEntry,
        (NETWORKING, ISTIO),
        "WorkloadEntry",
        "workloadentries",
        "workloadentry",
        &["we"],
    ),
    row(
        Kind::WorkloadGroup,
        (NETWORKING, ISTIO),
        "WorkloadGroup",
        "workloadgroups",
        "workloadgroup",
        &["wg"],
    ),
    row(
        Kind::ServiceEntry,
        (NETWORKING, ISTIO),
        "ServiceEntry",
        "serviceentries",
        "serviceentry",
        &["se"],
    ),
    row(
        Kind::VirtualService,
        (NETWORKING, ISTIO),
        "VirtualService",
        "virtualservices",
        "virtualservice",
        &["vs"],
    ),
    row(
        Kind::DestinationRule,
        (NETWORKING, ISTIO),
        "DestinationRule",
        "destinationrules",
        "destinationrule",
        &["dr"],
    ),
    row(
        Kind::Gateway,
        (NETWORKING, ISTIO),
        "Gateway",
        "gateways",
        "gateway",
        &["gw"],
    ),
    row(
        Kind::Sidecar,
        (NETWORKING, ISTIO),
        "Sidecar",
        "sidecars",
        "sidecar",
        &[],
    ),
    row(
        Kind::EnvoyFilter,
        (NETWORKING, &["v1alpha3"]),
        "EnvoyFilter",
        "envoyfilters",
        "envoyfilter",
        &[],
    ),
    row(
        Kind::ProxyConfig,
        (NETWORKING, &["v1beta1"]),
        "ProxyConfig",
        "proxyconfigs",
        "proxyconfig",
        &[],
    ),
    row(
        Kind::BackendPolicy,
        (NAKA, &["v1alpha1"]),
        "BackendPolicy",
        "backendpolicies",
        "backendpolicy",
        &["bp"],
    ),
    row(
        Kind::CertificatePolicy,
        (NAKA, &["v1alpha1"]),
        "CertificatePolicy",
        "certificatepolicies",
        "certificatepolicy",
        &["cp"],
    ),
    row(
        Kind::PeerAuthentication,
        (SECURITY, SECURED),
        "PeerAuthentication",
        "peerauthentications",
        "peerauthentication",
        &["pa"],
    ),
    row(
        Kind::RequestAuthentication,
        (SECURITY, SECURED),
        "RequestAuthentication",
        "requestauthentications",
        "requestauthentication",
        &["ra"],
    ),
    row(
        Kind::AuthorizationPolicy,
        (SECURITY, SECURED),
        "AuthorizationPolicy",
        "authorizationpolicies",
        "authorizationpolicy",
        &["ap"],
    ),
    row(
        Kind::LocalRateLimit,
        (NAKA, &["v1alpha1"]),
        "LocalRateLimit",
        "localratelimits",
        "localratelimit",
        &["lrl"],
    ),
    row(
        Kind::Rollout,
        (NAKA, &["v1alpha1"]),
        "Rollout",
        "rollouts",
        "rollout",
        &["ro"],
    ),
    row(
        Kind::TrustModel,
        (NAKA, &["v1alpha1"]),
        "TrustModel",
        "trustmodels",
        "trustmodel",
        &["tm"],
    ),
    row(
        Kind::RequestGuard,
        (NAKA, &["v1alpha1"]),
        "RequestGuard",
        "requestguards",
        "requestguard",
        &["rg"],
    ),
    row(
        Kind::Mode,
        (NAKA, &["v1alpha1"]),
        "Mode",
        "modes",
        "mode",
        &[],
    ),
    row(
        Kind::Telemetry,
        ("telemetry.istio.io", &["v1alpha1", "v1"]),
        "Telemetry",
        "telemetries",
        "telemetry",
        &[],
    ),
    row(
        Kind::WasmPlugin,
        (EXTENSIONS, &["v1alpha1"]),
        "WasmPlugin",
        "wasmplugins",
        "wasmplugin",
        &[],
    ),
    row(
        Kind::TrafficExtension,
        (EXTENSIONS, &["v1alpha1"]),
        "TrafficExtension",
        "trafficextensions",
        "trafficextension",
        &[],
    ),
    row(
        Kind::PrometheusRule,
        ("monitoring.coreos.com", &["v1"]),
        "PrometheusRule",
        "prometheusrules",
        "prometheusrule",
        &["promrule"],
    ),
    row(
        Kind::Trigger,
        ("eventing.knative.dev", &["v1"]),
        "Trigger",
        "triggers",
        "trigger",
        &[],
    ),
    Names {
        manifest: "Service",
        ..row(
            Kind::KnativeService,
            ("serving.knative.dev", &["v1"]),
            "KnativeService",
            "services",
            "service",
            &["ksvc"],
        )
    },
];
