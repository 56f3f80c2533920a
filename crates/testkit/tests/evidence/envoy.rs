//! A stock Envoy in the mesh, seen from outside: what the called programs say of their callers, the Envoy's own
//! counters, the wire.

use crate::count::Joined;
use crate::newcomer::venv;
use crate::restart::kill_group;
use crate::traffic::{finish, split};
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::{Program, children, free_port};
use naka_testkit::{size, wait};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

pub(crate) const ORDER: &str = "spiffe://cluster.local/ns/default/sa/order";
/// An Envoy takes longer to start than a sidecar, on a busy machine much longer.
pub(crate) const ENVOY_SOON: Duration = Duration::from_secs(60);

/// `naka ARGS` where an Envoy is found.
fn command(mesh: &Mesh, args: &[&str]) -> Command {
    let mut command = mesh.command(args);
    command.env("NAKA_ENVOY", venv("envoy"));
    command
}

pub(crate) fn run(mesh: &Mesh, name: &str, options: &[&str], program: &[&str]) -> Program {
    let args: Vec<&str> = ["run"]
        .iter()
        .chain(options)
        .chain(&["--"])
        .chain(program)
        .copied()
        .collect();
    Program::start(name, mesh.home(), &mut command(mesh, &args)).expect("start naka run")
}

/// A server beside an Envoy.
pub(crate) fn serve(mesh: &Mesh, service: &str, version: &str) -> Program {
    let port = free_port().to_string();
    let name = format!("{service}-{version}");
    let (prog, log) = (testprog(), mesh.log(&name));
    let label = format!("version={version}");
    let options = ["--proxy", "envoy", "-s", service, "-p", &port, "-l", &label];
    let server = [
        prog.to_str().expect("printable"),
        "serve",
        "--port",
        &port,
        "--name",
        service,
        "--version",
        version,
        "--log",
        log.to_str().expect("printable"),
    ];
    let program = run(mesh, &name, &options, &server);
    wait::until(
        format_args!("a healthy {name} beside an Envoy: {}", program.said()),
        ENVOY_SOON,
        || {
            let all = mesh.workloads();
            let is_it = |w: &&Value| w["service"] == service && w["labels"]["version"] == version;
            all.iter()
                .find(is_it)
                .is_some_and(|w| w["state"] == "healthy")
                .then_some(())
        },
    );
    program
}

/// A load from `order`, through an Envoy or through Naka, joined with what servers logged.
fn load(mesh: &Mesh, name: &str, proxy: &str, arguments: &[&str], servers: &[&str]) -> Joined {
    let (prog, log) = (testprog(), mesh.log(name));
    let mut program = vec![
        prog.to_str().expect("printable"),
        "load",
        "--log",
        log.to_str().expect("printable"),
    ];
    program.extend_from_slice(arguments);
    let mut load = run(mesh, name, &["--proxy", proxy, "-s", "order"], &program);
    finish(&mut load);
    let logs: Vec<_> = servers.iter().map(|server| mesh.logged(server)).collect();
    Joined::of(&mesh.logged(name), &logs, ORDER)
}

/// Run directory of the only instance whose name starts like this.
pub(crate) fn run_dir(mesh: &Mesh, stem: &str) -> PathBuf {
    let runs = std::fs::read_dir(mesh.home().join("run")).expect("the run directories");
    let found = runs
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.contains(stem))
        });
    found.unwrap_or_else(|| panic!("no run directory of {stem}"))
}

/// A page of an Envoy's admin socket.
fn page(dir: &std::path::Path, path: &str) -> String {
    let Ok(mut stream) = UnixStream::connect(dir.join("envoy.sock")) else {
        return String::new();
    };
    let request = format!("GET {path} HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("write");
    let mut answer = String::new();
    // One that dies while it answers has answered nothing.
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// Sum of the counters whose names match.
pub(crate) fn counter(dir: &std::path::Path, filter: &str) -> u64 {
    let text = page(dir, &format!("/stats?filter={filter}"));
    let values = text
        .lines()
        .filter_map(|line| line.rsplit_once(": ")?.1.trim().parse::<u64>().ok());
    values.sum()
}

/// Nothing the Envoy was sent was refused; and something was taken.
#[track_caller]
fn took_everything(dir: &std::path::Path) {
    let rejected = counter(dir, "(update_rejected|update_failure|init_fetch_timeout)$");
    let log = std::fs::read_to_string(dir.join("envoy.log")).unwrap_or_default();
    assert_eq!(
        rejected,
        0,
        "{}\n{log}",
        page(dir, "/stats?filter=update_rejected")
    );
    assert!(
        counter(dir, "cluster_manager.cds.update_success$") > 0,
        "{log}"
    );
}

/// The descendant of `naka run` whose command line has this word.
fn descendant(run: &Program, word: &str) -> Option<u32> {
    let mut queue = vec![run.pid()];
    while let Some(pid) = queue.pop() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = || line.split(|byte| *byte == 0);
        if words().any(|found| found == word.as_bytes()) {
            return Some(pid);
        }
        queue.extend(children(pid));
    }
    None
}

pub(crate) fn envoy_of(run: &Program) -> Option<u32> {
    descendant(run, "--disable-hot-restart")
}

pub(crate) fn kill(pid: u32) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .expect("a pid");
    rustix::process::kill_process(pid, Signal::KILL).expect("kill it");
}

