//! The mesh of a scenario: programs of its own behind the same ingress.

use super::{Flow, Part, UP_WITHIN, not_ready};
use crate::cmd::apply::{self, Request};
use crate::exit::{Exit, Outcome};
use crate::home::Home;
use naka_api::Object;
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
    /// Of its answers.
    pub(crate) status: u16,
    /// How long it takes over one.
    pub(crate) delay_ms: u64,
    /// Where it runs; empty: not said.
    pub(crate) region: &'static str,
}

impl Flow {
    /// Starts the mesh of a scenario: its programs with their status and delay, its objects, the ingress.
    pub(crate) async fn start_scenario(
        home: Home,
        parts: Vec<Cast>,
        region: &str,
        objects: &[Object],
    ) -> Outcome<Self> {
        let mut flow = Self::empty(home).await?;
        match flow.assemble_scenario(parts, region, objects).await {
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
            let options: Vec<String> = place.into_iter().collect();
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
