//! TrustModel: clearance levels, trust zones, and what operations demand of whoever calls them.
//!
//! A caller's clearance and zone come from labels that somebody else granted it; a label that nobody granted is the
//! lowest clearance and no zone. Of several objects that hold for a workload each must let a call pass, as do the
//! AuthorizationPolicies: a TrustModel allows nothing by itself. An operation that cannot be told from another (the
//! path of what is no HTTP) counts as the one that is called.
//!
//! Not here: how it becomes a message (`control`), how a call is judged (`engine`).

use crate::security::authorization_policy::Condition;
use naka_types::cidr::Cidr;
use naka_types::host::Host;
use naka_types::labels::{Labels, selects};
use std::collections::BTreeMap;
use std::time::Duration;

mod build;
pub(crate) mod fields;
mod hours;

pub(crate) use build::build;
pub use hours::{Day, Hours};

/// The sound part of a TrustModel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustModel {
    /// Workloads of the namespace it holds for; `None` = the whole namespace (in the root namespace: the whole mesh).
    pub selector: Option<Labels>,
    /// The label that says a workload's clearance.
    pub clearance_label: String,
    /// The label that says its zone.
    pub zone_label: String,
    /// Levels by name.
    pub levels: BTreeMap<String, u32>,
    /// Zones and what may cross; `None`: zones are not asked.
    pub zones: Option<Zones>,
    /// What is called.
    pub operations: Vec<Operation>,
    /// What is demanded for operations of a clearance and above.
    pub demands: Vec<(u32, Demand)>,
    /// The claim of a token that names who approved.
    pub approval_claim: String,
}

/// Trust zones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Zones {
    /// Their names.
    pub names: Vec<String>,
    /// Who may call into another one.
    pub crossings: Vec<Crossing>,
}

/// A permitted crossing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crossing {
    /// Zone of the caller.
    pub from: String,
    /// Zone of the called.
    pub to: String,
    /// For these operations; empty = all calls.
    pub operations: Vec<String>,
}

/// Something that is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Name.
    pub name: String,
    /// Of these services; empty = all.
    pub hosts: Vec<Host>,
    /// Ports, methods and paths; all must fit.
    pub conditions: Vec<Condition>,
    /// Lowest clearance that may call it.
    pub clearance: u32,
    /// What else is demanded of its callers.
    pub demand: Demand,
}

/// What is demanded besides a clearance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demand {
    /// Each set of windows must be open; one window opens a set.
    pub hours: Vec<Vec<Hours>>,
    /// The caller's address must be in each set of ranges.
    pub networks: Vec<Vec<Cidr>>,
    /// Two others must have approved.
    pub dual: bool,
    /// Longest time since the caller's token was given.
    pub session: Option<Duration>,
    /// Whether each call is told of, those that pass too.
    pub audit: bool,
}

impl Demand {
    fn and(mut self, other: &Self) -> Self {
        self.hours.extend(other.hours.iter().cloned());
        self.networks.extend(other.networks.iter().cloned());
        self.dual |= other.dual;
        self.session = match (self.session, other.session) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.audit |= other.audit;
        self
    }
}

impl TrustModel {
    /// Whether it holds for this workload, given that the namespace fits.
    #[must_use]
    pub fn holds_for(&self, labels: &Labels) -> bool {
        self.selector
            .as_ref()
            .is_none_or(|selector| selects(selector, labels))
    }

    /// All that an operation demands.
    #[must_use]
    pub fn demanded(&self, operation: &Operation) -> Demand {
        let held = self.demands.iter();
        held.filter(|(from, _)| operation.clearance >= *from)
            .fold(operation.demand.clone(), |all, (_, demand)| all.and(demand))
    }

    /// The clearance of whoever has none.
    #[must_use]
    pub fn lowest(&self) -> u32 {
        self.levels.values().copied().min().unwrap_or(0)
    }
}
