//! What a plan holds: who may be called, in which order of nearness, how often, and until when.

use super::cluster_of;
use crate::model::{Cluster, ClusterSpec, Group, Health, Policy, SlowStart, Utilization};
use crate::pick::plan::{Order, Plan, Tier, median};
use crate::runtime::{Bar, Registry};
use std::time::Duration;

/// An endpoint of a table.
#[derive(Clone, Copy)]
struct One(u32, Health, bool);

const OK: One = One(1, Health::Healthy, false);
/// Barred by this proxy.
const NO: One = One(1, Health::Healthy, true);
const OLD: One = One(1, Health::Draining, false);
const ILL: One = One(1, Health::Unhealthy, false);
/// Healthy, but of weight 0.
const NIL: One = One(0, Health::Healthy, false);

/// Groups of a table: priority, weight, endpoints.
type Groups<'a> = &'a [(u32, u32, &'a [One])];

fn cluster(groups: Groups<'_>, change: impl FnOnce(&mut ClusterSpec)) -> Cluster {
    let registry = Registry::default();
    let all: Vec<One> = groups
        .iter()
        .flat_map(|(.., ones)| *ones)
        .copied()
        .collect();
    let endpoints: Vec<_> = all.iter().map(|one| (one.0, one.1)).collect();
    let whole = cluster_of(&registry, &endpoints, |spec| {
        spec.policy = Policy::RoundRobin;
        change(spec);
    });
    for (endpoint, one) in whole.endpoints.iter().zip(&all) {
        if one.2 {
            whole.runtime.bar(&endpoint.state, Bar::Outlier);
        }
    }
    let groups = groups.iter().map(|(priority, weight, ones)| Group {
        priority: *priority,
        place: "".into(),
        weight: *weight,
        size: ones.len(),
    });
    Cluster::placed(
        whole.id,
        whole.spec.clone(),
        whole.endpoints.to_vec(),
        groups.collect(),
        whole.runtime.clone(),
    )
}

fn plan(cluster: &Cluster, now: Option<Duration>) -> Plan {
    Plan::of(&cluster.endpoints, &cluster.groups, &cluster.spec, now)
}

/// As things stand now.
fn now(groups: Groups<'_>, change: impl FnOnce(&mut ClusterSpec)) -> Plan {
    plan(&cluster(groups, change), Some(Duration::ZERO))
}

/// Priority, load up to here, panic, members.
type Row<'a> = (u32, u64, bool, &'a [u32]);

fn rows(plan: &Plan) -> Vec<Row<'_>> {
    let row = |tier: &Tier| (tier.priority, tier.load, tier.panic);
    plan.tiers
        .iter()
        .map(|tier| (row(tier).0, row(tier).1, row(tier).2, &*tier.members))
        .collect()
}

