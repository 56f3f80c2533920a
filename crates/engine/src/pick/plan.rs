//! What may be picked of a cluster, worked out for one set of endpoints and one state of their availability.
//!
//! As Envoy has it: endpoints stand in tiers (priorities), tiers in places (localities). A tier takes as much of the
//! load as 1.4 times its available share can carry, the rest goes to the next one; a place takes its weight's share
//! of its tier, less where it lost endpoints. Who may be called: healthy endpoints that this proxy has not barred;
//! draining ones only while no healthy one exists anywhere; the others only below the panic threshold, which is 0
//! unless set; those of weight 0 never.
//!
//! Invariants: a plan names only endpoints that may be called; as long as one may be called, there is a tier that
//! takes load; the loads of all tiers add up to 100.

use super::consistent::{self, Share};
use super::schedule::schedule;
use crate::model::{Balance, ClusterSpec, Endpoint, Group, Health, Policy};
use std::sync::Arc;
use std::time::Duration;

/// How far a tier's endpoints can be loaded beyond their share, in percent.
const OVERPROVISIONING: u64 = 140;
/// Factor by which weights that change with time are made finer.
const FINE: f64 = 1000.0;
/// How often weights of new endpoints are worked out anew within their window.
const STEPS: u32 = 64;
/// Least time between two plans of one worker.
const LEAST_STEP: Duration = Duration::from_millis(10);

/// What may be picked.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// By priority; only those that hold somebody who may be called.
    pub(super) tiers: Box<[Tier]>,
    /// When weights that change with time must be worked out anew.
    pub(super) until: Option<Duration>,
    /// How many pools there are in all tiers.
    pub(super) pools: usize,
    /// How many endpoints a share of the cluster's limits is counted by.
    pub(super) members: usize,
}

/// Endpoints of one priority.
#[derive(Debug)]
pub(super) struct Tier {
    pub(super) priority: u32,
    /// Percentage of the load that goes to this and all tiers before it.
    pub(super) load: u64,
    /// Whether endpoints known to be broken are called here, as too few others are left.
    pub(super) panic: bool,
    pub(super) pools: Box<[Pool]>,
    /// Everyone in it, once.
    pub(super) members: Box<[u32]>,
}

/// Endpoints between which the policy chooses.
#[derive(Debug)]
pub(super) struct Pool {
    /// Its number among all pools of the plan.
    pub(super) number: usize,
    /// Weight of this and all pools before it in the tier.
    pub(super) below: u64,
    pub(super) order: Order,
    /// Number of different endpoints.
    pub(super) eligible: usize,
}

/// The form in which a policy needs them.
#[derive(Debug)]
pub(super) enum Order {
    /// Indices into the endpoints, each as often as its weight says.
    Schedule(Box<[u32]>),
    Ring(Box<[(u64, u32)]>),
    Table(Box<[u32]>),
}

/// What a group has.
struct Count {
    /// Who may be called, with the weight.
    available: Vec<(u32, f64)>,
    /// Everyone with a weight.
    all: Vec<(u32, f64)>,
    /// How many count as its full size: those that leave do not.
    size: u64,
}

impl Plan {
    /// What may be picked as things stand. Without a time weights do not change with it.
    pub(crate) fn of(
        endpoints: &[Arc<Endpoint>],
        groups: &[Group],
        spec: &ClusterSpec,
        now: Option<Duration>,
    ) -> Self {
        let weights = Weights::of(endpoints, &spec.balance, spec.policy, now);
        // Bars come and go while a cluster's own plan stays; it is used while there are none.
        let bars = now.is_some();
        let usable =
            |health| move |e: &Endpoint| e.health == health && !(bars && e.state.is_barred());
        let mut health = Health::Healthy;
        if !endpoints.iter().any(|e| e.weight > 0 && usable(health)(e)) {
            health = Health::Draining;
        }
        let mut first = 0;
        let counts: Vec<Count> = groups
            .iter()
            .map(|group| {
                let end = (first + group.size).min(endpoints.len());
                let count = Count::of(endpoints, first..end, &weights, (health, bars));
                first = end;
                count
            })
            .collect();
        let tiers = tiers(groups, &counts, spec);
        let mut plan = Self {
            until: weights.until,
            ..Self::default()
        };
        plan.tiers = tiers
            .into_iter()
            .map(|tier| plan.tier(tier, endpoints, groups, &counts, spec))
            .collect();
        plan
    }

