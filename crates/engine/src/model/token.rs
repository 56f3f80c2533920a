//! Which tokens a port takes, and what becomes of them.
//!
//! A request without a token passes, with nothing proven, unless an issuer's is required; one with a token passes when
//! each of its tokens is taken by one of the issuers that look at its place. Configuration is compiled here as far as it goes: keys are read, names
//! are header names, paths are split.

use http::HeaderName;
use naka_types::jwk::KeySet;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

/// The issuers whose tokens a port takes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tokens {
    /// In the order in which they speak: what is proven is the word of the first that took a token.
    pub issuers: Box<[Issuer]>,
}

/// One issuer.
#[derive(Debug, Clone, PartialEq)]
pub struct Issuer {
    /// What the claim `iss` must be.
    pub name: Arc<str>,
    /// One of these must be in the claim `aud`; empty: any.
    pub audiences: Box<[Arc<str>]>,
    /// Its keys; `None`: there are none (yet), and no token of its can be verified.
    pub keys: Option<KeySet>,
    /// Where its tokens are looked for.
    pub places: Box<[TokenPlace]>,
    /// Whether the token stays in the request.
    pub forward: bool,
    /// Header that gets the payload, as it stands in the token.
    pub payload_header: Option<HeaderName>,
    /// Headers that get a claim.
    pub claim_headers: Box<[(HeaderName, ClaimPath)]>,
    /// Claims that are lists of words.
    pub word_lists: Box<[Arc<str>]>,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// Whether a request without a token of its does not pass.
    pub required: bool,
}

/// Where a token may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
    /// In a header, behind a text.
    Header(HeaderName, Arc<str>),
    /// In a parameter of the query.
    Parameter(Arc<str>),
    /// In a cookie.
    Cookie(Arc<str>),
}

/// Names of a claim, outermost first; never empty.
pub type ClaimPath = Box<[Arc<str>]>;

/// What a token that was verified says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Claims(pub Map<String, Value>);

impl Claims {
    /// A claim.
    #[must_use]
    pub fn at(&self, path: &[Arc<str>]) -> Option<&Value> {
        claim_at(&self.0, path)
    }
}

/// A claim by its names.
#[must_use]
pub fn claim_at<'c>(claims: &'c Map<String, Value>, path: &[Arc<str>]) -> Option<&'c Value> {
    let (first, rest) = path.split_first()?;
    let mut found = claims.get(&**first)?;
    for name in rest {
        found = found.as_object()?.get(&**name)?;
    }
    Some(found)
}
