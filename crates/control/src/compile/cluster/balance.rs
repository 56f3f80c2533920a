//! How calls are spread: a rule's `loadBalancer` in Envoy's words, for both kinds of proxy.
//!
//! What is hashed stands in the cluster (the hash policy of the ring's or table's own configuration), not in routes:
//! it belongs to the destination, and a change of it changes no route. What Envoy has no word for goes to our own
//! proxies in the cluster's metadata: peak EWMA, and what makes an endpoint near, which each of them works out for
//! itself (`types::locality`).

use super::Dialect;
use crate::world::World;
use naka_api::networking::destination_rule::TrafficPolicy;
use naka_api::networking::destination_rule::balancer::{
    Algorithm, ConsistentHash, HashKey, Layout, Utilization, Warmup,
};
use naka_types::locality::Nearness;
use naka_types::node::NAKA;
use naka_wire::envoy::config::cluster::v3::{
    Cluster, LoadBalancingPolicy,
    cluster::{
        self, CommonLbConfig, LbPolicy, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig,
    },
    load_balancing_policy::Policy,
};
use naka_wire::envoy::config::core::v3::{RuntimeDouble, TypedExtensionConfig};
use naka_wire::envoy::config::route::v3::route_action::{HashPolicy, hash_policy};
use naka_wire::envoy::extensions::load_balancing_policies as policies;
use naka_wire::envoy::r#type::v3::Percent;
use naka_wire::google::protobuf::{Any, FloatValue, UInt64Value};
use naka_wire::{pack, time, values};

/// What makes endpoints of a destination near. Istio prefers near ones by default where failing ones are found out.
pub(crate) fn nearness(policy: &TrafficPolicy) -> Option<Nearness> {
    let own = policy.load_balancer.as_ref();
    if own.is_some_and(|balancer| balancer.near_off) {
        return None;
    }
    own.and_then(|balancer| balancer.near.clone()).or_else(|| {
        policy
            .outlier_detection
            .as_ref()
            .map(|_| Nearness::default())
    })
}

/// Destinations whose calls an Envoy cannot spread as their rule says, in words.
pub(crate) fn not_expressed(world: &World) -> Vec<String> {
    let ewma = |policy: &TrafficPolicy| {
        let own = policy.load_balancer.as_ref();
        own.is_some_and(|balancer| balancer.algorithm == Algorithm::PeakEwma)
    };
    let hosts = world.rules.iter().filter(|(_, rules)| {
        let rules = rules.iter().filter_map(|object| object.destination_rule());
        rules.into_iter().any(|rule| {
            let subsets = rule.subsets.iter().map(|subset| &subset.policy);
            subsets.chain([&rule.policy]).any(ewma)
        })
    });
    hosts
        .map(|(host, _)| format!("balance: an Envoy has no PEAK_EWMA; {host} gets LEAST_REQUEST"))
        .collect()
}

/// Writes it into a cluster.
pub(super) fn apply(cluster: &mut Cluster, policy: &TrafficPolicy, dialect: Dialect) {
    let balancer = policy.load_balancer.clone().unwrap_or_default();
    let near = nearness(policy);
    let by_place = near.as_ref().is_some_and(Nearness::by_place);
    let warmup = balancer.warmup.filter(|_| balancer.warms_up());
    // An Envoy refuses a cluster that says so in both places.
    let extension_says = matches!(
        balancer.algorithm,
        Algorithm::Hash(_) | Algorithm::Utilization(_)
    );
    if by_place && !extension_says {
        let common = cluster
            .common_lb_config
            .get_or_insert_with(CommonLbConfig::default);
        common.locality_config_specifier = Some(
            cluster::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(
                cluster::common_lb_config::LocalityWeightedLbConfig::default(),
            ),
        );
    }
    match &balancer.algorithm {
        Algorithm::RoundRobin => {
            cluster.lb_policy = LbPolicy::RoundRobin as i32;
            cluster.lb_config = warmup.map(|warmup| {
                cluster::LbConfig::RoundRobinLbConfig(RoundRobinLbConfig {
                    slow_start_config: Some(slow_start(warmup)),
                })
            });
        }
        Algorithm::LeastRequest | Algorithm::PeakEwma => {
            cluster.lb_policy = LbPolicy::LeastRequest as i32;
            cluster.lb_config = warmup.map(|warmup| {
                cluster::LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                    slow_start_config: Some(slow_start(warmup)),
                    ..LeastRequestLbConfig::default()
                })
            });
        }
        Algorithm::Random => cluster.lb_policy = LbPolicy::Random as i32,
        Algorithm::Passthrough => {
            cluster.lb_policy = LbPolicy::ClusterProvided as i32;
            if dialect == Dialect::Envoy {
                cluster.cluster_discovery_type = Some(cluster::ClusterDiscoveryType::Type(
                    cluster::DiscoveryType::OriginalDst as i32,
                ));
                cluster.eds_cluster_config = None;
            }
        }
        Algorithm::Hash(hash) => {
            let (name, config) = hashing(hash, by_place);
            cluster.lb_policy = match hash.layout {
                Layout::Ring { .. } => LbPolicy::RingHash,
                Layout::Maglev { .. } => LbPolicy::Maglev,
            } as i32;
            cluster.load_balancing_policy = Some(extension(name, config));
        }
        Algorithm::Utilization(rules) => {
            cluster.lb_policy = LbPolicy::RoundRobin as i32;
            let (name, config) = utilization(rules, warmup);
            cluster.load_balancing_policy = Some(extension(name, config));
        }
    }
    if dialect == Dialect::Naka {
        ours(cluster, &balancer.algorithm, near.as_ref());
    }
}

