//! A fresh key and the request to certify it. The key is made where it is used and never leaves the host.

use crate::Error;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A key (ECDSA P-256) with its signing request. The request names nobody: who the key belongs to is decided by the
/// proof that goes with it.
pub struct KeyAndCsr {
    key: PrivatePkcs8KeyDer<'static>,
    csr_pem: String,
}

impl std::fmt::Debug for KeyAndCsr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyAndCsr")
    }
}

impl KeyAndCsr {
    /// Makes both.
    ///
    /// # Errors
    /// [`Error::Make`] when the library refuses.
    pub fn generate() -> Result<Self, Error> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&pair)?;
        Ok(Self {
            key: PrivatePkcs8KeyDer::from(pair.serialize_der()),
            csr_pem: crate::bundle::pem("CERTIFICATE REQUEST", csr.der()),
        })
    }

    /// The signing request, PEM.
    #[must_use]
    pub fn csr_pem(&self) -> &str {
        &self.csr_pem
    }

    /// The private key.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

/// A private key as PEM text, with the label of its form.
pub(crate) fn to_pem(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    crate::bundle::pem(label, key.secret_der())
}
