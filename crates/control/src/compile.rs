//! From the world to resources: `compile(World, Key, Class) -> Compiled`, pure and sorted.
//!
//! A resource is compiled into a model of our own first and into Envoy's message from that. The version is a hash of
//! the model's debug form, which has a fixed order, never of the encoded message, whose maps have none; so equal
//! content has equal versions on every replica and after every restart. Everything looked at is recorded
//! ([`View`]), which is what invalidation rests on.
//!
//! Invariants: no clock, no chance, no socket; the same world gives the same result whatever was compiled before.
//! Not here: who gets what and when (`push`), what objects mean (`api`).

use crate::world::{Read, Service, World};
use naka_api::Object;
use naka_api::networking::sidecar::Sidecar;
use naka_types::finding::Finding;
use naka_types::host::{Host, ROOT_NAMESPACE};
use naka_types::labels::Labels;
use naka_types::name::{ClusterName, VirtualHostName};
use naka_types::node::Role;
use naka_types::version::Version;
use naka_wire::google::protobuf::Any;
use naka_wire::type_url;
use naka_xds::Encoded;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

pub mod cluster;
pub mod credential;
pub mod dialect;
pub mod egress;
pub mod endpoint;
pub mod envoy;
pub mod gateway;
pub mod grpc;
mod inbound;
mod limit;
pub mod listener;
pub mod names;
mod network;
pub(crate) mod policy;
pub mod roots;
pub mod route;
pub mod secret;
pub mod tls;
pub mod vhost;
pub mod workload;

pub use credential::Credential;
pub use dialect::{Binds, Dialect, Upstream};

#[cfg(test)]
pub(crate) mod tests;

/// Raised whenever equal models compile into different messages than before.
const FORMAT: u32 = 5;
/// Name of the secret with the trust bundle.
pub const ROOT_CA: &str = "ROOTCA";
/// Name of the secret with the workloads whose certificates count no more.
pub const REVOKED: &str = "REVOKED";
/// Name of the secret with the tokens of users that are refused although their time is not over.
pub const REVOKED_TOKENS: &str = "REVOKED-TOKENS";
/// Name of the name filter.
pub const NAMES: &str = "names";
/// Name of a sidecar's listener.
pub const INBOUND: &str = "virtualInbound";

/// Which resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// Trust bundle.
    RootCa,
    /// Workloads whose certificates count no more.
    Revoked,
    /// Tokens of users that are refused although their time is not over.
    RevokedTokens,
    /// A certificate, or roots of clients, for a gateway.
    Credential(Credential),
    /// A cluster.
    Cluster(ClusterName),
    /// The same service spoken to in bytes as they came, for callers who named it in their server name.
    Raw(ClusterName),
    /// The endpoints of an outbound cluster.
    Endpoints(ClusterName),
    /// A listener by name.
    Listener(String),
    /// A virtual host.
    VirtualHost(VirtualHostName),
    /// A whole route configuration, for proxies that do not ask host by host.
    Routes(String),
    /// A cluster that leads to no service: a way out of the mesh, or back into an own listener.
    Helper(envoy::Helper),
    /// A filter of an Envoy.
    Extension(envoy::Extension),
    /// The filter of host names.
    Names,
    /// What is known of a workload.
    Workload(String),
}

