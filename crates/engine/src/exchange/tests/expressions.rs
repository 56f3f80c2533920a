//! Routes with an expression: which request takes them, and when a body is asked for.

use super::World;
use crate::canonical::Source;
use crate::exchange::{Around, Effect, Exchange, Input, Need};
use crate::model::{Action, Forward, HeaderEdits, Match, PathCondition, Route};
use naka_expr::{Expression, Place, Use};
use std::sync::Arc;
use std::time::Duration;

/// 10:00 in India, a Thursday.
const TEN: Duration = Duration::from_secs(1_795_667_400);

fn expression(source: &str) -> Option<Arc<Expression>> {
    let compiled = Expression::compile(source, Use::Condition, Place::Route);
    Some(Arc::new(compiled.expect(source)))
}

fn route(world: &mut World, name: &str, path: PathCondition, when: Option<&str>) -> Route {
    let cluster = world.cluster(name, &[7000]);
    Route {
        name: name.into(),
        config: None,
        matches: Match {
            path,
            when: when.and_then(expression),
            ..Match::default()
        },
        action: Action::Forward(Forward::new(vec![cluster]).unwrap()),
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        limit: None,
        extras: Default::default(),
    }
}

fn world(when: &str) -> World {
    let mut world = World::new();
    world.around = Around {
        own: Source {
            identity: "spiffe://cluster.local/ns/shop/sa/order".into(),
            workload: "order-1".into(),
            ..Source::default()
        },
        epoch: TEN - world.now,
        ..Around::default()
    };
    let first = route(&mut world, "first", PathCondition::Any, Some(when));
    let rest = route(&mut world, "rest", PathCondition::Any, None);
    world.host(vec![first, rest]);
    world
}

/// Where a request goes, `None` when its body is asked for first.
fn goes(world: &mut World, exchange: &Exchange, effect: &Effect) -> Option<String> {
    match effect {
        Effect::Try(_) => exchange.route().map(|route| route.name.to_string()),
        Effect::Need(Need::Body { limit }) => {
            assert_eq!(*limit, 65536);
            None
        }
        other => panic!("{other:?} {:?}", world.now),
    }
}

#[test]
fn an_expression_narrows_a_route() {
    for (when, want) in [
        ("request.method == 'GET'", "first"),
        ("request.method == 'POST'", "rest"),
        (
            "request.host == 'payment' && request.path == '/pay'",
            "first",
        ),
        ("request.headers['x-tier'] == 'gold'", "first"),
        ("request.headers['x-none'] != 'gold'", "rest"),
        (
            "request.headers['host'] == 'payment' && has(request.headers['host'])",
            "first",
        ),
        ("int(request.headers['x-amount']) > 100", "first"),
        ("int(request.headers['x-two']) > 0", "rest"),
        ("request.headers['x-two'] == '1,2'", "first"),
        ("request.query['q'] == 'a b'", "first"),
        ("request.query['z'] == ''", "first"),
        ("request.query['bad'] == '%'", "rest"),
        ("'none' in request.query", "rest"),
        ("request.scheme == 'http'", "first"),
        ("request.time.getHours('Asia/Kolkata') == 10", "first"),
        ("request.time.getHours('Asia/Kolkata') == 11", "rest"),
        (
            "source.namespace == 'shop' && source.workload == 'order-1'",
            "first",
        ),
        (
            "source.principal == 'cluster.local/ns/shop/sa/order'",
            "first",
        ),
        (
            "source.principal == 'cluster.local/ns/shop/sa/other'",
            "rest",
        ),
        ("source.address == '127.0.0.1'", "rest"),
        (
            "destination.service == 'payment.shop.svc.cluster.local' && destination.port == 80",
            "first",
        ),
        ("destination.namespace == 'shop'", "first"),
    ] {
        let mut world = world(when);
        let headers = [
            ("x-tier", "gold"),
            ("x-amount", "101"),
            ("x-two", "1"),
            ("x-two", "2"),
        ];
        let mut request = world.request("GET", "/pay?q=a+b&z&bad=%zz", &headers);
        let (exchange, effect) = world.begin(&mut request);
        assert_eq!(
            goes(&mut world, &exchange, &effect).as_deref(),
            Some(want),
            "{when}"
        );
    }
}

#[test]
fn a_body_is_asked_for_when_it_decides_and_only_then() {
    let when = "request.path == '/pay' && request.body.amount > 100000";
    for (path, body, want) in [
        ("/pay", Some("{\"amount\": 100001}"), "first"),
        ("/pay", Some("{\"amount\": 100000}"), "rest"),
        ("/pay", Some("{\"amount\": 100001"), "rest"),
        ("/pay", Some("{\"amount\": \"100001\"}"), "rest"),
        ("/pay", Some(""), "rest"),
        ("/pay", None, "rest"),
    ] {
        let mut world = world(when);
        let mut request = world.request("POST", path, &[]);
        let (mut exchange, effect) = world.begin(&mut request);
        assert_eq!(goes(&mut world, &exchange, &effect), None);
        let input = Input::Body(body.map(Into::into));
        let effect = world.step(&mut exchange, &mut request, input);
        assert_eq!(
            goes(&mut world, &exchange, &effect).as_deref(),
            Some(want),
            "{body:?}"
        );
    }
    let mut world = world(when);
    let mut request = world.request("POST", "/other", &[]);
    let (exchange, effect) = world.begin(&mut request);
    assert_eq!(
        goes(&mut world, &exchange, &effect).as_deref(),
        Some("rest")
    );
}

/// An earlier route that holds without the body wins without it; a later one never wins before an earlier is known.
#[test]
fn routes_keep_their_order_around_a_body() {
    let mut world = World::new();
    let early = route(
        &mut world,
        "early",
        PathCondition::Exact("/early".into()),
        None,
    );
    let asks = route(
        &mut world,
        "asks",
        PathCondition::Any,
        Some("request.body.a == 1"),
    );
    let late = route(&mut world, "late", PathCondition::Any, None);
    world.host(vec![early, asks, late]);
    let mut request = world.request("GET", "/early", &[]);
    let (exchange, effect) = world.begin(&mut request);
    assert_eq!(
        goes(&mut world, &exchange, &effect).as_deref(),
        Some("early")
    );
    let mut request = world.request("GET", "/x", &[]);
    let (exchange, effect) = world.begin(&mut request);
    assert_eq!(goes(&mut world, &exchange, &effect), None);
}

#[test]
fn the_trail_shows_the_values() {
    let mut world = world("request.headers['x-tier'] == 'gold'");
    world.trail = Some(Vec::new());
    let mut request = world.request("GET", "/", &[("x-tier", "iron")]);
    world.begin(&mut request);
    let trail: Vec<String> = world
        .trail
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    let wanted = "first does not match: not so: request.headers['x-tier'] == 'gold' (request.headers['x-tier'] is \"iron\")";
    assert!(trail.iter().any(|line| line.contains(wanted)), "{trail:#?}");
}
