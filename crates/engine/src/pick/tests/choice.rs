//! Which tier, which pool and whose turn, case by case.

use super::{address, cluster_of};
use crate::model::{Cluster, ClusterSpec, Group, Health, HttpVersion, Limits, Policy, SlowStart};
use crate::pick::plan::{Order, Pool, Tier};
use crate::pick::{Cursors, Wish, bit, pick, turn};
use crate::runtime::{Bar, Permit, Registry};
use std::time::Duration;

/// Groups by priority and size, each endpoint healthy and of weight 1.
fn tiers(
    registry: &Registry,
    groups: &[(u32, usize)],
    change: impl FnOnce(&mut ClusterSpec),
) -> Cluster {
    let size = groups.iter().map(|(_, size)| size).sum();
    let whole = cluster_of(registry, &vec![(1, Health::Healthy); size], change);
    let groups = groups.iter().map(|(priority, size)| Group {
        priority: *priority,
        ..Group::whole(*size)
    });
    Cluster::placed(
        whole.id,
        whole.spec.clone(),
        whole.endpoints.to_vec(),
        groups.collect(),
        whole.runtime.clone(),
    )
}

/// Priority and whether nearer ones were passed over, for a wish.
fn goes(cluster: &Cluster, wish: &Wish) -> (u32, bool) {
    let (mut cursors, mut rng) = (Cursors::new(), fastrand::Rng::with_seed(1));
    let picked = pick(cluster, wish, &mut cursors, &mut rng).unwrap();
    (picked.priority, picked.spilled)
}

fn busy(cluster: &Cluster, held: &[usize]) -> Vec<Option<Permit>> {
    let request = |at: &usize| {
        let state = &cluster.endpoints[*at].state;
        cluster.runtime.request(state, &Limits::default(), None)
    };
    held.iter().map(request).collect()
}

#[test]
fn a_priority_has_a_bit_and_those_from_63_on_share_one() {
    for (priority, want) in [
        (0, 0),
        (1, 1),
        (5, 5),
        (62, 62),
        (63, 63),
        (64, 63),
        (u32::MAX, 63),
    ] {
        assert_eq!(bit(priority), 2u64.pow(want), "{priority}");
    }
}

#[test]
fn priorities_are_left_out_while_another_has_endpoints() {
    let registry = Registry::default();
    let cluster = tiers(&registry, &[(0, 2), (1, 2), (2, 2)], |_| ());
    for (leave_out, want) in [
        (&[][..], 0),
        (&[0], 1),
        (&[0, 1], 2),
        (&[1, 2], 0),
        (&[0, 2], 1),
        // All of them: the one that was drawn.
        (&[0, 1, 2], 0),
        (&[7], 0),
    ] {
        let wish = Wish {
            leave_out: leave_out.iter().map(|priority| bit(*priority)).sum(),
            ..Wish::default()
        };
        assert_eq!(goes(&cluster, &wish), (want, false), "{leave_out:?}");
    }
}

#[test]
fn a_tier_is_left_only_for_what_its_one_endpoint_was() {
    let registry = Registry::default();
    for (groups, avoid, want) in [
        (&[(0, 1), (1, 1)][..], Some(0), 1),
        (&[(0, 1), (1, 1)], Some(1), 0),
        (&[(0, 1), (1, 1)], None, 0),
        (&[(0, 2), (1, 1)], Some(0), 0),
        // Nowhere else to go.
        (&[(0, 1)], Some(0), 0),
    ] {
        let cluster = tiers(&registry, groups, |_| ());
        let wish = Wish {
            avoid: avoid.map(address),
            ..Wish::default()
        };
        assert_eq!(goes(&cluster, &wish), (want, false), "{groups:?} {avoid:?}");
    }
}

