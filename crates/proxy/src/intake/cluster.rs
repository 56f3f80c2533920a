//! Clusters: how a destination is called, and who may answer for it.

use super::endpoint::{self, Member, Named};
use super::outside::Shown;
use super::route::Ids;
use super::{Error, Taken};
use naka_engine::model::{ClusterSpec, HttpVersion, OutsideTls, PeerTls, Policy, ServiceMeta};
use naka_types::locality::Nearness;
use naka_types::node::NAKA;
use naka_types::protocol::Protocol;
use naka_types::spiffe::SpiffeId;
use naka_wire::envoy::config::cluster::v3::{self as pb, cluster};
use naka_wire::envoy::config::core::v3::{Metadata, TransportSocket, transport_socket};
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, UpstreamTlsContext, common_tls_context::ValidationContextType,
    subject_alt_name_matcher::SanType,
};
use naka_wire::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions,
    http_protocol_options::{UpstreamProtocolOptions, explicit_http_config::ProtocolConfig},
};
use naka_wire::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use naka_wire::google::protobuf::value::Kind;
use naka_wire::{time, values};
use std::sync::Arc;
use std::time::Duration;

mod backend;
mod balance;
mod outlier;
mod pool;

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const TLS_SOCKET: &str = "envoy.transport_sockets.tls";
const BY_CALLER: &str = "envoy.clusters.dynamic_forward_proxy";
const RAW_SOCKET: &str = "envoy.transport_sockets.raw_buffer";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A cluster as received: what it is, and its endpoints when it carries them itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Everything but the endpoints.
    pub spec: Arc<ClusterSpec>,
    /// Secrets that its TLS towards the outside world is made with.
    pub shown: Shown,
    /// What makes endpoints near, where the proxy ranks them itself.
    pub near: Option<Nearness>,
    /// Name of the endpoints that come apart from it.
    pub told: Arc<str>,
    /// Its own endpoints; `None` when they come apart from it.
    pub members: Option<Vec<Member>>,
    /// Its own endpoints by names that are to be looked up.
    pub named: Option<Named>,
}

/// A cluster.
///
/// # Errors
/// [`Error`] when it cannot be called as it says.
pub fn cluster(wire: &pb::Cluster, ids: Ids<'_>) -> Result<Taken<Part>, Error> {
    let (proxy_header, wire) = super::outside::introduced(wire)?;
    let wire = &*wire;
    let (found, left_out) = found(wire)?;
    let protocol = protocol(wire.metadata.as_ref());
    let mut spec = ClusterSpec::new(&wire.name, protocol);
    balance::read(wire, &mut spec)?;
    if found == Found::ByCaller {
        spec.policy = Policy::RoundRobin;
    }
    spec.connect_timeout = match &wire.connect_timeout {
        None => CONNECT_TIMEOUT,
        Some(wire) => time::from_wire(wire)
            .filter(|timeout| !timeout.is_zero())
            .ok_or_else(|| Error::at("connect_timeout", "not a positive duration"))?,
    };
    spec.limits = pool::limits(wire)?;
    spec.keeping.probes = pool::probes(wire);
    let (outside, shown) = outside(wire)?;
    spec.outside = outside;
    spec.proxy_header = proxy_header;
    spec.tunnel = super::outside::tunnel(wire);
    spec.by_caller = found == Found::ByCaller;
    (spec.keeps_address, spec.port) = kept(wire.metadata.as_ref());
    spec.unix = endpoint::unix(wire.load_assignment.as_ref());
    spec.outlier = outlier::outlier(wire)?;
    spec.panic_threshold = outlier::panic(wire)?;
    spec.backend = backend::backend(wire, ids)?;
    spec.priority = pool::priority(wire)?;
    spec.tls = sockets(wire)?;
    spec.service = service(wire.metadata.as_ref());
    http_options(wire, &mut spec)?;
    let (members, named) = match found {
        Found::Told => (None, None),
        Found::Written(members) => (Some(members), None),
        Found::Named(named) => (None, Some(named)),
        Found::ByCaller => (Some(Vec::new()), None),
    };
    Ok(Taken {
        model: Part {
            near: balance::near(wire),
            told: match &wire.eds_cluster_config {
                Some(eds) if !eds.service_name.is_empty() => eds.service_name.as_str().into(),
                _ => wire.name.as_str().into(),
            },
            spec: Arc::new(spec),
            shown,
            members,
            named,
        },
        left_out,
    })
}

