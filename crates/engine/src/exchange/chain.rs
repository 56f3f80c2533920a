//! No retry of what a hop below has repeated already, so that a chain of callers does not multiply its tries.
//!
//! Two halves. A request that is a retry of somebody before us says so (`x-envoy-attempt-count`). And a failure that was
//! repeated in vain says so to who is before: when a call of the own program ends as a failure after a retry, or after
//! the budget refused one, its trace is noted here; when the program then answers a call of the same trace with a server
//! error, that answer carries `x-naka-reason: already-retried`, and the caller's proxy passes it on unrepeated and
//! notes the trace in its turn. So only the hop next to the failure retries.
//!
//! The mark is believed from a verified mesh proxy only (others' `x-naka-…` are taken away), and shown to verified
//! mesh proxies only. A program that does not pass `traceparent` on breaks the thread; the reserve of the budget
//! (`runtime::reserve`) then still bounds what each hop adds.

use super::{Exchange, Outcome};
use crate::canonical::{Caller, Direction, Origin};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use naka_types::header as names;
use naka_types::reason::Reason;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const REASON: HeaderName = HeaderName::from_static(names::REASON);

/// Traces remembered; a new one takes the place of another with the same last bits.
const PLACES: usize = 1024;

/// Traces of which a call failed although it was repeated; shared by all workers.
#[derive(Debug, Clone)]
pub struct Repeated(Arc<[AtomicU64]>);

impl Default for Repeated {
    fn default() -> Self {
        Self((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Repeated {
    fn place(&self, trace: u64) -> Option<&AtomicU64> {
        let index = usize::try_from(trace % PLACES as u64).ok()?;
        self.0.get(index).filter(|_| trace != 0)
    }

    /// Remembers a trace.
    pub fn note(&self, trace: u64) {
        if let Some(place) = self.place(trace) {
            place.store(trace, Relaxed);
        }
    }

    /// Whether a trace was remembered, and none of the same last bits since.
    #[must_use]
    pub fn has(&self, trace: u64) -> bool {
        self.place(trace)
            .is_some_and(|place| place.load(Relaxed) == trace)
    }
}

/// Whether a response is a failure of the server, in either dialect.
fn is_failure(status: StatusCode, headers: &HeaderMap) -> bool {
    let grpc = headers.get("grpc-status").map(HeaderValue::as_bytes);
    status.is_server_error() || grpc.is_some_and(|status| status != b"0")
}

impl Exchange {
    /// Whether the endpoint of the last try is a mesh proxy whose certificate was verified.
    pub(super) fn is_from_mesh(&self) -> bool {
        let secured = self.cluster.as_ref().is_some_and(|c| c.spec.tls.is_some());
        secured && self.endpoint.as_ref().is_some_and(|e| e.mtls)
    }

    /// Whether a hop below has repeated the request already.
    pub(super) fn is_marked(&self, outcome: &Outcome<'_>) -> bool {
        let Outcome::Response(parts) = outcome else {
            return false;
        };
        let reason = parts.headers.get(REASON).map(HeaderValue::as_bytes);
        reason == Some(Reason::AlreadyRetried.code().as_bytes()) && self.is_from_mesh()
    }

    /// Whether a try's end is one that more tries are no answer to.
    pub(super) fn is_failed(outcome: &Outcome<'_>) -> bool {
        match outcome {
            Outcome::Response(parts) => is_failure(parts.status, &parts.headers),
            Outcome::ClientGone => false,
            _ => true,
        }
    }

    /// Tells the caller's proxy that this failure was repeated already.
    pub(super) fn mark_repeated(
        &self,
        status: StatusCode,
        headers: &mut HeaderMap,
        origin: &Origin,
        repeated: &Repeated,
    ) {
        let verified = matches!(origin.caller, Caller::MeshPeer { xfcc: Some(_) });
        let inbound = matches!(origin.direction, Direction::Inbound { .. });
        if inbound && verified && is_failure(status, headers) && repeated.has(self.trace.low()) {
            let reason = HeaderValue::from_static(Reason::AlreadyRetried.code());
            headers.insert(REASON, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Repeated;

    #[test]
    fn what_was_noted_is_found_by_every_worker_and_nothing_else() {
        let repeated = Repeated::default();
        let other = repeated.clone();
        for unknown in [0, 7, 7 + 1024] {
            assert!(!other.has(unknown));
        }
        repeated.note(0);
        repeated.note(7);
        assert!(other.has(7) && !other.has(7 + 1024) && !other.has(0));
        repeated.note(7 + 1024);
        assert!(!other.has(7) && other.has(7 + 1024));
    }
}
