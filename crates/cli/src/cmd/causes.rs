//! What about the objects explains an answer that their writer did not expect.
//!
//! `naka explain` and `naka why` share these: the engine's trail says what happened to a request, and these say which
//! object would have made it happen otherwise and does not: hidden, beaten by another, for a name one letter off, bound
//! to another gateway. Pure. Not here: what is wrong with proxies and workloads themselves (`why::verdict`).

use naka_api::codes::{self, Code};
use naka_api::networking::destination_rule::{TlsMode, TrafficPolicy};
use naka_api::networking::virtual_service::{GatewayRef, VirtualService};
use naka_api::{Object, lint, schema};
use naka_control::world::{Service, World};
use naka_types::finding::{Finding, Severity};
use naka_types::host::{Host, ROOT_NAMESPACE};
use naka_types::labels::{Labels, selects};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Lints that say why an object does not decide what it was written for.
const TELLING: [&str; 6] = ["E312", "L309", "L310", "L312", "L313", "L317"];

/// A finding with its code's own fix.
pub(crate) fn finding(code: Code, message: String) -> Finding {
    Finding::new(code.id, message).fix(code.fix)
}

/// Puts more findings to those that are there; of two about one field the one with a fix stays.
pub(crate) fn merge(all: &mut Vec<Finding>, more: Vec<Finding>) {
    for one in more {
        let same = |two: &&mut Finding| {
            (&two.code, &two.object, &two.field) == (&one.code, &one.object, &one.field)
        };
        match all.iter_mut().find(same) {
            Some(two) if two.fix.is_empty() => *two = one,
            Some(_) => {}
            None => all.push(one),
        }
    }
}

/// Calls without an answer of their own: what a lint says of them is no matter of taste.
pub(crate) fn weigh(mut one: Finding) -> Finding {
    if ["L310", "L312", "L314", "L317"].contains(&one.code.as_str()) {
        one.severity = one.severity.max(Severity::Warning);
    }
    one
}

/// A name that nothing has, and the one that was perhaps meant.
pub(crate) fn unknown(world: &World, host: &Host) -> Finding {
    finding(
        codes::E920,
        format!(
            "nothing declares {host} and no workload runs under that name{}",
            hint(world, host).unwrap_or_default()
        ),
    )
}

/// The service that was perhaps meant.
pub(crate) fn hint(world: &World, host: &Host) -> Option<String> {
    let (wanted, namespace) = host.service().unwrap_or((host.as_str(), ""));
    let wanted = wanted.split('.').next().unwrap_or(wanted);
    let mut all = world.services.values();
    if let Some(service) = all.find(|s| s.name == wanted && s.namespace != namespace) {
        return Some(format!("; there is one in namespace {}", service.namespace));
    }
    let names = world.services.values().map(|service| service.name.as_str());
    schema::nearest(wanted, names).map(|near| format!("; did you mean {near}?"))
}

/// What keeps objects from deciding about calls of a host, and what they lead to that cannot answer. `caller`: the
/// namespace that calls; `None`: any.
pub(crate) fn of_host(world: &World, host: &Host, caller: Option<&str>) -> Vec<Finding> {
    let mut out = Vec::new();
    let claims: Vec<&Arc<Object>> = objects(world.routes.get(host)).collect();
    merge(&mut out, lints(world, &claims));
    for object in &claims {
        let Some(spec) = object.virtual_service() else {
            continue;
        };
        let hidden = match caller {
            Some(namespace) if !spec.export.reaches(namespace) => {
                Some(format!("callers in namespace {namespace}"))
            }
            None if !world
                .services
                .values()
                .any(|s| spec.export.reaches(&s.namespace)) =>
            {
                Some("anybody".to_owned())
            }
            _ => None,
        };
        out.extend(hidden.map(|whom| {
            let message =
                format!("it has {host}, but is not exported to {whom}: it does nothing there");
            finding(codes::W923, message)
                .on(object.reference())
                .at("spec.exportTo")
        }));
        merge(&mut out, beaten(world, host, object, spec, caller));
        merge(&mut out, leads(world, object, spec));
    }
    out.extend(nearly(world, host));
    out.extend(unusable(world, host));
    if let Some(service) = world.services.get(host) {
        out.extend(tls(world, service));
    }
    out
}

