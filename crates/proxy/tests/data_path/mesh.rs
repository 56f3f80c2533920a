//! A small mesh in one process: an authority, two proxies of one worker each, hand-made snapshots, real sockets.

use naka_engine::model::{
    Action, Chain, Cluster, ClusterSpec, Edge, Endpoint, Forward, Health, Hosts, Inbound, Match,
    MtlsMode, PeerTls, Route, Security, Serves, ServiceMeta, Snapshot, SnapshotBuilder,
    VirtualHost, Wants, WeightedCluster, WorkloadMeta,
};
use naka_engine::runtime::Registry;
use naka_identity::{Authority, IssueRequest, KeyAndCsr, Svid, now_s};
use naka_proxy::listen;
use naka_proxy::names::Filter;
use naka_proxy::seen::Seen;
use naka_proxy::tls::TlsSet;
use naka_proxy::vip::Vips;
use naka_proxy::worker::{Entrance, Own, Want, WorkerMsg, WorkerParams, Workers, spawn};
use naka_telemetry::{AccessLog, Metrics, Workload};
use naka_types::labels::Labels;
use naka_types::protocol::Protocol;
use naka_types::reason::Reason;
use naka_types::spiffe::SpiffeId;
use naka_types::workload::Ulid;
use naka_wire::v1::NameFilter;
use std::cell::RefCell;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A gateway's port that takes everything in plaintext, with one host.
pub(crate) fn edge(port: u16, vhost: VirtualHost) -> Arc<Edge> {
    let chain = Chain {
        name: "http".into(),
        wants: Wants::default(),
        security: Security::None,
        access: None,
        serves: Serves::Http(Hosts::new(vec![Arc::new(vhost)])),
        grpc_web: false,
        server: None,
    };
    Arc::new(Edge::new(port, vec![Arc::new(chain)]))
}

pub(crate) const HOST: &str = "web.shop.svc.cluster.local";

/// Lines of an access log.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// What a proxy has of the program's own network namespace.
#[derive(Default)]
pub(crate) struct Inside {
    pub(crate) door: Option<PathBuf>,
    pub(crate) vips: Option<Arc<Vips>>,
    /// Names the host's name servers.
    pub(crate) resolv_conf: Option<PathBuf>,
}

/// One proxy.
pub(crate) struct Proxy {
    pub(crate) workers: Arc<Workers>,
    pub(crate) metrics: Metrics,
    pub(crate) log: Log,
    pub(crate) seen: Arc<Seen>,
    pub(crate) wants: RefCell<Option<mpsc::Receiver<Want>>>,
    _access: AccessLog,
    accepting: RefCell<Vec<JoinHandle<()>>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for task in self.accepting.borrow().iter() {
            task.abort();
        }
    }
}

impl Proxy {
    /// Opens an entrance and accepts there.
    pub(crate) fn open(&self, entrance: Entrance) -> SocketAddr {
        let listener = listen::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let workers = Arc::clone(&self.workers);
        let task = tokio::spawn(async move {
            listen::accept(listener, Arc::new(entrance), workers)
                .await
                .unwrap();
        });
        self.accepting.borrow_mut().push(task);
        address
    }

    pub(crate) async fn publish(&self, snapshot: Snapshot) {
        self.workers.publish(&Arc::new(snapshot)).await;
    }

    /// Waits until the metrics or the log satisfy something.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !holds(self) {
            let now = tokio::time::Instant::now();
            assert!(
                now < deadline,
                "never: {what}\n{}\n{}",
                self.metrics.render(),
                self.log.text()
            );
            tokio::time::timeout(Duration::from_millis(10), std::future::pending::<()>())
                .await
                .unwrap_err();
        }
    }
}

