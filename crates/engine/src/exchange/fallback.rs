//! What is answered when a destination has no answer: once an exchange, and never for what is wrong with the request
//! itself or with the mesh.
//!
//! The answer says why it was needed, so that a caller can tell it from the real one: the reason is in
//! `x-naka-reason`, whoever answers.

use super::{Cx, Effect, Exchange};
use crate::canonical::{Canonical, Direction};
use crate::model::{Backend, Cluster, Fallback, FallbackTo};
use crate::why::{Stage, Why};
use naka_types::reason::Reason;
use std::sync::Arc;

fn fallback(cluster: &Cluster) -> Option<&Fallback> {
    cluster
        .spec
        .backend
        .as_deref()
        .and_then(|backend: &Backend| backend.fallback.as_ref())
}

impl Exchange {
    /// Whether the request may have to be sent to somebody else, so that its head must be kept.
    pub(super) fn may_fall_back(&self) -> bool {
        self.fallen.is_none()
            && self
                .cluster
                .as_deref()
                .and_then(fallback)
                .is_some_and(|fallback| matches!(fallback.to, FallbackTo::Cluster(..)))
    }

    /// What is answered instead of a failure, if anything is; `sendable`: the request is still there whole.
    pub(super) fn fall_back(
        &mut self,
        request: &mut Canonical,
        reason: Reason,
        sendable: bool,
        cx: &mut Cx<'_>,
    ) -> Option<Effect> {
        let cluster = self.cluster.clone()?;
        let fallback = fallback(&cluster).filter(|fallback| fallback.is_for(reason))?;
        self.instead(request, &cluster, fallback, reason, sendable, cx)
    }

    /// What is answered instead of the destination's own answer of this status.
    pub(super) fn replaced(
        &mut self,
        request: &mut Canonical,
        status: u16,
        sendable: bool,
        cx: &mut Cx<'_>,
    ) -> Option<Effect> {
        let cluster = self.cluster.as_ref().filter(|c| c.spec.backend.is_some())?;
        let cluster = Arc::clone(cluster);
        let fallback = fallback(&cluster).filter(|f| f.statuses.contains(&status))?;
        self.instead(request, &cluster, fallback, Reason::Fallback, sendable, cx)
    }

    fn instead(
        &mut self,
        request: &mut Canonical,
        cluster: &Cluster,
        fallback: &Fallback,
        reason: Reason,
        sendable: bool,
        cx: &mut Cx<'_>,
    ) -> Option<Effect> {
        if self.fallen.is_some() || matches!(cx.origin.direction, Direction::Inbound { .. }) {
            return None;
        }
        if let Some(reply) = fallback.reply(reason) {
            cx.explain(|| {
                let because = format!("fallback of {}: {}", cluster.name(), reason.code());
                Why::new(Stage::Reply, reply.status.as_str(), because)
            });
            self.held = None;
            return Some(Effect::Reply(match cx.origin.direction {
                Direction::Gateway => reply.for_outside(),
                Direction::Outbound | Direction::Inbound { .. } => reply,
            }));
        }
        let FallbackTo::Cluster(id, name) = &fallback.to else {
            return None;
        };
        let late = self.deadline.is_some_and(|deadline| cx.now >= deadline);
        if !sendable || late || cx.snapshot.cluster(*id).is_none() {
            return None;
        }
        cx.explain(|| {
            let because = format!("fallback of {}: {}", cluster.name(), reason.code());
            Why::new(Stage::Weight, &**name, because)
        });
        self.fallen = Some(reason);
        self.instead_of = Some((*id, Arc::clone(name)));
        (self.held, self.endpoint) = (None, None);
        Some(self.attempt(request, cx))
    }

    /// Why the answer is not simply that of a healthy endpoint of the destination.
    #[must_use]
    pub fn remark(&self) -> Option<Reason> {
        self.fallen
            .or(self.let_through.then_some(Reason::UnhealthyEndpoint))
    }
}
