//! The typed BackendPolicy from a checked tree.

use super::{
    Ask, BackendPolicy, Breaker, Destination, Fallback, FallbackTo, HealthCheck, Policy, Target,
};
use crate::decode::Report;
use crate::kind::Kind;
use crate::networking::read;
use crate::tree::{Data, Node};
use naka_types::reason::Reason;
use std::time::Duration;

/// Builds; `None` without a target.
pub(crate) fn build(report: &mut Report, spec: &Node, namespace: &str) -> Option<BackendPolicy> {
    let refs = spec.get("targetRefs");
    let mut targets = Vec::new();
    for (index, node) in refs.map(Node::items).unwrap_or_default().iter().enumerate() {
        let at = format!("spec.targetRefs[{index}]");
        check_group(report, node, &at);
        let at = format!("{at}.name");
        let host = read::host(report, node.get("name"), &at, namespace, false);
        targets.extend(host.map(|host| Target {
            host,
            port: read::port(node.get("port")),
            subset: read::text(node.get("subset")),
        }));
    }
    if let (Some(refs), true) = (refs, targets.is_empty()) {
        report.invalid(
            "spec.targetRefs",
            refs,
            "it names no destination".to_owned(),
            "write for example targetRefs: [{kind: Service, name: payment}]".to_owned(),
        );
    }
    let policy = Policy {
        breaker: spec.get("breaker").map(|node| breaker(report, node)),
        fallback: spec
            .get("fallback")
            .and_then(|node| fallback(report, node, namespace)),
        check: spec.get("healthCheck").and_then(|node| check(report, node)),
        hedge: spec.get("hedge").map(|node| {
            let usual = Duration::from_millis(100);
            time(report, node, "spec.hedge", "after", usual)
        }),
    };
    (!targets.is_empty()).then_some(BackendPolicy { targets, policy })
}

/// A group, where one is written, is that of the kind.
fn check_group(report: &mut Report, target: &Node, at: &str) {
    let kind = match target.get("kind").and_then(Node::text) {
        Some("ServiceEntry") => Kind::ServiceEntry,
        _ => Kind::Service,
    };
    let group = kind.names().group;
    let other = |written: &&Node| written.text().is_some_and(|text| text != group);
    if let Some(written) = target.get("group").filter(other) {
        report.invalid(
            &format!("{at}.group"),
            written,
            format!("a {kind} is of the group {group:?}"),
            "leave group out, or write the kind that is of it".to_owned(),
        );
    }
}

/// A time of at least a millisecond.
fn time(report: &mut Report, node: &Node, at: &str, key: &str, default: Duration) -> Duration {
    let value = node.get(key);
    let time = read::duration(value).unwrap_or(default);
    if let (Some(value), true) = (value, time.as_millis() == 0) {
        report.invalid(
            &format!("{at}.{key}"),
            value,
            format!("{key} must be at least 1ms"),
            "write for example 10s".to_owned(),
        );
    }
    time
}

