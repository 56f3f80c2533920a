//! The typed Secret from a checked tree, and the form it is stored in.

use super::Secret;
use crate::decode::Report;
use crate::networking::read;
use crate::tree::{Node, join};
use base64::Engine as _;
use serde_json::{Map, Value};

/// Builds. No message shows a value.
pub(crate) fn build(report: &mut Report, node: &Node) -> Secret {
    let mut data = std::collections::BTreeMap::new();
    for entry in node.get("data").map(Node::entries).unwrap_or_default() {
        let at = join("data", &entry.key);
        check_key(report, entry, &at);
        if let Some(bytes) = read::base64(report, &entry.value, &at) {
            data.insert(entry.key.clone(), bytes);
        }
    }
    for entry in node
        .get("stringData")
        .map(Node::entries)
        .unwrap_or_default()
    {
        check_key(report, entry, &join("stringData", &entry.key));
        if let Some(text) = entry.value.text() {
            data.insert(entry.key.clone(), text.as_bytes().to_vec());
        }
    }
    Secret {
        kind: read::text(node.get("type")).unwrap_or_else(|| "Opaque".to_owned()),
        data,
    }
}

fn check_key(report: &mut Report, entry: &crate::tree::Entry, at: &str) {
    let sound = !entry.key.is_empty()
        && entry.key.len() <= 253
        && entry
            .key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !sound {
        report.error(
            crate::codes::E007,
            at,
            entry.place,
            "a key may hold letters, digits, '-', '_' and '.'".to_owned(),
            "rename the key".to_owned(),
        );
    }
}

/// `stringData` is write-only in Kubernetes: it is stored as base64 in `data`.
pub(crate) fn canonical(node: &Node) -> Value {
    let mut raw = node.to_json();
    let Some(all) = raw.as_object_mut() else {
        return raw;
    };
    if let Some(Value::Object(texts)) = all.remove("stringData") {
        let data = all
            .entry("data")
            .or_insert_with(|| Value::Object(Map::new()));
        if !data.is_object() {
            *data = Value::Object(Map::new());
        }
        if let Some(data) = data.as_object_mut() {
            for (key, value) in texts {
                if let Value::String(text) = value {
                    data.insert(
                        key,
                        Value::String(base64::engine::general_purpose::STANDARD.encode(text)),
                    );
                }
            }
        }
    }
    raw
}
