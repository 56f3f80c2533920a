//! Status of one object: conditions, and which proxies have it.

use super::touch::{Touch, hosts, spread_host};
use crate::apiserver::live::{Condition, Nack, ObjectStatus};
use crate::certificates;
use crate::compile::policy::authorizer;
use crate::compile::policy::guard::at_envoy;
use crate::compile::{Class, Dialect, Key, View, compile, gateway};
use crate::plane::Plane;
use crate::rollout::ROLLOUT;
use crate::world::World;
use naka_api::networking::gateway::Gateway;
use naka_api::networking::virtual_service::GatewayRef;
use naka_api::own::trust_model::TrustModel;
use naka_api::security::authorization_policy::{Action, Attribute, Condition as Demand, Rule};
use naka_api::{Mode, Object, codes};
use naka_types::finding::{Finding, Severity};
use naka_types::host::ROOT_NAMESPACE;
use naka_types::labels::{Labels, selects};
use naka_types::name::{ObjectRef, VirtualHostName};
use naka_types::node::Role;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Status of an object; empty with state `unknown` when there is none of that name.
pub(super) fn status(plane: &Plane, reference: &ObjectRef) -> ObjectStatus {
    let snapshot = plane.store.snapshot();
    let world = plane.hub.world();
    let Some(object) = snapshot.objects.get(reference) else {
        let unreadable = snapshot.unreadable.contains_key(reference);
        let state = if unreadable { "refused" } else { "unknown" };
        return ObjectStatus {
            state: state.to_owned(),
            ..ObjectStatus::default()
        };
    };
    let (_, mut findings) = naka_api::decode_json(&object.raw, Mode::Compat);
    let unsound: Vec<String> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| format!("{}: {}", finding.field, finding.message))
        .collect();
    let (conflicts, unresolved): (Vec<Finding>, Vec<Finding>) = unresolved(&world, object)
        .into_iter()
        .partition(|finding| finding.code == codes::E331.id);
    let keys = plane.keys.get();
    let keys = keys.map(|keys| keys.findings(object, &snapshot));
    let keys = keys.unwrap_or_default();
    let conflict = conflict(&world, object);
    let certificates = certificates::findings(&snapshot, object);
    let older = certificates.iter().find(|one| one.code == codes::L380.id);
    let conflict = conflict.or_else(|| Some(("OlderWins", older?.message.clone())));
    let mut status = spread(plane, &world, object);
    if object.certificate_policy().is_some() {
        certified(&mut status, certificates::holders(&snapshot, object));
    }
    status.revision = object.meta.resource_version.parse().unwrap_or(0);
    status.conditions = vec![
        accepted(&unsound),
        enforced(&findings, labels_at_envoys(plane, &world, object)),
        resolved(&unresolved, &keys),
        match conflicts.first() {
            Some(first) => condition("Conflicted", true, "OlderWins", first.message.clone()),
            None => conflicted(conflict),
        },
        programmed(&status),
    ];
    if object.rollout().is_some() {
        rolled(&mut status, snapshot.record(ROLLOUT, &object.meta.name));
    }
    findings.extend(unresolved);
    findings.extend(conflicts);
    findings.extend(keys);
    findings.extend(certificates);
    status.findings = findings;
    status
}

/// How far a rollout is: that it is through is what its being programmed means.
fn rolled(status: &mut ObjectStatus, record: Option<&Arc<Value>>) {
    let text = |field: &str| record.and_then(|r| r[field].as_str()).unwrap_or_default();
    let (phase, problem) = (text("phase"), text("problem"));
    status.state = if phase.is_empty() { "pending" } else { phase }.to_owned();
    let message = match (phase, problem) {
        ("done", _) => "all steps are taken".to_owned(),
        ("", _) => "it begins when the rollouts before it have ended".to_owned(),
        (_, "") => {
            let name = text("name");
            format!("at step {phase}; \"naka rollout status {name}\" says what it waits for")
        }
        (_, problem) => problem.to_owned(),
    };
    status.conditions.retain(|one| one.kind != "Programmed");
    let done = condition("Programmed", phase == "done", "Rollout", message);
    status.conditions.push(done);
}

