//! From facts about a mesh to what is wrong with one service, each with its cause, evidence and fix.
//!
//! Pure: the tests' table has a row for each class of trouble and one for its absence. What callers would meet first
//! comes first: nobody there, nobody healthy, the wrong port, refused by policy; then what is about to go wrong.

mod found_out;

use crate::cmd::causes::{self, finding};
use crate::cmd::standing::Told;
use naka_api::codes;
use naka_control::registry::Health;
use naka_control::world::{Endpoint, Service, World};
use naka_types::finding::Finding;
use naka_types::host::Host;
use naka_types::labels::selects;
use serde_json::Value;
use std::collections::BTreeMap;

/// An endpoint that is out longer than this after one error is out for most of an incident.
const LONG_EJECTION_S: u64 = 300;

/// What is known.
pub(crate) struct Facts<'a> {
    /// Objects, services and endpoints joined.
    pub(crate) world: &'a World,
    /// Objects as they were written.
    pub(crate) objects: Vec<Value>,
    /// Proxies with their states.
    pub(crate) proxies: Vec<Value>,
    /// Workloads with their labels and ports.
    pub(crate) workloads: Vec<Value>,
    /// What proxies found out about those they call.
    pub(crate) told: Vec<Told>,
    /// Milliseconds since 1970.
    pub(crate) now: u64,
    /// Findings on the live configuration.
    pub(crate) findings: Vec<Finding>,
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The objects that decide about calls of a service.
pub(crate) fn decided_by(facts: &Facts<'_>, host: &Host) -> Vec<String> {
    let world = facts.world;
    let mut all: Vec<String> = Vec::new();
    let routes = world.routes.get(host).and_then(|all| all.first());
    all.extend(routes.map(|object| object.reference().to_string()));
    let namespace = host.service().map_or("", |(_, namespace)| namespace);
    let rules = world.rules.get(host).into_iter().flat_map(|all| all.iter());
    all.extend(rules.map(|object| object.reference().to_string()));
    all.extend(causes::strict(facts.world, namespace).map(|(name, _)| name));
    all
}

/// What is wrong with a service.
pub(crate) fn of(facts: &Facts<'_>, host: &Host) -> Vec<Finding> {
    let Some(service) = facts.world.services.get(host) else {
        return vec![causes::unknown(facts.world, host)];
    };
    let mut out = endpoints(facts, service);
    out.extend(found_out::of(facts, host));
    causes::merge(&mut out, causes::of_host(facts.world, host, None));
    out.extend(rules(facts, host));
    causes::merge(&mut out, reported(facts, host));
    causes::merge(&mut out, causes::towards(facts.world, host));
    out.extend(proxies(facts, host, service));
    out.into_iter().map(causes::weigh).collect()
}

/// Selector of a declared service.
fn selector(facts: &Facts<'_>, service: &Service) -> Option<BTreeMap<String, String>> {
    let is_it = |object: &&Value| {
        text(object, "/kind") == "Service"
            && text(object, "/apiVersion") == "v1"
            && text(object, "/metadata/name") == service.name
            && text(object, "/metadata/namespace") == service.namespace
    };
    let object = facts.objects.iter().find(is_it)?;
    serde_json::from_value(object.pointer("/spec/selector")?.clone()).ok()
}

fn endpoints(facts: &Facts<'_>, service: &Service) -> Vec<Finding> {
    let none = BTreeMap::new();
    let all = facts
        .world
        .endpoints
        .get(&service.host)
        .map_or(&none, |all| all);
    let every: Vec<&Endpoint> = all.values().flatten().collect();
    if every.is_empty() {
        return vec![nobody(facts, service)];
    }
    let mut out = Vec::new();
    for number in service.ports.keys() {
        let here = all.get(number).map_or(&[][..], Vec::as_slice);
        if here.is_empty() {
            let message = format!(
                "no workload of {} listens where port {number} leads",
                service.host
            );
            out.push(
                finding(codes::E923, message)
                    .on(format!("Service {}/{}", service.namespace, service.name)),
            );
            continue;
        }
        let bad: Vec<String> = here
            .iter()
            .filter(|endpoint| endpoint.health != Health::Healthy)
            .map(|endpoint| {
                format!(
                    "{} {} is {}",
                    endpoint.workload,
                    endpoint.address,
                    word(endpoint.health)
                )
            })
            .collect();
        if bad.len() == here.len() {
            let message = format!("no endpoint of port {number} is ready: {}", bad.join(", "));
            out.push(finding(codes::E922, message));
        } else if !bad.is_empty() {
            let message = format!(
                "{} of {} endpoints of port {number} are not ready: {}",
                bad.len(),
                here.len(),
                bad.join(", ")
            );
            out.push(finding(codes::W920, message));
        }
    }
    out
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Draining => "draining",
        Health::Unhealthy => "unhealthy",
    }
}

