//! Where something is, and which of several endpoints are near to a caller.
//!
//! A locality is `region/zone/subzone`. How near an endpoint is follows Istio: `distribute` gives shares by locality;
//! otherwise endpoints get priorities, by labels (`failoverPriority`) and by place (same subzone, zone, region, the
//! region that takes over, elsewhere). Unlike Istio, priorities do not need outlier detection: whether an endpoint
//! fails is told by whoever finds out.
//!
//! The control plane computes this for an Envoy, a Naka proxy for itself, with this same function: so one set of
//! endpoints serves callers everywhere, and nothing is sent anew because a caller's labels changed.

use crate::labels::Labels;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Kubernetes' label of a region.
pub const REGION: &str = "topology.kubernetes.io/region";
/// Kubernetes' label of a zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Istio's label of a subzone.
pub const SUBZONE: &str = "topology.istio.io/subzone";
/// Istio's label of a whole locality, `region.zone.subzone`.
pub const LABEL: &str = "istio-locality";
/// Istio's label of the network that something is in.
pub const NETWORK: &str = "topology.istio.io/network";
/// Istio's newer label of a whole locality.
const TOPOLOGY: &str = "topology.istio.io/locality";

/// Where something is; empty parts are unknown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Locality {
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// Subzone.
    pub subzone: String,
}

impl Locality {
    /// Reads `region/zone/subzone`; as the value of a label, where no `/` may stand, `region.zone.subzone`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, if text.contains('/') { '/' } else { '.' });
        let mut next = || parts.next().unwrap_or_default().to_owned();
        Self {
            region: next(),
            zone: next(),
            subzone: next(),
        }
    }

    /// What labels say.
    #[must_use]
    pub fn of_labels(labels: &Labels) -> Self {
        if let Some(whole) = labels.get(LABEL).or_else(|| labels.get(TOPOLOGY)) {
            return Self::parse(whole);
        }
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        Self {
            region: label(REGION),
            zone: label(ZONE),
            subzone: label(SUBZONE),
        }
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.region.is_empty()
    }

    /// Whether a pattern of `distribute` means it: `*` or nothing takes every zone and subzone.
    #[must_use]
    pub fn matches(&self, pattern: &str) -> bool {
        let mut parts = pattern.splitn(3, '/');
        let mut next = || parts.next().unwrap_or_default();
        let (region, zone, subzone) = (next(), next(), next());
        let any = |pattern: &str, own: &str| matches!(pattern, "*" | "") || pattern == own;
        (region == "*" || region == self.region)
            && any(zone, &self.zone)
            && any(subzone, &self.subzone)
    }

    /// The label of that name, of which the topology's follow from the locality.
    fn label<'a>(&'a self, name: &str, labels: &'a Labels) -> &'a str {
        let own = labels.get(name).map(String::as_str);
        own.unwrap_or(match name {
            REGION => &self.region,
            ZONE => &self.zone,
            SUBZONE => &self.subzone,
            _ => "",
        })
    }

    /// How far an endpoint is: 0 the same subzone, 1 zone, 2 region, 3 elsewhere.
    fn distance(&self, to: &Self) -> u32 {
        if self.region != to.region {
            3
        } else if self.zone != to.zone {
            2
        } else {
            u32::from(self.subzone != to.subzone)
        }
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.region)?;
        if !self.zone.is_empty() {
            write!(f, "/{}", self.zone)?;
        }
        if !self.subzone.is_empty() {
            write!(f, "/{}", self.subzone)?;
        }
        Ok(())
    }
}

/// What decides how near endpoints are (DestinationRule `localityLbSetting` and `zoneAwareLbSetting`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Nearness {
    /// Shares by locality; the first that means the caller counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distribute: Vec<Distribute>,
    /// Region that takes over from a region.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<(String, String)>,
    /// Labels, or `label=value`, whose equality decides the order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover_priority: Vec<String>,
    /// Zone awareness, for at least so many endpoints in the caller's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone_aware: Option<u32>,
}

