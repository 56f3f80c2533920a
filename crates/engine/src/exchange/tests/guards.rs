//! Guards: what each finds, what it does about it, and whom it counts for.

use super::World;
use crate::canonical::{Caller, Origin, Source};
use crate::exchange::guard::{bans_address, handshake_done, handshake_failed};
use crate::exchange::{Effect, Exchange};
use crate::model::{
    Access, Anomalies, Ban, Guard, Guarding, MtlsMode, Pattern, RequestGuard, Sought, Watch,
};
use http::Method;
use naka_types::reason::Reason;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const ORDER: &str = "spiffe://cluster.local/ns/default/sa/order";
const S: fn(u64) -> Duration = Duration::from_secs;

fn guard(watch: Watch, action: Guarding) -> Guard {
    Guard {
        rule: "guard[default/g/one]".into(),
        watch,
        action,
    }
}

fn access(guards: Vec<Guard>) -> Arc<Access> {
    let object = RequestGuard {
        rule: "guard[default/g]".into(),
        guards: guards.into(),
        peers: OnceLock::new(),
    };
    Arc::new(Access {
        guards: [object].into(),
        ..Access::default()
    })
}

fn world(access: &Arc<Access>) -> World {
    let mut world = World::new();
    world.inbound_under(MtlsMode::Permissive, Some(Arc::clone(access)), None);
    world.origin = stranger("10.0.0.7");
    world
}

fn stranger(address: &str) -> Origin {
    let mut origin = Origin::inbound(8080, Caller::Outside, false);
    origin.address = Some(address.parse().unwrap());
    origin
}

fn peer(identity: &str, address: &str) -> Origin {
    let mut origin = stranger(address);
    origin.caller = Caller::MeshPeer { xfcc: None };
    origin.source = Some(Source {
        identity: identity.into(),
        ..Source::default()
    });
    origin
}

fn methods() -> Watch {
    Watch::Methods([Method::GET, Method::POST].into())
}

fn patterns() -> Watch {
    Watch::Patterns(
        [Sought {
            rule: "guard[default/g/one]-pattern[own]".into(),
            pattern: Pattern::search("(?i)drop table").unwrap(),
        }]
        .into(),
    )
}

const BAN: Guarding = Guarding::Ban(Ban {
    failures: 2,
    per: Duration::from_secs(60),
    lasts: Duration::from_secs(600),
});

