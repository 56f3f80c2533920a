//! Joins the parts into a [`World`].

use super::{Domains, Endpoint, Endpoints, Networks, Port, Service, World, age};
use crate::ca_service::{CERTIFICATE, revoked};
use crate::registry::{Claim, Health, Member, Registration, ServedPort};
use crate::revoked_tokens;
use naka_api::core::service::{ServicePort, TargetPort};
use naka_api::networking::export::{self, Export};
use naka_api::networking::virtual_service::GatewayRef;
use naka_api::{Object, Spec};
use naka_store::Snapshot;
use naka_types::data_class::DataClass;
use naka_types::host::Host;
use naka_types::labels::{Labels, selects};
use naka_types::name::ObjectRef;
use naka_types::protocol::Protocol;
use naka_types::workload::Ulid;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Service port that leads to a workload's first port when no Service object says otherwise.
const WELL_KNOWN_PORT: u16 = 80;
/// Annotation of a Service: the service accounts that may serve it, separated by commas.
const ACCOUNTS: &str = "naka.dev/service-accounts";

/// Objects by host, each with whether it came by a wildcard and how far behind that ranks it.
type Ranked = BTreeMap<Host, Vec<(bool, usize, Arc<Object>)>>;

/// What a world is made of.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Objects.
    pub snapshot: &'a Snapshot,
    /// Secrets of them that Gateways name, opened.
    pub secrets: super::Secrets,
    /// Workloads, oldest first.
    pub members: Vec<Member>,
    /// Owners of undeclared services, by (namespace, service).
    pub owners: &'a BTreeMap<(String, String), String>,
    /// Trust domain.
    pub trust_domain: Arc<str>,
    /// Roots, PEM.
    pub roots: Arc<str>,
}

/// Who may serve the name a workload claims.
#[must_use]
pub fn claim(snapshot: &Snapshot, namespace: &str, service: &str) -> Claim {
    let reference = ObjectRef {
        kind: naka_api::Kind::Service.as_str().to_owned(),
        namespace: namespace.to_owned(),
        name: service.to_owned(),
    };
    match snapshot.objects.get(&reference) {
        Some(object) => Claim::Declared(accounts(object)),
        None => Claim::Undeclared,
    }
}

/// Accounts that may serve a declared service: those of its annotation, else the one named as the service and the
/// one named as the `app` it selects. Labels alone prove nothing: a workload chooses them itself.
fn accounts(object: &Object) -> Vec<String> {
    let none = Labels::new();
    accounts_of(
        object,
        object.service().map_or(&none, |spec| &spec.selector),
    )
}

/// The same for anything that selects workloads by labels.
pub(super) fn accounts_of(object: &Object, selector: &Labels) -> Vec<String> {
    if let Some(listed) = object.meta.annotations.get(ACCOUNTS) {
        let mut all: Vec<String> = listed
            .split(',')
            .map(|account| account.trim().to_owned())
            .filter(|account| !account.is_empty())
            .collect();
        all.sort();
        all.dedup();
        return all;
    }
    let mut all = vec![object.meta.name.clone()];
    if let Some(app) = selector.get("app") {
        all.push(app.clone());
    }
    all.sort();
    all.dedup();
    all
}

