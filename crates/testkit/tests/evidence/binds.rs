//! Ports that a Sidecar object asks for: addresses of the machine for a program's calls, and ports for callers that the
//! program did not announce. Each is called by clients that know no proxy; each twin changes one field.

use crate::destination::server;
use crate::envoy::{ENVOY_SOON, run};
use crate::namespace::script;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::UNIX_EPOCH;

/// The port that the only workload of a service listens at.
fn port_of(mesh: &Mesh, service: &str) -> u64 {
    until("its port", SOON, || {
        let all = mesh.workloads();
        let found = all.iter().find(|w| w["service"] == service)?;
        found["ports"][0]["port"].as_u64()
    })
}

/// A program that waits, beside a sidecar of `order`.
fn order(mesh: &Mesh, proxy: &str) -> Program {
    let options = ["--proxy", proxy, "--capture", "proxy", "-s", "order"];
    run(mesh, "order", &options, &["sleep", "600"])
}

/// Status of a call without a proxy, and `x-naka-reason`; 000 when nobody listens.
fn get(url: &str, host: Option<&str>) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-m", "10", "--noproxy", "*", "-o", "/dev/null"]);
    curl.args(["-w", "%{http_code} %header{x-naka-reason}"]);
    if let Some(host) = host {
        curl.args(["-H", &format!("host: {host}")]);
    }
    let output = curl.arg(url).output().expect("curl");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn becomes(what: &str, url: &str, host: Option<&str>, wanted: &str) {
    let mut last = String::new();
    let limit = std::time::Instant::now() + ENVOY_SOON;
    while std::time::Instant::now() < limit {
        last = get(url, host);
        if last == wanted || last.starts_with(&format!("{wanted} ")) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{what}: {last:?} instead of {wanted:?}");
}

/// A Sidecar of `order` with one entry of `egress`.
fn entry(mesh: &Mesh, entry: &str) {
    mesh.apply(
        "sidecar.yaml",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: order}}\nspec:\n  workloadSelector: {{labels: {{app: order}}}}\n  egress:\n  - {entry}\n  - {{hosts: ['./*']}}\n"
        ),
    );
}

/// What requests meet and bytes do not.
fn abort(mesh: &Mesh) {
    mesh.apply(
        "abort.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: payment}\nspec: {hosts: [payment], http: [{match: [{uri: {prefix: /abort}}], fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, route: [{destination: {host: payment}}]}, {route: [{destination: {host: payment}}]}]}\n",
    );
}

fn calls_are_bound(proxy: &str) {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let _order = order(&mesh, proxy);
    let port = port_of(&mesh, "payment");
    abort(&mesh);
    let at = |ip: &str, path: &str| format!("http://{ip}:{port}{path}");
    let named = |protocol: &str, bind: &str, capture: &str, hosts: &str| {
        entry(
            &mesh,
            &format!(
                "{{port: {{number: {port}, protocol: {protocol}, name: own}}, bind: {bind}, captureMode: {capture}, hosts: ['{hosts}']}}"
            ),
        );
    };
    assert_eq!(get(&at("127.0.0.2", "/"), None), "000");
    named("HTTP", "127.0.0.2", "NONE", "./payment");
    becomes("a bind", &at("127.0.0.2", "/"), None, "200");
    let peer = mesh.logged("payment-v1");
    let peer = peer.last().expect("the call")["peer"].clone();
    assert_eq!(peer, "spiffe://cluster.local/ns/default/sa/order");
    becomes("a route", &at("127.0.0.2", "/abort"), None, "418");
    // The same bytes, of which nothing is known.
    named("TCP", "127.0.0.2", "NONE", "./payment");
    becomes("bytes", &at("127.0.0.2", "/abort"), None, "200");
    // DEFAULT binds what names an address.
    named("HTTP", "127.0.0.3", "DEFAULT", "./payment");
    becomes("DEFAULT", &at("127.0.0.3", "/"), None, "200");
    becomes("it moved", &at("127.0.0.2", "/"), None, "000");
    // Requests of a pattern say which host they mean; a name that it does not let through is not called.
    named("HTTP", "127.0.0.2", "NONE", "./*");
    becomes("a pattern", &at("127.0.0.2", "/"), Some("payment"), "200");
    let other = get(&at("127.0.0.2", "/"), Some("order"));
    assert!(other != "200" && other != "000", "{other}");
    // The twin: what is captured by rules is not bound.
    named("HTTP", "127.0.0.2", "IPTABLES", "./payment");
    becomes("IPTABLES", &at("127.0.0.2", "/"), None, "000");
}