/// Of a CertificatePolicy it is workloads that have it, in their certificates, and not configurations.
fn certified(status: &mut ObjectStatus, (have, lack): (Vec<String>, Vec<String>)) {
    status
        .unaffected
        .retain(|name| !have.contains(name) && !lack.contains(name));
    status.state = match (lack.is_empty(), have.is_empty()) {
        (false, _) => "pending",
        (true, false) => "programmed",
        (true, true) => "unused",
    }
    .to_owned();
    (status.acked, status.behind) = (have, lack);
}

fn condition(kind: &str, holds: bool, reason: &str, message: impl Into<String>) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
    }
}

fn accepted(unsound: &[String]) -> Condition {
    match unsound.first() {
        None => condition("Accepted", true, "Accepted", "all of it is sound"),
        Some(first) => {
            let more = unsound.len() - 1;
            let message = format!("parts are not in force: {first} (and {more} more)");
            condition("Accepted", true, "PartiallyInvalid", message)
        }
    }
}

/// Envoys that a policy with conditions on labels of callers holds for: they know none, so such a rule never allows and
/// always denies there.
fn labels_at_envoys(plane: &Plane, world: &World, object: &Object) -> Option<String> {
    if let Some(model) = object.trust_model() {
        return trust_at_envoys(plane, world, (object, model));
    }
    if let Some(guard) = object.request_guard() {
        let attached = guard.attached.is_some();
        let names = envoys(plane, world, (object, attached), |labels| {
            guard.holds_for(labels)
        });
        let what = at_envoy(guard).filter(|_| !names.is_empty())?;
        return Some(format!(
            "not as written at an Envoy: {what}: {}",
            names.join(", ")
        ));
    }
    let policy = object.authorization_policy()?;
    let asks = policy.rules.iter().position(asks_label)?;
    let attached = policy.attached.is_some();
    let names = envoys(plane, world, (object, attached), |labels| {
        policy.holds_for(labels)
    });
    let effect = match policy.action {
        Action::Deny => "denies whoever fits the rest of it",
        Action::Custom => "asks about whoever fits the rest of it",
        Action::Allow | Action::Audit => "matches nobody",
    };
    (!names.is_empty()).then(|| {
        format!(
            "spec.rules[{asks}] asks for labels of callers, which an Envoy does not know; there it {effect}: {}",
            names.join(", ")
        )
    })
}

/// Envoys that an object holds for.
fn envoys(
    plane: &Plane,
    world: &World,
    (object, attached): (&Object, bool),
    holds_for: impl Fn(&Labels) -> bool,
) -> Vec<String> {
    let namespace = &object.meta.namespace;
    let everywhere = namespace.as_str() == ROOT_NAMESPACE;
    let proxies = plane.hub.seen().into_iter().filter(|proxy| {
        let class = &proxy.who.class;
        let labels = match class.role {
            Role::Gateway => Some(&class.labels),
            Role::Sidecar => world
                .workload(&class.workload_id)
                .map(|member| &member.registration.labels),
        };
        class.dialect == Dialect::Envoy
            && (everywhere && !attached || class.namespace == *namespace)
            && labels.is_some_and(&holds_for)
    });
    proxies.map(|proxy| proxy.who.name).collect()
}

