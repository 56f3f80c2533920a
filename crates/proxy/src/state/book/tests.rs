//! Updates against snapshots: what is in force after each, what is refused, and what does not disturb anybody.

use super::*;
use naka_engine::model::MtlsMode;
use naka_wire::envoy::config::cluster::v3::{Cluster as WireCluster, cluster as cluster_pb};
use naka_wire::envoy::config::core::v3::{
    Address, SocketAddress, address, socket_address::PortSpecifier,
};
use naka_wire::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as WireEndpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use naka_wire::envoy::config::listener::v3::{
    Filter as WireFilter, FilterChain, FilterChainMatch, Listener, filter,
};
use naka_wire::envoy::config::route::v3 as pb;
use naka_wire::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use naka_wire::google::protobuf::UInt32Value;
use naka_wire::pack;

const CLUSTER: &str = "outbound|80||pay.default.svc.cluster.local";
const HOST: &str = "80/pay.default.svc.cluster.local:80";

fn resource(any: naka_wire::google::protobuf::Any, name: &str, version: &str) -> Resource {
    Resource {
        type_url: any.type_url.clone(),
        name: name.into(),
        version: version.into(),
        any,
    }
}

fn a_cluster(lb: cluster_pb::LbPolicy) -> Resource {
    let wire = WireCluster {
        name: CLUSTER.into(),
        cluster_discovery_type: Some(cluster_pb::ClusterDiscoveryType::Type(
            cluster_pb::DiscoveryType::Eds.into(),
        )),
        lb_policy: lb.into(),
        ..WireCluster::default()
    };
    resource(pack(&wire), CLUSTER, "1")
}

fn address(ip: &str, port: u32) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: ip.into(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..SocketAddress::default()
        })),
    }
}

fn endpoints(addresses: &[(&str, u32)]) -> Resource {
    let lb_endpoints = addresses
        .iter()
        .map(|(ip, port)| LbEndpoint {
            host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(WireEndpoint {
                address: Some(address(ip, *port)),
                ..WireEndpoint::default()
            })),
            ..LbEndpoint::default()
        })
        .collect();
    let wire = ClusterLoadAssignment {
        cluster_name: CLUSTER.into(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints,
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    };
    resource(pack(&wire), CLUSTER, "1")
}

fn a_host(cluster: &str) -> Resource {
    let wire = pb::VirtualHost {
        name: HOST.into(),
        domains: vec!["pay.default.svc.cluster.local".into()],
        routes: vec![pb::Route {
            name: "default".into(),
            r#match: Some(pb::RouteMatch {
                path_specifier: Some(pb::route_match::PathSpecifier::Prefix("/".into())),
                ..pb::RouteMatch::default()
            }),
            action: Some(pb::route::Action::Route(pb::RouteAction {
                cluster_specifier: Some(pb::route_action::ClusterSpecifier::Cluster(
                    cluster.into(),
                )),
                ..pb::RouteAction::default()
            })),
            ..pb::Route::default()
        }],
        ..pb::VirtualHost::default()
    };
    resource(pack(&wire), HOST, "1")
}

fn apply(book: &mut Book, resource: Resource) -> Vec<Reject> {
    let kind = resource.type_url.clone();
    book.apply(&kind, &[resource], &[])
}

fn filled() -> Book {
    let mut book = Book::new("default");
    assert!(apply(&mut book, a_cluster(cluster_pb::LbPolicy::LeastRequest)).is_empty());
    assert!(apply(&mut book, endpoints(&[("127.0.0.1", 4000)])).is_empty());
    assert!(apply(&mut book, a_host(CLUSTER)).is_empty());
    assert!(book.settle().snapshot.is_some());
    book
}

#[test]
fn cluster_endpoints_and_host_come_together() {
    let book = filled();
    let snapshot = book.snapshot();
    assert!(
        snapshot.virtual_host("pay", 80).is_some(),
        "also by its short name"
    );
    let cluster = snapshot.clusters().next().unwrap();
    assert_eq!(cluster.endpoints[0].address.port(), 4000);
}

#[test]
fn an_equal_update_makes_no_snapshot() {
    let mut book = filled();
    for again in [
        a_cluster(cluster_pb::LbPolicy::LeastRequest),
        endpoints(&[("127.0.0.1", 4000)]),
        a_host(CLUSTER),
    ] {
        assert!(apply(&mut book, again).is_empty());
    }
    assert!(book.settle().snapshot.is_none());
    assert!(apply(&mut book, endpoints(&[("127.0.0.1", 4001)])).is_empty());
    assert!(book.settle().snapshot.is_some(), "a different one does");
}

