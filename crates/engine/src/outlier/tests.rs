//! Envoy's rules as tables, and what must hold for every course of events.

use super::{Outlier, Relaxed, Seen, Share, Told, http_of_grpc, status_of, sweep};
use crate::model::{Cluster, ClusterSpec, Endpoint, Health};
use crate::runtime::{Bar, Registry};
use naka_types::protocol::Protocol;
use proptest::prelude::{Just, Strategy, prop, prop_oneof, proptest};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Whether it was ejected.
fn observe(cluster: &Cluster, endpoint: &Endpoint, seen: Seen, now: Duration) -> bool {
    super::observe(cluster, endpoint, seen, now) == Told::Ejected
}

const S: Duration = Duration::from_secs(1);

fn cluster(registry: &Registry, endpoints: u16, outlier: Option<Outlier>) -> Arc<Cluster> {
    let mut spec = ClusterSpec::new("outbound|80||a", Protocol::Http);
    spec.outlier = outlier.map(Box::new);
    let endpoints = (1..=endpoints)
        .map(|port| {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            Arc::new(Endpoint {
                address,
                weight: 1,
                health: Health::Healthy,
                mtls: true,
                workload: Arc::default(),
                state: registry.endpoint(&spec.name, address),
            })
        })
        .collect();
    let runtime = registry.cluster(&spec.name);
    Arc::new(Cluster::new(
        registry.id(&spec.name),
        Arc::new(spec),
        endpoints,
        runtime,
    ))
}

fn all_may_go() -> Outlier {
    Outlier {
        percent: 100,
        ..Outlier::default()
    }
}

fn out(cluster: &Cluster) -> usize {
    let endpoints = cluster.endpoints.iter();
    endpoints.filter(|e| e.state.has(Bar::Outlier)).count()
}

/// After how many of these in a row the endpoint is out; 0 = never.
fn after(policy: Outlier, seen: &[Seen]) -> usize {
    let registry = Registry::default();
    let cluster = cluster(&registry, 4, Some(policy));
    let ejected = seen
        .iter()
        .position(|seen| observe(&cluster, &cluster.endpoints[0], *seen, S));
    ejected.map_or(0, |at| at + 1)
}

