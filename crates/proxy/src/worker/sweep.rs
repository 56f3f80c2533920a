//! Once a second: the coarse clock moves on, connections that sat idle too long or dawdle over a request head are
//! closed, and so are pooled connections nobody used.
//!
//! Every few minutes the worker lets go of its handles of counters, and label sets that nobody uses are forgotten;
//! handles still in use are found again at the next request.
//!
//! One timer for all instead of one or two per connection: an idle connection then costs no timer, and limits need
//! to be good to a second only.

use super::Phase;
use super::state::Worker;
use crate::io::{coarse_seconds, process_start, set_coarse_seconds};
use crate::limits::{SERIES_IDLE, SERIES_SWEEP};
use naka_identity::{Bundle, Revoked};
use std::rc::Rc;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(1);

/// Connections of revoked callers take no request more; those whose key may be in other hands end at once.
pub(crate) fn cut(worker: &Worker, revoked: &Revoked) {
    for conn in worker.open() {
        match conn.peer.get().and_then(|peer| peer.id) {
            Some(id) if revoked.cuts(id) => conn.set_phase(Phase::Closing),
            Some(id) if revoked.contains(id) => conn.set_phase(Phase::Finishing),
            _ => {}
        }
    }
}

/// Connections of callers whose root is not trusted any more take no request more.
pub(crate) fn outgrown(worker: &Worker, bundle: &Bundle) {
    for conn in worker.open() {
        let top = conn.peer.get().and_then(|peer| peer.top.as_deref());
        if top.is_some_and(|top| !bundle.signed(top)) {
            conn.set_phase(Phase::Finishing);
        }
    }
}

fn coarse(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// Runs as long as the worker.
pub(crate) async fn run(worker: Rc<Worker>) {
    let origin = process_start();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (every, idle) = (coarse(SERIES_SWEEP), coarse(SERIES_IDLE));
    let mut series_due = every;
    loop {
        ticks.tick().await;
        let seconds = u32::try_from(origin.elapsed().as_secs()).unwrap_or(u32::MAX);
        set_coarse_seconds(seconds);
        worker.close_overdue(coarse_seconds());
        worker.set_calendar();
        worker.spans.sweep();
        worker.pools.sweep();
        if coarse_seconds() >= series_due {
            series_due = coarse_seconds() + every;
            worker.handles.forget();
            worker.shard.expire(coarse_seconds(), idle);
        }
    }
}
