//! The canonical request: the only thing that route, policy and the endpoint see.
//!
//! Why: two readers of one request that disagree about its path or host is how policies are walked around. So the
//! request is put into one form first (path normalised as RFC 3986 says, host in lower case, one authority, framing
//! unambiguous), everything is decided on that form, and its very bytes go upstream. What has two meanings is refused
//! with `bad-request`. A request that is already canonical, as nearly all are, is not copied.
//!
//! Invariants: canonicalising twice changes nothing; the target is in origin form (or `*` for OPTIONS) and the
//! authority is apart until [`Canonical::take_head`] puts it where the HTTP version wants it.
//!
//! Not here: CONNECT, which the proxy answers itself; limits while reading a head, which hyper enforces.

mod authority;
mod framing;
mod path;

pub use authority::Authority;
pub use framing::{Hop, strip_hop_by_hop};
pub use path::normalise as normalise_path;

use crate::grpc_web::{self, Form};
use crate::limits;
use crate::model::Claims;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header, request};
use naka_types::header as names;
use naka_types::reason::Reason;
use naka_types::workload::Ulid;
use smallvec::SmallVec;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Which way a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the workload's own program to the mesh.
    Outbound,
    /// To the workload's own program, on this declared port.
    Inbound {
        /// The program's port.
        port: u16,
    },
    /// From outside into the mesh.
    Gateway,
}

/// Who is at the other end of the connection, as far as it was verified.
#[derive(Debug, Clone, Default)]
pub enum Caller {
    /// The workload's own program.
    OwnProgram,
    /// A mesh proxy whose certificate was verified.
    MeshPeer {
        /// Text for `x-forwarded-client-cert`, made once per connection by [`crate::exchange::xfcc`].
        xfcc: Option<HeaderValue>,
    },
    /// Anybody else.
    #[default]
    Outside,
}

/// What is known of a connection before its first request; one per connection.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Which way.
    pub direction: Direction,
    /// Who.
    pub caller: Caller,
    /// Whether the caller's hop is encrypted.
    pub tls: bool,
    /// Port of an authority without one; at a gateway the listener's port, whatever the authority says.
    pub default_port: u16,
    /// Where the connection was meant for, when that is known apart from the request (CONNECT, an explicit bind):
    /// it decides the virtual host instead of the authority.
    pub destination: Option<(Arc<str>, u16)>,
    /// Whether the authority must be the destination's host.
    pub agreeing: bool,
    /// Where the connection was made to, where the program chose that and not its proxy for a name.
    pub made_to: Option<SocketAddr>,
    /// At a gateway, the filter chain that took the connection; its port is `default_port`.
    pub chain: Option<Arc<str>>,
    /// Whether gRPC-Web is taken and made gRPC.
    pub grpc_web: bool,
    /// Name of the gateway's server, where its requests are counted under it.
    pub server: Option<Arc<str>>,
    /// The caller's address.
    pub address: Option<IpAddr>,
    /// The verified caller of the own program; who this proxy itself is stands in [`crate::exchange::Cx::around`].
    pub source: Option<Source>,
}

/// Who calls, as far as the mesh knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// SPIFFE id, empty when it is not known.
    pub identity: Arc<str>,
    /// Name of the workload, empty when it is not known.
    pub workload: Arc<str>,
    /// Id of the workload, by which its record is found.
    pub id: Option<Ulid>,
}

impl Origin {
    /// Whether what a request says of its host is the host called: its name, or the very address of the connection.
    #[must_use]
    pub fn agrees(&self, host: &str, said: &str) -> bool {
        let address = || {
            said.parse()
                .ok()
                .or_else(|| said.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
        };
        host.eq_ignore_ascii_case(said) || self.made_to.is_some_and(|to| address() == Some(to.ip()))
    }

    /// The own program, calling through the forward proxy.
    #[must_use]
    pub fn outbound(default_port: u16) -> Self {
        Self {
            direction: Direction::Outbound,
            caller: Caller::OwnProgram,
            tls: false,
            default_port,
            destination: None,
            agreeing: false,
            made_to: None,
            chain: None,
            grpc_web: false,
            server: None,
            address: None,
            source: None,
        }
    }

    /// A caller of a declared port of the own program.
    #[must_use]
    pub fn inbound(port: u16, caller: Caller, tls: bool) -> Self {
        Self {
            direction: Direction::Inbound { port },
            caller,
            tls,
            default_port: port,
            destination: None,
            agreeing: false,
            made_to: None,
            chain: None,
            grpc_web: false,
            server: None,
            address: None,
            source: None,
        }
    }

    /// A caller of a gateway's listener.
    #[must_use]
    pub fn gateway(port: u16, tls: bool, address: Option<IpAddr>) -> Self {
        Self {
            direction: Direction::Gateway,
            caller: Caller::Outside,
            tls,
            default_port: port,
            destination: None,
            agreeing: false,
            made_to: None,
            chain: None,
            grpc_web: false,
            server: None,
            address,
            source: None,
        }
    }
}

/// Why a request is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// For the reply.
    pub reason: Reason,
    /// What was wrong, for the log.
    pub detail: &'static str,
    /// Whether the caller speaks gRPC.
    pub grpc: bool,
}

