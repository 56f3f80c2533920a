//! Whether a trust model lets a call pass: clearance, then zone, then hours, approvals, location and session.
//!
//! A pure function of the model and of what is known of the call. What is not known is never in the caller's favour: a
//! label that nobody granted is the lowest clearance and no zone, an operation that cannot be told from another counts
//! as called, a session without a token is over. Of several operations that fit a call each must be satisfied.

use crate::model::{Hours, Operation, Test, TrustModel, Zones};
use naka_types::reason::Reason;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// Others than the caller who must have approved.
pub const APPROVERS: usize = 2;
/// Stands for a zone that nobody granted.
const NO_ZONE: &str = "none";

/// What is known of a call.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// Clearance label of the caller, as granted.
    pub clearance: Option<&'a str>,
    /// Zone label of the caller, as granted.
    pub zone: Option<&'a str>,
    /// Address of the caller.
    pub address: Option<IpAddr>,
    /// Others than the caller who approved, each counted once.
    pub approvers: usize,
    /// Time since the caller logged in.
    pub session: Option<Duration>,
}

/// What is asked while judging.
pub trait Ask {
    /// Whether a condition on the call holds; `None`: not known.
    fn holds(&self, test: &Test) -> Option<bool>;
    /// Whether one of some windows is open now.
    fn open(&self, hours: &Hours) -> bool;
}

/// What a model says of a call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision<'a> {
    /// The operation that asks for the highest clearance, the first of equals; `None`: the call is of none.
    pub operation: Option<&'a str>,
    /// The caller's clearance.
    pub has: u32,
    /// What the call takes.
    pub needs: u32,
    /// The caller's zone, where zones are asked.
    pub from: Option<&'a str>,
    /// The called workload's zone, where zones are asked.
    pub to: Option<&'a str>,
    /// Windows in which the call may be made; of several sets the first.
    pub hours: Option<&'a str>,
    /// Whether two others must have approved.
    pub dual: bool,
    /// Longest time since the login.
    pub session: Option<Duration>,
    /// Whether the caller's address counts.
    pub location: bool,
    /// Whether it is told of although it passes.
    pub audit: bool,
    /// Why it does not pass.
    pub refused: Option<Refused>,
}

/// Why a call does not pass. The texts of the first two are a contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The caller's clearance is too low.
    Clearance {
        /// What it is.
        has: u32,
        /// What it should be.
        needs: u32,
    },
    /// The caller's zone may not call into this one.
    Zone {
        /// Its zone.
        from: Box<str>,
        /// This one.
        to: Box<str>,
    },
    /// It is not the time.
    Hours(Box<str>),
    /// Too few approved.
    Approval {
        /// How many did.
        has: usize,
    },
    /// The caller is elsewhere.
    Location(Option<IpAddr>),
    /// The login is too long ago, or not known.
    Session {
        /// How long ago.
        age: Option<Duration>,
        /// How long it may be.
        most: Duration,
    },
}

impl Refused {
    /// Its code.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Clearance { .. } => Reason::TrustClearance,
            Self::Zone { .. } => Reason::TrustZone,
            Self::Hours(_) => Reason::TrustHours,
            Self::Approval { .. } => Reason::TrustApproval,
            Self::Location(_) => Reason::TrustLocation,
            Self::Session { .. } => Reason::TrustSession,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clearance { has, needs } => {
                write!(f, "Insufficient clearance: has {has}, needs {needs}")
            }
            Self::Zone { from, to } => {
                write!(f, "Cross-zone access not allowed: {from} -> {to}")
            }
            Self::Hours(shown) => write!(f, "Outside allowed hours: {shown}"),
            Self::Approval { has } => {
                write!(
                    f,
                    "Dual authorization required: has {has}, needs {APPROVERS}"
                )
            }
            Self::Location(Some(address)) => write!(f, "Location not allowed: {address}"),
            Self::Location(None) => f.write_str("Location not allowed: unknown"),
            Self::Session {
                age: Some(age),
                most,
            } => write!(
                f,
                "Session too old: {}s, at most {}s",
                age.as_secs(),
                most.as_secs()
            ),
            Self::Session { age: None, most } => write!(
                f,
                "Session not known, at most {}s are allowed",
                most.as_secs()
            ),
        }
    }
}

