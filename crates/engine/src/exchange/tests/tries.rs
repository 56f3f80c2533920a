//! What a try is made of: whose endpoint, of which priority, found by which name, and who is called instead.

use super::{World, address, always, refused, to, tried};
use crate::breaker::Breaker;
use crate::canonical::Origin;
use crate::exchange::{Answered, Effect, Exchange, Input, Need, Outcome};
use crate::model::{
    Backend, Cluster, Fallback, FallbackTo, Group, OutsideTls, RetryPolicy, VirtualHost,
    WeightedCluster,
};
use naka_types::reason::Reason;
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// A breaker that one failure opens, with or without another cluster to call instead.
fn guarded(world: &mut World, instead: Option<WeightedCluster>) -> WeightedCluster {
    world.cluster_with("a", &[1], |spec| {
        spec.backend = Some(Box::new(Backend {
            hedge: None,
            breaker: Some(Breaker {
                in_a_row: 1,
                count: None,
                rate: None,
                open_for: SECOND,
                trials: 1,
                statuses: None,
            }),
            fallback: instead.map(|to| Fallback {
                reasons: Box::default(),
                statuses: Box::default(),
                to: FallbackTo::Cluster(to.cluster, to.name),
            }),
            ..Backend::default()
        }));
    })
}

#[test]
fn an_open_breaker_refuses_or_another_cluster_is_called() {
    for falls_back in [false, true] {
        let mut world = World::new();
        let other = world.cluster("b", &[2]);
        let cluster = guarded(&mut world, falls_back.then_some(other));
        world.host(always(to(vec![cluster])));
        let mut request = world.request("POST", "/", &[]);
        let (mut exchange, effect) = world.begin(&mut request);
        assert_eq!(tried(effect).endpoint.address, address(1));
        let _ = world.answered(&mut exchange, &mut request, 500, &[]);
        let mut request = world.request("POST", "/", &[]);
        let effect = world.begin(&mut request).1;
        if falls_back {
            assert_eq!(tried(effect).endpoint.address, address(2));
        } else {
            assert_eq!(refused(effect), Reason::BreakerOpen);
        }
        world.now += SECOND;
        let mut request = world.request("POST", "/", &[]);
        let effect = world.begin(&mut request).1;
        assert_eq!(tried(effect).endpoint.address, address(1), "a trial");
    }
}

/// Waiting for a name is no try.
#[test]
fn a_name_that_the_caller_says_is_looked_up_first() {
    let begun = |world: &mut World| {
        let cluster = world.cluster_with("a", &[], |spec| spec.by_caller = true);
        world.host(always(to(vec![cluster])));
        let mut request = world.request("GET", "/", &[]);
        let (exchange, effect) = world.begin(&mut request);
        let Effect::Need(Need::Addresses { host, port, .. }) = effect else {
            panic!("{effect:?}")
        };
        assert_eq!((&*host, port), ("payment", 80));
        (exchange, request)
    };
    let mut world = World::new();
    let (mut exchange, mut request) = begun(&mut world);
    let found = [address(7)];
    let effect = world.step(&mut exchange, &mut request, Input::Addresses(&found));
    let first = tried(effect);
    assert_eq!((first.endpoint.address, first.attempt), (address(7), 1));
    let (mut exchange, mut request) = begun(&mut world);
    let effect = world.step(&mut exchange, &mut request, Input::Addresses(&[]));
    assert_eq!(refused(effect), Reason::UnknownHost);
}