pub(crate) fn inbound(mesh: &Mesh, service: &str) -> SocketAddr {
    let all = mesh.workloads();
    let served = all.iter().find(|w| w["service"] == service);
    let address = served.expect("a workload")["ports"][0]["inbound_address"].clone();
    let address = address.as_str().expect("an address").parse();
    address.expect("an address")
}

/// What a plain caller that claims a lot gets at an address: its status line, or nothing.
fn plaintext(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    let asked = stream.write_all(
        b"GET / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\nx-naka-keep: 1\r\nx-envoy-retry-on: 5xx\r\nx-forwarded-client-cert: URI=spiffe://a/ns/b/sa/c\r\n\r\n",
    );
    let mut answer = String::new();
    if asked.is_ok() {
        let _ = stream.read_to_string(&mut answer);
    }
    answer.lines().next().unwrap_or_default().to_owned()
}

/// Naka calls Envoy and Envoy calls Naka over mTLS, with weights in force either way; the called programs see who
/// called. STRICT refuses plaintext at the Envoy; the twin: PERMISSIVE lets it in, without an identity.
#[test]
fn naka_and_envoy_call_each_other() {
    let (calls, band) = size().pick(("1000", 3.5), ("10000", 1.0));
    let mesh = Mesh::up();
    let _v1 = mesh.serve("payment", "v1");
    let v2 = serve(&mesh, "payment", "v2");
    mesh.apply("canary.yaml", &split(90, 10));
    let arguments = [
        "--url",
        "http://payment/",
        "--rate",
        "500",
        "--connections",
        "4",
        "--count",
        calls,
    ];
    for proxy in ["naka", "envoy"] {
        let got = load(
            &mesh,
            &format!("from-{proxy}"),
            proxy,
            &arguments,
            &["payment-v1", "payment-v2"],
        );
        got.assert_clean();
        let share = got.share("v2");
        println!(
            "from {proxy}: weight 10, observed {share:.2} % over {} calls, {} verified by their receivers",
            got.served, got.verified
        );
        assert!((share - 10.0).abs() <= band, "{:?}", got.versions);
        assert_eq!(got.verified, got.served, "from {proxy}");
    }
    mesh.ok(["split", "payment", "v1=100", "v2=0"]);
    let dir = run_dir(&mesh, "payment-v2");
    took_everything(&dir);
    let all = mesh.workloads();
    let at_v2 = all.iter().find(|w| w["labels"]["version"] == "v2");
    let address = at_v2.expect("v2")["ports"][0]["inbound_address"].clone();
    let address = address
        .as_str()
        .expect("an address")
        .parse()
        .expect("an address");
    assert_eq!(plaintext(address), "", "STRICT");
    mesh.apply(
        "permissive.yaml",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: open, namespace: default}\nspec: {mtls: {mode: PERMISSIVE}}\n",
    );
    let seen = mesh.logged("payment-v2").len();
    wait::until("a plain call gets in", SOON, || {
        plaintext(address).contains("200").then_some(())
    });
    let line = mesh.logged("payment-v2")[seen].clone();
    let headers = line["headers"].to_string();
    assert!(headers.contains("host") && line["peer"] == "", "{line}");
    for claim in ["x-naka-keep", "x-envoy-retry-on", "spiffe://a"] {
        assert!(!headers.contains(claim), "{claim} got through: {headers}");
    }
    drop(v2);
}

