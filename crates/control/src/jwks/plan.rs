//! When which address is asked for keys: pure, the moment and chance are given.
//!
//! Keys that came are asked for again after the refresh time, give or take a tenth, so that many issuers do not come at
//! once; an address that fails after a second, then twice as long each time up to a minute, with the same spread. One
//! that is asked is not asked a second time meanwhile.

use naka_types::jwk::KeyUri;
use std::collections::BTreeMap;
use std::time::Duration;

/// Milliseconds since some start.
pub(super) type Millis = u64;

/// Wait after a first failure, and at most.
const AGAIN: Millis = 1_000;
const AGAIN_AT_MOST: Millis = 60_000;
/// How far waits are spread, as a share of them.
const SPREAD: f64 = 0.1;

/// What objects want of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Wish {
    /// The newest revision of an object that names it.
    pub(super) revision: u64,
    /// The longest time that one of them gives it.
    pub(super) timeout: Duration,
}

/// An address that gives no keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failing {
    /// What happened last.
    pub(super) why: String,
    /// When it began.
    pub(super) since: Millis,
    /// How often in a row.
    pub(super) times: u32,
}

#[derive(Debug)]
struct Slot {
    wish: Wish,
    due: Millis,
    /// Under way, for this revision.
    asked: Option<u64>,
    failing: Option<Failing>,
}

/// All addresses.
#[derive(Debug)]
pub(super) struct Plan {
    slots: BTreeMap<KeyUri, Slot>,
    refresh: Duration,
}

impl Plan {
    pub(super) fn new(refresh: Duration) -> Self {
        Self {
            slots: BTreeMap::new(),
            refresh,
        }
    }

    /// What is wanted from now on. What is new, or named by an object that was written since, is due at once.
    pub(super) fn wanted(&mut self, wishes: BTreeMap<KeyUri, Wish>, now: Millis) {
        self.slots.retain(|uri, _| wishes.contains_key(uri));
        for (uri, wish) in wishes {
            let slot = self.slots.entry(uri).or_insert(Slot {
                wish,
                due: now,
                asked: None,
                failing: None,
            });
            if wish.revision > slot.wish.revision {
                slot.due = now;
            }
            slot.wish = wish;
        }
    }

    /// Takes what is due, as far as there is room, the longest due first.
    pub(super) fn take(&mut self, now: Millis, room: usize) -> Vec<(KeyUri, Duration)> {
        let ready = |slot: &Slot| slot.asked.is_none() && slot.due <= now;
        let mut due: Vec<(&KeyUri, &mut Slot)> = self
            .slots
            .iter_mut()
            .filter(|(_, slot)| ready(slot))
            .collect();
        due.sort_by_key(|(_, slot)| slot.due);
        due.truncate(room);
        due.into_iter()
            .map(|(uri, slot)| {
                slot.asked = Some(slot.wish.revision);
                (uri.clone(), slot.wish.timeout)
            })
            .collect()
    }

    /// How long until something is due; what waits for room only is told of by what ends.
    pub(super) fn next(&self, now: Millis) -> Option<Millis> {
        let resting = self.slots.values().filter(|slot| slot.asked.is_none());
        let later = resting.filter(|slot| slot.due > now);
        later.map(|slot| slot.due - now).min()
    }

    /// One was asked and gave keys, or why not; `chance` is from 0 to 1.
    pub(super) fn ended(
        &mut self,
        uri: &KeyUri,
        result: Result<(), String>,
        now: Millis,
        chance: f64,
    ) {
        // What nobody wants any more is forgotten.
        let Some(slot) = self.slots.get_mut(uri) else {
            return;
        };
        let wait = match result {
            Ok(()) => {
                slot.failing = None;
                Millis::try_from(self.refresh.as_millis()).unwrap_or(Millis::MAX)
            }
            Err(why) => {
                let before = slot.failing.take();
                let since = before.as_ref().map_or(now, |failing| failing.since);
                let times = before.map_or(0, |failing| failing.times).saturating_add(1);
                slot.failing = Some(Failing { why, since, times });
                let doubled = AGAIN.saturating_mul(1 << (times - 1).min(10));
                doubled.min(AGAIN_AT_MOST)
            }
        };
        // An object written while it was asked may mean keys that were not there yet.
        slot.due = match slot.asked.take() {
            Some(revision) if revision < slot.wish.revision => now,
            _ => now.saturating_add(spread(wait, chance)),
        };
    }

