//! The state machine as tables, and what holds for every course of events.

use super::{Breaker, Pass, Rate};
use crate::runtime::{ClusterRuntime, Registry};
use proptest::prelude::{prop, proptest};
use std::sync::Arc;
use std::time::Duration;

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn five() -> Breaker {
    Breaker {
        in_a_row: 5,
        count: None,
        rate: None,
        open_for: at(60_000),
        trials: 1,
        statuses: None,
    }
}

fn circuit() -> Arc<ClusterRuntime> {
    Registry::default().cluster("a")
}

/// A call that ends at once; `None`: refused.
fn call(
    circuit: &Arc<ClusterRuntime>,
    breaker: &Breaker,
    failed: bool,
    now: Duration,
) -> Option<bool> {
    let trial = match circuit.pass(breaker, now)? {
        Pass::Closed => None,
        Pass::Trial(trial) => Some(trial),
    };
    Some(circuit.ended(breaker, trial, failed, now))
}

#[test]
fn five_failures_open_it_for_a_minute_and_one_trial_decides() {
    let (circuit, breaker) = (circuit(), five());
    for n in 1..=4 {
        assert_eq!(call(&circuit, &breaker, true, at(n)), Some(false));
    }
    assert_eq!(call(&circuit, &breaker, false, at(5)), Some(false));
    for n in 6..=9 {
        assert_eq!(call(&circuit, &breaker, true, at(n)), Some(false));
    }
    assert_eq!(
        call(&circuit, &breaker, true, at(10)),
        Some(true),
        "the fifth in a row"
    );
    assert_eq!(call(&circuit, &breaker, false, at(60_009)), None);
    assert!(circuit.is_open(at(60_009)) && !circuit.is_open(at(60_010)));
    // Half open: one at a time.
    let Some(Pass::Trial(trial)) = circuit.pass(&breaker, at(60_010)) else {
        panic!("a trial")
    };
    assert!(circuit.pass(&breaker, at(60_011)).is_none());
    assert!(
        circuit.ended(&breaker, Some(trial), true, at(60_020)),
        "open again"
    );
    assert_eq!(
        call(&circuit, &breaker, false, at(120_019)),
        None,
        "for the whole time"
    );
    assert_eq!(call(&circuit, &breaker, false, at(120_020)), Some(false));
    for n in 1..=4 {
        assert_eq!(
            call(&circuit, &breaker, true, at(120_020 + n)),
            Some(false),
            "closed"
        );
    }
}

#[test]
fn a_trial_without_a_verdict_is_given_back() {
    let breaker = Breaker {
        in_a_row: 1,
        trials: 2,
        ..five()
    };
    let circuit = circuit();
    call(&circuit, &breaker, true, at(1));
    let now = at(60_001);
    let one = circuit.pass(&breaker, now);
    let two = circuit.pass(&breaker, now);
    assert!(one.is_some() && two.is_some() && circuit.pass(&breaker, now).is_none());
    drop(one);
    // Two successes close it, one does not.
    assert_eq!(call(&circuit, &breaker, false, now), Some(false));
    let Some(Pass::Trial(last)) = circuit.pass(&breaker, now) else {
        panic!("still half open")
    };
    assert!(!circuit.ended(&breaker, Some(last), false, now));
    assert!(matches!(circuit.pass(&breaker, now), Some(Pass::Closed)));
    drop(two);
}

#[test]
fn failures_within_a_window() {
    // 5 in 30 s; open 60 s.
    let breaker = Breaker {
        in_a_row: 0,
        count: Some((5, at(30_000))),
        ..five()
    };
    let circuit = circuit();
    for second in [1, 2, 3, 4] {
        call(&circuit, &breaker, true, at(second * 1_000));
        call(&circuit, &breaker, false, at(second * 1_000));
    }
    assert_eq!(
        call(&circuit, &breaker, true, at(90_000)),
        Some(false),
        "they are long past"
    );
    for millis in [90_100, 90_200, 90_300] {
        assert_eq!(call(&circuit, &breaker, true, at(millis)), Some(false));
    }
    assert_eq!(call(&circuit, &breaker, true, at(90_400)), Some(true));
}

