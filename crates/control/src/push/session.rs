//! One stream: from requests and marks to responses. No socket: the driver (`ads`) reads and writes.
//!
//! The target of a proxy is the closure of its roots: listeners, the virtual hosts it asked for or gets eagerly, and
//! what these refer to. When something other than endpoints changes the closure is walked again and compared with
//! the ledger; a change of endpoints alone costs only those endpoint sets.
//!
//! An Envoy gets the closure of its listeners, as far as it subscribed (everything of listeners and clusters, by name
//! of routes and endpoints), and gets endpoints again after each change of their cluster and routes after each change
//! of their listener: it warms what changed until they come. A gRPC client gets what it names and nothing else.
//!
//! Invariants: nothing is planned before a Naka client opened every type of the closure, because only then it is known
//! what it still holds from before; what is no longer in the closure is removed after what replaced it was sent.

use super::{Hub, Inner, Refusal, Span, Subscriber, SubscriberId};
use crate::compile::{Class, Compiled, Dialect, Key, roots};
use crate::world::World;
use naka_types::node::Role;
use naka_wire::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use naka_wire::type_url;
use naka_xds::delta::server::{Change, Ledger, Notice};
use naka_xds::order;
use naka_xds::sotw::Sotw;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;

/// Names of one type that a proxy may ask for: twice what ours ever does, and some megabytes at most.
const MOST_NAMES: usize = 2_000;

/// The state of one stream. Dropping it takes the subscriber out of the hub.
#[derive(Debug)]
pub struct Session {
    hub: Arc<Hub>,
    id: SubscriberId,
    class: Class,
    /// Whether what a virtual host leads to may be sent unasked.
    closure: bool,
    /// Whether it knows the filter of names.
    name_filter: bool,
    notify: Arc<Notify>,
    ledger: Ledger,
    sotw: Sotw,
    /// Requests since the last plan that changed what is wanted.
    asked: bool,
    /// See [`Session::is_placed`].
    placed: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.hub.leave(self.id);
    }
}

impl Session {
    /// Enters a subscriber into the hub.
    #[must_use]
    pub fn new(hub: Arc<Hub>, who: Subscriber) -> Self {
        let class = who.class.settled(&hub.world());
        let (closure, name_filter) = (who.closure, who.name_filter);
        // An Envoy names every cluster's endpoints; each name that others ask for is compiled, whether it exists or not.
        let names = match class.dialect {
            Dialect::Envoy => naka_xds::delta::server::NAMES,
            Dialect::Naka | Dialect::Grpc => MOST_NAMES,
        };
        let (id, notify) = hub.enter(who);
        Self {
            hub,
            id,
            class,
            closure,
            name_filter,
            notify,
            ledger: Ledger::limited(names),
            sotw: Sotw::new(),
            asked: false,
            placed: true,
        }
    }

    /// Fires when something was marked for this subscriber.
    #[must_use]
    pub fn notify(&self) -> Arc<Notify> {
        Arc::clone(&self.notify)
    }

    /// Takes a request.
    pub fn request(&mut self, request: &DeltaDiscoveryRequest) {
        let notices = self.ledger.on(request);
        let mut inner = self.hub.lock();
        let slot = inner.slots.get_mut(&self.id);
        let span = slot.and_then(|slot| {
            too_many(&mut slot.refused, &notices);
            let (span, sent) = slot.in_flight.remove(&request.response_nonce)?;
            if slot.in_flight.is_empty() {
                // An empty map that held something keeps its memory.
                slot.in_flight = BTreeMap::new();
            }
            self.hub.phases.ack.record(sent.elapsed());
            for notice in &notices {
                note(&mut slot.refused, notice);
            }
            Some((span, slot.who.name.clone()))
        });
        if let Some((span, name)) = &span {
            inner.refusals(*span, name, &notices);
        }
        drop(inner);
        if span.is_some() {
            self.hub.move_on();
        }
        self.asked |= notices.iter().any(|notice| {
            matches!(
                notice,
                Notice::Opened { .. } | Notice::Subscribed { .. } | Notice::Unsubscribed { .. }
            )
        });
    }

