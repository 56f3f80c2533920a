//! Listeners of an Envoy: one per declared port, the forward proxy, the upstreams, or a gateway's ports.

use super::manager::{Place, Routes, filter};
use super::{HTTP_PROXY, INBOUND, extension, route};
use crate::compile;
use crate::compile::cluster::{pool, socket_address};
use crate::compile::gateway::chain::Serves;
use crate::compile::inbound::{Chain, Secured, chains};
use crate::compile::listener::{tcp, tunnelled, whole};
use crate::compile::{Built, Class, Key, View, cluster, gateway, roots, tls};
use crate::world::{Domains, Read};
use naka_api::networking::destination_rule::ConnectionPool;
use naka_api::security::peer_authentication::MtlsMode;
use naka_types::header;
use naka_types::name::ClusterName;
use naka_types::node::Role;
use naka_types::protocol::Protocol;
use naka_wire::envoy::config::core::v3::TrafficDirection;
use naka_wire::envoy::config::listener::v3::{
    AdditionalAddress, Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter,
    listener_filter,
};
use naka_wire::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use naka_wire::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use naka_wire::google::protobuf::UInt32Value;
use naka_wire::time;
use std::net::SocketAddr;
use std::time::Duration;

/// Time for the first bytes of a stranger, as in `proxy::limits`.
const FIRST_BYTES: Duration = Duration::from_secs(10);
/// What one stranger's connection may hold in memory (Envoy's advice for the edge).
const BUFFER_BYTES: u32 = 32 * 1024;

/// Name of the listener of a program's port.
pub(super) fn inbound_name(port: u16) -> String {
    format!("{INBOUND}{port}")
}

/// The listener of that name, if the Envoy has one.
pub(super) fn listener(view: &View<'_>, name: &str, class: &Class) -> Option<Built> {
    if class.role == Role::Gateway {
        return edge(view, name, class);
    }
    if name == HTTP_PROXY {
        let bind = class.binds.http_proxy?;
        let routes = named(HTTP_PROXY);
        let manager = filter(HTTP_PROXY, Place::ForwardProxy, routes, Vec::new());
        let (routes, ends) = (Key::Routes(name.to_owned()), ConnectionPool::default());
        return Some(outbound(name, bind, manager, routes, &(ends, None)));
    }
    if let Some(bind) = super::saying(view, name, class) {
        let manager = filter(name, Place::Outbound, named(name), Vec::new());
        let (routes, ends) = (Key::Routes(name.to_owned()), ConnectionPool::default());
        return Some(outbound(name, bind, manager, routes, &(ends, None)));
    }
    let mut upstreams = super::upstreams(view, class).into_iter();
    match upstreams.find(|(upstream, _)| upstream.listener() == name) {
        Some((upstream, said)) => {
            let upstream = &upstream;
            let (cluster, protocol) = route::destination(view, upstream, class);
            let protocol = said.over(protocol);
            let bytes = matches!(protocol, Protocol::Tcp | Protocol::Tls | Protocol::Auto);
            let mut ends = ConnectionPool::default();
            let mut led = None;
            let (filter, refers) = if bytes {
                ends = pool(view, &cluster, class);
                let routed = route::routed(view, upstream, class);
                let filter = match (cluster::tunnel(view, &cluster, class), &routed) {
                    (None, None) => tcp(&cluster.to_string(), &ends),
                    (None, Some(route)) => gateway::message::tcp(route, &ends),
                    (Some((target, post)), _) => tunnelled(&cluster.to_string(), &target, post),
                };
                led = routed;
                (filter, Key::Cluster(cluster))
            } else {
                let manager = filter(name, Place::Outbound, named(name), Vec::new());
                (manager, Key::Routes(name.to_owned()))
            };
            Some(outbound(name, upstream.bind, filter, refers, &(ends, led)))
        }
        None => inbound(view, name, class),
    }
}

fn named(routes: &str) -> Routes {
    Routes::Named(routes.to_owned())
}

/// `ends` is what the filter says of the end of its connections.
fn outbound(
    name: &str,
    bind: SocketAddr,
    filter: Filter,
    refers: Key,
    bytes: &(ConnectionPool, Option<gateway::bytes::Route>),
) -> Built {
    let message = Listener {
        name: name.to_owned(),
        address: Some(socket_address(&bind.ip().to_string(), bind.port())),
        filter_chains: vec![FilterChain {
            filters: vec![filter],
            ..FilterChain::default()
        }],
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Listener::default()
    };
    let led = bytes.1.iter().flat_map(|route| &route.shares);
    let mut all: Vec<Key> = led.map(|(name, _)| Key::Cluster(name.clone())).collect();
    let built = Built::new(&(name, bind, &refers, bytes), naka_wire::pack(&message));
    all.push(refers);
    built.referring(all)
}

