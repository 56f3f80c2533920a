//! What a DestinationRule says of failures: with a field both dialects get what it means, without it they do not.

use super::{Key, class, cluster, compile, member, snapshot, world};
use crate::compile::{Class, Dialect};
use crate::registry::Health;
use naka_wire::envoy::config::cluster::v3::Cluster;
use naka_wire::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;

fn rule(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: payment, namespace: default}}\n\
         spec: {{host: payment, trafficPolicy: {{{policy}}}}}\n"
    )
}

fn compiled(policy: &str, dialect: Dialect) -> Cluster {
    let members = vec![
        member(1, "order", "v1", Health::Healthy),
        member(2, "payment", "v1", Health::Healthy),
    ];
    let class = Class { dialect, ..class() };
    let key = Key::Cluster(cluster("payment", 80, ""));
    super::message(&compile(
        &world(&snapshot(&rule(policy)), members),
        &key,
        &class,
    ))
}

/// A cluster in words, what is packed in it too.
fn shown(policy: &str, dialect: Dialect) -> String {
    let cluster = compiled(policy, dialect);
    let http = cluster.typed_extension_protocol_options.values().next();
    let http = http.map(|any| naka_wire::unpack::<HttpProtocolOptions>(any).unwrap());
    let plain = Cluster {
        typed_extension_protocol_options: Default::default(),
        ..cluster
    };
    format!("{plain:?} {http:?}")
}

/// Block, a field in it, words that only the field brings.
const ROWS: &[(&str, &str, &[&str])] = &[
    (
        "outlierDetection",
        "consecutive5xxErrors: 7",
        &["consecutive_5xx: Some(UInt32Value { value: 7 })"],
    ),
    (
        "outlierDetection",
        "consecutive5xxErrors: 0",
        &["enforcing_consecutive_5xx: Some(UInt32Value { value: 0 })"],
    ),
    (
        "outlierDetection",
        "consecutiveGatewayErrors: 3",
        &[
            "consecutive_gateway_failure: Some(UInt32Value { value: 3 })",
            "enforcing_consecutive_gateway_failure: Some(UInt32Value { value: 100 })",
        ],
    ),
    (
        "outlierDetection",
        "splitExternalLocalOriginErrors: true",
        &["split_external_local_origin_errors: true"],
    ),
    (
        "outlierDetection",
        "splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 9",
        &["consecutive_local_origin_failure: Some(UInt32Value { value: 9 })"],
    ),
    (
        "outlierDetection",
        "interval: 77s",
        &["interval: Some(Duration { seconds: 77"],
    ),
    (
        "outlierDetection",
        "baseEjectionTime: 78s",
        &["base_ejection_time: Some(Duration { seconds: 78"],
    ),
    (
        "outlierDetection",
        "maxEjectionPercent: 42",
        &[
            "max_ejection_percent: Some(UInt32Value { value: 42 })",
            "always_eject_one_host: None",
        ],
    ),
    (
        "outlierDetection",
        "minHealthPercent: 33",
        &["healthy_panic_threshold: Some(Percent { value: 33.0 })"],
    ),
    (
        "outlierDetection",
        "failurePercentageThreshold: 30",
        &[
            "failure_percentage_threshold: Some(UInt32Value { value: 30 })",
            "enforcing_failure_percentage: Some(UInt32Value { value: 100 })",
        ],
    ),
    (
        "outlierDetection",
        "failurePercentageThreshold: 0",
        &["enforcing_failure_percentage: Some(UInt32Value { value: 0 })"],
    ),
    (
        "outlierDetection",
        "outlierDetectionHttpErrorCodes: [429]",
        &["error_matcher: Some(MatchPredicate { rule: Some(HttpResponseHeadersMatch("],
    ),
    (
        "outlierDetection",
        "outlierDetectionHttpErrorCodes: [503, 429]",
        &[
            "error_matcher: Some(MatchPredicate { rule: Some(OrMatch(",
            "Exact(\"429\")",
            "Exact(\"503\")",
        ],
    ),
    (
        "connectionPool",
        "tcp: {tcpKeepalive: {probes: 4}}",
        &["keepalive_probes: Some(UInt32Value { value: 4 })"],
    ),
    (
        "connectionPool",
        "tcp: {tcpKeepalive: {time: 77s}}",
        &["keepalive_time: Some(UInt32Value { value: 77 })"],
    ),
    (
        "connectionPool",
        "tcp: {tcpKeepalive: {interval: 5s}}",
        &["keepalive_interval: Some(UInt32Value { value: 5 })"],
    ),
    (
        "connectionPool",
        "tcp: {tcpKeepalive: {}}",
        &[
            "tcp_keepalive: Some(TcpKeepalive { keepalive_probes: None, keepalive_time: None, keepalive_interval: None",
        ],
    ),
    (
        "connectionPool",
        "tcp: {maxConnectionDuration: 79s}",
        &["max_connection_duration: Some(Duration { seconds: 79"],
    ),
    (
        "connectionPool",
        "tcp: {idleTimeout: 80s}",
        &["idle_timeout: Some(Duration { seconds: 80"],
    ),
    (
        "connectionPool",
        "http: {idleTimeout: 81s}, tcp: {idleTimeout: 5s}",
        &["idle_timeout: Some(Duration { seconds: 81"],
    ),
    (
        "connectionPool",
        "http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 6}",
        &["max_concurrent_streams: Some(UInt32Value { value: 6 })"],
    ),
    (
        "connectionPool",
        "http: {h2UpgradePolicy: UPGRADE, http2KeepAlive: {interval: 82s}}",
        &[
            "interval: Some(Duration { seconds: 82",
            "timeout: Some(Duration { seconds: 20",
        ],
    ),
    (
        "connectionPool",
        "http: {h2UpgradePolicy: UPGRADE, http2KeepAlive: {interval: 9s, timeout: 83s}}",
        &["timeout: Some(Duration { seconds: 83"],
    ),
    (
        "retryBudget",
        "percent: 35.5",
        &["budget_percent: Some(Percent { value: 35.5 })"],
    ),
    (
        "retryBudget",
        "budgetInterval: 84s",
        &["budget_interval: Some(Duration { seconds: 84"],
    ),
    (
        "retryBudget",
        "minRetryConcurrency: 11",
        &["min_retry_concurrency: Some(UInt32Value { value: 11 })"],
    ),
];

