//! Questions of the Naka API: history, events, rollout, status, who is there.

use super::State;
use super::answer::{Outcome, Problem, json_with, ok};
use super::auth::Role;
use super::dispatch::Call;
use super::objects::Item;
use axum::response::Response;
use base64::Engine;
use http::StatusCode;
use naka_api::Kind;
use naka_store::{Draft, Event, Filter, redact, rfc3339};
use naka_types::name::ObjectRef;
use serde_json::{Value, json};
use std::time::Duration;

/// Events of an answer unless asked otherwise.
const LIMIT: u64 = 50;
/// Most events of an answer.
const MAX_LIMIT: u64 = 10_000;
/// Longest wait for a rollout.
const MAX_WAIT_MS: u64 = 10 * 60 * 1000;

/// `/healthz`: alive, and whether changes are taken.
pub(crate) fn health(state: &State) -> Response {
    match state.store.not_writing() {
        None => ok(&json!({"status": "ok"})),
        // The mesh runs on; what does not is named.
        Some(_) => json_with(StatusCode::OK, &json!({"status": "read-only"})),
    }
}

/// `GET history`: changes of objects, newest first.
pub(crate) fn history(call: &Call) -> Outcome {
    events_of(call, Some("object.".to_owned()))
}

/// `GET events`: everything in the log, newest first.
pub(crate) fn events(call: &Call) -> Outcome {
    events_of(call, None)
}

fn events_of(call: &Call, kind_prefix: Option<String>) -> Outcome {
    let mut filter = match call.param("object") {
        "" => Filter::default(),
        text => Filter::object(&reference(text)?),
    };
    filter.kind_prefix = match call.param("kind") {
        "" => kind_prefix,
        kind => Some(kind.to_owned()),
    };
    let limit = usize::try_from(call.number("limit")?.unwrap_or(LIMIT).min(MAX_LIMIT))
        .unwrap_or(usize::MAX);
    let since = call.number("since")?.unwrap_or(0);
    // Whoever sees some namespaces only does not see what belongs to none.
    let seen = |event: &Event| match &event.object {
        Some(object) => call.subject.sees(&object.namespace),
        None => call.subject.sees_all(),
    };
    call.subject.need(
        Role::Viewer,
        call.subject.namespaces.first().map_or("", String::as_str),
        "read the log",
    )?;
    let reach = if call.subject.sees_all() {
        limit
    } else {
        usize::MAX
    };
    let found = call.state.store.history(&filter, reach)?;
    let items: Vec<Value> = found
        .iter()
        .take_while(|event| event.time_ms >= since)
        .filter(|event| seen(event))
        .take(limit)
        .map(|event| event_value(event))
        .collect();
    Ok(ok(&json!({
        "revision": call.state.store.snapshot().revision, "begins_after": call.state.store.start().seq,
        "items": items,
    })))
}

/// An event as it may be shown.
pub(crate) fn event_value(event: &Event) -> Value {
    let side = |value: &Option<Value>| {
        let mut value = value.clone();
        if let Some(value) = &mut value {
            redact(value);
            if let Some(map) = value.as_object_mut() {
                map.remove("secret_sha256");
            }
        }
        value
    };
    json!({
        "seq": event.seq, "revision": event.revision, "time_ms": event.time_ms, "time": rfc3339(event.time_ms),
        "actor": event.actor, "cause": event.cause, "kind": event.kind, "object": event.object,
        "record": event.record.as_ref().map(|(kind, id)| json!({"kind": kind, "id": id})),
        "before": side(&event.before), "after": side(&event.after),
    })
}

/// Reads `Kind namespace/name`, `Kind name` or `kind/name`.
fn reference(text: &str) -> Outcome<ObjectRef> {
    let bad = || {
        Problem::bad_request(format!(
            "cannot read the object {text:?}: write Kind namespace/name"
        ))
    };
    let (word, rest) = text.trim().split_once(' ').ok_or_else(bad)?;
    let kind = Kind::parse(word)
        .or_else(|| Kind::of_word(word))
        .ok_or_else(bad)?;
    let (namespace, name) = match rest.trim().split_once('/') {
        Some((namespace, name)) => (namespace, name),
        None if kind.namespaced() => ("default", rest.trim()),
        None => ("", rest.trim()),
    };
    Ok(Item::new(kind, String::new(), namespace.to_owned(), name.to_owned()).object)
}

/// `GET rollout`.
pub(crate) async fn rollout(call: &Call) -> Outcome {
    call.subject.need(
        Role::Viewer,
        call.subject.namespaces.first().map_or("", String::as_str),
        "read rollouts",
    )?;
    let now = call.state.store.snapshot().revision;
    let revision = call.number("revision")?.unwrap_or(now);
    if revision > now {
        return Err(Problem::not_found(format!(
            "there is no revision {revision} yet; the newest is {now}"
        )));
    }
    let wait = call
        .number("timeout_ms")?
        .unwrap_or(10_000)
        .min(MAX_WAIT_MS);
    let rollout = call
        .state
        .live
        .rollout(revision, Duration::from_millis(wait))
        .await;
    let mut value = json!(rollout);
    value["revision"] = json!(revision);
    Ok(ok(&value))
}

