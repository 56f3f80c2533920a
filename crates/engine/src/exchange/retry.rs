//! Whether a failed try is repeated, and when.
//!
//! Rules, in this order: the policy must want it (see [`crate::model::RetryPolicy`]); the number of retries must not
//! be used up; the request must still be there whole; a request that is itself a retry of somebody upstream is only
//! repeated when it was provably not processed (no retry of retries), nor is an answer that a hop below has repeated
//! already ([`super::chain`]); the deadline must not pass during the back-off;
//! the budget must have room. The first repeat of an unprocessed try takes no budget and no back-off: it adds no
//! load, as nobody has worked on the request yet. Where retries in flight are limited (`maxRetries`), it counts too.

use super::headers::Asked;
use super::{Cx, Effect, Exchange, Need, Outcome, Tried, headers};
use crate::canonical::{Canonical, Direction};
use crate::limits;
use crate::model::{Action, RetryOn, RetryPolicy};
use crate::why::{Stage, Why};
use http::Method;
use naka_types::reason::Reason;
use std::time::Duration;

/// Why there is no retry although there might be one.
const SPENT: &str = "the retry budget is used up";

/// What one exchange may do, from its route and its caller's wishes.
#[derive(Debug, Default)]
pub(super) struct Rules {
    on: RetryOn,
    pub(super) retries: u32,
    explicit: bool,
    idempotent: bool,
    /// What a program answers, or whether it breaks off, is none of our business.
    transport_only: bool,
    pub(super) per_try: Option<Duration>,
    base: Duration,
    max: Duration,
    /// The incoming request was a retry already.
    again: bool,
    /// Whether a retry avoids the endpoint that was tried.
    pub(super) elsewhere: bool,
    /// Whether retries leave out priorities that were tried.
    pub(super) other_priorities: bool,
}

impl Rules {
    pub(super) fn of(policy: &RetryPolicy, asked: &Asked, method: &Method) -> Self {
        Self {
            on: policy.on | asked.retry_on,
            retries: asked
                .max_retries
                .unwrap_or(policy.retries)
                .min(limits::MAX_RETRIES),
            explicit: policy.explicit,
            idempotent: is_idempotent(method),
            per_try: asked.per_try.or(policy.per_try_timeout),
            base: policy.base,
            max: policy.max,
            again: asked.again,
            transport_only: false,
            elsewhere: policy.elsewhere,
            other_priorities: policy.other_priorities,
        }
    }

    /// For the own program and for addresses outside the mesh: what was provably not processed, and what is safe to
    /// repeat if it most likely was not; once.
    pub(super) fn transport_only(method: &Method) -> Self {
        let safe = RetryPolicy::default();
        Self {
            retries: 1,
            idempotent: is_idempotent(method),
            transport_only: true,
            base: safe.base,
            max: safe.max,
            elsewhere: true,
            ..Self::default()
        }
    }

    /// Whether the request may be sent twice at a time.
    pub(super) fn may_double(&self) -> bool {
        self.idempotent && self.retries > 0 && !self.transport_only && !self.again
    }

    /// What the default repeats.
    fn is_safe(&self, outcome: &Outcome<'_>) -> bool {
        outcome.is_unprocessed()
            || self.idempotent
                && match outcome {
                    Outcome::Stale => true,
                    Outcome::Reset => !self.transport_only,
                    Outcome::Response(parts) => {
                        !self.transport_only && parts.status == 503 && !is_rate_limited(parts)
                    }
                    _ => false,
                }
    }

