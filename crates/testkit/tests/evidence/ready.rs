//! Who is not ready says why and what to do: at the proxy's own page and in `naka status`, cause by cause.

use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use rustix::process::Signal;

fn status(mesh: &Mesh) -> String {
    let out = mesh.naka(["status"]);
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

/// Waits until `naka status` says this of somebody who is not ready.
#[track_caller]
fn names(mesh: &Mesh, words: &[&str]) {
    until(
        format_args!("status with {words:?}; it says {}", status(mesh)),
        SOON,
        || {
            status(mesh)
                .lines()
                .any(|line| {
                    line.starts_with("not ready:") && words.iter().all(|word| line.contains(word))
                })
                .then_some(())
        },
    );
}

fn nobody_unready(mesh: &Mesh) {
    until("status without a complaint", SOON, || {
        (!status(mesh).contains("not ready:")).then_some(())
    });
}

#[test]
fn status_says_why_a_workload_is_not_ready() {
    let mut mesh = Mesh::up();
    let port = free_port().to_string();
    let script = format!(
        "read x; exec {} serve --port {port} --name payment --version v1 --log {}",
        testprog().display(),
        mesh.log("payment").display()
    );
    let mut payment = mesh.run(
        "payment",
        &["-s", "payment", "-p", &port],
        &["sh", "-c", &script],
    );
    names(&mesh, &["payment", "has not opened a port", "-p PORT"]);
    payment.close_stdin();
    mesh.wait_ready("payment", Some(&port), &payment);
    nobody_unready(&mesh);

    let token = mesh.ok(["token", "create", "-s", "alone"]);
    let token = token
        .split_whitespace()
        .find(|word| word.starts_with("naka1."));
    let token = token.expect("a token").to_owned();
    mesh.kill_control();
    let said = status(&mesh);
    assert!(
        said.contains("naka up"),
        "the control plane is away, and what to do: {said}"
    );

    // A new sidecar without a control plane and without anything saved.
    let nobody = format!("127.0.0.1:{}", free_port());
    let dir = mesh.home().join("run/local.default.alone-0");
    std::fs::create_dir_all(&dir).expect("a directory");
    let settings = |control: serde_json::Value| {
        serde_json::json!({
            "run_dir": dir, "service_account": "alone", "service": "alone", "workload_name": "alone-0",
            "control": control, "outbound": {"bind": "127.0.0.1:0"},
        })
        .to_string()
    };
    let alone = |name: &str, control: serde_json::Value| {
        let file = mesh.file(&format!("{name}.json"), &settings(control));
        let file = file.to_str().expect("printable").to_owned();
        let mut command = mesh.command(["proxy", "sidecar", "--settings", &file]);
        Program::start(name, mesh.home(), &mut command).expect("starts")
    };
    let mut sidecar = alone("no-token", serde_json::json!({"addresses": [nobody]}));
    names(&mesh, &["alone", "naka token create -s alone"]);
    sidecar.signal(Signal::KILL);
    sidecar.wait(SOON).expect("it ends");
    let _sidecar = alone(
        "away",
        serde_json::json!({"addresses": [nobody], "token": token}),
    );
    names(&mesh, &["alone", "Connection refused", "naka up"]);

    // A port that somebody has ends the start, with the way to find out who.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let file = mesh.file(
        "taken.json",
        &serde_json::json!({
            "run_dir": mesh.home().join("run/taken"), "service_account": "alone", "workload_name": "taken-0",
            "outbound": {"bind": address},
        })
        .to_string(),
    );
    let out = mesh.naka([
        "proxy",
        "sidecar",
        "--settings",
        file.to_str().expect("printable"),
    ]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        !out.status.success() && said.contains(&address) && said.contains("ss -ltnp"),
        "{said}"
    );
}
