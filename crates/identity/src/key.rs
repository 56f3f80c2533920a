//! A fresh key and the request to certify it, and what such a request asks a certificate for. The key is made where it
//! is used and never leaves the host.

use crate::Error;
use naka_types::key::KeyType;
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Longer requests are no honest ones.
const LONGEST_CSR: usize = 16 * 1024;
/// Object identifier of Ed25519 keys (RFC 8410).
const ED25519: &str = "1.3.101.112";
/// Object identifiers of the two curves (RFC 5480).
const CURVES: [(&str, KeyType); 2] = [
    ("1.2.840.10045.3.1.7", KeyType::EcdsaP256),
    ("1.3.132.0.34", KeyType::EcdsaP384),
];

/// A key with its signing request. The request names nobody: who the key belongs to is decided by the proof that goes
/// with it.
pub struct KeyAndCsr {
    kind: KeyType,
    key: PrivatePkcs8KeyDer<'static>,
    csr_pem: String,
}

impl std::fmt::Debug for KeyAndCsr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyAndCsr")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl KeyAndCsr {
    /// Makes both, with an ECDSA key on P-256.
    ///
    /// # Errors
    /// [`Error::Make`] when the library refuses.
    pub fn generate() -> Result<Self, Error> {
        Self::generate_for(KeyType::EcdsaP256)
    }

    /// Makes both. An RSA key takes up to seconds ([`KeyType::is_slow`]): not on a thread that others wait for.
    ///
    /// # Errors
    /// [`Error::Make`] when the library refuses.
    pub fn generate_for(kind: KeyType) -> Result<Self, Error> {
        let pair = match kind {
            KeyType::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            KeyType::EcdsaP384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?,
            KeyType::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
            KeyType::Rsa4096 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096)?,
            KeyType::Ed25519 => KeyPair::generate_for(&PKCS_ED25519)?,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&pair)?;
        Ok(Self {
            kind,
            key: PrivatePkcs8KeyDer::from(pair.serialize_der()),
            csr_pem: crate::bundle::pem("CERTIFICATE REQUEST", csr.der()),
        })
    }

    /// What the key is.
    #[must_use]
    pub fn kind(&self) -> KeyType {
        self.kind
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

/// The key that a signing request is for. Its signature was checked: whoever sent the request has the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedKey {
    /// What the key is; `None`: nothing that policies have a word for.
    pub kind: Option<KeyType>,
    /// Its type and size in words, for messages.
    pub words: String,
    /// SHA-256 of the public key (`SubjectPublicKeyInfo`), hexadecimal.
    pub sha256: String,
}

/// Reads the key of a signing request (PEM).
///
/// # Errors
/// [`Error::Request`] when it is malformed or its signature is not its own.
pub fn requested(csr_pem: &str) -> Result<RequestedKey, Error> {
    with_request(csr_pem, |request| {
        let info = &request.certification_request_info.subject_pki;
        let (kind, words) = kind_of(info);
        Ok(RequestedKey {
            kind,
            words,
            sha256: crate::sha256_hex(info.raw),
        })
    })
}

fn kind_of(info: &SubjectPublicKeyInfo<'_>) -> (Option<KeyType>, String) {
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => {
            let bits = key.key_size();
            let kind = match bits {
                2048 => Some(KeyType::Rsa2048),
                4096 => Some(KeyType::Rsa4096),
                _ => None,
            };
            (kind, format!("RSA-{bits}"))
        }
        Ok(PublicKey::EC(_)) => {
            let curve = info.algorithm.parameters.as_ref();
            let curve = curve.and_then(|any| any.as_oid().ok());
            let curve = curve.map(|oid| oid.to_id_string()).unwrap_or_default();
            let known = CURVES.iter().find(|(oid, _)| *oid == curve);
            let kind = known.map(|(_, kind)| *kind);
            let words = kind.map_or("ECDSA on another curve".to_owned(), |k| k.to_string());
            (kind, words)
        }
        _ if info.algorithm.algorithm.to_id_string() == ED25519 => {
            (Some(KeyType::Ed25519), KeyType::Ed25519.to_string())
        }
        _ => (None, "of an unknown kind".to_owned()),
    }
}

/// Reads a signing request whose signature is its own and hands it on.
pub(crate) fn with_request<T>(
    csr_pem: &str,
    read: impl FnOnce(&X509CertificationRequest<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    use rustls_pki_types::CertificateSigningRequestDer;
    use rustls_pki_types::pem::PemObject;
    let refuse = |what: &str| Error::Request(what.to_owned());
    if csr_pem.len() > LONGEST_CSR {
        return Err(refuse("it is longer than 16 KiB"));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
        .map_err(|_| refuse("it is not PEM"))?;
    let (rest, request) =
        X509CertificationRequest::from_der(&der).map_err(|_| refuse("it does not decode"))?;
    if !rest.is_empty() {
        return Err(refuse("bytes follow it"));
    }
    request
        .verify_signature()
        .map_err(|_| refuse("its signature is wrong"))?;
    read(&request)
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

#[cfg(test)]
mod tests {
    use super::{KeyAndCsr, requested};
    use naka_types::key::KeyType;

    #[test]
    fn a_request_is_read_as_what_it_was_made_for() {
        for kind in KeyType::ALL {
            let made = KeyAndCsr::generate_for(kind).unwrap();
            let read = requested(made.csr_pem()).unwrap();
            assert_eq!(read.kind, Some(kind));
            assert_eq!(read.words, kind.as_str());
            assert_eq!(read, requested(made.csr_pem()).unwrap());
            let other = KeyAndCsr::generate().unwrap();
            assert_ne!(read.sha256, requested(other.csr_pem()).unwrap().sha256);
        }
        assert!(requested("no request").is_err());
    }

    #[test]
    fn keys_that_policies_have_no_word_for_have_none() {
        use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_3072).unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&pair)
            .unwrap();
        let read = requested(&crate::bundle::pem("CERTIFICATE REQUEST", csr.der())).unwrap();
        assert_eq!((read.kind, read.words.as_str()), (None, "RSA-3072"));
    }
}
