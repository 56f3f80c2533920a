//! Filter chains as Envoy's messages, for our own proxies and for Envoys alike.

use super::bytes;
use super::chain::{Chain, Security, Serves, Wants};
use super::port::Port;
use crate::compile::credential::Credential;
use crate::compile::{Dialect, listener, tls};
use crate::world::Domains;
use naka_api::networking::destination_rule::ConnectionPool;
use naka_api::networking::gateway::{Certificate, Roots, ServerTls, TlsMode, TlsVersion};
use naka_types::cidr::Cidr;
use naka_types::name::ClusterName;
use naka_wire::envoy::config::core::v3::{
    CidrRange, DataSource, TransportSocket, data_source::Specifier,
};
use naka_wire::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch};
use naka_wire::envoy::extensions::filters::network::sni_cluster::v3::SniCluster;
use naka_wire::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SubjectAltNameMatcher,
    TlsCertificate, TlsParameters,
    certificate_validation_context::TrustChainVerification,
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    subject_alt_name_matcher::SanType,
    tls_parameters::TlsProtocol,
};
use naka_wire::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use naka_wire::google::protobuf::{BoolValue, UInt32Value};
use naka_wire::time;
use std::net::IpAddr;
use std::time::Duration;

/// Time for a TLS handshake, as in `proxy::limits`.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Protocols inside HTTPS.
const HTTP: &[&str] = &["h2", "http/1.1"];
/// Where a server name leads that names nothing.
const NOWHERE: &str = "BlackHoleCluster";
/// Suites of TLS 1.2 that our own proxies have; an Envoy is told.
const SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// Whom a message is for.
pub(crate) struct For<'a> {
    pub(crate) dialect: Dialect,
    pub(crate) domains: &'a Domains,
    /// What holds for the port.
    pub(crate) port: &'a Port,
    /// Filters before bytes.
    pub(crate) before: Vec<Filter>,
}

/// A chain whose requests go through `http`.
pub(crate) fn chain(chain: &Chain, to: &For<'_>, http: impl FnOnce() -> Filter) -> FilterChain {
    let is_http = matches!(chain.serves, Serves::Http(_));
    let counted = to
        .port
        .connections()
        .filter(|_| to.dialect == Dialect::Envoy);
    let filters = match &chain.serves {
        Serves::Http(_) => vec![http()],
        Serves::Bytes(route) => {
            let own = tcp(route, &ConnectionPool::default());
            to.before.iter().cloned().chain([own]).collect()
        }
        Serves::Named(_) => {
            let name = "envoy.filters.network.sni_cluster";
            let by_name = listener::typed(name, naka_wire::pack(&SniCluster {}));
            let own = [by_name, listener::tcp(NOWHERE, &ConnectionPool::default())];
            to.before.iter().cloned().chain(own).collect()
        }
    };
    let transport_socket = match &chain.security {
        Security::None => None,
        Security::Mesh if to.dialect == Dialect::Envoy => {
            let alpn: &[&str] = if is_http {
                HTTP
            } else {
                &["naka-tcp", "istio"]
            };
            Some(tls::envoy_downstream(alpn, to.domains))
        }
        Security::Mesh => Some(tls::downstream()),
        Security::Served(settings, certificates, roots) => Some(served(
            settings,
            certificates,
            roots.as_ref(),
            is_http,
            to.dialect,
        )),
    };
    FilterChain {
        name: chain.name.clone(),
        filter_chain_match: Some(wanted(&chain.wants, to)),
        filters: counted.into_iter().chain(filters).collect(),
        transport_socket_connect_timeout: transport_socket
            .is_some()
            .then(|| time::to_wire(HANDSHAKE)),
        transport_socket,
        ..FilterChain::default()
    }
}

fn wanted(wants: &Wants, to: &For<'_>) -> FilterChainMatch {
    let protocol = if wants.tls { "tls" } else { "raw_buffer" };
    FilterChainMatch {
        transport_protocol: protocol.to_owned(),
        server_names: wants.server_names.clone(),
        prefix_ranges: ranges(&wants.local),
        source_prefix_ranges: ranges(&wants.remote),
        direct_source_prefix_ranges: ranges(&to.port.heads_from),
        ..FilterChainMatch::default()
    }
}

fn ranges(all: &[Cidr]) -> Vec<CidrRange> {
    let range = |one: &Cidr| CidrRange {
        address_prefix: one.address().to_string(),
        prefix_len: Some(UInt32Value {
            value: u32::from(one.length()),
        }),
    };
    all.iter().map(range).collect()
}

