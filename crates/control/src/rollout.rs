//! Rollouts: a change in steps, each behind a gate over what the control plane counts itself, with a way back.
//!
//! What is to change is an object ([`naka_api::own::rollout`]); where it is, is a record of the store, `("rollout",
//! name)`, and each step an event of the log with who caused it. What may be done next is a pure function of that record, of the counts and of the time ([`step`]); [`driver`] counts and
//! does it. Both are written so that a step which was cut off is taken again: nothing is remembered but the record and
//! the authority's own files.
//!
//! Another root: *trust* (the next root is in everybody's bundle and does not sign), *renew* (it
//! signs; every workload is asked for another certificate), *settle* (the root before is out of the bundle). A root is
//! dropped when no certificate below it is left that could be shown. Only where its key is in other hands time goes
//! first: then those who are not there in time are left behind, and named. A PeerAuthentication from PERMISSIVE to
//! STRICT is in `strict`.

pub mod driver;
mod strict;

#[cfg(test)]
mod tests;

use naka_identity::rotate::Stage;
use serde::{Deserialize, Serialize};

/// Record kind of rollouts; the value is a [`Rollout`].
pub const ROLLOUT: &str = "rollout";
/// Names in a sentence; the rest are counted.
const NAMED: usize = 5;

/// A rollout as the store keeps it. Fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Name of the object.
    pub name: String,
    /// Its uid: a later object of the same name is another rollout.
    #[serde(default)]
    pub uid: String,
    /// What changes.
    pub change: Change,
    /// Whether each step waits for somebody to say so, besides its gate.
    #[serde(default)]
    pub manual: bool,
    /// Who started it.
    pub started_by: String,
    /// When, in seconds since 1970.
    pub started_s: u64,
    /// Where it is.
    pub phase: Phase,
    /// Since when, in seconds since 1970.
    pub since_s: u64,
    /// Whether somebody let the present step go on.
    #[serde(default)]
    pub promoted: bool,
    /// Who wants it taken back.
    #[serde(default)]
    pub aborted_by: Option<String>,
    /// Who was not waited for.
    #[serde(default)]
    pub left_behind: Vec<String>,
    /// Why it ended before it began.
    #[serde(default)]
    pub problem: String,
}

/// What a rollout changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// Another root.
    #[serde(rename_all = "camelCase")]
    RootRotation {
        /// Somebody else may have the key of the root before: after so many seconds it is dropped whoever still needs it.
        compromised_within_s: Option<u64>,
        /// SHA-256 of the root before.
        from: String,
        /// SHA-256 of the root that follows.
        to: String,
    },
    /// A PeerAuthentication from PERMISSIVE to STRICT.
    #[serde(rename_all = "camelCase")]
    PeerAuthentication {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Seconds without plain calls, before and afterwards.
        quiet_s: u64,
        /// Workloads that are not waited for although nobody counts theirs.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        without_counts: Vec<String>,
    },
}

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Everybody is told of the next root.
    Trust,
    /// It signs, and certificates are renewed.
    Renew,
    /// Everybody is told that the root before is out.
    Settle,
    /// The root before signs again, and certificates are renewed.
    Revert,
    /// Plain calls are looked for.
    Watch,
    /// It is STRICT, and plain calls that are refused are looked for.
    Enforce,
    /// Done.
    Done,
    /// Taken back.
    Aborted,
}

impl Phase {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Renew => "renew",
            Self::Settle => "settle",
            Self::Revert => "revert",
            Self::Watch => "watch",
            Self::Enforce => "enforce",
            Self::Done => "done",
            Self::Aborted => "aborted",
        }
    }

    /// Whether nothing more happens.
    #[must_use]
    pub fn ended(self) -> bool {
        matches!(self, Self::Done | Self::Aborted)
    }
}

/// What is counted for a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// How far the authority is.
    pub stage: Stage,
    /// Proxies that do not have the trust bundle of this step; `None` before it was sent.
    pub behind: Option<Vec<String>>,
    /// Certificates that are good and lead to another root than the one that signs.
    pub live: Vec<Live>,
    /// Calls without mTLS.
    pub plain: Plain,
}

/// Calls without mTLS at the workloads that a PeerAuthentication holds for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plain {
    /// Seconds since one was taken, or since the looking began.
    pub quiet_s: u64,
    /// Workloads that took some since the looking began, with how many.
    pub taken: Vec<String>,
    /// Workloads that refused some in this step, with how many.
    pub refused: Vec<String>,
    /// Workloads whose proxies do not count them.
    pub uncounted: Vec<String>,
}

