//! A worker: one thread, one current-thread runtime, its own pools, caches and counters.
//!
//! Workers share nothing that a request would wait for: they see immutable snapshots, handed over by message, and the
//! engine's runtime registry of atomics. The main thread talks to a worker only through [`WorkerHandle`]. A message
//! is handled to its end before the next one, so the barrier of [`WorkerMsg::Snapshot`] is answered when every
//! request begun later uses the new snapshot. A panic in one connection ends that connection; the worker goes on.

mod introduce;
pub(crate) mod patience;
pub(crate) mod right;
mod shown;
pub(crate) mod socket;
mod state;
mod sweep;

use crate::denials::Denials;
use crate::edge::spec::Table;
use crate::listen::Owners;
use crate::names::Filter;
use crate::seen::Seen;
use crate::spans::kept::Kept;
use crate::tls::TlsSet;
use crate::vip::Vips;
use naka_engine::exchange::Repeated;
use naka_engine::model::{Cluster, Endpoint, Snapshot};
use naka_telemetry::{Lines, Shard, Workload};
use naka_types::protocol::Protocol;
use naka_types::reason::Reason;
use naka_types::workload::Ulid;
use naka_wire::v1;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use tokio::sync::{Notify, mpsc, oneshot};

pub(crate) use shown::Peer;
pub use socket::Socket;
pub(crate) use state::{Conn, Phase, Worker};

/// Where a connection came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entrance {
    /// The program's proxy variables.
    Outbound,
    /// The redirection of all calls out of the program's own network namespace, or of the whole machine.
    Captured,
    /// A port of that namespace's loopback which leads to the host's.
    HostPort {
        /// The port.
        port: u16,
    },
    /// A local address that stands for one service.
    Bind {
        /// Full host.
        host: Arc<str>,
        /// Service port.
        port: u16,
        /// Bound inside the program's own network namespace.
        inside: bool,
        /// What is spoken, where the bind says it.
        protocol: Protocol,
    },
    /// A local address for requests that say themselves which host they mean.
    Egress {
        /// Port that is meant unless they say another.
        port: u16,
        /// Bound inside the program's own network namespace.
        inside: bool,
    },
    /// The mTLS address of one of the program's ports.
    Inbound {
        /// The program's own port.
        port: u16,
    },
    /// The plain entry for callers outside the mesh.
    Publish {
        /// The program's own port.
        port: u16,
    },
    /// A port of a gateway.
    Gateway {
        /// Port number in the Gateway object.
        port: u16,
    },
}

impl Entrance {
    /// Whether the program's own calls come in here.
    pub(crate) fn is_outbound(&self) -> bool {
        self.is_inside()
            || matches!(
                self,
                Self::Outbound | Self::Bind { .. } | Self::Egress { .. }
            )
    }

    /// Whether nothing but what is captured can connect here: the caller is the program, or its machine.
    pub(crate) fn is_inside(&self) -> bool {
        matches!(
            self,
            Self::Captured
                | Self::HostPort { .. }
                | Self::Bind { inside: true, .. }
                | Self::Egress { inside: true, .. }
        )
    }
}

/// A connection before a byte of it is read.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub stream: Socket,
    /// The other end.
    pub peer: SocketAddr,
    /// Where it came in.
    pub entrance: Arc<Entrance>,
}

/// What a worker is told.
#[derive(Debug)]
pub enum WorkerMsg {
    /// New configuration; the barrier is answered once requests begun from then on use it.
    Snapshot(Arc<Snapshot>, Option<oneshot::Sender<()>>),
    /// New identity or trust; connections made with the old one live on.
    Tls(Arc<TlsSet>),
    /// TLS of a gateway's servers; connections made with the old one live on.
    Edge(Arc<Table>),
    /// The names that are in the mesh.
    Names(Arc<Filter>),
    /// A connection to serve.
    Accept(Accepted),
    /// Inbound, published and gateway connections end after their present exchanges. Answered when none is left.
    DrainInbound(oneshot::Sender<()>),
    /// The same for the program's own calls.
    DrainOutbound(oneshot::Sender<()>),
    /// An endpoint to be asked after its health.
    Check(Arc<Cluster>, Arc<Endpoint>),
    /// What it has of these traces.
    Spans(Arc<HashSet<u128>>, oneshot::Sender<Vec<v1::Span>>),
    /// Answered at once: the thread still takes what it is told.
    Ping(oneshot::Sender<()>),
    /// The thread ends; open connections are closed.
    Stop,
}

