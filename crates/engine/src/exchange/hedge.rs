//! A slow call is sent a second time: the first answer wins, the other try is given up.
//!
//! Asked for by a BackendPolicy, since it doubles what a destination that is slow for being full has to do. So it holds
//! only for methods that are safe to repeat, where retries are allowed at all, once a request, and each second try takes
//! its place in the retry budget. The proxy adds that there must be no body: two tries cannot read one.

use super::attempt::{Avoid, choose};
use super::{Cx, Exchange, Try, headers};
use crate::canonical::{Canonical, Direction};
use crate::model::{Cluster, Endpoint, HashKey};
use crate::why::{Stage, Why};
use std::sync::Arc;
use std::time::Duration;

/// What is known of the first of two tries.
#[derive(Debug)]
pub(super) struct First {
    endpoint: Option<Arc<Endpoint>>,
    started: Duration,
    let_through: bool,
}

fn after(cluster: &Cluster) -> Option<Duration> {
    cluster.spec.backend.as_ref()?.hedge
}

impl Exchange {
    /// When the try that begins may be followed by another one at its side.
    pub(super) fn hedged_after(&self, cx: &mut Cx<'_>) -> Option<Duration> {
        let after = after(self.cluster.as_deref()?)?;
        let outbound = !matches!(cx.origin.direction, Direction::Inbound { .. });
        let first = self.attempts == 1 && self.instead_of.is_none();
        if !(outbound && first && self.retry.may_double() && self.trial.is_none()) {
            return None;
        }
        cx.explain(|| {
            let because = "without an answer until then, another endpoint is asked too";
            Why::new(Stage::Retry, format!("hedged after {after:?}"), because)
        });
        Some(after)
    }

    /// A second try beside the one under way, if the budget has room. Say with [`Exchange::first_won`] if the first
    /// try is the one whose end is reported.
    pub fn hedge(&mut self, request: &mut Canonical, cx: &mut Cx<'_>) -> Option<Try> {
        let cluster = Arc::clone(self.cluster.as_ref()?);
        let late = self.deadline.is_some_and(|deadline| cx.now >= deadline);
        if late || self.first.is_some() {
            return None;
        }
        let limits = &cluster.spec.limits;
        let slot = cluster.runtime.retry(limits, false, cx.now)?;
        let avoid = Avoid {
            endpoint: self.endpoint.as_ref().map(|endpoint| endpoint.address),
            priorities: self.left_out,
        };
        let own = self.lookup.cluster().cloned();
        let key = |key: &HashKey, cx: &mut Cx<'_>| self.key(key, request, cx);
        let name = Arc::clone(cluster.name());
        let chosen = choose(cluster.id, &name, avoid, Some(slot), own.as_ref(), key, cx).ok()?;
        if chosen.trial.is_some() {
            // A half-open breaker is asked one question at a time.
            return None;
        }
        self.attempts += 1;
        self.first = Some(First {
            endpoint: self.endpoint.replace(Arc::clone(&chosen.endpoint)),
            started: self.started,
            let_through: self.let_through,
        });
        (self.started, self.let_through) = (cx.now, chosen.panic);
        let left = self.deadline.map(|d| d.saturating_sub(cx.now));
        headers::mark_attempt(request, self.attempts, self.retry.per_try, left);
        Some(Try {
            http: self.program.unwrap_or(chosen.cluster.spec.http),
            cluster: chosen.cluster,
            endpoint: chosen.endpoint,
            permit: chosen.permit,
            deadline: self.deadline,
            per_try_timeout: self.retry.per_try,
            idle_timeout: None,
            keep: true,
            attempt: self.attempts,
            hedge: None,
        })
    }

    /// Of two tries the first is the one that counts.
    pub fn first_won(&mut self) {
        if let Some(first) = self.first.take() {
            self.endpoint = first.endpoint;
            (self.started, self.let_through) = (first.started, first.let_through);
        }
    }
}
