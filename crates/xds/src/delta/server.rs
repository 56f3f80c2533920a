//! The server's side of one stream: a ledger of what the client subscribed to, was sent, and acknowledged.
//!
//! The ledger knows nothing of meaning. The driver tells it the desired state of names that may have changed; it
//! answers with the responses that bring the client there, and nothing when the client is there already. Additions
//! go out in the order of [`order::ADDITIONS`], removals after all additions in the opposite order.
//!
//! Invariants: a version the client holds, or was sent and did not refuse, is not sent again, except when the client
//! subscribes to the name anew (the protocol demands an answer then); a refused version is not sent again either,
//! until the content changes; an unknown nonce changes nothing.
//!
//! A control plane has a ledger per proxy, and most of them say the same: names and versions are the caller's, shared.

use crate::order;
use crate::reject;
use crate::resource::{Encoded, Reject};
use crate::sotw;
use naka_wire::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const WILDCARD: &str = "*";
/// A response is closed once its resources pass this size, so that no message comes near the client's cap.
const RESPONSE_BYTES: usize = 1 << 20;
/// Names of one type kept for one stream, unless [`Ledger::limited`] says less.
pub const NAMES: usize = 50_000;
/// Longest name that is kept.
pub const NAME_BYTES: usize = 1024;

/// A name with its version; without one it is gone.
pub type Named = (Arc<str>, Option<Arc<str>>);

/// What a request meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// First request of a type on this stream.
    Opened {
        /// Type.
        type_url: String,
    },
    /// The client wants these names, or with `wildcard` everything there is for it.
    Subscribed {
        /// Type.
        type_url: String,
        /// Names, without the wildcard.
        names: Vec<String>,
        /// Whether everything is wanted from now on.
        wildcard: bool,
    },
    /// The client gave up these names.
    Unsubscribed {
        /// Type.
        type_url: String,
        /// Names.
        names: Vec<String>,
    },
    /// The client asked for more names than are kept, or for one that is too long; they are not answered.
    Ignored {
        /// Type.
        type_url: String,
        /// How many names of the request.
        names: usize,
    },
    /// The client has these versions in force (`None`: the name is gone).
    Acked {
        /// Type.
        type_url: String,
        /// Names and versions.
        resources: Vec<Named>,
    },
    /// The client refused these resources; the others of the response were acknowledged.
    Nacked {
        /// Type.
        type_url: String,
        /// Names and reasons.
        rejects: Vec<Reject>,
    },
}

/// The desired state of one name.
#[derive(Debug, Clone)]
pub struct Change {
    /// Type.
    pub type_url: &'static str,
    /// Name.
    pub name: Arc<str>,
    /// The resource; `None` when there must be none.
    pub resource: Option<Arc<Encoded>>,
}

/// What one name has come to on this stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Last version sent, or named by the client when it connected. `None`: sent as removed.
    pub sent: Option<Arc<str>>,
    /// Version the client refused, and why. Rare, so it takes no room in the others.
    pub refused: Option<Box<(Arc<str>, String)>>,
    /// Responses about this name without verdict.
    pub in_flight: u32,
}

/// State of one type.
#[derive(Debug, Default)]
pub struct TypeState {
    opened: bool,
    wildcard: bool,
    answered: bool,
    names: BTreeSet<String>,
    held: BTreeMap<Arc<str>, Held>,
    owed: BTreeSet<String>,
}

impl TypeState {
    /// Whether the client sent a request of this type.
    #[must_use]
    pub fn opened(&self) -> bool {
        self.opened
    }
    /// Whether the client wants everything.
    #[must_use]
    pub fn wildcard(&self) -> bool {
        self.wildcard
    }
    /// Names the client asked for.
    #[must_use]
    pub fn names(&self) -> &BTreeSet<String> {
        &self.names
    }
    /// What it was sent and holds.
    #[must_use]
    pub fn held(&self) -> &BTreeMap<Arc<str>, Held> {
        &self.held
    }
    /// What the client named when it connected and we have too is kept once, not once per client.
    fn share(&mut self, name: Arc<str>, version: &Arc<str>) {
        let Some((kept, held)) = self.held.get_key_value(&name) else {
            return;
        };
        let sent = held.sent.as_ref();
        if Arc::ptr_eq(kept, &name) && sent.is_some_and(|sent| Arc::ptr_eq(sent, version)) {
            return;
        }
        // A map keeps its first key, so that one goes first.
        let Some(mut held) = self.held.remove(&name) else {
            return;
        };
        held.sent = Some(Arc::clone(version));
        self.held.insert(name, held);
    }

