//! Exit codes, in one place, and the error every command returns.
//!
//! 0 done · 1 the checked thing is bad · 2 failed to do it · 64 wrong usage. `naka run` is the exception: it exits
//! with the code of the program it ran.

use std::fmt;
use std::process::ExitCode;

/// Done.
pub(crate) const DONE: u8 = 0;
/// The checked thing is bad.
pub(crate) const BAD: u8 = 1;
/// Failed to do it.
pub(crate) const FAILED: u8 = 2;
/// Wrong usage.
pub(crate) const USAGE: u8 = 64;

/// What a command ends with when it did not do what was asked: a code and what to say on stderr.
#[derive(Debug)]
pub(crate) struct Exit {
    /// Exit code.
    pub(crate) code: u8,
    /// One message, empty when everything was said already.
    pub(crate) message: String,
}

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Exit>;

impl Exit {
    /// The checked thing is bad.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self {
            code: BAD,
            message: message.into(),
        }
    }

    /// It could not be done.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self {
            code: FAILED,
            message: message.into(),
        }
    }

    /// The command line makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            message: message.into(),
        }
    }

    /// Ends with a code and says nothing more.
    pub(crate) fn silent(code: u8) -> Self {
        Self {
            code,
            message: String::new(),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<anyhow::Error> for Exit {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Exit {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code)
    }
}