/// A gateway's port. Connections that no chain takes are closed; a port without any chain has no listener, because an
/// Envoy refuses one that serves nothing.
fn edge(view: &View<'_>, name: &str, class: &Class) -> Option<Built> {
    let ports = roots::gateway_ports(view, class);
    let port = ports
        .into_iter()
        .find(|port| gateway::name(*port) == name)?;
    let everywhere = SocketAddr::from(([0, 0, 0, 0], port));
    let bind = class.binds.gateway_ports.get(&port).unwrap_or(&everywhere);
    let at = gateway::place(view, class, port);
    let chains = gateway::chain::chains(&at);
    let domains = &view.read(Read::Trust).domains;
    let whole = gateway::port::port(view, &gateway::chain::stands(&at));
    let before_bytes = extension::before_bytes(name);
    let to = gateway::message::For {
        dialect: class.dialect,
        domains,
        port: &whole,
        before: extension::bytes(&before_bytes),
    };
    let mut refers = Vec::new();
    let mut model = Vec::new();
    let mut messages = Vec::new();
    for chain in &chains {
        let routes = gateway::routes_name(&chain.name);
        let places = extension::before_requests(name, Some(&chain.name));
        messages.push(gateway::message::chain(chain, &to, || {
            let web = chain.grpc_web.then(compile::listener::grpc_web);
            let first = extension::requests(&places).into_iter().chain(web);
            let first = first.collect();
            let counted = chain.server.as_deref().unwrap_or(name);
            filter(counted, Place::Edge, named(&routes), first)
        }));
        match &chain.serves {
            // Routes have a resource of their own, so that a change of them drains nothing.
            Serves::Http(_) => {
                refers.push(Key::Routes(routes));
                refers.extend(extension::keys(places));
                model.push(format!(
                    "{:?} {:?} {:?} {} {:?}",
                    chain.name, chain.wants, chain.security, chain.grpc_web, chain.server
                ));
            }
            Serves::Bytes(_) | Serves::Named(_) => {
                refers.extend(extension::keys(before_bytes.clone()));
                model.push(format!("{chain:?}"));
            }
        }
    }
    refers.extend(
        gateway::refers(&at, &chains)
            .into_iter()
            .filter(|key| match key {
                Key::Credential(_) | Key::Raw(_) => true,
                Key::Cluster(name) => chains.iter().any(|chain| match &chain.serves {
                    Serves::Bytes(route) => route.shares.iter().any(|(known, _)| known == name),
                    Serves::Http(_) | Serves::Named(_) => false,
                }),
                _ => false,
            }),
    );
    if messages.is_empty() {
        return None;
    }
    let message = Listener {
        name: name.to_owned(),
        address: Some(socket_address(&bind.ip().to_string(), bind.port())),
        listener_filters: whole
            .rate()
            .into_iter()
            .chain(whole.heads())
            .chain(chains.iter().any(|chain| chain.wants.tls).then(inspector))
            .collect(),
        listener_filters_timeout: Some(time::to_wire(FIRST_BYTES)),
        per_connection_buffer_limit_bytes: Some(UInt32Value {
            value: BUFFER_BYTES,
        }),
        filter_chains: messages,
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Listener::default()
    };
    Some(
        Built::new(
            &(name, bind, domains, &model, &whole),
            naka_wire::pack(&message),
        )
        .referring(refers),
    )
}

fn inspector() -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(naka_wire::pack(
            &TlsInspector::default(),
        ))),
        ..ListenerFilter::default()
    }
}

