//! A document as a tree whose nodes know where they were written.
//!
//! YAML, JSON text and `serde_json` values all become this tree, so that decoding, aliases and lints exist once. Lines
//! and columns count from 1; 0 means that the source had none (objects from the API or the log).

use serde_json::{Map, Number, Value};

mod yaml;

pub(crate) use yaml::join;

pub use yaml::{Document, Problem, read};

/// Largest input read, in bytes.
pub const MAX_BYTES: usize = 8 << 20;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 64;
/// Most nodes of a document, those copied by aliases included.
pub const MAX_NODES: usize = 400_000;

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// From 1; 0 = unknown.
    pub line: u32,
    /// From 1; 0 = unknown.
    pub column: u32,
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it is.
    pub data: Data,
    /// Where it starts.
    pub place: Place,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Nothing.
    Null,
    /// true or false.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Fields in the order written, keys unique.
    Map(Vec<Entry>),
}

/// A field of a map.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Name.
    pub key: String,
    /// Where the name is written.
    pub place: Place,
    /// Value.
    pub value: Node,
}

impl Node {
    /// A node without a place.
    #[must_use]
    pub fn bare(data: Data) -> Self {
        Self {
            data,
            place: Place::default(),
        }
    }

    /// The tree of a JSON value; `null` below [`MAX_DEPTH`].
    #[must_use]
    pub fn from_json(value: &Value) -> Self {
        Self::from_json_at(value, 0)
    }

    fn from_json_at(value: &Value, depth: usize) -> Self {
        if depth > MAX_DEPTH {
            return Self::bare(Data::Null);
        }
        Self::bare(match value {
            Value::Null => Data::Null,
            Value::Bool(value) => Data::Bool(*value),
            Value::Number(value) => Data::Number(value.clone()),
            Value::String(value) => Data::Text(value.clone()),
            Value::Array(items) => Data::List(
                items
                    .iter()
                    .map(|item| Self::from_json_at(item, depth + 1))
                    .collect(),
            ),
            Value::Object(fields) => Data::Map(
                fields
                    .iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        place: Place::default(),
                        value: Self::from_json_at(value, depth + 1),
                    })
                    .collect(),
            ),
        })
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Number(value) => Value::Number(value.clone()),
            Data::Text(value) => Value::String(value.clone()),
            Data::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Data::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.to_json()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// Fields, if it is a map.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        if let Data::Map(entries) = &self.data {
            entries
        } else {
            &[]
        }
    }

    /// Items, if it is a list.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        if let Data::List(items) = &self.data {
            items
        } else {
            &[]
        }
    }

    /// The entry of that name, `null` values included.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The field of that name; `null` counts as absent, as in Kubernetes.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key)
            .map(|entry| &entry.value)
            .filter(|value| value.data != Data::Null)
    }

    /// Follows field names.
    #[must_use]
    pub fn at(&self, keys: &[&str]) -> Option<&Self> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The field of that name, for change.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        if let Data::Map(entries) = &mut self.data {
            entries
                .iter_mut()
                .find(|entry| entry.key == key)
                .map(|entry| &mut entry.value)
        } else {
            None
        }
    }

    /// Takes a field out.
    pub fn take(&mut self, key: &str) -> Option<Entry> {
        let Data::Map(entries) = &mut self.data else {
            return None;
        };
        let index = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(index))
    }

    /// Sets a field, replacing.
    pub fn put(&mut self, key: &str, place: Place, value: Self) {
        if let Data::Map(entries) = &mut self.data {
            entries.retain(|entry| entry.key != key);
            entries.push(Entry {
                key: key.to_owned(),
                place,
                value,
            });
        }
    }

    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Data::Text(text) = &self.data {
            Some(text)
        } else {
            None
        }
    }

    /// The truth value, if it is one.
    #[must_use]
    pub fn truth(&self) -> Option<bool> {
        if let Data::Bool(value) = &self.data {
            Some(*value)
        } else {
            None
        }
    }

    /// The whole number, if it is one; `5.0` counts.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        let Data::Number(number) = &self.data else {
            return None;
        };
        number.as_i64().or_else(|| {
            let value = number.as_f64()?;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "whole and far inside the range, checked here"
            )]
            (value.fract() == 0.0 && value.abs() < 9.0e15).then_some(value as i64)
        })
    }

    /// Word for error messages: `a list`, `a text`, ….
    #[must_use]
    pub fn what(&self) -> &'static str {
        match self.data {
            Data::Null => "nothing",
            Data::Bool(_) => "true or false",
            Data::Number(_) => "a number",
            Data::Text(_) => "a text",
            Data::List(_) => "a list",
            Data::Map(_) => "a map",
        }
    }
}
