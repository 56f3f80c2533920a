//! Retries: what is repeated by default and on wish, and every bound on it.

use super::{MtlsMode, Origin, World, address, always, refused, to, tried};
use crate::canonical::Caller;
use crate::exchange::{Answered, Effect, Exchange, Input, Need, Outcome, Tried};
use crate::model::{RetryOn, RetryPolicy};
use naka_types::reason::Reason;
use std::time::Duration;

/// A world with two endpoints and this policy.
fn world(policy: RetryPolicy) -> World {
    let mut world = World::new();
    let cluster = world.cluster("a", &[1, 2]);
    let mut forward = to(vec![cluster]);
    forward.retry = policy;
    world.host(always(forward));
    world
}

fn on(words: &str) -> RetryPolicy {
    let (policy, unknown) = RetryPolicy::explicit(words, 2);
    assert!(unknown.is_empty(), "{unknown:?}");
    policy
}

fn grpc(status: &str) -> Vec<(&str, &str)> {
    vec![
        ("content-type", "application/grpc"),
        ("grpc-status", status),
    ]
}

type Case<'a> = (RetryPolicy, &'a str, End<'a>, bool);

enum End<'a> {
    Failed(Outcome<'a>),
    Status(u16),
    Grpc(&'a str),
}

#[test]
fn what_is_repeated() {
    use End::{Failed, Grpc, Status};
    let safe = RetryPolicy::default;
    let cases: Vec<Case<'_>> = vec![
        (safe(), "POST", Failed(Outcome::ConnectFailed), true),
        (safe(), "POST", Failed(Outcome::RefusedStream), true),
        (safe(), "POST", Failed(Outcome::NotProcessed), true),
        (safe(), "POST", Failed(Outcome::WrongPeerIdentity), true),
        (safe(), "POST", Failed(Outcome::Stale), false),
        (safe(), "GET", Failed(Outcome::Stale), true),
        (on("5xx"), "POST", Failed(Outcome::Stale), true),
        (
            on("reset-before-request"),
            "POST",
            Failed(Outcome::NotProcessed),
            true,
        ),
        (
            on("reset-before-request"),
            "POST",
            Failed(Outcome::Stale),
            false,
        ),
        (safe(), "POST", Failed(Outcome::Reset), false),
        (safe(), "POST", Status(503), false),
        (safe(), "PATCH", Failed(Outcome::Reset), false),
        (safe(), "GET", Failed(Outcome::Reset), true),
        (safe(), "PUT", Failed(Outcome::Reset), true),
        (safe(), "GET", Status(503), true),
        (safe(), "GET", Status(500), false),
        (safe(), "GET", Failed(Outcome::Timeout), false),
        (safe(), "GET", Failed(Outcome::CircuitOpen), false),
        (safe(), "POST", Grpc("14"), false),
        (on("5xx"), "POST", Status(500), true),
        (on("5xx"), "POST", Status(404), false),
        (on("5xx"), "POST", Failed(Outcome::Reset), true),
        (on("5xx"), "POST", Failed(Outcome::PerTryTimeout), true),
        (on("5xx"), "POST", Failed(Outcome::Timeout), false),
        (on("gateway-error"), "POST", Status(502), true),
        (on("gateway-error"), "POST", Status(500), false),
        (on("reset"), "POST", Status(503), false),
        (on("reset"), "POST", Failed(Outcome::Reset), true),
        (on("connect-failure"), "GET", Failed(Outcome::Reset), false),
        (
            on("connect-failure"),
            "POST",
            Failed(Outcome::ConnectTimeout),
            true,
        ),
        (
            on("refused-stream"),
            "POST",
            Failed(Outcome::RefusedStream),
            true,
        ),
        (
            on("refused-stream"),
            "POST",
            Failed(Outcome::ConnectFailed),
            false,
        ),
        (on("retriable-4xx"), "POST", Status(409), true),
        (on("503, 429"), "POST", Status(429), true),
        (on("503"), "POST", Status(502), false),
        (on("503"), "POST", Failed(Outcome::ConnectFailed), false),
        (on("unavailable"), "POST", Grpc("14"), true),
        (on("cancelled,deadline-exceeded"), "POST", Grpc("4"), true),
        (on("resource-exhausted"), "POST", Grpc("8"), true),
        (on("cancelled"), "POST", Grpc("1"), true),
        (on("internal"), "POST", Grpc("13"), true),
        (on("internal"), "POST", Grpc("14"), false),
        (on("unavailable"), "POST", Grpc("0"), false),
        (
            RetryPolicy::off(),
            "GET",
            Failed(Outcome::ConnectFailed),
            false,
        ),
    ];
    for (index, (policy, method, end, want)) in cases.into_iter().enumerate() {
        let mut world = world(policy);
        let request_headers: &[_] = match end {
            Grpc(_) => &[("content-type", "application/grpc")],
            _ => &[],
        };
        let mut request = world.request(method, "/", request_headers);
        let (mut exchange, effect) = world.begin(&mut request);
        drop(tried(effect));
        let next = match end {
            Failed(outcome) => world.failed(&mut exchange, &mut request, outcome),
            Status(status) => world
                .answered(&mut exchange, &mut request, status, &[])
                .map_or_else(|e| *e, |_| Effect::Relay),
            Grpc(status) => world
                .answered(&mut exchange, &mut request, 200, &grpc(status))
                .map_or_else(|e| *e, |_| Effect::Relay),
        };
        let repeated = matches!(next, Effect::Try(_) | Effect::Need(Need::Backoff(_)));
        assert_eq!(repeated, want, "case {index}: {next:?}");
    }
}

