//! Guards of a port: what is asked before tokens are read and policies are, and what becomes of who fails.
//!
//! A ban counts for a verified caller by its identity; for a client that such a caller passes on (a gateway does, and
//! says so in `x-forwarded-for`) for that client alone, so that one bad request from outside never cuts the gateway off;
//! for anybody else by address. A ban by address holds for who has no identity; and where a verified caller has the same
//! address (one machine, a NAT) failed handshakes ban nobody, since they would end its next one too.
//!
//! Nothing is counted while a decision is only explained.

use super::Cx;
use super::access::{By, Judged, Noticed};
use crate::canonical::{Canonical, Direction, Origin};
use crate::guard;
use crate::model::{Access, Ban, Guard, Guarding, RequestGuard, Watch};
use crate::runtime::{Peer, Struck};
use crate::why::{Stage, Why};
use naka_types::protocol::Protocol;
use naka_types::reason::Reason;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long an address is spared after a verified caller was seen there.
const VOUCHED: Duration = Duration::from_secs(3600);

/// What is wrong with a token, as guards see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anomaly {
    Expired,
    Signature,
    Issuer,
}

impl Anomaly {
    fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
        }
    }
}

/// What a guard found.
struct Found<'a> {
    rule: &'a Arc<str>,
    reason: Reason,
    /// What it is, where the rule does not say it.
    what: &'static str,
}

/// Asks the guards about a request.
pub(super) fn admit(
    access: &Access,
    request: &Canonical,
    judged: &mut Option<Box<Judged>>,
    cx: &mut Cx<'_>,
) -> Result<(), Reason> {
    for object in &access.guards {
        let peer = peer(cx.origin, Some(request));
        not_banned(object, peer, judged, cx)?;
        for (number, one) in object.guards.iter().enumerate() {
            match found(one, request) {
                None if one.watch.is_of_requests() => {
                    cx.explain(|| {
                        Why::new(
                            Stage::Policy,
                            "passed",
                            format!("{} finds nothing", one.rule),
                        )
                    });
                }
                None => {}
                Some(found) => act(object, (number, one), &found, peer, judged, cx)?,
            }
        }
    }
    Ok(())
}

/// Whether bytes may pass: not those of who is banned, and not where a request was to be looked at and these may be
/// one. On a port that is declared as bytes nobody speaks of requests.
pub(super) fn admit_bytes(
    access: &Access,
    judged: &mut Option<Box<Judged>>,
    cx: &mut Cx<'_>,
) -> Result<(), Reason> {
    for object in &access.guards {
        not_banned(object, peer(cx.origin, None), judged, cx)?;
        let unknown = match cx.origin.direction {
            Direction::Inbound { port } => cx
                .snapshot
                .inbound(port)
                .is_some_and(|inbound| inbound.protocol == Protocol::Auto),
            Direction::Gateway | Direction::Outbound => false,
        };
        if unknown && object.refuses_requests() {
            cx.explain(|| {
                let because = format!(
                    "{} looks at requests, and these bytes are none it could look at: declare the port's protocol",
                    object.rule
                );
                Why::new(Stage::Policy, "denied", because)
            });
            refused_by(
                judged,
                &object.rule,
                "bytes on a port without a declared protocol",
            );
            return Err(Reason::GuardSyntax);
        }
    }
    Ok(())
}

/// A token was not taken: the request is refused, whoever it counts for.
pub(super) fn token_refused(
    access: &Access,
    request: &Canonical,
    anomaly: Anomaly,
    judged: &mut Option<Box<Judged>>,
    cx: &mut Cx<'_>,
) {
    for object in &access.guards {
        let peer = peer(cx.origin, Some(request));
        for (number, one) in object.guards.iter().enumerate() {
            let watched = match &one.watch {
                Watch::Tokens(all) => match anomaly {
                    Anomaly::Expired => all.expired,
                    Anomaly::Signature => all.signature,
                    Anomaly::Issuer => all.issuer,
                },
                _ => false,
            };
            if watched {
                let found = Found {
                    rule: &one.rule,
                    reason: Reason::TokenInvalid,
                    what: anomaly.word(),
                };
                // Refused it is already.
                let _ = act(object, (number, one), &found, peer, judged, cx);
            }
        }
    }
}

fn found<'g>(guard: &'g Guard, request: &Canonical) -> Option<Found<'g>> {
    let rule = &guard.rule;
    match &guard.watch {
        Watch::Methods(allowed) => (!allowed.contains(request.method())).then_some(Found {
            rule,
            reason: Reason::GuardMethod,
            what: "",
        }),
        Watch::Syntax => guard::strict(request).map(|what| Found {
            rule,
            reason: Reason::GuardSyntax,
            what,
        }),
        Watch::Patterns(sought) => guard::find(sought, request).map(|one| Found {
            rule: &one.rule,
            reason: Reason::GuardPattern,
            what: "",
        }),
        Watch::Handshakes | Watch::Tokens(_) => None,
    }
}

