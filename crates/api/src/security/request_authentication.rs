//! RequestAuthentication: which tokens are taken.
//!
//! A request without a token passes, with nothing proven; one with a token passes when an issuer of the objects that
//! hold for the workload takes it. Who may call without a token is AuthorizationPolicy's to say.
//!
//! Not here: how tokens are verified (`engine`), how rules become messages (`control`).

use super::attached::Attached;
use naka_types::jwk::{KeySet, KeyUri};
use naka_types::labels::{Labels, selects};
use std::time::Duration;

mod build;
pub(crate) mod fields;

pub(crate) use build::build;

/// The sound part of a RequestAuthentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestAuthentication {
    /// Workloads of the namespace it holds for; `None` = the whole namespace (in the root namespace: the whole mesh).
    pub selector: Option<Labels>,
    /// What it is attached to instead, which is in its own namespace.
    pub attached: Option<Attached>,
    /// Issuers.
    pub rules: Vec<JwtRule>,
}

/// An issuer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JwtRule {
    /// What the claim `iss` must be.
    pub issuer: String,
    /// One of these must be in the claim `aud`; empty: any.
    pub audiences: Vec<String>,
    /// Its keys.
    pub keys: Keys,
    /// Where its tokens are looked for; never empty.
    pub places: Vec<TokenPlace>,
    /// Whether the token stays in the request.
    pub forward: bool,
    /// Header that gets the payload, in lower case.
    pub payload_header: Option<String>,
    /// Headers, in lower case, that get a claim.
    pub claim_headers: Vec<(String, String)>,
    /// Claims that are lists of words, besides `scope` and `permission`.
    pub word_lists: Vec<String>,
    /// Whether a request without a token of its does not pass.
    pub required: bool,
}

/// Keys of an issuer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Keys {
    /// They stand in the object.
    Written(KeySet),
    /// The control plane fetches them.
    Fetched {
        /// From there.
        uri: KeyUri,
        /// Within this time.
        timeout: Duration,
    },
}

/// Where a token may stand.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TokenPlace {
    /// In a header, behind a text.
    Header(String, String),
    /// In a parameter of the query.
    Parameter(String),
    /// In a cookie.
    Cookie(String),
}

impl RequestAuthentication {
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
