//! Trust models of a workload: as a filter of our own for proxies that know labels of their callers, as rules that deny
//! for those that do not.
//!
//! An Envoy knows nobody's labels, so each of its callers has the lowest clearance and no zone; it also cannot tell the
//! time, nor count who approved. What would need any of these it refuses, without a text. Which services an operation is
//! of is settled here, by the called workload and not by what a request says of its host.

use super::message::permission;
use super::{At, Compiled, Question, Tree, all, any, not, tree};
use crate::compile::View;
use crate::world::Domains;
use naka_api::own::trust_model::{Operation, TrustModel};
use naka_api::security::authorization_policy::Attribute;
use naka_types::cidr::Cidr;
use naka_types::host::Host;
use naka_types::node::TRUST;
use naka_wire::envoy::config::listener::v3::Filter;
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use naka_wire::google::protobuf::Any;
use naka_wire::prost::Message;
use naka_wire::v1;

/// A workload, as far as models ask about it when it is called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Called<'a> {
    /// Host of the service it runs as.
    pub(crate) host: &'a Host,
    /// Its namespace.
    pub(crate) namespace: &'a str,
    /// Its service account.
    pub(crate) account: &'a str,
    /// Labels that somebody else vouched for.
    pub(crate) granted: Option<&'a naka_types::labels::Labels>,
}

/// A model that holds for a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    name: String,
    model: TrustModel,
    /// The workload's zone.
    zone: Option<String>,
}

impl Held {
    /// A model with the operations that are the workload's.
    pub(super) fn new(
        view: &View<'_>,
        name: String,
        model: &TrustModel,
        called: &Called<'_>,
    ) -> Self {
        let mut model = model.clone();
        let own = |operation: &Operation| {
            let mut hosts = operation.hosts.iter();
            operation.hosts.is_empty() || hosts.any(|host| serves(view, host, called))
        };
        model.operations.retain(own);
        let granted = called.granted;
        let zone = granted.and_then(|labels| labels.get(&model.zone_label));
        let known = |zone: &&String| {
            let zones = model.zones.as_ref();
            zones.is_some_and(|zones| zones.names.contains(zone))
        };
        let zone = zone.filter(known).cloned();
        Self { name, model, zone }
    }
}

/// Whether calls to a host may come to the workload: it runs as that service, or its account may serve it. A doubt is
/// for the operation, which then demands what it demands.
fn serves(view: &View<'_>, host: &Host, called: &Called<'_>) -> bool {
    let own = called.host.as_str();
    match host.as_str().strip_prefix('*') {
        Some(suffix) => own.ends_with(suffix),
        None if host == called.host => true,
        None => view.service(host).is_some_and(|service| {
            service.namespace == called.namespace && service.accounts.contains(called.account)
        }),
    }
}

/// The filter before requests.
pub(super) fn of_requests(all: &[Held], at: At) -> Option<HttpFilter> {
    Some(HttpFilter {
        name: TRUST.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config(all, at)?)),
        ..HttpFilter::default()
    })
}

/// The filter before bytes.
pub(super) fn of_bytes(all: &[Held], at: At) -> Option<Filter> {
    Some(super::super::listener::typed(TRUST, config(all, at)?))
}

fn config(all: &[Held], at: At) -> Option<Any> {
    let models: Vec<v1::TrustModel> = all.iter().map(|held| message(held, at)).collect();
    (!models.is_empty()).then(|| naka_wire::pack(&v1::Trust { models }))
}

/// What an operation's calls look like at a place.
fn what(operation: &Operation, at: At) -> Tree {
    let conditions = operation.conditions.iter();
    // They are of what is called, never of who calls.
    let nobody = Domains::default();
    all(conditions.map(|condition| tree(condition, true, &nobody, at)))
}

/// Whether its calls can be told from others at a place.
fn is_known(operation: &Operation, at: At) -> bool {
    let mut asked = operation.conditions.iter().map(|one| &one.attribute);
    at.http || asked.all(|attribute| *attribute == Attribute::Port)
}

fn message(held: &Held, at: At) -> v1::TrustModel {
    let model = &held.model;
    let zones = model.zones.as_ref();
    let into = zones.into_iter().flat_map(|zones| &zones.crossings);
    let into = into.filter(|crossing| Some(&crossing.to) == held.zone.as_ref());
    // A crossing for operations that cannot be told apart here is for none.
    let told = |name: &&String| {
        let mut all = model.operations.iter();
        all.any(|one| one.name == **name && is_known(one, at))
    };
    let into = into.filter_map(|crossing| {
        let known: Vec<String> = crossing.operations.iter().filter(told).cloned().collect();
        let any = crossing.operations.is_empty() || !known.is_empty();
        any.then(|| v1::TrustCrossing {
            from: crossing.from.clone(),
            operations: known,
        })
    });
    let operations = model.operations.iter().filter_map(|operation| {
        let what = what(operation, at);
        let demand = model.demanded(operation);
        let hours = demand.hours.iter().map(|windows| v1::TrustHours {
            when: windows.iter().map(|window| window.expression()).collect(),
            shown: {
                let each: Vec<String> = windows.iter().map(ToString::to_string).collect();
                each.join(" or ")
            },
        });
        let networks = demand.networks.iter().map(|ranges| v1::TrustNetworks {
            ranges: ranges.iter().map(ToString::to_string).collect(),
        });
        (what != Tree::Never).then(|| v1::TrustOperation {
            name: operation.name.clone(),
            permission: permission(&what).encode_to_vec(),
            clearance: operation.clearance,
            hours: hours.collect(),
            networks: networks.collect(),
            dual: demand.dual,
            session_ns: demand
                .session
                .map_or(0, |most| u64::try_from(most.as_nanos()).unwrap_or(u64::MAX)),
            audit: demand.audit,
        })
    });
    v1::TrustModel {
        name: held.name.clone(),
        clearance_label: model.clearance_label.clone(),
        zone_label: model.zone_label.clone(),
        levels: model.levels.clone(),
        zoned: zones.is_some(),
        zone: held.zone.clone().unwrap_or_default(),
        crossings: into.collect(),
        operations: operations.collect(),
        approval_claim: model.approval_claim.clone(),
    }
}

/// The same for a proxy that knows no labels: rules of which one that matches refuses.
pub(super) fn denied(held: &[Held], at: At) -> Vec<Compiled> {
    held.iter().flat_map(|held| denied_by(held, at)).collect()
}

fn denied_by(held: &Held, at: At) -> Vec<Compiled> {
    let (name, model) = (&held.name, &held.model);
    if model.zones.is_some() {
        return vec![Compiled {
            name: format!("trust[{name}]-zone"),
            who: Tree::Always,
            what: Tree::Always,
        }];
    }
    let rules = model.operations.iter().map(|operation| {
        let demand = model.demanded(operation);
        let never = operation.clearance > model.lowest()
            || !demand.hours.is_empty()
            || demand.dual
            || demand.session.is_some();
        let outside = demand.networks.iter().map(|ranges| {
            let inside = |range: &Cidr| Tree::Ask(Question::Peer(*range));
            not(any(ranges.iter().map(inside)))
        });
        Compiled {
            name: format!("trust[{name}]-operation[{}]", operation.name),
            who: if never { Tree::Always } else { any(outside) },
            what: what(operation, at),
        }
    });
    rules
        .filter(|rule| rule.who != Tree::Never && rule.what != Tree::Never)
        .collect()
}

#[cfg(test)]
mod tests;