/// What it shows, the policy, what happens, at which of it the endpoint is ejected (0: never).
type Row = (&'static str, Outlier, Vec<Seen>, usize);

fn policy(edit: fn(&mut Outlier)) -> Outlier {
    let mut policy = all_may_go();
    edit(&mut policy);
    policy
}

fn check(rows: &[Row]) {
    for (what, policy, seen, want) in rows {
        assert_eq!(after(policy.clone(), seen), *want, "{what}");
    }
}

#[test]
fn what_counts_and_when_it_is_enough() {
    use Seen::{Broken, Connected, NotConnected, Status, TimedOut};
    check(&[
        ("five by default", all_may_go(), vec![Status(500); 6], 5),
        ("a 4xx is fine", all_may_go(), vec![Status(499); 9], 0),
        (
            "only in a row",
            all_may_go(),
            [
                [Status(500); 4].as_slice(),
                &[Status(200)],
                &[Status(500); 4],
            ]
            .concat(),
            0,
        ),
        (
            "a threshold of 0 is never reached",
            policy(|p| p.errors = 0),
            vec![Status(500); 50],
            0,
        ),
        (
            "gateway errors have a threshold of their own",
            policy(|p| (p.errors, p.gateway) = (0, 2)),
            vec![Status(502), Status(504)],
            2,
        ),
        (
            "which another 5xx begins again",
            policy(|p| (p.errors, p.gateway) = (0, 2)),
            vec![
                Status(502),
                Status(500),
                Status(503),
                Status(200),
                Status(503),
            ],
            0,
        ),
        (
            "and they are errors too",
            policy(|p| (p.errors, p.gateway) = (3, 9)),
            vec![Status(502), Status(500), Status(503)],
            3,
        ),
        (
            "no connection is a gateway error",
            policy(|p| (p.errors, p.gateway) = (0, 3)),
            vec![NotConnected, Broken, TimedOut],
            3,
        ),
        (
            "listed statuses are the errors",
            policy(|p| (p.errors, p.statuses) = (2, Some([429, 503].into()))),
            vec![Status(500), Status(429), Status(503)],
            3,
        ),
        (
            "and others are fine",
            policy(|p| (p.errors, p.statuses) = (2, Some([429].into()))),
            vec![Status(429), Status(500), Status(429)],
            0,
        ),
        (
            "a connection of bytes is an answer",
            policy(|p| p.errors = 2),
            vec![NotConnected, Connected, NotConnected],
            0,
        ),
    ]);
}

#[test]
fn what_counts_where_local_failures_are_kept_apart() {
    use Seen::{Broken, Connected, NotConnected, Status, TimedOut};
    check(&[
        (
            "kept apart it is none",
            policy(|p| (p.errors, p.gateway, p.split, p.local) = (1, 1, true, 0)),
            vec![NotConnected, Broken, TimedOut],
            0,
        ),
        (
            "but has its own threshold",
            policy(|p| (p.errors, p.split, p.local) = (0, true, 2)),
            vec![NotConnected, NotConnected],
            2,
        ),
        (
            "which a connection begins again",
            policy(|p| (p.errors, p.split, p.local) = (0, true, 2)),
            vec![
                NotConnected,
                Status(500),
                NotConnected,
                Connected,
                NotConnected,
                Broken,
            ],
            0,
        ),
    ]);
}

#[test]
fn the_share_that_may_be_out() {
    let rows = [
        // (endpoints, percent, one at least, how many can be out)
        (4, 100, false, 4),
        (4, 50, false, 2),
        (4, 49, false, 1),
        (4, 24, false, 0),
        (4, 24, true, 1),
        (4, 0, true, 1),
        (4, 0, false, 0),
        (1, 10, true, 1),
        (1, 99, false, 0),
        (10, 10, false, 1),
        (11, 10, false, 1),
    ];
    for (endpoints, percent, at_least_one, want) in rows {
        let registry = Registry::default();
        let policy = Outlier {
            errors: 1,
            percent,
            at_least_one,
            ..Outlier::default()
        };
        let cluster = cluster(&registry, endpoints, Some(policy));
        for endpoint in &cluster.endpoints {
            observe(&cluster, endpoint, Seen::Status(503), S);
        }
        assert_eq!(out(&cluster), want, "{percent} % of {endpoints}");
    }
}

#[test]
fn a_counter_that_ejected_nobody_begins_again() {
    let registry = Registry::default();
    let policy = Outlier {
        errors: 2,
        percent: 50,
        interval: S,
        base: S,
        ..Outlier::default()
    };
    let cluster = cluster(&registry, 2, Some(policy));
    let fail = |n: usize, at| observe(&cluster, &cluster.endpoints[n], Seen::Status(500), at);
    assert!(!fail(0, S) && fail(0, S));
    assert!(!fail(1, S) && !fail(1, S), "no room for a second");
    assert_eq!(sweep([&cluster], S * 2), None);
    assert!(!fail(1, S * 2), "its two errors were forgotten");
    assert!(fail(1, S * 2));
}

/// Times at which an endpoint that always fails goes and returns, by events of one policy.
fn course(policy: Outlier, fails_at: impl Fn(u64) -> bool, millis: u64) -> Vec<(u64, bool)> {
    let registry = Registry::default();
    let cluster = cluster(&registry, 2, Some(policy));
    let (mut events, mut was) = (Vec::new(), false);
    for at in 0..millis {
        let now = Duration::from_millis(at);
        let endpoint = &cluster.endpoints[0];
        sweep([&cluster], now);
        // A call of its own millisecond, after the return of one.
        if fails_at(at) && !endpoint.state.is_barred() && !was {
            observe(&cluster, endpoint, Seen::Status(500), now);
        }
        let is = endpoint.state.is_barred();
        if is != was {
            events.push((at, is));
            was = is;
        }
    }
    events
}

#[test]
fn each_ejection_is_longer_and_calm_makes_them_shorter() {
    let policy = Outlier {
        errors: 1,
        percent: 100,
        interval: Duration::from_millis(100),
        base: Duration::from_millis(300),
        longest: Duration::from_millis(900),
        ..Outlier::default()
    };
    let events = course(policy.clone(), |at| at >= 10, 4_500);
    let ejections: Vec<_> = events.chunks(2).filter(|two| two.len() == 2).collect();
    let lasted: Vec<u64> = ejections.iter().map(|two| two[1].0 - two[0].0).collect();
    // At the first sweep after 300, 600 and 900 ms, and then no longer than the longest.
    assert_eq!(lasted, [390, 699, 999, 999, 999]);
    // Calm from its return at 400 on takes a base time off per interval.
    let events = course(policy, |at| at == 10 || at == 650, 1_200);
    assert_eq!(
        events,
        [(10, true), (400, false), (650, true), (1_000, false)]
    );
}

#[test]
fn who_is_out_returns_when_detection_is_taken_away() {
    let registry = Registry::default();
    let policy = Outlier {
        errors: 1,
        at_least_one: true,
        ..Outlier::default()
    };
    let old = cluster(&registry, 2, Some(policy.clone()));
    assert!(observe(&old, &old.endpoints[0], Seen::NotConnected, S));
    // The state outlives a swap of configuration.
    let same = cluster(&registry, 2, Some(policy));
    assert_eq!(out(&same), 1);
    assert_eq!(sweep([&same], S * 2), Some(S * 40));
    let without = cluster(&registry, 2, None);
    assert_eq!(sweep([&without], S * 2), None);
    assert_eq!(out(&without), 0);
    assert!(!observe(
        &without,
        &without.endpoints[0],
        Seen::NotConnected,
        S
    ));
}

/// Endpoints with calls and failures of each, a policy; who is out after the sweep.
type Course = (
    &'static str,
    fn(&mut Outlier),
    [(u32, u32); 3],
    &'static [usize],
);

/// Three that were called often enough are judged.
fn by_share(percent: u32) -> Outlier {
    let mut policy = policy(|policy| policy.errors = 0);
    policy.share = Some(Share {
        percent,
        hosts: 3,
        volume: 10,
    });
    policy
}

#[test]
fn a_share_of_failures_ejects_at_the_end_of_the_interval() {
    let courses: &[Course] = &[
        (
            "the share itself",
            |_| (),
            [(10, 3), (10, 2), (20, 5)],
            &[0],
        ),
        (
            "all of them",
            |_| (),
            [(10, 10), (10, 10), (10, 10)],
            &[0, 1, 2],
        ),
        (
            "too few calls of one",
            |_| (),
            [(9, 9), (10, 10), (10, 0)],
            &[],
        ),
        ("no share", |p| p.share = None, [(10, 10); 3], &[]),
        ("the limit holds", |p| p.percent = 34, [(10, 10); 3], &[0]),
        ("nobody was called", |_| (), [(0, 0); 3], &[]),
        (
            "who was not called has failed at nothing",
            |p| {
                p.share = Some(Share {
                    percent: 30,
                    hosts: 1,
                    volume: 0,
                });
            },
            [(10, 10), (10, 0), (0, 0)],
            &[0],
        ),
    ];
    for (what, edit, calls, want) in courses {
        let registry = Registry::default();
        let mut policy = by_share(30);
        edit(&mut policy);
        let cluster = cluster(&registry, 3, Some(policy));
        let mut rang = 0;
        for (endpoint, (calls, failures)) in cluster.endpoints.iter().zip(calls) {
            for n in 0..*calls {
                let status = if n < *failures { 500 } else { 200 };
                let told = super::observe(&cluster, endpoint, Seen::Status(status), S);
                assert_ne!(told, Told::Ejected, "{what}");
                rang += u32::from(told.rings());
            }
        }
        let all = [Arc::clone(&cluster)];
        let due = sweep(&all, S * 9);
        let counts = cluster.spec.outlier.as_ref().unwrap().share.is_some() && calls[0].0 > 0;
        assert_eq!(
            (rang, due),
            (u32::from(counts), counts.then_some(S * 10)),
            "{what}"
        );
        assert_eq!(out(&cluster), 0, "{what}");
        let next = sweep(&all, S * 10);
        let barred: Vec<usize> = (0..3)
            .filter(|n| cluster.endpoints[*n].state.has(Bar::Outlier))
            .collect();
        assert_eq!(barred, *want, "{what}");
        // Back after the base time, at a sweep.
        assert_eq!(next, (!want.is_empty()).then_some(S * 40), "{what}");
    }
}

#[test]
fn an_interval_is_judged_by_its_own_calls() {
    let registry = Registry::default();
    let cluster = cluster(&registry, 3, Some(by_share(60)));
    let all = [Arc::clone(&cluster)];
    let calls = |status, at| {
        for endpoint in &cluster.endpoints {
            for _ in 0..10 {
                let _ = super::observe(&cluster, endpoint, Seen::Status(status), at);
            }
        }
    };
    calls(200, S);
    assert_eq!(sweep(&all, S * 10), None);
    // Twice as many calls, half of them failures, were these still counted.
    calls(500, S * 11);
    sweep(&all, S * 20);
    assert_eq!(out(&cluster), 3);
    // A call at the end of an interval is the first of the next one.
    let other = Registry::default();
    let cluster = self::cluster(&other, 3, Some(by_share(60)));
    let _ = super::observe(&cluster, &cluster.endpoints[0], Seen::Status(200), S * 10);
    assert_eq!(sweep(&[cluster], S * 10), Some(S * 20));
}

#[test]
fn failures_that_count_apart_are_in_no_share() {
    for (split, want) in [(false, 3), (true, 0)] {
        let registry = Registry::default();
        let mut policy = by_share(50);
        (policy.split, policy.local) = (split, 0);
        let cluster = cluster(&registry, 3, Some(policy));
        for endpoint in &cluster.endpoints {
            for _ in 0..10 {
                let _ = super::observe(&cluster, endpoint, Seen::NotConnected, S);
            }
        }
        sweep(&[Arc::clone(&cluster)], S * 10);
        assert_eq!(out(&cluster), want, "{split}");
    }
}

#[test]
fn grpc_statuses_translate_as_in_envoy() {
    let translated = [
        200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401, 500,
    ];
    for (grpc, http) in (0..).zip(translated) {
        assert_eq!(http_of_grpc(grpc), http, "{grpc}");
    }
    for (told, grpc, want) in [
        (Some("14"), true, 503),
        (Some("0"), true, 200),
        (Some("14"), false, 202),
        (Some("x"), true, 202),
        (None, true, 202),
    ] {
        let mut response = http::Response::builder().status(202);
        if let Some(told) = told {
            response = response.header("grpc-status", told);
        }
        let parts = response.body(()).unwrap().into_parts().0;
        assert_eq!(status_of(&parts, grpc), want, "{told:?}");
    }
}

#[test]
fn who_returns_begins_with_empty_counters() {
    let registry = Registry::default();
    let cluster = cluster(&registry, 4, Some(policy(|p| p.gateway = 2)));
    let endpoint = &cluster.endpoints[0];
    let fails = |status, now| observe(&cluster, endpoint, Seen::Status(status), now);
    assert!(!fails(503, S) && fails(503, S), "two gateway errors");
    assert_eq!(sweep([&cluster], S * 60), None);
    for _ in 0..4 {
        assert!(!fails(500, S * 60));
    }
    assert!(fails(500, S * 60), "five errors anew");
}

#[test]
fn the_multiplier_grows_no_further_than_the_longest() {
    let registry = Registry::default();
    let policy = Outlier {
        errors: 1,
        base: S * 10,
        longest: S * 20,
        ..all_may_go()
    };
    let cluster = cluster(&registry, 1, Some(policy));
    let (endpoint, mut now) = (&cluster.endpoints[0], S);
    let mut times = Vec::new();
    for _ in 0..5 {
        assert!(observe(&cluster, endpoint, Seen::Status(500), now));
        times.push(endpoint.state.tally.times.load(Relaxed));
        now = sweep([&cluster], now).unwrap();
        assert_eq!(sweep([&cluster], now), None);
    }
    assert_eq!(times, [1, 2, 3, 3, 3]);
    assert_eq!(Outlier::longest_of(S * 30), S * 300);
    assert_eq!(Outlier::longest_of(S * 400), S * 400);
}

#[test]
fn over_threads_no_more_than_allowed_go() {
    let registry = Registry::default();
    let policy = Outlier {
        errors: 1,
        percent: 50,
        ..Outlier::default()
    };
    let cluster = cluster(&registry, 8, Some(policy));
    std::thread::scope(|scope| {
        for first in 0..4 {
            let cluster = &cluster;
            scope.spawn(move || {
                for n in 0..8 {
                    let endpoint = &cluster.endpoints[(first * 2 + n) % 8];
                    observe(cluster, endpoint, Seen::Status(500), S);
                }
            });
        }
    });
    assert_eq!(out(&cluster), 4);
}

fn seen() -> impl Strategy<Value = Seen> {
    prop_oneof![
        prop::sample::select(vec![200u16, 404, 500, 502, 503]).prop_map(Seen::Status),
        Just(Seen::NotConnected),
        Just(Seen::Broken),
        Just(Seen::TimedOut),
        Just(Seen::Connected),
    ]
}

proptest! {
    #[test]
    fn the_share_holds_and_everybody_returns(
        endpoints in 1u16..8, percent in 0u32..=100, at_least_one: bool, split: bool, errors in 0u32..3,
        gateway in 0u32..3, local in 0u32..3,
        events in prop::collection::vec((0usize..8, seen(), 0u64..400), 0..120),
    ) {
        let registry = Registry::default();
        let policy = Outlier {
            errors, gateway, local, split, percent, at_least_one,
            interval: Duration::from_millis(100), base: Duration::from_millis(200),
            longest: Duration::from_secs(1), statuses: None,
            share: None,
        };
        let cluster = cluster(&registry, endpoints, Some(policy));
        let total = usize::from(endpoints);
        let most = (total * usize::try_from(percent).unwrap() / 100).max(usize::from(at_least_one));
        let (mut now, mut next) = (Duration::ZERO, None);
        for (n, seen, later) in events {
            now += Duration::from_millis(later);
            sweep([&cluster], now);
            observe(&cluster, &cluster.endpoints[n % total], seen, now);
            assert!(out(&cluster) <= most);
            next = sweep([&cluster], now);
            assert_eq!(next.is_some(), out(&cluster) > 0);
        }
        while let Some(due) = next {
            assert!(due > now && due <= now + Duration::from_millis(1_100));
            now = due;
            next = sweep([&cluster], now);
        }
        assert_eq!(out(&cluster), 0);
    }
}
