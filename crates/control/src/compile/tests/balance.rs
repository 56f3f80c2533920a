//! What `loadBalancer` says: each field, with two values and without, gives three different clusters.

use super::{Key, class, cluster, compile, member, snapshot, world};
use crate::registry::Health;
use naka_types::node::NAKA;
use naka_wire::envoy::config::cluster::v3::Cluster;
use naka_wire::values;

/// Everything of a cluster that says how calls are spread.
fn shown(balancer: &str) -> String {
    let rule = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: payment, namespace: default}}\n\
         spec: {{host: payment, trafficPolicy: {{loadBalancer: {balancer}}}}}\n"
    );
    let members = vec![member(2, "payment", "v1", Health::Healthy)];
    let key = Key::Cluster(cluster("payment", 80, ""));
    let compiled = compile(&world(&snapshot(&rule), members), &key, &class());
    let cluster: Cluster = super::message(&compiled);
    let own = values::of_metadata(cluster.metadata.as_ref(), NAKA).unwrap();
    format!(
        "{} {:?} {:?} {:?} {:?}",
        cluster.lb_policy,
        cluster.lb_config,
        cluster.load_balancing_policy,
        cluster.common_lb_config,
        values::get_str(own, "near"),
    )
}

/// A balancer with `@` where the field stands; the field with one value and with another.
const ROWS: &[(&str, &str, &str)] = &[
    ("{@}", "simple: RANDOM", "simple: ROUND_ROBIN"),
    (
        "{@}",
        "consistentHash: {httpHeaderName: a}",
        "consistentHash: {httpHeaderName: b}",
    ),
    (
        "{@}",
        "consistentHash: {httpQueryParameterName: a}",
        "consistentHash: {httpQueryParameterName: b}",
    ),
    (
        "{@}",
        "consistentHash: {useSourceIp: true}",
        "consistentHash: {useSourceIp: false}",
    ),
    (
        "{@}",
        "consistentHash: {httpCookie: {name: a}}",
        "consistentHash: {httpCookie: {name: b}}",
    ),
    (
        "{consistentHash: {httpCookie: {name: a, @}}}",
        "path: /a",
        "path: /b",
    ),
    (
        "{consistentHash: {httpCookie: {name: a, @}}}",
        "ttl: 0s",
        "ttl: 7s",
    ),
    (
        "{consistentHash: {httpCookie: {name: a, @}}}",
        "attributes: [{name: x}]",
        "attributes: [{name: y}]",
    ),
    (
        "{consistentHash: {httpCookie: {name: a, @}}}",
        "attributes: [{name: x, value: z}]",
        "attributes: [{name: x}]",
    ),
    (
        "{consistentHash: {httpHeaderName: a, @}}",
        "ringHash: {minimumRingSize: 7}",
        "ringHash: {minimumRingSize: 8}",
    ),
    (
        "{consistentHash: {httpHeaderName: a, @}}",
        "minimumRingSize: 7",
        "minimumRingSize: 8",
    ),
    (
        "{consistentHash: {httpHeaderName: a, @}}",
        "maglev: {tableSize: 11}",
        "maglev: {tableSize: 13}",
    ),
    (
        "{simple: ROUND_ROBIN, @}",
        "warmupDurationSecs: 7s",
        "warmupDurationSecs: 8s",
    ),
    (
        "{simple: ROUND_ROBIN, @}",
        "warmup: {duration: 7s}",
        "warmup: {duration: 8s}",
    ),
    (
        "{simple: ROUND_ROBIN, warmup: {duration: 7s, @}}",
        "minimumPercent: 20",
        "minimumPercent: 30",
    ),
    (
        "{simple: ROUND_ROBIN, warmup: {duration: 7s, @}}",
        "aggression: 2",
        "aggression: 3",
    ),
    (
        "{localityLbSetting: {@}}",
        "distribute: [{from: a, to: {b: 100}}]",
        "distribute: [{from: c, to: {b: 100}}]",
    ),
    (
        "{localityLbSetting: {@}}",
        "distribute: [{from: a, to: {b: 60, c: 40}}]",
        "distribute: [{from: a, to: {b: 40, c: 60}}]",
    ),
    (
        "{localityLbSetting: {@}}",
        "failover: [{from: a, to: b}]",
        "failover: [{from: c, to: b}]",
    ),
    (
        "{localityLbSetting: {@}}",
        "failover: [{from: a, to: b}]",
        "failover: [{from: a, to: c}]",
    ),
    (
        "{localityLbSetting: {@}}",
        "failoverPriority: [a]",
        "failoverPriority: [b]",
    ),
    (
        "{zoneAwareLbSetting: {@}}",
        "failover: [{from: a, to: b}]",
        "failover: [{from: c, to: b}]",
    ),
    (
        "{zoneAwareLbSetting: {@}}",
        "failover: [{from: a, to: b}]",
        "failover: [{from: a, to: c}]",
    ),
    (
        "{zoneAwareLbSetting: {@}}",
        "failoverPriority: [a]",
        "failoverPriority: [b]",
    ),
    (
        "{zoneAwareLbSetting: {@}}",
        "minClusterSize: 2",
        "minClusterSize: 3",
    ),
    (
        "{backendUtilization: {@}}",
        "weightStabilizationPeriod: 2s",
        "weightStabilizationPeriod: 3s",
    ),
    (
        "{backendUtilization: {@}}",
        "weightExpirationPeriod: 2s",
        "weightExpirationPeriod: 3s",
    ),
    (
        "{backendUtilization: {@}}",
        "weightUpdatePeriod: 2s",
        "weightUpdatePeriod: 3s",
    ),
    (
        "{backendUtilization: {@}}",
        "metricNamesForComputingUtilization: [named_metrics.a]",
        "metricNamesForComputingUtilization: [named_metrics.b]",
    ),
];

#[test]
fn every_field_of_the_balancer_shows_in_what_proxies_get() {
    for (around, one, other) in ROWS {
        let with = |field: &str| {
            let text = around.replace('@', field);
            if text == "{}" {
                shown("{simple: UNSPECIFIED}")
            } else {
                shown(&text)
            }
        };
        let (one, other, without) = (with(one), with(other), with(""));
        assert_ne!(one, without, "{around}");
        assert_ne!(one, other, "{around}");
    }
    // On is what a setting means when it does not say; off takes it away.
    for block in ["localityLbSetting", "zoneAwareLbSetting"] {
        let with = |enabled: &str| shown(&format!("{{{block}: {{{enabled}}}}}"));
        let (on, off) = (with("enabled: true"), with("enabled: false"));
        assert_ne!(on, off, "{block}");
        assert_eq!(
            on,
            shown(&format!("{{{block}: {{failoverPriority: []}}}}")),
            "{block}"
        );
    }
}
