//! What one worker holds, and what every connection of it holds.
//!
//! Everything is `Rc` and `Cell`: nothing leaves the thread. A [`Conn`] lives as long as anything works for its
//! connection (also after an upgrade); its drop is what counts it out, so no path can forget to.

use super::{Accepted, Entrance, Own, Want, WorkerParams};
use crate::edge::spec::Table;
use crate::hash::QuickMap;
use crate::io::Moved;
use crate::limits;
use crate::listen::Owners;
use crate::names::{Filter, Open, Outside};
use crate::proxy_header::Ends;
use crate::record::Late;
use crate::seen::Seen;
use crate::spans::Spans;
use crate::tls::{Carry, TlsSet};
use crate::upstream::connect::{Secured, Sockets};
use crate::upstream::foreign::Foreign;
use crate::upstream::pool::Pools;
use crate::vip::Vips;
use crate::worker::shown::{Peer, Tops};
use naka_engine::exchange::{Around, Need};
use naka_engine::model::{Cluster, ClusterId, Endpoint, PeerTls, Snapshot};
use naka_engine::pick::Cursors;
use naka_engine::runtime::Entered;
use naka_telemetry::{Lines, Shard, Workload};
use naka_types::reason::Reason;
use naka_types::spiffe::SpiffeId;
use naka_types::workload::Ulid;
use rustls_pki_types::ServerName;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, mpsc, oneshot};

/// Peers whose labels are remembered; beyond it the cache starts afresh.
const PEERS_KEPT: usize = 4_096;
/// Records that wait for the labels of one peer.
const RECORDS_KEPT: usize = 1_024;
/// TLS configurations kept before the cache starts afresh.
const CONFIGS_KEPT: usize = 4_096;

/// One worker.
pub(crate) struct Worker {
    pub(crate) own: Arc<Own>,
    pub(crate) pools: Rc<Pools>,
    pub(crate) sockets: Rc<Sockets>,
    pub(crate) vips: Option<Arc<Vips>>,
    pub(crate) seen: Arc<Seen>,
    pub(crate) spans: Spans,
    pub(crate) rng: RefCell<fastrand::Rng>,
    pub(crate) cursors: RefCell<Cursors>,
    pub(crate) shard: Shard,
    pub(crate) lines: Option<Lines>,
    pub(crate) handles: crate::record::Handles,
    /// Names that callers say themselves.
    pub(crate) lookups: crate::resolve::Cache,
    pub(crate) copies: crate::http::tap::Copies,
    pub(super) rights: super::right::Rights,
    snapshot: RefCell<Arc<Snapshot>>,
    /// Told whenever there is a newer one.
    renewed: Notify,
    tls: RefCell<Option<Arc<TlsSet>>>,
    pub(crate) tops: Tops,
    edge: RefCell<Arc<Table>>,
    names: RefCell<Arc<Filter>>,
    wants: mpsc::Sender<Want>,
    load: Arc<AtomicUsize>,
    owners: Owners,
    connections: RefCell<QuickMap<u64, Weak<Conn>>>,
    next: Cell<u64>,
    draining: [RefCell<Draining>; 2],
    configs: RefCell<QuickMap<(ClusterId, Carry), Config>>,
    foreign: Foreign,
    next_config: Cell<u64>,
    /// Ourselves, with the principal of our certificate.
    me: RefCell<Arc<Workload>>,
    peers: RefCell<HashMap<Ulid, Arc<Workload>>>,
    /// Peers asked after, each with what waits for the answer.
    asked: RefCell<HashMap<Ulid, Vec<Late>>>,
    /// For attributes of expressions; the sweep keeps the calendar right.
    pub(crate) around: RefCell<Around>,
}

#[derive(Default)]
struct Draining {
    on: bool,
    open: usize,
    waiting: Vec<oneshot::Sender<()>>,
}

/// A question after a peer. When it ends, however that is, the records that waited for it are told.
struct Asking {
    worker: Rc<Worker>,
    id: Ulid,
}

