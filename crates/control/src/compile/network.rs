//! Endpoints as a caller of some network reaches them (Istio's split horizon).
//!
//! Those of the caller's own network, of none, and of networks that have no gateway are dialled directly. Of each other
//! network the caller gets the gateways instead, with the weight of what is behind them: a gateway leads bytes on by the
//! server name of mesh mTLS, so endpoints that are called in any other way are not reached at all.

use super::{Class, Dialect, View};
use crate::registry::Health;
use crate::world::{Endpoint, Read};
use naka_api::networking::destination_rule::{TlsMode, TrafficPolicy};
use naka_types::labels::Labels;
use naka_types::locality::{LABEL, Locality, NETWORK};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// What stands behind the gateways of a network at one place.
#[derive(Debug, Default)]
struct Behind {
    /// Sum of the weights, by health: the healthiest count.
    weights: BTreeMap<Health, u64>,
}

/// The chosen endpoints as callers of a class dial them.
pub(super) fn reached<'a>(
    view: &View<'a>,
    chosen: Vec<&'a Endpoint>,
    class: &Class,
    policy: Option<&TrafficPolicy>,
) -> Vec<Cow<'a, Endpoint>> {
    let networks = &view.read(Read::Networks).networks;
    let direct = |network: &str| {
        [network, class.network.as_str()].contains(&"")
            || network == class.network
            || !networks.gateways.contains_key(network)
    };
    let of = |endpoint: &'a Endpoint| networks.of_labels(&endpoint.labels);
    let nearby = class.network.is_empty() || networks.gateways.is_empty();
    if nearby || chosen.iter().all(|endpoint| direct(of(endpoint))) {
        return chosen.into_iter().map(Cow::Borrowed).collect();
    }
    let share = common_multiple(networks.gateways.values().map(BTreeSet::len));
    let mutual = led_on(policy) && class.dialect != Dialect::Grpc;
    let mut all = Vec::new();
    let mut behind: BTreeMap<(&str, Locality), Behind> = BTreeMap::new();
    for endpoint in chosen {
        let network = of(endpoint);
        let weight = endpoint.weight.saturating_mul(share);
        if direct(network) {
            let own = endpoint.clone();
            all.push(Cow::Owned(Endpoint { weight, ..own }));
        } else if endpoint.mtls && mutual {
            let place = Locality::of_labels(&endpoint.labels);
            let at = behind.entry((network, place)).or_default();
            let sum = at.weights.entry(endpoint.health).or_default();
            *sum = sum.saturating_add(u64::from(weight));
        }
    }
    for ((network, place), behind) in behind {
        let gateways = networks.gateways.get(network).into_iter().flatten();
        let count = u64::try_from(gateways.clone().count()).unwrap_or(u64::MAX);
        let Some((health, sum)) = behind.weights.first_key_value() else {
            continue;
        };
        let weight = u32::try_from(sum / count.max(1)).unwrap_or(u32::MAX);
        all.extend(gateways.map(|address| {
            Cow::Owned(gateway(*address, network, &place, (*health, weight.max(1))))
        }));
    }
    all
}

/// Whether a policy leaves mesh mTLS as it is.
fn led_on(policy: Option<&TrafficPolicy>) -> bool {
    let tls = policy.and_then(|policy| policy.tls.as_ref());
    tls.is_none_or(|tls| tls.mode == TlsMode::IstioMutual)
}

fn gateway(
    address: SocketAddr,
    network: &str,
    place: &Locality,
    (health, weight): (Health, u32),
) -> Endpoint {
    let mut labels: Labels = [(NETWORK.to_owned(), network.to_owned())].into();
    if !place.is_empty() {
        let Locality {
            region,
            zone,
            subzone,
        } = place;
        labels.insert(LABEL.to_owned(), format!("{region}/{zone}/{subzone}"));
    }
    Endpoint {
        address: address.to_string(),
        health,
        weight,
        mtls: true,
        labels,
        workload: String::new(),
        namespace: String::new(),
        workload_id: String::new(),
    }
}

/// By which weights grow, so that those of a network divide by the number of its gateways.
fn common_multiple(counts: impl Iterator<Item = usize>) -> u32 {
    fn divisor(a: u32, b: u32) -> u32 {
        if b == 0 { a } else { divisor(b, a % b) }
    }
    let counts = counts.filter_map(|count| u32::try_from(count).ok());
    counts
        .filter(|count| *count > 0)
        .fold(1, |all: u32, count| {
            all.saturating_mul(count / divisor(all, count))
        })
}

#[cfg(test)]
mod tests;