/// What an Envoy cannot do stands in status, and how the program's calls get to it.
#[test]
fn status_says_what_an_envoy_cannot_do() {
    let mesh = Mesh::up();
    let _envoy = serve(&mesh, "payment", "v1");
    let _naka = mesh.serve("order", "v1");
    let of = |service: &str| {
        let text = mesh.ok(["get", "proxies", "-A", "-o", "json"]);
        let list: Value = serde_json::from_str(&text).expect("JSON");
        let all = list["items"].as_array().expect("a list").clone();
        let found = all.into_iter().find(|proxy| proxy["service"] == service);
        found.expect("a proxy")
    };
    let (envoy, naka) = wait::until("an Envoy that has everything", SOON, || {
        let envoy = of("payment");
        (envoy["state"] == "programmed").then(|| (envoy, of("order")))
    });
    assert_eq!(
        (&envoy["dialect"], &envoy["capture"]),
        (&"envoy".into(), &"envoy".into())
    );
    let words = envoy["not_expressed"].to_string();
    assert!(
        words.contains("capture:") && words.contains("callers:"),
        "{words}"
    );
    assert_eq!(naka["not_expressed"], serde_json::json!([]));
    // What it saw is told as of any other proxy.
    let mut call = run(&mesh, "call", &[], &["curl", "-s", "http://payment/"]);
    finish(&mut call);
    wait::until("the call is seen", SOON, || {
        let all = mesh.workloads();
        let payment = all.iter().find(|w| w["service"] == "payment")?;
        (payment["seen"]["http"].as_u64() >= Some(1)).then_some(())
    });
}

/// What an Envoy or a gRPC program cannot do is refused before anything is started, with what to write instead. The
/// twin: everything else in this file starts.
#[test]
fn a_stock_proxy_is_refused_what_it_cannot_do() {
    let mesh = Mesh::up();
    for (options, code, words) in [
        (
            &["--proxy", "envoy", "--capture", "namespace"][..],
            64,
            "leave --capture out",
        ),
        (
            &["--proxy", "envoy", "-s", "a", "--publish", "8080"],
            64,
            "a gateway",
        ),
        (&["--proxy", "grpc", "-s", "order"], 64, "--service-account"),
        (&["--proxy", "envoy"], 2, "NAKA_ENVOY names /nowhere"),
    ] {
        let args: Vec<&str> = ["run"]
            .iter()
            .chain(options)
            .chain(&["--", "true"])
            .copied()
            .collect();
        let mut command = mesh.command(args);
        let output = command
            .env("NAKA_ENVOY", "/nowhere")
            .output()
            .expect("naka starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{options:?}: {said}");
        assert!(said.contains(words), "{options:?}: {said}");
    }
}

/// A workload beside an Envoy that is told to end drains first: POST requests of 50 ms, which may not be sent twice,
/// all end well. The twin: killed it loses some.
#[test]
fn an_envoy_drains_before_it_goes() {
    let mesh = Mesh::up();
    let (_stays, mut goes) = (mesh.serve("payment", "v1"), serve(&mesh, "payment", "v2"));
    let arguments = [
        "--url",
        "http://payment/slow/50",
        "--method",
        "POST",
        "--rate",
        "150",
        "--connections",
        "16",
        "--for",
        "600",
    ];
    let mut load = mesh.load("load", &["-s", "order"], &arguments);
    let served = |more: usize| {
        let seen = mesh.logged("payment-v2").len();
        wait::until("calls at the Envoy", SOON, || {
            (mesh.logged("payment-v2").len() > seen + more).then_some(())
        });
    };
    served(50);
    goes.signal(Signal::TERM);
    let ended = goes.wait(ENVOY_SOON).expect("a drained workload ends");
    assert!(!ended.success(), "the program ends by the signal");
    let failed = || {
        let log = mesh.logged("load");
        log.into_iter()
            .filter(|l| l["status"] != 200)
            .collect::<Vec<_>>()
    };
    assert!(failed().is_empty(), "{:?}", failed());
    let again = serve(&mesh, "payment", "v2");
    served(50);
    kill_group(&again);
    wait::until("calls that failed", ENVOY_SOON, || {
        (!failed().is_empty()).then_some(())
    });
    load.signal(Signal::TERM);
    let _ = load.wait(SOON);
}

/// Sends requests until told to stop and tells how it goes.
fn client(mesh: &Mesh, url: &str) -> Program {
    mesh.load(
        "client",
        &["-s", "shop"],
        &["--url", url, "--rate", "20", "--for", "600"],
    )
}

#[track_caller]
fn served_again(mesh: &Mesh, what: &str) {
    let seen = mesh.logged("client").len();
    wait::until(what, ENVOY_SOON, || {
        let log = mesh.logged("client");
        (log.len() > seen + 10 && log.iter().rev().take(5).all(|l| l["status"] == 200))
            .then_some(())
    });
}

