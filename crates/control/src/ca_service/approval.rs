//! Certificates that somebody has to approve: records `("certificate-request", id)` of the store.
//!
//! An approval is for one key: that of the request it was given for, of the workload that showed it. So a token or a
//! certificate in other hands asks for an approval of its own, which whoever approves sees beside the first. A workload
//! keeps its key and asks again until it is approved; what it has meanwhile stays good.
//!
//! A request that is not repeated, or an approval that is not fetched, is forgotten after a day.

use super::PeerIdentity;
use naka_store::{Draft, Snapshot};
use serde::{Deserialize, Serialize};

/// Record kind; the value is a [`CertificateRequest`].
pub const REQUEST: &str = "certificate-request";

/// Digits of a key's hash that name its request.
const ID: usize = 16;
/// More requests of one identity at a time are no honest ones.
const MOST: usize = 16;

/// A request that waits for somebody, or was approved. Fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CertificateRequest {
    /// Identity.
    pub spiffe: String,
    /// What the workload calls itself, `name.namespace`.
    #[serde(default)]
    pub workload: String,
    /// Workload id; empty: a new workload.
    #[serde(default)]
    pub workload_id: String,
    /// What the key is.
    #[serde(default)]
    pub key_type: String,
    /// SHA-256 of the public key, hexadecimal.
    pub key_sha256: String,
    /// The policy that wants the approval, `namespace/name`.
    #[serde(default)]
    pub policy: String,
    /// When it was asked for.
    pub asked_at: u64,
    /// Who approved it; empty: nobody yet.
    #[serde(default)]
    pub approved_by: String,
}

/// What is to be done about a request.
#[derive(Debug, PartialEq)]
pub(super) enum Standing {
    /// It is approved; this takes the approval away when the certificate is issued.
    Approved(Draft),
    /// It waits; this notes it.
    New(Draft),
    /// It waits.
    Known,
    /// There are too many of this identity.
    TooMany,
}

/// The name of a request for a key.
#[must_use]
pub fn id_of(key_sha256: &str) -> &str {
    key_sha256.get(..ID).unwrap_or(key_sha256)
}

/// Looks at a request.
pub(super) fn standing(snapshot: &Snapshot, asked: &CertificateRequest) -> Standing {
    let id = id_of(&asked.key_sha256);
    let known = read(snapshot, id);
    let same = known.as_ref().filter(|known| {
        known.key_sha256 == asked.key_sha256
            && known.spiffe == asked.spiffe
            && known.workload_id == asked.workload_id
    });
    match same {
        Some(same) if !same.approved_by.is_empty() => {
            Standing::Approved(draft(&same.spiffe, "certificate.approval-used", id, None))
        }
        Some(_) => Standing::Known,
        None => {
            let all = snapshot.records_of(REQUEST);
            let own = all.filter(|(_, value)| value["spiffe"] == asked.spiffe.as_str());
            if own.count() >= MOST {
                return Standing::TooMany;
            }
            let value = serde_json::to_value(asked).ok();
            Standing::New(draft(&asked.spiffe, "certificate.asked-for", id, value))
        }
    }
}

fn draft(spiffe: &str, event: &str, id: &str, value: Option<serde_json::Value>) -> Draft {
    let actor = format!("workload:{spiffe}");
    Draft::record(&actor, "", event, REQUEST, id, value)
}

/// A request by its id.
#[must_use]
pub fn read(snapshot: &Snapshot, id: &str) -> Option<CertificateRequest> {
    CertificateRequest::deserialize(snapshot.record(REQUEST, id)?.as_ref()).ok()
}

/// All requests with their ids.
pub fn all(snapshot: &Snapshot) -> impl Iterator<Item = (&str, CertificateRequest)> {
    snapshot.records_of(REQUEST).filter_map(|(id, value)| {
        let request = CertificateRequest::deserialize(value.as_ref()).ok()?;
        Some((id, request))
    })
}

/// A request of a workload: new, or with the id it has.
pub(super) fn asked(identity: &PeerIdentity, new: bool, workload: &str) -> CertificateRequest {
    let namespace = identity.spiffe.namespace();
    let name = match naka_types::host::check_label(workload) {
        Ok(()) => workload,
        Err(_) => identity.spiffe.service_account(),
    };
    CertificateRequest {
        spiffe: identity.spiffe.to_string(),
        workload: format!("{name}.{namespace}"),
        workload_id: match new {
            true => String::new(),
            false => identity.workload_id.to_string(),
        },
        ..CertificateRequest::default()
    }
}
