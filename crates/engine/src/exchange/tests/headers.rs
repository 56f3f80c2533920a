//! The mesh's own headers, by who sends them.

use super::{World, always, route, to, tried};
use crate::canonical::{Caller, Origin};
use crate::exchange::xfcc;
use crate::model::{Action, HeaderEdits, Match, MtlsMode};
use naka_types::spiffe::SpiffeId;

fn world() -> World {
    let mut world = World::new();
    let cluster = world.cluster("a", &[1]);
    world.host(always(to(vec![cluster])));
    world
}

#[test]
fn every_hop_adds_an_id_a_trace_and_the_scheme() {
    let mut world = world();
    let mut ids = std::collections::BTreeSet::new();
    let mut sampled = 0;
    for _ in 0..2000 {
        let mut request = world.request("GET", "/", &[]);
        let _try = tried(world.begin(&mut request).1);
        let headers = request.headers();
        let id = headers["x-request-id"].to_str().unwrap();
        assert!(
            id.len() == 36 && &id[14..15] == "4" && "89ab".contains(&id[19..20]),
            "{id}"
        );
        ids.insert(id.to_owned());
        let trace = headers["traceparent"].to_str().unwrap();
        let parts: Vec<_> = trace.split('-').collect();
        assert_eq!(
            parts.iter().map(|p| p.len()).collect::<Vec<_>>(),
            [2, 32, 16, 2]
        );
        sampled += usize::from(parts[3] == "01");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-envoy-attempt-count"], "1");
    }
    assert_eq!(ids.len(), 2000);
    assert!((1..80).contains(&sampled), "{sampled} of 2000");
    let kept = [("x-request-id", "mine"), ("x-forwarded-proto", "https")];
    let mut request = world.request("GET", "/", &kept);
    let _try = tried(world.begin(&mut request).1);
    for (name, value) in kept {
        assert_eq!(request.headers()[name], value);
    }
    let long = "x".repeat(129);
    let mut request = world.request("GET", "/", &[("x-request-id", &long)]);
    let _try = tried(world.begin(&mut request).1);
    assert_eq!(request.headers()["x-request-id"].len(), 36);
}

#[test]
fn nobody_but_a_mesh_proxy_sends_internal_headers() {
    let forged = [
        ("x-naka-reason", "draining"),
        ("x-naka-keep", "1"),
        ("x-envoy-decorator-operation", "x"),
        ("x-forwarded-client-cert", "By=me"),
    ];
    let id = |name: &str| SpiffeId::new("cluster.local", "shop", name).unwrap();
    let cert = xfcc(&id("payment"), &id("order"), &[0xab; 32], r#"CN=a"b"#).unwrap();
    let peer = Caller::MeshPeer {
        xfcc: Some(cert.clone()),
    };
    for (caller, kept) in [
        (Caller::Outside, false),
        (Caller::OwnProgram, false),
        (peer, true),
    ] {
        let mut world = World::new();
        world.inbound(MtlsMode::Permissive);
        world.origin = Origin::inbound(8080, caller, true);
        let mut request = world.request("GET", "/", &forged);
        let _try = tried(world.begin(&mut request).1);
        for (name, _) in &forged[..3] {
            assert_eq!(request.headers().contains_key(*name), kept, "{name}");
        }
        let seen = request.headers().get("x-forwarded-client-cert");
        assert_eq!(seen, kept.then_some(&cert), "never the forged one");
    }
    assert_eq!(
        cert.to_str().unwrap(),
        format!(
            "By=spiffe://cluster.local/ns/shop/sa/payment;Hash={};Subject=\"CN=a\\\"b\";URI=spiffe://cluster.local/ns/shop/sa/order",
            "ab".repeat(32)
        )
    );
}

#[test]
fn responses_keep_internal_headers_only_inside_the_mesh() {
    let forged = [
        ("x-naka-reason", "draining"),
        ("x-envoy-upstream-service-time", "3"),
        ("x-own", "1"),
    ];
    let mut world = world();
    let mut request = world.request("GET", "/", &[]);
    let (mut exchange, _) = world.begin(&mut request);
    let headers = world
        .answered(&mut exchange, &mut request, 200, &forged)
        .unwrap();
    assert_eq!(headers.len(), 3, "the endpoint is a mesh proxy");
    world.origin = Origin::gateway(80, false, Some([192, 0, 2, 7].into()));
    let from = [
        ("host", "payment"),
        ("x-forwarded-for", "10.9.9.9"),
        ("x-forwarded-proto", "https"),
    ];
    let mut request = world.request("GET", "/", &from);
    let (mut exchange, _) = world.begin(&mut request);
    assert_eq!(request.headers()["x-forwarded-for"], "10.9.9.9,192.0.2.7");
    assert_eq!(
        request.headers()["x-forwarded-proto"],
        "http",
        "a stranger's claim"
    );
    let headers = world
        .answered(&mut exchange, &mut request, 200, &forged)
        .unwrap();
    assert_eq!(
        headers.keys().map(|n| n.as_str()).collect::<Vec<_>>(),
        ["x-own"]
    );
}

#[test]
fn edits_of_the_destination_come_before_those_of_the_route() {
    let edits =
        |set: &'static str| HeaderEdits::new([("x-a", set)], [("x-b", set)], ["x-c"]).unwrap();
    let mut world = World::new();
    let mut cluster = world.cluster("a", &[1]);
    (cluster.request_headers, cluster.response_headers) = (edits("cluster"), edits("cluster"));
    let mut r = route("r", Match::default(), Action::Forward(to(vec![cluster])));
    (r.request_headers, r.response_headers) = (edits("route"), edits("route"));
    world.host(vec![r]);
    let given = [("x-a", "old"), ("x-b", "old"), ("x-c", "old")];
    let mut request = world.request("GET", "/", &given);
    let (mut exchange, _) = world.begin(&mut request);
    let check = |headers: &http::HeaderMap| {
        assert_eq!(headers["x-a"], "route");
        let all: Vec<_> = headers.get_all("x-b").iter().collect();
        assert_eq!(all, ["old", "cluster", "route"]);
        assert!(!headers.contains_key("x-c"));
    };
    check(request.headers());
    check(
        &world
            .answered(&mut exchange, &mut request, 200, &given)
            .unwrap(),
    );
}
