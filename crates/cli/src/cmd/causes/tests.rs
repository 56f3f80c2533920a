//! Mistakes as newcomers make them: each is told by its code and in words that name it, and not told once it is mended.

use super::{finding, merge, of_gateway, of_host, unknown};
use crate::cmd::causes::left_out;
use crate::cmd::explain::world::of_value;
use naka_api::{Mode, codes};
use naka_control::world::World;
use naka_types::finding::Finding;
use naka_types::host::Host;
use naka_types::labels::Labels;
use serde_json::{Value, json};

const PAYMENT: &str = "payment.default.svc.cluster.local";

/// A mesh with payment v1 and v2, asked to be strict, and these objects.
fn world(manifests: &str) -> World {
    let decoded = naka_api::decode_yaml("f.yaml", manifests.as_bytes(), Mode::Compat);
    let raw: Vec<Value> = decoded.objects.iter().map(|one| one.raw.clone()).collect();
    let mut objects = raw;
    objects.push(json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": "istio-system"}, "spec": {"mtls": {"mode": "STRICT"}}}));
    let endpoint = |version: &str| {
        json!({"address": "127.0.0.1:1", "health": "healthy", "weight": 1, "mtls": true,
            "workload": format!("payment-{version}-0"), "labels": {"app": "payment", "version": version}})
    };
    of_value(&json!({
        "trust_domain": "cluster.local", "objects": objects,
        "services": {PAYMENT: {"name": "payment", "namespace": "default", "declared": true, "accounts": ["payment"],
            "ports": {"80": {"name": "http", "protocol": "http"}}}},
        "endpoints": {PAYMENT: {"80": [endpoint("v1"), endpoint("v2")]}},
    }))
}

fn service(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: pay, namespace: default}}\nspec: {spec}\n"
    )
}

fn rule(spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: pay, namespace: default}}\nspec: {spec}\n"
    )
}

fn edge(selector: &str, port: &str, host: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: istio-system}}\nspec: {{selector: {{istio: {selector}}}, servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: [{host}]}}]}}\n"
    )
}

#[track_caller]
fn told(found: &[Finding], code: &str, words: &str) {
    let mut all = found.iter();
    let fits = |one: &Finding| one.code == code && one.to_string().contains(words);
    assert!(all.any(fits), "{code} {words}: {found:#?}");
    assert!(found.iter().all(|one| !one.fix.is_empty()), "{found:#?}");
}

/// Routes for a host that lead to payment.
fn hosts(hosts: &str) -> String {
    service(&format!(
        "{{hosts: [{hosts}], http: [{{route: [{{destination: {{host: payment}}}}]}}]}}"
    ))
}

/// Each row: what is told, in which words, of what; and objects in which it is mended.
#[track_caller]
fn mended<const N: usize>(rows: [(&str, &str, String, String); N]) {
    let host = Host::resolve("payment", "default").expect("a host");
    let found = |manifests: &str| of_host(&world(manifests), &host, Some("default"));
    for (code, words, wrong, right) in rows {
        told(&found(&wrong), code, words);
        let after = found(&right);
        assert!(after.is_empty(), "{code} {words}: {after:#?}");
    }
}

#[test]
fn a_destination_that_cannot_answer_is_told_until_it_is_mended() {
    let to = |to: &str| {
        service(&format!(
            "{{hosts: [payment], http: [{{route: [{{destination: {to}}}]}}]}}"
        ))
    };
    let subset = |labels: &str| {
        rule(&format!(
            "{{host: payment, subsets: [{{name: v3, labels: {labels}}}]}}"
        ))
    };
    let mode = |mode: &str| {
        rule(&format!(
            "{{host: payment, trafficPolicy: {{tls: {{mode: {mode}}}}}}}"
        ))
    };
    let of_subset = |mode: &str| {
        rule(&format!(
            "{{host: payment, subsets: [{{name: v1, labels: {{version: v1}}, trafficPolicy: {{tls: {{mode: {mode}}}}}}}]}}"
        ))
    };
    let v3 = to("{host: payment, subset: v3}");
    mended([
        (
            "E925",
            "payment-v1-0 has app=payment,version=v1",
            v3.clone() + &subset("{version: v3}"),
            v3.clone() + &subset("{version: v1}"),
        ),
        ("L310", "v3", v3.clone(), v3 + &subset("{version: v2}")),
        (
            "L314",
            "did you mean payment?",
            to("{host: paymnet}"),
            to("{host: payment}"),
        ),
        (
            "W924",
            "did you mean payment?",
            hosts("paymnet"),
            hosts("payment"),
        ),
        (
            "E924",
            "turns TLS off",
            mode("DISABLE"),
            mode("ISTIO_MUTUAL"),
        ),
        (
            "E924",
            "without the mesh's certificate",
            mode("SIMPLE"),
            mode("ISTIO_MUTUAL"),
        ),
        (
            "E924",
            "subset v1",
            of_subset("DISABLE"),
            of_subset("ISTIO_MUTUAL"),
        ),
    ]);
}

