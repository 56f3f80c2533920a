//! Which endpoint of a cluster is called.
//!
//! All that does not change between two configurations is worked out when a cluster is built: who may be called
//! (healthy ones; draining ones only while no healthy one exists; unhealthy or barred ones only below the panic
//! threshold, which is 0 unless set; those of weight 0 never) and, for unequal weights, a schedule in which each appears in proportion, spread as evenly as possible. A pick is then
//! an index (round robin), a draw (random), or two draws and a comparison (least request); none of them allocates.
//!
//! Invariant: a schedule holds every eligible endpoint at least once. Weights finer than one slot in 4096 are
//! rounded up to one slot.

use crate::limits::SCHEDULE_SLOTS;
use crate::model::{Cluster, ClusterId, Endpoint, Health, Policy};
use std::net::SocketAddr;
use std::sync::Arc;

/// Round-robin positions of one worker, by cluster. Each starts at a random place, so that proxies started together
/// do not all call the same endpoint.
#[derive(Debug, Default)]
pub struct Cursors(Vec<Option<usize>>);

impl Cursors {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn next(&mut self, cluster: ClusterId, slots: usize, rng: &mut fastrand::Rng) -> usize {
        let index = cluster.index();
        if self.0.len() <= index {
            self.0.resize(index + 1, None);
        }
        let position = self.0[index].map_or_else(|| rng.usize(..slots), |last| (last + 1) % slots);
        self.0[index] = Some(position);
        position
    }
}

/// What of a cluster's endpoints may be picked.
#[derive(Debug, Default)]
pub(crate) struct Picks {
    /// Indices into the endpoints, each as often as its weight says.
    schedule: Box<[u32]>,
    /// Number of different endpoints in the schedule.
    eligible: usize,
}

impl Picks {
    /// What may be picked of these as things stand, with this panic threshold in percent.
    pub(crate) fn of(endpoints: &[Arc<Endpoint>], panic: u32) -> Self {
        let those = |takes: &dyn Fn(&Endpoint) -> bool| -> Vec<(u32, u32)> {
            (0u32..)
                .zip(endpoints)
                .filter(|(_, e)| e.weight > 0 && takes(e))
                .map(|(index, e)| (index, e.weight))
                .collect()
        };
        let of_health = |health| those(&|e| e.health == health && !e.state.is_barred());
        let mut weights = of_health(Health::Healthy);
        if weights.len() * 100 < endpoints.len() * usize::try_from(panic).unwrap_or(100) {
            weights = those(&|_| true);
        } else if weights.is_empty() {
            weights = of_health(Health::Draining);
        }
        Self {
            eligible: weights.len(),
            schedule: schedule(&weights).into(),
        }
    }
}

/// Spreads indices in proportion to their weights (smooth weighted round robin, run once).
fn schedule(weights: &[(u32, u32)]) -> Vec<u32> {
    let divisor = weights.iter().fold(0, |d, (_, w)| gcd(d, *w));
    if weights.iter().all(|(_, w)| *w == divisor) {
        return weights.iter().map(|(index, _)| *index).collect();
    }
    let total: u64 = weights.iter().map(|(_, w)| u64::from(w / divisor)).sum();
    let slots = u64::try_from(SCHEDULE_SLOTS.max(weights.len() * 4)).unwrap_or(u64::MAX);
    let share = |weight: u32| -> i64 {
        let weight = u64::from(weight / divisor);
        let scaled = if total <= slots {
            weight
        } else {
            (weight * slots / total).max(1)
        };
        i64::try_from(scaled).unwrap_or(i64::MAX)
    };
    let shares: Vec<i64> = weights.iter().map(|(_, w)| share(*w)).collect();
    let sum: i64 = shares.iter().sum();
    let mut credit = vec![0i64; shares.len()];
    (0..sum)
        .map(|_| {
            for (credit, share) in credit.iter_mut().zip(&shares) {
                *credit += share;
            }
            let best = (0..credit.len())
                .rev()
                .max_by_key(|i| credit[*i])
                .unwrap_or(0);
            credit[best] -= sum;
            weights[best].0
        })
        .collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Picks an endpoint, avoiding one address if there is another choice; `None` when none may be called.
#[must_use]
pub fn pick<'a>(
    cluster: &'a Cluster,
    avoid: Option<SocketAddr>,
    cursors: &mut Cursors,
    rng: &mut fastrand::Rng,
) -> Option<&'a Arc<Endpoint>> {
    let now;
    // Rare: an endpoint was barred since this proxy knows the cluster.
    let Picks { schedule, eligible } = if cluster.runtime.epoch() == 0 {
        &cluster.picks
    } else {
        now = Picks::of(&cluster.endpoints, cluster.spec.panic_threshold);
        &now
    };
    let at = |slot: usize| {
        schedule
            .get(slot)
            .and_then(|index| cluster.endpoints.get(usize::try_from(*index).ok()?))
    };
    if *eligible <= 1 {
        return at(0);
    }
    let slots = schedule.len();
    // From a slot on to the next that may be taken; there is one, as at least two endpoints are in the schedule
    // (unless both have the same address, which a second turn would not change).
    let from = |start: usize, other: Option<SocketAddr>| {
        (0..slots)
            .filter_map(|step| at((start + step) % slots))
            .find(|e| Some(e.address) != avoid && Some(e.address) != other)
    };
    let any = |slot: usize| from(slot, None).or_else(|| at(slot));
    match cluster.spec.policy {
        Policy::RoundRobin => any(cursors.next(cluster.id, slots, rng)),
        Policy::Random => any(rng.usize(..slots)),
        Policy::LeastRequest => {
            let first = any(rng.usize(..slots))?;
            // The second differs from the first where it can, else the draw would often compare one with itself.
            let Some(second) = from(rng.usize(..slots), Some(first.address)) else {
                return Some(first);
            };
            let load = |e: &Endpoint, other: &Endpoint| {
                u64::from(e.state.active()) * u64::from(other.weight)
            };
            Some(if load(second, first) < load(first, second) {
                second
            } else {
                first
            })
        }
    }
}

#[cfg(test)]
mod tests;
