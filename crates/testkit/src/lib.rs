//! Meshes of real processes for tests: the shipped `naka` binary, programs that count what they are asked, and
//! helpers that wait for a condition instead of sleeping.
//!
//! Evidence comes from outside: from the programs' own logs, from the wire, from `/proc`. Nothing here asks the mesh
//! whether it works. A test has one body and two sizes ([`size`]): quick in `make test`, full in `make evidence`.

pub mod clock;
pub mod dns;
pub mod ear;
pub mod http1;
pub mod machines;
pub mod mesh;
pub mod nested;
pub mod program;
pub mod referee;
pub mod relay;
pub mod user;
pub mod wait;

/// How long or how often a long proof runs; what it checks is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// In `make test`.
    Quick,
    /// In `make evidence`.
    Full,
}

impl Size {
    /// The quick or the full value.
    #[must_use]
    pub fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// The size asked for: full when `NAKA_EVIDENCE=full`.
#[must_use]
pub fn size() -> Size {
    if std::env::var("NAKA_EVIDENCE").is_ok_and(|v| v == "full") {
        Size::Full
    } else {
        Size::Quick
    }
}