    fn tier(
        &mut self,
        raw: Raw,
        endpoints: &[Arc<Endpoint>],
        groups: &[Group],
        counts: &[Count],
        spec: &ClusterSpec,
    ) -> Tier {
        let of = |group: usize| {
            let count = &counts[group];
            if raw.panic {
                &count.all
            } else {
                &count.available
            }
        };
        let members: Box<[u32]> = raw
            .groups
            .iter()
            .flat_map(|g| of(*g))
            .map(|m| m.0)
            .collect();
        self.members += members.len();
        let weight = |group: usize| effective(groups[group].weight, &counts[group], raw.panic);
        let hashing = matches!(spec.policy, Policy::RingHash { .. } | Policy::Maglev { .. });
        let split = spec.balance.by_place && raw.groups.iter().any(|g| weight(*g) > 0.0);
        let mut below = 0;
        let mut pools = Vec::new();
        let mut pool = |below, eligible, order| {
            pools.push(Pool {
                number: self.pools,
                below,
                order,
                eligible,
            });
            self.pools += 1;
        };
        if hashing {
            let shares = shares(
                &raw.groups,
                split,
                of,
                |g| f64::from(groups[g].weight),
                endpoints,
            );
            let order = match spec.policy {
                Policy::Maglev { table } => Order::Table(consistent::table(&shares, table)),
                Policy::RingHash { minimum } => Order::Ring(consistent::ring(&shares, minimum)),
                _ => Order::Table(Box::default()),
            };
            pool(0, shares.len(), order);
        } else if split {
            for group in &raw.groups {
                let share = weight(*group);
                if share > 0.0 && !of(*group).is_empty() {
                    below += round(share * FINE).max(1);
                    let order = Order::Schedule(scheduled(of(*group)));
                    pool(below, of(*group).len(), order);
                }
            }
        } else {
            let all: Vec<_> = raw.groups.iter().flat_map(|g| of(*g)).copied().collect();
            pool(0, all.len(), Order::Schedule(scheduled(&all)));
        }
        Tier {
            priority: raw.priority,
            load: raw.load,
            panic: raw.panic,
            pools: pools.into(),
            members,
        }
    }
}

impl Count {
    fn of(
        endpoints: &[Arc<Endpoint>],
        range: std::ops::Range<usize>,
        weights: &Weights,
        (health, bars): (Health, bool),
    ) -> Self {
        let first = range.start;
        let mut count = Self {
            available: Vec::new(),
            all: Vec::new(),
            size: 0,
        };
        for (at, endpoint) in endpoints.iter().enumerate().take(range.end).skip(first) {
            if endpoint.weight == 0 {
                continue;
            }
            let one = (
                u32::try_from(at).unwrap_or(u32::MAX),
                weights.of_endpoint(at, endpoint),
            );
            count.all.push(one);
            if endpoint.health != Health::Draining || health == Health::Draining {
                count.size += 1;
            }
            if endpoint.health == health && !(bars && endpoint.state.is_barred()) {
                count.available.push(one);
            }
        }
        count
    }

    fn available(&self) -> u64 {
        u64::try_from(self.available.len()).unwrap_or(u64::MAX)
    }
}

/// A tier before its pools are made.
struct Raw {
    priority: u32,
    load: u64,
    panic: bool,
    groups: Vec<usize>,
}

/// Which tiers take load, and how much.
fn tiers(groups: &[Group], counts: &[Count], spec: &ClusterSpec) -> Vec<Raw> {
    let mut priorities: Vec<u32> = groups.iter().map(|group| group.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let mut raw: Vec<(Raw, u64, u64, u64)> = priorities
        .into_iter()
        .map(|priority| {
            let groups: Vec<usize> = (0..groups.len())
                .filter(|g| groups[*g].priority == priority)
                .collect();
            let available: u64 = groups.iter().map(|g| counts[*g].available()).sum();
            let size: u64 = groups.iter().map(|g| counts[*g].size).sum();
            let health = (OVERPROVISIONING * available)
                .checked_div(size)
                .unwrap_or(0);
            let tier = Raw {
                priority,
                load: 0,
                panic: false,
                groups,
            };
            (tier, available, size, health.min(100))
        })
        .collect();
    let total = raw.iter().map(|(.., health)| health).sum::<u64>().min(100);
    let threshold = u64::from(spec.panic_threshold.min(100));
    if total < 100 {
        for (tier, available, size, _) in &mut raw {
            tier.panic = *available * 100 < *size * threshold;
        }
    }
    // Never where somebody carries the whole load: that tier is not in panic.
    let in_panic = raw
        .iter()
        .all(|(tier, _, size, _)| tier.panic || *size == 0);
    let everyone: u64 = raw.iter().map(|(_, _, size, _)| size).sum();
    let mut left = 100;
    for (tier, _, size, health) in &mut raw {
        let load = if in_panic {
            (100 * *size).checked_div(everyone).unwrap_or(0)
        } else {
            (*health * 100).checked_div(total).unwrap_or(0)
        };
        tier.load = load.min(left);
        left -= tier.load;
    }
    // What rounding left over goes to the first that takes any.
    if let Some((first, ..)) = raw.iter_mut().find(|(tier, ..)| tier.load > 0) {
        first.load += left;
    }
    let mut below = 0;
    raw.into_iter()
        .filter(|(tier, available, ..)| *available > 0 || tier.panic)
        .map(|(mut tier, ..)| {
            below += tier.load;
            tier.load = below;
            tier
        })
        .collect()
}

/// A place's weight in its tier: less where it lost more endpoints than the others can make up for.
fn effective(weight: u32, count: &Count, panic: bool) -> f64 {
    if panic {
        return f64::from(weight);
    }
    let ratio = (OVERPROVISIONING * count.available())
        .checked_div(count.size)
        .unwrap_or(0)
        .min(100);
    f64::from(weight) * f64::from(u32::try_from(ratio).unwrap_or(100)) / 100.0
}

/// Normalised shares for hashing: of a place its weight's share, of an endpoint its weight's share of the place's.
fn shares<'a>(
    chosen: &[usize],
    split: bool,
    of: impl Fn(usize) -> &'a Vec<(u32, f64)>,
    weight: impl Fn(usize) -> f64,
    endpoints: &[Arc<Endpoint>],
) -> Vec<Share> {
    let sum = |members: &[(u32, f64)]| members.iter().map(|m| m.1).sum::<f64>();
    let whole: f64 = if split {
        chosen.iter().map(|g| weight(*g)).sum()
    } else {
        chosen.iter().map(|g| sum(of(*g))).sum()
    };
    let mut shares = Vec::new();
    for group in chosen {
        let members = of(*group);
        let place = sum(members);
        for (index, own) in members {
            let share = if split {
                own * (weight(*group) / whole) / place
            } else {
                own / whole
            };
            let at = usize::try_from(*index).unwrap_or(usize::MAX);
            if let Some(endpoint) = endpoints.get(at).filter(|_| share > 0.0) {
                shares.push(Share {
                    index: *index,
                    address: endpoint.address,
                    share,
                });
            }
        }
    }
    shares
}

