//! Mode: a named set of patches on existing objects, in force while somebody switched it on.
//!
//! What is stored stays as it was: patches are laid over the objects when a world is built, so that afterwards
//! everything is as before. A Mode patches objects of its own namespace; one of the root namespace those of any.
//!
//! Not here: who may switch it and when it ends (`control`).

use naka_types::name::ObjectRef;
use serde_json::Value;
use std::time::Duration;

mod build;
pub(crate) mod fields;

pub(crate) use build::build;

/// The sound part of a Mode.
#[derive(Debug, Clone, PartialEq)]
pub struct Mode {
    /// Who answers for it.
    pub owner: String,
    /// What it is for.
    pub description: String,
    /// Longest time it is on.
    pub max_time: Duration,
    /// What an incident's id must look like, if one is needed.
    pub incident: Option<Pattern>,
    /// How many different people must want it.
    pub approvals: u32,
    /// Role that they need.
    pub role: String,
    /// What it does.
    pub patches: Vec<Patch>,
}

/// A text, or its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Whether a text is of it; nothing never is.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(begin) => text.len() > begin.len() && text.starts_with(begin),
            None => text == self.0,
        }
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A change of one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// Which object.
    pub target: ObjectRef,
    /// JSON merge patch (RFC 7396) of the whole object.
    pub merge: Value,
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn ids_of_incidents() {
        for (pattern, text, fits) in [
            ("INC-*", "INC-4711", true),
            ("INC-*", "INC-", false),
            ("INC-*", "inc-1", false),
            ("INC-*", "", false),
            ("*", "anything", true),
            ("*", "", false),
            ("INC-1", "INC-1", true),
            ("INC-1", "INC-12", false),
        ] {
            let pattern = Pattern(pattern.to_owned());
            assert_eq!(pattern.fits(text), fits, "{pattern:?} {text}");
        }
    }
}
