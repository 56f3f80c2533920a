//! `naka check --profile`: the score of a running mesh, before and after an item is fulfilled and when it is torn again.

use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::wait::until;
use serde_json::Value;

const CLOSED: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-all, namespace: istio-system}
spec: {}
";

const OPEN: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: open, namespace: default}
spec: {mtls: {mode: PERMISSIVE}}
";

const SUBSETS: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: payment, namespace: default}
spec: {host: payment, subsets: [{name: v1, labels: {version: v1}}]}
";

/// A list of one's own, with each way an item can be held.
const OWN: &str = "about: Before we open
groups:
- group: ours
  items:
  - {item: encrypted, check: strict, required: true, fix: f}
  - {item: versions, kind: DestinationRule, has: spec.subsets, fix: f}
  - {item: auditor, manual: the auditor}
";

/// Exit code, score, and the answer.
fn checked(mesh: &Mesh, profile: &str) -> (Option<i32>, u64, Value) {
    let said = mesh.naka(["check", "--profile", profile, "-o", "json"]);
    let value: Value = serde_json::from_slice(&said.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&said.stderr)));
    (
        said.status.code(),
        value["score"].as_u64().expect("a score"),
        value,
    )
}

fn state(value: &Value, item: &str) -> String {
    let items = value["items"].as_array().expect("items");
    let found = items.iter().find(|one| one["item"] == item);
    found.unwrap_or_else(|| panic!("{item}: {value}"))["state"]
        .as_str()
        .expect("a state")
        .to_owned()
}

const DENY_ALL: &str = "Default deny-all authorization policies implemented";
const AUTHENTICATED: &str = "Service-to-service authentication is mandatory";

/// A mesh that is open to its own callers misses one demanded item; closed it has a better score and exit code 0; a
/// namespace that takes plaintext costs it again, and its end gives it back.
#[test]
fn the_score_follows_what_is_fulfilled() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let (code, open, value) = checked(&mesh, "zero-trust");
    assert_eq!(code, Some(1), "{value}");
    assert_eq!(state(&value, DENY_ALL), "error");
    assert_eq!(state(&value, AUTHENTICATED), "ok");
    assert_eq!(state(&value, "Regular penetration testing"), "manual");
    let codes = value["findings"].as_array().expect("findings").iter();
    let errors: Vec<&Value> = codes.filter(|f| f["code"] == "E970").collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0]["message"]
            .as_str()
            .is_some_and(|text| text.contains("payment")),
        "{errors:?}"
    );

    mesh.apply("closed.yaml", CLOSED);
    let (code, closed, value) = checked(&mesh, "zero-trust");
    assert_eq!(
        (code, state(&value, DENY_ALL).as_str()),
        (Some(0), "ok"),
        "{value}"
    );
    assert!(closed > open, "{open} % before, {closed} % after");

    let file = mesh.file("open.yaml", OPEN);
    let file = file.to_str().expect("printable");
    mesh.ok(["apply", "--wait", "-f", file]);
    let (code, torn, value) = checked(&mesh, "zero-trust");
    assert_eq!(
        (code, state(&value, AUTHENTICATED).as_str()),
        (Some(1), "error"),
        "{value}"
    );
    assert!(torn < closed, "{closed} % before, {torn} % after");

    let own = mesh.file("own.yaml", OWN);
    let own = own.to_str().expect("printable");
    assert_eq!((checked(&mesh, own).0, checked(&mesh, own).1), (Some(1), 0));
    mesh.ok(["delete", "-f", file]);
    until("the item is fulfilled again", SOON, || {
        let (code, score, _) = checked(&mesh, "zero-trust");
        (code == Some(0) && score == closed).then_some(())
    });
    let (code, score, value) = checked(&mesh, own);
    assert_eq!(
        (code, score, state(&value, "versions").as_str()),
        (Some(0), 50, "warning")
    );
    mesh.apply("subsets.yaml", SUBSETS);
    assert_eq!(
        (checked(&mesh, own).0, checked(&mesh, own).1),
        (Some(0), 100)
    );

    let (_, _, value) = checked(&mesh, "production");
    assert_eq!(
        value["items"].as_array().map(Vec::len),
        Some(73),
        "21, 49 and 3 items"
    );
    assert_eq!(state(&value, "Blue-green deployment capability"), "ok");
    println!(
        "zero-trust: {open} %, {closed} % once closed, {torn} % with a namespace that takes plaintext"
    );
}