    /// Takes a request of the state-of-the-world protocol.
    pub fn request_all(&mut self, request: &DiscoveryRequest) {
        for delta in self.sotw.on(request) {
            self.request(&delta);
        }
    }

    /// [`Session::plan`] in the state-of-the-world protocol.
    pub fn plan_all(&mut self) -> Vec<DiscoveryResponse> {
        let deltas = self.plan();
        if deltas.is_empty() {
            return Vec::new();
        }
        let hub = Arc::clone(&self.hub);
        let inner = hub.lock();
        let (ledger, class) = (&self.ledger, &self.class);
        let all = |type_url: &str| {
            let held = ledger.of(type_url).map(|state| state.held().iter());
            held.into_iter()
                .flatten()
                .filter(|(_, held)| held.sent.is_some())
                .filter_map(|(name, _)| {
                    let key = Key::parse(type_url, name)?;
                    inner.cache.get(&key, class)?.resource.clone()
                })
                .collect()
        };
        let (out, unsaid) = self.sotw.respond(deltas, all);
        drop(inner);
        for answer in unsaid {
            self.request(&answer);
        }
        out
    }

    /// Whether this world can say what the proxy gets: where rules tell callers apart by labels, not before it knows
    /// the labels of this one. They come with the registration, on a stream of its own.
    fn is_placed(&self, world: &World) -> bool {
        let class = &self.class;
        let by_labels = class.role == Role::Sidecar && class.dialect != Dialect::Grpc;
        !by_labels
            || world.workload(&class.workload_id).is_some()
            || !world.tells_apart(&class.namespace)
    }

    /// Whether every type of the closure is open. Others than Naka open them one after the other, as they need them.
    fn ready(&self) -> bool {
        if !self.placed {
            return false;
        }
        if self.class.dialect != Dialect::Naka {
            return true;
        }
        let types: &[&str] = match self.class.role {
            Role::Sidecar => &[
                type_url::CLUSTER,
                type_url::ENDPOINT,
                type_url::LISTENER,
                type_url::VIRTUAL_HOST,
            ],
            Role::Gateway => &[type_url::CLUSTER, type_url::ENDPOINT, type_url::LISTENER],
        };
        types.iter().all(|wanted| self.ledger.opened(wanted))
    }

    /// The responses that bring the client up to date, in order. Marks are taken; they count as in flight now.
    pub fn plan(&mut self) -> Vec<DeltaDiscoveryResponse> {
        let hub = Arc::clone(&self.hub);
        let mut guard = hub.lock();
        let inner = &mut *guard;
        let Some(slot) = inner.slots.get_mut(&self.id) else {
            return Vec::new();
        };
        let marks = std::mem::take(&mut slot.marks);
        let roots = slot.roots.take();
        if let Some(since) = slot.marked.take() {
            self.hub.phases.queue.record(since.elapsed());
        }
        let name = slot.who.name.clone();
        let asked = std::mem::take(&mut self.asked);
        let marked = marks.values().copied().chain(roots).reduce(Span::join);
        if roots.is_some() {
            // Rules may tell this caller apart from others now, or no longer.
            self.class = slot.who.class.settled(inner.cache.world());
        }
        self.placed = self.is_placed(inner.cache.world());
        let walk =
            asked || roots.is_some() || marks.keys().any(|key| !matches!(key, Key::Endpoints(_)));
        let changes = if walk {
            self.walk(inner)
        } else {
            let class = &self.class;
            let cache = &inner.cache;
            marks
                .keys()
                .filter_map(|key| Some(change(key, cache.held(self.id, key, class)?)))
                .filter(|change| self.subscribed(change))
                .collect()
        };
        let revision = inner.cache.world().revision.to_string();
        let mut responses = self.ledger.plan(changes, &revision);
        if self.class.dialect != Dialect::Naka {
            responses.extend(self.ledger.greet(&revision));
        }
        let span = marked.unwrap_or(Span::at(inner.epoch));
        inner.sent(self.id, &name, span, marked.is_some(), &responses);
        drop(guard);
        if marked.is_some() {
            self.hub.move_on();
        }
        responses
    }