    /// Why an address gives no keys, if it does not.
    pub(super) fn failing(&self, uri: &KeyUri) -> Option<&Failing> {
        self.slots.get(uri)?.failing.as_ref()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a wait of minutes, never negative"
)]
fn spread(wait: Millis, chance: f64) -> Millis {
    (wait as f64 * (1.0 + SPREAD * (2.0 * chance - 1.0))) as Millis
}

#[cfg(test)]
mod tests {
    use super::{Millis, Plan, Wish};
    use naka_types::jwk::KeyUri;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn uri(name: &str) -> KeyUri {
        KeyUri::parse(&format!("https://{name}/keys")).unwrap()
    }

    fn wishes(all: &[(&str, u64)]) -> BTreeMap<KeyUri, Wish> {
        let timeout = Duration::from_secs(5);
        let wish = |(name, revision): &(&str, u64)| {
            let revision = *revision;
            (uri(name), Wish { revision, timeout })
        };
        all.iter().map(wish).collect()
    }

    fn plan(all: &[(&str, u64)]) -> Plan {
        let mut plan = Plan::new(Duration::from_mins(20));
        plan.wanted(wishes(all), 0);
        plan
    }

    fn due(plan: &mut Plan, now: Millis) -> Vec<String> {
        let taken = plan.take(now, 8).into_iter();
        taken.map(|(uri, _)| uri.host().to_owned()).collect()
    }

    #[test]
    fn what_came_is_asked_for_again_after_the_refresh_time_and_a_spread() {
        for (chance, at) in [(0.0, 1_080_000), (0.5, 1_200_000), (1.0, 1_320_000)] {
            let mut plan = plan(&[("a", 1)]);
            assert_eq!(due(&mut plan, 0), ["a"]);
            assert_eq!(due(&mut plan, 5), [""; 0], "it is under way");
            plan.ended(&uri("a"), Ok(()), 0, chance);
            assert_eq!(plan.next(0), Some(at), "{chance}");
            assert_eq!(due(&mut plan, at - 1), [""; 0]);
            assert_eq!(due(&mut plan, at), ["a"]);
        }
    }

    #[test]
    fn failures_are_repeated_less_and_less_often_and_counted() {
        let mut plan = plan(&[("a", 1)]);
        let mut now = 0;
        for wait in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            assert_eq!(due(&mut plan, now), ["a"]);
            plan.ended(&uri("a"), Err(format!("at {now}")), now, 0.5);
            assert_eq!(plan.next(now), Some(wait));
            now += wait;
        }
        let failing = plan.failing(&uri("a")).unwrap();
        assert_eq!((failing.since, failing.times), (0, 8));
        assert!(failing.why.starts_with("at 123000"), "{}", failing.why);
        assert_eq!(due(&mut plan, now), ["a"]);
        plan.ended(&uri("a"), Ok(()), now, 0.5);
        assert!(plan.failing(&uri("a")).is_none());
        for times in 0..70 {
            plan.ended(&uri("a"), Err(String::new()), times, 1.0);
        }
        assert!(plan.next(70).unwrap() <= 66_000);
    }

    #[test]
    fn an_object_written_again_asks_at_once_also_while_it_is_asked() {
        let mut plan = plan(&[("a", 1), ("b", 1)]);
        assert_eq!(due(&mut plan, 0), ["a", "b"]);
        plan.ended(&uri("a"), Ok(()), 10, 0.5);
        plan.wanted(wishes(&[("a", 2), ("b", 2)]), 20);
        assert_eq!(due(&mut plan, 20), ["a"], "b is under way");
        plan.ended(&uri("b"), Ok(()), 30, 0.5);
        assert_eq!(due(&mut plan, 30), ["b"]);
        plan.wanted(wishes(&[("a", 2), ("b", 2)]), 40);
        plan.ended(&uri("b"), Ok(()), 50, 0.5);
        assert_eq!(due(&mut plan, 50), [""; 0], "nothing was written since");
    }

    #[test]
    fn what_nobody_names_is_forgotten_and_room_is_kept() {
        let mut plan = plan(&[("a", 1), ("b", 1), ("c", 1)]);
        assert_eq!(plan.take(0, 2).len(), 2);
        assert_eq!(plan.take(0, 0).len(), 0);
        plan.wanted(wishes(&[("c", 1)]), 5);
        plan.ended(&uri("a"), Err("late".to_owned()), 6, 0.5);
        assert!(plan.failing(&uri("a")).is_none());
        assert_eq!(due(&mut plan, 6), ["c"]);
        assert_eq!(plan.next(6), None);
    }
}
