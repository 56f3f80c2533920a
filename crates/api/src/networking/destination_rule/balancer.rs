//! `loadBalancer` of a traffic policy: how an endpoint is picked, and which ones are near.
//!
//! Peak EWMA has no word in Istio's API: the annotation `naka.dev/load-balancer: PEAK_EWMA` of a DestinationRule sets
//! it for the whole rule, `naka.dev/load-balancer.<subset>` for a subset. It stands in for `simple` only; whoever
//! writes a hash keeps it.

use super::DestinationRule;
use crate::decode::Report;
use crate::networking::read;
use crate::tree::Node;
use naka_types::locality::Nearness;
use std::time::Duration;

mod build;
pub(crate) mod fields;

pub(super) use build::build;

/// Annotation that says what `simple` cannot.
pub const ANNOTATION: &str = "naka.dev/load-balancer";
/// Envoy's largest ring.
const LARGEST_RING: u32 = 8_388_608;
/// Envoy's largest table.
const LARGEST_TABLE: u32 = 5_000_011;

/// How an endpoint is picked, and which ones are near.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LoadBalancer {
    /// How one is chosen among those that are equally near.
    pub algorithm: Algorithm,
    /// Slow start of new endpoints.
    pub warmup: Option<Warmup>,
    /// What decides how near an endpoint is; `None`: not written.
    pub near: Option<Nearness>,
    /// Whether nearness is turned off where something else would turn it on.
    pub near_off: bool,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Algorithm {
    /// One after the other.
    RoundRobin,
    /// The less busy of two at random: the default, as in Istio.
    #[default]
    LeastRequest,
    /// At random.
    Random,
    /// The one that the caller named by its address.
    Passthrough,
    /// The one of two at random that is likely to answer sooner.
    PeakEwma,
    /// The same one for the same key.
    Hash(ConsistentHash),
    /// In turn, in proportion to the spare capacity that endpoints report.
    Utilization(Utilization),
}

/// The same endpoint for the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistentHash {
    /// What is hashed.
    pub key: HashKey,
    /// How hashes lead to endpoints.
    pub layout: Layout,
}

/// What is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// A header.
    Header(String),
    /// A cookie.
    Cookie {
        /// Name.
        name: String,
        /// Path of one that is made.
        path: String,
        /// Life of one that is made; zero: a session's. `None`: none is made.
        ttl: Option<Duration>,
        /// Further attributes of one that is made.
        attributes: Vec<(String, String)>,
    },
    /// The caller's address.
    SourceIp,
    /// A query parameter.
    Query(String),
}

/// How hashes lead to endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Around a ring.
    Ring {
        /// Fewest points.
        minimum: u32,
    },
    /// Through a table.
    Maglev {
        /// Slots, a prime.
        table: u32,
    },
}

/// Slow start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warmup {
    /// How long.
    pub duration: Duration,
    /// Share to begin with, in percent.
    pub minimum_percent: f64,
    /// 1 rises in a line, more rises early.
    pub aggression: f64,
}

/// Reports of load; `None`: Envoy's default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Utilization {
    /// An endpoint must have reported this long before its weight counts.
    pub blackout: Option<Duration>,
    /// A weight not renewed this long counts no more.
    pub expiry: Option<Duration>,
    /// Time between two looks at the weights.
    pub period: Option<Duration>,
    /// Utilisation that errors add, per error and call.
    pub penalty: Option<f64>,
    /// Metrics that say how utilised an endpoint is.
    pub metrics: Vec<String>,
}

impl LoadBalancer {
    /// Whether new endpoints are warmed up under this algorithm.
    #[must_use]
    pub fn warms_up(&self) -> bool {
        matches!(
            self.algorithm,
            Algorithm::RoundRobin
                | Algorithm::LeastRequest
                | Algorithm::PeakEwma
                | Algorithm::Utilization(_)
        )
    }
}

/// Puts what the annotations say into policies that do not say more themselves.
pub(crate) fn attach(report: &mut Report, annotations: Option<&Node>, rule: &mut DestinationRule) {
    for entry in annotations.map(Node::entries).unwrap_or_default() {
        let Some(rest) = entry.key.strip_prefix(ANNOTATION) else {
            continue;
        };
        let policy = match rest.strip_prefix('.') {
            None if rest.is_empty() => Some(&mut rule.policy),
            None => continue,
            Some(name) => rule
                .subsets
                .iter_mut()
                .find(|subset| subset.name == name)
                .map(|subset| &mut subset.policy),
        };
        let at = format!("metadata.annotations[{}]", entry.key);
        let Some(policy) = policy else {
            let what = format!("{} names no subset of this rule", entry.key);
            let fix = "name one of its subsets, or none for the whole rule".to_owned();
            report.invalid(&at, &entry.value, what, fix);
            continue;
        };
        let Some("PEAK_EWMA" | "least_latency" | "latency_aware") = entry.value.text() else {
            report.invalid(
                &at,
                &entry.value,
                "only PEAK_EWMA is known here".to_owned(),
                "write PEAK_EWMA, or use spec.trafficPolicy.loadBalancer.simple".to_owned(),
            );
            continue;
        };
        let own = policy.load_balancer.get_or_insert_default();
        if matches!(
            own.algorithm,
            Algorithm::Hash(_) | Algorithm::Utilization(_)
        ) {
            report.invalid(
                &at,
                &entry.value,
                "PEAK_EWMA excludes consistentHash and backendUtilization".to_owned(),
                "keep one of them".to_owned(),
            );
            continue;
        }
        own.algorithm = Algorithm::PeakEwma;
    }
}

/// Whether a number is a prime; for table sizes only.
fn is_prime(number: u32) -> bool {
    number > 1
        && (2..number)
            .take_while(|d| u64::from(*d) * u64::from(*d) <= u64::from(number))
            .all(|d| !number.is_multiple_of(d))
}
