//! `certificates`: the certificates of workloads, those that wait for somebody's approval, and taking one back before
//! its time is over.
//!
//! A revocation is of a workload, not of one certificate: its renewals and what it held before go with it (see
//! `naka_identity::Revoked`). It is an event of the log with who did it and why, and is pushed like configuration.

use super::State;
use super::answer::{Outcome, Problem, ok};
use super::auth::Role;
use super::dispatch::Call;
use crate::ca_service::approval::{self, CertificateRequest, REQUEST};
use crate::ca_service::{CERTIFICATE, Certificate, REVOKED, Revocation, certificate};
use crate::plane::REGISTRATION_RECORD;
use naka_identity::now_s;
use naka_store::{Draft, Snapshot, rfc3339};
use naka_types::spiffe::SpiffeId;
use naka_types::workload::Ulid;
use serde::Deserialize;
use serde_json::{Value, json};

/// Words of RFC 5280 5.3.1 that say something of a workload. The first one cuts what is open.
const REASONS: &[&str] = &[
    "key-compromise",
    "unspecified",
    "superseded",
    "cessation-of-operation",
    "privilege-withdrawn",
];

/// Whose certificates count no more, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Workload id, or `<workload name>.<namespace>`.
    workload: String,
    reason: String,
}

/// `GET certificates`: the newest of each workload, the oldest workload first.
pub(crate) fn list(call: &Call) -> Outcome {
    call.subject
        .need(Role::Viewer, "", "list the certificates of all namespaces")?;
    let snapshot = call.state.store.snapshot();
    let all = snapshot.records_of(CERTIFICATE);
    let items: Vec<Value> = all
        .filter_map(|(id, value)| {
            let certificate: Certificate = serde_json::from_value(value.as_ref().clone()).ok()?;
            Some(told(&snapshot, id, &certificate))
        })
        .collect();
    let waiting = approval::all(&snapshot).map(|(id, request)| waits(id, &request));
    let items: Vec<Value> = items.into_iter().chain(waiting).collect();
    Ok(ok(&json!({ "items": items })))
}

/// A request as a row of the list.
fn waits(id: &str, request: &CertificateRequest) -> Value {
    let approved = !request.approved_by.is_empty();
    json!({
        "workload_id": id,
        "workload_name": request.workload,
        "identity": request.spiffe,
        "key_type": request.key_type,
        "policy": request.policy,
        "state": if approved { "approved" } else { "waits for approval" },
        "renews": request.workload_id,
        "asked": rfc3339(request.asked_at.saturating_mul(1000)),
        "approved_by": request.approved_by,
    })
}

fn told(snapshot: &Snapshot, id: &str, certificate: &Certificate) -> Value {
    let revoked = snapshot.record(REVOKED, id);
    let reason = revoked.map(|record| record["reason"].clone());
    json!({
        "workload_id": id,
        "workload_name": name_of(snapshot, id),
        "identity": certificate.spiffe,
        "serial": certificate.serial,
        "root": certificate.root,
        "key_type": certificate.key_type,
        "policy": certificate.policy,
        "not_before": certificate.not_before,
        "not_after": certificate.not_after,
        "until": rfc3339(certificate.not_after.saturating_mul(1000)),
        "state": if reason.is_some() { "revoked" } else { "valid" },
        "revoked_because": reason,
    })
}

/// `<workload name>.<namespace>` of a registered workload.
fn name_of(snapshot: &Snapshot, id: &str) -> Option<String> {
    let registration = snapshot.record(REGISTRATION_RECORD, id)?;
    let text = |field: &str| registration[field].as_str();
    Some(format!("{}.{}", text("workload_name")?, text("namespace")?))
}

