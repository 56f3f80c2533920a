//! `outlierDetection` on the wire, the same for our own proxies and for an Envoy.
//!
//! As Istio writes it: no success rate; a failure percentage where the rule names one, with Envoy's own minima of
//! endpoints and requests, for which Istio has no fields. Where the rule names no share, one endpoint may be
//! ejected whatever the share is: the default of 10 % would leave every service of fewer than ten endpoints without
//! outlier detection, and say nothing about it.

use super::Dialect;
use naka_api::networking::destination_rule::OutlierDetection;
use naka_wire::envoy::config::cluster::v3::{self as pb, cluster};
use naka_wire::envoy::config::common::matcher::v3::{
    HttpHeadersMatch, MatchPredicate,
    match_predicate::{MatchSet, Rule},
};
use naka_wire::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use naka_wire::envoy::extensions::upstreams::http::v3::http_protocol_options;
use naka_wire::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use naka_wire::envoy::r#type::v3::Percent;
use naka_wire::google::protobuf::{BoolValue, UInt32Value};
use naka_wire::time;

const fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

/// A threshold and whether it is in force.
fn threshold(wanted: Option<u32>) -> (Option<UInt32Value>, Option<UInt32Value>) {
    match wanted {
        None => (None, None),
        Some(0) => (number(0), number(0)),
        Some(count) => (number(count), number(100)),
    }
}

/// What ejects an endpoint.
pub(super) fn detection(rule: &OutlierDetection) -> pb::OutlierDetection {
    let (consecutive_5xx, enforcing_consecutive_5xx) = threshold(rule.consecutive_5xx);
    let (gateway, enforcing_gateway) = threshold(rule.consecutive_gateway);
    let (share, enforcing_share) = threshold(rule.failure_percentage);
    let (local, enforcing_local) = threshold(rule.consecutive_local.filter(|_| rule.split_local));
    pb::OutlierDetection {
        consecutive_5xx,
        enforcing_consecutive_5xx,
        consecutive_gateway_failure: gateway,
        enforcing_consecutive_gateway_failure: enforcing_gateway,
        split_external_local_origin_errors: rule.split_local,
        consecutive_local_origin_failure: local,
        enforcing_consecutive_local_origin_failure: enforcing_local,
        failure_percentage_threshold: share,
        enforcing_failure_percentage: enforcing_share,
        interval: rule.interval.map(time::to_wire),
        base_ejection_time: rule.base_ejection.map(time::to_wire),
        max_ejection_percent: rule.max_ejection_percent.and_then(number),
        always_eject_one_host: rule
            .max_ejection_percent
            .is_none()
            .then_some(BoolValue { value: true }),
        enforcing_success_rate: number(0),
        // A program may answer health checks and fail at its work: only time brings it back.
        successful_active_health_check_uneject_host: Some(BoolValue { value: false }),
        enforcing_local_origin_success_rate: if rule.split_local { number(0) } else { None },
        ..pb::OutlierDetection::default()
    }
}

/// When all endpoints are called, healthy or not. Our own proxies never do so unless told; Envoy does once half of a
/// cluster is broken.
pub(super) fn panic(
    rule: Option<&OutlierDetection>,
    dialect: Dialect,
) -> Option<cluster::CommonLbConfig> {
    let percent = rule.and_then(|rule| rule.min_health_percent).unwrap_or(0);
    (dialect == Dialect::Envoy || percent > 0).then(|| cluster::CommonLbConfig {
        healthy_panic_threshold: Some(Percent {
            value: f64::from(percent),
        }),
        ..cluster::CommonLbConfig::default()
    })
}

/// Which statuses are errors, where it is not all 5xx.
pub(super) fn statuses(rule: &OutlierDetection) -> Option<http_protocol_options::OutlierDetection> {
    let of = |status: &u16| {
        let exact = StringMatcher {
            match_pattern: Some(MatchPattern::Exact(status.to_string())),
            ..StringMatcher::default()
        };
        MatchPredicate {
            rule: Some(Rule::HttpResponseHeadersMatch(HttpHeadersMatch {
                headers: vec![HeaderMatcher {
                    name: ":status".to_owned(),
                    header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact)),
                    ..HeaderMatcher::default()
                }],
            })),
        }
    };
    let error_matcher = match rule.statuses.as_slice() {
        [] => return None,
        [one] => of(one),
        // At least two, or an Envoy refuses it.
        several => MatchPredicate {
            rule: Some(Rule::OrMatch(MatchSet {
                rules: several.iter().map(of).collect(),
            })),
        },
    };
    Some(http_protocol_options::OutlierDetection {
        error_matcher: Some(error_matcher),
    })
}
