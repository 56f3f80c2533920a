//! Changes on their way: certificates renewed under load, proxies that lag, risky changes, nothing pushed twice.

use crate::traffic::{finish, joined, split};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::Program;
use naka_testkit::{size, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::time::{Duration, Instant};

fn pid(number: u32) -> Pid {
    i32::try_from(number)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a pid")
}

/// Serial numbers of the certificates that the CA issued, from the event log.
fn issued(mesh: &Mesh) -> usize {
    mesh.ok(["get", "events", "-o", "json"])
        .matches("certificate.issued")
        .count()
}

/// Certificates that live seconds are renewed again and again under load: no request fails and an upgraded connection
/// lives on. The twin: with the control plane dead they cannot be renewed, and calls fail once they have expired.
#[test]
fn certificates_rotate_without_losing_anything() {
    let seconds: u64 = size().pick(15, 60);
    let mut mesh = Mesh::up_with(&["--leaf-ttl", "8s"]);
    let _payment = mesh.serve("payment", "v1");
    let hold_command = crate::held::holding(&mesh);
    let mut hold = mesh.run("hold", &["-s", "order"], &crate::held::words(&hold_command));
    let total = seconds.to_string();
    let mut load = mesh.load(
        "load",
        &["-s", "order"],
        &["--url", "http://payment/", "--rate", "100", "--for", &total],
    );
    wait::until("the first certificates", SOON, || {
        (issued(&mesh) >= 3).then_some(())
    });
    let before = issued(&mesh);
    finish(&mut load);
    joined(&mesh, "load", &["payment-v1"]).assert_clean();
    let renewed = issued(&mesh) - before;
    println!("certificates renewed in {seconds} s under load: {renewed}");
    assert!(renewed >= 3, "{renewed} renewals");
    assert!(hold.alive(), "{}", hold.err());

    mesh.kill_control();
    let mut twin = mesh.load(
        "twin",
        &["-s", "order"],
        &["--url", "http://payment/", "--rate", "20", "--for", "40"],
    );
    wait::until("a failure after expiry", Duration::from_secs(60), || {
        let failed = mesh.logged("twin").iter().any(|l| l["status"] != 200);
        (failed || !twin.alive()).then_some(())
    });
    twin.signal(Signal::TERM);
    let _ = twin.wait(SOON);
}

/// `apply --wait` names the proxy that lags and exits 2; the twin, with the proxy running, exits 0.
#[test]
fn apply_wait_names_who_lags() {
    let mesh = Mesh::up();
    let (_v1, _v2) = (mesh.serve("payment", "v1"), mesh.serve("payment", "v2"));
    let caller = mesh.load(
        "load",
        &["-s", "order"],
        &["--url", "http://payment/", "--rate", "20", "--for", "600"],
    );
    wait::until("first answers", SOON, || {
        (mesh.logged("load").len() > 5).then_some(())
    });
    mesh.apply("canary.yaml", &split(90, 10));
    let sidecar = mesh.sidecar_of(&caller).expect("a sidecar");
    kill_process(pid(sidecar), Signal::STOP).expect("stop it");
    let file = mesh.file("next.yaml", &split(50, 50));
    let output = mesh.naka([
        "apply",
        "--wait",
        "--timeout",
        "2s",
        "-f",
        file.to_str().expect("printable"),
    ]);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("order"), "{said}");
    kill_process(pid(sidecar), Signal::CONT).expect("go on");
    wait::until("the proxy catches up", SOON, || {
        let started = Instant::now();
        let output = mesh.naka(["apply", "--wait", "-f", file.to_str().expect("printable")]);
        (output.status.code() == Some(0) && started.elapsed() < Duration::from_secs(5))
            .then_some(())
    });
}

