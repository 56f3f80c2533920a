//! gRPC-Web from callers that write it by hand, to servers of grpcio that know gRPC only: at the server's sidecar and at
//! a gateway, of ours and of Envoy. The twin of each is the same port declared gRPC.

use crate::envoy::ENVOY_SOON;
use crate::newcomer::{program, venv};
use naka_testkit::mesh::Mesh;
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use std::process::Command;
use std::time::Duration;

/// `naka ARGS` where an Envoy is found.
fn command(mesh: &Mesh, args: &[&str]) -> Command {
    let mut command = mesh.command(args);
    command.env("NAKA_ENVOY", venv("envoy"));
    command
}

/// A server of grpcio whose port is declared with a word.
fn serve(mesh: &Mesh, service: &str, proxy: &str, word: &str, more: &[&str]) -> Program {
    let port = free_port().to_string();
    let declared = format!("{port}/{word}");
    let (python, source) = (venv("python3"), program("spoken.py"));
    let mut args = vec!["run", "--proxy", proxy, "-s", service, "-p", &declared];
    args.extend_from_slice(more);
    args.extend_from_slice(&["--", &python, &source, "grpc-serve", &port]);
    let run = Program::start(service, mesh.home(), &mut command(mesh, &args)).expect("start it");
    until(
        format_args!("a healthy {service}: {}", run.said()),
        ENVOY_SOON,
        || {
            let all = mesh.workloads();
            let found = all.iter().find(|w| w["service"] == service)?;
            (found["state"] == "healthy").then_some(())
        },
    );
    run
}

/// What a caller without a sidecar is told.
fn outside(arguments: &[&str]) -> Vec<String> {
    let output = Command::new(venv("python3"))
        .arg(program("spoken.py"))
        .arg("web-call")
        .args(arguments)
        .env_remove("http_proxy")
        .output()
        .expect("python");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {err}");
    lines(&String::from_utf8_lossy(&output.stdout))
}

/// The same within the mesh.
fn inside(mesh: &Mesh, name: &str, arguments: &[&str]) -> Vec<String> {
    let (python, source) = (venv("python3"), program("spoken.py"));
    let mut command = vec![python.as_str(), &source, "web-call"];
    command.extend_from_slice(arguments);
    let mut run = mesh.run(name, &["-s", "order"], &command);
    let status = run.wait(Duration::from_secs(60)).expect("it ends");
    assert!(status.success(), "{}\n{}", run.out(), run.err());
    lines(&run.out())
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// What the forms of calls come to: messages as they were, the trailers in the body, a refusal without a body in its
/// head.
fn translated(kind: &str, exposed: &str) -> Vec<String> {
    [
        format!("unary {kind} 1 3 cba trailer 0 yes {exposed}"),
        format!("large {kind} 1 600000 bab trailer 0 yes {exposed}"),
        format!("stream {kind} 100 190 0 trailer 0 none {exposed}"),
        format!("refused {kind} 0 0 none header 9 {exposed}"),
    ]
    .to_vec()
}

const BYTES: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text+proto";

#[test]
fn a_port_of_grpc_web_is_translated_and_one_of_grpc_is_not() {
    let mesh = Mesh::up();
    let [web, plain] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let _forms = serve(&mesh, "forms", "naka", "grpc-web", &["--publish", &web]);
    let _twin = serve(&mesh, "twin", "naka", "grpc", &["--publish", &plain]);
    let url = format!("http://{web}");
    assert_eq!(outside(&[&url, "bytes"]), translated(BYTES, "none"));
    let mut text = outside(&[&url, "text"]);
    // What is no base64 reaches nobody.
    let broken = text.pop().expect("the last line");
    assert_eq!(
        broken,
        format!("broken {BYTES} 0 0 none header 13 none").replace(BYTES, TEXT)
    );
    assert_eq!(text, translated(TEXT, "none"));
    // The twin's server is given what it does not know.
    let untouched = outside(&[&format!("http://{plain}"), "bytes"]);
    assert!(
        untouched.len() == 4 && untouched.iter().all(|line| line.contains("untranslated")),
        "{untouched:?}"
    );
    // gRPC itself passes a port of gRPC-Web.
    let (python, source) = (venv("python3"), program("spoken.py"));
    let mut grpc = mesh.run(
        "grpc",
        &["-s", "order"],
        &[&python, &source, "grpc-call", "forms:80"],
    );
    assert!(grpc.wait(Duration::from_secs(60)).expect("ends").success());
    assert!(
        grpc.out().starts_with("unary cba yes yes\n"),
        "{}",
        grpc.out()
    );
    assert_eq!(
        inside(&mesh, "within", &["http://forms", "bytes"]),
        translated(BYTES, "none")
    );
}

#[test]
fn an_envoy_beside_the_server_does_the_same() {
    let mesh = Mesh::up();
    let _forms = serve(&mesh, "forms", "envoy", "grpc-web", &[]);
    let _twin = serve(&mesh, "twin", "envoy", "grpc", &[]);
    for (form, kind) in [("bytes", BYTES), ("text", TEXT)] {
        let mut got = inside(&mesh, form, &["http://forms", form]);
        got.truncate(4);
        assert_eq!(got, translated(kind, "none"));
    }
    let untouched = inside(&mesh, "untouched", &["http://twin", "bytes"]);
    assert!(
        untouched.iter().all(|line| line.contains("untranslated")),
        "{untouched:?}"
    );
}

const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: web, protocol: GRPC-WEB}, hosts: [shop.example.com]}
  - {port: {number: 81, name: grpc, protocol: GRPC}, hosts: [shop.example.com]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop.example.com]
  gateways: [istio-system/edge]
  http:
  - corsPolicy:
      allowOrigins: [{exact: 'https://shop.example'}]
      allowMethods: [POST]
      allowHeaders: [content-type, x-grpc-web]
      exposeHeaders: [grpc-status, grpc-message]
    route: [{destination: {host: forms}}]
