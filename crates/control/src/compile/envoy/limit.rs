//! Rate limits of an Envoy: one filter per listener with a token bucket for each rule, and routes that name the rules
//! they are under.
//!
//! A rule is the descriptor `generic_key = <rule>`; with keys that are headers each value has a bucket of its own, and
//! requests without the header share one. What an Envoy cannot ask (other keys, conditions) makes the rule hold for all
//! requests together: less gets through, never more, and status says so.

use crate::compile::View;
use crate::compile::gateway::chain::{Chain, Serves};
use crate::compile::limit;
use crate::world::World;
use naka_expr::{Expression, Place, Use};
use naka_types::node::LIMIT;
use naka_wire::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, RuntimeFractionalPercent,
};
use naka_wire::envoy::config::route::v3::rate_limit::{Action, action};
use naka_wire::envoy::config::route::v3::{
    HeaderMatcher, RateLimit, Route, header_matcher::HeaderMatchSpecifier, route,
};
use naka_wire::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use naka_wire::envoy::extensions::common::ratelimit::v3::{
    LocalRateLimitDescriptor, XRateLimitHeadersRfcVersion,
};
use naka_wire::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use naka_wire::envoy::r#type::v3::{FractionalPercent, TokenBucket, fractional_percent};
use naka_wire::google::protobuf::{BoolValue, UInt32Value};
use naka_wire::time;
use naka_wire::v1::{self, RateLimitRule};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// An Envoy refuses shorter intervals.
const SHORTEST: Duration = Duration::from_millis(50);
const RULE: &str = "generic_key";
const ABSENT: &str = "header_match";

/// Headers a rule's keys are, if all of them are headers.
fn headers(rule: &RateLimitRule) -> Option<Vec<String>> {
    let header = |key: &String| {
        let expression = Expression::compile(key, Use::Key, Place::Limit).ok()?;
        let name = key
            .trim()
            .strip_prefix("request.headers['")?
            .strip_suffix("']")?;
        (expression.reads().count() == 1 && !name.contains('\'')).then(|| name.to_ascii_lowercase())
    };
    rule.keys.iter().map(header).collect()
}

/// The filter of a listener whose routes are under these rules.
pub(super) fn filter(rules: &[RateLimitRule]) -> Option<HttpFilter> {
    config(rules).as_ref().map(filter_of)
}

fn config(rules: &[RateLimitRule]) -> Option<LocalRateLimit> {
    if rules.is_empty() {
        return None;
    }
    let all = |percent| {
        Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator: percent,
                denominator: fractional_percent::DenominatorType::Hundred as i32,
            }),
            ..RuntimeFractionalPercent::default()
        })
    };
    let told = rules.iter().any(|rule| rule.headers);
    let keys = rules.iter().map(|rule| rule.buckets).max();
    let wait = rules
        .iter()
        .map(|rule| per(rule).as_secs_f64() / f64::from(number(rule.tokens)));
    let wait = wait.fold(1.0, f64::max).ceil();
    Some(LocalRateLimit {
        stat_prefix: "naka".to_owned(),
        // The bucket of requests without a rule: never empty.
        token_bucket: Some(TokenBucket {
            max_tokens: u32::MAX,
            tokens_per_fill: Some(UInt32Value { value: u32::MAX }),
            fill_interval: Some(time::to_wire(Duration::from_secs(1))),
        }),
        always_consume_default_token_bucket: Some(BoolValue { value: false }),
        filter_enabled: all(100),
        filter_enforced: all(100),
        descriptors: rules.iter().flat_map(descriptors).collect(),
        max_dynamic_descriptors: keys.map(|value| UInt32Value { value }),
        enable_x_ratelimit_headers: if told {
            XRateLimitHeadersRfcVersion::DraftVersion03 as i32
        } else {
            XRateLimitHeadersRfcVersion::Off as i32
        },
        response_headers_to_add: vec![HeaderValueOption {
            header: Some(HeaderValue {
                key: "retry-after".to_owned(),
                value: format!("{wait:.0}"),
                ..HeaderValue::default()
            }),
            ..HeaderValueOption::default()
        }],
        ..LocalRateLimit::default()
    })
}

/// The same at a program's port, where every request is under all rules.
pub(super) fn at_program(rules: &[RateLimitRule]) -> Option<HttpFilter> {
    let mut config = config(rules)?;
    config.rate_limits = rules.iter().flat_map(actions).collect();
    Some(filter_of(&config))
}

fn filter_of(config: &LocalRateLimit) -> HttpFilter {
    HttpFilter {
        name: "envoy.filters.http.local_ratelimit".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(naka_wire::pack(
            config,
        ))),
        ..HttpFilter::default()
    }
}

