//! Which endpoint of a cluster is called.
//!
//! All that does not change between two configurations is worked out when a cluster is built (`Plan`): who may be
//! called, in which order of nearness, how often, and where on a hash ring. A pick is then an index (round robin), a
//! draw (random), two draws and a comparison (least request, peak EWMA) or a look-up (hashing); none of them
//! allocates or locks. What changes between configurations (an endpoint barred by this proxy itself, weights that
//! rise or are reported) makes a worker work out a plan of its own, once per change, kept in its [`Cursors`].
//!
//! A tier (priority) that is at its share of the cluster's limits passes what comes on to the next one: limits are
//! those of the whole cluster, spread over its endpoints, and the nearest ones must not queue while others idle.

mod consistent;
mod explain;
pub(crate) mod orca;
mod plan;
mod schedule;

pub(crate) use explain::explain;
pub(crate) use plan::Plan;

use crate::model::{Cluster, Endpoint, HttpVersion, Policy};
use plan::{Order, Pool, Tier};
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How often a hashing policy looks for another endpoint than the one to avoid before it takes any other.
const REHASHES: u64 = 5;

/// What a worker keeps by cluster: round-robin positions, and a plan of its own where the cluster's does not hold.
/// Positions start at a random place, so that proxies started together do not all call the same endpoint.
#[derive(Debug, Default)]
pub struct Cursors {
    /// By cluster, then by number of the pool.
    positions: Vec<SmallVec<[Option<usize>; 2]>>,
    /// By cluster; only those that needed one are here.
    own: Vec<Option<Own>>,
}

/// A plan that a worker made itself.
#[derive(Debug)]
struct Own {
    /// Cluster and state of its availability that it is for.
    version: u64,
    epoch: u64,
    /// `None`: the cluster's holds.
    plan: Option<Plan>,
}

impl Cursors {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// The plan that holds now.
fn plan<'a>(own: &'a mut Vec<Option<Own>>, cluster: &'a Cluster, now: Duration) -> &'a Plan {
    let epoch = cluster.runtime.epoch();
    let timed =
        cluster.spec.balance.slow_start.is_some() || cluster.spec.policy == Policy::Utilization;
    if epoch == 0 && !timed {
        return &cluster.plan;
    }
    let index = cluster.id.index();
    if own.len() <= index {
        own.resize_with(index + 1, || None);
    }
    let over = |plan: &Plan| plan.until.is_some_and(|until| now >= until);
    let holds = own[index].as_ref().is_some_and(|own| {
        own.version == cluster.version && own.epoch == epoch && !own.plan.as_ref().is_some_and(over)
    });
    if !holds {
        let barred = || cluster.endpoints.iter().any(|e| e.state.is_barred());
        let plan = (timed || barred()).then(|| {
            Plan::of(
                &cluster.endpoints,
                &cluster.groups,
                &cluster.spec,
                Some(now),
            )
        });
        own[index] = Some(Own {
            version: cluster.version,
            epoch,
            plan,
        });
    }
    own[index]
        .as_ref()
        .and_then(|own| own.plan.as_ref())
        .unwrap_or(&cluster.plan)
}

/// The next place in turn.
fn turn(
    positions: &mut Vec<SmallVec<[Option<usize>; 2]>>,
    cluster: &Cluster,
    pool: usize,
    slots: usize,
    rng: &mut fastrand::Rng,
) -> usize {
    let index = cluster.id.index();
    if positions.len() <= index {
        positions.resize_with(index + 1, SmallVec::new);
    }
    let pools = &mut positions[index];
    if pools.len() <= pool {
        pools.resize(pool + 1, None);
    }
    let next = pools[pool].map_or_else(|| rng.usize(..slots), |last| (last + 1) % slots);
    pools[pool] = Some(next);
    next
}

/// What is known of a call before an endpoint is picked for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    /// Not this one, if there is another choice.
    pub avoid: Option<SocketAddr>,
    /// Hash of its key, for policies that hash.
    pub hash: Option<u64>,
    /// Where the caller meant to go, if it named an address.
    pub meant: Option<SocketAddr>,
    /// Priorities to leave out while another has endpoints, one bit each (the last for all from 63 on).
    pub leave_out: u64,
    /// As `Cx::now`.
    pub now: Duration,
}

