//! TLS with servers outside the mesh, and tunnels through proxies, of a cluster.

use super::Error;
use crate::edge::spec::Held;
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
use std::collections::BTreeMap;
use std::sync::Arc;

/// Secrets of the control plane that TLS of a cluster is made with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shown {
    /// Our certificate and its key.
    pub certificate: Option<Arc<str>>,
    /// Authorities believed.
    pub roots: Option<Arc<str>>,
}

impl Shown {
    /// Whether a secret of this name is one of them.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        [&self.certificate, &self.roots]
            .into_iter()
            .flatten()
            .any(|own| **own == *name)
    }

    /// TLS with what the secrets hold; without one of them nobody is believed.
    #[must_use]
    pub fn fill(&self, tls: &OutsideTls, held: &BTreeMap<String, Held>) -> OutsideTls {
        let mut tls = tls.clone();
        let inline = |bytes: &Vec<u8>| Source::Inline(bytes.as_slice().into());
        if let Some(name) = &self.certificate {
            match held.get(&**name) {
                Some(Held::Certificate { chain, key }) => {
                    tls.certificate = Some((inline(chain), inline(key)));
                }
                Some(Held::Roots { .. }) | None => tls.nobody = true,
            }
        }
        if let Some(name) = &self.roots {
            match held.get(&**name) {
                Some(Held::Roots { roots, revoked }) => {
                    tls.roots = Some(inline(roots));
                    tls.revoked = (!revoked.is_empty()).then(|| inline(revoked));
                }
                Some(Held::Certificate { .. }) | None => tls.nobody = true,
            }
        }
        tls
    }
}

/// The transport socket of a cluster whose endpoints are no members of the mesh.
///
/// # Errors
/// [`Error`] when it asks for what is not carried out here: nothing of it is ever left out.
pub fn tls(socket: &TransportSocket) -> Result<(OutsideTls, Shown), Error> {
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
    let mut shown = Shown {
        certificate: match common.tls_certificate_sds_secret_configs.as_slice() {
            [] => None,
            [one] if certificate.is_none() => Some(one.name.as_str().into()),
            _ => {
                let field = "tls_certificate_sds_secret_configs";
                return Err(Error::at(field, "only one certificate is supported"));
            }
        },
        roots: None,
    };
    let validation = match &common.validation_context_type {
        None => None,
        Some(ValidationContextType::ValidationContext(own)) => Some(own),
        Some(ValidationContextType::CombinedValidationContext(both)) => {
            let secret = both.validation_context_sds_secret_config.as_ref();
            shown.roots = secret.map(|secret| secret.name.as_str().into());
            both.default_validation_context.as_ref()
        }
        Some(_) => {
            return Err(Error::at(
                "validation_context_type",
                "only a context of its own, with or without a secret, is supported",
            ));
        }
    };
    let optional = |data: Option<&DataSource>, field: &str| {
        data.map(|data| source(Some(data), field)).transpose()
    };
    let name = (!context.sni.is_empty()).then(|| Arc::from(context.sni.as_str()));
    let nobody = validation.map_or(Ok(false), nobody)?;
    let tls = OutsideTls {
        sni: name,
        names: validation.map_or(Ok(Vec::new()), names)?.into(),
        roots: optional(validation.and_then(|v| v.trusted_ca.as_ref()), "trusted_ca")?,
        revoked: optional(validation.and_then(|v| v.crl.as_ref()), "crl")?,
        certificate,
        verify: validation.is_some() || shown.roots.is_some(),
        nobody,
    };
    Ok((tls, shown))
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

#[cfg(test)]
mod tests {
    use super::{Held, OutsideTls, Shown, Source};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    #[test]
    fn without_its_secrets_nobody_is_believed() {
        let tls = OutsideTls {
            sni: None,
            names: Arc::from([]),
            roots: None,
            revoked: None,
            certificate: None,
            verify: true,
            nobody: false,
        };
        let shown = Shown {
            certificate: Some("k".into()),
            roots: Some("r".into()),
        };
        let (chain, key) = (b"c".to_vec(), b"k".to_vec());
        let certificate = || Held::Certificate {
            chain: chain.clone(),
            key: key.clone(),
        };
        let roots = |revoked: &[u8]| Held::Roots {
            roots: b"r".to_vec(),
            revoked: revoked.to_vec(),
        };
        let fill = |all: &[(&str, Held)]| {
            let held: BTreeMap<String, Held> = all
                .iter()
                .map(|(name, held)| ((*name).to_owned(), held.clone()))
                .collect();
            shown.fill(&tls, &held)
        };
        for wrong in [
            vec![],
            vec![("k", certificate())],
            vec![("r", roots(b""))],
            vec![("k", roots(b"")), ("r", roots(b""))],
            vec![("k", certificate()), ("r", certificate())],
        ] {
            assert!(fill(&wrong).nobody);
        }
        let inline = |text: &[u8]| Source::Inline(text.into());
        let filled = fill(&[("k", certificate()), ("r", roots(b""))]);
        let wanted = OutsideTls {
            roots: Some(inline(b"r")),
            certificate: Some((inline(b"c"), inline(b"k"))),
            ..tls.clone()
        };
        assert_eq!(filled, wanted);
        let filled = fill(&[("k", certificate()), ("r", roots(b"l"))]);
        assert_eq!(filled.revoked, Some(inline(b"l")));
    }
}