fn descriptors(rule: &RateLimitRule) -> Vec<LocalRateLimitDescriptor> {
    let per = per(rule);
    let entry = |key: &str, value: &str| Entry {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    // The same rate in an interval that an Envoy takes.
    let times = u32::try_from(SHORTEST.as_nanos().div_ceil(per.as_nanos().max(1)))
        .unwrap_or(1)
        .max(1);
    let bucket = TokenBucket {
        max_tokens: number(rule.burst),
        tokens_per_fill: Some(UInt32Value {
            value: number(rule.tokens).saturating_mul(times),
        }),
        fill_interval: Some(time::to_wire(per * times)),
    };
    let descriptor = |entries| LocalRateLimitDescriptor {
        entries,
        token_bucket: Some(bucket),
        shadow_mode: rule.dry_run,
    };
    let own = entry(RULE, &rule.name);
    match headers(rule) {
        Some(names) if !names.is_empty() => {
            // An entry without a value stands for every value.
            let keyed = names.iter().map(|name| entry(name, ""));
            let keyed = std::iter::once(own.clone()).chain(keyed).collect();
            vec![
                descriptor(keyed),
                descriptor(vec![own, entry(ABSENT, "absent")]),
            ]
        }
        _ => vec![descriptor(vec![own])],
    }
}

/// What a route says of the rules it is under.
fn actions(rule: &RateLimitRule) -> Vec<RateLimit> {
    let action = |specifier| Action {
        action_specifier: Some(specifier),
    };
    let own = action(action::ActionSpecifier::GenericKey(action::GenericKey {
        descriptor_value: rule.name.clone(),
        ..action::GenericKey::default()
    }));
    let set = |actions| RateLimit {
        actions,
        ..RateLimit::default()
    };
    let Some(names) = headers(rule).filter(|names| !names.is_empty()) else {
        return vec![set(vec![own])];
    };
    let keyed = names.iter().map(|name| {
        action(action::ActionSpecifier::RequestHeaders(
            action::RequestHeaders {
                header_name: name.clone(),
                descriptor_key: name.clone(),
                ..action::RequestHeaders::default()
            },
        ))
    });
    let mut all = vec![set(std::iter::once(own.clone()).chain(keyed).collect())];
    // A request without one of them makes no such descriptor: it is counted with all others that have none.
    all.extend(names.iter().map(|name| {
        let absent = action::HeaderValueMatch {
            descriptor_value: "absent".to_owned(),
            headers: vec![HeaderMatcher {
                name: name.clone(),
                header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(false)),
                ..HeaderMatcher::default()
            }],
            ..action::HeaderValueMatch::default()
        };
        let absent = action(action::ActionSpecifier::HeaderValueMatch(absent));
        set(vec![own.clone(), absent])
    }));
    all
}

/// Rules that routes of a gateway's chain are under, each once.
pub(super) fn of_chain(chain: &Chain) -> Vec<RateLimitRule> {
    let Serves::Http(hosts) = &chain.serves else {
        return Vec::new();
    };
    let models = hosts.values().flat_map(|host| &host.routes);
    let limits = models.flat_map(|model| model.limits());
    let limits: BTreeMap<&str, _> = limits.map(|limit| (limit.name.as_str(), limit)).collect();
    limit::rules(&limits.into_values().cloned().collect::<Vec<_>>())
}

/// Names the rules of a route's own entry in its action, as an Envoy reads them; the entry itself goes.
pub(super) fn named(route: &mut Route) {
    let Some(entry) = route.typed_per_filter_config.remove(LIMIT) else {
        return;
    };
    let rules =
        naka_wire::unpack(&entry).map_or_else(|_| Vec::new(), |own: v1::RateLimit| own.rules);
    under(route, &rules);
}

/// Puts a route under rules.
pub(super) fn under(route: &mut Route, rules: &[RateLimitRule]) {
    if let Some(route::Action::Route(action)) = &mut route.action {
        action.rate_limits.extend(rules.iter().flat_map(actions));
    }
}

fn per(rule: &RateLimitRule) -> Duration {
    Duration::from_nanos(rule.interval_ns)
}

fn number(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// What is left of rules that an Envoy cannot ask, in words for status.
pub(super) fn not_expressed(world: &World) -> BTreeSet<String> {
    let view = View::new(world);
    let namespaces = world.limits.keys();
    let all = namespaces.flat_map(|namespace| limit::all(&view, namespace));
    let rules = limit::rules(&all.collect::<Vec<_>>());
    let words = rules.iter().filter_map(|rule| {
        let what = match (rule.when.as_str(), headers(rule)) {
            ("", Some(_)) => return None,
            ("", None) => "cannot tell its keys apart, so all requests share one bucket",
            (_, _) => "does not ask its condition, so it holds for all requests",
        };
        Some(format!("limits: rule {}: an Envoy {what}", rule.name))
    });
    let mut all: BTreeSet<String> = words.collect();
    if !rules.is_empty() {
        all.insert("limits: at a gateway's Envoy each server of a Gateway with TLS, and each port, has buckets of its own".to_owned());
    }
    all
}
