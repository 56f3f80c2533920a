//! The world: everything the compiler may look at, joined for one moment and immutable.
//!
//! Built whole from the store's snapshot, the registry's members and the trust bundle; objects are shared, not
//! copied. Services are those declared by a Service object, those that exist because a workload runs under their name,
//! and hosts of ServiceEntries (`entries`). What clusters and routes need of a service ([`Service`]) is apart from its endpoints ([`Endpoint`]), because
//! endpoints change a hundred times as often.
//!
//! Invariants: every collection is sorted, so equal inputs give equal worlds in whichever order they came; of several
//! objects that compete, the older one wins (`creationTimestamp`, then namespace and name).

use crate::registry::{Health, Member};
use crate::revoked_tokens::RevokedToken;
use naka_api::Object;
use naka_api::mesh::Provider;
use naka_api::networking::export::Export;
use naka_api::networking::service_entry::{Block, Resolution};
use naka_identity::Revoked;
use naka_types::host::{Host, ROOT_NAMESPACE};
use naka_types::labels::Labels;
use naka_types::name::ObjectRef;
use naka_types::protocol::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

mod build;
mod callers;
mod change;
mod entries;
pub mod networks;
mod routes;
pub mod secrets;

#[cfg(test)]
mod tests;

pub use build::{Inputs, claim};
pub use change::Read;
pub(crate) use entries::GRANTS;
pub use networks::Networks;
pub use secrets::Secrets;

/// Everything joined for one moment.
#[derive(Debug, Default)]
pub struct World {
    /// The store's revision it was built from.
    pub revision: u64,
    /// Trust domain of the mesh.
    pub trust_domain: Arc<str>,
    /// The trust domain, then its aliases: identities of each count as the same.
    pub domains: Domains,
    /// All roots a proxy should trust, PEM.
    pub roots: Arc<str>,
    /// Workloads whose certificates count no more; they are no members.
    pub revoked: Arc<Revoked>,
    /// Tokens of users that count no more, although their time is not over.
    pub revoked_tokens: Arc<Vec<RevokedToken>>,
    /// Services by host.
    pub services: BTreeMap<Host, Arc<Service>>,
    /// Endpoints of each service by service port. A service of [`World::services`] may have none.
    pub endpoints: BTreeMap<Host, Arc<Endpoints>>,
    /// VirtualServices for sidecars, by service host, the winner first.
    pub routes: BTreeMap<Host, Arc<Vec<Arc<Object>>>>,
    /// DestinationRules by service host: exact hosts before wildcards, older before younger.
    pub rules: BTreeMap<Host, Arc<Vec<Arc<Object>>>>,
    /// BackendPolicies by service host, older before younger.
    pub backends: BTreeMap<Host, Arc<Vec<Arc<Object>>>>,
    /// PeerAuthentications by namespace, older before younger.
    /// A Namespace stands among its own where its data class demands encryption.
    pub peer_authentications: BTreeMap<String, Arc<Vec<Arc<Object>>>>,
    /// AuthorizationPolicies, RequestAuthentications, RequestGuards and TrustModels by namespace, older before younger.
    pub policies: BTreeMap<String, Arc<Vec<Arc<Object>>>>,
    /// Who can be asked about requests, by name.
    pub providers: BTreeMap<String, Arc<Provider>>,
    /// Keys of issuers as they were fetched last, by the address they came from.
    pub keys: BTreeMap<String, Arc<serde_json::Value>>,
    /// LocalRateLimits by namespace, older before younger.
    pub limits: BTreeMap<String, Arc<Vec<Arc<Object>>>>,
    /// Sidecars by namespace, older before younger.
    pub sidecars: BTreeMap<String, Arc<Vec<Arc<Object>>>>,
    /// Hosts that ServiceEntries (by namespace and name) name and do not get: place in their list, host, why.
    pub refused: BTreeMap<(String, String), Refusals>,
    /// Gateways by namespace and name.
    pub gateways: BTreeMap<(String, String), Arc<Object>>,
    /// VirtualServices bound to each gateway, older before younger.
    pub gateway_routes: BTreeMap<(String, String), Arc<Vec<Arc<Object>>>>,
    /// Secrets that Gateways, Sidecars and DestinationRules name.
    pub secrets: Secrets,
    /// Namespaces and names of Secrets that DestinationRules name for workloads they select.
    pub shown: BTreeSet<(String, String)>,
    /// VirtualServices without hosts, which others delegate to, by namespace and name.
    pub delegates: BTreeMap<(String, String), Arc<Object>>,
    /// Namespaces, besides a service's own, whose VirtualServices hold for all its callers.
    pub route_grants: BTreeMap<Host, Arc<BTreeSet<String>>>,
    /// Whether their values are hidden from whoever made this world: those that are there are taken to be sound.
    pub redacted: bool,
    /// Workloads by id.
    pub workloads: BTreeMap<String, Arc<Member>>,
    /// Labels of workloads that somebody else vouched for, by id; nobody's are empty.
    pub granted: BTreeMap<String, Labels>,
    /// Networks and their gateways.
    pub networks: Networks,
    /// Whether a service is not seen by everybody.
    pub private: bool,
    /// Keys of callers' labels that rules read, by the namespace of the callers; [`ROOT_NAMESPACE`]'s are for all.
    pub caller_labels: BTreeMap<String, BTreeSet<String>>,
}

/// A trust domain and its aliases.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Domains(Arc<[Arc<str>]>);

impl Domains {
    /// A trust domain with its aliases, each once.
    #[must_use]
    pub fn new(own: &Arc<str>, aliases: &[String]) -> Self {
        let others = aliases.iter().filter(|alias| alias.as_str() != &**own);
        let others = others.map(|alias| Arc::from(alias.as_str()));
        Self(std::iter::once(Arc::clone(own)).chain(others).collect())
    }

