//! Names, routes, weights, rewrites, redirects, limits, inbound, TCP.

use super::{World, address, always, refused, route, to, tried};
use crate::canonical::{Caller, Origin};
use crate::exchange::{Answered, Dial, Effect, Exchange, Input, Need, Outcome, Tried};
use crate::model::{
    Action, Direct, HeaderEdits, Match, MtlsMode, PathCondition, PathRewrite, Pattern, Redirect,
};
use http::Version;
use naka_types::reason::Reason;

#[test]
fn the_common_case_tries_at_the_first_step_and_relays_at_the_second() {
    let mut world = World::new();
    let v1 = world.cluster("outbound|80||payment", &[1]);
    world.host(always(to(vec![v1])));
    let mut request = world.request("GET", "/pay", &[]);
    let (mut exchange, effect) = world.begin(&mut request);
    let first = tried(effect);
    assert_eq!((first.endpoint.address, first.attempt), (address(1), 1));
    assert_eq!(first.cluster.runtime.requests(), 1);
    assert_eq!((first.deadline, first.per_try_timeout), (None, None));
    assert!(
        world
            .answered(&mut exchange, &mut request, 200, &[])
            .is_ok()
    );
    let cluster = first.cluster.clone();
    drop(first);
    assert_eq!(cluster.runtime.requests(), 0);
    let after = world.failed(&mut exchange, &mut request, Outcome::Reset);
    assert!(matches!(after, Effect::Done));
}

#[test]
fn an_unknown_name_is_asked_for_once() {
    for (answer, want) in [
        (Answered::Failed(Reason::UnknownHost), Reason::UnknownHost),
        (Answered::Ready, Reason::ConfigUnavailable),
    ] {
        let mut world = World::new();
        let mut request = world.request("GET", "/", &[]);
        let (mut exchange, effect) = world.begin(&mut request);
        let Effect::Need(Need::VirtualHost { host, port }) = effect else {
            panic!("{effect:?}")
        };
        assert_eq!((&*host, port), ("payment", 80));
        let effect = world.step(&mut exchange, &mut request, Input::Answer(answer));
        assert_eq!(refused(effect), want);
    }
    let mut world = World::new();
    let mut request = world.request("GET", "/", &[]);
    let (mut exchange, _) = world.begin(&mut request);
    let cluster = world.cluster("a", &[1]);
    world.host(always(to(vec![cluster])));
    let effect = world.step(&mut exchange, &mut request, Input::Answer(Answered::Ready));
    assert_eq!(tried(effect).endpoint.address, address(1));
}

#[test]
fn a_name_outside_the_mesh_is_passed_through() {
    let mut world = World::new();
    let mut request = world.request("POST", "http://example.com:8000/x", &[]);
    let (mut exchange, _) = world.begin(&mut request);
    let effect = world.step(
        &mut exchange,
        &mut request,
        Input::Answer(Answered::External),
    );
    let Effect::PassThrough(to) = effect else {
        panic!("{effect:?}")
    };
    assert_eq!((&*to.host, to.port), ("example.com", 8000));
    let effect = world.failed(&mut exchange, &mut request, Outcome::Reset);
    assert_eq!(refused(effect), Reason::UpstreamReset);
}

#[test]
fn weights_share_calls_and_zero_gets_none() {
    let mut world = World::new();
    let mut clusters: Vec<_> = [("v1", 1), ("v2", 2), ("v3", 3)]
        .map(|(name, port)| world.cluster(name, &[port]))
        .into();
    for (cluster, weight) in clusters.iter_mut().zip([90, 10, 0]) {
        cluster.weight = weight;
    }
    world.host(always(to(clusters)));
    let mut counts = [0u32; 4];
    for _ in 0..10_000 {
        let mut request = world.request("GET", "/", &[]);
        let (_, effect) = world.begin(&mut request);
        counts[usize::from(tried(effect).endpoint.address.port())] += 1;
    }
    assert_eq!(counts[3], 0);
    let share = f64::from(counts[2]) / 100.0;
    assert!((share - 10.0).abs() < 1.0, "{share} %");
}