impl World {
    /// Joins everything.
    #[must_use]
    pub fn build(inputs: Inputs<'_>) -> Self {
        let mut world = Self {
            revision: inputs.snapshot.revision,
            trust_domain: Arc::clone(&inputs.trust_domain),
            domains: Domains::new(&inputs.trust_domain, &[]),
            roots: Arc::clone(&inputs.roots),
            revoked: Arc::new(revoked(inputs.snapshot)),
            revoked_tokens: Arc::new(revoked_tokens::all(inputs.snapshot)),
            secrets: inputs.secrets,
            keys: inputs
                .snapshot
                .records_of(crate::jwks::RECORD)
                .map(|(uri, keys)| (uri.to_owned(), Arc::clone(keys)))
                .collect(),
            ..Self::default()
        };
        let believed = |member: &Member| {
            let id = Ulid::parse(&member.registration.workload_id);
            !id.is_some_and(|id| world.revoked.contains(id))
        };
        let members = inputs.members.into_iter().filter(believed);
        let members: Vec<Arc<Member>> = members.map(Arc::new).collect();
        world.declared(inputs.snapshot, &members);
        world.undeclared(&members, inputs.owners);
        let mut objects: Vec<&Arc<Object>> = inputs.snapshot.objects.values().collect();
        objects.sort_by(|a, b| age(a).cmp(&age(b)));
        world.entries(inputs.snapshot, &objects, &members);
        world.networks = Networks::of(&objects);
        world.objects(&objects);
        world.read_labels(&objects);
        world.route_owners(inputs.snapshot);
        let named = inputs.snapshot.objects.values();
        let named: Vec<&Arc<Object>> = named.filter(|o| o.workload_entry().is_some()).collect();
        world.granted = members
            .iter()
            .filter_map(|member| granted(inputs.snapshot, &named, &member.registration))
            .collect();
        world.workloads = members
            .into_iter()
            .map(|member| (member.registration.workload_id.clone(), member))
            .collect();
        world
    }

    fn declared(&mut self, snapshot: &Snapshot, members: &[Arc<Member>]) {
        let entries: Vec<&Arc<Object>> = snapshot
            .objects
            .values()
            .filter(|object| matches!(object.spec, Spec::WorkloadEntry(_)))
            .collect();
        for object in snapshot.objects.values() {
            let Spec::Service(spec) = &object.spec else {
                continue;
            };
            let meta = &object.meta;
            let host = Host::of_service(&meta.name, &meta.namespace);
            let accounts: BTreeSet<String> = accounts(object).into_iter().collect();
            let serving = |member: &&Arc<Member>| {
                let registration = &member.registration;
                registration.namespace == meta.namespace
                    && accounts.contains(&registration.service_account)
                    && if spec.selector.is_empty() {
                        registration.service == meta.name
                    } else {
                        selects(&spec.selector, &registration.labels)
                    }
            };
            let serving: Vec<&Arc<Member>> = members.iter().filter(serving).collect();
            let mut endpoints = Endpoints::new();
            let single = spec.ports.len() == 1;
            for port in &spec.ports {
                let mut all: Vec<Endpoint> = serving
                    .iter()
                    .filter_map(|member| {
                        let served = target(&member.registration, port, single)?;
                        endpoint(member, served)
                    })
                    .collect();
                let selected = entries.iter().filter(|entry| {
                    entry.meta.namespace == meta.namespace && !spec.selector.is_empty()
                });
                all.extend(
                    selected.filter_map(|entry| entry_endpoint(entry, &spec.selector, port)),
                );
                all.sort();
                all.dedup();
                if !all.is_empty() {
                    endpoints.insert(port.port, all);
                }
            }
            let ports = spec
                .ports
                .iter()
                .map(|port| (port.port, declared_port(port, &serving)))
                .collect();
            // An entry is an object: whoever may write it says who answers there.
            let named = entries.iter().filter(|entry| {
                entry.meta.namespace == meta.namespace && !spec.selector.is_empty()
            });
            let named = named.filter_map(|entry| entry.workload_entry());
            let named = named.filter(|entry| selects(&spec.selector, &entry.labels));
            let named: Vec<String> = named.filter_map(|e| e.service_account.clone()).collect();
            let service = Service {
                host: host.clone(),
                name: meta.name.clone(),
                namespace: meta.namespace.clone(),
                declared: true,
                created: meta.creation_timestamp.clone(),
                accounts: accounts.into_iter().chain(named).collect(),
                ports,
                export: exported(object),
                entry: None,
            };
            self.services.insert(host.clone(), Arc::new(service));
            self.endpoints.insert(host, Arc::new(endpoints));
        }
    }

