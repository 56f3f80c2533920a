//! TLS towards servers outside the mesh: their certificates are other people's, so names and authorities are those
//! of the web, TLS 1.2 is good enough, and what is believed is said by configuration.
//!
//! A server is believed when its certificate leads to one of the authorities, is not revoked, and carries the name
//! that was called, or one of the names that configuration lists instead.

use crate::Error;
use crate::tls::provider;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Where distributions keep the authorities they believe.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const CLIENT_SESSIONS: usize = 8;

/// PEM text of everything that a configuration is made of.
#[derive(Debug, Default)]
pub struct OutsidePems {
    /// Authorities; `None` = those of the system.
    pub roots: Option<Vec<u8>>,
    /// Revoked certificates.
    pub revoked: Option<Vec<u8>>,
    /// Our certificate with its chain, and its key.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
}

/// A configuration for servers outside the mesh. `names` lists the names of which the certificate must carry one;
/// empty: the name that is called. Without `verify` whoever answers is believed.
///
/// # Errors
/// PEM that cannot be read, no authority at all, a key that does not fit.
pub fn outside_tls(
    pems: &OutsidePems,
    names: &[String],
    verify: bool,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let verifier: Arc<dyn ServerCertVerifier> = if verify {
        Arc::new(Server {
            chain: chain(pems, &provider)?,
            names: names.to_vec(),
        })
    } else {
        Arc::new(Anybody(provider.signature_verification_algorithms))
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &pems.certificate {
        None => builder.with_no_client_auth(),
        Some((certificates, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|_| Error::Malformed("private key of a client certificate"))?;
            builder.with_client_auth_cert(read(certificates, "client certificate")?, key)?
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
    Ok(Arc::new(config))
}

fn read(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.ok()
        .filter(|all| !all.is_empty())
        .ok_or(Error::Malformed(what))
}

fn chain(
    pems: &OutsidePems,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let pem = match &pems.roots {
        Some(pem) => pem.clone(),
        None => system_roots()?,
    };
    let mut roots = RootCertStore::empty();
    // A system's list may hold a certificate that this library does not take; the others are good all the same.
    let (_, _) = roots.add_parsable_certificates(read(&pem, "list of authorities")?);
    let mut builder =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(pem) = &pems.revoked {
        let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
        let lists = all.map_err(|_| Error::Malformed("list of revoked certificates"))?;
        builder = builder
            .with_crls(lists)
            .allow_unknown_revocation_status()
            .only_check_end_entity_revocation();
    }
    builder
        .build()
        .map_err(|_| Error::Malformed("list of authorities"))
}

/// PEM text of the authorities that this system believes.
///
/// # Errors
/// When their file cannot be read.
pub fn system_roots() -> Result<Vec<u8>, Error> {
    let found = SYSTEM_ROOTS
        .iter()
        .map(Path::new)
        .find(|path| path.exists());
    let path = found.unwrap_or(Path::new(SYSTEM_ROOTS[0]));
    std::fs::read(path).map_err(|source| Error::File {
        path: PathBuf::from(path),
        source,
    })
}

/// Verifies a server of the outside world.
#[derive(Debug)]
struct Server {
    chain: Arc<WebPkiServerVerifier>,
    names: Vec<String>,
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |name: &ServerName<'_>| {
            self.chain
                .verify_server_cert(leaf, intermediates, name, ocsp, now)
        };
        let verified = verify(server_name);
        // A wrong name is found last, so everything else about the certificate holds then.
        let sound = match &verified {
            Ok(_) => true,
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => true,
            Err(_) => false,
        };
        if self.names.is_empty() || !sound {
            return verified;
        }
        let carried = self
            .names
            .iter()
            .any(|wanted| match wanted.contains("://") {
                true => uris(leaf).iter().any(|uri| uri == wanted),
                false => match wanted.strip_prefix("*.") {
                    // A pattern is a name of the certificate itself, or stands for any one label.
                    Some(domain) => dns_names(leaf).iter().any(|name| {
                        name == wanted
                            || name.split_once('.').is_some_and(|(_, rest)| rest == domain)
                    }),
                    None => ServerName::try_from(wanted.as_str())
                        .is_ok_and(|name| verify(&name).is_ok()),
                },
            });
        if carried {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn uris(leaf: &CertificateDer<'_>) -> Vec<String> {
    names(leaf, |name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    })
}

fn dns_names(leaf: &CertificateDer<'_>) -> Vec<String> {
    names(leaf, |name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    })
}

fn names(
    leaf: &CertificateDer<'_>,
    of: impl Fn(&GeneralName<'_>) -> Option<String>,
) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
        return Vec::new();
    };
    let extension = parsed.subject_alternative_name().ok().flatten();
    let all = extension.map(|extension| extension.value.general_names.iter());
    all.into_iter().flatten().filter_map(of).collect()
}

/// Believes whoever answers; that it holds the key of its certificate is still proved.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

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
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
