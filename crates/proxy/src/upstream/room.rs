//! Connections within the limits of a destination (`connectionPool`): who may open one, who waits, who must give one up.
//!
//! Limits hold over all workers, connections belong to one worker, one endpoint and one kind ("place"). A request
//! that finds no connection and may not open one joins the cluster's line. From then on connections that come free go
//! to the oldest in the line: kept if it waits at their place, closed otherwise, which gives it their slot. So that
//! connections nobody uses do not block the line, whoever waits closes one at another place of its own worker, and
//! every worker's sweep closes one at its own.

use super::pool::{Key, Lease, Pools, Target};
use crate::fail::Fail;
use crate::limits;
use naka_engine::model::{Pings, Probes};
use naka_engine::runtime::{ClusterRuntime, Offer, Slot as Counted, Waiter};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

impl Target {
    /// Whether others wait for a connection of this destination.
    pub(super) fn is_crowded(&self) -> bool {
        let cluster = self.cluster.as_ref();
        cluster.is_some_and(|c| c.spec.limits.connections != u32::MAX && c.runtime.pending() > 0)
    }

    /// The right to open a connection; an error at the limit.
    fn slot(&self) -> Result<Option<Counted>, Fail> {
        let Some(cluster) = &self.cluster else {
            return Ok(None);
        };
        let slot = cluster.runtime.connection(&cluster.spec.limits);
        slot.map(Some).ok_or_else(Fail::full)
    }

    fn wait(&self, place: u64) -> Result<Waiter, Fail> {
        let cluster = self.cluster.as_ref();
        cluster
            .and_then(|c| c.runtime.wait(&c.spec.limits, place, self.class))
            .ok_or_else(Fail::full)
    }

    /// Requests that one connection may serve.
    pub(super) fn requests(&self) -> u32 {
        let cluster = self.cluster.as_ref();
        cluster
            .and_then(|c| c.spec.keeping.requests)
            .unwrap_or(u32::MAX)
    }

    /// Streams that one connection may carry at a time.
    pub(super) fn streams(&self) -> usize {
        let wanted = self.cluster.as_ref().and_then(|c| c.spec.keeping.streams);
        wanted
            .and_then(|streams| usize::try_from(streams).ok())
            .map_or(limits::H2_STREAMS_PER_CONNECTION, |streams| {
                streams.min(limits::H2_STREAMS_PER_CONNECTION)
            })
    }

    /// When a connection made now takes no more requests.
    pub(super) fn until(&self) -> Option<Instant> {
        let longest = self.cluster.as_ref()?.spec.keeping.longest?;
        Some(Instant::now() + longest)
    }

    /// TCP keep-alive.
    pub(super) fn probes(&self) -> Option<&Probes> {
        self.cluster.as_ref()?.spec.keeping.probes.as_ref()
    }

    /// HTTP/2 pings.
    pub(super) fn pings(&self) -> Pings {
        let wanted = self.cluster.as_ref().and_then(|c| c.spec.keeping.pings);
        wanted.unwrap_or(Pings {
            every: limits::H2_PING,
            timeout: limits::H2_PING_TIMEOUT,
        })
    }

    /// Whose connections are counted.
    pub(super) fn counts(&self) -> Option<Arc<ClusterRuntime>> {
        self.cluster.as_ref().map(|c| Arc::clone(&c.runtime))
    }
}

impl Pools {
    /// A connection for one request when none stands: a new one, or whichever comes free.
    pub(super) async fn obtain(self: &Rc<Self>, target: &Target) -> Result<Lease, Fail> {
        let mut queued: Option<Waiter> = None;
        loop {
            let may_try = match &queued {
                Some(waiter) => {
                    waiter.called().await;
                    true
                }
                None => !target.is_crowded(),
            };
            if may_try && let Some(lease) = self.attempt(target, &mut queued).await? {
                return Ok(lease);
            }
            if queued.is_none() {
                queued = Some(target.wait(self.place(target.key))?);
            }
            self.make_room(target.key);
        }
    }

    /// `None` when there is neither a connection nor the right to open one.
    async fn attempt(
        self: &Rc<Self>,
        target: &Target,
        queued: &mut Option<Waiter>,
    ) -> Result<Option<Lease>, Fail> {
        loop {
            if let Some(lease) = self.ready(target.key).await {
                return Ok(Some(lease));
            }
            let shareable = self.shareable(target);
            if shareable && let Some(making) = self.making(target.key) {
                making.done().await?;
                continue;
            }
            let Ok(slot) = target.slot() else {
                return Ok(None);
            };
            if !shareable {
                // No longer one of those who wait.
                *queued = None;
                return Ok(Some(Lease::Alone(self.make_alone(target, slot).await?)));
            }
            self.begin(target.clone(), slot).done().await?;
        }
    }

    /// Tells who waits longest for a connection of these that one is free here.
    pub(super) fn offer(&self, key: Key, counts: Option<&Arc<ClusterRuntime>>) -> Offer {
        match counts {
            Some(counts) if counts.pending() > 0 => counts.offer(self.place(key)),
            _ => Offer::Nobody,
        }
    }

    fn place(&self, key: Key) -> u64 {
        let mut hasher = DefaultHasher::new();
        (std::ptr::from_ref(self).addr(), key).hash(&mut hasher);
        hasher.finish()
    }

    /// Gives up one connection of the same cluster that is of no use to this place.
    fn make_room(&self, wanted: Key) {
        let mut slots = self.slots.borrow_mut();
        let mut others: Vec<_> = slots
            .iter_mut()
            .filter(|(key, _)| key.cluster == wanted.cluster && **key != wanted)
            .map(|(_, slot)| slot)
            .collect();
        if others
            .iter_mut()
            .any(|slot| slot.idle.pop_front().is_some())
        {
            return;
        }
        for idle_only in [true, false] {
            let retired = others.iter_mut().any(|slot| {
                let found = slot.shared.iter().position(|c| !idle_only || c.is_idle());
                // Its streams end in peace; no new ones begin on it.
                found.map(|at| slot.shared.remove(at)).is_some()
            });
            if retired {
                return;
            }
        }
    }

    /// The same for those who wait on other workers.
    pub(super) fn make_room_elsewhere(&self) {
        self.slots.borrow_mut().retain(|key, slot| {
            let counts = match (slot.idle.front(), slot.shared.first()) {
                (Some(h1), _) => h1.counts(),
                (None, Some(h2)) => h2.counts(),
                (None, None) => None,
            };
            let useless = self.offer(*key, counts) == Offer::Elsewhere;
            if useless && slot.idle.pop_front().is_none() {
                slot.shared.remove(0);
            }
            true
        });
    }
}
