//! A control plane on real ports, with real clients: registration, closure, what is pushed and what is not, draining.
//!
//! Nothing here sleeps: to show that nothing was pushed, a client asks for something else and sees that the answer to
//! that is the first thing that comes.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is the test that fails"
)]

mod client;
mod envoy;

use client::{Control, Proxy};
use naka_wire::envoy::config::core::v3::HealthStatus;
use naka_wire::envoy::config::endpoint::v3::ClusterLoadAssignment;
use naka_wire::envoy::config::route::v3::{VirtualHost, route, route_action::ClusterSpecifier};
use naka_wire::type_url::{CLUSTER, ENDPOINT, VIRTUAL_HOST};
use naka_wire::v1::register_request::State;
use naka_xds::Resource;
use serde_json::json;

const PAYMENT: &str = "80/payment.default.svc.cluster.local:80";
const PAYMENT_CLUSTER: &str = "outbound|80||payment.default.svc.cluster.local";
const V1_CLUSTER: &str = "outbound|80|v1|payment.default.svc.cluster.local";

fn canary(v1: u32, v2: u32) -> serde_json::Value {
    json!([
        {
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": "payment", "namespace": "default"},
            "spec": {"host": "payment", "subsets": [
                {"name": "v1", "labels": {"version": "v1"}},
                {"name": "v2", "labels": {"version": "v2"}},
            ]},
        },
        {
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "payment", "namespace": "default"},
            "spec": {"hosts": ["payment"], "http": [{"route": [
                {"destination": {"host": "payment", "subset": "v1"}, "weight": v1},
                {"destination": {"host": "payment", "subset": "v2"}, "weight": v2},
            ]}]},
        },
    ])
}

fn weights(resource: &Resource) -> Vec<(String, u32)> {
    let host: VirtualHost = naka_wire::unpack(&resource.any).unwrap();
    let Some(route::Action::Route(action)) = &host.routes[0].action else {
        panic!("no route action in {host:?}");
    };
    match &action.cluster_specifier {
        Some(ClusterSpecifier::WeightedClusters(all)) => all
            .clusters
            .iter()
            .map(|cluster| (cluster.name.clone(), cluster.weight.unwrap().value))
            .collect(),
        Some(ClusterSpecifier::Cluster(only)) => vec![(only.clone(), 100)],
        other => panic!("unexpected {other:?}"),
    }
}

fn endpoints(resource: &Resource) -> Vec<i32> {
    let all: ClusterLoadAssignment = naka_wire::unpack(&resource.any).unwrap();
    all.endpoints
        .iter()
        .flat_map(|locality| &locality.lb_endpoints)
        .map(|endpoint| endpoint.health_status)
        .collect()
}

