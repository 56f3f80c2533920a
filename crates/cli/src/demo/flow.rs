//! The demo's mesh: eight programs with a sidecar each, an ingress gateway, a control plane; all processes of their own.
//!
//! ```text
//! load ─ ingress ─ order ─┬ restaurant
//!                         ├ payment v1 / v2 ─ bank
//!                         ├ delivery
//!                         ├ notification
//!                         └ inventory
//! ```
//! Every program is started by `naka run`, as a user would start it. Everything lives in `mesh/demo`, `run/demo.*` and
//! `demo/` of `$NAKA_HOME` and goes when the demo ends.

mod scenario;

pub(crate) use scenario::Cast;

use crate::client::Client;
use crate::cmd::apply::{self, Request, text};
use crate::cmd::history::items;
use crate::cmd::up;
use crate::contexts::{Context, Contexts};
use crate::demo::program::CARD;
use crate::demo::tour;
use crate::demo::wire::Relay;
use crate::exit::{Exit, Outcome};
use crate::home::{Home, make_dir};
use crate::launch::{self, Proxy, Who, listening};
use naka_api::Mode;
use naka_proxy::settings::{GatewayPort, Role, Settings};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Name of the demo's mesh and context.
pub(crate) const MESH: &str = "demo";
/// Service account of the ingress.
pub(crate) const INGRESS: &str = "istio-ingressgateway";
/// Namespace of the ingress.
pub(crate) const INGRESS_NAMESPACE: &str = "istio-system";
/// A mesh that does not answer by then will not.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// Time for an orderly end; then the drain is skipped, then it is killed.
const END_WITHIN: Duration = Duration::from_secs(4);

/// One program of the flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// Service.
    pub(crate) service: &'static str,
    /// Version.
    pub(crate) version: &'static str,
    /// Services it calls for each request.
    pub(crate) calls: &'static [&'static str],
}

impl Part {
    /// Name of its sidecar in reports: the service, with the version when there are two.
    pub(crate) fn name(&self) -> String {
        if PARTS
            .iter()
            .filter(|part| part.service == self.service)
            .count()
            > 1
        {
            format!("{}-{}", self.service, self.version)
        } else {
            self.service.to_owned()
        }
    }

    /// Stem of its log files.
    pub(crate) fn stem(&self) -> String {
        format!("{}-{}", self.service, self.version)
    }
}

/// The programs.
pub(crate) const PARTS: &[Part] = &[
    Part {
        service: "bank",
        version: "v1",
        calls: &[],
    },
    Part {
        service: "payment",
        version: "v1",
        calls: &["bank"],
    },
    Part {
        service: "payment",
        version: "v2",
        calls: &["bank"],
    },
    Part {
        service: "restaurant",
        version: "v1",
        calls: &[],
    },
    Part {
        service: "delivery",
        version: "v1",
        calls: &[],
    },
    Part {
        service: "notification",
        version: "v1",
        calls: &[],
    },
    Part {
        service: "inventory",
        version: "v1",
        calls: &[],
    },
    Part {
        service: "order",
        version: "v1",
        calls: &[
            "restaurant",
            "payment",
            "delivery",
            "notification",
            "inventory",
        ],
    },
];

const INGRESS_YAML: &str = r#"# How orders get in: an HTTP gateway that leads to the service "order".
apiVersion: networking.istio.io/v1
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
  name: ingress
  namespace: default
spec:
  hosts: ["*"]
  gateways: [istio-system/demo]
  http:
    - route:
        - destination: {host: order.default.svc.cluster.local, port: {number: 80}}
"#;

/// The canary with these weights.
pub(crate) fn canary_yaml(v1: u32, v2: u32) -> String {
    format!(
        r"# The canary. Edit the weights and apply the file while the demo runs.
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: payment
  namespace: default
spec:
  hosts: [payment]
  http:
    - route:
        - destination: {{host: payment, subset: v1}}
          weight: {v1}
        - destination: {{host: payment, subset: v2}}
          weight: {v2}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: payment
  namespace: default
spec:
  host: payment
  subsets:
    - name: v1
      labels: {{version: v1}}
    - name: v2
      labels: {{version: v2}}
"
    )
}

/// A program with its sidecar: one `naka run`.
#[derive(Debug)]
pub(crate) struct Running {
    /// Which program.
    pub(crate) part: Part,
    child: Child,
    sidecar: Option<u32>,
}

