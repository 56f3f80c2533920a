//! Findings on policies and tokens.

use super::Case;
use naka_api::Mode::Compat;

pub(super) const CASES: &[Case] = &[
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
