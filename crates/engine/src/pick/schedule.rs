//! A schedule in which each endpoint appears in proportion to its weight, spread as evenly as possible.
//!
//! Invariant: it holds everyone at least once. Weights finer than one slot in 4096 are rounded up to one slot.

use crate::limits::SCHEDULE_SLOTS;

/// Spreads indices in proportion to their weights (smooth weighted round robin, run once).
pub(super) fn schedule(weights: &[(u32, u32)]) -> Vec<u32> {
    let divisor = weights.iter().fold(0, |d, (_, w)| gcd(d, *w));
    if weights.iter().all(|(_, w)| *w == divisor) {
        return weights.iter().map(|(index, _)| *index).collect();
    }
    let total: u64 = weights.iter().map(|(_, w)| u64::from(w / divisor)).sum();
    let slots = u64::try_from(SCHEDULE_SLOTS.max(weights.len() * 4)).unwrap_or(u64::MAX);
    let share = |weight: u32| -> i64 {
        let weight = u64::from(weight / divisor);
        let scaled = if total <= slots {
            weight
        } else {
            (weight * slots / total).max(1)
        };
        i64::try_from(scaled).unwrap_or(i64::MAX)
    };
    let shares: Vec<i64> = weights.iter().map(|(_, w)| share(*w)).collect();
    let sum: i64 = shares.iter().sum();
    let mut credit = vec![0i64; shares.len()];
    (0..sum)
        .map(|_| {
            for (credit, share) in credit.iter_mut().zip(&shares) {
                *credit += share;
            }
            let best = (0..credit.len())
                .rev()
                .max_by_key(|i| credit[*i])
                .unwrap_or(0);
            credit[best] -= sum;
            weights[best].0
        })
        .collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
