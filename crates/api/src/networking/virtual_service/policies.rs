//! What a route does besides choosing a destination: faults, mirrors, cross-origin rules.
//!
//! Shares are parts of a million, as Envoy counts them; `percentage: {value: 0.1}` is 1000 of them.

use super::{Destination, StringMatch};
use std::time::Duration;

/// Share of all requests, in parts of a million.
pub const ALL: u32 = 1_000_000;

/// Injected trouble; delay and abort are drawn independently, the delay comes first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fault {
    /// Wait before the request goes on.
    pub delay: Option<Delay>,
    /// Answer instead of the destination.
    pub abort: Option<Abort>,
}

/// A wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delay {
    /// How long.
    pub wait: Duration,
    /// How often, in parts of a million.
    pub share: u32,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abort {
    /// With what.
    pub status: AbortStatus,
    /// How often, in parts of a million.
    pub share: u32,
}

/// Status of an injected answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortStatus {
    /// HTTP, 200 to 599.
    Http(u16),
    /// gRPC, 0 to 16.
    Grpc(u8),
}

/// A copy of the requests for somebody else, whose answers nobody sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Where to.
    pub destination: Destination,
    /// How often, in parts of a million.
    pub share: u32,
    /// Where it stands below the route, for findings: `mirror` or `mirrors[0].destination`.
    pub at: String,
}

/// Which pages of other origins a browser may let call the route.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cors {
    /// Origins; `*` as an exact value is every origin.
    pub origins: Vec<StringMatch>,
    /// Methods told to a browser that asks.
    pub methods: Vec<String>,
    /// Request headers told to a browser that asks.
    pub headers: Vec<String>,
    /// Response headers a page may read.
    pub expose: Vec<String>,
    /// How long a browser may remember.
    pub max_age: Option<Duration>,
    /// Whether cookies and the like may be sent.
    pub credentials: Option<bool>,
    /// Whether a preflight of an origin that is not allowed goes on to the destination; else it is answered here.
    pub forward_unmatched: bool,
}
