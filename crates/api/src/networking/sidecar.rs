//! Sidecar: what the proxies of some workloads may call, and what they serve.

use naka_types::host::Host;
use naka_types::labels::{Labels, selects};

mod build;
pub(crate) mod fields;

pub(crate) use build::build;

/// The sound part of a Sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// Labels of the workloads it holds for; `None` = all of the namespace.
    pub selector: Option<Labels>,
    /// What may be called; `None` = everything that is visible.
    pub egress: Option<Vec<EgressHost>>,
    /// Calls to hosts that the mesh does not know; `None` = allowed.
    pub outside: Option<Outside>,
}

/// A pattern of hosts that may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressHost {
    /// Namespace whose hosts are meant.
    pub namespace: Within,
    /// Host or pattern.
    pub host: Host,
}

/// Namespaces of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Within {
    /// Any.
    Any,
    /// None at all.
    Nowhere,
    /// This one; the object's own for `.`.
    Namespace(String),
}

/// `outboundTrafficPolicy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// Only hosts of the mesh may be called.
    pub registry_only: bool,
    /// Service that others are called by.
    pub proxy: Option<EgressProxy>,
}

/// `egressProxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressProxy {
    /// Service.
    pub host: Host,
    /// Its subset.
    pub subset: Option<String>,
    /// Its port.
    pub port: Option<u16>,
}

impl EgressHost {
    /// Whether a host of a namespace is meant.
    #[must_use]
    pub fn admits(&self, namespace: &str, host: &Host) -> bool {
        let within = match &self.namespace {
            Within::Any => true,
            Within::Nowhere => false,
            Within::Namespace(own) => own == namespace,
        };
        within
            && match self.host.as_str().strip_prefix('*') {
                None => self.host == *host,
                Some(suffix) => host.as_str().ends_with(suffix),
            }
    }
}

impl Sidecar {
    /// Whether it names workloads of these labels.
    #[must_use]
    pub fn selects_workload(&self, labels: &Labels) -> bool {
        let selector = self.selector.as_ref();
        selector.is_some_and(|selector| selects(selector, labels))
    }

    /// Whether a host of a namespace may be called.
    #[must_use]
    pub fn admits(&self, namespace: &str, host: &Host) -> bool {
        let egress = self.egress.as_ref();
        egress.is_none_or(|all| all.iter().any(|one| one.admits(namespace, host)))
    }
}
