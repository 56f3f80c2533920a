//! The TLS side of a proxy: who we are, whom we believe, and which protocol a connection was agreed for.
//!
//! One [`TlsSet`] per certificate, made off the workers and handed to them; connections made with an older one live
//! on. ALPN names carry what the other sidecar cannot know otherwise: `naka-h1` is HTTP/2 framing whose requests came
//! in as HTTP/1.1 (so that the program behind an undeclared port gets HTTP/1.1 again, while thousands of requests
//! share one connection), and `naka-tcp` says that bytes are opaque, so the called side never waits to find out.

use naka_identity::{Bundle, Svid, tls};
use naka_types::spiffe::SpiffeId;
use rustls::{ClientConfig, ServerConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// HTTP/2 framing, requests that were HTTP/1.1.
pub(crate) const ALPN_H1_MUX: &[u8] = b"naka-h1";
/// Opaque bytes.
pub(crate) const ALPN_TCP: &[u8] = b"naka-tcp";
const ALPN_H2: &[u8] = b"h2";
const ALPN_HTTP11: &[u8] = b"http/1.1";

/// In the order of our preference. Istio's names let its proxies call us.
const INBOUND: &[&[u8]] = &[
    ALPN_H1_MUX,
    ALPN_H2,
    ALPN_TCP,
    b"istio-h2",
    b"istio-http/1.1",
    b"istio-http/1.0",
    ALPN_HTTP11,
    b"istio",
];

/// What is to go through a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Carry {
    /// Requests that came as HTTP/1.1.
    Http1,
    /// The same, one at a time on a connection: where connections are limited, each request is to take one.
    Http1Alone,
    /// Requests that came as HTTP/2, or must be.
    Http2,
    /// Requests for WebSockets by HTTP/2's own CONNECT.
    Http2Upgrade,
    /// One HTTP/1.1 request that may turn into something else (WebSocket).
    Upgrade,
    /// Opaque bytes.
    Tcp,
}

impl Carry {
    /// What is offered to servers outside the mesh.
    pub(crate) fn foreign_alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http2 | Self::Http2Upgrade => &[ALPN_H2],
            Self::Http1 | Self::Http1Alone | Self::Upgrade => &[ALPN_HTTP11],
            Self::Tcp => &[],
        }
    }

    fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[ALPN_H1_MUX, ALPN_HTTP11],
            Self::Http2 | Self::Http2Upgrade => &[ALPN_H2],
            Self::Http1Alone | Self::Upgrade => &[ALPN_HTTP11],
            Self::Tcp => &[ALPN_TCP, b"istio"],
        }
    }
}

/// What an accepted mTLS connection was agreed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agreed {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/2 whose requests were HTTP/1.1.
    Http1Mux,
    /// Opaque bytes.
    Tcp,
    /// Nothing: find out.
    Unknown,
}

/// Reads an agreed ALPN name.
pub(crate) fn agreed(alpn: Option<&[u8]>) -> Agreed {
    match alpn {
        Some(b"naka-h1") => Agreed::Http1Mux,
        Some(b"h2" | b"istio-h2") => Agreed::Http2,
        Some(b"http/1.1" | b"istio-http/1.1" | b"istio-http/1.0") => Agreed::Http1,
        Some(b"naka-tcp") => Agreed::Tcp,
        _ => Agreed::Unknown,
    }
}

static NEXT_EPOCH: AtomicU64 = AtomicU64::new(1);

/// Identity and trust of one period.
#[derive(Debug)]
pub struct TlsSet {
    epoch: u64,
    svid: Svid,
    bundle: Bundle,
    inbound: Arc<ServerConfig>,
}

impl TlsSet {
    /// Prepares the configurations. Keep the same [`Bundle`] over certificate changes, so that sessions resume.
    ///
    /// # Errors
    /// When rustls refuses key or certificate.
    pub fn new(svid: Svid, bundle: Bundle) -> Result<Self, naka_identity::Error> {
        let inbound = tls::inbound_tls(&svid, &bundle, INBOUND)?;
        Ok(Self {
            epoch: NEXT_EPOCH.fetch_add(1, Relaxed),
            svid,
            bundle,
            inbound,
        })
    }

    /// Our identity.
    #[must_use]
    pub fn svid(&self) -> &Svid {
        &self.svid
    }

    /// Our trust.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Differs for every set of this process.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// For accepting.
    pub(crate) fn inbound(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.inbound)
    }

    /// For calling endpoints that must be one of `allowed`.
    pub(crate) fn outbound(
        &self,
        allowed: Arc<[SpiffeId]>,
        carry: Carry,
    ) -> Result<Arc<ClientConfig>, naka_identity::Error> {
        tls::outbound_tls(&self.svid, &self.bundle, allowed, carry.alpn())
    }
}
