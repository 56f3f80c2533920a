//! A gateway's listener: filter chains, their TLS, and where their connections go.
//!
//! A chain that asks for something which this proxy cannot carry out is left out, so that its connections are refused;
//! the other chains of the port are in force.

use super::listener::{GRPC_WEB, HTTP, TCP, manager};
use super::{Error, Taken, access, route};
use crate::edge::spec::{Asked, Source, Spec};
use http::StatusCode;
use naka_engine::model::{
    Access, Action, Chain, Edge, Forward, HeaderEdits, Hosts, Match, Redirect, Route, Security,
    Serves, VirtualHost, Wants, WeightedCluster,
};
use naka_engine::runtime::PortLimits;
use naka_identity::served::{Pin, Version};
use naka_types::cidr::Cidr;
use naka_types::node::{GUARD, LIMIT, NAKA};
use naka_wire::envoy::config::core::v3::{
    CidrRange, DataSource, data_source::Specifier, transport_socket,
};
use naka_wire::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, filter,
};
use naka_wire::envoy::config::route::v3 as pb;
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use naka_wire::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, TlsParameters,
    certificate_validation_context::TrustChainVerification,
    common_tls_context::ValidationContextType, tls_parameters::TlsProtocol,
};
use naka_wire::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use naka_wire::values;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Name of the workload's own certificate.
const OWN: &str = "default";
const SNI_CLUSTER: &str = "envoy.filters.network.sni_cluster";
const PROXY_PROTOCOL: &str = "envoy.filters.listener.proxy_protocol";
const TLS_INSPECTOR: &str = "envoy.filters.listener.tls_inspector";

/// A gateway's port with the TLS of its chains, by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// Chains.
    pub edge: Arc<Edge>,
    /// TLS of those that serve strangers.
    pub tls: BTreeMap<Arc<str>, Spec>,
}

/// A gateway's listener.
///
/// # Errors
/// [`Error`] when it is unsound as a whole.
pub fn port(wire: &Listener, ids: route::Ids<'_>) -> Result<Taken<Port>, Error> {
    let port = wire
        .address
        .as_ref()
        .and_then(super::socket_address)
        .ok_or_else(|| Error::at("address", "not an IP address with a port"))?
        .port();
    let mut proxy_protocol = false;
    for (index, one) in wire.listener_filters.iter().enumerate() {
        match one.name.as_str() {
            PROXY_PROTOCOL => proxy_protocol = true,
            // We look ourselves, where a chain needs it.
            TLS_INSPECTOR => {}
            other => {
                let what = format!("{other} is not supported");
                return Err(Error::at(format!("listener_filters[{index}]"), what));
            }
        }
    }
    let mut chains = Vec::new();
    let mut tls = BTreeMap::new();
    let mut left_out = Vec::new();
    let listener = wire.name.as_str();
    for (index, wire) in wire.filter_chains.iter().enumerate() {
        let field = format!("filter_chains[{index}]");
        match chain(wire, listener, port, ids) {
            Err(error) => left_out.push(error.within(&field)),
            Ok((taken, spec)) => {
                left_out.extend(taken.left_out.into_iter().map(|e| e.within(&field)));
                if let Some(spec) = spec {
                    tls.insert(Arc::clone(&taken.model.name), spec);
                }
                chains.push(Arc::new(taken.model));
            }
        }
    }
    let mut edge = Edge::new(port, chains);
    edge.proxy_protocol = proxy_protocol;
    edge.limits = limits(wire).map(|limits| (limits, Arc::default()));
    Ok(Taken {
        model: Port {
            edge: Arc::new(edge),
            tls,
        },
        left_out,
    })
}

/// Limits of the port's connections, as our control plane says them.
fn limits(wire: &Listener) -> Option<PortLimits> {
    let own = values::of_metadata(wire.metadata.as_ref(), NAKA)?;
    let number = |key: &str| values::get_str(own, key).and_then(|text| text.parse().ok());
    let limits = PortLimits {
        connections: number("max-connections"),
        connections_per_address: number("max-connections-per-address"),
        rate: number("connections-per-second"),
        rate_per_address: number("connections-per-second-per-address"),
    };
    (limits != PortLimits::default()).then_some(limits)
}

fn chain(
    wire: &FilterChain,
    listener: &str,
    port: u16,
    ids: route::Ids<'_>,
) -> Result<(Taken<Chain>, Option<Spec>), Error> {
    let wants = wants(wire.filter_chain_match.as_ref())?;
    let (security, spec) = security(wire)?;
    let access = access(wire, ids)?;
    let serves = serves(wire, port, security, ids)?;
    let chain = Chain {
        name: wire.name.as_str().into(),
        wants,
        security,
        access,
        serves: serves.model,
        grpc_web: grpc_web(wire)?,
        server: counted(wire, listener)?,
    };
    let taken = Taken {
        model: chain,
        left_out: serves.left_out,
    };
    Ok((taken, spec))
}

