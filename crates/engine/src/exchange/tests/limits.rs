//! Rate limits at a port of the program and at a gateway's routes: who gets a token, and what the answer says.

use super::{World, route};
use crate::canonical::{Caller, Direction, Origin, Source};
use crate::exchange::Effect;
use crate::model::{Action, Forward, LimitRule, Match, MtlsMode, RateLimit};
use crate::reply::LocalReply;
use crate::runtime::Pace;
use naka_expr::{Expression, Place, Use};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn rule(name: &str, tokens: u64, burst: u64) -> LimitRule {
    LimitRule {
        name: name.into(),
        when: None,
        keys: Box::default(),
        pace: Pace::new(tokens, SECOND, burst).unwrap(),
        dry_run: false,
        headers: true,
        places: 0,
        buckets: OnceLock::new(),
    }
}

fn keyed(name: &str, key: &str, burst: u64) -> LimitRule {
    LimitRule {
        keys: [Expression::compile(key, Use::Key, Place::Limit).unwrap()].into(),
        places: 16,
        ..rule(name, 1, burst)
    }
}

fn when(condition: &str, mut rule: LimitRule) -> LimitRule {
    rule.when = Some(Expression::compile(condition, Use::Condition, Place::Limit).unwrap());
    rule
}

fn inbound(rules: Vec<LimitRule>) -> World {
    let mut world = World::new();
    let rules = rules.into();
    let limit = Some(Arc::new(RateLimit { rules }));
    world.inbound_under(MtlsMode::Permissive, None, limit);
    world.origin = Origin::inbound(8080, Caller::Outside, false);
    world
}

/// `None`: it went on.
fn ask(world: &mut World, headers: &[(&str, &str)]) -> Option<LocalReply> {
    let mut request = world.request("GET", "/pay", headers);
    let (_, effect) = world.begin(&mut request);
    match effect {
        Effect::Try(_) => None,
        Effect::Reply(reply) => Some(reply),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_burst_passes_and_the_next_one_is_refused_with_when_to_come_back() {
    let mut world = inbound(vec![rule("a", 2, 3)]);
    for _ in 0..3 {
        assert!(ask(&mut world, &[]).is_none());
    }
    let refused = ask(&mut world, &[]).expect("no token");
    assert_eq!(refused.status, 429);
    assert_eq!(refused.headers["x-naka-reason"], "rate-limited");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.headers["x-ratelimit-limit"], "3");
    assert_eq!(refused.headers["x-ratelimit-remaining"], "0");
    assert_eq!(refused.headers["x-ratelimit-reset"], "0");
    world.now += SECOND / 2;
    assert!(ask(&mut world, &[]).is_none());
    assert!(ask(&mut world, &[]).is_some());
}

#[test]
fn when_to_come_back_is_rounded_up() {
    for (interval, after) in [(SECOND, "1"), (SECOND * 5 / 2, "3"), (SECOND * 3, "3")] {
        let mut slow = rule("a", 1, 1);
        slow.pace = Pace::new(1, interval, 1).unwrap();
        let mut world = inbound(vec![slow]);
        world.trail = Some(Vec::new());
        assert!(ask(&mut world, &[]).is_none());
        let refused = ask(&mut world, &[]).expect("no token");
        assert_eq!(refused.headers["retry-after"], after);
        let last = world.trail.unwrap();
        let said = last
            .iter()
            .any(|w| w.to_string().contains("0 of 1 tokens left"));
        assert!(said, "{last:?}");
    }
}

/// Of several rules the answer tells of the one nearest to its limit.
#[test]
fn the_answer_tells_of_the_nearest_limit() {
    for bursts in [[5, 3], [3, 5]] {
        let mut world = inbound(
            bursts
                .map(|burst| rule(&burst.to_string(), 1, burst))
                .into(),
        );
        let mut request = world.request("GET", "/pay", &[]);
        let (mut exchange, effect) = world.begin(&mut request);
        drop(effect);
        let headers = world.answered(&mut exchange, &mut request, 200, &[]);
        let headers = headers.expect("relayed");
        assert_eq!(headers["x-ratelimit-limit"], "3");
        assert_eq!(headers["x-ratelimit-remaining"], "2");
    }
}

#[test]
fn each_value_of_a_key_has_a_bucket_and_those_without_share_one() {
    let mut world = inbound(vec![keyed("a", "request.headers['x-merchant']", 1)]);
    for (merchant, passes) in [
        (Some("one"), true),
        (Some("one"), false),
        (Some("two"), true),
        (None, true),
        (None, false),
        (Some("two"), false),
    ] {
        let headers: Vec<(&str, &str)> = merchant.map(|m| ("x-merchant", m)).into_iter().collect();
        assert_eq!(ask(&mut world, &headers).is_none(), passes, "{merchant:?}");
    }
}

#[test]
fn a_key_can_be_who_calls() {
    let mut world = inbound(vec![keyed("a", "source.principal", 1)]);
    for (account, passes) in [("order", true), ("order", false), ("cart", true)] {
        world.origin.source = Some(Source {
            identity: format!("spiffe://cluster.local/ns/shop/sa/{account}").into(),
            workload: Arc::default(),
            ..Source::default()
        });
        assert_eq!(ask(&mut world, &[]).is_none(), passes, "{account}");
    }
}

/// A condition that does not hold leaves a request alone; one that cannot be known does not.
#[test]
fn a_condition_chooses_requests() {
    let rule = when("request.headers['x-tier'] == 'free'", rule("a", 1, 1));
    let mut world = inbound(vec![rule]);
    for (tier, passes) in [
        (Some("free"), true),
        (Some("paid"), true),
        (Some("paid"), true),
        (Some("free"), false),
        (None, false),
    ] {
        let headers: Vec<(&str, &str)> = tier.map(|t| ("x-tier", t)).into_iter().collect();
        assert_eq!(ask(&mut world, &headers).is_none(), passes, "{tier:?}");
    }
}

#[test]
fn a_dry_run_refuses_nobody_and_the_next_rule_still_counts() {
    let dry = LimitRule {
        dry_run: true,
        ..rule("dry", 1, 1)
    };
    let mut world = inbound(vec![dry, rule("real", 1, 2)]);
    world.trail = Some(Vec::new());
    assert!(ask(&mut world, &[]).is_none());
    assert!(ask(&mut world, &[]).is_none());
    assert!(ask(&mut world, &[]).is_some());
    let trail: Vec<String> = world
        .trail
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        trail
            .iter()
            .any(|line| line.contains("dry would refuse (dry run)")),
        "{trail:#?}"
    );
    assert!(
        trail.iter().any(|line| line.contains("real refuses")),
        "{trail:#?}"
    );
}

