//! Certificates of a case: two authorities of its own, `ca` and `stranger`, and what the head asks them to sign.
//!
//! Manifests name them as `${NAME.crt}` and `${NAME.key}` (base64, as a Secret's data wants them) or
//! `${NAME.crt.path}` and `${NAME.key.path}` (files).

use super::case::{Case, Tls};
use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use std::collections::BTreeMap;
use std::sync::Arc;
use tempfile::TempDir;

/// Authorities every case has.
const AUTHORITIES: [&str; 2] = ["ca", "stranger"];

/// A certificate with its key, PEM.
#[derive(Debug, Clone)]
struct Pair {
    crt: String,
    key: String,
}

/// All certificates of a case.
#[derive(Debug)]
pub struct Certs {
    pairs: BTreeMap<String, Pair>,
    dir: TempDir,
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl Certs {
    /// Makes them.
    ///
    /// # Errors
    /// When a name is none, or an authority is unknown.
    pub fn new(case: &Case) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("naka-case-").tempdir()?;
        let mut pairs = BTreeMap::new();
        let mut issuers = BTreeMap::new();
        if case.certs.is_empty() {
            return Ok(Self { pairs, dir });
        }
        for name in AUTHORITIES {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(Vec::new())?;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            let crt = params.self_signed(&key)?.pem();
            let pair = Pair {
                crt,
                key: key.serialize_pem(),
            };
            pairs.insert(name.to_owned(), pair);
            issuers.insert(name, Issuer::new(params, key));
        }
        for (name, wanted) in &case.certs {
            let authority = wanted.authority.as_deref().unwrap_or(AUTHORITIES[0]);
            let issuer = issuers.get(authority).context("no such authority")?;
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(wanted.names.clone())?;
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            let crt = params.signed_by(&key, issuer)?.pem();
            let pair = Pair {
                crt,
                key: key.serialize_pem(),
            };
            pairs.insert(name.clone(), pair);
        }
        for (name, pair) in &pairs {
            std::fs::write(dir.path().join(format!("{name}.crt")), &pair.crt)?;
            std::fs::write(dir.path().join(format!("{name}.key")), &pair.key)?;
        }
        Ok(Self { pairs, dir })
    }

    /// Puts them where a manifest names them.
    #[must_use]
    pub fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, pair) in &self.pairs {
            for (part, pem) in [("crt", &pair.crt), ("key", &pair.key)] {
                let path = self.dir.path().join(format!("{name}.{part}"));
                text = text
                    .replace(&format!("${{{name}.{part}.path}}"), &path.to_string_lossy())
                    .replace(&format!("${{{name}.{part}}}"), &STANDARD.encode(pem));
            }
        }
        text
    }

    /// What the head calls a certificate.
    #[must_use]
    pub fn name(&self, shown: &CertificateDer<'_>) -> String {
        let is = |pair: &Pair| {
            CertificateDer::from_pem_slice(pair.crt.as_bytes()).is_ok_and(|der| der == *shown)
        };
        let found = self.pairs.iter().find(|(_, pair)| is(pair));
        found
            .map_or("unknown", |(name, _)| name.as_str())
            .to_owned()
    }

    fn pair(&self, name: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let pair = self
            .pairs
            .get(name)
            .with_context(|| format!("no certificate {name:?} in the head"))?;
        let chain = CertificateDer::from_pem_slice(pair.crt.as_bytes())?;
        Ok((
            vec![chain],
            PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?,
        ))
    }

    /// A client that takes every certificate: which one it was is part of the verdict.
    ///
    /// # Errors
    /// When a certificate or version is unknown.
    pub fn client(&self, tls: &Tls) -> Result<ClientConfig> {
        let versions: &[&rustls::SupportedProtocolVersion] = match tls.version.as_deref() {
            None => rustls::ALL_VERSIONS,
            Some("1.2") => &[&rustls::version::TLS12],
            Some("1.3") => &[&rustls::version::TLS13],
            Some(other) => anyhow::bail!("no TLS {other}"),
        };
        let mut provider = rustls::crypto::CryptoProvider::clone(&provider());
        if !tls.curves.is_empty() {
            provider.kx_groups = tls
                .curves
                .iter()
                .map(|name| curve(name))
                .collect::<Result<_>>()?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        let mut config = match &tls.cert {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let (chain, key) = self.pair(name)?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        config.alpn_protocols = tls
            .alpn
            .iter()
            .map(|name| name.clone().into_bytes())
            .collect();
        Ok(config)
    }

    /// A server with this certificate, which asks its callers for theirs and takes any of the case or none.
    ///
    /// # Errors
    /// When the certificate is unknown.
    pub fn server(&self, name: &str) -> Result<ServerConfig> {
        let mut roots = RootCertStore::empty();
        for authority in AUTHORITIES {
            for certificate in self.pair(authority)?.0 {
                roots.add(certificate)?;
            }
        }
        let callers = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            provider(),
        )
        .allow_unauthenticated()
        .build()?;
        let (chain, key) = self.pair(name)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(rustls::ALL_VERSIONS)?
            .with_client_cert_verifier(callers)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Takes every certificate.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A key exchange by Envoy's name.
fn curve(name: &str) -> Result<&'static dyn rustls::crypto::SupportedKxGroup> {
    use rustls::crypto::aws_lc_rs::kx_group;
    Ok(match name {
        "X25519" => kx_group::X25519,
        "P-256" => kx_group::SECP256R1,
        "P-384" => kx_group::SECP384R1,
        other => anyhow::bail!("no key exchange {other}"),
    })
}