/// Something a request needs that this proxy does not hold.
#[derive(Debug)]
pub enum Want {
    /// The virtual host of a name in the mesh, with all it refers to.
    Host {
        /// Full host.
        host: String,
        /// Service port.
        port: u16,
        /// To be answered only after the asking worker's barrier for a snapshot that holds it.
        reply: oneshot::Sender<Result<(), Reason>>,
    },
    /// Labels of a verified peer, for telemetry and policy.
    Workload {
        /// Its id, from its certificate.
        id: Ulid,
        /// `None` when nobody knows it.
        reply: oneshot::Sender<Option<Arc<Workload>>>,
    },
    /// The record of a verified peer, for a policy that asks for its labels.
    Peer {
        /// Its id, from its certificate.
        id: Ulid,
        /// To be answered only after the asking worker's barrier for a snapshot that holds it, if there is one.
        reply: oneshot::Sender<()>,
    },
}

/// Facts about this proxy that never change while it runs.
#[derive(Debug, Clone)]
pub struct Own {
    /// Namespace in which short names resolve.
    pub namespace: String,
    /// Ourselves as metrics and access log name us.
    pub workload: Arc<Workload>,
    /// Host of the service we serve, if any.
    pub service_host: Option<Arc<str>>,
    /// Uid whose connections to loopback listeners are the program's own.
    pub uid: u32,
    /// `user:password` that other uids must show.
    pub credential: Option<String>,
    /// Rung when an endpoint was barred: the main thread sees to its return.
    pub barred: Arc<Notify>,
    /// Traces of which a call failed although it was repeated.
    pub repeated: Repeated,
    /// Calls that were refused, until the control plane has them.
    pub denials: Arc<Denials>,
    /// Traces that are kept.
    pub kept: Arc<Kept>,
}

/// What a worker is built from.
#[derive(Debug)]
pub struct WorkerParams {
    /// From 0.
    pub index: usize,
    /// Configuration to begin with; may be empty.
    pub snapshot: Arc<Snapshot>,
    /// Identity to begin with; without one mTLS connections are refused.
    pub tls: Option<Arc<TlsSet>>,
    /// Names to begin with.
    pub names: Arc<Filter>,
    /// Where missing configuration is asked for.
    pub wants: mpsc::Sender<Want>,
    /// Facts about this proxy.
    pub own: Arc<Own>,
    /// The file that names the host's name servers.
    pub resolv_conf: PathBuf,
    /// This worker's counters.
    pub shard: Shard,
    /// Where exchanges are logged, if anywhere.
    pub access: Option<Lines>,
    /// Door of the program's own network namespace, if it has one.
    pub door: Option<PathBuf>,
    /// Names behind virtual addresses, where the program's calls are captured.
    pub vips: Option<Arc<Vips>>,
    /// What this worker sees.
    pub seen: Arc<Seen>,
}

/// The main thread's end of a worker.
#[derive(Debug)]
pub struct WorkerHandle {
    queue: mpsc::Sender<WorkerMsg>,
    connections: Arc<AtomicUsize>,
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

/// Starts a worker thread.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn spawn(params: WorkerParams) -> io::Result<WorkerHandle> {
    let (queue, messages) = mpsc::channel(crate::limits::WORKER_QUEUE);
    let connections = Arc::new(AtomicUsize::new(0));
    let load = Arc::clone(&connections);
    let seen = Arc::clone(&params.seen);
    let thread = std::thread::Builder::new()
        .name(format!("worker-{}", params.index))
        .spawn(move || run(params, messages, load))?;
    Ok(WorkerHandle {
        queue,
        connections,
        seen,
        thread: Some(thread),
    })
}

fn run(params: WorkerParams, messages: mpsc::Receiver<WorkerMsg>, load: Arc<AtomicUsize>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(2)
        .build_local(tokio::runtime::LocalOptions::default());
    match runtime {
        Ok(runtime) => runtime.block_on(serve(params, messages, load)),
        Err(error) => tracing::error!(error = %error, "a worker could not start"),
    }
}

