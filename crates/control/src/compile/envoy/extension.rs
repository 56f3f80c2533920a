//! Filters of an Envoy that change without its listeners: policies and limits, each a resource of its own (ECDS).
//!
//! A listener that changes drains the connections of the chains that changed, a WebSocket among them. So listeners name
//! places for filters ([`Extension`]), always the same ones, and what stands there comes apart; a place without a use
//! holds a filter that does nothing. Until a place is filled for the first time the listener waits, so no call is
//! served before its policies are there.
//!
//! Invariants: what a listener is never depends on a policy or a limit; places are in the order of filters.

use super::{limit, listener};
use crate::compile::inbound::chains;
use crate::compile::policy::Policies;
use crate::compile::policy::message::{self, ACTIONS};
use crate::compile::{self, Built, Class, Key, View, gateway, roots, tls};
use crate::world::Read;
use naka_types::name::ClusterName;
use naka_types::node::Role;
use naka_wire::envoy::config::core::v3::{ExtensionConfigSource, TypedExtensionConfig};
use naka_wire::envoy::config::listener::v3::{Filter, filter};
use naka_wire::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use naka_wire::envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication;
use naka_wire::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use naka_wire::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use naka_wire::envoy::extensions::filters::network::rbac::v3::Rbac as BytesRbac;
use naka_wire::google::protobuf::Any;
use naka_wire::prost::Name;
use naka_wire::v1::RateLimitRule;
use std::sync::Arc;

/// What may stand in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Token,
    /// Rules of what is asked about.
    Asked,
    /// Who asks.
    Asker,
    Policy,
    Limit,
    PolicyOfBytes,
}

/// A place for a filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extension {
    kind: Kind,
    /// Of several of a kind.
    nth: usize,
    listener: String,
    /// Of limits at a gateway: which of its chains.
    chain: Option<String>,
}

/// Places before requests. Each filter has its own, whatever else there is: one that moved on to the next place would be
/// in neither for a moment.
const BEFORE_REQUESTS: [(Kind, usize); 5] = [
    (Kind::Token, 1),
    (Kind::Asked, 1),
    (Kind::Asker, 1),
    (Kind::Policy, ACTIONS),
    (Kind::Limit, 1),
];
const BEFORE_BYTES: [(Kind, usize); 1] = [(Kind::PolicyOfBytes, ACTIONS)];

impl Kind {
    const ALL: [Self; 6] = [
        Self::Token,
        Self::Asked,
        Self::Asker,
        Self::Policy,
        Self::Limit,
        Self::PolicyOfBytes,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Asked => "asked",
            Self::Asker => "asker",
            Self::Policy => "policy",
            Self::Limit => "limit",
            Self::PolicyOfBytes => "bytes-policy",
        }
    }

    /// A filter of this kind that does nothing.
    fn idle(self) -> Any {
        match self {
            Self::Token => naka_wire::pack(&JwtAuthentication::default()),
            // Somebody who asks needs somebody to ask; rules without any do nothing.
            Self::Asked | Self::Asker | Self::Policy => naka_wire::pack(&HttpRbac::default()),
            Self::Limit => naka_wire::pack(&LocalRateLimit {
                stat_prefix: "naka".to_owned(),
                ..LocalRateLimit::default()
            }),
            Self::PolicyOfBytes => naka_wire::pack(&BytesRbac {
                stat_prefix: "tcp.".to_owned(),
                ..BytesRbac::default()
            }),
        }
    }
}

impl Extension {
    /// Its name on the wire.
    #[must_use]
    pub fn name(&self) -> String {
        let mut name = format!("{}-{}@{}", self.kind.word(), self.nth, self.listener);
        if let Some(chain) = &self.chain {
            name.push('@');
            name.push_str(chain);
        }
        name
    }

