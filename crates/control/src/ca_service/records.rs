//! What the store keeps of tokens and certificates: records `("token", id)`, `("certificate", workload id)` and, of
//! those that count no more, `("revoked", workload id)`.

use super::PeerIdentity;
use super::approval::REQUEST;
use crate::plane::REGISTRATION_RECORD;
use crate::revoked_tokens;
use naka_identity::{Attested, Issued, Revoked, TokenGrant};
use naka_store::{Draft, Snapshot};
use naka_types::labels::Labels;
use naka_types::workload::Ulid;
use serde::{Deserialize, Serialize};

/// Record kind of tokens; the value is a [`TokenGrant`].
pub const TOKEN: &str = "token";
/// Record kind of certificates; the value is a [`Certificate`].
pub const CERTIFICATE: &str = "certificate";
/// Record kind of revoked workloads; the value is a [`Revocation`].
pub const REVOKED: &str = "revoked";

/// Records are forgotten a day after they stopped to count.
const FORGET_AFTER_S: u64 = 24 * 3600;
/// So many at a time, so that no single join pays for all.
const FORGET_AT_ONCE: usize = 16;

/// The newest certificate of a workload, as the store keeps it. Fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Certificate {
    /// Identity.
    pub spiffe: String,
    /// Workload id.
    pub workload_id: String,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// First second.
    pub not_before: u64,
    /// Last second.
    pub not_after: u64,
    /// Services it may serve.
    #[serde(default)]
    pub services: Vec<String>,
    /// Labels that count in policies.
    #[serde(default)]
    pub labels: Labels,
    /// Id of the token it joined with.
    #[serde(default)]
    pub token: String,
    /// SHA-256 of the root it leads to; empty for one that an older control plane issued.
    #[serde(default)]
    pub root: String,
    /// What the key is (word of `types::KeyType`); empty: nothing that has a word.
    #[serde(default)]
    pub key_type: String,
    /// The CertificatePolicy it was issued by, `namespace/name`; empty: none.
    #[serde(default)]
    pub policy: String,
    /// What was seen of the program when it joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested: Option<Attested>,
}

/// A workload whose certificates count no more. Fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Revocation {
    /// Identity.
    pub spiffe: String,
    /// Why, as RFC 5280 5.3.1 has the words.
    pub reason: String,
    /// Whether connections that are open end, too.
    pub cut: bool,
    /// Last second of the last certificate; after it nobody needs the record.
    pub not_after: u64,
}

/// Everybody who is revoked.
#[must_use]
pub fn revoked(snapshot: &Snapshot) -> Revoked {
    let mut all = Revoked::default();
    for (id, value) in snapshot.records_of(REVOKED) {
        let cut = value["cut"].as_bool().unwrap_or(true);
        match Ulid::parse(id) {
            Some(id) => all.insert(id, cut),
            None => tracing::warn!(id, "a stored revocation cannot be read"),
        }
    }
    all
}

/// What is kept of a workload's certificate: which services and labels it was vouched for.
#[must_use]
pub fn certificate(snapshot: &Snapshot, workload_id: Ulid) -> Option<Certificate> {
    let value = snapshot.record(CERTIFICATE, &workload_id.to_string())?;
    Certificate::deserialize(value.as_ref()).ok()
}

/// What is kept of a token.
#[must_use]
pub fn grant(snapshot: &Snapshot, id: &str) -> Option<TokenGrant> {
    TokenGrant::deserialize(snapshot.record(TOKEN, id)?.as_ref()).ok()
}

/// A certificate's record with what was issued.
pub(super) fn dated(certificate: Certificate, issued: &Issued) -> Certificate {
    Certificate {
        serial: issued.serial.clone(),
        not_before: issued.not_before,
        not_after: issued.not_after,
        root: issued
            .chain
            .last()
            .map_or_else(String::new, |root| naka_identity::sha256_hex(root)),
        ..certificate
    }
}

/// The event of an issued certificate.
pub(super) fn issued(certificate: &Certificate, who: &PeerIdentity) -> Draft {
    Draft::record(
        &format!("workload:{}", who.spiffe),
        "",
        "certificate.issued",
        CERTIFICATE,
        &certificate.workload_id,
        serde_json::to_value(certificate).ok(),
    )
}

/// The event of one use of a token.
pub(super) fn used(grant: &TokenGrant) -> Draft {
    Draft::record(
        &format!("token:{}", grant.id),
        "",
        "token.used",
        TOKEN,
        &grant.id,
        serde_json::to_value(grant.used()).ok(),
    )
}

/// The event that takes a token out.
pub(super) fn forget(id: &str) -> Draft {
    Draft::record("system", "", "token.forgotten", TOKEN, id, None)
}

/// Takes a few records out that stopped to count more than a day ago. What a registered workload was vouched for stays:
/// a clock that jumped days ahead, or a machine that slept, must not cost it the right to renew.
pub(super) fn prune(snapshot: &Snapshot, now: u64) -> Vec<Draft> {
    let over = |value: &serde_json::Value, field: &str| {
        value[field]
            .as_u64()
            .is_some_and(|end| end + FORGET_AFTER_S < now)
    };
    let tokens = snapshot
        .records_of(TOKEN)
        .filter(|(_, value)| over(value, "expires"))
        .map(|(id, _)| forget(id));
    let certificates = snapshot
        .records_of(CERTIFICATE)
        .filter(|(id, value)| {
            over(value, "not_after") && snapshot.record(REGISTRATION_RECORD, id).is_none()
        })
        .map(|(id, _)| Draft::record("system", "", "certificate.forgotten", CERTIFICATE, id, None));
    let revoked = snapshot
        .records_of(REVOKED)
        .filter(|(_, value)| over(value, "not_after"))
        .map(|(id, _)| Draft::record("system", "", "certificate.forgotten", REVOKED, id, None));
    let requests = snapshot
        .records_of(REQUEST)
        .filter(|(_, value)| over(value, "asked_at"))
        .map(|(id, _)| {
            Draft::record(
                "system",
                "",
                "certificate.request-forgotten",
                REQUEST,
                id,
                None,
            )
        });
    tokens
        .chain(certificates)
        .chain(revoked)
        .chain(requests)
        .chain(revoked_tokens::prune(snapshot, now))
        .take(FORGET_AT_ONCE)
        .collect()
}