fn statuses(node: Option<&Node>) -> Vec<u16> {
    let items = node.map(Node::items).unwrap_or_default().iter();
    let mut all: Vec<u16> = items
        .filter_map(|item| item.integer().and_then(|code| u16::try_from(code).ok()))
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Exactly one of these must be written.
fn one_of(report: &mut Report, node: &Node, at: &str, keys: &[&str]) -> bool {
    let written = keys.iter().filter(|key| node.get(key).is_some()).count();
    if written != 1 {
        report.invalid(
            at,
            node,
            format!(
                "{written} of {} are set; exactly one must be",
                keys.join(", ")
            ),
            format!("write {}", keys.join(" or ")),
        );
    }
    written == 1
}

fn breaker(report: &mut Report, node: &Node) -> Breaker {
    let at = "spec.breaker";
    let second = Duration::from_secs(1);
    let count = node.get("failureCount").and_then(|count| {
        let window = time(report, count, "spec.breaker.failureCount", "window", second);
        Some((read::count(count.get("failures"))?, window))
    });
    let rate = node.get("failureRate").and_then(|rate| {
        let window = time(
            report,
            rate,
            "spec.breaker.failureRate",
            "window",
            second * 10,
        );
        let percent = match &rate.get("percent")?.data {
            Data::Number(number) => number.as_f64()?,
            _ => return None,
        };
        let least = read::count(rate.get("minimumCalls")).unwrap_or(10);
        Some((percent, least, window))
    });
    if let (Some(both), true) = (node.get("failureRate"), count.is_some()) {
        report.invalid(
            "spec.breaker.failureRate",
            both,
            "failureCount and failureRate exclude each other".to_owned(),
            "keep one of them".to_owned(),
        );
    }
    let written = read::count(node.get("consecutiveFailures"));
    let none = count.is_none() && rate.is_none();
    Breaker {
        consecutive: written.or(none.then_some(5)),
        count,
        rate,
        open_for: time(report, node, at, "openFor", second * 60),
        trials: read::count(node.get("trials")).unwrap_or(1),
        statuses: statuses(node.get("statuses")),
    }
}

fn fallback(report: &mut Report, node: &Node, namespace: &str) -> Option<Fallback> {
    let at = "spec.fallback";
    if !one_of(report, node, at, &["response", "destination"]) {
        return None;
    }
    let mut reasons = Vec::new();
    let listed = node.get("reasons").map(Node::items).unwrap_or_default();
    for (index, item) in listed.iter().enumerate() {
        let word = item.text().unwrap_or_default();
        match Reason::parse(word) {
            Some(reason) => reasons.push(reason),
            None => report.invalid(
                &format!("{at}.reasons[{index}]"),
                item,
                format!("{word:?} is no reason of a local reply"),
                "docs/reference/reasons.md lists them".to_owned(),
            ),
        }
    }
    let to = if let Some(other) = node.get("destination") {
        let field = "spec.fallback.destination.host";
        FallbackTo::Destination(Destination {
            host: read::host(report, other.get("host"), field, namespace, false)?,
            subset: read::text(other.get("subset")),
            port: read::port(other.get("port")),
        })
    } else {
        let response = node.get("response")?;
        let status = read::count(response.get("status")).and_then(|s| u16::try_from(s).ok());
        let text = |key: &str| read::text(response.get(key));
        FallbackTo::Response {
            status: status.unwrap_or(503),
            content_type: text("contentType").unwrap_or_else(|| "application/json".to_owned()),
            body: text("body").unwrap_or_default(),
        }
    };
    Some(Fallback {
        reasons,
        statuses: statuses(node.get("statuses")),
        to,
    })
}

fn check(report: &mut Report, node: &Node) -> Option<HealthCheck> {
    let at = "spec.healthCheck";
    if !one_of(report, node, at, &["http", "grpc", "tcp"]) {
        return None;
    }
    let ask = if let Some(http) = node.get("http") {
        let path = read::text(http.get("path")).unwrap_or_default();
        if let (Some(written), false) = (http.get("path"), path.starts_with('/')) {
            report.invalid(
                "spec.healthCheck.http.path",
                written,
                format!("{path:?} is no path"),
                "begin it with /".to_owned(),
            );
        }
        Ask::Http {
            path,
            host: read::text(http.get("host")).unwrap_or_default(),
            statuses: statuses(http.get("statuses")),
        }
    } else if let Some(grpc) = node.get("grpc") {
        Ask::Grpc {
            service: read::text(grpc.get("service")).unwrap_or_default(),
        }
    } else {
        Ask::Tcp
    };
    let count = |key: &str, default| read::count(node.get(key)).unwrap_or(default);
    Some(HealthCheck {
        ask,
        interval: time(report, node, at, "interval", Duration::from_secs(10)),
        timeout: time(report, node, at, "timeout", Duration::from_secs(1)),
        unhealthy: count("unhealthyThreshold", 3),
        healthy: count("healthyThreshold", 2),
    })
}
