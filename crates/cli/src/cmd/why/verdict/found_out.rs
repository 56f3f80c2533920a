//! Endpoints that callers' proxies do not call, and breakers that are not closed, with who says so.

use super::Facts;
use crate::cmd::causes::finding;
use crate::cmd::standing::{Kind, State, Told, about};
use naka_api::{Object, codes};
use naka_types::finding::{Finding, Severity};
use naka_types::host::Host;
use std::sync::Arc;

/// Proxies that are named one by one.
const NAMED: usize = 5;

/// What proxies found out about a host.
pub(super) fn of(facts: &Facts<'_>, host: &Host) -> Vec<Finding> {
    let mut out = Vec::new();
    for kind in [Kind::Outlier, Kind::HealthCheck] {
        for ((port, _, address), all) in about(&facts.told, host, kind) {
            let who = workload(facts, host, port, address);
            let what = match kind {
                Kind::HealthCheck => "fails its health checks",
                _ => "is ejected by outlier detection",
            };
            let message = format!(
                "{who}{address}, an endpoint of port {port}, {what}: {}",
                proxies(&all, facts.now)
            );
            let found = finding(codes::W926, message);
            out.push(blame(found, facts, all.first().copied()));
        }
    }
    for ((port, subset, _), all) in about(&facts.told, host, Kind::Breaker) {
        let subset = match subset {
            "" => String::new(),
            subset => format!(" of subset {subset}"),
        };
        for (state, word) in [(State::Open, "open"), (State::HalfOpen, "half open")] {
            let so = all.iter().copied();
            let so: Vec<&Told> = so.filter(|told| told.state(facts.now) == state).collect();
            let Some(first) = so.first() else {
                continue;
            };
            let then = match state {
                State::Open => "their calls are answered without being made",
                _ => "of their calls a few go through on trial",
            };
            let message = format!(
                "the breaker{subset} of port {port} is {word}, {then}: {}",
                proxies(&so, facts.now)
            );
            let mut found = finding(codes::W927, message);
            if state == State::HalfOpen {
                found.severity = Severity::Info;
            }
            out.push(blame(found, facts, Some(first)));
        }
    }
    out
}

/// Who says so, and its times.
fn proxies(all: &[&Told], now: u64) -> String {
    let named: Vec<String> = all
        .iter()
        .take(NAMED)
        .map(|told| format!("{} says {}", told.proxy, told.words(now)))
        .collect();
    match all.len().saturating_sub(NAMED) {
        0 => named.join("; "),
        more => format!("{}; {more} more proxies say the like", named.join("; ")),
    }
}

/// Name of the workload at an address, before it.
fn workload(facts: &Facts<'_>, host: &Host, port: u16, address: &str) -> String {
    let all = facts.world.endpoints.get(host);
    let mut all = all.and_then(|ports| ports.get(&port)).into_iter().flatten();
    let found = all.find(|endpoint| endpoint.address == address);
    found.map_or_else(String::new, |endpoint| format!("{} ", endpoint.workload))
}

/// Where a rule has its outlier detection.
fn outlier(rule: &Object) -> Option<String> {
    let mut found = None;
    super::blocks(&rule.raw["spec"], "spec", &mut |path, key, _| {
        if key == "outlierDetection" {
            found.get_or_insert_with(|| path.to_owned());
        }
    });
    found
}

/// Names the object whose policy it is, for a caller such as this.
fn blame(found: Finding, facts: &Facts<'_>, told: Option<&Told>) -> Finding {
    let Some(told) = told else {
        return found;
    };
    let world = facts.world;
    let near = |object: &&Arc<Object>| {
        let namespace = &object.meta.namespace;
        let service = told.host.service().map_or("", |(_, namespace)| namespace);
        [&told.namespace, service, naka_types::host::ROOT_NAMESPACE].contains(&namespace.as_str())
    };
    match told.kind {
        Kind::Outlier => {
            let rules = world.rules.get(&told.host);
            let mut rules = rules.into_iter().flat_map(|all| all.iter()).filter(near);
            match rules.find_map(|rule| Some((rule, outlier(rule)?))) {
                Some((rule, path)) => found.on(rule.reference()).at(path),
                None => found,
            }
        }
        Kind::HealthCheck | Kind::Breaker => {
            let field = match told.kind {
                Kind::Breaker => "spec.breaker",
                _ => "spec.healthCheck",
            };
            let target = (&told.host, told.port, told.subset.as_str());
            match world.backend(target, &told.namespace) {
                Some(object) => found.on(object.reference()).at(field),
                None => found,
            }
        }
    }
}