    /// Walks the closure from its roots and compares it with the ledger.
    fn walk(&mut self, inner: &mut Inner) -> Vec<Change> {
        let mut todo: Vec<Key> = match self.class.dialect {
            // Everything else follows from its listeners.
            Dialect::Envoy => {
                let mut named = self.explicit();
                named.retain(|key| matches!(key, Key::RootCa));
                named
            }
            Dialect::Naka | Dialect::Grpc => self.explicit(),
        };
        let ready = self.ready();
        if ready {
            let world = Arc::clone(inner.cache.world());
            todo.extend(roots::listeners(&world, &self.class));
            let hosts = self.ledger.of(type_url::VIRTUAL_HOST);
            if hosts.is_some_and(|hosts| hosts.wildcard()) {
                todo.extend(roots::eager(&world, &self.class));
            }
        }
        let mut held = BTreeSet::new();
        let mut changes = Vec::new();
        while let Some(key) = todo.pop() {
            if held.contains(&key) {
                continue;
            }
            let compiled = inner.cache.hold(self.id, &key, &self.class);
            let change = change(&key, &compiled);
            match self.class.dialect {
                Dialect::Naka => todo.extend(compiled.refers.iter().cloned()),
                Dialect::Envoy => {
                    todo.extend(compiled.refers.iter().cloned());
                    self.rewarm(&change, &compiled.refers);
                }
                Dialect::Grpc => {}
            }
            changes.push(change);
            held.insert(key);
        }
        inner.cache.retain(self.id, &held, &self.class);
        changes.retain(|change| self.ledger.opened(change.type_url) && self.subscribed(change));
        self.removals(&held, ready, &mut changes);
        changes
    }

    /// Whether the client wants a name. A client that knows the closure is sent what its virtual hosts lead to without
    /// asking; an older one asks child by child.
    fn subscribed(&self, change: &Change) -> bool {
        self.class.dialect == Dialect::Naka && self.closure
            || self
                .ledger
                .of(change.type_url)
                .is_some_and(|state| state.wildcard() || state.names().contains(&*change.name))
    }

    /// An Envoy warms a cluster or a listener that changed until endpoints or routes come, even if they are the same.
    fn rewarm(&mut self, change: &Change, refers: &[Key]) {
        let Some(resource) = &change.resource else {
            return;
        };
        let held = self.ledger.held(change.type_url, &change.name);
        let same = held.is_some_and(|held| held.sent.as_ref() == Some(&resource.version));
        if !same {
            for key in refers {
                if matches!(key, Key::Endpoints(_) | Key::Routes(_)) {
                    self.ledger.owe(key.type_url(), &key.name());
                }
            }
        }
    }

    /// Names the client asked for, of types that need nothing else, and virtual hosts once all is open.
    fn explicit(&self) -> Vec<Key> {
        let ready = self.ready();
        order::ADDITIONS
            .iter()
            .filter(|type_url| ready || !in_closure(type_url))
            .filter_map(|type_url| Some((type_url, self.ledger.of(type_url)?)))
            .flat_map(|(type_url, state)| {
                let implied = match *type_url {
                    type_url::SECRET => Some(Key::RootCa),
                    type_url::NAME_FILTER => Some(Key::Names),
                    _ => None,
                };
                let named = state.names().iter();
                named
                    .filter_map(|name| Key::parse(type_url, name))
                    .chain(implied.filter(|_| state.wildcard()))
            })
            .filter(|key| match (self.class.role, key) {
                // A gateway's hosts come from its Gateways; clients' names must not make it hold more.
                (Role::Gateway, Key::VirtualHost(_)) => false,
                (_, Key::Names) => self.name_filter,
                // Certificates come with the listener that refers to them, never because somebody knows their name.
                (_, Key::Credential(_)) => false,
                _ => true,
            })
            .collect()
    }

