//! TLS of listeners and clusters, as Envoy's messages.
//!
//! Keys never travel: the proxy holds its own certificate under the name `default`, as with Istio; the trust bundle
//! is the secret `ROOTCA`.

use super::{Dialect, ROOT_CA};
use crate::world::Domains;
use naka_api::networking::destination_rule::ProxyHeader;
use naka_types::name::NO_CERTIFICATE;
use naka_wire::envoy::config::core::v3::{
    AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource, DataSource, GrpcService,
    ProxyProtocolConfig, TransportSocket,
    api_config_source::ApiType,
    config_source::ConfigSourceSpecifier,
    data_source,
    grpc_service::{EnvoyGrpc, TargetSpecifier},
    proxy_protocol_config::Version,
    transport_socket,
};
use naka_wire::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use naka_wire::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext,
    DownstreamTlsContext, SdsSecretConfig, SubjectAltNameMatcher, TlsCertificate, TlsParameters,
    UpstreamTlsContext,
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    subject_alt_name_matcher::SanType,
    tls_parameters::TlsProtocol,
};
use naka_wire::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use naka_wire::google::protobuf::{Any, BoolValue};

/// The static cluster of an Envoy's bootstrap that leads to its agent.
const AGENT: &str = "naka-agent";
/// No certificate has this name.
const NOBODY: &str = "spiffe://nobody";
/// Key exchanges of the mesh, the best first.
pub(crate) const CURVES: [&str; 3] = ["X25519MLKEM768", "X25519", "P-256"];

/// Configuration comes over the stream it is mentioned on.
pub(crate) fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

/// The agent beside an Envoy.
pub(crate) fn agent() -> GrpcService {
    GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: AGENT.to_owned(),
            ..EnvoyGrpc::default()
        })),
        ..GrpcService::default()
    }
}

/// Where an Envoy gets its keys: from the agent beside it, which holds the workload's identity.
fn keys() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(ApiConfigSource {
            api_type: ApiType::Grpc as i32,
            transport_api_version: ApiVersion::V3 as i32,
            grpc_services: vec![agent()],
            ..ApiConfigSource::default()
        })),
        ..ConfigSource::default()
    }
}

fn secret(name: &str, dialect: Dialect) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(match dialect {
            Dialect::Envoy => keys(),
            _ => ads(),
        }),
    }
}

/// A secret that comes over the stream it is mentioned on, from the control plane.
pub(crate) fn over_stream(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ads()),
    }
}

/// A name a peer's certificate must have.
pub(crate) enum Peer<'a> {
    Exact(&'a str),
    Prefix(&'a str),
}

fn san(peer: &Peer<'_>) -> SubjectAltNameMatcher {
    let pattern = match peer {
        Peer::Exact(identity) => MatchPattern::Exact((*identity).to_owned()),
        Peer::Prefix(domain) => MatchPattern::Prefix((*domain).to_owned()),
    };
    SubjectAltNameMatcher {
        san_type: SanType::Uri as i32,
        matcher: Some(StringMatcher {
            match_pattern: Some(pattern),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    }
}

fn common(alpn: &[&str], peers: &[Peer<'_>], dialect: Dialect) -> CommonTlsContext {
    let context = CertificateValidationContext {
        match_typed_subject_alt_names: peers.iter().map(san).collect(),
        ..CertificateValidationContext::default()
    };
    CommonTlsContext {
        // What our own proxies do anyway, an Envoy must be told.
        tls_params: (dialect == Dialect::Envoy).then(|| TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13 as i32,
            tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
            ecdh_curves: CURVES.map(str::to_owned).to_vec(),
            ..TlsParameters::default()
        }),
        tls_certificate_sds_secret_configs: vec![secret("default", dialect)],
        alpn_protocols: alpn.iter().map(|word| (*word).to_owned()).collect(),
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(context),
                validation_context_sds_secret_config: Some(secret(ROOT_CA, dialect)),
                ..CombinedCertificateValidationContext::default()
            },
        )),
        ..CommonTlsContext::default()
    }
}

pub(crate) fn socket(name: &str, config: Any) -> TransportSocket {
    TransportSocket {
        name: name.to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(config)),
    }
}

/// A listener that asks its callers who they are.
pub(crate) fn downstream() -> TransportSocket {
    listening(common(&["h2", "http/1.1"], &[], Dialect::Naka))
}

