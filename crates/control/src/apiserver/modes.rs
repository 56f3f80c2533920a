//! `modes`: switching them on and off, and approving.
//!
//! A mode that needs several approvals waits until as many different subjects have wanted it. A token that one of them
//! made is no other person. Every step is an event with who, why and for which incident.

use super::answer::{Outcome, Problem, ok};
use super::auth::{Role, Subject};
use super::dispatch::Call;
use super::tokens::TOKEN_RECORD;
use crate::modes::{self, RECORD, Switch, now_ms};
use naka_api::Object;
use naka_api::own::mode::Mode;
use naka_store::{Draft, Snapshot, rfc3339};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// What a mode is wanted for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Wanted {
    incident: String,
    why: String,
    for_ms: Option<u64>,
}

/// Why a mode is ended.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Ended {
    why: String,
}

/// `GET modes`.
pub(crate) fn list(call: &Call) -> Outcome {
    let own = call.subject.namespaces.first().map_or("", String::as_str);
    call.subject.need(Role::Viewer, own, "list modes")?;
    let snapshot = call.state.store.snapshot();
    let all = snapshot.objects.values();
    let items: Vec<Value> = all
        .filter(|object| call.subject.sees(&object.meta.namespace))
        .filter_map(|object| Some(shown(&snapshot, object, object.mode()?)))
        .collect();
    Ok(ok(&json!({ "items": items })))
}

fn id(object: &Object) -> String {
    format!("{}/{}", object.meta.namespace, object.meta.name)
}

fn switch(snapshot: &Snapshot, id: &str) -> Option<Switch> {
    let now = now_ms();
    let found = Switch::read(snapshot.record(RECORD, id)?)?;
    (found.is_on(now) || found.waits(now)).then_some(found)
}

fn shown(snapshot: &Snapshot, object: &Object, mode: &Mode) -> Value {
    let switch = switch(snapshot, &id(object));
    let until = switch.as_ref().and_then(|switch| switch.until_ms);
    let state = match (&switch, until) {
        (None, _) => "off",
        (Some(_), None) => "waiting",
        (Some(_), Some(_)) => "on",
    };
    json!({
        "namespace": object.meta.namespace,
        "name": object.meta.name,
        "state": state,
        "owner": mode.owner,
        "description": mode.description,
        "approvals_needed": mode.approvals,
        "max_time_s": mode.max_time.as_secs(),
        "until": until.map(rfc3339),
        "until_ms": until,
        "incident": switch.as_ref().map(|switch| &switch.incident),
        "why": switch.as_ref().map(|switch| &switch.why),
        "approvals": switch.as_ref().map(|switch| &switch.approvals),
    })
}

fn found<'a>(
    call: &Call,
    snapshot: &'a Snapshot,
    (namespace, name): (&str, &str),
    what: &str,
) -> Outcome<(&'a Arc<Object>, &'a Mode)> {
    call.subject.need(Role::Operator, namespace, what)?;
    let object = modes::object(snapshot, &format!("{namespace}/{name}"));
    let found = object.and_then(|object| Some((object, object.mode()?)));
    let Some((object, mode)) = found else {
        return Err(Problem::not_found(format!(
            "there is no Mode {namespace}/{name}; `naka mode list` lists them"
        )));
    };
    let role = Role::parse(&mode.role).unwrap_or(Role::Admin);
    call.subject.need(role, namespace, what)?;
    Ok((object, mode))
}

/// `POST modes/<namespace>/<name>/on`.
pub(crate) async fn on(call: &Call, namespace: &str, name: &str, wanted: Wanted) -> Outcome {
    let _switching = call.state.switching.lock().await;
    let snapshot = call.state.store.snapshot();
    let (object, mode) = found(call, &snapshot, (namespace, name), "switch this mode on")?;
    let id = id(object);
    if let Some(there) = switch(&snapshot, &id) {
        let state = match there.until_ms {
            Some(until) => format!("is on already, until {}", rfc3339(until)),
            None => "waits for approvals already: `naka mode approve`".to_owned(),
        };
        return Err(Problem::conflict(format!("mode {id} {state}")));
    }
    let for_ms = sound(&snapshot, mode, &wanted).map_err(Problem::bad_request)?;
    let now = now_ms();
    let mut switch = Switch {
        uid: object.meta.uid.clone(),
        generation: object.meta.generation,
        incident: wanted.incident,
        why: wanted.why,
        approvals: vec![call.subject.name.clone()],
        asked_ms: now,
        for_ms,
        until_ms: None,
    };
    begin(&mut switch, mode, now);
    remember(call, &id, &switch, mode).await
}