    fn undeclared(&mut self, members: &[Arc<Member>], owners: &BTreeMap<(String, String), String>) {
        let mut groups: BTreeMap<(&str, &str), Vec<&Arc<Member>>> = BTreeMap::new();
        for member in members {
            let registration = &member.registration;
            let (namespace, service) = (&registration.namespace, &registration.service);
            let owner = owners.get(&(namespace.clone(), service.clone()));
            let host = Host::of_service(service, namespace);
            if service.is_empty()
                || self.services.get(&host).is_some_and(|known| known.declared)
                || owner.is_some_and(|owner| *owner != registration.service_account)
            {
                continue;
            }
            groups.entry((namespace, service)).or_default().push(member);
        }
        for ((namespace, name), serving) in groups {
            let host = Host::of_service(name, namespace);
            let (ports, endpoints) = undeclared_ports(&serving);
            let accounts = serving
                .iter()
                .map(|member| member.registration.service_account.clone())
                .collect();
            let service = Service {
                host: host.clone(),
                name: name.to_owned(),
                namespace: namespace.to_owned(),
                declared: false,
                created: String::new(),
                accounts,
                ports,
                export: Export::Everywhere,
                entry: None,
            };
            self.services.insert(host.clone(), Arc::new(service));
            self.endpoints.insert(host, Arc::new(endpoints));
        }
    }

    /// Objects in order of age.
    fn objects(&mut self, objects: &[&Arc<Object>]) {
        let mut routes: Ranked = BTreeMap::new();
        let (mut rules, mut backends) = (routes.clone(), routes.clone());
        for &object in objects {
            let (namespace, name) = (&object.meta.namespace, &object.meta.name);
            match &object.spec {
                Spec::VirtualService(spec) => {
                    for gateway in &spec.gateways {
                        self.bind(gateway, object, &spec.hosts, &mut routes);
                    }
                }
                Spec::DestinationRule(spec) => {
                    spread(&self.services, &spec.host, object, &mut rules);
                }
                Spec::BackendPolicy(spec) => {
                    let hosts: BTreeSet<&Host> = spec.targets.iter().map(|t| &t.host).collect();
                    for host in hosts {
                        spread(&self.services, host, object, &mut backends);
                    }
                }
                // Where its class demands encryption, it says so beside those that say who must show an identity.
                Spec::Namespace if DataClass::of(&object.meta.labels).wants_encryption() => {
                    let all = self.peer_authentications.entry(name.clone()).or_default();
                    Arc::make_mut(all).push(Arc::clone(object));
                }
                Spec::PeerAuthentication(_) => {
                    let all = self
                        .peer_authentications
                        .entry(namespace.clone())
                        .or_default();
                    Arc::make_mut(all).push(Arc::clone(object));
                }
                Spec::AuthorizationPolicy(_)
                | Spec::RequestAuthentication(_)
                | Spec::RequestGuard(_)
                | Spec::TrustModel(_) => {
                    let all = self.policies.entry(namespace.clone()).or_default();
                    Arc::make_mut(all).push(Arc::clone(object));
                }
                Spec::MeshConfig(config) => {
                    let all = config.providers.iter();
                    let all = all.map(|(name, one)| (name.clone(), Arc::new(one.clone())));
                    self.providers = all.collect();
                    self.domains = Domains::new(&self.trust_domain, &config.trust_domain_aliases);
                }
                Spec::LocalRateLimit(_) => {
                    let all = self.limits.entry(namespace.clone()).or_default();
                    Arc::make_mut(all).push(Arc::clone(object));
                }
                Spec::Sidecar(_) => {
                    let all = self.sidecars.entry(namespace.clone()).or_default();
                    Arc::make_mut(all).push(Arc::clone(object));
                }
                Spec::Gateway(_) => {
                    let key = (namespace.clone(), name.clone());
                    self.gateways.insert(key, Arc::clone(object));
                }
                _ => {}
            }
        }
        self.routes = ranked(routes);
        self.rules = ranked(rules);
        self.backends = ranked(backends);
    }

    fn bind(
        &mut self,
        gateway: &GatewayRef,
        object: &Arc<Object>,
        hosts: &[Host],
        routes: &mut Ranked,
    ) {
        match gateway {
            GatewayRef::Mesh => {
                for host in hosts {
                    spread(&self.services, host, object, routes);
                }
            }
            GatewayRef::Named { namespace, name } => {
                let key = (namespace.clone(), name.clone());
                let all = self.gateway_routes.entry(key).or_default();
                Arc::make_mut(all).push(Arc::clone(object));
            }
        }
    }
}