    /// The place of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (place, at) = name.split_once('@')?;
        let (word, nth) = place.rsplit_once('-')?;
        let (listener, chain) = match at.split_once('@') {
            Some((listener, chain)) => (listener, Some(chain.to_owned())),
            None => (at, None),
        };
        Some(Self {
            kind: Kind::ALL.into_iter().find(|kind| kind.word() == word)?,
            nth: nth.parse().ok()?,
            listener: listener.to_owned(),
            chain,
        })
    }

    /// Name of the listener that has it.
    #[must_use]
    pub fn listener(&self) -> &str {
        &self.listener
    }

    fn source(&self) -> ExtensionConfigSource {
        let idle = self.kind.idle().type_url;
        let asker = (self.kind == Kind::Asker).then(ExtAuthz::type_url);
        ExtensionConfigSource {
            config_source: Some(tls::ads()),
            type_urls: std::iter::once(idle).chain(asker).collect(),
            ..ExtensionConfigSource::default()
        }
    }
}

fn places(kinds: &[(Kind, usize)], listener: &str, chain: Option<&str>) -> Vec<Extension> {
    let all = kinds
        .iter()
        .flat_map(|(kind, number)| (0..*number).map(move |nth| (*kind, nth)));
    let place = |(kind, nth)| Extension {
        kind,
        nth,
        listener: listener.to_owned(),
        chain: chain.filter(|_| kind == Kind::Limit).map(str::to_owned),
    };
    all.map(place).collect()
}

/// Places before the requests of a listener; `chain` names the chain of a gateway's.
pub(super) fn before_requests(listener: &str, chain: Option<&str>) -> Vec<Extension> {
    places(&BEFORE_REQUESTS, listener, chain)
}

/// Places before the bytes of a listener.
pub(super) fn before_bytes(listener: &str) -> Vec<Extension> {
    places(&BEFORE_BYTES, listener, None)
}

/// As filters of requests.
pub(super) fn requests(places: &[Extension]) -> Vec<HttpFilter> {
    let filter = |place: &Extension| HttpFilter {
        name: place.name(),
        config_type: Some(http_filter::ConfigType::ConfigDiscovery(place.source())),
        ..HttpFilter::default()
    };
    places.iter().map(filter).collect()
}

/// As filters of bytes.
pub(super) fn bytes(places: &[Extension]) -> Vec<Filter> {
    let filter = |place: &Extension| Filter {
        name: place.name(),
        config_type: Some(filter::ConfigType::ConfigDiscovery(place.source())),
    };
    places.iter().map(filter).collect()
}

/// As what a listener refers to.
pub(super) fn keys(places: Vec<Extension>) -> impl Iterator<Item = Key> {
    places.into_iter().map(Key::Extension)
}

/// What stands in a place; nothing, if no listener has it.
pub(super) fn resource(view: &View<'_>, place: &Extension, class: &Class) -> Option<Built> {
    let (model, all, asked) = match class.role {
        Role::Sidecar => of_program(view, place, class)?,
        Role::Gateway => of_gateway(view, place, class)?,
    };
    let config = all.into_iter().nth(place.nth).flatten();
    let message = TypedExtensionConfig {
        name: place.name(),
        typed_config: Some(config.unwrap_or_else(|| place.kind.idle())),
    };
    let asked = asked.filter(|_| place.kind == Kind::Asker);
    let refers = asked.into_iter().map(Key::Cluster).collect();
    Some(Built::new(&(place, model), naka_wire::pack(&message)).referring(refers))
}

/// The filters of a kind before a listener by place, with what they are made from, and whom they ask.
type Filters = (String, Vec<Option<Any>>, Option<ClusterName>);

fn of_program(view: &View<'_>, place: &Extension, class: &Class) -> Option<Filters> {
    let world = view.read(Read::Workload(class.workload_id.clone()));
    let registration = &world.workload(&class.workload_id)?.registration;
    let chain = chains(view, registration)
        .into_iter()
        .find(|chain| listener::inbound_name(chain.port) == place.listener)?;
    Some(match place.kind {
        Kind::Token => tokens(&chain.policies),
        Kind::Asked => asked(&chain.policies, chain.port),
        Kind::Asker => asker(&chain.policies),
        Kind::Policy => of_requests(view, &chain.policies, chain.port),
        Kind::PolicyOfBytes => of_bytes(&chain.policies, chain.port),
        Kind::Limit => {
            let rules = compile::limit::rules(&chain.limits);
            limits(&rules, limit::at_program(&rules))
        }
    })
}

