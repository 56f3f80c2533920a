//! What a stock Envoy refuses stands in the trail, as what a sidecar refuses does.

use super::{DENY, calls, denials};
use crate::envoy::{ENVOY_SOON, serve};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::wait::until;

/// The called program has a stock Envoy. A call that policy refuses stands in the trail with caller, port, path and
/// rule, alike ones counted. The twins: an allowed call, and a 403 that the program itself answers, do not.
#[test]
fn what_an_envoy_refuses_stands_in_the_trail() {
    let mesh = Mesh::up();
    let _payment = serve(&mesh, "payment", "v1");
    mesh.apply("policy", DENY);
    until("the policy is in force", ENVOY_SOON, || {
        let told = calls(&mesh, "probe", &["http://payment/secret/probe"]);
        (told.last()? == "403").then_some(())
    });
    let urls = [
        "http://payment/secret/a?card=4111111111111111",
        "http://payment/secret/a",
        "http://payment/open",
        "http://payment/status/403",
        "http://payment/secret/last",
    ];
    let told = calls(&mesh, "order", &urls);
    assert_eq!(told, ["403", "403", "200", "403", "403"]);
    let of = |path: &str| {
        let all = denials(&mesh).into_iter();
        all.filter(|one| one["request.path"] == path)
            .collect::<Vec<_>>()
    };
    // They come in order: with the last one all are there.
    until("the last refused call", SOON, || {
        (!of("/secret/last").is_empty()).then_some(())
    });
    let found = of("/secret/a");
    let counts = found.iter().filter_map(|one| one["count"].as_u64());
    assert_eq!(counts.sum::<u64>(), 2, "{found:?}");
    let one = &found[0];
    assert_eq!(one["reason"], "permission-denied");
    assert_eq!(one["request.method"], "GET");
    let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
    assert!(text("from").ends_with("/ns/default/sa/order"), "{one}");
    assert!(text("to").starts_with("payment-v1"), "{one}");
    assert!(text("rule").contains("no-secrets"), "{one}");
    let served = &mesh.workloads();
    let served = served
        .iter()
        .find(|w| w["service"] == "payment")
        .expect("payment");
    assert_eq!(one["destination.port"], served["ports"][0]["port"], "{one}");
    assert_eq!(one["source.address"], "[masked]");
    for twin in ["/open", "/status/403"] {
        assert!(of(twin).is_empty(), "the twin {twin}");
    }
    let file = mesh.ok(["audit", "export", "--stream", "denials"]);
    assert!(!file.contains("4111111111111111"), "no query is kept");
}