impl Key {
    /// Its type.
    #[must_use]
    pub fn type_url(&self) -> &'static str {
        match self {
            Self::RootCa | Self::Revoked | Self::RevokedTokens | Self::Credential(_) => {
                type_url::SECRET
            }
            Self::Cluster(_) | Self::Raw(_) | Self::Helper(_) => type_url::CLUSTER,
            Self::Endpoints(_) => type_url::ENDPOINT,
            Self::Listener(_) => type_url::LISTENER,
            Self::VirtualHost(_) => type_url::VIRTUAL_HOST,
            Self::Routes(_) => type_url::ROUTE,
            Self::Extension(_) => type_url::EXTENSION,
            Self::Names => type_url::NAME_FILTER,
            Self::Workload(_) => type_url::WORKLOAD,
        }
    }

    /// Its name on the wire.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::RootCa => ROOT_CA.to_owned(),
            Self::Revoked => REVOKED.to_owned(),
            Self::RevokedTokens => REVOKED_TOKENS.to_owned(),
            Self::Credential(credential) => credential.to_string(),
            Self::Cluster(name) | Self::Endpoints(name) => name.to_string(),
            Self::Raw(name) => cluster::raw_name(name),
            Self::Listener(name) | Self::Routes(name) => name.clone(),
            Self::Helper(helper) => helper.name().to_owned(),
            Self::Extension(place) => place.name(),
            Self::VirtualHost(name) => name.to_string(),
            Self::Names => NAMES.to_owned(),
            Self::Workload(id) => id.clone(),
        }
    }

    /// The key of a name on the wire; `None` when nothing can have that name.
    #[must_use]
    pub fn parse(type_url: &str, name: &str) -> Option<Self> {
        match type_url {
            type_url::SECRET if name == ROOT_CA => Some(Self::RootCa),
            type_url::SECRET if name == REVOKED => Some(Self::Revoked),
            type_url::SECRET if name == REVOKED_TOKENS => Some(Self::RevokedTokens),
            type_url::SECRET => Credential::parse(name).map(Self::Credential),
            type_url::CLUSTER => match envoy::Helper::parse(name) {
                Some(helper) => Some(Self::Helper(helper)),
                None => match cluster::parse_raw(name) {
                    Some(raw) => Some(Self::Raw(raw)),
                    None => ClusterName::parse(name).map(Self::Cluster),
                },
            },
            type_url::ROUTE => Some(Self::Routes(name.to_owned())),
            type_url::EXTENSION => envoy::Extension::parse(name).map(Self::Extension),
            type_url::ENDPOINT => ClusterName::parse(name).map(Self::Endpoints),
            type_url::LISTENER => Some(Self::Listener(name.to_owned())),
            type_url::VIRTUAL_HOST => VirtualHostName::parse(name).map(Self::VirtualHost),
            type_url::NAME_FILTER => (name == NAMES).then_some(Self::Names),
            type_url::WORKLOAD => Some(Self::Workload(name.to_owned())),
            _ => None,
        }
    }

    /// The part of a class this resource depends on: proxies that agree on it share the resource.
    #[must_use]
    pub fn scope(&self, class: &Class) -> Class {
        let none = Class::default();
        let dialect = class.dialect;
        match self {
            Self::RootCa | Self::Revoked | Self::RevokedTokens | Self::Workload(_) => none,
            Self::Names if !class.narrow => none,
            Self::Names => Class {
                namespace: class.namespace.clone(),
                labels: class.labels_of_caller(),
                narrow: true,
                ..none
            },
            Self::Credential(_) => Class {
                role: class.role,
                namespace: class.namespace.clone(),
                ..none
            },
            Self::Cluster(ClusterName::Inbound { .. }) => Class {
                dialect,
                workload_id: class.workload_id.clone(),
                ..none
            },
            // What is near to an Envoy is worked out for it; our own proxies do so themselves.
            Self::Endpoints(_) if dialect == Dialect::Envoy => Class {
                namespace: class.namespace.clone(),
                workload_id: class.workload_id.clone(),
                labels: class.labels_of_caller(),
                network: class.network.clone(),
                dialect,
                ..none
            },
            Self::Cluster(_) => Class {
                role: class.role,
                namespace: class.namespace.clone(),
                labels: class.labels_of_caller(),
                network: class.network.clone(),
                dialect,
                ..none
            },
            Self::Endpoints(_) => Class {
                namespace: class.namespace.clone(),
                labels: class.labels_of_caller(),
                network: class.network.clone(),
                dialect,
                ..none
            },
            Self::Raw(_) | Self::VirtualHost(_) => Class {
                namespace: class.namespace.clone(),
                labels: class.labels_of_caller(),
                dialect,
                ..none
            },
            Self::Routes(name) => match dialect {
                Dialect::Envoy if name != envoy::HTTP_PROXY => class.clone(),
                // Callers of one namespace see the same hosts.
                _ => Class {
                    namespace: class.namespace.clone(),
                    labels: class.labels_of_caller(),
                    dialect,
                    ..none
                },
            },
            Self::Helper(_) | Self::Listener(_) | Self::Extension(_) => class.clone(),
        }
    }
}

/// What of a proxy decides how its configuration looks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class {
    /// Sidecar or gateway.
    pub role: Role,
    /// Namespace.
    pub namespace: String,
    /// Workload id.
    pub workload_id: String,
    /// Labels. Of a gateway all, because Gateway objects select by them; of a sidecar those that rules read
    /// ([`Class::settled`]), so that as many as possible share a resource.
    pub labels: Labels,
    /// Whether not everybody sees the same hosts, so that its names are its own (see [`Class::settled`]).
    pub narrow: bool,
    /// The network it is in, while networks matter (see [`Class::settled`]).
    pub network: String,
    /// Whether it knows the labels of its callers; else they are unknown to its policies.
    pub peer_labels: bool,
    /// Whose language is spoken.
    pub dialect: Dialect,
    /// Addresses an Envoy's agent chose; empty for everybody else.
    pub binds: Arc<Binds>,
}

