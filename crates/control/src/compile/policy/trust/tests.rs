//! What proxies get of a trust model: each field shows, to those that know labels and, as refusals, to those that do not.

use super::{At, Called, denied, message};
use crate::compile::View;
use crate::compile::policy::{Policies, of};
use crate::compile::tests::{member, snapshot, world};
use crate::registry::Health;
use naka_types::host::Host;
use naka_types::labels::Labels;

const MODEL: &str = "
apiVersion: naka.dev/v1alpha1
kind: TrustModel
metadata: {name: bank, namespace: default}
spec:
  selector: {matchLabels: {app: payment}}
  labels: {clearance: clearance, zone: area}
  levels: {low: 0, high: 5}
  zones: [A, B, C]
  crossings:
  - {from: A, to: B, operations: [pay]}
  operations:
  - name: pay
    hosts: [payment]
    ports: ['8080']
    methods: [POST]
    paths: [/pay]
    clearance: high
    hours: [{days: [Monday], from: '09:00', to: '18:00', timeZone: Asia/Kolkata}]
    networks: [10.0.0.0/8]
    dualAuthorization: true
    sessionTimeout: 15m
    auditTrail: comprehensive
  demands:
  - from: 5
    hours: [{days: [Tuesday], from: '10:00', to: '17:00', timeZone: UTC}]
    networks: [10.1.0.0/16]
    dualAuthorization: true
    sessionTimeout: 20m
    auditTrail: comprehensive
  approvalClaim: who
";

