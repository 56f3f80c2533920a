//! Outlier detection and the panic threshold of a cluster.
//!
//! Success rates are not looked at: Istio turns them off.

use crate::intake::Error;
use naka_engine::outlier::{Outlier, Share};
use naka_wire::envoy::config::cluster::v3 as pb;
use naka_wire::envoy::config::common::matcher::v3::{MatchPredicate, match_predicate::Rule};
use naka_wire::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use naka_wire::envoy::extensions::upstreams::http::v3::http_protocol_options;
use naka_wire::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use naka_wire::google::protobuf::{Duration as Wire, UInt32Value};
use naka_wire::time;
use std::time::Duration;

/// What ejects an endpoint.
pub(super) fn outlier(wire: &pb::Cluster) -> Result<Option<Box<Outlier>>, Error> {
    let Some(wire) = &wire.outlier_detection else {
        return Ok(None);
    };
    let default = Outlier::default();
    let number = |value: &Option<UInt32Value>, default| value.as_ref().map_or(default, |v| v.value);
    // A threshold counts only where it is in force; a share of that is not known here, any is all.
    let threshold = |value, enforcing, in_force: bool| {
        let on = number(enforcing, u32::from(in_force)) > 0;
        if on { number(value, 5) } else { 0 }
    };
    let time = |value: &Option<Wire>, default, field| match value {
        None => Ok(default),
        Some(wire) => positive(wire, field),
    };
    let base = time(&wire.base_ejection_time, default.base, "base_ejection_time")?;
    Ok(Some(Box::new(Outlier {
        errors: threshold(&wire.consecutive_5xx, &wire.enforcing_consecutive_5xx, true),
        gateway: threshold(
            &wire.consecutive_gateway_failure,
            &wire.enforcing_consecutive_gateway_failure,
            false,
        ),
        local: threshold(
            &wire.consecutive_local_origin_failure,
            &wire.enforcing_consecutive_local_origin_failure,
            true,
        ),
        split: wire.split_external_local_origin_errors,
        interval: time(&wire.interval, default.interval, "interval")?,
        base,
        longest: time(
            &wire.max_ejection_time,
            Outlier::longest_of(base),
            "max_ejection_time",
        )?,
        percent: number(&wire.max_ejection_percent, default.percent),
        at_least_one: wire.always_eject_one_host.is_some_and(|one| one.value),
        statuses: None,
        share: share(wire),
    })))
}

/// The share of failures that ejects, where it is in force; what is not said is Envoy's default.
fn share(wire: &pb::OutlierDetection) -> Option<Share> {
    let number = |value: &Option<UInt32Value>, default| value.as_ref().map_or(default, |v| v.value);
    (number(&wire.enforcing_failure_percentage, 0) > 0).then(|| Share {
        percent: number(&wire.failure_percentage_threshold, 85),
        hosts: number(&wire.failure_percentage_minimum_hosts, 5),
        volume: number(&wire.failure_percentage_request_volume, 50),
    })
}

fn positive(wire: &Wire, field: &str) -> Result<Duration, Error> {
    time::from_wire(wire)
        .filter(|time| time.as_millis() > 0)
        .ok_or_else(|| Error::at(format!("outlier_detection.{field}"), "not at least 1 ms"))
}

/// The healthy share in percent below which all endpoints are called.
pub(super) fn panic(wire: &pb::Cluster) -> Result<u32, Error> {
    let threshold = wire
        .common_lb_config
        .as_ref()
        .and_then(|config| config.healthy_panic_threshold.as_ref());
    let Some(percent) = threshold.map(|threshold| threshold.value) else {
        return Ok(0);
    };
    if !(0.0..=100.0).contains(&percent) {
        let at = "common_lb_config.healthy_panic_threshold";
        return Err(Error::at(at, "not a percentage"));
    }
    // Envoy cuts it too.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is from 0 to 100"
    )]
    Ok(percent as u32)
}

/// The statuses that are errors: a list of them is all that is known here.
pub(super) fn statuses(
    wire: &http_protocol_options::OutlierDetection,
) -> Result<Option<Box<[u16]>>, Error> {
    let Some(matcher) = &wire.error_matcher else {
        return Ok(None);
    };
    let alternatives = match &matcher.rule {
        Some(Rule::OrMatch(set)) => set.rules.as_slice(),
        _ => std::slice::from_ref(matcher),
    };
    let all: Option<Box<[u16]>> = alternatives.iter().map(status).collect();
    let at = "typed_extension_protocol_options.outlier_detection.error_matcher";
    all.map(Some)
        .ok_or_else(|| Error::at(at, "only a list of exact statuses is supported"))
}