impl Class {
    /// The same proxy as far as this world tells it apart from others. A sidecar's labels are those of its
    /// registration, which are verified; what its node says of itself decides nothing.
    #[must_use]
    pub fn settled(&self, world: &World) -> Self {
        let mut class = self.clone();
        class.narrow = world.narrows(&self.namespace);
        class.network = world.network_of_caller(&self.labels);
        if self.role == Role::Sidecar
            && let Some(member) = world.workload(&self.workload_id)
        {
            let labels = &member.registration.labels;
            class.network = world.network_of_caller(labels);
            class.labels = world.labels_read(&self.namespace, labels);
        }
        class
    }

    fn labels_of_caller(&self) -> Labels {
        match self.role {
            Role::Sidecar => self.labels.clone(),
            Role::Gateway => Labels::new(),
        }
    }
}

impl Default for Class {
    /// A Naka sidecar of no namespace.
    fn default() -> Self {
        Self {
            role: Role::Sidecar,
            namespace: String::new(),
            workload_id: String::new(),
            labels: Labels::new(),
            narrow: false,
            network: String::new(),
            peer_labels: false,
            dialect: Dialect::Naka,
            binds: Arc::default(),
        }
    }
}

/// A compiled resource.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Compiled {
    /// Name on the wire, shared by every stream it is sent on.
    pub name: Arc<str>,
    /// The resource; `None`: there is none of that name.
    pub resource: Option<Arc<Encoded>>,
    /// Resources it refers to, which must be there before it.
    pub refers: Vec<Key>,
    /// What was looked at.
    pub reads: BTreeSet<Read>,
    /// What is wrong with the objects behind it.
    pub findings: Vec<Finding>,
}

/// A world that writes down what is looked at.
#[derive(Debug)]
pub struct View<'a> {
    world: &'a World,
    reads: RefCell<BTreeSet<Read>>,
    findings: RefCell<Vec<Finding>>,
}

impl<'a> View<'a> {
    /// Nothing was looked at yet.
    #[must_use]
    pub fn new(world: &'a World) -> Self {
        Self {
            world,
            reads: RefCell::default(),
            findings: RefCell::default(),
        }
    }

    fn read(&self, read: Read) -> &'a World {
        self.reads.borrow_mut().insert(read);
        self.world
    }

    pub(crate) fn service(&self, host: &Host) -> Option<&'a Arc<Service>> {
        self.read(Read::Service(host.clone())).services.get(host)
    }

    /// The holder of exactly this host, or pattern, that callers of a class see.
    pub(crate) fn seen(&self, host: &Host, class: &Class) -> Option<&'a Arc<Service>> {
        self.read(Read::Service(host.clone()))
            .holder(host, &class.namespace)
    }

    /// The same, or the holder of the narrowest pattern that has this host.
    pub(crate) fn serving(&self, host: &Host, class: &Class) -> Option<&'a Arc<Service>> {
        let exact = self.seen(host, class);
        if exact.is_some() || host.is_wildcard() {
            return exact;
        }
        let text = host.as_str();
        let mut dots = text.match_indices('.');
        dots.find_map(|(at, _)| {
            let pattern = Host::parse(&format!("*{}", &text[at..])).ok()?;
            self.seen(&pattern, class)
        })
    }

    /// The Sidecar that holds for a class.
    pub(crate) fn sidecar(&self, class: &Class) -> Option<&'a Sidecar> {
        if class.role == Role::Gateway {
            return None;
        }
        self.read(Read::Sidecars(ROOT_NAMESPACE.to_owned()));
        self.read(Read::Sidecars(class.namespace.clone()))
            .sidecar(&class.namespace, &class.labels)
    }

    /// Whether callers of a class may call a host by the name of one of the mesh, at some port.
    pub(crate) fn admits(&self, service: &Service, host: &Host, class: &Class) -> bool {
        self.sidecar(class).is_none_or(|sidecar| {
            let namespace = &service.namespace;
            sidecar.admits(namespace, &service.host) || sidecar.admits(namespace, host)
        })
    }

    /// The same at one port.
    pub(crate) fn admits_at(
        &self,
        service: &Service,
        host: &Host,
        port: u16,
        class: &Class,
    ) -> bool {
        self.sidecar(class).is_none_or(|sidecar| {
            let namespace = &service.namespace;
            sidecar.admits_at(namespace, &service.host, port)
                || sidecar.admits_at(namespace, host, port)
        })
    }

    pub(crate) fn rule(&self, service: &Service, class: &Class) -> Option<&'a Arc<Object>> {
        let host = &service.host;
        self.read(Read::Rules(host.clone())).rule_for(
            host,
            &service.namespace,
            &class.namespace,
            &class.labels,
        )
    }

    pub(crate) fn backend(
        &self,
        to: (&Host, u16, &str),
        namespace: &str,
    ) -> Option<&'a Arc<Object>> {
        let world = self.read(Read::Rules(to.0.clone()));
        world.backend(to, namespace)
    }

    /// The VirtualService that holds for callers of a namespace.
    pub(crate) fn route(&self, host: &Host, namespace: &str) -> Option<&'a Arc<Object>> {
        self.read(Read::Routes(host.clone()))
            .route_for(host, namespace)
    }

    /// The VirtualService of that name, if it is for others to delegate to.
    pub(crate) fn delegate(&self, namespace: &str, name: &str) -> Option<&'a Arc<Object>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.read(Read::Delegate(key.0.clone(), key.1.clone()))
            .delegates
            .get(&key)
    }

    /// Whether values of Secrets are hidden from us.
    pub(crate) fn redacted(&self) -> bool {
        self.world.redacted
    }

    pub(crate) fn finding(&self, finding: Finding) {
        self.findings.borrow_mut().push(finding);
    }

    fn into_parts(self) -> (BTreeSet<Read>, Vec<Finding>) {
        (self.reads.into_inner(), self.findings.into_inner())
    }
}

