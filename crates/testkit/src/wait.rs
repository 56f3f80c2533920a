//! Waiting for a condition with a deadline. Tests never sleep for a guess.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Polls until `condition` gives a value; panics with `what`, written then, when `limit` passes first.
///
/// # Panics
/// When the deadline passes.
#[track_caller]
pub fn until<T>(
    what: impl Display,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
