//! Who holds a host, for whom: entries beside services, grants, conflicts, visibility.

use super::Refused;
use crate::compile::tests::{member, snapshot, world};
use crate::registry::Health;
use naka_types::host::Host;
use naka_types::labels::Labels;

fn entry(name: &str, namespace: &str, host: &str, more: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  hosts: ['{host}']\n  ports: [{{number: 80, name: http}}]\n  resolution: STATIC\n  endpoints: [{{address: 192.0.2.1}}]\n{more}"
    )
}

/// The entry that holds a host for callers of a namespace: `namespace/name`, `service`, or nobody.
fn holder(objects: &str, host: &str, caller: &str) -> String {
    let snapshot = snapshot(objects);
    let world = world(&snapshot, vec![member(1, "pay", "v1", Health::Healthy)]);
    let host = Host::resolve(host, "default").unwrap();
    match world.holder(&host, caller) {
        None => "nobody".to_owned(),
        Some(service) => service.entry.as_ref().map_or_else(
            || "service".to_owned(),
            |entry| format!("{}/{}", service.namespace, entry.name),
        ),
    }
}

#[test]
fn a_name_of_a_namespace_is_its_own_unless_it_grants_it() {
    let own = entry("a", "default", "old.default.svc.cluster.local", "");
    let foreign = entry("a", "shop", "old.default.svc.cluster.local", "");
    let taken = entry("a", "default", "pay.default.svc.cluster.local", "");
    let pattern = entry("a", "shop", "*.default.svc.cluster.local", "");
    let whole = entry("a", "shop", "*.cluster.local", "");
    let grant = |to: &str| {
        format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: default, annotations: {{naka.dev/host-grants: '{to}'}}}}\n"
        )
    };
    let old = "old.default.svc.cluster.local";
    for (what, objects, host, expect) in [
        ("its own", own.clone(), old, "default/a"),
        ("another's", foreign.clone(), old, "nobody"),
        (
            "granted",
            foreign.clone() + &grant("x, shop"),
            old,
            "shop/a",
        ),
        ("granted to others", foreign + &grant("x"), old, "nobody"),
        ("a running service's", taken, "pay", "service"),
        (
            "a pattern over another's",
            pattern,
            "*.default.svc.cluster.local",
            "nobody",
        ),
        ("a pattern over all", whole, "*.cluster.local", "shop/a"),
    ] {
        assert_eq!(holder(&objects, host, "default"), expect, "{what}");
    }
}

#[test]
fn the_oldest_that_a_caller_sees_holds_and_the_others_are_told() {
    let private = "  exportTo: ['.']\n";
    let a = entry("a", "shop", "x.example", private);
    let b = entry("b", "bank", "x.example", private);
    let c = entry("c", "ops", "x.example", "");
    let d = entry("d", "ops", "x.example", private);
    let all = [a, b, c, d].concat();
    for (caller, expect) in [
        ("shop", "shop/a"),
        ("bank", "bank/b"),
        ("ops", "nobody"),
        ("default", "nobody"),
    ] {
        // An entry for everybody would shadow the private ones of others: it is refused, being younger.
        let expect = if expect == "nobody" && caller == "ops" {
            "ops/d"
        } else {
            expect
        };
        assert_eq!(holder(&all, "x.example", caller), expect, "{caller}");
    }
    let snapshot = snapshot(&all);
    let world = world(&snapshot, Vec::new());
    let refused = &world.refused[&("ops".to_owned(), "c".to_owned())];
    let (index, host, why) = &refused[0];
    assert_eq!((*index, host.as_str()), (0, "x.example"));
    assert!(
        matches!(why, Refused::Older(older) if older.name == "a"),
        "{why:?}"
    );
    assert_eq!(world.refused.len(), 1);
}

#[test]
fn an_endpoint_that_names_a_service_stands_for_its_workloads_and_their_identity() {
    let named =
        entry("a", "shop", "pay.global", "").replace("192.0.2.1", "pay.default.svc.cluster.local");
    let named = named.replace("STATIC", "DNS");
    let snapshot = snapshot(&named);
    let world = world(&snapshot, vec![member(1, "pay", "v1", Health::Healthy)]);
    let service = &world.services[&Host::parse("pay.global").unwrap()];
    let entry = service.entry.as_ref().unwrap();
    let endpoint = &entry.endpoints[&80][0];
    assert_eq!(
        (endpoint.address.as_str(), endpoint.mtls),
        ("127.0.0.1:20001", true)
    );
    let identity = ("default".to_owned(), "pay".to_owned());
    assert!(entry.identities.contains(&identity));
}