/// At a gateway the limit is the route's; routes under a rule of one name share its bucket.
#[test]
fn routes_of_a_gateway_share_a_rule_and_leave_others_alone() {
    let mut world = World::new();
    let limit = Some(Arc::new(RateLimit {
        rules: [rule("edge", 1, 2)].into(),
    }));
    let routes = ["/a", "/b", "/free"].map(|path| {
        let cluster = world.cluster(path, &[7000]);
        let matches = Match {
            path: crate::model::PathCondition::Exact(path.into()),
            ..Match::default()
        };
        let mut route = route(
            path,
            matches,
            Action::Forward(Forward::new(vec![cluster]).unwrap()),
        );
        route.limit = limit.clone().filter(|_| path != "/free");
        route
    });
    world.host(routes.into());
    world.origin.direction = Direction::Gateway;
    for (path, passes) in [
        ("/a", true),
        ("/b", true),
        ("/a", false),
        ("/b", false),
        ("/free", true),
    ] {
        let mut request = world.request("GET", path, &[("host", "payment.shop.svc.cluster.local")]);
        let (_, effect) = world.begin(&mut request);
        match effect {
            Effect::Try(_) => assert!(passes, "{path}"),
            Effect::Reply(reply) => {
                assert!(!passes, "{path}");
                assert_eq!(reply.status, 429);
                assert!(!reply.headers.contains_key("x-naka-reason"));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Buckets outlive a configuration: the same name and size find them again, another size starts afresh.
#[test]
fn buckets_are_found_again_by_name() {
    let registry = crate::runtime::Registry::default();
    let limit = |keys: usize| RateLimit {
        rules: [LimitRule {
            places: keys,
            ..rule("shop/edge/all", 1, 1)
        }]
        .into(),
    };
    let (first, second, other) = (limit(8), limit(8), limit(64));
    for limit in [&first, &second, &other] {
        registry.adopt(limit);
    }
    assert!(Arc::ptr_eq(
        first.rules[0].buckets(),
        second.rules[0].buckets()
    ));
    assert!(!Arc::ptr_eq(
        first.rules[0].buckets(),
        other.rules[0].buckets()
    ));
}
