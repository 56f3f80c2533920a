//! Outlier detection: an endpoint that fails several times in a row is not called for a while.
//!
//! Envoy's rules. Three counters an endpoint: errors (5xx, or the statuses a rule names), gateway errors (502, 503,
//! 504, which are errors too) and failures of the caller's own making (no connection, reset, timeout). The last count
//! as 503 and 504 unless they are kept apart. A counter that reaches its threshold ejects the endpoint at once, unless
//! too large a share of the cluster would be out; either way that counter begins again. An ejected endpoint returns
//! at a sweep, one of which happens every interval, once base time × multiplier is over. The multiplier grows with
//! each ejection and shrinks with each interval in which the endpoint was not ejected.
//!
//! Where a rule names a share of failures, each sweep also judges what the interval before it brought (`percentage`).
//!
//! Counters are the endpoint's, over all workers and every swap of configuration. A lock is taken only when a
//! threshold is reached. Time is a monotonic argument, the same clock on every thread.
//!
//! Invariants: never more than the allowed share is ejected by an ejection; one that was ejected returns at the sweep
//! that is due, or as soon as its cluster has no outlier detection any more.
//!
//! Not here: who calls [`sweep`] when (the proxy's main thread), success-rate detection (Istio has none).

use crate::model::{Cluster, Endpoint};
use crate::runtime::{Bar, EndpointState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

mod percentage;

/// Longest ejection unless the base time is longer, as in Envoy.
const LONGEST: Duration = Duration::from_secs(300);

/// When endpoints of a cluster are ejected, and for how long. A threshold of 0 never ejects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlier {
    /// Errors in a row.
    pub errors: u32,
    /// 502, 503 and 504 in a row.
    pub gateway: u32,
    /// Local failures in a row; only where they are kept apart.
    pub local: u32,
    /// Local failures do not count as errors.
    pub split: bool,
    /// Time between sweeps.
    pub interval: Duration,
    /// Shortest ejection.
    pub base: Duration,
    /// Longest ejection.
    pub longest: Duration,
    /// Largest share of the endpoints that may be out, in percent.
    pub percent: u32,
    /// One may be out whatever the share.
    pub at_least_one: bool,
    /// Statuses that are errors, instead of all 5xx.
    pub statuses: Option<Box<[u16]>>,
    /// Share of failures in an interval, in percent, that ejects at its end.
    pub share: Option<Share>,
}

/// The share of failures that ejects, and how much there must be to judge by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// From this many percent on.
    pub percent: u32,
    /// Endpoints that were called often enough, at least; below it none is ejected.
    pub hosts: u32,
    /// Calls in the interval, at least; an endpoint with fewer is not judged.
    pub volume: u32,
}

impl Default for Outlier {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            errors: 5,
            gateway: 0,
            local: 5,
            split: false,
            interval: Duration::from_secs(10),
            base: Duration::from_secs(30),
            longest: LONGEST,
            percent: 10,
            at_least_one: false,
            statuses: None,
            share: None,
        }
    }
}

impl Outlier {
    /// The longest ejection that goes with a base time when none is given.
    #[must_use]
    pub fn longest_of(base: Duration) -> Duration {
        base.max(LONGEST)
    }

    /// Whether a status is an error, and if so whether a gateway's.
    fn judge(&self, status: u16) -> Verdict {
        let error = match &self.statuses {
            None => (500..600).contains(&status),
            Some(listed) => listed.contains(&status),
        };
        match (error, status) {
            (true, 502..=504) => Verdict::Gateway,
            (true, _) => Verdict::Error,
            (false, _) => Verdict::Fine,
        }
    }

    /// The first sweep at or after a time.
    fn sweep_from(&self, from: Duration) -> Duration {
        let (from, every) = (millis(from), millis(self.interval).max(1));
        Duration::from_millis(from.div_ceil(every) * every)
    }