/// Who sees a Service, by its annotation; words that mean nothing keep it in its own namespace.
fn exported(object: &Object) -> Export {
    let own = &object.meta.namespace;
    let Some(words) = object.meta.annotations.get(export::ANNOTATION) else {
        return Export::Everywhere;
    };
    let words = words.split(',').map(str::trim);
    Export::read(words, own).unwrap_or_else(|_| Export::To(BTreeSet::from([own.clone()])))
}

/// Enters an object under every service its host means; wildcards rank behind exact hosts, short ones last.
fn spread(
    services: &BTreeMap<Host, Arc<Service>>,
    host: &Host,
    object: &Arc<Object>,
    into: &mut Ranked,
) {
    let rank = usize::MAX - host.as_str().len();
    let mut enter = |at: &Host, wildcard: bool, rank: usize| {
        into.entry(at.clone())
            .or_default()
            .push((wildcard, rank, Arc::clone(object)));
    };
    match host.as_str().strip_prefix('*') {
        // Kept for hosts without service too: status wants to say that nothing runs there.
        None => enter(host, false, 0),
        Some(suffix) => {
            for known in services.keys() {
                if known.as_str().ends_with(suffix) {
                    enter(known, true, rank);
                }
            }
        }
    }
}

fn ranked(all: Ranked) -> BTreeMap<Host, Arc<Vec<Arc<Object>>>> {
    all.into_iter()
        .map(|(host, mut objects)| {
            // Stable: within a rank they stay in order of age.
            objects.sort_by_key(|(wildcard, rank, _)| (*wildcard, *rank));
            let objects = objects.into_iter().map(|(_, _, object)| object).collect();
            (host, Arc::new(objects))
        })
        .collect()
}

/// The port of a workload that a declared service port leads to. A workload that was started without naming the
/// target port still serves a service that has only one port.
pub(super) fn target<'a>(
    registration: &'a Registration,
    port: &ServicePort,
    single: bool,
) -> Option<&'a ServedPort> {
    let ports = &registration.ports;
    let found = match &port.target {
        TargetPort::Number(number) => ports.iter().find(|served| served.port == *number),
        TargetPort::Name(name) => ports.iter().find(|served| served.name == *name),
    };
    found.or_else(|| single.then(|| first(registration)).flatten())
}

fn first(registration: &Registration) -> Option<&ServedPort> {
    let ports = &registration.ports;
    ports
        .iter()
        .find(|port| port.first)
        .or_else(|| ports.first())
}

/// The labels that somebody else vouched for: the token that a workload joined with, and WorkloadEntries with its
/// service account at the address that it was seen to come from, which whoever may write them knows better than the
/// workload. Not those that the workload contradicts, nor those on which the words of others differ.
fn granted(
    snapshot: &Snapshot,
    entries: &[&Arc<Object>],
    registration: &Registration,
) -> Option<(String, Labels)> {
    let id = &registration.workload_id;
    let certificate = snapshot.record(CERTIFICATE, id);
    let token = certificate.and_then(|record| record.get("labels")?.as_object());
    let token = token
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    let here: Option<IpAddr> = registration.seen_at.parse().ok();
    let entries = entries.iter().filter(|object| {
        let entry = object.workload_entry();
        here.is_some()
            && object.meta.namespace == registration.namespace
            && entry.is_some_and(|entry| {
                let account = entry.service_account.as_ref();
                let address = entry.address.parse::<IpAddr>().ok();
                account == Some(&registration.service_account)
                    && address.map(|address| address.to_canonical()) == here
            })
    });
    let entries = entries.filter_map(|object| object.workload_entry());
    let entries = entries.flat_map(|entry| &entry.labels);
    let entries = entries.map(|(key, value)| (key.as_str(), value.as_str()));
    let worn = registration.labels.iter();
    let worn: BTreeMap<&str, &str> = worn.map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let mut said: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for (key, value) in token.chain(entries) {
        let same = worn.get(key).is_none_or(|worn| *worn == value);
        said.entry(key)
            .and_modify(|known| *known = known.filter(|known| *known == value))
            .or_insert_with(|| same.then_some(value));
    }
    let labels: Labels = said
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
        .collect();
    (!labels.is_empty()).then(|| (id.clone(), labels))
}

