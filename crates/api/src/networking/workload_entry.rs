//! WorkloadEntry: an endpoint that no Naka proxy registered, for example a database on another machine.

use naka_types::labels::Labels;
use std::collections::BTreeMap;

mod build;
pub(crate) mod fields;

pub(crate) use build::build;

/// The sound part of a WorkloadEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// IP address or DNS name without port.
    pub address: String,
    /// Port by port name of the service; a missing name means the service's target port.
    pub ports: BTreeMap<String, u16>,
    /// Labels that services select by.
    pub labels: Labels,
    /// Share among the endpoints; default 1.
    pub weight: Option<u32>,
    /// Service account of the identity expected there; `None` = not a mesh workload.
    pub service_account: Option<String>,
}
