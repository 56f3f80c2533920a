//! One mesh in which cases take turns: a control plane, and callers beside Naka's sidecar and beside an Envoy, kept from
//! case to case and started when a case first needs one.
//!
//! A case begins when both proxies answer with its mark: a direct response of a VirtualService that is applied with it,
//! in the same route configuration of an Envoy as all its routes.

use super::callee::Callees;
use super::case::{Caller, File, Via, Wanted};
use super::certs::Certs;
use super::client::{Door, send};
use super::explained::{GATEWAY, GATEWAY_NAME};
use super::seen::{Arrival, Seen, Who};
use super::topology::{self, Set};
use super::upstream::Upstreams;
use crate::mesh::{Mesh, SOON};
use crate::program::{Program, free_port};
use anyhow::{Context, Result, bail};
use base64::Engine as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Callers of one kind and proxy that a lane keeps.
const KEPT: usize = 4;
/// A copy has come by then, or is not coming.
const COPIED: Duration = Duration::from_millis(150);
/// Envoys start slowly on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Ports of Gateway objects that a gateway's caller can reach.
const GATEWAY_PORTS: &[u16] = &[80, 443, 5432, 8080, 8443, 9000, 15443];
/// Longest time for a change to reach all proxies.
const WAIT: &str = "5s";
const MARK_HOST: &str = "mark.referee.svc.cluster.local";
const MARK_SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: mark, namespace: referee}, spec: {selector: {referee: mark}, ports: [{name: http, port: 80}]}}\n";

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// What tells callers apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Callers {
    namespace: String,
    caller: Caller,
}

/// A caller and how its proxy is reached.
#[derive(Debug)]
struct Running {
    kind: Callers,
    who: Who,
    doors: BTreeMap<u16, Door>,
    program: Program,
}

/// A mesh in which cases take turns.
#[derive(Debug)]
pub struct Lane {
    mesh: Mesh,
    upstreams: Upstreams,
    runtime: tokio::runtime::Runtime,
    callers: Vec<Running>,
    callees: Callees,
    applied: bool,
    /// What a sidecar answers once it has the objects of now; `None` where they hide it.
    mark: Option<String>,
}

/// What proxies made of a case.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What each of the requests came to; `None`: not asked of proxies.
    pub seen: BTreeMap<Who, Vec<Option<Vec<Seen>>>>,
}