/// A certificate that could be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// Whose: `<workload name>.<namespace>`, or identity and workload id when it is not registered.
    pub of: String,
    /// Until when, as RFC 3339.
    pub until: String,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing yet, and why.
    Wait(String),
    /// What is prepared signs from now on; go on to [`Phase::Renew`].
    Switch,
    /// The root before signs again; go on to [`Phase::Revert`].
    SwitchBack,
    /// Forget what was prepared; it is [`Phase::Aborted`].
    Withdraw,
    /// Trust the retired root no more and go on to this phase, without waiting for these.
    Drop(Phase, Vec<String>),
    /// The PeerAuthentication becomes STRICT; go on to [`Phase::Enforce`].
    Strict,
    /// The PeerAuthentication becomes PERMISSIVE again; it is [`Phase::Aborted`], for this reason.
    Permissive(String),
    /// The work of a phase is there already: go on to this one.
    Enter(Phase),
}

/// The next step of a rollout.
#[must_use]
pub fn step(rollout: &Rollout, counts: &Counts, now: u64) -> Action {
    if let Change::PeerAuthentication { .. } = rollout.change {
        return strict::step(rollout, counts, now);
    }
    let abort = rollout.aborted_by.is_some();
    match rollout.phase {
        Phase::Trust if counts.stage.retired.is_some() => Action::Enter(Phase::Renew),
        Phase::Trust if abort => Action::Withdraw,
        Phase::Trust if counts.stage.prepared.is_none() => Action::Withdraw,
        Phase::Renew if counts.stage.retired.is_none() => Action::Enter(Phase::Settle),
        Phase::Renew if abort && signs_next(rollout, counts) => Action::SwitchBack,
        Phase::Renew if abort => Action::Enter(Phase::Revert),
        Phase::Revert if counts.stage.retired.is_none() => Action::Enter(Phase::Aborted),
        Phase::Done | Phase::Aborted => Action::Wait(String::new()),
        phase => match gate(rollout, counts, now) {
            Err(why) => Action::Wait(why),
            Ok(()) if rollout.manual && !rollout.promoted && stops(phase) => Action::Wait(format!(
                "for \"naka rollout promote {}\": {}",
                rollout.name,
                next(phase)
            )),
            Ok(()) => match phase {
                Phase::Trust => Action::Switch,
                Phase::Renew => Action::Drop(Phase::Settle, left(counts)),
                Phase::Revert => Action::Drop(Phase::Aborted, Vec::new()),
                _ => Action::Enter(Phase::Done),
            },
        },
    }
}

/// Whether the present step's condition is met, and if not, why. Nobody can go past it by hand.
///
/// # Errors
/// What is missing.
pub fn gate(rollout: &Rollout, counts: &Counts, now: u64) -> Result<(), String> {
    let within = match &rollout.change {
        Change::RootRotation {
            compromised_within_s,
            ..
        } => compromised_within_s,
        Change::PeerAuthentication { quiet_s, .. } => {
            return strict::gate(rollout, *quiet_s, counts, now);
        }
    };
    let share = match rollout.phase {
        Phase::Trust => 2,
        _ => 1,
    };
    if within.is_some_and(|within| now >= rollout.started_s.saturating_add(within / share)) {
        return Ok(());
    }
    let behind = || match counts.behind.as_deref() {
        None => Err("the trust bundle is on its way".to_owned()),
        Some([]) => Ok(()),
        Some(behind) => Err(format!(
            "{} without the trust bundle of this step: {}",
            several(behind.len(), "proxy", "proxies"),
            listed(behind)
        )),
    };
    match rollout.phase {
        Phase::Trust | Phase::Settle => behind(),
        Phase::Renew | Phase::Revert if counts.live.is_empty() => Ok(()),
        Phase::Renew | Phase::Revert => Err(format!(
            "{} to the root that is to be dropped: {}; it is dropped when they are renewed, have ended or are revoked (naka cert revoke)",
            several(counts.live.len(), "certificate leads", "certificates lead"),
            listed(&left(counts))
        )),
        _ => Ok(()),
    }
}

/// What promoting does in a phase.
fn next(phase: Phase) -> &'static str {
    match phase {
        Phase::Trust => "everybody trusts the next root; then it signs",
        _ => "no certificate needs the root before; then it is dropped",
    }
}

/// Whether a manual rollout stops before it leaves this phase.
fn stops(phase: Phase) -> bool {
    matches!(phase, Phase::Trust | Phase::Renew)
}

fn signs_next(rollout: &Rollout, counts: &Counts) -> bool {
    matches!(&rollout.change, Change::RootRotation { to, .. } if *to == counts.stage.signs)
}

fn left(counts: &Counts) -> Vec<String> {
    let all = counts.live.iter();
    all.map(|live| format!("{} until {}", live.of, live.until))
        .collect()
}

fn several(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

fn listed(names: &[String]) -> String {
    let mut text = names
        .iter()
        .take(NAMED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > NAMED {
        text.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    text
}
