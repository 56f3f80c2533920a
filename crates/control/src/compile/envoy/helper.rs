//! Clusters of an Envoy that lead to no service.

use crate::compile::cluster::socket_address;
use crate::compile::{Built, Class};
use naka_wire::envoy::config::cluster::v3::{Cluster, cluster};
use naka_wire::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use naka_wire::envoy::extensions::clusters::dynamic_forward_proxy::v3::{
    ClusterConfig, cluster_config::ClusterImplementationSpecifier,
};
use naka_wire::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use naka_wire::google::protobuf::UInt32Value;
use naka_wire::time;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// External hosts an Envoy remembers at a time.
const MAX_HOSTS: u32 = 1024;

/// Which cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Helper {
    /// Out of the mesh: the host of the request, by DNS.
    External,
    /// What comes through CONNECT for an HTTP service, back into the forward proxy, so that routes hold for it.
    Tunnel,
}

impl Helper {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::Tunnel => "tunnel",
        }
    }

    /// The helper of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::External, Self::Tunnel]
            .into_iter()
            .find(|helper| helper.name() == name)
    }

    pub(super) fn cluster(self, class: &Class) -> Option<Built> {
        let proxy = class.binds.http_proxy?;
        let base = Cluster {
            name: self.name().to_owned(),
            connect_timeout: Some(time::to_wire(CONNECT_TIMEOUT)),
            ..Cluster::default()
        };
        let cluster = match self {
            Self::External => {
                let config = ClusterConfig {
                    cluster_implementation_specifier: Some(
                        ClusterImplementationSpecifier::DnsCacheConfig(dns()),
                    ),
                    ..ClusterConfig::default()
                };
                Cluster {
                    lb_policy: cluster::LbPolicy::ClusterProvided as i32,
                    cluster_discovery_type: Some(cluster::ClusterDiscoveryType::ClusterType(
                        cluster::CustomClusterType {
                            name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
                            typed_config: Some(naka_wire::pack(&config)),
                        },
                    )),
                    ..base
                }
            }
            Self::Tunnel => {
                let endpoint = Endpoint {
                    address: Some(socket_address(&proxy.ip().to_string(), proxy.port())),
                    ..Endpoint::default()
                };
                let here = LbEndpoint {
                    host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
                    ..LbEndpoint::default()
                };
                Cluster {
                    cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
                        cluster::DiscoveryType::Static as i32,
                    )),
                    load_assignment: Some(ClusterLoadAssignment {
                        cluster_name: self.name().to_owned(),
                        endpoints: vec![LocalityLbEndpoints {
                            lb_endpoints: vec![here],
                            ..LocalityLbEndpoints::default()
                        }],
                        ..ClusterLoadAssignment::default()
                    }),
                    ..base
                }
            }
        };
        Some(Built::new(&(self, proxy), naka_wire::pack(&cluster)))
    }
}

/// Names out of the mesh; filter and cluster must say the same.
pub(crate) fn dns() -> DnsCacheConfig {
    DnsCacheConfig {
        name: "external".to_owned(),
        dns_lookup_family: cluster::DnsLookupFamily::V4Preferred as i32,
        max_hosts: Some(UInt32Value { value: MAX_HOSTS }),
        ..DnsCacheConfig::default()
    }
}
