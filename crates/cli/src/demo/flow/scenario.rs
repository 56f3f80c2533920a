//! The mesh of a scenario: programs of its own behind the same ingress.

use super::{Flow, Part, UP_WITHIN, not_ready};
use crate::cmd::apply::{self, Request};
use crate::demo::flow::MESH;
use crate::demo::scenario::Story;
use crate::demo::scenario::stage::{Ask, Caller};
use crate::exit::{Exit, Outcome};
use crate::home::Home;
use naka_api::Object;
use naka_identity::{Bundle, now_s, offline, tls};
use naka_proxy::control_client;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How requests of a scenario get in, and one that reaches nobody, to see that they do.
const SCENARIO_INGRESS_YAML: &str = r#"apiVersion: networking.istio.io/v1
kind: Gateway
metadata:
  name: demo
  namespace: istio-system
spec:
  selector:
    istio: ingressgateway
  servers:
    - port: {number: 80, name: http, protocol: HTTP}
      hosts: ["*"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: a-ready
  namespace: default
spec:
  hosts: ["*"]
  gateways: [istio-system/demo]
  http:
    - match:
        - uri: {exact: /ready}
      directResponse: {status: 200}
"#;

/// A program of a scenario.
#[derive(Debug)]
pub(crate) struct Cast {
    pub(crate) part: Part,
    /// Further labels, `key=value`.
    pub(crate) labels: &'static [&'static str],
    /// Of its answers.
    pub(crate) status: u16,
    /// How long it takes over one.
    pub(crate) delay_ms: u64,
    /// Where it runs; empty: not said.
    pub(crate) region: &'static str,
    /// Its namespace; empty: `default`.
    pub(crate) namespace: &'static str,
}

/// Trust domain of a mesh that says nothing else.
const DOMAIN: &str = "cluster.local";
const YEAR: Duration = Duration::from_hours(365 * 24);

/// Where the root is kept, apart from the mesh.
fn safe(home: &Home) -> PathBuf {
    home.dir().join("demo/safe")
}

/// Makes a root that the mesh never sees the key of, and an intermediate; the options that give it to a control plane.
pub(super) fn prepare_authority(home: &Home) -> Outcome<[String; 2]> {
    let (safe, own) = (safe(home), home.dir().join("demo/ca"));
    let made = || {
        offline::create_root(&safe, DOMAIN, YEAR * 10, now_s())?;
        let request = offline::request(&own, DOMAIN)?;
        offline::sign(&safe, &request, YEAR, now_s())
    };
    let signed = made().map_err(|error| Exit::failed(error.to_string()))?;
    std::fs::write(own.join("ca-cert.pem"), signed)?;
    std::fs::copy(safe.join(offline::ROOT_CERT), own.join(offline::ROOT_CERT))?;
    Ok(["--ca".to_owned(), own.display().to_string()])
}

impl Flow {
    /// What `naka ca intermediate request`, `sign` and `install` do, for a life that is no number of days.
    pub(crate) async fn sign_again(&self, life: Duration) -> Outcome {
        let mut client = self.client().await?;
        let asked = client
            .post("/naka/v1/authority/request", &json!({}))
            .await?;
        let request = apply::text(&asked, "csr_pem");
        let signed = offline::sign(&safe(&self.home), &request, life, now_s())
            .map_err(|error| Exit::failed(error.to_string()))?;
        let wanted = json!({"chain_pem": signed});
        client.post("/naka/v1/authority/install", &wanted).await?;
        Ok(())
    }