fn status(one: &MatchPredicate) -> Option<u16> {
    let Some(Rule::HttpResponseHeadersMatch(headers)) = &one.rule else {
        return None;
    };
    let [header] = headers.headers.as_slice() else {
        return None;
    };
    let Some(HeaderMatchSpecifier::StringMatch(text)) = &header.header_match_specifier else {
        return None;
    };
    match &text.match_pattern {
        Some(MatchPattern::Exact(code)) if header.name == ":status" && !header.invert_match => {
            code.parse().ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Wire, outlier, panic, pb, positive, statuses};
    use naka_engine::outlier::{Outlier, Share};
    use naka_wire::envoy::config::cluster::v3::cluster::CommonLbConfig;
    use naka_wire::envoy::config::common::matcher::v3::{
        HttpHeadersMatch, MatchPredicate,
        match_predicate::{MatchSet, Rule},
    };
    use naka_wire::envoy::config::route::v3::{
        HeaderMatcher, header_matcher::HeaderMatchSpecifier,
    };
    use naka_wire::envoy::extensions::upstreams::http::v3::http_protocol_options;
    use naka_wire::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
    use naka_wire::envoy::r#type::v3::Percent;
    use naka_wire::google::protobuf::{BoolValue, UInt32Value};
    use std::time::Duration;

    fn of(wire: pb::OutlierDetection) -> Result<Outlier, crate::intake::Error> {
        let wire = pb::Cluster {
            outlier_detection: Some(wire),
            ..pb::Cluster::default()
        };
        outlier(&wire).map(|made| *made.unwrap())
    }

    #[test]
    fn what_is_not_said_is_envoys_default() {
        assert_eq!(outlier(&pb::Cluster::default()).unwrap(), None);
        assert_eq!(of(Default::default()).unwrap(), Outlier::default());
        let number = |value| Some(UInt32Value { value });
        let said = of(pb::OutlierDetection {
            consecutive_5xx: number(7),
            enforcing_consecutive_5xx: number(0),
            consecutive_gateway_failure: number(3),
            enforcing_consecutive_gateway_failure: number(100),
            split_external_local_origin_errors: true,
            consecutive_local_origin_failure: number(4),
            base_ejection_time: Some(Wire {
                seconds: 400,
                nanos: 0,
            }),
            max_ejection_percent: number(50),
            always_eject_one_host: Some(BoolValue { value: true }),
            failure_percentage_threshold: number(30),
            enforcing_failure_percentage: number(100),
            ..Default::default()
        });
        let base = Duration::from_secs(400);
        let want = Outlier {
            errors: 0,
            gateway: 3,
            local: 4,
            split: true,
            base,
            longest: base,
            percent: 50,
            at_least_one: true,
            share: Some(Share {
                percent: 30,
                hosts: 5,
                volume: 50,
            }),
            ..Outlier::default()
        };
        assert_eq!(said.unwrap(), want);
        // Not in force without a word on that.
        let off = pb::OutlierDetection {
            failure_percentage_threshold: number(30),
            ..Default::default()
        };
        assert_eq!(of(off).unwrap().share, None);
    }

    #[test]
    fn nonsense_is_refused() {
        for (seconds, nanos) in [(0, 0), (-1, 0), (0, 999_999)] {
            assert!(positive(&Wire { seconds, nanos }, "interval").is_err());
        }
        let percent = |value| pb::Cluster {
            common_lb_config: Some(CommonLbConfig {
                healthy_panic_threshold: Some(Percent { value }),
                ..CommonLbConfig::default()
            }),
            ..pb::Cluster::default()
        };
        assert_eq!(panic(&pb::Cluster::default()).unwrap(), 0);
        assert_eq!(panic(&percent(30.9)).unwrap(), 30);
        for wrong in [-1.0, 100.5, f64::NAN] {
            assert!(panic(&percent(wrong)).is_err());
        }
    }

    #[test]
    fn statuses_are_a_list_of_exact_ones() {
        let one = |name: &str, pattern| MatchPredicate {
            rule: Some(Rule::HttpResponseHeadersMatch(HttpHeadersMatch {
                headers: vec![HeaderMatcher {
                    name: name.to_owned(),
                    header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(
                        StringMatcher {
                            match_pattern: Some(pattern),
                            ..StringMatcher::default()
                        },
                    )),
                    ..HeaderMatcher::default()
                }],
            })),
        };
        let exact = |text: &str| MatchPattern::Exact(text.to_owned());
        let read =
            |error_matcher| statuses(&http_protocol_options::OutlierDetection { error_matcher });
        assert_eq!(read(None).unwrap(), None);
        let got = read(Some(one(":status", exact("429"))));
        assert_eq!(got.unwrap().as_deref(), Some(&[429][..]));
        let several = [one(":status", exact("429")), one(":status", exact("503"))];
        let several = Rule::OrMatch(MatchSet {
            rules: several.into(),
        });
        let got = read(Some(MatchPredicate {
            rule: Some(several),
        }));
        assert_eq!(got.unwrap().as_deref(), Some(&[429, 503][..]));
        let prefix = MatchPattern::Prefix("4".to_owned());
        for wrong in [
            one("x", exact("429")),
            one(":status", prefix),
            MatchPredicate { rule: None },
        ] {
            assert!(read(Some(wrong)).is_err());
        }
    }
}