/// An endpoint with how it came to be picked.
#[derive(Debug, Clone)]
pub struct Picked<'a> {
    /// Whom to call.
    pub endpoint: &'a Arc<Endpoint>,
    /// Its priority.
    pub priority: u32,
    /// Whether it is known to be broken and called because too few others are left.
    pub panic: bool,
    /// Whether nearer ones were passed over because they are at their limit.
    pub spilled: bool,
}

/// Picks an endpoint; `None` when none may be called.
#[must_use]
pub fn pick<'a>(
    cluster: &'a Cluster,
    wish: &Wish,
    cursors: &mut Cursors,
    rng: &mut fastrand::Rng,
) -> Option<Picked<'a>> {
    if cluster.spec.policy == Policy::Passthrough {
        let meant = wish.meant?;
        let found = |e: &&Arc<Endpoint>| e.address == meant && e.weight > 0;
        let endpoint = cluster.endpoints.iter().find(found)?;
        return Some(Picked {
            endpoint,
            priority: 0,
            panic: false,
            spilled: false,
        });
    }
    let plan = plan(&mut cursors.own, cluster, wish.now);
    let positions = &mut cursors.positions;
    let tiers = &plan.tiers;
    let (mut at, mut spilled) = (0, false);
    if tiers.len() > 1 {
        let drawn = wish.hash.unwrap_or_else(|| rng.u64(..)) % 100;
        at = tiers.iter().position(|tier| drawn < tier.load).unwrap_or(0);
        if let Some(free) = with_room(cluster, plan, at) {
            spilled = free != at;
            at = free;
        }
    }
    if wish.leave_out & bit(tiers.get(at)?.priority) != 0 {
        let other =
            |tier: &Tier| wish.leave_out & bit(tier.priority) == 0 && !tier.pools.is_empty();
        at = tiers.iter().position(other).unwrap_or(at);
    }
    let mut tier = tiers.get(at)?;
    // The only one here has just been tried: rather another place than the same again.
    if wish.avoid.is_some()
        && let [only] = &*tier.members
        && endpoint(cluster, *only).map(|e| e.address) == wish.avoid
        && let Some(next) = tiers.iter().find(|other| other.priority != tier.priority)
    {
        tier = next;
    }
    let pool = pool(tier, rng)?;
    let endpoint = choose(cluster, pool, wish, positions, rng)?;
    Some(Picked {
        endpoint,
        priority: tier.priority,
        panic: tier.panic && (endpoint.state.is_barred() || !endpoint.health.is_good()),
        spilled,
    })
}

/// A priority's place in [`Wish::leave_out`].
pub(crate) fn bit(priority: u32) -> u64 {
    1 << priority.min(63)
}

fn endpoint(cluster: &Cluster, index: u32) -> Option<&Arc<Endpoint>> {
    cluster.endpoints.get(usize::try_from(index).ok()?)
}

