//! Protocols as their own libraries speak them, through both sidecars: gRPC in every form, WebSockets, and the suite of
//! HTTP/2's own conformance on every listener that takes HTTP/2.

use crate::newcomer::{program, venv};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use std::path::PathBuf;
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

/// h2spec, built by `scripts/setup.sh peers`.
fn h2spec() -> PathBuf {
    PathBuf::from(venv("h2spec"))
}

/// What h2spec says of a listener: its last line, which is there only when it ran.
#[expect(clippy::print_stdout, reason = "the line that the evidence shows")]
fn conformance(port: u16, options: &[&str]) -> String {
    let output = Command::new(h2spec())
        .args([
            "--strict",
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-o",
            "5",
        ])
        .args(options)
        .output()
        .expect("h2spec starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed: Vec<&str> = text.lines().filter(|line| line.contains('×')).collect();
    let last = text
        .lines()
        .rfind(|line| line.contains(" tests, "))
        .unwrap_or("it did not run");
    println!("h2spec {options:?} on port {port}: {last}");
    let failures = text.split_once("Failures:").map_or("", |(_, told)| told);
    assert!(failed.is_empty(), "{failures}");
    last.to_owned()
}

/// All tests ran and none failed. One of them needs an answer longer than a small body and is skipped without it.
#[track_caller]
fn assert_conforms(line: &str) {
    let all = [
        "147 tests, 146 passed, 1 skipped, 0 failed",
        "147 tests, 147 passed, 0 skipped, 0 failed",
    ];
    assert!(all.contains(&line), "{line}");
}

const GATEWAY: &str = "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: default}
spec:
  hosts: ['*']
  gateways: [istio-system/edge]
  http:
  - route: [{destination: {host: web, port: {number: 80}}}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: open, namespace: default}
spec: {mtls: {mode: PERMISSIVE}}
";

#[test]
fn h2spec_finds_no_fault_on_any_http2_listener() {
    let mesh = Mesh::up();
    let (edge, published) = (free_port(), free_port());
    let publish = format!("127.0.0.1:{published}");
    let port = free_port().to_string();
    let python = venv("python3");
    let declared = format!("{port}/http");
    let options = [
        "-s",
        "web",
        "-p",
        &declared,
        "--publish",
        &publish,
        "--capture",
        "proxy",
    ];
    let server = [&python, "-m", "http.server", &port, "--bind", "127.0.0.1"];
    let run = mesh.run("web", &options, &server);
    mesh.wait_ready("web", Some(&port), &run);
    mesh.apply("edge.yaml", GATEWAY);
    let bind = format!("80=127.0.0.1:{edge}");
    let arguments = ["proxy", "gateway", "-p", &bind];
    let gateway =
        Program::start("gateway", mesh.home(), &mut mesh.command(arguments)).expect("start");
    for port in [edge, published] {
        until(
            format_args!("port {port} answers: {}", gateway.said()),
            SOON,
            || {
                let url = format!("http://127.0.0.1:{port}/");
                let answer = naka_testkit::http1::Client::open(&url)
                    .ok()?
                    .request("GET", &url, &[], b"")
                    .ok()?;
                (answer.status == 200).then_some(())
            },
        );
        assert_conforms(&conformance(port, &[]));
    }
    // Plain callers of the port that mesh peers use.
    let all = mesh.workloads();
    let web = all.iter().find(|w| w["service"] == "web").expect("web");
    let inbound = web["ports"][0]["inbound_address"]
        .as_str()
        .and_then(|a| a.rsplit_once(':'));
    let inbound: u16 = inbound
        .and_then(|(_, port)| port.parse().ok())
        .expect("a port");
    assert_conforms(&conformance(inbound, &[]));
    // The twin: a port that speaks no HTTP/2 conforms to nothing.
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = other.local_addr().expect("bound").port();
    drop(other);
    let output = Command::new(h2spec())
        .args(["-h", "127.0.0.1", "-p", &silent.to_string(), "-o", "1"])
        .output()
        .expect("h2spec starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("147 tests, 14"), "{text}");
}
