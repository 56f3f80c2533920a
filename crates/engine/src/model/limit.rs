//! Rate limits: rules that a request must find a token for.

use crate::runtime::{Buckets, Pace};
use naka_expr::Expression;
use std::sync::{Arc, OnceLock};

/// Rules of one place, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    /// All of them must have a token.
    pub rules: Box<[LimitRule]>,
}

/// One rule.
#[derive(Debug, Clone)]
pub struct LimitRule {
    /// `<namespace>/<object>/<rule>`: rules of one name share their buckets, wherever they stand.
    pub name: Arc<str>,
    /// Requests it is for; `None`: all.
    pub when: Option<Expression>,
    /// What has a bucket of its own; empty: one bucket for all.
    pub keys: Box<[Expression]>,
    /// How fast and how many.
    pub pace: Pace,
    /// Counted, not refused.
    pub dry_run: bool,
    /// Whether answers say how much is left.
    pub headers: bool,
    /// Keys that may be in use at once; 0 without keys.
    pub places: usize,
    /// The buckets, which [`crate::runtime::Registry::adopt`] finds by name so that they outlive configurations.
    pub buckets: OnceLock<Arc<Buckets>>,
}

impl LimitRule {
    /// Its buckets.
    #[must_use]
    pub fn buckets(&self) -> &Arc<Buckets> {
        self.buckets
            .get_or_init(|| Arc::new(Buckets::new(self.places)))
    }
}

/// Buckets are state, not configuration.
impl PartialEq for LimitRule {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.when == other.when
            && self.keys == other.keys
            && self.pace == other.pace
            && self.dry_run == other.dry_run
            && self.headers == other.headers
            && self.places == other.places
    }
}