/// The authority and what identities look like.
pub(crate) struct Mesh {
    authority: Authority,
    domain: &'static str,
    pub(crate) registry: Registry,
    _dir: tempfile::TempDir,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self::of("cluster.local")
    }

    /// With another trust domain.
    pub(crate) fn of(domain: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path(), domain, now_s()).unwrap();
        Self {
            authority,
            domain,
            registry: Registry::default(),
            _dir: dir,
        }
    }

    pub(crate) fn spiffe(&self, account: &str) -> SpiffeId {
        SpiffeId::new(self.domain, "shop", account).unwrap()
    }

    pub(crate) fn identity(&self, account: &str) -> Arc<TlsSet> {
        let key = KeyAndCsr::generate().unwrap();
        let issued = self
            .authority
            .issue(&IssueRequest {
                csr_pem: key.csr_pem(),
                spiffe: &self.spiffe(account),
                workload_id: Ulid::new(1_700_000_000_000, 7),
                dns_sans: &[],
                ttl: Duration::from_secs(3600),
                now: now_s(),
            })
            .unwrap();
        let svid = Svid::new(issued.chain, key.key()).unwrap();
        Arc::new(TlsSet::new(svid, self.authority.bundle()).unwrap())
    }

    /// A proxy with an identity; `known` are the names its filter holds.
    pub(crate) fn proxy(&self, account: &str, snapshot: Snapshot, known: &[&str]) -> Proxy {
        self.proxy_with(account, snapshot, known, |_| {})
    }

    pub(crate) fn proxy_with(
        &self,
        account: &str,
        snapshot: Snapshot,
        known: &[&str],
        edit: impl FnOnce(&mut Own),
    ) -> Proxy {
        self.proxy_of(1, account, snapshot, known, edit)
    }

    /// With several workers.
    pub(crate) fn proxy_of(
        &self,
        workers: usize,
        account: &str,
        snapshot: Snapshot,
        known: &[&str],
        edit: impl FnOnce(&mut Own),
    ) -> Proxy {
        self.proxy_within(Inside::default(), workers, account, snapshot, known, edit)
    }

    /// Beside a program in a network namespace of its own.
    pub(crate) fn proxy_within(
        &self,
        inside: Inside,
        workers: usize,
        account: &str,
        snapshot: Snapshot,
        known: &[&str],
        edit: impl FnOnce(&mut Own),
    ) -> Proxy {
        let seen = Arc::<Seen>::default();
        let metrics = Metrics::new();
        let log = Log::default();
        let access =
            AccessLog::start(Box::new(log.clone()), naka_telemetry::Number::default()).unwrap();
        let (wants, asked) = mpsc::channel(64);
        let names = Filter::decode(&NameFilter {
            exact: known.iter().map(|k| (*k).to_owned()).collect(),
            ..NameFilter::default()
        })
        .unwrap();
        let principal = self.spiffe(account).to_string();
        let mut own = Own {
            namespace: "shop".into(),
            workload: Arc::new(Workload::new(
                account,
                "shop",
                &principal,
                "test",
                &Labels::new(),
            )),
            service_host: Some(format!("{account}.shop.svc.cluster.local").into()),
            uid: rustix::process::getuid().as_raw(),
            credential: None,
            barred: Arc::default(),
            denials: Arc::default(),
            kept: Arc::default(),
            repeated: naka_engine::exchange::Repeated::default(),
        };
        edit(&mut own);
        let (snapshot, names, own) = (Arc::new(snapshot), Arc::new(names), Arc::new(own));
        let identity = self.identity(account);
        let worker = |index| {
            spawn(WorkerParams {
                index,
                snapshot: Arc::clone(&snapshot),
                tls: Some(Arc::clone(&identity)),
                names: Arc::clone(&names),
                wants: wants.clone(),
                own: Arc::clone(&own),
                shard: metrics.shard(),
                access: Some(access.lines()),
                door: inside.door.clone(),
                vips: inside.vips.clone(),
                seen: Arc::clone(&seen),
                resolv_conf: inside.resolv_conf.clone().unwrap_or_default(),
            })
            .unwrap()
        };
        Proxy {
            workers: Arc::new(Workers::new((0..workers).map(worker).collect())),
            metrics,
            log,
            seen: Arc::clone(&seen),
            wants: RefCell::new(Some(asked)),
            _access: access,
            accepting: RefCell::default(),
        }
    }

    /// What the called side is told: one declared port and the program's address.
    pub(crate) fn inbound(
        &self,
        program: SocketAddr,
        protocol: Protocol,
        mode: MtlsMode,
    ) -> Snapshot {
        let port = program.port();
        let name: Arc<str> = format!("inbound|{port}||").into();
        let mut builder = SnapshotBuilder::new("shop");
        // As the control plane sends it: port and cluster both say what is spoken.
        let cluster = self.cluster(&name, protocol, &[(program, false)], None);
        builder.put_inbound(Arc::new(Inbound {
            port,
            protocol,
            mode,
            cluster: cluster.id,
            name,
            service: HOST.into(),
            access: None,
            limit: None,
            closes: false,
            tls: None,
        }));
        builder.put_cluster(cluster);
        builder.build()
    }

    pub(crate) fn cluster(
        &self,
        name: &Arc<str>,
        protocol: Protocol,
        endpoints: &[(SocketAddr, bool)],
        allowed: Option<&str>,
    ) -> Arc<Cluster> {
        let mut spec = ClusterSpec::new(name, protocol);
        spec.policy = naka_engine::model::Policy::RoundRobin;
        spec.connect_timeout = Duration::from_secs(2);
        spec.service = ServiceMeta {
            host: HOST.into(),
            name: "web".into(),
            namespace: "shop".into(),
        };
        spec.tls = allowed.map(|account| PeerTls {
            always: false,
            allowed: Arc::new([self.spiffe(account)]),
            sni: format!("outbound_.80_._.{HOST}").into(),
        });
        let endpoints = endpoints
            .iter()
            .map(|(address, mtls)| {
                Arc::new(Endpoint {
                    address: *address,
                    weight: 1,
                    health: Health::Healthy,
                    mtls: *mtls,
                    workload: Arc::new(WorkloadMeta {
                        name: "web-1".into(),
                        namespace: "shop".into(),
                        canonical_name: "web".into(),
                        canonical_revision: "v1".into(),
                        ..WorkloadMeta::default()
                    }),
                    state: self.registry.endpoint(name, *address),
                })
            })
            .collect();
        Arc::new(Cluster::new(
            self.registry.id(name),
            Arc::new(spec),
            endpoints,
            self.registry.cluster(name),
        ))
    }

    /// What a gateway is told: a host on a port leads to these mTLS endpoints.
    pub(crate) fn gateway(&self, port: u16, host: &str, endpoints: &[SocketAddr]) -> Snapshot {
        let inside = self.outbound(Protocol::Http, endpoints);
        let mut vhost = VirtualHost::clone(inside.virtual_hosts().next().unwrap());
        vhost.name = format!("{host}:{port}").into();
        vhost.port = port;
        vhost.domains = [Arc::from(host)].into();
        let mut builder = inside.edit();
        builder.put_edge(edge(port, vhost));
        builder.build()
    }

    /// What the calling side is told: the service's host leads to these mTLS endpoints.
    pub(crate) fn outbound(&self, protocol: Protocol, endpoints: &[SocketAddr]) -> Snapshot {
        self.outbound_with(protocol, endpoints, "web", |_| {})
    }

    pub(crate) fn outbound_with(
        &self,
        protocol: Protocol,
        endpoints: &[SocketAddr],
        allowed: &str,
        edit: impl FnOnce(&mut Forward),
    ) -> Snapshot {
        let name: Arc<str> = format!("outbound|80||{HOST}").into();
        let endpoints: Vec<_> = endpoints.iter().map(|a| (*a, true)).collect();
        let cluster = self.cluster(&name, protocol, &endpoints, Some(allowed));
        let mut forward = Forward::new(vec![WeightedCluster::new(cluster.id, &name, 1)]).unwrap();
        edit(&mut forward);
        let mut builder = SnapshotBuilder::new("shop");
        builder.put_cluster(cluster);
        builder.put_virtual_host(Arc::new(VirtualHost {
            name: format!("80/{HOST}:80").into(),
            port: 80,
            domains: [Arc::from(HOST), format!("{HOST}:80").into()].into(),
            routes: [Arc::new(Route {
                name: "default".into(),
                config: None,
                matches: Match::default(),
                action: Action::Forward(forward),
                request_headers: Default::default(),
                response_headers: Default::default(),
                limit: None,
                extras: Default::default(),
            })]
            .into(),
        }));
        builder.build()
    }
}

