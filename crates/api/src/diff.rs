//! Field changes between two versions of an object, for `diff`, `history` and the log.

use crate::object::REDACTED;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One changed field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldChange {
    /// For example `spec.http[canary].route[1].weight`: items with a name go by it, others by index.
    pub path: String,
    /// Value before; absent = was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// Value after; absent = is not there any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// Server-set metadata, which is no change of the user's.
const SERVER_SET: &[&str] = &[
    "uid",
    "generation",
    "resourceVersion",
    "creationTimestamp",
    "managedFields",
    "selfLink",
];

/// Changes from `before` to `after`, smallest fields first named; `None` = the object does not exist. Server-set
/// metadata and status are left out; values of a Secret are replaced by `(redacted)`.
#[must_use]
pub fn diff(before: Option<&Value>, after: Option<&Value>) -> Vec<FieldChange> {
    let is_secret = |value: Option<&Value>| {
        value.and_then(|v| v.get("kind")).and_then(Value::as_str) == Some("Secret")
    };
    let secret = is_secret(before) || is_secret(after);
    let mut out = Vec::new();
    let (before, after) = (before.map(cleaned), after.map(cleaned));
    compare(&mut out, String::new(), before.as_ref(), after.as_ref());
    if secret {
        out.iter_mut().for_each(redact);
    }
    out
}

fn cleaned(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(all) = value.as_object_mut() {
        all.remove("status");
        if let Some(metadata) = all.get_mut("metadata").and_then(Value::as_object_mut) {
            for key in SERVER_SET {
                metadata.remove(*key);
            }
        }
    }
    value
}

/// Values below `data`, `stringData` and annotations (`kubectl apply` keeps a copy there).
fn redact(change: &mut FieldChange) {
    let values = [&mut change.before, &mut change.after]
        .into_iter()
        .flatten();
    if change.path == "metadata" {
        for value in values {
            if let Some(annotations) = value.get_mut("annotations") {
                *annotations = Value::String(REDACTED.to_owned());
            }
        }
    } else if ["", "data", "stringData", "metadata.annotations"]
        .iter()
        .any(|secret| {
            change.path.strip_prefix(secret).is_some_and(|rest| {
                rest.is_empty() || (!secret.is_empty() && rest.starts_with(['.', '[']))
            })
        })
    {
        values.for_each(|value| *value = Value::String(REDACTED.to_owned()));
    }
}

fn compare(
    out: &mut Vec<FieldChange>,
    path: String,
    before: Option<&Value>,
    after: Option<&Value>,
) {
    if before == after {
        return;
    }
    let empty = Map::new();
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => compare_maps(out, &path, old, new),
        // A new or removed object is shown field by field on its first level, so that headers stay readable.
        (None, Some(Value::Object(new))) if path.is_empty() => {
            compare_maps(out, &path, &empty, new)
        }
        (Some(Value::Object(old)), None) if path.is_empty() => {
            compare_maps(out, &path, old, &empty)
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => compare_lists(out, &path, old, new),
        _ => out.push(FieldChange {
            path,
            before: before.cloned(),
            after: after.cloned(),
        }),
    }
}

fn compare_maps(
    out: &mut Vec<FieldChange>,
    path: &str,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
) {
    let mut keys: Vec<&String> = old
        .keys()
        .chain(new.keys().filter(|key| !old.contains_key(*key)))
        .collect();
    keys.sort();
    for key in keys {
        compare(
            out,
            crate::tree::join(path, key),
            old.get(key),
            new.get(key),
        );
    }
}

/// Name of a list item, when each item of the list has one of its own.
fn names(items: &[Value]) -> Option<Vec<&str>> {
    let all: Option<Vec<&str>> = items
        .iter()
        .map(|item| item.get("name").and_then(Value::as_str))
        .collect();
    let all = all?;
    let mut sorted = all.clone();
    sorted.sort_unstable();
    sorted.dedup();
    (sorted.len() == all.len()).then_some(all)
}

fn compare_lists(out: &mut Vec<FieldChange>, path: &str, old: &[Value], new: &[Value]) {
    if let (Some(old_names), Some(new_names)) = (names(old), names(new)) {
        for (name, item) in old_names.iter().zip(old) {
            let other = new_names
                .iter()
                .position(|other| other == name)
                .map(|index| &new[index]);
            compare(out, format!("{path}[{name}]"), Some(item), other);
        }
        for (name, item) in new_names
            .iter()
            .zip(new)
            .filter(|(name, _)| !old_names.contains(name))
        {
            compare(out, format!("{path}[{name}]"), None, Some(item));
        }
        let kept = |names: &[&str], others: &[&str]| -> Vec<String> {
            names
                .iter()
                .filter(|name| others.contains(name))
                .map(|name| (*name).to_owned())
                .collect()
        };
        let (before, after) = (kept(&old_names, &new_names), kept(&new_names, &old_names));
        if before != after {
            // The order of routes decides, so moving one is a change even if none differs.
            out.push(FieldChange {
                path: format!("{path} (order)"),
                before: Some(before.into()),
                after: Some(after.into()),
            });
        }
        return;
    }
    for index in 0..old.len().max(new.len()) {
        compare(
            out,
            format!("{path}[{index}]"),
            old.get(index),
            new.get(index),
        );
    }
}
