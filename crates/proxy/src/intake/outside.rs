//! TLS with servers outside the mesh, PROXY headers and tunnels through proxies, of a cluster.

use super::Error;
use crate::edge::spec::Held;
use naka_engine::model::{OutsideTls, ProxyHeader, Source, Tunnel};
use naka_types::name::NO_CERTIFICATE;
use naka_types::node::NAKA;
use naka_wire::envoy::config::cluster::v3 as pb;
use naka_wire::envoy::config::core::v3::{
    DataSource, ProxyProtocolConfig, TransportSocket, data_source::Specifier,
    proxy_protocol_config::Version, transport_socket,
};
use naka_wire::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, UpstreamTlsContext, common_tls_context::ValidationContextType,
};
use naka_wire::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use naka_wire::values;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

const INTRODUCED: &str = "envoy.transport_sockets.upstream_proxy_protocol";

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

/// The PROXY header that connections to a cluster begin with, and the cluster with what comes after it.
///
/// # Errors
/// [`Error`] when its connections do not all begin alike, or the header is to say more than who calls.
pub fn introduced(
    wire: &pb::Cluster,
) -> Result<(Option<ProxyHeader>, Cow<'_, pb::Cluster>), Error> {
    let matches = wire.transport_socket_matches.iter();
    let mut sockets = matches
        .filter_map(|candidate| candidate.transport_socket.as_ref())
        .chain(&wire.transport_socket);
    if !sockets.any(|socket| socket.name == INTRODUCED) {
        return Ok((None, Cow::Borrowed(wire)));
    }
    let mut wire = wire.clone();
    let matches = wire.transport_socket_matches.iter_mut();
    let sockets = matches
        .filter_map(|candidate| candidate.transport_socket.as_mut())
        .chain(&mut wire.transport_socket);
    let mut header = None;
    for socket in sockets {
        let (found, inner) = inner(socket).map_err(|error| error.within("transport_socket"))?;
        if *header.get_or_insert(found) != found {
            let why = "connections do not all begin with the same PROXY header";
            return Err(Error::at("transport_socket", why));
        }
        *socket = inner;
    }
    Ok((header, Cow::Owned(wire)))
}

fn inner(socket: &TransportSocket) -> Result<(ProxyHeader, TransportSocket), Error> {
    let any = match &socket.config_type {
        Some(transport_socket::ConfigType::TypedConfig(any)) if socket.name == INTRODUCED => any,
        _ => {
            let why = "some connections begin with a PROXY header and some do not";
            return Err(Error::at("name", why));
        }
    };
    let found: ProxyProtocolUpstreamTransport =
        naka_wire::unpack(any).map_err(|error| Error::at("typed_config", error))?;
    let config = found.config.unwrap_or_default();
    let plain = ProxyProtocolConfig {
        version: config.version,
        ..ProxyProtocolConfig::default()
    };
    if config != plain {
        let why = "the header says who calls, and nothing more";
        return Err(Error::at("typed_config.config", why));
    }
    let header = match Version::try_from(config.version) {
        Ok(Version::V1) => ProxyHeader::V1,
        Ok(Version::V2) => ProxyHeader::V2,
        Err(_) => return Err(Error::at("typed_config.config.version", "no such version")),
    };
    let inner = found.transport_socket;
    let inner = inner.ok_or_else(|| Error::at("typed_config.transport_socket", "it is missing"))?;
    Ok((header, inner))
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
    use super::{Held, INTRODUCED, OutsideTls, ProxyHeader, Shown, Source, introduced};
    use naka_wire::envoy::config::cluster::v3::{Cluster, cluster::TransportSocketMatch};
    use naka_wire::envoy::config::core::v3::{
        ProxyProtocolConfig, ProxyProtocolPassThroughTlVs, TransportSocket, transport_socket,
    };
    use naka_wire::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn socket(name: &str) -> TransportSocket {
        TransportSocket {
            name: name.to_owned(),
            config_type: None,
        }
    }

    fn with_header(config: ProxyProtocolConfig, inner: Option<&str>) -> TransportSocket {
        let config = ProxyProtocolUpstreamTransport {
            config: Some(config),
            transport_socket: inner.map(socket),
            ..ProxyProtocolUpstreamTransport::default()
        };
        TransportSocket {
            config_type: Some(transport_socket::ConfigType::TypedConfig(naka_wire::pack(
                &config,
            ))),
            ..socket(INTRODUCED)
        }
    }

    fn cluster(matches: &[TransportSocket], one: Option<TransportSocket>) -> Cluster {
        let candidate = |socket: &TransportSocket| TransportSocketMatch {
            transport_socket: Some(socket.clone()),
            ..TransportSocketMatch::default()
        };
        Cluster {
            transport_socket_matches: matches.iter().map(candidate).collect(),
            transport_socket: one,
            ..Cluster::default()
        }
    }

    #[test]
    fn a_header_comes_before_what_is_inside() {
        let version = |version| ProxyProtocolConfig {
            version,
            ..ProxyProtocolConfig::default()
        };
        let (first, second) = (
            with_header(version(0), Some("a")),
            with_header(version(1), Some("b")),
        );
        for (wire, header, inside) in [
            (
                cluster(&[socket("a"), socket("b")], None),
                None,
                cluster(&[socket("a"), socket("b")], None),
            ),
            (
                cluster(&[], Some(first.clone())),
                Some(ProxyHeader::V1),
                cluster(&[], Some(socket("a"))),
            ),
            (
                cluster(&[second.clone(), second.clone()], None),
                Some(ProxyHeader::V2),
                cluster(&[socket("b"), socket("b")], None),
            ),
        ] {
            let (found, left) = introduced(&wire).unwrap();
            assert_eq!((found, left.into_owned()), (header, inside));
        }
        let more = ProxyProtocolConfig {
            pass_through_tlvs: Some(ProxyProtocolPassThroughTlVs::default()),
            ..version(1)
        };
        for wrong in [
            cluster(&[first.clone(), second], None),
            cluster(&[first.clone(), socket("a")], None),
            cluster(std::slice::from_ref(&first), Some(socket("a"))),
            cluster(&[with_header(more, Some("a"))], None),
            cluster(&[with_header(version(2), Some("a"))], None),
            cluster(&[with_header(version(0), None)], None),
            cluster(&[socket(INTRODUCED)], None),
        ] {
            introduced(&wrong).unwrap_err();
        }
    }

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
