//! Answers of the proxy itself.
//!
//! Every one carries its reason in `x-naka-reason` (a gateway removes it towards outside). gRPC callers get HTTP 200
//! with a gRPC status, because their libraries do not look at HTTP statuses of a peer that speaks gRPC. Texts come
//! from the closed table of reasons: nothing of the configuration or of another party's bytes leaks into a reply, but
//! for what a trust model says of a call, which its callers are to read.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use naka_types::header as names;
use naka_types::reason::Reason;

/// An answer to send; when [`LocalReply::closes`] says so there is none and the connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalReply {
    /// Why.
    pub reason: Reason,
    /// Status line.
    pub status: StatusCode,
    /// All headers but framing.
    pub headers: HeaderMap,
    /// Body, empty for gRPC.
    pub body: Bytes,
}

const REASON: HeaderName = HeaderName::from_static(names::REASON);

impl LocalReply {
    /// The reply of a reason; `grpc` when the caller speaks gRPC.
    #[must_use]
    pub fn new(reason: Reason, grpc: bool) -> Self {
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(REASON, HeaderValue::from_static(reason.code()));
        let status =
            StatusCode::from_u16(reason.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if grpc {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            headers.insert(
                "grpc-status",
                HeaderValue::from(u16::from(reason.grpc_status())),
            );
            headers.insert("grpc-message", HeaderValue::from_static(reason.code()));
            return Self {
                reason,
                status: StatusCode::OK,
                headers,
                body: Bytes::new(),
            };
        }
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if reason == Reason::ProxyAuthRequired {
            headers.insert(
                header::PROXY_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"naka\""),
            );
        }
        Self {
            reason,
            status,
            headers,
            body: Bytes::from(format!("naka: {}: {}\n", reason.code(), reason.meaning())),
        }
    }

    /// With the question for a token, where there was none, or a better one, where one was refused (RFC 6750). The realm
    /// is the host alone: the target may hold the token.
    #[must_use]
    pub(crate) fn challenging(mut self, host: &str) -> Self {
        let error = match self.reason {
            Reason::TokenInvalid => ", error=\"invalid_token\"",
            Reason::TokenMissing => "",
            _ => return self,
        };
        if let Ok(value) = HeaderValue::try_from(format!("Bearer realm=\"{host}\"{error}")) {
            self.headers.insert(header::WWW_AUTHENTICATE, value);
        }
        self
    }

    /// With a text of its own instead of what the reason means.
    #[must_use]
    pub(crate) fn saying(mut self, text: &str) -> Self {
        let code = self.reason.code();
        if self.body.is_empty() {
            if let Ok(value) = HeaderValue::try_from(format!("{code}: {text}")) {
                self.headers.insert("grpc-message", value);
            }
        } else {
            self.body = Bytes::from(format!("naka: {code}: {text}\n"));
        }
        self
    }

    /// With another status; gRPC has one of its own for each, as Envoy maps them.
    pub(crate) fn told_as(&mut self, status: StatusCode, grpc: bool) {
        if grpc {
            let status = grpc_status(status);
            self.headers
                .insert("grpc-status", HeaderValue::from(status));
        } else {
            self.status = status;
        }
    }

    /// Whether there is no answer and the connection is closed instead.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.reason.http_status() == 0
            && !matches!(
                self.reason,
                Reason::DirectResponse
                    | Reason::Redirect
                    | Reason::FaultAbort
                    | Reason::CorsPreflight
            )
    }

    /// For a caller outside the mesh: without the mesh's own headers.
    #[must_use]
    pub fn for_outside(mut self) -> Self {
        self.headers.remove(REASON);
        self
    }
}

impl LocalReply {
    /// For a stranger at a gateway: without the mesh's own headers, and with the one shape of body that all answers
    /// of a gateway itself have. gRPC says it in its own way; what a route answers is the route's.
    #[must_use]
    pub fn at_gateway(self, request_id: Option<&HeaderValue>) -> Self {
        let mut reply = self.for_outside();
        let own = matches!(
            reply.reason,
            Reason::DirectResponse | Reason::Redirect | Reason::ExternalDenied
        );
        if own || reply.body.is_empty() {
            return reply;
        }
        let id = request_id
            .and_then(|id| id.to_str().ok())
            .unwrap_or_default();
        // What a caller wrote is not to end the text.
        let plain = |c: &char| c.is_ascii_alphanumeric() || "-_.:/+=".contains(*c);
        let id: String = id.chars().filter(plain).collect();
        let (status, code) = (reply.status.as_u16(), reply.reason.code());
        let text =
            format!("{{\"status\":{status},\"reason\":\"{code}\",\"request_id\":\"{id}\"}}\n");
        reply.body = Bytes::from(text);
        let json = HeaderValue::from_static("application/json");
        reply.headers.insert(header::CONTENT_TYPE, json);
        reply
    }
}

/// Envoy's gRPC status for an HTTP one.
fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::LocalReply;
    use naka_types::reason::Reason;

    #[test]
    fn a_gateways_own_answers_have_one_shape() {
        let id = http::HeaderValue::from_static("a\"},{b-1");
        let reply = LocalReply::new(Reason::NoRoute, false).at_gateway(Some(&id));
        let wanted = "{\"status\":404,\"reason\":\"no-route\",\"request_id\":\"ab-1\"}\n";
        assert_eq!(reply.body, wanted);
        assert_eq!(reply.headers["content-type"], "application/json");
        assert!(!reply.headers.contains_key("x-naka-reason"));
        let grpc = LocalReply::new(Reason::NoRoute, true).at_gateway(None);
        assert!(grpc.body.is_empty());
        let direct = LocalReply::new(Reason::DirectResponse, false);
        let body = direct.body.clone();
        assert_eq!(direct.at_gateway(None).body, body);
    }

    #[test]
    fn every_reason_has_a_reply_in_both_dialects() {
        for reason in Reason::ALL {
            let plain = LocalReply::new(*reason, false);
            assert_eq!(plain.headers["x-naka-reason"], reason.code());
            assert!(plain.closes() || reason.http_status() == 0 || plain.status.as_u16() >= 400);
            let grpc = LocalReply::new(*reason, true);
            assert_eq!(grpc.status, 200);
            assert_eq!(
                grpc.headers["grpc-status"],
                reason.grpc_status().to_string().as_str()
            );
            assert!(grpc.body.is_empty());
            assert!(!grpc.for_outside().headers.contains_key("x-naka-reason"));
        }
    }
}
