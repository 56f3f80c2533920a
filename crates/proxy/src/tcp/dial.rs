//! Where a connection's bytes go, and getting there: the engine decides, other endpoints included; this connects.
//!
//! Names outside the mesh are resolved by the system's resolver; names inside it never are, whatever state their
//! configuration is in.

use crate::fail::Fail;
use crate::io::Io;
use crate::limits;
use crate::names::{self, InMesh, Outside};
use crate::record::host_of;
use crate::tls::Carry;
use crate::upstream::connect::{To, connect};
use crate::upstream::tunnel;
use crate::worker::right::Right;
use crate::worker::{Conn, Worker};
use naka_engine::canonical::{Direction, Origin};
use naka_engine::exchange::{Answered, Cx, Dial, Effect, Input, Need, PassThrough, Tried, Try};
use naka_engine::model::{Keeping, VirtualHost};
use naka_engine::runtime::Permit;
use naka_telemetry::TcpHandle;
use naka_types::host::Host;
use naka_types::reason::Reason;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

/// A connection that stands.
pub(crate) struct Dialled {
    pub(crate) io: Io,
    pub(crate) address: SocketAddr,
    pub(crate) cluster: Arc<str>,
    pub(crate) handle: TcpHandle,
    pub(crate) permit: Option<Permit>,
    pub(crate) attempts: u32,
    /// How long it may last.
    pub(crate) keeping: Keeping,
    /// Where its right is looked at again.
    pub(crate) right: Option<Rc<Right>>,
}

/// Why none stands.
pub(crate) struct Failed {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    pub(crate) handle: TcpHandle,
}

/// The virtual host for a name, asked for if need be; `None` when the name is outside the mesh.
pub(crate) async fn virtual_host(
    conn: &Rc<Conn>,
    host: &str,
    port: u16,
) -> Result<Option<Arc<VirtualHost>>, Reason> {
    let worker = &conn.worker;
    if let Some(found) = worker.snapshot().virtual_host(host, port) {
        return Ok(Some(Arc::clone(found)));
    }
    match answer(worker, host, port).await {
        Answered::External | Answered::Through(_) => Ok(None),
        Answered::Failed(reason) => Err(reason),
        Answered::Ready => {
            let found = worker.snapshot().virtual_host(host, port).cloned();
            found.map(Some).ok_or(Reason::ConfigUnavailable)
        }
    }
}

/// Obtains a name's configuration, or says that the name is outside the mesh.
pub(crate) async fn answer(worker: &Worker, host: &str, port: u16) -> Answered {
    match in_mesh(worker, host) {
        Err(reason) => Answered::Failed(reason),
        Ok(None) => outside_of(worker),
        Ok(Some(full)) => match worker.obtain(full.as_str().to_owned(), port).await {
            Ok(()) => Answered::Ready,
            // Only names of the mesh's own domain can be nothing else; any other is called as if it were unknown.
            Err(Reason::NoSuchPort) if !names::is_of_mesh(full.as_str()) => outside_of(worker),
            Err(reason) => Answered::Failed(reason),
        },
    }
}

/// What becomes of a call to a host that is not of the mesh.
fn outside_of(worker: &Worker) -> Answered {
    match worker.outside() {
        Outside::Allowed => Answered::External,
        Outside::Denied => Answered::Failed(Reason::EgressDenied),
        Outside::Through(name) => {
            let snapshot = worker.snapshot();
            let mut clusters = snapshot.clusters();
            let found = clusters.find(|cluster| **cluster.name() == *name);
            found.map_or(Answered::Failed(Reason::UnknownCluster), |cluster| {
                Answered::Through(cluster.id)
            })
        }
    }
}

/// The full host if the name may be in the mesh; `None` outside.
fn in_mesh(worker: &Worker, host: &str) -> Result<Option<Host>, Reason> {
    let found = names::in_mesh(host, &worker.own.namespace, |host| worker.knows(host))?;
    Ok(match found {
        InMesh::Yes(full) => Some(full),
        InMesh::No => None,
    })
}

/// The full host of a name that is in the mesh.
pub(crate) fn known(worker: &Worker, host: &str) -> Option<Arc<str>> {
    let full = in_mesh(worker, host).ok()??;
    Some(full.as_str().into())
}

/// The host that a connection of this origin calls, if it is one of the mesh's.
pub(crate) fn called(conn: &Conn, origin: &Origin) -> Option<Arc<str>> {
    let (host, port) = origin.destination.as_ref()?;
    let snapshot = conn.worker.snapshot();
    match snapshot.virtual_host(host, *port) {
        Some(vhost) => host_of(vhost, None),
        None => known(&conn.worker, host),
    }
}

