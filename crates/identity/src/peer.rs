//! Who a certificate says its holder is: the one SPIFFE id in its names and the workload id in its subject.

use crate::verify::Error;
use naka_types::spiffe::SpiffeId;
use naka_types::workload::Ulid;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A verified peer of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Its identity.
    pub spiffe: SpiffeId,
    /// Its workload id, when the certificate carries one (certificates of other meshes may not).
    pub workload_id: Option<Ulid>,
    /// First second of the certificate.
    pub not_before: u64,
    /// Last second of the certificate.
    pub not_after: u64,
}

/// The peer of a finished handshake, from its certificates as rustls hands them out. Checks the time again, because
/// a resumed session carries the certificates of the handshake it resumes.
///
/// # Errors
/// [`Error`] when there is no certificate, it names not exactly one mesh identity, or it is over.
pub fn peer_of(chain: &[CertificateDer<'_>]) -> Result<Peer, Error> {
    peer_at(chain, crate::now_s())
}

/// As [`peer_of`] with the time given.
///
/// # Errors
/// As [`peer_of`].
pub fn peer_at(chain: &[CertificateDer<'_>], now: u64) -> Result<Peer, Error> {
    let peer = named_by(chain.first().ok_or(Error::NoCertificate)?)?;
    if now > peer.not_after {
        return Err(Error::Expired);
    }
    Ok(peer)
}

/// Reads the names; does not look at signatures or time.
pub(crate) fn named_by(certificate: &CertificateDer<'_>) -> Result<Peer, Error> {
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| Error::Malformed)?;
    if !rest.is_empty() {
        return Err(Error::Malformed);
    }
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| Error::Malformed)?;
    let mut uri = None;
    for name in names.iter().flat_map(|san| &san.value.general_names) {
        match name {
            GeneralName::URI(text) if uri.is_none() => uri = Some(*text),
            GeneralName::URI(_) => return Err(Error::SeveralIdentities),
            // A name that does not decode might be a second identity to another reader.
            GeneralName::Invalid(..) => return Err(Error::Malformed),
            _ => {}
        }
    }
    let text = uri.ok_or(Error::NoIdentity)?;
    let spiffe =
        SpiffeId::parse(text).map_err(|_| Error::NotSpiffe(text.chars().take(200).collect()))?;
    let mut common_names = parsed.subject().iter_common_name();
    let workload_id = common_names
        .next()
        .and_then(|cn| cn.as_str().ok())
        .and_then(Ulid::parse)
        .filter(|_| common_names.next().is_none());
    let second = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    Ok(Peer {
        spiffe,
        workload_id,
        not_before: second(parsed.validity().not_before),
        not_after: second(parsed.validity().not_after),
    })
}
