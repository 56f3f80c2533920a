//! Endpoint sets of outbound clusters.

use super::cluster::{balance, socket_address, target};
use super::{Built, Class, Dialect, View, network};
use crate::registry::Health;
use crate::world::{Endpoint, Read};
use naka_types::host::Host;
use naka_types::labels::{Labels, selects};
use naka_types::locality::{Caller, Locality, Nearness, Rank, Standing};
use naka_types::name::ClusterName;
use naka_types::node::NAKA;
use naka_wire::envoy::config::core::v3::{HealthStatus, Locality as WireLocality};
use naka_wire::envoy::config::endpoint::v3 as pb;
use naka_wire::google::protobuf::UInt32Value;
use naka_wire::values;
use std::collections::BTreeMap;

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
    let all = match &target.service.entry {
        // Of a host that is looked up there is no set apart from the cluster.
        Some(_) if !super::cluster::is_told(&target, *port) => return None,
        Some(entry) => entry.endpoints.get(port),
        None => {
            let world = view.read(Read::Endpoints(target.host.clone()));
            let ports = world.endpoints.get(&target.host);
            ports.and_then(|endpoints| endpoints.get(port))
        }
    };
    let policy = target
        .rule
        .map(|rule| rule.effective(subset_name(subset), *port));
    let chosen: Vec<&Endpoint> = all
        .into_iter()
        .flatten()
        .filter(|endpoint| labels.is_none_or(|labels| selects(labels, &endpoint.labels)))
        .filter(|endpoint| class.dialect == Dialect::Naka || dialled_by_anyone(endpoint))
        .collect();
    let reached = network::reached(view, chosen, class, policy.as_ref());
    let chosen: Vec<&Endpoint> = reached.iter().map(|endpoint| &**endpoint).collect();
    let near = policy
        .filter(|_| class.dialect == Dialect::Envoy)
        .and_then(|policy| balance::nearness(&policy));
    let groups = match near {
        Some(near) => ranked(view, &near, &chosen, class),
        // Our own proxies rank by themselves.
        None => plain(&chosen),
    };
    let assignment = pb::ClusterLoadAssignment {
        cluster_name: name.to_string(),
        endpoints: groups
            .iter()
            .map(|(key, members)| group(key, members, shares(key.0.priority, &groups), class))
            .collect(),
        ..pb::ClusterLoadAssignment::default()
    };
    Some(Built::new(
        &(name.to_string(), &groups),
        naka_wire::pack(&assignment),
    ))
}

fn subset_name(subset: &str) -> Option<&str> {
    (!subset.is_empty()).then_some(subset)
}

/// Endpoints that stand together: by priority and share, then by place.
type Groups<'a> = BTreeMap<(Rank, Locality), Vec<&'a Endpoint>>;

fn plain<'a>(chosen: &[&'a Endpoint]) -> Groups<'a> {
    let mut groups = Groups::new();
    let rank = Rank {
        priority: 0,
        weight: 0,
    };
    for endpoint in chosen {
        let key = (rank, Locality::of_labels(&endpoint.labels));
        groups.entry(key).or_default().push(endpoint);
    }
    groups
}

/// Groups as a caller of this class sees them. What decides is read from the world, where it changes with the
/// caller's labels.
fn ranked<'a>(
    view: &View<'_>,
    near: &Nearness,
    chosen: &[&'a Endpoint],
    class: &Class,
) -> Groups<'a> {
    let world = view.read(Read::Workload(class.workload_id.clone()));
    let own = world.workload(&class.workload_id);
    let none = Labels::new();
    let own_labels = own.map_or(&none, |member| &member.registration.labels);
    let own_place = Locality::of_labels(own_labels);
    let mut siblings: BTreeMap<Locality, u64> = BTreeMap::new();
    if near.zone_aware.is_some()
        && let Some(own) = own
    {
        let service = Host::of_service(&own.registration.service, &own.registration.namespace);
        let ports = view
            .read(Read::Endpoints(service.clone()))
            .endpoints
            .get(&service);
        let all = ports.and_then(|ports| ports.values().next());
        for endpoint in all.into_iter().flatten() {
            let place = Locality::of_labels(&endpoint.labels);
            *siblings.entry(place).or_default() += 1;
        }
    }
    let places: Vec<Locality> = chosen
        .iter()
        .map(|endpoint| Locality::of_labels(&endpoint.labels))
        .collect();
    let standing: Vec<Standing<'_>> = chosen
        .iter()
        .zip(&places)
        .map(|(endpoint, locality)| Standing {
            locality,
            labels: &endpoint.labels,
            healthy: endpoint.health == Health::Healthy,
        })
        .collect();
    let caller = Caller {
        locality: &own_place,
        labels: own_labels,
        siblings: &siblings,
    };
    let ranks = near.rank(&caller, &standing);
    let mut groups = Groups::new();
    for ((endpoint, place), rank) in chosen.iter().zip(&places).zip(ranks) {
        if let Some(rank) = rank {
            groups
                .entry((rank, place.clone()))
                .or_default()
                .push(endpoint);
        }
    }
    groups
}

/// Whether groups of this priority have shares of their own.
fn shares(priority: u32, groups: &Groups<'_>) -> bool {
    groups
        .keys()
        .any(|(rank, _)| rank.priority == priority && rank.weight > 0)
}

fn group(
    (rank, place): &(Rank, Locality),
    members: &[&Endpoint],
    shares: bool,
    class: &Class,
) -> pb::LocalityLbEndpoints {
    let own: u32 = members
        .iter()
        .fold(0, |sum, e| e.weight.saturating_add(sum));
    // A group without weight takes no load; a weight of 0 would be refused.
    let weight = if shares { rank.weight } else { own.max(1) };
    pb::LocalityLbEndpoints {
        lb_endpoints: members
            .iter()
            .filter_map(|endpoint| message(endpoint))
            .collect(),
        load_balancing_weight: (weight > 0).then_some(UInt32Value { value: weight }),
        priority: rank.priority,
        // A gRPC client refuses endpoints that are nowhere, even where nobody says where they are.
        locality: (class.dialect == Dialect::Grpc || !place.is_empty()).then(|| WireLocality {
            region: place.region.clone(),
            zone: place.zone.clone(),
            sub_zone: place.subzone.clone(),
        }),
        ..pb::LocalityLbEndpoints::default()
    }
}

/// Envoy refuses a whole set for one address that is a name or one weight of 0.
fn dialled_by_anyone(endpoint: &Endpoint) -> bool {
    endpoint.weight > 0 && endpoint.address.parse::<std::net::SocketAddr>().is_ok()
}

pub(super) fn message(endpoint: &Endpoint) -> Option<pb::LbEndpoint> {
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
