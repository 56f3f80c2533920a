//! The typed Rollout from a checked tree.

use super::{Change, Rollout};
use crate::decode::Report;
use crate::networking::read;
use crate::tree::Node;
use naka_types::host::ROOT_NAMESPACE;
use std::time::Duration;

/// In less a call could have come that nobody has told yet.
const LEAST_QUIET: Duration = Duration::from_secs(3);
const HOUR: Duration = Duration::from_hours(1);

/// Builds; `None` when there is nothing to change.
pub(crate) fn build(report: &mut Report, spec: &Node, namespace: &str) -> Option<Rollout> {
    if namespace != ROOT_NAMESPACE {
        let message = format!("a change of the mesh does not belong to the namespace {namespace}");
        let fix = format!("write namespace: {ROOT_NAMESPACE}");
        report.invalid("metadata.namespace", spec, message, fix);
    }
    let flag = |key: &str| spec.get(key).and_then(Node::truth).unwrap_or(false);
    let manual = flag("manual");
    let (rotation, strict) = (spec.get("rootRotation"), spec.get("peerAuthentication"));
    if rotation.is_some() == strict.is_some() {
        let message = "a Rollout changes one thing".to_owned();
        let fix = "write either rootRotation or peerAuthentication".to_owned();
        report.invalid("spec", spec, message, fix);
    }
    if let Some(strict) = strict {
        let written = strict.get("quietFor");
        let quiet = read::duration(written).unwrap_or(HOUR);
        if let Some(node) = written.filter(|_| quiet < LEAST_QUIET) {
            let message = "proxies tell of plain calls once a second".to_owned();
            let fix = "write 3s or more; hours, where callers come now and then".to_owned();
            report.invalid("spec.peerAuthentication.quietFor", node, message, fix);
        }
        let namespace = read::text(strict.get("namespace"));
        return Some(Rollout {
            change: Change::Strict {
                namespace: namespace.unwrap_or_else(|| ROOT_NAMESPACE.to_owned()),
                name: read::text(strict.get("name"))?,
                quiet_for: quiet,
                without_counts: strict
                    .get("withoutCounts")
                    .map(Node::items)
                    .unwrap_or_default()
                    .iter()
                    .filter_map(|node| node.text().map(str::to_owned))
                    .collect(),
            },
            manual,
        });
    }
    let rotation = rotation?;
    let written = rotation.get("compromisedWithin");
    let within = read::duration(written);
    if let Some(node) = written.filter(|_| within.is_some_and(|w| w < Duration::from_secs(1))) {
        let message = "in so short a time nobody learns of the next root".to_owned();
        let fix = "write 1s or more, for example 30s".to_owned();
        report.invalid("spec.rootRotation.compromisedWithin", node, message, fix);
    }
    if let Some(node) = spec.get("manual").filter(|_| manual && within.is_some()) {
        let message = "a root whose key others have is not kept until somebody speaks".to_owned();
        let fix = "leave manual or compromisedWithin out".to_owned();
        report.invalid("spec.manual", node, message, fix);
    }
    Some(Rollout {
        change: Change::RootRotation {
            compromised_within: within,
        },
        manual,
    })
}
