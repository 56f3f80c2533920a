//! Secrets that gateways and sidecars serve, or show to servers outside the mesh, opened.
//!
//! The store keeps values sealed. Of all Secrets only those that a Gateway, a Sidecar or a DestinationRule names are
//! opened, each time a world is made, and they go no further than to the compile of what proxies of their namespace get.

use naka_api::Spec;
use naka_api::core::secret::Secret;
use naka_store::Snapshot;
use naka_types::name::ObjectRef;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Opened Secrets by namespace and name.
pub type Secrets = BTreeMap<(String, String), Arc<Secret>>;

/// The Secrets of a snapshot that Gateways, Sidecars and DestinationRules name; `open` gives the plain values of one, if
/// they can be had.
pub fn named(
    snapshot: &Snapshot,
    open: impl Fn(&ObjectRef) -> Option<BTreeMap<String, Vec<u8>>>,
) -> Secrets {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let objects = || snapshot.objects.values();
    let servers = objects()
        .filter_map(|object| object.gateway())
        .flat_map(|gateway| &gateway.servers)
        .filter_map(|server| server.tls.as_ref());
    let ports = objects()
        .filter_map(|object| object.sidecar())
        .flat_map(|sidecar| &sidecar.ingress)
        .filter_map(|port| port.tls.as_deref());
    let rules = objects()
        .filter_map(|object| object.destination_rule())
        .flat_map(|rule| rule.all_tls());
    let served = servers.chain(ports).flat_map(|tls| tls.secrets());
    for name in served.chain(rules.flat_map(|tls| tls.secrets())) {
        names.insert(format!("{name}-cacert"));
        names.insert(name.to_owned());
    }
    if names.is_empty() {
        return Secrets::new();
    }
    let mut secrets = Secrets::new();
    for (reference, object) in snapshot.objects.iter() {
        let Spec::Secret(secret) = &object.spec else {
            continue;
        };
        if names.contains(&reference.name) {
            let secret = Secret {
                kind: secret.kind.clone(),
                data: open(reference).unwrap_or_else(|| secret.data.clone()),
            };
            let key = (reference.namespace.clone(), reference.name.clone());
            secrets.insert(key, Arc::new(secret));
        }
    }
    secrets
}
