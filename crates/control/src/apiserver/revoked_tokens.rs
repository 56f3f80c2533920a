//! `revoked-tokens`: tokens of users that are taken back before their time is over.

use super::answer::{Outcome, Problem, ok};
use super::auth::Role;
use super::dispatch::Call;
use crate::revoked_tokens::{self, Entry, RECORD};
use naka_identity::now_s;
use naka_store::Draft;
use naka_types::revoked_token::MOST;
use serde::Deserialize;
use serde_json::{Value, json};

/// Longest issuer, jti and reason, in bytes.
const LONGEST: usize = 1024;

/// Which token is taken back.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    issuer: String,
    jti: String,
    /// Its `exp`; none: it never ends.
    until: Option<u64>,
    #[serde(default)]
    reason: String,
}

/// `GET revoked-tokens`.
pub(crate) fn list(call: &Call) -> Outcome {
    call.subject
        .need(Role::Viewer, "", "list revoked tokens of users")?;
    let snapshot = call.state.store.snapshot();
    let items: Vec<Value> = snapshot
        .records_of(RECORD)
        .map(|(id, value)| {
            let mut item = value.as_ref().clone();
            item["id"] = json!(id);
            item
        })
        .collect();
    Ok(ok(&json!({ "items": items })))
}

/// `POST revoked-tokens`: from now on nobody takes the token. Answers the revision to wait for.
pub(crate) async fn revoke(call: &Call, wanted: Wanted) -> Outcome {
    call.subject
        .need(Role::Admin, "", "revoke tokens of users")?;
    for (name, text) in [
        ("issuer", &wanted.issuer),
        ("jti", &wanted.jti),
        ("reason", &wanted.reason),
    ] {
        let empty = text.is_empty() && name != "reason";
        if empty || text.len() > LONGEST {
            return Err(Problem::bad_request(format!(
                "{name} must have 1 to {LONGEST} bytes"
            )));
        }
    }
    let now = now_s();
    if wanted.until.is_some_and(|until| until <= now) {
        return Err(Problem::bad_request(
            "the token's time is over (exp): no proxy takes it any more".to_owned(),
        ));
    }
    let snapshot = call.state.store.snapshot();
    if snapshot.records_of(RECORD).count() >= MOST {
        return Err(Problem::conflict(format!(
            "{MOST} tokens are revoked already, more are not held: take the issuer's key out instead"
        )));
    }
    let id = revoked_tokens::id(&wanted.issuer, &wanted.jti);
    let entry = Entry {
        issuer: wanted.issuer,
        jti: wanted.jti,
        until: wanted.until.unwrap_or(0),
        reason: wanted.reason,
    };
    let mut drafts = revoked_tokens::prune(&snapshot, now);
    drafts.push(Draft::record(
        &call.subject.name,
        &entry.reason,
        "jwt.revoke",
        RECORD,
        &id,
        Some(json!(entry)),
    ));
    let commit = call.state.store.commit(drafts).await?;
    Ok(ok(&json!({
        "id": id, "issuer": entry.issuer, "jti": entry.jti, "revision": commit.revision,
    })))
}

/// `DELETE revoked-tokens/<id>`: the token counts again.
pub(crate) async fn take_back(call: &Call, id: &str) -> Outcome {
    call.subject.need(
        Role::Admin,
        "",
        "take back that tokens of users are revoked",
    )?;
    if call.state.store.snapshot().record(RECORD, id).is_none() {
        return Err(Problem::not_found(format!(
            "no token with the id {id} is revoked; `naka get revoked-tokens` lists them"
        )));
    }
    let draft = Draft::record(&call.subject.name, "", "jwt.restore", RECORD, id, None);
    let commit = call.state.store.commit(vec![draft]).await?;
    Ok(ok(&json!({"id": id, "revision": commit.revision})))
}
