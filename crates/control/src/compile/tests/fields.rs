//! Fields one by one: with the field a resource says what it must; without the field it does not.
//!
//! `cases/proofs-by-test.txt` names this test for the fields of its rows.

use super::{INBOUND, Key, class, cluster, compile, member, snapshot, virtual_host, world};
use crate::registry::Health;
use naka_wire::envoy::config::cluster::v3::Cluster;
use naka_wire::envoy::config::endpoint::v3::ClusterLoadAssignment;
use naka_wire::envoy::config::listener::v3::Listener;
use naka_wire::envoy::config::route::v3::VirtualHost;

const ENTRY: &str = "apiVersion: v1
kind: Service
metadata: {name: bank, namespace: default}
spec: {selector: {app: bank}, ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc-x, port: 81}, {name: x, port: 82, appProtocol: http2}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: bank, namespace: default}
spec: {address: 192.0.2.7, ports: {http: 7777}, labels: {app: bank}, weight: 5, serviceAccount: banker}
";

const ROUTE: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: payment, namespace: default}
spec:
  hosts: [payment]
  gateways: [mesh, edge]
  http:
  - match:
    - {name: burrow, scheme: {exact: gopher}}
    - {scheme: {prefix: wonder}}
    - {scheme: {regex: odd.*}}
    - {uri: {exact: /only-at-the-edge}, gateways: [edge]}
    headers: {response: {remove: [x-secret]}}
    retries: {attempts: 1, retryOn: 5xx, backoff: 77s}
    route: [{destination: {host: payment}, headers: {response: {remove: [x-other]}}}]
";

const RULE: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: payment, namespace: default}
spec:
  host: payment
  trafficPolicy:
    tls: {mode: DISABLE}
    portLevelSettings: [{port: {number: 8080}, tls: {mode: ISTIO_MUTUAL}}]
  subsets:
  - name: v1
    labels: {version: v1}
    trafficPolicy: {tls: {mode: ISTIO_MUTUAL}, portLevelSettings: [{port: {number: 8080}, tls: {mode: DISABLE}}]}
";

const POOL: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: payment, namespace: default}
spec:
  host: payment
  trafficPolicy:
    connectionPool: {http: {h2UpgradePolicy: UPGRADE}}
    portLevelSettings: [{port: {number: 8080}, connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}]
  subsets:
  - name: v1
    labels: {version: v1}
    trafficPolicy: {connectionPool: {http: {useClientProtocol: true}}, portLevelSettings: [{port: {number: 8080}, connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}]}
";

const POLICY: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: p, namespace: default}
spec: {selector: {matchLabels: {app: order}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}}
";

const LIMIT: &str = "apiVersion: naka.dev/v1alpha1
kind: LocalRateLimit
metadata: {name: all, namespace: default}
spec:
  targetRefs: [{kind: Service, name: order}]
  rules:
  - {name: each, when: request.method == 'POST', keys: [request.path], requests: 5, per: 1m, burst: 20, maxKeys: 50, dryRun: true, responseHeaders: true}
";

/// A resource in words; empty if there is none.
fn shown(objects: &str, key: &Key) -> String {
    let members = vec![
        member(1, "order", "v1", Health::Healthy),
        member(2, "payment", "v1", Health::Healthy),
    ];
    let compiled = compile(&world(&snapshot(objects), members), key, &class());
    let Some(resource) = &compiled.resource else {
        return String::new();
    };
    match key {
        Key::VirtualHost(_) => format!("{:?}", naka_wire::unpack::<VirtualHost>(&resource.any)),
        Key::Cluster(_) => format!("{:?}", naka_wire::unpack::<Cluster>(&resource.any)),
        Key::Endpoints(_) => {
            format!(
                "{:?}",
                naka_wire::unpack::<ClusterLoadAssignment>(&resource.any)
            )
        }
        _ => format!("{:?}", naka_wire::unpack::<Listener>(&resource.any)),
    }
}

/// Objects, the field as written, the same without it, the resource, and a word that only the field brings.
type Row = (&'static str, &'static str, &'static str, Key, &'static str);