/// What it is, threshold of panic, groups, and the tiers that come of them.
type Case<'a> = (&'a str, u32, Groups<'a>, &'a [Row<'a>]);

fn check(cases: &[Case<'_>]) {
    for (what, threshold, groups, want) in cases {
        let plan = now(groups, |spec| spec.panic_threshold = *threshold);
        assert_eq!(rows(&plan), *want, "{what}");
        let members: usize = want.iter().map(|row| row.3.len()).sum();
        assert_eq!(plan.members, members, "{what}");
    }
}

/// 140 % of the available share, at most all of it.
#[test]
fn a_tier_takes_what_it_can_carry() {
    const FAR: &[One] = &[OK];
    const ALL: &[Row<'_>] = &[(0, 100, false, &[0, 1]), (1, 100, false, &[2])];
    const ONE: &[Row<'_>] = &[(0, 100, false, &[0]), (1, 100, false, &[2])];
    const HALF: &[Row<'_>] = &[(0, 70, false, &[0]), (1, 100, false, &[2])];
    check(&[
        ("all", 0, &[(0, 1, &[OK, OK]), (1, 1, FAR)], ALL),
        ("one ill", 0, &[(0, 1, &[OK, ILL]), (1, 1, FAR)], HALF),
        ("one barred", 0, &[(0, 1, &[OK, NO]), (1, 1, FAR)], HALF),
        // Those that leave are no loss, nor are those of no weight.
        ("one leaves", 0, &[(0, 1, &[OK, OLD]), (1, 1, FAR)], ONE),
        ("no weight", 0, &[(0, 1, &[OK, NIL]), (1, 1, FAR)], ONE),
        // Unless nobody healthy can be called: then they are who is left.
        ("all leave", 0, &[(0, 1, &[OLD, ILL]), (1, 1, &[OLD])], HALF),
        (
            "or barred",
            0,
            &[(0, 1, &[NO, OLD])],
            &[(0, 100, false, &[1])],
        ),
        (
            "or weightless",
            0,
            &[(0, 1, &[NIL, OLD])],
            &[(0, 100, false, &[1])],
        ),
        ("nobody", 0, &[(0, 1, &[ILL, NO, NIL])], &[]),
    ]);
}

#[test]
fn loads_add_up_to_a_hundred_in_the_order_of_priorities() {
    check(&[
        // Nearness is the priority, not the place in the list; numbers may be left out.
        (
            "order",
            0,
            &[(7, 1, &[OK]), (2, 1, &[OK, ILL]), (7, 1, &[OK])],
            &[(2, 70, false, &[1]), (7, 100, false, &[0, 3])],
        ),
        // What no tier can carry is spread as they can; what rounding leaves goes to the first that takes any.
        (
            "too little",
            0,
            &[(0, 1, &[OK, ILL]), (1, 1, &[ILL])],
            &[(0, 100, false, &[0])],
        ),
        (
            "rounding",
            0,
            &[
                (0, 1, &[ILL]),
                (1, 1, &[OK, ILL, ILL, ILL, ILL]),
                (2, 1, &[OK, ILL, ILL]),
            ],
            &[(1, 38, false, &[1]), (2, 100, false, &[6])],
        ),
    ]);
}

/// Panic: fewer than the threshold can be called, and the others cannot carry it all.
#[test]
fn in_panic_everybody_is_called() {
    const HALF: Groups<'_> = &[(0, 1, &[OK, ILL])];
    const SOUND: &[Row<'_>] = &[(0, 100, false, &[0])];
    const PANIC: &[Row<'_>] = &[(0, 100, true, &[0, 1])];
    check(&[
        ("at the threshold", 50, HALF, SOUND),
        ("below it", 51, HALF, PANIC),
        ("without one", 0, &[(0, 1, &[OK, ILL, ILL, ILL])], SOUND),
        ("more than all", 900, HALF, PANIC),
        ("no weight", 50, &[(0, 1, &[ILL, ILL, NIL])], PANIC),
        (
            "enough for all",
            100,
            &[(0, 1, &[OK, OK, OK, ILL])],
            &[(0, 100, false, &[0, 1, 2])],
        ),
        (
            "enough elsewhere",
            100,
            &[(0, 1, &[ILL]), (1, 1, &[OK])],
            &[(1, 100, false, &[1])],
        ),
        (
            "by size where all are in panic",
            50,
            &[(0, 1, &[ILL, ILL]), (1, 1, &[OK, ILL, ILL, ILL])],
            &[(0, 34, true, &[0, 1]), (1, 100, true, &[2, 3, 4, 5])],
        ),
        (
            "one in panic",
            50,
            &[(0, 1, &[ILL, NO]), (1, 1, &[OK, ILL])],
            &[(0, 0, true, &[0, 1]), (1, 100, false, &[2])],
        ),
        (
            "panic beside nobody",
            50,
            &[(0, 1, &[NIL]), (1, 1, &[ILL])],
            &[(1, 100, true, &[1])],
        ),
    ]);
}

/// A cluster's own plan is used while nobody is barred: bars do not count in it.
#[test]
fn bars_count_in_a_workers_own_plan_only() {
    let cluster = cluster(&[(0, 1, &[OK, NO])], |_| ());
    assert_eq!(rows(&cluster.plan), [(0, 100, false, &[0, 1][..])]);
    let own = plan(&cluster, Some(Duration::ZERO));
    assert_eq!(rows(&own), [(0, 100, false, &[0][..])]);
}

/// By tier: the pools' numbers, weights up to here and endpoints in their turns.
fn pools(plan: &Plan) -> Vec<(usize, u64, Vec<u32>)> {
    let all = plan.tiers.iter().flat_map(|tier| &tier.pools);
    all.map(|pool| {
        let Order::Schedule(turns) = &pool.order else {
            panic!("no schedule")
        };
        let mut different = turns.to_vec();
        different.sort_unstable();
        different.dedup();
        assert_eq!(pool.eligible, different.len());
        (pool.number, pool.below, turns.to_vec())
    })
    .collect()
}

/// What it is, threshold of panic, groups, and the pools that come of them.
type Placed<'a> = (&'a str, u32, Groups<'a>, &'a [(usize, u64, &'a [u32])]);

#[test]
fn places_share_by_weight_less_what_they_lost() {
    let five = [OK, OK, OK, OK, ILL];
    let table: &[Placed<'_>] = &[
        (
            "weights",
            0,
            &[(0, 30, &[OK]), (0, 70, &[OK, OK])],
            &[(0, 30_000, &[0]), (1, 100_000, &[1, 2])],
        ),
        // One of five can be made up for, one of two cannot: 1.4 × 50 %.
        (
            "losses",
            0,
            &[(0, 30, &five), (0, 50, &[OK, ILL])],
            &[(0, 30_000, &[0, 1, 2, 3]), (1, 65_000, &[5])],
        ),
        (
            "nobody left",
            0,
            &[(0, 30, &[ILL]), (0, 50, &[OK])],
            &[(0, 50_000, &[1])],
        ),
        (
            "no weight",
            0,
            &[(0, 0, &[OK]), (0, 50, &[OK])],
            &[(0, 50_000, &[1])],
        ),
        (
            "no weights",
            0,
            &[(0, 0, &[OK]), (0, 0, &[OK])],
            &[(0, 0, &[0, 1])],
        ),
        (
            "two tiers",
            0,
            &[(0, 1, &[OK]), (1, 2, &[OK]), (1, 3, &[OK])],
            &[(0, 1_000, &[0]), (1, 2_000, &[1]), (2, 5_000, &[2])],
        ),
        // In panic losses do not count, but a place in which nobody has a weight is none.
        (
            "panic",
            100,
            &[(0, 30, &[ILL, ILL]), (0, 50, &[OK, ILL]), (0, 9, &[NIL])],
            &[(0, 30_000, &[0, 1]), (1, 80_000, &[2, 3])],
        ),
    ];
    for (what, threshold, groups, want) in table {
        let plan = now(groups, |spec| {
            spec.balance.by_place = true;
            spec.panic_threshold = *threshold;
        });
        let want: Vec<_> = want
            .iter()
            .map(|(n, below, turns)| (*n, *below, turns.to_vec()))
            .collect();
        assert_eq!(pools(&plan), want, "{what}");
        assert_eq!(plan.pools, want.len(), "{what}");
        // Unless asked for, a place's weight says nothing: one pool for each tier.
        let plan = now(groups, |spec| spec.panic_threshold = *threshold);
        assert_eq!(plan.pools, plan.tiers.len(), "{what}");
    }
}

#[test]
fn a_place_without_weight_is_left_out_of_a_hash_too() {
    for policy in [
        Policy::RingHash { minimum: 64 },
        Policy::Maglev { table: 251 },
    ] {
        let plan = now(&[(0, 0, &[OK]), (0, 50, &[OK, OK])], |spec| {
            spec.balance.by_place = true;
            spec.policy = policy;
        });
        let pool = &plan.tiers[0].pools[0];
        let all: Vec<u32> = match &pool.order {
            Order::Ring(points) => points.iter().map(|(_, index)| *index).collect(),
            Order::Table(table) => table.to_vec(),
            Order::Schedule(_) => panic!("{policy:?}"),
        };
        assert!(
            all.contains(&1) && all.contains(&2) && !all.contains(&0),
            "{policy:?}"
        );
        assert_eq!(pool.eligible, 2);
    }
}

const WINDOW: Duration = Duration::from_secs(64);

fn warmed(spec: &mut ClusterSpec) {
    spec.balance.slow_start = Some(SlowStart {
        window: WINDOW,
        aggression: 1.0,
        least: 0.001,
    });
}

#[test]
fn a_plan_of_rising_weights_holds_for_a_64th_of_their_window() {
    let cluster = cluster(&[(0, 1, &[OK, NO])], warmed);
    let at = Duration::from_secs;
    assert_eq!(
        plan(&cluster, None).until,
        None,
        "without a time nothing changes with it"
    );
    assert_eq!(plan(&cluster, Some(at(100))).until, Some(at(101)));
    // At the end of the window nothing rises any more; who is barred waits at its beginning.
    assert_eq!(plan(&cluster, Some(at(163))).until, Some(at(164)));
    assert_eq!(
        plan(&cluster, Some(at(164))).until,
        Some(at(165)),
        "the barred one is new for ever"
    );
    let sound = self::cluster(&[(0, 1, &[OK])], warmed);
    assert_eq!(plan(&sound, Some(at(100))).until, Some(at(101)));
    assert_eq!(plan(&sound, Some(at(164))).until, None);
    // A short window is not divided without end.
    let short = self::cluster(&[(0, 1, &[OK])], |spec| {
        warmed(spec);
        if let Some(slow) = &mut spec.balance.slow_start {
            slow.window = Duration::from_millis(64);
        }
    });
    assert_eq!(
        plan(&short, Some(at(1))).until,
        Some(at(1) + Duration::from_millis(10))
    );
}

/// Only those are warmed up that are up: the unhealthy and the barred begin when they come back.
#[test]
fn age_counts_from_when_an_endpoint_is_up() {
    let at = Duration::from_secs;
    for (one, aged) in [(OK, true), (NO, false), (OLD, false), (ILL, false)] {
        let cluster = cluster(&[(0, 1, &[one])], warmed);
        plan(&cluster, Some(at(100)));
        let age = cluster.endpoints[0].state.load().age(true, at(110));
        assert_eq!(age, at(if aged { 10 } else { 0 }));
    }
}

#[test]
fn turns_follow_weights_that_rise() {
    let at = Duration::from_secs;
    let cluster = cluster(&[(0, 1, &[OK, OK])], warmed);
    let first = &cluster.endpoints[0].state;
    // The first is up for 48 s at second 148, the second for 16: three quarters to one.
    first.load().age(true, at(100));
    cluster.endpoints[1].state.load().age(true, at(132));
    let plan = plan(&cluster, Some(at(148)));
    let (_, _, turns) = &pools(&plan)[0];
    assert_eq!(
        turns.iter().filter(|turn| **turn == 0).count() * 4,
        turns.len() * 3
    );
}

#[test]
fn reports_are_looked_at_anew_after_their_period() {
    let rules = |spec: &mut ClusterSpec| {
        spec.balance.utilization = Some(Utilization {
            period: Duration::from_secs(7),
            ..Utilization::default()
        });
    };
    let at = Duration::from_secs;
    let by = |policy| {
        let cluster = cluster(&[(0, 1, &[OK])], |spec| {
            rules(spec);
            spec.policy = policy;
        });
        plan(&cluster, Some(at(100))).until
    };
    assert_eq!(by(Policy::Utilization), Some(at(107)));
    assert_eq!(by(Policy::RoundRobin), None, "who does not ask for them");
}

#[test]
fn who_says_nothing_counts_as_the_median() {
    for (all, want) in [
        (&[][..], 1),
        (&[5], 5),
        (&[0], 1),
        (&[9, 1], 5),
        (&[3, 1, 2], 2),
        (&[20, 2, 6, 4], 5),
        (&[u32::MAX, u32::MAX], u32::MAX),
        (&[9, 8, 7, 1, 2], 7),
    ] {
        assert_eq!(median(all.to_vec()), want, "{all:?}");
    }
}
