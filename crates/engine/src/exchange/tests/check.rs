//! Requests that somebody else decides about: who is asked what, and what each answer does.

use super::{World, refused, tried};
use crate::canonical::{Caller, Canonical, Origin};
use crate::exchange::{Changes, Checked, Denial, Dial, Effect, Exchange, How, Input, Need};
use crate::model::{
    Access, AccessFilter, AccessRule, Asks, Authorizer, Check, HttpCheck, MtlsMode, Test,
    TextCondition, TextRule, Verdict,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use naka_types::reason::Reason;
use std::sync::Arc;
use std::time::Duration;

fn names(all: &[&str]) -> Box<[TextCondition]> {
    let one = |text: &&str| match text.strip_suffix('*') {
        Some(begin) => TextCondition::new(TextRule::Prefix(begin.into())),
        None => TextCondition::exact(text),
    };
    all.iter().map(one).collect()
}

fn rule(name: &str, path: &str) -> AccessRule {
    AccessRule {
        name: name.into(),
        test: Test::Path(TextCondition::new(TextRule::Prefix(path.into()))),
    }
}

/// Asks `authz` about paths that begin with `/pay`; a DENY rule refuses `/pay/never`.
fn world(change: impl FnOnce(&mut Authorizer)) -> World {
    let mut world = World::new();
    let cluster = world.cluster("outbound|80||authz", &[9000]);
    let mut authorizer = Authorizer {
        cluster: cluster.cluster,
        name: cluster.name,
        timeout: Duration::from_secs(1),
        fail_open: false,
        status_on_error: StatusCode::FORBIDDEN,
        body: None,
        asks: Asks::Http(Box::default()),
    };
    change(&mut authorizer);
    let never = AccessFilter {
        verdict: Verdict::Deny,
        trial: false,
        rules: Box::new([rule("never", "/pay/never")]),
    };
    let access = Access::new(Box::new([never])).checked(Some(Check {
        rules: Box::new([rule("asked", "/pay")]),
        authorizer: Arc::new(authorizer),
    }));
    world.inbound_under(MtlsMode::Permissive, Some(Arc::new(access)), None);
    world.origin = Origin::inbound(8080, Caller::MeshPeer { xfcc: None }, true);
    world
}

fn asks(world: &mut World, target: &str, headers: &[(&str, &str)]) -> (Canonical, Exchange) {
    let mut request = world.request("GET", target, headers);
    let (exchange, effect) = world.begin(&mut request);
    assert!(matches!(effect, Effect::Need(Need::Check)), "{effect:?}");
    (request, exchange)
}

fn after(world: &mut World, target: &str, checked: Checked) -> Effect {
    let (mut request, mut exchange) = asks(world, target, &[]);
    world.step(&mut exchange, &mut request, Input::Checked(checked))
}

fn unanswered() -> Checked {
    Checked::Unanswered("no".into())
}

#[test]
fn what_matches_is_asked_about_and_the_answer_decides_before_rules_do() {
    let mut world = world(|_| ());
    let mut other = world.request("GET", "/open", &[]);
    assert!(matches!(world.begin(&mut other).1, Effect::Try(_)));
    let (_, exchange) = asks(&mut world, "/pay", &[]);
    let call = exchange.authorizer(&mut world.cx()).unwrap();
    assert_eq!(&**call.cluster.name(), "outbound|80||authz");
    let allowed = || Checked::Allowed(Box::default());
    assert!(matches!(
        after(&mut world, "/pay", allowed()),
        Effect::Try(_)
    ));
    // Who is asked cannot let in what a rule refuses.
    let never = after(&mut world, "/pay/never", allowed());
    assert_eq!(refused(never), Reason::PermissionDenied);
    for (checked, reason) in [
        (unanswered(), Reason::ExternalUnavailable),
        (Checked::TooLong, Reason::BodyTooLarge),
        (Checked::Late, Reason::BadRequest),
    ] {
        assert_eq!(refused(after(&mut world, "/pay", checked)), reason);
    }
}

#[test]
fn no_answer_passes_only_where_it_is_to_and_a_missing_body_never() {
    let mut world = world(|authorizer| authorizer.fail_open = true);
    let (mut request, mut exchange) = asks(&mut world, "/pay", &[]);
    let input = Input::Checked(unanswered());
    tried(world.step(&mut exchange, &mut request, input));
    let judged = exchange.judged().unwrap();
    assert_eq!(judged.noticed[0].outcome, "unanswered");
    assert_eq!(&*judged.noticed[0].rule, "asked");
    let never = after(&mut world, "/pay/never", unanswered());
    assert_eq!(refused(never), Reason::PermissionDenied);
    for (checked, reason) in [
        (Checked::TooLong, Reason::BodyTooLarge),
        (Checked::Late, Reason::BadRequest),
    ] {
        assert_eq!(refused(after(&mut world, "/pay", checked)), reason);
    }
}

#[test]
fn a_refusal_says_what_they_say_and_an_error_what_is_set_for_it() {
    let mut world = world(|authorizer| authorizer.status_on_error = StatusCode::BAD_GATEWAY);
    let denial = || {
        let mut headers = HeaderMap::new();
        headers.insert("x-why", HeaderValue::from_static("because"));
        Checked::Denied(Box::new(Denial {
            status: StatusCode::UNAUTHORIZED,
            headers,
            body: Bytes::from_static(b"no 100%"),
        }))
    };
    let Effect::Reply(reply) = after(&mut world, "/pay", denial()) else {
        panic!("it is refused");
    };
    assert_eq!(
        (reply.reason, reply.status.as_u16()),
        (Reason::ExternalDenied, 401)
    );
    assert_eq!(
        (&reply.body[..], &reply.headers["x-why"] == "because"),
        (&b"no 100%"[..], true)
    );
    assert_eq!(reply.headers["x-naka-reason"], "external-denied");
    assert!(!reply.headers.contains_key("content-type"));
    let Effect::Reply(reply) = after(&mut world, "/pay", unanswered()) else {
        panic!("it is refused");
    };
    assert_eq!(reply.status, 502);
    // gRPC has a status of its own for each.
    let grpc = [("content-type", "application/grpc")];
    for (checked, status) in [(denial(), "16"), (unanswered(), "14")] {
        let (mut request, mut exchange) = asks(&mut world, "/pay", &grpc);
        let effect = world.step(&mut exchange, &mut request, Input::Checked(checked));
        let Effect::Reply(reply) = effect else {
            panic!("it is refused");
        };
        assert_eq!((reply.status.as_u16(), reply.body.len()), (200, 0));
        assert_eq!(reply.headers["grpc-status"], status);
        if status == "16" {
            assert_eq!(reply.headers["grpc-message"], "no 100%25");
        }
    }
}

#[test]
fn an_answer_changes_request_and_response_but_not_what_is_the_meshs() {
    let mut world = world(|_| ());
    let edit = |name: &'static str, value: &'static str, how| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
            how,
        )
    };
    let changes = Changes {
        remove: vec![HeaderName::from_static("x-old"), http::header::HOST],
        request: vec![
            edit("x-user", "alice", How::Set),
            edit("x-user", "more", How::Add),
            edit("x-none", "a", How::AddToOthers),
            edit("x-naka-reason", "forged", How::Set),
            edit("content-length", "9", How::Set),
        ],
        response: vec![edit("x-checked", "yes", How::Add)],
        query_remove: vec!["b".to_owned()],
        query_set: vec![("c".to_owned(), "x&y".to_owned())],
    };
    let headers = [("x-user", "root"), ("x-user", "toor"), ("x-old", "1")];
    let (mut request, mut exchange) = asks(&mut world, "/pay?a=1&b=2&c=3", &headers);
    let input = Input::Checked(Checked::Allowed(Box::new(changes)));
    tried(world.step(&mut exchange, &mut request, input));
    let users: Vec<_> = request.headers().get_all("x-user").iter().collect();
    assert_eq!(users, ["alice", "more"]);
    for gone in ["x-old", "x-none", "x-naka-reason", "content-length"] {
        assert!(!request.headers().contains_key(gone), "{gone}");
    }
    assert_eq!(
        (request.target(), request.host()),
        ("/pay?a=1&c=x%26y", "payment")
    );
    let answer = world.answered(&mut exchange, &mut request, 200, &[("x-checked", "no")]);
    let all = answer.unwrap();
    let all: Vec<_> = all.get_all("x-checked").iter().collect();
    assert_eq!(all, ["no", "yes"]);
}