impl Drop for Asking {
    fn drop(&mut self) {
        let waiting = self.worker.asked.borrow_mut().remove(&self.id);
        drop(waiting);
    }
}

struct Config {
    epoch: u64,
    allowed: Arc<[SpiffeId]>,
    number: u64,
    secured: Secured,
}

impl Worker {
    pub(crate) fn new(params: WorkerParams, load: Arc<AtomicUsize>, owners: Owners) -> Rc<Self> {
        let sockets = Rc::new(Sockets::new(params.door));
        let worker = Rc::new(Self {
            me: RefCell::new(Arc::clone(&params.own.workload)),
            spans: Spans::new(Arc::clone(&params.own.kept)),
            own: params.own,
            pools: Rc::new(Pools::new(Rc::clone(&sockets))),
            sockets,
            vips: params.vips,
            seen: params.seen,
            rng: RefCell::new(fastrand::Rng::new()),
            cursors: RefCell::default(),
            shard: params.shard,
            lines: params.access,
            handles: crate::record::Handles::default(),
            lookups: crate::resolve::Cache::new(params.resolv_conf),
            copies: crate::http::tap::Copies::default(),
            rights: super::right::Rights::default(),
            snapshot: RefCell::new(params.snapshot),
            renewed: Notify::new(),
            tls: RefCell::default(),
            tops: Tops::default(),
            edge: RefCell::default(),
            names: RefCell::new(params.names),
            wants: params.wants,
            load,
            owners,
            connections: RefCell::default(),
            next: Cell::new(0),
            draining: [RefCell::default(), RefCell::default()],
            configs: RefCell::default(),
            foreign: Foreign::default(),
            next_config: Cell::new(1),
            peers: RefCell::default(),
            asked: RefCell::default(),
            around: RefCell::default(),
        });
        worker.around.borrow_mut().own.workload = worker.own.workload.workload.as_str().into();
        worker.around.borrow_mut().repeated = worker.own.repeated.clone();
        worker.set_calendar();
        if let Some(set) = params.tls {
            worker.set_tls(set);
        }
        worker
    }

    /// The configuration of this moment.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Monotonic time as the engine counts it, the same on every thread.
    pub(crate) fn now(&self) -> Duration {
        crate::io::process_start().elapsed()
    }

    /// Compares the monotonic clock with the calendar, which may be set.
    pub(crate) fn set_calendar(&self) {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let epoch = since_1970.unwrap_or_default().saturating_sub(self.now());
        self.around.borrow_mut().epoch = epoch;
    }