#[test]
fn what_cannot_be_called_has_its_reason() {
    let mut world = World::new();
    let gone = world.missing("outbound|80|v9|payment");
    world.host(always(to(vec![gone])));
    let mut request = world.request("GET", "/", &[]);
    assert_eq!(refused(world.begin(&mut request).1), Reason::UnknownCluster);

    let empty = world.cluster("empty", &[]);
    world.host(always(to(vec![empty])));
    let mut request = world.request("GET", "/", &[("content-type", "application/grpc")]);
    let (exchange, effect) = world.begin(&mut request);
    let Effect::Reply(reply) = effect else {
        panic!("{effect:?}")
    };
    assert_eq!(
        (reply.reason, reply.status.as_u16()),
        (Reason::NoHealthyEndpoints, 200)
    );
    assert_eq!(reply.headers["grpc-status"], "14");
    assert!(exchange.cluster().is_some(), "for the record");

    let full = world.cluster_with("full", &[1], |spec| spec.limits.requests = 1);
    world.host(always(to(vec![full])));
    let mut one = world.request("GET", "/", &[]);
    let held = tried(world.begin(&mut one).1);
    let mut two = world.request("GET", "/", &[]);
    assert_eq!(refused(world.begin(&mut two).1), Reason::CircuitOpen);
    drop(held);
    let mut three = world.request("GET", "/", &[]);
    let _ok = tried(world.begin(&mut three).1);

    world.host(vec![]);
    let mut request = world.request("GET", "/", &[]);
    assert_eq!(refused(world.begin(&mut request).1), Reason::NoRoute);
}

#[test]
fn rewrites() {
    let prefix = |new: &str| PathRewrite::Prefix(new.into());
    let regex = PathRewrite::Regex {
        pattern: Pattern::search("^/v([0-9])").unwrap(),
        substitution: r"/api/\1".into(),
    };
    for (matched, rewrite, target, want) in [
        (
            PathCondition::Prefix("/api".into()),
            prefix("/"),
            "/api/x?q=1",
            "//x?q=1",
        ),
        (
            PathCondition::Prefix("/api/".into()),
            prefix("/"),
            "/api/x",
            "/x",
        ),
        (
            PathCondition::Prefix("/api".into()),
            prefix("/v2"),
            "/api/x",
            "/v2/x",
        ),
        (
            PathCondition::separated("/api").unwrap(),
            prefix("/v2"),
            "/api",
            "/v2",
        ),
        (PathCondition::Any, prefix("/v2/"), "/x", "/v2/x"),
        (
            PathCondition::Exact("/a".into()),
            prefix("/b"),
            "/a?c",
            "/b?c",
        ),
        (
            PathCondition::Any,
            PathRewrite::Full("/z".into()),
            "/a/b?c",
            "/z?c",
        ),
        (PathCondition::Any, regex, "/v2/pay", "/api/2/pay"),
        (
            PathCondition::Prefix("/a".into()),
            prefix("/b/../c"),
            "/a/x",
            "/c/x",
        ),
        (
            PathCondition::Any,
            PathRewrite::Full("no-slash".into()),
            "/",
            "/no-slash",
        ),
    ] {
        let mut world = World::new();
        let cluster = world.cluster("a", &[1]);
        let mut forward = to(vec![cluster]);
        forward.path_rewrite = Some(rewrite);
        forward.host_rewrite = Some("Other.Example:81".parse().unwrap());
        let matches = Match {
            path: matched,
            ..Match::default()
        };
        world.host(vec![route("r", matches, Action::Forward(forward))]);
        let mut request = world.request("GET", target, &[]);
        let _try = tried(world.begin(&mut request).1);
        assert_eq!(request.target(), want, "{target}");
        let head = request.head(Version::HTTP_11);
        assert_eq!(head.headers()["host"], "other.example:81");
    }
}

