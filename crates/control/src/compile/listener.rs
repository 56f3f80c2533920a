//! A sidecar's inbound listener: one filter chain per declared port and way in.

use super::cluster::socket_address;
use super::gateway::message::served;
use super::inbound::{Chain, Secured, chains};
use super::{Built, Class, Dialect, INBOUND, View, tls};
use super::{limit, policy};
use crate::world::Read;
use naka_api::networking::destination_rule::ConnectionPool;
use naka_api::security::peer_authentication::MtlsMode;
use naka_types::name::ClusterName;
use naka_types::node::NAKA;
use naka_types::protocol::Protocol;
use naka_wire::envoy::config::core::v3::{Metadata, TrafficDirection, TransportSocket};
use naka_wire::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, filter,
};
use naka_wire::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action,
    route_match,
};
use naka_wire::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use naka_wire::envoy::extensions::filters::http::router::v3::Router;
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
    http_connection_manager::{RouteSpecifier, UpgradeConfig},
    http_filter,
};
use naka_wire::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use naka_wire::google::protobuf::{Any, UInt32Value};
use naka_wire::{time, values};
use std::time::Duration;

const INBOUND_PORT: u16 = 15006;

/// `virtualInbound` of the workload a class names.
pub(crate) fn inbound(view: &View<'_>, name: &str, class: &Class) -> Option<Built> {
    if name != INBOUND {
        return None;
    }
    let world = view.read(Read::Workload(class.workload_id.clone()));
    // Before it registered a sidecar serves nothing, but it has a listener.
    let chains: Vec<Chain> = match world.workload(&class.workload_id) {
        None => Vec::new(),
        Some(member) => chains(view, &member.registration),
    };
    let refers = chains.iter().flat_map(Chain::refers).collect();
    let listener = Listener {
        name: INBOUND.to_owned(),
        address: Some(socket_address("0.0.0.0", INBOUND_PORT)),
        filter_chains: chains
            .iter()
            .flat_map(|chain| messages(chain, class.peer_labels))
            .collect(),
        traffic_direction: TrafficDirection::Inbound as i32,
        ..Listener::default()
    };
    Some(Built::new(&(&chains, class.peer_labels), naka_wire::pack(&listener)).referring(refers))
}

fn messages(chain: &Chain, labels: bool) -> Vec<FilterChain> {
    let tls = |only: bool| {
        message(
            chain,
            (!only).then_some("tls"),
            Some(tls::downstream()),
            labels,
        )
    };
    let raw = |only: bool| message(chain, (!only).then_some("raw_buffer"), None, labels);
    match (chain.mode, &chain.tls) {
        (MtlsMode::Strict, _) => vec![tls(true)],
        (MtlsMode::Permissive, _) => vec![tls(false), raw(false)],
        (MtlsMode::Disable, Secured::No) => vec![raw(true)],
        (MtlsMode::Disable, Secured::With(own)) => {
            let is_http = chain.is_http();
            let socket = served(
                &own.settings,
                &own.certificates,
                own.roots.as_ref(),
                is_http,
                Dialect::Naka,
            );
            vec![message(chain, None, Some(socket), labels)]
        }
        // Nothing is served without the TLS that was wanted.
        (MtlsMode::Disable, Secured::Unusable) => Vec::new(),
    }
}

fn message(
    chain: &Chain,
    transport: Option<&str>,
    socket: Option<TransportSocket>,
    labels: bool,
) -> FilterChain {
    let name = ClusterName::Inbound { port: chain.port }.to_string();
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            destination_port: Some(UInt32Value {
                value: u32::from(chain.port),
            }),
            transport_protocol: transport.unwrap_or_default().to_owned(),
            ..FilterChainMatch::default()
        }),
        filters: filters(chain, &name, labels),
        transport_socket: socket,
        metadata: Some(metadata(chain)),
        name,
        ..FilterChain::default()
    }
}

