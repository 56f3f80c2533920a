//! LocalRateLimit: how many requests a workload or a gateway takes, by itself, without asking anybody.
//!
//! An own kind because Istio has none: there it takes an EnvoyFilter. Each rule is a token bucket, or one bucket for each
//! value of its keys. Targets are in the object's own namespace, as everywhere in the Gateway API's policies.

use std::time::Duration;

mod build;
pub(crate) mod fields;

pub(crate) use build::build;

/// The sound part of a LocalRateLimit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRateLimit {
    /// What it is for; never empty.
    pub targets: Vec<Target>,
    /// Rules in order; never empty.
    pub rules: Vec<Rule>,
}

/// What a limit is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Requests to each workload of a service.
    Service(String),
    /// Requests through a gateway.
    Gateway(String),
    /// Requests of a VirtualService's routes through gateways.
    Route {
        /// The VirtualService.
        name: String,
        /// The route's name; all routes unless given.
        section: Option<String>,
    },
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Name, unique in the object.
    pub name: String,
    /// Requests it is for; all unless given.
    pub when: Option<String>,
    /// What has a bucket of its own.
    pub keys: Vec<String>,
    /// Tokens that come in each interval.
    pub requests: u32,
    /// The interval.
    pub per: Duration,
    /// Most tokens that wait.
    pub burst: u32,
    /// Most keys in use at once.
    pub max_keys: u32,
    /// Counted, not refused.
    pub dry_run: bool,
    /// Whether answers say how much is left.
    pub response_headers: bool,
}