/// Why a service has no endpoint.
fn nobody(facts: &Facts<'_>, service: &Service) -> Finding {
    let own = |workload: &&Value| text(workload, "/namespace") == service.namespace;
    let there: Vec<&Value> = facts.workloads.iter().filter(own).collect();
    let labels = |workload: &Value| -> BTreeMap<String, String> {
        let labels = workload.get("labels").cloned().unwrap_or_default();
        serde_json::from_value(labels).unwrap_or_default()
    };
    let object = format!("Service {}/{}", service.namespace, service.name);
    let Some(wanted) = selector(facts, service).filter(|wanted| !wanted.is_empty()) else {
        let message = format!("no workload runs under the name {}", service.name);
        return finding(codes::E921, message).on(object);
    };
    let fitting: Vec<&&Value> = there
        .iter()
        .filter(|w| selects(&wanted, &labels(w)))
        .collect();
    let shown = |labels: &BTreeMap<String, String>| {
        let pairs: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        pairs.join(",")
    };
    let message = if let Some(workload) = fitting.first() {
        let account = text(workload, "/service_account");
        let accounts: Vec<&str> = service.accounts.iter().map(String::as_str).collect();
        format!(
            "its selector fits {}, which runs as service account {account:?}; {} may serve it",
            text(workload, "/workload_name"),
            accounts.join(", ")
        )
    } else {
        let nearest = there.first().map_or_else(
            || format!("no workload runs in namespace {}", service.namespace),
            |workload| {
                format!(
                    "{} has {}",
                    text(workload, "/workload_name"),
                    shown(&labels(workload))
                )
            },
        );
        format!(
            "its selector {} fits no workload: {nearest}",
            shown(&wanted)
        )
    };
    finding(codes::E921, message).on(object).at("spec.selector")
}

/// Settings that throw endpoints out or callers away too soon.
fn rules(facts: &Facts<'_>, host: &Host) -> Vec<Finding> {
    let mut out = Vec::new();
    for rule in facts
        .world
        .rules
        .get(host)
        .into_iter()
        .flat_map(|all| all.iter())
    {
        blocks(&rule.raw["spec"], "spec", &mut |path, key, block| {
            let told = match key {
                "outlierDetection" => aggressive(block).map(|why| (codes::W921, why)),
                "connectionPool" => tight(block).map(|why| (codes::W922, why)),
                _ => None,
            };
            if let Some((code, why)) = told {
                out.push(finding(code, why).on(rule.reference()).at(path));
            }
        });
    }
    out
}

/// Walks maps and lists; `found` gets each member with its path.
fn blocks(value: &Value, path: &str, found: &mut impl FnMut(&str, &str, &Value)) {
    match value {
        Value::Object(members) => {
            for (key, inner) in members {
                let path = format!("{path}.{key}");
                found(&path, key, inner);
                blocks(inner, &path, found);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                blocks(inner, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

fn aggressive(block: &Value) -> Option<String> {
    let number = |key: &str| block.get(key).and_then(Value::as_u64);
    for key in [
        "consecutive5xxErrors",
        "consecutiveGatewayErrors",
        "consecutiveErrors",
    ] {
        if number(key) == Some(1) {
            return Some(format!(
                "{key}: 1 throws an endpoint out for a single error"
            ));
        }
    }
    let time = block.get("baseEjectionTime").and_then(Value::as_str);
    let time = time.and_then(|text| naka_types::duration::parse(text).ok());
    if number("maxEjectionPercent") == Some(100) && number("minHealthPercent").unwrap_or(0) == 0 {
        return Some("maxEjectionPercent: 100 may throw all endpoints out at once, and nothing lets them back before their time".to_owned());
    }
    time.filter(|time| time.as_secs() > LONG_EJECTION_S)
        .map(|time| {
            format!(
                "an endpoint is out for {} at its first ejection",
                naka_types::duration::Show(time)
            )
        })
}

fn tight(block: &Value) -> Option<String> {
    [
        "/http/http1MaxPendingRequests",
        "/http/http2MaxRequests",
        "/tcp/maxConnections",
    ]
    .into_iter()
    .find(|pointer| block.pointer(pointer).and_then(Value::as_u64) == Some(1))
    .map(|pointer| {
        let name = pointer.rsplit('/').next().unwrap_or_default();
        format!("{name}: 1 answers every second call at a time with circuit-open")
    })
}

/// Findings of the live configuration on objects that decide about the service.
fn reported(facts: &Facts<'_>, host: &Host) -> Vec<Finding> {
    let objects =
        |all: Option<&std::sync::Arc<Vec<std::sync::Arc<naka_api::Object>>>>| -> Vec<String> {
            let all = all.into_iter().flat_map(|all| all.iter());
            all.map(|object| object.reference().to_string()).collect()
        };
    let mut about = objects(facts.world.routes.get(host));
    about.extend(objects(facts.world.rules.get(host)));
    let named = |one: &&Finding| about.contains(&one.object) || one.message.contains(host.as_str());
    facts.findings.iter().filter(named).cloned().collect()
}

/// Proxies of the service's workloads, and those that refuse something of it.
fn proxies(facts: &Facts<'_>, host: &Host, service: &Service) -> Vec<Finding> {
    let mut out = Vec::new();
    for proxy in &facts.proxies {
        let name = text(proxy, "/name");
        let own = text(proxy, "/service") == service.name
            && text(proxy, "/namespace") == service.namespace;
        let refused = proxy.get("refused").and_then(Value::as_array);
        for one in refused.into_iter().flatten() {
            let resource = text(one, "/resource");
            if own || resource.contains(host.as_str()) {
                let message = format!("{name} refuses {resource}: {}", text(one, "/message"));
                out.push(finding(codes::E918, message));
            }
        }
        match text(proxy, "/state") {
            "behind" if own => out.push(finding(
                codes::W918,
                format!("{name} does not have the newest configuration"),
            )),
            "away" if own => out.push(finding(codes::W919, format!("{name} is not connected"))),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests;
