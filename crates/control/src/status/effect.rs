//! What a change would do, found by compiling both worlds and comparing.

use super::touch::{Touch, hosts};
use crate::apiserver::live::Effect;
use crate::compile::{Class, gateway, vhost};
use crate::plane::Plane;
use crate::world::World;
use naka_api::Object;
use naka_store::Snapshot;
use naka_types::host::Host;
use naka_types::labels::Labels;
use naka_types::name::{ClusterName, ObjectRef};
use naka_types::node::Role;
use std::collections::{BTreeMap, BTreeSet};

/// One effect per changed object, in the same order.
pub(super) fn effects(
    plane: &Plane,
    before: &Snapshot,
    after: &Snapshot,
    changed: &[ObjectRef],
) -> Vec<Effect> {
    let (old, new) = (plane.world_of(before), plane.world_of(after));
    let lints: Vec<_> = {
        let objects: Vec<&Object> = after.objects.values().map(AsRef::as_ref).collect();
        naka_api::cross_check(&objects)
    };
    changed
        .iter()
        .map(|key| {
            let versions = [before.objects.get(key), after.objects.get(key)];
            let mut effect = Effect::default();
            let mut touched: BTreeSet<Host> = BTreeSet::new();
            let mut proxies: BTreeSet<String> = BTreeSet::new();
            for object in versions.iter().copied().flatten() {
                for world in [&old, &new] {
                    let touch = Touch::of(world, object);
                    touched.extend(hosts(world, object));
                    proxies.extend(plane.hub.holding(|key| touch.wants(key)).into_keys());
                }
            }
            effect.proxies = proxies.into_iter().collect();
            let class = class(&key.namespace);
            compare_routes(
                &routes(&old, &touched, &class),
                &routes(&new, &touched, &class),
                &mut effect,
            );
            compare_endpoints(
                &endpoints(&old, &touched),
                &endpoints(&new, &touched),
                &mut effect,
            );
            let own = key.to_string();
            effect.shadowed = lints
                .iter()
                .filter(|finding| finding.code == "L313" && finding.object == own)
                .map(|finding| format!("{}: {}", finding.field, finding.message))
                .collect();
            effect
        })
        .collect()
}

fn class(namespace: &str) -> Class {
    Class {
        role: Role::Sidecar,
        namespace: namespace.to_owned(),
        workload_id: String::new(),
        labels: Labels::new(),
        ..Class::default()
    }
}

/// Routes of hosts by `host:port route`, with everything that decides what they do.
fn routes(world: &World, touched: &BTreeSet<Host>, class: &Class) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for host in touched {
        let ports = world.services.get(host).map(|service| &service.ports);
        for port in ports.into_iter().flat_map(|ports| ports.keys()) {
            for (name, content) in vhost::described(world, host, *port, class) {
                all.insert(format!("{host}:{port} {name}"), content);
            }
        }
    }
    for (host, name, content) in gateway::described(world, touched) {
        all.insert(format!("{host} {name}"), content);
    }
    all
}

fn compare_routes(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
    effect: &mut Effect,
) {
    for (name, content) in new {
        match old.get(name) {
            None => effect.routes_added.push(name.clone()),
            Some(before) if before != content => effect.routes_changed.push(name.clone()),
            Some(_) => {}
        }
    }
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    effect.routes_removed.extend(gone.cloned());
}

/// `address (cluster)` of every endpoint of the hosts, subsets included.
fn endpoints(world: &World, touched: &BTreeSet<Host>) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for host in touched {
        let Some(service) = world.services.get(host) else {
            continue;
        };
        let own = service.entry.as_ref().map(|entry| &entry.endpoints);
        let Some(ports) = own.or_else(|| world.endpoints.get(host)) else {
            continue;
        };
        let none = Labels::new();
        let namespace = &service.namespace;
        let rule = world
            .rule_for(host, namespace, namespace, &none)
            .and_then(|object| object.destination_rule());
        let subsets: Vec<(&str, &Labels)> = std::iter::once(("", &none))
            .chain(
                rule.into_iter()
                    .flat_map(|rule| rule.subsets.iter().map(|s| (s.name.as_str(), &s.labels))),
            )
            .collect();
        for (port, endpoints) in ports.iter() {
            for (subset, labels) in &subsets {
                let cluster = ClusterName::outbound(*port, subset, host.as_str());
                for endpoint in endpoints {
                    if naka_types::labels::selects(labels, &endpoint.labels) {
                        all.insert(format!("{} ({cluster})", endpoint.address));
                    }
                }
            }
        }
    }
    all
}

fn compare_endpoints(old: &BTreeSet<String>, new: &BTreeSet<String>, effect: &mut Effect) {
    effect.endpoints_added = new.difference(old).cloned().collect();
    effect.endpoints_removed = old.difference(new).cloned().collect();
}
