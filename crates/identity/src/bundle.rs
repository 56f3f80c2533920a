//! What a mesh trusts: its roots, its trust domain, the workloads it has stopped to trust, and the ticket keys that live
//! and die with them.

use crate::ticket::TicketKeys;
use crate::{Error, Revoked, sha256_hex};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use std::sync::Arc;

/// Trust bundle. Cheap to clone; clones share the ticket keys, so sessions resume across certificate rotations but
/// never across a change of roots or of who is revoked.
#[derive(Debug, Clone)]
pub struct Bundle {
    trust_domain: Arc<str>,
    /// Sorted.
    aliases: Arc<[String]>,
    roots: Arc<[CertificateDer<'static>]>,
    anchors: Arc<[TrustAnchor<'static>]>,
    epoch: Arc<str>,
    revoked: Arc<Revoked>,
    tickets: Arc<TicketKeys>,
}

impl Bundle {
    /// From root certificates in DER.
    ///
    /// # Errors
    /// [`Error::Malformed`] when there is none or one does not parse.
    pub fn new(trust_domain: &str, roots: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let anchors = roots
            .iter()
            .map(|root| webpki::anchor_from_trusted_cert(root).map(|a| a.to_owned()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Error::Malformed("root certificate"))?;
        if anchors.is_empty() {
            return Err(Error::Malformed("trust bundle: it holds no certificate"));
        }
        let mut hashes: Vec<String> = roots.iter().map(|r| sha256_hex(r)).collect();
        hashes.sort();
        let epoch = sha256_hex(format!("{trust_domain} {}", hashes.join(" ")).as_bytes());
        Ok(Self {
            trust_domain: trust_domain.into(),
            aliases: Arc::default(),
            roots: roots.into(),
            anchors: anchors.into(),
            epoch: epoch.into(),
            revoked: Arc::default(),
            tickets: Arc::new(TicketKeys::new()),
        })
    }

    /// The same roots with these workloads revoked. Sessions do not resume across it, unless nothing changes.
    #[must_use]
    pub fn revoking(&self, revoked: Arc<Revoked>) -> Self {
        if self.revoked == revoked {
            return self.clone();
        }
        Self {
            revoked,
            tickets: Arc::new(TicketKeys::new()),
            ..self.clone()
        }
    }

    /// The same roots, which vouch for identities of these trust domains too. Sessions do not resume across it, unless
    /// nothing changes.
    #[must_use]
    pub fn also(&self, aliases: &[String]) -> Self {
        let mut aliases = aliases.to_vec();
        aliases.sort();
        aliases.dedup();
        aliases.retain(|alias| *alias != *self.trust_domain);
        if *self.aliases == *aliases {
            return self.clone();
        }
        Self {
            aliases: aliases.into(),
            tickets: Arc::new(TicketKeys::new()),
            ..self.clone()
        }
    }

    /// Trust domains whose identities count beside the bundle's own.
    #[must_use]
    pub fn aliases(&self) -> &[String] {
        &self.aliases
    }

    /// Whether identities of a trust domain count.
    #[must_use]
    pub fn takes(&self, trust_domain: &str) -> bool {
        trust_domain == self.trust_domain() || self.aliases.iter().any(|own| own == trust_domain)
    }

    /// Workloads that are not believed any more.
    #[must_use]
    pub fn revoked(&self) -> &Arc<Revoked> {
        &self.revoked
    }

    /// From PEM text.
    ///
    /// # Errors
    /// As [`Bundle::new`].
    pub fn from_pem(trust_domain: &str, pem: &str) -> Result<Self, Error> {
        Self::new(trust_domain, certificates(pem)?)
    }

    /// As PEM text.
    #[must_use]
    pub fn to_pem(&self) -> String {
        to_pem(&self.roots)
    }

    /// Trust domain whose identities count.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Root certificates.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Whether every root of this one is one of another's.
    #[must_use]
    pub fn within(&self, other: &Self) -> bool {
        self.roots.iter().all(|root| other.roots.contains(root))
    }

    /// Whether one of the roots signed a certificate, which is the last one that a peer showed.
    #[must_use]
    pub fn signed(&self, certificate: &CertificateDer<'_>) -> bool {
        use x509_parser::prelude::{FromDer, X509Certificate};
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return false;
        };
        self.roots.iter().any(|root| {
            X509Certificate::from_der(root).is_ok_and(|(_, root)| {
                root.subject().as_raw() == certificate.issuer().as_raw()
                    && certificate
                        .verify_signature(Some(root.public_key()))
                        .is_ok()
            })
        })
    }

    /// Names the roots: equal for equal trust domain and roots, whatever their order.
    #[must_use]
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Whether both have the same roots and aliases. Keep the old one then, and its sessions with it.
    #[must_use]
    pub fn same_trust(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.aliases == other.aliases
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    pub(crate) fn tickets(&self) -> &Arc<TicketKeys> {
        &self.tickets
    }

    pub(crate) fn store(&self) -> Arc<RootCertStore> {
        Arc::new(RootCertStore {
            roots: self.anchors.to_vec(),
        })
    }
}

/// Certificates of a PEM text, other sections left out.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| Error::Malformed("PEM certificate"))
}

/// Whether one of these PEM texts has the certificate with this SHA-256.
#[must_use]
pub fn names_root(pems: &[String], sha256: &str) -> bool {
    let all = pems.iter().filter_map(|pem| certificates(pem).ok());
    all.flatten()
        .any(|der| sha256_hex(&der).eq_ignore_ascii_case(sha256))
}

/// Certificates as PEM text.
pub(crate) fn to_pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates
        .iter()
        .map(|der| pem("CERTIFICATE", der))
        .collect()
}

/// One PEM section.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    use std::fmt::Write as _;
    let body = base64(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
    }
    let _ = writeln!(text, "-----END {label}-----");
    text
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0u32, |w, b| w << 8 | u32::from(*b));
        for place in 0..4 {
            if place <= chunk.len() {
                let digit = (word >> (18 - 6 * place) & 63) as usize;
                text.push(char::from(ALPHABET[digit]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{base64, certificates, pem};

    #[test]
    fn pem_is_what_a_pem_reader_reads() {
        assert_eq!(base64(b"Man"), "TWFu");
        assert_eq!(base64(b"Ma"), "TWE=");
        assert_eq!(base64(b"M"), "TQ==");
        let der: Vec<u8> = (0..=255).collect();
        let read = certificates(&pem("CERTIFICATE", &der)).unwrap();
        assert_eq!(read[0].as_ref(), der);
        assert!(
            certificates("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n").is_err()
        );
    }
}