/// `POST certificates/revoke`: nobody believes the workload any more. Answers the revision to wait for.
pub(crate) async fn revoke(call: &Call, wanted: Wanted) -> Outcome {
    call.subject.need(Role::Admin, "", "revoke certificates")?;
    if !REASONS.contains(&wanted.reason.as_str()) {
        return Err(Problem::bad_request(format!(
            "reason {:?} is not one of {}",
            wanted.reason,
            REASONS.join(", ")
        )));
    }
    let snapshot = call.state.store.snapshot();
    let id = find(&snapshot, &wanted.workload)?;
    let held = certificate(&snapshot, id).unwrap_or_default();
    let revocation = Revocation {
        spiffe: held.spiffe,
        cut: wanted.reason == REASONS[0],
        reason: wanted.reason,
        not_after: held.not_after,
    };
    let value = json!(revocation);
    let draft = Draft::record(
        &call.subject.name,
        &revocation.reason,
        "certificate.revoke",
        REVOKED,
        &id.to_string(),
        Some(value.clone()),
    );
    let commit = call.state.store.commit(vec![draft]).await?;
    Ok(ok(&json!({
        "workload_id": id.to_string(),
        "identity": revocation.spiffe,
        "revision": commit.revision,
        "not_told": deaf(&call.state).await,
    })))
}

/// What is approved.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Approved {
    /// Id of the request, workload id, or `<workload name>.<namespace>`.
    workload: String,
}

/// `POST certificates/approve`: a workload may have the certificate that it asks for.
pub(crate) async fn approve(call: &Call, wanted: Approved) -> Outcome {
    let snapshot = call.state.store.snapshot();
    let words = wanted.workload.as_str();
    let named = |(id, request): &(&str, CertificateRequest)| {
        *id == words || request.workload == words || request.workload_id == words
    };
    let found: Vec<_> = approval::all(&snapshot).filter(named).collect();
    // Whoever may not approve learns nothing of what waits.
    let namespace = match found.first() {
        Some((_, request)) => SpiffeId::parse(&request.spiffe)
            .map(|spiffe| spiffe.namespace().to_owned())
            .unwrap_or_default(),
        None => String::new(),
    };
    call.subject
        .need(Role::Operator, &namespace, "approve certificates")?;
    let [(id, request)] = found.as_slice() else {
        let ids: Vec<&str> = found.iter().map(|(id, _)| *id).collect();
        return Err(match ids.as_slice() {
            [] => Problem::not_found(format!(
                "no certificate of {words:?} waits for approval; `naka get certs` lists those that do"
            )),
            // One of them may be somebody else's.
            _ => Problem::bad_request(format!(
                "{} requests of {words:?} wait; look at them (`naka get certs -o yaml`) and name the one: {}",
                ids.len(),
                ids.join(", ")
            )),
        });
    };
    let approved = CertificateRequest {
        approved_by: call.subject.name.clone(),
        asked_at: now_s(),
        ..request.clone()
    };
    let draft = Draft::record(
        &call.subject.name,
        "",
        "certificate.approve",
        REQUEST,
        id,
        Some(json!(approved)),
    );
    call.state.store.commit(vec![draft]).await?;
    Ok(ok(&json!({
        "request": id,
        "workload": approved.workload,
        "identity": approved.spiffe,
        "key_type": approved.key_type,
    })))
}

/// Names of connected proxies that take no list of workloads.
async fn deaf(state: &State) -> Vec<Value> {
    let proxies = state.live.proxies().await.into_iter();
    let others = proxies.filter(|proxy| proxy["dialect"].as_str().is_some_and(|d| d != "naka"));
    others.map(|proxy| proxy["name"].clone()).collect()
}

/// The workload meant, which must have had a certificate.
fn find(snapshot: &Snapshot, words: &str) -> Result<Ulid, Problem> {
    let issued = |id: &str| snapshot.record(CERTIFICATE, id).is_some();
    let named = || {
        let mut all = snapshot.records_of(REGISTRATION_RECORD);
        all.find(|(id, _)| name_of(snapshot, id).as_deref() == Some(words))
            .map(|(id, _)| id)
    };
    let id = match Ulid::parse(words) {
        Some(_) => Some(words),
        None => named(),
    };
    id.filter(|id| issued(id))
        .and_then(Ulid::parse)
        .ok_or_else(|| {
            Problem::not_found(format!(
                "no workload {words:?} has a certificate of this mesh; `naka get certs` lists them"
            ))
        })
}