/// Fails every try with `Reset`; returns the addresses tried and the last effect.
fn exhaust(
    world: &mut World,
    request: &mut crate::canonical::Canonical,
) -> (Vec<std::net::SocketAddr>, Effect) {
    let (mut exchange, mut effect) = world.begin(request);
    let mut seen = Vec::new();
    loop {
        effect = match effect {
            Effect::Try(try_) => {
                seen.push(try_.endpoint.address);
                drop(try_);
                world.failed(&mut exchange, request, Outcome::Reset)
            }
            Effect::Need(Need::Backoff(pause)) => {
                assert!(pause <= Duration::from_millis(250));
                world.now += pause;
                world.step(&mut exchange, request, Input::TimerFired)
            }
            other => return (seen, other),
        };
    }
}

#[test]
fn the_number_of_retries_holds_and_another_endpoint_is_tried() {
    let mut world = world(on("reset"));
    let mut request = world.request("POST", "/", &[]);
    let (seen, last) = exhaust(&mut world, &mut request);
    assert_eq!(seen.len(), 3);
    assert!(seen[0] != seen[1] && seen[1] != seen[2]);
    assert_eq!(refused(last), Reason::UpstreamReset);
    assert_eq!(request.headers()["x-envoy-attempt-count"], "3");
}

#[test]
fn an_unprocessed_try_is_repeated_at_once() {
    let mut world = world(RetryPolicy::default());
    let mut request = world.request("POST", "/", &[]);
    let (mut exchange, effect) = world.begin(&mut request);
    let first = tried(effect).endpoint.address;
    let effect = world.failed(&mut exchange, &mut request, Outcome::ConnectFailed);
    let second = tried(effect);
    assert_ne!(second.endpoint.address, first);
    assert_eq!((second.attempt, second.cluster.runtime.retries()), (2, 0));
    drop(second);
    let effect = world.failed(&mut exchange, &mut request, Outcome::ConnectFailed);
    assert!(matches!(effect, Effect::Need(Need::Backoff(_))));
}

#[test]
fn a_body_that_is_gone_is_not_repeated() {
    let mut world = world(on("5xx"));
    let mut request = world.request("POST", "/", &[]);
    let (mut exchange, effect) = world.begin(&mut request);
    drop(effect);
    let tried = Tried {
        outcome: Outcome::Reset,
        replayable: false,
    };
    let effect = world.step(&mut exchange, &mut request, Input::Tried(tried));
    assert_eq!(refused(effect), Reason::UpstreamReset);
}