    /// All of them, the mesh's own first.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// The aliases.
    pub fn aliases(&self) -> impl Iterator<Item = &str> {
        self.all().skip(1)
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn has(&self, domain: &str) -> bool {
        self.all().any(|known| known == domain)
    }
}

/// Hosts that an entry does not get: place in its list, host, why.
pub type Refusals = Vec<(usize, Host, Refused)>;

/// Endpoints of a service by service port.
pub type Endpoints = BTreeMap<u16, Vec<Endpoint>>;

/// What callers of a service need to know besides its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Host.
    pub host: Host,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Whether a Service object declares it.
    pub declared: bool,
    /// When the object that declares it was made; empty where none does.
    pub created: String,
    /// Service accounts that may serve it.
    pub accounts: BTreeSet<String>,
    /// Ports by number.
    pub ports: BTreeMap<u16, Port>,
    /// Which namespaces' callers see it.
    pub export: Export,
    /// What a ServiceEntry says beyond that, if one declares it.
    pub entry: Option<Entry>,
}

/// A host of a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name of the object.
    pub name: String,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Whether endpoints are workloads of the mesh.
    pub internal: bool,
    /// Namespaces and service accounts that may serve it.
    pub identities: BTreeSet<(String, String)>,
    /// Names of which an endpoint's certificate must carry one.
    pub names: Vec<String>,
    /// Addresses it is called by.
    pub addresses: Vec<Block>,
    /// Ports of the endpoints by port, where they are others.
    pub targets: BTreeMap<u16, u16>,
    /// Endpoints by port: addresses, or names that are still to be looked up.
    pub endpoints: Arc<Endpoints>,
    /// A younger entry for the same host, for callers that do not see this one.
    pub next: Option<Arc<Service>>,
}

impl Service {
    /// The order in which services that compete for connections win: older objects, then what no object declares.
    #[must_use]
    pub fn age(&self) -> impl Ord + '_ {
        (!self.declared, &self.created, &self.namespace, &self.host)
    }
}

/// What the sidecar of a captured program answers to a question for a host's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An address of the proxy's own.
    Own,
    /// These addresses.
    Written(Vec<IpAddr>),
    /// What servers outside the mesh answer.
    Elsewhere,
}

impl Entry {
    /// As Istio's DNS proxy does it: with the addresses written, with none of its own where those are blocks, or where
    /// calls go on to the address that they were made to.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let all = self.addresses.iter().filter_map(Block::single);
        // What is loopback to the program never comes to its sidecar.
        let single: Vec<IpAddr> = all
            .filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
            .collect();
        let blocks = self.addresses.iter().any(|block| block.single().is_none());
        match (single.is_empty(), blocks || self.keeps_addresses()) {
            (false, _) => Answer::Written(single),
            (true, true) => Answer::Elsewhere,
            (true, false) => Answer::Own,
        }
    }

    /// Whether calls go on to the address that they were made to.
    #[must_use]
    pub fn keeps_addresses(&self) -> bool {
        self.resolution == Resolution::None && self.endpoints.is_empty()
    }
}

/// Why an entry does not get a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It belongs to this namespace.
    Foreign(String),
    /// A Service or running workloads have it.
    Service(String),
    /// This entry is older.
    Older(ObjectRef),
}

/// A service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name, may be empty.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
}

/// Somewhere a service port can be called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// `host:port` to dial.
    pub address: String,
    /// What to think of it.
    pub health: Health,
    /// Share.
    pub weight: u32,
    /// Whether it is reached by mesh mTLS.
    pub mtls: bool,
    /// Labels that subsets select by.
    pub labels: Labels,
    /// Name of the workload.
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// Its id; empty for what did not register.
    pub workload_id: String,
}

impl World {
    /// The workload a member id names.
    #[must_use]
    pub fn workload(&self, id: &str) -> Option<&Arc<Member>> {
        self.workloads.get(id)
    }

    /// The labels of a caller that any rule for its namespace reads: callers that agree on them share resources.
    #[must_use]
    pub fn labels_read(&self, namespace: &str, labels: &Labels) -> Labels {
        let reads = |namespace: &str, key: &String| {
            let keys = self.caller_labels.get(namespace);
            keys.is_some_and(|keys| keys.contains(key))
        };
        let read = labels
            .iter()
            .filter(|(key, _)| reads(namespace, key) || reads(ROOT_NAMESPACE, key));
        read.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// The BackendPolicy that holds for callers of `namespace` towards a destination: the most exact one, then by
    /// namespace as for DestinationRules, then the oldest.
    #[must_use]
    pub fn backend(
        &self,
        (host, port, subset): (&Host, u16, &str),
        namespace: &str,
    ) -> Option<&Arc<Object>> {
        let service_namespace = host.service().map_or("", |(_, namespace)| namespace);
        let near = [namespace, service_namespace, ROOT_NAMESPACE];
        let all = self.backends.get(host)?.iter().filter_map(|object| {
            let exact = object.backend_policy()?.names(host, port, subset)?;
            let distance = near.iter().position(|ns| *ns == object.meta.namespace)?;
            Some(((std::cmp::Reverse(exact), distance), object))
        });
        // The first of equals is the oldest.
        all.min_by_key(|(rank, _)| *rank).map(|(_, object)| object)
    }

    /// Hosts of a namespace's services.
    pub fn hosts_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Service>> {
        self.services
            .values()
            .filter(move |service| service.namespace == namespace)
    }
}

/// `creationTimestamp`, namespace, name: the order in which competing objects win.
fn age(object: &Object) -> (&str, &str, &str) {
    let meta = &object.meta;
    (&meta.creation_timestamp, &meta.namespace, &meta.name)
}
