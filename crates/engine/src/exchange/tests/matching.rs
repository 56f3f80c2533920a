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

#[test]
fn conditions_table() {
    let invert = |mut c: HeaderCondition| {
        c.invert = true;
        c
    };
    let without = |mut c: HeaderCondition| {
        (c.invert, c.missing_is_empty) = (true, true);
        c
    };
    let method = |m: &str| Match {
        method: Some(TextCondition::exact(m)),
        ..Match::default()
    };
    let authority = |t: TextCondition| Match {
        authority: Some(t),
        ..Match::default()
    };
    let nocase = TextCondition {
        ignore_case: true,
        ..TextCondition::exact("A")
    };
    let x = [("x", "a")];
    let xx = [("x", "a"), ("x", "b")];
    let at8080 = [("host", "payment:8080")];
    type Row<'a> = (Match, &'a str, &'a [(&'a str, &'a str)], bool);
    let rows: Vec<Row<'_>> = vec![
        (
            path(PathCondition::Exact("/a".into()), false),
            "/a?b",
            &[],
            true,
        ),
        (
            path(PathCondition::Exact("/a".into()), false),
            "/A",
            &[],
            false,
        ),
        (
            path(PathCondition::Exact("/a".into()), true),
            "/A",
            &[],
            true,
        ),
        (
            path(PathCondition::Prefix("/pay".into()), false),
            "/payment",
            &[],
            true,
        ),
        (
            path(PathCondition::Prefix("/PAY".into()), true),
            "/payment",
            &[],
            true,
        ),
        (
            path(PathCondition::separated("/pay").unwrap(), false),
            "/payment",
            &[],
            false,
        ),
        (
            path(PathCondition::separated("/pay/").unwrap(), false),
            "/pay",
            &[],
            true,
        ),
        (
            path(PathCondition::separated("/pay").unwrap(), false),
            "/pay/x",
            &[],
            true,
        ),
        (
            path(PathCondition::separated("/").unwrap(), false),
            "/x",
            &[],
            true,
        ),
        (
            path(
                PathCondition::Regex(Pattern::full("/v[12]/.*").unwrap()),
                false,
            ),
            "/v1/x?y",
            &[],
            true,
        ),
        (
            path(
                PathCondition::Regex(Pattern::full("/v[12]").unwrap()),
                false,
            ),
            "/v1/x",
            &[],
            false,
        ),
        (
            path(PathCondition::Exact("/admin".into()), false),
            "/x/../%61dmin",
            &[],
            true,
        ),
        (with(header("x", is("a"))), "/", &x, true),
        (with(header("X", is("a"))), "/", &x, true),
        (with(header("x", is("A"))), "/", &x, false),
        (with(header("x", HeaderRule::Value(nocase))), "/", &x, true),
        (with(header("x", is("a,b"))), "/", &xx, true),
        (with(header("x", is("a"))), "/", &xx, false),
        (with(header("x", is("a"))), "/", &[], false),
        (with(invert(header("x", is("a")))), "/", &[], false),
        (with(invert(header("x", is("b")))), "/", &x, true),
        (with(without(header("x", is("a")))), "/", &[], true),
        (with(without(header("x", is("a")))), "/", &x, false),
        (with(header("x", HeaderRule::Present)), "/", &x, true),
        (with(header("x", HeaderRule::Present)), "/", &[], false),
        (
            with(invert(header("x", HeaderRule::Present))),
            "/",
            &[],
            true,
        ),
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
        (method("GET"), "/", &[], true),
        (method("POST"), "/", &[], false),
        (
            authority(TextCondition::exact("payment")),
            "/",
            &at8080,
            true,
        ),
        (
            authority(TextCondition::exact("payment:8080")),
            "/",
            &at8080,
            true,
        ),
        (
            authority(TextCondition::exact("payment:81")),
            "/",
            &at8080,
            false,
        ),
        (
            query("a", Some(TextCondition::exact("1"))),
            "/?b=2&a=1",
            &[],
            true,
        ),
        (
            query("a", Some(TextCondition::exact("2"))),
            "/?a=1&a=2",
            &[],
            false,
        ),
        (query("a", Some(TextCondition::exact(""))), "/?a", &[], true),
        (query("a", None), "/?a", &[], true),
        (query("a", None), "/?ab=1", &[], false),
        (query("a", None), "/", &[], false),
        (query("", None), "/?", &[], false),
        (query("a", Some(regex("[0-9]+"))), "/?a=12", &[], true),
    ];
    for (index, (matches, target, headers, want)) in rows.into_iter().enumerate() {
        let world = World::new();
        let request = world.request("GET", target, headers);
        let failing = first_failing(&matches, &request, &world.origin);
        assert_eq!(failing.is_none(), want, "row {index}: {failing:?}");
        let mut world = World::new();
        world.origin.destination = Some(("payment".into(), 80));
        let cluster = world.cluster("a", &[1]);
        world.host(vec![route(
            "r",
            matches,
            Action::Forward(to(vec![cluster])),
        )]);
        let mut request = world.request("GET", target, headers);
        let (_, effect) = world.begin(&mut request);
        if want {
            let _try = tried(effect);
        } else {
            assert_eq!(refused(effect), Reason::NoRoute, "row {index}");
        }
    }
    assert!(PathCondition::separated("pay").is_err());
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
