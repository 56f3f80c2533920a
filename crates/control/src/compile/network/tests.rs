//! Who gets which addresses: by the network of the caller, of endpoints, and by the gateways there are.

use super::common_multiple;
use crate::compile::tests::{class, snapshot, world};
use crate::compile::{Class, Dialect, Key, compile};
use naka_types::name::ClusterName;
use naka_wire::envoy::config::core::v3::{HealthStatus, address::Address};
use naka_wire::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};

const HOST: &str = "bank.example";
const MTLS: &str = "labels: {security.istio.io/tlsMode: istio}";

fn gateway(name: &str, network: &str, ips: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: istio-system, labels: {{topology.istio.io/network: {network}}}}}, spec: {{ports: [{{port: 1}}], externalIPs: {ips}}}}}\n"
    )
}

fn rule(tls: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r, namespace: default}}\nspec: {{host: {HOST}, trafficPolicy: {{tls: {{mode: {tls}}}}}}}\n"
    )
}

/// `address weight` of each endpoint that a caller gets.
fn dialled(endpoints: &[&str], more: &str, class: &Class) -> Vec<String> {
    let mut entry = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, namespace: default}}\nspec:\n  hosts: [{HOST}]\n  location: MESH_INTERNAL\n  ports: [{{number: 80, name: http}}]\n  resolution: STATIC\n  endpoints:\n"
    );
    for endpoint in endpoints {
        entry.push_str(&format!("  - {{{endpoint}}}\n"));
    }
    let world = world(&snapshot(&(entry + more)), Vec::new());
    let mut class = class.clone();
    class.network = world.network_of_caller(&class.labels);
    let key = Key::Endpoints(ClusterName::outbound(80, "", HOST));
    let compiled = compile(&world, &key, &key.scope(&class));
    let any = &compiled.resource.as_ref().expect("endpoints").any;
    let assignment: ClusterLoadAssignment = naka_wire::unpack(any).unwrap();
    let all = assignment
        .endpoints
        .iter()
        .flat_map(|group| &group.lb_endpoints);
    let mut all: Vec<String> = all
        .map(|one| {
            assert_eq!(one.health_status(), HealthStatus::Healthy);
            let Some(HostIdentifier::Endpoint(endpoint)) = &one.host_identifier else {
                panic!("{one:?}");
            };
            let at = endpoint.address.as_ref().and_then(|a| a.address.as_ref());
            let Some(Address::SocketAddress(at)) = at else {
                panic!("{endpoint:?}");
            };
            let weight = one.load_balancing_weight.as_ref().unwrap().value;
            format!("{} {weight}", at.address)
        })
        .collect();
    all.sort();
    all
}

fn within(network: &str) -> Class {
    Class {
        labels: [("topology.istio.io/network".to_owned(), network.to_owned())].into(),
        ..class()
    }
}

#[test]
fn the_gateway_stands_for_endpoints_of_other_networks() {
    let near = format!("address: 192.0.2.1, network: here, {MTLS}");
    let far = format!("address: 192.0.2.2, network: there, weight: 3, {MTLS}");
    let further = format!("address: 192.0.2.3, network: there, {MTLS}");
    let plain = "address: 192.0.2.4, network: there".to_owned();
    let free = format!("address: 192.0.2.5, {MTLS}");
    let lone = format!("address: 192.0.2.6, network: lone, {MTLS}");
    let all = [&near, &far, &further, &plain, &free, &lone].map(String::as_str);
    let directly = [
        "192.0.2.1 1",
        "192.0.2.2 3",
        "192.0.2.3 1",
        "192.0.2.4 1",
        "192.0.2.5 1",
        "192.0.2.6 1",
    ];
    let one = gateway("one", "there", "[198.51.100.1]");
    // Nobody has a gateway; the caller is in all networks; everything is of its own.
    assert_eq!(dialled(&all, "", &within("here")), directly);
    assert_eq!(dialled(&all, &one, &class()), directly);
    assert_eq!(dialled(&all, &one, &within("there")), directly);
    assert_eq!(
        dialled(&all, &one, &within("here")),
        [
            "192.0.2.1 1",
            "192.0.2.5 1",
            "192.0.2.6 1",
            "198.51.100.1 4"
        ]
    );
    // Several gateways share, and nobody's share changes by that.
    let two = gateway("two", "there", "[198.51.100.1, 198.51.100.2]");
    let three = gateway(
        "three",
        "other",
        "[198.51.100.7, 198.51.100.8, 198.51.100.9]",
    );
    assert_eq!(
        dialled(&all, &(two + &three), &within("here")),
        [
            "192.0.2.1 6",
            "192.0.2.5 6",
            "192.0.2.6 6",
            "198.51.100.1 12",
            "198.51.100.2 12"
        ]
    );
}

#[test]
fn a_gateway_leads_on_mesh_mtls_and_nothing_else() {
    let far = format!("address: 192.0.2.2, network: there, {MTLS}");
    let one = gateway("one", "there", "[198.51.100.1]");
    let none: [&str; 0] = [];
    for (tls, want) in [
        ("ISTIO_MUTUAL", vec!["198.51.100.1 1"]),
        ("DISABLE", vec![]),
        ("SIMPLE", vec![]),
    ] {
        let more = one.clone() + &rule(tls);
        assert_eq!(dialled(&[&far], &more, &within("here")), want, "{tls}");
    }
    let grpc = Class {
        dialect: Dialect::Grpc,
        ..within("here")
    };
    assert_eq!(dialled(&[&far], &one, &grpc), none);
}

#[test]
fn a_gateway_stands_where_what_is_behind_it_does() {
    let far =
        |place: &str| format!("address: 192.0.2.2, network: there, locality: {place}, {MTLS}");
    let (a, b) = (far("in/mumbai/1"), far("in/pune"));
    let one = gateway("one", "there", "[198.51.100.1]");
    let found = dialled(&[&a, &b], &one, &within("here"));
    assert_eq!(found, ["198.51.100.1 1", "198.51.100.1 1"]);
}

#[test]
fn weights_divide_by_every_number_of_gateways() {
    for (counts, want) in [
        (vec![], 1),
        (vec![1], 1),
        (vec![2, 3, 4], 12),
        (vec![0, 2], 2),
    ] {
        assert_eq!(common_multiple(counts.into_iter()), want);
    }
}
