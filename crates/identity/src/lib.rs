//! SPIFFE identities: the authority that issues them, the rules of join tokens, and the TLS that proves them.
//!
//! * [`Authority`] is the certificate authority: root and intermediate, made at the first start; [`offline`] is the
//!   side of a root whose key is kept elsewhere.
//! * [`KeyAndCsr`] and [`Svid`] are a workload's side: the key is made where it is used and never leaves the host.
//! * [`Bundle`] is what a mesh trusts; tickets of resumed sessions belong to one bundle and die with it.
//! * [`tls`] makes the rustls configurations, [`verify`] decides who a peer is, [`peer_of`] says who it was.
//! * [`served`] is TLS for strangers at a gateway.
//! * [`TokenGrant`] holds what a token may do, as pure rules.
//!
//! Invariants: TLS 1.3 only inside the mesh, aws-lc-rs, X25519MLKEM768 first, no 0-RTT; a peer without exactly one
//! SPIFFE id of the trust domain is nobody; an issued certificate takes nothing but the public key from the request.
//!
//! Not here: sockets, storage of tokens and events, decisions about which identity may serve which service.

mod authority;
mod bundle;
mod disk;
mod grant;
mod key;
mod outside;
mod peer;
mod revoked;
pub mod schedule;
pub mod served;
mod svid;
mod ticket;
pub mod tls;
pub mod verify;

pub use authority::{Authority, IssueRequest, Issued, ServerCert, dns_sans, offline, rotate};
pub use bundle::{Bundle, names_root};
pub use grant::{Attested, GrantKind, JoinParams, Refused, TokenGrant, Wanted, new_secret};
pub use key::{KeyAndCsr, RequestedKey, requested};
pub use outside::{OutsidePems, outside_tls, system_roots};
pub use peer::{Peer, peer_at, peer_of};
pub use revoked::Revoked;
pub use svid::Svid;
pub use verify::{Side, reason_of, reason_of_io};

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far a certificate's start lies before its issue, for hosts whose clocks are behind.
pub const BACKDATE: Duration = Duration::from_secs(60);
/// DNS name in the control plane's own certificate.
pub const CONTROL_NAME: &str = "naka-control";

/// What can go wrong while making, keeping or reading identities. Verification has its own error, [`verify::Error`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file is there but is not what it should be.
    #[error("{path}: {what}")]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Bytes that are no certificate, key or PEM text.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// The signature of a signing request is wrong, or its key is of a kind not accepted.
    #[error("the signing request is not acceptable: {0}")]
    Request(String),
    /// A certificate that is to sign for the mesh and may not.
    #[error("{0}")]
    Authority(String),
    /// The certificate library refused.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// rustls refused a key, a certificate or a setting.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A peer's or one's own certificate names no workload of the mesh.
    #[error(transparent)]
    Peer(#[from] verify::Error),
}

/// Seconds since 1970 now.
#[must_use]
pub fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

/// Bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

/// SHA-256 in lower-case hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

/// SHA-256 of all that a reader gives, in lower-case hexadecimal.
///
/// # Errors
/// As the reader's.
pub fn sha256_of(mut reader: impl std::io::Read) -> std::io::Result<String> {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut chunk)? {
            0 => return Ok(hex(context.finish().as_ref())),
            read => context.update(&chunk[..read]),
        }
    }
}

/// SHA-1, for the handshake of WebSocket alone: nothing is secured by it.
#[must_use]
pub fn sha1(bytes: &[u8]) -> Vec<u8> {
    let algorithm = &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
    aws_lc_rs::digest::digest(algorithm, bytes)
        .as_ref()
        .to_vec()
}

/// Random bytes from the cryptographic generator.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("invariant: the system's random source answers");
    bytes
}
