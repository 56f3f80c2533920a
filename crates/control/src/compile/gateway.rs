//! Listeners of gateways: one per port of the Gateways that select the proxy, with all routes inside.
//!
//! Every VirtualService bound to a host counts here, older before younger, because an ingress host is usually cut
//! into paths by several teams (sidecars differ: see `vhost`). Gateways never ask for names, so what a client sends
//! can not make one hold more.

use super::cluster::socket_address;
use super::{Built, Class, View, listener, roots, route, vhost};
use crate::world::{Read, World};
use naka_api::Object;
use naka_api::networking::gateway::overlap;
use naka_api::networking::virtual_service::GatewayRef;
use naka_types::host::Host;
use naka_types::labels::selects;
use naka_types::name::ClusterName;
use naka_types::node::Role;
use naka_wire::envoy::config::core::v3::TrafficDirection;
use naka_wire::envoy::config::listener::v3::{FilterChain, Listener};
use naka_wire::envoy::config::route::v3::VirtualHost;
use std::collections::{BTreeMap, BTreeSet};

/// Name of the listener of a port.
pub(crate) fn name(port: u16) -> String {
    format!("0.0.0.0_{port}")
}

/// The listener of that name, if a Gateway asks for it.
pub(crate) fn listener(view: &View<'_>, wanted: &str, class: &Class) -> Option<Built> {
    let port = roots::gateway_ports(view, class)
        .into_iter()
        .find(|port| name(*port) == wanted)?;
    let at = route::Place {
        view,
        class,
        port,
        gateway: Some(port),
    };
    let hosts = hosts(&at);
    let refers = hosts
        .values()
        .flat_map(|routes| vhost::clusters(&at, routes))
        .collect();
    let config = format!("http.{port}");
    let messages = hosts
        .iter()
        .map(|(host, routes)| message(host, port, routes))
        .collect();
    let message = Listener {
        name: wanted.to_owned(),
        address: Some(socket_address("0.0.0.0", port)),
        filter_chains: vec![FilterChain {
            filters: vec![listener::http(wanted, &config, messages)],
            ..FilterChain::default()
        }],
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Listener::default()
    };
    Some(Built::new(&(wanted, &hosts), naka_wire::pack(&message)).referring(refers))
}

/// A virtual host of a port, known with and without the port.
pub(crate) fn message(host: &str, port: u16, routes: &[route::Model]) -> VirtualHost {
    let domains = if host == "*" {
        vec!["*".to_owned()]
    } else {
        vec![host.to_owned(), format!("{host}:{port}")]
    };
    VirtualHost {
        name: format!("{host}:{port}"),
        domains,
        routes: routes.iter().flat_map(route::messages).collect(),
        ..VirtualHost::default()
    }
}

/// Routes by host, over all Gateways and servers of the port.
pub(crate) fn hosts(at: &route::Place<'_, '_>) -> BTreeMap<String, Vec<route::Model>> {
    let world = at.view.read(Read::Gateways);
    let mut bindings: BTreeMap<String, Vec<(&Object, GatewayRef)>> = BTreeMap::new();
    for ((namespace, name), object) in &world.gateways {
        let Some(gateway) = object.gateway() else {
            continue;
        };
        if !selects(&gateway.selector, &at.class.labels) {
            continue;
        }
        let own = GatewayRef::Named {
            namespace: namespace.clone(),
            name: name.clone(),
        };
        let bound = world.gateway_routes.get(&(namespace.clone(), name.clone()));
        for server in gateway
            .servers
            .iter()
            .filter(|server| server.port == at.port)
        {
            for object in bound.into_iter().flat_map(|all| all.iter()) {
                let Some(spec) = object.virtual_service() else {
                    continue;
                };
                for host in &spec.hosts {
                    let namespace = &object.meta.namespace;
                    let admitting = server.hosts.iter().filter(|s| s.admits(namespace, host));
                    for served in admitting {
                        let host = narrower(served.host.as_str(), host.as_str());
                        let all = bindings.entry(host.to_owned()).or_default();
                        if !all
                            .iter()
                            .any(|(known, _)| std::ptr::eq(*known, object.as_ref()))
                        {
                            all.push((object, own.clone()));
                        }
                    }
                }
            }
        }
    }
    bindings
        .into_iter()
        .map(|(host, mut objects)| {
            objects.sort_by(|(a, _), (b, _)| age(a).cmp(&age(b)));
            let routes = objects
                .into_iter()
                .filter_map(|(object, gateway)| {
                    let spec = object.virtual_service()?;
                    Some(route::models(at, object, spec, &gateway))
                })
                .flatten()
                .collect();
            (host, routes)
        })
        .collect()
}

/// Routes at gateways that lead to, or stand for, one of these hosts: host with port, route, content.
pub(crate) fn described(world: &World, touched: &BTreeSet<Host>) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for gateway in world
        .gateways
        .values()
        .filter_map(|object| object.gateway())
    {
        let class = Class {
            role: Role::Gateway,
            namespace: String::new(),
            workload_id: String::new(),
            labels: gateway.selector.clone(),
            ..Class::default()
        };
        let ports: BTreeSet<u16> = gateway.servers.iter().map(|server| server.port).collect();
        for port in ports {
            let view = View::new(world);
            let at = route::Place {
                view: &view,
                class: &class,
                port,
                gateway: Some(port),
            };
            for (host, routes) in hosts(&at) {
                let named = Host::parse(&host).is_ok_and(|host| touched.contains(&host));
                for model in routes {
                    let leads = model.clusters().any(|cluster| match cluster {
                        ClusterName::Outbound { host, .. } => {
                            Host::parse(host).is_ok_and(|host| touched.contains(&host))
                        }
                        ClusterName::Inbound { .. } => false,
                    });
                    if named || leads {
                        let at = format!("gateway {host}:{port}");
                        all.push((at, model.name().to_owned(), format!("{model:?}")));
                    }
                }
            }
        }
    }
    all
}

fn age(object: &Object) -> (&str, &str, &str) {
    let meta = &object.meta;
    (&meta.creation_timestamp, &meta.namespace, &meta.name)
}

/// The narrower of two hosts that overlap.
fn narrower<'a>(one: &'a str, other: &'a str) -> &'a str {
    debug_assert!(
        overlap(one, other),
        "invariant: only hosts that overlap are compared"
    );
    match (one.strip_prefix('*'), other.strip_prefix('*')) {
        (Some(_), None) => other,
        (None, Some(_)) => one,
        _ if other.len() > one.len() => other,
        _ => one,
    }
}
