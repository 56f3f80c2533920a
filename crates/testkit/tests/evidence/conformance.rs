//! The suite of HTTP/2's own conformance, h2spec 2.6 `--strict`, on every listener that takes HTTP/2.
//!
//! h2spec exits with 0 also when nothing ran, so its last line is read. It shows no client certificate: in front of the
//! port of mesh peers stands a relay that adds the TLS of a workload and touches no byte inside it.
//!
//! At the control plane's own ports it is a stranger, whom every request is refused; that suffices for the framing.
//!
//! Not here: requests that the control plane takes.

use crate::newcomer::venv;
use naka_identity::Svid;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use naka_types::spiffe::SpiffeId;
use std::net::SocketAddr;
use std::process::Command;
use tokio::net::{TcpListener, TcpStream};

/// What h2spec says of a listener. A listener that did not conform is asked once more, and both lines are printed: a
/// few of the suite's cases race with the end of their own stream, after which what they wait for may stay away (RFC 9113
/// 5.1). A real fault shows both times.
fn conformance(what: &str, port: u16, options: &[&str]) -> String {
    let first = asked(what, port, options);
    if conforms(&first) {
        return first;
    }
    asked(what, port, options)
}

/// One run of h2spec: its last line, which is there only when it ran.
fn asked(what: &str, port: u16, options: &[&str]) -> String {
    let port = port.to_string();
    let usual = ["--strict", "-h", "localhost", "-p", &port, "-o", "5"];
    let output = Command::new(venv("h2spec"))
        .args(usual)
        .args(options)
        .output()
        .expect("h2spec starts");
    told(what, &String::from_utf8_lossy(&output.stdout))
}

#[expect(clippy::print_stdout, reason = "the line that the evidence shows")]
fn told(what: &str, text: &str) -> String {
    let last = text
        .lines()
        .rfind(|line| line.contains(" tests, "))
        .unwrap_or("it did not run");
    let failures = text.split_once("Failures:").map_or("", |(_, told)| told);
    println!("h2spec at {what}: {last}{failures}");
    last.to_owned()
}

/// All tests ran and none failed. One of them needs an answer longer than a small body and is skipped without it.
fn conforms(line: &str) -> bool {
    let all = [
        "147 tests, 146 passed, 1 skipped, 0 failed",
        "147 tests, 147 passed, 0 skipped, 0 failed",
    ];
    all.contains(&line)
}

const GATEWAY: &str = "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: ['*']
    tls: {mode: SIMPLE, serverCertificate: DIR/edge.pem, privateKey: DIR/edge.key}
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

/// A program that answers a request when it has all of it. One that answers sooner would end streams on which the suite
/// still means to send something wrong, and what comes after the end of a stream may be ignored (RFC 9113 5.1).
const PROGRAM: &str = "
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Whole(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        left = int(self.headers.get('content-length', 0))
        self.rfile.read(left)
        while 'chunked' in self.headers.get('transfer-encoding', ''):
            size = self.rfile.readline()
            if not size:
                return
            self.rfile.read(int(size, 16))
            self.rfile.readline()
            if int(size, 16) == 0:
                break
        self.send_response(200)
        self.send_header('content-length', '400')
        self.end_headers()
        self.wfile.write(b'.' * 400)

    do_POST = do_GET

ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Whole).serve_forever()
";

/// A service, a program that calls it, and a gateway.
struct Ground {
    mesh: Mesh,
    _web: Program,
    caller: Program,
    _gateway: Program,
    /// The program's own port.
    own: u16,
    published: u16,
    bound: u16,
    edge: [u16; 2],
}

