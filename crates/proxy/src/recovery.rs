//! The main thread's part in health: endpoints that were ejected come back when their time is over, and those that
//! failed too large a share of their calls are ejected at the end of an interval.
//!
//! A worker that ejects an endpoint or counts the first call of an interval rings, and so does a new configuration,
//! which may bring one back that is still out. Nothing runs here otherwise, and nothing after the last one is back.

use crate::io::process_start;
use naka_engine::model::Snapshot;
use naka_engine::outlier;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Runs as long as the proxy.
pub async fn readmit(snapshot: impl Fn() -> Arc<Snapshot>, barred: Arc<Notify>) {
    loop {
        barred.notified().await;
        while let Some(next) = outlier::sweep(snapshot().clusters(), process_start().elapsed()) {
            tokio::select! {
                () = tokio::time::sleep_until(at(next)) => {}
                // Who was ejected meanwhile may be due before.
                () = barred.notified() => {}
            }
        }
    }
}

fn at(engine: Duration) -> Instant {
    Instant::from_std(process_start() + engine)
}
