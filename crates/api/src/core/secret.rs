//! Secret: bytes by key. Values are shown to nobody: `Debug` prints keys and sizes.

use std::collections::BTreeMap;
use std::fmt;

mod build;
pub(crate) mod fields;

pub(crate) use build::{build, canonical};

/// A Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// `type`, `Opaque` unless given.
    pub kind: String,
    /// Values, decoded; `stringData` is merged in and wins.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: BTreeMap<&str, String> = self
            .data
            .iter()
            .map(|(key, value)| (key.as_str(), format!("{} bytes, redacted", value.len())))
            .collect();
        f.debug_struct("Secret")
            .field("kind", &self.kind)
            .field("data", &keys)
            .finish()
    }
}
