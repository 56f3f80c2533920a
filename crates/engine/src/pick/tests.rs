//! Picks: fairness, health, weights, avoidance.

mod choice;
mod hashing;
mod load;
mod places;
mod plan;
mod schedule;
mod words;

use super::{Cursors, Wish};
use crate::model::{Cluster, ClusterSpec, Endpoint, Health, Limits, Policy};
use crate::runtime::{Bar, Registry};
use naka_types::protocol::Protocol;
use proptest::prelude::{Strategy, prop, proptest};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

fn pick<'a>(
    cluster: &'a Cluster,
    avoid: Option<SocketAddr>,
    cursors: &mut Cursors,
    rng: &mut fastrand::Rng,
) -> Option<&'a Arc<Endpoint>> {
    let wish = Wish {
        avoid,
        ..Wish::default()
    };
    super::pick(cluster, &wish, cursors, rng).map(|picked| picked.endpoint)
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], u16::try_from(n + 1).unwrap()))
}

fn cluster(registry: &Registry, policy: Policy, endpoints: &[(u32, Health)]) -> Cluster {
    cluster_of(registry, endpoints, |spec| spec.policy = policy)
}

fn cluster_of(
    registry: &Registry,
    endpoints: &[(u32, Health)],
    change: impl FnOnce(&mut ClusterSpec),
) -> Cluster {
    let mut spec = ClusterSpec::new("outbound|80||a", Protocol::Http);
    change(&mut spec);
    let endpoints = endpoints
        .iter()
        .enumerate()
        .map(|(n, (weight, health))| {
            Arc::new(Endpoint {
                address: address(n),
                weight: *weight,
                health: *health,
                mtls: true,
                workload: Arc::default(),
                state: registry.endpoint(&spec.name, address(n)),
            })
        })
        .collect();
    let runtime = registry.cluster(&spec.name);
    Cluster::new(registry.id(&spec.name), Arc::new(spec), endpoints, runtime)
}

/// Share of the calls that go to these.
fn share(cluster: &Cluster, calls: usize, to: &[SocketAddr]) -> f64 {
    let seen = counts(cluster, calls, 17);
    let those: usize = to.iter().filter_map(|address| seen.get(address)).sum();
    f64::from(u32::try_from(those).unwrap()) / f64::from(u32::try_from(calls).unwrap())
}

fn counts(cluster: &Cluster, calls: usize, seed: u64) -> BTreeMap<SocketAddr, usize> {
    let (mut cursors, mut rng) = (Cursors::new(), fastrand::Rng::with_seed(seed));
    let mut counts = BTreeMap::new();
    for _ in 0..calls {
        let got = pick(cluster, None, &mut cursors, &mut rng).unwrap();
        *counts.entry(got.address).or_default() += 1;
    }
    counts
}

const ALL: [Policy; 3] = [Policy::RoundRobin, Policy::LeastRequest, Policy::Random];

#[test]
fn round_robin_is_exact_for_every_weight_and_smooth() {
    let registry = Registry::default();
    let healthy: Vec<_> = [5, 1, 1].map(|w| (w, Health::Healthy)).into();
    let cluster = cluster(&registry, Policy::RoundRobin, &healthy);
    let got = counts(&cluster, 7 * 100, 3);
    assert_eq!(got.into_values().collect::<Vec<_>>(), [500, 100, 100]);
    // Smooth: in 5:1:1 the two light ones never follow each other without a heavy one between them.
    let (mut cursors, mut rng) = (Cursors::new(), fastrand::Rng::with_seed(1));
    let order: Vec<_> = (0..70)
        .map(|_| {
            pick(&cluster, None, &mut cursors, &mut rng)
                .unwrap()
                .address
        })
        .collect();
    assert!(
        order
            .windows(2)
            .all(|two| two[0] == address(0) || two[1] == address(0))
    );
}

#[test]
fn shares_follow_weights_under_every_policy() {
    let registry = Registry::default();
    let endpoints: Vec<_> = [60, 30, 10, 0].map(|w| (w, Health::Healthy)).into();
    for policy in ALL {
        let got = counts(&cluster(&registry, policy, &endpoints), 100_000, 11);
        let shares = match policy {
            // As in Envoy.
            Policy::Random => [1.0 / 3.0; 3],
            _ => [0.6, 0.3, 0.1],
        };
        for (n, share) in shares.into_iter().enumerate() {
            let seen = f64::from(u32::try_from(got[&address(n)]).unwrap()) / 100_000.0;
            assert!((seen - share).abs() < 0.01, "{policy:?} {n}: {seen}");
        }
        assert_eq!(got.get(&address(3)), None, "weight 0 is never picked");
    }
}

