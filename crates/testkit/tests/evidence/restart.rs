//! Acknowledged draining, changes under long-lived connections, sidecar restarts without a control plane.

use crate::traffic::{finish, joined, split};
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::Program;
use naka_testkit::{size, wait};
use rustix::process::Signal;
use serde_json::Value;
use std::time::Duration;

/// Restarts one of two replicas by turns while POST requests of 20 ms run; returns how many requests failed.
fn restarts_under_load(
    mesh: &Mesh,
    name: &str,
    rounds: usize,
    stop: impl Fn(&mut Program),
) -> (usize, usize) {
    let mut replicas = [mesh.serve("payment", "v1"), mesh.serve("payment", "v2")];
    let mut load = mesh.load(
        name,
        &["-s", "order"],
        &[
            "--url",
            "http://payment/slow/20",
            "--method",
            "POST",
            "--rate",
            "200",
            "--connections",
            "16",
            "--for",
            "600",
        ],
    );
    wait::until("first answers", SOON, || {
        (mesh.logged(name).len() > 50).then_some(())
    });
    for round in 0..rounds {
        let which = round % 2;
        stop(&mut replicas[which]);
        replicas[which] = mesh.serve("payment", ["v1", "v2"][which]);
        let seen = mesh.logged(name).len();
        wait::until("calls between restarts", SOON, || {
            (mesh.logged(name).len() > seen + 40).then_some(())
        });
    }
    load.signal(Signal::TERM);
    let _ = load.wait(SOON);
    let got = joined(mesh, name, &["payment-v1", "payment-v2"]);
    (got.failed.len(), got.sent)
}

/// Rolling restarts by SIGTERM lose nothing, not even requests that may not be sent twice. The twin: SIGKILL of the
/// whole workload does lose some.
#[test]
fn rolling_restarts_lose_no_request() {
    let rounds = size().pick(5, 100);
    let mesh = Mesh::up();
    let (failed, sent) = restarts_under_load(&mesh, "load", rounds, |program| {
        program.signal(Signal::TERM);
        program
            .wait(Duration::from_secs(40))
            .expect("a drained workload ends");
    });
    println!("{rounds} rolling restarts: {sent} POST requests, {failed} failed");
    assert_eq!(
        failed,
        0,
        "{:?}",
        mesh.logged("load").iter().find(|l| l["status"] != 200)
    );

    let twin = Mesh::up();
    let (failed, _) = restarts_under_load(&twin, "load", 4, |program| {
        kill_group(program);
        program.wait(SOON).expect("a killed process ends");
    });
    assert!(
        failed > 0,
        "killing a workload with requests in flight must be visible"
    );
}

pub(crate) fn kill_group(program: &Program) {
    let group = i32::try_from(program.pid())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .expect("a pid");
    rustix::process::kill_process_group(group, Signal::KILL).expect("kill the workload");
}

/// An upgraded connection survives route changes. The twin: killing the sidecar breaks it.
#[test]
fn a_websocket_survives_route_changes() {
    let changes = size().pick(10, 100);
    let mesh = Mesh::up();
    let (_v1, _v2) = (mesh.serve("payment", "v1"), mesh.serve("payment", "v2"));
    mesh.apply("canary.yaml", &split(90, 10));
    let command = crate::held::holding(&mesh);
    let mut hold = mesh.run("hold", &["-s", "order"], &crate::held::words(&command));
    wait::until("the first echoes", SOON, || {
        (mesh.logged("hold").len() > 3).then_some(())
    });
    for change in 0..changes {
        mesh.apply("canary.yaml", &split(90 - change % 80, 10 + change % 80));
    }
    let seen = mesh.logged("hold").len();
    wait::until("echoes after the changes", SOON, || {
        (mesh.logged("hold").len() > seen + 5).then_some(())
    });
    assert!(hold.alive(), "{}", hold.err());

    let sidecar = mesh.sidecar_of(&hold).expect("a sidecar");
    let pid = i32::try_from(sidecar)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .expect("a pid");
    rustix::process::kill_process(pid, Signal::KILL).expect("kill the sidecar");
    assert!(
        !hold
            .wait(SOON)
            .expect("the program ends with its connection")
            .success()
    );
}

/// An equal update is no change: no revision, nothing sent to anybody.
#[test]
fn an_equal_update_is_no_change() {
    let mesh = Mesh::up();
    let (_v1, _v2) = (mesh.serve("payment", "v1"), mesh.serve("payment", "v2"));
    mesh.apply("canary.yaml", &split(90, 10));
    let revision = |mesh: &Mesh| -> Value {
        let list: Value =
            serde_json::from_str(&mesh.ok(["get", "virtualservices", "-o", "json"])).expect("JSON");
        list["metadata"]["resourceVersion"].clone()
    };
    let before = revision(&mesh);
    mesh.apply("canary.yaml", &split(90, 10));
    assert_eq!(revision(&mesh), before);
    mesh.apply("canary.yaml", &split(80, 20));
    assert_ne!(
        revision(&mesh),
        before,
        "the twin: another weight is a change"
    );
}

/// With the control plane dead, a killed sidecar comes back from its own saved copy: it serves and calls, also a
/// service of its namespace that it never called before.
#[test]
fn a_sidecar_restarts_without_the_control_plane() {
    let mut mesh = Mesh::up();
    let (_payment, _delivery) = (mesh.serve("payment", "v1"), mesh.serve("delivery", "v1"));
    let caller = mesh.serve("order", "v1");
    let call = |mesh: &Mesh, name: &str, url: &str| -> usize {
        let prog = testprog();
        let log = mesh.log(name);
        let command = [
            prog.to_str().expect("printable"),
            "load",
            "--url",
            url,
            "--rate",
            "50",
            "--count",
            "20",
            "--log",
            log.to_str().expect("printable"),
        ];
        let mut run = mesh.run(name, &["-s", "order"], &command);
        finish(&mut run);
        mesh.logged(name)
            .iter()
            .filter(|l| l["status"] == 200)
            .count()
    };
    assert_eq!(call(&mesh, "before", "http://order/"), 20);
    let mut client = mesh.load(
        "client",
        &["-s", "shop"],
        &["--url", "http://order/", "--rate", "20", "--for", "600"],
    );
    wait::until("first answers", SOON, || {
        (mesh.logged("client").len() > 5).then_some(())
    });
    mesh.kill_control();
    let sidecar = mesh.sidecar_of(&caller).expect("a sidecar");
    let pid = i32::try_from(sidecar)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .expect("a pid");
    rustix::process::kill_process(pid, Signal::KILL).expect("kill the sidecar");
    wait::until("another sidecar process", SOON, || {
        mesh.sidecar_of(&caller).ok().filter(|new| *new != sidecar)
    });
    let seen = mesh.logged("client").len();
    wait::until("the restarted sidecar serves", SOON, || {
        let log = mesh.logged("client");
        (log.len() > seen + 10 && log.iter().rev().take(5).all(|l| l["status"] == 200))
            .then_some(())
    });
    client.signal(Signal::TERM);
    let _ = client.wait(SOON);
    mesh.start_control();
}
