//! `naka why SERVICE` on a running mesh: the cause is named while it lasts, and not before or after.

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
