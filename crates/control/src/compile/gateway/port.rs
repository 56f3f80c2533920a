//! What holds for a port as a whole, by annotations of its Gateway: the PROXY header, and limits of connections.
//!
//! Istio has no field for either (there they are an EnvoyFilter or a setting of the proxy), so they are annotations. Of
//! several Gateways on a port the oldest one's count; another that says something else has a finding.

use super::chain::Stand;
use crate::compile::View;
use naka_api::{Object, codes};
use naka_types::cidr::Cidr;
use naka_types::finding::Finding;
use naka_types::node::NAKA;
use naka_wire::envoy::config::core::v3::Metadata;
use naka_wire::envoy::config::listener::v3::{Filter, ListenerFilter, listener_filter};
use naka_wire::envoy::extensions::filters::listener::local_ratelimit::v3::LocalRateLimit;
use naka_wire::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use naka_wire::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use naka_wire::envoy::r#type::v3::TokenBucket;
use naka_wire::google::protobuf::{UInt32Value, UInt64Value};
use naka_wire::{time, values};
use std::net::IpAddr;
use std::time::Duration;

/// Addresses, separated by commas, whose connections begin with a PROXY header.
const PROXY_PROTOCOL: &str = "naka.dev/proxy-protocol";
/// What is limited; the name on the wire is what follows the slash.
const LIMITS: [&str; 4] = [
    "naka.dev/max-connections",
    "naka.dev/max-connections-per-address",
    "naka.dev/connections-per-second",
    "naka.dev/connections-per-second-per-address",
];

/// What an Envoy has no limit for.
pub(crate) const BY_ADDRESS: &str = "limits: an Envoy counts the connections of a port, not those of one address (naka.dev/max-connections-per-address, naka.dev/connections-per-second-per-address)";

/// What holds for a port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Port {
    /// Addresses whose connections begin with a PROXY header; nobody else may connect then.
    pub(crate) heads_from: Vec<Cidr>,
    /// Limits by annotation.
    limits: Vec<(&'static str, u32)>,
}

/// What holds for the port of these servers.
pub(crate) fn port(view: &View<'_>, stands: &[Stand<'_>]) -> Port {
    let Some(first) = stands.first() else {
        return Port::default();
    };
    let own = |object: &Object| -> Vec<(String, String)> {
        let all = object.meta.annotations.iter();
        all.filter(|(name, _)| *name == PROXY_PROTOCOL || LIMITS.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    let decided = own(first.object);
    for stand in &stands[1..] {
        let differs = own(stand.object);
        if differs != decided && !differs.is_empty() {
            let name = first.object.reference();
            let message = format!(
                "what holds for port {} is said by {name}, which is older",
                stand.server.port
            );
            complain(
                view,
                stand.object,
                codes::E331.id,
                "metadata.annotations",
                message,
            );
        }
    }
    let mut port = Port::default();
    for (name, value) in decided {
        let at = format!("metadata.annotations.{name}");
        match LIMITS.iter().find(|limit| **limit == name) {
            Some(limit) => match value.trim().parse::<u32>() {
                Ok(number) if number > 0 => port.limits.push((limit, number)),
                _ => {
                    let message = format!("{value:?} is no number above 0; there is no limit");
                    complain(view, first.object, codes::E007.id, &at, message);
                }
            },
            None => port.heads_from = addresses(view, first.object, &at, &value),
        }
    }
    port
}

/// Addresses of an annotation; when one is unsound nobody is believed, rather than everybody.
fn addresses(view: &View<'_>, object: &Object, at: &str, value: &str) -> Vec<Cidr> {
    let all: Result<Vec<Cidr>, _> = value
        .split(',')
        .map(|one| Cidr::parse(one.trim()))
        .collect();
    match all {
        Ok(all) => all,
        Err(error) => {
            let message = format!("{error}; nobody can connect to its ports until it is corrected");
            complain(view, object, codes::E007.id, at, message);
            vec![Cidr::of(IpAddr::from([255, 255, 255, 255]))]
        }
    }
}

fn complain(view: &View<'_>, object: &Object, code: &str, field: &str, message: String) {
    view.finding(Finding::new(code, message).at(field).on(object.reference()));
}

impl Port {
    fn limit(&self, name: &str) -> Option<u32> {
        let found = self.limits.iter().find(|(known, _)| *known == name);
        found.map(|(_, number)| *number)
    }

    /// Whether something is limited that an Envoy cannot limit.
    pub(crate) fn by_address(&self) -> bool {
        self.limit(LIMITS[1]).is_some() || self.limit(LIMITS[3]).is_some()
    }

    /// For our own proxies.
    pub(crate) fn metadata(&self) -> Option<Metadata> {
        let word = |name: &'static str| name.rsplit('/').next().unwrap_or(name);
        let all = self
            .limits
            .iter()
            .map(|(name, number)| (word(name), number.to_string()));
        let own = values::string_struct(all);
        (!self.limits.is_empty()).then(|| values::metadata([(NAKA, own)]))
    }

    /// The reader of PROXY headers.
    pub(crate) fn heads(&self) -> Option<ListenerFilter> {
        (!self.heads_from.is_empty()).then(|| {
            let name = "envoy.filters.listener.proxy_protocol";
            before(name, naka_wire::pack(&ProxyProtocol::default()))
        })
    }

    /// An Envoy's limit of new connections.
    pub(crate) fn rate(&self) -> Option<ListenerFilter> {
        let rate = self.limit(LIMITS[2])?;
        let limit = LocalRateLimit {
            stat_prefix: "gateway".to_owned(),
            token_bucket: Some(TokenBucket {
                max_tokens: rate,
                tokens_per_fill: Some(UInt32Value { value: rate }),
                fill_interval: Some(time::to_wire(Duration::from_secs(1))),
            }),
            ..LocalRateLimit::default()
        };
        let name = "envoy.filters.listener.local_ratelimit";
        Some(before(name, naka_wire::pack(&limit)))
    }

    /// An Envoy's limit of connections at a time, of each of its filter chains.
    pub(crate) fn connections(&self) -> Option<Filter> {
        let most = self.limit(LIMITS[0])?;
        let limit = ConnectionLimit {
            stat_prefix: "gateway".to_owned(),
            max_connections: Some(UInt64Value {
                value: u64::from(most),
            }),
            ..ConnectionLimit::default()
        };
        let name = "envoy.filters.network.connection_limit";
        Some(crate::compile::listener::typed(
            name,
            naka_wire::pack(&limit),
        ))
    }
}

fn before(name: &str, config: naka_wire::google::protobuf::Any) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(config)),
        ..ListenerFilter::default()
    }
}
