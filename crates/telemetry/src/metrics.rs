//! The registry: one shard per worker for traffic, and a few process-wide numbers.

use crate::aside::{Aside, Copied};
use crate::label::Labels;
use crate::name::Name;
use crate::seconds::Seconds;
use crate::series::{RequestHandle, RequestSeries, Room, Series, TcpHandle, TcpSeries};
use naka_types::reason::Reason;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Label sets a shard keeps apart. A sidecar calls at most 1,000 names; and a set is about 80 kB of exposition.
const CAP: usize = 1_000;
/// Sets named `other`: by reporter, traffic and security.
const CAPPED: usize = 18;
/// Outcomes that a shard keeps apart, over all label sets: 550 bytes each, so 2.2 MB. Every set has one more, `other`.
const OUTCOMES: usize = 4_000;

/// A label set of a process-wide number, in the order given.
pub type Pairs = Vec<(&'static str, String)>;

/// All metrics of a process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) shards: Mutex<Vec<Arc<ShardInner>>>,
    pub(crate) numbers: Mutex<BTreeMap<&'static str, BTreeMap<Pairs, Arc<AtomicU64>>>>,
    pub(crate) seconds: Mutex<BTreeMap<&'static str, BTreeMap<Pairs, Seconds>>>,
}

#[derive(Debug)]
pub(crate) struct ShardInner {
    cap: usize,
    room: Arc<Room>,
    pub(crate) requests: Mutex<HashMap<Labels, Kept<RequestSeries>>>,
    pub(crate) tcp: Mutex<HashMap<Labels, Kept<TcpSeries>>>,
    pub(crate) replies: [AtomicU64; Reason::ALL.len()],
    pub(crate) capped: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) aside: Aside,
}

/// What is counted under a label set, and since when that has not moved.
#[derive(Debug)]
pub(crate) struct Kept<S> {
    pub(crate) series: Arc<S>,
    /// What it had counted when it was looked at last.
    seen: u64,
    since_s: u32,
}

impl Metrics {
    /// No shard yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A shard for one more worker.
    #[must_use]
    pub fn shard(&self) -> Shard {
        self.shard_of(CAP)
    }

    /// A shard that keeps another number of label sets apart.
    #[must_use]
    pub fn shard_of(&self, cap: usize) -> Shard {
        let shard = Arc::new(ShardInner {
            cap,
            room: Room::of(OUTCOMES),
            requests: Mutex::default(),
            tcp: Mutex::default(),
            replies: std::array::from_fn(|_| AtomicU64::new(0)),
            capped: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            aside: Aside::default(),
        });
        lock(&self.0.shards).push(Arc::clone(&shard));
        Shard(shard)
    }

