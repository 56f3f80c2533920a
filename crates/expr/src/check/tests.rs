//! Expressions with what they are, and with what is wrong with them.

use super::{Expression, Place, Use};
use crate::attribute::Text;
use crate::eval::{Body, Missing, Value, Values};
use http::HeaderName;
use std::borrow::Cow;
use std::time::Duration;

/// 2026-11-26T04:30:00Z, a Thursday: 10:00 in India.
const NOW: Duration = Duration::from_secs(1_795_667_400);

struct Request<'a> {
    headers: &'a [(&'a str, &'a str)],
    body: Body<'a>,
}

impl Values for Request<'_> {
    fn text(&self, which: Text) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(match which {
            Text::Method => "POST",
            Text::Scheme => "http",
            Text::Host => "payment",
            Text::Path => "/pay/new",
            Text::SourceNamespace => "shop",
            Text::SourcePrincipal => "cluster.local/ns/shop/sa/order",
            _ => return None,
        }))
    }

    fn header(&self, name: &HeaderName) -> Option<Cow<'_, str>> {
        let found = self.headers.iter().find(|(known, _)| known == name)?;
        Some(Cow::Borrowed(found.1))
    }

    fn has_header(&self, name: &HeaderName) -> bool {
        self.headers.iter().any(|(known, _)| known == name)
    }

    fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        (name == "q").then_some(Cow::Borrowed("1"))
    }

    fn body(&self) -> Body<'_> {
        self.body
    }

    fn port(&self) -> Option<u16> {
        Some(80)
    }

    fn time(&self) -> Duration {
        NOW
    }
}

const REQUEST: Request<'static> = Request {
    headers: &[("x-amount", "100001"), ("x-tier", "gold"), ("x-bad", "12a"), ("x-nan", "nan"), ("x-big", "9223372036854775807")],
    body: Body::Read(br#"{"amount": 5, "tier": "premium", "ok": true, "items": [{"sku": "a"}], "rate": 0.5, "none": null}"#),
};

#[track_caller]
fn asked(source: &str) -> Result<bool, Missing> {
    match Expression::compile(source, Use::Condition, Place::Route) {
        Ok(expression) => expression.truth(&REQUEST),
        Err(error) => panic!("{source}: {error}"),
    }
}

#[test]
fn conditions_are_what_cel_says() {
    for (source, want) in [
        ("true", true),
        ("!false", true),
        ("!!false", false),
        ("1 + 2 * 3 == 7", true),
        ("(1 + 2) * 3 == 9", true),
        ("-3 < 2 && 7 % 4 == 3 && 7 / 2 == 3", true),
        ("0x10 == 16 && 1.5e3 == 1500", true),
        ("'a' < 'b' && \"a\" == 'a' && r'\\d' == '\\\\d'", true),
        ("request.method == 'POST'", true),
        (
            "request.path.startsWith('/pay') && !request.path.endsWith('/pay')",
            true,
        ),
        ("request.path.contains('ay/n')", true),
        ("request.path.matches('^/pay/[a-z]+$')", true),
        ("request.path.matches('ay')", true),
        ("request.host.size() == 7 && size(request.host) == 7", true),
        ("request['method'] == 'POST'", true),
        ("int(request.headers['x-amount']) > 100000", true),
        ("int(request.headers['X-Amount']) > 100000", true),
        ("double(request.headers['x-amount']) > 100000.5", true),
        ("int(request.headers['x-amount']) > 100001", false),
        ("request.headers['x-tier'] in ['silver', 'gold']", true),
        ("request.headers['x-tier'] in []", false),
        (
            "'x-tier' in request.headers && !('x-none' in request.headers)",
            true,
        ),
        ("has(request.headers['x-tier'])", true),
        ("has(request.headers['x-none'])", false),
        ("request.query['q'] == '1' && 'q' in request.query", true),
        (
            "request.body.amount > 100000 || request.body.tier == 'premium'",
            true,
        ),
        (
            "request.body.amount == 5.0 && request.body.amount + 1 == 6",
            true,
        ),
        (
            "request.body.items[0].sku == 'a' && request.body.items.size() == 1",
            true,
        ),
        ("request.body.ok", true),
        ("request.body['rate'] < 1", true),
        ("request.body.tier == 5", false),
        (
            "has(request.body.amount) && !has(request.body.missing)",
            true,
        ),
        ("request.body.tier.startsWith('prem')", true),
        ("request.time.getHours() == 4", true),
        (
            "request.time.getHours('Asia/Kolkata') in [9, 10, 11, 17, 18, 19, 20]",
            true,
        ),
        ("request.time.getHours('America/New_York') == 23", true),
        (
            "request.time.getHours('+05:30') == 10 && request.time.getMinutes('-00:30') == 0",
            true,
        ),
        ("request.time.getDayOfWeek('Asia/Kolkata') == 4", true),
        (
            "request.time.getMonth() == 10 && request.time.getDate() == 26 && request.time.getDayOfMonth() == 25",
            true,
        ),
        (
            "request.time.getFullYear() == 2026 && request.time.getDayOfYear() == 329",
            true,
        ),
        (
            "request.time > timestamp('2026-11-26T00:00:00Z') && request.time < timestamp('2026-11-27T00:00:00+05:30')",
            true,
        ),
        (
            "request.time - timestamp('2026-11-26T04:00:00Z') == duration('30m')",
            true,
        ),
        (
            "source.namespace == 'shop' && source.principal.endsWith('/sa/order')",
            true,
        ),
        ("destination.port == 80", true),
        ("(request.method == 'GET' ? 1 : 2) == 2", true),
        ("'Gold'.lowerAscii() == request.headers['x-tier']", true),
        ("string(destination.port) == '80'", true),
    ] {
        assert_eq!(asked(source), Ok(want), "{source}");
    }
}

