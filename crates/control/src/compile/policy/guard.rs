//! Guards of a workload or a gateway: as a filter of our own for our proxies, as rules that deny for an Envoy.
//!
//! An Envoy knows a method. What a strict reading forbids and what a pattern finds it cannot ask of every header, so
//! that a guard that refuses such requests refuses every request there: less gets through, never more. Tokens that are
//! not taken and handshakes that fail are refused by an Envoy as well; it counts neither, and bans nobody. Which of this
//! holds for whom, status says.

use super::{Compiled, Question, Tree, any, not};
use naka_api::own::request_guard::{Action, Guard, RequestGuard, Watch};
use naka_api::security::authorization_policy::Text;
use naka_types::node::GUARD;
use naka_wire::envoy::config::listener::v3::Filter;
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use naka_wire::google::protobuf::Any;
use naka_wire::v1;
use std::time::Duration;

/// An object that holds for a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) name: String,
    pub(super) guard: RequestGuard,
}

/// The filter before requests.
pub(super) fn of_requests(all: &[Held]) -> Option<HttpFilter> {
    Some(HttpFilter {
        name: GUARD.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config(all)?)),
        ..HttpFilter::default()
    })
}

/// The filter before bytes: who is banned is so there too.
pub(super) fn of_bytes(all: &[Held]) -> Option<Filter> {
    Some(super::super::listener::typed(GUARD, config(all)?))
}

fn config(all: &[Held]) -> Option<Any> {
    let objects = all.iter().map(|held| v1::RequestGuard {
        name: held.name.clone(),
        guards: held.guard.guards.iter().map(message).collect(),
    });
    let objects: Vec<v1::RequestGuard> = objects.collect();
    (!objects.is_empty()).then(|| naka_wire::pack(&v1::Guards { objects }))
}

fn message(guard: &Guard) -> v1::Guard {
    let mut out = v1::Guard {
        name: guard.name.clone(),
        ..v1::Guard::default()
    };
    match &guard.watch {
        Watch::Methods(allowed) => out.methods.clone_from(allowed),
        Watch::Syntax => out.syntax = true,
        Watch::Patterns(all) => {
            let all = all.iter().map(|(name, regex)| v1::GuardPattern {
                name: name.clone(),
                regex: regex.clone().unwrap_or_default(),
            });
            out.patterns = all.collect();
        }
        Watch::Handshakes => out.handshakes = true,
        Watch::Tokens(faults) => out.tokens.clone_from(faults),
    }
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    match guard.action {
        Action::Log => out.log = true,
        Action::Deny => {}
        Action::Ban {
            failures,
            per,
            lasts,
        } => (out.failures, out.per_ns, out.ban_ns) = (failures, nanos(per), nanos(lasts)),
    }
    out
}

/// The same for an Envoy: rules of which one that matches refuses; or those that are only told of.
pub(super) fn rules(all: &[Held], told: bool) -> Vec<Compiled> {
    let guards = all
        .iter()
        .flat_map(|held| held.guard.guards.iter().map(move |guard| (held, guard)));
    let own = guards.filter(|(_, guard)| (guard.action == Action::Log) == told);
    own.filter_map(|(held, guard)| {
        let what = match &guard.watch {
            Watch::Methods(allowed) => {
                let each = allowed.iter();
                not(any(each.map(|method| {
                    Tree::Ask(Question::Method(Text::Exact(method.clone())))
                })))
            }
            Watch::Syntax | Watch::Patterns(_) if !told => Tree::Always,
            Watch::Syntax | Watch::Patterns(_) | Watch::Handshakes | Watch::Tokens(_) => {
                return None;
            }
        };
        Some(Compiled {
            name: format!("guard[{}/{}]", held.name, guard.name),
            who: Tree::Always,
            what,
        })
    })
    .collect()
}

/// What an Envoy makes of an object, where that is not what it says.
pub(crate) fn at_envoy(guard: &RequestGuard) -> Option<String> {
    let mut words = Vec::new();
    for one in &guard.guards {
        let what = match (&one.watch, one.action) {
            (Watch::Methods(_), Action::Log | Action::Deny) => continue,
            (Watch::Methods(_), Action::Ban { .. }) => "refuses and bans nobody",
            (Watch::Syntax | Watch::Patterns(_), Action::Log) => "tells of nothing",
            (Watch::Syntax | Watch::Patterns(_), _) => "refuses every request",
            (Watch::Handshakes | Watch::Tokens(_), Action::Ban { .. }) => {
                "counts nothing and bans nobody"
            }
            (Watch::Handshakes | Watch::Tokens(_), _) => "counts nothing",
        };
        words.push(format!("{} {what}", one.name));
    }
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests;
