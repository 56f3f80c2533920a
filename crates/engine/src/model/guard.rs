//! What guards look at, and what they do about it. [`crate::exchange`] asks them, [`crate::guard`] knows the shapes.

use super::Pattern;
use crate::runtime::Peers;
use http::Method;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The guards of one object.
#[derive(Debug, Clone)]
pub struct RequestGuard {
    /// `guard[<namespace>/<object>]`.
    pub rule: Arc<str>,
    /// In their order; the first that refuses decides.
    pub guards: Box<[Guard]>,
    /// Who failed how often and who is banned, which [`crate::runtime::Registry::adopt_guard`] finds by the object's
    /// name, so that a ban outlives a change of the configuration.
    pub peers: OnceLock<Arc<Peers>>,
}

impl RequestGuard {
    /// Its table of peers.
    #[must_use]
    pub fn peers(&self) -> &Arc<Peers> {
        self.peers.get_or_init(Arc::default)
    }

    /// Whether anything of it may ban.
    #[must_use]
    pub fn bans(&self) -> bool {
        let mut all = self.guards.iter();
        all.any(|guard| matches!(guard.action, Guarding::Ban(_)))
    }

    /// Whether a request that nobody can look at must not pass.
    #[must_use]
    pub fn refuses_requests(&self) -> bool {
        let mut all = self.guards.iter();
        all.any(|guard| guard.action != Guarding::Log && guard.watch.is_of_requests())
    }
}

/// Who is banned is state, not configuration.
impl PartialEq for RequestGuard {
    fn eq(&self, other: &Self) -> bool {
        self.rule == other.rule && self.guards == other.guards
    }
}

/// One guard.
#[derive(Debug, Clone, PartialEq)]
pub struct Guard {
    /// `guard[<namespace>/<object>/<guard>]`.
    pub rule: Arc<str>,
    /// What it looks at.
    pub watch: Watch,
    /// What it does about what it finds.
    pub action: Guarding,
}

/// What a guard does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarding {
    /// Counts and tells.
    Log,
    /// Refuses the request too.
    Deny,
    /// Refuses it, and whoever does it too often for a time.
    Ban(Ban),
}

/// When a peer is banned, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    /// So many failures, at least one,
    pub failures: u32,
    /// within so long since the first of them.
    pub per: Duration,
    /// How long the ban lasts.
    pub lasts: Duration,
}

/// What a guard looks at.
#[derive(Debug, Clone, PartialEq)]
pub enum Watch {
    /// Methods other than these.
    Methods(Box<[Method]>),
    /// What a strict reading of RFC 3986 and RFC 9110 forbids.
    Syntax,
    /// What looks like an attack.
    Patterns(Box<[Sought]>),
    /// TLS handshakes that fail.
    Handshakes,
    /// Tokens that are not taken.
    Tokens(Anomalies),
}

impl Watch {
    /// Whether it looks at requests, and not at what comes before or besides.
    #[must_use]
    pub fn is_of_requests(&self) -> bool {
        matches!(self, Self::Methods(_) | Self::Syntax | Self::Patterns(_))
    }
}

/// One pattern that is looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Sought {
    /// The guard's rule with the pattern's name.
    pub rule: Arc<str>,
    /// Matches anywhere.
    pub pattern: Pattern,
}

/// Which faults of tokens are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Anomalies {
    /// Its time is over, has not come, or it was taken back.
    pub expired: bool,
    /// No key bears it out, or it is no token at all.
    pub signature: bool,
    /// It is of nobody whose tokens are looked for, or for somebody else.
    pub issuer: bool,
}