/// Unknown satisfies nothing, denied or not, and one side that decides is enough.
#[test]
fn what_cannot_be_known_is_unknown() {
    for (source, want) in [
        ("request.headers['x-none'] == 'a'", None),
        ("request.headers['x-none'] != 'a'", None),
        ("!(request.headers['x-none'] == 'a')", None),
        ("request.headers['x-none'] == 'a' || true", Some(true)),
        ("false && request.headers['x-none'] == 'a'", Some(false)),
        ("request.headers['x-none'] == 'a' && false", Some(false)),
        ("request.headers['x-none'] == 'a' && true", None),
        ("int(request.headers['x-bad']) > 1", None),
        ("double(request.headers['x-nan']) > 1", None),
        ("int(request.headers['x-big']) + 1 > 0", None),
        ("1 / 0 == 1", None),
        ("1 % 0 == 1", None),
        ("request.body.missing > 1", None),
        ("request.body.tier > 1", None),
        ("request.body.amount.startsWith('x')", None),
        ("request.body.amount", None),
        ("request.body.amount[0] == 1", None),
        ("source.workload == 'a'", None),
        ("request.headers['x-none'] in ['a']", None),
        (
            "'gold' in [request.headers['x-none'], request.headers['x-tier']]",
            Some(true),
        ),
        (
            "'iron' in [request.headers['x-none'], request.headers['x-tier']]",
            None,
        ),
        (
            "has(request.headers['x-none']) ? request.headers['x-none'] == 'a' : false",
            Some(false),
        ),
    ] {
        assert_eq!(asked(source), want.ok_or(Missing::Unknown), "{source}");
    }
}

