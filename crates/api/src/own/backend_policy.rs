//! BackendPolicy: what callers do when a destination fails (breaker, fallback) or is slow (hedge), and how they find
//! out (health checks).
//!
//! What Istio has words for stays in DestinationRule: limits, outlier detection, retries' budget. One object holds for
//! a destination as a whole, none is mixed from several: of those that name it the one that names it most exactly,
//! then the one of the caller's namespace, the service's, the root namespace's; then the oldest.

use naka_types::host::Host;
use naka_types::reason::Reason;
use std::time::Duration;

mod build;
pub(crate) mod fields;

pub(crate) use build::build;

/// The sound part of a BackendPolicy.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendPolicy {
    /// Destinations it holds for.
    pub targets: Vec<Target>,
    /// What it says of them.
    pub policy: Policy,
}

/// A destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Full host.
    pub host: Host,
    /// Service port; `None` = all.
    pub port: Option<u16>,
    /// Subset of a DestinationRule; `None` = the host and all its subsets.
    pub subset: Option<String>,
}

/// What callers of a destination do.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    /// Opens when the destination fails.
    pub breaker: Option<Breaker>,
    /// What is answered instead.
    pub fallback: Option<Fallback>,
    /// Questions after the health of its endpoints.
    pub check: Option<HealthCheck>,
    /// A call that has no answer for so long is also sent to another endpoint.
    pub hedge: Option<Duration>,
}

/// When a breaker opens, and how it closes.
#[derive(Debug, Clone, PartialEq)]
pub struct Breaker {
    /// Failures in a row.
    pub consecutive: Option<u32>,
    /// Failures within a time.
    pub count: Option<(u32, Duration)>,
    /// Percent of the calls within a time, of at least so many.
    pub rate: Option<(f64, u32, Duration)>,
    /// How long it stays open.
    pub open_for: Duration,
    /// Calls at a time when half open.
    pub trials: u32,
    /// Statuses that are failures; empty = 5xx.
    pub statuses: Vec<u16>,
}

/// What is answered when there is no answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Fallback {
    /// For these failures; empty = all.
    pub reasons: Vec<Reason>,
    /// For these answers of the destination.
    pub statuses: Vec<u16>,
    /// What.
    pub to: FallbackTo,
}

/// What is answered instead.
#[derive(Debug, Clone, PartialEq)]
pub enum FallbackTo {
    /// Another destination's answer.
    Destination(Destination),
    /// A fixed answer.
    Response {
        /// Status.
        status: u16,
        /// Its type.
        content_type: String,
        /// Body.
        body: String,
    },
}

/// Another destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Full host.
    pub host: Host,
    /// Subset.
    pub subset: Option<String>,
    /// Service port; `None` = that of the destination that failed.
    pub port: Option<u16>,
}

/// Questions after the health of endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// What is asked.
    pub ask: Ask,
    /// Between two questions.
    pub interval: Duration,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Failures in a row that take an endpoint out.
    pub unhealthy: u32,
    /// Successes in a row that bring it back.
    pub healthy: u32,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// `GET` of a path.
    Http {
        /// Path.
        path: String,
        /// Host header; empty = the destination's host.
        host: String,
        /// Healthy statuses; empty = 200.
        statuses: Vec<u16>,
    },
    /// The gRPC health service, about a service.
    Grpc {
        /// Service; empty = the server.
        service: String,
    },
    /// A connection.
    Tcp,
}

impl BackendPolicy {
    /// How exactly it names a destination; `None`: not at all.
    #[must_use]
    pub fn names(&self, host: &Host, port: u16, subset: &str) -> Option<u8> {
        let named = self.targets.iter().filter(|target| {
            target.host == *host
                && target.port.is_none_or(|wanted| wanted == port)
                && target
                    .subset
                    .as_deref()
                    .is_none_or(|wanted| wanted == subset)
        });
        named
            .map(|target| 2 * u8::from(target.subset.is_some()) + u8::from(target.port.is_some()))
            .max()
    }
}
