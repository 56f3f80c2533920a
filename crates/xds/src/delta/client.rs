//! The client's side: subscriptions, versions held, one verdict per response.
//!
//! The state outlives the stream: after a reconnect the first request of each type names every version held, so an
//! unchanged resource is not sent again. A version is held from the moment the application accepted it, which may
//! be later than its arrival (endpoints are acknowledged once every worker has passed the new snapshot); until then
//! a reconnect gets the resource again, which is harmless.
//!
//! Invariants: every response gets exactly one acknowledgement, with its nonce, on the stream it came from; a
//! verdict that comes after the next stream opened is ignored (the resource comes again).

use crate::order;
use crate::reject;
use crate::resource::{Reject, Resource};
use naka_wire::envoy::envoy::config::core::v3::Node;
use naka_wire::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

const WILDCARD: &str = "*";

/// What a client wants of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Everything the server has for this node.
    pub wildcard: bool,
    /// These names.
    pub names: BTreeSet<String>,
}

impl Subscription {
    /// Everything.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            wildcard: true,
            names: BTreeSet::new(),
        }
    }

    /// These names. None at all opens the type without asking for anything: the server pushes what other
    /// resources refer to (capability `closure`).
    #[must_use]
    pub fn names<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self {
            wildcard: false,
            names: names.into_iter().map(Into::into).collect(),
        }
    }

    /// Everything, and these names besides.
    #[must_use]
    pub fn and<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.names.extend(names.into_iter().map(Into::into));
        self
    }
}

/// Identifies a delivered response until its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What a response brings.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Hand this back with the verdict.
    pub ticket: Ticket,
    /// Type of everything in it.
    pub type_url: String,
    /// The server's version of its whole state: the revision, for a Naka control plane.
    pub revision: String,
    /// New and changed resources.
    pub resources: Vec<Resource>,
    /// Names that do not exist (any more).
    pub removed: Vec<String>,
}

/// What happens to a client.
#[derive(Debug)]
pub enum Event {
    /// A new stream is open; the old one, if any, is gone.
    Connected,
    /// The stream ended.
    Disconnected,
    /// A response came.
    Response(DeltaDiscoveryResponse),
    /// The application looked at an update. No rejects: all of it is in force.
    Verdict {
        /// Of the update.
        ticket: Ticket,
        /// Resources it did not take; the others are in force.
        rejects: Vec<Reject>,
    },
    /// The application wants more names of a type.
    Subscribe {
        /// Type.
        type_url: String,
        /// Names.
        names: Vec<String>,
    },
    /// The application wants these names no longer.
    Unsubscribe {
        /// Type.
        type_url: String,
        /// Names.
        names: Vec<String>,
    },
}

/// What the driver must do.
#[derive(Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives for one hand-over; a box would cost more"
)]
pub enum Action {
    /// Send this on the open stream.
    Send(DeltaDiscoveryRequest),
    /// Hand this to the application.
    Deliver(Update),
}

#[derive(Debug, Default)]
struct Tracked {
    wanted: Subscription,
    held: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Pending {
    nonce: String,
    type_url: String,
    versions: Vec<(String, String)>,
    removed: Vec<String>,
}

/// The client's state machine.
#[derive(Debug)]
pub struct Client {
    node: Node,
    types: BTreeMap<String, Tracked>,
    pending: HashMap<Ticket, Pending>,
    next_ticket: u64,
    connected: bool,
}

impl Client {
    /// A client for a node with its first subscriptions (type, what is wanted).
    #[must_use]
    pub fn new<S: Into<String>>(
        node: Node,
        subscriptions: impl IntoIterator<Item = (S, Subscription)>,
    ) -> Self {
        let types = subscriptions
            .into_iter()
            .map(|(type_url, wanted)| {
                let held = BTreeMap::new();
                (type_url.into(), Tracked { wanted, held })
            })
            .collect();
        Self {
            node,
            types,
            pending: HashMap::new(),
            next_ticket: 0,
            connected: false,
        }
    }

    /// Tells what the application already has (from its saved copy), as `(name, version)`.
    pub fn restore(&mut self, type_url: &str, held: impl IntoIterator<Item = (String, String)>) {
        let tracked = self.types.entry(type_url.to_owned()).or_default();
        tracked.held.extend(held);
    }

    /// Replaces the node, from the next stream on (labels or address changed, workload id known).
    pub fn set_node(&mut self, node: Node) {
        self.node = node;
    }

    /// Versions held of a type, by name.
    #[must_use]
    pub fn held(&self, type_url: &str) -> Option<&BTreeMap<String, String>> {
        self.types.get(type_url).map(|tracked| &tracked.held)
    }

    /// What is wanted of a type.
    #[must_use]
    pub fn wanted(&self, type_url: &str) -> Option<&Subscription> {
        self.types.get(type_url).map(|tracked| &tracked.wanted)
    }