/// An Envoy's listener that asks its callers who they are: anybody of the trust domain or of an alias.
pub(crate) fn envoy_downstream(alpn: &[&str], domains: &Domains) -> TransportSocket {
    let all: Vec<String> = domains
        .all()
        .map(|domain| format!("spiffe://{domain}/"))
        .collect();
    let peers: Vec<Peer<'_>> = all.iter().map(|domain| Peer::Prefix(domain)).collect();
    listening(common(alpn, &peers, Dialect::Envoy))
}

/// Names of peers that the roots of the mesh vouch for beside those of its own trust domain.
pub(crate) fn of_aliases(domains: &Domains) -> Vec<SubjectAltNameMatcher> {
    let all = domains
        .aliases()
        .map(|domain| format!("spiffe://{domain}/"));
    all.map(|domain| san(&Peer::Prefix(&domain))).collect()
}

fn listening(common: CommonTlsContext) -> TransportSocket {
    let context = DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(BoolValue { value: true }),
        ..DownstreamTlsContext::default()
    };
    socket("envoy.transport_sockets.tls", naka_wire::pack(&context))
}

/// A connection to a peer that must be one of `identities`.
pub(crate) fn upstream(
    sni: &str,
    identities: &[String],
    alpn: &[&str],
    dialect: Dialect,
) -> TransportSocket {
    let mut peers: Vec<Peer<'_>> = identities.iter().map(|id| Peer::Exact(id)).collect();
    if peers.is_empty() && dialect == Dialect::Envoy {
        // To Envoy an empty list means anybody.
        peers.push(Peer::Exact(NOBODY));
    }
    let context = UpstreamTlsContext {
        common_tls_context: Some(common(alpn, &peers, dialect)),
        sni: sni.to_owned(),
        ..UpstreamTlsContext::default()
    };
    socket("envoy.transport_sockets.tls", naka_wire::pack(&context))
}

/// A gRPC client's connection to a peer that must be one of `identities`: its certificates come from the provider
/// `default` of its bootstrap, and it reads names of peers only from the older field.
#[expect(
    deprecated,
    reason = "gRPC (A29) reads match_subject_alt_names and nothing newer"
)]
pub(crate) fn grpc_upstream(identities: &[String]) -> TransportSocket {
    let instance = || CertificateProviderPluginInstance {
        instance_name: "default".to_owned(),
        ..CertificateProviderPluginInstance::default()
    };
    let exact = |identity: &str| StringMatcher {
        match_pattern: Some(MatchPattern::Exact(identity.to_owned())),
        ..StringMatcher::default()
    };
    let mut names: Vec<StringMatcher> = identities.iter().map(|id| exact(id)).collect();
    if names.is_empty() {
        names.push(exact(NOBODY));
    }
    let validation = CertificateValidationContext {
        ca_certificate_provider_instance: Some(instance()),
        match_subject_alt_names: names,
        ..CertificateValidationContext::default()
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_provider_instance: Some(instance()),
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    };
    socket("envoy.transport_sockets.tls", naka_wire::pack(&context))
}

/// A connection without TLS.
pub(crate) fn raw() -> TransportSocket {
    socket(
        "envoy.transport_sockets.raw_buffer",
        naka_wire::pack(&RawBuffer {}),
    )
}

/// A connection that begins with a PROXY header, before whatever the socket does.
pub(crate) fn introduced(inner: TransportSocket, header: ProxyHeader) -> TransportSocket {
    let config = ProxyProtocolUpstreamTransport {
        config: Some(ProxyProtocolConfig {
            version: match header {
                ProxyHeader::V1 => Version::V1,
                ProxyHeader::V2 => Version::V2,
            } as i32,
            ..ProxyProtocolConfig::default()
        }),
        transport_socket: Some(inner),
        ..ProxyProtocolUpstreamTransport::default()
    };
    let name = "envoy.transport_sockets.upstream_proxy_protocol";
    socket(name, naka_wire::pack(&config))
}