fn inbound(view: &View<'_>, name: &str, class: &Class) -> Option<Built> {
    let world = view.read(Read::Workload(class.workload_id.clone()));
    let registration = &world.workload(&class.workload_id)?.registration;
    let chain = chains(view, registration)
        .into_iter()
        .find(|chain| inbound_name(chain.port) == name)?;
    let mut served = registration.ports.iter();
    let served = served.find(|served| served.port == chain.port);
    let registered = served.and_then(|served| served.inbound_address.parse().ok());
    let bind: SocketAddr = registered.or(chain.listen)?;
    let beside = chain.listen.filter(|beside| *beside != bind);
    let domains = &view.read(Read::Trust).domains;
    let both = chain.mode == MtlsMode::Permissive;
    let mut messages = Vec::new();
    if chain.mode != MtlsMode::Disable {
        messages.push(message(&chain, both.then_some("tls"), Some(domains)));
    }
    match &chain.tls {
        _ if chain.mode == MtlsMode::Strict => {}
        Secured::No => messages.push(message(&chain, both.then_some("raw_buffer"), None)),
        Secured::With(own) => {
            let (certificates, roots) = (&own.certificates, own.roots.as_ref());
            let is_http = chain.is_http();
            let served = gateway::message::served;
            let mut message = message(&chain, None, None);
            message.transport_socket = Some(served(
                &own.settings,
                certificates,
                roots,
                is_http,
                class.dialect,
            ));
            messages.push(message);
        }
        // An Envoy refuses a listener that serves nothing; none is the same to callers.
        Secured::Unusable => return None,
    }
    let listener = Listener {
        name: name.to_owned(),
        address: Some(socket_address(&bind.ip().to_string(), bind.port())),
        additional_addresses: beside
            .map(|beside| AdditionalAddress {
                address: Some(socket_address(&beside.ip().to_string(), beside.port())),
                ..AdditionalAddress::default()
            })
            .into_iter()
            .collect(),
        listener_filters: both.then(inspector).into_iter().collect(),
        filter_chains: messages,
        traffic_direction: TrafficDirection::Inbound as i32,
        ..Listener::default()
    };
    let mut refers = chain.refers();
    refers.extend(extension::keys(places(&chain)));
    // Policies and limits stand in places of their own, and where the program listens in its cluster.
    let Chain {
        port,
        protocol,
        mode,
        pool,
        tls,
        listen,
        service: _,
        limits: _,
        policies: _,
        at: _,
        // An Envoy ends nothing for it.
        closes: _,
    } = &chain;
    let shape = (port, protocol, mode, pool, tls, listen, bind, domains);
    Some(Built::new(&shape, naka_wire::pack(&listener)).referring(refers))
}

fn places(chain: &Chain) -> Vec<extension::Extension> {
    let name = inbound_name(chain.port);
    if chain.is_http() {
        extension::before_requests(&name, None)
    } else {
        extension::before_bytes(&name)
    }
}

/// Headers that only a verified proxy of the mesh may send.
fn unbelieved() -> Vec<String> {
    let own = [
        header::REASON,
        header::KEEP,
        header::WORKLOAD,
        header::ATTEMPT_COUNT,
    ];
    let all = own.into_iter().chain(header::FROM_OWN_PROGRAM);
    all.map(str::to_owned).collect()
}

fn message(chain: &Chain, transport: Option<&str>, believed: Option<&Domains>) -> FilterChain {
    let cluster = ClusterName::Inbound { port: chain.port }.to_string();
    let bytes = !chain.is_http();
    let alpn: &[&str] = if bytes {
        &["naka-tcp", "istio"]
    } else {
        &["h2", "http/1.1"]
    };
    let places = places(chain);
    let mut filters = Vec::new();
    if bytes {
        filters.extend(extension::bytes(&places));
        filters.push(tcp(&cluster, &chain.pool));
    } else {
        let everything = VirtualHost {
            name: format!("inbound|http|{}", chain.port),
            domains: vec!["*".to_owned()],
            routes: vec![whole(&cluster)],
            ..VirtualHost::default()
        };
        let routes = Routes::Inline(Box::new(RouteConfiguration {
            name: cluster.clone(),
            virtual_hosts: vec![everything],
            request_headers_to_remove: match believed {
                Some(_) => Vec::new(),
                None => unbelieved(),
            },
            ..RouteConfiguration::default()
        }));
        let web = (chain.protocol == Protocol::GrpcWeb).then(compile::listener::grpc_web);
        let first = extension::requests(&places).into_iter().chain(web);
        let first = first.collect();
        filters.push(filter(&cluster, Place::Inbound, routes, first));
    }
    FilterChain {
        name: format!("{cluster}{}", transport.unwrap_or_default()),
        filter_chain_match: transport.map(|transport| FilterChainMatch {
            transport_protocol: transport.to_owned(),
            ..FilterChainMatch::default()
        }),
        filters,
        transport_socket: believed.map(|domains| tls::envoy_downstream(alpn, domains)),
        ..FilterChain::default()
    }
}
