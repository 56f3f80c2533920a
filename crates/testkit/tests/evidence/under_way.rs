//! A policy that changes while calls are under way: where a PeerAuthentication asks for it, those that would not be let in
//! any more end, each for itself, and stand in the audit trail. The twin: without that they go on.

use crate::held::{holding, words};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;

/// A program whose answers never end, on two ports; below `/slow` they do not even begin.
const DRIPS: &str = "import http.server, sys, threading, time
class Drip(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *_): pass
    def do_GET(self):
        while self.path == '/slow': time.sleep(1)
        self.send_response(200)
        self.send_header('transfer-encoding', 'chunked')
        self.end_headers()
        while True:
            self.wfile.write(b'2\\r\\n.\\n\\r\\n')
            self.wfile.flush()
            time.sleep(0.02)
servers = [http.server.ThreadingHTTPServer(('127.0.0.1', int(port)), Drip) for port in sys.argv[1:]]
for server in servers[1:]: threading.Thread(target=server.serve_forever, daemon=True).start()
servers[0].serve_forever()
";

/// The PeerAuthentication that says what becomes of calls under way.
fn asks(closes: bool) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: default, annotations: {{naka.dev/close-denied: '{closes}'}}}}\nspec: {{mtls: {{mode: STRICT}}}}\n"
    )
}

/// Who may call at all.
fn allows(accounts: &[&str]) -> String {
    let all: Vec<String> = accounts
        .iter()
        .map(|account| format!("cluster.local/ns/default/sa/{account}"))
        .collect();
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: callers}}\nspec: {{rules: [{{from: [{{source: {{principals: [{}]}}}}]}}]}}\n",
        all.join(", ")
    )
}

const NO_WEB_SOCKETS: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-web-sockets}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/ws]}}]}]}
";

/// A caller of an answer without end.
fn calling(mesh: &Mesh, name: &str, account: &str, options: &[&str]) -> Program {
    let curl = [&["curl", "-sN"], options].concat();
    mesh.run(name, &["-s", account], &curl)
}

fn lines(program: &Program) -> usize {
    program.out().lines().count()
}

fn until_more(programs: &[&Program]) {
    for program in programs {
        let before = lines(program);
        until(format_args!("more lines: {}", program.said()), SOON, || {
            (lines(program) > before + 20).then_some(())
        });
    }
}

#[test]
fn calls_under_way_end_with_their_right_where_that_is_wanted() {
    let mesh = Mesh::up();
    let script = mesh.file("drips.py", DRIPS).display().to_string();
    let [http, tcp] = [free_port(), free_port()].map(|port| port.to_string());
    let ports = [format!("{http}/http"), format!("{tcp}/tcp")];
    let drips = ["-s", "drips", "-p", &ports[0], "-p", &ports[1]];
    let served = mesh.run("drips", &drips, &["python3", &script, &http, &tcp]);
    mesh.wait_ready("drips", None, &served);
    let _payment = mesh.serve("payment", "v1");
    mesh.apply("callers.yaml", &allows(&["thief", "order"]));
    let url = format!("http://drips:{http}/");
    let (slow, bytes) = (format!("{url}slow"), format!("http://drips:{tcp}/"));
    let status = ["-o", "/dev/null", "-w", "%{http_code}", slow.as_str()];

    for closes in [false, true] {
        mesh.apply("asks.yaml", &asks(closes));
        let name = |what: &str| format!("{what}-{closes}");
        let honest = calling(&mesh, &name("honest"), "order", &[&url]);
        let mut stream = calling(&mesh, &name("stream"), "thief", &[&url]);
        let mut tunnel = calling(&mesh, &name("tunnel"), "thief", &["-p", &bytes]);
        let mut waiting = calling(&mesh, &name("waiting"), "thief", &status);
        until_more(&[&honest, &stream, &tunnel]);
        mesh.apply("callers.yaml", &allows(&["order"]));
        if closes {
            for program in [&mut stream, &mut tunnel] {
                let ended = program.wait(SOON).expect("it ends");
                assert!(!ended.success(), "cut off, not whole: {}", program.said());
            }
            waiting.wait(SOON).expect("it is answered");
            assert_eq!(waiting.out(), "403", "{}", waiting.said());
        } else {
            until_more(&[&stream, &tunnel]);
            assert!(waiting.alive(), "{}", waiting.said());
        }
        until_more(&[&honest]);
        mesh.apply("callers.yaml", &allows(&["thief", "order"]));
    }
    let told = until("three refused calls in the trail", SOON, || {
        let told = mesh.ok(["get", "denials"]);
        let of_thief = told.lines().filter(|line| line.contains("/sa/thief"));
        (of_thief.count() >= 3).then_some(told)
    });
    assert!(told.contains("while it was under way"), "{told}");
    one_of_a_callers(&mesh, &url);
}

/// Of what one caller has under way only that ends which is not allowed any more; a WebSocket like any other call.
fn one_of_a_callers(mesh: &Mesh, url: &str) {
    let other = calling(mesh, "other", "order", &[url]);
    let command = holding(mesh);
    let mut held = mesh.run("held", &["-s", "order"], &words(&command));
    until("an open WebSocket", SOON, || {
        (mesh.logged("hold").len() > 3).then_some(())
    });
    until_more(&[&other]);
    mesh.apply("sockets.yaml", NO_WEB_SOCKETS);
    let ended = held.wait(SOON).expect("it ends");
    assert!(
        !ended.success() && held.err().contains("broke"),
        "{}",
        held.said()
    );
    until_more(&[&other]);
}
