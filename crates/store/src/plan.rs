//! From drafts to events: preconditions, server-set metadata, sealing, no-ops. Pure but for random ids.
//!
//! The drafts of one commit see each other; nothing is applied to the state here, so a refused commit leaves no trace.

use crate::event::{Action, DELETE, Draft, Event, PUT, RecordKey};
use crate::fold::Snapshot;
use crate::owned::{self, Owned};
use crate::seal::{Sealer, is_secret};
use crate::{Error, stamp};
use naka_types::name::ObjectRef;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The events of a commit (hashes not yet set) and what became of each draft.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) events: Vec<Event>,
    pub(crate) actions: Vec<Action>,
}

/// Plans one commit on top of `state`.
pub(crate) fn plan(
    state: &Snapshot,
    sealer: &Sealer,
    owned: &Owned,
    drafts: Vec<Draft>,
    now_ms: u64,
) -> Result<Planned, Error> {
    let mut planner = Planner {
        state,
        sealer,
        owned,
        objects: BTreeMap::new(),
        records: BTreeMap::new(),
        events: Vec::new(),
    };
    let actions = drafts
        .into_iter()
        .map(|draft| planner.draft(draft, now_ms))
        .collect::<Result<_, _>>()?;
    let mut events = planner.events;
    let revision = state.revision + events.len() as u64;
    for event in &mut events {
        event.revision = revision;
    }
    Ok(Planned { events, actions })
}

struct Planner<'a> {
    state: &'a Snapshot,
    sealer: &'a Sealer,
    owned: &'a Owned,
    /// What this commit has already done.
    objects: BTreeMap<ObjectRef, Option<Value>>,
    records: BTreeMap<RecordKey, Option<Value>>,
    events: Vec<Event>,
}

impl Planner<'_> {
    fn draft(&mut self, draft: Draft, now_ms: u64) -> Result<Action, Error> {
        match (draft.kind.as_str(), &draft.object, &draft.record) {
            (PUT, Some(_), None) => self.put(draft, now_ms),
            (DELETE, Some(_), None) => self.delete(draft, now_ms),
            (kind, _, _) if kind.starts_with("object.") => Err(Error::Invalid(format!(
                "an event of kind {kind} needs an object and no record"
            ))),
            (_, _, Some(_)) => Ok(self.record(draft, now_ms)),
            _ => {
                let after = draft.after.clone();
                self.push(draft, now_ms, None, after);
                Ok(Action::Recorded)
            }
        }
    }

    fn put(&mut self, mut draft: Draft, now_ms: u64) -> Result<Action, Error> {
        let object = draft
            .object
            .clone()
            .expect("invariant: matched by the caller");
        self.owned.check(&object, &draft.actor)?;
        let before = self.object(&object).cloned();
        check_expectation(&draft, &object, before.as_ref())?;
        let mut after = draft
            .after
            .take()
            .ok_or_else(|| Error::Invalid(format!("{object}: nothing to put")))?;
        if is_secret(&object) {
            self.sealer.seal(&object, &mut after, before.as_ref())?;
        }
        let time = if draft.time_ms == 0 {
            now_ms
        } else {
            draft.time_ms
        };
        finish(&object, &mut after, before.as_ref(), &draft.actor, time)?;
        let action = match &before {
            Some(before) if same_but_revision(before, &after) => return Ok(Action::Unchanged),
            Some(_) => Action::Configured,
            None => Action::Created,
        };
        let mut seen = after.clone();
        set_meta(
            &mut seen,
            "resourceVersion",
            Value::String(self.next_seq().to_string()),
        );
        self.objects.insert(object, Some(seen));
        self.push(draft, now_ms, before, Some(after));
        Ok(action)
    }

    fn delete(&mut self, draft: Draft, now_ms: u64) -> Result<Action, Error> {
        let object = draft
            .object
            .clone()
            .expect("invariant: matched by the caller");
        let Some(before) = self.object(&object).cloned() else {
            return Err(Error::NotFound(object));
        };
        self.owned.check(&object, &draft.actor)?;
        check_expectation(&draft, &object, Some(&before))?;
        self.objects.insert(object, None);
        self.push(draft, now_ms, Some(before), None);
        Ok(Action::Deleted)
    }

    fn record(&mut self, draft: Draft, now_ms: u64) -> Action {
        let key = draft
            .record
            .clone()
            .expect("invariant: matched by the caller");
        let before = match self.records.get(&key) {
            Some(own) => own.clone(),
            None => self
                .state
                .records
                .get(&key)
                .map(|value| value.as_ref().clone()),
        };
        if before == draft.after {
            return Action::Unchanged;
        }
        let after = draft.after.clone();
        self.records.insert(key, after.clone());
        self.push(draft, now_ms, before, after);
        Action::Recorded
    }

    fn object(&self, object: &ObjectRef) -> Option<&Value> {
        match self.objects.get(object) {
            Some(own) => own.as_ref(),
            None => self.state.value(object),
        }
    }

    fn next_seq(&self) -> u64 {
        self.state.revision + self.events.len() as u64 + 1
    }

    fn push(&mut self, draft: Draft, now_ms: u64, before: Option<Value>, after: Option<Value>) {
        let seq = self.next_seq();
        self.events.push(Event {
            seq,
            revision: seq,
            time_ms: if draft.time_ms == 0 {
                now_ms
            } else {
                draft.time_ms
            },
            actor: draft.actor,
            cause: draft.cause,
            kind: draft.kind,
            object: draft.object,
            record: draft.record,
            before,
            after,
            prev_hash: [0; 32],
        });
    }
}

