//! Events as callers see them, and drafts from which they are made.

use naka_types::name::ObjectRef;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// Event kind of a created or changed object.
pub(crate) const PUT: &str = "object.put";
/// Event kind of a deleted object.
pub(crate) const DELETE: &str = "object.delete";
/// Event kind that records what a recovery lost.
pub(crate) const LOSS: &str = "store.loss";

/// Key of a record that is not an object, for example `("token", "01H…")`.
pub type RecordKey = (String, String);

/// One thing that happened. Immutable once written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the log, from 1 without gaps. For an object event also the object's new resourceVersion.
    pub seq: u64,
    /// Sequence number of the last event of the commit this one belongs to.
    #[serde(rename = "rev")]
    pub revision: u64,
    /// Milliseconds since 1970.
    #[serde(rename = "time")]
    pub time_ms: u64,
    /// Who did it, for example `user:asha` or `system`.
    pub actor: String,
    /// Why, in the actor's words; may be empty.
    #[serde(default)]
    pub cause: String,
    /// What happened: `object.put`, `object.delete`, `token.create`, `registration.join`, …
    pub kind: String,
    /// Object concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
    /// Record concerned; events that carry one are folded into [`crate::Snapshot::records`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordKey>,
    /// Value before, absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// Value after, absent when it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// SHA-256 of the stored line of the event before; zeros for the first.
    #[serde(rename = "prev", with = "hex32")]
    pub prev_hash: [u8; 32],
}

impl Event {
    /// Whether this event changes an object.
    #[must_use]
    pub fn is_object(&self) -> bool {
        self.record.is_none() && (self.kind == PUT || self.kind == DELETE)
    }
}

/// What somebody wants to happen. The store adds sequence, time, previous value and chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// Who, for example `user:asha`.
    pub actor: String,
    /// Why; may be empty.
    pub cause: String,
    /// What: see [`Event::kind`].
    pub kind: String,
    /// Object concerned.
    pub object: Option<ObjectRef>,
    /// Record concerned.
    pub record: Option<RecordKey>,
    /// New value; for objects the whole object as JSON.
    pub after: Option<Value>,
    /// Precondition on the object's resourceVersion; `Some(0)` = it must not exist yet.
    pub expect: Option<u64>,
    /// Time in milliseconds since 1970; 0 = when it is committed.
    pub time_ms: u64,
}

impl Draft {
    fn new(actor: &str, cause: &str, kind: &str) -> Self {
        Self {
            actor: actor.to_owned(),
            cause: cause.to_owned(),
            kind: kind.to_owned(),
            object: None,
            record: None,
            after: None,
            expect: None,
            time_ms: 0,
        }
    }

    /// Creates or replaces an object. `value` is the whole object; server-set metadata in it is ignored.
    #[must_use]
    pub fn put(actor: &str, cause: &str, object: ObjectRef, value: Value) -> Self {
        Self {
            object: Some(object),
            after: Some(value),
            ..Self::new(actor, cause, PUT)
        }
    }

    /// Deletes an object.
    #[must_use]
    pub fn delete(actor: &str, cause: &str, object: ObjectRef) -> Self {
        Self {
            object: Some(object),
            ..Self::new(actor, cause, DELETE)
        }
    }

    /// Sets (`Some`) or removes (`None`) the record (`record_kind`, `id`). `kind` is the event's kind, for example
    /// `token.create`. Setting an equal value makes no event.
    #[must_use]
    pub fn record(
        actor: &str,
        cause: &str,
        kind: &str,
        record_kind: &str,
        id: &str,
        value: Option<Value>,
    ) -> Self {
        Self {
            record: Some((record_kind.to_owned(), id.to_owned())),
            after: value,
            ..Self::new(actor, cause, kind)
        }
    }

    /// Something worth remembering that changes no state.
    #[must_use]
    pub fn note(
        actor: &str,
        cause: &str,
        kind: &str,
        object: Option<ObjectRef>,
        value: Value,
    ) -> Self {
        Self {
            object,
            after: Some(value),
            ..Self::new(actor, cause, kind)
        }
    }

    /// Requires the object to be at this resourceVersion; 0 = not to exist.
    #[must_use]
    pub fn expecting(mut self, resource_version: Option<u64>) -> Self {
        self.expect = resource_version;
        self
    }
}

/// What became of one draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A new object.
    Created,
    /// A changed object.
    Configured,
    /// Equal to what was there: no event.
    Unchanged,
    /// A deleted object.
    Deleted,
    /// A record or note.
    Recorded,
}

impl Action {
    /// The word `apply` prints.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
            Self::Recorded => "recorded",
        }
    }
}

/// What a commit did. It is on disk.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The state's revision after it; unchanged if nothing changed.
    pub revision: u64,
    /// The events made, in order.
    pub events: Vec<Arc<Event>>,
    /// One entry per draft, in order.
    pub actions: Vec<Action>,
}

/// Which events a query wants; empty fields match everything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this kind of object.
    pub object_kind: Option<String>,
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only this name.
    pub name: Option<String>,
    /// Only event kinds that start with this, for example `object.`.
    pub kind_prefix: Option<String>,
}

impl Filter {
    /// Events of one object.
    #[must_use]
    pub fn object(object: &ObjectRef) -> Self {
        Self {
            object_kind: Some(object.kind.clone()),
            namespace: Some(object.namespace.clone()),
            name: Some(object.name.clone()),
            kind_prefix: None,
        }
    }

    /// Whether an event matches.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        let object = event.object.as_ref();
        let is = |want: &Option<String>, have: Option<&String>| {
            want.as_ref().is_none_or(|want| Some(want) == have)
        };
        is(&self.object_kind, object.map(|o| &o.kind))
            && is(&self.namespace, object.map(|o| &o.namespace))
            && is(&self.name, object.map(|o| &o.name))
            && self
                .kind_prefix
                .as_ref()
                .is_none_or(|prefix| event.kind.starts_with(prefix.as_str()))
    }
}

/// 32 bytes as lower-case hex.
pub(crate) mod hex32 {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use std::fmt::Write;

    pub(crate) fn text(bytes: &[u8]) -> String {
        bytes
            .iter()
            .fold(String::with_capacity(64), |mut text, byte| {
                write!(text, "{byte:02x}").expect("invariant: writing to a String cannot fail");
                text
            })
    }

    pub(crate) fn parse(text: &str) -> Option<[u8; 32]> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(bytes)
    }

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8; 32], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&text(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(input)?;
        parse(&text).ok_or_else(|| de::Error::custom("expected 64 hex digits"))
    }
}
