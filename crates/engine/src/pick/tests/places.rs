//! Places: who is near is called first, what they cannot take goes on, and comes back.

use super::{address, cluster_of, share};
use crate::model::{Cluster, ClusterSpec, Group, Health, Limits, Policy};
use crate::pick::{Cursors, Wish, pick};
use crate::runtime::{Bar, Registry};
use proptest::prelude::{prop, proptest};
use std::sync::Arc;
use std::time::Duration;

fn group(priority: u32, place: &str, weight: u32, size: usize) -> Group {
    Group {
        priority,
        place: place.into(),
        weight,
        size,
    }
}

/// Endpoints in groups, all healthy.
fn placed(
    registry: &Registry,
    groups: Vec<Group>,
    change: impl FnOnce(&mut ClusterSpec),
) -> Cluster {
    let size = groups.iter().map(|g| g.size).sum();
    let endpoints = vec![(1, Health::Healthy); size];
    let whole = cluster_of(registry, &endpoints, change);
    Cluster::placed(
        whole.id,
        Arc::clone(&whole.spec),
        whole.endpoints.to_vec(),
        groups,
        Arc::clone(&whole.runtime),
    )
}

#[test]
fn the_nearest_take_everything_until_they_cannot() {
    let registry = Registry::default();
    // Ten near, two far.
    let cluster = placed(
        &registry,
        vec![group(0, "a", 1, 10), group(1, "b", 1, 2)],
        |_| (),
    );
    let far = [address(10), address(11)];
    let near_share = || 1.0 - share(&cluster, 20_000, &far);
    assert!((near_share() - 1.0).abs() < f64::EPSILON);
    // 1.4 × 80 % is still more than all; 1.4 × 50 % is 70 %; none: all goes on.
    for (barred, want) in [(2, 1.0), (5, 0.7), (8, 0.28), (10, 0.0)] {
        for endpoint in &cluster.endpoints[..barred] {
            cluster.runtime.bar(&endpoint.state, Bar::Outlier);
        }
        let seen = near_share();
        assert!((seen - want).abs() < 0.02, "{barred} barred: {seen}");
    }
    for endpoint in &cluster.endpoints[..10] {
        cluster.runtime.lift(&endpoint.state, Bar::Outlier);
    }
    assert!((near_share() - 1.0).abs() < f64::EPSILON, "they are back");
}

/// The draw between places is exact: of a hundred hashes the near ones take as many as their load says.
#[test]
fn a_hash_draws_the_place() {
    let registry = Registry::default();
    let groups = vec![group(0, "a", 1, 10), group(1, "b", 1, 2)];
    let cluster = placed(&registry, groups, |_| ());
    for endpoint in &cluster.endpoints[..5] {
        cluster.runtime.bar(&endpoint.state, Bar::Outlier);
    }
    let (mut cursors, mut rng) = (Cursors::new(), fastrand::Rng::with_seed(1));
    for (hash, priority) in [(0, 0), (69, 0), (70, 1), (99, 1), (100, 0)] {
        let wish = Wish {
            hash: Some(hash),
            ..Wish::default()
        };
        let picked = pick(&cluster, &wish, &mut cursors, &mut rng).unwrap();
        assert_eq!(
            (picked.priority, picked.spilled),
            (priority, false),
            "{hash}"
        );
    }
}

/// Four places for eight requests: two endpoints carry four of them.
#[test]
fn a_place_carries_its_share_of_the_limit() {
    let registry = Registry::default();
    let limits = Limits {
        requests: 8,
        ..Limits::default()
    };
    let groups = vec![group(0, "a", 1, 2), group(1, "b", 1, 2)];
    let cluster = placed(&registry, groups, |spec| spec.limits = limits);
    let (mut cursors, mut rng) = (Cursors::new(), fastrand::Rng::with_seed(1));
    let mut held = Vec::new();
    for n in 0..8 {
        let picked = pick(&cluster, &Wish::default(), &mut cursors, &mut rng).unwrap();
        assert_eq!((picked.priority, picked.spilled), (n / 4, n >= 4), "{n}");
        held.push(
            cluster
                .runtime
                .request(&picked.endpoint.state, &limits, None),
        );
    }
}

#[test]
fn who_is_broken_and_called_all_the_same_is_marked() {
    let registry = Registry::default();
    let endpoints = [Health::Healthy, Health::Unhealthy, Health::Healthy].map(|h| (1, h));
    for threshold in [100, 0] {
        let cluster = cluster_of(&registry, &endpoints, |spec| {
            spec.panic_threshold = threshold;
        });
        cluster
            .runtime
            .bar(&cluster.endpoints[2].state, Bar::Outlier);
        let (mut cursors, mut rng) = (Cursors::new(), fastrand::Rng::with_seed(1));
        let mut marked = [None; 3];
        for _ in 0..100 {
            let picked = pick(&cluster, &Wish::default(), &mut cursors, &mut rng).unwrap();
            let at = usize::from(picked.endpoint.address.port()) - 1;
            let before = marked[at].replace(picked.panic);
            assert!(before.is_none_or(|before| before == picked.panic));
        }
        let all = [Some(false), Some(true), Some(true)];
        let sound = [Some(false), None, None];
        assert_eq!(marked, if threshold > 0 { all } else { sound });
    }
}

