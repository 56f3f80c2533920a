//! The control plane's own certificate: from the same authority, renewed by the same rule as everyone's, replaced
//! without touching a connection.

use super::Authority;
use crate::{CONTROL_NAME, Error, schedule, tls};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// The certificate that the control plane's ports show. The chain carries the root, because a newcomer knows only
/// its hash.
pub struct ServerCert {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    ttl: Duration,
    current: RwLock<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    not_before: u64,
    not_after: u64,
}

impl std::fmt::Debug for ServerCert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerCert")
            .field("names", &self.names)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl ServerCert {
    /// Issues the first one for these names and addresses; [`CONTROL_NAME`] is always among the names.
    ///
    /// # Errors
    /// [`Error::Make`] when a name is no DNS name.
    pub fn issue(
        authority: &Authority,
        names: &[String],
        addresses: &[IpAddr],
        ttl: Duration,
        now: u64,
    ) -> Result<Arc<Self>, Error> {
        let mut names = names.to_vec();
        names.push(CONTROL_NAME.to_owned());
        names.sort();
        names.dedup();
        let current = make(authority, &names, addresses, ttl, now)?;
        Ok(Arc::new(Self {
            names,
            addresses: addresses.to_vec(),
            ttl,
            current: RwLock::new(current),
        }))
    }

    /// Issues the next one; connections made from now on see it.
    ///
    /// # Errors
    /// As [`ServerCert::issue`].
    pub fn reissue(&self, authority: &Authority, now: u64) -> Result<(), Error> {
        let next = make(authority, &self.names, &self.addresses, self.ttl, now)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// First second of the current one.
    #[must_use]
    pub fn not_before(&self) -> u64 {
        self.read().not_before
    }

    /// Last second of the current one.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.read().not_after
    }

    /// When to call [`ServerCert::reissue`].
    #[must_use]
    pub fn renew_at(&self, chance: u32) -> u64 {
        let current = self.read();
        schedule::renew_at(current.not_before, current.not_after, chance)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for ServerCert {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.read().key))
    }
}

fn make(
    authority: &Authority,
    names: &[String],
    addresses: &[IpAddr],
    ttl: Duration,
    now: u64,
) -> Result<Current, Error> {
    let (issued, key) = authority.issue_server(names, addresses, ttl, now)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(Current {
        key: Arc::new(CertifiedKey::from_der(issued.chain, key, &tls::provider())?),
        not_before: issued.not_before,
        not_after: issued.not_after,
    })
}
