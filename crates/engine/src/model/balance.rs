//! How calls are spread over the endpoints of a cluster, and where those stand.
//!
//! The words are those of a DestinationRule (`loadBalancer`), the numbers and defaults Envoy's.

use std::sync::Arc;
use std::time::Duration;

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// In turn, in proportion to the weights.
    RoundRobin,
    /// The less busy of two drawn in proportion to the weights (Istio's default).
    #[default]
    LeastRequest,
    /// At random, each one as often whatever its weight.
    Random,
    /// The one of two drawn that is likely to answer sooner: peak of the latencies seen, decaying, times what is
    /// under way.
    PeakEwma,
    /// The same one for the same key, by a ring of at least so many points.
    RingHash {
        /// Fewest points.
        minimum: u32,
    },
    /// The same one for the same key, by a table of so many slots (a prime).
    Maglev {
        /// Slots.
        table: u32,
    },
    /// In turn, in proportion to the spare capacity that endpoints report.
    Utilization,
    /// The address the caller meant, if it is one of the endpoints.
    Passthrough,
}

impl Policy {
    /// The word of a DestinationRule.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "ROUND_ROBIN",
            Self::LeastRequest => "LEAST_REQUEST",
            Self::Random => "RANDOM",
            Self::PeakEwma => "PEAK_EWMA",
            Self::RingHash { .. } => "ring hash",
            Self::Maglev { .. } => "maglev",
            Self::Utilization => "backend utilization",
            Self::Passthrough => "PASSTHROUGH",
        }
    }
}

/// What besides the policy decides which endpoint is chosen; nothing of it by default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Balance {
    /// What a hashing policy hashes; requests without it are spread at random.
    pub hash: Option<HashKey>,
    /// How new endpoints are brought up to their full share.
    pub slow_start: Option<SlowStart>,
    /// How reports of load are read.
    pub utilization: Option<Utilization>,
    /// Whether a group's weight decides its share, rather than its endpoints'.
    pub by_place: bool,
}

/// What is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// A header, or `:authority`, `:path`, `:method`.
    Header(Arc<str>),
    /// A cookie.
    Cookie(Cookie),
    /// The caller's address.
    SourceIp,
    /// A query parameter.
    Query(Arc<str>),
}

/// A cookie that keeps a caller at one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// Name.
    pub name: Arc<str>,
    /// Life of one that the proxy makes where there is none; zero: as long as the caller's session. `None`: none is
    /// made.
    pub ttl: Option<Duration>,
    /// Everything after the value of a cookie that is made: `; Max-Age=…; Path=…; …; HttpOnly`.
    pub suffix: Arc<str>,
}

impl Cookie {
    /// A cookie with what a response says of it, worked out once.
    #[must_use]
    pub fn new(
        name: &str,
        path: &str,
        ttl: Option<Duration>,
        attributes: &[(String, String)],
    ) -> Self {
        let mut suffix = String::new();
        let seconds = ttl.unwrap_or_default().as_secs();
        if seconds > 0 {
            suffix.push_str(&format!("; Max-Age={seconds}"));
        }
        if !path.is_empty() {
            suffix.push_str(&format!("; Path={path}"));
        }
        for (name, value) in attributes {
            suffix.push_str("; ");
            suffix.push_str(name);
            if !value.is_empty() {
                suffix.push('=');
                suffix.push_str(value);
            }
        }
        suffix.push_str("; HttpOnly");
        Self {
            name: name.into(),
            ttl,
            suffix: suffix.into(),
        }
    }
}

/// Slow start as Envoy has it: a new endpoint's weight is multiplied by
/// `max(least, (age / window)^(1 / aggression))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// How long.
    pub window: Duration,
    /// 1 rises in a line, more rises early.
    pub aggression: f64,
    /// Least factor, 0 to 1.
    pub least: f64,
}

impl SlowStart {
    /// The factor at an age.
    #[must_use]
    pub fn factor(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let time = age.as_secs_f64().max(0.001) / self.window.as_secs_f64();
        time.powf(1.0 / self.aggression).max(self.least).min(1.0)
    }
}

/// How reports of load become weights, as in Envoy's client-side weighted round robin.
#[derive(Debug, Clone, PartialEq)]
pub struct Utilization {
    /// An endpoint must have reported this long before its weight counts.
    pub blackout: Duration,
    /// A weight that was not renewed for this long counts no more.
    pub expiry: Duration,
    /// Time between two looks at the weights.
    pub period: Duration,
    /// What errors add: errors per request times this.
    pub penalty: f64,
    /// Metrics that say how utilised an endpoint is, besides the usual ones: `named_metrics.<name>` and the like.
    pub metrics: Box<[Arc<str>]>,
}

impl Default for Utilization {
    fn default() -> Self {
        Self {
            blackout: Duration::from_secs(10),
            expiry: Duration::from_mins(3),
            period: Duration::from_secs(1),
            penalty: 1.0,
            metrics: Box::default(),
        }
    }
}

/// Endpoints that stand together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// How near: 0 is called first.
    pub priority: u32,
    /// `region/zone/subzone`, may be empty.
    pub place: Arc<str>,
    /// Share among the groups of its priority, where [`Balance::by_place`] is set.
    pub weight: u32,
    /// How many of the cluster's endpoints, from where the group before ended.
    pub size: usize,
}

impl Group {
    /// One group of all endpoints.
    #[must_use]
    pub fn whole(size: usize) -> Self {
        Self {
            priority: 0,
            place: "".into(),
            weight: 1,
            size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Policy;

    #[test]
    fn policies_are_called_as_a_destination_rule_calls_them() {
        for (policy, word) in [
            (Policy::RoundRobin, "ROUND_ROBIN"),
            (Policy::LeastRequest, "LEAST_REQUEST"),
            (Policy::Random, "RANDOM"),
            (Policy::PeakEwma, "PEAK_EWMA"),
            (Policy::RingHash { minimum: 1 }, "ring hash"),
            (Policy::Maglev { table: 7 }, "maglev"),
            (Policy::Utilization, "backend utilization"),
            (Policy::Passthrough, "PASSTHROUGH"),
        ] {
            assert_eq!(policy.as_str(), word);
        }
    }
}
