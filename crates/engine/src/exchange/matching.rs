//! Which route matches: the first whose conditions all hold.
//!
//! An expression is asked last, and only of a route whose other conditions hold. If it needs the body, choosing stops
//! there until the body came ([`Found::AfterBody`]), because a later route must not win before an earlier one is known.

use super::Cx;
use super::attributes::{Attributes, Read};
use crate::canonical::{Canonical, Origin};
use crate::model::{ClaimCondition, Match, QueryCondition, Route, Subject, VirtualHost};
use crate::why::{Stage, Why};
use naka_expr::Missing;
use std::borrow::Cow;
use std::sync::Arc;

/// What choosing came to.
pub(super) enum Found {
    /// The first route that matches.
    Route(Arc<Route>),
    /// None matches.
    Nothing,
    /// The body decides.
    AfterBody,
}

/// The first route that matches.
pub(super) fn find(
    vhost: &VirtualHost,
    request: &Canonical,
    body: &Read,
    cx: &mut Cx<'_>,
) -> Found {
    for route in &vhost.routes {
        if cx.why.is_some() {
            match explained(route, vhost, request, body, cx) {
                Ok(true) => return Found::Route(Arc::clone(route)),
                Ok(false) => {}
                Err(Missing::Body) => return Found::AfterBody,
                Err(Missing::Unknown) => {}
            }
            continue;
        }
        if !holds(&route.matches, request, cx.origin) {
            continue;
        }
        let Some(when) = &route.matches.when else {
            return Found::Route(Arc::clone(route));
        };
        match when.truth(&Attributes::new(called(vhost), request, body, cx)) {
            Ok(true) => return Found::Route(Arc::clone(route)),
            Err(Missing::Body) => return Found::AfterBody,
            Ok(false) | Err(Missing::Unknown) => {}
        }
    }
    Found::Nothing
}

/// Host and port that a virtual host stands for.
pub(super) fn called(vhost: &VirtualHost) -> (&str, u16) {
    let host = vhost.domains.first().map_or("", |domain| &**domain);
    (host, vhost.port)
}

/// Whether a route matches, with the reason on the trail.
fn explained(
    route: &Route,
    vhost: &VirtualHost,
    request: &Canonical,
    body: &Read,
    cx: &mut Cx<'_>,
) -> Result<bool, Missing> {
    let failing = first_failing(&route.matches, request, cx.origin);
    let (truth, because) = match (failing, &route.matches.when) {
        (Some(condition), _) => (Ok(false), format!("not so: {condition}")),
        (None, None) => (Ok(true), "all its conditions hold".to_owned()),
        (None, Some(when)) => {
            let attributes = Attributes::new(called(vhost), request, body, cx);
            let truth = when.truth(&attributes);
            let facts: Vec<String> = when
                .facts(&attributes)
                .into_iter()
                .map(|(name, value)| format!("{name} is {value}"))
                .collect();
            let is = match truth {
                Ok(true) => "so",
                Ok(false) => "not so",
                Err(Missing::Unknown) => "unknown, which satisfies nothing",
                Err(Missing::Body) => "the body decides",
            };
            (truth, format!("{is}: {when} ({})", facts.join(", ")))
        }
    };
    let decision = match truth {
        Ok(true) => "matches",
        Err(Missing::Body) => "waits",
        Ok(false) | Err(Missing::Unknown) => "does not match",
    };
    cx.explain(|| Why::new(Stage::Route, format!("{} {decision}", route.name), because));
    truth
}

