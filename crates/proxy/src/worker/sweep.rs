//! Once a second: the coarse clock moves on, connections that sat idle too long or dawdle over a request head are
//! closed, and so are pooled connections nobody used.
//!
//! One timer for all instead of one or two per connection: an idle connection then costs no timer, and limits need
//! to be good to a second only.

use super::state::Worker;
use crate::io::{coarse_seconds, process_start, set_coarse_seconds};
use std::rc::Rc;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(1);

/// Runs as long as the worker.
pub(crate) async fn run(worker: Rc<Worker>) {
    let origin = process_start();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let seconds = u32::try_from(origin.elapsed().as_secs()).unwrap_or(u32::MAX);
        set_coarse_seconds(seconds);
        worker.close_overdue(coarse_seconds());
        worker.set_calendar();
        worker.pools.sweep();
    }
}
