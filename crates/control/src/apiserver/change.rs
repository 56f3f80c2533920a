//! Changes as one: apply, diff, undo.

use super::answer::{Outcome, Problem, ok};
use super::auth::Role;
use super::confirm;
use super::dispatch::Call;
use super::objects::write_role;
use naka_api::{Kind, Mode, Object};
use naka_store::{Draft, Preview, Snapshot};
use naka_types::finding::Finding;
use naka_types::name::ObjectRef;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod prune;

/// Longest time a change waits for its confirmation: a day.
const MAX_CONFIRM: u64 = 24 * 3600;
/// Most objects of one apply.
const MAX_OBJECTS: usize = 20_000;

/// Body of `apply` and `diff`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Request {
    objects: Vec<Value>,
    dry_run: bool,
    confirm_seconds: Option<u64>,
    cause: String,
    namespace: String,
    /// Set these objects are: those given with it before and missing now are deleted.
    prune: Option<String>,
}

/// Body of `undo`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Undo {
    revision: Option<u64>,
    cause: String,
}

/// Objects of a request: those that decode, and what was found.
struct Read {
    /// One entry per object given: its name, and the object if sound.
    given: Vec<(String, Option<Object>)>,
    findings: Vec<Finding>,
}

fn read(call: &Call, request: &Request) -> Outcome<Read> {
    if request.objects.len() > MAX_OBJECTS {
        return Err(Problem::bad_request(format!(
            "at most {MAX_OBJECTS} objects at once"
        )));
    }
    let namespace = if request.namespace.is_empty() {
        "default"
    } else {
        &request.namespace
    };
    let mut read = Read {
        given: Vec::new(),
        findings: Vec::new(),
    };
    for (index, value) in request.objects.iter().enumerate() {
        let (object, findings) = naka_api::decode_json_in(value, Mode::Compat, namespace);
        read.findings.extend(findings);
        let name = match &object {
            Some(object) => {
                let place = if object.kind.namespaced() {
                    object.meta.namespace.as_str()
                } else {
                    ""
                };
                let what = format!("change {}", object.kind.names().plural);
                call.subject.need(write_role(object.kind), place, &what)?;
                object.reference().to_string()
            }
            None => name_of(value, namespace).unwrap_or_else(|| format!("objects[{index}]")),
        };
        read.given.push((name, object));
    }
    Ok(read)
}

/// Name of an object that does not decode, as far as it has one.
fn name_of(value: &Value, namespace: &str) -> Option<String> {
    let kind = value.get("kind")?.as_str()?;
    let name = value.pointer("/metadata/name")?.as_str()?;
    let version = value
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or("");
    let known = Kind::of_manifest(kind, version);
    let kind = known.map_or_else(|| kind.to_owned(), |known| known.as_str().to_owned());
    let namespaced = known.is_none_or(Kind::namespaced);
    let own = value
        .pointer("/metadata/namespace")
        .and_then(Value::as_str)
        .unwrap_or(namespace);
    let namespace = if namespaced { own } else { "" };
    let object = ObjectRef {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    Some(object.to_string())
}

impl Read {
    fn drafts(&self, actor: &str, cause: &str) -> Vec<Draft> {
        let sound = self.given.iter().filter_map(|(_, object)| object.as_ref());
        sound
            .map(|object| Draft::put(actor, cause, object.reference(), object.raw.clone()))
            .collect()
    }

    /// Results in the order given; `actions` are those of the sound objects.
    fn results<'a>(&self, mut actions: impl Iterator<Item = &'a str>) -> Vec<Value> {
        let result = |(name, object): &(String, Option<Object>)| {
            let action = match object {
                Some(_) => actions.next().unwrap_or("unchanged"),
                None => "invalid",
            };
            json!({"object": name, "action": action})
        };
        self.given.iter().map(result).collect()
    }

    /// Adds what is wrong between these objects and the rest of the mesh.
    fn cross_check(&mut self, after: &Snapshot) {
        let own: BTreeSet<String> = self.given.iter().map(|(name, _)| name.clone()).collect();
        let all: Vec<&Object> = after.objects.values().map(AsRef::as_ref).collect();
        let found = naka_api::cross_check(&all);
        self.findings.extend(
            found
                .into_iter()
                .filter(|finding| own.contains(&finding.object)),
        );
    }
}

