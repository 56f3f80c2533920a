//! Which hosts and which resources an object has to do with.

use crate::compile::Key;
use crate::compile::{envoy, gateway};
use crate::world::{Networks, World};
use naka_api::limits::local_rate_limit::{LocalRateLimit, Target};
use naka_api::networking::virtual_service::GatewayRef;
use naka_api::{Object, Spec};
use naka_types::host::{Host, ROOT_NAMESPACE};
use naka_types::name::ClusterName;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Service hosts whose traffic an object decides about. Wildcards stand for the services they match.
pub(super) fn hosts(world: &World, object: &Object) -> BTreeSet<Host> {
    let spread = |host: &Host| spread_host(world, host);
    let own = |name: &str| Host::of_service(name, &object.meta.namespace);
    match &object.spec {
        // What nobody reaches by hosts of its own is reached by those of its roots.
        Spec::VirtualService(spec) if spec.hosts.is_empty() => world
            .roots_of(object)
            .into_iter()
            .filter_map(|root| root.virtual_service())
            .flat_map(|root| root.hosts.iter().flat_map(spread))
            .collect(),
        Spec::VirtualService(spec) => spec.hosts.iter().flat_map(spread).collect(),
        Spec::DestinationRule(spec) => spread(&spec.host).into_iter().collect(),
        Spec::BackendPolicy(spec) => spec.targets.iter().map(|to| to.host.clone()).collect(),
        Spec::Service(_) => [own(&object.meta.name)].into(),
        Spec::ServiceEntry(spec) => spec.hosts.iter().cloned().collect(),
        Spec::WorkloadEntry(entry) => world
            .services
            .values()
            .filter(|service| {
                service.namespace == object.meta.namespace
                    && entry.labels.get("app") == Some(&service.name)
            })
            .map(|service| service.host.clone())
            .collect(),
        _ => BTreeSet::new(),
    }
}

/// The hosts that a host or a pattern means.
pub(super) fn spread_host(world: &World, host: &Host) -> Vec<Host> {
    match host.as_str().strip_prefix('*') {
        None => vec![host.clone()],
        Some(suffix) => world
            .services
            .keys()
            .filter(|known| known.as_str().ends_with(suffix))
            .cloned()
            .collect(),
    }
}

/// Hosts that calls are counted under when an object decides about them: those it is for, and those it leads to.
pub(super) fn called(world: &World, object: &Object) -> BTreeSet<Host> {
    let mut found = hosts(world, object);
    match &object.spec {
        Spec::VirtualService(spec) => {
            // At a gateway, hosts are not services of the mesh; answers without a destination are counted under them.
            found.extend(
                spec.hosts
                    .iter()
                    .filter(|host| !host.is_wildcard())
                    .cloned(),
            );
            let routed = spec.http.iter().flat_map(|route| route.destinations());
            found.extend(routed.map(|to| to.destination.host.clone()));
        }
        Spec::Gateway(_) => {
            let key = (object.meta.namespace.clone(), object.meta.name.clone());
            for bound in world
                .gateway_routes
                .get(&key)
                .into_iter()
                .flat_map(|all| all.iter())
            {
                found.extend(called(world, bound));
            }
        }
        Spec::LocalRateLimit(limit) => {
            let namespace = &object.meta.namespace;
            found.extend(limit.targets.iter().filter_map(|target| match target {
                Target::Service(name) => Some(Host::of_service(name, namespace)),
                Target::Gateway(_) | Target::Route { .. } => None,
            }));
        }
        Spec::PeerAuthentication(_) => {
            let whole = object.meta.namespace == ROOT_NAMESPACE;
            let services = world.services.values();
            found.extend(
                services
                    .filter(|service| whole || service.namespace == object.meta.namespace)
                    .map(|service| service.host.clone()),
            );
        }
        _ => {}
    }
    found
}

/// The resources an object goes into.
pub(super) struct Touch {
    hosts: BTreeSet<String>,
    virtual_hosts: bool,
    clusters: bool,
    endpoints: bool,
    /// Where any host is dialled: it is a gateway between networks, or says which network all are in.
    dialled: bool,
    names: bool,
    listeners: Listeners,
    /// The one namespace whose proxies can have to do with it.
    within: Option<String>,
}