#[test]
fn nobody_is_asked_about_a_question_nor_about_bytes() {
    let mut world = world(|authorizer| authorizer.fail_open = true);
    let mut request = world.request("GET", "/pay", &[("x-naka-check", "1")]);
    let (_, effect) = world.begin(&mut request);
    assert_eq!(refused(effect), Reason::ExternalUnavailable);
    // A stranger cannot say that it is one.
    world.origin = Origin::inbound(8080, Caller::Outside, false);
    asks(&mut world, "/pay", &[("x-naka-check", "1")]);
    let mut dial = Dial::new();
    let effect = dial.step(Input::Begin, &mut world.cx());
    assert_eq!(refused(effect), Reason::PermissionDenied);
}

#[test]
fn a_question_tells_what_it_is_to_every_value_of_it_and_nothing_else() {
    let check = HttpCheck {
        path_prefix: "/check".into(),
        request_headers: names(&["x-told", "x-b*", "content-length", "x-naka-check"]),
        added: Box::new([(
            HeaderName::from_static("x-mesh"),
            HeaderValue::from_static("naka"),
        )]),
        ..HttpCheck::default()
    };
    let world = world(|_| ());
    let request = world.request(
        "POST",
        "/pay/1?x=2",
        &[
            ("x-told", "1"),
            ("x-told", "2"),
            ("x-bee", "3"),
            ("x-secret", "4"),
            ("x-mesh", "forged"),
            ("authorization", "basic"),
            ("content-length", "7"),
        ],
    );
    let head = check.question(&request, None).unwrap();
    assert_eq!(
        (head.method().as_str(), head.uri().to_string()),
        ("POST", "/check/pay/1?x=2".to_owned())
    );
    let headers = head.headers();
    let told: Vec<_> = headers.get_all("x-told").iter().collect();
    assert_eq!(told, ["1", "2"]);
    for (name, value) in [
        ("host", Some("payment")),
        ("x-bee", Some("3")),
        ("x-secret", None),
        ("x-mesh", Some("naka")),
        ("authorization", Some("basic")),
        ("content-length", Some("0")),
        ("x-naka-check", Some("1")),
        ("x-envoy-auth-partial-body", None),
    ] {
        let found = headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(found, value, "{name}");
    }
    let with_body = check.question(&request, Some(true)).unwrap();
    assert_eq!(with_body.headers()["x-envoy-auth-partial-body"], "true");
    assert!(!with_body.headers().contains_key("content-length"));
}