#[test]
fn calls_come_in_where_a_sidecar_binds() {
    calls_are_bound("naka");
}

#[test]
fn an_envoy_binds_the_same() {
    calls_are_bound("envoy");
}

/// In a network namespace of the program's own the bind is inside it: on its loopback, and not on the host's.
#[test]
fn a_bind_is_where_the_program_is() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let port = port_of(&mesh, "payment");
    entry(
        &mesh,
        &format!(
            "{{port: {{number: {port}, protocol: HTTP, name: own}}, captureMode: NONE, hosts: ['./payment']}}"
        ),
    );
    let call = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10; do curl -s -m 5 http://127.0.0.1:{port}/ && exit; sleep 0.2; done; echo nobody"
    );
    let options = ["--capture", "namespace", "-s", "order"];
    let bound = script(&mesh, "bound", &options, &call);
    assert!(
        bound.out().contains("sa/order"),
        "{}{}",
        bound.out(),
        bound.err()
    );
    entry(
        &mesh,
        &format!(
            "{{port: {{number: {port}, protocol: HTTP, name: own}}, captureMode: DEFAULT, hosts: ['./payment']}}"
        ),
    );
    // It begins with what the last run left, until it has heard.
    let closed = format!(
        "for i in $(seq 50); do curl -s -m 5 http://127.0.0.1:{port}/ >/dev/null || {{ echo nobody; exit; }}; sleep 0.1; done"
    );
    let unbound = script(&mesh, "unbound", &options, &closed);
    assert_eq!(unbound.out().trim(), "nobody");
}

fn callers_are_let_in(proxy: &str) {
    let mesh = Mesh::up();
    let port = free_port().to_string();
    let log = mesh.log("payment-v1");
    let prog = naka_testkit::mesh::testprog();
    let server = [
        prog.to_str().expect("printable"),
        "serve",
        "--port",
        &port,
        "--name",
        "payment",
        "--version",
        "v1",
        "--log",
        log.to_str().expect("printable"),
    ];
    let options = [
        "--proxy",
        proxy,
        "--capture",
        "proxy",
        "-s",
        "payment",
        "-p",
        &port,
    ];
    let _payment = run(&mesh, "payment", &options, &server);
    let own = port_of(&mesh, "payment");
    let extra = free_port();
    let sidecar = |more: &str| {
        mesh.apply(
            "ingress.yaml",
            &format!(
                "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: payment}}\nspec:\n  workloadSelector: {{labels: {{app: payment}}}}\n  ingress:\n  - {{port: {{number: {extra}, protocol: HTTP, name: extra}}, defaultEndpoint: '127.0.0.1:{own}'{more}}}\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: payment}}\nspec: {{selector: {{matchLabels: {{app: payment}}}}, mtls: {{mode: STRICT}}, portLevelMtls: {{{extra}: {{mode: DISABLE}}}}}}\n"
            ),
        );
    };
    let at = |ip: &str| format!("http://{ip}:{extra}/");
    assert_eq!(get(&at("127.0.0.1"), None), "000");
    sidecar("");
    becomes("a port nobody declared", &at("127.0.0.1"), None, "200");
    sidecar(", bind: 127.0.0.3");
    becomes("it is bound", &at("127.0.0.3"), None, "200");
    becomes("and only there", &at("127.0.0.1"), None, "000");
    sidecar(", captureMode: IPTABLES");
    becomes("IPTABLES binds nothing", &at("127.0.0.3"), None, "000");
    assert_eq!(get(&at("127.0.0.1"), None), "000");
}

#[test]
fn a_port_that_only_a_sidecar_names_is_open() {
    callers_are_let_in("naka");
}

#[test]
fn an_envoy_opens_it_too() {
    callers_are_let_in("envoy");
}

/// A bind of a declared port is an address more, under the same rules: mesh identities are asked for there, too.
#[test]
fn a_declared_port_has_one_address_more() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let port = port_of(&mesh, "payment");
    let at = format!("http://127.0.0.4:{port}/");
    assert_eq!(get(&at, None), "000");
    mesh.apply(
        "ingress.yaml",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: payment}}\nspec:\n  workloadSelector: {{labels: {{app: payment}}}}\n  ingress:\n  - {{port: {{number: {port}, protocol: HTTP, name: own}}, bind: 127.0.0.4}}\n"
        ),
    );
    becomes("an address more", &at, None, "403 mtls-required");
}

