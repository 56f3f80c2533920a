//! Tokens of users (JWT) that somebody took back: records `("revoked-token", fingerprint)` of the log.
//!
//! An entry is kept until the token would have ended by itself, and a day longer: clocks differ. Not here: certificates
//! of workloads (`ca_service::records`) and the mesh's own tokens (`apiserver::tokens`).

use naka_identity::sha256_hex;
use naka_store::{Draft, Snapshot};
use naka_types::revoked_token::{self, Fingerprint, material};
use serde::{Deserialize, Serialize};

/// Record kind; the value is an [`Entry`].
pub const RECORD: &str = "revoked-token";

/// Entries are forgotten a day after their token ended.
const FORGET_AFTER_S: u64 = 24 * 3600;
/// So many at a time, so that no single call pays for all.
const FORGET_AT_ONCE: usize = 64;

/// A token that was taken back, as the store keeps it. Fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its claim `iss`.
    pub issuer: String,
    /// Its claim `jti`.
    pub jti: String,
    /// Its claim `exp`, in seconds since 1970; 0: it never ends.
    pub until: u64,
    /// Why, in the words of who did it.
    #[serde(default)]
    pub reason: String,
}

/// A token that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedToken {
    /// How Naka's proxies know it.
    pub fingerprint: Fingerprint,
    /// Issuer, for Envoys.
    pub issuer: String,
    /// Name of the token, for Envoys.
    pub jti: String,
}

/// Id of a token's record: its fingerprint in hexadecimal.
#[must_use]
pub fn id(issuer: &str, jti: &str) -> String {
    let mut hash = sha256_hex(material(issuer, jti).as_bytes());
    hash.truncate(32);
    hash
}

/// Everything that is refused, in the order of fingerprints.
#[must_use]
pub fn all(snapshot: &Snapshot) -> Vec<RevokedToken> {
    let records = snapshot.records_of(RECORD);
    records
        .filter_map(|(id, value)| {
            let entry = Entry::deserialize(value.as_ref()).ok()?;
            Some(RevokedToken {
                fingerprint: revoked_token::fingerprint(id)?,
                issuer: entry.issuer,
                jti: entry.jti,
            })
        })
        .collect()
}

/// Drafts that take entries out whose token ended more than a day ago.
#[must_use]
pub fn prune(snapshot: &Snapshot, now: u64) -> Vec<Draft> {
    let ended = |until: u64| until > 0 && until + FORGET_AFTER_S < now;
    let records = snapshot.records_of(RECORD);
    records
        .filter(|(_, value)| value["until"].as_u64().is_some_and(ended))
        .map(|(id, _)| Draft::record("system", "expired", "jwt.forgotten", RECORD, id, None))
        .take(FORGET_AT_ONCE)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::id;
    use naka_types::revoked_token::fingerprint;

    #[test]
    fn an_id_is_a_fingerprint() {
        let one = id("https://issuer.example", "1");
        assert!(fingerprint(&one).is_some(), "{one}");
        assert_ne!(one, id("https://issuer.example", "2"));
        assert_ne!(one, id("https://other.example", "1"));
    }
}
