//! RequestGuard: what is not let through whoever asks for it, what is told of, and who is banned for a time.
//!
//! An own kind because neither Istio nor the Gateway API has one: there it takes a web application firewall. A guard
//! looks at the shape of requests and at failures that come before them; who may call what is AuthorizationPolicy's.
//! A bad guard falls out alone: without the others more would get through.
//!
//! Not here: how requests are looked at and peers counted (`engine`).

use crate::security::attached::Attached;
use naka_types::labels::{Labels, selects};
use std::time::Duration;

mod build;
pub(crate) mod fields;

pub(crate) use build::build;

/// Names of the sets of patterns.
pub const SETS: [&str; 3] = ["sqlInjection", "xss", "commandInjection"];

/// The sound part of a RequestGuard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestGuard {
    /// Workloads of the namespace it holds for; `None` = the whole namespace (in the root namespace: the whole mesh).
    pub selector: Option<Labels>,
    /// Gateways it is attached to instead.
    pub attached: Option<Attached>,
    /// In their order; never empty.
    pub guards: Vec<Guard>,
}

impl RequestGuard {
    /// Whether it holds for this workload, given that the namespace fits.
    #[must_use]
    pub fn holds_for(&self, labels: &Labels) -> bool {
        match &self.attached {
            Some(attached) => attached.holds_for(labels),
            None => self
                .selector
                .as_ref()
                .is_none_or(|selector| selects(selector, labels)),
        }
    }
}

/// One guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Name, unique in the object.
    pub name: String,
    /// What it looks at.
    pub watch: Watch,
    /// What it does about it.
    pub action: Action,
}

/// What a guard looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watch {
    /// Methods other than these.
    Methods(Vec<String>),
    /// What a strict reading of the standards forbids.
    Syntax,
    /// Patterns by name; those of [`SETS`] have no expression.
    Patterns(Vec<(String, Option<String>)>),
    /// TLS handshakes that fail.
    Handshakes,
    /// Tokens that are not taken: `expired`, `signature`, `issuer`.
    Tokens(Vec<String>),
}

/// What a guard does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Counts and tells.
    Log,
    /// Refuses too.
    Deny,
    /// Refuses, and whoever fails so often within so long for a time.
    Ban {
        /// How often.
        failures: u32,
        /// Within how long.
        per: Duration,
        /// For how long.
        lasts: Duration,
    },
}