fn act(
    object: &RequestGuard,
    (number, guard): (usize, &Guard),
    found: &Found<'_>,
    peer: Option<Peer<'_>>,
    judged: &mut Option<Box<Judged>>,
    cx: &mut Cx<'_>,
) -> Result<(), Reason> {
    let decision = match guard.action {
        Guarding::Log => "logged",
        Guarding::Deny | Guarding::Ban(_) => "denied",
    };
    cx.explain(|| {
        let colon = if found.what.is_empty() { "" } else { ": " };
        let because = format!("{} matches{colon}{}", found.rule, found.what);
        Why::new(Stage::Policy, decision, because)
    });
    if guard.action == Guarding::Log {
        notice(judged, "logged", found.rule);
        return Ok(());
    }
    if let (Guarding::Ban(ban), Some(peer), None) = (&guard.action, peer, &cx.why)
        && object.peers().strike(number, peer, ban, cx.now) == Struck::Banned
    {
        notice(judged, "banned", &guard.rule);
    }
    refused_by(judged, found.rule, found.what);
    Err(found.reason)
}

fn notice(judged: &mut Option<Box<Judged>>, outcome: &'static str, rule: &Arc<str>) {
    judged.get_or_insert_default().noticed.push(Noticed {
        outcome,
        rule: Arc::clone(rule),
    });
}

fn refused_by(judged: &mut Option<Box<Judged>>, rule: &Arc<str>, what: &str) {
    let judged = judged.get_or_insert_default();
    judged.by = By::Guard;
    judged.refused_by = Some(match what {
        "" => Arc::clone(rule),
        what => format!("{rule}: {what}").into(),
    });
}

fn not_banned(
    object: &RequestGuard,
    peer: Option<Peer<'_>>,
    judged: &mut Option<Box<Judged>>,
    cx: &mut Cx<'_>,
) -> Result<(), Reason> {
    if !object.bans() {
        return Ok(());
    }
    let Some(left) = peer.and_then(|peer| object.peers().banned(peer, cx.now)) else {
        return Ok(());
    };
    cx.explain(|| {
        let because = format!(
            "{} bans the caller for {} s more",
            object.rule,
            left.as_secs()
        );
        Why::new(Stage::Policy, "denied", because)
    });
    refused_by(judged, &object.rule, "");
    Err(Reason::PeerBanned)
}

/// Whom a failure counts for; nobody where not even an address is known.
fn peer<'o>(origin: &'o Origin, request: Option<&Canonical>) -> Option<Peer<'o>> {
    let known = origin
        .source
        .as_ref()
        .filter(|source| !source.identity.is_empty());
    let Some(source) = known else {
        return origin.address.map(Peer::address);
    };
    let told = request.and_then(|request| {
        let all = request.headers().get_all("x-forwarded-for");
        let last = all.iter().next_back()?.to_str().ok()?;
        last.rsplit(',').next()?.trim().parse().ok()
    });
    Some(match told {
        Some(client) => Peer::through(&source.identity, client),
        None => Peer::Identity(&source.identity),
    })
}

/// A connection that has not said who it is, before its handshake: the object that bans its address.
#[must_use]
pub fn bans_address(access: &Access, address: IpAddr, now: Duration) -> Option<&Arc<str>> {
    let mut all = access.guards.iter().filter(|object| object.bans());
    all.find(|object| {
        let peers = object.peers();
        peers.banned(Peer::address(address), now).is_some() && !peers.is_vouched(address, now)
    })
    .map(|object| &object.rule)
}

/// What guards say of a failed handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Which guard.
    pub rule: Arc<str>,
    /// `logged`, `denied` or, where the address is banned from now on, `banned`.
    pub outcome: &'static str,
}

/// Counts a failed handshake.
#[must_use]
pub fn handshake_failed(access: &Access, address: IpAddr, now: Duration) -> Vec<Failed> {
    let mut out = Vec::new();
    for object in &access.guards {
        for (number, guard) in object.guards.iter().enumerate() {
            if guard.watch != Watch::Handshakes {
                continue;
            }
            let outcome = match &guard.action {
                Guarding::Log => "logged",
                Guarding::Deny => "denied",
                Guarding::Ban(ban) => strike(object, (number, ban), address, now),
            };
            out.push(Failed {
                rule: Arc::clone(&guard.rule),
                outcome,
            });
        }
    }
    out
}

fn strike(
    object: &RequestGuard,
    (number, ban): (usize, &Ban),
    address: IpAddr,
    now: Duration,
) -> &'static str {
    let peers = object.peers();
    if peers.is_vouched(address, now) {
        return "denied";
    }
    match peers.strike(number, Peer::address(address), ban, now) {
        Struck::Banned => "banned",
        Struck::Counted | Struck::NoRoom => "denied",
    }
}

/// Takes note of a verified caller's address, where failed handshakes may ban.
pub fn handshake_done(access: &Access, address: IpAddr, now: Duration) {
    for object in access.guards.iter().filter(|object| object.bans()) {
        let mut all = object.guards.iter();
        if all.any(|guard| guard.watch == Watch::Handshakes) {
            object.peers().vouch(address, now + VOUCHED, now);
        }
    }
}
