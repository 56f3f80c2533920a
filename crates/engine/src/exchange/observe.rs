//! What the end of a try says about its endpoint: outlier detection is told, and a response that came from an
//! endpoint known to be unhealthy says so.

use super::{Cx, Dial, Exchange, Outcome};
use crate::breaker::Trial;
use crate::canonical::{Canonical, Direction};
use crate::model::{Cluster, Endpoint};
use crate::outlier::{self, Seen, Told};
use crate::why::{Stage, Why};
use http::{HeaderName, HeaderValue};
use naka_types::header as names;
use std::time::Duration;

const REASON: HeaderName = HeaderName::from_static(names::REASON);

/// What outlier detection makes of an outcome; `None`: it says nothing about the endpoint.
fn seen(outcome: &Outcome<'_>, grpc: bool) -> Option<Seen> {
    Some(match outcome {
        Outcome::Response(parts) => Seen::Status(outlier::status_of(parts, grpc)),
        Outcome::ConnectFailed
        | Outcome::ConnectTimeout
        | Outcome::TlsFailed
        | Outcome::WrongPeerIdentity => Seen::NotConnected,
        Outcome::RefusedStream
        | Outcome::NotProcessed
        | Outcome::Stale
        | Outcome::Reset
        | Outcome::ProtocolError => Seen::Broken,
        Outcome::PerTryTimeout | Outcome::Timeout => Seen::TimedOut,
        Outcome::IdleTimeout | Outcome::CircuitOpen | Outcome::ClientGone => return None,
    })
}

/// Tells outlier detection; true when somebody has to see to a sweep.
fn tell(cluster: &Cluster, endpoint: &Endpoint, seen: Seen, cx: &mut Cx<'_>) -> bool {
    let told = outlier::observe(cluster, endpoint, seen, cx.now);
    if told == Told::Ejected {
        cx.explain(|| {
            Why::new(
                Stage::Endpoint,
                endpoint.address.to_string(),
                format!("ejected by outlier detection after {seen:?}"),
            )
        });
    }
    told.rings()
}

/// Tells the breaker. An outcome that says nothing gives a trial back by dropping it.
fn break_circuit(cluster: &Cluster, trial: Option<Trial>, seen: Seen, cx: &mut Cx<'_>) {
    let Some(breaker) = cluster
        .spec
        .backend
        .as_ref()
        .and_then(|b| b.breaker.as_ref())
    else {
        return;
    };
    let failed = match seen {
        Seen::Status(status) => breaker.is_failure(status),
        Seen::Connected => false,
        Seen::NotConnected | Seen::Broken | Seen::TimedOut => true,
    };
    if cluster.runtime.ended(breaker, trial, failed, cx.now) {
        cx.explain(|| {
            let because = format!("{seen:?} opened its breaker");
            Why::new(Stage::Endpoint, &**cluster.name(), because)
        });
    }
}

impl Exchange {
    /// Takes note of what the last try says about its endpoint.
    pub(super) fn observe(&mut self, request: &Canonical, outcome: &Outcome<'_>, cx: &mut Cx<'_>) {
        let Some(cluster) = &self.cluster else {
            return;
        };
        if cluster.spec.outlier.is_none() && cluster.spec.backend.is_none() {
            return;
        }
        let trial = self.trial.take();
        if let Some(endpoint) = &self.endpoint
            && let Some(seen) = seen(outcome, request.is_grpc())
        {
            self.barred |= tell(cluster, endpoint, seen, cx);
            break_circuit(cluster, trial, seen, cx);
        }
    }

    /// Whether an endpoint was barred, or judging it became due, since the last question: somebody has to see to it.
    pub fn has_barred(&mut self) -> bool {
        std::mem::take(&mut self.barred)
    }

    /// Says on a response why it is not simply that of a healthy endpoint.
    pub(super) fn warn(&self, headers: &mut http::HeaderMap, direction: Direction) {
        if direction == Direction::Outbound
            && let Some(reason) = self.remark()
        {
            headers.insert(REASON, HeaderValue::from_static(reason.code()));
        }
    }
}

impl Dial {
    /// The connection stands: outlier detection is told.
    pub fn connected(&mut self, now: Duration) {
        let trial = self.trial.take();
        if let (Some(cluster), Some(endpoint)) = (&self.cluster, &self.endpoint) {
            self.barred |= outlier::observe(cluster, endpoint, Seen::Connected, now).rings();
            let backend = cluster.spec.backend.as_ref();
            if let Some(breaker) = backend.and_then(|b| b.breaker.as_ref()) {
                cluster.runtime.ended(breaker, trial, false, now);
            }
        }
    }

    /// Takes note of a connection that did not come about.
    pub(super) fn observe(&mut self, outcome: &Outcome<'_>, cx: &mut Cx<'_>) {
        let trial = self.trial.take();
        if let (Some(cluster), Some(endpoint), Some(seen)) =
            (&self.cluster, &self.endpoint, seen(outcome, false))
        {
            self.barred |= tell(cluster, endpoint, seen, cx);
            break_circuit(cluster, trial, seen, cx);
        }
    }

    /// Whether an endpoint was barred, or judging it became due, since the last question.
    pub fn has_barred(&mut self) -> bool {
        std::mem::take(&mut self.barred)
    }
}
