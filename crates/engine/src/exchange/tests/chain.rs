//! A failure that a hop below repeated in vain: who says so to whom, and who believes it.

use super::{World, always, refused, to};
use crate::canonical::{Caller, Origin};
use crate::exchange::{Effect, Exchange, Input, Need, Outcome};
use crate::model::{MtlsMode, RetryPolicy};
use http::{HeaderMap, HeaderValue};
use naka_types::reason::Reason;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const MARK: (&str, &str) = ("x-naka-reason", "already-retried");

fn outbound(policy: RetryPolicy) -> World {
    let mut world = World::new();
    let cluster = world.cluster("a", &[1, 2]);
    let mut forward = to(vec![cluster]);
    forward.retry = policy;
    world.host(always(forward));
    world
}

/// Tries a request to the end, each try answered like this; the number of tries and the end.
fn call(
    world: &mut World,
    parent: &str,
    status: u16,
    headers: &[(&str, &str)],
) -> (u32, HeaderMap) {
    let mut request = world.request("GET", "/", &[("traceparent", parent)]);
    let (mut exchange, mut effect) = world.begin(&mut request);
    let mut tries = 0;
    loop {
        effect = match effect {
            Effect::Try(to_try) => {
                tries += 1;
                drop(to_try);
                match world.answered(&mut exchange, &mut request, status, headers) {
                    Ok(relayed) => return (tries, relayed),
                    Err(other) => *other,
                }
            }
            Effect::Need(Need::Backoff(_)) => {
                world.step(&mut exchange, &mut request, Input::TimerFired)
            }
            other => panic!("{other:?}"),
        };
    }
}

/// What the program's own answer says when it has passed the own proxy.
fn answer(world: &World, caller: Caller, parent: &str, status: u16) -> Option<HeaderValue> {
    let mut inbound = World::new();
    inbound.around = world.around.clone();
    inbound.inbound(MtlsMode::Permissive);
    inbound.origin = Origin::inbound(8080, caller, true);
    let (_, headers) = call(&mut inbound, parent, status, &[MARK]);
    headers.get(MARK.0).cloned()
}

fn peer() -> Caller {
    Caller::MeshPeer {
        xfcc: Some(HeaderValue::from_static("By=me")),
    }
}

#[test]
fn what_was_repeated_in_vain_is_told_to_the_caller_of_the_same_trace() {
    let other = PARENT.replace("4736", "4737");
    for (policy, headers, tries, told) in [
        // Repeated here, in vain.
        (RetryPolicy::default(), &[][..], 3, true),
        // Repeated below, and so not here; told on, also where nobody would repeat.
        (RetryPolicy::default(), &[MARK][..], 1, true),
        (RetryPolicy::off(), &[MARK][..], 1, true),
        // Not repeated by anybody.
        (RetryPolicy::off(), &[][..], 1, false),
    ] {
        let mut world = outbound(policy);
        assert_eq!(call(&mut world, PARENT, 503, headers).0, tries);
        let want = told.then(|| HeaderValue::from_static(MARK.1));
        assert_eq!(answer(&world, peer(), PARENT, 503), want);
        // Another trace, an answer that is no failure, callers that are no mesh proxies: nothing, nor can the program
        // say it by itself.
        assert_eq!(answer(&world, peer(), &other, 503), None);
        assert_eq!(answer(&world, peer(), PARENT, 200), None);
        for stranger in [Caller::Outside, Caller::MeshPeer { xfcc: None }] {
            assert_eq!(answer(&world, stranger, PARENT, 503), None);
        }
    }
}

#[test]
fn a_retry_that_helped_is_nobodys_business() {
    let mut world = outbound(RetryPolicy::default());
    let mut request = world.request("GET", "/", &[("traceparent", PARENT)]);
    let (mut exchange, effect) = world.begin(&mut request);
    drop(effect);
    let pause = world.answered(&mut exchange, &mut request, 503, &[]);
    assert!(matches!(
        *pause.unwrap_err(),
        Effect::Need(Need::Backoff(_))
    ));
    drop(world.step(&mut exchange, &mut request, Input::TimerFired));
    let helped = world.answered(&mut exchange, &mut request, 200, &[]);
    assert!(helped.is_ok());
    assert_eq!(answer(&world, peer(), PARENT, 503), None);
}

