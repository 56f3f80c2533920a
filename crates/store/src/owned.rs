//! What a source of objects (a watched directory) owns: nobody else changes it.
//!
//! The check is made where a commit is planned, so every way into the store (apply, kubectl, undo, a timer) meets it,
//! in the order in which commits happen. Which source an object came from is kept with the object, as an annotation
//! that only the store sets: it is part of the state, and a restart knows what the source had given.
//!
//! Not here: reading the source.

use crate::Error;
use naka_types::name::ObjectRef;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Annotation that names the source an object came from. Set from the actor of the change, whatever a caller writes.
pub const SOURCE: &str = "naka.dev/source";
/// Actors that are sources start with this.
const PREFIX: &str = "dir:";

/// Objects that one source owns.
#[derive(Debug, Clone, Default)]
pub struct Owned {
    /// The source as the actor of its changes, for example `dir:/etc/naka/objects`.
    pub actor: String,
    /// Where each object stands, as `file:line`.
    pub places: BTreeMap<ObjectRef, String>,
}

impl Owned {
    /// Refuses a change of an owned object by anybody but its source.
    pub(crate) fn check(&self, object: &ObjectRef, actor: &str) -> Result<(), Error> {
        match self.places.get(object) {
            Some(place) if actor != self.actor => Err(Error::Owned {
                object: object.clone(),
                place: place.clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// Sets or removes [`SOURCE`].
pub(crate) fn mark(meta: &mut Map<String, Value>, actor: &str) {
    if actor.starts_with(PREFIX) {
        let annotations = meta
            .entry("annotations")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(SOURCE.to_owned(), Value::String(actor.to_owned()));
        }
    } else if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(SOURCE);
    }
}
