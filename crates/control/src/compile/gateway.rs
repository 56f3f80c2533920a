//! Listeners of gateways: one per port of the Gateways that select the proxy, with all routes inside.
//!
//! What a port does is a list of filter chains (`chain`), the same for our own proxies and for Envoys; only how HTTP
//! routes are named differs.
//!
//! Every VirtualService bound to a host counts here, older before younger, because an ingress host is usually cut
//! into paths by several teams (sidecars differ: see `vhost`). Gateways never ask for names, so what a client sends
//! can not make one hold more.

use super::cluster::socket_address;
use super::{Built, Class, Dialect, Key, View, listener, policy, roots, route, vhost};
use crate::world::{Domains, Read, World};
use naka_api::Object;
use naka_api::networking::gateway::overlap;
use naka_types::host::Host;
use naka_types::name::ClusterName;
use naka_types::node::Role;
use naka_wire::envoy::config::core::v3::TrafficDirection;
use naka_wire::envoy::config::listener::v3::Listener;
use naka_wire::envoy::config::route::v3::{VirtualHost, virtual_host::TlsRequirementType};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) mod bytes;
pub(crate) mod chain;
pub(crate) mod message;
pub(crate) mod port;

use chain::{Chain, Security, Serves, Stand};

/// Name of the listener of a port.
pub(crate) fn name(port: u16) -> String {
    format!("0.0.0.0_{port}")
}

/// Whether a listener is a gateway's.
pub(crate) fn is_name(name: &str) -> bool {
    let port = name.strip_prefix("0.0.0.0_");
    port.is_some_and(|port| port.parse::<u16>().is_ok())
}

/// Name of the routes of a chain.
pub(crate) fn routes_name(chain: &str) -> String {
    format!("gateway/{chain}")
}

/// Port of the routes of that name, if they are a gateway's.
pub(crate) fn routes_port(name: &str) -> Option<u16> {
    let rest = name.strip_prefix("gateway/")?;
    rest.split('/').next()?.parse().ok()
}

/// The listener of that name, if a Gateway asks for it.
pub(crate) fn listener(view: &View<'_>, wanted: &str, class: &Class) -> Option<Built> {
    let port = roots::gateway_ports(view, class)
        .into_iter()
        .find(|port| name(*port) == wanted)?;
    let at = place(view, class, port);
    let chains = chain::chains(&at);
    let mut refers = refers(&at, &chains);
    let whole = port::port(view, &chain::stands(&at));
    let policies = policy::of(view, &class.namespace, &class.labels, None);
    refers.extend(policies.asked().cloned().map(Key::Cluster));
    let to = message::For {
        dialect: Dialect::Naka,
        domains: &Domains::default(),
        port: &whole,
        before: policy::message::bytes(&policies, port, class.peer_labels),
    };
    let messages = chains.iter().map(|one| {
        message::chain(one, &to, || {
            let hosts = match &one.serves {
                Serves::Http(hosts) => virtual_hosts(hosts, port),
                Serves::Bytes(_) | Serves::Named(_) => Vec::new(),
            };
            let first = policy::message::http(&policies, port, class.peer_labels);
            let web = one.grpc_web.then(listener::grpc_web);
            let first = first.into_iter().chain(web).collect();
            let counted = one.server.as_deref().unwrap_or(wanted);
            listener::http(first, counted, &routes_name(&one.name), hosts)
        })
    });
    let message = Listener {
        name: wanted.to_owned(),
        address: Some(socket_address("0.0.0.0", port)),
        filter_chains: messages.collect(),
        listener_filters: whole.heads().into_iter().collect(),
        metadata: whole.metadata(),
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Listener::default()
    };
    Some(
        Built::new(
            &(wanted, &chains, &whole, &policies, class.peer_labels),
            naka_wire::pack(&message),
        )
        .referring(refers),
    )
}

/// Where routes of a port are compiled for.
pub(crate) fn place<'a, 'w>(
    view: &'a View<'w>,
    class: &'a Class,
    port: u16,
) -> route::Place<'a, 'w> {
    route::Place {
        view,
        class,
        port,
        gateway: Some(port),
    }
}