/// What keeps a VirtualService from holding for a host although its callers see it.
fn beaten(
    world: &World,
    host: &Host,
    object: &Object,
    spec: &VirtualService,
    caller: Option<&str>,
) -> Vec<Finding> {
    let own = object.meta.namespace.as_str();
    let told = if let Some(winner) = world.rival(host, object, spec) {
        let winner = winner.reference();
        let message =
            format!("{winner} claims {host} too and is older: it holds there, this one does not");
        Some((codes::L316, message))
    } else if !world.is_for_everybody(host, own) && caller.is_none_or(|caller| caller != own) {
        let message =
            format!("{host} belongs to another namespace: this holds for callers in {own} only");
        Some((codes::L315, message))
    } else {
        None
    };
    let told = told.map(|(code, message)| {
        let one = finding(code, message).on(object.reference());
        one.at(format!("spec.hosts[{}]", place(spec, host)))
    });
    told.into_iter().collect()
}

/// Where a host stands in the list.
fn place(spec: &VirtualService, host: &Host) -> usize {
    let mut all = spec.hosts.iter();
    all.position(|one| one == host).unwrap_or_default()
}

fn objects(all: Option<&Arc<Vec<Arc<Object>>>>) -> impl Iterator<Item = &Arc<Object>> {
    all.into_iter().flat_map(|all| all.iter())
}

/// Lints of these objects beside all that they may speak of.
fn lints(world: &World, about: &[&Arc<Object>]) -> Vec<Finding> {
    if about.is_empty() {
        return Vec::new();
    }
    let lists = [&world.routes, &world.rules];
    let many = lists.iter().flat_map(|map| map.values());
    let mut beside: Vec<&Arc<Object>> = many.flat_map(|all| all.iter()).collect();
    beside.extend(world.gateways.values().chain(world.delegates.values()));
    beside.extend(about);
    beside.sort_by_key(|object| object.reference());
    beside.dedup_by_key(|object| object.reference());
    let all: Vec<&Object> = beside.into_iter().map(AsRef::as_ref).collect();
    let names: BTreeSet<String> = about.iter().map(|o| o.reference().to_string()).collect();
    let mut found = lint::cross_check(&all);
    found.retain(|one| TELLING.contains(&one.code.as_str()) && names.contains(&one.object));
    found
}

/// Destinations of a VirtualService that nobody can answer for.
fn leads(world: &World, object: &Object, spec: &VirtualService) -> Vec<Finding> {
    let mut out = Vec::new();
    for route in &spec.http {
        for (place, weighted) in route.destinations().iter().enumerate() {
            let to = &weighted.destination;
            let at = format!("spec.http[{}].route[{place}].destination", route.index);
            let told = match (&to.subset, world.services.get(&to.host)) {
                (_, None) => hint(world, &to.host).map(|hint| {
                    let host = &to.host;
                    let message = format!(
                        "no service {host}: nothing declares it and no workload runs under that name{hint}; requests of this route get 503"
                    );
                    (codes::L314, "host", message)
                }),
                (Some(subset), Some(_)) => empty(world, &to.host, subset)
                    .map(|message| (codes::E925, "subset", message)),
                (None, Some(_)) => None,
            };
            out.extend(told.map(|(code, field, message)| {
                let one = finding(code, message);
                one.on(object.reference()).at(format!("{at}.{field}"))
            }));
        }
    }
    out
}

fn pairs(labels: &Labels) -> String {
    let all: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    all.join(",")
}

