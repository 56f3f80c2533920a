//! Push: who holds what, what a new world changes for them, and how far they have come.
//!
//! [`Hub`] keeps the current world, the compiled resources that somebody holds ([`cache`]), and one latest-value slot
//! per subscriber: a set of keys that may have changed since it was last written to. A slow reader only lets its own
//! set grow; nobody waits for it. [`session`] turns a slot into responses for one stream.
//!
//! Progress is counted in epochs: each published world has the next number, and every mark and every response in
//! flight remembers the epochs it carries. A subscriber is behind an epoch while it has a mark or an unanswered
//! response of that epoch or an older one.
//!
//! Invariants: a resource whose version did not change is marked for nobody; marking never waits; an equal version
//! is never sent again on a stream.

use crate::compile::{Class, Dialect, Key};
use crate::world::{Read, World};
use naka_telemetry::{Metrics, Seconds, name};
use naka_types::node::Role;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{Notify, watch};

pub mod cache;
pub mod session;

#[cfg(test)]
mod tests;

use cache::Cache;

/// Number of a published world.
pub type Epoch = u64;
/// Number of a connected subscriber.
pub type SubscriberId = u64;

/// How many revisions, changes and refusals are remembered.
const REMEMBERED: usize = 256;

/// Who a subscriber is.
#[derive(Debug, Clone)]
pub struct Subscriber {
    /// Name for people: `<workload>.<namespace>`.
    pub name: String,
    /// Node id.
    pub node: String,
    /// What of it decides its configuration.
    pub class: Class,
    /// Whether it acknowledges endpoints only once every worker has them.
    pub drain_ack: bool,
    /// Whether clusters and endpoints are sent before what refers to them.
    pub closure: bool,
    /// Whether it holds a filter of all host names.
    pub name_filter: bool,
    /// Naka version it runs.
    pub version: String,
}

/// Epochs a mark or a response carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    first: Epoch,
    last: Epoch,
}

impl Span {
    fn at(epoch: Epoch) -> Self {
        Self {
            first: epoch,
            last: epoch,
        }
    }

    fn join(self, other: Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
        }
    }

    fn holds(self, epoch: Epoch) -> bool {
        self.first <= epoch && epoch <= self.last
    }
}

/// Where the time of a change goes, in seconds. By default nobody looks.
#[derive(Debug, Clone, Default)]
pub struct Phases {
    /// From the first change to the moment it is taken up, so that more may join it.
    pub debounce: Seconds,
    /// The world and the resources that somebody holds.
    pub compile: Seconds,
    /// Until a subscriber is planned for: it may still be busy with what came before.
    pub queue: Seconds,
    /// From the plan until the transport took the last response.
    pub write: Seconds,
    /// From a response to the proxy's answer.
    pub ack: Seconds,
}

impl Phases {
    /// The phases as metrics.
    #[must_use]
    pub fn of(metrics: &Metrics) -> Self {
        let phase = |phase| metrics.seconds(name::PUSH_PHASE, &[("phase", phase)]);
        Self {
            debounce: phase("debounce"),
            compile: phase("compile"),
            queue: phase("queue"),
            write: phase("write"),
            ack: phase("ack"),
        }
    }
}

/// Everything that waits for one subscriber.
#[derive(Debug)]
struct Slot {
    who: Subscriber,
    since: Instant,
    marks: BTreeMap<Key, Span>,
    roots: Option<Span>,
    /// Since when something is marked.
    marked: Option<Instant>,
    in_flight: BTreeMap<String, (Span, Instant)>,
    refused: BTreeMap<(String, String), String>,
    notify: Arc<Notify>,
}

impl Slot {
    fn behind(&self, epoch: Epoch) -> bool {
        let old = |span: &Span| span.first <= epoch;
        self.marks.values().any(old)
            || self.roots.as_ref().is_some_and(old)
            || self.in_flight.values().any(|(span, _)| old(span))
    }

    /// Oldest epoch that the proxy does not have yet.
    fn oldest(&self) -> Option<Epoch> {
        let in_flight = self.in_flight.values().map(|(span, _)| span);
        let all = self.marks.values().chain(&self.roots).chain(in_flight);
        all.map(|span| span.first).min()
    }
}

/// A refusal, as `rollout` and status report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Proxy.
    pub proxy: String,
    /// Resource and the proxy's words.
    pub message: String,
}

/// How far a revision has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Proxies that were sent something for it and have answered.
    pub acked: Vec<String>,
    /// Proxies that were sent, or still have to be sent, something for it and have not answered.
    pub behind: Vec<String>,
    /// Proxies that refused something of it.
    pub nacks: Vec<Refusal>,
    /// Whether the world of that revision was published yet.
    pub published: bool,
}

/// How far the connected proxies are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lacking {
    /// Names of those that do not have it.
    pub behind: BTreeSet<String>,
    /// Workload ids of all.
    pub present: BTreeSet<String>,
    /// Whether some are none of ours: their agents acknowledge a moment before them.
    pub foreign: bool,
}

