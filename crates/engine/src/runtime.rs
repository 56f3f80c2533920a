//! Runtime state apart from configuration: counts and permits that outlive every snapshot.
//!
//! A [`Registry`] hands out state by stable identity: a cluster's by its name, an endpoint's by cluster and address.
//! It holds only weak references, so state lives as long as a snapshot or a running exchange needs it; an endpoint
//! that leaves and comes back while calls to it are under way finds its count again. All counts are atomics shared by
//! the workers, so limits are exact over them; the registry's lock is taken only while configuration is built.
//!
//! Invariant: whatever is counted up is owned by a guard that counts down when it is dropped.

mod availability;
mod bucket;
mod gate;
mod load;
mod peers;
mod queue;
mod recent;
mod reserve;

pub use availability::Bar;
pub use bucket::{Buckets, Left, MOST as MOST_BUCKETS, Pace};
pub use gate::{Entered, Gate, PortLimits};
pub use load::Load;
pub use peers::{PLACES as MOST_PEERS, Peer, Peers, Struck};
pub use queue::{Offer, Waiter};
pub(crate) use recent::Recent;

use crate::breaker::Circuit;
use crate::health::Asked;
use crate::model::{ClusterId, Limits, RateLimit, RequestGuard};
use crate::outlier::Tally;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Finds state by identity.
#[derive(Debug, Default)]
pub struct Registry(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    ids: HashMap<Arc<str>, ClusterId>,
    clusters: BTreeMap<Arc<str>, Weak<ClusterRuntime>>,
    endpoints: BTreeMap<(Arc<str>, SocketAddr), Weak<EndpointState>>,
    /// With the number of keys they are for.
    buckets: BTreeMap<Arc<str>, (usize, Weak<Buckets>)>,
    peers: BTreeMap<Arc<str>, Weak<Peers>>,
}

impl Registry {
    /// The number of a cluster name. It never changes and is never given to another name: a route kept by a running
    /// exchange can then never lead to the wrong cluster. Names are bounded by what this workload ever called.
    #[must_use]
    pub fn id(&self, cluster: &str) -> ClusterId {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = tables.ids.get(cluster) {
            return *id;
        }
        let id = ClusterId(u32::try_from(tables.ids.len()).unwrap_or(u32::MAX));
        tables.ids.insert(cluster.into(), id);
        id
    }

    /// State of a cluster.
    #[must_use]
    pub fn cluster(&self, cluster: &str) -> Arc<ClusterRuntime> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = tables.clusters.get(cluster).and_then(Weak::upgrade) {
            return state;
        }
        let state = Arc::new(ClusterRuntime::default());
        tables
            .clusters
            .insert(cluster.into(), Arc::downgrade(&state));
        state
    }

    /// State of an endpoint of a cluster.
    #[must_use]
    pub fn endpoint(&self, cluster: &Arc<str>, address: SocketAddr) -> Arc<EndpointState> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(cluster), address);
        if let Some(state) = tables.endpoints.get(&key).and_then(Weak::upgrade) {
            return state;
        }
        let state = Arc::new(EndpointState::default());
        tables.endpoints.insert(key, Arc::downgrade(&state));
        state
    }

    /// Gives the rules of a limit the buckets that rules of the same name and size have already.
    pub fn adopt(&self, limit: &RateLimit) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for rule in &limit.rules {
            let known = tables.buckets.get(&rule.name);
            let known = known.filter(|(places, _)| *places == rule.places);
            if let Some(known) = known.and_then(|(_, buckets)| buckets.upgrade()) {
                // Set already: these are in use.
                let _ = rule.buckets.set(known);
            }
            let own = (rule.places, Arc::downgrade(rule.buckets()));
            tables.buckets.insert(Arc::clone(&rule.name), own);
        }
    }

    /// Gives a guard that may ban the table that the object of its name has already.
    pub fn adopt_guard(&self, guard: &RequestGuard) {
        if !guard.bans() {
            return;
        }
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tables.peers.get(&guard.rule).and_then(Weak::upgrade) {
            // Set already: it is in use.
            let _ = guard.peers.set(known);
        }
        let own = Arc::downgrade(guard.peers());
        tables.peers.insert(Arc::clone(&guard.rule), own);
    }

    /// Forgets state that nobody holds any more; call it after a snapshot was replaced.
    pub fn sweep(&self) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables.clusters.retain(|_, state| state.strong_count() > 0);
        tables
            .buckets
            .retain(|_, (_, state)| state.strong_count() > 0);
        tables.endpoints.retain(|_, state| state.strong_count() > 0);
        tables.peers.retain(|_, state| state.strong_count() > 0);
    }
}

