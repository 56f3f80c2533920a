//! What few routes have: injected faults, cross-origin rules and copies, in Envoy's messages.
//!
//! What of them cannot be carried out makes the route fall out: a fault for certain callers only must not become one
//! for all.

use super::{Error, condition, route::Ids};
use http::{HeaderValue, StatusCode};
use naka_engine::model::{AbortStatus, Cors, Extras, Fault, Mirror, Share};
use naka_types::node::{CONDITION, LIMIT};
use naka_wire::envoy::config::route::v3 as pb;
use naka_wire::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use naka_wire::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use naka_wire::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use naka_wire::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use naka_wire::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use naka_wire::time;
use std::time::Duration;

/// Envoy's name of the filter of faults.
pub const FAULT: &str = "envoy.filters.http.fault";
/// Envoy's name of the filter of cross-origin rules.
pub const CORS: &str = "envoy.filters.http.cors";

/// Longest delay: longer ones would only hold requests that nobody waits for.
const LONGEST: Duration = Duration::from_secs(3600);

/// Everything but copies.
///
/// # Errors
/// [`Error`] at what cannot be carried out.
pub fn extras(wire: &pb::Route) -> Result<Extras, Error> {
    let mut out = Extras {
        stat_prefix: (!wire.stat_prefix.is_empty()).then(|| wire.stat_prefix.as_str().into()),
        ..Extras::default()
    };
    // Sorted, because the first error is told.
    let mut filters: Vec<_> = wire.typed_per_filter_config.iter().collect();
    filters.sort_by_key(|(name, _)| name.as_str());
    for (name, any) in filters {
        let at = |error: Error| error.within(&format!("typed_per_filter_config[{name}]"));
        let unpacked = |error| at(Error::at("typed_config", error));
        match name.as_str() {
            FAULT => {
                let wire: HttpFault = naka_wire::unpack(any).map_err(unpacked)?;
                out.fault = Some(Box::new(fault(&wire).map_err(at)?));
            }
            CORS => {
                let wire: CorsPolicy = naka_wire::unpack(any).map_err(unpacked)?;
                out.cors = Some(Box::new(cors(&wire).map_err(at)?));
            }
            // Read with the conditions and with the limits.
            CONDITION | LIMIT => {}
            _ => {
                return Err(Error::at(
                    format!("typed_per_filter_config[{name}]"),
                    "not supported",
                ));
            }
        }
    }
    Ok(out)
}

/// A share; none given is none at all, as in Envoy.
fn share(wire: Option<&FractionalPercent>) -> Share {
    let Some(wire) = wire else {
        return Share::of_million(0);
    };
    let each = match DenominatorType::try_from(wire.denominator) {
        Ok(DenominatorType::Million) => 1,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Hundred) | Err(_) => 10_000,
    };
    Share::of_million(wire.numerator.saturating_mul(each))
}

fn fault(wire: &HttpFault) -> Result<Fault, Error> {
    for (present, field) in [
        (!wire.upstream_cluster.is_empty(), "upstream_cluster"),
        (!wire.headers.is_empty(), "headers"),
        (!wire.downstream_nodes.is_empty(), "downstream_nodes"),
        (wire.max_active_faults.is_some(), "max_active_faults"),
        (wire.response_rate_limit.is_some(), "response_rate_limit"),
    ] {
        if present {
            return Err(Error::at(field, "not supported"));
        }
    }
    Ok(Fault {
        delay: wire.delay.as_ref().map(delay).transpose()?,
        abort: wire.abort.as_ref().map(abort).transpose()?,
    })
}

fn delay(wire: &FaultDelay) -> Result<(Duration, Share), Error> {
    let Some(fault_delay::FaultDelaySecifier::FixedDelay(wait)) = &wire.fault_delay_secifier else {
        return Err(Error::at("delay", "only a fixed delay is supported"));
    };
    let wait = time::from_wire(wait).ok_or_else(|| Error::at("delay", "not a duration"))?;
    Ok((wait.min(LONGEST), share(wire.percentage.as_ref())))
}

fn abort(wire: &FaultAbort) -> Result<(AbortStatus, Share), Error> {
    let status = match wire.error_type {
        Some(fault_abort::ErrorType::HttpStatus(status)) => {
            let status = u16::try_from(status).ok();
            let status = status.filter(|status| (200..600).contains(status));
            let status = status.and_then(|status| StatusCode::from_u16(status).ok());
            AbortStatus::Http(status.ok_or_else(|| Error::at("abort.http_status", "no status"))?)
        }
        Some(fault_abort::ErrorType::GrpcStatus(status)) => {
            let status = u8::try_from(status).ok().filter(|status| *status <= 16);
            AbortStatus::Grpc(status.ok_or_else(|| Error::at("abort.grpc_status", "no status"))?)
        }
        Some(fault_abort::ErrorType::HeaderAbort(_)) | None => {
            return Err(Error::at("abort", "only a fixed status is supported"));
        }
    };
    Ok((status, share(wire.percentage.as_ref())))
}

