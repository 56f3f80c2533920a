//! When to renew a certificate, and how long to wait after a failure. Pure: time and chance are arguments.

use crate::BACKDATE;
use std::time::Duration;

/// The second at which to renew: at 50–80 % of the lifetime, spread by `chance` (0 = earliest, `u32::MAX` = latest),
/// so that a thousand proxies started together do not renew together. The backdated part does not count.
#[must_use]
pub fn renew_at(not_before: u64, not_after: u64, chance: u32) -> u64 {
    let start = (not_before + BACKDATE.as_secs()).min(not_after);
    let lifetime = not_after - start;
    start + lifetime / 2 + share(lifetime * 3 / 10, chance)
}

/// How long to wait before try number `attempt` (from 0) after a failure: doubling from 250 ms to 30 s, never longer
/// than a tenth of what is left of the certificate, half of it left to chance.
#[must_use]
pub fn retry_in(attempt: u32, remaining: Duration, chance: u32) -> Duration {
    let doubled = 250u64.saturating_mul(1 << attempt.min(16)).min(30_000);
    let tenth = u64::try_from(remaining.as_millis() / 10).unwrap_or(u64::MAX);
    let longest = if remaining.is_zero() {
        doubled
    } else {
        doubled.min(tenth.max(100))
    };
    Duration::from_millis(longest / 2 + share(longest / 2, chance))
}

fn share(whole: u64, chance: u32) -> u64 {
    let part = u128::from(whole) * u128::from(chance) / u128::from(u32::MAX);
    u64::try_from(part).unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use super::{renew_at, retry_in};
    use std::time::Duration;

    #[test]
    fn renewal_falls_between_half_and_four_fifths_of_the_lifetime() {
        let (before, after) = (1_000_000 - 60, 1_000_000 + 86_400);
        assert_eq!(renew_at(before, after, 0), 1_000_000 + 43_200);
        assert_eq!(renew_at(before, after, u32::MAX), 1_000_000 + 69_120);
        // A certificate of ten seconds is renewed while it is still good.
        let at = renew_at(940, 1_010, u32::MAX / 2);
        assert!((1_005..=1_008).contains(&at), "{at}");
        assert_eq!(
            renew_at(1_000, 1_010, 7),
            1_010,
            "shorter than the backdating"
        );
    }

    #[test]
    fn waits_grow_and_stay_within_what_is_left() {
        let day = Duration::from_secs(86_400);
        assert_eq!(retry_in(0, day, u32::MAX), Duration::from_millis(250));
        assert_eq!(retry_in(0, day, 0), Duration::from_millis(125));
        assert_eq!(retry_in(40, day, u32::MAX), Duration::from_secs(30));
        assert_eq!(
            retry_in(40, Duration::from_secs(10), u32::MAX),
            Duration::from_secs(1)
        );
        assert_eq!(
            retry_in(40, Duration::ZERO, u32::MAX),
            Duration::from_secs(30),
            "expired: no hurry left"
        );
    }
}