/// What chains refer to: certificates, and the clusters that exist of all they lead to.
pub(crate) fn refers(at: &route::Place<'_, '_>, chains: &[Chain]) -> Vec<Key> {
    let mut keys = Vec::new();
    for chain in chains {
        if let Security::Served(_, certificates, roots) = &chain.security {
            let all = certificates.iter().chain(roots);
            keys.extend(all.cloned().map(Key::Credential));
        }
        match &chain.serves {
            Serves::Http(hosts) => {
                for host in hosts.values() {
                    keys.extend(vhost::clusters(at, &host.routes));
                }
            }
            Serves::Bytes(route) => {
                let names = route.shares.iter().map(|(name, _)| name);
                let exist =
                    names.filter(|name| super::cluster::target(at.view, name, at.class).is_some());
                keys.extend(exist.cloned().map(Key::Cluster));
            }
            Serves::Named(names) => keys.extend(names.iter().cloned().map(Key::Raw)),
        }
    }
    keys
}

/// Routes of a host, and whether its requests must come inside TLS.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct HostRoute {
    pub(crate) routes: Vec<route::Model>,
    pub(crate) redirect: bool,
}

/// By host.
pub(crate) type HostRoutes = BTreeMap<String, HostRoute>;

/// Virtual hosts of a chain. Whoever reached the listener reached its port, so ports in names do not count.
pub(crate) fn virtual_hosts(hosts: &HostRoutes, port: u16) -> Vec<VirtualHost> {
    let one = |(host, routes): (&String, &HostRoute)| VirtualHost {
        name: format!("{host}:{port}"),
        domains: vec![host.clone()],
        routes: routes.routes.iter().flat_map(route::messages).collect(),
        require_tls: if routes.redirect {
            TlsRequirementType::All as i32
        } else {
            TlsRequirementType::None as i32
        },
        ..VirtualHost::default()
    };
    hosts.iter().map(one).collect()
}

/// Routes by host, over some servers of a port.
pub(crate) fn hosts(at: &route::Place<'_, '_>, stands: &[Stand<'_>]) -> HostRoutes {
    let world = at.view.read(Read::Gateways);
    let mut bindings: BTreeMap<String, Vec<(&Object, Stand<'_>)>> = BTreeMap::new();
    let mut redirected: BTreeSet<String> = BTreeSet::new();
    for stand in stands {
        let meta = &stand.object.meta;
        let bound = world
            .gateway_routes
            .get(&(meta.namespace.clone(), meta.name.clone()));
        if stand.server.https_redirect {
            let own = stand
                .server
                .hosts
                .iter()
                .map(|one| one.host.as_str().to_owned());
            redirected.extend(own);
        }
        for object in bound.into_iter().flat_map(|all| all.iter()) {
            let Some(spec) = object.virtual_service() else {
                continue;
            };
            if !spec.export.reaches(&at.class.namespace) {
                continue;
            }
            for host in &spec.hosts {
                let namespace = &object.meta.namespace;
                let served = stand.server.hosts.iter();
                for served in served.filter(|one| one.admits(namespace, host)) {
                    let host = narrower(served.host.as_str(), host.as_str());
                    if stand.server.https_redirect {
                        redirected.insert(host.to_owned());
                    }
                    let all = bindings.entry(host.to_owned()).or_default();
                    if !all
                        .iter()
                        .any(|(known, _)| std::ptr::eq(*known, object.as_ref()))
                    {
                        all.push((object, *stand));
                    }
                }
            }
        }
    }
    let mut all: HostRoutes = bindings
        .into_iter()
        .map(|(host, mut objects)| {
            objects.sort_by(|(a, _), (b, _)| age(a).cmp(&age(b)));
            let routes = objects
                .into_iter()
                .filter_map(|(object, stand)| {
                    let spec = object.virtual_service()?;
                    Some(route::models(at, object, spec, &stand.gateway()))
                })
                .flatten()
                .collect();
            let redirect = redirected.contains(&host);
            (host, HostRoute { routes, redirect })
        })
        .collect();
    for host in redirected {
        all.entry(host).or_default().redirect = true;
    }
    all
}

/// Routes at gateways that lead to, or stand for, one of these hosts: host with port, route, content.
pub(crate) fn described(world: &World, touched: &BTreeSet<Host>) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for ((namespace, _), object) in &world.gateways {
        let Some(gateway) = object.gateway() else {
            continue;
        };
        let class = Class {
            role: Role::Gateway,
            namespace: namespace.clone(),
            workload_id: String::new(),
            labels: gateway.selector.clone(),
            ..Class::default()
        };
        let ports: BTreeSet<u16> = gateway.servers.iter().map(|server| server.port).collect();
        for port in ports {
            let view = View::new(world);
            let at = place(&view, &class, port);
            let stands = chain::stands(&at);
            for (host, found) in hosts(&at, &stands) {
                let named = Host::parse(&host).is_ok_and(|host| touched.contains(&host));
                for model in found.routes {
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

#[cfg(test)]
mod tests;