/// A subset that is defined, and whose labels no endpoint has although there are endpoints.
fn empty(world: &World, host: &Host, subset: &str) -> Option<String> {
    let rules = objects(world.rules.get(host));
    let mut defined = rules.filter_map(|object| {
        let labels = &object.destination_rule()?.subset(subset)?.labels;
        Some((object, labels))
    });
    let (rule, labels) = defined.next()?;
    let endpoints = world.endpoints.get(host)?;
    let mut all = endpoints.values().flatten();
    let first = all.clone().next()?;
    if all.any(|endpoint| selects(labels, &endpoint.labels)) {
        return None;
    }
    Some(format!(
        "{} gives subset {subset} the labels {}, which no workload of {host} has: {} has {}; requests of this route get 503",
        rule.reference(),
        pairs(labels),
        first.workload,
        pairs(&first.labels)
    ))
}

/// VirtualServices for names that no service has, and that are nearly this one's.
fn nearly(world: &World, host: &Host) -> Vec<Finding> {
    let Some(service) = world.services.get(host) else {
        return Vec::new();
    };
    let strangers = world.routes.iter().filter(|(other, _)| {
        let near = other.service().is_some_and(|(name, namespace)| {
            namespace == service.namespace
                && schema::nearest(name, std::iter::once(service.name.as_str())).is_some()
        });
        near && !world.services.contains_key(*other)
    });
    strangers
        .flat_map(|(other, all)| {
            all.iter().map(move |object| {
                let name = &service.name;
                let message =
                    format!("it has {other}, a name that no service has; did you mean {name}?");
                finding(codes::W924, message)
                    .on(object.reference())
                    .at("spec.hosts")
            })
        })
        .collect()
}

/// The PeerAuthentication that holds for a namespace, and whether it asks for mTLS.
pub(crate) fn strict(world: &World, namespace: &str) -> Option<(String, bool)> {
    let wide = |namespace: &str| {
        objects(world.peer_authentications.get(namespace)).find_map(|object| {
            let policy = object.peer_authentication()?;
            let mode = policy.mode.filter(|_| policy.selector.is_none())?;
            Some((object.reference().to_string(), mode))
        })
    };
    let (name, mode) = wide(namespace).or_else(|| wide(ROOT_NAMESPACE))?;
    let strict = naka_api::security::peer_authentication::MtlsMode::Strict;
    Some((name, mode == strict))
}

/// TLS that a rule asks for and that cannot be carried out: calls fail because of it.
fn unusable(world: &World, host: &Host) -> Vec<Finding> {
    let bad = |policy: &TrafficPolicy| {
        let mode = policy.tls.as_ref().map(|tls| tls.mode);
        mode == Some(TlsMode::Unusable)
    };
    let at = |policy: &TrafficPolicy, field: &str| {
        let port = policy.ports.iter().find(|(_, port)| bad(port));
        match port {
            _ if bad(policy) => Some(format!("{field}.tls")),
            Some(_) => Some(format!("{field}.portLevelSettings")),
            None => None,
        }
    };
    let mut out = Vec::new();
    for object in objects(world.rules.get(host)) {
        let Some(rule) = object.destination_rule() else {
            continue;
        };
        let own = at(&rule.policy, "spec.trafficPolicy");
        let subsets = rule.subsets.iter().filter_map(|subset| {
            let field = format!("spec.subsets[{}].trafficPolicy", subset.index);
            at(&subset.policy, &field)
        });
        out.extend(own.into_iter().chain(subsets).map(|field| {
            let message = format!(
                "the TLS towards {host} that is written here cannot be carried out: calls fail"
            );
            finding(codes::E333, message)
                .on(object.reference())
                .at(field)
        }));
    }
    out
}

