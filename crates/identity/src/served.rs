//! TLS for strangers at a gateway: certificates of Secrets or files, and what is asked of clients.
//!
//! TLS 1.2 and 1.3, with the suites that rustls has: forward secrecy and authenticated encryption only. Names of suites
//! are those of OpenSSL, as in Istio and Envoy. Sessions resume under keys of one configuration, so nothing resumes
//! across a change of certificate, authority or revocation list.

use crate::tls::provider;
use crate::{Error, bundle, sha256_hex};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig};
use rustls::{SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate chain with its key, checked: the key is the leaf's.
#[derive(Debug, Clone)]
pub struct Served(Arc<CertifiedKey>);

impl Served {
    /// From PEM texts, the leaf first.
    ///
    /// # Errors
    /// [`Error::Malformed`] when a text is no PEM of its kind, [`Error::Tls`] when the key is not the leaf's or of a
    /// kind that is not served.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(chain).map_err(|_| Error::Malformed("certificate chain"))?;
        let chain = bundle::certificates(text)?;
        if chain.is_empty() {
            return Err(Error::Malformed("certificate chain: it is empty"));
        }
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|_| Error::Malformed("private key"))?;
        let key = CertifiedKey::from_der(chain, key, &provider())?;
        Ok(Self(Arc::new(key)))
    }

    /// Last second of the leaf, if it can be read.
    #[must_use]
    pub fn not_after(&self) -> Option<u64> {
        let leaf = self.0.cert.first()?;
        let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
        u64::try_from(parsed.validity().not_after.timestamp()).ok()
    }
}

/// What is asked of clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clients {
    /// Roots a client's certificate must lead to, PEM.
    pub roots: Vec<u8>,
    /// Revocation lists, PEM; empty = none.
    pub revoked: Vec<u8>,
    /// Whether a client without a certificate is let in.
    pub optional: bool,
    /// Whether a certificate that cannot be verified is let in; its key is proven all the same.
    pub unverified: bool,
    /// Names of which the certificate must have one; empty = any.
    pub names: Vec<String>,
    /// SHA-256 of the leaf in hexadecimal, or of its public key in base64; empty = any.
    pub pins: Vec<Pin>,
}

/// A certificate or a key that is known beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// SHA-256 of the certificate, lower-case hexadecimal.
    Certificate(String),
    /// SHA-256 of the public key's information, lower-case hexadecimal.
    Key(String),
}

impl Pin {
    /// Reads a hash of a certificate, with or without colons.
    #[must_use]
    pub fn certificate(text: &str) -> Option<Self> {
        let plain: String = text.chars().filter(|c| *c != ':').collect();
        let sound = plain.len() == 64 && plain.bytes().all(|b| b.is_ascii_hexdigit());
        sound.then(|| Self::Certificate(plain.to_ascii_lowercase()))
    }

    /// Reads a hash of a key, in base64.
    #[must_use]
    pub fn key(text: &str) -> Option<Self> {
        let framed = format!("-----BEGIN X-----\n{text}\n-----END X-----\n");
        let (_, pem) = x509_parser::pem::parse_x509_pem(framed.as_bytes()).ok()?;
        (pem.contents.len() == 32).then(|| Self::Key(crate::hex(&pem.contents)))
    }
}

/// A lowest or highest version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// Everything about the TLS of a server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Certificates, at least one.
    pub certificates: Vec<Served>,
    /// What is asked of clients; `None`: nothing.
    pub clients: Option<Clients>,
    /// Lowest version.
    pub lowest: Version,
    /// Highest version.
    pub highest: Version,
    /// Suites of TLS 1.2 by OpenSSL's names; empty = all. Those of TLS 1.3 cannot be chosen, as in Envoy.
    pub suites: Vec<String>,
    /// Key exchanges by Envoy's names, the best first; empty = those of the mesh.
    pub curves: Vec<String>,
    /// Protocols offered, the best first.
    pub alpn: Vec<Vec<u8>>,
}

/// The suites of TLS 1.2 that are served, by OpenSSL's name.
pub const SUITES: [(&str, &str); 6] = [
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    ),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
];

/// A key exchange by Envoy's name.
fn curve(name: &str) -> Option<&'static dyn SupportedKxGroup> {
    Some(match name {
        "X25519MLKEM768" => kx_group::X25519MLKEM768,
        "X25519" => kx_group::X25519,
        "P-256" => kx_group::SECP256R1,
        "P-384" => kx_group::SECP384R1,
        _ => return None,
    })
}

