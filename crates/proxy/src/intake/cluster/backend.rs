//! Health checks of a cluster, and the breaker, fallback and hedge of its metadata.

use crate::intake::Error;
use crate::intake::route::Ids;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use naka_engine::breaker::{Breaker, Rate};
use naka_engine::model::{Ask, Backend, Fallback, FallbackTo, HealthCheck};
use naka_types::node::NAKA;
use naka_types::reason::Reason;
use naka_wire::envoy::config::cluster::v3 as pb;
use naka_wire::envoy::config::core::v3::{self as core, health_check::HealthChecker};
use naka_wire::google::protobuf::{Struct, value::Kind};
use naka_wire::{time, values};
use std::time::Duration;

/// What a BackendPolicy says; `None` where there is none.
pub(super) fn backend(wire: &pb::Cluster, ids: Ids<'_>) -> Result<Option<Box<Backend>>, Error> {
    let own = values::of_metadata(wire.metadata.as_ref(), NAKA);
    let part = |name| own.and_then(|own| values::get_struct(own, name));
    let check = match wire.health_checks.as_slice() {
        [] => None,
        [one] => Some(check(one)?),
        _ => return Err(Error::at("health_checks[1]", "only one is supported")),
    };
    let backend = Backend {
        breaker: part("breaker").map(breaker).transpose()?,
        fallback: part("fallback")
            .map(|part| fallback(part, ids))
            .transpose()?,
        check,
        hedge: own.and_then(|own| millis(own, "hedge_ms")),
    };
    Ok((backend != Backend::default()).then(|| Box::new(backend)))
}

fn number(from: &Struct, key: &str) -> Option<f64> {
    match values::get(from, key)? {
        Kind::NumberValue(number) if number.is_finite() && *number >= 0.0 => Some(*number),
        _ => None,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "cut to what fits"
)]
fn count(from: &Struct, key: &str) -> Option<u32> {
    number(from, key).map(|number| number as u32)
}

fn millis(from: &Struct, key: &str) -> Option<Duration> {
    let time = number(from, key)?;
    (1.0..=1e12)
        .contains(&time)
        .then(|| Duration::from_secs_f64(time / 1000.0))
}

fn statuses(from: &Struct) -> Box<[u16]> {
    let Some(Kind::ListValue(list)) = values::get(from, "statuses") else {
        return Box::default();
    };
    let number = |value: &naka_wire::google::protobuf::Value| match value.kind {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "cut to what fits"
        )]
        Some(Kind::NumberValue(number)) => Some(number as u16),
        _ => None,
    };
    list.values.iter().filter_map(number).collect()
}

fn breaker(wire: &Struct) -> Result<Breaker, Error> {
    let wrong = || {
        Error::at(
            "metadata.naka.dev.breaker",
            "it never opens or never closes",
        )
    };
    let rate = number(wire, "percent").zip(millis(wire, "rate_ms"));
    let breaker = Breaker {
        in_a_row: count(wire, "consecutive").unwrap_or(0),
        count: count(wire, "count").zip(millis(wire, "count_ms")),
        rate: rate.map(|(percent, window)| Rate {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a percentage"
            )]
            share: (percent.min(100.0) * 100.0).round() as u32,
            least: count(wire, "least").unwrap_or(0).max(1),
            window,
        }),
        open_for: millis(wire, "open_ms").ok_or_else(wrong)?,
        trials: count(wire, "trials").unwrap_or(1),
        statuses: Some(statuses(wire)).filter(|all| !all.is_empty()),
    };
    let opens = breaker.in_a_row > 0 || breaker.count.is_some() || breaker.rate.is_some();
    opens.then_some(breaker).ok_or_else(wrong)
}

fn fallback(wire: &Struct, ids: Ids<'_>) -> Result<Fallback, Error> {
    let wrong = |what: &str| Error::at("metadata.naka.dev.fallback", what);
    let to = match values::get_str(wire, "cluster") {
        Some(name) => FallbackTo::Cluster(ids(name), name.into()),
        None => {
            let status = count(wire, "status").and_then(|status| u16::try_from(status).ok());
            let status = status.and_then(|status| StatusCode::from_u16(status).ok());
            let mut headers = HeaderMap::new();
            if let Some(kind) = values::get_str(wire, "content_type") {
                let kind = HeaderValue::from_str(kind).map_err(|_| wrong("not a content type"))?;
                headers.insert(http::header::CONTENT_TYPE, kind);
            }
            let body = values::get_str(wire, "body").unwrap_or_default();
            FallbackTo::Reply {
                status: status.ok_or_else(|| wrong("no status"))?,
                headers,
                body: Bytes::copy_from_slice(body.as_bytes()),
            }
        }
    };
    let reasons = values::get_strings(wire, "reasons");
    let known = reasons
        .iter()
        .map(|code| Reason::parse(code).ok_or_else(|| wrong(&format!("{code:?} is no reason"))));
    Ok(Fallback {
        reasons: known.collect::<Result<_, _>>()?,
        statuses: statuses(wire),
        to,
    })
}

fn check(wire: &core::HealthCheck) -> Result<HealthCheck, Error> {
    let wrong = |what: &str| Error::at("health_checks[0]", what);
    let positive = |field: &Option<naka_wire::google::protobuf::Duration>| {
        let time = field.as_ref().and_then(time::from_wire);
        time.filter(|time| time.as_millis() > 0)
    };
    let threshold = |field: &Option<naka_wire::google::protobuf::UInt32Value>| {
        field.as_ref().map_or(1, |value| value.value.max(1))
    };
    let ask = match &wire.health_checker {
        Some(HealthChecker::HttpHealthCheck(http)) => {
            let range = |range: &naka_wire::envoy::r#type::v3::Int64Range| {
                let cut = |n: i64| u16::try_from(n.clamp(0, 1000)).unwrap_or(0);
                (cut(range.start), cut(range.end))
            };
            Ask::Http {
                path: http.path.as_str().into(),
                host: http.host.as_str().into(),
                statuses: http.expected_statuses.iter().map(range).collect(),
            }
        }
        Some(HealthChecker::GrpcHealthCheck(grpc)) => Ask::Grpc {
            service: grpc.service_name.as_str().into(),
        },
        Some(HealthChecker::TcpHealthCheck(tcp)) if tcp.send.is_none() => Ask::Tcp,
        _ => {
            return Err(wrong(
                "only http, grpc and a plain connection are supported",
            ));
        }
    };
    Ok(HealthCheck {
        ask,
        interval: positive(&wire.interval).ok_or_else(|| wrong("no interval"))?,
        timeout: positive(&wire.timeout).ok_or_else(|| wrong("no timeout"))?,
        unhealthy: threshold(&wire.unhealthy_threshold),
        healthy: threshold(&wire.healthy_threshold),
    })
}
