//! A token of a user that is taken back: within a second no proxy takes it, another of the same issuer passes.

use super::OBJECTS;
use crate::envoy;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::Program;
use naka_testkit::wait::until;
use std::process::Command;
use std::time::{Duration, Instant};

/// A token of the issuer of cases.
fn token(jti: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/case-token.py");
    let claims = format!(
        r#"{{"iss":"https://issuer.example","aud":"vault","sub":"alice","jti":"{jti}","exp":4102444800}}"#
    );
    let output = Command::new("python3")
        .args([script, &claims])
        .output()
        .expect("python3");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

/// Calls with a token again and again, one status a line.
fn calling(mesh: &Mesh, who: &str, service: &str, token: &str) -> Program {
    let script = format!(
        "while :; do curl -s -m 5 -o /dev/null -w '%{{http_code}}\\n' -H 'authorization: Bearer {token}' \
         http://{service}/; sleep 0.02; done"
    );
    mesh.run(who, &["-s", who], &["sh", "-c", &script])
}

fn until_last(program: &Program, wanted: &str) {
    until(format_args!("{wanted}: {}", program.said()), SOON, || {
        let out = program.out();
        (out.lines().last() == Some(wanted)).then_some(())
    });
}

#[test]
fn a_token_that_is_taken_back_is_refused_within_a_second() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let _ledger = envoy::serve(&mesh, "ledger", "v1");
    mesh.apply("tokens.yaml", OBJECTS);
    let (lost, kept) = (token("lost"), token("kept"));
    let file = mesh.file("lost.jwt", &lost);
    let file = file.to_str().expect("printable");
    let thief = calling(&mesh, "thief", "payment", &lost);
    let honest = calling(&mesh, "honest", "payment", &kept);
    let of_envoy = calling(&mesh, "thief-of-ledger", "ledger", &lost);
    let honest_of_envoy = calling(&mesh, "honest-of-ledger", "ledger", &kept);
    for program in [&thief, &honest, &of_envoy, &honest_of_envoy] {
        until_last(program, "200");
    }
    let before = honest.out().lines().count();
    let began = Instant::now();
    let said = mesh.ok(["token", "revoke-jwt", file, "--reason", "phone stolen"]);
    assert!(
        said.contains("revoked: lost of https://issuer.example"),
        "{said}"
    );
    until_last(&thief, "401");
    let took = began.elapsed();
    // With the start of the command itself.
    assert!(took < Duration::from_secs(1), "{took:?}");
    // An Envoy's DENY rule answers otherwise than its reader of tokens.
    until_last(&of_envoy, "403");
    println!(
        "refused {} ms after the order, by an Envoy after {} ms",
        took.as_millis(),
        began.elapsed().as_millis()
    );
    until("more calls with the other token", SOON, || {
        (honest.out().lines().count() > before + 20).then_some(())
    });
    for program in [&honest, &honest_of_envoy] {
        assert!(
            program.out().lines().all(|status| status == "200"),
            "{}",
            program.out()
        );
    }
    let listed: serde_json::Value =
        serde_json::from_str(&mesh.ok(["get", "revoked-tokens", "-o", "json"])).expect("JSON");
    let one = &listed["items"][0];
    assert_eq!(one["jti"], "lost");
    assert_eq!(one["until"], 4_102_444_800_u64);
    let events = mesh.ok(["get", "events", "-o", "json"]);
    assert!(events.contains("jwt.revoke") && events.contains("phone stolen"));
    // The twin: taken back, it counts again.
    let id = one["id"].as_str().expect("an id");
    mesh.ok(["token", "revoke-jwt", "--take-back", id]);
    until_last(&thief, "200");
    until_last(&of_envoy, "200");
}
