//! Consistent hashing: one key, one endpoint; few keys move; the layout is Envoy's.

use super::{address, cluster_of};
use crate::model::{Cluster, ClusterSpec, Group, Health, Policy};
use crate::pick::consistent::{Share, in_table, on_ring, ring, table};
use crate::pick::plan::Order;
use crate::pick::{Cursors, REHASHES, Wish, pick};
use crate::runtime::{Bar, Registry};
use std::net::SocketAddr;
use xxhash_rust::xxh64::xxh64;

const RING: Policy = Policy::RingHash { minimum: 1024 };
const MAGLEV: Policy = Policy::Maglev { table: 65_537 };
const KEYS: u64 = 4000;

fn to(cluster: &Cluster, cursors: &mut Cursors, key: u64, avoid: Option<SocketAddr>) -> SocketAddr {
    let mut rng = fastrand::Rng::with_seed(key);
    let wish = Wish {
        hash: Some(xxh64(format!("user-{key}").as_bytes(), 0)),
        avoid,
        ..Wish::default()
    };
    pick(cluster, &wish, cursors, &mut rng)
        .unwrap()
        .endpoint
        .address
}

fn hashing(registry: &Registry, policy: Policy, weights: &[u32]) -> Cluster {
    let endpoints: Vec<_> = weights.iter().map(|w| (*w, Health::Healthy)).collect();
    cluster_of(registry, &endpoints, |spec| spec.policy = policy)
}

#[test]
fn a_key_stays_where_it_is_and_keys_spread_by_weight() {
    let registry = Registry::default();
    let cursors = &mut Cursors::new();
    for (policy, slack) in [(RING, 0.06), (MAGLEV, 0.03)] {
        let cluster = hashing(&registry, policy, &[1, 1, 2]);
        let mut counts = [0u32; 3];
        for key in 0..KEYS {
            let first = to(&cluster, cursors, key, None);
            assert_eq!(to(&cluster, cursors, key, None), first);
            counts[usize::from(first.port()) - 1] += 1;
        }
        for (count, want) in counts.iter().zip([0.25, 0.25, 0.5]) {
            let seen = f64::from(*count) / 4000.0;
            assert!((seen - want).abs() < slack, "{policy:?}: {counts:?}");
        }
    }
}

#[test]
fn only_the_keys_of_a_lost_endpoint_move() {
    let registry = Registry::default();
    let cursors = &mut Cursors::new();
    // As in Envoy a ring keeps its size: those that stay get more points each, and a few keys with them.
    for (policy, most_others) in [(RING, 320), (MAGLEV, 60)] {
        let cluster = hashing(&registry, policy, &[1; 10]);
        let before: Vec<_> = (0..KEYS)
            .map(|key| to(&cluster, cursors, key, None))
            .collect();
        cluster
            .runtime
            .bar(&cluster.endpoints[3].state, Bar::Outlier);
        let mut moved = 0;
        for (key, before) in (0..KEYS).zip(&before) {
            let after = to(&cluster, cursors, key, None);
            assert_ne!(after, address(3));
            moved += u32::from(after != *before && *before != address(3));
        }
        assert!(
            moved <= most_others,
            "{policy:?}: {moved} of {KEYS} moved for nothing"
        );
        cluster
            .runtime
            .lift(&cluster.endpoints[3].state, Bar::Outlier);
        let after: Vec<_> = (0..KEYS)
            .map(|key| to(&cluster, cursors, key, None))
            .collect();
        assert_eq!(after, before, "and come back");
    }
}

#[test]
fn a_retry_goes_elsewhere_and_always_to_the_same_place() {
    let registry = Registry::default();
    let cursors = &mut Cursors::new();
    for policy in [RING, MAGLEV] {
        let cluster = hashing(&registry, policy, &[1, 1, 1]);
        for key in 0..200 {
            let first = to(&cluster, cursors, key, None);
            let second = to(&cluster, cursors, key, Some(first));
            assert_ne!(first, second);
            assert_eq!(to(&cluster, cursors, key, Some(first)), second);
        }
    }
}

/// As in Envoy, a retry hashes anew until it comes to another endpoint.
#[test]
fn a_retry_by_table_hashes_anew() {
    let registry = Registry::default();
    let cluster = hashing(&registry, MAGLEV, &[1; 5]);
    let Order::Table(table) = &cluster.plan.tiers[0].pools[0].order else {
        panic!("no table")
    };
    let of = |slot: usize| cluster.endpoints[table[slot] as usize].address;
    let mut moved = 0;
    for key in 0..200 {
        let hash = xxh64(format!("user-{key}").as_bytes(), 0);
        let first = of(in_table(table, hash, 0));
        let other = (1..=REHASHES).map(|n| of(in_table(table, hash, n)));
        if let Some(other) = other.into_iter().find(|other| *other != first) {
            let second = to(&cluster, &mut Cursors::new(), key, Some(first));
            assert_eq!(second, other, "key {key}");
            moved += 1;
        }
    }
    assert!(moved > 150, "{moved}");
}

#[test]
fn without_a_key_calls_spread() {
    let registry = Registry::default();
    for policy in [RING, MAGLEV] {
        let cluster = hashing(&registry, policy, &[1, 1, 1]);
        let seen = super::counts(&cluster, 3000, 7);
        assert!(seen.values().all(|count| *count > 700), "{seen:?}");
    }
}

