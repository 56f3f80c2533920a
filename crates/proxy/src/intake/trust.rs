//! Trust models before a port. One that cannot be taken is an error of the chain that holds it, which is then not served:
//! without it more would get through.

use super::{Error, access};
use naka_engine::model::{Crossing, Hours, Operation, TrustModel, Zones};
use naka_expr::{Expression, Place, Use};
use naka_types::cidr::Cidr;
use naka_types::node::TRUST;
use naka_wire::envoy::config::listener::v3::{Filter, filter};
use naka_wire::envoy::config::rbac::v3::Permission;
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use naka_wire::google::protobuf::Any;
use naka_wire::prost::Message;
use naka_wire::v1;
use std::time::Duration;

/// Those among filters of requests.
pub(super) fn of_requests(filters: &[HttpFilter]) -> Result<Box<[TrustModel]>, Error> {
    let own = filters.iter().filter(|filter| filter.name == TRUST);
    let configs = own.map(|filter| match &filter.config_type {
        Some(http_filter::ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    });
    all(configs)
}

/// Those among filters of bytes.
pub(super) fn of_bytes(filters: &[Filter]) -> Result<Box<[TrustModel]>, Error> {
    let own = filters.iter().filter(|filter| filter.name == TRUST);
    let configs = own.map(|filter| match &filter.config_type {
        Some(filter::ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    });
    all(configs)
}

fn all<'a>(configs: impl Iterator<Item = Option<&'a Any>>) -> Result<Box<[TrustModel]>, Error> {
    let mut models = Vec::new();
    for config in configs {
        let any = config.ok_or_else(|| Error::at("trust", "it has no configuration"))?;
        let wire: v1::Trust = naka_wire::unpack(any).map_err(|error| Error::at("trust", error))?;
        for (index, wire) in wire.models.iter().enumerate() {
            let read = model(wire).map_err(|e| e.within(&format!("trust.models[{index}]")));
            models.push(read?);
        }
    }
    Ok(models.into())
}

fn model(wire: &v1::TrustModel) -> Result<TrustModel, Error> {
    let crossing = |wire: &v1::TrustCrossing| Crossing {
        from: wire.from.as_str().into(),
        operations: wire.operations.iter().map(|o| o.as_str().into()).collect(),
    };
    let operations = wire.operations.iter().enumerate().map(|(index, wire)| {
        operation(wire).map_err(|error| error.within(&format!("operations[{index}]")))
    });
    let own = (!wire.zone.is_empty()).then(|| wire.zone.as_str().into());
    let levels = wire.levels.iter();
    Ok(TrustModel {
        name: wire.name.as_str().into(),
        clearance_label: wire.clearance_label.as_str().into(),
        zone_label: wire.zone_label.as_str().into(),
        levels: levels
            .map(|(name, at)| (name.as_str().into(), *at))
            .collect(),
        zones: wire.zoned.then(|| Zones {
            own,
            crossings: wire.crossings.iter().map(crossing).collect(),
        }),
        operations: operations.collect::<Result<_, _>>()?,
        approval_claim: Box::new([wire.approval_claim.as_str().into()]),
    })
}

fn operation(wire: &v1::TrustOperation) -> Result<Operation, Error> {
    let permission = Permission::decode(wire.permission.as_slice())
        .map_err(|error| Error::at("permission", error))?;
    let hours = wire.hours.iter().map(|wire| {
        let windows = wire.when.iter().map(|text| {
            Expression::compile(text, Use::Condition, Place::Limit)
                .map_err(|error| Error::at("hours", error))
        });
        Ok(Hours {
            windows: windows.collect::<Result<_, _>>()?,
            shown: wire.shown.as_str().into(),
        })
    });
    let networks = wire.networks.iter().map(|wire| {
        let ranges = wire.ranges.iter().map(|text| {
            Cidr::parse(text).map_err(|_| Error::at("networks", format!("{text:?} is no range")))
        });
        ranges.collect::<Result<_, _>>()
    });
    Ok(Operation {
        name: wire.name.as_str().into(),
        test: access::permission(&permission)?,
        clearance: wire.clearance,
        hours: hours.collect::<Result<_, Error>>()?,
        networks: networks.collect::<Result<_, _>>()?,
        dual: wire.dual,
        session: (wire.session_ns > 0).then(|| Duration::from_nanos(wire.session_ns)),
        audit: wire.audit,
    })
}
