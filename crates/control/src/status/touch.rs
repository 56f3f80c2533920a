//! Which hosts and which resources an object has to do with.

use crate::compile::Key;
use crate::compile::gateway;
use crate::world::World;
use naka_api::networking::virtual_service::GatewayRef;
use naka_api::{Object, Spec};
use naka_types::host::Host;
use naka_types::name::ClusterName;
use std::collections::BTreeSet;

/// Service hosts whose traffic an object decides about. Wildcards stand for the services they match.
pub(super) fn hosts(world: &World, object: &Object) -> BTreeSet<Host> {
    let spread = |host: &Host| -> Vec<Host> {
        match host.as_str().strip_prefix('*') {
            None => vec![host.clone()],
            Some(suffix) => world
                .services
                .keys()
                .filter(|known| known.as_str().ends_with(suffix))
                .cloned()
                .collect(),
        }
    };
    let own = |name: &str| Host::of_service(name, &object.meta.namespace);
    match &object.spec {
        Spec::VirtualService(spec) => spec.hosts.iter().flat_map(spread).collect(),
        Spec::DestinationRule(spec) => spread(&spec.host).into_iter().collect(),
        Spec::Service(_) => [own(&object.meta.name)].into(),
        Spec::WorkloadEntry(entry) => world
            .services
            .values()
            .filter(|service| {
                service.namespace == object.meta.namespace
                    && entry.labels.get("app") == Some(&service.name)
            })
            .map(|service| service.host.clone())
            .collect(),
        Spec::Namespace | Spec::Secret(_) | Spec::Gateway(_) | Spec::PeerAuthentication(_) => {
            BTreeSet::new()
        }
    }
}

/// The resources an object goes into.
pub(super) struct Touch {
    hosts: BTreeSet<String>,
    virtual_hosts: bool,
    clusters: bool,
    endpoints: bool,
    listeners: Listeners,
}

enum Listeners {
    None,
    Inbound,
    Ports(BTreeSet<u16>),
}

impl Touch {
    /// Of an object in a world.
    pub(super) fn of(world: &World, object: &Object) -> Self {
        let mut touch = Self {
            hosts: hosts(world, object)
                .iter()
                .map(|host| host.as_str().to_owned())
                .collect(),
            virtual_hosts: false,
            clusters: false,
            endpoints: false,
            listeners: Listeners::None,
        };
        match &object.spec {
            Spec::VirtualService(spec) => {
                touch.virtual_hosts = spec.gateways.contains(&GatewayRef::Mesh);
                let ports: BTreeSet<u16> = spec
                    .gateways
                    .iter()
                    .filter_map(|bound| match bound {
                        GatewayRef::Mesh => None,
                        GatewayRef::Named { namespace, name } => {
                            world.gateways.get(&(namespace.clone(), name.clone()))
                        }
                    })
                    .flat_map(|gateway| ports(gateway))
                    .collect();
                if !ports.is_empty() {
                    touch.listeners = Listeners::Ports(ports);
                }
            }
            Spec::DestinationRule(_) => {
                touch.clusters = true;
                touch.endpoints = true;
            }
            Spec::Service(_) => {
                touch.virtual_hosts = true;
                touch.clusters = true;
                touch.endpoints = true;
            }
            Spec::WorkloadEntry(_) => touch.endpoints = true,
            Spec::Gateway(_) => touch.listeners = Listeners::Ports(ports(object)),
            Spec::PeerAuthentication(_) => touch.listeners = Listeners::Inbound,
            Spec::Namespace | Spec::Secret(_) => {}
        }
        touch
    }

    /// Whether a resource is one of them.
    pub(super) fn wants(&self, key: &Key) -> bool {
        let outbound = |name: &ClusterName| match name {
            ClusterName::Outbound { host, .. } => self.hosts.contains(host),
            ClusterName::Inbound { .. } => false,
        };
        match key {
            Key::VirtualHost(name) => self.virtual_hosts && self.hosts.contains(&name.host),
            Key::Cluster(name) => self.clusters && outbound(name),
            Key::Endpoints(name) => self.endpoints && outbound(name),
            Key::Listener(name) => match &self.listeners {
                Listeners::None => false,
                Listeners::Inbound => name == crate::compile::INBOUND,
                Listeners::Ports(ports) => ports.iter().any(|port| gateway::name(*port) == *name),
            },
            Key::RootCa | Key::Names | Key::Workload(_) => false,
        }
    }
}

fn ports(object: &Object) -> BTreeSet<u16> {
    let servers = object.gateway().map(|gateway| gateway.servers.as_slice());
    servers
        .unwrap_or_default()
        .iter()
        .map(|server| server.port)
        .collect()
}
