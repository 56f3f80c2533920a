//! Whom policies ask, and what becomes of what they would ask about when they can ask nobody.

use super::super::{message, of};
use super::*;
use crate::compile::policy::trust::Called;
use crate::compile::tests::{snapshot, world};
use crate::world::World;
use naka_types::labels::Labels;
use naka_wire::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use naka_wire::envoy::extensions::filters::network::rbac::v3::Rbac as BytesRbac;

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: authz, namespace: tools}\nspec: {ports: [{port: 80, name: http}]}\n---\n";

/// A workload of that host.
fn called(host: &Host) -> Called<'_> {
    Called {
        host,
        namespace: "shop",
        account: "",
        granted: None,
    }
}

fn config(fields: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    extensionProviders:\n    - name: a\n      envoyExtAuthzHttp: {{{fields}}}\n    - name: b\n      envoyExtAuthzGrpc: {{service: authz.tools.svc.cluster.local, port: 80}}\n---\n"
    )
}

fn policy(name: &str, provider: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{to: [{{operation: {{paths: [/x]}}}}]}}]}}\n---\n"
    )
}

fn made(objects: &str) -> World {
    world(&snapshot(objects), Vec::new())
}

const SOUND: &str = "service: authz.tools.svc.cluster.local, port: 80";

/// The filters of a workload of `shop`, and the rules of the first.
fn filters(world: &World, own: Option<&Host>) -> (Vec<HttpFilter>, HttpRbac) {
    let view = View::new(world);
    let policies = of(&view, "shop", &Labels::new(), own.map(called));
    let all = message::http(&policies, 8080, true);
    let Some(http_filter::ConfigType::TypedConfig(any)) = &all[0].config_type else {
        panic!("{all:?}");
    };
    let rules = naka_wire::unpack(any).unwrap();
    (all, rules)
}

#[test]
fn rules_note_what_is_asked_about_and_a_service_of_the_mesh_is_asked() {
    let fields = format!(
        "{SOUND}, timeout: 2s, failOpen: true, statusOnError: '503', pathPrefix: /check, includeRequestHeadersInCheck: [x-a, 'x-b*'], includeAdditionalHeadersInCheck: {{x-c: d}}, headersToUpstreamOnAllow: ['*-e'], headersToDownstreamOnDeny: ['*'], includeRequestBodyInCheck: {{maxRequestBytes: 9, packAsBytes: true}}"
    );
    let world = made(&(SERVICE.to_owned() + &config(&fields) + &policy("p", "a")));
    let (all, rules) = filters(&world, None);
    assert_eq!(all.len(), 2);
    assert!(rules.rules.is_none());
    assert_eq!(rules.shadow_rules_stat_prefix, "istio_ext_authz_");
    let shadow = rules.shadow_rules.unwrap();
    let names: Vec<&String> = shadow.policies.keys().collect();
    assert_eq!(names, ["istio-ext-authz-a-ns[shop]-policy[p]-rule[0]"]);
    let Some(http_filter::ConfigType::TypedConfig(any)) = &all[1].config_type else {
        panic!("{all:?}");
    };
    let asks: ExtAuthz = naka_wire::unpack(any).unwrap();
    assert!(asks.failure_mode_allow && asks.clear_route_cache);
    assert_eq!(asks.status_on_error.unwrap().code, 503);
    assert_eq!(asks.with_request_body.unwrap().max_request_bytes, 9);
    assert_eq!(asks.allowed_headers.unwrap().patterns.len(), 2);
    let Some(Services::HttpService(service)) = asks.services else {
        panic!("by HTTP");
    };
    assert_eq!(service.path_prefix, "/check");
    let uri = service.server_uri.unwrap();
    assert_eq!(uri.timeout.unwrap().seconds, 2);
    let cluster = "outbound|80||authz.tools.svc.cluster.local";
    let to = http_uri::HttpUpstreamType::Cluster(cluster.to_owned());
    assert_eq!(uri.http_upstream_type, Some(to));
    let view = View::new(&world);
    let policies = of(&view, "shop", &Labels::new(), None);
    assert_eq!(policies.asked().unwrap().to_string(), cluster);
}

