//! What is read of Istio's MeshConfig: the `extensionProviders` whom policies with `action: CUSTOM` ask, and the
//! `trustDomainAliases`.
//!
//! An Istio user has them in the ConfigMap `istio` of `istio-system`, under `data.mesh` as YAML, so they are read from
//! exactly there. A provider with an error is left out alone; a policy that names it refuses what it would have asked
//! about. Everything else in that text is told (W900) and does nothing.
//!
//! Not here: whether the service exists (`control`), and how a provider is asked (`proxy`).

use crate::security::authorization_policy::Text;
use naka_types::host::{Host, ROOT_NAMESPACE};
use std::collections::BTreeMap;
use std::time::Duration;

mod build;
pub(crate) mod fields;

pub(crate) use build::build;

/// Name of the ConfigMap.
pub const NAME: &str = "istio";
/// Key of the text in it.
pub const KEY: &str = "mesh";
/// Time for an answer where a provider does not say; Istio's.
pub const TIMEOUT: Duration = Duration::from_secs(600);

/// Options of the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MeshConfig {
    /// Who can be asked about requests, by name.
    pub providers: BTreeMap<String, Provider>,
    /// Trust domains whose identities count as the mesh's own, each once, as written.
    pub trust_domain_aliases: Vec<String>,
}

/// Somebody who is asked whether a request may pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Namespace that its service must be of, where one is written.
    pub namespace: Option<String>,
    /// Its service.
    pub service: Host,
    /// Port of that.
    pub port: u16,
    /// Time for an answer.
    pub timeout: Duration,
    /// Whether requests pass that nobody answered for.
    pub fail_open: bool,
    /// What they are answered otherwise.
    pub status_on_error: u16,
    /// How much of bodies it is told; `None`: nothing.
    pub body: Option<BodyInCheck>,
    /// What is spoken with it.
    pub speaks: Speaks,
}

/// How much of a body a provider is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyInCheck {
    /// Most bytes.
    pub most: u32,
    /// Whether the beginning of a longer one is enough; else such requests are refused.
    pub partial: bool,
    /// Whether it is no text (gRPC only).
    pub as_bytes: bool,
}

/// What is spoken with a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Speaks {
    /// Envoy's service `envoy.service.auth.v3.Authorization`.
    Grpc,
    /// A request like the one that is asked about; 200 lets it pass.
    Http(Box<HttpCheck>),
}

/// Requests to a provider by HTTP, and what is made of its answers. Names of headers are exact, `begin*` or `*end`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpCheck {
    /// Before the path; empty or with a slash at its beginning.
    pub path_prefix: String,
    /// Headers of the request that it is told.
    pub request_headers: Vec<Text>,
    /// Headers beside those, name and value.
    pub added: Vec<(String, String)>,
    /// Headers of its answer that a request which passes carries on.
    pub upstream_on_allow: Vec<Text>,
    /// Headers of its answer that a refused caller gets; empty: all.
    pub downstream_on_deny: Vec<Text>,
    /// Headers of its answer that the caller of a request which passed gets.
    pub downstream_on_allow: Vec<Text>,
}

/// Whether a ConfigMap of that name is the one with the options of the mesh.
#[must_use]
pub fn is_it(namespace: &str, name: &str) -> bool {
    namespace == ROOT_NAMESPACE && name == NAME
}