    pub(crate) fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        self.handles.forget();
        self.rights.set(&snapshot);
        *self.snapshot.borrow_mut() = snapshot;
        self.judge_again();
        self.renewed.notify_waiters();
    }

    /// Waits until somebody has answered about the names of a cluster, within bounds.
    pub(crate) async fn looked_up(&self, cluster: ClusterId) {
        let looking = async {
            loop {
                let renewed = self.renewed.notified();
                let snapshot = self.snapshot();
                if !snapshot.cluster(cluster).is_some_and(|c| c.looking) {
                    return;
                }
                renewed.await;
            }
        };
        // Whoever waits too long finds that there are no endpoints.
        let _ = tokio::time::timeout(limits::LOOK_UP, looking).await;
    }

    /// The host that configuration says is called by an address at a port, and whether others are, too.
    pub(crate) fn called_by(&self, to: SocketAddr) -> Option<(Arc<str>, bool)> {
        let ip = to.ip().to_canonical();
        self.names.borrow().called_by(ip, to.port())
    }

    /// Whose connections to a port of any address are.
    pub(crate) fn open_at(&self, port: u16) -> Option<Open> {
        self.names.borrow().open_at(port).cloned()
    }

    /// What becomes of calls to hosts that are not of the mesh.
    pub(crate) fn outside(&self) -> Outside {
        self.names.borrow().outside().clone()
    }

    pub(crate) fn set_tls(&self, set: Arc<TlsSet>) {
        // Connections of the old identity are not found under the new one's numbers; the sweep closes them.
        self.configs.borrow_mut().clear();
        let principal = set.svid().spiffe.to_string();
        if self.me.borrow().principal != principal {
            let me = Workload {
                principal,
                ..Workload::clone(&self.me.borrow())
            };
            self.around.borrow_mut().own.identity = me.principal.as_str().into();
            *self.me.borrow_mut() = Arc::new(me);
            self.handles.forget();
        }
        let revoked = Arc::clone(set.bundle().revoked());
        let bundle = set.bundle().clone();
        let before = self.tls.borrow_mut().replace(set);
        if before.is_some_and(|before| !before.bundle().within(&bundle)) {
            super::sweep::outgrown(self, &bundle);
        }
        if !revoked.is_empty() {
            super::sweep::cut(self, &revoked);
        }
    }

    pub(crate) fn tls(&self) -> Option<Arc<TlsSet>> {
        self.tls.borrow().clone()
    }

    /// Ourselves as metrics name us.
    pub(crate) fn me(&self) -> Arc<Workload> {
        Arc::clone(&self.me.borrow())
    }

    pub(crate) fn set_edge(&self, table: Arc<Table>) {
        *self.edge.borrow_mut() = table;
    }

    /// TLS of a gateway's server.
    pub(crate) fn edge_tls(&self, port: u16, chain: &str) -> Option<Arc<rustls::ServerConfig>> {
        self.edge.borrow().get(port, chain).cloned()
    }

    pub(crate) fn set_names(&self, names: Arc<Filter>) {
        *self.names.borrow_mut() = names;
    }

    /// Whether a full host may be in the mesh.
    pub(crate) fn knows(&self, host: &str) -> bool {
        self.names.borrow().contains(host)
    }

    /// Asks for a name's configuration and waits until this worker has it.
    pub(crate) async fn obtain(&self, host: String, port: u16) -> Result<(), Reason> {
        let (reply, answer) = oneshot::channel();
        let asking = async {
            let want = Want::Host { host, port, reply };
            self.wants
                .send(want)
                .await
                .map_err(|_| Reason::ConfigUnavailable)?;
            answer.await.unwrap_or(Err(Reason::ConfigUnavailable))
        };
        tokio::time::timeout(limits::CONFIG_WAIT, asking)
            .await
            .unwrap_or(Err(Reason::ConfigUnavailable))
    }

    /// Waits for what is answered the same whether it came or not.
    pub(crate) async fn fetch(&self, need: Need) {
        match need {
            Need::Lookup(cluster) => self.looked_up(cluster).await,
            Need::Peer(id) => self.obtain_peer(id).await,
            _ => {}
        }
    }

    /// Asks for a verified peer's record and waits until this worker has it, or nobody does.
    async fn obtain_peer(&self, id: Ulid) {
        let (reply, answer) = oneshot::channel();
        let asking = async {
            if self.wants.send(Want::Peer { id, reply }).await.is_ok() {
                // Gone without an answer: its labels stay unknown.
                let _ = answer.await;
            }
        };
        // Not in time: the same.
        let _ = tokio::time::timeout(limits::CONFIG_WAIT, asking).await;
    }

    /// What is known of a verified peer by now.
    pub(crate) fn workload_of(&self, id: Ulid) -> Option<Arc<Workload>> {
        self.peers.borrow().get(&id).cloned()
    }

    /// Asks after a verified peer, unless it is known or asked after already.
    pub(crate) fn ask_for(self: &Rc<Self>, id: Ulid) {
        if self.peers.borrow().contains_key(&id) || self.is_asking(id) {
            return;
        }
        let (reply, answer) = oneshot::channel();
        if self.wants.try_send(Want::Workload { id, reply }).is_err() {
            return;
        }
        self.asked.borrow_mut().insert(id, Vec::new());
        let asking = Asking {
            worker: Rc::clone(self),
            id,
        };
        tokio::task::spawn_local(async move {
            let answer = tokio::time::timeout(limits::CONFIG_WAIT, answer).await;
            if let Ok(Ok(Some(workload))) = answer {
                asking.worker.learn(id, workload);
            }
        });
    }

    fn learn(&self, id: Ulid, workload: Arc<Workload>) {
        let mut peers = self.peers.borrow_mut();
        if peers.len() >= PEERS_KEPT {
            peers.clear();
        }
        peers.insert(id, workload);
        drop(peers);
        self.handles.forget();
    }

    /// Whether an answer about a peer may still come.
    pub(crate) fn is_asking(&self, id: Ulid) -> bool {
        let asked = self.asked.borrow();
        !asked.is_empty() && asked.contains_key(&id)
    }

    /// Keeps a record until the answer about its peer is there; one too many is told at once.
    pub(crate) fn after_answer(&self, id: Ulid, late: Late) {
        if let Some(waiting) = self.asked.borrow_mut().get_mut(&id)
            && waiting.len() < RECORDS_KEPT
        {
            waiting.push(late);
        }
    }

    /// The TLS settings towards a cluster and their number, made once per identity and set of allowed peers.
    fn secured(
        &self,
        cluster: ClusterId,
        peer: &PeerTls,
        carry: Carry,
    ) -> Result<(u64, Secured), Reason> {
        let set = self.tls().ok_or(Reason::TlsFailed)?;
        let mut configs = self.configs.borrow_mut();
        if let Some(known) = configs.get(&(cluster, carry))
            && known.epoch == set.epoch()
            && (Arc::ptr_eq(&known.allowed, &peer.allowed) || known.allowed == peer.allowed)
        {
            return Ok((known.number, known.secured.clone()));
        }
        let config = set
            .outbound(Arc::clone(&peer.allowed), carry)
            .map_err(|_| Reason::TlsFailed)?;
        let name = ServerName::try_from(peer.sni.to_string()).map_err(|_| Reason::TlsFailed)?;
        let number = self.next_config.get();
        self.next_config.set(number + 1);
        let secured = Secured { config, name };
        if configs.len() >= CONFIGS_KEPT {
            configs.clear();
        }
        configs.insert(
            (cluster, carry),
            Config {
                epoch: set.epoch(),
                allowed: Arc::clone(&peer.allowed),
                number,
                secured: secured.clone(),
            },
        );
        Ok((number, secured))
    }

    /// The TLS settings towards an endpoint of a cluster, with their number; `None`: plaintext.
    pub(crate) fn towards(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        called: &str,
        carry: Carry,
    ) -> Result<Option<(u64, Secured)>, Reason> {
        let spec = &cluster.spec;
        if let Some(outside) = &spec.outside {
            let number = || self.next_config.replace(self.next_config.get() + 1);
            return self
                .foreign
                .towards(outside, called, carry, number)
                .map(Some);
        }
        match &spec.tls {
            Some(peer) if endpoint.mtls => self.secured(cluster.id, peer, carry).map(Some),
            _ => Ok(None),
        }
    }

    /// Lets connections of one side end after what they do now.
    pub(crate) fn drain(&self, outbound: bool, done: oneshot::Sender<()>) {
        let mut draining = self.draining[usize::from(outbound)].borrow_mut();
        draining.on = true;
        if draining.open == 0 {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
            return;
        }
        draining.waiting.push(done);
        drop(draining);
        for conn in self.open() {
            if conn.entrance.is_outbound() == outbound {
                conn.set_phase(Phase::Finishing);
            }
        }
    }

    fn is_draining(&self, entrance: &Entrance) -> bool {
        self.draining[usize::from(entrance.is_outbound())]
            .borrow()
            .on
    }

    pub(super) fn open(&self) -> Vec<Rc<Conn>> {
        let connections = self.connections.borrow();
        let mut open: Vec<_> = connections.values().filter_map(Weak::upgrade).collect();
        open.sort_by_key(|c| c.number);
        open
    }

    /// Closes connections over their time.
    pub(crate) fn close_overdue(&self, now: u32) {
        let overdue: Vec<_> = {
            let connections = self.connections.borrow();
            let all = connections.values().filter_map(Weak::upgrade);
            all.filter(|c| c.is_overdue(now)).collect()
        };
        for conn in overdue {
            conn.set_phase(Phase::Closing);
        }
    }
}

