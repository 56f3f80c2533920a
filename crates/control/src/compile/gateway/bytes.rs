//! Routes of bytes: of `spec.tcp` and `spec.tls` of VirtualServices, at gateways and beside programs.

use super::chain::Stand;
use super::narrower;
use crate::compile::Dialect;
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

/// A route for connections of programs.
#[derive(Debug)]
pub(crate) struct Led {
    /// Addresses that the connection must have been made to; empty: any.
    pub(crate) destinations: Vec<Cidr>,
    pub(crate) route: Route,
}

/// The routes that a VirtualService has for programs that call bytes of this host and port: those for addresses, the
/// narrowest first, then the first that asks for none.
///
/// A connection of a program is known by the name it called, so a server name of a match is held against that name.
/// Where it was made to only the proxy of a captured program knows, so the order is Envoy's of filter chains, and a
/// proxy that does not know passes over the routes for addresses.
pub(crate) fn at_sidecar(
    at: &Place<'_, '_>,
    object: &Object,
    host: &Host,
    protocol: Protocol,
) -> Vec<Led> {
    let Some(spec) = object.virtual_service() else {
        return Vec::new();
    };
    let by_name = if protocol == Protocol::Tls {
        spec.tls.as_slice()
    } else {
        &[]
    };
    let named = |wanted: &BytesMatch| {
        let mut names = wanted.sni_hosts.iter();
        wanted.sni_hosts.is_empty() || names.any(|name| overlap(name.as_str(), host.as_str()))
    };
    let mut narrow: Vec<(Cidr, Route)> = Vec::new();
    let mut whole: Option<Route> = None;
    for route in by_name.iter().chain(&spec.tcp) {
        let mut asked = Vec::new();
        let mut asks_nothing = route.matches.is_empty();
        let mut ends = asks_nothing;
        for wanted in &route.matches {
            if !named(wanted) || !holds(at, wanted, &GatewayRef::Mesh) {
                continue;
            }
            match addresses(at, object, route, wanted) {
                Some(all) if all.is_empty() => {
                    asks_nothing = true;
                    ends |= wanted.destinations.is_empty();
                }
                Some(all) => asked.extend(all),
                None => {}
            }
        }
        if asks_nothing {
            whole.get_or_insert_with(|| model(at, object, route));
        } else if !asked.is_empty() {
            let route = model(at, object, route);
            narrow.extend(asked.into_iter().map(|range| (range, route.clone())));
        }
        // As in Istio: what stands behind a route of bytes that takes everything is never reached.
        if ends && !route.tls {
            break;
        }
    }
    // Stable: of equal ranges the first in the list has the connection.
    narrow.sort_by_key(|(range, _)| std::cmp::Reverse(range.length()));
    let narrow = narrow.into_iter().map(|(range, route)| Led {
        destinations: vec![range],
        route,
    });
    let whole = whole.map(|route| Led {
        destinations: Vec::new(),
        route,
    });
    narrow.chain(whole).collect()
}

/// The addresses that a match asks connections of programs to be made to; `None` where it cannot hold.
fn addresses(
    at: &Place<'_, '_>,
    object: &Object,
    route: &BytesRoute,
    wanted: &BytesMatch,
) -> Option<Vec<Cidr>> {
    // Every IPv4 address is as good as no condition, as in Istio.
    let asks = |range: &&Cidr| range.length() > 0 || range.address().is_ipv6();
    let all: Vec<Cidr> = wanted.destinations.iter().filter(asks).copied().collect();
    let every = all.len() < wanted.destinations.len();
    let (field, message) = if !wanted.sources.is_empty() {
        let message = "who calls beside a program is the program: sourceSubnet never holds there";
        ("sourceSubnet", message)
    } else if every || all.is_empty() {
        return Some(Vec::new());
    } else if at.class.dialect == Dialect::Naka {
        return Some(all);
    } else {
        let message = "a proxy that is not Naka's captures nothing: where calls of its program were made to is not \
            known, so destinationSubnets never holds there";
        ("destinationSubnets", message)
    };
    let finding = Finding::new(codes::W132.id, message.to_owned());
    at.view.finding(
        finding
            .at(format!("{}.match.{field}", route.path()))
            .on(object.reference()),
    );
    None
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
