//! Rate limits: which rules hold at a port of a workload, at a gateway, at a route, and how they are written down.
//!
//! Our own proxies get them as they are. An Envoy gets descriptors with token buckets ([`super::envoy`]).

use super::View;
use crate::world::Read;
use naka_api::limits::local_rate_limit::{Rule, Target};
use naka_types::node::LIMIT;
use naka_wire::google::protobuf::Any;
use naka_wire::v1;

/// A rule with the name its buckets are known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) name: String,
    pub(crate) rule: Rule,
}

/// Rules of a namespace whose target is meant, in the order of age and of writing.
fn of(view: &View<'_>, namespace: &str, meant: impl Fn(&Target) -> bool) -> Vec<Limit> {
    let world = view.read(Read::Limits(namespace.to_owned()));
    let objects = world
        .limits
        .get(namespace)
        .into_iter()
        .flat_map(|all| all.iter());
    objects
        .filter_map(|object| Some((object, object.local_rate_limit()?)))
        .filter(|(_, limit)| limit.targets.iter().any(&meant))
        .flat_map(|(object, limit)| {
            let meta = &object.meta;
            limit.rules.iter().map(move |rule| Limit {
                name: format!("{}/{}/{}", meta.namespace, meta.name, rule.name),
                rule: rule.clone(),
            })
        })
        .collect()
}

/// All rules of a namespace.
pub(crate) fn all(view: &View<'_>, namespace: &str) -> Vec<Limit> {
    of(view, namespace, |_| true)
}

/// Rules for requests to a workload of a service.
pub(crate) fn at_service(view: &View<'_>, namespace: &str, service: &str) -> Vec<Limit> {
    of(
        view,
        namespace,
        |target| matches!(target, Target::Service(name) if name == service),
    )
}

/// Rules for requests through a gateway.
pub(crate) fn at_gateway(view: &View<'_>, namespace: &str, gateway: &str) -> Vec<Limit> {
    of(
        view,
        namespace,
        |target| matches!(target, Target::Gateway(name) if name == gateway),
    )
}

/// Rules for requests of a route, wherever it is bound.
pub(crate) fn at_route(
    view: &View<'_>,
    (namespace, object): (&str, &str),
    route: Option<&str>,
) -> Vec<Limit> {
    of(view, namespace, |target| {
        matches!(target, Target::Route { name, section }
            if name == object && section.as_deref().is_none_or(|section| route == Some(section)))
    })
}

/// As our own proxies read them.
pub(crate) fn rules(limits: &[Limit]) -> Vec<v1::RateLimitRule> {
    let rules = limits.iter().map(|limit| {
        let rule = &limit.rule;
        v1::RateLimitRule {
            name: limit.name.clone(),
            when: rule.when.clone().unwrap_or_default(),
            keys: rule.keys.clone(),
            tokens: rule.requests.into(),
            interval_ns: u64::try_from(rule.per.as_nanos()).unwrap_or(u64::MAX),
            burst: rule.burst.into(),
            buckets: rule.max_keys,
            dry_run: rule.dry_run,
            headers: rule.response_headers,
        }
    });
    rules.collect()
}

/// The entry of a route or a port, if it has limits.
pub(crate) fn entry(limits: &[Limit]) -> Option<(String, Any)> {
    let rules = rules(limits);
    (!rules.is_empty()).then(|| (LIMIT.to_owned(), naka_wire::pack(&v1::RateLimit { rules })))
}
