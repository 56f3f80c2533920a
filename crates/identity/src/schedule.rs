//! When to renew a certificate, and how long to wait after a failure. Pure: time and chance are arguments.

use crate::BACKDATE;
use std::time::Duration;

/// When a certificate is to be renewed: in some second from `from` to `until`, both since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The earliest.
    pub from: u64,
    /// The latest.
    pub until: u64,
}

impl Span {
    /// Of a certificate with these first and last seconds: the last `before` of it, a quarter of that long; without
    /// `before` at 50–80 % of the lifetime. The backdated part does not count.
    #[must_use]
    pub fn of(not_before: u64, not_after: u64, before: Option<Duration>) -> Self {
        let start = start(not_before, not_after);
        let lifetime = not_after - start;
        let (from, length) = match before {
            None => (start + lifetime / 2, lifetime * 3 / 10),
            Some(before) => {
                let before = before.as_secs().min(lifetime);
                (not_after - before, before / 4)
            }
        };
        Self {
            from,
            until: from + length,
        }
    }

    /// The same within the first window that `next` (of a second: the window open then, or the next one) finds from
    /// then on and from now on. Where none opens before the last twentieth of the lifetime, the window is passed over:
    /// a certificate that ends is worse than one that is renewed by day.
    #[must_use]
    pub fn within(
        self,
        not_before: u64,
        not_after: u64,
        now: u64,
        next: impl Fn(u64) -> Option<(u64, u64)>,
    ) -> Self {
        let lifetime = not_after - start(not_before, not_after);
        let last = not_after - lifetime / 20;
        match next(self.from.max(now)) {
            Some((opens, closes)) if opens < last && now < last => {
                let from = opens.max(self.from);
                Self {
                    from,
                    until: closes.min(last).max(from),
                }
            }
            _ => self,
        }
    }

    /// One second of it, spread by `chance` (0 = earliest, `u32::MAX` = latest), so that a thousand proxies started
    /// together do not renew together.
    #[must_use]
    pub fn pick(self, chance: u32) -> u64 {
        self.from + share(self.until.saturating_sub(self.from), chance)
    }
}

fn start(not_before: u64, not_after: u64) -> u64 {
    (not_before + BACKDATE.as_secs()).min(not_after)
}

/// The second at which to renew where nobody says otherwise: at 50–80 % of the lifetime, see [`Span`].
#[must_use]
pub fn renew_at(not_before: u64, not_after: u64, chance: u32) -> u64 {
    Span::of(not_before, not_after, None).pick(chance)
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
    use super::{Span, renew_at, retry_in};
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

    #[test]
    fn the_next_window_is_waited_for_unless_the_certificate_would_end() {
        const HOUR: u64 = 3600;
        // A day from noon on; nights are open from two to four.
        let (before, after) = (36 * HOUR - 60, 60 * HOUR);
        let night = |second: u64| {
            let day = second / (24 * HOUR);
            let (opens, closes) = (day * 24 + 2, day * 24 + 4);
            let next = u64::from(second >= closes * HOUR) * 24;
            Some(((opens + next) * HOUR, (closes + next) * HOUR))
        };
        let usual = Span::of(before, after, None);
        let at = |from: u64, until: u64| Span { from, until };
        assert_eq!(usual, at(48 * HOUR, 48 * HOUR + 25_920));
        let within = |span: Span, now| span.within(before, after, now, night);
        assert_eq!(within(usual, 40 * HOUR), at(50 * HOUR, 52 * HOUR));
        assert_eq!(
            within(usual, 51 * HOUR),
            at(50 * HOUR, 52 * HOUR),
            "open now"
        );
        // The night was missed, and the next one comes when the certificate has ended.
        assert_eq!(within(usual, 53 * HOUR), usual);
        let late = Span::of(before, after, Some(Duration::from_secs(4 * HOUR)));
        assert_eq!(late, at(56 * HOUR, 57 * HOUR));
        assert_eq!(within(late, 40 * HOUR), late, "no night between");
        let never = usual.within(before, after, 40 * HOUR, |_| None);
        assert_eq!(never, usual);
    }
}