/// What becomes of a request, and what was noticed.
fn asked(
    world: &mut World,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> (Option<Reason>, Vec<(&'static str, String)>) {
    let mut request = world.request(method, target, headers);
    let (mut exchange, effect): (Exchange, Effect) = world.begin(&mut request);
    let judged = exchange.judged();
    let noticed = judged.iter().flat_map(|judged| &judged.noticed);
    let noticed = noticed
        .map(|one| (one.outcome, one.rule.to_string()))
        .collect();
    match effect {
        Effect::Try(_) => (None, noticed),
        Effect::Reply(reply) => {
            assert!(judged.unwrap().refused_by.is_some());
            (Some(reply.reason), noticed)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_guard_refuses_what_it_looks_at_and_nothing_else() {
    for (watch, method, target, headers, wanted) in [
        (methods(), "GET", "/", &[][..], None),
        (methods(), "DELETE", "/", &[][..], Some(Reason::GuardMethod)),
        (methods(), "get", "/", &[][..], Some(Reason::GuardMethod)),
        (Watch::Syntax, "GET", "/a?b=%41", &[][..], None),
        (
            Watch::Syntax,
            "GET",
            "/a?b=%4",
            &[][..],
            Some(Reason::GuardSyntax),
        ),
        (
            Watch::Syntax,
            "GET",
            "/",
            &[("a_b", "c")][..],
            Some(Reason::GuardSyntax),
        ),
        (patterns(), "GET", "/?q=drop+leaf+table", &[][..], None),
        (
            patterns(),
            "GET",
            "/?q=drop+table",
            &[][..],
            Some(Reason::GuardPattern),
        ),
        (
            patterns(),
            "GET",
            "/",
            &[("x-q", "DROP TABLE")][..],
            Some(Reason::GuardPattern),
        ),
        (Watch::Handshakes, "DELETE", "/?q=drop+table", &[][..], None),
        (
            Watch::Tokens(Anomalies::default()),
            "DELETE",
            "/",
            &[][..],
            None,
        ),
    ] {
        let denies = access(vec![guard(watch.clone(), Guarding::Deny)]);
        let got = asked(&mut world(&denies), method, target, headers);
        assert_eq!(got, (wanted, vec![]), "{watch:?} {method} {target}");
        // The twin: one that only tells lets all through, and tells.
        let logs = access(vec![guard(watch.clone(), Guarding::Log)]);
        let (refused, noticed) = asked(&mut world(&logs), method, target, headers);
        assert_eq!(
            (refused, noticed.len()),
            (None, usize::from(wanted.is_some())),
            "{watch:?}"
        );
        assert!(noticed.iter().all(|(outcome, _)| *outcome == "logged"));
    }
}

#[test]
fn a_peer_is_banned_and_nobody_else_and_for_a_time() {
    let access = access(vec![guard(methods(), BAN)]);
    let mut world = world(&access);
    let bad = |world: &mut World| asked(world, "DELETE", "/", &[]).0;
    let good = |world: &mut World| asked(world, "GET", "/", &[]).0;
    assert_eq!(bad(&mut world), Some(Reason::GuardMethod));
    assert_eq!(good(&mut world), None, "once is not often enough");
    let (reason, noticed) = asked(&mut world, "DELETE", "/", &[]);
    assert_eq!(reason, Some(Reason::GuardMethod));
    assert_eq!(noticed, [("banned", "guard[default/g/one]".to_owned())]);
    assert_eq!(good(&mut world), Some(Reason::PeerBanned));
    for other in [stranger("10.0.0.8"), peer(ORDER, "10.0.0.7")] {
        world.origin = other;
        assert_eq!(good(&mut world), None);
    }
    world.origin = stranger("10.0.0.7");
    world.now += S(599);
    assert_eq!(good(&mut world), Some(Reason::PeerBanned));
    world.now += S(1);
    assert_eq!(good(&mut world), None, "it ended");
}

/// A gateway that passes on what a client did is not banned for it; the client is, through that gateway.
#[test]
fn a_client_behind_a_gateway_is_banned_alone() {
    let access = access(vec![guard(methods(), BAN)]);
    let mut world = world(&access);
    let edge = "spiffe://cluster.local/ns/istio-system/sa/edge";
    world.origin = peer(edge, "10.0.0.1");
    let via = |world: &mut World, method: &str, told: &str| {
        asked(world, method, "/", &[("x-forwarded-for", told)]).0
    };
    for _ in 0..2 {
        // Only the last is what the gateway itself saw.
        let told = "10.0.0.9, 203.0.113.7";
        assert_eq!(via(&mut world, "DELETE", told), Some(Reason::GuardMethod));
    }
    assert_eq!(
        via(&mut world, "GET", "203.0.113.7"),
        Some(Reason::PeerBanned)
    );
    assert_eq!(via(&mut world, "GET", "203.0.113.8"), None);
    assert_eq!(via(&mut world, "GET", "10.0.0.9"), None);
    assert_eq!(
        asked(&mut world, "GET", "/", &[]).0,
        None,
        "the gateway itself"
    );
}

#[test]
fn an_explanation_bans_nobody() {
    let access = access(vec![guard(methods(), BAN)]);
    let mut world = world(&access);
    world.trail = Some(Vec::new());
    for _ in 0..5 {
        assert_eq!(
            asked(&mut world, "DELETE", "/", &[]).0,
            Some(Reason::GuardMethod)
        );
    }
    let trail = format!("{:?}", world.trail.take());
    assert!(trail.contains("guard[default/g/one] matches"), "{trail}");
    assert_eq!(asked(&mut world, "GET", "/", &[]).0, None);
}

#[test]
fn failed_handshakes_ban_an_address_unless_a_verified_peer_has_it() {
    let here: IpAddr = "10.0.0.7".parse().unwrap();
    let five = Guarding::Ban(Ban {
        failures: 5,
        per: S(60),
        lasts: S(600),
    });
    let outcomes = |access: &Access, at: u64| -> Vec<&'static str> {
        let all = handshake_failed(access, here, S(at));
        all.into_iter().map(|failed| failed.outcome).collect()
    };
    let first = access(vec![guard(Watch::Handshakes, five)]);
    for at in 0..4 {
        assert_eq!(outcomes(&first, at), ["denied"]);
        assert_eq!(bans_address(&first, here, S(at)), None);
    }
    assert_eq!(outcomes(&first, 4), ["banned"]);
    assert!(bans_address(&first, here, S(5)).is_some());
    assert!(bans_address(&first, "10.0.0.8".parse().unwrap(), S(5)).is_none());
    assert!(bans_address(&first, here, S(605)).is_none());
    let vouched = access(vec![guard(Watch::Handshakes, five)]);
    handshake_done(&vouched, here, S(0));
    for at in 0..20 {
        assert_eq!(outcomes(&vouched, at), ["denied"]);
    }
    assert_eq!(bans_address(&vouched, here, S(20)), None);
    for action in [Guarding::Log, Guarding::Deny] {
        let other = access(vec![guard(Watch::Handshakes, action)]);
        for at in 0..20 {
            assert_eq!(outcomes(&other, at).len(), 1);
        }
        assert_eq!(bans_address(&other, here, S(20)), None);
    }
}
