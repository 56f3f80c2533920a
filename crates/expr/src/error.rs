//! What is wrong with an expression, where, and what to write instead.

use std::fmt;

/// An expression that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Character of the expression, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub fix: String,
}

impl Error {
    pub(crate) fn new(column: usize, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            column,
            message: message.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.message)
    }
}

impl std::error::Error for Error {}
