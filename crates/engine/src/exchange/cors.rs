//! Cross-origin rules, as Envoy's filter carries them out.
//!
//! A request without `Origin` is none of its business. A preflight (OPTIONS with `Access-Control-Request-Method`) of an
//! allowed origin is answered here; one of another origin goes on to the destination unless the rule says otherwise.
//! Whatever answers any other request of an allowed origin, the proxy itself included, carries what lets the page read
//! it. Nothing is refused: it is the browser that keeps an answer without these headers from the page.

use super::Exchange;
use crate::canonical::Canonical;
use crate::model::{Action, Cors};
use crate::reply::LocalReply;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use naka_types::reason::Reason;

impl Exchange {
    /// Looks at the request's origin; `Some`: the answer to a preflight.
    pub(super) fn cross_origin(&mut self, cors: &Cors, request: &Canonical) -> Option<LocalReply> {
        let asked = request.headers();
        let origin = asked
            .get(header::ORIGIN)
            .filter(|origin| !origin.is_empty())?;
        let allowed = cors.allows(origin.as_bytes());
        let method = asked.get(header::ACCESS_CONTROL_REQUEST_METHOD);
        let method = method.filter(|method| !method.is_empty());
        match method.filter(|_| request.method() == Method::OPTIONS) {
            Some(method) if allowed || !cors.forward_unmatched => {
                Some(preflight(cors, allowed.then_some(origin), method, asked))
            }
            _ => {
                self.origin = allowed.then(|| Box::new(origin.clone()));
                None
            }
        }
    }

    /// Lets the page of the request's origin read an answer.
    pub(super) fn let_page_read(&self, headers: &mut HeaderMap) {
        let Some(origin) = &self.origin else { return };
        let Some(cors) = self
            .route
            .as_deref()
            .and_then(|route| route.extras.cors.as_deref())
        else {
            return;
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, (**origin).clone());
        if cors.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if let Some(expose) = &cors.expose {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

const TRUE: HeaderValue = HeaderValue::from_static("true");

fn preflight(
    cors: &Cors,
    origin: Option<&HeaderValue>,
    method: &HeaderValue,
    asked: &HeaderMap,
) -> LocalReply {
    let mut reply = LocalReply::new(Reason::CorsPreflight, false);
    reply.status = StatusCode::OK;
    reply.body = Bytes::new();
    reply.headers.remove(header::CONTENT_TYPE);
    let mut put = |name, value: Option<HeaderValue>| {
        if let Some(value) = value {
            reply.headers.insert(name, value);
        }
    };
    // `*` is no value that every browser takes, so what was asked for is repeated.
    let or_asked = |value: &Option<HeaderValue>, wish: Option<&HeaderValue>| {
        value.as_ref().map(|value| match value.as_bytes() {
            b"*" => wish.cloned().unwrap_or(HeaderValue::from_static("")),
            _ => value.clone(),
        })
    };
    put(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.cloned());
    put(
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        cors.credentials.then_some(TRUE),
    );
    put(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        or_asked(&cors.methods, Some(method)),
    );
    put(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        or_asked(
            &cors.headers,
            asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS),
        ),
    );
    put(header::ACCESS_CONTROL_MAX_AGE, cors.max_age.clone());
    reply
}

/// The rules of a route that forwards; others answer by themselves, and Envoy leaves those alone.
pub(super) fn of(route: &crate::model::Route) -> Option<&Cors> {
    match route.action {
        Action::Forward(_) => route.extras.cors.as_deref(),
        Action::Redirect(_) | Action::Direct(_) => None,
    }
}
