//! What stands between a control plane and the clients of an agent, decided without sockets or clocks.
//!
//! The agent is a client of the control plane and the server of its Envoy (or of gRPC programs), with a store between
//! the two: every resource as it was offered last and as a client took it last. So a client that starts anew is
//! served at once, whoever else is away, and each side has its own nonces. The client's side of the protocol is
//! [`naka_xds::delta::server::Ledger`], the same code as in the control plane, state of the world included.
//!
//! Invariants: a verdict goes to the control plane only after a client gave it, or when nobody wants what it is
//! about; whatever the control plane sends is passed on, even if it is what the client has (an Envoy warms a cluster
//! until endpoints come again); of what a client refused, the version before is kept and served to the next one.
//!
//! An Envoy refuses a whole response for one bad resource in it. Such a response is sent again piece by piece, so
//! that the sound rest counts and the refusal names what it is about.

use naka_types::name::CREDENTIAL;
use naka_wire::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use naka_wire::type_url;
use naka_xds::delta::client::{Ticket, Update};
use naka_xds::delta::server::{Change, Ledger, Notice};
use naka_xds::sotw::Sotw;
use naka_xds::{Encoded, Reject, Resource, order};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Responses a client may leave unanswered before it gets no more.
const UNANSWERED: usize = 64;
/// How long a verdict waits for a client that is there but does not want the resource (yet).
const UNWANTED: Duration = Duration::from_secs(2);

/// How the agent subscribes at the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// Everything there is for this node: an Envoy's way.
    Everything,
    /// What its clients name: gRPC's way.
    Named,
}

/// Number of a stream of a client.
pub(super) type StreamId = u64;

/// A message to a client.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    Delta(DeltaDiscoveryResponse),
    Whole(DiscoveryResponse),
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Send this to a client.
    Send(StreamId, Box<Message>),
    /// Tell the control plane what became of its update.
    Verdict(Ticket, Vec<Reject>),
    /// Ask the control plane for more.
    Ask(&'static str, Vec<String>),
    /// Tell the control plane that nobody wants these any more.
    Forget(&'static str, Vec<String>),
    /// The last good copy changed.
    Save,
}

type Key = (&'static str, String);

#[derive(Debug, Default)]
struct Slot {
    /// As the control plane has it; `None`: there is no such resource.
    offered: Option<Arc<Encoded>>,
    /// As a client took it.
    good: Option<Arc<Encoded>>,
}

#[derive(Debug, Default)]
struct Stream {
    ledger: Ledger,
    sotw: Option<Sotw>,
    dirty: BTreeSet<Key>,
    /// To be sent one by one, because a response that held them was refused.
    alone: BTreeSet<Key>,
}

impl Stream {
    fn wants(&self, (type_url, name): &Key) -> bool {
        let state = self.ledger.of(type_url);
        state.is_some_and(|state| state.wildcard() || state.names().contains(name))
    }

    /// Whether it is about configuration, not only about keys.
    fn configured(&self) -> bool {
        order::ADDITIONS
            .iter()
            .any(|url| *url != type_url::SECRET && self.ledger.opened(url))
    }
}

#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    since: Duration,
    /// What has no verdict yet, with its version (`None`: removed).
    open: BTreeMap<Key, Option<String>>,
    rejects: Vec<Reject>,
}

/// The state between the two sides.
#[derive(Debug)]
pub(super) struct Relay {
    wants: Wants,
    slots: BTreeMap<Key, Slot>,
    /// Types the control plane has spoken about, now or in an earlier life of the agent.
    answered: BTreeSet<&'static str>,
    streams: BTreeMap<StreamId, Stream>,
    pending: Vec<Pending>,
    revision: String,
}

fn known(type_url: &str) -> Option<&'static str> {
    order::ADDITIONS.into_iter().find(|url| *url == type_url)
}

impl Relay {
    /// With the copy of an earlier life.
    pub(super) fn new(wants: Wants, saved: Vec<Resource>) -> Self {
        let mut relay = Self {
            wants,
            slots: BTreeMap::new(),
            answered: BTreeSet::new(),
            streams: BTreeMap::new(),
            pending: Vec::new(),
            revision: String::new(),
        };
        for resource in saved {
            let Some(url) = known(&resource.type_url) else {
                continue;
            };
            let encoded = Some(Arc::new(Encoded {
                version: resource.version.into(),
                any: resource.any,
            }));
            let slot = Slot {
                offered: encoded.clone(),
                good: encoded,
            };
            relay.slots.insert((url, resource.name), slot);
            relay
                .answered
                .extend([url, type_url::CLUSTER, type_url::LISTENER]);
        }
        relay
    }

