//! What a ServiceEntry or Sidecar names and does not get, because others were there before or a name is not theirs.

use crate::compile::egress;
use crate::world::{GRANTS, Refused, World};
use naka_api::{Object, codes};
use naka_types::finding::Finding;

/// Who holds what this object claims.
pub(super) fn winner(world: &World, object: &Object) -> Option<String> {
    let meta = &object.meta;
    if let Some(own) = object.sidecar() {
        let all = world.sidecars.get(&meta.namespace)?;
        let first = all.iter().find(|other| {
            let other = other.sidecar();
            other.is_some_and(|other| other.selector == own.selector)
        })?;
        return (first.reference() != object.reference()).then(|| first.reference().to_string());
    }
    let key = (meta.namespace.clone(), meta.name.clone());
    let (_, host, refused) = world.refused.get(&key)?.first()?;
    Some(match refused {
        Refused::Foreign(namespace) => format!("namespace {namespace} owns {host} and"),
        Refused::Service(host) => format!("the service {host}"),
        Refused::Older(older) => older.to_string(),
    })
}

/// The same as findings, each at its field.
pub(super) fn findings(world: &World, object: &Object) -> Vec<Finding> {
    let meta = &object.meta;
    if object.sidecar().is_some() {
        let older = winner(world, object);
        return older
            .map(|older| {
                let message = format!("{older} is older and holds for the same workloads");
                Finding::new(codes::L349.id, message)
                    .at("spec.workloadSelector")
                    .on(object.reference())
            })
            .into_iter()
            .chain(egress::contested(world, object))
            .collect();
    }
    let key = (meta.namespace.clone(), meta.name.clone());
    let all = world.refused.get(&key).map_or(&[][..], Vec::as_slice);
    all.iter()
        .map(|(index, host, refused)| {
            let (code, message) = match refused {
                Refused::Foreign(namespace) => (
                    codes::L345,
                    format!(
                        "{host} belongs to namespace {namespace}, which grants it to nobody here ({GRANTS}): this entry has no effect for it"
                    ),
                ),
                Refused::Service(host) => (
                    codes::L348,
                    format!("{host} is a service of the mesh: this entry has no effect for it"),
                ),
                Refused::Older(older) => (
                    codes::L348,
                    format!("{older} is older and has {host}: this entry has no effect for it"),
                ),
            };
            Finding::new(code.id, message)
                .at(format!("spec.hosts[{index}]"))
                .on(object.reference())
        })
        .collect()
}