/// resourceVersion of a stored value; 0 when it has none.
pub(crate) fn revision_of(value: &Value) -> u64 {
    value
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn check_expectation(
    draft: &Draft,
    object: &ObjectRef,
    before: Option<&Value>,
) -> Result<(), Error> {
    match (draft.expect, before) {
        (None, _) | (Some(0), None) => Ok(()),
        (Some(0), Some(_)) => Err(Error::AlreadyExists(object.clone())),
        (Some(_), None) => Err(Error::NotFound(object.clone())),
        (Some(expected), Some(before)) if revision_of(before) == expected => Ok(()),
        (Some(expected), Some(before)) => Err(Error::Conflict {
            object: object.clone(),
            expected,
            actual: revision_of(before),
        }),
    }
}

/// Sets what only the server sets, and drops what never enters the log.
fn finish(
    object: &ObjectRef,
    after: &mut Value,
    before: Option<&Value>,
    actor: &str,
    time_ms: u64,
) -> Result<(), Error> {
    let invalid = |why: &str| Error::Invalid(format!("{object}: {why}"));
    let map = after
        .as_object_mut()
        .ok_or_else(|| invalid("not an object"))?;
    map.remove("status");
    let meta = map
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
        .ok_or_else(|| invalid("metadata is not an object"))?;
    for field in [
        "resourceVersion",
        "managedFields",
        "selfLink",
        "generation",
        "uid",
        "creationTimestamp",
    ] {
        meta.remove(field);
    }
    meta.insert("name".to_owned(), Value::String(object.name.clone()));
    if object.namespace.is_empty() {
        meta.remove("namespace");
    } else {
        meta.insert(
            "namespace".to_owned(),
            Value::String(object.namespace.clone()),
        );
    }
    owned::mark(meta, actor);
    for field in ["labels", "annotations"] {
        if meta
            .get(field)
            .is_some_and(|map| map.is_null() || map == &json!({}))
        {
            meta.remove(field);
        }
    }
    let kept =
        |field: &str| before.and_then(|before| before.pointer(&format!("/metadata/{field}")));
    let (uid, created) = (kept("uid").cloned(), kept("creationTimestamp").cloned());
    let generation = kept("generation").and_then(Value::as_u64).unwrap_or(0);
    let uid = match uid {
        Some(uid) => uid,
        None => Value::String(stamp::uid().map_err(|why| invalid(&why))?),
    };
    let created = created.unwrap_or_else(|| Value::String(stamp::rfc3339(time_ms)));
    set_meta(after, "uid", uid);
    set_meta(after, "creationTimestamp", created);
    let changed = before.is_none_or(|before| !same_spec(before, after));
    set_meta(after, "generation", json!(generation + u64::from(changed)));
    Ok(())
}

fn set_meta(value: &mut Value, field: &str, to: Value) {
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.insert(field.to_owned(), to);
    }
}

/// Equal in everything but metadata.
fn same_spec(one: &Value, two: &Value) -> bool {
    let (Some(one), Some(two)) = (one.as_object(), two.as_object()) else {
        return one == two;
    };
    let rest =
        |map: &Map<String, Value>| map.keys().filter(|key| key.as_str() != "metadata").count();
    rest(one) == rest(two)
        && one
            .iter()
            .filter(|(key, _)| key.as_str() != "metadata")
            .all(|(key, value)| two.get(key) == Some(value))
}

/// Equal in everything but the resourceVersion, which only the stored side has.
fn same_but_revision(stored: &Value, new: &Value) -> bool {
    let meta = |value: &Value| {
        let mut meta = value.get("metadata").cloned().unwrap_or_default();
        if let Some(meta) = meta.as_object_mut() {
            meta.remove("resourceVersion");
        }
        meta
    };
    same_spec(stored, new) && meta(stored) == meta(new)
}