#[test]
fn an_object_that_does_not_decide_is_told_until_it_is_mended() {
    let export = |to: &str| {
        service(&format!(
            "{{hosts: [payment], exportTo: [{to}], http: [{{route: [{{destination: {{host: payment}}}}]}}]}}"
        ))
    };
    let two = |host: &str| {
        format!(
            "{}---\n{}",
            hosts(host),
            hosts("payment").replace("name: pay,", "name: apay,")
        )
    };
    let delegate = |name: &str| {
        let own = service("{http: [{route: [{destination: {host: payment}}]}]}")
            .replace("name: pay,", "name: part,");
        format!(
            "{}---\n{own}",
            service(&format!(
                "{{hosts: [payment], http: [{{delegate: {{name: {name}}}}}]}}"
            ))
        )
    };
    let order = |first: &str, second: &str| {
        service(&format!(
            "{{hosts: [payment], http: [{{{first}route: [{{destination: {{host: payment}}}}]}}, {{{second}route: [{{destination: {{host: payment}}}}]}}]}}"
        ))
    };
    let regex = |regex: &str| {
        service(&format!(
            "{{hosts: [payment], http: [{{match: [{{uri: {{regex: {regex}}}}}], route: [{{destination: {{host: payment}}}}]}}]}}"
        ))
    };
    let some = "match: [{uri: {prefix: /a}}], ";
    mended([
        ("W923", "namespace default", export("shop"), export("'.'")),
        ("L316", "default/apay claims", two("payment"), two("other")),
        ("L317", "does not exist", delegate("prat"), delegate("part")),
        ("L313", "never reached", order("", some), order(some, "")),
        (
            "L309",
            "the whole value must match",
            regex("'^(/a|/b)/'"),
            regex("'^(/a|/b)/.*'"),
        ),
    ]);
}

#[test]
fn a_host_that_a_gateway_does_not_serve_has_its_cause() {
    let labels: Labels = [("istio".to_owned(), "ingressgateway".to_owned())].into();
    let bound = |gateways: &str, host: &str| {
        service(&format!(
            "{{hosts: [{host}], {gateways}http: [{{route: [{{destination: {{host: payment}}}}]}}]}}"
        ))
    };
    let own = "gateways: [istio-system/edge], ";
    let here = edge("ingressgateway", "80", "shop.example.com");
    for (code, words, wrong) in [
        (
            "E926",
            "`gateways: [istio-system/edge]`",
            bound("", "shop.example.com") + &here,
        ),
        (
            "E312",
            "write istio-system/edge",
            bound("gateways: [edge], ", "shop.example.com") + &here,
        ),
        (
            "E926",
            "no VirtualService that is bound to it",
            bound(own, "other.example.com") + &here,
        ),
        (
            "E926",
            "serves api.example.com at port 80",
            bound(own, "shop.example.com") + &edge("ingressgateway", "80", "api.example.com"),
        ),
        (
            "E926",
            "no server at port 80",
            bound(own, "shop.example.com") + &edge("ingressgateway", "8080", "shop.example.com"),
        ),
        (
            "E926",
            "at proxies with istio=ingress;",
            bound(own, "shop.example.com") + &edge("ingress", "80", "shop.example.com"),
        ),
    ] {
        told(
            &of_gateway(&world(&wrong), &labels, 80, "shop.example.com"),
            code,
            words,
        );
    }
    let right = bound(own, "shop.example.com") + &here;
    let found = of_gateway(&world(&right), &labels, 80, "shop.example.com");
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_name_that_the_caller_does_not_know_has_its_cause() {
    let host = |name: &str, namespace: &str| Host::resolve(name, namespace).expect("a host");
    let plain = world("");
    for (name, words) in [
        ("paymnet", "did you mean payment?"),
        ("payment.shop.svc", "one in namespace default"),
    ] {
        told(&[unknown(&plain, &host(name, "default"))], "E920", words);
    }
    let sidecar = |hosts: &str| {
        world(&format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: own, namespace: default}}\nspec: {{egress: [{{hosts: [{hosts}]}}]}}\n"
        ))
    };
    let left = |world: &World| {
        left_out(
            world,
            &host("payment", "default"),
            "default",
            &Labels::new(),
        )
    };
    let found: Vec<Finding> = left(&sidecar("'shop/*'")).into_iter().collect();
    told(&found, "W925", "Sidecar default/own spec.egress");
    assert_eq!(left(&sidecar("'./*'")), None);
}

#[test]
fn of_two_findings_about_a_field_the_one_with_a_fix_stays() {
    let plain = finding(codes::L310, "no subset".to_owned())
        .fix("")
        .on("VirtualService default/pay")
        .at("spec");
    let mut all = vec![plain.clone()];
    merge(
        &mut all,
        vec![plain.clone().fix("define it"), plain.at("spec.http[0]")],
    );
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].fix, "define it");
}