#[test]
fn redirects_and_direct_responses() {
    for (target, change, want) in [
        ("/a?b", Redirect::new(301).unwrap(), "http://payment/a?b"),
        (
            "http://payment:80/a?b",
            Redirect {
                scheme: Some("https".into()),
                ..Redirect::new(308).unwrap()
            },
            "https://payment/a?b",
        ),
        (
            "/a?b",
            Redirect {
                host: Some("new.example".into()),
                port: Some(8443),
                path: Some(PathRewrite::Full("/z".into())),
                strip_query: true,
                ..Redirect::new(302).unwrap()
            },
            "http://new.example:8443/z",
        ),
    ] {
        let mut world = World::new();
        world.host(vec![route(
            "r",
            Match::default(),
            Action::Redirect(change.clone()),
        )]);
        let mut request = world.request("GET", target, &[]);
        let (_, effect) = world.begin(&mut request);
        let Effect::Reply(reply) = effect else {
            panic!("{effect:?}")
        };
        assert_eq!(
            (reply.reason, reply.status),
            (Reason::Redirect, change.status)
        );
        assert_eq!(reply.headers["location"], want);
        assert!(!reply.closes());
    }
    let mut world = World::new();
    let direct = Direct::new(418, "short and stout".into()).unwrap();
    let mut r = route("r", Match::default(), Action::Direct(direct));
    r.response_headers = HeaderEdits::new([("x-pot", "tea")], [], []).unwrap();
    world.host(vec![r]);
    let mut request = world.request("GET", "/", &[]);
    let (_, effect) = world.begin(&mut request);
    let Effect::Reply(reply) = effect else {
        panic!("{effect:?}")
    };
    assert_eq!(
        (reply.status.as_u16(), &reply.body[..]),
        (418, &b"short and stout"[..])
    );
    assert_eq!(reply.headers["x-pot"], "tea");
    assert!(Redirect::new(200).is_err() && Direct::new(101, "".into()).is_err());
}

/// The caller's port belongs to the caller's host and scheme; the one that the scheme means is not written.
#[test]
fn a_redirect_says_no_more_than_it_has_to() {
    let same = || Redirect::new(301).unwrap();
    let scheme = |scheme: &str| Redirect {
        scheme: Some(scheme.into()),
        ..same()
    };
    let elsewhere = || Redirect {
        host: Some("new.example".into()),
        ..same()
    };
    let port = |port| Redirect {
        port: Some(port),
        ..same()
    };
    let path = |path: &str| Redirect {
        path: Some(PathRewrite::Full(path.into())),
        ..same()
    };
    let host = "payment.shop.svc.cluster.local";
    for (tls, own, target, change, want) in [
        (false, "", "/a", same(), "http://HOST/a"),
        (true, "", "/a", same(), "https://HOST/a"),
        (false, ":80", "/a", same(), "http://HOST/a"),
        (false, ":443", "/a", same(), "http://HOST:443/a"),
        (true, ":443", "/a", same(), "https://HOST/a"),
        (true, ":80", "/a", same(), "https://HOST:80/a"),
        (false, ":31000", "/a", same(), "http://HOST:31000/a"),
        (false, ":31000", "/a", scheme("http"), "http://HOST:31000/a"),
        (false, ":31000", "/a", scheme("https"), "https://HOST/a"),
        (true, ":31000", "/a", scheme("http"), "http://HOST/a"),
        (false, ":31000", "/a", elsewhere(), "http://new.example/a"),
        (false, ":31000", "/a", port(80), "http://HOST:80/a"),
        (false, "", "/a?b", path("c"), "http://HOST/c?b"),
        (false, "", "/a?b", path("/c?d"), "http://HOST/c?d"),
        (
            false,
            "",
            "/a?b",
            Redirect {
                strip_query: true,
                ..same()
            },
            "http://HOST/a",
        ),
    ] {
        let mut world = World::new();
        let action = Action::Redirect(change.clone());
        world.host(vec![route("r", Match::default(), action)]);
        world.origin = Origin::gateway(80, tls, None);
        let mut request = world.request("GET", target, &[("host", &format!("{host}{own}"))]);
        let (_, effect) = world.begin(&mut request);
        let Effect::Reply(reply) = effect else {
            panic!("{effect:?}")
        };
        let want = want.replace("HOST", host);
        assert_eq!(reply.headers["location"], want, "{own} {target} {change:?}");
        assert!(reply.body.is_empty() && !reply.headers.contains_key("content-type"));
    }
}

#[test]
fn inbound_calls_need_a_mesh_identity_when_strict() {
    let peer = || Caller::MeshPeer { xfcc: None };
    for (mode, caller, allowed) in [
        (MtlsMode::Strict, peer(), true),
        (MtlsMode::Strict, Caller::Outside, false),
        (MtlsMode::Strict, Caller::OwnProgram, false),
        (MtlsMode::Permissive, Caller::Outside, true),
        (MtlsMode::Permissive, peer(), true),
        (MtlsMode::Disable, Caller::Outside, true),
    ] {
        let mut world = World::new();
        world.inbound(mode);
        world.origin = Origin::inbound(8080, caller.clone(), true);
        let mut request = world.request("GET", "/", &[]);
        let (mut exchange, effect) = world.begin(&mut request);
        if !allowed {
            assert_eq!(refused(effect), Reason::MtlsRequired);
            continue;
        }
        assert_eq!(tried(effect).endpoint.address, address(8080));
        // The program's own failure is passed on, never repeated.
        assert!(
            world
                .answered(&mut exchange, &mut request, 503, &[])
                .is_ok()
        );
        let mut dial = Dial::new();
        let effect = dial.step(Input::Begin, &mut world.cx());
        assert_eq!(tried(effect).endpoint.address, address(8080));
    }
    let mut world = World::new();
    world.inbound(MtlsMode::Strict);
    world.origin = Origin::inbound(9999, peer(), true);
    let mut request = world.request("GET", "/", &[]);
    assert_eq!(refused(world.begin(&mut request).1), Reason::NoRoute);
}

