//! Each class of trouble has its finding, and its absence has none.

use super::{Facts, of};
use crate::cmd::explain::world::of_value;
use crate::cmd::standing;
use naka_api::codes;
use naka_types::finding::{Finding, Severity};
use naka_types::host::Host;
use serde_json::{Value, json};

const PAYMENT: &str = "payment.default.svc.cluster.local";

/// Milliseconds since 1970.
const NOW: u64 = 1_700_000_000_000;

/// A mesh in which all is well.
fn sound() -> Value {
    json!({
        "trust_domain": "cluster.local",
        "objects": [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "payment", "namespace": "default"},
                "spec": {"selector": {"app": "payment"}, "ports": [{"port": 80, "targetPort": 8080}]}},
            {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "default", "namespace": "istio-system"},
                "spec": {"mtls": {"mode": "STRICT"}}},
            {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "payment", "namespace": "default"},
                "spec": {"host": "payment", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"},
                    "outlierDetection": {"consecutive5xxErrors": 5, "baseEjectionTime": "30s", "maxEjectionPercent": 50},
                    "connectionPool": {"tcp": {"maxConnections": 100}, "http": {"http1MaxPendingRequests": 10}}}}},
        ],
        "services": {PAYMENT: {"name": "payment", "namespace": "default", "declared": true, "accounts": ["payment"],
            "ports": {"80": {"name": "http", "protocol": "http"}}}},
        "endpoints": {PAYMENT: {"80": [
            {"address": "127.0.0.1:1", "health": "healthy", "weight": 1, "mtls": true, "workload": "payment-1"},
            {"address": "127.0.0.1:2", "health": "healthy", "weight": 1, "mtls": true, "workload": "payment-2"},
        ]}},
        "workloads": [{"workload_name": "payment-1", "namespace": "default", "service": "payment",
            "service_account": "payment", "labels": {"app": "payment"}}],
        "proxies": [{"name": "payment-1.default", "namespace": "default", "service": "payment", "state": "programmed", "refused": []}],
        "findings": [],
    })
}

fn findings(live: &Value, name: &str) -> Vec<Finding> {
    let world = of_value(live);
    let list = |name: &str| live[name].as_array().cloned().unwrap_or_default();
    let facts = Facts {
        world: &world,
        objects: list("objects"),
        proxies: list("proxies"),
        workloads: list("workloads"),
        told: standing::read(&list("workloads")),
        now: NOW,
        findings: serde_json::from_value(live["findings"].clone()).expect("findings"),
    };
    of(&facts, &Host::resolve(name, "default").expect("a name"))
}

/// What is found when one fact is another.
fn with(path: &str, value: Value) -> Vec<(String, String)> {
    let mut live = sound();
    *live.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
    let all = findings(&live, "payment");
    all.into_iter().map(|one| (one.code, one.message)).collect()
}

#[test]
fn a_sound_service_has_no_finding() {
    assert!(findings(&sound(), "payment").is_empty());
}

#[test]
fn each_class_of_trouble_has_its_finding() {
    let at = |tail: &str| format!("/objects/2/spec/trafficPolicy/{tail}");
    let endpoints = format!("/endpoints/{PAYMENT}");
    for (path, value, code, says) in [
        (
            endpoints.clone(),
            json!({}),
            "E921",
            "runs as service account",
        ),
        (
            format!("{endpoints}/80/0/health"),
            json!("unhealthy"),
            "W920",
            "1 of 2 endpoints of port 80",
        ),
        (
            format!("{endpoints}/80"),
            json!([{"address": "127.0.0.1:1", "health": "draining", "workload": "payment-1"}]),
            "E922",
            "payment-1 127.0.0.1:1 is draining",
        ),
        (
            format!("/services/{PAYMENT}/ports"),
            json!({"80": {"protocol": "http"}, "81": {"protocol": "http"}}),
            "E923",
            "port 81",
        ),
        (
            at("tls/mode"),
            json!("DISABLE"),
            "E924",
            "PeerAuthentication istio-system/default lets nobody in",
        ),
        (
            at("outlierDetection/consecutive5xxErrors"),
            json!(1),
            "W921",
            "for a single error",
        ),
        (
            at("outlierDetection/maxEjectionPercent"),
            json!(100),
            "W921",
            "all endpoints out",
        ),
        (
            at("outlierDetection/baseEjectionTime"),
            json!("1h"),
            "W921",
            "out for 1h",
        ),
        (
            at("connectionPool/http/http1MaxPendingRequests"),
            json!(1),
            "W922",
            "http1MaxPendingRequests: 1",
        ),
        (
            at("connectionPool/tcp/maxConnections"),
            json!(1),
            "W922",
            "maxConnections: 1",
        ),
        (
            "/proxies/0/refused".to_owned(),
            json!([{"resource": "cluster", "message": "no"}]),
            "E918",
            "payment-1.default refuses cluster: no",
        ),
        (
            "/proxies/0/state".to_owned(),
            json!("behind"),
            "W918",
            "newest configuration",
        ),
        (
            "/proxies/0/state".to_owned(),
            json!("away"),
            "W919",
            "not connected",
        ),
    ] {
        let found = with(&path, value.clone());
        let told = found
            .iter()
            .any(|(known, message)| known == code && message.contains(says));
        assert!(told && found.len() == 1, "{path} = {value}: {found:?}");
    }
}

