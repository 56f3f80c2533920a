//! Another root in a mesh that works: every certificate and the root change under load, nothing is lost, and a root that
//! somebody needs is not dropped. What is served is read from the wire by openssl, what arrived by the called programs.

use crate::envoy;
use crate::traffic::{finish, joined};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::Program;
use naka_testkit::size;
use naka_testkit::wait::until;
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Addresses at which the workloads of a service take calls of others.
fn doors(mesh: &Mesh, service: &str) -> Vec<String> {
    let all = mesh.workloads();
    let own = all.iter().filter(|one| one["service"] == service);
    let ports = own.flat_map(|one| one["ports"].as_array().cloned().unwrap_or_default());
    ports
        .filter_map(|port| Some(port["inbound_address"].as_str()?.to_owned()))
        .collect()
}

/// Who signed the last certificate that is shown at an address: the root.
fn root_at(address: &str) -> String {
    let out = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            address,
            "-showcerts",
            "-alpn",
            "istio",
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .expect("openssl");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut issuers = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("i:"));
    issuers.next_back().unwrap_or_default().to_owned()
}

/// The roots that a service's workloads show, each once.
fn roots_of(mesh: &Mesh, service: &str) -> Vec<String> {
    let mut all: Vec<String> = doors(mesh, service).iter().map(|a| root_at(a)).collect();
    all.sort();
    all.dedup();
    all
}

/// Name of the rollout in a line like `rollout NAME step: …`.
fn name_in(line: &str) -> String {
    let name = line.split_whitespace().nth(1);
    name.expect("rollout NAME …").to_owned()
}

fn rollout(mesh: &Mesh, name: &str) -> Value {
    let all: Value =
        serde_json::from_str(&mesh.ok(["rollout", "list", "-o", "json"])).expect("JSON");
    let all = all["items"].as_array().cloned().unwrap_or_default();
    let one = all.into_iter().find(|one| one["name"] == name);
    one.unwrap_or_default()
}

/// Waits until a rollout is at a step and waits for a text.
fn until_at(mesh: &Mesh, name: &str, step: &str, waits: &str) {
    until(
        format_args!("{name} at {step}, waiting {waits}"),
        SOON,
        || {
            let one = rollout(mesh, name);
            let text = one["waits"].as_str().unwrap_or_default();
            (one["step"] == step && text.contains(waits)).then_some(())
        },
    );
}

/// Sends `more` requests.
fn until_calls(mesh: &Mesh, more: usize) {
    let seen = mesh.logged("load").len();
    until("more calls", SOON, || {
        (mesh.logged("load").len() >= seen + more).then_some(())
    });
}

/// Calls at a steady rate that go on until they are ended.
fn load(mesh: &Mesh) -> Program {
    let rate = size().pick("100", "500");
    let program = mesh.load(
        "load",
        &["-s", "order"],
        &[
            "--url",
            "http://payment/",
            "--rate",
            rate,
            "--connections",
            "4",
            "--for",
            "600",
        ],
    );
    until("first answers", SOON, || {
        (mesh.logged("load").len() > 20).then_some(())
    });
    program
}

/// One call by a caller with these options; the status.
fn call(mesh: &Mesh, name: &str, options: &[&str]) -> String {
    let curl = [
        "curl",
        "-s",
        "-m",
        "10",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "http://payment/",
    ];
    let mut run = mesh.run(name, options, &curl);
    finish(&mut run);
    run.out()
}

/// Id of the only workload that had a certificate for a service account.
fn id_of(mesh: &Mesh, account: &str) -> String {
    let all: Value = serde_json::from_str(&mesh.ok(["get", "certs", "-o", "json"])).expect("JSON");
    let all = all["items"].as_array().cloned().unwrap_or_default();
    let end = format!("/sa/{account}");
    let is_it = |one: &&Value| {
        one["identity"]
            .as_str()
            .is_some_and(|id| id.ends_with(&end))
    };
    let one = all.iter().find(is_it).expect("a certificate");
    one["workload_id"].as_str().expect("an id").to_owned()
}