#[test]
fn every_field_of_resilience_shows_in_what_proxies_get() {
    for dialect in [Dialect::Naka, Dialect::Envoy] {
        for (block, field, words) in ROWS {
            let with = shown(&format!("{block}: {{{field}}}"), dialect);
            let without = shown(&format!("{block}: {{}}"), dialect);
            for word in *words {
                assert!(
                    with.contains(word),
                    "{dialect:?} {field}: no {word} in {with}"
                );
                assert!(
                    !without.contains(word),
                    "{dialect:?} {field}: {word} in {without}"
                );
            }
        }
    }
}

#[test]
fn what_is_not_written_is_as_in_istio() {
    let none = compiled("", Dialect::Naka);
    assert_eq!(
        (none.outlier_detection, none.common_lb_config),
        (None, None)
    );
    // An Envoy is told not to panic.
    let envoy = compiled("", Dialect::Envoy).common_lb_config.unwrap();
    assert_eq!(envoy.healthy_panic_threshold.unwrap().value, 0.0);
    let empty = compiled("outlierDetection: {}", Dialect::Naka).outlier_detection;
    let empty = empty.unwrap();
    assert_eq!((empty.consecutive_5xx, empty.interval), (None, None));
    assert!(empty.always_eject_one_host.unwrap().value);
    assert_eq!(empty.enforcing_success_rate.unwrap().value, 0);
    // Local failures have a threshold only where they are kept apart.
    let local = compiled(
        "outlierDetection: {consecutiveLocalOriginFailures: 9}",
        Dialect::Naka,
    );
    assert_eq!(
        local
            .outlier_detection
            .unwrap()
            .consecutive_local_origin_failure,
        None
    );
    // The old spelling means the same.
    assert_eq!(
        compiled("circuitBreaker: {consecutiveErrors: 4}", Dialect::Naka),
        compiled("outlierDetection: {consecutive5xxErrors: 4}", Dialect::Naka)
    );
}