impl Lane {
    /// Starts a mesh.
    ///
    /// # Errors
    /// When there is no runtime to be had.
    ///
    /// # Panics
    /// When the control plane does not come up.
    pub fn new(envoy: &Path, upstreams: &Upstreams) -> Result<Self> {
        let mut mesh = Mesh::down_with(&[]);
        mesh.set("NAKA_ENVOY", envoy.as_os_str());
        mesh.start_control();
        mesh.apply("mark.yaml", MARK_SERVICE);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            mesh,
            upstreams: upstreams.clone(),
            runtime,
            callers: Vec::new(),
            callees: Callees::default(),
            applied: false,
            mark: None,
        })
    }

    /// Takes a case through Naka's proxies and an Envoy.
    ///
    /// # Errors
    /// When the mesh fails (not: when a verdict is not met).
    pub fn run(&mut self, file: &File, who: &[Who]) -> Result<(Set, Outcome)> {
        let set = topology::set(file, &self.upstreams)?;
        self.callees.of(file, &set);
        self.in_order_of_age(&set);
        self.apply(file, &set, &set.text)?;
        let mut outcome = Outcome::default();
        for who in who {
            let mut all = Vec::new();
            for wanted in &file.case.requests {
                all.push(self.ask(file, wanted, *who, &set.certs)?);
            }
            outcome.seen.insert(*who, all);
        }
        Ok((set, outcome))
    }

    /// Whether some request of a case gets another verdict at Naka's proxies when these are the objects.
    ///
    /// # Errors
    /// When the mesh fails.
    pub fn notices(
        &mut self,
        file: &File,
        set: &Set,
        objects: &[serde_json::Value],
    ) -> Result<bool> {
        let mut text = String::new();
        for object in objects {
            let _ = writeln!(text, "---\n{object}");
        }
        self.apply(file, set, &text)?;
        for wanted in &file.case.requests {
            let seen = self.ask(file, wanted, Who::Naka, &set.certs)?;
            if seen.is_some_and(|seen| wanted.verdict.differs(Who::Naka, &seen).is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Asks again, with the objects as they are.
    ///
    /// # Errors
    /// When the mesh fails.
    pub fn ask(
        &mut self,
        file: &File,
        wanted: &Wanted,
        who: Who,
        certs: &Certs,
    ) -> Result<Option<Vec<Seen>>> {
        let Some(plan) = Plan::of(wanted) else {
            return Ok(None);
        };
        self.callees.beside(&self.mesh, who, START)?;
        let kind = Callers::of(file, wanted);
        let at = self.caller(&kind, who, certs)?;
        let uri = wanted.uri()?;
        let tls = matches!(uri.scheme_str(), Some("https" | "tls"));
        let caller = &self.callers[at];
        let port = match kind.caller.via {
            Via::Sidecar => 0,
            Via::Gateway => uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
        };
        let door = match &wanted.direct {
            None => caller.doors.get(&port),
            Some(server) => self.callees.door(server),
        };
        let door =
            door.context("no such port of the gateway, or no such server behind a sidecar")?;
        let mut all = Vec::new();
        let mut missing: BTreeSet<&String> = wanted.verdict.to.iter().collect();
        for draw in 0..wanted.draws() {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed).to_string();
            self.upstreams.expect(&number, &plan.answers);
            let sent = send(door, wanted, &number, certs);
            let mut seen = self.runtime.block_on(sent)?;
            seen.silent = kind.caller.via == Via::Gateway;
            seen.arrivals = self.upstreams.take(&number);
            seen.own_ends();
            if let Some(copies) = &wanted.verdict.mirrored {
                seen.mirrored = self.copies(&number, copies.len());
            }
            for arrival in &seen.arrivals {
                missing.retain(|cluster| !arrival.clusters.contains(*cluster));
            }
            all.push(seen);
            // All that may happen has happened: chance needs no more draws, a share does.
            let enough = wanted.times.is_none() && wanted.verdict.shares.is_empty();
            if enough && missing.is_empty() && wanted.verdict.at.len() < 2 && draw >= plan.least {
                break;
            }
        }
        Ok(Some(all))
    }

    /// Copies of a request; nobody waits for them, so they are given a moment to come.
    fn copies(&self, number: &str, wanted: usize) -> Vec<Arrival> {
        let end = Instant::now() + COPIED;
        loop {
            let all = self.upstreams.mirrored(number);
            if (wanted > 0 && all.len() >= wanted) || Instant::now() > end {
                return all;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn apply(&mut self, file: &File, set: &Set, manifests: &str) -> Result<()> {
        if self.applied {
            let before = self.mesh.home().join("case.yaml");
            let before = before.to_string_lossy().into_owned();
            self.mesh.naka(["delete", "-f", &before]);
        }
        let mark = NUMBER.fetch_add(1, Ordering::Relaxed).to_string();
        let text = format!(
            "{}---\n{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: mark, namespace: referee}}, spec: {{hosts: [{MARK_HOST}], http: [{{directResponse: {{status: 200, body: {{string: '{mark}'}}}}}}]}}}}\n",
            manifests
        );
        self.applied = true;
        let path = self.mesh.file("case.yaml", &text);
        let path = path.to_string_lossy().into_owned();
        let namespace = &file.case.namespace;
        let arguments = ["apply", "--wait", "--timeout", WAIT, "-n", namespace, "-f"];
        let output = self
            .mesh
            .naka(arguments.iter().copied().chain([path.as_str()]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let requests = file.case.requests.iter();
        let used: BTreeSet<Callers> = requests.map(|wanted| Callers::of(file, wanted)).collect();
        match output.status.code() {
            // 1: something in it is bad, which may be what the case is about.
            Some(0 | 1) => {}
            // A proxy that this case does not need must not hold up the cases after it; its mark tells of one it needs.
            Some(2) if said.contains("has not reached") => self.callers.retain(|one| {
                used.contains(&one.kind) || !said.contains(&format!(".{}", one.kind.namespace))
            }),
            _ => bail!("apply: {said}"),
        }
        let scoped = set
            .objects
            .iter()
            .any(|object| object.kind == naka_api::Kind::Sidecar);
        self.mark = (!scoped).then(|| mark.clone());
        if scoped {
            return Ok(());
        }
        let callers: Vec<usize> = (0..self.callers.len())
            .filter(|at| used.contains(&self.callers[*at].kind))
            .collect();
        for at in callers {
            let marked = self.marked(at, &mark, &set.certs);
            if marked.is_err() {
                // Others begin with a new one.
                self.callers.remove(at);
                return marked;
            }
        }
        Ok(())
    }

    /// Objects whose manifests say when they were made are made one after the other: the control plane stamps them
    /// itself, in whole seconds.
    fn in_order_of_age(&self, set: &Set) {
        let mut aged: Vec<(&str, &naka_api::Object)> = set
            .objects
            .iter()
            .map(|object| (object.meta.creation_timestamp.as_str(), object))
            .filter(|(made, _)| !made.is_empty())
            .collect();
        aged.sort_by_key(|(made, _)| *made);
        for (_, object) in aged {
            let path = self.mesh.file("aged.yaml", &object.raw.to_string());
            self.mesh.naka(["apply", "-f", &path.to_string_lossy()]);
            let into = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.subsec_millis());
            std::thread::sleep(Duration::from_millis(u64::from(1010 - into.min(1000))));
        }
    }

    /// Waits until a caller's proxy answers with the mark.
    fn marked(&self, at: usize, mark: &str, certs: &Certs) -> Result<()> {
        let caller = &self.callers[at];
        if caller.kind.caller.via == Via::Gateway {
            return Ok(());
        }
        let Some(door) = caller.doors.get(&0) else {
            return Ok(());
        };
        let call: Wanted =
            serde_saphyr::from_str(&format!("{{request: GET http://{MARK_HOST}/}}"))?;
        let end = Instant::now() + SOON;
        loop {
            let seen = self.runtime.block_on(send(door, &call, "", certs))?;
            if seen.body.as_deref() == Some(mark) {
                return Ok(());
            }
            if Instant::now() > end {
                bail!(
                    "{} does not take the case: {} {:?}",
                    caller.who,
                    seen.status,
                    seen.body
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Index of a caller, which is started if there is none, and then has the case.
    fn caller(&mut self, kind: &Callers, who: Who, certs: &Certs) -> Result<usize> {
        let is = |one: &Running| one.kind == *kind && one.who == who;
        if let Some(at) = self.callers.iter().position(is) {
            return Ok(at);
        }
        let same = |one: &Running| one.who == who;
        if self.callers.iter().filter(|one| same(one)).count() >= KEPT {
            // The first one is everybody's; the oldest of the others goes.
            let mut all = self.callers.iter().enumerate().filter(|(_, one)| same(one));
            if let Some((at, _)) = all.nth(1) {
                let mut gone = self.callers.remove(at);
                gone.program.signal(rustix::process::Signal::TERM);
                let _ = gone.program.wait(SOON);
            }
        }
        let running = match kind.caller.via {
            Via::Sidecar => self.sidecar(kind, who)?,
            Via::Gateway => self.gateway(kind, who)?,
        };
        self.callers.push(running);
        let at = self.callers.len() - 1;
        if let Some(mark) = &self.mark {
            self.marked(at, mark, certs)?;
        }
        Ok(at)
    }

    fn sidecar(&self, kind: &Callers, who: Who) -> Result<Running> {
        let name = format!("caller-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let labels: Vec<String> = kind
            .caller
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let mut options = vec!["-n", &kind.namespace, "--service-account", "caller"];
        options.extend(match who {
            Who::Envoy => ["--proxy", "envoy"],
            _ => ["--capture", "proxy"],
        });
        for label in &labels {
            options.extend(["-l", label]);
        }
        let script = "printf '%s\\n' \"$http_proxy\"; exec sleep infinity";
        let mut program = self.mesh.run(&name, &options, &["sh", "-c", script]);
        let end = Instant::now() + START;
        let url = loop {
            let out = std::fs::read_to_string(&program.stdout).unwrap_or_default();
            if let Some((line, _)) = out.split_once('\n') {
                break line.to_owned();
            }
            if Instant::now() > end || !program.alive() {
                bail!("no caller beside {who}: {}", program.err());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let rest = url.strip_prefix("http://").context("a proxy variable")?;
        let (credential, address) = match rest.rsplit_once('@') {
            Some((secret, address)) => (Some(secret), address),
            None => (None, rest),
        };
        let credential = credential.map(|secret| {
            let text = base64::engine::general_purpose::STANDARD.encode(secret);
            format!("Basic {text}")
        });
        let door = Door {
            address: address.parse()?,
            credential,
            forward: true,
        };
        Ok(Running {
            kind: kind.clone(),
            who,
            doors: [(0, door)].into(),
            program,
        })
    }

    fn gateway(&self, kind: &Callers, who: Who) -> Result<Running> {
        let name = format!("gateway-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let service = format!("edge-{who}");
        let arguments = [
            "proxy",
            "gateway",
            "-s",
            &service,
            "-l",
            GATEWAY,
            "-l",
            GATEWAY_NAME,
        ];
        let mut arguments = arguments.map(str::to_owned).to_vec();
        if who == Who::Envoy {
            arguments.extend(["--proxy", "envoy"].map(str::to_owned));
        }
        let mut doors = BTreeMap::new();
        for port in GATEWAY_PORTS {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
            arguments.extend(["-p".to_owned(), format!("{port}={address}")]);
            let door = Door {
                address,
                credential: None,
                forward: false,
            };
            doors.insert(*port, door);
        }
        let mut command = self.mesh.command(&arguments);
        let mut program = Program::start(&name, self.mesh.home(), &mut command)?;
        let end = Instant::now() + START;
        while !self.joined(&service) {
            if Instant::now() > end || !program.alive() {
                bail!("no gateway of {who}: {}", program.err());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Running {
            kind: kind.clone(),
            who,
            doors,
            program,
        })
    }

    /// Whether a proxy of this service has its configuration.
    fn joined(&self, service: &str) -> bool {
        let listed = self
            .mesh
            .naka(["get", "proxies", "-A", "-o", "json"])
            .stdout;
        let listed: serde_json::Value = serde_json::from_slice(&listed).unwrap_or_default();
        let mut items = listed["items"].as_array().into_iter().flatten();
        items.any(|one| one["service"] == service && one["state"] == "programmed")
    }
}

impl Callers {
    /// Who calls in a request.
    #[must_use]
    pub fn of(file: &File, wanted: &Wanted) -> Self {
        Self {
            namespace: file.namespace(wanted).to_owned(),
            caller: file.case.caller.clone(),
        }
    }
}

/// How a request is put to proxies.
struct Plan {
    answers: Vec<String>,
    /// Draws before it is enough, counted from 0.
    least: usize,
}

impl Plan {
    /// `None` where servers cannot do what the case wants: refuse a connection now and take the next.
    fn of(wanted: &Wanted) -> Option<Self> {
        let refused = wanted
            .answers
            .iter()
            .any(|answer| ["connect-failed", "refused-stream"].contains(&answer.as_str()));
        if refused || wanted.moment.is_some() || wanted.from.is_some() {
            return None;
        }
        Some(Self {
            answers: wanted.answers.clone(),
            least: if wanted.answers.is_empty() { 1 } else { 0 },
        })
    }
}
