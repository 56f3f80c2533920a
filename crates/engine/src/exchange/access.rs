//! Whether policy lets a caller do what it asks.
//!
//! Answers have three values. What cannot be known (a path where no HTTP is spoken, an address nobody told, a label
//! nobody granted, a header that came twice with values that answer differently) never satisfies an ALLOW rule and
//! always satisfies a DENY rule, negated or not. So neither a second header nor bytes instead of a request walk around a
//! rule.

use super::matching::value_of;
use super::{Cx, Effect, Exchange, Need, guard, token, trust};
use crate::canonical::{Canonical, Direction, Origin};
use crate::model::{
    Access, AccessFilter, Check, HeaderCondition, HeaderRule, Subject, Test, Verdict,
};
use crate::why::{Stage, Why};
use naka_types::labels::Labels;
use naka_types::reason::Reason;
use naka_types::workload::Ulid;
use std::net::IpAddr;
use std::sync::Arc;

impl Exchange {
    /// What policies say of the request besides letting it pass.
    pub fn judged(&mut self) -> Option<Box<Judged>> {
        self.judged.take()
    }

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
        if let Some(access) = of_chain(cx) {
            if let Some(peer) = lacks(access, cx).filter(|_| ask) {
                return Effect::Need(Need::Peer(peer));
            }
            match self.asked_first(access, request, cx) {
                Ok(false) => {}
                Ok(true) => return Effect::Need(Need::Check),
                Err(reason) => return self.refuse(request, reason, cx),
            }
        }
        self.admitted_by_others(request, cx)
    }

    /// What comes before the filters: guards look at it, tokens are read, trust models judge, then it is seen whether somebody else is to be
    /// asked.
    pub(super) fn asked_first(
        &mut self,
        access: &Access,
        request: &mut Canonical,
        cx: &mut Cx<'_>,
    ) -> Result<bool, Reason> {
        guard::admit(access, request, &mut self.judged, cx)?;
        if let Some(tokens) = &access.tokens
            && let Err((reason, anomaly)) = token::authenticate(tokens, request, cx)
        {
            if let Some(anomaly) = anomaly {
                guard::token_refused(access, request, anomaly, &mut self.judged, cx);
            }
            return Err(reason);
        }
        trust::admit(access, Some(request), &mut self.judged, cx)?;
        self.asks(access, request, cx)
    }

    /// What comes after: the filters, and what the request is for.
    pub(super) fn admitted_by_others(
        &mut self,
        request: &mut Canonical,
        cx: &mut Cx<'_>,
    ) -> Effect {
        if let Direction::Inbound { port } = cx.origin.direction {
            return self.pass_inbound(request, port, cx);
        }
        if let Some(access) = of_chain(cx)
            && let Err(reason) = admit_request(access, request, &mut self.judged, cx)
        {
            return self.refuse(request, reason, cx);
        }
        self.find_host(request, true, cx)
    }
}

/// Who may use the chain of a gateway that the request came on.
fn of_chain<'a>(cx: &Cx<'a>) -> Option<&'a Access> {
    let chain = cx.origin.chain.as_ref()?;
    let chain = cx.snapshot.chain(cx.origin.default_port, chain)?;
    chain.access.as_deref()
}

/// The workload whose record is to be had before the filters are asked, because one of them asks for its labels.
pub(super) fn lacks(access: &Access, cx: &Cx<'_>) -> Option<Ulid> {
    let peer = cx.origin.source.as_ref().filter(|_| access.labels)?.id?;
    cx.snapshot.granted(peer).is_none().then_some(peer)
}

/// What policies say of a call besides letting it pass.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judged {
    /// The rule that refused it; [`NO_RULE`] where none allowed it.
    pub refused_by: Option<Arc<str>>,
    /// Who refused it by that rule.
    pub by: By,
    /// What the caller is told instead of what the reason means.
    pub text: Option<Box<str>>,
    /// What was noticed by policies that decide nothing.
    pub noticed: Vec<Noticed>,
    /// All that trust models said, as JSON; only where the decision is to be explained.
    pub trust: Vec<serde_json::Value>,
}

/// Who refused a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum By {
    /// The rule itself.
    #[default]
    Rule,
    /// Somebody else who was asked because of it.
    Authorizer,
    /// Nobody answered.
    Silence,
    /// A trust model; the rule is its name and what it says.
    Trust,
    /// A guard.
    Guard,
}

/// What a policy that decides nothing noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noticed {
    /// `audited`, or what would have happened: `would-allow`, `would-deny`.
    pub outcome: &'static str,
    /// The rule; [`NO_RULE`] where it is that none matched.
    pub rule: Arc<str>,
}

/// Stands for the name of a rule where none matched.
pub const NO_RULE: &str = "none";

/// Asks the filters about a request.
pub(super) fn admit_request(
    access: &Access,
    request: &Canonical,
    judged: &mut Option<Box<Judged>>,
    cx: &mut Cx<'_>,
) -> Result<(), Reason> {
    filters(access, Some(request), judged, cx)
}

