//! Token buckets, exact over all workers.
//!
//! A bucket is one number: the moment at which it will be full again. A token is taken by moving that moment on by the
//! time a token takes to come back, if it does not lie further ahead than a whole burst. One compare-and-swap, no lock,
//! and a full bucket (moment in the past) is like one never used.
//!
//! Buckets by key stand in a table of fixed size, eight to a set. A known key is found without a lock; a new one takes,
//! under the table's lock, a place whose bucket is full, so that nothing that limits anybody is ever forgotten. Where
//! eight keys of a set are all in use, a further one shares the set's last bucket: under a flood of keys less gets
//! through, never more, and memory stays as it is.
//!
//! Invariant: between `t` and `t + d` at most `burst + d × rate` requests of one key get a token.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Places of a set.
const WAYS: usize = 8;
/// Nanoseconds by which two threads' times may differ: what lies further ahead was left by another pace.
const SLACK: u64 = 1_000_000_000;
/// Most buckets of one table.
pub const MOST: usize = 100_000;

/// How fast tokens come and how many wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Nanoseconds in which `tokens` come.
    interval: u64,
    tokens: u64,
    /// Most tokens.
    burst: u64,
}

impl Pace {
    /// `tokens` in every `interval`, at most `burst` kept; `None` when one of them is nothing or too much to count.
    #[must_use]
    pub fn new(tokens: u64, interval: Duration, burst: u64) -> Option<Self> {
        let interval = u64::try_from(interval.as_nanos()).ok()?;
        let whole = u128::from(interval) * u128::from(burst) / u128::from(tokens.max(1));
        let sound = tokens > 0 && burst > 0 && interval / tokens > 0 && whole < 1 << 62;
        sound.then_some(Self {
            interval,
            tokens,
            burst,
        })
    }

    /// Nanoseconds in which so many tokens come.
    fn time(self, tokens: u64) -> u64 {
        let time = u128::from(tokens) * u128::from(self.interval) / u128::from(self.tokens);
        u64::try_from(time).unwrap_or(u64::MAX)
    }

    /// Most tokens.
    #[must_use]
    pub fn burst(self) -> u64 {
        self.burst
    }
}

/// What a bucket says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Whether there was a token.
    pub allowed: bool,
    /// Tokens that are left.
    pub remaining: u64,
    /// Until the next token; zero while there is one.
    pub next: Duration,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Whose it is; 0: nobody's.
    key: AtomicU64,
    /// When it is full again.
    full: AtomicU64,
}

impl Bucket {
    fn take(&self, now: u64, pace: Pace) -> Left {
        let (one, all) = (pace.time(1), pace.time(pace.burst));
        let mut full = self.full.load(Ordering::Acquire);
        loop {
            // What an earlier, slower pace left to wait for is an empty bucket of this one, no more.
            let empty = now.saturating_add(all);
            if full > empty.saturating_add(SLACK) {
                let order = (Ordering::AcqRel, Ordering::Acquire);
                let set = self.full.compare_exchange(full, empty, order.0, order.1);
                full = set.map_or_else(|other| other, |_| empty);
                continue;
            }
            let next = full.max(now).saturating_add(one);
            let debt = next - now;
            if debt > all {
                return Left {
                    allowed: false,
                    remaining: 0,
                    next: Duration::from_nanos(debt - all),
                };
            }
            match self
                .full
                .compare_exchange_weak(full, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => {
                    let free = all - debt;
                    let remaining = free / one;
                    let next = if remaining > 0 { 0 } else { one - free };
                    return Left {
                        allowed: true,
                        remaining,
                        next: Duration::from_nanos(next),
                    };
                }
                Err(other) => full = other,
            }
        }
    }

    fn is_full(&self, now: u64) -> bool {
        self.full.load(Ordering::Acquire) <= now
    }
}

/// The buckets of one rule: a single one, or one for each key.
#[derive(Debug)]
pub struct Buckets {
    single: Bucket,
    keyed: Box<[Bucket]>,
    claims: Mutex<()>,
    hasher: RandomState,
}

impl Buckets {
    /// Buckets for at least `keys` keys in use at once; 0: a single bucket.
    #[must_use]
    pub fn new(keys: usize) -> Self {
        let keys = keys.min(MOST);
        // Twice as many places, so that sets are seldom full before the whole is.
        let sets = (keys * 2).div_ceil(WAYS).next_power_of_two();
        let places = if keys == 0 { 0 } else { sets * WAYS };
        Self {
            single: Bucket::default(),
            keyed: (0..places).map(|_| Bucket::default()).collect(),
            claims: Mutex::new(()),
            hasher: RandomState::new(),
        }
    }

    /// Places for keys.
    #[must_use]
    pub fn places(&self) -> usize {
        self.keyed.len()
    }

    /// Takes a token of the bucket that all share.
    pub fn take(&self, now: Duration, pace: Pace) -> Left {
        self.single.take(nanos(now), pace)
    }

    /// Takes a token of a key's bucket.
    pub fn take_of(&self, key: impl std::hash::Hash, now: Duration, pace: Pace) -> Left {
        if self.keyed.is_empty() {
            return self.take(now, pace);
        }
        let hash = self.hasher.hash_one(key).max(1);
        let now = nanos(now);
        let set = usize::try_from(hash >> 32).unwrap_or(0) & (self.keyed.len() / WAYS - 1);
        let set = &self.keyed[set * WAYS..(set + 1) * WAYS];
        loop {
            let bucket = match find(set, hash) {
                Some(bucket) => bucket,
                None => match self.claim(set, hash, now) {
                    Some(bucket) => bucket,
                    // Shared by all that find no place, whoever it belongs to.
                    None => return set[WAYS - 1].take(now, pace),
                },
            };
            let left = bucket.take(now, pace);
            // The place was given to another key in between: it lost a token, this one takes its own.
            if bucket.key.load(Ordering::Acquire) == hash {
                return left;
            }
        }
    }