/// Why nobody is there: no workload, wrong labels, wrong account.
#[test]
fn a_selector_that_fits_nobody_is_told_with_what_is_there() {
    let mut live = sound();
    live["endpoints"][PAYMENT] = json!({});
    live["workloads"][0]["labels"] = json!({"app": "payments"});
    let found = findings(&live, "payment");
    assert_eq!(found[0].code, "E921");
    assert!(
        found[0]
            .message
            .contains("app=payment fits no workload: payment-1 has app=payments"),
        "{found:?}"
    );
    assert_eq!(found[0].field, "spec.selector");
    live["workloads"] = json!([]);
    assert!(
        findings(&live, "payment")[0]
            .message
            .contains("no workload runs in namespace default")
    );
}

#[test]
fn an_unknown_name_is_told_with_the_nearest() {
    let found = findings(&sound(), "paymnet");
    assert_eq!(found[0].code, "E920");
    assert!(
        found[0].message.contains("did you mean payment?"),
        "{found:?}"
    );
    assert!(
        findings(&sound(), "payment.shop.svc.cluster.local")[0]
            .message
            .contains("there is one in namespace default")
    );
}

/// Findings of the live configuration and refusals that concern the service are its own; others are not.
#[test]
fn what_concerns_others_is_left_to_them() {
    let mut live = sound();
    let one = |object: &str, message: &str| {
        json!(Finding::new(codes::L310.id, message.to_owned()).on(object))
    };
    live["findings"] = json!([
        one("DestinationRule default/payment", "x"),
        one("VirtualService default/cart", "y")
    ]);
    live["proxies"] = json!([{"name": "cart-1.default", "namespace": "default", "service": "cart", "state": "behind",
        "refused": [{"resource": format!("outbound|80||{PAYMENT}"), "message": "no"}, {"resource": "other", "message": "no"}]}]);
    let found: Vec<String> = findings(&live, "payment")
        .into_iter()
        .map(|one| one.message)
        .collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0], "x");
}

/// What is found when the first workload's proxy tells these verdicts.
fn told(verdicts: Value) -> Vec<Finding> {
    let mut live = sound();
    live["workloads"][0]["verdicts"] = verdicts;
    findings(&live, "payment")
}

#[test]
fn what_a_proxy_found_out_is_told_with_who_says_so_and_until_when() {
    let cluster = format!("outbound|80||{PAYMENT}");
    let verdict = |kind: &str, address: &str, since: u64, until: u64| json!({"kind": kind, "cluster": cluster, "address": address, "since_ms": since, "until_ms": until});
    let out = told(json!([verdict(
        "outlier",
        "127.0.0.1:2",
        NOW - 1_000,
        NOW + 29_000
    )]));
    assert_eq!(out.len(), 1, "{out:?}");
    assert_eq!(out[0].code, "W926");
    assert_eq!(out[0].object, "DestinationRule default/payment");
    assert_eq!(out[0].field, "spec.trafficPolicy.outlierDetection");
    assert_eq!(
        out[0].message,
        "payment-2 127.0.0.1:2, an endpoint of port 80, is ejected by outlier detection: payment-1.default says \
         ejected by outlier detection since 2023-11-14T22:13:19Z until 2023-11-14T22:13:49Z at the earliest"
    );
    let out = told(json!([verdict("health-check", "127.0.0.1:1", NOW, 0)]));
    assert!(out[0].code == "W926" && out[0].message.contains("fails its health checks"));
    for (since, until, expect) in [
        (NOW - 1, NOW + 1, Some((Severity::Warning, "is open"))),
        (NOW - 2, NOW - 1, Some((Severity::Info, "is half open"))),
        (0, 0, None),
    ] {
        let out = told(json!([verdict("breaker", "", since, until)]));
        let found = out.first();
        assert_eq!(
            found.map(|one| one.severity),
            expect.map(|(severity, _)| severity)
        );
        if let (Some(found), Some((_, words))) = (found, expect) {
            assert!(
                found.code == "W927" && found.message.contains(words),
                "{found}"
            );
        }
    }
    // Of other services, of no shape that is known, of a kind to come: nothing.
    for other in [
        json!([{"kind": "outlier", "cluster": "outbound|80||other.default.svc.cluster.local", "address": "127.0.0.1:2", "since_ms": 1}]),
        json!([{"kind": "outlier", "cluster": "payment", "address": "127.0.0.1:2", "since_ms": 1}]),
        json!([{"kind": "mood", "cluster": cluster, "address": "127.0.0.1:2", "since_ms": 1}]),
        json!([7]),
        json!("x"),
    ] {
        assert_eq!(told(other), []);
    }
}
