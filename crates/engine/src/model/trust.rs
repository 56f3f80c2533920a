//! What trust models ask of the callers of a port. [`crate::trust`] judges by it.

use super::{ClaimPath, Test};
use naka_expr::Expression;
use naka_types::cidr::Cidr;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One model.
#[derive(Debug, Clone, PartialEq)]
pub struct TrustModel {
    /// Namespace and name of the object.
    pub name: Arc<str>,
    /// Label that says a caller's clearance.
    pub clearance_label: Box<str>,
    /// Label that says a caller's zone.
    pub zone_label: Box<str>,
    /// Levels by name.
    pub levels: BTreeMap<Box<str>, u32>,
    /// Zones, where they are asked.
    pub zones: Option<Zones>,
    /// What may be called.
    pub operations: Box<[Operation]>,
    /// Claim that lists who approved.
    pub approval_claim: ClaimPath,
}

/// The called workload's side of the zones.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Zones {
    /// Its zone; `None`: it has none, and nobody may cross.
    pub own: Option<Box<str>>,
    /// Who may cross into it.
    pub crossings: Box<[Crossing]>,
}

/// Callers who may cross.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Crossing {
    /// Their zone.
    pub from: Box<str>,
    /// For operations of these names only; empty: for every call.
    pub operations: Box<[Box<str>]>,
}

/// One operation and what it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// Name.
    pub name: Arc<str>,
    /// Which calls are of it.
    pub test: Test,
    /// Lowest clearance.
    pub clearance: u32,
    /// Each must be open.
    pub hours: Box<[Hours]>,
    /// The caller's address must be in one range of each.
    pub networks: Box<[Box<[Cidr]>]>,
    /// Whether two others must have approved.
    pub dual: bool,
    /// Longest time since the login.
    pub session: Option<Duration>,
    /// Whether calls that pass are told of.
    pub audit: bool,
}

/// Windows of time, of which one must be open.
#[derive(Debug, Clone, PartialEq)]
pub struct Hours {
    /// The windows.
    pub windows: Box<[Expression]>,
    /// As a person reads them.
    pub shown: Box<str>,
}