/// Counts of one cluster over all workers.
#[derive(Debug, Default)]
pub struct ClusterRuntime {
    connections: Gauge,
    pending: Gauge,
    requests: Gauge,
    retries: Gauge,
    queue: queue::Queue,
    recent: Recent,
    reserve: reserve::Reserve,
    pub(crate) circuit: Circuit,
    epoch: AtomicU64,
    /// Held while it is decided whether one more endpoint may be ejected.
    pub(crate) ejecting: Mutex<()>,
    /// Milliseconds of the sweep at which shares of failures are judged next; 0: nothing was called since the last.
    pub(crate) sweep_due: AtomicU64,
}

/// Counts of one endpoint over all workers.
#[derive(Debug, Default)]
pub struct EndpointState {
    active: Gauge,
    bars: AtomicU32,
    load: Load,
    pub(crate) tally: Tally,
    pub(crate) asked: Asked,
}

impl EndpointState {
    /// What was observed of its load.
    #[must_use]
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// Requests (or TCP connections) under way.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.value()
    }
}

/// Which count of a cluster a [`Slot`] belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    Connections,
    Pending,
    Retries,
}

impl ClusterRuntime {
    /// Requests under way.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.requests.value()
    }

    /// Open connections that hold a slot.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections.value()
    }

    /// Requests that wait for a connection.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.pending.value()
    }

    /// Retries under way.
    #[must_use]
    pub fn retries(&self) -> u32 {
        self.retries.value()
    }

    /// A slot for a new connection, kept as long as it is open; `None` at the limit.
    #[must_use]
    pub fn connection(self: &Arc<Self>, limits: &Limits) -> Option<Slot> {
        self.slot(Count::Connections, limits.connections)
    }

    /// A slot for a retry: at most the budget's share of the requests, and at most the limit; `free`: one that takes
    /// nothing from the reserve.
    pub(crate) fn retry(
        self: &Arc<Self>,
        limits: &Limits,
        free: bool,
        now: Duration,
    ) -> Option<Slot> {
        let budget = &limits.budget;
        let recent = budget
            .window
            .map_or(0, |window| self.recent.count(window, now));
        let allowed = budget.of(self.requests().max(recent));
        let slot = self.slot(Count::Retries, allowed.min(limits.retries))?;
        (free || !budget.reserve || self.reserve.take()).then_some(slot)
    }

    /// Takes note of an answer that is no server error.
    pub(crate) fn answered(&self) {
        self.reserve.put();
    }

    /// Takes note of when a request began, where the retry budget wants to know.
    pub(crate) fn began(&self, limits: &Limits, now: Duration) {
        if let Some(window) = limits.budget.window {
            self.recent.add(window, now);
        }
    }

    /// Counts a request to an endpoint; `None` at the limit.
    pub(crate) fn request(
        self: &Arc<Self>,
        endpoint: &Arc<EndpointState>,
        limits: &Limits,
        retry: Option<Slot>,
    ) -> Option<Permit> {
        if !self.requests.take(limits.requests) {
            return None;
        }
        endpoint.active.take(u32::MAX);
        Some(Permit {
            cluster: Arc::clone(self),
            endpoint: Arc::clone(endpoint),
            retry,
        })
    }

    fn slot(self: &Arc<Self>, count: Count, limit: u32) -> Option<Slot> {
        self.gauge(count).take(limit).then(|| Slot {
            cluster: Arc::clone(self),
            count,
        })
    }

    fn gauge(&self, count: Count) -> &Gauge {
        match count {
            Count::Connections => &self.connections,
            Count::Pending => &self.pending,
            Count::Retries => &self.retries,
        }
    }
}

/// A counted connection, wait or retry; counts down when dropped, and calls whoever waits for a connection.
#[must_use]
#[derive(Debug)]
pub struct Slot {
    cluster: Arc<ClusterRuntime>,
    count: Count,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.cluster.gauge(self.count).give();
        if self.count == Count::Connections {
            self.cluster.released();
        }
    }
}

/// A counted request; keep it until the response has been passed on whole, drop it before reporting a failed try.
#[must_use]
#[derive(Debug)]
pub struct Permit {
    cluster: Arc<ClusterRuntime>,
    endpoint: Arc<EndpointState>,
    retry: Option<Slot>,
}

impl Permit {
    /// The request goes on as one among others: it does not count as a retry any more.
    pub(crate) fn retry_ended(&mut self) {
        self.retry = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.cluster.requests.give();
        self.endpoint.active.give();
    }
}

/// A count with a limit.
#[derive(Debug, Default)]
struct Gauge(AtomicU32);