/// Bytes do not say which of two services they are for: the older one has them, and the object is told. Twin: without
/// it the younger has them.
#[test]
fn bytes_at_a_bind_of_two_services_go_to_the_older() {
    let mesh = Mesh::up();
    let port = free_port();
    let entry = |name: &str| {
        let target = server(Ipv4Addr::LOCALHOST.into(), name);
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{name}.example.com]\n  ports: [{{number: {port}, name: tcp, protocol: TCP, targetPort: {target}}}]\n  resolution: STATIC\n  endpoints: [{{address: 127.0.0.1}}]\n"
        )
    };
    let (older, younger) = (entry("zulu"), entry("alpha"));
    mesh.apply("zulu.yaml", &older);
    // The age of objects has whole seconds.
    let second = || UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let made = second();
    until("the next second", SOON, || (second() > made).then_some(()));
    mesh.apply("alpha.yaml", &younger);
    let _order = order(&mesh, "naka");
    self::entry(
        &mesh,
        &format!(
            "{{port: {{number: {port}, protocol: TCP, name: own}}, bind: 127.0.0.2, hosts: ['./*']}}"
        ),
    );
    let url = format!("http://127.0.0.2:{port}/");
    let answers = |wanted: &str| {
        until(format_args!("an answer of {wanted}"), SOON, || {
            let output = Command::new("curl")
                .args(["-s", "-m", "5", "--noproxy", "*", &url])
                .output()
                .expect("curl");
            let said = String::from_utf8_lossy(&output.stdout);
            said.starts_with(wanted).then_some(())
        });
    };
    answers("zulu");
    let told = || {
        let said = mesh.naka(["status", "sidecar/order", "-o", "json"]).stdout;
        String::from_utf8_lossy(&said).into_owned()
    };
    assert!(told().contains("L354"), "{}", told());
    let older = mesh.home().join("zulu.yaml");
    mesh.ok(["delete", "-f", older.to_str().expect("printable")]);
    answers("alpha");
    assert!(!told().contains("L354"), "{}", told());
}

/// A Unix socket leads to its host, for a program beside its sidecar and for a captured one; nobody else's uid is served,
/// and the file goes with the object. Twin: bytes pass the route that requests do not pass.
#[test]
fn a_unix_socket_is_bound() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    abort(&mesh);
    // Where everybody may go, so that the sidecar alone says who is served.
    let dir = tempfile::tempdir_in("/tmp").expect("a directory");
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("ours");
    let path = dir.path().join("own.sock");
    let socket = path.to_str().expect("printable");
    let bind = |protocol: &str| {
        entry(
            &mesh,
            &format!(
                "{{port: {{number: 0, protocol: {protocol}, name: own}}, bind: 'unix://{socket}', hosts: [./payment]}}"
            ),
        );
    };
    let get = |path: &str| {
        let options = "-s -m 10 -o /dev/null -w '%{http_code}' --unix-socket";
        format!("curl {options} {socket} http://localhost{path}")
    };
    let sh = |line: &str| {
        let output = Command::new("sh").args(["-c", line]).output().expect("sh");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    bind("HTTP");
    let order = order(&mesh, "naka");
    until("the socket", SOON, || path.exists().then_some(()));
    assert_eq!(sh(&get("/")), "200");
    assert_eq!(sh(&get("/abort")), "418");
    let peer = mesh.logged("payment-v1");
    let peer = peer.last().expect("the call")["peer"].clone();
    assert_eq!(peer, "spiffe://cluster.local/ns/default/sa/order");
    let stranger = get("/");
    let stranger = format!("chmod 777 {socket}; setpriv --reuid=65534 {stranger}");
    assert_eq!(sh(&stranger), "000", "another uid");
    let home = mesh.home().display();
    let told = format!("grep -rh --include=proxy.log 'own uid' {home}");
    let told = until("the refusal is told", SOON, || {
        let said = sh(&told);
        (!said.is_empty()).then_some(said)
    });
    assert!(told.contains("65534"), "{told}");
    bind("TCP");
    until("bytes", SOON, || {
        (sh(&get("/abort")) == "200").then_some(())
    });
    mesh.ok([
        "delete",
        "-f",
        mesh.home()
            .join("sidecar.yaml")
            .to_str()
            .expect("printable"),
    ]);
    until("no socket", SOON, || (!path.exists()).then_some(()));
    drop(order);
    bind("HTTP");
    let wait = format!(
        "until [ -S {socket} ]; do sleep 0.05; done; {}",
        get("/abort")
    );
    let run = script(
        &mesh,
        "order",
        &["--capture", "namespace", "-s", "order", "-p", "9"],
        &wait,
    );
    assert_eq!(run.out(), "418", "{}", run.err());
}