fn scheduled(members: &[(u32, f64)]) -> Box<[u32]> {
    let whole = members.iter().all(|(_, w)| w.fract() == 0.0);
    let scale = if whole { 1.0 } else { FINE };
    let weights: Vec<(u32, u32)> = members
        .iter()
        .map(|(index, weight)| {
            let weight = round((weight * scale).max(1.0));
            (*index, u32::try_from(weight).unwrap_or(u32::MAX))
        })
        .collect();
    schedule(&weights).into()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "weights are positive, and one beyond the range counts as the largest"
)]
fn round(value: f64) -> u64 {
    value.round() as u64
}

/// Weights as they are now.
struct Weights {
    /// What takes the place of the configured weight, by endpoint; empty: nothing does.
    reported: Vec<u32>,
    /// What it is multiplied by, by endpoint; empty: nothing.
    factors: Vec<f64>,
    until: Option<Duration>,
}

impl Weights {
    fn of(
        endpoints: &[Arc<Endpoint>],
        balance: &Balance,
        policy: Policy,
        now: Option<Duration>,
    ) -> Self {
        let mut weights = Self {
            reported: Vec::new(),
            factors: Vec::new(),
            until: None,
        };
        if policy == Policy::Random {
            // As in Envoy: at random means each one as often.
            weights.reported = vec![1; endpoints.len()];
            return weights;
        }
        let Some(now) = now else {
            return weights;
        };
        let soon = |after: Duration| Some(now + after.max(LEAST_STEP));
        if let Some(slow) = &balance.slow_start {
            weights.factors = endpoints
                .iter()
                .map(|endpoint| {
                    let up = endpoint.health == Health::Healthy && !endpoint.state.is_barred();
                    let age = endpoint.state.load().age(up, now);
                    if age < slow.window {
                        weights.until = soon(slow.window / STEPS);
                    }
                    slow.factor(age)
                })
                .collect();
        }
        if let (Some(rules), Policy::Utilization) = (&balance.utilization, policy) {
            weights.until = soon(rules.period);
            let known: Vec<Option<u32>> = endpoints
                .iter()
                .map(|e| e.state.load().weight(rules.blackout, rules.expiry, now))
                .collect();
            let median = median(known.iter().flatten().copied().collect());
            weights.reported = known.into_iter().map(|w| w.unwrap_or(median)).collect();
        }
        weights
    }

    fn of_endpoint(&self, at: usize, endpoint: &Endpoint) -> f64 {
        let own = self.reported.get(at).copied().unwrap_or(endpoint.weight);
        f64::from(own) * self.factors.get(at).copied().unwrap_or(1.0)
    }
}

/// What endpoints without a report count as.
pub(super) fn median(mut all: Vec<u32>) -> u32 {
    all.sort_unstable();
    let middle = all.len() / 2;
    match all.len() {
        0 => 1,
        n if n % 2 == 1 => all[middle],
        _ => u32::midpoint(all[middle - 1], all[middle]),
    }
    .max(1)
}