/// Two proxies around one program.
pub(crate) struct Pair {
    pub(crate) mesh: Mesh,
    pub(crate) caller: Proxy,
    pub(crate) called: Proxy,
    /// The caller's forward proxy.
    pub(crate) outbound: SocketAddr,
    /// The called one's mTLS address.
    pub(crate) inbound: SocketAddr,
    pub(crate) program: SocketAddr,
}

pub(crate) fn pair(program: SocketAddr, protocol: Protocol) -> Pair {
    let mesh = Mesh::new();
    let called = mesh.proxy(
        "web",
        mesh.inbound(program, protocol, MtlsMode::Strict),
        &[HOST],
    );
    let inbound = called.open(Entrance::Inbound {
        port: program.port(),
    });
    let caller = mesh.proxy("shopper", mesh.outbound(protocol, &[inbound]), &[HOST]);
    let outbound = caller.open(Entrance::Outbound);
    Pair {
        mesh,
        caller,
        called,
        outbound,
        inbound,
        program,
    }
}

/// Answers every want with a reason, or by publishing a snapshot first.
pub(crate) async fn answer_one(proxy: &Proxy, found: Option<Snapshot>) -> (String, u16) {
    let mut wants = proxy.wants.borrow_mut().take().unwrap();
    let want = tokio::time::timeout(Duration::from_secs(5), wants.recv())
        .await
        .unwrap()
        .unwrap();
    let Want::Host { host, port, reply } = want else {
        panic!("not a host")
    };
    let answer = match found {
        Some(snapshot) => {
            proxy.publish(snapshot).await;
            Ok(())
        }
        None => Err(Reason::ConfigUnavailable),
    };
    reply.send(answer).unwrap();
    (host, port)
}

/// Tells every worker the same.
pub(crate) async fn tell(proxy: &Proxy, message: impl Fn() -> WorkerMsg) {
    for worker in proxy.workers.all() {
        assert!(worker.send(message()).await);
    }
}