/// With the control plane dead, a killed Envoy comes back with its whole configuration, and so do a killed agent and
/// its Envoy together. The twin: without the saved copy they do not.
#[test]
fn an_envoy_restarts_without_the_control_plane() {
    let mut mesh = Mesh::up();
    let payment = serve(&mesh, "payment", "v1");
    let mut client = client(&mesh, "http://payment/");
    served_again(&mesh, "first answers");
    let dir = run_dir(&mesh, "payment-v1");
    wait::until("a saved copy", SOON, || {
        dir.join("last-good").exists().then_some(())
    });
    mesh.kill_control();
    let first = envoy_of(&payment).expect("an Envoy");
    kill(first);
    wait::until("another Envoy", SOON, || {
        envoy_of(&payment).filter(|new| *new != first)
    });
    served_again(&mesh, "the restarted Envoy serves");
    took_everything(&dir);

    let agent = descendant(&payment, "agent").expect("an agent");
    kill(agent);
    wait::until("another agent", SOON, || {
        descendant(&payment, "agent").filter(|new| *new != agent)
    });
    served_again(&mesh, "agent and Envoy serve");
    assert!(counter(&dir, "listener_manager.lds.update_success$") > 0);

    std::fs::remove_file(dir.join("last-good")).expect("the copy");
    let agent = descendant(&payment, "agent").expect("an agent");
    kill(agent);
    wait::until("another agent", SOON, || {
        descendant(&payment, "agent").filter(|new| *new != agent)
    });
    wait::until("calls that fail", SOON, || {
        let log = mesh.logged("client");
        log.iter()
            .rev()
            .take(5)
            .all(|l| l["status"] != 200)
            .then_some(())
    });
    assert_eq!(
        envoy_of(&payment),
        None,
        "there is nothing to start one with"
    );
    mesh.start_control();
    served_again(&mesh, "with the control plane everything is back");
    client.signal(Signal::TERM);
    let _ = client.wait(SOON);
}

/// Serial number of the certificate that somebody shows.
fn serial(address: SocketAddr) -> String {
    let output = Command::new("sh")
        .args([
            "-c",
            &format!("openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -noout -serial"),
        ])
        .output()
        .expect("openssl");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A renewed certificate reaches the Envoy: callers see another one, and no call fails meanwhile. The twin: while the
/// certificate is young it is the same.
#[test]
fn a_renewed_certificate_reaches_an_envoy() {
    let mesh = Mesh::up_with(&["--leaf-ttl", "20s"]);
    let _payment = serve(&mesh, "payment", "v1");
    let mut client = client(&mesh, "http://payment/");
    served_again(&mesh, "first answers");
    let address = inbound(&mesh, "payment");
    let first = serial(address);
    assert!(first.starts_with("serial="), "{first:?}");
    assert_eq!(serial(address), first);
    let seen = mesh.logged("client").len();
    wait::until("another certificate on the wire", ENVOY_SOON, || {
        let now = serial(address);
        (now.starts_with("serial=") && now != first).then_some(())
    });
    served_again(&mesh, "calls with the new certificate");
    client.signal(Signal::TERM);
    let _ = client.wait(SOON);
    let log = mesh.logged("client");
    let failed: Vec<&Value> = log[seen..].iter().filter(|l| l["status"] != 200).collect();
    assert!(failed.is_empty(), "{failed:?}");
    took_everything(&run_dir(&mesh, "payment-v1"));
}

/// An Envoy at the edge serves what Gateway objects say: hosts of theirs, and nobody else's.
#[test]
fn an_envoy_is_a_gateway() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let port = free_port();
    let bind = format!("80=127.0.0.1:{port}");
    let args = ["proxy", "gateway", "--proxy", "envoy", "-p", &bind];
    let mut gateway =
        Program::start("gateway", mesh.home(), &mut command(&mesh, &args)).expect("start it");
    mesh.apply(
        "gateway.yaml",
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: istio-system}\nspec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example.com]}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: shop}\nspec: {hosts: [shop.example.com], gateways: [istio-system/edge], http: [{route: [{destination: {host: payment}}]}]}\n",
    );
    let get = |host: &str| -> Output {
        Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H"])
            .arg(format!("host: {host}"))
            .arg(format!("http://127.0.0.1:{port}/"))
            .output()
            .expect("curl")
    };
    let code = |host: &str| String::from_utf8_lossy(&get(host).stdout).into_owned();
    wait::until(
        format_args!("the edge serves: {}", gateway.said()),
        ENVOY_SOON,
        || (code("shop.example.com") == "200").then_some(()),
    );
    let seen = mesh.logged("payment-v1");
    let edge = "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway";
    assert_eq!(seen.last().expect("a call")["peer"], edge);
    assert_eq!(code("other.example.com"), "404");
    took_everything(&run_dir(&mesh, "istio-ingressgateway"));
    gateway.signal(Signal::TERM);
    let ended = gateway
        .wait(ENVOY_SOON)
        .expect("a gateway that drains ends");
    assert!(ended.success(), "{}", gateway.err());
    assert_ne!(code("shop.example.com"), "200");
}

