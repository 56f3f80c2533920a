//! AuthorizationPolicy: who may call what.
//!
//! A DENY rule that matches refuses; where a workload has ALLOW policies, one of their rules must match. Conditions have
//! three values: what is not known (a label that nobody granted, claims where no token is read, the path of what is no
//! HTTP) never satisfies an ALLOW rule, in whichever form it is asked, and always satisfies a DENY rule.
//!
//! CUSTOM asks somebody else about what matches (a provider of [`crate::mesh`]), before DENY and ALLOW are looked at.
//!
//! Not here: how rules become messages (`control`).

use super::attached::Attached;
use naka_types::cidr::Cidr;
use naka_types::labels::{Labels, selects};

mod build;
pub(crate) mod fields;

pub(crate) use build::{asked, build};

/// The sound part of an AuthorizationPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Workloads of the namespace it holds for; `None` = the whole namespace (in the root namespace: the whole mesh).
    pub selector: Option<Labels>,
    /// What it is attached to instead, which is in its own namespace.
    pub attached: Option<Attached>,
    /// What happens to requests that match.
    pub action: Action,
    /// Name of who is asked, for CUSTOM; else empty.
    pub provider: String,
    /// One that matches is enough. ALLOW without rules allows nothing.
    pub rules: Vec<Rule>,
    /// Whether it decides nothing (`istio.io/dry-run: "true"`).
    pub dry_run: bool,
}

/// What happens to requests that match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// They may pass, as far as no DENY rule matches.
    Allow,
    /// They are refused.
    Deny,
    /// They are told of; it decides nothing.
    Audit,
    /// Somebody else is asked about them.
    Custom,
}

/// Callers, requests and further conditions: one of each list that is not empty, and all conditions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// Callers.
    pub from: Vec<Vec<Condition>>,
    /// Requests.
    pub to: Vec<Vec<Condition>>,
    /// Further conditions.
    pub when: Vec<Condition>,
}

/// An attribute must have one of the values, or none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What is asked.
    pub attribute: Attribute,
    /// One of these.
    pub values: Values,
    /// Whether it must be none of these instead.
    pub not: bool,
}

/// What a condition asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// Identity of the verified peer, without `spiffe://`.
    Principal,
    /// Its namespace.
    Namespace,
    /// Its service account, `namespace/name`.
    ServiceAccount,
    /// Its trust domain.
    TrustDomain,
    /// Address of the peer.
    PeerAddress,
    /// Address of the client, trusted proxies considered.
    ClientAddress,
    /// Host of the request.
    Host,
    /// Port of the workload.
    Port,
    /// Method.
    Method,
    /// Path without query.
    Path,
    /// A header, in lower case.
    Header(String),
    /// A label of the caller's workload, as far as it was granted.
    Label(String),
    /// Identity of the verified token, `issuer/subject`.
    RequestPrincipal,
    /// A claim of the verified token, outermost name first.
    Claim(Vec<String>),
    /// Something that is not known here: server name, address called.
    Unknown(String),
}

/// Values of a condition; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    /// Texts.
    Texts(Vec<Text>),
    /// Ranges of addresses.
    Ranges(Vec<Cidr>),
    /// Ports.
    Ports(Vec<u16>),
}

/// A value that a text may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// This one.
    Exact(String),
    /// `begin*`.
    Prefix(String),
    /// `*end`.
    Suffix(String),
    /// `*`: anything but nothing.
    Present,
    /// A path with `{*}` for one segment and `{**}` for the rest.
    Template(String),
}

impl AuthorizationPolicy {
    /// Whether it holds for this workload, given that the namespace fits.
    #[must_use]
    pub fn holds_for(&self, labels: &Labels) -> bool {
        if let Some(attached) = &self.attached {
            return attached.holds_for(labels);
        }
        self.selector
            .as_ref()
            .is_none_or(|selector| selects(selector, labels))
    }
}