#[test]
fn a_gateway_never_asks_for_names_and_answers_for_its_listener_port() {
    let mut world = World::new();
    let cluster = world.cluster("a", &[1]);
    world.host(always(to(vec![cluster])));
    world.origin = Origin::gateway(80, false, None);
    let mut request = world.request(
        "GET",
        "/",
        &[("host", "payment.shop.svc.cluster.local:31000")],
    );
    let _try = tried(world.begin(&mut request).1);
    let mut request = world.request("GET", "/", &[("host", "unknown")]);
    let (_, effect) = world.begin(&mut request);
    let Effect::Reply(reply) = effect else {
        panic!("{effect:?}")
    };
    assert_eq!(reply.status.as_u16(), 404);
    assert!(
        !reply.headers.contains_key("x-naka-reason"),
        "nothing of the mesh leaves"
    );
}

#[test]
fn tcp_follows_the_catch_all_route_and_tries_other_endpoints() {
    let mut world = World::new();
    let cluster = world.cluster("tcp", &[1, 2]);
    world.host(always(to(vec![cluster])));
    world.origin.destination = Some(("payment".into(), 80));
    let mut dial = Dial::new();
    let mut effect = dial.step(Input::Begin, &mut world.cx());
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(tried(effect).endpoint.address);
        let outcome = Outcome::ConnectFailed;
        effect = dial.step(
            Input::Tried(Tried {
                outcome,
                replayable: true,
            }),
            &mut world.cx(),
        );
    }
    assert_eq!(refused(effect), Reason::ConnectFailed);
    assert!(seen[0] != seen[1] && seen[1] != seen[2], "{seen:?}");

    world.origin.destination = Some(("nobody".into(), 80));
    let mut dial = Dial::new();
    assert!(matches!(
        dial.step(Input::Begin, &mut world.cx()),
        Effect::Need(_)
    ));
    let answer = Input::Answer(Answered::Ready);
    assert_eq!(
        refused(dial.step(answer, &mut world.cx())),
        Reason::ConfigUnavailable
    );
}

#[test]
fn an_input_out_of_turn_ends_the_exchange() {
    let mut world = World::new();
    let mut request = world.request("GET", "/", &[]);
    let mut exchange = Exchange::new();
    let effect = world.step(&mut exchange, &mut request, Input::TimerFired);
    assert_eq!(refused(effect), Reason::Internal);
    let effect = world.step(&mut exchange, &mut request, Input::Begin);
    assert!(matches!(effect, Effect::Done));
}

#[test]
fn the_trail_names_host_failed_conditions_weights_and_endpoints() {
    let mut world = World::new();
    let clusters = vec![world.cluster("v1", &[1]), world.cluster("v2", &[2])];
    let path = PathCondition::Exact("/only".into());
    let narrow = Match {
        path,
        ..Match::default()
    };
    let mut routes = vec![route(
        "narrow",
        narrow,
        Action::Forward(to(clusters.clone())),
    )];
    routes.extend(always(to(clusters)));
    world.host(routes);
    world.trail = Some(Vec::new());
    let mut request = world.request("GET", "/pay", &[]);
    let _try = tried(world.begin(&mut request).1);
    let lines: Vec<_> = world
        .trail
        .take()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert!(lines[0].contains("80/payment.shop.svc.cluster.local:80"));
    assert!(
        lines[1].contains(r#"path = "/only" (it is "/pay")"#),
        "{}",
        lines[1]
    );
    assert!(lines[2].contains("always matches") && lines[3].contains("v1=1, v2=1"));
    assert!(lines[4].contains("127.0.0.1:") && lines[4].contains("healthy"));
}