    /// When an ejection of that multiplier is over.
    fn over(&self, since: Duration, times: u32) -> Duration {
        self.sweep_from(since + self.base.saturating_mul(times).min(self.longest))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    Error,
    Gateway,
}

/// What came of a call to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A response of this status, a gRPC status translated.
    Status(u16),
    /// A connection of bytes stands.
    Connected,
    /// No connection.
    NotConnected,
    /// The connection stood and broke off.
    Broken,
    /// No answer in time.
    TimedOut,
}

/// The HTTP status that a gRPC status stands for.
#[must_use]
pub fn http_of_grpc(status: u32) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// The counters of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    errors: AtomicU32,
    gateway: AtomicU32,
    local: AtomicU32,
    /// Base times the next return has to wait, less one.
    times: AtomicU32,
    /// Milliseconds of the last ejection or, once it is over, of the return.
    since: AtomicU64,
    share: percentage::Counts,
}

/// What came of taking note of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Told {
    /// It was counted, if at all.
    Counted,
    /// It is the first of an interval at whose end somebody has to [`sweep`].
    SweepDue,
    /// The endpoint was ejected for it; it returns at a [`sweep`].
    Ejected,
}

impl Told {
    /// Whether whoever sweeps has to hear of it.
    #[must_use]
    pub fn rings(self) -> bool {
        self != Self::Counted
    }
}

