//! Labels and selectors, as in Kubernetes.

use std::collections::BTreeMap;

/// Labels of a workload or object, sorted by key.
pub type Labels = BTreeMap<String, String>;

/// Whether every pair of `selector` stands in `labels`. An empty selector matches everything.
#[must_use]
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
