//! Routes of bytes: of `spec.tcp` and `spec.tls` of VirtualServices, at gateways and beside programs.

use super::chain::Stand;
use super::narrower;
use crate::compile::route::{self, Place};
use crate::world::Read;
use naka_api::networking::gateway::{Server, overlap};
use naka_api::networking::virtual_service::{BytesMatch, BytesRoute, GatewayRef, VirtualService};
use naka_api::{Object, codes};
use naka_types::cidr::Cidr;
use naka_types::finding::Finding;
use naka_types::host::Host;
use naka_types::labels::selects;
use naka_types::name::ClusterName;
use naka_types::protocol::Protocol;
use std::collections::BTreeSet;

/// Where bytes go.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Route {
    /// `<namespace>/<object>/tcp/0`.
    pub(crate) name: String,
    /// Clusters with their weights, none of them 0 unless it is alone.
    pub(crate) shares: Vec<(ClusterName, u32)>,
}

/// A route that a gateway's server leads to, with what one of its matches asks.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) server_names: Vec<String>,
    pub(crate) destinations: Vec<Cidr>,
    pub(crate) sources: Vec<Cidr>,
    pub(crate) route: Route,
}

/// The route as a model.
pub(crate) fn model(at: &Place<'_, '_>, object: &Object, route: &BytesRoute) -> Route {
    let list = if route.tls { "tls" } else { "tcp" };
    let meta = &object.meta;
    let shares = route.destinations.iter().enumerate().map(|(index, one)| {
        let path = format!("{}.route[{index}].destination", route.path());
        let cluster = route::destination(at, object, &path, &one.destination);
        (cluster, one.weight)
    });
    Route {
        name: format!("{}/{}/{list}/{}", meta.namespace, meta.name, route.index),
        shares: shares.collect(),
    }
}

/// Whether a match can hold for this proxy at this port; the rest of it is left to the connection.
pub(crate) fn holds(at: &Place<'_, '_>, wanted: &BytesMatch, gateway: &GatewayRef) -> bool {
    wanted.port.is_none_or(|port| port == at.port)
        && (wanted.gateways.is_empty() || wanted.gateways.contains(gateway))
        && wanted
            .source_namespace
            .as_ref()
            .is_none_or(|wanted| *wanted == at.class.namespace)
        && selects(&wanted.source_labels, &at.class.labels)
}

/// Routes of the VirtualServices bound to a server, older objects first: those of `spec.tls` by server name, or those
/// of `spec.tcp`.
pub(crate) fn at_gateway(at: &Place<'_, '_>, stand: &Stand<'_>, by_name: bool) -> Vec<Found> {
    let mut all = Vec::new();
    for (object, spec) in bound(at, stand) {
        let gateway = stand.gateway();
        let routes = if by_name { &spec.tls } else { &spec.tcp };
        for route in routes {
            let everything = [BytesMatch::default()];
            let matches = if route.matches.is_empty() {
                &everything[..]
            } else {
                &route.matches
            };
            for wanted in matches.iter().filter(|wanted| holds(at, wanted, &gateway)) {
                let server_names = names(stand.server, &object.meta.namespace, wanted);
                if by_name && server_names.is_empty() {
                    continue;
                }
                all.push(Found {
                    server_names,
                    destinations: wanted.destinations.clone(),
                    sources: wanted.sources.clone(),
                    route: model(at, object, route),
                });
            }
        }
    }
    all
}

/// The first route that a VirtualService has for programs that call bytes of this host and port.
///
/// A connection of a program is known by the name it called, so a server name of a match is held against that name.
/// Of addresses nothing is known when this is made: a match on addresses never holds here, and says so.
pub(crate) fn at_sidecar(
    at: &Place<'_, '_>,
    object: &Object,
    host: &Host,
    protocol: Protocol,
) -> Option<Route> {
    let spec = object.virtual_service()?;
    let by_name = if protocol == Protocol::Tls {
        spec.tls.as_slice()
    } else {
        &[]
    };
    let holds = |route: &&BytesRoute| {
        let one = |wanted: &BytesMatch| {
            let named = wanted.sni_hosts.is_empty()
                || wanted
                    .sni_hosts
                    .iter()
                    .any(|name| overlap(name.as_str(), host.as_str()));
            named && holds(at, wanted, &GatewayRef::Mesh) && anywhere(at, object, route, wanted)
        };
        route.matches.is_empty() || route.matches.iter().any(one)
    };
    let found = by_name.iter().chain(&spec.tcp).find(holds)?;
    Some(model(at, object, found))
}

/// Whether a match says nothing of addresses.
fn anywhere(at: &Place<'_, '_>, object: &Object, route: &BytesRoute, wanted: &BytesMatch) -> bool {
    if wanted.destinations.is_empty() && wanted.sources.is_empty() {
        return true;
    }
    let message = "addresses are not known beside a program: this match holds at gateways only";
    let finding = Finding::new(codes::W132.id, message.to_owned());
    at.view.finding(
        finding
            .at(format!("{}.match", route.path()))
            .on(object.reference()),
    );
    false
}

/// VirtualServices bound to the server's Gateway for one of its hosts.
fn bound<'a>(at: &Place<'a, '_>, stand: &Stand<'_>) -> Vec<(&'a Object, &'a VirtualService)> {
    let world = at.view.read(Read::Gateways);
    let meta = &stand.object.meta;
    let all = world
        .gateway_routes
        .get(&(meta.namespace.clone(), meta.name.clone()));
    all.into_iter()
        .flat_map(|all| all.iter())
        .filter_map(|object| Some((&**object, object.virtual_service()?)))
        .filter(|(object, spec)| {
            let admits = |host: &Host| {
                let served = stand.server.hosts.iter();
                served
                    .into_iter()
                    .any(|one| one.admits(&object.meta.namespace, host))
            };
            spec.hosts.iter().any(admits)
        })
        .collect()
}

/// Server names of a match that the server serves.
fn names(server: &Server, namespace: &str, wanted: &BytesMatch) -> Vec<String> {
    let mut found = BTreeSet::new();
    for name in &wanted.sni_hosts {
        for served in server
            .hosts
            .iter()
            .filter(|one| one.admits(namespace, name))
        {
            found.insert(narrower(served.host.as_str(), name.as_str()).to_owned());
        }
    }
    found.into_iter().collect()
}

/// Every cluster that a server name may name at a server of AUTO_PASSTHROUGH: services below its hosts, with their
/// subsets.
pub(crate) fn named(at: &Place<'_, '_>, server: &Server) -> Vec<ClusterName> {
    let world = at.view.read(Read::Hosts);
    let mut all = Vec::new();
    for host in world.services.keys() {
        let served = server
            .hosts
            .iter()
            .any(|one| overlap(one.host.as_str(), host.as_str()));
        // What is declared outside the mesh is called by its own name, never through here.
        let seen = at.view.seen(host, at.class).filter(|_| served);
        let Some(service) = seen.filter(|service| service.entry.is_none()) else {
            continue;
        };
        let rule = at.view.rule(service, at.class);
        let rule = rule.and_then(|object| object.destination_rule());
        let subsets = rule.into_iter().flat_map(|rule| &rule.subsets);
        let subsets: Vec<&str> = std::iter::once("")
            .chain(subsets.map(|subset| subset.name.as_str()))
            .collect();
        for port in service.ports.keys() {
            for subset in &subsets {
                all.push(ClusterName::outbound(*port, subset, host.as_str()));
            }
        }
    }
    all
}
