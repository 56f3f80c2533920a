//! One struct per exchange, from its first byte to its last: what metrics count and the access log tells.
//!
//! It is made once (one allocation), travels with the response body and speaks when it is consumed or dropped, so an
//! exchange cannot end uncounted, whoever gives up first. Counters are found by a small key and resolved once per
//! peer and route; a new snapshot empties that cache, because labels may have changed.

mod late;

use crate::denials;
use crate::hash::QuickMap;
use crate::http::body::Source;
use crate::judged;
use crate::spans::Place;
use crate::upstream::pool::Busy;
use crate::worker::{Conn, Entrance, Own, Peer, Phase, Worker};
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
pub(crate) use late::Late;
use naka_engine::exchange::Judged;
use naka_engine::model::{Cluster, ClusterId, Endpoint, Inbound, VirtualHost};
use naka_engine::outlier;
use naka_engine::runtime::Permit;
use naka_telemetry::{
    Direction, Exchange as Counted, Labels, Record, Reporter, RequestHandle, Security, Service,
    TcpHandle, Traffic, Workload,
};
use naka_types::host::Host;
use naka_types::name::{ClusterName, VirtualHostName};
use naka_types::reason::Reason;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How a relayed response ended.
#[derive(Debug)]
pub(crate) enum End<'a> {
    /// Whole, with these trailers.
    Complete(Option<&'a HeaderMap>),
    /// The called side broke it off.
    UpstreamBroke,
    /// The route's timeout passed.
    Late,
}

/// An exchange under way.
pub(crate) struct Open {
    pub(crate) conn: Rc<Conn>,
    pub(crate) permit: Option<Permit>,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) authority: Option<HeaderValue>,
    pub(crate) user_agent: Option<HeaderValue>,
    pub(crate) request_id: Option<HeaderValue>,
    pub(crate) forwarded_for: Option<HeaderValue>,
    pub(crate) grpc: bool,
    pub(crate) body: Option<Rc<Source>>,
    pub(crate) handle: Option<RequestHandle>,
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) reason: Option<Reason>,
    pub(crate) detail: Rc<str>,
    pub(crate) cluster: Option<Arc<str>>,
    pub(crate) route: Option<Arc<str>>,
    /// Names the request is counted under besides: its route's, its server's.
    pub(crate) stat_prefix: Option<Arc<str>>,
    pub(crate) server: Option<Arc<str>>,
    judged: Option<Box<Judged>>,
    pub(crate) span: Option<Place>,
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) attempts: u32,
    pub(crate) busy: Option<Busy>,
    /// Where outlier detection wants to know whether the response broke off.
    pub(crate) watched: Option<(Arc<Cluster>, Arc<Endpoint>)>,
    pub(crate) received: u64,
    pub(crate) tunnel_sent: u64,
    pub(crate) started: Instant,
    pub(crate) started_at: SystemTime,
    pub(crate) answered: Option<Duration>,
}

/// Owner of an exchange's record.
pub(crate) struct Finish(Option<Box<Open>>);

impl std::fmt::Debug for Finish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Finish")
    }
}

impl std::ops::Deref for Finish {
    type Target = Open;
    fn deref(&self) -> &Open {
        self.0
            .as_deref()
            .expect("invariant: only `done` and drop take it, and both consume")
    }
}

impl std::ops::DerefMut for Finish {
    fn deref_mut(&mut self) -> &mut Open {
        self.0
            .as_deref_mut()
            .expect("invariant: only `done` and drop take it, and both consume")
    }
}

impl Finish {
    /// Begins the record of a request.
    pub(crate) fn begin(conn: Rc<Conn>, parts: &http::request::Parts) -> Self {
        conn.begin();
        crate::seen::count(&conn.worker.seen.http);
        let field = |name: &str| parts.headers.get(name).cloned();
        Self(Some(Box::new(Open {
            permit: None,
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            authority: parts.headers.get(http::header::HOST).cloned(),
            user_agent: parts.headers.get(http::header::USER_AGENT).cloned(),
            request_id: None,
            forwarded_for: field(naka_types::header::FORWARDED_FOR),
            grpc: naka_engine::canonical::is_grpc(&parts.headers),
            body: None,
            handle: None,
            status: 0,
            grpc_status: None,
            reason: None,
            detail: "".into(),
            cluster: None,
            route: None,
            stat_prefix: None,
            server: None,
            judged: None,
            span: None,
            upstream: None,
            attempts: 0,
            busy: None,
            watched: None,
            received: 0,
            tunnel_sent: 0,
            started: Instant::now(),
            started_at: SystemTime::now(),
            answered: None,
            conn,
        })))
    }

