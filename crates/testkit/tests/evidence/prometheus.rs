//! A real Prometheus (Debian's) finds and scrapes a mesh, and `promtool` reads what it scrapes.
//!
//! Prometheus is told of the control plane alone; the proxies it finds by the control plane's `/targets`. What it then
//! knows is asked of it in its own language, with the names that rules of today use.

use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// `GET`; the body of the answer.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text.split_once("\r\n\r\n")?.1.to_owned())
}

fn encoded(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

fn metrics_port(mesh: &Mesh) -> String {
    let ports = std::fs::read(mesh.home().join("mesh/local/ports.json")).expect("ports");
    let ports: Value = serde_json::from_slice(&ports).expect("JSON");
    format!("127.0.0.1:{}", ports["metrics"])
}

struct Prometheus {
    address: String,
    _program: Program,
}

impl Prometheus {
    fn of(mesh: &Mesh) -> Self {
        let (control, address) = (metrics_port(mesh), format!("127.0.0.1:{}", free_port()));
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs:\n\
             - job_name: istio-system\n  static_configs: [{{targets: [\"{control}\"]}}]\n\
             - job_name: istio-mesh\n  http_sd_configs: [{{url: \"http://{control}/targets\", refresh_interval: 1s}}]\n"
        );
        let config = mesh.file("prometheus.yaml", &config);
        let option = |name: &str, value: &str| format!("--{name}={value}");
        let data = mesh.home().join("prometheus");
        let mut command = Command::new("prometheus");
        command.args([
            option("config.file", &config.to_string_lossy()),
            option("storage.tsdb.path", &data.to_string_lossy()),
            option("web.listen-address", &address),
            option("enable-feature", "exemplar-storage"),
        ]);
        let started = Program::start("prometheus", mesh.home(), &mut command);
        Self {
            address,
            _program: started.expect("prometheus is missing: run `make setup`"),
        }
    }

    /// The value of an expression that is one number now.
    fn ask(&self, expression: &str) -> Option<f64> {
        let encoded = encoded(expression);
        let body = get(&self.address, &format!("/api/v1/query?query={encoded}"))?;
        let told: Value = serde_json::from_str(&body).ok()?;
        let [only] = told["data"]["result"].as_array()?.as_slice() else {
            return None;
        };
        only["value"][1].as_str()?.parse().ok()
    }

    /// The trace of an exemplar of a series.
    fn exemplar(&self, series: &str) -> Option<String> {
        let encoded = encoded(series);
        let path = format!("/api/v1/query_exemplars?query={encoded}&start=0&end=9999999999");
        let told: Value = serde_json::from_str(&get(&self.address, &path)?).ok()?;
        let trace = &told["data"][0]["exemplars"][0]["labels"]["trace_id"];
        trace.as_str().map(str::to_owned)
    }

    /// Waits until an expression is true of exactly one series, and gives its value.
    fn wait(&self, expression: &str) -> f64 {
        until(expression, SOON, || self.ask(expression))
    }
}

/// What `promtool check metrics` has to say.
fn promtool(text: &str) -> Vec<String> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing: run `make setup`");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(text.as_bytes()).expect("its input");
    drop(stdin);
    let said = child.wait_with_output().expect("its end");
    let lines = [said.stdout, said.stderr].concat();
    let lines = String::from_utf8(lines).expect("text");
    lines.lines().map(str::to_owned).collect()
}

const BREAKER: &str = "apiVersion: naka.dev/v1alpha1\nkind: BackendPolicy\nmetadata: {name: payment}\nspec:\n  targetRefs: [{kind: Service, name: payment}]\n  breaker: {consecutiveFailures: 3, openFor: 300s, trials: 1}\n";
/// The destination as its caller sees it.
const TO_PAYMENT: &str =
    "service=\"order\",cluster=\"outbound|80||payment.default.svc.cluster.local\"";

/// Everything that runs is found and up, requests and certificates are there under the names that rules use, and what
/// is killed is seen: its target goes, the caller's breaker opens, errors count.
#[test]
fn a_real_prometheus_scrapes_everything() {
    let mesh = Mesh::up();
    mesh.apply("breaker.yaml", BREAKER);
    let payment = mesh.serve("payment", "v1");
    let _load = mesh.load(
        "order",
        &["-s", "order"],
        &["--url", "http://payment/", "--rate", "20", "--for", "600"],
    );
    let prometheus = Prometheus::of(&mesh);
    prometheus.wait("up{job=\"istio-system\"} == 1");
    prometheus.wait("count(up{job=\"istio-mesh\"} == 1) == 2");
    prometheus.wait("up{job=\"istio-mesh\",service=\"payment\",namespace=\"default\"} == 1");
    let names = "source_service_name=\"order\",destination_service_name=\"payment\"";
    for reporter in ["source", "destination"] {
        let labels = format!("response_code=\"200\",reporter=\"{reporter}\",{names}");
        prometheus.wait(&format!("istio_requests_total{{{labels}}} > 20"));
        let bucket = format!("istio_request_duration_milliseconds_bucket{{{labels}}}[10s]");
        let p99 = format!("histogram_quantile(0.99, sum by (le) (rate({bucket})))");
        assert!(prometheus.wait(&format!("{p99} > 0")) < 60_000.0);
    }
    // The rule of the mission: less than so many days are left. Leaves live for a day.
    let left =
        "(certificate_expiry_timestamp{job=\"istio-mesh\",service=\"payment\"} - time()) / 86400";
    let days = prometheus.wait(left);
    assert!(days > 0.0 && days <= 1.1, "{days} days");
    assert!(prometheus.ask(&format!("{left} > 2")).is_none(), "the twin");
    prometheus.wait("naka_process_resident_bytes{service=\"payment\"} > 1000000");
    prometheus.wait("naka_process_cpu_seconds_total{service=\"payment\"} >= 0");
    prometheus.wait(&format!("naka_cluster_connections{{{TO_PAYMENT}}} >= 1"));
    prometheus.wait(&format!(
        "naka_cluster_endpoints{{{TO_PAYMENT},state=\"healthy\"}} == 1"
    ));
    let state = |state: &str| format!("naka_breaker_state{{{TO_PAYMENT},state=\"{state}\"}} == 1");
    prometheus.wait(&state("closed"));
    assert!(prometheus.ask(&state("open")).is_none());

    let targets = get(&metrics_port(&mesh), "/targets").expect("targets");
    let targets: Value = serde_json::from_str(&targets).expect("JSON");
    let mut expositions = vec![metrics_port(&mesh)];
    for group in targets.as_array().expect("groups") {
        expositions.push(group["targets"][0].as_str().expect("an address").to_owned());
    }
    assert_eq!(expositions.len(), 3);
    for address in expositions {
        let text = get(&address, "/metrics").expect("metrics");
        let mut said = promtool(&text);
        // Istio's name, and no other unit would be found under it.
        said.retain(|line| !line.starts_with("istio_request_duration_milliseconds use base unit"));
        assert_eq!(said, Vec::<String>::new());
    }
    let bad = "# TYPE naka_x_count counter\nnaka_x_count 1\n";
    assert!(promtool(bad).len() >= 2, "the twin: {:?}", promtool(bad));

    let sidecar = mesh.sidecar_of(&payment).expect("a sidecar");
    for pid in [payment.pid(), sidecar] {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), Signal::KILL).expect("signal");
    }
    prometheus.wait(&state("open"));
    prometheus.wait("count(up{job=\"istio-mesh\"} == 1) == 1");
    let failed = format!(
        "sum(istio_requests_total{{reporter=\"source\",response_code=\"503\",{names}}}) > 0"
    );
    prometheus.wait(&failed);
    // An error's trace is kept: the histogram names one, and the mesh can show it.
    let bucket =
        format!("istio_request_duration_milliseconds_bucket{{response_code=\"503\",{names}}}");
    let trace = until("an exemplar", SOON, || prometheus.exemplar(&bucket));
    until("its trace", SOON, || {
        let told = mesh.naka(["trace", &trace]);
        String::from_utf8_lossy(&told.stdout)
            .contains("payment")
            .then_some(())
    });
}