/// Step by step: the next root is believed before it signs, everything is renewed, and the root before is dropped once
/// nobody needs it. The twin of the last: while a certificate below it is good it is refused, with whose and until when.
#[test]
fn a_root_and_every_certificate_change_under_load() {
    let mesh = Mesh::up();
    let _servers = [mesh.serve("payment", "v1"), mesh.serve("payment", "v2")];
    mesh.wait_version("payment", "v2");
    let mut calls = load(&mesh);
    // It has ended, and its certificate has not.
    assert_eq!(call(&mesh, "gone", &["-s", "gone"]), "200");
    let token = mesh.ok(["token", "create", "-s", "late", "--uses", "3"]);
    let token = token.trim();
    let before = roots_of(&mesh, "payment");
    assert_eq!(before.len(), 1, "{before:?}");

    let began = Instant::now();
    let name = name_in(&mesh.ok(["ca", "rotate", "--manual"]));
    let second = mesh.naka(["ca", "rotate"]);
    assert_eq!(second.status.code(), Some(2), "one at a time");
    until_at(&mesh, &name, "trust", "naka rollout promote");
    assert_eq!(roots_of(&mesh, "payment"), before, "it does not sign yet");
    until_calls(&mesh, 50);
    mesh.ok(["rollout", "promote", &name]);
    until("every server to show the next root", SOON, || {
        let now = roots_of(&mesh, "payment");
        (now.len() == 1 && now != before).then_some(())
    });
    println!("every certificate changed after {:?}", began.elapsed());

    until_at(&mesh, &name, "renew", "1 certificate leads");
    let refused = mesh.naka(["rollout", "promote", &name]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(
        told.contains("1 certificate leads to the root") && told.contains(" until 2"),
        "{told}"
    );
    // Who knows the root before alone gets in, too.
    assert_eq!(
        call(&mesh, "late-1", &["-s", "late", "--token", token]),
        "200"
    );
    until_calls(&mesh, 50);
    mesh.ok([
        "cert",
        "revoke",
        &id_of(&mesh, "gone"),
        "--reason",
        "superseded",
    ]);
    until_at(&mesh, &name, "renew", "naka rollout promote");
    mesh.ok(["rollout", "promote", &name]);
    mesh.ok(["rollout", "status", &name, "--wait", "20s"]);
    let after = roots_of(&mesh, "payment");
    assert_eq!(
        call(&mesh, "late-2", &["-s", "late", "--token", token]),
        "200"
    );
    until_calls(&mesh, 100);
    calls.signal(Signal::TERM);
    let _ = calls.wait(SOON);

    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    let got = joined(&mesh, "load", &["payment-v1", "payment-v2"]);
    got.assert_clean();
    println!("{} calls while the root changed, none lost", got.sent);
    let told = mesh.ok(["ca", "status"]);
    assert!(!told.contains("signs no more"), "{told}");
    let events = mesh.ok(["get", "events", "-A"]);
    assert!(
        events.contains("rollout.start") && events.contains("rollout.step"),
        "{events}"
    );
}

const OBJECT: &str = "apiVersion: naka.dev/v1alpha1
kind: Rollout
metadata: {name: next, namespace: istio-system}
spec:
  rootRotation: {}
  manual: true
";

/// A rotation that an object asked for, taken back when the next root signed already, leaves the root as it was.
#[test]
fn a_rotation_is_taken_back_after_the_next_root_signed() {
    let mesh = Mesh::up();
    let _server = mesh.serve("payment", "v1");
    let mut calls = load(&mesh);
    let before = roots_of(&mesh, "payment");
    mesh.apply("rollout.yaml", OBJECT);
    let name = "next";
    until_at(&mesh, name, "trust", "naka rollout promote");
    mesh.ok(["rollout", "promote", name]);
    until("the next root", SOON, || {
        (roots_of(&mesh, "payment") != before).then_some(())
    });
    mesh.ok(["delete", "rollout", name, "-n", "istio-system"]);
    let status = mesh.naka(["rollout", "status", name, "--wait", "20s"]);
    assert_eq!(status.status.code(), Some(1), "{status:?}");
    assert_eq!(roots_of(&mesh, "payment"), before);
    until_calls(&mesh, 50);
    calls.signal(Signal::TERM);
    let _ = calls.wait(SOON);
    joined(&mesh, "load", &["payment-v1"]).assert_clean();
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a process"), signal).expect("a signal");
}

/// One command replaces a root whose key is in other hands, in time and without those who do not follow: they are named,
/// and get in again by themselves. A rotation that is not in a hurry waits for them instead (the twin).
#[test]
fn a_compromised_root_is_replaced_at_once_by_one_command() {
    let mesh = Mesh::up();
    let _server = mesh.serve("payment", "v1");
    let mut calls = load(&mesh);
    let idle = mesh.run("idle", &["-s", "idle", "-p", "9"], &["sleep", "600"]);
    until("a workload idle", SOON, || {
        mesh.workloads()
            .iter()
            .any(|one| one["service"] == "idle")
            .then_some(())
    });
    let before = roots_of(&mesh, "payment");
    let frozen = mesh.sidecar_of(&idle).expect("a sidecar");
    signal(frozen, Signal::STOP);

    let patient = name_in(&mesh.ok(["ca", "rotate"]));
    until_at(&mesh, &patient, "trust", "idle");
    mesh.ok(["rollout", "abort", &patient]);
    until_at(&mesh, &patient, "aborted", "");

    let began = Instant::now();
    let said = mesh.ok(["ca", "replace", "--compromised", "--within", "4s"]);
    println!("replaced in {:?}\n{said}", began.elapsed());
    assert!(
        said.contains("left behind") && said.contains("idle"),
        "{said}"
    );
    let after = roots_of(&mesh, "payment");
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    until_calls(&mesh, 50);
    let old = mesh.home().join("mesh/local/ca/old-root.pem");
    assert!(!Path::new(&old).exists(), "its key is gone");
    signal(frozen, Signal::CONT);
    until(
        "the one left behind to have another certificate",
        2 * SOON,
        || {
            let certs: Value =
                serde_json::from_str(&mesh.ok(["get", "certs", "-o", "json"])).ok()?;
            let all = certs["items"].as_array()?.clone();
            let renewed = all.iter().any(|one| {
                let of = one["identity"].as_str().unwrap_or_default();
                of.ends_with("/sa/idle")
                    && one["root"]
                        .as_str()
                        .is_some_and(|root| after_is(&mesh, root))
            });
            renewed.then_some(())
        },
    );
    calls.signal(Signal::TERM);
    let _ = calls.wait(SOON);
    joined(&mesh, "load", &["payment-v1"]).assert_clean();
}

/// Whether the mesh signs with this root.
fn after_is(mesh: &Mesh, sha256: &str) -> bool {
    !sha256.is_empty() && mesh.ok(["ca", "status"]).contains(sha256)
}

/// A stock Envoy follows, too: it shows the next root and is called throughout.
#[test]
fn a_stock_envoy_follows_another_root() {
    let mesh = Mesh::up();
    let _server = envoy::serve(&mesh, "payment", "v1");
    let mut calls = load(&mesh);
    let before = roots_of(&mesh, "payment");
    assert!(before.len() == 1 && !before[0].is_empty(), "{before:?}");
    let name = name_in(&mesh.ok(["ca", "rotate"]));
    mesh.ok(["rollout", "status", &name, "--wait", "30s"]);
    until("the Envoy to show the next root", SOON, || {
        let now = roots_of(&mesh, "payment");
        (now.len() == 1 && now != before).then_some(())
    });
    until_calls(&mesh, 50);
    calls.signal(Signal::TERM);
    let _ = calls.wait(SOON);
    joined(&mesh, "load", &["payment-v1"]).assert_clean();
}
