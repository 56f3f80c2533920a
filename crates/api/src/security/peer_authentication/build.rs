//! The typed PeerAuthentication from a checked tree.

use super::{MtlsMode, PeerAuthentication};
use crate::codes;
use crate::decode::Report;
use crate::decode::meta::labels;
use crate::tree::{Node, join};

/// Builds.
/// Whether calls under way end when they would not be let in any more.
const CLOSES: &str = "naka.dev/close-denied";

/// Builds.
pub(crate) fn build(
    report: &mut Report,
    spec: &Node,
    annotations: Option<&Node>,
) -> PeerAuthentication {
    let selector = spec
        .at(&["selector", "matchLabels"])
        .map(|node| labels(Some(node)))
        .filter(|labels| !labels.is_empty());
    let mut ports = std::collections::BTreeMap::new();
    if let Some(node) = spec.get("portLevelMtls") {
        for entry in node.entries() {
            match entry.key.parse::<u16>() {
                Ok(port) if port > 0 => {
                    ports.insert(port, mode(&entry.value));
                }
                _ => report.error(
                    codes::E007,
                    &join("spec.portLevelMtls", &entry.key),
                    entry.place,
                    format!("{:?} is no port", entry.key),
                    "write a number from 1 to 65535".to_owned(),
                ),
            }
        }
        if selector.is_none() && !node.entries().is_empty() {
            report.invalid(
                "spec.portLevelMtls",
                node,
                "port level modes need a selector: a port means nothing for all workloads"
                    .to_owned(),
                "add selector.matchLabels".to_owned(),
            );
        }
    }
    PeerAuthentication {
        selector,
        mode: spec.get("mtls").and_then(mode),
        ports,
        closes: annotations.and_then(|all| closes(report, all.get(CLOSES)?)),
    }
}

fn closes(report: &mut Report, node: &Node) -> Option<bool> {
    match node.text() {
        Some("true") => Some(true),
        Some("false") => Some(false),
        _ => {
            let at = format!("metadata.annotations[{CLOSES}]");
            let what = format!("{:?} is neither", node.text().unwrap_or_default());
            report.invalid(&at, node, what, "write \"true\" or \"false\"".to_owned());
            None
        }
    }
}

fn mode(node: &Node) -> Option<MtlsMode> {
    match node.get("mode").and_then(Node::text) {
        Some("DISABLE") => Some(MtlsMode::Disable),
        Some("PERMISSIVE") => Some(MtlsMode::Permissive),
        Some("STRICT") => Some(MtlsMode::Strict),
        _ => None,
    }
}
