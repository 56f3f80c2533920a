//! The mesh under attack: a control plane, a gateway, and a sidecar with a published port, all real processes. The
//! program behind the sidecar is this test itself, so that it can answer as badly as programs do and see every byte.

use crate::bare::Bare;
use crate::bodies::Copies;
use crate::forge::Forge;
use crate::naive::Naive;
use crate::names::Hostile;
use crate::program::Raw;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Whom an attack is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Naka's own processes.
    Naka,
    /// Something without the guard.
    Open,
}

/// All of it.
pub(crate) struct Ground {
    /// The program behind the mesh and behind the naive relay.
    pub(crate) program: Arc<Raw>,
    /// Plain callers of the program's sidecar.
    pub(crate) published: SocketAddr,
    /// Callers of the gateway.
    pub(crate) edge: SocketAddr,
    /// The program's own calls.
    pub(crate) outbound: SocketAddr,
    /// Callers of the mesh, with mutual TLS.
    pub(crate) inbound: SocketAddr,
    /// Relays that believe everything, in front of the same program.
    pub(crate) naive: Naive,
    /// Servers whose limits were raised.
    pub(crate) bare: Bare,
    /// Callers behind a load balancer that this machine is.
    pub(crate) balanced: SocketAddr,
    /// The same where another machine is the balancer.
    pub(crate) elsewhere: SocketAddr,
    /// Callers of the gateway's port with a limit of connections by address.
    pub(crate) capped: SocketAddr,
    /// Callers of the gateway's port with TLS.
    pub(crate) secure: SocketAddr,
    /// What became of copies of requests.
    pub(crate) copies: Arc<Copies>,
    /// The mesh's only name server.
    pub(crate) names: Hostile,
    /// What signs for the mesh.
    pub(crate) forge: Forge,
    pub(crate) mesh: Mesh,
    pub(crate) gateway: Program,
    _run: Program,
    pub(crate) sidecar: u32,
}

const OBJECTS: &str = "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: balanced, namespace: istio-system, annotations: {naka.dev/proxy-protocol: 127.0.0.1}}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 81, name: http, protocol: HTTP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: elsewhere, namespace: istio-system, annotations: {naka.dev/proxy-protocol: 192.0.2.7}}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 82, name: http, protocol: HTTP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: capped, namespace: istio-system, annotations: {naka.dev/max-connections-per-address: '20'}}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 83, name: http, protocol: HTTP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: secure, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 84, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: secure}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: edge
  namespace: default
  annotations: {naka.dev/match.rich: request.body.amount > 100}
spec:
  hosts: ['*']
  gateways: [istio-system/edge, istio-system/balanced, istio-system/elsewhere, istio-system/capped, istio-system/secure]
  http:
  - name: rich
    match: [{uri: {prefix: /judged}}]
    directResponse: {status: 402}
  - match: [{uri: {prefix: /delayed}}]
    fault: {delay: {fixedDelay: 5s, percentage: {value: 100}}}
    route: [{destination: {host: web.default.svc.cluster.local, port: {number: 80}}}]
  - match: [{uri: {prefix: /queued}}]
    route: [{destination: {host: queued.example, port: {number: 80}}}]
  - match: [{uri: {prefix: /mirrored}}]
    route: [{destination: {host: web.default.svc.cluster.local, port: {number: 80}}}]
    mirrors: [{destination: {host: copies.example, port: {number: 80}}}]
  - match: [{uri: {prefix: /admin}}]
    directResponse: {status: 403}
  - match: [{uri: {prefix: /hasty}}]
    timeout: 1s
    route: [{destination: {host: web.default.svc.cluster.local, port: {number: 80}}}]
  - match: [{uri: {prefix: /again}}]
    retries: {attempts: 2, retryOn: 5xx}
    route: [{destination: {host: web.default.svc.cluster.local, port: {number: 80}}}]
  - route: [{destination: {host: web.default.svc.cluster.local, port: {number: 80}}}]
