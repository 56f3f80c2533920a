//! Who may be at the other end: chain to the bundle, time, exactly one SPIFFE id of the trust domain (or one of its
//! aliases), not revoked, and,
//! for a server, whether that identity may serve what was called.
//!
//! Invariant: every refusal has one [`Error`] and one [`Reason`]; a certificate that cannot be read is refused.

use crate::bundle::Bundle;
use crate::peer::named_by;
use crate::sha256_hex;
use naka_types::reason::Reason;
use naka_types::spiffe::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use std::io;
use std::sync::Arc;
use webpki::{EndEntityCert, KeyUsage};

/// Why a peer is not who it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It showed none.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// It does not decode.
    #[error("the peer's certificate does not decode")]
    Malformed,
    /// Its last second has passed.
    #[error("the peer's certificate has expired")]
    Expired,
    /// Its first second has not come.
    #[error("the peer's certificate is not valid yet; compare the clocks")]
    NotYetValid,
    /// It does not lead to a root of the bundle.
    #[error("the peer's certificate is not from this mesh's authority")]
    UnknownAuthority,
    /// Signature, purpose or constraints of the chain.
    #[error("the peer's certificate chain is not acceptable: {0}")]
    Chain(String),
    /// No URI among its names.
    #[error("the peer's certificate carries no identity")]
    NoIdentity,
    /// More than one URI among its names.
    #[error("the peer's certificate carries more than one identity")]
    SeveralIdentities,
    /// A URI that is no mesh identity.
    #[error("{0:?} is not a mesh identity")]
    NotSpiffe(String),
    /// An identity of another trust domain.
    #[error("{0} is of another trust domain")]
    OtherTrustDomain(SpiffeId),
    /// An identity that may not serve what was called.
    #[error("{0} may not serve this service")]
    NotAllowed(SpiffeId),
    /// A workload whose certificates were revoked.
    #[error("the certificates of {0} are revoked")]
    Revoked(SpiffeId),
    /// A control plane whose root is not the token's.
    #[error("the control plane's root certificate is not the one that the token names")]
    OtherRoot,
}

impl From<Error> for rustls::Error {
    /// With the alert that tells the peer most: expired, unknown authority, else unknown.
    fn from(error: Error) -> Self {
        Self::InvalidCertificate(match error {
            Error::NoCertificate => return Self::NoCertificatesPresented,
            Error::Malformed => CertificateError::BadEncoding,
            Error::Expired => CertificateError::Expired,
            Error::NotYetValid => CertificateError::NotValidYet,
            Error::UnknownAuthority => CertificateError::UnknownIssuer,
            Error::Revoked(_) => CertificateError::Revoked,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

/// Which end of the connection looks at the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that called.
    Client,
    /// The one that was called.
    Server,
}

/// The reason to report for a failed handshake.
#[must_use]
pub fn reason_of(error: &rustls::Error, side: Side) -> Reason {
    if let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = error
        && side == Side::Client
        && let Some(own) = inner.downcast_ref::<Error>()
    {
        return match own {
            Error::NotAllowed(_)
            | Error::OtherTrustDomain(_)
            | Error::NoIdentity
            | Error::NotSpiffe(_)
            | Error::SeveralIdentities => Reason::WrongPeerIdentity,
            _ => Reason::TlsFailed,
        };
    }
    match (error, side) {
        (
            rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented,
            Side::Server,
        ) => Reason::PeerUntrusted,
        // The first bytes were no TLS record at all: somebody speaks plaintext to a port that wants mTLS.
        (rustls::Error::InvalidMessage(_), Side::Server) => Reason::MtlsRequired,
        _ => Reason::TlsFailed,
    }
}

/// As [`reason_of`], for the error a TLS stream returns; `None` when the cause is not TLS (a reset, for example).
#[must_use]
pub fn reason_of_io(error: &io::Error, side: Side) -> Option<Reason> {
    error
        .get_ref()?
        .downcast_ref::<rustls::Error>()
        .map(|tls| reason_of(tls, side))
}

/// Verifies the chain of a certificate.
pub(crate) fn chain(
    algorithms: &WebPkiSupportedAlgorithms,
    anchors: &[TrustAnchor<'_>],
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<(), Error> {
    let parsed = EndEntityCert::try_from(leaf).map_err(|_| Error::Malformed)?;
    parsed
        .verify_for_usage(
            algorithms.all,
            anchors,
            intermediates,
            now,
            usage,
            None,
            None,
        )
        .map(|_| ())
        .map_err(|cause| match cause {
            webpki::Error::CertExpired { .. } => Error::Expired,
            webpki::Error::CertNotValidYet { .. } => Error::NotYetValid,
            webpki::Error::UnknownIssuer => Error::UnknownAuthority,
            other => Error::Chain(format!("{other:?}")),
        })
}

fn member(
    algorithms: &WebPkiSupportedAlgorithms,
    bundle: &Bundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<SpiffeId, Error> {
    chain(
        algorithms,
        bundle.anchors(),
        leaf,
        intermediates,
        now,
        usage,
    )?;
    let peer = named_by(leaf)?;
    if !bundle.takes(peer.spiffe.trust_domain()) {
        return Err(Error::OtherTrustDomain(peer.spiffe));
    }
    match peer.workload_id {
        Some(id) if bundle.revoked().contains(id) => Err(Error::Revoked(peer.spiffe)),
        _ => Ok(peer.spiffe),
    }
}

/// What a called workload asks of its callers: to be somebody of this mesh.
#[derive(Debug)]
pub(crate) struct MeshClients {
    pub(crate) bundle: Bundle,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
    /// False on the control plane's port, where a newcomer has a token instead.
    pub(crate) mandatory: bool,
}

impl ClientCertVerifier for MeshClients {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let usage = KeyUsage::client_auth();
        member(
            &self.algorithms,
            &self.bundle,
            leaf,
            intermediates,
            now,
            usage,
        )?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What a caller asks of the endpoint it called.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// One of these identities (empty: nobody).
    OneOf(Bundle, Arc<[SpiffeId]>),
    /// A chain that ends in the root with this SHA-256, and the server's name in the leaf.
    Root(String),
}

/// Verifier of called endpoints.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) wanted: Wanted,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

impl Servers {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let usage = KeyUsage::server_auth();
        match &self.wanted {
            Wanted::OneOf(bundle, allowed) => {
                let spiffe = member(&self.algorithms, bundle, leaf, intermediates, now, usage)?;
                if allowed.contains(&spiffe) {
                    Ok(())
                } else {
                    Err(Error::NotAllowed(spiffe))
                }
            }
            Wanted::Root(sha256) => {
                let root = intermediates
                    .iter()
                    .find(|der| sha256_hex(der).eq_ignore_ascii_case(sha256))
                    .ok_or(Error::OtherRoot)?;
                let anchor =
                    webpki::anchor_from_trusted_cert(root).map_err(|_| Error::Malformed)?;
                chain(&self.algorithms, &[anchor], leaf, intermediates, now, usage)?;
                EndEntityCert::try_from(leaf)
                    .and_then(|parsed| parsed.verify_is_valid_for_subject_name(name))
                    .map_err(|cause| Error::Chain(format!("{cause:?}")))
            }
        }
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(leaf, intermediates, server_name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