fn cors(wire: &CorsPolicy) -> Result<Cors, Error> {
    let all = |percent: &naka_wire::envoy::config::core::v3::RuntimeFractionalPercent| {
        share(percent.default_value.as_ref()) == Share::ALL
    };
    if wire.filter_enabled.as_ref().is_some_and(|p| !all(p)) || wire.shadow_enabled.is_some() {
        return Err(Error::at(
            "filter_enabled",
            "only all requests are supported",
        ));
    }
    if wire
        .allow_private_network_access
        .is_some_and(|flag| flag.value)
    {
        return Err(Error::at("allow_private_network_access", "not supported"));
    }
    let value = |text: &str, field: &str| -> Result<Option<HeaderValue>, Error> {
        if text.is_empty() {
            return Ok(None);
        }
        let value = HeaderValue::from_str(text);
        value
            .map(Some)
            .map_err(|_| Error::at(field, "no header value"))
    };
    let origin = |(index, wire)| {
        condition::string(wire)
            .map_err(|e: Error| e.within(&format!("allow_origin_string_match[{index}]")))
    };
    let origins = wire.allow_origin_string_match.iter().enumerate();
    Ok(Cors {
        origins: origins.map(origin).collect::<Result<_, _>>()?,
        methods: value(&wire.allow_methods, "allow_methods")?,
        headers: value(&wire.allow_headers, "allow_headers")?,
        expose: value(&wire.expose_headers, "expose_headers")?,
        max_age: value(&wire.max_age, "max_age")?,
        credentials: wire.allow_credentials.is_some_and(|flag| flag.value),
        forward_unmatched: wire
            .forward_not_matching_preflights
            .is_none_or(|flag| flag.value),
    })
}

/// Copies of a route's requests.
///
/// # Errors
/// [`Error`] at what cannot be carried out.
pub fn mirrors(wire: &[RequestMirrorPolicy], ids: Ids<'_>) -> Result<Box<[Mirror]>, Error> {
    let mut out = Vec::with_capacity(wire.len());
    for (index, wire) in wire.iter().enumerate() {
        let at = |field: &str, why: &str| {
            Error::at(format!("request_mirror_policies[{index}].{field}"), why)
        };
        for (present, field) in [
            (!wire.cluster_header.is_empty(), "cluster_header"),
            (
                wire.disable_shadow_host_suffix_append,
                "disable_shadow_host_suffix_append",
            ),
            (
                !wire.request_headers_mutations.is_empty(),
                "request_headers_mutations",
            ),
            (
                !wire.host_rewrite_literal.is_empty(),
                "host_rewrite_literal",
            ),
        ] {
            if present {
                return Err(at(field, "not supported"));
            }
        }
        if wire.cluster.is_empty() {
            return Err(at("cluster", "it is missing"));
        }
        let fraction = wire.runtime_fraction.as_ref();
        out.push(Mirror {
            cluster: ids(&wire.cluster),
            name: wire.cluster.as_str().into(),
            share: fraction.map_or(Share::ALL, |one| share(one.default_value.as_ref())),
        });
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::{CORS, FAULT, extras, mirrors};
    use naka_engine::model::{AbortStatus, ClusterId, Share};
    use naka_wire::envoy::config::route::v3::{Route, route_action::RequestMirrorPolicy};
    use naka_wire::envoy::extensions::filters::http::cors::v3::CorsPolicy;
    use naka_wire::envoy::extensions::filters::http::fault::v3::{
        FaultAbort, HttpFault, fault_abort,
    };
    use naka_wire::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
    use naka_wire::google::protobuf::Any;

    fn route(name: &str, any: Any) -> Route {
        Route {
            typed_per_filter_config: [(name.to_owned(), any)].into(),
            ..Route::default()
        }
    }

    fn abort(numerator: u32, denominator: DenominatorType) -> HttpFault {
        HttpFault {
            abort: Some(FaultAbort {
                percentage: Some(FractionalPercent {
                    numerator,
                    denominator: denominator as i32,
                }),
                error_type: Some(fault_abort::ErrorType::GrpcStatus(14)),
                ..FaultAbort::default()
            }),
            ..HttpFault::default()
        }
    }

    #[test]
    fn shares_are_read_in_every_denominator() {
        for (numerator, denominator, parts) in [
            (50, DenominatorType::Hundred, 500_000),
            (1, DenominatorType::TenThousand, 100),
            (7, DenominatorType::Million, 7),
            (u32::MAX, DenominatorType::Hundred, 1_000_000),
        ] {
            let fault = abort(numerator, denominator);
            let got = extras(&route(FAULT, naka_wire::pack(&fault))).unwrap();
            let wanted = (AbortStatus::Grpc(14), Share::of_million(parts));
            assert_eq!(got.fault.unwrap().abort, Some(wanted));
        }
    }

    #[test]
    fn what_would_reach_further_than_meant_is_refused() {
        let narrow = HttpFault {
            downstream_nodes: vec!["a".to_owned()],
            ..abort(1, DenominatorType::Hundred)
        };
        let status = HttpFault {
            abort: Some(FaultAbort {
                error_type: Some(fault_abort::ErrorType::HttpStatus(99)),
                ..FaultAbort::default()
            }),
            ..HttpFault::default()
        };
        for (name, any, field) in [
            (FAULT, naka_wire::pack(&narrow), "downstream_nodes"),
            (FAULT, naka_wire::pack(&status), "abort.http_status"),
            (CORS, naka_wire::pack(&narrow), "typed_config"),
            ("other", naka_wire::pack(&CorsPolicy::default()), ""),
        ] {
            let error = extras(&route(name, any)).unwrap_err();
            assert!(
                error.field.contains(name) && error.field.ends_with(field) || field.is_empty(),
                "{}",
                error.field
            );
        }
    }

    #[test]
    fn a_copy_without_a_share_is_of_every_request() {
        let policy = |cluster: &str| RequestMirrorPolicy {
            cluster: cluster.to_owned(),
            ..RequestMirrorPolicy::default()
        };
        let mut ids = |_: &str| ClusterId(0);
        let got = mirrors(&[policy("a")], &mut ids).unwrap();
        assert_eq!((&*got[0].name, got[0].share), ("a", Share::ALL));
        assert!(mirrors(&[policy("")], &mut ids).is_err());
    }
}
