//! The world: everything the compiler may look at, joined for one moment and immutable.
//!
//! Built whole from the store's snapshot, the registry's members and the trust bundle; objects are shared, not
//! copied. Services are those declared by a Service object and those that exist because a workload runs under their
//! name. What clusters and routes need of a service ([`Service`]) is apart from its endpoints ([`Endpoint`]), because
//! endpoints change a hundred times as often.
//!
//! Invariants: every collection is sorted, so equal inputs give equal worlds in whichever order they came; of several
//! objects that compete, the older one wins (`creationTimestamp`, then namespace and name).

use crate::registry::{Health, Member};
use naka_api::Object;
use naka_types::host::{Host, ROOT_NAMESPACE};
use naka_types::labels::Labels;
use naka_types::protocol::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod build;
mod change;

pub use build::{Inputs, claim};
pub use change::Read;

/// Everything joined for one moment.
#[derive(Debug, Default)]
pub struct World {
    /// The store's revision it was built from.
    pub revision: u64,
    /// Trust domain of the mesh.
    pub trust_domain: Arc<str>,
    /// All roots a proxy should trust, PEM.
    pub roots: Arc<str>,
    /// Services by host.
    pub services: BTreeMap<Host, Arc<Service>>,
    /// Endpoints of each service by service port. A service of [`World::services`] may have none.
    pub endpoints: BTreeMap<Host, Arc<Endpoints>>,
    /// VirtualServices for sidecars, by service host, the winner first.
    pub routes: BTreeMap<Host, Arc<Vec<Arc<Object>>>>,
    /// DestinationRules by service host: exact hosts before wildcards, older before younger.
    pub rules: BTreeMap<Host, Arc<Vec<Arc<Object>>>>,
    /// PeerAuthentications by namespace, older before younger.
    pub peer_authentications: BTreeMap<String, Arc<Vec<Arc<Object>>>>,
    /// LocalRateLimits by namespace, older before younger.
    pub limits: BTreeMap<String, Arc<Vec<Arc<Object>>>>,
    /// Gateways by namespace and name.
    pub gateways: BTreeMap<(String, String), Arc<Object>>,
    /// VirtualServices bound to each gateway, older before younger.
    pub gateway_routes: BTreeMap<(String, String), Arc<Vec<Arc<Object>>>>,
    /// Secrets by namespace and name.
    pub secrets: BTreeMap<(String, String), Arc<Object>>,
    /// Workloads by id.
    pub workloads: BTreeMap<String, Arc<Member>>,
}

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
    /// Service accounts that may serve it.
    pub accounts: BTreeSet<String>,
    /// Ports by number.
    pub ports: BTreeMap<u16, Port>,
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

    /// The DestinationRule that holds for callers of `namespace`: their own namespace's, else the service's, else
    /// the root namespace's.
    #[must_use]
    pub fn rule(&self, host: &Host, namespace: &str) -> Option<&Arc<Object>> {
        let rules = self.rules.get(host)?;
        let service_namespace = host.service().map_or("", |(_, namespace)| namespace);
        [namespace, service_namespace, ROOT_NAMESPACE]
            .into_iter()
            .find_map(|wanted| rules.iter().find(|rule| rule.meta.namespace == wanted))
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