    /// Takes one event; the actions are to be performed in order.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Connected => self.connected(),
            Event::Disconnected => {
                self.connected = false;
                Vec::new()
            }
            Event::Response(response) => self.response(response),
            Event::Verdict { ticket, rejects } => self.verdict(ticket, &rejects),
            Event::Subscribe { type_url, names } => self.subscribe(type_url, names),
            Event::Unsubscribe { type_url, names } => self.unsubscribe(type_url, names),
        }
    }

    fn connected(&mut self) -> Vec<Action> {
        self.connected = true;
        self.pending.clear();
        let mut types: Vec<&String> = self.types.keys().collect();
        types.sort_by_key(|type_url| order::rank(type_url));
        let mut node = Some(self.node.clone());
        types
            .into_iter()
            .map(|type_url| Action::Send(self.opening(type_url, node.take())))
            .collect()
    }

    /// The first request of a type on a stream.
    fn opening(&self, type_url: &str, node: Option<Node>) -> DeltaDiscoveryRequest {
        let tracked = &self.types[type_url];
        let mut subscribe: Vec<String> = tracked.wanted.names.iter().cloned().collect();
        if tracked.wanted.wildcard {
            subscribe.insert(0, WILDCARD.to_owned());
        }
        DeltaDiscoveryRequest {
            node,
            type_url: type_url.to_owned(),
            resource_names_subscribe: subscribe,
            initial_resource_versions: tracked
                .held
                .iter()
                .map(|(name, version)| (name.clone(), version.clone()))
                .collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn response(&mut self, response: DeltaDiscoveryResponse) -> Vec<Action> {
        if !self.connected {
            return Vec::new();
        }
        let type_url = response.type_url;
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let mut resources = Vec::with_capacity(response.resources.len());
        let mut broken = Vec::new();
        for resource in response.resources {
            match resource.resource {
                Some(any) if any.type_url == type_url => resources.push(Resource {
                    type_url: type_url.clone(),
                    name: resource.name,
                    version: resource.version,
                    any,
                }),
                Some(any) => broken.push(Reject {
                    reason: format!("is a {}, not a {type_url}", any.type_url),
                    name: resource.name,
                }),
                None => broken.push(Reject {
                    name: resource.name,
                    reason: "carries no message".to_owned(),
                }),
            }
        }
        let versions = resources
            .iter()
            .map(|r| (r.name.clone(), r.version.clone()))
            .collect();
        let pending = Pending {
            nonce: response.nonce,
            type_url: type_url.clone(),
            versions,
            removed: response.removed_resources.clone(),
        };
        self.pending.insert(ticket, pending);
        if !broken.is_empty() {
            // A server that mislabels a resource is not to be trusted with the rest of the response.
            return self.verdict(ticket, &broken);
        }
        vec![Action::Deliver(Update {
            ticket,
            type_url,
            revision: response.system_version_info,
            resources,
            removed: response.removed_resources,
        })]
    }

    fn verdict(&mut self, ticket: Ticket, rejects: &[Reject]) -> Vec<Action> {
        let Some(pending) = self.pending.remove(&ticket) else {
            return Vec::new();
        };
        let refused: BTreeSet<&str> = rejects.iter().map(|r| r.name.as_str()).collect();
        // A type the application gave up meanwhile is still acknowledged.
        let tracked = self.types.entry(pending.type_url.clone()).or_default();
        for (name, version) in pending.versions {
            if !refused.contains(name.as_str()) {
                tracked.held.insert(name, version);
            }
        }
        for name in &pending.removed {
            tracked.held.remove(name);
        }
        if !self.connected {
            return Vec::new();
        }
        vec![Action::Send(DeltaDiscoveryRequest {
            type_url: pending.type_url,
            response_nonce: pending.nonce,
            error_detail: reject::encode(rejects),
            ..DeltaDiscoveryRequest::default()
        })]
    }

    fn subscribe(&mut self, type_url: String, names: Vec<String>) -> Vec<Action> {
        let is_new = !self.types.contains_key(&type_url);
        let tracked = self.types.entry(type_url.clone()).or_default();
        let fresh: Vec<String> = names
            .into_iter()
            .filter(|name| tracked.wanted.names.insert(name.clone()))
            .collect();
        if !self.connected {
            return Vec::new();
        }
        if is_new {
            return vec![Action::Send(self.opening(&type_url, None))];
        }
        if fresh.is_empty() {
            return Vec::new();
        }
        vec![Action::Send(DeltaDiscoveryRequest {
            type_url,
            resource_names_subscribe: fresh,
            ..DeltaDiscoveryRequest::default()
        })]
    }

    fn unsubscribe(&mut self, type_url: String, names: Vec<String>) -> Vec<Action> {
        let Some(tracked) = self.types.get_mut(&type_url) else {
            return Vec::new();
        };
        let mut gone = Vec::new();
        for name in names {
            if tracked.wanted.names.remove(&name) {
                tracked.held.remove(&name);
                gone.push(name);
            }
        }
        if !self.connected || gone.is_empty() {
            return Vec::new();
        }
        vec![Action::Send(DeltaDiscoveryRequest {
            type_url,
            resource_names_unsubscribe: gone,
            ..DeltaDiscoveryRequest::default()
        })]
    }
}

#[cfg(test)]
mod tests;