#[test]
fn a_retry_is_not_retried_unless_it_was_not_processed() {
    let again = [("x-envoy-attempt-count", "2")];
    let mut world = world(on("5xx"));
    let mut request = world.request("GET", "/", &again);
    let (seen, _) = exhaust(&mut world, &mut request);
    assert_eq!(seen.len(), 1);
    let mut request = world.request("GET", "/", &again);
    let (mut exchange, effect) = world.begin(&mut request);
    drop(effect);
    let effect = world.failed(&mut exchange, &mut request, Outcome::ConnectFailed);
    let second = tried(effect);
    assert_eq!(request.headers()["x-envoy-attempt-count"], "2");
    drop(second);
}

#[test]
fn the_deadline_bounds_tries_and_backoff() {
    let mut world = World::new();
    let cluster = world.cluster("a", &[1, 2]);
    let mut forward = to(vec![cluster]);
    forward.retry = on("5xx");
    forward.timeout = Some(Duration::from_millis(500));
    world.host(always(forward));
    let mut request = world.request("POST", "/", &[]);
    let (mut exchange, effect) = world.begin(&mut request);
    let first = tried(effect);
    assert_eq!(first.deadline, Some(world.now + Duration::from_millis(500)));
    assert_eq!(request.headers()["x-envoy-expected-rq-timeout-ms"], "500");
    drop(first);
    world.now += Duration::from_millis(100);
    let effect = world.failed(&mut exchange, &mut request, Outcome::Reset);
    assert!(matches!(effect, Effect::Need(Need::Backoff(_))));
    let second = tried(world.step(&mut exchange, &mut request, Input::TimerFired));
    assert_eq!(request.headers()["x-envoy-expected-rq-timeout-ms"], "400");
    drop(second);
    world.now += Duration::from_millis(400);
    let effect = world.failed(&mut exchange, &mut request, Outcome::Reset);
    assert_eq!(
        refused(effect),
        Reason::UpstreamReset,
        "no time is left for another"
    );
}

#[test]
fn the_budget_bounds_retries_and_gives_its_slots_back() {
    let mut world = world(on("5xx"));
    let mut waiting: Vec<(Exchange, crate::canonical::Canonical)> = Vec::new();
    for round in 0..10 {
        let mut request = world.request("GET", "/", &[]);
        let (mut exchange, effect) = world.begin(&mut request);
        drop(effect);
        let effect = world.failed(&mut exchange, &mut request, Outcome::Reset);
        match effect {
            Effect::Need(Need::Backoff(_)) => waiting.push((exchange, request)),
            other => {
                assert_eq!(refused(other), Reason::UpstreamReset);
                assert_eq!(round.min(3), 3, "three always have room");
            }
        }
    }
    assert_eq!(waiting.len(), 3);
    let (mut exchange, mut request) = waiting.pop().unwrap();
    let retry = tried(world.step(&mut exchange, &mut request, Input::TimerFired));
    assert_eq!(
        retry.cluster.runtime.retries(),
        3,
        "the slot moved into the try"
    );
    let runtime = retry.cluster.runtime.clone();
    drop((retry, waiting));
    assert_eq!((runtime.retries(), runtime.requests()), (0, 0));
}

#[test]
fn only_the_own_program_has_wishes() {
    let wishes = [
        ("x-envoy-retry-on", "retriable-4xx"),
        ("x-envoy-retry-grpc-on", "unavailable"),
        ("x-envoy-max-retries", "1"),
        ("x-envoy-upstream-rq-timeout-ms", "700"),
        ("x-envoy-upstream-rq-per-try-timeout-ms", "300"),
    ];
    let mut world = world(RetryPolicy::default());
    let mut request = world.request("POST", "/", &wishes);
    let (mut exchange, effect) = world.begin(&mut request);
    let first = tried(effect);
    assert_eq!(first.deadline, Some(world.now + Duration::from_millis(700)));
    assert_eq!(first.per_try_timeout, Some(Duration::from_millis(300)));
    assert!(first.keep);
    drop(first);
    for (name, _) in &wishes {
        assert!(
            !request.headers().contains_key(*name),
            "{name} goes no further"
        );
    }
    assert_eq!(request.headers()["x-envoy-expected-rq-timeout-ms"], "300");
    let effect = world
        .answered(&mut exchange, &mut request, 409, &[])
        .unwrap_err();
    assert!(matches!(*effect, Effect::Need(Need::Backoff(_))));
    let second = tried(world.step(&mut exchange, &mut request, Input::TimerFired));
    assert!(!second.keep, "one retry was wished for");
    drop(second);
    assert!(
        world
            .answered(&mut exchange, &mut request, 409, &[])
            .is_ok()
    );

    world.origin = crate::canonical::Origin::gateway(80, false, None);
    let mut request = world.request("POST", "/", &[&wishes[..], &[("host", "payment")]].concat());
    let (mut exchange, effect) = world.begin(&mut request);
    let first = tried(effect);
    assert_eq!(
        (first.deadline, first.endpoint.address.ip()),
        (None, address(1).ip())
    );
    drop(first);
    assert!(
        world
            .answered(&mut exchange, &mut request, 409, &[])
            .is_ok()
    );
}

