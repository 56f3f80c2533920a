//! The configuration this proxy holds, and the snapshot made of it. No sockets, no time: a value that updates change.
//!
//! Every resource in force is kept as received (to be saved, dumped and counted) beside its model. A refused resource
//! leaves the earlier one in force. An update whose models are equal to what is held makes no new snapshot, so a
//! request path is never disturbed for nothing.

use crate::edge::spec::{Held, Spec, Table};
use crate::intake::listener::{At, Opening};
use crate::intake::outside::Shown;
use crate::intake::{self, cluster, endpoint, listener, route};
use crate::names::Filter;
use naka_engine::model::{
    Cluster, ClusterSpec, Edge, Endpoint, Inbound, Snapshot, SnapshotBuilder, VirtualHost,
};
use naka_engine::runtime::Registry;
use naka_identity::Revoked;
use naka_types::locality::Locality;
use naka_types::name::VirtualHostName;
use naka_types::revoked_token::RevokedTokens;
use naka_types::workload::Ulid;
use naka_wire::v1::{NameFilter, WorkloadRecord};
use naka_wire::{type_url, unpack};
use naka_xds::{Reject, Resource};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

mod near;
mod roots;
mod secret;

pub use near::Near;
pub use roots::Roots;
use secret::listed;

/// Name of the secret with the trust bundle.
pub const ROOT_CA: &str = "ROOTCA";
/// Name of the list of workloads that are not believed any more.
pub const REVOKED: &str = "REVOKED";
/// Name of the list of tokens of users that are refused although their time is not over.
pub const REVOKED_TOKENS: &str = "REVOKED-TOKENS";
/// Name of the name filter.
pub const NAMES: &str = "names";

/// What an update changed.
#[derive(Debug, Default)]
pub struct Change {
    /// The next snapshot, unless nothing of it changed.
    pub snapshot: Option<Arc<Snapshot>>,
    /// A new name filter.
    pub names: Option<Arc<Filter>>,
    /// New TLS of a gateway's servers; to be in force before the snapshot is.
    pub edge: Option<Arc<Table>>,
    /// New roots.
    pub roots: Option<Roots>,
    /// Who is not believed any more.
    pub revoked: Option<Arc<Revoked>>,
    /// Whether the copy on disk is out of date.
    pub save: bool,
}