    /// What policies said besides letting it pass.
    pub(crate) fn judged(&mut self, judged: Option<Box<Judged>>) {
        let (Some(judged), Some(open)) = (judged, &mut self.0) else {
            return;
        };
        judged::count(&open.conn.worker, &judged);
        if let Some(rule) = &judged.refused_by {
            open.detail = judged::refused_by(rule, judged.by).into();
        }
        open.judged = Some(judged);
    }

    /// Counts bytes of the response body.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// Counts bytes of what an exchange became after an upgrade.
    pub(crate) fn tunnelled(&mut self, sent: u64, received: u64) {
        self.tunnel_sent = sent;
        self.received += received;
    }

    /// The response is at its end.
    pub(crate) fn done(mut self, how: End<'_>) {
        let Some(mut open) = self.0.take() else {
            return;
        };
        match how {
            End::Complete(trailers) => {
                if let Some(status) = trailers.and_then(grpc_status) {
                    open.grpc_status = Some(status);
                }
                let sent_whole = open.body.as_ref().is_none_or(|body| body.ended());
                if let (Some(busy), true) = (open.busy.take(), sent_whole) {
                    busy.finished();
                }
                if let (Some(body), false) = (&open.body, sent_whole) {
                    // The rest would reach a program that waits for its next request.
                    body.cut();
                }
            }
            End::UpstreamBroke => {
                open.reason = Some(Reason::UpstreamReset);
                if let Some((cluster, endpoint)) = &open.watched {
                    let worker = &open.conn.worker;
                    let (broke, now) = (outlier::Seen::Broken, worker.now());
                    if outlier::observe(cluster, endpoint, broke, now).rings() {
                        worker.own.barred.notify_one();
                    }
                }
            }
            End::Late => open.reason = Some(Reason::RequestTimeout),
        }
        open.conn.patience().ended();
        open.tell();
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        if let Some(mut open) = self.0.take() {
            let gone = if open.conn.is_late() {
                Reason::RequestTimeout
            } else {
                Reason::ClientGone
            };
            open.reason = match open.reason {
                None => Some(gone),
                // What was to be said of a response that was passed on.
                Some(_) if open.answered.is_some() => Some(gone),
                told => told,
            };
            open.broken_off();
            open.tell();
        }
    }
}

/// The gRPC status in headers or trailers.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

impl Open {
    /// The caller broke it off. A stranger that does so with most of its requests is let go; a mesh peer passes on what
    /// its callers do.
    fn broken_off(&self) {
        let early = self.started.elapsed() < crate::limits::H2_RESET_EARLY;
        let too_many = self.conn.patience().broken_off(early);
        if too_many && self.conn.is_stranger() && self.conn.phase() == Phase::Open {
            let detail = "most of its requests were broken off at once";
            crate::http::serve::refuse(&self.conn, Reason::Flood, detail);
            self.conn.unwelcome();
            self.conn.set_phase(Phase::Closing);
        }
    }

    fn tell(&mut self) {
        self.busy = None;
        let worker = Rc::clone(&self.conn.worker);
        let duration = self.started.elapsed();
        let sent = self.tunnel_sent + self.body.as_ref().map_or(0, |body| body.bytes());
        self.permit = None;
        let trace = worker.spans.end(self, duration);
        self.count(Counted {
            code: self.status,
            reason: self.reason,
            grpc_status: self.grpc_status.filter(|_| self.grpc),
            duration,
            request_bytes: sent,
            response_bytes: self.received,
            trace,
        });
        if let Some(reason) = self.reason {
            worker.shard.local_reply(reason);
            denials::of_request(self, reason);
        }
        if let Some(name) = &self.stat_prefix {
            worker.shard.route(name, self.status);
        }
        if let Some(name) = &self.server {
            worker.shard.server(name, self.status);
        }
        self.conn.end();
        if let Some(lines) = &worker.lines {
            self.log(lines, duration, sent);
        }
    }

