//! Turns: each as often as its weight says, as evenly as can be, and everybody at least once.

use crate::limits::SCHEDULE_SLOTS;
use crate::pick::schedule::schedule;

#[test]
fn turns_are_in_proportion_and_smooth() {
    for (weights, want) in [
        (&[][..], &[][..]),
        (&[7], &[0]),
        (&[4, 4, 4], &[0, 1, 2]),
        (&[1, 2], &[1, 0, 1]),
        // What they have in common makes no more turns.
        (&[10, 20], &[1, 0, 1]),
        (&[6, 4], &[0, 1, 0, 1, 0]),
        (&[5, 1, 1], &[0, 0, 1, 0, 2, 0, 0]),
        (&[3, 0], &[0]),
    ] {
        let weights: Vec<(u32, u32)> = (0..).zip(weights.iter().copied()).collect();
        let turns = schedule(&weights);
        assert_eq!(turns, want, "{weights:?}");
    }
}

fn counts(weights: &[(u32, u32)]) -> Vec<usize> {
    let turns = schedule(weights);
    let of = |index: u32| turns.iter().filter(|turn| **turn == index).count();
    weights.iter().map(|(index, _)| of(*index)).collect()
}

#[test]
fn weights_too_fine_are_rounded_but_nobody_is_left_out() {
    let slots = SCHEDULE_SLOTS;
    // As fine as the slots: exact. Finer: as many as there are slots, and one for the lightest.
    assert_eq!(counts(&[(0, 4095), (1, 1)]), [4095, 1]);
    assert_eq!(counts(&[(0, 30_000), (1, 10_001)]), [3071, 1024]);
    assert_eq!(
        counts(&[(0, u32::MAX), (1, 1), (2, u32::MAX - 1)]),
        [2048, 1, 2047]
    );
    assert_eq!(counts(&[(0, 8190), (1, 1)]), [slots - 1, 1]);
    // Many endpoints have four slots each.
    let many: Vec<(u32, u32)> = (0..1100)
        .map(|n| (n, if n < 550 { 7 } else { 1 }))
        .collect();
    assert_eq!(schedule(&many).len(), 550 * 8);
}