    /// Names the client must be answered about, whatever it holds.
    #[must_use]
    pub fn owed(&self) -> &BTreeSet<String> {
        &self.owed
    }
}

#[derive(Debug)]
struct Sent {
    type_url: String,
    resources: Vec<Named>,
}

/// The ledger of one stream.
#[derive(Debug)]
pub struct Ledger {
    types: BTreeMap<String, TypeState>,
    nonce: u64,
    in_flight: BTreeMap<u64, Sent>,
    most: usize,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::limited(NAMES)
    }
}

impl Ledger {
    /// An empty ledger for a new stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`Ledger::new`], keeping at most this many names of a type.
    #[must_use]
    pub fn limited(most: usize) -> Self {
        Self {
            types: BTreeMap::new(),
            nonce: 0,
            in_flight: BTreeMap::new(),
            most,
        }
    }

    /// State of a type; `None` before its first request and its first response.
    #[must_use]
    pub fn of(&self, type_url: &str) -> Option<&TypeState> {
        self.types.get(type_url)
    }

    /// Whether the client sent a request of this type.
    #[must_use]
    pub fn opened(&self, type_url: &str) -> bool {
        self.of(type_url).is_some_and(TypeState::opened)
    }

    /// Responses without verdict.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.in_flight.len()
    }

    /// What is held of a name.
    #[must_use]
    pub fn held(&self, type_url: &str, name: &str) -> Option<&Held> {
        self.of(type_url)?.held.get(name)
    }

    /// Owes the client an answer about a name it asked for, whatever it holds: what refers to it was sent anew.
    pub fn owe(&mut self, type_url: &str, name: &str) {
        if let Some(state) = self.types.get_mut(type_url)
            && (state.wildcard || state.names.contains(name))
        {
            state.owed.insert(name.to_owned());
        }
    }

    /// Takes a request; the notices tell what it meant, in the order acknowledgement, opening, subscriptions.
    pub fn on(&mut self, request: &DeltaDiscoveryRequest) -> Vec<Notice> {
        let mut notices = Vec::new();
        self.verdict(request, &mut notices);
        let state = self.types.entry(request.type_url.clone()).or_default();
        let type_url = &request.type_url;
        let first = !state.opened;
        if first {
            state.opened = true;
            let versions = request.initial_resource_versions.iter();
            state.held.extend(versions.map(|(name, version)| {
                let held = Held {
                    sent: Some(version.as_str().into()),
                    ..Held::default()
                };
                (name.as_str().into(), held)
            }));
            notices.push(Notice::Opened {
                type_url: type_url.clone(),
            });
        }
        let (mut names, mut wildcard) = (Vec::new(), false);
        // Stock clients say "everything" by naming nothing at first.
        if first && request.resource_names_subscribe.is_empty() && sotw::carries_all(type_url) {
            wildcard = true;
            state.wildcard = true;
        }
        let mut ignored = 0;
        for name in &request.resource_names_subscribe {
            if name == WILDCARD {
                wildcard = !state.wildcard;
                state.wildcard = true;
                continue;
            }
            let room = state.names.len() < self.most || state.names.contains(name);
            if !room || name.len() > NAME_BYTES {
                ignored += 1;
                continue;
            }
            state.names.insert(name.clone());
            // A name asked for again is answered again, unless the client just said which version it has.
            if !(first && state.held.contains_key(name.as_str())) {
                state.owed.insert(name.clone());
            }
            names.push(name.clone());
        }
        if wildcard || !names.is_empty() {
            notices.push(Notice::Subscribed {
                type_url: type_url.clone(),
                names,
                wildcard,
            });
        }
        if ignored > 0 {
            notices.push(Notice::Ignored {
                type_url: type_url.clone(),
                names: ignored,
            });
        }
        let mut gone = Vec::new();
        for name in &request.resource_names_unsubscribe {
            if name == WILDCARD {
                state.wildcard = false;
            } else if state.names.remove(name) {
                state.owed.remove(name);
                if !state.wildcard {
                    // The client drops it by itself: nothing is to be removed over the wire.
                    state.held.remove(name.as_str());
                }
                gone.push(name.clone());
            }
        }
        if !gone.is_empty() {
            notices.push(Notice::Unsubscribed {
                type_url: type_url.clone(),
                names: gone,
            });
        }
        notices
    }

    fn verdict(&mut self, request: &DeltaDiscoveryRequest, notices: &mut Vec<Notice>) {
        let nonce = request.response_nonce.parse().ok();
        let Some(sent) = nonce.and_then(|nonce: u64| self.in_flight.remove(&nonce)) else {
            return;
        };
        if self.in_flight.is_empty() {
            self.in_flight = BTreeMap::new();
        }
        let refused: BTreeMap<String, String> = match &request.error_detail {
            None => BTreeMap::new(),
            Some(status) => match reject::decode(status) {
                Some(rejects) => rejects.into_iter().map(|r| (r.name, r.reason)).collect(),
                None => sent
                    .resources
                    .iter()
                    .map(|(name, _)| (name.to_string(), status.message.clone()))
                    .collect(),
            },
        };
        let Some(state) = self.types.get_mut(&sent.type_url) else {
            return;
        };
        let (mut acked, mut rejects) = (Vec::new(), Vec::new());
        for (name, version) in sent.resources {
            let reason = refused.get(&*name);
            if let Some(held) = state.held.get_mut(&name) {
                held.in_flight = held.in_flight.saturating_sub(1);
                match (&version, reason) {
                    (Some(version), Some(reason)) => {
                        held.refused = Some(Box::new((Arc::clone(version), reason.clone())));
                    }
                    (_, None) => held.refused = None,
                    (None, Some(_)) => {}
                }
                if held.sent.is_none() && held.in_flight == 0 {
                    state.held.remove(&name);
                }
            }
            match reason {
                Some(reason) => rejects.push(Reject {
                    name: name.to_string(),
                    reason: reason.clone(),
                }),
                None => acked.push((name, version)),
            }
        }
        let type_url = sent.type_url;
        if !acked.is_empty() {
            notices.push(Notice::Acked {
                type_url: type_url.clone(),
                resources: acked,
            });
        }
        if !rejects.is_empty() {
            notices.push(Notice::Nacked { type_url, rejects });
        }
    }

    /// The responses that bring the client to the desired state of these names; `revision` goes into each.
    pub fn plan(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
        revision: &str,
    ) -> Vec<DeltaDiscoveryResponse> {
        let mut changes: Vec<Change> = changes.into_iter().collect();
        changes.sort_by(|a, b| {
            (order::rank(a.type_url), &a.name).cmp(&(order::rank(b.type_url), &b.name))
        });
        changes.dedup_by(|b, a| a.type_url == b.type_url && a.name == b.name);
        let (additions, mut removals): (Vec<Change>, Vec<Change>) = changes
            .into_iter()
            .partition(|change| change.resource.is_some());
        removals.reverse();
        let mut out = Batches::new(revision);
        for change in additions.into_iter().chain(removals) {
            self.plan_one(change, &mut out);
        }
        let done = out.done.into_iter();
        done.map(|(mut response, named)| {
            self.dispatch(&mut response, named);
            response
        })
        .collect()
    }

    /// Empty responses for types of which the client wants everything while there is nothing: a stock client waits
    /// with its start for the first answer. To be called after [`Ledger::plan`].
    pub fn greet(&mut self, revision: &str) -> Vec<DeltaDiscoveryResponse> {
        let waiting = |state: &TypeState| state.wildcard && !state.answered;
        let types: Vec<String> = self
            .types
            .iter()
            .filter(|(_, state)| waiting(state))
            .map(|(type_url, _)| type_url.clone())
            .collect();
        types
            .into_iter()
            .map(|type_url| {
                let mut response = DeltaDiscoveryResponse {
                    system_version_info: revision.to_owned(),
                    type_url,
                    ..DeltaDiscoveryResponse::default()
                };
                self.dispatch(&mut response, Vec::new());
                response
            })
            .collect()
    }

    fn plan_one(&mut self, change: Change, out: &mut Batches) {
        let state = self.types.entry(change.type_url.to_owned()).or_default();
        let owed = state.owed.remove(&*change.name);
        if state.owed.is_empty() {
            // An empty set that held something keeps its memory.
            state.owed = BTreeSet::new();
        }
        let held = state.held.get(&change.name);
        match change.resource {
            Some(resource) => {
                let has = held.is_some_and(|held| held.sent.as_ref() == Some(&resource.version));
                if owed || !has {
                    out.add(change.type_url, change.name, &resource);
                } else {
                    state.share(change.name, &resource.version);
                }
            }
            None => {
                let has = held.is_some_and(|held| held.sent.is_some());
                if owed || has {
                    out.remove(change.type_url, change.name);
                }
            }
        }
    }

    fn dispatch(&mut self, response: &mut DeltaDiscoveryResponse, resources: Vec<Named>) {
        self.nonce += 1;
        response.nonce = self.nonce.to_string();
        let state = self.types.entry(response.type_url.clone()).or_default();
        state.answered = true;
        for (name, version) in &resources {
            let held = state.held.entry(Arc::clone(name)).or_default();
            held.sent.clone_from(version);
            held.in_flight += 1;
        }
        let type_url = response.type_url.clone();
        self.in_flight.insert(
            self.nonce,
            Sent {
                type_url,
                resources,
            },
        );
    }
}