#[test]
fn where_nobody_can_be_asked_the_same_requests_are_refused_and_why_is_told() {
    let own = Host::of_service("authz", "tools");
    for (objects, own, why) in [
        (policy("p", "c"), None, "no provider \"c\""),
        (config(SOUND) + &policy("p", "a"), None, "nothing declares"),
        (
            SERVICE.to_owned()
                + &config("service: authz.tools.svc.cluster.local, port: 81")
                + &policy("p", "a"),
            None,
            "no port 81",
        ),
        (
            SERVICE.to_owned()
                + &config("service: shop/authz.tools.svc.cluster.local, port: 80")
                + &policy("p", "a"),
            None,
            "nothing declares",
        ),
        (
            SERVICE.to_owned() + &config("service: 127.0.0.1, port: 80") + &policy("p", "a"),
            None,
            "no provider \"a\"",
        ),
        (
            SERVICE.to_owned() + &config(SOUND) + &policy("p", "a"),
            Some(&own),
            "about what it is asked",
        ),
        (
            SERVICE.to_owned() + &config(SOUND) + &policy("p", "a") + &policy("q", "b"),
            None,
            "ask both \"a\" and \"b\"",
        ),
    ] {
        let world = made(&objects);
        let (all, rules) = filters(&world, own);
        assert_eq!(all.len(), 1, "{why}");
        assert!(rules.shadow_rules.is_none(), "{why}");
        let refused = rules.rules.unwrap();
        assert_eq!(refused.action, 1, "DENY");
        assert!(refused.policies.keys().all(|name| name.ends_with(BAD)));
        let view = View::new(&world);
        let policies = of(&view, "shop", &Labels::new(), own.map(called));
        assert!(policies.asked().is_none());
        let said = policies.authorizer.unwrap().found.unwrap_err();
        assert!(said.contains(why), "{said}");
        let object = &world.policies["shop"][0];
        let finding = unresolved(&view, object);
        // Beside another one, and at its own service, a provider is sound.
        let elsewhere = own.is_some() || why.starts_with("ask both");
        assert_eq!(finding.is_none(), elsewhere, "{why}");
        assert!(finding.is_none_or(|found| found.message.contains(why)));
    }
}

#[test]
fn bytes_that_somebody_would_be_asked_about_are_refused() {
    let world = made(&(SERVICE.to_owned() + &config(SOUND) + &policy("p", "a")));
    let view = View::new(&world);
    let policies = of(&view, "shop", &Labels::new(), None);
    let [audit, deny, allow] = message::rules_of_bytes(&policies, 8080, true);
    assert!(audit.is_none() && allow.is_none());
    let deny = deny.unwrap();
    let any = match deny.config_type.unwrap() {
        naka_wire::envoy::config::listener::v3::filter::ConfigType::TypedConfig(any) => any,
        other => panic!("{other:?}"),
    };
    let rbac: BytesRbac = naka_wire::unpack(&any).unwrap();
    assert_eq!(rbac.rules.unwrap().policies.len(), 1);
}

/// What is attached to a Gateway holds for its proxies in its own namespace, the root's no less.
#[test]
fn a_policy_with_references_holds_where_they_lead() {
    let attached = |name: &str, namespace: &str, to: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{targetRefs: [{to}], rules: [{{}}]}}\n---\n"
        )
    };
    let gateway =
        |name: &str| format!("{{group: gateway.networking.k8s.io, kind: Gateway, name: {name}}}");
    let world = made(
        &[
            attached("own", "shop", &gateway("edge")),
            attached(
                "two",
                "shop",
                &format!("{}, {}", gateway("inner"), gateway("edge")),
            ),
            attached("other", "shop", &gateway("inner")),
            attached("service", "shop", "{kind: Service, name: edge}"),
            attached("root", "istio-system", &gateway("edge")),
        ]
        .concat(),
    );
    let names = |namespace: &str, label: Option<&str>| {
        let view = View::new(&world);
        let label = label.map(|name| {
            (
                naka_api::security::attached::GATEWAY_NAME.to_owned(),
                name.to_owned(),
            )
        });
        let labels: Labels = label.into_iter().collect();
        let policies = of(&view, namespace, &labels, None);
        let all: Vec<String> = policies
            .allow
            .iter()
            .map(|held| held.name.clone())
            .collect();
        all
    };
    assert_eq!(
        names("shop", Some("edge")),
        ["ns[shop]-policy[own]", "ns[shop]-policy[two]"]
    );
    assert_eq!(
        names("istio-system", Some("edge")),
        ["ns[istio-system]-policy[root]"]
    );
    assert!(names("shop", None).is_empty() && names("other", Some("edge")).is_empty());
}
