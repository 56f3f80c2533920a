//! A sidecar's inbound listener: one filter chain per declared port and way in.

use super::cluster::socket_address;
use super::limit::{self, Limit};
use super::policy::{self, Policies};
use super::{Built, Class, INBOUND, Key, View, tls};
use crate::registry::Registration;
use crate::world::Read;
use naka_api::networking::destination_rule::ConnectionPool;
use naka_api::security::peer_authentication::{MtlsMode, PeerAuthentication};
use naka_types::host::{Host, ROOT_NAMESPACE};
use naka_types::name::ClusterName;
use naka_types::node::NAKA;
use naka_types::protocol::Protocol;
use naka_wire::envoy::config::core::v3::{Metadata, TrafficDirection};
use naka_wire::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, filter,
};
use naka_wire::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action,
    route_match,
};
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

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    pub(crate) mode: MtlsMode,
    service: String,
    pub(crate) limits: Vec<Limit>,
    pub(crate) policies: Policies,
}

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
    let refers = chains
        .iter()
        .map(|chain| Key::Cluster(ClusterName::Inbound { port: chain.port }))
        .collect();
    let listener = Listener {
        name: INBOUND.to_owned(),
        address: Some(socket_address("0.0.0.0", INBOUND_PORT)),
        filter_chains: chains.iter().flat_map(messages).collect(),
        traffic_direction: TrafficDirection::Inbound as i32,
        ..Listener::default()
    };
    Some(Built::new(&chains, naka_wire::pack(&listener)).referring(refers))
}

/// The declared ports of a workload, sorted, with what is spoken there and what is asked of callers.
pub(crate) fn chains(view: &View<'_>, registration: &Registration) -> Vec<Chain> {
    let host = Host::of_service(&registration.service, &registration.namespace);
    let service = (!registration.service.is_empty()).then(|| host.as_str().to_owned());
    let declared = view.service(&host);
    let policies = policy::of(view, &registration.namespace, &registration.labels);
    let mut chains: Vec<Chain> = registration
        .ports
        .iter()
        .map(|served| {
            let own = match served.protocol.as_str() {
                "" | "auto" => Protocol::declared(Some(&served.name), None),
                word => Protocol::declared(None, Some(word)),
            };
            // What the workload leaves open, its service may declare under the same number.
            let protocol = match own {
                Protocol::Auto => declared
                    .and_then(|service| service.ports.get(&served.port))
                    .map_or(Protocol::Auto, |port| port.protocol),
                known => known,
            };
            Chain {
                port: served.port,
                protocol,
                mode: mode(view, registration, served.port),
                service: service.clone().unwrap_or_default(),
                limits: limit::at_service(view, &registration.namespace, &registration.service),
                policies: policies.clone(),
            }
        })
        .collect();
    chains.sort_by_key(|chain| chain.port);
    chains.dedup_by_key(|chain| chain.port);
    chains
}

/// What is asked of callers of a port: the nearest PeerAuthentication that says something. None at all leaves the
/// door open to both, as in Istio; a mesh starts with a STRICT one in the root namespace.
fn mode(view: &View<'_>, registration: &Registration, port: u16) -> MtlsMode {
    let of = |namespace: &str| {
        let read = Read::PeerAuthentications(namespace.to_owned());
        view.read(read)
            .peer_authentications
            .get(namespace)
            .map_or(&[][..], |all| all.as_slice())
            .iter()
            .filter_map(|object| object.peer_authentication())
    };
    let own: Vec<&PeerAuthentication> = of(&registration.namespace).collect();
    let root: Vec<&PeerAuthentication> = of(ROOT_NAMESPACE).collect();
    let selected = own
        .iter()
        .find(|policy| policy.selects_workload(&registration.labels));
    if let Some(policy) = selected {
        let at_port = policy.ports.get(&port).copied().flatten();
        if let Some(mode) = at_port.or(policy.mode) {
            return mode;
        }
    }
    let wide = |all: &[&PeerAuthentication]| {
        all.iter()
            .find(|policy| policy.selector.is_none())
            .and_then(|policy| policy.mode)
    };
    wide(&own)
        .or_else(|| wide(&root))
        .unwrap_or(MtlsMode::Permissive)
}

fn messages(chain: &Chain) -> Vec<FilterChain> {
    let tls = |only: bool| message(chain, (!only).then_some("tls"), true);
    let raw = |only: bool| message(chain, (!only).then_some("raw_buffer"), false);
    match chain.mode {
        MtlsMode::Strict => vec![tls(true)],
        MtlsMode::Permissive => vec![tls(false), raw(false)],
        MtlsMode::Disable => vec![raw(true)],
    }
}

fn message(chain: &Chain, transport: Option<&str>, tls: bool) -> FilterChain {
    let name = ClusterName::Inbound { port: chain.port }.to_string();
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            destination_port: Some(UInt32Value {
                value: u32::from(chain.port),
            }),
            transport_protocol: transport.unwrap_or_default().to_owned(),
            ..FilterChainMatch::default()
        }),
        filters: filters(chain, &name),
        transport_socket: tls.then(tls::downstream),
        metadata: Some(metadata(chain)),
        name,
        ..FilterChain::default()
    }
}

fn metadata(chain: &Chain) -> Metadata {
    let own = values::string_struct([
        ("protocol", chain.protocol.as_str()),
        ("service", chain.service.as_str()),
    ]);
    values::metadata([(NAKA, own)])
}

fn filters(chain: &Chain, cluster: &str) -> Vec<Filter> {
    match chain.protocol {
        Protocol::Tcp | Protocol::Tls => {
            let mut all = policy::message::bytes(&chain.policies, chain.port);
            all.push(tcp(cluster, &ConnectionPool::default()));
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
            let first = policy::message::http(&chain.policies, chain.port);
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