/// A bad route applied with `--confirm` under load is taken back at once, long before its time; failures are counted.
/// The twin: a harmless change with the same option stays until its time.
#[test]
fn a_bad_change_with_confirm_is_taken_back_at_once() {
    let mesh = Mesh::up();
    let (_v1, _v2) = (mesh.serve("payment", "v1"), mesh.serve("payment", "v2"));
    mesh.apply("canary.yaml", &split(90, 10));
    let mut load = mesh.load(
        "load",
        &["-s", "order"],
        &["--url", "http://payment/", "--rate", "200", "--for", "600"],
    );
    wait::until("calls before the change", SOON, || {
        (mesh.logged("load").len() > 600).then_some(())
    });
    let weight = |mesh: &Mesh| -> u64 {
        let json: Value =
            serde_json::from_str(&mesh.ok(["get", "virtualservice", "payment", "-o", "json"]))
                .expect("JSON");
        json["spec"]["http"][0]["route"][1]["weight"]
            .as_u64()
            .unwrap_or(0)
    };
    let apply = |name: &str, text: &str| {
        let file = mesh.file(name, text);
        mesh.ok([
            "apply",
            "-f",
            file.to_str().expect("printable"),
            "--confirm",
            "60s",
        ]);
    };
    apply("harmless.yaml", &split(60, 40));
    let seen = mesh.logged("load").len();
    wait::until("calls on the harmless change", SOON, || {
        (mesh.logged("load").len() > seen + 1200).then_some(())
    });
    assert_eq!(weight(&mesh), 40, "a harmless change stays");
    mesh.ok(["confirm"]);

    let started = Instant::now();
    apply(
        "bad.yaml",
        &split(50, 50).replace("subset: v2", "subset: v9"),
    );
    wait::until("the change is taken back", Duration::from_secs(30), || {
        (weight(&mesh) == 40).then_some(())
    });
    let took = started.elapsed();
    let settled = mesh.logged("load").len();
    wait::until("calls after it", SOON, || {
        (mesh.logged("load").len() > settled + 300).then_some(())
    });
    load.signal(Signal::TERM);
    let _ = load.wait(SOON);
    let log = mesh.logged("load");
    let failed = log.iter().filter(|l| l["status"] != 200).count();
    println!("bad change taken back after {took:?}, {failed} requests failed meanwhile");
    assert!(failed > 0, "the change was bad");
    assert!(
        log.iter().rev().take(100).all(|l| l["status"] == 200),
        "healthy again"
    );
}

/// How many xDS responses a sidecar received, from its own metrics: another process than the one that sends.
fn received(mesh: &Mesh, program: &Program) -> u64 {
    let sidecar = mesh.sidecar_of(program).expect("a sidecar");
    let line = std::fs::read(format!("/proc/{sidecar}/cmdline")).unwrap_or_default();
    let settings = line
        .split(|b| *b == 0)
        .find(|w| w.ends_with(b"settings.json"))
        .expect("--settings");
    let dir = std::path::PathBuf::from(String::from_utf8_lossy(settings).into_owned());
    let output = std::process::Command::new("curl")
        .args(["-s", "--unix-socket"])
        .arg(dir.with_file_name("admin.sock"))
        .arg("http://localhost/stats")
        .output()
        .expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = text
        .lines()
        .find_map(|l| l.strip_prefix("config.updates_applied: "));
    count
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("no count in {text:?}"))
}

/// A control plane that was killed and started again sends its proxies nothing that did not change. The twin: a
/// changed weight arrives.
#[test]
fn a_restarted_control_plane_pushes_nothing() {
    let mut mesh = Mesh::up();
    let (_v1, _v2) = (mesh.serve("payment", "v1"), mesh.serve("payment", "v2"));
    mesh.apply("canary.yaml", &split(90, 10));
    let caller = mesh.load(
        "load",
        &["-s", "order"],
        &["--url", "http://payment/", "--rate", "20", "--for", "600"],
    );
    wait::until("first answers", SOON, || {
        (mesh.logged("load").len() > 5).then_some(())
    });
    let before = received(&mesh, &caller);
    mesh.kill_control();
    mesh.start_control();
    wait::until("all are back", SOON, || {
        let all = mesh.workloads();
        (all.len() == 3 && all.iter().all(|w| w["connected"] == true)).then_some(())
    });
    let after = received(&mesh, &caller);
    assert_eq!(after, before, "responses received over a restart");
    mesh.apply("canary.yaml", &split(50, 50));
    assert!(
        received(&mesh, &caller) > after,
        "the twin: a change arrives"
    );
}
