//! Small worlds compiled: golden contents, order of inputs, and what a version depends on.

use super::{Class, Compiled, INBOUND, Key, compile};
use crate::registry::{Health, Member, Registration, ServedPort};
use crate::world::{Inputs, World};
use naka_api::Mode;
use naka_store::Snapshot;
use naka_types::labels::Labels;
use naka_types::name::{ClusterName, VirtualHostName};
use naka_types::node::Role;
use naka_wire::envoy::config::cluster::v3::Cluster;
use naka_wire::envoy::config::endpoint::v3::ClusterLoadAssignment;
use naka_wire::envoy::config::listener::v3::Listener;
use naka_wire::envoy::config::route::v3::{VirtualHost, route, route_action, route_match};
use naka_wire::values;
use std::collections::BTreeMap;
use std::sync::Arc;

mod balance;
mod called;
mod fields;
mod inbound;
mod resilience;

/// Objects from YAML, `created` seconds apart in the order written.
pub(crate) fn snapshot(yaml: &str) -> Snapshot {
    let decoded = naka_api::decode_yaml("test.yaml", yaml.as_bytes(), Mode::Compat);
    let objects = decoded
        .objects
        .into_iter()
        .enumerate()
        .map(|(index, mut object)| {
            object.meta.creation_timestamp = format!("2026-01-01T00:00:{index:02}Z");
            (object.reference(), Arc::new(object))
        })
        .collect();
    Snapshot {
        revision: 1,
        objects: Arc::new(objects),
        ..Snapshot::default()
    }
}

/// A serving workload.
pub(crate) fn member(id: u16, service: &str, version: &str, health: Health) -> Member {
    let registration = Registration {
        workload_id: format!("{id:026}"),
        namespace: "default".to_owned(),
        service: service.to_owned(),
        service_account: service.to_owned(),
        labels: [("app", service), ("version", version)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        workload_name: format!("{service}-{version}"),
        ports: vec![ServedPort {
            port: 8080,
            inbound_address: format!("127.0.0.1:{}", 20_000 + id),
            protocol: "http".to_owned(),
            name: String::new(),
            first: true,
        }],
        ip: "127.0.0.1".to_owned(),
        gateway: false,
        capture: String::new(),
        seen_at: String::new(),
    };
    Member {
        registration: Arc::new(registration),
        health: Some(health),
        connected: true,
    }
}

pub(crate) fn world(snapshot: &Snapshot, members: Vec<Member>) -> World {
    World::build(Inputs {
        snapshot,
        secrets: crate::world::secrets::named(snapshot, |_| None),
        members,
        owners: &BTreeMap::new(),
        trust_domain: "cluster.local".into(),
        roots: "PEM".into(),
    })
}

pub(crate) fn class() -> Class {
    Class {
        role: Role::Sidecar,
        namespace: "default".to_owned(),
        workload_id: format!("{:026}", 1),
        labels: Labels::new(),
        ..Class::default()
    }
}

fn host(name: &str) -> String {
    format!("{name}.default.svc.cluster.local")
}

fn virtual_host(name: &str, port: u16) -> Key {
    let host = host(name);
    Key::VirtualHost(VirtualHostName { host, port })
}

fn cluster(name: &str, port: u16, subset: &str) -> ClusterName {
    ClusterName::outbound(port, subset, &host(name))
}

fn message<M>(compiled: &Compiled) -> M
where
    M: naka_wire::prost::Message + naka_wire::prost::Name + Default,
{
    let resource = compiled.resource.as_ref().expect("a resource");
    naka_wire::unpack(&resource.any).unwrap()
}

const CANARY: &str = r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: payment, namespace: default}
spec:
  host: payment
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {tcp: {connectTimeout: 3s}}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: payment, namespace: default}
spec:
  hosts: [payment]
  http:
  - name: beta
    match: [{headers: {x-beta: {exact: 'yes'}}, uri: {prefix: /pay}}]
    route: [{destination: {host: payment, subset: v2}}]
  - route:
    - {destination: {host: payment, subset: v1}, weight: 90}
    - {destination: {host: payment, subset: v2}, weight: 10}
";

fn mesh() -> Vec<Member> {
    vec![
        member(1, "order", "v1", Health::Healthy),
        member(2, "payment", "v1", Health::Healthy),
        member(3, "payment", "v2", Health::Draining),
    ]
}