impl Running {
    /// Process id of the sidecar.
    pub(crate) fn sidecar(&mut self) -> Option<u32> {
        let alive = |pid: u32| Path::new(&format!("/proc/{pid}/exe")).exists();
        if !self.sidecar.is_some_and(alive) {
            self.sidecar = self.find_sidecar();
        }
        self.sidecar
    }

    /// The same, looked for.
    pub(crate) fn find_sidecar(&self) -> Option<u32> {
        listening::tree(self.child.id()).into_iter().find(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command
                .split(|byte| *byte == 0)
                .any(|word| word == b"sidecar")
        })
    }
}

/// The running mesh.
#[derive(Debug)]
pub(crate) struct Flow {
    /// `$NAKA_HOME`.
    pub(crate) home: Home,
    /// Its context.
    pub(crate) context: Context,
    /// The control plane.
    pub(crate) control: Child,
    /// The programs.
    pub(crate) runs: Vec<Running>,
    /// Where orders get in.
    pub(crate) ingress: SocketAddr,
    /// Relays between sidecars, when the wire is watched.
    pub(crate) relays: Vec<Relay>,
    gateway: Option<Proxy>,
    before: String,
}

impl Flow {
    /// Starts everything; returns when an order can be placed. Whatever was started ends when it fails.
    pub(crate) async fn start(home: Home, tapped: bool) -> Outcome<Self> {
        let mut flow = Self::empty(home, false).await?;
        std::fs::write(flow.file("canary.yaml"), canary_yaml(90, 10))?;
        std::fs::write(flow.file("ingress.yaml"), INGRESS_YAML)?;
        match flow.assemble(tapped).await {
            Ok(()) => Ok(flow),
            Err(error) => {
                flow.end().await;
                Err(error)
            }
        }
    }

    /// A control plane and nothing else; with its root's key apart from it, or not.
    async fn empty(home: Home, root_elsewhere: bool) -> Outcome<Self> {
        if up::answers(&home.control_sock(MESH)).await {
            return Err(Exit::failed("a demo is running already"));
        }
        remove(&home);
        make_dir(&home.dir().join("demo"))?;
        let before = Contexts::open(&home)?.current().to_owned();
        let mut options = control_options().to_vec();
        if root_elsewhere {
            options.extend(scenario::prepare_authority(&home)?);
        }
        let control = up::start(&home, MESH, &options).await?;
        Ok(Self {
            context: Context::default(),
            control,
            runs: Vec::new(),
            ingress: SocketAddr::from(([127, 0, 0, 1], 0)),
            gateway: None,
            relays: Vec::new(),
            before,
            home,
        })
    }

    /// Makes its context, without making it the current one.
    async fn enter(&mut self) -> Outcome {
        self.context = up::record(&self.home, MESH, false).await?;
        let mut contexts = Contexts::open(&self.home)?;
        contexts.make_current(&self.before);
        contexts.save()
    }

    async fn assemble(&mut self, tapped: bool) -> Outcome {
        self.enter().await?;
        for part in PARTS {
            let options = if tapped && part.service == "payment" {
                self.tap().await?
            } else {
                Vec::new()
            };
            let run = self.spawn(*part, &options)?;
            self.runs.push(run);
        }
        self.apply("ingress.yaml").await?;
        self.apply("canary.yaml").await?;
        self.start_gateway("").await?;
        self.wait_ready().await
    }

    /// Puts a relay in front of the next program's sidecar; returns the options of `naka run` for that.
    async fn tap(&mut self) -> Outcome<Vec<String>> {
        let port = free_port()?;
        let relay = Relay::start(SocketAddr::from(([127, 0, 0, 1], port)), CARD).await?;
        let options = [
            "--inbound-port".to_owned(),
            port.to_string(),
            "--advertise-port".to_owned(),
            relay.address.to_string(),
        ];
        self.relays.push(relay);
        Ok(options.into())
    }

    /// Starts one program and its sidecar through `naka run`.
    fn spawn(&self, part: Part, options: &[String]) -> Outcome<Running> {
        self.spawn_as(part, options, &[])
    }