#[test]
fn a_place_at_its_limit_passes_on_and_takes_back() {
    let registry = Registry::default();
    let limits = Limits {
        requests: 4,
        ..Limits::default()
    };
    let groups = vec![group(0, "a", 1, 1), group(1, "b", 1, 1)];
    let cluster = placed(&registry, groups.clone(), |spec| spec.limits = limits);
    let (mut cursors, mut rng) = (Cursors::new(), fastrand::Rng::with_seed(5));
    let mut held = Vec::new();
    let mut order = Vec::new();
    for _ in 0..4 {
        let got = pick(&cluster, &Wish::default(), &mut cursors, &mut rng).unwrap();
        order.push((got.endpoint.address, got.spilled));
        let permit = cluster.runtime.request(&got.endpoint.state, &limits, None);
        held.push(permit.unwrap());
    }
    let (near, far) = (address(0), address(1));
    let want = [(near, false), (near, false), (far, true), (far, true)];
    assert_eq!(order, want, "half of the limit is the near place's");
    held.clear();
    let got = pick(&cluster, &Wish::default(), &mut cursors, &mut rng).unwrap();
    assert_eq!((got.endpoint.address, got.spilled), (near, false));
    // Without a limit nothing is passed on.
    let free = placed(&registry, groups, |_| ());
    let busy: Vec<_> = (0..50)
        .map(|_| {
            free.runtime
                .request(&free.endpoints[0].state, &Limits::default(), None)
        })
        .collect();
    let got = pick(&free, &Wish::default(), &mut cursors, &mut rng).unwrap();
    assert_eq!(got.endpoint.address, near);
    drop(busy);
}

#[test]
fn a_retry_leaves_a_place_whose_only_endpoint_failed() {
    let registry = Registry::default();
    let groups = vec![group(0, "a", 1, 1), group(1, "b", 1, 1)];
    let cluster = placed(&registry, groups, |_| ());
    let wish = Wish {
        avoid: Some(address(0)),
        ..Wish::default()
    };
    let (mut cursors, mut rng) = (Cursors::new(), fastrand::Rng::with_seed(5));
    let got = pick(&cluster, &wish, &mut cursors, &mut rng).unwrap();
    assert_eq!(got.endpoint.address, address(1));
}

#[test]
fn places_share_by_their_weight_and_by_what_they_have_left() {
    let registry = Registry::default();
    for policy in [
        Policy::RoundRobin,
        Policy::Random,
        Policy::Maglev { table: 65_537 },
    ] {
        let groups = vec![group(0, "a", 80, 2), group(0, "b", 20, 6)];
        let cluster = placed(&registry, groups, |spec| {
            spec.policy = policy;
            spec.balance.by_place = true;
        });
        let of_a = || share(&cluster, 40_000, &[address(0), address(1)]);
        let seen = of_a();
        assert!((seen - 0.8).abs() < 0.02, "{policy:?}: {seen}");
        if !matches!(policy, Policy::Maglev { .. }) {
            // One of two is left: 80 × 0.7 to 20.
            cluster
                .runtime
                .bar(&cluster.endpoints[0].state, Bar::Outlier);
            let seen = of_a();
            assert!((seen - 56.0 / 76.0).abs() < 0.02, "{policy:?}: {seen}");
            cluster
                .runtime
                .lift(&cluster.endpoints[0].state, Bar::Outlier);
        }
    }
}

#[test]
fn a_plan_is_kept_until_something_changes() {
    let registry = Registry::default();
    let cluster = placed(&registry, vec![group(0, "a", 1, 3)], |_| ());
    let (mut cursors, mut rng) = (Cursors::new(), fastrand::Rng::with_seed(5));
    let mut once = |now| {
        let wish = Wish {
            now: Duration::from_secs(now),
            ..Wish::default()
        };
        let _ = pick(&cluster, &wish, &mut cursors, &mut rng);
        let own = cursors.own.first().and_then(Option::as_ref);
        own.and_then(|own| own.plan.as_ref())
            .map(|plan| plan.tiers.as_ptr())
    };
    assert_eq!(once(0), None, "the cluster's own holds");
    cluster
        .runtime
        .bar(&cluster.endpoints[0].state, Bar::Outlier);
    let (first, second) = (once(1), once(2));
    assert!(first.is_some());
    assert_eq!(first, second, "worked out once");
    cluster
        .runtime
        .lift(&cluster.endpoints[0].state, Bar::Outlier);
    assert_eq!(once(3), None);
}

proptest! {
    #[test]
    fn nobody_broken_is_called_while_somebody_sound_exists(
        sound in prop::collection::vec(prop::bool::ANY, 1..9), cuts in prop::collection::vec(1usize..4, 1..5),
        by_place: bool, seed: u64, hash in prop::option::of(0u64..u64::MAX),
        policy in prop::sample::select(vec![
            Policy::RoundRobin, Policy::LeastRequest, Policy::Random, Policy::PeakEwma, Policy::Utilization,
            Policy::RingHash { minimum: 64 }, Policy::Maglev { table: 251 },
        ]),
    ) {
        let registry = Registry::default();
        let mut groups = Vec::new();
        let mut left = sound.len();
        for (at, cut) in cuts.iter().enumerate() {
            let size = left.min(*cut);
            left -= size;
            groups.push(group(u32::try_from(at / 2).unwrap(), "p", u32::try_from(*cut).unwrap(), size));
        }
        groups.push(group(9, "rest", 1, left));
        let cluster = placed(&registry, groups, |spec| {
            spec.policy = policy;
            spec.balance.by_place = by_place;
        });
        for (endpoint, sound) in cluster.endpoints.iter().zip(&sound) {
            if !sound {
                cluster.runtime.bar(&endpoint.state, Bar::HealthCheck);
            }
        }
        let (mut cursors, mut rng) = (Cursors::new(), fastrand::Rng::with_seed(seed));
        for _ in 0..40 {
            let wish = Wish { hash, ..Wish::default() };
            match pick(&cluster, &wish, &mut cursors, &mut rng) {
                Some(got) => assert!(!got.endpoint.state.is_barred()),
                None => assert!(!sound.contains(&true), "somebody sound was left out"),
            }
        }
    }
}