/// Whether a connection of bytes may pass. Nobody is asked about bytes: those that somebody would be asked about are
/// refused.
pub(super) fn admit_bytes(
    access: &Access,
    judged: &mut Option<Box<Judged>>,
    cx: &mut Cx<'_>,
) -> Result<(), Reason> {
    guard::admit_bytes(access, judged, cx)?;
    trust::admit(access, None, judged, cx)?;
    if let Some(check) = &access.check
        && let Some(rule) = asked_about(check, None, cx)
    {
        cx.explain(|| {
            let because = format!("a CUSTOM rule matches, and nobody is asked about bytes: {rule}");
            Why::new(Stage::Policy, "denied", because)
        });
        judged.get_or_insert_default().refused_by = Some(Arc::clone(rule));
        return Err(Reason::PermissionDenied);
    }
    filters(access, None, judged, cx)
}

/// The first rule by which somebody else is to be asked.
pub(super) fn asked_about<'c>(
    check: &'c Check,
    request: Option<&Canonical>,
    cx: &Cx<'_>,
) -> Option<&'c Arc<str>> {
    let asked = About {
        request,
        origin: cx.origin,
        granted: granted(cx),
    };
    let mut rules = check.rules.iter();
    rules
        .find(|rule| truth(&rule.test, &asked).unwrap_or(true))
        .map(|rule| &rule.name)
}

/// Asks the filters of a port in their order; bytes have no request. Where there is anything to tell, `judged` says it.
pub(super) fn filters(
    access: &Access,
    request: Option<&Canonical>,
    judged: &mut Option<Box<Judged>>,
    cx: &mut Cx<'_>,
) -> Result<(), Reason> {
    let asked = About {
        request,
        origin: cx.origin,
        granted: granted(cx),
    };
    for filter in &access.filters {
        let found = matching(filter, &asked);
        let allowed = match filter.verdict {
            Verdict::Allow => found.is_some(),
            Verdict::Deny => found.is_none(),
            Verdict::Audit => true,
        };
        cx.explain(|| why(filter, found.map(|rule| &**rule), allowed));
        let rule = || found.cloned().unwrap_or_else(|| NO_RULE.into());
        if filter.trial || filter.verdict == Verdict::Audit {
            let outcome = match (filter.verdict, allowed) {
                (Verdict::Audit, _) => "audited",
                (_, true) => "would-allow",
                (_, false) => "would-deny",
            };
            // That a DENY on trial or an audit matched nothing is no news.
            if found.is_some() || filter.verdict == Verdict::Allow {
                let noticed = &mut judged.get_or_insert_default().noticed;
                noticed.push(Noticed {
                    outcome,
                    rule: rule(),
                });
            }
        } else if !allowed {
            judged.get_or_insert_default().refused_by = Some(rule());
            return Err(Reason::PermissionDenied);
        }
    }
    Ok(())
}

fn why(filter: &AccessFilter, found: Option<&str>, allowed: bool) -> Why {
    let because = match (found, filter.verdict) {
        (Some(name), Verdict::Deny) => format!("a DENY rule matches: {name}"),
        (None, Verdict::Deny) => "no DENY rule matches".to_owned(),
        (Some(name), Verdict::Allow) => format!("an ALLOW rule matches: {name}"),
        (None, Verdict::Allow) => {
            "there are ALLOW policies, and none of their rules matches".to_owned()
        }
        (Some(name), Verdict::Audit) => format!("an AUDIT rule matches: {name}"),
        (None, Verdict::Audit) => "no AUDIT rule matches".to_owned(),
    };
    let decision = match (filter.verdict, filter.trial, allowed) {
        (Verdict::Audit, ..) if found.is_some() => "audited",
        (_, false, true) => "allowed",
        (_, false, false) => "denied",
        (_, true, true) => "on trial: allowed",
        (_, true, false) => "on trial: denied",
    };
    Why::new(Stage::Policy, decision, because)
}

/// What is known of a call.
pub(super) struct About<'a> {
    pub(super) request: Option<&'a Canonical>,
    pub(super) origin: &'a Origin,
    pub(super) granted: Option<&'a Labels>,
}

/// The labels that the caller's workload was granted.
pub(super) fn granted<'a>(cx: &Cx<'a>) -> Option<&'a Labels> {
    cx.snapshot.granted(cx.origin.source.as_ref()?.id?)
}

/// Name of the first rule that matches.
fn matching<'a>(filter: &'a AccessFilter, asked: &About<'_>) -> Option<&'a Arc<str>> {
    let unknown = filter.verdict != Verdict::Allow;
    let matches = |test: &Test| truth(test, asked).unwrap_or(unknown);
    let mut rules = filter.rules.iter();
    rules
        .find(|rule| matches(&rule.test))
        .map(|rule| &rule.name)
}

/// Whether a condition holds; `None`: not known.
pub(super) fn truth(test: &Test, asked: &About<'_>) -> Option<bool> {
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