#[test]
fn a_budget_takes_the_place_of_a_limit_of_retries() {
    let thresholds = |policy: &str, dialect| {
        let breakers = compiled(policy, dialect).circuit_breakers.unwrap();
        let one = breakers.thresholds.into_iter().next().unwrap();
        let percent = one.retry_budget.map(|b| b.budget_percent.unwrap().value);
        (one.max_retries.map(|limit| limit.value), percent)
    };
    let limit = "connectionPool: {http: {maxRetries: 3}}";
    let both = "connectionPool: {http: {maxRetries: 3}}, retryBudget: {percent: 50}";
    for (policy, naka, envoy) in [
        ("", (None, None), (None, Some(20.0))),
        (limit, (Some(3), None), (Some(3), None)),
        (both, (None, Some(50.0)), (None, Some(50.0))),
        ("retryBudget: {}", (None, Some(20.0)), (None, Some(20.0))),
    ] {
        assert_eq!(thresholds(policy, Dialect::Naka), naka, "{policy}");
        assert_eq!(thresholds(policy, Dialect::Envoy), envoy, "{policy}");
    }
}

#[test]
fn a_rule_with_what_cannot_be_meant_is_refused() {
    for wrong in [
        "interval: 0s",
        "baseEjectionTime: 0s",
        "maxEjectionPercent: 101",
        "outlierDetectionHttpErrorCodes: [99]",
        "outlierDetectionHttpErrorCodes: [600]",
        "consecutive5xxErrors: -1",
    ] {
        let text = rule(&format!("outlierDetection: {{{wrong}}}"));
        let decoded = naka_api::decode_yaml("t", text.as_bytes(), naka_api::Mode::Compat);
        let errors: Vec<_> = decoded.findings.iter().filter(|f| f.is_error()).collect();
        assert_eq!(errors.len(), 1, "{wrong}: {errors:?}");
        assert!(errors[0].field.contains("outlierDetection."), "{errors:?}");
        assert!(decoded.objects.is_empty(), "{wrong}");
    }
    for (wrong, field) in [
        (
            "connectionPool: {tcp: {connectTimeout: 0s}}",
            "connectTimeout",
        ),
        (
            "connectionPool: {tcp: {maxConnectionDuration: 0s}}",
            "maxConnectionDuration",
        ),
        (
            "connectionPool: {tcp: {tcpKeepalive: {time: 10ms}}}",
            "tcpKeepalive.time",
        ),
        (
            "connectionPool: {http: {http2KeepAlive: {interval: 0s}}}",
            "http2KeepAlive.interval",
        ),
        ("retryBudget: {percent: 101}", "retryBudget.percent"),
    ] {
        let text = rule(wrong);
        let decoded = naka_api::decode_yaml("t", text.as_bytes(), naka_api::Mode::Compat);
        let errors: Vec<_> = decoded.findings.iter().filter(|f| f.is_error()).collect();
        assert_eq!(errors.len(), 1, "{wrong}: {errors:?}");
        assert!(errors[0].field.ends_with(field), "{errors:?}");
        assert!(decoded.objects.is_empty(), "{wrong}");
    }
}

fn backend(spec: &str) -> String {
    format!(
        "apiVersion: naka.dev/v1alpha1\nkind: BackendPolicy\nmetadata: {{name: payment, namespace: default}}\n\
         spec: {{targetRefs: [{{kind: Service, name: payment}}], {spec}}}\n"
    )
}

fn compiled_with(objects: &str, dialect: Dialect) -> Cluster {
    let members = vec![
        member(1, "order", "v1", Health::Healthy),
        member(2, "payment", "v1", Health::Healthy),
    ];
    let class = Class { dialect, ..class() };
    let key = Key::Cluster(cluster("payment", 80, ""));
    super::message(&compile(&world(&snapshot(objects), members), &key, &class))
}

