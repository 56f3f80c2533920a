//! A BackendPolicy on the wire. Health checks are Envoy's own message, for everybody. Breaker, fallback and hedge stand in the
//! cluster's metadata under our name: an Envoy has no word for them, and its status says so.

use super::{Class, View};
use naka_api::own::backend_policy::{Ask, Breaker, FallbackTo, HealthCheck, Policy};
use naka_types::host::Host;
use naka_types::name::ClusterName;
use naka_wire::envoy::config::core::v3::{self as pb, health_check as ask};
use naka_wire::envoy::r#type::v3::Int64Range;
use naka_wire::google::protobuf::{UInt32Value, Value};
use naka_wire::{time, values};
use std::time::Duration;

/// What holds for a destination.
#[derive(Debug)]
pub(crate) struct Model {
    policy: Policy,
    /// Host that health checks name.
    host: String,
    /// The cluster that answers instead.
    pub(super) cluster: Option<ClusterName>,
}

/// What holds for a destination, if anything does.
pub(super) fn of(
    view: &View<'_>,
    (host, port, subset): (&Host, u16, &str),
    class: &Class,
) -> Option<Model> {
    let object = view.backend((host, port, subset), &class.namespace)?;
    let policy = object.backend_policy()?.policy.clone();
    let cluster = match policy.fallback.as_ref().map(|fallback| &fallback.to) {
        Some(FallbackTo::Destination(to)) => {
            let subset = to.subset.as_deref().unwrap_or_default();
            Some(ClusterName::outbound(
                to.port.unwrap_or(port),
                subset,
                to.host.as_str(),
            ))
        }
        _ => None,
    };
    if let Some(name) = &cluster
        && super::target(view, name, class).is_none()
    {
        let finding = naka_types::finding::Finding::new(
            naka_api::codes::L314.id,
            format!("the fallback {name} does not exist; failures get their own answer"),
        );
        let at = "spec.fallback.destination";
        view.finding(finding.at(at.to_owned()).on(object.reference()));
    }
    let cluster = cluster.filter(|name| super::target(view, name, class).is_some());
    Some(Model {
        policy,
        host: host.as_str().to_owned(),
        cluster,
    })
}

/// What of it an Envoy has no words for.
pub(crate) fn not_expressed(policy: &Policy) -> Vec<&'static str> {
    let mut words = Vec::new();
    if policy.breaker.is_some() {
        words.push("breaker");
    }
    if policy.fallback.is_some() {
        words.push("fallback");
    }
    if policy.hedge.is_some() {
        words.push("hedge");
    }
    words
}

/// Health checks.
pub(super) fn checks(model: &Model) -> Option<pb::HealthCheck> {
    let check = model.policy.check.as_ref()?;
    let number = |value| Some(UInt32Value { value });
    let every = Some(time::to_wire(check.interval));
    Some(pb::HealthCheck {
        timeout: Some(time::to_wire(check.timeout)),
        interval: every,
        // Else an endpoint that was never called is asked once a minute, and one that fails once in between.
        no_traffic_interval: every,
        unhealthy_threshold: number(check.unhealthy),
        healthy_threshold: number(check.healthy),
        interval_jitter_percent: JITTER,
        health_checker: Some(asked(check, &model.host)),
        ..pb::HealthCheck::default()
    })
}

/// How far apart questions of proxies that started together drift, in percent of the interval.
const JITTER: u32 = 20;

fn asked(check: &HealthCheck, host: &str) -> ask::HealthChecker {
    match &check.ask {
        Ask::Http {
            path,
            host: own,
            statuses,
        } => ask::HealthChecker::HttpHealthCheck(ask::HttpHealthCheck {
            host: if own.is_empty() { host } else { own }.to_owned(),
            path: path.clone(),
            expected_statuses: statuses
                .iter()
                .map(|status| Int64Range {
                    start: i64::from(*status),
                    end: i64::from(*status) + 1,
                })
                .collect(),
            // Else one such answer takes an endpoint out, whatever the threshold.
            retriable_statuses: vec![Int64Range {
                start: 100,
                end: 600,
            }],
            ..ask::HttpHealthCheck::default()
        }),
        Ask::Grpc { service } => ask::HealthChecker::GrpcHealthCheck(ask::GrpcHealthCheck {
            service_name: service.clone(),
            authority: host.to_owned(),
            ..ask::GrpcHealthCheck::default()
        }),
        Ask::Tcp => ask::HealthChecker::TcpHealthCheck(ask::TcpHealthCheck::default()),
    }
}

fn millis(time: Duration) -> Value {
    values::number(time.as_secs_f64() * 1000.0)
}

fn numbers(all: &[u16]) -> Value {
    values::list(all.iter().map(|n| values::number(f64::from(*n))))
}

/// Breaker, fallback and hedge as fields of our own metadata.
pub(super) fn fields(model: &Model) -> Vec<(String, Value)> {
    let mut fields = Vec::new();
    if let Some(own) = &model.policy.breaker {
        fields.push(("breaker".to_owned(), breaker(own)));
    }
    if let Some(after) = model.policy.hedge {
        fields.push(("hedge_ms".to_owned(), millis(after)));
    }
    if let Some(own) = &model.policy.fallback {
        let mut pairs = vec![
            (
                "reasons",
                values::strings(own.reasons.iter().map(|r| r.code())),
            ),
            ("statuses", numbers(&own.statuses)),
        ];
        match (&own.to, &model.cluster) {
            (FallbackTo::Destination(_), Some(name)) => {
                pairs.push(("cluster", values::string(name.to_string())));
            }
            (FallbackTo::Destination(_), None) => return fields,
            (
                FallbackTo::Response {
                    status,
                    content_type,
                    body,
                },
                _,
            ) => {
                pairs.push(("status", values::number(f64::from(*status))));
                pairs.push(("content_type", values::string(content_type.as_str())));
                pairs.push(("body", values::string(body.as_str())));
            }
        }
        fields.push(("fallback".to_owned(), values::nested(values::fields(pairs))));
    }
    fields
}

fn breaker(own: &Breaker) -> Value {
    let number = |n: u32| values::number(f64::from(n));
    let mut pairs = vec![
        ("open_ms", millis(own.open_for)),
        ("trials", number(own.trials)),
        ("consecutive", number(own.consecutive.unwrap_or(0))),
    ];
    if let Some((most, window)) = own.count {
        pairs.extend([("count", number(most)), ("count_ms", millis(window))]);
    }
    if let Some((percent, least, window)) = own.rate {
        pairs.extend([
            ("percent", values::number(percent)),
            ("least", number(least)),
            ("rate_ms", millis(window)),
        ]);
    }
    if !own.statuses.is_empty() {
        pairs.push(("statuses", numbers(&own.statuses)));
    }
    values::nested(values::fields(pairs))
}