#[test]
fn counts_live_on_over_a_change_and_numbers_stay() {
    let mut book = filled();
    let before = book.snapshot().clusters().next().map(Arc::clone).unwrap();
    apply(
        &mut book,
        endpoints(&[("127.0.0.1", 4000), ("127.0.0.1", 4001)]),
    );
    book.settle();
    let after = book.snapshot().clusters().next().map(Arc::clone).unwrap();
    assert_eq!(before.id, after.id);
    assert!(Arc::ptr_eq(&before.runtime, &after.runtime));
    assert!(Arc::ptr_eq(
        &before.endpoints[0].state,
        &after.endpoints[0].state
    ));
    assert_eq!(after.endpoints.len(), 2);
}

#[test]
fn a_refused_resource_leaves_the_earlier_one_in_force() {
    let mut book = filled();
    let rejects = apply(&mut book, a_cluster(cluster_pb::LbPolicy::Maglev));
    assert_eq!(rejects[0].name, CLUSTER);
    assert!(
        rejects[0].reason.starts_with("lb_policy"),
        "{}",
        rejects[0].reason
    );
    assert!(book.settle().snapshot.is_none());
    let rejects = apply(&mut book, endpoints(&[("no ip", 1), ("127.0.0.1", 4002)]));
    assert!(
        rejects[0]
            .reason
            .contains("endpoints[0].lb_endpoints[0].endpoint.address")
    );
    book.settle();
    let cluster = book.snapshot().clusters().next().map(Arc::clone).unwrap();
    assert_eq!(
        cluster.endpoints[0].address.port(),
        4002,
        "the sound rest is in force"
    );
}

#[test]
fn bytes_that_are_nothing_and_types_nobody_asked_for_are_refused() {
    let mut book = filled();
    for kind in [
        type_url::CLUSTER,
        type_url::ENDPOINT,
        type_url::VIRTUAL_HOST,
        type_url::LISTENER,
        type_url::SECRET,
        type_url::NAME_FILTER,
        type_url::WORKLOAD,
        "type.googleapis.com/other",
    ] {
        let any = naka_wire::google::protobuf::Any {
            type_url: kind.into(),
            value: vec![0xff; 7],
        };
        assert_eq!(apply(&mut book, resource(any, "x", "1")).len(), 1, "{kind}");
    }
    assert!(book.settle().snapshot.is_none());
}

#[test]
fn removal_takes_out_and_a_route_to_a_missing_cluster_stands() {
    let mut book = filled();
    book.apply(type_url::CLUSTER, &[], &[CLUSTER.to_owned()]);
    book.settle();
    let snapshot = book.snapshot();
    assert_eq!(snapshot.clusters().count(), 0);
    assert!(snapshot.virtual_host("pay", 80).is_some());
    book.apply(
        type_url::VIRTUAL_HOST,
        &[],
        &[HOST.to_owned(), "unknown".to_owned()],
    );
    book.settle();
    assert!(book.snapshot().virtual_host("pay", 80).is_none());
}

fn chain(port: u32, transport: &str, filter_name: &str) -> FilterChain {
    let proxy = TcpProxy {
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(format!(
            "inbound|{port}||"
        ))),
        ..TcpProxy::default()
    };
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            destination_port: Some(UInt32Value { value: port }),
            transport_protocol: transport.into(),
            ..FilterChainMatch::default()
        }),
        filters: vec![WireFilter {
            name: filter_name.into(),
            config_type: Some(filter::ConfigType::TypedConfig(pack(&proxy))),
        }],
        ..FilterChain::default()
    }
}

#[test]
fn a_chain_with_an_unknown_filter_or_condition_is_left_out() {
    let tcp = "envoy.filters.network.tcp_proxy";
    let mut narrowed = chain(9003, "", tcp);
    narrowed.filter_chain_match.as_mut().unwrap().source_ports = vec![1];
    let listener = Listener {
        name: listener::INBOUND.into(),
        filter_chains: vec![
            chain(9001, "", tcp),
            chain(9002, "", "envoy.filters.network.rbac"),
            narrowed,
            chain(9004, "tls", tcp),
        ],
        ..Listener::default()
    };
    let mut book = Book::new("default");
    let rejects = apply(&mut book, resource(pack(&listener), listener::INBOUND, "1"));
    for field in [
        "filter_chains[1].filters[0]",
        "filter_chains[2].filter_chain_match.source_ports",
        "filter_chains[3].filter_chain_match.transport_protocol",
    ] {
        assert!(rejects[0].reason.contains(field), "{}", rejects[0].reason);
    }
    book.settle();
    assert_eq!(book.inbound_ports(), [9001].into());
    let snapshot = book.snapshot();
    assert_eq!(snapshot.inbound(9001).unwrap().mode, MtlsMode::Disable);
}
