//! An exemplar: one request of a series whose trace is kept, so that whoever sees a peak can look at a cause of it.
//!
//! The latest one, in five atomics that are guarded by a count: odd while somebody writes. A writer that finds another
//! at it leaves it alone, a reader that was overtaken sees none; nobody waits.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the latest one is kept.
#[derive(Debug, Default)]
pub(crate) struct Exemplar {
    turn: AtomicU32,
    high: AtomicU64,
    low: AtomicU64,
    thousandths: AtomicU64,
    at_ms: AtomicU64,
}

/// One that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) at_ms: u64,
    pub(crate) trace: u128,
    pub(crate) thousandths: u64,
}

impl Exemplar {
    /// Keeps this one.
    pub(crate) fn set(&self, trace: u128, thousandths: u64) {
        let turn = self.turn.load(Ordering::Relaxed);
        let mine = turn.wrapping_add(1);
        let (taken, other) = (Ordering::Acquire, Ordering::Relaxed);
        if turn % 2 == 1
            || self
                .turn
                .compare_exchange(turn, mine, taken, other)
                .is_err()
        {
            return;
        }
        fence(Ordering::Release);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let at_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or_default();
        for (cell, value) in [
            (&self.high, half(trace >> 64)),
            (&self.low, half(trace)),
            (&self.thousandths, thousandths),
            (&self.at_ms, at_ms),
        ] {
            cell.store(value, Ordering::Relaxed);
        }
        self.turn.store(turn.wrapping_add(2), Ordering::Release);
    }

    /// The latest, if there is one and nobody is writing.
    pub(crate) fn get(&self) -> Option<Seen> {
        let turn = self.turn.load(Ordering::Acquire);
        if turn == 0 || turn % 2 == 1 {
            return None;
        }
        let [high, low, thousandths, at_ms] =
            [&self.high, &self.low, &self.thousandths, &self.at_ms]
                .map(|cell| cell.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let seen = Seen {
            at_ms,
            trace: u128::from(high) << 64 | u128::from(low),
            thousandths,
        };
        (self.turn.load(Ordering::Relaxed) == turn).then_some(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::Exemplar;

    #[test]
    fn no_reader_sees_half_of_two() {
        let one = Exemplar::default();
        assert_eq!(one.get(), None);
        std::thread::scope(|scope| {
            for writer in 1..=2_u64 {
                let one = &one;
                scope.spawn(move || {
                    for number in 0..50_000_u64 {
                        let value = number * 2 + writer;
                        one.set(u128::from(value) << 64 | u128::from(value), value);
                    }
                });
            }
            for _ in 0..50_000 {
                let Some(seen) = one.get() else { continue };
                let whole = u128::from(seen.thousandths);
                assert_eq!(seen.trace, whole << 64 | whole);
            }
        });
        assert!(one.get().is_some_and(|seen| seen.thousandths > 90_000));
    }
}