    /// What clients took, for the copy on disk. The workload's own keys are saved elsewhere.
    pub(super) fn good(&self) -> Vec<Resource> {
        let all = self.slots.iter();
        all.filter(|((url, name), _)| *url != type_url::SECRET || name.starts_with(CREDENTIAL))
            .filter_map(|((url, name), slot)| {
                let good = slot.good.as_ref()?;
                Some(Resource {
                    type_url: (*url).to_owned(),
                    name: name.clone(),
                    version: good.version.to_string(),
                    any: good.any.clone(),
                })
            })
            .collect()
    }

    /// Names and versions of a type that are in force, for the client of the control plane.
    pub(super) fn versions(&self, type_url: &str) -> Vec<(String, String)> {
        let of_type = self.slots.iter().filter(|((url, _), _)| *url == type_url);
        of_type
            .filter_map(|((_, name), slot)| {
                Some((name.clone(), slot.good.as_ref()?.version.to_string()))
            })
            .collect()
    }

    /// Whether a client that starts now would be served.
    pub(super) fn speaks(&self) -> bool {
        [type_url::CLUSTER, type_url::LISTENER]
            .iter()
            .all(|url| self.answered.contains(url))
    }

    /// Something of the agent's own: keys and roots.
    pub(super) fn own(&mut self, name: &str, encoded: Encoded) -> Vec<Effect> {
        let key = (type_url::SECRET, name.to_owned());
        let encoded = Some(Arc::new(encoded));
        let slot = Slot {
            offered: encoded.clone(),
            good: encoded,
        };
        self.slots.insert(key.clone(), slot);
        for stream in self.streams.values_mut() {
            stream.dirty.insert(key.clone());
        }
        self.flush()
    }

    /// Offers a resource that is there in another form.
    pub(super) fn offer(&mut self, url: &'static str, name: &str, encoded: Encoded) -> Vec<Effect> {
        let key = (url, name.to_owned());
        let Some(slot) = self.slots.get_mut(&key) else {
            return Vec::new();
        };
        slot.offered = Some(Arc::new(encoded));
        for stream in self.streams.values_mut() {
            stream.ledger.owe(url, name);
            stream.dirty.insert(key.clone());
        }
        self.flush()
    }

    /// An update of the control plane.
    pub(super) fn update(&mut self, now: Duration, update: Update) -> Vec<Effect> {
        let Some(url) = known(&update.type_url) else {
            return vec![Effect::Verdict(update.ticket, Vec::new())];
        };
        self.revision = update.revision;
        self.answered.insert(url);
        let mut open = BTreeMap::new();
        for resource in update.resources {
            let key = (url, resource.name);
            open.insert(key.clone(), Some(resource.version.clone()));
            self.slots.entry(key).or_default().offered = Some(Arc::new(Encoded {
                version: resource.version.into(),
                any: resource.any,
            }));
        }
        for name in update.removed {
            let key = (url, name);
            open.insert(key.clone(), None);
            match self.wants {
                Wants::Everything => drop(self.slots.remove(&key)),
                // Whoever asks for it again is told that there is none.
                Wants::Named => drop(self.slots.insert(key, Slot::default())),
            }
        }
        for key in open.keys() {
            for stream in self.streams.values_mut() {
                stream.ledger.owe(key.0, &key.1);
                stream.dirty.insert(key.clone());
            }
            for before in &mut self.pending {
                before.open.remove(key);
            }
        }
        self.pending.push(Pending {
            ticket: update.ticket,
            since: now,
            open,
            rejects: Vec::new(),
        });
        let mut effects = self.flush();
        effects.extend(self.settle(now));
        effects
    }

    /// A client opened a stream.
    pub(super) fn open(&mut self, id: StreamId, whole: bool) {
        let stream = Stream {
            sotw: whole.then(Sotw::new),
            ..Stream::default()
        };
        self.streams.insert(id, stream);
    }

