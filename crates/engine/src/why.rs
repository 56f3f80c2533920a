//! The trail of an explanation: what was decided at each stage, and because of what.
//!
//! The engine writes it only when asked (`Cx::why`), so requests pay nothing for it. `naka explain` prints it.

use std::fmt;

/// Where a decision was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Which virtual host answers for the name.
    Host,
    /// Which route matches.
    Route,
    /// Whether trouble is injected.
    Fault,
    /// Who gets a copy.
    Mirror,
    /// Which of the weighted destinations was drawn.
    Weight,
    /// Which endpoint is called.
    Endpoint,
    /// Whether a failed try is repeated.
    Retry,
    /// Who may call.
    Peer,
    /// Whether policy lets it.
    Policy,
    /// Whether there is a token.
    Limit,
    /// An answer of the proxy itself.
    Reply,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// Where.
    pub stage: Stage,
    /// What.
    pub decision: String,
    /// Because of what.
    pub because: String,
}

impl Why {
    /// A decision.
    #[must_use]
    pub fn new(stage: Stage, decision: impl Into<String>, because: impl Into<String>) -> Self {
        Self {
            stage,
            decision: decision.into(),
            because: because.into(),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Host => "host",
            Self::Route => "route",
            Self::Fault => "fault",
            Self::Mirror => "mirror",
            Self::Weight => "weight",
            Self::Endpoint => "endpoint",
            Self::Retry => "retry",
            Self::Peer => "peer",
            Self::Policy => "policy",
            Self::Limit => "limit",
            Self::Reply => "reply",
        })
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<9}{}: {}", self.stage, self.decision, self.because)
    }
}