/// Whether a mode may be on for this, and how long.
fn sound(snapshot: &Snapshot, mode: &Mode, wanted: &Wanted) -> Result<u64, String> {
    if wanted.why.trim().is_empty() {
        return Err("it needs a reason: --why".to_owned());
    }
    if let Some(pattern) = mode.incident.as_ref().filter(|p| !p.fits(&wanted.incident)) {
        let pattern = pattern.as_str();
        return Err(match wanted.incident.as_str() {
            "" => format!("it needs the id of an incident, {pattern}: --incident"),
            id => format!("{id:?} is no incident: its id must look like {pattern}"),
        });
    }
    for patch in &mode.patches {
        let target = &patch.target;
        let Some(there) = snapshot.objects.get(target) else {
            return Err(format!("it patches {target}, which does not exist"));
        };
        modes::patched(there, patch)
            .map_err(|why| format!("its patch of {target} makes it unsound: {why}"))?;
    }
    let most = u64::try_from(mode.max_time.as_millis()).unwrap_or(u64::MAX);
    match wanted.for_ms {
        Some(0) => Err("it would be on for no time at all".to_owned()),
        Some(time) if time > most => Err(format!(
            "it may be on for at most {}",
            naka_types::duration::Show(mode.max_time)
        )),
        Some(time) => Ok(time),
        None => Ok(most),
    }
}

/// Sets the end, once enough want it.
fn begin(switch: &mut Switch, mode: &Mode, now: u64) {
    if switch.approvals.len() >= usize::try_from(mode.approvals).unwrap_or(usize::MAX) {
        switch.until_ms = Some(now.saturating_add(switch.for_ms));
    }
}

async fn remember(call: &Call, id: &str, switch: &Switch, mode: &Mode) -> Outcome {
    let kind = match (switch.until_ms, switch.approvals.len()) {
        (Some(_), _) => "mode.on",
        (None, 1) => "mode.request",
        (None, _) => "mode.approve",
    };
    let cause = match switch.incident.as_str() {
        "" => switch.why.clone(),
        incident => format!("{incident}: {}", switch.why),
    };
    let value = Some(json!(switch));
    let draft = Draft::record(&call.subject.name, &cause, kind, RECORD, id, value);
    let commit = call.state.store.commit(vec![draft]).await?;
    tracing::warn!(mode = id, actor = call.subject.name, cause, "{kind}");
    let needed = usize::try_from(mode.approvals).unwrap_or(usize::MAX);
    Ok(ok(&json!({
        "mode": id,
        "revision": commit.revision,
        "on": switch.until_ms.is_some(),
        "until": switch.until_ms.map(rfc3339),
        "incident": switch.incident,
        "approvals": switch.approvals,
        "missing": needed.saturating_sub(switch.approvals.len()),
    })))
}

/// `POST modes/<namespace>/<name>/approve`.
pub(crate) async fn approve(call: &Call, namespace: &str, name: &str) -> Outcome {
    let _switching = call.state.switching.lock().await;
    let snapshot = call.state.store.snapshot();
    let (object, mode) = found(call, &snapshot, (namespace, name), "approve this mode")?;
    let id = id(object);
    let waiting = switch(&snapshot, &id).filter(|switch| switch.until_ms.is_none());
    let Some(mut switch) = waiting else {
        return Err(Problem::conflict(format!(
            "mode {id} waits for nobody: `naka mode on` asks for it"
        )));
    };
    if let Some(why) = same(&snapshot, &call.subject, &switch.approvals) {
        return Err(Problem::forbidden(why));
    }
    switch.approvals.push(call.subject.name.clone());
    begin(&mut switch, mode, now_ms());
    remember(call, &id, &switch, mode).await
}

/// Why a subject is nobody else than those who want it already.
fn same(snapshot: &Snapshot, subject: &Subject, wanted: &[String]) -> Option<String> {
    if wanted.contains(&subject.name) {
        return Some(format!(
            "{} wants it already: somebody else must approve",
            subject.name
        ));
    }
    let maker = |name: &str| {
        let token = name.strip_prefix("token:")?;
        let grant = snapshot.record(TOKEN_RECORD, token)?;
        grant.get("created_by")?.as_str().map(str::to_owned)
    };
    let own = maker(&subject.name).filter(|maker| wanted.contains(maker));
    let theirs = wanted
        .iter()
        .find(|other| maker(other).as_deref() == Some(&subject.name));
    let other = own.as_ref().or(theirs)?;
    Some(format!(
        "one of {} and {other} made the other's token: that is one person",
        subject.name
    ))
}

/// `POST modes/<namespace>/<name>/off`: one who may switch it is enough to end it.
pub(crate) async fn off(call: &Call, namespace: &str, name: &str, ended: Ended) -> Outcome {
    let _switching = call.state.switching.lock().await;
    let snapshot = call.state.store.snapshot();
    let (object, _) = found(call, &snapshot, (namespace, name), "switch this mode off")?;
    let id = id(object);
    if switch(&snapshot, &id).is_none() {
        return Err(Problem::conflict(format!("mode {id} is not on")));
    }
    let draft = Draft::record(
        &call.subject.name,
        &ended.why,
        "mode.off",
        RECORD,
        &id,
        None,
    );
    let commit = call.state.store.commit(vec![draft]).await?;
    Ok(ok(&json!({"mode": id, "revision": commit.revision})))
}