fn chosen(suite: &SupportedCipherSuite, names: &[String]) -> bool {
    if names.is_empty() || suite.tls13().is_some() {
        return true;
    }
    let known = format!("{:?}", suite.suite());
    let open = SUITES.iter().find(|(_, ours)| *ours == known);
    open.is_some_and(|(open, ours)| names.iter().any(|name| name == open || name == ours))
}

/// The rustls configuration of a server.
///
/// # Errors
/// [`Error::Tls`] when no version or suite is left or rustls refuses a root or a list; [`Error::Malformed`] for texts
/// that are no PEM.
pub fn server(settings: &Settings) -> Result<Arc<ServerConfig>, Error> {
    let provider = provider();
    let suites = provider.cipher_suites.iter();
    let provider = Arc::new(CryptoProvider {
        cipher_suites: suites
            .filter(|one| chosen(one, &settings.suites))
            .copied()
            .collect(),
        kx_groups: match settings.curves.as_slice() {
            [] => provider.kx_groups.clone(),
            chosen => chosen.iter().filter_map(|name| curve(name)).collect(),
        },
        ..CryptoProvider::clone(&provider)
    });
    let versions: Vec<&'static SupportedProtocolVersion> =
        [(Version::Tls13, &TLS13), (Version::Tls12, &TLS12)]
            .into_iter()
            .filter(|(version, _)| (settings.lowest..=settings.highest).contains(version))
            .map(|(_, version)| version)
            .collect();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)?;
    let builder = match &settings.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(verifier(clients, &provider)?),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Choice(settings.certificates.clone())));
    config.alpn_protocols.clone_from(&settings.alpn);
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// Picks the first certificate whose key the client can check, else the first.
#[derive(Debug)]
struct Choice(Vec<Served>);

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let fits = |one: &&Served| one.0.key.choose_scheme(schemes).is_some();
        let chosen = self.0.iter().find(fits).or_else(|| self.0.first())?;
        Some(Arc::clone(&chosen.0))
    }
}

fn verifier(
    clients: &Clients,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let text =
        std::str::from_utf8(&clients.roots).map_err(|_| Error::Malformed("roots of clients"))?;
    let mut roots = RootCertStore::empty();
    for root in bundle::certificates(text)? {
        roots.add(root)?;
    }
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if !clients.revoked.is_empty() {
        let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&clients.revoked)
            .collect::<Result<_, _>>()
            .map_err(|_| Error::Malformed("revocation list"))?;
        if lists.is_empty() {
            return Err(Error::Malformed("revocation list: it is empty"));
        }
        // As Envoy: only the leaf must be listed by somebody; an authority without a list revokes nothing.
        builder = builder
            .with_crls(lists)
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status();
    }
    if clients.optional {
        builder = builder.allow_unauthenticated();
    }
    let inner = builder
        .build()
        .map_err(|_| Error::Malformed("roots of clients: there is none"))?;
    Ok(Arc::new(Known {
        inner,
        unverified: clients.unverified,
        names: clients.names.clone(),
        pins: clients.pins.clone(),
    }))
}

/// A verifier of chains that also looks at names and pins.
#[derive(Debug)]
struct Known {
    inner: Arc<dyn ClientCertVerifier>,
    unverified: bool,
    names: Vec<String>,
    pins: Vec<Pin>,
}

impl Known {
    fn admits(&self, leaf: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
            return false;
        };
        let pinned = |pin: &Pin| match pin {
            Pin::Certificate(hash) => *hash == sha256_hex(leaf),
            Pin::Key(hash) => *hash == sha256_hex(parsed.public_key().raw),
        };
        if !self.pins.is_empty() && !self.pins.iter().any(pinned) {
            return false;
        }
        if self.names.is_empty() {
            return true;
        }
        let Ok(Some(names)) = parsed.subject_alternative_name() else {
            return false;
        };
        names.value.general_names.iter().any(|name| match name {
            GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => {
                self.names.iter().any(|wanted| wanted == text)
            }
            GeneralName::IPAddress(bytes) => {
                let address = match bytes.len() {
                    4 => <[u8; 4]>::try_from(*bytes).ok().map(std::net::IpAddr::from),
                    16 => <[u8; 16]>::try_from(*bytes)
                        .ok()
                        .map(std::net::IpAddr::from),
                    _ => None,
                };
                let text = address.map(|address| address.to_string());
                text.is_some_and(|text| self.names.contains(&text))
            }
            _ => false,
        })
    }
}

impl ClientCertVerifier for Known {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if self.unverified {
            return Ok(ClientCertVerified::assertion());
        }
        let verified = self.inner.verify_client_cert(leaf, intermediates, now)?;
        if self.admits(leaf) {
            Ok(verified)
        } else {
            let why = rustls::CertificateError::ApplicationVerificationFailure;
            Err(rustls::Error::InvalidCertificate(why))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
