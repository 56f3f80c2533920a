//! Whether policy lets a caller do what it asks.
//!
//! Answers have three values. What cannot be known (a path where no HTTP is spoken, an address nobody told, a header
//! that came twice with values that answer differently) never satisfies an ALLOW rule and always satisfies a DENY rule,
//! negated or not. So neither a second header nor bytes instead of a request walk around a rule.

use super::Cx;
use super::matching::value_of;
use crate::canonical::{Canonical, Origin};
use crate::model::{Access, AccessFilter, HeaderCondition, HeaderRule, Subject, Test};
use crate::why::{Stage, Why};
use naka_types::reason::Reason;
use std::net::IpAddr;

/// Asks the filters of a port in their order; bytes have no request.
pub(super) fn admit(
    access: &Access,
    request: Option<&Canonical>,
    cx: &mut Cx<'_>,
) -> Result<(), Reason> {
    for filter in &access.filters {
        let found = matching(filter, request, cx.origin);
        let allowed = found.is_some() != filter.denies;
        cx.explain(|| {
            let because = match (found, filter.denies) {
                (Some(name), true) => format!("a DENY rule matches: {name}"),
                (None, true) => "no DENY rule matches".to_owned(),
                (Some(name), false) => format!("an ALLOW rule matches: {name}"),
                (None, false) => {
                    "there are ALLOW policies, and none of their rules matches".to_owned()
                }
            };
            let decision = if allowed { "allowed" } else { "denied" };
            Why::new(Stage::Policy, decision, because)
        });
        if !allowed {
            return Err(Reason::PermissionDenied);
        }
    }
    Ok(())
}

/// Name of the first rule that matches.
fn matching<'a>(
    filter: &'a AccessFilter,
    request: Option<&Canonical>,
    origin: &Origin,
) -> Option<&'a str> {
    let matches = |test: &Test| truth(test, request, origin).unwrap_or(filter.denies);
    let mut rules = filter.rules.iter();
    rules
        .find(|rule| matches(&rule.test))
        .map(|rule| &*rule.name)
}

/// Whether a condition holds; `None`: not known.
fn truth(test: &Test, request: Option<&Canonical>, origin: &Origin) -> Option<bool> {
    match test {
        Test::Always => Some(true),
        Test::All(tests) => all(tests, false, request, origin),
        Test::Any(tests) => all(tests, true, request, origin),
        Test::Not(test) => truth(test, request, origin).map(|holds| !holds),
        Test::Identity(wanted) => {
            let shown = origin.source.as_ref().map(|source| &*source.identity);
            let shown = shown.filter(|identity| !identity.is_empty());
            Some(match (shown, wanted) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(identity), Some(wanted)) => wanted.holds(identity.as_bytes()),
            })
        }
        Test::Peer(range) => Some(range.contains(origin.address?)),
        Test::Client(range) => Some(range.contains(client(request, origin)?)),
        Test::Path(wanted) => Some(wanted.holds(request?.path().as_bytes())),
        Test::Header(wanted) => header(wanted, request?, origin),
    }
}

/// Whether all tests hold, or (`ends` true) one of them.
fn all(tests: &[Test], ends: bool, request: Option<&Canonical>, origin: &Origin) -> Option<bool> {
    let mut sure = true;
    for test in tests {
        match truth(test, request, origin) {
            Some(holds) if holds == ends => return Some(ends),
            Some(_) => {}
            None => sure = false,
        }
    }
    sure.then_some(!ends)
}

/// The last address that a verified peer told; of anybody else, its own.
fn client(request: Option<&Canonical>, origin: &Origin) -> Option<IpAddr> {
    let told = request
        .filter(|_| origin.source.is_some())
        .and_then(|request| {
            let all = request.headers().get_all("x-forwarded-for");
            all.iter().next_back()
        });
    match told {
        None => origin.address,
        Some(value) => value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok(),
    }
}

/// Values of a header that came more than once are asked one by one.
fn header(wanted: &HeaderCondition, request: &Canonical, origin: &Origin) -> Option<bool> {
    if let (Subject::Header(name), HeaderRule::Value(_)) = (&wanted.subject, &wanted.rule) {
        let mut values = request.headers().get_all(name).iter();
        if let (Some(first), Some(second)) = (values.next(), values.next()) {
            let of = |value: &http::HeaderValue| wanted.holds(Some(value.as_bytes()));
            let holds = of(first);
            let same = std::iter::once(second)
                .chain(values)
                .all(|value| of(value) == holds);
            return same.then_some(holds);
        }
    }
    Some(wanted.holds(value_of(&wanted.subject, request, origin).as_deref()))
}
