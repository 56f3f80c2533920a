//! PeerAuthentication: whether callers must prove who they are by mTLS.
//!
//! The nearest one wins: port of a selected workload, workload, namespace, then the root namespace `istio-system`.

use naka_types::labels::{Labels, selects};
use std::collections::BTreeMap;

mod build;
pub(crate) mod fields;

pub(crate) use build::build;

/// The sound part of a PeerAuthentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// Workloads of the namespace it holds for; `None` = the whole namespace (in the root namespace: the whole mesh).
    pub selector: Option<Labels>,
    /// `mtls.mode`; `None` = inherited.
    pub mode: Option<MtlsMode>,
    /// `portLevelMtls`, by the workload's own port; `None` = inherited from `mode`.
    pub ports: BTreeMap<u16, Option<MtlsMode>>,
    /// `naka.dev/close-denied`: whether calls under way end when they would not be let in any more; `None` = inherited.
    pub closes: Option<bool>,
}

/// What is asked of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MtlsMode {
    /// Plaintext only.
    Disable,
    /// Both.
    Permissive,
    /// mTLS only.
    Strict,
}

impl PeerAuthentication {
    /// Whether it names this workload by labels.
    #[must_use]
    pub fn selects_workload(&self, labels: &Labels) -> bool {
        self.selector
            .as_ref()
            .is_some_and(|selector| selects(selector, labels))
    }
}