/// The same of a trust model.
fn trust_at_envoys(
    plane: &Plane,
    world: &World,
    (object, model): (&Object, &TrustModel),
) -> Option<String> {
    let namespace = &object.meta.namespace;
    let everywhere = namespace.as_str() == ROOT_NAMESPACE;
    let proxies = plane.hub.seen().into_iter().filter(|proxy| {
        let class = &proxy.who.class;
        let member = world.workload(&class.workload_id);
        class.dialect == Dialect::Envoy
            && class.role == Role::Sidecar
            && (everywhere || class.namespace == *namespace)
            && member.is_some_and(|member| model.holds_for(&member.registration.labels))
    });
    let names: Vec<String> = proxies.map(|proxy| proxy.who.name).collect();
    let refused = match &model.zones {
        Some(_) => "every call",
        None => "what takes more than the lowest clearance, hours, approvals or a session",
    };
    (!names.is_empty()).then(|| {
        format!(
            "an Envoy knows no labels of its callers; there {refused} is refused, without a text: {}",
            names.join(", ")
        )
    })
}

fn asks_label(rule: &Rule) -> bool {
    let of_label = |demand: &Demand| matches!(demand.attribute, Attribute::Label(_));
    rule.when.iter().any(of_label)
}

/// Whether every field that is used does something; the fields that do not are named, all of them.
fn enforced(findings: &[Finding], elsewhere: Option<String>) -> Condition {
    let idle: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.code == codes::W900.id)
        .map(|finding| finding.field.as_str())
        .collect();
    if let Some(message) = elsewhere.filter(|_| idle.is_empty()) {
        condition("Enforced", false, "NotAtEnvoy", message)
    } else if idle.is_empty() {
        condition(
            "Enforced",
            true,
            "Enforced",
            "every field in use is enforced",
        )
    } else {
        let message = format!("not yet: {}", idle.join(", "));
        condition("Enforced", false, "NotYet", message)
    }
}

fn resolved(unresolved: &[Finding], keys: &[Finding]) -> Condition {
    let keys = keys.iter().map(|finding| (finding, "KeysNotFetched"));
    // These speak of references that lead somewhere.
    let found = [codes::L354.id, codes::W132.id, codes::L383.id];
    let all = unresolved
        .iter()
        .filter(|finding| !found.contains(&finding.code.as_str()))
        .map(|finding| (finding, "BackendNotFound"));
    match all.chain(keys).next() {
        None => condition(
            "ResolvedRefs",
            true,
            "ResolvedRefs",
            "all references lead somewhere",
        ),
        Some((first, reason)) => {
            let message = format!("{}: {}", first.field, first.message);
            condition("ResolvedRefs", false, reason, message)
        }
    }
}