enum Listeners {
    None,
    Inbound,
    /// Where anybody calls in: ports of programs and of gateways.
    All,
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
            dialled: Networks::has(object),
            names: false,
            listeners: Listeners::None,
            within: None,
        };
        match &object.spec {
            Spec::VirtualService(spec) => {
                let roots = match spec.hosts.is_empty() {
                    true => world.roots_of(object),
                    false => Vec::new(),
                };
                let roots = roots.into_iter().filter_map(|root| root.virtual_service());
                let bound: Vec<&GatewayRef> = std::iter::once(spec)
                    .chain(roots)
                    .flat_map(|one| &one.gateways)
                    .collect();
                touch.virtual_hosts = bound.contains(&&GatewayRef::Mesh);
                let ports: BTreeSet<u16> = bound
                    .into_iter()
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
            Spec::Sidecar(spec) => {
                touch.names = true;
                if !spec.ingress.is_empty() || spec.pool.is_some() {
                    touch.listeners = Listeners::Inbound;
                }
                let namespace = &object.meta.namespace;
                touch.within = (namespace != ROOT_NAMESPACE).then(|| namespace.clone());
            }
            Spec::BackendPolicy(_) => touch.clusters = true,
            Spec::Service(_) | Spec::ServiceEntry(_) => {
                touch.virtual_hosts = true;
                touch.clusters = true;
                touch.endpoints = true;
            }
            Spec::WorkloadEntry(_) => touch.endpoints = true,
            Spec::Gateway(_) => touch.listeners = Listeners::Ports(ports(object)),
            Spec::PeerAuthentication(_) => touch.listeners = Listeners::Inbound,
            Spec::AuthorizationPolicy(_)
            | Spec::RequestAuthentication(_)
            | Spec::RequestGuard(_) => {
                touch.listeners = Listeners::All;
                let namespace = &object.meta.namespace;
                touch.within = (namespace != ROOT_NAMESPACE).then(|| namespace.clone());
            }
            Spec::TrustModel(_) => {
                touch.listeners = Listeners::Inbound;
                let namespace = &object.meta.namespace;
                touch.within = (namespace != ROOT_NAMESPACE).then(|| namespace.clone());
            }
            // Whoever is asked: policies of any namespace may name them.
            Spec::MeshConfig(_) => touch.listeners = Listeners::All,
            Spec::LocalRateLimit(limit) => touch.listeners = limited(world, object, limit),
            _ => {}
        }
        touch
    }

    /// Whether proxies of a namespace can have to do with it.
    pub(super) fn concerns(&self, namespace: &str) -> bool {
        self.within.as_deref().is_none_or(|own| own == namespace)
    }

    /// Whether a resource is one of them.
    pub(super) fn wants(&self, key: &Key) -> bool {
        let outbound = |name: &ClusterName| match name {
            ClusterName::Outbound { host, .. } => self.hosts.contains(host),
            ClusterName::Inbound { .. } => false,
        };
        let dialled =
            |name: &ClusterName| self.dialled && matches!(name, ClusterName::Outbound { .. });
        let own = matches!(self.listeners, Listeners::Inbound);
        match key {
            Key::VirtualHost(name) => self.virtual_hosts && self.hosts.contains(&name.host),
            Key::Cluster(ClusterName::Inbound { .. }) => own,
            Key::Cluster(name) => self.clusters && outbound(name) || dialled(name),
            Key::Endpoints(name) => self.endpoints && outbound(name) || dialled(name),
            Key::Listener(name) => match &self.listeners {
                Listeners::None => false,
                Listeners::Inbound => calls_in(name),
                Listeners::All => calls_in(name) || gateway::is_name(name),
                Listeners::Ports(ports) => ports.iter().any(|port| gateway::name(*port) == *name),
            },
            Key::Routes(name) => match (&self.listeners, name.rsplit_once(':')) {
                (Listeners::Ports(ports), _)
                    if gateway::routes_port(name).is_some_and(|port| ports.contains(&port)) =>
                {
                    true
                }
                (_, Some((host, _))) if self.hosts.contains(host) => self.virtual_hosts,
                _ => {
                    self.virtual_hosts
                        && (name == envoy::HTTP_PROXY || name.starts_with(envoy::UPSTREAM))
                }
            },
            Key::Raw(name) => self.clusters && outbound(name),
            Key::Helper(_) => false,
            Key::Extension(place) => match &self.listeners {
                Listeners::None => false,
                Listeners::All => true,
                Listeners::Inbound => place.listener().starts_with(envoy::INBOUND),
                Listeners::Ports(ports) => ports
                    .iter()
                    .any(|port| gateway::name(*port) == place.listener()),
            },
            Key::Names => self.names,
            Key::Credential(_)
            | Key::RootCa
            | Key::Revoked
            | Key::RevokedTokens
            | Key::Workload(_) => false,
        }
    }
}

/// Whether a listener is one of a program's own ports.
fn calls_in(name: &str) -> bool {
    name == crate::compile::INBOUND || name.starts_with(envoy::INBOUND)
}

fn ports(object: &Object) -> BTreeSet<u16> {
    let servers = object.gateway().map(|gateway| gateway.servers.as_slice());
    servers
        .unwrap_or_default()
        .iter()
        .map(|server| server.port)
        .collect()
}

