//! `outlierDetection`: what is read of it, and what of it cannot be meant.

use crate::decode::Report;
use crate::networking::destination_rule::OutlierDetection;
use crate::networking::read;
use crate::tree::Node;

/// The block. What is wrong in it puts the part that holds it out of force, so that nothing is ejected by half a rule.
pub(super) fn build(report: &mut Report, node: &Node, at: &str) -> OutlierDetection {
    for key in ["interval", "baseEjectionTime"] {
        if let (Some(value), Some(time)) = (node.get(key), read::duration(node.get(key)))
            && time.as_millis() == 0
        {
            report.invalid(
                &format!("{at}.{key}"),
                value,
                format!("{key} must be at least 1ms"),
                "write for example 10s".to_owned(),
            );
        }
    }
    let split = node
        .get("splitExternalLocalOriginErrors")
        .and_then(Node::truth)
        .unwrap_or(false);
    let mut statuses = Vec::new();
    let listed = node.get("outlierDetectionHttpErrorCodes");
    for (index, value) in listed
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        match value.integer().and_then(|code| u16::try_from(code).ok()) {
            Some(code @ 100..=599) => statuses.push(code),
            Some(_) | None => report.invalid(
                &format!("{at}.outlierDetectionHttpErrorCodes[{index}]"),
                value,
                format!("{} is no HTTP status", value.to_json()),
                "write statuses from 100 to 599".to_owned(),
            ),
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    OutlierDetection {
        consecutive_5xx: read::count(node.get("consecutive5xxErrors")),
        consecutive_gateway: read::count(node.get("consecutiveGatewayErrors")),
        consecutive_local: read::count(node.get("consecutiveLocalOriginFailures")),
        split_local: split,
        interval: read::duration(node.get("interval")),
        base_ejection: read::duration(node.get("baseEjectionTime")),
        max_ejection_percent: read::count(node.get("maxEjectionPercent")),
        min_health_percent: read::count(node.get("minHealthPercent")),
        failure_percentage: read::count(node.get("failurePercentageThreshold")),
        statuses,
    }
}