/// How a connection is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// As long as it likes.
    Open,
    /// Until its present exchanges end.
    Finishing,
    /// No longer.
    Closing,
}

/// One accepted connection.
pub(crate) struct Conn {
    pub(crate) worker: Rc<Worker>,
    pub(crate) entrance: Arc<Entrance>,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) peer: OnceCell<Peer>,
    /// The ends of the caller's own connection, where a load balancer or the kernel named them.
    pub(crate) told: OnceCell<Ends>,
    /// Whether connections were made that begin with its caller.
    pub(super) introduced: Cell<bool>,
    /// Counts it among the connections of a gateway's port that has limits.
    pub(crate) entered: OnceCell<Entered>,
    /// The kernel says that the workload's own uid made it.
    pub(crate) by_owner: bool,
    pub(super) number: u64,
    phase: Cell<Phase>,
    changed: Notify,
    moved: OnceCell<Arc<Moved>>,
    /// Exchanges under way; while there are none, bytes read are the head of the next request.
    busy: Cell<u32>,
    read_mark: Cell<u64>,
    head_since: Cell<Option<u32>>,
    one_head_at_a_time: Cell<bool>,
    /// When the one exchange under way must be over.
    ends_by: Cell<Option<tokio::time::Instant>>,
    patience: super::patience::Patience,
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn")
            .field("entrance", &self.entrance)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// Takes over a connection from the main thread and serves it.
