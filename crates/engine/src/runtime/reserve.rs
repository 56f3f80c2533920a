//! How many retries a destination has left that does not answer well: the bound on what retries add to an overload.
//!
//! A share of the requests under way bounds retries at a moment, not over time: quick failures one after the other may
//! each be repeated. So the default budget also has a reserve. A retry takes one from it, an answer that is no server
//! error puts a fifth back, up to what fits, and time puts nothing back (as gRPC throttles retries, gRFC A6). Where
//! everything fails, a caller sends what it has in reserve once and then no retry any more, so a chain of callers adds
//! the sum of their reserves and not the product of their tries.
//!
//! One atomic, counted from full, so that a destination that answers costs one load.

use crate::limits::{RESERVED_RETRIES, RETRY_BUDGET_PERCENT};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What a retry takes; what an answer puts back is this share of it.
const WHOLE: u32 = 100;

/// Hundredths of retries that were taken and not put back.
#[derive(Debug, Default)]
pub(crate) struct Reserve(AtomicU32);

impl Reserve {
    /// Takes one retry, if there is one.
    pub(crate) fn take(&self) -> bool {
        let next = |gone: u32| (gone + WHOLE <= RESERVED_RETRIES * WHOLE).then_some(gone + WHOLE);
        self.0.fetch_update(Relaxed, Relaxed, next).is_ok()
    }

    /// The destination answered.
    pub(crate) fn put(&self) {
        if self.0.load(Relaxed) > 0 {
            let next = |gone: u32| Some(gone.saturating_sub(RETRY_BUDGET_PERCENT));
            // Always some: `next` never refuses.
            let _ = self.0.fetch_update(Relaxed, Relaxed, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reserve;
    use crate::limits::RESERVED_RETRIES;

    #[test]
    fn failures_use_it_up_and_answers_fill_it_to_the_brim() {
        let reserve = Reserve::default();
        let taken = |of: u32| (0..of).filter(|_| reserve.take()).count();
        let all = RESERVED_RETRIES as usize;
        assert_eq!(taken(1_000), all);
        // Five answers are worth one retry.
        for (answers, want) in [(4, 0), (1, 1), (10, 2), (100_000, all)] {
            (0..answers).for_each(|_| reserve.put());
            assert_eq!(taken(1_000), want, "{answers}");
        }
    }
}