#[test]
fn a_service_without_objects_is_reached_by_80_and_by_its_own_port() {
    let world = world(&Snapshot::default(), mesh());
    for port in [80, 8080] {
        let compiled = compile(&world, &virtual_host("payment", port), &class());
        let shown: VirtualHost = message(&compiled);
        assert_eq!(
            shown.domains,
            [host("payment"), format!("{}:{port}", host("payment"))]
        );
        assert_eq!(shown.routes.len(), 1);
        assert_eq!(shown.routes[0].name, "default");
        assert_eq!(
            compiled.refers,
            [Key::Cluster(cluster("payment", port, ""))]
        );
        let endpoints = Key::Endpoints(cluster("payment", port, ""));
        let set: ClusterLoadAssignment = message(&compile(&world, &endpoints, &class()));
        assert_eq!(
            set.endpoints[0].lb_endpoints.len(),
            2,
            "both workloads behind {port}"
        );
    }
    for (name, port) in [("payment", 81), ("nobody", 80)] {
        let compiled = compile(&world, &virtual_host(name, port), &class());
        assert_eq!(compiled.resource, None, "{name}:{port}");
    }
}

#[test]
fn a_canary_is_weighted_and_its_clusters_come_before_it() {
    let world = world(&snapshot(CANARY), mesh());
    let compiled = compile(&world, &virtual_host("payment", 80), &class());
    assert_eq!(compiled.findings, []);
    let subsets = ["v1", "v2"].map(|subset| Key::Cluster(cluster("payment", 80, subset)));
    assert_eq!(compiled.refers, subsets);
    let shown: VirtualHost = message(&compiled);
    let names: Vec<&str> = shown
        .routes
        .iter()
        .map(|route| route.name.as_str())
        .collect();
    assert_eq!(names, ["default/payment/beta", "default/payment/1"]);
    let wanted = shown.routes[0].r#match.as_ref().unwrap();
    assert_eq!(
        wanted.path_specifier,
        Some(route_match::PathSpecifier::Prefix("/pay".into()))
    );
    assert_eq!(wanted.headers[0].name, "x-beta");
    let Some(route::Action::Route(action)) = &shown.routes[1].action else {
        panic!("{shown:?}")
    };
    let Some(route_action::ClusterSpecifier::WeightedClusters(shares)) = &action.cluster_specifier
    else {
        panic!("{action:?}")
    };
    let weights: Vec<u32> = shares
        .clusters
        .iter()
        .map(|c| c.weight.unwrap().value)
        .collect();
    assert_eq!(weights, [90, 10]);
    assert_eq!(
        action.timeout.unwrap().seconds,
        0,
        "Istio has no timeout unless written"
    );
    assert_eq!(
        action
            .retry_policy
            .as_ref()
            .unwrap()
            .num_retries
            .unwrap()
            .value,
        2
    );

    let v2: Cluster = message(&compile(&world, &subsets[1], &class()));
    assert_eq!(v2.connect_timeout.unwrap().seconds, 3);
    assert_eq!(v2.transport_socket_matches[0].name, "tlsMode-istio");
    let endpoints = Key::Endpoints(cluster("payment", 80, "v2"));
    let set: ClusterLoadAssignment = message(&compile(&world, &endpoints, &class()));
    let only = &set.endpoints[0].lb_endpoints;
    assert_eq!(only.len(), 1);
    assert_eq!(only[0].health_status, 3, "draining");
    let istio = values::of_metadata(only[0].metadata.as_ref(), "istio").unwrap();
    assert_eq!(
        values::get_str(istio, "workload"),
        Some("payment-v2;default;payment;v2;Kubernetes")
    );
}

#[test]
fn a_missing_subset_keeps_its_name_has_no_cluster_and_is_found() {
    let wrong = CANARY.replace("subset: v2}, weight: 10", "subset: v3}, weight: 10");
    let world = world(&snapshot(&wrong), mesh());
    let compiled = compile(&world, &virtual_host("payment", 80), &class());
    let shown: VirtualHost = message(&compiled);
    assert!(format!("{shown:?}").contains("outbound|80|v3|payment"));
    assert!(
        !compiled
            .refers
            .contains(&Key::Cluster(cluster("payment", 80, "v3")))
    );
    assert_eq!(compiled.findings.len(), 1);
    let finding = &compiled.findings[0];
    assert_eq!(finding.field, "spec.http[1].route[1].destination.subset");
    assert_eq!(finding.object, "VirtualService default/payment");
}

#[test]
fn the_older_virtual_service_holds_for_a_host() {
    let second = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: aaa, namespace: default}\nspec:\n  hosts: [payment]\n  http: [{route: [{destination: {host: order}}]}]\n";
    let world = world(&snapshot(&format!("{CANARY}{second}")), mesh());
    let shown: VirtualHost = message(&compile(&world, &virtual_host("payment", 80), &class()));
    assert_eq!(shown.routes.len(), 2);
    assert!(
        shown
            .routes
            .iter()
            .all(|route| route.name.starts_with("default/payment/"))
    );
}

