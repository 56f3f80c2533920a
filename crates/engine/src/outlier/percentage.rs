//! Ejection by the share of failures: an endpoint that fails often, though never several times in a row.
//!
//! Envoy's rule. Calls and failures are counted by endpoint. At a sweep, one of which ends each interval, all
//! endpoints in rotation that were called often enough are judged by what they did since the sweep before, if there
//! are enough of them: one that failed in the share given, or more of it, is ejected, under the same limits as by
//! any other counter.
//!
//! The first call of an interval fixes when its sweep is due; where nobody calls nothing is due and nobody wakes.
//!
//! Invariants: each call is counted in one interval alone; an endpoint that is out is not judged.
//!
//! Not here: what a failure is, how many may be out (the parent), who sweeps (the proxy's main thread).

use super::{Outlier, eject, millis};
use crate::model::{Cluster, Endpoint};
use crate::runtime::Bar;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Calls since the last sweep.
#[derive(Debug, Default)]
pub(super) struct Counts {
    calls: AtomicU64,
    failures: AtomicU64,
}

/// Counts a call; true when a sweep is due that was not.
pub(super) fn count(
    cluster: &Cluster,
    policy: &Outlier,
    endpoint: &Endpoint,
    failed: bool,
    now: Duration,
) -> bool {
    let counts = &endpoint.state.tally.share;
    counts.calls.fetch_add(1, Relaxed);
    if failed {
        counts.failures.fetch_add(1, Relaxed);
    }
    let due = &cluster.runtime.sweep_due;
    if due.load(Relaxed) != 0 {
        return false;
    }
    let at = millis(policy.sweep_from(now + Duration::from_millis(1)));
    due.compare_exchange(0, at, Relaxed, Relaxed).is_ok()
}

/// Judges the interval that is over, if one is; says when the one that is not will be.
pub(super) fn judge(cluster: &Cluster, now: Duration) -> Option<Duration> {
    let due = cluster.runtime.sweep_due.load(Relaxed);
    if due == 0 {
        return None;
    }
    if due > millis(now) {
        return Some(Duration::from_millis(due));
    }
    // Before the counts are taken: who counts from here on asks for the next sweep.
    cluster.runtime.sweep_due.store(0, Relaxed);
    let policy = cluster.spec.outlier.as_deref();
    let share = policy.and_then(|policy| policy.share);
    let mut judged = Vec::new();
    for endpoint in &cluster.endpoints {
        let counts = &endpoint.state.tally.share;
        let calls = counts.calls.swap(0, Relaxed);
        let failures = counts.failures.swap(0, Relaxed);
        if share.is_some_and(|share| calls > 0 && calls >= share.volume.into())
            && !endpoint.state.has(Bar::Outlier)
        {
            judged.push((endpoint, calls, failures));
        }
    }
    let (policy, share) = (policy?, share?);
    if judged.len() < usize::try_from(share.hosts).unwrap_or(usize::MAX) {
        return None;
    }
    for (endpoint, calls, failures) in judged {
        if failures.saturating_mul(100) >= calls.saturating_mul(share.percent.into()) {
            eject(cluster, policy, endpoint, now);
        }
    }
    None
}
