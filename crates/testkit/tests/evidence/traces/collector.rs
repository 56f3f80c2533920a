//! Where spans go: a real OpenTelemetry Collector, by gRPC and by HTTP, and a place that takes connections and never
//! answers.

use super::programs::{Failing, Ground};
use crate::newcomer::venv;
use naka_testkit::mesh::SOON;
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use serde_json::Value;
use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use tempfile::TempDir;

/// A collector for each way to speak to one.
pub(super) struct Collectors {
    ports: [u16; 3],
    real: Vec<Program>,
    dir: TempDir,
    _silent: TcpListener,
}

impl Collectors {
    pub(super) fn new() -> Self {
        // Takes connections, and nobody reads of them.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut collectors = Self {
            ports: [
                free_port(),
                free_port(),
                silent.local_addr().expect("bound").port(),
            ],
            real: Vec::new(),
            dir: tempfile::tempdir().expect("a directory"),
            _silent: silent,
        };
        collectors.start("grpc", 0);
        collectors.start("http", 1);
        collectors
    }

    fn start(&mut self, protocol: &str, which: usize) {
        let port = self.ports[which];
        let config = format!(
            "{{receivers: {{otlp: {{protocols: {{{protocol}: {{endpoint: '127.0.0.1:{port}'}}}}}}}}, \
             exporters: {{debug: {{verbosity: detailed}}}}, \
             service: {{telemetry: {{metrics: {{level: none}}}}, \
             pipelines: {{traces: {{receivers: [otlp], exporters: [debug]}}}}}}}}"
        );
        let file = self.dir.path().join(format!("{protocol}.yaml"));
        std::fs::write(&file, config).expect("a file");
        let mut command = Command::new(venv("collector-go"));
        command
            .arg("--config")
            .arg(format!("file:{}", file.display()));
        let program = Program::start(protocol, self.dir.path(), &mut command);
        let program = program.expect("the collector");
        until(
            format_args!("the collector listens: {}", program.said()),
            SOON,
            || TcpStream::connect(("127.0.0.1", port)).ok(),
        );
        self.real.push(program);
    }

    /// What the control plane is told.
    pub(super) fn options(&self) -> Vec<&'static str> {
        let [grpc, http, silent] = self.ports;
        let urls = [
            format!("grpc://127.0.0.1:{grpc}"),
            format!("http://127.0.0.1:{http}/v1/traces"),
            format!("http://127.0.0.1:{silent}/v1/traces"),
        ];
        let each = urls
            .into_iter()
            .flat_map(|url| ["--traces-to", &*url.leak()]);
        each.collect()
    }

    /// Both have each span of each failing trace, once.
    pub(super) fn have(&self, ground: &Ground, failing: &[Failing]) {
        for collector in &self.real {
            let whole = || {
                let said = collector.err();
                let spans = spans(&said);
                failing
                    .iter()
                    .all(|one| spans.get(&one.trace) == Some(&(2 * one.served)))
                    .then_some(said)
            };
            let said = until("every span of every trace that failed", SOON, whole);
            for word in [
                "service.name: Str(ledger)",
                "service.version: Str(v1)",
                "http.request.method: Str(POST)",
                "http.response.status_code: Int(500)",
                "http.status_code: Int(500)",
                "component: Str(proxy)",
                "error.type: Str(500)",
                "upstream_cluster: Str(outbound|80||ledger.default.svc.cluster.local)",
                "Status code    : Error",
                "Kind           : Client",
                "Kind           : Server",
            ] {
                assert!(said.contains(word), "{word}");
            }
        }
        let held = super::held(ground);
        assert!(failing.iter().all(|one| held.contains_key(&one.trace)));
    }

    /// A collector that does not answer holds up nobody; what it has no room for is counted.
    pub(super) fn stall(&mut self, ground: &Ground) {
        let dropped = |ground: &Ground| number(ground, "naka_spans_dropped_total");
        let before = dropped(ground);
        let sent = number(ground, "naka_spans_exported_total");
        assert!(sent > 0);
        // Traces that their caller wants: 12 spans each, more than what may wait.
        let sampled = "00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203331-01";
        let calls = 500;
        let right = (0..calls).filter(|at| {
            let parent = sampled.replace("0af7", &format!("{:04x}", 0x1000 + at));
            ground.call("/pass/sampled", &[("traceparent", &parent)]) == 200
        });
        assert_eq!(right.count(), calls, "no call waits");
        until("what had no room is counted", SOON, || {
            (dropped(ground) > before).then_some(())
        });
        // The others go on.
        until("collectors that answer get on", SOON, || {
            (number(ground, "naka_spans_exported_total") > sent).then_some(())
        });
    }
}

/// How many spans of each trace were printed.
fn spans(said: &str) -> HashMap<String, u64> {
    let mut spans = HashMap::new();
    for line in said.lines() {
        if let Some((_, id)) = line.split_once("Trace ID       : ") {
            *spans.entry(id.trim().to_owned()).or_default() += 1;
        }
    }
    spans
}

/// A number of the control plane's metrics.
fn number(ground: &Ground, name: &str) -> u64 {
    let dir = ground.mesh.home().join("mesh/local/ports.json");
    let ports: Value = serde_json::from_slice(&std::fs::read(dir).expect("ports")).expect("JSON");
    let url = format!("http://127.0.0.1:{}/metrics", ports["metrics"]);
    let output = Command::new("curl")
        .args(["-s", &url])
        .output()
        .expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or(0)
}
