//! Cases of the lints on load balancing and connections.

use super::{Case, Compat};

pub(super) const CASES: &[Case] = &[
    (
        "W133",
        Compat,
        "%DR  trafficPolicy:\n    tls: {mode: SIMPLE, credentialName: bank}\n",
        "spec.workloadSelector",
        5,
        "Secret bank is for gateways",
    ),
    (
        "E333",
        Compat,
        "%DR  trafficPolicy:\n    tls: {mode: MUTUAL, clientCertificate: /etc/cert.pem}\n",
        "spec.trafficPolicy.tls",
        7,
        "calls fail (503 tls-failed)",
    ),
    (
        "L304",
        Compat,
        "%DR  trafficPolicy:\n    connectionPool: {http: {maxRequestsPerConnection: 1}}\n",
        "spec.trafficPolicy.connectionPool.http.maxRequestsPerConnection",
        7,
        "new connection",
    ),
    (
        "L305",
        Compat,
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [pay]\n  http:\n  - route: [{destination: {host: pay}}]\n    timeout: 80ms\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec:\n  host: pay\n  trafficPolicy:\n    connectionPool: {tcp: {connectTimeout: 5s}}\n",
        "spec.http[0].timeout",
        8,
        "ends before the connectTimeout of 5s",
    ),
    (
        "L351",
        Compat,
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: payment}\nspec:\n  hosts: [payment]\n  http:\n  - route: [{destination: {host: payment}}]\n    timeout: 80ms\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bank}\nspec:\n  hosts: [bank]\n  http:\n  - match: [{uri: {prefix: /pay}, sourceLabels: {app: payment}}]\n    route: [{destination: {host: bank}}]\n    timeout: 1800ms\n",
        "spec.http[0].timeout",
        18,
        "is given at most 80ms (VirtualService default/payment spec.http[0].timeout)",
    ),
    (
        "L340",
        Compat,
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec:\n  host: pay\n  trafficPolicy:\n    loadBalancer:\n      simple: PASSTHROUGH\n",
        "spec.trafficPolicy.loadBalancer.simple",
        8,
        "by the service's name get 503",
    ),
    (
        "L341",
        Compat,
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec:\n  host: pay\n  trafficPolicy:\n    loadBalancer:\n      simple: RANDOM\n      warmup: {duration: 60s}\n",
        "spec.trafficPolicy.loadBalancer.warmup",
        9,
        "here warmup does nothing",
    ),
];