fn rows() -> Vec<Row> {
    let endpoints = |port| Key::Endpoints(cluster("bank", port, ""));
    let host = || virtual_host("payment", 80);
    let inbound = || Key::Listener(INBOUND.to_owned());
    vec![
        (
            ENTRY,
            "address: 192.0.2.7",
            "address: 192.0.2.8",
            endpoints(80),
            "192.0.2.7",
        ),
        (ENTRY, "ports: {http: 7777}, ", "", endpoints(80), "7777"),
        (
            ENTRY,
            "labels: {app: bank}, ",
            "",
            endpoints(80),
            "192.0.2.7",
        ),
        (
            ENTRY,
            "weight: 5, ",
            "",
            endpoints(80),
            "UInt32Value { value: 5 }",
        ),
        (
            ENTRY,
            ", serviceAccount: banker",
            "",
            endpoints(80),
            "tlsMode",
        ),
        (
            ENTRY,
            ", serviceAccount: banker",
            "",
            Key::Cluster(cluster("bank", 80, "")),
            "",
        ),
        (
            ENTRY,
            "selector: {app: bank}",
            "selector: {app: till}",
            endpoints(80),
            "192.0.2.7",
        ),
        (ROUTE, "{exact: gopher}", "{exact: http}", host(), "gopher"),
        (ROUTE, "name: burrow, ", "", host(), ".burrow"),
        (ROUTE, "burrow", "other", host(), ".burrow"),
        (
            ROUTE,
            "{prefix: wonder}",
            "{prefix: http}",
            host(),
            "wonder",
        ),
        (ROUTE, "{regex: odd.*}", "{regex: http}", host(), "odd.*"),
        (ROUTE, "gateways: [edge]}", "gateways: [mesh]}", host(), ""),
        (ROUTE, "[x-secret]", "[x-none]", host(), "x-secret"),
        (ROUTE, "[x-other]", "[x-none]", host(), "x-other"),
        (ROUTE, ", backoff: 77s", "", host(), "seconds: 77"),
        (POLICY, "app: order", "app: payment", inbound(), ""),
        (
            POLICY,
            ", portLevelMtls: {8080: {mode: DISABLE}}",
            "",
            inbound(),
            "",
        ),
    ]
}

/// Rows of DestinationRules.
fn rule_rows() -> Vec<Row> {
    let to = |port, subset| Key::Cluster(cluster("payment", port, subset));
    vec![
        (
            RULE,
            "tls: {mode: DISABLE}\n",
            "loadBalancer: {simple: RANDOM}\n",
            to(80, ""),
            "",
        ),
        (
            RULE,
            "tls: {mode: ISTIO_MUTUAL}}]\n  subsets",
            "tls: {mode: DISABLE}}]\n  subsets",
            to(8080, ""),
            "",
        ),
        (
            RULE,
            "{tls: {mode: ISTIO_MUTUAL}, port",
            "{tls: {mode: DISABLE}, port",
            to(80, "v1"),
            "",
        ),
        (
            RULE,
            "tls: {mode: DISABLE}}]}",
            "tls: {mode: ISTIO_MUTUAL}}]}",
            to(8080, "v1"),
            "",
        ),
        (
            POOL,
            "{http: {h2UpgradePolicy: UPGRADE}}\n",
            "{}\n",
            to(80, ""),
            "",
        ),
        (
            POOL,
            "{http: {h2UpgradePolicy: UPGRADE}}\n",
            "{http: {h2UpgradePolicy: DO_NOT_UPGRADE}}\n",
            to(80, ""),
            "",
        ),
        (POOL, ", useClientProtocol: true", "", to(8080, ""), ""),
        (
            POOL,
            "{http: {useClientProtocol: true}}",
            "{http: {useClientProtocol: false}}",
            to(80, "v1"),
            "",
        ),
        (
            POOL,
            "{http: {h2UpgradePolicy: UPGRADE}}}]}",
            "{}}]}",
            to(8080, "v1"),
            "",
        ),
    ]
}

/// Rows of limits.
fn limit_rows() -> Vec<Row> {
    let at_port = |written, without| {
        (
            LIMIT,
            written,
            without,
            Key::Listener(INBOUND.to_owned()),
            "",
        )
    };
    vec![
        at_port("kind: Service", "group: apps, kind: Service"),
        at_port("kind: Service", "kind: Gateway"),
        at_port("name: order", "name: payment"),
        at_port("name: each, ", "name: other, "),
        at_port("when: request.method == 'POST', ", ""),
        at_port("keys: [request.path], ", ""),
        at_port("requests: 5", "requests: 6"),
        at_port(", per: 1m", ""),
        at_port(", burst: 20", ""),
        at_port(", maxKeys: 50", ""),
        at_port(", dryRun: true", ""),
        at_port(", responseHeaders: true", ""),
    ]
}

#[test]
fn every_field_shows_in_what_proxies_get() {
    for (objects, written, without, key, word) in
        rows().into_iter().chain(rule_rows()).chain(limit_rows())
    {
        assert!(objects.contains(written), "{written}");
        let with = shown(objects, &key);
        let twin = shown(&objects.replacen(written, without, 1), &key);
        assert_ne!(with, twin, "{written} changes nothing");
        assert!(word.is_empty() || with.contains(word), "{written}: {with}");
        assert!(
            word.is_empty() || !twin.contains(word),
            "without {written}: {twin}"
        );
    }
}
