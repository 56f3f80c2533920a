//! Whether policy lets a caller do what it asks.
//!
//! Answers have three values. What cannot be known (a path where no HTTP is spoken, an address nobody told, a label
//! nobody granted, a header that came twice with values that answer differently) never satisfies an ALLOW rule and
//! always satisfies a DENY rule, negated or not. So neither a second header nor bytes instead of a request walk around a
//! rule.

use super::matching::value_of;
use super::{Cx, Effect, Exchange, Need, token};
use crate::canonical::{Canonical, Direction, Origin};
use crate::model::{Access, AccessFilter, HeaderCondition, HeaderRule, Subject, Test};
use crate::why::{Stage, Why};
use naka_types::labels::Labels;
use naka_types::reason::Reason;
use naka_types::workload::Ulid;
use std::net::IpAddr;

impl Exchange {
    /// Whether the caller may; `ask`: what is not known of it may still be obtained.
    pub(super) fn admitted(
        &mut self,
        request: &mut Canonical,
        ask: bool,
        cx: &mut Cx<'_>,
    ) -> Effect {
        if let Direction::Inbound { port } = cx.origin.direction {
            return self.begin_inbound(request, port, ask, cx);
        }
        if let Some(name) = &cx.origin.chain
            && let Some(chain) = cx.snapshot.chain(cx.origin.default_port, name)
            && let Some(access) = &chain.access
        {
            if let Some(peer) = lacks(access, cx).filter(|_| ask) {
                return Effect::Need(Need::Peer(peer));
            }
            if let Err(reason) = admit_request(access, request, cx) {
                return self.refuse(request, reason, cx);
            }
        }
        self.find_host(request, true, cx)
    }
}

/// The workload whose record is to be had before the filters are asked, because one of them asks for its labels.
pub(super) fn lacks(access: &Access, cx: &Cx<'_>) -> Option<Ulid> {
    let peer = cx.origin.source.as_ref().filter(|_| access.labels)?.id?;
    cx.snapshot.granted(peer).is_none().then_some(peer)
}

/// Reads the tokens of a request, then asks the filters.
pub(super) fn admit_request(
    access: &Access,
    request: &mut Canonical,
    cx: &mut Cx<'_>,
) -> Result<(), Reason> {
    if let Some(tokens) = &access.tokens {
        token::authenticate(tokens, request, cx)?;
    }
    admit(access, Some(request), cx)
}

/// Asks the filters of a port in their order; bytes have no request.
pub(super) fn admit(
    access: &Access,
    request: Option<&Canonical>,
    cx: &mut Cx<'_>,
) -> Result<(), Reason> {
    let asked = About {
        request,
        origin: cx.origin,
        granted: granted(cx),
    };
    for filter in &access.filters {
        let found = matching(filter, &asked);
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

/// What is known of a call.
struct About<'a> {
    request: Option<&'a Canonical>,
    origin: &'a Origin,
    granted: Option<&'a Labels>,
}

/// The labels that the caller's workload was granted.
fn granted<'a>(cx: &Cx<'a>) -> Option<&'a Labels> {
    cx.snapshot.granted(cx.origin.source.as_ref()?.id?)
}

/// Name of the first rule that matches.
fn matching<'a>(filter: &'a AccessFilter, asked: &About<'_>) -> Option<&'a str> {
    let matches = |test: &Test| truth(test, asked).unwrap_or(filter.denies);
    let mut rules = filter.rules.iter();
    rules
        .find(|rule| matches(&rule.test))
        .map(|rule| &*rule.name)
}

/// Whether a condition holds; `None`: not known.
fn truth(test: &Test, asked: &About<'_>) -> Option<bool> {
    match test {
        Test::Always => Some(true),
        Test::All(tests) => all(tests, false, asked),
        Test::Any(tests) => all(tests, true, asked),
        Test::Not(test) => truth(test, asked).map(|holds| !holds),
        Test::Identity(wanted) => {
            let source = asked.origin.source.as_ref();
            let shown = source.map(|source| &*source.identity);
            let shown = shown.filter(|identity| !identity.is_empty());
            Some(match (shown, wanted) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(identity), Some(wanted)) => wanted.holds(identity.as_bytes()),
            })
        }
        Test::Peer(range) => Some(range.contains(asked.origin.address?)),
        Test::Client(range) => Some(range.contains(client(asked)?)),
        Test::Label(name, wanted) => {
            let value = asked.granted?.get(&**name)?;
            Some(wanted.holds(value.as_bytes()))
        }
        Test::Claim(wanted) => {
            let claims = asked.request?.claims.as_deref();
            Some(wanted.holds(claims.and_then(|claims| claims.at(&wanted.path))))
        }
        Test::Path(wanted) => Some(wanted.holds(asked.request?.path().as_bytes())),
        Test::Header(wanted) => header(wanted, asked.request?, asked.origin),
    }
}

/// Whether all tests hold, or (`ends` true) one of them.
fn all(tests: &[Test], ends: bool, asked: &About<'_>) -> Option<bool> {
    let mut sure = true;
    for test in tests {
        match truth(test, asked) {
            Some(holds) if holds == ends => return Some(ends),
            Some(_) => {}
            None => sure = false,
        }
    }
    sure.then_some(!ends)
}

/// The last address that a verified peer told; of anybody else, its own.
fn client(asked: &About<'_>) -> Option<IpAddr> {
    let origin = asked.origin;
    let request = asked.request.filter(|_| origin.source.is_some());
    let told = request.and_then(|request| {
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
