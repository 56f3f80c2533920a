//! How a cluster's calls are spread, from its fields, or from the one extension that names its policy.

use super::Error;
use naka_engine::model::{ClusterSpec, Cookie, HashKey, Policy, SlowStart, Utilization};
use naka_types::locality::Nearness;
use naka_types::node::NAKA;
use naka_wire::envoy::config::cluster::v3::{
    self as pb,
    cluster::{LbConfig, LbPolicy, SlowStartConfig, common_lb_config::LocalityConfigSpecifier},
};
use naka_wire::envoy::config::core::v3::RuntimeDouble;
use naka_wire::envoy::config::route::v3::route_action::{HashPolicy, hash_policy::PolicySpecifier};
use naka_wire::envoy::extensions::load_balancing_policies::{
    client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin,
    common::v3::ConsistentHashingLbConfig, maglev::v3::Maglev, ring_hash::v3::RingHash,
};
use naka_wire::envoy::r#type::v3::Percent;
use naka_wire::google::protobuf::{Any, Duration as WireDuration, UInt64Value};
use naka_wire::{time, unpack, values};
use std::time::Duration;

/// Envoy's defaults.
const RING: u64 = 1024;
const TABLE: u64 = 65_537;
const LEAST_WEIGHT: f64 = 0.1;
/// Envoy's upper bounds.
const LARGEST_RING: u64 = 8_388_608;
const LARGEST_TABLE: u64 = 5_000_011;
/// Shortest time between two looks at reported weights.
const SHORTEST_PERIOD: Duration = Duration::from_millis(100);

/// What makes endpoints near, from our own control plane.
pub(super) fn near(wire: &pb::Cluster) -> Option<Nearness> {
    let own = values::of_metadata(wire.metadata.as_ref(), NAKA)?;
    serde_json::from_str(values::get_str(own, "near")?).ok()
}

/// Reads policy and everything that belongs to it.
pub(super) fn read(wire: &pb::Cluster, spec: &mut ClusterSpec) -> Result<(), Error> {
    let places = wire.common_lb_config.as_ref().is_some_and(|common| {
        matches!(
            common.locality_config_specifier,
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_))
        )
    });
    spec.balance.by_place = places;
    if let Some(chosen) = &wire.load_balancing_policy {
        let at = |what: String| Error::at("load_balancing_policy", what);
        let configs = chosen.policies.iter().filter_map(|policy| {
            policy
                .typed_extension_config
                .as_ref()?
                .typed_config
                .as_ref()
        });
        let mut unknown = "none is named".to_owned();
        for config in configs {
            match extension(config, spec) {
                Ok(true) => return Ok(()),
                Ok(false) => unknown = format!("{} is not supported", config.type_url),
                Err(error) => return Err(error.within("load_balancing_policy")),
            }
        }
        return Err(at(unknown));
    }
    let own = values::of_metadata(wire.metadata.as_ref(), NAKA);
    let named = own.and_then(|own| values::get_str(own, "lb_policy"));
    spec.policy = match wire.lb_policy() {
        _ if named == Some("PEAK_EWMA") => Policy::PeakEwma,
        LbPolicy::RoundRobin => Policy::RoundRobin,
        LbPolicy::LeastRequest => Policy::LeastRequest,
        LbPolicy::Random => Policy::Random,
        LbPolicy::ClusterProvided => Policy::Passthrough,
        other => {
            return Err(Error::at(
                "lb_policy",
                format!("{} needs a load_balancing_policy", other.as_str_name()),
            ));
        }
    };
    spec.balance.slow_start = match &wire.lb_config {
        Some(LbConfig::RoundRobinLbConfig(config)) => config.slow_start_config.as_ref(),
        Some(LbConfig::LeastRequestLbConfig(config)) => config.slow_start_config.as_ref(),
        _ => None,
    }
    .and_then(legacy_slow_start);
    Ok(())
}

fn legacy_slow_start(wire: &SlowStartConfig) -> Option<SlowStart> {
    slow_start(
        wire.slow_start_window.as_ref(),
        wire.aggression.as_ref(),
        wire.min_weight_percent.as_ref(),
    )
}

fn slow_start(
    window: Option<&WireDuration>,
    aggression: Option<&RuntimeDouble>,
    least: Option<&Percent>,
) -> Option<SlowStart> {
    let aggression = aggression.map_or(1.0, |value| value.default_value);
    let least = least.map_or(LEAST_WEIGHT, |percent| percent.value / 100.0);
    Some(SlowStart {
        window: window
            .and_then(time::from_wire)
            .filter(|window| !window.is_zero())?,
        aggression: if aggression > 0.0 { aggression } else { 1.0 },
        least: least.clamp(0.0, 1.0),
    })
}

