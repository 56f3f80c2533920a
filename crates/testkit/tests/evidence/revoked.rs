//! Certificates that are taken back: within a second nobody of the mesh believes the workload, as caller or as called.
//! What it opened before ends with it only where its key is in other hands. Counted by the called programs.

use crate::held::{holding, words};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::Program;
use naka_testkit::wait::until;
use serde_json::Value;
use std::time::Instant;

/// Calls again and again until it is ended, one status a line.
fn calling(mesh: &Mesh, who: &str) -> Program {
    let script = "while :; do curl -s -m 5 -o /dev/null -w '%{http_code}\\n' http://payment/; sleep 0.02; done";
    mesh.run(who, &["-s", who], &["sh", "-c", script])
}

fn last(program: &Program) -> String {
    let out = program.out();
    out.lines().last().unwrap_or_default().to_owned()
}

fn until_last(program: &Program, wanted: &str) {
    until(format_args!("{wanted}: {}", program.said()), SOON, || {
        (last(program) == wanted).then_some(())
    });
}

/// Workload id of the only workload of a service.
fn id_of(mesh: &Mesh, service: &str) -> String {
    until(format_args!("a workload of {service}"), SOON, || {
        let all = mesh.workloads();
        let found = all.iter().find(|one| one["service"] == service)?;
        found["workload_id"].as_str().map(str::to_owned)
    })
}

/// Requests that reached the program from callers of this service.
fn arrived(mesh: &Mesh, from: &str) -> usize {
    let end = format!("/sa/{from}");
    let logged = mesh.logged("payment-v1");
    let is_from = |line: &&Value| {
        let peer = line["peer"].as_str();
        peer.is_some_and(|peer| peer.ends_with(&end))
    };
    logged.iter().filter(is_from).count()
}

fn state_of(mesh: &Mesh, id: &str) -> Value {
    let all: Value = serde_json::from_str(&mesh.ok(["get", "certs", "-o", "json"])).expect("JSON");
    let all = all["items"].as_array().cloned().unwrap_or_default();
    let one = all.into_iter().find(|one| one["workload_id"] == id);
    one.expect("a certificate")["state"].clone()
}

/// A revoked caller is refused, and no one else is; a new workload of the same service account is nobody revoked.
#[test]
fn a_revoked_caller_is_believed_by_nobody() {
    let mesh = Mesh::up();
    let _server = mesh.serve("payment", "v1");
    let (thief, honest) = (calling(&mesh, "thief"), calling(&mesh, "honest"));
    until_last(&thief, "200");
    until_last(&honest, "200");
    let id = id_of(&mesh, "thief");
    assert_eq!(state_of(&mesh, &id), "valid");
    let began = Instant::now();
    let said = mesh.ok(["cert", "revoke", &id, "--reason", "superseded"]);
    assert!(said.contains(&id), "{said}");
    until_last(&thief, "503");
    println!("refused {} ms after the order", began.elapsed().as_millis());
    let (before, others) = (arrived(&mesh, "thief"), arrived(&mesh, "honest"));
    until("fifty honest calls", SOON, || {
        (arrived(&mesh, "honest") > others + 50).then_some(())
    });
    assert_eq!(arrived(&mesh, "thief"), before, "none came after it");
    assert!(
        honest.out().lines().all(|status| status == "200"),
        "{}",
        honest.out()
    );
    assert_eq!(state_of(&mesh, &id), "revoked");
    // It is cut off from the control plane, too.
    until("the control plane to have nobody of that id", SOON, || {
        let all = mesh.ok(["get", "proxies", "-A", "-o", "json"]);
        (!all.contains(&id)).then_some(())
    });
    drop(thief);
    // An order for a workload, not for its name.
    let again = ["-s", "thief", "--no-saved-identity"];
    let curl = [
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "http://payment/",
    ];
    let mut run = mesh.run("again", &again, &curl);
    crate::traffic::finish(&mut run);
    assert!(run.out().ends_with("200"), "{}", run.said());
    let nobody = mesh.naka(["cert", "revoke", "nobody.default"]);
    assert_eq!(nobody.status.code(), Some(2));
}

/// What a caller has open ends when its key is in other hands. The twin: for any other reason it goes on.
#[test]
fn a_compromised_key_ends_what_is_open() {
    let mesh = Mesh::up();
    let _server = mesh.serve("payment", "v1");
    for (who, reason) in [("quiet", "superseded"), ("thief", "key-compromise")] {
        let command = holding(&mesh);
        let mut held = mesh.run(who, &["-s", who], &words(&command));
        let lines =
            || std::fs::read_to_string(mesh.log("hold")).map_or(0, |all| all.lines().count());
        until("an open connection", SOON, || (lines() > 5).then_some(()));
        mesh.ok(["cert", "revoke", &id_of(&mesh, who), "--reason", reason]);
        if reason == "superseded" {
            let before = lines();
            until("fifty more lines", SOON, || {
                (lines() > before + 50).then_some(())
            });
            assert!(held.alive(), "{}", held.said());
            held.close_stdin();
            assert!(
                held.wait(SOON).expect("it ends").success(),
                "{}",
                held.said()
            );
        } else {
            let ended = held.wait(SOON).expect("it ends");
            assert!(
                !ended.success() && held.err().contains("broke"),
                "{}",
                held.said()
            );
        }
        std::fs::remove_file(mesh.log("hold")).expect("a log");
    }
}

/// Nobody calls a revoked server any more; calls go to the one that is left.
#[test]
fn a_revoked_server_is_called_by_nobody() {
    let mesh = Mesh::up();
    let _servers = [mesh.serve("payment", "v1"), mesh.serve("payment", "v2")];
    mesh.wait_version("payment", "v2");
    let caller = calling(&mesh, "order");
    let logged = |version: &str| mesh.logged(&format!("payment-{version}")).len();
    until("calls to both", SOON, || {
        (logged("v1") > 5 && logged("v2") > 5).then_some(())
    });
    let all = mesh.workloads();
    // The caller is a v1, too.
    let mut all = all.iter().filter(|one| one["service"] == "payment");
    let first = all.find(|one| one["labels"]["version"] == "v1");
    let id = first.expect("v1")["workload_id"].as_str().expect("an id");
    mesh.ok(["cert", "revoke", id, "--reason", "key-compromise"]);
    let (one, two) = (logged("v1"), logged("v2"));
    until("fifty calls to the other", SOON, || {
        (logged("v2") > two + 50).then_some(())
    });
    // One may have been under way.
    assert!(logged("v1") <= one + 1, "{} after {one}", logged("v1"));
    assert!(
        caller.out().lines().all(|status| status == "200"),
        "{}",
        caller.out()
    );
}
