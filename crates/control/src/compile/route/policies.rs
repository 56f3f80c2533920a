//! Faults, cross-origin rules and mirrors of a route as Envoy's messages.
//!
//! Faults and cross-origin rules are configuration of filters by route, so a change of them drains no connection: the
//! filters themselves stand in every listener of an Envoy, and Naka's own proxies read the same messages.

use super::message::text;
use naka_api::networking::virtual_service::StringMatch;
use naka_api::networking::virtual_service::policies::{ALL, AbortStatus, Cors, Fault};
use naka_types::name::ClusterName;
use naka_wire::envoy::config::core::v3::RuntimeFractionalPercent;
use naka_wire::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use naka_wire::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use naka_wire::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use naka_wire::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use naka_wire::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use naka_wire::google::protobuf::{Any, BoolValue};
use naka_wire::time;
use std::collections::HashMap;

/// Name of Envoy's filter of faults.
pub(crate) const FAULT: &str = "envoy.filters.http.fault";
/// Name of Envoy's filter of cross-origin rules.
pub(crate) const CORS: &str = "envoy.filters.http.cors";

/// What the filters do on this route.
pub(super) fn per_filter(fault: Option<&Fault>, cors: Option<&Cors>) -> HashMap<String, Any> {
    let fault = fault.filter(|fault| fault.delay.is_some() || fault.abort.is_some());
    let fault = fault.map(|one| (FAULT.to_owned(), naka_wire::pack(&injected(one))));
    let cors = cors.map(|one| (CORS.to_owned(), naka_wire::pack(&origins(one))));
    fault.into_iter().chain(cors).collect()
}

fn share(parts: u32) -> FractionalPercent {
    FractionalPercent {
        numerator: parts,
        denominator: DenominatorType::Million as i32,
    }
}

fn injected(fault: &Fault) -> HttpFault {
    HttpFault {
        delay: fault.delay.as_ref().map(|delay| FaultDelay {
            percentage: Some(share(delay.share)),
            fault_delay_secifier: Some(fault_delay::FaultDelaySecifier::FixedDelay(time::to_wire(
                delay.wait,
            ))),
        }),
        abort: fault.abort.as_ref().map(|abort| FaultAbort {
            percentage: Some(share(abort.share)),
            error_type: Some(match abort.status {
                AbortStatus::Http(status) => fault_abort::ErrorType::HttpStatus(u32::from(status)),
                AbortStatus::Grpc(status) => fault_abort::ErrorType::GrpcStatus(u32::from(status)),
            }),
            ..FaultAbort::default()
        }),
        ..HttpFault::default()
    }
}

fn origins(cors: &Cors) -> CorsPolicy {
    let flag = |value| Some(BoolValue { value });
    let matcher = |origin: &StringMatch| text(origin);
    CorsPolicy {
        allow_origin_string_match: cors.origins.iter().filter_map(matcher).collect(),
        allow_methods: cors.methods.join(","),
        allow_headers: cors.headers.join(","),
        expose_headers: cors.expose.join(","),
        max_age: cors
            .max_age
            .map_or_else(String::new, |age| age.as_secs().to_string()),
        allow_credentials: cors.credentials.and_then(flag),
        forward_not_matching_preflights: flag(cors.forward_unmatched),
        ..CorsPolicy::default()
    }
}

pub(super) fn mirrors(copies: &[(ClusterName, u32)]) -> Vec<RequestMirrorPolicy> {
    let policy = |(cluster, parts): &(ClusterName, u32)| RequestMirrorPolicy {
        cluster: cluster.to_string(),
        runtime_fraction: (*parts < ALL).then(|| RuntimeFractionalPercent {
            default_value: Some(share(*parts)),
            ..RuntimeFractionalPercent::default()
        }),
        // A copy is no part of the trace it was made from.
        trace_sampled: Some(BoolValue { value: false }),
        ..RequestMirrorPolicy::default()
    };
    copies.iter().map(policy).collect()
}
