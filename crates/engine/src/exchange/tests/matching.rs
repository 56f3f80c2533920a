//! Conditions: a table, and an oracle of plain lines beside the matcher.

use super::{World, refused, route, to, tried};
use crate::exchange::first_failing;
use crate::model::{
    Action, HeaderCondition, HeaderRule, Match, PathCondition, Pattern, QueryCondition, Subject,
    TextCondition, TextRule,
};
use naka_types::reason::Reason;
use proptest::prelude::{Strategy, any, prop, proptest};

fn header(name: &str, rule: HeaderRule) -> HeaderCondition {
    HeaderCondition::new(Subject::parse(name).unwrap(), rule)
}

fn is(text: &str) -> HeaderRule {
    HeaderRule::Value(TextCondition::exact(text))
}

fn regex(text: &str) -> TextCondition {
    TextCondition::new(TextRule::Regex(Pattern::full(text).unwrap()))
}

fn with(header: HeaderCondition) -> Match {
    Match {
        headers: Box::new([header]),
        ..Match::default()
    }
}

fn path(path: PathCondition, ignore_case: bool) -> Match {
    Match {
        path,
        ignore_case,
        ..Match::default()
    }
}

fn query(name: &str, value: Option<TextCondition>) -> Match {
    let query = Box::new([QueryCondition {
        name: name.into(),
        value,
    }]);
    Match {
        query,
        ..Match::default()
    }
}

type Row<'a> = (Match, &'a str, &'a [(&'a str, &'a str)], bool);

/// Each row: conditions, target, headers, whether they hold; asked of the words and of the whole machine.
#[track_caller]
fn check(rows: Vec<Row<'_>>) {
    for (index, (matches, target, headers, want)) in rows.into_iter().enumerate() {
        let mut world = World::new();
        world.origin.destination = Some(("payment".into(), 80));
        let cluster = world.cluster("a", &[1]);
        let mut request = world.request("GET", target, headers);
        let failing = first_failing(&matches, &request, &world.origin);
        assert_eq!(failing.is_none(), want, "row {index}: {failing:?}");
        let action = Action::Forward(to(vec![cluster]));
        world.host(vec![route("r", matches, action)]);
        let (_, effect) = world.begin(&mut request);
        if want {
            let _try = tried(effect);
        } else {
            assert_eq!(refused(effect), Reason::NoRoute, "row {index}");
        }
    }
}

#[test]
fn conditions_on_the_path() {
    let exact = |text: &str, case| path(PathCondition::Exact(text.into()), case);
    let prefix = |text: &str, case| path(PathCondition::Prefix(text.into()), case);
    let under = |text: &str| path(PathCondition::separated(text).unwrap(), false);
    let pattern = |text: &str| path(PathCondition::Regex(Pattern::full(text).unwrap()), false);
    check(vec![
        (exact("/a", false), "/a?b", &[], true),
        (exact("/a", false), "/A", &[], false),
        (exact("/a", true), "/A", &[], true),
        (exact("/admin", false), "/x/../%61dmin", &[], true),
        (prefix("/pay", false), "/payment", &[], true),
        (prefix("/PAY", true), "/payment", &[], true),
        (prefix("/PAY", false), "/payment", &[], false),
        (under("/pay"), "/payment", &[], false),
        (under("/pay/"), "/pay", &[], true),
        (under("/pay"), "/pay/x", &[], true),
        (under("/"), "/x", &[], true),
        (pattern("/v[12]/.*"), "/v1/x?y", &[], true),
        (pattern("/v[12]"), "/v1/x", &[], false),
    ]);
    assert!(PathCondition::separated("pay").is_err());
}

#[test]
fn conditions_on_headers() {
    let invert = |mut c: HeaderCondition| {
        c.invert = true;
        with(c)
    };
    let without = |mut c: HeaderCondition| {
        (c.invert, c.missing_is_empty) = (true, true);
        with(c)
    };
    let a = || header("x", is("a"));
    let present = || header("x", HeaderRule::Present);
    let nocase = TextCondition {
        ignore_case: true,
        ..TextCondition::exact("A")
    };
    let x = [("x", "a")];
    let xx = [("x", "a"), ("x", "b")];
    check(vec![
        (with(a()), "/", &x, true),
        (with(header("X", is("a"))), "/", &x, true),
        (with(header("x", is("A"))), "/", &x, false),
        (with(header("x", HeaderRule::Value(nocase))), "/", &x, true),
        (with(header("x", is("a,b"))), "/", &xx, true),
        (with(a()), "/", &xx, false),
        (with(a()), "/", &[], false),
        (invert(a()), "/", &[], false),
        (invert(header("x", is("b"))), "/", &x, true),
        (without(a()), "/", &[], true),
        (without(a()), "/", &x, false),
        (with(present()), "/", &x, true),
        (with(present()), "/", &[], false),
        (invert(present()), "/", &[], true),
        (
            with(header("x", HeaderRule::Value(regex("a|b")))),
            "/",
            &x,
            true,
        ),
        (
            with(header("x", HeaderRule::Value(regex("a")))),
            "/",
            &xx,
            false,
        ),
        (with(header(":method", is("GET"))), "/", &[], true),
        (with(header(":path", is("/a?b"))), "/a?b", &[], true),
        (with(header(":scheme", is("http"))), "/", &[], true),
        (with(header(":authority", is("payment"))), "/", &[], true),
    ]);
}