    fn spawn_as(&self, part: Part, options: &[String], behaviour: &[String]) -> Outcome<Running> {
        let exe = std::env::current_exe()?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.home.dir().join(format!("demo/{}.out", part.stem())))?;
        let mut command = Command::new(&exe);
        command
            .args([
                "--context",
                MESH,
                "run",
                "--with-parent",
                "-s",
                part.service,
                "-l",
            ])
            .arg(format!("version={}", part.version))
            .args(options)
            .arg("--")
            .arg(&exe)
            .args([
                "demo-program",
                "--name",
                part.service,
                "--version",
                part.version,
                "--log-dir",
            ])
            .arg(self.logs())
            .args(behaviour);
        for service in part.calls {
            command.args(["--call", service]);
        }
        let child = command
            .env("NAKA_HOME", self.home.dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(|error| Exit::failed(format!("cannot start {}: {error}", part.name())))?;
        Ok(Running {
            part,
            child,
            sidecar: None,
        })
    }

    /// Starts a further program that plain callers reach at this address.
    pub(crate) fn spawn_prober(&self, part: Part, address: SocketAddr) -> Outcome<Running> {
        self.spawn(part, &["--publish".to_owned(), address.to_string()])
    }

    /// Directory of the programs' request logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.home.dir().join("demo/requests")
    }

    /// A file the user may edit and apply.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home.dir().join("demo").join(name)
    }

    /// A connection to the demo's control plane.
    pub(crate) async fn client(&self) -> Outcome<Client> {
        Client::connect(self.context.clone()).await
    }

    /// Applies a file of the demo; returns the revision.
    pub(crate) async fn apply(&self, name: &str) -> Outcome<u64> {
        let path = self.file(name);
        let bytes = std::fs::read(&path)?;
        let decoded = naka_api::decode_yaml(&path.display().to_string(), &bytes, Mode::Compat);
        let request = Request {
            cause: "naka demo".to_owned(),
            ..Request::default()
        };
        let applied = apply::send(
            &mut self.client().await?,
            &decoded.objects,
            decoded.findings,
            &request,
        )
        .await?;
        if let Some(error) = applied.findings.iter().find(|finding| finding.is_error()) {
            return Err(Exit::failed(error.to_string()));
        }
        Ok(applied.revision)
    }

    async fn start_gateway(&mut self, region: &str) -> Outcome {
        let who = Who {
            namespace: INGRESS_NAMESPACE.to_owned(),
            service: Some(INGRESS.to_owned()),
            account: INGRESS.to_owned(),
            labels: [("istio", "ingressgateway"), ("app", INGRESS)]
                .into_iter()
                .chain((!region.is_empty()).then_some((naka_types::locality::LABEL, region)))
                .map(|(key, value)| (key.to_owned(), json!(value)))
                .collect(),
            program: None,
        };
        let instance = launch::take_instance(&self.home, MESH, &who, None)?;
        let mut settings = Settings::new(
            instance.dir.clone(),
            INGRESS,
            &format!("{INGRESS}-{}", instance.number),
        );
        settings.role = Role::Gateway;
        settings.lock_inherited = true;
        settings.namespace.clone_from(&who.namespace);
        settings.service.clone_from(&who.service);
        settings.outbound = None;
        settings.labels = who
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), apply::show(value)))
            .collect();
        settings.gateway_ports = vec![GatewayPort {
            port: 80,
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        }];
        launch::admit(&mut settings, &who, &self.context, None).await?;
        let mut gateway = Proxy::start("gateway", &settings, instance)?;
        let ready = gateway.ready().await;
        let address = match ready {
            Ok(()) => gateway_address(&gateway).await,
            Err(error) => Err(error),
        };
        self.gateway = Some(gateway);
        self.ingress = address?;
        Ok(())
    }

    /// Until every program is registered as ready and the ingress answers an order with 200.
    async fn wait_ready(&mut self) -> Outcome {
        let deadline = Instant::now() + UP_WITHIN;
        let mut missing = Vec::new();
        loop {
            for run in &mut self.runs {
                if let Some(status) = run.child.try_wait()? {
                    let log = self
                        .home
                        .dir()
                        .join(format!("demo/{}.out", run.part.stem()));
                    let said = launch::last_line(&log).unwrap_or_default();
                    return Err(Exit::failed(format!(
                        "{} ended at its start ({status}): {said}",
                        run.part.name()
                    )));
                }
            }
            if let Ok(mut client) = self.client().await
                && let Ok(workloads) = client.get("/naka/v1/workloads").await
            {
                missing = not_ready(PARTS, &workloads);
                if missing.is_empty() {
                    // What is registered may not have reached every proxy yet.
                    if takes_orders(self.ingress).await {
                        return Ok(());
                    }
                    missing.push("the ingress".to_owned());
                }
            }
            if Instant::now() > deadline {
                return Err(Exit::failed(format!(
                    "not ready after 60 s: {}",
                    missing.join(", ")
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills the control plane with SIGKILL.
    pub(crate) fn kill_control(&mut self) -> Outcome {
        self.control.kill()?;
        self.control.wait()?;
        Ok(())
    }

    /// Starts the control plane again.
    pub(crate) async fn restart_control(&mut self) -> Outcome {
        self.control = up::start(&self.home, MESH, &control_options()).await?;
        Ok(())
    }

    /// Ends everything and removes its files and its context.
    pub(crate) async fn end(mut self) {
        // All at once: nobody is left to call anybody. The second signal skips the drain.
        for signal in [Signal::TERM, Signal::TERM, Signal::KILL] {
            for run in &self.runs {
                launch::signal(run.child.id(), signal);
            }
            let deadline = Instant::now() + END_WITHIN;
            while Instant::now() < deadline {
                self.runs
                    .retain_mut(|run| !matches!(run.child.try_wait(), Ok(Some(_)) | Err(_)));
                if self.runs.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            if self.runs.is_empty() {
                break;
            }
        }
        if let Some(mut gateway) = self.gateway.take() {
            gateway.stop().await;
        }
        launch::signal(self.control.id(), Signal::TERM);
        let deadline = Instant::now() + END_WITHIN;
        while matches!(self.control.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.control.kill();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        remove(&self.home);
        if let Ok(mut contexts) = Contexts::open(&self.home) {
            contexts.remove(MESH);
            contexts.make_current(&self.before);
            let _ = contexts.save();
        }
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Outcome<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}

fn control_options() -> [String; 2] {
    ["--detached".to_owned(), "--with-parent".to_owned()]
}

async fn gateway_address(gateway: &Proxy) -> Outcome<SocketAddr> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(address) = gateway.addresses().await?.gateway.get(&80) {
            return Ok(*address);
        }
        if Instant::now() > deadline {
            return Err(Exit::failed(format!(
                "the ingress got no listener; its log: {}",
                gateway.log().display()
            )));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether an order goes all the way.
async fn takes_orders(ingress: SocketAddr) -> bool {
    let body = tour::ask(ingress).await.unwrap_or_default();
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    let calls = answer.get("calls").and_then(Value::as_object);
    calls.is_some_and(|calls| {
        !calls.is_empty() && calls.values().all(|status| status.as_u64() == Some(200))
    })
}

/// Names of the parts that are not registered as ready.
fn not_ready(parts: &[Part], workloads: &Value) -> Vec<String> {
    parts
        .iter()
        .filter(|part| {
            !items(workloads).iter().any(|workload| {
                let version = workload.pointer("/labels/version").and_then(Value::as_str);
                text(workload, "service") == part.service
                    && version.is_none_or(|version| version == part.version)
                    && text(workload, "state") == "healthy"
            })
        })
        .map(Part::name)
        .collect()
}

/// Removes what an earlier demo left.
fn remove(home: &Home) {
    let _ = std::fs::remove_dir_all(home.mesh(MESH));
    let _ = std::fs::remove_dir_all(home.dir().join("demo"));
    for entry in std::fs::read_dir(home.runs())
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.file_name().to_string_lossy().starts_with("demo.") {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flow_has_eight_sidecars_with_names_of_their_own() {
        let names: std::collections::BTreeSet<String> = PARTS.iter().map(Part::name).collect();
        assert_eq!(names.len(), 8);
        assert!(
            names.contains("payment-v1") && names.contains("payment-v2") && names.contains("order")
        );
    }

    #[test]
    fn the_demos_files_are_sound() {
        for text in [INGRESS_YAML.to_owned(), canary_yaml(90, 10)] {
            let decoded = naka_api::decode_yaml("demo.yaml", text.as_bytes(), Mode::Strict);
            assert_eq!(decoded.objects.len(), 2);
            assert!(decoded.findings.is_empty(), "{:?}", decoded.findings);
        }
    }
}
