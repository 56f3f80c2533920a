//! Tokens: create, list, revoke. The log keeps what a token may do and the SHA-256 of its secret, never the secret.

use super::answer::{Outcome, Problem, json_with, ok};
use super::auth::Role;
use super::dispatch::Call;
use super::{State, attest, audit};
use crate::ca_service::{CERTIFICATE, Certificate};
use http::StatusCode;
use naka_api::own::certificate_policy::Workload;
use naka_identity::{JoinParams, TokenGrant, new_secret, now_s, random_bytes};
use naka_store::{Draft, Snapshot};
use naka_types::labels::Labels;
use naka_types::token::{Token, TokenKind};
use naka_types::workload::Ulid;
use serde::Deserialize;
use serde_json::{Value, json};

/// Kind of the store's records that hold tokens; their value is a [`TokenGrant`] under its id.
pub const TOKEN_RECORD: &str = crate::ca_service::TOKEN;

/// Lifetime of a join token unless asked otherwise.
const JOIN_TTL: u64 = 3600;
/// Lifetime of an API token unless asked otherwise.
const API_TTL: u64 = 30 * 24 * 3600;
/// Expired tokens are dropped from the state this long after.
const FORGOTTEN_AFTER: u64 = 24 * 3600;
/// Longest lifetime: ten years.
const MAX_TTL: u64 = 10 * 365 * 24 * 3600;

/// What a token is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Request {
    kind: String,
    namespace: String,
    service_account: String,
    services: Vec<String>,
    labels: Labels,
    uses: Option<u32>,
    ttl_seconds: Option<u64>,
    role: String,
    namespaces: Vec<String>,
    /// Path of the program that is going to be run with it.
    program: String,
}

/// `POST tokens`.
pub(crate) async fn create(call: &Call, request: Request) -> Outcome {
    call.subject.need(Role::Admin, "", "create tokens")?;
    if request.kind != "join" {
        // Programs start whatever becomes of the audit trail.
        audit::takes_changes(&call.state)?;
    }
    let (id, secret) = (new_id(), new_secret());
    let (kind, mut grant) = grant(&request, &id, &secret, &call.subject.name)?;
    if kind == TokenKind::Join {
        let workload = Workload {
            namespace: &grant.namespace,
            account: &grant.service_account,
            labels: &request.labels,
        };
        let snapshot = call.state.store.snapshot();
        let seen = attest::seen(&snapshot, call.peer, workload, &request.program);
        grant.attested = seen.await;
    }
    let mut drafts = forget_expired(&call.state);
    let value =
        serde_json::to_value(&grant).map_err(|error| Problem::bad_request(error.to_string()))?;
    drafts.push(Draft::record(
        &call.subject.name,
        "",
        "token.create",
        TOKEN_RECORD,
        &id,
        Some(value),
    ));
    call.state.store.commit(drafts).await?;
    let mesh = &call.state.mesh;
    let token = Token {
        kind,
        addresses: if kind == TokenKind::Api {
            mesh.api.clone()
        } else {
            mesh.xds.clone()
        },
        ca_sha256: mesh.shown(),
        id,
        secret,
    };
    let mut answer = public(&grant);
    answer["token"] = json!(token.reveal());
    Ok(json_with(StatusCode::CREATED, &answer))
}