#[test]
fn only_200_lets_a_request_pass_and_an_error_is_no_answer() {
    let check = HttpCheck {
        upstream_on_allow: names(&["x-user", "host", "x-naka-reason"]),
        downstream_on_deny: names(&["x-why"]),
        downstream_on_allow: names(&["set-cookie"]),
        ..HttpCheck::default()
    };
    let answer = |check: &HttpCheck, status: u16| {
        let response = Response::builder()
            .status(status)
            .header("x-user", "a")
            .header("x-user", "b")
            .header("x-why", "c")
            .header("x-other", "d")
            .header("set-cookie", "e")
            .header("location", "/f")
            .header("x-naka-reason", "g")
            .header("x-envoy-auth-headers-to-remove", "x-one, x-two");
        let head = response.body(()).unwrap().into_parts().0;
        check.answer(head, Bytes::from_static(b"text"))
    };
    let Checked::Allowed(changes) = answer(&check, 200) else {
        panic!("it passes");
    };
    let on: Vec<_> = changes
        .request
        .iter()
        .map(|(name, value, how)| (name.as_str(), value.to_str().unwrap(), *how))
        .filter(|(name, ..)| *name != "x-naka-reason")
        .collect();
    assert_eq!(on, [("x-user", "a", How::Set), ("x-user", "b", How::Add)]);
    assert_eq!(changes.remove, ["x-one", "x-two"]);
    assert_eq!(changes.response.len(), 1);
    for status in [201, 204, 302, 401, 403] {
        let Checked::Denied(denial) = answer(&check, status) else {
            panic!("{status} refuses");
        };
        assert_eq!(denial.status.as_u16(), status);
        let mut told: Vec<&str> = denial.headers.keys().map(HeaderName::as_str).collect();
        told.sort_unstable();
        assert_eq!(told, ["location", "x-why"], "{status}");
        assert_eq!(denial.body, "text");
    }
    let Checked::Denied(all) = answer(&HttpCheck::default(), 403) else {
        panic!("it refuses");
    };
    assert!(all.headers.contains_key("x-other") && !all.headers.contains_key("x-naka-reason"));
    for status in [101, 500, 503, 999] {
        assert!(
            matches!(answer(&check, status), Checked::Unanswered(_)),
            "{status}"
        );
    }
}
