//! The configuration the request path reads: immutable, shared by reference counts, resolved ahead of time.
//!
//! What can be computed when configuration arrives is computed then: routes hold [`ClusterId`]s instead of names,
//! clusters hold their pick schedules, regular expressions are compiled. The proxy's intake builds these values from
//! xDS, `naka explain` from files; both through the same constructors, which refuse what cannot be meant.
//!
//! Not here: counts and permits ([`crate::runtime`]).

mod access;
mod backend;
mod balance;
mod check;
mod cluster;
mod condition;
mod edge;
mod edits;
mod extras;
mod guard;
mod hosts;
mod keeping;
mod limit;
mod outside;
mod pattern;
mod retry;
mod route;
mod snapshot;
mod token;
mod trust;

pub use access::{Access, AccessFilter, AccessRule, ClaimCondition, Test, Verdict};
pub use backend::{Ask, Backend, Fallback, FallbackTo, HealthCheck};
pub use balance::{Balance, Cookie, Group, HashKey, Policy, SlowStart, Utilization};
pub use check::{Asks, Authorizer, Check, CheckBody, HttpCheck};
pub use cluster::{
    Cluster, ClusterId, ClusterSpec, Endpoint, Health, HttpVersion, Limits, PeerTls, ServiceMeta,
    WorkloadMeta,
};
pub use condition::{HeaderCondition, HeaderRule, PathCondition, Subject, TextCondition, TextRule};
pub use edge::{Chain, Edge, Met, Security, Serves, Wants};
pub use edits::HeaderEdits;
pub use extras::{AbortStatus, Cors, Extras, Fault, Mirror, Share};
pub use guard::{Anomalies, Ban, Guard, Guarding, RequestGuard, Sought, Watch};
pub use hosts::Hosts;
pub use keeping::{Budget, Keeping, Pings, Priority, Probes};
pub use limit::{LimitRule, RateLimit};
pub use outside::{OutsideTls, ProxyHeader, Source, Tunnel};
pub use pattern::Pattern;
pub use retry::{RetryOn, RetryPolicy};
pub use route::{
    Action, Direct, Forward, Match, PathRewrite, QueryCondition, Redirect, Route, VirtualHost,
    WeightedCluster,
};
pub use snapshot::{Inbound, MtlsMode, Snapshot, SnapshotBuilder};
pub use token::{ClaimPath, Claims, Issuer, TokenPlace, Tokens, claim_at};
pub use trust::{Crossing, Hours, Operation, TrustModel, Zones};

/// Why a value of the model cannot be made; the caller adds where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A regular expression that does not compile or is over its cap.
    #[error("regular expression {pattern:?} does not compile: {why}")]
    Pattern {
        /// As written.
        pattern: String,
        /// What the compiler says.
        why: String,
    },
    /// A path prefix that could never match, or a separated one that does not start with `/`.
    #[error("path {0:?} must start with '/'")]
    Path(String),
    /// A header edit that the mesh does not allow.
    #[error("header {0:?} may not be edited")]
    Header(String),
    /// All weights of a route are zero.
    #[error("the weights of a route add up to zero")]
    Weights,
    /// A status that HTTP does not have.
    #[error("{0} is no status for this action")]
    Status(u16),
}