/// A model with its message and what it refers to.
#[derive(Debug)]
pub(crate) struct Built {
    version: Version,
    any: Any,
    refers: Vec<Key>,
}

impl Built {
    /// `model` decides the version; `any` is made from it and from nothing else.
    pub(crate) fn new(model: &impl std::fmt::Debug, any: Any) -> Self {
        Self {
            version: Version::of(FORMAT, format!("{model:?}").as_bytes()),
            any,
            refers: Vec::new(),
        }
    }

    pub(crate) fn referring(mut self, mut keys: Vec<Key>) -> Self {
        keys.sort();
        keys.dedup();
        self.refers = keys;
        self
    }
}

/// Compiles one resource for one class of proxies.
#[must_use]
pub fn compile(world: &World, key: &Key, class: &Class) -> Compiled {
    let view = View::new(world);
    let built = match class.dialect {
        Dialect::Naka => naka(&view, key, class),
        Dialect::Envoy => envoy::resource(&view, key, class),
        Dialect::Grpc => grpc::resource(&view, key, class),
    };
    let (reads, findings) = view.into_parts();
    let (resource, refers) = match built {
        None => (None, Vec::new()),
        Some(built) => {
            let encoded = Encoded {
                version: built.version.to_string().into(),
                any: built.any,
            };
            (Some(Arc::new(encoded)), built.refers)
        }
    };
    Compiled {
        name: key.name().into(),
        resource,
        refers,
        reads,
        findings,
    }
}

fn naka(view: &View<'_>, key: &Key, class: &Class) -> Option<Built> {
    match key {
        Key::RootCa => Some(secret::root_ca(view)),
        Key::Revoked => Some(secret::revoked(view)),
        Key::RevokedTokens => Some(secret::revoked_tokens(view)),
        Key::Credential(credential) => credential::resource(view, credential, class),
        Key::Cluster(ClusterName::Inbound { port }) => {
            let chain = inbound::chain(view, &class.workload_id, *port)?;
            Some(cluster::inbound(&chain, class.dialect))
        }
        Key::Cluster(name) => cluster::outbound(view, name, class),
        Key::Raw(name) => cluster::raw(view, name, class),
        Key::Endpoints(name) => endpoint::endpoints(view, name, class),
        Key::Listener(name) => match class.role {
            Role::Sidecar if name.starts_with(egress::EGRESS) => {
                egress::listener(view, name, class)
            }
            Role::Sidecar => listener::inbound(view, name, class),
            Role::Gateway => gateway::listener(view, name, class),
        },
        Key::VirtualHost(name) => vhost::virtual_host(view, name, class),
        Key::Names => Some(names::names(view, class)),
        Key::Workload(id) => workload::record(view, id),
        Key::Routes(_) | Key::Helper(_) | Key::Extension(_) => None,
    }
}
