//! State as the fold of events.
//!
//! Two forms of the same fold: [`Folded`] holds plain JSON and is used for replay, where most values are overwritten
//! before anybody looks at them; [`Snapshot`] holds decoded objects and is what the running process hands out.

use crate::event::{DELETE, Event, PUT, RecordKey};
use naka_api::Object;
use naka_types::name::ObjectRef;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The state at one revision. Immutable; cloning costs three reference counts.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Sequence number of the last event in it: the store-wide resourceVersion.
    pub revision: u64,
    /// Objects, decoded; [`Object::raw`] is the stored JSON with its resourceVersion. Secret values in it are sealed.
    pub objects: Arc<BTreeMap<ObjectRef, Arc<Object>>>,
    /// Everything that is not an object: tokens, registrations, …
    pub records: Arc<BTreeMap<RecordKey, Arc<Value>>>,
    /// Stored objects this version cannot decode (written by another version). Kept, listed, not in force.
    pub unreadable: Arc<BTreeMap<ObjectRef, Arc<Value>>>,
}

impl Snapshot {
    /// The stored JSON of an object.
    #[must_use]
    pub fn value(&self, object: &ObjectRef) -> Option<&Value> {
        self.objects
            .get(object)
            .map(|object| &object.raw)
            .or_else(|| self.unreadable.get(object).map(AsRef::as_ref))
    }

    /// The stored JSON of everything that is an object, also of what cannot be decoded.
    pub fn values(&self) -> impl Iterator<Item = (&ObjectRef, &Value)> {
        let readable = self.objects.iter().map(|(key, object)| (key, &object.raw));
        readable.chain(self.unreadable.iter().map(|(key, raw)| (key, &**raw)))
    }

    /// The records of a kind, by id.
    pub fn records_of<'a>(
        &'a self,
        kind: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Arc<Value>)> {
        self.records
            .range((kind.to_owned(), String::new())..)
            .take_while(move |((have, _), _)| have == kind)
            .map(|((_, id), value)| (id.as_str(), value))
    }

    /// One record.
    #[must_use]
    pub fn record(&self, kind: &str, id: &str) -> Option<&Arc<Value>> {
        self.records.get(&(kind.to_owned(), id.to_owned()))
    }

    /// Adds one event.
    pub(crate) fn apply(&mut self, event: &Event) {
        self.revision = event.seq;
        match Change::of(event) {
            Change::Put(key, value) => self.put(key, value),
            Change::Delete(key) => {
                Arc::make_mut(&mut self.objects).remove(key);
                if self.unreadable.contains_key(key) {
                    Arc::make_mut(&mut self.unreadable).remove(key);
                }
            }
            Change::Record(key, Some(value)) => {
                Arc::make_mut(&mut self.records).insert(key.clone(), Arc::new(value.clone()));
            }
            Change::Record(key, None) => {
                Arc::make_mut(&mut self.records).remove(key);
            }
            Change::None => {}
        }
    }

    fn put(&mut self, key: &ObjectRef, value: Value) {
        match naka_api::decode_json(&value, naka_api::Mode::Compat).0 {
            Some(object) => {
                Arc::make_mut(&mut self.objects).insert(key.clone(), Arc::new(object));
                if self.unreadable.contains_key(key) {
                    Arc::make_mut(&mut self.unreadable).remove(key);
                }
            }
            None => {
                Arc::make_mut(&mut self.objects).remove(key);
                Arc::make_mut(&mut self.unreadable).insert(key.clone(), Arc::new(value));
            }
        }
    }
}

/// The state as JSON.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Folded {
    pub(crate) revision: u64,
    pub(crate) objects: BTreeMap<ObjectRef, Value>,
    pub(crate) records: BTreeMap<RecordKey, Value>,
}

impl Folded {
    /// Adds one event.
    pub(crate) fn apply(&mut self, event: &Event) {
        self.revision = event.seq;
        match Change::of(event) {
            Change::Put(key, value) => {
                self.objects.insert(key.clone(), value);
            }
            Change::Delete(key) => {
                self.objects.remove(key);
            }
            Change::Record(key, Some(value)) => {
                self.records.insert(key.clone(), value.clone());
            }
            Change::Record(key, None) => {
                self.records.remove(key);
            }
            Change::None => {}
        }
    }

    /// Decodes every object.
    pub(crate) fn decode(self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (key, value) in self.objects {
            snapshot.put(&key, value);
        }
        snapshot.revision = self.revision;
        snapshot.records = Arc::new(
            self.records
                .into_iter()
                .map(|(key, value)| (key, Arc::new(value)))
                .collect(),
        );
        snapshot
    }
}

impl From<&Snapshot> for Folded {
    fn from(snapshot: &Snapshot) -> Self {
        let readable = snapshot
            .objects
            .iter()
            .map(|(key, object)| (key, &object.raw));
        let unreadable = snapshot
            .unreadable
            .iter()
            .map(|(key, value)| (key, value.as_ref()));
        Self {
            revision: snapshot.revision,
            objects: readable
                .chain(unreadable)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            records: snapshot
                .records
                .iter()
                .map(|(key, value)| (key.clone(), value.as_ref().clone()))
                .collect(),
        }
    }
}

/// What an event does to the state.
enum Change<'a> {
    Put(&'a ObjectRef, Value),
    Delete(&'a ObjectRef),
    Record(&'a RecordKey, Option<&'a Value>),
    None,
}

impl<'a> Change<'a> {
    fn of(event: &'a Event) -> Self {
        match (
            &event.record,
            &event.object,
            event.kind.as_str(),
            &event.after,
        ) {
            (Some(key), _, _, after) => Self::Record(key, after.as_ref()),
            (None, Some(object), PUT, Some(after)) => {
                Self::Put(object, with_revision(after.clone(), event.seq))
            }
            (None, Some(object), DELETE, _) => Self::Delete(object),
            _ => Self::None,
        }
    }
}

/// The stored JSON plus its resourceVersion, which is not stored because it is the event's own number.
fn with_revision(mut value: Value, seq: u64) -> Value {
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.insert("resourceVersion".to_owned(), Value::String(seq.to_string()));
    }
    value
}
