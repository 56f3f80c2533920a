//! Configuration for gRPC clients without a proxy: what a client names, as gRPC reads it.
//!
//! A client dials `xds:///payment:80`; the listener of that name leads to the routes `<host>:<port>`, these to
//! clusters, these to endpoints that are the inbound mTLS addresses of workloads. Keys and roots come from the
//! certificate provider `default` of the client's bootstrap. What gRPC does not know it ignores or fails; a route
//! that answers by itself makes calls fail there, it never lets them through.

use super::{Built, Class, Key, View, cluster, endpoint, route, tls, vhost};
use crate::compile::route::{CORS, FAULT};
use crate::world::Service;
use naka_types::host::Host;
use naka_types::protocol::Protocol;
use naka_wire::envoy::config::listener::v3::{ApiListener, Listener};
use naka_wire::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use naka_wire::envoy::extensions::filters::http::fault::v3::HttpFault;
use naka_wire::envoy::extensions::filters::http::router::v3::Router;
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter,
};

/// Port of a name without one.
const HTTP: u16 = 80;

/// What a gRPC client cannot do that a Naka proxy would, in words for status.
#[must_use]
pub fn not_expressed() -> Vec<String> {
    [
        "copies and browsers: mirrors and cross-origin rules of routes are not known to gRPC",
        "actions: redirects, direct responses, rewrites and header changes of routes are not known to gRPC; calls on such a route fail or go on unchanged",
        "PROXY headers: proxyProtocol of a DestinationRule is not known to gRPC; its connections begin without one",
        "metrics: calls are counted by the called side alone",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Compiles a resource for a gRPC client.
pub(crate) fn resource(view: &View<'_>, key: &Key, class: &Class) -> Option<Built> {
    match key {
        Key::Listener(name) => listener(view, name, class),
        Key::Routes(name) => routes(view, name, class),
        Key::Cluster(name) => cluster::outbound(view, name, class),
        Key::Endpoints(name) => endpoint::endpoints(view, name, class),
        Key::RootCa
        | Key::Revoked
        | Key::RevokedTokens
        | Key::Credential(_)
        | Key::Raw(_)
        | Key::VirtualHost(_)
        | Key::Names
        | Key::Workload(_)
        | Key::Helper(_)
        | Key::Extension(_) => None,
    }
}

/// The service and port a client means.
fn named<'a>(
    view: &View<'a>,
    name: &str,
    class: &Class,
) -> Option<(Host, &'a Service, u16, Protocol)> {
    let (host, port) = match name.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse::<u16>().ok()?)),
        None => (name, None),
    };
    let host = Host::resolve(host, &class.namespace).ok()?;
    let service = view.serving(&host, class)?;
    let ports = &service.ports;
    let port = match port {
        Some(port) => port,
        None if ports.contains_key(&HTTP) => HTTP,
        None => *ports.keys().next()?,
    };
    let protocol = ports.get(&port)?.protocol;
    view.admits_at(service, &host, port, class)
        .then_some((host, service, port, protocol))
}

fn listener(view: &View<'_>, name: &str, class: &Class) -> Option<Built> {
    let (host, _, port, _) = named(view, name, class)?;
    let routes = format!("{host}:{port}");
    let filter = |name: &str, config| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    };
    let manager = HttpConnectionManager {
        http_filters: vec![
            filter(FAULT, naka_wire::pack(&HttpFault::default())),
            filter("router", naka_wire::pack(&Router::default())),
        ],
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(tls::ads()),
            route_config_name: routes.clone(),
        })),
        ..HttpConnectionManager::default()
    };
    let message = Listener {
        name: name.to_owned(),
        api_listener: Some(ApiListener {
            api_listener: Some(naka_wire::pack(&manager)),
        }),
        ..Listener::default()
    };
    Some(Built::new(&(name, &routes), naka_wire::pack(&message)))
}

fn routes(view: &View<'_>, name: &str, class: &Class) -> Option<Built> {
    let (host, service, port, protocol) = named(view, name, class)?;
    let at = route::Place {
        view,
        class,
        port,
        gateway: None,
    };
    let models = vhost::models(&at, &host, service, protocol);
    let mut routes: Vec<_> = models.iter().flat_map(route::messages).collect();
    // No token is read there, and gRPC passes over what it does not know: such a route would take every call.
    routes.retain(|route| {
        let asked = route.r#match.as_ref();
        asked.is_none_or(|asked| asked.dynamic_metadata.is_empty())
    });
    for route in &mut routes {
        // A filter that gRPC does not know would make it refuse the whole configuration.
        route.typed_per_filter_config.remove(CORS);
    }
    let everything = VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes,
        ..VirtualHost::default()
    };
    let config = RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![everything],
        ..RouteConfiguration::default()
    };
    Some(Built::new(&(name, &models), naka_wire::pack(&config)))
}