";

/// The service that copies of requests go to.
const COPIES: &str = "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: copies, namespace: default}
spec:
  hosts: [copies.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {http: PORT}}]
";

/// The certificate of the port with TLS.
fn certificate() -> String {
    let made = rcgen::generate_simple_self_signed(["secure.example".to_owned()]).expect("a key");
    let base64 = |text: String| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let (certificate, key) = (
        base64(made.cert.pem()),
        base64(made.signing_key.serialize_pem()),
    );
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: secure, namespace: istio-system}}\ndata: {{tls.crt: {certificate}, tls.key: {key}}}\n"
    )
}

/// The program again, behind one connection.
const QUEUED: &str = "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: queued, namespace: default}
spec:
  hosts: [queued.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {http: PORT}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: queued, namespace: default}
spec:
  host: queued.example
  trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1000}}}
";

impl Ground {
    /// Starts it and waits until a request comes through both ways in.
    pub(crate) fn up() -> Self {
        let names = Hostile::start();
        let forge = Forge::new();
        let authority = forge.dir().to_str().expect("printable");
        let mut mesh = Mesh::down_with(&["--ca", authority, "--jwks-hosts", "localhost"]);
        let conf = mesh.file("resolv.conf", &names.line());
        mesh.set("NAKA_RESOLV_CONF", conf.as_os_str());
        mesh.start_control();
        let copies = Arc::<Copies>::default();
        let own = free_port();
        let port = format!("{own}/http");
        let published = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (publish, edge) = (published.to_string(), free_port());
        let options = [
            "-s",
            "web",
            "-p",
            &port,
            "--capture",
            "proxy",
            "--publish",
            &publish,
        ];
        let run = mesh.run(
            "web",
            &options,
            &["sh", "-c", "echo $http_proxy; exec sleep 100000"],
        );
        // `naka run` wants the port free at first, like for any program that it starts.
        let started = || run.out().contains("http://").then_some(());
        until(format_args!("the sidecar: {}", run.err()), SOON, started);
        let program = Raw::start(own);
        let heard = Arc::clone(&copies);
        let copied = crate::naive::listen(move |stream| heard.take(stream));
        let entry = COPIES.replace("PORT", &copied.port().to_string());
        let queued = QUEUED.replace("PORT", &own.to_string());
        mesh.apply(
            "edge.yaml",
            &[OBJECTS, &entry, &queued, &certificate()].concat(),
        );
        mesh.apply("lies.yaml", &names.objects());
        let others = [(); 4].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let [balanced, elsewhere, capped, secure] = others;
        let mut arguments = vec![
            "proxy".to_owned(),
            "gateway".to_owned(),
            "--workers".to_owned(),
            "1".to_owned(),
        ];
        arguments.extend(["-p".to_owned(), format!("80=127.0.0.1:{edge}")]);
        for (number, address) in (81..).zip(others) {
            arguments.extend(["-p".to_owned(), format!("{number}={address}")]);
        }
        let gateway = Program::start("gateway", mesh.home(), &mut mesh.command(arguments))
            .expect("start the gateway");
        let edge = SocketAddr::from(([127, 0, 0, 1], edge));
        for way in [published, edge] {
            until(
                format_args!("a request through {way}: {} {}", run.said(), gateway.said()),
                SOON,
                || {
                    get(way, "/ready")
                        .filter(|answer| answer.starts_with("HTTP/1.1 200"))
                        .map(drop)
                },
            );
        }
        let sidecar = mesh.sidecar_of(&run).expect("a sidecar");
        let proxy = run.out();
        let outbound = proxy
            .trim()
            .rsplit(['@', '/'])
            .find(|part| part.contains(':'));
        let outbound = outbound
            .and_then(|a| a.parse().ok())
            .expect("http_proxy has an address");
        Self {
            naive: Naive::start(program.address),
            bare: Bare::start(),
            program,
            published,
            edge,
            outbound,
            inbound: inbound(&mesh),
            balanced,
            elsewhere,
            capped,
            secure,
            copies,
            names,
            forge,
            mesh,
            gateway,
            _run: run,
            sidecar,
        }
    }