    /// A client's stream ended.
    pub(super) fn close(&mut self, id: StreamId) {
        self.streams.remove(&id);
    }

    /// A request of a delta stream.
    pub(super) fn delta(
        &mut self,
        now: Duration,
        id: StreamId,
        request: &DeltaDiscoveryRequest,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take(id, request, &mut effects);
        effects.extend(self.flush());
        effects.extend(self.settle(now));
        effects
    }

    /// A request of a state-of-the-world stream.
    pub(super) fn whole(
        &mut self,
        now: Duration,
        id: StreamId,
        request: &DiscoveryRequest,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let stream = self.streams.get_mut(&id);
        let translated = stream.and_then(|stream| Some(stream.sotw.as_mut()?.on(request)));
        for delta in translated.unwrap_or_default() {
            self.take(id, &delta, &mut effects);
        }
        effects.extend(self.flush());
        effects.extend(self.settle(now));
        effects
    }

    /// Time passed.
    pub(super) fn tick(&mut self, now: Duration) -> Vec<Effect> {
        self.settle(now)
    }

    fn take(&mut self, id: StreamId, request: &DeltaDiscoveryRequest, effects: &mut Vec<Effect>) {
        let Some(url) = known(&request.type_url) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        for notice in stream.ledger.on(request) {
            match notice {
                Notice::Opened { .. } | Notice::Ignored { .. } => {}
                Notice::Subscribed {
                    names, wildcard, ..
                } => self.subscribed(id, url, names, wildcard, effects),
                Notice::Unsubscribed { names, .. } => self.unsubscribed(url, names, effects),
                Notice::Acked { resources, .. } => {
                    for (name, version) in resources {
                        self.acked((url, name.to_string()), version.as_deref(), effects);
                    }
                }
                Notice::Nacked { rejects, .. } => self.nacked(id, url, rejects),
            }
        }
    }

    fn subscribed(
        &mut self,
        id: StreamId,
        url: &'static str,
        names: Vec<String>,
        wildcard: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if wildcard {
            let of_type = self.slots.keys().filter(|(known, _)| *known == url);
            stream.dirty.extend(of_type.cloned());
        }
        let keys = names.into_iter().map(|name| (url, name));
        let (held, unknown): (Vec<Key>, Vec<Key>) =
            keys.partition(|key| self.slots.contains_key(key));
        stream.dirty.extend(held);
        if self.wants == Wants::Named && url != type_url::SECRET && !unknown.is_empty() {
            let names = unknown.into_iter().map(|(_, name)| name).collect();
            effects.push(Effect::Ask(url, names));
        }
    }

    fn unsubscribed(&mut self, url: &'static str, names: Vec<String>, effects: &mut Vec<Effect>) {
        if self.wants == Wants::Everything || url == type_url::SECRET {
            return;
        }
        let nobody = |key: &Key| !self.streams.values().any(|stream| stream.wants(key));
        let gone: Vec<String> = names
            .into_iter()
            .filter(|name| nobody(&(url, name.clone())))
            .collect();
        for name in &gone {
            self.slots.remove(&(url, name.clone()));
        }
        if !gone.is_empty() {
            effects.extend([Effect::Forget(url, gone), Effect::Save]);
        }
    }

    fn acked(&mut self, key: Key, version: Option<&str>, effects: &mut Vec<Effect>) {
        for pending in &mut self.pending {
            let same = |open: &Option<String>| open.as_deref() == version;
            if pending.open.get(&key).is_some_and(same) {
                pending.open.remove(&key);
            }
        }
        self.keep(&key, version, effects);
    }

    /// A version that is in force is the good one from now on.
    fn keep(&mut self, key: &Key, version: Option<&str>, effects: &mut Vec<Effect>) {
        match (self.slots.get_mut(key), version) {
            (Some(slot), Some(version)) => {
                let taken = slot.offered.as_ref().filter(|now| *now.version == *version);
                let before = slot.good.as_ref().map(|good| &good.version);
                if let Some(taken) = taken
                    && before != Some(&taken.version)
                {
                    slot.good = Some(Arc::clone(taken));
                    effects.push(Effect::Save);
                }
            }
            (None, None) => effects.push(Effect::Save),
            _ => {}
        }
    }

