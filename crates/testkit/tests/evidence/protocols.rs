//! Protocols as their own libraries speak them, through both sidecars: gRPC in every form, and WebSockets.

use crate::newcomer::{program, venv};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use std::process::Command;
use std::time::Duration;

/// Runs a verb of the peers' program to its end; what it printed.
fn call(mesh: &Mesh, name: &str, arguments: &[&str]) -> String {
    let (python, source) = (venv("python3"), program("spoken.py"));
    let command: Vec<&str> = [python.as_str(), &source]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    let mut run = mesh.run(name, &["-s", "order"], &command);
    let status = run.wait(Duration::from_secs(60)).expect("it ends");
    assert!(status.success(), "{}\n{}", run.out(), run.err());
    run.out()
}

fn serve(mesh: &Mesh, service: &str, options: &[&str], verb: &str) -> Program {
    let port = free_port().to_string();
    let (python, source) = (venv("python3"), program("spoken.py"));
    let mut all = vec!["-s", service];
    all.extend_from_slice(options);
    let run = mesh.run(service, &all, &[&python, &source, verb, &port]);
    mesh.wait_ready(service, None, &run);
    run
}

/// Unary, streams of either side and of both at once, deadlines that reach the server and end its work, statuses without
/// a body.
#[test]
fn grpc_passes_in_every_form() {
    let mesh = Mesh::up();
    let ledger = serve(&mesh, "ledger", &[], "grpc-serve");
    let printed = call(&mesh, "forms", &["grpc-call", "ledger:80"]);
    assert_eq!(
        printed.lines().collect::<Vec<_>>(),
        [
            "unary cba yes yes",
            "large 1000000 ba",
            "server stream 100",
            "client stream 5050",
            "both streams 0 1 2 3 4 0",
            "deadline DEADLINE_EXCEEDED",
            "trailers only FAILED_PRECONDITION",
            "unknown UNIMPLEMENTED",
        ]
    );
    // The deadline was the server's, too, and so was the end of the call.
    until("the server stops working for nobody", SOON, || {
        (ledger.out().lines().collect::<Vec<_>>() == ["deadline set", "cancelled"]).then_some(())
    });
}

#[test]
fn websockets_pass_their_own_library() {
    let mesh = Mesh::up();
    let edge = free_port();
    let publish = format!("127.0.0.1:{edge}");
    let chat = serve(&mesh, "chat", &["--publish", &publish], "ws-serve");
    assert_eq!(
        call(&mesh, "talk", &["ws-call", "ws://chat/", "200"]).trim(),
        "websocket 200 1000"
    );
    // From outside the mesh, without a sidecar of one's own.
    let outside = Command::new(venv("python3"))
        .args([
            &program("spoken.py"),
            "ws-call",
            &format!("ws://{publish}/"),
            "20",
        ])
        .output()
        .expect("python");
    let said = String::from_utf8_lossy(&outside.stdout).into_owned();
    assert_eq!(
        said.trim(),
        "websocket 20 1000",
        "{}",
        String::from_utf8_lossy(&outside.stderr)
    );
    // The twin: with nobody behind it the same call fails.
    drop(chat);
    let failed = Command::new(venv("python3"))
        .args([
            &program("spoken.py"),
            "ws-call",
            &format!("ws://{publish}/"),
            "1",
        ])
        .output()
        .expect("python");
    assert!(!failed.status.success());
}