    fn claim<'b>(&self, set: &'b [Bucket], hash: u64, now: u64) -> Option<&'b Bucket> {
        let _held = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = find(set, hash) {
            return Some(known);
        }
        let free = set.iter().find(|bucket| bucket.is_full(now))?;
        free.key.store(hash, Ordering::Release);
        Some(free)
    }
}

fn find(set: &[Bucket], hash: u64) -> Option<&Bucket> {
    set.iter()
        .find(|bucket| bucket.key.load(Ordering::Acquire) == hash)
}

pub(super) fn nanos(now: Duration) -> u64 {
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Buckets, Left, Pace};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn pace(tokens: u64, interval: Duration, burst: u64) -> Pace {
        Pace::new(tokens, interval, burst).unwrap()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let buckets = Buckets::new(0);
        let pace = pace(10, MS(1000), 3);
        let start = Duration::from_secs(5);
        for (at, allowed, remaining, next) in [
            (0, true, 2, 0),
            (0, true, 1, 0),
            (0, true, 0, 100),
            (0, false, 0, 100),
            (99, false, 0, 1),
            (100, true, 0, 100),
            (150, false, 0, 50),
            (1000, true, 2, 0),
            (1000, true, 1, 0),
            (1150, true, 1, 0),
            (1150, true, 0, 50),
        ] {
            let got = buckets.take(start + MS(at), pace);
            let want = Left {
                allowed,
                remaining,
                next: MS(next),
            };
            assert_eq!(got, want, "at {at}");
        }
    }

    /// A bucket that was emptied at a slow pace is empty at the new one, and fills at the new one's rate.
    #[test]
    fn a_change_of_pace_leaves_no_old_debt() {
        let buckets = Buckets::new(0);
        let slow = pace(1, Duration::from_secs(3600), 3);
        for _ in 0..3 {
            assert!(buckets.take(MS(1000), slow).allowed);
        }
        let quick = pace(10, MS(1000), 2);
        let got = buckets.take(MS(1000), quick);
        assert!(!got.allowed && got.next == MS(100), "{got:?}");
        assert!(buckets.take(MS(1100), quick).allowed);
    }

    #[test]
    fn paces_that_mean_nothing_are_none() {
        assert!(Pace::new(0, MS(1000), 1).is_none());
        assert!(Pace::new(1, MS(1000), 0).is_none());
        assert!(Pace::new(1, Duration::ZERO, 1).is_none());
        assert!(Pace::new(2_000_000_000, MS(1000), 1).is_none());
        assert!(Pace::new(1, Duration::from_secs(1 << 40), 1 << 40).is_none());
        assert!(Pace::new(1_000_000_000, MS(1000), u32::MAX.into()).is_some());
    }

    /// The rate is kept over a long time also where a token's time is no whole number.
    #[test]
    fn the_rate_is_exact_in_the_long_run() {
        let buckets = Buckets::new(0);
        let pace = pace(3, MS(1000), 1);
        let got = (0..300_000).filter(|ms| buckets.take(MS(1000 + ms), pace).allowed);
        let got = got.count();
        assert!((899..=901).contains(&got), "{got}");
    }

    #[test]
    fn many_threads_get_exactly_the_burst() {
        let buckets = Arc::new(Buckets::new(64));
        let pace = pace(1, Duration::from_secs(3600), 1000);
        let counts: Arc<[AtomicU64; 5]> = Arc::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (buckets, counts) = (Arc::clone(&buckets), Arc::clone(&counts));
                scope.spawn(move || {
                    for round in 0..2000_u64 {
                        let key = round % 5;
                        let allowed = buckets.take_of(key, MS(10), pace).allowed;
                        let count = &counts[usize::try_from(key).unwrap()];
                        count.fetch_add(u64::from(allowed), Ordering::Relaxed);
                    }
                });
            }
        });
        // 8000 requests over 5 keys: each key has 1600 and gets its 1000.
        for count in counts.iter() {
            assert_eq!(count.load(Ordering::Relaxed), 1000);
        }
    }

    #[test]
    fn keys_that_fit_have_buckets_of_their_own() {
        let buckets = Buckets::new(2000);
        let pace = pace(1, Duration::from_secs(60), 1);
        for allowed in [true, false] {
            for key in 0..100 {
                let got = buckets.take_of(key, MS(1), pace).allowed;
                assert_eq!(got, allowed, "key {key}");
            }
        }
    }

    /// A flood of keys forgets nobody who is limited, and takes no memory.
    #[test]
    fn a_flood_of_keys_lets_nothing_more_through() {
        let buckets = Buckets::new(16);
        let places = buckets.places();
        let pace = pace(1, Duration::from_secs(60), 2);
        let victim = |at| buckets.take_of("victim", at, pace).allowed;
        assert!(victim(MS(1)) && victim(MS(1)) && !victim(MS(1)));
        let through = (0..10_000)
            .filter(|key: &u32| buckets.take_of(key, MS(2), pace).allowed)
            .count();
        assert!(through <= places * 2, "{through}");
        assert!(!victim(MS(3)));
        assert_eq!(buckets.places(), places);
        // When its buckets are full again, places are given away.
        assert!(
            buckets
                .take_of("late", Duration::from_secs(1000), pace)
                .allowed
        );
    }
}