    fn nacked(&mut self, id: StreamId, url: &'static str, rejects: Vec<Reject>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if rejects.len() > 1 && stream.sotw.is_none() {
            let again = rejects.into_iter().map(|reject| (url, reject.name));
            stream.alone.extend(again);
            return;
        }
        for reject in rejects {
            let held = stream.ledger.held(url, &reject.name);
            let refused = held.and_then(|held| Some(held.refused.as_ref()?.0.clone()));
            let key = (url, reject.name.clone());
            for pending in &mut self.pending {
                let same = |open: &Option<String>| open.as_deref() == refused.as_deref();
                if pending.open.get(&key).is_some_and(same) {
                    pending.open.remove(&key);
                    pending.rejects.push(reject.clone());
                }
            }
            if let Some(slot) = self.slots.get_mut(&key)
                && slot.offered.as_ref().map(|offered| &offered.version) == refused.as_ref()
            {
                // The next client gets what this one goes on with.
                slot.offered.clone_from(&slot.good);
            }
        }
    }

    /// Sends what streams do not have yet.
    fn flush(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in ids {
            self.flush_one(id, &mut effects);
        }
        effects
    }

    fn flush_one(&mut self, id: StreamId, effects: &mut Vec<Effect>) {
        let speaks = self.speaks();
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.ledger.unanswered() >= UNANSWERED {
            return;
        }
        let slots = &self.slots;
        let change = |key: Key| Change {
            type_url: key.0,
            resource: slots.get(&key).and_then(|slot| slot.offered.clone()),
            name: key.1.into(),
        };
        let mut responses = Vec::new();
        for key in std::mem::take(&mut stream.alone) {
            stream.ledger.owe(key.0, &key.1);
            stream.dirty.remove(&key);
            responses.extend(stream.ledger.plan([change(key)], &self.revision));
        }
        let dirty = std::mem::take(&mut stream.dirty);
        let (wanted, _): (Vec<Key>, Vec<Key>) =
            dirty.into_iter().partition(|key| stream.wants(key));
        let changes: Vec<Change> = wanted.into_iter().map(change).collect();
        responses.extend(stream.ledger.plan(changes, &self.revision));
        if speaks {
            responses.extend(stream.ledger.greet(&self.revision));
        }
        let Some(sotw) = &mut stream.sotw else {
            let delta = |response| Effect::Send(id, Box::new(Message::Delta(response)));
            effects.extend(responses.into_iter().map(delta));
            return;
        };
        if responses.is_empty() {
            return;
        }
        let ledger = &stream.ledger;
        let all = |url: &str| {
            let held = ledger.of(url).map(|state| state.held().iter());
            held.into_iter()
                .flatten()
                .filter(|(_, held)| held.sent.is_some())
                .filter_map(|(name, _)| {
                    slots.get(&(known(url)?, name.to_string()))?.offered.clone()
                })
                .collect()
        };
        let (out, unsaid) = sotw.respond(responses, all);
        let whole = |response| Effect::Send(id, Box::new(Message::Whole(response)));
        effects.extend(out.into_iter().map(whole));
        for answer in unsaid {
            self.take(id, &answer, effects);
        }
    }

    /// Verdicts that nothing is missing of any more.
    fn settle(&mut self, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        let streams: Vec<&Stream> = self
            .streams
            .values()
            .filter(|stream| stream.configured())
            .collect();
        // A gRPC program that is gone will ask again; an Envoy that is gone comes back for all of it.
        let judged = !streams.is_empty() || self.wants == Wants::Named;
        let mut taken = Vec::new();
        for pending in &mut self.pending {
            if !judged || now.saturating_sub(pending.since) < UNWANTED {
                continue;
            }
            pending.open.retain(|key, version| {
                let wanted = streams.iter().any(|stream| stream.wants(key));
                if !wanted {
                    taken.push((key.clone(), version.clone()));
                }
                wanted
            });
        }
        for (key, version) in taken {
            self.keep(&key, version.as_deref(), &mut effects);
        }
        let (done, open): (Vec<Pending>, Vec<Pending>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|pending| pending.open.is_empty());
        self.pending = open;
        let verdict = |pending: Pending| Effect::Verdict(pending.ticket, pending.rejects);
        effects.extend(done.into_iter().map(verdict));
        effects
    }
}