    /// A process-wide counter or gauge. The same name and labels give the same number.
    #[must_use]
    pub fn number(&self, name: Name, labels: &[(&'static str, &str)]) -> Number {
        let pairs = labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        let mut numbers = lock(&self.0.numbers);
        let cell = numbers
            .entry(name.name)
            .or_default()
            .entry(pairs)
            .or_default();
        Number(Arc::clone(cell))
    }

    /// Replaces all that is told under a name of process-wide gauges: what is not among the rows is gone.
    pub fn gauges(&self, name: Name, rows: impl IntoIterator<Item = (Pairs, u64)>) {
        let rows = rows
            .into_iter()
            .map(|(pairs, value)| (pairs, Arc::new(AtomicU64::new(value))))
            .collect();
        lock(&self.0.numbers).insert(name.name, rows);
    }

    /// A process-wide histogram of durations. The same name and labels give the same one.
    #[must_use]
    pub fn seconds(&self, name: Name, labels: &[(&'static str, &str)]) -> Seconds {
        let pairs = labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        let mut seconds = lock(&self.0.seconds);
        let of_name = seconds.entry(name.name).or_default();
        of_name.entry(pairs).or_default().clone()
    }

    /// Says until when a certificate in use is good.
    pub fn certificate_expires(&self, what: &str, identity: &str, not_after: u64) {
        self.number(
            crate::name::CERTIFICATE_EXPIRY,
            &[("certificate", what), ("identity", identity)],
        )
        .set(not_after);
    }

    /// The text exposition of everything, process numbers included.
    #[must_use]
    pub fn render(&self) -> String {
        crate::expose::render(&self.0, false)
    }

    /// The same in the format of OpenMetrics, which has exemplars.
    #[must_use]
    pub fn render_open(&self) -> String {
        crate::expose::render(&self.0, true)
    }
}

/// A number that is set or added to.
#[derive(Debug, Clone, Default)]
pub struct Number(Arc<AtomicU64>);

impl Number {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    /// What it is.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One worker's part. Resolving locks and hashes; keep the handle for the connection or route.
#[derive(Debug, Clone)]
pub struct Shard(Arc<ShardInner>);

impl Shard {
    /// The handle that counts requests of these labels.
    #[must_use]
    pub fn resolve(&self, labels: &Labels) -> RequestHandle {
        let new = || RequestSeries::new(Arc::clone(&self.0.room));
        RequestHandle(self.find(&self.0.requests, labels, new))
    }

    /// The handle that counts TCP connections of these labels.
    #[must_use]
    pub fn resolve_tcp(&self, labels: &Labels) -> TcpHandle {
        TcpHandle(self.find(&self.0.tcp, labels, TcpSeries::new))
    }

    /// Counts a reply made here, or a connection ended here.
    pub fn local_reply(&self, reason: Reason) {
        self.0.replies[reason as usize].fetch_add(1, Relaxed);
    }

    /// Counts a request of a route that has a name for it.
    pub fn route(&self, name: &Arc<str>, status: u16) {
        self.0.aside.route(name, status);
    }

    /// Counts a request of a gateway's server that has a name.
    pub fn server(&self, name: &Arc<str>, status: u16) {
        self.0.aside.server(name, status);
    }

    /// Counts what a rule of a policy noticed that decides nothing.
    pub fn policy(&self, rule: &Arc<str>, outcome: &'static str) {
        self.0.aside.policy(rule, outcome);
    }

    /// Counts a copy of a request.
    pub fn copied(&self, what: Copied) {
        self.0.aside.copied(what);
    }

    /// Forgets label sets that nobody holds a handle of and under which nothing was counted for that long. To be
    /// called now and then by the worker, which lets go of the handles it keeps before. Counters that come back begin
    /// at nothing, as after a restart.
    pub fn expire(&self, now_s: u32, idle_s: u32) {
        let gone = sweep(&self.0.requests, now_s, idle_s) + sweep(&self.0.tcp, now_s, idle_s);
        self.0.expired.fetch_add(gone, Relaxed);
    }

    fn find<S>(
        &self,
        map: &Mutex<HashMap<Labels, Kept<S>>>,
        labels: &Labels,
        new: impl FnOnce() -> S,
    ) -> Arc<S> {
        let mut map = lock(map);
        if let Some(kept) = map.get(labels) {
            return Arc::clone(&kept.series);
        }
        // Sets named `other` take nobody's place: the first test alone is the usual case, the last is for floods.
        let apart = |map: &HashMap<Labels, _>| map.keys().filter(|set| !set.is_capped()).count();
        let cap = self.0.cap;
        let has_room = map.len() < cap || map.len() < cap + CAPPED && apart(&map) < cap;
        let key = if has_room {
            labels.clone()
        } else {
            self.0.capped.fetch_add(1, Relaxed);
            labels.capped()
        };
        let kept = map.entry(key).or_insert_with(|| Kept {
            series: Arc::new(new()),
            // Not what a sum can be: the first look begins the wait.
            seen: u64::MAX,
            since_s: 0,
        });
        Arc::clone(&kept.series)
    }
}

fn sweep<S: Series>(map: &Mutex<HashMap<Labels, Kept<S>>>, now_s: u32, idle_s: u32) -> u64 {
    let mut map = lock(map);
    let before = map.len();
    map.retain(|_, kept| {
        let counted = kept.series.counted();
        if counted != kept.seen {
            (kept.seen, kept.since_s) = (counted, now_s);
        }
        // Handles come out of this map and of handles alone: one that is held nowhere else stays so under the lock.
        Arc::strong_count(&kept.series) > 1 || now_s.saturating_sub(kept.since_s) < idle_s
    });
    (before - map.len()) as u64
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
