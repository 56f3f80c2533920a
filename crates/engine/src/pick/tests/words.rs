//! What a pick says of itself.

use super::{address, cluster_of};
use crate::model::{Cluster, ClusterSpec, Cookie, Group, HashKey, Health, Limits, Policy};
use crate::pick::{Cursors, Picked, Wish, explain, pick};
use crate::runtime::{Bar, Registry};
use crate::why::Stage;

const TWO: [(u32, Health); 2] = [(1, Health::Healthy); 2];

/// The decision and its reason, for these endpoints.
fn told(
    endpoints: &[(u32, Health)],
    wish: &Wish,
    change: impl FnOnce(&mut ClusterSpec),
) -> (String, String) {
    let registry = Registry::default();
    let cluster = cluster_of(&registry, endpoints, change);
    let (mut cursors, mut rng) = (Cursors::new(), fastrand::Rng::with_seed(1));
    let picked = pick(&cluster, wish, &mut cursors, &mut rng);
    let why = explain(&cluster, picked.as_ref(), wish);
    assert_eq!(why.stage, Stage::Endpoint);
    (why.decision, why.because)
}

fn group(priority: u32, place: &str, size: usize) -> Group {
    Group {
        priority,
        place: place.into(),
        weight: 1,
        size,
    }
}

#[test]
fn every_endpoint_is_named_with_its_state() {
    let four = [
        (3, Health::Healthy),
        (1, Health::Unhealthy),
        (1, Health::Draining),
        (0, Health::Healthy),
    ];
    let wish = Wish {
        avoid: Some(address(1)),
        ..Wish::default()
    };
    let (decision, because) = told(&four, &wish, |spec| spec.policy = Policy::RoundRobin);
    assert_eq!(decision, "127.0.0.1:1");
    assert_eq!(
        because,
        "ROUND_ROBIN of outbound|80||a: 127.0.0.1:1 (healthy, weight 3, 0 active), \
         127.0.0.1:2 (unhealthy, weight 1, 0 active, just tried), 127.0.0.1:3 (draining, weight 1, 0 active), \
         127.0.0.1:4 (healthy, weight 0, 0 active)"
    );
}

#[test]
fn who_is_barred_busy_or_passed_over_is_said_so() {
    let registry = Registry::default();
    let cluster = cluster_of(&registry, &TWO, |_| ());
    cluster
        .runtime
        .bar(&cluster.endpoints[0].state, Bar::Outlier);
    let busy = cluster
        .runtime
        .request(&cluster.endpoints[1].state, &Limits::default(), None);
    let wish = Wish::default();
    let picked = |panic, spilled| Picked {
        endpoint: &cluster.endpoints[1],
        priority: 0,
        panic,
        spilled,
    };
    let ends =
        ": 127.0.0.1:1 (barred, weight 1, 0 active), 127.0.0.1:2 (healthy, weight 1, 1 active)";
    for (panic, spilled, between) in [
        (false, false, ""),
        (false, true, ", nearer ones are at their limit"),
        (
            true,
            false,
            ", known to be broken but too few others are left",
        ),
    ] {
        let why = explain(&cluster, Some(&picked(panic, spilled)), &wish);
        assert_eq!(
            why.because,
            format!("LEAST_REQUEST of outbound|80||a{between}{ends}")
        );
    }
    drop(busy);
}