    /// Whether the policy, or the caller's own wish on top of it, wants such an outcome repeated.
    fn wants(&self, outcome: &Outcome<'_>, statuses: &[u16], grpc: bool) -> bool {
        if !self.explicit && self.is_safe(outcome) {
            return true;
        }
        let anything = RetryOn::FIVE_XX | RetryOn::GATEWAY_ERROR | RetryOn::RESET;
        let on = |conditions: RetryOn| self.on.any(conditions);
        match outcome {
            Outcome::ConnectFailed
            | Outcome::ConnectTimeout
            | Outcome::TlsFailed
            | Outcome::WrongPeerIdentity => on(anything | RetryOn::CONNECT_FAILURE),
            Outcome::RefusedStream => on(anything | RetryOn::REFUSED_STREAM),
            Outcome::NotProcessed => on(anything
                | RetryOn::RESET_BEFORE_REQUEST
                | RetryOn::CONNECT_FAILURE
                | RetryOn::REFUSED_STREAM),
            Outcome::Stale | Outcome::Reset | Outcome::ProtocolError | Outcome::PerTryTimeout => {
                on(anything)
            }
            // Not even 5xx repeats what was refused for being too much.
            Outcome::Response(parts) if is_rate_limited(parts) => on(RetryOn::RATE_LIMITED),
            Outcome::Response(parts) => {
                let status = parts.status.as_u16();
                on(RetryOn::FIVE_XX) && (500..600).contains(&status)
                    || on(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&status)
                    || on(RetryOn::RETRIABLE_4XX) && status == 409
                    || on(RetryOn::STATUS_CODES) && statuses.contains(&status)
                    || grpc && on(grpc_condition(&parts.headers))
            }
            Outcome::Timeout
            | Outcome::IdleTimeout
            | Outcome::CircuitOpen
            | Outcome::ClientGone => false,
        }
    }

    /// Back-off before the n-th retry (from 1), drawn from zero up to a growing bound, as Envoy.
    fn backoff(&self, retry: u32, rng: &mut fastrand::Rng) -> Duration {
        let bound = self
            .base
            .saturating_mul((1u32 << retry.clamp(1, 16)) - 1)
            .min(self.max);
        bound.mul_f64(rng.f64())
    }
}

fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Whether an Envoy refused the request for being one too many.
fn is_rate_limited(parts: &http::response::Parts) -> bool {
    parts.headers.contains_key("x-envoy-ratelimited")
}

/// gRPC status of a response that is only headers.
fn grpc_condition(headers: &http::HeaderMap) -> RetryOn {
    let status = headers.get("grpc-status").and_then(|v| v.to_str().ok());
    RetryOn::of_grpc(status.and_then(|s| s.parse().ok()).unwrap_or(0))
}

impl Exchange {
    /// A try ended: relay, try again, or answer.
    pub(super) fn tried(
        &mut self,
        request: &mut Canonical,
        tried: Tried<'_>,
        cx: &mut Cx<'_>,
    ) -> Effect {
        let Tried {
            outcome,
            replayable,
        } = tried;
        self.learn(&outcome, cx);
        self.observe(request, &outcome, cx);
        let again = self.again(request, &outcome, replayable, cx);
        if again.is_ok() {
            self.held = None;
        } else {
            self.conclude(
                &outcome,
                again.is_err_and(|because| because == Some(SPENT)),
                cx,
            );
        }
        match again {
            Ok(Some(pause)) => return Effect::Need(Need::Backoff(pause)),
            Ok(None) => return self.attempt(request, cx),
            Err(None) => {}
            Err(Some(because)) => {
                cx.explain(|| Why::new(Stage::Retry, "no", because));
            }
        }
        match outcome {
            Outcome::Response(parts) => {
                let status = parts.status.as_u16();
                if let Some(instead) = self.replaced(request, status, replayable, cx) {
                    return instead;
                }
                self.edit_response(parts, cx);
                if let Some(told) = self.told {
                    told.write(&mut parts.headers);
                }
                self.edit_answer(&mut parts.headers);
                Effect::Relay
            }
            Outcome::ClientGone => Effect::Done,
            failure => {
                let reason = failure.reason().unwrap_or(Reason::Internal);
                let instead = self.fall_back(request, reason, replayable, cx);
                instead.unwrap_or_else(|| self.refuse(request, reason, cx))
            }
        }
    }

