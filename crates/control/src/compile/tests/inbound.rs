//! What a Sidecar says of its program's ports: with a field both dialects get what it means, without it they do not.

use super::{Key, class, compile, member, snapshot, world};
use crate::compile::{Class, Dialect, INBOUND};
use crate::registry::Health;
use naka_types::name::ClusterName;
use naka_wire::envoy::config::cluster::v3::Cluster;
use naka_wire::envoy::config::listener::v3::Listener;
use naka_wire::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use naka_wire::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;

const PORT: u16 = 8080;

fn sidecar(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s, namespace: default}}\nspec: {{{spec}}}\n"
    )
}

/// The program's cluster in words, and of bytes what an Envoy's listener says of their ends.
fn shown(manifests: &str, dialect: Dialect) -> String {
    let members = vec![member(2, "payment", "v1", Health::Healthy)];
    let world = world(&snapshot(manifests), members);
    let workload_id = format!("{:026}", 2);
    let class = Class {
        dialect,
        workload_id,
        ..class()
    };
    let key = Key::Cluster(ClusterName::Inbound { port: PORT });
    let cluster: Cluster = super::message(&compile(&world, &key, &class));
    let http = cluster.typed_extension_protocol_options.values().next();
    let http = http.map(|any| naka_wire::unpack::<HttpProtocolOptions>(any).unwrap());
    let listener = match dialect {
        Dialect::Envoy => format!("inbound_{PORT}"),
        _ => INBOUND.to_owned(),
    };
    let listener = compile(&world, &Key::Listener(listener), &class);
    let ends: Vec<TcpProxy> = match &listener.resource {
        None => Vec::new(),
        Some(_) => {
            let listener: Listener = super::message(&listener);
            let filters = listener
                .filter_chains
                .iter()
                .flat_map(|chain| &chain.filters);
            filters.filter_map(tcp).collect()
        }
    };
    let plain = Cluster {
        typed_extension_protocol_options: Default::default(),
        ..cluster
    };
    format!("{plain:?} {http:?} {ends:?}")
}

fn tcp(filter: &naka_wire::envoy::config::listener::v3::Filter) -> Option<TcpProxy> {
    use naka_wire::envoy::config::listener::v3::filter::ConfigType;
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) if filter.name.ends_with("tcp_proxy") => {
            naka_wire::unpack(any).ok()
        }
        _ => None,
    }
}

/// Protocol of the port, a field, and words that only the field brings.
const ROWS: &[(&str, &str, &str)] = &[
    (
        "HTTP",
        "tcp: {maxConnections: 7}",
        "max_connections: Some(UInt32Value { value: 7 })",
    ),
    (
        "HTTP",
        "tcp: {connectTimeout: 77s}",
        "connect_timeout: Some(Duration { seconds: 77",
    ),
    (
        "HTTP",
        "tcp: {tcpKeepalive: {probes: 7}}",
        "keepalive_probes: Some(UInt32Value { value: 7 })",
    ),
    (
        "HTTP",
        "tcp: {tcpKeepalive: {time: 77s}}",
        "keepalive_time: Some(UInt32Value { value: 77 })",
    ),
    (
        "HTTP",
        "tcp: {tcpKeepalive: {interval: 77s}}",
        "keepalive_interval: Some(UInt32Value { value: 77 })",
    ),
    (
        "HTTP",
        "tcp: {maxConnectionDuration: 77s}",
        "max_connection_duration: Some(Duration { seconds: 77",
    ),
    (
        "TCP",
        "tcp: {maxConnectionDuration: 77s}",
        "Some(Duration { seconds: 77",
    ),
    (
        "TCP",
        "tcp: {idleTimeout: 77s}",
        "idle_timeout: Some(Duration { seconds: 77",
    ),
    (
        "HTTP",
        "http: {http1MaxPendingRequests: 7}",
        "max_pending_requests: Some(UInt32Value { value: 7 })",
    ),
    (
        "HTTP",
        "http: {http2MaxRequests: 7}",
        "max_requests: Some(UInt32Value { value: 7 })",
    ),
    (
        "HTTP",
        "http: {maxRequestsPerConnection: 7}",
        "max_requests_per_connection: Some(UInt32Value { value: 7 })",
    ),
    (
        "HTTP",
        "http: {maxRetries: 7}",
        "max_retries: Some(UInt32Value { value: 7 })",
    ),
    (
        "HTTP",
        "http: {idleTimeout: 77s}",
        "idle_timeout: Some(Duration { seconds: 77",
    ),
    (
        "HTTP",
        "http: {useClientProtocol: true}",
        "UseDownstreamProtocolConfig",
    ),
    (
        "HTTP2",
        "http: {maxConcurrentStreams: 7}",
        "max_concurrent_streams: Some(UInt32Value { value: 7 })",
    ),
    (
        "HTTP2",
        "http: {http2KeepAlive: {interval: 77s, timeout: 5s}}",
        "interval: Some(Duration { seconds: 77",
    ),
    (
        "HTTP2",
        "http: {http2KeepAlive: {interval: 78s, timeout: 7s}}",
        "timeout: Some(Duration { seconds: 7,",
    ),
];

