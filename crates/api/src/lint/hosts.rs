//! Who may say what happens to calls of a host, and who does: claims of one host by several VirtualServices, claims of
//! another namespace's service, and routes that are left to others.

use super::say;
use crate::codes;
use crate::networking::virtual_service::delegate::expand;
use crate::networking::virtual_service::{Action, GatewayRef, VirtualService};
use crate::object::{Object, Spec};
use naka_types::finding::Finding;
use naka_types::host::{Host, ROOT_NAMESPACE};
use std::collections::{BTreeMap, BTreeSet};

/// Annotation of a Service or a Namespace: namespaces whose VirtualServices hold for everybody who calls its hosts,
/// separated by commas; `*` = all.
pub const ROUTES_FROM: &str = "naka.dev/routes-from";

/// Namespaces that an annotation lets in.
#[must_use]
pub fn admitted(object: &Object) -> BTreeSet<String> {
    let listed = object.meta.annotations.get(ROUTES_FROM);
    let names = listed.into_iter().flat_map(|text| text.split(','));
    names
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// All claims, indexed, because the live state has thousands.
pub(super) struct Claims<'o> {
    /// VirtualServices for sidecars by exact host, older before younger.
    mesh: BTreeMap<&'o Host, Vec<&'o Object>>,
    /// Those without hosts.
    delegates: BTreeMap<(&'o str, &'o str), &'o VirtualService>,
    /// Those that somebody delegates to.
    leads_to: BTreeSet<(&'o str, &'o str)>,
    /// Namespaces let in, by service host and by namespace.
    by_service: BTreeMap<Host, BTreeSet<String>>,
    by_namespace: BTreeMap<&'o str, BTreeSet<String>>,
}

impl<'o> Claims<'o> {
    pub(super) fn of(objects: &[&'o Object]) -> Self {
        let mut claims = Self {
            mesh: BTreeMap::new(),
            delegates: BTreeMap::new(),
            leads_to: BTreeSet::new(),
            by_service: BTreeMap::new(),
            by_namespace: BTreeMap::new(),
        };
        for object in objects {
            let meta = &object.meta;
            match &object.spec {
                Spec::VirtualService(spec) => {
                    claims
                        .delegates
                        .insert((meta.namespace.as_str(), meta.name.as_str()), spec);
                    let roots = spec.delegates();
                    claims
                        .leads_to
                        .extend(roots.map(|to| (to.namespace.as_str(), to.name.as_str())));
                    if spec.gateways.contains(&GatewayRef::Mesh) {
                        for host in spec.hosts.iter().filter(|host| !host.is_wildcard()) {
                            claims.mesh.entry(host).or_default().push(object);
                        }
                    }
                }
                Spec::Service(_) => {
                    let host = Host::of_service(&meta.name, &meta.namespace);
                    claims.by_service.insert(host, admitted(object));
                }
                Spec::Namespace => {
                    claims.by_namespace.insert(&meta.name, admitted(object));
                }
                _ => {}
            }
        }
        for all in claims.mesh.values_mut() {
            all.sort_by_key(age);
        }
        claims
    }

    fn lets_in(&self, host: &Host, owner: &str, namespace: &str) -> bool {
        let names = |admitted: Option<&BTreeSet<String>>| {
            admitted.is_some_and(|all| all.contains(namespace) || all.contains("*"))
        };
        names(self.by_service.get(host)) || names(self.by_namespace.get(owner))
    }

    pub(super) fn check(&self, out: &mut Vec<Finding>, object: &Object, service: &VirtualService) {
        if service.gateways.contains(&GatewayRef::Mesh) {
            for (index, host) in service.hosts.iter().enumerate() {
                let at = format!("spec.hosts[{index}]");
                self.foreign(out, object, host, &at);
                self.claimed(out, object, service, host, &at);
            }
        }
        let meta = &object.meta;
        let own = (meta.namespace.as_str(), meta.name.as_str());
        if service.hosts.is_empty() && !self.leads_to.contains(&own) {
            say(
                out,
                codes::L319,
                object,
                "spec",
                "no hosts, and nobody delegates to it: it does nothing".to_owned(),
                "add hosts, or delegate to it".to_owned(),
            );
        }
        for route in &service.http {
            let Action::Delegate(to) = &route.action else {
                continue;
            };
            let found = self
                .delegates
                .get(&(to.namespace.as_str(), to.name.as_str()));
            let expanded = expand(route, to, &object.meta.namespace, found.copied());
            for problem in expanded.problems {
                say(
                    out,
                    codes::L317,
                    object,
                    &format!("spec.http[{}].delegate", route.index),
                    problem,
                    "correct the name, or write conditions that are part of this route's"
                        .to_owned(),
                );
            }
        }
    }

    fn foreign(&self, out: &mut Vec<Finding>, object: &Object, host: &Host, at: &str) {
        let namespace = object.meta.namespace.as_str();
        let Some((service, owner)) = host.service() else {
            return;
        };
        if owner == namespace || namespace == ROOT_NAMESPACE || host.is_wildcard() {
            return;
        }
        if !self.lets_in(host, owner, namespace) {
            say(
                out,
                codes::L315,
                object,
                at,
                format!(
                    "{host} belongs to the namespace {owner}: this holds for callers in {namespace} only"
                ),
                format!(
                    "write it in {owner}, or annotate the Service {owner}/{service} with {ROUTES_FROM}: {namespace}"
                ),
            );
        }
    }

    fn claimed(
        &self,
        out: &mut Vec<Finding>,
        object: &Object,
        service: &VirtualService,
        host: &Host,
        at: &str,
    ) {
        let all = self.mesh.get(host).map(Vec::as_slice).unwrap_or_default();
        let own = object.reference();
        let older = all
            .iter()
            .take_while(|other| other.reference() != own)
            .find(|other| {
                let spec = other.virtual_service();
                spec.is_some_and(|spec| spec.export.overlaps(&service.export))
                    && self.meet(other, object, host)
            });
        if let Some(winner) = older {
            say(
                out,
                codes::L316,
                object,
                at,
                format!(
                    "{} claims {host} too and is older: it holds there, this one does not",
                    winner.reference()
                ),
                "put the routes into one object, or let one delegate to the other".to_owned(),
            );
        }
    }

    /// Whether two objects hold for the same callers of a host.
    fn meet(&self, one: &Object, other: &Object, host: &Host) -> bool {
        let Some((_, owner)) = host.service() else {
            return true;
        };
        let everybody = |namespace: &str| {
            namespace == owner
                || namespace == ROOT_NAMESPACE
                || self.lets_in(host, owner, namespace)
        };
        let (one, other) = (&one.meta.namespace, &other.meta.namespace);
        one == other || everybody(one) || everybody(other)
    }
}

fn age<'o>(object: &&'o Object) -> (&'o str, &'o str, &'o str) {
    let meta = &object.meta;
    (&meta.creation_timestamp, &meta.namespace, &meta.name)
}
