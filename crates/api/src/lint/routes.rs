//! Routes that do something else than they seem to: no catch-all, shadowed, cut-off retries, half-matching expressions.

use super::say;
use crate::codes;
use crate::networking::virtual_service::{
    Action, HttpMatch, HttpRoute, Retries, StringMatch, VirtualService,
};
use crate::object::Object;
use naka_types::duration::Show;
use naka_types::finding::Finding;
use regex_syntax::hir::{Hir, HirKind, Look, literal::Extractor};

/// Methods that may be sent again without harm (RFC 9110).
const SAFE: &[&str] = &["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
/// Retry conditions that also hold after the request was processed.
const AFTER: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "internal",
    "deadline-exceeded",
    "cancelled",
    "retriable-4xx",
];
/// Routes compared with each other per object; beyond, the quadratic comparison is left out.
const COMPARED: usize = 1000;

pub(super) fn check(out: &mut Vec<Finding>, object: &Object, service: &VirtualService) {
    for route in &service.http {
        let at = format!("spec.http[{}]", route.index);
        idle_fault(out, object, route, &at);
        if let Some(retries) = route
            .retries
            .as_ref()
            .filter(|retries| retries.attempts > 0 && !route.destinations().is_empty())
        {
            cut_off(out, object, route, retries, &at);
            twice(out, object, route, retries, &at);
        }
        for (number, condition) in route.matches.iter().enumerate() {
            half_match(out, object, condition, &format!("{at}.match[{number}]"));
        }
    }
    // A delegate's requests end where its root says; a root's where its delegates say.
    let told_elsewhere = service.hosts.is_empty() || service.http.iter().any(delegates);
    if !service.http.is_empty() && !told_elsewhere && !service.http.iter().any(takes_all) {
        say(
            out,
            codes::L308,
            object,
            "spec.http",
            "no route takes the requests that match none of the conditions: they get 404"
                .to_owned(),
            "add a last route without match".to_owned(),
        );
    }
    shadowed(out, object, &service.http);
}

fn delegates(route: &HttpRoute) -> bool {
    matches!(route.action, Action::Delegate(_))
}

fn idle_fault(out: &mut Vec<Finding>, object: &Object, route: &HttpRoute, at: &str) {
    let Some(fault) = &route.fault else { return };
    let idle = [
        ("delay", fault.delay.as_ref().map(|delay| delay.share)),
        ("abort", fault.abort.as_ref().map(|abort| abort.share)),
    ];
    for (name, share) in idle {
        if share == Some(0) {
            say(
                out,
                codes::L318,
                object,
                &format!("{at}.fault.{name}"),
                format!("no share: this {name} happens to no request"),
                "add percentage: {value: 100}, or a smaller share".to_owned(),
            );
        }
    }
}

fn takes_all(route: &HttpRoute) -> bool {
    let all = |condition: &HttpMatch| condition.is_catch_all() && condition.gateways.is_empty();
    route.when.is_none() && (route.matches.is_empty() || route.matches.iter().any(all))
}

fn cut_off(
    out: &mut Vec<Finding>,
    object: &Object,
    route: &HttpRoute,
    retries: &Retries,
    at: &str,
) {
    let (Some(timeout), Some(per_try)) = (
        route.timeout.filter(|t| !t.is_zero()),
        retries.per_try_timeout,
    ) else {
        return;
    };
    let needed = per_try.saturating_mul(retries.attempts.saturating_add(1));
    if needed > timeout {
        say(
            out,
            codes::L306,
            object,
            &format!("{at}.retries"),
            format!(
                "1 + {} tries of {} exceed the timeout of {}: the last ones are cut off",
                retries.attempts,
                Show(per_try),
                Show(timeout)
            ),
            format!(
                "set timeout to {} or more, or use fewer or shorter tries",
                Show(needed)
            ),
        );
    }
}

fn twice(out: &mut Vec<Finding>, object: &Object, route: &HttpRoute, retries: &Retries, at: &str) {
    let after = |word: &&String| {
        AFTER.contains(&word.as_str()) || word.parse::<u16>().is_ok_and(|code| code >= 500)
    };
    let Some(word) = retries.on.iter().find(after) else {
        return;
    };
    let safe = |condition: &HttpMatch| matches!(&condition.method, Some(StringMatch::Exact(method)) if SAFE.contains(&method.as_str()));
    if !route.matches.is_empty() && route.matches.iter().all(safe) {
        return;
    }
    say(
        out,
        codes::L307,
        object,
        &format!("{at}.retries.retryOn"),
        format!("retries on {word} can repeat a POST that was processed; Naka repeats only methods that are safe to repeat, other proxies repeat all"),
        "use connect-failure,refused-stream, or match safe methods only, or make the program accept idempotency keys".to_owned(),
    );
}

