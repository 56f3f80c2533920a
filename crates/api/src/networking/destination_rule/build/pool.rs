//! `connectionPool` and `retryBudget`: what is read of them, and what of it cannot be meant.

use crate::decode::Report;
use crate::networking::destination_rule::{
    ConnectionPool, DestinationRule, Http2Keepalive, HttpUpgrade, RetryBudget, TcpKeepalive,
};
use crate::networking::read;
use crate::tree::{Data, Node};
use std::time::Duration;

/// The connection pool.
pub(crate) fn build(report: &mut Report, node: &Node, at: &str) -> ConnectionPool {
    let tcp = |key: &str| node.at(&["tcp", key]);
    let http = |key: &str| node.at(&["http", key]);
    for (key, value) in [
        ("tcp.connectTimeout", tcp("connectTimeout")),
        ("tcp.maxConnectionDuration", tcp("maxConnectionDuration")),
    ] {
        positive(report, value, &format!("{at}.{key}"));
    }
    ConnectionPool {
        max_connections: read::count(tcp("maxConnections")),
        connect_timeout: read::duration(tcp("connectTimeout")),
        max_pending_requests: read::count(http("http1MaxPendingRequests")),
        max_requests: read::count(http("http2MaxRequests")),
        max_requests_per_connection: read::count(http("maxRequestsPerConnection")),
        max_retries: read::count(http("maxRetries")),
        http: http_upgrade(node),
        tcp_keepalive: tcp("tcpKeepalive")
            .map(|block| tcp_keepalive(report, block, &format!("{at}.tcp.tcpKeepalive"))),
        max_connection_duration: read::duration(tcp("maxConnectionDuration")),
        tcp_idle: read::duration(tcp("idleTimeout")),
        http_idle: read::duration(http("idleTimeout")),
        priority: None,
        max_streams: read::count(http("maxConcurrentStreams")).filter(|streams| *streams > 0),
        http2_keepalive: http("http2KeepAlive")
            .and_then(|block| http2_keepalive(report, block, &format!("{at}.http.http2KeepAlive"))),
    }
}

/// The caller's protocol wins over an upgrade, as in Istio.
fn http_upgrade(node: &Node) -> HttpUpgrade {
    let http = |key: &str| node.at(&["http", key]);
    if http("useClientProtocol").and_then(Node::truth) == Some(true) {
        return HttpUpgrade::Client;
    }
    match http("h2UpgradePolicy").and_then(Node::text) {
        Some("UPGRADE") => HttpUpgrade::Http2,
        _ => HttpUpgrade::Declared,
    }
}

fn positive(report: &mut Report, value: Option<&Node>, at: &str) {
    if let (Some(node), Some(Duration::ZERO)) = (value, read::duration(value)) {
        report.invalid(
            at,
            node,
            "it must be at least 1ms".to_owned(),
            "write for example 10s, or remove it".to_owned(),
        );
    }
}

/// The system counts whole seconds.
fn tcp_keepalive(report: &mut Report, node: &Node, at: &str) -> TcpKeepalive {
    let mut seconds = |key: &str| {
        let (value, time) = (node.get(key)?, read::duration(node.get(key))?);
        if time.as_secs() == 0 {
            report.invalid(
                &format!("{at}.{key}"),
                value,
                format!("{key} must be at least 1s"),
                "write whole seconds, for example 10s".to_owned(),
            );
        }
        u32::try_from(time.as_secs()).ok()
    };
    TcpKeepalive {
        time: seconds("time"),
        interval: seconds("interval"),
        probes: read::count(node.get("probes")).filter(|probes| *probes > 0),
    }
}

/// `None` where no interval is written: nothing would be sent.
fn http2_keepalive(report: &mut Report, node: &Node, at: &str) -> Option<Http2Keepalive> {
    for key in ["interval", "timeout"] {
        positive(report, node.get(key), &format!("{at}.{key}"));
    }
    Some(Http2Keepalive {
        interval: read::duration(node.get("interval"))?,
        timeout: read::duration(node.get("timeout")).unwrap_or(Duration::from_secs(20)),
    })
}

/// `naka.dev/priority: "x-tier: gold, silver"`: who waits for a connection comes first with the first value.
const PRIORITY: &str = "naka.dev/priority";
/// More classes than this are no order any more.
const CLASSES: usize = 16;

/// Puts what the annotation says into the pools of the rule, its subsets and their ports.
pub(crate) fn attach(report: &mut Report, annotations: Option<&Node>, rule: &mut DestinationRule) {
    let entries = annotations.map(Node::entries).unwrap_or_default();
    let Some(entry) = entries.iter().find(|entry| entry.key == PRIORITY) else {
        return;
    };
    let text = entry.value.text().unwrap_or_default();
    let parts = text.split_once(':').map(|(header, values)| {
        let values = values.split(',').map(|v| v.trim().to_owned());
        (
            header.trim().to_ascii_lowercase(),
            values.collect::<Vec<_>>(),
        )
    });
    let sound = parts.filter(|(header, values)| {
        let token = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !header.is_empty()
            && header.bytes().all(token)
            && values.len() <= CLASSES
            && values.iter().all(|value| !value.is_empty())
    });
    let Some(priority) = sound else {
        report.invalid(
            &format!("metadata.annotations[{PRIORITY}]"),
            &entry.value,
            format!("{text:?} names no header with its values in order"),
            "write for example x-tier: gold, silver".to_owned(),
        );
        return;
    };
    rule.policy.connection_pool.get_or_insert_default();
    let own = rule.subsets.iter_mut().map(|subset| &mut subset.policy);
    for policy in own.chain([&mut rule.policy]) {
        let ports = policy.ports.iter_mut().map(|(_, policy)| policy);
        let pools = ports.filter_map(|policy| policy.connection_pool.as_mut());
        for pool in pools.chain(policy.connection_pool.as_mut()) {
            pool.priority = Some(priority.clone());
        }
    }
}

/// The retry budget.
pub(super) fn retry_budget(node: &Node) -> RetryBudget {
    let percent = node.get("percent").and_then(|value| match &value.data {
        Data::Number(number) => number.as_f64(),
        _ => None,
    });
    RetryBudget {
        percent,
        interval: read::duration(node.get("budgetInterval")).filter(|time| !time.is_zero()),
        least: read::count(node.get("minRetryConcurrency")),
    }
}
