//! What a policy is attached to by `targetRefs` instead of a selector.
//!
//! As in Istio: a reference to a Gateway of the Gateway API means the gateways that carry its name as a label, in the
//! policy's own namespace. References to services and to classes of gateways are for waypoints, which only ambient
//! meshes have: they reach nobody here, and say so (W902). No sidecar is ever meant: one that carries no name of a
//! Gateway is passed by, whatever the references are.

use crate::codes;
use crate::decode::Report;
use crate::tree::{Node, join};
use naka_types::labels::Labels;
use std::collections::BTreeSet;

/// Label of a gateway proxy: the Gateway it is of.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// Gateways of the Gateway API by name, in the policy's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attached(BTreeSet<String>);

impl Attached {
    /// Whether a workload of the policy's namespace is one of them.
    #[must_use]
    pub fn holds_for(&self, labels: &Labels) -> bool {
        let name = labels.get(GATEWAY_NAME);
        name.is_some_and(|name| self.0.contains(name))
    }
}

/// Reads them; `None`: the policy has none, and its selector counts.
pub(crate) fn read(report: &mut Report, spec: &Node) -> Option<Attached> {
    let one = spec
        .get("targetRef")
        .map(|node| ("spec.targetRef".to_owned(), node));
    let all = spec.get("targetRefs").map(Node::items).unwrap_or_default();
    let all = all.iter().enumerate();
    let all = all.map(|(index, node)| (format!("spec.targetRefs[{index}]"), node));
    let refs: Vec<(String, &Node)> = one.into_iter().chain(all).collect();
    if refs.is_empty() {
        return None;
    }
    let gateways = refs
        .iter()
        .filter_map(|(at, node)| gateway(report, at, node));
    Some(Attached(gateways.collect()))
}

/// Name of the gateway that a reference means.
fn gateway(report: &mut Report, at: &str, node: &Node) -> Option<String> {
    let text = |field: &str| node.get(field).and_then(Node::text).unwrap_or_default();
    let (group, kind, name) = (text("group"), text("kind"), text("name"));
    if !text("namespace").is_empty() {
        report.invalid(
            &join(at, "namespace"),
            node,
            "a policy is attached within its own namespace only".to_owned(),
            "remove namespace, and write the policy where the target is".to_owned(),
        );
    }
    match (group, kind) {
        (GATEWAY_API, "Gateway") => return Some(name.to_owned()),
        (GATEWAY_API, "GatewayClass")
        | ("" | "core", "Service")
        | ("networking.istio.io", "ServiceEntry") => {
            let message = format!(
                "a policy that is attached to a {kind} is for waypoints, as in Istio; there are none here, so that this reference reaches nobody"
            );
            let fix = "write a selector with the labels of the workloads".to_owned();
            report.error(codes::W902, at, node.place, message, fix);
        }
        _ => {
            report.invalid(
                &join(at, "kind"),
                node,
                format!("{kind:?} of group {group:?} is nothing that a policy can be attached to"),
                format!("write group: {GATEWAY_API}, kind: Gateway, or a selector"),
            );
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::GATEWAY_NAME;
    use crate::{Mode, Object, decode_yaml};
    use naka_types::labels::Labels;

    fn decode(kind: &str, refs: &str) -> (Option<Object>, Vec<(String, String)>) {
        let (group, more) = match kind {
            "RequestGuard" => ("naka.dev/v1alpha1", "guards: [{name: a, syntax: strict}], "),
            _ => ("security.istio.io/v1", ""),
        };
        let text = format!(
            "apiVersion: {group}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{{more}{refs}}}\n"
        );
        let decoded = decode_yaml("a.yaml", text.as_bytes(), Mode::Compat);
        let found = decoded.findings.into_iter();
        let found = found.map(|f| (f.code.to_string(), f.field)).collect();
        (decoded.objects.into_iter().next(), found)
    }

    fn holds(object: &Object, gateway: &str) -> bool {
        let labels: Labels = [(GATEWAY_NAME.to_owned(), gateway.to_owned())].into();
        let asks = object.authorization_policy();
        let reads = object.request_authentication();
        let guards = object.request_guard();
        asks.is_some_and(|policy| policy.holds_for(&labels))
            || reads.is_some_and(|policy| policy.holds_for(&labels))
            || guards.is_some_and(|guard| guard.holds_for(&labels))
    }

    #[test]
    fn references_are_read_as_istio_reads_them() {
        let api = "group: gateway.networking.k8s.io";
        for kind in [
            "AuthorizationPolicy",
            "RequestAuthentication",
            "RequestGuard",
        ] {
            for refs in [
                format!("targetRefs: [{{{api}, kind: Gateway, name: edge}}]"),
                format!("targetRef: {{{api}, kind: Gateway, name: edge}}"),
                format!(
                    "targetRefs: [{{kind: Service, name: edge}}, {{{api}, kind: Gateway, name: edge}}]"
                ),
            ] {
                let (object, _) = decode(kind, &refs);
                let object = object.expect(&refs);
                assert!(holds(&object, "edge") && !holds(&object, "inner"), "{refs}");
            }
            // Nobody is meant, and that is said.
            for target in [
                "{kind: Service, name: edge}".to_owned(),
                "{group: networking.istio.io, kind: ServiceEntry, name: edge}".to_owned(),
                format!("{{{api}, kind: GatewayClass, name: edge}}"),
            ] {
                let (object, found) = decode(kind, &format!("targetRefs: [{target}]"));
                assert!(!holds(&object.expect(&target), "edge"));
                let said = ("W902".to_owned(), "spec.targetRefs[0]".to_owned());
                assert_eq!(found, [said], "{target}");
            }
            for (target, field) in [
                (
                    "{group: networking.istio.io, kind: Gateway, name: edge}".to_owned(),
                    "kind",
                ),
                ("{kind: Gateway, name: edge}".to_owned(), "kind"),
                (format!("{{{api}, kind: HTTPRoute, name: edge}}"), "kind"),
                (
                    format!("{{{api}, kind: Gateway, name: edge, namespace: b}}"),
                    "namespace",
                ),
            ] {
                for (refs, at) in [
                    (format!("targetRefs: [{target}]"), "spec.targetRefs[0]"),
                    (format!("targetRef: {target}"), "spec.targetRef"),
                ] {
                    let (object, found) = decode(kind, &refs);
                    assert!(object.is_none(), "{refs}");
                    let said = ("E007".to_owned(), format!("{at}.{field}"));
                    assert!(found.contains(&said), "{refs}: {found:?}");
                }
            }
            let both = format!(
                "targetRefs: [{{{api}, kind: Gateway, name: edge}}], selector: {{matchLabels: {{a: b}}}}"
            );
            assert!(decode(kind, &both).0.is_none());
        }
    }
}