    /// Where an attack with HTTP/1 syntax goes: the ways in whose next hop is the program itself.
    pub(crate) fn relay(&self, side: Side) -> SocketAddr {
        match side {
            Side::Naka => self.published,
            Side::Open => self.naive.http1,
        }
    }

    /// Where an attack on an HTTP/2 server goes.
    pub(crate) fn http2(&self, side: Side) -> SocketAddr {
        match side {
            Side::Naka => self.edge,
            Side::Open => self.bare.http2,
        }
    }

    /// Where an attack on an HTTP/1 server goes.
    pub(crate) fn http1(&self, side: Side) -> SocketAddr {
        match side {
            Side::Naka => self.edge,
            Side::Open => self.bare.http1,
        }
    }

    /// Resident memory of the gateway and the sidecar.
    pub(crate) fn resident(&self) -> u64 {
        [self.gateway.pid(), self.sidecar]
            .map(naka_testkit::program::resident_bytes)
            .iter()
            .sum()
    }

    /// Open files of the gateway and the sidecar.
    pub(crate) fn descriptors(&self) -> usize {
        [self.gateway.pid(), self.sidecar]
            .iter()
            .filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).ok())
            .map(Iterator::count)
            .sum()
    }
}

/// Where the sidecar of the program takes mutual TLS.
fn inbound(mesh: &Mesh) -> SocketAddr {
    let all = mesh.workloads();
    let web = all
        .iter()
        .find(|workload| workload["service"] == "web")
        .expect("web is known");
    let address = web["ports"][0]["inbound_address"].as_str();
    address.and_then(|a| a.parse().ok()).expect("an address")
}

/// One GET on a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: web.default\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// Somebody who has nothing to do with the attack.
pub(crate) struct Bystander {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Calls>,
}

/// What it met with.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    answered: usize,
    pub(crate) failed: Vec<String>,
    took: Vec<Duration>,
}

impl Calls {
    /// The time within which so many percent of the calls were answered.
    fn within(&self, percent: usize) -> Duration {
        let mut all = self.took.clone();
        all.sort_unstable();
        let at = (all.len() * percent).div_ceil(100).saturating_sub(1);
        all.get(at).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self.answered + self.failed.len();
        write!(
            f,
            "others answered {} of {all}, p99 {} ms, slowest {} ms",
            self.answered,
            self.within(99).as_millis(),
            self.within(100).as_millis()
        )?;
        match self.failed.first() {
            Some(first) => write!(f, ", first failure {first:?}"),
            None => Ok(()),
        }
    }
}

impl Bystander {
    /// Calls through the gateway and the sidecar, one call after the other.
    pub(crate) fn start(ground: &Ground) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, edge) = (Arc::clone(&stop), ground.edge);
        let thread = std::thread::spawn(move || {
            let mut calls = Calls::default();
            // At least one call after the attack: whoever died of it does not answer.
            let mut last = false;
            while !last {
                last = stopped.load(SeqCst);
                let began = Instant::now();
                let answer = get(edge, "/bystander").unwrap_or_default();
                calls.took.push(began.elapsed());
                if answer.starts_with("HTTP/1.1 200") {
                    calls.answered += 1;
                } else {
                    calls.failed.push(answer.chars().take(200).collect());
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
            calls
        });
        Self { stop, thread }
    }

    /// What it met with until now.
    pub(crate) fn stop(self) -> Calls {
        self.stop.store(true, SeqCst);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_default()
    }
}

/// Where the lines of the last run are kept.
pub(crate) fn kept_lines() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    // target/<profile>/deps/attacks-…
    let target = test.ancestors().nth(3).map(PathBuf::from);
    target.unwrap_or_default().join("attacks.txt")
}