/// Bytes to one of several clusters.
pub(crate) fn tcp(route: &bytes::Route, ends: &ConnectionPool) -> Filter {
    use tcp_proxy::weighted_cluster::ClusterWeight;
    let specifier = match route.shares.as_slice() {
        [(only, _)] => tcp_proxy::ClusterSpecifier::Cluster(only.to_string()),
        many => {
            let share = |(cluster, weight): &(ClusterName, u32)| ClusterWeight {
                name: cluster.to_string(),
                weight: *weight,
                ..ClusterWeight::default()
            };
            let clusters = many.iter().filter(|(_, weight)| *weight > 0).map(share);
            tcp_proxy::ClusterSpecifier::WeightedClusters(tcp_proxy::WeightedCluster {
                clusters: clusters.collect(),
            })
        }
    };
    let proxy = TcpProxy {
        stat_prefix: route.name.clone(),
        idle_timeout: ends.tcp_idle.map(time::to_wire),
        max_downstream_connection_duration: ends.max_connection_duration.map(time::to_wire),
        cluster_specifier: Some(specifier),
        ..TcpProxy::default()
    };
    listener::typed("envoy.filters.network.tcp_proxy", naka_wire::pack(&proxy))
}

fn version(version: TlsVersion) -> i32 {
    match version {
        TlsVersion::V12 => TlsProtocol::TlSv12 as i32,
        TlsVersion::V13 => TlsProtocol::TlSv13 as i32,
    }
}

pub(crate) fn served(
    settings: &ServerTls,
    certificates: &[Credential],
    roots: Option<&Credential>,
    is_http: bool,
    dialect: Dialect,
) -> TransportSocket {
    let files = settings.certificates.iter().filter_map(|one| match one {
        Certificate::Secret(_) => None,
        Certificate::Files { chain, key } => Some(TlsCertificate {
            certificate_chain: file(chain),
            private_key: file(key),
            ..TlsCertificate::default()
        }),
    });
    let suites: Vec<String> = match settings.suites.as_slice() {
        [] if dialect == Dialect::Envoy => SUITES.map(str::to_owned).to_vec(),
        chosen => chosen.to_vec(),
    };
    let secret = |credential: &Credential| tls::over_stream(&credential.to_string());
    let common = CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: version(settings.lowest),
            tls_maximum_protocol_version: version(settings.highest),
            cipher_suites: suites,
            ecdh_curves: match settings.curves.as_slice() {
                [] => tls::CURVES.map(str::to_owned).to_vec(),
                chosen => chosen.to_vec(),
            },
            ..TlsParameters::default()
        }),
        tls_certificates: files.collect(),
        tls_certificate_sds_secret_configs: certificates.iter().map(secret).collect(),
        alpn_protocols: if !settings.alpn.is_empty() {
            settings.alpn.clone()
        } else if is_http {
            HTTP.iter().map(|word| (*word).to_owned()).collect()
        } else {
            Vec::new()
        },
        validation_context_type: settings.mode.asks().then(|| {
            let context = validation(settings);
            match roots {
                None => ValidationContextType::ValidationContext(context),
                Some(roots) => ValidationContextType::CombinedValidationContext(
                    CombinedCertificateValidationContext {
                        default_validation_context: Some(context),
                        validation_context_sds_secret_config: Some(secret(roots)),
                        ..CombinedCertificateValidationContext::default()
                    },
                ),
            }
        }),
        ..CommonTlsContext::default()
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(BoolValue {
            value: settings.mode == TlsMode::Mutual,
        }),
        ..DownstreamTlsContext::default()
    };
    tls::socket("envoy.transport_sockets.tls", naka_wire::pack(&context))
}

fn file(name: &str) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(Specifier::Filename(name.to_owned())),
        ..DataSource::default()
    })
}

/// What is asked of clients beside a chain that leads to a root.
fn validation(settings: &ServerTls) -> CertificateValidationContext {
    let matcher = |kind: SanType, name: &String| SubjectAltNameMatcher {
        san_type: kind as i32,
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(name.clone())),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    };
    // A name is of any kind that it can be.
    let kinds = |name: &String| match name.parse::<IpAddr>() {
        Ok(_) => vec![matcher(SanType::IpAddress, name)],
        Err(_) => [SanType::Dns, SanType::Uri, SanType::Email]
            .map(|kind| matcher(kind, name))
            .to_vec(),
    };
    CertificateValidationContext {
        trusted_ca: match &settings.roots {
            Some(Roots::File(name)) => file(name),
            _ => None,
        },
        crl: settings.revoked.as_deref().and_then(file),
        match_typed_subject_alt_names: settings.names.iter().flat_map(kinds).collect(),
        verify_certificate_spki: settings.spki.clone(),
        verify_certificate_hash: settings.hashes.clone(),
        only_verify_leaf_cert_crl: true,
        trust_chain_verification: match settings.unverified {
            true => TrustChainVerification::AcceptUntrusted,
            false => TrustChainVerification::VerifyTrustChain,
        } as i32,
        ..CertificateValidationContext::default()
    }
}