impl Gauge {
    fn value(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self, limit: u32) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now < limit).then(|| now.saturating_add(1))
            })
            .is_ok()
    }

    fn give(&self) {
        // A guard gives only what it took, so this never goes below zero.
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Permit, Registry};
    use crate::model::Limits;
    use std::sync::Arc;
    use std::time::Duration;

    fn limits(n: u32) -> Limits {
        Limits {
            connections: n,
            pending: n,
            requests: n,
            retries: u32::MAX,
            ..Limits::default()
        }
    }

    #[test]
    fn state_is_found_again_while_held_and_forgotten_after() {
        let registry = Registry::default();
        let name: Arc<str> = "outbound|80||a".into();
        let address = "127.0.0.1:1".parse().unwrap();
        let (cluster, endpoint) = (registry.cluster(&name), registry.endpoint(&name, address));
        let permit = cluster.request(&endpoint, &limits(1), None).unwrap();
        registry.sweep();
        assert_eq!(registry.cluster(&name).requests(), 1);
        assert_eq!(registry.endpoint(&name, address).active(), 1);
        drop(permit);
        assert_eq!(registry.endpoint(&name, address).active(), 0);
        let weak = Arc::downgrade(&endpoint);
        drop((cluster, endpoint));
        registry.sweep();
        assert!(weak.upgrade().is_none());
        assert_eq!(registry.id(&name), registry.id(&name));
        assert_ne!(registry.id(&name), registry.id("other"));
    }

    #[test]
    fn limits_hold_and_guards_give_back() {
        let registry = Registry::default();
        let (cluster, limits) = (registry.cluster("a"), limits(2));
        let endpoint = registry.endpoint(&"a".into(), "127.0.0.1:1".parse().unwrap());
        let held: Vec<_> = (0..3).filter_map(|_| cluster.connection(&limits)).collect();
        assert_eq!((held.len(), cluster.connections()), (2, 2));
        let waiting: Vec<_> = (0..3).filter_map(|_| cluster.wait(&limits, 0, 0)).collect();
        assert_eq!((waiting.len(), cluster.pending()), (2, 2));
        let requests: Vec<_> = (0..3)
            .filter_map(|_| cluster.request(&endpoint, &limits, None))
            .collect();
        assert_eq!((requests.len(), endpoint.active()), (2, 2));
        drop((held, waiting, requests));
        assert_eq!(
            (cluster.connections(), cluster.pending(), cluster.requests()),
            (0, 0, 0)
        );
    }

    #[test]
    fn retries_stay_within_the_budget_at_every_load() {
        let registry = Registry::default();
        let (cluster, none) = (registry.cluster("a"), Limits::default());
        let endpoint = registry.endpoint(&"a".into(), "127.0.0.1:1".parse().unwrap());
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut active, mut retries): (Vec<Permit>, Vec<_>) = (Vec::new(), Vec::new());
        let mut reached = 0;
        for _ in 0..20_000 {
            match rng.u8(0..4) {
                0 | 1 => active.extend(cluster.request(&endpoint, &none, None)),
                2 => {
                    if let Some(slot) = cluster.retry(&none, true, Duration::ZERO) {
                        retries.push(slot);
                        let bound = (cluster.requests() / 5).max(3);
                        assert!(cluster.retries() <= bound);
                        reached = reached.max(cluster.retries());
                    }
                }
                _ => {
                    active.pop();
                    if rng.bool() {
                        retries.pop();
                    }
                }
            }
        }
        assert!(reached > 3, "the budget must grow with the load");
    }

    #[test]
    fn a_retry_budget_is_a_share_with_a_least() {
        use crate::model::Budget;
        let budget = |share, least| Budget {
            share,
            least,
            window: None,
            reserve: false,
        };
        for (budget, requests, want) in [
            (Budget::default(), 0, 3),
            (Budget::default(), 100, 20),
            (budget(2_550, 0), 100, 25),
            (budget(0, 0), 1_000, 0),
            (budget(0, 7), 1_000, 7),
            (budget(10_000, 0), u32::MAX, u32::MAX),
        ] {
            assert_eq!(budget.of(requests), want, "{budget:?} {requests}");
        }
        // Requests that ended within the window still count.
        let (registry, second) = (Registry::default(), Duration::from_secs(1));
        let mut limits = Limits::default();
        (limits.budget.least, limits.budget.window) = (0, Some(second));
        let cluster = registry.cluster("a");
        for _ in 0..10 {
            cluster.began(&limits, second * 10);
        }
        let held: Vec<_> = (0..5)
            .filter_map(|_| cluster.retry(&limits, true, second * 10))
            .collect();
        assert_eq!(held.len(), 2);
        drop(held);
        assert!(cluster.retry(&limits, true, second * 20).is_none());
    }

    #[test]
    fn limits_are_exact_over_threads() {
        let registry = Registry::default();
        let (cluster, limits) = (registry.cluster("a"), limits(50));
        let endpoint = registry.endpoint(&"a".into(), "127.0.0.1:1".parse().unwrap());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let got = cluster.request(&endpoint, &limits, None);
                        assert!(cluster.requests() <= 50);
                        drop(got);
                    }
                });
            }
        });
        assert_eq!((cluster.requests(), endpoint.active()), (0, 0));
    }
}
