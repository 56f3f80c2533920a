//! What was picked and why, in words.

use super::{Picked, Wish};
use crate::model::{Cluster, Endpoint, HashKey, Health, Policy};
use crate::why::{Stage, Why};
use std::fmt::Write as _;
use std::sync::Arc;

/// The decision with everything it rests on.
pub(crate) fn explain(cluster: &Cluster, picked: Option<&Picked<'_>>, wish: &Wish) -> Why {
    let spec = &cluster.spec;
    let mut because = spec.policy.as_str().to_owned();
    if matches!(spec.policy, Policy::RingHash { .. } | Policy::Maglev { .. }) {
        let _ = match (&spec.balance.hash, wish.hash) {
            (Some(key), Some(hash)) => write!(because, " by {} (hash {hash:016x})", named(key)),
            (Some(key), None) => write!(because, " by {}, which is absent: at random", named(key)),
            (None, _) => write!(because, " without a key: at random"),
        };
    }
    let _ = write!(because, " of {}", cluster.name());
    let nearer: Vec<_> = cluster.groups.iter().map(|g| g.priority).collect();
    if let Some(picked) = picked {
        if nearer.iter().any(|p| *p != picked.priority) {
            let _ = write!(because, ", priority {}", picked.priority);
        }
        if let Some(place) = place(cluster, picked.endpoint) {
            let _ = write!(because, ", place {place}");
        }
        if picked.spilled {
            because.push_str(", nearer ones are at their limit");
        }
        if picked.panic {
            because.push_str(", known to be broken but too few others are left");
        }
    }
    because.push_str(": ");
    if cluster.endpoints.is_empty() {
        because.push_str("no endpoints");
    }
    for (index, endpoint) in cluster.endpoints.iter().enumerate() {
        if index > 0 {
            because.push_str(", ");
        }
        let _ = write!(because, "{} ({})", endpoint.address, state(endpoint, wish));
    }
    if spec.policy == Policy::Passthrough && picked.is_none() {
        because.push_str(
            "; PASSTHROUGH calls the address that the program chose, and it chose none of these",
        );
    }
    Why::new(
        Stage::Endpoint,
        picked.map_or_else(|| "none".to_owned(), |p| p.endpoint.address.to_string()),
        because,
    )
}

/// Where an endpoint stands, if its group says so.
fn place<'a>(cluster: &'a Cluster, endpoint: &Arc<Endpoint>) -> Option<&'a str> {
    let mut at = cluster
        .endpoints
        .iter()
        .position(|e| Arc::ptr_eq(e, endpoint))?;
    for group in &cluster.groups {
        if at < group.size {
            return Some(&*group.place).filter(|place| !place.is_empty());
        }
        at -= group.size;
    }
    None
}

fn named(key: &HashKey) -> String {
    match key {
        HashKey::Header(name) => format!("header {name}"),
        HashKey::Cookie(cookie) => format!("cookie {}", cookie.name),
        HashKey::SourceIp => "the caller's address".to_owned(),
        HashKey::Query(name) => format!("query parameter {name}"),
    }
}

fn state(endpoint: &Endpoint, wish: &Wish) -> String {
    let health = match endpoint.health {
        Health::Healthy if endpoint.state.is_barred() => "barred",
        Health::Healthy => "healthy",
        Health::Draining => "draining",
        Health::Unhealthy => "unhealthy",
    };
    let tried = if Some(endpoint.address) == wish.avoid {
        ", just tried"
    } else {
        ""
    };
    format!(
        "{health}, weight {}, {} active{tried}",
        endpoint.weight,
        endpoint.state.active()
    )
}