/// Gathers resources into responses: one type each, bounded in size.
struct Batches<'a> {
    revision: &'a str,
    /// With what each names.
    done: Vec<(DeltaDiscoveryResponse, Vec<Named>)>,
    bytes: usize,
}

impl<'a> Batches<'a> {
    fn new(revision: &'a str) -> Self {
        Self {
            revision,
            done: Vec::new(),
            bytes: 0,
        }
    }

    fn slot(&mut self, type_url: &str, removal: bool) -> &mut (DeltaDiscoveryResponse, Vec<Named>) {
        let fits = self.done.last().is_some_and(|(last, _)| {
            last.type_url == type_url
                && self.bytes < RESPONSE_BYTES
                // A response that removes is apart from one that adds, unless nothing of another type lies between.
                && (removal || last.removed_resources.is_empty())
        });
        if !fits {
            self.bytes = 0;
            let response = DeltaDiscoveryResponse {
                system_version_info: self.revision.to_owned(),
                type_url: type_url.to_owned(),
                ..DeltaDiscoveryResponse::default()
            };
            self.done.push((response, Vec::new()));
        }
        self.done
            .last_mut()
            .expect("invariant: one was just pushed")
    }

    fn add(&mut self, type_url: &str, name: Arc<str>, resource: &Encoded) {
        let size = resource.any.value.len();
        let (response, named) = self.slot(type_url, false);
        response.resources.push(Resource {
            name: name.to_string(),
            version: resource.version.to_string(),
            resource: Some(resource.any.clone()),
            ..Resource::default()
        });
        named.push((name, Some(Arc::clone(&resource.version))));
        self.bytes += size;
    }

    fn remove(&mut self, type_url: &str, name: Arc<str>) {
        let (response, named) = self.slot(type_url, true);
        response.removed_resources.push(name.to_string());
        named.push((name, None));
    }
}

#[cfg(test)]
mod tests;