/// Whether all conditions of a match hold.
pub(super) fn holds(conditions: &Match, request: &Canonical, origin: &Origin) -> bool {
    conditions
        .path
        .holds(request.path(), conditions.ignore_case)
        && conditions.made_there(origin.made_to.map(|to| to.ip()))
        && conditions
            .method
            .as_ref()
            .is_none_or(|m| m.holds(request.method().as_str().as_bytes()))
        && conditions.authority.as_ref().is_none_or(|a| {
            a.holds(request.authority().as_bytes()) || a.holds(request.host().as_bytes())
        })
        && conditions
            .headers
            .iter()
            .all(|h| h.holds(value_of(&h.subject, request, origin).as_deref()))
        && conditions
            .query
            .iter()
            .all(|q| query_holds(q, request.query()))
        && conditions
            .claims
            .iter()
            .all(|(claim, inverted)| claim_holds(claim, request) != *inverted)
}

/// Whether the verified token says so; without one nothing is said.
fn claim_holds(wanted: &ClaimCondition, request: &Canonical) -> bool {
    let claims = request.claims.as_deref();
    wanted.holds(claims.and_then(|claims| claims.at(&wanted.path)))
}

/// The first condition of a match that fails, in words; `None` when all hold.
#[must_use]
pub fn first_failing(conditions: &Match, request: &Canonical, origin: &Origin) -> Option<String> {
    let only = |part: &Match| !holds(part, request, origin);
    let path = Match {
        path: conditions.path.clone(),
        ignore_case: conditions.ignore_case,
        ..Match::default()
    };
    if only(&path) {
        return Some(format!("{} (it is {:?})", path.path, request.path()));
    }
    if let Some(method) = &conditions.method
        && !method.holds(request.method().as_str().as_bytes())
    {
        return Some(format!("method {method} (it is {})", request.method()));
    }
    let authority = Match {
        authority: conditions.authority.clone(),
        ..Match::default()
    };
    if let Some(wanted) = &authority.authority
        && only(&authority)
    {
        return Some(format!(
            "authority {wanted} (it is {:?})",
            request.authority()
        ));
    }
    if !conditions.made_there(origin.made_to.map(|to| to.ip())) {
        return Some("the address that the connection was made to".to_owned());
    }
    for header in &conditions.headers {
        let value = value_of(&header.subject, request, origin);
        if !header.holds(value.as_deref()) {
            let is = value.map_or_else(
                || "it is missing".to_owned(),
                |v| format!("it is {:?}", String::from_utf8_lossy(&v)),
            );
            return Some(format!("{header} ({is})"));
        }
    }
    for (claim, inverted) in &conditions.claims {
        if claim_holds(claim, request) == *inverted {
            let word = if *inverted { "no " } else { "" };
            return Some(format!("{word}claim {}", claim.path.join(".")));
        }
    }
    let query = conditions
        .query
        .iter()
        .find(|q| !query_holds(q, request.query()))?;
    Some(match &query.value {
        None => format!("query parameter {} present", query.name),
        Some(value) => format!("query parameter {} {value}", query.name),
    })
}

/// The value a header condition sees; several values count as one joined by commas.
pub(super) fn value_of<'a>(
    subject: &Subject,
    request: &'a Canonical,
    origin: &Origin,
) -> Option<Cow<'a, [u8]>> {
    match subject {
        Subject::Method => Some(request.method().as_str().as_bytes().into()),
        Subject::Authority => Some(request.authority().as_bytes().into()),
        Subject::Target => Some(request.target().as_bytes().into()),
        Subject::Scheme => Some(if origin.tls { &b"https"[..] } else { b"http" }.into()),
        Subject::Header(name) => {
            let mut values = request.headers().get_all(name).iter();
            let first = values.next()?.as_bytes();
            let Some(second) = values.next() else {
                return Some(first.into());
            };
            let mut joined = first.to_vec();
            for value in std::iter::once(second).chain(values) {
                joined.push(b',');
                joined.extend_from_slice(value.as_bytes());
            }
            Some(joined.into())
        }
    }
}

fn query_holds(condition: &QueryCondition, query: Option<&str>) -> bool {
    let value = query.unwrap_or_default().split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == &*condition.name && !pair.is_empty()).then_some(value)
    });
    match (&condition.value, value) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(wanted), Some(value)) => wanted.holds(value.as_bytes()),
    }
}
