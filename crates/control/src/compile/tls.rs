//! TLS of listeners and clusters, as Envoy's messages.
//!
//! Keys never travel: the proxy holds its own certificate under the name `default`, as with Istio; the trust bundle
//! is the secret `ROOTCA`.

use super::ROOT_CA;
use naka_wire::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, TransportSocket,
    config_source::ConfigSourceSpecifier, transport_socket,
};
use naka_wire::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, UpstreamTlsContext,
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    subject_alt_name_matcher::SanType,
};
use naka_wire::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use naka_wire::google::protobuf::{Any, BoolValue};

/// Configuration comes over the stream it is mentioned on.
pub(crate) fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

fn secret(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ads()),
    }
}

fn common(alpn: &[&str], identities: &[String]) -> CommonTlsContext {
    let exact = |identity: &String| SubjectAltNameMatcher {
        san_type: SanType::Uri as i32,
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(identity.clone())),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    };
    let context = CertificateValidationContext {
        match_typed_subject_alt_names: identities.iter().map(exact).collect(),
        ..CertificateValidationContext::default()
    };
    CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![secret("default")],
        alpn_protocols: alpn.iter().map(|word| (*word).to_owned()).collect(),
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(context),
                validation_context_sds_secret_config: Some(secret(ROOT_CA)),
                ..CombinedCertificateValidationContext::default()
            },
        )),
        ..CommonTlsContext::default()
    }
}

fn socket(name: &str, config: Any) -> TransportSocket {
    TransportSocket {
        name: name.to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(config)),
    }
}

/// A listener that asks its callers who they are.
pub(crate) fn downstream() -> TransportSocket {
    let context = DownstreamTlsContext {
        common_tls_context: Some(common(&["h2", "http/1.1"], &[])),
        require_client_certificate: Some(BoolValue { value: true }),
        ..DownstreamTlsContext::default()
    };
    socket("envoy.transport_sockets.tls", naka_wire::pack(&context))
}

/// A connection to a peer that must be one of `identities`.
pub(crate) fn upstream(sni: &str, identities: &[String]) -> TransportSocket {
    let context = UpstreamTlsContext {
        common_tls_context: Some(common(&["istio"], identities)),
        sni: sni.to_owned(),
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
