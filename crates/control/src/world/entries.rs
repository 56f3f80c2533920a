//! ServiceEntries join the world: hosts that no Service declares.
//!
//! A host has one holder for each caller. A name of the mesh's own domain belongs to the namespace it names: a
//! Service or running workloads come before any entry, and an entry of another namespace has no effect without a
//! grant (annotation `naka.dev/host-grants` on the Service or the Namespace). Of several entries for any other
//! host the oldest that a caller sees holds; younger ones stand behind it ([`Entry::next`]) for callers that do not
//! see it, so that a private entry takes a name from nobody.
//!
//! Invariants: objects come in order of age, so equal inputs give equal worlds; what an entry does not get it is told
//! ([`World::refused`]).

use super::build::{accounts_of, endpoint, target};
use super::{Endpoint, Endpoints, Entry, Port, Refused, Service, World};
use crate::registry::{Health, Member};
use naka_api::core::service::{ServicePort, TargetPort};
use naka_api::networking::service_entry::{EntryEndpoint, EntryPort, Resolution, ServiceEntry};
use naka_api::{Kind, Object};
use naka_store::Snapshot;
use naka_types::host::{DOMAIN, Host};
use naka_types::labels::{Labels, selects};
use naka_types::locality::NETWORK;
use naka_types::name::ObjectRef;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Annotation by which a namespace lets others' entries hold its hosts.
pub(crate) const GRANTS: &str = "naka.dev/host-grants";
/// Label by which Istio marks an endpoint that takes mesh mTLS.
const TLS_MODE: &str = "security.istio.io/tlsMode";

impl World {
    /// Joins the entries anew, for a world whose services were changed by hand.
    pub fn rejoin(&mut self, snapshot: &Snapshot) {
        self.services.retain(|_, service| service.entry.is_none());
        self.refused.clear();
        let mut objects: Vec<&Arc<Object>> = snapshot.objects.values().collect();
        objects.sort_by(|a, b| super::age(a).cmp(&super::age(b)));
        self.entries(snapshot, &objects, &[]);
    }

    /// Adds the entries, the oldest first; services are there already.
    pub(super) fn entries(
        &mut self,
        snapshot: &Snapshot,
        objects: &[&Arc<Object>],
        members: &[Arc<Member>],
    ) {
        for object in objects {
            let Some(spec) = object.service_entry() else {
                continue;
            };
            for (index, host) in spec.hosts.iter().enumerate() {
                let refused = match self.claim(snapshot, object, spec, host) {
                    Ok(()) => {
                        self.hold(snapshot, object, spec, host, members);
                        continue;
                    }
                    Err(refused) => refused,
                };
                let key = (object.meta.namespace.clone(), object.meta.name.clone());
                let refusals = self.refused.entry(key).or_default();
                refusals.push((index, host.clone(), refused));
            }
        }
    }

    /// Whether an entry may hold a host for anybody at all.
    fn claim(
        &self,
        snapshot: &Snapshot,
        object: &Object,
        spec: &ServiceEntry,
        host: &Host,
    ) -> Result<(), Refused> {
        let own = &object.meta.namespace;
        if let Some((name, namespace)) = host.service() {
            if namespace != own && !granted(snapshot, name, namespace, own) {
                return Err(Refused::Foreign(namespace.to_owned()));
            }
        } else if host.as_str().ends_with(DOMAIN) {
            // A pattern over the mesh's own names, or a name that no service can have.
            let within = host.as_str().strip_prefix("*.");
            let within = within.and_then(|rest| rest.strip_suffix(DOMAIN)?.strip_suffix('.'));
            if within != Some(own.as_str()) {
                return Err(Refused::Foreign(within.unwrap_or_default().to_owned()));
            }
        }
        let mut held = self.services.get(host);
        while let Some(service) = held {
            match &service.entry {
                None => return Err(Refused::Service(host.as_str().to_owned())),
                Some(entry) if service.export.overlaps(&spec.export) => {
                    let reference = ObjectRef {
                        kind: Kind::ServiceEntry.as_str().to_owned(),
                        namespace: service.namespace.clone(),
                        name: entry.name.clone(),
                    };
                    return Err(Refused::Older(reference));
                }
                Some(entry) => held = entry.next.as_ref(),
            }
        }
        Ok(())
    }

