//! TLS with servers outside the mesh, and tunnels through proxies, of a cluster.

use super::Error;
use naka_engine::model::{OutsideTls, Source, Tunnel};
use naka_types::name::NO_CERTIFICATE;
use naka_types::node::NAKA;
use naka_wire::envoy::config::cluster::v3 as pb;
use naka_wire::envoy::config::core::v3::{
    DataSource, TransportSocket, data_source::Specifier, transport_socket,
};
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, UpstreamTlsContext, common_tls_context::ValidationContextType,
};
use naka_wire::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use naka_wire::values;
use std::sync::Arc;

/// The transport socket of a cluster whose endpoints are no members of the mesh.
///
/// # Errors
/// [`Error`] when it asks for what is not carried out here: nothing of it is ever left out.
pub fn tls(socket: &TransportSocket) -> Result<OutsideTls, Error> {
    let Some(transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else {
        return Err(Error::at("typed_config", "it is missing"));
    };
    let context: UpstreamTlsContext =
        naka_wire::unpack(any).map_err(|error| Error::at("typed_config", error))?;
    let common = context.common_tls_context.unwrap_or_default();
    let certificate = match common.tls_certificates.as_slice() {
        [] => None,
        [one] => Some((
            source(one.certificate_chain.as_ref(), "certificate_chain")?,
            source(one.private_key.as_ref(), "private_key")?,
        )),
        _ => return Err(Error::at("tls_certificates", "only one is supported")),
    };
    if !common.tls_certificate_sds_secret_configs.is_empty() {
        return Err(Error::at(
            "tls_certificate_sds_secret_configs",
            "not supported towards servers outside the mesh",
        ));
    }
    let validation = match &common.validation_context_type {
        None => None,
        Some(ValidationContextType::ValidationContext(own)) => Some(own),
        Some(_) => {
            return Err(Error::at(
                "validation_context_type",
                "only a context of its own is supported",
            ));
        }
    };
    let optional = |data: Option<&DataSource>, field: &str| {
        data.map(|data| source(Some(data), field)).transpose()
    };
    let name = (!context.sni.is_empty()).then(|| Arc::from(context.sni.as_str()));
    let nobody = validation.map_or(Ok(false), nobody)?;
    Ok(OutsideTls {
        sni: name,
        names: validation.map_or(Ok(Vec::new()), names)?.into(),
        roots: optional(validation.and_then(|v| v.trusted_ca.as_ref()), "trusted_ca")?,
        revoked: optional(validation.and_then(|v| v.crl.as_ref()), "crl")?,
        certificate,
        verify: validation.is_some(),
        nobody,
    })
}

/// Whether only the certificate that nobody has is taken. Others are not taken by their hashes here, and a condition
/// that is not looked at must not be passed over.
fn nobody(validation: &CertificateValidationContext) -> Result<bool, Error> {
    let pinned = !validation.verify_certificate_spki.is_empty();
    match validation.verify_certificate_hash.as_slice() {
        [] if !pinned => Ok(false),
        [only] if only == NO_CERTIFICATE => Ok(true),
        _ => Err(Error::at(
            "verify_certificate_hash",
            "certificates are not taken by their hashes",
        )),
    }
}

fn source(data: Option<&DataSource>, field: &str) -> Result<Source, Error> {
    match data.and_then(|data| data.specifier.as_ref()) {
        Some(Specifier::Filename(path)) => Ok(Source::File(path.as_str().into())),
        Some(Specifier::InlineBytes(bytes)) => Ok(Source::Inline(bytes.as_slice().into())),
        Some(Specifier::InlineString(text)) => Ok(Source::Inline(text.as_bytes().into())),
        Some(_) | None => Err(Error::at(field, "neither a file nor inline")),
    }
}

fn names(validation: &CertificateValidationContext) -> Result<Vec<String>, Error> {
    let all = validation.match_typed_subject_alt_names.iter().enumerate();
    all.map(
        |(index, san)| match san.matcher.as_ref().and_then(|m| m.match_pattern.as_ref()) {
            Some(MatchPattern::Exact(text)) => Ok(text.to_ascii_lowercase()),
            Some(MatchPattern::Suffix(text)) => Ok(format!("*{}", text.to_ascii_lowercase())),
            _ => Err(Error::at(
                format!("match_typed_subject_alt_names[{index}]"),
                "only exact names and suffixes are supported",
            )),
        },
    )
    .collect()
}

/// Where connections through a cluster lead on to.
#[must_use]
pub fn tunnel(wire: &pb::Cluster) -> Option<Tunnel> {
    let own = values::of_metadata(wire.metadata.as_ref(), NAKA)?;
    Some(Tunnel {
        target: values::get_str(own, "tunnel")?.into(),
        post: values::get_str(own, "tunnel_by") == Some("POST"),
    })
}
