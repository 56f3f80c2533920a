//! Whom a port's proxy asks whether a request may pass, and about which requests.

use super::{AccessRule, ClusterId, TextCondition};
use http::{HeaderName, HeaderValue, StatusCode};
use std::sync::Arc;
use std::time::Duration;

/// Requests that somebody else decides about.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// One that matches is enough; what is not known matches.
    pub rules: Box<[AccessRule]>,
    /// Who is asked.
    pub authorizer: Arc<Authorizer>,
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Authorizer {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Name of that.
    pub name: Arc<str>,
    /// Time for an answer.
    pub timeout: Duration,
    /// Whether requests pass that nobody answered for.
    pub fail_open: bool,
    /// What they are answered otherwise.
    pub status_on_error: StatusCode,
    /// How much of bodies it is told; `None`: nothing.
    pub body: Option<CheckBody>,
    /// What is spoken.
    pub asks: Asks,
}

/// How much of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckBody {
    /// Most bytes.
    pub most: usize,
    /// Whether the beginning of a longer one is enough.
    pub partial: bool,
    /// Whether it is no text (gRPC only).
    pub as_bytes: bool,
}

/// What is spoken with who is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Asks {
    /// `envoy.service.auth.v3.Authorization`, with this authority.
    Grpc(HeaderValue),
    /// A request like the one that is asked about.
    Http(Box<HttpCheck>),
}

/// A question by HTTP, and what is made of the answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HttpCheck {
    /// Before the path.
    pub path_prefix: Box<str>,
    /// Headers of the request that are told.
    pub request_headers: Box<[TextCondition]>,
    /// Headers beside those.
    pub added: Box<[(HeaderName, HeaderValue)]>,
    /// Headers of the answer that a request which passes carries on.
    pub upstream_on_allow: Box<[TextCondition]>,
    /// Headers of the answer that a refused caller gets; empty: all.
    pub downstream_on_deny: Box<[TextCondition]>,
    /// Headers of the answer that the caller of a request which passed gets.
    pub downstream_on_allow: Box<[TextCondition]>,
}