/// How endpoints are found.
#[derive(Debug, PartialEq)]
enum Found {
    Told,
    Written(Vec<Member>),
    Named(Named),
    ByCaller,
}

fn found(wire: &pb::Cluster) -> Result<(Found, Vec<Error>), Error> {
    use cluster::{ClusterDiscoveryType as By, DiscoveryType};
    let refused = |field: &str| {
        Err(Error::at(
            field,
            "this way of finding endpoints is not supported",
        ))
    };
    let assignment = || {
        let assignment = wire.load_assignment.as_ref();
        assignment.ok_or_else(|| Error::at("load_assignment", "it is missing"))
    };
    let kind = match &wire.cluster_discovery_type {
        Some(By::Type(kind)) => DiscoveryType::try_from(*kind),
        Some(By::ClusterType(custom)) if custom.name == BY_CALLER => {
            return Ok((Found::ByCaller, Vec::new()));
        }
        _ => return refused("cluster_discovery_type"),
    };
    match kind {
        Ok(DiscoveryType::Eds) => Ok((Found::Told, Vec::new())),
        Ok(DiscoveryType::Static) => {
            let taken = endpoint::members(assignment()?);
            Ok((Found::Written(taken.model), taken.left_out))
        }
        Ok(DiscoveryType::StrictDns | DiscoveryType::LogicalDns) => {
            let one = kind == Ok(DiscoveryType::LogicalDns);
            let taken = endpoint::named(assignment()?, one);
            Ok((Found::Named(taken.model), taken.left_out))
        }
        _ => refused("type"),
    }
}

/// TLS with servers outside the mesh: what a cluster without the choice by mesh mark says.
fn outside(wire: &pb::Cluster) -> Result<(Option<Arc<OutsideTls>>, Shown), Error> {
    let Some(socket) = &wire.transport_socket else {
        return Ok((None, Shown::default()));
    };
    match socket.name.as_str() {
        RAW_SOCKET => Ok((None, Shown::default())),
        TLS_SOCKET => {
            let (tls, shown) =
                super::outside::tls(socket).map_err(|e| e.within("transport_socket"))?;
            Ok((Some(Arc::new(tls)), shown))
        }
        other => Err(Error::at(
            "transport_socket",
            format!("{other} is not supported here"),
        )),
    }
}

/// Whether calls go on to the address that they were made to, and at which port if not at that they were made to.
fn kept(metadata: Option<&Metadata>) -> (bool, Option<u16>) {
    let own = values::of_metadata(metadata, NAKA);
    let said = |name| own.and_then(|own| values::get_str(own, name));
    let port = said("port").and_then(|port| port.parse().ok());
    (said("address") == Some("kept"), port)
}

fn protocol(metadata: Option<&Metadata>) -> Protocol {
    values::of_metadata(metadata, NAKA)
        .and_then(|own| values::get_str(own, "protocol"))
        .map_or(Protocol::Auto, |word| Protocol::declared(None, Some(word)))
}

fn service(metadata: Option<&Metadata>) -> ServiceMeta {
    let first = values::of_metadata(metadata, "istio")
        .and_then(|istio| values::get(istio, "services"))
        .and_then(|services| match services {
            Kind::ListValue(list) => list.values.first(),
            _ => None,
        });
    let Some(Kind::StructValue(fields)) = first.and_then(|value| value.kind.as_ref()) else {
        return ServiceMeta::default();
    };
    let text = |key: &str| values::get_str(fields, key).unwrap_or_default().into();
    ServiceMeta {
        host: text("host"),
        name: text("name"),
        namespace: text("namespace"),
    }
}

