//! Endpoint sets.

use super::{Error, Taken};
use naka_engine::model::{Health, WorkloadMeta};
use naka_types::host::Host;
use naka_types::locality::Locality;
use naka_types::node::NAKA;
use naka_types::workload::Ulid;
use naka_wire::envoy::config::core::v3::{
    HealthStatus, Metadata, address, socket_address::PortSpecifier,
};
use naka_wire::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use naka_wire::values;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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
        let stand = stand(locality);
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

fn stand(wire: &LocalityLbEndpoints) -> Stand {
    Stand {
        priority: wire.priority,
        place: Arc::new(place(wire)),
        weight: wire.load_balancing_weight.map_or(0, |w| w.value),
    }
}

/// Endpoints that are looked up by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// In the order of configuration.
    pub endpoints: Vec<NamedEndpoint>,
    /// One address at a time, the first of the answer.
    pub one: bool,
}

/// An endpoint whose address is a name, or an address already.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedEndpoint {
    /// Name.
    pub host: String,
    /// What holds for each of its addresses; the address itself is not looked at, its port is.
    pub member: Member,
}

impl Named {
    /// The endpoints as far as names have a meaning.
    #[must_use]
    pub fn members(&self, meanings: &BTreeMap<String, Vec<IpAddr>>) -> Vec<Member> {
        let mut all: Vec<Member> = Vec::new();
        for endpoint in &self.endpoints {
            let addresses = meanings.get(&endpoint.host).map_or(&[][..], Vec::as_slice);
            let most = if self.one { 1 } else { addresses.len() };
            for ip in addresses.iter().take(most) {
                let address = SocketAddr::new(*ip, endpoint.member.address.port());
                // Two names may mean the same machine.
                if all.iter().all(|known| known.address != address) {
                    all.push(Member {
                        address,
                        ..endpoint.member.clone()
                    });
                }
            }
        }
        all
    }

    /// Whether nobody has answered about any of the names yet.
    #[must_use]
    pub fn is_unanswered(&self, meanings: &BTreeMap<String, Vec<IpAddr>>) -> bool {
        let mut names = self.endpoints.iter().map(|endpoint| &endpoint.host);
        !self.endpoints.is_empty() && names.all(|name| !meanings.contains_key(name))
    }
}

/// Endpoints that are looked up. One without a name is left out.
#[must_use]
pub fn named(wire: &ClusterLoadAssignment, one: bool) -> Taken<Named> {
    let mut endpoints = Vec::new();
    let mut left_out = Vec::new();
    for (l, locality) in wire.endpoints.iter().enumerate() {
        let stand = stand(locality);
        for (e, endpoint) in locality.lb_endpoints.iter().enumerate() {
            match named_endpoint(endpoint, &stand) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => {
                    left_out.push(error.within(&format!("endpoints[{l}].lb_endpoints[{e}]")));
                }
            }
        }
    }
    Taken {
        model: Named { endpoints, one },
        left_out,
    }
}

fn named_endpoint(wire: &LbEndpoint, stand: &Stand) -> Result<NamedEndpoint, Error> {
    let refused = || Error::at("endpoint.address", "not a name with a port");
    let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &wire.host_identifier else {
        return Err(Error::at("endpoint", "it is missing"));
    };
    let address = endpoint.address.as_ref().ok_or_else(refused)?;
    let Some(address::Address::SocketAddress(socket)) = &address.address else {
        return Err(refused());
    };
    let host = Host::parse(&socket.address).map_err(|_| refused())?;
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return Err(refused());
    };
    let port = u16::try_from(port).map_err(|_| refused())?;
    let member = described(
        wire,
        SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
        stand,
    )?;
    Ok(NamedEndpoint {
        host: host.as_str().to_owned(),
        member,
    })
}

/// The Unix socket that is the only endpoint of a cluster.
pub(super) fn unix(wire: Option<&ClusterLoadAssignment>) -> Option<Arc<str>> {
    let [locality] = wire?.endpoints.as_slice() else {
        return None;
    };
    let [only] = locality.lb_endpoints.as_slice() else {
        return None;
    };
    let lb_endpoint::HostIdentifier::Endpoint(endpoint) = only.host_identifier.as_ref()? else {
        return None;
    };
    pipe(endpoint).map(Arc::from)
}

fn pipe(endpoint: &Endpoint) -> Option<&str> {
    match endpoint.address.as_ref()?.address.as_ref()? {
        address::Address::Pipe(pipe) if pipe.path.starts_with('/') => Some(&pipe.path),
        _ => None,
    }
}

fn member(wire: &LbEndpoint, stand: &Stand) -> Result<Member, Error> {
    let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &wire.host_identifier else {
        return Err(Error::at("endpoint", "it is missing"));
    };
    // The address of a Unix socket only names it among endpoints; the cluster knows the path.
    let unix = pipe(endpoint).map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let address = endpoint
        .address
        .as_ref()
        .and_then(super::socket_address)
        .or(unix)
        .ok_or_else(|| Error::at("endpoint.address", "not an IP address with a port"))?;
    described(wire, address, stand)
}

/// Everything but the address.
fn described(wire: &LbEndpoint, address: SocketAddr, stand: &Stand) -> Result<Member, Error> {
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