#[test]
fn conditions_on_method_authority_and_query() {
    let method = |m: &str| Match {
        method: Some(TextCondition::exact(m)),
        ..Match::default()
    };
    let authority = |text: &str| Match {
        authority: Some(TextCondition::exact(text)),
        ..Match::default()
    };
    let value = |text: &str| Some(TextCondition::exact(text));
    let at8080 = [("host", "payment:8080")];
    check(vec![
        (method("GET"), "/", &[], true),
        (method("POST"), "/", &[], false),
        (authority("payment"), "/", &at8080, true),
        (authority("payment:8080"), "/", &at8080, true),
        (authority("payment:81"), "/", &at8080, false),
        (query("a", value("1")), "/?b=2&a=1", &[], true),
        (query("a", value("2")), "/?a=1&a=2", &[], false),
        (query("a", value("")), "/?a", &[], true),
        (query("a", None), "/?a", &[], true),
        (query("a", None), "/?ab=1", &[], false),
        (query("a", None), "/", &[], false),
        (query("", None), "/?", &[], false),
        (query("a", Some(regex("[0-9]+"))), "/?a=12", &[], true),
    ]);
}

/// What the conditions mean, written as plainly as can be.
fn oracle(rule: &TextRule, text: &str) -> bool {
    match rule {
        TextRule::Exact(want) => text == &**want,
        TextRule::Prefix(want) => text.starts_with(&**want),
        TextRule::Suffix(want) => text.ends_with(&**want),
        TextRule::Contains(want) => text.contains(&**want),
        TextRule::Regex(pattern) => {
            // Only patterns of the form `x*y` are drawn.
            let body = pattern.as_str();
            let (star, end) = body.split_once('*').unwrap();
            text.strip_suffix(end)
                .is_some_and(|rest| rest.chars().all(|c| star.starts_with(c)))
        }
    }
}

fn rules() -> impl Strategy<Value = TextRule> {
    ("[ab]{0,3}", 0..5).prop_map(|(text, kind)| match kind {
        0 => TextRule::Exact(text.into()),
        1 => TextRule::Prefix(text.into()),
        2 => TextRule::Suffix(text.into()),
        3 => TextRule::Contains(text.into()),
        _ => TextRule::Regex(Pattern::full(&format!("a*{text}")).unwrap()),
    })
}

proptest! {
    #[test]
    fn text_conditions_agree_with_the_oracle(rule in rules(), text in "[abAB]{0,5}", ignore_case: bool) {
        let regex = matches!(rule, TextRule::Regex(_));
        let want = if ignore_case && !regex {
            oracle(&rule, &text.to_ascii_lowercase())
        } else {
            oracle(&rule, &text)
        };
        let condition = TextCondition { rule, ignore_case };
        assert_eq!(condition.holds(text.as_bytes()), want, "{condition} on {text}");
    }

    #[test]
    fn the_first_route_that_matches_wins(
        rules in prop::collection::vec((rules(), any::<bool>()), 1..6), value in prop::option::of("[ab]{0,4}"),
    ) {
        let mut world = World::new();
        let mut routes = Vec::new();
        let mut want = None;
        for (index, (rule, invert)) in rules.iter().enumerate() {
            let port = u16::try_from(index + 1).unwrap();
            let cluster = world.cluster(&format!("c{index}"), &[port]);
            let mut condition = header("x", HeaderRule::Value(TextCondition::new(rule.clone())));
            condition.invert = *invert;
            if want.is_none() && value.as_deref().is_some_and(|v| oracle(rule, v) != *invert) {
                want = Some(port);
            }
            routes.push(route("r", with(condition), Action::Forward(to(vec![cluster]))));
        }
        world.host(routes);
        let headers: Vec<_> = value.iter().map(|v| ("x", v.as_str())).collect();
        let mut request = world.request("GET", "/", &headers);
        let (_, effect) = world.begin(&mut request);
        match want {
            Some(port) => assert_eq!(tried(effect).endpoint.address.port(), port),
            None => assert_eq!(refused(effect), Reason::NoRoute),
        }
    }
}