/// A caller that went away during the second try has had no failure.
#[test]
fn a_retry_that_nobody_waited_for_is_no_failure() {
    for (end, told) in [(Outcome::ClientGone, false), (Outcome::Reset, true)] {
        let mut world = outbound(RetryPolicy::explicit("5xx", 1).0);
        let mut request = world.request("GET", "/", &[("traceparent", PARENT)]);
        let (mut exchange, effect) = world.begin(&mut request);
        drop(effect);
        let pause = world.answered(&mut exchange, &mut request, 503, &[]);
        assert!(matches!(
            *pause.unwrap_err(),
            Effect::Need(Need::Backoff(_))
        ));
        drop(world.step(&mut exchange, &mut request, Input::TimerFired));
        drop(world.failed(&mut exchange, &mut request, end));
        let want = told.then(|| HeaderValue::from_static(MARK.1));
        assert_eq!(answer(&world, peer(), PARENT, 503), want);
    }
}

/// gRPC answers 200 whatever comes of a call.
#[test]
fn a_failure_in_the_words_of_grpc_is_one_too() {
    let mut world = outbound(RetryPolicy::off());
    assert_eq!(call(&mut world, PARENT, 503, &[MARK]).0, 1);
    for (status, told) in [("14", true), ("0", false)] {
        let mut inbound = World::new();
        inbound.around = world.around.clone();
        inbound.inbound(MtlsMode::Permissive);
        inbound.origin = Origin::inbound(8080, peer(), true);
        let (_, headers) = call(&mut inbound, PARENT, 200, &[("grpc-status", status)]);
        let want = told.then(|| HeaderValue::from_static(MARK.1));
        assert_eq!(headers.get(MARK.0), want.as_ref(), "{status}");
    }
}

#[test]
fn the_mark_is_believed_of_a_verified_proxy_only() {
    for verified in [true, false] {
        let mut world = World::new();
        let cluster = world.cluster_with("a", &[1, 2], |spec| {
            if !verified {
                spec.tls = None;
            }
        });
        world.host(always(to(vec![cluster])));
        let tries = if verified { 1 } else { 3 };
        assert_eq!(call(&mut world, PARENT, 503, &[MARK]).0, tries);
    }
}

#[test]
fn a_destination_that_only_fails_is_called_once_a_request_in_the_end() {
    let mut world = outbound(RetryPolicy::default());
    let tries = |world: &mut World, status| -> u32 {
        (0..1_000).map(|_| call(world, "", status, &[]).0).sum()
    };
    assert_eq!(
        tries(&mut world, 503),
        1_000 + crate::limits::RESERVED_RETRIES
    );
    // Answers fill the reserve again.
    assert_eq!(tries(&mut world, 200), 1_000);
    assert_eq!(
        tries(&mut world, 503),
        1_000 + crate::limits::RESERVED_RETRIES
    );
    // What reached nobody adds no load: its first repetition takes nothing.
    for _ in 0..2 {
        let mut request = world.request("GET", "/", &[]);
        let (mut exchange, effect): (Exchange, _) = world.begin(&mut request);
        drop(effect);
        let again = world.failed(&mut exchange, &mut request, Outcome::ConnectFailed);
        assert!(matches!(again, Effect::Try(_)));
        drop(again);
        let end = world.failed(&mut exchange, &mut request, Outcome::ConnectFailed);
        assert_eq!(refused(end), Reason::ConnectFailed);
    }
}

#[test]
fn a_budget_that_somebody_wrote_holds_as_it_is_written() {
    let mut world = World::new();
    let cluster = world.cluster_with("a", &[1], |spec| spec.limits.budget.reserve = false);
    world.host(always(to(vec![cluster])));
    let tries: u32 = (0..100).map(|_| call(&mut world, "", 503, &[]).0).sum();
    assert_eq!(tries, 300);
}