/// Addresses of a name that the caller said, of a host that has none in its configuration: the one that the program
/// called, where that stands for it. Never this host's own loopback: the program has no business there.
pub(crate) async fn addresses(
    conn: &Conn,
    made_to: Option<SocketAddr>,
    host: &str,
    port: u16,
) -> Vec<SocketAddr> {
    let all = match made_to.filter(|to| !crate::vip::is_virtual(to.ip())) {
        Some(to) => vec![to.ip()],
        None => conn.worker.lookups.look_up(host).await,
    };
    // A program of a network namespace of its own has no business at this host's loopback.
    let inside = conn.entrance.is_inside();
    all.into_iter()
        .filter(|ip| !inside || !(ip.to_canonical().is_loopback() || ip.is_unspecified()))
        .map(|ip| SocketAddr::new(ip, port))
        .filter(|address| !conn.is_listener(*address))
        .collect()
}

/// Addresses of a host outside the mesh.
pub(crate) async fn resolve(conn: &Conn, host: &str, port: u16) -> Result<Vec<SocketAddr>, Reason> {
    let bare = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    let looking = tokio::net::lookup_host((bare, port));
    let found = tokio::time::timeout(limits::PASSTHROUGH_CONNECT, looking).await;
    let addresses: Vec<_> = match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(_)) | Err(_) => return Err(Reason::UnknownHost),
    };
    if addresses.iter().any(|address| conn.is_listener(*address)) {
        return Err(Reason::LoopDetected);
    }
    if addresses.is_empty() {
        Err(Reason::UnknownHost)
    } else {
        Ok(addresses)
    }
}

/// Connects to where a connection of this origin belongs.
pub(crate) async fn dial(conn: &Rc<Conn>, origin: &Origin) -> Result<Dialled, Failed> {
    let worker = &conn.worker;
    let mut engine = Dial::new();
    let mut input = Input::Begin;
    let mut detail = String::new();
    let mut found: Vec<SocketAddr>;
    loop {
        let effect = step(worker, &mut engine, input, origin);
        detail = judged(worker, &mut engine).unwrap_or(detail);
        input = match effect {
            Effect::Need(Need::VirtualHost { host, port }) => {
                Input::Answer(answer(worker, &host, port).await)
            }
            // Bytes have no body, and nobody is asked about them; the engine never wants either here.
            Effect::Need(Need::Body { .. } | Need::Check) => Input::Body(None),
            Effect::Need(Need::Backoff(pause) | Need::Delay(pause)) => {
                tokio::time::sleep(pause).await;
                Input::TimerFired
            }
            Effect::Need(need @ (Need::Lookup(_) | Need::Peer(_))) => {
                worker.fetch(need).await;
                Input::Answer(Answered::Ready)
            }
            Effect::Need(Need::Addresses { host, port, kept }) => {
                let made_to = origin.made_to.filter(|_| kept);
                found = addresses(conn, made_to, &host, port).await;
                Input::Addresses(&found)
            }
            Effect::Try(attempt) => match call(conn, origin, &attempt).await {
                Ok(io) => {
                    engine.connected(worker.now());
                    if engine.has_barred() {
                        worker.own.barred.notify_one();
                    }
                    return Ok(standing(conn, origin, io, attempt));
                }
                Err(fail) => {
                    drop(attempt);
                    detail = fail.detail.to_string();
                    Input::Tried(Tried {
                        outcome: fail.outcome(),
                        replayable: true,
                    })
                }
            },
            Effect::PassThrough(to) => return outside(conn, &to).await,
            Effect::Reply(reply) => {
                return Err(failed(conn, origin, &engine, reply.reason, detail));
            }
            Effect::Relay | Effect::Done => {
                return Err(failed(conn, origin, &engine, Reason::ClientGone, detail));
            }
        };
    }
}

fn step(worker: &Worker, engine: &mut Dial, input: Input<'_>, origin: &Origin) -> Effect {
    let snapshot = worker.snapshot();
    let effect = engine.step(
        input,
        &mut Cx {
            snapshot: &snapshot,
            origin,
            now: worker.now(),
            around: &worker.around.borrow(),
            rng: &mut worker.rng.borrow_mut(),
            cursors: &mut worker.cursors.borrow_mut(),
            why: None,
        },
    );
    if engine.has_barred() {
        worker.own.barred.notify_one();
    }
    effect
}

/// What policies said of the connection: counted, and as the words of who refused it.
fn judged(worker: &Worker, engine: &mut Dial) -> Option<String> {
    let judged = engine.judged()?;
    crate::judged::count(worker, &judged);
    let rule = judged.refused_by.as_deref();
    rule.map(|rule| crate::judged::refused_by(rule, judged.by))
}