fn wants(wire: Option<&FilterChainMatch>) -> Result<Wants, Error> {
    let Some(wire) = wire else {
        return Ok(Wants::default());
    };
    for (present, field) in [
        (wire.destination_port.is_some(), "destination_port"),
        (!wire.address_suffix.is_empty(), "address_suffix"),
        (!wire.source_ports.is_empty(), "source_ports"),
        (wire.source_type != 0, "source_type"),
        (
            !wire.application_protocols.is_empty(),
            "application_protocols",
        ),
    ] {
        if present {
            return Err(Error::at(
                format!("filter_chain_match.{field}"),
                "not supported",
            ));
        }
    }
    let tls = match wire.transport_protocol.as_str() {
        "" => None,
        "tls" => Some(true),
        "raw_buffer" => Some(false),
        other => {
            let what = format!("{other:?} is not supported");
            return Err(Error::at("filter_chain_match.transport_protocol", what));
        }
    };
    Ok(Wants {
        tls,
        server_names: wire
            .server_names
            .iter()
            .map(|name| Arc::from(name.to_ascii_lowercase()))
            .collect(),
        local: ranges(&wire.prefix_ranges, "prefix_ranges")?,
        direct: ranges(
            &wire.direct_source_prefix_ranges,
            "direct_source_prefix_ranges",
        )?,
        remote: ranges(&wire.source_prefix_ranges, "source_prefix_ranges")?,
    })
}

fn ranges(wire: &[CidrRange], field: &str) -> Result<Box<[Cidr]>, Error> {
    let read = |range: &CidrRange| {
        let length = range.prefix_len.as_ref().map_or(0, |length| length.value);
        Cidr::new(
            range.address_prefix.parse().ok()?,
            u8::try_from(length).ok()?,
        )
    };
    let all: Option<Box<[Cidr]>> = wire.iter().map(read).collect();
    all.ok_or_else(|| {
        Error::at(
            format!("filter_chain_match.{field}"),
            "not a range of addresses",
        )
    })
}

/// How connections are secured, and with what.
pub(super) fn security(chain: &FilterChain) -> Result<(Security, Option<Spec>), Error> {
    let Some(socket) = &chain.transport_socket else {
        return Ok((Security::None, None));
    };
    let Some(transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else {
        return Err(Error::at("transport_socket", "it has no configuration"));
    };
    let context: DownstreamTlsContext =
        naka_wire::unpack(any).map_err(|error| Error::at("transport_socket", error))?;
    let required = context
        .require_client_certificate
        .is_some_and(|flag| flag.value);
    let at = |error: Error| error.within("transport_socket.common_tls_context");
    let common = context
        .common_tls_context
        .ok_or_else(|| at(Error::at("", "it is missing")))?;
    let own = common
        .tls_certificate_sds_secret_configs
        .iter()
        .any(|secret| secret.name == OWN);
    if own && required {
        return Ok((Security::Mesh, None));
    }
    if own {
        return Err(at(Error::at(
            "require_client_certificate",
            "the mesh's own certificate is shown to the mesh only",
        )));
    }
    let spec = spec(&common, required).map_err(at)?;
    Ok((Security::Served, Some(spec)))
}

fn spec(common: &CommonTlsContext, required: bool) -> Result<Spec, Error> {
    let mut certificates: Vec<Source> = common
        .tls_certificate_sds_secret_configs
        .iter()
        .map(|secret| Source::Secret(secret.name.as_str().into()))
        .collect();
    for wire in &common.tls_certificates {
        let chain = file(wire.certificate_chain.as_ref());
        let key = file(wire.private_key.as_ref());
        match (chain, key) {
            (Some(chain), Some(key)) => certificates.push(Source::Files { chain, key }),
            _ => return Err(Error::at("tls_certificates", "only files are taken here")),
        }
    }
    if certificates.is_empty() {
        return Err(Error::at("tls_certificates", "there is no certificate"));
    }
    let parameters = common.tls_params.clone().unwrap_or_default();
    let (lowest, highest) = versions(&parameters)?;
    Ok(Spec {
        certificates,
        clients: asked(common, required)?,
        lowest,
        highest,
        suites: parameters.cipher_suites,
        curves: parameters.ecdh_curves,
        alpn: common
            .alpn_protocols
            .iter()
            .map(|word| word.as_bytes().to_vec())
            .collect(),
    })
}

fn file(source: Option<&DataSource>) -> Option<Arc<str>> {
    match source?.specifier.as_ref()? {
        Specifier::Filename(name) => Some(name.as_str().into()),
        _ => None,
    }
}

fn versions(parameters: &TlsParameters) -> Result<(Version, Version), Error> {
    let lowest = match TlsProtocol::try_from(parameters.tls_minimum_protocol_version) {
        Ok(TlsProtocol::TlSv13) => Version::Tls13,
        _ => Version::Tls12,
    };
    let highest = match TlsProtocol::try_from(parameters.tls_maximum_protocol_version) {
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv13) => Version::Tls13,
        Ok(TlsProtocol::TlSv12) => Version::Tls12,
        _ => {
            return Err(Error::at(
                "tls_params.tls_maximum_protocol_version",
                "no version that is served is left",
            ));
        }
    };
    Ok((lowest, highest))
}