pub(crate) fn accept(worker: &Rc<Worker>, accepted: Accepted) {
    let (local, unix) = (accepted.stream.local(), accepted.stream.is_unix());
    let stream = accepted.stream.on_runtime();
    let (Ok(local), Ok(stream)) = (local, stream) else {
        worker.load.fetch_sub(1, Relaxed);
        return;
    };
    let number = worker.next.get();
    worker.next.set(number + 1);
    let ours = (unix || accepted.entrance.is_inside())
        || accepted.entrance.is_outbound()
            && worker.owners.of(accepted.peer, local) == Some(worker.own.uid);
    let phase = if worker.is_draining(&accepted.entrance) {
        Phase::Finishing
    } else {
        Phase::Open
    };
    let conn = Rc::new(Conn {
        worker: Rc::clone(worker),
        entrance: accepted.entrance,
        remote: accepted.peer,
        local,
        peer: OnceCell::new(),
        told: OnceCell::new(),
        introduced: Cell::new(false),
        entered: OnceCell::new(),
        by_owner: ours,
        number,
        phase: Cell::new(phase),
        changed: Notify::new(),
        moved: OnceCell::new(),
        busy: Cell::new(0),
        read_mark: Cell::new(0),
        head_since: Cell::new(None),
        one_head_at_a_time: Cell::new(false),
        ends_by: Cell::new(None),
        patience: super::patience::Patience::default(),
    });
    worker.draining[usize::from(conn.entrance.is_outbound())]
        .borrow_mut()
        .open += 1;
    worker
        .connections
        .borrow_mut()
        .insert(number, Rc::downgrade(&conn));
    tokio::task::spawn_local(crate::http::serve::connection(conn, stream));
}

impl Conn {
    /// Whether this is the address of the listener that it came in by. The own address of a captured connection is the
    /// listener's only on loopback; otherwise it is the one that was called.
    pub(crate) fn is_listener(&self, address: SocketAddr) -> bool {
        let called = matches!(*self.entrance, Entrance::Captured)
            && !self.local.ip().to_canonical().is_loopback();
        !called && address == self.local
    }

