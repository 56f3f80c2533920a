//! When a failed try is repeated.
//!
//! Two kinds of policy. An explicit one (`retryOn` in a VirtualService, or the program's own `x-envoy-retry-on`) is
//! honoured as written. Without one the default is safe: what was provably not processed is repeated for every
//! method, and failures of the transport plus 503 for idempotent methods. Both stay within the retry budget.

use crate::limits;
use std::ops::BitOr;
use std::time::Duration;

/// A set of retry conditions, Envoy's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(u32);

impl BitOr for RetryOn {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl RetryOn {
    /// Any 5xx, or no response at all.
    pub const FIVE_XX: Self = Self(1);
    /// 502, 503, 504, or no response at all.
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    /// No response: reset, disconnect or per-try timeout.
    pub const RESET: Self = Self(1 << 2);
    /// Reset before the request was sent.
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 3);
    /// No connection.
    pub const CONNECT_FAILURE: Self = Self(1 << 4);
    /// The endpoint refused the stream.
    pub const REFUSED_STREAM: Self = Self(1 << 5);
    /// 409.
    pub const RETRIABLE_4XX: Self = Self(1 << 6);
    /// The statuses listed with the policy.
    pub const STATUS_CODES: Self = Self(1 << 7);
    /// gRPC status 1.
    pub const GRPC_CANCELLED: Self = Self(1 << 8);
    /// gRPC status 4.
    pub const GRPC_DEADLINE_EXCEEDED: Self = Self(1 << 9);
    /// gRPC status 13.
    pub const GRPC_INTERNAL: Self = Self(1 << 10);
    /// gRPC status 8.
    pub const GRPC_RESOURCE_EXHAUSTED: Self = Self(1 << 11);
    /// gRPC status 14.
    pub const GRPC_UNAVAILABLE: Self = Self(1 << 12);
    /// An answer with `x-envoy-ratelimited`, which nothing else repeats.
    pub const RATE_LIMITED: Self = Self(1 << 13);

    /// The words and their conditions. Two never hold here: `retriable-headers` needs a list that a VirtualService
    /// cannot give, `http3-post-connect-failure` a protocol that is not spoken upstream.
    pub const WORDS: &'static [(&'static str, Self)] = &[
        ("5xx", Self::FIVE_XX),
        ("gateway-error", Self::GATEWAY_ERROR),
        ("reset", Self::RESET),
        ("reset-before-request", Self::RESET_BEFORE_REQUEST),
        ("connect-failure", Self::CONNECT_FAILURE),
        ("refused-stream", Self::REFUSED_STREAM),
        ("retriable-4xx", Self::RETRIABLE_4XX),
        ("retriable-status-codes", Self::STATUS_CODES),
        ("cancelled", Self::GRPC_CANCELLED),
        ("deadline-exceeded", Self::GRPC_DEADLINE_EXCEEDED),
        ("internal", Self::GRPC_INTERNAL),
        ("resource-exhausted", Self::GRPC_RESOURCE_EXHAUSTED),
        ("unavailable", Self::GRPC_UNAVAILABLE),
        ("envoy-ratelimited", Self::RATE_LIMITED),
        ("retriable-headers", Self(0)),
        ("http3-post-connect-failure", Self(0)),
    ];

    /// Whether any condition of the other set is in this one.
    #[must_use]
    pub fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The condition of a gRPC status.
    #[must_use]
    pub fn of_grpc(status: u32) -> Self {
        match status {
            1 => Self::GRPC_CANCELLED,
            4 => Self::GRPC_DEADLINE_EXCEEDED,
            8 => Self::GRPC_RESOURCE_EXHAUSTED,
            13 => Self::GRPC_INTERNAL,
            14 => Self::GRPC_UNAVAILABLE,
            _ => Self(0),
        }
    }
}

/// How often and when a try is repeated.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Conditions.
    pub on: RetryOn,
    /// Statuses of `retriable-status-codes`.
    pub statuses: Box<[u16]>,
    /// Retries after the first try.
    pub retries: u32,
    /// Longest time of one try.
    pub per_try_timeout: Option<Duration>,
    /// First back-off; it grows as 2ⁿ−1 and is drawn from zero up to that.
    pub base: Duration,
    /// Longest back-off.
    pub max: Duration,
    /// Whether somebody wrote it; if not, the safe default applies.
    pub explicit: bool,
    /// Whether a retry avoids the endpoint that was tried.
    pub elsewhere: bool,
    /// Whether retries leave out the priorities that two tries have used.
    pub other_priorities: bool,
}

impl Default for RetryPolicy {
    /// The safe default: two retries.
    fn default() -> Self {
        Self {
            on: RetryOn::default(),
            statuses: Box::default(),
            retries: 2,
            per_try_timeout: None,
            base: Duration::from_millis(25),
            max: Duration::from_millis(250),
            explicit: false,
            elsewhere: true,
            other_priorities: false,
        }
    }
}

impl RetryPolicy {
    /// No retries at all (Istio's `attempts: 0`).
    #[must_use]
    pub fn off() -> Self {
        Self {
            retries: 0,
            explicit: true,
            ..Self::default()
        }
    }

    /// An explicit policy from `retryOn` words and bare status numbers; the second value lists unknown words.
    #[must_use]
    pub fn explicit(retry_on: &str, retries: u32) -> (Self, Vec<&str>) {
        let mut policy = Self {
            retries: retries.min(limits::MAX_RETRIES),
            explicit: true,
            ..Self::default()
        };
        let unknown = policy.add_words(retry_on);
        (policy, unknown)
    }

    /// Adds comma-separated words and bare status numbers; returns those that are neither.
    pub fn add_words<'a>(&mut self, retry_on: &'a str) -> Vec<&'a str> {
        let mut unknown = Vec::new();
        let mut statuses = self.statuses.to_vec();
        for word in retry_on.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            if let Some((_, on)) = RetryOn::WORDS.iter().find(|(name, _)| *name == word) {
                self.on = self.on | *on;
            } else if let Ok(status @ 100..=599) = word.parse::<u16>() {
                self.on = self.on | RetryOn::STATUS_CODES;
                statuses.push(status);
            } else {
                unknown.push(word);
            }
        }
        self.statuses = statuses.into();
        unknown
    }
}
