//! Traffic policies that do something else than they seem to.

use super::say;
use crate::codes;
use crate::decode::{Mode, Report};
use crate::networking::destination_rule::{DestinationRule, TrafficPolicy, aliases};
use crate::object::Object;
use crate::tree::{Data, Node};
use naka_types::finding::Finding;

/// Blocks whose fields are independent of each other; fields of `loadBalancer` are alternatives.
const MERGEABLE: [&str; 2] = ["connectionPool", "outlierDetection"];
const BLOCKS: [&str; 4] = ["loadBalancer", "connectionPool", "outlierDetection", "tls"];
/// Threshold of ejection by 5xx when none is written.
const DEFAULT_5XX: u32 = 5;
/// Below this a limit of retries in flight was probably meant as tries per request.
const FEW_RETRIES: u32 = 10;

pub(super) fn check(out: &mut Vec<Finding>, object: &Object, rule: &DestinationRule) {
    replaced(out, object);
    let all = every_policy(rule);
    for (at, policy) in &all {
        gateway_errors(out, object, at, policy);
    }
    let first = |value: &dyn Fn(&TrafficPolicy) -> Option<u32>, wrong: &dyn Fn(u32) -> bool| {
        all.iter().find_map(|(at, policy)| {
            value(policy)
                .filter(|number| wrong(*number))
                .map(|number| (at.clone(), number))
        })
    };
    let retries = |policy: &TrafficPolicy| policy.connection_pool.as_ref()?.max_retries;
    if let Some((at, number)) = first(&retries, &|number| (1..FEW_RETRIES).contains(&number)) {
        say(
            out,
            codes::L303,
            object,
            &format!("{at}.connectionPool.http.maxRetries"),
            format!("maxRetries: {number} limits the retries in flight to the whole destination, not the tries of a request"),
            "set retries.attempts in the VirtualService for tries; remove maxRetries or use 10 or more".to_owned(),
        );
    }
    let requests =
        |policy: &TrafficPolicy| policy.connection_pool.as_ref()?.max_requests_per_connection;
    if let Some((at, number)) = first(&requests, &|number| number == 1 || number == 2) {
        say(
            out,
            codes::L304,
            object,
            &format!("{at}.connectionPool.http.maxRequestsPerConnection"),
            format!(
                "maxRequestsPerConnection: {number} opens a new connection for nearly every request"
            ),
            "remove it or use a larger number".to_owned(),
        );
    }
}

pub(super) fn every_policy(rule: &DestinationRule) -> Vec<(String, &TrafficPolicy)> {
    let mut out = vec![("spec.trafficPolicy".to_owned(), &rule.policy)];
    out.extend(rule.subsets.iter().map(|subset| {
        (
            format!("spec.subsets[{}].trafficPolicy", subset.index),
            &subset.policy,
        )
    }));
    let ports: Vec<_> = out
        .iter()
        .flat_map(|(at, policy)| {
            policy
                .ports
                .iter()
                .enumerate()
                .map(move |(n, (_, port))| (format!("{at}.portLevelSettings[{n}]"), port))
        })
        .collect();
    out.extend(ports);
    out
}

fn gateway_errors(out: &mut Vec<Finding>, object: &Object, at: &str, policy: &TrafficPolicy) {
    let Some(outlier) = &policy.outlier_detection else {
        return;
    };
    let total = outlier.consecutive_5xx.unwrap_or(DEFAULT_5XX);
    if let Some(gateway) = outlier
        .consecutive_gateway
        .filter(|gateway| *gateway > 0 && total > 0 && *gateway >= total)
    {
        let word = if outlier.consecutive_5xx.is_some() {
            ""
        } else {
            " (the default)"
        };
        say(
            out,
            codes::L302,
            object,
            &format!("{at}.outlierDetection.consecutiveGatewayErrors"),
            format!(
                "consecutiveGatewayErrors: {gateway} is never reached before consecutive5xxErrors: {total}{word}"
            ),
            format!("use less than {total}, or set consecutive5xxErrors: 0"),
        );
    }
}

/// L301 and L301b, on the tree rather than the typed form: lost fields include those not enforced yet.
fn replaced(out: &mut Vec<Finding>, object: &Object) {
    let mut node = Node::from_json(&object.raw);
    aliases::rewrite(&mut Report::new("", Mode::Compat), &mut node);
    let Some(spec) = node.get("spec") else { return };
    let parent = spec.get("trafficPolicy");
    if let Some(parent) = parent {
        ports(out, object, "spec.trafficPolicy", parent, &[parent]);
    }
    for (index, subset) in spec
        .get("subsets")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let Some(policy) = subset.get("trafficPolicy") else {
            continue;
        };
        let at = format!("spec.subsets[{index}].trafficPolicy");
        let name = subset.get("name").and_then(Node::text).unwrap_or_default();
        if let Some(parent) = parent {
            let lost: Vec<String> = MERGEABLE
                .iter()
                .filter_map(|block| Some(missing(parent.get(block)?, policy.get(block)?, block)))
                .flatten()
                .collect();
            if !lost.is_empty() {
                say(
                    out,
                    codes::L301,
                    object,
                    &at,
                    format!(
                        "the blocks of subset {name} replace the parent's as a whole; these settings of the parent do not hold for it: {}",
                        lost.join(", ")
                    ),
                    "repeat them in the subset if they are meant to hold".to_owned(),
                );
            }
        }
        let outer: Vec<&Node> = parent.into_iter().chain([policy]).collect();
        ports(out, object, &at, policy, &outer);
    }
}

/// Leaves of `from` that `to` lacks, as `block.path`.
fn missing(from: &Node, to: &Node, path: &str) -> Vec<String> {
    let mut out = Vec::new();
    for entry in from
        .entries()
        .iter()
        .filter(|entry| entry.value.data != Data::Null)
    {
        let at = format!("{path}.{}", entry.key);
        match (&entry.value.data, to.get(&entry.key)) {
            (Data::Map(_), Some(other)) => out.extend(missing(&entry.value, other, &at)),
            (Data::Map(_), None) => out.extend(missing(&entry.value, &Node::bare(Data::Null), &at)),
            (_, None) => out.push(at),
            (_, Some(_)) => {}
        }
    }
    out
}

fn ports(out: &mut Vec<Finding>, object: &Object, at: &str, policy: &Node, outer: &[&Node]) {
    for (index, port) in policy
        .get("portLevelSettings")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let lost: Vec<&str> = BLOCKS
            .into_iter()
            .filter(|block| {
                port.get(block).is_none() && outer.iter().any(|policy| policy.get(block).is_some())
            })
            .collect();
        if !lost.is_empty() {
            let number = port
                .at(&["port", "number"])
                .and_then(Node::integer)
                .unwrap_or_default();
            say(
                out,
                codes::L301B,
                object,
                &format!("{at}.portLevelSettings[{index}]"),
                format!(
                    "settings of port {number} replace everything: {} do not hold for it",
                    lost.join(", ")
                ),
                "repeat these blocks below the port if they are meant to hold".to_owned(),
            );
        }
    }
}
