//! Answers of the proxy itself, as responses.

use super::body::RespBody;
use http::Response;
use naka_engine::reply::LocalReply;
use naka_types::reason::Reason;

/// A local reply as a response.
pub(crate) fn response(reply: LocalReply) -> Response<RespBody> {
    let body = if reply.body.is_empty() {
        RespBody::Empty
    } else {
        RespBody::Full(reply.body)
    };
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}

/// The reply of a reason; the caller's connection is not to be used again.
pub(crate) fn last(reason: Reason, grpc: bool, http1: bool) -> Response<RespBody> {
    let mut response = response(LocalReply::new(reason, grpc));
    if http1 {
        let close = http::HeaderValue::from_static("close");
        response
            .headers_mut()
            .insert(http::header::CONNECTION, close);
    }
    response
}

/// The same for a HEAD request: without its body, which HTTP/2 would carry all the same.
pub(crate) fn to(head: bool, mut response: Response<RespBody>) -> Response<RespBody> {
    if head {
        *response.body_mut() = RespBody::Empty;
    }
    response
}
