//! What is known of a workload, for peers that hold its certificate.

use super::{Built, View};
use crate::world::Read;
use naka_wire::v1::WorkloadRecord;

/// The record of a workload; it outlives the workload's readiness, not its registration.
pub(crate) fn record(view: &View<'_>, id: &str) -> Option<Built> {
    let world = view.read(Read::Workload(id.to_owned()));
    let registration = &world.workload(id)?.registration;
    let record = WorkloadRecord {
        workload_id: id.to_owned(),
        namespace: registration.namespace.clone(),
        workload_name: registration.workload_name.clone(),
        service: registration.service.clone(),
        service_account: registration.service_account.clone(),
        labels: registration.labels.clone(),
        granted: world.granted.get(id).cloned().unwrap_or_default(),
    };
    // All fields are plain or sorted, so the message is its own model.
    Some(Built::new(&record, naka_wire::pack(&record)))
}