impl Tally {
    fn clear(&self) {
        for counter in [&self.errors, &self.gateway, &self.local] {
            counter.store(0, Relaxed);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Counts one more; true when that reached the threshold, and the counter begins again.
fn reached(counter: &AtomicU32, threshold: u32) -> bool {
    let count = counter.fetch_add(1, Relaxed).saturating_add(1);
    let reached = threshold > 0 && count >= threshold;
    if reached {
        counter.store(0, Relaxed);
    }
    reached
}

/// Takes note of what came of a call.
pub fn observe(cluster: &Cluster, endpoint: &Endpoint, seen: Seen, now: Duration) -> Told {
    let Some(policy) = cluster.spec.outlier.as_deref() else {
        return Told::Counted;
    };
    let armed = policy.share.is_some()
        && external(policy, seen)
            .is_some_and(|failed| percentage::count(cluster, policy, endpoint, failed, now));
    if in_a_row(policy, endpoint, seen) && eject(cluster, policy, endpoint, now) {
        Told::Ejected
    } else if armed {
        Told::SweepDue
    } else {
        Told::Counted
    }
}

/// Whether the endpoint's answer was a failure; `None`: it gave none, and what is no answer counts apart.
fn external(policy: &Outlier, seen: Seen) -> Option<bool> {
    match (seen, policy.split) {
        (Seen::Status(status), _) => Some(policy.judge(status) != Verdict::Fine),
        (_, true) => None,
        (Seen::Connected, false) => Some(false),
        (Seen::NotConnected | Seen::Broken | Seen::TimedOut, false) => Some(true),
    }
}

/// Whether a counter of things in a row reached its threshold.
fn in_a_row(policy: &Outlier, endpoint: &Endpoint, seen: Seen) -> bool {
    let tally = &endpoint.state.tally;
    let status = match (seen, policy.split) {
        (Seen::Status(status), split) => {
            if split {
                tally.local.store(0, Relaxed);
            }
            policy.judge(status)
        }
        (Seen::Connected, true) => {
            tally.local.store(0, Relaxed);
            return false;
        }
        // A connection of bytes is all that is to be had: it counts as an answer.
        (Seen::Connected, false) => Verdict::Fine,
        (Seen::NotConnected, true) => {
            return reached(&tally.local, policy.local);
        }
        // The connection stood, which began the counter again.
        (Seen::Broken | Seen::TimedOut, true) => {
            tally.local.store(0, Relaxed);
            return reached(&tally.local, policy.local);
        }
        // 503 and 504; what a rule says of statuses is about those that somebody sent.
        (Seen::NotConnected | Seen::Broken | Seen::TimedOut, false) => Verdict::Gateway,
    };
    if status == Verdict::Fine {
        tally.errors.store(0, Relaxed);
        tally.gateway.store(0, Relaxed);
        return false;
    }
    let gateway = if status == Verdict::Gateway {
        reached(&tally.gateway, policy.gateway)
    } else {
        tally.gateway.store(0, Relaxed);
        false
    };
    let errors = reached(&tally.errors, policy.errors);
    gateway || errors
}

fn eject(cluster: &Cluster, policy: &Outlier, endpoint: &Endpoint, now: Duration) -> bool {
    // One at a time, so that two workers never both see room for the last one.
    let one_by_one = cluster.runtime.ejecting.lock();
    let _one_by_one = one_by_one.unwrap_or_else(PoisonError::into_inner);
    if endpoint.state.has(Bar::Outlier) {
        return false;
    }
    let out = cluster
        .endpoints
        .iter()
        .filter(|e| e.state.has(Bar::Outlier));
    let out = out.count();
    let percent = usize::try_from(policy.percent.min(100)).unwrap_or(100);
    let within = (out + 1) * 100 <= percent * cluster.endpoints.len();
    let room = within || policy.at_least_one && out == 0;
    if !room {
        return false;
    }
    let tally = &endpoint.state.tally;
    let healthy = millis(now).saturating_sub(tally.since.load(Relaxed));
    let calm = healthy / millis(policy.interval).max(1);
    let before = tally.times.load(Relaxed);
    let before = before.saturating_sub(u32::try_from(calm).unwrap_or(u32::MAX));
    let grows = policy.base.saturating_mul(before) < policy.longest + policy.base;
    tally.times.store(before + u32::from(grows), Relaxed);
    tally.since.store(millis(now), Relaxed);
    cluster.runtime.bar(&endpoint.state, Bar::Outlier)
}

fn readmit_one(cluster: &Cluster, endpoint: &EndpointState, now: Duration) {
    let tally = &endpoint.tally;
    // Else one error more would do, where another counter had come close to its threshold.
    tally.clear();
    tally.since.store(millis(now), Relaxed);
    cluster.runtime.lift(endpoint, Bar::Outlier);
}

/// Since when an endpoint is ejected and when it may return at the earliest; `None`: it is not ejected.
#[must_use]
pub fn ejected(cluster: &Cluster, endpoint: &Endpoint) -> Option<(Duration, Duration)> {
    if !endpoint.state.has(Bar::Outlier) {
        return None;
    }
    let tally = &endpoint.state.tally;
    let since = Duration::from_millis(tally.since.load(Relaxed));
    let policy = cluster.spec.outlier.as_deref()?;
    Some((since, policy.over(since, tally.times.load(Relaxed))))
}

/// Judges the interval that is over, lets those return whose time is over; says when to look again, if there is need.
pub fn sweep<'a>(
    clusters: impl IntoIterator<Item = &'a Arc<Cluster>>,
    now: Duration,
) -> Option<Duration> {
    let mut next: Option<Duration> = None;
    let mut soonest = |at: Duration| next = Some(next.map_or(at, |next| next.min(at)));
    for cluster in clusters {
        if let Some(due) = percentage::judge(cluster, now) {
            soonest(due);
        }
        // No bar was ever laid, or all that were are for others to lift.
        if cluster.runtime.epoch() == 0 {
            continue;
        }
        let out = cluster
            .endpoints
            .iter()
            .filter(|e| e.state.has(Bar::Outlier));
        for endpoint in out {
            let tally = &endpoint.state.tally;
            let since = Duration::from_millis(tally.since.load(Relaxed));
            let over = match cluster.spec.outlier.as_deref() {
                Some(policy) => policy.over(since, tally.times.load(Relaxed)),
                None => now,
            };
            if over <= now {
                readmit_one(cluster, &endpoint.state, now);
            } else {
                soonest(over);
            }
        }
    }
    next
}

/// The status of a response as outlier detection sees it.
pub(crate) fn status_of(parts: &http::response::Parts, grpc: bool) -> u16 {
    let told = grpc.then(|| parts.headers.get("grpc-status")).flatten();
    let told = told.and_then(|v| v.to_str().ok()?.parse().ok());
    told.map_or(parts.status.as_u16(), http_of_grpc)
}

#[cfg(test)]
mod tests;