fn declared_port(port: &ServicePort, serving: &[&Arc<Member>]) -> Port {
    let protocol = match port.protocol {
        // What the service does not declare, its oldest workload may.
        Protocol::Auto => serving
            .iter()
            .find_map(|member| target(&member.registration, port, false))
            .map_or(Protocol::Auto, protocol_of),
        declared => declared,
    };
    Port {
        name: port.name.clone(),
        protocol,
    }
}

fn protocol_of(served: &ServedPort) -> Protocol {
    let name = (!served.name.is_empty()).then_some(served.name.as_str());
    match served.protocol.as_str() {
        "" | "auto" => Protocol::declared(name, None),
        word => Protocol::declared(None, Some(word)),
    }
}

/// Ports and endpoints of a service that exists because workloads run under its name. Port 80 and every workload's
/// first port are one door: behind each stand the first ports of all workloads, whichever number they chose.
fn undeclared_ports(serving: &[&Arc<Member>]) -> (BTreeMap<u16, Port>, Endpoints) {
    let mut ports: BTreeMap<u16, Port> = BTreeMap::new();
    let mut endpoints = Endpoints::new();
    let firsts: BTreeSet<u16> = serving
        .iter()
        .filter_map(|member| first(&member.registration))
        .map(|served| served.port)
        .collect();
    let doors: BTreeSet<u16> = firsts.iter().copied().chain([WELL_KNOWN_PORT]).collect();
    for member in serving {
        let registration = &member.registration;
        let own_first = first(registration);
        let mut offer = |number: u16, served: &ServedPort| {
            ports.entry(number).or_insert_with(|| Port {
                name: served.name.clone(),
                protocol: protocol_of(served),
            });
            endpoints
                .entry(number)
                .or_default()
                .extend(endpoint(member, served));
        };
        if let Some(served) = own_first {
            for door in &doors {
                offer(*door, served);
            }
        }
        for served in &registration.ports {
            let is_first = own_first.is_some_and(|first| first.port == served.port);
            if !is_first && !doors.contains(&served.port) {
                offer(served.port, served);
            }
        }
    }
    // A service whose workloads have not said their ports yet exists all the same.
    ports.entry(WELL_KNOWN_PORT).or_insert_with(|| Port {
        name: String::new(),
        protocol: Protocol::Auto,
    });
    endpoints.retain(|_, all| {
        all.sort();
        !all.is_empty()
    });
    (ports, endpoints)
}

pub(super) fn endpoint(member: &Member, served: &ServedPort) -> Option<Endpoint> {
    let registration = &member.registration;
    Some(Endpoint {
        address: served.inbound_address.clone(),
        health: member.health?,
        weight: 1,
        mtls: true,
        labels: registration.labels.clone(),
        workload: registration.workload_name.clone(),
        namespace: registration.namespace.clone(),
        workload_id: registration.workload_id.clone(),
    })
}

fn entry_endpoint(object: &Object, selector: &Labels, port: &ServicePort) -> Option<Endpoint> {
    let entry = object.workload_entry()?;
    if !selects(selector, &entry.labels) {
        return None;
    }
    let number = match (entry.ports.get(&port.name), &port.target) {
        (Some(number), _) | (None, TargetPort::Number(number)) => *number,
        (None, TargetPort::Name(name)) => *entry.ports.get(name)?,
    };
    let address = if entry.address.contains(':') {
        format!("[{}]:{number}", entry.address)
    } else {
        format!("{}:{number}", entry.address)
    };
    Some(Endpoint {
        address,
        health: Health::Healthy,
        weight: entry.weight.unwrap_or(1).max(1),
        mtls: entry.service_account.is_some(),
        labels: entry.labels.clone(),
        workload: object.meta.name.clone(),
        namespace: object.meta.namespace.clone(),
        workload_id: String::new(),
    })
}