/// What is asked of clients; nothing where there is no context for it.
fn asked(common: &CommonTlsContext, required: bool) -> Result<Option<Asked>, Error> {
    let (context, secret) = match &common.validation_context_type {
        None if required => {
            return Err(Error::at("validation_context", "it is missing"));
        }
        None => return Ok(None),
        Some(ValidationContextType::ValidationContext(context)) => (Some(context), None),
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => {
            (None, Some(secret))
        }
        Some(ValidationContextType::CombinedValidationContext(both)) => (
            both.default_validation_context.as_ref(),
            both.validation_context_sds_secret_config.as_ref(),
        ),
        Some(_) => return Err(Error::at("validation_context", "not supported")),
    };
    let none = CertificateValidationContext::default();
    let context = context.unwrap_or(&none);
    let roots = match secret {
        Some(secret) => Source::Secret(secret.name.as_str().into()),
        None => Source::File(file(context.trusted_ca.as_ref()).ok_or_else(|| {
            Error::at(
                "validation_context.trusted_ca",
                "neither a secret nor a file",
            )
        })?),
    };
    let mut names = Vec::new();
    for matcher in &context.match_typed_subject_alt_names {
        let pattern = matcher
            .matcher
            .as_ref()
            .and_then(|one| one.match_pattern.as_ref());
        match pattern {
            Some(MatchPattern::Exact(name)) if names.contains(name) => {}
            Some(MatchPattern::Exact(name)) => names.push(name.clone()),
            _ => {
                return Err(Error::at(
                    "validation_context.match_typed_subject_alt_names",
                    "only exact names are supported",
                ));
            }
        }
    }
    let keys = context.verify_certificate_spki.iter();
    let hashes = context.verify_certificate_hash.iter();
    let pins: Option<Vec<Pin>> = keys
        .map(|text| Pin::key(text))
        .chain(hashes.map(|text| Pin::certificate(text)))
        .collect();
    Ok(Some(Asked {
        roots,
        revoked: file(context.crl.as_ref()),
        optional: !required,
        unverified: context.trust_chain_verification
            == TrustChainVerification::AcceptUntrusted as i32,
        names,
        pins: pins
            .ok_or_else(|| Error::at("validation_context.verify_certificate", "not a SHA-256"))?,
    }))
}

/// Who may use a chain: RBAC before its bytes, or of its requests.
fn access(chain: &FilterChain, ids: route::Ids<'_>) -> Result<Option<Arc<Access>>, Error> {
    match without_access(chain).as_slice() {
        [only] if only.name == HTTP => {
            let Some(filter::ConfigType::TypedConfig(any)) = &only.config_type else {
                return Ok(None);
            };
            access::of_requests(&manager(any)?.http_filters, ids)
        }
        _ => access::of_bytes(&chain.filters),
    }
}

/// The manager of a chain of requests.
fn requests(chain: &FilterChain) -> Result<Option<HttpConnectionManager>, Error> {
    let Some(last) = chain.filters.last().filter(|last| last.name == HTTP) else {
        return Ok(None);
    };
    match &last.config_type {
        Some(filter::ConfigType::TypedConfig(any)) => manager(any).map(Some),
        _ => Ok(None),
    }
}

/// Whether gRPC-Web is made gRPC.
fn grpc_web(chain: &FilterChain) -> Result<bool, Error> {
    let mut filters = requests(chain)?
        .map(|one| one.http_filters)
        .into_iter()
        .flatten();
    Ok(filters.any(|one| one.name == GRPC_WEB))
}

/// Name that requests are counted under besides; a chain without one has its listener's.
fn counted(chain: &FilterChain, listener: &str) -> Result<Option<Arc<str>>, Error> {
    let name = requests(chain)?.map(|one| one.stat_prefix);
    let own = name.filter(|name| name != listener && !name.is_empty());
    Ok(own.map(|name| name.as_str().into()))
}

/// The filters of a chain but those that say who may use it.
fn without_access(chain: &FilterChain) -> Vec<&Filter> {
    let all = chain.filters.iter();
    all.filter(|one| ![access::BYTES, GUARD].contains(&one.name.as_str()))
        .collect()
}

