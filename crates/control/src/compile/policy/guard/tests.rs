//! What proxies get of a guard: each field shows, to those that know it and, as refusals, to those that do not.

use super::{at_envoy, config, rules};
use crate::compile::View;
use crate::compile::policy::{Policies, of};
use crate::compile::tests::{member, snapshot, world};
use crate::registry::Health;
use naka_types::labels::Labels;
use naka_wire::v1;

const GUARD: &str = "
apiVersion: naka.dev/v1alpha1
kind: RequestGuard
metadata: {name: g, namespace: default}
spec:
  selector: {matchLabels: {app: payment}}
  guards:
  - {name: methods, methods: {allow: [GET, POST]}, action: Log}
  - {name: syntax, syntax: strict}
  - name: patterns
    patterns: {sqlInjection: true, xss: true, commandInjection: true, custom: [{name: own, regex: 'a.c'}]}
    action: Ban
    failures: 3
    per: 30s
    banFor: 2m
  - {name: handshakes, handshakes: failed, action: Ban}
  - {name: tokens, tokens: {faults: [expired]}, action: Ban}
";

fn policies(text: &str, labels: &[(&str, &str)]) -> Policies {
    let snapshot = snapshot(text);
    let world = world(&snapshot, vec![member(1, "payment", "v1", Health::Healthy)]);
    let pairs = labels.iter();
    let labels: Labels = pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    of(&View::new(&world), "default", &labels, None)
}

fn told(text: &str, labels: &[(&str, &str)]) -> String {
    let config = config(&policies(text, labels).guards);
    let wire = config.map(|any| naka_wire::unpack::<v1::Guards>(&any));
    wire.map(|wire| format!("{wire:?}")).unwrap_or_default()
}

#[test]
fn every_field_of_a_request_guard_shows_in_what_proxies_get() {
    let payment = [("app", "payment")];
    let whole = told(GUARD, &payment);
    assert!(whole.contains("default/g"), "{whole}");
    for (field, from, to) in [
        ("selector", "{app: payment}", "{app: order}"),
        ("name", "name: syntax", "name: strict"),
        ("methods.allow", "[GET, POST]", "[GET]"),
        ("syntax", "syntax: strict", "handshakes: failed"),
        ("patterns.sqlInjection", "sqlInjection: true, ", ""),
        ("patterns.xss", "xss: true", "xss: false"),
        ("patterns.commandInjection", "commandInjection: true, ", ""),
        ("patterns.custom[].name", "name: own", "name: mine"),
        ("patterns.custom[].regex", "a.c", "a.d"),
        ("handshakes", "handshakes: failed", "syntax: strict"),
        ("tokens.faults", "[expired]", "[expired, issuer]"),
        ("action", "action: Log", "action: Deny"),
        ("failures", "failures: 3", "failures: 4"),
        ("per", "per: 30s", "per: 31s"),
        ("banFor", "banFor: 2m", "banFor: 3m"),
    ] {
        let text = GUARD.replacen(from, to, 1);
        assert_ne!(text, GUARD, "{field}");
        assert_ne!(told(&text, &payment), whole, "{field}");
    }
    // Attached to gateways by their name, one or several.
    let gateway = "{group: gateway.networking.k8s.io, kind: Gateway, name: edge}";
    let named = [("gateway.networking.k8s.io/gateway-name", "edge")];
    for target in [
        format!("targetRef: {gateway}"),
        format!("targetRefs: [{gateway}]"),
    ] {
        let text = GUARD.replace("selector: {matchLabels: {app: payment}}", &target);
        assert_eq!(told(&text, &payment), "", "{target}");
        assert_eq!(told(&text, &named), whole, "{target}");
    }
}

/// An Envoy knows methods; what it cannot look at it refuses, and tells nothing.
#[test]
fn an_envoy_refuses_what_it_cannot_look_at() {
    let names = |told: bool| -> Vec<String> {
        let policies = policies(GUARD, &[("app", "payment")]);
        let all = rules(&policies.guards, told);
        all.into_iter().map(|rule| rule.name).collect()
    };
    assert_eq!(names(true), ["guard[default/g/methods]"]);
    assert_eq!(
        names(false),
        ["guard[default/g/syntax]", "guard[default/g/patterns]"]
    );
    let policies = policies(GUARD, &[("app", "payment")]);
    let words = at_envoy(&policies.guards[0].guard).unwrap();
    assert_eq!(
        words,
        "syntax refuses every request, patterns refuses every request, handshakes counts nothing and bans nobody, tokens counts nothing and bans nobody"
    );
}
