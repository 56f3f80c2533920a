//! Virtual hosts of sidecars: the routes of one service port.
//!
//! The oldest VirtualService that holds for a caller ([`World::route_for`]) holds as a whole; younger ones are
//! Conflicted (status names the winner). A service without VirtualService has one route that takes everything.

use super::gateway::bytes;
use super::{Built, Class, Key, View, route};
use crate::world::{Service, World};
use naka_api::Object;
use naka_api::networking::virtual_service::GatewayRef;
use naka_types::host::Host;
use naka_types::name::{ClusterName, VirtualHostName};
use naka_types::protocol::Protocol;
use naka_wire::envoy::config::route::v3::VirtualHost;

/// `<port>/<host>:<port>`; there is none unless the service has the port.
pub(crate) fn virtual_host(
    view: &View<'_>,
    name: &VirtualHostName,
    class: &Class,
) -> Option<Built> {
    let host = Host::parse(&name.host).ok()?;
    let service = view.serving(&host, class)?;
    if !view.admits_at(service, &host, name.port, class) {
        return None;
    }
    let port = service.ports.get(&name.port)?;
    let at = route::Place {
        view,
        class,
        port: name.port,
        gateway: None,
    };
    let routes = models(&at, &host, service, port.protocol);
    let model = (name.to_string(), host.as_str(), &routes);
    let message = VirtualHost {
        name: name.to_string(),
        domains: vec![host.as_str().to_owned(), format!("{host}:{}", name.port)],
        routes: routes.iter().flat_map(route::messages).collect(),
        ..VirtualHost::default()
    };
    let refers = clusters(&at, &routes);
    Some(Built::new(&model, naka_wire::pack(&message)).referring(refers))
}

/// The routes of a service port.
pub(crate) fn models(
    at: &route::Place<'_, '_>,
    host: &Host,
    service: &Service,
    protocol: Protocol,
) -> Vec<route::Model> {
    let opaque = matches!(protocol, Protocol::Tcp | Protocol::Tls);
    // A host of a pattern may have routes of its own.
    let namespace = &at.class.namespace;
    let own = at.view.route(host, namespace);
    let winner = own.or_else(|| at.view.route(&service.host, namespace));
    let routes = match (winner, opaque) {
        (None, _) => None,
        (Some(object), false) => bound(at, object),
        (Some(object), true) => Some(of_bytes(at, object, (host, service), protocol)),
    };
    routes.unwrap_or_else(|| vec![route::default(at, &service.host)])
}

/// The routes of connections; those that fit none of the object's go to the service that was called.
fn of_bytes(
    at: &route::Place<'_, '_>,
    object: &Object,
    (host, service): (&Host, &Service),
    protocol: Protocol,
) -> Vec<route::Model> {
    let led = bytes::at_sidecar(at, object, host, protocol);
    let whole = led.iter().any(|led| led.destinations.is_empty());
    let rest = (!whole).then(|| route::default(at, &service.host));
    led.into_iter()
        .map(|led| route::of_bytes(at, &service.host, led))
        .chain(rest)
        .collect()
}

/// Routes of a service port by name, with everything that decides what they do.
pub(crate) fn described(
    world: &World,
    host: &Host,
    port: u16,
    class: &Class,
) -> Vec<(String, String)> {
    let view = View::new(world);
    let at = route::Place {
        view: &view,
        class,
        port,
        gateway: None,
    };
    let service = world.holder(host, &class.namespace);
    let Some((service, known)) = service.and_then(|s| Some((s, s.ports.get(&port)?))) else {
        return Vec::new();
    };
    models(&at, host, service, known.protocol)
        .iter()
        .map(|model| (model.name().to_owned(), format!("{model:?}")))
        .collect()
}

/// The routes a VirtualService has for sidecars; `None` when all of it is for gateways or nothing of it is sound.
fn bound(at: &route::Place<'_, '_>, object: &Object) -> Option<Vec<route::Model>> {
    let spec = object.virtual_service()?;
    if spec.http.is_empty() {
        return None;
    }
    Some(route::models(at, object, spec, &GatewayRef::Mesh))
}

/// The clusters of routes that exist, to be there before the routes are.
pub(crate) fn clusters(at: &route::Place<'_, '_>, routes: &[route::Model]) -> Vec<Key> {
    let exists = |name: &ClusterName| super::cluster::target(at.view, name, at.class).is_some();
    routes
        .iter()
        .flat_map(route::Model::clusters)
        .filter(|name| exists(name))
        .map(|name| Key::Cluster(name.clone()))
        .collect()
}
