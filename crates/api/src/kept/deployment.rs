//! Deployment: what an API server refuses, and sidecars written by hand.

use super::{items, warn};
use crate::codes;
use crate::decode::Report;
use crate::tree::{Node, join};

pub(super) fn check(report: &mut Report, spec: &Node) {
    let selector = spec.at(&["selector"]);
    let labels = spec.at(&["template", "metadata", "labels"]);
    if selector.is_none() || labels.is_none() {
        let missing = match (selector, labels) {
            (None, None) => "spec.selector and spec.template.metadata.labels are required",
            (None, _) => "spec.selector is required",
            _ => "spec.template.metadata.labels is required",
        };
        report.error(
            codes::E340,
            "spec",
            spec.place,
            missing.to_owned(),
            "add spec.selector.matchLabels and the same labels in spec.template.metadata.labels"
                .to_owned(),
        );
    }
    let Some(pod) = spec.at(&["template", "spec"]) else {
        return;
    };
    for list in ["initContainers", "containers"] {
        for (at, container) in items(pod, "spec.template.spec", list) {
            for (at, variable) in items(container, &at, "env") {
                agent_mode(report, &at, variable);
            }
            sidecar(report, &at, container);
        }
    }
}

fn agent_mode(report: &mut Report, at: &str, variable: &Node) {
    if variable.get("name").and_then(Node::text) == Some("PILOT_AGENT_MODE") {
        warn(
            report,
            (codes::W341, codes::E341),
            &join(at, "name"),
            variable.place,
            "PILOT_AGENT_MODE is no variable that any proxy reads".to_owned(),
            "remove it".to_owned(),
        );
    }
}

fn sidecar(report: &mut Report, at: &str, container: &Node) {
    let Some(image) = container.get("image") else {
        return;
    };
    let is_proxy = image.text().is_some_and(|image| {
        image
            .rsplit('/')
            .next()
            .is_some_and(|name| name.starts_with("proxyv2"))
    });
    if is_proxy {
        let message = format!(
            "a sidecar written by hand ({}): nothing redirects traffic to it, and it ages with the file",
            image.text().unwrap_or_default()
        );
        warn(
            report,
            (codes::W342, codes::E342),
            &join(at, "image"),
            image.place,
            message,
            "remove the container and let the sidecar be injected".to_owned(),
        );
    }
}
