//! Secrets that gateways serve, opened.
//!
//! The store keeps values sealed. Of all Secrets only those that a Gateway names are opened, each time a world is made,
//! and they go no further than to the compile of what gateways of their namespace get.

use naka_api::Spec;
use naka_api::core::secret::Secret;
use naka_api::networking::gateway::{Certificate, Roots};
use naka_store::Snapshot;
use naka_types::name::ObjectRef;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Opened Secrets by namespace and name.
pub type Secrets = BTreeMap<(String, String), Arc<Secret>>;

/// The Secrets of a snapshot that Gateways name; `open` gives the plain values of one, if they can be had.
pub fn named(
    snapshot: &Snapshot,
    open: impl Fn(&ObjectRef) -> Option<BTreeMap<String, Vec<u8>>>,
) -> Secrets {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for gateway in snapshot
        .objects
        .values()
        .filter_map(|object| object.gateway())
    {
        for tls in gateway
            .servers
            .iter()
            .filter_map(|server| server.tls.as_ref())
        {
            let certificates = tls.certificates.iter().filter_map(|one| match one {
                Certificate::Secret(name) => Some(name),
                Certificate::Files { .. } => None,
            });
            let roots = match &tls.roots {
                Some(Roots::Secret(name)) => Some(name),
                Some(Roots::File(_)) | None => None,
            };
            for name in certificates.chain(roots) {
                names.insert(format!("{name}-cacert"));
                names.insert(name.clone());
            }
        }
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
