//! Requests that are answered without a look at their bodies, which over HTTP/2 still have to arrive.
//!
//! An answer that is complete before its request ends the stream, and what the client sends on it after that is
//! neither looked at nor reported: a body longer than its `content-length`, a window that overflows. So a refusal waits
//! for the rest of its request, keeps none of it, and waits only for so much and so long; then it answers early.
//!
//! Not here: HTTP/1, where hyper ends the connection itself and where reading would send `100 Continue` to a client that
//! is about to be refused.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode, Version, header};
use http_body_util::{BodyExt, Limited};
use std::time::Duration;

/// Most that is awaited of a body that nobody reads.
const MOST: usize = 64 << 10;
/// Longest wait for it: bodies of refused requests are mostly under way already.
const WAIT: Duration = Duration::from_secs(2);

/// Waits for the rest of a request that has its answer, and forgets it.
pub(crate) async fn pass_over(version: Version, body: Body) {
    if version != Version::HTTP_2 {
        return;
    }
    let mut rest = Limited::new(body, MOST);
    let all = async { while let Some(Ok(_)) = rest.frame().await {} };
    // Too slow, too long or broken off: the answer is the same.
    let _ = tokio::time::timeout(WAIT, all).await;
}

/// The answer of the xDS port to what names none of its services.
pub(crate) async fn no_service(request: Request<Body>) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let path = request.uri().path().to_owned();
    pass_over(request.version(), request.into_body()).await;
    if grpc {
        let text = format!("the control plane has no gRPC method {path}");
        return tonic::Status::unimplemented(text).into_http();
    }
    // As the protocol has it for requests that are no gRPC.
    let text = "this port of the control plane speaks gRPC: aggregated xDS, certificates and workloads. A request to \
                it needs content-type: application/grpc. The API for people and kubectl is at the API port, which \
                \"naka status\" and ports.json in the mesh's directory name\n";
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;
    use tokio_stream::StreamExt;

    /// A body of so many pieces of 1 KiB, then an end or none, and how many pieces were taken.
    fn body(pieces: usize, ends: bool) -> (Body, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&taken);
        let pieces = tokio_stream::iter(0..pieces).map(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(&[0; 1024])))
        });
        if ends {
            return (Body::new(StreamBody::new(pieces)), taken);
        }
        let open = pieces.chain(tokio_stream::pending());
        (Body::new(StreamBody::new(open)), taken)
    }

    #[tokio::test]
    async fn a_rest_is_awaited_within_limits() {
        for (version, pieces, ends, taken, waits) in [
            (Version::HTTP_2, 3, true, 3, false),
            // One more than fits is looked at.
            (Version::HTTP_2, 10_000, true, 65, false),
            (Version::HTTP_2, 3, false, 3, true),
            (Version::HTTP_11, 3, true, 0, false),
            (Version::HTTP_11, 3, false, 0, false),
        ] {
            let (body, count) = body(pieces, ends);
            let start = Instant::now();
            pass_over(version, body).await;
            let seen = (count.load(Ordering::SeqCst), start.elapsed() >= WAIT);
            assert_eq!(seen, (taken, waits), "{version:?} {pieces} {ends}");
        }
    }

    #[tokio::test]
    async fn what_is_no_grpc_is_told_so() {
        let request = |kind: &str| {
            let request = Request::post("/a.B/C").header(header::CONTENT_TYPE, kind);
            request.body(Body::empty()).expect("a request")
        };
        let answer = no_service(request("application/json")).await;
        assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        let answer = no_service(request("application/grpc+proto")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["grpc-status"], "12");
        let message = answer.headers()["grpc-message"].to_str().expect("text");
        assert!(message.contains("/a.B/C"), "{message}");
    }
}
