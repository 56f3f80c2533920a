//! `naka why SERVICE` on a running mesh: the cause is named while it lasts, and not before or after; what a caller's
//! proxy found out by itself is named with that proxy, and `naka explain` takes it into account.

use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::wait::until;
use serde_json::Value;

/// Exit code and finding codes.
fn why(mesh: &Mesh, service: &str) -> (Option<i32>, Vec<String>) {
    let output = mesh.naka(["why", service, "-o", "json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let findings = told["findings"].as_array().cloned().unwrap_or_default();
    let codes = findings
        .iter()
        .filter_map(|one| one["code"].as_str().map(str::to_owned));
    (output.status.code(), codes.collect())
}

#[track_caller]
fn finds(mesh: &Mesh, service: &str, what: &str, code: i32, codes: &[&str]) {
    until(what, SOON, || {
        let found = why(mesh, service);
        (found.0 == Some(code) && found.1 == codes).then_some(())
    });
}

#[test]
fn the_cause_is_named_while_it_lasts() {
    let mesh = Mesh::up();
    let mut payment = mesh.serve("payment", "v1");
    finds(&mesh, "payment", "nothing is wrong", 0, &[]);
    finds(&mesh, "paymnet", "a name that is none", 1, &["E920"]);

    let rule = |policy: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: payment}}\nspec:\n  host: payment\n  trafficPolicy: {policy}\n"
        )
    };
    mesh.apply("rule.yaml", &rule("{tls: {mode: DISABLE}}"));
    finds(&mesh, "payment", "TLS turned off", 1, &["E924"]);
    mesh.apply(
        "rule.yaml",
        &rule("{outlierDetection: {consecutive5xxErrors: 1}}"),
    );
    finds(&mesh, "payment", "an aggressive rule", 1, &["W921"]);
    mesh.ok(["delete", "destinationrule/payment"]);
    finds(&mesh, "payment", "the rule is gone", 0, &[]);

    let service = |selector: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: billing}}\nspec:\n  selector: {{app: {selector}}}\n  ports: [{{port: 80, name: http}}]\n"
        )
    };
    mesh.apply("service.yaml", &service("billings"));
    finds(
        &mesh,
        "billing",
        "a selector that fits nobody",
        1,
        &["E921"],
    );

    payment.signal(rustix::process::Signal::TERM);
    let _ = payment.wait(SOON);
    until("the service is gone or empty", SOON, || {
        let (code, codes) = why(&mesh, "payment");
        let known = ["E920", "E921", "E922"].contains(&codes.first()?.as_str());
        (code == Some(1) && known).then_some(())
    });
}

fn told(mesh: &Mesh) -> Value {
    let output = mesh.naka(["why", "payment", "-o", "json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Codes and messages.
fn said(mesh: &Mesh) -> Vec<(String, String)> {
    let told = told(mesh);
    let findings = told["findings"].as_array().cloned().unwrap_or_default();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = findings.iter();
    all.map(|one| (word(&one["code"]), word(&one["message"])))
        .collect()
}

/// What becomes of a call of `order`, and why.
fn explained(mesh: &Mesh) -> (String, String) {
    let output = mesh.naka([
        "explain",
        "--from",
        "order",
        "GET http://payment/",
        "-o",
        "json",
    ]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (told["verdict"].to_string(), told["trail"].to_string())
}

fn backend(policy: &str) -> String {
    format!(
        "apiVersion: naka.dev/v1alpha1\nkind: BackendPolicy\nmetadata: {{name: payment}}\nspec:\n  targetRefs: [{{kind: Service, name: payment}}]\n  {policy}\n"
    )
}

/// Two servers answer all of `order`'s calls with 503. Without a policy nothing is said of that; with outlier
/// detection, a breaker or health checks `order`'s proxy calls somebody no more, and that is said as long as it lasts.
#[test]
fn what_a_callers_proxy_found_out_is_told() {
    let mesh = Mesh::up();
    let _servers = [mesh.serve("payment", "v1"), mesh.serve("payment", "v2")];
    let calls = [
        "--url",
        "http://payment/status/503",
        "--rate",
        "20",
        "--for",
        "600",
    ];
    let mut order = mesh.load("order", &["-s", "order"], &calls);
    let failed = |least: usize| {
        until("calls that failed", SOON, || {
            (mesh.logged("order").len() >= least).then_some(())
        });
    };
    failed(40);
    finds(&mesh, "payment", "no policy, nothing found out", 0, &[]);
    assert!(!explained(&mesh).1.contains("says order"));

    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: payment}\nspec:\n  host: payment\n  trafficPolicy:\n    outlierDetection: {consecutive5xxErrors: 5, baseEjectionTime: 200s, maxEjectionPercent: 50}\n";
    mesh.apply("rule.yaml", rule);
    finds(&mesh, "payment", "an ejected endpoint", 1, &["W926"]);
    let (_, message) = said(&mesh).remove(0);
    for words in [
        "payment-",
        " 127.0.0.1:",
        "order-",
        "says ejected by outlier detection since 20",
        " until 20",
    ] {
        assert!(message.contains(words), "{words}: {message}");
    }
    let out = message.split(", an endpoint").next().unwrap_or_default();
    let address = out.split(' ').next_back().unwrap_or_default();
    let (verdict, trail) = explained(&mesh);
    assert!(
        trail.contains(address) && trail.contains("ejected by outlier detection since"),
        "{trail}"
    );
    assert!(
        !verdict.contains(address) && verdict.contains("127.0.0.1:"),
        "{verdict}"
    );
    mesh.ok(["delete", "destinationrule/payment"]);
    finds(&mesh, "payment", "the rule is gone", 0, &[]);

    // A breaker that counts nothing of this stays closed, which is shown and nothing wrong.
    mesh.apply(
        "closed.yaml",
        &backend("breaker: {openFor: 200s, consecutiveFailures: 3, statuses: [500]}"),
    );
    until("a closed breaker", SOON, || {
        let stands = told(&mesh)["services"][0]["breakers"][0].clone();
        (stands["state"] == "closed").then_some(())
    });
    // Every proxy that holds the policy tells its own; the caller's may come after another's.
    until("the caller's closed breaker", SOON, || {
        let lines = mesh.ok(["why", "payment"]);
        lines.contains("breaker closed in order-").then_some(())
    });
    assert!(explained(&mesh).0.contains("GET / to 127.0.0.1:"));
    mesh.apply(
        "open.yaml",
        &backend("breaker: {openFor: 200s, consecutiveFailures: 3}"),
    );
    finds(&mesh, "payment", "an open breaker", 1, &["W927"]);
    let (verdict, trail) = explained(&mesh);
    assert!(verdict.contains("503 breaker-open"), "{verdict}");
    assert!(trail.contains("says order-"), "{trail}");

    mesh.apply(
        "checks.yaml",
        &backend("healthCheck: {http: {path: /status/500}, interval: 1s, unhealthyThreshold: 1}"),
    );
    finds(
        &mesh,
        "payment",
        "both fail their checks",
        1,
        &["W926", "W926"],
    );
    assert!(
        said(&mesh)
            .iter()
            .all(|(_, told)| told.contains("fails its health checks"))
    );
    mesh.ok(["delete", "backendpolicy/payment"]);
    finds(&mesh, "payment", "nobody asks any more", 0, &[]);
    order.signal(rustix::process::Signal::TERM);
    let _ = order.wait(SOON);
}