/// Rules that do not call workloads as these ask for it.
fn tls(world: &World, service: &Service) -> Vec<Finding> {
    let Some((policy, true)) = strict(world, &service.namespace) else {
        return Vec::new();
    };
    if service.entry.is_some() {
        return Vec::new();
    }
    let host = &service.host;
    let mut out = Vec::new();
    for object in objects(world.rules.get(host)) {
        let Some(rule) = object.destination_rule() else {
            continue;
        };
        let ports = service.ports.keys().map(|port| (None, *port));
        let subsets = rule.subsets.iter().flat_map(|subset| {
            let name = subset.name.as_str();
            service.ports.keys().map(move |port| (Some(name), *port))
        });
        let wrong = ports.chain(subsets).find_map(|(subset, port)| {
            let mode = rule.effective(subset, port).tls.map(|tls| tls.mode)?;
            let how = match mode {
                TlsMode::Disable => "turns TLS off towards",
                TlsMode::Simple | TlsMode::Mutual | TlsMode::Unusable => {
                    "calls by TLS without the mesh's certificate"
                }
                TlsMode::IstioMutual => return None,
            };
            Some((how, subset))
        });
        out.extend(wrong.map(|(how, subset)| {
            let of = subset.map_or_else(String::new, |subset| format!("subset {subset} of "));
            let own = subset.is_some();
            let message = format!(
                "{} {how} {of}{host}, but {policy} lets nobody in without",
                object.reference()
            );
            let field = if own {
                "spec.subsets"
            } else {
                "spec.trafficPolicy.tls.mode"
            };
            finding(codes::E924, message)
                .on(object.reference())
                .at(field)
        }));
    }
    out
}

/// A Sidecar that leaves a service out of what its caller may call.
pub(crate) fn left_out(
    world: &World,
    host: &Host,
    namespace: &str,
    labels: &Labels,
) -> Option<Finding> {
    let service = world.services.get(host)?;
    if !service.export.reaches(namespace) {
        let message = format!("{host} is not exported to callers in namespace {namespace}");
        return Some(finding(codes::W925, message));
    }
    let sidecar = world.sidecar(namespace, labels)?;
    if sidecar.admits(&service.namespace, host) {
        return None;
    }
    let holds = [namespace, ROOT_NAMESPACE]
        .into_iter()
        .find_map(|namespace| {
            objects(world.sidecars.get(namespace))
                .find(|object| object.sidecar().is_some_and(|one| one == sidecar))
        })?;
    let message = format!("its egress hosts leave out {host}: the caller does not know this name");
    Some(
        finding(codes::W925, message)
            .on(holds.reference())
            .at("spec.egress"),
    )
}

/// Why a gateway with these labels does not serve a host at a port.
pub(crate) fn of_gateway(world: &World, labels: &Labels, port: u16, host: &str) -> Vec<Finding> {
    let Ok(host) = Host::resolve(host, ROOT_NAMESPACE) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    let mut served = false;
    for (key, object) in &world.gateways {
        let Some(gateway) = object.gateway() else {
            continue;
        };
        let has = |server: &naka_api::networking::gateway::Server| {
            let mut hosts = server.hosts.iter();
            server.port == port
                && hosts.any(|one| one.admits(one.namespace.as_deref().unwrap_or_default(), &host))
        };
        if !gateway.servers.iter().any(has) {
            continue;
        }
        if selects(&gateway.selector, labels) {
            served = true;
            out.extend(unbound(world, key, object, &host));
        } else {
            let message = format!(
                "it serves {host} at port {port}, at proxies with {}; this one has {}",
                pairs(&gateway.selector),
                pairs(labels)
            );
            out.push(
                finding(codes::E926, message)
                    .on(object.reference())
                    .at("spec.selector"),
            );
        }
    }
    if !served {
        out.extend(beyond(world, port, &host));
    }
    out
}

