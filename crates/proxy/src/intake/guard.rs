//! Guards before a port. One that cannot be taken is an error of the chain that holds it, which is then not served:
//! without it more would get through. Who is banned is found by the registry afterwards ([`adopt`]).

use super::{Error, listener};
use http::Method;
use naka_engine::guard::set;
use naka_engine::model::{
    Access, Anomalies, Ban, Guard, Guarding, Pattern, RequestGuard, Sought, Watch,
};
use naka_engine::runtime::Registry;
use naka_types::node::GUARD;
use naka_wire::envoy::config::listener::v3::{Filter, filter};
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use naka_wire::google::protobuf::Any;
use naka_wire::v1;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Those among filters of requests.
pub(super) fn of_requests(filters: &[HttpFilter]) -> Result<Box<[RequestGuard]>, Error> {
    let own = filters.iter().filter(|filter| filter.name == GUARD);
    let configs = own.map(|filter| match &filter.config_type {
        Some(http_filter::ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    });
    all(configs)
}

/// Those among filters of bytes.
pub(super) fn of_bytes(filters: &[Filter]) -> Result<Box<[RequestGuard]>, Error> {
    let own = filters.iter().filter(|filter| filter.name == GUARD);
    let configs = own.map(|filter| match &filter.config_type {
        Some(filter::ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    });
    all(configs)
}

fn all<'c>(configs: impl Iterator<Item = Option<&'c Any>>) -> Result<Box<[RequestGuard]>, Error> {
    let mut out = Vec::new();
    for config in configs {
        let config = config.ok_or_else(|| Error::at("guards", "it is missing"))?;
        let wire: v1::Guards =
            naka_wire::unpack(config).map_err(|error| Error::at("guards", error))?;
        for (index, object) in wire.objects.iter().enumerate() {
            let within = |error: Error| error.within(&format!("guards.objects[{index}]"));
            out.push(object_of(object).map_err(within)?);
        }
    }
    Ok(out.into())
}

fn object_of(wire: &v1::RequestGuard) -> Result<RequestGuard, Error> {
    let guards = wire.guards.iter().enumerate().map(|(index, guard)| {
        guard_of(guard, &wire.name).map_err(|error| error.within(&format!("guards[{index}]")))
    });
    Ok(RequestGuard {
        rule: format!("guard[{}]", wire.name).into(),
        guards: guards.collect::<Result<_, _>>()?,
        peers: OnceLock::new(),
    })
}

fn guard_of(wire: &v1::Guard, object: &str) -> Result<Guard, Error> {
    let rule: Arc<str> = format!("guard[{object}/{}]", wire.name).into();
    let watch = if !wire.methods.is_empty() {
        let methods = wire.methods.iter();
        let methods = methods.map(|method| {
            Method::from_bytes(method.as_bytes()).map_err(|error| Error::at("methods", error))
        });
        Watch::Methods(methods.collect::<Result<_, _>>()?)
    } else if wire.syntax {
        Watch::Syntax
    } else if !wire.patterns.is_empty() {
        let patterns = wire.patterns.iter();
        Watch::Patterns(
            patterns
                .map(|pattern| sought(pattern, &rule))
                .collect::<Result<_, _>>()?,
        )
    } else if wire.handshakes {
        Watch::Handshakes
    } else if !wire.tokens.is_empty() {
        Watch::Tokens(anomalies(&wire.tokens)?)
    } else {
        return Err(Error::at("guard", "it looks at nothing that is known"));
    };
    let action = match (wire.log, wire.failures) {
        (true, _) => Guarding::Log,
        (false, 0) => Guarding::Deny,
        (false, failures) => Guarding::Ban(Ban {
            failures,
            per: Duration::from_nanos(wire.per_ns),
            lasts: Duration::from_nanos(wire.ban_ns),
        }),
    };
    Ok(Guard {
        rule,
        watch,
        action,
    })
}

fn sought(wire: &v1::GuardPattern, rule: &str) -> Result<Sought, Error> {
    let regex = match wire.regex.as_str() {
        "" => set(&wire.name)
            .ok_or_else(|| Error::at("patterns", format!("no set is named {:?}", wire.name)))?,
        own => own.to_owned(),
    };
    let pattern = Pattern::search(&regex).map_err(|error| Error::at("patterns", error))?;
    Ok(Sought {
        rule: format!("{rule}-pattern[{}]", wire.name).into(),
        pattern,
    })
}

fn anomalies(words: &[String]) -> Result<Anomalies, Error> {
    let mut all = Anomalies::default();
    for word in words {
        match word.as_str() {
            "expired" => all.expired = true,
            "signature" => all.signature = true,
            "issuer" => all.issuer = true,
            other => return Err(Error::at("tokens", format!("{other:?} is not known"))),
        }
    }
    Ok(all)
}

/// Gives every guard of a listener the table of peers that is in use already.
pub fn adopt(part: &listener::Part, registry: &Registry) {
    let of = |access: &Option<Arc<Access>>| {
        for guard in access.iter().flat_map(|access| &access.guards) {
            registry.adopt_guard(guard);
        }
    };
    match part {
        listener::Part::Inbound(ports) => ports.iter().for_each(|port| of(&port.access)),
        listener::Part::Egress(_) => {}
        listener::Part::Gateway(port) => {
            for chain in port.edge.chains() {
                of(&chain.access);
            }
        }
    }
}