fn policies(text: &str, labels: &[(&str, &str)], granted: &[(&str, &str)]) -> Policies {
    let snapshot = snapshot(text);
    let members = vec![member(1, "payment", "v1", Health::Healthy)];
    let world = world(&snapshot, members);
    let of_pairs = |pairs: &[(&str, &str)]| -> Labels {
        let pairs = pairs.iter();
        pairs
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let (labels, granted) = (of_pairs(labels), of_pairs(granted));
    let host = Host::of_service("payment", "default");
    let called = Called {
        host: &host,
        namespace: "default",
        account: "payment",
        granted: Some(&granted),
    };
    of(&View::new(&world), "default", &labels, Some(called))
}

const AT: At = At {
    port: 8080,
    http: true,
    labels: true,
    tokens: true,
};

fn told(text: &str) -> String {
    let policies = policies(text, &[("app", "payment")], &[("area", "B"), ("zone", "B")]);
    let all = policies
        .trust
        .iter()
        .map(|held| format!("{:?}", message(held, AT)));
    all.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_field_of_a_trust_model_shows_in_what_proxies_get() {
    let whole = told(MODEL);
    assert!(whole.contains("default/bank"), "{whole}");
    for (field, from, to) in [
        ("selector", "{app: payment}", "{app: order}"),
        (
            "labels.clearance",
            "clearance: clearance",
            "clearance: rank",
        ),
        ("labels.zone", "zone: area", "zone: nowhere"),
        ("levels", "high: 5}", "high: 5, higher: 6}"),
        ("zones", "zones: [A, B, C]\n", "zones: [A, C]\n"),
        ("crossings[].from", "from: A, to: B", "from: C, to: B"),
        ("crossings[].to", "from: A, to: B", "from: A, to: C"),
        ("crossings[].operations", ", operations: [pay]", ""),
        ("operations[].name", "name: pay\n", "name: payment\n"),
        ("operations[].hosts", "hosts: [payment]", "hosts: [order]"),
        ("operations[].ports", "ports: ['8080']", "ports: ['8081']"),
        ("operations[].methods", "methods: [POST]", "methods: [PUT]"),
        ("operations[].paths", "paths: [/pay]", "paths: [/pays]"),
        ("operations[].clearance", "clearance: high", "clearance: 6"),
        ("operations[].hours[].days", "[Monday]", "[Friday]"),
        (
            "operations[].hours[].from",
            "from: '09:00'",
            "from: '09:30'",
        ),
        ("operations[].hours[].to", "to: '18:00'", "to: '18:30'"),
        (
            "operations[].hours[].timeZone",
            "Asia/Kolkata",
            "Asia/Tokyo",
        ),
        ("operations[].networks", "10.0.0.0/8", "10.0.0.0/9"),
        ("operations[].sessionTimeout", "15m", "14m"),
        ("demands[].from", "- from: 5", "- from: 6"),
        ("demands[].hours[].days", "[Tuesday]", "[Friday]"),
        ("demands[].hours[].from", "from: '10:00'", "from: '10:30'"),
        ("demands[].hours[].to", "to: '17:00'", "to: '17:30'"),
        (
            "demands[].hours[].timeZone",
            "timeZone: UTC",
            "timeZone: Asia/Tokyo",
        ),
        ("demands[].networks", "10.1.0.0/16", "10.1.0.0/17"),
        ("demands[].sessionTimeout", "20m", "10m"),
        ("approvalClaim", "approvalClaim: who", "approvalClaim: whom"),
    ] {
        let text = match field {
            "operations[].name" => MODEL.replace("[pay]", "[payment]").replace(from, to),
            // The crossing names the zone that is gone, too.
            "zones" => MODEL
                .replace("from: A, to: B", "from: A, to: C")
                .replace(from, to),
            _ => MODEL.replace(from, to),
        };
        assert_ne!(text, MODEL, "{field}");
        assert_ne!(told(&text), whole, "{field}");
    }
    // Said twice: one of them is enough, and without both it is not demanded.
    for (field, line) in [
        ("dualAuthorization", "    dualAuthorization: true\n"),
        ("auditTrail", "    auditTrail: comprehensive\n"),
    ] {
        let first = MODEL.replacen(line, "", 1);
        let last = {
            let at = MODEL.rfind(line).unwrap();
            let mut text = MODEL.to_owned();
            text.replace_range(at..at + line.len(), "");
            text
        };
        assert_eq!((told(&first), told(&last)), (whole.clone(), whole.clone()));
        assert_ne!(told(&MODEL.replace(line, "")), whole, "{field}");
    }
}

#[test]
fn a_claimed_zone_of_the_called_is_none() {
    let own = |granted: &[(&str, &str)]| {
        let labels = [("app", "payment"), ("area", "B")];
        let policies = policies(MODEL, &labels, granted);
        message(&policies.trust[0], AT).zone
    };
    assert_eq!(own(&[("area", "B")]), "B");
    assert_eq!(own(&[]), "");
    assert_eq!(own(&[("area", "D")]), "", "no zone of the model");
}

/// Bytes: what cannot be known is demanded, and a crossing for what cannot be told apart is none.
#[test]
fn bytes_are_of_every_operation_of_their_port() {
    let policies = policies(MODEL, &[("app", "payment")], &[("area", "B")]);
    let at = At { http: false, ..AT };
    let all = message(&policies.trust[0], at);
    assert_eq!(all.operations.len(), 1);
    assert!(all.crossings.is_empty(), "{all:?}");
    let elsewhere = message(&policies.trust[0], At { port: 9090, ..at });
    assert!(elsewhere.operations.is_empty());
}

#[test]
fn who_knows_no_labels_refuses_what_it_cannot_know() {
    let at = At {
        labels: false,
        ..AT
    };
    let names = |text: &str| -> Vec<String> {
        let policies = policies(text, &[("app", "payment")], &[]);
        let all = denied(&policies.trust, at);
        all.into_iter().map(|rule| rule.name).collect()
    };
    assert_eq!(names(MODEL), ["trust[default/bank]-zone"]);
    let head = "apiVersion: naka.dev/v1alpha1\nkind: TrustModel\nmetadata: {name: bank, namespace: default}\nspec:\n  operations:\n";
    let rule = ["trust[default/bank]-operation[a]"];
    for (operation, refused) in [
        ("{name: a, paths: [/a]}", false),
        (
            "{name: a, paths: [/a], clearance: public, auditTrail: comprehensive}",
            false,
        ),
        ("{name: a, paths: [/a], clearance: internal}", true),
        ("{name: a, paths: [/a], networks: [10.0.0.0/8]}", true),
        ("{name: a, paths: [/a], dualAuthorization: true}", true),
        ("{name: a, paths: [/a], sessionTimeout: 1m}", true),
        (
            "{name: a, paths: [/a], hours: [{from: '09:00', to: '18:00'}]}",
            true,
        ),
    ] {
        let wanted: &[&str] = if refused { &rule } else { &[] };
        assert_eq!(
            names(&format!("{head}  - {operation}\n")),
            wanted,
            "{operation}"
        );
    }
}
