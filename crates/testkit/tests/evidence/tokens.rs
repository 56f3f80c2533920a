//! RequestAuthentication: whose tokens are taken, at a Naka sidecar and at an Envoy, as the called programs saw it.

use crate::envoy;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::wait::until;

mod fetched;
mod revoked;

const OBJECTS: &str = r#"apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: default}
spec:
  jwtRules:
  - issuer: https://issuer.example
    audiences: [vault]
    jwks: '{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"rfc8037","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'
    outputClaimToHeaders: [{header: x-user, claim: sub}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: users, namespace: default}
spec:
  action: DENY
  rules:
  - from: [{source: {notRequestPrincipals: ['https://issuer.example/alice']}}]
    to: [{operation: {paths: [/private*]}}]
"#;

/// Words of curl, the answer, and who the program was told is calling.
const ROWS: &[(&str, u16, Option<&str>)] = &[
    ("HOST/open", 200, None),
    ("-H x-user:root HOST/open", 200, None),
    ("-H 'authorization: Basic YTpi' HOST/open", 200, None),
    (
        "-H 'authorization: Bearer ALICE' HOST/open",
        200,
        Some("alice"),
    ),
    (
        "-H x-user:root -H 'authorization: Bearer ALICE' HOST/open",
        200,
        Some("alice"),
    ),
    ("-H 'authorization: Bearer BOB' HOST/open", 200, Some("bob")),
    ("-H 'authorization: Bearer ALICEx' HOST/open", 401, None),
    ("-H 'authorization: Bearer NONE' HOST/open", 401, None),
    ("-H 'authorization: Bearer STALE' HOST/open", 401, None),
    ("-H 'authorization: Bearer OTHER' HOST/open", 403, None),
    ("HOST/private", 403, None),
    (
        "-H 'authorization: Bearer ALICE' HOST/private",
        200,
        Some("alice"),
    ),
    ("HOST/private?access_token=ALICE", 200, Some("alice")),
    ("-H 'authorization: Bearer BOB' HOST/private", 403, None),
    ("-H 'authorization: Bearer ALICEx' HOST/private", 401, None),
];

/// A token of the attacks' list.
fn token(of: &str, index: usize) -> &'static str {
    let lines = include_str!("../attacks/tokens.txt").lines();
    let mut all = lines.filter_map(|line| line.split_once(' '));
    let all = all.by_ref().filter(|(name, _)| *name == of);
    all.map(|(_, token)| token)
        .nth(index)
        .expect("as many tokens")
}

/// Each row's answer, and the user that the program saw for those that reached it.
fn answers(mesh: &Mesh, service: &str) -> Vec<(u16, Option<String>)> {
    let server = format!("{service}-v1");
    let seen = mesh.logged(&server).len();
    let calls = ROWS.iter().enumerate().map(|(index, (words, ..))| {
        let words = words
            .replace("HOST", &format!("http://{service}"))
            .replace("ALICE", token("sound", 0))
            .replace("BOB", token("sound", 1))
            .replace("NONE", token("none", 0))
            .replace("STALE", token("time", 0))
            .replace("OTHER", token("other", 5));
        format!(
            "curl -s -m 20 -o /dev/null -H x-row:{index} -w '{index} %{{http_code}}\\n' {words}"
        )
    });
    let script = calls.collect::<Vec<_>>().join("\n");
    let name = format!("order-{service}-{seen}");
    let mut run = mesh.run(&name, &["-s", "order"], &["sh", "-c", &script]);
    crate::traffic::finish(&mut run);
    let mut all = vec![(0, None); ROWS.len()];
    for line in run.out().lines() {
        let (index, status) = line.split_once(' ').expect("a row and its status");
        all[index.parse::<usize>().expect("a row")].0 = status.parse().expect("a status");
    }
    for line in mesh.logged(&server).split_off(seen) {
        let headers = line["headers"].as_array().cloned().unwrap_or_default();
        let value = |name: &str| {
            let own = headers.iter().find(|pair| pair[0] == name)?;
            own[1].as_str().map(str::to_owned)
        };
        if let Some(row) = value("x-row").and_then(|row| row.parse::<usize>().ok()) {
            all[row].1 = Some(value("x-user").unwrap_or_default());
        }
    }
    all
}

/// Each row is answered as the objects say, at a Naka and at an Envoy alike; what is refused never reaches the program.
/// The twin: without the objects every row reaches it, forged names and all.
#[test]
fn tokens_are_verified_at_a_naka_and_at_an_envoy() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let _ledger = envoy::serve(&mesh, "ledger", "v1");
    let objects = mesh.file("tokens.yaml", OBJECTS);
    let objects = objects.to_str().expect("printable");
    let mut right = 0;
    for held in [true, false] {
        mesh.ok([if held { "apply" } else { "delete" }, "-f", objects]);
        for service in ["payment", "ledger"] {
            until(format_args!("tokens at {service}: {held}"), SOON, || {
                let url = format!("http://{service}/private");
                let call = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &url];
                let mut run = mesh.run(&format!("probe-{service}"), &["-s", "probe"], &call);
                crate::traffic::finish(&mut run);
                run.out()
                    .ends_with(if held { "403" } else { "200" })
                    .then_some(())
            });
            for (got, (words, status, user)) in answers(&mesh, service).into_iter().zip(ROWS) {
                let wanted = match (held, *status) {
                    (true, 200) => (200, Some(user.unwrap_or_default().to_owned())),
                    (true, status) => (status, None),
                    (false, _) if words.contains("x-user:root") => (200, Some("root".to_owned())),
                    (false, _) => (200, Some(String::new())),
                };
                assert_eq!(got, wanted, "{service}, objects {held}: {words}");
                right += 1;
            }
        }
    }
    println!("{right} of {right} answers as the objects say, and without them");
}