/// The clearance that a label stands for.
fn clearance(model: &TrustModel, label: Option<&str>) -> u32 {
    let lowest = || model.levels.values().copied().min().unwrap_or(0);
    label
        .and_then(|label| model.levels.get(label).copied())
        .unwrap_or_else(lowest)
}

/// Judges a call.
#[must_use]
pub fn decide<'a>(model: &'a TrustModel, facts: &Facts<'a>, ask: &dyn Ask) -> Decision<'a> {
    let mut decision = Decision {
        has: clearance(model, facts.clearance),
        ..Decision::default()
    };
    let meant = |operation: &&Operation| ask.holds(&operation.test) != Some(false);
    for operation in model.operations.iter().filter(meant) {
        if decision.operation.is_none() || operation.clearance > decision.needs {
            decision.operation = Some(&operation.name);
        }
        decision.needs = decision.needs.max(operation.clearance);
        let first = operation.hours.first().map(|hours| &*hours.shown);
        decision.hours = decision.hours.or(first);
        decision.dual |= operation.dual;
        decision.session = match (decision.session, operation.session) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        decision.location |= !operation.networks.is_empty();
        decision.audit |= operation.audit;
    }
    if let Some(zones) = &model.zones {
        decision.from = Some(facts.zone.unwrap_or(NO_ZONE));
        decision.to = Some(zones.own.as_deref().unwrap_or(NO_ZONE));
    }
    decision.refused = refused(model, facts, ask, &decision);
    decision
}

/// The first that is in the way, in the order of the page.
fn refused(
    model: &TrustModel,
    facts: &Facts<'_>,
    ask: &dyn Ask,
    decision: &Decision<'_>,
) -> Option<Refused> {
    let (has, needs) = (decision.has, decision.needs);
    if has < needs {
        return Some(Refused::Clearance { has, needs });
    }
    if let (Some(zones), Some(from), Some(to)) = (&model.zones, decision.from, decision.to)
        && !may_cross(model, zones, facts.zone, ask)
    {
        let (from, to) = (from.into(), to.into());
        return Some(Refused::Zone { from, to });
    }
    let meant = |operation: &&Operation| ask.holds(&operation.test) != Some(false);
    let mut sets = model.operations.iter().filter(meant).flat_map(|o| &o.hours);
    if let Some(closed) = sets.find(|hours| !ask.open(hours)) {
        return Some(Refused::Hours(closed.shown.clone()));
    }
    if decision.dual && facts.approvers < APPROVERS {
        return Some(Refused::Approval {
            has: facts.approvers,
        });
    }
    let mut sets = model
        .operations
        .iter()
        .filter(meant)
        .flat_map(|operation| &operation.networks);
    let here = |ranges: &[naka_types::cidr::Cidr]| {
        let address = facts.address;
        address.is_some_and(|address| ranges.iter().any(|range| range.contains(address)))
    };
    if sets.any(|ranges| !here(ranges)) {
        return Some(Refused::Location(facts.address));
    }
    if let Some(most) = decision.session
        && facts.session.is_none_or(|age| age > most)
    {
        let age = facts.session;
        return Some(Refused::Session { age, most });
    }
    None
}

/// Within a zone, or by a crossing for the operation. A crossing for some operations is for calls that surely are of
/// one of them.
fn may_cross(model: &TrustModel, zones: &Zones, from: Option<&str>, ask: &dyn Ask) -> bool {
    let (Some(from), Some(own)) = (from, zones.own.as_deref()) else {
        return false;
    };
    if from == own {
        return true;
    }
    let is_of = |name: &str| {
        let mut all = model.operations.iter();
        all.any(|one| *one.name == *name && ask.holds(&one.test) == Some(true))
    };
    let mut crossings = zones.crossings.iter().filter(|one| *one.from == *from);
    crossings.any(|one| one.operations.is_empty() || one.operations.iter().any(|name| is_of(name)))
}

#[cfg(test)]
mod tests;
