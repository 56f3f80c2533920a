//! What a route does besides its action: injected faults, cross-origin rules, copies. Most routes have none of it.
//!
//! Meaning and order are Envoy's filters' as Istio places them: fault (delay, then abort), then cross-origin rules,
//! then the action. Shares are drawn from a million.

use super::{ClusterId, TextCondition};
use http::{HeaderValue, StatusCode};
use std::sync::Arc;
use std::time::Duration;

/// All of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Extras {
    /// Injected trouble.
    pub fault: Option<Box<Fault>>,
    /// Cross-origin rules; for routes that forward.
    pub cors: Option<Box<Cors>>,
    /// Name its requests are counted under besides.
    pub stat_prefix: Option<Arc<str>>,
}

/// How often, in parts of a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// Always.
    pub const ALL: Self = Self(1_000_000);

    /// Parts of a million; more than all is all.
    #[must_use]
    pub fn of_million(parts: u32) -> Self {
        Self(parts.min(Self::ALL.0))
    }

    /// Whether a draw falls into it. Nothing is drawn where the answer is known.
    #[must_use]
    pub fn drawn(self, rng: &mut fastrand::Rng) -> bool {
        match self.0 {
            0 => false,
            parts if parts >= Self::ALL.0 => true,
            parts => rng.u32(..Self::ALL.0) < parts,
        }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} % of the requests", f64::from(self.0) / 10_000.0)
    }
}

/// Injected trouble.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fault {
    /// A wait before anything else.
    pub delay: Option<(Duration, Share)>,
    /// An answer instead of the action.
    pub abort: Option<(AbortStatus, Share)>,
}

/// Status of an injected answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortStatus {
    /// HTTP.
    Http(StatusCode),
    /// gRPC, 0 to 16.
    Grpc(u8),
}

/// Which pages of other origins may call, and what their browsers are told.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cors {
    /// Origins; one that takes `*` takes all.
    pub origins: Box<[TextCondition]>,
    /// `access-control-allow-methods`; `*` repeats what was asked for.
    pub methods: Option<HeaderValue>,
    /// `access-control-allow-headers`; `*` repeats what was asked for.
    pub headers: Option<HeaderValue>,
    /// `access-control-expose-headers`.
    pub expose: Option<HeaderValue>,
    /// `access-control-max-age`.
    pub max_age: Option<HeaderValue>,
    /// `access-control-allow-credentials: true`.
    pub credentials: bool,
    /// Whether a preflight of an origin that is not allowed goes on to the destination.
    pub forward_unmatched: bool,
}

impl Cors {
    /// Whether pages of an origin may call.
    #[must_use]
    pub fn allows(&self, origin: &[u8]) -> bool {
        self.origins
            .iter()
            .any(|allowed| allowed.holds(b"*") || allowed.holds(origin))
    }
}

/// A copy of the requests for another cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// Which.
    pub cluster: ClusterId,
    /// Its name.
    pub name: Arc<str>,
    /// How often.
    pub share: Share,
}

#[cfg(test)]
mod tests {
    use super::Share;

    #[test]
    fn shares_are_kept_and_their_ends_need_no_luck() {
        let mut rng = fastrand::Rng::with_seed(1);
        let count = |share: Share, rng: &mut fastrand::Rng| {
            (0..100_000).filter(|_| share.drawn(rng)).count()
        };
        assert_eq!(count(Share::of_million(0), &mut rng), 0);
        assert_eq!(count(Share::ALL, &mut rng), 100_000);
        assert_eq!(Share::of_million(u32::MAX), Share::ALL);
        let tenth = count(Share::of_million(100_000), &mut rng);
        assert!((9_600..10_400).contains(&tenth), "{tenth}");
    }
}
