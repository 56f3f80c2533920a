//! What a proxy gets without asking for names: the starting points of its closure.

use super::{Class, Dialect, INBOUND, Key, View};
use crate::world::{Read, World};
use naka_types::labels::selects;
use naka_types::name::VirtualHostName;
use naka_types::node::Role;
use std::collections::BTreeSet;

/// At most this many hosts of the own namespace are held eagerly.
const EAGER_HOSTS: usize = 100;

/// Listeners of a proxy. Clusters of its own program follow from them.
#[must_use]
pub fn listeners(world: &World, class: &Class) -> BTreeSet<Key> {
    match class.dialect {
        Dialect::Naka => {}
        Dialect::Envoy => return super::envoy::listeners(world, class),
        Dialect::Grpc => return BTreeSet::new(),
    }
    match class.role {
        Role::Sidecar => super::egress::listens(&View::new(world), class)
            .iter()
            .map(super::egress::Listen::name)
            .chain([INBOUND.to_owned()])
            .map(Key::Listener)
            .collect(),
        Role::Gateway => gateway_ports(&View::new(world), class)
            .into_iter()
            .map(|port| Key::Listener(super::gateway::name(port)))
            .collect(),
    }
}

/// Virtual hosts a sidecar holds before it asks: the ports of its own namespace's services.
#[must_use]
pub fn eager(world: &World, class: &Class) -> BTreeSet<Key> {
    if class.role == Role::Gateway {
        return BTreeSet::new();
    }
    world
        .hosts_of(&class.namespace)
        // Hosts of a pattern may have routes of their own: each is asked for by its name.
        .filter(|service| !service.host.is_wildcard())
        .take(EAGER_HOSTS)
        .flat_map(|service| {
            service.ports.keys().map(|port| {
                let host = service.host.as_str().to_owned();
                Key::VirtualHost(VirtualHostName { host, port: *port })
            })
        })
        .collect()
}

/// Ports of the Gateways that select a proxy.
pub(crate) fn gateway_ports(view: &View<'_>, class: &Class) -> BTreeSet<u16> {
    let world = view.read(Read::Gateways);
    world
        .gateways
        .values()
        .filter_map(|object| object.gateway())
        .filter(|gateway| selects(&gateway.selector, &class.labels))
        .flat_map(|gateway| gateway.servers.iter().map(|server| server.port))
        .collect()
}