/// Whether it is an extension that we have.
fn extension(config: &Any, spec: &mut ClusterSpec) -> Result<bool, Error> {
    let kind = config.type_url.rsplit('.').next().unwrap_or_default();
    let broken = |error: naka_wire::Error| Error::at("typed_config", error);
    match kind {
        "RingHash" => {
            let ring: RingHash = unpack(config).map_err(broken)?;
            let minimum = within(ring.minimum_ring_size.as_ref(), RING, LARGEST_RING)?;
            spec.policy = Policy::RingHash { minimum };
            spec.balance.by_place = ring.locality_weighted_lb_config.is_some();
            spec.balance.hash = key(ring.consistent_hashing_lb_config.as_ref())?;
        }
        "Maglev" => {
            let maglev: Maglev = unpack(config).map_err(broken)?;
            let table = within(maglev.table_size.as_ref(), TABLE, LARGEST_TABLE)?;
            spec.policy = Policy::Maglev { table };
            spec.balance.by_place = maglev.locality_weighted_lb_config.is_some();
            spec.balance.hash = key(maglev.consistent_hashing_lb_config.as_ref())?;
        }
        "ClientSideWeightedRoundRobin" => {
            let wire: ClientSideWeightedRoundRobin = unpack(config).map_err(broken)?;
            spec.policy = Policy::Utilization;
            spec.balance.slow_start = wire.slow_start_config.as_ref().and_then(|slow| {
                slow_start(
                    slow.slow_start_window.as_ref(),
                    slow.aggression.as_ref(),
                    slow.min_weight_percent.as_ref(),
                )
            });
            spec.balance.utilization = Some(utilization(&wire));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn within(value: Option<&UInt64Value>, default: u64, most: u64) -> Result<u32, Error> {
    let value = value.map_or(default, |value| value.value);
    u32::try_from(value)
        .ok()
        .filter(|_| (1..=most).contains(&value))
        .ok_or_else(|| Error::at("size", format!("{value} is not within 1 to {most}")))
}

fn utilization(wire: &ClientSideWeightedRoundRobin) -> Utilization {
    let default = Utilization::default();
    let time = |wire: &Option<WireDuration>, default: Duration| {
        wire.as_ref().and_then(time::from_wire).unwrap_or(default)
    };
    Utilization {
        blackout: time(&wire.blackout_period, default.blackout),
        expiry: time(&wire.weight_expiration_period, default.expiry),
        period: time(&wire.weight_update_period, default.period).max(SHORTEST_PERIOD),
        penalty: wire
            .error_utilization_penalty
            .as_ref()
            .map_or(default.penalty, |penalty| f64::from(penalty.value).max(0.0)),
        metrics: wire
            .metric_names_for_computing_utilization
            .iter()
            .map(|name| name.as_str().into())
            .collect(),
    }
}

/// What is hashed; nothing named: calls spread at random, as in Envoy.
fn key(config: Option<&ConsistentHashingLbConfig>) -> Result<Option<HashKey>, Error> {
    let policies = config.map_or(&[][..], |config| &config.hash_policy);
    match policies {
        [] => Ok(None),
        [
            HashPolicy {
                policy_specifier: Some(specifier),
                ..
            },
        ] => Ok(Some(match specifier {
            PolicySpecifier::Header(header) if header.regex_rewrite.is_none() => {
                HashKey::Header(header.header_name.to_ascii_lowercase().into())
            }
            PolicySpecifier::Cookie(cookie) => {
                let attributes: Vec<(String, String)> = cookie
                    .attributes
                    .iter()
                    .map(|one| (one.name.clone(), one.value.clone()))
                    .collect();
                let ttl = cookie.ttl.as_ref().and_then(time::from_wire);
                HashKey::Cookie(Cookie::new(&cookie.name, &cookie.path, ttl, &attributes))
            }
            PolicySpecifier::ConnectionProperties(properties) if properties.source_ip => {
                HashKey::SourceIp
            }
            PolicySpecifier::QueryParameter(query) => HashKey::Query(query.name.as_str().into()),
            _ => return Err(Error::at("hash_policy[0]", "it is not supported")),
        })),
        _ => Err(Error::at("hash_policy", "exactly one is supported")),
    }
}