fn half_match(out: &mut Vec<Finding>, object: &Object, condition: &HttpMatch, at: &str) {
    let named = |name: &str, key: &str| crate::tree::join(&format!("{at}.{name}"), key);
    let single = [
        ("uri", &condition.uri),
        ("method", &condition.method),
        ("authority", &condition.authority),
        ("scheme", &condition.scheme),
    ];
    let tests = single
        .into_iter()
        .filter_map(|(name, test)| Some((format!("{at}.{name}"), test.as_ref()?)))
        .chain(
            condition
                .headers
                .iter()
                .map(|(key, test)| (named("headers", key), test)),
        )
        .chain(
            condition
                .without_headers
                .iter()
                .map(|(key, test)| (named("withoutHeaders", key), test)),
        )
        .chain(
            condition
                .query_params
                .iter()
                .map(|(key, test)| (named("queryParams", key), test)),
        );
    for (field, test) in tests {
        let StringMatch::Regex(pattern) = test else {
            continue;
        };
        let Some(sample) = only_beginning(pattern) else {
            continue;
        };
        say(
            out,
            codes::L309,
            object,
            &format!("{field}.regex"),
            format!(
                "the whole value must match: regex needs a trailing .* to match more than {sample:?}"
            ),
            format!("write {pattern}.*"),
        );
    }
}

/// For an expression that is anchored at the start but neither anchored nor open at the end: something it matches.
fn only_beginning(pattern: &str) -> Option<String> {
    let hir = regex_syntax::parse(pattern).ok()?;
    if !hir.properties().look_set_prefix().contains(Look::Start) || ends_open(&hir) {
        return None;
    }
    let literals = Extractor::new().extract(&hir);
    let first = literals
        .literals()
        .and_then(|all| all.first())
        .map(|literal| String::from_utf8_lossy(literal.as_bytes()).into_owned());
    Some(first.unwrap_or_else(|| pattern.to_owned()))
}

fn ends_open(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Repetition(repetition) => repetition.max.is_none(),
        HirKind::Look(_) => true,
        HirKind::Concat(parts) => parts.last().is_some_and(ends_open),
        HirKind::Capture(capture) => ends_open(&capture.sub),
        HirKind::Alternation(parts) => parts.iter().any(ends_open),
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) => false,
    }
}

fn shadowed(out: &mut Vec<Finding>, object: &Object, routes: &[HttpRoute]) {
    let everything = [HttpMatch::default()];
    let conditions = |route: &'_ HttpRoute| -> Vec<HttpMatch> {
        if route.matches.is_empty() {
            everything.to_vec()
        } else {
            route.matches.clone()
        }
    };
    let all: Vec<Vec<HttpMatch>> = routes.iter().take(COMPARED).map(conditions).collect();
    for later in 1..all.len() {
        let by = |condition: &HttpMatch| {
            // What a delegating route takes is for the delegate to say, what one with an expression for the proxies.
            let told = |route: &HttpRoute| route.when.is_none() && !delegates(route);
            let mut plain = (0..later).filter(|earlier| told(&routes[*earlier]));
            plain.find(|earlier| all[*earlier].iter().any(|first| covers(first, condition)))
        };
        let found: Option<Vec<usize>> = all[later].iter().map(by).collect();
        if let Some(first) = found.and_then(|found| found.into_iter().min()) {
            let field = format!("spec.http[{}]", routes[later].index);
            say(
                out,
                codes::L313,
                object,
                &field,
                format!(
                    "this route is never reached: spec.http[{}] takes all its requests first",
                    routes[first].index
                ),
                "move it up, or remove it".to_owned(),
            );
        }
    }
}

/// Whether every request that `later` matches is matched by `first` too (a sound, not a complete test).
fn covers(first: &HttpMatch, later: &HttpMatch) -> bool {
    let text = |a: &Option<StringMatch>, b: &Option<StringMatch>| match (a, b) {
        (None, _) => true,
        (Some(a), Some(b)) => test_covers(a, b),
        (Some(_), None) => false,
    };
    let uri = match (&first.uri, first.ignore_uri_case == later.ignore_uri_case) {
        (None, _) => true,
        (Some(StringMatch::Prefix(prefix)), _) if prefix == "/" => true,
        (Some(_), true) => text(&first.uri, &later.uri),
        (Some(_), false) => false,
    };
    let named = |a: &[(String, StringMatch)], b: &[(String, StringMatch)]| {
        a.iter().all(|(name, test)| {
            b.iter()
                .any(|(other, against)| other == name && test_covers(test, against))
        })
    };
    uri && text(&first.scheme, &later.scheme)
        && text(&first.method, &later.method)
        && text(&first.authority, &later.authority)
        && named(&first.headers, &later.headers)
        && named(&first.query_params, &later.query_params)
        // A header that must be absent: the same test must stand in the later route.
        && first.without_headers.iter().all(|test| later.without_headers.contains(test))
        && (first.port.is_none() || first.port == later.port)
        && (first.source_namespace.is_none() || first.source_namespace == later.source_namespace)
        && first.source_labels.iter().all(|(key, value)| later.source_labels.get(key) == Some(value))
        && (first.gateways.is_empty() || first.gateways == later.gateways)
}

fn test_covers(a: &StringMatch, b: &StringMatch) -> bool {
    match (a, b) {
        (StringMatch::Present, _) => true,
        (StringMatch::Prefix(prefix), StringMatch::Exact(value) | StringMatch::Prefix(value)) => {
            value.starts_with(prefix.as_str())
        }
        (a, b) => a == b,
    }
}