fn metadata(chain: &Chain) -> Metadata {
    let listen = chain.listen.map(|address| address.to_string());
    let mut own = vec![
        ("protocol", chain.protocol.as_str()),
        ("service", chain.service.as_str()),
    ];
    own.extend(listen.iter().map(|address| ("listen", address.as_str())));
    own.extend(chain.closes.then_some(("closes", "true")));
    values::metadata([(NAKA, values::string_struct(own))])
}

fn filters(chain: &Chain, cluster: &str, labels: bool) -> Vec<Filter> {
    match chain.protocol {
        Protocol::Tcp | Protocol::Tls => {
            let mut all = policy::message::bytes(&chain.policies, chain.port, labels);
            all.push(tcp(cluster, &chain.pool));
            all
        }
        _ => {
            let everything = VirtualHost {
                name: format!("inbound|http|{}", chain.port),
                domains: vec!["*".to_owned()],
                routes: vec![whole(cluster)],
                ..VirtualHost::default()
            };
            let own = limit::entry(&chain.limits).map(|(name, config)| HttpFilter {
                name,
                config_type: Some(http_filter::ConfigType::TypedConfig(config)),
                ..HttpFilter::default()
            });
            let first = policy::message::http(&chain.policies, chain.port, labels);
            let first = first.into_iter().chain(own).collect();
            vec![http(first, cluster, cluster, vec![everything])]
        }
    }
}

/// Bytes as they come, to a cluster.
pub(crate) fn tcp(cluster: &str, ends: &ConnectionPool) -> Filter {
    let proxy = TcpProxy {
        stat_prefix: cluster.to_owned(),
        idle_timeout: ends.tcp_idle.map(time::to_wire),
        max_downstream_connection_duration: ends.max_connection_duration.map(time::to_wire),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..TcpProxy::default()
    };
    typed("envoy.filters.network.tcp_proxy", naka_wire::pack(&proxy))
}

/// The same through a proxy that leads on to `target`.
pub(crate) fn tunnelled(cluster: &str, target: &str, post: bool) -> Filter {
    let proxy = TcpProxy {
        stat_prefix: cluster.to_owned(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        tunneling_config: Some(tcp_proxy::TunnelingConfig {
            hostname: target.to_owned(),
            use_post: post,
            ..tcp_proxy::TunnelingConfig::default()
        }),
        ..TcpProxy::default()
    };
    typed("envoy.filters.network.tcp_proxy", naka_wire::pack(&proxy))
}

/// A route that takes everything and never times out by itself.
pub(crate) fn whole(cluster: &str) -> Route {
    Route {
        name: "default".to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
            timeout: Some(time::to_wire(Duration::ZERO)),
            ..RouteAction::default()
        })),
        ..Route::default()
    }
}

pub(crate) fn typed(name: &str, config: Any) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}

/// The filter that makes gRPC-Web gRPC. A proxy that does not know it yet passes such calls as they come.
pub(crate) fn grpc_web() -> HttpFilter {
    HttpFilter {
        name: "envoy.filters.http.grpc_web".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(naka_wire::pack(
            &GrpcWeb {},
        ))),
        is_optional: true,
        ..HttpFilter::default()
    }
}

/// An HTTP connection manager with filters before its routes, and its routes inside.
pub(crate) fn http(
    first: Vec<HttpFilter>,
    stat_prefix: &str,
    route_config: &str,
    hosts: Vec<VirtualHost>,
) -> Filter {
    let router = HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(naka_wire::pack(
            &Router::default(),
        ))),
        ..HttpFilter::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        http_filters: first.into_iter().chain([router]).collect(),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }],
        route_specifier: Some(RouteSpecifier::RouteConfig(RouteConfiguration {
            name: route_config.to_owned(),
            virtual_hosts: hosts,
            ..RouteConfiguration::default()
        })),
        ..HttpConnectionManager::default()
    };
    typed(
        "envoy.filters.network.http_connection_manager",
        naka_wire::pack(&manager),
    )
}