/// `GET status`: the whole mesh on one page.
pub(crate) async fn status(call: &Call) -> Outcome {
    call.subject.need(
        Role::Viewer,
        call.subject.namespaces.first().map_or("", String::as_str),
        "read status",
    )?;
    let snapshot = call.state.store.snapshot();
    let mut objects = Vec::new();
    for object in snapshot
        .objects
        .keys()
        .filter(|object| call.subject.sees(&object.namespace))
    {
        let status = call.state.live.status_of(object.clone()).await;
        let mut value = json!(status);
        value["object"] = json!(object.to_string());
        objects.push(value);
    }
    let mut findings = call.state.live.findings().await;
    if !call.subject.sees_all() {
        let own = |object: &str| {
            call.subject
                .namespaces
                .iter()
                .any(|ns| object.contains(&format!(" {ns}/")))
        };
        findings.retain(|finding| own(&finding.object));
    }
    Ok(ok(&json!({
        "revision": snapshot.revision, "objects": objects, "findings": findings,
        "pending": super::confirm::open(&call.state), "read_only": call.state.store.not_writing(),
    })))
}

/// `GET status/<kind>/<namespace>/<name>`; the namespace of a cluster-wide kind is `-`.
pub(crate) async fn status_of(call: &Call, kind: &str, namespace: &str, name: &str) -> Outcome {
    let kind = Kind::parse(kind)
        .or_else(|| Kind::of_word(kind))
        .ok_or_else(|| Problem::not_found(format!("there is no kind {kind}")))?;
    let namespace = if kind.namespaced() { namespace } else { "" };
    let object = Item::new(kind, String::new(), namespace.to_owned(), name.to_owned()).object;
    call.subject.need(Role::Viewer, namespace, "read status")?;
    if call.state.store.snapshot().value(&object).is_none() {
        return Err(Problem::not_found(format!("{object} does not exist")).about(&object));
    }
    let mut value = json!(call.state.live.status_of(object.clone()).await);
    value["object"] = json!(object.to_string());
    Ok(ok(&value))
}

/// `GET proxies`.
pub(crate) async fn proxies(call: &Call) -> Outcome {
    let items = call.state.live.proxies().await;
    visible(call, items)
}

/// `GET workloads`.
pub(crate) async fn workloads(call: &Call) -> Outcome {
    let items = call.state.live.workloads().await;
    visible(call, items)
}

/// `GET traces?limit=N`: traces that are kept, newest first. A trace goes through namespaces, so who reads it must see
/// them all.
pub(crate) async fn traces(call: &Call) -> Outcome {
    call.subject.need(
        Role::Viewer,
        "",
        "read traces, which go through all namespaces",
    )?;
    let limit = call.number("limit")?.unwrap_or(1_000);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(ok(&json!({ "items": call.state.live.traces(limit).await })))
}

/// `GET traces/<id>`: one of them, by its id, the beginning of it, or the id of a request; `last` is the newest.
pub(crate) async fn trace(call: &Call, id: &str) -> Outcome {
    call.subject.need(
        Role::Viewer,
        "",
        "read traces, which go through all namespaces",
    )?;
    let wanted = if id == "last" { "" } else { id };
    match call.state.live.trace(wanted.to_owned()).await {
        Some(trace) => Ok(ok(&trace)),
        None => Err(Problem::not_found(format!(
            "no trace {id} is held: errors and slow requests are kept, others by chance, and the oldest gives way"
        ))),
    }
}

fn visible(call: &Call, mut items: Vec<Value>) -> Outcome {
    items.retain(|item| {
        call.subject.sees(
            item.get("namespace")
                .and_then(Value::as_str)
                .unwrap_or_default(),
        )
    });
    Ok(ok(&json!({ "items": items })))
}

/// `GET mesh`.
pub(crate) fn mesh(call: &Call) -> Outcome {
    let mesh = &call.state.mesh;
    Ok(ok(&json!({
        "name": mesh.name, "trust_domain": mesh.trust_domain, "api": mesh.api, "xds": mesh.xds,
        "root_pem": mesh.roots(), "root_sha256": mesh.shown(), "version": env!("CARGO_PKG_VERSION"),
        "revision": call.state.store.snapshot().revision, "subject": call.subject.name,
    })))
}

/// `POST reveal/<namespace>/<name>`: the values of a Secret, for an admin, and remembered in the log.
pub(crate) async fn reveal(call: &Call, namespace: &str, name: &str) -> Outcome {
    call.subject
        .need(Role::Admin, namespace, "reveal secrets")?;
    let object = Item::new(
        Kind::Secret,
        String::new(),
        namespace.to_owned(),
        name.to_owned(),
    )
    .object;
    let values = call.state.store.reveal(&object)?;
    let note = Draft::note(
        &call.subject.name,
        "",
        "secret.reveal",
        Some(object),
        json!({}),
    );
    call.state.store.commit(vec![note]).await?;
    let data: serde_json::Map<String, Value> = values
        .into_iter()
        .map(|(key, bytes)| {
            (
                key,
                json!(base64::engine::general_purpose::STANDARD.encode(bytes)),
            )
        })
        .collect();
    Ok(ok(&json!({ "data": data })))
}