#[tokio::test]
async fn closure_weights_reconnect_restart_and_draining() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    let mut payment = Proxy::join(&control, "payment", "v1").await;
    payment.register(&control, State::Ready).await;
    let mut order = Proxy::join(&control, "order", "v1").await;
    order.register(&control, State::Ready).await;

    // Closure: cluster and endpoints come before the virtual host that refers to them.
    order.subscribe(&control, &[PAYMENT]).await;
    let seen = order.until(VIRTUAL_HOST, PAYMENT).await;
    let place = |type_url: &str, name: &str| {
        let found = seen
            .iter()
            .position(|r| r.type_url == type_url && r.name == name);
        found.unwrap_or_else(|| panic!("no {name} before the virtual host"))
    };
    let (cluster, endpoint) = (
        place(CLUSTER, PAYMENT_CLUSTER),
        place(ENDPOINT, PAYMENT_CLUSTER),
    );
    assert!(cluster < endpoint && endpoint < place(VIRTUAL_HOST, PAYMENT));
    assert_eq!(endpoints(&seen[endpoint]), [HealthStatus::Healthy as i32]);
    assert_eq!(
        weights(&seen[place(VIRTUAL_HOST, PAYMENT)]),
        [(PAYMENT_CLUSTER.to_owned(), 100)]
    );
    order.fence(&payment.workload_id).await;

    // A canary brings its clusters; a change of weights brings the virtual hosts of the service and nothing else.
    let applied = control.apply(&canary(90, 10)).await;
    assert_eq!(control.rollout(applied).await["done"], true);
    order.until(VIRTUAL_HOST, PAYMENT).await;
    order.fence(&order.workload_id.clone()).await;
    let applied = control.apply(&canary(50, 50)).await;
    let rollout = control.rollout(applied).await;
    assert_eq!(rollout["done"], true, "{rollout}");
    assert_eq!(rollout["acked"], json!(["order.default"]), "{rollout}");
    let pushed = order.fence("01ARZ3NDEKTSV4RRFFQ69G5FAV").await;
    assert!(!pushed.is_empty());
    assert!(
        pushed
            .iter()
            .all(|r| r.type_url == VIRTUAL_HOST && r.name.contains("/payment.")),
        "{pushed:?}"
    );
    let shown = pushed.iter().find(|r| r.name == PAYMENT).unwrap();
    assert_eq!(
        weights(shown).iter().map(|w| w.1).collect::<Vec<_>>(),
        [50, 50]
    );
    // The same again is no change for anybody.
    assert_eq!(control.apply(&canary(50, 50)).await, applied);
    assert_eq!(order.fence(&order.workload_id.clone()).await, []);

    // A new stream that says what it has gets nothing again.
    order.reconnect(&control).await;
    assert_eq!(order.fence(&payment.workload_id).await, []);

    // Nor after a restart of the control plane, whose endpoints have not all come back yet.
    let addresses = control.addresses.clone();
    control.stop().await;
    let control = Control::start(directory.path()).await;
    assert_eq!(control.addresses, addresses, "ports are kept");
    order.reconnect(&control).await;
    assert_eq!(order.fence(&payment.workload_id).await, []);
    payment.register(&control, State::Ready).await;
    order.register(&control, State::Ready).await;
    assert_eq!(order.fence(&order.workload_id.clone()).await, []);

    // Draining is pushed and is complete only once the caller acknowledged it.
    order.hold(ENDPOINT);
    let before = payment.drain().await;
    assert!(!before.complete);
    assert_eq!(before.waiting_for, ["order.default"]);
    let told = order.until(ENDPOINT, V1_CLUSTER).await;
    let told = told.iter().find(|r| r.name == V1_CLUSTER).unwrap();
    assert_eq!(endpoints(told), [HealthStatus::Draining as i32]);
    order.release();
    let after = payment.progress().await;
    assert!(after.complete, "{after:?}");
    assert!(after.dropped_silent.is_empty());
    control.stop().await;
}

#[tokio::test]
async fn refusals_name_the_proxy_and_its_words() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    let mut payment = Proxy::join(&control, "payment", "v1").await;
    payment.register(&control, State::Ready).await;
    let mut order = Proxy::join(&control, "order", "v1").await;
    order.subscribe(&control, &[PAYMENT]).await;
    order.until(VIRTUAL_HOST, PAYMENT).await;
    order.fence(&payment.workload_id).await;
    order.refuse(VIRTUAL_HOST, "this route is too much for me");
    let applied = control.apply(&canary(90, 10)).await;
    let rollout = control.rollout(applied).await;
    assert_eq!(rollout["done"], false, "{rollout}");
    let nack = &rollout["nacks"][0];
    assert_eq!(nack["proxy"], "order.default");
    assert!(
        nack["message"]
            .as_str()
            .unwrap()
            .contains("too much for me"),
        "{rollout}"
    );
    control.stop().await;
}

#[tokio::test]
async fn an_identity_serves_its_own_service_and_speaks_for_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    let mut payment = Proxy::join(&control, "payment", "v1").await;
    payment.register(&control, State::Ready).await;
    let mut delivery = Proxy::join(&control, "delivery", "v1").await;
    delivery.service = "payment".to_owned();
    let answer = delivery.try_register(&control, State::Ready).await.unwrap();
    assert!(!answer.registered);
    assert!(answer.problems[0].contains("does not cover"), "{answer:?}");
    delivery.service = "delivery".to_owned();
    delivery.account = "payment".to_owned();
    let refused = delivery
        .try_register(&control, State::Ready)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    // The twin: as itself it is welcome.
    delivery.account = "delivery".to_owned();
    assert!(
        delivery
            .try_register(&control, State::Ready)
            .await
            .unwrap()
            .registered
    );
    let refused = delivery.subscribe_as(&control, "payment").await;
    assert!(refused.contains("PermissionDenied"), "{refused}");
    control.stop().await;
}