async fn serve(
    params: WorkerParams,
    mut messages: mpsc::Receiver<WorkerMsg>,
    load: Arc<AtomicUsize>,
) {
    let worker = Worker::new(params, load, Owners::new());
    let sweeping = tokio::task::spawn_local(sweep::run(std::rc::Rc::clone(&worker)));
    while let Some(message) = messages.recv().await {
        match message {
            WorkerMsg::Snapshot(snapshot, barrier) => {
                worker.set_snapshot(snapshot);
                if let Some(barrier) = barrier {
                    // Nobody waits any more: fine.
                    let _ = barrier.send(());
                }
            }
            WorkerMsg::Tls(set) => worker.set_tls(set),
            WorkerMsg::Edge(table) => worker.set_edge(table),
            WorkerMsg::Names(names) => worker.set_names(names),
            WorkerMsg::Accept(accepted) => state::accept(&worker, accepted),
            WorkerMsg::DrainInbound(done) => worker.drain(false, done),
            WorkerMsg::DrainOutbound(done) => worker.drain(true, done),
            WorkerMsg::Check(cluster, endpoint) => {
                let worker = std::rc::Rc::clone(&worker);
                tokio::task::spawn_local(crate::health::ask(worker, cluster, endpoint));
            }
            WorkerMsg::Spans(traces, reply) => {
                // Nobody waits any more: fine.
                let _ = reply.send(worker.spans.of(&traces));
            }
            WorkerMsg::Ping(pong) => {
                // Nobody waits any more: fine.
                let _ = pong.send(());
            }
            WorkerMsg::Stop => break,
        }
    }
    sweeping.abort();
}

impl WorkerHandle {
    /// Connections it serves or is about to.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// What it sees.
    #[must_use]
    pub fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen)
    }

    /// Tells it something; waits while its queue is full. False when the worker is gone.
    pub async fn send(&self, message: WorkerMsg) -> bool {
        self.queue.send(message).await.is_ok()
    }
}

/// All workers of a process.
#[derive(Debug)]
pub struct Workers(Vec<WorkerHandle>);

impl Workers {
    /// From started workers.
    #[must_use]
    pub fn new(handles: Vec<WorkerHandle>) -> Self {
        Self(handles)
    }

    /// Each of them.
    #[must_use]
    pub fn all(&self) -> &[WorkerHandle] {
        &self.0
    }

    /// Gives a connection to the worker with the fewest.
    pub async fn hand(&self, message: WorkerMsg) {
        if let Some(worker) = self.0.iter().min_by_key(|w| w.connections()) {
            // Counted here already, so that a burst spreads before the workers wake up.
            worker.connections.fetch_add(1, Relaxed);
            if !worker.send(message).await {
                worker.connections.fetch_sub(1, Relaxed);
            }
        }
    }

    /// Hands a snapshot to every worker and returns when all have passed it.
    pub async fn publish(&self, snapshot: &Arc<Snapshot>) {
        let mut barriers = Vec::with_capacity(self.0.len());
        for worker in &self.0 {
            let (done, barrier) = oneshot::channel();
            if worker
                .send(WorkerMsg::Snapshot(Arc::clone(snapshot), Some(done)))
                .await
            {
                barriers.push(barrier);
            }
        }
        for barrier in barriers {
            // A worker that ended has no request left to use the old one.
            let _ = barrier.await;
        }
    }

    /// Resolves when every worker has answered; never when one hangs or is gone.
    pub async fn answer(&self) {
        let mut pongs = Vec::with_capacity(self.0.len());
        for worker in &self.0 {
            let (ping, pong) = oneshot::channel();
            worker.send(WorkerMsg::Ping(ping)).await;
            pongs.push(pong);
        }
        for pong in pongs {
            if pong.await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Ends every worker and waits for their threads.
    pub async fn stop(&mut self) {
        for worker in &self.0 {
            worker.send(WorkerMsg::Stop).await;
        }
        for worker in &mut self.0 {
            if let Some(thread) = worker.thread.take() {
                // Its panic, if any, was reported when it happened.
                let _ = thread.join();
            }
        }
    }
}
