//! Rate limits of a request: which rules it is under, whether there is a token, what the answer says of it.
//!
//! Every rule is asked even after one refused in dry run; the first that really refuses ends it. A key that cannot be
//! known is a key like any other, shared by all that have none; a condition that cannot be known counts as met: who
//! hides what decides is limited, not free.

use super::attributes::Attributes;
use super::{Cx, Effect, Exchange};
use crate::canonical::{Canonical, Direction};
use crate::model::{LimitRule, RateLimit};
use crate::reply::LocalReply;
use crate::runtime::Left;
use crate::why::{Stage, Why};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use naka_expr::{Missing, Value};
use naka_types::reason::Reason;
use std::hash::{Hash, Hasher};
use std::time::Duration;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// What an answer says of the rule that is nearest to its limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    limit: u64,
    left: Left,
}

impl Told {
    /// As Envoy writes them: `reset` is the whole seconds until there is a token.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        headers.insert(LIMIT, HeaderValue::from(self.limit));
        headers.insert(REMAINING, HeaderValue::from(self.left.remaining));
        headers.insert(RESET, HeaderValue::from(self.left.next.as_secs()));
    }
}

/// The values of a rule's keys, for the table's hash.
struct Key<'a>(&'a LimitRule, &'a Attributes<'a>);

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for key in &self.0.keys {
            match key.value(self.1) {
                Ok(Value::Str(text)) => (1_u8, text.as_ref()).hash(state),
                Ok(Value::Int(number)) => (2_u8, number).hash(state),
                Ok(Value::Bool(truth)) => (3_u8, truth).hash(state),
                Ok(_) | Err(Missing::Unknown | Missing::Body) => 0_u8.hash(state),
            }
        }
    }
}

impl Exchange {
    /// Takes the tokens a request needs; the answer, when there is none.
    pub(super) fn limit(
        &mut self,
        limit: &RateLimit,
        (host, port): (&str, u16),
        request: &Canonical,
        cx: &mut Cx<'_>,
    ) -> Option<Effect> {
        let now = cx.now;
        for rule in &limit.rules {
            let attributes = Attributes::new((host, port), request, &self.body, cx);
            let met = rule
                .when
                .as_ref()
                .map_or(Ok(true), |w| w.truth(&attributes));
            if met == Ok(false) {
                cx.explain(|| Why::new(Stage::Limit, &*rule.name, "its condition does not hold"));
                continue;
            }
            let left = if rule.keys.is_empty() {
                rule.buckets().take(now, rule.pace)
            } else {
                rule.buckets()
                    .take_of(Key(rule, &attributes), now, rule.pace)
            };
            cx.explain(|| Why::new(Stage::Limit, decision(rule, left), because(rule, left)));
            let told = Told {
                limit: rule.pace.burst(),
                left,
            };
            if rule.headers {
                let nearer = |known: &Told| known.left.remaining <= left.remaining;
                self.told = self.told.filter(nearer).or(Some(told));
            }
            if !left.allowed && !rule.dry_run {
                return Some(self.limited(rule.headers.then_some(told), left, request, cx));
            }
        }
        None
    }

    fn limited(
        &self,
        told: Option<Told>,
        left: Left,
        request: &Canonical,
        cx: &mut Cx<'_>,
    ) -> Effect {
        let reason = Reason::RateLimited;
        cx.explain(|| Why::new(Stage::Reply, reason.code(), reason.meaning()));
        let mut reply = LocalReply::new(reason, request.is_grpc());
        let after = HeaderValue::from(whole_seconds(left.next));
        reply.headers.insert(header::RETRY_AFTER, after);
        if let Some(told) = told {
            told.write(&mut reply.headers);
        }
        Effect::Reply(match cx.origin.direction {
            Direction::Gateway => reply.at_gateway(super::headers::request_id_of(request)),
            Direction::Outbound | Direction::Inbound { .. } => reply,
        })
    }
}

/// Rounded up: coming back earlier is in vain.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn decision(rule: &LimitRule, left: Left) -> String {
    let word = match (left.allowed, rule.dry_run) {
        (true, _) => "has a token",
        (false, true) => "would refuse (dry run)",
        (false, false) => "refuses",
    };
    format!("{} {word}", rule.name)
}

fn because(rule: &LimitRule, left: Left) -> String {
    format!("{} of {} tokens left", left.remaining, rule.pace.burst())
}
