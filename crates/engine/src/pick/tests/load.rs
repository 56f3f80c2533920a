//! Policies that look at endpoints: who is slow, new or busy gets less.

use super::{address, cluster_of, share};
use crate::model::{Cluster, Health, Limits, Policy, SlowStart, Utilization};
use crate::pick::{Cursors, Wish, pick};
use crate::runtime::{Bar, Permit, Registry};
use std::net::SocketAddr;
use std::time::Duration;

/// Calls at a steady rate; the first endpoint takes a hundred times as long as the others. Gives its share.
fn share_of_the_slow_one(policy: Policy) -> f64 {
    let registry = Registry::default();
    let cluster = cluster_of(&registry, &[(1, Health::Healthy); 4], |s| s.policy = policy);
    let (mut cursors, mut rng) = (Cursors::new(), fastrand::Rng::with_seed(11));
    let mut under_way: Vec<(Duration, Duration, SocketAddr, Permit)> = Vec::new();
    let (mut slow, calls) = (0u32, 20_000u32);
    for call in 0..calls {
        let now = Duration::from_millis(1) * call;
        under_way.retain(|(began, ends, address, _)| {
            if *ends <= now {
                let endpoint = cluster.endpoints.iter().find(|e| e.address == *address);
                endpoint
                    .unwrap()
                    .state
                    .load()
                    .answered(now - *began, false, now);
            }
            *ends > now
        });
        let wish = Wish {
            now,
            ..Wish::default()
        };
        let endpoint = pick(&cluster, &wish, &mut cursors, &mut rng)
            .unwrap()
            .endpoint;
        let is_slow = endpoint.address == address(0);
        slow += u32::from(is_slow);
        let takes = Duration::from_millis(if is_slow { 500 } else { 5 });
        let permit = cluster
            .runtime
            .request(&endpoint.state, &Limits::default(), None)
            .unwrap();
        under_way.push((now, now + takes, endpoint.address, permit));
    }
    f64::from(slow) / f64::from(calls)
}

#[test]
fn a_slow_endpoint_loses_its_calls_by_itself() {
    assert!((share_of_the_slow_one(Policy::RoundRobin) - 0.25).abs() < 0.01);
    let least = share_of_the_slow_one(Policy::LeastRequest);
    assert!(least < 0.05, "least request: {least}");
    let ewma = share_of_the_slow_one(Policy::PeakEwma);
    assert!(ewma < 0.01, "peak EWMA: {ewma}");
}

/// Share of the first of two idle or busy endpoints.
fn first_of_two(policy: Policy, weights: [u32; 2], busy: [usize; 2], took: [u64; 2]) -> f64 {
    let registry = Registry::default();
    let endpoints = weights.map(|weight| (weight, Health::Healthy));
    let cluster = cluster_of(&registry, &endpoints, |spec| spec.policy = policy);
    let mut held = Vec::new();
    for ((endpoint, busy), took) in cluster.endpoints.iter().zip(busy).zip(took) {
        let state = &endpoint.state;
        let permit = || cluster.runtime.request(state, &Limits::default(), None);
        held.extend((0..busy).map(|_| permit()));
        if took > 0 {
            let took = Duration::from_millis(took);
            state.load().answered(took, false, Duration::ZERO);
        }
    }
    share(&cluster, 2_000, &[address(0)])
}

#[test]
fn what_each_policy_compares() {
    use Policy::{LeastRequest, PeakEwma};
    for (what, policy, weights, busy, took, want) in [
        ("latency", PeakEwma, [1, 1], [0, 0], [5, 9], 1.0),
        ("no latency", LeastRequest, [1, 1], [0, 0], [9, 5], 0.5),
        ("latency by weight", PeakEwma, [3, 1], [0, 0], [9, 9], 1.0),
        ("the same cost", PeakEwma, [3, 1], [0, 0], [0, 0], 0.75),
        ("calls by weight", LeastRequest, [4, 1], [3, 1], [0, 0], 1.0),
        ("the same calls", LeastRequest, [3, 1], [3, 1], [0, 0], 0.75),
    ] {
        let seen = first_of_two(policy, weights, busy, took);
        assert!((seen - want).abs() < 0.05, "{what}: {seen}");
    }
}