    fn count(&mut self, counted: Counted) {
        let worker = &self.conn.worker;
        if let Some(handle) = self.handle.take() {
            return handle.record(&counted);
        }
        let inbound = match *self.conn.entrance {
            Entrance::Inbound { port } | Entrance::Publish { port } => {
                worker.snapshot().inbound(port).cloned()
            }
            Entrance::Outbound
            | Entrance::Captured
            | Entrance::HostPort { .. }
            | Entrance::Bind { .. }
            | Entrance::Egress { .. }
            | Entrance::Gateway { .. } => None,
        };
        let Some(port) = inbound else {
            return worker
                .handles
                .nowhere(&self.conn, self.grpc)
                .record(&counted);
        };
        let peer = self.conn.peer.get();
        let asking = peer.and_then(|p| p.id).filter(|id| worker.is_asking(*id));
        match asking {
            None => worker
                .handles
                .inbound(worker, peer, &port, self.grpc)
                .record(&counted),
            Some(id) => {
                let late = Late {
                    worker: Rc::clone(worker),
                    peer: peer.cloned(),
                    port,
                    grpc: self.grpc,
                    counted,
                };
                worker.after_answer(id, late);
            }
        }
    }

    fn log(&self, lines: &naka_telemetry::Lines, duration: Duration, sent: u64) {
        let path = self.uri.path_and_query().map_or("", |p| p.as_str());
        lines.log(&Record {
            start: self.started_at,
            direction: direction(&self.conn.entrance),
            method: self.method.as_str(),
            path,
            protocol: protocol(self.version),
            response_code: self.status,
            grpc_status: self.grpc_status.filter(|_| self.grpc),
            reason: self.reason,
            details: &self.detail,
            policies: &self
                .judged
                .as_ref()
                .map_or_else(String::new, |one| judged::noticed(one)),
            bytes_received: sent,
            bytes_sent: self.received,
            duration,
            upstream_service_time: self.answered,
            x_forwarded_for: shown(self.forwarded_for.as_ref()),
            user_agent: shown(self.user_agent.as_ref()),
            request_id: shown(self.request_id.as_ref()),
            authority: self
                .uri
                .authority()
                .map_or_else(|| shown(self.authority.as_ref()), |a| a.as_str()),
            upstream_host: self.upstream,
            upstream_cluster: self.cluster.as_deref().unwrap_or(""),
            downstream_local_address: Some(self.conn.local),
            downstream_remote_address: Some(self.conn.remote),
            route_name: self.route.as_deref().unwrap_or(""),
            peer: self.conn.peer.get().map_or("", |peer| &peer.text),
            attempts: self.attempts,
            ..Record::default()
        });
    }
}

