//! What policies say: those on trial and audits by counters and the access log, a refusal by the name of its rule.

use crate::envoy;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::wait::until;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const POLICIES: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-t, namespace: default, annotations: {istio.io/dry-run: 'true'}}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/t]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-ok, namespace: default, annotations: {istio.io/dry-run: 'true'}}
spec: {rules: [{to: [{operation: {paths: [/ok, /p]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: watch, namespace: default}
spec: {action: AUDIT, rules: [{to: [{operation: {methods: [POST]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: never, namespace: default}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/no]}}]}]}
";

/// Words of curl, the status, what the line says of policies that decide nothing, and of who refused.
const CALLS: &[(&str, u64, &str, &str)] = &[
    (
        "HOST/ok",
        200,
        "would-allow ns[default]-policy[only-ok]-rule[0]",
        "",
    ),
    (
        "HOST/t",
        200,
        "would-deny ns[default]-policy[no-t]-rule[0], would-deny none",
        "",
    ),
    (
        "-X POST HOST/p",
        200,
        "audited ns[default]-policy[watch]-rule[0], would-allow ns[default]-policy[only-ok]-rule[0]",
        "",
    ),
    (
        "HOST/no",
        403,
        "",
        "rbac_access_denied_matched_policy[ns[default]-policy[never]-rule[0]]",
    ),
];

/// A page of the proxy's admin socket.
pub(super) fn page(dir: &Path, path: &str) -> String {
    let socket = dir.join("admin.sock");
    let mut curl = Command::new("curl");
    curl.args(["-s", "--unix-socket"]).arg(socket);
    let output = curl
        .arg(format!("http://naka{path}"))
        .output()
        .expect("curl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(super) fn lines(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("access.log")).unwrap_or_default();
    let read = |line| serde_json::from_str(line).ok();
    text.lines().filter_map(read).collect()
}

fn call(mesh: &Mesh, service: &str, name: &str) -> String {
    let each = CALLS.iter().map(|(words, ..)| {
        let words = words.replace("HOST", &format!("http://{service}"));
        format!("curl -s -m 20 -o /dev/null -w '%{{http_code}} ' {words}")
    });
    let script = each.collect::<Vec<_>>().join("\n");
    let mut run = mesh.run(name, &["-s", "order"], &["sh", "-c", &script]);
    crate::traffic::finish(&mut run);
    run.out().trim().to_owned()
}

/// Calls pass or not as the policies in force say; what others would do, and audits, stand in the access log and in
/// counters. The twin: without the policies nothing is said.
#[test]
fn what_decides_nothing_is_told_and_a_refusal_names_its_rule() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let dir = envoy::run_dir(&mesh, "payment");
    assert_eq!(call(&mesh, "payment", "before"), "200 200 200 200");
    mesh.apply("policies.yaml", POLICIES);
    let status = mesh.ok(["status", "AuthorizationPolicy/never"]);
    assert!(status.contains("1 proxies have it"), "{status}");
    assert_eq!(call(&mesh, "payment", "after"), "200 200 200 403");
    let mut inbound = Vec::new();
    until("eight lines", SOON, || {
        inbound = lines(&dir);
        inbound.retain(|line| line["direction"] == "inbound");
        (inbound.len() >= 8).then_some(())
    });
    let said = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    for (index, (words, status, noticed, refused)) in CALLS.iter().enumerate() {
        let (before, after) = (&inbound[index], &inbound[index + 4]);
        assert_eq!(
            said(before, "policies") + &said(before, "response_code_details"),
            ""
        );
        assert_eq!(after["response_code"], *status, "{words}");
        assert_eq!(said(after, "policies"), *noticed, "{words}");
        assert_eq!(said(after, "response_code_details"), *refused, "{words}");
    }
    let counted = page(&dir, "/stats/prometheus");
    for (rule, outcome, count) in [
        ("ns[default]-policy[only-ok]-rule[0]", "would-allow", 2),
        ("ns[default]-policy[no-t]-rule[0]", "would-deny", 1),
        ("none", "would-deny", 1),
        ("ns[default]-policy[watch]-rule[0]", "audited", 1),
    ] {
        let sample =
            format!("naka_policy_notices_total{{rule=\"{rule}\",outcome=\"{outcome}\"}} {count}");
        assert!(counted.contains(&sample), "{sample}\n{counted}");
    }
}

/// The same at an Envoy, in its own counters.
#[test]
fn an_envoy_counts_what_policies_on_trial_would_do() {
    let mesh = Mesh::up();
    let _ledger = envoy::serve(&mesh, "ledger", "v1");
    let dir = envoy::run_dir(&mesh, "ledger");
    mesh.apply("policies.yaml", POLICIES);
    until("the policies at the Envoy", SOON, || {
        call(&mesh, "ledger", "probe")
            .ends_with("403")
            .then_some(())
    });
    let all = || {
        [
            "istio_dry_run_deny_.*shadow_denied",
            "istio_dry_run_allow_.*shadow_allowed",
            "istio_dry_run_allow_.*shadow_denied",
            "rbac\\.denied",
        ]
        .map(|name| envoy::counter(&dir, &format!("{name}$")))
    };
    let before = all();
    assert_eq!(call(&mesh, "ledger", "counted"), "200 200 200 403");
    let after = all();
    let grown: Vec<u64> = std::iter::zip(after, before).map(|(a, b)| a - b).collect();
    // What a DENY rule refuses does not come to the ALLOW filter.
    assert_eq!(grown, [1, 2, 1, 1]);
}