/// A request in canonical form.
#[derive(Debug, Clone)]
pub struct Canonical {
    pub(crate) parts: request::Parts,
    pub(crate) authority: Authority,
    /// The caller's `Host` where it is the authority's very text: sent on without a copy.
    host_header: Option<HeaderValue>,
    pub(crate) port: u16,
    pub(crate) grpc: bool,
    /// The caller's form of gRPC, where it is translated.
    web: Option<Form>,
    pub(crate) internal: bool,
    /// What its token proves, once it was verified.
    pub(crate) claims: Option<Arc<Claims>>,
}

type Check<T> = Result<T, (Reason, &'static str)>;

const fn bad(detail: &'static str) -> (Reason, &'static str) {
    (Reason::BadRequest, detail)
}

impl Canonical {
    /// Puts a request head into canonical form.
    ///
    /// # Errors
    /// [`Refused`] when it is over a limit, malformed or ambiguous.
    pub fn from_parts(mut parts: request::Parts, origin: &Origin) -> Result<Self, Refused> {
        match canonicalise(&mut parts, origin) {
            Ok((authority, internal)) => Ok(Self::of(parts, authority, internal, origin)),
            Err((reason, detail)) => Err(Refused {
                reason,
                detail,
                grpc: is_grpc(&parts.headers),
            }),
        }
    }

    fn of(
        mut parts: request::Parts,
        authority: Authority,
        internal: bool,
        origin: &Origin,
    ) -> Self {
        let mut request = Self {
            grpc: is_grpc(&parts.headers),
            web: None,
            port: authority.port().unwrap_or(origin.default_port),
            host_header: parts
                .headers
                .remove(header::HOST)
                .filter(|host| host.as_bytes() == authority.as_str().as_bytes()),
            parts,
            authority,
            internal,
            claims: None,
        };
        if origin.grpc_web {
            request.take_grpc_web();
        }
        request
    }

    /// Takes the request for gRPC, if it is gRPC-Web. Policies and routes see what the caller sent; it becomes gRPC on
    /// its way out.
    pub fn take_grpc_web(&mut self) {
        self.web = grpc_web::asked(&self.parts.headers);
        self.grpc |= self.web.is_some();
    }

    /// Method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.parts.method
    }

    /// Path without query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.parts.uri.path()
    }

    /// Query without `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.parts.uri.query()
    }

    /// Path and query.
    #[must_use]
    pub fn target(&self) -> &str {
        self.parts
            .uri
            .path_and_query()
            .map_or("/", PathAndQuery::as_str)
    }

    /// Host in lower case, without port.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority.host()
    }

    /// Host and, if the caller gave one, port.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// Port the caller means.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Headers without `Host`.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// Headers without `Host`, for the proxy's own changes (hop-by-hop ones).
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.parts.headers
    }

    /// Version the caller speaks.
    #[must_use]
    pub fn version(&self) -> Version {
        self.parts.version
    }

    /// Whether the caller speaks gRPC.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// The caller's form of gRPC, where its body and its answer are to be translated.
    #[must_use]
    pub fn grpc_web(&self) -> Option<Form> {
        self.web
    }

    /// Extensions that came with the head.
    pub fn extensions_mut(&mut self) -> &mut http::Extensions {
        &mut self.parts.extensions
    }

    /// The head to send upstream, leaving no headers behind; use it when no later try needs them.
    #[must_use]
    pub fn take_head(&mut self, version: Version) -> http::Request<()> {
        let headers = std::mem::take(&mut self.parts.headers);
        self.head_with(version, headers)
    }

    /// A copy of the head to send upstream, for a request that may be tried again.
    #[must_use]
    pub fn head(&self, version: Version) -> http::Request<()> {
        self.head_with(version, self.parts.headers.clone())
    }

    /// Gives back the headers of a head that was not sent, so that another try can send it.
    pub fn give_back(&mut self, mut headers: HeaderMap) {
        headers.remove(header::HOST);
        self.parts.headers = headers;
    }

    fn head_with(&self, version: Version, mut headers: HeaderMap) -> http::Request<()> {
        let mut request = http::Request::new(());
        *request.method_mut() = self.parts.method.clone();
        *request.version_mut() = version;
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = self.parts.uri.path_and_query().cloned();
        if version == Version::HTTP_2 {
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = self.authority.as_str().parse().ok();
        } else {
            let host = self.host_header.clone();
            let host = host.or_else(|| HeaderValue::from_str(self.authority.as_str()).ok());
            if let Some(host) = host {
                headers.insert(header::HOST, host);
            }
        }
        if let Some(form) = self.web {
            form.request(&mut headers);
        }
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.headers_mut() = headers;
        request
    }

    /// Sets another authority (a route's host rewrite).
    pub(crate) fn set_authority(&mut self, value: &HeaderValue) -> Result<(), Reason> {
        self.authority = Authority::parse(value.as_bytes()).map_err(|_| Reason::Internal)?;
        self.host_header = None;
        Ok(())
    }

    /// Sets another path, canonical again; an impossible one changes nothing and is reported.
    pub(crate) fn set_path(&mut self, path: &[u8]) -> Result<(), Reason> {
        let mut target = SmallVec::<[u8; 256]>::from_slice(path);
        if target.first() != Some(&b'/') {
            target.insert(0, b'/');
        }
        let mut target = match path::normalise(&target).map_err(|_| Reason::BadRequest)? {
            None => target,
            Some(normal) => SmallVec::from_vec(normal),
        };
        if let Some(query) = self.parts.uri.query() {
            target.push(b'?');
            target.extend_from_slice(query.as_bytes());
        }
        let target = PathAndQuery::try_from(&target[..]).map_err(|_| Reason::BadRequest)?;
        self.parts.uri = Uri::from(target);
        Ok(())
    }

    /// Sets another query; an empty one is none.
    pub(crate) fn set_query(&mut self, query: &str) -> Result<(), Reason> {
        let target = match query {
            "" => self.path().to_owned(),
            query => format!("{}?{query}", self.path()),
        };
        let target = PathAndQuery::try_from(target).map_err(|_| Reason::BadRequest)?;
        self.parts.uri = Uri::from(target);
        Ok(())
    }
}

