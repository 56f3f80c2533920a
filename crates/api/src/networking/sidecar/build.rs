//! The typed Sidecar from a checked tree.

use super::{EgressHost, EgressProxy, Outside, Sidecar, Within};
use crate::codes;
use crate::decode::Report;
use crate::decode::meta::labels;
use crate::networking::read;
use crate::tree::Node;
use naka_types::host::{Host, check_label};

/// Builds. A pattern that cannot be read is left out, so that less may be called, not more.
pub(crate) fn build(report: &mut Report, spec: &Node, namespace: &str) -> Sidecar {
    let listeners = spec.get("egress").map(Node::items);
    let egress = listeners.filter(|all| !all.is_empty()).map(|listeners| {
        let mut hosts = Vec::new();
        for (index, listener) in listeners.iter().enumerate() {
            let all = listener.get("hosts").map(Node::items).unwrap_or_default();
            for (place, node) in all.iter().enumerate() {
                let at = format!("spec.egress[{index}].hosts[{place}]");
                hosts.extend(pattern(report, node, &at, namespace));
            }
        }
        hosts
    });
    Sidecar {
        selector: spec
            .get("workloadSelector")
            .map(|selector| labels(selector.get("labels"))),
        egress,
        outside: spec
            .get("outboundTrafficPolicy")
            .map(|node| outside(report, node, namespace)),
    }
}

fn pattern(report: &mut Report, node: &Node, at: &str, own: &str) -> Option<EgressHost> {
    let text = node.text()?;
    let wrong = |report: &mut Report, why: String| {
        report.error(
            codes::L347,
            at,
            node.place,
            format!("{text:?} {why}: nothing is meant by it"),
            "write namespace/host, for example ./* or prod/*.example.com".to_owned(),
        );
        None
    };
    let Some((namespace, host)) = text.split_once('/') else {
        return wrong(report, "names no namespace".to_owned());
    };
    let within = match namespace {
        "*" => Within::Any,
        "~" => Within::Nowhere,
        "." => Within::Namespace(own.to_owned()),
        name if check_label(name).is_ok() => Within::Namespace(name.to_owned()),
        other => return wrong(report, format!("has {other:?} for a namespace")),
    };
    // Short names are of the namespace that is named.
    let of = match &within {
        Within::Namespace(name) => name.as_str(),
        Within::Any | Within::Nowhere => own,
    };
    match Host::resolve(host, of) {
        Ok(host) => Some(EgressHost {
            namespace: within,
            host,
        }),
        Err(error) => wrong(report, format!("has no host ({error})")),
    }
}

fn outside(report: &mut Report, node: &Node, namespace: &str) -> Outside {
    let at = "spec.outboundTrafficPolicy.egressProxy";
    let proxy = node.get("egressProxy").and_then(|proxy| {
        let host = read::host(
            report,
            proxy.get("host"),
            &format!("{at}.host"),
            namespace,
            false,
        )?;
        Some(EgressProxy {
            host,
            subset: read::text(proxy.get("subset")),
            port: read::port(proxy.at(&["port", "number"])),
        })
    });
    Outside {
        // The block without a mode means ALLOW_ANY only when it says so: Istio's enum begins with REGISTRY_ONLY.
        registry_only: node.get("mode").and_then(Node::text) != Some("ALLOW_ANY"),
        proxy,
    }
}
