//! VirtualService: which requests go where.
//!
//! Semantics are Istio's: routes are tried in order, matches of one route are alternatives, conditions of one match all
//! hold together, a route without matches takes everything. Hosts are resolved in the object's namespace; patterns are
//! checked, not compiled (the engine compiles). Routes that carry an error are absent; `index` is the place in the
//! user's list, so names and paths stay stable.

use super::export::Export;
use naka_types::host::Host;
use naka_types::labels::Labels;
use std::collections::BTreeMap;
use std::time::Duration;

mod build;
mod bytes;
pub(crate) mod conditions;
pub mod delegate;
pub(crate) mod fields;
pub mod policies;

pub(crate) use build::build;
pub use build::claim_path;
pub use bytes::{BytesMatch, BytesRoute};

/// The sound part of a VirtualService.
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualService {
    /// Hosts it applies to, full names or wildcards. None: it is for others to delegate to.
    pub hosts: Vec<Host>,
    /// Where it applies; never empty: without `gateways` it is `[Mesh]`.
    pub gateways: Vec<GatewayRef>,
    /// Namespaces that see it.
    pub export: Export,
    /// HTTP routes in order. Empty only when none was written: then default routing holds for HTTP.
    pub http: Vec<HttpRoute>,
    /// Routes of `spec.tls`, in order.
    pub tls: Vec<BytesRoute>,
    /// Routes of `spec.tcp`, in order.
    pub tcp: Vec<BytesRoute>,
}

impl VirtualService {
    /// Objects it leaves routes to.
    pub fn delegates(&self) -> impl Iterator<Item = &DelegateRef> {
        self.http.iter().filter_map(|route| match &route.action {
            Action::Delegate(to) => Some(to),
            _ => None,
        })
    }
}

/// A gateway a VirtualService is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GatewayRef {
    /// `mesh`: all sidecars.
    Mesh,
    /// A Gateway object.
    Named {
        /// Its namespace; the VirtualService's own when none was written.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// One entry of `spec.http`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRoute {
    /// Place in the user's list.
    pub index: usize,
    /// `name`, if any.
    pub name: Option<String>,
    /// Alternatives; empty = every request.
    pub matches: Vec<HttpMatch>,
    /// What happens to a request that matches.
    pub action: Action,
    /// Path and authority as sent to the destination.
    pub rewrite: Option<Rewrite>,
    /// Limit for the whole exchange. `None` = default (none); zero = explicitly none.
    pub timeout: Option<Duration>,
    /// Retries; `None` = the mesh's default.
    pub retries: Option<Retries>,
    /// Header edits.
    pub headers: Headers,
    /// An expression that must hold as well, from the annotation `naka.dev/match.<name>`.
    pub when: Option<String>,
    /// Injected trouble.
    pub fault: Option<policies::Fault>,
    /// Copies of the requests.
    pub mirrors: Vec<policies::Mirror>,
    /// Cross-origin rules.
    pub cors: Option<policies::Cors>,
}

impl HttpRoute {
    /// Name for people and for the wire: `name`, else the index.
    #[must_use]
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.index.to_string())
    }

    /// Destinations of the route; empty for redirects and direct responses.
    #[must_use]
    pub fn destinations(&self) -> &[Weighted] {
        if let Action::Route(all) = &self.action {
            all
        } else {
            &[]
        }
    }
}

/// What a route does.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send to one of several destinations by weight; never empty.
    Route(Vec<Weighted>),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer with a fixed response.
    Direct(DirectResponse),
    /// What another VirtualService says.
    Delegate(DelegateRef),
}

