//! Findings on policies and tokens.

use super::Case;
use naka_api::Mode::Compat;

pub(super) const CASES: &[Case] = &[
    (
        "W982",
        Compat,
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: vault\n  labels:\n    naka.dev/data-class: secret\n",
        "metadata.labels.naka.dev/data-class",
        5,
        "read as restricted",
    ),
    (
        "W983",
        Compat,
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: vault, labels: {naka.dev/data-class: confidential}}\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: vault}\nspec:\n  mtls:\n    mode: PERMISSIVE\n",
        "spec.mtls.mode",
        10,
        "they stay refused",
    ),
    (
        "W984",
        Compat,
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: vault\n  labels:\n    naka.dev/data-class: restricted\n",
        "metadata.labels.naka.dev/data-class",
        5,
        "two approvals",
    ),
    (
        "L390",
        Compat,
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: [a], http: [{corsPolicy: {allowOrigins: [{exact: 'https://x.example'}]}, route: [{destination: {host: a}}]}]}\n---\napiVersion: naka.dev/v1alpha1\nkind: RequestGuard\nmetadata: {name: g}\nspec:\n  guards:\n  - name: m\n    methods:\n      allow: [GET, POST]\n",
        "spec.guards[0].methods.allow",
        13,
        "browsers ask by OPTIONS",
    ),
    (
        "L391",
        Compat,
        "apiVersion: naka.dev/v1alpha1\nkind: RequestGuard\nmetadata: {name: g}\nspec:\n  guards:\n  - name: t\n    tokens: {faults: [expired]}\n",
        "spec.guards[0].tokens",
        7,
        "no RequestAuthentication",
    ),
    (
        "E334",
        Compat,
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec:\n  action: CUSTOM\n  provider:\n    name: opa\n  rules: [{}]\n",
        "spec.provider.name",
        7,
        "no provider \"opa\"",
    ),
    (
        "L320",
        Compat,
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec:\n  rules:\n  - when:\n    - key: request.headers[tier]\n      values: [a]\n",
        "spec.rules[0].when[0].key",
        7,
        "tier",
    ),
    (
        "L323",
        Compat,
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec:\n  rules:\n  - from:\n    - source: {principals: [a]}\n",
        "spec.rules[0].from[0].source.principals",
        7,
        "mTLS",
    ),
    (
        "L350",
        Compat,
        "%GW  - port: {number: 443, name: https, protocol: HTTPS}\n    tls: {mode: MUTUAL, credentialName: a, insecureSkipVerify: true}\n    hosts: [a.example.com]\n",
        "spec.servers[0].tls.insecureSkipVerify",
        7,
        "whoever issued it",
    ),
    (
        "W903",
        Compat,
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a}\nspec:\n  jwtRules:\n  - issuer: a\n    jwks: '{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"},{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}'\n",
        "spec.jwtRules[0].jwks",
        7,
        "shared secret",
    ),
];
