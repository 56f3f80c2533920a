//! A PeerAuthentication from PERMISSIVE to STRICT without fear: not while plain calls come, and back by itself when one
//! comes afterwards. Plain callers are curl outside the mesh; what is served is what they are answered.

use crate::envoy;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::wait::until;
use serde_json::Value;
use std::process::{Command, Stdio};

const OBJECTS: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: mild, namespace: default}
spec: {mtls: {mode: PERMISSIVE}}
---
apiVersion: naka.dev/v1alpha1
kind: Rollout
metadata: {name: NAME, namespace: istio-system}
spec:
  peerAuthentication: {namespace: default, name: mild, quietFor: 3s}
";

/// Address at which the sidecar of a service's program takes calls of others.
fn door(mesh: &Mesh, service: &str) -> String {
    let all = mesh.workloads();
    let one = all.iter().find(|one| one["service"] == service);
    let port = &one.expect("a workload")["ports"][0];
    port["inbound_address"]
        .as_str()
        .expect("an address")
        .to_owned()
}

/// What a caller without mTLS is answered.
fn plain(door: &str) -> String {
    let out = Command::new("curl")
        .args(["-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}"])
        .arg(format!("http://{door}/"))
        .stderr(Stdio::null())
        .output()
        .expect("curl");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn rollout(mesh: &Mesh, name: &str) -> Value {
    let all: Value =
        serde_json::from_str(&mesh.ok(["rollout", "list", "-o", "json"])).expect("JSON");
    let all = all["items"].as_array().cloned().unwrap_or_default();
    let one = all.into_iter().find(|one| one["name"] == name);
    one.unwrap_or_default()
}

/// Waits until a rollout is at a step with these words; `meanwhile` is done again and again.
fn until_at(mesh: &Mesh, name: &str, (step, words): (&str, &str), meanwhile: impl Fn()) {
    until(format_args!("{name} at {step}: {words}"), 2 * SOON, || {
        meanwhile();
        let one = rollout(mesh, name);
        let text = one["waits"].as_str().unwrap_or_default();
        (one["step"] == step && text.contains(words)).then_some(())
    });
}

/// Plain calls keep the door open; when none comes for a while it is shut. The twin: one that comes afterwards opens it
/// again, and the rollout says to whom it came.
#[test]
fn strict_waits_for_the_last_plain_call_and_is_taken_back_for_the_next() {
    let mesh = Mesh::up();
    let _server = mesh.serve("payment", "v1");
    mesh.apply("first.yaml", &OBJECTS.replace("NAME", "first"));
    let door = door(&mesh, "payment");
    until("plain calls to be taken", SOON, || {
        (plain(&door) == "200").then_some(())
    });
    let calls = || drop(plain(&door));
    until_at(&mesh, "first", ("watch", "they came to payment"), calls);
    assert_eq!(plain(&door), "200");
    until_at(&mesh, "first", ("enforce", "it is STRICT"), || {});
    assert_ne!(plain(&door), "200", "STRICT");
    until_at(
        &mesh,
        "first",
        ("aborted", "plain calls came: payment"),
        || {},
    );
    until("the door to be open again", SOON, || {
        (plain(&door) == "200").then_some(())
    });

    mesh.apply("second.yaml", &OBJECTS.replace("NAME", "second"));
    until_at(&mesh, "second", ("done", ""), || {});
    assert_ne!(plain(&door), "200", "STRICT for good");
    // Those with an identity are let in.
    let curl = [
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "http://payment/",
    ];
    let mut run = mesh.run("order", &["-s", "order"], &curl);
    crate::traffic::finish(&mut run);
    assert!(run.out().ends_with("200"), "{}", run.said());
    let events = mesh.ok(["history"]);
    assert!(events.contains("rollout:second"), "{events}");
}

/// An Envoy counts no plain calls: the rollout waits and names it, and goes on where somebody vouches for it by name. The
/// twin is the rollout that nobody vouched for.
#[test]
fn strict_goes_past_an_envoy_only_by_its_name() {
    let mesh = Mesh::up();
    let _server = envoy::serve(&mesh, "till", "v1");
    mesh.apply("first.yaml", &OBJECTS.replace("NAME", "first"));
    let door = door(&mesh, "till");
    until("plain calls to be taken", SOON, || {
        (plain(&door) == "200").then_some(())
    });
    until_at(&mesh, "first", ("watch", "withoutCounts"), || {});
    let waits = rollout(&mesh, "first")["waits"].to_string();
    let named = waits
        .split([' ', ';', ':', ',', '"'])
        .find(|word| word.starts_with("till-") && word.ends_with(".default"));
    let named = named.expect("the Envoy is named").to_owned();
    mesh.ok(["rollout", "abort", "first"]);
    assert_eq!(plain(&door), "200");
    let vouched = format!("quietFor: 3s, withoutCounts: [{named}]");
    let second = OBJECTS
        .replace("NAME", "second")
        .replace("quietFor: 3s", &vouched);
    mesh.apply("second.yaml", &second);
    until_at(&mesh, "second", ("done", ""), || {});
    until("the Envoy to refuse plain calls", SOON, || {
        (plain(&door) != "200").then_some(())
    });
}