/// Beside the demo, an Envoy takes everything that its objects and services come to.
#[test]
fn an_envoy_takes_all_of_the_demo() {
    let mesh = Mesh::up();
    let mut demo = Program::start(
        "demo",
        mesh.home(),
        &mut mesh.command(["demo", "--for", "600s", "--rate", "50"]),
    )
    .expect("start the demo");
    wait::until("the demo's canary", ENVOY_SOON, || {
        assert!(demo.alive(), "{}", demo.err());
        let listed = mesh.naka(["--context", "demo", "get", "virtualservices", "-A"]);
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        text.contains("payment").then_some(())
    });
    let (prog, log) = (testprog(), mesh.log("beside"));
    let args = [
        "--context",
        "demo",
        "run",
        "--proxy",
        "envoy",
        "--service-account",
        "guest",
        "--",
        prog.to_str().expect("printable"),
        "load",
        "--log",
        log.to_str().expect("printable"),
        "--url",
        "http://payment/",
        "--rate",
        "20",
        "--for",
        "600",
    ];
    let _guest =
        Program::start("beside", mesh.home(), &mut command(&mesh, &args)).expect("a guest");
    let port = format!("80=127.0.0.1:{}", free_port());
    let args = [
        "--context",
        "demo",
        "proxy",
        "gateway",
        "--proxy",
        "envoy",
        "-s",
        "edge",
        "-p",
        &port,
        "-l",
        "istio=ingressgateway",
    ];
    let _edge = Program::start("edge", mesh.home(), &mut command(&mesh, &args)).expect("an edge");
    wait::until("answers through the Envoy", ENVOY_SOON, || {
        let log = mesh.logged("beside");
        (log.iter().filter(|l| l["status"] == 200).count() > 20).then_some(())
    });
    let dirs = ["guest", "edge"].map(|stem| run_dir(&mesh, stem));
    wait::until("the edge has the demo's route", ENVOY_SOON, || {
        let dump = page(&dirs[1], "/config_dump?resource=dynamic_route_configs");
        dump.contains("order.default.svc.cluster.local")
            .then_some(())
    });
    dirs.iter().for_each(|dir| took_everything(dir));
    demo.signal(Signal::INT);
    let _ = demo.wait(ENVOY_SOON);
}

/// Ways to write a path.
const PATHS: [&str; 11] = [
    "/a/./b",
    "/a/../b",
    "//a//b",
    "/%61%2d%7E",
    "/a%2fb",
    "/a%5Cb",
    "/a\\b",
    "/a/%2e%2E/b",
    "/../../c",
    "/a/%252e%252e/b",
    "/a;b=..",
];

/// Whatever way a path is written, a program behind Envoys sees the same normal form as one behind Naka proxies, so a
/// rule about paths means the same everywhere. The twin: what the caller wrote is something else.
#[test]
fn paths_have_one_normal_form() {
    let mesh = Mesh::up();
    let _naka = mesh.serve("plain", "v1");
    let _envoy = serve(&mesh, "stock", "v1");
    let script = |service: &str| {
        let urls = PATHS.map(|path| format!("'http://{service}{path}'"));
        format!(
            "for url in {}; do curl -s -o /dev/null --path-as-is \"$url\"; done",
            urls.join(" ")
        )
    };
    for (proxy, service) in [("naka", "plain"), ("envoy", "stock")] {
        let script = script(service);
        let mut calls = run(&mesh, proxy, &["--proxy", proxy], &["sh", "-c", &script]);
        finish(&mut calls);
    }
    let seen = |name: &str| -> Vec<String> {
        let lines = mesh.logged(name);
        let path = |line: &Value| line["path"].as_str().unwrap_or_default().to_owned();
        lines.iter().map(path).collect()
    };
    let stock: Vec<String> = seen("stock-v1")
        .iter()
        .map(|path| path.replace("%2f", "%2F"))
        .collect();
    assert_eq!(stock, seen("plain-v1"));
    assert_eq!(stock.len(), PATHS.len());
    assert_ne!(stock, PATHS);
    // The one difference is told.
    let told = mesh.ok(["get", "proxies", "-A", "-o", "json"]);
    assert!(told.contains("paths: "), "{told}");
}
