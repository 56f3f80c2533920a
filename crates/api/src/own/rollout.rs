//! Rollout: a change of the mesh in steps, each behind a gate, with a way back.
//!
//! An own kind because neither Istio nor the Gateway API has one for changes of the mesh itself. The object says what is
//! to change; where it is, and why it waits, is status. It belongs to the root namespace, as what it changes does.

use std::time::Duration;

mod build;
pub(crate) mod fields;

pub(crate) use build::build;

/// The sound part of a Rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// What changes.
    pub change: Change,
    /// Whether each step waits for a word, besides its gate.
    pub manual: bool,
}

/// What a Rollout changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Another root of the mesh's certificates.
    RootRotation {
        /// Others may have the key of the present root: the time until it is dropped, whoever still needs it.
        compromised_within: Option<Duration>,
    },
    /// A PeerAuthentication from PERMISSIVE to STRICT.
    Strict {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// No plain call may come for so long before, and none for as long afterwards.
        quiet_for: Duration,
        /// Workloads, `<name>.<namespace>`, that nobody counts plain calls of and that it does not wait for.
        without_counts: Vec<String>,
    },
}