/// Shares by locality, for callers of a locality.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribute {
    /// Callers.
    pub from: String,
    /// Share in percent by locality of the endpoints.
    pub to: Vec<(String, u32)>,
}

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Where it is.
    pub locality: &'a Locality,
    /// Its labels.
    pub labels: &'a Labels,
    /// How many of its service run in each locality; empty: unknown.
    pub siblings: &'a BTreeMap<Locality, u64>,
}

/// An endpoint as far as nearness is concerned.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Where it is.
    pub locality: &'a Locality,
    /// Its labels.
    pub labels: &'a Labels,
    /// Whether it may be called.
    pub healthy: bool,
}

/// Where an endpoint stands for a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// 0 is called first; no number is skipped.
    pub priority: u32,
    /// Share of all endpoints of its priority and locality; 0: by their own weights.
    pub weight: u32,
}

impl Nearness {
    /// Whether a group's share, rather than its endpoints' weights, may decide.
    #[must_use]
    pub fn by_place(&self) -> bool {
        !self.distribute.is_empty() || self.zone_aware.is_some()
    }

    /// Ranks endpoints for a caller; `None`: this caller does not call it.
    #[must_use]
    pub fn rank(&self, caller: &Caller<'_>, endpoints: &[Standing<'_>]) -> Vec<Option<Rank>> {
        if !self.distribute.is_empty() {
            return self.distributed(caller, endpoints);
        }
        let mut raw: Vec<u32> = endpoints
            .iter()
            .map(|endpoint| self.distance(caller, endpoint))
            .collect();
        let mut all = raw.clone();
        all.sort_unstable();
        all.dedup();
        for own in &mut raw {
            let place = all.binary_search(own).unwrap_or(0);
            *own = u32::try_from(place).unwrap_or(u32::MAX);
        }
        let shares = self
            .zone_aware
            .map(|least| zone_shares(caller, endpoints, &raw, least))
            .unwrap_or_default();
        let ranks = raw.into_iter().zip(endpoints).map(|(priority, endpoint)| {
            let weight = match priority {
                0 => shares.get(endpoint.locality).copied().unwrap_or(0),
                _ => 0,
            };
            Some(Rank { priority, weight })
        });
        ranks.collect()
    }

    /// Shares of the first rule that means the caller; localities that it does not name are not called.
    fn distributed(&self, caller: &Caller<'_>, endpoints: &[Standing<'_>]) -> Vec<Option<Rank>> {
        let rule = self
            .distribute
            .iter()
            .find(|rule| caller.locality.matches(&rule.from));
        let Some(rule) = rule else {
            let plain = Rank {
                priority: 0,
                weight: 0,
            };
            return vec![Some(plain); endpoints.len()];
        };
        let rule_of = |endpoint: &Standing<'_>| {
            rule.to
                .iter()
                .position(|(pattern, _)| endpoint.locality.matches(pattern))
        };
        // A pattern's share is divided among the localities it takes, by the number of their endpoints.
        let mut taken: BTreeMap<(usize, &Locality), u64> = BTreeMap::new();
        let mut whole: BTreeMap<usize, u64> = BTreeMap::new();
        for endpoint in endpoints {
            if let Some(rule) = rule_of(endpoint) {
                *taken.entry((rule, endpoint.locality)).or_default() += 1;
                *whole.entry(rule).or_default() += 1;
            }
        }
        endpoints
            .iter()
            .map(|endpoint| {
                let at = rule_of(endpoint)?;
                let share = u64::from(rule.to[at].1);
                let weight = (share * taken[&(at, endpoint.locality)]).div_ceil(whole[&at]);
                Some(Rank {
                    priority: 0,
                    weight: u32::try_from(weight).unwrap_or(u32::MAX),
                })
            })
            .collect()
    }

    fn distance(&self, caller: &Caller<'_>, endpoint: &Standing<'_>) -> u32 {
        let by_labels = if self.failover_priority.is_empty() {
            0
        } else {
            self.by_labels(caller, endpoint)
        };
        let by_place = if self.zone_aware.is_some() {
            // Zones share; regions take turns.
            match caller.locality.distance(endpoint.locality) {
                3 => self.elsewhere(caller, endpoint),
                _ => 0,
            }
        } else if self.failover_priority.is_empty() || !self.failover.is_empty() {
            match caller.locality.distance(endpoint.locality) {
                3 => self.elsewhere(caller, endpoint),
                near => near,
            }
        } else {
            0
        };
        by_labels * 5 + by_place
    }

    /// 3 for the region that takes over, or for every other one where none is named; 4 for the rest.
    fn elsewhere(&self, caller: &Caller<'_>, endpoint: &Standing<'_>) -> u32 {
        let next = self
            .failover
            .iter()
            .find(|(from, _)| *from == caller.locality.region);
        match next {
            Some((_, to)) if *to != endpoint.locality.region => 4,
            _ => 3,
        }
    }

    /// How many of the labels, counted from the first that differs.
    fn by_labels(&self, caller: &Caller<'_>, endpoint: &Standing<'_>) -> u32 {
        let differs = self.failover_priority.iter().position(|wanted| {
            let (name, value) = match wanted.split_once('=') {
                Some((name, value)) => (name, value),
                None => (&**wanted, caller.locality.label(wanted, caller.labels)),
            };
            value != endpoint.locality.label(name, endpoint.labels)
        });
        let rest = differs.map_or(0, |at| self.failover_priority.len() - at);
        u32::try_from(rest).unwrap_or(u32::MAX / 8)
    }
}