fn at(cluster: &Cluster, cursors: &mut Cursors, now: Duration, calls: u32) -> f64 {
    let mut rng = fastrand::Rng::with_seed(3);
    let wish = Wish {
        now,
        ..Wish::default()
    };
    let mut pick = || {
        pick(cluster, &wish, cursors, &mut rng)
            .unwrap()
            .endpoint
            .address
    };
    let seen = (0..calls).filter(|_| pick() == address(0)).count();
    f64::from(u32::try_from(seen).unwrap()) / f64::from(calls)
}

#[test]
fn who_comes_back_is_warmed_up_as_envoy_does() {
    let registry = Registry::default();
    let slow = |aggression, least| SlowStart {
        window: Duration::from_secs(60),
        aggression,
        least,
    };
    for (slow, after, factor) in [
        (slow(1.0, 0.1), 0, 0.1),
        (slow(1.0, 0.1), 30, 0.5),
        (slow(2.0, 0.1), 15, 0.5),
        (slow(1.0, 0.4), 15, 0.4),
        (slow(1.0, 0.1), 60, 1.0),
    ] {
        let cluster = cluster_of(&registry, &[(1, Health::Healthy); 4], |spec| {
            spec.policy = Policy::RoundRobin;
            spec.balance.slow_start = Some(slow);
        });
        let (mut cursors, begin) = (Cursors::new(), Duration::from_secs(100));
        at(&cluster, &mut cursors, begin, 1);
        let back = begin + Duration::from_secs(1000);
        cluster
            .runtime
            .bar(&cluster.endpoints[0].state, Bar::Outlier);
        at(&cluster, &mut cursors, back - Duration::from_secs(1), 1);
        cluster
            .runtime
            .lift(&cluster.endpoints[0].state, Bar::Outlier);
        at(&cluster, &mut cursors, back, 1);
        let seen = at(
            &cluster,
            &mut cursors,
            back + Duration::from_secs(after),
            40_000,
        );
        let want = factor / (3.0 + factor);
        assert!(
            (seen - want).abs() < 0.01,
            "{slow:?} after {after} s: {seen}, not {want}"
        );
        cluster.endpoints[0].state.load().age(false, back);
    }
}

#[test]
fn all_new_at_once_share_evenly() {
    let registry = Registry::default();
    let cluster = cluster_of(&registry, &[(1, Health::Healthy); 4], |spec| {
        spec.balance.slow_start = Some(SlowStart {
            window: Duration::from_secs(60),
            aggression: 1.0,
            least: 0.1,
        });
    });
    assert!((share(&cluster, 20_000, &[address(0)]) - 0.25).abs() < 0.02);
}

#[test]
fn reported_spare_capacity_decides_the_share() {
    let registry = Registry::default();
    let cluster = cluster_of(&registry, &[(1, Health::Healthy); 3], |spec| {
        spec.policy = Policy::Utilization;
        spec.balance.utilization = Some(Utilization {
            blackout: Duration::ZERO,
            ..Utilization::default()
        });
    });
    let second = Duration::from_secs(1);
    cluster.endpoints[0].state.load().reported(300, second);
    cluster.endpoints[1].state.load().reported(100, second);
    // The third says nothing: it counts as the median, 200.
    let seen = at(&cluster, &mut Cursors::new(), 2 * second, 6000);
    assert!((seen - 0.5).abs() < 0.01, "{seen}");
    let late = Duration::from_secs(1000);
    let seen = at(&cluster, &mut Cursors::new(), late, 6000);
    assert!(
        (seen - 1.0 / 3.0).abs() < 0.01,
        "old reports count no more: {seen}"
    );
}

#[test]
fn passthrough_calls_the_address_that_was_meant_and_no_other() {
    let registry = Registry::default();
    let endpoints = [1, 1, 1, 0].map(|weight| (weight, Health::Healthy));
    let cluster = cluster_of(&registry, &endpoints, |spec| {
        spec.policy = Policy::Passthrough;
    });
    let (mut cursors, mut rng) = (Cursors::new(), fastrand::Rng::with_seed(1));
    let mut to = |meant| {
        let wish = Wish {
            meant,
            ..Wish::default()
        };
        pick(&cluster, &wish, &mut cursors, &mut rng).map(|p| p.endpoint.address)
    };
    assert_eq!(to(Some(address(2))), Some(address(2)));
    assert_eq!(to(Some(address(3))), None, "it has no weight");
    assert_eq!(to(Some(address(7))), None);
    assert_eq!(to(None), None);
}