/// What only our own proxies read.
fn ours(cluster: &mut Cluster, algorithm: &Algorithm, near: Option<&Nearness>) {
    let Some(own) = cluster
        .metadata
        .as_mut()
        .and_then(|metadata| metadata.filter_metadata.get_mut(NAKA))
    else {
        return;
    };
    if *algorithm == Algorithm::PeakEwma {
        own.fields
            .insert("lb_policy".to_owned(), values::string("PEAK_EWMA"));
    }
    if let Some(near) = near
        && let Ok(text) = serde_json::to_string(near)
    {
        own.fields.insert("near".to_owned(), values::string(&text));
    }
}

fn extension(name: &str, config: Any) -> LoadBalancingPolicy {
    LoadBalancingPolicy {
        policies: vec![Policy {
            typed_extension_config: Some(TypedExtensionConfig {
                name: format!("envoy.load_balancing_policies.{name}"),
                typed_config: Some(config),
            }),
        }],
    }
}

fn slow_start(warmup: Warmup) -> SlowStartConfig {
    SlowStartConfig {
        slow_start_window: Some(time::to_wire(warmup.duration)),
        aggression: Some(aggression(warmup)),
        min_weight_percent: Some(Percent {
            value: warmup.minimum_percent,
        }),
    }
}

fn aggression(warmup: Warmup) -> RuntimeDouble {
    RuntimeDouble {
        default_value: warmup.aggression,
        runtime_key: "naka.slow_start.aggression".to_owned(),
    }
}

fn hashing(hash: &ConsistentHash, by_place: bool) -> (&'static str, Any) {
    let common = policies::common::v3::ConsistentHashingLbConfig {
        hash_policy: vec![hash_policy(&hash.key)],
        ..Default::default()
    };
    let places =
        by_place.then(policies::common::v3::locality_lb_config::LocalityWeightedLbConfig::default);
    match hash.layout {
        Layout::Ring { minimum } => {
            let ring = policies::ring_hash::v3::RingHash {
                minimum_ring_size: Some(UInt64Value {
                    value: u64::from(minimum),
                }),
                consistent_hashing_lb_config: Some(common),
                locality_weighted_lb_config: places,
                ..Default::default()
            };
            ("ring_hash", pack(&ring))
        }
        Layout::Maglev { table } => {
            let maglev = policies::maglev::v3::Maglev {
                table_size: Some(UInt64Value {
                    value: u64::from(table),
                }),
                consistent_hashing_lb_config: Some(common),
                locality_weighted_lb_config: places,
            };
            ("maglev", pack(&maglev))
        }
    }
}

fn hash_policy(key: &HashKey) -> HashPolicy {
    use hash_policy::PolicySpecifier;
    let specifier = match key {
        HashKey::Header(name) => PolicySpecifier::Header(hash_policy::Header {
            header_name: name.clone(),
            ..Default::default()
        }),
        HashKey::Cookie {
            name,
            path,
            ttl,
            attributes,
        } => PolicySpecifier::Cookie(hash_policy::Cookie {
            name: name.clone(),
            ttl: ttl.map(time::to_wire),
            path: path.clone(),
            attributes: attributes
                .iter()
                .map(|(name, value)| hash_policy::CookieAttribute {
                    name: name.clone(),
                    value: value.clone(),
                })
                .collect(),
        }),
        HashKey::SourceIp => {
            PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties {
                source_ip: true,
            })
        }
        HashKey::Query(name) => {
            PolicySpecifier::QueryParameter(hash_policy::QueryParameter { name: name.clone() })
        }
    };
    HashPolicy {
        policy_specifier: Some(specifier),
        ..Default::default()
    }
}

fn utilization(rules: &Utilization, warmup: Option<Warmup>) -> (&'static str, Any) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "Envoy's field is that narrow; a penalty is a small number"
    )]
    let penalty = rules.penalty.map(|value| FloatValue {
        value: value as f32,
    });
    let config = policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin {
        blackout_period: rules.blackout.map(time::to_wire),
        weight_expiration_period: rules.expiry.map(time::to_wire),
        weight_update_period: rules.period.map(time::to_wire),
        error_utilization_penalty: penalty,
        metric_names_for_computing_utilization: rules.metrics.clone(),
        slow_start_config: warmup.map(|warmup| policies::common::v3::SlowStartConfig {
            slow_start_window: Some(time::to_wire(warmup.duration)),
            aggression: Some(aggression(warmup)),
            min_weight_percent: Some(Percent {
                value: warmup.minimum_percent,
            }),
        }),
        ..Default::default()
    };
    ("client_side_weighted_round_robin", pack(&config))
}
