//! Which VirtualServices hold for whom: visibility, ownership of hosts, and which of several wins.
//!
//! A service belongs to its namespace. A VirtualService of that namespace, of the root namespace, or of a namespace
//! that the service or its namespace lets in (annotation `naka.dev/routes-from`) holds for everybody who calls it and
//! sees the object (`exportTo`); one of any other namespace holds for callers of its own namespace only, so that nobody
//! decides about other people's calls. Of several that hold for a caller the oldest does, as a whole.

use super::World;
use naka_api::lint::hosts::admitted;
use naka_api::networking::virtual_service::VirtualService;
use naka_api::{Object, Spec};
use naka_store::Snapshot;
use naka_types::host::{Host, ROOT_NAMESPACE};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl World {
    /// The VirtualService that holds for callers of a namespace.
    #[must_use]
    pub fn route_for(&self, host: &Host, namespace: &str) -> Option<&Arc<Object>> {
        self.routes.get(host)?.iter().find(|object| {
            let spec = object.virtual_service();
            let seen = spec.is_some_and(|spec| spec.export.reaches(namespace));
            let own = object.meta.namespace.as_str();
            seen && (own == namespace || self.is_for_everybody(host, own))
        })
    }

    /// Whether objects of a namespace decide about everybody's calls of a host.
    #[must_use]
    pub fn is_for_everybody(&self, host: &Host, namespace: &str) -> bool {
        let service = self
            .services
            .get(host)
            .map(|known| known.namespace.as_str());
        let owner = service.or_else(|| host.service().map(|(_, owner)| owner));
        let granted = self.route_grants.get(host);
        owner.is_none_or(|owner| owner == namespace)
            || namespace == ROOT_NAMESPACE
            || granted.is_some_and(|all| all.contains(namespace) || all.contains("*"))
    }

    /// An older VirtualService that takes calls of a host away from this one.
    #[must_use]
    pub fn rival(&self, host: &Host, object: &Object, spec: &VirtualService) -> Option<&Object> {
        let all = self.routes.get(host)?;
        let own = object.reference();
        let older = all.iter().take_while(|other| other.reference() != own);
        let everybody = |namespace: &str| self.is_for_everybody(host, namespace);
        older.map(AsRef::as_ref).find(|other| {
            let (one, two) = (&other.meta.namespace, &object.meta.namespace);
            let meet = one == two || everybody(one) || everybody(two);
            let seen = other.virtual_service();
            meet && seen.is_some_and(|seen| seen.export.overlaps(&spec.export))
        })
    }

    /// VirtualServices that delegate to this one, which has no hosts.
    #[must_use]
    pub fn roots_of<'a>(&'a self, delegate: &Object) -> Vec<&'a Arc<Object>> {
        let meta = &delegate.meta;
        let mut found: Vec<&Arc<Object>> = self
            .routes
            .values()
            .chain(self.gateway_routes.values())
            .flat_map(|all| all.iter())
            .filter(|object| {
                let spec = object.virtual_service();
                spec.is_some_and(|spec| {
                    spec.delegates()
                        .any(|to| to.namespace == meta.namespace && to.name == meta.name)
                })
            })
            .collect();
        found.sort_by_key(|object| object.reference());
        found.dedup_by_key(|object| object.reference());
        found
    }

    pub(super) fn route_owners(&mut self, snapshot: &Snapshot) {
        let mut by_namespace: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let mut by_service: BTreeMap<Host, BTreeSet<String>> = BTreeMap::new();
        for object in snapshot.objects.values() {
            let meta = &object.meta;
            match &object.spec {
                Spec::Namespace => {
                    by_namespace.insert(&meta.name, admitted(object));
                }
                Spec::Service(_) => {
                    let host = Host::of_service(&meta.name, &meta.namespace);
                    by_service.insert(host, admitted(object));
                }
                Spec::VirtualService(spec) if spec.hosts.is_empty() => {
                    let key = (meta.namespace.clone(), meta.name.clone());
                    self.delegates.insert(key, Arc::clone(object));
                }
                _ => {}
            }
        }
        // Hosts without a service too: one may come, and `naka explain` takes it for granted.
        let hosts: BTreeSet<&Host> = self.services.keys().chain(self.routes.keys()).collect();
        for host in hosts {
            let service = self.services.get(host);
            let owner = service.map(|known| known.namespace.as_str());
            let owner = owner.or_else(|| host.service().map(|(_, owner)| owner));
            let one = by_service.get(host).into_iter().flatten();
            let other = owner.and_then(|owner| by_namespace.get(owner));
            let all: BTreeSet<String> = one.chain(other.into_iter().flatten()).cloned().collect();
            if !all.is_empty() {
                self.route_grants.insert(host.clone(), Arc::new(all));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::compile::tests::{member, snapshot, world};
    use crate::registry::Health;
    use naka_types::host::Host;

    fn winner(annotation: &str, export: &str, caller: &str) -> Option<String> {
        let objects = format!(
            "
apiVersion: v1
kind: Namespace
metadata: {{name: default{annotation}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: foreign, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}}
spec: {{hosts: [payment.default.svc], exportTo: [{export}], http: [{{route: [{{destination: {{host: payment.default.svc}}}}]}}]}}
"
        );
        let snapshot = snapshot(&objects);
        let world = world(&snapshot, vec![member(1, "payment", "v1", Health::Healthy)]);
        let host = Host::of_service("payment", "default");
        let holds = world.route_for(&host, caller);
        holds.map(|object| object.meta.name.clone())
    }

    #[test]
    fn another_namespace_decides_about_its_own_calls_only_until_it_is_let_in() {
        let granted = ", annotations: {naka.dev/routes-from: 'other, shop'}";
        let foreign = Some("foreign".to_owned());
        for (annotation, export, caller, wanted) in [
            ("", "'*'", "default", None),
            ("", "'*'", "other", None),
            ("", "'*'", "shop", foreign.clone()),
            (granted, "'*'", "default", foreign.clone()),
            (granted, "'*'", "other", foreign.clone()),
            (granted, "other", "default", None),
            (granted, "other", "other", foreign.clone()),
            (granted, "'.'", "shop", foreign.clone()),
            (granted, "'~'", "shop", None),
        ] {
            let got = winner(annotation, export, caller);
            assert_eq!(got, wanted, "{annotation} {export} {caller}");
        }
    }
}
