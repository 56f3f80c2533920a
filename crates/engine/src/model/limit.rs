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

#[cfg(test)]
mod tests {
    use super::{Arc, Buckets, Expression, LimitRule, OnceLock, Pace};
    use naka_expr::{Place, Use};
    use std::time::Duration;

    #[test]
    fn rules_are_equal_by_configuration_not_by_state() {
        let compile = |text, purpose| Expression::compile(text, purpose, Place::Limit).unwrap();
        let pace = |burst| Pace::new(1, Duration::from_secs(1), burst).unwrap();
        let rule = || LimitRule {
            name: "a".into(),
            when: None,
            keys: Box::default(),
            pace: pace(1),
            dry_run: false,
            headers: false,
            places: 0,
            buckets: OnceLock::new(),
        };
        let used = rule();
        used.buckets.get_or_init(|| Arc::new(Buckets::new(8)));
        assert!(rule() == rule() && rule() == used);
        let edits: [fn(&mut LimitRule, Expression, Expression, Pace); 7] = [
            |r, _, _, _| r.name = "b".into(),
            |r, when, _, _| r.when = Some(when),
            |r, _, key, _| r.keys = [key].into(),
            |r, _, _, pace| r.pace = pace,
            |r, _, _, _| r.dry_run = true,
            |r, _, _, _| r.headers = true,
            |r, _, _, _| r.places = 1,
        ];
        for (index, edit) in edits.into_iter().enumerate() {
            let mut other = rule();
            let when = compile("request.method == 'GET'", Use::Condition);
            edit(
                &mut other,
                when,
                compile("request.method", Use::Key),
                pace(2),
            );
            assert!(rule() != other, "edit {index}");
        }
    }
}
