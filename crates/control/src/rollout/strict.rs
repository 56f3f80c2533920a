//! A PeerAuthentication from PERMISSIVE to STRICT: *watch* until no plain call has come for a while, then *enforce*, and
//! take it back by itself when one is refused within the same time.

use super::{Action, Counts, Phase, Plain, Rollout, listed};
use std::collections::BTreeMap;
use std::time::Instant;

/// The next step.
pub(super) fn step(rollout: &Rollout, counts: &Counts, now: u64) -> Action {
    let abort = rollout.aborted_by.as_deref();
    match (rollout.phase, abort) {
        (Phase::Watch, Some(_)) => Action::Enter(Phase::Aborted),
        (Phase::Enforce, Some(who)) => Action::Permissive(format!("taken back by {who}")),
        (Phase::Enforce, None) if !counts.plain.refused.is_empty() => Action::Permissive(format!(
            "taken back, because plain calls came: {}",
            listed(&counts.plain.refused)
        )),
        (Phase::Watch | Phase::Enforce, None) => match super::gate(rollout, counts, now) {
            Err(why) => Action::Wait(why),
            Ok(()) if rollout.phase == Phase::Enforce => Action::Enter(Phase::Done),
            Ok(()) if rollout.manual && !rollout.promoted => Action::Wait(format!(
                "for \"naka rollout promote {}\": no plain call comes; then it is STRICT",
                rollout.name
            )),
            Ok(()) => Action::Strict,
        },
        _ => Action::Wait(String::new()),
    }
}

/// The condition of a step.
pub(super) fn gate(
    rollout: &Rollout,
    quiet_s: u64,
    counts: &Counts,
    now: u64,
) -> Result<(), String> {
    let plain = &counts.plain;
    match rollout.phase {
        Phase::Watch if !plain.uncounted.is_empty() => Err(format!(
            "these proxies do not count plain calls, so nobody knows whether some come: {}; where you know that none do, name them in spec.peerAuthentication.withoutCounts of another Rollout",
            listed(&plain.uncounted)
        )),
        Phase::Watch if plain.quiet_s < quiet_s => Err(match plain.taken.as_slice() {
            [] => format!("no plain call for {} of {quiet_s} seconds", plain.quiet_s),
            taken => format!(
                "the last plain call was {} seconds ago, {quiet_s} are wanted; they came to {}",
                plain.quiet_s,
                listed(taken)
            ),
        }),
        Phase::Enforce => match counts.behind.as_deref() {
            None => Err("it is on its way".to_owned()),
            Some([]) if now < rollout.since_s.saturating_add(quiet_s) => Err(format!(
                "it is STRICT; if a plain call comes within {quiet_s} seconds it is taken back"
            )),
            Some([]) => Ok(()),
            Some(behind) => Err(format!("not yet at {}", listed(behind))),
        },
        _ => Ok(()),
    }
}

/// What was counted since a step began. Proxies tell totals since their start; what they had before the looking began
/// does not count.
#[derive(Debug, Default)]
pub(super) struct Watched {
    of: Option<(String, Phase)>,
    /// Set once everybody who was there at the beginning is known.
    begun: bool,
    /// Totals by workload id: taken, refused.
    totals: BTreeMap<String, [u64; 2]>,
    /// By workload name: taken, refused.
    grown: BTreeMap<String, [u64; 2]>,
    last: Option<Instant>,
}

impl Watched {
    /// Begins anew for another rollout or step.
    pub(super) fn begin(&mut self, uid: &str, phase: Phase) {
        let of = Some((uid.to_owned(), phase));
        if self.of != of {
            *self = Self {
                of,
                last: Some(Instant::now()),
                ..Self::default()
            };
        }
    }

    /// Who comes from now on began when it came.
    pub(super) fn begun(&mut self) {
        self.begun = true;
    }

    /// The totals of a workload.
    pub(super) fn saw(&mut self, id: &str, name: &str, now: [u64; 2]) {
        let new = if self.begun { [0, 0] } else { now };
        let held = self.totals.entry(id.to_owned()).or_insert(new);
        for (index, (held, now)) in held.iter_mut().zip(now).enumerate() {
            // Less than before: its proxy was started again.
            let more = if now < *held { now } else { now - *held };
            *held = now;
            if more > 0 {
                self.grown.entry(name.to_owned()).or_default()[index] += more;
                if index == 0 {
                    self.last = Some(Instant::now());
                }
            }
        }
    }

    /// What was counted.
    pub(super) fn told(&self, uncounted: Vec<String>) -> Plain {
        let names = |index: usize| {
            let grown = self.grown.iter().filter(move |(_, all)| all[index] > 0);
            grown
                .map(move |(name, all)| format!("{name} ({})", all[index]))
                .collect()
        };
        Plain {
            quiet_s: self.last.map_or(0, |last| last.elapsed().as_secs()),
            taken: names(0),
            refused: names(1),
            uncounted,
        }
    }
}
