//! `google.protobuf.Struct` and Envoy's metadata: building and reading without the boilerplate.

use crate::envoy::config::core::v3::Metadata;
use crate::google::protobuf::{ListValue, Struct, Value, value::Kind};

/// A value that is a text.
#[must_use]
pub fn string(text: impl Into<String>) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.into())),
    }
}

/// A value that is true or false.
#[must_use]
pub fn bool(value: bool) -> Value {
    Value {
        kind: Some(Kind::BoolValue(value)),
    }
}

/// A value that is a number.
#[must_use]
pub fn number(value: f64) -> Value {
    Value {
        kind: Some(Kind::NumberValue(value)),
    }
}

/// A value that is a list.
#[must_use]
pub fn list(values: impl IntoIterator<Item = Value>) -> Value {
    Value {
        kind: Some(Kind::ListValue(ListValue {
            values: values.into_iter().collect(),
        })),
    }
}

/// A value that is a list of texts.
#[must_use]
pub fn strings<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Value {
    list(texts.into_iter().map(string))
}

/// A value that is a struct.
#[must_use]
pub fn nested(fields: Struct) -> Value {
    Value {
        kind: Some(Kind::StructValue(fields)),
    }
}

/// A struct of the given fields.
#[must_use]
pub fn fields<K: Into<String>>(pairs: impl IntoIterator<Item = (K, Value)>) -> Struct {
    Struct {
        fields: pairs
            .into_iter()
            .map(|(key, value)| (key.into(), value))
            .collect(),
    }
}

/// A struct whose values are all texts, as labels are.
#[must_use]
pub fn string_struct<K: Into<String>, V: Into<String>>(
    pairs: impl IntoIterator<Item = (K, V)>,
) -> Struct {
    fields(pairs.into_iter().map(|(key, text)| (key, string(text))))
}

/// The field, whatever it is.
#[must_use]
pub fn get<'a>(from: &'a Struct, key: &str) -> Option<&'a Kind> {
    from.fields.get(key)?.kind.as_ref()
}

/// The field if it is a text.
#[must_use]
pub fn get_str<'a>(from: &'a Struct, key: &str) -> Option<&'a str> {
    match get(from, key)? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The field if it is true or false.
#[must_use]
pub fn get_bool(from: &Struct, key: &str) -> Option<bool> {
    match get(from, key)? {
        Kind::BoolValue(value) => Some(*value),
        _ => None,
    }
}

/// The field if it is a struct.
#[must_use]
pub fn get_struct<'a>(from: &'a Struct, key: &str) -> Option<&'a Struct> {
    match get(from, key)? {
        Kind::StructValue(nested) => Some(nested),
        _ => None,
    }
}

/// The texts of a list field; empty when there is none, other values in it are left out.
#[must_use]
pub fn get_strings(from: &Struct, key: &str) -> Vec<String> {
    match get(from, key) {
        Some(Kind::ListValue(list)) => list
            .values
            .iter()
            .filter_map(|value| match &value.kind {
                Some(Kind::StringValue(text)) => Some(text.clone()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The text fields of a struct, sorted by key, as labels are read.
#[must_use]
pub fn to_map(from: &Struct) -> std::collections::BTreeMap<String, String> {
    from.fields
        .iter()
        .filter_map(|(key, value)| match &value.kind {
            Some(Kind::StringValue(text)) => Some((key.clone(), text.clone())),
            _ => None,
        })
        .collect()
}

/// Envoy metadata with the given namespaces, such as `istio` and `naka.dev`.
#[must_use]
pub fn metadata<K: Into<String>>(namespaces: impl IntoIterator<Item = (K, Struct)>) -> Metadata {
    Metadata {
        filter_metadata: namespaces
            .into_iter()
            .map(|(name, fields)| (name.into(), fields))
            .collect(),
        ..Metadata::default()
    }
}

/// One namespace of Envoy metadata.
#[must_use]
pub fn of_metadata<'a>(metadata: Option<&'a Metadata>, namespace: &str) -> Option<&'a Struct> {
    metadata?.filter_metadata.get(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read_back_and_other_kinds_are_not() {
        let made = fields([
            ("name", string("order")),
            ("on", bool(true)),
            ("count", number(2.0)),
            ("all", strings(["a", "b"])),
            ("labels", nested(string_struct([("app", "order")]))),
        ]);
        assert_eq!(get_str(&made, "name"), Some("order"));
        assert_eq!(get_bool(&made, "on"), Some(true));
        assert_eq!(get_strings(&made, "all"), ["a", "b"]);
        let labels = to_map(get_struct(&made, "labels").unwrap());
        assert_eq!(labels.get("app").map(String::as_str), Some("order"));
        assert_eq!(get_str(&made, "on"), None);
        assert_eq!(get_bool(&made, "name"), None);
        assert!(get_struct(&made, "none").is_none() && get_strings(&made, "name").is_empty());
        let carried = metadata([("naka.dev", made)]);
        assert!(of_metadata(Some(&carried), "naka.dev").is_some());
        assert!(of_metadata(Some(&carried), "istio").is_none());
    }
}