/// A connected proxy, for display.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Who it is.
    pub who: Subscriber,
    /// Seconds since it connected.
    pub connected_s: u64,
    /// Whether it has everything.
    pub up_to_date: bool,
    /// Resources it refused: name and words.
    pub refused: Vec<(String, String)>,
    /// Resources it holds, by type.
    pub held: BTreeMap<&'static str, usize>,
}

#[derive(Debug)]
struct Inner {
    cache: Cache,
    epoch: Epoch,
    slots: BTreeMap<SubscriberId, Slot>,
    next_id: SubscriberId,
    revisions: BTreeMap<u64, Epoch>,
    touched: BTreeMap<Epoch, BTreeSet<String>>,
    refusals: VecDeque<(Span, Refusal)>,
    pushes: BTreeMap<&'static str, u64>,
    nacks: BTreeMap<&'static str, u64>,
}

/// The meeting point of worlds and subscribers.
#[derive(Debug)]
pub struct Hub {
    inner: Mutex<Inner>,
    /// Where the time goes.
    pub phases: Phases,
    moved: watch::Sender<u64>,
}

impl Default for Hub {
    fn default() -> Self {
        Self::new()
    }
}

impl Hub {
    /// A hub with an empty world.
    #[must_use]
    pub fn new() -> Self {
        Self::timed(Phases::default())
    }

