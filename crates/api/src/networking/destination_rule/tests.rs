//! What holds for a port of a subset.

use super::balancer::Algorithm;
use super::{ProxyHeader, TlsMode};
use crate::{Mode, decode_yaml};

/// As `MergeSubsetTrafficPolicy` of Istio, and its tunnels, which no port decides.
#[test]
fn port_settings_and_subsets_meet_as_in_istio() {
    let text = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec:\n  host: pay\n  trafficPolicy:\n    tls: {mode: DISABLE}\n    retryBudget: {minRetryConcurrency: 1}\n    proxyProtocol: {}\n    tunnel: {targetHost: host, targetPort: 1}\n    portLevelSettings:\n    - {port: {number: 9}, loadBalancer: {simple: RANDOM}, tls: {mode: ISTIO_MUTUAL}}\n  subsets:\n  - {name: a, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}\n  - name: b\n    trafficPolicy:\n      retryBudget: {minRetryConcurrency: 2}\n      proxyProtocol: {version: V2}\n      tunnel: {targetHost: subset, targetPort: 2}\n      portLevelSettings:\n      - {port: {number: 9}, loadBalancer: {simple: ROUND_ROBIN}}\n      - {port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}\n";
    let decoded = decode_yaml("f.yaml", text.as_bytes(), Mode::Compat);
    assert_eq!(decoded.objects.len(), 1, "{:#?}", decoded.findings);
    let rule = decoded.objects[0].destination_rule().unwrap();
    let (round, random) = (Some(Algorithm::RoundRobin), Some(Algorithm::Random));
    let (plain, mutual) = (Some(TlsMode::Disable), Some(TlsMode::IstioMutual));
    let (first, second) = (Some(ProxyHeader::V1), Some(ProxyHeader::V2));
    for (subset, port, want) in [
        (None, 80, (None, plain, Some(1), first, "host")),
        (None, 9, (random.clone(), mutual, None, None, "host")),
        (
            Some("a"),
            80,
            (round.clone(), plain, Some(1), first, "host"),
        ),
        // A block of a subset comes before that of the host's port.
        (Some("a"), 9, (round.clone(), mutual, None, None, "host")),
        (Some("b"), 70, (None, plain, Some(2), second, "subset")),
        (
            Some("b"),
            80,
            (round.clone(), None, Some(1), first, "subset"),
        ),
        (Some("b"), 9, (round.clone(), None, None, None, "subset")),
    ] {
        let got = rule.effective(subset, port);
        let balancer = got.load_balancer.map(|balancer| balancer.algorithm);
        let budget = got.retry_budget.and_then(|budget| budget.least);
        let tunnel = got.tunnel.unwrap();
        let tls = got.tls.map(|tls| tls.mode);
        assert_eq!(
            (balancer, tls, budget, got.proxy_protocol, &*tunnel.host),
            want,
            "{subset:?} {port}"
        );
    }
    assert_eq!(
        rule.tls_field(Some("a"), 9),
        "spec.trafficPolicy.portLevelSettings"
    );
    assert_eq!(
        rule.tls_field(Some("b"), 9),
        "spec.subsets[1].trafficPolicy.portLevelSettings"
    );
}
