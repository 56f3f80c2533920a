//! Answers that a route gives itself: redirects and direct responses.

use super::rewrite;
use crate::canonical::{Canonical, Origin};
use crate::model::{Direct, Match, Redirect};
use crate::reply::LocalReply;
use bytes::Bytes;
use http::{HeaderValue, header};
use naka_types::reason::Reason;

/// A route's own answer.
pub(super) fn direct(direct: &Direct) -> LocalReply {
    let mut reply = LocalReply::new(Reason::DirectResponse, false);
    reply.status = direct.status;
    reply.body = direct.body.clone();
    if reply.body.is_empty() {
        reply.headers.remove(header::CONTENT_TYPE);
    }
    reply
}

/// A redirect; a path that cannot be sent is refused.
pub(super) fn reply(
    redirect: &Redirect,
    matched: &Match,
    request: &Canonical,
    origin: &Origin,
) -> Result<LocalReply, Reason> {
    let was = if origin.tls { "https" } else { "http" };
    let scheme = redirect.scheme.as_deref().unwrap_or(was);
    let host = redirect.host.as_deref().unwrap_or(request.host());
    // The caller's port only makes sense for the caller's host and scheme. One that was written stays, as in Envoy.
    let same_place = redirect.host.is_none() && scheme == was;
    let default = if scheme == "https" { 443 } else { 80 };
    let kept = request.authority.port();
    let kept = kept.filter(|port| same_place && *port != default);
    let port = redirect.port.or(kept);
    let mut location = format!("{scheme}://{host}").into_bytes();
    if let Some(port) = port {
        location.extend_from_slice(format!(":{port}").as_bytes());
    }
    let mut own_query = false;
    match &redirect.path {
        None => location.extend_from_slice(request.path().as_bytes()),
        Some(path) => {
            let path = rewrite::new_path(path, matched, request.path());
            if !path.starts_with(b"/") {
                location.push(b'/');
            }
            // A query in the new path takes the place of the request's.
            own_query = path.contains(&b'?');
            location.extend_from_slice(&path);
        }
    }
    if let (false, Some(query)) = (redirect.strip_query || own_query, request.query()) {
        location.push(b'?');
        location.extend_from_slice(query.as_bytes());
    }
    let location = HeaderValue::from_bytes(&location).map_err(|_| Reason::BadRequest)?;
    let mut reply = LocalReply::new(Reason::Redirect, false);
    reply.status = redirect.status;
    reply.body = Bytes::new();
    reply.headers.remove(header::CONTENT_TYPE);
    reply.headers.insert(header::LOCATION, location);
    Ok(reply)
}