    /// As [`Hub::new`], with its times counted.
    #[must_use]
    pub fn timed(phases: Phases) -> Self {
        Self {
            phases,
            inner: Mutex::new(Inner {
                cache: Cache::default(),
                epoch: 0,
                slots: BTreeMap::new(),
                next_id: 0,
                revisions: BTreeMap::new(),
                touched: BTreeMap::new(),
                refusals: VecDeque::new(),
                pushes: BTreeMap::new(),
                nacks: BTreeMap::new(),
            }),
            moved: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current world.
    #[must_use]
    pub fn world(&self) -> Arc<World> {
        Arc::clone(self.lock().cache.world())
    }

    /// The current world and its number.
    #[must_use]
    pub fn current(&self) -> (Arc<World>, Epoch) {
        let inner = self.lock();
        (Arc::clone(inner.cache.world()), inner.epoch)
    }

    /// The number of the current world.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.lock().epoch
    }

    /// Changes whenever a world is published, a subscriber comes or goes, or one answers.
    #[must_use]
    pub fn moves(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    fn move_on(&self) {
        self.moved
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Makes a world the current one and marks what changed for whom.
    pub fn publish(&self, world: World) -> Epoch {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.epoch += 1;
        let epoch = inner.epoch;
        inner.revisions.insert(world.revision, epoch);
        while inner.revisions.len() > REMEMBERED {
            inner.revisions.pop_first();
        }
        let change = inner.cache.advance(Arc::new(world));
        for (key, holders) in change.keys {
            for holder in holders {
                if let Some(slot) = inner.slots.get_mut(&holder) {
                    mark(&mut slot.marks, key.clone(), epoch);
                    slot.marked.get_or_insert_with(Instant::now);
                    slot.notify.notify_one();
                }
            }
        }
        for slot in inner.slots.values_mut() {
            if roots_changed(&change.reads, &slot.who.class) {
                slot.roots = Some(
                    slot.roots
                        .map_or(Span::at(epoch), |s| s.join(Span::at(epoch))),
                );
                slot.marked.get_or_insert_with(Instant::now);
                slot.notify.notify_one();
            }
        }
        self.move_on();
        epoch
    }

    fn enter(&self, who: Subscriber) -> (SubscriberId, Arc<Notify>) {
        let mut inner = self.lock();
        inner.next_id += 1;
        let id = inner.next_id;
        let notify = Arc::new(Notify::new());
        let slot = Slot {
            who,
            since: Instant::now(),
            marks: BTreeMap::new(),
            roots: None,
            marked: None,
            in_flight: BTreeMap::new(),
            refused: BTreeMap::new(),
            notify: Arc::clone(&notify),
        };
        inner.slots.insert(id, slot);
        drop(inner);
        self.move_on();
        (id, notify)
    }

    fn leave(&self, id: SubscriberId) {
        let mut inner = self.lock();
        inner.slots.remove(&id);
        inner.cache.release_all(id);
        drop(inner);
        self.move_on();
    }

    /// How far a store revision has come.
    #[must_use]
    pub fn progress(&self, revision: u64) -> Progress {
        let inner = self.lock();
        let Some((_, &epoch)) = inner.revisions.range(revision..).next() else {
            let oldest = inner.revisions.keys().next();
            // Forgotten long ago means through; newer than everything means not published yet.
            let published = oldest.is_some_and(|oldest| revision < *oldest);
            return Progress {
                published,
                ..Progress::default()
            };
        };
        let behind: BTreeSet<String> = inner
            .slots
            .values()
            .filter(|slot| slot.behind(epoch))
            .map(|slot| slot.who.name.clone())
            .collect();
        let touched = inner.touched.get(&epoch).cloned().unwrap_or_default();
        Progress {
            acked: touched.difference(&behind).cloned().collect(),
            behind: behind.into_iter().collect(),
            nacks: inner
                .refusals
                .iter()
                .filter(|(span, _)| span.holds(epoch))
                .map(|(_, refusal)| refusal.clone())
                .collect(),
            published: true,
        }
    }

    /// Subscribers that hold endpoints of a workload, with whether they are behind an epoch.
    #[must_use]
    pub fn callers(
        &self,
        workload_id: &str,
        epoch: Epoch,
    ) -> Vec<(Subscriber, SubscriberId, bool)> {
        let inner = self.lock();
        let ids = inner.cache.holders_of_workload(workload_id);
        ids.into_iter()
            .filter_map(|id| {
                let slot = inner.slots.get(&id)?;
                Some((slot.who.clone(), id, slot.behind(epoch)))
            })
            .collect()
    }

    /// The first published world that has a store revision; `None` before it is published, or long after.
    #[must_use]
    pub fn epoch_of(&self, revision: u64) -> Option<Epoch> {
        let inner = self.lock();
        inner.revisions.range(revision..).next().map(|(_, e)| *e)
    }

    /// Who does not have everything of an epoch yet, or refuses this resource of it.
    #[must_use]
    pub fn lacking(&self, epoch: Epoch, resource: &str) -> Lacking {
        let inner = self.lock();
        let mut lacking = Lacking::default();
        for slot in inner.slots.values() {
            let refuses = || slot.refused.keys().any(|(_, name)| name == resource);
            if slot.behind(epoch) || refuses() {
                lacking.behind.insert(slot.who.name.clone());
            }
            let class = &slot.who.class;
            lacking.present.insert(class.workload_id.clone());
            lacking.foreign |= class.dialect != Dialect::Naka;
        }
        lacking
    }

    /// Connected proxies.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        let inner = self.lock();
        let epoch = inner.epoch;
        inner
            .slots
            .iter()
            .map(|(id, slot)| Seen {
                who: slot.who.clone(),
                connected_s: slot.since.elapsed().as_secs(),
                up_to_date: !slot.behind(epoch),
                refused: slot
                    .refused
                    .iter()
                    .map(|((_, name), words)| (name.clone(), words.clone()))
                    .collect(),
                held: inner.cache.held_by(*id),
            })
            .collect()
    }

    /// Names of connected proxies that hold any of these keys, with whether they are behind the current world.
    #[must_use]
    pub fn holding(&self, wanted: impl Fn(&Key) -> bool) -> BTreeMap<String, bool> {
        let inner = self.lock();
        let epoch = inner.epoch;
        inner
            .slots
            .iter()
            .filter(|(id, _)| inner.cache.holds_any(**id, &wanted))
            .map(|(_, slot)| (slot.who.name.clone(), slot.behind(epoch)))
            .collect()
    }

    /// Responses sent since the start, by type.
    #[must_use]
    pub fn pushes(&self) -> BTreeMap<&'static str, u64> {
        self.lock().pushes.clone()
    }

    /// Resources refused since the start, by type.
    #[must_use]
    pub fn nacks(&self) -> BTreeMap<&'static str, u64> {
        self.lock().nacks.clone()
    }

    /// Changes that the proxy furthest behind does not have yet.
    #[must_use]
    pub fn furthest_behind(&self) -> u64 {
        let inner = self.lock();
        let oldest = inner.slots.values().filter_map(Slot::oldest).min();
        oldest.map_or(0, |oldest| inner.epoch.saturating_sub(oldest) + 1)
    }

    /// Number of connected proxies.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.lock().slots.len()
    }
}

fn mark(marks: &mut BTreeMap<Key, Span>, key: Key, epoch: Epoch) {
    let span = Span::at(epoch);
    marks
        .entry(key)
        .and_modify(|known| *known = known.join(span))
        .or_insert(span);
}

/// Whether the starting points of a proxy's configuration may differ.
fn roots_changed(reads: &BTreeSet<Read>, class: &Class) -> bool {
    if class.dialect == Dialect::Envoy && reads.contains(&Read::Workload(class.workload_id.clone()))
    {
        return true;
    }
    reads.iter().any(|read| match (class.role, read) {
        (Role::Gateway, Read::Gateways) | (Role::Sidecar, Read::Callers) => true,
        // Which network it is in counts from the first gateway on.
        (_, Read::Networks) => true,
        (Role::Sidecar, Read::Workload(id)) => *id == class.workload_id,
        (Role::Sidecar, Read::Service(host)) => host
            .service()
            .is_some_and(|(_, namespace)| namespace == class.namespace),
        _ => false,
    })
}