    /// A connection to the control plane's port for proxies, as one that knows the root and nothing else.
    pub(crate) async fn handshake(&self) -> Outcome {
        let failed = |error: naka_identity::Error| Exit::failed(error.to_string());
        let root = std::fs::read_to_string(safe(&self.home).join(offline::ROOT_CERT))?;
        let bundle = Bundle::from_pem(DOMAIN, &root).map_err(failed)?;
        let config = tls::control_client_tls(None, &bundle, &[b"h2"]).map_err(failed)?;
        let ports = std::fs::read_to_string(self.home.mesh(MESH).join("ports.json"))?;
        let ports: Value = serde_json::from_str(&ports).unwrap_or_default();
        let address = format!("127.0.0.1:{}", ports["xds"]);
        match control_client::dial(&address, config).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Exit::failed(error.to_string())),
        }
    }

    /// Starts the mesh of a scenario: its programs with their status and delay, its objects, the ingress.
    pub(crate) async fn start_scenario(
        home: Home,
        parts: Vec<Cast>,
        story: &Story,
        objects: &[Object],
    ) -> Outcome<Self> {
        let mut flow = Self::empty(home, story.root_elsewhere).await?;
        match flow.assemble_scenario(parts, story.region, objects).await {
            Ok(()) => Ok(flow),
            Err(error) => {
                flow.end().await;
                Err(error)
            }
        }
    }

    async fn assemble_scenario(
        &mut self,
        parts: Vec<Cast>,
        region: &str,
        objects: &[Object],
    ) -> Outcome {
        self.enter().await?;
        for one in parts {
            let behaviour = [
                "--status".to_owned(),
                one.status.to_string(),
                "--delay-ms".to_owned(),
                one.delay_ms.to_string(),
            ];
            let place = (!one.region.is_empty()).then(|| format!("--locality={}", one.region));
            let namespace =
                (!one.namespace.is_empty()).then(|| format!("--namespace={}", one.namespace));
            let labels = one.labels.iter().map(|label| format!("--label={label}"));
            let options = place.into_iter().chain(namespace).chain(labels);
            let options: Vec<String> = options.collect();
            let run = self.spawn_as(one.part, &options, &behaviour)?;
            self.runs.push(run);
        }
        self.start_gateway(region).await?;
        self.wait_registered().await?;
        std::fs::write(self.file("ingress.yaml"), SCENARIO_INGRESS_YAML)?;
        self.apply("ingress.yaml").await?;
        let mut client = self.client().await?;
        let request = Request {
            cause: "naka demo".to_owned(),
            ..Request::default()
        };
        let applied = apply::send(&mut client, objects, Vec::new(), &request).await?;
        if let Some(error) = applied.findings.iter().find(|finding| finding.is_error()) {
            return Err(Exit::failed(error.to_string()));
        }
        apply::wait(&mut client, applied.revision, UP_WITHIN, true).await
    }

    /// Runs a workload that asks and ends; what it printed.
    pub(crate) async fn run_caller(&self, who: Caller, asks: &[Ask]) -> Outcome<String> {
        let name = format!(
            "{}-{}-{}",
            who.namespace,
            who.account,
            who.label.replace('=', "-")
        );
        let file = self.file(&format!("{name}.json"));
        std::fs::write(&file, json!(asks).to_string())?;
        let exe = std::env::current_exe()?;
        let mut command = Command::new(&exe);
        command.args([
            "--context",
            MESH,
            "run",
            "--with-parent",
            "-n",
            who.namespace,
        ]);
        command.args(["--service-account", who.account]);
        if !who.label.is_empty() {
            command.args(["-l", who.label]);
        }
        command
            .arg("--")
            .arg(&exe)
            .args(["demo-program", "--name", &name, "--log-dir"])
            .arg(self.logs())
            .arg("--ask")
            .arg(&file)
            .env("NAKA_HOME", self.home.dir())
            .stdin(Stdio::null());
        let ended = tokio::task::spawn_blocking(move || command.output()).await;
        let output = ended.map_err(|error| Exit::failed(error.to_string()))??;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Exit::failed(format!("{name}: {}", said.trim())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Until every program is registered as ready.
    async fn wait_registered(&mut self) -> Outcome {
        let deadline = Instant::now() + UP_WITHIN;
        let parts: Vec<Part> = self.runs.iter().map(|run| run.part).collect();
        loop {
            let workloads = self.client().await?.get("/naka/v1/workloads").await?;
            let missing = not_ready(&parts, &workloads);
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let missing = missing.join(", ");
                return Err(Exit::failed(format!("not ready after 60 s: {missing}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
