//! What of the world a caller sees: hosts by their export and by the Sidecar that holds for it, and the rule that
//! holds for it of several.

use super::{Service, World};
use naka_api::Object;
use naka_api::networking::export::Export;
use naka_api::networking::sidecar::Sidecar;
use naka_types::host::{Host, ROOT_NAMESPACE};
use naka_types::labels::{Labels, selects};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl World {
    /// The holder of exactly this host, or pattern, for callers of a namespace.
    #[must_use]
    pub fn holder(&self, host: &Host, namespace: &str) -> Option<&Arc<Service>> {
        let mut held = self.services.get(host);
        while let Some(service) = held {
            if service.export.reaches(namespace) {
                return held;
            }
            held = service.entry.as_ref()?.next.as_ref();
        }
        None
    }

    /// The Sidecar that holds for a workload: the oldest of its namespace that selects it, else the oldest of its
    /// namespace that holds for all, else that of the root namespace.
    #[must_use]
    pub fn sidecar(&self, namespace: &str, labels: &Labels) -> Option<&Sidecar> {
        let of = |namespace: &str| {
            let all = self.sidecars.get(namespace);
            let all = all.map_or(&[][..], |all| all.as_slice()).iter();
            all.filter_map(|object| object.sidecar())
        };
        let general = |namespace: &str| of(namespace).find(|sidecar| sidecar.selector.is_none());
        of(namespace)
            .find(|sidecar| sidecar.selects_workload(labels))
            .or_else(|| general(namespace))
            .or_else(|| general(ROOT_NAMESPACE))
    }

    /// The DestinationRule that holds for a caller: of its own namespace, else the service's, else the root's; one
    /// that selects the caller by its labels before one for all. Labels are looked at in the caller's own namespace
    /// only.
    #[must_use]
    pub fn rule_for(
        &self,
        host: &Host,
        service_namespace: &str,
        namespace: &str,
        labels: &Labels,
    ) -> Option<&Arc<Object>> {
        let rules = self.rules.get(host)?;
        let of = |wanted: &str, selecting: bool| {
            rules.iter().find(|object| {
                object.meta.namespace == wanted
                    && object.destination_rule().is_some_and(|rule| {
                        rule.export.reaches(namespace)
                            && match &rule.selector {
                                None => !selecting,
                                Some(selector) => {
                                    selecting && wanted == namespace && selects(selector, labels)
                                }
                            }
                    })
            })
        };
        of(namespace, true).or_else(|| {
            [namespace, service_namespace, ROOT_NAMESPACE]
                .into_iter()
                .find_map(|wanted| of(wanted, false))
        })
    }

    /// Whether callers of a namespace may see less than the whole mesh.
    #[must_use]
    pub fn narrows(&self, namespace: &str) -> bool {
        self.private
            || self.sidecars.contains_key(namespace)
            || self.sidecars.contains_key(ROOT_NAMESPACE)
    }

    /// Whether rules tell callers of a namespace apart by their labels.
    #[must_use]
    pub fn tells_apart(&self, namespace: &str) -> bool {
        [namespace, ROOT_NAMESPACE].into_iter().any(|of| {
            let keys = self.caller_labels.get(of);
            keys.is_some_and(|keys| !keys.is_empty())
        })
    }

    /// Notes which labels of callers rules read.
    pub(super) fn read_labels(&mut self, objects: &[&Arc<Object>]) {
        let mut read: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for object in objects {
            // Routes of connections hold for callers of any namespace.
            if let Some(spec) = object.virtual_service() {
                let matches = spec
                    .tls
                    .iter()
                    .chain(&spec.tcp)
                    .flat_map(|route| &route.matches);
                let keys = matches.flat_map(|wanted| wanted.source_labels.keys().cloned());
                read.entry(ROOT_NAMESPACE.to_owned())
                    .or_default()
                    .extend(keys);
            }
            let selector = object
                .sidecar()
                .and_then(|sidecar| sidecar.selector.as_ref())
                .or_else(|| object.destination_rule()?.selector.as_ref());
            for key in selector.into_iter().flat_map(|selector| selector.keys()) {
                let keys = read.entry(object.meta.namespace.clone()).or_default();
                keys.insert(key.clone());
            }
        }
        // A VirtualService may be for callers of any namespace.
        let routes = objects.iter().filter_map(|object| object.virtual_service());
        let conditions = routes
            .flat_map(|spec| &spec.http)
            .flat_map(|route| &route.matches);
        for wanted in conditions.filter(|wanted| !wanted.source_labels.is_empty()) {
            let namespace = wanted.source_namespace.as_deref().unwrap_or(ROOT_NAMESPACE);
            let keys = read.entry(namespace.to_owned()).or_default();
            keys.extend(wanted.source_labels.keys().cloned());
        }
        self.caller_labels = read;
        for object in objects {
            let rule = object.destination_rule();
            let Some(rule) = rule.filter(|rule| rule.selector.is_some()) else {
                continue;
            };
            let names = rule.all_tls().flat_map(|tls| tls.secrets());
            let namespace = &object.meta.namespace;
            self.shown
                .extend(names.map(|name| (namespace.clone(), name.to_owned())));
        }
        let everybodys = |service: &Arc<Service>| service.export == Export::Everywhere;
        self.private = !self.services.values().all(everybodys);
    }
}
