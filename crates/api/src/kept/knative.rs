//! Knative: old spellings of annotations, a Trigger's Broker.

use super::warn;
use crate::codes;
use crate::decode::Report;
use crate::tree::{Node, join};

const OLD: [(&str, &str); 2] = [
    (
        "autoscaling.knative.dev/minScale",
        "autoscaling.knative.dev/min-scale",
    ),
    (
        "autoscaling.knative.dev/maxScale",
        "autoscaling.knative.dev/max-scale",
    ),
];

pub(super) fn service(report: &mut Report, spec: &Node) {
    let at = "spec.template.metadata.annotations";
    let Some(annotations) = spec.at(&["template", "metadata", "annotations"]) else {
        return;
    };
    for (old, new) in OLD {
        let Some(entry) = annotations.entry(old) else {
            continue;
        };
        let field = join(at, old);
        let other = annotations.get(new);
        if other.is_some_and(|other| other.data != entry.value.data) {
            let message = format!("{old} and {new} say different things");
            let fix = format!("keep {new}");
            report.error(codes::E213, &field, entry.place, message, fix);
            continue;
        }
        let message = format!("{old} is the old spelling of {new}");
        let fix = format!("write {new}");
        warn(
            report,
            (codes::W113, codes::E113),
            &field,
            entry.place,
            message,
            fix,
        );
    }
}

pub(super) fn trigger(report: &mut Report, spec: &Node) {
    let Some(broker) = spec.get("broker") else {
        return;
    };
    let message = format!(
        "the Broker {} must be in the Trigger's own namespace; nothing here declares one",
        broker.text().unwrap_or_default()
    );
    let fix = "create the Broker, and write metadata.namespace".to_owned();
    report.error(codes::L360, "spec.broker", broker.place, message, fix);
}
