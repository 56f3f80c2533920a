//! What each measure counts, in tables.

use super::*;
use serde_json::json;

fn workload(service: &str, version: &str) -> Value {
    json!({
        "workload_name": format!("{service}-{version}"), "namespace": "default", "service": service, "state": "healthy",
        "identity": format!("spiffe://cluster.local/ns/default/sa/{service}"),
        "labels": {"app": service, "version": version}, "gateway": [],
    })
}

fn object(kind: &str, namespace: &str, spec: Value) -> Value {
    json!({"kind": kind, "metadata": {"namespace": namespace, "name": "x"}, "spec": spec})
}

/// Two services, and these objects.
fn with(objects: Vec<Value>) -> Inventory {
    Inventory {
        objects,
        workloads: vec![
            workload("pay", "v1"),
            workload("pay", "v2"),
            workload("shop", "v1"),
        ],
        ..Inventory::default()
    }
}

/// A measure, objects, and how many fall short.
type Row = (&'static str, Vec<Value>, usize);

/// Rows as they are told.
fn told(rows: Vec<Row>) {
    for (name, objects, short) in rows {
        let told = format!("{objects:?}");
        assert_eq!(
            of(name, &with(objects)).short.len(),
            short,
            "{name}: {told}"
        );
    }
}

#[test]
fn policies_decide_as_they_hold_for_workloads() {
    let mode = |namespace, mode: &str| {
        object(
            "PeerAuthentication",
            namespace,
            json!({"mtls": {"mode": mode}}),
        )
    };
    let port = json!({"selector": {"matchLabels": {"app": "pay"}}, "portLevelMtls": {"80": {"mode": "PERMISSIVE"}}});
    let chosen = json!({"selector": {"matchLabels": {"app": "shop"}}, "mtls": {"mode": "DISABLE"}});
    let peer = |spec: &Value| object("PeerAuthentication", "default", spec.clone());
    let policy = |namespace, spec: Value| object("AuthorizationPolicy", namespace, spec);
    let strict = || mode("istio-system", "STRICT");
    let of_shop = json!({"selector": {"matchLabels": {"app": "shop"}}, "rules": [{"from": [{}]}]});
    let rows: Vec<Row> = vec![
        ("strict", vec![], 3),
        ("strict", vec![strict()], 0),
        ("strict", vec![strict(), mode("default", "PERMISSIVE")], 3),
        ("strict", vec![strict(), mode("other", "PERMISSIVE")], 0),
        ("strict", vec![strict(), mode("default", "UNSET")], 0),
        ("strict", vec![strict(), peer(&chosen)], 1),
        ("strict", vec![strict(), peer(&port)], 2),
        ("default-deny", vec![], 3),
        ("default-deny", vec![policy("istio-system", json!({}))], 0),
        ("default-deny", vec![policy("default", of_shop.clone())], 2),
        ("default-deny", vec![policy("other", json!({}))], 3),
        (
            "default-deny",
            vec![policy("default", json!({"action": "DENY"}))],
            3,
        ),
        ("least-privilege", vec![policy("default", of_shop)], 0),
        (
            "least-privilege",
            vec![policy("default", json!({"rules": [{"to": [{}]}]}))],
            1,
        ),
    ];
    told(rows);
}

#[test]
fn rules_and_routes_decide_for_the_services_they_name() {
    let rule = |spec: Value| object("DestinationRule", "default", spec);
    let route = |spec: Value| object("VirtualService", "default", spec);
    let rows: Vec<Row> = vec![
        (
            "no-plaintext",
            vec![rule(
                json!({"host": "pay", "trafficPolicy": {"tls": {"mode": "DISABLE"}}}),
            )],
            1,
        ),
        ("no-plaintext", vec![rule(json!({"host": "pay"}))], 0),
        (
            "breakers",
            vec![rule(
                json!({"host": "pay", "trafficPolicy": {"outlierDetection": {}}}),
            )],
            1,
        ),
        (
            "breakers",
            vec![rule(
                json!({"host": "payment", "trafficPolicy": {"outlierDetection": {}}}),
            )],
            2,
        ),
        (
            "routes",
            vec![route(
                json!({"hosts": ["pay.default.svc.cluster.local", "shop"]}),
            )],
            0,
        ),
        (
            "timeouts",
            vec![route(
                json!({"hosts": ["pay"], "http": [{"route": [], "timeout": "1s"}]}),
            )],
            1,
        ),
        (
            "timeouts",
            vec![route(json!({"hosts": ["pay"], "http": [{"route": []}]}))],
            2,
        ),
        (
            "egress",
            vec![object(
                "Sidecar",
                "istio-system",
                json!({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}),
            )],
            0,
        ),
        ("egress", vec![], 3),
        (
            "ingress",
            vec![object(
                "Gateway",
                "a",
                json!({"servers": [{"port": {"protocol": "HTTP"}}]}),
            )],
            1,
        ),
        (
            "ingress",
            vec![object(
                "Gateway",
                "a",
                json!({"servers": [{"port": {"protocol": "HTTPS"}}]}),
            )],
            0,
        ),
        (
            "hand-made",
            vec![rule(
                json!({"trafficPolicy": {"tls": {"privateKey": "/k"}}}),
            )],
            1,
        ),
        ("replicas", vec![], 1),
        ("identities", vec![], 0),
        ("healthy", vec![], 0),
        ("zones", vec![], 1),
    ];
    told(rows);
}

#[test]
fn who_is_missing_is_not_who_is_fine() {
    for (name, good) in [
        ("strict", false),
        ("rates", false),
        ("ingress", true),
        ("roles", true),
        ("log", true),
    ] {
        assert_eq!(of(name, &Inventory::default()).fulfilled(), good, "{name}");
    }
    let mut shared = with(Vec::new());
    shared.workloads[2]["identity"] = shared.workloads[0]["identity"].clone();
    assert_eq!(of("identities", &shared).short.len(), 3);
    shared.tokens = vec![
        json!({"kind": "api", "role": "admin", "id": "own"}),
        json!({"kind": "api", "role": "admin", "id": "a"}),
        json!({"kind": "join", "id": "b"}),
    ];
    assert_eq!(of("roles", &shared).short, ["a"]);
    shared.certificates = [0, 1]
        .map(|more| json!({"state": "valid", "not_before": 0, "not_after": A_DAY_S + more}))
        .into();
    assert_eq!(of("rotation", &shared).short.len(), 1);
    shared.checks = vec![
        ("proxy".into(), "a".into(), "warning".into()),
        ("store".into(), String::new(), "warning".into()),
    ];
    assert_eq!(of("programmed", &shared).short, ["proxy a"]);
    assert!(of("log", &shared).fulfilled());
}

/// A field is found through lists; a field that is not there, and an object of another kind, are not.
#[test]
fn objects_have_fields() {
    let rule = object(
        "VirtualService",
        "default",
        json!({"http": [{}, {"retries": {"attempts": 2}}]}),
    );
    let all = with(vec![rule]);
    for (kind, path, good) in [
        ("VirtualService", "spec.http.retries", true),
        ("VirtualService", "", true),
        ("VirtualService", "spec.http.timeout", false),
        ("DestinationRule", "", false),
    ] {
        assert_eq!(having(kind, path, &all).fulfilled(), good, "{kind} {path}");
    }
}

/// Two in one are fulfilled when each is.
#[test]
fn both_take_each() {
    let one = |good| required(vec![("a".to_owned(), good)], "nobody");
    let nobody = || required(Vec::new(), "nobody");
    let none = || fine(Vec::new(), "none");
    for (left, right, good) in [
        (one(true), one(true), true),
        (one(true), one(false), false),
        (one(false), one(true), false),
        (none(), one(true), true),
        (one(true), none(), true),
        (none(), none(), true),
        (one(true), nobody(), false),
        (nobody(), one(true), false),
    ] {
        assert_eq!(both(left, right).fulfilled(), good);
    }
}
