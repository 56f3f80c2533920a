//! References from VirtualServices to Gateways.

use super::say;
use crate::codes;
use crate::networking::virtual_service::{GatewayRef, VirtualService};
use crate::object::Object;
use naka_types::finding::Finding;

pub(super) fn check(
    out: &mut Vec<Finding>,
    object: &Object,
    service: &VirtualService,
    gateways: &[&Object],
) {
    let of_matches = service.http.iter().flat_map(|route| {
        route
            .matches
            .iter()
            .enumerate()
            .flat_map(move |(number, condition)| {
                let at = format!("spec.http[{}].match[{number}].gateways", route.index);
                condition
                    .gateways
                    .iter()
                    .enumerate()
                    .map(move |(place, gateway)| (format!("{at}[{place}]"), gateway))
            })
    });
    let own = service
        .gateways
        .iter()
        .enumerate()
        .map(|(place, gateway)| (format!("spec.gateways[{place}]"), gateway));
    for (field, gateway) in own.chain(of_matches) {
        let GatewayRef::Named { namespace, name } = gateway else {
            continue;
        };
        if gateways
            .iter()
            .any(|other| other.meta.namespace == *namespace && other.meta.name == *name)
        {
            continue;
        }
        let elsewhere = gateways
            .iter()
            .find(|other| other.meta.name == *name)
            .or_else(|| {
                let near = crate::schema::nearest(
                    name,
                    gateways.iter().map(|other| other.meta.name.as_str()),
                )?;
                gateways.iter().find(|other| other.meta.name == near)
            });
        let (hint, fix) = match elsewhere {
            Some(other) => {
                let full = format!("{}/{}", other.meta.namespace, other.meta.name);
                (format!("; did you mean {full}?"), format!("write {full}"))
            }
            None => (
                String::new(),
                "apply the Gateway, or correct the name".to_owned(),
            ),
        };
        say(
            out,
            codes::E312,
            object,
            &field,
            format!("gateway {namespace}/{name} not found{hint}"),
            fix,
        );
    }
}