#[test]
fn mtls_is_asked_for_as_the_nearest_policy_says() {
    let policy = |namespace: &str, mode: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {{mtls: {{mode: {mode}}}}}\n---\n"
        )
    };
    let class_of = |word: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: default, labels: {{naka.dev/data-class: {word}}}}}\n---\n"
        )
    };
    let strict = policy("istio-system", "STRICT");
    let cases = [
        (String::new(), vec![Some("tls"), Some("raw_buffer")]),
        (strict.clone(), vec![None]),
        (
            strict + &policy("default", "PERMISSIVE"),
            vec![Some("tls"), Some("raw_buffer")],
        ),
        (policy("default", "DISABLE"), vec![None]),
        // A data class that demands encryption is stricter than whatever else is said, and others are not.
        (
            class_of("confidential") + &policy("default", "PERMISSIVE"),
            vec![None],
        ),
        (
            class_of("internal") + &policy("default", "PERMISSIVE"),
            vec![Some("tls"), Some("raw_buffer")],
        ),
    ];
    for (objects, expected) in cases {
        let world = world(&snapshot(&objects), mesh());
        let key = Key::Listener(INBOUND.to_owned());
        let listener: Listener = message(&compile(&world, &key, &class()));
        let transports: Vec<Option<&str>> = listener
            .filter_chains
            .iter()
            .map(|chain| {
                let wanted = chain.filter_chain_match.as_ref().unwrap();
                assert_eq!(wanted.destination_port.unwrap().value, 8080);
                Some(wanted.transport_protocol.as_str()).filter(|text| !text.is_empty())
            })
            .collect();
        assert_eq!(transports, expected, "{objects}");
        let secured = listener
            .filter_chains
            .iter()
            .filter(|c| c.transport_socket.is_some());
        assert_eq!(secured.count() > 0, !objects.contains("DISABLE"));
    }
}

#[test]
fn a_gateway_serves_what_is_bound_to_it_and_holds_nothing_else() {
    let objects = r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: [shop.example.com]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: default}
spec:
  hosts: [shop.example.com]
  gateways: [edge]
  http:
  - {match: [{uri: {prefix: /pay}}], route: [{destination: {host: payment, port: {number: 80}}}]}
  - {route: [{destination: {host: order}}]}
";
    let world = world(&snapshot(objects), mesh());
    let mut gateway = Class {
        role: Role::Gateway,
        ..class()
    };
    let key = Key::Listener("0.0.0.0_8080".to_owned());
    assert_eq!(
        compile(&world, &key, &gateway).resource,
        None,
        "not selected"
    );
    gateway
        .labels
        .insert("istio".into(), "ingressgateway".into());
    let compiled = compile(&world, &key, &gateway);
    assert!(compiled.resource.is_some());
    let expected = [
        Key::Cluster(cluster("order", 80, "")),
        Key::Cluster(cluster("payment", 80, "")),
    ];
    let mut refers = compiled.refers.clone();
    refers.sort();
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(refers, expected);
    // Nothing of it reaches sidecars.
    let sidecars = compile(&world, &virtual_host("order", 80), &class());
    let shown: VirtualHost = message(&sidecars);
    assert_eq!(shown.routes[0].name, "default");
}

#[test]
fn versions_depend_on_content_and_on_nothing_else() {
    let keys = [
        virtual_host("payment", 80),
        Key::Cluster(cluster("payment", 80, "v1")),
        Key::Endpoints(cluster("payment", 80, "")),
        Key::Names,
        Key::RootCa,
        Key::Listener(INBOUND.to_owned()),
    ];
    let versions = |snapshot: &Snapshot, members: Vec<Member>| -> Vec<String> {
        let world = world(snapshot, members);
        keys.iter()
            .map(|key| {
                let compiled = compile(&world, key, &class());
                compiled.resource.unwrap().version.to_string()
            })
            .collect()
    };
    let objects = snapshot(CANARY);
    let first = versions(&objects, mesh());
    for turn in 0..20 {
        let mut members = mesh();
        fastrand::Rng::with_seed(turn).shuffle(&mut members);
        assert_eq!(versions(&objects, members), first);
    }
    // The twin: other content, other version, and only where it is.
    let other = snapshot(&CANARY.replace("weight: 90", "weight: 80"));
    let second = versions(&other, mesh());
    assert_ne!(second[0], first[0]);
    assert_eq!(second[1..], first[1..]);
}

#[test]
fn limits_of_a_pool_are_passed_on_and_zero_is_none() {
    for (number, expected) in [(7, Some(7)), (0, None)] {
        let rule = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: p, namespace: default}}\nspec:\n  host: payment\n  trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {number}}}, http: {{http1MaxPendingRequests: {number}, http2MaxRequests: {number}, maxRetries: {number}}}}}}}\n"
        );
        let world = world(&snapshot(&rule), mesh());
        let key = Key::Cluster(cluster("payment", 80, ""));
        let message: Cluster = message(&compile(&world, &key, &class()));
        let limits = &message.circuit_breakers.unwrap().thresholds[0];
        let all = [
            limits.max_connections,
            limits.max_pending_requests,
            limits.max_requests,
            limits.max_retries,
        ];
        assert_eq!(all.map(|limit| limit.map(|l| l.value)), [expected; 4]);
    }
}