/// All checks and changes but taking `Host` out; says also whether there are headers of the mesh's own.
fn canonicalise(parts: &mut request::Parts, origin: &Origin) -> Check<(Authority, bool)> {
    let internal = check_headers(&parts.headers)?;
    check_target(&parts.uri)?;
    framing::check(parts)?;
    let authority = authority_of(parts, origin)?;
    canonical_target(parts)?;
    Ok((authority, internal))
}

/// Whether a content type is gRPC's.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// Checks the size of all headers; says whether any of the mesh's own is among them.
fn check_headers(headers: &HeaderMap) -> Check<bool> {
    let mut internal = false;
    let mut bytes = 0;
    for (name, value) in headers {
        bytes += name.as_str().len() + value.len();
        internal |= names::is_internal(name.as_str());
    }
    if bytes > limits::HEADER_BYTES || headers.len() > limits::HEADER_FIELDS {
        return Err((Reason::HeadersTooLarge, "headers over the limit"));
    }
    Ok(internal)
}

fn check_target(uri: &Uri) -> Check<()> {
    let target = uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    let authority = uri.authority().map_or(0, |a| a.as_str().len());
    if target + authority > limits::TARGET_BYTES {
        return Err((Reason::UriTooLong, "target over the limit"));
    }
    Ok(())
}

/// One authority from the target and `Host`, which must agree.
fn authority_of(parts: &request::Parts, origin: &Origin) -> Check<Authority> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad("more than one Host"));
    }
    let host = host
        .filter(|value| !value.is_empty())
        .map(|value| Authority::parse(value.as_bytes()))
        .transpose()?;
    let http1 = parts.version <= Version::HTTP_11;
    if http1 && parts.uri.scheme().is_some_and(|s| *s != Scheme::HTTP) {
        return Err(bad("absolute target that is not http"));
    }
    let target = parts
        .uri
        .authority()
        .map(|authority| Authority::parse(authority.as_str().as_bytes()))
        .transpose()?;
    let port = |authority: &Authority| authority.port().unwrap_or(origin.default_port);
    match (target, host) {
        (Some(target), Some(host)) => {
            if target.host() == host.host() && port(&target) == port(&host) {
                Ok(target)
            } else {
                Err(bad("target and Host differ"))
            }
        }
        (Some(authority), None) => Ok(authority),
        (None, Some(authority)) => Ok(authority),
        (None, None) => match &origin.destination {
            Some((host, _)) if parts.version < Version::HTTP_11 => {
                Authority::parse(host.as_bytes())
            }
            _ => Err(bad("no Host")),
        },
    }
}

/// Brings the target into origin form with a normal path.
fn canonical_target(parts: &mut request::Parts) -> Check<()> {
    if parts.method == Method::CONNECT {
        return Err(bad("CONNECT inside a connection"));
    }
    let Some(target) = parts.uri.path_and_query() else {
        return Err(bad("no path"));
    };
    let path = match target.path() {
        "*" if parts.method == Method::OPTIONS => return Ok(()),
        "" => "/",
        path => path,
    };
    if !path.starts_with('/') {
        return Err(bad("path without slash"));
    }
    let mut normal = match path::normalise(path.as_bytes()).map_err(bad)? {
        Some(normal) => normal,
        // `http://host?query` has no slash to begin with.
        None if !target.as_str().starts_with('/') => path.as_bytes().to_vec(),
        None => {
            if parts.uri.authority().is_some() {
                parts.uri = Uri::from(target.clone());
            }
            return Ok(());
        }
    };
    if let Some(query) = target.query() {
        normal.push(b'?');
        normal.extend_from_slice(query.as_bytes());
    }
    let target = PathAndQuery::try_from(normal).map_err(|_| bad("impossible path"))?;
    parts.uri = Uri::from(target);
    Ok(())
}

/// The mesh's own header names as typed constants.
pub(crate) const fn own(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

#[cfg(test)]
mod tests;
