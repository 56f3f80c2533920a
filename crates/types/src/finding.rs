//! The one type for everything Naka has to say about an object: errors, warnings, lints (design noun 6).
//!
//! Codes are stable and never reused: `E…` error (the named part is not in force), `W…` accepted with a warning,
//! `L…` lint. `naka check`, the API, status and the console all print this type.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is lost.
    Info,
    /// Accepted, but probably not what was meant.
    Warning,
    /// The named part is not in force.
    Error,
}

/// One thing found, where, and what to write instead. `line` and `column` count from 1; 0 means unknown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable code, for example `E002`.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// `Kind namespace/name`, empty when no object could be read.
    #[serde(default)]
    pub object: String,
    /// File the object came from, empty when it did not come from a file.
    #[serde(default)]
    pub file: String,
    /// Line in the file, from 1; 0 = unknown.
    #[serde(default)]
    pub line: u32,
    /// Column in the line, from 1; 0 = unknown.
    #[serde(default)]
    pub column: u32,
    /// Field path, for example `spec.http[2].match[0].uri`.
    #[serde(default)]
    pub field: String,
    /// What is wrong and why.
    pub message: String,
    /// What to write instead, empty when there is nothing to suggest.
    #[serde(default)]
    pub fix: String,
}

impl Finding {
    /// A finding with a code, its severity taken from the code's first letter, and a message.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        let severity = match code.as_bytes().first() {
            Some(b'E') => Severity::Error,
            Some(b'W') => Severity::Warning,
            _ => Severity::Info,
        };
        Self {
            code: code.to_owned(),
            severity,
            object: String::new(),
            file: String::new(),
            line: 0,
            column: 0,
            field: String::new(),
            message: message.into(),
            fix: String::new(),
        }
    }

    /// Names the field.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = field.into();
        self
    }

    /// Names the object.
    #[must_use]
    pub fn on(mut self, object: impl fmt::Display) -> Self {
        self.object = object.to_string();
        self
    }

    /// Says what to write instead.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// Whether the named part is not in force.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Finding {
    /// `file:line:column: error E002 VirtualService default/a: spec.http[0]: message; fix: …` on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}", self.file)?;
            if self.line > 0 {
                write!(f, ":{}", self.line)?;
                if self.column > 0 {
                    write!(f, ":{}", self.column)?;
                }
            }
            f.write_str(": ")?;
        }
        let severity = match self.severity {
            Severity::Info => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity} {}", self.code)?;
        if !self.object.is_empty() {
            write!(f, " {}", self.object)?;
        }
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.fix.is_empty() {
            write!(f, "; fix: {}", self.fix)?;
        }
        Ok(())
    }
}