#[test]
fn a_share_of_failures() {
    let breaker = Breaker {
        in_a_row: 0,
        rate: Some(Rate {
            share: 1_000,
            least: 10,
            window: at(10_000),
        }),
        open_for: at(5_000),
        ..five()
    };
    let circuit = circuit();
    assert_eq!(
        call(&circuit, &breaker, true, at(1)),
        Some(false),
        "one of one says little"
    );
    for n in 0..9 {
        assert_eq!(call(&circuit, &breaker, false, at(2 + n)), Some(false));
    }
    // The eleventh: 2 of 11 are more than a tenth.
    assert_eq!(call(&circuit, &breaker, true, at(20)), Some(true));
    assert_eq!(call(&circuit, &breaker, true, at(5_019)), None);
}

#[test]
fn less_than_the_share_leaves_it_closed() {
    let breaker = Breaker {
        in_a_row: 0,
        rate: Some(Rate {
            share: 5_000,
            least: 10,
            window: at(10_000),
        }),
        ..five()
    };
    let circuit = circuit();
    for n in 0..9 {
        assert_eq!(call(&circuit, &breaker, n < 3, at(1 + n)), Some(false));
    }
    // 4 of 10, 5 of 11, 6 of 12.
    for opens in [false, false, true] {
        assert_eq!(call(&circuit, &breaker, true, at(20)), Some(opens));
    }
}

#[test]
fn another_breaker_begins_anew_and_the_same_goes_on() {
    let circuit = circuit();
    circuit.breaker_is(Some(&five()));
    for n in 1..=5 {
        call(&circuit, &five(), true, at(n));
    }
    circuit.breaker_is(Some(&five()));
    assert_eq!(
        call(&circuit, &five(), false, at(10)),
        None,
        "a swap changes nothing"
    );
    let other = Breaker {
        open_for: at(1_000),
        ..five()
    };
    circuit.breaker_is(Some(&other));
    assert_eq!(call(&circuit, &other, false, at(11)), Some(false));
}

#[test]
fn statuses_may_be_listed() {
    let listed = Breaker {
        statuses: Some([429].into()),
        ..five()
    };
    assert!(five().is_failure(500) && five().is_failure(599) && !five().is_failure(429));
    assert!(listed.is_failure(429) && !listed.is_failure(500));
}

proptest! {
    #[test]
    fn nobody_passes_an_open_one_and_trials_are_bounded(
        in_a_row in 1u32..4, trials in 1u32..4,
        events in prop::collection::vec((prop::bool::ANY, 0u64..150, 0usize..3), 1..200),
    ) {
        let breaker = Breaker { in_a_row, trials, open_for: at(100), ..five() };
        let circuit = circuit();
        let (mut now, mut held, mut opened) = (1, Vec::new(), None::<u64>);
        for (failed, later, what) in events {
            now += later;
            let open = circuit.is_open(at(now));
            assert_eq!(open, opened.is_some_and(|at| now < at + 100));
            match circuit.pass(&breaker, at(now)) {
                None => assert!(open || held.len() == usize::try_from(trials).unwrap()),
                Some(pass) => {
                    assert!(!open);
                    match (pass, what) {
                        (Pass::Trial(trial), 0) => held.push(trial),
                        (Pass::Trial(trial), 1) => drop(trial),
                        (Pass::Trial(trial), _) => {
                            if circuit.ended(&breaker, Some(trial), failed, at(now)) {
                                opened = Some(now);
                                held.clear();
                            }
                        }
                        (Pass::Closed, _) => {
                            held.clear();
                            if circuit.ended(&breaker, None, failed, at(now)) {
                                opened = Some(now);
                            }
                        }
                    }
                }
            }
            assert!(held.len() <= usize::try_from(trials).unwrap());
        }
    }
}

#[test]
fn what_is_taken_to_be_open_is_open_until_then() {
    let (circuit, breaker) = (circuit(), five());
    circuit.opened(at(100_000));
    assert!(circuit.is_open(at(99_999)) && !circuit.is_open(at(100_000)));
    assert_eq!(
        circuit.stands(&breaker),
        Some((at(40_000), at(100_000))),
        "as if it had just opened"
    );
}
