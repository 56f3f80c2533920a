//! Lints: what is accepted but probably not meant, within an object and between objects.
//!
//! Only the given objects are looked at, so the same code serves `naka check -f` on files and the live state. Findings
//! carry object and field; [`crate::Decoded::lint`] adds file and line.

mod access;
mod balance;
mod certificates;
mod classes;
mod deadlines;
mod gateways;
mod guards;
pub mod hosts;
mod limits;
mod policies;
mod routes;
mod subsets;

use crate::codes::Code;
use crate::object::Object;
use naka_types::finding::Finding;

/// What is probably not meant in these objects, seen together. In the order of the objects.
#[must_use]
pub fn cross_check(objects: &[&Object]) -> Vec<Finding> {
    let uses = subsets::Uses::of(objects);
    let claims = hosts::Claims::of(objects);
    let gateways: Vec<&Object> = objects
        .iter()
        .copied()
        .filter(|object| object.gateway().is_some())
        .collect();
    let mut out = Vec::new();
    for object in objects {
        access::check(&mut out, object, objects);
        classes::check(&mut out, object, objects);
        deadlines::check(&mut out, object, objects);
        if let Some(service) = object.virtual_service() {
            gateways::check(&mut out, object, service, &gateways);
            routes::check(&mut out, object, service);
            balance::check_routes(&mut out, object, service, objects);
            claims.check(&mut out, object, service);
            uses.check_routes(&mut out, object, service);
        }
        if let Some(policy) = object.certificate_policy() {
            certificates::check(&mut out, object, policy);
        }
        if let Some(limit) = object.local_rate_limit() {
            limits::check(&mut out, object, limit, objects);
        }
        if let Some(guard) = object.request_guard() {
            guards::check(&mut out, object, guard, objects);
        }
        if let Some(rule) = object.destination_rule() {
            policies::check(&mut out, object, rule);
            balance::check_rule(&mut out, object, rule);
            uses.check_rule(&mut out, object, rule);
        }
    }
    out
}

fn say(
    out: &mut Vec<Finding>,
    code: Code,
    object: &Object,
    field: &str,
    message: String,
    fix: String,
) {
    out.push(
        Finding::new(code.id, message)
            .on(object.reference())
            .at(field)
            .fix(fix),
    );
}