/// A body is asked for only when nothing else decides.
#[test]
fn a_body_is_needed_only_where_it_decides() {
    let unread = Request {
        body: Body::NotRead,
        ..REQUEST
    };
    let gone = Request {
        body: Body::Unknown,
        ..REQUEST
    };
    for (source, before, without) in [
        (
            "request.body.amount > 1",
            Err(Missing::Body),
            Err(Missing::Unknown),
        ),
        (
            "request.method == 'GET' && request.body.amount > 1",
            Ok(false),
            Ok(false),
        ),
        (
            "request.method == 'POST' || request.body.amount > 1",
            Ok(true),
            Ok(true),
        ),
        (
            "request.body.amount > 1 || request.method == 'POST'",
            Ok(true),
            Ok(true),
        ),
        (
            "request.headers['x-none'] == 'a' || request.body.amount > 1",
            Err(Missing::Body),
            Err(Missing::Unknown),
        ),
        (
            "!has(request.body.amount)",
            Err(Missing::Body),
            Err(Missing::Unknown),
        ),
    ] {
        let expression = Expression::compile(source, Use::Condition, Place::Route).unwrap();
        assert!(expression.reads_body());
        assert_eq!(expression.truth(&unread), before, "{source}");
        assert_eq!(expression.truth(&gone), without, "{source}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_column() {
    let deep = format!("{}true{}", "(".repeat(40), ")".repeat(40));
    let wide = ["true"; 200].join(" && ");
    let long = format!("'{}' == ''", "x".repeat(5000));
    let dear = ["request.body.a == 1"; 11].join(" && ");
    for (source, column, says) in [
        ("", 1, "ends too early"),
        ("request.method =", 16, "unexpected '='"),
        ("request.method == ", 19, "ends too early"),
        ("request.method == 'a", 19, "does not end"),
        ("request.metod == 'a'", 1, "no attribute request.metod"),
        ("request.method", 1, "a condition is true or false"),
        ("request.headers == 'a'", 1, "a header needs one name"),
        ("request.headers.a.b == 'a'", 1, "a header needs one name"),
        ("request.headers['a b'] == 'a'", 1, "not a header name"),
        ("request.headers[request.method] == 'a'", 1, "must be fixed"),
        ("request.method == 5", 16, "a string is compared with a int"),
        (
            "request.headers['x-amount'] > 100000",
            29,
            "a string is compared with a int",
        ),
        ("int(request.headers['x']) && true", 1, "wants a bool"),
        ("!request.method", 2, "wants a bool"),
        ("request.path.matches('(')", 22, "not a regular expression"),
        ("request.path.matches(request.host)", 22, "a fixed text"),
        (
            "request.time.getHours('Asia/Bombay1') == 9",
            23,
            "not a time zone",
        ),
        (
            "request.time.getHours('+25:00') == 9",
            23,
            "not a time zone",
        ),
        ("request.time.getHour() == 9", 14, "no function getHour"),
        (
            "request.time > '2026-01-01'",
            14,
            "a timestamp is compared with a string",
        ),
        ("timestamp('yesterday') < request.time", 11, "not a moment"),
        ("foo(1) == 1", 1, "no function foo"),
        (
            "request.path.startsWith() == true",
            14,
            "takes one argument",
        ),
        ("[1, 2] == [1, 2]", 1, "a list stands only"),
        ("request.method in 'GET'", 16, "\"in\" looks in"),
        ("1 == 1 1", 8, "unexpected 1"),
        ("request.method == 'GET' and true", 25, "unexpected and"),
        ("a & b", 3, "unexpected '&'"),
        ("'\\q' == ''", 2, "unknown escape"),
        ("12a == 1", 1, "not a number"),
        ("99999999999999999999 == 1", 1, "not a number"),
        (&deep, 33, "nested more than 32"),
        (&wide, 509, "more than 256 parts"),
        (&long, 1, "longer than 4096"),
        (&dear, 1, "it costs"),
        ("true ? 1 : 'a'", 1, "one side is a int"),
        ("request.", 9, "expected a name"),
        ("has(request.method)", 5, "has(…) asks for"),
    ] {
        let error = Expression::compile(source, Use::Condition, Place::Route).expect_err(source);
        assert!(error.message.contains(says), "{source}: {error}");
        if column < 500 {
            assert_eq!(error.column, column, "{source}: {error}");
        }
        assert!(!error.fix.is_empty());
    }
}

#[test]
fn keys_are_values_and_know_no_body() {
    let key = |source: &str| Expression::compile(source, Use::Key, Place::Limit);
    let tier = key("request.headers['x-tier']").unwrap();
    assert_eq!(tier.value(&REQUEST), Ok(Value::Str("gold".into())));
    assert_eq!(
        key("destination.port").unwrap().value(&REQUEST),
        Ok(Value::Int(80))
    );
    assert!(
        key("request.body.merchant")
            .unwrap_err()
            .message
            .contains("not available here")
    );
    assert!(
        key("request.time")
            .unwrap_err()
            .message
            .contains("a key is")
    );
    assert!(key("0.5").is_err());
}

#[test]
fn facts_are_shown_and_secrets_are_not() {
    let source = "request.headers['authorization'] == 'x' || request.headers['x-tier'] == 'a' || request.body.amount > 9 || source.workload == ''";
    let expression = Expression::compile(source, Use::Condition, Place::Route).unwrap();
    let request = Request {
        headers: &[("authorization", "x"), ("x-tier", "gold")],
        ..REQUEST
    };
    let facts = expression.facts(&request);
    let want = [
        ("request.headers['authorization']", "(not shown)"),
        ("request.headers['x-tier']", "\"gold\""),
        ("request.body.amount", "5"),
        ("source.workload", "unknown"),
    ];
    assert_eq!(
        facts,
        want.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

/// Bytes of every kind are refused or taken, and never more than that.
#[test]
fn hostile_text_never_panics() {
    let mut seed = 7_u64;
    let alphabet: Vec<char> = "request.body['x'](),!&|=<>+-*/%?: 0179eEx\\\"é\u{0}in hastrue"
        .chars()
        .collect();
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..24 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(seed >> 33).unwrap() % alphabet.len();
            text.push(alphabet[at]);
        }
        if let Ok(expression) = Expression::compile(&text, Use::Condition, Place::Route) {
            let _ = expression.truth(&REQUEST);
        }
    }
}
