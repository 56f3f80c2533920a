//! The registry: one shard per worker for traffic, and a few process-wide numbers.

use crate::aside::{Aside, Copied};
use crate::label::Labels;
use crate::name::Name;
use crate::seconds::Seconds;
use crate::series::{RequestHandle, RequestSeries, TcpHandle, TcpSeries};
use naka_types::reason::Reason;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Label sets a shard keeps apart. A sidecar calls at most 1,000 names; and a set is about 80 kB of exposition.
const CAP: usize = 1_000;

/// A label set of a process-wide number, in the order given.
pub(crate) type Pairs = Vec<(&'static str, String)>;

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
    pub(crate) requests: Mutex<HashMap<Labels, Arc<RequestSeries>>>,
    pub(crate) tcp: Mutex<HashMap<Labels, Arc<TcpSeries>>>,
    pub(crate) replies: [AtomicU64; Reason::ALL.len()],
    pub(crate) capped: AtomicU64,
    pub(crate) aside: Aside,
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
            requests: Mutex::default(),
            tcp: Mutex::default(),
            replies: std::array::from_fn(|_| AtomicU64::new(0)),
            capped: AtomicU64::new(0),
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
        crate::expose::render(&self.0)
    }
}

/// A number that is set or added to.
#[derive(Debug, Clone)]
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
}

/// One worker's part. Resolving locks and hashes; keep the handle for the connection or route.
#[derive(Debug, Clone)]
pub struct Shard(Arc<ShardInner>);

impl Shard {
    /// The handle that counts requests of these labels.
    #[must_use]
    pub fn resolve(&self, labels: &Labels) -> RequestHandle {
        RequestHandle(self.find(&self.0.requests, labels, RequestSeries::new))
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

    fn find<S>(
        &self,
        map: &Mutex<HashMap<Labels, Arc<S>>>,
        labels: &Labels,
        new: impl FnOnce() -> S,
    ) -> Arc<S> {
        let mut map = lock(map);
        if let Some(series) = map.get(labels) {
            return Arc::clone(series);
        }
        let key = if map.len() < self.0.cap {
            labels.clone()
        } else {
            self.0.capped.fetch_add(1, Relaxed);
            labels.capped()
        };
        Arc::clone(map.entry(key).or_insert_with(|| Arc::new(new())))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