    /// How it is to go on.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        if phase > self.phase.get() {
            self.phase.set(phase);
            self.changed.notify_waiters();
        }
    }

    /// Resolves once the phase is at least this one. Cancel-safe.
    pub(crate) async fn reaches(&self, phase: Phase) {
        loop {
            let changed = self.changed.notified();
            if self.phase.get() >= phase {
                return;
            }
            changed.await;
        }
    }

    /// Watches the bytes of this connection; `heads` says that request heads come one after the other on it.
    pub(crate) fn watch(&self, moved: Arc<Moved>, heads: bool) {
        self.one_head_at_a_time.set(heads);
        // Set once: a tunnel inside moves the same bytes.
        let _ = self.moved.set(moved);
    }

    /// What comes from now on is no request head.
    pub(crate) fn is_tunnel(&self) {
        self.one_head_at_a_time.set(false);
    }

    /// An exchange begins.
    pub(crate) fn begin(&self) {
        self.busy.set(self.busy.get() + 1);
        self.head_since.set(None);
        self.ends_by.set(None);
    }

    /// The response under way is the only one, and is to be over by then. The response watches the time itself; this
    /// is for a caller that reads nothing, as a response that cannot be written is not looked at.
    pub(crate) fn ends_by(&self, when: Option<tokio::time::Instant>) {
        self.ends_by.set(when);
    }

    /// Whether the response under way is over its time.
    pub(crate) fn is_late(&self) -> bool {
        let ends_by = self.ends_by.get();
        ends_by.is_some_and(|by| tokio::time::Instant::now() >= by)
    }

    /// An exchange has ended.
    pub(crate) fn end(&self) {
        self.busy.set(self.busy.get().saturating_sub(1));
        self.ends_by.set(None);
        if let Some(moved) = self.moved.get() {
            self.read_mark.set(moved.read());
        }
    }

    /// Whether its caller is neither the workload's own program nor a verified mesh peer.
    pub(crate) fn is_stranger(&self) -> bool {
        self.peer.get().is_none() && !self.entrance.is_outbound()
    }

    /// What is borne of its caller.
    pub(crate) fn patience(&self) -> &super::patience::Patience {
        &self.patience
    }

    /// Whether it sent a flood of frames.
    pub(crate) fn flooded(&self) -> bool {
        self.moved.get().is_some_and(|moved| moved.flooded())
    }

    /// Its caller is told so when it is closed.
    pub(crate) fn unwelcome(&self) {
        if let Some(moved) = self.moved.get() {
            moved.unwelcome();
        }
    }

    fn is_overdue(&self, now: u32) -> bool {
        let Some(moved) = self.moved.get() else {
            return false;
        };
        let dawdles = self.is_stranger() && moved.dawdles(now);
        if dawdles || self.is_late() || self.patience.is_stalled(now) {
            return true;
        }
        let idle = now.saturating_sub(moved.last());
        if self.busy.get() > 0 || !self.one_head_at_a_time.get() {
            return u64::from(idle) > limits::CONNECTION_IDLE.as_secs();
        }
        if moved.read() == self.read_mark.get() {
            self.head_since.set(None);
            // Who has never said a word has not begun yet; who has may rest between requests.
            let longest = match moved.read() {
                0 => limits::HEADER_READ,
                _ => limits::CONNECTION_IDLE,
            };
            return u64::from(idle) > longest.as_secs();
        }
        let since = self.head_since.get().unwrap_or(now);
        self.head_since.set(Some(since));
        u64::from(now.saturating_sub(since)) >= limits::HEADER_READ.as_secs()
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        let worker = &self.worker;
        worker.load.fetch_sub(1, Relaxed);
        worker.connections.borrow_mut().remove(&self.number);
        self.leave();
        let mut draining = worker.draining[usize::from(self.entrance.is_outbound())].borrow_mut();
        draining.open -= 1;
        if draining.open == 0 && draining.on {
            for done in draining.waiting.drain(..) {
                let _ = done.send(());
            }
        }
    }
}