/// All resources in force.
#[derive(Debug)]
pub struct Book {
    namespace: String,
    registry: Registry,
    held: BTreeMap<(&'static str, String), Arc<Resource>>,
    clusters: BTreeMap<String, cluster::Part>,
    members: BTreeMap<String, Vec<endpoint::Member>>,
    hosts: BTreeMap<String, Arc<VirtualHost>>,
    listeners: BTreeMap<String, listener::Part>,
    workloads: BTreeMap<String, Arc<WorkloadRecord>>,
    near: Near,
    /// Whether secrets of clusters are taken to be there.
    assumes: bool,
    credentials: BTreeMap<String, Held>,
    revoked_tokens: Arc<RevokedTokens>,
    edge: Arc<Table>,
    /// Whether something of a gateway's TLS may differ.
    rekeyed: bool,
    /// What names mean, as far as anybody answered.
    meanings: BTreeMap<String, Vec<IpAddr>>,
    snapshot: Arc<Snapshot>,
    touched: BTreeSet<String>,
    stale: bool,
    change: Change,
}

impl Book {
    /// An empty book of a workload in this namespace.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            registry: Registry::default(),
            held: BTreeMap::new(),
            clusters: BTreeMap::new(),
            members: BTreeMap::new(),
            hosts: BTreeMap::new(),
            listeners: BTreeMap::new(),
            workloads: BTreeMap::new(),
            near: Near::default(),
            assumes: false,
            credentials: BTreeMap::new(),
            revoked_tokens: Arc::default(),
            edge: Arc::default(),
            rekeyed: false,
            meanings: BTreeMap::new(),
            snapshot: Arc::new(SnapshotBuilder::new(namespace).build()),
            touched: BTreeSet::new(),
            stale: false,
            change: Change::default(),
        }
    }

    /// Says who calls, which decides what is near.
    #[must_use]
    pub fn called_by(mut self, near: Near) -> Self {
        self.near = near;
        self
    }

    /// Takes secrets of clusters to be there: whoever only asks what would happen is not given them.
    #[must_use]
    pub fn without_secrets(mut self) -> Self {
        self.assumes = true;
        self
    }

    /// Takes what an update brings and takes away; returns what it refuses.
    pub fn apply(
        &mut self,
        type_url: &str,
        resources: &[Resource],
        removed: &[String],
    ) -> Vec<Reject> {
        let Some(kind) = known(type_url) else {
            return resources
                .iter()
                .map(|resource| Reject {
                    name: resource.name.clone(),
                    reason: format!("{type_url} is not a type this proxy uses"),
                })
                .collect();
        };
        let mut rejects = Vec::new();
        for resource in resources {
            match self.take(kind, resource) {
                Ok(left_out) => {
                    self.held
                        .insert((kind, resource.name.clone()), Arc::new(resource.clone()));
                    self.change.save = true;
                    if !left_out.is_empty() {
                        rejects.push(Reject {
                            name: resource.name.clone(),
                            reason: format!("left out: {}", intake::summary(&left_out)),
                        });
                    }
                }
                Err(error) => rejects.push(Reject {
                    name: resource.name.clone(),
                    reason: error.to_string(),
                }),
            }
        }
        for name in removed {
            self.remove(kind, name);
        }
        rejects
    }

    fn take(
        &mut self,
        kind: &str,
        resource: &Resource,
    ) -> Result<Vec<intake::Error>, intake::Error> {
        let any = &resource.any;
        let broken = |error: naka_wire::Error| intake::Error::at("resource", error);
        let name = resource.name.as_str();
        match kind {
            type_url::CLUSTER => {
                let wire = unpack(any).map_err(broken)?;
                let registry = &self.registry;
                let taken = cluster::cluster(&wire, &mut |name| registry.id(name))?;
                self.put_cluster(name, taken.model);
                Ok(taken.left_out)
            }
            type_url::ENDPOINT => {
                let taken = endpoint::members(&unpack(any).map_err(broken)?);
                if self.members.get(name) != Some(&taken.model) {
                    self.members.insert(name.to_owned(), taken.model);
                    self.touched.insert(name.to_owned());
                }
                Ok(taken.left_out)
            }
            type_url::VIRTUAL_HOST => {
                let wire = unpack(any).map_err(broken)?;
                let registry = &self.registry;
                let taken = route::virtual_host(&wire, None, &mut |name| registry.id(name))?;
                if self.hosts.get(name).map(|held| &**held) != Some(&taken.model) {
                    self.hosts.insert(name.to_owned(), Arc::new(taken.model));
                    self.stale = true;
                }
                Ok(taken.left_out)
            }
            type_url::LISTENER => {
                let wire = unpack(any).map_err(broken)?;
                let registry = &self.registry;
                let taken = listener::listener(&wire, &mut |name| registry.id(name))?;
                intake::limit::adopt(&taken.model, registry);
                intake::guard::adopt(&taken.model, registry);
                if self.listeners.get(name) != Some(&taken.model) {
                    self.listeners.insert(name.to_owned(), taken.model);
                    self.stale = true;
                    self.rekeyed = true;
                }
                Ok(taken.left_out)
            }
            type_url::SECRET if name == REVOKED => {
                let wire = unpack(any).map_err(broken)?;
                let list = listed(&wire, |text| {
                    Revoked::parse(text).map_err(|error| error.to_string())
                })?;
                self.change.revoked = Some(Arc::new(list));
                Ok(Vec::new())
            }
            type_url::SECRET if name == REVOKED_TOKENS => {
                let wire = unpack(any).map_err(broken)?;
                let list = listed(&wire, |text| {
                    RevokedTokens::parse(text).map_err(|error| error.to_string())
                })?;
                if list != *self.revoked_tokens {
                    self.revoked_tokens = Arc::new(list);
                    self.stale = true;
                }
                Ok(Vec::new())
            }
            type_url::SECRET if name != ROOT_CA => {
                let held = Held::read(&unpack(any).map_err(broken)?)
                    .map_err(|error| intake::Error::at("secret", error))?;
                self.credentials.insert(name.to_owned(), held);
                self.rekeyed = true;
                self.touch_shown(name);
                Ok(Vec::new())
            }
            type_url::SECRET => {
                self.change.roots = Some(Roots::read(&unpack(any).map_err(broken)?)?);
                Ok(Vec::new())
            }
            type_url::NAME_FILTER => {
                let wire: NameFilter = unpack(any).map_err(broken)?;
                let filter = Filter::decode(&wire)
                    .map_err(|error| intake::Error::at("name_filter", error))?;
                self.change.names = Some(Arc::new(filter));
                Ok(Vec::new())
            }
            _ => {
                let record: WorkloadRecord = unpack(any).map_err(broken)?;
                self.put_workload(name, record);
                Ok(Vec::new())
            }
        }
    }

    /// Takes a record; it makes another snapshot where a policy asks for what changed.
    fn put_workload(&mut self, name: &str, record: WorkloadRecord) {
        let before = self.workloads.insert(name.to_owned(), Arc::new(record));
        let same = before.is_some_and(|before| {
            let now = self.workloads.get(name);
            now.is_some_and(|now| now.granted == before.granted)
        });
        self.stale |= !same && self.asks_labels();
    }

    /// Whether a policy asks for labels of callers.
    fn asks_labels(&self) -> bool {
        self.listeners.values().any(listener::Part::asks_labels)
    }

    fn put_cluster(&mut self, name: &str, part: cluster::Part) {
        if self.clusters.get(name) != Some(&part) {
            self.clusters.insert(name.to_owned(), part);
            self.touched.insert(name.to_owned());
        }
    }

    /// Clusters whose TLS is made with a secret are made anew when it changes.
    fn touch_shown(&mut self, secret: &str) {
        let all = self.clusters.iter();
        let with = all.filter(|(_, part)| part.shown.has(secret));
        self.touched.extend(with.map(|(name, _)| name.clone()));
    }

    /// What a cluster is, with its secrets; the same one as before where it is equal, since TLS settings are kept by it.
    fn spec(&self, part: &cluster::Part) -> Arc<ClusterSpec> {
        let Some(tls) = part
            .spec
            .outside
            .as_deref()
            .filter(|_| !self.assumes && part.shown != Shown::default())
        else {
            return Arc::clone(&part.spec);
        };
        let mut spec = ClusterSpec::clone(&part.spec);
        spec.outside = Some(Arc::new(part.shown.fill(tls, &self.credentials)));
        let before = self.snapshot.cluster(self.registry.id(&spec.name));
        match before {
            Some(before) if *before.spec == spec => Arc::clone(&before.spec),
            _ => Arc::new(spec),
        }
    }

    fn remove(&mut self, kind: &'static str, name: &str) {
        if self.held.remove(&(kind, name.to_owned())).is_none() {
            return;
        }
        self.change.save = true;
        match kind {
            type_url::CLUSTER => {
                self.clusters.remove(name);
                self.touched.insert(name.to_owned());
            }
            type_url::ENDPOINT => {
                self.members.remove(name);
                self.touched.insert(name.to_owned());
            }
            type_url::VIRTUAL_HOST => {
                self.hosts.remove(name);
                self.stale = true;
            }
            type_url::LISTENER => {
                self.listeners.remove(name);
                self.stale = true;
                self.rekeyed = true;
            }
            type_url::SECRET => {
                self.rekeyed |= self.credentials.remove(name).is_some();
                self.touch_shown(name);
            }
            type_url::WORKLOAD => {
                self.workloads.remove(name);
                self.stale |= self.asks_labels();
            }
            // Trust and names are replaced, never taken away: without them nothing would be left to decide by.
            _ => {}
        }
    }

    /// Drops a virtual host that is not subscribed to any more.
    pub fn forget_host(&mut self, name: &str) {
        self.remove(type_url::VIRTUAL_HOST, name);
    }

    /// Drops the record of a workload that is not subscribed to any more: what it grants could be withdrawn unseen.
    pub fn forget_workload(&mut self, id: &str) {
        self.remove(type_url::WORKLOAD, id);
    }

    /// Names that clusters call their endpoints by.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        let named = self.clusters.values().filter_map(|p| p.named.as_ref());
        let all = named.flat_map(|named| &named.endpoints);
        all.map(|endpoint| endpoint.host.clone()).collect()
    }

    /// Takes what a name means; nothing: it has no addresses.
    pub fn means(&mut self, name: &str, addresses: Vec<IpAddr>) {
        if self.meanings.get(name) == Some(&addresses) {
            return;
        }
        self.meanings.insert(name.to_owned(), addresses);
        let naming = self.clusters.iter().filter(|(_, part)| {
            let named = part.named.as_ref();
            named.is_some_and(|named| named.endpoints.iter().any(|e| e.host == name))
        });
        let naming: Vec<String> = naming.map(|(name, _)| name.clone()).collect();
        self.touched.extend(naming);
    }

    /// Forgets what nobody calls any more.
    fn forget_meanings(&mut self) {
        let names = self.names();
        self.meanings.retain(|name, _| names.contains(name));
    }

    /// Everything that changed since the last call, as one step.
    pub fn settle(&mut self) -> Change {
        let mut change = std::mem::take(&mut self.change);
        if self.stale || !self.touched.is_empty() {
            self.snapshot = Arc::new(self.build());
            if !self.meanings.is_empty() {
                self.forget_meanings();
            }
            self.registry.sweep();
            self.stale = false;
            change.snapshot = Some(Arc::clone(&self.snapshot));
        }
        if std::mem::take(&mut self.rekeyed) {
            change.edge = self.rekey();
        }
        change
    }

    /// Ports that configuration asks for, by address; where several ask for one, the last.
    #[must_use]
    pub fn openings(&self) -> BTreeMap<At, Opening> {
        let mut all = BTreeMap::new();
        for part in self.listeners.values() {
            match part {
                listener::Part::Egress(own) => {
                    all.insert(own.bind.clone(), Opening::Calls(own.clone()));
                }
                listener::Part::Inbound(ports) => {
                    all.extend(ports.iter().filter_map(|declared| {
                        let port = declared.port;
                        Some((At::Ip(declared.listen?), Opening::Callers { port }))
                    }));
                }
                listener::Part::Gateway(_) => {}
            }
        }
        all
    }

    /// Whether certificates of a gateway's servers are in files, which change without a word.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.listeners.values().any(|part| match part {
            listener::Part::Gateway(port) => port.tls.values().any(Spec::has_files),
            listener::Part::Egress(_) => false,
            listener::Part::Inbound(ports) => {
                let mut own = ports.iter().flat_map(|port| &port.own);
                own.any(|(_, spec)| spec.has_files())
            }
        })
    }

    /// Lets the next step look at those files again.
    pub fn look_at_files(&mut self) {
        self.rekeyed = true;
    }

    /// A port with the gate it had before, so that connections stay counted.
    fn edge_with_gate(&self, port: &intake::edge::Port) -> Arc<Edge> {
        let Some((limits, _)) = port.edge.limits else {
            return Arc::clone(&port.edge);
        };
        let before = self.snapshot.edge(port.edge.port);
        let gate = before.and_then(|edge| Some(Arc::clone(&edge.limits.as_ref()?.1)));
        let mut edge = Edge::clone(&port.edge);
        edge.limits = Some((limits, gate.unwrap_or_default()));
        Arc::new(edge)
    }

    fn rekey(&mut self) -> Option<Arc<Table>> {
        let mut specs = Vec::new();
        for part in self.listeners.values() {
            match part {
                listener::Part::Gateway(port) => {
                    let number = port.edge.port;
                    specs.extend(port.tls.iter().map(|(chain, spec)| (number, chain, spec)));
                }
                listener::Part::Inbound(ports) => {
                    let own = ports
                        .iter()
                        .flat_map(|port| port.own.iter().map(|own| (port.port, own)));
                    specs.extend(own.map(|(number, (chain, spec))| (number, chain, spec)));
                }
                listener::Part::Egress(_) => {}
            }
        }
        let mut failed = Vec::new();
        let next = self
            .edge
            .next(specs.into_iter(), &self.credentials, &mut failed);
        for why in failed {
            tracing::warn!(
                why,
                "a server has no certificate; its connections are refused"
            );
        }
        let next = Arc::new(next?);
        self.edge = Arc::clone(&next);
        Some(next)
    }

    fn build(&mut self) -> Snapshot {
        let mut next = SnapshotBuilder::new(&self.namespace);
        next.put_revoked_tokens(Arc::clone(&self.revoked_tokens));
        for host in self.hosts.values() {
            next.put_virtual_host(Arc::clone(host));
        }
        for part in self.listeners.values() {
            match part {
                listener::Part::Inbound(ports) => {
                    for declared in ports {
                        next.put_inbound(Arc::new(self.inbound(declared)));
                    }
                }
                listener::Part::Gateway(port) => {
                    next.put_edge(self.edge_with_gate(port));
                }
                // Opened by who owns the sockets.
                listener::Part::Egress(_) => {}
            }
        }
        if self.asks_labels() {
            for (id, record) in &self.workloads {
                if let Some(id) = Ulid::parse(id) {
                    next.put_peer(id, Arc::new(record.granted.clone()));
                }
            }
        }
        let mut touched = std::mem::take(&mut self.touched);
        self.touch_zoned(&mut touched);
        for (name, part) in &self.clusters {
            let id = self.registry.id(name);
            let kept = self
                .snapshot
                .cluster(id)
                .filter(|_| !touched.contains(name) && !touched.contains(&*part.told));
            let cluster = match kept {
                Some(cluster) => Arc::clone(cluster),
                None => Arc::new(self.cluster(part)),
            };
            next.put_cluster(cluster);
        }
        next.build()
    }

    /// How many of our own service run where, as far as its endpoints are held.
    fn siblings(&self) -> BTreeMap<Locality, u64> {
        let mut siblings = BTreeMap::new();
        let own = self
            .clusters
            .iter()
            .find(|(_, part)| self.near.is_own(part));
        for member in own
            .and_then(|(name, _)| self.members.get(name))
            .into_iter()
            .flatten()
        {
            *siblings.entry((*member.stand.place).clone()).or_default() += 1;
        }
        siblings
    }

    /// Where our own service runs decides the shares of zones: they are worked out anew when that changed.
    fn touch_zoned(&self, touched: &mut BTreeSet<String>) {
        let zoned =
            |part: &cluster::Part| part.near.as_ref().is_some_and(|n| n.zone_aware.is_some());
        let part = |name: &String| self.clusters.get(name);
        if touched
            .iter()
            .filter_map(part)
            .any(|part| self.near.is_own(part))
        {
            let all = self.clusters.iter().filter(|(_, part)| zoned(part));
            touched.extend(all.map(|(name, _)| name.clone()));
        }
    }

    fn inbound(&self, declared: &listener::Declared) -> Inbound {
        Inbound {
            port: declared.port,
            protocol: declared.protocol,
            mode: declared.mode,
            cluster: self.registry.id(&declared.cluster),
            name: Arc::clone(&declared.cluster),
            service: Arc::clone(&declared.service),
            access: declared.access.clone(),
            limit: declared.limit.clone(),
            closes: declared.closes,
            tls: declared.own.as_ref().map(|(chain, _)| Arc::clone(chain)),
        }
    }

    fn cluster(&self, part: &cluster::Part) -> Cluster {
        let name = &part.spec.name;
        let named = part
            .named
            .as_ref()
            .map(|named| named.members(&self.meanings));
        let members = match (&named, &part.members) {
            (Some(named), _) => named.as_slice(),
            (None, Some(own)) => own.as_slice(),
            (None, None) => self.members.get(&*part.told).map_or(&[][..], Vec::as_slice),
        };
        let (members, groups) = self.near.groups(part, members, || self.siblings());
        let endpoints = members
            .into_iter()
            .map(|member| {
                Arc::new(Endpoint {
                    address: member.address,
                    weight: member.weight,
                    health: member.health,
                    // A cluster whose rule turns TLS off calls marked endpoints in plaintext too.
                    mtls: (part.spec.tls.as_ref()).is_some_and(|tls| tls.always || member.mtls),
                    workload: Arc::clone(&member.workload),
                    state: self.registry.endpoint(name, member.address),
                })
            })
            .collect();
        let (id, runtime) = (self.registry.id(name), self.registry.cluster(name));
        let spec = self.spec(part);
        runtime.breaker_is(spec.backend.as_ref().and_then(|b| b.breaker.as_ref()));
        let mut cluster = Cluster::placed(id, spec, endpoints, groups, runtime);
        cluster.looking = part
            .named
            .as_ref()
            .is_some_and(|named| named.is_unanswered(&self.meanings));
        cluster
    }

    /// The snapshot in force.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    /// All resources in force, as received, by type and name.
    #[must_use]
    pub fn resources(&self) -> Vec<Arc<Resource>> {
        self.held.values().cloned().collect()
    }

    /// Whether a resource is held.
    #[must_use]
    pub fn holds(&self, type_url: &str, name: &str) -> bool {
        known(type_url).is_some_and(|kind| self.held.contains_key(&(kind, name.to_owned())))
    }

    /// Names and versions held of a type.
    pub fn versions(&self, type_url: &str) -> impl Iterator<Item = (String, String)> {
        self.held
            .iter()
            .filter(move |((kind, _), _)| *kind == type_url)
            .map(|((_, name), resource)| (name.clone(), resource.version.clone()))
    }

    /// What is known of a workload.
    #[must_use]
    pub fn workload(&self, id: &str) -> Option<Arc<WorkloadRecord>> {
        self.workloads.get(id).cloned()
    }

    /// Ports of the program that a snapshot has.
    #[must_use]
    pub fn inbound_ports(&self) -> BTreeSet<u16> {
        self.snapshot
            .inbounds()
            .map(|inbound| inbound.port)
            .collect()
    }

    /// Whether every cluster that a virtual host names and that exists is complete, so that it can be used.
    #[must_use]
    pub fn has_host(&self, name: &VirtualHostName) -> bool {
        self.hosts.contains_key(&name.to_string())
    }
}

/// The one copy of a type's URL, so that keys are cheap.
fn known(type_url: &str) -> Option<&'static str> {
    [
        type_url::LISTENER,
        type_url::CLUSTER,
        type_url::ENDPOINT,
        type_url::VIRTUAL_HOST,
        type_url::SECRET,
        type_url::NAME_FILTER,
        type_url::WORKLOAD,
    ]
    .into_iter()
    .find(|known| *known == type_url)
}

#[cfg(test)]
mod tests;