/// Shares of the localities of the first priority, as Envoy's zone-aware routing has them: as much as possible stays
/// in the caller's zone while every endpoint is called equally often. Empty: no shares.
fn zone_shares(
    caller: &Caller<'_>,
    endpoints: &[Standing<'_>],
    priorities: &[u32],
    least: u32,
) -> BTreeMap<Locality, u32> {
    let mut there: BTreeMap<&Locality, u64> = BTreeMap::new();
    for (endpoint, priority) in endpoints.iter().zip(priorities) {
        if *priority == 0 && endpoint.healthy {
            *there.entry(endpoint.locality).or_default() += 1;
        }
    }
    let all: u64 = there.values().sum();
    if there.len() < 2 || all < u64::from(least) || !there.contains_key(caller.locality) {
        return BTreeMap::new();
    }
    let even: BTreeMap<&Locality, u64> = there.keys().map(|place| (*place, 1)).collect();
    let here: BTreeMap<&Locality, u64> = if caller.siblings.is_empty() {
        even
    } else {
        caller.siblings.iter().map(|(p, n)| (p, *n)).collect()
    };
    let callers: u64 = here.values().sum();
    let percent = |part: u64, whole: u64| (10_000 * part).checked_div(whole).unwrap_or(0);
    let has = |place: &Locality| percent(there.get(place).copied().unwrap_or(0), all);
    let asks = |place: &Locality| percent(here.get(place).copied().unwrap_or(0), callers);
    let (own_has, own_asks) = (has(caller.locality), asks(caller.locality));
    let mut shares: BTreeMap<Locality, u32> = BTreeMap::new();
    let mut put = |place: &Locality, share: u64| {
        shares.insert(place.clone(), u32::try_from(share).unwrap_or(u32::MAX));
    };
    if own_asks <= own_has {
        put(caller.locality, 10_000);
        return shares;
    }
    let own = percent(own_has, own_asks);
    let spare = |place: &Locality| has(place).saturating_sub(asks(place));
    let others = || there.keys().filter(|place| **place != caller.locality);
    let whole: u64 = others().map(|place| spare(place)).sum();
    put(caller.locality, own);
    for place in others() {
        put(place, (10_000 - own) * spare(place) / whole.max(1));
    }
    shares
}

#[cfg(test)]
mod tests;
