//! One struct per exchange, from its first byte to its last: what metrics count and the access log tells.
//!
//! It is made once (one allocation), travels with the response body and speaks when it is consumed or dropped, so an
//! exchange cannot end uncounted, whoever gives up first. Counters are found by a small key and resolved once per
//! peer and route; a new snapshot empties that cache, because labels may have changed.

use crate::hash::QuickMap;
use crate::http::body::Source;
use crate::upstream::pool::Busy;
use crate::worker::{Conn, Entrance, Own};
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use naka_engine::model::{Cluster, ClusterId, Endpoint, Inbound};
use naka_engine::runtime::Permit;
use naka_telemetry::{
    Direction, Exchange as Counted, Labels, Record, Reporter, RequestHandle, Security, Service,
    TcpHandle, Traffic, Workload,
};
use naka_types::reason::Reason;
use std::cell::RefCell;
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
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) attempts: u32,
    pub(crate) busy: Option<Busy>,
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
            upstream: None,
            attempts: 0,
            busy: None,
            received: 0,
            tunnel_sent: 0,
            started: Instant::now(),
            started_at: SystemTime::now(),
            answered: None,
            conn,
        })))
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
            }
            End::UpstreamBroke => open.reason = Some(Reason::UpstreamReset),
        }
        open.tell();
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        if let Some(mut open) = self.0.take() {
            open.reason = open.reason.or(Some(Reason::ClientGone));
            open.tell();
        }
    }
}

/// The gRPC status in headers or trailers.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

impl Open {
    fn tell(&mut self) {
        self.busy = None;
        let worker = Rc::clone(&self.conn.worker);
        let duration = self.started.elapsed();
        let sent = self.tunnel_sent + self.body.as_ref().map_or(0, |body| body.bytes());
        self.permit = None;
        let handle = match self.handle.take() {
            Some(handle) => handle,
            None => worker.handles.nowhere(&self.conn, self.grpc),
        };
        handle.record(&Counted {
            code: self.status,
            reason: self.reason,
            grpc_status: self.grpc_status.filter(|_| self.grpc),
            duration,
            request_bytes: sent,
            response_bytes: self.received,
        });
        if let Some(reason) = self.reason {
            worker.shard.local_reply(reason);
        }
        self.conn.end();
        if let Some(lines) = &worker.lines {
            self.log(lines, duration, sent);
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
        Entrance::Outbound | Entrance::Bind { .. } => Direction::Outbound,
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
    /// Not even a cluster is known.
    Nowhere(bool, Traffic),
}

/// Resolved counters of a worker.
#[derive(Default)]
pub(crate) struct Handles {
    requests: RefCell<QuickMap<Key, RequestHandle>>,
    tcp: RefCell<QuickMap<Key, TcpHandle>>,
}

fn traffic(grpc: bool) -> Traffic {
    if grpc { Traffic::Grpc } else { Traffic::Http }
}

impl Handles {
    /// Labels may have changed.
    pub(crate) fn forget(&self) {
        self.requests.borrow_mut().clear();
        self.tcp.borrow_mut().clear();
    }

    fn request(&self, conn: &Conn, key: Key, labels: impl FnOnce() -> Labels) -> RequestHandle {
        let mut known = self.requests.borrow_mut();
        known
            .entry(key)
            .or_insert_with(|| conn.worker.shard.resolve(&labels()))
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
        self.request(conn, key, || {
            outbound(&conn.worker.own, cluster, Some(endpoint), traffic(grpc))
        })
    }

    /// Requests to a cluster that reached no endpoint.
    pub(crate) fn cluster(&self, conn: &Conn, cluster: &Cluster, grpc: bool) -> RequestHandle {
        let key = Key::Cluster(cluster.id, traffic(grpc));
        self.request(conn, key, || {
            outbound(&conn.worker.own, cluster, None, traffic(grpc))
        })
    }

    /// Requests to one of our ports.
    pub(crate) fn inbound(&self, conn: &Conn, port: &Inbound, grpc: bool) -> RequestHandle {
        let key = Key::Inbound(port.port, conn.peer.get().and_then(|p| p.id), traffic(grpc));
        self.request(conn, key, || inbound(conn, port, traffic(grpc)))
    }

    /// Requests that were answered before any destination was known.
    pub(crate) fn nowhere(&self, conn: &Conn, grpc: bool) -> RequestHandle {
        let outwards = conn.entrance.is_outbound();
        let key = Key::Nowhere(outwards, traffic(grpc));
        self.request(conn, key, || {
            nowhere(&conn.worker.own, outwards, traffic(grpc))
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
        let labels = || outbound(&conn.worker.own, cluster, endpoint, Traffic::Tcp);
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
                conn.worker
                    .shard
                    .resolve_tcp(&inbound(conn, port, Traffic::Tcp))
            })
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
                    .resolve_tcp(&nowhere(&conn.worker.own, outwards, Traffic::Tcp))
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

fn outbound(own: &Own, cluster: &Cluster, endpoint: Option<&Endpoint>, traffic: Traffic) -> Labels {
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
        source: Arc::clone(&own.workload),
        source_service_name: service_name(own),
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

fn inbound(conn: &Conn, port: &Inbound, traffic: Traffic) -> Labels {
    let own = &conn.worker.own;
    let source = match conn.peer.get() {
        None => Arc::new(Workload::unknown()),
        Some(peer) => peer
            .id
            .and_then(|id| conn.worker.workload_of(id))
            .unwrap_or_else(|| {
                // Until the record arrives, the certificate alone speaks.
                Arc::new(Workload {
                    namespace: peer.spiffe.namespace().to_owned(),
                    principal: peer.text.to_string(),
                    ..Workload::unknown()
                })
            }),
    };
    let host = if port.service.is_empty() {
        "unknown"
    } else {
        &*port.service
    };
    Labels {
        reporter: Reporter::Destination,
        source_service_name: if conn.peer.get().is_some() {
            source.canonical_service.as_str().into()
        } else {
            "".into()
        },
        source,
        destination: Arc::clone(&own.workload),
        service: Arc::new(Service::of_host(host)),
        traffic,
        security: if conn.peer.get().is_some() {
            Security::MutualTls
        } else {
            Security::None
        },
    }
}

fn nowhere(own: &Own, outwards: bool, traffic: Traffic) -> Labels {
    let unknown = || Arc::new(Workload::unknown());
    Labels {
        reporter: if outwards {
            Reporter::Source
        } else {
            Reporter::Destination
        },
        source: if outwards {
            Arc::clone(&own.workload)
        } else {
            unknown()
        },
        source_service_name: if outwards {
            service_name(own)
        } else {
            "".into()
        },
        destination: if outwards {
            unknown()
        } else {
            Arc::clone(&own.workload)
        },
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