/// A policy, what a proxy of ours is told of it, and whether an Envoy is.
const POLICIES: &[(&str, &str, bool)] = &[
    ("breaker: {}", "NumberValue(60000.0)", false),
    (
        "breaker: {consecutiveFailures: 77}",
        "NumberValue(77.0)",
        false,
    ),
    ("breaker: {openFor: 78s}", "NumberValue(78000.0)", false),
    ("breaker: {trials: 79}", "NumberValue(79.0)", false),
    ("breaker: {statuses: [444]}", "NumberValue(444.0)", false),
    (
        "breaker: {failureCount: {failures: 81, window: 82s}}",
        "NumberValue(82000.0)",
        false,
    ),
    (
        "breaker: {failureRate: {percent: 12.5}}",
        "NumberValue(12.5)",
        false,
    ),
    (
        "fallback: {response: {status: 299, body: sorry}}",
        "StringValue(\"sorry\")",
        false,
    ),
    (
        "fallback: {destination: {host: order}}",
        "outbound|80||order.default.svc.cluster.local",
        false,
    ),
    (
        "healthCheck: {http: {path: /well}}",
        "path: \"/well\"",
        true,
    ),
    (
        "healthCheck: {grpc: {service: pay}}",
        "service_name: \"pay\"",
        true,
    ),
    ("healthCheck: {tcp: {}}", "TcpHealthCheck", true),
    (
        "healthCheck: {tcp: {}, interval: 77s}",
        "interval: Some(Duration { seconds: 77",
        true,
    ),
    (
        "healthCheck: {tcp: {}, unhealthyThreshold: 78}",
        "unhealthy_threshold: Some(UInt32Value { value: 78 })",
        true,
    ),
    (
        "healthCheck: {tcp: {}, healthyThreshold: 79}",
        "healthy_threshold: Some(UInt32Value { value: 79 })",
        true,
    ),
    (
        "breaker: {failureCount: {failures: 81, window: 82s}}",
        "NumberValue(81.0)",
        false,
    ),
    (
        "breaker: {failureRate: {percent: 12.5, window: 83s}}",
        "NumberValue(83000.0)",
        false,
    ),
    (
        "breaker: {failureRate: {percent: 12.5, minimumCalls: 84}}",
        "NumberValue(84.0)",
        false,
    ),
    (
        "fallback: {reasons: [breaker-open], response: {}}",
        "StringValue(\"breaker-open\")",
        false,
    ),
    (
        "fallback: {statuses: [445], response: {}}",
        "NumberValue(445.0)",
        false,
    ),
    (
        "fallback: {response: {status: 299}}",
        "NumberValue(299.0)",
        false,
    ),
    (
        "fallback: {response: {contentType: text/sorry}}",
        "text/sorry",
        false,
    ),
    (
        "fallback: {destination: {host: payment, port: 8080}}",
        "outbound|8080||payment",
        false,
    ),
    ("hedge: {after: 75s}", "NumberValue(75000.0)", false),
    (
        "healthCheck: {http: {path: /well, host: well.example}}",
        "host: \"well.example\"",
        true,
    ),
    (
        "healthCheck: {http: {path: /well, statuses: [298]}}",
        "start: 298",
        true,
    ),
    (
        "healthCheck: {tcp: {}, timeout: 76s}",
        "timeout: Some(Duration { seconds: 76",
        true,
    ),
];

#[test]
fn a_backend_policy_is_told_to_whoever_understands_it() {
    for (spec, word, to_envoy) in POLICIES {
        let with = format!("{:?}", compiled_with(&backend(spec), Dialect::Naka));
        let without = format!("{:?}", compiled_with("", Dialect::Naka));
        assert!(with.contains(word), "{spec}: no {word} in {with}");
        assert!(!without.contains(word), "{spec}");
        let envoy = format!("{:?}", compiled_with(&backend(spec), Dialect::Envoy));
        assert_eq!(envoy.contains(word), *to_envoy, "{spec}: {envoy}");
    }
}

#[test]
fn a_backend_policy_is_for_what_it_names() {
    let of = |target: &str| {
        let policy = backend("breaker: {consecutiveFailures: 77}");
        let policy = policy.replace("{kind: Service, name: payment}", target);
        let shown = format!("{:?}", compiled_with(&policy, Dialect::Naka));
        shown.contains("NumberValue(77.0)")
    };
    for (target, holds) in [
        ("{kind: Service, name: payment}", true),
        ("{kind: Service, name: order}", false),
        ("{kind: Gateway, name: payment}", false),
        ("{kind: Service, name: payment, port: 80}", true),
        ("{kind: Service, name: payment, port: 8080}", false),
        ("{kind: Service, name: payment, subset: v1}", false),
        ("{group: '', kind: Service, name: payment}", true),
        ("{group: apps, kind: Service, name: payment}", false),
        (
            "{group: networking.istio.io, kind: ServiceEntry, name: payment}",
            true,
        ),
        ("{group: networking.istio.io, name: payment}", false),
    ] {
        assert_eq!(of(target), holds, "{target}");
    }
}