/// Of HTTP/1 every request has its connection, so the lower of both limits counts; of HTTP/2 the requests.
#[test]
fn a_tier_is_full_at_its_share_of_the_limit_that_binds() {
    use HttpVersion::{Http1, Http2, SameAsCaller};
    let registry = Registry::default();
    for (http, requests, connections, held, want) in [
        (Http1, 8, 4, &[0, 0][..], (1, true)),
        (Http1, 4, 8, &[0, 0], (1, true)),
        (Http1, 8, 4, &[0], (0, false)),
        (Http2, 8, 4, &[0, 0, 0], (0, false)),
        (Http2, 8, 4, &[0, 0, 0, 0], (1, true)),
        (SameAsCaller, 8, 4, &[0, 0, 0], (0, false)),
        (SameAsCaller, 8, 4, &[0, 0, 0, 0], (1, true)),
        // Half of five is three.
        (Http2, 5, 1, &[0, 0], (0, false)),
        (Http2, 5, 1, &[0, 0, 0], (1, true)),
        // Everybody is full: nobody is passed over.
        (Http2, 2, 1, &[0, 1], (0, false)),
    ] {
        let cluster = tiers(&registry, &[(0, 1), (1, 1)], |spec| {
            spec.http = http;
            spec.limits.requests = requests;
            spec.limits.connections = connections;
        });
        let held = busy(&cluster, held);
        let seen = goes(&cluster, &Wish::default());
        assert_eq!(
            seen,
            want,
            "{http:?} {requests} {connections}: {} held",
            held.len()
        );
    }
}

/// Who was drawn and is full passes on to those behind, then to those before.
#[test]
fn a_full_tier_passes_on_all_round() {
    let registry = Registry::default();
    let cluster = tiers(&registry, &[(0, 2), (1, 2), (2, 2)], |spec| {
        spec.limits.requests = 6
    });
    // Each of the first two carries 70 %: 70, 30 of what is left, and the last one nothing.
    for at in [0, 2] {
        cluster
            .runtime
            .bar(&cluster.endpoints[at].state, Bar::Outlier);
    }
    for (hash, held, want) in [
        (0, &[][..], (0, false)),
        (99, &[], (1, false)),
        // Four may be called, so one carries a quarter of six, rounded up, and two of them half.
        (0, &[1, 1], (1, true)),
        (0, &[1, 1, 3, 3], (2, true)),
        (99, &[3, 3], (2, true)),
        (99, &[3, 3, 4, 5, 5], (0, true)),
        (99, &[1, 1, 3, 3, 4, 5, 5], (1, false)),
    ] {
        let held = busy(&cluster, held);
        let wish = Wish {
            hash: Some(hash),
            ..Wish::default()
        };
        assert_eq!(goes(&cluster, &wish), want, "{hash}: {} held", held.len());
    }
}

#[test]
fn turns_go_round_by_cluster_and_pool() {
    let registry = Registry::default();
    let first = tiers(&registry, &[(0, 1)], |_| ());
    let second = tiers(&registry, &[(0, 1)], |spec| spec.name = "another".into());
    assert!(second.id.index() > first.id.index());
    let (mut positions, mut rng) = (Vec::new(), fastrand::Rng::with_seed(1));
    let mut next = |cluster: &Cluster, pool| turn(&mut positions, cluster, pool, 3, &mut rng);
    // Whichever is asked for first, and whatever others were asked for in between.
    let begin = [next(&second, 1), next(&second, 0), next(&first, 0)];
    assert!(begin.iter().all(|at| *at < 3));
    for step in 1..10 {
        assert_eq!(next(&second, 1), (begin[0] + step) % 3);
        assert_eq!(next(&second, 0), (begin[1] + step) % 3);
        assert_eq!(next(&first, 0), (begin[2] + step) % 3);
    }
    // They begin anywhere.
    let seen = (0..50).map(|_| turn(&mut Vec::new(), &first, 0, 3, &mut rng));
    assert_eq!(seen.collect::<std::collections::BTreeSet<_>>().len(), 3);
}