fn of_gateway(view: &View<'_>, place: &Extension, class: &Class) -> Option<Filters> {
    let mut ports = roots::gateway_ports(view, class).into_iter();
    let port = ports.find(|port| gateway::name(*port) == place.listener)?;
    let policies = || compile::policy::of(view, &class.namespace, &class.labels, None);
    Some(match place.kind {
        Kind::Token => tokens(&policies()),
        Kind::Asked => asked(&policies(), port),
        Kind::Asker => asker(&policies()),
        Kind::Policy => of_requests(view, &policies(), port),
        Kind::PolicyOfBytes => of_bytes(&policies(), port),
        Kind::Limit => {
            let chains = gateway::chain::chains(&gateway::place(view, class, port));
            let mut chains = chains.iter();
            let chain = chains.find(|chain| Some(&chain.name) == place.chain.as_ref())?;
            let rules = limit::of_chain(chain);
            limits(&rules, limit::filter(&rules))
        }
    })
}

fn tokens(policies: &Policies) -> Filters {
    let filter = message::tokens(policies);
    (format!("{policies:?}"), vec![filter.and_then(config)], None)
}

fn asked(policies: &Policies, port: u16) -> Filters {
    let filter = message::asked_about(policies, port, false);
    let model = format!("{policies:?} {port}");
    (model, vec![filter.and_then(config)], None)
}

fn asker(policies: &Policies) -> Filters {
    let filter = message::asker(policies);
    let asked = policies.asked().cloned();
    (
        format!("{policies:?}"),
        vec![filter.and_then(config)],
        asked,
    )
}

fn of_requests(view: &View<'_>, policies: &Policies, port: u16) -> Filters {
    // Where no tokens are read, none is refused.
    let revoked = policies
        .revokable(|| Arc::clone(&view.read(Read::RevokedTokens).revoked_tokens))
        .unwrap_or_default();
    let rules = message::rules_of_requests(policies, port, false, &revoked);
    let configs = rules.map(|rules| rules.and_then(config));
    (
        format!("{policies:?} {port} {revoked:?}"),
        configs.into(),
        None,
    )
}

fn of_bytes(policies: &Policies, port: u16) -> Filters {
    let rules = message::rules_of_bytes(policies, port, false);
    let configs = rules.map(|rules| rules.and_then(config_of_bytes));
    (format!("{policies:?} {port}"), configs.into(), None)
}

fn limits(rules: &[RateLimitRule], filter: Option<HttpFilter>) -> Filters {
    (format!("{rules:?}"), vec![filter.and_then(config)], None)
}

fn config(filter: HttpFilter) -> Option<Any> {
    match filter.config_type? {
        http_filter::ConfigType::TypedConfig(config) => Some(config),
        http_filter::ConfigType::ConfigDiscovery(_) => None,
    }
}

fn config_of_bytes(filter: Filter) -> Option<Any> {
    match filter.config_type? {
        filter::ConfigType::TypedConfig(config) => Some(config),
        filter::ConfigType::ConfigDiscovery(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written() {
        for place in before_requests("0.0.0.0_443", Some("443/a-b@c"))
            .into_iter()
            .chain(before_bytes("0.0.0.0_80"))
        {
            assert_eq!(
                Extension::parse(&place.name()),
                Some(place.clone()),
                "{place:?}"
            );
        }
        for wrong in ["", "policy-0", "policy@x", "policy-x@y", "other-0@y"] {
            assert_eq!(Extension::parse(wrong), None, "{wrong}");
        }
    }
}
