//! `apply --prune`: what was applied with a set before and is not in it any more is deleted, in the same change.
//!
//! Membership is an annotation that a pruning apply writes; a plain apply writes none, so it takes an object out of its
//! set. Nothing else is ever deleted: not what another set, a plain apply, kubectl or a watched directory gave.

use super::super::answer::{Outcome, Problem};
use super::super::dispatch::Call;
use super::Read;
use crate::apiserver::objects::write_role;
use crate::source::stays;
use naka_api::Kind;
use naka_store::{Draft, SOURCE};
use naka_types::name::ObjectRef;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Annotation that names the set an object was applied with.
const SET: &str = "naka.dev/apply-set";
/// Longest name of a set.
const MAX_NAME: usize = 500;

/// The drafts of a pruning apply: the objects with their set, then the deletions.
pub(super) fn drafts(
    call: &Call,
    set: &str,
    read: &Read,
    mut puts: Vec<Draft>,
    cause: &str,
) -> Outcome<Vec<Draft>> {
    if set.is_empty() || set.len() > MAX_NAME || set.chars().any(char::is_control) {
        let why = format!("the name of a set has 1 to {MAX_NAME} printable characters");
        return Err(Problem::bad_request(why));
    }
    if puts.is_empty() {
        let why = "an apply that prunes needs at least one sound object: nothing at all is more often a mistake";
        return Err(Problem::bad_request(why));
    }
    if let Some((bad, _)) = read.given.iter().find(|(_, object)| object.is_none()) {
        let why = format!("{bad} is invalid, so nobody knows what is missing: nothing is applied");
        return Err(Problem::bad_request(why));
    }
    let snapshot = call.state.store.snapshot();
    for draft in &mut puts {
        let object = draft.object.as_ref();
        let stored = object.and_then(|object| snapshot.value(object));
        if let Some((object, other)) = object.zip(stored.and_then(|raw| annotation(raw, SET)))
            && other != set
        {
            let why = format!(
                "{object} belongs to the set {other}: apply it with --prune={other}, or delete it first"
            );
            return Err(Problem::conflict(why).about(object));
        }
        mark(draft.after.as_mut(), set);
    }
    let given: BTreeSet<&ObjectRef> = puts.iter().filter_map(|put| put.object.as_ref()).collect();
    let gone: BTreeSet<&ObjectRef> = snapshot
        .values()
        .filter(|(key, raw)| {
            annotation(raw, SET) == Some(set)
                && annotation(raw, SOURCE).is_none()
                && !given.contains(key)
        })
        .map(|(key, _)| key)
        .collect();
    let mut deletes = Vec::new();
    for object in &gone {
        if stays(&snapshot, object, &gone) {
            continue;
        }
        let kind = Kind::parse(&object.kind);
        let role = kind.map_or(super::Role::Admin, write_role);
        call.subject
            .need(role, &object.namespace, "prune this object")?;
        deletes.push(Draft::delete(&call.subject.name, cause, (*object).clone()));
    }
    puts.extend(deletes);
    Ok(puts)
}

fn annotation<'a>(raw: &'a Value, name: &str) -> Option<&'a str> {
    let annotations = raw.get("metadata")?.get("annotations")?;
    annotations.get(name)?.as_str()
}

fn mark(raw: Option<&mut Value>, set: &str) {
    let meta = raw.and_then(|raw| raw.get_mut("metadata"));
    let Some(meta) = meta.and_then(Value::as_object_mut) else {
        return;
    };
    let annotations = meta
        .entry("annotations")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(SET.to_owned(), json!(set));
    }
}

/// Objects that these drafts delete.
pub(super) fn named(drafts: &[Draft]) -> Vec<String> {
    let deleted = drafts.iter().filter(|draft| draft.after.is_none());
    deleted
        .filter_map(|draft| draft.object.as_ref().map(ToString::to_string))
        .collect()
}

/// Their lines in the answer.
pub(super) fn results(gone: &[String]) -> impl Iterator<Item = Value> + '_ {
    gone.iter()
        .map(|object| json!({"object": object, "action": "pruned"}))
}