/// VirtualServices that have a host and are not bound to the Gateway that serves it.
fn unbound(world: &World, key: &(String, String), gateway: &Object, host: &Host) -> Vec<Finding> {
    let own = world.gateway_routes.get(key);
    let is_own = |object: &Object| objects(own).any(|o| o.reference() == object.reference());
    let has = |object: &&Arc<Object>| {
        let spec = object.virtual_service();
        !is_own(object) && spec.is_some_and(|spec| spec.hosts.contains(host))
    };
    let elsewhere = world.gateway_routes.values().chain(world.routes.get(host));
    let mut all: Vec<&Arc<Object>> = elsewhere.flat_map(|all| all.iter()).filter(has).collect();
    all.sort_by_key(|object| object.reference());
    all.dedup_by_key(|object| object.reference());
    let name = format!("{}/{}", key.0, key.1);
    let told = all.iter().map(|object| {
        let message = format!(
            "it has {host}, which {} serves, but is not bound to it",
            gateway.reference()
        );
        finding(codes::E926, message)
            .on(object.reference())
            .at("spec.gateways")
            .fix(format!("write `gateways: [{name}]`"))
    });
    let mut out: Vec<Finding> = told.collect();
    if out.is_empty() && !objects(own).any(|object| is_for(object, host)) {
        let message =
            format!("it serves {host}, but no VirtualService that is bound to it has that host");
        out.push(
            finding(codes::E926, message)
                .on(gateway.reference())
                .at("spec.servers"),
        );
    }
    merge(&mut out, lints(world, &all));
    out
}

fn is_for(object: &Object, host: &Host) -> bool {
    let spec = object.virtual_service();
    spec.is_some_and(|spec| {
        let mut hosts = spec.hosts.iter();
        hosts.any(|one| naka_api::networking::gateway::overlap(one.as_str(), host.as_str()))
    })
}

/// VirtualServices that are bound to Gateways without a server for their host.
fn beyond(world: &World, port: u16, host: &Host) -> Vec<Finding> {
    let mut out = Vec::new();
    for ((namespace, name), all) in &world.gateway_routes {
        let key = (namespace.clone(), name.clone());
        let Some(gateway) = world.gateways.get(&key).and_then(|object| object.gateway()) else {
            continue;
        };
        let servers = gateway.servers.iter().filter(|server| server.port == port);
        let hosts: Vec<&str> = servers
            .flat_map(|server| server.hosts.iter().map(|one| one.host.as_str()))
            .collect();
        for object in all.iter().filter(|object| is_for(object, host)) {
            let message = match hosts.as_slice() {
                [] => format!(
                    "it has {host}, but Gateway {namespace}/{name} has no server at port {port}"
                ),
                some => format!(
                    "it has {host}, but Gateway {namespace}/{name} serves {} at port {port}",
                    some.join(", ")
                ),
            };
            let one = finding(codes::E926, message).on(object.reference());
            out.push(
                one.at("spec.hosts")
                    .fix(format!("add {host} to the Gateway's hosts")),
            );
        }
    }
    out
}

/// What a gateway is to lead to a service and does not: objects whose routes lead there.
pub(crate) fn towards(world: &World, host: &Host) -> Vec<Finding> {
    let leads = |object: &&Arc<Object>| {
        let spec = object.virtual_service();
        spec.is_some_and(|spec| {
            let mut all = spec.http.iter().flat_map(|route| route.destinations());
            all.any(|one| one.destination.host == *host)
        })
    };
    let lists = world.gateway_routes.values().chain(world.routes.values());
    let mut all: Vec<&Arc<Object>> = lists.flat_map(|all| all.iter()).filter(leads).collect();
    all.sort_by_key(|object| object.reference());
    all.dedup_by_key(|object| object.reference());
    let mut out = lints(world, &all);
    out.retain(|one| one.code == codes::E312.id);
    for object in all {
        let Some(spec) = object.virtual_service() else {
            continue;
        };
        let bound = spec
            .gateways
            .iter()
            .any(|one| matches!(one, GatewayRef::Named { .. }));
        let strange = spec
            .hosts
            .iter()
            .filter(|one| !world.services.contains_key(*one));
        for stranger in strange.filter(|_| !bound) {
            for (key, gateway) in &world.gateways {
                let mut servers = gateway.gateway().into_iter().flat_map(|one| &one.servers);
                let namespace = object.meta.namespace.as_str();
                if servers.any(|one| one.hosts.iter().any(|own| own.admits(namespace, stranger))) {
                    let mut told = unbound(world, key, gateway, stranger);
                    told.retain(|one| one.object == object.reference().to_string());
                    merge(&mut out, told);
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