#[test]
fn a_fallback_leads_to_the_subset_it_names() {
    let subsets = rule("").replace(
        "trafficPolicy: {}",
        "subsets: [{name: v1, labels: {version: v1}}]",
    );
    let shown = |subset: &str| {
        let destination =
            format!("fallback: {{destination: {{host: payment, port: 8080{subset}}}}}");
        let objects = format!("{subsets}---\n{}", backend(&destination));
        format!("{:?}", compiled_with(&objects, Dialect::Naka))
    };
    let (whole, named) = ("outbound|8080||payment", "outbound|8080|v1|payment");
    let (with, without) = (shown(", subset: v1"), shown(""));
    assert!(with.contains(named) && !with.contains(whole), "{with}");
    assert!(
        without.contains(whole) && !without.contains(named),
        "{without}"
    );
    // One that is not there is no reason to call somebody else.
    let other = shown(", subset: v9");
    assert!(!other.contains("outbound|8080|"), "{other}");
}

#[test]
fn the_most_exact_policy_holds_and_what_cannot_be_meant_is_refused() {
    let exact = backend("breaker: {consecutiveFailures: 77}")
        .replace("name: payment}]", "name: payment, port: 80}]")
        .replace("{name: payment, namespace", "{name: exact, namespace");
    let both = format!(
        "{}---\n{exact}",
        backend("breaker: {consecutiveFailures: 78}")
    );
    let shown = format!("{:?}", compiled_with(&both, Dialect::Naka));
    assert!(shown.contains("NumberValue(77.0)") && !shown.contains("NumberValue(78.0)"));
    for (wrong, field) in [
        ("breaker: {openFor: 0s}", "spec.breaker.openFor"),
        ("fallback: {}", "spec.fallback"),
        (
            "fallback: {response: {}, destination: {host: a}}",
            "spec.fallback",
        ),
        (
            "fallback: {response: {}, reasons: [nope]}",
            "spec.fallback.reasons[0]",
        ),
        ("healthCheck: {}", "spec.healthCheck"),
        (
            "healthCheck: {http: {path: well}}",
            "spec.healthCheck.http.path",
        ),
        (
            "breaker: {failureCount: {failures: 1, window: 1s}, failureRate: {percent: 1}}",
            "spec.breaker.failureRate",
        ),
    ] {
        let text = backend(wrong);
        let decoded = naka_api::decode_yaml("t", text.as_bytes(), naka_api::Mode::Compat);
        let errors: Vec<_> = decoded.findings.iter().filter(|f| f.is_error()).collect();
        assert_eq!(errors.len(), 1, "{wrong}: {errors:?}");
        assert_eq!(errors[0].field, field);
        assert!(decoded.objects.is_empty(), "{wrong}");
    }
}

#[test]
fn who_waits_first_is_told_by_annotation() {
    let annotated = |text: &str| {
        rule("").replace(
            "metadata: {name: payment, namespace: default}",
            &format!("metadata: {{name: payment, namespace: default, annotations: {{naka.dev/priority: \"{text}\"}}}}"),
        )
    };
    let shown = |text: &str| format!("{:?}", compiled_with(&annotated(text), Dialect::Naka));
    assert!(shown("X-Tier: gold,silver").contains("x-tier: gold, silver"));
    for wrong in ["x-tier", ": gold", "x tier: gold", "x-tier: gold,,"] {
        let decoded =
            naka_api::decode_yaml("t", annotated(wrong).as_bytes(), naka_api::Mode::Compat);
        let at = "metadata.annotations[naka.dev/priority]";
        assert!(
            decoded
                .findings
                .iter()
                .any(|f| f.is_error() && f.field == at),
            "{wrong}"
        );
    }
}