/// HTTP's own port means HTTPS's where TLS is begun for the caller.
#[test]
fn the_port_of_a_name_is_the_callers_but_for_tls_that_is_begun() {
    let tls = Arc::new(OutsideTls {
        sni: None,
        names: Arc::default(),
        roots: None,
        revoked: None,
        certificate: None,
        verify: true,
        nobody: false,
    });
    for (outside, said, want) in [
        (None, 80, 80),
        (Some(&tls), 80, 443),
        (None, 8080, 8080),
        (Some(&tls), 8080, 8080),
    ] {
        let mut world = World::new();
        let cluster = world.cluster_with("a", &[], |spec| {
            spec.by_caller = true;
            spec.outside = outside.cloned();
        });
        world.builder.put_virtual_host(Arc::new(VirtualHost {
            name: "payment".into(),
            port: said,
            domains: Box::new(["payment".into()]),
            routes: always(to(vec![cluster]))
                .into_iter()
                .map(Arc::new)
                .collect(),
        }));
        world.publish();
        world.origin = Origin::outbound(said);
        let mut request = world.request("GET", "/", &[]);
        let (_, effect) = world.begin(&mut request);
        let Effect::Need(Need::Addresses { host, port, .. }) = effect else {
            panic!("{effect:?}")
        };
        assert_eq!((&*host, port), ("payment", want), "{said}");
    }
}

/// Who comes before the first answer of the name server waits for it, once.
#[test]
fn the_first_answer_is_waited_for_once() {
    for looking in [true, false] {
        let mut world = World::new();
        let made = world.cluster("a", &[1]);
        let snapshot = world.builder.clone().build();
        let cluster = snapshot.cluster(made.cluster).unwrap();
        let (spec, runtime) = (Arc::clone(&cluster.spec), Arc::clone(&cluster.runtime));
        let mut again = Cluster::new(cluster.id, spec, cluster.endpoints.to_vec(), runtime);
        again.looking = looking;
        let id = again.id;
        world.builder.put_cluster(Arc::new(again));
        world.host(always(to(vec![made])));
        let mut request = world.request("GET", "/", &[]);
        let (mut exchange, mut effect) = world.begin(&mut request);
        if looking {
            assert!(
                matches!(&effect, Effect::Need(Need::Lookup(wanted)) if *wanted == id),
                "{effect:?}"
            );
            let answer = Input::Answer(Answered::Ready);
            effect = world.step(&mut exchange, &mut request, answer);
        }
        let first = tried(effect);
        assert_eq!((first.endpoint.address, first.attempt), (address(1), 1));
    }
}

#[test]
fn a_priority_has_two_tries_where_the_route_wants_that() {
    for (other_priorities, want) in [(true, [0, 0, 1, 1]), (false, [0; 4])] {
        let mut world = World::new();
        let made = world.cluster("a", &[1, 2, 3, 4]);
        let cluster = world.builder.clone().build();
        let cluster = cluster.cluster(made.cluster).unwrap();
        let groups = [0, 1].map(|priority| Group {
            priority,
            ..Group::whole(2)
        });
        let (spec, runtime) = (Arc::clone(&cluster.spec), Arc::clone(&cluster.runtime));
        let endpoints = cluster.endpoints.to_vec();
        let placed = Cluster::placed(cluster.id, spec, endpoints, groups.into(), runtime);
        world.builder.put_cluster(Arc::new(placed));
        let mut forward = to(vec![made]);
        forward.idle_timeout = Some(SECOND);
        forward.retry = RetryPolicy {
            other_priorities,
            ..RetryPolicy::explicit("reset", 3).0
        };
        world.host(always(forward));
        let mut request = world.request("GET", "/", &[]);
        let (mut exchange, mut effect) = world.begin(&mut request);
        let mut seen = Vec::new();
        loop {
            effect = match effect {
                Effect::Try(one) => {
                    assert_eq!(one.idle_timeout, Some(SECOND));
                    seen.push(u32::from(one.endpoint.address.port() > 2));
                    drop(one);
                    world.failed(&mut exchange, &mut request, Outcome::Reset)
                }
                Effect::Need(Need::Backoff(_)) => again(&mut world, &mut exchange, &mut request),
                other => {
                    assert_eq!(refused(other), Reason::UpstreamReset);
                    break;
                }
            };
        }
        assert_eq!(seen, want);
    }
}

fn again(
    world: &mut World,
    exchange: &mut Exchange,
    request: &mut crate::canonical::Canonical,
) -> Effect {
    world.step(exchange, request, Input::TimerFired)
}