#[test]
fn priority_and_place_are_named_where_there_are_such() {
    let three = || vec![group(0, "eu/a", 1), group(1, "us/b", 1), group(1, "", 2)];
    let gap = || {
        vec![
            group(2, "eu/a", 0),
            group(2, "eu/b", 2),
            group(2, "eu/c", 2),
        ]
    };
    for (groups, at, want) in [
        (vec![group(0, "", 4)], 0, ""),
        (vec![group(5, "", 4)], 0, ""),
        (vec![group(0, "eu/a", 4)], 3, ", place eu/a"),
        (three(), 0, ", priority 0, place eu/a"),
        (three(), 1, ", priority 1, place us/b"),
        (three(), 2, ", priority 1"),
        (gap(), 0, ", place eu/b"),
        (gap(), 1, ", place eu/b"),
        (gap(), 2, ", place eu/c"),
    ] {
        let registry = Registry::default();
        let whole = cluster_of(&registry, &[TWO, TWO].concat(), |_| ());
        let of = groups
            .iter()
            .flat_map(|g| std::iter::repeat_n(g.priority, g.size));
        let priorities: Vec<_> = of.collect();
        let cluster = Cluster::placed(
            whole.id,
            whole.spec.clone(),
            whole.endpoints.to_vec(),
            groups,
            whole.runtime.clone(),
        );
        let picked = Picked {
            endpoint: &cluster.endpoints[at],
            priority: priorities[at],
            panic: false,
            spilled: false,
        };
        let because = explain(&cluster, Some(&picked), &Wish::default()).because;
        let between = because
            .strip_prefix("LEAST_REQUEST of outbound|80||a")
            .unwrap();
        let (between, _) = between.split_once(": ").unwrap();
        assert_eq!(between, want, "{at} of {:?}", cluster.groups);
    }
}

#[test]
fn a_hash_is_named_by_what_it_is_of() {
    let cookie = HashKey::Cookie(Cookie::new("who", "", None, &[]));
    for (key, hash, want) in [
        (
            Some(HashKey::Header("x-user".into())),
            Some(0xab),
            "by header x-user (hash 00000000000000ab)",
        ),
        (
            Some(cookie),
            Some(1),
            "by cookie who (hash 0000000000000001)",
        ),
        (
            Some(HashKey::SourceIp),
            Some(1),
            "by the caller's address (hash 0000000000000001)",
        ),
        (
            Some(HashKey::Query("q".into())),
            None,
            "by query parameter q, which is absent: at random",
        ),
        (None, None, "without a key: at random"),
    ] {
        for (policy, word) in [
            (Policy::RingHash { minimum: 64 }, "ring hash"),
            (Policy::Maglev { table: 251 }, "maglev"),
            (Policy::Random, "RANDOM"),
        ] {
            let wish = Wish {
                hash,
                ..Wish::default()
            };
            let (_, because) = told(&TWO, &wish, |spec| {
                spec.policy = policy;
                spec.balance.hash = key.clone();
            });
            let want = if policy == Policy::Random {
                "RANDOM of outbound|80||a: ".to_owned()
            } else {
                format!("{word} {want} of outbound|80||a: ")
            };
            assert!(because.starts_with(&want), "{because}");
        }
    }
}

#[test]
fn nobody_has_its_reason() {
    let hint = "; PASSTHROUGH calls the address that the program chose, and it chose none of these";
    let one = "127.0.0.1:1 (unhealthy, weight 1, 0 active)";
    let meant = Some(address(0));
    for (policy, health, meant, decision, want) in [
        (
            Policy::Random,
            None,
            None,
            "none",
            "RANDOM of outbound|80||a: no endpoints".to_owned(),
        ),
        (
            Policy::Random,
            Some(Health::Unhealthy),
            None,
            "none",
            format!("RANDOM of outbound|80||a: {one}"),
        ),
        (
            Policy::Passthrough,
            None,
            None,
            "none",
            format!("PASSTHROUGH of outbound|80||a: no endpoints{hint}"),
        ),
        (
            Policy::Passthrough,
            Some(Health::Unhealthy),
            None,
            "none",
            format!("PASSTHROUGH of outbound|80||a: {one}{hint}"),
        ),
        (
            Policy::Passthrough,
            Some(Health::Unhealthy),
            meant,
            "127.0.0.1:1",
            format!("PASSTHROUGH of outbound|80||a: {one}"),
        ),
    ] {
        let endpoints: Vec<_> = health.map(|health| (1, health)).into_iter().collect();
        let wish = Wish {
            meant,
            ..Wish::default()
        };
        let told = told(&endpoints, &wish, |spec| spec.policy = policy);
        assert_eq!(told, (decision.to_owned(), want));
    }
}