#[test]
fn a_table_that_is_no_prime_ends_and_picks_nobody() {
    let registry = Registry::default();
    let cluster = hashing(&registry, Policy::Maglev { table: 1000 }, &[1, 1]);
    let (mut cursors, mut rng) = (Cursors::new(), fastrand::Rng::with_seed(1));
    // Whatever comes of it, it comes.
    let _ = pick(&cluster, &Wish::default(), &mut cursors, &mut rng);
}

#[test]
fn a_hash_belongs_to_the_first_point_that_is_not_below_it() {
    let points = [(5, 0), (9, 1), (9, 2), (20, 3)];
    for (hash, want) in [(0, 0), (5, 0), (6, 1), (9, 1), (10, 3), (20, 3), (21, 0)] {
        assert_eq!(on_ring(&points, hash), want, "{hash}");
    }
    assert_eq!(on_ring(&[], 7), 0);
}

/// Envoy's `hash ^ (~0 - attempt + 1)`.
#[test]
fn every_attempt_has_a_slot_of_its_own() {
    for (hash, slots) in [
        (5, [5, 3, 4, 1, 2]),
        (123_456_789, [1, 0, 1, 5, 6]),
        (u64::MAX, [1, 0, 1, 2, 3]),
    ] {
        let seen = [0, 1, 2, 3, 4].map(|attempt| in_table(&[0; 7], hash, attempt));
        assert_eq!(seen, slots, "{hash}");
    }
    assert_eq!(in_table(&[], 7, 0), 0);
}

/// As in Envoy one that is due exactly takes its slot: half the largest share in rounds 1, 2, 4, 6.
#[test]
fn slots_are_taken_in_rounds() {
    let shares = [1.0, 2.0].map(|weight: f64| Share {
        index: u32::from(weight > 1.0),
        address: address(usize::from(weight > 1.0)),
        share: weight / 3.0,
    });
    for (size, want) in [(2, 1), (3, 2), (5, 2), (7, 3), (11, 4)] {
        let table = table(&shares, size);
        let light = table.iter().filter(|index| **index == 0).count();
        assert_eq!((table.len(), light), (size as usize, want));
    }
}

#[test]
fn without_shares_there_is_neither_ring_nor_table() {
    let share = |n: u32, share| Share {
        index: n,
        address: address(n as usize),
        share,
    };
    assert!(ring(&[], 64).is_empty() && table(&[], 251).is_empty());
    let nothing = [share(0, 0.0)];
    assert!(ring(&nothing, 64).is_empty() && table(&nothing, 251).is_empty());
    // One share of nothing has no whole number of points, however large the ring.
    assert!(ring(&[share(0, 0.0), share(1, 1.0)], 64).is_empty());
    let two = [share(0, 0.5), share(1, 0.5)];
    for (size, want) in [(0, 0), (1, 0), (2, 2), (3, 3), (4, 0), (251, 251)] {
        let len = table(&two, size).len();
        // A composite size may come out, or not; a prime one does.
        assert!(len == want || size == 4 && len == 4, "{size}: {len}");
    }
    // One point at least for each, and as many as the minimum says for all.
    for (minimum, want) in [(0, 0), (1, 2), (2, 2), (3, 4), (64, 64)] {
        assert_eq!(ring(&two, minimum).len(), want, "{minimum}");
    }
}

/// What a real Envoy chose (see the file's first line), key by key.
const ENVOY: &str = include_str!("envoy-1.40.txt");

#[test]
fn every_key_lies_where_a_real_envoy_puts_it() {
    let weights = [1, 2, 3, 5, 8, 1, 4];
    let equal = [1; 7];
    let odd = [3, 1, 3, 1, 7, 2, 9];
    let ring = |minimum| Policy::RingHash { minimum };
    let maglev = |table| Policy::Maglev { table };
    let layouts = [
        ("ring", ring(1024), equal, false),
        ("ring-small", ring(7), equal, false),
        ("ring-weights", ring(1024), weights, false),
        ("ring-odd", ring(100), odd, false),
        ("maglev", maglev(65_537), equal, false),
        ("maglev-weights", maglev(251), weights, false),
        ("maglev-small", maglev(11), equal, false),
        ("ring-places", ring(1024), weights, true),
        ("maglev-places", maglev(65_537), weights, true),
    ];
    let registry = Registry::default();
    for (name, policy, weights, places) in layouts {
        let mut cluster = hashing(&registry, policy, &weights);
        if places {
            let mut spec = ClusterSpec::clone(&cluster.spec);
            spec.balance.by_place = true;
            let group = |place: &str, weight, size| Group {
                priority: 0,
                place: place.into(),
                weight,
                size,
            };
            cluster = Cluster::placed(
                cluster.id,
                std::sync::Arc::new(spec),
                cluster.endpoints.to_vec(),
                vec![group("a", 30, 3), group("b", 70, 4)],
                std::sync::Arc::clone(&cluster.runtime),
            );
        }
        let line = ENVOY
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let cursors = &mut Cursors::new();
        let ours: String = (0..240)
            .map(|key| (to(&cluster, cursors, key, None).port() - 1).to_string())
            .collect();
        assert_eq!(Some(&*ours), line, "{name}");
    }
}
