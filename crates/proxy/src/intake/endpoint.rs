//! Endpoint sets.

use super::{Error, Taken};
use naka_engine::model::{Health, WorkloadMeta};
use naka_types::locality::Locality;
use naka_types::node::NAKA;
use naka_types::workload::Ulid;
use naka_wire::envoy::config::core::v3::{HealthStatus, Metadata};
use naka_wire::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use naka_wire::values;
use std::net::SocketAddr;
use std::sync::Arc;

/// One endpoint as received; what lives longer (counts) is added from the engine's registry.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Where to connect.
    pub address: SocketAddr,
    /// Share of calls.
    pub weight: u32,
    /// Whether it may be called.
    pub health: Health,
    /// The mesh mark.
    pub mtls: bool,
    /// Who serves.
    pub workload: Arc<WorkloadMeta>,
    /// Where it stands, as it was sent.
    pub stand: Stand,
}

/// Where an endpoint stands.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stand {
    /// How near: 0 is called first.
    pub priority: u32,
    /// Its place.
    pub place: Arc<Locality>,
    /// Share of its place and priority; 0 takes no load where shares decide.
    pub weight: u32,
}

/// The endpoints of a cluster. One that cannot be dialled is left out.
#[must_use]
pub fn members(wire: &ClusterLoadAssignment) -> Taken<Vec<Member>> {
    let mut model = Vec::new();
    let mut left_out = Vec::new();
    for (l, locality) in wire.endpoints.iter().enumerate() {
        let stand = Stand {
            priority: locality.priority,
            place: Arc::new(place(locality)),
            weight: locality.load_balancing_weight.map_or(0, |w| w.value),
        };
        for (e, endpoint) in locality.lb_endpoints.iter().enumerate() {
            match member(endpoint, &stand) {
                Ok(member) => model.push(member),
                Err(error) => {
                    left_out.push(error.within(&format!("endpoints[{l}].lb_endpoints[{e}]")));
                }
            }
        }
    }
    Taken { model, left_out }
}

fn place(wire: &LocalityLbEndpoints) -> Locality {
    let Some(place) = &wire.locality else {
        return Locality::default();
    };
    Locality {
        region: place.region.clone(),
        zone: place.zone.clone(),
        subzone: place.sub_zone.clone(),
    }
}

fn member(wire: &LbEndpoint, stand: &Stand) -> Result<Member, Error> {
    let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &wire.host_identifier else {
        return Err(Error::at("endpoint", "it is missing"));
    };
    let address = endpoint
        .address
        .as_ref()
        .and_then(super::socket_address)
        .ok_or_else(|| Error::at("endpoint.address", "not an IP address with a port"))?;
    let health = match HealthStatus::try_from(wire.health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded) => {
            Health::Healthy
        }
        Ok(HealthStatus::Draining) => Health::Draining,
        // A state this version does not know is not one to send requests to.
        Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) | Err(_) => Health::Unhealthy,
    };
    let metadata = wire.metadata.as_ref();
    let mtls = values::of_metadata(metadata, "envoy.transport_socket_match")
        .and_then(|mark| values::get_str(mark, "tlsMode"))
        == Some("istio");
    Ok(Member {
        address,
        weight: wire.load_balancing_weight.as_ref().map_or(1, |w| w.value),
        health,
        mtls,
        workload: Arc::new(workload(metadata)),
        stand: stand.clone(),
    })
}

/// `istio.workload` is `name;namespace;canonical name;canonical revision;cluster`.
fn workload(metadata: Option<&Metadata>) -> WorkloadMeta {
    let own = values::of_metadata(metadata, NAKA);
    let text = values::of_metadata(metadata, "istio")
        .and_then(|istio| values::get_str(istio, "workload"))
        .unwrap_or_default();
    let mut parts = text.split(';').map(Arc::<str>::from);
    let mut next = || parts.next().unwrap_or_default();
    WorkloadMeta {
        id: own
            .and_then(|own| values::get_str(own, "workload_id"))
            .and_then(Ulid::parse),
        name: next(),
        namespace: next(),
        canonical_name: next(),
        canonical_revision: next(),
        cluster: next(),
        labels: own
            .and_then(|own| values::get_struct(own, "labels"))
            .map(values::to_map)
            .unwrap_or_default(),
    }
}