/// Where every system keeps the authorities it believes, as far as Envoy must be told.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// TLS with a server outside the mesh.
pub(crate) struct Outside<'a> {
    /// Server name; `None` = the host of the request.
    pub(crate) sni: Option<&'a str>,
    /// Names of which the certificate must carry one; empty = the server name.
    pub(crate) names: &'a [String],
    /// File of the authorities believed; `None` = the system's.
    pub(crate) roots: Option<&'a str>,
    /// Secret with the authorities believed, instead of a file.
    pub(crate) root_secret: Option<String>,
    /// Secret with our certificate and its key, instead of files.
    pub(crate) certificate_secret: Option<String>,
    /// File of revoked certificates.
    pub(crate) revoked: Option<&'a str>,
    /// Files of our certificate and its key.
    pub(crate) certificate: Option<(&'a str, &'a str)>,
    /// Whether the certificate is verified at all.
    pub(crate) verify: bool,
    /// Protocols offered.
    pub(crate) alpn: &'a [&'a str],
}

/// A connection on which no server is believed, because what was asked for cannot be carried out: it fails, at an Envoy
/// in the handshake.
pub(crate) fn nobody(sni: Option<&str>) -> TransportSocket {
    let validation = CertificateValidationContext {
        verify_certificate_hash: vec![NO_CERTIFICATE.to_owned()],
        ..CertificateValidationContext::default()
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..CommonTlsContext::default()
        }),
        sni: sni.unwrap_or_default().to_owned(),
        ..UpstreamTlsContext::default()
    };
    socket("envoy.transport_sockets.tls", naka_wire::pack(&context))
}

/// A connection to a server outside the mesh. TLS 1.2 is good enough there.
pub(crate) fn outside(wanted: &Outside<'_>, dialect: Dialect) -> TransportSocket {
    let file = |path: &str| DataSource {
        specifier: Some(data_source::Specifier::Filename(path.to_owned())),
        ..DataSource::default()
    };
    let san = |name: &String| {
        let uri = name.contains("://");
        let ip = name.parse::<std::net::IpAddr>().is_ok();
        let pattern = match name.strip_prefix('*') {
            Some(suffix) => MatchPattern::Suffix(suffix.to_owned()),
            None => MatchPattern::Exact(name.clone()),
        };
        SubjectAltNameMatcher {
            san_type: if uri {
                SanType::Uri
            } else if ip {
                SanType::IpAddress
            } else {
                SanType::Dns
            } as i32,
            matcher: Some(StringMatcher {
                match_pattern: Some(pattern),
                ..StringMatcher::default()
            }),
            ..SubjectAltNameMatcher::default()
        }
    };
    let validation = wanted.verify.then(|| CertificateValidationContext {
        // Our own proxies find the system's by themselves.
        trusted_ca: match (wanted.roots, dialect) {
            _ if wanted.root_secret.is_some() => None,
            (Some(path), _) => Some(file(path)),
            (None, Dialect::Envoy) => Some(file(SYSTEM_ROOTS)),
            (None, _) => None,
        },
        crl: wanted.revoked.map(file),
        match_typed_subject_alt_names: wanted.names.iter().map(san).collect(),
        ..CertificateValidationContext::default()
    });
    let certificate = |(chain, key): (&str, &str)| TlsCertificate {
        certificate_chain: Some(file(chain)),
        private_key: Some(file(key)),
        ..TlsCertificate::default()
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: (dialect == Dialect::Envoy).then(|| TlsParameters {
                tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
                tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
                ..TlsParameters::default()
            }),
            tls_certificate_sds_secret_configs: wanted
                .certificate_secret
                .iter()
                .map(|name| over_stream(name))
                .collect(),
            tls_certificates: wanted.certificate.map(certificate).into_iter().collect(),
            alpn_protocols: wanted.alpn.iter().map(|word| (*word).to_owned()).collect(),
            validation_context_type: validation.map(|own| match &wanted.root_secret {
                None => ValidationContextType::ValidationContext(own),
                Some(name) => ValidationContextType::CombinedValidationContext(
                    CombinedCertificateValidationContext {
                        default_validation_context: Some(own),
                        validation_context_sds_secret_config: Some(over_stream(name)),
                        ..CombinedCertificateValidationContext::default()
                    },
                ),
            }),
            ..CommonTlsContext::default()
        }),
        sni: wanted.sni.unwrap_or_default().to_owned(),
        auto_host_sni: wanted.sni.is_none(),
        auto_sni_san_validation: wanted.verify && wanted.names.is_empty(),
        ..UpstreamTlsContext::default()
    };
    socket("envoy.transport_sockets.tls", naka_wire::pack(&context))
}