#[test]
fn huge_unequal_weights_keep_every_endpoint() {
    let registry = Registry::default();
    let endpoints = [
        (u32::MAX, Health::Healthy),
        (1, Health::Healthy),
        (u32::MAX - 1, Health::Healthy),
    ];
    let got = counts(
        &cluster(&registry, Policy::RoundRobin, &endpoints),
        20_000,
        1,
    );
    assert!(got[&address(1)] >= 1 && got[&address(1)] < 20);
}

#[test]
fn least_request_prefers_the_idle_one() {
    let registry = Registry::default();
    let endpoints = [(1, Health::Healthy), (1, Health::Healthy)];
    let cluster = cluster(&registry, Policy::LeastRequest, &endpoints);
    let none = Limits::default();
    let busy: Vec<_> = (0..5)
        .filter_map(|_| {
            cluster
                .runtime
                .request(&cluster.endpoints[0].state, &none, None)
        })
        .collect();
    assert_eq!(counts(&cluster, 1000, 5).get(&address(0)), None);
    drop(busy);
    assert!(counts(&cluster, 1000, 5)[&address(0)] > 400);
}

fn endpoints() -> impl Strategy<Value = Vec<(u32, Health)>> {
    let health = prop::sample::select(vec![Health::Healthy, Health::Draining, Health::Unhealthy]);
    prop::collection::vec((0u32..5, health), 0..8)
}

proptest! {
    #[test]
    fn only_the_best_that_exist_are_picked(
        endpoints in endpoints(), seed: u64, policy in prop::sample::select(ALL.to_vec()), avoid in 0usize..8,
    ) {
        let registry = Registry::default();
        let cluster = cluster(&registry, policy, &endpoints);
        let usable = |wanted| endpoints.iter().filter(|(w, h)| *w > 0 && *h == wanted).count();
        let (healthy, draining) = (usable(Health::Healthy), usable(Health::Draining));
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut cursors = Cursors::new();
        for _ in 0..50 {
            let got = pick(&cluster, Some(address(avoid)), &mut cursors, &mut rng);
            let Some(got) = got else {
                assert_eq!(healthy + draining, 0);
                continue;
            };
            assert!(got.weight > 0);
            let want = if healthy > 0 { Health::Healthy } else { Health::Draining };
            assert_eq!(got.health, want);
            let choices = if healthy > 0 { healthy } else { draining };
            assert!(choices == 1 || got.address != address(avoid));
        }
    }

    #[test]
    fn a_barred_one_is_never_picked_while_another_exists(
        barred in prop::collection::vec(prop::bool::ANY, 1..8), seed: u64,
        policy in prop::sample::select(ALL.to_vec()), panic in prop::sample::select(vec![0u32, 50]),
    ) {
        let registry = Registry::default();
        let all: Vec<_> = barred.iter().map(|_| (1, Health::Healthy)).collect();
        let mut cluster = cluster(&registry, policy, &all);
        let mut spec = ClusterSpec::clone(&cluster.spec);
        spec.panic_threshold = panic;
        cluster.spec = Arc::new(spec);
        for (endpoint, barred) in cluster.endpoints.iter().zip(&barred) {
            if *barred {
                cluster.runtime.bar(&endpoint.state, Bar::Outlier);
            }
        }
        let left = barred.iter().filter(|barred| !**barred).count();
        let panics = left * 2 < barred.len() && panic > 0;
        let (mut rng, mut cursors) = (fastrand::Rng::with_seed(seed), Cursors::new());
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..400 {
            match pick(&cluster, None, &mut cursors, &mut rng) {
                Some(got) => {
                    assert!(panics || !got.state.is_barred());
                    seen.insert(got.address);
                }
                None => assert!(left == 0 && !panics),
            }
        }
        let want = if panics { barred.len() } else { left };
        assert_eq!(seen.len(), want);
        // A cluster of a configuration that came meanwhile knows as little of bars that are gone.
        let later = self::cluster(&registry, policy, &all);
        for endpoint in &*cluster.endpoints {
            cluster.runtime.lift(&endpoint.state, Bar::Outlier);
        }
        for cluster in [&cluster, &later] {
            assert_eq!(counts(cluster, 400, seed).len(), barred.len(), "all are back");
        }
    }
}
