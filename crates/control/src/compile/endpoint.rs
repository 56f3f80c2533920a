//! Endpoint sets of outbound clusters.

use super::cluster::{socket_address, target};
use super::{Built, Class, Dialect, View};
use crate::registry::Health;
use crate::world::{Endpoint, Read};
use naka_types::labels::selects;
use naka_types::name::ClusterName;
use naka_types::node::NAKA;
use naka_wire::envoy::config::core::v3::{HealthStatus, Locality};
use naka_wire::envoy::config::endpoint::v3 as pb;
use naka_wire::google::protobuf::UInt32Value;
use naka_wire::values;

/// Name of the cluster in `istio.workload`, Istio's default; one mesh is one cluster for now.
const CLUSTER_ID: &str = "Kubernetes";

/// Endpoints of a cluster: present, possibly empty, exactly when the cluster is.
pub(crate) fn endpoints(view: &View<'_>, name: &ClusterName, class: &Class) -> Option<Built> {
    let target = target(view, name, class)?;
    let ClusterName::Outbound { port, subset, .. } = name else {
        return None;
    };
    let labels = target
        .rule
        .and_then(|rule| rule.subset(subset))
        .map(|subset| &subset.labels);
    let world = view.read(Read::Endpoints(target.host.clone()));
    let all = world
        .endpoints
        .get(&target.host)
        .and_then(|endpoints| endpoints.get(port));
    let chosen: Vec<&Endpoint> = all
        .into_iter()
        .flatten()
        .filter(|endpoint| labels.is_none_or(|labels| selects(labels, &endpoint.labels)))
        .filter(|endpoint| class.dialect == Dialect::Naka || dialled_by_anyone(endpoint))
        .collect();
    let locality = pb::LocalityLbEndpoints {
        lb_endpoints: chosen
            .iter()
            .filter_map(|endpoint| message(endpoint))
            .collect(),
        load_balancing_weight: Some(UInt32Value { value: 1 }),
        // A gRPC client refuses endpoints that are nowhere, even where nobody says where they are.
        locality: (class.dialect == Dialect::Grpc).then(Locality::default),
        ..pb::LocalityLbEndpoints::default()
    };
    let assignment = pb::ClusterLoadAssignment {
        cluster_name: name.to_string(),
        endpoints: if chosen.is_empty() {
            Vec::new()
        } else {
            vec![locality]
        },
        ..pb::ClusterLoadAssignment::default()
    };
    Some(Built::new(
        &(name.to_string(), &chosen),
        naka_wire::pack(&assignment),
    ))
}

/// Envoy refuses a whole set for one address that is a name or one weight of 0.
fn dialled_by_anyone(endpoint: &Endpoint) -> bool {
    endpoint.weight > 0 && endpoint.address.parse::<std::net::SocketAddr>().is_ok()
}

fn message(endpoint: &Endpoint) -> Option<pb::LbEndpoint> {
    let (host, port) = endpoint.address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let health = match endpoint.health {
        Health::Healthy => HealthStatus::Healthy,
        Health::Draining => HealthStatus::Draining,
        Health::Unhealthy => HealthStatus::Unhealthy,
    };
    let labels = values::string_struct(endpoint.labels.iter());
    let mut namespaces = vec![
        (
            "istio",
            values::string_struct([("workload", workload(endpoint))]),
        ),
        (
            NAKA,
            values::fields([
                ("workload_id", values::string(&endpoint.workload_id)),
                ("labels", values::nested(labels)),
            ]),
        ),
    ];
    if endpoint.mtls {
        let mark = values::string_struct([("tlsMode", "istio")]);
        namespaces.push(("envoy.transport_socket_match", mark));
    }
    Some(pb::LbEndpoint {
        health_status: health as i32,
        metadata: Some(values::metadata(namespaces)),
        load_balancing_weight: Some(UInt32Value {
            value: endpoint.weight,
        }),
        host_identifier: Some(pb::lb_endpoint::HostIdentifier::Endpoint(pb::Endpoint {
            address: Some(socket_address(host, port.parse().ok()?)),
            ..pb::Endpoint::default()
        })),
    })
}

/// `name;namespace;canonical name;canonical revision;cluster`, from which destination labels of metrics are made.
fn workload(endpoint: &Endpoint) -> String {
    let label = |names: [&str; 2]| names.iter().find_map(|name| endpoint.labels.get(*name));
    let name = label(["service.istio.io/canonical-name", "app"])
        .map_or(endpoint.workload.as_str(), String::as_str);
    let revision =
        label(["service.istio.io/canonical-revision", "version"]).map_or("latest", String::as_str);
    let Endpoint {
        workload,
        namespace,
        ..
    } = endpoint;
    format!("{workload};{namespace};{name};{revision};{CLUSTER_ID}")
}