fn conflicted(conflict: Option<(&'static str, String)>) -> Condition {
    match conflict {
        None => condition(
            "Conflicted",
            false,
            "NoConflict",
            "nothing else claims the same",
        ),
        Some((reason, message)) => condition("Conflicted", true, reason, message),
    }
}

fn programmed(status: &ObjectStatus) -> Condition {
    let named = |what: &str, names: Vec<&str>| format!("{what} {}", names.join(", "));
    if !status.nacked.is_empty() {
        let names = status
            .nacked
            .iter()
            .map(|nack| nack.proxy.as_str())
            .collect();
        condition("Programmed", false, "Refused", named("refused by", names))
    } else if !status.behind.is_empty() {
        let names = status.behind.iter().map(String::as_str).collect();
        condition("Programmed", false, "Pending", named("not yet at", names))
    } else {
        let message = match status.acked.len() {
            0 => "no connected proxy needs it".to_owned(),
            count => format!("{count} proxies have it"),
        };
        condition("Programmed", true, "Programmed", message)
    }
}

/// Who has it, lacks it, refuses it, does not need it, or is away.
fn spread(plane: &Plane, world: &World, object: &Object) -> ObjectStatus {
    let touch = Touch::of(world, object);
    let holding = plane.hub.holding(|key| touch.wants(key));
    let mut status = ObjectStatus::default();
    for proxy in plane.hub.seen() {
        let name = proxy.who.name.clone();
        let held = holding.get(&name);
        let Some(behind) = held.filter(|_| touch.concerns(&proxy.who.class.namespace)) else {
            status.unaffected.push(name);
            continue;
        };
        let refused = proxy.refused.iter().find(|(resource, _)| {
            naka_xds::order::ADDITIONS
                .iter()
                .filter_map(|url| Key::parse(url, resource))
                .any(|key| touch.wants(&key))
        });
        match refused {
            Some((resource, words)) => status.nacked.push(Nack {
                proxy: name,
                message: format!("{resource}: {words}"),
            }),
            None if *behind => status.behind.push(name),
            None => status.acked.push(name),
        }
    }
    let present: Vec<String> = plane
        .hub
        .seen()
        .into_iter()
        .map(|proxy| proxy.who.class.workload_id)
        .collect();
    status.away = world
        .workloads
        .iter()
        .filter(|(id, _)| !present.contains(id))
        .map(|(_, member)| {
            let registration = &member.registration;
            format!("{}.{}", registration.workload_name, registration.namespace)
        })
        .collect();
    status.state = match &status {
        status if !status.nacked.is_empty() => "refused",
        status if !status.behind.is_empty() => "pending",
        status if !status.acked.is_empty() => "programmed",
        _ => "unused",
    }
    .to_owned();
    status
}

/// An older object that holds for a host this one claims too, or the owner of a host that did not let this one in.
fn conflict(world: &World, object: &Object) -> Option<(&'static str, String)> {
    if object.service_entry().is_some() || object.sidecar().is_some() {
        let winner = super::claims::winner(world, object)?;
        let message = format!("{winner} is older and holds for the same host");
        return Some(("OlderWins", message));
    }
    let spec = object.virtual_service()?;
    if !spec.gateways.contains(&GatewayRef::Mesh) {
        return None;
    }
    let claimed = || {
        let each = spec.hosts.iter().enumerate();
        each.flat_map(|(index, host)| {
            let meant = spread_host(world, host);
            meant.into_iter().map(move |host| (index, host))
        })
    };
    let older = claimed().find_map(|(index, host)| {
        let winner = world.rival(&host, object, spec)?;
        let created = match winner.meta.creation_timestamp.as_str() {
            "" => String::new(),
            when => format!(" (of {when})"),
        };
        let message = format!(
            "{}{created} is older and holds for the same host: {host}, here spec.hosts[{index}]",
            winner.reference()
        );
        Some(("OlderWins", message))
    });
    older.or_else(|| {
        let namespace = &object.meta.namespace;
        let (index, host) =
            claimed().find(|(_, host)| !world.is_for_everybody(host, namespace))?;
        let message = format!(
            "{host} (spec.hosts[{index}]) belongs to another namespace: this holds for callers in {namespace} only, unless the service's owner adds the annotation {}: {namespace}",
            naka_api::lint::hosts::ROUTES_FROM
        );
        Some(("NotOwner", message))
    })
}

/// Findings of a Gateway's servers, as the proxies that it selects get them; before one runs, as one in the root
/// namespace would.
fn of_gateway(world: &World, object: &Object, gateway: &Gateway) -> Vec<Finding> {
    let members = world.workloads.values().map(|member| &member.registration);
    let mut namespaces: BTreeSet<String> = members
        .filter(|one| one.gateway && selects(&gateway.selector, &one.labels))
        .map(|one| one.namespace.clone())
        .collect();
    if namespaces.is_empty() {
        namespaces.insert(ROOT_NAMESPACE.to_owned());
    }
    let own = object.reference().to_string();
    let ports: BTreeSet<u16> = gateway.servers.iter().map(|server| server.port).collect();
    let mut findings: Vec<Finding> = Vec::new();
    for namespace in namespaces {
        let class = Class {
            role: Role::Gateway,
            namespace,
            labels: gateway.selector.clone(),
            ..Class::default()
        };
        for port in &ports {
            let compiled = compile(world, &Key::Listener(gateway::name(*port)), &class);
            for finding in compiled.findings {
                if finding.object == own && !findings.contains(&finding) {
                    findings.push(finding);
                }
            }
        }
    }
    findings
}

/// Findings of an object's references, from the compile its proxies get.
pub(super) fn unresolved(world: &World, object: &Object) -> Vec<Finding> {
    if let Some(gateway) = object.gateway() {
        return of_gateway(world, object, gateway);
    }
    if let Some(config) = object.mesh_config() {
        let aliases = config.trust_domain_aliases.iter().enumerate();
        let own = aliases.filter(|(_, alias)| alias.as_str() == &*world.trust_domain);
        let told = own.map(|(index, alias)| {
            let message =
                format!("{alias} is the trust domain itself: as an alias it adds nothing");
            Finding::new(codes::L383.id, message)
                .at(format!("data.mesh.trustDomainAliases[{index}]"))
                .on(object.reference())
                .fix("remove it")
        });
        return told.collect();
    }
    if object.authorization_policy().is_some() {
        let unresolved = authorizer::unresolved(&View::new(world), object);
        return unresolved.into_iter().collect();
    }
    let Some(spec) = object.virtual_service() else {
        return super::claims::findings(world, object);
    };
    let class = Class {
        role: Role::Sidecar,
        namespace: object.meta.namespace.clone(),
        workload_id: String::new(),
        labels: Labels::new(),
        ..Class::default()
    };
    // Routes for certain callers are looked at as such a caller would get them.
    let conditions = spec.http.iter().flat_map(|route| &route.matches);
    let callers = conditions
        .filter(|wanted| !wanted.source_labels.is_empty() || wanted.source_namespace.is_some())
        .map(|wanted| {
            let namespace = wanted.source_namespace.as_ref();
            Class {
                namespace: namespace.unwrap_or(&class.namespace).clone(),
                labels: wanted.source_labels.clone(),
                ..class.clone()
            }
        });
    let classes: BTreeSet<Class> = std::iter::once(class.clone()).chain(callers).collect();
    let mut keys: Vec<(Key, Class)> = Vec::new();
    if spec.gateways.contains(&GatewayRef::Mesh) {
        for host in hosts(world, object) {
            let ports = world.services.get(&host).map(|service| &service.ports);
            for port in ports.into_iter().flat_map(|ports| ports.keys()) {
                let host = host.as_str().to_owned();
                let name = VirtualHostName { host, port: *port };
                let key = Key::VirtualHost(name);
                keys.extend(classes.iter().map(|class| (key.clone(), class.clone())));
            }
        }
    }
    for bound in &spec.gateways {
        let GatewayRef::Named { namespace, name } = bound else {
            continue;
        };
        let found = world.gateways.get(&(namespace.clone(), name.clone()));
        let Some(gateway) = found.and_then(|object| object.gateway()) else {
            continue;
        };
        for server in &gateway.servers {
            let class = Class {
                role: Role::Gateway,
                namespace: namespace.clone(),
                labels: gateway.selector.clone(),
                ..class.clone()
            };
            keys.push((Key::Listener(gateway::name(server.port)), class));
        }
    }
    let own = object.reference().to_string();
    let mut findings: Vec<Finding> = Vec::new();
    for (key, class) in keys {
        for finding in compile(world, &key, &class).findings {
            if finding.object == own && !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::enforced;
    use naka_api::Mode;
    use serde_json::json;

    #[test]
    fn fields_that_do_nothing_yet_are_named_in_a_condition() {
        let service = |spec: serde_json::Value| {
            let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec});
            let (_, findings) = naka_api::decode_json(&object, Mode::Compat);
            enforced(&findings, None)
        };
        let idle = service(json!({"loadBalancerIP": "192.0.2.1", "healthCheckNodePort": 30001}));
        assert_eq!(
            (idle.status.as_str(), idle.reason.as_str()),
            ("False", "NotYet")
        );
        assert_eq!(
            idle.message,
            "not yet: spec.healthCheckNodePort, spec.loadBalancerIP"
        );
        let sound = service(json!({"ports": [{"port": 80}]}));
        assert_eq!(sound.status, "True");
    }
}