/// Mutual TLS for endpoints with the mesh mark, or for all; anything else must be plaintext.
fn sockets(wire: &pb::Cluster) -> Result<Option<PeerTls>, Error> {
    let mut mutual = None;
    for (index, candidate) in wire.transport_socket_matches.iter().enumerate() {
        let at = |what: String| Error::at(format!("transport_socket_matches[{index}]"), what);
        let Some(socket) = &candidate.transport_socket else {
            return Err(at("it has no transport socket".to_owned()));
        };
        let mesh = candidate
            .r#match
            .as_ref()
            .and_then(|wanted| values::get_str(wanted, "tlsMode"))
            == Some("istio");
        match (mesh, socket.name.as_str()) {
            (mesh, TLS_SOCKET) => {
                let mut tls = peer_tls(socket)
                    .map_err(|e| e.within(&format!("transport_socket_matches[{index}]")))?;
                tls.always = !mesh;
                mutual.get_or_insert(tls);
            }
            (false, RAW_SOCKET) => {}
            (_, other) => return Err(at(format!("{other} is not supported here"))),
        }
    }
    Ok(mutual)
}

fn peer_tls(socket: &TransportSocket) -> Result<PeerTls, Error> {
    let Some(transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else {
        return Err(Error::at("typed_config", "it is missing"));
    };
    let context: UpstreamTlsContext =
        naka_wire::unpack(any).map_err(|error| Error::at("typed_config", error))?;
    let validation = context
        .common_tls_context
        .as_ref()
        .and_then(|common| common.validation_context_type.as_ref());
    let validation = match validation {
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined.default_validation_context.as_ref()
        }
        Some(ValidationContextType::ValidationContext(own)) => Some(own),
        _ => None,
    };
    let allowed = validation.map_or(Ok(Vec::new()), allowed)?;
    Ok(PeerTls {
        allowed: allowed.into(),
        sni: context.sni.as_str().into(),
        always: false,
    })
}

fn allowed(validation: &CertificateValidationContext) -> Result<Vec<SpiffeId>, Error> {
    validation
        .match_typed_subject_alt_names
        .iter()
        .enumerate()
        .map(|(index, san)| {
            let at =
                |what: &str| Error::at(format!("match_typed_subject_alt_names[{index}]"), what);
            if san.san_type() != SanType::Uri {
                return Err(at("only URI names are supported"));
            }
            match san.matcher.as_ref().and_then(|m| m.match_pattern.as_ref()) {
                Some(MatchPattern::Exact(text)) => {
                    SpiffeId::parse(text).map_err(|error| at(&error.to_string()))
                }
                _ => Err(at("only exact identities are supported")),
            }
        })
        .collect()
}

fn http_options(wire: &pb::Cluster, spec: &mut ClusterSpec) -> Result<(), Error> {
    let Some(any) = wire.typed_extension_protocol_options.get(HTTP_OPTIONS) else {
        return Ok(());
    };
    let options: HttpProtocolOptions = naka_wire::unpack(any)
        .map_err(|error| Error::at("typed_extension_protocol_options", error))?;
    spec.http = match &options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => {
            match &explicit.protocol_config {
                Some(ProtocolConfig::Http2ProtocolOptions(_)) => HttpVersion::Http2,
                Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                    return Err(Error::at("typed_extension_protocol_options", "no HTTP/3"));
                }
                _ => HttpVersion::Http1,
            }
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) => HttpVersion::SameAsCaller,
        Some(UpstreamProtocolOptions::AutoConfig(_)) => {
            return Err(Error::at(
                "typed_extension_protocol_options",
                "auto_config is not supported",
            ));
        }
        None => spec.http,
    };
    if let (Some(outlier), Some(wanted)) = (&mut spec.outlier, &options.outlier_detection) {
        outlier.statuses = outlier::statuses(wanted)?;
    }
    pool::keeping(&options, &mut spec.keeping)?;
    Ok(())
}