/// A worker's own plans of several clusters stand side by side, each made anew when and only when it is out of date.
#[test]
fn own_plans_are_kept_by_cluster_until_they_are_out_of_date() {
    let registry = Registry::default();
    let warmed = |spec: &mut ClusterSpec| {
        spec.policy = Policy::RoundRobin;
        spec.balance.slow_start = Some(SlowStart {
            window: Duration::from_secs(64),
            aggression: 1.0,
            least: 0.1,
        });
    };
    let first = tiers(&registry, &[(0, 2)], warmed);
    let second = tiers(&registry, &[(0, 2)], |spec| {
        warmed(spec);
        spec.name = "another".into();
    });
    let (mut cursors, mut rng) = (Cursors::new(), fastrand::Rng::with_seed(1));
    let mut until = |cluster: &Cluster, now: u64| {
        let wish = Wish {
            now: Duration::from_millis(now),
            ..Wish::default()
        };
        pick(cluster, &wish, &mut cursors, &mut rng).unwrap();
        let own = cursors.own[cluster.id.index()].as_ref().unwrap();
        own.plan
            .as_ref()
            .unwrap()
            .until
            .map(|until| until.as_millis())
    };
    // The later one first. Plans hold for a second: not at its end any more.
    assert_eq!(until(&second, 10_000), Some(11_000));
    assert_eq!(until(&first, 10_500), Some(11_500));
    assert_eq!(until(&second, 10_999), Some(11_000));
    assert_eq!(until(&second, 11_000), Some(12_000));
    assert_eq!(until(&first, 11_001), Some(11_500));
    // Somebody is barred, or a configuration has come: at once.
    first.runtime.bar(&first.endpoints[0].state, Bar::Outlier);
    assert_eq!(until(&first, 11_002), Some(12_002));
    assert_eq!(until(&first, 11_003), Some(12_002));
    let renewed = tiers(&registry, &[(0, 2)], warmed);
    assert_eq!(
        (renewed.id, renewed.runtime.epoch()),
        (first.id, first.runtime.epoch())
    );
    assert_eq!(until(&renewed, 11_004), Some(12_004));
}

/// Two with the same cost or load: the first that was drawn, so that both are drawn alike.
#[test]
fn the_same_load_is_no_reason_to_change() {
    let registry = Registry::default();
    for policy in [Policy::LeastRequest, Policy::PeakEwma] {
        let cluster = cluster_of(
            &registry,
            &[(1, Health::Healthy), (1, Health::Healthy)],
            |spec| {
                spec.policy = policy;
            },
        );
        let wish = Wish::default();
        for seed in 0..50 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let first = rng.clone().usize(..2);
            let picked = pick(&cluster, &wish, &mut Cursors::new(), &mut rng).unwrap();
            assert_eq!(picked.endpoint.address, address(first), "{policy:?}");
        }
    }
}

/// Pools of weights 1, 0 and 2: a draw of 0 is the first one's, 1 and 2 are the last one's.
#[test]
fn pools_are_drawn_by_their_weights_exactly() {
    let pool = |number, below| Pool {
        number,
        below,
        order: Order::Schedule(Box::default()),
        eligible: 0,
    };
    let tier = |pools: &[(usize, u64)]| Tier {
        priority: 0,
        load: 100,
        panic: false,
        pools: pools
            .iter()
            .map(|(number, below)| pool(*number, *below))
            .collect(),
        members: Box::default(),
    };
    let three = tier(&[(0, 1), (1, 1), (2, 3)]);
    for seed in 0..50 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let drawn = rng.clone().u64(..3);
        let picked = crate::pick::pool(&three, &mut rng).unwrap();
        assert_eq!(picked.number, if drawn == 0 { 0 } else { 2 }, "{drawn}");
    }
    let mut rng = fastrand::Rng::with_seed(1);
    let before = rng.clone();
    let one = tier(&[(7, 0)]);
    assert_eq!(crate::pick::pool(&one, &mut rng).unwrap().number, 7);
    assert_eq!(rng, before, "a single pool is not drawn for");
    assert!(crate::pick::pool(&tier(&[]), &mut rng).is_none());
}
