//! Waiting for a condition with a deadline. Tests never sleep for a guess.

use std::time::{Duration, Instant};

/// Polls until `condition` gives a value; panics with `what` when `limit` passes first.
///
/// # Panics
/// When the deadline passes.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
