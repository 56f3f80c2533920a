//! The typed DestinationRule from a checked tree.

use super::{DestinationRule, ProxyHeader, Subset, TrafficPolicy, balancer, tls, tunnel};
use crate::codes;
use crate::decode::Report;
use crate::decode::meta::labels;
use crate::networking::{export, read};
use crate::tree::Node;
use std::collections::BTreeSet;

mod outlier;
pub(crate) mod pool;

/// Builds; `None` without a host.
pub(crate) fn build(report: &mut Report, spec: &Node, namespace: &str) -> Option<DestinationRule> {
    let host = read::host(report, spec.get("host"), "spec.host", namespace, true);
    let policy = policy(report, spec.get("trafficPolicy"), "spec.trafficPolicy");
    let mut subsets = Vec::new();
    let mut names = BTreeSet::new();
    for (index, node) in spec
        .get("subsets")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let at = format!("spec.subsets[{index}]");
        let policy = self::policy(
            report,
            node.get("trafficPolicy"),
            &format!("{at}.trafficPolicy"),
        );
        let Some(name) = read::text(node.get("name")) else {
            continue;
        };
        // The name is a part of cluster names and of the server name in TLS.
        if name.len() > 63
            || !name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        {
            report.invalid(
                &format!("{at}.name"),
                node,
                format!("{name:?} is not a subset name"),
                "use letters, digits, '-', '_' and '.', at most 63 characters".to_owned(),
            );
        }
        if !names.insert(name.clone()) {
            report.invalid(
                &format!("{at}.name"),
                node,
                format!("subset {name} is defined twice"),
                "give each subset a name of its own".to_owned(),
            );
        }
        if report.sound(&at) {
            subsets.push(Subset {
                index,
                name,
                labels: labels(node.get("labels")),
                policy,
            });
        }
    }
    let rule = DestinationRule {
        host: host?,
        policy,
        subsets,
        export: export::read(report, spec, namespace),
        selector: spec
            .get("workloadSelector")
            .map(|selector| labels(selector.get("matchLabels"))),
    };
    gateways_only(report, spec, &rule);
    Some(rule)
}

/// As in Istio, Secrets of a rule are for gateways, unless the rule selects workloads.
fn gateways_only(report: &mut Report, spec: &Node, rule: &DestinationRule) {
    let mut names = rule.all_tls().flat_map(tls::ClientTls::secrets);
    if rule.selector.is_none()
        && let Some(name) = names.next()
    {
        report.error(
            codes::W133,
            "spec.workloadSelector",
            spec.place,
            format!(
                "Secret {name} is for gateways: without workloadSelector calls by sidecars fail (503 tls-failed)"
            ),
            "add workloadSelector, or name files, if workloads are to call".to_owned(),
        );
    }
}

fn policy(report: &mut Report, node: Option<&Node>, at: &str) -> TrafficPolicy {
    let Some(node) = node else {
        return TrafficPolicy::default();
    };
    let mut policy = blocks(report, node, at);
    for (index, port) in node
        .get("portLevelSettings")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let at = format!("{at}.portLevelSettings[{index}]");
        let settings = blocks(report, port, &at);
        if let Some(number) = read::port(port.at(&["port", "number"])) {
            if policy.port(number).is_some() {
                report.invalid(
                    &format!("{at}.port.number"),
                    port,
                    format!("port {number} is set twice"),
                    "merge the two".to_owned(),
                );
            }
            policy.ports.push((number, settings));
        }
    }
    policy
}

/// As in Istio a block without a version means the first one.
fn proxy_header(node: &Node) -> ProxyHeader {
    match read::text(node.get("version")).as_deref() {
        Some("V2") => ProxyHeader::V2,
        _ => ProxyHeader::V1,
    }
}

fn blocks(report: &mut Report, node: &Node, at: &str) -> TrafficPolicy {
    TrafficPolicy {
        load_balancer: node
            .get("loadBalancer")
            .and_then(|block| balancer::build(report, block, &format!("{at}.loadBalancer"))),
        connection_pool: node
            .get("connectionPool")
            .map(|block| pool::build(report, block, &format!("{at}.connectionPool"))),
        outlier_detection: node
            .get("outlierDetection")
            .map(|block| outlier::build(report, block, &format!("{at}.outlierDetection"))),
        tls: node
            .get("tls")
            .and_then(|block| tls::build(report, block, &format!("{at}.tls")))
            .map(Box::new),
        tunnel: node
            .get("tunnel")
            .and_then(|block| tunnel::build(report, block, &format!("{at}.tunnel"))),
        retry_budget: node.get("retryBudget").map(pool::retry_budget),
        proxy_protocol: node.get("proxyProtocol").map(proxy_header),
        ports: Vec::new(),
    }
}