/// A VirtualService without hosts, whose routes stand in for a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DelegateRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HttpMatch {
    /// `name`, if any.
    pub name: Option<String>,
    /// Path.
    pub uri: Option<StringMatch>,
    /// `exact` and `prefix` of the path ignore case.
    pub ignore_uri_case: bool,
    /// Scheme.
    pub scheme: Option<StringMatch>,
    /// Method.
    pub method: Option<StringMatch>,
    /// Host header or `:authority`.
    pub authority: Option<StringMatch>,
    /// Headers that must match, lower-case names; claims of the verified token too ([`claim_path`]).
    pub headers: Vec<(String, StringMatch)>,
    /// Headers that must not match, lower-case names; claims too.
    pub without_headers: Vec<(String, StringMatch)>,
    /// Query parameters that must match.
    pub query_params: Vec<(String, StringMatch)>,
    /// Port the request was sent to.
    pub port: Option<u16>,
    /// Overrides the VirtualService's `gateways` for this match; empty = not set.
    pub gateways: Vec<GatewayRef>,
    /// Labels the caller's workload must have.
    pub source_labels: Labels,
    /// Namespace the caller's workload must be in.
    pub source_namespace: Option<String>,
    /// Name its requests are counted under.
    pub stat_prefix: Option<String>,
}

impl HttpMatch {
    /// Whether nothing is asked of the request itself.
    #[must_use]
    pub fn is_catch_all(&self) -> bool {
        let all_paths = match &self.uri {
            None => true,
            Some(StringMatch::Prefix(prefix)) => prefix == "/",
            Some(StringMatch::Regex(regex)) => regex == ".*" || regex == "/.*",
            Some(_) => false,
        };
        all_paths
            && self.scheme.is_none()
            && self.method.is_none()
            && self.authority.is_none()
            && self.headers.is_empty()
            && self.without_headers.is_empty()
            && self.query_params.is_empty()
            && self.port.is_none()
            && self.source_labels.is_empty()
            && self.source_namespace.is_none()
    }
}

/// How a text is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StringMatch {
    /// The whole value.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// A regular expression that must match the whole value.
    Regex(String),
    /// Any value (headers and query parameters only: `{}`).
    Present,
}

/// A destination with its share and header edits.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighted {
    /// Where to.
    pub destination: Destination,
    /// Share; a single destination without weight has 100. Zero is never picked.
    pub weight: u32,
    /// Header edits for this destination only.
    pub headers: Headers,
}

/// A destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// Full host.
    pub host: Host,
    /// Subset of the host's DestinationRule.
    pub subset: Option<String>,
    /// Service port; `None` = the port of the request, or the service's only port.
    pub port: Option<u16>,
}

/// Header edits of one direction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderOps {
    /// Set, replacing.
    pub set: BTreeMap<String, String>,
    /// Append.
    pub add: BTreeMap<String, String>,
    /// Remove.
    pub remove: Vec<String>,
}

impl HeaderOps {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// Header edits of both directions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    /// Before the request is sent.
    pub request: HeaderOps,
    /// Before the response is returned.
    pub response: HeaderOps,
}

/// Port of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectPort {
    /// Given.
    Number(u16),
    /// 80 or 443 by scheme.
    ProtocolDefault,
    /// The port of the request.
    Request,
}

/// A redirect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// New path, whole.
    pub uri: Option<String>,
    /// New path prefix in place of the matched one.
    pub prefix: Option<String>,
    /// New authority.
    pub authority: Option<String>,
    /// New port.
    pub port: Option<RedirectPort>,
    /// New scheme.
    pub scheme: Option<String>,
    /// 301, 302, 303, 307 or 308.
    pub code: u16,
}

/// A fixed response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectResponse {
    /// Status, 200 to 599.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

/// Path and authority as sent on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// Replaces the matched prefix, or the whole path after an exact or regex match.
    pub uri: Option<String>,
    /// Replaces what the expression finds in the path: (expression, replacement with `\1`).
    pub uri_regex: Option<(String, String)>,
    /// Replaces Host / `:authority`.
    pub authority: Option<String>,
}

/// Retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// Tries after the first; 0 = none.
    pub attempts: u32,
    /// Limit of one try.
    pub per_try_timeout: Option<Duration>,
    /// Conditions as written (`5xx`, `connect-failure`, `503`, …); empty = the mesh's default.
    pub on: Vec<String>,
    /// Shortest wait before a retry.
    pub backoff: Option<Duration>,
    /// Whether a retry goes to another priority of endpoints once two tries have failed.
    pub remote_localities: bool,
    /// Whether a retry avoids endpoints that were tried.
    pub ignore_previous_hosts: bool,
}