    /// `Ok`: try again, after a pause if there is one. `Err`: do not, for this reason if the policy wanted it.
    fn again(
        &mut self,
        request: &Canonical,
        outcome: &Outcome<'_>,
        replayable: bool,
        cx: &mut Cx<'_>,
    ) -> Result<Option<Duration>, Option<&'static str>> {
        let statuses: &[u16] = match self.route.as_deref().map(|route| &route.action) {
            Some(Action::Forward(forward)) => &forward.retry.statuses,
            _ => &[],
        };
        if !self.retry.wants(outcome, statuses, request.is_grpc()) {
            return Err(None);
        }
        if self.attempts > self.retry.retries {
            return Err(Some("the number of retries is used up"));
        }
        if !replayable {
            return Err(Some("the request's body is gone"));
        }
        let unprocessed = outcome.is_unprocessed();
        if self.is_marked(outcome) {
            return Err(Some("a hop below has repeated it already"));
        }
        if self.retry.again && !unprocessed {
            return Err(Some("the request is a retry itself"));
        }
        let free = unprocessed && self.attempts == 1;
        let pause = if free {
            Duration::ZERO
        } else {
            self.retry.backoff(self.attempts, cx.rng)
        };
        if self.deadline.is_some_and(|d| cx.now + pause >= d) {
            return Err(Some("the deadline is too near"));
        }
        if let Some(cluster) = &self.cluster
            && (!free || cluster.spec.limits.retries != u32::MAX)
        {
            // The retry that just ended is none any more.
            if let Some(held) = &mut self.held {
                held.retry_ended();
            }
            let slot = cluster.runtime.retry(&cluster.spec.limits, free, cx.now);
            self.retry_slot = Some(slot.ok_or(Some(SPENT))?);
        }
        cx.explain(|| {
            let what = outcome
                .reason()
                .map_or("the response's status", Reason::code);
            Why::new(Stage::Retry, format!("after {pause:?}"), what)
        });
        Ok((!pause.is_zero()).then_some(pause))
    }

    /// What the last try means for other calls: the reserve of the destination, and the hops before us.
    fn conclude(&self, outcome: &Outcome<'_>, spent: bool, cx: &Cx<'_>) {
        if matches!(cx.origin.direction, Direction::Inbound { .. }) {
            return;
        }
        if !Self::is_failed(outcome) {
            if let Some(cluster) = &self.cluster {
                cluster.runtime.answered();
            }
        } else if self.attempts > 1 || spent || self.is_marked(outcome) {
            cx.around.repeated.note(self.trace.low());
        }
    }

    fn edit_response(&self, parts: &mut http::response::Parts, cx: &Cx<'_>) {
        headers::sanitise_response(&mut parts.headers, self.is_from_mesh(), cx.origin);
        let repeated = &cx.around.repeated;
        self.mark_repeated(parts.status, &mut parts.headers, cx.origin, repeated);
        self.mark_response(&mut parts.headers);
        if let Some(route) = &self.route {
            if let Some(destination) = self.destination(route) {
                destination.response_headers.apply(&mut parts.headers);
            }
            route.response_headers.apply(&mut parts.headers);
        }
        self.warn(&mut parts.headers, cx.origin.direction);
        self.let_page_read(&mut parts.headers);
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, Duration, Method, RetryPolicy, Rules};

    #[test]
    fn the_pause_is_drawn_up_to_a_bound_that_grows() {
        let rules = Rules::of(&RetryPolicy::default(), &Asked::default(), &Method::GET);
        let mut rng = fastrand::Rng::with_seed(7);
        for (retry, bound) in [(1, 25), (2, 75), (3, 175), (4, 250), (40, 250)] {
            let bound = Duration::from_millis(bound);
            let longest = (0..500).map(|_| rules.backoff(retry, &mut rng)).max();
            let near = longest.is_some_and(|l| l <= bound && l > bound.mul_f64(0.95));
            assert!(near, "retry {retry}: {longest:?}");
        }
    }
}
