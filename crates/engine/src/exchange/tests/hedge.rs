//! A second try beside a slow one: when, where, and at whose cost.

use super::{World, always, to, tried};
use crate::model::{Backend, RetryPolicy};
use std::time::Duration;

const AFTER: Duration = Duration::from_millis(50);

fn world(policy: RetryPolicy) -> World {
    let mut world = World::new();
    let cluster = world.cluster_with("a", &[1, 2], |spec| {
        spec.backend = Some(Box::new(Backend {
            hedge: Some(AFTER),
            ..Backend::default()
        }));
    });
    let mut forward = to(vec![cluster]);
    forward.retry = policy;
    world.host(always(forward));
    world
}

#[test]
fn only_what_is_safe_to_repeat_is_sent_twice() {
    let again = [("x-envoy-attempt-count", "2")];
    for (policy, method, headers, want) in [
        (RetryPolicy::default(), "GET", &[][..], Some(AFTER)),
        (RetryPolicy::default(), "DELETE", &[][..], Some(AFTER)),
        (RetryPolicy::default(), "POST", &[][..], None),
        (RetryPolicy::off(), "GET", &[][..], None),
        (RetryPolicy::default(), "GET", &again[..], None),
    ] {
        let mut world = world(policy);
        let mut request = world.request(method, "/", headers);
        let (_, effect) = world.begin(&mut request);
        assert_eq!(tried(effect).hedge, want, "{method} {headers:?}");
    }
}

#[test]
fn the_second_try_goes_elsewhere_and_takes_of_the_budget() {
    let mut world = world(RetryPolicy::default());
    let mut request = world.request("GET", "/", &[]);
    let (mut exchange, effect) = world.begin(&mut request);
    let first = tried(effect);
    let second = exchange.hedge(&mut request, &mut world.cx()).unwrap();
    assert_ne!(first.endpoint.address, second.endpoint.address);
    assert_eq!(first.cluster.runtime.retries(), 1);
    assert_eq!(request.headers()["x-envoy-attempt-count"], "2");
    assert_eq!(
        exchange.endpoint().unwrap().address,
        second.endpoint.address
    );
    // Never a third.
    assert!(exchange.hedge(&mut request, &mut world.cx()).is_none());
    drop(second);
    exchange.first_won();
    assert_eq!(exchange.endpoint().unwrap().address, first.endpoint.address);
    assert_eq!(first.cluster.runtime.retries(), 0);
}

#[test]
fn a_budget_that_is_used_up_allows_no_second_try() {
    let mut world = world(RetryPolicy::default());
    let mut given = 0;
    for _ in 0..200 {
        let mut request = world.request("GET", "/", &[]);
        let (mut exchange, effect) = world.begin(&mut request);
        given += u32::from(exchange.hedge(&mut request, &mut world.cx()).is_some());
        drop(effect);
    }
    assert_eq!(given, crate::limits::RESERVED_RETRIES);
}
