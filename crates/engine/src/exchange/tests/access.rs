//! Policy: what is allowed, and what is not known.

use super::World;
use crate::canonical::{Caller, Origin, Source};
use crate::exchange::{Answered, Dial, Effect, Input, Need};
use crate::model::{
    Access, AccessFilter, AccessRule, HeaderCondition, HeaderRule, MtlsMode, Subject, Test,
    TextCondition, TextRule, Verdict,
};
use naka_types::cidr::Cidr;
use naka_types::labels::Labels;
use naka_types::reason::Reason;
use naka_types::workload::Ulid;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const ORDER: &str = "spiffe://cluster.local/ns/default/sa/order";

fn filter(denies: bool, tests: Vec<Test>) -> AccessFilter {
    let rule = |(index, test)| AccessRule {
        name: format!("ns[default]-policy[p]-rule[{index}]").into(),
        test,
    };
    AccessFilter {
        verdict: match denies {
            true => Verdict::Deny,
            false => Verdict::Allow,
        },
        trial: false,
        rules: tests.into_iter().enumerate().map(rule).collect(),
    }
}

fn world(filters: Vec<AccessFilter>) -> World {
    let mut world = World::new();
    let access = Access::new(filters.into());
    world.inbound_under(MtlsMode::Permissive, Some(Arc::new(access)), None);
    world.origin = caller(Some(ORDER));
    world
}

fn caller(identity: Option<&str>) -> Origin {
    let caller = match identity {
        Some(_) => Caller::MeshPeer { xfcc: None },
        None => Caller::Outside,
    };
    let mut origin = Origin::inbound(8080, caller, identity.is_some());
    origin.address = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)));
    origin.source = identity.map(|identity| Source {
        identity: identity.into(),
        workload: "".into(),
        id: None,
    });
    origin
}

fn exact(text: &str) -> TextCondition {
    TextCondition::exact(text)
}

fn header(name: &str, value: &str) -> Test {
    let subject = Subject::parse(name).unwrap();
    Test::Header(HeaderCondition::new(
        subject,
        HeaderRule::Value(exact(value)),
    ))
}

fn not(test: Test) -> Test {
    Test::Not(Box::new(test))
}

fn cidr(text: &str) -> Cidr {
    Cidr::parse(text).unwrap()
}

fn passes(world: &mut World, headers: &[(&str, &str)]) -> bool {
    let mut request = world.request("GET", "/pay", headers);
    verdict(world.begin(&mut request).1)
}

fn bytes_pass(world: &mut World) -> bool {
    verdict(Dial::new().step(Input::Begin, &mut world.cx()))
}