/// Listeners that hold a limit: ports of gateways, else those of programs.
fn limited(world: &World, object: &Object, limit: &LocalRateLimit) -> Listeners {
    let namespace = &object.meta.namespace;
    let of_gateway = |name: &String| world.gateways.get(&(namespace.clone(), name.clone()));
    let bound = |name: &String| {
        let holds = |all: &Arc<Vec<Arc<Object>>>| {
            let own = |o: &Arc<Object>| o.meta.namespace == *namespace && o.meta.name == *name;
            all.iter().any(own)
        };
        let routes = world.gateway_routes.iter();
        let keys = routes
            .filter(move |(_, all)| holds(all))
            .map(|(key, _)| key);
        keys.filter_map(|key| world.gateways.get(key))
            .collect::<Vec<_>>()
    };
    let at: BTreeSet<u16> = limit
        .targets
        .iter()
        .flat_map(|target| match target {
            Target::Service(_) => Vec::new(),
            Target::Gateway(name) => of_gateway(name).into_iter().collect(),
            Target::Route { name, .. } => bound(name),
        })
        .flat_map(|gateway| ports(gateway))
        .collect();
    if at.is_empty() {
        Listeners::Inbound
    } else {
        Listeners::Ports(at)
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, Touch, called, envoy, gateway};
    use crate::compile::tests::{member, snapshot, world};
    use crate::registry::Health;
    use naka_types::name::{ClusterName, ObjectRef};

    const MESH: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec: {selector: {app: edge}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: default}
spec:
  hosts: [shop.example.com]
  gateways: [edge]
  http: [{route: [{destination: {host: order}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: payment, namespace: default}
spec:
  hosts: [payment]
  http: [{route: [{destination: {host: order}, weight: 50}, {destination: {host: payment}, weight: 50}]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: default}
spec: {mtls: {mode: STRICT}}
";

    #[test]
    fn calls_are_watched_where_they_are_counted() {
        let snapshot = snapshot(MESH);
        let world = world(
            &snapshot,
            vec![
                member(1, "order", "v1", Health::Healthy),
                member(2, "payment", "v1", Health::Healthy),
            ],
        );
        let of = |kind: &str, name: &str| -> Vec<String> {
            let key = ObjectRef {
                kind: kind.to_owned(),
                namespace: "default".to_owned(),
                name: name.to_owned(),
            };
            let hosts = called(&world, &snapshot.objects[&key]);
            hosts.iter().map(|host| host.as_str().to_owned()).collect()
        };
        let full = |name: &str| format!("{name}.default.svc.cluster.local");
        let edge = [full("order"), "shop.example.com".to_owned()];
        assert_eq!(of("VirtualService", "shop"), edge);
        assert_eq!(of("Gateway", "edge"), edge);
        let both = [full("order"), full("payment")];
        assert_eq!(of("VirtualService", "payment"), both);
        assert_eq!(of("PeerAuthentication", "strict"), both);
    }

    #[test]
    fn policies_and_tokens_go_to_whoever_is_called_in_their_namespace() {
        let text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {}\n";
        let snapshot = snapshot(text);
        let world = world(&snapshot, Vec::new());
        let object = snapshot.objects.values().next().unwrap();
        let touch = Touch::of(&world, object);
        for (listener, wanted) in [
            (crate::compile::INBOUND.to_owned(), true),
            (format!("{}8080", envoy::INBOUND), true),
            (gateway::name(80), true),
            ("0.0.0.0_x".to_owned(), false),
            (envoy::HTTP_PROXY.to_owned(), false),
        ] {
            assert_eq!(
                touch.wants(&Key::Listener(listener.clone())),
                wanted,
                "{listener}"
            );
        }
        assert!(touch.concerns("shop") && !touch.concerns("default"));
    }

    #[test]
    fn a_gateway_between_networks_goes_to_whoever_dials_anybody() {
        let far = "outbound|80||far.example";
        let keys = [
            Key::Endpoints(ClusterName::parse(far).unwrap()),
            Key::Cluster(ClusterName::parse(far).unwrap()),
            Key::Cluster(ClusterName::Inbound { port: 80 }),
        ];
        for (labels, wanted) in [
            ("{topology.istio.io/network: a}", [true, true, false]),
            ("{}", [false; 3]),
        ] {
            let text = format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: e, namespace: default, labels: {labels}}}, spec: {{ports: [{{port: 1}}], externalIPs: [192.0.2.1]}}}}"
            );
            let snapshot = snapshot(&text);
            let world = world(&snapshot, Vec::new());
            let touch = Touch::of(&world, snapshot.objects.values().next().unwrap());
            assert_eq!(
                keys.each_ref().map(|key| touch.wants(key)),
                wanted,
                "{labels}"
            );
        }
    }
}
