//! The rustls configurations of a mesh, all from one provider: aws-lc-rs, X25519MLKEM768 first.
//!
//! Between workloads and to the control plane's xDS port: TLS 1.3 only. The API port may also speak TLS 1.2, because
//! it serves other people's clients. No configuration sends or accepts early data.

use crate::authority::ServerCert;
use crate::bundle::Bundle;
use crate::svid::Svid;
use crate::ticket::Tickets;
use crate::verify::{MeshClients, Servers, Wanted};
use crate::{CONTROL_NAME, Error};
use naka_types::spiffe::SpiffeId;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::ServerSessionMemoryCache;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::ServerName;
use std::sync::{Arc, OnceLock};

/// Sessions a caller keeps per destination configuration, so that reconnecting is cheap.
const CLIENT_SESSIONS: usize = 32;
const MESH_VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13];
const API_VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// The cryptography of every configuration here.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| {
        Arc::new(CryptoProvider {
            kx_groups: vec![
                aws_lc_rs::kx_group::X25519MLKEM768,
                aws_lc_rs::kx_group::X25519,
                aws_lc_rs::kx_group::SECP256R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    }))
}

/// Name to ask for when connecting to the control plane, whatever its address.
#[must_use]
pub fn control_name() -> ServerName<'static> {
    ServerName::try_from(CONTROL_NAME).expect("invariant: a constant DNS name")
}

fn protocols(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.to_vec()).collect()
}

/// What a workload shows and asks for on its mTLS port: callers must be of this mesh. Call it again with each new
/// certificate; with the same [`Bundle`] sessions resume across the change.
///
/// # Errors
/// [`Error::Tls`] when rustls refuses key or certificate.
pub fn inbound_tls(
    svid: &Svid,
    bundle: &Bundle,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    let provider = provider();
    let verifier = MeshClients {
        bundle: bundle.clone(),
        algorithms: provider.signature_verification_algorithms,
        mandatory: true,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(MESH_VERSIONS)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(svid.chain.clone(), svid.key.clone_key())?;
    config.alpn_protocols = protocols(alpn);
    config.ticketer = Arc::new(Tickets {
        keys: Arc::clone(bundle.tickets()),
        leaf_not_after: svid.not_after,
    });
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// What a workload shows and asks for when it calls endpoints that must be one of `allowed`. Each configuration has
/// its own session cache: make a new one when certificate, bundle or `allowed` changes.
///
/// # Errors
/// As [`inbound_tls`].
pub fn outbound_tls(
    svid: &Svid,
    bundle: &Bundle,
    allowed: Arc<[SpiffeId]>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let verifier = Servers {
        wanted: Wanted::OneOf(bundle.clone(), allowed),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(MESH_VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(svid.chain.clone(), svid.key.clone_key())?;
    config.alpn_protocols = protocols(alpn);
    config.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
    Ok(Arc::new(config))
}

/// For a known control plane: its certificate must lead to the bundle and name [`CONTROL_NAME`] (or the address
/// dialled). With `svid` the connection proves who we are.
///
/// # Errors
/// As [`inbound_tls`].
pub fn control_client_tls(
    svid: Option<&Svid>,
    bundle: &Bundle,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let verifier =
        WebPkiServerVerifier::builder_with_provider(bundle.store(), Arc::clone(&provider))
            .build()
            .map_err(|_| Error::Malformed("trust bundle"))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(MESH_VERSIONS)?
        .with_webpki_verifier(verifier);
    let mut config = match svid {
        Some(svid) => builder.with_client_auth_cert(svid.chain.clone(), svid.key.clone_key())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols(alpn);
    // A connection says who we are; a resumed one would say who we were.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// For the first connection of a newcomer, who knows only the SHA-256 of the root from its token. The control plane
/// sends the root along; nothing else is trusted.
///
/// # Errors
/// As [`inbound_tls`].
pub fn token_client_config(ca_sha256: &str, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let verifier = Servers {
        wanted: Wanted::Root(ca_sha256.to_owned()),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(MESH_VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = protocols(alpn);
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The control plane's xDS and certificate port: TLS 1.3, a client certificate is welcome but a newcomer has none.
/// A certificate that is shown must be of this mesh.
///
/// # Errors
/// As [`inbound_tls`].
pub fn control_server_tls(
    certificate: Arc<ServerCert>,
    bundle: &Bundle,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    let provider = provider();
    let verifier = MeshClients {
        bundle: bundle.clone(),
        algorithms: provider.signature_verification_algorithms,
        mandatory: false,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(MESH_VERSIONS)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(certificate);
    config.alpn_protocols = protocols(alpn);
    // Long-lived connections; a resumed one would carry an identity proved in the past.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The API port: TLS 1.3 or 1.2, callers prove themselves by token.
///
/// # Errors
/// As [`inbound_tls`].
pub fn api_server_tls(
    certificate: Arc<ServerCert>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(API_VERSIONS)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = protocols(alpn);
    config.session_storage = ServerSessionMemoryCache::new(256);
    Ok(Arc::new(config))
}