";

/// A browser's way: a preflight, then calls whose status it may read.
#[test]
fn gateways_translate_for_browsers() {
    let mesh = Mesh::up();
    let _forms = serve(&mesh, "forms", "naka", "grpc", &[]);
    mesh.apply("gateway.yaml", GATEWAY);
    for proxy in ["naka", "envoy"] {
        let [web, plain] = [free_port(), free_port()];
        let binds = [
            format!("80=127.0.0.1:{web}"),
            format!("81=127.0.0.1:{plain}"),
        ];
        let args = [
            "proxy", "gateway", "--proxy", proxy, "-p", &binds[0], "-p", &binds[1],
        ];
        let gateway = Program::start(proxy, mesh.home(), &mut command(&mesh, &args));
        let gateway = gateway.expect("start it");
        let preflight = || {
            let told = Command::new("curl")
                .args(["-s", "-i", "-X", "OPTIONS", "-H", "host: shop.example.com"])
                .args(["-H", "origin: https://shop.example"])
                .args(["-H", "access-control-request-method: POST"])
                .arg(format!("http://127.0.0.1:{web}/test.Forms/One"))
                .output()
                .expect("curl");
            String::from_utf8_lossy(&told.stdout).to_ascii_lowercase()
        };
        let allowed = "access-control-allow-headers: content-type,x-grpc-web";
        until(
            format_args!("{proxy} answers a preflight: {}", gateway.said()),
            ENVOY_SOON,
            || preflight().contains(allowed).then_some(()),
        );
        let host = "shop.example.com";
        let exposed = "grpc-status,grpc-message";
        for (form, kind) in [("bytes", BYTES), ("text", TEXT)] {
            let mut got = outside(&[&format!("http://127.0.0.1:{web}"), form, host]);
            got.truncate(4);
            assert_eq!(got, translated(kind, exposed), "{proxy}");
        }
        let untouched = outside(&[&format!("http://127.0.0.1:{plain}"), "bytes", host]);
        assert!(
            untouched.iter().all(|line| line.contains("untranslated")),
            "{proxy}: {untouched:?}"
        );
    }
}
