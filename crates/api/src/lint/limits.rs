//! Limits that limit nobody: a target that is not there, a key that the caller makes up.

use super::say;
use crate::codes;
use crate::limits::local_rate_limit::{LocalRateLimit, Target};
use crate::object::Object;
use naka_expr::{Expression, Place, Trust, Use};
use naka_types::finding::Finding;

pub(super) fn check(
    out: &mut Vec<Finding>,
    object: &Object,
    limit: &LocalRateLimit,
    all: &[&Object],
) {
    for (index, target) in limit.targets.iter().enumerate() {
        let here = |other: &&&Object| other.meta.namespace == object.meta.namespace;
        let missing = match target {
            // A service needs no object.
            Target::Service(_) => None,
            Target::Gateway(name) => {
                let mut gateways = all
                    .iter()
                    .filter(here)
                    .filter(|other| other.gateway().is_some());
                (!gateways.any(|other| other.meta.name == *name))
                    .then(|| format!("there is no Gateway {name}"))
            }
            Target::Route { name, section } => {
                let mut services = all
                    .iter()
                    .filter(here)
                    .filter_map(|other| Some((other, other.virtual_service()?)));
                match services.find(|(other, _)| other.meta.name == *name) {
                    None => Some(format!("there is no VirtualService {name}")),
                    Some((_, service)) => section
                        .as_ref()
                        .filter(|section| {
                            service
                                .http
                                .iter()
                                .all(|route| route.name.as_ref() != Some(section))
                        })
                        .map(|section| {
                            format!("VirtualService {name} has no route named {section}")
                        }),
                }
            }
        };
        if let Some(missing) = missing {
            say(
                out,
                codes::L371,
                object,
                &format!("spec.targetRefs[{index}]"),
                format!(
                    "{missing} in namespace {}: nothing is limited there",
                    object.meta.namespace
                ),
                "correct the name, or apply the object it means".to_owned(),
            );
        }
    }
    for (at, rule) in limit.rules.iter().enumerate() {
        for (index, key) in rule.keys.iter().enumerate() {
            let Ok(expression) = Expression::compile(key, Use::Key, Place::Limit) else {
                continue;
            };
            let claimed = expression
                .reads()
                .find(|(row, _)| row.trust == Trust::Claimed);
            if let Some((_, name)) = claimed.map(|(row, name)| (row, name.to_owned())) {
                say(
                    out,
                    codes::L370,
                    object,
                    &format!("spec.rules[{at}].keys[{index}]"),
                    format!("{name} is what the caller says: another value has another bucket"),
                    "add a rule without keys as a bound for all, or use source.principal or source.address".to_owned(),
                );
            }
        }
    }
}