    /// What the client has, or asked for, and is not to have.
    fn removals(&self, held: &BTreeSet<Key>, ready: bool, changes: &mut Vec<Change>) {
        for type_url in order::ADDITIONS {
            let Some(state) = self.ledger.of(type_url) else {
                continue;
            };
            if in_closure(type_url) && !ready {
                continue;
            }
            let had = state.held().iter().filter(|(_, held)| held.sent.is_some());
            let owed = state.owed().iter().map(|name| name.as_str().into());
            let names = had.map(|(name, _)| Arc::clone(name)).chain(owed);
            for name in names {
                let key = Key::parse(type_url, &name);
                // Before the closure is known nobody can say that a certificate is of no use any more.
                let early = !ready && matches!(key, Some(Key::Credential(_)));
                let wanted = key.is_some_and(|key| held.contains(&key));
                if !wanted && !early {
                    changes.push(Change {
                        type_url,
                        name,
                        resource: None,
                    });
                }
            }
        }
    }

    /// Responses without verdict.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.ledger.unanswered()
    }
}

fn in_closure(url: &str) -> bool {
    matches!(
        url,
        type_url::CLUSTER
            | type_url::ENDPOINT
            | type_url::EXTENSION
            | type_url::LISTENER
            | type_url::ROUTE
            | type_url::VIRTUAL_HOST
    )
}

fn change(key: &Key, compiled: &Compiled) -> Change {
    Change {
        type_url: key.type_url(),
        name: Arc::clone(&compiled.name),
        resource: compiled.resource.clone(),
    }
}

/// What was asked for beyond all measure stands in status under the type.
fn too_many(refused: &mut BTreeMap<(String, String), String>, notices: &[Notice]) {
    for notice in notices {
        if let Notice::Ignored { type_url, names } = notice {
            let kind = type_url.rsplit('.').next().unwrap_or_default();
            let words =
                format!("{names} names of {kind} were asked for beyond the limit and ignored");
            refused.insert((type_url.clone(), "*".to_owned()), words);
        }
    }
}

fn note(refused: &mut BTreeMap<(String, String), String>, notice: &Notice) {
    match notice {
        Notice::Acked {
            type_url,
            resources,
        } => {
            for (name, _) in resources {
                refused.remove(&(type_url.clone(), name.to_string()));
            }
        }
        Notice::Nacked { type_url, rejects } => {
            for reject in rejects {
                let key = (type_url.clone(), reject.name.clone());
                refused.insert(key, reject.reason.clone());
            }
        }
        _ => {}
    }
}

impl Inner {
    fn refusals(&mut self, span: Span, proxy: &str, notices: &[Notice]) {
        for notice in notices {
            let Notice::Nacked { type_url, rejects } = notice else {
                continue;
            };
            if let Some(url) = order::ADDITIONS.iter().find(|url| *url == type_url) {
                *self.nacks.entry(url).or_insert(0) += rejects.len() as u64;
            }
            for reject in rejects {
                let refusal = Refusal {
                    proxy: proxy.to_owned(),
                    message: format!("{}: {}", reject.name, reject.reason),
                };
                self.refusals.push_back((span, refusal));
            }
        }
        while self.refusals.len() > super::REMEMBERED {
            self.refusals.pop_front();
        }
    }

    fn sent(
        &mut self,
        id: SubscriberId,
        name: &str,
        span: Span,
        marked: bool,
        responses: &[DeltaDiscoveryResponse],
    ) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let now = Instant::now();
        for response in responses {
            slot.in_flight.insert(response.nonce.clone(), (span, now));
            let known = order::ADDITIONS
                .iter()
                .find(|url| **url == response.type_url);
            if let Some(url) = known {
                *self.pushes.entry(url).or_insert(0) += 1;
            }
        }
        if marked && !responses.is_empty() {
            let remembered = span.last.saturating_sub(super::REMEMBERED as u64);
            for epoch in span.first.max(remembered)..=span.last {
                self.touched
                    .entry(epoch)
                    .or_default()
                    .insert(name.to_owned());
            }
            while self.touched.len() > super::REMEMBERED {
                self.touched.pop_first();
            }
        }
    }
}
