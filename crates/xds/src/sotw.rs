//! The server's side of state-of-the-world xDS, as a translation to and from the delta ledger.
//!
//! One ledger knows what a client holds, whichever protocol it speaks: a request becomes the delta requests that mean
//! the same (names compared with the last ones, the nonce with those that wait), and delta responses become one
//! response per type, with the full set where the protocol wants it (listeners and clusters) and only what changed
//! where it does not (endpoints and routes).
//!
//! Invariants: a nonce that was not given out, or was answered and is not the latest, changes nothing; names of a
//! request that answers an older response than the latest are ignored, as the protocol says; what such a response
//! carried counts as answered nevertheless. A request that repeats its names without answering anything is answered.
//!
//! Weaker than delta by the protocol: that an endpoint set or a route configuration does not exist cannot be said.

use crate::resource::Encoded;
use naka_wire::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use naka_wire::type_url;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const WILDCARD: &str = "*";

#[derive(Debug, Default)]
struct TypeState {
    opened: bool,
    /// Everything is wanted because the first request named nothing.
    legacy: bool,
    names: BTreeSet<String>,
    latest: u64,
    /// Nonces of the ledger by nonces of ours that wait for an answer.
    waiting: BTreeMap<u64, Vec<String>>,
}

/// The translation of one stream.
#[derive(Debug, Default)]
pub struct Sotw {
    types: BTreeMap<String, TypeState>,
    nonce: u64,
}

/// Whether responses of a type carry everything the client is to have.
#[must_use]
pub fn carries_all(type_url: &str) -> bool {
    matches!(type_url, type_url::LISTENER | type_url::CLUSTER)
}

impl Sotw {
    /// A translation for a new stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What a request means to the ledger, in order; nothing when it is stale.
    pub fn on(&mut self, request: &DiscoveryRequest) -> Vec<DeltaDiscoveryRequest> {
        let type_url = &request.type_url;
        let state = self.types.entry(type_url.clone()).or_default();
        let mut out = Vec::new();
        let mut answers = false;
        if !request.response_nonce.is_empty() {
            let Ok(nonce) = request.response_nonce.parse::<u64>() else {
                return out;
            };
            let known = state.waiting.contains_key(&nonce);
            if nonce == 0 || !known && nonce != state.latest {
                return out;
            }
            if known {
                answers = true;
                let later = state.waiting.split_off(&(nonce + 1));
                let answered = std::mem::replace(&mut state.waiting, later);
                for (number, delta) in answered {
                    let verdict = (number == nonce).then(|| request.error_detail.clone());
                    out.extend(
                        delta
                            .into_iter()
                            .map(|response_nonce| DeltaDiscoveryRequest {
                                type_url: type_url.clone(),
                                response_nonce,
                                error_detail: verdict.clone().flatten(),
                                ..DeltaDiscoveryRequest::default()
                            }),
                    );
                }
            }
            if nonce != state.latest {
                return out;
            }
        }
        let first = !state.opened;
        state.opened = true;
        let mut names: BTreeSet<String> = request.resource_names.iter().cloned().collect();
        if names.is_empty() && carries_all(type_url) && (first || state.legacy) {
            state.legacy = true;
            names.insert(WILDCARD.to_owned());
        } else {
            state.legacy = false;
        }
        let again = !first && !answers && names == state.names;
        let subscribe: Vec<String> = if again {
            names.iter().cloned().collect()
        } else {
            names.difference(&state.names).cloned().collect()
        };
        let unsubscribe: Vec<String> = state.names.difference(&names).cloned().collect();
        state.names = names;
        if first || !subscribe.is_empty() || !unsubscribe.is_empty() {
            out.push(DeltaDiscoveryRequest {
                node: request.node.clone(),
                type_url: type_url.clone(),
                resource_names_subscribe: subscribe,
                resource_names_unsubscribe: unsubscribe,
                ..DeltaDiscoveryRequest::default()
            });
        }
        out
    }

    /// The responses that say what the ledger's say. `all` gives everything the client is to have of a type. The
    /// second part are answers the ledger is owed at once, because the protocol has no words for what they are about.
    pub fn respond(
        &mut self,
        deltas: Vec<DeltaDiscoveryResponse>,
        all: impl Fn(&str) -> Vec<Arc<Encoded>>,
    ) -> (Vec<DiscoveryResponse>, Vec<DeltaDiscoveryRequest>) {
        let mut types: Vec<String> = Vec::new();
        let mut merged: BTreeMap<String, (Vec<String>, DiscoveryResponse)> = BTreeMap::new();
        for delta in deltas {
            if !types.contains(&delta.type_url) {
                types.push(delta.type_url.clone());
            }
            let (nonces, response) = merged.entry(delta.type_url.clone()).or_default();
            nonces.push(delta.nonce);
            response.version_info = delta.system_version_info;
            let resources = delta.resources.into_iter();
            response
                .resources
                .extend(resources.filter_map(|resource| resource.resource));
        }
        let (mut out, mut unsaid) = (Vec::new(), Vec::new());
        for type_url in types {
            let Some((nonces, mut response)) = merged.remove(&type_url) else {
                continue;
            };
            if carries_all(&type_url) {
                let resources = all(&type_url);
                response.resources = resources.iter().map(|one| one.any.clone()).collect();
            } else if response.resources.is_empty() {
                unsaid.extend(
                    nonces
                        .into_iter()
                        .map(|response_nonce| DeltaDiscoveryRequest {
                            type_url: type_url.clone(),
                            response_nonce,
                            ..DeltaDiscoveryRequest::default()
                        }),
                );
                continue;
            }
            self.nonce += 1;
            let state = self.types.entry(type_url.clone()).or_default();
            state.latest = self.nonce;
            state.waiting.insert(self.nonce, nonces);
            response.nonce = self.nonce.to_string();
            response.type_url = type_url;
            out.push(response);
        }
        (out, unsaid)
    }
}

#[cfg(test)]
mod tests;