#[test]
fn what_was_refused_for_being_too_much_is_repeated_only_on_wish() {
    let limited = [("x-envoy-ratelimited", "true")];
    for (policy, want) in [
        (RetryPolicy::default(), false),
        (on("5xx,gateway-error,503"), false),
        (on("envoy-ratelimited"), true),
    ] {
        let mut world = world(policy);
        let mut request = world.request("GET", "/", &[]);
        let (mut exchange, effect) = world.begin(&mut request);
        drop(effect);
        let relayed = world.answered(&mut exchange, &mut request, 503, &limited);
        assert_eq!(relayed.is_err(), want);
    }
}

#[test]
fn the_own_program_is_called_again_once_if_that_is_safe() {
    let reset = || Outcome::Reset;
    for (method, outcome, repeated, pauses) in [
        ("POST", Outcome::ConnectFailed, true, false),
        ("GET", Outcome::Stale, true, true),
        ("POST", Outcome::Stale, false, false),
        ("GET", reset(), false, false),
    ] {
        let mut world = World::new();
        world.inbound(MtlsMode::Permissive);
        world.origin = Origin::inbound(8080, Caller::Outside, false);
        let mut request = world.request(method, "/", &[]);
        let (mut exchange, effect) = world.begin(&mut request);
        drop(tried(effect));
        let mut next = world.failed(&mut exchange, &mut request, outcome);
        let paused = matches!(next, Effect::Need(Need::Backoff(_)));
        assert_eq!(paused, pauses, "{method}: {next:?}");
        if paused {
            next = world.step(&mut exchange, &mut request, Input::TimerFired);
        }
        assert_eq!(
            matches!(next, Effect::Try(_)),
            repeated,
            "{method}: {next:?}"
        );
        if repeated {
            drop(next);
            let last = world.failed(&mut exchange, &mut request, Outcome::ConnectFailed);
            assert_eq!(refused(last), Reason::ConnectFailed);
        }
    }
}

#[test]
fn a_way_out_of_the_mesh_is_tried_elsewhere() {
    let mut world = World::new();
    let out = world.cluster("out", &[1, 2]);
    world.publish();
    // Once it could be chance.
    for _ in 0..50 {
        let mut request = world.request("POST", "http://example.com/", &[]);
        let (mut exchange, _) = world.begin(&mut request);
        let through = Input::Answer(Answered::Through(out.cluster));
        let first = tried(world.step(&mut exchange, &mut request, through));
        let first = first.endpoint.address;
        let again = world.failed(&mut exchange, &mut request, Outcome::ConnectFailed);
        assert_ne!(tried(again).endpoint.address, first);
    }
}

#[test]
fn a_policy_that_is_off_wants_nothing() {
    let off = RetryPolicy::off();
    assert_eq!((off.retries, off.explicit), (0, true));
}

#[test]
fn unknown_words_are_named() {
    let (policy, unknown) = RetryPolicy::explicit("5xx, sometimes,503,99", 3);
    assert_eq!(unknown, ["sometimes", "99"]);
    assert!(policy.on.any(RetryOn::FIVE_XX) && policy.on.any(RetryOn::STATUS_CODES));
    assert_eq!((&*policy.statuses, policy.retries), (&[503][..], 3));
}