#[test]
fn limits_of_a_program_show_in_what_proxies_get() {
    for (protocol, pool, word) in ROWS {
        for dialect in [Dialect::Naka, Dialect::Envoy] {
            let port = format!("port: {{number: {PORT}, protocol: {protocol}, name: x}}");
            let own = sidecar(&format!(
                "ingress: [{{{port}, connectionPool: {{{pool}}}}}]"
            ));
            let wide = sidecar(&format!(
                "ingress: [{{{port}}}], inboundConnectionPool: {{{pool}}}"
            ));
            let neither = sidecar(&format!("ingress: [{{{port}}}]"));
            let other = pool.replace('7', "9").replace("true", "false");
            let other = sidecar(&format!(
                "ingress: [{{{port}}}], inboundConnectionPool: {{{other}}}"
            ));
            for with in [&own, &wide] {
                let shown = shown(with, dialect);
                assert!(shown.contains(word), "{pool} {dialect:?}: {shown}");
            }
            for without in [&neither, &other] {
                let shown = shown(without, dialect);
                assert!(!shown.contains(word), "{pool} {dialect:?}: {shown}");
            }
        }
    }
}

/// As in Istio: what the called end would be upgraded to is for callers to say.
#[test]
fn an_upgrade_of_callers_is_none_of_the_program() {
    for dialect in [Dialect::Naka, Dialect::Envoy] {
        let of = |pool: &str| {
            shown(
                &sidecar(&format!("inboundConnectionPool: {{http: {{{pool}}}}}")),
                dialect,
            )
        };
        assert_eq!(
            of("h2UpgradePolicy: UPGRADE"),
            of("h2UpgradePolicy: DO_NOT_UPGRADE")
        );
        assert_eq!(of("h2UpgradePolicy: UPGRADE"), of(""));
    }
}

/// A port's own limits, then the Sidecar's, then those of the service's DestinationRule.
#[test]
fn the_nearest_limits_hold_at_the_program() {
    let rule = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: payment, namespace: default}\n\
        spec: {host: payment, trafficPolicy: {connectionPool: {tcp: {maxConnections: 3}}, \
        portLevelSettings: [{port: {number: 81}, connectionPool: {tcp: {maxConnections: 4}}}]}}\n";
    let port = format!("port: {{number: {PORT}, protocol: HTTP, name: x}}");
    let own = "connectionPool: {tcp: {maxConnections: 1}}";
    let wide = "inboundConnectionPool: {tcp: {maxConnections: 2}}";
    for (objects, limit) in [
        (
            format!(
                "{}{rule}",
                sidecar(&format!("ingress: [{{{port}, {own}}}], {wide}"))
            ),
            1,
        ),
        (
            format!(
                "{}{rule}",
                sidecar(&format!("ingress: [{{{port}}}], {wide}"))
            ),
            2,
        ),
        (
            format!("{}{rule}", sidecar(&format!("ingress: [{{{port}}}]"))),
            3,
        ),
        (rule.to_owned(), 3),
        (rule.replace("number: 81", "number: 80"), 4),
    ] {
        let shown = shown(&objects, Dialect::Naka);
        let word = format!("max_connections: Some(UInt32Value {{ value: {limit} }})");
        assert!(shown.contains(&word), "{objects}: {shown}");
    }
}