fn verdict(effect: Effect) -> bool {
    match effect {
        Effect::Try(_) => true,
        Effect::Reply(reply) => {
            assert_eq!(reply.reason, Reason::PermissionDenied);
            false
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn deny_comes_first_and_allow_must_match_where_there_is_any() {
    let order = || Test::Identity(Some(exact(ORDER)));
    let other = || Test::Identity(Some(exact("spiffe://cluster.local/ns/default/sa/other")));
    for (filters, passes_as) in [
        (vec![], true),
        (vec![filter(true, vec![])], true),
        (vec![filter(false, vec![])], false),
        (vec![filter(false, vec![order()])], true),
        (vec![filter(false, vec![other()])], false),
        (vec![filter(false, vec![other(), order()])], true),
        (vec![filter(true, vec![order()])], false),
        (vec![filter(true, vec![other()])], true),
        (
            vec![filter(true, vec![order()]), filter(false, vec![order()])],
            false,
        ),
        (
            vec![filter(true, vec![other()]), filter(false, vec![order()])],
            true,
        ),
        (vec![filter(false, vec![Test::Identity(None)])], true),
    ] {
        let mut world = world(filters.clone());
        assert_eq!(passes(&mut world, &[]), passes_as, "{filters:?}");
        assert_eq!(bytes_pass(&mut world), passes_as, "{filters:?}");
    }
}

#[test]
fn a_caller_without_identity_has_none() {
    for (test, passes_as) in [
        (Test::Identity(None), false),
        (not(Test::Identity(None)), true),
        (Test::Identity(Some(exact(""))), false),
        (Test::Always, true),
    ] {
        let mut world = world(vec![filter(false, vec![test.clone()])]);
        world.origin = caller(None);
        assert_eq!(passes(&mut world, &[]), passes_as, "{test:?}");
    }
}

#[test]
fn what_is_not_known_never_allows_and_always_denies() {
    let path = || Test::Path(TextCondition::new(TextRule::Prefix("/pay".into())));
    // Bytes have no path: neither the condition nor its opposite allows, and both deny.
    for test in [
        path(),
        not(path()),
        header("x-a", "1"),
        not(header("x-a", "1")),
    ] {
        let mut allow = world(vec![filter(false, vec![test.clone()])]);
        assert!(!bytes_pass(&mut allow), "{test:?}");
        let mut deny = world(vec![filter(true, vec![test.clone()])]);
        assert!(!bytes_pass(&mut deny), "{test:?}");
    }
    // What decides without it is known.
    let order = || Test::Identity(Some(exact(ORDER)));
    let either = Test::Any(Box::new([path(), order()]));
    assert!(bytes_pass(&mut world(vec![filter(false, vec![either])])));
    let both = Test::All(Box::new([path(), not(order())]));
    assert!(bytes_pass(&mut world(vec![filter(true, vec![both])])));
}

#[test]
fn a_second_value_of_a_header_walks_around_nothing() {
    let good = [("x-role", "admin")];
    let bad = [("x-role", "guest")];
    let two = [("x-role", "admin"), ("x-role", "guest")];
    let same = [("x-role", "admin"), ("x-role", "admin")];
    let none: [(&str, &str); 0] = [];
    let admin = || header("x-role", "admin");
    for (filter, verdicts) in [
        // Sent as:        good   bad    two    same   none
        (
            filter(false, vec![admin()]),
            [true, false, false, true, false],
        ),
        (
            filter(false, vec![not(admin())]),
            [false, true, false, false, true],
        ),
        (
            filter(true, vec![admin()]),
            [false, true, false, false, true],
        ),
        (
            filter(true, vec![not(admin())]),
            [true, false, false, true, false],
        ),
    ] {
        let mut world = world(vec![filter.clone()]);
        for (headers, expected) in [&good[..], &bad, &two, &same, &none].iter().zip(verdicts) {
            assert_eq!(
                passes(&mut world, headers),
                expected,
                "{filter:?} {headers:?}"
            );
        }
    }
}

#[test]
fn addresses_of_the_peer_and_of_the_client_it_tells() {
    let peer = || Test::Peer(cidr("10.0.0.0/8"));
    let client = || Test::Client(cidr("192.0.2.0/24"));
    let told = [("x-forwarded-for", "10.9.9.9, 192.0.2.4")];
    let garbled = [("x-forwarded-for", "somewhere")];
    let nothing: [(&str, &str); 0] = [];
    for (test, identity, headers, passes_as) in [
        (peer(), Some(ORDER), &nothing[..], true),
        (not(peer()), Some(ORDER), &nothing, false),
        (client(), Some(ORDER), &told, true),
        (client(), Some(ORDER), &nothing, false),
        (client(), Some(ORDER), &garbled, false),
        (not(client()), Some(ORDER), &garbled, false),
        // A stranger is believed nothing.
        (client(), None, &told, false),
        (not(client()), None, &told, true),
    ] {
        let mut world = world(vec![filter(false, vec![test.clone()])]);
        world.origin = caller(identity);
        assert_eq!(
            passes(&mut world, headers),
            passes_as,
            "{test:?} {headers:?}"
        );
    }
}

#[test]
fn an_explanation_names_the_rule() {
    let mut world = world(vec![filter(true, vec![Test::Always])]);
    world.trail = Some(Vec::new());
    assert!(!passes(&mut world, &[]));
    let said: Vec<String> = world
        .trail
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    let rule = "denied: a DENY rule matches: ns[default]-policy[p]-rule[0]";
    assert!(said.iter().any(|line| line.contains(rule)), "{said:?}");
}

/// Values of a label: granted, granted with another value, not granted, no record at all, no certificate with an id.
#[test]
fn a_label_is_known_only_where_it_was_granted() {
    let peer = Ulid::new(1, 1);
    let wanted = || Test::Label("tier".into(), exact("gold"));
    let granted = |pairs: &[(&str, &str)]| -> Option<Labels> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Some(pairs.iter().map(own).collect())
    };
    for (labels, id, verdicts) in [
        // Rule:                                 allow  allow not  deny  deny not
        (
            granted(&[("tier", "gold")]),
            Some(peer),
            [true, false, false, true],
        ),
        (
            granted(&[("tier", "tin")]),
            Some(peer),
            [false, true, true, false],
        ),
        (
            granted(&[("team", "a")]),
            Some(peer),
            [false, false, false, false],
        ),
        (granted(&[]), Some(peer), [false, false, false, false]),
        (None, Some(peer), [false, false, false, false]),
        (
            granted(&[("tier", "gold")]),
            None,
            [false, false, false, false],
        ),
    ] {
        let filters = [
            filter(false, vec![wanted()]),
            filter(false, vec![not(wanted())]),
            filter(true, vec![wanted()]),
            filter(true, vec![not(wanted())]),
        ];
        for (filter, passes_as) in filters.into_iter().zip(verdicts) {
            let mut world = world(vec![filter.clone()]);
            if let Some(source) = &mut world.origin.source {
                source.id = id;
            }
            if let Some(labels) = &labels {
                world.builder.put_peer(peer, Arc::new(labels.clone()));
                world.publish();
            }
            let mut request = world.request("GET", "/pay", &[]);
            let (mut exchange, first) = world.begin(&mut request);
            let mut dial = Dial::new();
            let bytes = dial.step(Input::Begin, &mut world.cx());
            let needs =
                |effect: &Effect| matches!(effect, Effect::Need(Need::Peer(id)) if *id == peer);
            let asks = labels.is_none() && id.is_some();
            assert_eq!((needs(&first), needs(&bytes)), (asks, asks), "{filter:?}");
            let (first, bytes) = match asks {
                false => (first, bytes),
                true => (
                    exchange.step(
                        &mut request,
                        Input::Answer(Answered::Ready),
                        &mut world.cx(),
                    ),
                    dial.step(Input::Answer(Answered::Ready), &mut world.cx()),
                ),
            };
            assert_eq!(verdict(first), passes_as, "{filter:?} {labels:?}");
            assert_eq!(verdict(bytes), passes_as, "{filter:?} {labels:?}");
        }
    }
    // Nobody is asked for a record that no rule reads.
    let mut other = world(vec![filter(true, vec![not(Test::Identity(None))])]);
    if let Some(source) = &mut other.origin.source {
        source.id = Some(peer);
    }
    assert!(passes(&mut other, &[]) && bytes_pass(&mut other));
}

/// A record that comes while the request waits for it counts for that request.
#[test]
fn a_record_that_comes_in_time_counts() {
    let peer = Ulid::new(1, 1);
    let mut world = world(vec![filter(
        false,
        vec![Test::Label("tier".into(), exact("gold"))],
    )]);
    if let Some(source) = &mut world.origin.source {
        source.id = Some(peer);
    }
    let mut request = world.request("GET", "/pay", &[]);
    let (mut exchange, first) = world.begin(&mut request);
    assert!(matches!(first, Effect::Need(Need::Peer(_))));
    let labels = [("tier".to_owned(), "gold".to_owned())].into();
    world.builder.put_peer(peer, Arc::new(labels));
    world.publish();
    let next = exchange.step(
        &mut request,
        Input::Answer(Answered::Ready),
        &mut world.cx(),
    );
    assert!(verdict(next));
}

/// Policies on trial and audits change nothing and say what they saw; a rule that refuses is named.
#[test]
fn what_decides_nothing_is_told() {
    let order = || Test::Identity(Some(exact(ORDER)));
    let other = || Test::Identity(Some(exact("spiffe://cluster.local/ns/default/sa/other")));
    let on_trial = |denies, test| AccessFilter {
        trial: true,
        ..filter(denies, vec![test])
    };
    let audit = |test| AccessFilter {
        verdict: Verdict::Audit,
        ..filter(false, vec![test])
    };
    let first = "ns[default]-policy[p]-rule[0]";
    for (tried, refused_by, noticed) in [
        (on_trial(true, order()), None, Some(("would-deny", first))),
        (on_trial(true, other()), None, None),
        (on_trial(false, order()), None, Some(("would-allow", first))),
        (on_trial(false, other()), None, Some(("would-deny", "none"))),
        (audit(order()), None, Some(("audited", first))),
        (audit(other()), None, None),
        // What cannot be known is audited.
        (
            audit(not(Test::Label("a".into(), exact("b")))),
            None,
            Some(("audited", first)),
        ),
        (filter(true, vec![order()]), Some(first), None),
        (filter(false, vec![other()]), Some("none"), None),
        (filter(false, vec![order()]), None, None),
    ] {
        let mut world = world(vec![tried.clone()]);
        let mut request = world.request("GET", "/pay", &[]);
        let (mut exchange, effect) = world.begin(&mut request);
        assert_eq!(verdict(effect), refused_by.is_none(), "{tried:?}");
        let mut dial = Dial::new();
        verdict(dial.step(Input::Begin, &mut world.cx()));
        let judged = exchange.judged();
        assert_eq!(judged, dial.judged(), "{tried:?}");
        let judged = judged.unwrap_or_default();
        assert_eq!(judged.refused_by.as_deref(), refused_by, "{tried:?}");
        let seen = judged.noticed.first().map(|one| (one.outcome, &*one.rule));
        assert_eq!(seen, noticed, "{tried:?}");
    }
}