async fn call(conn: &Rc<Conn>, origin: &Origin, attempt: &Try) -> Result<Io, Fail> {
    let spec = &attempt.cluster.spec;
    let called = origin.destination.as_ref().map_or("", |(host, _)| host);
    let secured = conn
        .worker
        .towards(&attempt.cluster, &attempt.endpoint, called, Carry::Tcp)
        .map_err(|reason| Fail::connect(reason, "no certificate yet"))?
        .map(|(_, secured)| secured);
    // Connections of bytes do not wait for each other: they are long.
    let slot = attempt.cluster.runtime.connection(&spec.limits);
    let slot = slot.ok_or_else(Fail::full)?;
    let to = match origin.direction {
        Direction::Inbound { .. } => To::program(spec),
        Direction::Outbound | Direction::Gateway => To::Anyone,
    };
    let io = connect(
        &conn.worker.sockets,
        &to,
        attempt.endpoint.address,
        spec.connect_timeout,
        secured.as_ref(),
        spec.keeping.probes.as_ref(),
        conn.introduction(spec).0.as_ref(),
    )
    .await?;
    let io = match &spec.tunnel {
        None => io,
        Some(tunnel) => tunnel::through(io, tunnel).await?,
    };
    Ok(io.counted(Some(slot)))
}

fn standing(conn: &Conn, origin: &Origin, io: Io, attempt: Try) -> Dialled {
    let handles = &conn.worker.handles;
    let handle = match origin.direction {
        Direction::Inbound { port } => match conn.worker.snapshot().inbound(port) {
            Some(inbound) => handles.tcp_inbound(conn, inbound),
            None => handles.tcp_nowhere(conn),
        },
        Direction::Outbound | Direction::Gateway => {
            handles.tcp_endpoint(conn, &attempt.cluster, Some(&attempt.endpoint))
        }
    };
    Dialled {
        io,
        address: attempt.endpoint.address,
        cluster: Arc::clone(attempt.cluster.name()),
        keeping: attempt.cluster.spec.keeping,
        handle,
        attempts: attempt.attempt,
        permit: Some(attempt.permit),
        right: conn.worker.right(origin, None),
    }
}

fn failed(conn: &Conn, origin: &Origin, engine: &Dial, reason: Reason, detail: String) -> Failed {
    let handles = &conn.worker.handles;
    let handle = match (origin.direction, engine.cluster()) {
        (Direction::Outbound | Direction::Gateway, Some(cluster)) => {
            handles.tcp_endpoint(conn, cluster, engine.endpoint().map(|e| &**e))
        }
        (Direction::Outbound | Direction::Gateway, None) => match called(conn, origin) {
            Some(host) => handles.tcp_host(conn, &host),
            None => handles.tcp_nowhere(conn),
        },
        (Direction::Inbound { .. }, _) => handles.tcp_nowhere(conn),
    };
    Failed {
        reason,
        detail,
        handle,
    }
}

/// Connects to a name outside the mesh, in the order the resolver gave.
async fn outside(conn: &Rc<Conn>, to: &PassThrough) -> Result<Dialled, Failed> {
    let addresses = resolve(conn, &to.host, to.port)
        .await
        .map_err(|reason| Failed {
            reason,
            detail: to.host.to_string(),
            handle: conn.worker.handles.tcp_nowhere(conn),
        })?;
    first_of(conn, &to.host, addresses).await
}

/// Connects to the first of these addresses that takes it.
async fn first_of(
    conn: &Rc<Conn>,
    host: &str,
    addresses: Vec<SocketAddr>,
) -> Result<Dialled, Failed> {
    let handle = conn.worker.handles.tcp_nowhere(conn);
    let fail = |reason, detail: String| Failed {
        reason,
        detail,
        handle: handle.clone(),
    };
    let mut last = fail(Reason::ConnectFailed, host.to_owned());
    for (tried, address) in (1..).zip(addresses) {
        let sockets = &conn.worker.sockets;
        match connect(
            sockets,
            &To::Anyone,
            address,
            limits::PASSTHROUGH_CONNECT,
            None,
            None,
            None,
        )
        .await
        {
            Ok(io) => {
                return Ok(Dialled {
                    io,
                    address,
                    cluster: "PassthroughCluster".into(),
                    handle,
                    permit: None,
                    attempts: tried,
                    keeping: Keeping::default(),
                    right: None,
                });
            }
            Err(error) => last = fail(error.reason, error.detail.to_string()),
        }
    }
    Err(last)
}

/// Connects to a port of this host's loopback, for a program that lives in a network namespace of its own.
pub(crate) async fn host_port(conn: &Rc<Conn>, port: u16) -> Result<Dialled, Failed> {
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    first_of(conn, "this host's loopback", vec![address]).await
}
