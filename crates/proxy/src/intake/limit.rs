//! Rate limits of a port of the program and of routes at gateways.
//!
//! Buckets are found by the registry afterwards ([`adopt`]), so that the same bytes give the same model here. A rule
//! that cannot be taken is an error of what holds it: without it more would get through.

use super::{Error, listener};
use naka_engine::model::{LimitRule, RateLimit, Serves};
use naka_engine::runtime::{Pace, Registry};
use naka_expr::{Expression, Place, Use};
use naka_wire::google::protobuf::Any;
use naka_wire::v1;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The rules of a limit.
///
/// # Errors
/// [`Error`] at the rule that cannot be carried out.
pub fn limit(wire: &Any) -> Result<Arc<RateLimit>, Error> {
    let wire: v1::RateLimit = naka_wire::unpack(wire).map_err(|error| Error::at("limit", error))?;
    let rules = wire.rules.iter().enumerate().map(|(index, wire)| {
        rule(wire).map_err(|error| error.within(&format!("limit.rules[{index}]")))
    });
    Ok(Arc::new(RateLimit {
        rules: rules.collect::<Result<_, _>>()?,
    }))
}

fn rule(wire: &v1::RateLimitRule) -> Result<LimitRule, Error> {
    let expression = |text: &String, purpose, field: &str| {
        Expression::compile(text, purpose, Place::Limit).map_err(|error| Error::at(field, error))
    };
    let when = (!wire.when.is_empty()).then(|| expression(&wire.when, Use::Condition, "when"));
    let keys = wire.keys.iter();
    let keys = keys.map(|key| expression(key, Use::Key, "keys"));
    let pace = Pace::new(
        wire.tokens,
        Duration::from_nanos(wire.interval_ns),
        wire.burst,
    );
    let places = if wire.keys.is_empty() {
        0
    } else {
        usize::try_from(wire.buckets).unwrap_or(usize::MAX).max(1)
    };
    Ok(LimitRule {
        name: wire.name.as_str().into(),
        when: when.transpose()?,
        keys: keys.collect::<Result<_, _>>()?,
        pace: pace.ok_or_else(|| Error::at("tokens", "no rate that could be kept"))?,
        dry_run: wire.dry_run,
        headers: wire.headers,
        places,
        buckets: OnceLock::new(),
    })
}

/// Gives every limit of a listener the buckets that are in use already.
pub fn adopt(part: &listener::Part, registry: &Registry) {
    match part {
        listener::Part::Inbound(ports) => {
            for limit in ports.iter().filter_map(|port| port.limit.as_ref()) {
                registry.adopt(limit);
            }
        }
        listener::Part::Egress(_) => {}
        listener::Part::Gateway(port) => {
            let served = port.edge.chains().iter().map(|chain| &chain.serves);
            let hosts = served.filter_map(|serves| match serves {
                Serves::Http(hosts) => Some(hosts.all()),
                _ => None,
            });
            for route in hosts.flatten().flat_map(|host| host.routes.iter()) {
                if let Some(limit) = &route.limit {
                    registry.adopt(limit);
                }
            }
        }
    }
}