fn serves(
    chain: &FilterChain,
    port: u16,
    security: Security,
    ids: route::Ids<'_>,
) -> Result<Taken<Serves>, Error> {
    let of = |filter: &Filter, index: usize| match &filter.config_type {
        Some(filter::ConfigType::TypedConfig(any)) => Ok(any.clone()),
        _ => Err(Error::at(
            format!("filters[{index}]"),
            "it has no configuration",
        )),
    };
    match without_access(chain).as_slice() {
        [only] if only.name == HTTP => {
            let manager = manager(&of(only, 0)?)?;
            if manager.http_filters.iter().any(|one| one.name == LIMIT) {
                let what = "limits of a gateway stand at its routes";
                return Err(Error::at("filters[0].http_filters", what));
            }
            let Some(RouteSpecifier::RouteConfig(config)) = manager.route_specifier else {
                let field = "filters[0].route_specifier";
                return Err(Error::at(field, "only inline routes are supported"));
            };
            let tls = security != Security::None;
            let taken = virtual_hosts(&config.virtual_hosts, port, tls, ids);
            Ok(Taken {
                model: Serves::Http(Hosts::new(taken.model)),
                left_out: taken.left_out,
            })
        }
        [only] if only.name == TCP => {
            let proxy: TcpProxy =
                naka_wire::unpack(&of(only, 0)?).map_err(|error| Error::at("filters[0]", error))?;
            Ok(Taken {
                model: Serves::Bytes(Arc::new(bytes(&proxy, port, ids)?)),
                left_out: Vec::new(),
            })
        }
        [first, second] if first.name == SNI_CLUSTER && second.name == TCP => Ok(Taken {
            model: Serves::Named,
            left_out: Vec::new(),
        }),
        others => {
            let names: Vec<&str> = others.iter().map(|filter| filter.name.as_str()).collect();
            Err(Error::at("filters", format!("{names:?} is not supported")))
        }
    }
}

/// One route to the clusters of a TCP proxy, as the only host of a chain.
fn bytes(proxy: &TcpProxy, port: u16, ids: route::Ids<'_>) -> Result<VirtualHost, Error> {
    let mut share = |name: &str, weight| WeightedCluster::new(ids(name), name, weight);
    let shares = match &proxy.cluster_specifier {
        Some(tcp_proxy::ClusterSpecifier::Cluster(name)) => vec![share(name, 1)],
        Some(tcp_proxy::ClusterSpecifier::WeightedClusters(all)) => all
            .clusters
            .iter()
            .map(|one| share(&one.name, one.weight))
            .collect(),
        None => Vec::new(),
    };
    let forward = Forward::new(shares).map_err(|error| Error::at("filters[0]", error))?;
    let name: Arc<str> = proxy.stat_prefix.as_str().into();
    Ok(VirtualHost {
        name: Arc::clone(&name),
        port,
        domains: Box::default(),
        routes: Box::new([everything(name, Action::Forward(forward))]),
    })
}

fn everything(name: Arc<str>, action: Action) -> Arc<Route> {
    Arc::new(Route {
        name,
        config: None,
        matches: Match::default(),
        action,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        limit: None,
        extras: Default::default(),
    })
}

/// The hosts of a chain. Names are made unique per port, because two ports may have the same host.
fn virtual_hosts(
    wire: &[pb::VirtualHost],
    port: u16,
    tls: bool,
    ids: route::Ids<'_>,
) -> Taken<Vec<Arc<VirtualHost>>> {
    use pb::virtual_host::TlsRequirementType;
    let mut model = Vec::new();
    let mut left_out = Vec::new();
    for (index, wire) in wire.iter().enumerate() {
        let field = format!("virtual_hosts[{index}]");
        let only_tls = wire.require_tls == TlsRequirementType::All as i32;
        let mut plain = wire.clone();
        if only_tls {
            plain.require_tls = TlsRequirementType::None as i32;
        }
        match route::virtual_host(&plain, Some(port), ids) {
            Ok(taken) => {
                left_out.extend(taken.left_out.into_iter().map(|e| e.within(&field)));
                let mut host = taken.model;
                host.name = format!("{port}/{}", wire.name).into();
                if only_tls && !tls {
                    // Nothing of it is served in plaintext.
                    host.routes = Box::new([to_https()]);
                }
                model.push(Arc::new(host));
            }
            Err(error) => left_out.push(error.within(&field)),
        }
    }
    Taken { model, left_out }
}

/// What a request in plaintext is told, as Envoy does.
fn to_https() -> Arc<Route> {
    let redirect = Redirect {
        status: StatusCode::MOVED_PERMANENTLY,
        scheme: Some("https".into()),
        host: None,
        port: None,
        path: None,
        strip_query: false,
    };
    everything("https-redirect".into(), Action::Redirect(redirect))
}