fn shown(value: Option<&HeaderValue>) -> &str {
    value.and_then(|v| v.to_str().ok()).unwrap_or("")
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// Which way an entrance leads.
pub(crate) fn direction(entrance: &Entrance) -> Direction {
    match entrance {
        Entrance::Outbound
        | Entrance::Captured
        | Entrance::HostPort { .. }
        | Entrance::Bind { .. }
        | Entrance::Egress { .. } => Direction::Outbound,
        Entrance::Inbound { .. } | Entrance::Publish { .. } => Direction::Inbound,
        Entrance::Gateway { .. } => Direction::Gateway,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    /// To an endpoint.
    Endpoint(ClusterId, SocketAddr, Traffic),
    /// To a cluster none of whose endpoints took it.
    Cluster(ClusterId, Traffic),
    /// From a verified peer or (none) a plain caller to one of our ports.
    Inbound(u16, Option<naka_types::workload::Ulid>, Traffic),
    /// Not even a name is known.
    Nowhere(bool, Traffic),
}

/// Resolved counters of a worker.
#[derive(Default)]
pub(crate) struct Handles {
    requests: RefCell<QuickMap<Key, RequestHandle>>,
    tcp: RefCell<QuickMap<Key, TcpHandle>>,
    /// By name of the called host, where there is no cluster: answers of routes and of proxies.
    hosts: RefCell<HashMap<(Arc<str>, Traffic), RequestHandle>>,
    tcp_hosts: RefCell<HashMap<Arc<str>, TcpHandle>>,
}

fn traffic(grpc: bool) -> Traffic {
    if grpc { Traffic::Grpc } else { Traffic::Http }
}

impl Handles {
    /// Labels may have changed.
    pub(crate) fn forget(&self) {
        self.requests.borrow_mut().clear();
        self.tcp.borrow_mut().clear();
        self.hosts.borrow_mut().clear();
        self.tcp_hosts.borrow_mut().clear();
    }

    fn request(&self, worker: &Worker, key: Key, labels: impl FnOnce() -> Labels) -> RequestHandle {
        let mut known = self.requests.borrow_mut();
        known
            .entry(key)
            .or_insert_with(|| worker.shard.resolve(&labels()))
            .clone()
    }

    /// Requests to an endpoint, as their caller counts them.
    pub(crate) fn endpoint(
        &self,
        conn: &Conn,
        cluster: &Cluster,
        endpoint: &Endpoint,
        grpc: bool,
    ) -> RequestHandle {
        let key = Key::Endpoint(cluster.id, endpoint.address, traffic(grpc));
        self.request(&conn.worker, key, || {
            outbound(&conn.worker, cluster, Some(endpoint), traffic(grpc))
        })
    }

    /// Requests to a cluster that reached no endpoint.
    pub(crate) fn cluster(&self, conn: &Conn, cluster: &Cluster, grpc: bool) -> RequestHandle {
        let key = Key::Cluster(cluster.id, traffic(grpc));
        self.request(&conn.worker, key, || {
            outbound(&conn.worker, cluster, None, traffic(grpc))
        })
    }

    /// Requests to one of our ports.
    fn inbound(
        &self,
        worker: &Worker,
        peer: Option<&Peer>,
        port: &Inbound,
        grpc: bool,
    ) -> RequestHandle {
        let key = Key::Inbound(port.port, peer.and_then(|p| p.id), traffic(grpc));
        self.request(worker, key, || inbound(worker, peer, port, traffic(grpc)))
    }

    /// Requests to a known host that were answered without a cluster.
    pub(crate) fn host(&self, conn: &Conn, host: &Arc<str>, grpc: bool) -> RequestHandle {
        let labels = || to_host(&conn.worker, host, traffic(grpc));
        self.hosts
            .borrow_mut()
            .entry((Arc::clone(host), traffic(grpc)))
            .or_insert_with(|| conn.worker.shard.resolve(&labels()))
            .clone()
    }

    /// Requests that were answered before any destination was known.
    pub(crate) fn nowhere(&self, conn: &Conn, grpc: bool) -> RequestHandle {
        let outwards = conn.entrance.is_outbound();
        let key = Key::Nowhere(outwards, traffic(grpc));
        self.request(&conn.worker, key, || {
            nowhere(&conn.worker, outwards, traffic(grpc))
        })
    }

    /// TCP connections to an endpoint.
    pub(crate) fn tcp_endpoint(
        &self,
        conn: &Conn,
        cluster: &Cluster,
        endpoint: Option<&Endpoint>,
    ) -> TcpHandle {
        let key = match endpoint {
            Some(endpoint) => Key::Endpoint(cluster.id, endpoint.address, Traffic::Tcp),
            None => Key::Cluster(cluster.id, Traffic::Tcp),
        };
        let mut known = self.tcp.borrow_mut();
        let labels = || outbound(&conn.worker, cluster, endpoint, Traffic::Tcp);
        known
            .entry(key)
            .or_insert_with(|| conn.worker.shard.resolve_tcp(&labels()))
            .clone()
    }

    /// TCP connections to one of our ports.
    pub(crate) fn tcp_inbound(&self, conn: &Conn, port: &Inbound) -> TcpHandle {
        let key = Key::Inbound(port.port, conn.peer.get().and_then(|p| p.id), Traffic::Tcp);
        let mut known = self.tcp.borrow_mut();
        known
            .entry(key)
            .or_insert_with(|| {
                conn.worker.shard.resolve_tcp(&inbound(
                    &conn.worker,
                    conn.peer.get(),
                    port,
                    Traffic::Tcp,
                ))
            })
            .clone()
    }

    /// TCP connections to a known host that led to no cluster.
    pub(crate) fn tcp_host(&self, conn: &Conn, host: &Arc<str>) -> TcpHandle {
        let labels = || to_host(&conn.worker, host, Traffic::Tcp);
        self.tcp_hosts
            .borrow_mut()
            .entry(Arc::clone(host))
            .or_insert_with(|| conn.worker.shard.resolve_tcp(&labels()))
            .clone()
    }

    /// TCP connections whose destination is not known.
    pub(crate) fn tcp_nowhere(&self, conn: &Conn) -> TcpHandle {
        let outwards = conn.entrance.is_outbound();
        let mut known = self.tcp.borrow_mut();
        known
            .entry(Key::Nowhere(outwards, Traffic::Tcp))
            .or_insert_with(|| {
                conn.worker
                    .shard
                    .resolve_tcp(&nowhere(&conn.worker, outwards, Traffic::Tcp))
            })
            .clone()
    }
}

fn service_name(own: &Own) -> Arc<str> {
    own.service_host.as_deref().map_or_else(
        || "".into(),
        |host| Service::of_host(host).name.as_str().into(),
    )
}

/// The host that a virtual host stands for; where that is a pattern, the host its route leads to.
pub(crate) fn host_of(vhost: &VirtualHost, destination: Option<&str>) -> Option<Arc<str>> {
    let exact = |host: &str| (!host.starts_with('*')).then(|| host.into());
    let own = match VirtualHostName::parse(&vhost.name) {
        Some(name) => exact(&name.host),
        // At a gateway virtual hosts are named otherwise.
        None => vhost.domains.first().and_then(|domain| {
            let port = format!(":{}", vhost.port);
            exact(domain.strip_suffix(port.as_str()).unwrap_or(domain))
        }),
    };
    own.or_else(|| match ClusterName::parse(destination?)? {
        ClusterName::Outbound { host, .. } => Some(host.as_str().into()),
        ClusterName::Inbound { .. } => None,
    })
}

/// Towards a host of which nothing but the name is known.
fn to_host(worker: &Worker, host: &str, traffic: Traffic) -> Labels {
    let known = Host::parse(host).is_ok();
    Labels {
        service: Arc::new(Service::of_host(if known { host } else { "unknown" })),
        ..nowhere(worker, true, traffic)
    }
}

fn outbound(
    worker: &Worker,
    cluster: &Cluster,
    endpoint: Option<&Endpoint>,
    traffic: Traffic,
) -> Labels {
    let service = &cluster.spec.service;
    let principal = match cluster.spec.tls.as_ref().map(|tls| &*tls.allowed) {
        Some([only]) if endpoint.is_some_and(|e| e.mtls) => only.to_string(),
        _ => "unknown".to_owned(),
    };
    let destination = match endpoint.map(|e| &e.workload) {
        Some(meta) if !meta.name.is_empty() => {
            let mut workload = Workload::new(
                &meta.name,
                &meta.namespace,
                &principal,
                &meta.cluster,
                &meta.labels,
            );
            if !meta.canonical_name.is_empty() {
                workload.canonical_service = meta.canonical_name.to_string();
                workload.canonical_revision = meta.canonical_revision.to_string();
            }
            workload
        }
        _ => Workload::unknown(),
    };
    Labels {
        reporter: Reporter::Source,
        source: worker.me(),
        source_service_name: service_name(&worker.own),
        destination: Arc::new(destination),
        service: Arc::new(Service {
            host: service.host.to_string(),
            name: service.name.to_string(),
            namespace: service.namespace.to_string(),
        }),
        traffic,
        security: Security::Unknown,
    }
}

fn inbound(worker: &Worker, peer: Option<&Peer>, port: &Inbound, traffic: Traffic) -> Labels {
    let source = Arc::new(match peer {
        None => Workload::unknown(),
        Some(peer) => {
            let known = peer.id.and_then(|id| worker.workload_of(id));
            // Who the caller is, its certificate says; the record has only what it is called.
            Workload {
                principal: peer.text.to_string(),
                ..known.map_or_else(
                    || Workload {
                        namespace: peer.spiffe.namespace().to_owned(),
                        ..Workload::unknown()
                    },
                    |known| (*known).clone(),
                )
            }
        }
    });
    let host = if port.service.is_empty() {
        "unknown"
    } else {
        &*port.service
    };
    Labels {
        reporter: Reporter::Destination,
        source_service_name: if peer.is_some() {
            source.canonical_service.as_str().into()
        } else {
            "".into()
        },
        source,
        destination: worker.me(),
        service: Arc::new(Service::of_host(host)),
        traffic,
        security: if peer.is_some() {
            Security::MutualTls
        } else {
            Security::None
        },
    }
}

fn nowhere(worker: &Worker, outwards: bool, traffic: Traffic) -> Labels {
    let unknown = || Arc::new(Workload::unknown());
    Labels {
        reporter: if outwards {
            Reporter::Source
        } else {
            Reporter::Destination
        },
        source: if outwards { worker.me() } else { unknown() },
        source_service_name: if outwards {
            service_name(&worker.own)
        } else {
            "".into()
        },
        destination: if outwards { unknown() } else { worker.me() },
        service: Arc::new(Service {
            host: "unknown".into(),
            name: "unknown".into(),
            namespace: "unknown".into(),
        }),
        traffic,
        security: if outwards {
            Security::Unknown
        } else {
            Security::None
        },
    }
}
