//! How many requests of a cluster began within a window that moves with time.
//!
//! Two counts, of the window's period under way and of the one before, which counts in proportion to how much of it
//! the window still covers. That is off by how unevenly requests came within one period, costs two atomics, and
//! nothing where no budget has a window.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counts of two periods. Each is a number of the period (upper half) and a count (lower half), so that both change
/// at once.
#[derive(Debug, Default)]
pub(crate) struct Recent([AtomicU64; 2]);

fn period(window: Duration, now: Duration) -> (u32, f64) {
    let periods = now.as_secs_f64() / window.as_secs_f64().max(0.001);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "time since start over at least a millisecond; wrapping is harmless"
    )]
    let number = periods as u64 as u32;
    (number, periods.fract())
}

const fn joined(number: u32, count: u32) -> u64 {
    (number as u64) << 32 | count as u64
}

impl Recent {
    /// One more began.
    pub(crate) fn add(&self, window: Duration, now: Duration) {
        let (number, _) = period(window, now);
        let slot = &self.0[usize::from(number % 2 == 1)];
        let next = |was: u64| {
            let same = was >> 32 == u64::from(number);
            Some(if same { was + 1 } else { joined(number, 1) })
        };
        // Always some: `next` never refuses.
        let _ = slot.fetch_update(Relaxed, Relaxed, next);
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        for slot in &self.0 {
            slot.store(0, Relaxed);
        }
    }

    /// How many began within the window.
    pub(crate) fn count(&self, window: Duration, now: Duration) -> u32 {
        let (number, gone) = period(window, now);
        let of = |number: u32| {
            let was = self.0[usize::from(number % 2 == 1)].load(Relaxed);
            let count = u32::try_from(was & u64::from(u32::MAX)).unwrap_or(u32::MAX);
            if was >> 32 == u64::from(number) {
                count
            } else {
                0
            }
        };
        let before = number.checked_sub(1).map_or(0, of);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a u32"
        )]
        let covered = (f64::from(before) * (1.0 - gone)).round() as u32;
        of(number).saturating_add(covered)
    }
}

#[cfg(test)]
mod tests {
    use super::Recent;
    use std::time::Duration;

    #[test]
    fn requests_count_for_the_window_and_no_longer() {
        let (recent, window) = (Recent::default(), Duration::from_millis(100));
        let at = Duration::from_millis;
        for millis in [1_010, 1_020, 1_090, 1_100, 1_101] {
            recent.add(window, at(millis));
        }
        for (millis, want) in [
            (1_101, 5),
            (1_150, 4),
            (1_199, 2),
            (1_201, 2),
            (1_250, 1),
            (1_300, 0),
            (9_999, 0),
        ] {
            assert_eq!(recent.count(window, at(millis)), want, "{millis}");
        }
        recent.clear();
        assert_eq!(recent.count(window, at(1_101)), 0);
    }
}
