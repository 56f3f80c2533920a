//! The typed Mode from a checked tree; one bad patch takes the whole out of force.

use super::{Mode, Patch, Pattern};
use crate::decode::Report;
use crate::kind::Kind;
use crate::networking::read;
use crate::tree::Node;
use naka_types::host::ROOT_NAMESPACE;
use naka_types::name::ObjectRef;
use std::time::Duration;

/// What says which object it is, or is not written by people.
const NOT_PATCHED: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];

/// Builds.
pub(crate) fn build(report: &mut Report, spec: &Node, namespace: &str) -> Mode {
    let text = |field: &str| read::text(spec.get(field)).unwrap_or_default();
    let max_time = read::duration(spec.get("maxTime")).unwrap_or_default();
    if let (Some(written), true) = (spec.get("maxTime"), max_time < Duration::from_secs(1)) {
        let message = "a mode that is on for less than a second does nothing".to_owned();
        report.invalid(
            "spec.maxTime",
            written,
            message,
            "write for example 1h".to_owned(),
        );
    }
    let mut patches = Vec::new();
    let items = spec.get("patches").map(Node::items).unwrap_or_default();
    for (index, node) in items.iter().enumerate() {
        let at = format!("spec.patches[{index}]");
        patches.extend(patch(report, &at, node, namespace));
    }
    if let (Some(written), true) = (spec.get("patches"), items.is_empty()) {
        let message = "it changes nothing".to_owned();
        let fix = "write which object it patches, and how".to_owned();
        report.invalid("spec.patches", written, message, fix);
    }
    Mode {
        owner: text("owner"),
        description: text("description"),
        max_time,
        incident: read::text(spec.get("incident")).map(Pattern),
        approvals: read::count(spec.get("approvals")).unwrap_or(1),
        role: read::text(spec.get("role")).unwrap_or_else(|| "operator".to_owned()),
        patches,
    }
}

fn patch(report: &mut Report, at: &str, node: &Node, own: &str) -> Option<Patch> {
    let target = node.get("target")?;
    let word = target.get("kind")?;
    let name = read::text(target.get("name"))?;
    let kind = word.text().and_then(Kind::parse);
    let patched = |kind: &Kind| {
        kind.in_force()
            && !matches!(
                kind,
                Kind::Secret | Kind::Namespace | Kind::Mode | Kind::Rollout
            )
    };
    let Some(kind) = kind.filter(patched) else {
        report.invalid(
            &format!("{at}.target.kind"),
            word,
            "a mode does not patch such objects".to_owned(),
            "write a kind that is in force, for example AuthorizationPolicy".to_owned(),
        );
        return None;
    };
    let namespace = read::text(target.get("namespace")).unwrap_or_else(|| own.to_owned());
    if let (Some(written), true) = (
        target.get("namespace"),
        namespace != own && own != ROOT_NAMESPACE,
    ) {
        report.invalid(
            &format!("{at}.target.namespace"),
            written,
            format!("a mode of {own} patches objects of {own}"),
            format!("leave namespace out, or put the mode into {ROOT_NAMESPACE}"),
        );
    }
    let merge = node.get("merge")?;
    let fields: Vec<&str> = merge.entries().iter().map(|e| e.key.as_str()).collect();
    if fields.is_empty() || fields.iter().any(|field| NOT_PATCHED.contains(field)) {
        report.invalid(
            &format!("{at}.merge"),
            merge,
            "a patch is of what an object says, not of which one it is".to_owned(),
            "write for example merge: {spec: {rules: [{}]}}".to_owned(),
        );
    }
    Some(Patch {
        target: ObjectRef {
            kind: kind.as_str().to_owned(),
            namespace,
            name,
        },
        merge: merge.to_json(),
    })
}