/// `POST apply`: all sound objects in one commit.
pub(crate) async fn apply(call: &Call, request: Request) -> Outcome {
    let mut read = read(call, &request)?;
    let actor = call.subject.name.clone();
    let cause: String = request.cause.chars().take(500).collect();
    let store = &call.state.store;
    let mut drafts = read.drafts(&actor, &cause);
    if let Some(set) = &request.prune {
        drafts = prune::drafts(call, set, &read, drafts, &cause)?;
    }
    let gone = prune::named(&drafts);
    let preview = store.preview(drafts.clone())?;
    read.cross_check(&preview.after);
    if request.dry_run {
        let mut results = read.results(preview.actions.iter().map(|action| action.word()));
        results.extend(prune::results(&gone));
        return Ok(ok(&json!({
            "revision": store.snapshot().revision, "dry_run": true, "results": results, "findings": read.findings,
        })));
    }
    let sound = read
        .given
        .iter()
        .filter(|(_, object)| object.is_some())
        .count();
    let changes = !preview.events.is_empty();
    let waiting = match request.confirm_seconds.filter(|_| changes) {
        None => None,
        Some(seconds) => {
            let objects = changed(&preview);
            let after = Arc::new(preview.after);
            let waiting = confirm::prepare(
                &call.state,
                &actor,
                seconds.clamp(1, MAX_CONFIRM),
                after,
                objects,
            )
            .await;
            drafts.push(waiting.draft(&actor));
            Some(waiting)
        }
    };
    let commit = store.commit(drafts).await?;
    let mut results = read.results(
        commit
            .actions
            .iter()
            .take(sound)
            .map(|action| action.word()),
    );
    results.extend(prune::results(&gone));
    let mut answer =
        json!({"revision": commit.revision, "results": results, "findings": read.findings});
    if let Some(waiting) = waiting {
        answer["confirm"] = waiting.shown();
        confirm::start(&call.state, waiting, commit.revision);
    }
    Ok(ok(&answer))
}

fn changed(preview: &Preview) -> Vec<ObjectRef> {
    let objects: BTreeSet<ObjectRef> = preview
        .events
        .iter()
        .filter_map(|event| event.object.clone())
        .collect();
    objects.into_iter().collect()
}

/// `POST diff`: field changes and effect of an apply that does not happen.
pub(crate) async fn diff(call: &Call, request: Request) -> Outcome {
    if request.prune.is_some() {
        return Err(Problem::bad_request(
            "a diff does not prune: use apply with dry_run",
        ));
    }
    let mut read = read(call, &request)?;
    let before = call.state.store.snapshot();
    let preview = call
        .state
        .store
        .preview(read.drafts(&call.subject.name, ""))?;
    read.cross_check(&preview.after);
    let objects = changed(&preview);
    let after = Arc::new(preview.after);
    let effects = call
        .state
        .live
        .effect(before.clone(), after.clone(), objects.clone())
        .await;
    let mut effects = objects
        .iter()
        .cloned()
        .zip(effects)
        .collect::<BTreeMap<_, _>>();
    let changes: Vec<Value> = objects
        .iter()
        .map(|object| {
            let fields = naka_api::diff(before.value(object), after.value(object));
            let effect = effects.remove(object).unwrap_or_default();
            json!({"object": object.to_string(), "fields": fields, "effect": effect})
        })
        .collect();
    Ok(ok(
        &json!({"revision": before.revision, "changes": changes, "findings": read.findings}),
    ))
}

/// `POST undo`: takes a revision back; without one the newest change.
pub(crate) async fn undo(call: &Call, request: Undo) -> Outcome {
    let store = &call.state.store;
    let revision = match request.revision {
        Some(revision) => revision,
        None => store
            .last_change()?
            .ok_or_else(|| Problem::not_found("nothing has changed yet"))?,
    };
    let cause = if request.cause.is_empty() {
        format!("undo of revision {revision}")
    } else {
        request.cause
    };
    let drafts = store.undo(revision, &call.subject.name, &cause)?;
    let mut names = Vec::new();
    for draft in &drafts {
        let object = draft.object.as_ref();
        let kind = object.and_then(|object| Kind::parse(&object.kind));
        let place = object.map_or("", |object| object.namespace.as_str());
        call.subject.need(
            kind.map_or(Role::Admin, write_role),
            place,
            "undo this change",
        )?;
        names.extend(object.map(ToString::to_string));
    }
    let commit = store.commit(drafts).await?;
    let results: Vec<Value> = names
        .iter()
        .zip(&commit.actions)
        .map(|(object, action)| json!({"object": object, "action": action.word()}))
        .collect();
    Ok(ok(
        &json!({"revision": commit.revision, "undone": revision, "results": results}),
    ))
}