fn grant(
    request: &Request,
    id: &str,
    secret: &str,
    actor: &str,
) -> Outcome<(TokenKind, TokenGrant)> {
    let expires = |default: u64| now_s() + request.ttl_seconds.unwrap_or(default).clamp(1, MAX_TTL);
    match request.kind.as_str() {
        "join" => {
            let account = match (request.service_account.as_str(), request.services.first()) {
                ("", Some(service)) => service.clone(),
                ("", None) => {
                    return Err(Problem::bad_request(
                        "a join token needs service_account or services",
                    ));
                }
                (account, _) => account.to_owned(),
            };
            let namespace = match request.namespace.as_str() {
                "" => "default".to_owned(),
                namespace => namespace.to_owned(),
            };
            let words = request.services.iter().chain([&account, &namespace]);
            if let Some(bad) = words.into_iter().find(|word| !is_name(word)) {
                return Err(Problem::bad_request(format!(
                    "{bad:?} is no name: use a-z, 0-9 and '-'"
                )));
            }
            let params = JoinParams {
                namespace,
                service_account: account,
                services: request.services.clone(),
                labels: request.labels.clone(),
                uses: Some(request.uses.unwrap_or(1).max(1)),
                expires: expires(JOIN_TTL),
                created_by: actor.to_owned(),
                attested: None,
            };
            Ok((TokenKind::Join, TokenGrant::join(id, secret, params)))
        }
        "api" => {
            if Role::parse(&request.role).is_none() {
                return Err(Problem::bad_request(
                    "an API token needs a role: viewer, operator or admin",
                ));
            }
            let namespaces = request.namespaces.clone();
            let grant = TokenGrant::api(
                id,
                secret,
                &request.role,
                namespaces,
                expires(API_TTL),
                actor,
            );
            Ok((TokenKind::Api, grant))
        }
        other => Err(Problem::bad_request(format!(
            "there are tokens of kind join and api, not {other:?}"
        ))),
    }
}

/// A DNS label.
fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn new_id() -> String {
    let random = u128::from_be_bytes(random_bytes::<16>());
    Ulid::new(now_s() * 1000, random).to_string()
}

/// Drafts that drop tokens nobody can use any more, so that the state does not grow with every `naka run`.
fn forget_expired(state: &State) -> Vec<Draft> {
    let now = now_s();
    let snapshot = state.store.snapshot();
    let old = snapshot.records_of(TOKEN_RECORD).filter(|(_, value)| {
        let expires = value.get("expires").and_then(Value::as_u64);
        expires.is_some_and(|at| at + FORGOTTEN_AFTER < now)
    });
    old.map(|(id, _)| Draft::record("system", "expired", "token.forget", TOKEN_RECORD, id, None))
        .collect()
}

/// `GET tokens`.
pub(crate) fn list(call: &Call) -> Outcome {
    call.subject.need(Role::Admin, "", "list tokens")?;
    let snapshot = call.state.store.snapshot();
    let items: Vec<Value> = snapshot
        .records_of(TOKEN_RECORD)
        .filter_map(|(_, value)| serde_json::from_value::<TokenGrant>(value.as_ref().clone()).ok())
        .map(|grant| public(&grant))
        .collect();
    Ok(ok(&json!({ "items": items })))
}

/// `DELETE tokens/<id>`: nobody joins by it any more, and those who did lose the labels it vouched for. A token that is
/// forgotten already can still be revoked while somebody who joined by it is there.
pub(crate) async fn revoke(call: &Call, id: &str) -> Outcome {
    call.subject.need(Role::Admin, "", "revoke tokens")?;
    let snapshot = call.state.store.snapshot();
    let actor = &call.subject.name;
    let mut drafts = withdrawn(&snapshot, actor, id);
    if snapshot.record(TOKEN_RECORD, id).is_some() {
        drafts.push(Draft::record(
            actor,
            "",
            "token.revoke",
            TOKEN_RECORD,
            id,
            None,
        ));
    }
    if drafts.is_empty() {
        return Err(Problem::not_found(format!("there is no token {id}")));
    }
    call.state.store.commit(drafts).await?;
    Ok(ok(
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
    ))
}

/// Drafts that take the labels of a token from the workloads that joined by it; their identity stays.
fn withdrawn(snapshot: &Snapshot, actor: &str, token: &str) -> Vec<Draft> {
    let joined = snapshot.records_of(CERTIFICATE).filter_map(|(id, value)| {
        let mut certificate: Certificate = serde_json::from_value(value.as_ref().clone()).ok()?;
        if certificate.token != token || certificate.labels.is_empty() {
            return None;
        }
        certificate.labels.clear();
        let value = serde_json::to_value(&certificate).ok();
        let event = "certificate.labels-withdrawn";
        Some(Draft::record(actor, "", event, CERTIFICATE, id, value))
    });
    joined.collect()
}

/// A token as it may be shown.
fn public(grant: &TokenGrant) -> Value {
    let mut value = json!(grant);
    if let Some(map) = value.as_object_mut() {
        map.remove("secret_sha256");
    }
    value
}
