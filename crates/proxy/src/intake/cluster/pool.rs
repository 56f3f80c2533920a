//! Limits of a cluster and how its connections are kept.

use crate::intake::Error;
use naka_engine::model::{Budget, Keeping, Limits, Pings, Priority, Probes};
use naka_types::node::NAKA;
use naka_wire::envoy::config::cluster::v3 as pb;
use naka_wire::envoy::config::core::v3::Http2ProtocolOptions;
use naka_wire::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions,
    http_protocol_options::{UpstreamProtocolOptions, explicit_http_config::ProtocolConfig},
};
use naka_wire::google::protobuf::{Duration as Wire, UInt32Value};
use naka_wire::{time, values};
use std::time::Duration;

/// Longer than any connection lives.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);
/// Longest wait for the answer to a ping when none is said.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Absent limits mean none, as Istio sets them; Envoy's own default of 1024 is for nobody's mesh.
pub(super) fn limits(wire: &pb::Cluster) -> Result<Limits, Error> {
    let breakers = wire.circuit_breakers.as_ref();
    let Some(thresholds) =
        breakers.and_then(|breakers| breakers.thresholds.iter().find(|t| t.priority == 0))
    else {
        return Ok(Limits::default());
    };
    let value = |limit: &Option<UInt32Value>| limit.as_ref().map_or(u32::MAX, |v| v.value);
    let mut budget = Budget::default();
    if let Some(wanted) = &thresholds.retry_budget {
        budget.reserve = false;
        if let Some(percent) = &wanted.budget_percent {
            budget.share = share(percent.value)?;
        }
        if let Some(least) = &wanted.min_retry_concurrency {
            budget.least = least.value;
        }
        budget.window = wanted
            .budget_interval
            .as_ref()
            .and_then(time::from_wire)
            .filter(|window| !window.is_zero());
    }
    Ok(Limits {
        connections: value(&thresholds.max_connections),
        pending: value(&thresholds.max_pending_requests),
        requests: value(&thresholds.max_requests),
        retries: value(&thresholds.max_retries),
        budget,
    })
}

/// Hundredths of a percent.
fn share(percent: f64) -> Result<u32, Error> {
    if !(0.0..=100.0).contains(&percent) {
        let at = "circuit_breakers.thresholds.retry_budget.budget_percent";
        return Err(Error::at(at, "not a percentage"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is from 0 to 10000"
    )]
    Ok((percent * 100.0).round() as u32)
}

/// Which requests come first where they wait, in our own metadata: `<header>: <value>, <value>`.
pub(super) fn priority(wire: &pb::Cluster) -> Result<Option<Box<Priority>>, Error> {
    let own = values::of_metadata(wire.metadata.as_ref(), NAKA);
    let Some(text) = own.and_then(|own| values::get_str(own, "priority")) else {
        return Ok(None);
    };
    let wrong = || Error::at("metadata.naka.dev.priority", "no header with its values");
    let (header, listed) = text.split_once(": ").ok_or_else(wrong)?;
    Ok(Some(Box::new(Priority {
        header: header.parse().map_err(|_| wrong())?,
        values: listed.split(", ").map(Box::from).collect(),
    })))
}

/// TCP keep-alive.
pub(super) fn probes(wire: &pb::Cluster) -> Option<Probes> {
    let wanted = wire
        .upstream_connection_options
        .as_ref()?
        .tcp_keepalive
        .as_ref()?;
    let number = |value: &Option<UInt32Value>| value.as_ref().map(|v| v.value).filter(|v| *v > 0);
    let seconds = |value| number(value).map(|seconds| Duration::from_secs(u64::from(seconds)));
    Some(Probes {
        count: number(&wanted.keepalive_probes),
        after: seconds(&wanted.keepalive_time),
        every: seconds(&wanted.keepalive_interval),
    })
}

/// What of the HTTP options is about connections.
pub(super) fn keeping(options: &HttpProtocolOptions, keeping: &mut Keeping) -> Result<(), Error> {
    if let Some(common) = &options.common_http_protocol_options {
        let requests = common.max_requests_per_connection.as_ref();
        keeping.requests = requests.map(|limit| limit.value).filter(|limit| *limit > 0);
        // No time at all is how Envoy says "never".
        let idle = common.idle_timeout.as_ref().and_then(time::from_wire);
        keeping.idle = idle.map(|idle| if idle.is_zero() { NEVER } else { idle });
        keeping.longest = common
            .max_connection_duration
            .as_ref()
            .and_then(time::from_wire)
            .filter(|longest| !longest.is_zero());
    }
    let Some(http2) = http2(options) else {
        return Ok(());
    };
    keeping.streams = http2.max_concurrent_streams.as_ref().map(|s| s.value);
    if keeping.streams == Some(0) {
        return Err(Error::at(
            "max_concurrent_streams",
            "0 streams carry nothing",
        ));
    }
    if let Some(pings) = &http2.connection_keepalive {
        let positive = |wire: &Option<Wire>| {
            let time = wire.as_ref().and_then(time::from_wire);
            time.filter(|time| !time.is_zero())
        };
        keeping.pings = positive(&pings.interval).map(|every| Pings {
            every,
            timeout: positive(&pings.timeout).unwrap_or(PING_TIMEOUT),
        });
    }
    Ok(())
}

fn http2(options: &HttpProtocolOptions) -> Option<&Http2ProtocolOptions> {
    match options.upstream_protocol_options.as_ref()? {
        UpstreamProtocolOptions::ExplicitHttpConfig(explicit) => {
            match explicit.protocol_config.as_ref()? {
                ProtocolConfig::Http2ProtocolOptions(http2) => Some(http2),
                _ => None,
            }
        }
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(either) => {
            either.http2_protocol_options.as_ref()
        }
        UpstreamProtocolOptions::AutoConfig(_) => None,
    }
}