#[test]
fn labels_count_only_with_an_account_that_the_entry_names() {
    let selecting = |account: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, namespace: default, annotations: {{naka.dev/service-accounts: '{account}'}}}}\nspec:\n  hosts: [x.example]\n  ports: [{{number: 8080, name: http}}]\n  resolution: STATIC\n  workloadSelector: {{labels: {{version: v1}}}}\n"
        )
    };
    for (account, expect) in [("pay", 1), ("other", 0)] {
        let snapshot = snapshot(&selecting(account));
        let world = world(&snapshot, vec![member(1, "pay", "v1", Health::Healthy)]);
        let service = &world.services[&Host::parse("x.example").unwrap()];
        let entry = service.entry.as_ref().unwrap();
        let found = entry.endpoints.get(&8080).map_or(0, Vec::len);
        assert_eq!(found, expect, "{account}");
    }
}

#[test]
fn of_a_callers_labels_only_those_count_that_a_rule_reads() {
    let labels: Labels = [("tier", "gold"), ("app", "a")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: shop}\nspec: {workloadSelector: {labels: {tier: gold}}}\n";
    let snapshot = snapshot(sidecar);
    let world = world(&snapshot, Vec::new());
    assert_eq!(world.labels_read("shop", &labels).len(), 1);
    assert_eq!(world.labels_read("bank", &labels).len(), 0);
    assert!(world.narrows("shop") && !world.narrows("bank"));
    assert!(world.sidecar("shop", &labels).is_some());
    assert!(world.sidecar("shop", &Labels::new()).is_none());
}

/// What a WorkloadEntry says of a workload counts where account and address are the workload's, whatever that says of
/// itself; it does not where others say something else.
#[test]
fn entries_vouch_for_labels_of_who_is_there() {
    let entry = |name: &str, spec: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}, namespace: default}}\nspec: {{{spec}}}\n---\n"
        )
    };
    let sound = "address: 10.0.0.5, serviceAccount: pay, labels: {tier: gold}";
    for (entries, seen_at, granted) in [
        (entry("a", sound), "10.0.0.5", true),
        (entry("a", sound), "10.0.0.6", false),
        (entry("a", sound), "", false),
        (
            entry(
                "a",
                "address: 10.0.0.5, serviceAccount: other, labels: {tier: gold}",
            ),
            "10.0.0.5",
            false,
        ),
        (
            entry("a", "address: 10.0.0.5, labels: {tier: gold}"),
            "10.0.0.5",
            false,
        ),
        (
            entry(
                "a",
                "address: pay.example, serviceAccount: pay, labels: {tier: gold}",
            ),
            "10.0.0.5",
            false,
        ),
        // What the workload wears contradicts it.
        (
            entry(
                "a",
                "address: 10.0.0.5, serviceAccount: pay, labels: {version: v2}",
            ),
            "10.0.0.5",
            false,
        ),
        (
            entry("a", sound)
                + &entry(
                    "b",
                    "address: 10.0.0.5, serviceAccount: pay, labels: {tier: silver}",
                ),
            "10.0.0.5",
            false,
        ),
        (
            entry("a", sound)
                + &entry(
                    "b",
                    "address: 10.0.0.7, serviceAccount: pay, labels: {tier: silver}",
                ),
            "10.0.0.5",
            true,
        ),
        (
            entry(
                "a",
                "address: 'fd00::5', serviceAccount: pay, labels: {tier: gold}",
            ),
            "fd00::5",
            true,
        ),
        (
            entry("a", sound).replace("namespace: default", "namespace: shop"),
            "10.0.0.5",
            false,
        ),
    ] {
        let objects = snapshot(&entries);
        let mut member = member(1, "pay", "v1", Health::Healthy);
        let id = member.registration.workload_id.clone();
        std::sync::Arc::make_mut(&mut member.registration).seen_at = seen_at.to_owned();
        let world = world(&objects, vec![member]);
        let tier = world.granted.get(&id).and_then(|labels| labels.get("tier"));
        assert_eq!(
            tier.map(String::as_str),
            granted.then_some("gold"),
            "{seen_at}: {entries}"
        );
    }
}