fn ground() -> Ground {
    let mesh = Mesh::up();
    let [published, bound, http, https] = [(); 4].map(|()| free_port());
    let publish = format!("127.0.0.1:{published}");
    let own = free_port();
    let port = own.to_string();
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
    let server = [&python, "-c", PROGRAM, &port];
    let web = mesh.run("web", &options, &server);
    mesh.wait_ready("web", Some(&port), &web);
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-keyout", "edge.key", "-out", "edge.pem", "-subj", "/CN=e"])
        .current_dir(mesh.home())
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{made:?}");
    let home = mesh.home().display().to_string();
    mesh.apply("edge.yaml", &GATEWAY.replace("DIR", &home));
    let upstream = format!("web:80={bound}");
    let options = [
        "-s",
        "caller",
        "--capture",
        "proxy",
        "--upstream",
        &upstream,
    ];
    let script = "printf '%s\\n' \"$http_proxy\"; exec sleep infinity";
    let caller = mesh.run("caller", &options, &["sh", "-c", script]);
    let binds = [http, https].map(|port| format!("127.0.0.1:{port}"));
    let binds = [format!("80={}", binds[0]), format!("443={}", binds[1])];
    let arguments = ["proxy", "gateway", "-p", &binds[0], "-p", &binds[1]];
    let gateway =
        Program::start("gateway", mesh.home(), &mut mesh.command(arguments)).expect("start");
    for (port, scheme) in [
        (http, "http"),
        (https, "https"),
        (published, "http"),
        (bound, "http"),
    ] {
        let said = || format!("port {port}: {} {}", gateway.said(), caller.said());
        until(said(), SOON, || {
            let url = format!("{scheme}://127.0.0.1:{port}/");
            let output = Command::new("curl")
                .args(["-sk", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}"])
                .arg(url)
                .output();
            (output.expect("curl").stdout == b"200").then_some(())
        });
    }
    Ground {
        mesh,
        _web: web,
        caller,
        _gateway: gateway,
        own,
        published,
        bound,
        edge: [http, https],
    }
}

impl Ground {
    /// The port that mesh peers of the service use.
    fn inbound(&self) -> SocketAddr {
        let all = self.mesh.workloads();
        let web = all.iter().find(|w| w["service"] == "web").expect("web");
        let address = web["ports"][0]["inbound_address"].as_str();
        address.and_then(|a| a.parse().ok()).expect("an address")
    }

    /// The caller's proxy port.
    fn proxy(&self) -> u16 {
        let out = until("the proxy variable", SOON, || {
            self.caller.out().lines().next().map(str::to_owned)
        });
        let port = out.trim_end_matches('/').rsplit(':').next();
        port.and_then(|p| p.parse().ok()).expect("a port")
    }

    /// Ports of the control plane: xDS and API.
    fn control(&self) -> [u16; 2] {
        let ports = std::fs::read(self.mesh.home().join("mesh/local/ports.json")).expect("ports");
        let ports: serde_json::Value = serde_json::from_slice(&ports).expect("JSON");
        ["xds", "api"].map(|name| {
            let port = ports[name].as_u64().and_then(|port| port.try_into().ok());
            port.expect("a port")
        })
    }

    /// What a workload of the mesh shows.
    fn identity(&self) -> (Svid, naka_identity::Bundle) {
        let runs = std::fs::read_dir(self.mesh.home().join("run")).expect("runs");
        runs.flatten()
            .filter(|run| run.file_name().to_string_lossy().contains("caller"))
            .find_map(|run| Svid::load(&run.path().join("identity.pem")).ok()?)
            .expect("the identity of the caller")
    }
}

/// A port whose connections go on to `target` within the mutual TLS of a workload.
fn with_tls(target: SocketAddr, (svid, bundle): (Svid, naka_identity::Bundle)) -> u16 {
    let trust = svid.spiffe.trust_domain();
    let wanted = format!("spiffe://{trust}/ns/default/sa/web");
    let wanted = SpiffeId::parse(&wanted).expect("an identity");
    let allowed = [wanted].into();
    let config = naka_identity::tls::outbound_tls(&svid, &bundle, allowed, &[b"h2"]);
    let connector = tokio_rustls::TlsConnector::from(config.expect("a configuration"));
    let (told, port) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            told.send(listener.local_addr().expect("bound").port())
                .expect("somebody waits");
            while let Ok((mut caller, _)) = listener.accept().await {
                let connector = connector.clone();
                tokio::spawn(async move {
                    let stream = TcpStream::connect(target).await.expect("it listens");
                    let name = naka_identity::tls::control_name();
                    let called = connector.connect(name, stream).await;
                    let mut called = called.expect("a handshake");
                    // Connections that break off are what the suite is about.
                    let _ = tokio::io::copy_bidirectional(&mut caller, &mut called).await;
                });
            }
        });
    });
    port.recv().expect("a port")
}

#[test]
fn h2spec_finds_no_fault_on_any_http2_listener() {
    let ground = ground();
    // The suite names its own target: at a proxy port that has to be a service.
    let proxy = ground.proxy();
    let entry = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: spec}}\nspec:\n  hosts: [localhost]\n  ports: [{{number: {proxy}, name: http, protocol: HTTP}}]\n  resolution: STATIC\n  endpoints: [{{address: 127.0.0.1, ports: {{http: {}}}}}]\n",
        ground.own
    );
    ground.mesh.apply("spec.yaml", &entry);
    let tls = ["-t", "-k"];
    let inbound = ground.inbound();
    let mutual = with_tls(inbound, ground.identity());
    let [xds, api] = ground.control();
    let listeners: [(&str, u16, &[&str]); 9] = [
        ("a gateway's HTTP port", ground.edge[0], &[]),
        ("a gateway's HTTPS port", ground.edge[1], &tls),
        ("a published port", ground.published, &[]),
        ("the port of mesh peers, plaintext", inbound.port(), &[]),
        ("the port of mesh peers, mutual TLS", mutual, &[]),
        ("a program's proxy port", proxy, &[]),
        ("a local port that leads to a service", ground.bound, &[]),
        ("the control plane's xDS port", xds, &tls),
        ("the control plane's API port", api, &tls),
    ];
    let mut bad = Vec::new();
    for (what, port, options) in listeners {
        let line = conformance(what, port, options);
        if !conforms(&line) {
            bad.push((what, line));
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
    // Calls that are captured: h2spec is the program.
    let spec = venv("h2spec");
    let host = "web.default.svc.cluster.local";
    let command = [&spec, "--strict", "-h", host, "-p", "80", "-o", "5"];
    let mut run = ground.mesh.run("captured", &["-s", "captured"], &command);
    run.wait(SOON * 6).expect("it ends");
    let line = told("captured calls", &run.out());
    assert!(conforms(&line), "{}", run.said());
    // The twin: a port that speaks no HTTP/2 conforms to nothing.
    let output = Command::new(&spec)
        .args(["-h", "127.0.0.1", "-p", &free_port().to_string(), "-o", "1"])
        .output()
        .expect("h2spec starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("147 tests, 14"), "{text}");
}