    fn hold(
        &mut self,
        snapshot: &Snapshot,
        object: &Arc<Object>,
        spec: &ServiceEntry,
        host: &Host,
        members: &[Arc<Member>],
    ) {
        let mut found = Found::default();
        if let Some(selector) = &spec.selector {
            found.selected(snapshot, object, spec, selector, members);
        }
        for written in &spec.endpoints {
            for port in &spec.ports {
                self.written(&mut found, object, spec, written, port);
            }
        }
        let looked_up = matches!(spec.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
        if looked_up && spec.endpoints.is_empty() && spec.selector.is_none() && !host.is_wildcard()
        {
            let itself = EntryEndpoint {
                address: host.as_str().to_owned(),
                ports: Default::default(),
                labels: Labels::new(),
                weight: None,
                service_account: None,
            };
            for port in &spec.ports {
                found.plain(object, spec, &itself, port);
            }
        }
        for all in found.endpoints.values_mut() {
            all.sort();
            all.dedup();
        }
        let ports = spec.ports.iter().map(|port| {
            let known = Port {
                name: port.name.clone(),
                protocol: port.protocol,
            };
            (port.number, known)
        });
        let entry = Entry {
            name: object.meta.name.clone(),
            resolution: spec.resolution,
            internal: spec.internal,
            identities: found.identities,
            names: spec.subject_alt_names.clone(),
            addresses: spec.addresses.clone(),
            targets: spec
                .ports
                .iter()
                .filter_map(|port| Some((port.number, port.target?)))
                .collect(),
            endpoints: Arc::new(found.endpoints),
            next: None,
        };
        let service = Service {
            host: host.clone(),
            name: host.as_str().to_owned(),
            namespace: object.meta.namespace.clone(),
            declared: true,
            created: object.meta.creation_timestamp.clone(),
            accounts: BTreeSet::new(),
            ports: ports.collect(),
            export: spec.export.clone(),
            entry: Some(entry),
        };
        match self.services.get_mut(host) {
            None => {
                self.services.insert(host.clone(), Arc::new(service));
            }
            Some(first) => behind(Arc::make_mut(first), service),
        }
    }

    /// An endpoint as written; one that names a service of the mesh stands for that service's endpoints, which are
    /// called as the service itself is: nothing of the mesh is ever looked up outside.
    fn written(
        &self,
        found: &mut Found,
        object: &Object,
        spec: &ServiceEntry,
        written: &EntryEndpoint,
        port: &EntryPort,
    ) {
        let named = Host::parse(&written.address).ok();
        let named = named.filter(|host| host.service().is_some());
        let Some(host) = named else {
            return found.plain(object, spec, written, port);
        };
        let number = number(written, port);
        if let Some(service) = self.services.get(&host).filter(|s| s.entry.is_none()) {
            let accounts = service.accounts.iter();
            let identities = accounts.map(|a| (service.namespace.clone(), a.clone()));
            found.identities.extend(identities);
        }
        let behind = self.endpoints.get(&host);
        let all = behind.and_then(|ports| ports.get(&number));
        let mut all: Vec<Endpoint> = all.into_iter().flatten().cloned().collect();
        if let Some(network) = written.labels.get(NETWORK) {
            for endpoint in &mut all {
                endpoint.labels.insert(NETWORK.to_owned(), network.clone());
            }
        }
        found.endpoints.entry(port.number).or_default().extend(all);
    }
}

/// Puts a younger entry behind all that are older.
fn behind(first: &mut Service, younger: Service) {
    let Some(entry) = &mut first.entry else {
        return;
    };
    match &mut entry.next {
        None => entry.next = Some(Arc::new(younger)),
        Some(next) => behind(Arc::make_mut(next), younger),
    }
}

/// Whether a namespace lets another one's entries hold a host of its own.
fn granted(snapshot: &Snapshot, service: &str, namespace: &str, to: &str) -> bool {
    let of = |kind: Kind, namespace: &str, name: &str| {
        let reference = ObjectRef {
            kind: kind.as_str().to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let object = snapshot.objects.get(&reference);
        let written = object.and_then(|object| object.meta.annotations.get(GRANTS));
        written.is_some_and(|words| words.split(',').any(|word| word.trim() == to))
    };
    of(Kind::Service, namespace, service) || of(Kind::Namespace, "", namespace)
}

fn number(endpoint: &EntryEndpoint, port: &EntryPort) -> u16 {
    let own = endpoint.ports.get(&port.name).copied();
    own.or(port.target).unwrap_or(port.number)
}

/// Endpoints and identities of a host.
#[derive(Debug, Default)]
struct Found {
    endpoints: Endpoints,
    identities: BTreeSet<(String, String)>,
}

impl Found {
    fn plain(
        &mut self,
        object: &Object,
        spec: &ServiceEntry,
        written: &EntryEndpoint,
        port: &EntryPort,
    ) {
        let number = number(written, port);
        let address = if written.address.contains(':') {
            format!("[{}]:{number}", written.address)
        } else {
            format!("{}:{number}", written.address)
        };
        let marked = written.service_account.is_some()
            || written
                .labels
                .get(TLS_MODE)
                .is_some_and(|mode| mode == "istio");
        if let Some(account) = &written.service_account {
            let identity = (object.meta.namespace.clone(), account.clone());
            self.identities.insert(identity);
        }
        let endpoint = Endpoint {
            address,
            health: Health::Healthy,
            weight: written.weight.unwrap_or(1).max(1),
            mtls: spec.internal && marked,
            labels: written.labels.clone(),
            workload: object.meta.name.clone(),
            namespace: object.meta.namespace.clone(),
            workload_id: String::new(),
        };
        self.endpoints
            .entry(port.number)
            .or_default()
            .push(endpoint);
    }

    /// Workloads of the namespace by their labels: registered ones and those of WorkloadEntries. Labels alone prove
    /// nothing, so a registered one must also run under an account that the entry names.
    fn selected(
        &mut self,
        snapshot: &Snapshot,
        object: &Object,
        spec: &ServiceEntry,
        selector: &Labels,
        members: &[Arc<Member>],
    ) {
        let namespace = &object.meta.namespace;
        let accounts = accounts_of(object, selector);
        let serving = members.iter().filter(|member| {
            let registration = &member.registration;
            registration.namespace == *namespace
                && accounts.contains(&registration.service_account)
                && selects(selector, &registration.labels)
        });
        for member in serving {
            let account = member.registration.service_account.clone();
            self.identities.insert((namespace.clone(), account));
            for port in &spec.ports {
                let wanted = ServicePort {
                    index: 0,
                    name: port.name.clone(),
                    port: port.number,
                    target: TargetPort::Number(port.target.unwrap_or(port.number)),
                    protocol: port.protocol,
                };
                let served = target(&member.registration, &wanted, spec.ports.len() == 1);
                let found = served.and_then(|served| endpoint(member, served));
                self.endpoints.entry(port.number).or_default().extend(found);
            }
        }
        let entries = snapshot.objects.values().filter(|other| {
            other.meta.namespace == *namespace
                && other
                    .workload_entry()
                    .is_some_and(|entry| selects(selector, &entry.labels))
        });
        for (other, entry) in entries.filter_map(|o| Some((o, o.workload_entry()?))) {
            let written = EntryEndpoint {
                address: entry.address.clone(),
                ports: entry.ports.clone(),
                labels: entry.labels.clone(),
                weight: entry.weight,
                service_account: entry.service_account.clone(),
            };
            for port in &spec.ports {
                self.plain(other, spec, &written, port);
            }
        }
    }
}
