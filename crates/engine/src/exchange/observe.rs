//! What the end of a try says about its endpoint: outlier detection is told, and a response that came from an
//! endpoint known to be unhealthy says so.

use super::{Cx, Dial, Exchange, Outcome};
use crate::canonical::{Canonical, Direction};
use crate::model::{Cluster, Endpoint};
use crate::outlier::{self, Seen};
use crate::why::{Stage, Why};
use http::{HeaderName, HeaderValue};
use naka_types::header as names;
use naka_types::reason::Reason;
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

fn tell(cluster: &Cluster, endpoint: &Endpoint, seen: Seen, cx: &mut Cx<'_>) -> bool {
    let ejected = outlier::observe(cluster, endpoint, seen, cx.now);
    if ejected {
        cx.explain(|| {
            Why::new(
                Stage::Endpoint,
                endpoint.address.to_string(),
                format!("ejected by outlier detection after {seen:?}"),
            )
        });
    }
    ejected
}

impl Exchange {
    /// Takes note of what the last try says about its endpoint.
    pub(super) fn observe(&mut self, request: &Canonical, outcome: &Outcome<'_>, cx: &mut Cx<'_>) {
        let Some(cluster) = self.cluster.as_ref().filter(|c| c.spec.outlier.is_some()) else {
            return;
        };
        if let Some(endpoint) = &self.endpoint
            && let Some(seen) = seen(outcome, request.is_grpc())
        {
            self.barred |= tell(cluster, endpoint, seen, cx);
        }
    }

    /// Whether an endpoint was barred since the last question: somebody has to see to its return.
    pub fn has_barred(&mut self) -> bool {
        std::mem::take(&mut self.barred)
    }

    /// Whether the endpoint of the last try was picked although it was known to be unhealthy.
    #[must_use]
    pub fn let_through(&self) -> bool {
        self.let_through
    }

    /// Says on a response that it came from an endpoint known to be unhealthy.
    pub(super) fn warn(&self, headers: &mut http::HeaderMap, direction: Direction) {
        if direction == Direction::Outbound && self.let_through {
            let code = HeaderValue::from_static(Reason::UnhealthyEndpoint.code());
            headers.insert(REASON, code);
        }
    }
}

impl Dial {
    /// The connection stands: outlier detection is told.
    pub fn connected(&self, now: Duration) {
        if let (Some(cluster), Some(endpoint)) = (&self.cluster, &self.endpoint) {
            outlier::observe(cluster, endpoint, Seen::Connected, now);
        }
    }

    /// Takes note of a connection that did not come about.
    pub(super) fn observe(&mut self, outcome: &Outcome<'_>, cx: &mut Cx<'_>) {
        if let (Some(cluster), Some(endpoint), Some(seen)) =
            (&self.cluster, &self.endpoint, seen(outcome, false))
        {
            self.barred |= tell(cluster, endpoint, seen, cx);
        }
    }

    /// Whether an endpoint was barred since the last question.
    pub fn has_barred(&mut self) -> bool {
        std::mem::take(&mut self.barred)
    }
}
