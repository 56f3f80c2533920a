//! `connectionPool` and `retryBudget` on the wire, as Istio writes them.

use super::Dialect;
use naka_api::networking::destination_rule::{ConnectionPool, RetryBudget, TrafficPolicy};
use naka_wire::envoy::config::cluster::v3::{
    UpstreamConnectionOptions, circuit_breakers::Thresholds, circuit_breakers::thresholds,
};
use naka_wire::envoy::config::core::v3::{
    Http2ProtocolOptions, HttpProtocolOptions as Common, KeepaliveSettings, TcpKeepalive,
};
use naka_wire::envoy::r#type::v3::Percent;
use naka_wire::google::protobuf::UInt32Value;
use naka_wire::time;

/// Share of the requests under way that may be retries, in percent.
const RETRY_PERCENT: f64 = 20.0;

fn number(value: Option<u32>) -> Option<UInt32Value> {
    value.map(|value| UInt32Value { value })
}

/// The limits. Istio reads 0 as not set.
pub(super) fn limits(policy: &TrafficPolicy, dialect: Dialect) -> Thresholds {
    let pool = policy.connection_pool.clone().unwrap_or_default();
    let set = |limit: Option<u32>| number(limit.filter(|limit| *limit > 0));
    // Our own proxies have the default budget without being told; an Envoy knows either a budget or a limit.
    let unsaid = dialect == Dialect::Envoy && pool.max_retries.is_none_or(|limit| limit == 0);
    let default = unsaid.then(RetryBudget::default);
    Thresholds {
        max_connections: set(pool.max_connections),
        max_pending_requests: set(pool.max_pending_requests),
        max_requests: set(pool.max_requests),
        max_retries: match policy.retry_budget {
            None => set(pool.max_retries),
            Some(_) => None,
        },
        retry_budget: policy.retry_budget.or(default).map(budget),
        ..Thresholds::default()
    }
}

fn budget(wanted: RetryBudget) -> thresholds::RetryBudget {
    thresholds::RetryBudget {
        budget_percent: Some(Percent {
            value: wanted.percent.unwrap_or(RETRY_PERCENT),
        }),
        budget_interval: wanted.interval.map(time::to_wire),
        min_retry_concurrency: number(wanted.least),
    }
}

/// What holds for connections of either HTTP, and for our own proxies also for connections of bytes.
pub(super) fn common(pool: &ConnectionPool, bytes: bool) -> Option<Common> {
    let idle = if bytes {
        pool.tcp_idle
    } else {
        pool.http_idle.or(pool.tcp_idle)
    };
    let common = Common {
        max_requests_per_connection: number(
            pool.max_requests_per_connection.filter(|limit| *limit > 0),
        ),
        idle_timeout: idle.map(time::to_wire),
        max_connection_duration: pool.max_connection_duration.map(time::to_wire),
        ..Common::default()
    };
    (common != Common::default()).then_some(common)
}

/// What holds for connections of HTTP/2.
pub(super) fn http2(pool: &ConnectionPool) -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        max_concurrent_streams: number(pool.max_streams),
        connection_keepalive: pool.http2_keepalive.map(|pings| KeepaliveSettings {
            interval: Some(time::to_wire(pings.interval)),
            timeout: Some(time::to_wire(pings.timeout)),
            ..KeepaliveSettings::default()
        }),
        ..Http2ProtocolOptions::default()
    }
}

/// TCP keep-alive. As in Istio a block without numbers turns it on with the system's.
pub(super) fn keepalive(pool: &ConnectionPool) -> Option<UpstreamConnectionOptions> {
    let probes = pool.tcp_keepalive?;
    Some(UpstreamConnectionOptions {
        tcp_keepalive: Some(TcpKeepalive {
            keepalive_probes: number(probes.probes),
            keepalive_time: number(probes.time),
            keepalive_interval: number(probes.interval),
        }),
        ..UpstreamConnectionOptions::default()
    })
}