/// The first tier from `at` on, and then from the first one, that is below its share of the cluster's limits.
fn with_room(cluster: &Cluster, plan: &Plan, at: usize) -> Option<usize> {
    let limits = &cluster.spec.limits;
    let limit = match cluster.spec.http {
        HttpVersion::Http1 => limits.requests.min(limits.connections),
        HttpVersion::Http2 | HttpVersion::SameAsCaller => limits.requests,
    };
    if limit == u32::MAX {
        return None;
    }
    let has_room = |tier: &Tier| {
        let active: u64 = tier
            .members
            .iter()
            .filter_map(|index| endpoint(cluster, *index))
            .map(|e| u64::from(e.state.active()))
            .sum();
        let (own, all) = (count(tier.members.len()), count(plan.members).max(1));
        active < (u64::from(limit) * own).div_ceil(all)
    };
    let tiers = plan.tiers.len();
    (0..tiers)
        .map(|step| (at + step) % tiers)
        .find(|tier| plan.tiers.get(*tier).is_some_and(has_room))
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Draws a pool of a tier in proportion to the weights.
fn pool<'a>(tier: &'a Tier, rng: &mut fastrand::Rng) -> Option<&'a Pool> {
    let last = tier.pools.last()?;
    if tier.pools.len() == 1 {
        return Some(last);
    }
    let drawn = rng.u64(..last.below.max(1));
    tier.pools.iter().find(|pool| drawn < pool.below)
}

fn choose<'a>(
    cluster: &'a Cluster,
    pool: &Pool,
    wish: &Wish,
    positions: &mut Vec<SmallVec<[Option<usize>; 2]>>,
    rng: &mut fastrand::Rng,
) -> Option<&'a Arc<Endpoint>> {
    let slots = match &pool.order {
        Order::Schedule(schedule) => schedule.len(),
        Order::Ring(points) => points.len(),
        Order::Table(table) => table.len(),
    };
    let at = |slot: usize| -> Option<&'a Arc<Endpoint>> {
        let index = match &pool.order {
            Order::Schedule(schedule) => schedule.get(slot).copied(),
            Order::Ring(points) => points.get(slot).map(|(_, index)| *index),
            Order::Table(table) => table.get(slot).copied(),
        };
        endpoint(cluster, index?)
    };
    if pool.eligible <= 1 {
        return at(0);
    }
    // From a slot on to the next that may be taken; there is one, as at least two endpoints are in the pool
    // (unless both have the same address, which a second turn would not change).
    let from = |start: usize, other: Option<SocketAddr>| {
        (0..slots)
            .filter_map(|step| at((start + step) % slots))
            .find(|e| Some(e.address) != wish.avoid && Some(e.address) != other)
    };
    let any = |slot: usize| from(slot, None).or_else(|| at(slot));
    if let Order::Ring(points) = &pool.order {
        return any(consistent::on_ring(
            points,
            wish.hash.unwrap_or_else(|| rng.u64(..)),
        ));
    }
    if let Order::Table(table) = &pool.order {
        let hash = wish.hash.unwrap_or_else(|| rng.u64(..));
        let slot = |attempt| consistent::in_table(table, hash, attempt);
        let other = |slot: &usize| at(*slot).is_some_and(|e| Some(e.address) != wish.avoid);
        let found = (0..=REHASHES).map(slot).find(other);
        return any(found.unwrap_or_else(|| slot(0)));
    }
    match cluster.spec.policy {
        Policy::RoundRobin | Policy::Utilization => {
            any(turn(positions, cluster, pool.number, slots, rng))
        }
        Policy::LeastRequest | Policy::PeakEwma => {
            let first = any(rng.usize(..slots))?;
            // The second differs from the first where it can, else the draw would often compare one with itself.
            let Some(second) = from(rng.usize(..slots), Some(first.address)) else {
                return Some(first);
            };
            let second_is_better = if cluster.spec.policy == Policy::PeakEwma {
                let cost = |e: &Endpoint| {
                    e.state.load().cost(e.state.active(), wish.now) / f64::from(e.weight.max(1))
                };
                cost(second) < cost(first)
            } else {
                let load = |e: &Endpoint, other: &Endpoint| {
                    u64::from(e.state.active()) * u64::from(other.weight)
                };
                load(second, first) < load(first, second)
            };
            Some(if second_is_better { second } else { first })
        }
        Policy::Random | Policy::RingHash { .. } | Policy::Maglev { .. } | Policy::Passthrough => {
            any(rng.usize(..slots))
        }
    }
}

#[cfg(test)]
mod tests;
