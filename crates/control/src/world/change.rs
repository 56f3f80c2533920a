//! What the compiler can read of a world, as keys, and which of them differ between two worlds.
//!
//! Each compiled resource records the keys it read; a new world invalidates exactly the resources that read a key
//! that differs. Objects are compared by identity first (the store shares unchanged ones), so comparing two worlds
//! costs little more than walking them.

use super::{Port, World};
use naka_api::networking::export::Export;
use naka_api::networking::service_entry::Block;
use naka_types::host::Host;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One thing the compiler can look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Read {
    /// Ports and accounts of a service, or that there is none.
    Service(Host),
    /// Endpoints of a service.
    Endpoints(Host),
    /// VirtualServices of a host, for sidecars.
    Routes(Host),
    /// A VirtualService that others delegate to, by namespace and name.
    Delegate(String, String),
    /// DestinationRules and BackendPolicies of a host.
    Rules(Host),
    /// PeerAuthentications of a namespace.
    PeerAuthentications(String),
    /// AuthorizationPolicies, RequestAuthentications, RequestGuards and TrustModels of a namespace.
    AuthorizationPolicies(String),
    /// Who can be asked about requests, by name.
    Provider(String),
    /// Keys of issuers that come from an address.
    Keys(String),
    /// LocalRateLimits of a namespace.
    Limits(String),
    /// Sidecars of a namespace.
    Sidecars(String),
    /// Gateways and what is bound to them.
    Gateways,
    /// A Secret, by namespace and name.
    Secret(String, String),
    /// Which Secrets sidecars show to servers outside the mesh.
    Shown,
    /// A workload, health aside.
    Workload(String),
    /// The set of hosts.
    Hosts,
    /// Trust bundle and trust domain.
    Trust,
    /// Tokens of users that count no more.
    RevokedTokens,
    /// What decides which callers share resources.
    Callers,
    /// Networks and their gateways.
    Networks,
}

impl World {
    /// Keys whose content differs between `self` and the world after it.
    #[must_use]
    pub fn changes(&self, next: &Self) -> BTreeSet<Read> {
        let mut reads = BTreeSet::new();
        differing(&self.services, &next.services, equal, |host| {
            reads.insert(Read::Service(host.clone()));
        });
        // An Envoy gets a virtual host for each host of a pattern that has routes of its own.
        let patterns = next.services.keys().any(Host::is_wildcard);
        let routed = patterns && !self.routes.keys().eq(next.routes.keys());
        if routed || !visible(self).eq(visible(next)) {
            reads.insert(Read::Hosts);
        }
        differing(&self.endpoints, &next.endpoints, equal, |host| {
            reads.insert(Read::Endpoints(host.clone()));
        });
        differing(&self.routes, &next.routes, same_objects, |host| {
            reads.insert(Read::Routes(host.clone()));
        });
        let (old, new) = (&self.route_grants, &next.route_grants);
        differing(old, new, equal, |host| {
            reads.insert(Read::Routes(host.clone()));
        });
        differing(&self.delegates, &next.delegates, same_object, |key| {
            let (namespace, name) = key.clone();
            reads.insert(Read::Delegate(namespace, name));
        });
        differing(&self.rules, &next.rules, same_objects, |host| {
            reads.insert(Read::Rules(host.clone()));
        });
        differing(&self.backends, &next.backends, same_objects, |host| {
            reads.insert(Read::Rules(host.clone()));
        });
        let (old, new) = (&self.peer_authentications, &next.peer_authentications);
        differing(old, new, same_objects, |namespace| {
            reads.insert(Read::PeerAuthentications(namespace.clone()));
        });
        differing(&self.policies, &next.policies, same_objects, |namespace| {
            reads.insert(Read::AuthorizationPolicies(namespace.clone()));
        });
        differing(&self.providers, &next.providers, equal, |name| {
            reads.insert(Read::Provider(name.clone()));
        });
        differing(&self.keys, &next.keys, equal, |uri| {
            reads.insert(Read::Keys(uri.clone()));
        });
        differing(&self.limits, &next.limits, same_objects, |namespace| {
            reads.insert(Read::Limits(namespace.clone()));
        });
        let mut gateways = false;
        differing(&self.gateways, &next.gateways, same_object, |_| {
            gateways = true
        });
        let (old, new) = (&self.gateway_routes, &next.gateway_routes);
        differing(old, new, same_objects, |_| gateways = true);
        if gateways {
            reads.insert(Read::Gateways);
        }
        differing(&self.secrets, &next.secrets, equal, |(namespace, name)| {
            reads.insert(Read::Secret(namespace.clone(), name.clone()));
        });
        if self.shown != next.shown {
            reads.insert(Read::Shown);
        }
        let same = |a: &Arc<crate::registry::Member>, b: &Arc<crate::registry::Member>| {
            a.registration == b.registration
        };
        differing(&self.workloads, &next.workloads, same, |id| {
            reads.insert(Read::Workload(id.clone()));
        });
        differing(&self.granted, &next.granted, equal, |id| {
            reads.insert(Read::Workload(id.clone()));
        });
        differing(&self.sidecars, &next.sidecars, same_objects, |namespace| {
            reads.insert(Read::Sidecars(namespace.clone()));
        });
        if self.networks != next.networks {
            reads.insert(Read::Networks);
        }
        let narrowed = |world: &Self| world.sidecars.keys().cloned().collect::<Vec<_>>();
        if self.caller_labels != next.caller_labels
            || self.private != next.private
            || narrowed(self) != narrowed(next)
        {
            reads.insert(Read::Callers);
        }
        if self.roots != next.roots
            || self.revoked != next.revoked
            || self.trust_domain != next.trust_domain
            || self.domains != next.domains
        {
            reads.insert(Read::Trust);
        }
        if self.revoked_tokens != next.revoked_tokens {
            reads.insert(Read::RevokedTokens);
        }
        reads
    }
}

/// What the filter of names says of an entry.
#[derive(PartialEq)]
struct Called<'a> {
    addresses: &'a [Block],
    more: bool,
    kept: bool,
    created: &'a str,
    ports: &'a BTreeMap<u16, Port>,
}

/// Hosts with who sees them, and how their names are called.
fn visible(world: &World) -> impl Iterator<Item = (&Host, &Export, Option<Called<'_>>)> {
    world.services.iter().map(|(host, service)| {
        let entry = service.entry.as_ref();
        let called = entry.map(|entry| Called {
            addresses: &entry.addresses,
            more: entry.next.is_some(),
            kept: entry.keeps_addresses(),
            created: &service.created,
            ports: &service.ports,
        });
        (host, &service.export, called)
    })
}

fn equal<V: PartialEq>(a: &V, b: &V) -> bool {
    a == b
}

fn same_object(a: &Arc<naka_api::Object>, b: &Arc<naka_api::Object>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

fn same_objects(a: &Arc<Vec<Arc<naka_api::Object>>>, b: &Arc<Vec<Arc<naka_api::Object>>>) -> bool {
    a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same_object(a, b))
}

/// Calls `found` for every key that only one map has or whose values are not `same`.
fn differing<K: Ord, V>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
    mut found: impl FnMut(&K),
) {
    for (key, value) in old {
        if !new.get(key).is_some_and(|other| same(value, other)) {
            found(key);
        }
    }
    for key in new.keys().filter(|key| !old.contains_key(*key)) {
        found(key);
    }
}
