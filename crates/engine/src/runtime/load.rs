//! What was observed of an endpoint's load: how long it takes to answer, since when it is up, what it reports.
//!
//! Shared by all workers in atomics; two that write at once may lose one observation, never invent one. Times are
//! those of `Cx::now`, kept in nanoseconds plus one, so that 0 says "never".

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How long a peak of latency is remembered: after this it counts for a third.
const DECAY: Duration = Duration::from_secs(10);
/// What an endpoint that was never called is taken to need while a first call is under way; before, nothing at all,
/// so that it is tried at once, but by one call only.
const UNKNOWN: f64 = 1e9;
/// What a call that brought no answer is taken to have needed at least; failing fast must not look like being fast.
const FAILED: Duration = Duration::from_secs(1);

/// Observations of one endpoint.
#[derive(Debug, Default)]
pub struct Load {
    /// Bits of the decaying peak of its latencies, in nanoseconds.
    latency: AtomicU64,
    /// When it was observed last.
    observed: AtomicU64,
    /// Since when it is up.
    up: AtomicU64,
    /// Weight by its last report.
    weight: AtomicU32,
    /// First report of an unbroken series.
    first: AtomicU64,
    /// Last report.
    last: AtomicU64,
}

fn stamp(now: Duration) -> u64 {
    u64::try_from(now.as_nanos()).map_or(u64::MAX, |nanos| nanos.saturating_add(1))
}

fn since(stamp: u64, now: Duration) -> Duration {
    now.saturating_sub(Duration::from_nanos(stamp.saturating_sub(1)))
}

impl Load {
    /// A call was answered, or failed, after this time. A latency above what was known counts at once, one below it
    /// slowly.
    pub fn answered(&self, took: Duration, failed: bool, now: Duration) {
        let took = if failed { took.max(FAILED) } else { took };
        let took = took.as_secs_f64() * 1e9;
        let known = self.latency_at(now);
        let before = self.observed.swap(stamp(now), Relaxed);
        let next = match known {
            Some(known) if known > took => {
                let kept = decay(since(before, now));
                // Decayed already up to now; the new one fills what decayed away.
                known + took * (1.0 - kept)
            }
            _ => took,
        };
        self.latency.store(next.to_bits(), Relaxed);
    }

    /// The peak as far as it is still remembered; `None`: never called.
    fn latency_at(&self, now: Duration) -> Option<f64> {
        let observed = self.observed.load(Relaxed);
        (observed > 0)
            .then(|| f64::from_bits(self.latency.load(Relaxed)) * decay(since(observed, now)))
    }

    /// What one more call is expected to take, with so many under way.
    #[must_use]
    pub fn cost(&self, active: u32, now: Duration) -> f64 {
        match self.latency_at(now) {
            Some(latency) => latency.max(1.0) * (f64::from(active) + 1.0),
            None => UNKNOWN * f64::from(active),
        }
    }

    /// How long it has been up, which begins now if it was not.
    pub(crate) fn age(&self, up: bool, now: Duration) -> Duration {
        if !up {
            self.up.store(0, Relaxed);
            return Duration::ZERO;
        }
        match self.up.compare_exchange(0, stamp(now), Relaxed, Relaxed) {
            Ok(_) => Duration::ZERO,
            Err(before) => since(before, now),
        }
    }

    /// It reported a load that makes this weight.
    pub fn reported(&self, weight: u32, now: Duration) {
        self.weight.store(weight.max(1), Relaxed);
        let _ = self.first.compare_exchange(0, stamp(now), Relaxed, Relaxed);
        self.last.store(stamp(now), Relaxed);
    }

    /// The weight by its reports, if there were any for long enough and lately.
    pub(crate) fn weight(
        &self,
        blackout: Duration,
        expiry: Duration,
        now: Duration,
    ) -> Option<u32> {
        let (first, last) = (self.first.load(Relaxed), self.last.load(Relaxed));
        if last == 0 {
            return None;
        }
        if since(last, now) > expiry {
            self.first.store(0, Relaxed);
            return None;
        }
        (since(first, now) >= blackout).then(|| self.weight.load(Relaxed))
    }
}

fn decay(time: Duration) -> f64 {
    (-time.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::Load;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let load = Load::default();
        load.answered(10 * MS, false, Duration::ZERO);
        assert!((load.cost(0, Duration::ZERO) - 1e7).abs() < 1.0);
        load.answered(200 * MS, false, MS);
        assert!(load.cost(0, MS) > 1.9e8, "a peak counts at once");
        load.answered(10 * MS, false, 2 * MS);
        assert!(
            load.cost(0, 2 * MS) > 1.8e8,
            "one fast answer does not wipe it out"
        );
        let later = Duration::from_secs(60);
        assert!(load.cost(0, later) < 1e7, "in the end it is forgotten");
        assert!(
            load.cost(3, MS) > 3.9 * load.cost(0, MS),
            "what is under way counts"
        );
    }

    #[test]
    fn failing_fast_is_not_being_fast() {
        let (broken, slow) = (Load::default(), Load::default());
        broken.answered(MS, true, MS);
        slow.answered(300 * MS, false, MS);
        assert!(broken.cost(0, MS) > slow.cost(0, MS));
    }

    #[test]
    fn age_begins_when_it_is_up_and_anew_when_it_comes_back() {
        let load = Load::default();
        let at = Duration::from_secs;
        assert_eq!(load.age(true, at(5)), at(0));
        assert_eq!(load.age(true, at(8)), at(3));
        assert_eq!(load.age(false, at(9)), at(0));
        assert_eq!(load.age(true, at(10)), at(0));
        assert_eq!(load.age(true, at(11)), at(1));
    }

    #[test]
    fn reports_count_after_the_blackout_and_until_they_expire() {
        let load = Load::default();
        let at = Duration::from_secs;
        let weight = |now| load.weight(at(10), at(180), at(now));
        assert_eq!(weight(0), None);
        load.reported(7, at(100));
        assert_eq!(weight(105), None, "blackout");
        load.reported(9, at(110));
        assert_eq!(weight(111), Some(9));
        assert_eq!(weight(291), None, "expired");
        load.reported(5, at(292));
        assert_eq!(weight(293), None, "the blackout begins anew");
        assert_eq!(weight(302), Some(5));
    }
}
